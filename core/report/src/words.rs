//! What a run came to, in a sentence. It says no more than the interval does.

use dtta::{Mode, Status, Summary};

use crate::numbers::{Verdict, counted, seconds};
use crate::run::Run;

impl Run {
    /// One sentence, or two, for the first screen.
    pub fn in_a_sentence(&self) -> String {
        let done = counted(self.found.samples, "image");
        let Some(summary) = &self.summary else {
            let state = match self.description.status {
                Status::Running => "This run is still going on, or it was killed",
                Status::Interrupted => "This run was stopped before its end",
                Status::Failed => "This run ended with an error",
                Status::Finished => "This run is finished, but its summary is missing",
            };
            return format!(
                "{state}: what follows is over the first {done} of {}.",
                crate::numbers::count(self.expected())
            );
        };
        let name = &summary.metric;
        let scale = self.scale();
        let pair = summary
            .mean
            .source
            .get(name)
            .zip(summary.mean.adapted.get(name));
        let Some((&before, &after)) = pair else {
            return match summary.skipped {
                0 => format!(
                    "No image of this run could be scored: its {done} have no targets, so nothing is known of a gain."
                ),
                skipped => {
                    format!("No image of this run was scored: {skipped} of {done} were skipped.")
                }
            };
        };
        let change = after - before;
        let interval = summary.mean.intervals.get(name).copied();
        let verdict = scale.verdict(interval);
        let numbers = format!(
            "from {} to {} ({}{})",
            scale.value(before),
            scale.value(after),
            scale.change_with_unit(change),
            interval.map_or(String::new(), |interval| format!(
                ", 95 % interval {}",
                scale.interval(interval)
            )),
        );
        let (what, better) = (
            scale.name(),
            if scale.less_is_better() {
                ", where lower is better"
            } else {
                ""
            },
        );
        let over = format!(
            "{}, {} each",
            over(summary),
            seconds(summary.seconds_per_sample)
        );
        match verdict {
            Verdict::Better => format!("Adaptation improved {what} {numbers}{better}: {over}."),
            Verdict::Worse => format!("Adaptation made {what} worse, {numbers}{better}: {over}."),
            Verdict::Unclear => format!(
                "Adaptation neither clearly improved nor worsened {what}, {numbers}{better}: {over}. The interval contains 0."
            ),
            Verdict::Unknown => {
                let why = match interval {
                    None => " How sure that is, is not known.",
                    Some(_) => "",
                };
                format!("Adaptation changed {what} {numbers}{better}: {over}.{why}")
            }
        }
    }

    /// What else has to be said at once: skipped samples, shards, cut files, scores that disagree.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(shard) = self.description.shard {
            warnings.push(format!(
                "This is shard {shard} of a run, not the whole of it."
            ));
        }
        let skipped: usize = self
            .found
            .domains
            .values()
            .map(|domain| domain.skipped)
            .sum();
        if skipped > 0 {
            warnings.push(format!(
                "{} skipped, which no score counts; the reasons are below.",
                if skipped == 1 {
                    "1 image was".to_owned()
                } else {
                    format!("{skipped} images were")
                }
            ));
        }
        if self.found.is_cut {
            warnings.push("The last line of records.jsonl is cut off; it is left out.".into());
        }
        warnings.extend(self.disagreement());
        warnings
    }

    /// A domain whose accuracy by records is not what the summary says.
    fn disagreement(&self) -> Option<String> {
        let summary = self
            .summary
            .as_ref()
            .filter(|summary| summary.metric == "accuracy")?;
        if !self.found.is_classification {
            return None;
        }
        summary.domains.iter().find_map(|domain| {
            let told = [*domain.source.get("accuracy")?, *domain.adapted.get("accuracy")?];
            let found = self.found.domains.get(&domain.name)?.means()?;
            let agrees = told.iter().zip(found).all(|(told, found)| (told - found).abs() < 1e-9);
            let scale = self.scale();
            (!agrees).then(|| {
                format!(
                    "In {}, the predictions in records.jsonl are right in {} and {} of images, but summary.json says {} and {}: do not trust this report.",
                    domain.name,
                    scale.value(found[0]),
                    scale.value(found[1]),
                    scale.value(told[0]),
                    scale.value(told[1])
                )
            })
        })
    }
}

/// Over which images a summary's mean is.
fn over(summary: &Summary) -> String {
    let averaged = summary.domains.iter().filter(|domain| domain.averaged);
    let images = counted(averaged.clone().map(|domain| domain.samples).sum(), "image");
    let domains = averaged.clone().count();
    let shifted = if domains < summary.domains.len() {
        "shifted "
    } else {
        ""
    };
    match domains {
        1 => match averaged.clone().next() {
            Some(domain) => format!("{images} of {}", domain.name),
            None => images,
        },
        _ => format!("the mean of {domains} {shifted}domains, {images}"),
    }
}

/// A run's way of adapting, in words.
pub fn method(run: &Run) -> String {
    let experiment = &run.description.experiment;
    let (kind, words) = (&experiment.method.kind, &run.description.in_words);
    let mode = match experiment.adaptation.mode {
        Mode::SingleSample {} => "single-sample mode",
        Mode::Online { .. } => "online mode",
    };
    format!("{kind} ({words}), {mode}, {}", experiment.adaptation.mode)
}

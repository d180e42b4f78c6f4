//! A comparison as tables of words: what people read, in whatever format.

use std::collections::{BTreeMap, BTreeSet};

use dtta::{
    Change, ComparedMethod, Comparison, EqualTime, Interval, MethodSource, Protocol, Scores,
    SourceOf, TunedOn,
};
use dtta_models::BatchNormStatistics;
use dtta_plugin::ScoreSpec;
use dtta_tensor::Precision;

use crate::table::{shown, titled};

/// What stands in a cell of which nothing is known.
const NOTHING: &str = "-";

/// The row of the source model.
const SOURCE: &str = "source model";

/// A table: the first column are names, the others numbers.
pub struct Words {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// A comparison as it is shown.
pub struct Shown<'a>(pub &'a Comparison);

impl Shown<'_> {
    /// What the numbers are.
    pub fn title(&self) -> String {
        let Comparison { domains, seeds, .. } = self.0;
        let left_out = domains.iter().filter(|domain| !domain.averaged);
        let left_out: Vec<&str> = left_out.map(|domain| &*domain.name).collect();
        let without = match left_out.is_empty() {
            true => String::new(),
            false => format!(" (without {})", left_out.join(", ")),
        };
        let counts: Vec<usize> = domains.iter().map(|domain| domain.samples).collect();
        let samples = match counts.iter().min() == counts.iter().max() {
            true => counts.first().map_or("0".into(), usize::to_string),
            false => {
                let each = domains.iter();
                let each = each.map(|domain| format!("{} ({})", domain.samples, domain.name));
                each.collect::<Vec<_>>().join(", ")
            }
        };
        let averaged = domains.iter().filter(|domain| domain.averaged).count();
        let plural = if averaged == 1 { "" } else { "s" };
        format!(
            "Mean over {averaged} domain{plural}{without}, {samples} samples in each, {}. Changes with 95 % intervals: a paired bootstrap over samples.",
            listed("seed", seeds),
        )
    }

    /// One row for each method, in the leading score.
    pub fn methods(&self) -> Words {
        let Comparison {
            metric,
            scores,
            reference,
            methods,
            source,
            ..
        } = self.0;
        let reference = reference.as_ref();
        let skips = methods.iter().any(|method| method.mean.skipped > 0);
        let mut head = vec!["method".into(), titled(scores, metric), "vs source".into()];
        head.extend(reference.map(|name| format!("vs {name}")));
        head.extend(["s/image", "draws/image", "peak memory"].map(String::from));
        head.extend(skips.then(|| "skipped".to_owned()));
        let mut of_source = vec![SOURCE.into(), self.score(&source.mean, metric)];
        of_source.resize(head.len(), NOTHING.into());
        let mut rows = vec![of_source];
        for method in methods {
            let mean = &method.mean;
            let mut row = vec![self.name(method), self.score(&mean.adapted, metric)];
            row.push(self.change(&mean.against_source));
            if reference.is_some() {
                let against = mean.against_reference.as_ref();
                row.push(against.map_or(NOTHING.into(), |change| self.change(change)));
            }
            let memory = method.cost.peak_memory_bytes;
            row.extend([
                format!("{:.3}", method.cost.seconds_per_sample),
                format!("{:.0}", method.cost.draws_per_sample),
                memory.map_or(NOTHING.into(), |bytes| {
                    format!("{:.0} MiB", bytes as f64 / 1_048_576.0)
                }),
            ]);
            row.extend(skips.then(|| mean.skipped.to_string()));
            rows.push(row);
        }
        Words { head, rows }
    }

    /// The leading score of each method in each domain.
    pub fn domains(&self) -> Words {
        let Comparison {
            metric,
            scores,
            domains,
            methods,
            source,
            ..
        } = self.0;
        let mut head = vec![titled(scores, metric)];
        head.extend(domains.iter().map(|domain| domain.name.clone()));
        let row = |name: String, scores: &mut dyn Iterator<Item = &Scores>| {
            let mut row = vec![name];
            row.extend(scores.map(|scores| self.score(scores, metric)));
            row
        };
        let mut rows = vec![row(SOURCE.into(), &mut source.domains.iter())];
        rows.extend(methods.iter().map(|method| {
            let scores = method.domains.iter().map(|domain| &domain.adapted);
            row(self.name(method), &mut { scores })
        }));
        Words { head, rows }
    }

    /// Every score in the mean, where there are others than the leading one.
    pub fn scores(&self) -> Option<Words> {
        let Comparison {
            scores,
            methods,
            source,
            ..
        } = self.0;
        let names: Vec<&String> = source.mean.keys().collect();
        if names.len() < 2 {
            return None;
        }
        let mut head = vec!["method".to_owned()];
        head.extend(names.iter().map(|name| titled(scores, name)));
        let row = |name: String, scores: &Scores| {
            let mut row = vec![name];
            row.extend(names.iter().map(|name| self.score(scores, name)));
            row
        };
        let mut rows = vec![row(SOURCE.into(), &source.mean)];
        let of_methods = methods.iter();
        rows.extend(of_methods.map(|method| row(self.name(method), &method.mean.adapted)));
        Some(Words { head, rows })
    }

    /// What swept methods reach in the time of others.
    pub fn equal_time(&self) -> Option<Words> {
        let head = [
            "method",
            "in the time of",
            "s/image",
            "setting",
            "its s/image",
            "vs source",
            "vs the other",
        ];
        let rows = self.0.equal_time.iter().map(|found| {
            let EqualTime {
                method,
                within,
                seconds_per_sample,
                setting,
            } = found;
            let mut row = vec![
                method.clone(),
                within.clone(),
                format!("{seconds_per_sample:.3}"),
            ];
            match setting {
                None => {
                    row.extend(["none is that fast", NOTHING, NOTHING, NOTHING].map(String::from))
                }
                Some(setting) => row.extend([
                    setting.name.clone(),
                    format!("{:.3}", setting.seconds_per_sample),
                    self.change(&setting.against_source),
                    self.change(&setting.against_other),
                ]),
            }
            row
        });
        let rows: Vec<Vec<String>> = rows.collect();
        (!rows.is_empty()).then(|| Words {
            head: head.map(String::from).into(),
            rows,
        })
    }

    /// What finished runs differ in.
    pub fn differences(&self) -> Option<Words> {
        let Comparison {
            differences,
            methods,
            ..
        } = self.0;
        let mut head = vec!["differs at".to_owned()];
        head.extend(methods.iter().map(|method| method.name.clone()));
        let rows = differences.iter().map(|difference| {
            let mut row = vec![difference.pointer.clone()];
            row.extend(difference.values.iter().map(|value| match value {
                serde_json::Value::Null => NOTHING.to_owned(),
                value => value.to_string(),
            }));
            row
        });
        let rows: Vec<Vec<String>> = rows.collect();
        (!rows.is_empty()).then_some(Words { head, rows })
    }

    /// What the numbers depend on, line by line.
    pub fn protocol(&self) -> Vec<String> {
        let Comparison {
            methods,
            source,
            tuned_on,
            failed,
            ..
        } = self.0;
        let mut lines = Vec::new();
        lines.push(format!("{SOURCE}: as before {}", of_source(&source.model)));
        for method in methods {
            let name = &method.name;
            lines.push(format!("{name}: {}", of_method(method, tuned_on.as_ref())));
            if let Some(source) = &method.own_source {
                lines.push(format!(
                    "{name}: its task model is another, so `vs source` is against that model as before {}",
                    of_source(source)
                ));
            }
        }
        if let Some(tuned) = tuned_on {
            lines.push(format!(
                "settings were tried on {} ({} samples, {}), chosen by {}",
                tuned.domains.join(", "),
                tuned.samples,
                listed("seed", &tuned.seeds),
                tuned.metric,
            ));
        }
        lines.extend(digests(methods));
        for run in failed {
            let reason = run.reason.lines().next().unwrap_or_default();
            lines.push(format!(
                "failed: {}, seed {}: {reason}",
                run.method, run.seed
            ));
        }
        lines
    }

    fn name(&self, method: &ComparedMethod) -> String {
        let seeds: Vec<u64> = method.runs.iter().map(|run| run.seed).collect();
        match seeds.len() == self.0.seeds.len() {
            true => method.name.clone(),
            false => format!("{} ({} only)", method.name, listed("seed", &seeds)),
        }
    }

    fn spec(&self, name: &str) -> Option<&ScoreSpec> {
        ScoreSpec::of(&self.0.scores, name)
    }

    fn score(&self, scores: &Scores, name: &str) -> String {
        let (factor, digits) = shown(self.spec(name));
        let score = scores.get(name);
        score.map_or(NOTHING.into(), |score| {
            format!("{:.digits$}", factor * score)
        })
    }

    /// A change in the leading score with its interval.
    fn change(&self, change: &Change) -> String {
        let name = &self.0.metric;
        let (factor, digits) = shown(self.spec(name));
        let number = |value: f64| format!("{:+.digits$}", factor * value);
        match (change.by.get(name), change.intervals.get(name)) {
            (None, _) => NOTHING.into(),
            (Some(by), None) => number(*by),
            (Some(by), Some(Interval { low, high })) => {
                format!("{} [{}, {}]", number(*by), number(*low), number(*high))
            }
        }
    }
}

/// Where a source model's predictions are from.
fn of_source(source: &SourceOf) -> String {
    let plain = serde_json::json!(BatchNormStatistics::Running);
    match source.batch_norm == plain {
        true => format!("`{}`", source.of),
        false => format!(
            "`{}`, with BatchNorm statistics {}",
            source.of, source.batch_norm
        ),
    }
}

/// What a method's numbers depend on.
fn of_method(method: &ComparedMethod, tuned_on: Option<&TunedOn>) -> String {
    let Protocol {
        method: MethodSource { config, .. },
        adaptation,
        in_words,
        device,
        denoiser_precision,
        ..
    } = &method.protocol;
    let mut said = vec![
        adaptation.mode.to_string(),
        in_words.clone(),
        format!("batch {}", adaptation.batch),
    ];
    // Two settings of one method differ here alone.
    if !config.is_empty() {
        said.push(format!("with {}", serde_json::json!(config)));
    }
    match adaptation.batch_norm {
        BatchNormStatistics::Running => {}
        BatchNormStatistics::Batch => said.push("BatchNorm statistics of the batch".into()),
        BatchNormStatistics::Mixed(share) => {
            said.push(format!("BatchNorm statistics {share} of the batch's"));
        }
    }
    if let Some(safeguards) = &adaptation.safeguards {
        said.push(format!("safeguards {}", serde_json::json!(safeguards)));
    }
    if *denoiser_precision != Precision::F32 {
        said.push(format!("denoiser in {denoiser_precision}"));
    }
    let seeds: Vec<u64> = method.runs.iter().map(|run| run.seed).collect();
    said.push(listed("seed", &seeds));
    said.push(device.clone());
    match (tuned_on, method.settings_tried) {
        (None, _) => {}
        (Some(_), Some(tried)) => said.push(format!("best of {tried} settings")),
        (Some(_), None) => said.push("not tuned".into()),
    }
    said.join(", ")
}

/// The digests that all methods which have them share, then those of which a method has another.
fn digests(methods: &[ComparedMethod]) -> Vec<String> {
    let mut of_part: BTreeMap<&String, BTreeSet<&String>> = BTreeMap::new();
    for (part, digest) in methods.iter().flat_map(|method| &method.protocol.digests) {
        of_part.entry(part).or_default().insert(digest);
    }
    let shared = of_part.iter().filter(|(_, digests)| digests.len() == 1);
    let shared = shared.flat_map(|(part, digests)| digests.iter().map(move |one| (*part, *one)));
    let told = |digests: &mut dyn Iterator<Item = (&String, &String)>| {
        let told = digests.map(|(part, digest)| format!("{part} {}", short(digest)));
        told.collect::<Vec<_>>().join(", ")
    };
    let mut lines = vec![format!("digests: {}", told(&mut { shared }))];
    for method in methods {
        let own = method.protocol.digests.iter();
        let own = own.filter(|(part, _)| of_part[part].len() > 1);
        let own = told(&mut { own });
        if !own.is_empty() {
            lines.push(format!("digests of {} alone: {own}", method.name));
        }
    }
    lines
}

fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

/// `seed 0`, `seeds 0, 1, 2`.
fn listed(what: &str, numbers: &[u64]) -> String {
    let shown: Vec<String> = numbers.iter().map(u64::to_string).collect();
    match numbers {
        [_] => format!("{what} {}", shown.join(", ")),
        _ => format!("{what}s {}", shown.join(", ")),
    }
}

//! Tuning: as many settings of each method, on conditions that are not reported; the best by the leading score is what is compared.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use dtta_base::{Issue, escaped, read_document, write_json};
use dtta_plugin::ScoreSpec;
use serde_json::{Value, json};

use super::comparison::Comparison;
use super::file::{ComparisonFile, Settings, Tuned, TunedOn, TuningConfig, conditions};
use super::plan::{ComparisonPlan, Draft, Loaded, PlanOptions, TUNED, TUNING, planned, refuse};
use super::run::{CompareOptions, Watch};
use crate::error::Result;
use crate::methods::Methods;
use crate::prepare::{Devices, Extensions};

/// The settings that a comparison file asks to try.
#[derive(Debug)]
pub struct TuningPlan {
    file: Loaded,
    tuning: TuningConfig,
    plan: ComparisonPlan,
}

/// What tuning found.
#[derive(Debug, Clone, PartialEq)]
pub struct Tuning {
    /// All settings, side by side.
    pub comparison: Comparison,
    /// What was chosen for each method.
    pub tuned_on: TunedOn,
    /// The comparison file with the chosen settings.
    pub file: PathBuf,
}

impl TuningPlan {
    /// Reads a comparison file with a `tuning` and validates every experiment that comes of it. Of the options, `seeds` stand for those of
    /// the tuning, and `set` for all of its runs.
    ///
    /// # Errors
    /// [`Error::Base`](crate::Error::Base) with every fault of the file, by pointer: numbers of settings that differ, domains that are
    /// reported; [`Error::Compare`](crate::Error::Compare) for a file without `tuning`.
    pub fn load(path: &Path, options: &PlanOptions, methods: &Methods) -> Result<Self> {
        let value = read_document(path, &[])?.0;
        if value.get("tuning").is_none() {
            let reason = "it is no comparison file with a `tuning`, which says what to try";
            return Err(refuse(format!("`{}`", path.display()), reason));
        }
        let file = Loaded::new(path, value, methods)?;
        let Some(tuning) = file.file.tuning.clone() else {
            return Err(file.refuse(vec![Issue::new("/tuning", "is null")]));
        };
        let mut drafts = Vec::new();
        let mut issues = Vec::new();
        for mut draft in file.drafts()? {
            for text in &options.set {
                draft.overrides.set(&mut draft.value, text)?;
            }
            for issue in reported(&draft.value, &tuning) {
                if !issues.contains(&issue) {
                    issues.push(issue);
                }
            }
            let Some(settings) = tuning.settings.get(&draft.name) else {
                continue;
            };
            for (number, settings) in settings.iter().enumerate() {
                let (mut with, name) = (draft.clone(), escaped(&draft.name));
                let at = format!("/tuning/settings/{name}/{number}");
                issues.extend(file.put(&mut with, settings, &at));
                with.name = variant(&draft.name, number);
                with.value["name"] = json!(with.name);
                on_domains(&mut with, &tuning, &file)?;
                drafts.push(with);
            }
        }
        if !issues.is_empty() {
            return Err(file.refuse(issues));
        }
        let own = file.experiment.pointer("/seed").and_then(Value::as_u64);
        let of_file = || file.file.seeds.as_ref()?.first().copied();
        let seeds = options.seeds.clone().or_else(|| tuning.seeds.clone());
        let seeds = seeds.unwrap_or_else(|| vec![of_file().or(own).unwrap_or_default()]);
        let plan = ComparisonPlan {
            name: format!("{} ({TUNING})", file.file.name),
            methods: planned(&drafts, &seeds, methods, Some(&file))?,
            seeds,
            reference: None,
            tuned_on: None,
        };
        Ok(Self { file, tuning, plan })
    }

    /// The name of the comparison.
    pub fn name(&self) -> &str {
        &self.file.file.name
    }

    /// What it runs.
    pub fn plan(&self) -> &ComparisonPlan {
        &self.plan
    }

    /// Runs every setting in the folder `tuning` of the comparison's, chooses by the mean of the leading score, the first of equals, and
    /// writes `tuned.json`: the comparison file with what was chosen, and what was tried.
    ///
    /// # Errors
    /// As [`ComparisonPlan::compare`]; [`Error::Compare`](crate::Error::Compare) for a method of which no setting has the score, and for a score that is neither
    /// better high nor low.
    pub fn tune(
        &self,
        options: &CompareOptions<'_>,
        extensions: &Extensions,
        devices: &Devices,
        watch: &mut dyn Watch,
    ) -> Result<Tuning> {
        let of_settings = CompareOptions {
            out: options.out.join(TUNING),
            keep: options.keep.clone(),
            ..*options
        };
        let comparison = self
            .plan
            .compare(&of_settings, extensions, devices, watch)?;
        let tuned_on = self.choose(&comparison)?;
        let file = options.out.join(TUNED);
        write_json(&file, &self.tuned(&tuned_on, &options.out))?;
        Ok(Tuning {
            comparison,
            tuned_on,
            file,
        })
    }

    /// The best setting of each method.
    fn choose(&self, comparison: &Comparison) -> Result<TunedOn> {
        let metric = &comparison.metric;
        let spec = ScoreSpec::of(&comparison.scores, metric);
        let Some(higher) = spec.and_then(|spec| spec.higher_is_better) else {
            let reason = format!("`{metric}` is neither better high nor low");
            return Err(refuse("settings", reason));
        };
        let mut methods = BTreeMap::new();
        for (name, settings) in &self.tuning.settings {
            let tried = (0..settings.len()).map(|number| {
                let variant = variant(name, number);
                let mut found = comparison.methods.iter();
                let found = found.find(|method| method.name == variant)?;
                // Of as many runs as the others, or it is no match.
                let whole = found.runs.len() == self.plan.seeds.len();
                let score = found.mean.adapted.get(metric).copied();
                score.filter(|score| whole && score.is_finite())
            });
            let tried: Vec<Option<f64>> = tried.collect();
            methods.insert(
                name.clone(),
                Tuned {
                    chosen: best(&tried, higher).ok_or_else(|| {
                        let reason = format!("no setting has a score `{metric}`");
                        refuse(format!("the settings of `{name}`"), reason)
                    })?,
                    tried,
                },
            );
        }
        let domains = comparison.domains.iter();
        let samples: usize = domains.clone().map(|domain| domain.samples).sum();
        Ok(TunedOn {
            domains: domains.map(|domain| domain.name.clone()).collect(),
            samples: samples * comparison.seeds.len(),
            seeds: comparison.seeds.clone(),
            metric: metric.clone(),
            methods,
        })
    }

    /// The comparison file with the chosen settings, for the folder `out`.
    fn tuned(&self, tuned_on: &TunedOn, out: &Path) -> ComparisonFile {
        let mut file = self.file.file.clone();
        file.schema = None;
        file.name = format!("{}-tuned", file.name);
        file.experiment = from_folder(out, &self.file.base);
        for (name, tuned) in &tuned_on.methods {
            let settings = self.tuning.settings.get(name);
            let chosen = settings.and_then(|settings| settings.get(tuned.chosen));
            let method = file.methods.get_mut(name).and_then(Value::as_object_mut);
            if let (Some(chosen), Some(method)) = (chosen, method) {
                put_last(method, chosen);
            }
        }
        file.tuning = None;
        file.tuned_on = Some(tuned_on.clone());
        file
    }
}

/// The first of the best scores.
fn best(scores: &[Option<f64>], higher: bool) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (place, score) in scores.iter().enumerate() {
        let Some(score) = *score else { continue };
        let better = best.is_none_or(|(_, other)| match higher {
            true => score > other,
            false => score < other,
        });
        if better {
            best = Some((place, score));
        }
    }
    best.map(|(place, _)| place)
}

/// Adds settings after the others, which they were tried on top of.
fn put_last(method: &mut Settings, chosen: &Settings) {
    for (pointer, value) in chosen {
        method.shift_remove(pointer);
        method.insert(pointer.clone(), value.clone());
    }
}

/// One of the settings of a method, as a method.
fn variant(method: &str, number: usize) -> String {
    format!("{method}-{number}")
}

/// Puts the domains to tune on into the place of those that are reported.
fn on_domains(draft: &mut Draft, tuning: &TuningConfig, file: &Loaded) -> Result<()> {
    let samples = tuning.samples.map(|samples| ("samples", json!(samples)));
    let domains = [("domains", json!(tuning.domains))];
    for (name, value) in domains.into_iter().chain(samples) {
        let (at, origin) = (
            format!("/data/stream/{name}"),
            file.origin(&format!("/tuning/{name}")),
        );
        let put = draft.overrides.put(&mut draft.value, &at, value, origin);
        put.map_err(|reason| refuse(format!("`{}`", draft.name), reason))?;
    }
    Ok(())
}

/// Domains to tune on whose conditions the experiment reports.
fn reported(experiment: &Value, tuning: &TuningConfig) -> Vec<Issue> {
    let stream = experiment.pointer("/data/stream/domains");
    let reported = stream.map(conditions).unwrap_or_default();
    let mut issues = Vec::new();
    for (place, domain) in tuning.domains.iter().enumerate() {
        for name in conditions(&json!(domain)) {
            if reported.contains(&name) {
                let message = format!(
                    "`{name}` is reported; tune on conditions that are not, at any severity"
                );
                issues.push(Issue::new(format!("/tuning/domains/{place}"), message));
            }
        }
    }
    issues
}

/// A file as a path from a folder; as a whole path where there is none from there.
fn from_folder(folder: &Path, file: &Path) -> PathBuf {
    let (Ok(folder), Ok(file)) = (folder.canonicalize(), file.canonicalize()) else {
        return file.into();
    };
    let (own, other): (Vec<Component<'_>>, Vec<Component<'_>>) =
        (folder.components().collect(), file.components().collect());
    let shared = own.iter().zip(&other).take_while(|(a, b)| a == b).count();
    if shared == 0 {
        return file;
    }
    let up = own[shared..].iter().map(|_| Component::ParentDir);
    up.chain(other[shared..].iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_setting_is_the_first_of_equals_in_the_scores_direction() {
        let scores = [Some(0.5), Some(0.7), None, Some(0.7), Some(0.2)];
        assert_eq!(best(&scores, true), Some(1));
        assert_eq!(best(&scores, false), Some(4));
        assert_eq!(best(&[None, None], true), None);
    }

    #[test]
    fn chosen_settings_come_after_what_they_were_tried_on_top_of() {
        let settings = |value: Value| value.as_object().cloned().unwrap();
        let mut method = settings(json!({"/a/b": 1, "/a": {"b": 2}}));
        put_last(&mut method, &settings(json!({"/a/b": 3})));
        let order: Vec<&String> = method.keys().collect();
        assert_eq!(order, ["/a", "/a/b"]);
        assert_eq!(method["/a/b"], 3);
    }

    #[test]
    fn files_are_found_from_another_folder() {
        let root = tempfile::tempdir().unwrap();
        let (out, base) = (root.path().join("runs/out"), root.path().join("base.json"));
        std::fs::create_dir_all(&out).unwrap();
        std::fs::write(&base, "{}").unwrap();
        assert_eq!(from_folder(&out, &base), Path::new("../../base.json"));
        assert_eq!(from_folder(root.path(), &base), Path::new("base.json"));
    }
}

//! The comparison that finished runs amount to. It is made from their folders alone, so it is the same however often they were interrupted.

use std::path::PathBuf;

use dtta_models::BatchNormStatistics;
use dtta_tensor::Device;
use serde_json::{Value, json};

use super::comparison::{
    ComparedDomain, ComparedMethod, ComparedRun, ComparedScores, ComparedSource, Comparison, Cost,
    Difference, EqualTime, EqualTimeSetting, FailedRun, SourceOf, Swept,
};
use super::file::TunedOn;
use super::pair::{Held, Of, Pair, Side, pair};
use super::plan::refuse;
use super::samples::RunSamples;
use crate::document::Document;
use crate::error::Result;
use crate::experiment::Experiment;
use crate::prepare::{Extensions, open_scorer};
use crate::record::RunDescription;
use crate::report::{self, Scorer};
use crate::run::differences;

/// The finished runs of a comparison.
pub(super) struct Runs {
    pub name: String,
    /// One for each place in the methods' runs.
    pub seeds: Vec<u64>,
    pub methods: Vec<MethodRuns>,
    pub reference: Option<String>,
    pub tuned_on: Option<TunedOn>,
    pub failed: Vec<FailedRun>,
}

/// The finished runs of a method.
pub(super) struct MethodRuns {
    pub name: String,
    pub sweep: Option<Swept>,
    /// By seed.
    pub runs: Vec<Option<FolderRun>>,
}

/// A finished run, and where it is.
pub(super) struct FolderRun {
    /// As it is told.
    pub folder: String,
    pub samples: RunSamples,
}

impl MethodRuns {
    /// Its first finished run.
    pub fn one(&self) -> Option<&RunSamples> {
        self.finished().next().map(|run| &run.samples)
    }

    fn finished(&self) -> impl Iterator<Item = &FolderRun> {
        self.runs.iter().flatten()
    }

    /// What the runs of all seeds share; only methods with a finished run are asked.
    fn first(&self) -> &RunSamples {
        let first = self.one();
        first.expect("methods without a finished run are left out")
    }

    fn experiment(&self) -> &Experiment {
        &self.first().run.experiment
    }

    fn skipped(&self) -> usize {
        self.finished().map(|run| run.samples.summary.skipped).sum()
    }

    fn as_source(&self) -> SourceOf {
        SourceOf {
            of: self.name.clone(),
            batch_norm: json!(self.experiment().adaptation.batch_norm),
        }
    }

    /// What the source model's predictions depend on, but for the statistics that it normalises with.
    fn task_model(&self) -> Value {
        let Experiment {
            models, plugins, ..
        } = self.experiment();
        let digests = &self.first().run.identity.digests;
        let of_task = digests.iter().filter(|(name, _)| {
            let part = name.split('/').next().unwrap_or_default();
            // Its texts are part of a zero-shot model; those of the denoiser are not.
            ["backbone", "head", "label_space"].contains(&part)
                || name.starts_with("prompts/backbone/")
        });
        json!({
            "digests": of_task.collect::<Vec<_>>(), "preprocess": models.backbone.preprocess,
            "standardize": models.backbone.standardize, "label_space": models.label_space, "head": plugins.head.config,
        })
    }
}

/// What has to be the same for scores to be held against each other.
fn scoring(run: &RunSamples) -> Value {
    let RunDescription {
        experiment,
        identity,
        predicts,
        scores,
        ..
    } = &run.run;
    let metric = experiment.plugins.metric.as_ref();
    let digests = identity.digests.iter();
    let digests = digests.filter(|(name, _)| name.split('/').next() == Some("metric"));
    json!({
        "predicts": predicts, "scores": scores, "config": metric.map(|metric| &metric.config),
        "digests": digests.collect::<Vec<_>>(),
    })
}

impl Runs {
    /// Holds them against each other.
    ///
    /// # Errors
    /// [`Error::Compare`](crate::Error::Compare) where no run is finished, or runs are on other samples or scored otherwise; whatever the
    /// metric refuses.
    pub fn table(mut self, extensions: &Extensions, device: &Device) -> Result<Comparison> {
        self.methods
            .retain(|method| method.finished().next().is_some());
        let Some(first) = self.methods.first() else {
            let reasons = self.failed.iter();
            let reasons =
                reasons.map(|run| format!("{}, seed {}: {}", run.method, run.seed, run.reason));
            let reasons = reasons.collect::<Vec<_>>().join("\n");
            return Err(refuse(
                format!("`{}`", self.name),
                format!("no run is finished\n{reasons}"),
            ));
        };
        self.expect_same_samples()?;
        let RunDescription {
            experiment,
            file,
            domains,
            scores,
            predicts,
            ..
        } = &first.first().run;
        let document = Document {
            path: PathBuf::from(file),
            experiment: experiment.clone(),
            overrides: Default::default(),
        };
        let compared = Compared {
            averaged: report::averaged(domains),
            scorer: open_scorer(&document, extensions, device)?,
            source: self.source(),
            runs: &self,
        };
        let methods = self.methods.iter().map(|method| compared.method(method));
        let methods = methods.collect::<Result<Vec<_>>>()?;
        let source = compared.source_model()?;
        let metric = compared.scorer.leading(&source.mean);
        let counts = (0..domains.len()).map(|place| {
            let samples = first.first().samples.iter();
            samples.filter(|sample| sample.domain == place).count()
        });
        let domains = domains.iter().zip(&compared.averaged).zip(counts);
        Ok(Comparison {
            name: self.name.clone(),
            predicts: predicts.name.clone(),
            metric,
            scores: scores.clone(),
            seeds: self.seeds.clone(),
            domains: domains
                .map(|((domain, &averaged), samples)| ComparedDomain {
                    name: domain.name.clone(),
                    averaged,
                    samples,
                })
                .collect(),
            source,
            reference: self.reference.clone(),
            equal_time: compared.equal_time(&methods)?,
            methods,
            failed: self.failed.clone(),
            tuned_on: self.tuned_on.clone(),
            differences: Vec::new(),
        })
    }

    /// Refuses runs that were on other samples, or scored otherwise.
    fn expect_same_samples(&self) -> Result<()> {
        let mut all: Option<(&str, &RunSamples)> = None;
        for place in 0..self.seeds.len() {
            let mut of_seed: Option<(&str, &RunSamples)> = None;
            for method in &self.methods {
                let Some(FolderRun { samples, .. }) = &method.runs[place] else {
                    continue;
                };
                let (first, scored) = *all.get_or_insert((&method.name, samples));
                let what = |first: &str| format!("`{first}` and `{}`", method.name);
                if scoring(scored) != scoring(samples) {
                    return Err(refuse(what(first), "they are scored by different metrics"));
                }
                if scored.run.domains.len() != samples.run.domains.len() {
                    let reason = scored.difference(samples);
                    return Err(refuse(what(first), reason.unwrap_or_default()));
                }
                let (first, met) = *of_seed.get_or_insert((&method.name, samples));
                if let Some(reason) = met.difference(samples) {
                    let reason = match self.seeds.len() {
                        1 => reason,
                        _ => format!("with seed {}, {reason}", self.seeds[place]),
                    };
                    return Err(refuse(what(first), reason));
                }
            }
        }
        Ok(())
    }

    /// The method whose runs say what the source model predicts.
    fn source(&self) -> usize {
        self.source_among(|_| true).unwrap_or(0)
    }

    /// The same of some methods, which have one task model: one that normalises with the statistics of training and left nothing out, if there
    /// is one.
    fn source_among(&self, these: impl Fn(&MethodRuns) -> bool) -> Option<usize> {
        let plain = |method: &MethodRuns| {
            method.experiment().adaptation.batch_norm == BatchNormStatistics::Running
        };
        let first = |so: &dyn Fn(&MethodRuns) -> bool| {
            let mut methods = self.methods.iter();
            methods.position(|method| these(method) && so(method))
        };
        let whole = first(&|method| plain(method) && method.skipped() == 0);
        whole.or_else(|| first(&plain)).or_else(|| first(&|_| true))
    }
}

/// Runs that can be held against each other.
struct Compared<'a> {
    runs: &'a Runs,
    averaged: Vec<bool>,
    scorer: Scorer,
    /// The place of the method whose runs the source model's predictions are from.
    source: usize,
}

impl<'a> Compared<'a> {
    /// For each seed with both, a pair of sides.
    fn pair(&self, [first, second]: [(&'a MethodRuns, Of); 2]) -> Result<Pair> {
        let of_seed = (0..self.runs.seeds.len()).filter_map(|place| {
            let side = |(method, of): (&'a MethodRuns, Of)| {
                let run = &method.runs[place].as_ref()?.samples;
                Some(Side { run, of })
            };
            Some([side(first)?, side(second)?])
        });
        let pairs: Vec<[Side<'_>; 2]> = of_seed.collect();
        pair(&pairs, &self.averaged, &self.scorer, self.runs.seeds[0])
    }

    fn source_of(&self) -> &'a MethodRuns {
        &self.runs.methods[self.source]
    }

    fn source_model(&self) -> Result<ComparedSource> {
        let of = self.source_of();
        let Pair { domains, mean } = self.pair([(of, Of::Source), (of, Of::Method)])?;
        let scores = |held: Held| {
            let [source, _] = held.scores;
            source
        };
        Ok(ComparedSource {
            model: of.as_source(),
            domains: domains.into_iter().map(scores).collect(),
            mean: scores(mean),
        })
    }

    fn method(&self, method: &'a MethodRuns) -> Result<ComparedMethod> {
        let source = self.source_of();
        let own = |other: &MethodRuns| other.task_model() == method.task_model();
        let (source, own_source) = match own(source) {
            true => (source, None),
            false => {
                let place = self.runs.source_among(own);
                let source = place.map_or(method, |place| &self.runs.methods[place]);
                (source, Some(source.as_source()))
            }
        };
        let against_source = self.pair([(source, Of::Source), (method, Of::Method)])?;
        let reference = self.runs.reference.as_ref();
        let reference = reference.filter(|name| **name != method.name);
        let reference =
            reference.and_then(|name| self.runs.methods.iter().find(|other| other.name == *name));
        let against_reference = reference
            .map(|reference| self.pair([(reference, Of::Method), (method, Of::Method)]))
            .transpose()?;
        let (of_domains, of_mean) = match against_reference {
            None => (Vec::new(), None),
            Some(Pair { domains, mean }) => (domains, Some(mean)),
        };
        let mut of_domains = of_domains.into_iter();
        let skipped = |domain: Option<usize>| {
            let samples = method.finished().flat_map(|run| &run.samples.samples);
            let here = samples.filter(|sample| domain.is_none_or(|place| sample.domain == place));
            here.filter(|sample| sample.skipped).count()
        };
        let scores = |held: Held, against: Option<Held>, skipped: usize| {
            let [source, adapted] = held.scores;
            ComparedScores {
                samples: held.samples,
                skipped,
                source,
                adapted,
                against_source: held.change,
                against_reference: against.map(|held| held.change),
            }
        };
        let Pair { domains, mean } = against_source;
        let domains = domains.into_iter().enumerate().map(|(place, held)| {
            let against = of_domains.next();
            scores(held, against, skipped(Some(place)))
        });
        let tuned = self.runs.tuned_on.as_ref();
        let tuned = tuned.and_then(|tuned| {
            let name = method
                .sweep
                .as_ref()
                .map_or(&method.name, |swept| &swept.of);
            tuned.methods.get(name)
        });
        let runs = method.finished().map(|FolderRun { folder, samples }| {
            let summary = &samples.summary;
            ComparedRun {
                seed: samples.run.seed,
                folder: folder.clone(),
                source: summary.mean.source.clone(),
                adapted: summary.mean.adapted.clone(),
                skipped: summary.skipped,
                cost: cost(&[samples]),
            }
        });
        let samples: Vec<&RunSamples> = method.finished().map(|run| &run.samples).collect();
        Ok(ComparedMethod {
            name: method.name.clone(),
            sweep: method.sweep.clone(),
            own_source,
            domains: domains.collect(),
            mean: scores(mean, of_mean, skipped(None)),
            cost: cost(&samples),
            runs: runs.collect(),
            settings_tried: tuned.map(|tuned| tuned.tried.len()),
            protocol: method.first().summary.protocol.clone(),
        })
    }

    /// What swept methods reach in the time of the others.
    fn equal_time(&self, methods: &[ComparedMethod]) -> Result<Vec<EqualTime>> {
        let family = |method: &ComparedMethod| method.sweep.as_ref().map(|swept| swept.of.clone());
        let mut families: Vec<String> = Vec::new();
        for name in methods.iter().filter_map(family) {
            if !families.contains(&name) {
                families.push(name);
            }
        }
        let mut found = Vec::new();
        for name in families {
            let is_own = |method: &&ComparedMethod| family(method).as_ref() == Some(&name);
            for other in methods.iter().filter(|method| !is_own(method)) {
                let within = other.cost.seconds_per_sample;
                let fitting = methods.iter().filter(is_own);
                let fitting = fitting.filter(|method| method.cost.seconds_per_sample <= within);
                let longest = fitting.max_by(|a, b| {
                    let seconds = |method: &ComparedMethod| method.cost.seconds_per_sample;
                    seconds(a).total_cmp(&seconds(b))
                });
                let setting = match longest {
                    None => None,
                    Some(method) => {
                        let of = |name: &str| {
                            let mut runs = self.runs.methods.iter();
                            runs.find(|method| method.name == name)
                        };
                        let sides = of(&other.name).zip(of(&method.name));
                        let against = sides
                            .map(|(a, b)| self.pair([(a, Of::Method), (b, Of::Method)]))
                            .transpose()?;
                        Some(EqualTimeSetting {
                            name: method.name.clone(),
                            seconds_per_sample: method.cost.seconds_per_sample,
                            against_source: method.mean.against_source.clone(),
                            against_other: against.map(|pair| pair.mean.change).unwrap_or_default(),
                        })
                    }
                };
                found.push(EqualTime {
                    method: name.clone(),
                    within: other.name.clone(),
                    seconds_per_sample: within,
                    setting,
                });
            }
        }
        Ok(found)
    }
}

/// What runs took together.
fn cost(runs: &[&RunSamples]) -> Cost {
    let done = || runs.iter().map(|samples| &samples.run.done);
    let seconds: f64 = done().flat_map(|done| &done.seconds).sum();
    let draws = done().map(|done| done.draws).sum::<usize>() as f64;
    let samples = done().map(|done| done.samples).sum::<usize>().max(1) as f64;
    let peaks = runs.iter().map(|run| run.summary.peak_memory_bytes);
    Cost {
        seconds_per_sample: seconds / samples,
        draws_per_sample: draws / samples,
        draws_per_second: draws / seconds.max(1e-9),
        peak_memory_bytes: peaks
            .collect::<Option<Vec<_>>>()
            .and_then(|all| all.into_iter().max()),
    }
}

/// What the experiments of some runs differ in.
pub(super) fn configurations(runs: &[&RunSamples]) -> Vec<Difference> {
    let documents = runs.iter().map(|samples| {
        let mut experiment = serde_json::to_value(&samples.run.experiment).unwrap_or_default();
        if let Value::Object(fields) = &mut experiment {
            for name in ["$schema", "name", "description"] {
                fields.shift_remove(name);
            }
            let identity = &samples.run.identity;
            let (digests, versions) = (&identity.digests, &identity.versions);
            let identity =
                json!({"digests": digests, "device": identity.device, "versions": versions});
            fields.insert("identity".into(), identity);
        }
        experiment
    });
    let documents: Vec<Value> = documents.collect();
    let mut pointers: Vec<String> = Vec::new();
    for other in documents.iter().skip(1) {
        for pointer in differences(&documents[0], other) {
            if !pointers.contains(&pointer) {
                pointers.push(pointer);
            }
        }
    }
    let found = pointers.into_iter().map(|pointer| {
        let values = documents.iter();
        let values = values.map(|document| document.pointer(&pointer).cloned().unwrap_or_default());
        Difference {
            values: values.collect(),
            pointer,
        }
    });
    found.collect()
}

//! The run: walks the stream, adapts batch by batch, and writes records as they are finished,
//! so that an interrupted run keeps what it has and `--resume` continues from there.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use dtta_data::{Condition, StreamItem};
use dtta_plugin::INTERFACE_VERSION;
use dtta_tensor::Device;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::experiment::{Control, FailurePolicy, Mode, Reset};
use crate::picture::{self, Shown};
use crate::prepare::Prepared;
use crate::record::{
    DomainSummary, Guess, Pair, Protocol, Record, RunDescription, Scores, Summary,
};
use crate::score::{Scored, Scorer, intervals, targets};
use crate::task::{Prediction, TaskKind};

/// Hears of a run as it goes.
pub trait Observer {
    /// A batch is finished.
    fn batch(&mut self, progress: &Progress<'_>);
}

/// How far a run is.
pub struct Progress<'a> {
    /// Samples finished or skipped.
    pub done: usize,
    /// Samples in all.
    pub total: usize,
    /// The current domain.
    pub domain: &'a str,
    /// The source model's score in the current domain: accuracy, or the metric's first by name.
    pub source: Option<f64>,
    /// The same of the adapted model.
    pub adapted: Option<f64>,
}

/// Where and how to run.
pub struct RunOptions<'a> {
    /// The folder for records, summary and description.
    pub out: PathBuf,
    /// Continue what the folder holds.
    pub resume: bool,
    /// Set from outside to stop after the current batch.
    pub stop: &'a AtomicBool,
}

/// Batches between two checkpoints of an online run.
const CHECKPOINT_EVERY: usize = 50;

struct State {
    scored: Vec<Scored>,
    position: usize,
    skipped: usize,
    seconds: f64,
}

impl Prepared {
    /// Runs the experiment and writes `records.jsonl`, `run.json` and `summary.json`.
    ///
    /// # Errors
    /// [`Error::OutputExists`] unless the folder is fresh or to be resumed; [`Error::Interrupted`]; whatever a plugin
    /// refuses under the policy `fail`. Finished records stay in every case.
    pub fn run(
        &mut self,
        options: &RunOptions<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Summary> {
        let out = &options.out;
        fs::create_dir_all(out).map_err(|source| Error::Write {
            path: out.clone(),
            source,
        })?;
        let records_path = out.join("records.jsonl");
        let mut state = State::new(self.stream.domains().len(), &self.scorer)?;
        if options.resume {
            self.resume(&mut state, out, &records_path)?;
        } else if records_path.exists() {
            return Err(Error::OutputExists { path: out.clone() });
        }
        let written = |source| Error::Write {
            path: records_path.clone(),
            source,
        };
        let mut records = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&records_path)
            .map_err(written)?;
        self.describe(out, "running", &state)?;
        let outcome = self.walk(options, observer, &mut state, &mut records, &records_path);
        let status = match &outcome {
            Ok(()) => "finished",
            Err(Error::Interrupted { .. }) => "interrupted",
            Err(_) => "failed",
        };
        self.describe(out, status, &state)?;
        outcome?;
        let summary = self.summary(&mut state)?;
        write_json(&out.join("summary.json"), &summary)?;
        Ok(summary)
    }

    fn walk(
        &mut self,
        options: &RunOptions<'_>,
        observer: &mut dyn Observer,
        state: &mut State,
        records: &mut File,
        records_path: &Path,
    ) -> Result<()> {
        let adaptation = &self.document.experiment.adaptation;
        let (mode, size) = (adaptation.mode, adaptation.batch);
        let total = self.stream.len();
        let mut batches = 0;
        while state.position < total {
            if options.stop.load(Ordering::Relaxed) {
                self.checkpoint(state).save(&options.out)?;
                return Err(Error::Interrupted {
                    records: state.position - state.skipped,
                });
            }
            let (domain, start) = self.domain_at(state.position);
            if mode.resets_after(state.position - start) {
                self.adapter.reset();
            }
            let end = (start + self.stream.domains()[domain].len()).min(state.position + size);
            let items = (state.position..end)
                .map(|position| self.stream.item(position))
                .collect::<Result<Vec<_>, _>>()?;

            let clock = Instant::now();
            let finished = self.batch_records(&items, start, options, &mut state.scored[domain]);
            let seconds = clock.elapsed().as_secs_f64();
            state.seconds += seconds;
            state.scored[domain].kept.seconds += seconds;
            match finished {
                Ok(mut finished) => {
                    let mut lines = Vec::new();
                    for record in &mut finished {
                        record.milliseconds = 1e3 * seconds / items.len() as f64;
                        serde_json::to_writer(&mut lines, record).map_err(|error| {
                            Error::Write {
                                path: records_path.into(),
                                source: error.into(),
                            }
                        })?;
                        lines.push(b'\n');
                    }
                    // One write a batch, so that a killed run leaves whole lines of whole batches.
                    records.write_all(&lines).map_err(|source| Error::Write {
                        path: records_path.into(),
                        source,
                    })?;
                }
                Err(Error::Plugin(error))
                    if self.document.experiment.plugins.on_failure == FailurePolicy::Skip =>
                {
                    log::warn!(
                        "skipped {} samples from `{}` on: {error}",
                        items.len(),
                        items[0].id
                    );
                    state.skipped += items.len();
                }
                Err(error) => return Err(error),
            }
            state.position = end;
            batches += 1;
            if batches % CHECKPOINT_EVERY == 0 && end < total {
                self.checkpoint(state).save(&options.out)?;
            }
            let shown = |scores: &Scores| scores.get(shown(scores)).copied();
            let scores = state.scored[domain].report().unwrap_or_default();
            observer.batch(&Progress {
                done: end,
                total,
                domain: &self.stream.domains()[domain].name,
                source: shown(&scores[0]),
                adapted: shown(&scores[1]),
            });
        }
        Ok(())
    }

    /// Adapts to a batch; `start` is the position where its domain starts.
    fn batch_records(
        &mut self,
        items: &[StreamItem],
        start: usize,
        options: &RunOptions<'_>,
        scored: &mut Scored,
    ) -> Result<Vec<Record>> {
        let ids: Vec<&str> = items.iter().map(|item| item.id.as_str()).collect();
        let images: Vec<_> = items.iter().map(|item| item.image.clone()).collect();
        let mut batch = self.batch(ids, &images)?;
        let domain = &self.stream.domains()[items[0].domain];
        if self.document.experiment.adaptation.control == Some(Control::OtherImage) {
            let next = |item: &StreamItem| {
                let place = (item.position - start + 1) % domain.len();
                self.stream.item(start + place)
            };
            let others = items.iter().map(|item| Ok(next(item)?.image));
            let [_, denoiser] = self.images(&others.collect::<Result<Vec<_>>>()?)?;
            batch.denoiser = denoiser;
        }
        let adapted = self.adapter.adapt(&batch)?;
        let (source, after) = (adapted.source, adapted.adapted);
        let mut scores = vec![[Scores::new(), Scores::new()]; items.len()];
        if let Some(targets) = targets(self.kind, items, &self.device)? {
            let source = self.scorer.each(&source.0, &targets)?;
            let after = self.scorer.each(&after.0, &targets)?;
            for ((source, after), scores) in source.into_iter().zip(after).zip(&mut scores) {
                scored.add(source.0, after.0)?;
                // A whole image is right or wrong, which the prediction says already.
                if self.kind != TaskKind::Classification {
                    *scores = [source.1, after.1];
                }
            }
        }
        scored.kept.samples += items.len();
        for (row, item) in items.iter().enumerate() {
            if item.position - start < self.document.experiment.output.pictures {
                let shown = Shown {
                    image: &item.image,
                    maps: &item.maps,
                    predictions: [&source.0, &after.0],
                    row,
                };
                let folder = options
                    .out
                    .join("images")
                    .join(domain.name.replace('/', "-"));
                picture::write(&folder, &item.id, self.kind, &shown)?;
            }
        }
        let guess = |prediction: &Prediction, scores: Scores| Guess {
            prediction: prediction.class,
            confidence: prediction.confidence,
            scores,
        };
        let records = items
            .iter()
            .zip(source.1.iter().zip(&after.1))
            .zip(scores)
            .zip(adapted.losses)
            .enumerate();
        let explained = adapted.explained;
        Ok(records
            .map(
                |(row, (((item, (source, adapted)), [before, after]), loss))| Record {
                    position: item.position,
                    id: item.id.clone(),
                    domain: domain.name.clone(),
                    target: item.label,
                    source: guess(source, before),
                    adapted: guess(adapted, after),
                    loss,
                    explained: explained.as_ref().map(|explained| explained[row]),
                    milliseconds: 0.0,
                },
            )
            .collect())
    }

    /// The domain of a position, and the position where it starts.
    fn domain_at(&self, position: usize) -> (usize, usize) {
        let mut start = 0;
        for (index, domain) in self.stream.domains().iter().enumerate() {
            if position < start + domain.len() {
                return (index, start);
            }
            start += domain.len();
        }
        (self.stream.domains().len() - 1, start)
    }

    fn checkpoint(&mut self, state: &State) -> Checkpoint {
        let parts = state
            .scored
            .iter()
            .map(|scored| scored.kept.clone())
            .collect();
        let experiment = self.document.experiment.clone();
        Checkpoint::take(
            experiment,
            state.position,
            state.skipped,
            state.seconds,
            parts,
            self.adapter.carried(),
        )
    }

    /// Takes up the last checkpoint and drops the records that came after it: they will be made again, the same.
    fn resume(&mut self, state: &mut State, out: &Path, records_path: &Path) -> Result<()> {
        let Some(checkpoint) = Checkpoint::load(out, &self.device)? else {
            // Nothing was saved, so the run starts over.
            return remove(records_path);
        };
        if checkpoint.experiment != self.document.experiment {
            return Err(Error::Resume {
                path: out.into(),
                reason: "its experiment differs from this one; run into another folder".into(),
            });
        }
        keep_lines(records_path, checkpoint.position - checkpoint.skipped)?;
        state.position = checkpoint.position;
        state.skipped = checkpoint.skipped;
        state.seconds = checkpoint.seconds;
        for (scored, kept) in state.scored.iter_mut().zip(&checkpoint.scores) {
            scored.restore(kept.clone())?;
        }
        checkpoint.restore(self.adapter.carried())
    }

    fn describe(&self, out: &Path, status: &str, state: &State) -> Result<()> {
        let versions = [
            ("dtta", env!("CARGO_PKG_VERSION")),
            ("plugin_interface", INTERFACE_VERSION),
            ("burn", dtta_tensor::BURN_VERSION),
        ];
        let description = RunDescription {
            experiment: self.document.experiment.clone(),
            file: self.document.path.display().to_string(),
            digests: self.digests.clone(),
            versions: versions
                .map(|(name, version)| (name.to_owned(), version.to_owned()))
                .into(),
            device: self.device.name().into(),
            seed: self.document.experiment.seed,
            plugins: self.plugins.clone(),
            status: status.into(),
            records: state.position - state.skipped,
            seconds: state.seconds,
        };
        write_json(&out.join("run.json"), &description)
    }

    fn summary(&self, state: &mut State) -> Result<Summary> {
        let experiment = &self.document.experiment;
        let adaptation = &experiment.adaptation;
        let conditions = self.stream.domains().iter().map(|domain| domain.condition);
        let mut shifted: Vec<bool> = conditions.map(|c| c != Condition::Clean).collect();
        if !shifted.contains(&true) {
            shifted.fill(true);
        }
        let (of_domains, of_mean) =
            intervals(&self.scorer, &state.scored, &shifted, experiment.seed)?;
        let mut domains = Vec::new();
        let parts = self.stream.domains().iter().zip(&mut state.scored);
        for ((domain, scored), intervals) in parts.zip(of_domains) {
            let [source, adapted] = scored.report()?;
            domains.push(DomainSummary {
                name: domain.name.clone(),
                samples: scored.kept.samples,
                source,
                adapted,
                intervals,
                seconds_per_sample: scored.kept.seconds / scored.kept.samples.max(1) as f64,
            });
        }
        let averaged = || {
            domains
                .iter()
                .zip(&shifted)
                .filter(|(_, shifted)| **shifted)
        };
        let mean = Pair {
            source: mean(averaged().map(|(domain, _)| &domain.source)),
            adapted: mean(averaged().map(|(domain, _)| &domain.adapted)),
            intervals: of_mean,
        };
        let samples = (state.position - state.skipped).max(1);
        let drawn = samples * adaptation.draws * adaptation.steps;
        let (reset, slow_weights) = match adaptation.mode {
            Mode::SingleSample {} => ("sample".into(), None),
            Mode::Online {
                reset,
                slow_weights,
            } => {
                let reset = match reset {
                    Reset::Domain => "domain".into(),
                    Reset::Every(every) => format!("every {every} samples"),
                    Reset::Never => "never".into(),
                };
                (reset, slow_weights)
            }
        };
        let protocol = Protocol {
            reset,
            slow_weights,
            gate: adaptation.gate,
            draws: adaptation.draws,
            steps: adaptation.steps,
            batch: adaptation.batch,
            seed: experiment.seed,
            control: adaptation.control,
            samples_per_domain: domains
                .iter()
                .map(|domain| (domain.name.clone(), domain.samples))
                .collect(),
            digests: self.digests.clone(),
        };
        Ok(Summary {
            experiment: experiment.name.clone(),
            task: self.kind.name().into(),
            metric: shown(&mean.adapted).into(),
            domains,
            mean,
            skipped: state.skipped,
            seconds_per_sample: state.seconds / samples as f64,
            draws_per_second: drawn as f64 / state.seconds.max(1e-9),
            peak_memory_bytes: peak_memory(),
            protocol,
        })
    }
}

impl State {
    fn new(domains: usize, scorer: &Scorer) -> Result<Self> {
        Ok(Self {
            scored: (0..domains)
                .map(|_| Scored::new(scorer))
                .collect::<Result<_>>()?,
            position: 0,
            skipped: 0,
            seconds: 0.0,
        })
    }
}

/// The score that tables and bars show: the usual one of its task where it is there, or else the first by name.
fn shown(scores: &Scores) -> &str {
    const USUAL: [&str; 3] = ["accuracy", "miou", "abs_rel"];
    let usual = USUAL.into_iter().find(|name| scores.contains_key(*name));
    usual
        .or_else(|| scores.keys().next().map(String::as_str))
        .unwrap_or(USUAL[0])
}

/// The mean of each score over the domains that have it.
fn mean<'a>(scores: impl Iterator<Item = &'a Scores>) -> Scores {
    let mut sums: BTreeMap<String, (f64, usize)> = BTreeMap::new();
    for (name, value) in scores.flatten() {
        let (sum, count) = sums.entry(name.clone()).or_default();
        *sum += value;
        *count += 1;
    }
    sums.into_iter()
        .map(|(name, (sum, count))| (name, sum / count as f64))
        .collect()
}

/// Writes JSON so that a reader sees the old file or the new one, never half of it.
pub(crate) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let written = |source| Error::Write {
        path: path.into(),
        source,
    };
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| written(error.into()))?;
    text.push(b'\n');
    let partial = path.with_extension("partial");
    fs::write(&partial, text).map_err(written)?;
    fs::rename(&partial, path).map_err(written)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::Write {
            path: path.into(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Cuts a file after its first `lines` lines.
fn keep_lines(path: &Path, lines: usize) -> Result<()> {
    let read = |source| Error::Read {
        path: path.into(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(read)?;
    let mut reader = BufReader::new(&file);
    let (mut length, mut line) = (0u64, Vec::new());
    for found in 0..lines {
        line.clear();
        let bytes = reader.read_until(b'\n', &mut line).map_err(read)?;
        if !line.ends_with(b"\n") {
            return Err(Error::Resume {
                path: path.into(),
                reason: format!("it has {found} records, its checkpoint {lines}"),
            });
        }
        length += bytes as u64;
    }
    file.set_len(length).map_err(|source| Error::Write {
        path: path.into(),
        source,
    })
}

/// The largest resident set of this process in bytes, where the system tells (Linux).
fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Which device a run would use: `auto` and names as [`Device`] parses them.
///
/// # Errors
/// [`Error::Tensor`] if this build cannot serve it.
pub fn device(name: &str) -> Result<Device> {
    Ok(name.parse()?)
}

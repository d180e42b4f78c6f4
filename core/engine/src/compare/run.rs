//! Running a plan: each method with each seed, as an ordinary run in a folder of its own. What is finished is left alone, what was
//! interrupted goes on, so a comparison that was killed is started again by the same call.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dtta_base::{told, write_json};
use dtta_data::{Dataset, Stream};
use dtta_tensor::Device;

use super::comparison::{Comparison, FailedRun};
use super::plan::{ComparisonPlan, RunName, refuse};
use super::samples::RunSamples;
use super::table::{FolderRun, MethodRuns, Runs};
use crate::document::Document;
use crate::error::{Error, Result};
use crate::merge::merge_into;
use crate::prepare::{Devices, Extensions, Keep, Prepared};
use crate::record::{Status, Summary};
use crate::report;
use crate::run::{
    Existing, Rehearsal, RunFolder, RunOptions, Shard, described, experiments_differ,
};
use crate::sinks::Sink;

/// Where and how to run a comparison.
pub struct CompareOptions<'a> {
    /// The folder for its runs, `METHOD/seed-N`, and for `comparison.json`.
    pub out: PathBuf,
    /// Which part of every run to take. A run that cannot be cut into so many goes whole to one of them.
    pub shard: Shard,
    /// Whether a run of another experiment makes way, where the folder of a run holds one.
    pub force: bool,
    /// Set from outside to stop after the current batch.
    pub stop: &'a AtomicBool,
    /// Time between two checkpoints of a run.
    pub checkpoint_every: Duration,
    /// Where what encoders make of images and texts is kept.
    pub keep: Option<Keep>,
}

impl<'a> CompareOptions<'a> {
    /// All of every run, with a checkpoint every half minute.
    pub fn new(out: impl Into<PathBuf>, stop: &'a AtomicBool) -> Self {
        Self {
            out: out.into(),
            shard: Shard::whole(),
            force: false,
            stop,
            checkpoint_every: Duration::from_secs(30),
            keep: None,
        }
    }
}

/// Hears of the runs of a comparison as they begin and end.
pub trait Watch {
    /// A run begins, goes on, or is found finished. Gives what shall hear of its samples.
    fn starts(&mut self, _run: &RunName, _prepared: &Prepared) -> Vec<Box<dyn Sink>> {
        Vec::new()
    }

    /// A run ended, and nothing of it is in memory any more.
    fn ends(&mut self, _run: &RunName, _outcome: Result<&Summary, &Error>) {}
}

/// Nobody hears.
impl Watch for () {}

/// What is left of a run.
enum Ended {
    Finished(Box<Summary>),
    /// It cannot be cut into shards, and another shard takes it.
    Elsewhere,
}

impl ComparisonPlan {
    /// Runs everything that is not finished yet, holds what came of it against each other, and writes `comparison.json`.
    ///
    /// # Errors
    /// As [`run`](Self::run) and [`table`](Self::table).
    pub fn compare(
        &self,
        options: &CompareOptions<'_>,
        extensions: &Extensions,
        devices: &Devices,
        watch: &mut dyn Watch,
    ) -> Result<Comparison> {
        let failed = self.run(options, extensions, devices, watch)?;
        let comparison = self.table(&options.out, &failed, extensions, &devices.task)?;
        write_json(&options.out.join(Comparison::FILE), &comparison)?;
        Ok(comparison)
    }

    /// Runs everything that is not finished yet, all methods with one seed before the next; a shard of it, if the options say so. Otherwise
    /// runs whose shards are all finished are put together. Gives the runs that failed, which does not stop the others.
    ///
    /// # Errors
    /// [`Error::Compare`] for methods that do not meet the same samples, that do not fit their models, or whose folder holds another run,
    /// which is told before anything runs as far as it can be known; [`Error::Interrupted`].
    pub fn run(
        &self,
        options: &CompareOptions<'_>,
        extensions: &Extensions,
        devices: &Devices,
        watch: &mut dyn Watch,
    ) -> Result<Vec<FailedRun>> {
        self.expect_same_streams()?;
        if !options.force {
            self.expect_own_folders(&options.out)?;
        }
        self.expect_fit(options, extensions, devices)?;
        let mut failed = Vec::new();
        for (number, (run, document)) in self.documents().enumerate() {
            if options.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted { samples: 0 });
            }
            report::forget_peak();
            let of_run = OneRun {
                run: &run,
                document,
                folder: self.folder(&options.out, &run),
                own: number % options.shard.count() == options.shard.index(),
                options,
                extensions,
                devices,
            };
            match of_run.go(watch) {
                Ok(Ended::Finished(summary)) => watch.ends(&run, Ok(&summary)),
                Ok(Ended::Elsewhere) => {}
                Err(error @ Error::Interrupted { .. }) => return Err(error),
                Err(error @ (Error::Resume { .. } | Error::OutputExists { .. })) => {
                    return Err(refuse(run.to_string(), told(&error)));
                }
                Err(error) => {
                    watch.ends(&run, Err(&error));
                    failed.push(FailedRun {
                        method: run.method,
                        seed: run.seed,
                        reason: told(&error),
                    });
                }
            }
        }
        Ok(failed)
    }

    /// Holds the finished runs in the folder of the comparison against each other. `failed` says of the others why they are not.
    ///
    /// # Errors
    /// [`Error::Compare`] if no run is finished, or runs are not on the same samples; files that cannot be read; whatever the metric
    /// refuses.
    pub fn table(
        &self,
        out: &Path,
        failed: &[FailedRun],
        extensions: &Extensions,
        device: &Device,
    ) -> Result<Comparison> {
        let mut runs = Runs {
            name: self.name.clone(),
            seeds: self.seeds.clone(),
            methods: Vec::new(),
            reference: self.reference.clone(),
            tuned_on: self.tuned_on.clone(),
            failed: Vec::new(),
        };
        for method in &self.methods {
            let mut of_method = MethodRuns {
                name: method.name.clone(),
                sweep: method.sweep.clone(),
                runs: Vec::new(),
            };
            for (&seed, document) in self.seeds.iter().zip(&method.documents) {
                let run = RunName {
                    method: method.name.clone(),
                    seed,
                };
                let folder = self.folder(out, &run);
                let samples = RunSamples::read(&folder)?;
                let other = samples.as_ref().and_then(|samples| {
                    experiments_differ(&samples.run.experiment, &document.experiment)
                });
                let known = failed
                    .iter()
                    .find(|failed| failed.method == run.method && failed.seed == run.seed);
                let reason = match (known, &samples, other) {
                    (Some(known), ..) => known.reason.clone(),
                    (None, None, _) => "it is not finished".into(),
                    (None, Some(_), Some(difference)) => difference,
                    (None, Some(_), None) => {
                        let relative = folder.strip_prefix(out).unwrap_or(&folder);
                        of_method.runs.push(samples.map(|samples| FolderRun {
                            folder: relative.display().to_string(),
                            samples,
                        }));
                        continue;
                    }
                };
                of_method.runs.push(None);
                runs.failed.push(FailedRun {
                    method: run.method,
                    seed,
                    reason,
                });
            }
            runs.methods.push(of_method);
        }
        runs.table(extensions, device)
    }

    /// Adapts to the first batch of each method with the first seed and forgets it, so that what a run would refuse is known, and how long it
    /// takes. Samples are read for so long.
    ///
    /// # Errors
    /// [`Error::Compare`] for methods that do not meet the same samples, and for a method whose run would fail.
    pub fn rehearse(
        &self,
        extensions: &Extensions,
        devices: &Devices,
        reading: Duration,
    ) -> Result<Vec<(String, Rehearsal)>> {
        self.expect_same_streams()?;
        let mut found = Vec::new();
        for method in &self.methods {
            let Some(document) = method.documents.first() else {
                continue;
            };
            report::forget_peak();
            let prepared = Prepared::new(document.clone(), extensions, devices.clone());
            let rehearsal =
                prepared.and_then(|mut prepared| prepared.rehearse(Shard::whole(), reading));
            let rehearsal =
                rehearsal.map_err(|error| refuse(format!("`{}`", method.name), told(&error)))?;
            found.push((method.name.clone(), rehearsal));
        }
        Ok(found)
    }

    /// Refuses methods that would not meet the same samples.
    fn expect_same_streams(&self) -> Result<()> {
        let open = |document: &Document| -> Result<Stream> {
            let (data, base) = (&document.experiment.data, document.base());
            let dataset = data.dataset.as_ref();
            let dataset = dataset
                .map(|config| Dataset::open(config, base))
                .transpose()?;
            Ok(Stream::new(
                &data.stream,
                dataset,
                base,
                document.experiment.seed,
            )?)
        };
        for (place, seed) in self.seeds.iter().enumerate() {
            let mut methods = self.methods.iter();
            let Some(first) = methods.next() else { break };
            let own = &first.documents[place];
            let mut opened: Option<Stream> = None;
            for method in methods {
                let other = &method.documents[place];
                if own.experiment.data == other.experiment.data && own.base() == other.base() {
                    continue;
                }
                let stream = match &mut opened {
                    Some(stream) => stream,
                    none => none.insert(open(own)?),
                };
                if let Some(reason) = streams_differ(stream, &open(other)?) {
                    let what = format!("`{}` and `{}`", first.name, method.name);
                    return Err(refuse(what, format!("with seed {seed}, {reason}")));
                }
            }
        }
        Ok(())
    }

    /// Refuses folders that hold runs of other experiments, as far as that can be told without opening anything.
    fn expect_own_folders(&self, out: &Path) -> Result<()> {
        for (run, document) in self.documents() {
            let folder = self.folder(out, &run);
            for folder in shards_of(&folder)?.into_values().flatten().chain([folder]) {
                if let Some(other) = described(&folder)?
                    && let Some(difference) =
                        experiments_differ(&other.experiment, &document.experiment)
                {
                    let reason = format!(
                        "`{}` holds another run: {difference}; choose another folder with `--out`, or replace it with `--force`",
                        folder.display()
                    );
                    return Err(refuse(run.to_string(), reason));
                }
            }
        }
        Ok(())
    }

    /// Opens what each method names, so that what does not fit is told before the first run.
    fn expect_fit(
        &self,
        options: &CompareOptions<'_>,
        extensions: &Extensions,
        devices: &Devices,
    ) -> Result<()> {
        for method in &self.methods {
            let finished = self.seeds.iter().map(|&seed| {
                let run = RunName {
                    method: method.name.clone(),
                    seed,
                };
                is_finished(&self.folder(&options.out, &run))
            });
            let finished = finished.collect::<Result<Vec<bool>>>()?;
            let document = method.documents.first();
            if let Some(document) = document.filter(|_| finished.contains(&false)) {
                let keep = options.keep.as_ref();
                Prepared::keeping(document.clone(), extensions, devices.clone(), keep)
                    .map_err(|error| refuse(format!("`{}`", method.name), told(&error)))?;
            }
        }
        Ok(())
    }
}

/// One run of a comparison.
struct OneRun<'a> {
    run: &'a RunName,
    document: &'a Document,
    folder: PathBuf,
    /// Whether this shard takes it, if it cannot be cut.
    own: bool,
    options: &'a CompareOptions<'a>,
    extensions: &'a Extensions,
    devices: &'a Devices,
}

impl OneRun<'_> {
    fn go(&self, watch: &mut dyn Watch) -> Result<Ended> {
        let shard = self.options.shard;
        if shard.is_whole() && !is_finished(&self.folder)? {
            self.put_together()?;
        }
        let mut prepared = Prepared::keeping(
            self.document.clone(),
            self.extensions,
            self.devices.clone(),
            self.options.keep.as_ref(),
        )?;
        if !shard.is_whole() {
            let name = format!("{}-of-{}", shard.index(), shard.count());
            let part = shards_folder(&self.folder).join(name);
            match self.walk(&mut prepared, &part, shard, watch) {
                Err(Error::Shard { .. }) if !self.own => return Ok(Ended::Elsewhere),
                Err(Error::Shard { .. }) => {}
                outcome => return outcome,
            }
        }
        self.walk(&mut prepared, &self.folder, Shard::whole(), watch)
    }

    /// Runs into a folder, or goes on there. Another run makes way if the options say so.
    fn walk(
        &self,
        prepared: &mut Prepared,
        out: &Path,
        shard: Shard,
        watch: &mut dyn Watch,
    ) -> Result<Ended> {
        let mut run = |existing: Existing| {
            let options = RunOptions {
                out: out.into(),
                existing,
                shard,
                stop: self.options.stop,
                checkpoint_every: self.options.checkpoint_every,
            };
            let sinks = watch.starts(self.run, prepared);
            prepared.run(&options, sinks)
        };
        let summary = match run(Existing::Resume) {
            Err(Error::Resume { .. } | Error::OutputExists { .. }) if self.options.force => {
                run(Existing::Replace)
            }
            outcome => outcome,
        };
        Ok(Ended::Finished(Box::new(summary?)))
    }

    /// Makes the run of its shards, if it was cut and all of them are finished.
    fn put_together(&self) -> Result<()> {
        let shards = shards_of(&self.folder)?;
        let whole = shards.iter().find(|(count, parts)| parts.len() == **count);
        match whole {
            Some((_, parts)) => {
                let device = &self.devices.task;
                let (out, replace) = (&self.folder, Existing::Replace);
                merge_into(parts, out, self.extensions, device, replace).map(drop)
            }
            None => match shards.last_key_value() {
                None => Ok(()),
                Some((count, parts)) => {
                    let reason = format!(
                        "{} of its {count} shards are finished; run the others with `--shard`, or remove `{}`",
                        parts.len(),
                        shards_folder(&self.folder).display()
                    );
                    Err(refuse(self.run.to_string(), reason))
                }
            },
        }
    }
}

/// Where the shards of a run are.
fn shards_folder(run: &Path) -> PathBuf {
    let mut name = OsString::from(run);
    name.push(".shards");
    name.into()
}

/// The finished shards of a run, by how many there are in all; none finished where one was begun.
fn shards_of(run: &Path) -> Result<BTreeMap<usize, Vec<PathBuf>>> {
    let mut shards: BTreeMap<usize, Vec<PathBuf>> = BTreeMap::new();
    let folder = shards_folder(run);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(shards),
        Err(source) => {
            return Err(dtta_base::Error::Read {
                path: folder,
                source,
            }
            .into());
        }
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let (shard, finished) = match name.strip_suffix(".unfinished") {
            Some(shard) => (shard, false),
            None => (name, true),
        };
        if let Ok(shard) = shard.replace("-of-", "/").parse::<Shard>() {
            let parts = shards.entry(shard.count()).or_default();
            if finished && is_finished(&entry.path())? {
                parts.push(entry.path());
            }
        }
    }
    Ok(shards)
}

fn is_finished(folder: &Path) -> Result<bool> {
    let run = described(folder)?;
    let finished = run.is_some_and(|run| run.status == Status::Finished);
    Ok(finished && RunFolder::summary_in(folder)?.is_some())
}

/// Why two streams do not have the same samples.
fn streams_differ(own: &Stream, other: &Stream) -> Option<String> {
    let (domains, others) = (own.domains(), other.domains());
    if domains.len() != others.len() {
        let (own, other) = (domains.len(), others.len());
        return Some(format!("one has {own} domains, the other {other}"));
    }
    let differ = domains.iter().zip(others).find(|(own, other)| own != other);
    if let Some((own, other)) = differ {
        let name = &own.name;
        return Some(if own.name != other.name {
            format!(
                "one has the domain `{name}` where the other has `{}`",
                other.name
            )
        } else if own.len() != other.len() {
            let (own, other) = (own.len(), other.len());
            format!("`{name}` has {own} samples in one and {other} in the other")
        } else if own.condition != other.condition {
            format!("`{name}` is not the same condition in both")
        } else {
            format!("`{name}` has other samples")
        });
    }
    let ids = |stream: &Stream| -> Vec<Vec<String>> {
        let datasets = stream.datasets().iter();
        datasets.map(|dataset| dataset.ids().to_vec()).collect()
    };
    (ids(own) != ids(other)).then(|| "their datasets have other samples".to_owned())
}

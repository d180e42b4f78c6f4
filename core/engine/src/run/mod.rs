//! The run: walks the stream, adapts batch by batch, and hands each finished sample to the sinks, so that a stopped run keeps what it has
//! and continues from there.
//!
//! - `unit.rs` cuts a stream into what can be computed by itself, and takes a shard of it.
//! - `identity.rs` says what must be the same for two runs to be one.
//! - `planned.rs` lists the shards of a run with what they take, before any is run.
//! - `folder.rs` owns the run's folder: its lock, its description, its checkpoint; `closed.rs` says when it is whole.
//! - `walk.rs` is the loop; `rehearsal.rs` its first round, for a dry run.

mod checkpoint;
mod closed;
mod folder;
mod identity;
mod planned;
mod rehearsal;
mod unit;
mod walk;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub use self::closed::{Closed, ShardId};
pub(crate) use self::folder::{RunFolder, described, read_description};
pub use self::identity::Identity;
pub(crate) use self::identity::{differences, experiments_differ};
pub use self::planned::PlannedShard;
pub use self::rehearsal::Rehearsal;
pub use self::unit::Shard;
pub(crate) use self::unit::{batches, units};
use self::walk::Walk;
use crate::error::{Error, Result};
use crate::prepare::Prepared;
use crate::record::{RunDescription, Status, Summary};
use crate::report::{self, StatesFile};
use crate::sinks::{Pictures, Records, Sink, Start, States};

/// Where and how to run.
pub struct RunOptions<'a> {
    /// The folder for records, summary and description.
    pub out: PathBuf,
    /// What to do with what the folder holds.
    pub existing: Existing,
    /// Which part of the stream to run.
    pub shard: Shard,
    /// Set from outside to stop after the current batch.
    pub stop: &'a AtomicBool,
    /// Time between two checkpoints.
    pub checkpoint_every: Duration,
}

/// What to do with a run that a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Refuse to touch it.
    Keep,
    /// Continue it; begin one if there is none.
    Resume,
    /// Remove everything that it owns, and begin anew.
    Replace,
}

impl<'a> RunOptions<'a> {
    /// The whole stream into a folder that holds no run, with a checkpoint every half minute.
    pub fn new(out: impl Into<PathBuf>, stop: &'a AtomicBool) -> Self {
        Self {
            out: out.into(),
            existing: Existing::Keep,
            shard: Shard::whole(),
            stop,
            checkpoint_every: Duration::from_secs(30),
        }
    }
}

impl Prepared {
    /// What the run of a shard is, before anything is done. Reads all of the stream's files.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn description(&self, shard: Shard) -> Result<RunDescription> {
        let shard = (!shard.is_whole()).then_some(shard);
        self.describe(self.identity()?, shard)
    }

    /// Runs the experiment and writes `records.jsonl`, `samples.bin`, `run.json`, `summary.json` and, last, `unit.json`. A shard works in a folder of another
    /// name beside `out`, which it takes when it is finished; so a folder of that name is a whole shard, and a shard that is run again
    /// continues, or answers what it answered before.
    ///
    /// # Errors
    /// [`Error::OutputExists`], [`Error::Resume`] or a lock for a folder that does not suit the options; [`Error::Shard`];
    /// [`Error::Interrupted`] when stopped; whatever a plugin refuses under the policy `fail`. Finished records and a checkpoint stay in
    /// every case.
    pub fn run(
        &mut self,
        options: &RunOptions<'_>,
        sinks: Vec<Box<dyn Sink + '_>>,
    ) -> Result<Summary> {
        let range = unit::range(
            &self.units(),
            self.experiment().adaptation.mode,
            options.shard,
        )?;
        if self.experiment().output.adapters && !options.shard.is_whole() {
            return Err(Error::Shard {
                count: options.shard.count(),
                reason: "`/output/adapters` asks for what the whole stream leaves".into(),
            });
        }
        let identity = self.identity()?;
        let shard = (!options.shard.is_whole()).then_some(options.shard);
        let Some(_) = shard else {
            let mut folder = RunFolder::open(&options.out, options.existing)?;
            return self.run_in(&mut folder, range, identity, shard, options, sinks);
        };
        if options.existing == Existing::Replace {
            RunFolder::open(&options.out, Existing::Replace)?.disappear()?;
        }
        if let Some(summary) = folder::finished(&options.out, &identity, shard)? {
            return Ok(summary);
        }
        let mut work = options.out.as_os_str().to_owned();
        work.push(".unfinished");
        let existing = match options.existing {
            Existing::Replace => Existing::Replace,
            Existing::Keep | Existing::Resume => Existing::Resume,
        };
        let mut folder = RunFolder::open(Path::new(&work), existing)?;
        // Another process may have finished it before this one had the lock.
        if let Some(summary) = folder::finished(&options.out, &identity, shard)? {
            folder.disappear()?;
            return Ok(summary);
        }
        let summary = self.run_in(&mut folder, range, identity.clone(), shard, options, sinks)?;
        let renamed = folder.rename(&options.out);
        match renamed.map(|()| summary) {
            Ok(summary) => Ok(summary),
            Err(error) => folder::finished(&options.out, &identity, shard)?.ok_or(error),
        }
    }

    fn run_in(
        &mut self,
        folder: &mut RunFolder,
        range: std::ops::Range<usize>,
        identity: Identity,
        shard: Option<Shard>,
        options: &RunOptions<'_>,
        others: Vec<Box<dyn Sink + '_>>,
    ) -> Result<Summary> {
        self.adapter.reset();
        let id = ShardId::new(&identity, self.experiment().seed, options.shard, &range);
        let description = self.describe(identity, shard)?;
        let mut checkpoint = None;
        if let Some(earlier) = folder.earlier()? {
            earlier.expect_same(&description, folder.path())?;
            if earlier.status == Status::Finished
                && let Some(summary) = folder.summary()?
            {
                folder.close(id)?;
                return Ok(summary);
            }
            checkpoint = folder.checkpoint(&description.identity, self.device())?;
        }
        let class_names = self.stream.class_names().to_vec();
        let mut walk = Walk::new(self, options, range, description, checkpoint)?;
        walk.take_up(folder.path())?;
        let start = Start {
            folder: folder.path(),
            run: walk.description(),
            total: walk.total(),
            done: walk.done(),
        };
        let mut sinks: Vec<Box<dyn Sink + '_>> =
            vec![Box::new(Records::default()), Box::new(States::default())];
        let pictures = start.run.experiment.output.pictures;
        if pictures > 0 {
            sinks.push(Box::new(Pictures::new(pictures, class_names)));
        }
        sinks.extend(others);
        // Said first, so that whatever a kill leaves behind is known as this run's.
        folder.describe(walk.description(), Status::Running)?;
        for sink in &mut sinks {
            sink.start(&start)?;
        }
        let (mut description, outcome) = walk.go(folder, &mut sinks);
        let status = match &outcome {
            Ok(()) => Status::Running,
            Err(Error::Interrupted { .. }) => Status::Interrupted,
            Err(_) => Status::Failed,
        };
        folder.describe(&description, status)?;
        outcome?;
        if self.experiment().output.adapters {
            for (lora, name) in self.adapter.factors()?.iter().zip(ADAPTERS) {
                if let Some(lora) = lora {
                    lora.save(&folder.path().join(name))?;
                }
            }
        }
        let states = StatesFile::open(folder.path())?;
        let summary = report::summary(&description, &self.scorer, states, report::peak_memory())?;
        folder.finish(&mut description, &summary)?;
        for sink in &mut sinks {
            sink.finish(&summary)?;
        }
        folder.close(id)?;
        Ok(summary)
    }
}

/// The folders of a run with the factors of low rank that it left, of the backbone and of the denoiser.
pub(crate) const ADAPTERS: [&str; 2] = ["adapter", "denoiser_adapter"];

/// A folder of a run as a message names it.
pub(crate) fn refuse_resume(path: &Path, reason: impl Into<String>) -> Error {
    Error::Resume {
        path: path.into(),
        reason: reason.into(),
    }
}

//! Sinks: what hears of a run and writes. Records, the samples' scores, pictures, event files and the command's progress bar are sinks; so
//! is whatever an embedder brings (example `a_sink`).

mod events;
mod pictures;
mod records;
mod states;

use std::path::Path;

use dtta_data::StreamItem;
use dtta_tensor::Named;

pub use self::events::EventFile;
pub(crate) use self::pictures::{Pictures, can_picture};
pub(crate) use self::records::Records;
pub(crate) use self::states::{SampleState, States, StatesFile, StatesWriter};
use crate::error::Result;
use crate::record::{Record, RunDescription, Scores, Summary};
use crate::report::Scored;

/// Hears of a run from its start to its end.
pub trait Sink {
    /// A run begins, or continues after some samples: what came of later ones before is to be forgotten.
    ///
    /// # Errors
    /// Whatever should end the run.
    fn start(&mut self, _start: &Start<'_>) -> Result<()> {
        Ok(())
    }

    /// A sample is finished, or was skipped.
    ///
    /// # Errors
    /// Whatever should end the run.
    fn sample(&mut self, finished: &Finished<'_>) -> Result<()>;

    /// What came so far must last: a checkpoint is about to count on it.
    ///
    /// # Errors
    /// Whatever should end the run.
    fn sync(&mut self) -> Result<()> {
        Ok(())
    }

    /// The run is over.
    ///
    /// # Errors
    /// Whatever the caller should hear of.
    fn finish(&mut self, _summary: &Summary) -> Result<()> {
        Ok(())
    }
}

/// What a run starts with.
pub struct Start<'a> {
    /// Its folder.
    pub folder: &'a Path,
    /// What it is.
    pub run: &'a RunDescription,
    /// Samples in all, of this shard.
    pub total: usize,
    /// Samples that are finished already.
    pub done: usize,
}

/// A finished sample.
pub struct Finished<'a> {
    /// Its record.
    pub record: &'a Record,
    /// Its image and targets, its domain and its place in it.
    pub item: &'a StreamItem,
    /// Its row in `predictions`.
    pub row: usize,
    /// Predictions of its batch, before and after; none if it was skipped.
    pub predictions: Option<[&'a Named; 2]>,
    /// Its scores, and what the metric accumulated of it; none without targets.
    pub scored: Option<&'a Scored>,
    /// Samples finished, this one too.
    pub done: usize,
    /// Samples in all, of this shard.
    pub total: usize,
    /// Scores of the domain so far, before and after, this sample's batch too.
    pub so_far: &'a [Scores; 2],
}

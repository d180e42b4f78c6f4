//! The loop over the stream. A batch is a transaction: it is adapted to, scored and recorded, or nothing of it is left but a record that
//! says why.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use dtta_data::StreamItem;
use dtta_learn::State;

use super::checkpoint::Checkpoint;
use super::folder::RunFolder;
use super::{RunOptions, batches};
use crate::error::{Error, Result};
use crate::experiment::{FailurePolicy, Mode};
use crate::methods::Adapted;
use crate::prepare::Prepared;
use crate::record::{Done, Record, RunDescription, Scores};
use crate::report::{Running, Scored, StatesFile};
use crate::sinks::{Finished, Sink};

/// A walk on its way.
pub(super) struct Walk<'a> {
    prepared: &'a mut Prepared,
    options: &'a RunOptions<'a>,
    description: RunDescription,
    /// The batches of this walk, from the first that is not done.
    batches: Vec<Range<usize>>,
    /// Samples of this walk in all.
    total: usize,
    /// Scores of each domain so far, to show.
    running: Vec<Running>,
    saved_at: Instant,
}

/// What there was before a batch.
#[derive(Clone)]
struct Before {
    state: State,
    /// Of the domains that its samples are from.
    scores: BTreeMap<usize, [Vec<u8>; 2]>,
    done: Done,
}

/// What a batch came to.
struct Outcome {
    adapted: Adapted,
    scored: Vec<Option<Scored>>,
}

impl<'a> Walk<'a> {
    /// Over these positions, from where a checkpoint left off.
    pub fn new(
        prepared: &'a mut Prepared,
        options: &'a RunOptions<'a>,
        range: Range<usize>,
        mut description: RunDescription,
        checkpoint: Option<Checkpoint>,
    ) -> Result<Self> {
        let domains = prepared.stream.domains().len();
        let size = prepared.experiment().adaptation.batch;
        let running = (0..domains)
            .map(|_| Running::new(&prepared.scorer))
            .collect::<Result<Vec<_>>>()?;
        description.done = Done {
            seconds: vec![0.0; domains],
            ..Done::default()
        };
        if let Some(checkpoint) = checkpoint {
            description.done = checkpoint.done.clone();
            prepared.adapter.restore(checkpoint.into_state())?;
        }
        let first = range.start + description.done.samples;
        let batches = batches(&prepared.stream.order().segments(), size).into_iter();
        let batches = batches.filter(|batch| batch.start >= first && batch.end <= range.end);
        Ok(Self {
            batches: batches.collect(),
            total: range.len(),
            prepared,
            options,
            description,
            running,
            saved_at: Instant::now(),
        })
    }

    /// Counts the samples that are finished, so that the scores so far of a continued run are those of an unbroken one.
    pub fn take_up(&mut self, folder: &Path) -> Result<()> {
        if self.done() == 0 {
            return Ok(());
        }
        let mut states = StatesFile::open(folder)?;
        for _ in 0..self.done() {
            let Some(sample) = states.next()? else {
                break;
            };
            let place = self.prepared.stream.order().place(sample.position);
            if let (Some((domain, _)), Some(saved)) = (place, sample.states) {
                self.running[domain].add(&saved)?;
            }
        }
        Ok(())
    }

    pub fn description(&self) -> &RunDescription {
        &self.description
    }

    pub fn total(&self) -> usize {
        self.total
    }

    pub fn done(&self) -> usize {
        self.description.done.samples
    }

    /// Walks to the end, or until something stops it, and leaves a checkpoint either way.
    pub fn go(
        mut self,
        folder: &RunFolder,
        sinks: &mut [Box<dyn Sink + '_>],
    ) -> (RunDescription, Result<()>) {
        let outcome = self.walk(folder, sinks);
        // What went wrong first is what is told.
        let saved = self.save(folder, sinks);
        (self.description, outcome.and(saved))
    }

    fn walk(&mut self, folder: &RunFolder, sinks: &mut [Box<dyn Sink + '_>]) -> Result<()> {
        for batch in std::mem::take(&mut self.batches) {
            if self.options.stop.load(Ordering::Relaxed) {
                return Err(self.interrupted());
            }
            if self.saved_at.elapsed() >= self.options.checkpoint_every {
                self.save(folder, sinks)?;
            }
            let segment = self.prepared.stream.order().segment(batch.start);
            let mode = self.prepared.experiment().adaptation.mode;
            if mode.resets_after(batch.start - segment.0) {
                self.prepared.adapter.reset();
            }
            let items = batch
                .map(|position| Ok(self.prepared.stream.item(position)?))
                .collect::<Result<Vec<_>>>()?;
            self.batch(&items, segment, sinks)?;
        }
        Ok(())
    }

    /// One batch, all or nothing; under the policy `skip`, a sample of single-sample mode at a time where all together fail.
    fn batch(
        &mut self,
        items: &[StreamItem],
        segment: (usize, usize),
        sinks: &mut [Box<dyn Sink + '_>],
    ) -> Result<()> {
        let before = Before {
            state: self.prepared.adapter.state(),
            scores: domains(items)
                .map(|domain| (domain, self.running[domain].save()))
                .collect(),
            done: self.description.done.clone(),
        };
        let clock = Instant::now();
        let error = match self.attempt(items, segment) {
            Ok(outcome) => {
                let seconds = clock.elapsed().as_secs_f64();
                let recorded = self.record(items, seconds, &Ok(outcome), sinks);
                return match recorded {
                    Ok(()) => Ok(()),
                    Err(error) => {
                        self.take_back(before)?;
                        Err(error)
                    }
                };
            }
            Err(error) => error,
        };
        self.take_back(before.clone())?;
        let seconds = clock.elapsed().as_secs_f64();
        let experiment = self.prepared.experiment();
        if experiment.plugins.on_failure != FailurePolicy::Skip || !error.is_of_the_batch() {
            let interrupted = matches!(&error, Error::Plugin(plugin) if plugin.is_interrupt());
            return Err(if interrupted {
                self.interrupted()
            } else {
                error
            });
        }
        if items.len() > 1 && experiment.adaptation.mode == (Mode::SingleSample {}) {
            let one = |item| self.batch(std::slice::from_ref(item), segment, sinks);
            let each = items.iter().try_for_each(one);
            if each.is_err() {
                // A run continues at a whole batch.
                self.take_back(before)?;
            }
            return each;
        }
        let reason = dtta_base::told(&error);
        log::warn!(
            "skipped {} samples from `{}` on: {reason}",
            items.len(),
            items[0].id
        );
        self.record(items, seconds, &Err(reason), sinks)
    }

    /// Adapts and scores.
    fn attempt(
        &mut self,
        items: &[StreamItem],
        (start, length): (usize, usize),
    ) -> Result<Outcome> {
        let batch = self.prepared.batch(items, start, length)?;
        let adapted = self.prepared.adapter.adapt_stream(&batch)?;
        let pairs = [&adapted.source.named, &adapted.adapted.named];
        let scored = self.prepared.score(items, pairs)?;
        for (item, scored) in items.iter().zip(&scored) {
            if let Some(scored) = scored {
                self.running[item.domain].add(&scored.states)?;
            }
        }
        Ok(Outcome { adapted, scored })
    }

    /// Puts everything back to where it was before a batch.
    fn take_back(&mut self, before: Before) -> Result<()> {
        self.prepared.adapter.restore(before.state)?;
        for (domain, scores) in &before.scores {
            self.running[*domain] = Running::of(&self.prepared.scorer, scores)?;
        }
        self.description.done = before.done;
        Ok(())
    }

    /// Hands a batch to the sinks: what came of it, or why it was left out.
    fn record(
        &mut self,
        items: &[StreamItem],
        seconds: f64,
        outcome: &Result<Outcome, String>,
        sinks: &mut [Box<dyn Sink + '_>],
    ) -> Result<()> {
        let so_far: BTreeMap<usize, _> = domains(items)
            .map(|domain| {
                let scores = self.running[domain].report();
                (domain, scores.unwrap_or_default())
            })
            .collect();
        let of_pixels = self.prepared.predicts().target.is_map();
        let names = self.prepared.stream.class_names();
        let named = |class: Option<i64>| {
            let class = class.and_then(|class| usize::try_from(class).ok());
            class.and_then(|class| names.get(class)).cloned()
        };
        for (row, item) in items.iter().enumerate() {
            let mut record = Record {
                position: item.position,
                id: item.id.clone(),
                domain: self.prepared.stream.domains()[item.domain].name.clone(),
                target: item.targets.class(),
                target_name: named(item.targets.class().map(i64::from)),
                source: Default::default(),
                adapted: Default::default(),
                loss: Vec::new(),
                skipped: outcome.as_ref().err().cloned(),
                milliseconds: 1e3 * seconds / items.len() as f64,
                measures: Default::default(),
            };
            let mut scored = None;
            if let Ok(Outcome {
                adapted,
                scored: of_rows,
            }) = outcome
            {
                record.source = adapted.source.each[row].clone();
                record.adapted = adapted.adapted.each[row].clone();
                for said in [&mut record.source, &mut record.adapted] {
                    said.prediction_name = named(said.prediction);
                }
                record.loss.clone_from(&adapted.losses[row]);
                let measures = adapted.measures.iter();
                record.measures = measures
                    .map(|(name, of_rows)| (name.clone(), of_rows[row]))
                    .collect();
                scored = of_rows[row].as_ref();
                // A whole image is right or wrong, which the prediction says already.
                if let Some(scored) = scored.filter(|_| of_pixels) {
                    let [source, adapted]: [Scores; 2] = scored.scores.clone();
                    record.source.scores = source;
                    record.adapted.scores = adapted;
                }
            }
            self.description.done.samples += 1;
            let finished = Finished {
                record: &record,
                item,
                row,
                predictions: outcome.as_ref().ok().map(|outcome| {
                    [
                        &outcome.adapted.source.named,
                        &outcome.adapted.adapted.named,
                    ]
                }),
                scored,
                done: self.description.done.samples,
                total: self.total,
                so_far: &so_far[&item.domain],
            };
            for sink in &mut *sinks {
                sink.sample(&finished)?;
            }
            self.description.done.seconds[item.domain] += seconds / items.len() as f64;
        }
        if let Ok(outcome) = outcome {
            self.description.done.draws += outcome.adapted.draws;
        }
        Ok(())
    }

    /// Everything so far on disk, and a checkpoint that says so.
    fn save(&mut self, folder: &RunFolder, sinks: &mut [Box<dyn Sink + '_>]) -> Result<()> {
        for sink in sinks {
            sink.sync()?;
        }
        let state = self.prepared.adapter.state();
        let (identity, done) = (&self.description.identity, &self.description.done);
        Checkpoint::save(folder.path(), identity, done, state)?;
        self.saved_at = Instant::now();
        Ok(())
    }

    fn interrupted(&self) -> Error {
        Error::Interrupted {
            samples: self.description.done.samples,
        }
    }
}

/// The domains that some samples are from, more than once where they change in between.
fn domains(items: &[StreamItem]) -> impl Iterator<Item = usize> {
    let changes = items.chunk_by(|one, next| one.domain == next.domain);
    changes.map(|items| items[0].domain)
}

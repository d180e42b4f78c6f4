//! What a run will come to, without being one: a batch is adapted, scored and forgotten, and samples are read for as long as one likes to
//! wait. So what a run would refuse after an hour is refused now, and how long it takes is known.

use std::time::{Duration, Instant};

use dtta_base::TargetType;
use dtta_tensor::{Named, Tensor};

use super::{Shard, batches, unit};
use crate::error::Result;
use crate::prepare::Prepared;
use crate::report::{self, Running};

/// What a rehearsal found.
#[derive(Debug, Clone, PartialEq)]
pub struct Rehearsal {
    /// Samples that the run, or its shard, will take.
    pub samples: usize,
    /// How many of them were read, each from its own place in the stream.
    pub read: usize,
    /// How many of them were adapted to.
    pub adapted: usize,
    /// Seconds that the run will take if every batch takes as long as this one.
    pub seconds: f64,
    /// The largest resident set of this process so far in bytes, where the system tells.
    pub peak_memory_bytes: Option<u64>,
}

impl Prepared {
    /// Adapts to the first batch of the run, or of a shard, with every part of the experiment, and forgets it. Then reads samples from all
    /// over the stream until all are read or `reading` is over.
    ///
    /// # Errors
    /// Whatever the run would refuse of that batch and of those samples; [`Error::Shard`](crate::Error::Shard) for a shard that cannot be
    /// cut.
    pub fn rehearse(&mut self, shard: Shard, reading: Duration) -> Result<Rehearsal> {
        let range = unit::range(&self.units(), self.experiment().adaptation.mode, shard)?;
        let clock = Instant::now();
        let adapted = self.rehearse_batch(range.start)?;
        let each = clock.elapsed().as_secs_f64() / adapted as f64;
        let peak_memory_bytes = report::peak_memory();
        let clock = Instant::now();
        let mut read = 0;
        for position in spread(range.len()) {
            if clock.elapsed() >= reading {
                break;
            }
            self.stream.item(range.start + position)?;
            read += 1;
        }
        Ok(Rehearsal {
            samples: range.len(),
            read,
            adapted,
            seconds: each * range.len() as f64,
            peak_memory_bytes,
        })
    }

    /// Adapts to the batch that starts at a position and scores it, as a run does; says how many samples that was.
    fn rehearse_batch(&mut self, position: usize) -> Result<usize> {
        let segments = self.stream.order().segments();
        let batches = batches(&segments, self.experiment().adaptation.batch);
        let mut from = batches.into_iter().filter(|batch| batch.start >= position);
        let batch = from.next().unwrap_or(position..position + 1);
        let (start, length) = self.stream.order().segment(batch.start);
        let items = batch
            .map(|position| Ok(self.stream.item(position)?))
            .collect::<Result<Vec<_>>>()?;
        let seen = self.batch(&items, start, length)?;
        self.adapter.reset();
        let adapted = self.adapter.adapt_stream(&seen)?;
        self.adapter.reset();
        let scored = self.score(&items, [&adapted.source.named, &adapted.adapted.named])?;
        let mut running = Running::new(&self.scorer)?;
        for scored in scored.iter().flatten() {
            running.add(&scored.states)?;
        }
        running.report()?;
        if scored.iter().any(Option::is_some) {
            self.meet_every_class(&adapted.source.named)?;
        }
        Ok(items.len())
    }

    /// Shows the metric each class that the task model knows, as prediction and as target: the first batch holds some of them only.
    fn meet_every_class(&mut self, predictions: &Named) -> Result<()> {
        let name = self.predicts().name.clone();
        let ignored = match self.predicts().target {
            TargetType::ClassIndex {} => None,
            TargetType::LabelMap { ignore } => Some(ignore),
            TargetType::NumberMap { .. } => return Ok(()),
        };
        let count = self.adapter.tools().task().backbone().spec().outputs as i64;
        let classes: Vec<i64> = (0..count).filter(|class| Some(*class) != ignored).collect();
        if classes.is_empty() {
            // The head alone knows how many there are.
            return Ok(());
        }
        let Some(shape) = predictions.get(&name).map(Tensor::shape) else {
            return Ok(());
        };
        let mut metric = self.scorer.fresh()?;
        for shown in classes.chunks(shape.elements()) {
            let cycle = shown.iter().copied().cycle().take(shape.elements());
            let cycle = Tensor::from_ints(&cycle.collect::<Vec<_>>(), &shape, self.device())?;
            let mut instead = Named::one(name.clone(), cycle.clone());
            for (other, tensor) in predictions.iter().filter(|(other, _)| *other != name) {
                instead.push(other, tensor.clone());
            }
            metric.update(&instead, &Named::one(name.clone(), cycle))?;
        }
        metric.report()?;
        Ok(())
    }
}

/// Every number below `count` once, neighbours far apart: multiples of a number near the golden section that shares no factor with it.
fn spread(count: usize) -> impl Iterator<Item = usize> {
    let golden = (count as f64 * 0.618) as usize;
    let step = (golden..=count).find(|&step| common_divisor(step, count) == 1);
    let step = step.unwrap_or(1) as u128;
    (0..count).map(move |n| (n as u128 * step % count as u128) as usize)
}

fn common_divisor(a: usize, b: usize) -> usize {
    match b {
        0 => a,
        _ => common_divisor(b, a % b),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reads_every_sample_once(count in 0usize..500) {
            let mut seen: Vec<usize> = spread(count).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..count).collect::<Vec<_>>());
        }

        #[test]
        fn a_few_samples_come_from_all_over(count in 100usize..5000) {
            let quarters: std::collections::BTreeSet<usize> = spread(count).take(16).map(|n| 4 * n / count).collect();
            prop_assert_eq!(quarters.len(), 4);
        }
    }
}

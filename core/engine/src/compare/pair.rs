//! Two sides held against each other, sample by sample: the samples of all seeds together, domain by domain.

use std::collections::BTreeMap;

use super::comparison::Change;
use super::samples::{RunSamples, Sample};
use crate::error::Result;
use crate::record::Scores;
use crate::report::{Gains, Samples, Scorer, mean};

/// The predictions of a run that are held against others.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    pub run: &'a RunSamples,
    pub of: Of,
}

impl Side<'_> {
    /// What the metric accumulated of a sample's prediction.
    fn states(&self, sample: &Sample) -> Result<Option<Vec<u8>>> {
        let states = self.run.states(sample)?;
        Ok(states.map(|[source, method]| match self.of {
            Of::Source => source,
            Of::Method => method,
        }))
    }
}

/// Whose predictions.
#[derive(Clone, Copy)]
pub(super) enum Of {
    Source,
    Method,
}

/// Two sides in each domain and in the mean.
pub(super) struct Pair {
    pub domains: Vec<Held>,
    pub mean: Held,
}

/// Two sides on the same samples.
pub(super) struct Held {
    pub samples: usize,
    pub scores: [Scores; 2],
    /// The second side less the first.
    pub change: Change,
}

/// Holds runs on the same samples against each other, a pair for each seed, on the samples that both sides scored. `averaged` says which
/// domains count in the mean.
///
/// # Errors
/// Whatever the metric refuses.
pub(super) fn pair(
    pairs: &[[Side<'_>; 2]],
    averaged: &[bool],
    scorer: &Scorer,
    seed: u64,
) -> Result<Pair> {
    let mut gains = Gains::new(seed);
    let mut domains = Vec::new();
    for (place, &averaged) in averaged.iter().enumerate() {
        let here = pairs.iter().flat_map(|sides| {
            let [a, b] = sides.map(|side| side.run.samples.iter());
            let both = a.zip(b).map(move |samples| (sides, samples));
            both.filter(|(_, (one, other))| one.domain == place && one.scored && other.scored)
        });
        let mut units: BTreeMap<&str, usize> =
            here.clone().map(|(_, (one, _))| (&*one.id, 0)).collect();
        for (number, unit) in units.values_mut().enumerate() {
            *unit = number;
        }
        let mut samples = Samples::new(scorer);
        for ([a, b], (one, other)) in here {
            if let (Some(first), Some(second)) = (a.states(one)?, b.states(other)?) {
                samples.add(units[&*one.id], [first, second])?;
            }
        }
        let scores = samples.report()?;
        let change = Change {
            by: difference(&scores),
            intervals: gains.of_domain(&samples, averaged)?,
        };
        domains.push(Held {
            samples: samples.len(),
            scores,
            change,
        });
    }
    let of_mean = |side: usize| {
        let counted = domains.iter().zip(averaged).filter(|(_, counts)| **counts);
        mean(counted.map(|(held, _)| &held.scores[side]))
    };
    let scores = [of_mean(0), of_mean(1)];
    let mean = Held {
        samples: domains.iter().map(|held| held.samples).sum(),
        change: Change {
            by: difference(&scores),
            intervals: gains.of_mean(),
        },
        scores,
    };
    Ok(Pair { domains, mean })
}

/// The second scores less the first, where both are there.
fn difference([first, second]: &[Scores; 2]) -> Scores {
    let both = second.iter().filter_map(|(name, second)| {
        let first = first.get(name)?;
        Some((name.clone(), second - first))
    });
    both.collect()
}

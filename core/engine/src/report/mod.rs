//! The report of a run: scores of each domain and of their mean, how sure the gains are, and the protocol. It is made from what a run
//! leaves on disk, so a merged run's report is that of an unbroken one.

mod bootstrap;
mod memory;
mod scorer;

use std::collections::BTreeMap;

use dtta_data::Order;

pub(crate) use self::bootstrap::{Gains, Samples};
pub(crate) use self::memory::{forget_peak, peak_memory};
pub use self::scorer::Scored;
pub(crate) use self::scorer::{Running, Scorer, targets};
use crate::error::Result;
use crate::record::{
    DomainDescription, DomainSummary, Pair, Protocol, RunDescription, Scores, Summary,
};
use crate::sinks::SampleState;
pub(crate) use crate::sinks::StatesFile;

/// The summary of a run from its description and the accumulators of its samples, domain after domain.
///
/// # Errors
/// Whatever the metric refuses, or reading.
pub(crate) fn summary(
    run: &RunDescription,
    scorer: &Scorer,
    mut states: StatesFile,
    peak_memory_bytes: Option<u64>,
) -> Result<Summary> {
    let experiment = &run.experiment;
    let averaged = averaged(&run.domains);
    let lengths: Vec<usize> = run.domains.iter().map(|domain| domain.samples).collect();
    let order = Order::new(&experiment.data.stream, &lengths, experiment.seed);
    let mut gains = Gains::new(experiment.seed);
    let mut finished = |index: usize, read: Read<'_>| -> Result<DomainSummary> {
        let [source, adapted] = read.samples.report()?;
        let intervals = gains.of_domain(&read.samples, averaged[index])?;
        let seconds = run.done.seconds.get(index).copied().unwrap_or_default();
        Ok(DomainSummary {
            name: run.domains[index].name.clone(),
            averaged: averaged[index],
            samples: read.count - read.skipped,
            skipped: read.skipped,
            source,
            adapted,
            intervals,
            seconds_per_sample: seconds / read.count.max(1) as f64,
        })
    };
    // A domain is scored as soon as all of it was read, so that memory does not grow with their number unless they are mixed.
    let mut open: BTreeMap<usize, Read<'_>> = BTreeMap::new();
    let mut done: BTreeMap<usize, DomainSummary> = BTreeMap::new();
    while let Some(state) = states.next()? {
        let Some((domain, place)) = order.place(state.position) else {
            break;
        };
        let mut read = open.remove(&domain).unwrap_or_else(|| Read::none(scorer));
        read.add(place, state)?;
        if read.count == lengths[domain] {
            done.insert(domain, finished(domain, read)?);
        } else {
            open.insert(domain, read);
        }
    }
    // What is left is not complete: a shard has it so.
    for index in (0..lengths.len())
        .filter(|index| !done.contains_key(index))
        .collect::<Vec<_>>()
    {
        let read = open.remove(&index);
        let read = read.unwrap_or_else(|| Read::none(scorer));
        done.insert(index, finished(index, read)?);
    }
    let domains: Vec<DomainSummary> = done.into_values().collect();
    let of_mean = || domains.iter().filter(|domain| domain.averaged);
    let mean = Pair {
        source: mean(of_mean().map(|domain| &domain.source)),
        adapted: mean(of_mean().map(|domain| &domain.adapted)),
        intervals: gains.of_mean(),
    };
    let seconds: f64 = run.done.seconds.iter().sum();
    let skipped = domains.iter().map(|domain| domain.skipped).sum();
    Ok(Summary {
        experiment: experiment.name.clone(),
        predicts: run.predicts.name.clone(),
        metric: scorer.leading(&mean.adapted),
        scores: run.scores.clone(),
        protocol: Protocol {
            method: experiment.method.clone(),
            adaptation: experiment.adaptation.clone(),
            in_words: run.in_words.clone(),
            seed: experiment.seed,
            samples_per_domain: domains
                .iter()
                .map(|domain| (domain.name.clone(), domain.samples))
                .collect(),
            corruptions: run
                .domains
                .iter()
                .filter_map(|domain| Some((domain.name.clone(), domain.corruption.clone()?)))
                .collect(),
            digests: run.identity.digests.clone(),
            device: run.identity.device.clone(),
            denoiser_precision: experiment.models.denoiser_precision,
            seen: run.seen.clone(),
        },
        domains,
        mean,
        skipped,
        seconds_per_sample: seconds / run.done.samples.max(1) as f64,
        draws_per_second: run.done.draws as f64 / seconds.max(1e-9),
        peak_memory_bytes,
    })
}

/// What was read of a domain.
struct Read<'a> {
    samples: Samples<'a>,
    count: usize,
    skipped: usize,
}

impl<'a> Read<'a> {
    fn none(scorer: &'a Scorer) -> Self {
        Self {
            samples: Samples::new(scorer),
            count: 0,
            skipped: 0,
        }
    }

    fn add(&mut self, place: usize, state: SampleState) -> Result<()> {
        self.count += 1;
        self.skipped += usize::from(state.skipped);
        match state.states {
            Some(states) => self.samples.add(place, states),
            None => Ok(()),
        }
    }
}

/// Which domains count in means: those that are shifted; all where none is.
pub(crate) fn averaged(domains: &[DomainDescription]) -> Vec<bool> {
    let mut averaged: Vec<bool> = domains.iter().map(|domain| domain.shifted).collect();
    if !averaged.contains(&true) {
        averaged.fill(true);
    }
    averaged
}

/// The mean of each score over the domains that have it.
pub(crate) fn mean<'a>(scores: impl Iterator<Item = &'a Scores>) -> Scores {
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

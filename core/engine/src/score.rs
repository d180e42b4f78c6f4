//! Scores: what metrics accumulate over each domain, for the source model and the adapted one, and how sure the gain is.

use std::collections::BTreeMap;

use dtta_data::{Map, StreamItem, keyed_rng};
use dtta_plugin::{Accuracy, Environment, Metric, Named, Plugin};
use dtta_tensor::{Device, Tensor};
use rand_distr::{Distribution, Uniform};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Result;
use crate::record::{Interval, Intervals, Scores};
use crate::task::TaskKind;

/// Resamplings of a bootstrap.
const RESAMPLES: usize = 400;

/// Where accumulators come from.
pub(crate) enum Scorer {
    /// The core's accuracy.
    Core,
    /// A plugin's metric with its configuration.
    Plugin(Plugin, Value, Environment),
}

impl Scorer {
    /// An empty accumulator.
    pub fn fresh(&self) -> Result<Box<dyn Metric>> {
        Ok(match self {
            Self::Core => Box::new(Accuracy::new()),
            Self::Plugin(plugin, config, environment) => plugin.metric(config, environment)?,
        })
    }

    /// The accumulators of some samples by themselves, saved, with their scores.
    pub fn each(&self, predictions: &Named, targets: &Named) -> Result<Vec<(Vec<u8>, Scores)>> {
        let samples = targets.first().map_or(0, |(_, tensor)| tensor.shape()[0]);
        let row = |named: &Named, sample: usize| -> Result<Named> {
            let rows = named
                .iter()
                .map(|(name, tensor)| Ok((name.clone(), tensor.narrow(0, sample, 1)?)));
            rows.collect()
        };
        let each = (0..samples).map(|sample| {
            let mut metric = self.fresh()?;
            metric.update(&row(predictions, sample)?, &row(targets, sample)?)?;
            Ok((metric.save(), metric.report()?))
        });
        each.collect()
    }

    /// The score of some samples together.
    fn together<'a>(&self, saved: impl Iterator<Item = &'a [u8]>) -> Result<Scores> {
        let mut metric = self.fresh()?;
        for saved in saved {
            metric.merge(saved)?;
        }
        Ok(metric.report()?)
    }
}

/// What there is to know about a domain's samples, for metrics only; `None` unless it is known of all of them.
pub(crate) fn targets(
    kind: TaskKind,
    items: &[StreamItem],
    device: &Device,
) -> Result<Option<Named>> {
    fn all<T: Copy, U>(
        maps: Option<Vec<&Map<T>>>,
        value: impl Fn(T) -> U,
    ) -> Option<(Vec<U>, Vec<usize>)> {
        let maps = maps?;
        let [height, width] = maps.first()?.shape();
        let values = maps
            .iter()
            .flat_map(|map| map.data())
            .map(|&v| value(v))
            .collect();
        Some((values, vec![maps.len(), height, width]))
    }
    let tensor = match kind {
        TaskKind::Classification => {
            let classes: Option<Vec<i64>> =
                items.iter().map(|item| item.label.map(i64::from)).collect();
            classes
                .map(|classes| Tensor::from_ints(&classes, &[items.len()], device))
                .transpose()?
        }
        TaskKind::Segmentation => {
            let masks = items.iter().map(|item| item.maps.mask.as_ref()).collect();
            all(masks, i64::from)
                .map(|(labels, shape)| Tensor::from_ints(&labels, &shape, device))
                .transpose()?
        }
        TaskKind::Depth => {
            let depths = items.iter().map(|item| item.maps.depth.as_ref()).collect();
            all(depths, |depth| depth)
                .map(|(depths, shape)| Tensor::from_floats(&depths, &shape, device))
                .transpose()?
        }
    };
    Ok(tensor.map(|tensor| vec![(kind.prediction().to_owned(), tensor)]))
}

/// The scores of one domain so far.
pub(crate) struct Scored {
    source: Box<dyn Metric>,
    adapted: Box<dyn Metric>,
    /// What a checkpoint keeps.
    pub kept: Kept,
}

/// What remains of a domain's samples.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The accumulators of each sample that was scored, source and adapted.
    saved: Vec<(Vec<u8>, Vec<u8>)>,
    /// Samples that were adapted to.
    pub samples: usize,
    /// Time that took.
    pub seconds: f64,
}

impl Scored {
    pub fn new(scorer: &Scorer) -> Result<Self> {
        Ok(Self {
            source: scorer.fresh()?,
            adapted: scorer.fresh()?,
            kept: Kept::default(),
        })
    }

    /// Adds the saved accumulators of one sample.
    pub fn add(&mut self, source: Vec<u8>, adapted: Vec<u8>) -> Result<()> {
        self.source.merge(&source)?;
        self.adapted.merge(&adapted)?;
        self.kept.saved.push((source, adapted));
        Ok(())
    }

    /// Takes up what a checkpoint kept.
    pub fn restore(&mut self, kept: Kept) -> Result<()> {
        for (source, adapted) in kept.saved {
            self.add(source, adapted)?;
        }
        (self.kept.samples, self.kept.seconds) = (kept.samples, kept.seconds);
        Ok(())
    }

    /// The scores of the source model and of the adapted one.
    pub fn report(&mut self) -> Result<[Scores; 2]> {
        Ok([self.source.report()?, self.adapted.report()?])
    }
}

/// How sure the gains of some domains are, and of their mean: 95 % intervals of a paired bootstrap over samples (Efron and Tibshirani
/// 1993, percentiles). Domains of equal size are resampled alike, since a stream shows the same samples under each condition.
/// The mean is over the domains that `averaged` marks.
pub(crate) fn intervals(
    scorer: &Scorer,
    scored: &[Scored],
    averaged: &[bool],
    seed: u64,
) -> Result<(Vec<Intervals>, Intervals)> {
    let mut of_domains: Vec<BTreeMap<String, Vec<f64>>> = vec![BTreeMap::new(); scored.len()];
    let mut of_mean: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for resample in 0..RESAMPLES {
        let mut sums: BTreeMap<String, (f64, usize)> = BTreeMap::new();
        for ((scored, averaged), gains) in scored.iter().zip(averaged).zip(&mut of_domains) {
            let saved = &scored.kept.saved;
            let Ok(place) = Uniform::new(0, saved.len()) else {
                continue;
            };
            let key = [seed.to_le_bytes(), (resample as u64).to_le_bytes()];
            let mut rng = keyed_rng("bootstrap", &[&key[0], &key[1]]);
            let chosen: Vec<usize> = (0..saved.len()).map(|_| place.sample(&mut rng)).collect();
            let source = scorer.together(chosen.iter().map(|&n| &*saved[n].0))?;
            let adapted = scorer.together(chosen.iter().map(|&n| &*saved[n].1))?;
            for (name, score) in source {
                if let Some(adapted) = adapted.get(&name) {
                    gains.entry(name.clone()).or_default().push(adapted - score);
                    if *averaged {
                        let (sum, count) = sums.entry(name).or_default();
                        *sum += adapted - score;
                        *count += 1;
                    }
                }
            }
        }
        for (name, (sum, count)) in sums {
            of_mean.entry(name).or_default().push(sum / count as f64);
        }
    }
    let percentiles = |gains: BTreeMap<String, Vec<f64>>| -> Intervals {
        let bounds = gains.into_iter().map(|(name, mut gains)| {
            gains.sort_unstable_by(f64::total_cmp);
            let at = |share: f64| gains[((gains.len() - 1) as f64 * share).round() as usize];
            let interval = Interval {
                low: at(0.025),
                high: at(0.975),
            };
            (name, interval)
        });
        bounds.collect()
    };
    Ok((
        of_domains.into_iter().map(percentiles).collect(),
        percentiles(of_mean),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A domain of samples of which the source gets the first few right, the adapted model the last few.
    fn domain(samples: usize, source: usize, adapted: usize) -> Scored {
        let scorer = Scorer::Core;
        let class = |right: bool| -> Named {
            let class = Tensor::from_ints(&[i64::from(right)], &[1], &Device::cpu()).unwrap();
            vec![("class".into(), class)]
        };
        let mut scored = Scored::new(&scorer).unwrap();
        for n in 0..samples {
            let save = |right| {
                scorer
                    .each(&class(right), &class(true))
                    .unwrap()
                    .remove(0)
                    .0
            };
            scored
                .add(save(n < source), save(n >= samples - adapted))
                .unwrap();
        }
        scored
    }

    #[test]
    fn intervals_hold_the_gain_and_shrink_with_samples() {
        let mut widths = Vec::new();
        for samples in [20, 320] {
            let mut scored = [domain(samples, samples / 4, samples / 2)];
            let [source, adapted] = scored[0].report().unwrap();
            let gain = adapted["accuracy"] - source["accuracy"];
            assert!((gain - 0.25).abs() < 1e-9);
            let (domains, mean) = intervals(&Scorer::Core, &scored, &[true], 0).unwrap();
            let interval = domains[0]["accuracy"];
            assert_eq!(interval, mean["accuracy"]);
            assert!(interval.low < gain && gain < interval.high);
            // Each sample's gain is 1, 0 or -1 with shares 1/2, 1/4, 1/4, so a deviation of 0.83.
            let deviation = 0.829 / (samples as f64).sqrt();
            let expected = 2.0 * 1.96 * deviation;
            let width = interval.high - interval.low;
            assert!((width / expected - 1.0).abs() < 0.2, "{width} {expected}");
            widths.push(width);
        }
        assert!(widths[0] > 3.0 * widths[1]);
    }

    #[test]
    fn pairing_leaves_nothing_to_chance_where_nothing_changed() {
        let scored = [domain(30, 30, 30)];
        let (domains, _) = intervals(&Scorer::Core, &scored, &[true], 0).unwrap();
        assert_eq!(
            domains[0]["accuracy"],
            Interval {
                low: 0.0,
                high: 0.0
            }
        );
    }

    #[test]
    fn the_mean_is_over_the_marked_domains() {
        let scored = [domain(30, 30, 30), domain(30, 0, 30)];
        let of_mean = |marks: [bool; 2]| intervals(&Scorer::Core, &scored, &marks, 0).unwrap().1;
        let point = |gain| Interval {
            low: gain,
            high: gain,
        };
        assert_eq!(of_mean([true, false])["accuracy"], point(0.0));
        assert_eq!(of_mean([false, true])["accuracy"], point(1.0));
        assert_eq!(of_mean([true, true])["accuracy"], point(0.5));
    }

    #[test]
    fn what_was_kept_restores_the_scores() {
        let mut scored = domain(10, 3, 6);
        let kept = serde_json::to_string(&scored.kept).unwrap();
        let mut again = Scored::new(&Scorer::Core).unwrap();
        again.restore(serde_json::from_str(&kept).unwrap()).unwrap();
        assert_eq!(again.report().unwrap(), scored.report().unwrap());
    }
}

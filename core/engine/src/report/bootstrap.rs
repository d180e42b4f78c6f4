//! How sure the gains of some domains are, and of their mean: 95 % intervals of a paired bootstrap over samples (Efron and Tibshirani 1993,
//! percentiles). Domains of equal size are resampled alike, since a stream shows the same samples under each condition. What several seeds
//! made of one sample is resampled together.
//!
//! A resample counts how often each sample was drawn. Where the metric's accumulators add up, number by number, those counts weigh their
//! numbers, and the metric is asked once for each resample; otherwise it merges one accumulator after the other.

use std::collections::BTreeMap;

use dtta_base::keyed_rng;
use dtta_plugin::Layout;
use rand_distr::{Distribution, Uniform};

use super::scorer::Scorer;
use crate::error::Result;
use crate::record::{Interval, Intervals, Scores};

/// Resamplings of a bootstrap.
const RESAMPLES: usize = 400;

/// The accumulators of a domain's samples, of two sides: source and adapted, or two methods.
pub(crate) struct Samples<'a> {
    scorer: &'a Scorer,
    kept: [Kept; 2],
    /// For each sample, which of the things it belongs to that are resampled: any number, such as its place in the domain.
    units: Vec<usize>,
}

/// The accumulators of some samples.
enum Kept {
    /// As numbers: samples of one layout side by side.
    Numbers(Vec<Alike>),
    /// As they were saved.
    Saved(Vec<Vec<u8>>),
}

/// Samples whose accumulators are laid out alike.
struct Alike {
    layout: Layout,
    /// Which of all samples they are, in the order of adding.
    places: Vec<usize>,
    /// Their numbers, one sample after the other.
    numbers: Vec<i64>,
}

impl<'a> Samples<'a> {
    pub fn new(scorer: &'a Scorer) -> Self {
        let kept = || match scorer.additive() {
            true => Kept::Numbers(Vec::new()),
            false => Kept::Saved(Vec::new()),
        };
        Self {
            scorer,
            kept: [kept(), kept()],
            units: Vec::new(),
        }
    }

    /// Adds a sample, which is resampled together with the others of its unit.
    ///
    /// # Errors
    /// That a metric which says that its accumulators add up saved one that cannot.
    pub fn add(&mut self, unit: usize, states: [Vec<u8>; 2]) -> Result<()> {
        for (kept, state) in self.kept.iter_mut().zip(states) {
            kept.add(self.units.len(), state)?;
        }
        self.units.push(unit);
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.units.len()
    }

    /// For each sample, how many units have a lower number than its own; and how many there are.
    fn ranks(&self) -> (Vec<usize>, usize) {
        let mut units = self.units.clone();
        units.sort_unstable();
        units.dedup();
        let rank = |unit: &usize| units.partition_point(|other| other < unit);
        (self.units.iter().map(rank).collect(), units.len())
    }

    /// The scores of all samples together.
    pub fn report(&self) -> Result<[Scores; 2]> {
        let once = vec![1; self.units.len()];
        Ok([
            self.kept[0].report(self.scorer, &once)?,
            self.kept[1].report(self.scorer, &once)?,
        ])
    }
}

impl Kept {
    fn add(&mut self, place: usize, state: Vec<u8>) -> Result<()> {
        match self {
            Self::Saved(saved) => saved.push(state),
            Self::Numbers(alike) => {
                let split = Layout::split(&state).and_then(|(layout, numbers)| {
                    let numbers = numbers.into_iter().map(|number| i64::try_from(number).ok());
                    Some((layout, numbers.collect::<Option<Vec<i64>>>()?))
                });
                let (layout, numbers) = split.ok_or_else(|| crate::Error::Outputs {
                    role: "metric",
                    found: "a saved accumulator that is not JSON of 64-bit integers".into(),
                    expected: "its descriptor says `additive`".into(),
                })?;
                let group = match alike.iter().position(|group| group.layout == layout) {
                    Some(found) => &mut alike[found],
                    None => {
                        alike.push(Alike {
                            layout,
                            places: Vec::new(),
                            numbers: Vec::new(),
                        });
                        alike.last_mut().expect("just pushed")
                    }
                };
                group.places.push(place);
                group.numbers.extend(numbers);
            }
        }
        Ok(())
    }

    /// The scores of the samples, each counted so many times.
    fn report(&self, scorer: &Scorer, counts: &[u32]) -> Result<Scores> {
        let mut metric = scorer.fresh()?;
        match self {
            Self::Saved(saved) => {
                for (saved, &count) in saved.iter().zip(counts) {
                    for _ in 0..count {
                        metric.merge(saved)?;
                    }
                }
            }
            Self::Numbers(alike) => {
                for group in alike {
                    if let Some(sum) = group.sum(counts) {
                        metric.merge(&sum)?;
                    }
                }
            }
        }
        Ok(metric.report()?)
    }
}

impl Alike {
    /// The accumulator of the samples, each counted so many times; nothing if none counts.
    fn sum(&self, counts: &[u32]) -> Option<Vec<u8>> {
        let width = self.numbers.len() / self.places.len().max(1);
        let mut sums = vec![0i128; width];
        let mut any = false;
        for (n, &place) in self.places.iter().enumerate() {
            let count = i128::from(counts[place]);
            if count == 0 {
                continue;
            }
            any = true;
            let numbers = &self.numbers[n * width..(n + 1) * width];
            for (sum, number) in sums.iter_mut().zip(numbers) {
                *sum += count * i128::from(*number);
            }
        }
        if any { self.layout.join(&sums) } else { None }
    }
}

/// Gains in each resample, over the domains of a run.
pub(crate) struct Gains {
    seed: u64,
    /// For each resample, by score: the sum over averaged domains, and how many had it.
    of_mean: Vec<BTreeMap<String, (f64, usize)>>,
}

impl Gains {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            of_mean: vec![BTreeMap::new(); RESAMPLES],
        }
    }

    /// The intervals of a domain, which may count in the mean.
    pub fn of_domain(&mut self, samples: &Samples<'_>, averaged: bool) -> Result<Intervals> {
        let mut gains: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let (ranks, units) = samples.ranks();
        let Ok(unit) = Uniform::new(0, units) else {
            return Ok(Intervals::new());
        };
        for (resample, of_mean) in self.of_mean.iter_mut().enumerate() {
            let key = [self.seed.to_le_bytes(), (resample as u64).to_le_bytes()];
            let mut rng = keyed_rng("bootstrap", &[&key[0], &key[1]]);
            let mut drawn = vec![0u32; units];
            for _ in 0..units {
                drawn[unit.sample(&mut rng)] += 1;
            }
            let counts: Vec<u32> = ranks.iter().map(|&rank| drawn[rank]).collect();
            let source = samples.kept[0].report(samples.scorer, &counts)?;
            let adapted = samples.kept[1].report(samples.scorer, &counts)?;
            for (name, score) in source {
                if let Some(adapted) = adapted.get(&name) {
                    let gain = adapted - score;
                    gains.entry(name.clone()).or_default().push(gain);
                    if averaged {
                        let (sum, count) = of_mean.entry(name).or_default();
                        *sum += gain;
                        *count += 1;
                    }
                }
            }
        }
        Ok(percentiles(gains))
    }

    /// The intervals of the mean.
    pub fn of_mean(self) -> Intervals {
        let mut gains: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (name, (sum, count)) in self.of_mean.into_iter().flatten() {
            gains.entry(name).or_default().push(sum / count as f64);
        }
        percentiles(gains)
    }
}

fn percentiles(gains: BTreeMap<String, Vec<f64>>) -> Intervals {
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
}

#[cfg(test)]
mod tests {
    use dtta_tensor::{Device, Named, Tensor};
    use proptest::prelude::*;

    use super::*;

    /// A domain of samples of which the source gets the first few right, the adapted model the last few.
    fn domain(scorer: &Scorer, samples: usize, source: usize, adapted: usize) -> Samples<'_> {
        let class = |right: bool| {
            let class = Tensor::from_ints(&[i64::from(right)], &[1], &Device::cpu()).unwrap();
            Named::one("class", class)
        };
        let mut all = Samples::new(scorer);
        for n in 0..samples {
            let pair = [class(n < source), class(n >= samples - adapted)];
            let scored = scorer.each([&pair[0], &pair[1]], &class(true), 1).unwrap();
            all.add(n, scored[0].states.clone()).unwrap();
        }
        all
    }

    #[test]
    fn intervals_hold_the_gain_and_shrink_with_samples() {
        let scorer = Scorer::core();
        let mut widths = Vec::new();
        for samples in [20, 320] {
            let scored = domain(&scorer, samples, samples / 4, samples / 2);
            let [source, adapted] = scored.report().unwrap();
            let gain = adapted["accuracy"] - source["accuracy"];
            assert!((gain - 0.25).abs() < 1e-9);
            let mut gains = Gains::new(0);
            let interval = gains.of_domain(&scored, true).unwrap()["accuracy"];
            assert_eq!(interval, gains.of_mean()["accuracy"]);
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
        let scorer = Scorer::core();
        let scored = domain(&scorer, 30, 30, 30);
        let found = Gains::new(0).of_domain(&scored, true).unwrap();
        let (low, high) = (0.0, 0.0);
        assert_eq!(found["accuracy"], Interval { low, high });
    }

    #[test]
    fn what_belongs_together_is_drawn_together() {
        let scorer = Scorer::core();
        let class = |right: bool| {
            let class = Tensor::from_ints(&[i64::from(right)], &[1], &Device::cpu()).unwrap();
            Named::one("class", class)
        };
        // Three seeds that made the same of each sample know no more than one.
        let of_seeds = |seeds: usize| {
            let mut all = Samples::new(&scorer);
            for _ in 0..seeds {
                for n in 0..40 {
                    let pair = [class(n < 10), class(n >= 25)];
                    let scored = scorer.each([&pair[0], &pair[1]], &class(true), 1).unwrap();
                    all.add(n, scored[0].states.clone()).unwrap();
                }
            }
            assert_eq!(all.len(), 40 * seeds);
            Gains::new(5).of_domain(&all, true).unwrap()
        };
        assert_eq!(of_seeds(3), of_seeds(1));
    }

    proptest! {
        #[test]
        fn sides_change_places_and_intervals_are_mirrored(right in proptest::collection::vec(any::<(bool, bool)>(), 1..40)) {
            let scorer = Scorer::core();
            let class = |right: bool| {
                let class = Tensor::from_ints(&[i64::from(right)], &[1], &Device::cpu()).unwrap();
                Named::one("class", class)
            };
            let interval = |sides: [usize; 2]| {
                let mut all = Samples::new(&scorer);
                for (n, &(first, second)) in right.iter().enumerate() {
                    let both = [first, second].map(class);
                    let pair = sides.map(|side| &both[side]);
                    let scored = scorer.each(pair, &class(true), 1).unwrap();
                    all.add(n, scored[0].states.clone()).unwrap();
                }
                Gains::new(1).of_domain(&all, true).unwrap()["accuracy"]
            };
            let (forth, back) = (interval([0, 1]), interval([1, 0]));
            prop_assert_eq!([back.low, back.high], [-forth.high, -forth.low]);
            let same = interval([1, 1]);
            prop_assert_eq!([same.low, same.high], [0.0, 0.0]);
        }
    }

    #[test]
    fn the_mean_is_over_the_marked_domains() {
        let scorer = Scorer::core();
        let of_mean = |marks: [bool; 2]| {
            let mut gains = Gains::new(0);
            let domains = [domain(&scorer, 30, 30, 30), domain(&scorer, 30, 0, 30)];
            for (domain, mark) in domains.iter().zip(marks) {
                gains.of_domain(domain, mark).unwrap();
            }
            gains.of_mean()["accuracy"]
        };
        let point = |gain| Interval {
            low: gain,
            high: gain,
        };
        assert_eq!(of_mean([true, false]), point(0.0));
        assert_eq!(of_mean([false, true]), point(1.0));
        assert_eq!(of_mean([true, true]), point(0.5));
    }

    #[test]
    fn counted_numbers_are_scored_as_merged_accumulators_are() {
        let scorer = Scorer::core();
        let numbers = domain(&scorer, 12, 5, 8);
        let counts: Vec<u32> = (0..12).map(|n| n % 4).collect();
        let mut saved = Kept::Saved(Vec::new());
        let Kept::Numbers(alike) = &numbers.kept[0] else {
            panic!("the core's accuracy adds up")
        };
        for place in 0..12 {
            let once: Vec<u32> = (0..12).map(|n| u32::from(n == place)).collect();
            let one = alike.iter().find_map(|group| group.sum(&once)).unwrap();
            saved.add(place as usize, one).unwrap();
        }
        assert_eq!(
            numbers.kept[0].report(&scorer, &counts).unwrap(),
            saved.report(&scorer, &counts).unwrap()
        );
    }
}

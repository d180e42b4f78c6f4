//! What follows from a diagnosis: in which range of timesteps feedback may help, or that it will not.

use serde::{Deserialize, Serialize};

use super::{DomainDiagnosis, Images, RangeDiagnosis};

/// The normal quantile of 99.5 %: chance finds one of ten ranges useful that is none in one diagnosis of twenty.
const QUANTILE: f64 = 2.576;

/// What follows from a diagnosis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conclusion {
    /// The domains that it is about: the shifted ones, or all where none is shifted.
    pub domains: Vec<String>,
    /// Different images in them. An image counts once, in however many domains it is: what is seen of it there is not independent.
    pub images: usize,
    /// By range of timesteps, over these domains.
    pub ranges: Vec<RangeConclusion>,
    /// The neighbouring useful ranges that point to the truth most; none if no range is useful.
    #[serde(serialize_with = "dtta_learn::serialize_range")]
    pub suggested_t: Option<[f64; 2]>,
    /// The range that the experiment uses.
    #[serde(serialize_with = "dtta_learn::serialize_range")]
    pub configured_t: [f64; 2],
    /// Domains in which most first gradients within the suggested range point away from the truth.
    pub points_away: Vec<String>,
}

/// One range of timesteps, over the domains that a conclusion is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RangeConclusion {
    /// First timestep, and one after the last.
    #[serde(serialize_with = "dtta_learn::serialize_range")]
    pub t: [f64; 2],
    /// Mean loss under the truth.
    pub true_loss: f64,
    /// Mean loss under another sample's truth.
    pub shuffled_loss: f64,
    /// Share of samples whose first gradient points toward the truth.
    pub toward_truth: f64,
    /// The lower end of its one-sided 99.5 % interval: the normal one over images (an image's share over its domains is one number, since what
    /// is seen of it in several is not independent), after two images were added, one that points each way, so that few images say little.
    pub toward_truth_low: f64,
    /// Whether the loss is lower under the truth than under another's, and `toward_truth_low` above one half.
    pub useful: bool,
}

impl Conclusion {
    /// From what was seen of some domains, and of the images in them.
    pub(super) fn of(
        domains: &[&DomainDiagnosis],
        images: &Images,
        configured_t: [f64; 2],
    ) -> Self {
        let count = domains.first().map_or(0, |domain| domain.ranges.len());
        let ranges: Vec<_> = (0..count)
            .map(|place| {
                let mean = |field: fn(&RangeDiagnosis) -> f64| {
                    let fields = domains.iter().map(|domain| field(&domain.ranges[place]));
                    fields.sum::<f64>() / domains.len() as f64
                };
                let toward_truth = mean(|range| range.toward_truth);
                let (true_loss, shuffled_loss) = (
                    mean(|range| range.true_loss),
                    mean(|range| range.shuffled_loss),
                );
                let toward_truth_low = low(images.values().map(|ranges| share(&ranges[place])));
                RangeConclusion {
                    t: domains[0].ranges[place].t,
                    true_loss,
                    shuffled_loss,
                    toward_truth,
                    toward_truth_low,
                    useful: true_loss < shuffled_loss && toward_truth_low > 0.5,
                }
            })
            .collect();
        let suggested_t = suggested(&ranges);
        let points_away = suggested_t.map_or_else(Vec::new, |[low, high]| {
            let within = |range: &&RangeDiagnosis| range.t[0] >= low && range.t[1] <= high;
            let away = |domain: &&&DomainDiagnosis| {
                let (sum, count) = domain
                    .ranges
                    .iter()
                    .filter(within)
                    .fold((0.0, 0), |(sum, count), range| {
                        (sum + range.toward_truth, count + 1)
                    });
                sum < 0.5 * f64::from(count)
            };
            let names = domains
                .iter()
                .filter(away)
                .map(|domain| domain.name.clone());
            names.collect()
        });
        Self {
            domains: domains.iter().map(|domain| domain.name.clone()).collect(),
            images: images.len(),
            ranges,
            suggested_t,
            configured_t,
            points_away,
        }
    }
}

/// Of all runs of neighbouring useful ranges, the one with the most timesteps, each weighted by how far its share lies above one half.
fn suggested(ranges: &[RangeConclusion]) -> Option<[f64; 2]> {
    let mut best: Option<(f64, [f64; 2])> = None;
    let mut current: Option<(f64, [f64; 2])> = None;
    for range in ranges {
        let [low, high] = range.t;
        let weight = (high - low) * (range.toward_truth - 0.5);
        current = match (range.useful, current) {
            (false, _) => None,
            (true, Some((sum, [start, end]))) if end == low => Some((sum + weight, [start, high])),
            (true, _) => Some((weight, range.t)),
        };
        if let Some((sum, t)) = current
            && best.is_none_or(|(most, _)| sum > most)
        {
            best = Some((sum, t));
        }
    }
    best.map(|(_, t)| t)
}

/// The share of what is true.
fn share(flags: &[bool]) -> f64 {
    flags.iter().filter(|flag| **flag).count() as f64 / flags.len() as f64
}

/// The lower end of a mean share's interval, from each image's own.
fn low(shares: impl Iterator<Item = f64>) -> f64 {
    let shares: Vec<f64> = shares.chain([0.0, 1.0]).collect();
    let count = shares.len() as f64;
    let mean = shares.iter().sum::<f64>() / count;
    let squares: f64 = shares.iter().map(|share| (share - mean).powi(2)).sum();
    mean - QUANTILE * (squares / (count - 1.0) / count).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(name: &str, ranges: &[([f64; 2], f64, f64)]) -> DomainDiagnosis {
        let ranges = ranges
            .iter()
            .map(|&(t, shuffled_loss, toward_truth)| RangeDiagnosis {
                t,
                source_loss: 1.0,
                true_loss: 1.0,
                shuffled_loss,
                truth_wins: 0.5,
                toward_truth,
                classifier_accuracy: None,
                rounding: None,
            });
        DomainDiagnosis {
            name: name.into(),
            ranges: ranges.collect(),
        }
    }

    /// So many images, in two domains each, with shares of gradients toward the truth by range.
    fn images(count: usize, shares: &[f64]) -> Images {
        let image = |n: usize| {
            let hits = shares.iter().map(|share| {
                let hit = |place: usize| ((2 * n + place) as f64 * 0.618).fract() < *share;
                vec![hit(0), hit(1)]
            });
            (format!("test/{n}"), hits.collect())
        };
        (0..count).map(image).collect()
    }

    #[test]
    fn few_images_say_little_and_an_image_counts_once() {
        // With one that points each way: mean 7/8, deviation sqrt(1/8), 8 images: 0.875 - 2.576 * 0.125.
        assert!((low([1.0; 6].into_iter()) - 0.553).abs() < 1e-3);
        assert!(low([1.0; 4].into_iter()) < 0.5);
        // Whatever the number of domains that an image is in, it is one share.
        assert_eq!(share(&[true, true, false, true]), 0.75);
    }

    #[test]
    fn neighbouring_ranges_that_point_to_the_truth_are_suggested_and_domains_that_do_not_are_named()
    {
        let fog = domain(
            "fog",
            &[
                ([0.0, 100.0], 1.1, 0.5),
                ([100.0, 300.0], 1.1, 1.0),
                ([300.0, 500.0], 1.1, 1.0),
                ([500.0, 1000.0], 1.1, 0.4),
            ],
        );
        let jpeg = domain(
            "jpeg",
            &[
                ([0.0, 100.0], 1.1, 0.5),
                ([100.0, 300.0], 1.1, 0.45),
                ([300.0, 500.0], 1.1, 0.5),
                ([500.0, 1000.0], 1.1, 0.5),
            ],
        );
        let seen = |count| images(count, &[0.5, 0.8, 0.8, 0.4]);
        let found = Conclusion::of(&[&fog, &jpeg], &seen(100), [0.0, 1000.0]);
        assert_eq!(found.suggested_t, Some([100.0, 500.0]));
        assert_eq!(found.points_away, ["jpeg"]);
        // Of so few images, nothing can be said.
        assert_eq!(
            Conclusion::of(&[&fog, &jpeg], &seen(4), [0.0, 1000.0]).suggested_t,
            None
        );
    }

    #[test]
    fn a_denoiser_that_prefers_a_strangers_truth_is_of_no_use() {
        let deaf = domain("fog", &[([0.0, 1000.0], 1.0, 1.0)]);
        assert_eq!(
            Conclusion::of(&[&deaf], &images(100, &[1.0]), [0.0, 1000.0]).suggested_t,
            None
        );
    }
}

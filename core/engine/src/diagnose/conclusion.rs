//! What follows from a diagnosis: in which range of timesteps feedback may help, or that it will not.

use serde::{Deserialize, Serialize};

use super::{DomainDiagnosis, RangeDiagnosis};

/// How often chance may find a range useful that is none, all ranges together.
const LEVEL: f64 = 0.05;

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
    pub suggested_t: Option<[usize; 2]>,
    /// The range that the experiment uses.
    pub configured_t: [usize; 2],
    /// Domains in which most first gradients within the suggested range point away from the truth.
    pub points_away: Vec<String>,
}

/// One range of timesteps, over the domains that a conclusion is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RangeConclusion {
    /// First timestep, and one after the last.
    pub t: [usize; 2],
    /// Mean loss under the truth.
    pub true_loss: f64,
    /// Mean loss under another sample's truth.
    pub shuffled_loss: f64,
    /// Share of samples whose first gradient points toward the truth.
    pub toward_truth: f64,
    /// How likely so large a share of `images` is if gradients point anywhere (a one-sided sign test).
    pub p_value: f64,
    /// Whether the loss is lower under the truth than under another's, and `p_value` below 0.05 divided by the number of ranges.
    pub useful: bool,
}

impl Conclusion {
    /// From what was seen of some domains, of so many different images.
    pub(super) fn of(
        domains: &[&DomainDiagnosis],
        images: usize,
        configured_t: [usize; 2],
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
                let p_value = sign_test((toward_truth * images as f64 + 1e-9) as usize, images);
                RangeConclusion {
                    t: domains[0].ranges[place].t,
                    true_loss,
                    shuffled_loss,
                    toward_truth,
                    p_value,
                    useful: true_loss < shuffled_loss && p_value < LEVEL / count as f64,
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
            images,
            ranges,
            suggested_t,
            configured_t,
            points_away,
        }
    }
}

/// Of all runs of neighbouring useful ranges, the one with the most timesteps, each weighted by how far its share lies above one half.
fn suggested(ranges: &[RangeConclusion]) -> Option<[usize; 2]> {
    let mut best: Option<(f64, [usize; 2])> = None;
    let mut current: Option<(f64, [usize; 2])> = None;
    for range in ranges {
        let [low, high] = range.t;
        let weight = (high - low) as f64 * (range.toward_truth - 0.5);
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

/// How likely at least `hits` of `count` fair coins show heads.
fn sign_test(hits: usize, count: usize) -> f64 {
    // ln of C(count, k) / 2^count, from one k to the next.
    let mut log = -(count as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=count {
        if k >= hits {
            tail += log.exp();
        }
        log += ((count - k) as f64 / (k + 1) as f64).ln();
    }
    tail.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(name: &str, ranges: &[([usize; 2], f64, f64)]) -> DomainDiagnosis {
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
            });
        DomainDiagnosis {
            name: name.into(),
            ranges: ranges.collect(),
        }
    }

    #[test]
    fn a_sign_test_is_the_tail_of_a_binomial() {
        // 1/256 and 9/256: all eight, and at least seven of eight.
        assert!((sign_test(8, 8) - 1.0 / 256.0).abs() < 1e-12);
        assert!((sign_test(7, 8) - 9.0 / 256.0).abs() < 1e-12);
        assert!((sign_test(0, 8) - 1.0).abs() < 1e-12);
        assert!(sign_test(1_100, 2_000) < 1e-4);
    }

    #[test]
    fn neighbouring_ranges_that_point_to_the_truth_are_suggested_and_domains_that_do_not_are_named()
    {
        let fog = domain(
            "fog",
            &[
                ([0, 100], 1.1, 0.5),
                ([100, 300], 1.1, 1.0),
                ([300, 500], 1.1, 1.0),
                ([500, 1000], 1.1, 0.4),
            ],
        );
        let jpeg = domain(
            "jpeg",
            &[
                ([0, 100], 1.1, 0.5),
                ([100, 300], 1.1, 0.45),
                ([300, 500], 1.1, 0.5),
                ([500, 1000], 1.1, 0.5),
            ],
        );
        let found = Conclusion::of(&[&fog, &jpeg], 100, [0, 1000]);
        assert_eq!(found.suggested_t, Some([100, 500]));
        assert_eq!(found.points_away, ["jpeg"]);
        // Of so few images, nothing can be said.
        assert_eq!(
            Conclusion::of(&[&fog, &jpeg], 4, [0, 1000]).suggested_t,
            None
        );
    }

    #[test]
    fn a_denoiser_that_prefers_a_strangers_truth_is_of_no_use() {
        let deaf = domain("fog", &[([0, 1000], 1.0, 1.0)]);
        assert_eq!(Conclusion::of(&[&deaf], 100, [0, 1000]).suggested_t, None);
    }
}

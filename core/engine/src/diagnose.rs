//! A look at a denoiser before a run is spent on it: its loss when it is told the truth, what the source model says, or another
//! sample's truth, by range of timesteps; and whether feedback's first gradient points toward the truth. It reads labels and adapts
//! nothing.

mod conclusion;
mod truth;

use std::collections::BTreeMap;
use std::ops::Range;

use dtta_base::TargetType;
use dtta_learn::{Draws, Evaluation, Feedback, Request, TimestepSampler};
use dtta_models::{NoiseSchedule, ParameterId, TimeRange, Weights};
use dtta_tensor::{Named, Tensor};
use serde::{Deserialize, Serialize};

pub use self::conclusion::{Conclusion, RangeConclusion};
use self::truth::true_outputs;
use crate::error::Result;
use crate::prepare::Prepared;
use crate::report::targets;

/// How much to look at.
#[derive(Debug, Clone, PartialEq)]
pub struct DiagnoseOptions {
    /// Samples of each domain; at least 2, since each also gets another's truth.
    pub samples: usize,
    /// Draws for each sample and range.
    pub draws: usize,
    /// Ranges of timesteps: first, and one after the last. If there are none, five that the denoiser's times are cut into, at a tenth
    /// of them, three, five and seven.
    pub ranges: Vec<[f64; 2]>,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// The experiment's name.
    pub experiment: String,
    /// What is predicted: the name of the head's prediction.
    pub predicts: String,
    /// Samples of each domain.
    pub samples: usize,
    /// Draws for each sample and range.
    pub draws: usize,
    /// By domain, then by range.
    pub domains: Vec<DomainDiagnosis>,
    /// What follows.
    pub conclusion: Conclusion,
}

/// One domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DomainDiagnosis {
    /// The domain.
    pub name: String,
    /// By range of timesteps.
    pub ranges: Vec<RangeDiagnosis>,
}

/// One range of timesteps. All conditions share their draws.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RangeDiagnosis {
    /// First timestep, and one after the last.
    #[serde(serialize_with = "dtta_learn::serialize_range")]
    pub t: [f64; 2],
    /// Mean loss under what the source model says.
    pub source_loss: f64,
    /// Mean loss under the truth.
    pub true_loss: f64,
    /// Mean loss under another sample's truth.
    pub shuffled_loss: f64,
    /// Share of samples whose loss is lower under the truth than under what the source model says.
    pub truth_wins: f64,
    /// Share of samples whose first gradient at the slots, downhill, points toward the truth.
    pub toward_truth: f64,
    /// Of classification: share of samples whose loss is lowest under their own class (Diffusion Classifier, Li et al. 2023).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classifier_accuracy: Option<f64>,
    /// How far the first gradient at the slots is from that of a denoiser in `f32`, where it computes in another precision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounding: Option<Rounding>,
}

/// What a narrower precision does to a gradient, over all slots and samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rounding {
    /// The cosine of the angle between both gradients.
    pub cosine: f64,
    /// The length of their difference, relative to the gradient in `f32`.
    pub relative_error: f64,
}

/// By image and range of timesteps: whether the first gradient points toward the truth, in each domain that the image was seen in.
type Images = BTreeMap<String, Vec<Vec<bool>>>;

impl Prepared {
    /// φ of the denoiser as it was loaded.
    ///
    /// # Errors
    /// [`Error::NoDenoiser`](crate::Error::NoDenoiser).
    pub fn denoiser_weights(&mut self) -> Result<&Weights> {
        self.adapter.tools().denoiser_weights()
    }

    /// Looks at the first samples of each domain. `progress` hears of domains done, of how many. `exact` is φ in `f32`, for a denoiser that
    /// computes in another precision: to tell what rounding does to its gradient.
    ///
    /// # Errors
    /// [`Error::Base`](crate::Error::Base) for samples without truth, fewer than two samples, or a range outside of the schedule; whatever a model or
    /// plugin refuses, such as a mapper that reads outputs for which no truth is known.
    pub fn diagnose(
        &mut self,
        options: &DiagnoseOptions,
        exact: Option<&Weights>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Diagnosis> {
        // Domains are looked at by themselves, however they are mixed.
        let in_turn = self.stream.in_turn();
        let own = std::mem::replace(&mut self.stream, in_turn);
        let found = self.diagnose_in_turn(options, exact, progress);
        self.stream = own;
        found
    }

    fn diagnose_in_turn(
        &mut self,
        options: &DiagnoseOptions,
        exact: Option<&Weights>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Diagnosis> {
        let Some(feedback) = self.adapter.method().feedback() else {
            let message = "this method uses no denoiser, so there is nothing to diagnose";
            return Err(self.document().refusal("/method/kind", message));
        };
        let schedule = self.adapter.tools().denoiser()?.schedule();
        let ranges = ranges(schedule, &options.ranges)
            .map_err(|problem| self.document().refusal("/method/timesteps", problem))?;
        let mut start = 0;
        let mut domains = Vec::new();
        let mut shifted: Vec<bool> = {
            let domains = self.stream.domains().iter();
            domains.map(|domain| domain.is_shifted()).collect()
        };
        if !shifted.contains(&true) {
            shifted.fill(true);
        }
        let mut images = Images::new();
        let count = self.stream.domains().len();
        for (index, &is_concerned) in shifted.iter().enumerate() {
            let (name, length) = {
                let domain = &self.stream.domains()[index];
                (domain.name.clone(), domain.len())
            };
            let samples = start..start + length.min(options.samples);
            if samples.len() < 2 || options.draws == 0 {
                let message = format!(
                    "domain `{name}` has {} samples; `diagnose` needs at least 2 samples and 1 draw",
                    samples.len()
                );
                return Err(self.document().refusal("/data/stream", message));
            }
            let others = &mut Images::new();
            let seen = if is_concerned { &mut images } else { others };
            let ranges =
                self.domain_ranges(samples, feedback, (options.draws, &ranges), exact, seen)?;
            domains.push(DomainDiagnosis { name, ranges });
            start += length;
            progress(index + 1, count);
        }
        let concerned = domains
            .iter()
            .zip(&shifted)
            .filter(|(_, shifted)| **shifted);
        let concerned: Vec<_> = concerned.map(|(domain, _)| domain).collect();
        let TimeRange { low, high, .. } = feedback.draws.range;
        let conclusion = Conclusion::of(&concerned, &images, [low, high]);
        Ok(Diagnosis {
            experiment: self.experiment().name.clone(),
            predicts: self.predicts().name.clone(),
            samples: options.samples,
            draws: options.draws,
            domains,
            conclusion,
        })
    }

    /// What is seen of some samples by range; `images` hears of each whether its gradients point toward the truth.
    fn domain_ranges(
        &mut self,
        positions: Range<usize>,
        feedback: Feedback,
        (draws, ranges): (usize, &[TimeRange]),
        exact: Option<&Weights>,
        seen: &mut Images,
    ) -> Result<Vec<RangeDiagnosis>> {
        let items = positions
            .map(|position| self.stream.item(position))
            .collect::<Result<Vec<_>, _>>()?;
        let count = items.len();
        let start = items[0].position;
        let batch = self.batch(&items, start, count)?;
        let predicts = self.predicts().clone();
        let device = self.device().clone();
        let Some(known) = targets(&predicts, &items, &device)? else {
            let message = format!(
                "its samples have no `{}`, which a diagnosis compares with",
                predicts.name
            );
            return Err(self.document().refusal("/data/dataset", message));
        };
        let images = batch.denoiser.as_ref().ok_or(crate::Error::NoDenoiser)?;
        let target = known.tensors().next().expect("targets have one tensor");
        let tools = self.adapter.tools();
        let outputs = tools.source_outputs(&batch.task, false)?;
        let source = tools.source_condition(&outputs)?;
        let truth = tools.source_condition(&true_outputs(&predicts, &outputs, target)?)?;
        let next: Vec<i64> = (0..count).map(|n| ((n + 1) % count) as i64).collect();
        let next = Tensor::from_ints(&next, &[count], &device)?;
        let shuffled = truth.try_map(|slot| slot.index_select(0, &next))?;
        // The condition of each class for every sample, where there is a class.
        let mut classes = Vec::new();
        if matches!(predicts.target, TargetType::ClassIndex {}) {
            for class in 0..tools.task().backbone().spec().outputs {
                let all = Tensor::from_ints(&vec![class as i64; count], &[count], &device)?;
                let outputs = true_outputs(&predicts, &outputs, &all)?;
                classes.push(tools.source_condition(&outputs)?);
            }
        }
        let mut found = Vec::new();
        for &range in ranges {
            let under = |weights: &Weights, condition: &Named| -> Result<Evaluation> {
                let feedback = Feedback {
                    draws: Draws {
                        count: draws,
                        range,
                        sampler: TimestepSampler::Stratified,
                        ..feedback.draws
                    },
                    ..feedback
                };
                let request = Request {
                    ids: &batch.ids,
                    images,
                    conditioning: condition,
                    step: 0,
                };
                let none: &[ParameterId] = &[];
                Ok(feedback.evaluate(tools.denoiser()?, weights, none, &request)?)
            };
            let look = |condition: &Named| under(tools.denoiser_weights()?, condition);
            let (of_source, of_truth, of_others) =
                (look(&source)?, look(&truth)?, look(&shuffled)?);
            let mean =
                |losses: &[f32]| losses.iter().map(|&l| f64::from(l)).sum::<f64>() / count as f64;
            let share = |hits: usize| hits as f64 / count as f64;
            let wins = of_truth
                .losses
                .iter()
                .zip(&of_source.losses)
                .filter(|(truth, source)| truth < source);
            let classifier_accuracy = match classes.is_empty() {
                true => None,
                false => {
                    let losses = classes
                        .iter()
                        .map(|class| Ok(look(class)?.losses))
                        .collect::<Result<Vec<_>>>()?;
                    let right = target
                        .to_ints()?
                        .into_iter()
                        .enumerate()
                        .filter(|&(n, label)| {
                            let best = (0..losses.len())
                                .min_by(|&a, &b| losses[a][n].total_cmp(&losses[b][n]));
                            best == usize::try_from(label).ok()
                        });
                    Some(share(right.count()))
                }
            };
            let toward = toward(&of_source.gradients, &source, &truth)?;
            for (item, &hit) in items.iter().zip(&toward) {
                let of_image = seen.entry(item.id.clone()).or_default();
                of_image.resize(of_image.len().max(found.len() + 1), Vec::new());
                of_image[found.len()].push(hit);
            }
            let rounding = match exact {
                Some(exact) => {
                    let exact = under(exact, &source)?.gradients;
                    Some(Rounding::of(&of_source.gradients, &exact)?)
                }
                None => None,
            };
            found.push(RangeDiagnosis {
                t: [range.low, range.high],
                source_loss: mean(&of_source.losses),
                true_loss: mean(&of_truth.losses),
                shuffled_loss: mean(&of_others.losses),
                truth_wins: share(wins.count()),
                toward_truth: share(toward.iter().filter(|hit| **hit).count()),
                classifier_accuracy,
                rounding,
            });
        }
        Ok(found)
    }
}

impl Rounding {
    /// Of a gradient, and the one in `f32`. Of a gradient of zeros there is no angle: the cosine is 0, the error not a number.
    fn of(found: &Named, exact: &Named) -> Result<Self> {
        let numbers = |gradients: &Named| -> Result<Vec<f64>> {
            let each = gradients.tensors().map(Tensor::to_floats);
            let each = each.collect::<Result<Vec<_>, _>>()?;
            Ok(each.into_iter().flatten().map(f64::from).collect())
        };
        let (found, exact) = (numbers(found)?, numbers(exact)?);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let difference: Vec<f64> = found.iter().zip(&exact).map(|(a, b)| a - b).collect();
        let [length, other, apart] = [&exact, &found, &difference].map(|x| dot(x, x).sqrt());
        let product = length * other;
        Ok(Self {
            cosine: if product > 0.0 {
                dot(&found, &exact) / product
            } else {
                0.0
            },
            relative_error: apart / length,
        })
    }
}

/// The ranges that are asked for, or five of all times.
fn ranges(schedule: &NoiseSchedule, wanted: &[[f64; 2]]) -> Result<Vec<TimeRange>, String> {
    if !wanted.is_empty() {
        let ranges = wanted.iter().map(|&range| schedule.range(Some(range)));
        return ranges.collect();
    }
    let all = schedule.range(None)?;
    let bounds = [0.0, 0.1, 0.3, 0.5, 0.7, 1.0].map(|part| {
        let bound = all.low + part * (all.high - all.low);
        if all.whole { bound.round() } else { bound }
    });
    // Of a handful of timesteps some parts are empty.
    let parts = bounds.windows(2).filter(|pair| pair[0] < pair[1]);
    parts
        .map(|pair| schedule.range(Some([pair[0], pair[1]])))
        .collect()
}

/// Of each sample, whether its gradients point downhill toward the truth, over all slots.
fn toward(gradients: &Named, source: &Named, truth: &Named) -> Result<Vec<bool>> {
    let mut sums: Option<Tensor> = None;
    for (name, gradient) in gradients.iter() {
        let (Some(source), Some(truth)) = (source.get(name), truth.get(name)) else {
            continue;
        };
        let rows = [gradient.shape()[0] as i64, -1];
        let product = gradient.mul(&source.detach().sub(&truth.detach())?)?;
        let sum = product.reshape(&rows)?.sum(&[1], false)?;
        sums = Some(match sums {
            Some(sums) => sums.add(&sum)?,
            None => sum,
        });
    }
    let sums = sums.map(|sums| sums.to_floats()).transpose()?;
    Ok(sums.iter().flatten().map(|sum| *sum > 0.0).collect())
}

#[cfg(test)]
mod tests {
    use dtta_tensor::Device;

    use super::*;

    #[test]
    fn rounding_is_told_by_angle_and_length() {
        let slot = |values: [f32; 2]| {
            let tensor = Tensor::from_floats(&values, &[1, 2], &Device::cpu()).unwrap();
            Named::one("slot", tensor)
        };
        // (3, 4) against (4, 3): 24 / 25, and √2 / 5.
        let found = Rounding::of(&slot([3.0, 4.0]), &slot([4.0, 3.0])).unwrap();
        assert!((found.cosine - 0.96).abs() < 1e-12, "{found:?}");
        assert!(
            (found.relative_error - 0.08f64.sqrt()).abs() < 1e-12,
            "{found:?}"
        );
    }

    #[test]
    fn a_gradient_that_falls_toward_the_truth_counts() {
        let slot = |values: [f32; 4]| {
            let tensor = Tensor::from_floats(&values, &[2, 2], &Device::cpu()).unwrap();
            Named::one("slot", tensor)
        };
        // Downhill is -gradient: (1, 0) toward (1, 1) for the first, away from it for the second.
        let gradients = slot([-1.0, 0.0, 1.0, 0.0]);
        let found = toward(&gradients, &slot([0.0; 4]), &slot([1.0; 4])).unwrap();
        assert_eq!(found, [true, false]);
    }
}

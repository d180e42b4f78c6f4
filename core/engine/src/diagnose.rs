//! A look at a denoiser before a run is spent on it: its loss when it is told the truth, what the source model says, or another
//! sample's truth, by range of timesteps; and whether feedback's first gradient points toward the truth. It reads labels and adapts
//! nothing.

use std::ops::Range;

use dtta_models::{Conditioning, ParameterId};
use dtta_plugin::{Named, find};
use dtta_tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::draws::Draws;
use crate::error::Result;
use crate::experiment::TimestepSampler;
use crate::feedback::{Evaluation, Feedback, Request};
use crate::prepare::Prepared;
use crate::score::targets;
use crate::task::TaskKind;

/// Logits of what is certain: the softmax of these and zeros is one-hot in single precision.
const CERTAIN: f64 = 100.0;

/// How much to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiagnoseOptions {
    /// Samples of each domain; at least 2, since each also gets another's truth.
    pub samples: usize,
    /// Draws for each sample and range.
    pub draws: usize,
    /// Ranges of timesteps: first, and one after the last.
    pub ranges: Vec<[usize; 2]>,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// The experiment's name.
    pub experiment: String,
    /// What kind of prediction it makes.
    pub task: String,
    /// Samples of each domain.
    pub samples: usize,
    /// Draws for each sample and range.
    pub draws: usize,
    /// By domain, then by range.
    pub domains: Vec<DomainDiagnosis>,
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
    pub range: [usize; 2],
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
}

impl Prepared {
    /// Looks at the first samples of each domain. `progress` hears of domains done, of how many.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for samples without truth, fewer than two samples, or a range outside of the schedule; whatever a model or
    /// plugin refuses, such as a mapper that reads outputs for which no truth is known.
    pub fn diagnose(
        &mut self,
        options: &DiagnoseOptions,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Diagnosis> {
        let last = self.adapter.denoiser.schedule().timesteps();
        if let Some([low, high]) = options
            .ranges
            .iter()
            .find(|[low, high]| low >= high || *high > last)
        {
            let message =
                format!("no range of timesteps is {low} to {high}; they go from 0 to {last}");
            return Err(self.document.refusal("/adaptation/timesteps", message));
        }
        let mut start = 0;
        let mut domains = Vec::new();
        let count = self.stream.domains().len();
        for index in 0..count {
            let (name, length) = {
                let domain = &self.stream.domains()[index];
                (domain.name.clone(), domain.len())
            };
            let samples = start..start + length.min(options.samples);
            if samples.len() < 2 || options.draws == 0 {
                let message = format!(
                    "`{name}` gives {} samples; a diagnosis needs 2 and a draw",
                    samples.len()
                );
                return Err(self.document.refusal("/data/stream", message));
            }
            let ranges = self.domain_ranges(samples, options)?;
            domains.push(DomainDiagnosis { name, ranges });
            start += length;
            progress(index + 1, count);
        }
        Ok(Diagnosis {
            experiment: self.document.experiment.name.clone(),
            task: self.kind.name().into(),
            samples: options.samples,
            draws: options.draws,
            domains,
        })
    }

    fn domain_ranges(
        &mut self,
        positions: Range<usize>,
        options: &DiagnoseOptions,
    ) -> Result<Vec<RangeDiagnosis>> {
        let items = positions
            .map(|position| self.stream.item(position))
            .collect::<Result<Vec<_>, _>>()?;
        let count = items.len();
        let ids: Vec<&str> = items.iter().map(|item| item.id.as_str()).collect();
        let images: Vec<_> = items.iter().map(|item| item.image.clone()).collect();
        let batch = self.batch(ids, &images)?;
        let Some(known) = targets(self.kind, &items, &self.device)? else {
            let message = format!(
                "its samples have no {}, which a diagnosis compares with",
                self.kind.prediction()
            );
            return Err(self.document.refusal("/data/dataset", message));
        };
        let target = &known[0].1;
        let device = self.device.clone();
        let outputs = self.adapter.source_outputs(&batch.task)?;
        let source = self.adapter.source_condition(&outputs)?;
        let truth = self
            .adapter
            .source_condition(&true_outputs(self.kind, &outputs, target)?)?;
        let next: Vec<i64> = (0..count).map(|n| ((n + 1) % count) as i64).collect();
        let next = Tensor::from_ints(&next, &[count], &device)?;
        let others = truth
            .iter()
            .map(|(name, slot)| Ok((name.to_owned(), slot.index_select(0, &next)?)));
        let shuffled = Conditioning::new(others.collect::<Result<_>>()?);
        // The condition of each class for every sample, where there is a class.
        let mut classes = Vec::new();
        if self.kind == TaskKind::Classification {
            for class in 0..self.adapter.classes() {
                let all = Tensor::from_ints(&vec![class as i64; count], &[count], &device)?;
                let outputs = true_outputs(self.kind, &outputs, &all)?;
                classes.push(self.adapter.source_condition(&outputs)?);
            }
        }
        let mut found = Vec::new();
        for &range in &options.ranges {
            let look = |condition: &Conditioning| -> Result<Evaluation> {
                let feedback = Feedback {
                    draws: Draws {
                        count: options.draws,
                        range,
                        sampler: TimestepSampler::Stratified,
                        ..self.adapter.settings.feedback.draws
                    },
                    ..self.adapter.settings.feedback
                };
                let request = Request {
                    ids: &batch.ids,
                    images: &batch.denoiser,
                    conditioning: condition,
                    step: 0,
                };
                let none: &[ParameterId] = &[];
                feedback.evaluate(
                    &*self.adapter.denoiser,
                    &self.adapter.frozen,
                    none,
                    &request,
                )
            };
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
            found.push(RangeDiagnosis {
                range,
                source_loss: mean(&of_source.losses),
                true_loss: mean(&of_truth.losses),
                shuffled_loss: mean(&of_others.losses),
                truth_wins: share(wins.count()),
                toward_truth: share(toward(&of_source.gradients, &source, &truth)?),
                classifier_accuracy,
            });
        }
        Ok(found)
    }
}

/// How many samples' gradients point downhill toward the truth, over all slots.
fn toward(gradients: &Conditioning, source: &Conditioning, truth: &Conditioning) -> Result<usize> {
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
    Ok(sums.iter().flatten().filter(|sum| **sum > 0.0).count())
}

/// Task outputs that say what is true. What is not known of a pixel stays as the source model has it; an output that no truth is known
/// for is left out.
fn true_outputs(kind: TaskKind, outputs: &Named, target: &Tensor) -> Result<Named> {
    let mut truth = Named::new();
    if kind == TaskKind::Depth {
        let known = target.greater_scalar(0.0)?;
        for (name, tensor) in outputs.iter().filter(|(name, _)| name == "depth") {
            truth.push((name.clone(), target.choose(&known, tensor)?));
        }
        return Ok(truth);
    }
    for (name, certain) in [("logits", CERTAIN), ("probabilities", 1.0)] {
        let Some(tensor) = find(outputs, name) else {
            continue;
        };
        truth.push((name.into(), one_hot(target, tensor)?.affine(certain, 0.0)?));
        if kind == TaskKind::Segmentation {
            let labelled = labelled(target, tensor)?;
            let (_, hot) = truth.pop().expect("just pushed");
            truth.push((name.into(), hot.choose(&labelled, tensor)?));
        }
    }
    Ok(truth)
}

/// Labels `[B, …]` as ones and zeros in the shape of `like`, `[B, classes, …]`; a label that is no class is all zeros.
fn one_hot(labels: &Tensor, like: &Tensor) -> Result<Tensor> {
    let (shape, classes) = (like.shape(), like.shape()[1]);
    let inner: usize = shape[2..].iter().product();
    let mut values = vec![0.0; shape.elements()];
    for (place, label) in labels.to_ints()?.into_iter().enumerate() {
        if let Some(label) = usize::try_from(label).ok().filter(|&label| label < classes) {
            values[(place / inner * classes + label) * inner + place % inner] = 1.0;
        }
    }
    Ok(Tensor::from_floats(&values, &shape, like.device())?)
}

/// Where labels `[B, H, W]` are classes, in the shape of `like`, `[B, classes, H, W]`.
fn labelled(labels: &Tensor, like: &Tensor) -> Result<Tensor> {
    let device: &Device = like.device();
    let shape = like.shape();
    let classes = shape[1] as i64;
    let flags: Vec<f32> = labels
        .to_ints()?
        .into_iter()
        .map(|label| f32::from(u8::from((0..classes).contains(&label))))
        .collect();
    let flags = Tensor::from_floats(&flags, &[shape[0], 1, shape[2], shape[3]], device)?;
    Ok(flags.expand(&shape)?.greater_scalar(0.5)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_replaces_what_is_known_and_nothing_else() {
        let device = Device::cpu();
        let outputs = vec![
            (
                "probabilities".into(),
                Tensor::full(&[1, 2, 1, 3], 0.5, &device).unwrap(),
            ),
            (
                "features".into(),
                Tensor::full(&[1, 4], 0.0, &device).unwrap(),
            ),
        ];
        let labels = Tensor::from_ints(&[1, 255, 0], &[1, 1, 3], &device).unwrap();
        let truth = true_outputs(TaskKind::Segmentation, &outputs, &labels).unwrap();
        assert_eq!(truth.len(), 1);
        assert_eq!(
            truth[0].1.to_floats().unwrap(),
            [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]
        );
        let outputs = vec![(
            "depth".into(),
            Tensor::full(&[1, 1, 2], 7.0, &device).unwrap(),
        )];
        let depth = Tensor::from_floats(&[3.0, 0.0], &[1, 1, 2], &device).unwrap();
        let truth = true_outputs(TaskKind::Depth, &outputs, &depth).unwrap();
        assert_eq!(truth[0].1.to_floats().unwrap(), [3.0, 7.0]);
    }

    #[test]
    fn a_gradient_that_falls_toward_the_truth_counts() {
        let slot = |values: [f32; 4]| {
            let tensor = Tensor::from_floats(&values, &[2, 2], &Device::cpu()).unwrap();
            Conditioning::one("slot", tensor)
        };
        // Downhill is -gradient: (1, 0) toward (1, 1) for the first, away from it for the second.
        let gradients = slot([-1.0, 0.0, 1.0, 0.0]);
        let count = toward(&gradients, &slot([0.0; 4]), &slot([1.0; 4])).unwrap();
        assert_eq!(count, 1);
    }
}

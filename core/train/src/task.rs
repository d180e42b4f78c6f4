//! What is learned: the loss of a batch, for either kind of model.

use dtta::Draws;
use dtta::NoiseSharing;
use dtta_data::keyed_rng;
use dtta_models::{
    Backbone, CLASS_EMBEDDING, Conditioning, Denoiser, Dit, ParameterId, ParameterSpec, ResNet,
    Weights,
};
use dtta_tensor::Tensor;
use rand_distr::{Bernoulli, Distribution};
use std::sync::Arc;

use crate::data::{Batch, Takes};
use crate::error::Result;

/// A model with its loss.
pub(crate) enum Task {
    Denoiser {
        dit: Dit,
        /// One draw for each image of a batch.
        draws: Draws,
    },
    Classifier {
        backbone: ResNet,
        smoothing: f64,
    },
}

/// The loss of a batch, `[1]`, and what the batch says about running statistics.
pub(crate) struct Loss {
    pub value: Tensor,
    pub statistics: Vec<(ParameterId, Tensor)>,
}

/// Keys the draws of training apart from those of any sample.
const DRAWS: &str = "training";

impl Task {
    pub fn parameters(&self) -> &Arc<[ParameterSpec]> {
        match self {
            Self::Denoiser { dit, .. } => dit.parameters(),
            Self::Classifier { backbone, .. } => backbone.parameters(),
        }
    }

    pub fn takes(&self) -> Takes {
        match self {
            Self::Denoiser { dit, .. } => Takes {
                shape: dit.image_shape(),
                classes: dit.config().num_classes,
            },
            Self::Classifier { backbone, .. } => Takes {
                shape: backbone.image_shape(),
                classes: backbone.classes(),
            },
        }
    }

    /// The loss of `batch`, recorded on the tape of `weights`. Whatever is random is a function of the seed and `step`.
    pub fn loss(&self, weights: &Weights, batch: &Batch, step: usize) -> Result<Loss> {
        match self {
            Self::Denoiser { dit, draws } => denoising(dit, draws, weights, batch, step),
            Self::Classifier {
                backbone,
                smoothing,
            } => {
                let (outputs, statistics) = backbone.forward_training(weights, &batch.images)?;
                let logits = logits(&outputs);
                Ok(Loss {
                    value: cross_entropy(logits, &batch.labels, *smoothing)?,
                    statistics,
                })
            }
        }
    }
}

/// The logits among a backbone's outputs.
pub(crate) fn logits(outputs: &[(String, Tensor)]) -> &Tensor {
    let found = outputs.iter().find(|(name, _)| name == "logits");
    &found.expect("every backbone answers its logits").1
}

fn denoising(
    dit: &Dit,
    draws: &Draws,
    weights: &Weights,
    batch: &Batch,
    step: usize,
) -> Result<Loss> {
    let (shape, device) = (batch.images.shape(), batch.images.device());
    let timesteps = draws.timesteps(DRAWS, step);
    let mut noise = vec![0.0; shape.elements()];
    for (draw, row) in noise.chunks_mut(shape.elements() / shape[0]).enumerate() {
        draws.noise(DRAWS, step, draw, row);
    }
    let noise = Tensor::from_floats(&noise, &shape, device)?;
    let noisy = dit
        .schedule()
        .add_noise(&batch.images, &noise, &timesteps)?;
    let mut labels: Vec<i64> = batch.labels.iter().map(|&label| label as i64).collect();
    if let Some(null) = dit.null_label() {
        let key = [draws.seed.to_le_bytes(), (step as u64).to_le_bytes()];
        let mut rng = keyed_rng("class dropout", &[&key[0], &key[1]]);
        let left_out = Bernoulli::new(dit.config().class_dropout_prob)
            .expect("the model's configuration was checked");
        for label in &mut labels {
            if left_out.sample(&mut rng) {
                *label = null as i64;
            }
        }
    }
    let labels = Tensor::from_ints(&labels, &[shape[0]], device)?;
    let condition = Conditioning::one(CLASS_EMBEDDING, dit.embed_labels(weights, &labels)?);
    let error = dit
        .predict_noise(weights, &noisy, &timesteps, &condition)?
        .sub(&noise)?;
    Ok(Loss {
        value: error.mul(&error)?.mean(&[], false)?,
        statistics: Vec::new(),
    })
}

/// The mean cross-entropy of `logits`, `[B, classes]`, with targets of which `smoothing` is spread over all classes.
pub(crate) fn cross_entropy(logits: &Tensor, labels: &[usize], smoothing: f64) -> Result<Tensor> {
    let classes = logits.shape()[1];
    let even = (smoothing / classes as f64) as f32;
    let mut targets = vec![even; labels.len() * classes];
    for (row, &label) in targets.chunks_mut(classes).zip(labels) {
        row[label] += (1.0 - smoothing) as f32;
    }
    let targets = Tensor::from_floats(&targets, &[labels.len(), classes], logits.device())?;
    let surprise = logits.log_softmax(-1)?.mul(&targets)?.sum(&[], false)?;
    Ok(surprise.affine(-1.0 / labels.len() as f64, 0.0)?)
}

/// Draws for training: one for each image of a batch.
pub(crate) fn training_draws(
    seed: u64,
    batch: usize,
    sampler: dtta::TimestepSampler,
    range: [usize; 2],
) -> Draws {
    Draws {
        seed,
        count: batch,
        sampler,
        range,
        noise: NoiseSharing::Fresh,
    }
}

#[cfg(test)]
mod tests {
    use dtta_tensor::Device;

    use super::*;

    #[test]
    fn cross_entropy_agrees_with_a_calculation_by_hand() {
        let logits = Tensor::from_floats(&[1.0, 2.0, 0.0, 0.0], &[2, 2], &Device::cpu()).unwrap();
        let by_hand = |smoothing: f64| {
            // Row 1: log p = 1 - log(e + e²), 2 - log(e + e²); row 2: -log 2 twice.
            let partition = (1f64.exp() + 2f64.exp()).ln();
            let first =
                (1.0 - smoothing / 2.0) * (1.0 - partition) + smoothing / 2.0 * (2.0 - partition);
            (-first + 2f64.ln()) / 2.0
        };
        for smoothing in [0.0, 0.1] {
            let found = cross_entropy(&logits, &[0, 1], smoothing).unwrap();
            let error = f64::from(found.item().unwrap()) - by_hand(smoothing);
            assert!(error.abs() < 1e-6, "{smoothing}: {error}");
        }
    }
}

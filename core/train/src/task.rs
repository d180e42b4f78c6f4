//! What is learned: the loss of a batch, for each kind of model.

use std::sync::Arc;

use dtta::{Draws, NoiseSharing};
use dtta_data::{DepthRange, IGNORE, Maps, is_distance, keyed_rng};
use dtta_models::{
    Backbone, CLASS_EMBEDDING, CLASS_EMBEDDINGS, Conditioning, Denoiser, Dit, ParameterId,
    ParameterSpec, SPATIAL, SpatialConfig, Weights,
};
use dtta_tensor::{Device, Tensor};
use rand_distr::{Bernoulli, Distribution};

use crate::data::{Batch, Takes, Target};
use crate::error::Result;

/// A model with its loss.
pub(crate) enum Task {
    /// A denoiser that is told a class.
    ClassDenoiser { dit: Box<Dit>, draws: Draws },
    /// A denoiser that is told a map.
    MapDenoiser(MapDenoiser),
    /// A classifier of images or pixels.
    Classifier {
        backbone: Box<dyn Backbone>,
        of_pixels: bool,
        smoothing: f64,
        class_weights: Vec<f32>,
    },
    /// A predictor of depth.
    Depth {
        backbone: Box<dyn Backbone>,
        range: DepthRange,
        gradient_weight: f64,
    },
}

/// A denoiser that is told a map, and how maps are made for it.
pub(crate) struct MapDenoiser {
    pub denoiser: Box<dyn Denoiser>,
    pub spatial: SpatialConfig,
    /// How distances become numbers, where the map is one of depth.
    pub range: Option<DepthRange>,
    /// One draw for each image of a batch.
    pub draws: Draws,
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
            Self::ClassDenoiser { dit, .. } => dit.parameters(),
            Self::MapDenoiser(task) => task.denoiser.parameters(),
            Self::Classifier { backbone, .. } | Self::Depth { backbone, .. } => {
                backbone.parameters()
            }
        }
    }

    pub fn takes(&self) -> Takes {
        match self {
            Self::ClassDenoiser { dit, .. } => Takes {
                shape: dit.image_shape(),
                target: Target::Classes(dit.config().num_classes),
            },
            Self::MapDenoiser(task) => Takes {
                shape: task.denoiser.image_shape(),
                target: match task.spatial.classes {
                    Some(classes) => Target::Masks {
                        classes,
                        cover: false,
                    },
                    None => Target::Depths { cover: false },
                },
            },
            Self::Classifier {
                backbone,
                of_pixels,
                ..
            } => Takes {
                shape: backbone.image_shape(),
                target: match of_pixels {
                    true => Target::Masks {
                        classes: backbone.outputs(),
                        cover: true,
                    },
                    false => Target::Classes(backbone.outputs()),
                },
            },
            Self::Depth { backbone, .. } => Takes {
                shape: backbone.image_shape(),
                target: Target::Depths { cover: true },
            },
        }
    }

    /// The loss of `batch`, recorded on the tape of `weights`. Whatever is random is a function of the seed and `step`.
    pub fn loss(&self, weights: &Weights, batch: &Batch, step: usize) -> Result<Loss> {
        match self {
            Self::ClassDenoiser { dit, draws } => {
                let condition = class_condition(dit, draws.seed, weights, batch, step)?;
                denoising(&**dit, draws, weights, &batch.images, &condition, step)
            }
            Self::MapDenoiser(task) => {
                let condition = task.training_condition(weights, batch, step)?;
                let denoiser = &*task.denoiser;
                denoising(
                    denoiser,
                    &task.draws,
                    weights,
                    &batch.images,
                    &condition,
                    step,
                )
            }
            Self::Classifier {
                backbone,
                of_pixels,
                smoothing,
                class_weights,
            } => {
                let (outputs, statistics) = backbone.forward_training(weights, &batch.images)?;
                let logits = logits(&outputs);
                let value = match of_pixels {
                    true => pixel_cross_entropy(logits, &batch.maps, *smoothing, class_weights)?,
                    false => cross_entropy(logits, &batch.labels, *smoothing, class_weights)?,
                };
                Ok(Loss { value, statistics })
            }
            Self::Depth {
                backbone,
                range,
                gradient_weight,
            } => {
                let (outputs, statistics) = backbone.forward_training(weights, &batch.images)?;
                Ok(Loss {
                    value: depth_error(logits(&outputs), &batch.maps, *range, *gradient_weight)?,
                    statistics,
                })
            }
        }
    }
}

impl MapDenoiser {
    /// What the denoiser is told about images with these maps.
    pub fn condition(&self, weights: &Weights, maps: &[Maps], device: &Device) -> Result<Tensor> {
        let [_, height, width] = self.denoiser.image_shape();
        let mut values = Vec::new();
        for maps in maps {
            match self.spatial.classes {
                Some(classes) => {
                    let mask = maps.mask.as_ref();
                    values.extend(
                        mask.into_iter()
                            .flat_map(|m| m.shares(classes, [height, width])),
                    );
                }
                None => {
                    let signed = |distance| {
                        self.range
                            .map_or(0.0, |range| 2.0 * range.normalise(distance) - 1.0)
                    };
                    let depth = maps.depth.as_ref();
                    values.extend(
                        depth
                            .into_iter()
                            .flat_map(|d| d.cell_means([height, width], 0.0, signed)),
                    );
                }
            }
        }
        let channels = self.spatial.classes.unwrap_or(1);
        let values = Tensor::from_floats(&values, &[maps.len(), channels, height, width], device)?;
        if self.spatial.classes.is_none() {
            return Ok(values);
        }
        let constants = self.denoiser.constants(weights)?;
        let table = constants
            .into_iter()
            .find(|(name, _)| name == CLASS_EMBEDDINGS);
        let (_, table) = table.expect("a map of classes has embeddings");
        // A mixture of embeddings for each cell, weighted by the classes' shares.
        let mixed = values
            .permute(&[0, 2, 3, 1])?
            .reshape(&[-1, channels as i64])?
            .matmul(&table)?;
        let shape = [maps.len(), height, width, self.spatial.channels].map(|extent| extent as i64);
        Ok(mixed.reshape(&shape)?.permute(&[0, 3, 1, 2])?)
    }

    /// The same, left out now and then.
    fn training_condition(
        &self,
        weights: &Weights,
        batch: &Batch,
        step: usize,
    ) -> Result<Conditioning> {
        let device = batch.images.device();
        let condition = self.condition(weights, &batch.maps, device)?;
        let left_out = left_out(
            self.draws.seed,
            step,
            self.spatial.dropout_prob,
            batch.maps.len(),
        );
        let kept: Vec<f32> = left_out
            .map(|left_out| f32::from(u8::from(!left_out)))
            .collect();
        let kept = Tensor::from_floats(&kept, &[kept.len(), 1, 1, 1], device)?;
        Ok(Conditioning::one(SPATIAL, condition.mul(&kept)?))
    }
}

/// The logits among a backbone's outputs.
pub(crate) fn logits(outputs: &[(String, Tensor)]) -> &Tensor {
    let found = outputs.iter().find(|(name, _)| name == "logits");
    &found.expect("every backbone answers its logits").1
}

/// Which images of a batch are told nothing.
fn left_out(seed: u64, step: usize, probability: f64, images: usize) -> impl Iterator<Item = bool> {
    let key = [seed.to_le_bytes(), (step as u64).to_le_bytes()];
    let mut rng = keyed_rng("class dropout", &[&key[0], &key[1]]);
    let dice = Bernoulli::new(probability).expect("the model's configuration was checked");
    (0..images).map(move |_| dice.sample(&mut rng))
}

fn class_condition(
    dit: &Dit,
    seed: u64,
    weights: &Weights,
    batch: &Batch,
    step: usize,
) -> Result<Conditioning> {
    let mut labels: Vec<i64> = batch.labels.iter().map(|&label| label as i64).collect();
    if let Some(null) = dit.null_label() {
        let left_out = left_out(seed, step, dit.config().class_dropout_prob, labels.len());
        for (label, left_out) in labels.iter_mut().zip(left_out) {
            if left_out {
                *label = null as i64;
            }
        }
    }
    let labels = Tensor::from_ints(&labels, &[labels.len()], batch.images.device())?;
    let condition = dit.embed_labels(weights, &labels)?;
    Ok(Conditioning::one(CLASS_EMBEDDING, condition))
}

/// The mean squared error of the noise in `images`, one draw for each.
fn denoising(
    denoiser: &dyn Denoiser,
    draws: &Draws,
    weights: &Weights,
    images: &Tensor,
    condition: &Conditioning,
    step: usize,
) -> Result<Loss> {
    let (shape, device) = (images.shape(), images.device());
    let timesteps = draws.timesteps(DRAWS, step);
    let mut noise = vec![0.0; shape.elements()];
    for (draw, row) in noise.chunks_mut(shape.elements() / shape[0]).enumerate() {
        draws.noise(DRAWS, step, draw, row);
    }
    let noise = Tensor::from_floats(&noise, &shape, device)?;
    let noisy = denoiser.schedule().add_noise(images, &noise, &timesteps)?;
    let error = denoiser
        .predict_noise(weights, &noisy, &timesteps, condition)?
        .sub(&noise)?;
    Ok(Loss {
        value: error.mul(&error)?.mean(&[], false)?,
        statistics: Vec::new(),
    })
}

/// The mean cross-entropy of `logits`, `[B, classes]`, with targets of which `smoothing` is spread over all classes. With weights of
/// classes, the mean is weighted, as in PyTorch.
pub(crate) fn cross_entropy(
    logits: &Tensor,
    labels: &[usize],
    smoothing: f64,
    class_weights: &[f32],
) -> Result<Tensor> {
    let classes = logits.shape()[1];
    let even = (smoothing / classes as f64) as f32;
    let weight = |class: usize| class_weights.get(class).copied().unwrap_or(1.0);
    let mut targets = Vec::with_capacity(labels.len() * classes);
    let mut total = 0.0f64;
    for &label in labels {
        total += f64::from(weight(label));
        targets.extend((0..classes).map(|class| {
            let own = if class == label {
                (1.0 - smoothing) as f32
            } else {
                0.0
            };
            weight(class) * (own + even)
        }));
    }
    let targets = Tensor::from_floats(&targets, &[labels.len(), classes], logits.device())?;
    let surprise = logits.log_softmax(-1)?.mul(&targets)?.sum(&[], false)?;
    Ok(surprise.affine(-1.0 / total, 0.0)?)
}

/// The same over the pixels of `logits`, `[B, classes, H, W]`, that have a label.
pub(crate) fn pixel_cross_entropy(
    logits: &Tensor,
    maps: &[Maps],
    smoothing: f64,
    class_weights: &[f32],
) -> Result<Tensor> {
    let (mut places, mut labels) = (Vec::new(), Vec::new());
    let masks = maps.iter().filter_map(|maps| maps.mask.as_ref());
    for (place, &label) in masks.flat_map(|mask| mask.data()).enumerate() {
        if label != IGNORE {
            places.push(place as i64);
            labels.push(usize::from(label));
        }
    }
    let classes = logits.shape()[1] as i64;
    if labels.is_empty() {
        return Ok(logits.affine(0.0, 0.0)?.sum(&[], false)?);
    }
    let rows = logits.permute(&[0, 2, 3, 1])?.reshape(&[-1, classes])?;
    let rows = if rows.shape()[0] == places.len() {
        rows
    } else {
        let places = Tensor::from_ints(&places, &[places.len()], logits.device())?;
        rows.index_select(0, &places)?
    };
    cross_entropy(&rows, &labels, smoothing, class_weights)
}

/// The mean absolute error of `sigmoid(logits)`, `[B, 1, H, W]`, from normalised depth, and that of its differences between
/// neighbours, vertical and horizontal. Pixels without a distance do not count.
pub(crate) fn depth_error(
    logits: &Tensor,
    maps: &[Maps],
    range: DepthRange,
    gradient_weight: f64,
) -> Result<Tensor> {
    let (shape, device) = (logits.shape(), logits.device());
    let (mut depth, mut known) = (Vec::new(), Vec::new());
    for &distance in maps
        .iter()
        .filter_map(|maps| maps.depth.as_ref())
        .flat_map(|d| d.data())
    {
        let is_known = is_distance(distance);
        depth.push(if is_known {
            range.normalise(distance)
        } else {
            0.0
        });
        known.push(f32::from(u8::from(is_known)));
    }
    let known = Tensor::from_floats(&known, &shape, device)?;
    let error = logits
        .sigmoid()?
        .sub(&Tensor::from_floats(&depth, &shape, device)?)?;
    let mut sum = masked_mean(&error, &known)?;
    for axis in [2, 3] {
        let length = shape[axis] - 1;
        if gradient_weight == 0.0 || length == 0 {
            continue;
        }
        let (next, this) = (
            |x: &Tensor| x.narrow(axis as i64, 1, length),
            |x: &Tensor| x.narrow(axis as i64, 0, length),
        );
        let difference = next(&error)?.sub(&this(&error)?)?;
        let both = next(&known)?.mul(&this(&known)?)?;
        sum = sum.add(&masked_mean(&difference, &both)?.affine(gradient_weight, 0.0)?)?;
    }
    Ok(sum)
}

/// The mean of `|error|` where `mask` is 1; 0 if it nowhere is.
fn masked_mean(error: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let count = mask.sum(&[], false)?.clamp(Some(1.0), None)?;
    Ok(error.abs()?.mul(mask)?.sum(&[], false)?.div(&count)?)
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
    use dtta_data::{Depth, DepthScale, Mask};

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
            let found = cross_entropy(&logits, &[0, 1], smoothing, &[]).unwrap();
            let error = f64::from(found.item().unwrap()) - by_hand(smoothing);
            assert!(error.abs() < 1e-6, "{smoothing}: {error}");
        }
        // Weights 3 and 1: (3 * surprise of row 1 + 1 * log 2) / 4.
        let found = cross_entropy(&logits, &[0, 1], 0.0, &[3.0, 1.0]).unwrap();
        let expected = (3.0 * ((1f64.exp() + 2f64.exp()).ln() - 1.0) + 2f64.ln()) / 4.0;
        assert!((f64::from(found.item().unwrap()) - expected).abs() < 1e-6);
    }

    #[test]
    fn pixels_without_a_label_do_not_count() {
        // Two classes, one image of 1 by 3 pixels; the middle one has no label.
        let logits = [0.0, 9.0, 1.0, 0.0, -9.0, 2.0];
        let logits = Tensor::from_floats(&logits, &[1, 2, 1, 3], &Device::cpu()).unwrap();
        let mask = Some(Mask::new(1, 3, vec![0, IGNORE, 1]).unwrap());
        let maps = [Maps { mask, depth: None }];
        let found = pixel_cross_entropy(&logits, &maps, 0.0, &[]).unwrap();
        // log 2 and log(1 + e^-1).
        let expected = (2f64.ln() + (-1f64).exp().ln_1p()) / 2.0;
        assert!((f64::from(found.item().unwrap()) - expected).abs() < 1e-6);
    }

    #[test]
    fn depth_error_agrees_with_a_calculation_by_hand() {
        // sigmoid(0) = 1/2 everywhere; depths 1, 3, none over [0, 4]: y = 1/4, 3/4; errors 1/4, -1/4; one difference, -1/2.
        let logits = Tensor::full(&[1, 1, 1, 3], 0.0, &Device::cpu()).unwrap();
        let depth = Some(Depth::new(1, 3, vec![1.0, 3.0, 0.0]).unwrap());
        let maps = [Maps { mask: None, depth }];
        let range = DepthRange {
            scale: DepthScale::Linear,
            minimum: 0.0,
            maximum: 4.0,
        };
        let found = depth_error(&logits, &maps, range, 0.5).unwrap();
        assert!((found.item().unwrap() - 0.5).abs() < 1e-6);
        let found = depth_error(&logits, &maps, range, 0.0).unwrap();
        assert!((found.item().unwrap() - 0.25).abs() < 1e-6);
    }
}

//! What is learned: the loss of a batch, for each kind of model.

use std::sync::Arc;

use dtta_base::{TargetType, keyed_rng};
use dtta_data::{DepthRange, IGNORE};
use dtta_learn::{Draws, Masks, NoiseSharing, TimestepSampler};
use dtta_models::{
    Backbone, CLASS_EMBEDDING, CLASS_EMBEDDINGS, ClassCondition, Denoiser, LOGITS, ParameterId,
    ParameterSpec, SPATIAL, SpatialConfig, TimeRange, Weights,
};
use dtta_tensor::{Named, Tensor};
use rand_distr::{Bernoulli, Distribution};

use crate::config::EvaluationDraws;
use crate::data::{Examples, Takes};
use crate::error::{Error, Result};

/// A model with its loss.
pub(crate) enum Lesson {
    /// A denoiser that is told a class.
    ClassDenoiser(ClassDenoiser),
    /// A denoiser that is told a map.
    MapDenoiser(MapDenoiser),
    /// A classifier of images, or of pixels where the model answers for each.
    Classifier {
        backbone: Box<dyn Backbone>,
        /// The target's name, if it is not the only one that fits.
        target: Option<String>,
        smoothing: f64,
        class_weights: Vec<f32>,
        /// What it learns beside: to reconstruct what these masks hide, and how much that counts.
        reconstruction: Option<(Masks, f64)>,
    },
    /// A predictor of numbers for each pixel.
    Numbers {
        backbone: Box<dyn Backbone>,
        /// The target's name, if it is not the only one that fits.
        target: Option<String>,
        range: Option<DepthRange>,
        gradient_weight: f64,
    },
}

/// A denoiser that is told a class.
pub(crate) struct ClassDenoiser {
    pub denoiser: Box<dyn Denoiser>,
    pub condition: ClassCondition,
    /// The target's name, if it is not the only one that fits.
    pub target: Option<String>,
    /// One draw for each image of a batch.
    pub draws: Draws,
    /// How it is measured.
    pub evaluation: EvaluationDraws,
}

/// A denoiser that is told a map, and how maps are made for it.
pub(crate) struct MapDenoiser {
    pub denoiser: Box<dyn Denoiser>,
    pub spatial: SpatialConfig,
    /// The target's name, if it is not the only one that fits.
    pub target: Option<String>,
    /// How distances become numbers, where they are not told as they are.
    pub range: Option<DepthRange>,
    /// One draw for each image of a batch.
    pub draws: Draws,
    /// How it is measured.
    pub evaluation: EvaluationDraws,
}

/// The loss of a batch, `[1]`, and what the batch says about running statistics.
pub(crate) struct Loss {
    pub value: Tensor,
    pub statistics: Vec<(ParameterId, Tensor)>,
}

/// Keys the draws of training apart from those of any sample.
const DRAWS: &str = "training";

impl Lesson {
    pub fn parameters(&self) -> &Arc<[ParameterSpec]> {
        match self {
            Self::ClassDenoiser(lesson) => lesson.denoiser.parameters(),
            Self::MapDenoiser(lesson) => lesson.denoiser.parameters(),
            Self::Classifier { backbone, .. } | Self::Numbers { backbone, .. } => {
                backbone.parameters()
            }
        }
    }

    pub fn takes(&self) -> Takes {
        let labels = TargetType::LabelMap {
            ignore: IGNORE.into(),
        };
        let numbers = |channels| TargetType::NumberMap {
            channels,
            invalid: 0.0,
        };
        match self {
            Self::ClassDenoiser(lesson) => Takes {
                shape: lesson.denoiser.image_shape(),
                target: TargetType::ClassIndex {},
                classes: Some(lesson.condition.classes),
                cover: false,
                name: lesson.target.clone(),
            },
            Self::MapDenoiser(lesson) => Takes {
                shape: lesson.denoiser.image_shape(),
                target: match lesson.spatial.classes {
                    Some(_) => labels,
                    None => numbers(lesson.spatial.channels),
                },
                classes: lesson.spatial.classes,
                cover: false,
                name: lesson.target.clone(),
            },
            Self::Classifier {
                backbone, target, ..
            } => Takes {
                shape: backbone.spec().image,
                target: match backbone.spec().per_pixel {
                    true => labels,
                    false => TargetType::ClassIndex {},
                },
                classes: Some(backbone.spec().outputs),
                cover: true,
                name: target.clone(),
            },
            Self::Numbers {
                backbone, target, ..
            } => Takes {
                shape: backbone.spec().image,
                target: numbers(backbone.spec().outputs),
                classes: None,
                cover: true,
                name: target.clone(),
            },
        }
    }

    /// The loss of `examples`, recorded on the tape of `weights`. Whatever is random is a function of the seed and `step`.
    pub fn loss(&self, weights: &Weights, examples: &Examples, step: usize) -> Result<Loss> {
        let images = &examples.images;
        match self {
            Self::ClassDenoiser(lesson) => {
                let condition = lesson.training_condition(weights, examples, step)?;
                let denoiser = &*lesson.denoiser;
                denoising(denoiser, &lesson.draws, weights, images, &condition, step)
            }
            Self::MapDenoiser(lesson) => {
                let condition = lesson.training_condition(weights, examples, step)?;
                let denoiser = &*lesson.denoiser;
                denoising(denoiser, &lesson.draws, weights, images, &condition, step)
            }
            Self::Classifier {
                backbone,
                smoothing,
                class_weights,
                reconstruction,
                ..
            } => {
                let (outputs, statistics) = backbone.forward_training(weights, images)?;
                let logits = logits(&outputs)?;
                let mut value = match backbone.spec().per_pixel {
                    true => pixel_cross_entropy(logits, examples, *smoothing, class_weights)?,
                    false => cross_entropy(logits, &examples.labels, *smoothing, class_weights)?,
                };
                if let (Some((masks, weight)), Some(decoder)) =
                    (reconstruction, backbone.reconstruction())
                {
                    let ids = examples.ids.iter();
                    let visible: Vec<_> = ids.map(|id| masks.visible(id, step, 0)).collect();
                    let error = decoder.loss(weights, images, &visible)?;
                    value = value.add(&error.mean(&[], false)?.affine(*weight, 0.0)?)?;
                }
                Ok(Loss { value, statistics })
            }
            Self::Numbers {
                backbone,
                range,
                gradient_weight,
                ..
            } => {
                let (outputs, statistics) = backbone.forward_training(weights, images)?;
                Ok(Loss {
                    value: number_error(logits(&outputs)?, examples, *range, *gradient_weight)?,
                    statistics,
                })
            }
        }
    }
}

impl ClassDenoiser {
    /// What the denoiser is told about images of these classes, left out now and then.
    fn training_condition(
        &self,
        weights: &Weights,
        examples: &Examples,
        step: usize,
    ) -> Result<Named> {
        let mut labels: Vec<i64> = examples.labels.iter().map(|&label| label as i64).collect();
        if let Some(null) = self.condition.null_label {
            let probability = self.condition.dropout_prob;
            let left_out = left_out(self.draws.seed, step, probability, labels.len())?;
            for (label, left_out) in labels.iter_mut().zip(left_out) {
                if left_out {
                    *label = null as i64;
                }
            }
        }
        let labels = Tensor::from_ints(&labels, &[labels.len()], examples.images.device())?;
        let condition = self.denoiser.embed_classes(weights, &labels)?;
        Ok(Named::one(CLASS_EMBEDDING, condition))
    }
}

impl MapDenoiser {
    /// What the denoiser is told about images with these maps.
    pub fn condition(&self, weights: &Weights, examples: &Examples) -> Result<Tensor> {
        let [_, height, width] = self.denoiser.image_shape();
        let mut values = Vec::new();
        match self.spatial.classes {
            Some(classes) => {
                for map in examples.label_maps() {
                    values.extend(map.shares(classes, [height, width]));
                }
            }
            None => {
                let told = |number| match self.range {
                    Some(range) => 2.0 * range.normalise(number) - 1.0,
                    None => number,
                };
                for map in examples.number_maps() {
                    values.extend(map.cell_means([height, width], 0.0, told));
                }
            }
        }
        let channels = self.spatial.classes.unwrap_or(self.spatial.channels);
        let shape = [examples.len(), channels, height, width];
        let values = Tensor::from_floats(&values, &shape, examples.images.device())?;
        if self.spatial.classes.is_none() {
            return Ok(values);
        }
        let constants = self.denoiser.constants(weights)?;
        let Some(table) = constants.get(CLASS_EMBEDDINGS) else {
            return Err(no_embeddings());
        };
        // A mixture of embeddings for each cell, weighted by the classes' shares.
        let mixed = values
            .permute(&[0, 2, 3, 1])?
            .reshape(&[-1, channels as i64])?
            .matmul(table)?;
        let shape = [examples.len(), height, width, self.spatial.channels];
        let shape = shape.map(|extent| extent as i64);
        Ok(mixed.reshape(&shape)?.permute(&[0, 3, 1, 2])?)
    }

    /// The same, left out now and then.
    fn training_condition(
        &self,
        weights: &Weights,
        examples: &Examples,
        step: usize,
    ) -> Result<Named> {
        let condition = self.condition(weights, examples)?;
        let probability = self.spatial.dropout_prob;
        let left_out = left_out(self.draws.seed, step, probability, examples.len())?;
        let kept: Vec<f32> = left_out
            .map(|left_out| f32::from(u8::from(!left_out)))
            .collect();
        let kept = Tensor::from_floats(&kept, &[kept.len(), 1, 1, 1], condition.device())?;
        Ok(Named::one(SPATIAL, condition.mul(&kept)?))
    }
}

/// The refusal of a denoiser whose classes have no embeddings.
pub(crate) fn no_embeddings() -> Error {
    Error::invalid("/model", "the denoiser has no class embeddings")
}

/// The logits among a backbone's outputs.
pub(crate) fn logits(outputs: &Named) -> Result<&Tensor> {
    let missing = || Error::invalid("/model", format!("the model answers no `{LOGITS}`"));
    outputs.get(LOGITS).ok_or_else(missing)
}

/// Which images of a batch are told nothing.
fn left_out(
    seed: u64,
    step: usize,
    probability: f64,
    images: usize,
) -> Result<impl Iterator<Item = bool>> {
    let key = [seed.to_le_bytes(), (step as u64).to_le_bytes()];
    let mut rng = keyed_rng("class dropout", &[&key[0], &key[1]]);
    let dice = Bernoulli::new(probability).map_err(|_| {
        let message = format!("leaves its condition out with probability {probability}");
        Error::invalid("/model", message)
    })?;
    Ok((0..images).map(move |_| dice.sample(&mut rng)))
}

/// The mean squared error of what the denoiser predicts of `images`, one draw for each.
fn denoising(
    denoiser: &dyn Denoiser,
    draws: &Draws,
    weights: &Weights,
    images: &Tensor,
    condition: &Named,
    step: usize,
) -> Result<Loss> {
    let (shape, device) = (images.shape(), images.device());
    let times = draws.times(DRAWS, step);
    let mut noise = vec![0.0; shape.elements()];
    for (draw, row) in noise.chunks_mut(shape.elements() / shape[0]).enumerate() {
        draws.noise(DRAWS, step, draw, row);
    }
    let noise = Tensor::from_floats(&noise, &shape, device)?;
    let mixed = denoiser.schedule().mix(images, &noise, &times)?;
    let error = denoiser
        .predict(weights, &mixed.noisy, &times, condition)?
        .sub(&mixed.target)?;
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
    examples: &Examples,
    smoothing: f64,
    class_weights: &[f32],
) -> Result<Tensor> {
    let (mut places, mut labels) = (Vec::new(), Vec::new());
    let known = examples.label_maps().flat_map(|map| map.data());
    for (place, &label) in known.enumerate() {
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

/// The mean absolute error of `outputs`, `[B, C, H, W]`, from the numbers, and `gradient_weight` times that of their differences between
/// neighbours, vertical and horizontal. With a range, it is `sigmoid(outputs)` that is compared, with the normalised distance. Pixels that
/// nothing is known about do not count.
pub(crate) fn number_error(
    outputs: &Tensor,
    examples: &Examples,
    range: Option<DepthRange>,
    gradient_weight: f64,
) -> Result<Tensor> {
    let (shape, device) = (outputs.shape(), outputs.device());
    let (mut numbers, mut known) = (Vec::new(), Vec::new());
    for map in examples.number_maps() {
        let [channels, height, width] = map.shape();
        let is_known: Vec<bool> = (0..height * width)
            .map(|pixel| map.is_known(pixel))
            .collect();
        for (&number, &is_known) in map.data().iter().zip(is_known.iter().cycle()) {
            let compared = range.map_or(number, |range| range.normalise(number));
            numbers.push(if is_known { compared } else { 0.0 });
        }
        for _ in 0..channels {
            known.extend(
                is_known
                    .iter()
                    .map(|&is_known| f32::from(u8::from(is_known))),
            );
        }
    }
    let known = Tensor::from_floats(&known, &shape, device)?;
    let predicted = match range {
        Some(_) => outputs.sigmoid()?,
        None => outputs.clone(),
    };
    let error = predicted.sub(&Tensor::from_floats(&numbers, &shape, device)?)?;
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
    sampler: TimestepSampler,
    range: TimeRange,
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
    use dtta_data::{DepthScale, LabelMap, NumberMap, Target, Targets};
    use dtta_tensor::Device;

    use super::*;

    /// One image that this is known about.
    fn example(target: impl Into<Target>) -> Examples {
        Examples {
            ids: vec!["a".into()],
            images: Tensor::full(&[1, 1, 1, 3], 0.0, &Device::cpu()).unwrap(),
            labels: Vec::new(),
            targets: vec![Targets::new().with("target", target)],
            name: "target".into(),
        }
    }

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
        let known = example(LabelMap::new(1, 3, vec![0, IGNORE, 1]).unwrap());
        let found = pixel_cross_entropy(&logits, &known, 0.0, &[]).unwrap();
        // log 2 and log(1 + e^-1).
        let expected = (2f64.ln() + (-1f64).exp().ln_1p()) / 2.0;
        assert!((f64::from(found.item().unwrap()) - expected).abs() < 1e-6);
    }

    #[test]
    fn errors_of_distances_agree_with_a_calculation_by_hand() {
        // sigmoid(0) = 1/2 everywhere; distances 1, 3, none over [0, 4]: y = 1/4, 3/4; errors 1/4, -1/4; one difference, -1/2.
        let logits = Tensor::full(&[1, 1, 1, 3], 0.0, &Device::cpu()).unwrap();
        let known = example(NumberMap::new(1, 1, 3, vec![1.0, 3.0, 0.0]).unwrap());
        let range = Some(DepthRange {
            scale: DepthScale::Linear,
            minimum: 0.0,
            maximum: 4.0,
        });
        let found = number_error(&logits, &known, range, 0.5).unwrap();
        assert!((found.item().unwrap() - 0.5).abs() < 1e-6);
        let found = number_error(&logits, &known, range, 0.0).unwrap();
        assert!((found.item().unwrap() - 0.25).abs() < 1e-6);
    }

    #[test]
    fn errors_of_numbers_agree_with_a_calculation_by_hand() {
        // Pixels (1, 0), (-1, 2), unknown against (0, 1) everywhere: errors 1, 1, 1, 1 over the known ones. Their differences, of which
        // there is one in each channel: from -1 to 1 and from 1 to -1.
        let outputs = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0];
        let outputs = Tensor::from_floats(&outputs, &[1, 2, 1, 3], &Device::cpu()).unwrap();
        let numbers = vec![1.0, -1.0, 0.0, 0.0, 2.0, 0.0];
        let known = example(NumberMap::new(2, 1, 3, numbers).unwrap());
        let found = number_error(&outputs, &known, None, 0.0).unwrap();
        assert!((found.item().unwrap() - 1.0).abs() < 1e-6);
        let found = number_error(&outputs, &known, None, 0.5).unwrap();
        assert!((found.item().unwrap() - 2.0).abs() < 1e-6);
    }
}

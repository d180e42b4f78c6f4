//! Measures of trained weights on labelled images.

use dtta_learn::{Draws, NoiseSharing, TimestepSampler};
use dtta_models::{
    Backbone, BatchNormStatistics, CLASS_EMBEDDING, CLASS_EMBEDDINGS, Denoiser, TimeRange, Weights,
};
use dtta_tensor::{Named, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::lesson::{cross_entropy, logits, no_embeddings};

/// How well weights do on labelled images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Share of images or pixels whose class is found; of a denoiser that is told a map, share of images whose noise it predicts better
    /// under their own map than under another image's; of a predictor of distances, share of pixels within a factor of 1.25; of other
    /// numbers, the share of their variance that is explained (1 - squared error / squared distance from the mean, below 0 for what is
    /// worse than the mean).
    pub accuracy: f64,
    /// Mean loss under the truth: squared error of the noise, cross-entropy, or absolute error of
    /// numbers, of distances once they are normalised.
    pub loss: f64,
    /// How many images.
    pub samples: usize,
    /// Of a classifier of pixels: intersection over union, averaged over classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub miou: Option<f64>,
}

/// How [`diffusion_classifier`] measures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DiffusionClassifierOptions {
    /// Draws of timestep and noise for each image; all classes share them.
    pub draws: usize,
    /// How timesteps are spread over the range.
    pub sampler: TimestepSampler,
    /// Where they lie.
    pub range: TimeRange,
    /// Fixes the draws.
    pub seed: u64,
    /// The most images times classes in one call of the denoiser: more take more memory.
    pub rows: usize,
}

impl DiffusionClassifierOptions {
    /// So many draws from a range of timesteps, stratified, with seed 0 and calls of a moderate size.
    pub fn new(draws: usize, range: TimeRange) -> Self {
        Self {
            draws,
            sampler: TimestepSampler::Stratified,
            range,
            seed: 0,
            rows: 320,
        }
    }
}

/// Classifies images of `[N, C, H, W]` by the class under which the denoiser predicts their noise best, on average over draws that
/// all classes share (Diffusion Classifier, Li et al. 2023). `progress` hears how many images are done. Records no tape.
///
/// # Errors
/// [`Error::Invalid`] for a denoiser without class embeddings, for no draws or a range outside the schedule, or unless there is one
/// label, below the number of classes, for each image.
pub fn diffusion_classifier(
    denoiser: &dyn Denoiser,
    weights: &Weights,
    images: &Tensor,
    labels: &[usize],
    options: &DiffusionClassifierOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<Evaluation> {
    let weights = &weights.detach();
    let constants = denoiser.constants(weights)?;
    let table = constants.get(CLASS_EMBEDDINGS).ok_or_else(no_embeddings)?;
    let (classes, width) = (table.shape()[0], table.shape()[1]);
    expect_labels(images, labels, classes)?;
    let TimeRange { low, high, .. } = options.range;
    let range = denoiser.schedule().range(Some([low, high]));
    let range = range.map_err(|problem| Error::invalid("/evaluate", problem))?;
    if options.draws == 0 {
        let message = "0 draws; expected 1 or more";
        return Err(Error::invalid("/evaluate", message));
    }
    let draws = Draws {
        seed: options.seed,
        count: options.draws,
        sampler: options.sampler,
        range,
        noise: NoiseSharing::Fresh,
    };
    let [c, h, w] = denoiser.image_shape();
    let mut score = Score::default();
    let together = (options.rows / classes).max(1);
    for start in (0..labels.len()).step_by(together) {
        let count = together.min(labels.len() - start);
        let images = images.narrow(0, start, count)?;
        let ids: Vec<String> = (start..start + count).map(|n| format!("{n}")).collect();
        let times: Vec<Vec<f64>> = ids.iter().map(|id| draws.times(id, 0)).collect();
        let rows = [(count * classes) as i64, c as i64, h as i64, w as i64];
        let condition = table
            .unsqueeze(0)?
            .expand(&[count, classes, width])?
            .reshape(&[rows[0], width as i64])?;
        let condition = Named::one(CLASS_EMBEDDING, condition);
        let mut losses: Option<Tensor> = None;
        for draw in 0..options.draws {
            let mut noise = vec![0.0; count * c * h * w];
            for (id, row) in ids.iter().zip(noise.chunks_mut(c * h * w)) {
                draws.noise(id, 0, draw, row);
            }
            let noise = Tensor::from_floats(&noise, &[count, c, h, w], images.device())?;
            let at: Vec<f64> = times.iter().map(|of_image| of_image[draw]).collect();
            let for_all = |x: &Tensor| {
                x.unsqueeze(1)?
                    .expand(&[count, classes, c, h, w])?
                    .reshape(&rows)
            };
            let mixed = denoiser.schedule().mix(&images, &noise, &at)?;
            let at: Vec<f64> = at.iter().flat_map(|&t| vec![t; classes]).collect();
            let error = denoiser
                .predict(weights, &for_all(&mixed.noisy)?, &at, &condition)?
                .sub(&for_all(&mixed.target)?)?;
            let loss = error.mul(&error)?.mean(&[1, 2, 3], false)?;
            losses = Some(match losses {
                Some(sum) => sum.add(&loss)?,
                None => loss,
            });
        }
        let losses = losses
            .expect("there is at least one draw, as was checked")
            .to_floats()?;
        for (row, &label) in losses.chunks(classes).zip(&labels[start..start + count]) {
            let best = (0..classes).min_by(|&a, &b| row[a].total_cmp(&row[b]));
            let loss = f64::from(row[label]) / options.draws as f64;
            score.count(best == Some(label), loss);
        }
        progress(start + count);
    }
    Ok(score.finish())
}

/// Measures a classifier on images of `[N, C, H, W]`, `rows` at a time, with its running statistics. `progress` hears how many are
/// done. Records no tape.
///
/// # Errors
/// [`Error::Invalid`] unless there is one label, below the number of classes, for each image.
pub fn classifier_accuracy(
    backbone: &dyn Backbone,
    weights: &Weights,
    images: &Tensor,
    labels: &[usize],
    rows: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Evaluation> {
    let weights = &weights.detach();
    let classes = backbone.spec().outputs;
    expect_labels(images, labels, classes)?;
    let mut score = Score::default();
    let together = rows.max(1);
    for start in (0..labels.len()).step_by(together) {
        let count = together.min(labels.len() - start);
        let labels = &labels[start..start + count];
        let outputs = backbone.forward(
            weights,
            &images.narrow(0, start, count)?,
            BatchNormStatistics::Running,
        )?;
        let logits = logits(&outputs)?;
        let loss = f64::from(cross_entropy(logits, labels, 0.0, &[])?.item()?);
        let logits = logits.to_floats()?;
        for (row, &label) in logits.chunks(classes).zip(labels) {
            let best = (0..classes).max_by(|&a, &b| row[a].total_cmp(&row[b]));
            score.count(best == Some(label), loss);
        }
        progress(start + count);
    }
    Ok(score.finish())
}

fn expect_labels(images: &Tensor, labels: &[usize], classes: usize) -> Result<()> {
    let count = images.shape()[0];
    let highest = labels.iter().copied().max();
    if labels.len() == count && highest.is_some_and(|label| label < classes) {
        return Ok(());
    }
    let message = format!(
        "{} labels up to {} for {count} images and {classes} classes",
        labels.len(),
        highest.unwrap_or_default()
    );
    Err(Error::invalid("/data/held_out", message))
}

#[derive(Default)]
struct Score {
    samples: usize,
    right: usize,
    loss: f64,
}

impl Score {
    fn count(&mut self, right: bool, loss: f64) {
        self.samples += 1;
        self.right += usize::from(right);
        self.loss += loss;
    }

    fn finish(&self) -> Evaluation {
        Evaluation {
            accuracy: self.right as f64 / self.samples as f64,
            loss: self.loss / self.samples as f64,
            samples: self.samples,
            miou: None,
        }
    }
}

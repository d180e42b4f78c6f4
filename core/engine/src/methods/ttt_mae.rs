//! Test-Time Training with Masked Autoencoders (Gandelsman et al., NeurIPS 2022, arXiv:2209.07522): before each prediction, encoder and
//! decoder learn to reconstruct masked patches of the image at hand, by the loss of He et al. (2022), and the classifier takes what the
//! adapted encoder makes of the whole image. As published each image is adapted to by itself from the source weights (`single_sample`
//! mode); online, weights go on from batch to batch (Sun et al., ICML 2020, section 2), and the losses of a batch are averaged.
//!
//! Defaults are those of the authors' command: 20 steps, 128 masks of 75 % of the patches in each, SGD with a momentum of 0.9 at 0.005,
//! which it writes as 1e-2 for batches of 256. Theirs differs in two things: it leaves the decoder as it is, `"exclude": ["decoder*"]`
//! here, where the paper's equation 4 moves both; and its classifier is a transformer of 12 blocks on the encoder.

use dtta_base::Issue;
use dtta_learn::{Learner, MAX_BATCH, Masks, OptimizerConfig, Selected, SelectionConfig, State};
use dtta_models::Weights;
use dtta_tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::classifier::{Classifier, Gradients, Notes, Rule, added};
use super::{Batch, Method, MethodConfig, Setting, Toolbox};
use crate::error::{Error, Result};

/// TTT-MAE (Gandelsman et al. 2022): reconstruction of masked patches. For classifiers with a decoder; needs no denoiser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TttMaeConfig {
    /// Optimizer updates for each batch; 0 measures the source model alone.
    #[serde(default = "steps")]
    #[schemars(range(max = super::MAX_STEPS))]
    pub steps: usize,
    /// Masks of each image in each step.
    #[serde(default = "masks")]
    #[schemars(range(min = 1, max = MAX_BATCH))]
    pub masks: usize,
    /// The share of an image's patches that is masked.
    #[serde(default = "mask_ratio")]
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub mask_ratio: f64,
    /// Masked images in one pass at most. Changes speed and memory, and results by rounding alone.
    #[serde(default = "micro_batch")]
    #[schemars(range(min = 1, max = MAX_BATCH))]
    pub micro_batch: usize,
    /// How the task model's parameters move.
    #[serde(default = "optimizer")]
    pub optimizer: OptimizerConfig,
    /// Which of the task model's parameters move. The classifier has no part in a reconstruction, so it stays in any case.
    #[serde(default = "without_head")]
    pub parameters: SelectionConfig,
}

fn steps() -> usize {
    20
}

fn masks() -> usize {
    128
}

fn mask_ratio() -> f64 {
    0.75
}

fn micro_batch() -> usize {
    32
}

fn optimizer() -> OptimizerConfig {
    OptimizerConfig::Sgd {
        learning_rate: 5e-3,
        momentum: 0.9,
        weight_decay: 0.0,
    }
}

fn without_head() -> SelectionConfig {
    SelectionConfig {
        group: Selected::WithoutHead,
        ..SelectionConfig::default()
    }
}

impl MethodConfig for TttMaeConfig {
    const KIND: &'static str = "ttt_mae";
    const NEEDS_DENOISER: bool = false;

    fn parameters(&self) -> Option<&SelectionConfig> {
        Some(&self.parameters)
    }

    fn build(&self, setting: &Setting<'_>) -> Result<Box<dyn Method>, Vec<Issue>> {
        let Some(patches) = setting.patches else {
            let message = "`ttt_mae` needs a backbone that reconstructs masked patches, such as a `vit` with a `decoder`, and this one does not";
            return Err(vec![Issue::new("/kind", message)]);
        };
        let masks = Masks::new(setting.seed, self.mask_ratio, patches);
        let rule = TttMae {
            masks: masks.map_err(|problem| vec![Issue::new("/mask_ratio", problem)])?,
            learner: setting.learner(self.optimizer, &self.parameters)?,
            config: self.clone(),
        };
        Classifier::boxed(setting, Self::KIND, self.steps, rule)
    }

    fn in_words(&self) -> String {
        format!("TTT-MAE, {} steps of {} masks", self.steps, self.masks)
    }
}

struct TttMae {
    config: TttMaeConfig,
    masks: Masks,
    learner: Learner,
}

impl TttMae {
    /// The gradient of the mean loss over all images and masks of a step, and each image's mean loss.
    fn evaluate(
        &self,
        tools: &Toolbox,
        batch: &Batch<'_>,
        step: usize,
    ) -> Result<(Gradients, Vec<f32>)> {
        let learner = &self.learner;
        let reconstruction = tools.task().backbone().reconstruction();
        let reconstruction = reconstruction.ok_or(Error::NoDecoder)?;
        let masked = |image| (0..self.config.masks).map(move |mask| (image, mask));
        let all: Vec<(usize, usize)> = (0..batch.ids.len()).flat_map(masked).collect();
        let share = 1.0 / all.len() as f64;
        let device = batch.task.device();
        let of = |chunk: &[(usize, usize)]| -> Result<(Gradients, Vec<f32>)> {
            let visible = chunk.iter();
            let visible: Vec<Vec<usize>> = visible
                .map(|&(image, mask)| self.masks.visible(batch.ids[image], step, mask))
                .collect();
            let rows: Vec<i64> = chunk.iter().map(|&(image, _)| image as i64).collect();
            let rows = Tensor::from_ints(&rows, &[rows.len()], device)?;
            let images = batch.task.index_select(0, &rows)?;
            let leaves = learner.leaves()?;
            let each = reconstruction.loss(&leaves, &images, &visible)?;
            let found = each.sum(&[], false)?.affine(share, 0.0)?.backward()?;
            let parameters = learner.parameters().iter();
            let gradients = parameters.map(|&id| found.of(leaves.get(id))).collect();
            Ok((gradients, each.to_floats()?))
        };
        let (mut gradients, mut losses) = (Vec::new(), Vec::with_capacity(all.len()));
        let chunks: Vec<&[(usize, usize)]> = all.chunks(self.config.micro_batch).collect();
        // As many at a time as the device works on at once: more gradients need not be held.
        for some in chunks.chunks(device.lanes().max(1)) {
            for found in device.each(some, |chunk| of(chunk)) {
                let (more, each) = found?;
                gradients = added(gradients, more)?;
                losses.extend(each);
            }
        }
        let mean = |losses: &[f32]| {
            let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
            (sum / losses.len() as f64) as f32
        };
        Ok((
            gradients,
            losses.chunks(self.config.masks).map(mean).collect(),
        ))
    }
}

impl Rule for TttMae {
    fn step(
        &mut self,
        tools: &mut Toolbox,
        batch: &Batch<'_>,
        step: usize,
        notes: &mut Notes,
    ) -> Result<()> {
        let images = batch.ids.len();
        let (gradients, losses) = self.evaluate(tools, batch, step)?;
        notes.step(batch, &losses, &vec![true; images])?;
        self.learner.step(gradients)?;
        Ok(())
    }

    fn learner(&mut self) -> &mut Learner {
        &mut self.learner
    }

    fn reset(&mut self, source: &Weights) {
        self.learner.reset(source);
    }

    fn state(&self) -> State {
        self.learner.state()
    }

    fn restore(&mut self, state: State) -> Result<()> {
        Ok(self.learner.restore(state)?)
    }
}

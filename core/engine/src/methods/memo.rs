//! MEMO: Test Time Robustness via Adaptation and Augmentation (Zhang et al., NeurIPS 2022, arXiv:2110.09506). The entropy of an image's
//! prediction averaged over views (equation 2). As published each image is adapted to by itself (`single_sample` mode); online, the
//! losses of a batch are averaged.
//!
//! The authors' views are AugMix's and random crops of images in [0, 1]; here they are those that all methods share (`view`). Their BatchNorm
//! layers mix N = 16 counts of the training statistics with those of the views: `/adaptation/batch_norm` as `{"mixed": α}`.

use dtta_base::Issue;
use dtta_learn::{Learner, OptimizerConfig, SelectionConfig, State};
use dtta_models::Weights;
use dtta_tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::classifier::{Classifier, Gradients, Notes, Rule, added};
use super::losses::logits;
use super::{Batch, Method, MethodConfig, Setting, Toolbox};
use crate::error::Result;
use crate::parts::ViewsConfig;

/// MEMO (Zhang et al. 2022): the entropy of the prediction averaged over views of an image. For classifiers; needs no denoiser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoConfig {
    /// Optimizer updates for each batch; 0 measures the source model alone.
    #[serde(default = "super::one")]
    #[schemars(range(max = super::MAX_STEPS))]
    pub steps: usize,
    /// How the task model's parameters move.
    #[serde(default = "optimizer")]
    pub optimizer: OptimizerConfig,
    /// Which of the task model's parameters move.
    #[serde(default)]
    pub parameters: SelectionConfig,
    /// Views of each image (B).
    #[serde(default = "count")]
    #[schemars(range(min = 1, max = 1024))]
    pub views: usize,
    /// How views differ from the image.
    #[serde(default)]
    pub view: ViewsConfig,
}

fn optimizer() -> OptimizerConfig {
    OptimizerConfig::Sgd {
        learning_rate: 2.5e-4,
        momentum: 0.0,
        weight_decay: 0.0,
    }
}

fn count() -> usize {
    32
}

impl MethodConfig for MemoConfig {
    const KIND: &'static str = "memo";
    const NEEDS_DENOISER: bool = false;

    fn parameters(&self) -> Option<&SelectionConfig> {
        Some(&self.parameters)
    }

    fn build(&self, setting: &Setting<'_>) -> Result<Box<dyn Method>, Vec<Issue>> {
        let rule = Memo {
            config: self.clone(),
            seed: setting.seed,
            learner: setting.learner(self.optimizer, &self.parameters)?,
        };
        Classifier::boxed(setting, Self::KIND, self.steps, rule)
    }

    fn in_words(&self) -> String {
        format!("MEMO, {} steps of {} views", self.steps, self.views)
    }
}

struct Memo {
    config: MemoConfig,
    seed: u64,
    learner: Learner,
}

impl Rule for Memo {
    fn step(
        &mut self,
        tools: &mut Toolbox,
        batch: &Batch<'_>,
        step: usize,
        notes: &mut Notes,
    ) -> Result<()> {
        let images = batch.ids.len();
        let views = (0..self.config.views)
            .map(|view| self.config.view.view(batch, self.seed, step, view))
            .collect::<Result<Vec<_>>>()?;
        // The gradient of the mean is the mean of the gradients: one image's views are on the tape at a time.
        let mut sums = Gradients::new();
        let mut losses = Vec::with_capacity(images);
        for row in 0..images {
            let own = views.iter().map(|view| view.narrow(0, row, 1));
            let own = own.collect::<Result<Vec<_>, _>>()?;
            let own: Vec<&Tensor> = own.iter().collect();
            let pass = tools.pass(&self.learner, &Tensor::cat(&own, 0)?)?;
            let loss = of_the_mean(logits(&pass.outputs)?)?;
            losses.push(loss.item()?);
            let loss = loss.affine(1.0 / images as f64, 0.0)?;
            let gradients = pass.gradients(&self.learner, &loss)?;
            sums = added(sums, gradients)?;
            pass.leave(&mut self.learner)?;
        }
        notes.step(batch, &losses, &vec![true; images])?;
        self.learner.step(sums)?;
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

/// The entropy of the probabilities averaged over the rows of logits: `[1]`.
fn of_the_mean(logits: &Tensor) -> Result<Tensor> {
    let log = logits.log_softmax(1)?;
    // ln Σ exp, from the largest on.
    let largest = log.detach().amax(&[0], true)?;
    let mean = log.sub(&largest)?.exp()?.mean(&[0], true)?.log()?;
    let mean = mean.add(&largest)?;
    Ok(mean.exp()?.mul(&mean)?.sum(&[], false)?.affine(-1.0, 0.0)?)
}

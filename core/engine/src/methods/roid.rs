//! ROID: Universal Test-time Adaptation through Weight Ensembling, Diversity Weighting, and Prior Correction (Marsden et al., WACV 2024,
//! arXiv:2306.00650). The soft likelihood ratio of each prediction (equation 3), weighed by certainty and diversity (equations 4 and 5),
//! consistency with a view (section 3.4), a pull to the source after each step (equation 6), and predictions corrected for the
//! batch's prior (equation 8).
//!
//! Where the authors' code differs from the paper: losses are summed and divided by the batch, as if those left out had a loss of 0, which
//! is followed; the prior multiplies logits in the code and probabilities in the paper, which is followed. In a batch whose weights are
//! all the same (a batch of one), where the code divides by 0, the weight is e^0 and nothing is left out.

use dtta_base::Issue;
use dtta_learn::{Learner, OptimizerConfig, SelectionConfig, State};
use dtta_models::Weights;
use dtta_tensor::{Named, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::classifier::{Classifier, Notes, Rule};
use super::losses::{cross_entropy, entropy, logits, probabilities, weighed, with_logits};
use super::{Batch, Method, MethodConfig, Setting, Toolbox};
use crate::error::Result;
use crate::parts::{ClassMean, ViewsConfig, pull};

/// The largest probability in a likelihood ratio, and what is added to the ratio before the logarithm: the code's.
const CLIP: f64 = 0.99;
const EPSILON: f64 = 1e-5;

/// ROID (Marsden et al. 2024): weighed soft likelihood ratio and consistency, weight ensembling and prior correction. For classifiers; needs
/// no denoiser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoidConfig {
    /// Optimizer updates for each batch; 0 measures the source model alone.
    #[serde(default = "super::one")]
    #[schemars(range(max = super::MAX_STEPS))]
    pub steps: usize,
    /// How the task model's parameters move.
    #[serde(default = "super::classifier::sgd")]
    pub optimizer: OptimizerConfig,
    /// Which of the task model's parameters move.
    #[serde(default = "super::classifier::normalization")]
    pub parameters: SelectionConfig,
    /// Adds the symmetric cross-entropy with a view of each image.
    #[serde(default = "yes")]
    pub consistency: bool,
    /// How the view differs from the image.
    #[serde(default)]
    pub view: ViewsConfig,
    /// Divides the product of diversity and certainty (τ).
    #[serde(default = "temperature")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub temperature: f64,
    /// How much of the mean prediction is kept in each step.
    #[serde(default = "momentum")]
    #[schemars(range(min = 0, max = 1))]
    pub momentum: f64,
    /// How far the weights go back to the source's after each step (1 - α).
    #[serde(default = "back")]
    #[schemars(range(min = 0, max = 1))]
    pub pull: f64,
    /// Corrects predictions for how often the batch's say each class.
    #[serde(default = "yes")]
    pub prior_correction: bool,
}

fn yes() -> bool {
    true
}

fn temperature() -> f64 {
    1.0 / 3.0
}

fn momentum() -> f64 {
    0.9
}

fn back() -> f64 {
    0.01
}

impl MethodConfig for RoidConfig {
    const KIND: &'static str = "roid";
    const NEEDS_DENOISER: bool = false;

    fn parameters(&self) -> Option<&SelectionConfig> {
        Some(&self.parameters)
    }

    fn build(&self, setting: &Setting<'_>) -> Result<Box<dyn Method>, Vec<Issue>> {
        let rule = Roid {
            config: self.clone(),
            seed: setting.seed,
            learner: setting.learner(self.optimizer, &self.parameters)?,
            mean: ClassMean::default(),
        };
        Classifier::boxed(setting, Self::KIND, self.steps, rule)
    }

    fn in_words(&self) -> String {
        format!("ROID, {} steps", self.steps)
    }
}

struct Roid {
    config: RoidConfig,
    seed: u64,
    learner: Learner,
    mean: ClassMean,
}

impl Roid {
    /// What each image's loss counts: exp(diversity · certainty / τ), and 0 for those less diverse than the mean.
    fn weights(&mut self, logits: &Tensor) -> Result<Vec<f32>> {
        let rows = probabilities(logits)?;
        let classes = logits.shape()[1];
        let uniform = vec![1.0 / classes as f32; classes];
        let cosines = match self.mean.cosines(&rows)? {
            Some(cosines) => cosines,
            None => crate::parts::cosines(&uniform, &rows),
        };
        let diversity = stretched(cosines.iter().map(|cosine| 1.0 - cosine).collect());
        let entropies = entropy(&logits.detach())?.to_floats()?;
        let certainty = stretched(entropies.iter().map(|e| -e).collect());
        let momentum = self.config.momentum as f32;
        self.mean.follow(rows.iter(), momentum, Some(uniform))?;
        let mean = diversity.iter().sum::<f32>() / diversity.len() as f32;
        let each = diversity.iter().zip(&certainty);
        let temperature = self.config.temperature as f32;
        Ok(each
            .map(|(&diversity, &certainty)| match diversity < mean {
                true => 0.0,
                false => (diversity * certainty / temperature).exp(),
            })
            .collect())
    }
}

impl Rule for Roid {
    fn step(
        &mut self,
        tools: &mut Toolbox,
        batch: &Batch<'_>,
        step: usize,
        notes: &mut Notes,
    ) -> Result<()> {
        let images = batch.ids.len();
        let pass = tools.pass(&self.learner, &batch.task)?;
        let logits_here = logits(&pass.outputs)?;
        let weights = self.weights(logits_here)?;
        let ratios = likelihood_ratio(logits_here)?;
        let used: Vec<bool> = weights.iter().map(|&weight| weight > 0.0).collect();
        notes.step(batch, &ratios.detach().to_floats()?, &used)?;
        let mut loss = weighed(&ratios, &weights, images as f64)?;
        let places: Vec<usize> = (0..images).filter(|&row| used[row]).collect();
        if self.config.consistency && !places.is_empty() {
            let chosen = batch.select(&places)?;
            let seen = self.config.view.view(&chosen, self.seed, step, 0)?;
            let viewed = tools.outputs(&pass.leaves, &seen)?;
            let viewed = logits(&viewed)?;
            let rows: Vec<i64> = places.iter().map(|&row| row as i64).collect();
            let rows = Tensor::from_ints(&rows, &[rows.len()], viewed.device())?;
            let own = logits_here.index_select(0, &rows)?;
            let both = cross_entropy(&own, viewed)?.add(&cross_entropy(viewed, &own)?)?;
            let weights: Vec<f32> = places.iter().map(|&row| weights[row]).collect();
            loss = loss.add(&weighed(&both.affine(0.5, 0.0)?, &weights, images as f64)?)?;
        }
        pass.follow(&mut self.learner, &loss)?;
        pull(&mut self.learner, tools.source(), self.config.pull)
    }

    fn outputs(&mut self, tools: &mut Toolbox, batch: &Batch<'_>) -> Result<Named> {
        let outputs = tools.outputs(self.learner.weights(), &batch.task)?;
        if !self.config.prior_correction {
            return Ok(outputs);
        }
        let corrected = corrected(logits(&outputs)?)?;
        with_logits(&outputs, &corrected)
    }

    fn learner(&mut self) -> &mut Learner {
        &mut self.learner
    }

    fn reset(&mut self, source: &Weights) {
        self.learner.reset(source);
        self.mean = ClassMean::default();
    }

    fn state(&self) -> State {
        let mut state = State::new();
        state.put("task", self.learner.state());
        state.put("classes", self.mean.state());
        state
    }

    fn restore(&mut self, mut state: State) -> Result<()> {
        self.learner.restore(state.take("task"))?;
        self.mean.restore(state.take("classes"))?;
        Ok(state.finish()?)
    }
}

/// Numbers from 0 to 1, the smallest to the largest; 0 where they are all the same.
fn stretched(values: Vec<f32>) -> Vec<f32> {
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let range = high - low;
    let stretch = |value: f32| {
        if range > 0.0 {
            (value - low) / range
        } else {
            0.0
        }
    };
    values.into_iter().map(stretch).collect()
}

/// -Σ_k p_k ln(p_k / (1 - p_k) + ε), with p clipped: `[B]`.
fn likelihood_ratio(logits: &Tensor) -> Result<Tensor> {
    let p = logits.softmax(1)?.clamp(Some(0.0), Some(CLIP))?;
    let odds = p.div(&p.affine(-1.0, 1.0)?)?.affine(1.0, EPSILON)?;
    Ok(p.mul(&odds.log()?)?.sum(&[1], false)?.affine(-1.0, 0.0)?)
}

/// Logits plus the logarithm of the batch's smoothed prior.
fn corrected(logits: &Tensor) -> Result<Tensor> {
    let rows = probabilities(logits)?;
    let classes = logits.shape()[1];
    let prior: Vec<f32> = (0..classes)
        .map(|class| rows.iter().map(|row| row[class]).sum::<f32>() / rows.len() as f32)
        .collect();
    let largest = prior.iter().copied().fold(0.0, f32::max);
    let smooth = (1.0 / rows.len() as f32).max(1.0 / classes as f32) / largest;
    let log: Vec<f32> = prior
        .iter()
        .map(|p| ((p + smooth) / (1.0 + smooth * classes as f32)).ln())
        .collect();
    let log = Tensor::from_floats(&log, &[1, classes], logits.device())?;
    Ok(logits.add(&log)?)
}

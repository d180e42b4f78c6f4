//! SAR: Towards Stable Test-Time Adaptation in Dynamic Wild World (Niu et al., ICLR 2023, arXiv:2302.12400). Entropy minimisation on reliable
//! samples (equation 2) to a flat minimum (equations 3 to 5), and a return to the source when the moving mean of the entropy says that
//! predictions have collapsed (section 3.2).
//!
//! Where the authors' code differs from the paper: the second pass filters again, which is followed. After a return the code puts the
//! old moving mean back, so that it returns with the next batch too; the paper's is forgotten, which is followed. The paper and the code leave the last
//! blocks as they are: name them under `parameters.exclude`.

use dtta_base::Issue;
use dtta_learn::{Learner, OptimizerConfig, SelectionConfig, State};
use dtta_models::Weights;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::classifier::{Classifier, Notes, Rule};
use super::losses::{entropy, logits, weighed};
use super::{Batch, Method, MethodConfig, Setting, Toolbox};
use crate::error::Result;
use crate::parts::{MovingMean, climbed};

/// SAR (Niu et al. 2023): sharpness-aware entropy minimisation on reliable samples, with a return to the source after collapse. For
/// classifiers; needs no denoiser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SarConfig {
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
    /// Samples are reliable whose entropy is below this share of ln K, for K classes (E_0).
    #[serde(default = "margin")]
    #[schemars(range(min = 0, max = 1))]
    pub margin: f64,
    /// How far the first pass climbs (ρ).
    #[serde(default = "radius")]
    #[schemars(range(min = 0))]
    pub radius: f64,
    /// The source weights come back when the moving mean of the loss, in nats, is below this (e_0); 0 never does.
    #[serde(default = "recover")]
    #[schemars(range(min = 0))]
    pub recover: f64,
}

fn margin() -> f64 {
    0.4
}

fn radius() -> f64 {
    0.05
}

fn recover() -> f64 {
    0.2
}

impl MethodConfig for SarConfig {
    const KIND: &'static str = "sar";
    const NEEDS_DENOISER: bool = false;

    fn parameters(&self) -> Option<&SelectionConfig> {
        Some(&self.parameters)
    }

    fn build(&self, setting: &Setting<'_>) -> Result<Box<dyn Method>, Vec<Issue>> {
        let rule = Sar {
            config: self.clone(),
            learner: setting.learner(self.optimizer, &self.parameters)?,
            mean: MovingMean::default(),
        };
        Classifier::boxed(setting, Self::KIND, self.steps, rule)
    }

    fn in_words(&self) -> String {
        format!("SAR, {} steps", self.steps)
    }
}

struct Sar {
    config: SarConfig,
    learner: Learner,
    mean: MovingMean,
}

impl Rule for Sar {
    fn step(
        &mut self,
        tools: &mut Toolbox,
        batch: &Batch<'_>,
        _step: usize,
        notes: &mut Notes,
    ) -> Result<()> {
        let pass = tools.pass(&self.learner, &batch.task)?;
        let logits_here = logits(&pass.outputs)?;
        let margin = (self.config.margin * (logits_here.shape()[1] as f64).ln()) as f32;
        let here = entropy(logits_here)?;
        let entropies = here.detach().to_floats()?;
        let mut used: Vec<bool> = entropies.iter().map(|&e| e < margin).collect();
        let Some(loss) = mean_of(&here, &used)? else {
            notes.step(batch, &entropies, &used)?;
            return Ok(());
        };
        let learner = &mut self.learner;
        let gradients = pass.gradients(learner, &loss)?;
        let high = climbed(learner, &gradients, self.config.radius)?;
        let pass = tools.pass(&high, &batch.task)?;
        let there = entropy(logits(&pass.outputs)?)?;
        for (used, e) in used.iter_mut().zip(there.detach().to_floats()?) {
            *used &= e < margin;
        }
        notes.step(batch, &entropies, &used)?;
        let Some(loss) = mean_of(&there, &used)? else {
            return Ok(());
        };
        let gradients = pass.gradients(&high, &loss)?;
        learner.step(gradients)?;
        pass.leave(learner)?;
        self.mean.follow(loss.item()?.into(), 0.9);
        if self
            .mean
            .get()
            .is_some_and(|mean| mean < self.config.recover)
        {
            self.reset(tools.source());
        }
        Ok(())
    }

    fn learner(&mut self) -> &mut Learner {
        &mut self.learner
    }

    fn reset(&mut self, source: &Weights) {
        self.learner.reset(source);
        self.mean = MovingMean::default();
    }

    fn state(&self) -> State {
        let mut state = State::new();
        state.put("task", self.learner.state());
        state.put("loss", self.mean.state());
        state
    }

    fn restore(&mut self, mut state: State) -> Result<()> {
        self.learner.restore(state.take("task"))?;
        self.mean.restore(state.take("loss"))?;
        Ok(state.finish()?)
    }
}

/// The mean over the chosen; nothing if there are none.
fn mean_of(each: &dtta_tensor::Tensor, used: &[bool]) -> Result<Option<dtta_tensor::Tensor>> {
    let weights: Vec<f32> = used.iter().map(|&used| f32::from(u8::from(used))).collect();
    match used.iter().filter(|&&used| used).count() {
        0 => Ok(None),
        count => weighed(each, &weights, count as f64).map(Some),
    }
}

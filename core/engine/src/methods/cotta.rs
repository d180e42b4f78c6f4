//! CoTTA: Continual Test-Time Domain Adaptation (Wang et al., CVPR 2022, arXiv:2203.13591). The student learns from a teacher that follows it
//! (equations 1 and 2), whose predictions are averaged over views where the source is unsure (equations 3 to 5), and some of its weights go
//! back to the source at random (equations 6 and 7).
//!
//! Where the authors' code differs from the paper, the code is followed: whether the source is unsure is decided for a whole batch, by its
//! mean confidence, and logits are averaged, not probabilities. The prediction is the teacher's that the last step learned from. The code for
//! ImageNet makes the loss symmetric; that for CIFAR and the paper do not.

use dtta_base::Issue;
use dtta_learn::{Learner, OptimizerConfig, SelectionConfig, State};
use dtta_models::Weights;
use dtta_tensor::Named;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::classifier::{Classifier, Notes, Rule};
use super::losses::{cross_entropy, logits, probabilities, with_logits};
use super::{Batch, Method, MethodConfig, Setting, Toolbox};
use crate::error::Result;
use crate::parts::{Teacher, ViewsConfig, restore_some};

/// CoTTA (Wang et al. 2022): a student of an averaged teacher, with stochastic restoring. For classifiers; needs no denoiser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CottaConfig {
    /// Optimizer updates for each batch; 0 measures the source model alone.
    #[serde(default = "super::one")]
    #[schemars(range(max = super::MAX_STEPS))]
    pub steps: usize,
    /// How the task model's parameters move.
    #[serde(default = "super::classifier::adam")]
    pub optimizer: OptimizerConfig,
    /// Which of the task model's parameters move.
    #[serde(default)]
    pub parameters: SelectionConfig,
    /// Views that the teacher's prediction is averaged over (N).
    #[serde(default = "count")]
    #[schemars(range(min = 1, max = 1024))]
    pub views: usize,
    /// How views differ from the image.
    #[serde(default)]
    pub view: ViewsConfig,
    /// The source is unsure of a batch where its mean confidence is below this (p_th): 0.92 for CIFAR-10, 0.72 for CIFAR-100, 0.1 for
    /// ImageNet in the authors' code.
    #[serde(default = "sure")]
    #[schemars(range(min = 0, max = 1))]
    pub sure: f64,
    /// How much of the teacher is kept in each step (α).
    #[serde(default = "momentum")]
    #[schemars(range(min = 0, max = 1))]
    pub momentum: f64,
    /// Probability that an element of the weights goes back to the source (p).
    #[serde(default = "restore")]
    #[schemars(range(min = 0, max = 1))]
    pub restore: f64,
}

fn count() -> usize {
    32
}

fn sure() -> f64 {
    0.92
}

fn momentum() -> f64 {
    0.999
}

fn restore() -> f64 {
    0.01
}

impl MethodConfig for CottaConfig {
    const KIND: &'static str = "cotta";
    const NEEDS_DENOISER: bool = false;

    fn parameters(&self) -> Option<&SelectionConfig> {
        Some(&self.parameters)
    }

    fn build(&self, setting: &Setting<'_>) -> Result<Box<dyn Method>, Vec<Issue>> {
        let rule = Cotta {
            config: self.clone(),
            seed: setting.seed,
            learner: setting.learner(self.optimizer, &self.parameters)?,
            teacher: Teacher::new(setting.task),
            taught: None,
        };
        Classifier::boxed(setting, Self::KIND, self.steps, rule)
    }

    fn in_words(&self) -> String {
        format!("CoTTA, {} steps of {} views", self.steps, self.views)
    }
}

struct Cotta {
    config: CottaConfig,
    seed: u64,
    learner: Learner,
    teacher: Teacher,
    /// The teacher's outputs that the last step of a batch learned from.
    taught: Option<Named>,
}

impl Cotta {
    /// What the teacher says of a batch: averaged over views where the source is unsure.
    fn taught(&self, tools: &mut Toolbox, batch: &Batch<'_>, step: usize) -> Result<Named> {
        let source = tools.source().clone();
        let anchor = tools.outputs(&source, &batch.task)?;
        let rows = probabilities(logits(&anchor)?)?;
        let most = |row: &Vec<f32>| f64::from(row.iter().copied().fold(0.0, f32::max));
        let confidence = rows.iter().map(most).sum::<f64>() / rows.len() as f64;
        let plain = tools.outputs(self.teacher.weights(), &batch.task)?;
        if confidence >= self.config.sure {
            return Ok(plain);
        }
        let views = self.config.views;
        let mut sum = None;
        for view in 0..views {
            let seen = self.config.view.view(batch, self.seed, step, view)?;
            let outputs = tools.outputs(self.teacher.weights(), &seen)?;
            let logits = logits(&outputs)?.affine(1.0 / views as f64, 0.0)?;
            sum = Some(match sum {
                None => logits,
                Some(sum) => logits.add(&sum)?,
            });
        }
        Ok(match sum {
            Some(mean) => with_logits(&plain, &mean)?,
            None => plain,
        })
    }
}

impl Rule for Cotta {
    fn begin(&mut self, _tools: &mut Toolbox, _batch: &Batch<'_>) -> Result<()> {
        self.taught = None;
        Ok(())
    }

    fn step(
        &mut self,
        tools: &mut Toolbox,
        batch: &Batch<'_>,
        step: usize,
        notes: &mut Notes,
    ) -> Result<()> {
        let taught = self.taught(tools, batch, step)?;
        let pass = tools.pass(&self.learner, &batch.task)?;
        let each = cross_entropy(logits(&taught)?, logits(&pass.outputs)?)?;
        notes.step(
            batch,
            &each.detach().to_floats()?,
            &vec![true; batch.ids.len()],
        )?;
        pass.follow(&mut self.learner, &each.mean(&[], false)?)?;
        self.teacher.follow(&self.learner, self.config.momentum)?;
        restore_some(
            &mut self.learner,
            tools.source(),
            self.config.restore,
            (self.seed, batch.ids[0], step),
        )?;
        self.taught = Some(taught);
        Ok(())
    }

    fn outputs(&mut self, tools: &mut Toolbox, batch: &Batch<'_>) -> Result<Named> {
        match &self.taught {
            Some(taught) => Ok(taught.clone()),
            None => tools.outputs(self.teacher.weights(), &batch.task),
        }
    }

    fn learner(&mut self) -> &mut Learner {
        &mut self.learner
    }

    fn reset(&mut self, source: &Weights) {
        self.learner.reset(source);
        self.teacher = Teacher::new(source);
    }

    fn state(&self) -> State {
        let mut state = State::new();
        state.put("task", self.learner.state());
        state.put("teacher", self.teacher.state());
        state
    }

    fn restore(&mut self, mut state: State) -> Result<()> {
        self.learner.restore(state.take("task"))?;
        self.teacher.restore(state.take("teacher"))?;
        Ok(state.finish()?)
    }
}

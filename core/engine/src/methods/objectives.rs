//! Gradient descent on the objectives of plugins alone: the place to try a loss of one's own.

use dtta_base::Issue;
use dtta_learn::{OptimizerConfig, SelectionConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::descent::Descent;
use super::{Method, MethodConfig, Setting};
use crate::experiment::AdaptationConfig;
use crate::parts::SlowWeights;

/// Minimises `/plugins/objectives` alone: needs no denoiser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ObjectivesConfig {
    /// Optimizer updates for each batch; 0 measures the source model alone.
    #[serde(default = "super::one")]
    #[schemars(range(max = super::MAX_STEPS))]
    pub steps: usize,
    /// How the task model's parameters move.
    pub optimizer: OptimizerConfig,
    /// Which of the task model's parameters move.
    #[serde(default)]
    pub parameters: SelectionConfig,
    /// Carries slow weights, which follow each sample's fast weights, from batch to batch instead of the last batch's weights. Online
    /// only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_weights: Option<SlowWeights>,
}

impl MethodConfig for ObjectivesConfig {
    const KIND: &'static str = "objectives";
    const NEEDS_DENOISER: bool = false;

    fn parameters(&self) -> Option<&SelectionConfig> {
        Some(&self.parameters)
    }

    fn contradictions(&self, adaptation: &AdaptationConfig) -> Vec<Issue> {
        SlowWeights::contradictions(self.slow_weights, adaptation)
    }

    fn build(&self, setting: &Setting<'_>) -> Result<Box<dyn Method>, Vec<Issue>> {
        if setting.objectives == 0 && self.steps > 0 {
            let message = "without `/plugins/objectives` nothing moves the weights; set `steps` to 0 to measure the source model alone";
            return Err(vec![Issue::new("/steps", message)]);
        }
        let moves = (self.optimizer, &self.parameters);
        Descent::boxed(setting, self.steps, moves, self.slow_weights, |_| Ok(None))
    }

    fn in_words(&self) -> String {
        format!("objectives, {} steps", self.steps)
    }
}

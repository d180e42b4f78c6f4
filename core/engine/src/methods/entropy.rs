//! TENT: entropy minimisation (Wang et al., Fully Test-Time Adaptation by Entropy Minimization, ICLR 2021, arXiv:2006.10726), equation 1:
//! H(ŷ) = -Σ_c p(ŷ_c) log p(ŷ_c), averaged over the batch. As published: scales and shifts of normalisation layers move, online, with
//! BatchNorm layers normalising by the batch (`/adaptation/batch_norm`: `batch`).

use dtta_base::Issue;
use dtta_learn::{OptimizerConfig, SelectionConfig};
use dtta_tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::descent::Descent;
use super::{Method, MethodConfig, Pass, Setting, losses};
use crate::error::Result;
use crate::experiment::AdaptationConfig;
use crate::parts::SlowWeights;

/// Entropy minimisation (TENT, Wang et al. 2021): needs no denoiser. The entropy of the task output `logits` over its axis of classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EntropyConfig {
    /// Optimizer updates for each batch; 0 measures the source model alone.
    #[serde(default = "super::one")]
    #[schemars(range(max = super::MAX_STEPS))]
    pub steps: usize,
    /// How the task model's parameters move.
    pub optimizer: OptimizerConfig,
    /// Which of the task model's parameters move.
    #[serde(default = "super::classifier::normalization")]
    pub parameters: SelectionConfig,
    /// Carries slow weights, which follow each sample's fast weights, from batch to batch instead of the last batch's weights. Online
    /// only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_weights: Option<SlowWeights>,
}

impl MethodConfig for EntropyConfig {
    const KIND: &'static str = "entropy";
    const NEEDS_DENOISER: bool = false;

    fn parameters(&self) -> Option<&SelectionConfig> {
        Some(&self.parameters)
    }

    fn contradictions(&self, adaptation: &AdaptationConfig) -> Vec<Issue> {
        SlowWeights::contradictions(self.slow_weights, adaptation)
    }

    fn build(&self, setting: &Setting<'_>) -> Result<Box<dyn Method>, Vec<Issue>> {
        let moves = (self.optimizer, &self.parameters);
        Descent::boxed(setting, self.steps, moves, self.slow_weights, entropy)
    }

    fn in_words(&self) -> String {
        format!("entropy, {} steps", self.steps)
    }
}

fn entropy(pass: &Pass) -> Result<Option<Tensor>> {
    losses::entropy(losses::logits(&pass.outputs)?).map(Some)
}

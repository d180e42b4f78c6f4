//! What is said of factors of low rank, in peft's words.

use std::num::NonZeroUsize;

use dtta_base::Issue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Factors of low rank beside the matrices of linear layers (LoRA, Hu et al. 2022), as peft's `LoraConfig` says it: W + (alpha / rank) B A,
/// where A and B alone move. Without dropout, which adaptation to a few images has no use for; biases, DoRA and other kinds are not offered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rows of A and columns of B (peft's `r`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<NonZeroUsize>,
    /// The factors' product is multiplied by `alpha` / `rank` (peft's `lora_alpha`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub alpha: Option<f64>,
    /// Linear layers that get factors, by the names that the model's checkpoint has for them (peft's `target_modules`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<LoraTargets>,
    /// Multiplies by `alpha` / √`rank` instead (Kalajdzievski, A rank stabilization scaling factor for fine-tuning with LoRA, 2023).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub use_rslora: bool,
}

/// Names of modules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum LoraTargets {
    /// Names, or their last parts, such as `q_proj`.
    Names(#[schemars(length(min = 1))] Vec<String>),
    /// A regular expression for whole names, such as `.*attn\.(q|v)_proj`.
    Pattern(String),
}

/// All of it, said.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    pub rank: usize,
    pub alpha: f64,
    pub targets: LoraTargets,
    pub use_rslora: bool,
}

impl LoraConfig {
    /// Whether it says nothing, as one that goes on with the factors that a model was given.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What of it has to be said, by pointer.
    pub(super) fn settings(&self) -> Result<Settings, Vec<Issue>> {
        match (self.rank, self.alpha, &self.targets) {
            (Some(rank), Some(alpha), Some(targets)) => Ok(Settings {
                rank: rank.get(),
                alpha,
                targets: targets.clone(),
                use_rslora: self.use_rslora,
            }),
            (rank, alpha, targets) => {
                let said = [
                    ("/rank", rank.is_some()),
                    ("/alpha", alpha.is_some()),
                    ("/targets", targets.is_some()),
                ];
                let missing = said.iter().filter(|(_, said)| !said);
                Err(missing
                    .map(|(pointer, _)| Issue::new(*pointer, "is missing"))
                    .collect())
            }
        }
    }
}

impl Settings {
    /// s.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        match self.use_rslora {
            true => self.alpha / rank.sqrt(),
            false => self.alpha / rank,
        }
    }

    pub fn config(&self) -> LoraConfig {
        LoraConfig {
            rank: NonZeroUsize::new(self.rank),
            alpha: Some(self.alpha),
            targets: Some(self.targets.clone()),
            use_rslora: self.use_rslora,
        }
    }
}

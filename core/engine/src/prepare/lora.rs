//! Factors of low rank beside the matrices of a model: those of an adapter that it was given, or new ones, as its method moves them.

use dtta_base::Issue;
use dtta_learn::SelectionConfig;
use dtta_models::{Lora, LoraConfig, ModelError, Weights};

use crate::document::within;
use crate::error::{Error, Result};

/// What a method asks for, and where an experiment says so.
pub(super) struct Asked<'a> {
    pub parameters: Option<&'a SelectionConfig>,
    pub pointer: &'static str,
    /// `backbone` or `denoiser`.
    pub model: &'static str,
    pub seed: u64,
}

/// The factors that are to be moved. Those of an adapter that are not are added to the matrices.
pub(super) fn factors(
    asked: &Asked<'_>,
    adapter: Option<Lora>,
    weights: &mut Weights,
    refuse: &dyn Fn(Vec<Issue>) -> Error,
) -> Result<Option<Lora>> {
    let config = asked.parameters.and_then(SelectionConfig::lora);
    match (config, adapter) {
        (Some(config), Some(adapter)) if config.is_empty() => Ok(Some(adapter)),
        (config, adapter) => {
            if let Some(adapter) = adapter {
                adapter.merge(weights)?;
            }
            config
                .map(|config| new(asked, config, weights, refuse))
                .transpose()
        }
    }
}

fn new(
    asked: &Asked<'_>,
    config: &LoraConfig,
    weights: &Weights,
    refuse: &dyn Fn(Vec<Issue>) -> Error,
) -> Result<Lora> {
    let at = |issues| refuse(within(&format!("{}/group/lora", asked.pointer), issues));
    if config.is_empty() {
        let message = format!(
            "says neither `rank`, `alpha` and `targets`, nor does `/models/{}/adapter` give factors to go on with",
            asked.model
        );
        return Err(at(vec![Issue::new("", message)]));
    }
    Lora::new(config, weights, asked.seed).map_err(|error| match error {
        ModelError::Config { issues } => at(issues),
        other => other.into(),
    })
}

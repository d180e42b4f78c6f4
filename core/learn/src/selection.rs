//! Which parameters move.

use dtta_models::{Group, LoraConfig, ParameterId, Weights};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use crate::error::{Error, Result};

/// A choice of parameters: by group, then narrowed or widened by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SelectionConfig {
    /// The starting point.
    #[serde(default)]
    pub group: Selected,
    /// Names to add, with `*` and `?` as wildcards, such as `layer3.*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// Names to leave out, with `*` and `?` as wildcards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
}

/// Parameters by what they do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Selected {
    /// All of them.
    #[default]
    All,
    /// Scales and shifts of normalisation layers.
    Normalization,
    /// All but the last, classifying layer.
    WithoutHead,
    /// None: only what `include` names.
    None,
    /// Factors of low rank beside the matrices of some linear layers, which stay as they are. Without any settings, those of the adapter that
    /// the model was given.
    Lora(LoraConfig),
}

impl SelectionConfig {
    /// The factors of low rank that it asks for.
    pub fn lora(&self) -> Option<&LoraConfig> {
        match &self.group {
            Selected::Lora(config) => Some(config),
            _ => None,
        }
    }

    /// The chosen ones among a model's parameters. Buffers never move.
    ///
    /// # Errors
    /// [`Error::NothingSelected`] if the choice is empty, [`Error::UnmatchedPattern`] for a pattern that matches nothing.
    pub fn select(&self, model: &'static str, weights: &Weights) -> Result<Vec<ParameterId>> {
        let patterns = |list: &[String]| list.iter().map(|p| WildMatch::new(p)).collect::<Vec<_>>();
        let (include, exclude) = (patterns(&self.include), patterns(&self.exclude));
        for (text, pattern) in self
            .include
            .iter()
            .zip(&include)
            .chain(self.exclude.iter().zip(&exclude))
        {
            if !weights
                .specs()
                .iter()
                .any(|spec| pattern.matches(&spec.name))
            {
                return Err(Error::UnmatchedPattern {
                    model,
                    pattern: text.clone(),
                });
            }
        }
        let chosen = weights.select(|spec| {
            let named = include.iter().any(|pattern| pattern.matches(&spec.name));
            let dropped = exclude.iter().any(|pattern| pattern.matches(&spec.name));
            spec.group != Group::Buffer && (named || self.group.holds(spec.group)) && !dropped
        });
        if chosen.is_empty() {
            return Err(Error::NothingSelected { model });
        }
        Ok(chosen)
    }
}

impl Selected {
    fn holds(&self, group: Group) -> bool {
        match self {
            Self::All => true,
            Self::Normalization => group == Group::Norm,
            Self::WithoutHead => group != Group::Head,
            Self::None => false,
            Self::Lora(_) => group == Group::Lora,
        }
    }
}

#[cfg(test)]
mod tests {
    use dtta_models::{Declaration, Init};
    use dtta_tensor::Device;

    use super::*;

    fn weights() -> Weights {
        let mut declaration = Declaration::new();
        for (name, group) in [
            ("conv1.weight", Group::Weight),
            ("bn1.weight", Group::Norm),
            ("bn1.running_mean", Group::Buffer),
            ("layer1.0.conv1.weight", Group::Weight),
            ("fc.weight", Group::Head),
        ] {
            declaration.declare(name, &[1], group, Init::Zeros);
        }
        Weights::initialise(&declaration.finish(), 0, &Device::cpu()).unwrap()
    }

    fn chosen(config: serde_json::Value) -> Vec<String> {
        let config: SelectionConfig = serde_json::from_value(config).unwrap();
        let weights = weights();
        let chosen = config.select("task model", &weights).unwrap();
        chosen
            .iter()
            .map(|&id| weights.spec(id).name.clone())
            .collect()
    }

    #[test]
    fn selects_by_group_and_never_a_buffer() {
        assert_eq!(
            chosen(serde_json::json!({})),
            [
                "conv1.weight",
                "bn1.weight",
                "layer1.0.conv1.weight",
                "fc.weight"
            ]
        );
        assert_eq!(
            chosen(serde_json::json!({"group": "normalization"})),
            ["bn1.weight"]
        );
        assert_eq!(
            chosen(serde_json::json!({"group": "without_head"})),
            ["conv1.weight", "bn1.weight", "layer1.0.conv1.weight"]
        );
    }

    #[test]
    fn narrows_and_widens_by_name() {
        let both =
            serde_json::json!({"group": "none", "include": ["*conv1*"], "exclude": ["layer1.*"]});
        assert_eq!(chosen(both), ["conv1.weight"]);
    }

    #[test]
    fn refuses_patterns_and_choices_that_match_nothing() {
        let select = |config| {
            serde_json::from_value::<SelectionConfig>(config)
                .unwrap()
                .select("task model", &weights())
        };
        assert!(matches!(
            select(serde_json::json!({"include": ["layr1.*"]})),
            Err(Error::UnmatchedPattern { .. })
        ));
        assert!(matches!(
            select(serde_json::json!({"exclude": ["*"]})),
            Err(Error::NothingSelected { .. })
        ));
    }
}

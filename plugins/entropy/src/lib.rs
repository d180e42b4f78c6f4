//! The entropy of the prediction as an objective: what TENT minimises (Wang et al. 2021,
//! arXiv:2006.10726), alone or beside the diffusion loss.

use dtta_sdk::functional::entropy;
use dtta_sdk::prelude::*;

/// Configuration of the entropy objective.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EntropyConfig {
    /// The task output that holds logits, classes along axis 1.
    #[serde(default = "logits")]
    pub output: String,
    /// Samples whose entropy is above this share of `ln N` count for nothing, as they mislead more than they teach
    /// (EATA, Niu et al. 2022, takes 0.4). All count if absent.
    #[serde(default)]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub margin: Option<f64>,
}

fn logits() -> String {
    "logits".into()
}

/// `-Σ p log p` for each sample; for dense outputs, the mean over pixels.
pub struct Entropy {
    config: EntropyConfig,
}

impl Objective for Entropy {
    type Config = EntropyConfig;

    fn create(config: EntropyConfig) -> Result<Self> {
        if config
            .margin
            .is_some_and(|margin| margin.is_nan() || margin <= 0.0)
        {
            return Err(Error::config("`margin` is not above 0"));
        }
        Ok(Self { config })
    }

    fn loss(&self, outputs: &Named, _session: &Session) -> Result<Tensor> {
        let logits = outputs.get(&self.config.output)?;
        let shape = logits.shape()?;
        let mut each = entropy(logits, 1)?;
        if shape.len() > 2 {
            let pixels: Vec<i32> = (1..shape.len() as i32 - 1).collect();
            each = each.mean(&pixels, false)?;
        }
        let Some(margin) = self.config.margin else {
            return Ok(each);
        };
        let limit = margin * f64::from(shape[1]).ln();
        let counts = each
            .greater_scalar(limit)?
            .logical_not()?
            .cast(Kind::Float)?;
        each.mul(&counts)
    }
}

export_plugin! { objective: Entropy }

#[cfg(test)]
mod tests {
    use dtta_testkit::{Kit, Role};
    use serde_json::json;

    #[test]
    fn conforms() {
        for config in [json!({}), json!({"margin": 0.9})] {
            let kit = Kit::linked("entropy", super::plugin_entry);
            kit.config(Role::Objective, config).check().expect_passed();
        }
    }
}

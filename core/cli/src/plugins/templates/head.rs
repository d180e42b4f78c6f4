//! The head `{{name}}`: what the backbone produced in, task outputs and predictions out.

use dtta_sdk::prelude::*;

/// Configuration. Its comments are the descriptions in the plugin's JSON Schema.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Divides the logits: above 1, probabilities are more even.
    #[serde(default = "one")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub temperature: f64,
}

fn one() -> f64 {
    1.0
}

/// Logits `[B, N]` to probabilities, and those to the most likely class.
pub struct Softmax {
    config: Config,
}

impl Head for Softmax {
    type Config = Config;

    // The host finds the dataset's targets by this name.
    const PREDICTS: Option<Predicts> = Some(Predicts::class_index("class"));

    fn create(config: Config) -> Result<Self> {
        Ok(Self { config })
    }

    fn forward(&self, inputs: &Named, _session: &Session) -> Result<Named> {
        let logits = (inputs.get("logits")? / self.config.temperature)?;
        let probabilities = logits.softmax(-1)?;
        Ok(Named::one("logits", logits).with("probabilities", probabilities))
    }

    fn predict(&self, outputs: &Named, _session: &Session) -> Result<Named> {
        let probabilities = outputs.get("probabilities")?;
        Ok(Named::one("class", probabilities.argmax(-1)?)
            .with("confidence", probabilities.amax(&[-1], false)?))
    }
}

export_plugin! { head: Softmax }

#[cfg(test)]
mod tests {
    // `dtta plugins check` runs the plugin. To run it here too, see the comment in Cargo.toml.
    #[test]
    fn says_what_it_offers() {
        let description = super::PLUGIN.describe();
        assert!(description.contains(r#""roles":["head"]"#), "{description}");
    }
}

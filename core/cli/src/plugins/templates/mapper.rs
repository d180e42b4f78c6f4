//! The mapper `{{name}}`: task outputs in, what the denoiser is conditioned on out.

use dtta_sdk::prelude::*;

/// Configuration. Its comments are the descriptions in the plugin's JSON Schema.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Divides the logits: above 1, the mixture is more even.
    #[serde(default = "one")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub temperature: f64,
}

fn one() -> f64 {
    1.0
}

/// The class embeddings, weighted by the classifier's probabilities.
pub struct Mix {
    config: Config,
}

impl Mapper for Mix {
    type Config = Config;
    const CONSTANTS: &'static [&'static str] = &["class-embeddings"];

    fn create(config: Config, slots: &Slots) -> Result<Self> {
        slots.get("class-embedding")?;
        Ok(Self { config })
    }

    fn condition(&self, outputs: &Named, session: &Session) -> Result<Named> {
        let probabilities = (outputs.get("logits")? / self.config.temperature)?.softmax(-1)?;
        let mixture = probabilities.matmul(&session.constant("class-embeddings")?)?;
        Ok(Named::one("class-embedding", mixture))
    }
}

export_plugin! { mapper: Mix }

#[cfg(test)]
mod tests {
    // `dtta plugins check` runs the plugin. To run it here too, see the comment in Cargo.toml.
    #[test]
    fn says_what_it_offers() {
        let description = super::PLUGIN.describe();
        assert!(description.contains(r#""roles":["mapper"]"#), "{description}");
    }
}

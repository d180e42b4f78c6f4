//! The objective `{{name}}`: a further scalar to minimise.

use dtta_sdk::functional::entropy;
use dtta_sdk::prelude::*;

/// Configuration. Its comments are the descriptions in the plugin's JSON Schema.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// The entropy of the prediction, for each sample.
pub struct Unsure;

impl Objective for Unsure {
    type Config = Config;

    fn create(_config: Config) -> Result<Self> {
        Ok(Self)
    }

    fn loss(&self, outputs: &Named, _session: &Session) -> Result<Tensor> {
        entropy(outputs.get("logits")?, -1)
    }
}

export_plugin! { objective: Unsure }

#[cfg(test)]
mod tests {
    // `dtta plugins check` runs the plugin. To run it here too, see the comment in Cargo.toml.
    #[test]
    fn says_what_it_offers() {
        let description = super::PLUGIN.describe();
        assert!(description.contains(r#""roles":["objective"]"#), "{description}");
    }
}

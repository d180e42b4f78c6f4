//! The metric `{{name}}`: a score that is accumulated over samples.

use dtta_sdk::prelude::*;

/// Configuration. Its comments are the descriptions in the plugin's JSON Schema.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// What has been counted. Whole numbers merge exactly, in any order.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    samples: u64,
    wrong: u64,
}

/// The share of samples whose class is wrong.
pub struct ErrorRate;

impl Metric for ErrorRate {
    type Config = Config;
    type State = Counts;

    // How tables show the scores, and that accumulators merge by adding their numbers.
    const SCORES: &'static [Score] = &[Score::lower("error_rate").share().leading()];
    const ADDITIVE: bool = true;

    fn create(_config: Config) -> Result<Self> {
        Ok(Self)
    }

    fn score(&self, predictions: &Named, targets: &Named, _session: &Session) -> Result<Counts> {
        let found = predictions.get("class")?.read_ints()?;
        let expected = targets.get("class")?.read_ints()?;
        if found.len() != expected.len() {
            let message = format!("{} predictions for {} targets", found.len(), expected.len());
            return Err(Error::new("shape-mismatch", message));
        }
        let wrong = found.iter().zip(&expected).filter(|(found, expected)| found != expected);
        Ok(Counts { samples: found.len() as u64, wrong: wrong.count() as u64 })
    }

    fn merge(&self, state: &mut Counts, other: Counts) {
        state.samples += other.samples;
        state.wrong += other.wrong;
    }

    fn report(&self, state: &Counts) -> Scores {
        if state.samples == 0 {
            return Scores::new();
        }
        let rate = state.wrong as f64 / state.samples as f64;
        [("error_rate".to_owned(), rate)].into()
    }
}

export_plugin! { metric: ErrorRate }

#[cfg(test)]
mod tests {
    // `dtta plugins check` runs the plugin. To run it here too, see the comment in Cargo.toml.
    #[test]
    fn says_what_it_offers() {
        let description = super::PLUGIN.describe();
        assert!(description.contains(r#""roles":["metric"]"#), "{description}");
    }
}

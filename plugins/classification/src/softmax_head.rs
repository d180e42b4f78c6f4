//! The head of a classifier whose network ends in logits.

use dtta_sdk::prelude::*;

/// Configuration of the softmax head.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SoftmaxHeadConfig {
    /// Divides the logits: above 1, probabilities are more even.
    #[serde(default = "one")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub temperature: f64,
    /// Also predict the k most likely classes with their probabilities.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub top_k: Option<u32>,
}

fn one() -> f64 {
    1.0
}

/// Logits `[B, N]` to class probabilities, and those to the most likely class.
///
/// - `forward` takes `logits`, or else `features` of a backbone that ends in logits, and gives
///   `logits` (divided by the temperature) and `probabilities`.
/// - `predict` gives `class` (int, `[B]`) and `confidence` (float, `[B]`); with `top_k` also
///   `top-classes` and `top-confidences` `[B, k]`, most likely first.
pub struct SoftmaxHead {
    config: SoftmaxHeadConfig,
}

impl Head for SoftmaxHead {
    type Config = SoftmaxHeadConfig;
    const PREDICTS: Option<Predicts> = Some(Predicts::class_index("class"));

    fn create(config: SoftmaxHeadConfig) -> Result<Self> {
        if !(config.temperature.is_finite() && config.temperature > 0.0) {
            return Err(Error::config(format!(
                "`temperature` is {}, expected a number above 0",
                config.temperature
            )));
        }
        if config.top_k == Some(0) {
            return Err(Error::config("`top_k` is 0, expected 1 or more"));
        }
        Ok(Self { config })
    }

    fn forward(&self, inputs: &Named, _session: &Session) -> Result<Named> {
        let logits = match inputs.find("logits") {
            Some(logits) => logits,
            None => inputs.get("features")?,
        };
        let logits = if self.config.temperature == 1.0 {
            logits.share()?
        } else {
            (logits / self.config.temperature)?
        };
        let probabilities = logits.softmax(-1)?;
        Ok(Named::one("logits", logits).with("probabilities", probabilities))
    }

    fn predict(&self, outputs: &Named, _session: &Session) -> Result<Named> {
        let probabilities = outputs.get("probabilities")?;
        let prediction = Named::one("class", probabilities.argmax(-1)?)
            .with("confidence", probabilities.amax(&[-1], false)?);
        let Some(k) = self.config.top_k else {
            return Ok(prediction);
        };
        let classes = probabilities.shape()?.last().copied().unwrap_or(1);
        let (confidences, classes) = probabilities.topk(k.min(classes), -1)?;
        Ok(prediction
            .with("top-classes", classes)
            .with("top-confidences", confidences))
    }
}

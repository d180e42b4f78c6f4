//! The head of a segmenter whose network ends in logits for each pixel.

use dtta_sdk::prelude::*;

/// Configuration of the pixel head.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PixelHeadConfig {
    /// Divides the logits: above 1, probabilities are more even.
    #[serde(default = "one")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub temperature: f64,
}

fn one() -> f64 {
    1.0
}

/// Logits `[B, K, H, W]` to class probabilities, and those to the most likely class of each pixel.
///
/// - `forward` takes `logits` and gives `logits` (divided by the temperature) and `probabilities`, both `[B, K, H, W]`.
/// - `predict` gives `labels` (int, `[B, H, W]`) and `confidence` (float, `[B, H, W]`).
pub struct PixelHead {
    config: PixelHeadConfig,
}

impl Head for PixelHead {
    type Config = PixelHeadConfig;
    const PREDICTS: Option<Predicts> =
        Some(Predicts::label_map("labels").picture(Picture::Palette { colours: &[] }));

    fn create(config: PixelHeadConfig) -> Result<Self> {
        if !(config.temperature.is_finite() && config.temperature > 0.0) {
            return Err(Error::config(format!(
                "`temperature` is {}, expected a number above 0",
                config.temperature
            )));
        }
        Ok(Self { config })
    }

    fn forward(&self, inputs: &Named, _session: &Session) -> Result<Named> {
        let logits = inputs.get("logits")?;
        let shape = logits.shape()?;
        if shape.len() != 4 {
            return Err(Error::shape("logits", &shape, "[B, K, H, W]"));
        }
        let logits = if self.config.temperature == 1.0 {
            logits.share()?
        } else {
            (logits / self.config.temperature)?
        };
        let probabilities = logits.softmax(1)?;
        Ok(Named::one("logits", logits).with("probabilities", probabilities))
    }

    fn predict(&self, outputs: &Named, _session: &Session) -> Result<Named> {
        let probabilities = outputs.get("probabilities")?;
        let confidence = probabilities.amax(&[1], false)?;
        Ok(Named::one("labels", probabilities.argmax(1)?).with("confidence", confidence))
    }
}

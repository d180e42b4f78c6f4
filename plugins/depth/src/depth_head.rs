//! The head of a depth predictor whose network ends in one channel.

use dtta_sdk::prelude::*;

use crate::range::Range;

/// Configuration of the depth head.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DepthHeadConfig {
    /// The range of depth.
    pub range: Range,
    /// What brings the network's output into 0 to 1.
    #[serde(default)]
    pub activation: Activation,
}

/// What brings the network's output into 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// 1 / (1 + exp(-x)).
    #[default]
    Sigmoid,
    /// Held within 0 and 1, for a network that predicts normalised depth itself. Outside, there is no gradient.
    Clamp,
}

/// `logits` `[B, 1, H, W]` to depth.
///
/// - `forward` gives `normalized` `[B, 1, H, W]`, from 0 to 1, and `depth` `[B, H, W]` in the unit of the range.
/// - `predict` gives `depth` (float, `[B, H, W]`).
pub struct DepthHead {
    config: DepthHeadConfig,
}

impl Head for DepthHead {
    type Config = DepthHeadConfig;
    const PREDICTS: Option<Predicts> =
        Some(Predicts::number_map("depth").picture(Picture::ColourMap {
            scale: ColourScale::Log,
            reverse: true, // near is bright
            error: PixelError::Relative,
            worst: 1.0,
        }));

    fn create(config: DepthHeadConfig) -> Result<Self> {
        config.range.check()?;
        Ok(Self { config })
    }

    fn forward(&self, inputs: &Named, _session: &Session) -> Result<Named> {
        let logits = inputs.get("logits")?;
        let shape = logits.shape()?;
        if !matches!(shape[..], [_, 1, _, _]) {
            let message = format!("`logits` has shape {shape:?}, expected [B, 1, H, W]");
            return Err(Error::new("shape-mismatch", message));
        }
        let normalized = match self.config.activation {
            Activation::Sigmoid => logits.sigmoid()?,
            Activation::Clamp => logits.clamp(Some(0.0), Some(1.0))?,
        };
        let depth = self.config.range.depth(&normalized)?.squeeze(1)?;
        Ok(Named::one("normalized", normalized).with("depth", depth))
    }

    fn predict(&self, outputs: &Named, _session: &Session) -> Result<Named> {
        Ok(Named::one("depth", outputs.get("depth")?.share()?))
    }
}

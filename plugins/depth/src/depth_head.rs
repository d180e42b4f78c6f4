//! The head of a depth predictor whose network ends in one channel.

use dtta_sdk::prelude::*;

use crate::range::Range;

/// Configuration of the depth head.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DepthHeadConfig {
    /// The range of depth.
    pub range: Range,
    /// What brings the network's output into 0 to 1. Not together with `output`.
    #[serde(default)]
    pub activation: Option<Activation>,
    /// What the network's output is, for networks whose output is no normalised depth.
    #[serde(default)]
    pub output: Option<Output>,
}

/// What the network's output x is.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Output {
    /// Depth d = x, in the unit of the range: GLPN and metric Depth Anything, in metres.
    Depth {},
    /// Inverse depth up to scale and shift, 1/d = scale x + shift: DPT-Large and relative Depth Anything, whose training knows neither. Both
    /// are for the model and the data at hand, such as the least squares fit on images with known depth.
    InverseDepth {
        /// In 1 by the unit of the range; not 0.
        scale: f64,
        /// In 1 by the unit of the range.
        shift: f64,
    },
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
/// - `forward` gives `normalized` `[B, 1, H, W]`, from 0 to 1, and `depth` `[B, H, W]` in the unit of the range. What lies outside the range
///   is held to its ends, where there is no gradient.
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
        if config.activation.is_some() && config.output.is_some() {
            let message =
                "`activation` and `output` both say what the network's output is; give one of them";
            return Err(Error::config(message));
        }
        if let Some(Output::InverseDepth { scale, shift }) = config.output {
            if scale == 0.0 || !scale.is_finite() || !shift.is_finite() {
                let message = format!(
                    "`output` has scale {scale} and shift {shift}, expected finite numbers and a scale other than 0"
                );
                return Err(Error::config(message));
            }
            if config.range.minimum == 0.0 {
                let message = "`range.minimum` is 0; inverse depth needs one above 0";
                return Err(Error::config(message));
            }
        }
        Ok(Self { config })
    }

    fn forward(&self, inputs: &Named, _session: &Session) -> Result<Named> {
        let logits = inputs.get("logits")?;
        let shape = logits.shape()?;
        if !matches!(shape[..], [_, 1, _, _]) {
            let message = format!("`logits` has shape {shape:?}, expected [B, 1, H, W]");
            return Err(Error::new("shape-mismatch", message));
        }
        let range = &self.config.range;
        let (normalized, depth) = match (self.config.output, self.config.activation) {
            (None, activation) => {
                let normalized = match activation.unwrap_or_default() {
                    Activation::Sigmoid => logits.sigmoid()?,
                    Activation::Clamp => logits.clamp(Some(0.0), Some(1.0))?,
                };
                let depth = range.depth(&normalized)?;
                (normalized, depth)
            }
            (Some(output), _) => {
                let depth = match output {
                    Output::Depth {} => logits.clamp(Some(range.minimum), Some(range.maximum))?,
                    // Held before it is inverted, so that nothing divides by 0.
                    Output::InverseDepth { scale, shift } => {
                        let ends = [range.maximum, range.minimum].map(f64::recip);
                        let inverse = logits.affine(scale, shift)?;
                        inverse.clamp(Some(ends[0]), Some(ends[1]))?.powf(-1.0)?
                    }
                };
                (range.normalize(&depth)?, depth)
            }
        };
        let depth = depth.squeeze(1)?;
        Ok(Named::one("normalized", normalized).with("depth", depth))
    }

    fn predict(&self, outputs: &Named, _session: &Session) -> Result<Named> {
        Ok(Named::one("depth", outputs.get("depth")?.share()?))
    }
}

//! The head of a depth predictor whose network ends in one channel.

use dtta_sdk::prelude::*;

use crate::range::{Range, inverted};

/// Configuration of the depth head.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DepthHeadConfig {
    /// The range of depth.
    pub range: Range,
    /// What the network's output is.
    #[serde(default)]
    pub output: Output,
}

/// What the network's output x is, and so what brings it into the range.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Output {
    /// A logit of normalised depth, 1 / (1 + exp(-x)).
    #[default]
    Logit,
    /// Normalised depth, x held within 0 and 1. Outside, there is no gradient.
    Normalized,
    /// Depth d = x, in the unit of the range: GLPN and metric Depth Anything, in metres.
    Depth,
    /// Inverse depth up to scale and shift, 1/d = scale x + shift: DPT-Large and relative Depth Anything, whose training knows neither. Both
    /// are for the model and the data at hand, such as the least squares fit on images with known depth.
    InverseDepth {
        /// In 1 by the unit of the range; not 0.
        scale: f64,
        /// In 1 by the unit of the range.
        shift: f64,
    },
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
        if let Output::InverseDepth { scale, .. } = config.output {
            if scale == 0.0 {
                return Err(Error::config("`output.inverse_depth.scale` is 0"));
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
            return Err(Error::shape("logits", &shape, "[B, 1, H, W]"));
        }
        let range = &self.config.range;
        let depth = match self.config.output {
            Output::Logit => return in_range(range, logits.sigmoid()?),
            Output::Normalized => return in_range(range, logits.clamp(Some(0.0), Some(1.0))?),
            Output::Depth => logits.clamp(Some(range.minimum), Some(range.maximum))?,
            Output::InverseDepth { scale, shift } => {
                inverted(&logits.affine(scale, shift)?, range.minimum, range.maximum)?
            }
        };
        let normalized = range.normalize(&depth)?;
        let depth = depth.squeeze(1)?;
        Ok(Named::one("normalized", normalized).with("depth", depth))
    }

    fn predict(&self, outputs: &Named, _session: &Session) -> Result<Named> {
        Ok(Named::one("depth", outputs.get("depth")?.share()?))
    }
}

/// `normalized` `[B, 1, H, W]` and the depth that it stands for.
fn in_range(range: &Range, normalized: Tensor) -> Result<Named> {
    let depth = range.depth(&normalized)?.squeeze(1)?;
    Ok(Named::one("normalized", normalized).with("depth", depth))
}

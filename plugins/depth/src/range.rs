//! The range of depth, and depth normalised by it.

use dtta_sdk::prelude::*;

/// How depth is spread over 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// By its logarithm: y = ln(1 + d - minimum) / ln(1 + maximum - minimum).
    Log,
    /// As it is: y = (d - minimum) / (maximum - minimum).
    Linear,
    /// By its inverse, so that the nearest is 1: y = (1/d - 1/maximum) / (1/minimum - 1/maximum).
    Inverse,
}

/// The range of depth d, in the unit of the data, and how it is normalised to y in 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// How depth is spread over 0 to 1.
    pub scale: Scale,
    /// The least depth; above 0 for the inverse scale.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub minimum: f64,
    /// The greatest depth.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub maximum: f64,
}

impl Range {
    /// Whether there is such a range.
    ///
    /// # Errors
    /// `invalid-config` with the bound that is wrong.
    pub(crate) fn check(&self) -> Result<()> {
        let Self {
            scale,
            minimum,
            maximum,
        } = *self;
        if !(minimum >= 0.0 && minimum < maximum && maximum.is_finite()) {
            return Err(Error::config(format!(
                "`range` goes from {minimum} to {maximum}, expected 0 <= minimum < maximum"
            )));
        }
        if scale == Scale::Inverse && minimum == 0.0 {
            let message = "`range.minimum` is 0; the inverse scale needs one above 0";
            return Err(Error::config(message));
        }
        Ok(())
    }

    /// ln(1 + maximum - minimum).
    fn log_span(&self) -> f64 {
        (self.maximum - self.minimum).ln_1p()
    }

    /// 1 / minimum - 1 / maximum.
    fn inverse_span(&self) -> f64 {
        self.minimum.recip() - self.maximum.recip()
    }

    /// y of depth; what lies outside the range is held to its ends, where the gradient is 0.
    pub(crate) fn normalize(&self, depth: &Tensor) -> Result<Tensor> {
        let (minimum, span) = (self.minimum, self.maximum - self.minimum);
        let depth = depth.clamp(Some(minimum), Some(self.maximum))?;
        match self.scale {
            Scale::Log => depth
                .affine(1.0, 1.0 - minimum)?
                .log()?
                .affine(self.log_span().recip(), 0.0),
            Scale::Linear => depth.affine(span.recip(), -minimum / span),
            Scale::Inverse => {
                let unit = self.inverse_span().recip();
                depth.powf(-1.0)?.affine(unit, -unit / self.maximum)
            }
        }
    }

    /// Depth of y in 0 to 1.
    pub(crate) fn depth(&self, normalized: &Tensor) -> Result<Tensor> {
        match self.scale {
            Scale::Log => normalized
                .affine(self.log_span(), 0.0)?
                .exp()?
                .affine(1.0, self.minimum - 1.0),
            Scale::Linear => normalized.affine(self.maximum - self.minimum, self.minimum),
            Scale::Inverse => normalized
                .affine(self.inverse_span(), self.maximum.recip())?
                .powf(-1.0),
        }
    }
}

/// Depth between `nearest` and `farthest` of inverse depth, which is held before it is inverted, so that nothing divides by 0.
pub(crate) fn inverted(inverse: &Tensor, nearest: f64, farthest: f64) -> Result<Tensor> {
    let held = inverse.clamp(Some(farthest.recip()), Some(nearest.recip()))?;
    held.powf(-1.0)
}

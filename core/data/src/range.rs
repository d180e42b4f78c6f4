//! Distances as numbers in [0, 1]: how depth enters a loss, a denoiser or a picture.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How distances are spread over [0, 1].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DepthScale {
    /// `ln(1 + d - minimum) / ln(1 + maximum - minimum)`: near things get most of the range.
    #[default]
    Log,
    /// `(d - minimum) / (maximum - minimum)`.
    Linear,
    /// `(1/d - 1/maximum) / (1/minimum - 1/maximum)`, as disparity: 1 is near.
    Inverse,
}

/// The distances that [0, 1] stands for. Those beyond become 0 or 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DepthRange {
    /// How distances are spread.
    #[serde(default)]
    pub scale: DepthScale,
    /// The least distance, in the dataset's unit; above 0 where `scale` is `inverse`.
    #[serde(default)]
    pub minimum: f32,
    /// The greatest distance.
    pub maximum: f32,
}

impl DepthRange {
    /// What is wrong with the numbers, if anything is.
    pub fn problem(&self) -> Option<String> {
        let Self {
            scale,
            minimum,
            maximum,
        } = *self;
        if !(minimum.is_finite() && maximum.is_finite() && minimum >= 0.0 && minimum < maximum) {
            return Some(format!(
                "goes from {minimum} to {maximum}, expected two numbers of 0 or more, the first below the second"
            ));
        }
        (scale == DepthScale::Inverse && minimum == 0.0)
            .then(|| "starts at 0, whose inverse is infinite; `inverse` needs a `minimum`".into())
    }

    /// A distance as a number in [0, 1].
    pub fn normalise(&self, distance: f32) -> f32 {
        let (minimum, maximum) = (self.minimum, self.maximum);
        let distance = distance.clamp(minimum, maximum);
        match self.scale {
            DepthScale::Log => (distance - minimum).ln_1p() / (maximum - minimum).ln_1p(),
            DepthScale::Linear => (distance - minimum) / (maximum - minimum),
            DepthScale::Inverse => {
                (distance.recip() - maximum.recip()) / (minimum.recip() - maximum.recip())
            }
        }
    }

    /// The distance that a number in [0, 1] stands for; the inverse of [`normalise`](Self::normalise).
    pub fn distance(&self, number: f32) -> f32 {
        let (minimum, maximum) = (self.minimum, self.maximum);
        let number = number.clamp(0.0, 1.0);
        match self.scale {
            DepthScale::Log => minimum + (number * (maximum - minimum).ln_1p()).exp_m1(),
            DepthScale::Linear => minimum + number * (maximum - minimum),
            DepthScale::Inverse => {
                (maximum.recip() + number * (minimum.recip() - maximum.recip())).recip()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_become_numbers_by_hand() {
        let range = |scale, minimum, maximum| DepthRange {
            scale,
            minimum,
            maximum,
        };
        let log = range(DepthScale::Log, 0.0, 255.0);
        // ln 16 / ln 256 = 1/2.
        assert!((log.normalise(15.0) - 0.5).abs() < 1e-6);
        assert_eq!((log.normalise(0.0), log.normalise(999.0)), (0.0, 1.0));
        assert_eq!(range(DepthScale::Linear, 2.0, 6.0).normalise(3.0), 0.25);
        // (1/2 - 1/4) / (1/1 - 1/4) = 1/3.
        let inverse = range(DepthScale::Inverse, 1.0, 4.0);
        assert!((inverse.normalise(2.0) - 1.0 / 3.0).abs() < 1e-6);
        for range in [log, inverse, range(DepthScale::Linear, 2.0, 6.0)] {
            assert!((range.distance(range.normalise(3.5)) - 3.5).abs() < 1e-4);
        }
        assert!(range(DepthScale::Inverse, 0.0, 4.0).problem().is_some());
        assert!(range(DepthScale::Log, 4.0, 4.0).problem().is_some());
        assert!(log.problem().is_none());
    }
}

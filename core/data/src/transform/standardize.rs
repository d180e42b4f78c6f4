//! The contrast of each image by itself, brought to what a model knows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The share of the input's own unit (the distance from a black pixel to a white one) below which an image counts as flat, so that its
/// noise is not blown up.
const FLAT: f32 = 0.025;

/// The same for deviations. The least of an 8-bit photograph that is not flat, one pixel off by one level, is some hundred times that.
const FLAT_DEVIATION: f64 = 5e-7;

/// What each image is brought to: what the training images look like after preprocessing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Standardize {
    /// A mean and a deviation.
    Moments {
        /// Mean over all pixels and channels.
        mean: f32,
        /// Standard deviation over all pixels and channels, above 0.
        #[schemars(extend("exclusiveMinimum" = 0))]
        deviation: f32,
    },
    /// A range: the darkest and the brightest pixels, except for a share of outliers, map to its ends. Values beyond are clamped.
    Stretch {
        /// The share of pixels that count as outliers, at each end.
        #[schemars(range(min = 0, max = 0.49))]
        outliers: f32,
        /// The value that the darkest pixels map to.
        low: f32,
        /// Where the brightest pixels come.
        high: f32,
    },
}

impl Standardize {
    /// Brings the pixels of one image where they are wanted; `unit` is the distance from a black pixel to a white one. An image of one
    /// value stays flat.
    pub(super) fn apply(self, pixels: &mut [f32], unit: f32) {
        match self {
            Self::Moments { mean, deviation } => {
                let count = pixels.len() as f64;
                let centre = pixels.iter().map(|&p| f64::from(p)).sum::<f64>() / count;
                let variance = pixels
                    .iter()
                    .map(|&p| (f64::from(p) - centre).powi(2))
                    .sum::<f64>()
                    / count;
                let flat = FLAT_DEVIATION * f64::from(unit);
                let scale = f64::from(deviation) / variance.sqrt().max(flat);
                for pixel in pixels {
                    *pixel = ((f64::from(*pixel) - centre) * scale + f64::from(mean)) as f32;
                }
            }
            Self::Stretch {
                outliers,
                low,
                high,
            } => {
                let mut sorted = pixels.to_vec();
                sorted.sort_unstable_by(f32::total_cmp);
                let outliers = outliers.clamp(0.0, 0.5);
                let (dark, bright) = (
                    quantile(&sorted, outliers),
                    quantile(&sorted, 1.0 - outliers),
                );
                let scale = (high - low) / (bright - dark).max(FLAT * unit);
                for pixel in pixels {
                    *pixel = ((*pixel - dark) * scale + low).clamp(low.min(high), low.max(high));
                }
            }
        }
    }
}

/// A quantile of sorted values, linear between neighbours.
fn quantile(sorted: &[f32], share: f32) -> f32 {
    let position = share * (sorted.len() - 1) as f32;
    let below = position.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (position - below as f32) * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRETCH: Standardize = Standardize::Stretch {
        outliers: 0.25,
        low: -1.0,
        high: 1.0,
    };

    #[test]
    fn standardizes_to_the_given_mean_and_deviation() {
        // 1, 3 has mean 2 and deviation 1; at mean -1 and deviation 0.5 it is -1.5, -0.5.
        let mut pixels = [1.0, 3.0];
        let target = Standardize::Moments {
            mean: -1.0,
            deviation: 0.5,
        };
        target.apply(&mut pixels, 2.0);
        assert_eq!(pixels, [-1.5, -0.5]);
        let mut flat = [0.3; 4];
        let target = Standardize::Moments {
            mean: 0.0,
            deviation: 1.0,
        };
        target.apply(&mut flat, 2.0);
        assert!(flat.iter().all(|p| p.abs() < 1e-2));
    }

    #[test]
    fn stretches_to_the_given_range_but_for_outliers() {
        // The quartiles of 0, 1, 2, 3, 4 are 1 and 3: they come to -1 and 1, and what is beyond is cut off.
        let mut pixels = [4.0, 0.0, 1.0, 2.0, 3.0];
        STRETCH.apply(&mut pixels, 2.0);
        assert_eq!(pixels, [1.0, -1.0, -1.0, 0.0, 1.0]);
        let mut flat = [0.3; 4];
        STRETCH.apply(&mut flat, 2.0);
        assert_eq!(flat, [-1.0; 4]);
    }

    #[test]
    fn what_counts_as_flat_depends_on_the_unit_alone() {
        // A fortieth of a unit of 4 is 0.1, twice the spread of the quartiles: half of the range is used.
        let narrow = [0.0, 0.05, 0.0, 0.05];
        for factor in [1.0, 127.5, 1e-3] {
            let mut pixels = narrow.map(|pixel| pixel * factor);
            STRETCH.apply(&mut pixels, 4.0 * factor);
            for (found, expected) in pixels.into_iter().zip([-1.0, 0.0, -1.0, 0.0]) {
                assert!((found - expected).abs() < 1e-5, "{pixels:?}");
            }
        }
    }
}

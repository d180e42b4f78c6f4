//! Resizing with Pillow's antialiasing: when shrinking, the filter is widened by the scale, so that each input pixel counts. Columns and
//! then rows are two one-dimensional passes. Method: Pillow `src/libImaging/Resample.c`, which torchvision's `antialias=True` follows;
//! images of 8 bits have weights of 22 bits behind the point there and are rounded after each pass. Columns come first, as in every Pillow
//! before version 13, which takes rows first for some extents: bytes may then differ by a few levels.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{DataError, Image};

/// How much each input pixel counts, by its distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Falls in a straight line over one pixel.
    #[default]
    Bilinear,
    /// The cubic of a = -0.5 over two pixels (Keys 1981). Values may leave the range that they had.
    Bicubic,
}

impl Filter {
    /// The distance from which on a pixel counts nothing.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, distance: f64) -> f64 {
        let x = distance.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
            Self::Bicubic => 0.0,
        }
    }
}

/// The input pixels that one output pixel is made of.
struct Taps {
    first: usize,
    weights: Vec<f64>,
}

/// The image at `height × width`. `as_bytes` if its values are to be taken as bytes and computed with as Pillow does.
pub(super) fn resize(
    image: &Image,
    [height, width]: [usize; 2],
    filter: Filter,
    as_bytes: bool,
) -> Result<Image, DataError> {
    let [channels, old_height, old_width] = image.shape();
    // Both intermediate and final size are checked before anything is computed.
    let mut wide = Image::from_fn([channels, old_height, width], |_, _, _| 0.0)?;
    let mut output = Image::from_fn([channels, height, width], |_, _, _| 0.0)?;
    let sum = if as_bytes { sum_of_bytes } else { sum };

    let taps = taps(old_width, width, filter);
    for (row, new_row) in image
        .data()
        .chunks_exact(old_width)
        .zip(wide.data_mut().chunks_exact_mut(width))
    {
        for (value, taps) in new_row.iter_mut().zip(&taps) {
            *value = sum(&row[taps.first..], 1, &taps.weights);
        }
    }

    let taps = self::taps(old_height, height, filter);
    let planes = wide.data().chunks_exact(old_height * width);
    for (plane, new_plane) in planes.zip(output.data_mut().chunks_exact_mut(height * width)) {
        for (new_row, taps) in new_plane.chunks_exact_mut(width).zip(&taps) {
            for (column, value) in new_row.iter_mut().enumerate() {
                *value = sum(&plane[taps.first * width + column..], width, &taps.weights);
            }
        }
    }
    Ok(output)
}

/// Every `step`th value times its weight.
fn sum(values: &[f32], step: usize, weights: &[f64]) -> f32 {
    let values = values.iter().step_by(step).zip(weights);
    values
        .map(|(value, weight)| f64::from(*value) * weight)
        .sum::<f64>() as f32
}

/// The same of bytes with Pillow's weights of 22 bits, rounded to a byte.
fn sum_of_bytes(values: &[f32], step: usize, weights: &[f64]) -> f32 {
    const BITS: u32 = 22;
    let values = values.iter().step_by(step).zip(weights);
    let total: i64 = values
        .map(|(value, weight)| {
            let byte = (value * 255.0).round().clamp(0.0, 255.0) as i64;
            byte * (weight * f64::from(1 << BITS)).round() as i64
        })
        .sum();
    let rounded = (total + (1 << (BITS - 1))) >> BITS;
    rounded.clamp(0, 255) as f32 / 255.0
}

/// Normalised weights for each of `new` pixels made from `old` ones.
fn taps(old: usize, new: usize, filter: Filter) -> Vec<Taps> {
    let scale = old as f64 / new as f64;
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    let taps = |index: usize| {
        let centre = (index as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(old);
        let mut weights: Vec<f64> = (first..end)
            .map(|pixel| filter.weight((pixel as f64 + 0.5 - centre) / stretch))
            .collect();
        let total: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= total);
        Taps { first, weights }
    };
    (0..new).map(taps).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_same_size_changes_nothing() {
        let image = Image::from_fn([2, 3, 5], |channel, row, column| {
            (channel + row * 7 + column) as f32
        })
        .unwrap();
        assert_eq!(
            resize(&image, [3, 5], Filter::Bilinear, false).unwrap(),
            image
        );
    }

    #[test]
    fn doubling_and_halving_by_hand() {
        let row = Image::new(1, 1, 2, vec![0.0, 1.0]).unwrap();
        let bilinear = |row: &Image, width| {
            let wide = resize(row, [1, width], Filter::Bilinear, false).unwrap();
            wide.into_data()
        };
        // Output centres at 0.25, 0.75, 1.25, 1.75 input pixels; input centres at 0.5 and 1.5; the edge repeats.
        assert_eq!(bilinear(&row, 4), [0.0, 0.25, 0.75, 1.0]);
        // Centre 1, stretch 2: inputs at 0.5 and 1.5 weigh the same.
        assert_eq!(bilinear(&row, 1), [0.5]);
    }

    #[test]
    fn refuses_empty_and_huge_sizes() {
        let image = Image::new(1, 1, 1, vec![0.0]).unwrap();
        for (height, width) in [(0, 1), (1, 0), (usize::MAX, 1), (1 << 20, 1 << 20)] {
            assert!(matches!(
                resize(&image, [height, width], Filter::Bicubic, true),
                Err(DataError::ImageSize { .. })
            ));
        }
    }

    proptest! {
        #[test]
        fn every_weight_row_sums_to_one(old in 1usize..50, new in 1usize..50) {
            for filter in [Filter::Bilinear, Filter::Bicubic] {
                for taps in taps(old, new, filter) {
                    prop_assert!(taps.first + taps.weights.len() <= old);
                    prop_assert!((taps.weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
                }
            }
        }
    }
}

//! Bilinear resizing with Pillow's antialiasing: when shrinking, the triangle filter is widened by the scale, so that each input
//! pixel counts. Rows and columns are two one-dimensional passes. Method: Pillow `src/libImaging/Resample.c`, which torchvision's
//! `antialias=True` follows.

use crate::{DataError, Image};

/// The input pixels that one output pixel is made of.
struct Taps {
    first: usize,
    weights: Vec<f64>,
}

/// The image at `height × width`.
pub(super) fn resize(image: &Image, height: usize, width: usize) -> Result<Image, DataError> {
    let [channels, old_height, old_width] = image.shape();
    // Both intermediate and final size are checked before anything is computed.
    let mut wide = Image::from_fn([channels, old_height, width], |_, _, _| 0.0)?;
    let mut output = Image::from_fn([channels, height, width], |_, _, _| 0.0)?;

    let taps = triangle_taps(old_width, width);
    for (row, new_row) in image
        .data()
        .chunks_exact(old_width)
        .zip(wide.data_mut().chunks_exact_mut(width))
    {
        for (value, taps) in new_row.iter_mut().zip(&taps) {
            let inputs = row[taps.first..].iter();
            *value = inputs
                .zip(&taps.weights)
                .map(|(value, weight)| f64::from(*value) * weight)
                .sum::<f64>() as f32;
        }
    }

    let taps = triangle_taps(old_height, height);
    let planes = wide.data().chunks_exact(old_height * width);
    for (plane, new_plane) in planes.zip(output.data_mut().chunks_exact_mut(height * width)) {
        for (new_row, taps) in new_plane.chunks_exact_mut(width).zip(&taps) {
            for (column, value) in new_row.iter_mut().enumerate() {
                let inputs = plane[taps.first * width + column..].iter().step_by(width);
                *value = inputs
                    .zip(&taps.weights)
                    .map(|(value, weight)| f64::from(*value) * weight)
                    .sum::<f64>() as f32;
            }
        }
    }
    Ok(output)
}

/// Normalised triangle weights for each of `new` pixels made from `old` ones.
fn triangle_taps(old: usize, new: usize) -> Vec<Taps> {
    let scale = old as f64 / new as f64;
    let stretch = scale.max(1.0);
    let taps = |index: usize| {
        let centre = (index as f64 + 0.5) * scale;
        let first = (centre - stretch + 0.5).max(0.0) as usize;
        let end = ((centre + stretch + 0.5) as usize).min(old);
        let mut weights: Vec<f64> = (first..end)
            .map(|pixel| (1.0 - ((pixel as f64 + 0.5 - centre) / stretch).abs()).max(0.0))
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
        assert_eq!(resize(&image, 3, 5).unwrap(), image);
    }

    #[test]
    fn doubling_and_halving_by_hand() {
        let row = Image::new(1, 1, 2, vec![0.0, 1.0]).unwrap();
        // Output centres at 0.25, 0.75, 1.25, 1.75 input pixels; input centres at 0.5 and 1.5; the edge repeats.
        assert_eq!(resize(&row, 1, 4).unwrap().data(), [0.0, 0.25, 0.75, 1.0]);
        // Centre 1, stretch 2: inputs at 0.5 and 1.5 weigh the same.
        assert_eq!(resize(&row, 1, 1).unwrap().data(), [0.5]);
    }

    #[test]
    fn refuses_empty_and_huge_sizes() {
        let image = Image::new(1, 1, 1, vec![0.0]).unwrap();
        for (height, width) in [(0, 1), (1, 0), (usize::MAX, 1), (1 << 20, 1 << 20)] {
            assert!(matches!(
                resize(&image, height, width),
                Err(DataError::ImageSize { .. })
            ));
        }
    }

    proptest! {
        #[test]
        fn every_weight_row_sums_to_one(old in 1usize..50, new in 1usize..50) {
            for taps in triangle_taps(old, new) {
                prop_assert!(taps.first + taps.weights.len() <= old);
                prop_assert!((taps.weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            }
        }
    }
}

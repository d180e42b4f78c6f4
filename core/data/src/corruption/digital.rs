//! Changes of brightness and contrast, coarse pixels, and JPEG's loss.

use std::f64::consts::PI;
use std::sync::LazyLock;

use super::plane::Plane;

/// Adds to the value of the HSV colour model: the brightest channel grows by `added`, at most to 1, the others in proportion. With
/// one channel this is an addition.
pub(super) fn brightness(planes: &[Plane], added: f64) -> Vec<Plane> {
    let mut output = planes.to_vec();
    for index in 0..output[0].values.len() {
        let brightest = planes
            .iter()
            .map(|plane| plane.values[index])
            .fold(0.0, f64::max);
        let brighter = (brightest + added).min(1.0);
        for plane in &mut output {
            // A black pixel has no hue to keep and becomes grey.
            let value = &mut plane.values[index];
            *value = if *value == brightest {
                brighter
            } else {
                *value * brighter / brightest
            };
        }
    }
    output
}

/// (x - mean)·factor + mean.
pub(super) fn contrast(plane: &Plane, factor: f64) -> Plane {
    let mean = plane.mean();
    plane.map(|value| (value - mean) * factor + mean)
}

/// Means over a coarse grid, each shown as one block. The grid has `side_of_28` cells to 28 pixels.
pub(super) fn pixelate(plane: &Plane, side_of_28: usize) -> Plane {
    let cells = |side: usize| ((side * side_of_28 + 14) / 28).max(1);
    let (rows, columns) = (cells(plane.height), cells(plane.width));
    let (row_shares, column_shares) = (
        box_shares(plane.height, rows),
        box_shares(plane.width, columns),
    );
    let coarse = Plane::from_fn(rows, columns, |row, column| {
        let mut mean = 0.0;
        for (pixel_row, row_share) in &row_shares[row] {
            for (pixel_column, column_share) in &column_shares[column] {
                mean += row_share * column_share * plane.at(*pixel_row, *pixel_column);
            }
        }
        mean
    });
    let cell = |pixel: usize, side: usize, cells: usize| {
        ((pixel as f64 + 0.5) * cells as f64 / side as f64) as usize
    };
    Plane::from_fn(plane.height, plane.width, |row, column| {
        coarse.at(
            cell(row, plane.height, rows),
            cell(column, plane.width, columns),
        )
    })
}

/// For each of `cells` equal parts of a side, the pixels that it covers and their shares of it.
fn box_shares(side: usize, cells: usize) -> Vec<Vec<(usize, f64)>> {
    let length = side as f64 / cells as f64;
    let shares = |cell: usize| {
        let (low, high) = (cell as f64 * length, (cell + 1) as f64 * length);
        let share = |pixel: usize| (high.min(pixel as f64 + 1.0) - low.max(pixel as f64)) / length;
        let pixels = low as usize..(high.ceil() as usize).min(side);
        pixels
            .map(|pixel| (pixel, share(pixel)))
            .filter(|(_, share)| *share > 0.0)
            .collect()
    };
    (0..cells).map(shares).collect()
}

/// JPEG's example table for luma (ITU-T T.81, table K.1), in row order.
const LUMA: [u16; 64] = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113,
    92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
];

/// JPEG's example table for colour differences (ITU-T T.81, table K.2), in row order.
const CHROMA: [u16; 64] = [
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
];

/// The orthonormal cosine transform of length 8: entry `[frequency][place]`.
static COSINES: LazyLock<[[f64; 8]; 8]> = LazyLock::new(|| {
    std::array::from_fn(|frequency| {
        let scale = if frequency == 0 {
            (1.0f64 / 8.0).sqrt()
        } else {
            0.5
        };
        std::array::from_fn(|place| {
            scale * ((2 * place + 1) as f64 * frequency as f64 * PI / 16.0).cos()
        })
    })
});

/// What JPEG loses at a quality of 1 to 100: 8-bit values, frequencies of 8×8 blocks rounded to multiples of libjpeg's tables.
/// Entropy coding loses nothing and is left out. Three channels are treated as RGB and quantised as YCbCr without subsampling;
/// otherwise each channel is quantised as luma.
pub(super) fn jpeg(planes: &[Plane], quality: u16) -> Vec<Plane> {
    let steps = |table: [u16; 64]| {
        let scale = if quality < 50 {
            5000 / quality
        } else {
            200 - 2 * quality
        };
        table.map(|step| f64::from(((u32::from(step) * u32::from(scale) + 50) / 100).clamp(1, 255)))
    };
    let bytes = |plane: &Plane| plane.map(|value| round_byte(value * 255.0));
    let [red, green, blue] = planes else {
        return planes
            .iter()
            .map(|plane| quantise(&bytes(plane), &steps(LUMA)).map(|value| value / 255.0))
            .collect();
    };
    // The conversion of JFIF (ITU-T T.871), rounded to bytes as files store it.
    let [red, green, blue] = [bytes(red), bytes(green), bytes(blue)];
    let weigh = |[to_red, to_green, to_blue]: [f64; 3], added: f64| {
        Plane::from_fn(red.height, red.width, |row, column| {
            let [red, green, blue] = [
                red.at(row, column),
                green.at(row, column),
                blue.at(row, column),
            ];
            round_byte(to_red * red + to_green * green + to_blue * blue + added)
        })
    };
    let luma = quantise(&weigh([0.299, 0.587, 0.114], 0.0), &steps(LUMA));
    let to_blue = quantise(
        &weigh([-0.168_735_892, -0.331_264_108, 0.5], 128.0),
        &steps(CHROMA),
    );
    let to_red = quantise(
        &weigh([0.5, -0.418_687_589, -0.081_312_411], 128.0),
        &steps(CHROMA),
    );
    let restore = |blue_share: f64, red_share: f64| {
        Plane::from_fn(luma.height, luma.width, |row, column| {
            let difference = blue_share * (to_blue.at(row, column) - 128.0)
                + red_share * (to_red.at(row, column) - 128.0);
            round_byte(luma.at(row, column) + difference) / 255.0
        })
    };
    vec![
        restore(0.0, 1.402),
        restore(-0.344_136_286, -0.714_136_286),
        restore(1.772, 0.0),
    ]
}

/// A plane of bytes after its blocks' frequencies are rounded to multiples of `steps`. Blocks that reach beyond the plane are
/// filled by repeating its edge.
fn quantise(plane: &Plane, steps: &[f64; 64]) -> Plane {
    let mut output = plane.clone();
    for top in (0..plane.height).step_by(8) {
        for left in (0..plane.width).step_by(8) {
            let block: [[f64; 8]; 8] = std::array::from_fn(|row| {
                std::array::from_fn(|column| {
                    plane.near((top + row) as isize, (left + column) as isize) - 128.0
                })
            });
            let cosines = &*COSINES;
            let mut frequencies = transformed(&block, |frequency, place| cosines[frequency][place]);
            for (value, step) in frequencies.as_flattened_mut().iter_mut().zip(steps) {
                *value = round_away(*value / step) * step;
            }
            let restored = transformed(&frequencies, |place, frequency| cosines[frequency][place]);
            for row in top..plane.height.min(top + 8) {
                for column in left..plane.width.min(left + 8) {
                    output.values[row * plane.width + column] =
                        round_byte(restored[row - top][column - left] + 128.0);
                }
            }
        }
    }
    output
}

/// M·block·Mᵀ.
fn transformed(block: &[[f64; 8]; 8], matrix: impl Fn(usize, usize) -> f64) -> [[f64; 8]; 8] {
    let sum = |term: &dyn Fn(usize) -> f64| (0..8).map(term).sum::<f64>();
    let rows: [[f64; 8]; 8] = std::array::from_fn(|row| {
        std::array::from_fn(|column| sum(&|k| matrix(row, k) * block[k][column]))
    });
    std::array::from_fn(|row| {
        std::array::from_fn(|column| sum(&|k| rows[row][k] * matrix(column, k)))
    })
}

/// To the nearest whole number, a half away from 0. A mean of 64 bytes often is an exact half of a step, so values within 1e-9
/// below count as halves; otherwise the order of additions would decide.
fn round_away(value: f64) -> f64 {
    value.signum() * (value.abs() + 0.5 + 1e-9).floor()
}

/// To the nearest of 0 to 255, a half upwards.
fn round_byte(value: f64) -> f64 {
    (value + 0.5 + 1e-9).floor().clamp(0.0, 255.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[f64]) -> Plane {
        Plane {
            height: 1,
            width: values.len(),
            values: values.to_vec(),
        }
    }

    fn assert_near(plane: &Plane, expected: &[f64]) {
        assert_eq!(plane.values.len(), expected.len());
        for (value, expected) in plane.values.iter().zip(expected) {
            assert!(
                (value - expected).abs() < 1e-12,
                "{:?}, expected {expected:?}",
                plane.values
            );
        }
    }

    #[test]
    fn brightness_by_hand() {
        assert_near(
            &brightness(&[row(&[0.0, 0.25, 0.9])], 0.2)[0],
            &[0.2, 0.45, 1.0],
        );
        // Brightest 0.4 → 0.6, so the others grow by half; black becomes grey.
        let colour = brightness(&[row(&[0.4, 0.0]), row(&[0.2, 0.0]), row(&[0.0, 0.0])], 0.2);
        assert_near(&colour[0], &[0.6, 0.2]);
        assert_near(&colour[1], &[0.3, 0.2]);
        assert_near(&colour[2], &[0.0, 0.2]);
    }

    #[test]
    fn contrast_by_hand() {
        // Mean 0.5; distances -0.4, 0.1, 0.3 halved.
        assert_near(&contrast(&row(&[0.1, 0.6, 0.8]), 0.5), &[0.3, 0.55, 0.65]);
    }

    #[test]
    fn pixelate_by_hand() {
        // 14 cells to 28 pixels: pairs become their mean. Rows: 1 · 14 / 28 rounds to one cell.
        assert_near(
            &pixelate(&row(&[0.0, 1.0, 0.2, 0.4]), 14),
            &[0.5, 0.5, 0.3, 0.3],
        );
        // 9 cells to 28 pixels, 3 pixels: one cell over all.
        assert_near(&pixelate(&row(&[0.0, 0.3, 0.6]), 9), &[0.3, 0.3, 0.3]);
        // 19 cells to 28 pixels, 3 pixels: 2 cells of 1.5 pixels; the middle pixel is half in each and shows the second.
        assert_near(&pixelate(&row(&[0.0, 0.3, 0.6]), 19), &[0.1, 0.5, 0.5]);
    }

    #[test]
    fn jpeg_keeps_flat_blocks_to_a_step() {
        // Quality 25 doubles the table: the mean's step is 32 in units of 8 grey levels, so at most 2 levels are lost.
        for level in [0.0, 17.0, 128.0, 200.0, 255.0] {
            let flat = Plane::from_fn(8, 8, |_, _| level / 255.0);
            let output = &jpeg(std::slice::from_ref(&flat), 25)[0];
            assert!(
                output
                    .values
                    .iter()
                    .all(|value| (value * 255.0 - level).abs() <= 2.0),
                "{level}"
            );
        }
    }

    #[test]
    fn the_transform_is_orthonormal() {
        let block: [[f64; 8]; 8] = std::array::from_fn(|row| {
            std::array::from_fn(|column| ((row * 13 + column * 7) % 11) as f64)
        });
        let frequencies = transformed(&block, |frequency, place| COSINES[frequency][place]);
        let back = transformed(&frequencies, |place, frequency| COSINES[frequency][place]);
        for (value, expected) in back.as_flattened().iter().zip(block.as_flattened()) {
            assert!((value - expected).abs() < 1e-12);
        }
    }
}

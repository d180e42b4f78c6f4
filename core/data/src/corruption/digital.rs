//! Brightness, contrast, colours, coarse pixels and displacement.

use super::blur::gaussian_with;
use super::draws::{Draws, between};
use super::plane::{Border, Plane};
use super::scale::Scale;

/// Adds to the brightest channel of each pixel, keeping its hue and saturation (the value of the HSV model).
pub(super) fn brightness(planes: &[Plane], added: f64) -> Vec<Plane> {
    each_colour(planes, |colour| {
        let value = brightest(colour);
        let brighter = (value + added).min(1.0);
        match value {
            0.0 => colour.fill(brighter),
            _ => colour.iter_mut().for_each(|x| *x *= brighter / value),
        }
    })
}

/// `factor` times the saturation of the HSV model, and something more; grey counts as red. Images without colours have no saturation.
pub(super) fn saturate(planes: &[Plane], factor: f64, added: f64) -> Vec<Plane> {
    if planes.len() != 3 {
        return planes.to_vec();
    }
    each_colour(planes, |colour| {
        let value = brightest(colour);
        let chroma = value - colour.iter().copied().fold(1.0, f64::min);
        if value == 0.0 {
            return;
        }
        let saturation = (chroma / value * factor + added).clamp(0.0, 1.0);
        // How far each channel is from the brightest, in parts of the farthest. It depends on the hue alone.
        let mut farness = [0.0, 1.0, 1.0];
        if chroma > 0.0 {
            for (farness, x) in farness.iter_mut().zip(&*colour) {
                *farness = (value - x) / chroma;
            }
        }
        for (x, farness) in colour.iter_mut().zip(farness) {
            *x = value * (1.0 - saturation * farness);
        }
    })
}

fn brightest(colour: &[f64]) -> f64 {
    colour.iter().copied().fold(0.0, f64::max)
}

/// Changes each pixel of three channels as one; other channels each by themselves.
fn each_colour(planes: &[Plane], change: impl Fn(&mut [f64])) -> Vec<Plane> {
    let mut changed = planes.to_vec();
    for place in 0..planes[0].values.len() {
        match &mut changed[..] {
            [red, green, blue] => {
                let mut colour = [&red, &green, &blue].map(|plane| plane.values[place]);
                change(&mut colour);
                for (plane, value) in [red, green, blue].into_iter().zip(colour) {
                    plane.values[place] = value;
                }
            }
            planes => {
                for plane in planes {
                    change(std::slice::from_mut(&mut plane.values[place]));
                }
            }
        }
    }
    changed
}

/// Draws each value towards its channel's mean.
pub(super) fn contrast(plane: &Plane, factor: f64) -> Plane {
    let mean = plane.mean();
    plane.map(|value| mean + (value - mean) * factor)
}

/// Moves each pixel by a smooth random field, `strength` times noise that was blurred.
pub(super) fn elastic(
    planes: &[Plane],
    strength: f64,
    scale: &Scale,
    draws: &mut dyn Draws,
) -> Vec<Plane> {
    let most = 0.005 * scale.height as f64;
    let deviations = [scale.height, scale.width].map(|side| 0.01 * side as f64);
    // To the right first, then down.
    let [right, down] = [0, 1].map(|_| {
        let noise = Plane::from_fn(scale.height, scale.width, |_, _| {
            between(draws, -most, most)
        });
        let smooth = gaussian_with(&noise, deviations, 3.0, 1.0, Border::Reflect);
        let moved = smooth.shrink(&planes[0]);
        // In numbers of 32 bits, as the reference keeps them.
        moved.map(|value| f64::from((scale.factor * strength * value) as f32))
    });
    let moved = |plane: &Plane| {
        Plane::from_fn(plane.height, plane.width, |row, column| {
            plane.between(
                row as f64 + down.at(row, column),
                column as f64 + right.at(row, column),
                Border::Reflect,
            )
        })
    };
    planes.iter().map(moved).collect()
}

/// Keeps a part of the rows and columns: means over areas, each shown as one large pixel.
pub(super) fn pixelate(plane: &Plane, part: f64) -> Plane {
    let coarse = [plane.height, plane.width].map(|side| ((side as f64 * part) as usize).max(1));
    let (rows, columns) = (
        areas(plane.height, coarse[0]),
        areas(plane.width, coarse[1]),
    );
    // Pillow rounds to bytes after each axis.
    let rounded = |value: f64| (value * 255.0 + 0.5 + 1e-9).floor() / 255.0;
    let narrow = Plane::from_fn(plane.height, coarse[1], |row, column| {
        let area = columns[column].clone();
        let count = area.len() as f64;
        rounded(area.map(|column| plane.at(row, column)).sum::<f64>() / count)
    });
    let small = Plane::from_fn(coarse[0], coarse[1], |row, column| {
        let area = rows[row].clone();
        let count = area.len() as f64;
        rounded(area.map(|row| narrow.at(row, column)).sum::<f64>() / count)
    });
    let shown = |pixel: usize, fine: usize, coarse: usize| {
        (((pixel as f64 + 0.5) * coarse as f64 / fine as f64) as usize).min(coarse - 1)
    };
    Plane::from_fn(plane.height, plane.width, |row, column| {
        small.at(
            shown(row, plane.height, coarse[0]),
            shown(column, plane.width, coarse[1]),
        )
    })
}

/// For each pixel of a shorter axis, those of the longer whose middles it covers (Pillow's `BOX`).
fn areas(long: usize, short: usize) -> Vec<std::ops::Range<usize>> {
    let each = long as f64 / short as f64;
    // A middle at the border of two areas belongs to the first.
    let border = |pixel: usize| ((pixel as f64 * each + 0.5) as usize).min(long);
    (0..short)
        .map(|pixel| border(pixel)..border(pixel + 1))
        .collect()
}

/// Compresses as JPEG does, with 4:2:0 subsampling of colours.
pub(super) fn jpeg(planes: &[Plane], quality: u16) -> Vec<Plane> {
    let [height, width] = [planes[0].height, planes[0].width];
    let bytes: Vec<Vec<u8>> = planes.iter().map(Plane::to_bytes).collect();
    let decoded = super::jpeg::recompressed(&bytes, height, width, quality);
    let plane = |bytes: &Vec<u8>| Plane::from_bytes(height, width, bytes);
    decoded.iter().map(plane).collect()
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
        for (found, expected) in plane.values.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{:?}", plane.values);
        }
    }

    #[test]
    fn brightness_by_hand() {
        let grey = brightness(&[row(&[0.0, 0.25, 0.9])], 0.2);
        assert_near(&grey[0], &[0.2, 0.45, 1.0]);
        // Brightest 0.4 → 0.6, so the others grow by half; black becomes grey.
        let colour = brightness(&[row(&[0.4, 0.0]), row(&[0.2, 0.0]), row(&[0.0, 0.0])], 0.2);
        assert_near(&colour[0], &[0.6, 0.2]);
        assert_near(&colour[1], &[0.3, 0.2]);
        assert_near(&colour[2], &[0.0, 0.2]);
    }

    #[test]
    fn saturation_by_hand() {
        // Saturation (0.8 - 0.4) / 0.8 = 0.5 → 0.1 · 0.5 + 0.2 = 0.25; grey becomes reddish: 0.5 · (1 - 0.2).
        let colour = saturate(
            &[row(&[0.8, 0.5]), row(&[0.6, 0.5]), row(&[0.4, 0.5])],
            0.1,
            0.2,
        );
        assert_near(&colour[0], &[0.8, 0.5]);
        assert_near(&colour[1], &[0.7, 0.4]);
        assert_near(&colour[2], &[0.6, 0.4]);
    }

    #[test]
    fn contrast_by_hand() {
        // Mean 0.5; distances -0.4, 0.1, 0.3 halved.
        assert_near(&contrast(&row(&[0.1, 0.6, 0.8]), 0.5), &[0.3, 0.55, 0.65]);
    }

    #[test]
    fn pixelate_by_hand() {
        // Two of four columns: pairs become their mean, 0.2 and 0.6.
        assert_near(
            &pixelate(&row(&[0.0, 0.4, 0.4, 0.8]), 0.5),
            &[0.2, 0.2, 0.6, 0.6],
        );
        // Half of one column is none; one is kept.
        assert_near(&pixelate(&row(&[0.4]), 0.5), &[0.4]);
    }
}

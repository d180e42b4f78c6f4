//! Weather: one layer for all channels, made at the extents of ImageNet-C's images.

use super::blur::{enlarged, motion};
use super::draws::{Draws, between};
use super::frost::Frost;
use super::plane::Plane;
use super::scale::Scale;

/// The strength of snow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Snow {
    /// Mean of the noise that flakes are made of.
    pub mean: f64,
    /// Its standard deviation.
    pub deviation: f64,
    /// How much it is enlarged.
    pub zoom: f64,
    /// Below this value there is no flake.
    pub threshold: f64,
    /// Length of a flake's way, in pixels on both sides.
    pub radius: u32,
    /// How fast it fades along the way.
    pub fading: f64,
    /// The part of the image that is not whitened.
    pub kept: f64,
}

/// Whitens the image and adds flakes that fall to the left or right, and the same turned by half a circle.
pub(super) fn snow(
    planes: &[Plane],
    strength: Snow,
    scale: &Scale,
    draws: &mut dyn Draws,
) -> Vec<Plane> {
    let noise = Plane::from_fn(scale.height, scale.width, |_, _| {
        strength.mean + strength.deviation * draws.normal()
    });
    let flakes = enlarged(&noise, strength.zoom).map(|value| match value {
        value if value < strength.threshold => 0.0,
        value => value.min(1.0),
    });
    let angle = between(draws, -135.0, -45.0);
    let flakes = &motion(&[flakes], strength.radius, strength.fading, angle, 1.0)[0];
    let last = [scale.height - 1, scale.width - 1];
    let layer = Plane::from_fn(scale.height, scale.width, |row, column| {
        let level = |row, column| (flakes.at(row, column) * 255.0).round_ties_even() / 255.0;
        level(row, column) + level(last[0] - row, last[1] - column)
    });
    let layer = layer.shrink(&planes[0]);
    let luma = luma(planes);
    let snowy = |plane: &Plane| {
        let grey = luma.as_ref().unwrap_or(plane);
        let whitened = plane.zip(grey, |value, grey| {
            strength.kept * value + (1.0 - strength.kept) * value.max(1.5 * grey + 0.5)
        });
        whitened.zip(&layer, |value, layer| value + layer)
    };
    planes.iter().map(snowy).collect()
}

/// The luma of three channels (ITU-R BT.601). Others are grey, each by itself.
fn luma(planes: &[Plane]) -> Option<Plane> {
    let [red, green, blue] = planes else {
        return None;
    };
    let sum = red.zip(green, |red, green| 0.299 * red + 0.587 * green);
    Some(sum.zip(blue, |sum, blue| sum + 0.114 * blue))
}

/// (x + a·plasma)·m / (m + a), where m is the image's maximum and a the fog's density.
pub(super) fn fog(planes: &[Plane], density: f64, decay: f64, draws: &mut dyn Draws) -> Vec<Plane> {
    let brightest = planes.iter().map(Plane::max).fold(0.0, f64::max);
    let side = planes[0].height.max(planes[0].width).next_power_of_two();
    let field = plasma(side, decay, draws);
    let foggy = |plane: &Plane| {
        Plane::from_fn(plane.height, plane.width, |row, column| {
            (plane.at(row, column) + density * field.at(row, column)) * brightest
                / (brightest + density)
        })
    };
    planes.iter().map(foggy).collect()
}

/// A plasma fractal in [0, 1] on a torus of `side` (a power of two), by the diamond-square method: the mean of four neighbours plus
/// a uniform draw, whose range shrinks with the square of `decay` at each halving of the distance.
fn plasma(side: usize, decay: f64, draws: &mut dyn Draws) -> Plane {
    let mut field = Plane::from_fn(side, side, |_, _| 0.0);
    let mut wibble = 100.0;
    let mut step = side;
    while step >= 2 {
        let half = step / 2;
        // Neighbours are given as offsets on the torus, so that minus `half` is `side - half`.
        let back = side - half;
        let mut fill = |[first_row, first_column]: [usize; 2], neighbours: [[usize; 2]; 4]| {
            for row in (first_row..side).step_by(step) {
                for column in (first_column..side).step_by(step) {
                    let near = neighbours.map(|[down, right]| {
                        field.at((row + down) % side, (column + right) % side)
                    });
                    field.values[row * side + column] =
                        near.iter().sum::<f64>() / 4.0 + wibble * between(draws, -wibble, wibble);
                }
            }
        };
        fill(
            [half, half],
            [[back, back], [back, half], [half, back], [half, half]],
        );
        let cross = [[back, 0], [half, 0], [0, back], [0, half]];
        fill([0, half], cross);
        fill([half, 0], cross);
        step = half;
        wibble /= decay;
    }
    let low = field.values.iter().copied().fold(f64::INFINITY, f64::min);
    let span = field.max() - low;
    // A torus of one pixel has no span: no fog.
    field.map(|value| match span {
        0.0 => 0.0,
        _ => (value - low) / span,
    })
}

/// The image and a piece of a picture of frost, each in its part.
pub(super) fn frost(
    planes: &[Plane],
    [image, frost]: [f64; 2],
    pictures: &Frost,
    scale: &Scale,
    draws: &mut dyn Draws,
) -> Vec<Plane> {
    let layers = pictures.piece(planes.len(), [scale.height, scale.width], draws);
    let frosted = |(plane, layer): (&Plane, &Plane)| {
        let layer = layer.shrink(plane);
        plane.zip(&layer, |value, layer| image * value + frost * layer)
    };
    planes.iter().zip(&layers).map(frosted).collect()
}

#[cfg(test)]
mod tests {
    use dtta_base::keyed_rng;

    use super::super::draws::Keyed;
    use super::*;

    #[test]
    fn plasma_spans_the_unit_range_and_is_smooth() {
        let field = plasma(32, 2.0, &mut Keyed(keyed_rng("plasma", &[])));
        assert_eq!(field.max(), 1.0);
        assert!(field.values.contains(&0.0));
        // Neighbours differ far less than pixels drawn at random, whose mean distance is 1/3.
        let step: f64 = (0..32)
            .flat_map(|row| (0..31).map(move |column| (row, column)))
            .map(|(row, column)| (field.at(row, column) - field.at(row, column + 1)).abs())
            .sum::<f64>()
            / (32.0 * 31.0);
        assert!(step < 0.1, "{step}");
        let one = plasma(1, 2.0, &mut Keyed(keyed_rng("plasma", &[])));
        assert_eq!(one.values, [0.0]);
    }

    #[test]
    fn fog_keeps_the_maximum_and_black_images() {
        let draws = &mut Keyed(keyed_rng("fog", &[]));
        let black = [Plane::from_fn(4, 4, |_, _| 0.0)];
        assert_eq!(fog(&black, 1.5, 2.0, draws), black);
        let grey = Plane::from_fn(4, 4, |_, _| 0.6);
        let foggy = &fog(&[grey], 1.5, 2.0, draws)[0];
        // Where the plasma is 1: (0.6 + 1.5) · 0.6 / 2.1 = 0.6; where it is 0: 0.6 · 0.6 / 2.1.
        assert!((foggy.max() - 0.6).abs() < 1e-12);
        let low = foggy.values.iter().copied().fold(1.0, f64::min);
        assert!((low - 0.36 / 2.1).abs() < 1e-12, "{low}");
    }
}

//! Weather: fog and snow. Both lay one random field over all channels.

use rand_chacha::ChaCha8Rng;

use super::blur::motion;
use super::plane::Plane;
use crate::random::{between, unit};

/// (x + a·plasma)·m / (m + a), where m is the image's maximum and a the fog's density.
pub(super) fn fog(planes: &[Plane], density: f64, decay: f64, rng: &mut ChaCha8Rng) -> Vec<Plane> {
    let brightest = planes.iter().map(Plane::max).fold(0.0, f64::max);
    let (height, width) = (planes[0].height, planes[0].width);
    let side = height.max(width).next_power_of_two();
    let field = plasma(side, decay, rng);
    let foggy = |plane: &Plane| {
        Plane::from_fn(height, width, |row, column| {
            (plane.at(row, column) + density * field.at(row, column)) * brightest
                / (brightest + density)
        })
    };
    planes.iter().map(foggy).collect()
}

/// A plasma fractal in [0, 1] on a torus of `side` (a power of two), by the diamond-square method: the mean of four neighbours plus
/// a uniform draw, whose range shrinks by `decay` at each halving of the distance.
fn plasma(side: usize, decay: f64, rng: &mut ChaCha8Rng) -> Plane {
    let mut field = Plane::from_fn(side, side, |_, _| 0.0);
    let mut range = 1.0;
    let mut step = side;
    while step >= 2 {
        let half = step / 2;
        let grid = |first_row: usize, first_column: usize| {
            let columns = move |row| {
                (first_column..side)
                    .step_by(step)
                    .map(move |column| (row, column))
            };
            (first_row..side).step_by(step).flat_map(columns)
        };
        let mut fill = |places: &mut dyn Iterator<Item = (usize, usize)>,
                        neighbours: [(usize, usize); 4]| {
            for (row, column) in places {
                // Neighbours are given as offsets on the torus, so that minus `half` is `side - half`.
                let sum: f64 = neighbours
                    .iter()
                    .map(|(down, right)| field.at((row + down) % side, (column + right) % side))
                    .sum();
                field.values[row * side + column] = sum / 4.0 + range * between(rng, -1.0, 1.0);
            }
        };
        let back = side - half;
        fill(
            &mut grid(half, half),
            [(back, back), (back, half), (half, back), (half, half)],
        );
        let cross = [(back, 0), (half, 0), (0, back), (0, half)];
        fill(&mut grid(0, half), cross);
        fill(&mut grid(half, 0), cross);
        step = half;
        range /= decay;
    }
    let low = field.values.iter().copied().fold(f64::INFINITY, f64::min);
    let span = field.max() - low;
    // A torus of one pixel has no span: no fog.
    field.map(|value| {
        if span > 0.0 {
            (value - low) / span
        } else {
            0.0
        }
    })
}

/// Whitens by `whiteness` and adds flakes that fall within 45° of the vertical: a `share` of pixels of random brightness, blurred
/// over `length` pixels.
pub(super) fn snow(
    planes: &[Plane],
    share: f64,
    whiteness: f64,
    length: usize,
    rng: &mut ChaCha8Rng,
) -> Vec<Plane> {
    let (height, width) = (planes[0].height, planes[0].width);
    let flakes = Plane::from_fn(height, width, |_, _| {
        let (draw, brightness) = (unit(rng), unit(rng));
        if draw < share {
            0.5 + 0.5 * brightness
        } else {
            0.0
        }
    });
    let angle = between(
        rng,
        std::f64::consts::FRAC_PI_4,
        3.0 * std::f64::consts::FRAC_PI_4,
    );
    let flakes = motion(&flakes, length, angle).map(|value| (1.8 * value).clamp(0.0, 1.0));
    let snowy = |plane: &Plane| {
        Plane::from_fn(height, width, |row, column| {
            let value = plane.at(row, column);
            let white = (1.0 - whiteness) * value + whiteness * value.max(0.5 * value + 0.5);
            white + flakes.at(row, column) * (1.0 - value)
        })
    };
    planes.iter().map(snowy).collect()
}

#[cfg(test)]
mod tests {
    use dtta_base::keyed_rng;

    use super::*;

    #[test]
    fn plasma_spans_the_unit_range_and_is_smooth() {
        let field = plasma(32, 2.0, &mut keyed_rng("plasma", &[]));
        assert_eq!(field.max(), 1.0);
        assert!(field.values.contains(&0.0));
        // Neighbours differ far less than pixels drawn at random, whose mean distance is 1/3.
        let step: f64 = (0..32)
            .flat_map(|row| (0..31).map(move |column| (row, column)))
            .map(|(row, column)| (field.at(row, column) - field.at(row, column + 1)).abs())
            .sum::<f64>()
            / (32.0 * 31.0);
        assert!(step < 0.1, "{step}");
        assert_eq!(plasma(1, 2.0, &mut keyed_rng("plasma", &[])).values, [0.0]);
    }

    #[test]
    fn fog_keeps_the_maximum_and_black_images() {
        let rng = &mut keyed_rng("fog", &[]);
        let black = Plane::from_fn(4, 4, |_, _| 0.0);
        assert_eq!(fog(std::slice::from_ref(&black), 0.8, 2.0, rng)[0], black);
        let grey = Plane::from_fn(4, 4, |_, _| 0.6);
        let foggy = &fog(&[grey], 0.8, 2.0, rng)[0];
        // Where the plasma is 1: (0.6 + 0.8) · 0.6 / 1.4 = 0.6; where it is 0: 0.6 · 0.6 / 1.4.
        assert!((foggy.max() - 0.6).abs() < 1e-12);
        assert!(
            foggy
                .values
                .iter()
                .all(|value| *value >= 0.36 / 1.4 - 1e-12)
        );
    }

    #[test]
    fn snow_without_flakes_by_hand() {
        let plane = Plane {
            height: 1,
            width: 2,
            values: vec![0.2, 1.0],
        };
        let snowy = &snow(&[plane], 0.0, 0.25, 3, &mut keyed_rng("snow", &[]))[0];
        // 0.75 · 0.2 + 0.25 · max(0.2, 0.6) = 0.3.
        assert!((snowy.values[0] - 0.3).abs() < 1e-12 && (snowy.values[1] - 1.0).abs() < 1e-12);
    }
}

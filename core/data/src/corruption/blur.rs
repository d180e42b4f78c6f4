//! Blurs: weighted means of neighbours. Beyond the image its edge repeats.

use super::plane::Plane;

/// A normal kernel with standard deviation σ pixels, cut off at ⌈3σ⌉.
pub(super) fn gaussian(plane: &Plane, deviation: f64) -> Plane {
    let radius = (3.0 * deviation).ceil() as isize;
    let weights: Vec<f64> = (-radius..=radius)
        .map(|place| (-0.5 * (place as f64 / deviation).powi(2)).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    let taps: Vec<(isize, f64)> = (-radius..=radius)
        .zip(weights.iter().map(|weight| weight / total))
        .collect();
    let along = |plane: &Plane, vertical: isize, horizontal: isize| {
        Plane::from_fn(plane.height, plane.width, |row, column| {
            let (row, column) = (row as isize, column as isize);
            taps.iter()
                .map(|(place, weight)| {
                    weight * plane.near(row + place * vertical, column + place * horizontal)
                })
                .sum()
        })
    };
    along(&along(plane, 1, 0), 0, 1)
}

/// A disk of the given radius in pixels; a pixel on its rim counts by `radius + 0.5 - distance`.
pub(super) fn defocus(plane: &Plane, radius: f64) -> Plane {
    let reach = radius.ceil() as isize;
    let mut taps = Vec::new();
    for down in -reach..=reach {
        for right in -reach..=reach {
            let distance = (down as f64).hypot(right as f64);
            taps.push((down, right, (radius + 0.5 - distance).clamp(0.0, 1.0)));
        }
    }
    let total: f64 = taps.iter().map(|(_, _, weight)| weight).sum();
    Plane::from_fn(plane.height, plane.width, |row, column| {
        let (row, column) = (row as isize, column as isize);
        taps.iter()
            .map(|(down, right, weight)| weight / total * plane.near(row + down, column + right))
            .sum()
    })
}

/// The mean of `length` (odd) points one pixel apart on a line at `angle` radians from the horizontal, downwards.
pub(super) fn motion(plane: &Plane, length: usize, angle: f64) -> Plane {
    let (down, right) = angle.sin_cos();
    let reach = (length as f64 - 1.0) / 2.0;
    Plane::from_fn(plane.height, plane.width, |row, column| {
        let point = |step: usize| {
            let place = step as f64 - reach;
            plane.between(row as f64 + place * down, column as f64 + place * right)
        };
        (0..length).map(point).sum::<f64>() / length as f64
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point() -> Plane {
        Plane::from_fn(
            21,
            21,
            |row, column| if (row, column) == (10, 10) { 1.0 } else { 0.0 },
        )
    }

    #[test]
    fn a_flat_plane_stays_flat() {
        let flat = Plane::from_fn(4, 6, |_, _| 0.3);
        for blurred in [
            gaussian(&flat, 1.6),
            defocus(&flat, 2.5),
            motion(&flat, 7, 0.4),
        ] {
            assert!(
                blurred
                    .values
                    .iter()
                    .all(|value| (value - 0.3).abs() < 1e-12)
            );
        }
    }

    #[test]
    fn a_point_spreads_evenly() {
        for blurred in [
            gaussian(&point(), 1.2),
            defocus(&point(), 2.0),
            motion(&point(), 5, 0.3),
        ] {
            assert!((blurred.values.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            for (row, column) in [(8, 9), (10, 12), (11, 11)] {
                // Symmetric about the point.
                assert!(
                    (blurred.at(row, column) - blurred.at(20 - row, 20 - column)).abs() < 1e-12
                );
            }
        }
    }

    #[test]
    fn kernels_by_hand() {
        // Radius 1: distances 0 and 1 weigh 1 and 0.5, the corners 1.5 - √2; total 1 + 4·0.5 + 4·(1.5 - √2).
        let total = 3.0 + 4.0 * (1.5 - 2f64.sqrt());
        let blurred = defocus(&point(), 1.0);
        assert!((blurred.at(10, 10) - 1.0 / total).abs() < 1e-12);
        assert!((blurred.at(10, 11) - 0.5 / total).abs() < 1e-12);
        // The ratio of neighbours in a normal kernel is exp(-1 / 2σ²).
        let blurred = gaussian(&point(), 1.2);
        assert!((blurred.at(10, 11) / blurred.at(10, 10) - (-0.5f64 / 1.44).exp()).abs() < 1e-12);
        // A horizontal line of three.
        let blurred = motion(&point(), 3, 0.0);
        for (column, expected) in [
            (8, 0.0),
            (9, 1.0 / 3.0),
            (10, 1.0 / 3.0),
            (11, 1.0 / 3.0),
            (12, 0.0),
        ] {
            assert!((blurred.at(10, column) - expected).abs() < 1e-12);
        }
    }
}

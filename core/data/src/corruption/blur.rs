//! Blurs: weighted means of neighbours. Lengths are those of ImageNet-C; `scale` makes them those of a smaller image.

use super::draws::Draws;
use super::plane::{Border, Kernel, Plane};

/// How many deviations a Gaussian reaches, unless something else is said.
const TRUNCATE: f64 = 4.0;

/// Blurs with a Gaussian of standard deviation σ; the edge repeats.
pub(super) fn gaussian(plane: &Plane, deviation: f64, scale: f64) -> Plane {
    gaussian_with(plane, [deviation; 2], TRUNCATE, scale, Border::Nearest)
}

/// The same with a deviation for each axis (rows, columns), cut off at so many of them.
pub(super) fn gaussian_with(
    plane: &Plane,
    [vertical, horizontal]: [f64; 2],
    truncate: f64,
    scale: f64,
    border: Border,
) -> Plane {
    let taps = |deviation: f64| {
        let radius = (truncate * deviation + 0.5) as i32;
        normal(deviation, radius).map(move |(place, weight)| (scale * place, weight))
    };
    let down = Kernel::new(taps(vertical).map(|(place, weight)| (place, 0.0, weight)));
    let right = Kernel::new(taps(horizontal).map(|(place, weight)| (0.0, place, weight)));
    plane.filter(&down, border).filter(&right, border)
}

/// The weights of a Gaussian from -`radius` to `radius`, which sum to 1.
fn normal(deviation: f64, radius: i32) -> impl Iterator<Item = (f64, f64)> {
    let weight = move |place: i32| (-0.5 * (f64::from(place) / deviation).powi(2)).exp();
    let total: f64 = (-radius..=radius).map(weight).sum();
    (-radius..=radius).map(move |place| (f64::from(place), weight(place) / total))
}

/// Blurs with a disk, as a lens out of focus does. Its edge is smoothed with a Gaussian of deviation `smooth`.
pub(super) fn defocus(planes: &[Plane], radius: i32, smooth: f64, scale: f64) -> Vec<Plane> {
    let (reach, smooth_radius) = if radius <= 8 { (8, 1) } else { (radius, 2) };
    let side = 2 * reach as usize + 1;
    let offset = |place: usize| place as i32 - reach;
    let inside = Plane::from_fn(side, side, |row, column| {
        let distance = offset(row).pow(2) + offset(column).pow(2);
        f64::from(u8::from(distance <= radius.pow(2)))
    });
    let area: f64 = inside.values.iter().sum();
    let disk = inside.map(|value| value / area);
    let along = |[down, right]: [f64; 2]| {
        let taps = normal(smooth, smooth_radius);
        Kernel::new(taps.map(move |(place, weight)| (down * place, right * place, weight)))
    };
    let disk = disk
        .filter(&along([1.0, 0.0]), Border::Mirror)
        .filter(&along([0.0, 1.0]), Border::Mirror);
    let taps = disk.values.iter().enumerate().map(|(place, weight)| {
        let [down, right] = [place / side, place % side].map(|place| f64::from(offset(place)));
        (scale * down, scale * right, *weight)
    });
    let kernel = Kernel::new(taps);
    let blurred = |plane: &Plane| plane.filter(&kernel, Border::Mirror);
    planes.iter().map(blurred).collect()
}

/// Blurs along a line of `2 · radius + 1` pixels from each pixel, at an angle in degrees, with weights that fall as a Gaussian does.
pub(super) fn motion(
    planes: &[Plane],
    radius: u32,
    deviation: f64,
    angle: f64,
    scale: f64,
) -> Vec<Plane> {
    let width = 2 * radius + 1;
    let weight = |place: u32| (-0.5 * (f64::from(place) / deviation).powi(2)).exp();
    let total: f64 = (0..width).map(weight).sum();
    let (down, right) = angle.to_radians().sin_cos();
    let taps = (0..width).map(|place| {
        // Whole pixels of ImageNet-C's image.
        let [down, right] = [down, right].map(|part| (f64::from(place) * part - 0.5).ceil());
        (scale * down, scale * right, weight(place) / total)
    });
    let kernel = Kernel::new(taps);
    let blurred = |plane: &Plane| plane.filter(&kernel, Border::Nearest);
    planes.iter().map(blurred).collect()
}

/// Blurs, displaces each pixel by up to `reach` pixels, as often as there are `rounds`, and blurs again.
///
/// Of images with channels the reference copies the pixel from its other place, because NumPy's views make its exchange a copy; those
/// without exchange the two. So does this.
pub(super) fn glass(
    planes: &[Plane],
    deviation: f64,
    reach: usize,
    rounds: usize,
    scale: f64,
    draws: &mut dyn Draws,
) -> Vec<Plane> {
    let [height, width] = [planes[0].height, planes[0].width];
    let mut pixels: Vec<Vec<u8>> = planes
        .iter()
        .map(|plane| gaussian(plane, deviation, scale).to_bytes())
        .collect();
    let exchange = pixels.len() == 1;
    let margin = (reach as f64 * scale).ceil() as usize;
    let places = |side: usize| (margin + 1..(side + 1).saturating_sub(margin)).rev();
    for _ in 0..rounds {
        for row in places(height) {
            for column in places(width) {
                let [right, down] = [0, 1].map(|_| displacement(reach, scale, draws));
                let other = |place: usize, moved: isize, side: usize| {
                    place.saturating_add_signed(moved).min(side - 1)
                };
                let own = row * width + column;
                let other = other(row, down, height) * width + other(column, right, width);
                for plane in &mut pixels {
                    let previous = plane[own];
                    plane[own] = plane[other];
                    if exchange {
                        plane[other] = previous;
                    }
                }
            }
        }
    }
    let blurred = |bytes: &Vec<u8>| {
        let plane = Plane::from_bytes(height, width, bytes);
        gaussian(&plane, deviation, scale)
    };
    pixels.iter().map(blurred).collect()
}

/// A whole number of pixels: `scale` times one from -`reach`..`reach`, rounded up with the probability of the rest.
fn displacement(reach: usize, scale: f64, draws: &mut dyn Draws) -> isize {
    let whole = draws.below(2 * reach) as isize - reach as isize;
    match scale {
        1.0 => whole,
        _ => (scale * whole as f64 + draws.unit()).floor() as isize,
    }
}

/// The mean of the image and `count` enlargements of it around its middle, the first by 1, each by `step` more.
pub(super) fn zoom(planes: &[Plane], count: u32, step: f64) -> Vec<Plane> {
    // The step that NumPy's `arange` takes.
    let step = (1.0 + step) - 1.0;
    let blurred = |plane: &Plane| {
        let mut sum = plane.clone();
        for number in 0..count {
            let enlarged = enlarged(plane, 1.0 + f64::from(number) * step);
            let rows = enlarged.values.chunks_exact(enlarged.width);
            for (sums, row) in sum.values.chunks_exact_mut(plane.width).zip(rows) {
                sums.iter_mut()
                    .zip(row)
                    .for_each(|(sum, value)| *sum += value);
            }
        }
        sum.map(|sum| sum / f64::from(count + 1))
    };
    planes.iter().map(blurred).collect()
}

/// The middle of a plane, enlarged bilinearly to its extents or a little more.
pub(super) fn enlarged(plane: &Plane, zoom: f64) -> Plane {
    let axis = |side: usize| {
        let part = ((side as f64 / zoom).ceil() as usize).max(1);
        let long = (part as f64 * zoom).round_ties_even().max(1.0) as usize;
        let step = (part - 1) as f64 / (long.max(2) - 1) as f64;
        ((side - part) / 2, part, long, step)
    };
    let (top, rows, height, down) = axis(plane.height);
    let (left, columns, width, right) = axis(plane.width);
    let middle = Plane::from_fn(rows, columns, |row, column| {
        plane.at(top + row, left + column)
    });
    Plane::from_fn(height, width, |row, column| {
        middle.between(row as f64 * down, column as f64 * right, Border::Nearest)
    })
}

//! Drops on the lens: of water, or of mud.

use super::blur::gaussian;
use super::draws::Draws;
use super::edges::{distances, edges};
use super::plane::{Border, Kernel, Plane, byte};
use super::scale::Scale;

/// The strength of spatter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spatter {
    /// Mean of the noise that drops are made of.
    pub mean: f64,
    /// Its standard deviation.
    pub deviation: f64,
    /// Deviation of the Gaussian that it is blurred with.
    pub blur: f64,
    /// Below this value there is no drop.
    pub threshold: f64,
    /// What the drops are.
    pub liquid: Liquid,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Liquid {
    /// Adds light, so much of it at most.
    Water(f64),
    /// Covers, with edges blurred by a Gaussian of this deviation.
    Mud(f64),
}

/// Pale turquoise, channel by channel.
const WATER: [f64; 3] = [175.0 / 255.0, 238.0 / 255.0, 238.0 / 255.0];

/// Brown.
const MUD: [f64; 3] = [63.0 / 255.0, 42.0 / 255.0, 20.0 / 255.0];

/// Lays drops of one liquid over the image.
pub(super) fn spatter(
    planes: &[Plane],
    strength: Spatter,
    scale: &Scale,
    draws: &mut dyn Draws,
) -> Vec<Plane> {
    let noise = Plane::from_fn(scale.height, scale.width, |_, _| {
        strength.mean + strength.deviation * draws.normal()
    });
    let drops = gaussian(&noise, strength.blur, 1.0).map(|value| match value {
        value if value < strength.threshold => 0.0,
        value => value,
    });
    let covered = match strength.liquid {
        Liquid::Water(most) => water(&drops, most),
        Liquid::Mud(blur) => mud(&drops, strength.threshold, blur),
    };
    let covered = covered.shrink(&planes[0]);
    let (colour, kept) = match strength.liquid {
        Liquid::Water(_) => (WATER, 0.0),
        Liquid::Mud(_) => (MUD, 1.0),
    };
    let channel = |(number, plane): (usize, &Plane)| {
        let colour = match planes.len() {
            3 => colour[number],
            _ => reference_grey(colour),
        };
        plane.zip(&covered, |value, covered| {
            value * (1.0 - kept * covered) + covered * colour
        })
    };
    planes.iter().enumerate().map(channel).collect()
}

/// The reference's `rgb2gray`, whose weights sum to 0.9999.
fn reference_grey([red, green, blue]: [f64; 3]) -> f64 {
    0.2989 * red + 0.5870 * green + 0.1140 * blue
}

/// How much light drops of water add: more towards their edges, as their relief is.
fn water(drops: &Plane, most: f64) -> Plane {
    let (height, width) = (drops.height, drops.width);
    let bytes = drops.to_bytes();
    let mean_of_nine = Kernel::new((0..9).map(|place| offset(place, 1.0 / 9.0)));
    let distances = distances(&edges(&bytes, height, width, 50, 150), height, width);
    let near = Plane {
        height,
        width,
        values: distances
            .into_iter()
            .map(|distance| distance.min(20.0))
            .collect(),
    };
    // In numbers of 0 to 255 from here on.
    let smooth = near.filter(&mean_of_nine, Border::Mirror);
    let even = equalized(&smooth.map(|value| (value + 1e-6).floor()));
    let weights = [-2.0, -1.0, 0.0, -1.0, 1.0, 1.0, 0.0, 1.0, 2.0];
    let relief = Kernel::new((0..9).map(|place| offset(place, weights[place])));
    let relief = even
        .filter(&relief, Border::Mirror)
        .map(|value| value.clamp(0.0, 255.0));
    let relief = relief
        .filter(&mean_of_nine, Border::Mirror)
        .map(|value| (value + 1e-6).round());
    let light = relief.zip(drops, |relief, drop| relief * f64::from(byte(drop)));
    let brightest = light.max();
    light.map(|light| match brightest {
        // No drop.
        0.0 => 0.0,
        _ => (light / brightest * most).clamp(0.0, 1.0),
    })
}

/// A place of nine, and its weight.
fn offset(place: usize, weight: f64) -> (f64, f64, f64) {
    ((place / 3) as f64 - 1.0, (place % 3) as f64 - 1.0, weight)
}

/// Whole numbers of 0 to 255 spread so that all are about as frequent.
fn equalized(levels: &Plane) -> Plane {
    let mut counts = [0usize; 256];
    for level in &levels.values {
        counts[*level as usize] += 1;
    }
    let first = counts.iter().position(|count| *count > 0).unwrap_or(0);
    let others = levels.values.len() - counts[first];
    if others == 0 {
        return levels.clone();
    }
    let mut table = [0.0; 256];
    let mut sum = 0;
    for level in first + 1..256 {
        sum += counts[level];
        table[level] = (255.0 * sum as f64 / others as f64).round_ties_even();
    }
    levels.map(|level| table[level as usize])
}

/// How much of each pixel drops of mud cover.
fn mud(drops: &Plane, threshold: f64, blur: f64) -> Plane {
    let inside = drops.map(|value| f64::from(u8::from(value > threshold)));
    gaussian(&inside, blur, 1.0).map(|value| match value {
        value if value < 0.8 => 0.0,
        value => value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_spread_by_hand() {
        let levels = Plane {
            height: 1,
            width: 5,
            values: vec![3.0, 3.0, 7.0, 7.0, 9.0],
        };
        // Three above the first: 2 / 3 and 3 / 3 of 255.
        assert_eq!(equalized(&levels).values, [0.0, 0.0, 170.0, 170.0, 255.0]);
        let flat = levels.map(|_| 4.0);
        assert_eq!(equalized(&flat), flat);
    }

    #[test]
    fn without_drops_there_is_no_water() {
        let dry = Plane::from_fn(6, 7, |_, _| 0.0);
        assert_eq!(water(&dry, 0.6), dry);
    }
}

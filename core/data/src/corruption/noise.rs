//! Noise that is drawn for each value by itself: row by row, column by column, channel by channel.

use super::draws::Draws;
use super::plane::Plane;

/// x + σ·n, n standard normal.
pub(super) fn gaussian(planes: &[Plane], deviation: f64, draws: &mut dyn Draws) -> Vec<Plane> {
    each(planes, |value| value + deviation * draws.normal())
}

/// x + x·σ·n, n standard normal.
pub(super) fn speckle(planes: &[Plane], deviation: f64, draws: &mut dyn Draws) -> Vec<Plane> {
    each(planes, |value| value + value * deviation * draws.normal())
}

/// Poisson(x·c) / c, where c is the expected number of photons at white.
pub(super) fn shot(planes: &[Plane], photons: f64, draws: &mut dyn Draws) -> Vec<Plane> {
    each(planes, |value| draws.poisson(value * photons) / photons)
}

/// Replaces a share of the values by white or black, with the same probability.
pub(super) fn impulse(planes: &[Plane], share: f64, draws: &mut dyn Draws) -> Vec<Plane> {
    // Which values, and only then what they become, as the reference draws them.
    let count = planes.len() * planes[0].values.len();
    let replaced: Vec<bool> = (0..count).map(|_| draws.unit() <= share).collect();
    let mut replaced = replaced.into_iter();
    each(planes, |value| {
        let white = draws.unit() <= 0.5;
        match replaced.next() {
            Some(true) => f64::from(u8::from(white)),
            _ => value,
        }
    })
}

/// Changes each value, channels innermost.
fn each(planes: &[Plane], mut change: impl FnMut(f64) -> f64) -> Vec<Plane> {
    let mut changed = planes.to_vec();
    for place in 0..planes[0].values.len() {
        for plane in &mut changed {
            plane.values[place] = change(plane.values[place]);
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use dtta_base::keyed_rng;

    use super::super::draws::Keyed;
    use super::*;

    const COUNT: usize = 40_000;

    /// Mean and standard deviation over many draws at one value, not cut off.
    fn moments(value: f64, change: impl Fn(&[Plane], &mut dyn Draws) -> Vec<Plane>) -> (f64, f64) {
        let plane = Plane::from_fn(200, COUNT / 200, |_, _| value);
        let output = &change(&[plane], &mut Keyed(keyed_rng("moments", &[])))[0];
        let mean = output.mean();
        let variance = output.map(|value| (value - mean).powi(2)).mean();
        (mean, variance.sqrt())
    }

    /// Five standard errors: σ/√n for a mean, about σ/√(2n) for a deviation of near-normal draws.
    fn assert_moments((mean, deviation): (f64, f64), expected_mean: f64, expected_deviation: f64) {
        let error = 5.0 * expected_deviation / (COUNT as f64).sqrt();
        assert!(
            (mean - expected_mean).abs() < error,
            "mean {mean}, expected {expected_mean} ± {error}"
        );
        assert!(
            (deviation - expected_deviation).abs() < error,
            "deviation {deviation}, expected {expected_deviation}"
        );
    }

    #[test]
    fn moments_are_as_defined() {
        assert_moments(moments(0.5, |x, draws| gaussian(x, 0.1, draws)), 0.5, 0.1);
        assert_moments(moments(0.5, |x, draws| speckle(x, 0.4, draws)), 0.5, 0.2);
        // Poisson(λ)/c has mean λ/c and deviation √λ/c; λ = 0.5 · 60 = 30, and 0.6 · 5 = 3.
        let expected = 30f64.sqrt() / 60.0;
        assert_moments(moments(0.5, |x, draws| shot(x, 60.0, draws)), 0.5, expected);
        let expected = 3f64.sqrt() / 5.0;
        assert_moments(moments(0.6, |x, draws| shot(x, 5.0, draws)), 0.6, expected);
        // Values 0, 1 and 0.5 with probabilities .1, .1, .8: mean 0.5, variance .2 · .25 = .05.
        let expected = 0.05f64.sqrt();
        assert_moments(
            moments(0.5, |x, draws| impulse(x, 0.2, draws)),
            0.5,
            expected,
        );
    }

    #[test]
    fn black_has_no_shot_or_speckle_noise() {
        let black = [Plane::from_fn(3, 3, |_, _| 0.0)];
        let draws = &mut Keyed(keyed_rng("black", &[]));
        assert_eq!(shot(&black, 3.0, draws), black);
        assert_eq!(speckle(&black, 0.9, draws), black);
    }
}

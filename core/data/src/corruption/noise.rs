//! Noise that is drawn for each value by itself.

use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Poisson, StandardNormal};

use super::plane::Plane;
use crate::random::unit;

/// x + σ·n, n standard normal.
pub(super) fn gaussian(plane: &Plane, deviation: f64, rng: &mut ChaCha8Rng) -> Plane {
    plane.map(|value| value + deviation * normal(rng))
}

/// x + x·σ·n, n standard normal.
pub(super) fn speckle(plane: &Plane, deviation: f64, rng: &mut ChaCha8Rng) -> Plane {
    plane.map(|value| value + value * deviation * normal(rng))
}

/// Poisson(x·c) / c, where c is the expected number of photons at white.
pub(super) fn shot(plane: &Plane, photons: f64, rng: &mut ChaCha8Rng) -> Plane {
    // Poisson refuses an expectation of 0, for which the draw is certain to be 0.
    plane.map(|value| {
        Poisson::new(value * photons).map_or(0.0, |poisson| poisson.sample(rng)) / photons
    })
}

/// Black with probability `share / 2`, white with the same, else unchanged.
pub(super) fn impulse(plane: &Plane, share: f64, rng: &mut ChaCha8Rng) -> Plane {
    plane.map(|value| match unit(rng) {
        draw if draw < share / 2.0 => 0.0,
        draw if draw < share => 1.0,
        _ => value,
    })
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    StandardNormal.sample(rng)
}

#[cfg(test)]
mod tests {
    use dtta_base::keyed_rng;

    use super::*;

    const COUNT: usize = 40_000;

    /// Mean and standard deviation over many draws at one value, not cut off.
    fn moments(value: f64, change: impl Fn(&Plane, &mut ChaCha8Rng) -> Plane) -> (f64, f64) {
        let plane = Plane::from_fn(200, COUNT / 200, |_, _| value);
        let output = change(&plane, &mut keyed_rng("moments", &[]));
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
        assert_moments(
            moments(0.5, |plane, rng| gaussian(plane, 0.1, rng)),
            0.5,
            0.1,
        );
        assert_moments(
            moments(0.5, |plane, rng| speckle(plane, 0.4, rng)),
            0.5,
            0.2,
        );
        // Poisson(λ)/c has mean λ/c and deviation √λ/c; λ = 0.5 · 40 = 20, and 0.6 · 5 = 3.
        assert_moments(
            moments(0.5, |plane, rng| shot(plane, 40.0, rng)),
            0.5,
            20f64.sqrt() / 40.0,
        );
        assert_moments(
            moments(0.6, |plane, rng| shot(plane, 5.0, rng)),
            0.6,
            3f64.sqrt() / 5.0,
        );
        // Values 0, 1 and 0.5 with probabilities .1, .1, .8: mean 0.5, variance .2 · .25 = .05.
        assert_moments(
            moments(0.5, |plane, rng| impulse(plane, 0.2, rng)),
            0.5,
            0.05f64.sqrt(),
        );
    }

    #[test]
    fn black_has_no_shot_or_speckle_noise() {
        let black = Plane::from_fn(3, 3, |_, _| 0.0);
        let rng = &mut keyed_rng("black", &[]);
        assert_eq!(shot(&black, 3.0, rng), black);
        assert_eq!(speckle(&black, 0.9, rng), black);
    }
}

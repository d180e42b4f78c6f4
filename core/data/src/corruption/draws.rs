//! The random numbers that corruptions draw. What is drawn and what is done with it are kept apart, so that a corruption can be held to
//! another implementation on the same draws.

use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Poisson, StandardNormal};

use crate::random::{unit, up_to};

/// A source of random numbers. Numbers for an image are drawn row by row, column by column, channel by channel.
pub trait Draws {
    /// A uniform draw from [0, 1).
    fn unit(&mut self) -> f64;

    /// A draw of the standard normal distribution.
    fn normal(&mut self) -> f64;

    /// A draw of the Poisson distribution of this mean, at least 0.
    fn poisson(&mut self, mean: f64) -> f64;

    /// A uniform draw from 0..`count`, which is at least 1.
    fn below(&mut self, count: usize) -> usize;
}

/// Draws of a keyed generator.
pub(super) struct Keyed(pub ChaCha8Rng);

impl Draws for Keyed {
    fn unit(&mut self) -> f64 {
        unit(&mut self.0)
    }

    fn normal(&mut self) -> f64 {
        StandardNormal.sample(&mut self.0)
    }

    fn poisson(&mut self, mean: f64) -> f64 {
        // `rand_distr` refuses a mean of 0, for which the draw is certain to be 0.
        Poisson::new(mean).map_or(0.0, |poisson| poisson.sample(&mut self.0))
    }

    fn below(&mut self, count: usize) -> usize {
        up_to(&mut self.0, count - 1)
    }
}

/// A uniform draw from [low, high).
pub(super) fn between(draws: &mut dyn Draws, low: f64, high: f64) -> f64 {
    low + (high - low) * draws.unit()
}

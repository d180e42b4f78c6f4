//! What changes with the step: the learning rate, and how fast the averaged weights follow.

use std::f64::consts::PI;

use crate::config::LearningRate;

impl LearningRate {
    /// The factor of the learning rate at `step`, from 0, of `steps`.
    pub(crate) fn factor(&self, step: usize, steps: usize) -> f64 {
        let rise = ((step + 1) as f64 / self.warmup.max(1) as f64).min(1.0);
        let fall = 0.5 * (1.0 + (PI * step as f64 / steps as f64).cos());
        rise * (self.final_factor + (1.0 - self.final_factor) * fall)
    }
}

/// The decay of the averaged weights after `step` updates: a young average follows quickly.
pub(crate) fn ema_decay(decay: f64, step: usize) -> f64 {
    decay.min((1 + step) as f64 / (10 + step) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_then_falls_to_its_end() {
        let rate = LearningRate {
            warmup: 10,
            final_factor: 0.1,
        };
        let factors: Vec<f64> = (0..100).map(|step| rate.factor(step, 100)).collect();
        assert!((factors[0] - 0.1).abs() < 1e-12, "{}", factors[0]);
        assert!(factors[..9].is_sorted());
        assert!(factors[9..].is_sorted_by(|a, b| a >= b));
        assert!((factors[99] - 0.1).abs() < 1e-3, "{}", factors[99]);
        let constant = LearningRate {
            warmup: 0,
            final_factor: 1.0,
        };
        assert!((0..5).all(|step| constant.factor(step, 5) == 1.0));
    }

    #[test]
    fn a_young_average_follows_quickly() {
        assert_eq!(ema_decay(0.999, 1), 2.0 / 11.0);
        assert_eq!(ema_decay(0.999, 100_000), 0.999);
    }
}

//! Weights on their way, with the optimizer that moves some of them.

use dtta_models::{ParameterId, Weights};
use dtta_tensor::{Gradients, Tensor};

use crate::error::Result;
use crate::optimizer::{Optimizer, OptimizerConfig};
use crate::state::State;

/// What moves, and how.
#[derive(Debug, Clone)]
pub struct Movement {
    /// How it moves.
    pub optimizer: OptimizerConfig,
    /// What moves.
    pub parameters: Vec<ParameterId>,
}

/// Weights with the optimizer that moves some of them. A copy shares the values until either moves.
#[derive(Clone)]
pub struct Learner {
    weights: Weights,
    optimizer: Optimizer,
    movement: Movement,
    /// What is left of the configured step size.
    slowed: f64,
}

impl Learner {
    /// At these weights, the optimizer at rest.
    pub fn new(weights: &Weights, movement: &Movement) -> Self {
        Self {
            weights: weights.clone(),
            optimizer: Optimizer::new(movement.optimizer, movement.parameters.len()),
            movement: movement.clone(),
            slowed: 1.0,
        }
    }

    /// The same at other weights, the optimizer at rest.
    #[must_use]
    pub fn at(&self, weights: &Weights) -> Self {
        let mut other = Self::new(weights, &self.movement);
        other.slow_to(self.slowed);
        other
    }

    /// Goes to other weights, the optimizer at rest.
    pub fn reset(&mut self, weights: &Weights) {
        *self = self.at(weights);
    }

    /// Where they are.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The same, for those who move them otherwise.
    pub fn weights_mut(&mut self) -> &mut Weights {
        &mut self.weights
    }

    /// Which of them move.
    pub fn parameters(&self) -> &[ParameterId] {
        &self.movement.parameters
    }

    /// Leaves this share of the configured step size, at full pace. No state holds it: whoever slows a learner says so again.
    pub fn slow_to(&mut self, share: f64) {
        self.slowed = share;
        self.set_pace(&[1.0]);
    }

    /// Sets the step size to the mean of these shares of what is left of it.
    pub fn set_pace(&mut self, shares: &[f64]) {
        let sum: f64 = shares.iter().sum();
        let rate = self.movement.optimizer.learning_rate() * self.slowed;
        self.optimizer
            .set_learning_rate(rate * sum / shares.len() as f64);
    }

    /// The weights, with those that move as leaves of a new tape.
    ///
    /// # Errors
    /// Whatever the device refuses.
    pub fn leaves(&self) -> Result<Weights> {
        Ok(self.weights.to_leaves(self.parameters())?)
    }

    /// One update by the gradients at `leaves`; parameters without a gradient stay.
    ///
    /// # Errors
    /// Whatever a tensor operation refuses.
    pub fn follow(&mut self, leaves: &Weights, gradients: Option<&Gradients>) -> Result<()> {
        let gradients: Vec<Option<Tensor>> = self
            .parameters()
            .iter()
            .map(|&id| gradients?.of(leaves.get(id)))
            .collect();
        self.step(gradients)
    }

    /// One update by gradients in the order of the parameters.
    ///
    /// # Errors
    /// Whatever a tensor operation refuses.
    pub fn step(&mut self, gradients: Vec<Option<Tensor>>) -> Result<()> {
        self.optimizer
            .step(&mut self.weights, &self.movement.parameters, gradients)
    }

    /// The first parameter that moves and holds something that is no finite number.
    ///
    /// # Errors
    /// Whatever reading from the device refuses.
    pub fn not_finite(&self) -> Result<Option<&str>> {
        for &id in self.parameters() {
            if !self.weights.get(id).is_finite()? {
                return Ok(Some(&self.weights.spec(id).name));
            }
        }
        Ok(None)
    }

    /// Weights and optimizer.
    pub fn state(&self) -> State {
        let mut state = State::new();
        state.put("weights", State::of_weights(&self.weights));
        state.put("optimizer", self.optimizer.state());
        state
    }

    /// Puts weights and optimizer back.
    ///
    /// # Errors
    /// [`Error::Missing`](crate::Error::Missing) and [`Error::Unknown`](crate::Error::Unknown).
    pub fn restore(&mut self, mut state: State) -> Result<()> {
        state.take("weights").into_weights(&mut self.weights)?;
        self.optimizer.restore(state.take("optimizer"))?;
        state.finish()
    }
}

#[cfg(test)]
mod tests {
    use dtta_models::{Declaration, Group, Init};
    use dtta_tensor::Device;

    use super::*;

    /// Where a parameter at 0 is after one step along a gradient of 1, at a configured step size of 8.
    fn moved(learner: &mut Learner) -> f32 {
        let one = Tensor::from_floats(&[1.0], &[1], &Device::cpu()).unwrap();
        learner.step(vec![Some(one)]).unwrap();
        let id = learner.parameters()[0];
        learner.weights().get(id).to_floats().unwrap()[0]
    }

    #[test]
    fn what_is_slowed_stays_so_at_other_weights() {
        let mut declaration = Declaration::new();
        let id = declaration.declare("x", &[1], Group::Weight, Init::Zeros);
        let weights = Weights::initialise(&declaration.finish(), 0, &Device::cpu()).unwrap();
        let movement = Movement {
            optimizer: OptimizerConfig::Sgd {
                learning_rate: 8.0,
                momentum: 0.0,
                weight_decay: 0.0,
            },
            parameters: vec![id],
        };
        let mut learner = Learner::new(&weights, &movement);
        assert_eq!(moved(&mut learner), -8.0);
        learner.reset(&weights);
        learner.slow_to(0.25);
        assert_eq!(moved(&mut learner), -2.0);
        learner.reset(&weights);
        assert_eq!(moved(&mut learner), -2.0);
        let mut other = learner.at(&weights);
        other.set_pace(&[0.0, 1.0]);
        assert_eq!(moved(&mut other), -1.0);
        other.slow_to(1.0);
        other.reset(&weights);
        assert_eq!(moved(&mut other), -8.0);
    }
}

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
    parameters: Vec<ParameterId>,
    /// Step size at full pace.
    rate: f64,
    /// What is left of it.
    slowed: f64,
}

impl Learner {
    /// At these weights, the optimizer at rest.
    pub fn new(weights: &Weights, movement: &Movement) -> Self {
        Self {
            weights: weights.clone(),
            optimizer: Optimizer::new(movement.optimizer, movement.parameters.len()),
            parameters: movement.parameters.clone(),
            rate: movement.optimizer.learning_rate(),
            slowed: 1.0,
        }
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
        &self.parameters
    }

    /// Leaves this share of the configured step size, for all further steps.
    pub fn slow_to(&mut self, share: f64) {
        self.slowed = share;
        self.set_pace(&[1.0]);
    }

    /// Sets the step size to the mean of these shares of the full one.
    pub fn set_pace(&mut self, shares: &[f64]) {
        let sum: f64 = shares.iter().sum();
        self.optimizer
            .set_learning_rate(self.rate * self.slowed * sum / shares.len() as f64);
    }

    /// The weights, with those that move as leaves of a new tape.
    ///
    /// # Errors
    /// Whatever the device refuses.
    pub fn leaves(&self) -> Result<Weights> {
        Ok(self.weights.to_leaves(&self.parameters)?)
    }

    /// One update by the gradients at `leaves`; parameters without a gradient stay.
    ///
    /// # Errors
    /// Whatever a tensor operation refuses.
    pub fn follow(&mut self, leaves: &Weights, gradients: Option<&Gradients>) -> Result<()> {
        let gradients: Vec<Option<Tensor>> = self
            .parameters
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
            .step(&mut self.weights, &self.parameters, gradients)
    }

    /// The first parameter that moves and holds something that is no finite number.
    ///
    /// # Errors
    /// Whatever reading from the device refuses.
    pub fn not_finite(&self) -> Result<Option<&str>> {
        for &id in &self.parameters {
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

//! Gradient descent on chosen parameters. The formulas and defaults are PyTorch's, so that
//! published settings carry over.

use dtta_models::{ParameterId, Weights};
use dtta_tensor::{AdamStep, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::state::State as Saved;

/// An optimizer and its settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum OptimizerConfig {
    /// Stochastic gradient descent with momentum.
    Sgd {
        /// Step size.
        #[schemars(range(min = 0))]
        learning_rate: f64,
        /// How much of the last step is kept.
        #[serde(default)]
        #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
        momentum: f64,
        /// Added to the gradient: this times the parameter.
        #[serde(default)]
        #[schemars(range(min = 0))]
        weight_decay: f64,
    },
    /// Adam; weight decay is added to the gradient.
    Adam(AdamConfig),
    /// AdamW; weight decay shrinks the parameter itself.
    Adamw(AdamConfig),
}

impl OptimizerConfig {
    /// Step size.
    pub fn learning_rate(&self) -> f64 {
        match self {
            Self::Sgd { learning_rate, .. } => *learning_rate,
            Self::Adam(adam) | Self::Adamw(adam) => adam.learning_rate,
        }
    }
}

/// Settings of Adam and AdamW.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdamConfig {
    /// Step size.
    #[schemars(range(min = 0))]
    pub learning_rate: f64,
    /// Decay of the running means of the gradient and of its square.
    #[serde(default = "default_betas")]
    #[schemars(extend("items" = { "type": "number", "format": "double", "minimum": 0, "exclusiveMaximum": 1 }))]
    pub betas: [f64; 2],
    /// Added to the denominator.
    #[serde(default = "default_epsilon")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub epsilon: f64,
    /// Pull toward zero.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn default_epsilon() -> f64 {
    1e-8
}

/// An optimizer with its state for a list of parameters.
#[derive(Clone)]
pub struct Optimizer {
    config: OptimizerConfig,
    steps: i32,
    state: Vec<State>,
}

#[derive(Clone, Default)]
struct State {
    first: Option<Tensor>,
    second: Option<Tensor>,
}

impl Optimizer {
    /// An optimizer at rest.
    pub fn new(config: OptimizerConfig, parameters: usize) -> Self {
        Self {
            config,
            steps: 0,
            state: vec![State::default(); parameters],
        }
    }

    /// The same settings with another step size, for schedules.
    pub fn set_learning_rate(&mut self, rate: f64) {
        match &mut self.config {
            OptimizerConfig::Sgd { learning_rate, .. } => *learning_rate = rate,
            OptimizerConfig::Adam(adam) | OptimizerConfig::Adamw(adam) => adam.learning_rate = rate,
        }
    }

    /// Moves `parameters` of `weights` against `gradients`, which are in the same order; a missing gradient leaves its
    /// parameter where it is. Each gradient is given up with its parameter, before the running means of the next are made.
    ///
    /// # Errors
    /// Whatever a tensor operation refuses; shapes of gradients are those of their parameters.
    pub fn step(
        &mut self,
        weights: &mut Weights,
        parameters: &[ParameterId],
        gradients: Vec<Option<Tensor>>,
    ) -> Result<()> {
        self.steps += 1;
        for ((&id, gradient), state) in parameters.iter().zip(gradients).zip(&mut self.state) {
            if let Some(gradient) = gradient {
                let moved = state.step(&self.config, self.steps, weights.get(id), &gradient)?;
                weights.set(id, moved)?;
            }
        }
        Ok(())
    }

    /// Steps taken, and the running means of each parameter that ever had a gradient: `INDEX.first` and `INDEX.second`.
    pub fn state(&self) -> Saved {
        let mut saved = Saved::new();
        saved.counts.insert("steps".into(), self.steps.into());
        for (index, state) in self.state.iter().enumerate() {
            for (name, tensor) in [("first", &state.first), ("second", &state.second)] {
                if let Some(tensor) = tensor {
                    saved
                        .tensors
                        .insert(format!("{index}.{name}"), tensor.clone());
                }
            }
        }
        saved
    }

    /// Takes up a saved state. The step size stays what it is.
    ///
    /// # Errors
    /// [`Error::Missing`] or [`Error::Unknown`] for the state of another optimizer.
    pub fn restore(&mut self, mut saved: Saved) -> Result<()> {
        let steps = saved.take_count("steps")?;
        self.steps = i32::try_from(steps).map_err(|_| Error::Unknown {
            name: format!("steps = {steps}"),
        })?;
        for (index, state) in self.state.iter_mut().enumerate() {
            state.first = saved.tensors.remove(&format!("{index}.first"));
            state.second = saved.tensors.remove(&format!("{index}.second"));
        }
        saved.finish()
    }
}

impl State {
    fn step(
        &mut self,
        config: &OptimizerConfig,
        steps: i32,
        parameter: &Tensor,
        gradient: &Tensor,
    ) -> Result<Tensor> {
        let parameter = parameter.detach();
        let decayed = |decay: f64| -> Result<Tensor> {
            if decay == 0.0 {
                Ok(gradient.clone())
            } else {
                Ok(gradient.add(&parameter.affine(decay, 0.0)?)?)
            }
        };
        match *config {
            OptimizerConfig::Sgd {
                learning_rate,
                momentum,
                weight_decay,
            } => {
                let mut step = decayed(weight_decay)?;
                if momentum != 0.0 {
                    if let Some(velocity) = &self.first {
                        step = velocity.affine(momentum, 0.0)?.add(&step)?;
                    }
                    self.first = Some(step.clone());
                }
                Ok(parameter.sub(&step.affine(learning_rate, 0.0)?)?)
            }
            OptimizerConfig::Adam(adam) => {
                let gradient = decayed(adam.weight_decay)?;
                self.adam(&adam, 1.0, steps, &parameter, &gradient)
            }
            OptimizerConfig::Adamw(adam) => {
                let keep = 1.0 - adam.learning_rate * adam.weight_decay;
                self.adam(&adam, keep, steps, &parameter, gradient)
            }
        }
    }

    fn adam(
        &mut self,
        adam: &AdamConfig,
        keep: f64,
        steps: i32,
        parameter: &Tensor,
        gradient: &Tensor,
    ) -> Result<Tensor> {
        let zeros = || Tensor::full(&parameter.shape(), 0.0, parameter.device());
        let mean = |old: Option<Tensor>| old.map_or_else(zeros, Ok);
        let (first, second) = (mean(self.first.take())?, mean(self.second.take())?);
        let [beta1, beta2] = adam.betas;
        let step = AdamStep {
            betas: adam.betas,
            keep,
            rate: adam.learning_rate / (1.0 - beta1.powi(steps)),
            spread: 1.0 / (1.0 - beta2.powi(steps)).sqrt(),
            epsilon: adam.epsilon,
        };
        let (moved, first, second) = parameter.adam(gradient, first, second, step)?;
        self.first = Some(first);
        self.second = Some(second);
        Ok(moved)
    }
}

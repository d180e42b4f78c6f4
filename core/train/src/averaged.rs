//! The weights in training: their average, the optimizers' state, and one update of all of them. Two optimizers, since decay pulls
//! toward zero, which suits matrices but not shifts and scales.

use dtta_learn::{Optimizer, OptimizerConfig, State};
use dtta_models::{Group, ParameterId, Weights};
use dtta_tensor::{Gradients, Tensor};

use crate::config::OptimizationConfig;
use crate::error::Result;
use crate::schedule::ema_decay;

/// How much of a batch's statistics enters the running ones (PyTorch's default momentum of BatchNorm).
const STATISTICS_MOMENTUM: f64 = 0.1;

/// Weights that learn, with their moving average.
pub(crate) struct Averaged {
    pub weights: Weights,
    /// The moving average of the weights: what is measured and saved.
    pub average: Weights,
    pub step: usize,
    movers: Vec<Mover>,
    config: OptimizationConfig,
}

/// Parameters with the optimizer that moves them.
struct Mover {
    ids: Vec<ParameterId>,
    optimizer: Optimizer,
}

impl Averaged {
    pub fn new(weights: Weights, config: OptimizationConfig) -> Self {
        let decays = |axes: usize| axes > 1;
        let settings = [
            (true, config.optimizer),
            (false, without_decay(config.optimizer)),
        ];
        let movers = settings
            .into_iter()
            .map(|(decayed, optimizer)| {
                let ids = weights.select(|spec| {
                    spec.group != Group::Buffer && decays(spec.shape.len()) == decayed
                });
                let optimizer = Optimizer::new(optimizer, ids.len());
                Mover { ids, optimizer }
            })
            .collect();
        Self {
            average: weights.clone(),
            weights,
            movers,
            step: 0,
            config,
        }
    }

    /// The weights as leaves of a new tape.
    pub fn leaves(&self) -> Result<Weights> {
        let ids: Vec<ParameterId> = self.movers.iter().flat_map(|m| m.ids.clone()).collect();
        Ok(self.weights.to_leaves(&ids)?)
    }

    /// The learning rate of the update that follows `step` others.
    pub fn learning_rate(&self, step: usize) -> f64 {
        self.config.optimizer.learning_rate() * self.config.schedule.factor(step, self.config.steps)
    }

    /// One update. Answers the norm of the gradients before clipping, `[1]`, where they are clipped; nothing is read from the
    /// device.
    pub fn update(
        &mut self,
        leaves: &Weights,
        gradients: &Gradients,
        statistics: Vec<(ParameterId, Tensor)>,
    ) -> Result<Option<Tensor>> {
        let rate = self.learning_rate(self.step);
        let mut found: Vec<Vec<Option<Tensor>>> = self
            .movers
            .iter()
            .map(|mover| {
                let of = |&id: &ParameterId| gradients.of(leaves.get(id));
                mover.ids.iter().map(of).collect()
            })
            .collect();
        let norm = match self.config.gradient_clip {
            Some(limit) => clip(&mut found, limit)?,
            None => None,
        };
        for (mover, gradients) in self.movers.iter_mut().zip(found) {
            mover.optimizer.set_learning_rate(rate);
            mover
                .optimizer
                .step(&mut self.weights, &mover.ids, gradients)?;
        }
        for (id, observed) in statistics {
            let running = self.weights.get(id);
            let moved = lerp(running, &observed, STATISTICS_MOMENTUM)?;
            self.weights.set(id, moved)?;
        }
        self.step += 1;
        self.follow()?;
        Ok(norm)
    }

    /// Everything that the next update depends on.
    pub fn state(&self) -> State {
        let mut state = State::new();
        state.put("weights", State::of_weights(&self.weights));
        state.put("average", State::of_weights(&self.average));
        for (n, mover) in self.movers.iter().enumerate() {
            state.put(&format!("optimizer/{n}"), mover.optimizer.state());
        }
        state
    }

    /// Takes up what [`state`](Self::state) answered after `step` updates.
    pub fn restore(&mut self, step: usize, mut state: State) -> Result<()> {
        state.take("weights").into_weights(&mut self.weights)?;
        state.take("average").into_weights(&mut self.average)?;
        for (n, mover) in self.movers.iter_mut().enumerate() {
            let saved = state.take(&format!("optimizer/{n}"));
            mover.optimizer.restore(saved)?;
        }
        state.finish()?;
        self.step = step;
        Ok(())
    }

    /// Moves the average toward the weights.
    fn follow(&mut self) -> Result<()> {
        let decay = ema_decay(self.config.ema, self.step);
        if decay == 0.0 {
            self.average = self.weights.clone();
            return Ok(());
        }
        for id in self.weights.ids() {
            let current = self.weights.get(id);
            // Statistics are averages already.
            let moved = if self.weights.spec(id).group == Group::Buffer {
                current.clone()
            } else {
                lerp(self.average.get(id), current, 1.0 - decay)?
            };
            self.average.set(id, moved)?;
        }
        Ok(())
    }
}

fn lerp(from: &Tensor, to: &Tensor, share: f64) -> Result<Tensor> {
    Ok(from
        .affine(1.0 - share, 0.0)?
        .add(&to.affine(share, 0.0)?)?)
}

/// Scales gradients so that their norm together is at most `limit`; answers the norm they had.
fn clip(gradients: &mut [Vec<Option<Tensor>>], limit: f64) -> Result<Option<Tensor>> {
    let squares = gradients
        .iter()
        .flatten()
        .flatten()
        .map(|gradient| gradient.mul(gradient)?.sum(&[], false))
        .collect::<dtta_tensor::Result<Vec<_>>>()?;
    if squares.is_empty() {
        return Ok(None);
    }
    let norm = Tensor::cat(&squares.iter().collect::<Vec<_>>(), 0)?
        .sum(&[], false)?
        .sqrt()?;
    // min(1, limit / norm), as PyTorch's `clip_grad_norm_`.
    let factor = norm
        .affine(1.0 / limit, 1e-6 / limit)?
        .powf(-1.0)?
        .clamp(None, Some(1.0))?;
    for gradient in gradients.iter_mut().flatten().flatten() {
        let factor = factor.reshape(&vec![1; gradient.shape().rank()])?;
        *gradient = gradient.mul(&factor)?;
    }
    Ok(Some(norm))
}

fn without_decay(mut config: OptimizerConfig) -> OptimizerConfig {
    match &mut config {
        OptimizerConfig::Sgd { weight_decay, .. } => *weight_decay = 0.0,
        OptimizerConfig::Adam(adam) | OptimizerConfig::Adamw(adam) => adam.weight_decay = 0.0,
    }
    config
}

#[cfg(test)]
mod tests {
    use dtta_tensor::Device;

    use super::*;

    fn clipped(values: &[&[f32]], limit: f64) -> (f32, Vec<f32>) {
        let tensor = |values: &&[f32]| {
            Tensor::from_floats(values, &[values.len(), 1], &Device::cpu()).unwrap()
        };
        let mut gradients = vec![values.iter().map(|v| Some(tensor(v))).collect(), vec![None]];
        let norm = clip(&mut gradients, limit).unwrap().unwrap();
        let read = |gradient: &Tensor| gradient.to_floats().unwrap();
        let scaled = gradients.iter().flatten().flatten().flat_map(read);
        (norm.item().unwrap(), scaled.collect())
    }

    #[test]
    fn gradients_are_scaled_together_down_to_the_limit() {
        let (norm, scaled) = clipped(&[&[3.0, 0.0], &[4.0]], 1.0);
        assert_eq!(norm, 5.0);
        for (found, expected) in scaled.iter().zip([0.6, 0.0, 0.8]) {
            assert!((found - expected).abs() < 1e-6, "{scaled:?}");
        }
        assert_eq!(
            clipped(&[&[3.0, 0.0], &[4.0]], 10.0),
            (5.0, vec![3.0, 0.0, 4.0])
        );
    }
}

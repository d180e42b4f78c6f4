//! Leaves samples alone whose prediction is good already, as the denoiser sees it. Not in the paper.

use dtta_learn::{Feedback, Request};
use dtta_models::Weights;
use dtta_tensor::Named;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::methods::{Batch, Toolbox};

/// Which samples are left as they are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// The share of the diffusion loss from which on a sample is not adapted: 1 - L(c) / L(no condition), with c from the source
    /// model's prediction and the draws of the first step. Such a sample keeps the source model's prediction and moves no weights.
    /// Needs a denoiser that was trained with the condition dropped at random.
    #[schemars(range(min = 0, max = 1))]
    pub explained: f64,
    /// Scales the learning rate down linearly with the explained share: full rate where nothing is explained, zero at `explained`.
    /// Images that share weights use the mean of their rates.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub soft: bool,
}

impl Gate {
    /// The share of the learning rate for a sample of whose diffusion loss so much is explained. 0 leaves it as it is.
    pub fn pace(self, explained: f64) -> f64 {
        match (explained < self.explained, self.soft) {
            (false, _) => 0.0,
            (true, false) => 1.0,
            (true, true) => 1.0 - (explained / self.explained).max(0.0),
        }
    }

    /// The share of its diffusion loss that what the source model says of each image explains, 1 - L(c) / L(no condition), with the draws
    /// of the first step. `told` is what the denoiser is told of them, `weights` are its own.
    ///
    /// # Errors
    /// [`Error::Unconditional`], [`Error::NoDenoiser`], whatever the denoiser refuses.
    pub fn explained(
        tools: &Toolbox,
        feedback: &Feedback,
        weights: &Weights,
        batch: &Batch<'_>,
        told: &Named,
    ) -> Result<Vec<f32>> {
        let denoiser = tools.denoiser()?;
        let images = batch.denoiser.as_ref().ok_or(Error::NoDenoiser)?;
        let Some(nothing) = denoiser.unconditional(weights)? else {
            return Err(Error::Unconditional);
        };
        let nothing = nothing.try_map(|slot| {
            let mut shape = slot.shape().to_vec();
            shape[0] = batch.ids.len();
            slot.expand(&shape)
        })?;
        let look = |conditioning| {
            let request = Request {
                ids: &batch.ids,
                images,
                conditioning,
                step: 0,
            };
            feedback.losses(denoiser, weights, &request)
        };
        let losses = look(told)?.into_iter().zip(look(&nothing)?);
        Ok(losses.map(|(told, nothing)| 1.0 - told / nothing).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::Gate;

    #[test]
    fn a_gate_slows_in_a_line_if_it_is_soft_and_lets_nothing_through_at_its_share() {
        let pace = |gate: f64, soft, explained| {
            Gate {
                explained: gate,
                soft,
            }
            .pace(explained)
        };
        for (explained, hard, soft) in [
            (-0.5, 1.0, 1.0),
            (0.0, 1.0, 1.0),
            (0.25, 1.0, 0.75),
            (0.75, 1.0, 0.25),
            (1.0, 0.0, 0.0),
            (f64::NAN, 0.0, 0.0),
        ] {
            assert_eq!(pace(1.0, false, explained), hard, "{explained}");
            assert_eq!(pace(1.0, true, explained), soft, "{explained}");
        }
        // What a prediction makes worse is adapted, even by a gate of 0.
        for soft in [false, true] {
            assert_eq!(pace(0.0, soft, -0.1), 1.0);
            assert_eq!(pace(0.0, soft, 0.0), 0.0);
        }
    }
}

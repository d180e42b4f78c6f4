//! What the feedback of a stream has in common, taken away from each sample's. A corruption that makes every image look like one class to
//! the denoiser pulls all samples there; this takes the pull away. Not in the paper.

use dtta_learn::{Error, State};
use dtta_tensor::Named;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// A running mean of ∂L/∂c over the stream.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Centre {
    /// How much the newest batch counts, in [0, 1]: after `n` steps it is the larger of this and 1 / (n + 1), so 0 is the mean of all steps.
    #[schemars(range(min = 0, max = 1))]
    pub rate: f64,
}

/// The running mean of a stream's ∂L/∂c.
#[derive(Clone, Default)]
pub struct Common {
    /// By slot, `[1, …]`; empty before the first step.
    mean: Named,
    /// Steps that it has followed.
    steps: usize,
}

impl Common {
    /// Follows the feedback of a batch, then takes the common part away from it.
    ///
    /// # Errors
    /// Whatever a tensor operation refuses.
    pub fn centre(&mut self, gradients: &Named, rate: f64) -> Result<Named> {
        let rate = rate.max(1.0 / (1.0 + self.steps as f64));
        self.steps += 1;
        let mut means = Named::new();
        let mut centred = Named::new();
        for (name, gradient) in gradients.iter() {
            let newest = gradient.mean(&[0], true)?;
            let mean = match self.mean.get(name) {
                Some(mean) => mean
                    .affine(1.0 - rate, 0.0)?
                    .add(&newest.affine(rate, 0.0)?)?,
                None => newest,
            };
            centred.push(name, gradient.sub(&mean)?);
            means.push(name, mean);
        }
        self.mean = means;
        Ok(centred)
    }

    /// The mean and how many steps it has followed.
    pub fn state(&self) -> State {
        let mut state = State::new();
        state.counts.insert("steps".into(), self.steps as i64);
        let means = self.mean.iter();
        let means = means.map(|(slot, mean)| (format!("mean/{slot}"), mean.clone()));
        state.tensors.extend(means);
        state
    }

    /// Takes up a state.
    ///
    /// # Errors
    /// [`Error::Missing`] and [`Error::Unknown`].
    pub fn restore(&mut self, mut state: State) -> Result<()> {
        let steps = state.take_count("steps")?;
        let mean: Named = state.take("mean").tensors.into_iter().collect();
        state.finish()?;
        let steps = usize::try_from(steps).map_err(|_| Error::Unknown {
            name: format!("steps = {steps}"),
        })?;
        if mean.is_empty() != (steps == 0) {
            return Err(Error::Missing {
                name: "mean".into(),
            }
            .into());
        }
        (self.mean, self.steps) = (mean, steps);
        Ok(())
    }
}

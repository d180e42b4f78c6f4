//! Feedback as programs ask for it that have no experiment: what can be said of it, and whether what is asked fits the denoiser. Every
//! language's binding reads this description and makes these checks.

use dtta_models::{Denoiser, NoiseSchedule};
use serde::{Deserialize, Serialize};

use crate::draws::{Draws, MAX_DRAWS, NoiseSharing, TimestepsConfig};
use crate::error::{Error, Result};
use crate::feedback::{Feedback, LossKind, Request};

/// What can be said of feedback, as `method` of an experiment has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeedbackConfig {
    /// Draws of (t, ε) for each image and step; 8 if absent.
    pub draws: usize,
    /// Draws in one call of the denoiser at most; 32 if absent.
    pub micro_batch: usize,
    /// Which times.
    pub timesteps: TimestepsConfig,
    /// Fixes the draws, with an image's id and the step; 0 if absent.
    pub seed: u64,
    /// How answers are compared.
    pub loss: LossKind,
    /// Which draws share noise.
    pub noise: NoiseSharing,
}

impl Default for FeedbackConfig {
    fn default() -> Self {
        Self {
            draws: 8,
            micro_batch: 32,
            timesteps: TimestepsConfig::default(),
            seed: 0,
            loss: LossKind::default(),
            noise: NoiseSharing::default(),
        }
    }
}

impl FeedbackConfig {
    /// Feedback through a denoiser with this schedule.
    ///
    /// # Errors
    /// [`Error::Setting`], by name.
    pub fn feedback(&self, schedule: &NoiseSchedule) -> Result<Feedback> {
        let refuse = |name, problem| Error::Setting { name, problem };
        let Self {
            draws, micro_batch, ..
        } = *self;
        if !(1..=MAX_DRAWS).contains(&draws) {
            let problem = format!("is {draws}, expected 1 to {MAX_DRAWS}");
            return Err(refuse("draws", problem));
        }
        if micro_batch == 0 {
            return Err(refuse("micro_batch", "is 0, expected 1 or more".into()));
        }
        let range = schedule.range(self.timesteps.range);
        Ok(Feedback {
            draws: Draws {
                seed: self.seed,
                count: draws,
                sampler: self.timesteps.sampler,
                range: range.map_err(|problem| {
                    let problem = format!("do not fit: {problem}");
                    refuse("timesteps", problem)
                })?,
                noise: self.noise,
            },
            micro_batch,
            loss: self.loss,
            space: None,
        })
    }
}

impl Request<'_> {
    /// That there are images such as the denoiser sees, with an id for each, and a row of the condition for each. Slots are the denoiser's
    /// to check.
    ///
    /// # Errors
    /// [`Error::Images`] or [`Error::Rows`].
    pub fn expect(&self, denoiser: &dyn Denoiser) -> Result<()> {
        let images = self.ids.len();
        let [channels, height, width] = denoiser.image_shape();
        let (found, expected) = (self.images.shape(), [images, channels, height, width]);
        if images == 0 || *found != expected {
            return Err(Error::Images { found, expected });
        }
        for (slot, value) in self.conditioning.iter() {
            let found = value.shape();
            if found.first() != Some(&images) {
                let slot = slot.to_owned();
                return Err(Error::Rows {
                    slot,
                    found,
                    images,
                });
            }
        }
        Ok(())
    }
}

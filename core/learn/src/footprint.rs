//! What a draw takes of the machine, measured by making one.

use std::time::{Duration, Instant};

use dtta_models::{Denoiser, Weights};
use dtta_tensor::{Device, Named, Precision, Tally, Tensor};

use crate::draws::Draws;
use crate::error::Result;
use crate::feedback::{Feedback, Request};

/// For how long a measurement is repeated.
const PATIENCE: Duration = Duration::from_millis(500);

/// What something takes of the machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Footprint {
    /// Multiplications, each with its addition, in matrix products, convolutions and attention of the forward pass. A backward pass with
    /// respect to the condition takes as many once more, one with respect to the weights too twice as many.
    pub multiply_adds: u64,
    /// Bytes of all results of the forward pass, a view counted as a copy: more than what is held until the backward pass is over.
    pub bytes: u64,
    /// Seconds, the shortest of a few tries.
    pub seconds: f64,
}

impl Footprint {
    /// Of whatever `work` does, repeated while it is short. What other threads compute meanwhile is counted, too.
    ///
    /// # Errors
    /// Its own.
    pub fn of<E>(mut work: impl FnMut() -> Result<(), E>) -> Result<Self, E> {
        let (begun, mut best) = (Instant::now(), f64::INFINITY);
        let before = Tally::now();
        let mut counted = None;
        while counted.is_none() || begun.elapsed() < PATIENCE {
            let clock = Instant::now();
            work()?;
            best = best.min(clock.elapsed().as_secs_f64());
            counted = counted.or_else(|| Some(Tally::now() - before));
        }
        let Tally {
            multiply_adds,
            bytes,
        } = counted.unwrap_or_default();
        Ok(Self {
            multiply_adds,
            bytes,
            seconds: best,
        })
    }
}

impl Feedback {
    /// What one draw takes, forward and backward, with an image and conditions of zeros: as many draws as the device works on at once are
    /// made, each in a call of its own, and divided by their number.
    ///
    /// # Errors
    /// Whatever the denoiser refuses.
    pub fn footprint(
        &self,
        denoiser: &dyn Denoiser,
        weights: &Weights,
        device: &Device,
    ) -> Result<Footprint> {
        // Images and conditions are in f32, whatever the weights are.
        let device = &device.with_precision(Precision::F32)?;
        let zeros = |extents: &[usize]| Tensor::full(&[&[1], extents].concat(), 0.0, device);
        let images = zeros(&denoiser.image_shape())?;
        let slots = denoiser.slots().iter();
        let conditioning: Named = slots
            .map(|slot| Ok((slot.name.clone(), zeros(&slot.shape)?)))
            .collect::<Result<_>>()?;
        let together = device.lanes();
        let calls = Self {
            draws: Draws {
                count: together,
                ..self.draws
            },
            micro_batch: 1,
            ..*self
        };
        let request = Request {
            ids: &["footprint"],
            images: &images,
            conditioning: &conditioning,
            step: 0,
        };
        let all = Footprint::of(|| calls.evaluate(denoiser, weights, &[], &request).map(drop))?;
        Ok(Footprint {
            multiply_adds: all.multiply_adds / together as u64,
            bytes: all.bytes / together as u64,
            seconds: all.seconds / together as f64,
        })
    }
}

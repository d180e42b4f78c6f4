//! Feedback: the diffusion loss of images under a conditioning, and its gradient with respect
//! to the slots (equation 2 of the paper).
//!
//! The conditioning is cut from whatever computed it. Each micro-batch of draws adds its
//! ∂L/∂c, so the task model is walked once per step and not once per micro-batch; since c does
//! not depend on the draws, the sum is exact.

use dtta_models::{Conditioning, Denoiser, ParameterId, Weights};
use dtta_tensor::{Device, Tensor};

use crate::draws::Draws;
use crate::error::Result;
use crate::experiment::LossKind;

/// How feedback is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feedback {
    /// Which (t, ε).
    pub draws: Draws,
    /// Draws in one call of the denoiser; at least 1.
    pub micro_batch: usize,
    /// How noise is compared.
    pub loss: LossKind,
}

/// Images that ask for feedback.
pub struct Request<'a> {
    /// Their ids, which key the draws.
    pub ids: &'a [&'a str],
    /// `[B, C, H, W]`, as the denoiser sees them: x0.
    pub images: &'a Tensor,
    /// What each slot holds, `[B, …]`. Only the values are used.
    pub conditioning: &'a Conditioning,
    /// The step, which keys the draws.
    pub step: usize,
}

/// The answer.
pub struct Evaluation {
    /// The loss of each image, averaged over its draws and over elements.
    pub losses: Vec<f32>,
    /// The gradient of the sum of `losses` with respect to each slot, `[B, …]`.
    pub gradients: Conditioning,
    /// The gradient of the sum of `losses` with respect to the denoiser's chosen parameters, in their order.
    pub denoiser_gradients: Vec<Option<Tensor>>,
}

impl Feedback {
    /// Computes losses and gradients. `adapted` names the denoiser's parameters whose gradient is wanted too.
    ///
    /// # Errors
    /// Whatever the denoiser refuses, such as a slot of another shape.
    pub fn evaluate(
        &self,
        denoiser: &dyn Denoiser,
        weights: &Weights,
        adapted: &[ParameterId],
        request: &Request<'_>,
    ) -> Result<Evaluation> {
        let count = self.draws.count;
        let images = request.ids.len();
        let weights = if adapted.is_empty() {
            weights.clone()
        } else {
            weights.to_leaves(adapted)?
        };
        let leaves = each_slot(request.conditioning, |slot| Ok(slot.detach().to_leaf()?))?;
        let timesteps: Vec<usize> = request
            .ids
            .iter()
            .flat_map(|id| self.draws.timesteps(id, request.step))
            .collect();

        let mut losses = vec![0.0f32; images];
        let mut slots: Vec<Option<Tensor>> = vec![None; leaves.iter().count()];
        let mut denoiser_gradients: Vec<Option<Tensor>> = vec![None; adapted.len()];
        let rows: Vec<usize> = (0..images * count).collect();
        for rows in rows.chunks(self.micro_batch) {
            let owners: Vec<i64> = rows.iter().map(|row| (row / count) as i64).collect();
            let owners = Tensor::from_ints(&owners, &[rows.len()], request.images.device())?;
            let x0 = request.images.detach().index_select(0, &owners)?;
            let noise = self.noise(request, rows, &x0)?;
            let timesteps = &timesteps[rows[0]..rows[0] + rows.len()];
            let noisy = denoiser.schedule().add_noise(&x0, &noise, timesteps)?;
            let conditioning = each_slot(&leaves, |slot| Ok(slot.index_select(0, &owners)?))?;
            let predicted = denoiser.predict_noise(&weights, &noisy, timesteps, &conditioning)?;

            let error = predicted.sub(&noise)?;
            let distance = match self.loss {
                LossKind::Mse => error.mul(&error)?,
                LossKind::L1 => error.abs()?,
            };
            let per_draw = distance.mean(&[1, 2, 3], false)?;
            for (row, loss) in rows.iter().zip(per_draw.to_floats()?) {
                losses[row / count] += loss / count as f32;
            }
            let gradients = per_draw
                .sum(&[], false)?
                .affine(1.0 / count as f64, 0.0)?
                .backward()?;
            for (sum, (_, leaf)) in slots.iter_mut().zip(leaves.iter()) {
                accumulate(sum, gradients.of(leaf))?;
            }
            for (sum, &id) in denoiser_gradients.iter_mut().zip(adapted) {
                accumulate(sum, gradients.of(weights.get(id)))?;
            }
        }
        let mut slots = slots.into_iter();
        let gradients = each_slot(&leaves, |leaf| match slots.next().flatten() {
            Some(gradient) => Ok(gradient),
            None => Ok(Tensor::full(&leaf.shape(), 0.0, leaf.device())?),
        })?;
        Ok(Evaluation {
            losses,
            gradients,
            denoiser_gradients,
        })
    }

    fn noise(&self, request: &Request<'_>, rows: &[usize], x0: &Tensor) -> Result<Tensor> {
        let shape = x0.shape();
        let elements: usize = shape[1..].iter().product();
        let mut noise = vec![0.0f32; rows.len() * elements];
        for (row, noise) in rows.iter().zip(noise.chunks_mut(elements)) {
            let (image, draw) = (row / self.draws.count, row % self.draws.count);
            self.draws
                .noise(request.ids[image], request.step, draw, noise);
        }
        let device: &Device = x0.device();
        Ok(Tensor::from_floats(&noise, &shape, device)?)
    }
}

fn each_slot(
    conditioning: &Conditioning,
    mut change: impl FnMut(&Tensor) -> Result<Tensor>,
) -> Result<Conditioning> {
    let slots = conditioning
        .iter()
        .map(|(name, slot)| Ok((name.to_owned(), change(slot)?)));
    Ok(Conditioning::new(slots.collect::<Result<_>>()?))
}

fn accumulate(sum: &mut Option<Tensor>, term: Option<Tensor>) -> Result<()> {
    if let Some(term) = term {
        *sum = Some(match sum.take() {
            Some(sum) => sum.add(&term)?,
            None => term,
        });
    }
    Ok(())
}

//! Feedback on mixtures of answers (DUSA, Li et al., NeurIPS 2024, equation 10): the denoiser is asked under the condition of one class after
//! the other, and Σ_k p_k ε_k is compared with ε. With φ frozen the gradient has a closed form, ∂L/∂p_k = (2/D) ⟨Σ_j p_j ε_j - ε, ε_k⟩ for D
//! elements, so that nothing goes backward through the denoiser.

use dtta_models::{Denoiser, Weights};
use dtta_tensor::{Named, Tensor};

use crate::error::Result;
use crate::feedback::{Feedback, Request};

/// The answer for mixtures.
pub struct MixtureEvaluation {
    /// The loss of each image, averaged over its draws and over elements.
    pub losses: Vec<f32>,
    /// The gradient of the sum of `losses` with respect to each image's shares, one row after the other.
    pub gradients: Vec<f32>,
}

impl Feedback {
    /// The squared error of each image's mixture of answers, and its gradient with respect to the shares. `shares` has a row of K numbers
    /// for each image; the conditioning has K rows for each, image by image. [`LossKind`](crate::LossKind) does not matter.
    ///
    /// # Errors
    /// Whatever the denoiser refuses, such as a slot of another shape.
    pub fn mixtures(
        &self,
        denoiser: &dyn Denoiser,
        weights: &Weights,
        request: &Request<'_>,
        shares: &[f32],
    ) -> Result<MixtureEvaluation> {
        let device = request.images.device();
        self.expect_memory(request)?;
        let conditioning = request
            .conditioning
            .try_map(|slot| slot.detach().to_device(device))?;
        let classes = shares.len() / request.ids.len().max(1);
        let each = device.each(
            shares.chunks(classes.max(1)).enumerate(),
            |(image, shares)| {
                let conditioning =
                    conditioning.try_map(|slot| slot.narrow(0, image * classes, classes))?;
                self.mixture(denoiser, weights, (request, image), &conditioning, shares)
            },
        );
        let mut answer = MixtureEvaluation {
            losses: Vec::with_capacity(request.ids.len()),
            gradients: Vec::with_capacity(shares.len()),
        };
        for found in each {
            let (loss, gradient) = found?;
            answer.losses.push(loss);
            answer.gradients.extend(gradient);
        }
        Ok(answer)
    }

    /// The same of one image.
    fn mixture(
        &self,
        denoiser: &dyn Denoiser,
        weights: &Weights,
        (request, image): (&Request<'_>, usize),
        conditioning: &Named,
        shares: &[f32],
    ) -> Result<(f32, Vec<f32>)> {
        let (count, classes) = (self.draws.count, shares.len());
        let (first, end) = (image * count, (image + 1) * count);
        let draws = (self.micro_batch / classes).max(1);
        let (mut loss, mut gradient) = (0.0, vec![0.0; classes]);
        for start in (first..end).step_by(draws) {
            let rows = start..end.min(start + draws);
            let question = self.question(denoiser, request, &rows)?;
            let answers: Vec<Tensor> = (0..classes)
                .map(|class| {
                    let told = conditioning.try_map(|slot| {
                        let mut shape = slot.shape().to_vec();
                        shape[0] = rows.len();
                        slot.narrow(0, class, 1)?.expand(&shape)
                    })?;
                    question.answer(denoiser, weights, &question.noisy, &told)
                })
                .collect::<Result<_>>()?;
            let mut error = question.target.affine(-1.0, 0.0)?;
            for (answer, &share) in answers.iter().zip(shares) {
                error = error.add(&answer.affine(share.into(), 0.0)?)?;
            }
            // The scale of another space is in both factors of the products.
            let scaled = match &question.scales {
                Some(scales) => error.mul(scales)?.mul(scales)?,
                None => error.clone(),
            };
            let part = |other: &Tensor| -> Result<f32> {
                let products = scaled.mul(other)?.mean(&[1, 2, 3], false)?;
                Ok(products.sum(&[], false)?.item()? / count as f32)
            };
            loss += part(&error)?;
            for (gradient, answer) in gradient.iter_mut().zip(&answers) {
                *gradient += 2.0 * part(answer)?;
            }
        }
        Ok((loss, gradient))
    }
}

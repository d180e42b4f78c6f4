//! Feedback: the diffusion loss of images under a conditioning, and its gradient with respect
//! to the slots (equation 2 of the paper).
//!
//! The conditioning is cut from whatever computed it. Each micro-batch of draws adds its
//! ∂L/∂c, so the task model is walked once per step and not once per micro-batch; since c does
//! not depend on the draws, the sum is exact. Micro-batches have tapes of their own, so the CPU
//! works on several at once.

use std::ops::Range;

use dtta_base::expect_memory;
use dtta_models::{Denoiser, ParameterId, Space, Weights};
use dtta_tensor::{Named, Precision, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::draws::Draws;
use crate::error::{Error, Result};

/// The distance between what the denoiser should answer and what it answers, averaged over elements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    /// Squared error (equation 2 of the paper).
    #[default]
    Mse,
    /// Absolute error.
    L1,
}

/// Bytes of gradients of parameters that several micro-batches at once may hold, each a set of its own.
const HELD: usize = 1 << 28;

/// How feedback is computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Feedback {
    /// Which (t, ε).
    pub draws: Draws,
    /// Draws in one call of the denoiser at most; at least 1.
    pub micro_batch: usize,
    /// How answers are compared.
    pub loss: LossKind,
    /// What they are compared in; what the denoiser predicts if absent.
    pub space: Option<Space>,
}

/// Images that ask for feedback.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Their ids, which key the draws.
    pub ids: &'a [&'a str],
    /// `[B, C, H, W]`, as the denoiser sees them: x0.
    pub images: &'a Tensor,
    /// What each slot holds, `[B, …]`, on any device. Only the values are used.
    pub conditioning: &'a Named,
    /// The step, which keys the draws.
    pub step: usize,
}

/// The answer.
pub struct Evaluation {
    /// The loss of each image, averaged over its draws and over elements.
    pub losses: Vec<f32>,
    /// The gradient of the sum of `losses` with respect to each slot, `[B, …]`.
    pub gradients: Named,
    /// The gradient of the sum of `losses` with respect to the denoiser's chosen parameters, in their order.
    pub denoiser_gradients: Vec<Option<Tensor>>,
}

/// Some draws: what the denoiser is asked, and what it should answer.
pub(crate) struct Question {
    /// The image of each row.
    pub owners: Tensor,
    /// The time of each row.
    pub times: Vec<f64>,
    /// `[R, C, H, W]`.
    pub noisy: Tensor,
    /// What it should answer, likewise.
    pub target: Tensor,
    /// What errors are multiplied by, `[R, 1, 1, 1]`, where they are compared in another space.
    pub scales: Option<Tensor>,
}

impl Question {
    /// The denoiser's answer at these times to noisy images under a conditioning, both with as many rows. Only what it is given and what it
    /// answers is rounded to the precision of its weights.
    pub fn answer(
        &self,
        denoiser: &dyn Denoiser,
        weights: &Weights,
        noisy: &Tensor,
        conditioning: &Named,
    ) -> Result<Tensor> {
        let precision = weights.precision();
        let noisy = noisy.to_precision(precision)?;
        let conditioning = conditioning.try_map(|slot| slot.to_precision(precision))?;
        let predicted = denoiser.predict(weights, &noisy, &self.times, &conditioning)?;
        Ok(predicted.to_precision(Precision::F32)?)
    }
}

/// What one micro-batch adds.
pub(crate) struct Added {
    rows: Range<usize>,
    /// The loss of each row.
    pub losses: Vec<f32>,
    /// The gradient with respect to each slot, and to each of the denoiser's chosen parameters, with what was there before.
    pub slots: Vec<Option<Tensor>>,
    denoiser: Vec<Option<Tensor>>,
}

impl Feedback {
    /// Computes losses and gradients. `adapted` names the denoiser's parameters whose gradient is wanted too.
    ///
    /// # Errors
    /// [`Error::Images`] and [`Error::Rows`]; whatever the denoiser refuses, such as a slot of another shape.
    pub fn evaluate(
        &self,
        denoiser: &dyn Denoiser,
        weights: &Weights,
        adapted: &[ParameterId],
        request: &Request<'_>,
    ) -> Result<Evaluation> {
        self.evaluate_within(HELD, denoiser, weights, adapted, request)
    }

    /// The same, of several micro-batches at once if their gradients of parameters take no more bytes than `held`.
    fn evaluate_within(
        &self,
        held: usize,
        denoiser: &dyn Denoiser,
        weights: &Weights,
        adapted: &[ParameterId],
        request: &Request<'_>,
    ) -> Result<Evaluation> {
        let device = request.images.device();
        request.expect(denoiser)?;
        self.expect_memory(request)?;
        let calls: Vec<Range<usize>> = self.micro_batches(request).collect();
        let elements = adapted.iter().map(|&id| weights.get(id).shape().elements());
        let set = elements.sum::<usize>() * size_of::<f32>();
        let together = match set {
            0 => calls.len().max(1),
            _ if set.saturating_mul(device.lanes()) > held => 1,
            _ => device.lanes(),
        };
        let mut losses = vec![0.0f32; request.ids.len()];
        let mut slots: Vec<Option<Tensor>> = vec![None; request.conditioning.len()];
        let mut denoiser_gradients: Vec<Option<Tensor>> = vec![None; adapted.len()];
        for calls in calls.chunks(together) {
            if let ([rows], 1) = (calls, together) {
                let before = std::mem::take(&mut denoiser_gradients);
                let chosen = (adapted, before);
                let part = self.added(denoiser, weights, chosen, request, rows.clone())?;
                self.share_out(&mut losses, part.rows, part.losses);
                accumulate(&mut slots, part.slots)?;
                denoiser_gradients = part.denoiser;
                continue;
            }
            let parts = device.each(calls.iter().cloned(), |rows| {
                let chosen = (adapted, vec![None; adapted.len()]);
                self.added(denoiser, weights, chosen, request, rows)
            });
            for part in parts {
                let part = part?;
                self.share_out(&mut losses, part.rows, part.losses);
                accumulate(&mut slots, part.slots)?;
                accumulate(&mut denoiser_gradients, part.denoiser)?;
            }
        }
        let mut slots = slots.into_iter();
        // Each gradient goes back to where its slot lives.
        let gradients = request
            .conditioning
            .try_map(|slot| match slots.next().flatten() {
                Some(gradient) => Ok::<_, Error>(gradient.to_device(slot.device())?),
                None => Ok(Tensor::full(&slot.shape(), 0.0, slot.device())?),
            })?;
        Ok(Evaluation {
            losses,
            gradients,
            denoiser_gradients,
        })
    }

    /// The losses alone, as [`evaluate`](Self::evaluate) answers them.
    ///
    /// # Errors
    /// As there.
    pub fn losses(
        &self,
        denoiser: &dyn Denoiser,
        weights: &Weights,
        request: &Request<'_>,
    ) -> Result<Vec<f32>> {
        let device = request.images.device();
        request.expect(denoiser)?;
        self.expect_memory(request)?;
        let conditioning = request
            .conditioning
            .try_map(|slot| slot.detach().to_device(device))?;
        let parts: Vec<Result<_>> = device.each(self.micro_batches(request), |rows| {
            let per_draw = self.distances(denoiser, weights, &conditioning, request, &rows)?;
            Ok((rows, per_draw.to_floats()?))
        });
        let mut losses = vec![0.0f32; request.ids.len()];
        for part in parts {
            let (rows, part) = part?;
            self.share_out(&mut losses, rows, part);
        }
        Ok(losses)
    }

    /// What a call holds at the least: images, noise, their sum, and the noise that is predicted.
    pub(crate) fn expect_memory(&self, request: &Request<'_>) -> Result<()> {
        let images: usize = request.images.shape()[1..].iter().product();
        let draws = request.ids.len().saturating_mul(self.draws.count);
        let rows = draws.min(self.micro_batch);
        let what = format!("a micro-batch of {rows} draws");
        Ok(expect_memory(&what, [rows, images, 4, size_of::<f32>()])?)
    }

    /// As few calls as the micro-batch allows, of one size. Row r is draw r mod N of image r / N, where N is the number of draws for
    /// each.
    fn micro_batches(
        &self,
        request: &Request<'_>,
    ) -> impl ExactSizeIterator<Item = Range<usize>> + use<> {
        let draws = request.ids.len() * self.draws.count;
        let calls = draws.div_ceil(self.micro_batch.max(1)).max(1);
        let size = draws.div_ceil(calls).max(1);
        (0..draws)
            .step_by(size)
            .map(move |start| start..draws.min(start + size))
    }

    /// Adds what some draws cost to the losses of their images.
    fn share_out(&self, losses: &mut [f32], rows: Range<usize>, part: Vec<f32>) {
        for (row, loss) in rows.zip(part) {
            losses[row / self.draws.count] += loss / self.draws.count as f32;
        }
    }

    /// One micro-batch, with a tape of its own. Its gradients of the chosen parameters are added to those before.
    pub(crate) fn added(
        &self,
        denoiser: &dyn Denoiser,
        weights: &Weights,
        (adapted, before): (&[ParameterId], Vec<Option<Tensor>>),
        request: &Request<'_>,
        rows: Range<usize>,
    ) -> Result<Added> {
        let weights = if adapted.is_empty() {
            weights.clone()
        } else {
            weights.to_leaves(adapted)?
        };
        let device = request.images.device();
        let leaves = request
            .conditioning
            .try_map(|slot| slot.detach().to_device(device)?.to_leaf())?;
        let per_draw = self.distances(denoiser, &weights, &leaves, request, &rows)?;
        let losses = per_draw.to_floats()?;
        let scale = loss_scale(&weights, request.images);
        let scaled = |tensor: Tensor, factor: f64| match factor {
            1.0 => Ok(tensor),
            factor => tensor.affine(factor, 0.0),
        };
        let mut loss = per_draw
            .sum(&[], false)?
            .affine(scale / self.draws.count as f64, 0.0)?;
        for (&id, sum) in adapted.iter().zip(before) {
            if let Some(sum) = sum {
                loss = loss.with_gradient(weights.get(id), scaled(sum, scale)?)?;
            }
        }
        let gradients = loss.backward()?;
        let unscaled = |gradient: Option<Tensor>| -> Result<_> {
            let gradient = gradient.map(|gradient| scaled(gradient, 1.0 / scale));
            Ok(gradient.transpose()?)
        };
        Ok(Added {
            rows,
            losses,
            slots: leaves
                .tensors()
                .map(|leaf| unscaled(gradients.of(leaf)))
                .collect::<Result<_>>()?,
            denoiser: adapted
                .iter()
                .map(|&id| unscaled(gradients.of(weights.get(id))))
                .collect::<Result<_>>()?,
        })
    }

    /// How far answers are from what they should be in each row, under the conditioning of each image.
    fn distances(
        &self,
        denoiser: &dyn Denoiser,
        weights: &Weights,
        conditioning: &Named,
        request: &Request<'_>,
        rows: &Range<usize>,
    ) -> Result<Tensor> {
        let question = self.question(denoiser, request, rows)?;
        let conditioning = conditioning.try_map(|slot| slot.index_select(0, &question.owners))?;
        let predicted = question.answer(denoiser, weights, &question.noisy, &conditioning)?;
        let mut error = predicted.sub(&question.target)?;
        if let Some(scales) = &question.scales {
            error = error.mul(scales)?;
        }
        let distance = match self.loss {
            LossKind::Mse => error.mul(&error)?,
            LossKind::L1 => error.abs()?,
        };
        Ok(distance.mean(&[1, 2, 3], false)?)
    }

    /// What the denoiser is asked in some rows, and what it should answer.
    pub(crate) fn question(
        &self,
        denoiser: &dyn Denoiser,
        request: &Request<'_>,
        rows: &Range<usize>,
    ) -> Result<Question> {
        let count = self.draws.count;
        let times: Vec<f64> = (rows.start / count..=(rows.end - 1) / count)
            .flat_map(|image| self.draws.times(request.ids[image], request.step))
            .skip(rows.start % count)
            .take(rows.len())
            .collect();
        let owners: Vec<i64> = rows.clone().map(|row| (row / count) as i64).collect();
        let owners = Tensor::from_ints(&owners, &[rows.len()], request.images.device())?;
        let x0 = request.images.detach().index_select(0, &owners)?;
        let noise = self.noise(request, rows.clone(), &x0)?;
        let schedule = denoiser.schedule();
        let mixed = schedule.mix(&x0, &noise, &times)?;
        let scales = self.space.map(|space| {
            let scales = schedule.error_scales(space, &times)?;
            let scales: Vec<f32> = scales.into_iter().map(|scale| scale as f32).collect();
            let extents = [scales.len(), 1, 1, 1];
            Ok::<_, Error>(Tensor::from_floats(&scales, &extents, x0.device())?)
        });
        Ok(Question {
            owners,
            times,
            noisy: mixed.noisy,
            target: mixed.target,
            scales: scales.transpose()?,
        })
    }

    fn noise(&self, request: &Request<'_>, rows: Range<usize>, x0: &Tensor) -> Result<Tensor> {
        let shape = x0.shape();
        let elements: usize = shape[1..].iter().product();
        let mut noise = vec![0.0f32; rows.len() * elements];
        for (row, noise) in rows.zip(noise.chunks_mut(elements)) {
            let (image, draw) = (row / self.draws.count, row % self.draws.count);
            self.draws
                .noise(request.ids[image], request.step, draw, noise);
        }
        Ok(Tensor::from_floats(&noise, &shape, x0.device())?)
    }
}

/// What the loss is multiplied by on its way back. The error's gradient, 2 / n of it for n elements, is below what `f16` tells from 0; a
/// power of two moves it up and changes no bit of what the other precisions hold.
fn loss_scale(weights: &Weights, images: &Tensor) -> f64 {
    match weights.precision() {
        Precision::F32 | Precision::Bf16 => 1.0,
        Precision::F16 => {
            let elements: usize = images.shape()[1..].iter().product();
            elements.next_power_of_two() as f64
        }
    }
}

fn accumulate(sums: &mut [Option<Tensor>], terms: Vec<Option<Tensor>>) -> Result<()> {
    for (sum, term) in sums.iter_mut().zip(terms) {
        if let Some(term) = term {
            *sum = Some(match sum.take() {
                Some(sum) => sum.add(&term)?,
                None => term,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use dtta_models::{CLASS_EMBEDDING, Dit, TimeRange};
    use dtta_tensor::Device;

    use super::*;
    use crate::draws::{NoiseSharing, TimestepSampler};

    #[test]
    fn gradients_that_are_added_up_as_they_arrive_are_those_of_sets_held_apart() {
        let config = serde_json::json!({
            "image": [1, 8, 8], "patch_size": 2, "hidden_size": 16, "depth": 2, "num_heads": 2, "num_classes": 4
        });
        let dit = Dit::new(serde_json::from_value(config).unwrap()).unwrap();
        let device = Device::cpu();
        let mut weights = Weights::initialise(dit.parameters(), 1, &device).unwrap();
        let wave = |extents: &[usize]| {
            let count = extents.iter().product();
            let values: Vec<f32> = (0..count).map(|n: usize| (n as f32).sin() * 0.3).collect();
            Tensor::from_floats(&values, extents, &device).unwrap()
        };
        for id in weights.ids() {
            let values = wave(&weights.get(id).shape());
            weights.set(id, values).unwrap();
        }
        let adapted: Vec<ParameterId> = weights.ids().collect();
        let feedback = Feedback {
            draws: Draws {
                seed: 5,
                count: 7,
                sampler: TimestepSampler::Uniform,
                range: TimeRange {
                    low: 50.0,
                    high: 900.0,
                    whole: true,
                },
                noise: NoiseSharing::Fresh,
            },
            micro_batch: 4,
            loss: LossKind::Mse,
            space: None,
        };
        let request = Request {
            ids: &["a", "b", "c"],
            images: &wave(&[3, 1, 8, 8]),
            conditioning: &Named::one(CLASS_EMBEDDING, wave(&[3, 16])),
            step: 0,
        };
        let bits = |held| {
            let found = feedback
                .evaluate_within(held, &dit, &weights, &adapted, &request)
                .unwrap();
            let floats = |gradient: &Option<Tensor>| {
                let gradient = gradient.as_ref().map(|gradient| gradient.to_floats());
                gradient.transpose().unwrap()
            };
            let slots: Vec<_> = found.gradients.tensors().cloned().map(Some).collect();
            let all = slots.iter().chain(&found.denoiser_gradients);
            (found.losses, all.map(floats).collect::<Vec<_>>())
        };
        let apart = bits(usize::MAX);
        assert!(apart.1.iter().flatten().count() > 20);
        assert_eq!(bits(0), apart);
    }
}

//! What a method is lent: the task model under any weights, the denoiser, and passes of groups of images that share θ, one backward
//! each. Whatever the groups, the images of a batch go through the denoiser together.

use std::ops::Range;

use dtta_learn::{Evaluation, Feedback, Learner, Request};
use dtta_models::{BatchNormStatistics, Denoiser, ParameterId, Weights};
use dtta_tensor::{Named, Tensor};

use super::Batch;
use crate::error::{Error, Result};
use crate::task::{Predictions, TaskModel, Updates};

/// The models of a run at their source weights, and what can be done with them.
pub struct Toolbox {
    task: TaskModel,
    source: Weights,
    denoiser: Option<(Box<dyn Denoiser>, Weights)>,
}

/// Images that share θ: their places in the batch, and the weights on their way.
pub struct Group {
    /// Rows of the batch.
    pub range: Range<usize>,
    /// Their weights.
    pub learner: Learner,
}

/// The way of a group's images from θ to what the method looks at, on the tape.
pub struct Pass {
    /// θ, with what moves as leaves.
    pub leaves: Weights,
    /// Task outputs.
    pub outputs: Named,
    /// What the denoiser is told; empty unless it was asked for.
    pub conditioning: Named,
    /// The weighted sum of the plugins' objectives, averaged over the group's images.
    pub objective: Option<Tensor>,
    updates: Updates,
}

impl Pass {
    /// One update of the weights by the gradient of a scalar, and of their buffers by what plugins left there.
    ///
    /// # Errors
    /// Whatever a tensor operation refuses.
    pub fn follow(&self, learner: &mut Learner, scalar: &Tensor) -> Result<()> {
        let gradients = scalar.backward()?;
        learner.follow(&self.leaves, Some(&gradients))?;
        self.leave(learner)
    }

    /// The gradient of a scalar for each of the learner's parameters.
    ///
    /// # Errors
    /// Whatever a tensor operation refuses.
    pub fn gradients(&self, learner: &Learner, scalar: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let gradients = scalar.backward()?;
        let parameters = learner.parameters().iter();
        Ok(parameters
            .map(|&id| gradients.of(self.leaves.get(id)))
            .collect())
    }

    /// Puts what plugins left in buffers into the weights.
    ///
    /// # Errors
    /// Whatever the weights refuse.
    pub fn leave(&self, learner: &mut Learner) -> Result<()> {
        for (id, buffer) in &self.updates {
            learner.weights_mut().set(*id, buffer.clone())?;
        }
        Ok(())
    }
}

impl Toolbox {
    /// Of a task model at its source weights, and a denoiser at its own.
    pub fn new(
        task: TaskModel,
        source: Weights,
        denoiser: Option<(Box<dyn Denoiser>, Weights)>,
    ) -> Self {
        Self {
            task,
            source,
            denoiser,
        }
    }

    /// The task model.
    pub fn task(&self) -> &TaskModel {
        &self.task
    }

    /// θ of the source model.
    pub fn source(&self) -> &Weights {
        &self.source
    }

    /// The denoiser.
    ///
    /// # Errors
    /// [`Error::NoDenoiser`].
    pub fn denoiser(&self) -> Result<&dyn Denoiser> {
        match &self.denoiser {
            Some((denoiser, _)) => Ok(&**denoiser),
            None => Err(Error::NoDenoiser),
        }
    }

    /// φ of the denoiser as it was loaded.
    ///
    /// # Errors
    /// [`Error::NoDenoiser`].
    pub fn denoiser_weights(&self) -> Result<&Weights> {
        match &self.denoiser {
            Some((_, weights)) => Ok(weights),
            None => Err(Error::NoDenoiser),
        }
    }

    /// Task outputs of the source model for images `[B, C, H, W]`. `apart`: each image for itself, as under weights of its own; that
    /// is another thing only where layers normalise with the statistics of the batch.
    ///
    /// # Errors
    /// Whatever backbone or head refuse.
    pub fn source_outputs(&mut self, images: &Tensor, apart: bool) -> Result<Named> {
        if !(apart && self.task.rows_depend_on_each_other()) {
            return Ok(self.task.outputs(&self.source, images)?.0);
        }
        let each = (0..images.shape()[0]).map(|row| {
            let image = images.narrow(0, row, 1)?;
            Ok(self.task.outputs(&self.source, &image)?.0)
        });
        below_one_another(&each.collect::<Result<Vec<_>>>()?)
    }

    /// Task outputs of images `[B, C, H, W]` under any weights; on the tape where those are.
    ///
    /// # Errors
    /// Whatever backbone or head refuse.
    pub fn outputs(&mut self, weights: &Weights, images: &Tensor) -> Result<Named> {
        Ok(self.task.outputs(weights, images)?.0)
    }

    /// As [`outputs`](Self::outputs), with this share of the batch's statistics mixed into the running ones of BatchNorm layers, which
    /// the weights keep.
    ///
    /// # Errors
    /// Whatever backbone or head refuse.
    pub fn outputs_mixing(
        &mut self,
        weights: &Weights,
        images: &Tensor,
        share: f64,
    ) -> Result<(Named, Updates)> {
        self.task.outputs_mixing(weights, images, share)
    }

    /// The way of all these images from θ to outputs, on the tape.
    ///
    /// # Errors
    /// Whatever backbone or head refuse.
    pub fn pass(&mut self, learner: &Learner, images: &Tensor) -> Result<Pass> {
        let leaves = learner.leaves()?;
        let (outputs, updates) = self.task.outputs(&leaves, images)?;
        Ok(Pass {
            leaves,
            outputs,
            conditioning: Named::new(),
            objective: None,
            updates,
        })
    }

    /// What task outputs ask the denoiser for, under the source weights.
    ///
    /// # Errors
    /// Whatever the mapper refuses.
    pub fn source_condition(&mut self, outputs: &Named) -> Result<Named> {
        Ok(self.task.condition(&self.source, outputs)?.0)
    }

    /// The head's predictions from task outputs of so many images.
    ///
    /// # Errors
    /// Whatever the head refuses; [`Error::NotFinite`].
    pub fn predict(&mut self, outputs: &Named, images: usize) -> Result<Predictions> {
        self.task.predict(outputs, images)
    }

    /// The way of each group's images from θ to outputs and objectives, and to the conditioning where `condition` asks.
    ///
    /// # Errors
    /// Whatever a model or plugin refuses.
    pub fn passes(
        &mut self,
        groups: &[Group],
        images: &Tensor,
        condition: bool,
    ) -> Result<Vec<Pass>> {
        let leaves = groups
            .iter()
            .map(|group| Ok(group.learner.leaves()?))
            .collect::<Result<Vec<_>>>()?;
        let features = self.features(groups, leaves.iter(), images)?;
        let mut passes = Vec::with_capacity(groups.len());
        for ((group, leaves), features) in groups.iter().zip(leaves).zip(features) {
            let (outputs, mut updates) = self.task.finish(&leaves, &features)?;
            let mut conditioning = Named::new();
            if condition {
                let (slots, more) = self.task.condition(&leaves, &outputs)?;
                conditioning = slots;
                updates.extend(more);
            }
            passes.push(Pass {
                objective: self.task.objective(&outputs, group.range.len())?,
                leaves,
                outputs,
                conditioning,
                updates,
            });
        }
        Ok(passes)
    }

    /// The denoiser's answer to a whole batch, under φ, with the gradient of its parameters `moving` too.
    ///
    /// # Errors
    /// [`Error::NoDenoiser`], whatever the denoiser refuses, or [`Error::NotFinite`] for a loss that is not a number.
    pub fn feedback(
        &self,
        feedback: &Feedback,
        (weights, moving): (&Weights, &[ParameterId]),
        batch: &Batch<'_>,
        passes: &[Pass],
        step: usize,
    ) -> Result<Evaluation> {
        let parts: Vec<Named> = passes
            .iter()
            .map(|pass| {
                pass.conditioning
                    .try_map(|slot| Ok::<_, Error>(slot.detach()))
            })
            .collect::<Result<_>>()?;
        let conditioning = below_one_another(&parts)?;
        let request = Request {
            ids: &batch.ids,
            images: batch.denoiser.as_ref().ok_or(Error::NoDenoiser)?,
            conditioning: &conditioning,
            step,
        };
        let answer = feedback.evaluate(self.denoiser()?, weights, moving, &request)?;
        if let Some(place) = answer.losses.iter().position(|loss| !loss.is_finite()) {
            return Err(Error::NotFinite {
                what: format!("the diffusion loss of `{}`", batch.ids[place]),
            });
        }
        Ok(answer)
    }

    /// One update of each group's weights by the gradient of its scalar, and of its buffers by what plugins left there. A group whose
    /// scalar depends on nothing takes a step without gradient.
    ///
    /// # Errors
    /// Whatever a tensor operation refuses.
    pub fn descend(
        &self,
        groups: &mut [Group],
        passes: &[Pass],
        scalar: impl Fn(&Group, &Pass) -> Result<Option<Tensor>> + Sync,
    ) -> Result<()> {
        let device = self.task.device(&self.source);
        let moved = device.each(
            groups.iter_mut().zip(passes),
            |(group, pass)| -> Result<()> {
                let scalar = scalar(group, pass)?;
                let gradients = scalar.map(|scalar| scalar.backward()).transpose()?;
                group.learner.follow(&pass.leaves, gradients.as_ref())?;
                pass.leave(&mut group.learner)
            },
        );
        moved.into_iter().collect()
    }

    /// Predictions for a batch, each group under its weights, which are numbers.
    ///
    /// # Errors
    /// Whatever a model or plugin refuses; [`Error::NotFinite`] for a weight or a prediction that is not a number.
    pub fn predict_groups(&mut self, groups: &[Group], images: &Tensor) -> Result<Predictions> {
        for group in groups {
            if let Some(name) = group.learner.not_finite()? {
                return Err(Error::NotFinite {
                    what: format!("the parameter `{name}` after the last step"),
                });
            }
        }
        let weights = groups.iter().map(|group| group.learner.weights());
        let features = self.features(groups, weights, images)?;
        let mut named: Vec<Named> = Vec::with_capacity(groups.len());
        let mut each = Vec::new();
        for (group, features) in groups.iter().zip(&features) {
            let (outputs, _) = self.task.finish(group.learner.weights(), features)?;
            let predictions = self.task.predict(&outputs, group.range.len())?;
            named.push(predictions.named);
            each.extend(predictions.each);
        }
        Ok(Predictions {
            named: below_one_another(&named)?,
            each,
        })
    }

    /// What the backbone answers to each group's images under its weights.
    fn features<'a>(
        &self,
        groups: &[Group],
        weights: impl Iterator<Item = &'a Weights>,
        images: &Tensor,
    ) -> Result<Vec<Named>> {
        let inputs = groups
            .iter()
            .zip(weights)
            .map(|(group, weights)| Ok((weights, rows(images, &group.range)?)))
            .collect::<Result<Vec<_>>>()?;
        self.task.features(&inputs)
    }

    /// What BatchNorm layers normalise with.
    pub fn statistics(&self) -> BatchNormStatistics {
        self.task.statistics()
    }
}

/// Some rows of a tensor.
///
/// # Errors
/// Whatever the tensor refuses.
pub(crate) fn rows(tensor: &Tensor, range: &Range<usize>) -> Result<Tensor> {
    Ok(tensor.narrow(0, range.start, range.len())?)
}

/// Named tensors of several groups, one below the other, in the order of the first one's names.
///
/// # Errors
/// Whatever the tensor refuses.
pub(crate) fn below_one_another(parts: &[Named]) -> Result<Named> {
    if let [only] = parts {
        return Ok(only.clone());
    }
    let Some(first) = parts.first() else {
        return Ok(Named::new());
    };
    let all = first.names().map(|name| {
        let each: Vec<&Tensor> = parts.iter().filter_map(|part| part.get(name)).collect();
        Ok((name.to_owned(), Tensor::cat(&each, 0)?))
    });
    all.collect()
}

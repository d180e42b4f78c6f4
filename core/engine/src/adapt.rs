//! Adaptation: steps of feedback and update on a batch of images (algorithm 1 of the paper).
//!
//! A batch falls into groups that share θ: one group in online mode, one for each image in
//! single-sample mode and with slow weights. Whatever the groups, the draws of the whole batch
//! go through the denoiser together.

use std::ops::Range;

use dtta_models::{Conditioning, Denoiser, ParameterId, Weights};
use dtta_plugin::Named;
use dtta_tensor::Tensor;

use crate::error::{Error, Result};
use crate::experiment::Gate;
use crate::feedback::{Evaluation, Feedback, Request};
use crate::optimizer::{Optimizer, OptimizerConfig};
use crate::task::{Prediction, TaskModel};

/// What moves, and how.
#[derive(Debug, Clone)]
pub struct Movement {
    /// How it moves.
    pub optimizer: OptimizerConfig,
    /// What moves.
    pub parameters: Vec<ParameterId>,
}

/// What a batch leaves to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Carry {
    /// Nothing: every image has weights of its own, which start at the source's.
    Nothing,
    /// The weights and the optimizer that all its images moved together.
    All,
    /// Slow weights (Zhang et al. 2019; Nichol et al. 2018): every image has weights of its own, which start at the slow ones with the
    /// optimizer at rest; the slow ones then go this share of the way to their mean.
    SlowWeights(f64),
}

/// Settings of an [`Adapter`].
#[derive(Debug, Clone)]
pub struct Settings {
    /// What a batch leaves to the next.
    pub carry: Carry,
    /// Updates for each batch.
    pub steps: usize,
    /// How feedback is computed.
    pub feedback: Feedback,
    /// The task model's parameters.
    pub task: Movement,
    /// The denoiser's parameters, unless it is frozen.
    pub denoiser: Option<Movement>,
    /// The rate at which a running mean of ∂L/∂c follows the stream, where it is subtracted.
    pub centre: Option<f64>,
    /// Which images are left as they are or adapted more slowly, where any is.
    pub gate: Option<Gate>,
}

/// Images to adapt to.
pub struct Batch<'a> {
    /// Their ids, which key the draws.
    pub ids: Vec<&'a str>,
    /// `[B, C, H, W]`, as the task model sees them.
    pub task: Tensor,
    /// `[B, C, H, W]`, as the denoiser sees them.
    pub denoiser: Tensor,
}

/// What adaptation to a batch gave.
pub struct Adapted {
    /// Predictions of the source model, as named tensors and one by one.
    pub source: (Named, Vec<Prediction>),
    /// Predictions after the last step.
    pub adapted: (Named, Vec<Prediction>),
    /// The loss of each image in each step; empty for one that was left as it is.
    pub losses: Vec<Vec<f32>>,
    /// The share of each image's diffusion loss that the source model's prediction explains, where a gate asks.
    pub explained: Option<Vec<f32>>,
}

impl<'a> Batch<'a> {
    /// Some of its images, in the order of `places`.
    fn select(&self, places: &[usize]) -> Result<Batch<'a>> {
        let rows: Vec<i64> = places.iter().map(|&place| place as i64).collect();
        let rows = Tensor::from_ints(&rows, &[rows.len()], self.task.device())?;
        Ok(Batch {
            ids: places.iter().map(|&place| self.ids[place]).collect(),
            task: self.task.index_select(0, &rows)?,
            denoiser: self.denoiser.index_select(0, &rows)?,
        })
    }
}

/// A task model that learns from a denoiser, one batch after the other.
pub struct Adapter {
    pub(crate) settings: Settings,
    task: TaskModel,
    pub(crate) denoiser: Box<dyn Denoiser>,
    source: Weights,
    pub(crate) frozen: Weights,
    carried: Learner,
    denoiser_learner: Option<Learner>,
    common: Common,
}

/// What the feedback of a stream has in common: a running mean of ∂L/∂c.
#[derive(Clone, Default)]
pub struct Common {
    /// The mean by slot, `[1, …]`; empty before the first step.
    pub mean: Conditioning,
    /// Steps that it has followed.
    pub steps: usize,
}

impl Common {
    /// Follows the feedback of a batch, then takes the common part away from it.
    fn centre(&mut self, gradients: &Conditioning, rate: f64) -> Result<Conditioning> {
        let rate = rate.max(1.0 / (1.0 + self.steps as f64));
        self.steps += 1;
        let mut means = Vec::new();
        let mut centred = Vec::new();
        for (name, gradient) in gradients.iter() {
            let newest = gradient.mean(&[0], true)?;
            let mean = match self.mean.get(name) {
                Some(mean) => mean
                    .affine(1.0 - rate, 0.0)?
                    .add(&newest.affine(rate, 0.0)?)?,
                None => newest,
            };
            centred.push((name.to_owned(), gradient.sub(&mean)?));
            means.push((name.to_owned(), mean));
        }
        self.mean = Conditioning::new(means);
        Ok(Conditioning::new(centred))
    }
}

/// Weights on their way, with the optimizer that moves them.
#[derive(Clone)]
pub struct Learner {
    /// Where they are.
    pub weights: Weights,
    /// What moves them.
    pub optimizer: Optimizer,
}

impl Learner {
    fn new(weights: &Weights, movement: &Movement) -> Self {
        Self {
            weights: weights.clone(),
            optimizer: Optimizer::new(movement.optimizer, movement.parameters.len()),
        }
    }

    /// One update of the parameters by what feedback and objectives say of a group's images.
    fn follow(
        &mut self,
        pass: &Pass,
        parameters: &[ParameterId],
        feedback: Option<&Conditioning>,
        range: &Range<usize>,
    ) -> Result<()> {
        let gradients = pull_back(pass, feedback, range)?;
        let gradients: Vec<_> = parameters
            .iter()
            .map(|&id| gradients.as_ref()?.of(pass.leaves.get(id)))
            .collect();
        self.optimizer
            .step(&mut self.weights, parameters, &gradients)?;
        for (id, buffer) in &pass.updates {
            self.weights.set(*id, buffer.clone())?;
        }
        Ok(())
    }
}

impl Adapter {
    /// An adapter at the source weights.
    pub fn new(
        settings: Settings,
        task: TaskModel,
        source: Weights,
        denoiser: Box<dyn Denoiser>,
        frozen: Weights,
    ) -> Self {
        let carried = Learner::new(&source, &settings.task);
        let denoiser_learner = settings
            .denoiser
            .as_ref()
            .map(|movement| Learner::new(&frozen, movement));
        Self {
            settings,
            task,
            denoiser,
            source,
            frozen,
            carried,
            denoiser_learner,
            common: Common::default(),
        }
    }

    /// Back to the source weights, optimizers at rest.
    pub fn reset(&mut self) {
        self.carried = Learner::new(&self.source, &self.settings.task);
        self.denoiser_learner = self
            .settings
            .denoiser
            .as_ref()
            .map(|movement| Learner::new(&self.frozen, movement));
        self.common = Common::default();
    }

    /// What is carried from batch to batch: the task model's learner, the denoiser's if it adapts, and what feedback has in
    /// common.
    pub fn carried(&mut self) -> (&mut Learner, Option<&mut Learner>, &mut Common) {
        (
            &mut self.carried,
            self.denoiser_learner.as_mut(),
            &mut self.common,
        )
    }

    /// What the source model says of images `[B, C, H, W]`.
    ///
    /// # Errors
    /// Whatever backbone or head refuse.
    pub fn predict_source(&mut self, images: &Tensor) -> Result<(Named, Vec<Prediction>)> {
        let outputs = self.source_outputs(images)?;
        self.task.predict(&outputs, images.shape()[0])
    }

    /// The source model's task outputs for images `[B, C, H, W]`.
    pub(crate) fn source_outputs(&mut self, images: &Tensor) -> Result<Named> {
        self.task.outputs(&self.source, images)
    }

    /// The conditioning that task outputs ask for, under the source weights.
    pub(crate) fn source_condition(&mut self, outputs: &Named) -> Result<Conditioning> {
        self.task.condition(&self.source, outputs)
    }

    /// Number of classes, or 1 for a map of numbers.
    pub(crate) fn classes(&self) -> usize {
        self.task.backbone().outputs()
    }

    /// Adapts to a batch and predicts, before and after.
    ///
    /// # Errors
    /// Whatever a plugin, a model or a tensor operation refuses. The weights are then those of the last finished step.
    pub fn adapt(&mut self, batch: &Batch<'_>) -> Result<Adapted> {
        let images = batch.ids.len();
        let source = self.predict_source(&batch.task)?;
        if self.settings.steps == 0 {
            return Ok(Adapted {
                adapted: source.clone(),
                source,
                losses: vec![Vec::new(); images],
                explained: None,
            });
        }
        let carry = self.settings.carry;
        if carry == Carry::Nothing {
            self.reset();
        }
        let explained = self.explained(batch)?;
        let pace: Vec<f64> = match (self.settings.gate, &explained) {
            (Some(gate), Some(shares)) => shares.iter().map(|&e| gate.pace(e.into())).collect(),
            _ => vec![1.0; images],
        };
        let open: Vec<usize> = (0..images).filter(|&n| pace[n] > 0.0).collect();
        let mut losses = vec![Vec::new(); images];
        if open.is_empty() {
            return Ok(Adapted {
                adapted: source.clone(),
                source,
                losses,
                explained,
            });
        }
        let chosen = batch.select(&open)?;
        let rate = self.settings.task.optimizer.learning_rate();
        let group = |range: Range<usize>| {
            let mut learner = self.carried.clone();
            let pace: f64 = open[range.clone()].iter().map(|&place| pace[place]).sum();
            let rate = rate * pace / range.len() as f64;
            learner.optimizer.set_learning_rate(rate);
            (range, learner)
        };
        let mut groups: Vec<(Range<usize>, Learner)> = match carry {
            Carry::All => vec![group(0..open.len())],
            Carry::Nothing | Carry::SlowWeights(_) => {
                (0..open.len()).map(|n| group(n..n + 1)).collect()
            }
        };
        for (&place, of_image) in open.iter().zip(self.learn(&chosen, &mut groups)?) {
            losses[place] = of_image;
        }
        let adapted = self.predict(&chosen, &groups)?;
        match carry {
            Carry::Nothing => {}
            Carry::All => self.carried = groups.remove(0).1,
            Carry::SlowWeights(rate) => {
                let ends: Vec<&Weights> = groups.iter().map(|(_, end)| &end.weights).collect();
                approach(&mut self.carried.weights, &ends, rate)?;
            }
        }
        Ok(Adapted {
            adapted: replaced(&source, adapted, &open)?,
            source,
            losses,
            explained,
        })
    }

    /// Where a gate asks: the share of its diffusion loss that what the source model says of each image explains,
    /// 1 - L(c) / L(no condition), with the draws of the first step.
    fn explained(&mut self, batch: &Batch<'_>) -> Result<Option<Vec<f32>>> {
        let images = batch.ids.len();
        if self.settings.gate.is_none() {
            return Ok(None);
        }
        let outputs = self.source_outputs(&batch.task)?;
        let told = self.source_condition(&outputs)?;
        // What plugins would change in their buffers belongs to a step, and this is none.
        self.task.take_updates();
        let denoising = match &self.denoiser_learner {
            Some(learner) => &learner.weights,
            None => &self.frozen,
        };
        let Some(nothing) = self.denoiser.unconditional(denoising)? else {
            return Err(Error::Unconditional);
        };
        let everywhere = nothing.iter().map(|(name, slot)| {
            let mut shape = slot.shape().to_vec();
            shape[0] = images;
            Ok((name.to_owned(), slot.expand(&shape)?))
        });
        let nothing = Conditioning::new(everywhere.collect::<Result<_>>()?);
        let look = |conditioning| {
            let request = Request {
                ids: &batch.ids,
                images: &batch.denoiser,
                conditioning,
                step: 0,
            };
            let feedback = &self.settings.feedback;
            feedback.losses(&*self.denoiser, denoising, &request)
        };
        let losses = look(&told)?.into_iter().zip(look(&nothing)?);
        let explained = losses.map(|(told, nothing)| 1.0 - told / nothing);
        Ok(Some(explained.collect()))
    }

    /// Moves each group's weights by the settings' number of steps; gives the losses of each image.
    fn learn(
        &mut self,
        batch: &Batch<'_>,
        groups: &mut [(Range<usize>, Learner)],
    ) -> Result<Vec<Vec<f32>>> {
        let mut losses = vec![Vec::with_capacity(self.settings.steps); batch.ids.len()];
        let parameters = self.settings.task.parameters.clone();
        for step in 0..self.settings.steps {
            let passes = self.passes(groups, &parameters, &batch.task)?;
            let answer = if self.settings.feedback.draws.count == 0 {
                None
            } else {
                Some(self.feedback(batch, &passes, step)?)
            };
            for (image, losses) in losses.iter_mut().enumerate() {
                losses.extend(answer.as_ref().map(|answer| answer.losses[image]));
            }
            let feedback = match (&answer, self.settings.centre) {
                (Some(answer), Some(rate)) => Some(self.common.centre(&answer.gradients, rate)?),
                (Some(answer), None) => Some(answer.gradients.clone()),
                (None, _) => None,
            };
            let moved = batch.task.device().each(
                groups.iter_mut().zip(&passes),
                |((range, learner), pass)| {
                    learner.follow(pass, &parameters, feedback.as_ref(), range)
                },
            );
            moved.into_iter().collect::<Result<()>>()?;
            if let (Some(answer), Some(learner), Some(movement)) =
                (&answer, &mut self.denoiser_learner, &self.settings.denoiser)
            {
                let mean = 1.0 / batch.ids.len() as f64;
                let gradients = answer
                    .denoiser_gradients
                    .iter()
                    .map(|gradient| {
                        gradient
                            .as_ref()
                            .map(|sum| sum.affine(mean, 0.0))
                            .transpose()
                    })
                    .collect::<Result<Vec<_>, _>>()?;
                learner
                    .optimizer
                    .step(&mut learner.weights, &movement.parameters, &gradients)?;
            }
        }
        Ok(losses)
    }

    /// The way of each group's images from θ to conditioning and objectives, on the tape.
    fn passes(
        &mut self,
        groups: &[(Range<usize>, Learner)],
        parameters: &[ParameterId],
        images: &Tensor,
    ) -> Result<Vec<Pass>> {
        let leaves = groups
            .iter()
            .map(|(_, learner)| Ok(learner.weights.to_leaves(parameters)?))
            .collect::<Result<Vec<_>>>()?;
        let features = self.features(groups, leaves.iter(), images)?;
        let mut passes = Vec::with_capacity(groups.len());
        for (((range, _), leaves), features) in groups.iter().zip(leaves).zip(features) {
            let outputs = self.task.finish(&leaves, &features)?;
            let conditioning = match self.settings.feedback.draws.count {
                0 => Conditioning::default(),
                _ => self.task.condition(&leaves, &outputs)?,
            };
            passes.push(Pass {
                objective: self.task.objective(&outputs, range.len())?,
                updates: self.task.take_updates(),
                conditioning,
                leaves,
            });
        }
        Ok(passes)
    }

    /// What the backbone answers to each group's images under its weights.
    fn features<'a>(
        &self,
        groups: &[(Range<usize>, Learner)],
        weights: impl Iterator<Item = &'a Weights>,
        images: &Tensor,
    ) -> Result<Vec<Named>> {
        let inputs = groups
            .iter()
            .zip(weights)
            .map(|((range, _), weights)| Ok((weights, rows(images, range)?)))
            .collect::<Result<Vec<_>>>()?;
        self.task.features(&inputs)
    }

    /// The denoiser's answer to a whole batch.
    fn feedback(&self, batch: &Batch<'_>, passes: &[Pass], step: usize) -> Result<Evaluation> {
        let conditioning = joined(passes.iter().map(|pass| &pass.conditioning))?;
        let request = Request {
            ids: &batch.ids,
            images: &batch.denoiser,
            conditioning: &conditioning,
            step,
        };
        let (weights, moving) = match (&self.denoiser_learner, &self.settings.denoiser) {
            (Some(learner), Some(movement)) => (&learner.weights, movement.parameters.as_slice()),
            _ => (&self.frozen, [].as_slice()),
        };
        self.settings
            .feedback
            .evaluate(&*self.denoiser, weights, moving, &request)
    }

    fn predict(
        &mut self,
        batch: &Batch<'_>,
        groups: &[(Range<usize>, Learner)],
    ) -> Result<(Named, Vec<Prediction>)> {
        let mut named: Vec<Named> = Vec::with_capacity(groups.len());
        let mut list = Vec::with_capacity(batch.ids.len());
        let weights = groups.iter().map(|(_, learner)| &learner.weights);
        let features = self.features(groups, weights, &batch.task)?;
        for ((range, learner), features) in groups.iter().zip(&features) {
            let outputs = self.task.finish(&learner.weights, features)?;
            let (tensors, predictions) = self.task.predict(&outputs, range.len())?;
            named.push(tensors);
            list.extend(predictions);
        }
        let mut together = Named::new();
        for (name, _) in &named[0] {
            let parts: Vec<&Tensor> = named
                .iter()
                .filter_map(|tensors| tensors.iter().find(|(n, _)| n == name))
                .map(|(_, t)| t)
                .collect();
            together.push((name.clone(), Tensor::cat(&parts, 0)?));
        }
        Ok((together, list))
    }
}

/// Takes weights a share of the way to the mean of others, buffers too. What none of them moved stays bit for bit.
fn approach(weights: &mut Weights, others: &[&Weights], rate: f64) -> Result<()> {
    let each = rate / others.len() as f64;
    for id in weights.ids().collect::<Vec<_>>() {
        let start = weights.get(id).clone();
        let mut moved = start.clone();
        for other in others {
            moved = moved.add(&other.get(id).sub(&start)?.affine(each, 0.0)?)?;
        }
        weights.set(id, moved)?;
    }
    Ok(())
}

/// Predictions for a whole batch, with those for the images at `places` replaced.
fn replaced(
    (all, list): &(Named, Vec<Prediction>),
    (some, of_places): (Named, Vec<Prediction>),
    places: &[usize],
) -> Result<(Named, Vec<Prediction>)> {
    let mut list = list.clone();
    let mut rows: Vec<i64> = (0..list.len() as i64).collect();
    for (n, (&place, prediction)) in places.iter().zip(of_places).enumerate() {
        rows[place] = (list.len() + n) as i64;
        list[place] = prediction;
    }
    let named = all.iter().zip(&some).map(|((name, all), (_, some))| {
        let rows = Tensor::from_ints(&rows, &[rows.len()], all.device())?;
        let both = Tensor::cat(&[all, some], 0)?;
        Ok((name.clone(), both.index_select(0, &rows)?))
    });
    Ok((named.collect::<Result<_>>()?, list))
}

/// What a group's images came to in a step.
struct Pass {
    leaves: Weights,
    conditioning: Conditioning,
    objective: Option<Tensor>,
    updates: Vec<(ParameterId, Tensor)>,
}

/// One backward pass through mapper and task model: ∂L/∂θ from ∂L/∂c, and from the objectives. The loss of a group is
/// the mean over its images.
fn pull_back(
    pass: &Pass,
    feedback: Option<&Conditioning>,
    range: &Range<usize>,
) -> Result<Option<dtta_tensor::Gradients>> {
    let mut surrogate = pass.objective.clone().filter(Tensor::is_tracked);
    let slots = feedback.map(|feedback| pass.conditioning.iter().zip(feedback.iter()));
    for ((_, slot), (_, gradient)) in slots.into_iter().flatten() {
        if !slot.is_tracked() {
            continue;
        }
        let gradient = rows(gradient, range)?.affine(1.0 / range.len() as f64, 0.0)?;
        let term = slot.mul(&gradient)?.sum(&[], false)?;
        surrogate = Some(match surrogate {
            Some(sum) => sum.add(&term)?,
            None => term,
        });
    }
    Ok(surrogate
        .map(|surrogate| surrogate.backward())
        .transpose()?)
}

/// The conditioning of all groups, one below the other, in the order of the first one's slots.
fn joined<'a>(parts: impl Iterator<Item = &'a Conditioning>) -> Result<Conditioning> {
    let parts: Vec<&Conditioning> = parts.collect();
    if let [only] = parts[..] {
        return Ok(only.clone());
    }
    let mut slots = Vec::new();
    for (index, (name, _)) in parts[0].iter().enumerate() {
        let detached: Vec<Tensor> = parts
            .iter()
            .filter_map(|part| part.iter().nth(index))
            .map(|(_, slot)| slot.detach())
            .collect();
        slots.push((
            name.to_owned(),
            Tensor::cat(&detached.iter().collect::<Vec<_>>(), 0)?,
        ));
    }
    Ok(Conditioning::new(slots))
}

fn rows(tensor: &Tensor, range: &Range<usize>) -> Result<Tensor> {
    Ok(tensor.narrow(0, range.start, range.len())?)
}

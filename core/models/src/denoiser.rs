//! The denoiser's interface: what it is conditioned on, by name, and what it predicts. Everything that differs between
//! denoisers (how a condition enters, what shape it has) is told by the slots, so mappers and the engine need not know the model.

use std::sync::Arc;

use dtta_tensor::{Named, Tensor};
use serde::Serialize;

use crate::error::{ModelError, Result};
use crate::schedule::NoiseSchedule;
use crate::spatial::SpatialConfig;
use crate::weights::{ParameterSpec, Weights};

/// The slot that takes what a label table would give.
pub const CLASS_EMBEDDING: &str = "class-embedding";
/// The constant that holds a label table, or the embeddings of categories.
pub const CLASS_EMBEDDINGS: &str = "class-embeddings";

/// A conditioning input that a denoiser publishes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Slot {
    /// What mappers call it.
    pub name: String,
    /// Extents of one condition, without the batch axis.
    pub shape: Vec<usize>,
    /// What the denoiser takes it for.
    pub meaning: String,
}

/// How a denoiser is told the class of a whole image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassCondition {
    /// Number of classes; labels count from 0.
    pub classes: usize,
    /// How often training leaves the class out.
    pub dropout_prob: f64,
    /// The label that stands for none, where training left the class out.
    pub null_label: Option<usize>,
}

/// Checks that `conditioning` holds one condition for each of `slots`, and nothing else: each `[batch, …]` or, for one that all rows
/// share, `[1, …]`.
///
/// # Errors
/// [`ModelError::Slot`] or [`ModelError::Input`] naming the slot.
pub fn expect_slots(conditioning: &Named, slots: &[Slot], batch: usize) -> Result<()> {
    let problem = |name: &str, problem| slot_problem(name, problem, slots);
    for name in conditioning.names() {
        if !slots.iter().any(|slot| slot.name == name) {
            return Err(problem(name, "unknown"));
        }
        if conditioning.names().filter(|other| *other == name).count() > 1 {
            return Err(problem(name, "repeated"));
        }
    }
    for slot in slots {
        let value = conditioning
            .get(&slot.name)
            .ok_or_else(|| problem(&slot.name, "missing"))?;
        let shape = value.shape();
        if (shape[0] != batch && shape[0] != 1) || shape[1..] != *slot.shape {
            let extents: Vec<String> = slot.shape.iter().map(usize::to_string).collect();
            return Err(ModelError::input(
                format!("the condition for slot `{}`", slot.name),
                format!("has shape {shape}"),
                format!("[{batch} or 1, {}]", extents.join(", ")),
            ));
        }
    }
    Ok(())
}

fn slot_problem(name: &str, problem: &'static str, slots: &[Slot]) -> ModelError {
    let known: Vec<String> = slots
        .iter()
        .map(|slot| format!("`{}`", slot.name))
        .collect();
    ModelError::Slot {
        name: name.into(),
        problem,
        known: match known.is_empty() {
            true => "none".into(),
            false => known.join(", "),
        },
    }
}

/// That a denoiser with these slots is told no class.
pub(crate) fn no_classes(slots: &[Slot]) -> ModelError {
    slot_problem(CLASS_EMBEDDING, "unknown", slots)
}

/// A conditional predictor of noise, image or velocity, with its schedule, which says of which. It holds no parameters: they come with every call.
pub trait Denoiser: Send + Sync {
    /// What it declares.
    fn parameters(&self) -> &Arc<[ParameterSpec]>;

    /// Channels, height and width of what it denoises.
    fn image_shape(&self) -> [usize; 3];

    /// What it is conditioned on.
    fn slots(&self) -> &[Slot];

    /// The schedule it was trained with.
    fn schedule(&self) -> &NoiseSchedule;

    /// The map that its slot [`SPATIAL`](crate::SPATIAL) takes, if it has one.
    fn spatial(&self) -> Option<&SpatialConfig> {
        None
    }

    /// The classes that its slot [`CLASS_EMBEDDING`] tells about, if it has one.
    fn class_condition(&self) -> Option<ClassCondition> {
        None
    }

    /// What the slot [`CLASS_EMBEDDING`] takes for whole-number labels of `[B]`: `[B, D]`.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] unless the labels are ints of rank 1 that it knows, [`ModelError::Slot`] if it has no such slot.
    fn embed_classes(&self, weights: &Weights, labels: &Tensor) -> Result<Tensor> {
        let _ = (weights, labels);
        Err(no_classes(self.slots()))
    }

    /// The network's answer to `noisy` of `[B, C, H, W]` as [`NoiseSchedule::mix`] makes it, one time for each row; the result has
    /// the same shape.
    ///
    /// # Errors
    /// [`ModelError::Input`] or [`ModelError::Slot`] for shapes, times or conditions that do not fit.
    fn predict(
        &self,
        weights: &Weights,
        noisy: &Tensor,
        times: &[f64],
        conditioning: &Named,
    ) -> Result<Tensor>;

    /// Tensors that mappers may ask for by name, such as `class-embeddings` of `[classes, D]` (without the row for "no class").
    /// They are part of the tape where the weights are.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if the device refuses.
    fn constants(&self, weights: &Weights) -> Result<Named>;

    /// What each slot holds where training left the condition out (Ho & Salimans, Classifier-Free Diffusion Guidance, 2022), one row
    /// for all images; `None` unless it left out every slot's.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if the device refuses.
    fn unconditional(&self, weights: &Weights) -> Result<Option<Named>>;
}

/// Checks the shape of a batch of images and answers its batch size.
pub(crate) fn expect_images(
    argument: &str,
    images: &Tensor,
    [c, h, w]: [usize; 3],
) -> Result<usize> {
    let shape = images.shape();
    if shape.rank() != 4 || shape[1..] != [c, h, w] {
        return Err(ModelError::input(
            argument,
            format!("has shape {shape}"),
            format!("[B, {c}, {h}, {w}]"),
        ));
    }
    Ok(shape[0])
}

/// What the network is given for times of the schedule, one for each row.
pub(crate) fn network_times(
    times: &[f64],
    batch: usize,
    schedule: &NoiseSchedule,
) -> Result<Vec<f64>> {
    if times.len() != batch {
        return Err(ModelError::input(
            "times",
            format!("are {}", times.len()),
            format!("{batch}, one for each row"),
        ));
    }
    for &time in times {
        schedule.coefficients(time)?;
    }
    Ok(schedule.network_times(times))
}

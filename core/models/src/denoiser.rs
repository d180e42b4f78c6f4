//! The denoiser's interface: what it is conditioned on, by name, and the noise it predicts. Everything that differs between
//! denoisers (how a condition enters, what shape it has) is told by the slots, so mappers and the engine need not know the model.

use std::sync::Arc;

use dtta_tensor::Tensor;
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

/// Values for the slots of a denoiser, by name: each `[B, …]` or, for one that all rows share, `[1, …]`.
#[derive(Debug, Clone, Default)]
pub struct Conditioning(Vec<(String, Tensor)>);

impl Conditioning {
    /// Conditions by slot name.
    pub fn new(values: Vec<(String, Tensor)>) -> Self {
        Self(values)
    }

    /// The only condition.
    pub fn one(name: impl Into<String>, value: Tensor) -> Self {
        Self(vec![(name.into(), value)])
    }

    /// The condition of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.iter()
            .find(|(slot, _)| *slot == name)
            .map(|(_, value)| value)
    }

    /// Every condition with its slot's name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Checks that there is one condition, of the right shape, for each of `slots`, and nothing else.
    ///
    /// # Errors
    /// [`ModelError::Slot`] or [`ModelError::Input`] naming the slot.
    pub fn expect(&self, slots: &[Slot], batch: usize) -> Result<()> {
        let problem = |name: &str, problem| {
            let known: Vec<String> = slots
                .iter()
                .map(|slot| format!("`{}`", slot.name))
                .collect();
            ModelError::Slot {
                name: name.into(),
                problem,
                known: known.join(", "),
            }
        };
        for (name, _) in self.iter() {
            if !slots.iter().any(|slot| slot.name == name) {
                return Err(problem(name, "unknown"));
            }
            if self.iter().filter(|(other, _)| *other == name).count() > 1 {
                return Err(problem(name, "repeated"));
            }
        }
        for slot in slots {
            let value = self
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
}

/// A conditional noise predictor with its schedule. It holds no parameters: they come with every call.
pub trait Denoiser: Send + Sync {
    /// What it declares.
    fn parameters(&self) -> &Arc<[ParameterSpec]>;

    /// Channels, height and width of what it denoises.
    fn image_shape(&self) -> [usize; 3];

    /// What it is conditioned on.
    fn slots(&self) -> &[Slot];

    /// The schedule it was trained with.
    fn schedule(&self) -> &NoiseSchedule;

    /// The map that its spatial slot takes, if it has one.
    fn spatial(&self) -> Option<&SpatialConfig>;

    /// The noise in `noisy` of `[B, C, H, W]`, one timestep for each row; the result has the same shape.
    ///
    /// # Errors
    /// [`ModelError::Input`] or [`ModelError::Slot`] for shapes, timesteps or conditions that do not fit.
    fn predict_noise(
        &self,
        weights: &Weights,
        noisy: &Tensor,
        timesteps: &[usize],
        conditioning: &Conditioning,
    ) -> Result<Tensor>;

    /// Tensors that mappers may ask for by name, such as `class-embeddings` of `[classes, D]` (without the row for "no class").
    /// They are part of the tape where the weights are.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if the device refuses.
    fn constants(&self, weights: &Weights) -> Result<Vec<(String, Tensor)>>;

    /// What each slot holds where training left the condition out (Ho & Salimans, Classifier-Free Diffusion Guidance, 2022), one row
    /// for all images; `None` unless it left out every slot's.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if the device refuses.
    fn unconditional(&self, weights: &Weights) -> Result<Option<Conditioning>>;
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

/// Checks that there is one known timestep for each row.
pub(crate) fn expect_timesteps(
    timesteps: &[usize],
    batch: usize,
    schedule: &NoiseSchedule,
) -> Result<()> {
    if timesteps.len() != batch {
        return Err(ModelError::input(
            "timesteps",
            format!("are {}", timesteps.len()),
            format!("{batch}, one for each row"),
        ));
    }
    for &timestep in timesteps {
        schedule.alpha_bar(timestep)?;
    }
    Ok(())
}

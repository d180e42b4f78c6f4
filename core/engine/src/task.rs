//! The task model f_θ and what follows it: backbone, head, mapper.

use dtta_models::{Backbone, Conditioning, Slot, Statistics, Weights};
use dtta_plugin::{Head, Mapper, Named};
use dtta_tensor::Tensor;

use crate::error::{Error, Result};

/// A backbone with the plugins that finish it. θ is held apart, so one task model serves many.
pub struct TaskModel {
    backbone: Box<dyn Backbone>,
    head: Box<dyn Head>,
    mapper: Box<dyn Mapper>,
    slots: Vec<Slot>,
    statistics: Statistics,
}

/// What one image was taken for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// Index of the class.
    pub class: i64,
    /// The head's confidence in it.
    pub confidence: f32,
}

impl TaskModel {
    /// Joins the parts. `slots` are the denoiser's; `statistics` says what BatchNorm layers normalise with.
    pub fn new(
        backbone: Box<dyn Backbone>,
        head: Box<dyn Head>,
        mapper: Box<dyn Mapper>,
        slots: Vec<Slot>,
        statistics: Statistics,
    ) -> Self {
        Self {
            backbone,
            head,
            mapper,
            slots,
            statistics,
        }
    }

    /// The backbone.
    pub fn backbone(&self) -> &dyn Backbone {
        &*self.backbone
    }

    /// Task outputs of images `[B, C, H, W]`.
    ///
    /// # Errors
    /// Whatever backbone or head refuse.
    pub fn outputs(&mut self, weights: &Weights, images: &Tensor) -> Result<Named> {
        let features = self.backbone.forward(weights, images, self.statistics)?;
        Ok(self.head.forward(&features)?)
    }

    /// The conditioning that outputs ask for.
    ///
    /// # Errors
    /// Whatever the mapper refuses; [`Error::Outputs`] unless it fills the denoiser's slots with tensors of their shapes.
    pub fn condition(&mut self, outputs: &Named) -> Result<Conditioning> {
        let filled = self.mapper.condition(outputs)?;
        for slot in &self.slots {
            let Some((_, tensor)) = filled.iter().find(|(name, _)| *name == slot.name) else {
                let names: Vec<&str> = filled.iter().map(|(name, _)| name.as_str()).collect();
                return Err(Error::Outputs {
                    role: "mapper",
                    found: format!("{names:?}"),
                    expected: format!("the denoiser has a slot `{}`", slot.name),
                });
            };
            if tensor.shape()[1..] != slot.shape {
                return Err(Error::Outputs {
                    role: "mapper",
                    found: format!("`{}` of shape {}", slot.name, tensor.shape()),
                    expected: format!(
                        "the slot takes [B, …] with {:?} behind the batch",
                        slot.shape
                    ),
                });
            }
        }
        if let Some((name, _)) = filled
            .iter()
            .find(|(name, _)| self.slots.iter().all(|slot| slot.name != *name))
        {
            let slots: Vec<&str> = self.slots.iter().map(|slot| slot.name.as_str()).collect();
            return Err(Error::Outputs {
                role: "mapper",
                found: format!("`{name}`"),
                expected: format!("the denoiser's slots are {slots:?}"),
            });
        }
        Ok(Conditioning::new(filled))
    }

    /// The head's predictions, as named tensors for metrics and one by one for records.
    ///
    /// # Errors
    /// Whatever the head refuses; [`Error::Outputs`] unless there is a `class` and a `confidence` for each image.
    pub fn predict(&mut self, outputs: &Named, images: usize) -> Result<(Named, Vec<Prediction>)> {
        let predictions = self.head.predict(outputs)?;
        let find = |name: &str| {
            let tensor = predictions
                .iter()
                .find(|(found, _)| found == name)
                .map(|(_, tensor)| tensor);
            tensor
                .filter(|tensor| *tensor.shape() == [images])
                .ok_or_else(|| Error::Outputs {
                    role: "head",
                    found: predictions
                        .iter()
                        .map(|(name, t)| format!("`{name}` {}", t.shape()))
                        .collect::<Vec<_>>()
                        .join(", "),
                    expected: format!(
                        "a prediction needs `class` and `confidence` of shape [{images}]"
                    ),
                })
        };
        let classes = find("class")?.to_ints()?;
        let confidences = find("confidence")?.to_floats()?;
        let list = classes
            .into_iter()
            .zip(confidences)
            .map(|(class, confidence)| Prediction { class, confidence })
            .collect();
        Ok((predictions, list))
    }
}

//! The task model f_θ and what follows it: backbone, head, mapper.

use dtta_models::{Backbone, Conditioning, ParameterId, Slot, Statistics, Weights};
use dtta_plugin::{Head, Mapper, Named, Objective, find};
use dtta_tensor::Tensor;

use crate::error::{Error, Result};
use crate::values;

/// A backbone with the plugins that finish it. θ is held apart, so one task model serves many.
pub struct TaskModel {
    backbone: Box<dyn Backbone>,
    head: Box<dyn Head>,
    mapper: Box<dyn Mapper>,
    objectives: Vec<(Box<dyn Objective>, f64)>,
    slots: Vec<Slot>,
    statistics: Statistics,
    /// Where θ holds what head and mapper declared.
    places: [Vec<ParameterId>; 2],
    /// Buffers that plugins replaced since they were last asked for.
    updates: Vec<(ParameterId, Tensor)>,
}

/// What a head predicts, told by the name of its prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskKind {
    /// `class`, int `[B]`.
    Classification,
    /// `labels`, int `[B, H, W]`.
    Segmentation,
    /// `depth`, float `[B, H, W]`.
    Depth,
}

impl TaskKind {
    const ALL: [Self; 3] = [Self::Classification, Self::Segmentation, Self::Depth];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classification => "classification",
            Self::Segmentation => "segmentation",
            Self::Depth => "depth",
        }
    }

    /// The name of the prediction, and of the target that metrics hold it to.
    pub fn prediction(self) -> &'static str {
        match self {
            Self::Classification => "class",
            Self::Segmentation => "labels",
            Self::Depth => "depth",
        }
    }

    fn axes(self) -> usize {
        match self {
            Self::Classification => 1,
            Self::Segmentation | Self::Depth => 3,
        }
    }

    /// The kind of some predictions, if they are of one.
    pub fn of(predictions: &Named, images: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| {
            find(predictions, kind.prediction()).is_some_and(|tensor| {
                tensor.shape().rank() == kind.axes() && tensor.shape()[0] == images
            })
        })
    }
}

/// What one image was taken for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// Index of the class, of a whole image.
    pub class: Option<i64>,
    /// The head's confidence, on average over pixels, where it says so.
    pub confidence: Option<f32>,
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
            objectives: Vec::new(),
            slots,
            statistics,
            places: [Vec::new(), Vec::new()],
            updates: Vec::new(),
        }
    }

    /// Adds a scalar to minimise, and its weight.
    #[must_use]
    pub fn with_objective(mut self, objective: Box<dyn Objective>, weight: f64) -> Self {
        self.objectives.push((objective, weight));
        self
    }

    /// Says where θ holds the values that head and mapper declare.
    #[must_use]
    pub fn with_values(mut self, head: Vec<ParameterId>, mapper: Vec<ParameterId>) -> Self {
        self.places = [head, mapper];
        self
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
        self.finish(weights, &features)
    }

    /// What the backbone answers to several batches of images, each under weights of its own; the CPU works on several at once.
    ///
    /// # Errors
    /// Whatever the backbone refuses.
    pub fn features(&self, inputs: &[(&Weights, Tensor)]) -> Result<Vec<Named>> {
        let Some((_, first)) = inputs.first() else {
            return Ok(Vec::new());
        };
        let (backbone, statistics) = (&*self.backbone, self.statistics);
        let each = first.device().each(inputs, |(weights, images)| {
            backbone.forward(weights, images, statistics)
        });
        Ok(each.into_iter().collect::<Result<_, _>>()?)
    }

    /// Task outputs from the backbone's answer.
    ///
    /// # Errors
    /// Whatever the head refuses.
    pub fn finish(&mut self, weights: &Weights, features: &Named) -> Result<Named> {
        let mut kept = values::of(weights, &self.places[0]);
        let outputs = self.head.forward(features, &mut kept)?;
        self.updates = values::updates(kept, &self.places[0]);
        Ok(outputs)
    }

    /// The weighted sum of the objectives' losses, each averaged over the batch; `None` without objectives.
    ///
    /// # Errors
    /// Whatever an objective refuses; [`Error::Outputs`] for a loss that is neither `[1]` nor `[B]`.
    pub fn objective(&mut self, outputs: &Named, images: usize) -> Result<Option<Tensor>> {
        let mut sum: Option<Tensor> = None;
        for (objective, weight) in &mut self.objectives {
            let loss = objective.loss(outputs)?;
            if *loss.shape() != [1] && *loss.shape() != [images] {
                return Err(Error::Outputs {
                    role: "objective",
                    found: format!("a loss of shape {}", loss.shape()),
                    expected: format!("expected [1] or [{images}]"),
                });
            }
            let term = loss.mean(&[], false)?.affine(*weight, 0.0)?;
            sum = Some(match sum {
                Some(sum) => sum.add(&term)?,
                None => term,
            });
        }
        Ok(sum)
    }

    /// The buffers that plugins replaced in the last calls of [`outputs`](Self::outputs) and
    /// [`condition`](Self::condition). Whoever steps θ puts them there; other calls leave no trace.
    pub fn take_updates(&mut self) -> Vec<(ParameterId, Tensor)> {
        std::mem::take(&mut self.updates)
    }

    /// The conditioning that outputs ask for, given θ.
    ///
    /// # Errors
    /// Whatever the mapper refuses; [`Error::Outputs`] unless it fills the denoiser's slots with tensors of their shapes.
    pub fn condition(&mut self, weights: &Weights, outputs: &Named) -> Result<Conditioning> {
        let mut kept = values::of(weights, &self.places[1]);
        let filled = self.mapper.condition(outputs, &mut kept)?;
        self.updates.extend(values::updates(kept, &self.places[1]));
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
    /// Whatever the head refuses; [`Error::Outputs`] unless they are of some [`TaskKind`].
    pub fn predict(&mut self, outputs: &Named, images: usize) -> Result<(Named, Vec<Prediction>)> {
        let predictions = self.head.predict(outputs)?;
        let refuse = |expected: String| Error::Outputs {
            role: "head",
            found: predictions
                .iter()
                .map(|(name, tensor)| format!("`{name}` {}", tensor.shape()))
                .collect::<Vec<_>>()
                .join(", "),
            expected,
        };
        let Some(kind) = TaskKind::of(&predictions, images) else {
            return Err(refuse(format!(
                "a prediction is `class` [{images}], `labels` [{images}, H, W] or `depth` [{images}, H, W]"
            )));
        };
        let classes = match kind {
            TaskKind::Classification => find(&predictions, kind.prediction())
                .map(Tensor::to_ints)
                .transpose()?,
            TaskKind::Segmentation | TaskKind::Depth => None,
        };
        let confidences = match find(&predictions, "confidence") {
            None => None,
            Some(confidence) if confidence.shape()[0] == images => {
                let rows = confidence.reshape(&[images as i64, -1])?;
                Some(rows.mean(&[1], false)?.to_floats()?)
            }
            Some(_) => {
                return Err(refuse(format!(
                    "`confidence` begins with {images}, the batch"
                )));
            }
        };
        let list = (0..images).map(|image| Prediction {
            class: classes.as_ref().map(|classes| classes[image]),
            confidence: confidences.as_ref().map(|confidences| confidences[image]),
        });
        let list = list.collect();
        Ok((predictions, list))
    }
}

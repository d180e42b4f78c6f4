//! The task model f_θ and what follows it: backbone, head, mapper, objectives.

use std::sync::Arc;

use dtta_base::TargetType;
use dtta_models::{Backbone, BatchNormStatistics, ParameterId, Weights};
use dtta_plugin::{Head, Mapper, Objective, Predicts};
use dtta_tensor::{Device, Kind, Named, Tensor};

use crate::error::{Error, Result};
use crate::record::{Prediction, Scores};
use crate::values;

/// A backbone with the plugins that finish it. θ is held apart, so one task model serves many.
pub struct TaskModel {
    backbone: Box<dyn Backbone>,
    head: Box<dyn Head>,
    mapper: Option<Box<dyn Mapper>>,
    objectives: Vec<(Box<dyn Objective>, f64)>,
    statistics: BatchNormStatistics,
    /// Where θ holds what head and mapper declared.
    places: [Vec<ParameterId>; 2],
    predicts: Option<Arc<Predicts>>,
}

/// Buffers that a call of a plugin replaced. Whoever steps θ puts them there; other calls leave no trace.
pub type Updates = Vec<(ParameterId, Tensor)>;

/// Predictions for some images.
#[derive(Debug, Clone)]
pub struct Predictions {
    /// What the head says, by name, `[B, …]`: what metrics are shown.
    pub named: Named,
    /// What records say of each image.
    pub each: Vec<Prediction>,
}

impl TaskModel {
    /// Joins the parts. `predicts` is what the head's descriptor says; without it, the first prediction is taken at its shape.
    pub fn new(
        backbone: Box<dyn Backbone>,
        head: Box<dyn Head>,
        statistics: BatchNormStatistics,
        predicts: Option<Predicts>,
    ) -> Self {
        Self {
            backbone,
            head,
            mapper: None,
            objectives: Vec::new(),
            statistics,
            places: [Vec::new(), Vec::new()],
            predicts: predicts.map(Arc::new),
        }
    }

    /// Adds what tells a denoiser of the task outputs.
    #[must_use]
    pub fn with_mapper(mut self, mapper: Box<dyn Mapper>) -> Self {
        self.mapper = Some(mapper);
        self
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

    /// What the head predicts, once it is known.
    pub fn predicts(&self) -> Option<&Arc<Predicts>> {
        self.predicts.as_ref()
    }

    /// What BatchNorm layers normalise with.
    pub fn statistics(&self) -> BatchNormStatistics {
        self.statistics
    }

    /// Whether what is said of an image depends on those beside it.
    pub fn rows_depend_on_each_other(&self) -> bool {
        self.statistics != BatchNormStatistics::Running && self.backbone.spec().batch_statistics
    }

    /// Where it computes, under these weights.
    pub(crate) fn device(&self, weights: &Weights) -> Device {
        let first = weights.iter().next();
        first.map_or_else(Device::cpu, |(_, _, tensor)| tensor.device().clone())
    }

    /// Task outputs of images `[B, C, H, W]`.
    ///
    /// # Errors
    /// Whatever backbone or head refuse.
    pub fn outputs(&mut self, weights: &Weights, images: &Tensor) -> Result<(Named, Updates)> {
        let features = self.backbone.forward(weights, images, self.statistics)?;
        self.finish(weights, &features)
    }

    /// As [`outputs`](Self::outputs), with this share of the batch's statistics mixed into the running ones; and what became of those.
    ///
    /// # Errors
    /// Whatever backbone or head refuse.
    pub fn outputs_mixing(
        &mut self,
        weights: &Weights,
        images: &Tensor,
        share: f64,
    ) -> Result<(Named, Updates)> {
        let (features, mut moved) = self.backbone.forward_mixing(weights, images, share)?;
        let (outputs, updates) = self.finish(weights, &features)?;
        moved.extend(updates);
        Ok((outputs, moved))
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
    pub fn finish(&mut self, weights: &Weights, features: &Named) -> Result<(Named, Updates)> {
        let mut kept = values::of(weights, &self.places[0]);
        let outputs = self.head.forward(features, &mut kept)?;
        Ok((outputs, values::updates(kept, &self.places[0])))
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

    /// The conditioning that outputs ask for, given θ. The mapper's answer fits the denoiser's slots, or is refused where it was given.
    ///
    /// # Errors
    /// Whatever the mapper refuses; [`Error::NoDenoiser`] without one.
    pub fn condition(&mut self, weights: &Weights, outputs: &Named) -> Result<(Named, Updates)> {
        let mapper = self.mapper.as_mut().ok_or(Error::NoDenoiser)?;
        let mut kept = values::of(weights, &self.places[1]);
        let filled = mapper.condition(outputs, &mut kept)?;
        Ok((filled, values::updates(kept, &self.places[1])))
    }

    /// The head's predictions for so many images.
    ///
    /// # Errors
    /// Whatever the head refuses; [`Error::Outputs`] unless they are what it says that it predicts; [`Error::NotFinite`].
    pub fn predict(&mut self, outputs: &Named, images: usize) -> Result<Predictions> {
        let named = self.head.predict(outputs)?;
        let predicts = match &self.predicts {
            Some(predicts) => predicts.clone(),
            None => {
                let taken = Arc::new(taken_at_its_shape(&named, images)?);
                self.predicts.insert(taken).clone()
            }
        };
        if let Some(problem) = predicts.misfit(&named, Some(images)) {
            return Err(unfit(&named, problem));
        }
        for (name, tensor) in named.iter() {
            if !tensor.is_finite()? {
                return Err(Error::NotFinite {
                    what: format!("the prediction `{name}`"),
                });
            }
        }
        let classes = match predicts.target {
            TargetType::ClassIndex {} => named.get(&predicts.name),
            TargetType::LabelMap { .. } | TargetType::NumberMap { .. } => None,
        };
        let classes = classes.map(Tensor::to_ints).transpose()?;
        let confidences = match named.get("confidence") {
            None => None,
            Some(confidence) if confidence.shape()[0] == images => {
                let rows = confidence.reshape(&[images as i64, -1])?;
                Some(rows.mean(&[1], false)?.to_floats()?)
            }
            Some(_) => {
                return Err(unfit(
                    &named,
                    format!("`confidence` begins with {images}, the batch"),
                ));
            }
        };
        let each = (0..images).map(|image| Prediction {
            prediction: classes.as_ref().map(|classes| classes[image]),
            prediction_name: None,
            confidence: confidences.as_ref().map(|confidences| confidences[image]),
            scores: Scores::new(),
        });
        Ok(Predictions {
            each: each.collect(),
            named,
        })
    }
}

impl Predictions {
    /// Those for some of the images, in the order of `places`.
    ///
    /// # Errors
    /// Whatever a tensor operation refuses.
    pub(crate) fn select(&self, places: &[usize]) -> Result<Self> {
        let rows: Vec<i64> = places.iter().map(|&place| place as i64).collect();
        let named = self.named.iter().map(|(name, tensor)| {
            let rows = Tensor::from_ints(&rows, &[rows.len()], tensor.device())?;
            Ok((name.to_owned(), tensor.index_select(0, &rows)?))
        });
        Ok(Self {
            named: named.collect::<Result<_>>()?,
            each: places
                .iter()
                .map(|&place| self.each[place].clone())
                .collect(),
        })
    }
}

fn unfit(named: &Named, expected: String) -> Error {
    let found = named
        .iter()
        .map(|(name, tensor)| format!("`{name}` {} {}", tensor.kind(), tensor.shape()));
    Error::Outputs {
        role: "head",
        found: found.collect::<Vec<_>>().join(", "),
        expected,
    }
}

/// What a head predicts that does not say so: the first prediction whose kind and shape are those of a target.
fn taken_at_its_shape(named: &Named, images: usize) -> Result<Predicts> {
    let found = named.iter().find_map(|(name, tensor)| {
        let shape = tensor.shape();
        let target = match (tensor.kind(), shape.rank()) {
            _ if name == "confidence" || shape[0] != images => return None,
            (Kind::Int, 1) => TargetType::ClassIndex {},
            (Kind::Int, 3) => TargetType::LabelMap { ignore: 255 },
            (Kind::Float, 3) => TargetType::NumberMap {
                channels: 1,
                invalid: 0.0,
            },
            (Kind::Float, 4) => TargetType::NumberMap {
                channels: shape[1],
                invalid: 0.0,
            },
            _ => return None,
        };
        Some(Predicts {
            name: name.into(),
            target,
            picture: None,
        })
    });
    found.ok_or_else(|| {
        let expected = format!(
            "a prediction is int [{images}] or [{images}, H, W], or float [{images}, H, W] or [{images}, C, H, W]"
        );
        unfit(named, expected)
    })
}

/// Predictions for a whole batch, with those for the images at `places` replaced.
///
/// # Errors
/// Whatever a tensor operation refuses.
pub(crate) fn replaced(
    all: &Predictions,
    some: Predictions,
    places: &[usize],
) -> Result<Predictions> {
    let mut each = all.each.clone();
    let mut rows: Vec<i64> = (0..each.len() as i64).collect();
    for (n, (&place, prediction)) in places.iter().zip(some.each).enumerate() {
        rows[place] = (each.len() + n) as i64;
        each[place] = prediction;
    }
    let named = all.named.iter().zip(some.named.tensors());
    let named = named.map(|((name, all), some)| {
        let rows = Tensor::from_ints(&rows, &[rows.len()], all.device())?;
        let both = Tensor::cat(&[all, some], 0)?;
        Ok((name.to_owned(), both.index_select(0, &rows)?))
    });
    Ok(Predictions {
        named: named.collect::<Result<_>>()?,
        each,
    })
}

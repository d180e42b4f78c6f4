//! Models of many classes, used for some of them: logits, and the embeddings that mappers mix, restricted to these before any softmax, as
//! ImageNet-A and ImageNet-R ask for. The weights stay those of the whole model.

use std::sync::Arc;

use dtta_tensor::{Named, Tensor};

use crate::backbone::{Backbone, BackboneSpec, BatchNormStatistics, LOGITS};
use crate::denoiser::{CLASS_EMBEDDINGS, ClassCondition, Denoiser, Slot};
use crate::error::{ModelError, Result};
use crate::schedule::NoiseSchedule;
use crate::spatial::SpatialConfig;
use crate::weights::{ParameterId, ParameterSpec, Weights};

/// A classifier that answers for some of its classes, in the order given.
pub struct SomeClasses {
    backbone: Box<dyn Backbone>,
    spec: BackboneSpec,
    classes: Vec<i64>,
}

impl SomeClasses {
    /// Restricts a classifier of whole images.
    ///
    /// # Errors
    /// [`ModelError::Input`] for a model that answers for each pixel, or classes that it does not have, none, or one twice.
    pub fn of(backbone: Box<dyn Backbone>, classes: &[usize]) -> Result<Self> {
        let spec = *backbone.spec();
        if spec.per_pixel {
            let found = "answers for each pixel";
            return Err(ModelError::input(
                "the backbone",
                found,
                "one for whole images",
            ));
        }
        Ok(Self {
            classes: within(classes, spec.outputs)?,
            spec: BackboneSpec {
                outputs: classes.len(),
                ..spec
            },
            backbone,
        })
    }

    fn restrict(&self, outputs: Named) -> Result<Named> {
        pick(outputs, LOGITS, 1, &self.classes)
    }
}

impl Backbone for SomeClasses {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        self.backbone.parameters()
    }

    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn forward(
        &self,
        weights: &Weights,
        images: &Tensor,
        statistics: BatchNormStatistics,
    ) -> Result<Named> {
        self.restrict(self.backbone.forward(weights, images, statistics)?)
    }

    fn forward_training(
        &self,
        weights: &Weights,
        images: &Tensor,
    ) -> Result<(Named, Vec<(ParameterId, Tensor)>)> {
        let (outputs, statistics) = self.backbone.forward_training(weights, images)?;
        Ok((self.restrict(outputs)?, statistics))
    }
}

/// A denoiser that tells mappers about some of its classes, in the order given. What it takes is unchanged.
pub struct SomeEmbeddings {
    denoiser: Box<dyn Denoiser>,
    classes: Vec<i64>,
}

impl SomeEmbeddings {
    /// Restricts a denoiser's class embeddings, if it has any.
    ///
    /// # Errors
    /// [`ModelError::Input`] for classes that it does not have, none, or one twice.
    pub fn of(denoiser: Box<dyn Denoiser>, classes: &[usize]) -> Result<Self> {
        let all = denoiser
            .class_condition()
            .map(|condition| condition.classes);
        let most = all.unwrap_or(usize::MAX);
        Ok(Self {
            classes: within(classes, most)?,
            denoiser,
        })
    }
}

impl Denoiser for SomeEmbeddings {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        self.denoiser.parameters()
    }

    fn image_shape(&self) -> [usize; 3] {
        self.denoiser.image_shape()
    }

    fn slots(&self) -> &[Slot] {
        self.denoiser.slots()
    }

    fn schedule(&self) -> &NoiseSchedule {
        self.denoiser.schedule()
    }

    fn spatial(&self) -> Option<&SpatialConfig> {
        self.denoiser.spatial()
    }

    fn class_condition(&self) -> Option<ClassCondition> {
        self.denoiser.class_condition()
    }

    fn embed_classes(&self, weights: &Weights, labels: &Tensor) -> Result<Tensor> {
        self.denoiser.embed_classes(weights, labels)
    }

    fn predict(
        &self,
        weights: &Weights,
        noisy: &Tensor,
        times: &[f64],
        conditioning: &Named,
    ) -> Result<Tensor> {
        self.denoiser.predict(weights, noisy, times, conditioning)
    }

    fn constants(&self, weights: &Weights) -> Result<Named> {
        let constants = self.denoiser.constants(weights)?;
        pick(constants, CLASS_EMBEDDINGS, 0, &self.classes)
    }

    fn unconditional(&self, weights: &Weights) -> Result<Option<Named>> {
        self.denoiser.unconditional(weights)
    }
}

/// Classes as indices, if the model has them.
fn within(classes: &[usize], all: usize) -> Result<Vec<i64>> {
    let refuse = |found: String| {
        let expected = format!("different classes from 0 to {}", all.saturating_sub(1));
        Err(ModelError::input("the label space", found, expected))
    };
    if classes.is_empty() {
        return refuse("has no classes".into());
    }
    let mut seen = classes.to_vec();
    seen.sort_unstable();
    if let Some(pair) = seen.windows(2).find(|pair| pair[0] == pair[1]) {
        return refuse(format!("has class {} twice", pair[0]));
    }
    match seen.last().filter(|last| **last >= all) {
        Some(last) => refuse(format!("has class {last}")),
        None => Ok(classes.iter().map(|&class| class as i64).collect()),
    }
}

/// The same tensors, with some rows of that name.
fn pick(tensors: Named, name: &str, axis: i64, rows: &[i64]) -> Result<Named> {
    let each = tensors.iter().map(|(found, tensor)| {
        let tensor = match found == name {
            true => {
                let rows = Tensor::from_ints(rows, &[rows.len()], tensor.device())?;
                tensor.index_select(axis, &rows)?
            }
            false => tensor.clone(),
        };
        Ok((found.to_owned(), tensor))
    });
    each.collect()
}

//! Backbones with a text space, whose classes are those that texts name.

use std::sync::Arc;

use dtta_tensor::{Named, Tensor};

use crate::backbone::{Backbone, BackboneSpec, BatchNormStatistics};
use crate::error::{ModelError, Result};
use crate::weights::{ParameterId, ParameterSpec, Weights};

/// A backbone with a [text space](Backbone::text_space) that counts so many classes as its outputs. What it answers is unchanged.
pub struct TextClasses {
    backbone: Box<dyn Backbone>,
    spec: BackboneSpec,
}

impl TextClasses {
    /// Counts the classes of a backbone.
    ///
    /// # Errors
    /// [`ModelError::Input`] for a backbone without a text space, or no classes.
    pub fn of(backbone: Box<dyn Backbone>, classes: usize) -> Result<Self> {
        if backbone.text_space().is_none() {
            let expected = "one whose features are held against those of texts";
            return Err(ModelError::input(
                "the backbone",
                "has classes of its own",
                expected,
            ));
        }
        if classes == 0 {
            return Err(ModelError::input("the classes", "are none", "one or more"));
        }
        Ok(Self {
            spec: BackboneSpec {
                outputs: classes,
                ..*backbone.spec()
            },
            backbone,
        })
    }
}

impl Backbone for TextClasses {
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
        self.backbone.forward(weights, images, statistics)
    }

    fn text_space(&self) -> Option<usize> {
        self.backbone.text_space()
    }

    fn constants(&self, weights: &Weights) -> Result<Named> {
        self.backbone.constants(weights)
    }

    fn forward_training(
        &self,
        weights: &Weights,
        images: &Tensor,
    ) -> Result<(Named, Vec<(ParameterId, Tensor)>)> {
        self.backbone.forward_training(weights, images)
    }

    fn forward_mixing(
        &self,
        weights: &Weights,
        images: &Tensor,
        share: f64,
    ) -> Result<(Named, Vec<(ParameterId, Tensor)>)> {
        self.backbone.forward_mixing(weights, images, share)
    }
}

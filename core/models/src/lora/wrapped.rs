//! Models that compute with the sums of their matrices and the factors beside them.

use std::sync::Arc;

use dtta_tensor::{Named, Tensor};

use super::{Places, parameters};
use crate::backbone::{Backbone, BackboneSpec, BatchNormStatistics, Reconstruction};
use crate::denoiser::{ClassCondition, Denoiser, Slot};
use crate::error::Result;
use crate::schedule::NoiseSchedule;
use crate::spatial::SpatialConfig;
use crate::weights::{ParameterId, ParameterSpec, Weights};

/// A model that is lent sums. Its own parameters come first, so they keep their ids.
pub(super) struct Lent<M: ?Sized> {
    model: Box<M>,
    places: Places,
    parameters: Arc<[ParameterSpec]>,
}

impl<M: ?Sized> Lent<M> {
    pub fn new(model: Box<M>, places: Places, weights: &Weights) -> Self {
        Self {
            model,
            places,
            parameters: parameters(weights),
        }
    }
}

impl Backbone for Lent<dyn Backbone> {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.parameters
    }

    fn spec(&self) -> &BackboneSpec {
        self.model.spec()
    }

    fn forward(
        &self,
        weights: &Weights,
        images: &Tensor,
        statistics: BatchNormStatistics,
    ) -> Result<Named> {
        let weights = self.places.summed(weights)?;
        self.model.forward(&weights, images, statistics)
    }

    fn text_space(&self) -> Option<usize> {
        self.model.text_space()
    }

    fn constants(&self, weights: &Weights) -> Result<Named> {
        self.model.constants(&self.places.summed(weights)?)
    }

    fn forward_training(
        &self,
        weights: &Weights,
        images: &Tensor,
    ) -> Result<(Named, Vec<(ParameterId, Tensor)>)> {
        let weights = self.places.summed(weights)?;
        self.model.forward_training(&weights, images)
    }

    fn forward_mixing(
        &self,
        weights: &Weights,
        images: &Tensor,
        share: f64,
    ) -> Result<(Named, Vec<(ParameterId, Tensor)>)> {
        let weights = self.places.summed(weights)?;
        self.model.forward_mixing(&weights, images, share)
    }

    fn reconstruction(&self) -> Option<&dyn Reconstruction> {
        self.model
            .reconstruction()
            .map(|_| self as &dyn Reconstruction)
    }
}

impl Lent<dyn Backbone> {
    fn decoder(&self) -> &dyn Reconstruction {
        let decoder = self.model.reconstruction();
        decoder.expect("who asks for a reconstruction was given one")
    }
}

impl Reconstruction for Lent<dyn Backbone> {
    fn patches(&self) -> usize {
        self.decoder().patches()
    }

    fn reconstruct(
        &self,
        weights: &Weights,
        images: &Tensor,
        visible: &[Vec<usize>],
    ) -> Result<Tensor> {
        let weights = self.places.summed(weights)?;
        self.decoder().reconstruct(&weights, images, visible)
    }

    fn loss(&self, weights: &Weights, images: &Tensor, visible: &[Vec<usize>]) -> Result<Tensor> {
        let weights = self.places.summed(weights)?;
        self.decoder().loss(&weights, images, visible)
    }
}

impl Denoiser for Lent<dyn Denoiser> {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.parameters
    }

    fn image_shape(&self) -> [usize; 3] {
        self.model.image_shape()
    }

    fn slots(&self) -> &[Slot] {
        self.model.slots()
    }

    fn schedule(&self) -> &NoiseSchedule {
        self.model.schedule()
    }

    fn spatial(&self) -> Option<&SpatialConfig> {
        self.model.spatial()
    }

    fn class_condition(&self) -> Option<ClassCondition> {
        self.model.class_condition()
    }

    fn embed_classes(&self, weights: &Weights, labels: &Tensor) -> Result<Tensor> {
        self.model
            .embed_classes(&self.places.summed(weights)?, labels)
    }

    fn predict(
        &self,
        weights: &Weights,
        noisy: &Tensor,
        times: &[f64],
        conditioning: &Named,
    ) -> Result<Tensor> {
        let weights = self.places.summed(weights)?;
        self.model.predict(&weights, noisy, times, conditioning)
    }

    fn constants(&self, weights: &Weights) -> Result<Named> {
        self.model.constants(&self.places.summed(weights)?)
    }

    fn unconditional(&self, weights: &Weights) -> Result<Option<Named>> {
        self.model.unconditional(&self.places.summed(weights)?)
    }
}

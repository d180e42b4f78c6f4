//! Models with something between them and who asks them, which changes the weights on their way in, or the answers on their way out. All
//! else is the model's own.

use std::borrow::Cow;
use std::sync::Arc;

use dtta_tensor::{Named, Tensor};

use crate::backbone::{Backbone, BackboneSpec, BatchNormStatistics, Reconstruction};
use crate::denoiser::{ClassCondition, Denoiser, Slot};
use crate::error::Result;
use crate::schedule::NoiseSchedule;
use crate::spatial::SpatialConfig;
use crate::weights::{ParameterId, ParameterSpec, Weights};

/// What is changed; nothing, unless it says so.
pub(crate) trait Between: Send + Sync {
    /// The parameters that are declared, given the model's.
    fn parameters<'a>(&'a self, own: &'a Arc<[ParameterSpec]>) -> &'a Arc<[ParameterSpec]> {
        own
    }

    /// What a backbone says of itself, given what the model does.
    fn spec<'a>(&'a self, own: &'a BackboneSpec) -> &'a BackboneSpec {
        own
    }

    /// The weights that the model is handed.
    fn weights<'a>(&self, given: &'a Weights) -> Result<Cow<'a, Weights>> {
        Ok(Cow::Borrowed(given))
    }

    /// What a backbone answers with.
    fn outputs(&self, own: Named) -> Result<Named> {
        Ok(own)
    }

    /// What a denoiser is conditioned on by who asks it.
    fn slots<'a>(&'a self, own: &'a [Slot]) -> &'a [Slot] {
        own
    }

    /// What a denoiser is conditioned on, beside what is `noisy`.
    fn conditioning<'a>(&self, given: &'a Named, noisy: &Tensor) -> Result<Cow<'a, Named>> {
        let _ = noisy;
        Ok(Cow::Borrowed(given))
    }

    /// What each slot holds where training left the condition out.
    fn unconditional(&self, own: Option<Named>) -> Option<Named> {
        own
    }

    /// What heads and mappers may ask for by name.
    fn constants(&self, own: Named) -> Result<Named> {
        Ok(own)
    }
}

/// A model with something between.
pub(crate) struct Behind<M: ?Sized, B> {
    model: Box<M>,
    between: B,
}

impl<M: ?Sized, B> Behind<M, B> {
    pub fn new(model: Box<M>, between: B) -> Self {
        Self { model, between }
    }
}

impl<B: Between> Backbone for Behind<dyn Backbone, B> {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        self.between.parameters(self.model.parameters())
    }

    fn spec(&self) -> &BackboneSpec {
        self.between.spec(self.model.spec())
    }

    fn forward(
        &self,
        weights: &Weights,
        images: &Tensor,
        statistics: BatchNormStatistics,
    ) -> Result<Named> {
        let weights = self.between.weights(weights)?;
        let outputs = self.model.forward(&weights, images, statistics)?;
        self.between.outputs(outputs)
    }

    fn text_space(&self) -> Option<usize> {
        self.model.text_space()
    }

    fn constants(&self, weights: &Weights) -> Result<Named> {
        let weights = self.between.weights(weights)?;
        self.between.constants(self.model.constants(&weights)?)
    }

    fn forward_training(
        &self,
        weights: &Weights,
        images: &Tensor,
    ) -> Result<(Named, Vec<(ParameterId, Tensor)>)> {
        let weights = self.between.weights(weights)?;
        let (outputs, statistics) = self.model.forward_training(&weights, images)?;
        Ok((self.between.outputs(outputs)?, statistics))
    }

    fn forward_mixing(
        &self,
        weights: &Weights,
        images: &Tensor,
        share: f64,
    ) -> Result<(Named, Vec<(ParameterId, Tensor)>)> {
        let weights = self.between.weights(weights)?;
        let (outputs, statistics) = self.model.forward_mixing(&weights, images, share)?;
        Ok((self.between.outputs(outputs)?, statistics))
    }

    fn reconstruction(&self) -> Option<&dyn Reconstruction> {
        let own = self.model.reconstruction();
        own.map(|_| self as &dyn Reconstruction)
    }
}

impl<B: Between> Behind<dyn Backbone, B> {
    fn decoder(&self) -> &dyn Reconstruction {
        let decoder = self.model.reconstruction();
        decoder.expect("who asks for a reconstruction was given one")
    }
}

impl<B: Between> Reconstruction for Behind<dyn Backbone, B> {
    fn patches(&self) -> usize {
        self.decoder().patches()
    }

    fn reconstruct(
        &self,
        weights: &Weights,
        images: &Tensor,
        visible: &[Vec<usize>],
    ) -> Result<Tensor> {
        let weights = self.between.weights(weights)?;
        self.decoder().reconstruct(&weights, images, visible)
    }

    fn loss(&self, weights: &Weights, images: &Tensor, visible: &[Vec<usize>]) -> Result<Tensor> {
        let weights = self.between.weights(weights)?;
        self.decoder().loss(&weights, images, visible)
    }
}

impl<B: Between> Denoiser for Behind<dyn Denoiser, B> {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        self.between.parameters(self.model.parameters())
    }

    fn image_shape(&self) -> [usize; 3] {
        self.model.image_shape()
    }

    fn slots(&self) -> &[Slot] {
        self.between.slots(self.model.slots())
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
        let weights = self.between.weights(weights)?;
        self.model.embed_classes(&weights, labels)
    }

    fn predict(
        &self,
        weights: &Weights,
        noisy: &Tensor,
        times: &[f64],
        conditioning: &Named,
    ) -> Result<Tensor> {
        let weights = self.between.weights(weights)?;
        let conditioning = self.between.conditioning(conditioning, noisy)?;
        self.model.predict(&weights, noisy, times, &conditioning)
    }

    fn constants(&self, weights: &Weights) -> Result<Named> {
        let weights = self.between.weights(weights)?;
        self.between.constants(self.model.constants(&weights)?)
    }

    fn unconditional(&self, weights: &Weights) -> Result<Option<Named>> {
        let weights = self.between.weights(weights)?;
        let own = self.model.unconditional(&weights)?;
        Ok(self.between.unconditional(own))
    }
}

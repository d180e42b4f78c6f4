//! The interface of a discriminative model: images in, named features and logits out.

use std::sync::Arc;

use dtta_tensor::{Named, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::weights::{ParameterId, ParameterSpec, Weights};

/// The output that heads take.
pub const FEATURES: &str = "features";
/// The output of the model's own head.
pub const LOGITS: &str = "logits";
/// The constant of a backbone whose features are held against those of texts: what their cosines are multiplied with, `[1]`.
pub const LOGIT_SCALE: &str = "logit-scale";

/// Which statistics BatchNorm layers normalise with.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchNormStatistics {
    /// Those of the training data: an image's result does not depend on what is beside it.
    #[default]
    Running,
    /// Those of the batch at hand.
    Batch,
    /// This share α of the batch's and 1 - α of the training data's: (1 - α) μ_s + α μ_b, and likewise the variances (Schneider et al.,
    /// Improving robustness against common corruptions by covariate shift adaptation, NeurIPS 2020, equation 3, where α = n / (n + N)).
    Mixed(#[schemars(range(min = 0, max = 1))] f64),
}

/// What a backbone takes and answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackboneSpec {
    /// Channels, height and width of the images it was made for.
    pub image: [usize; 3],
    /// Extent of axis 1 of the logits: the number of classes, or of the numbers of each pixel; 0 without logits. Of a backbone with a
    /// [text space](Backbone::text_space), which has no classes of its own, that of the features.
    pub outputs: usize,
    /// Whether it answers for each pixel, and not for whole images.
    pub per_pixel: bool,
    /// Whether it has BatchNorm layers, so that [`BatchNormStatistics::Batch`] makes an image's result depend on what is beside it.
    pub batch_statistics: bool,
}

/// A discriminative model. It holds no parameters: they come with every call.
pub trait Backbone: Send + Sync {
    /// What it declares.
    fn parameters(&self) -> &Arc<[ParameterSpec]>;

    /// What it takes and answers with.
    fn spec(&self) -> &BackboneSpec;

    /// [`FEATURES`] and, of a model with a head of its own, [`LOGITS`] for images of `[B, C, H, W]`: `[B, F]` and `[B, outputs]`, or of a
    /// model that answers for each pixel `[B, F, h, w]` and `[B, outputs, H, W]`. A backbone with a [text space](Self::text_space) has none.
    ///
    /// # Errors
    /// [`ModelError::Input`](crate::ModelError::Input) for images of another shape.
    fn forward(
        &self,
        weights: &Weights,
        images: &Tensor,
        statistics: BatchNormStatistics,
    ) -> Result<Named>;

    /// Width of the space that its features share with those of a text encoder, if they do. What the classes are, texts then say.
    fn text_space(&self) -> Option<usize> {
        None
    }

    /// Tensors that heads may ask for by name, such as [`LOGIT_SCALE`].
    ///
    /// # Errors
    /// [`ModelError::Tensor`](crate::ModelError::Tensor) if the device refuses.
    fn constants(&self, weights: &Weights) -> Result<Named> {
        let _ = weights;
        Ok(Named::new())
    }

    /// As [`forward`](Self::forward) with the statistics of the batch; also answers the batch's own value, untracked, for every
    /// running statistic, so that training can keep their moving average (PyTorch: `running += 0.1 (batch - running)`). Without
    /// running statistics there is nothing to add to `forward`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn forward_training(
        &self,
        weights: &Weights,
        images: &Tensor,
    ) -> Result<(Named, Vec<(ParameterId, Tensor)>)> {
        let outputs = self.forward(weights, images, BatchNormStatistics::Batch)?;
        Ok((outputs, Vec::new()))
    }

    /// As [`forward`](Self::forward) with [`BatchNormStatistics::Mixed`]; also answers the mixed value, untracked, for every running
    /// statistic, so that they can follow a stream (RoTTA, Yuan et al. 2023). Without running statistics there is nothing to add to
    /// `forward`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn forward_mixing(
        &self,
        weights: &Weights,
        images: &Tensor,
        share: f64,
    ) -> Result<(Named, Vec<(ParameterId, Tensor)>)> {
        let outputs = self.forward(weights, images, BatchNormStatistics::Mixed(share))?;
        Ok((outputs, Vec::new()))
    }

    /// How it reconstructs images from some of their patches; none if it has no decoder for it.
    fn reconstruction(&self) -> Option<&dyn Reconstruction> {
        None
    }
}

/// Masked reconstruction (He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022): the encoder of a backbone sees some
/// patches of an image, and a decoder says what the masked ones are.
pub trait Reconstruction: Send + Sync {
    /// Patches of an image.
    fn patches(&self) -> usize;

    /// What the patches of images `[B, C, H, W]` are said to be, `[B, patches, p p C]`: pixels row by row, channels last, in the units of
    /// the loss. `visible` are the patches of each image that the encoder sees, counted row by row, ascending; the same number for every image.
    ///
    /// # Errors
    /// [`ModelError::Input`](crate::ModelError::Input) for images of another shape, or other lists of patches.
    fn reconstruct(
        &self,
        weights: &Weights,
        images: &Tensor,
        visible: &[Vec<usize>],
    ) -> Result<Tensor>;

    /// The mean squared error of the masked patches of each image, `[B]`.
    ///
    /// # Errors
    /// As [`reconstruct`](Self::reconstruct).
    fn loss(&self, weights: &Weights, images: &Tensor, visible: &[Vec<usize>]) -> Result<Tensor>;
}

//! The interface of a discriminative model: images in, named features and logits out.

use std::sync::Arc;

use dtta_tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::weights::{ParameterId, ParameterSpec, Weights};

/// Which statistics normalise in BatchNorm layers. Other layers do not care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Statistics {
    /// Those gathered in training: a row's result does not depend on its neighbours.
    #[default]
    Running,
    /// Those of the batch at hand.
    Batch,
}

/// Named outputs of a model.
pub type Outputs = Vec<(String, Tensor)>;

/// A discriminative model. It holds no parameters: they come with every call.
pub trait Backbone: Send + Sync {
    /// What it declares.
    fn parameters(&self) -> &Arc<[ParameterSpec]>;

    /// Channels, height and width of the images it was made for.
    fn image_shape(&self) -> [usize; 3];

    /// Extent of axis 1 of the logits: the number of classes, or 1 for a map of numbers.
    fn outputs(&self) -> usize;

    /// `features` and `logits` for images of `[B, C, H, W]`: `[B, F]` and `[B, outputs]`, or of a model that answers for each pixel
    /// `[B, F, h, w]` and `[B, outputs, H, W]`.
    ///
    /// # Errors
    /// [`ModelError::Input`](crate::ModelError::Input) for images of another shape.
    fn forward(
        &self,
        weights: &Weights,
        images: &Tensor,
        statistics: Statistics,
    ) -> Result<Outputs>;

    /// As [`forward`](Self::forward) with the statistics of the batch; also answers the batch's own value, untracked, for every
    /// running statistic, so that training can keep their moving average (PyTorch: `running += 0.1 (batch - running)`).
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn forward_training(
        &self,
        weights: &Weights,
        images: &Tensor,
    ) -> Result<(Outputs, Vec<(ParameterId, Tensor)>)>;
}

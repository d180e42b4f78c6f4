//! The encoder's interface: what turns an image into what a denoiser of latents was trained on.

use std::sync::Arc;

use dtta_tensor::Tensor;

use crate::error::Result;
use crate::weights::{ParameterSpec, Weights};

/// From images to latents. It holds no parameters: they come with every call.
pub trait Encoder: Send + Sync {
    /// What it declares.
    fn parameters(&self) -> &Arc<[ParameterSpec]>;

    /// Channels, height and width of the latent of an image of these.
    ///
    /// # Errors
    /// [`ModelError::Input`](crate::ModelError::Input) for another number of channels, or an image of which no latent pixel is left.
    fn latent_shape(&self, image: [usize; 3]) -> Result<[usize; 3]>;

    /// Channels, height and width of the image that just fills a latent of these.
    ///
    /// # Errors
    /// [`ModelError::Input`](crate::ModelError::Input) for a latent that it does not make.
    fn image_shape(&self, latent: [usize; 3]) -> Result<[usize; 3]>;

    /// The latents `[B, c, h, w]` of images `[B, C, H, W]` in [-1, 1]: the mean of their distribution, in the units in which the denoiser
    /// was trained.
    ///
    /// # Errors
    /// As [`latent_shape`](Self::latent_shape).
    fn encode(&self, weights: &Weights, images: &Tensor) -> Result<Tensor>;
}

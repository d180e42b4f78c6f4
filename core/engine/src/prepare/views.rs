//! How the two models see an image.

use dtta_base::Issue;
use dtta_data::Image;
use dtta_models::{Encoder, Weights};
use dtta_tensor::{Device, Tensor};

use super::kept::Latents;
use crate::document::Document;
use crate::error::{Error, Result};

/// How one of the two models sees an image.
pub(crate) struct ModelView {
    pub steps: dtta_data::View,
    /// What these give: what it takes, or its encoder.
    pub shape: [usize; 3],
    /// What makes latents of them.
    pub encoder: Option<(Box<dyn Encoder>, Weights)>,
    /// Where these are kept, if anywhere.
    pub latents: Option<Latents>,
    pub device: Device,
    /// Where the experiment says it.
    pub pointer: &'static str,
    /// The library whose configuration says the steps, where the experiment does not.
    pub published: Option<&'static str>,
}

/// How both do.
pub(crate) struct Views {
    pub task: ModelView,
    pub denoiser: Option<ModelView>,
}

impl Views {
    /// Whether there is a denoiser to show images to.
    pub fn needs_denoiser(&self) -> bool {
        self.denoiser.is_some()
    }

    /// `[B, C, H, W]` for the task model.
    pub fn task(&self, images: &[&Image], document: &Document) -> Result<Tensor> {
        self.task.see(images).map_err(|error| error.of(document))
    }

    /// `[B, C, H, W]` for the denoiser, where there is one.
    pub fn denoiser(&self, images: &[&Image], document: &Document) -> Result<Option<Tensor>> {
        let view = self.denoiser.as_ref();
        view.map(|view| view.see(images).map_err(|error| error.of(document)))
            .transpose()
    }
}

/// Why images cannot be seen.
pub(crate) enum Unseen {
    /// They come out in another shape.
    Shape(Issue),
    /// Anything else.
    Other(Error),
}

impl Unseen {
    /// As a fault of the experiment.
    pub fn of(self, document: &Document) -> Error {
        match self {
            Self::Shape(issue) => document.refuse(vec![issue]),
            Self::Other(error) => error,
        }
    }

    /// As a fault of a batch.
    pub fn of_batch(self) -> Error {
        match self {
            Self::Shape(issue) => Error::Batch {
                found: format!("an image whose `{}` {}", issue.pointer, issue.message),
                expected: "images that fit".into(),
            },
            Self::Other(error) => error,
        }
    }
}

impl ModelView {
    /// Images as one tensor.
    pub fn see(&self, images: &[&Image]) -> Result<Tensor, Unseen> {
        let [channels, height, width] = self.shape;
        let mut pixels = Vec::with_capacity(images.len() * channels * height * width);
        for image in images {
            let seen = self.steps.see((*image).clone());
            let seen = seen.map_err(|error| Unseen::Other(error.into()))?;
            if seen.shape() != self.shape {
                let message = format!(
                    "gives images of {:?}, the model takes {:?}",
                    seen.shape(),
                    self.shape
                );
                return Err(Unseen::Shape(Issue::new(self.pointer, message)));
            }
            pixels.extend(seen.into_data());
        }
        let seen = match &self.encoder {
            Some((encoder, weights)) => self.encode(&pixels, &**encoder, weights),
            None => {
                let extents = [images.len(), channels, height, width];
                Tensor::from_floats(&pixels, &extents, &self.device).map_err(Error::from)
            }
        };
        seen.map_err(Unseen::Other)
    }

    /// Latents of images: each by itself, so that its latent does not depend on its neighbours.
    fn encode(&self, pixels: &[f32], encoder: &dyn Encoder, weights: &Weights) -> Result<Tensor> {
        let [channels, height, width] = self.shape;
        let latent = |pixels: &[f32]| -> Result<Tensor> {
            let image = Tensor::from_floats(pixels, &[1, channels, height, width], &self.device)?;
            Ok(encoder.encode(weights, &image)?)
        };
        let each = pixels.chunks_exact(channels * height * width);
        let latents = self.device.each(each, |pixels| match &self.latents {
            None => latent(pixels),
            Some(kept) => {
                let [channels, height, width] = encoder.latent_shape(self.shape)?;
                let numbers = channels * height * width;
                let values = kept.get(self.shape, pixels, numbers, || {
                    Ok(latent(pixels)?.to_floats()?)
                })?;
                Ok(Tensor::from_values(
                    values,
                    &[1, channels, height, width],
                    &self.device,
                )?)
            }
        });
        let latents = latents.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&latents.iter().collect::<Vec<_>>(), 0)?)
    }
}

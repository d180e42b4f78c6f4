//! How the two models see an image.

use dtta_base::Issue;
use dtta_data::Image;
use dtta_models::{Encoder, Weights};
use dtta_tensor::{Device, Tensor};

use crate::document::Document;
use crate::error::{Error, Result};

/// How one of the two models sees an image.
pub(crate) struct ModelView {
    pub steps: dtta_data::View,
    /// What these give: what it takes, or its encoder.
    pub shape: [usize; 3],
    /// What makes latents of them.
    pub encoder: Option<(Box<dyn Encoder>, Weights)>,
    pub device: Device,
    /// Where the experiment says it.
    pub pointer: &'static str,
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
        let extents = [images.len(), channels, height, width];
        let pixels = Tensor::from_floats(&pixels, &extents, &self.device);
        let seen = pixels
            .map_err(Error::from)
            .and_then(|pixels| self.encode(pixels));
        seen.map_err(Unseen::Other)
    }

    /// Latents where there is an encoder: each image by itself, so that its latent does not depend on its neighbours.
    fn encode(&self, pixels: Tensor) -> Result<Tensor> {
        let Some((encoder, weights)) = &self.encoder else {
            return Ok(pixels);
        };
        let latents = self
            .device
            .each(0..pixels.shape()[0], |row| -> Result<Tensor> {
                Ok(encoder.encode(weights, &pixels.narrow(0, row, 1)?)?)
            });
        let latents = latents.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&latents.iter().collect::<Vec<_>>(), 0)?)
    }
}

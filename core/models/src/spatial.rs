//! The spatial slot: a map as large as the image, laid beside it in the denoiser's input (Diffusion-TTA, section 3.2: a mixture of
//! category embeddings for each pixel in segmentation, the map itself in depth).

use dtta_tensor::{Named, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::denoiser::{CLASS_EMBEDDINGS, Slot};
use crate::error::Result;
use crate::fault::{Faults, MAX_EXTENT};
use crate::weights::{Declaration, Group, Init, ParameterId, Weights};

/// The slot's name.
pub const SPATIAL: &str = "spatial";

/// What a denoiser is told about each pixel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpatialConfig {
    /// Channels of the map: 1 for depth, the width of a category's embedding for segmentation.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub channels: usize,
    /// Number of categories, each with a learned embedding of `channels`; none for a map of numbers such as depth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub classes: Option<usize>,
    /// How often training puts zeros in the map's place.
    #[serde(default = "tenth")]
    #[schemars(range(min = 0, max = 1))]
    pub dropout_prob: f64,
}

fn tenth() -> f64 {
    0.1
}

impl SpatialConfig {
    pub(crate) fn check(&self) -> Faults {
        let mut faults = Faults::default();
        faults.count("/channels", self.channels, MAX_EXTENT);
        if let Some(classes) = self.classes {
            faults.count("/classes", classes, MAX_EXTENT);
        }
        faults.probability("/dropout_prob", self.dropout_prob);
        faults
    }
}

/// The slot in a denoiser's structure.
pub(crate) struct SpatialSlot {
    table: Option<ParameterId>,
}

impl SpatialSlot {
    pub fn declare(d: &mut Declaration, config: &SpatialConfig) -> Self {
        // Of unit size, as the image is: one category must not drown in the noise beside it.
        let table = config.classes.map(|classes| {
            d.declare(
                "spatial_embedder.embedding_table.weight",
                &[classes, config.channels],
                Group::Embedding,
                Init::Normal(1.0),
            )
        });
        Self { table }
    }

    /// How the slot is published, for images of those extents.
    pub fn publish(config: &SpatialConfig, [_, height, width]: [usize; 3]) -> Slot {
        let meaning = match config.classes {
            Some(_) => "for each pixel a category's embedding, or a mixture of them",
            None => "a map of numbers, as it was in training",
        };
        Slot {
            name: SPATIAL.into(),
            shape: vec![config.channels, height, width],
            meaning: meaning.into(),
        }
    }

    /// The image with the map beside it, `[B, C + channels, H, W]`.
    pub fn join(&self, image: &Tensor, conditioning: &Named) -> Result<Tensor> {
        let Some(map) = conditioning.get(SPATIAL) else {
            return Ok(image.clone());
        };
        let (rows, shape) = (image.shape()[0], map.shape());
        let map = if shape[0] == rows {
            map.clone()
        } else {
            map.expand(&[rows, shape[1], shape[2], shape[3]])?
        };
        Ok(Tensor::cat(&[image, &map], 1)?)
    }

    /// The map that training puts in the place of one it leaves out: zeros, for images of those extents.
    pub fn nothing(
        config: &SpatialConfig,
        [_, height, width]: [usize; 3],
        weights: &Weights,
    ) -> Result<Option<Named>> {
        let Some((_, _, beside)) = weights.iter().next().filter(|_| config.dropout_prob > 0.0)
        else {
            return Ok(None);
        };
        let shape = [1, config.channels, height, width];
        let zeros = Tensor::full(&shape, 0.0, beside.device())?;
        Ok(Some(Named::one(SPATIAL, zeros)))
    }

    /// The categories' embeddings, where there are any.
    pub fn constants(&self, weights: &Weights) -> Named {
        let table = self.table.map(|id| weights.get(id).clone());
        table
            .map(|table| (CLASS_EMBEDDINGS.to_owned(), table))
            .into_iter()
            .collect()
    }
}

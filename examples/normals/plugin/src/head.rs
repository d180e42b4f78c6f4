//! The head of a network that ends in three maps.

use dtta_sdk::prelude::*;

use crate::vectors::{expect_vectors, unit};

/// Configuration of the head: there is nothing to choose.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NormalsHeadConfig {}

/// `logits` `[B, 3, H, W]` to unit vectors.
///
/// - `forward` gives `normals` `[B, 3, H, W]`.
/// - `predict` gives the same.
pub struct NormalsHead;

impl Head for NormalsHead {
    type Config = NormalsHeadConfig;
    const PREDICTS: Option<Predicts> = Some(Predicts::number_map("normals").channels(3).picture(
        Picture::Rgb {
            low: -1.0,
            high: 1.0,
            worst: 1.0, // as far apart as unit vectors at 60 degrees
        },
    ));

    fn create(_config: NormalsHeadConfig) -> Result<Self> {
        Ok(Self)
    }

    fn forward(&self, inputs: &Named, _session: &Session) -> Result<Named> {
        let logits = inputs.get("logits")?;
        expect_vectors("logits", logits)?;
        Ok(Named::one("normals", unit(logits)?))
    }

    fn predict(&self, outputs: &Named, _session: &Session) -> Result<Named> {
        Ok(Named::one("normals", outputs.get("normals")?.share()?))
    }
}

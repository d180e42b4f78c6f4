//! An architecture of one's own, registered without touching a line of dtta: a linear classifier of pixels' values.
//!
//!     cargo run --release -p dtta --example register_a_model

#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::sync::Arc;

use dtta::Extensions;
use dtta_models::{
    Architecture, Backbone, BackboneSpec, BatchNormStatistics, Declaration, FEATURES, Group, Init,
    LOGITS, ParameterId, ParameterSpec, Result, Weights,
};
use dtta_tensor::{Named, Tensor};
use schemars::JsonSchema;
use serde::Deserialize;

/// One linear layer from pixels to classes.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LinearConfig {
    /// Channels, height and width of the images.
    image: [usize; 3],
    /// Number of classes.
    classes: usize,
}

impl Architecture for LinearConfig {
    type Model = dyn Backbone;
    const KIND: &'static str = "pixels_linear";

    fn build(self) -> Result<Box<dyn Backbone>> {
        let mut declaration = Declaration::new();
        let inputs: usize = self.image.iter().product();
        let weight = declaration.declare(
            "fc.weight",
            &[inputs, self.classes],
            Group::Head,
            Init::UniformFanIn(inputs),
        );
        Ok(Box::new(Linear {
            spec: BackboneSpec {
                image: self.image,
                outputs: self.classes,
                per_pixel: false,
                batch_statistics: false,
            },
            specs: declaration.finish(),
            weight,
        }))
    }
}

struct Linear {
    spec: BackboneSpec,
    specs: Arc<[ParameterSpec]>,
    weight: ParameterId,
}

impl Backbone for Linear {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.specs
    }

    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn forward(&self, weights: &Weights, images: &Tensor, _: BatchNormStatistics) -> Result<Named> {
        let features = images.reshape(&[images.shape()[0] as i64, -1])?;
        let logits = features.matmul(weights.get(self.weight))?;
        Ok(Named::one(FEATURES, features).with(LOGITS, logits))
    }
}

fn main() -> Result<()> {
    let mut extensions = Extensions::default();
    extensions.models.register_backbone::<LinearConfig>()?;
    // Model files with `"kind": "pixels_linear"` now load, in experiments and by `Adapter::builder().extensions(extensions)`.
    println!("{:#}", extensions.models.schema());
    Ok(())
}

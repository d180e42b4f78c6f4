//! Architectures from outside of the crate: registered by their configuration's type, loaded from files as the others are.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use dtta_models::{
    Architecture, Backbone, BackboneSpec, BatchNormStatistics, Declaration, Denoiser, DitConfig,
    FEATURES, Group, Init, Issue, LOGITS, ModelError, Models, NoiseSchedule, ParameterId,
    ParameterSpec, Precision, Result, ScheduleConfig, Slot, Weights, expect_slots,
};
use dtta_tensor::{Device, Named, Tensor};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Noise that is proportional to the image, and to nothing else.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ProportionConfig {
    /// Channels, height and width.
    image: [usize; 3],
    /// The noise schedule.
    #[serde(default)]
    schedule: ScheduleConfig,
}

struct Proportion {
    image: [usize; 3],
    schedule: NoiseSchedule,
    specs: Arc<[ParameterSpec]>,
    factor: ParameterId,
}

impl Architecture for ProportionConfig {
    type Model = dyn Denoiser;
    const KIND: &'static str = "proportion";

    fn build(self) -> Result<Box<dyn Denoiser>> {
        let mut declaration = Declaration::new();
        let factor = declaration.declare("factor", &[1, 1, 1, 1], Group::Weight, Init::Zeros);
        Ok(Box::new(Proportion {
            image: self.image,
            schedule: NoiseSchedule::new(&self.schedule)?,
            specs: declaration.finish(),
            factor,
        }))
    }
}

impl Denoiser for Proportion {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.specs
    }

    fn image_shape(&self) -> [usize; 3] {
        self.image
    }

    fn slots(&self) -> &[Slot] {
        &[]
    }

    fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    fn predict(
        &self,
        weights: &Weights,
        noisy: &Tensor,
        _times: &[f64],
        conditioning: &Named,
    ) -> Result<Tensor> {
        expect_slots(conditioning, self.slots(), noisy.shape()[0])?;
        Ok(noisy.mul(weights.get(self.factor))?)
    }

    fn constants(&self, _weights: &Weights) -> Result<Named> {
        Ok(Named::new())
    }

    fn unconditional(&self, _weights: &Weights) -> Result<Option<Named>> {
        Ok(None)
    }
}

/// One linear layer over all pixels.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PerceptronConfig {
    /// Channels, height and width.
    image: [usize; 3],
    /// Number of classes.
    classes: usize,
}

struct Perceptron {
    spec: BackboneSpec,
    specs: Arc<[ParameterSpec]>,
    weight: ParameterId,
}

impl Architecture for PerceptronConfig {
    type Model = dyn Backbone;
    const KIND: &'static str = "perceptron";

    fn build(self) -> Result<Box<dyn Backbone>> {
        let pixels: usize = self.image.iter().product();
        if pixels == 0 || self.classes < 2 {
            let issues = vec![Issue::new("/classes", "is too few to choose from")];
            return Err(ModelError::Config { issues });
        }
        let mut declaration = Declaration::new();
        let weight = declaration.declare(
            "weight",
            &[self.classes, pixels],
            Group::Head,
            Init::UniformFanIn(pixels),
        );
        Ok(Box::new(Perceptron {
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

impl Backbone for Perceptron {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.specs
    }

    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn forward(
        &self,
        weights: &Weights,
        images: &Tensor,
        _statistics: BatchNormStatistics,
    ) -> Result<Named> {
        let features = images.reshape(&[images.shape()[0] as i64, -1])?;
        let logits = features.linear(weights.get(self.weight), None)?;
        Ok(Named::one(FEATURES, features).with(LOGITS, logits))
    }
}

fn models() -> Models {
    let mut models = Models::standard();
    models.register_denoiser::<ProportionConfig>().unwrap();
    models.register_backbone::<PerceptronConfig>().unwrap();
    models
}

fn file(folder: &TempDir, document: &Value) -> PathBuf {
    let path = folder.path().join("model.json");
    fs::write(&path, document.to_string()).unwrap();
    path
}

#[test]
fn a_denoiser_from_outside_is_loaded_from_its_files() {
    let (folder, device) = (tempfile::tempdir().unwrap(), Device::cpu());
    let config = file(
        &folder,
        &json!({ "kind": "proportion", "image": [1, 2, 2] }),
    );
    let denoiser = models().denoiser(&config).unwrap();
    let mut weights = Weights::initialise(denoiser.parameters(), 0, &device).unwrap();
    let factor = weights.find("factor").unwrap();
    let half = Tensor::full(&[1, 1, 1, 1], 0.5, &device).unwrap();
    weights.set(factor, half).unwrap();
    let path = config.with_extension("safetensors");
    weights
        .save(&path, Precision::F32, &BTreeMap::new())
        .unwrap();

    let (denoiser, weights) = models().load_denoiser(&config, None, &device).unwrap();
    let noisy = Tensor::full(&[3, 1, 2, 2], 4.0, &device).unwrap();
    let noise = denoiser
        .predict(&weights, &noisy, &[0.0, 1.0, 2.0], &Named::new())
        .unwrap();
    assert_eq!(noise.to_floats().unwrap(), [2.0; 12]);
    // What it does not say that it can do, it cannot.
    assert_eq!(denoiser.class_condition(), None);
    assert_eq!(denoiser.spatial(), None);
    let labels = Tensor::from_ints(&[0], &[1], &device).unwrap();
    let error = denoiser.embed_classes(&weights, &labels).unwrap_err();
    assert!(error.to_string().ends_with("publishes none"), "{error}");
}

#[test]
fn a_backbone_from_outside_is_loaded_from_its_files() {
    let (folder, device) = (tempfile::tempdir().unwrap(), Device::cpu());
    let document = json!({ "kind": "perceptron", "image": [1, 2, 2], "classes": 3 });
    let config = file(&folder, &document);
    let made = Weights::initialise(models().backbone(&config).unwrap().parameters(), 7, &device);
    let elsewhere = folder.path().join("elsewhere.safetensors");
    made.unwrap()
        .save(&elsewhere, Precision::F32, &BTreeMap::new())
        .unwrap();
    let (backbone, weights) = models()
        .load_backbone(&config, Some(&elsewhere), &device)
        .unwrap();
    let images = Tensor::full(&[5, 1, 2, 2], 1.0, &device).unwrap();
    let outputs = backbone
        .forward(&weights, &images, BatchNormStatistics::Running)
        .unwrap();
    assert_eq!(*outputs.get(LOGITS).unwrap().shape(), [5, 3]);
}

#[test]
fn its_faults_and_its_role_are_told_as_those_of_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |document: Value| {
        let error = models().backbone(&file(&folder, &document)).err().unwrap();
        error.to_string()
    };
    for (document, expected) in [
        (
            json!({ "kind": "perceptron", "image": [1, 2, 2], "classes": 1 }),
            "/classes: is too few to choose from",
        ),
        (
            json!({ "kind": "perceptron", "image": [1, 2] }),
            "/classes: is missing, expected an integer",
        ),
        (
            json!({ "kind": "proportion", "image": [1, 2, 2] }),
            "a backbone is needed here: `resnet`, `convnext`, `vit`, `efficientnet`, `encoder_decoder`, `segformer`, `dpt`, `glpn`, `dense_depth`, `clip_vision`, `siglip_vision` or `perceptron`",
        ),
        (
            json!({ "kind": "none" }),
            "/kind: is `none`; known: `dit`, `unet`, `uvit`, `controlnet`, `resnet`, `convnext`, `vit`, `efficientnet`, `encoder_decoder`, `segformer`, `dpt`, `glpn`, `dense_depth`, `clip_vision`, `siglip_vision`, `autoencoder_kl` and 5 more",
        ),
    ] {
        let message = refused(document);
        assert!(
            message.contains(expected) && message.contains("model.json"),
            "{message}\nexpected: {expected}"
        );
    }
}

#[test]
fn a_kind_is_registered_once() {
    let mut models = Models::standard();
    let error = models.register_denoiser::<DitConfig>().unwrap_err();
    assert!(error.to_string().contains("`dit`"), "{error}");
    models.register_backbone::<PerceptronConfig>().unwrap();
    assert!(models.register_backbone::<PerceptronConfig>().is_err());
}

#[test]
fn the_schema_has_a_condition_for_each() {
    let document = json!({ "kind": "perceptron", "image": [1, 2, 2], "classes": 3 });
    assert_eq!(dtta_base::check(&document, &models().schema()), []);
    assert_ne!(
        dtta_base::check(&document, &Models::standard().schema()),
        []
    );
    let schema = models().schema();
    let last = schema["allOf"].as_array().unwrap().last().unwrap();
    let description = "One linear layer over all pixels.";
    assert_eq!(last["then"]["description"], description);
    let kinds = &schema["properties"]["kind"];
    let last = |name: &str| kinds[name].as_array().unwrap().last().unwrap();
    assert_eq!(last("enum"), "perceptron");
    assert_eq!(last("enumDescriptions"), description);
}

//! Parity with PyTorch, by the fixtures that `tests/reference/models.py` writes. Tolerance everywhere: largest absolute error
//! 1e-4, for outputs and for gradients (whose largest elements are between 0.2 and 13, as that script prints).

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use dtta_models::{
    Backbone, BatchNormStatistics, Denoiser, Dit, DitConfig, Models, ParameterSpec, ResNet,
    ResNetConfig, UNet, UNetConfig, Weights,
};
use dtta_tensor::{Device, Gradients, Named, Tensor};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

const TOLERANCE: f32 = 1e-4;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn denoiser(name: &str) -> (Box<dyn Denoiser>, Weights) {
    let config = fixture(&format!("{name}.json"));
    Models::standard()
        .load_denoiser(&config, None, &Device::cpu())
        .unwrap()
}

/// Inputs, outputs and gradients of one model.
struct Expected(BTreeMap<String, (Vec<usize>, Vec<f32>)>);

impl Expected {
    fn of(model: &str) -> Self {
        let bytes = fs::read(fixture(&format!("{model}.expected.safetensors"))).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let values = |view: &safetensors::tensor::TensorView| match view.dtype() {
            Dtype::F32 => view
                .data()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect(),
            Dtype::I64 => view
                .data()
                .chunks_exact(8)
                .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32)
                .collect(),
            other => panic!("{other:?}"),
        };
        Self(
            file.iter()
                .map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), values(&view))))
                .collect(),
        )
    }

    fn tensor(&self, name: &str) -> Tensor {
        let (shape, values) = &self.0[name];
        Tensor::from_floats(values, shape, &Device::cpu()).unwrap()
    }

    fn assert_close(&self, name: &str, found: &Tensor) {
        let (shape, values) = &self.0[name];
        assert_eq!(*found.shape(), **shape, "{name}");
        let found = found.to_floats().unwrap();
        let error = values
            .iter()
            .zip(&found)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        eprintln!("{name}: largest absolute error {error:.1e}");
        assert!(error <= TOLERANCE, "{name}: largest absolute error {error}");
    }

    /// The parameters whose gradients are known.
    fn differentiated(&self) -> impl Iterator<Item = &str> {
        let inputs = ["condition", "images"];
        self.0
            .keys()
            .filter_map(|name| name.strip_prefix("gradient."))
            .filter(move |name| !inputs.contains(name))
    }

    fn leaves(&self, weights: &Weights) -> Weights {
        let ids: Vec<_> = self
            .differentiated()
            .map(|name| weights.find(name).unwrap())
            .collect();
        weights.to_leaves(&ids).unwrap()
    }

    fn assert_gradients(&self, gradients: &Gradients, weights: &Weights) {
        for name in self.differentiated() {
            let leaf = weights.get(weights.find(name).unwrap());
            self.assert_close(&format!("gradient.{name}"), &gradients.of(leaf).unwrap());
        }
    }
}

fn check_denoiser(name: &str, slot: &str) {
    let (denoiser, weights) = denoiser(name);
    let expected = Expected::of(name);
    let weights = expected.leaves(&weights);
    let times: Vec<f64> = expected.0["input.timesteps"]
        .1
        .iter()
        .map(|&t| t.into())
        .collect();
    let condition = expected.tensor("input.condition").to_leaf().unwrap();
    let conditioning = Named::one(slot, condition.clone());
    let noise = denoiser
        .predict(
            &weights,
            &expected.tensor("input.noisy"),
            &times,
            &conditioning,
        )
        .unwrap();
    expected.assert_close("output.noise", &noise);
    let loss = noise
        .mul(&expected.tensor("input.cotangent"))
        .unwrap()
        .sum(&[], false)
        .unwrap();
    let gradients = loss.backward().unwrap();
    expected.assert_close("gradient.condition", &gradients.of(&condition).unwrap());
    expected.assert_gradients(&gradients, &weights);
}

#[test]
fn dit_gives_the_noise_and_the_gradients_of_the_reference() {
    check_denoiser("dit", "class-embedding");
}

#[test]
fn dit_with_a_variance_half_gives_the_noise_and_the_gradients_of_the_reference() {
    check_denoiser("dit_sigma", "class-embedding");
}

#[test]
fn dit_with_a_map_beside_the_image_gives_the_noise_and_the_gradients_of_the_reference() {
    check_denoiser("dit_spatial", "spatial");
}

#[test]
fn uvit_gives_the_noise_and_the_gradients_of_the_reference() {
    check_denoiser("uvit", "class-embedding");
    check_denoiser("uvit_conv", "class-embedding");
}

#[test]
fn unet_gives_the_noise_and_the_gradients_of_diffusers() {
    check_denoiser("unet", "spatial");
    check_denoiser("unet_plain", "spatial");
    check_denoiser("unet_cross", "tokens");
    check_denoiser("unet_cross_linear", "tokens");
}

/// The gradient of the DiT's cotangent product with respect to a condition.
fn gradient_of_condition(expected: &Expected, condition: &Tensor) -> Tensor {
    let (denoiser, weights) = denoiser("dit");
    let condition = condition.to_leaf().unwrap();
    let conditioning = Named::one("class-embedding", condition.clone());
    let noise = denoiser
        .predict(
            &weights,
            &expected.tensor("input.noisy"),
            &[3.0, 417.0, 999.0],
            &conditioning,
        )
        .unwrap();
    let loss = noise
        .mul(&expected.tensor("input.cotangent"))
        .unwrap()
        .sum(&[], false)
        .unwrap();
    loss.backward().unwrap().of(&condition).unwrap()
}

#[test]
fn dit_gradient_reaches_the_condition_with_frozen_weights() {
    let expected = Expected::of("dit");
    let condition = expected.tensor("input.condition");
    expected.assert_close(
        "gradient.condition",
        &gradient_of_condition(&expected, &condition),
    );
}

#[test]
fn a_condition_for_all_rows_gets_the_sum_of_their_gradients() {
    let expected = Expected::of("dit");
    let one = expected.tensor("input.condition").narrow(0, 1, 1).unwrap();
    let gradient = |condition: Tensor| gradient_of_condition(&expected, &condition);
    let shared = gradient(one.clone()).to_floats().unwrap();
    let apart = gradient(one.expand(&[3, 32]).unwrap())
        .sum(&[0], false)
        .unwrap()
        .to_floats()
        .unwrap();
    for (a, b) in shared.iter().zip(&apart) {
        assert!((a - b).abs() <= 1e-5, "{a} {b}");
    }
}

#[test]
fn the_rows_of_a_batch_do_not_see_one_another() {
    let (denoiser, weights) = denoiser("dit");
    let expected = Expected::of("dit");
    let (noisy, condition) = (
        expected.tensor("input.noisy"),
        expected.tensor("input.condition"),
    );
    let conditioned = |condition: Tensor| Named::one("class-embedding", condition);
    let whole = denoiser
        .predict(
            &weights,
            &noisy,
            &[3.0, 417.0, 999.0],
            &conditioned(condition.clone()),
        )
        .unwrap();
    for (row, &t) in [3.0, 417.0, 999.0].iter().enumerate() {
        let pick = |x: &Tensor| x.narrow(0, row, 1).unwrap();
        let alone = denoiser
            .predict(
                &weights,
                &pick(&noisy),
                &[t],
                &conditioned(pick(&condition)),
            )
            .unwrap();
        let (a, b) = (
            alone.to_floats().unwrap(),
            pick(&whole).to_floats().unwrap(),
        );
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-5));
    }
}

fn check_backbone(name: &str) -> (Box<dyn Backbone>, Weights, Expected) {
    let (backbone, weights) = Models::standard()
        .load_backbone(&fixture(&format!("{name}.json")), None, &Device::cpu())
        .unwrap();
    let expected = Expected::of(name);
    let leaves = expected.leaves(&weights);
    let images = expected.tensor("input.images").to_leaf().unwrap();
    let outputs: BTreeMap<_, _> = backbone
        .forward(&leaves, &images, BatchNormStatistics::Running)
        .unwrap()
        .into_iter()
        .collect();
    expected.assert_close("output.features", &outputs["features"]);
    expected.assert_close("output.logits", &outputs["logits"]);
    let loss = outputs["logits"]
        .mul(&expected.tensor("input.cotangent"))
        .unwrap()
        .sum(&[], false)
        .unwrap();
    let gradients = loss.backward().unwrap();
    expected.assert_close("gradient.images", &gradients.of(&images).unwrap());
    expected.assert_gradients(&gradients, &leaves);
    (backbone, weights, expected)
}

#[test]
fn resnet_with_group_norm_gives_the_logits_and_the_gradients_of_the_reference() {
    check_backbone("resnet_group");
}

#[test]
fn encoder_decoder_gives_the_maps_and_the_gradients_of_the_reference() {
    check_backbone("encoder_decoder");
}

#[test]
fn resnet_with_batch_norm_gives_the_logits_and_the_gradients_of_the_reference() {
    check_backbone("resnet_batch");
}

#[test]
fn resnet_with_the_statistics_of_the_batch_gives_the_logits_of_the_reference_in_training() {
    let (backbone, weights, expected) = check_backbone("resnet_batch");
    let images = expected.tensor("input.images");
    let outputs = backbone
        .forward(&weights, &images, BatchNormStatistics::Batch)
        .unwrap();
    expected.assert_close("output.batch_logits", outputs.get("logits").unwrap());
    let (outputs, observed) = backbone.forward_training(&weights, &images).unwrap();
    expected.assert_close("output.batch_logits", outputs.get("logits").unwrap());
    for (id, observed) in &observed {
        let name = &weights.spec(*id).name;
        let Some(statistic) = name.strip_prefix("bn1.") else {
            continue;
        };
        let kept = weights.get(*id).affine(0.9, 0.0).unwrap();
        expected.assert_close(
            &format!("output.{statistic}"),
            &kept.add(&observed.affine(0.1, 0.0).unwrap()).unwrap(),
        );
    }
    let buffers = weights
        .specs()
        .iter()
        .filter(|spec| spec.group == dtta_models::Group::Buffer)
        .count();
    assert_eq!(observed.len(), buffers);
}

/// Names and shapes, without what is accepted and dropped.
fn structure(name: &str) -> BTreeMap<String, Vec<usize>> {
    let table: Value =
        serde_json::from_str(&fs::read_to_string(fixture("structures.json")).unwrap()).unwrap();
    let mut structure: BTreeMap<String, Vec<usize>> =
        serde_json::from_value(table[name].clone()).unwrap();
    structure.retain(|name, _| !name.ends_with(".num_batches_tracked"));
    structure
}

fn declared(specs: &[ParameterSpec]) -> BTreeMap<String, Vec<usize>> {
    specs
        .iter()
        .map(|spec| (spec.name.clone(), spec.shape.clone()))
        .collect()
}

#[test]
fn dit_xl_2_is_a_configuration() {
    let config: DitConfig = serde_json::from_value(json!({
        "image": [4, 32, 32], "patch_size": 2, "hidden_size": 1152, "depth": 28, "num_heads": 16, "num_classes": 1000,
        "learn_sigma": true
    }))
    .unwrap();
    let dit = Dit::new(config).unwrap();
    assert_eq!(declared(dit.parameters()), structure("dit_xl_2"));
    assert_eq!(
        dit.parameters()
            .iter()
            .map(ParameterSpec::elements)
            .sum::<usize>(),
        675_129_632
    );
}

#[test]
fn resnets_of_torchvision_are_configurations() {
    for (name, extra) in [
        ("resnet18", json!({})),
        ("resnet34", json!({ "blocks": [3, 4, 6, 3] })),
        (
            "resnet50",
            json!({ "blocks": [3, 4, 6, 3], "block": "bottleneck" }),
        ),
    ] {
        let mut config = json!({ "image": [3, 224, 224], "classes": 1000 });
        config
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        let config: ResNetConfig = serde_json::from_value(config).unwrap();
        assert_eq!(
            declared(ResNet::new(config).unwrap().parameters()),
            structure(name),
            "{name}"
        );
    }
}

#[test]
fn unets_of_diffusers_are_configurations() {
    let config: UNetConfig = serde_json::from_value(json!({
        "image": [3, 32, 32], "block_out_channels": [128, 256, 256, 256], "attention_head_dim": 256,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"]
    }))
    .unwrap();
    let unet = UNet::new(config).unwrap();
    assert_eq!(declared(unet.parameters()), structure("ddpm_unet"));
    let config: UNetConfig = serde_json::from_value(json!({
        "image": [4, 64, 64], "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "tokens": { "length": 77, "width": 768, "heads": 8 }
    }))
    .unwrap();
    let unet = UNet::new(config).unwrap();
    assert_eq!(
        declared(unet.parameters()),
        structure("stable_diffusion_1_5")
    );
}

#[test]
fn the_fixed_position_table_is_that_of_the_reference() {
    for name in ["dit", "dit_sigma"] {
        let (denoiser, loaded) = denoiser(name);
        let made = Weights::initialise(denoiser.parameters(), 0, &Device::cpu()).unwrap();
        let table = |weights: &Weights| {
            weights
                .get(weights.find("pos_embed").unwrap())
                .to_floats()
                .unwrap()
        };
        assert!(
            table(&made)
                .iter()
                .zip(&table(&loaded))
                .all(|(a, b)| (a - b).abs() <= 1e-6)
        );
    }
}

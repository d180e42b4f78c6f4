//! Masked autoencoders, held to transformers by the fixtures that `tests/reference/masked.py` writes. Tolerance: largest absolute error
//! 2e-4 of features, reconstructions and losses; 1e-3 of a gradient's largest element.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dtta_models::{
    Backbone, BatchNormStatistics, Group, Models, Weights, read_tensors, write_tensors,
};
use dtta_tensor::{Device, Tensor};
use serde_json::{Value, json};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/masked")
}

fn expected() -> BTreeMap<String, Tensor> {
    read_tensors(&fixture().join("expected.safetensors"), &Device::cpu()).unwrap()
}

fn load(config: &Path, weights: &Path) -> (Box<dyn Backbone>, Weights) {
    Models::standard()
        .load_backbone(config, Some(weights), &Device::cpu())
        .unwrap()
}

fn published() -> (Box<dyn Backbone>, Weights) {
    let weights = fixture().join("model.safetensors");
    load(&fixture().join("config.json"), &weights)
}

/// The patches that transformers keeps under this noise: those of the four smallest numbers of 16 (16 · (1 - 0.7) = 4.8).
fn visible(noise: &Tensor) -> Vec<Vec<usize>> {
    let noise = noise.to_floats().unwrap();
    let rows = noise.chunks(16).map(|row| {
        let mut order: Vec<usize> = (0..16).collect();
        order.sort_by(|&a, &b| row[a].total_cmp(&row[b]));
        order.truncate(4);
        order.sort_unstable();
        order
    });
    rows.collect()
}

fn error(found: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(*found.shape(), *expected.shape());
    let (found, expected) = (found.to_floats().unwrap(), expected.to_floats().unwrap());
    let each = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    each.fold(0.0, f32::max)
}

#[test]
fn a_masked_autoencoder_reconstructs_as_that_of_transformers() {
    let (backbone, weights) = published();
    let expected = expected();
    let visible = visible(&expected["input.noise"]);
    let images = &expected["input.images"];
    let reconstruction = backbone.reconstruction().unwrap();
    assert_eq!(reconstruction.patches(), 16);
    let found = reconstruction
        .reconstruct(&weights, images, &visible)
        .unwrap();
    let away = error(&found, &expected["output.reconstruction"]);
    let losses = reconstruction.loss(&weights, images, &visible).unwrap();
    let of_loss = error(&losses, &expected["output.loss"]);
    let outputs = backbone
        .forward(&weights, images, BatchNormStatistics::Running)
        .unwrap();
    assert!(
        outputs.get("logits").is_none(),
        "there is no classifier in it"
    );
    let features = outputs.get("features").unwrap();
    let of_features = error(features, &expected["output.features"]);
    eprintln!("reconstruction {away:.1e}, loss {of_loss:.1e}, features {of_features:.1e}");
    assert!(away <= 2e-4 && of_loss <= 2e-4 && of_features <= 2e-4);
}

#[test]
fn a_masked_autoencoder_has_the_gradients_of_transformers() {
    let (backbone, weights) = published();
    let expected = expected();
    let names: Vec<&str> = expected
        .keys()
        .filter_map(|name| name.strip_prefix("gradient."))
        .collect();
    // Everything but the two tables of positions moves.
    let ids = weights.select(|spec| spec.group != Group::Buffer);
    assert_eq!(names.len(), ids.len());
    assert_eq!(ids.len() + 2, weights.len());
    let leaves = weights.to_leaves(&ids).unwrap();
    let visible = visible(&expected["input.noise"]);
    let losses = backbone
        .reconstruction()
        .unwrap()
        .loss(&leaves, &expected["input.images"], &visible)
        .unwrap();
    let gradients = losses.mean(&[], false).unwrap().backward().unwrap();
    for name in names {
        let expected = &expected[&format!("gradient.{name}")];
        let found = gradients
            .of(leaves.get(leaves.find(name).unwrap()))
            .unwrap();
        let largest = expected.abs().unwrap().amax(&[], false);
        let largest = largest.unwrap().item().unwrap();
        let relative = error(&found, expected) / largest;
        assert!(relative <= 1e-3, "{name}: relative error {relative}");
    }
}

#[test]
fn pixels_are_compared_as_they_are_where_the_configuration_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(fixture().join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["norm_pix_loss"] = json!(false);
    let path = folder.path().join("config.json");
    fs::write(&path, config.to_string()).unwrap();
    let (backbone, weights) = load(&path, &fixture().join("model.safetensors"));
    let expected = expected();
    let visible = visible(&expected["input.noise"]);
    let losses = backbone
        .reconstruction()
        .unwrap()
        .loss(&weights, &expected["input.images"], &visible)
        .unwrap();
    assert!(error(&losses, &expected["output.loss_of_pixels"]) <= 2e-4);
    assert!(error(&losses, &expected["output.loss"]) > 1e-2);
}

#[test]
fn checkpoints_of_earlier_versions_name_the_decoders_blocks_otherwise() {
    let stored = fixture().join("model.safetensors");
    let tensors = read_tensors(&stored, &Device::cpu()).unwrap();
    let renamed: BTreeMap<String, Tensor> = tensors
        .iter()
        .map(|(name, tensor)| {
            let name = name.replace("decoder_encoder.layer.", "decoder_layers.");
            (name, tensor.clone())
        })
        .collect();
    assert!(renamed.keys().ne(tensors.keys()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write_tensors(&path, &renamed).unwrap();
    let (_, earlier) = load(&fixture().join("config.json"), &path);
    let (_, weights) = published();
    for ((_, spec, a), (_, _, b)) in weights.iter().zip(earlier.iter()) {
        assert_eq!(
            a.to_floats().unwrap(),
            b.to_floats().unwrap(),
            "{}",
            spec.name
        );
    }
}

/// A small one of this crate's own kind.
fn small(changes: &Value) -> Result<Box<dyn Backbone>, String> {
    let mut config = json!({
        "kind": "vit", "image": [1, 8, 12], "classes": 3, "patch_size": 4, "width": 8, "depth": 1, "heads": 2,
        "fixed_positions": true, "decoder": {"width": 8, "depth": 1, "heads": 2, "norm_pix_loss": true},
    });
    for (pointer, value) in changes.as_object().unwrap() {
        match config.pointer_mut(pointer) {
            Some(place) => *place = value.clone(),
            None => config[&pointer[1..]] = value.clone(),
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.json");
    fs::write(&path, config.to_string()).unwrap();
    let backbone = Models::standard().backbone(&path);
    backbone.map_err(|error| error.to_string())
}

#[test]
fn a_model_whose_parts_do_not_fit_is_refused_by_pointer() {
    small(&json!({})).unwrap();
    small(&json!({"/class_token": false, "/pool": "average"})).unwrap();
    for (changes, pointer) in [
        (json!({"/decoder/width": 6}), "/decoder/width"),
        (json!({"/decoder/heads": 3}), "/decoder/width"),
        (json!({"/decoder/depth": 0}), "/decoder/depth"),
        (json!({"/norm_after_pool": true}), "/norm_after_pool"),
        (json!({"/image": [1, 4, 4]}), "/patch_size"),
        (json!({"/patch_size": 1}), "/decoder/norm_pix_loss"),
        (json!({"/width": 6, "/decoder": null}), "/width"),
        (json!({"/epsilon": 0}), "/epsilon"),
        (json!({"/image": [1, 65536, 65536]}), "/patch_size"),
    ] {
        let refused = small(&changes).err().unwrap();
        assert!(refused.contains(pointer), "{changes}: {refused}");
    }
}

#[test]
fn lists_of_patches_that_are_none_are_refused() {
    let backbone = small(&json!({})).unwrap();
    let weights = Weights::initialise(backbone.parameters(), 0, &Device::cpu()).unwrap();
    let images = Tensor::full(&[2, 1, 8, 12], 0.3, &Device::cpu()).unwrap();
    let loss = |visible: &[Vec<usize>]| {
        let reconstruction = backbone.reconstruction().unwrap();
        reconstruction.loss(&weights, &images, visible)
    };
    assert_eq!(*loss(&[vec![0, 3], vec![2, 5]]).unwrap().shape(), [2]);
    for visible in [
        vec![],
        vec![vec![0, 3]],
        vec![vec![0, 3], vec![1]],
        vec![vec![], vec![]],
        vec![vec![0, 3], vec![2, 6]],
        vec![vec![0, 3], vec![5, 2]],
        vec![vec![0, 0], vec![2, 5]],
        vec![vec![0, 1, 2, 3, 4, 5], vec![0, 1, 2, 3, 4, 5]],
    ] {
        let refused = loss(&visible).unwrap_err().to_string();
        assert!(refused.contains("list of visible patches"), "{refused}");
    }
}

#[test]
fn what_is_masked_has_no_way_into_what_is_said_of_it() {
    let backbone = small(&json!({"/decoder/norm_pix_loss": false})).unwrap();
    let weights = Weights::initialise(backbone.parameters(), 1, &Device::cpu()).unwrap();
    let visible = vec![vec![0, 4]];
    let image = |change: f32, patch: usize| {
        let pixels: Vec<f32> = (0..96)
            .map(|n| {
                let of_patch = (n / 12 / 4) * 3 + n % 12 / 4;
                (n as f32 * 0.37).sin() + if of_patch == patch { change } else { 0.0 }
            })
            .collect();
        Tensor::from_floats(&pixels, &[1, 1, 8, 12], &Device::cpu()).unwrap()
    };
    let said = |image: &Tensor| {
        let reconstruction = backbone.reconstruction().unwrap();
        let found = reconstruction.reconstruct(&weights, image, &visible);
        found.unwrap().to_floats().unwrap()
    };
    let plain = said(&image(0.0, 0));
    for patch in [1, 2, 3, 5] {
        assert_eq!(said(&image(1.0, patch)), plain, "patch {patch} is masked");
    }
    for patch in [0, 4] {
        assert_ne!(said(&image(1.0, patch)), plain, "patch {patch} is visible");
    }
}

#[test]
fn models_without_a_decoder_say_so() {
    let backbone = small(&json!({"/decoder": null})).unwrap();
    assert!(backbone.reconstruction().is_none());
}

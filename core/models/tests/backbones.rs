//! Backbones as timm publishes them, held to timm by the fixtures that `tests/reference/backbones.py` writes: folders that its own
//! `save_for_hf` saved. Tolerance: largest absolute error 2e-4 for features and logits; for gradients 2e-4 of their largest element, or
//! 2e-4 where that is less than 1. (That script prints the largest: logits of 1 to 3.6, gradients of 0.9 to 8.3.)

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dtta_models::{
    Backbone, BatchNormStatistics, Interpolation, Models, ParameterSpec, Resized, Weights,
    read_tensors, write_tensors,
};
use dtta_tensor::{Device, Tensor};
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/backbones")
}

fn assert_close(what: &str, found: &Tensor, expected: &Tensor, least: f32) {
    assert_eq!(*found.shape(), *expected.shape(), "{what}");
    let (found, expected) = (found.to_floats().unwrap(), expected.to_floats().unwrap());
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0f32, f32::max);
    let scale = largest(&mut expected.iter().map(|value| value.abs())).max(1.0);
    let error = largest(&mut found.iter().zip(&expected).map(|(a, b)| (a - b).abs()));
    eprintln!("{what}: largest absolute error {error:.1e} of {scale:.1}");
    let allowed = if least > 0.0 { least } else { 2e-4 * scale };
    assert!(error <= allowed, "{what}: largest absolute error {error}");
}

/// Compares features, logits and gradients of a network with what a library computed.
fn check(backbone: &dyn Backbone, weights: &Weights, expected: &Path) {
    let expected = read_tensors(expected, &Device::cpu()).unwrap();
    let gradients: Vec<&str> = expected
        .keys()
        .filter_map(|name| name.strip_prefix("gradient."))
        .collect();
    let ids: Vec<_> = gradients
        .iter()
        .filter(|name| **name != "images")
        .map(|name| weights.find(name).unwrap())
        .collect();
    assert!(ids.len() >= 2);
    let weights = weights.to_leaves(&ids).unwrap();
    let images = expected["input.images"].to_leaf().unwrap();
    let outputs = backbone
        .forward(&weights, &images, BatchNormStatistics::Running)
        .unwrap();
    let logits = outputs.get("logits").unwrap();
    let features = outputs.get("features").unwrap();
    assert_close("features", features, &expected["output.features"], 2e-4);
    assert_close("logits", logits, &expected["output.logits"], 2e-4);
    let loss = logits.mul(&expected["input.cotangent"]).unwrap();
    let found = loss.sum(&[], false).unwrap().backward().unwrap();
    for name in gradients {
        let leaf = match name {
            "images" => &images,
            name => weights.get(weights.find(name).unwrap()),
        };
        let name = format!("gradient.{name}");
        assert_close(&name, &found.of(leaf).unwrap(), &expected[&name], 0.0);
    }
}

fn check_folder(name: &str) {
    let folder = fixtures().join(name);
    let weights = folder.join("model.safetensors");
    let (backbone, weights) = Models::standard()
        .load_backbone(&folder.join("config.json"), Some(&weights), &Device::cpu())
        .unwrap();
    check(&*backbone, &weights, &folder.join("expected.safetensors"));
}

fn check_file(name: &str) {
    let config = fixtures().join("ours").join(format!("{name}.json"));
    let (backbone, weights) = Models::standard()
        .load_backbone(&config, None, &Device::cpu())
        .unwrap();
    check(
        &*backbone,
        &weights,
        &config.with_extension("expected.safetensors"),
    );
}

#[test]
fn a_convnext_of_timm_gives_its_logits_and_gradients() {
    check_folder("convnext");
}

#[test]
fn a_convnext_of_windows_with_the_norm_first_gives_the_logits_and_gradients_of_timm() {
    check_folder("convnext_conv_mlp");
}

#[test]
fn a_convnext_with_a_hidden_layer_in_its_head_gives_the_logits_and_gradients_of_timm() {
    check_folder("convnext_hidden");
}

#[test]
fn a_vision_transformer_with_patches_of_8_on_a_wide_image_gives_the_logits_and_gradients_of_timm() {
    check_folder("vit");
}

#[test]
fn a_vision_transformer_that_averages_with_layer_scale_gives_the_logits_and_gradients_of_timm() {
    check_folder("vit_average");
}

#[test]
fn residual_networks_of_timm_give_its_logits_and_gradients() {
    check_folder("resnet_basic");
    check_folder("resnet_bottleneck");
}

#[test]
fn an_efficientnet_gives_the_logits_and_gradients_of_timm() {
    check_file("lite");
}

#[test]
fn an_efficientnet_with_the_padding_of_tensorflow_gives_the_logits_and_gradients_of_timm() {
    check_file("lite_same");
}

/// Numbers that the script computes alike: splitmix64 of the place, from a hash (FNV-1a) of the name.
fn formula(name: &str, shape: &[usize]) -> Tensor {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let unit = |place: u64| {
        let mut z = place.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    let window: usize = shape[1..].iter().product();
    let norm = if name.ends_with("weight") { 1.0 } else { 0.0 };
    let value = |unit: f64| match shape.len() {
        _ if name.ends_with("running_var") => 1.0 + 0.5 * unit,
        1 => 0.2 * unit + norm,
        _ if name == "images" => 2.0 * unit,
        _ => unit * (5.0 / window as f64).sqrt(),
    };
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (1..=count as u64)
        .map(|place| value(unit(place)) as f32)
        .collect();
    Tensor::from_floats(&values, shape, &Device::cpu()).unwrap()
}

/// A network of a configuration with computed values, through a file of them.
fn computed(config: &Path) -> (Box<dyn Backbone>, Weights) {
    let models = Models::standard();
    let backbone = models.backbone(config).unwrap();
    let values = backbone.parameters().iter().map(|spec| {
        let values = formula(&spec.name, &spec.shape);
        (spec.name.clone(), values)
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    write_tensors(&file, &values.collect()).unwrap();
    models
        .load_backbone(config, Some(&file), &Device::cpu())
        .unwrap()
}

#[test]
fn a_residual_network_with_group_norm_gives_the_logits_and_gradients_of_timm() {
    let folder = fixtures().join("resnet_group");
    let (backbone, weights) = computed(&folder.join("config.json"));
    check(&*backbone, &weights, &folder.join("expected.safetensors"));
}

#[test]
fn efficientnet_lite0_at_full_size_gives_the_logits_of_timm() {
    let expected = read_tensors(&fixtures().join("lite.safetensors"), &Device::cpu()).unwrap();
    for name in ["efficientnet_lite0", "tf_efficientnet_lite0"] {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.json");
        let pretrained = json!({"input_size": [3, 70, 97], "crop_mode": "squash"});
        let document =
            json!({"architecture": name, "num_classes": 10, "pretrained_cfg": pretrained});
        fs::write(&config, document.to_string()).unwrap();
        let (backbone, weights) = computed(&config);
        let images = formula("images", &[1, 3, 70, 97]);
        let outputs = backbone
            .forward(&weights, &images, BatchNormStatistics::Running)
            .unwrap();
        for output in ["features", "logits"] {
            let found = outputs.get(output).unwrap();
            let name = format!("{name}.{output}");
            assert_close(&name, found, &expected[&name], 2e-4);
        }
    }
}

/// A digest of names and shapes, as the script's.
fn digest(specs: &[ParameterSpec]) -> String {
    let lines: BTreeMap<&str, String> = specs
        .iter()
        .map(|spec| {
            let line = format!("{} {:?}\n", spec.name, spec.shape);
            (spec.name.as_str(), line)
        })
        .collect();
    let lines: String = lines.into_values().collect();
    dtta_base::sha256(lines.as_bytes())
}

#[test]
fn every_architecture_has_the_tensors_and_the_preprocessing_that_timm_gives_it() {
    let table = fs::read_to_string(fixtures().join("structures.json")).unwrap();
    let table: Value = serde_json::from_str(&table).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    let models = Models::standard();
    let mut count = 0;
    for (name, expected) in table["timm"].as_object().unwrap() {
        let cfg = &expected["pretrained_cfg"];
        let document = json!({"architecture": name, "pretrained_cfg": cfg});
        fs::write(&config, document.to_string()).unwrap();
        let backbone = models.backbone(&config).unwrap();
        assert_eq!(json!(backbone.spec().image), cfg["input_size"], "{name}");
        assert_eq!(json!(backbone.spec().outputs), cfg["num_classes"], "{name}");
        let found = digest(backbone.parameters());
        assert_eq!(found, expected["tensors"], "{name}");
        let preprocessing = models.preprocessing(&config).unwrap().unwrap();
        let interpolation = match cfg["interpolation"].as_str().unwrap() {
            "bicubic" => Interpolation::Bicubic,
            _ => Interpolation::Bilinear,
        };
        assert_eq!(preprocessing.interpolation, interpolation, "{name}");
        let extent = cfg["input_size"][1].as_f64().unwrap();
        let short = (extent / cfg["crop_pct"].as_f64().unwrap()).floor() as usize;
        assert_eq!(preprocessing.resized, Resized::Short(short), "{name}");
        assert_eq!(json!(preprocessing.mean), cfg["mean"], "{name}");
        assert_eq!(json!(preprocessing.std), cfg["std"], "{name}");
        count += 1;
    }
    assert!(count >= 60, "{count}");
}

#[test]
fn heads_of_imagenet_21k_have_as_many_answers_as_the_checkpoint_says() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    for (architecture, tag, classes) in [
        ("convnext_tiny", "fb_in22k", 21_841),
        ("convnext_base", "fb_in22k_ft_in1k", 1000),
        ("vit_base_patch16_224", "augreg_in21k", 21_843),
        ("convnext_small", "in12k", 11_821),
    ] {
        let document = json!({
            "architecture": architecture, "num_classes": classes,
            "pretrained_cfg": {"tag": tag, "num_classes": classes, "custom_load": false},
        });
        fs::write(&config, document.to_string()).unwrap();
        let backbone = Models::standard().backbone(&config).unwrap();
        assert_eq!(backbone.spec().outputs, classes, "{architecture}.{tag}");
        let head = backbone
            .parameters()
            .iter()
            .find(|spec| ["head.fc.weight", "head.weight"].contains(&spec.name.as_str()));
        assert_eq!(head.unwrap().shape[0], classes);
    }
}

#[test]
fn every_transformer_with_a_second_head_for_distillation_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    for (architecture, arguments, expected) in [
        ("deit_tiny_distilled_patch16_224", json!({}), "head_dist"),
        (
            "deit_small_distilled_patch16_224.fb_in1k",
            json!({}),
            "head_dist",
        ),
        ("deit_base_distilled_patch16_384", json!({}), "head_dist"),
        (
            "deit_base_patch16_224",
            json!({"distilled": true}),
            "field distilled = true is not supported",
        ),
        (
            "deit_base_patch16_224",
            json!({"num_prefix_tokens": 2}),
            "field num_prefix_tokens = 2 is not supported",
        ),
    ] {
        let document =
            json!({"architecture": architecture, "model_args": arguments, "pretrained_cfg": {}});
        fs::write(&config, document.to_string()).unwrap();
        let error = Models::standard()
            .backbone(&config)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains(expected), "{architecture}: {error}");
    }
    // A checkpoint with that head under the name of a model without is told by its tensors.
    let folder = fixtures().join("vit");
    let mut tensors = read_tensors(&folder.join("model.safetensors"), &Device::cpu()).unwrap();
    let (head, bias) = (tensors["head.weight"].clone(), tensors["head.bias"].clone());
    tensors.insert("head_dist.weight".into(), head);
    tensors.insert("head_dist.bias".into(), bias);
    let distilled = tempfile::tempdir().unwrap();
    let path = distilled.path().join("model.safetensors");
    write_tensors(&path, &tensors).unwrap();
    let config = folder.join("config.json");
    let error = Models::standard().load_backbone(&config, Some(&path), &Device::cpu());
    let error = error.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("head_dist.weight"), "{error}");
}

#[test]
fn a_model_of_timm_that_was_trained_on_has_the_classes_that_its_own_file_says() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    // What `save_for_hf` of timm 0.9 writes of `create_model('resnet18.a1_in1k', num_classes=7)`, in short.
    for (own, expected) in [
        (json!({"num_classes": 7}), 7),
        (json!({"model_args": {"num_classes": 7}}), 7),
        (json!({}), 1000),
    ] {
        let mut document =
            json!({"architecture": "resnet18", "pretrained_cfg": {"num_classes": 1000}});
        let fields = document.as_object_mut().unwrap();
        fields.extend(own.as_object().unwrap().clone());
        std::fs::write(&config, document.to_string()).unwrap();
        let backbone = Models::standard().backbone(&config).unwrap();
        assert_eq!(backbone.spec().outputs, expected, "{document}");
    }
}

#[test]
fn what_another_kind_of_timm_needs_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    for (document, expected) in [
        (
            json!({"architecture": "deit_base_distilled_patch16_224", "pretrained_cfg": {}}),
            "field architecture = \"deit_base_distilled_patch16_224\" is not supported (it has a second head, `head_dist`",
        ),
        (
            json!({"architecture": "resnet50", "model_args": {"aa_layer": "blur"}, "pretrained_cfg": {}}),
            "field aa_layer = \"blur\" is not supported",
        ),
        (
            json!({"architecture": "resnet50", "pretrained_cfg": {"interpolation": "lanczos"}}),
            "field interpolation = \"lanczos\" is not supported",
        ),
        (
            json!({"architecture": "resnet50", "pretrained_cfg": {"crop_mode": "border"}}),
            "field crop_mode = \"border\" is not supported",
        ),
        (
            json!({"architecture": "vit_base_patch16_224", "model_args": {"img_size": 256}, "pretrained_cfg": {}}),
            "field img_size = 256 is not supported (pretrained_cfg's input_size is 224 by 224)",
        ),
        (
            json!({"architecture": "resnet50", "num_classes": 7, "model_args": {"num_classes": 8}, "pretrained_cfg": {}}),
            "field num_classes = 7 is not supported (another place of the file says 8)",
        ),
        (
            json!({"architecture": "resnet50"}),
            "field pretrained_cfg = null is not supported",
        ),
        (
            json!({"torchvision": "resnet50", "weights": "V3"}),
            "field weights = \"V3\" is not supported (it says how images are prepared; supported is `IMAGENET1K_V1`, `IMAGENET1K_V2`)",
        ),
        (
            json!({"architecture": "swin_base_patch4_window7_224", "pretrained_cfg": {}}),
            "this is a timm configuration of a `swin_base_patch4_window7_224`, which dtta does not have",
        ),
    ] {
        fs::write(&config, document.to_string()).unwrap();
        let error = Models::standard()
            .backbone(&config)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("config.json"), "{error}");
    }
}

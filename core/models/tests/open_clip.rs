//! CLIP in OpenCLIP's own layout, held to OpenCLIP by the fixtures that `tests/reference/clip_layouts.py` writes. Tolerance: largest absolute
//! error 2e-4 (answers up to 6 in size, gradients up to 1.4).

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::assert_close;
use dtta_models::{
    BatchNormStatistics, Interpolation, LOGIT_SCALE, ModelFiles, Models, Resized, Tokenizer,
    read_tensors,
};
use dtta_tensor::Device;
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/open_clip")
}

#[test]
fn clip_in_its_layout_answers_as_open_clip_does() {
    let (models, device) = (Models::standard(), Device::cpu());
    for name in ["quick", "gelu"] {
        let folder = fixtures().join(name);
        let expected = read_tensors(&folder.join("expected.safetensors"), &device).unwrap();
        let (text, weights) = models.load_text_encoder(&folder, None, &device).unwrap();
        let texts = expected["input.texts"].to_floats().unwrap();
        let texts: Vec<Vec<u32>> = texts
            .chunks(77)
            .map(|text| text.iter().map(|&token| token as u32).collect())
            .collect();
        let found = text.encode(&weights, &texts).unwrap().pooled;
        assert_close(
            &format!("{name}: texts"),
            &found,
            &expected["output.text_features"],
        );
        assert_eq!(
            Tokenizer::open(&folder).unwrap().vocabulary(),
            text.spec().vocabulary
        );

        let (backbone, weights) = models.load_backbone(&folder, None, &device).unwrap();
        let images = expected["input.images"].to_leaf().unwrap();
        let outputs = backbone
            .forward(&weights, &images, BatchNormStatistics::Running)
            .unwrap();
        let features = outputs.get("features").unwrap();
        assert_close(
            &format!("{name}: images"),
            features,
            &expected["output.features"],
        );
        let scale = backbone.constants(&weights).unwrap();
        let scale = scale.get(LOGIT_SCALE).unwrap();
        assert_close(
            &format!("{name}: scale"),
            scale,
            &expected["output.logit_scale"],
        );
        let loss = features.mul(&expected["input.cotangent"]).unwrap();
        let gradients = loss.sum(&[], false).unwrap().backward().unwrap();
        let found = gradients.of(&images).unwrap();
        assert_close(
            &format!("{name}: gradient"),
            &found,
            &expected["gradient.images"],
        );
    }
}

#[test]
fn images_are_prepared_as_the_configuration_says() {
    let models = Models::standard();
    let of = |name: &str| {
        models
            .preprocessing(&fixtures().join(name))
            .unwrap()
            .unwrap()
    };
    let (quick, gelu) = (of("quick"), of("gelu"));
    assert_eq!(quick.resized, Resized::Short(24));
    assert_eq!(quick.interpolation, Interpolation::Bicubic);
    assert!((quick.mean[0] - 0.481_454_66).abs() < 1e-9);
    assert_eq!(gelu.resized, Resized::To([24, 24]));
    assert_eq!(gelu.interpolation, Interpolation::Bilinear);
    assert_eq!((gelu.mean, gelu.std), ([0.5; 3], [0.5; 3]));
}

#[test]
fn a_folder_that_transformers_wrote_too_is_read_as_open_clips_where_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (from, name) in [
        ("quick", "open_clip_config.json"),
        ("quick", "open_clip_pytorch_model.bin"),
    ] {
        fs::copy(fixtures().join(from).join(name), folder.path().join(name)).unwrap();
    }
    let named = folder.path().join("open_clip_config.json");
    let weights = folder.path().join("open_clip_pytorch_model.bin");
    assert_eq!(
        ModelFiles::find(folder.path(), None).unwrap().weights,
        weights
    );
    for name in ["config.json", "model.safetensors"] {
        fs::copy(
            fixtures().join("../text/clip").join(name),
            folder.path().join(name),
        )
        .unwrap();
    }
    assert_eq!(ModelFiles::find(&named, None).unwrap().weights, weights);
    let whole = ModelFiles::find(folder.path(), None).unwrap();
    assert_eq!(whole.config, folder.path().join("config.json"));
    assert_eq!(whole.weights, folder.path().join("model.safetensors"));
    // Others than these are told.
    let misfit = Models::standard().load_backbone(&named, Some(&whole.weights), &Device::cpu());
    let misfit = misfit.map(|_| ()).unwrap_err().to_string();
    assert!(misfit.contains("`visual.conv1.weight`"), "{misfit}");
}

#[test]
fn what_changes_what_is_computed_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("open_clip_config.json");
    let base = fs::read_to_string(fixtures().join("quick/open_clip_config.json")).unwrap();
    let base: Value = serde_json::from_str(&base).unwrap();
    for (pointer, value) in [
        ("/model_cfg/custom_text", json!(true)),
        ("/model_cfg/embed_dim", Value::Null),
        ("/model_cfg/new", json!(1)),
        ("/model_cfg/init_logit_bias", json!(-10)),
        (
            "/model_cfg/vision_cfg/timm_model_name",
            json!("vit_base_patch16_siglip_224"),
        ),
        ("/model_cfg/vision_cfg/pool_type", json!("avg")),
        ("/model_cfg/vision_cfg/no_ln_pre", json!(true)),
        ("/model_cfg/vision_cfg/head_width", json!(7)),
        ("/model_cfg/vision_cfg/image_size", json!([0, 24])),
        ("/model_cfg/vision_cfg/qk_norm", json!(true)),
        (
            "/model_cfg/text_cfg/hf_model_name",
            json!("xlm-roberta-base"),
        ),
        ("/model_cfg/text_cfg/no_causal_mask", json!(true)),
        ("/model_cfg/text_cfg/pool_type", json!("eos")),
        ("/preprocess_cfg/resize_mode", json!("longest")),
        ("/preprocess_cfg/size", json!(32)),
        ("/preprocess_cfg/std", json!([0.5, 0.0, 0.5])),
    ] {
        let mut document = base.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        document.pointer_mut(parent).unwrap()[name] = value.clone();
        fs::write(&path, document.to_string()).unwrap();
        let models = Models::standard();
        let images = models
            .backbone(&path)
            .map(|_| ())
            .map_err(|e| e.to_string());
        let texts = models
            .text_encoder(&path)
            .map(|_| ())
            .map_err(|e| e.to_string());
        let told: String = [images, texts]
            .into_iter()
            .filter_map(Result::err)
            .collect();
        assert!(told.contains(pointer), "{pointer} = {value}: {told}");
    }
}

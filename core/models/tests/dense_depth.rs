//! DenseDepth, held to PyTorch with torchvision's DenseNet as its encoder by the fixtures that `tests/reference/dense_depth.py` writes.
//! Tolerances: largest absolute error 2e-4 for answers, 1e-3 of the largest element for gradients.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dtta_models::{BatchNormStatistics, Models, Resized, read_tensors, write_tensors};
use dtta_tensor::{Device, Tensor};
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dense_depth")
}

/// The largest difference, and the largest element of what was expected.
fn difference(what: &str, found: &Tensor, expected: &Tensor) -> (f32, f32) {
    assert_eq!(*found.shape(), *expected.shape(), "{what}");
    let (found, expected) = (found.to_floats().unwrap(), expected.to_floats().unwrap());
    let pairs = found.iter().zip(&expected);
    let error = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let size = expected.iter().map(|x| x.abs()).fold(0.0, f32::max);
    eprintln!("{what}: largest absolute error {error:.1e} of {size:.2}");
    (error, size)
}

#[test]
fn dense_depth_answers_as_torchvisions_densenet_under_its_decoder_does() {
    let (models, device) = (Models::standard(), Device::cpu());
    for name in ["keras", "pytorch"] {
        let config = fixtures().join(format!("{name}.json"));
        let (backbone, weights) = models.load_backbone(&config, None, &device).unwrap();
        assert!(backbone.spec().per_pixel && backbone.spec().batch_statistics);
        let expected = config.with_extension("expected.safetensors");
        let expected = read_tensors(&expected, &device).unwrap();
        let names = expected
            .keys()
            .filter_map(|name| name.strip_prefix("gradient."));
        let names: Vec<&str> = names.filter(|name| *name != "images").collect();
        assert_eq!(names.len(), 3);
        let ids: Vec<_> = names
            .iter()
            .map(|name| weights.find(name).unwrap())
            .collect();
        let weights = weights.to_leaves(&ids).unwrap();
        let images = expected["input.images"].to_leaf().unwrap();
        let outputs = backbone
            .forward(&weights, &images, BatchNormStatistics::Running)
            .unwrap();
        let logits = outputs.get("logits").unwrap();
        let features = outputs.get("features").unwrap();
        for (what, found) in [("output.logits", logits), ("output.features", features)] {
            let (error, _) = difference(&format!("{name}: {what}"), found, &expected[what]);
            assert!(error <= 2e-4, "{name}: {what}: {error}");
        }
        let loss = logits.mul(&expected["input.cotangent"]).unwrap();
        let gradients = loss.sum(&[], false).unwrap().backward().unwrap();
        let leaves = names
            .iter()
            .zip(&ids)
            .map(|(name, id)| (*name, weights.get(*id)));
        for (of, leaf) in leaves.chain([("images", &images)]) {
            let found = gradients.of(leaf).unwrap();
            let what = format!("gradient.{of}");
            let (error, size) = difference(&format!("{name}: {what}"), &found, &expected[&what]);
            assert!(error <= 1e-3 * size, "{name}: {what}: {error} of {size}");
        }
    }
}

#[test]
fn a_checkpoint_of_the_authors_has_the_tensors_of_densenet169_and_of_the_decoder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.json");
    let described = |document: Value| {
        fs::write(&path, document.to_string()).unwrap();
        Models::standard()
            .describe(&path, None)
            .map_err(|error| error.to_string())
    };
    let found = described(json!({"densedepth": "densenet169"})).unwrap();
    let preprocessing = found.preprocessing.unwrap();
    assert_eq!(preprocessing.resized, Resized::To([480, 640]));
    assert_eq!(
        (preprocessing.mean, preprocessing.std),
        ([0.0; 3], [1.0; 3])
    );
    assert_eq!(found.document["both_activated"], false);
    let digests = fs::read_to_string(fixtures().join("structure.json")).unwrap();
    let digests: BTreeMap<String, String> = serde_json::from_str(&digests).unwrap();
    let lines = found.model.parameters().iter();
    let mut lines: Vec<String> = lines
        .map(|spec| format!("{} {:?}\n", spec.name, spec.shape))
        .collect();
    lines.sort();
    assert_eq!(
        dtta_base::sha256(lines.concat().as_bytes()),
        digests["densenet169"]
    );

    let other =
        described(json!({"densedepth": "densenet169", "size": [64, 96], "both_activated": true}));
    let other = other.unwrap().document;
    assert_eq!(
        (&other["image"], &other["both_activated"]),
        (&json!([3, 64, 96]), &json!(true))
    );
    for (document, word) in [
        (json!({"densedepth": "densenet121"}), "`densenet169`"),
        (
            json!({"densedepth": "densenet169", "weights": "nyu"}),
            "field weights",
        ),
        (
            json!({"densedepth": "densenet169", "size": [16, 16]}),
            "/encoder/blocks",
        ),
    ] {
        let refused = described(document.clone()).map(|_| ()).unwrap_err();
        assert!(refused.contains(word), "{document}: {refused}");
    }
}

#[test]
fn the_classifier_of_the_encoder_may_be_left_over() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("model.json");
    fs::write(&config, json!({"densedepth": "densenet169"}).to_string()).unwrap();
    let device = Device::cpu();
    let tensor = |name: &str| (name.to_owned(), Tensor::full(&[2], 0.0, &device).unwrap());
    let tensors = [
        "encoder.original_model.classifier.bias",
        "decoder.conv4.bias",
    ]
    .map(tensor);
    let weights = config.with_extension("safetensors");
    write_tensors(&weights, &BTreeMap::from(tensors)).unwrap();
    let found = Models::standard().describe(&config, None).unwrap();
    let fit = found.weights.unwrap().fit;
    assert_eq!(fit.unused, ["encoder.original_model.classifier.bias"]);
    assert_eq!(fit.mismatches.extra, ["decoder.conv4.bias"]);
}

#[test]
fn refuses_a_structure_that_cannot_be() {
    let base = json!({
        "kind": "dense_depth", "image": [3, 64, 64], "both_activated": true,
        "encoder": {"growth": 8, "blocks": [2, 2, 2, 2], "stem_width": 16},
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.json");
    let built = |document: &Value| {
        fs::write(&path, document.to_string()).unwrap();
        Models::standard()
            .backbone(&path)
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    built(&base).unwrap();
    for (pointer, value) in [
        ("/encoder/growth", json!(0)),
        ("/encoder/blocks", json!([2])),
        ("/encoder/blocks", json!([2, 0])),
        (
            "/encoder/blocks",
            json!([1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000]),
        ),
        ("/encoder/blocks", json!(vec![1; 17])),
        ("/encoder/stem_width", json!(70_000)),
        ("/encoder/bottleneck", json!(65_536)),
        ("/image", json!([3, 0, 64])),
        ("/decoder_width", json!(15)),
        ("/both_activated", Value::Null),
    ] {
        let mut document = base.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        document.pointer_mut(parent).unwrap()[name] = value.clone();
        let told = built(&document).unwrap_err();
        assert!(told.contains(pointer), "{pointer} = {value}: {told}");
    }
    let mut small = base;
    small["image"] = json!([3, 16, 64]);
    let told = built(&small).unwrap_err();
    assert!(told.contains("/encoder/blocks"), "{told}");
}

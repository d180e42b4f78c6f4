//! Golden plugins: components as they were built for each version of the interface, which load and compute the same forever. They are
//! never built anew; `tests/fixtures/compat/VERSION/` gets those that ship when a version is frozen.

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dtta_plugin::{Environment, Plugin, SlotSpec, Values};
use dtta_tensor::{Device, Named, Tensor};
use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The plugin of that name from every frozen version.
fn golden(name: &str) -> Vec<Plugin> {
    let versions = fs::read_dir(root().join("tests/fixtures/compat")).unwrap();
    let mut found = Vec::new();
    for version in versions {
        let path = version.unwrap().path().join(name).with_extension("wasm");
        if path.is_file() {
            found.push(Plugin::from_file(&path).unwrap());
        }
    }
    assert!(!found.is_empty(), "there is no golden `{name}`");
    found
}

fn floats(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_floats(values, shape, &Device::cpu()).unwrap()
}

fn ints(shape: &[usize], values: &[i64]) -> Tensor {
    Tensor::from_ints(values, shape, &Device::cpu()).unwrap()
}

fn one(name: &str, tensor: Tensor) -> Named {
    Named::one(name, tensor)
}

fn read(named: &Named, name: &str) -> Vec<f32> {
    let tensor = named.get(name).unwrap();
    match tensor.to_floats() {
        Ok(values) => values,
        Err(_) => tensor
            .to_ints()
            .unwrap()
            .iter()
            .map(|&n| n as f32)
            .collect(),
    }
}

fn assert_near(found: &[f32], expected: &[f32]) {
    let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
    assert!(
        found.len() == expected.len() && found.iter().zip(expected).all(near),
        "{found:?}, expected {expected:?}"
    );
}

/// The slot that a mapper hears of, without its batch.
fn slot(name: &str, shape: &[usize]) -> [SlotSpec; 1] {
    let extents = shape.iter().map(|&extent| Some(extent));
    [SlotSpec {
        name: name.into(),
        meaning: "a golden slot".into(),
        shape: std::iter::once(None).chain(extents).collect(),
    }]
}

fn scores(
    plugin: &Plugin,
    config: &Value,
    predictions: &Named,
    targets: &Named,
) -> BTreeMap<String, f64> {
    let environment = Environment::default();
    let mut first = plugin.metric(config, &environment).unwrap();
    first.update(predictions, targets).unwrap();
    // Saved and taken up again, as a resumed run does.
    let mut metric = plugin.metric(config, &environment).unwrap();
    metric.merge(&first.save()).unwrap();
    metric.report().unwrap()
}

fn assert_scores(found: &BTreeMap<String, f64>, expected: &[(&str, f64)]) {
    for (name, value) in expected {
        assert!((found[*name] - value).abs() < 1e-5, "{name} in {found:?}");
    }
}

#[test]
fn every_frozen_version_of_the_interface_has_golden_plugins() {
    for version in fs::read_dir(root().join("wit/frozen")).unwrap() {
        let name = version.unwrap().file_name();
        let folder = root().join("tests/fixtures/compat").join(&name);
        let plugins = fs::read_dir(&folder).unwrap().count();
        assert!(plugins >= 6, "{} holds {plugins}", folder.display());
    }
}

#[test]
fn classification_still_predicts_and_mixes() {
    for plugin in golden("classification") {
        let environment = Environment::default()
            .with_constant("class-embeddings", floats(&[2, 2], &[0.0, 0.0, 4.0, 8.0]));
        let mut head = plugin.head(&json!({}), &environment).unwrap();
        // Odds of three to one.
        let logits = floats(&[1, 2], &[0.0, 3f32.ln()]).to_leaf().unwrap();
        let outputs = head
            .forward(&one("logits", logits.clone()), &mut Values::none())
            .unwrap();
        assert_near(&read(&outputs, "probabilities"), &[0.25, 0.75]);
        let prediction = head.predict(&outputs).unwrap();
        assert_near(&read(&prediction, "class"), &[1.0]);
        let mut mapper = plugin
            .mapper(&json!({}), &slot("class-embedding", &[2]), &environment)
            .unwrap();
        let condition = mapper.condition(&outputs, &mut Values::none()).unwrap();
        assert_near(&read(&condition, "class-embedding"), &[3.0, 6.0]);
        // ∂(4 p₁) / ∂logits = 4 p₁ (1 - p₁) (-1, 1), and twice that from the second channel.
        let sum = condition
            .get("class-embedding")
            .unwrap()
            .sum(&[], false)
            .unwrap();
        let gradient = sum.backward().unwrap().of(&logits).unwrap();
        assert_near(&gradient.to_floats().unwrap(), &[-2.25, 2.25]);
    }
}

#[test]
fn segmentation_still_predicts_mixes_and_scores() {
    for plugin in golden("segmentation") {
        let environment =
            Environment::default().with_constant("class-embeddings", floats(&[2, 1], &[0.0, 4.0]));
        let mut head = plugin.head(&json!({}), &environment).unwrap();
        // Two pixels: three to one for the second class, and for the first.
        let logits = floats(&[1, 2, 1, 2], &[0.0, 3f32.ln(), 3f32.ln(), 0.0]);
        let outputs = head
            .forward(&one("logits", logits), &mut Values::none())
            .unwrap();
        let prediction = head.predict(&outputs).unwrap();
        assert_near(&read(&prediction, "labels"), &[1.0, 0.0]);
        let mut mapper = plugin
            .mapper(&json!({}), &slot("spatial", &[1, 1, 1]), &environment)
            .unwrap();
        let condition = mapper.condition(&outputs, &mut Values::none()).unwrap();
        assert_near(&read(&condition, "spatial"), &[2.0]);
        let found = scores(
            &plugin,
            &json!({"classes": 2}),
            &one("labels", ints(&[1, 1, 3], &[0, 1, 1])),
            &one("labels", ints(&[1, 1, 3], &[0, 0, 255])),
        );
        // Class 0: one of two found. Its union is 2; class 1 is only a mistake.
        assert_scores(
            &found,
            &[
                ("pixel_accuracy", 0.5),
                ("mean_class_accuracy", 0.5),
                ("miou", 0.25),
            ],
        );
    }
}

#[test]
fn depth_still_predicts_maps_and_scores() {
    for plugin in golden("depth") {
        let environment = Environment::default();
        let config = json!({"range": {"scale": "linear", "maximum": 4}});
        let mut head = plugin.head(&config, &environment).unwrap();
        let logits = floats(&[1, 1, 1, 2], &[0.0, 3f32.ln()]);
        let outputs = head
            .forward(&one("logits", logits), &mut Values::none())
            .unwrap();
        assert_near(
            &read(&head.predict(&outputs).unwrap(), "depth"),
            &[2.0, 3.0],
        );
        let mut mapper = plugin
            .mapper(&config, &slot("spatial", &[1, 1, 2]), &environment)
            .unwrap();
        let condition = mapper.condition(&outputs, &mut Values::none()).unwrap();
        assert_near(&read(&condition, "spatial"), &[0.0, 0.5]);
        let flat = |value| one("depth", floats(&[1, 11, 11], &[value; 121]));
        let found = scores(&plugin, &config, &flat(2.0), &flat(1.0));
        assert_scores(
            &found,
            &[
                ("abs_rel", 1.0),
                ("rmse", 1.0),
                ("log10", 2f64.log10()),
                ("delta3", 0.0),
            ],
        );
    }
}

#[test]
fn entropy_still_measures() {
    for plugin in golden("entropy") {
        let mut objective = plugin
            .objective(&json!({}), &Environment::default())
            .unwrap();
        let loss = objective
            .loss(&one("logits", floats(&[1, 2], &[1.0, 1.0])))
            .unwrap();
        assert_near(&loss.to_floats().unwrap(), &[2f32.ln()]);
    }
}

#[test]
fn accuracy_still_counts() {
    for plugin in golden("accuracy") {
        let predictions = one("class", ints(&[4], &[0, 1, 2, 3]))
            .with("confidence", floats(&[4], &[1.0, 0.5, 1.0, 0.5]));
        let targets = one("class", ints(&[4], &[0, 1, 2, 0]));
        let found = scores(&plugin, &json!({}), &predictions, &targets);
        assert_scores(&found, &[("accuracy", 0.75), ("confidence", 0.75)]);
    }
}

#[test]
fn a_head_with_values_of_its_own_still_gets_them() {
    for plugin in golden("linear") {
        let config = json!({"features": 2, "classes": 2});
        let mut head = plugin.head(&config, &Environment::default()).unwrap();
        let values = head
            .values()
            .iter()
            .map(|spec| match spec.name.as_str() {
                // Swaps two features.
                "weight" => floats(&[2, 2], &[0.0, 1.0, 1.0, 0.0]),
                "bias" => floats(&[2], &[10.0, 20.0]),
                _ => Tensor::full(&spec.shape, 0.0, &Device::cpu()).unwrap(),
            })
            .collect();
        let features = one("features", floats(&[1, 2], &[1.0, 2.0]));
        let outputs = head.forward(&features, &mut Values::new(values)).unwrap();
        assert_near(&read(&outputs, "logits"), &[12.0, 21.0]);
    }
}

#[test]
fn a_component_written_in_c_still_measures() {
    for plugin in golden("margin") {
        let mut objective = plugin
            .objective(&json!({}), &Environment::default())
            .unwrap();
        // Odds of three to one: 1 - (3/4 - 1/4).
        let loss = objective
            .loss(&one("logits", floats(&[1, 2], &[3f32.ln(), 0.0])))
            .unwrap();
        assert_near(&loss.to_floats().unwrap(), &[0.5]);
    }
}

//! The shipped plugin, linked and as a component: the same bits, forward and backward.

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

use std::path::{Path, PathBuf};

use dtta_plugin::{Environment, LoaderKind, Plugin, SlotSpec, Values};
use dtta_tensor::{Device, Named, Tensor};
use serde_json::{Value, json};

const SAMPLES: usize = 3;
const CLASSES: usize = 10;
const WIDTH: usize = 32;

/// Numbers without a pattern in [-1, 1).
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn tensor(shape: &[usize], seed: u32) -> Tensor {
    Tensor::from_floats(
        &numbers(shape.iter().product(), seed),
        shape,
        &Device::cpu(),
    )
    .unwrap()
}

fn environment() -> Environment {
    Environment::default().with_constant("class-embeddings", tensor(&[CLASSES, WIDTH], 7))
}

fn slots() -> [SlotSpec; 1] {
    [SlotSpec {
        name: "class-embedding".into(),
        meaning: "class-embedding".into(),
        shape: vec![None, Some(WIDTH)],
    }]
}

fn linked() -> Plugin {
    Plugin::linked("classification", dtta_plugin_classification::plugin_entry).unwrap()
}

/// The committed component; none before the first `cargo xtask plugins build`.
fn component() -> Option<Plugin> {
    let manifest: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/classification/dist/plugin.json");
    if !manifest.is_file() {
        eprintln!(
            "skipped: there is no {}; run `cargo xtask plugins build`",
            manifest.display()
        );
        return None;
    }
    Some(Plugin::from_manifest(&manifest).unwrap())
}

/// Everything that a step takes from a plugin: outputs, prediction, conditioning, and the
/// gradient of a loss on the conditioning with respect to the logits.
fn step(plugin: &Plugin, head: &Value, mapper: &Value) -> Vec<(String, Vec<u32>)> {
    let mut head = plugin.head(head, &environment()).unwrap();
    let mut mapper = plugin.mapper(mapper, &slots(), &environment()).unwrap();
    let leaf = tensor(&[SAMPLES, CLASSES], 3)
        .affine(4.0, 0.0)
        .unwrap()
        .to_leaf()
        .unwrap();
    let outputs = head
        .forward(&Named::one("logits", leaf.clone()), &mut Values::none())
        .unwrap();
    let prediction = head.predict(&outputs).unwrap();
    let slots = mapper.condition(&outputs, &mut Values::none()).unwrap();
    let conditioning = slots.get("class-embedding").unwrap();
    assert!(conditioning.is_tracked());
    let loss = conditioning
        .mul(&tensor(&[SAMPLES, WIDTH], 11))
        .unwrap()
        .sum(&[], false)
        .unwrap();
    let gradient = loss.backward().unwrap().of(&leaf).unwrap();
    let named: Named = outputs.into_iter().chain(prediction).chain(slots).collect();
    let named = named.with("gradient", gradient);
    named
        .iter()
        .map(|(name, tensor)| {
            let bits = match tensor.to_floats() {
                Ok(floats) => floats.iter().map(|value| value.to_bits()).collect(),
                Err(_) => tensor
                    .to_ints()
                    .unwrap()
                    .iter()
                    .map(|&value| value as u32)
                    .collect(),
            };
            (name.to_owned(), bits)
        })
        .collect()
}

const CONFIGS: [(&str, &str); 3] = [
    ("{}", "{}"),
    (r#"{"temperature": 2.0}"#, r#"{"top_k": 3}"#),
    (r#"{"top_k": 2}"#, r#"{"top_k": 10}"#),
];

#[test]
fn gives_the_same_bits_linked_and_as_a_component() {
    let Some(component) = component() else { return };
    assert_eq!(
        (component.loader(), linked().loader()),
        (LoaderKind::Wasm, LoaderKind::Linked)
    );
    for (head, mapper) in CONFIGS {
        let (head, mapper) = (
            serde_json::from_str(head).unwrap(),
            serde_json::from_str(mapper).unwrap(),
        );
        let bits = step(&component, &head, &mapper);
        assert_eq!(bits, step(&linked(), &head, &mapper), "{head} {mapper}");
        assert_eq!(bits, step(&component, &head, &mapper), "twice the same");
        let (name, gradient) = bits.last().unwrap();
        assert_eq!(
            (name.as_str(), gradient.len()),
            ("gradient", SAMPLES * CLASSES)
        );
        assert!(gradient.iter().any(|&bits| f32::from_bits(bits) != 0.0));
    }
}

#[test]
fn says_the_same_of_itself_linked_and_as_a_component() {
    let Some(component) = component() else { return };
    let linked = linked();
    assert_eq!(component.name(), linked.name());
    assert_eq!(component.version(), linked.version());
    assert_eq!(component.roles(), linked.roles());
    assert_eq!(
        component.descriptor().config_schema,
        linked.descriptor().config_schema
    );
    assert_eq!(
        component.descriptor().needs.constants,
        linked.descriptor().needs.constants
    );
    assert_eq!(component.predicts(), linked.predicts());
    assert_eq!(linked.predicts().unwrap().name, "class");
}

/// The linked plugin against the operations written out: c = softmax(logits) · embeddings. On
/// the tape, as in a step: off it the backend rounds a softmax otherwise.
#[test]
fn mixes_class_embeddings_by_probability() {
    let bits = step(&linked(), &json!({}), &json!({}));
    let leaf = tensor(&[SAMPLES, CLASSES], 3)
        .affine(4.0, 0.0)
        .unwrap()
        .to_leaf()
        .unwrap();
    let mixture = leaf
        .softmax(-1)
        .unwrap()
        .matmul(&tensor(&[CLASSES, WIDTH], 7))
        .unwrap();
    let expected: Vec<u32> = mixture
        .to_floats()
        .unwrap()
        .iter()
        .map(|value| value.to_bits())
        .collect();
    let (_, found) = bits
        .iter()
        .find(|(name, _)| name == "class-embedding")
        .unwrap();
    assert_eq!(*found, expected);
}

#[test]
fn refuses_a_config_by_its_schema() {
    for plugin in component().into_iter().chain([linked()]) {
        let error = plugin
            .mapper(&json!({"top_k": 0}), &slots(), &environment())
            .err()
            .unwrap();
        assert_eq!(error.code(), "invalid-config");
        assert!(error.to_string().contains("`/top_k`"), "{error}");
    }
}

#[test]
fn names_the_constant_that_is_not_bound() {
    for plugin in component().into_iter().chain([linked()]) {
        let mut mapper = plugin
            .mapper(&json!({}), &slots(), &Environment::default())
            .unwrap();
        let logits = Named::one("logits", tensor(&[1, CLASSES], 1));
        let error = mapper.condition(&logits, &mut Values::none()).unwrap_err();
        assert_eq!(error.code(), "unknown-name");
        assert!(error.to_string().contains("class-embeddings"), "{error}");
    }
}

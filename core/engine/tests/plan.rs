//! What a run takes, told without its files. One test, since operations are counted in the whole process.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;

use common::{Fixture, extensions};
use dtta::{Document, Plan};
use dtta_models::Models;
use dtta_tensor::Device;
use serde_json::{Value, json};

#[test]
fn a_plan_names_what_is_missing_and_measures_models_without_their_weights() {
    let fixture = Fixture::new();
    let plan = |experiment: &Value| {
        let extensions = extensions();
        let path = fixture.write(experiment);
        let document = Document::load(&path, &[], &extensions.methods).unwrap();
        Plan::of(&document, &extensions, Device::cpu()).unwrap()
    };
    let mut experiment = Fixture::experiment();
    experiment["method"]["max_memory"] = json!(1 << 30);
    let whole = plan(&experiment);
    assert_eq!(whole.missing, []);
    let work = whole.work.unwrap();
    // The stem, 1 to 8 channels at 8 × 8; two 3 × 3 windows of 8 channels there; of 16 at 4 × 4, one from 8 channels; the shortcut of one
    // pixel's window; the classifier.
    let first = 8 * 9 * 64 + 2 * 8 * 8 * 9 * 64;
    let second = 16 * 8 * 9 * 16 + 16 * 16 * 9 * 16 + 16 * 8 * 16;
    assert_eq!(work.task.multiply_adds, (first + second + 16 * 4) as u64);
    let draw = work.draw.unwrap();
    assert!(draw.multiply_adds > 0 && draw.bytes > 0 && draw.seconds > 0.0);
    // A gibibyte holds more than the six draws that there are, and more than the ten that a call may have.
    assert_eq!((work.steps, work.draws, work.micro_batch), (2, 6, 10));
    let models = Models::standard();
    let denoiser = models
        .denoiser(&fixture.path().join("denoiser.json"))
        .unwrap();
    let elements = |spec: &dtta_models::ParameterSpec| spec.elements();
    let parameters: usize = denoiser.parameters().iter().map(elements).sum();
    assert_eq!(work.denoiser_parameters, parameters);

    fs::remove_file(fixture.path().join("denoiser.safetensors")).unwrap();
    fs::remove_file(fixture.path().join("sample.safetensors")).unwrap();
    experiment["models"]["denoiser"]["origin"] = json!("the shelf");
    let without = plan(&experiment);
    let pointers: Vec<&str> = without
        .missing
        .iter()
        .map(|missing| missing.pointer.as_str())
        .collect();
    assert_eq!(pointers, ["/data", "/models/denoiser/weights"]);
    let weights = &without.missing[1];
    assert!(weights.path.ends_with("denoiser.safetensors"));
    assert_eq!(weights.origin.as_deref(), Some("the shelf"));
    let random = without.work.unwrap();
    assert_eq!(random.draw.unwrap().multiply_adds, draw.multiply_adds);
    // How models see images needs no weights.
    assert_eq!(random.seen, work.seen);
    assert_eq!(random.seen["denoiser"].range(), Some([-1.0, 1.0]));

    experiment["models"]["label_space"] = json!({"kind": "objectnet", "mappings": "mappings"});
    let without = plan(&experiment);
    let files = without
        .missing
        .iter()
        .filter(|missing| missing.pointer == "/models/label_space");
    assert_eq!(files.count(), 4);
    assert_eq!(without.work, None);
    experiment["models"]["label_space"] = Value::Null;
    assert_eq!(random.denoiser_parameters, parameters);

    experiment["models"]["backbone"]["config"] = json!("timm:nothing_of_the_name");
    let unknown = plan(&experiment);
    assert!(unknown.work.is_none());
    let config = unknown
        .missing
        .iter()
        .find(|missing| missing.pointer == "/models/backbone/config");
    assert!(config.unwrap().path.ends_with("timm:nothing_of_the_name"));
}

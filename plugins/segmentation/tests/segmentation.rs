//! What the roles give for inputs small enough to work out by hand, and what they refuse.

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

use dtta_plugin::{Environment, Metric, Plugin, PluginError, SlotSpec, Values};
use dtta_tensor::{Device, Named, Tensor};
use serde_json::{Value, json};

fn plugin() -> Plugin {
    Plugin::linked("segmentation", dtta_plugin_segmentation::plugin_entry).unwrap()
}

fn floats(name: &str, shape: &[usize], values: &[f32]) -> Named {
    let tensor = Tensor::from_floats(values, shape, &Device::cpu()).unwrap();
    Named::one(name, tensor)
}

fn labels(shape: &[usize], values: &[i64]) -> Named {
    let tensor = Tensor::from_ints(values, shape, &Device::cpu()).unwrap();
    Named::one("labels", tensor)
}

fn slot(shape: &[Option<usize>]) -> [SlotSpec; 1] {
    [SlotSpec {
        name: "spatial".into(),
        meaning: "spatial".into(),
        shape: shape.into(),
    }]
}

fn with_embeddings(shape: &[usize], values: &[f32]) -> Environment {
    let table = Tensor::from_floats(values, shape, &Device::cpu()).unwrap();
    Environment::default().with_constant("class-embeddings", table)
}

fn metric(config: Value) -> Box<dyn Metric> {
    plugin().metric(&config, &Environment::default()).unwrap()
}

fn assert_scores(metric: &mut dyn Metric, expected: [f64; 3]) {
    let scores = metric.report().unwrap();
    let names = ["pixel_accuracy", "mean_class_accuracy", "miou"];
    assert_eq!(scores.len(), names.len(), "{scores:?}");
    for (name, value) in names.into_iter().zip(expected) {
        assert!((scores[name] - value).abs() < 1e-12, "{name}: {scores:?}");
    }
}

#[test]
fn scores_what_the_confusion_matrix_comes_to() {
    let mut metric = metric(json!({"classes": 3}));
    // By class of the target: 0 -> 3, 1, 0; 1 -> 1, 2, 0. The 2 is predicted where nothing counts.
    metric
        .update(
            &labels(&[1, 2, 4], &[0, 0, 1, 1, 0, 2, 0, 1]),
            &labels(&[1, 2, 4], &[0, 0, 0, 1, 1, 255, 0, 1]),
        )
        .unwrap();
    let classes = (3.0 / 4.0 + 2.0 / 3.0) / 2.0;
    assert_scores(&mut *metric, [5.0 / 7.0, classes, (3.0 / 5.0 + 0.5) / 2.0]);
    // One 0 more that is taken for a 2: no target has that class, but a union has it.
    metric
        .update(&labels(&[1, 1, 1], &[2]), &labels(&[1, 1, 1], &[0]))
        .unwrap();
    let classes = (3.0 / 5.0 + 2.0 / 3.0) / 2.0;
    assert_scores(&mut *metric, [5.0 / 8.0, classes, (0.5 + 0.5 + 0.0) / 3.0]);
}

#[test]
fn leaves_out_the_label_that_is_to_be_ignored() {
    let mut metric = metric(json!({"classes": 2, "ignore_index": -1}));
    let predicted = labels(&[2, 1, 2], &[0, 1, 1, 0]);
    metric
        .update(&predicted, &labels(&[2, 1, 2], &[-1, -1, -1, -1]))
        .unwrap();
    assert!(metric.report().unwrap().is_empty());
    metric
        .update(&predicted, &labels(&[2, 1, 2], &[-1, 1, 0, -1]))
        .unwrap();
    assert_scores(&mut *metric, [0.5, 0.5, 0.25]);
}

#[test]
fn ignores_a_class_as_torchmetrics_does() {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/miou.json")).unwrap();
    let field = |name: &str| serde_json::from_value::<Vec<i64>>(fixture[name].clone()).unwrap();
    let shape: Vec<usize> = field("shape").iter().map(|side| *side as usize).collect();
    let (predicted, target) = (field("predicted"), field("target"));
    let expected = fixture["miou_by_ignore_index"].as_object().unwrap();
    assert_eq!(expected.len(), 6);
    for (ignored, expected) in expected {
        let ignored: i64 = ignored.parse().unwrap();
        let mut metric = metric(json!({ "classes": fixture["classes"], "ignore_index": ignored }));
        metric
            .update(&labels(&shape, &predicted), &labels(&shape, &target))
            .unwrap();
        let found = metric.report().unwrap()["miou"];
        assert!(
            (found - expected.as_f64().unwrap()).abs() < 1e-6,
            "{ignored}: {found}, not {expected}"
        );
    }
}

#[test]
fn names_a_label_that_is_no_class() {
    let mut metric = metric(json!({"classes": 5}));
    let (good, bad) = (
        labels(&[2, 1, 2], &[0; 4]),
        labels(&[2, 1, 2], &[0, 1, 2, 7]),
    );
    let error = metric.update(&good, &bad).unwrap_err().to_string();
    assert!(error.contains("target label of image 1"), "{error}");
    assert!(error.contains("is 7; there are 5 classes"), "{error}");
    let error = metric.update(&bad, &good).unwrap_err().to_string();
    assert!(error.contains("predicted label of image 1"), "{error}");
    let error = metric.update(&labels(&[2, 2, 1], &[0; 4]), &good);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("[2, 2, 1]") && error.contains("[2, 1, 2]"),
        "{error}"
    );
    assert!(
        metric.report().unwrap().is_empty(),
        "what failed counts for nothing"
    );
}

#[test]
fn predicts_the_most_likely_class_of_each_pixel() {
    let mut head = plugin()
        .head(&json!({"temperature": 2.0}), &Environment::default())
        .unwrap();
    // Two pixels; in the first, class 1 is e times as likely as class 0 at this temperature.
    let logits = floats("logits", &[1, 2, 1, 2], &[0.0, 3.0, 2.0, 3.0]);
    let outputs = head.forward(&logits, &mut Values::none()).unwrap();
    let names: Vec<&str> = outputs.names().collect();
    assert_eq!(names, ["logits", "probabilities"]);
    assert_eq!(
        outputs.get("logits").unwrap().to_floats().unwrap(),
        [0.0, 1.5, 1.0, 1.5]
    );
    let prediction = head.predict(&outputs).unwrap();
    let labels = prediction.get("labels").unwrap();
    assert_eq!(*labels.shape(), [1, 1, 2]);
    assert_eq!(labels.to_ints().unwrap()[0], 1);
    let confidence = prediction.get("confidence").unwrap().to_floats().unwrap();
    let expected = [1.0_f32.exp() / (1.0 + 1.0_f32.exp()), 0.5];
    for (found, expected) in confidence.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{confidence:?}");
    }
    let flat = floats("logits", &[1, 4], &[0.0; 4]);
    let error = head.forward(&flat, &mut Values::none()).unwrap_err();
    assert_eq!(error.code(), "shape-mismatch", "{error}");
}

#[test]
fn class_shares_of_an_image_cost_their_divergence_from_those_of_training() {
    let mut objective = plugin()
        .objective(&json!({"shares": [3, 1]}), &Environment::default())
        .unwrap();
    // Two images of two pixels: all of class 0; then a half of each class, and all of class 1, so p̄ = (1/4, 3/4).
    let probabilities = [1.0, 1.0, 0.0, 0.0, 0.5, 0.0, 0.5, 1.0];
    let outputs = floats("probabilities", &[2, 2, 1, 2], &probabilities);
    let loss = objective.loss(&outputs).unwrap().to_floats().unwrap();
    // ln(1 / (3/4)), and 1/4 ln(1/3) + 3/4 ln 3.
    let expected = [-(0.75_f32.ln()), 0.5 * 3_f32.ln()];
    for (found, expected) in loss.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-5, "{loss:?}");
    }
    let other = floats("probabilities", &[1, 3, 1, 1], &[0.2, 0.3, 0.5]);
    let error = objective.loss(&other).unwrap_err();
    assert_eq!(error.code(), "shape-mismatch", "{error}");
    for shares in [json!([1]), json!([1, 0]), json!([1, -1])] {
        let error = plugin().objective(&json!({"shares": shares}), &Environment::default());
        let error = error.err().unwrap().to_string();
        assert!(error.contains("shares"), "{error}");
    }
}

#[test]
fn mixes_class_embeddings_over_each_cell() {
    // Two classes, an image of 2 x 4, two cells: the first is class 0 in 3 of 4 pixels, the second class 1 all over.
    let of_one = [0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0];
    let of_zero = of_one.map(|p| 1.0 - p);
    let probabilities = floats("probabilities", &[1, 2, 2, 4], &[of_zero, of_one].concat());
    let environment = with_embeddings(&[2, 3], &[1.0, 2.0, 3.0, -1.0, 0.0, 5.0]);
    let shape = [None, Some(3), Some(1), Some(2)];
    let mut mapper = plugin()
        .mapper(&json!({}), &slot(&shape), &environment)
        .unwrap();
    let slots = mapper
        .condition(&probabilities, &mut Values::none())
        .unwrap();
    assert_eq!(*slots.get("spatial").unwrap().shape(), [1, 3, 1, 2]);
    let expected = [0.5, -1.0, 1.5, 0.0, 3.5, 5.0];
    assert_eq!(slots.get("spatial").unwrap().to_floats().unwrap(), expected);
}

#[test]
fn refuses_classes_and_slots_that_do_not_fit() {
    let probabilities = floats("probabilities", &[1, 2, 2, 2], &[0.5; 8]);
    let refusal = |shape: &[Option<usize>], embeddings: &[usize]| -> PluginError {
        let values = vec![0.0; embeddings.iter().product()];
        let environment = with_embeddings(embeddings, &values);
        let mut mapper = match plugin().mapper(&json!({}), &slot(shape), &environment) {
            Ok(mapper) => mapper,
            Err(error) => return error,
        };
        let called = mapper.condition(&probabilities, &mut Values::none());
        called.unwrap_err()
    };
    let fits = [None, Some(3), Some(2), Some(2)];
    let error = refusal(&fits, &[5, 3]).to_string();
    assert!(
        error.contains("2 classes") && error.contains("5 rows"),
        "{error}"
    );
    let error = refusal(&fits, &[2, 4]).to_string();
    assert!(
        error.contains("4 wide") && error.contains("3 channels"),
        "{error}"
    );
    let error = refusal(&[None, Some(3)], &[2, 3]);
    assert_eq!(error.code(), "invalid-config", "{error}");
    assert!(error.to_string().contains("of rank 2"), "{error}");
    let error = refusal(&[None, Some(3), None, None], &[2, 3]).to_string();
    assert!(error.contains("not fixed"), "{error}");
}

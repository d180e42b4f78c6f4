//! Roles by hand, and what they make of normals that are none.

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

use dtta_plugin::{Environment, Plugin, SlotSpec, Values};
use dtta_tensor::{Device, Named, Tensor};
use serde_json::json;

fn plugin() -> Plugin {
    Plugin::linked("normals", dtta_plugin_normals::plugin_entry).unwrap()
}

fn floats(name: &str, shape: &[usize], values: &[f32]) -> Named {
    Named::one(
        name,
        Tensor::from_floats(values, shape, &Device::cpu()).unwrap(),
    )
}

/// A denoiser's slot of so many channels and 1 by 1 cell.
fn slot(channels: usize) -> [SlotSpec; 1] {
    [SlotSpec {
        name: "spatial".into(),
        meaning: "spatial".into(),
        shape: [None, Some(channels), Some(1), Some(1)].into(),
    }]
}

#[test]
fn the_denoiser_is_told_the_mean_of_unit_vectors() {
    let environment = Environment::default();
    let plugin = plugin();
    let mut head = plugin.head(&json!({}), &environment).unwrap();
    // Two pixels: (3, 0, 4) and (0, 0, -2).
    let logits = floats("logits", &[1, 3, 1, 2], &[3.0, 0.0, 0.0, 0.0, 4.0, -2.0]);
    let outputs = head.forward(&logits, &mut Values::none()).unwrap();
    let found = outputs.get("normals").unwrap().to_floats().unwrap();
    for (found, expected) in found.iter().zip([0.6, 0.0, 0.0, 0.0, 0.8, -1.0]) {
        assert!((found - expected).abs() < 1e-5, "{found}");
    }
    let mut mapper = plugin.mapper(&json!({}), &slot(3), &environment).unwrap();
    let told = mapper.condition(&outputs, &mut Values::none()).unwrap();
    let told = told.get("spatial").unwrap().to_floats().unwrap();
    for (found, expected) in told.iter().zip([0.3, 0.0, -0.1]) {
        assert!((found - expected).abs() < 1e-5, "{told:?}");
    }
    assert!(plugin.mapper(&json!({}), &slot(1), &environment).is_err());
}

#[test]
fn scores_agree_with_a_calculation_by_hand() {
    let mut metric = plugin()
        .metric(&json!({}), &Environment::default())
        .unwrap();
    // Pixels: the same at another length, 90 degrees, 20 degrees, unknown, not finite.
    let (sin, cos) = 20f32.to_radians().sin_cos();
    let target = [
        0.0,
        1.0,
        1.0,
        0.0,
        f32::NAN, //
        0.6,
        0.0,
        0.0,
        0.0,
        0.0, //
        -0.8,
        0.0,
        0.0,
        0.0,
        0.0,
    ];
    let predicted = [
        0.0, 0.0, cos, 1.0, 1.0, //
        3.0, 2.0, sin, 0.0, 0.0, //
        -4.0, 0.0, 0.0, 0.0, 0.0,
    ];
    let shape = [1, 3, 1, 5];
    let (predicted, target) = (
        floats("normals", &shape, &predicted),
        floats("normals", &shape, &target),
    );
    metric.update(&predicted, &target).unwrap();
    let scores = metric.report().unwrap();
    assert!(
        (scores["mean_angle"] - 110.0 / 3.0).abs() < 1e-4,
        "{scores:?}"
    );
    for (name, share) in [
        ("within_11_25", 1.0 / 3.0),
        ("within_22_5", 2.0 / 3.0),
        ("within_30", 2.0 / 3.0),
    ] {
        assert!((scores[name] - share).abs() < 1e-12, "{name}: {scores:?}");
    }
}

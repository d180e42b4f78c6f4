//! Plugins that own a part of the model or of the loss: values, objectives, metrics.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::collections::BTreeMap;

use common::Fixture;
use dtta::Error;
use dtta_models::write_tensors;
use dtta_tensor::{Device, Tensor};
use serde_json::{Value, json};

/// The tiny experiment with a head that has a layer and a running mean of its own.
fn with_linear_head() -> Value {
    let mut experiment = Fixture::experiment();
    experiment["plugins"]["head"] = json!({
        "use": "linked:linear",
        "config": {"features": 16, "classes": 4, "momentum": 0.25},
    });
    experiment
}

#[test]
fn a_heads_own_layer_adapts_and_starts_afresh_with_each_episode() {
    let fixture = Fixture::new();
    let mut experiment = with_linear_head();
    // Nothing but the head's layer moves.
    experiment["method"]["parameters"] = json!({"group": "none", "include": ["linear.*"]});
    experiment["adaptation"]["mode"] = json!({"kind": "single_sample"});
    fixture.run(&experiment, "together").unwrap();
    let together = fixture.records("together");
    assert!(
        together
            .iter()
            .all(|record| record.source.confidence != record.adapted.confidence)
    );
    experiment["adaptation"]["batch"] = json!(1);
    fixture.run(&experiment, "alone").unwrap();
    for (a, b) in together.iter().zip(fixture.records("alone")) {
        assert!(
            (a.adapted.confidence.unwrap() - b.adapted.confidence.unwrap()).abs() < 1e-4,
            "{a:?}\n{b:?}"
        );
    }
}

#[test]
fn values_of_plugins_survive_an_interruption() {
    let fixture = Fixture::new();
    let experiment = with_linear_head();
    fixture.run(&experiment, "whole").unwrap();
    let stopped = fixture
        .run_until(&experiment, "parts", false, 4)
        .unwrap_err();
    assert!(matches!(stopped, Error::Interrupted { .. }), "{stopped}");
    fixture
        .run_until(&experiment, "parts", true, usize::MAX)
        .unwrap();
    assert_eq!(fixture.records("whole"), fixture.records("parts"));
    // The running mean moved on the way: without it the records are others.
    let mut still = with_linear_head();
    still["plugins"]["head"]["config"]["momentum"] = json!(0.0);
    fixture.run(&still, "still").unwrap();
    assert_ne!(fixture.records("whole"), fixture.records("still"));
}

#[test]
fn values_come_from_a_file_that_has_all_of_them() {
    let fixture = Fixture::new();
    let device = Device::cpu();
    let weight: Vec<f32> = (0..64).map(|i| (i as f32).sin()).collect();
    let tensors = [
        (
            "linear.weight",
            Tensor::from_floats(&weight, &[4, 16], &device).unwrap(),
        ),
        ("linear.bias", Tensor::full(&[4], 0.5, &device).unwrap()),
        ("linear.mean", Tensor::full(&[16], 0.1, &device).unwrap()),
    ];
    let named: BTreeMap<String, Tensor> = tensors
        .into_iter()
        .map(|(name, tensor)| (name.to_owned(), tensor))
        .collect();
    let path = fixture.path().join("head.safetensors");
    write_tensors(&path, &named).unwrap();
    let mut experiment = with_linear_head();
    experiment["method"]["steps"] = json!(0);
    fixture.run(&experiment, "drawn").unwrap();
    experiment["plugins"]["head"]["weights"] = json!("head.safetensors");
    fixture.run(&experiment, "loaded").unwrap();
    assert_ne!(fixture.records("drawn"), fixture.records("loaded"));

    let few: BTreeMap<String, Tensor> = named.into_iter().take(1).collect();
    write_tensors(&path, &few).unwrap();
    let error = fixture.run(&experiment, "refused").unwrap_err().to_string();
    assert!(
        error.contains("linear.mean") && error.contains("linear.weight"),
        "{error}"
    );
}

#[test]
fn an_objective_alone_lowers_what_it_says() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    experiment["plugins"]["objectives"] = json!([{"use": "linked:entropy", "weight": 2.0}]);
    experiment["method"] = json!({
        "kind": "objectives", "steps": 2, "optimizer": {"kind": "adam", "learning_rate": 1e-2}
    });
    experiment["adaptation"]["mode"] = json!({"kind": "single_sample"});
    let summary = fixture.run(&experiment, "tent").unwrap();
    assert_eq!(summary.draws_per_second, 0.0);
    let records = fixture.records("tent");
    assert!(records.iter().all(|record| record.loss.is_empty()));
    // Lower entropy is more confidence, for all but those that change their mind.
    let surer = records
        .iter()
        .filter(|record| record.adapted.confidence > record.source.confidence)
        .count();
    assert!(
        surer * 10 >= records.len() * 9,
        "{surer} of {}",
        records.len()
    );
}

#[test]
fn an_objective_joins_the_feedback() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    fixture.run(&experiment, "feedback").unwrap();
    experiment["plugins"]["objectives"] = json!([{"use": "linked:entropy", "weight": 0.0}]);
    fixture.run(&experiment, "nothing").unwrap();
    assert_eq!(
        fixture.records("feedback"),
        fixture.records("nothing"),
        "a weight of 0 adds nothing"
    );
    experiment["plugins"]["objectives"][0]["weight"] = json!(1.0);
    fixture.run(&experiment, "both").unwrap();
    assert_ne!(fixture.records("feedback"), fixture.records("both"));
}

#[test]
fn a_metric_plugin_scores_as_the_core_does_and_resumes() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    let core = fixture.run(&experiment, "core").unwrap();
    experiment["plugins"]["metric"] = json!({"use": "linked:accuracy"});
    let plugin = fixture.run(&experiment, "plugin").unwrap();
    assert_eq!(plugin.metric, "accuracy");
    for (a, b) in core.domains.iter().zip(&plugin.domains) {
        assert_eq!(
            a.adapted.keys().collect::<Vec<_>>(),
            b.adapted.keys().collect::<Vec<_>>()
        );
        for (x, y) in a.adapted.values().zip(b.adapted.values()) {
            assert!((x - y).abs() < 1e-6, "{a:?}\n{b:?}");
        }
    }
    fixture
        .run_until(&experiment, "parts", false, 4)
        .unwrap_err();
    let resumed = fixture
        .run_until(&experiment, "parts", true, usize::MAX)
        .unwrap();
    assert_eq!(resumed.mean, plugin.mean);
}

#[test]
fn faults_of_plugin_configurations_are_named_by_place() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    experiment["plugins"]["objectives"] =
        json!([{"use": "linked:entropy", "config": {"margn": 1}}]);
    let error = fixture.prepare(&experiment).err().unwrap().to_string();
    assert!(
        error.contains("/plugins/objectives/0/config") && error.contains("margn"),
        "{error}"
    );
    experiment["plugins"]["objectives"] = json!([{"use": "linked:accuracy"}]);
    let error = fixture.prepare(&experiment).err().unwrap().to_string();
    assert!(error.contains("no role `objective`"), "{error}");
}

#[test]
fn limits_of_an_experiment_hold_its_plugins() {
    let fixture = Fixture::new();
    for (role, plugin) in [
        ("head", "linked:classification"),
        ("mapper", "linked:classification"),
    ] {
        for limit in ["bytes", "work", "operations"] {
            let mut experiment = Fixture::experiment();
            experiment["plugins"][role]["use"] = json!(plugin);
            experiment["plugins"]["limits"] = json!({ limit: 1 });
            let error = fixture.run(&experiment, "refused").unwrap_err().to_string();
            assert!(
                error.contains(&format!("`plugins.limits.{limit}`")),
                "{error}"
            );
        }
    }
    let mut experiment = Fixture::experiment();
    experiment["plugins"]["head"]["use"] = json!(component("classification"));
    for (limit, value) in [
        ("component_functions", 10),
        ("component_bytes", 1000),
        ("instructions", 10),
    ] {
        experiment["plugins"]["limits"] = json!({ limit: value });
        let error = fixture.run(&experiment, "refused").unwrap_err().to_string();
        assert!(
            error.contains(&format!("`plugins.limits.{limit}`")),
            "{error}"
        );
    }
    experiment["plugins"]["limits"] = json!({"compile_seconds": 60, "bytes": 1 << 30});
    fixture.run(&experiment, "allowed").unwrap();
}

/// The committed component of a plugin that ships.
fn component(name: &str) -> String {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.join("plugins")
        .join(name)
        .canonicalize()
        .unwrap()
        .display()
        .to_string()
}

#[test]
fn a_limit_that_is_none_is_refused_by_its_pointer() {
    let fixture = Fixture::new();
    for (limits, pointer) in [
        (json!({"bytes": 0}), "/plugins/limits/bytes"),
        (json!({"work": -1}), "/plugins/limits/work"),
        (json!({"byte": 1}), "/plugins/limits"),
        (json!({"handles": 1_000_001}), "/plugins/limits/handles"),
    ] {
        let mut experiment = Fixture::experiment();
        experiment["plugins"]["limits"] = limits;
        let error = fixture.run(&experiment, "refused").unwrap_err().to_string();
        assert!(error.contains(pointer), "{error}");
    }
}

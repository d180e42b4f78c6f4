//! The plugins that ship, through every loader: linked, as a shared library, as a component. All
//! pass the same checks, and all give the same bits, forward and backward.

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

use std::process::Command;

use dtta_plugin::{Environment, LoaderKind, Plugin, PluginError, Registry, Values};
use dtta_tensor::{Device, Named, Tensor};
use dtta_testkit::{Inputs, Kit, Role};
use serde_json::{Value, json};

mod support;

use support::{SHIPPED, bits, leaf, library, root};

fn linked(name: &str) -> Plugin {
    let entry = match name {
        "accuracy" => dtta_plugin_accuracy::plugin_entry as dtta_abi::Entry,
        "classification" => dtta_plugin_classification::plugin_entry,
        "depth" => dtta_plugin_depth::plugin_entry,
        "entropy" => dtta_plugin_entropy::plugin_entry,
        "palette-mix" => dtta_plugin_palette_mix::plugin_entry,
        "segmentation" => dtta_plugin_segmentation::plugin_entry,
        "text-mix" => dtta_plugin_text_mix::plugin_entry,
        "zero-shot" => dtta_plugin_zero_shot::plugin_entry,
        _ => dtta_plugin_linear::plugin_entry,
    };
    Plugin::linked(name, entry).unwrap()
}

fn loaded(name: &str) -> [Plugin; 3] {
    let component = Registry::default().find(name, root()).or_else(|_| {
        Plugin::from_manifest(&root().join(format!("plugins/{name}/dist/plugin.json")))
    });
    let native = Plugin::from_file(&library(name)).unwrap();
    let plugins = [linked(name), native, component.unwrap()];
    let loaders = plugins.each_ref().map(Plugin::loader);
    assert_eq!(
        loaders,
        [LoaderKind::Linked, LoaderKind::Native, LoaderKind::Wasm]
    );
    plugins
}

fn config(name: &str, role: Role) -> Value {
    match (name, role) {
        ("linear", _) => json!({"features": 8, "classes": 5, "momentum": 0.5}),
        ("depth", _) => json!({"range": {"scale": "log", "maximum": 10.0}}),
        ("palette-mix", _) => {
            json!({"palette": [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]]})
        }
        ("segmentation", Role::Metric) => json!({"classes": 5}),
        ("segmentation", Role::Objective) => json!({"shares": [0.64, 0.22, 0.09, 0.03, 0.02]}),
        _ => json!({}),
    }
}

#[test]
fn every_plugin_conforms_through_every_loader() {
    for name in SHIPPED {
        for plugin in loaded(name) {
            let roles = plugin.roles().to_vec();
            let configured = roles.iter().fold(Kit::new(plugin), |kit, &role| {
                kit.config(role, config(name, role))
            });
            configured.check().expect_passed();
        }
    }
}

#[test]
fn every_loader_says_the_same_of_the_task() {
    for name in SHIPPED {
        let said = loaded(name).map(|plugin| {
            (
                plugin.predicts().cloned(),
                plugin.scores().to_vec(),
                plugin.additive(),
            )
        });
        assert_eq!(said[0], said[1], "{name}");
        assert_eq!(said[0], said[2], "{name}");
    }
}

#[test]
fn loaders_give_the_same_bits_forward_and_backward() {
    let environment =
        Environment::default().with_constant("class-embeddings", leaf(&[5, 6], 2.0).detach());
    let slots = Inputs::examples()[0].1.slots.clone();
    let logits = leaf(&[3, 5], 0.0);
    let named = Named::one("logits", logits.clone());

    let mapped = loaded("classification").map(|plugin| {
        let mut mapper = plugin
            .mapper(&json!({"top_k": 3}), &slots, &environment)
            .unwrap();
        bits(
            &mapper.condition(&named, &mut Values::none()).unwrap(),
            &[&logits],
        )
    });
    assert_eq!(mapped[0], mapped[1]);
    assert_eq!(mapped[0], mapped[2]);

    let texts = Environment::default()
        .with_constant("text-embeddings", leaf(&[5, 4, 6], 2.0).detach())
        .with_constant("text-features", leaf(&[5, 8], 3.0).detach())
        .with_constant("logit-scale", leaf(&[1], 4.0).detach());
    let examples = Inputs::examples();
    let tokens = &examples[examples.len() - 1].1.slots;
    let mapped = loaded("text-mix").map(|plugin| {
        let of = |top: Value| {
            let mut mapper = plugin.mapper(&top, tokens, &texts).unwrap();
            bits(
                &mapper.condition(&named, &mut Values::none()).unwrap(),
                &[&logits],
            )
        };
        [of(json!({})), of(json!({"top_k": 3}))]
    });
    assert_ne!(mapped[0][0], mapped[0][1]);
    assert_eq!(mapped[0], mapped[1]);
    assert_eq!(mapped[0], mapped[2]);

    let image = leaf(&[3, 8], 1.0);
    let heads = loaded("zero-shot").map(|plugin| {
        let mut head = plugin.head(&json!({}), &texts).unwrap();
        let features = Named::one("features", image.clone());
        bits(
            &head.forward(&features, &mut Values::none()).unwrap(),
            &[&image],
        )
    });
    assert_eq!(heads[0], heads[1]);
    assert_eq!(heads[0], heads[2]);

    let losses = loaded("entropy").map(|plugin| {
        let mut objective = plugin
            .objective(&json!({"margin": 0.95}), &environment)
            .unwrap();
        let loss = objective.loss(&named).unwrap();
        bits(&Named::one("loss", loss), &[&logits])
    });
    assert_eq!(losses[0], losses[1]);
    assert_eq!(losses[0], losses[2]);

    let features = leaf(&[3, 8], 1.0);
    let heads = loaded("linear").map(|plugin| {
        let mut head = plugin
            .head(&config("linear", Role::Head), &environment)
            .unwrap();
        let names: Vec<&str> = head
            .values()
            .iter()
            .map(|value| value.name.as_str())
            .collect();
        assert_eq!(names, ["weight", "bias", "mean"]);
        let (weight, bias) = (leaf(&[5, 8], 3.0), leaf(&[5], 4.0));
        let mut values = Values::new(vec![weight.clone(), bias.clone(), leaf(&[8], 5.0).detach()]);
        let outputs = head
            .forward(&Named::one("features", features.clone()), &mut values)
            .unwrap();
        assert_eq!(values.updates.len(), 1, "the running mean moved");
        let moved = values.updates[0].1.to_floats().unwrap();
        let mut all = bits(&outputs, &[&features, &weight, &bias]);
        all.push(moved.iter().map(|x| x.to_bits()).collect());
        all
    });
    assert_eq!(heads[0], heads[1]);
    assert_eq!(heads[0], heads[2]);
}

#[test]
fn metrics_of_every_loader_understand_each_other() {
    let predictions = |shift: i64| -> Named {
        let classes: Vec<i64> = (0..6).map(|i| (i * shift) % 5).collect();
        let sure: Vec<f32> = (0..6).map(|i| 0.15 * i as f32).collect();
        let device = Device::cpu();
        let classes = Tensor::from_ints(&classes, &[6], &device).unwrap();
        let sure = Tensor::from_floats(&sure, &[6], &device).unwrap();
        Named::one("class", classes).with("confidence", sure)
    };
    let [a, b, c] = loaded("accuracy")
        .map(|plugin| plugin.metric(&json!({}), &Environment::default()).unwrap());
    let mut metrics = [a, b, c];
    for (shift, metric) in metrics.iter_mut().enumerate() {
        metric
            .update(&predictions(shift as i64 + 1), &predictions(1))
            .unwrap();
    }
    let saved = metrics.each_ref().map(|metric| metric.save());
    let mut reports = Vec::new();
    for (own, metric) in metrics.iter_mut().enumerate() {
        for (other, bytes) in saved.iter().enumerate() {
            if other != own {
                metric.merge(bytes).unwrap();
            }
        }
        reports.push(metric.report().unwrap());
    }
    assert_eq!(reports[0], reports[1]);
    assert_eq!(reports[0], reports[2]);
    assert!(
        reports[0]["accuracy"] > 0.3 && reports[0]["accuracy"] < 1.0,
        "{reports:?}"
    );
}

#[test]
fn accuracy_refuses_confidences_that_are_none() {
    let device = Device::cpu();
    let classes = || Named::one("class", Tensor::from_ints(&[0, 0], &[2], &device).unwrap());
    let sure = |of_second: f32| {
        let sure = Tensor::from_floats(&[0.5, of_second], &[2], &device).unwrap();
        classes().with("confidence", sure)
    };
    for plugin in loaded("accuracy") {
        let mut metric = plugin.metric(&json!({}), &Environment::default()).unwrap();
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.01, 1.01] {
            let error = metric.update(&sure(wrong), &classes()).unwrap_err();
            assert!(
                error.to_string().contains("`confidence` of row 1 is"),
                "{error}"
            );
        }
        assert!(metric.report().unwrap().is_empty(), "it counts for nothing");
        metric.update(&sure(1.0005), &classes()).unwrap();
        let confidence = metric.report().unwrap()["confidence"];
        assert!((confidence - 0.75).abs() < 1e-6, "{confidence}");
    }
}

#[test]
fn a_panic_stays_outside_and_the_next_sample_is_unharmed() {
    let component = root().join("tests/plugins/probe/dist/plugin.json");
    let plugins = [
        Plugin::linked("probe", dtta_plugin_probe::plugin_entry).unwrap(),
        Plugin::from_file(&library("probe")).unwrap(),
        Plugin::from_manifest(&component).unwrap(),
    ];
    let loaders = plugins.each_ref().map(Plugin::loader);
    assert_eq!(
        loaders,
        [LoaderKind::Linked, LoaderKind::Native, LoaderKind::Wasm]
    );
    let config = json!({"operation": "panic", "operands": [], "attributes": []});
    for plugin in plugins {
        let mut head = plugin.head(&config, &Environment::default()).unwrap();
        let mut forward = |rows: usize| {
            let input = Named::one("0", leaf(&[rows, 3], 1.0));
            head.forward(&input, &mut Values::none())
        };
        let expected = forward(2).unwrap().get("0").unwrap().to_floats().unwrap();
        for _ in 0..3 {
            let error = forward(1).unwrap_err();
            let PluginError::Trap { place, message } = &error else {
                panic!("{error}")
            };
            assert_eq!(
                (place.plugin.as_str(), place.function),
                ("probe", "forward")
            );
            assert!(message.contains("told to panic on one row"), "{message}");
            assert_eq!(
                forward(2).unwrap().get("0").unwrap().to_floats().unwrap(),
                expected
            );
        }
    }
}

#[test]
fn refuses_files_that_are_no_native_plugin() {
    let folder = tempfile::tempdir().unwrap();
    let extension = std::env::consts::DLL_EXTENSION;
    let text = folder.path().join(format!("text.{extension}"));
    std::fs::write(&text, "not a library").unwrap();
    let error = Plugin::from_file(&text).unwrap_err();
    assert!(matches!(error, PluginError::NotALibrary { .. }), "{error}");
    let truncated = folder.path().join(format!("truncated.{extension}"));
    let whole = std::fs::read(library("entropy")).unwrap();
    std::fs::write(&truncated, &whole[..whole.len() / 3]).unwrap();
    let error = Plugin::from_file(&truncated).unwrap_err();
    assert_eq!(error.code(), "not-a-library", "{error}");
    let missing = folder.path().join(format!("missing.{extension}"));
    assert_eq!(Plugin::from_file(&missing).unwrap_err().code(), "read");
}

#[test]
fn refuses_a_library_without_an_entry() {
    // Built without the feature that exports the entry, as the workspace builds it.
    let target = root().join("target/native-mute");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "build",
        "--release",
        "--locked",
        "-p",
        "dtta-plugin-entropy",
        "--target-dir",
    ]);
    assert!(
        cargo
            .arg(&target)
            .current_dir(root())
            .status()
            .unwrap()
            .success()
    );
    let file = target
        .join("release")
        .join(library("entropy").file_name().unwrap());
    let error = Plugin::from_file(&file).unwrap_err();
    assert!(
        error.to_string().contains("exports no `dtta_plugin_entry`"),
        "{error}"
    );
    assert!(error.to_string().contains("dtta-sdk/cdylib"), "{error}");
}

#[test]
fn a_pinned_digest_holds_a_library_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = library("entropy");
    let name = file.file_name().unwrap().to_str().unwrap();
    std::fs::copy(&file, folder.path().join(name)).unwrap();
    let mut manifest = json!({
        "name": "entropy", "version": "0.1.0", "interface": "0.1", "roles": ["objective"],
        "artifact": name, "sha256": "00",
    });
    let path = folder.path().join("plugin.json");
    std::fs::write(&path, manifest.to_string()).unwrap();
    assert_eq!(Plugin::from_manifest(&path).unwrap_err().code(), "digest");
    manifest["sha256"] = json!(dtta_base::sha256(&std::fs::read(&file).unwrap()));
    std::fs::write(&path, manifest.to_string()).unwrap();
    let plugin = Plugin::from_file(&folder.path().join(name)).unwrap();
    assert_eq!(
        (plugin.loader(), plugin.name()),
        (LoaderKind::Native, "entropy")
    );
}

#[test]
fn the_kit_tells_what_is_wrong() {
    mod broken {
        use std::sync::atomic::{AtomicU32, Ordering};

        use dtta_sdk::prelude::*;

        #[derive(Deserialize, JsonSchema)]
        pub struct Config {}

        pub struct Drifting;

        static CALLS: AtomicU32 = AtomicU32::new(0);

        impl Objective for Drifting {
            type Config = Config;

            fn create(_config: Config) -> Result<Self> {
                Ok(Self)
            }

            fn loss(&self, outputs: &Named, _session: &Session) -> Result<Tensor> {
                let drift = CALLS.fetch_add(1, Ordering::Relaxed);
                std::mem::forget(outputs.get("logits")?.share()?);
                let loss = outputs.get("logits")?.mean(&[1], false)?;
                loss.affine(0.0, f64::from(drift))
            }
        }

        export_plugin! { objective: Drifting }
    }
    let report = Kit::linked("broken", broken::plugin_entry).check();
    let failed: Vec<&str> = report
        .checks
        .iter()
        .filter(|check| check.failure.is_some())
        .map(|check| check.name.as_str())
        .collect();
    assert_eq!(
        failed,
        [
            "its schema takes its config and no unknown field",
            "two calls give the same bits",
            "gradients reach inputs and parameters, and are finite",
            "no handle is left when a call returns",
        ],
        "{report}"
    );
}

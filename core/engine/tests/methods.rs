//! Methods against their algorithms in PyTorch, by the fixtures that `tests/reference/methods.py` writes: every parameter that moves, after
//! three batches, within a relative error of 1e-4 (of the largest absolute value of that parameter). And what holds for every method: a
//! stopped run continues to the same records, labels have no way in, tasks it is not for are refused.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{Fixture, experiment, extensions, methods};
use dtta::{
    Adapter, Batch, CottaConfig, DeyoConfig, EataConfig, EntropyConfig, Error, MemoConfig,
    MethodConfig, Mode, Reset, RoidConfig, RottaConfig, SarConfig, TttMaeConfig,
};
use dtta::{Draws, Feedback, LossKind, NoiseSharing, Request, TimestepSampler};
use dtta_models::{BatchNormStatistics, CLASS_EMBEDDING, CLASS_EMBEDDINGS, Models};
use dtta_tensor::{Device, Named, Tensor};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Cases {
    seed: u64,
    methods: BTreeMap<String, Value>,
    used: BTreeMap<String, Vec<Value>>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/methods")
}

fn cases() -> Cases {
    let text = std::fs::read_to_string(folder().join("methods.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// An adapter of a fixture's network.
fn adapter<C: MethodConfig>(
    net: &str,
    settings: &Value,
    statistics: BatchNormStatistics,
) -> Adapter {
    let config: C = serde_json::from_value(settings.clone()).unwrap();
    Adapter::builder()
        .extensions(extensions())
        .backbone(folder().join(net).with_extension("json"))
        .head("linked:classification", json!({}))
        .method(&config)
        .mode(Mode::Online {
            reset: Reset::Never,
        })
        .batch_norm(statistics)
        .seed(cases().seed)
        .build()
        .unwrap()
}

fn of_kind(kind: &str, net: &str, settings: &Value) -> Adapter {
    let batch = BatchNormStatistics::Batch;
    match kind {
        "entropy" => adapter::<EntropyConfig>(net, settings, batch),
        "eata" => adapter::<EataConfig>(net, settings, batch),
        "sar" | "sar_recovering" => adapter::<SarConfig>(net, settings, batch),
        "cotta" => adapter::<CottaConfig>(net, settings, batch),
        "memo" => adapter::<MemoConfig>(net, settings, batch),
        "roid" => adapter::<RoidConfig>(net, settings, batch),
        "deyo" => adapter::<DeyoConfig>(net, settings, batch),
        "ttt_mae" => adapter::<TttMaeConfig>(net, settings, BatchNormStatistics::Running),
        "rotta" => adapter::<RottaConfig>(net, settings, BatchNormStatistics::Running),
        other => panic!("no test of {other}"),
    }
}

/// Adapts to the batches of the fixtures with BatchNorm and GroupNorm and compares what moved.
fn compare(kind: &str) {
    compare_on(&["batch", "group"], kind);
}

fn compare_on(nets: &[&str], kind: &str) {
    let cases = cases();
    for net in nets {
        let path = folder().join(format!("{net}.expected.safetensors"));
        let expected = dtta_models::read_tensors(&path, &Device::cpu()).unwrap();
        let images = &expected["images"];
        let mut adapter = of_kind(kind, net, &cases.methods[kind]);
        let [batches, size] = [images.shape()[0], images.shape()[1]];
        let mut used = 0.0;
        for n in 0..batches {
            let ids: Vec<String> = (0..size).map(|image| format!("{n}/{image}")).collect();
            let task = images.narrow(0, n, 1).unwrap().squeeze(0).unwrap();
            let batch = Batch {
                ids: ids.iter().map(String::as_str).collect(),
                task,
                denoiser: None,
            };
            let found = adapter.adapt(&batch).unwrap();
            used += found
                .measures
                .get("used")
                .map_or(size as f32, |used| used.iter().sum());
        }
        if !matches!(kind, "rotta") {
            let counts = &cases.used[&format!("{net}/{kind}")];
            let expected: i64 = counts.iter().filter_map(Value::as_i64).sum();
            assert_eq!(used as i64, expected, "{net}: images learned from");
            assert!(expected > 0, "{net}: nothing was learned");
        }
        let state = adapter.state().tensors;
        let prefix = format!("{kind}/");
        let mut worst = 0.0f32;
        let mut compared = 0;
        for (name, value) in expected
            .iter()
            .filter_map(|(k, v)| Some((k.strip_prefix(&prefix)?, v)))
        {
            let student = name.strip_prefix("student/").map(|name| {
                let nested = format!("task/weights/{name}");
                if state.contains_key(&nested) {
                    nested
                } else {
                    format!("weights/{name}")
                }
            });
            let place = student.unwrap_or_else(|| name.to_owned());
            let (found, value) = (floats(&state[&place]), floats(value));
            let scale = value.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            let away = found.iter().zip(&value).map(|(a, b)| (a - b).abs());
            let error = away.fold(0.0f32, f32::max) / scale.max(1e-6);
            assert!(error <= 1e-4, "{net}, {kind}: {name} is off by {error}");
            worst = worst.max(error);
            compared += 1;
        }
        assert!(
            compared >= 6,
            "{net}, {kind}: {compared} parameters compared"
        );
    }
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.to_floats().unwrap()
}

#[test]
fn entropy_moves_the_weights_as_tent_does_in_pytorch() {
    compare("entropy");
}

#[test]
fn eata_moves_the_weights_as_in_pytorch() {
    compare("eata");
}

#[test]
fn sar_moves_the_weights_as_in_pytorch() {
    compare("sar");
}

#[test]
fn sar_returns_to_the_source_when_it_does_in_pytorch() {
    compare("sar_recovering");
}

#[test]
fn cotta_moves_student_and_teacher_as_in_pytorch() {
    compare("cotta");
}

#[test]
fn memo_moves_the_weights_as_in_pytorch() {
    compare("memo");
}

#[test]
fn roid_moves_the_weights_as_in_pytorch() {
    compare("roid");
}

#[test]
fn deyo_moves_the_weights_as_in_pytorch() {
    compare("deyo");
}

#[test]
fn ttt_mae_moves_encoder_and_decoder_as_a_masked_autoencoder_of_transformers_is_trained() {
    compare_on(&["masked"], "ttt_mae");
}

#[test]
fn rotta_moves_student_teacher_and_statistics_as_in_pytorch() {
    compare("rotta");
}

#[test]
fn a_stopped_run_of_every_method_continues_to_the_records_of_an_unbroken_one() {
    let fixture = Fixture::new();
    for method in methods() {
        let kind = method["kind"].as_str().unwrap();
        let experiment = experiment(&method);
        fixture.run(&experiment, &format!("{kind}-whole")).unwrap();
        for (stop, resume) in [(4, false), (12, true)] {
            let stopped = fixture.run_until(&experiment, kind, resume, stop);
            assert!(matches!(stopped, Err(Error::Interrupted { .. })), "{kind}");
        }
        fixture
            .run_until(&experiment, kind, true, usize::MAX)
            .unwrap();
        let whole = fixture.records(&format!("{kind}-whole"));
        assert_eq!(fixture.records(kind), whole, "{kind}");
        let moved = whole.iter().any(|record| record.source != record.adapted);
        assert_eq!(moved, kind != "source", "{kind}");
    }
}

#[test]
fn labels_have_no_way_into_what_any_method_adapts() {
    let fixture = Fixture::new();
    let said = |fixture: &Fixture, out: &str| -> Vec<_> {
        let records = fixture.records(out).into_iter();
        records
            .map(|record| (record.adapted.prediction, record.loss))
            .collect()
    };
    let mut before = Vec::new();
    for method in methods() {
        let out = format!("{}-before", method["kind"].as_str().unwrap());
        fixture.run(&experiment(&method), &out).unwrap();
        before.push(said(&fixture, &out));
    }
    fixture.relabel(|class| (class + 1) % 4);
    for (method, before) in methods().iter().zip(before) {
        let out = format!("{}-after", method["kind"].as_str().unwrap());
        fixture.run(&experiment(method), &out).unwrap();
        assert_eq!(said(&fixture, &out), before, "{method}");
    }
}

#[test]
fn single_sample_results_of_every_method_do_not_depend_on_the_batch() {
    let fixture = Fixture::new();
    for method in methods() {
        let kind = method["kind"].as_str().unwrap();
        let mut experiment = experiment(&method);
        experiment["adaptation"]["mode"] = json!({"kind": "single_sample"});
        if kind == "rotta" {
            let error = fixture.run(&experiment, "rotta").unwrap_err().to_string();
            assert!(error.contains("/method/kind"), "{error}");
            continue;
        }
        let records = [1, 4].map(|batch| {
            experiment["adaptation"]["batch"] = json!(batch);
            let out = format!("{kind}-{batch}");
            fixture.run(&experiment, &out).unwrap();
            let mut records = fixture.records(&out);
            if kind == "ttt_mae" {
                // The linear layers of a transformer round by their number of rows, and the source model sees the batch as a whole.
                for record in &mut records {
                    let confidence = record.source.confidence.unwrap();
                    record.source.confidence = Some((confidence * 1e5).round() / 1e5);
                }
            }
            records
        });
        assert_eq!(records[0], records[1], "{kind}");
    }
}

#[test]
fn methods_of_classifiers_are_refused_by_name_for_tasks_of_pixels() {
    let fixture = Fixture::dense();
    for method in methods() {
        let kind = method["kind"].as_str().unwrap();
        let mut experiment = Fixture::dense_experiment("segmentation");
        experiment["method"] = method.clone();
        let outcome = fixture.prepare(&experiment);
        if matches!(kind, "source" | "entropy") {
            outcome.unwrap();
            continue;
        }
        let error = outcome.err().unwrap().to_string();
        assert!(error.contains("/method/kind"), "{error}");
        assert!(error.contains(&format!("`{kind}`")), "{error}");
    }
}

#[test]
fn mixed_statistics_are_those_of_the_batch_or_of_training_at_the_ends_and_lie_between() {
    let backbone = folder().join("batch.json");
    let (backbone, weights) = Models::standard()
        .load_backbone(&backbone, None, &Device::cpu())
        .unwrap();
    let path = folder().join("batch.expected.safetensors");
    let images = dtta_models::read_tensors(&path, &Device::cpu()).unwrap()["images"].clone();
    let images = images.narrow(0, 0, 1).unwrap().squeeze(0).unwrap();
    let logits = |statistics| {
        let outputs = backbone.forward(&weights, &images, statistics).unwrap();
        floats(outputs.get("logits").unwrap())
    };
    let close = |a: &[f32], b: &[f32]| {
        a.iter()
            .zip(b)
            .all(|(a, b)| (a - b).abs() <= 1e-5 * (1.0 + b.abs()))
    };
    let [running, batch] = [BatchNormStatistics::Running, BatchNormStatistics::Batch].map(logits);
    assert!(close(&logits(BatchNormStatistics::Mixed(0.0)), &running));
    assert!(close(&logits(BatchNormStatistics::Mixed(1.0)), &batch));
    let half = logits(BatchNormStatistics::Mixed(0.5));
    assert!(!close(&half, &running) && !close(&half, &batch));
}

#[test]
fn the_diffusion_classifier_says_the_class_of_the_lowest_loss() {
    let fixture = Fixture::new();
    let of = |stages: Value| {
        let timesteps = json!({"range": [100, 700]});
        let method =
            json!({"kind": "diffusion_classifier", "stages": stages, "timesteps": timesteps});
        let mut experiment = Fixture::experiment();
        experiment["method"] = method;
        experiment
    };
    let experiment = of(json!([{"draws": 6, "keep": 1}]));
    fixture.run(&experiment, "one").unwrap();
    let device = Device::cpu();
    let path = fixture.path().join("denoiser.json");
    let (denoiser, weights) = Models::standard()
        .load_denoiser(&path, None, &device)
        .unwrap();
    let feedback = Feedback {
        draws: Draws {
            seed: 3,
            count: 6,
            sampler: TimestepSampler::Uniform,
            range: denoiser.schedule().range(Some([100.0, 700.0])).unwrap(),
            noise: NoiseSharing::Fresh,
        },
        micro_batch: 4,
        loss: LossKind::Mse,
        space: None,
    };
    let constants = denoiser.constants(&weights).unwrap();
    let embeddings = constants.get(CLASS_EMBEDDINGS).unwrap();
    let prepared = fixture.prepare(&experiment).unwrap();
    let mut better_half = Vec::new();
    for (record, item) in fixture.records("one").iter().zip(prepared.stream().iter()) {
        let image = item.unwrap().image;
        let pixels: Vec<f32> = image.data().iter().map(|x| (x - 0.5) / 0.5).collect();
        let images = Tensor::from_floats(&pixels, &[1, 1, 8, 8], &device).unwrap();
        let losses: Vec<f32> = (0..4)
            .map(|class| {
                let conditioning =
                    Named::one(CLASS_EMBEDDING, embeddings.narrow(0, class, 1).unwrap());
                let request = Request {
                    ids: &[&record.id],
                    images: &images,
                    conditioning: &conditioning,
                    step: 0,
                };
                feedback.losses(&*denoiser, &weights, &request).unwrap()[0]
            })
            .collect();
        let mut classes = [0, 1, 2, 3];
        classes.sort_by(|&a, &b| losses[a as usize].total_cmp(&losses[b as usize]));
        let said = record.adapted.prediction;
        assert_eq!(said, Some(classes[0]), "{}: {losses:?}", record.id);
        let away = (record.loss[0] - losses[classes[0] as usize]).abs();
        assert!(away < 1e-5, "{}: {:?}, {losses:?}", record.id, record.loss);
        better_half.push([Some(classes[0]), Some(classes[1])]);
    }

    // The first round has the same draws, so what it leaves is the better half of these classes.
    fixture
        .run(
            &of(json!([{"draws": 6, "keep": 2}, {"draws": 9, "keep": 1}])),
            "two",
        )
        .unwrap();
    let (one, two) = (fixture.records("one"), fixture.records("two"));
    for ((one, two), better) in one.iter().zip(&two).zip(better_half) {
        assert_eq!((one.loss[0], two.loss.len()), (two.loss[0], 2));
        assert!(better.contains(&two.adapted.prediction), "{}", two.id);
    }
    for stages in [
        json!([]),
        json!([{"draws": 6, "keep": 2}]),
        json!([{"draws": 6, "keep": 2}, {"draws": 6, "keep": 1}]),
        json!([{"draws": 6, "keep": 1}, {"draws": 8, "keep": 1}]),
    ] {
        let error = fixture.prepare(&of(stages)).err().unwrap().to_string();
        assert!(error.contains("/method/stages"), "{error}");
    }
}

#[test]
fn dusa_moves_the_weights_by_mixtures_and_continues_after_a_stop() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    experiment["method"] = json!({
        "kind": "dusa", "likely": 2, "random": 1, "draws": 3, "timesteps": {"range": [100, 700]},
        "optimizer": {"kind": "sgd", "learning_rate": 0.05, "momentum": 0.9},
    });
    fixture.run(&experiment, "whole").unwrap();
    let whole = fixture.records("whole");
    assert!(whole.iter().all(|record| record.loss.len() == 1));
    assert!(whole.iter().any(|record| record.source != record.adapted));
    assert!(fixture.run_until(&experiment, "broken", false, 6).is_err());
    fixture
        .run_until(&experiment, "broken", true, usize::MAX)
        .unwrap();
    assert_eq!(whole, fixture.records("broken"));
    experiment["method"]["likely"] = json!(5);
    let error = fixture.prepare(&experiment).err().unwrap().to_string();
    assert!(error.contains("/method/likely"), "{error}");
}

#[test]
fn ttt_mae_is_refused_by_pointer_for_models_and_masks_it_is_not_for() {
    let fixture = Fixture::new();
    let refusal = |experiment: &Value| fixture.prepare(experiment).err().unwrap().to_string();
    let mut without_decoder = experiment(&json!({"kind": "ttt_mae"}));
    without_decoder["models"]["backbone"]["config"] = json!("classifier.json");
    let error = refusal(&without_decoder);
    assert!(
        error.contains("/method/kind") && error.contains("`decoder`"),
        "{error}"
    );
    // 16 patches: 16 (1 - 0.95) = 0.8 would be visible.
    for (ratio, told) in [
        (0.95, "masks 16 of 16 patches"),
        (1.5, "/method/mask_ratio"),
    ] {
        let error = refusal(&experiment(
            &json!({"kind": "ttt_mae", "mask_ratio": ratio}),
        ));
        assert!(
            error.contains("/method/mask_ratio") && error.contains(told),
            "{error}"
        );
    }
}

#[test]
fn ttt_mae_depends_on_the_micro_batch_by_rounding_alone() {
    let fixture = Fixture::new();
    let losses = |micro_batch: usize| {
        let sgd = json!({"kind": "sgd", "learning_rate": 0.01});
        let method = json!({"kind": "ttt_mae", "steps": 3, "masks": 5, "micro_batch": micro_batch, "optimizer": sgd,
                            "parameters": {"group": "all"}});
        let out = format!("of-{micro_batch}");
        fixture.run(&experiment(&method), &out).unwrap();
        let records = fixture.records(&out).into_iter();
        records.flat_map(|record| record.loss).collect::<Vec<f32>>()
    };
    let (one, all) = (losses(1), losses(64));
    assert_eq!(one.len(), 16 * 3);
    for (one, all) in one.iter().zip(&all) {
        assert!((one - all).abs() <= 1e-4 * all.abs(), "{one} and {all}");
    }
}

#[test]
fn a_masked_autoencoder_without_a_classifier_adapts_under_a_head_of_its_own() {
    let fixture = Fixture::new();
    let path = fixture.path().join("masked.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    config["classes"] = json!(0);
    let headless = fixture.path().join("headless.json");
    std::fs::write(&headless, config.to_string()).unwrap();
    common::save(&headless, 5);
    let mut experiment = experiment(&methods().pop().unwrap());
    experiment["models"]["backbone"]["config"] = json!("headless.json");
    // The head of `classification` would take its 8 features for the logits of 8 classes.
    let refused = fixture.prepare(&experiment).err().unwrap().to_string();
    assert!(
        refused.contains("/plugins/head") && refused.contains("8 logits"),
        "{refused}"
    );
    experiment["plugins"]["head"] =
        json!({"use": "linked:linear", "config": {"features": 8, "classes": 4}});
    fixture.run(&experiment, "linear").unwrap();
    let records = fixture.records("linear");
    assert!(records.iter().all(|record| record.loss.len() == 2));
    assert!(records.iter().any(|record| record.source != record.adapted));
}

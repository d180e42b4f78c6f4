//! Predictions for each pixel: segmentation and depth, through spatial slots.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;

use common::Fixture;
use dtta::{Adapter, Batch, DiagnoseOptions, DiffusionConfig, Error, Mode, Record, Reset};
use dtta_models::Weights;
use dtta_tensor::{Device, Tensor};
use serde_json::{Value, json};

const TASKS: [&str; 2] = ["segmentation", "depth"];

/// An adapter of the fixture's models, online with plain gradient descent at rate 1, through the plugin's WebAssembly component; and
/// its source weights.
fn adapter(fixture: &Fixture, task: &str) -> (Adapter, Weights) {
    let experiment = Fixture::dense_experiment(task);
    let model = |role: &str| {
        let file = experiment["models"][role]["config"].as_str().unwrap();
        fixture.path().join(file)
    };
    let method: DiffusionConfig = serde_json::from_value(json!({
        "draws": 4, "micro_batch": 5, "timesteps": {"sampler": "stratified", "range": [100, 700]},
        "optimizer": {"kind": "sgd", "learning_rate": 1.0},
    }))
    .unwrap();
    let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../plugins/{task}"));
    let plugin = plugin.to_str().unwrap();
    let config = &experiment["plugins"]["head"]["config"];
    let mut adapter = Adapter::builder()
        .backbone(model("backbone"))
        .denoiser(model("denoiser"))
        .head(plugin, config.clone())
        .mapper(plugin, config.clone())
        .method(&method)
        .mode(Mode::Online {
            reset: Reset::Never,
        })
        .seed(5)
        .build()
        .unwrap();
    let theta = adapter.tools().source().clone();
    (adapter, theta)
}

fn images(extents: [usize; 2], images: usize) -> Tensor {
    let shape = [images, 3, extents[0], extents[1]];
    let pixels: Vec<f32> = (0..shape.iter().product())
        .map(|n: usize| (n as f32 * 0.61).sin())
        .collect();
    Tensor::from_floats(&pixels, &shape, &Device::cpu()).unwrap()
}

/// The loss at `theta`, and the weights one step of descent away.
fn step(adapter: &mut Adapter, theta: &Weights) -> (f64, Weights) {
    adapter.reset();
    let mut state = adapter.state();
    for (_, spec, tensor) in theta.iter() {
        let name = format!("task/weights/{}", spec.name);
        state.tensors.insert(name, tensor.clone());
    }
    adapter.restore(state).unwrap();
    let batch = Batch {
        ids: vec!["a", "b"],
        task: images([12, 16], 2),
        denoiser: Some(images([6, 8], 2)),
    };
    let adapted = adapter.adapt(&batch).unwrap();
    let losses = adapted.losses.iter().map(|loss| f64::from(loss[0]));
    let mut moved = theta.clone();
    let state = adapter.state();
    for id in theta.ids() {
        let name = format!("task/weights/{}", theta.spec(id).name);
        moved.set(id, state.tensors[&name].clone()).unwrap();
    }
    (losses.sum::<f64>() / 2.0, moved)
}

#[test]
fn the_gradient_of_the_whole_chain_agrees_with_finite_differences() {
    for task in TASKS {
        let fixture = Fixture::dense();
        let (mut adapter, theta) = adapter(&fixture, task);
        let (_, moved) = step(&mut adapter, &theta);
        let ids: Vec<_> = theta.ids().collect();
        let gradient: Vec<Vec<f32>> = ids
            .iter()
            .map(|&id| {
                theta
                    .get(id)
                    .sub(moved.get(id))
                    .unwrap()
                    .to_floats()
                    .unwrap()
            })
            .collect();
        let norm = |values: &[Vec<f32>]| {
            values
                .iter()
                .flatten()
                .map(|&x| f64::from(x).powi(2))
                .sum::<f64>()
                .sqrt()
        };
        let whole = norm(&gradient);
        assert!(whole > 1e-3, "{task}: a gradient of {whole} tests nothing");
        // Along the gradient of everything, and along that of the first convolution alone: the far end of the chain.
        let first: Vec<Vec<f32>> = gradient
            .iter()
            .enumerate()
            .map(|(n, part)| {
                if n == 0 {
                    part.clone()
                } else {
                    vec![0.0; part.len()]
                }
            })
            .collect();
        for (name, direction) in [("everything", &gradient), ("conv1", &first)] {
            let length = norm(direction);
            let mut at = |distance: f64| {
                let mut weights = theta.clone();
                for (&id, part) in ids.iter().zip(direction) {
                    let shape = theta.get(id).shape();
                    let part = Tensor::from_floats(part, &shape, &Device::cpu()).unwrap();
                    let value = theta
                        .get(id)
                        .add(&part.affine(distance / length, 0.0).unwrap());
                    weights.set(id, value.unwrap()).unwrap();
                }
                step(&mut adapter, &weights).0
            };
            let h = 2e-3;
            let slope = (at(h) - at(-h)) / (2.0 * h);
            // Along a gradient's own direction the slope is its length. Single precision leaves 2 %.
            assert!(
                (slope / length - 1.0).abs() < 0.02,
                "{task}, {name}: {slope} for {length}"
            );
        }
    }
}

#[test]
fn runs_score_each_pixel_and_say_how_sure_they_are() {
    for (task, names) in [
        (
            "segmentation",
            &["mean_class_accuracy", "miou", "pixel_accuracy"][..],
        ),
        ("depth", &["abs_rel", "delta1", "log10", "rmse", "ssim"]),
    ] {
        let fixture = Fixture::dense();
        let summary = fixture
            .run(&Fixture::dense_experiment(task), "run")
            .unwrap();
        let predicts = match task {
            "segmentation" => "labels",
            task => task,
        };
        assert_eq!(summary.predicts, predicts);
        for domain in &summary.domains {
            for name in names {
                let gain = domain.adapted[*name] - domain.source[*name];
                let interval = domain.intervals[*name];
                assert!(interval.low <= interval.high, "{name}");
                assert!(gain.is_finite());
            }
        }
        let records = fixture.records("run");
        assert_eq!(records.len(), 12);
        assert!(records.iter().all(|record| {
            record.source.prediction.is_none()
                && record.source.scores.contains_key(names[0])
                && record.source.scores != record.adapted.scores
        }));
    }
}

#[test]
fn single_samples_do_not_see_their_neighbours() {
    for task in TASKS {
        let fixture = Fixture::dense();
        let mut experiment = Fixture::dense_experiment(task);
        experiment["adaptation"]["mode"] = json!({"kind": "single_sample"});
        fixture.run(&experiment, "together").unwrap();
        experiment["adaptation"]["batch"] = json!(1);
        fixture.run(&experiment, "alone").unwrap();
        for (a, b) in fixture
            .records("together")
            .iter()
            .zip(fixture.records("alone"))
        {
            assert_eq!(a.id, b.id);
            for (name, score) in &a.adapted.scores {
                let other = b.adapted.scores[name];
                assert!(
                    (score - other).abs() < 1e-3,
                    "{task} {name}: {score} {other}"
                );
            }
        }
    }
}

#[test]
fn a_resumed_run_ends_with_the_scores_of_an_unbroken_one() {
    for task in TASKS {
        let fixture = Fixture::dense();
        let experiment = Fixture::dense_experiment(task);
        let whole = fixture.run(&experiment, "whole").unwrap();
        fixture
            .run_until(&experiment, "parts", false, 4)
            .unwrap_err();
        let parts = fixture
            .run_until(&experiment, "parts", true, usize::MAX)
            .unwrap();
        assert_eq!(fixture.records("whole"), fixture.records("parts"));
        assert_eq!(whole.mean, parts.mean);
    }
}

#[test]
fn feedback_about_another_image_is_another_run() {
    let fixture = Fixture::dense();
    let mut experiment = Fixture::dense_experiment("segmentation");
    fixture.run(&experiment, "own").unwrap();
    experiment["method"]["control"] = json!("other_image");
    let summary = fixture.run(&experiment, "other").unwrap();
    assert!(summary.protocol.in_words.contains("another image"));
    for (own, other) in fixture.records("own").iter().zip(fixture.records("other")) {
        assert_eq!(own.source, other.source);
        assert_ne!(own.loss, other.loss);
    }
}

#[test]
fn a_diagnosis_tells_truth_from_shuffled_truth() {
    for experiment in [
        Fixture::dense_experiment("segmentation"),
        Fixture::dense_experiment("depth"),
        Fixture::experiment(),
    ] {
        let classification = experiment["plugins"].get("metric").is_none();
        let fixture = if classification {
            Fixture::new()
        } else {
            Fixture::dense()
        };
        let options = DiagnoseOptions {
            samples: 5,
            draws: 3,
            ranges: vec![[0.0, 300.0], [300.0, 1000.0]],
        };
        let mut heard = Vec::new();
        let diagnosis = fixture
            .prepare(&experiment)
            .unwrap()
            .diagnose(&options, None, &mut |done, all| heard.push((done, all)))
            .unwrap();
        assert_eq!(heard, [(1, 2), (2, 2)]);
        for range in diagnosis.domains.iter().flat_map(|domain| &domain.ranges) {
            let losses = [range.source_loss, range.true_loss, range.shuffled_loss];
            assert!(losses.iter().all(|loss| *loss > 0.0 && loss.is_finite()));
            assert!(losses[0] != losses[1] && losses[1] != losses[2]);
            assert_eq!(range.classifier_accuracy.is_some(), classification);
        }
        let beyond = DiagnoseOptions {
            ranges: vec![[0.0, 1001.0]],
            ..options
        };
        let refused = fixture
            .prepare(&experiment)
            .unwrap()
            .diagnose(&beyond, None, &mut |_, _| ());
        assert!(matches!(refused, Err(Error::Base(_))));
    }
}

#[test]
fn pictures_show_input_target_predictions_and_error() {
    for task in TASKS {
        let fixture = Fixture::dense();
        let mut experiment = Fixture::dense_experiment(task);
        experiment["output"] = json!({"pictures": 2});
        fixture.run(&experiment, "run").unwrap();
        let images = fixture.path().join("run/images");
        let domains: Vec<_> = fs::read_dir(&images).unwrap().collect();
        assert_eq!(domains.len(), 2);
        let names: Vec<_> = fs::read_dir(images.join("clean"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(names.len(), 6);
        for path in names {
            let decoder = png::Decoder::new(BufReader::new(File::open(&path).unwrap()));
            let reader = decoder.read_info().unwrap();
            let info = reader.info();
            let alone = path.to_string_lossy().contains("-source")
                || path.to_string_lossy().contains("-adapted");
            let expected = if alone {
                (16, 12, png::ColorType::Indexed)
            } else {
                (5 * 16 + 4 * 2, 12, png::ColorType::Rgb)
            };
            assert_eq!((info.width, info.height, info.color_type), expected);
        }
    }
}

/// Whether an adapted sample is the same to single precision: last bits depend on how many images are multiplied at once.
fn close(one: &Record, other: &Record) -> bool {
    let numbers = |record: &Record| -> Vec<f64> {
        let scores = record.adapted.scores.values().copied();
        let losses = record.loss.iter().map(|&loss| f64::from(loss));
        let confidence = record.adapted.confidence.map(f64::from);
        scores.chain(losses).chain(confidence).collect()
    };
    let (one, other) = (numbers(one), numbers(other));
    let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-5 * a.abs().max(1.0);
    one.len() == other.len() && one.iter().zip(&other).all(near)
}

#[test]
fn a_gate_leaves_the_samples_whose_prediction_explains_enough_and_no_others() {
    for task in TASKS {
        let fixture = Fixture::dense();
        let run = |out: &str, gate: Option<f64>, mode: &str| {
            let mut experiment = Fixture::dense_experiment(task);
            experiment["adaptation"]["mode"] = json!({ "kind": mode });
            if let Some(explained) = gate {
                experiment["method"]["gate"] = json!({ "explained": explained });
            }
            fixture.run(&experiment, out).unwrap();
            fixture.records(out)
        };
        let free = run("free", None, "single_sample");
        let all = run("all", Some(1.0), "single_sample");
        let mut explained: Vec<f32> = all.iter().map(|r| r.measures["explained"]).collect();
        explained.sort_by(f32::total_cmp);
        let middle = f64::from(explained[explained.len() / 2]).clamp(0.0, 1.0);
        let some = run("some", Some(middle), "single_sample");
        let mut left = 0;
        for ((free, all), some) in free.iter().zip(&all).zip(&some) {
            assert_eq!(
                (&free.adapted, &free.loss),
                (&all.adapted, &all.loss),
                "{task}"
            );
            assert_eq!(some.measures, all.measures);
            if f64::from(some.measures["explained"]) < middle {
                assert!(close(some, all), "{task}: {some:?}, {all:?}");
            } else {
                assert_eq!(some.adapted, some.source, "{task}");
                assert!(some.loss.is_empty());
                left += 1;
            }
        }
        assert!(left > 0, "{task}: nothing was left as it is: {explained:?}");
        for (online, some) in run("online", Some(middle), "online").iter().zip(&some) {
            assert_eq!(online.measures, some.measures);
            if some.loss.is_empty() {
                assert_eq!(online.adapted, online.source, "{task}");
                assert!(online.loss.is_empty());
            }
        }
    }
}

#[test]
fn a_soft_gate_takes_from_the_learning_rate_the_share_that_is_explained() {
    let fixture = Fixture::dense();
    let run = |out: &str, mode: &str, rate: f64, gate: Option<Value>| {
        let mut experiment = Fixture::dense_experiment("segmentation");
        experiment["adaptation"]["mode"] = json!({ "kind": mode });
        experiment["method"]["steps"] = json!(2);
        experiment["method"]["optimizer"] = json!({"kind": "sgd", "learning_rate": rate});
        if let Some(gate) = gate {
            experiment["method"]["gate"] = gate;
        }
        let summary = fixture.run(&experiment, out).unwrap();
        (summary.protocol, fixture.records(out))
    };
    let (_, hard) = run(
        "hard",
        "single_sample",
        5.0,
        Some(json!({"explained": 1.0})),
    );
    let explained = |record: &Record| f64::from(record.measures["explained"]);
    let most = hard.iter().map(explained).fold(0.0, f64::max);
    assert!(most > 0.0, "a sample of which a part is explained");
    let gate = json!({"explained": 1.5 * most, "soft": true});
    let left = |record: &Record| 1.0 - explained(record).max(0.0) / (1.5 * most);
    let apart = |a: &Record, b: &Record| (a.loss[1] - b.loss[1]).abs() / a.loss[1];

    let (protocol, soft) = run("soft", "single_sample", 5.0, Some(gate.clone()));
    assert_eq!(protocol.method.config["gate"]["soft"], json!(true));
    let n = hard
        .iter()
        .position(|record| explained(record) == most)
        .unwrap();
    let (_, slowed) = run("slowed", "single_sample", 5.0 / 3.0, None);
    assert!(apart(&soft[n], &slowed[n]) < 1e-6);
    assert!(apart(&soft[n], &hard[n]) > 1e-5, "or the test says nothing");

    let (_, soft) = run("shared", "online", 5.0, Some(gate));
    let batch = Fixture::experiment()["adaptation"]["batch"]
        .as_u64()
        .unwrap() as usize;
    let mean = soft[..batch].iter().map(left).sum::<f64>() / batch as f64;
    let (_, slowed) = run("slower", "online", 5.0 * mean, None);
    assert!((0..batch).all(|n| apart(&soft[n], &slowed[n]) < 1e-6));
}

#[test]
fn refuses_parts_that_do_not_fit() {
    let fixture = Fixture::dense();
    let refused = |task: &str, change: &dyn Fn(&mut Value), pointer: &str| {
        let mut experiment = Fixture::dense_experiment(task);
        change(&mut experiment);
        let error = fixture.prepare(&experiment).err().unwrap();
        match &error {
            Error::Base(dtta_base::Error::Invalid { issues, .. }) => {
                assert_eq!(issues[0].pointer, pointer, "{error}");
            }
            other => panic!("{other}"),
        }
    };
    let without_metric = |e: &mut Value| _ = e["plugins"].as_object_mut().unwrap().remove("metric");
    refused("segmentation", &without_metric, "/plugins/metric");
    refused("depth", &without_metric, "/plugins/metric");
    let padded = json!([{"kind": "resize", "height": 4, "width": 6}, {"kind": "pad", "border": 1}]);
    refused(
        "depth",
        &|e| e["models"]["denoiser"]["preprocess"] = padded.clone(),
        "/models/denoiser/preprocess/1",
    );
    // The dataset's maps become smaller than what the model answers.
    let halved = json!([{"kind": "resize", "height": 6, "width": 8}]);
    let grown = json!([{"kind": "resize", "height": 12, "width": 16}, {"kind": "normalise", "mean": [0.5], "std": [0.5]}]);
    refused(
        "segmentation",
        &|e| {
            e["data"]["dataset"]["transforms"] = halved.clone();
            e["models"]["backbone"]["preprocess"] = grown.clone();
        },
        "/models/backbone",
    );
    // What a prediction explains is found by a denoiser that knows what no condition is.
    let gate = json!({ "explained": 0.1 });
    let config = fixture.path().join("mask-denoiser.json");
    let text = fs::read_to_string(&config).unwrap();
    let mut always_told: Value = serde_json::from_str(&text).unwrap();
    always_told["spatial"]["dropout_prob"] = json!(0.0);
    fs::write(&config, always_told.to_string()).unwrap();
    let gated = |e: &mut Value| e["method"]["gate"] = gate.clone();
    refused("segmentation", &gated, "/method/gate");
    fs::write(&config, text).unwrap();
    // A depth model where a segmenter should be: one class for three names.
    refused(
        "segmentation",
        &|e| e["models"]["backbone"]["config"] = json!("depth.json"),
        "/models",
    );
}

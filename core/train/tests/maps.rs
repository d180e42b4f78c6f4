//! Training on label maps and number maps: tiny models learn them, continue bit for bit, and refuse maps that do not fit.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use dtta_data::{Dataset, Image, LabelMap, NumberMap, Sample, Targets};
use dtta_tensor::Device;
use dtta_train::{Error, Evaluation, Observer, Outcome, RunOptions, Trainer, TrainingConfig};
use serde_json::{Value, json};

use self::common::{change, write_dataset};

/// 16 images of 8×8 whose brightness is a bright block on a dark ground: the block is class 1, near, and leans to the right. Nothing is
/// known about the first pixel.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let samples = (0..16usize).map(|n| {
        let (top, left) = (n % 4, n / 4);
        let inside = |row: usize, column: usize| {
            (top..top + 4).contains(&row) && (left..left + 4).contains(&column)
        };
        let places = || (0..64).map(|place| (place / 8, place % 8));
        let image = Image::from_fn([1, 8, 8], |_, row, column| {
            let grain = ((n * 64 + row * 8 + column) as f32 * 12.9898).sin() * 0.05;
            grain + if inside(row, column) { 0.8 } else { 0.2 }
        });
        let labels = places().map(|(row, column)| match (row, column) {
            (0, 0) => 255,
            _ => u8::from(inside(row, column)),
        });
        let distances = places().map(|(row, column)| match (row, column) {
            (0, 0) => 0.0,
            _ if inside(row, column) => 2.0,
            _ => 6.0,
        });
        let leaning = (0..2).flat_map(|channel| {
            places().map(move |(row, column)| match (row, column) {
                (0, 0) => 0.0,
                _ if inside(row, column) => [0.8, -0.6][channel],
                _ => [0.0, 1.0][channel],
            })
        });
        let leaning = NumberMap::new(2, 8, 8, leaning.collect()).unwrap();
        Sample {
            id: format!("train/{n:05}"),
            image: image.unwrap(),
            targets: Targets::new()
                .with("labels", LabelMap::new(8, 8, labels.collect()).unwrap())
                .with(
                    "distance",
                    NumberMap::new(1, 8, 8, distances.collect()).unwrap(),
                )
                .with("leaning", leaning.with_negated_by_flip(vec![0])),
        }
    });
    let names = vec!["ground".into(), "block".into()];
    let dataset = Dataset::from_samples("tiny", names, samples.collect()).unwrap();
    write_dataset(folder.path(), &dataset);
    let predictor = |outputs: usize| {
        json!({
            "kind": "encoder_decoder", "image": [1, 8, 8], "outputs": outputs, "widths": [8, 16], "blocks": [1, 1],
            "norm": { "kind": "group", "groups": 4 }
        })
    };
    let unet = |spatial: Value| {
        json!({
            "kind": "unet", "image": [1, 4, 4], "block_out_channels": [16, 16], "down_block_types": ["DownBlock2D", "DownBlock2D"],
            "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 8, "spatial": spatial
        })
    };
    let dit = json!({
        "kind": "dit", "image": [1, 4, 4], "patch_size": 1, "hidden_size": 32, "depth": 2, "num_heads": 2,
        "spatial": { "channels": 2, "classes": 2 }
    });
    for (name, model) in [
        ("segmenter", predictor(2)),
        ("distance", predictor(1)),
        ("leaning", predictor(2)),
        ("mask-unet", unet(json!({ "channels": 2, "classes": 2 }))),
        ("distance-unet", unet(json!({ "channels": 1 }))),
        ("leaning-unet", unet(json!({ "channels": 2 }))),
        ("mask-dit", dit),
    ] {
        let path = folder.path().join(name).with_extension("json");
        fs::write(path, model.to_string()).unwrap();
    }
    folder
}

/// A configuration of that kind; `changes` replace or add its fields.
fn config(kind: &str, model: &str, steps: usize, changes: Value) -> TrainingConfig {
    let data = json!({ "kind": "packed", "path": "tiny.safetensors" });
    let mut preprocess = vec![json!({ "kind": "normalise", "mean": [0.5], "std": [0.5] })];
    if kind == "denoiser" {
        preprocess.insert(0, json!({ "kind": "resize", "height": 4, "width": 4 }));
    }
    let mut document = json!({
        "task": { "kind": kind },
        "model": format!("{model}.json"),
        "data": {
            "training": data, "held_out": data, "preprocess": preprocess,
            "augmentation": [{ "kind": "horizontal_flip" }, { "kind": "random_crop", "border": 1 }],
        },
        "optimization": {
            "steps": steps, "batch": 8, "optimizer": { "kind": "adamw", "learning_rate": 5e-3 }, "schedule": { "warmup": 5 },
            "gradient_clip": 1.0, "ema": 0.9,
        },
        "output": { "weights": "weights.safetensors", "log_every": 5, "checkpoint_every": 10 },
    });
    change(&mut document, &changes);
    TrainingConfig::parse(document).unwrap()
}

fn range() -> Value {
    json!({ "scale": "log", "maximum": 9 })
}

struct StopAt<'a>(usize, &'a AtomicBool);

impl Observer for StopAt<'_> {
    fn step(&mut self, done: usize) {
        self.1.store(done == self.0, Ordering::Relaxed);
    }
}

/// Runs in `folder/NAME`, until step `at`.
fn run(
    folder: &Path,
    name: &str,
    config: &TrainingConfig,
    (resume, at): (bool, usize),
) -> Result<Outcome, Error> {
    let stop = AtomicBool::new(false);
    let options = RunOptions {
        out: folder.join(name),
        weights: Some(folder.join(name).join("weights.safetensors")),
        resume,
        force: false,
        stop: &stop,
    };
    let mut trainer = Trainer::prepare(config.clone(), folder, Device::cpu())?;
    trainer.run(&options, &mut StopAt(at, &stop))
}

fn learned(kind: &str, model: &str, steps: usize, changes: Value) -> Evaluation {
    let folder = folder();
    let config = config(kind, model, steps, changes);
    let outcome = run(folder.path(), "run", &config, (false, usize::MAX));
    outcome.unwrap().evaluation.unwrap()
}

#[test]
fn a_segmenter_learns_the_class_of_each_pixel() {
    let changes = json!({ "evaluate": {}, "task": { "class_weights": [1, 2] } });
    let found = learned("classifier", "segmenter", 120, changes);
    assert!(
        found.accuracy > 0.95 && found.miou.unwrap() > 0.9,
        "{found:?}"
    );
}

#[test]
fn a_predictor_learns_the_distance_of_each_pixel() {
    let changes = json!({ "evaluate": {}, "task": { "range": range() } });
    let found = learned("numbers", "distance", 200, changes);
    assert!(found.accuracy > 0.85 && found.loss < 0.06, "{found:?}");
}

#[test]
fn a_predictor_learns_numbers_as_they_are() {
    let changes = json!({ "evaluate": {}, "task": { "target": "leaning" } });
    let found = learned("numbers", "leaning", 200, changes);
    assert!(found.accuracy > 0.8 && found.loss < 0.15, "{found:?}");
}

#[test]
fn denoisers_learn_to_tell_an_images_own_map_from_anothers() {
    for (model, mut task) in [
        ("mask-unet", json!({})),
        ("mask-dit", json!({})),
        ("distance-unet", json!({ "range": range() })),
        ("leaning-unet", json!({ "target": "leaning" })),
    ] {
        task["timesteps"] = json!({ "sampler": "stratified", "range": [100, 700] });
        let changes = json!({ "task": task, "evaluate": {} });
        let found = learned("denoiser", model, 250, changes);
        // Guessing is right for half of them.
        assert!(found.accuracy > 0.8, "{model}: {found:?}");
    }
}

#[test]
fn standardised_frames_look_the_same_however_dark_they_were() {
    let loss = |deviation: f64, standardize: bool| {
        let packed = json!({ "kind": "packed", "path": "tiny.safetensors" });
        let mut data = json!({
            "training": packed, "held_out": packed,
            "preprocess": [
                { "kind": "resize", "height": 4, "width": 4 },
                { "kind": "normalise", "mean": [0.2], "std": [deviation] },
            ],
        });
        if standardize {
            data["standardize"] =
                json!({ "kind": "stretch", "outliers": 0.02, "low": -1.0, "high": 1.0 });
        }
        let changes =
            json!({ "data": data, "task": { "evaluation": { "draws": 2 } }, "evaluate": {} });
        learned("denoiser", "mask-unet", 3, changes).loss
    };
    let apart = |standardize| (loss(0.5, standardize) - loss(2.0, standardize)).abs();
    assert!(apart(true) < 1e-4, "{}", apart(true));
    assert!(apart(false) > 1e-3, "{}", apart(false));
}

#[test]
fn a_continued_run_ends_with_the_same_weights_bit_for_bit() {
    let folder = folder();
    for (kind, model, task) in [
        ("classifier", "segmenter", json!({})),
        ("numbers", "distance", json!({ "range": range() })),
        ("numbers", "leaning", json!({})),
        ("denoiser", "mask-unet", json!({})),
        ("denoiser", "distance-unet", json!({ "range": range() })),
        ("denoiser", "leaning-unet", json!({})),
    ] {
        let config = config(kind, model, 14, json!({ "task": task }));
        let names = [format!("{model} whole"), format!("{model} stopped")];
        run(folder.path(), &names[0], &config, (false, usize::MAX)).unwrap();
        let stopped = run(folder.path(), &names[1], &config, (false, 8));
        assert!(
            matches!(stopped, Err(Error::Interrupted { step: 8 })),
            "{stopped:?}"
        );
        run(folder.path(), &names[1], &config, (true, usize::MAX)).unwrap();
        let weights =
            |name| fs::read(folder.path().join(name).join("weights.safetensors")).unwrap();
        assert!(weights(&names[0]) == weights(&names[1]), "{model}");
    }
}

#[test]
fn maps_that_do_not_fit_are_refused_before_the_run() {
    let folder = folder();
    let refused = |config: TrainingConfig, word: &str| {
        let error = Trainer::prepare(config, folder.path(), Device::cpu())
            .err()
            .unwrap();
        assert!(error.to_string().contains(word), "{error}");
    };
    let ranged = json!({ "task": { "range": range() } });
    refused(
        config("denoiser", "mask-unet", 3, ranged.clone()),
        "/task/range",
    );
    refused(config("numbers", "leaning", 3, ranged), "1 output");
    let other = json!({ "task": { "target": "distance" } });
    refused(config("numbers", "leaning", 3, other), "/task/target");
    let unknown = json!({ "task": { "target": "heat" } });
    refused(config("denoiser", "leaning-unet", 3, unknown), "`heat`");
    refused(config("numbers", "mask-dit", 3, json!({})), "mask-dit.json");
    refused(
        config(
            "classifier",
            "segmenter",
            3,
            json!({ "task": { "class_weights": [1, 1, 1] } }),
        ),
        "/task/class_weights",
    );
    refused(
        config("classifier", "distance", 3, json!({})),
        "2 class names",
    );
    let data = |transforms: Value, preprocess: Value| {
        let training =
            json!({ "kind": "packed", "path": "tiny.safetensors", "transforms": transforms });
        json!({ "data": { "training": training, "preprocess": preprocess } })
    };
    let cropped = data(
        json!([]),
        json!([{ "kind": "centre_crop", "height": 4, "width": 4 }]),
    );
    refused(
        config("denoiser", "mask-unet", 3, cropped),
        "/data/preprocess/0",
    );
    let halved = json!([{ "kind": "resize", "height": 4, "width": 4 }]);
    let grown = json!([{ "kind": "resize", "height": 8, "width": 8 }]);
    refused(
        config("classifier", "segmenter", 3, data(halved, grown)),
        "[4, 4]",
    );
}

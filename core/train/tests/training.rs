//! Whole training runs of tiny models: they learn, they continue bit for bit, and they refuse what cannot be.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use dtta_data::{CLASS, Dataset, Image, Sample, Target, Targets};
use dtta_tensor::Device;
use dtta_train::{
    Error, Evaluation, Observer, Outcome, Progress, RunOptions, Trainer, TrainingConfig,
};
use serde_json::{Value, json};

use self::common::{change, write_dataset};

const CLASSES: usize = 4;

/// A folder with 16 images of 8×8 in 4 classes (stripes and halves, each with noise of its own), and two models.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let samples = (0..16).map(|n| {
        let class = n % CLASSES;
        let image = Image::from_fn([1, 8, 8], |_, row, column| {
            let lit = match class {
                0 => row % 2 == 0,
                1 => column % 2 == 0,
                2 => row < 4,
                _ => column < 4,
            };
            let grain = ((n * 64 + row * 8 + column) as f32 * 12.9898).sin() * 0.1;
            (f32::from(u8::from(lit)) * 0.8 + 0.1 + grain).clamp(0.0, 1.0)
        });
        Sample {
            id: format!("train/{n:05}"),
            image: image.unwrap(),
            targets: Targets::new().with(CLASS, Target::Class(class as u32)),
        }
    });
    let names = (0..CLASSES).map(|class| format!("class {class}")).collect();
    let dataset = Dataset::from_samples("tiny", names, samples.collect()).unwrap();
    write_dataset(folder.path(), &dataset);
    let dit = json!({
        "kind": "dit", "image": [1, 8, 8], "patch_size": 2, "hidden_size": 32, "depth": 2, "num_heads": 2, "num_classes": CLASSES
    });
    let resnet = |norm: Value| {
        json!({
            "kind": "resnet", "image": [1, 8, 8], "classes": CLASSES, "stem": "small", "blocks": [1, 1], "widths": [8, 16], "norm": norm
        })
    };
    write(folder.path(), "dit.json", &dit);
    write(
        folder.path(),
        "group.json",
        &resnet(json!({ "kind": "group", "groups": 4 })),
    );
    write(
        folder.path(),
        "batch.json",
        &resnet(json!({ "kind": "batch" })),
    );
    let masked = json!({
        "kind": "vit", "image": [1, 8, 8], "classes": CLASSES, "patch_size": 2, "width": 16, "depth": 2, "heads": 2,
        "fixed_positions": true, "decoder": { "width": 16, "depth": 1, "heads": 2 }
    });
    write(folder.path(), "masked.json", &masked);
    folder
}

fn write(folder: &Path, name: &str, value: &Value) {
    fs::write(folder.join(name), value.to_string()).unwrap();
}

/// A configuration for `model`; `changes` replace or add its fields.
fn config(model: &str, steps: usize, changes: &Value) -> TrainingConfig {
    let data = json!({ "kind": "packed", "path": "tiny.safetensors" });
    let mut document = json!({
        "task": match model {
            "dit.json" => json!({ "kind": "denoiser" }),
            "masked.json" => {
                json!({ "kind": "classifier", "reconstruction": { "mask_ratio": 0.5, "weight": 2.0 } })
            }
            _ => json!({ "kind": "classifier" }),
        },
        "model": model,
        "data": {
            "training": data,
            "held_out": data,
            "preprocess": [{ "kind": "normalise", "mean": [0.5], "std": [0.5] }],
        },
        "optimization": {
            "steps": steps,
            "batch": 8,
            "optimizer": { "kind": "adamw", "learning_rate": 3e-3, "weight_decay": 0.01 },
            "schedule": { "warmup": 5 },
            "gradient_clip": 1.0,
            "ema": 0.9,
        },
        "output": { "weights": "weights.safetensors", "log_every": 5, "checkpoint_every": 1000 },
    });
    change(&mut document, changes);
    TrainingConfig::parse(document).unwrap()
}

/// Stops after some steps, and keeps what it hears.
struct Listener<'a> {
    stop: &'a AtomicBool,
    at: usize,
    progress: Vec<Progress>,
    evaluations: Vec<Evaluation>,
}

impl Observer for Listener<'_> {
    fn step(&mut self, done: usize) {
        self.stop.store(done == self.at, Ordering::Relaxed);
    }

    fn progress(&mut self, progress: &Progress) {
        self.progress.push(*progress);
    }

    fn measured(&mut self, _step: usize, evaluation: &Evaluation) {
        self.evaluations.push(*evaluation);
    }
}

/// Runs in `folder/NAME`, until step `at` if it is not 0.
fn run(
    folder: &Path,
    name: &str,
    config: &TrainingConfig,
    (resume, at): (bool, usize),
) -> (Result<Outcome, Error>, Vec<Progress>, Vec<Evaluation>) {
    let stop = AtomicBool::new(false);
    let mut listener = Listener {
        stop: &stop,
        at: if at == 0 { usize::MAX } else { at },
        progress: Vec::new(),
        evaluations: Vec::new(),
    };
    let options = RunOptions {
        out: folder.join(name),
        weights: Some(folder.join(name).join("weights.safetensors")),
        resume,
        force: false,
        stop: &stop,
    };
    let trainer = Trainer::prepare(config.clone(), folder, Device::cpu());
    let outcome = trainer.unwrap().run(&options, &mut listener);
    (outcome, listener.progress, listener.evaluations)
}

#[test]
fn a_classifier_learns_sixteen_images_by_heart() {
    let folder = folder();
    let changes = json!({ "evaluate": { "every": 30 }, "task": { "label_smoothing": 0.05 } });
    for model in ["group.json", "batch.json"] {
        let config = config(model, 60, &changes);
        let (outcome, progress, evaluations) =
            run(folder.path(), &format!("run {model}"), &config, (false, 0));
        let evaluation = outcome.unwrap().evaluation.unwrap();
        assert_eq!(
            (evaluation.accuracy, evaluation.samples),
            (1.0, 16),
            "{model}"
        );
        assert_eq!(evaluations.len(), 2);
        assert_eq!(progress.len(), 12);
        assert!(progress[11].loss < 0.5 * progress[0].loss, "{progress:?}");
        assert!(
            progress
                .iter()
                .all(|p| p.gradient_norm.is_some_and(|norm| norm > 0.0))
        );
    }
}

#[test]
fn a_denoiser_learns_to_tell_classes_apart() {
    let folder = folder();
    let changes = json!({
        "task": {
            "timesteps": { "sampler": "stratified", "range": [100, 700] },
            "evaluation": { "draws": 16, "range": [200, 500] },
        },
        "evaluate": { "samples": 16 },
    });
    let config = config("dit.json", 300, &changes);
    let (outcome, progress, _) = run(folder.path(), "run", &config, (false, 0));
    let outcome = outcome.unwrap();
    let (first, last) = (progress[0].loss, progress[59].loss);
    assert!(first > 0.8, "{first}");
    assert!(last < 0.5 * first, "{first} to {last}");
    let evaluation = outcome.evaluation.unwrap();
    // Guessing finds a quarter of them.
    assert!(evaluation.accuracy > 0.7, "{evaluation:?}");
    assert!(evaluation.loss < first, "{evaluation:?}");

    // What was saved is what was measured, to the rounding of the file.
    let trainer = Trainer::prepare(config, folder.path(), Device::cpu()).unwrap();
    let weights = trainer.load_weights(&outcome.weights).unwrap();
    assert_eq!(
        trainer.evaluate(&weights, &mut ()).unwrap(),
        Some(evaluation)
    );
    let bytes = fs::read(&outcome.weights).unwrap();
    let header = String::from_utf8_lossy(&bytes[8..4096]).into_owned();
    for part in ["training_sha256", r#""steps":"300""#, "accuracy"] {
        assert!(header.contains(part), "{part}");
    }
}

/// The log without what depends on the clock.
fn log(folder: &Path, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(folder.join(name).join("training.jsonl")).unwrap();
    let untimed = text.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let fields = line.as_object_mut().unwrap();
        fields.remove("seconds");
        fields.remove("samples_per_second");
        line
    });
    untimed.collect()
}

#[test]
fn a_continued_run_ends_with_the_same_weights_bit_for_bit() {
    let folder = folder();
    let folder = folder.path();
    let output = json!({ "weights": "w", "log_every": 5, "checkpoint_every": 10 });
    let augmentation =
        json!([{ "kind": "horizontal_flip" }, { "kind": "random_crop", "border": 1 }]);
    for model in ["dit.json", "group.json", "batch.json", "masked.json"] {
        let plain = config(model, 24, &json!({ "output": output }));
        let mut document = serde_json::to_value(plain).unwrap();
        document["data"]["augmentation"] = augmentation.clone();
        let config = TrainingConfig::parse(document).unwrap();
        let names = [
            format!("{model} whole"),
            format!("{model} stopped"),
            format!("{model} killed"),
        ];
        let weights = |name: &str| fs::read(folder.join(name).join("weights.safetensors")).unwrap();

        run(folder, &names[0], &config, (false, 0)).0.unwrap();

        // Asked to stop between two checkpoints.
        let stopped = run(folder, &names[1], &config, (false, 15)).0;
        assert!(
            matches!(stopped, Err(Error::Interrupted { step: 15 })),
            "{stopped:?}"
        );
        run(folder, &names[1], &config, (true, 0)).0.unwrap();
        assert!(weights(&names[0]) == weights(&names[1]), "{model}");
        assert_eq!(log(folder, &names[0]), log(folder, &names[1]), "{model}");

        // Killed: the log has gone on after the last checkpoint.
        run(folder, &names[2], &config, (false, 10)).0.unwrap_err();
        let path = folder.join(&names[2]).join("training.jsonl");
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("{\"step\":15,\"loss\":1.0}\n{\"step\":2");
        fs::write(&path, text).unwrap();
        run(folder, &names[2], &config, (true, 0)).0.unwrap();
        assert!(weights(&names[0]) == weights(&names[2]), "{model}");
        assert_eq!(log(folder, &names[0]), log(folder, &names[2]), "{model}");
        let checkpoints = fs::read_dir(folder.join(&names[2])).unwrap();
        assert_eq!(
            checkpoints.count(),
            5,
            "lock, log, weights, and one checkpoint of two files"
        );
    }
}

#[test]
fn an_earlier_run_is_neither_overwritten_nor_continued_by_another() {
    let folder = folder();
    let folder = folder.path();
    let short = config("group.json", 3, &json!({}));
    run(folder, "run", &short, (false, 0)).0.unwrap();
    let again = run(folder, "run", &short, (false, 0)).0;
    assert!(
        matches!(again, Err(Error::OutputExists { .. })),
        "{again:?}"
    );
    let other = config("group.json", 3, &json!({ "seed": 1 }));
    let other = run(folder, "run", &other, (true, 0)).0;
    assert!(matches!(other, Err(Error::Resume { .. })), "{other:?}");
    // What does not change the weights may change.
    let measured = config("group.json", 3, &json!({ "evaluate": {} }));
    run(folder, "run", &measured, (true, 0)).0.unwrap();
}

/// Why a run of `config` in `folder/run` cannot be continued.
fn refusal(folder: &Path, config: &TrainingConfig) -> String {
    match run(folder, "run", config, (true, 0)).0 {
        Err(Error::Resume { reason, .. }) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_run_does_not_go_on_with_other_images_or_another_model() {
    let folder = folder();
    let folder = folder.path();
    let config = config("group.json", 9, &json!({}));
    run(folder, "run", &config, (false, 4)).0.unwrap_err();
    let path = folder.join("tiny.safetensors");
    let original = fs::read(&path).unwrap();
    let mut changed = original.clone();
    // Somewhere among the pixels.
    let place = changed.len() - 200;
    changed[place] ^= 1;
    fs::write(&path, changed).unwrap();
    assert!(refusal(folder, &config).contains("training images"));
    fs::write(&path, original).unwrap();
    let model = folder.join("group.json");
    let original = fs::read_to_string(&model).unwrap();
    fs::write(&model, original.replace("[8,16]", "[8,8]")).unwrap();
    assert!(refusal(folder, &config).contains("model"));
    fs::write(&model, original).unwrap();
    run(folder, "run", &config, (true, 0)).0.unwrap();
}

#[test]
fn a_checkpoint_that_lost_something_is_refused() {
    let folder = folder();
    let folder = folder.path();
    let config = config("group.json", 9, &json!({}));
    run(folder, "run", &config, (false, 4)).0.unwrap_err();
    let path = folder.join("run/checkpoint-4.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(refusal(folder, &config).contains("checkpoint-4.safetensors"));
    let document = folder.join("run/checkpoint.json");
    let text = fs::read_to_string(&document).unwrap();
    fs::write(
        &document,
        text.replace("optimizer/0/steps", "optimizer/0/stepz"),
    )
    .unwrap();
    let digest = dtta_base::sha256_file(&path).unwrap();
    let mut value: Value = serde_json::from_str(&fs::read_to_string(&document).unwrap()).unwrap();
    value["sha256"] = json!(digest);
    fs::write(&document, value.to_string()).unwrap();
    assert!(refusal(folder, &config).contains("steps"));
}

#[test]
fn a_replaced_run_leaves_nothing_of_itself_behind() {
    let folder = folder();
    let folder = folder.path();
    let first = config("group.json", 6, &json!({}));
    run(folder, "run", &first, (false, 0)).0.unwrap();
    let stop = AtomicBool::new(true);
    let weights = folder.join("run/weights.safetensors");
    let options = RunOptions {
        out: folder.join("run"),
        weights: Some(weights.clone()),
        resume: false,
        force: true,
        stop: &stop,
    };
    let second = config("group.json", 6, &json!({ "seed": 1 }));
    let mut trainer = Trainer::prepare(second.clone(), folder, Device::cpu()).unwrap();
    let stopped = trainer.run(&options, &mut ());
    assert!(
        matches!(stopped, Err(Error::Interrupted { step: 0 })),
        "{stopped:?}"
    );
    assert!(!weights.exists());
    assert!(refusal(folder, &first).contains("configuration"));
    run(folder, "run", &second, (true, 0)).0.unwrap();
}

#[test]
fn one_run_at_a_time_works_in_a_folder() {
    let folder = folder();
    let folder = folder.path();
    let _lock = dtta_base::FolderLock::take(&folder.join("run")).unwrap();
    let refused = run(
        folder,
        "run",
        &config("group.json", 3, &json!({})),
        (true, 0),
    )
    .0;
    let locked = matches!(refused, Err(Error::Base(dtta_base::Error::Locked { .. })));
    assert!(locked, "{refused:?}");
}

#[test]
fn a_loss_that_explodes_ends_the_run() {
    let folder = folder();
    let mut document = serde_json::to_value(config("group.json", 40, &json!({}))).unwrap();
    document["optimization"]["optimizer"] = json!({ "kind": "sgd", "learning_rate": 1e30 });
    document["optimization"]["gradient_clip"] = Value::Null;
    let config = TrainingConfig::parse(document).unwrap();
    let outcome = run(folder.path(), "run", &config, (false, 0)).0;
    assert!(
        matches!(outcome, Err(Error::Diverged { .. })),
        "{outcome:?}"
    );
}

#[test]
fn parts_that_do_not_fit_are_refused_before_the_run() {
    let folder = folder();
    let prepare = |config: TrainingConfig| {
        let trainer = Trainer::prepare(config, folder.path(), Device::cpu());
        trainer.err().map(|error| error.to_string()).unwrap()
    };
    let error = prepare(config(
        "dit.json",
        3,
        &json!({ "task": { "timesteps": { "range": [0, 1001] } } }),
    ));
    assert!(
        error.contains("/task/timesteps/range") && error.contains("1000"),
        "{error}"
    );
    let error = prepare(config("group.json", 3, &json!({ "model": "dit.json" })));
    assert!(error.contains("dit.json"), "{error}");
    let padded = json!({
        "training": { "kind": "packed", "path": "tiny.safetensors" },
        "preprocess": [{ "kind": "pad", "border": 1 }],
    });
    let error = prepare(config("group.json", 3, &json!({ "data": padded })));
    assert!(
        error.contains("/data/training") && error.contains("[1, 10, 10]"),
        "{error}"
    );
    for classes in [CLASSES - 1, CLASSES + 1] {
        let other = json!({ "kind": "resnet", "image": [1, 8, 8], "classes": classes, "stem": "small", "blocks": [1], "widths": [8] });
        write(folder.path(), "other.json", &other);
        let error = prepare(config("other.json", 3, &json!({})));
        let expected = format!("has {CLASSES} class names, but the model has {classes} classes");
        assert!(
            error.contains("/data/training") && error.contains(&expected),
            "{error}"
        );
    }
}

#[test]
fn a_masked_autoencoder_learns_its_classes_and_to_reconstruct() {
    let folder = folder();
    let config = config("masked.json", 500, &json!({ "evaluate": {} }));
    let (outcome, ..) = run(folder.path(), "out", &config, (false, 0));
    let outcome = outcome.unwrap();
    assert!(outcome.evaluation.unwrap().accuracy >= 0.9, "{outcome:?}");
    let trainer = Trainer::prepare(config, folder.path(), Device::cpu()).unwrap();
    let trained = trainer.load_weights(&outcome.weights).unwrap();
    // Stripes of which every second patch is seen, whichever row and column it is in.
    let models = dtta_models::Models::standard();
    let backbone = models.backbone(&folder.path().join("masked.json")).unwrap();
    let pixels: Vec<f32> = (0..64)
        .map(|n| if n / 8 % 2 == 0 { 0.8 } else { -0.8 })
        .collect();
    let image = dtta_tensor::Tensor::from_floats(&pixels, &[1, 1, 8, 8], &Device::cpu()).unwrap();
    let visible = vec![vec![0, 3, 5, 6, 8, 9, 12, 15]];
    let loss = |weights: &dtta_models::Weights| {
        let decoder = backbone.reconstruction().unwrap();
        let loss = decoder.loss(weights, &image, &visible).unwrap();
        loss.item().unwrap()
    };
    // To say 0 everywhere costs 0.8 squared; images differ in more than their stripes, so that not all can be known.
    let (before, after) = (loss(trainer.weights()), loss(&trained));
    assert!(before > 0.6 && after < 0.5 * before, "{before} to {after}");
}

#[test]
fn reconstruction_and_decoder_ask_for_each_other() {
    let folder = folder();
    let path = folder.path().join("masked.json");
    let mut headless: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    headless["classes"] = json!(0);
    write(folder.path(), "headless.json", &headless);
    let of = |reconstruction: Value| json!({ "task": { "reconstruction": reconstruction } });
    for (model, changes, pointer) in [
        ("group.json", of(json!({})), "/task/reconstruction"),
        ("masked.json", of(Value::Null), "/task/reconstruction"),
        (
            "masked.json",
            of(json!({ "mask_ratio": 0.99 })),
            "/task/reconstruction/mask_ratio",
        ),
        ("headless.json", of(json!({})), "/model"),
    ] {
        let trainer = Trainer::prepare(config(model, 1, &changes), folder.path(), Device::cpu());
        let error = trainer.err().unwrap();
        let Error::Invalid { pointer: found, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(found, pointer, "{model}: {error}");
    }
}

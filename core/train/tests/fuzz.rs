//! Whatever a training configuration holds, it is read or refused. `tests/fuzz.sh` runs this for long.

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

mod common;
#[path = "../../engine/tests/common/damage.rs"]
#[allow(dead_code, reason = "documents are damaged here, not bytes")]
mod damage;

use std::fs;
use std::time::{Duration, Instant};

use dtta_data::{CLASS, Dataset, Image, Sample, Target, Targets};
use dtta_tensor::Device;
use dtta_train::{Trainer, TrainingConfig};
use proptest::prelude::*;
use serde_json::{Value, json};

use self::common::{change, write_dataset};
use self::damage::{changed, changes};

/// A folder with four images of 4×4 in two classes, and a small classifier.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let samples = (0..4u32).map(|n| Sample {
        id: n.to_string(),
        image: Image::from_fn([1, 4, 4], |_, _, _| n as f32 / 4.0).unwrap(),
        targets: Targets::new().with(CLASS, Target::Class(n % 2)),
    });
    let names = vec!["a".into(), "b".into()];
    let dataset = Dataset::from_samples("tiny", names, samples.collect()).unwrap();
    write_dataset(folder.path(), &dataset);
    let model = json!({"kind": "resnet", "image": [1, 4, 4], "classes": 2, "stem": "small", "blocks": [1], "widths": [8]});
    fs::write(folder.path().join("model.json"), model.to_string()).unwrap();
    folder
}

fn document() -> Value {
    let data = json!({"kind": "packed", "path": "tiny.safetensors"});
    let mut document = json!({
        "model": "model.json",
        "data": {
            "training": data, "held_out": data, "augmentation": [{"kind": "horizontal_flip"}, {"kind": "random_crop", "border": 1}],
            "preprocess": [{"kind": "normalise", "mean": [0.5], "std": [0.5]}],
        },
        "optimization": {
            "steps": 2, "batch": 2, "optimizer": {"kind": "adamw", "learning_rate": 1e-3}, "gradient_clip": 1.0, "ema": 0.9,
        },
        "output": {"weights": "weights.safetensors"},
    });
    change(
        &mut document,
        &json!({"task": {"kind": "classifier", "label_smoothing": 0.1}, "evaluate": {"samples": 2}}),
    );
    document
}

#[test]
fn what_is_in_order_is_read() {
    let folder = folder();
    let config = TrainingConfig::parse(document()).unwrap();
    Trainer::prepare(config, folder.path(), Device::cpu()).unwrap();
}

proptest! {
    #[test]
    fn training_configurations(changes in changes()) {
        let folder = folder();
        let clock = Instant::now();
        if let Ok(config) = TrainingConfig::parse(changed(&document(), &changes)) {
            let _ = Trainer::prepare(config, folder.path(), Device::cpu());
        }
        prop_assert!(clock.elapsed() < Duration::from_secs(20));
    }
}

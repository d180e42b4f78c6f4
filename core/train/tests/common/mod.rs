//! What the tests of training share.

use std::path::Path;

use dtta_data::{Dataset, Provenance, pack};
use serde_json::Value;

/// Writes all of a dataset to `tiny.safetensors`.
pub fn write_dataset(folder: &Path, dataset: &Dataset) {
    let provenance = Provenance {
        source: "made here".into(),
        licence: "none".into(),
    };
    let all: Vec<usize> = (0..dataset.len()).collect();
    pack(dataset, &all, &provenance, &folder.join("tiny.safetensors")).unwrap();
}

/// Puts fields into a configuration, in place of those that are there; those under `task` beside what the task has.
pub fn change(document: &mut Value, changes: &Value) {
    for (key, value) in changes.as_object().unwrap() {
        match (key.as_str(), value) {
            ("task", Value::Object(fields)) => {
                change(&mut document["task"], &fields.clone().into())
            }
            _ => document[key] = value.clone(),
        }
    }
}

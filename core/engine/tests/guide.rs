//! What the guide to experiments shows can be written in an experiment.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::fs;
use std::path::Path;

use common::{Fixture, extensions};
use dtta::{ComparisonFile, Document, TuningConfig};
use serde_json::{Value, json};

fn guide() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/README.md");
    fs::read_to_string(path).unwrap()
}

/// Refuses nothing of an experiment with this in it.
fn accept(experiment: Value, shown: &str) {
    let methods = extensions().methods;
    let parsed = Document::parse(Path::new("guide.json"), experiment, &methods);
    parsed.unwrap_or_else(|error| panic!("{shown}\n{error}"));
}

/// The fields that a piece of a document shows.
fn fields(shown: &str) -> Value {
    serde_json::from_str(&format!("{{{shown}}}")).unwrap_or_else(|error| panic!("{shown}: {error}"))
}

#[test]
fn its_blocks_are_parts_of_an_experiment_or_a_comparison() {
    let guide = guide();
    let blocks: Vec<&str> = guide
        .split("```json\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert_eq!(blocks.len(), 10);
    for block in blocks {
        let mut experiment = Fixture::experiment();
        if block.contains("\"methods\"") {
            serde_json::from_str::<ComparisonFile>(block).unwrap();
            continue;
        } else if block.starts_with("\"tuning\"") {
            let tuning = fields(block)["tuning"].clone();
            serde_json::from_value::<TuningConfig>(tuning).unwrap();
            continue;
        } else if block.starts_with('{') {
            let domain: Value = serde_json::from_str(block).unwrap();
            experiment["data"]["stream"]["domains"] = json!([domain]);
        } else {
            for (name, value) in fields(block).as_object().unwrap() {
                experiment[name] = value.clone();
            }
        }
        accept(experiment, block);
    }
}

#[test]
fn the_options_of_the_method_that_it_names_are_there() {
    let guide = guide();
    let options = guide.lines().filter_map(|line| {
        let shown = line.strip_prefix("- **`")?.split('`').next()?;
        shown.starts_with('"').then_some(shown)
    });
    let mut seen = 0;
    for shown in options.filter(|shown| !shown.contains('…')) {
        let mut experiment = Fixture::experiment();
        for (name, value) in fields(shown).as_object().unwrap() {
            experiment["method"][name] = value.clone();
        }
        accept(experiment, shown);
        seen += 1;
    }
    assert_eq!(seen, 4);
}

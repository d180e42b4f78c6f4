//! A dry run tells what the run would refuse, and leaves no trace in it.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::fs;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use common::{Fixture, extensions};
use dtta::{Document, Error, Prepared, Rehearsal, RunOptions, Shard};
use dtta_sdk::prelude::*;
use dtta_tensor::Device;
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(60);

fn rehearse(fixture: &Fixture, experiment: &Value, shard: &str) -> dtta::Result<Rehearsal> {
    let mut extensions = extensions();
    let entry = of_two::plugin_entry;
    extensions.plugins.register_linked("of_two", entry);
    let document = Document::load(&fixture.write(experiment), &[], &extensions.methods)?;
    let mut prepared = Prepared::new(document, &extensions, Device::cpu())?;
    prepared.rehearse(shard.parse().unwrap(), LONG)
}

#[test]
fn says_what_the_run_or_the_shard_will_take() {
    let fixture = Fixture::new();
    let found = rehearse(&fixture, &Fixture::experiment(), "0/1").unwrap();
    assert_eq!((found.samples, found.read, found.adapted), (16, 16, 4));
    assert!(found.seconds > 0.0);
    let found = rehearse(&fixture, &Fixture::experiment(), "1/2").unwrap();
    assert_eq!((found.samples, found.read, found.adapted), (8, 8, 4));
    // Reading stops when its time is over.
    let mut prepared = fixture.prepare(&Fixture::experiment()).unwrap();
    let found = prepared.rehearse(Shard::whole(), Duration::ZERO).unwrap();
    assert_eq!(found.read, 0);
}

#[test]
fn leaves_no_trace_in_the_run() {
    let fixture = Fixture::new();
    let experiment = Fixture::experiment();
    fixture.run(&experiment, "plain").unwrap();
    let mut prepared = fixture.prepare(&experiment).unwrap();
    prepared.rehearse(Shard::whole(), LONG).unwrap();
    let stop = AtomicBool::new(false);
    let options = RunOptions::new(fixture.path().join("rehearsed"), &stop);
    prepared.run(&options, Vec::new()).unwrap();
    assert_eq!(fixture.records("rehearsed"), fixture.records("plain"));
}

#[test]
fn refuses_what_the_run_would_refuse() {
    let fixture = Fixture::new();
    let mut explodes = Fixture::experiment();
    explodes["method"]["optimizer"] = json!({"kind": "sgd", "learning_rate": 1e30});
    let error = rehearse(&fixture, &explodes, "0/1").unwrap_err();
    assert!(matches!(error, Error::NotFinite { .. }), "{error}");

    let error = rehearse(&fixture, &Fixture::experiment(), "0/3").unwrap_err();
    assert!(matches!(error, Error::Shard { count: 3, .. }), "{error}");

    let dense = Fixture::dense();
    let mut few = Fixture::dense_experiment("segmentation");
    few["plugins"]["metric"]["config"]["classes"] = json!(2);
    let refused = rehearse(&dense, &few, "0/1").unwrap_err().to_string();
    assert!(refused.contains("class"), "{refused}");
}

/// A metric that knows classes 0 and 1 only.
struct OfTwo;

/// Nothing.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl Metric for OfTwo {
    type Config = Nothing;
    type State = u64;

    fn create(_config: Nothing) -> dtta_sdk::Result<Self> {
        Ok(Self)
    }

    fn score(&self, _: &Named, targets: &Named, _: &Session) -> dtta_sdk::Result<u64> {
        let classes = targets.get("class")?.read_ints()?;
        match classes.iter().find(|class| **class > 1) {
            Some(class) => Err(dtta_sdk::Error::new("plugin", format!("class {class}"))),
            None => Ok(1),
        }
    }

    fn merge(&self, state: &mut u64, other: u64) {
        *state += other;
    }

    fn report(&self, state: &u64) -> Scores {
        Scores::from([("count".to_owned(), *state as f64)])
    }
}

mod of_two {
    dtta_sdk::export_plugin! { metric: super::OfTwo }
}

#[test]
fn the_metric_meets_every_class_that_the_task_model_knows() {
    let fixture = Fixture::new();
    fixture.relabel(|_| 0);
    let mut experiment = Fixture::experiment();
    experiment["plugins"]["metric"] = json!({"use": "linked:of_two"});
    let refused = rehearse(&fixture, &experiment, "0/1").unwrap_err();
    assert!(refused.to_string().contains("class 2"), "{refused}");
}

#[test]
fn finds_a_damaged_image_wherever_it_lies() {
    let fixture = Fixture::new();
    let folder = fixture.path().join("images");
    for class in ["a", "b", "c", "d"] {
        fs::create_dir_all(folder.join(class)).unwrap();
        for n in 0..5u8 {
            let file = fs::File::create(folder.join(class).join(format!("{n}.png"))).unwrap();
            let mut encoder = png::Encoder::new(file, 8, 8);
            encoder.set_color(png::ColorType::Grayscale);
            let mut writer = encoder.write_header().unwrap();
            writer.write_image_data(&[40 * n; 64]).unwrap();
        }
    }
    let mut experiment = Fixture::experiment();
    experiment["data"] = json!({
        "dataset": {"kind": "folder", "path": "images", "channels": "grayscale"},
        "stream": {"domains": [{"kind": "clean"}]},
    });
    assert_eq!(rehearse(&fixture, &experiment, "0/1").unwrap().read, 20);
    let damaged = folder.join("d").join("3.png");
    let bytes = fs::read(&damaged).unwrap();
    fs::write(&damaged, &bytes[..bytes.len() / 2]).unwrap();
    let error = rehearse(&fixture, &experiment, "0/1").unwrap_err();
    assert!(error.to_string().contains("3.png"), "{error}");
}

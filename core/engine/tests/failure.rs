//! What a plugin that fails in the middle of a run may cost: its batch, and nothing else.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{Fixture, extensions};
use dtta::{Document, Error, Prepared, RunOptions, Summary};
use dtta_sdk::prelude::*;
use dtta_tensor::Device;
use serde_json::{Value, json};

static CALLS: AtomicUsize = AtomicUsize::new(0);

/// A mapper that fails at its fifth call, by an error or by a panic.
struct Fickle {
    panics: bool,
}

/// How it fails.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FickleConfig {
    /// By a panic, and not by an error.
    panics: bool,
}

impl Mapper for Fickle {
    type Config = FickleConfig;

    fn create(config: FickleConfig, _slots: &Slots) -> dtta_sdk::Result<Self> {
        Ok(Self {
            panics: config.panics,
        })
    }

    fn condition(&self, outputs: &Named, session: &Session) -> dtta_sdk::Result<Named> {
        if CALLS.fetch_add(1, Ordering::Relaxed) == 4 {
            assert!(!self.panics, "out of cheese");
            return Err(dtta_sdk::Error::new("plugin", "out of cheese"));
        }
        let embeddings = session.constant("class-embeddings")?;
        Ok(Named::one(
            "class-embedding",
            outputs.get("logits")?.softmax(-1)?.matmul(&embeddings)?,
        ))
    }
}

mod fickle {
    dtta_sdk::export_plugin! { mapper: super::Fickle }
}

/// Four batches of four samples and two steps each, so the fifth call is the third batch's first.
fn run(fixture: &Fixture, out: &str, panics: bool, policy: &str) -> dtta::Result<Summary> {
    CALLS.store(0, Ordering::Relaxed);
    let mut experiment = Fixture::experiment();
    experiment["plugins"]["mapper"] = json!({"use": "linked:fickle", "config": {"panics": panics}});
    experiment["plugins"]["on_failure"] = json!(policy);
    let mut extensions = extensions();
    extensions
        .plugins
        .register_linked("fickle", fickle::plugin_entry);
    let path = fixture.write(&experiment);
    let document = Document::load(&path, &[], &extensions.methods)?;
    let stop = AtomicBool::new(false);
    let options = RunOptions::new(fixture.path().join(out), &stop);
    Prepared::new(document, &extensions, Device::cpu())?.run(&options, Vec::new())
}

fn status(fixture: &Fixture, out: &str) -> Value {
    let text = fs::read_to_string(fixture.path().join(out).join("run.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["status"].clone()
}

// One test, since the plugin counts its calls for the whole process.
#[test]
fn a_failing_plugin_costs_its_batch_and_nothing_else() {
    let fixture = Fixture::new();
    for panics in [false, true] {
        let (fail, skip) = (format!("fail-{panics}"), format!("skip-{panics}"));
        let error = run(&fixture, &fail, panics, "fail").unwrap_err();
        assert!(matches!(error, Error::Plugin(_)), "{error}");
        assert!(error.to_string().contains("out of cheese"), "{error}");
        assert_eq!(fixture.records(&fail).len(), 8, "finished records are kept");
        assert_eq!(status(&fixture, &fail), "failed");

        let summary = run(&fixture, &skip, panics, "skip").unwrap();
        assert_eq!(summary.skipped, 4);
        assert_eq!(status(&fixture, &skip), "finished");
        let records = fixture.records(&skip);
        assert_eq!(records.len(), 16);
        assert_eq!(records[..8], fixture.records(&fail)[..]);
        for (place, record) in records.iter().enumerate() {
            let reason = record.skipped.as_deref();
            assert_eq!(reason.is_some(), (8..12).contains(&place));
            assert!(reason.is_none_or(|reason| reason.contains("out of cheese")));
        }
    }
}

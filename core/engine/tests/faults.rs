//! What must not become a result: another run's pieces, numbers that are none, half a batch, names that leave their folder.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Fixture, extensions};
use dtta::{Document, Error, Existing, Prepared, RunOptions, Shard, Summary};
use dtta_base::FolderLock;
use dtta_models::{Models, Precision, Weights};
use dtta_sdk::prelude::*;
use dtta_tensor::Device;
use serde_json::{Value, json};

/// Stops a run of 16 samples after the first 8.
fn broken(fixture: &Fixture, experiment: &Value) {
    let error = fixture.run_until(experiment, "run", false, 6).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
}

fn resumed(fixture: &Fixture, experiment: &Value) -> dtta::Result<Summary> {
    fixture.run_until(experiment, "run", true, usize::MAX)
}

/// Other random weights in the place of a model's.
fn replace_weights(fixture: &Fixture, model: &str) {
    let config = fixture.path().join(model).with_extension("json");
    let models = Models::standard();
    let specs = match models.denoiser(&config) {
        Ok(denoiser) => denoiser.parameters().clone(),
        Err(_) => models.backbone(&config).unwrap().parameters().clone(),
    };
    let weights = Weights::initialise(&specs, 99, &Device::cpu()).unwrap();
    let path = config.with_extension("safetensors");
    weights
        .save(&path, Precision::F32, &BTreeMap::new())
        .unwrap();
}

#[test]
fn a_run_is_continued_only_by_what_it_was_made_of() {
    type Change<'a> = (&'a str, &'a dyn Fn(&Fixture));
    let changes: [Change<'_>; 5] = [
        ("backbone/weights", &|f| replace_weights(f, "classifier")),
        ("denoiser/weights", &|f| replace_weights(f, "denoiser")),
        ("backbone/configuration", &|f| {
            let path = f.path().join("classifier.json");
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, text + "\n").unwrap();
        }),
        ("data", &|f| {
            let path = f.path().join("sample.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            // A pixel of the last image, or a label: the end of the file is data.
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(&path, bytes).unwrap();
        }),
        ("checkpoint", &|f| {
            let folder = fs::read_dir(f.path().join("run")).unwrap();
            let mut names = folder.map(|entry| entry.unwrap().path());
            let path = names.find(|path| path.to_string_lossy().contains("checkpoint-"));
            let path = path.unwrap();
            let mut tensors = dtta_models::read_tensors(&path, &Device::cpu()).unwrap();
            tensors.pop_first();
            dtta_models::write_tensors(&path, &tensors).unwrap();
        }),
    ];
    for (name, change) in changes {
        let fixture = Fixture::new();
        let experiment = Fixture::experiment();
        broken(&fixture, &experiment);
        let before = fs::read(fixture.path().join("run/records.jsonl")).unwrap();
        change(&fixture);
        let error = resumed(&fixture, &experiment).unwrap_err();
        assert!(matches!(error, Error::Resume { .. }), "{name}: {error}");
        assert!(error.to_string().contains(name), "{error}");
        let after = fs::read(fixture.path().join("run/records.jsonl")).unwrap();
        assert_eq!(before, after, "{name}: refused before anything is touched");
    }
}

#[test]
fn a_finished_run_is_not_replaced_by_another_and_answers_again() {
    let fixture = Fixture::new();
    let experiment = Fixture::experiment();
    let summary = fixture.run(&experiment, "run").unwrap();
    let records = fs::read(fixture.path().join("run/records.jsonl")).unwrap();
    assert_eq!(resumed(&fixture, &experiment).unwrap(), summary);
    let mut other = experiment.clone();
    other["method"]["steps"] = json!(1);
    let error = resumed(&fixture, &other).unwrap_err();
    assert!(error.to_string().contains("at `/method/steps`"), "{error}");
    let kept = fs::read(fixture.path().join("run/records.jsonl")).unwrap();
    assert_eq!(kept, records);
}

#[test]
fn replacing_a_run_clears_all_that_it_owns_and_nothing_else() {
    let fixture = Fixture::new();
    broken(&fixture, &Fixture::experiment());
    let folder = fixture.path().join("run");
    fs::write(folder.join("notes.txt"), "mine").unwrap();
    let mut other = Fixture::experiment();
    other["method"]["steps"] = json!(1);
    let whole = Shard::whole();
    let stopped = fixture.run_as(&other, "run", Existing::Replace, whole, 2);
    assert!(matches!(stopped, Err(Error::Interrupted { samples: 4 })));
    // A later resume takes up the new run, not the older one's state.
    fixture
        .run_as(&other, "run", Existing::Resume, whole, usize::MAX)
        .unwrap();
    fixture.run(&other, "fresh").unwrap();
    assert_eq!(fixture.records("run"), fixture.records("fresh"));
    assert!(folder.join("notes.txt").exists());
    assert!(
        fixture
            .records("run")
            .iter()
            .all(|record| record.loss.len() == 1)
    );
}

#[test]
fn one_process_at_a_time_runs_in_a_folder() {
    let fixture = Fixture::new();
    let experiment = Fixture::experiment();
    broken(&fixture, &experiment);
    let lock = FolderLock::take(&fixture.path().join("run")).unwrap();
    let error = resumed(&fixture, &experiment).unwrap_err();
    assert!(error.to_string().contains("another run works"), "{error}");
    drop(lock);
    resumed(&fixture, &experiment).unwrap();
}

#[test]
fn pieces_that_nothing_describes_are_not_taken_up() {
    let fixture = Fixture::new();
    let folder = fixture.path().join("run");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("records.jsonl"), "{}\n").unwrap();
    let error = resumed(&fixture, &Fixture::experiment()).unwrap_err();
    assert!(matches!(error, Error::Resume { .. }), "{error}");
    assert_eq!(
        fs::read(folder.join("records.jsonl")).unwrap(),
        b"{}\n",
        "nothing was touched"
    );
}

#[test]
fn a_learning_rate_that_explodes_is_no_result() {
    for mode in ["online", "single_sample"] {
        let fixture = Fixture::new();
        let mut experiment = Fixture::experiment();
        experiment["adaptation"]["mode"] = json!({"kind": mode});
        experiment["method"]["optimizer"] = json!({"kind": "sgd", "learning_rate": 1e30});
        let error = fixture.run(&experiment, "fail").unwrap_err();
        assert!(matches!(error, Error::NotFinite { .. }), "{mode}: {error}");

        experiment["plugins"]["on_failure"] = json!("skip");
        let summary = fixture.run(&experiment, "skip").unwrap();
        let records = fixture.records("skip");
        let skipped = records.iter().filter(|record| record.skipped.is_some());
        assert_eq!(summary.skipped, skipped.count());
        assert!(summary.skipped > 0, "{mode}");
        assert_eq!(records.len(), 16);
        for record in &records {
            let reason = record.skipped.as_deref().unwrap_or_default();
            assert!(record.skipped.is_none() || reason.contains("NaN or infinite"));
            assert!(record.loss.iter().all(|loss| loss.is_finite()));
        }
    }
}

#[test]
fn a_weight_that_is_no_number_is_refused_by_name() {
    let fixture = Fixture::new();
    let path = fixture.path().join("classifier.safetensors");
    let mut tensors = dtta_models::read_tensors(&path, &Device::cpu()).unwrap();
    let (name, tensor) = tensors.pop_first().unwrap();
    let broken = tensor.affine(1.0, f64::NAN).unwrap();
    tensors.insert(name.clone(), broken);
    dtta_models::write_tensors(&path, &tensors).unwrap();
    let error = fixture.prepare(&Fixture::experiment()).err().unwrap();
    assert!(error.to_string().contains(&name), "{error}");
}

static CALLS: AtomicUsize = AtomicUsize::new(0);

/// A mapper whose seventh call gives NaN.
struct Poison;

/// Nothing.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl Mapper for Poison {
    type Config = Nothing;

    fn create(_config: Nothing, _slots: &Slots) -> dtta_sdk::Result<Self> {
        Ok(Self)
    }

    fn condition(&self, outputs: &Named, session: &Session) -> dtta_sdk::Result<Named> {
        let embeddings = session.constant("class-embeddings")?;
        let mixed = outputs.get("logits")?.softmax(-1)?.matmul(&embeddings)?;
        let shift = match CALLS.fetch_add(1, Ordering::Relaxed) {
            6 => f64::NAN,
            _ => 0.0,
        };
        Ok(Named::one("class-embedding", mixed.affine(1.0, shift)?))
    }
}

mod poison {
    dtta_sdk::export_plugin! { mapper: super::Poison }
}

fn poisoned(fixture: &Fixture, mapper: &str, out: &str) -> dtta::Result<Summary> {
    CALLS.store(0, Ordering::Relaxed);
    let mut experiment = Fixture::experiment();
    experiment["plugins"]["mapper"] = json!({"use": mapper});
    experiment["plugins"]["on_failure"] = json!("skip");
    let mut extensions = extensions();
    extensions
        .plugins
        .register_linked("poison", poison::plugin_entry);
    let path = fixture.write(&experiment);
    let document = Document::load(&path, &[], &extensions.methods)?;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let options = RunOptions::new(fixture.path().join(out), &stop);
    Prepared::new(document, &extensions, Device::cpu())?.run(&options, Vec::new())
}

#[test]
fn one_bad_call_costs_its_batch_and_poisons_nothing_after_it() {
    // Two steps a batch of four: the seventh call is the fourth batch's first, in the second domain.
    let fixture = Fixture::new();
    let summary = poisoned(&fixture, "linked:poison", "poisoned").unwrap();
    poisoned(&fixture, "linked:classification", "healthy").unwrap();
    assert_eq!(summary.skipped, 4);
    assert_eq!(summary.domains[1].skipped, 4);
    assert_eq!(summary.domains[1].samples, 4);
    let (found, healthy) = (fixture.records("poisoned"), fixture.records("healthy"));
    assert_eq!(found[..12], healthy[..12]);
    assert!(found[12..].iter().all(|record| record.skipped.is_some()));
    assert!(summary.mean.adapted.values().all(|score| score.is_finite()));
}

static MERGES: AtomicUsize = AtomicUsize::new(0);

/// A metric that counts samples, and whose merges fail once.
struct Flaky;

impl Metric for Flaky {
    type Config = Nothing;
    type State = u64;

    fn create(_config: Nothing) -> dtta_sdk::Result<Self> {
        Ok(Self)
    }

    fn score(&self, predictions: &Named, _: &Named, _: &Session) -> dtta_sdk::Result<u64> {
        // Sixteen samples of two models are scored alone, 4 a batch: this is the third batch.
        if MERGES.fetch_add(1, Ordering::Relaxed) == 20 {
            return Err(dtta_sdk::Error::new("plugin", "out of cheese"));
        }
        Ok(predictions.get("class")?.read_ints()?.len() as u64)
    }

    fn merge(&self, state: &mut u64, other: u64) {
        *state += other;
    }

    fn report(&self, state: &u64) -> Scores {
        Scores::from([("count".to_owned(), *state as f64)])
    }
}

mod flaky {
    dtta_sdk::export_plugin! { metric: super::Flaky }
}

#[test]
fn what_is_recorded_is_what_is_scored() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    experiment["plugins"]["metric"] = json!({"use": "linked:flaky"});
    experiment["plugins"]["on_failure"] = json!("skip");
    let mut extensions = extensions();
    extensions
        .plugins
        .register_linked("flaky", flaky::plugin_entry);
    let path = fixture.write(&experiment);
    let document = Document::load(&path, &[], &extensions.methods).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let options = RunOptions::new(fixture.path().join("run"), &stop);
    let mut prepared = Prepared::new(document, &extensions, Device::cpu()).unwrap();
    let summary = prepared.run(&options, Vec::new()).unwrap();
    assert_eq!(summary.skipped, 4);
    let scored: f64 = summary
        .domains
        .iter()
        .map(|domain| domain.adapted["count"])
        .sum();
    let recorded = fixture.records("run");
    let kept = recorded.iter().filter(|record| record.skipped.is_none());
    assert_eq!(scored, kept.count() as f64);
    // The weights are those from before the batch: what comes after it in the domain is as if it had never been.
    let samples: usize = summary.domains.iter().map(|domain| domain.samples).sum();
    assert_eq!(samples, 12);
}

#[test]
fn batch_statistics_of_single_samples_do_not_depend_on_the_batch() {
    let fixture = Fixture::new();
    let config = json!({"kind": "resnet", "image": [1, 8, 8], "classes": 4, "block": "basic", "blocks": [1, 1],
                        "widths": [8, 16], "stem": "small", "norm": {"kind": "batch"}});
    fs::write(fixture.path().join("classifier.json"), config.to_string()).unwrap();
    replace_weights(&fixture, "classifier");
    let mut experiment = Fixture::experiment();
    experiment["adaptation"] = json!({"mode": {"kind": "single_sample"}, "batch_norm": "batch"});
    // At rest: what the adapted model says is what the source says.
    experiment["method"]["optimizer"] = json!({"kind": "sgd", "learning_rate": 0.0});
    let mut sources = Vec::new();
    for batch in [1, 4, 8] {
        let out = format!("batch-{batch}");
        experiment["adaptation"]["batch"] = json!(batch);
        fixture.run(&experiment, &out).unwrap();
        let records = fixture.records(&out);
        assert!(
            records.iter().all(|record| record.source == record.adapted),
            "batch {batch}"
        );
        sources.push(
            records
                .into_iter()
                .map(|record| record.source)
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(sources[0], sources[1]);
    assert_eq!(sources[0], sources[2]);
}

#[test]
fn refuses_controls_and_gates_that_would_be_something_else() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    experiment["method"]["control"] = json!("other_image");
    experiment["data"]["stream"]["samples"] = json!(1);
    experiment["adaptation"]["batch"] = json!(1);
    let error = fixture.prepare(&experiment).err().unwrap().to_string();
    assert!(error.contains("/method/control"), "{error}");

    let mut experiment = Fixture::experiment();
    experiment["method"]["gate"] = json!({"explained": 0.5});
    experiment["adaptation"]["batch_norm"] = json!("batch");
    let error = fixture.prepare(&experiment).err().unwrap().to_string();
    assert!(error.contains("/method/gate"), "{error}");
}

#[test]
fn pictures_of_different_samples_are_different_files_inside_the_run() {
    let fixture = Fixture::dense();
    let mut experiment = Fixture::dense_experiment("depth");
    experiment["output"] = json!({"pictures": 1});
    experiment["data"]["stream"]["domains"] = json!([
        {"kind": "clean", "name": "a/b"}, {"kind": "clean", "name": "a-b"}, {"kind": "clean", "name": "a_b"},
        {"kind": "clean", "name": "../out"},
    ]);
    fixture.run(&experiment, "run").unwrap();
    let folders = fs::read_dir(fixture.path().join("run/images")).unwrap();
    assert_eq!(folders.count(), 4);
    assert!(!fixture.path().join("run/out").exists());
    assert!(!fixture.path().join("out").exists());
}

/// Fails once, at a sample.
struct Full(usize);

impl dtta::Sink for Full {
    fn sample(&mut self, finished: &dtta::Finished<'_>) -> dtta::Result<()> {
        if finished.done == self.0 {
            let path = "disk".into();
            let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(dtta_base::Error::Write { path, source }.into());
        }
        Ok(())
    }
}

#[test]
fn a_sink_that_fails_within_a_batch_costs_the_batch_and_no_more() {
    for mode in ["online", "single_sample"] {
        let fixture = Fixture::new();
        let mut experiment = Fixture::experiment();
        experiment["adaptation"]["mode"] = json!({"kind": mode});
        fixture.run(&experiment, "whole").unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        let options = RunOptions::new(fixture.path().join("run"), &stop);
        let mut prepared = fixture.prepare(&experiment).unwrap();
        let error = prepared.run(&options, vec![Box::new(Full(6))]).unwrap_err();
        assert!(error.to_string().contains("disk"), "{error}");
        let resumed = resumed(&fixture, &experiment).unwrap();
        assert_eq!(fixture.records("run"), fixture.records("whole"), "{mode}");
        assert_eq!(resumed.skipped, 0);
    }
}

#[test]
fn refuses_a_precision_that_the_device_does_not_have() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    for precision in ["bf16", "f16"] {
        experiment["models"]["denoiser_precision"] = json!(precision);
        let message = fixture.prepare(&experiment).err().unwrap().to_string();
        assert!(
            message.contains("/models/denoiser_precision") && message.contains(precision),
            "{message}"
        );
    }
    experiment["models"]["denoiser_precision"] = json!("f32");
    fixture.prepare(&experiment).map(drop).unwrap();
}

//! Comparisons: methods side by side on the same samples, whatever interrupted their runs.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{Fixture, extensions, save};
use dtta::{
    CompareOptions, ComparedMethod, Comparison, ComparisonPlan, Devices, Error, Finished, Interval,
    PlanOptions, Prepared, RunName, Sink, TuningPlan, Watch, compare_runs,
};
use dtta_tensor::Device;
use serde_json::{Value, json};

fn entropy(rate: f64) -> Value {
    json!({"kind": "entropy", "optimizer": {"kind": "sgd", "learning_rate": rate}})
}

/// Three methods on the tiny experiment.
fn methods() -> Value {
    json!({
        "name": "tiny", "experiment": "experiment.json", "seeds": [3, 4], "reference": "diffusion",
        "methods": {
            "source": {"/method": {"kind": "source"}},
            "tent": {"/method": entropy(0.1), "/adaptation/batch": 2},
            "diffusion": {},
        },
    })
}

/// Tiny experiments with comparison files beside them.
struct Bench(Fixture);

impl Bench {
    fn new() -> Self {
        let fixture = Fixture::new();
        fixture.write(&Fixture::experiment());
        Self(fixture)
    }

    fn file(&self, comparison: &Value) -> PathBuf {
        let path = self.0.path().join("compare.json");
        fs::write(&path, comparison.to_string()).unwrap();
        path
    }

    fn plan(&self, comparison: &Value, options: &PlanOptions) -> dtta::Result<ComparisonPlan> {
        let paths = [self.file(comparison)];
        ComparisonPlan::load(&paths, options, &extensions().methods)
    }

    fn compare(&self, comparison: &Value, out: &str) -> dtta::Result<Comparison> {
        self.compare_as(comparison, out, |_| {}, &mut ())
    }

    fn compare_as(
        &self,
        comparison: &Value,
        out: &str,
        change: impl FnOnce(&mut CompareOptions<'_>),
        watch: &mut dyn Watch,
    ) -> dtta::Result<Comparison> {
        let stop = AtomicBool::new(false);
        let mut options = CompareOptions::new(self.0.path().join(out), &stop);
        change(&mut options);
        let plan = self.plan(comparison, &PlanOptions::default())?;
        plan.compare(&options, &extensions(), &cpu(), watch)
    }
}

fn cpu() -> Devices {
    Device::cpu().into()
}

fn method<'a>(comparison: &'a Comparison, name: &str) -> &'a ComparedMethod {
    let mut methods = comparison.methods.iter();
    methods.find(|method| method.name == name).unwrap()
}

/// Everything that does not follow the clock.
fn timeless(comparison: &Comparison) -> Value {
    let mut value = serde_json::to_value(comparison).unwrap();
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.shift_remove("cost");
                fields.shift_remove("equal_time");
                fields.values_mut().for_each(strip);
            }
            Value::Array(values) => values.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut value);
    value
}

/// The faults of a document, as `pointer: message`.
fn faults(error: &Error) -> Vec<String> {
    match error {
        Error::Base(dtta_base::Error::Invalid { path, issues, .. }) => {
            assert!(path.ends_with("compare.json"), "{error}");
            let issues = issues.iter();
            issues
                .map(|issue| format!("{}: {}", issue.pointer, issue.message))
                .collect()
        }
        other => panic!("not a fault of a document: {other}"),
    }
}

#[test]
fn scores_are_those_of_all_seeds_together_on_the_same_samples() {
    let bench = Bench::new();
    let found = bench.compare(&methods(), "out").unwrap();
    let names: Vec<&str> = found.methods.iter().map(|method| &*method.name).collect();
    assert_eq!(names, ["source", "tent", "diffusion"]);
    assert_eq!(
        (&*found.metric, &*found.source.model.of),
        ("accuracy", "source")
    );
    assert!(found.failed.is_empty() && found.equal_time.is_empty());
    for (place, domain) in ["clean", "gaussian_noise/3"].iter().enumerate() {
        for compared in &found.methods {
            // By hand, from what the runs wrote down.
            let (mut right, mut before, mut of_all) = (0, 0, 0);
            for seed in [3, 4] {
                let run = format!("out/{}/seed-{seed}", compared.name);
                let records = bench.0.records(&run);
                for record in records.iter().filter(|record| record.domain == *domain) {
                    let target = record.target.map(i64::from);
                    right += usize::from(record.adapted.prediction == target);
                    before += usize::from(record.source.prediction == target);
                    of_all += 1;
                }
            }
            assert_eq!(of_all, 16);
            let scores = &compared.domains[place];
            assert_eq!(scores.samples, of_all);
            assert_eq!(scores.adapted["accuracy"], right as f64 / 16.0);
            assert_eq!(scores.source["accuracy"], before as f64 / 16.0);
            assert_eq!(
                found.source.domains[place]["accuracy"],
                before as f64 / 16.0
            );
            let gain = scores.against_source.by["accuracy"];
            assert_eq!(gain, (right as f64 - before as f64) / 16.0);
            let Interval { low, high } = scores.against_source.intervals["accuracy"];
            assert!(low <= gain && gain <= high);
        }
    }
    // Of two domains one is shifted: the mean is that one.
    let diffusion = method(&found, "diffusion");
    assert_eq!(diffusion.mean.adapted, diffusion.domains[1].adapted);
    assert_eq!(diffusion.mean.samples, 32);
    assert!(diffusion.mean.against_reference.is_none());
    let tent = method(&found, "tent");
    let against = tent.mean.against_reference.as_ref().unwrap();
    let expected = tent.mean.adapted["accuracy"] - diffusion.mean.adapted["accuracy"];
    assert_eq!(against.by["accuracy"], expected);
    assert_eq!((tent.runs.len(), tent.runs[1].seed), (2, 4));
    assert_eq!(tent.runs[0].folder, "tent/seed-3");
    assert_eq!(tent.protocol.adaptation.batch, 2);
    assert!(diffusion.cost.draws_per_sample == 12.0 && tent.cost.draws_per_sample == 0.0);
    assert_ne!(
        diffusion.mean.adapted, diffusion.mean.source,
        "it does something"
    );
    // What changes nothing gains nothing, for sure.
    let source = &method(&found, "source").mean.against_source;
    assert!(source.by.values().all(|&by| by == 0.0), "{source:?}");
    let nothing = Interval {
        low: 0.0,
        high: 0.0,
    };
    assert!(
        source.intervals.values().all(|found| *found == nothing),
        "{source:?}"
    );

    let written = fs::read(bench.0.path().join("out/comparison.json")).unwrap();
    assert_eq!(
        serde_json::from_slice::<Comparison>(&written).unwrap(),
        found
    );
}

/// Stops a comparison after so many samples.
struct StopAfter<'a> {
    left: Arc<AtomicUsize>,
    stop: &'a AtomicBool,
    /// The same flag for sinks, which live as long as they like.
    asked: Arc<AtomicBool>,
}

struct Count(Arc<AtomicUsize>, Arc<AtomicBool>);

impl Sink for Count {
    fn sample(&mut self, _finished: &Finished<'_>) -> dtta::Result<()> {
        if self.0.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.1.store(true, Ordering::Relaxed);
            // As a full disk would: the run leaves a checkpoint and is gone.
            return Err(Error::Interrupted { samples: 0 });
        }
        Ok(())
    }
}

impl Watch for StopAfter<'_> {
    fn starts(&mut self, _run: &RunName, _prepared: &Prepared) -> Vec<Box<dyn Sink>> {
        if self.asked.load(Ordering::Relaxed) {
            self.stop.store(true, Ordering::Relaxed);
        }
        vec![Box::new(Count(self.left.clone(), self.asked.clone()))]
    }
}

#[test]
fn a_comparison_that_is_stopped_and_started_again_ends_with_the_same_table() {
    let bench = Bench::new();
    let unbroken = bench.compare(&methods(), "unbroken").unwrap();
    let plan = bench.plan(&methods(), &PlanOptions::default()).unwrap();
    let mut stops = 0;
    let found = loop {
        let stop = AtomicBool::new(false);
        let options = CompareOptions::new(bench.0.path().join("broken"), &stop);
        let mut watch = StopAfter {
            left: Arc::new(AtomicUsize::new(11)),
            stop: &stop,
            asked: Arc::default(),
        };
        match plan.compare(&options, &extensions(), &cpu(), &mut watch) {
            Ok(found) => break found,
            Err(Error::Interrupted { .. }) => stops += 1,
            Err(other) => panic!("{other}"),
        }
    };
    // 96 samples, eleven at a time, of which those of the last batch are done again.
    assert!(stops >= 8, "{stops}");
    assert_eq!(timeless(&found), timeless(&unbroken));
    let again = bench.compare(&methods(), "broken").unwrap();
    assert_eq!(again, found, "finished runs are left alone, times too");
}

#[test]
fn shards_of_every_run_make_the_table_of_whole_runs() {
    let bench = Bench::new();
    let mut comparison = methods();
    // Never reset, so it cannot be cut.
    comparison["methods"]["tent"]["/adaptation/mode"] = json!({"kind": "online", "reset": "never"});
    let whole = bench.compare(&comparison, "whole").unwrap();
    let plan = bench.plan(&comparison, &PlanOptions::default()).unwrap();
    let shard = |text: &str| {
        let stop = AtomicBool::new(false);
        let options = CompareOptions {
            shard: text.parse().unwrap(),
            ..CompareOptions::new(bench.0.path().join("parts"), &stop)
        };
        plan.run(&options, &extensions(), &cpu(), &mut ()).unwrap()
    };
    assert!(shard("1/2").is_empty());
    let half = bench.compare(&comparison, "parts").unwrap();
    let missing: Vec<&str> = half.failed.iter().map(|run| &*run.method).collect();
    assert_eq!(missing, ["source", "source", "diffusion", "diffusion"]);
    let reason = &half.failed[0].reason;
    assert!(
        reason.contains("1 of its 2 shards are finished"),
        "{reason}"
    );
    assert!(shard("0/2").is_empty());
    let found = bench.compare(&comparison, "parts").unwrap();
    assert_eq!(timeless(&found), timeless(&whole));
}

#[test]
fn a_folder_of_another_experiment_is_refused_by_name_and_makes_way_when_asked() {
    let bench = Bench::new();
    let first = bench.compare(&methods(), "out").unwrap();
    let mut other = methods();
    other["methods"]["tent"]["/adaptation/batch"] = json!(4);
    let error = bench.compare(&other, "out").unwrap_err().to_string();
    for word in ["tent, seed 3", "/adaptation/batch", "--force"] {
        assert!(error.contains(word), "{error}");
    }
    let changed = |options: &mut CompareOptions<'_>| options.force = true;
    let replaced = bench.compare_as(&other, "out", changed, &mut ()).unwrap();
    assert_eq!(method(&replaced, "tent").protocol.adaptation.batch, 4);
    // The others were left alone, with the times that they took.
    assert_eq!(method(&replaced, "source"), method(&first, "source"));
    // Other weights are another run too, which only their digest tells.
    save(&bench.0.path().join("classifier.json"), 9);
    let error = bench.compare(&other, "out").unwrap_err().to_string();
    assert!(
        error.contains("source, seed 3") && error.contains("digest"),
        "{error}"
    );
}

#[test]
fn one_run_that_fails_does_not_lose_the_others() {
    let bench = Bench::new();
    let mut comparison = methods();
    comparison["methods"]["wild"] = json!({"/method": entropy(1e38)});
    comparison["methods"]["wild"]["/method"]["parameters"] = json!({"group": "all"});
    comparison["methods"]["wild"]["/method"]["steps"] = json!(3);
    let found = bench.compare(&comparison, "out").unwrap();
    let failed: Vec<(&str, u64)> = found
        .failed
        .iter()
        .map(|run| (&*run.method, run.seed))
        .collect();
    assert_eq!(failed, [("wild", 3), ("wild", 4)]);
    assert!(found.failed[0].reason.contains("NaN"), "{:?}", found.failed);
    assert_eq!(found.methods.len(), 3);
    let alone = json!({"name": "alone", "experiment": "experiment.json", "methods": {"wild": comparison["methods"]["wild"]}});
    let error = bench.compare(&alone, "alone").unwrap_err().to_string();
    assert!(
        error.contains("no run is finished") && error.contains("wild, seed 3"),
        "{error}"
    );
}

#[test]
fn a_sweep_makes_methods_of_those_that_have_the_place() {
    let bench = Bench::new();
    let options = PlanOptions {
        seeds: Some(vec![7]),
        sweep: vec!["/method/draws=1,9".into(), "adaptation.batch=2".into()],
        ..PlanOptions::default()
    };
    let mut comparison = methods();
    comparison["reference"] = json!("diffusion-draws-9-batch-2");
    let plan = bench.plan(&comparison, &options).unwrap();
    let names: Vec<String> = plan.runs().map(|run| run.method).collect();
    let swept = |name: &str| format!("{name}-batch-2");
    let expected = ["source", "tent", "diffusion-draws-1", "diffusion-draws-9"];
    assert_eq!(names, expected.map(swept));
    // The reference is there beside its variants.
    let of_draws = PlanOptions {
        sweep: vec!["/method/draws=1,9".into()],
        ..PlanOptions::default()
    };
    let beside = bench.plan(&methods(), &of_draws).unwrap();
    let names: Vec<String> = beside.runs().take(5).map(|run| run.method).collect();
    let expected = [
        "source",
        "tent",
        "diffusion",
        "diffusion-draws-1",
        "diffusion-draws-9",
    ];
    assert_eq!(names, expected);
    let stop = AtomicBool::new(false);
    let options = CompareOptions::new(bench.0.path().join("out"), &stop);
    let found = plan
        .compare(&options, &extensions(), &cpu(), &mut ())
        .unwrap();
    let one = method(&found, "diffusion-draws-1-batch-2");
    let sweep = one.sweep.as_ref().unwrap();
    assert_eq!(sweep.of, "diffusion");
    assert_eq!(
        json!(sweep.values),
        json!({"/method/draws": 1, "/adaptation/batch": 2})
    );
    assert_eq!(one.cost.draws_per_sample, 2.0);
    // Each family within the time of each method of the others, by the longest of its settings that fits.
    assert_eq!(found.equal_time.len(), 3 + 3 + 2);
    for equal in &found.equal_time {
        let within = method(&found, &equal.within).cost.seconds_per_sample;
        assert_eq!(equal.seconds_per_sample, within);
        let own = found.methods.iter();
        let own = own.filter(|method| method.sweep.as_ref().unwrap().of == equal.method);
        let fitting = own.map(|method| method.cost.seconds_per_sample);
        let longest = fitting
            .filter(|seconds| *seconds <= within)
            .fold(None, |most, seconds| {
                Some(most.map_or(seconds, |most: f64| most.max(seconds)))
            });
        let setting = equal.setting.as_ref();
        assert_eq!(setting.map(|setting| setting.seconds_per_sample), longest);
        if let Some(setting) = setting {
            let chosen = method(&found, &setting.name);
            assert_eq!(setting.against_source, chosen.mean.against_source);
            let other = method(&found, &equal.within);
            let by = chosen.mean.adapted["accuracy"] - other.mean.adapted["accuracy"];
            assert_eq!(setting.against_other.by["accuracy"], by);
        }
    }
}

#[test]
fn refuses_sweeps_that_have_no_place_or_half_a_place() {
    let bench = Bench::new();
    let refused = |sweep: &str| {
        let options = PlanOptions {
            sweep: vec![sweep.into()],
            ..PlanOptions::default()
        };
        bench.plan(&methods(), &options).unwrap_err().to_string()
    };
    let error = refused("/method/drawz=8,30");
    for word in [
        "--sweep /method/drawz=8,30",
        "no method has that place",
        "diffusion:",
        "did you mean",
    ] {
        assert!(error.contains(word), "{error}");
    }
    let error = refused("/method/draws=8,0");
    assert!(
        error.contains("/method/draws") && error.contains("--sweep"),
        "{error}"
    );
    assert!(refused("/method/draws=8,8").contains("given twice"));
    let options = PlanOptions {
        sweep: vec!["/method/draws=1,2".into(), "method.draws=3".into()],
        ..PlanOptions::default()
    };
    let error = bench.plan(&methods(), &options).unwrap_err().to_string();
    assert!(error.contains("the place is swept twice"), "{error}");
}

#[test]
fn the_command_line_sweeps_a_place_instead_of_the_file() {
    let bench = Bench::new();
    let mut comparison = methods();
    comparison["sweep"] = json!({"/method/draws": [1, 9]});
    let options = PlanOptions {
        sweep: vec!["method.draws=4".into()],
        ..PlanOptions::default()
    };
    let plan = bench.plan(&comparison, &options).unwrap();
    let names: Vec<String> = plan.runs().take(4).map(|run| run.method).collect();
    assert_eq!(names, ["source", "tent", "diffusion", "diffusion-draws-4"]);
}

#[test]
fn faults_are_told_by_file_and_place() {
    let bench = Bench::new();
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut comparison = methods();
        change(&mut comparison);
        let plan = bench.plan(&comparison, &PlanOptions::default());
        faults(&plan.unwrap_err())
    };
    let found = refused(&|file| {
        file["methods"]["tent"]["/method"]["stepz"] = json!(1);
        file["methods"]["diffusion"] = json!({"method.draws": 0});
    });
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].starts_with("/methods/tent/~1method/stepz: `entropy` has no `stepz`"),
        "{found:?}"
    );
    assert!(
        found[1].starts_with("/methods/diffusion/method.draws: is 0"),
        "{found:?}"
    );
    // What an override leaves wrong elsewhere.
    let found = refused(&|file| {
        file["methods"]["tent"] =
            json!({"/adaptation/mode": {"kind": "online", "reset": {"every": 3}}});
    });
    assert!(
        found[0].starts_with("/methods/tent/~1adaptation~1mode/reset/every: "),
        "{found:?}"
    );
    let found = refused(&|file| file["methods"]["diffusion"] = json!({"/models/denoiser": null}));
    assert!(
        found[0].starts_with("/methods/diffusion/~1models~1denoiser: "),
        "{found:?}"
    );
    let found = refused(&|file| file["methods"]["tent"] = json!({"/name/first": 1, "": 2}));
    assert_eq!(found.len(), 2, "{found:?}");
    let found = refused(&|file| file["reference"] = json!("tend"));
    assert!(
        found[0].contains("there are `source`, `tent`, `diffusion`"),
        "{found:?}"
    );
    let found = refused(&|file| file["seeds"] = json!([1, 2, 1]));
    assert_eq!(found, ["/seeds/2: 1 is given twice"]);
    // What all methods set is one fault, and what a method sets comes after it.
    let found = refused(&|file| file["settings"] = json!({"/data/stream/rounds": 0}));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("/settings/~1data~1stream~1rounds: "),
        "{found:?}"
    );
    let found = refused(&|file| {
        file["settings"] = json!({"/adaptation/batch": 0});
        file["methods"]["source"]["/adaptation/batch"] = json!(2);
        file["methods"]["tent"]["/adaptation/batch"] = json!(0);
    });
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found
            .iter()
            .any(|fault| fault.starts_with("/settings/~1adaptation~1batch: "))
            && found
                .iter()
                .any(|fault| fault.starts_with("/methods/tent/~1adaptation~1batch: ")),
        "{found:?}"
    );
    let found = refused(&|file| file["methodz"] = json!({}));
    assert!(found[0].contains("did you mean `methods`?"), "{found:?}");
    for (place, value) in [
        ("/methods", json!({})),
        ("/seeds", json!([])),
        ("/sweep", json!({"/method/draws": []})),
    ] {
        let found = refused(&|file| file[&place[1..]] = value.clone());
        assert!(found[0].starts_with(place), "{found:?}");
    }
    let mut experiment = Fixture::experiment();
    for (part, name) in [("models", "denoiser"), ("plugins", "mapper")] {
        experiment[part].as_object_mut().unwrap().remove(name);
    }
    let own = std::mem::replace(&mut experiment["method"], entropy(0.1));
    bench.0.write(&experiment);
    let found = refused(&|file| file["methods"]["diffusion"] = json!({"/method": own}));
    assert!(
        found[0].starts_with("/methods/diffusion: makes `"),
        "{found:?}"
    );
    assert!(
        found[0].contains("experiment.json` invalid at `/models/denoiser`: is missing"),
        "{found:?}"
    );
    bench.0.write(&Fixture::experiment());
    let mut comparison = methods();
    comparison["methods"]["tent"]["/seed"] = json!(5);
    let error = bench
        .plan(&comparison, &PlanOptions::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("/methods/tent/~1seed"), "{error}");
    comparison["methods"] = json!({"comparison.json": {}});
    let error = bench
        .plan(&comparison, &PlanOptions::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("the name of a file in its folder"),
        "{error}"
    );
}

#[test]
fn experiments_are_compared_by_their_names_on_one_stream() {
    let bench = Bench::new();
    let write = |name: &str, experiment: &Value| {
        let path = bench.0.path().join(name);
        fs::write(&path, experiment.to_string()).unwrap();
        path
    };
    let mut other = Fixture::experiment();
    other["name"] = json!("other");
    other["method"] = entropy(0.1);
    let paths = [
        bench.0.path().join("experiment.json"),
        write("other.json", &other),
    ];
    let methods = &extensions().methods;
    let plan = ComparisonPlan::load(&paths, &PlanOptions::default(), methods).unwrap();
    assert_eq!(plan.name(), "tiny-other");
    let runs: Vec<String> = plan.runs().map(|run| run.to_string()).collect();
    assert_eq!(runs, ["tiny, seed 3", "other, seed 3"]);
    let stop = AtomicBool::new(false);
    let refused = |other: &Value| {
        let paths = [paths[0].clone(), write("other.json", other)];
        let plan = ComparisonPlan::load(&paths, &PlanOptions::default(), methods);
        let options = CompareOptions::new(bench.0.path().join("out"), &stop);
        let outcome = plan.and_then(|plan| plan.compare(&options, &extensions(), &cpu(), &mut ()));
        outcome.unwrap_err().to_string()
    };
    let changed = |pointer: &str, value: Value| {
        let mut changed = other.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        refused(&changed)
    };
    let error = changed("/name", json!("tiny"));
    assert!(
        error.contains("`tiny` is the name of another, too"),
        "{error}"
    );
    let error = changed("/seed", json!(8));
    assert!(error.contains("--seeds"), "{error}");
    let error = changed("/data/stream/samples", json!(6));
    assert!(
        error.contains("`clean` has 8 samples in one and 6 in the other"),
        "{error}"
    );
    let error = changed("/data/stream/domains/1/severity", json!(4));
    assert!(
        error.contains("`gaussian_noise/3` where the other has `gaussian_noise/4`"),
        "{error}"
    );
    let error = changed("/data/stream/domains", json!([{"kind": "clean"}]));
    assert!(error.contains("one has 2 domains, the other 1"), "{error}");
}

#[test]
fn the_source_model_is_the_one_before_any_statistics_of_batches() {
    let bench = Bench::new();
    let resnet = json!({"kind": "resnet", "image": [1, 8, 8], "classes": 4, "block": "basic", "blocks": [1, 1],
                        "widths": [8, 16], "stem": "small", "norm": {"kind": "batch"}});
    let path = bench.0.path().join("with-batch-norm.json");
    fs::write(&path, resnet.to_string()).unwrap();
    save(&path, 5);
    let backbone = json!("with-batch-norm.json");
    let method = |kind: Value| json!({"/method": kind, "/models/backbone/config": backbone});
    let mut statistics = method(json!({"kind": "source"}));
    statistics["/adaptation/batch_norm"] = json!("batch");
    let comparison = json!({
        "name": "statistics", "experiment": "experiment.json", "seeds": [0, 1, 2],
        "methods": {"statistics": statistics, "tent": method(entropy(0.01)), "another": {"/method": entropy(0.01)}},
    });
    // The same with the other task model first, so that these have a source of their own.
    let mut turned = comparison.clone();
    turned["methods"] = json!({
        "another": comparison["methods"]["another"], "statistics": comparison["methods"]["statistics"],
        "tent": comparison["methods"]["tent"],
    });
    let found = bench.compare(&comparison, "out").unwrap();
    assert_eq!(
        (&*found.source.model.of, &found.source.model.batch_norm),
        ("tent", &json!("running"))
    );
    let [statistics, tent, another] = [0, 1, 2].map(|place| &found.methods[place]);
    assert_eq!(statistics.mean.source, found.source.mean);
    assert_ne!(
        statistics.mean.adapted["confidence"],
        statistics.mean.source["confidence"]
    );
    let by = statistics.mean.adapted["confidence"] - tent.mean.source["confidence"];
    assert_eq!(statistics.mean.against_source.by["confidence"], by);
    // The third has another task model, which is no source of the others.
    assert_eq!(
        [statistics, tent, another].map(|method| Some(&*method.own_source.as_ref()?.of)),
        [None, None, Some("another")]
    );
    assert_ne!(another.mean.source, found.source.mean);
    let turned = bench.compare(&turned, "turned").unwrap();
    assert_eq!(turned.source.model.of, "another");
    for (place, other) in [(1, statistics), (2, tent)] {
        let method = &turned.methods[place];
        let source = method.own_source.as_ref().unwrap();
        assert_eq!(
            (&*source.of, &source.batch_norm),
            ("tent", &json!("running"))
        );
        assert_eq!(method.mean.source, found.source.mean);
        assert_eq!(method.mean.against_source, other.mean.against_source);
    }
}

#[test]
fn finished_runs_are_compared_by_sample_and_their_configurations_by_place() {
    let bench = Bench::new();
    let mut one = Fixture::experiment();
    bench.0.run(&one, "one").unwrap();
    one["method"]["steps"] = json!(1);
    one["name"] = json!("two");
    bench.0.run(&one, "two").unwrap();
    let compare = |names: [&str; 2]| {
        let folders = names.map(|name| bench.0.path().join(name));
        compare_runs(&folders, &extensions(), &Device::cpu())
    };
    let found = compare(["one", "two"]).unwrap();
    assert_eq!(found.differences.len(), 1, "{:?}", found.differences);
    assert_eq!(found.differences[0].pointer, "/method/steps");
    assert_eq!(found.differences[0].values, [json!(2), json!(1)]);
    let forth = found.methods[1].mean.against_reference.as_ref().unwrap();
    let other = compare(["two", "one"]).unwrap();
    let back = other.methods[1].mean.against_reference.as_ref().unwrap();
    for (name, by) in &forth.by {
        assert_eq!(back.by[name], -by, "{name}");
        let (forth, back) = (forth.intervals[name], back.intervals[name]);
        assert_eq!([back.low, back.high], [-forth.high, -forth.low], "{name}");
    }
    assert!(forth.by.values().any(|&by| by != 0.0));
    // Against itself, under another name.
    bench.0.run(&one, "again").unwrap();
    let found = compare(["two", "again"]).unwrap();
    assert!(found.differences.is_empty(), "{:?}", found.differences);
    let same = found.methods[1].mean.against_reference.as_ref().unwrap();
    let nothing = Interval {
        low: 0.0,
        high: 0.0,
    };
    assert!(same.by.values().all(|&by| by == 0.0));
    assert!(same.intervals.values().all(|found| *found == nothing));

    let refused = |change: &dyn Fn(&mut Value)| {
        let mut other = one.clone();
        change(&mut other);
        let folder = bench.0.path().join("other");
        fs::remove_dir_all(&folder).ok();
        bench.0.run(&other, "other").unwrap();
        compare(["one", "other"]).unwrap_err().to_string()
    };
    let error = refused(&|other| other["data"]["stream"]["samples"] = json!(7));
    assert!(
        error.contains("of `clean` is in the first alone"),
        "{error}"
    );
    let error = refused(&|other| other["data"]["stream"]["domains"][1]["severity"] = json!(5));
    assert!(
        error.contains("the domain `gaussian_noise/3` is in the first alone"),
        "{error}"
    );
    let error = refused(&|other| {
        other["plugins"]["metric"] = json!({"use": "linked:accuracy", "config": {}});
    });
    assert!(error.contains("different metrics"), "{error}");
    let error = compare(["one", "nowhere"]).unwrap_err().to_string();
    assert!(
        error.contains("nowhere") && error.contains("no finished run"),
        "{error}"
    );
}

/// What tuning of the tiny comparison looks like.
fn tuning() -> Value {
    json!({
        "domains": [{"kind": "corrupted", "corruption": "snow", "severity": 3}, {"kind": "corrupted", "corruption": "speckle_noise", "severity": 3}],
        "samples": 6, "seeds": [1, 2],
        "settings": {
            "tent": [{"/method/optimizer/learning_rate": 1e-3}, {"/method/optimizer/learning_rate": 0.3}],
            "diffusion": [{"/method/steps": 1}, {"/method/steps": 3}],
        },
    })
}

#[test]
fn settings_are_tuned_on_other_conditions_and_the_file_says_how_many_were_tried() {
    let bench = Bench::new();
    let mut comparison = methods();
    comparison["tuning"] = tuning();
    let path = bench.file(&comparison);
    let extensions = extensions();
    let plan = TuningPlan::load(&path, &PlanOptions::default(), &extensions.methods).unwrap();
    let stop = AtomicBool::new(false);
    let options = CompareOptions::new(bench.0.path().join("out"), &stop);
    let tuned = plan.tune(&options, &extensions, &cpu(), &mut ()).unwrap();
    assert_eq!(tuned.comparison.methods.len(), 4);
    assert_eq!(tuned.tuned_on.domains, ["snow/3", "speckle_noise/3"]);
    assert_eq!(
        (tuned.tuned_on.samples, &*tuned.tuned_on.metric),
        (24, "accuracy")
    );
    for (name, of_method) in &tuned.tuned_on.methods {
        let scores = [0, 1].map(|n| {
            method(&tuned.comparison, &format!("{name}-{n}"))
                .mean
                .adapted["accuracy"]
        });
        assert_eq!(of_method.tried, scores.map(Some));
        assert_eq!(
            of_method.chosen,
            usize::from(scores[1] > scores[0]),
            "{name}"
        );
    }
    assert!(
        bench
            .0
            .path()
            .join("out/tuning/tent-1/seed-2/summary.json")
            .exists()
    );

    let file: Value = serde_json::from_slice(&fs::read(&tuned.file).unwrap()).unwrap();
    let chosen = tuned.tuned_on.methods["tent"].chosen;
    let rate = &comparison["tuning"]["settings"]["tent"][chosen];
    assert_eq!(
        file["methods"]["tent"]["/method/optimizer/learning_rate"],
        rate["/method/optimizer/learning_rate"]
    );
    assert_eq!(file["experiment"], "../experiment.json");
    let plan =
        ComparisonPlan::load(&[tuned.file], &PlanOptions::default(), &extensions.methods).unwrap();
    assert_eq!(plan.name(), "tiny-tuned");
    let options = CompareOptions::new(bench.0.path().join("tuned"), &stop);
    let found = plan
        .compare(&options, &extensions, &cpu(), &mut ())
        .unwrap();
    let tried: Vec<Option<usize>> = found
        .methods
        .iter()
        .map(|method| method.settings_tried)
        .collect();
    assert_eq!(tried, [None, Some(2), Some(2)]);
    assert_eq!(found.tuned_on, Some(tuned.tuned_on));
}

#[test]
fn refuses_to_tune_on_what_is_reported_or_one_method_more_than_another() {
    let bench = Bench::new();
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut comparison = methods();
        comparison["tuning"] = tuning();
        change(&mut comparison);
        let path = bench.file(&comparison);
        TuningPlan::load(&path, &PlanOptions::default(), &extensions().methods)
            .err()
            .unwrap()
    };
    let found = faults(&refused(&|file| {
        file["tuning"]["domains"][1] =
            json!({"kind": "corrupted", "corruption": "gaussian_noise", "severity": 1});
    }));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("/tuning/domains/1: `gaussian_noise` is reported"),
        "{found:?}"
    );
    let found = faults(&refused(&|file| {
        file["tuning"]["settings"]["tent"] = json!([{"/method/steps": 1}]);
    }));
    assert!(found[0].contains("`diffusion` 2, `tent` 1"), "{found:?}");
    let found = faults(&refused(&|file| {
        file["tuning"]["settings"]["tend"] = json!([{}, {}])
    }));
    assert_eq!(found, ["/tuning/settings/tend: there is no method `tend`"]);
    let found = faults(&refused(&|file| {
        file["tuning"]["settings"]["tent"][1] = json!({"/method/stepz": 1});
    }));
    assert!(
        found[0].starts_with("/tuning/settings/tent/1/~1method~1stepz: "),
        "{found:?}"
    );
    let found = faults(&refused(&|file| {
        file["tuning"]["domains"][0]["corruption"] = json!("snown")
    }));
    assert!(
        found[0].starts_with("/tuning/domains/0/corruption"),
        "{found:?}"
    );
    let error = refused(&|file| drop(file.as_object_mut().unwrap().shift_remove("tuning")));
    assert!(
        error
            .to_string()
            .contains("no comparison file with a `tuning`"),
        "{error}"
    );
}

#[test]
fn scores_that_are_better_low_are_chosen_so() {
    let fixture = Fixture::dense();
    let mut experiment = Fixture::dense_experiment("depth");
    experiment["data"]["stream"]["samples"] = json!(4);
    fixture.write(&experiment);
    let bench = Bench(fixture);
    let comparison = json!({
        "name": "depth", "experiment": "experiment.json",
        "methods": {"diffusion": {}, "source": {"/method": {"kind": "source"}}},
        "tuning": {
            "domains": [{"kind": "corrupted", "corruption": "snow", "severity": 5}],
            "settings": {"diffusion": [{"/method/steps": 0}, {"/method/optimizer/learning_rate": 0.5}]},
        },
    });
    let path = bench.file(&comparison);
    let extensions = extensions();
    let plan = TuningPlan::load(&path, &PlanOptions::default(), &extensions.methods).unwrap();
    let stop = AtomicBool::new(false);
    let options = CompareOptions::new(bench.0.path().join("out"), &stop);
    let tuned = plan.tune(&options, &extensions, &cpu(), &mut ()).unwrap();
    let of_method = &tuned.tuned_on.methods["diffusion"];
    let scores: Vec<f64> = of_method.tried.iter().map(|score| score.unwrap()).collect();
    assert_ne!(scores[0], scores[1]);
    assert_eq!(
        of_method.chosen,
        usize::from(scores[1] < scores[0]),
        "{scores:?}"
    );
}

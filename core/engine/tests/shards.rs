//! Shards, put together, are the run that was not cut.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::fs;
use std::path::PathBuf;

use common::{Fixture, extensions};
use dtta::{Error, Existing, Shard, Summary, merge};
use dtta_tensor::Device;
use serde_json::{Value, json};

fn single_sample(mut experiment: Value) -> Value {
    experiment["adaptation"]["mode"] = json!({"kind": "single_sample"});
    experiment
}

fn merged(fixture: &Fixture, runs: &[String], out: &str) -> dtta::Result<Summary> {
    let runs: Vec<PathBuf> = runs.iter().map(|run| fixture.path().join(run)).collect();
    let out = fixture.path().join(out);
    merge(&runs, &out, &extensions(), &Device::cpu())
}

/// What two runs must have in common.
fn scores(summary: &Summary) -> Value {
    let domains = summary.domains.iter();
    json!({
        "mean": summary.mean,
        "domains": domains
            .map(|d| json!([d.name, d.averaged, d.samples, d.skipped, d.source, d.adapted, d.intervals]))
            .collect::<Vec<_>>(),
        "protocol": summary.protocol,
        "metric": summary.metric,
        "skipped": summary.skipped,
    })
}

#[test]
fn merged_shards_are_the_unbroken_run_bit_for_bit() {
    let every = |mut experiment: Value| {
        experiment["adaptation"]["mode"] = json!({"kind": "online", "reset": {"every": 4}});
        experiment["method"]["slow_weights"] = json!({"rate": 0.5});
        experiment
    };
    let cases = [
        (
            Fixture::new(),
            single_sample(Fixture::experiment()),
            &[1, 2, 3][..],
        ),
        (Fixture::new(), every(Fixture::experiment()), &[2, 3, 4]),
        (Fixture::new(), Fixture::experiment(), &[2]),
        (
            Fixture::dense(),
            single_sample(Fixture::dense_experiment("depth")),
            &[2, 4],
        ),
        (
            Fixture::dense(),
            Fixture::dense_experiment("segmentation"),
            &[2],
        ),
    ];
    for (n, (fixture, experiment, counts)) in cases.into_iter().enumerate() {
        let whole = fixture.run(&experiment, "whole").unwrap();
        for &count in counts {
            // In an order that is not the stream's.
            let runs: Vec<String> = (0..count).rev().map(|i| format!("{count}-{i}")).collect();
            for (i, run) in (0..count).rev().zip(&runs) {
                fixture
                    .run_shard(&experiment, run, &format!("{i}/{count}"))
                    .unwrap();
            }
            let out = format!("merged-{count}");
            let found = merged(&fixture, &runs, &out).unwrap();
            assert_eq!(
                fixture.records(&out),
                fixture.records("whole"),
                "{n}, {count}"
            );
            assert_eq!(scores(&found), scores(&whole), "{n}, {count}");
            let states =
                |run: &str| fs::read(fixture.path().join(run).join("samples.bin")).unwrap();
            assert_eq!(states(&out), states("whole"));
        }
    }
}

#[test]
fn a_shard_that_is_run_again_changes_nothing() {
    let fixture = Fixture::new();
    let experiment = single_sample(Fixture::experiment());
    let shard: Shard = "1/2".parse().unwrap();
    let stopped = fixture.run_as(&experiment, "shard", Existing::Keep, shard, 2);
    assert!(matches!(stopped, Err(Error::Interrupted { samples: 4 })));
    assert!(
        !fixture.path().join("shard").exists(),
        "a folder of that name is a whole shard"
    );
    let first = fixture.run_shard(&experiment, "shard", "1/2").unwrap();
    assert!(!fixture.path().join("shard.unfinished").exists());
    let again = fixture.run_shard(&experiment, "shard", "1/2").unwrap();
    assert_eq!(first, again);
    fixture.run_shard(&experiment, "unbroken", "1/2").unwrap();
    assert_eq!(fixture.records("shard"), fixture.records("unbroken"));
    let other = fixture.run_shard(&experiment, "shard", "0/2").unwrap_err();
    assert!(matches!(other, Error::OutputExists { .. }), "{other}");
}

#[test]
fn refuses_to_cut_what_depends_on_all_before_it() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    let error = fixture.run_shard(&experiment, "run", "0/3").unwrap_err();
    assert!(
        error.to_string().contains("only 2 independent units"),
        "{error}"
    );
    experiment["adaptation"]["mode"]["reset"] = json!("never");
    let error = fixture.run_shard(&experiment, "run", "0/2").unwrap_err();
    assert!(error.to_string().contains("never reset"), "{error}");
}

#[test]
fn refuses_shards_that_are_not_all_of_one_run() {
    let fixture = Fixture::new();
    let experiment = single_sample(Fixture::experiment());
    let mut seeded = experiment.clone();
    seeded["seed"] = json!(4);
    for (experiment, run, shard) in [
        (&experiment, "a", "0/2"),
        (&experiment, "b", "1/2"),
        (&experiment, "thirds", "1/3"),
        (&seeded, "seed", "1/2"),
    ] {
        fixture.run_shard(experiment, run, shard).unwrap();
    }
    let refused = |runs: &[&str], word: &str| {
        let runs: Vec<String> = runs.iter().map(|&run| run.into()).collect();
        let error = merged(&fixture, &runs, "out").unwrap_err();
        assert!(matches!(error, Error::Merge { .. }), "{error}");
        assert!(error.to_string().contains(word), "{error}");
        assert!(!fixture.path().join("out/run.json").exists());
    };
    refused(&["a"], "positions 8 to 15 are in no run");
    refused(&["b"], "positions 0 to 7 are in no run");
    refused(&["a", "b", "thirds"], "in another run too");
    refused(&["a", "seed"], "has 4 at `/seed`, this one 3");
    refused(&["a", "nothing"], "run.json");
    fixture
        .run_as(&experiment, "stopped", Existing::Keep, Shard::whole(), 2)
        .unwrap_err();
    refused(&["stopped"], "not finished");
    let both = ["a".to_owned(), "b".to_owned()];
    merged(&fixture, &both, "out").unwrap();
    let again = merged(&fixture, &both, "out").unwrap_err();
    assert!(matches!(again, Error::OutputExists { .. }), "{again}");
}

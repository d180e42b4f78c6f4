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
    let summary = merged(&fixture, &both, "out").unwrap();
    assert_eq!(merged(&fixture, &both, "out").unwrap(), summary);
    let again = merged(&fixture, &both, "seed").unwrap_err();
    assert!(matches!(again, Error::OutputExists { .. }), "{again}");
}

fn unit(fixture: &Fixture, run: &str) -> Value {
    serde_json::from_slice(&fs::read(fixture.path().join(run).join("unit.json")).unwrap()).unwrap()
}

#[test]
fn a_plan_names_the_shards_that_runs_leave() {
    let fixture = Fixture::new();
    let experiment = single_sample(Fixture::experiment());
    let plan = |experiment: &Value, count| fixture.prepare(experiment).unwrap().plan(count);
    // 16 samples in batches of 4 are 4 units; 3 shards take 1, 1 and 2 of them.
    let units = plan(&experiment, None).unwrap();
    assert_eq!(units.len(), 4);
    assert!(units.iter().all(|unit| unit.samples == 4));
    let shards = plan(&experiment, Some(3)).unwrap();
    let ends: Vec<_> = shards
        .iter()
        .map(|shard| (shard.shard.first, shard.shard.end, shard.domains.join(" ")))
        .collect();
    let (clean, noise) = ("clean".to_owned(), "gaussian_noise/3".to_owned());
    assert_eq!(ends, [(0, 4, clean.clone()), (4, 8, clean), (8, 16, noise)]);
    // 2 steps of 6 draws a sample.
    assert_eq!(shards.iter().map(|s| s.draws).sum::<usize>(), 16 * 12);
    assert!(shards.iter().all(|shard| shard.seconds > 0.0));
    assert!((shards[2].seconds - 2.0 * shards[0].seconds).abs() < 1e-9);

    // The same positions are the same records, in however many shards.
    assert_eq!(shards[0].shard.id, units[0].shard.id);
    assert_ne!(shards[1].shard.id, units[0].shard.id);
    fixture.run_shard(&experiment, "part", "2/3").unwrap();
    let left = unit(&fixture, "part");
    let planned = serde_json::to_value(&shards[2].shard).unwrap();
    for field in ["id", "shard", "first", "end"] {
        assert_eq!(left[field], planned[field], "{field}");
    }
    // What determines records is in the id.
    let mut seeded = experiment.clone();
    seeded["seed"] = json!(4);
    let mut longer = experiment.clone();
    longer["method"]["draws"] = json!(7);
    for other in [&seeded, &longer] {
        assert_ne!(
            plan(other, Some(3)).unwrap()[0].shard.id,
            shards[0].shard.id
        );
    }
    let refused = plan(&experiment, Some(5)).unwrap_err();
    assert!(
        matches!(refused, Error::Shard { count: 5, .. }),
        "{refused}"
    );
}

#[test]
fn a_folder_is_whole_once_its_unit_file_is_there() {
    let fixture = Fixture::new();
    let experiment = single_sample(Fixture::experiment());
    let path = |name: &str| fixture.path().join(name);
    for shard in ["0/2", "1/2"] {
        let name = shard.replace('/', "-");
        fixture.run_shard(&experiment, &name, shard).unwrap();
    }
    let whole = unit(&fixture, "0-2");
    let files: Vec<&String> = whole["files"].as_object().unwrap().keys().collect();
    assert_eq!(
        files,
        ["records.jsonl", "run.json", "samples.bin", "summary.json"]
    );
    let bytes = fs::metadata(path("0-2/records.jsonl")).unwrap().len();
    assert_eq!(whole["files"]["records.jsonl"]["bytes"], json!(bytes));

    // A copy to which it did not come yet is neither merged nor taken for finished.
    fs::remove_file(path("0-2/unit.json")).unwrap();
    let shards = || ["0-2".to_owned(), "1-2".to_owned()];
    let refused = merged(&fixture, &shards(), "out").unwrap_err();
    assert!(refused.to_string().contains("no `unit.json`"), "{refused}");
    let refused = fixture.run_shard(&experiment, "0-2", "0/2").unwrap_err();
    assert!(matches!(refused, Error::OutputExists { .. }), "{refused}");

    // A kill between the last file and this one, or between this one and the folder's name, costs nothing.
    let records = fixture.records("0-2");
    fs::rename(path("0-2"), path("0-2.unfinished")).unwrap();
    fixture.run_shard(&experiment, "0-2", "0/2").unwrap();
    assert_eq!(fixture.records("0-2"), records);
    assert_eq!(unit(&fixture, "0-2"), whole);
    fs::rename(path("0-2"), path("0-2.unfinished")).unwrap();
    fixture.run_shard(&experiment, "0-2", "0/2").unwrap();
    assert_eq!(unit(&fixture, "0-2"), whole);
    merged(&fixture, &shards(), "merged").unwrap();
    assert_eq!(unit(&fixture, "merged")["shard"], "0/1");
    // Merged again, nothing is written; after a kill, it is merged anew; and no other run makes way.
    let written = || fs::metadata(path("merged/run.json")).unwrap().modified();
    let (before, summary) = (written().unwrap(), fs::read(path("merged/summary.json")));
    merged(&fixture, &shards(), "merged").unwrap();
    assert_eq!(written().unwrap(), before);
    for lost in ["unit.json", "summary.json"] {
        fs::remove_file(path("merged").join(lost)).unwrap();
    }
    merged(&fixture, &shards(), "merged").unwrap();
    assert_eq!(
        fs::read(path("merged/summary.json")).unwrap(),
        summary.unwrap()
    );
    let mut seeded = experiment.clone();
    seeded["seed"] = json!(4);
    fixture.run(&seeded, "seeded").unwrap();
    let refused = merged(&fixture, &shards(), "seeded").unwrap_err();
    assert!(matches!(refused, Error::OutputExists { .. }), "{refused}");
    assert_eq!(unit(&fixture, "merged")["end"], 16);

    // A copy that lost or changed something is told by the file.
    let states = fs::read(path("1-2/samples.bin")).unwrap();
    let refused = |bytes: &[u8], word: &str| {
        fs::write(path("1-2/samples.bin"), bytes).unwrap();
        let refused = merged(&fixture, &shards(), "out").unwrap_err().to_string();
        assert!(
            refused.contains("`samples.bin`") && refused.contains(word),
            "{refused}"
        );
    };
    refused(&states[..states.len() - 1], "bytes");
    let mut changed = states.clone();
    *changed.last_mut().unwrap() ^= 1;
    refused(&changed, "changed");
}

#[test]
fn a_run_that_begins_anew_is_not_whole_meanwhile() {
    let fixture = Fixture::new();
    let experiment = Fixture::experiment();
    fixture.run(&experiment, "run").unwrap();
    assert_eq!(unit(&fixture, "run")["shard"], "0/1");
    let whole = Shard::whole();
    let stopped = fixture.run_as(&experiment, "run", Existing::Replace, whole, 4);
    assert!(stopped.is_err());
    assert!(!fixture.path().join("run/unit.json").exists());
    fixture
        .run_until(&experiment, "run", true, usize::MAX)
        .unwrap();
    assert!(fixture.path().join("run/unit.json").exists());
}

//! Runs over streams whose domains are mixed and come again.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::collections::BTreeMap;

use common::{Fixture, extensions};
use dtta::{Error, Record, merge};
use dtta_tensor::Device;
use serde_json::{Value, json};

/// The tiny experiment over two rounds of its domains among each other.
fn mixed(mode: Value) -> Value {
    let mut experiment = Fixture::experiment();
    experiment["data"]["stream"]["mixed"] = json!(true);
    experiment["data"]["stream"]["rounds"] = json!(2);
    experiment["adaptation"]["mode"] = mode;
    experiment
}

/// Records by domain and sample, without their positions.
fn by_sample(records: Vec<Record>) -> BTreeMap<(String, String), Record> {
    let entries = records.into_iter().map(|record| {
        let key = (record.domain.clone(), record.id.clone());
        (
            key,
            Record {
                position: 0,
                ..record
            },
        )
    });
    entries.collect()
}

#[test]
fn single_samples_come_to_the_same_scores_mixed_and_in_turn() {
    let fixture = Fixture::new();
    let mixed = mixed(json!({"kind": "single_sample"}));
    let mut in_turn = mixed.clone();
    in_turn["data"]["stream"]["mixed"] = json!(false);
    let found = fixture.run(&mixed, "mixed").unwrap();
    let expected = fixture.run(&in_turn, "in-turn").unwrap();
    let (records, others) = (fixture.records("mixed"), fixture.records("in-turn"));
    let domains = |records: &[Record]| -> Vec<String> {
        records.iter().map(|record| record.domain.clone()).collect()
    };
    assert_ne!(domains(&records), domains(&others));
    let batched = |mut records: BTreeMap<_, Record>| {
        // Sums of a batch are rounded by its neighbours.
        for record in records.values_mut() {
            record.loss.clear();
            record.measures.clear();
            record.source.confidence = None;
            record.adapted.confidence = None;
        }
        records
    };
    assert_eq!(batched(by_sample(records)), batched(by_sample(others)));
    assert_eq!(found.domains.len(), 4);
    for (found, expected) in found.domains.iter().zip(&expected.domains) {
        assert_eq!((&found.name, found.samples), (&expected.name, 8));
        // Whole numbers of right answers; other scores are means whose last bit depends on the order.
        assert_eq!(found.source["accuracy"], expected.source["accuracy"]);
        assert_eq!(found.adapted["accuracy"], expected.adapted["accuracy"]);
        assert_eq!(found.intervals["accuracy"], expected.intervals["accuracy"]);
    }
    let [found, expected] = [found, expected].map(|summary| summary.mean.intervals["accuracy"]);
    assert_eq!(found, expected);
}

#[test]
fn a_mixed_run_that_was_stopped_or_sharded_ends_as_an_unbroken_one() {
    let fixture = Fixture::new();
    let experiment = mixed(json!({"kind": "online", "reset": "domain"}));
    let whole = fixture.run(&experiment, "whole").unwrap();
    let stopped = fixture.run_until(&experiment, "stopped", false, 6);
    assert!(matches!(stopped, Err(Error::Interrupted { samples: 8 })));
    let resumed = fixture.run_until(&experiment, "stopped", true, usize::MAX);
    assert_eq!(fixture.records("whole"), fixture.records("stopped"));
    assert_eq!(resumed.unwrap().domains.len(), 4);
    // Weights are reset at each round, so a round is a unit.
    for shard in ["0/2", "1/2"] {
        let out = shard.replace('/', "-");
        fixture.run_shard(&experiment, &out, shard).unwrap();
    }
    let merged = {
        let out = |name: &str| fixture.path().join(name);
        let pieces = [out("0-2"), out("1-2")];
        merge(&pieces, &out("merged"), &extensions(), &Device::cpu()).unwrap()
    };
    assert_eq!(fixture.records("whole"), fixture.records("merged"));
    assert_eq!(whole.mean, merged.mean);
    let refused = fixture.run_shard(&experiment, "third", "0/3");
    assert!(matches!(refused, Err(Error::Shard { .. })));
}

//! Safeguards around methods: what they leave as it is, what they take back, and that stopped runs continue to the same records with them.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::collections::BTreeMap;

use common::{Fixture, experiment, methods};
use dtta::{Error, Prediction, Record};
use serde_json::{Value, json};

/// The tiny experiment by TENT at a rate that ruins it.
fn ruinous() -> Value {
    let sgd = json!({"kind": "sgd", "learning_rate": 5.0});
    experiment(&json!({"kind": "entropy", "optimizer": sgd, "steps": 3}))
}

#[test]
fn predictions_that_collapse_bring_the_source_back() {
    let fixture = Fixture::new();
    let mut experiment = ruinous();
    experiment["data"]["stream"]["samples"] = json!(20);
    let collapse = json!({"below": 1, "samples": 4});
    experiment["adaptation"]["safeguards"] =
        json!({"pull": 0, "collapse": collapse, "surer": null});
    fixture.run(&experiment, "guarded").unwrap();
    let records = fixture.records("guarded");
    let collapsed: Vec<bool> = records
        .iter()
        .map(|r| r.measures["collapsed"] == 1.0)
        .collect();
    let first = collapsed.iter().position(|&collapsed| collapsed).unwrap();
    for (record, collapsed) in records.iter().zip(&collapsed) {
        assert!(
            !collapsed || record.source == record.adapted,
            "{}",
            record.id
        );
    }
    // The batch after a return starts where the first one did: its first loss is the source model's.
    let next = first + 4;
    experiment["method"]["steps"] = json!(1);
    experiment["method"]["optimizer"]["learning_rate"] = json!(0.0);
    fixture.run(&experiment, "at-rest").unwrap();
    let at_rest = fixture.records("at-rest");
    assert_eq!(records[next].domain, records[first].domain);
    assert_eq!(records[next].loss[0], at_rest[next].loss[0]);
}

/// The same 20 images under each of these corruptions, by its severity.
fn under(corruptions: &[(&str, u8)]) -> Value {
    let domain = |(corruption, severity): &(&str, u8)| json!({"kind": "corrupted", "corruption": corruption, "severity": severity});
    let domains: Vec<Value> = corruptions.iter().map(domain).collect();
    json!({"samples": 20, "domains": domains})
}

/// A ruinous experiment that returns to the source in its first domain, and is left next to nothing of its learning rate then.
fn slowed() -> Value {
    let mut experiment = ruinous();
    experiment["data"]["stream"] = under(&[("gaussian_noise", 3), ("gaussian_noise", 5)]);
    experiment["adaptation"]["mode"] = json!({"kind": "online", "reset": "domain"});
    let collapse = json!({"below": 1, "samples": 4, "backoff": 1e-20});
    experiment["adaptation"]["safeguards"] =
        json!({"pull": 0, "collapse": collapse, "surer": null});
    experiment
}

fn first_return(records: &[Record]) -> usize {
    let returned = |record: &Record| record.measures["collapsed"] == 1.0;
    records.iter().position(returned).unwrap()
}

#[test]
fn a_return_slows_what_comes_after_it_until_the_streams_next_reset() {
    let fixture = Fixture::new();
    fixture.run(&slowed(), "slowed").unwrap();
    let records = fixture.records("slowed");
    let moved = |record: &Record| {
        let first = record.loss[0];
        let away = |loss: &f32| (loss - first).abs() > 1e-6 * first.abs();
        record.loss.iter().any(away)
    };
    let first = first_return(&records);
    assert!(moved(&records[first]));
    assert!(first + 4 < 20, "{first}");
    assert!(!records[first + 4..20].iter().any(moved));
    assert!(moved(&records[20]));
}

#[test]
fn a_run_that_was_stopped_after_a_return_goes_on_slowed() {
    let fixture = Fixture::new();
    fixture.run(&slowed(), "whole").unwrap();
    let whole = fixture.records("whole");
    let stop = first_return(&whole) + 4;
    let stopped = fixture.run_until(&slowed(), "broken", false, stop);
    assert!(matches!(stopped, Err(Error::Interrupted { .. })));
    fixture
        .run_until(&slowed(), "broken", true, usize::MAX)
        .unwrap();
    assert_eq!(fixture.records("broken"), whole);
}

#[test]
fn a_return_slows_a_denoiser_that_adapts_too() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    experiment["data"]["stream"] = under(&[("gaussian_noise", 3)]);
    experiment["adaptation"]["mode"] = json!({"kind": "online", "reset": "never"});
    let sgd = |rate: f64| json!({"kind": "sgd", "learning_rate": rate});
    experiment["method"]["steps"] = json!(2);
    experiment["method"]["optimizer"] = sgd(5.0);
    experiment["method"]["denoiser"] = json!({"optimizer": sgd(0.1)});
    let collapse = json!({"below": 1, "samples": 4, "backoff": 1e-20});
    experiment["adaptation"]["safeguards"] =
        json!({"pull": 0, "collapse": collapse, "surer": null});
    fixture.run(&experiment, "slowed").unwrap();
    experiment["method"]["optimizer"] = sgd(0.0);
    experiment["method"]["denoiser"] = json!({"optimizer": sgd(0.0)});
    fixture.run(&experiment, "at-rest").unwrap();
    let [slowed, at_rest] = ["slowed", "at-rest"].map(|out| fixture.records(out));
    let first = first_return(&slowed);
    assert!(first + 4 < 20, "{first}");
    assert_ne!(slowed[first].loss, at_rest[first].loss);
    for (slowed, at_rest) in slowed.iter().zip(&at_rest).skip(first + 4) {
        assert_eq!(slowed.loss, at_rest.loss, "{}", slowed.id);
    }
}

/// Of which images of a batch the source model is surer, by the definition, given all records up to the batch's end.
fn source_is_surer(until: &[Record], batch: usize, window: usize) -> Vec<bool> {
    let seen = &until[until.len().saturating_sub(window)..];
    let sureness = |of: fn(&Record) -> &Prediction, record: &Record| {
        let mine = of(record).confidence.unwrap();
        let below = seen.iter().map(|other| {
            let other = of(other).confidence.unwrap();
            f64::from(u8::from(other < mine)) + 0.5 * f64::from(u8::from(other == mine))
        });
        let mut shares = BTreeMap::new();
        for other in seen {
            *shares.entry(of(other).prediction).or_insert(0.0) += 1.0 / seen.len() as f64;
        }
        let entropy = -shares.values().map(|p| p * p.ln()).sum::<f64>();
        below.sum::<f64>() / seen.len() as f64 * entropy.exp()
    };
    let of_batch = &until[until.len() - batch..];
    let surer = |record: &Record| {
        record.source.prediction != record.adapted.prediction
            && sureness(|r| &r.source, record) > sureness(|r| &r.adapted, record)
    };
    of_batch.iter().map(surer).collect()
}

#[test]
fn the_source_models_answer_stays_where_it_is_surer() {
    let fixture = Fixture::new();
    let [mut kept, mut given_up] = [0, 0];
    for method in &methods()[1..] {
        let mut experiment = experiment(method);
        experiment["data"]["stream"] = under(&[
            ("gaussian_noise", 5),
            ("impulse_noise", 5),
            ("brightness", 5),
            ("contrast", 5),
            ("shot_noise", 5),
        ]);
        experiment["method"]["optimizer"] = json!({"kind": "sgd", "learning_rate": 1.0});
        let kind = method["kind"].as_str().unwrap();
        fixture.run(&experiment, kind).unwrap();
        experiment["adaptation"]["safeguards"] = json!({"pull": 0, "collapse": null, "surer": 10});
        let guarded = format!("{kind}-surer");
        fixture.run(&experiment, &guarded).unwrap();
        let (alone, guarded) = (fixture.records(kind), fixture.records(&guarded));
        for end in (4..=alone.len()).step_by(4) {
            let surer = source_is_surer(&alone[..end], 4, 10);
            for (place, surer) in (end - 4..end).zip(surer) {
                let (alone, found) = (&alone[place], &guarded[place]);
                let expected = if surer { &alone.source } else { &alone.adapted };
                assert_eq!(&found.adapted, expected, "{kind}: {}", found.id);
                assert_eq!(found.source, alone.source);
                assert_eq!(found.measures["kept_source"], f32::from(u8::from(surer)));
                let differ = alone.source.prediction != alone.adapted.prediction;
                kept += usize::from(surer);
                given_up += usize::from(differ && !surer);
            }
        }
    }
    assert!(kept > 5 && given_up > 5, "{kept} kept, {given_up} given up");
}

#[test]
fn an_average_leaves_alone_what_the_filter_left_out() {
    let fixture = Fixture::new();
    let mut experiment = ruinous();
    experiment["data"]["stream"] = under(&[("gaussian_noise", 3)]);
    experiment["adaptation"]["safeguards"] =
        json!({"pull": 0, "collapse": null, "surer": null, "average": 0.5, "reliable": 0.997});
    fixture.run(&experiment, "both").unwrap();
    let records = fixture.records("both");
    let (left, adapted): (Vec<_>, Vec<_>) = records.iter().partition(|r| r.loss.is_empty());
    assert!(left.iter().all(|record| record.source == record.adapted));
    assert!(adapted.iter().any(|record| record.source != record.adapted));
    assert!(!left.is_empty(), "all passed");
}

#[test]
fn a_pull_of_all_the_way_leaves_nothing_of_a_batch_and_none_leaves_everything() {
    let fixture = Fixture::new();
    let mut losses = Vec::new();
    for pull in [1.0, 0.0] {
        let mut experiment = experiment(&methods()[1]);
        experiment["adaptation"]["safeguards"] =
            json!({"pull": pull, "collapse": null, "surer": null});
        experiment["method"]["optimizer"] = json!({"kind": "sgd", "learning_rate": 0.05});
        let out = format!("pull-{pull}");
        fixture.run(&experiment, &out).unwrap();
        losses.push(fixture.records(&out));
    }
    let mut at_rest = experiment(&methods()[1]);
    at_rest["method"]["optimizer"] = json!({"kind": "sgd", "learning_rate": 0.0});
    fixture.run(&at_rest, "at-rest").unwrap();
    let mut plain = experiment(&methods()[1]);
    plain["method"]["optimizer"] = json!({"kind": "sgd", "learning_rate": 0.05});
    fixture.run(&plain, "plain").unwrap();
    let at_rest = fixture.records("at-rest");
    for (n, record) in at_rest.iter().enumerate() {
        let away = (losses[0][n].loss[0] - record.loss[0]).abs();
        assert!(away <= 1e-5 * record.loss[0].abs(), "{}: {away}", record.id);
    }
    assert_eq!(losses[1], fixture.records("plain"));
    assert_ne!(losses[1][12].loss[0], at_rest[12].loss[0]);
}

#[test]
fn samples_that_the_filter_leaves_out_keep_the_sources_prediction() {
    let fixture = Fixture::new();
    let mut experiment = experiment(&methods()[1]);
    experiment["adaptation"]["safeguards"] =
        json!({"pull": 0, "collapse": null, "surer": null, "reliable": 0});
    fixture.run(&experiment, "none").unwrap();
    for record in fixture.records("none") {
        assert!(record.loss.is_empty() && record.source == record.adapted);
    }
    experiment["adaptation"]["safeguards"]["reliable"] = json!(1);
    fixture.run(&experiment, "all").unwrap();
    assert!(
        fixture
            .records("all")
            .iter()
            .all(|record| record.loss.len() == 2)
    );
}

#[test]
fn a_stopped_run_with_every_safeguard_continues_to_the_records_of_an_unbroken_one() {
    let fixture = Fixture::new();
    for method in methods() {
        let kind = method["kind"].as_str().unwrap();
        if kind == "source" {
            continue;
        }
        let mut experiment = experiment(&method);
        experiment["adaptation"]["safeguards"] = json!({
            "pull": 0.1, "average": 0.5, "reliable": 0.99, "surer": 10,
            "collapse": {"below": 0.9, "samples": 6, "backoff": 0.3}
        });
        fixture.run(&experiment, &format!("{kind}-whole")).unwrap();
        let stopped = fixture.run_until(&experiment, kind, false, 8);
        assert!(matches!(stopped, Err(Error::Interrupted { .. })), "{kind}");
        fixture
            .run_until(&experiment, kind, true, usize::MAX)
            .unwrap();
        assert_eq!(
            fixture.records(kind),
            fixture.records(&format!("{kind}-whole")),
            "{kind}"
        );
    }
}

#[test]
fn safeguards_that_have_no_place_are_refused_by_pointer() {
    let fixture = Fixture::new();
    let refusal = |experiment: &Value| fixture.prepare(experiment).err().unwrap().to_string();
    let mut of_source = experiment(&methods()[0]);
    of_source["adaptation"]["safeguards"] = json!({});
    assert!(refusal(&of_source).contains("/adaptation/safeguards/pull"));
    let mut single = experiment(&methods()[1]);
    single["adaptation"]["mode"] = json!({"kind": "single_sample"});
    single["adaptation"]["safeguards"] = json!({});
    let error = refusal(&single);
    assert!(error.contains("/adaptation/safeguards/pull"), "{error}");
    assert!(error.contains("/adaptation/safeguards/collapse"), "{error}");
    assert!(error.contains("/adaptation/safeguards/surer"), "{error}");
    let dense = Fixture::dense();
    for task in ["segmentation", "depth"] {
        let mut experiment = Fixture::dense_experiment(task);
        experiment["adaptation"]["mode"] = json!({"kind": "online"});
        experiment["adaptation"]["safeguards"] = json!({});
        let error = dense.prepare(&experiment).err().unwrap().to_string();
        assert!(error.contains("/adaptation/safeguards/surer"), "{error}");
        experiment["adaptation"]["safeguards"]["surer"] = json!(null);
        dense.run(&experiment, task).unwrap();
    }
}

/// The tiny experiment by a method of so many steps, each image by itself.
fn alone(method: &Value, steps: usize) -> Value {
    let mut experiment = experiment(method);
    experiment["adaptation"]["mode"] = json!({"kind": "single_sample"});
    experiment["method"]["steps"] = json!(steps);
    experiment
}

/// What a run says of each image, and how many steps it took.
fn said(fixture: &Fixture, out: &str) -> Vec<(Option<i64>, Option<f32>)> {
    let records = fixture.records(out).into_iter();
    let each = records.map(|record| {
        let steps = record.measures.get("steps").copied();
        (record.adapted.prediction, steps)
    });
    each.collect()
}

/// How many updates of an image are made whose predictions after 0, 1, 2… updates are these, if two in a row without a change are enough.
fn expected_steps(predictions: &[Option<i64>]) -> usize {
    let unchanged = |n: usize| predictions[n] == predictions[n - 1];
    let enough = (2..predictions.len()).find(|&n| unchanged(n) && unchanged(n - 1));
    enough.unwrap_or(predictions.len() - 1)
}

#[test]
fn steps_that_change_no_prediction_are_left_out_of_every_method_with_several() {
    const STEPS: usize = 6;
    let fixture = Fixture::new();
    let (mut early, mut late) = (0, 0);
    let mut several = methods();
    several.retain(|method| !matches!(method["kind"].as_str(), Some("source" | "rotta")));
    let mut diffusion = Fixture::experiment()["method"].clone();
    diffusion["optimizer"] = json!({"kind": "sgd", "learning_rate": 20.0});
    several.push(diffusion);
    for mut method in several {
        let kind = method["kind"].as_str().unwrap().to_owned();
        if method["optimizer"]["kind"] == "sgd" && kind != "diffusion" {
            method["optimizer"]["learning_rate"] = json!(0.3);
        }
        let with_denoiser = |experiment: &mut Value| {
            if kind == "diffusion" {
                let whole = Fixture::experiment();
                experiment["models"] = whole["models"].clone();
                experiment["plugins"] = whole["plugins"].clone();
            }
        };
        // What one would say after each number of steps, since what is drawn does not depend on how many there are to come.
        let mut after: Vec<Vec<Option<i64>>> = vec![Vec::new(); 16];
        for steps in 0..=STEPS {
            let mut experiment = alone(&method, steps);
            with_denoiser(&mut experiment);
            let out = format!("{kind}-{steps}");
            fixture.run(&experiment, &out).unwrap();
            for (n, (prediction, measured)) in said(&fixture, &out).into_iter().enumerate() {
                assert_eq!(measured, None, "{kind}");
                after[n].push(prediction);
            }
        }
        let mut experiment = alone(&method, STEPS);
        with_denoiser(&mut experiment);
        experiment["adaptation"]["safeguards"] =
            json!({"pull": 0, "collapse": null, "surer": null, "stop_when_stable": 2});
        let out = format!("{kind}-stable");
        let summary = fixture.run(&experiment, &out).unwrap();
        for (n, (prediction, measured)) in said(&fixture, &out).into_iter().enumerate() {
            let steps = expected_steps(&after[n]);
            assert_eq!(measured, Some(steps as f32), "{kind}: {:?}", after[n]);
            assert_eq!(prediction, after[n][steps], "{kind}: {:?}", after[n]);
            assert_eq!(fixture.records(&out)[n].loss.len(), steps, "{kind}");
            early += usize::from(steps == 2);
            late += usize::from(steps > 2);
        }
        assert_eq!(summary.skipped, 0);
    }
    assert!(early > 0 && late > 0, "{early} early, {late} late");
}

#[test]
fn a_batch_that_moves_together_stops_together_and_goes_on_from_where_it_stopped() {
    let fixture = Fixture::new();
    let sgd = json!({"kind": "sgd", "learning_rate": 0.0});
    for kind in ["entropy", "eata"] {
        let mut still = experiment(&json!({"kind": kind, "optimizer": sgd, "steps": 5}));
        still["adaptation"]["safeguards"] =
            json!({"pull": 0, "collapse": null, "surer": null, "stop_when_stable": 3});
        fixture.run(&still, &format!("{kind}-still")).unwrap();
        // Nothing moves, so no prediction changes: three updates of five are made.
        for record in fixture.records(&format!("{kind}-still")) {
            assert_eq!(
                (record.loss.len(), record.measures["steps"]),
                (3, 3.0),
                "{kind}"
            );
        }
    }
    let mut moving = experiment(&methods()[1]);
    moving["method"]["steps"] = json!(4);
    moving["method"]["optimizer"]["learning_rate"] = json!(0.3);
    moving["adaptation"]["safeguards"] =
        json!({"pull": 0, "collapse": null, "surer": null, "stop_when_stable": 1});
    fixture.run(&moving, "whole").unwrap();
    let whole = fixture.records("whole");
    for batch in whole.chunks(4) {
        let steps: Vec<f32> = batch
            .iter()
            .map(|record| record.measures["steps"])
            .collect();
        assert!(
            steps.iter().all(|&count| count == steps[0] && count >= 1.0),
            "{steps:?}"
        );
    }
    assert!(fixture.run_until(&moving, "broken", false, 8).is_err());
    fixture
        .run_until(&moving, "broken", true, usize::MAX)
        .unwrap();
    assert_eq!(whole, fixture.records("broken"));
}

#[test]
fn a_stop_is_refused_where_no_step_could_be_left_out() {
    let fixture = Fixture::new();
    let asked = json!({"pull": 0, "collapse": null, "surer": null, "stop_when_stable": 2});
    for method in [&methods()[0], &methods()[1], &methods()[8]] {
        let mut experiment = experiment(method);
        experiment["adaptation"]["safeguards"] = asked.clone();
        let error = fixture.prepare(&experiment).err().unwrap().to_string();
        assert!(
            error.contains("/adaptation/safeguards/stop_when_stable"),
            "{error}"
        );
    }
    let dense = Fixture::dense();
    let mut experiment = Fixture::dense_experiment("segmentation");
    experiment["method"]["steps"] = json!(5);
    experiment["adaptation"]["safeguards"] = asked;
    let error = dense.prepare(&experiment).err().unwrap().to_string();
    assert!(
        error.contains("/adaptation/safeguards/stop_when_stable"),
        "{error}"
    );
}

//! Runs of a tiny experiment, from file to records.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::fs;

use common::Fixture;
use dtta::{Error, Record};
use serde_json::json;

fn close(a: &[Record], b: &[Record], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert_eq!(
            (&a.id, &a.domain, a.adapted.prediction),
            (&b.id, &b.domain, b.adapted.prediction)
        );
        assert!(
            (a.adapted.confidence.unwrap() - b.adapted.confidence.unwrap()).abs() <= tolerance,
            "{a:?}\n{b:?}"
        );
        for (x, y) in a.loss.iter().zip(&b.loss) {
            assert!((x - y).abs() <= tolerance * x, "{a:?}\n{b:?}");
        }
    }
}

fn single_sample(batch: usize) -> serde_json::Value {
    let mut experiment = Fixture::experiment();
    experiment["adaptation"]["mode"] = json!({"kind": "single_sample"});
    experiment["adaptation"]["batch"] = json!(batch);
    experiment
}

/// The same online, with slow weights.
fn slow_weights(mut experiment: serde_json::Value, rate: f64) -> serde_json::Value {
    experiment["adaptation"]["mode"] = json!({"kind": "online"});
    experiment["method"]["slow_weights"] = json!({"rate": rate});
    experiment
}

#[test]
fn two_runs_write_the_same_records_bit_for_bit() {
    let fixture = Fixture::new();
    for experiment in [Fixture::experiment(), single_sample(4)] {
        let name = experiment["adaptation"]["mode"]["kind"].as_str().unwrap();
        let (first, second) = (format!("{name}-1"), format!("{name}-2"));
        fixture.run(&experiment, &first).unwrap();
        fixture.run(&experiment, &second).unwrap();
        assert_eq!(fixture.records(&first), fixture.records(&second));
    }
}

#[test]
fn labels_have_no_way_into_what_is_adapted() {
    let fixture = Fixture::new();
    for experiment in [Fixture::experiment(), single_sample(4)] {
        let name = experiment["adaptation"]["mode"]["kind"].as_str().unwrap();
        let (own, others) = (format!("{name}-own"), format!("{name}-others"));
        fixture.run(&experiment, &own).unwrap();
        fixture.relabel(|label| (label + 1) % 4);
        fixture.run(&experiment, &others).unwrap();
        fixture.relabel(|label| (label + 3) % 4);
        let (own, others) = (fixture.records(&own), fixture.records(&others));
        for (own, other) in own.iter().zip(&others) {
            assert_ne!(own.target, other.target);
            let relabelled = Record {
                target: own.target,
                target_name: own.target_name.clone(),
                ..other.clone()
            };
            assert_eq!(own, &relabelled);
        }
    }
}

#[test]
fn adaptation_moves_predictions_and_lowers_the_loss() {
    let fixture = Fixture::new();
    let mut experiment = single_sample(8);
    experiment["method"]["steps"] = json!(8);
    // The same draws in every step, so that losses of steps can be compared.
    experiment["method"]["noise"] = json!("sample");
    experiment["method"]["timesteps"] = json!({"range": [400, 401]});
    fixture.run(&experiment, "run").unwrap();
    let records = fixture.records("run");
    assert!(
        records
            .iter()
            .all(|record| record.source.confidence != record.adapted.confidence)
    );
    let fell = records
        .iter()
        .filter(|record| record.loss[7] < record.loss[0])
        .count();
    assert!(
        fell * 10 >= records.len() * 9,
        "the loss fell for {fell} of {} samples",
        records.len()
    );
}

#[test]
fn single_sample_results_do_not_depend_on_the_batch() {
    let fixture = Fixture::new();
    fixture.run(&single_sample(1), "alone").unwrap();
    fixture.run(&single_sample(8), "together").unwrap();
    close(
        &fixture.records("alone"),
        &fixture.records("together"),
        1e-4,
    );
}

#[test]
fn single_sample_results_do_not_depend_on_the_order() {
    let fixture = Fixture::new();
    let mut experiment = single_sample(4);
    fixture.run(&experiment, "forward").unwrap();
    let domains = experiment["data"]["stream"]["domains"]
        .as_array_mut()
        .unwrap();
    domains.reverse();
    fixture.run(&experiment, "backward").unwrap();
    let mut backward = fixture.records("backward");
    backward.rotate_left(8);
    close(&fixture.records("forward"), &backward, 1e-4);
}

#[test]
fn slow_weights_move_as_far_as_their_rate_says() {
    // A step of plain descent at 20 for each sample, then half of the way to the mean: a step at 10 on the batch's mean loss.
    let fixture = Fixture::new();
    let experiment = Fixture::experiment();
    let run = |name: &str, slow: Option<f64>, rate: f64| {
        let mut experiment = match slow {
            Some(slow) => slow_weights(experiment.clone(), slow),
            None => experiment.clone(),
        };
        experiment["method"]["steps"] = json!(1);
        experiment["method"]["optimizer"] = json!({"kind": "sgd", "learning_rate": rate});
        fixture.run(&experiment, name).unwrap();
        fixture.records(name)
    };
    let online = run("online", None, 10.0);
    let slow = run("slow", Some(0.5), 20.0);
    let still = run("still", None, 1e-9);
    let losses =
        |records: &[Record]| -> Vec<f32> { records.iter().map(|record| record.loss[0]).collect() };
    for (a, b) in losses(&online).into_iter().zip(losses(&slow)) {
        assert!((a - b).abs() <= 1e-5 * a, "{a} {b}");
    }
    let moved = losses(&slow)
        .into_iter()
        .zip(losses(&still))
        .any(|(a, b)| (a - b).abs() > 1e-3 * b);
    assert!(moved, "by far more than the tolerance above");
}

#[test]
fn slow_weights_are_single_sample_mode_for_the_first_batch_alone() {
    let fixture = Fixture::new();
    let alone = single_sample(4);
    let experiment = slow_weights(alone.clone(), 0.5);
    fixture.run(&alone, "alone").unwrap();
    let of_slow = fixture.run(&experiment, "slow").unwrap();
    let method = &of_slow.protocol.method;
    assert_eq!(method.config["slow_weights"], json!({"rate": 0.5}));
    assert!(of_slow.protocol.in_words.contains("slow weights at 0.5"));
    let (alone, slow) = (fixture.records("alone"), fixture.records("slow"));
    assert_eq!(alone[..4], slow[..4]);
    assert!(
        alone[4..8]
            .iter()
            .zip(&slow[4..8])
            .all(|(alone, slow)| alone.loss[0] != slow.loss[0])
    );
}

#[test]
fn refuses_slow_weights_that_stand_still_or_overshoot() {
    let fixture = Fixture::new();
    for rate in [0.0, 1.5] {
        let experiment = slow_weights(Fixture::experiment(), rate);
        let error = fixture.prepare(&experiment).err().unwrap().to_string();
        assert!(error.contains("/method/slow_weights/rate"), "{error}");
    }
}

#[test]
fn a_stopped_run_continues_to_the_records_of_an_unbroken_one() {
    let fixture = Fixture::new();
    let mut never = Fixture::experiment();
    never["method"]["centre"] = json!({"rate": 0.05});
    never["adaptation"]["mode"] = json!({"kind": "online", "reset": "never"});
    never["method"]["denoiser"] =
        json!({"optimizer": {"kind": "sgd", "learning_rate": 1e-3, "momentum": 0.9}});
    let slow = slow_weights(Fixture::experiment(), 0.5);
    for (name, experiment) in [
        ("domain", Fixture::experiment()),
        ("slow", slow),
        ("never", never),
        ("single", single_sample(4)),
    ] {
        let (whole, broken) = (format!("{name}-whole"), format!("{name}-broken"));
        let summary = fixture.run(&experiment, &whole).unwrap();
        let error = fixture
            .run_until(&experiment, &broken, false, 6)
            .unwrap_err();
        assert!(
            matches!(error, Error::Interrupted { samples: 8 }),
            "{error}"
        );
        let resumed = fixture
            .run_until(&experiment, &broken, true, usize::MAX)
            .unwrap();
        assert_eq!(fixture.records(&whole), fixture.records(&broken), "{name}");
        assert_eq!(
            (summary.mean, summary.skipped),
            (resumed.mean, resumed.skipped),
            "{name}"
        );
    }
}

#[test]
fn a_run_goes_on_with_other_budgets_unless_they_decide_what_is_skipped() {
    let fixture = Fixture::new();
    let experiment = Fixture::experiment();
    fixture.run(&experiment, "whole").unwrap();
    let mut larger = experiment.clone();
    larger["plugins"]["limits"] = json!({"bytes": 1_u64 << 40, "log_lines": 7});
    fixture
        .run_until(&experiment, "parts", false, 2)
        .unwrap_err();
    fixture
        .run_until(&larger, "parts", true, usize::MAX)
        .unwrap();
    assert_eq!(fixture.records("whole"), fixture.records("parts"));

    let skipping = |mut experiment: serde_json::Value| {
        experiment["plugins"]["on_failure"] = json!("skip");
        experiment
    };
    let (small, large) = (skipping(experiment), skipping(larger));
    fixture.run_until(&small, "skips", false, 2).unwrap_err();
    let error = fixture
        .run_until(&large, "skips", true, usize::MAX)
        .unwrap_err();
    assert!(error.to_string().contains("at `/plugins/limits"), "{error}");
    let mut patient = small.clone();
    patient["plugins"]["limits"] = json!({"compile_seconds": 60, "log_lines": 7});
    fixture
        .run_until(&patient, "skips", true, usize::MAX)
        .unwrap();
}

#[test]
fn refuses_to_mix_two_runs_in_one_folder() {
    let fixture = Fixture::new();
    fixture.run(&Fixture::experiment(), "run").unwrap();
    assert!(matches!(
        fixture.run(&Fixture::experiment(), "run"),
        Err(Error::OutputExists { .. })
    ));
    fixture
        .run_until(&Fixture::experiment(), "other", false, 4)
        .unwrap_err();
    let mut changed = Fixture::experiment();
    changed["seed"] = json!(4);
    let error = fixture
        .run_until(&changed, "other", true, usize::MAX)
        .unwrap_err();
    assert!(matches!(error, Error::Resume { .. }), "{error}");
}

#[test]
fn zero_steps_measure_the_source_model() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    experiment["method"]["steps"] = json!(0);
    let summary = fixture.run(&experiment, "run").unwrap();
    assert_eq!(summary.mean.source, summary.mean.adapted);
    assert!(summary.mean.source.contains_key("accuracy"));
    assert!(
        fixture
            .records("run")
            .iter()
            .all(|record| record.loss.is_empty() && record.source == record.adapted)
    );
}

#[test]
fn never_resetting_differs_from_resetting_by_domain_only_after_the_first() {
    let fixture = Fixture::new();
    fixture.run(&Fixture::experiment(), "domain").unwrap();
    let mut experiment = Fixture::experiment();
    experiment["adaptation"]["mode"]["reset"] = json!("never");
    fixture.run(&experiment, "never").unwrap();
    let (domain, never) = (fixture.records("domain"), fixture.records("never"));
    assert_eq!(domain[..8], never[..8]);
    assert!(
        domain[8..]
            .iter()
            .zip(&never[8..])
            .all(|(a, b)| a.adapted.confidence != b.adapted.confidence)
    );
}

#[test]
fn resetting_every_so_many_samples_cuts_a_domain_into_streams_of_their_own() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    let batch = experiment["adaptation"]["batch"].as_u64().unwrap();
    fixture.run(&experiment, "domain").unwrap();
    experiment["adaptation"]["mode"]["reset"] = json!({ "every": batch });
    let summary = fixture.run(&experiment, "every").unwrap();
    let (domain, every) = (fixture.records("domain"), fixture.records("every"));
    let batch = batch as usize;
    assert_eq!(domain[..batch], every[..batch]);
    let second = batch..2 * batch;
    assert!(domain[second.clone()] != every[second]);
    assert_eq!(
        summary.protocol.adaptation.mode.to_string(),
        format!("reset: every {batch} samples")
    );

    experiment["adaptation"]["mode"]["reset"] = json!({ "every": batch + 1 });
    let error = fixture.run(&experiment, "uneven").unwrap_err().to_string();
    assert!(error.contains("/adaptation/mode/reset/every"), "{error}");
}

#[test]
fn centred_feedback_of_equal_samples_leaves_the_first_batch_where_it_was() {
    // With one sample in the batch, the common part of the first step is the sample's own feedback.
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    experiment["adaptation"]["batch"] = json!(1);
    experiment["method"]["steps"] = json!(1);
    experiment["method"]["centre"] = json!({"rate": 0.05});
    experiment["method"]["optimizer"] = json!({"kind": "sgd", "learning_rate": 1.0});
    fixture.run(&experiment, "run").unwrap();
    let records = fixture.records("run");
    assert_eq!(records[0].source, records[0].adapted);
    assert!(
        records[1..8]
            .iter()
            .all(|record| record.source.confidence != record.adapted.confidence)
    );
    experiment["adaptation"]["mode"] = json!({"kind": "single_sample"});
    assert!(
        fixture
            .prepare(&experiment)
            .err()
            .unwrap()
            .to_string()
            .contains("/method/centre")
    );
}

#[test]
fn names_the_place_of_a_plugin_configuration_that_is_refused() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    experiment["plugins"]["mapper"]["config"] = json!({"top_q": 3});
    let error = fixture.prepare(&experiment).err().unwrap();
    let Error::Base(dtta_base::Error::Invalid { issues, .. }) = &error else {
        panic!("{error}")
    };
    assert!(
        issues[0].pointer.starts_with("/plugins/mapper/config"),
        "{error}"
    );
    assert!(error.to_string().contains("top_q"), "{error}");
}

#[test]
fn a_limit_of_memory_changes_the_calls_and_not_the_results() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    fixture.run(&experiment, "free").unwrap();
    experiment["method"]["max_memory"] = json!(1 << 24);
    fixture.run(&experiment, "limited").unwrap();
    close(&fixture.records("limited"), &fixture.records("free"), 1e-4);
    experiment["method"]["max_memory"] = json!(1000);
    let message = fixture.prepare(&experiment).err().unwrap().to_string();
    assert!(
        message.contains("/method/max_memory") && message.contains("one draw takes about"),
        "{message}"
    );
}

#[test]
fn refuses_parts_that_do_not_fit() {
    let fixture = Fixture::new();
    let refusal = |pointer: &str, value: serde_json::Value| {
        let mut experiment = Fixture::experiment();
        *experiment.pointer_mut(pointer).unwrap() = value;
        fixture.prepare(&experiment).err().unwrap().to_string()
    };
    assert!(refusal("/method/timesteps/range", json!([0, 1001])).contains("go from 0 to 1000"));
    let crop = json!([{"kind": "centre_crop", "height": 6, "width": 6}]);
    assert!(refusal("/models/denoiser/preprocess", crop).contains("/models/denoiser/preprocess"));
    assert!(refusal("/models/denoiser/config", json!("missing.json")).contains("missing.json"));
    assert!(refusal("/plugins/head/use", json!("linked:nothing")).contains("linked:nothing"));
}

#[test]
fn pictures_of_classes_show_the_input_and_a_bar_for_each_probable_class() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    experiment["output"] = json!({"pictures": 2});
    experiment["plugins"]["head"]["config"] = json!({"top_k": 3});
    fixture.run(&experiment, "run").unwrap();
    let images = fixture.path().join("run/images");
    let legend = fs::read_to_string(images.join("classes.svg")).unwrap();
    assert_eq!(legend.matches("<rect").count(), 4, "{legend}");
    assert!(legend.contains(">3: d</text>"), "{legend}");
    let record = &fixture.records("run")[0];
    let file = format!("{}.png", dtta_base::file_name(&record.id));
    let clean = images.join("clean");
    assert_eq!(fs::read_dir(&clean).unwrap().count(), 2);
    let image = dtta::Image::read(clean.join(file), dtta::ColourMode::Rgb).unwrap();
    // Input of 8 rows, fourteen times as large; the strip; bars before; bars after.
    let (side, strip, gap) = (112, 14, 2);
    assert_eq!(image.shape(), [3, side, 3 * side + strip + 3 * gap]);
    let colours = |left: usize, row: usize| -> Vec<[u8; 3]> {
        let at = |channel, column| {
            let value: f32 = image.get(channel, row, left + column).unwrap();
            (255.0 * value).round() as u8
        };
        (side / 16..side)
            .map(|column| [0, 1, 2].map(|channel| at(channel, column)))
            .collect()
    };
    for (n, prediction) in [&record.source, &record.adapted].into_iter().enumerate() {
        let left = side + strip + (2 + n) * gap + n * side;
        for bar in 0..3 {
            let row = colours(left, bar * (side / 5) + side / 10);
            let filled = row.iter().filter(|colour| **colour != [224; 3]).count();
            if bar == 0 {
                let expected = prediction.confidence.unwrap() * row.len() as f32;
                assert!(
                    (filled as f32 - expected).abs() <= 1.0,
                    "{filled} {expected}"
                );
            }
            assert!(filled > 0 && filled < row.len());
        }
        // Three of the head, and no bar that nobody gave a probability.
        assert!(
            colours(left, 3 * (side / 5) + side / 10)
                .iter()
                .all(|colour| *colour == [255; 3])
        );
    }
}

#[test]
fn a_folder_without_a_finished_sample_holds_no_run() {
    let fixture = Fixture::new();
    let experiment = Fixture::experiment();
    let stop = std::sync::atomic::AtomicBool::new(true);
    let mut prepared = fixture.prepare(&experiment).unwrap();
    let options = dtta::RunOptions::new(fixture.path().join("run"), &stop);
    let error = prepared.run(&options, Vec::new()).unwrap_err();
    assert!(
        matches!(error, Error::Interrupted { samples: 0 }),
        "{error}"
    );
    let mut other = experiment.clone();
    other["seed"] = json!(4);
    fixture.run(&other, "run").unwrap();
    assert_eq!(fixture.records("run").len(), 16);
    // With one it does.
    fixture
        .run_until(&experiment, "some", false, 4)
        .unwrap_err();
    let error = fixture.run(&experiment, "some").unwrap_err();
    assert!(matches!(error, Error::OutputExists { .. }), "{error}");
    assert!(error.to_string().contains("--force"), "{error}");
    // Nor does one with nothing but a lock, which a whole shard's takes the place of.
    drop(dtta_base::FolderLock::take(&fixture.path().join("shard")).unwrap());
    assert!(fixture.path().join("shard/.lock").exists());
    fixture.run_shard(&experiment, "shard", "0/2").unwrap();
    assert_eq!(fixture.records("shard").len(), 8);
}

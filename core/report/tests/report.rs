#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

//! Reports of runs that the engine made, of such runs under other names, and of a run that is made up.

#[path = "../../engine/tests/common/mod.rs"]
mod common;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use common::Fixture;
use dtta_report::{Options, Report, write};
use serde_json::{Value, json};

fn report(runs: &[PathBuf], out: &Path) -> dtta_report::Result<(Report, String)> {
    let options = Options {
        gallery: 8,
        ..Options::default()
    };
    let report = write(runs, &options, out)?;
    Ok((report, fs::read_to_string(out).unwrap()))
}

/// The sentence and the page of one run of a fixture.
fn of(fixture: &Fixture, run: &str) -> (String, String) {
    let out = fixture.path().join("report.html");
    let (report, page) = report(&[fixture.path().join(run)], &out).unwrap();
    (report.sentences.concat(), page)
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Changes a document of a run.
fn edit(path: &Path, change: impl Fn(&mut Value)) {
    let mut document = read(path);
    change(&mut document);
    fs::write(path, document.to_string()).unwrap();
}

/// Changes each record of a run.
fn edit_records(folder: &Path, change: impl Fn(&mut Value)) {
    let path = folder.join("records.jsonl");
    let mut records = String::new();
    for line in fs::read_to_string(&path).unwrap().lines() {
        let mut record: Value = serde_json::from_str(line).unwrap();
        change(&mut record);
        writeln!(records, "{record}").unwrap();
    }
    fs::write(path, records).unwrap();
}

/// A page that is whole, asks for nothing, and has its headings in order.
fn check(page: &str) {
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"));
    let outside = [
        "http:", "https:", "<script", "url(", "@import", "src=\"/", ">NaN", ">inf",
    ];
    for outside in outside {
        assert!(!page.contains(outside), "{outside}");
    }
    let mut level = 0;
    for (place, _) in page.match_indices("<h") {
        let digit = page[place + 2..].chars().next().unwrap();
        if let Some(found) = digit.to_digit(10) {
            assert!(found <= level + 1, "level {found} after {level}");
            level = found;
        }
    }
    let drawings = page.matches("<svg").count();
    let named = page.matches("role=\"img\" aria-label=").count();
    assert_eq!(named, drawings);
    assert_eq!(page.matches("<desc id=").count(), drawings);
}

#[test]
fn a_page_says_what_the_summary_says() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    experiment["output"] = json!({"pictures": 2});
    let summary = fixture.run(&experiment, "run").unwrap();
    let (sentence, page) = of(&fixture, "run");
    check(&page);
    let shown = |scores: &dtta::Scores| format!("{:.1} %", 100.0 * scores["accuracy"]);
    let [before, after] = [&summary.mean.source, &summary.mean.adapted].map(shown);
    assert!(
        sentence.contains(&format!("from {before} to {after}")),
        "{sentence}"
    );
    assert!(
        sentence.contains("8 images of gaussian_noise/3"),
        "{sentence}"
    );
    for domain in &summary.domains {
        let [before, after] = [&domain.source, &domain.adapted].map(|s| 100.0 * s["accuracy"]);
        let name = &domain.name;
        let row = format!("<th scope=\"row\">{name}</th><td>{before:.1}</td><td>{after:.1}</td>");
        assert!(page.contains(&row), "{row}");
    }
    // The calibration error over the one shifted domain is the metric's.
    let error = 100.0 * summary.domains[1].adapted["calibration_error"];
    let told = format!("is {:.1} % before and {error:.1} % after adaptation", {
        100.0 * summary.domains[1].source["calibration_error"]
    });
    assert!(page.contains(&told), "{told}");
    // Two samples of two domains, and the colours of the classes.
    let pictures = |kind: &str| {
        page.matches(&format!("src=\"data:image/{kind};base64,"))
            .count()
    };
    assert_eq!([pictures("png"), pictures("svg+xml")], [4, 1]);
    for digest in summary.protocol.digests.values() {
        assert!(page.contains(digest));
    }
}

#[test]
fn what_a_run_is_called_stays_text() {
    let fixture = Fixture::new();
    fixture.run(&Fixture::experiment(), "run").unwrap();
    let folder = fixture.path().join("run");
    let hostile = "<script>alert(1)</script>\"'&\u{1}";
    let domain = "</svg><img src=x onerror=alert(2)>";
    for file in ["run.json", "summary.json"] {
        edit(&folder.join(file), |document| {
            let text = document.to_string().replace("gaussian_noise/3", domain);
            *document = serde_json::from_str(&text).unwrap();
        });
    }
    edit(&folder.join("run.json"), |run| {
        run["experiment"]["name"] = json!(hostile);
        run["experiment"]["description"] = json!(hostile);
        run["in_words"] = json!(hostile);
    });
    edit_records(&folder, |record| {
        let name = record["domain"].as_str().unwrap();
        record["domain"] = json!(name.replace("gaussian_noise/3", domain));
        record["target_name"] = json!(format!("{hostile}{}", record["target"]));
        for side in ["source", "adapted"] {
            let said = format!("{hostile}{}", record[side]["prediction"]);
            record[side]["prediction_name"] = json!(said);
        }
    });
    let out = fixture.path().join("report.html");
    let options = Options {
        plots: Some(fixture.path().join("plots")),
        ..Options::default()
    };
    let written = write(std::slice::from_ref(&folder), &options, &out).unwrap();
    let page = fs::read_to_string(&out).unwrap();
    check(&page);
    assert!(!page.contains("<img"), "no pictures were made");
    assert!(page.contains("&lt;script&gt;alert(1)"));
    assert!(page.contains("&lt;img src=x onerror"));
    let plots = fs::read_dir(fixture.path().join("plots")).unwrap();
    let plots: Vec<_> = plots.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(plots.len(), written.plots);
    assert!(plots.len() >= 6, "{plots:?}");
    for plot in plots {
        let svg = fs::read_to_string(&plot).unwrap();
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
        assert_eq!(svg.matches("<svg").count(), 1);
        for forbidden in ["<script", "<img", "var(", "\u{1}"] {
            assert!(!svg.contains(forbidden), "{forbidden} in {plot:?}");
        }
    }
}

#[test]
fn segmentation_and_depth_are_told_in_their_own_scores() {
    let fixture = Fixture::dense();
    for (task, score) in [("segmentation", "miou"), ("depth", "abs rel")] {
        let mut experiment = Fixture::dense_experiment(task);
        experiment["output"] = json!({"pictures": 1});
        fixture.run(&experiment, task).unwrap();
        let (sentence, page) = of(&fixture, task);
        check(&page);
        assert!(sentence.contains(score), "{sentence}");
        assert!(page.contains(&format!("{score} of this image: before")));
        assert!(page.contains("mean of the images' own scores"));
        assert!(!page.contains("Changes of the confusion matrix"));
        assert!(page.contains("src=\"data:image/png;base64,"));
    }
}

#[test]
fn a_run_that_is_not_over_is_told_as_such() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    let stopped = fixture.run_until(&experiment, "stopped", false, 8);
    assert!(matches!(stopped, Err(dtta::Error::Interrupted { .. })));
    let (sentence, page) = of(&fixture, "stopped");
    check(&page);
    let said = "This run was stopped before its end: what follows is over the first 8 images of 16";
    assert!(sentence.starts_with(said), "{sentence}");
    assert!(page.contains("without intervals"));
    // A line that was cut is no record.
    let folder = fixture.path().join("stopped");
    let records = folder.join("records.jsonl");
    let text = fs::read_to_string(&records).unwrap();
    fs::write(&records, &text[..text.len() - 20]).unwrap();
    let (sentence, page) = of(&fixture, "stopped");
    assert!(sentence.contains("the first 7 images"), "{sentence}");
    assert!(page.contains("is cut off"));
    // Nothing at all.
    fs::remove_file(&records).unwrap();
    edit(&folder.join("run.json"), |run| {
        run["status"] = json!("failed")
    });
    let (sentence, page) = of(&fixture, "stopped");
    check(&page);
    assert!(sentence.starts_with("This run ended with an error"));
    assert!(sentence.contains("the first 0 images"), "{sentence}");
    // One sample.
    experiment["data"]["stream"]["samples"] = json!(1);
    experiment["adaptation"]["batch"] = json!(1);
    fixture.run(&experiment, "one").unwrap();
    let (sentence, page) = of(&fixture, "one");
    check(&page);
    assert!(
        sentence.contains("1 image of gaussian_noise/3"),
        "{sentence}"
    );
}

#[test]
fn skipped_samples_are_counted_with_their_reasons() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    experiment["method"]["optimizer"] = json!({"kind": "sgd", "learning_rate": 1e30});
    experiment["plugins"]["on_failure"] = json!("skip");
    let summary = fixture.run(&experiment, "skipped").unwrap();
    assert_eq!(summary.skipped, 16);
    let (sentence, page) = of(&fixture, "skipped");
    check(&page);
    let said = "No image of this run was scored: 16 of 16 images were skipped.";
    assert_eq!(sentence, said);
    assert!(page.contains("16 images were skipped, which no score counts"));
    assert!(page.contains("NaN or infinite; lower the learning rate"));
}

#[test]
fn a_gain_below_zero_or_without_a_clear_sign_is_not_called_one() {
    let fixture = Fixture::new();
    fixture.run(&Fixture::experiment(), "run").unwrap();
    let path = fixture.path().join("run/summary.json");
    let said = |low: f64, high: f64| {
        edit(&path, |summary| {
            let mean = &mut summary["mean"];
            mean["source"]["accuracy"] = json!(0.5);
            mean["adapted"]["accuracy"] = json!(0.5 + 0.5 * (low + high));
            mean["intervals"]["accuracy"] = json!({"low": low, "high": high});
        });
        of(&fixture, "run").0
    };
    let begins = |said: &str, expected: &str| assert!(said.starts_with(expected), "{said}");
    begins(
        &said(0.1, 0.3),
        "Adaptation improved accuracy from 50.0 % to 70.0 % (+20.0 points, 95 % interval +10.0 to +30.0)",
    );
    begins(
        &said(-0.3, -0.1),
        "Adaptation made accuracy worse, from 50.0 % to 30.0 % (\u{2212}20.0 points",
    );
    let unclear = said(-0.1, 0.3);
    begins(
        &unclear,
        "Adaptation neither clearly improved nor worsened accuracy",
    );
    assert!(unclear.ends_with("The interval contains 0."));
}

#[test]
fn records_that_contradict_the_summary_are_told() {
    let fixture = Fixture::new();
    fixture.run(&Fixture::experiment(), "run").unwrap();
    let (_, page) = of(&fixture, "run");
    assert!(!page.contains("do not trust this report"));
    edit_records(&fixture.path().join("run"), |record| {
        if record["position"] == 0 {
            let right = record["source"]["prediction"] == record["target"];
            let target = record["target"].as_i64().unwrap();
            let other = (target + 1) % 4;
            record["source"]["prediction"] = json!(if right { other } else { target });
        }
    });
    let (_, page) = of(&fixture, "run");
    assert!(page.contains("do not trust this report"));
}

#[test]
fn several_runs_are_compared_and_their_differences_named() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    fixture.run(&experiment, "a").unwrap();
    experiment["method"]["steps"] = json!(1);
    fixture.run(&experiment, "b").unwrap();
    let out = fixture.path().join("report.html");
    let folders = ["a", "b"].map(|name| fixture.path().join(name));
    let (report, page) = report(&folders, &out).unwrap();
    check(&page);
    assert_eq!(report.sentences.len(), 2);
    assert!(page.contains("Change of accuracy by run"));
    let row = "<code>/method/steps</code></th><td><code>2</code></td><td><code>1</code></td>";
    assert!(page.contains(row));
}

#[test]
fn refuses_what_no_run_left_behind_and_names_the_line() {
    let fixture = Fixture::new();
    fixture.run(&Fixture::experiment(), "run").unwrap();
    let folder = fixture.path().join("run");
    let out = fixture.path().join("report.html");
    let refused = |folder: &Path| {
        let error = report(&[folder.to_owned()], &out).unwrap_err();
        assert!(error.is_misuse());
        dtta_base::told(&error)
    };
    assert!(refused(fixture.path()).contains("holds neither a run"));
    let records = folder.join("records.jsonl");
    let text = fs::read_to_string(&records).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines[2] = "{\"position\": 2}";
    fs::write(&records, lines.join("\n") + "\n").unwrap();
    let told = refused(&folder);
    assert!(
        told.contains("records.jsonl") && told.contains("line 3"),
        "{told}"
    );
    for (field, value, expected) in [
        ("/domain", json!("elsewhere"), "domain `elsewhere`"),
        ("/source/confidence", json!(1.5), "a confidence of 1.5"),
        ("/adapted/prediction", json!(-4), "a prediction of -4"),
    ] {
        fs::write(&records, &text).unwrap();
        edit_records(&folder, |record| {
            *record.pointer_mut(field).unwrap() = value.clone();
        });
        let told = refused(&folder);
        assert!(told.contains(expected), "{told}");
    }
    fs::write(folder.join("run.json"), "{}").unwrap();
    assert!(refused(&folder).contains("run.json"));
}

#[test]
fn a_diagnosis_shows_the_effect_of_the_timestep() {
    let fixture = Fixture::new();
    fixture.run(&Fixture::experiment(), "run").unwrap();
    let options = dtta::DiagnoseOptions {
        samples: 4,
        draws: 2,
        ranges: vec![[0.0, 500.0], [500.0, 1000.0]],
    };
    let mut prepared = fixture.prepare(&Fixture::experiment()).unwrap();
    let diagnosis = prepared.diagnose(&options, None, &mut |_, _| {}).unwrap();
    let path = fixture.path().join("diagnosis.json");
    fs::write(&path, serde_json::to_vec(&diagnosis).unwrap()).unwrap();
    let out = fixture.path().join("report.html");
    let options = Options {
        diagnosis: Some(path.clone()),
        ..Options::default()
    };
    let runs = [fixture.path().join("run")];
    write(&runs, &options, &out).unwrap();
    let page = fs::read_to_string(&out).unwrap();
    check(&page);
    assert!(page.contains("Does the first gradient point toward the truth?"));
    let toward = 100.0 * diagnosis.conclusion.ranges[1].toward_truth;
    let row = format!("<th scope=\"row\">500 to 1000</th><td>{toward:.1} %</td>");
    assert!(page.contains(&row), "{row}");
    fs::write(&path, "{}").unwrap();
    assert!(write(&runs, &options, &out).unwrap_err().is_misuse());
}

/// 75 domains of 1,000 samples in 1,000 classes, with losses, confidences and pictures.
#[test]
fn a_large_run_is_a_page_of_a_few_megabytes() {
    let fixture = Fixture::new();
    fixture.run(&Fixture::experiment(), "run").unwrap();
    let folder = fixture.path().join("run");
    let domain = |n: usize| format!("a_corruption_of_some_kind_{}/{}", n / 5, n % 5 + 1);
    edit(&folder.join("summary.json"), |summary| {
        let like = summary["domains"][1].clone();
        let domains = (0..75).map(|n| {
            let mut row = like.clone();
            row["name"] = json!(domain(n));
            row["samples"] = json!(1000);
            row["source"]["accuracy"] = json!(0.0);
            row["adapted"]["accuracy"] = json!(0.25);
            row
        });
        summary["domains"] = domains.collect();
    });
    edit(&folder.join("run.json"), |run| {
        let domains = (0..75).map(|n| json!({"name": domain(n), "samples": 1000, "shifted": true}));
        run["domains"] = domains.collect();
        run["experiment"]["output"]["pictures"] = json!(1000);
    });
    let file_name = dtta_base::file_name;
    let mut records = String::new();
    for position in 0..75_000usize {
        let target = position % 1000;
        let wrong = |n: usize| (target + 1 + n % 999) % 1000;
        let adapted = match position % 4 {
            0 => target,
            _ => wrong(7 * position),
        };
        let said = |class: usize, confidence: f64| json!({"prediction": class, "prediction_name": format!("class {class}"), "confidence": confidence});
        let id = format!("val/ILSVRC2012_val_{position:08}.JPEG");
        let record = json!({
            "position": position, "id": id, "domain": domain(position / 1000), "target": target, "target_name": format!("class {target}"),
            "source": said(wrong(position / 1000), 1e-3 * target as f64), "adapted": said(adapted, 0.75),
            "loss": [0.5, 0.25, 0.125, 0.0625, 0.03], "milliseconds": 12.5,
        });
        writeln!(records, "{record}").unwrap();
        // Pictures of the first few, each as large as one may be.
        if position % 1000 < 3 && position < 10_000 {
            let images = folder
                .join("images")
                .join(file_name(&domain(position / 1000)));
            fs::create_dir_all(&images).unwrap();
            let mut bytes = vec![0; 399_000];
            bytes[..4].copy_from_slice(b"\x89PNG");
            fs::write(images.join(file_name(&id) + ".png"), bytes).unwrap();
        }
    }
    fs::write(folder.join("records.jsonl"), records).unwrap();
    let out = fixture.path().join("report.html");
    let options = Options {
        gallery: 1000,
        ..Options::default()
    };
    let report = write(&[folder], &options, &out).unwrap();
    let page = fs::read_to_string(&out).unwrap();
    check(&page);
    assert!(report.bytes <= 5_000_000, "{}", report.bytes);
    assert_eq!(page.matches("src=\"data:image/png").count(), 5);
    assert!(page.contains("pictures are left out"));
    assert!(page.contains("75,000 of 75,000 in 75 domains"));
    assert!(!page.contains("do not trust this report"));
    assert!(page.contains("Confusions that changed the most"));
}

/// A comparison of two methods and one swept one, as `dtta compare` writes it.
/// A comparison by hand, with the protocol of a run.
fn comparison() -> Value {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    experiment["method"] = json!({"kind": "source"});
    fixture.run(&experiment, "run").unwrap();
    let protocol = read(&fixture.path().join("run/summary.json"))["protocol"].clone();
    let change = |by: f64| json!({"by": {"accuracy": by}, "intervals": {"accuracy": {"low": by - 0.02, "high": by + 0.02}}});
    let compared = |by: f64| json!({"samples": 600, "source": {"accuracy": 0.5}, "adapted": {"accuracy": 0.5 + by}, "against_source": change(by)});
    let method = |name: &str, by: f64, time: f64, sweep: Value| {
        json!({
            "name": name, "sweep": sweep, "domains": [compared(by), compared(by)], "mean": compared(by),
            "cost": {"seconds_per_sample": time, "draws_per_sample": 8.0, "draws_per_second": 80.0, "peak_memory_bytes": 1_048_576},
            "runs": [], "protocol": protocol.clone()
        })
    };
    json!({
        "name": "<b>methods</b>", "predicts": "class", "metric": "accuracy",
        "scores": [{"name": "accuracy", "higher_is_better": true, "unit": "share", "leads": true}],
        "seeds": [0, 1, 2],
        "domains": [{"name": "fog/5", "averaged": true, "samples": 100}, {"name": "jpeg/5", "averaged": true, "samples": 100}],
        "source": {"of": "tent", "batch_norm": "running", "domains": [{"accuracy": 0.5}, {"accuracy": 0.5}], "mean": {"accuracy": 0.5}},
        "methods": [
            method("tent", -0.1, 0.02, Value::Null),
            method("d-8", 0.1, 0.1, json!({"of": "d", "values": {}})),
            method("d-30", 0.15, 0.4, json!({"of": "d", "values": {}})),
        ],
        "equal_time": [{"method": "d", "within": "tent", "seconds_per_sample": 0.02}],
        "failed": [{"method": "memo", "seed": 1, "reason": "<i>out of memory</i>"}],
    })
}

#[test]
fn a_comparison_is_told_as_a_whole_with_its_losses() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("comparison.json");
    fs::write(&path, comparison().to_string()).unwrap();
    let out = folder.path().join("report.html");
    let (report, page) = report(&[folder.path().to_owned()], &out).unwrap();
    check(&page);
    let [sentence] = &*report.sentences else {
        panic!("{report:?}")
    };
    let begins = "d-30 improved accuracy the most, from 50.0 % to 65.0 % (+15.0 points, 95 % interval +13.0 to +17.0): of 3 methods on the same images, the mean of 2 domains with 3 seeds, 400 ms each.";
    assert!(sentence.starts_with(begins), "{sentence}");
    assert!(sentence.contains("2 are better, 1 worse"), "{sentence}");
    let row = "<th scope=\"row\">tent</th><td>50.0</td><td>40.0</td><td>\u{2212}10.0 (\u{2212}12.0 to \u{2212}8.0)</td>";
    assert!(page.contains(row));
    assert!(page.contains("&lt;i&gt;out of memory&lt;/i&gt;"));
    assert!(page.contains("none fits"));
    let mut uneven = comparison();
    uneven["methods"][0]["domains"] = json!([]);
    fs::write(&path, uneven.to_string()).unwrap();
    let error = self::report(&[folder.path().to_owned()], &out).unwrap_err();
    assert!(error.is_misuse());
}

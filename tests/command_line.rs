//! The `dtta` command as a script sees it: exit codes, files, one clear message.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

#[path = "../core/engine/tests/common/mod.rs"]
mod common;
#[path = "../core/plugin/tests/support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;
use std::process::Output;

use assert_cmd::Command;
use common::Fixture;
use serde_json::{Value, json};

fn dtta(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dtta"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("DTTA_PLUGIN_PATH")
        .output()
        .expect("the command starts")
}

/// Runs an experiment and expects it to be refused before anything is adapted; gives what it said.
fn refused(fixture: &Fixture, experiment: &Value) -> String {
    fixture.write(experiment);
    let output = dtta(
        &["run", "experiment.json", "--device", "cpu"],
        fixture.path(),
    );
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(output.stdout.is_empty());
    assert_eq!(said.matches("error: ").count(), 1, "one message: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_run_leaves_records_a_summary_and_a_description() {
    let fixture = Fixture::new();
    fixture.write(&Fixture::experiment());
    let arguments = [
        "run",
        "experiment.json",
        "--device",
        "cpu",
        "--seed",
        "9",
        "--set",
        "method.steps=1",
    ];
    let output = dtta(&arguments, fixture.path());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    for word in [
        "clean",
        "gaussian_noise/3",
        "mean",
        "source",
        "adapted",
        "change",
        "mean (without clean)",
        "runs/tiny",
    ] {
        assert!(said.contains(word), "`{word}` is not in {said}");
    }
    let out = fixture.path().join("runs/tiny");
    let summary = read(&out.join("summary.json"));
    assert_eq!(summary["metric"], "accuracy");
    assert_eq!(summary["domains"][1]["name"], "gaussian_noise/3");
    assert_eq!(summary["domains"][1]["samples"], 8);
    assert!(summary["mean"]["adapted"]["accuracy"].is_f64());
    assert_eq!(summary["protocol"]["seed"], 9);
    for field in [
        "experiment",
        "predicts",
        "scores",
        "skipped",
        "seconds_per_sample",
        "draws_per_second",
        "peak_memory_bytes",
    ] {
        assert!(!summary[field].is_null(), "{field}");
    }
    let run = read(&out.join("run.json"));
    assert_eq!(
        (
            &run["status"],
            &run["done"]["samples"],
            &run["identity"]["device"]
        ),
        (&json!("finished"), &json!(16), &json!("cpu"))
    );
    assert_eq!(run["experiment"]["method"]["steps"], 1);
    let digests = run["identity"]["digests"].as_object().unwrap();
    let of_denoiser = digests.keys().filter(|name| name.contains("denoiser"));
    assert!(of_denoiser.count() > 0, "{digests:?}");
    let records = fs::read_to_string(out.join("records.jsonl")).unwrap();
    let record: Value = serde_json::from_str(records.lines().next().unwrap()).unwrap();
    let names = ["target_name"].map(|field| &record[field]);
    assert!(names.iter().all(|name| name.is_string()), "{record}");
    assert!(record["source"]["prediction_name"].is_string(), "{record}");
    for field in [
        "id",
        "domain",
        "target",
        "source",
        "adapted",
        "loss",
        "milliseconds",
    ] {
        assert!(!record[field].is_null(), "{field}");
    }
}

/// A run's words for people, without what differs between equal runs.
fn shown(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let lines = said.lines().map(|line| {
        // Times end a row of the first table; speed and memory begin the last line.
        let line = match line.rsplit_once("  ") {
            Some((row, seconds)) if seconds.trim().parse::<f64>().is_ok() => row,
            _ => line,
        };
        let protocol = line.split_once(" MiB, ").map(|(_, protocol)| protocol);
        protocol.unwrap_or(line).trim_end()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A message with `…` for the beginnings of digests, which follow the weights.
fn without_digests(text: &str) -> String {
    let is_digest = |word: &str| word.len() == 12 && word.chars().all(|c| c.is_ascii_hexdigit());
    let words = text.split_inclusive([' ', ',', ';', '\n']).map(|word| {
        let bare = word.trim_end_matches([' ', ',', ';', '\n']);
        let end = &word[bare.len()..];
        if is_digest(bare) {
            format!("…{end}")
        } else {
            word.into()
        }
    });
    words.collect()
}

/// Tables without their numbers, which follow the machine, and without the widths that follow those.
fn without_numbers(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let is_rule = line.starts_with(['─', '═']);
        let words = line.split_whitespace();
        let is_number = |word: &&str| word.contains('.') && word.parse::<f64>().is_ok();
        let words: Vec<&str> = words.take_while(|word| !is_number(word)).collect();
        if is_rule {
            "---".into()
        } else {
            words.join(" ")
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn tables_say_unit_direction_and_which_domains_are_averaged() {
    let fixture = Fixture::dense();
    fixture.write(&Fixture::dense_experiment("depth"));
    let arguments = ["run", "experiment.json", "--device", "cpu"];
    let output = dtta(&arguments, fixture.path());
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    insta::assert_snapshot!("tables", without_numbers(&shown(&output)));
}

#[test]
fn shards_are_merged_into_the_unbroken_run() {
    let fixture = Fixture::new();
    fixture.write(&Fixture::experiment());
    let run = |out: &str, shard: &[&str]| {
        let arguments = ["run", "experiment.json", "--device", "cpu", "--out", out];
        let output = dtta(&[&arguments, shard].concat(), fixture.path());
        assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    };
    run("whole", &[]);
    run("a", &["--shard", "0/2"]);
    run("b", &["--shard", "1/2"]);
    let merge = |runs: &[&str], out: &str| {
        let arguments = [&["merge"], runs, &["--out", out, "--device", "cpu"]].concat();
        dtta(&arguments, fixture.path())
    };
    let output = merge(&["b", "a"], "merged");
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    assert_eq!(fixture.records("merged"), fixture.records("whole"));
    let summary = |run: &str| read(&fixture.path().join(run).join("summary.json"));
    let (merged, whole) = (summary("merged"), summary("whole"));
    for field in ["mean", "skipped", "protocol", "scores"] {
        assert_eq!(merged[field], whole[field], "{field}");
    }

    let missing = merge(&["a"], "one");
    assert_eq!(missing.status.code(), Some(2));
    let twice = merge(&["a", "a", "b"], "three");
    assert_eq!(twice.status.code(), Some(2));
    insta::assert_snapshot!(
        "merge_refusals",
        format!("{}\n{}", shown(&missing), shown(&twice))
    );
}

#[test]
fn refuses_shards_that_cannot_be_cut() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    experiment["adaptation"]["mode"] = json!({"kind": "online", "reset": "never"});
    fixture.write(&experiment);
    let shard = |shard: &str| {
        let arguments = [
            "run",
            "experiment.json",
            "--device",
            "cpu",
            "--shard",
            shard,
        ];
        let output = dtta(&arguments, fixture.path());
        assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
        shown(&output)
    };
    insta::assert_snapshot!("shard_of_weights_that_are_carried_on", shard("0/2"));
    insta::assert_snapshot!("shard_out_of_range", shard("8/8"));
}

#[test]
fn a_run_is_not_continued_with_other_weights() {
    let fixture = Fixture::new();
    let experiment = Fixture::experiment();
    let interrupted = fixture.run_until(&experiment, "runs/tiny", false, 4);
    assert!(interrupted.is_err());
    let path = fixture.path().join("classifier.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let arguments = ["run", "experiment.json", "--device", "cpu", "--resume"];
    let output = dtta(&arguments, fixture.path());
    assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
    insta::assert_snapshot!(
        "resumed_with_other_weights",
        without_digests(&shown(&output))
    );
    let left = fs::read_to_string(fixture.path().join("runs/tiny/records.jsonl")).unwrap();
    assert_eq!(left.lines().count(), 4);
}

#[test]
fn task_model_and_denoiser_have_devices_of_their_own() {
    let fixture = Fixture::new();
    fixture.write(&Fixture::experiment());
    let arguments = [
        "run",
        "experiment.json",
        "--device",
        "cpu",
        "--denoiser-device",
    ];
    let output = dtta(&[&arguments[..], &["cpu"]].concat(), fixture.path());
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    let output = dtta(&[&arguments[..], &["tpu"]].concat(), fixture.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(shown(&output).contains("tpu"));
}

#[test]
fn help_fits_a_screen() {
    let folder = Path::new(".");
    for command in [
        &["--help"][..],
        &["run", "--help"],
        &["plan", "--help"],
        &["merge", "--help"],
        &["report", "--help"],
        &["diagnose", "--help"],
        &["train", "--help"],
        &["plugins", "--help"],
        &["corrupt", "--help"],
        &["data", "pack", "--help"],
        &["schema", "--help"],
    ] {
        let output = dtta(command, folder);
        assert_eq!(output.status.code(), Some(0), "{command:?}");
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(help.lines().count() <= 50, "{command:?}:\n{help}");
        if command[0] == "merge" {
            insta::assert_snapshot!("merge_help", help);
        }
    }
}

#[test]
fn a_folder_for_what_encoders_make_takes_a_size_that_is_one() {
    let fixture = Fixture::new();
    fixture.write(&Fixture::experiment());
    let run = |options: &[&str]| {
        let arguments = [&["run", "experiment.json", "--device", "cpu"], options].concat();
        dtta(&arguments, fixture.path())
    };
    for (options, expected) in [
        (&["--keep", "kept", "--keep-max=-1"][..], "--keep-max is -1"),
        (&["--keep-max", "5"], "--keep <DIR>"),
        (&["--keep", "kept"], "the experiment has neither"),
    ] {
        let output = run(options);
        assert_eq!(output.status.code(), Some(2), "{options:?}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains(expected), "{told}");
    }
    // Nothing to keep without an encoder, and nothing is kept before a run is one.
    let output = run(&["--keep", "kept", "--dry-run"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(!fixture.path().join("kept").exists());
}

#[test]
fn a_dry_run_validates_and_writes_nothing() {
    let fixture = Fixture::new();
    fixture.write(&Fixture::experiment());
    let output = dtta(
        &["run", "experiment.json", "--device", "cpu", "--dry-run"],
        fixture.path(),
    );
    assert_eq!(output.status.code(), Some(0));
    assert!(!fixture.path().join("runs").exists());
}

/// A folder with so many grey images of each class, as large as the fixture's.
fn image_folder(folder: &Path, counts: &[usize]) {
    for (class, count) in counts.iter().enumerate() {
        let class = folder.join(format!("class {class}"));
        fs::create_dir_all(&class).unwrap();
        for n in 0..*count {
            let image = [b"P5 8 8 255\n", [n as u8; 64].as_slice()].concat();
            fs::write(class.join(format!("{n}.pgm")), image).unwrap();
        }
    }
}

#[test]
fn a_dry_run_says_what_a_folder_of_images_holds_besides() {
    let fixture = Fixture::new();
    let images = fixture.path().join("images");
    image_folder(&images, &[2, 2, 2, 2]);
    fs::create_dir(images.join(".ipynb_checkpoints")).unwrap();
    fs::write(images.join("class 0/notes.txt"), "").unwrap();
    let mut experiment = Fixture::experiment();
    experiment["data"]["dataset"] =
        json!({"kind": "folder", "path": "images", "channels": "grayscale"});
    fixture.write(&experiment);
    let output = dtta(
        &["run", "experiment.json", "--device", "cpu", "--dry-run"],
        fixture.path(),
    );
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let line = "images`: left out 1 hidden (`.ipynb_checkpoints`), 1 `.txt` file\n";
    assert!(said.contains(line), "{said}");
}

#[test]
fn packing_takes_as_many_of_each_class_or_says_which_has_too_few() {
    let folder = tempfile::tempdir().unwrap();
    image_folder(&folder.path().join("images"), &[2, 30]);
    let dataset = r#"{"kind": "folder", "path": "images", "channels": "grayscale"}"#;
    let pack = |more: &[&str]| {
        let arguments = ["data", "pack", dataset, "packed.safetensors", "--samples"];
        let output = dtta(&[&arguments[..], more].concat(), folder.path());
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    };
    let (code, said) = pack(&["20"]);
    assert_eq!(code, Some(2), "{said}");
    for word in ["2 samples of class `class 0`", "at most 4", "--any-class"] {
        assert!(said.contains(word), "`{word}` is not in {said}");
    }
    assert_eq!(pack(&["4"]).0, Some(0));
    assert_eq!(pack(&["20", "--any-class"]).0, Some(0));
}

#[test]
fn a_folder_is_corrupted_as_a_stream_would_and_continued_but_never_mixed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    image_folder(&root.join("images"), &[2, 1]);
    let corrupt = |more: &[&str]| {
        let arguments = [
            "corrupt",
            "images",
            "out",
            "--severities",
            "2,5",
            "--corruptions",
        ];
        let output = dtta(&[&arguments[..], more].concat(), root);
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, said) = corrupt(&["snow,jpeg_compression"]);
    assert_eq!(code, Some(0), "{said}");
    for words in [
        "3 images under 2 corruptions at 2 severities",
        "lengths are scaled by",
    ] {
        assert!(said.contains(words), "`{words}` is not in {said}");
    }
    let dataset = |path: &str| {
        let config = json!({"kind": "folder", "path": path, "channels": "rgb"});
        dtta_data::Dataset::open(&serde_json::from_value(config).unwrap(), root).unwrap()
    };
    let (clean, written) = (dataset("images"), dataset("out/snow/5"));
    let corrupter =
        dtta_data::Corrupter::new(dtta_data::Corruption::Snow, 5.try_into().unwrap(), None);
    let corrupter = corrupter.unwrap();
    assert_eq!(clean.len(), 3);
    for index in 0..clean.len() {
        let sample = clean.sample(index).unwrap();
        let stored = written.sample(index).unwrap();
        assert_eq!(stored.id, sample.id);
        assert_eq!(
            stored.image,
            corrupter.corrupt(&sample.image, 0, &sample.id)
        );
        assert_eq!(stored.class(), sample.class());
    }

    // What is missing is written again, the rest stays.
    let file = |id: &str| root.join("out/snow/5").join(id);
    let (lost, kept) = (file(&written.ids()[0]), file(&written.ids()[1]));
    let whole = fs::read(&lost).unwrap();
    fs::remove_file(&lost).unwrap();
    fs::write(&kept, "mine").unwrap();
    assert_eq!(corrupt(&["snow,fog"]).0, Some(0));
    assert_eq!(fs::read(&lost).unwrap(), whole);
    assert_eq!(fs::read(&kept).unwrap(), b"mine");
    assert!(root.join("out/fog/2").is_dir());

    let refused = |arguments: &[&str], words: &str| {
        let output = dtta(arguments, root);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words), "`{words}` is not in {said}");
    };
    refused(
        &["corrupt", "images", "out", "--seed", "1"],
        "made with other seed",
    );
    refused(
        &["corrupt", "images", "out", "--format", "jpeg"],
        "made with other format",
    );
    refused(&["corrupt", "images", "images"], "lies within");
    refused(&["corrupt", "images", "."], "is not empty");
    refused(
        &["corrupt", "images", "new", "--corruptions", "frost"],
        "`imagecorruptions`",
    );
    refused(
        &["corrupt", "images", "new", "--corruptions", "rain"],
        "rain",
    );
    refused(
        &["corrupt", "images", "new", "--severities", "6"],
        "1, 2, 3, 4, 5",
    );
    assert!(!root.join("new").exists());
}

#[test]
fn refuses_an_unknown_field_and_a_wrong_type_by_file_and_pointer() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    experiment["method"]["stepz"] = json!(1);
    experiment["seed"] = json!("seven");
    let said = refused(&fixture, &experiment);
    for word in ["experiment.json", "/method", "stepz", "/seed"] {
        assert!(said.contains(word), "`{word}` is not in {said}");
    }
}

#[test]
fn refuses_a_missing_file_by_name() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    experiment["data"]["dataset"]["path"] = json!("nowhere.safetensors");
    assert!(refused(&fixture, &experiment).contains("nowhere.safetensors"));
    let output = dtta(&["run", "nothing.json"], fixture.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("nothing.json")
    );
}

#[test]
fn refuses_a_plugin_that_is_not_there_by_pointer() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    experiment["plugins"]["mapper"]["use"] = json!("nowhere");
    let said = refused(&fixture, &experiment);
    for word in ["experiment.json", "/plugins/mapper/use", "`nowhere`"] {
        assert!(said.contains(word), "`{word}` is not in {said}");
    }
}

#[test]
fn refuses_truncated_weights() {
    let fixture = Fixture::new();
    let path = fixture.path().join("denoiser.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(refused(&fixture, &Fixture::experiment()).contains("denoiser.safetensors"));
}

#[test]
fn lists_the_tensors_that_do_not_fit_and_how_many_more_there_are() {
    let fixture = Fixture::new();
    fs::copy(
        fixture.path().join("classifier.safetensors"),
        fixture.path().join("denoiser.safetensors"),
    )
    .unwrap();
    let said = refused(&fixture, &Fixture::experiment());
    assert!(
        said.contains("missing `pos_embed`, ")
            && said.contains(" more; not declared ")
            && said.contains("`conv1.weight`"),
        "{said}"
    );
}

#[test]
fn refuses_fewer_labels_than_images() {
    let fixture = Fixture::new();
    let idx = |axes: &[u32], bytes: usize| {
        let mut file = vec![0, 0, 8, axes.len() as u8];
        axes.iter().for_each(|axis| file.extend(axis.to_be_bytes()));
        file.resize(file.len() + bytes, 0);
        file
    };
    fs::write(
        fixture.path().join("t10k-images-idx3-ubyte"),
        idx(&[3, 8, 8], 192),
    )
    .unwrap();
    fs::write(fixture.path().join("t10k-labels-idx1-ubyte"), idx(&[2], 2)).unwrap();
    let mut experiment = Fixture::experiment();
    experiment["data"]["dataset"] = json!({"kind": "idx", "path": ".", "split": "test"});
    let said = refused(&fixture, &experiment);
    assert!(said.contains("2 labels for 3 images"), "{said}");
}

#[test]
fn refuses_a_plugin_configuration_by_the_plugins_own_schema() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    experiment["plugins"]["mapper"]["config"] = json!({"top_k": 0});
    let said = refused(&fixture, &experiment);
    assert!(said.contains("/plugins/mapper/config/top_k"), "{said}");
}

#[test]
fn refuses_a_plugin_of_another_interface() {
    let fixture = Fixture::new();
    let wit = support::wit().replace("dtta:plugin@0.1.0", "dtta:plugin@0.9.0");
    let wat = support::mapper_wat().replace("dtta:plugin/tensor@0.1.0", "dtta:plugin/tensor@0.9.0");
    let wat = wat.replace("@0.1.0", "@0.9.0");
    let component = support::component(&wat, &wit, "mapper-plugin", None);
    fs::write(fixture.path().join("future.wasm"), component).unwrap();
    let mut experiment = Fixture::experiment();
    experiment["plugins"]["mapper"]["use"] = json!("future.wasm");
    let said = refused(&fixture, &experiment);
    assert!(said.contains("0.9") && said.contains("0.1"), "{said}");
}

#[test]
fn a_component_that_traps_fails_the_run_and_keeps_its_files() {
    let fixture = Fixture::new();
    fs::write(
        fixture.path().join("fixture.wasm"),
        support::mapper_component(),
    )
    .unwrap();
    let mut experiment = Fixture::experiment();
    // The head has two outputs, which asks the fixture to trap.
    experiment["plugins"]["mapper"]["use"] = json!("fixture.wasm");
    fixture.write(&experiment);
    let output = dtta(
        &["run", "experiment.json", "--device", "cpu"],
        fixture.path(),
    );
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("fixture") && said.contains("condition"),
        "{said}"
    );
    let out = fixture.path().join("runs/tiny");
    assert_eq!(read(&out.join("run.json"))["status"], "failed");
    assert!(out.join("records.jsonl").exists());

    let skip = [
        "run",
        "experiment.json",
        "--device",
        "cpu",
        "--force",
        "--set",
        "plugins.on_failure=skip",
    ];
    let output = dtta(&skip, fixture.path());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("16 samples were skipped"), "{said}");
    assert_eq!(read(&out.join("summary.json"))["skipped"], 16);
}

#[test]
fn refuses_a_device_that_is_not_built_in_by_the_feature_to_build_with() {
    let fixture = Fixture::new();
    fixture.write(&Fixture::experiment());
    let output = dtta(
        &["run", "experiment.json", "--device", "tpu:0"],
        fixture.path(),
    );
    assert_eq!(output.status.code(), Some(2));
    if cfg!(not(feature = "wgpu")) {
        let output = dtta(
            &["run", "experiment.json", "--device", "wgpu"],
            fixture.path(),
        );
        assert_eq!(output.status.code(), Some(2));
        assert!(
            String::from_utf8(output.stderr)
                .unwrap()
                .contains("--features wgpu")
        );
    }
}

#[test]
fn committed_schemas_are_what_the_command_prints() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schema");
    for document in ["experiment", "comparison", "training", "model"] {
        let committed = fs::read(folder.join(format!("{document}.schema.json"))).unwrap();
        let printed = dtta(&["schema", document], &folder).stdout;
        assert!(
            committed == printed,
            "the schema of `{document}` has drifted; run `cargo xtask schema`"
        );
    }
}

#[test]
fn the_shipped_experiments_are_valid() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    for experiment in [
        "fashion/online.json",
        "fashion/single-sample.json",
        "doom/segmentation-online.json",
        "doom/segmentation-single-sample.json",
        "doom/depth-online.json",
        "doom/depth-single-sample.json",
    ] {
        let output = dtta(
            &["run", experiment, "--device", "cpu", "--dry-run"],
            &examples,
        );
        assert_eq!(
            output.status.code(),
            Some(0),
            "{experiment}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn a_diagnosis_is_a_table_for_people_and_json_for_scripts() {
    let fixture = Fixture::new();
    let experiment = fixture.write(&Fixture::experiment());
    let experiment = experiment.to_string_lossy();
    let common = [
        "diagnose",
        &experiment,
        "--device",
        "cpu",
        "--samples",
        "4",
        "--draws",
        "1",
    ];
    let output = dtta(&common, fixture.path());
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{words}");
    assert!(words.contains("reads labels"), "{words}");
    assert!(output.stdout.is_empty(), "JSON that nobody asked for");
    // It concludes: a range of t, or that there is none.
    let concludes = [
        "suggested range of t: ",
        "this denoiser says nothing here: ",
    ];
    assert!(
        concludes.iter().any(|start| words.contains(start)),
        "{words}"
    );
    let output = dtta(&[&common[..], &["--json"]].concat(), fixture.path());
    let diagnosis: Value = serde_json::from_slice(&output.stdout).unwrap();
    let range = &diagnosis["domains"][1]["ranges"][4];
    assert_eq!(range["t"], json!([700, 1000]));
    // Columns, legend and JSON have the same names.
    let lines: Vec<&str> = words.lines().collect();
    let header = lines.iter().find(|line| line.contains("domain")).unwrap();
    for field in range.as_object().unwrap().keys() {
        let legend = lines
            .iter()
            .any(|line| line.starts_with(&format!("{field} ")));
        assert!(
            legend && header.split_whitespace().any(|name| name == field),
            "{field}: {words}"
        );
    }
    let conclusion = &diagnosis["conclusion"];
    assert_eq!(conclusion["domains"], json!(["gaussian_noise/3"]));
    assert_eq!(conclusion["images"], 4);
    assert_eq!(
        conclusion["suggested_t"].is_null(),
        words.contains("says nothing here")
    );
    let beyond = [&common[..], &["--timesteps", "0,2000"]].concat();
    let output = dtta(&beyond, fixture.path());
    assert_eq!(output.status.code(), Some(2));
}

/// Runs the command with an output that takes nothing, as a full disk does.
#[cfg(target_os = "linux")]
fn with_full(arguments: &[&str], folder: &Path, stdout: bool, stderr: bool) -> Output {
    let to = |full: bool| match full {
        true => fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap()
            .into(),
        false => std::process::Stdio::piped(),
    };
    std::process::Command::new(env!("CARGO_BIN_EXE_dtta"))
        .args(arguments)
        .current_dir(folder)
        .stdout(to(stdout))
        .stderr(to(stderr))
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn a_message_that_cannot_be_written_is_no_reason_to_die() {
    let fixture = Fixture::new();
    fixture.write(&Fixture::experiment());
    let run = ["run", "experiment.json", "--device", "cpu", "-v"];
    let output = with_full(&run, fixture.path(), true, true);
    assert_eq!(output.status.code(), Some(0));
    assert!(fixture.path().join("runs/tiny/summary.json").exists());
    // A refusal is one, whether it can be said or not.
    assert_eq!(
        with_full(&run, fixture.path(), true, true).status.code(),
        Some(2)
    );
    for (arguments, code) in [
        (&["run", "nothing.json"][..], 2),
        (&["runn"], 2),
        (&["plugins", "new", "my-mapper"], 0),
        (&["plugins", "check", "linked:classification"], 1),
    ] {
        let output = with_full(arguments, fixture.path(), true, true);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn results_that_stdout_does_not_take_fail_the_command_and_stay_on_stderr() {
    let fixture = Fixture::new();
    fixture.write(&Fixture::experiment());
    let common = [
        "diagnose",
        "experiment.json",
        "--device",
        "cpu",
        "--samples",
        "2",
        "--draws",
        "1",
    ];
    let output = with_full(
        &[&common[..], &["--json"]].concat(),
        fixture.path(),
        true,
        false,
    );
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("toward_truth") && said.contains("cannot write to stdout"),
        "{said}"
    );
    assert!(!said.contains("panicked"), "{said}");
    let output = with_full(&["schema"], fixture.path(), true, false);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
#[cfg(unix)]
fn a_reader_that_went_away_is_no_failure() {
    let fixture = Fixture::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_dtta"))
        .args(["schema"])
        .current_dir(fixture.path())
        .stdout(writer.try_clone().unwrap())
        .stderr(writer)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn documents_go_to_stdout_as_json() {
    let fixture = Fixture::new();
    for arguments in [
        &["schema"][..],
        &["schema", "comparison"],
        &["schema", "training"],
        &["schema", "model"],
        &["plugins", "list"],
        &["plugins", "inspect", "linked:classification"],
    ] {
        let output = dtta(arguments, fixture.path());
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        serde_json::from_slice::<Value>(&output.stdout)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
    }
    assert_eq!(dtta(&["runn"], fixture.path()).status.code(), Some(2));
}

#[test]
fn a_new_plugin_is_a_crate_that_says_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    for role in ["head", "mapper", "objective", "metric"] {
        let name = format!("my-{role}");
        let output = dtta(&["plugins", "new", &name, "--role", role], folder.path());
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let manifest = fs::read_to_string(folder.path().join(&name).join("Cargo.toml")).unwrap();
        assert!(
            manifest.contains(&format!("name = \"dtta-plugin-{name}\"")),
            "{manifest}"
        );
        let source = fs::read_to_string(folder.path().join(&name).join("src/lib.rs")).unwrap();
        assert!(
            source.contains(&format!("export_plugin! {{ {role}: ")),
            "{source}"
        );
        for file in ["Cargo.toml", "README.md", "src/lib.rs"] {
            let text = fs::read_to_string(folder.path().join(&name).join(file)).unwrap();
            assert!(!text.contains("{{"), "{file} of {name} is not filled in");
        }
    }
    for (arguments, reason) in [
        (vec!["plugins", "new", "my-head"], "not empty"),
        (vec!["plugins", "new", "My Plugin"], "not a plugin's name"),
        (vec!["plugins", "new", "other", "--sdk", "nowhere"], "--sdk"),
    ] {
        let output = dtta(&arguments, folder.path());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(reason), "{said}");
    }
}

#[test]
fn plugins_are_checked_with_a_report_for_people_and_one_for_scripts() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = dtta(&["plugins", "check", "plugins/classification"], &root);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("mapper: two calls give the same bits"),
        "{said}"
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["plugin"], "classification");
    assert_eq!(report["loader"], "wasm");

    // A configuration that its schema refuses is a failed check; a reference to nothing is misuse.
    let config = [
        "plugins",
        "check",
        "plugins/classification",
        "--config",
        "mapper={\"topk\": 1}",
    ];
    assert_eq!(dtta(&config, &root).status.code(), Some(1));
    let config = [
        "plugins",
        "check",
        "plugins/classification",
        "--config",
        "mappr={}",
    ];
    assert_eq!(dtta(&config, &root).status.code(), Some(2));
    assert_eq!(
        dtta(&["plugins", "check", "nothing"], &root).status.code(),
        Some(2)
    );
}

#[test]
fn a_plugin_in_c_is_built_as_a_library_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/margin/src");
    for file in ["margin.c", "margin.h", "native/boundary.c"] {
        let to = folder.path().join("mine/src").join(file);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(source.join(file), to).unwrap();
    }
    let build = ["plugins", "build", "mine", "--target", "native"];
    let output = dtta(&build, folder.path());
    assert!(output.status.success(), "{output:?}");
    let manifest = read(&folder.path().join("mine/dist/native/plugin.json"));
    assert_eq!(manifest["name"], "margin");
    assert_eq!(manifest["built_with"], "cc");
    let output = dtta(&["plugins", "check", "mine/dist/native"], folder.path());
    assert!(output.status.success(), "{output:?}");

    fs::write(folder.path().join("mine/src/margin.c"), "no C").unwrap();
    let output = dtta(&build, folder.path());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let output = dtta(&["plugins", "build", "nowhere"], folder.path());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("`nowhere`"), "{said}");
}

#[test]
fn a_library_that_is_none_is_refused_in_a_process_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let file = format!("broken.{}", std::env::consts::DLL_EXTENSION);
    fs::write(folder.path().join(&file), "not a library").unwrap();
    let output = dtta(&["plugins", "check", &file], folder.path());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("is not a native plugin"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

/// A comparison of three methods on the tiny experiment.
fn comparison() -> Value {
    let tent = json!({"kind": "entropy", "optimizer": {"kind": "sgd", "learning_rate": 0.1}});
    json!({
        "name": "tiny", "experiment": "experiment.json", "seeds": [3, 4], "reference": "diffusion",
        "methods": {
            "source": {"/method": {"kind": "source"}}, "tent": {"/method": tent}, "diffusion": {},
        },
    })
}

fn with_comparison(comparison: &Value) -> Fixture {
    let fixture = Fixture::new();
    fixture.write(&Fixture::experiment());
    fs::write(fixture.path().join("compare.json"), comparison.to_string()).unwrap();
    fixture
}

/// A table in Markdown, without what follows machine, weights and clock.
fn without_measures(text: &str) -> String {
    let lines = text.lines().map(|line| {
        if line.starts_with("- digests") {
            return line.split_once(": ").unwrap().0.to_owned() + ": …";
        }
        let cells = line.split(" | ").map(|cell| {
            let bare = cell.trim_end_matches(" |");
            let mut numbers = bare
                .split([' ', ',', '[', ']'])
                .filter(|word| !word.is_empty());
            let is_measure = numbers.all(|word| word.parse::<f64>().is_ok() || word == "MiB");
            match is_measure && bare.contains(|c: char| c.is_ascii_digit()) {
                true => cell.replace(bare, "…"),
                false => cell.to_owned(),
            }
        });
        cells.collect::<Vec<_>>().join(" | ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A comparison as JSON, without what follows the clock.
fn timeless(comparison: &Value) -> Value {
    let mut value = comparison.clone();
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

#[test]
fn a_comparison_is_printed_in_every_format() {
    let fixture = with_comparison(&comparison());
    let compare = |more: &[&str]| {
        let arguments = ["compare", "compare.json", "--device", "cpu"];
        let output = dtta(&[&arguments, more].concat(), fixture.path());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        (String::from_utf8(output.stdout).unwrap(), said)
    };
    let sweep = ["--sweep", "/method/draws=2,6", "--reference", "tent"];
    let (markdown, said) = compare(&sweep);
    for word in [
        "8 runs on cpu",
        "[8/8] diffusion-draws-6, seed 4: accuracy",
        "comparison.json: runs/compare-tiny",
    ] {
        assert!(said.contains(word), "`{word}` is not in {said}");
    }
    // Which setting fits into whose time is the machine's business.
    let (head, rest) = markdown.split_once("| method | in the time of |").unwrap();
    let (_, tail) = rest.split_once("\n\n").unwrap();
    insta::assert_snapshot!("comparison", without_measures(&format!("{head}\n{tail}")));
    for method in ["source", "tent"] {
        assert!(
            rest.contains(&format!("| diffusion | {method} |")),
            "{rest}"
        );
    }

    let (json, _) = compare(&[&sweep[..], &["--format", "json"]].concat());
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        json,
        read(&fixture.path().join("runs/compare-tiny/comparison.json"))
    );
    let (csv, _) = compare(&[&sweep[..], &["--format", "csv", "--domains"]].concat());
    let mut lines = csv.lines();
    let columns = lines.next().unwrap().split(',').count();
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    assert!(rows.iter().all(|row| row.len() == columns), "{csv}");
    // Four methods, the mean and two domains, three scores.
    assert_eq!(rows.len(), 4 * 3 * 3);
    let row = rows
        .iter()
        .find(|row| row[..3] == ["tent", "mean", "accuracy"])
        .unwrap();
    let mean = &json["methods"][1]["mean"];
    let expected = [&mean["source"]["accuracy"], &mean["adapted"]["accuracy"]];
    let expected = expected.map(|score| score.as_f64().unwrap().to_string());
    assert_eq!(row[5..7], expected);
    let (latex, _) = compare(&[&sweep[..], &["--format", "latex", "--domains"]].concat());
    assert_eq!(latex.matches("\\begin{tabular}").count(), 3);
    assert!(
        latex.contains("gaussian\\_noise/3") && latex.contains("accuracy, \\%"),
        "{latex}"
    );
}

#[test]
fn a_comparison_that_is_killed_and_started_again_ends_with_the_same_table() {
    let fixture = with_comparison(&comparison());
    let compare = |out: &str| -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_dtta"));
        command
            .args([
                "compare",
                "compare.json",
                "--device",
                "cpu",
                "--format",
                "json",
            ])
            .args(["--checkpoint-every", "0", "--out", out])
            .current_dir(fixture.path())
            .env_remove("DTTA_PLUGIN_PATH");
        command
    };
    let started = std::time::Instant::now();
    let whole = compare("whole").output().unwrap();
    assert!(whole.status.success());
    let took = started.elapsed();
    let whole: Value = serde_json::from_slice(&whole.stdout).unwrap();
    // Wherever it is, twelve times; then to its end.
    for n in 1..=12 {
        let mut child = compare("killed")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(took * n / 14);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let found = compare("killed").output().unwrap();
    assert!(
        found.status.success(),
        "{}",
        String::from_utf8_lossy(&found.stderr)
    );
    let found: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(timeless(&found), timeless(&whole));
}

#[test]
fn finished_runs_are_compared_with_the_difference_of_their_configurations() {
    let fixture = with_comparison(&comparison());
    for (out, steps) in [("a", "method.steps=1"), ("b", "method.steps=2")] {
        let arguments = [
            "run",
            "experiment.json",
            "--device",
            "cpu",
            "--out",
            out,
            "--set",
            steps,
        ];
        let output = dtta(&arguments, fixture.path());
        assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    }
    let output = dtta(&["compare", "a", "b", "--device", "cpu"], fixture.path());
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("| differs at | a | b |"), "{printed}");
    assert!(printed.contains("| /method/steps | 1 | 2 |"), "{printed}");
}

#[test]
fn the_shipped_comparisons_run_and_say_how_long_they_take() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    for (file, method) in [
        ("fashion/compare.json", "rotta: "),
        ("fashion/continual.json", "tent-safeguards: "),
    ] {
        let arguments = ["compare", file, "--device", "cpu", "--dry-run"];
        let output = dtta(&[&arguments[..], &["--seeds", "0"]].concat(), &examples);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        for word in [method, "diffusion: ", "all: about ", "no problems found"] {
            assert!(said.contains(word), "{said}");
        }
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn settings_are_tuned_and_the_table_says_how_many_were_tried() {
    let mut file = comparison();
    file["tuning"] = json!({
        "domains": [{"kind": "corrupted", "corruption": "snow", "severity": 3}], "samples": 4,
        "settings": {"tent": [{}, {"/method/steps": 2}], "diffusion": [{"/method/steps": 1}, {}]},
    });
    let fixture = with_comparison(&file);
    let compare = |arguments: &[&str]| {
        let output = dtta(
            &[&["compare", "--device", "cpu"], arguments].concat(),
            fixture.path(),
        );
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        (String::from_utf8(output.stdout).unwrap(), said)
    };
    let (_, said) = compare(&["compare.json", "--tune", "--out", "out"]);
    assert!(
        said.contains("compare with: dtta compare out/tuned.json"),
        "{said}"
    );
    let (table, _) = compare(&["out/tuned.json", "--out", "tuned"]);
    let protocol: Vec<&str> = table
        .lines()
        .filter(|line| line.starts_with("- "))
        .collect();
    let line = |name: &str| {
        let start = format!("- {name}: ");
        *protocol
            .iter()
            .find(|line| line.starts_with(&start))
            .unwrap()
    };
    assert!(line("tent").ends_with("cpu, best of 2 settings"), "{table}");
    assert!(
        line("tent").contains(r#""learning_rate":"#),
        "what was chosen: {table}"
    );
    assert!(line("source").ends_with("cpu, not tuned"), "{table}");
    assert!(
        table.contains("settings were tried on snow/3 (4 samples, seed 3), chosen by accuracy"),
        "{table}"
    );
}

#[test]
fn refuses_comparisons_that_cannot_be_made() {
    let fixture = with_comparison(&comparison());
    let mut said = String::new();
    let mut refuse = |arguments: &[&str]| {
        let output = dtta(
            &[&["compare", "--device", "cpu"], arguments].concat(),
            fixture.path(),
        );
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        let error = text.split_once("error: ").unwrap().1;
        said += &format!("$ dtta compare {}\nerror: {error}\n", arguments.join(" "));
    };
    let write = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut file = comparison();
        change(&mut file);
        fs::write(fixture.path().join(name), file.to_string()).unwrap();
    };
    write("wrong.json", &|file| {
        file["methods"]["tent"] = json!({"/method": {"kind": "entropi"}, "/adaptation/batch": 0, "/data/stream/domains/9/kind": 1});
        file["seedz"] = json!(1);
    });
    refuse(&["wrong.json"]);
    write("wrong.json", &|file| {
        file["methods"]["tent"]["/method/stepz"] = json!(1);
        file["methods"]["diffusion"]["/adaptation/batch"] = json!(0);
    });
    refuse(&["wrong.json"]);
    refuse(&["compare.json", "--set", "adaptation.batch=0"]);
    refuse(&["compare.json", "--sweep", "/method/drawz=8,30"]);
    refuse(&["compare.json", "--reference", "tend"]);
    refuse(&["compare.json", "experiment.json"]);
    refuse(&["experiment.json", "experiment.json"]);
    refuse(&["compare.json", "--seeds", "1,2,1"]);
    fs::write(fixture.path().join("list.json"), "[]").unwrap();
    refuse(&["list.json"]);
    refuse(&["compare.json", "--tune"]);
    refuse(&["experiment.json", "--tune"]);
    write("wrong.json", &|file| {
        file["tuning"] = json!({
            "domains": [{"kind": "corrupted", "corruption": "gaussian_noise", "severity": 1}],
            "settings": {"tent": [{}]},
        });
    });
    refuse(&["wrong.json", "--tune"]);
    write("wrong.json", &|file| {
        file["tuning"] = json!({
            "domains": [{"kind": "corrupted", "corruption": "snow", "severity": 1}],
            "settings": {"tent": [{}, {}], "diffusion": [{}]},
        });
    });
    refuse(&["wrong.json", "--tune"]);
    fs::create_dir(fixture.path().join("empty")).unwrap();
    refuse(&["empty", "compare.json"]);
    refuse(&["empty", "empty"]);
    refuse(&["empty"]);
    refuse(&["empty", "empty", "--seeds", "1"]);
    let output = dtta(
        &["compare", "compare.json", "--device", "cpu", "--out", "out"],
        fixture.path(),
    );
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    refuse(&["compare.json", "--out", "out", "--set", "method.steps=0"]);
    refuse(&[
        "compare.json",
        "--out",
        "out",
        "--set",
        "data.stream.samples=4",
    ]);
    insta::assert_snapshot!("comparison_refusals", said);
}

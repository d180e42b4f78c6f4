//! `dtta plugins` as an author meets it: which failure is told, what is not built, what a name leads to.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

#[path = "../core/engine/tests/common/mod.rs"]
mod common;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use common::Fixture;
use serde_json::{Value, json};

/// Exit code, what is said to people, and what to scripts.
fn dtta(arguments: &[&str], folder: &Path) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_dtta"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("DTTA_PLUGIN_PATH")
        .output()
        .unwrap();
    let [said, printed] =
        [output.stderr, output.stdout].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(!said.contains("panicked"), "{said}");
    (output.status.code(), said, printed)
}

#[test]
fn a_bundled_plugin_is_found_by_its_bare_name() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    experiment["plugins"] =
        json!({"head": {"use": "classification"}, "mapper": {"use": "classification"}});
    fixture.write(&experiment);
    let run = ["run", "experiment.json", "--device", "cpu", "--dry-run"];
    let (code, said, _) = dtta(&run, fixture.path());
    assert_eq!(code, Some(0), "{said}");
    let (code, _, printed) = dtta(&["plugins", "inspect", "classification"], fixture.path());
    assert_eq!(code, Some(0));
    let inspected: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(inspected["loader"], "linked");
    // A path is looked for where it leads, and the bundled one's name is told.
    let (code, said, _) = dtta(
        &["plugins", "inspect", "../plugins/classification"],
        fixture.path(),
    );
    assert_eq!(code, Some(2), "{said}");
    assert!(!said.contains("linked:"), "{said}");
    assert!(
        said.contains("`classification` without a path is linked into this program"),
        "{said}"
    );
    // What lies beside the experiment comes first.
    let own = fixture.path().join("plugins/classification/dist");
    fs::create_dir_all(&own).unwrap();
    fs::write(own.join("plugin.json"), "{}").unwrap();
    let (code, said, _) = dtta(&["plugins", "inspect", "classification"], fixture.path());
    assert_eq!(code, Some(2), "{said}");
}

#[test]
fn a_plugin_that_is_not_built_says_how_to_build_it() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["crate/Cargo.toml", "in-c/src/it.c"] {
        let file = folder.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "").unwrap();
    }
    for plugin in ["crate", "./crate", "in-c"] {
        let (code, said, _) = dtta(&["plugins", "check", plugin], folder.path());
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("dtta plugins build"), "{said}");
    }
    fs::create_dir(folder.path().join("empty")).unwrap();
    let (_, said, _) = dtta(&["plugins", "check", "empty"], folder.path());
    assert!(said.contains("no plugin `empty`"), "{said}");
}

#[test]
fn a_check_tells_the_refusal_of_what_got_furthest() {
    let folder = tempfile::tempdir().unwrap();
    let config = r#"mapper={"slot": "embedding"}"#;
    let check = ["plugins", "check", "classification", "--config", config];
    let (code, said, printed) = dtta(&check, folder.path());
    assert_eq!(code, Some(1), "{said}");
    let report: Value = serde_json::from_str(&printed).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let failed = checks.iter().find(|check| check["failure"].is_string());
    let failed = failed.unwrap();
    let refused = failed["refused"].as_array().unwrap();
    assert_eq!(refused.len(), 4, "{failed}");
    let failure = failed["failure"].as_str().unwrap();
    // Nothing has that slot, so each setting says what there is.
    assert!(
        failure.contains("on a classifier of 5 classes"),
        "{failure}"
    );
    assert!(failure.contains("class-embedding"), "{failure}");
    let verbose = [
        "plugins",
        "check",
        "classification",
        "--config",
        config,
        "-v",
    ];
    let (_, said, _) = dtta(&verbose, folder.path());
    assert!(said.contains("on a depth predictor"), "{said}");
}

#[test]
fn a_plugin_is_checked_on_the_models_of_an_experiment() {
    let fixture = Fixture::dense();
    fixture.write(&Fixture::dense_experiment("segmentation"));
    let check = [
        "plugins",
        "check",
        "classification",
        "--experiment",
        "experiment.json",
    ];
    let (code, said, printed) = dtta(&check, fixture.path());
    assert_eq!(code, Some(1), "{said}");
    let report: Value = serde_json::from_str(&printed).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let failed = checks
        .iter()
        .find(|check| check["of"] == "mapper" && check["failure"].is_string());
    let failure = failed.unwrap()["failure"].as_str().unwrap();
    assert!(failure.contains("spatial"), "{failure}");
    let fixture = Fixture::new();
    fixture.write(&Fixture::experiment());
    let (code, said, _) = dtta(&check, fixture.path());
    assert_eq!(code, Some(0), "{said}");
    let both = [&check[..], &["--inputs", "inputs.json"]].concat();
    assert_eq!(dtta(&both, fixture.path()).0, Some(2));
}

#[test]
fn a_build_that_fails_shows_the_compiler_and_not_its_flags() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("mine/src");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("mine.c"), "#error of mine\n").unwrap();
    let build = ["plugins", "build", "mine", "--target", "native"];
    let (code, said, _) = dtta(&build, folder.path());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("#error of mine"), "{said}");
    let error = said
        .lines()
        .find(|line| line.starts_with("error: "))
        .unwrap();
    assert!(!error.contains(" \"-"), "{error}");
    assert!(error.contains("failed"), "{error}");
}

#[test]
fn an_experiment_whose_plugin_ignores_misspelt_fields_is_refused() {
    let fixture = Fixture::new();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/classification/dist");
    let own: PathBuf = fixture.path().join("open");
    fs::create_dir(&own).unwrap();
    let mut manifest: Value =
        serde_json::from_slice(&fs::read(shipped.join("plugin.json")).unwrap()).unwrap();
    let artifact = manifest["artifact"].as_str().unwrap().to_owned();
    fs::copy(shipped.join(&artifact), own.join(&artifact)).unwrap();
    let schema = manifest["config_schema"]["head"].as_object_mut().unwrap();
    schema.remove("additionalProperties").unwrap();
    fs::write(own.join("plugin.json"), manifest.to_string()).unwrap();
    let mut experiment = Fixture::experiment();
    experiment["plugins"]["head"] = json!({"use": "open", "config": {"temprature": 2.0}});
    fixture.write(&experiment);
    let run = ["run", "experiment.json", "--device", "cpu", "--dry-run"];
    let (code, said, _) = dtta(&run, fixture.path());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("/plugins/head/config"), "{said}");
    assert!(said.contains("deny_unknown_fields"), "{said}");
    // Where nothing is configured, nothing is misspelt.
    experiment["plugins"]["head"] = json!({"use": "open"});
    fixture.write(&experiment);
    let (code, said, _) = dtta(&run, fixture.path());
    assert_eq!(code, Some(0), "{said}");
}

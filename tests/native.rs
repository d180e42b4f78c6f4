//! Shared libraries that do what no plugin should, through the `dtta` command: each in C, from `plugins/margin`.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

#[path = "../core/engine/tests/common/mod.rs"]
mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::Fixture;
use serde_json::{Value, json};

/// `plugins/margin` as a library of a folder, changed.
fn library(folder: &Path, change: impl Fn(String) -> String) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/margin/src");
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk/abi/include");
    let changed = folder.join("changed.c");
    fs::write(
        &changed,
        change(fs::read_to_string(source.join("margin.c")).unwrap()),
    )
    .unwrap();
    let library = folder.join("libmargin.so");
    let mut command = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    command
        .args(["-std=c11", "-O1", "-shared", "-fPIC", "-fvisibility=hidden"])
        .arg("-I")
        .arg(include)
        .arg("-I")
        .arg(&source)
        .arg(&changed)
        .arg(source.join("native/boundary.c"))
        .arg("-o")
        .arg(&library);
    assert!(command.status().unwrap().success(), "{command:?}");
    library
}

/// A constructor of a library, which runs when it is opened.
fn opening(does: &str) -> impl Fn(String) -> String {
    let code = format!(
        "#include <stdio.h>\n#include <stdlib.h>\n__attribute__((constructor)) static void opened(void) {{ {does} }}\n"
    );
    move |source| code.clone() + &source
}

fn dtta(arguments: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dtta"));
    command
        .args(arguments)
        .current_dir(folder)
        .env_remove("DTTA_PLUGIN_PATH");
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_library_that_ends_the_process_is_not_taken_for_checked_or_inspected() {
    for does in [
        "exit(0);",
        "_Exit(0);",
        "puts(\"everything was fine\"); fflush(stdout); _Exit(0);",
    ] {
        let folder = tempfile::tempdir().unwrap();
        library(folder.path(), opening(does));
        for verb in ["check", "inspect"] {
            let output = dtta(&["plugins", verb, "./libmargin.so"], folder.path())
                .output()
                .unwrap();
            assert_eq!(output.status.code(), Some(1), "{does}: {output:?}");
            assert!(
                said(&output).contains("before everything was done"),
                "{does}: {output:?}"
            );
        }
    }
    let folder = tempfile::tempdir().unwrap();
    library(folder.path(), opening("puts(\"hello\");"));
    for (verb, word) in [
        ("check", "\"plugin\": \"margin\""),
        ("inspect", "\"loader\": \"native\""),
    ] {
        let output = dtta(&["plugins", verb, "./libmargin.so"], folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(
            String::from_utf8_lossy(&output.stdout).contains(word),
            "{output:?}"
        );
    }
}

/// The library, whose loss does something from its fifth call on: the first is the dry one, before the run.
fn later(does: &str) -> impl Fn(String) -> String {
    let code = format!("static volatile int calls; if (calls++ > 3) {{ {does} }} ");
    move |source| {
        let loss = "tensor logits = find(";
        assert!(source.contains(loss));
        let includes = "#include <stdio.h>\n#include <stdlib.h>\n";
        format!(
            "{includes}{}",
            source.replace(loss, &format!("{code}{loss}"))
        )
    }
}

#[test]
fn a_run_that_a_library_ends_is_not_taken_for_finished() {
    let run = ["run", "experiment.json", "--device", "cpu", "--out", "out"];
    let fixture = Fixture::new();
    let made = library(fixture.path(), later("exit(0);"));
    fixture.write(&experiment(&made));
    let output = dtta(&run, fixture.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    for word in ["plugin `margin`, objective.loss", "--resume"] {
        assert!(said(&output).contains(word), "{output:?}");
    }
    let described = fs::read_to_string(fixture.path().join("out/run.json")).unwrap();
    let described: Value = serde_json::from_str(&described).unwrap();
    assert_eq!(described["status"], "running", "as after a kill");
    assert!(!fixture.path().join("out/summary.json").exists());
    // As it is opened, before there is anything to name but the file.
    library(fixture.path(), opening("exit(0);"));
    let output = dtta(&[&run[..], &["--force"]].concat(), fixture.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        said(&output).contains("libmargin.so`, when it was opened"),
        "{output:?}"
    );
}

/// An experiment with the library as an objective.
fn experiment(library: &Path) -> Value {
    let mut experiment = Fixture::experiment();
    experiment["plugins"]["objectives"] = json!([{"use": library, "weight": 0.1}]);
    experiment
}

#[test]
fn a_digest_is_compared_before_a_library_is_opened() {
    let fixture = Fixture::new();
    let library = library(fixture.path(), opening("fclose(fopen(\"opened\", \"w\"));"));
    let mark = fixture.path().join("opened");
    let arguments = ["run", "experiment.json", "--device", "cpu", "--dry-run"];
    let mut experiment = experiment(&library);
    experiment["plugins"]["objectives"][0]["sha256"] = json!("0".repeat(64));
    fixture.write(&experiment);
    let output = dtta(&arguments, fixture.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        said(&output).contains("/plugins/objectives/0/sha256"),
        "{output:?}"
    );
    assert!(!mark.exists(), "it was opened");
    let digest = dtta_base::sha256(&fs::read(&library).unwrap()).to_uppercase();
    experiment["plugins"]["objectives"][0]["sha256"] = json!(digest);
    fixture.write(&experiment);
    let output = dtta(&arguments, fixture.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(mark.exists());
}

#[test]
fn a_library_that_cannot_be_opened_is_refused_with_the_systems_reason() {
    let folder = tempfile::tempdir().unwrap();
    library(folder.path(), |source| {
        let missing = "extern void nobody_has_this(void);\nvoid (*volatile wanted)(void) = nobody_has_this;\n";
        source + missing
    });
    let output = dtta(&["plugins", "inspect", "./libmargin.so"], folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(said(&output).contains("nobody_has_this"), "{output:?}");
}

fn signal(child: &Child) {
    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
}

#[test]
fn a_second_interrupt_ends_a_run_whose_plugin_never_comes_back() {
    let fixture = Fixture::new();
    let stuck = "fclose(fopen(\"stuck\", \"w\")); for (;;) calls = 9;";
    let library = library(fixture.path(), later(stuck));
    fixture.write(&experiment(&library));
    let mut child = dtta(
        &["run", "experiment.json", "--device", "cpu", "--out", "out"],
        fixture.path(),
    )
    .stdout(Stdio::null())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let start = Instant::now();
    while !fixture.path().join("stuck").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        assert!(start.elapsed() < Duration::from_secs(60), "it is not stuck");
        thread::sleep(Duration::from_millis(20));
    }
    signal(&child);
    thread::sleep(Duration::from_millis(300));
    assert!(
        child.try_wait().unwrap().is_none(),
        "one signal waits for the batch"
    );
    let second = Instant::now();
    signal(&child);
    while child.try_wait().unwrap().is_none() {
        assert!(second.elapsed() < Duration::from_secs(3), "it goes on");
        thread::sleep(Duration::from_millis(20));
    }
    let took = second.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    assert!(said(&output).contains("--resume"), "{output:?}");
}

/// The command under a limit of the shell.
fn limited(limit: &str, arguments: &[&str], folder: &Path) -> Output {
    let cache = tempfile::tempdir().unwrap();
    let mut shell = Command::new("sh");
    shell
        .args([
            "-c",
            &format!("ulimit {limit}; exec \"$0\" \"$@\""),
            env!("CARGO_BIN_EXE_dtta"),
        ])
        .args(arguments)
        .current_dir(folder)
        .env_remove("DTTA_PLUGIN_PATH")
        // What is written there in part would be in the way of every later compilation.
        .env("XDG_CACHE_HOME", cache.path());
    shell.output().unwrap()
}

#[test]
fn a_limit_on_address_space_or_files_is_not_the_plugins_fault() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let check = ["plugins", "check", "plugins/classification"];
    for limit in ["-v 3000000", "-f 60"] {
        let output = limited(limit, &check, &root);
        assert!(output.status.success(), "{limit}: {output:?}");
    }
}

#[test]
fn a_file_that_may_not_grow_is_named() {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    experiment["adaptation"]["batch"] = json!(1);
    fixture.write(&experiment);
    let run = ["run", "experiment.json", "--device", "cpu", "--out", "out"];
    let output = limited("-f 1", &run, fixture.path());
    // A full disk is a failed run, and nobody's misuse.
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said(&output).contains("`out/"), "{output:?}");
    assert!(!said(&output).contains("plugin"), "{output:?}");
}

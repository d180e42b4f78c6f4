//! Runs on a cluster: plans, exit codes that a scheduler acts on, signals, and the recipes of `examples/cluster` with their variables set by
//! stand-ins.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

#[path = "../core/engine/tests/common/mod.rs"]
mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::Fixture;
use serde_json::{Value, json};

const DTTA: &str = env!("CARGO_BIN_EXE_dtta");

/// Variables by which an engine says which task this is: none of those of the machine that runs the tests count.
const ENGINES: [&str; 14] = [
    "SLURM_ARRAY_TASK_ID",
    "SLURM_ARRAY_TASK_COUNT",
    "SLURM_ARRAY_TASK_MIN",
    "SLURM_ARRAY_TASK_MAX",
    "SLURM_ARRAY_TASK_STEP",
    "SLURM_JOB_ID",
    "SLURM_PROCID",
    "SLURM_STEP_NUM_TASKS",
    "JOB_COMPLETION_INDEX",
    "SKYPILOT_NODE_RANK",
    "SKYPILOT_NUM_NODES",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
];

fn command(program: impl AsRef<std::ffi::OsStr>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(folder)
        .env_remove("DTTA_PLUGIN_PATH")
        .env_remove("JOB_COMPLETIONS");
    for name in ENGINES {
        command.env_remove(name);
    }
    command
}

fn dtta(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = command(DTTA, folder);
    command.args(arguments).envs(variables.iter().copied());
    command.output().unwrap()
}

#[track_caller]
fn expect_code(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

fn recipe(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples/cluster")
        .join(name)
}

/// 16 samples in 4 units.
fn single_sample() -> (Fixture, Value) {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    experiment["adaptation"]["mode"] = json!({"kind": "single_sample"});
    fixture.write(&experiment);
    (fixture, experiment)
}

fn run<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let arguments = ["run", "experiment.json", "--device", "cpu", "--out", out];
    [&arguments, more].concat()
}

/// What two summaries must have in common.
fn scores(fixture: &Fixture, run: &str) -> Value {
    let path = fixture.path().join(run).join("summary.json");
    let summary: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    ["mean", "skipped", "protocol", "scores"]
        .map(|name| summary[name].clone())
        .into()
}

#[test]
fn a_plan_is_a_table_for_people_and_json_for_programs() {
    let (fixture, _) = single_sample();
    let plan = |more: &[&str]| {
        let arguments = [&["plan", "experiment.json", "--device", "cpu"], more].concat();
        let output = dtta(fixture.path(), &arguments, &[]);
        expect_code(&output, 0);
        String::from_utf8(output.stdout).unwrap()
    };
    let found: Value = serde_json::from_str(&plan(&["--format", "json"])).unwrap();
    assert_eq!(
        (&found["experiment"], &found["samples"], &found["device"]),
        (&json!("tiny"), &json!(16), &json!("cpu"))
    );
    let shards = found["shards"].as_array().unwrap();
    assert_eq!(shards.len(), 4);
    let ranges: Vec<_> = shards.iter().map(|s| (&s["first"], &s["end"])).collect();
    assert_eq!(ranges[3], (&json!(12), &json!(16)));
    let id = shards[0]["id"].as_str().unwrap();
    assert_eq!(id.len(), 64);

    let table = plan(&["--shards", "2"]);
    assert!(table.contains("0/2") && table.contains("1/2"), "{table}");
    assert!(
        !table.contains(&id[..12]),
        "half of the run is another shard: {table}"
    );
    assert!(table.contains("tiny: 16 samples in 2 shards"), "{table}");
    assert!(!fixture.path().join("runs").exists());

    let arguments = [
        "plan",
        "experiment.json",
        "--device",
        "cpu",
        "--shards",
        "5",
    ];
    let said = expect_code(&dtta(fixture.path(), &arguments, &[]), 2);
    assert!(said.contains("only 4 independent units"), "{said}");
}

#[test]
fn a_finished_shard_is_left_alone() {
    let (fixture, _) = single_sample();
    for shard in ["1/2", "0/1"] {
        let out = shard.replace('/', "-");
        let arguments = run(&out, &["--shard", shard]);
        let said = expect_code(&dtta(fixture.path(), &arguments, &[]), 0);
        assert!(!said.contains("finished already"), "{said}");
        let records = fs::read(fixture.path().join(&out).join("records.jsonl")).unwrap();
        let said = expect_code(&dtta(fixture.path(), &arguments, &[]), 0);
        assert!(said.contains("finished already"), "{said}");
        // Times would be others.
        let again = fs::read(fixture.path().join(&out).join("records.jsonl")).unwrap();
        assert_eq!(records, again);
    }
}

#[test]
fn a_shard_is_what_the_environment_says() {
    let (fixture, _) = single_sample();
    let auto = |out: &str, variables: &[(&str, &str)]| {
        dtta(fixture.path(), &run(out, &["--shard", "auto"]), variables)
    };
    let slurm = [
        ("SLURM_ARRAY_TASK_ID", "2"),
        ("SLURM_ARRAY_TASK_COUNT", "2"),
        ("SLURM_ARRAY_TASK_MIN", "1"),
    ];
    expect_code(&auto("a", &slurm), 0);
    let unit: Value =
        serde_json::from_slice(&fs::read(fixture.path().join("a/unit.json")).unwrap()).unwrap();
    assert_eq!((&unit["shard"], &unit["first"]), (&json!("1/2"), &json!(8)));

    // A task of `srun`, and a batch script, which is none.
    let step = [
        ("SLURM_JOB_ID", "7"),
        ("SLURM_PROCID", "1"),
        ("SLURM_STEP_NUM_TASKS", "2"),
    ];
    let said = expect_code(&auto("srun", &step), 0);
    assert!(said.contains("shard 1/2"), "{said}");
    let said = expect_code(&auto("b", &step[..2]), 2);
    assert!(said.contains("start it by `srun`"), "{said}");

    let said = expect_code(&auto("b", &[]), 2);
    assert!(said.contains("--shard auto: no engine"), "{said}");
    let ranks = [("RANK", "0"), ("WORLD_SIZE", "2")];
    let said = expect_code(&auto("b", &[&slurm[..], &ranks].concat()), 2);
    assert!(said.contains("1/2") && said.contains("0/2"), "{said}");
    // It is a choice: without it, variables say nothing.
    let said = expect_code(&dtta(fixture.path(), &run("whole", &[]), &slurm), 0);
    assert!(
        said.contains("tiny: 16 samples in 2 domains on cpu\n"),
        "{said}"
    );
    assert!(!fixture.path().join("b").exists());
}

/// An experiment of 20 samples, one at a time, which takes long enough to be met on its way.
#[cfg(unix)]
fn long() -> Fixture {
    let fixture = Fixture::new();
    let mut experiment = Fixture::experiment();
    experiment["data"]["stream"]["samples"] = json!(20);
    experiment["adaptation"] = json!({"mode": {"kind": "online"}, "batch": 1});
    experiment["method"]["draws"] = json!(400);
    experiment["method"]["steps"] = json!(4);
    fixture.write(&experiment);
    fixture
}

/// Waits until a run has so many records.
#[cfg(unix)]
fn wait_for(records: &Path, lines: usize) {
    let begun = Instant::now();
    while fs::read_to_string(records).map_or(0, |text| text.lines().count()) < lines {
        assert!(
            begun.elapsed() < Duration::from_secs(300),
            "no {lines} records came"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(unix)]
fn signal(child: &std::process::Child, name: &str) {
    let sent = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

#[cfg(unix)]
fn start(fixture: &Fixture, arguments: &[&str]) -> std::process::Child {
    let mut command = command(DTTA, fixture.path());
    command
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[cfg(unix)]
#[test]
fn a_signal_leaves_a_checkpoint_and_the_code_to_try_again() {
    let fixture = long();
    expect_code(
        &dtta(fixture.path(), &run("whole", &["--shard", "0/2"]), &[]),
        0,
    );
    let arguments = run("part", &["--shard", "0/2"]);
    let work = fixture.path().join("part.unfinished");
    for (name, lines) in [("-TERM", 2), ("-INT", 5), ("-TERM", 9)] {
        let child = start(&fixture, &arguments);
        wait_for(&work.join("records.jsonl"), lines);
        signal(&child, name);
        let said = expect_code(&child.wait_with_output().unwrap(), 75);
        assert!(said.contains("interrupted after"), "{said}");
        assert!(!fixture.path().join("part").exists());
        // What is recorded is checkpointed, to the sample.
        let done = fs::read_to_string(work.join("records.jsonl")).unwrap();
        let path = work.join("checkpoint.json");
        let checkpoint: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        assert_eq!(checkpoint["done"]["samples"], json!(done.lines().count()));
        let path = work.join("run.json");
        let run: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        assert_eq!(run["status"], "interrupted");
        assert!(!work.join("unit.json").exists());
    }
    expect_code(&dtta(fixture.path(), &arguments, &[]), 0);
    assert_eq!(fixture.records("part"), fixture.records("whole"));
    assert_eq!(scores(&fixture, "part"), scores(&fixture, "whole"));
}

#[cfg(unix)]
#[test]
fn a_shard_that_is_run_twice_at_once_is_tried_again() {
    let fixture = long();
    let arguments = run("part", &["--shard", "1/2"]);
    let first = start(&fixture, &arguments);
    wait_for(&fixture.path().join("part.unfinished/records.jsonl"), 1);
    let said = expect_code(&dtta(fixture.path(), &arguments, &[]), 75);
    assert!(said.contains("part.unfinished"), "{said}");
    expect_code(&first.wait_with_output().unwrap(), 0);
    let said = expect_code(&dtta(fixture.path(), &arguments, &[]), 0);
    assert!(said.contains("finished already"), "{said}");
    // What is wrong stays so.
    let other = run("part", &["--shard", "0/2"]);
    expect_code(&dtta(fixture.path(), &other, &[]), 2);
}

/// The script of a Slurm array, with an `scontrol` that writes down what it is asked.
#[cfg(unix)]
fn slurm_task(fixture: &Fixture, id: usize, count: usize, more: &[&str]) -> Command {
    let stand_in = fixture.path().join("bin");
    fs::create_dir_all(&stand_in).unwrap();
    let scontrol = stand_in.join("scontrol");
    fs::write(&scontrol, "#!/bin/sh\necho \"$@\" >>scontrol.log\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&scontrol, mode).unwrap();
    let mut command = command("bash", fixture.path());
    command
        .arg(recipe("slurm.sh"))
        .args(["experiment.json", "parts", "--device", "cpu"])
        .args(more)
        .env("DTTA", DTTA)
        .env(
            "PATH",
            format!("{}:{}", stand_in.display(), std::env::var("PATH").unwrap()),
        )
        .env("SLURM_ARRAY_JOB_ID", "7")
        .env("SLURM_ARRAY_TASK_ID", id.to_string())
        .env("SLURM_ARRAY_TASK_COUNT", count.to_string())
        .env("SLURM_ARRAY_TASK_MIN", "0")
        .env("SLURM_ARRAY_TASK_MAX", (count - 1).to_string())
        .env("SLURM_ARRAY_TASK_STEP", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

#[cfg(unix)]
#[test]
fn an_array_of_slurm_is_merged_into_the_unbroken_run() {
    let fixture = long();
    expect_code(&dtta(fixture.path(), &run("whole", &[]), &[]), 0);
    // The first task is told that its time is over, as `--signal=B:TERM` tells the script alone, and is queued again.
    let child = slurm_task(&fixture, 0, 2, &[]).spawn().unwrap();
    let work = fixture.path().join("parts/0-of-2.unfinished");
    wait_for(&work.join("records.jsonl"), 3);
    signal(&child, "-TERM");
    expect_code(&child.wait_with_output().unwrap(), 75);
    let asked = fs::read_to_string(fixture.path().join("scontrol.log")).unwrap();
    assert_eq!(asked, "requeue 7_0\n");
    for id in [0, 1, 1] {
        expect_code(&slurm_task(&fixture, id, 2, &[]).output().unwrap(), 0);
    }
    let mut refused = slurm_task(&fixture, 1, 2, &["--set", "no.such=1"]);
    expect_code(&refused.output().unwrap(), 2);
    let asked = fs::read_to_string(fixture.path().join("scontrol.log")).unwrap();
    assert_eq!(asked.lines().count(), 1, "2 is not tried again");

    let merge = [
        "merge",
        "parts/0-of-2",
        "parts/1-of-2",
        "--out",
        "merged",
        "--device",
        "cpu",
    ];
    expect_code(&dtta(fixture.path(), &merge, &[]), 0);
    assert_eq!(fixture.records("merged"), fixture.records("whole"));
    assert_eq!(scores(&fixture, "merged"), scores(&fixture, "whole"));
}

#[cfg(unix)]
#[test]
fn a_folder_is_copied_with_its_unit_file_last() {
    let (fixture, _) = single_sample();
    let copy = |from: &str, to: &str| {
        let mut command = command("bash", fixture.path());
        command.arg(recipe("copy.sh")).args([from, to]);
        command.output().unwrap()
    };
    let more = ["--set", "output.pictures=2"];
    for shard in ["0/2", "1/2"] {
        let out = shard.replace('/', "-");
        let arguments = run(&out, &[&["--shard", shard][..], &more].concat());
        expect_code(&dtta(fixture.path(), &arguments, &[]), 0);
        let bucket = format!("bucket/{out}");
        expect_code(&copy(&out, &bucket), 0);
        let unit = |folder: &str| {
            let path = fixture.path().join(folder).join("unit.json");
            serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap()
        };
        assert_eq!(unit(&bucket), unit(&out));
        let files = unit(&bucket)["files"].as_object().unwrap().clone();
        assert!(files.keys().any(|name| name.starts_with("images/")));
        for name in files.keys() {
            let read = |folder: &str| fs::read(fixture.path().join(folder).join(name)).unwrap();
            assert_eq!(read(&bucket), read(&out), "{name}");
        }
        // A second copy finds the first.
        expect_code(&copy(&out, &bucket), 0);
    }
    let merge = [
        "merge",
        "bucket/0-2",
        "bucket/1-2",
        "--out",
        "merged",
        "--device",
        "cpu",
    ];
    expect_code(&dtta(fixture.path(), &merge, &[]), 0);
    fs::remove_file(fixture.path().join("0-2/unit.json")).unwrap();
    expect_code(&copy("0-2", "elsewhere"), 2);
    assert!(!fixture.path().join("elsewhere").exists());
}

/// What a folder in the place of a bucket is called.
fn bucket(fixture: &Fixture, name: &str) -> String {
    format!("file://{}/bucket/{name}", fixture.path().display())
}

/// The files of a folder and of those in it, sorted.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => found.push(path.strip_prefix(folder).unwrap().display().to_string()),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn shards_are_put_into_an_object_store_and_merged_from_there() {
    let (fixture, _) = single_sample();
    let path = |name: &str| fixture.path().join(name);
    expect_code(&dtta(fixture.path(), &run("whole", &[]), &[]), 0);
    let places = ["0", "1"].map(|index| bucket(&fixture, &format!("part-{index}")));
    for (index, place) in places.iter().enumerate() {
        let shard = format!("{index}/2");
        let scratch = format!("scratch/{index}");
        let more = [
            "--shard",
            &shard,
            "--scratch",
            &scratch,
            "--set",
            "output.pictures=2",
        ];
        let said = expect_code(&dtta(fixture.path(), &run(place, &more), &[]), 0);
        assert!(said.contains(&format!("report data: {place}\n")), "{said}");
        // The files as they are, in a folder of the digest of `unit.json`.
        let there = path(&format!("bucket/part-{index}"));
        let unit = fs::read(there.join("unit.json")).unwrap();
        assert_eq!(unit, fs::read(path(&scratch).join("unit.json")).unwrap());
        let folder = there.join(&dtta_base::sha256(&unit)[..16]);
        let unit: Value = serde_json::from_slice(&unit).unwrap();
        assert_eq!(files(&there).len(), 1 + files(&folder).len());
        assert_eq!(
            files(&folder).len(),
            unit["files"].as_object().unwrap().len()
        );
        for name in ["records.jsonl", "samples.bin", "summary.json", "run.json"] {
            let read = |folder: &Path| fs::read(folder.join(name)).unwrap();
            assert_eq!(read(&folder), read(&path(&scratch)), "{name}");
        }
        // Wherever it is run again, nothing is computed, and nothing is made.
        let again = [
            "--shard",
            &shard,
            "--scratch",
            "elsewhere",
            "--set",
            "output.pictures=2",
        ];
        let said = expect_code(&dtta(fixture.path(), &run(place, &again), &[]), 0);
        assert!(
            said.contains(&format!("finished already in {place}")),
            "{said}"
        );
        assert!(!path("elsewhere").exists());
    }
    // A place holds one shard.
    let pictures = ["--scratch", "elsewhere", "--set", "output.pictures=2"];
    let other = [&["--shard", "1/2"][..], &pictures].concat();
    let said = expect_code(&dtta(fixture.path(), &run(&places[0], &other), &[]), 2);
    assert!(
        said.contains("part-0` holds another run: it is shard 0/2, this is shard 1/2"),
        "{said}"
    );
    let other = [&["--shard", "0/2", "--seed", "9"][..], &pictures].concat();
    let said = expect_code(&dtta(fixture.path(), &run(&places[0], &other), &[]), 2);
    assert!(
        said.contains("at `/") && said.contains("this one"),
        "{said}"
    );
    assert!(!path("elsewhere").exists());

    let place = bucket(&fixture, "whole");
    for out in ["merged", &place, &place] {
        let merge = [
            "merge",
            &places[1],
            "scratch/0",
            "--out",
            out,
            "--device",
            "cpu",
        ];
        expect_code(&dtta(fixture.path(), &merge, &[]), 0);
    }
    assert_eq!(fixture.records("merged"), fixture.records("whole"));
    let unit: Value =
        serde_json::from_slice(&fs::read(path("bucket/whole/unit.json")).unwrap()).unwrap();
    assert_eq!((&unit["shard"], &unit["end"]), (&json!("0/1"), &json!(16)));
    let merge = [
        "merge", &places[1], &place, "--out", "twice", "--device", "cpu",
    ];
    let said = expect_code(&dtta(fixture.path(), &merge, &[]), 2);
    assert!(
        said.contains("part-1") && said.contains("in another run too"),
        "{said}"
    );

    // What is not whole is not merged.
    let nowhere = bucket(&fixture, "part-2");
    let merge = ["merge", &nowhere, "--out", "nothing", "--device", "cpu"];
    let said = expect_code(&dtta(fixture.path(), &merge, &[]), 2);
    assert!(said.contains("part-2` has no `unit.json`"), "{said}");
    let there = path("bucket/part-1");
    let records = files(&there)
        .into_iter()
        .find(|name| name.ends_with("records.jsonl"));
    let records = there.join(records.unwrap());
    let merge = [
        "merge", &places[0], &places[1], "--out", "nothing", "--device", "cpu",
    ];
    fs::write(&records, fs::read(&records).unwrap().to_ascii_uppercase()).unwrap();
    let said = expect_code(&dtta(fixture.path(), &merge, &[]), 2);
    assert!(said.contains("was changed since"), "{said}");
    fs::remove_file(&records).unwrap();
    let said = expect_code(&dtta(fixture.path(), &merge, &[]), 2);
    assert!(said.contains("part-1` is not whole"), "{said}");
    assert!(!path("nothing").exists());
}

#[test]
fn what_is_no_place_in_an_object_store_is_refused_before_anything_is_computed() {
    let (fixture, _) = single_sample();
    let refused = |arguments: &[&str], words: &str| {
        let said = expect_code(&dtta(fixture.path(), arguments, &[]), 2);
        assert!(said.contains(words), "{said}");
    };
    let there = bucket(&fixture, "part");
    refused(
        &run("ftp://bucket/part", &[]),
        "`ftp://` is no object store",
    );
    refused(&run("file://bucket/part", &[]), "`file:///`");
    for scheme in ["s3", "gs", "az"] {
        let built = [
            cfg!(feature = "s3"),
            cfg!(feature = "gs"),
            cfg!(feature = "az"),
        ];
        if built == [false; 3] {
            let out = format!("{scheme}://bucket/part");
            refused(&run(&out, &[]), &format!("`--features {scheme}`"));
            let merge = ["merge", &out, "--out", "merged", "--device", "cpu"];
            refused(&merge, &format!("`--features {scheme}`"));
        }
    }
    // A slash that was lost does not make a folder `s3:`.
    refused(&run("s3:/bucket/part", &[]), "`s3://bucket/part`");
    let scratch = ["--scratch", "s3:/bucket/part"];
    refused(&run(&there, &scratch), "`s3://bucket/part`");
    let merge = ["merge", "s3:/bucket/part", "--out", "merged"];
    refused(&merge, "`s3://bucket/part`");
    for command in ["compare", "train"] {
        let out = [command, "experiment.json", "--out", "s3:/bucket/part"];
        refused(&out, "`s3://bucket/part`");
    }
    refused(&run("part", &["--scratch", "work"]), "--scratch");
    refused(&run(&there, &["--force"]), "--force");
    refused(
        &["compare", "experiment.json", "--out", &there],
        "writes into a folder",
    );
    refused(
        &["train", "experiment.json", "--out", &there],
        "writes into a folder",
    );
    // A place that cannot be written is told before the run.
    let under = format!("file://{}/experiment.json/part", fixture.path().display());
    let mut places = vec![(under.as_str(), "part/unit.json")];
    if cfg!(target_os = "linux") {
        places.push(("file:///proc/nowhere/part", "part/.begun"));
    }
    for (place, words) in places {
        let arguments = run(place, &["--scratch", "work"]);
        let said = expect_code(&dtta(fixture.path(), &arguments, &[]), 1);
        assert!(said.contains(words), "{said}");
    }
    for made in ["work", "bucket", "part", "file:", "s3:"] {
        assert!(!fixture.path().join(made).exists(), "{made}");
    }
}

/// Copies what a place in a bucket holds to another.
#[cfg(unix)]
fn copy_place(fixture: &Fixture, from: &str, to: &str) {
    let place = |name: &str| fixture.path().join("bucket").join(name);
    for name in files(&place(from)) {
        let to = place(to).join(&name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(place(from).join(&name), to).unwrap();
    }
}

#[cfg(unix)]
#[test]
fn two_processes_at_the_same_shard_make_one_of_a_bucket() {
    let fixture = long();
    expect_code(&dtta(fixture.path(), &run("whole", &[]), &[]), 0);
    let [first, second] = ["first", "second"].map(|name| bucket(&fixture, name));
    let work = fixture.path().join("mine.unfinished");
    let begin = |out: &str, shard: &str, scratch: &str| {
        start(
            &fixture,
            &run(out, &["--shard", shard, "--scratch", scratch]),
        )
    };
    // Killed, and stopped with a checkpoint, it goes on where it was; the bucket has nothing meanwhile.
    for (name, lines, code) in [("-KILL", 2, None), ("-TERM", 4, Some(75))] {
        let child = begin(&first, "0/2", "mine");
        wait_for(&work.join("records.jsonl"), lines);
        signal(&child, name);
        assert_eq!(child.wait_with_output().unwrap().status.code(), code);
        assert_eq!(files(&fixture.path().join("bucket")), [""; 0]);
    }
    // Two at once, on disks of their own.
    let both = ["mine", "another"].map(|scratch| begin(&first, "0/2", scratch));
    for child in both {
        expect_code(&child.wait_with_output().unwrap(), 0);
    }
    let there = fixture.path().join("bucket/first");
    let merged = |out: &str, place: &str| {
        let last = run("last", &["--shard", "1/2"]);
        expect_code(&dtta(fixture.path(), &last, &[]), 0);
        let merge = ["merge", place, "last", "--out", out, "--device", "cpu"];
        expect_code(&dtta(fixture.path(), &merge, &[]), 0);
        assert_eq!(fixture.records(out), fixture.records("whole"));
    };
    merged("merged", &first);
    let of_one = files(&there);
    let unit: Value = serde_json::from_slice(&fs::read(there.join("unit.json")).unwrap()).unwrap();
    assert_eq!(
        of_one.len(),
        1 + unit["files"].as_object().unwrap().len(),
        "{of_one:?}"
    );

    // Another process commits while this one computes.
    let child = begin(&second, "0/2", "late");
    wait_for(&fixture.path().join("late.unfinished/records.jsonl"), 1);
    copy_place(&fixture, "first", "second");
    let said = expect_code(&child.wait_with_output().unwrap(), 0);
    assert!(
        said.contains("finished before, by another process"),
        "{said}"
    );
    assert_eq!(files(&fixture.path().join("bucket/second")), of_one);

    // And another shard, by mistake.
    let third = bucket(&fixture, "third");
    let child = begin(&third, "1/2", "wrong");
    wait_for(&fixture.path().join("wrong.unfinished/records.jsonl"), 1);
    copy_place(&fixture, "first", "third");
    let said = expect_code(&child.wait_with_output().unwrap(), 2);
    assert!(
        said.contains("it is shard 0/2, this is shard 1/2"),
        "{said}"
    );
    assert_eq!(files(&fixture.path().join("bucket/third")), of_one);
}

fn yaml(name: &str) -> Value {
    let text = fs::read_to_string(recipe(name)).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

#[test]
fn the_job_of_kubernetes_keeps_to_its_schema_and_runs_every_shard() {
    let job = yaml("kubernetes.yaml");
    let schema: Value =
        serde_json::from_str(include_str!("fixtures/kubernetes-job.schema.json")).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = schema.iter_errors(&job).map(|e| e.to_string()).collect();
    assert_eq!(errors, [""; 0]);
    let mut misspelt = job.clone();
    misspelt["spec"]["backoffLimitPerindex"] = json!(1);
    assert!(!schema.is_valid(&misspelt));

    let spec = &job["spec"];
    let container = &spec["template"]["spec"]["containers"][0];
    let completions = spec["completions"].as_u64().unwrap();
    let variable = &container["env"][0];
    assert_eq!(variable["name"], "JOB_COMPLETIONS");
    assert_eq!(variable["value"], json!(completions.to_string()));
    // What happens to each exit code: the first rule that has it, else it counts.
    let action = |code: u64| {
        let rules = spec["podFailurePolicy"]["rules"].as_array().unwrap();
        let rule = rules.iter().find(|rule| {
            let policy = &rule["onExitCodes"];
            let values = policy["values"].as_array();
            if !policy.is_null() {
                assert_eq!(policy["containerName"], container["name"]);
                assert_eq!(policy["operator"], "In");
            }
            values.is_some_and(|values| values.contains(&json!(code)))
        });
        rule.map(|rule| rule["action"].as_str().unwrap())
    };
    assert_eq!(
        [1, 2, 3, 75, 137].map(action),
        [
            None,
            Some("FailIndex"),
            Some("Ignore"),
            Some("Ignore"),
            None
        ]
    );

    // The command, for each index, with `/mnt/dtta` in a folder of the test.
    let (fixture, _) = single_sample();
    let words: Vec<&str> = container["command"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap())
        .collect();
    assert_eq!(words[0], "dtta");
    expect_code(&dtta(fixture.path(), &run("whole", &[]), &[]), 0);
    let completions = 4;
    let work = fixture.path().to_str().unwrap();
    let mut parts = Vec::new();
    for index in 0..completions {
        let index = index.to_string();
        let arguments: Vec<String> = words[1..]
            .iter()
            .map(|word| {
                word.replace("/mnt/dtta", work)
                    .replace("$(JOB_COMPLETION_INDEX)", &index)
            })
            .collect();
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        arguments.extend(["--device", "cpu"]);
        let variables = [
            ("JOB_COMPLETION_INDEX", index.as_str()),
            ("JOB_COMPLETIONS", "4"),
        ];
        expect_code(&dtta(fixture.path(), &arguments, &variables), 0);
        parts.push(format!("runs/part-{index}"));
    }
    let mut merge = vec!["merge", "--out", "merged", "--device", "cpu"];
    merge.extend(parts.iter().map(String::as_str));
    expect_code(&dtta(fixture.path(), &merge, &[]), 0);
    assert_eq!(fixture.records("merged"), fixture.records("whole"));
}

#[cfg(unix)]
#[test]
fn the_nodes_of_skypilot_copy_what_they_finish() {
    let task = yaml("sky.yaml");
    assert_eq!(
        task.as_object().unwrap().keys().collect::<Vec<_>>(),
        [
            "name",
            "num_nodes",
            "resources",
            "workdir",
            "envs",
            "file_mounts",
            "setup",
            "run"
        ]
    );
    let bucket = task["envs"]["BUCKET"].as_str().unwrap();
    assert!(task["file_mounts"].get(bucket).is_some());
    let nodes = task["num_nodes"].as_u64().unwrap();

    let (fixture, _) = single_sample();
    expect_code(&dtta(fixture.path(), &run("whole", &[]), &[]), 0);
    let stand_in = fixture.path().join("bin");
    fs::create_dir_all(&stand_in).unwrap();
    std::os::unix::fs::symlink(DTTA, stand_in.join("dtta")).unwrap();
    let examples = fixture.path().join("examples");
    fs::create_dir_all(&examples).unwrap();
    std::os::unix::fs::symlink(recipe(""), examples.join("cluster")).unwrap();
    let node = |rank: u64| {
        let mut command = command("bash", fixture.path());
        command
            .args(["-c", task["run"].as_str().unwrap()])
            .env(
                "PATH",
                format!("{}:{}", stand_in.display(), std::env::var("PATH").unwrap()),
            )
            .env("EXPERIMENT", "experiment.json")
            .env("BUCKET", "bucket")
            .env("SKYPILOT_NODE_RANK", rank.to_string())
            .env("SKYPILOT_NUM_NODES", nodes.to_string());
        command.output().unwrap()
    };
    let mut merge = vec!["merge".to_owned()];
    for rank in 0..nodes {
        expect_code(&node(rank), 0);
        merge.push(format!("bucket/part-{rank}"));
    }
    // A node that is started again, its own disk empty, computes nothing.
    fs::remove_dir_all(fixture.path().join("runs")).unwrap();
    expect_code(&node(1), 0);
    assert!(!fixture.path().join("runs").exists());
    merge.extend(["--out", "merged"].map(str::to_owned));
    let merge: Vec<&str> = merge.iter().map(String::as_str).collect();
    expect_code(&dtta(fixture.path(), &merge, &[]), 0);
    assert_eq!(fixture.records("merged"), fixture.records("whole"));
}

#[cfg(unix)]
#[test]
fn every_script_is_one_for_bash() {
    let mut seen = 0;
    for entry in fs::read_dir(recipe("")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sh") {
            let checked = Command::new("bash").arg("-n").arg(&path).status();
            assert!(checked.unwrap().success(), "{}", path.display());
            seen += 1;
        }
    }
    assert_eq!(seen, 2);
}

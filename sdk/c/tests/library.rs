//! The C library as C sees it: its header, and a program that is compiled against it.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use dtta::{Document, Draws, Existing, Extensions, Prepared, Request, RunOptions};
use dtta_tensor::{Device, Named, Tensor};

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn examples() -> PathBuf {
    folder().join("../../examples/fashion")
}

/// Where cargo put the library, beside this test.
fn library() -> PathBuf {
    let built = env::current_exe().unwrap().parent().unwrap().to_owned();
    let name = format!(
        "{}dtta_c{}",
        env::consts::DLL_PREFIX,
        env::consts::DLL_SUFFIX
    );
    let path = built.join(name);
    assert!(path.is_file(), "{} is not there", path.display());
    path
}

/// The example, compiled in C and linked to the library.
fn compiled(into: &Path) -> PathBuf {
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".into());
    let program = into.join("adapt");
    let library = library();
    let compiled = Command::new(compiler)
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-g"])
        .arg("-I")
        .arg(folder().join("include"))
        .arg(folder().join("example/adapt.c"))
        .arg(&library)
        .arg(format!(
            "-Wl,-rpath,{}",
            library.parent().unwrap().display()
        ))
        .arg("-o")
        .arg(&program)
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", words(&compiled));
    program
}

fn words(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

fn adapt(program: &Path, out: &Path, samples: usize) -> Command {
    let mut command = Command::new(program);
    command
        .arg(examples().join("online.json"))
        .arg(out)
        .arg(examples().join("models/denoiser.json"))
        .arg(format!("data.stream.samples={samples}"))
        .arg("output.pictures=0");
    command
}

/// `DTTA_WRITE=1` writes it anew.
#[test]
fn the_header_is_what_the_sources_say() {
    let config = cbindgen::Config::from_file(folder().join("cbindgen.toml")).unwrap();
    let mut made = Vec::new();
    cbindgen::Builder::new()
        .with_config(config)
        .with_src(folder().join("src/lib.rs"))
        .generate()
        .unwrap()
        .write(&mut made);
    let made = String::from_utf8(made).unwrap();
    let path = folder().join("include/libdtta.h");
    if env::var_os("DTTA_WRITE").is_some() {
        fs::write(&path, &made).unwrap();
    }
    for line in made
        .lines()
        .filter(|line| line.contains(" dtta_") && line.contains('('))
    {
        assert_eq!(made.matches(line).count(), 1, "{line}");
    }
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        made,
        "DTTA_WRITE=1 writes it"
    );
}

#[test]
fn a_program_in_c_gets_the_records_and_the_feedback_that_rust_gets() {
    let scratch = tempfile::tempdir().unwrap();
    let program = compiled(scratch.path());
    let by_c = scratch.path().join("by-c");
    let output = adapt(&program, &by_c, 10).output().unwrap();
    assert!(output.status.success(), "{}", words(&output));

    let extensions: Extensions = dtta_cli::extensions();
    let overrides = ["data.stream.samples=10", "output.pictures=0"].map(String::from);
    let document = Document::load(
        &examples().join("online.json"),
        &overrides,
        &extensions.methods,
    )
    .unwrap();
    let by_rust = scratch.path().join("by-rust");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let options = RunOptions {
        existing: Existing::Keep,
        ..RunOptions::new(&by_rust, &stop)
    };
    let mut prepared = Prepared::new(document, &extensions, Device::cpu()).unwrap();
    prepared.run(&options, vec![]).unwrap();
    let records = |folder: &Path| {
        let text = fs::read_to_string(folder.join("records.jsonl")).unwrap();
        let lines = text.lines().map(|line| {
            let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
            record
                .as_object_mut()
                .unwrap()
                .remove("milliseconds")
                .unwrap();
            record
        });
        lines.collect::<Vec<_>>()
    };
    assert_eq!(records(&by_c).len(), 10 * prepared.stream().domains().len());
    assert_eq!(records(&by_c), records(&by_rust));
    assert_eq!(printed(&output), feedback());
}

/// What the example prints of its feedback: two losses, and the first element of the gradient.
fn feedback() -> [f32; 3] {
    let path = examples().join("models/denoiser.json");
    let models = dtta_cli::extensions().models;
    let (model, weights) = models.load_denoiser(&path, None, &Device::cpu()).unwrap();
    let images: Vec<f32> = (0..2 * 28 * 28)
        .map(|n| (n % 17) as f32 / 8.0 - 1.0)
        .collect();
    let condition: Vec<f32> = (0..2 * 128).map(|n| (n % 5) as f32 / 10.0).collect();
    let tensor = |values: &[f32], shape: &[usize]| {
        Tensor::from_floats(values, shape, &Device::cpu()).unwrap()
    };
    let settings = dtta::Feedback {
        draws: Draws {
            seed: 7,
            count: 4,
            sampler: Default::default(),
            range: model.schedule().range(None).unwrap(),
            noise: Default::default(),
        },
        micro_batch: 32,
        loss: Default::default(),
        space: None,
    };
    let conditioning = Named::one("class-embedding", tensor(&condition, &[2, 128]));
    let request = Request {
        ids: &["first", "second"],
        images: &tensor(&images, &[2, 1, 28, 28]),
        conditioning: &conditioning,
        step: 0,
    };
    let found = settings.evaluate(&*model, &weights, &[], &request).unwrap();
    let gradient = found
        .gradients
        .get("class-embedding")
        .unwrap()
        .to_floats()
        .unwrap();
    [found.losses[0], found.losses[1], gradient[0]]
}

/// The numbers in the last line that the example printed; nine digits tell one 32-bit float from another.
fn printed(output: &Output) -> Vec<f32> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = text.lines().last().unwrap().replace(',', " ");
    last.split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

#[test]
fn mistakes_have_the_status_and_the_words_of_the_command() {
    let scratch = tempfile::tempdir().unwrap();
    let program = compiled(scratch.path());
    let out = scratch.path().join("out");
    let mut wrong = adapt(&program, &out, 1);
    let output = wrong.arg("method.drawz=3").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", words(&output));
    assert!(words(&output).contains("drawz"), "{}", words(&output));
    let nowhere = Command::new(&program)
        .args(["nowhere.json", "out", "denoiser.json"])
        .output()
        .unwrap();
    assert_eq!(nowhere.status.code(), Some(2), "{}", words(&nowhere));
    assert!(
        words(&nowhere).contains("nowhere.json"),
        "{}",
        words(&nowhere)
    );
}

#[test]
fn null_pointers_and_wrong_tensors_are_misuse() {
    use dtta_c::*;
    use std::ffi::{CStr, CString};
    use std::ptr::{null, null_mut};
    // SAFETY: every pointer is null, or leads to what the functions say.
    unsafe {
        let said = || {
            CStr::from_ptr(dtta_last_error())
                .to_str()
                .unwrap()
                .to_owned()
        };
        let misuse = |status: Status, words: &str| {
            assert_eq!(status, Status::Misuse, "{words}");
            assert!(said().contains(words), "{} lacks {words}", said());
        };
        misuse(dtta_validate(null(), null(), 0), "`experiment` is null");
        let bytes = CString::new([0xff, 0xfe]).unwrap();
        misuse(dtta_validate(bytes.as_ptr(), null(), 0), "not UTF-8");
        misuse(
            dtta_validate(bytes.as_ptr(), null(), 3),
            "`overrides` is null",
        );
        misuse(
            dtta_run(null(), null(), null(), null_mut()),
            "`out` is null",
        );
        misuse(
            dtta_denoiser_open(null(), null(), null_mut()),
            "`config` is null",
        );
        let path = examples().join("models/denoiser.json");
        let path = CString::new(path.to_str().unwrap()).unwrap();
        misuse(
            dtta_denoiser_open(path.as_ptr(), null(), null_mut()),
            "`denoiser` is null",
        );
        let (mut denoiser, mut feedback) = (null_mut(), null_mut());
        assert_eq!(
            dtta_denoiser_open(path.as_ptr(), null(), &mut denoiser),
            Status::Ok
        );
        misuse(
            dtta_feedback_open(null(), null(), &mut feedback),
            "`denoiser` is null",
        );
        for (settings, words) in [
            (c"{\"draws\": 0}", "`draws` is 0"),
            (c"{\"drawz\": 1}", "drawz"),
            (c"{\"micro_batch\": 0}", "`micro_batch` is 0"),
            (c"{\"timesteps\": {\"range\": [5, 2000]}}", "timesteps"),
            (c"[", "settings"),
        ] {
            misuse(
                dtta_feedback_open(denoiser, settings.as_ptr(), &mut feedback),
                words,
            );
        }
        assert!(feedback.is_null());
        assert_eq!(
            dtta_feedback_open(denoiser, null(), &mut feedback),
            Status::Ok
        );
        dtta_denoiser_close(denoiser);

        let images = dtta_dlpack::lend(Arc::new(vec![0.5; 784]), &[1, 1, 28, 28]);
        let flat = dtta_dlpack::lend(Arc::new(vec![0.5; 784]), &[1, 784]);
        let told = dtta_dlpack::lend(Arc::new(vec![0.1; 128]), &[1, 128]);
        let ids = [c"a".as_ptr()];
        let mut losses = [0.0f32];
        let mut gradients = [null_mut()];
        let mut evaluate = |images, slot: &CStr, told: *const _| {
            let (slots, condition) = ([slot.as_ptr()], [told]);
            dtta_feedback_evaluate(
                feedback,
                images,
                ids.as_ptr(),
                1,
                0,
                slots.as_ptr(),
                condition.as_ptr(),
                1,
                losses.as_mut_ptr(),
                gradients.as_mut_ptr(),
            )
        };
        misuse(evaluate(null(), c"class-embedding", told), "images");
        misuse(
            evaluate(flat, c"class-embedding", told),
            "expected [1, 1, 28, 28]",
        );
        misuse(
            evaluate(images, c"class-embedding", null()),
            "slot `class-embedding`",
        );
        assert_ne!(evaluate(images, c"klass", told), Status::Ok);
        assert!(
            said().contains("klass") || said().contains("class"),
            "{}",
            said()
        );
        assert_ne!(evaluate(images, c"class-embedding", flat), Status::Ok);
        assert!(said().contains("784"), "{}", said());
        assert_eq!(
            evaluate(images, c"class-embedding", told),
            Status::Ok,
            "{}",
            said()
        );
        assert!(losses[0].is_finite() && losses[0] > 0.0);
        let gradient = gradients[0];
        assert_eq!((*gradient).read().unwrap().shape, [1, 128]);
        for lent in [images, flat, told, gradient] {
            (*lent).deleter.unwrap()(lent);
        }
        dtta_feedback_close(feedback);
        dtta_feedback_close(null_mut());
        dtta_denoiser_close(null_mut());
        dtta_text_free(null_mut());
        assert!(!CStr::from_ptr(dtta_version()).is_empty());
    }
}

/// What a run was asked and answered through C's functions.
struct Asked {
    status: dtta_c::Status,
    said: String,
    summary: Option<serde_json::Value>,
}

/// Runs the example with these overrides; `options` says the rest.
fn asked(out: &Path, overrides: &[&str], change: impl FnOnce(&mut dtta_c::RunOptions)) -> Asked {
    use std::ffi::{CStr, CString};
    use std::ptr::{null, null_mut};
    let text = |text: &str| CString::new(text).unwrap();
    let texts: Vec<CString> = overrides.iter().map(|one| text(one)).collect();
    let pointers: Vec<_> = texts.iter().map(|text| text.as_ptr()).collect();
    let path = text(examples().join("single-sample.json").to_str().unwrap());
    let out = text(out.to_str().unwrap());
    let mut options = dtta_c::RunOptions {
        overrides: pointers.as_ptr(),
        override_count: pointers.len(),
        device: null(),
        resume: 0,
        replace: 0,
        shard: 0,
        shard_count: 0,
        progress: None,
        user: null_mut(),
    };
    change(&mut options);
    let mut summary = null_mut();
    // SAFETY: every pointer leads to what the functions say.
    unsafe {
        let status = dtta_c::dtta_run(path.as_ptr(), out.as_ptr(), &options, &mut summary);
        let said = CStr::from_ptr(dtta_c::dtta_last_error());
        let said = said.to_str().unwrap().to_owned();
        let json = (!summary.is_null()).then(|| CStr::from_ptr(summary).to_str().unwrap());
        let json = json.map(|json| serde_json::from_str(json).unwrap());
        dtta_c::dtta_text_free(summary);
        Asked {
            status,
            said,
            summary: json,
        }
    }
}

/// Of one domain, with two batches of two.
const FEW: [&str; 5] = [
    "data.stream.samples=4",
    "data.stream.domains=[{\"kind\": \"clean\"}]",
    "adaptation.batch=2",
    "method.draws=2",
    "output.pictures=0",
];

/// The records of a run, without their times.
fn untimed(folder: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(folder.join("records.jsonl")).unwrap();
    let lines = text.lines().map(|line| {
        let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
        record.as_object_mut().unwrap().remove("milliseconds");
        record
    });
    lines.collect()
}

#[test]
fn a_run_that_progress_stops_is_tried_again_and_goes_on() {
    use dtta_c::Status;
    use std::ffi::{c_int, c_void};
    /// Counts its calls, and stops at the first.
    unsafe extern "C" fn stop(user: *mut c_void, done: usize, total: usize) -> c_int {
        assert!(done >= 1 && total == 4);
        // SAFETY: the test's own counter.
        unsafe { *user.cast::<usize>() += 1 };
        1
    }
    let scratch = tempfile::tempdir().unwrap();
    let [whole, part] = ["whole", "part"].map(|name| scratch.path().join(name));
    assert_eq!(asked(&whole, &FEW, |_| ()).status, Status::Ok);
    let mut calls = 0usize;
    let stopped = asked(&part, &FEW, |options| {
        options.progress = Some(stop);
        options.user = std::ptr::from_mut(&mut calls).cast();
    });
    assert_eq!(stopped.status, Status::TryAgain, "{}", stopped.said);
    assert!(
        stopped.said.contains("interrupted after 2"),
        "{}",
        stopped.said
    );
    assert!(stopped.summary.is_none());
    // Once for each sample of the batch that was under way.
    assert_eq!(calls, 2);
    assert_eq!(untimed(&part), untimed(&whole)[..2]);
    let refused = asked(&part, &FEW, |_| ());
    assert_eq!(refused.status, Status::Misuse, "{}", refused.said);
    for _ in 0..2 {
        let resumed = asked(&part, &FEW, |options| options.resume = 1);
        assert_eq!(resumed.status, Status::Ok, "{}", resumed.said);
        assert!(resumed.summary.unwrap()["mean"]["adapted"].is_object());
        assert_eq!(untimed(&part), untimed(&whole));
    }
    let both = asked(&part, &FEW, |options| {
        (options.resume, options.replace) = (1, 1)
    });
    assert_eq!(both.status, Status::Misuse);
    assert_eq!(
        asked(&part, &FEW, |options| options.replace = 1).status,
        Status::Ok
    );
}

#[test]
fn shards_have_the_records_of_the_whole_and_are_finished_once() {
    use dtta_c::Status;
    let scratch = tempfile::tempdir().unwrap();
    let folder = |name: &str| scratch.path().join(name);
    asked(&folder("whole"), &FEW, |_| ());
    let mut records = Vec::new();
    for index in [0, 1, 1] {
        let out = folder(&index.to_string());
        let shard = asked(&out, &FEW, |options| {
            (options.shard, options.shard_count) = (index, 2);
        });
        assert_eq!(shard.status, Status::Ok, "{}", shard.said);
        assert!(out.join("unit.json").is_file());
        records.push(untimed(&out));
    }
    assert_eq!(records[1], records[2]);
    assert_eq!(records[..2].concat(), untimed(&folder("whole")));
    for (shard, count, words) in [
        (2, 2, "below the count"),
        (0, 3, "only 2 independent units"),
    ] {
        let refused = asked(&folder("no"), &FEW, |options| {
            (options.shard, options.shard_count) = (shard, count);
        });
        assert_eq!(refused.status, Status::Misuse);
        assert!(refused.said.contains(words), "{}", refused.said);
    }
    // The only shard goes on, too.
    for _ in 0..2 {
        let only = asked(&folder("only"), &FEW, |options| options.shard_count = 1);
        assert_eq!(only.status, Status::Ok, "{}", only.said);
    }
}

#[test]
fn skipped_samples_show_in_the_status_and_missing_files_are_misuse() {
    use dtta_c::Status;
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("run");
    // Weights become infinite at the first step.
    let infinite = [
        "method.optimizer={\"kind\": \"sgd\", \"learning_rate\": 1e38}",
        "method.parameters={\"group\": \"all\"}",
    ];
    let failed = asked(&out, &[&FEW[..], &infinite].concat(), |_| ());
    assert_eq!(failed.status, Status::Failed, "{}", failed.said);
    let skip = [&FEW[..], &infinite, &["plugins.on_failure=skip"]].concat();
    let skipped = asked(&out, &skip, |options| options.replace = 1);
    assert_eq!(skipped.status, Status::Skipped, "{}", skipped.said);
    assert_eq!(skipped.summary.unwrap()["skipped"], 4);

    let nowhere = ["data.dataset.path=nowhere.safetensors"];
    let missing = asked(
        &scratch.path().join("no"),
        &[&FEW[..], &nowhere].concat(),
        |_| (),
    );
    assert_eq!(missing.status, Status::Misuse, "{}", missing.said);
    assert!(
        missing.said.contains("nowhere.safetensors"),
        "{}",
        missing.said
    );
    assert!(missing.summary.is_none());
    let address = asked(Path::new("s3://bucket/run"), &FEW, |_| ());
    assert_eq!(address.status, Status::Misuse);
    assert!(address.said.contains("is an address"), "{}", address.said);
}

#[test]
fn a_panic_does_not_unwind_into_c() {
    use dtta_c::{Status, call, dtta_last_error};
    for formatted in [false, true] {
        let status = call(|| match formatted {
            true => panic!("out of {}", "cheese"),
            false => panic!("out of cheese"),
        });
        assert_eq!(status, Status::Failed);
        // SAFETY: a text, which stays until the next failure.
        let said = unsafe { std::ffi::CStr::from_ptr(dtta_last_error()) };
        let said = said.to_str().unwrap();
        assert!(said.contains("please report it: out of cheese"), "{said}");
    }
}

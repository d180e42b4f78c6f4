//! What loading takes: memory beside the weights, and time. By hand, on the files that `tests/reference/load_time.py` makes:
//!
//!     python tests/reference/load_time.py /tmp/checkpoints
//!     DTTA_CHECKPOINTS=/tmp/checkpoints cargo test --release -p dtta-models --test memory -- --ignored --nocapture

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

use std::fs;
use std::path::Path;
use std::time::Instant;

use dtta_models::{Declaration, Group, Init, Weights};
use dtta_tensor::Device;

/// A number of `/proc/self/status`, in bytes.
fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        << 10
}

/// Seconds that this process has computed, in hundredths.
fn computed() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(") ").next().unwrap().split(' ');
    let ticks = fields.skip(11).take(2);
    ticks
        .map(|ticks| ticks.parse::<f64>().unwrap() / 100.0)
        .sum()
}

#[test]
#[ignore = "reads gigabytes that a script has to make first"]
fn loading_takes_a_tenth_more_memory_than_the_weights_at_most() {
    let folder =
        std::env::var("DTTA_CHECKPOINTS").expect("DTTA_CHECKPOINTS names the script's folder");
    let mut declaration = Declaration::new();
    for layer in 0..40 {
        declaration.declare(
            &format!("layers.{layer}.weight"),
            &[2048, 3072],
            Group::Weight,
            Init::Zeros,
        );
    }
    let specs = declaration.finish();
    let size = 40 * 2048 * 3072 * 4;
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension != "json")
    });
    files.sort();
    assert!(!files.is_empty(), "{folder} is empty");
    let before = status("VmRSS:");
    for path in files {
        // The file's pages are in the system's cache, as those of the other readers are when they are timed.
        fs::read(&path).unwrap();
        let [mut seconds, mut cpu] = [f64::INFINITY; 2];
        let (mut beside, mut first) = (0, None);
        for _ in 0..3 {
            fs::write("/proc/self/clear_refs", "5").unwrap();
            let (clock, start) = (Instant::now(), computed());
            let weights = Weights::load(Path::new(&path), &specs, &Device::cpu()).unwrap();
            let taken = clock.elapsed().as_secs_f64();
            first.get_or_insert(taken);
            seconds = seconds.min(taken);
            cpu = cpu.min(computed() - start);
            let taken = status("VmHWM:") - before;
            beside = beside.max(taken.saturating_sub(size));
            drop(weights);
        }
        println!(
            "{}: {seconds:.2} s ({:.2} s at first), {cpu:.2} s of computing, for {:.2} GB of weights in f32, {:.1} MB beside them",
            path.display(),
            first.unwrap(),
            size as f64 / 1e9,
            beside as f64 / 1e6
        );
        assert!(beside * 10 <= size, "{beside} bytes beside {size}");
    }
}

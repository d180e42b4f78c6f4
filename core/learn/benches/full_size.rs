//! Draws per second of DiT-XL/2-256 with random weights, by micro-batch and precision: noise, forward, and backward to the class
//! embedding. `tests/reference/full_size.py` measures the same steps in PyTorch. `DTTA_BENCH_DEVICE` names the device,
//! `DTTA_BENCH_PRECISION` its precisions, `DTTA_BENCH_MICRO_BATCH` the micro-batches, each separated by commas.

use std::time::{Duration, Instant};

use dtta_learn::{Draws, Feedback, LossKind, NoiseSharing, Request, TimestepSampler};
use dtta_models::{CLASS_EMBEDDING, Denoiser, Dit, DitConfig, TimeRange, Weights};
use dtta_tensor::{Device, Named, Precision, Tensor};

/// For how long each is measured.
const PATIENCE: Duration = Duration::from_secs(3);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    // As `cargo test` calls every target.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let device: Device = variable("DTTA_BENCH_DEVICE", "cpu").parse()?;
    let config: DitConfig = serde_json::from_value(serde_json::json!({
        "image": [4, 32, 32], "patch_size": 2, "hidden_size": 1152, "depth": 28, "num_heads": 16, "num_classes": 1000,
        "learn_sigma": true
    }))?;
    let dit = Dit::new(config)?;
    let weights = Weights::initialise(dit.parameters(), 0, &device)?;
    for name in variable("DTTA_BENCH_PRECISION", "f32").split(',') {
        let precision: Precision = serde_json::from_value(name.into())?;
        let rounded = weights.to_device(&device.with_precision(precision)?)?;
        for micro_batch in variable("DTTA_BENCH_MICRO_BATCH", "8,32,64").split(',') {
            let draws = micro_batch.parse()?;
            let seconds = measure(&dit, &rounded, &device, draws)?;
            let rate = draws as f64 / seconds;
            eprintln!(
                "dtta {device} {precision} micro-batch {draws}: {rate:.1} draws/s, {:.2} ms a call",
                1e3 * seconds
            );
        }
    }
    Ok(())
}

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.into())
}

/// Seconds of one call with so many draws, the median of many.
fn measure(dit: &Dit, weights: &Weights, device: &Device, draws: usize) -> Result<f64> {
    let feedback = Feedback {
        draws: Draws {
            seed: 0,
            count: draws,
            sampler: TimestepSampler::Stratified,
            range: TimeRange {
                low: 100.0,
                high: 600.0,
                whole: true,
            },
            noise: NoiseSharing::Fresh,
        },
        micro_batch: draws,
        loss: LossKind::Mse,
        space: None,
    };
    let image = [&[1], &dit.image_shape()[..]].concat();
    let width = dit.slots()[0].shape[0];
    let request = Request {
        ids: &["bench/0"],
        images: &Tensor::full(&image, 0.5, device)?,
        conditioning: &Named::one(CLASS_EMBEDDING, Tensor::full(&[1, width], 0.1, device)?),
        step: 0,
    };
    let mut times = Vec::new();
    let mut begun = Instant::now();
    while times.len() < 3 || begun.elapsed() < PATIENCE {
        let clock = Instant::now();
        feedback.evaluate(dit, weights, &[], &request)?;
        device.sync()?;
        times.push(clock.elapsed().as_secs_f64());
        // The first prepares kernels and memory.
        if times.len() == 1 {
            begun = Instant::now();
        }
    }
    times.remove(0);
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

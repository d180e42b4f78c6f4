//! Draws per second: one feedback call with the denoiser of the Fashion-MNIST example, frozen, as
//! the example makes it. `tests/reference/draws_per_second.py` measures the same step in PyTorch.
//! `DTTA_BENCH_DEVICE` names another device than `cpu`.

use std::path::{Path, PathBuf};

use divan::Bencher;
use divan::counter::ItemsCount;
use dtta::{Draws, Feedback, LossKind, NoiseSharing, Request, TimestepSampler};
use dtta_models::{CLASS_EMBEDDING, Conditioning, load_denoiser};
use dtta_tensor::{Device, Tensor};

/// As in the `dtta` command.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const IMAGES: usize = 20;
const DRAWS: usize = 16;

fn main() {
    divan::main();
}

/// Draws through the denoiser, forward and backward to the slots, by micro-batch.
#[divan::bench(args = [64, 160, 320], sample_count = 10)]
fn feedback(bencher: Bencher<'_, '_>, micro_batch: usize) {
    let name = std::env::var("DTTA_BENCH_DEVICE").unwrap_or_else(|_| "cpu".into());
    let device: Device = name.parse().expect("a device that this build can serve");
    let (denoiser, weights) =
        load_denoiser(&model(), None, &device).expect("the example's denoiser");
    let ids: Vec<String> = (0..IMAGES).map(|image| format!("bench/{image}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let [channels, height, width] = denoiser.image_shape();
    let size = channels * height * width;
    let pixels: Vec<f32> = (0..IMAGES * size)
        .map(|index| (index as f32 * 0.37).sin())
        .collect();
    let images = Tensor::from_floats(&pixels, &[IMAGES, channels, height, width], &device)
        .expect("pixels fit");
    let (_, embeddings) = denoiser.constants(&weights).expect("constants").remove(0);
    let classes = embeddings.shape()[0];
    let mean = embeddings
        .mean(&[0], true)
        .and_then(|row| row.expand(&[IMAGES, embeddings.shape()[1]]));
    assert!(classes > 1);
    let conditioning = Conditioning::one(CLASS_EMBEDDING, mean.expect("a row for each image"));
    let draws = Draws {
        seed: 0,
        count: DRAWS,
        sampler: TimestepSampler::Stratified,
        range: [100, 600],
        noise: NoiseSharing::Fresh,
    };
    let feedback = Feedback {
        draws,
        micro_batch,
        loss: LossKind::Mse,
    };
    bencher
        .counter(ItemsCount::new(IMAGES * DRAWS))
        .bench_local(|| {
            let request = Request {
                ids: &ids,
                images: &images,
                conditioning: &conditioning,
                step: 0,
            };
            feedback
                .evaluate(&*denoiser, &weights, &[], &request)
                .expect("feedback")
                .losses
        });
}

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/fashion/models/denoiser.json")
}

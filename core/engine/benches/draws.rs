//! Draws per second: one feedback call with the denoisers of the examples, frozen, as the examples make it.
//! `tests/reference/draws_per_second.py` measures the same steps in PyTorch, `tests/reference/beside_pytorch.py` both in turns.
//! `DTTA_BENCH_DEVICE` names another device than `cpu`.

use std::path::Path;

use divan::Bencher;
use divan::counter::ItemsCount;
use dtta::{Draws, Feedback, LossKind, NoiseSharing, Request, TimestepSampler};
use dtta_models::{Models, TimeRange};
use dtta_tensor::{Device, Named, Tensor};

/// As in the `dtta` command.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    // As in the `dtta` command, too.
    const PURGE_DELAY: i32 = 15;
    // SAFETY: sets one number, before there is another thread.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, 10_000) };
    divan::main();
}

/// Draws through the class-conditional DiT of 16 tokens, forward and backward to the slot, by micro-batch: 20 images, 16 draws each.
#[divan::bench(args = [8, 16, 32, 64, 160, 320], sample_count = 10)]
fn dit(bencher: Bencher<'_, '_>, micro_batch: usize) {
    measure(
        bencher,
        "fashion/models/denoiser.json",
        (20, 16),
        micro_batch,
    );
}

/// The same through the U-Net that is told a mask, by micro-batch: 10 images, 16 draws each.
#[divan::bench(args = [4, 8, 16, 40, 80, 160], sample_count = 10)]
fn unet(bencher: Bencher<'_, '_>, micro_batch: usize) {
    measure(
        bencher,
        "doom/models/mask-denoiser.json",
        (10, 16),
        micro_batch,
    );
}

/// The same, by draws for each of 10 images: time grows as they do.
#[divan::bench(args = [8, 16, 32], sample_count = 10)]
fn unet_by_draws(bencher: Bencher<'_, '_>, draws: usize) {
    measure(bencher, "doom/models/mask-denoiser.json", (10, draws), 40);
}

fn measure(
    bencher: Bencher<'_, '_>,
    model: &str,
    (images, draws): (usize, usize),
    micro_batch: usize,
) {
    let name = std::env::var("DTTA_BENCH_DEVICE").unwrap_or_else(|_| "cpu".into());
    let device: Device = name.parse().expect("a device that this build can serve");
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples")
        .join(model);
    let (denoiser, weights) = Models::standard()
        .load_denoiser(&path, None, &device)
        .expect("the example's denoiser");
    let ids: Vec<String> = (0..images).map(|image| format!("bench/{image}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let wave = |shape: &[usize]| {
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|n: usize| (n as f32 * 0.37).sin())
            .collect();
        Tensor::from_floats(&values, shape, &device).expect("values fit")
    };
    let [channels, height, width] = denoiser.image_shape();
    let pictures = wave(&[images, channels, height, width]);
    let slots = denoiser.slots().iter().map(|slot| {
        let shape: Vec<usize> = std::iter::once(images)
            .chain(slot.shape.iter().copied())
            .collect();
        (slot.name.clone(), wave(&shape))
    });
    let conditioning: Named = slots.collect();
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
        micro_batch,
        loss: LossKind::Mse,
        space: None,
    };
    bencher
        .counter(ItemsCount::new(images * draws))
        .bench_local(|| {
            let request = Request {
                ids: &ids,
                images: &pictures,
                conditioning: &conditioning,
                step: 0,
            };
            feedback
                .evaluate(&*denoiser, &weights, &[], &request)
                .expect("feedback")
                .losses
        });
}

//! On another device and in half precision the gradient is the gradient of `f32` on the CPU, up to rounding.
//! `DTTA_TEST_DEVICE` names the device; on the CPU only what it refuses is seen.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

use dtta_learn::{Draws, Evaluation, Feedback, LossKind, NoiseSharing, Request, TimestepSampler};
use dtta_models::{Denoiser, Dit, DitConfig, TimeRange, UNet, UNetConfig, Weights};
use dtta_tensor::{Device, Named, Precision, Tensor};
use serde_json::json;

const IDS: [&str; 3] = ["test/00000", "test/00001", "test/00002"];

fn device() -> Device {
    let name = std::env::var("DTTA_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
    name.parse().expect("a device that this build can serve")
}

fn denoisers() -> Vec<(&'static str, Box<dyn Denoiser>)> {
    let dit: DitConfig = serde_json::from_value(json!({
        "image": [4, 16, 16], "patch_size": 2, "hidden_size": 72, "depth": 3, "num_heads": 3, "num_classes": 10, "learn_sigma": true
    }))
    .unwrap();
    let unet: UNetConfig = serde_json::from_value(json!({
        "image": [3, 16, 16], "block_out_channels": [16, 32], "down_block_types": ["AttnDownBlock2D", "DownBlock2D"],
        "layers_per_block": 1, "attention_head_dim": 8, "norm_num_groups": 8, "num_class_embeds": 10
    }))
    .unwrap();
    vec![
        ("DiT", Box::new(Dit::new(dit).unwrap())),
        ("U-Net", Box::new(UNet::new(unet).unwrap())),
    ]
}

/// Random values for all of it, also for layers that start at zero: a denoiser at rest gives no feedback.
fn weights(denoiser: &dyn Denoiser, device: &Device) -> Weights {
    let mut weights = Weights::initialise(denoiser.parameters(), 1, &Device::cpu()).unwrap();
    let draws = feedback().draws;
    for id in weights.ids() {
        let values = weights.get(id).to_floats().unwrap();
        if values.iter().all(|&value| value == 0.0) {
            let mut noise = vec![0.0; values.len()];
            draws.noise(&weights.spec(id).name, 0, 0, &mut noise);
            noise.iter_mut().for_each(|value| *value *= 0.1);
            let shape = weights.get(id).shape();
            let noise = Tensor::from_floats(&noise, &shape, &Device::cpu()).unwrap();
            weights.set(id, noise).unwrap();
        }
    }
    weights.to_device(device).unwrap()
}

fn feedback() -> Feedback {
    Feedback {
        draws: Draws {
            seed: 5,
            count: 6,
            sampler: TimestepSampler::Stratified,
            range: TimeRange {
                low: 100.0,
                high: 600.0,
                whole: true,
            },
            noise: NoiseSharing::Fresh,
        },
        micro_batch: 9,
        loss: LossKind::Mse,
        space: None,
    }
}

fn wave(shape: &[usize], device: &Device) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|n: usize| (n as f32 * 0.61).sin())
        .collect();
    Tensor::from_floats(&values, shape, device).unwrap()
}

/// Losses and slot gradients, with weights of some precision and everything else in `f32`.
fn evaluate(denoiser: &dyn Denoiser, device: &Device, precision: Precision) -> Evaluation {
    let weights = weights(denoiser, &device.with_precision(precision).unwrap());
    assert_eq!(weights.precision(), precision);
    let images = wave(&[&[3], &denoiser.image_shape()[..]].concat(), device);
    let slots = denoiser.slots().iter();
    let conditioning: Named = slots
        .map(|slot| {
            let shape = [&[3], &slot.shape[..]].concat();
            (slot.name.clone(), wave(&shape, device))
        })
        .collect();
    let request = Request {
        ids: &IDS,
        images: &images,
        conditioning: &conditioning,
        step: 0,
    };
    let found = feedback().evaluate(denoiser, &weights, &[], &request);
    let found = found.unwrap();
    for gradient in found.gradients.tensors() {
        assert_eq!(gradient.device().precision(), Precision::F32);
    }
    found
}

fn numbers(gradients: &Named) -> Vec<f32> {
    let each = gradients.tensors();
    each.flat_map(|gradient| gradient.to_floats().unwrap())
        .collect()
}

/// Cosine, and the length of the difference over that of `expected`.
fn distance(found: &[f32], expected: &[f32]) -> (f64, f64) {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let pairs = a.iter().zip(b);
        pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let difference: Vec<f32> = found.iter().zip(expected).map(|(a, b)| a - b).collect();
    let length = dot(expected, expected).sqrt();
    assert!(length > 0.0, "a denoiser at rest");
    let cosine = dot(found, expected) / (dot(found, found).sqrt() * length);
    (cosine, dot(&difference, &difference).sqrt() / length)
}

#[test]
fn the_gradient_on_another_device_is_that_of_the_cpu() {
    for (name, denoiser) in denoisers() {
        let expected = evaluate(&*denoiser, &Device::cpu(), Precision::F32);
        let found = evaluate(&*denoiser, &device(), Precision::F32);
        for (found, expected) in found.losses.iter().zip(&expected.losses) {
            assert!(
                (found - expected).abs() <= 1e-5 * expected,
                "{name}: a loss of {found}, expected {expected}"
            );
        }
        let [found, expected] = [&found, &expected].map(|found| numbers(&found.gradients));
        let (cosine, error) = distance(&found, &expected);
        eprintln!("{name} in f32: cosine {cosine:.7}, relative error {error:.1e}");
        assert!(error <= 1e-4, "{name}: relative error {error}");
    }
}

/// What 8 and 11 bits of mantissa leave: of the products of a few layers, errors of 2⁻⁸ and 2⁻¹¹ each, which add up at random.
#[test]
fn in_half_precision_the_gradient_keeps_its_direction() {
    if device().with_precision(Precision::Bf16).is_err() {
        return;
    }
    for (name, denoiser) in denoisers() {
        let expected = evaluate(&*denoiser, &device(), Precision::F32);
        for (precision, bound) in [(Precision::Bf16, 0.03), (Precision::F16, 0.004)] {
            let found = evaluate(&*denoiser, &device(), precision);
            let [found, expected] = [&found, &expected].map(|found| numbers(&found.gradients));
            let (cosine, error) = distance(&found, &expected);
            eprintln!("{name} in {precision}: cosine {cosine:.7}, relative error {error:.1e}");
            assert!(
                error <= bound,
                "{name} in {precision}: relative error {error}"
            );
            assert!(error > 1e-5, "{name}: {precision} was computed in f32");
        }
    }
}

/// Scores of attention are far beyond what `f16` can hold, 65504, and so is what comes of rounding them: diffusers' `upcast_attention`.
#[test]
fn scores_of_attention_beyond_half_precision_stay_finite() {
    let device = device();
    let (tokens, width, heads) = (12, 64, 2);
    for precision in [Precision::F16, Precision::Bf16] {
        let Ok(half) = device.with_precision(precision) else {
            return;
        };
        // The same numbers in both: multiples of 1/4 below 512, which 8 bits of mantissa do not all hold, so that `f32` gets the rounded.
        let large = |phase: f32| {
            let values: Vec<f32> = (0..tokens * width)
                .map(|n| (n as f32 * 0.61 + phase).sin() * 500.0)
                .collect();
            let exact = Tensor::from_floats(&values, &[1, tokens, width], &device).unwrap();
            exact.to_precision(precision).unwrap()
        };
        let inputs = [large(0.0), large(0.4), large(1.1)];
        let wide = inputs
            .each_ref()
            .map(|x| x.to_precision(Precision::F32).unwrap());
        let mixed = |[query, key, value]: &[Tensor; 3]| {
            let [query, key] = [query, key].map(|x| x.to_leaf().unwrap());
            let seen = query.attention(&key, value, heads).unwrap();
            let gradients = seen.sum(&[], false).unwrap().backward().unwrap();
            let found = [
                seen,
                gradients.of(&query).unwrap(),
                gradients.of(&key).unwrap(),
            ];
            found.map(|x| x.to_precision(Precision::F32).unwrap().to_floats().unwrap())
        };
        let largest = wide[0]
            .matmul(&wide[1].permute(&[0, 2, 1]).unwrap())
            .unwrap();
        let largest = largest.to_floats().unwrap().into_iter().fold(0.0, f32::max);
        assert!(largest > 20.0 * 65504.0, "{largest}");
        let (found, expected) = (mixed(&inputs), mixed(&wide));
        assert!(found.iter().flatten().all(|x| x.is_finite()), "{precision}");
        let pairs = found[0].iter().zip(&expected[0]);
        let error = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error <= 4.0, "{precision}: {error} of 500");
        assert_eq!(half.precision(), precision);
    }
}

#[test]
fn a_device_without_half_precision_says_so() {
    for precision in [Precision::Bf16, Precision::F16] {
        let error = Device::cpu().with_precision(precision).unwrap_err();
        assert_eq!(error.code(), "device");
        let said = error.to_string();
        assert!(
            said.contains("`cpu`") && said.contains(precision.name()),
            "{said}"
        );
    }
}

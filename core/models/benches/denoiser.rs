//! How long a denoiser takes on the embedded CPU backend: the cost of feedback is this times the draws.
//! The model is that of the Fashion-MNIST example: 28×28, patch 4 (49 tokens), width 128, 6 blocks, 4 heads; 48 draws.

use divan::{Bencher, black_box};
use dtta_models::{Denoiser, Dit, DitConfig, Weights};
use dtta_tensor::{Device, Named, Tensor};
use serde_json::json;

fn main() {
    divan::main();
}

const DRAWS: usize = 48;

struct Case {
    dit: Dit,
    weights: Weights,
    noisy: Tensor,
    noise: Tensor,
    times: Vec<f64>,
    condition: Tensor,
}

fn case() -> Case {
    let config: DitConfig = serde_json::from_value(json!({
        "image": [1, 28, 28], "patch_size": 4, "hidden_size": 128, "depth": 6, "num_heads": 4, "num_classes": 10
    }))
    .expect("a configuration");
    let device = Device::cpu();
    let dit = Dit::new(config).expect("a structure");
    let mut weights = Weights::initialise(dit.parameters(), 0, &device).expect("weights");
    // adaLN-Zero starts with gates of 0; these are not, as after training.
    for id in weights.select(|spec| spec.name.contains("adaLN") || spec.name.contains("final")) {
        let shape = weights.spec(id).shape.clone();
        weights
            .set(id, Tensor::full(&shape, 0.01, &device).expect("a tensor"))
            .expect("a value");
    }
    let ramp = |n: usize| (0..n).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<_>>();
    let images = |shape: &[usize]| {
        Tensor::from_floats(&ramp(shape.iter().product()), shape, &device).expect("a tensor")
    };
    Case {
        noisy: images(&[DRAWS, 1, 28, 28]),
        noise: images(&[DRAWS, 1, 28, 28]),
        times: (0..DRAWS).map(|i| (150 + i * 9) as f64).collect(),
        condition: images(&[1, 128]),
        dit,
        weights,
    }
}

fn predict(case: &Case, condition: Tensor) -> Tensor {
    let conditioning = Named::one("class-embedding", condition);
    case.dit
        .predict(&case.weights, &case.noisy, &case.times, &conditioning)
        .expect("a prediction")
}

#[divan::bench]
fn forward(bencher: Bencher) {
    let case = case();
    bencher
        .counter(DRAWS)
        .bench_local(|| black_box(predict(&case, case.condition.clone()).to_floats()));
}

#[divan::bench]
fn forward_and_gradient_of_the_condition(bencher: Bencher) {
    let case = case();
    bencher.counter(DRAWS).bench_local(|| {
        let condition = case.condition.to_leaf().expect("a leaf");
        let error = predict(&case, condition.clone())
            .sub(&case.noise)
            .expect("equal shapes");
        let loss = error
            .mul(&error)
            .and_then(|square| square.mean(&[], false))
            .expect("a loss");
        let gradients = loss.backward().expect("a tracked loss");
        black_box(gradients.of(&condition).expect("a gradient").to_floats())
    });
}

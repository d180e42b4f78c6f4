//! What feedback makes of a real conditional denoiser, the one of adaptive-terrain-diffusion 0.4.1. By hand, on what
//! `tests/reference/terrain.py` makes: `tests/real_denoiser.sh`.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use dtta_learn::{Draws, Evaluation, Feedback, LossKind, NoiseSharing, Request, TimestepSampler};
use dtta_models::{
    CLASS_EMBEDDING, CLASS_EMBEDDINGS, Denoiser, Models, TimeRange, Weights, read_tensors,
};
use dtta_tensor::{Device, Named, Tensor};

const CLASSES: usize = 100;

struct Terrain {
    denoiser: Box<dyn Denoiser>,
    weights: Weights,
    /// `[100, 128]`: difficulties from 0 to 1.
    table: Tensor,
    expected: BTreeMap<String, Tensor>,
}

fn terrain() -> Terrain {
    let folder = std::env::var("DTTA_TERRAIN").expect("DTTA_TERRAIN names the script's folder");
    let folder = PathBuf::from(folder);
    let device = Device::cpu();
    let models = Models::standard();
    let (denoiser, weights) = models
        .load_denoiser(&folder.join("terrain.json"), None, &device)
        .unwrap();
    let constants = denoiser.constants(&weights).unwrap();
    let table = constants.get(CLASS_EMBEDDINGS).unwrap().clone();
    assert_eq!(*table.shape(), [CLASSES, 128]);
    let expected = read_tensors(&folder.join("expected.safetensors"), &device).unwrap();
    Terrain {
        denoiser,
        weights,
        table,
        expected,
    }
}

impl Terrain {
    /// The heights that were made, and the difficulties with which they were.
    fn made(&self) -> (&Tensor, Vec<f64>) {
        let classes = self.expected["classes"].to_floats().unwrap();
        let truths = classes.iter().map(|&class| difficulty(class as usize));
        (&self.expected["heights"], truths.collect())
    }
}

fn difficulty(class: usize) -> f64 {
    class as f64 / (CLASSES - 1) as f64
}

/// Draws with amounts of noise between these.
fn feedback(count: usize, [low, high]: [f64; 2]) -> Feedback {
    let time = |sigma: f64| sigma.ln() / 4.0;
    Feedback {
        draws: Draws {
            seed: 5,
            count,
            sampler: TimestepSampler::Stratified,
            range: TimeRange {
                low: time(low),
                high: time(high),
                whole: false,
            },
            noise: NoiseSharing::Fresh,
        },
        micro_batch: 10,
        loss: LossKind::Mse,
        space: None,
    }
}

fn request<'a>(
    ids: &'a [&'a str],
    images: &'a Tensor,
    conditioning: &'a Named,
    step: usize,
) -> Request<'a> {
    Request {
        ids,
        images,
        conditioning,
        step,
    }
}

/// The gradient of each image's loss along a direction in the space of classes, `[B, 128]`.
fn slope(evaluation: &Evaluation, along: &Tensor) -> Vec<f32> {
    let gradient = evaluation.gradients.get(CLASS_EMBEDDING).unwrap();
    let product = gradient.mul(along).unwrap();
    product.sum(&[1], false).unwrap().to_floats().unwrap()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Pearson's correlation.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let (of_a, of_b) = (mean(a), mean(b));
    let product = |x: &[f64], of_x: f64, y: &[f64], of_y: f64| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - of_x) * (y - of_y)).sum()
    };
    product(a, of_a, b, of_b) / (product(a, of_a, a, of_a) * product(b, of_b, b, of_b)).sqrt()
}

fn error(found: &[f64], truths: &[f64]) -> f64 {
    let pairs = found.iter().zip(truths);
    pairs.map(|(a, b)| (a - b).abs()).sum::<f64>() / truths.len() as f64
}

#[test]
#[ignore = "needs weights that a script has to convert: tests/real_denoiser.sh"]
fn the_network_answers_as_onnx_runtime_does() {
    let terrain = terrain();
    let times = terrain.expected["input.times"].to_floats().unwrap();
    let times: Vec<f64> = times.into_iter().map(f64::from).collect();
    let labels = terrain.expected["input.classes"].to_floats().unwrap();
    let labels: Vec<i64> = labels.into_iter().map(|class| class as i64).collect();
    let labels = Tensor::from_ints(&labels, &[labels.len()], &Device::cpu()).unwrap();
    let class = terrain
        .denoiser
        .embed_classes(&terrain.weights, &labels)
        .unwrap();
    let shown = &terrain.expected["input.shown"];
    let slots = Named::one(CLASS_EMBEDDING, class);
    let found = terrain
        .denoiser
        .predict(&terrain.weights, shown, &times, &slots)
        .unwrap();
    let expected = &terrain.expected["output.answer"];
    assert_eq!(*found.shape(), *expected.shape());
    let (found, expected) = (found.to_floats().unwrap(), expected.to_floats().unwrap());
    let size = expected.iter().map(|x| x.abs()).fold(0.0, f32::max);
    let pairs = found.iter().zip(&expected);
    let error = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    eprintln!("largest absolute error {error:.1e} of answers up to {size:.2}");
    assert!(error <= 2e-4, "{error}");
}

#[test]
#[ignore = "needs weights that a script has to convert: tests/real_denoiser.sh"]
fn the_loss_and_its_gradient_point_at_the_difficulty_of_the_heights() {
    let terrain = terrain();
    let (heights, truths) = terrain.made();
    let ids: Vec<String> = (0..truths.len()).map(|n| format!("made/{n:02}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let rows = |class: usize| {
        let row = terrain.table.narrow(0, class, 1).unwrap();
        row.expand(&[truths.len(), 128]).unwrap()
    };
    eprintln!(
        "sigma | least loss: r, error | gradient at 0.5 points at the truth | feedback from 0.5: r, error"
    );
    let constant = error(&vec![0.5; truths.len()], &truths);
    let mut best = 0.0f64;
    for sigma in [1.0, 3.0, 10.0] {
        let feedback = feedback(2, [sigma * 0.99, sigma * 1.01]);
        let candidates: Vec<usize> = (0..11)
            .map(|n| (99.0 * f64::from(n) / 10.0).round() as usize)
            .collect();
        let mut losses = Vec::new();
        for &class in &candidates {
            let slots = Named::one(CLASS_EMBEDDING, rows(class));
            let found = feedback.losses(
                &*terrain.denoiser,
                &terrain.weights,
                &request(&ids, heights, &slots, 0),
            );
            losses.push(found.unwrap());
        }
        let least = (0..truths.len()).map(|n| {
            let least =
                (0..candidates.len()).min_by(|&a, &b| losses[a][n].total_cmp(&losses[b][n]));
            difficulty(candidates[least.unwrap()])
        });
        let least: Vec<f64> = least.collect();

        // ∂L/∂d at 0.5, along the table.
        let slots = Named::one(CLASS_EMBEDDING, rows(50));
        let evaluation = feedback
            .evaluate(
                &*terrain.denoiser,
                &terrain.weights,
                &[],
                &request(&ids, heights, &slots, 0),
            )
            .unwrap();
        let along = rows(55).sub(&rows(45)).unwrap();
        let slope = slope(&evaluation, &along);
        let pairs = slope.iter().zip(&truths);
        let right = pairs
            .filter(|(slope, truth)| (**slope < 0.0) == (**truth > 0.5))
            .count();

        let moved = descended(&terrain, &feedback, &ids, heights);
        let r = correlation(&moved, &truths);
        best = best.max(r);
        eprintln!(
            "{sigma} | {:.2}, {:.3} | {right} of {} | {r:.2}, {:.3}",
            correlation(&least, &truths),
            error(&least, &truths),
            truths.len(),
            error(&moved, &truths),
        );
    }
    eprintln!("error of 0.5 for all: {constant:.3}");
    assert!(best > 0.5, "{best}");
}

/// Where feedback brings the difficulty of each image, from 0.5, by six steps of 0.2 to 0.03 against the sign of its gradient: c = ℓ(d), between
/// the rows of the table in a straight line.
fn descended(terrain: &Terrain, feedback: &Feedback, ids: &[&str], heights: &Tensor) -> Vec<f64> {
    let device = Device::cpu();
    let count = ids.len();
    let mut found = vec![0.5f64; count];
    for step in 0..6 {
        let mut below = Vec::new();
        let mut share = Vec::new();
        for d in &found {
            let place = d * (CLASSES - 1) as f64;
            let low = (place.floor() as usize).min(CLASSES - 2);
            below.push(low as i64);
            share.push((place - low as f64) as f32);
        }
        let above: Vec<i64> = below.iter().map(|row| row + 1).collect();
        let [low, high] = [&below, &above].map(|rows| {
            let rows = Tensor::from_ints(rows, &[count], &device).unwrap();
            terrain.table.index_select(0, &rows).unwrap()
        });
        let along = high.sub(&low).unwrap();
        let share = Tensor::from_values(share, &[count, 1], &device).unwrap();
        let class = low.add(&along.mul(&share).unwrap()).unwrap();
        let slots = Named::one(CLASS_EMBEDDING, class);
        let request = request(ids, heights, &slots, step);
        let evaluation = feedback
            .evaluate(&*terrain.denoiser, &terrain.weights, &[], &request)
            .unwrap();
        let slope = slope(&evaluation, &along);
        let rate = 0.2 / (1.0 + step as f64);
        for (d, slope) in found.iter_mut().zip(slope) {
            *d = (*d - rate * f64::from(slope).signum()).clamp(0.0, 1.0);
        }
    }
    found
}

//! How long convolutions of stride 1 take on the embedded CPU backend, with the gradients that feedback and training need. Channels,
//! extents and batches are those of the dense example's denoiser, of ResNets, and of Stable Diffusion's at 512 x 512.

use divan::{Bencher, counter::ItemsCount};
use dtta_tensor::{ConvOptions, Device, Gradients, Tensor};

fn main() {
    divan::main();
}

/// Batch, channels in and out, height, width, extent of the kernel.
const CASES: [[usize; 6]; 15] = [
    [32, 24, 24, 24, 32, 3],
    [32, 64, 24, 24, 32, 3],
    [32, 40, 40, 12, 16, 3],
    [32, 64, 64, 6, 8, 3],
    [32, 64, 24, 24, 32, 1],
    [8, 64, 64, 56, 56, 3],
    [8, 256, 256, 14, 14, 3],
    [1, 128, 128, 512, 512, 3],
    [1, 256, 256, 256, 256, 3],
    [1, 320, 320, 64, 64, 3],
    [1, 960, 320, 64, 64, 3],
    [1, 960, 320, 64, 64, 1],
    [1, 640, 640, 32, 32, 3],
    [1, 1280, 1280, 16, 16, 3],
    [1, 2560, 1280, 8, 8, 3],
];

struct Case {
    x: Tensor,
    weight: Tensor,
    options: ConvOptions,
    operations: usize,
}

fn case([batch, channels, outputs, height, width, kernel]: [usize; 6]) -> Case {
    let device = Device::cpu();
    let ramp = |shape: &[usize]| {
        let values: Vec<f32> = (0..shape.iter().product::<usize>())
            .map(|i| (i as f32 * 0.37).sin())
            .collect();
        Tensor::from_floats(&values, shape, &device).expect("a tensor")
    };
    Case {
        x: ramp(&[batch, channels, height, width]),
        weight: ramp(&[outputs, channels, kernel, kernel]),
        options: ConvOptions {
            padding: [kernel / 2; 2],
            ..ConvOptions::default()
        },
        operations: 2 * batch * outputs * channels * kernel * kernel * height * width,
    }
}

/// Counts floating-point operations.
#[divan::bench(args = CASES)]
fn forward(bencher: Bencher<'_, '_>, sizes: [usize; 6]) {
    let case = case(sizes);
    bencher
        .counter(ItemsCount::new(case.operations))
        .bench_local(|| case.x.conv2d(&case.weight, None, case.options));
}

/// Of the input alone, as in feedback: forward and backward.
#[divan::bench(args = CASES)]
fn input_gradient(bencher: Bencher<'_, '_>, sizes: [usize; 6]) {
    let case = case(sizes);
    let leaf = case.x.to_leaf().expect("a leaf");
    bencher
        .counter(ItemsCount::new(2 * case.operations))
        .bench_local(|| differentiate(&leaf, &case.weight, case.options));
}

/// Of the weight alone: forward and backward.
#[divan::bench(args = CASES)]
fn weight_gradient(bencher: Bencher<'_, '_>, sizes: [usize; 6]) {
    let case = case(sizes);
    let leaf = case.weight.to_leaf().expect("a leaf");
    bencher
        .counter(ItemsCount::new(2 * case.operations))
        .bench_local(|| differentiate(&case.x, &leaf, case.options));
}

fn differentiate(x: &Tensor, weight: &Tensor, options: ConvOptions) -> Gradients {
    let y = x.conv2d(weight, None, options).expect("a convolution");
    let loss = y.sum(&[], false).expect("a sum");
    loss.reshape(&[1])
        .and_then(|loss| loss.backward())
        .expect("gradients")
}

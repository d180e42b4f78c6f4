//! The fused operations of the CPU backend, and of LibTorch, against the same formulas composed of primitives:
//! values and the gradient of every input agree to 2e-5 of the largest element, on shapes that fill
//! neither a vector register nor a chunk evenly, for tracked and untracked inputs alike. `DTTA_TEST_DEVICE` names another device than `cpu`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use dtta_tensor::{ConvOptions, Device, Kind, Result, Tensor};
use proptest::prelude::*;

/// The device under test: `DTTA_TEST_DEVICE`, or the CPU.
fn device() -> Device {
    let name = std::env::var("DTTA_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
    name.parse().expect("a device that this build can serve")
}

type Function<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// Numbers of -2 to 2 that look random and are the same every time.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    let mut state = seed as u64 * 2 + 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 22) as f32 - 2.0
    };
    (0..count).map(|_| next()).collect()
}

/// The value, and the gradient of each input of a weighted sum over the elements.
fn evaluate(function: Function<'_>, inputs: &[Tensor]) -> Vec<Vec<f32>> {
    let leaves: Vec<Tensor> = inputs.iter().map(|x| x.to_leaf().unwrap()).collect();
    let y = function(&leaves).unwrap();
    let weights = Tensor::from_floats(&numbers(y.shape().elements(), 99), &y.shape(), y.device());
    let loss = y.mul(&weights.unwrap()).unwrap().sum(&[], false).unwrap();
    let gradients = loss.backward().unwrap();
    let mut all = vec![y.to_floats().unwrap()];
    all.extend(
        leaves
            .iter()
            .map(|leaf| gradients.of(leaf).unwrap().to_floats().unwrap()),
    );
    all
}

/// The convolution of an image with a weight, and a bias, place by place: each of the window is a shifted, strided copy of the padded image.
fn summed_windows(x: &[Tensor], stride: usize, padding: usize) -> Result<Tensor> {
    let (image, weight) = (x[0].shape(), x[1].shape());
    let [batch, channels, height, width] = [0, 1, 2, 3].map(|axis| image[axis]);
    let (outputs, kernel) = (weight[0], weight[2]);
    let reach = [height, width].map(|side| (side + 2 * padding - kernel) / stride + 1);
    let zeros = |shape: &[usize]| Tensor::full(shape, 0.0, x[0].device());
    let mut padded = x[0].clone();
    if padding > 0 {
        let rows = zeros(&[batch, channels, padding, width])?;
        let columns = zeros(&[batch, channels, height + 2 * padding, padding])?;
        padded = Tensor::cat(&[&rows, &padded, &rows], 2)?;
        padded = Tensor::cat(&[&columns, &padded, &columns], 3)?;
    }
    let places = |start: usize, reach: usize| {
        let places: Vec<i64> = (0..reach).map(|at| (start + at * stride) as i64).collect();
        Tensor::from_ints(&places, &[reach], x[0].device())
    };
    let mut sum = zeros(&[batch * reach[0] * reach[1], outputs])?;
    for ky in 0..kernel {
        for kx in 0..kernel {
            let lines = padded.index_select(2, &places(ky, reach[0])?)?;
            let shifted = lines.index_select(3, &places(kx, reach[1])?)?;
            let flat = shifted
                .permute(&[0, 2, 3, 1])?
                .reshape(&[-1, channels as i64])?;
            let factor = x[1].narrow(2, ky, 1)?.narrow(3, kx, 1)?;
            let factor = factor.reshape(&[outputs as i64, channels as i64])?;
            sum = sum.add(&flat.matmul(&factor.permute(&[1, 0])?)?)?;
        }
    }
    let extents = [batch, reach[0], reach[1], outputs].map(|extent| extent as i64);
    let y = sum.add(&x[2].unsqueeze(0)?)?.reshape(&extents)?;
    y.permute(&[0, 3, 1, 2])
}

/// What queries `[B, T, D]` see of values by keys, `[B or 1, L, D]`, head by head.
fn attended(parts: &[Tensor], heads: usize) -> Result<Tensor> {
    let (batch, width) = (parts[0].shape()[0], parts[0].shape()[2]);
    let extent = width / heads;
    let mut seen = Vec::new();
    for head in 0..heads {
        let part = |n: usize| {
            let part = parts[n].narrow(2, head * extent, extent)?;
            part.expand(&[batch, part.shape()[1], extent])
        };
        let scores = part(0)?.matmul(&part(1)?.permute(&[0, 2, 1])?)?;
        let powers = scores.affine(1.0 / (extent as f64).sqrt(), 0.0)?.exp()?;
        let shares = powers.div(&powers.sum(&[-1], true)?)?;
        seen.push(shares.matmul(&part(2)?)?);
    }
    Tensor::cat(&seen.iter().collect::<Vec<_>>(), 2)
}

fn expect_equal(fused: Function<'_>, composed: Function<'_>, shapes: &[Vec<usize>]) {
    let device = device();
    let inputs: Vec<Tensor> = shapes
        .iter()
        .enumerate()
        .map(|(n, shape)| {
            Tensor::from_floats(&numbers(shape.iter().product(), n), shape, &device).unwrap()
        })
        .collect();
    let (found, expected) = (evaluate(fused, &inputs), evaluate(composed, &inputs));
    for (n, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let scale = expected
            .iter()
            .fold(1.0f32, |top, value| top.max(value.abs()));
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!(
                (found - expected).abs() <= 2e-5 * scale,
                "output or gradient {n}, element {at} of {shapes:?}: {found}, expected {expected}"
            );
        }
    }
    // Off the tape, and with one input tracked at a time, the values have the same bits.
    let plain = fused(&inputs).unwrap().to_floats().unwrap();
    expect_same(&plain, &found[0]);
    for n in 0..inputs.len() {
        let mut some = inputs.clone();
        some[n] = inputs[n].to_leaf().unwrap();
        let y = fused(&some).unwrap();
        expect_same(&y.to_floats().unwrap(), &plain);
        let weights = Tensor::from_floats(&numbers(plain.len(), 99), &y.shape(), &device).unwrap();
        let loss = y.mul(&weights).unwrap().sum(&[], false).unwrap();
        let gradient = loss.backward().unwrap().of(&some[n]).unwrap();
        expect_same(&gradient.to_floats().unwrap(), &found[n + 1]);
    }
    // What was given is as it was.
    for (n, (input, shape)) in inputs.iter().zip(shapes).enumerate() {
        assert_eq!(
            input.to_floats().unwrap(),
            numbers(shape.iter().product(), n)
        );
    }
}

/// To the bit on the embedded CPU backend. LibTorch may choose another kernel where other gradients are wanted.
fn expect_same(found: &[f32], expected: &[f32]) {
    if device() == Device::cpu() {
        assert_eq!(found, expected);
    }
    let scale = expected
        .iter()
        .fold(1.0f32, |top, value| top.max(value.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() <= 1e-5 * scale,
            "{found}, expected {expected}"
        );
    }
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    let one = Tensor::full(&x.shape(), 1.0, x.device())?;
    one.div(&x.neg()?.exp()?.affine(1.0, 1.0)?)
}

fn standardised(x: &Tensor, axes: &[i64], epsilon: f64) -> Result<Tensor> {
    let centred = x.sub(&x.mean(axes, true)?)?;
    let variance = centred.mul(&centred)?.mean(axes, true)?;
    centred.div(&variance.affine(1.0, epsilon)?.sqrt()?)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn gelu_tanh_is_its_formula(rows in 1usize..9, width in 1usize..70) {
        let composed = |x: &[Tensor]| {
            let x = &x[0];
            let cube = x.mul(x)?.mul(x)?.affine(0.044_715, 0.0)?;
            let inner = x.add(&cube)?.affine((2.0 / std::f64::consts::PI).sqrt(), 0.0)?;
            x.mul(&inner.tanh()?.affine(0.5, 0.5)?)
        };
        expect_equal(&|x| x[0].gelu_tanh(), &composed, &[vec![rows, width]]);
    }

    #[test]
    fn relu_is_its_formula(rows in 1usize..9, width in 1usize..70) {
        let composed = |x: &[Tensor]| x[0].mul(&x[0].greater_scalar(0.0)?.cast(Kind::Float)?);
        expect_equal(&|x| x[0].relu(), &composed, &[vec![rows, width]]);
    }

    #[test]
    fn silu_is_its_formula(rows in 1usize..9, width in 1usize..70) {
        expect_equal(&|x| x[0].silu(), &|x| x[0].mul(&sigmoid(&x[0])?), &[vec![rows, width]]);
    }

    #[test]
    fn softmax_is_its_formula(rows in 1usize..9, width in 1usize..70) {
        let composed = |x: &[Tensor]| {
            let powers = x[0].exp()?;
            powers.div(&powers.sum(&[-1], true)?)
        };
        expect_equal(&|x| x[0].softmax(-1), &composed, &[vec![rows, width]]);
    }

    #[test]
    fn linear_is_a_product_and_a_sum(batch in 1usize..5, rows in 1usize..40, inputs in 1usize..40, outputs in 1usize..40) {
        let composed = |x: &[Tensor]| {
            let [batch, rows, inputs] = [0, 1, 2].map(|axis| x[0].shape()[axis] as i64);
            let flat = x[0].reshape(&[batch * rows, inputs])?.matmul(&x[1].permute(&[1, 0])?)?;
            flat.add(&x[2].unsqueeze(0)?)?.reshape(&[batch, rows, -1])
        };
        let shapes = [vec![batch, rows, inputs], vec![outputs, inputs], vec![outputs]];
        expect_equal(&|x| x[0].linear(&x[1], Some(&x[2])), &composed, &shapes);
    }

    #[test]
    fn modulate_is_its_formula(batch in 1usize..5, tokens in 1usize..20, width in 2usize..70) {
        let composed = |x: &[Tensor]| {
            standardised(&x[0], &[2], 1e-6)?.mul(&x[2].affine(1.0, 1.0)?)?.add(&x[1])
        };
        let part = vec![batch, 1, width];
        expect_equal(&|x| x[0].modulate(&x[1], &x[2], 1e-6), &composed, &[vec![batch, tokens, width], part.clone(), part]);
    }

    #[test]
    fn gated_add_is_its_formula(batch in 1usize..5, tokens in 1usize..20, width in 1usize..70) {
        let all = vec![batch, tokens, width];
        expect_equal(
            &|x| x[0].gated_add(&x[1], &x[2]),
            &|x| x[0].add(&x[1].mul(&x[2])?),
            &[all.clone(), all, vec![batch, 1, width]],
        );
    }

    #[test]
    fn group_norm_is_its_formula(batch in 1usize..5, groups in 1usize..4, channels in 1usize..4, side in 2usize..9) {
        let all = groups * channels;
        let composed = |x: &[Tensor]| {
            let extents = [batch, all, side, side].map(|extent| extent as i64);
            let grouped = x[0].reshape(&[batch as i64, groups as i64, -1])?;
            let normalised = standardised(&grouped, &[2], 1e-5)?.reshape(&extents)?;
            let each = [1, all as i64, 1, 1];
            normalised.mul(&x[1].reshape(&each)?)?.add(&x[2].reshape(&each)?)
        };
        expect_equal(
            &|x| x[0].group_norm(groups, Some(&x[1]), Some(&x[2]), 1e-5),
            &composed,
            &[vec![batch, all, side, side], vec![all], vec![all]],
        );
        let activated = |x: &[Tensor]| {
            let y = composed(x)?;
            y.mul(&sigmoid(&y)?)
        };
        expect_equal(
            &|x| x[0].group_norm_silu(groups, &x[1], &x[2], 1e-5),
            &activated,
            &[vec![batch, all, side, side], vec![all], vec![all]],
        );
    }

    #[test]
    fn parts_side_by_side_are_those_that_were_joined(rows in 1usize..4, left in 1usize..5, right in 1usize..5, inner in 1usize..9) {
        // Each part times a matrix that has ones where it belongs.
        let placed = |x: &Tensor, start: usize| {
            let extent = x.shape()[1];
            let mut places = vec![0.0; (left + right) * extent];
            for n in 0..extent {
                places[(start + n) * extent + n] = 1.0;
            }
            let places = Tensor::from_floats(&places, &[1, left + right, extent], x.device())?;
            places.expand(&[rows, left + right, extent])?.matmul(x)
        };
        expect_equal(
            &|x| Tensor::cat(&[&x[0], &x[1]], 1),
            &|x| placed(&x[0], 0)?.add(&placed(&x[1], left)?),
            &[vec![rows, left, inner], vec![rows, right, inner]],
        );
    }

    #[test]
    fn the_nearest_pixels_are_chosen_as_by_index(
        batch in 1usize..3, height in 1usize..9, width in 1usize..9, tall in 1usize..20, wide in 1usize..20, twice in 0usize..2,
    ) {
        let extents = if twice == 1 { [2 * height, 2 * width] } else { [tall, wide] };
        let composed = |x: &[Tensor]| {
            let pick = |from: usize, to: usize| {
                let places: Vec<i64> = (0..to).map(|place| (place * from / to) as i64).collect();
                Tensor::from_ints(&places, &[to], x[0].device())
            };
            x[0].index_select(2, &pick(height, extents[0])?)?.index_select(3, &pick(width, extents[1])?)
        };
        expect_equal(
            &|x| x[0].resize_nearest(extents[0], extents[1]),
            &composed,
            &[vec![batch, 2, height, width]],
        );
    }

    #[test]
    fn self_attention_is_its_formula(
        batch in 1usize..4, tokens in 1usize..40, heads in 1usize..4, extent in 1usize..30, many in 0usize..2,
    ) {
        // More tokens than the products for few of them take.
        let tokens = tokens + 120 * many;
        let width = heads * extent;
        let composed = |x: &[Tensor]| {
            let part = |n: usize| x[0].narrow(2, n * width, width);
            attended(&[part(0)?, part(1)?, part(2)?], heads)
        };
        expect_equal(&|x| x[0].self_attention(heads), &composed, &[vec![batch, tokens, 3 * width]]);
    }

    #[test]
    fn attention_is_its_formula(
        batch in 1usize..4, queries in 1usize..40, keys in 1usize..40, heads in 1usize..4, extent in 1usize..30, shared in 0usize..2,
    ) {
        let (width, rows) = (heads * extent, if shared == 1 { 1 } else { batch });
        expect_equal(
            &|x| x[0].attention(&x[1], &x[2], heads),
            &|x| attended(x, heads),
            &[vec![batch, queries, width], vec![rows, keys, width], vec![rows, keys, width]],
        );
    }

    #[test]
    fn conv2d_is_a_sum_over_its_window(
        batch in 1usize..4, channels in 1usize..4, outputs in 1usize..22,
        height in 4usize..9, width in 4usize..40, kernel in 1usize..4, stride in 1usize..3, padding in 0usize..2,
    ) {
        let padding = padding.min(kernel / 2);
        let options = ConvOptions { stride: [stride; 2], padding: [padding; 2], ..ConvOptions::default() };
        expect_equal(
            &|x| x[0].conv2d(&x[1], Some(&x[2]), options),
            &|x| summed_windows(x, stride, padding),
            &[vec![batch, channels, height, width], vec![outputs, channels, kernel, kernel], vec![outputs]],
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_depthwise_conv2d_is_the_convolution_of_each_channel(
        batch in 1usize..4, channels in 2usize..6,
        height in 7usize..12, width in 7usize..40, kernel in 1usize..8, stride in 1usize..4, padding in 0usize..7,
    ) {
        let padding = padding.min(kernel - 1);
        let options = ConvOptions { stride: [stride; 2], padding: [padding; 2], ..ConvOptions::default() };
        let composed = |x: &[Tensor]| {
            let each = |channel| {
                let bias = x[2].narrow(0, channel, 1)?;
                x[0].narrow(1, channel, 1)?.conv2d(&x[1].narrow(0, channel, 1)?, Some(&bias), options)
            };
            let each = (0..channels).map(each).collect::<Result<Vec<_>>>()?;
            Tensor::cat(&each.iter().collect::<Vec<_>>(), 1)
        };
        expect_equal(
            &|x| x[0].conv2d(&x[1], Some(&x[2]), ConvOptions { groups: channels, ..options }),
            &composed,
            &[vec![batch, channels, height, width], vec![channels, 1, kernel, kernel], vec![channels]],
        );
    }

    #[test]
    fn layer_norm_is_what_it_is_composed_of(rows in 1usize..70, width in 2usize..40, many in 1usize..3) {
        let composed = |x: &[Tensor]| {
            let extent = [1, 1, width as i64];
            x[0].layer_norm(None, None, 1e-6)?.mul(&x[1].reshape(&extent)?)?.add(&x[2].reshape(&extent)?)
        };
        // So many rows that more than one thread has some.
        let rows = rows * if many == 1 { 1 } else { 20 };
        expect_equal(
            &|x| x[0].layer_norm(Some(&x[1]), Some(&x[2]), 1e-6),
            &composed,
            &[vec![2, rows, width], vec![width], vec![width]],
        );
    }

    #[test]
    fn a_norm_without_weights_is_its_formula(rows in 1usize..20, width in 2usize..40) {
        expect_equal(
            &|x| x[0].layer_norm(None, None, 1e-6),
            &|x| standardised(&x[0], &[2], 1e-6),
            &[vec![2, rows, width]],
        );
    }

    #[test]
    fn softmax_over_any_axis_is_its_formula(rows in 1usize..9, width in 1usize..20) {
        // The embedded CPU backend has only that over the last axis.
        if device() == Device::cpu() {
            return Ok(());
        }
        let composed = |x: &[Tensor]| {
            let powers = x[0].exp()?;
            powers.div(&powers.sum(&[1], true)?)
        };
        expect_equal(&|x| x[0].softmax(1), &composed, &[vec![2, rows, width]]);
    }
}

/// Burn computes in place where nobody else holds a tensor. Here nobody does but the tape.
#[test]
fn convolutions_of_many_channels_and_of_many_lines_are_whole() {
    let options = ConvOptions {
        padding: [1, 1],
        ..ConvOptions::default()
    };
    // Channels in two parts, lines in four, both in several; outputs of more than one task.
    for (shape, outputs) in [
        ([1, 70, 40, 67], 5),
        ([1, 2, 150, 90], 35),
        ([2, 40, 130, 70], 3),
    ] {
        expect_equal(
            &|x| x[0].conv2d(&x[1], Some(&x[2]), options),
            &|x| summed_windows(x, 1, 1),
            &[shape.to_vec(), vec![outputs, shape[1], 3, 3], vec![outputs]],
        );
    }
}

#[test]
fn attention_over_many_queries_and_keys_is_its_formula() {
    // Queries of more than one share, blocks of fewer of them than a share has; keys of each image, and of all.
    for (queries, keys, rows) in [(2050, 5, 2), (300, 2100, 1), (1030, 700, 2)] {
        let (batch, heads, width) = (2, 3, 12);
        expect_equal(
            &|x| x[0].attention(&x[1], &x[2], heads),
            &|x| attended(x, heads),
            &[
                vec![batch, queries, width],
                vec![rows, keys, width],
                vec![rows, keys, width],
            ],
        );
    }
}

#[test]
fn what_the_tape_keeps_is_not_computed_over() {
    let chain = |device: &Device| -> Result<Vec<Vec<f32>>> {
        let leaf = |shape: &[usize], seed| {
            Tensor::from_floats(&numbers(shape.iter().product(), seed), shape, device)?.to_leaf()
        };
        let (x, by) = (leaf(&[2, 5, 12], 1)?, leaf(&[2, 1, 12], 2)?);
        let (weight, bias) = (leaf(&[12, 12], 3)?, leaf(&[12], 4)?);
        let mut y = x.clone();
        for _ in 0..2 {
            y = y
                .modulate(&by, &by.affine(0.5, 0.0)?, 1e-6)?
                .affine(1.5, 0.1)?;
            y = y.linear(&weight, Some(&bias))?.affine(0.5, 0.1)?;
            y = Tensor::cat(&[&y, &y, &y], 2)?
                .self_attention(2)?
                .affine(2.0, 0.1)?;
            y = y.gelu_tanh()?.silu()?.affine(1.5, 0.1)?;
            y = y.gelu()?.affine(-1.5, 0.4)?.relu()?.affine(1.5, -0.2)?;
            y = y.gated_add(&y.affine(0.5, 0.0)?, &by)?.affine(0.9, 0.0)?;
            y = y
                .layer_norm(Some(&bias), Some(&bias), 1e-5)?
                .affine(1.1, 0.0)?;
            y = y
                .permute(&[0, 2, 1])?
                .group_norm(3, Some(&bias), Some(&bias), 1e-5)?;
            y = y.permute(&[0, 2, 1])?.softmax(-1)?.affine(9.0, -0.2)?;
        }
        let weights = Tensor::from_floats(&numbers(120, 99), &[2, 5, 12], device)?;
        let gradients = y.mul(&weights)?.sum(&[], false)?.backward()?;
        let leaves = [&x, &by, &weight, &bias];
        let mut all = vec![y.to_floats()?];
        for leaf in leaves {
            all.push(gradients.of(leaf).unwrap().to_floats()?);
        }
        Ok(all)
    };
    let found = chain(&device()).unwrap();
    let expected = chain(&Device::cpu()).unwrap();
    for (n, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let scale = expected
            .iter()
            .fold(0.0f32, |top, value| top.max(value.abs()));
        for (found, expected) in found.iter().zip(expected) {
            let error = (found - expected).abs();
            assert!(
                error <= 2e-4 * scale,
                "output or gradient {n}: {found}, expected {expected}"
            );
        }
    }
}

#[test]
fn sums_over_many_chunks_are_whole() {
    let shapes = [vec![3, 1000, 33], vec![17, 33], vec![17]];
    let composed = |x: &[Tensor]| {
        let flat = x[0].reshape(&[3000, 33])?.matmul(&x[1].permute(&[1, 0])?)?;
        flat.add(&x[2].unsqueeze(0)?)?.reshape(&[3, 1000, 17])
    };
    expect_equal(&|x| x[0].linear(&x[1], Some(&x[2])), &composed, &shapes);
}

#[test]
fn fused_operations_refuse_what_does_not_fit() {
    let device = device();
    let tensor = |shape: &[usize]| Tensor::full(shape, 1.0, &device).unwrap();
    let whole = Tensor::from_ints(&[1; 8], &[2, 1, 4], &device).unwrap();
    let (x, part) = (tensor(&[2, 3, 4]), tensor(&[2, 1, 4]));
    let refusals = [
        (
            x.modulate(&tensor(&[1, 1, 4]), &part, 1e-6),
            "shape-mismatch",
        ),
        (
            x.modulate(&part, &tensor(&[2, 3, 4]), 1e-6),
            "shape-mismatch",
        ),
        (x.modulate(&whole, &part, 1e-6), "kind-mismatch"),
        (x.gated_add(&tensor(&[2, 3, 5]), &part), "shape-mismatch"),
        (
            tensor(&[2, 4]).gated_add(&tensor(&[2, 4]), &part),
            "shape-mismatch",
        ),
        (tensor(&[2, 3, 12]).self_attention(3), "invalid-argument"),
        (tensor(&[2, 3, 12]).self_attention(0), "invalid-argument"),
        (tensor(&[2, 3, 13]).self_attention(1), "shape-mismatch"),
        (x.attention(&x, &x, 3), "invalid-argument"),
        (x.attention(&tensor(&[3, 3, 4]), &x, 2), "shape-mismatch"),
        (x.attention(&tensor(&[2, 3, 6]), &x, 2), "shape-mismatch"),
        (x.attention(&x, &part, 2), "shape-mismatch"),
        (x.attention(&whole, &whole, 2), "kind-mismatch"),
        (
            x.linear(&tensor(&[5, 3]), Some(&tensor(&[5]))),
            "shape-mismatch",
        ),
        (
            x.linear(&tensor(&[5, 4]), Some(&tensor(&[4]))),
            "shape-mismatch",
        ),
    ];
    for (n, (result, code)) in refusals.into_iter().enumerate() {
        assert_eq!(result.unwrap_err().code(), code, "refusal {n}");
    }
}

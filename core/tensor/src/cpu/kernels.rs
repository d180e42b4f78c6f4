//! The loops: slices in, slices out, no shapes, no tape.
//!
//! Each is compiled for several instruction sets and picks one at run time. Products and sums are
//! written apart (no fused multiply-add) and sums run in [`LANES`] fixed lanes, so a row has the
//! same bits on every machine, whatever the width of its registers.

use std::mem::MaybeUninit;

use multiversion::multiversion;

use crate::optimize::AdamStep;

/// Partial sums that a row keeps; the widest register holds 16 floats.
const LANES: usize = 16;

// x sigmoid(SLOPE x + CUBIC x^3) is 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
const SLOPE: f32 = 1.595_769;
const CUBIC: f32 = 0.071_354_82;

/// `e^x` to 2 units in the last place; 0 below the smallest normal number, infinite above the
/// largest, no number where `x` is none. Range reduction to `|r| ≤ ln 2 / 2` and a polynomial of
/// degree 6 (the scheme of Cephes' `expf`).
#[inline(always)]
fn exp(x: f32) -> f32 {
    const HIGH: f32 = 0.693_359_4;
    const LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 * 2^23 leaves the nearest whole number in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < -87.336_54 { -87.336_54 } else { x };
    let clamped = if clamped > 88.722_8 {
        88.722_8
    } else {
        clamped
    };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let r = clamped - whole * HIGH - whole * LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let value = p * (r * r) + r + 1.0;
    // 2^whole in two factors: 2^128 has no place in one.
    let bits = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = bits >> 1;
    let power = |exponent: i32| f32::from_bits((exponent.wrapping_add(127) << 23) as u32);
    let result = value * power(half) * power(bits - half);
    if x < -87.336_54 {
        0.0
    } else if x > 88.722_8 {
        f32::INFINITY
    } else {
        result
    }
}

/// `e^-x²/2`, and the share `Φ(x)` of a normal distribution below `x` to 1e-7 (Abramowitz and Stegun 7.1.26).
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let mut p = 1.061_405_4;
    p = p * t - 1.453_152_1;
    p = p * t + 1.421_413_8;
    p = p * t - 0.284_496_72;
    p = p * t + 0.254_829_6;
    let density = exp(-(z * z));
    // Half of the share beyond |x| on both sides.
    let tail = 0.5 * p * t * density;
    (density, if x < 0.0 { tail } else { 1.0 - tail })
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `Σ f(i)` over `0..n`, in fixed lanes.
#[inline(always)]
fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let [sum] = sums(n, |i| [f(i)]);
    sum
}

/// As many sums at once.
#[inline(always)]
#[expect(
    clippy::needless_range_loop,
    reason = "an index says which lane of which sum it is"
)]
fn sums<const N: usize>(n: usize, f: impl Fn(usize) -> [f32; N]) -> [f32; N] {
    let mut lanes = [[0.0f32; LANES]; N];
    let whole = n - n % LANES;
    let mut i = 0;
    while i < whole {
        for lane in 0..LANES {
            let terms = f(i + lane);
            for k in 0..N {
                lanes[k][lane] += terms[k];
            }
        }
        i += LANES;
    }
    let mut totals = [0.0; N];
    for i in whole..n {
        let terms = f(i);
        for k in 0..N {
            totals[k] += terms[k];
        }
    }
    for k in 0..N {
        let lanes = &mut lanes[k];
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                lanes[lane] += lanes[lane + width];
            }
            width /= 2;
        }
        totals[k] += lanes[0];
    }
    totals
}

/// Mean of a row and the reciprocal of its standard deviation.
#[inline(always)]
fn moments(x: &[f32], epsilon: f32) -> (f32, f32) {
    let n = x.len();
    let mean = sum(n, |i| x[i]) / n as f32;
    let variance = sum(n, |i| (x[i] - mean) * (x[i] - mean)) / n as f32;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

macro_rules! vectorised {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $kind:ty),* $(,)?) $(-> $output:ty)? $body:block)*) => {$(
        $(#[$doc])*
        #[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
        pub(super) fn $name($($argument: $kind),*) $(-> $output)? $body
    )*};
}

vectorised! {
    /// `out = gelu(x)`, tanh approximation.
    fn gelu_tanh(x: &[f32], out: &mut [MaybeUninit<f32>]) {
        for (out, &x) in out.iter_mut().zip(x) {
            out.write(x * sigmoid(x * (SLOPE + CUBIC * (x * x))));
        }
    }

    /// `g ← g gelu'(x)`.
    fn gelu_tanh_backward(x: &[f32], g: &mut [f32]) {
        for (g, &x) in g.iter_mut().zip(x) {
            let square = x * x;
            let s = sigmoid(x * (SLOPE + CUBIC * square));
            *g *= s + x * (s * (1.0 - s)) * (SLOPE + 3.0 * CUBIC * square);
        }
    }

    /// `out = x Φ(x)`.
    fn gelu(x: &[f32], out: &mut [MaybeUninit<f32>]) {
        for (out, &x) in out.iter_mut().zip(x) {
            out.write(x * normal(x).1);
        }
    }

    /// `g ← g (Φ(x) + x φ(x))`.
    fn gelu_backward(x: &[f32], g: &mut [f32]) {
        // 1 / √(2π).
        const UNIT: f32 = 0.398_942_3;
        for (g, &x) in g.iter_mut().zip(x) {
            let (density, share) = normal(x);
            *g *= share + x * (UNIT * density);
        }
    }

    /// `out = max(x, 0)`; what is no number stays none.
    fn relu(x: &[f32], out: &mut [MaybeUninit<f32>]) {
        for (out, &x) in out.iter_mut().zip(x) {
            out.write(if x < 0.0 { 0.0 } else { x });
        }
    }

    /// `g ← g relu'(x)`, 0 at 0.
    fn relu_backward(x: &[f32], g: &mut [f32]) {
        for (g, &x) in g.iter_mut().zip(x) {
            *g = if x <= 0.0 { 0.0 } else { *g };
        }
    }

    /// `out = x sigmoid(x)`.
    fn silu(x: &[f32], out: &mut [MaybeUninit<f32>]) {
        for (out, &x) in out.iter_mut().zip(x) {
            out.write(x * sigmoid(x));
        }
    }

    /// `g ← g silu'(x)`.
    fn silu_backward(x: &[f32], g: &mut [f32]) {
        for (g, &x) in g.iter_mut().zip(x) {
            let s = sigmoid(x);
            *g *= s + x * (s * (1.0 - s));
        }
    }

    /// Each row of `x`, in place: `e^(x - max)` over its sum.
    fn softmax(x: &mut [f32], width: usize) {
        for row in x.chunks_exact_mut(width) {
            let mut top = f32::NEG_INFINITY;
            for &value in row.iter() {
                top = if value > top { value } else { top };
            }
            for value in row.iter_mut() {
                *value = exp(*value - top);
            }
            let scale = 1.0 / sum(width, |i| row[i]);
            for value in row.iter_mut() {
                *value *= scale;
            }
        }
    }

    /// `g ← y (g - Σ g y)` for each row of a softmax's output `y`.
    fn softmax_backward(y: &[f32], g: &mut [f32], width: usize) {
        for (y, g) in y.chunks_exact(width).zip(g.chunks_exact_mut(width)) {
            let dot = sum(width, |i| y[i] * g[i]);
            for (g, &y) in g.iter_mut().zip(y) {
                *g = y * (*g - dot);
            }
        }
    }

    /// `out = norm(x) (1 + scale) + shift` for the rows of one image.
    fn modulate(
        x: &[f32], shift: &[f32], scale: &[f32], epsilon: f32, out: &mut [MaybeUninit<f32>],
    ) {
        let width = shift.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let (mean, rate) = moments(x, epsilon);
            for i in 0..width {
                out[i].write((x[i] - mean) * rate * (1.0 + scale[i]) + shift[i]);
            }
        }
    }

    /// `g` becomes the gradient of `x`; those of shift and scale are added up over the rows.
    fn modulate_backward(
        x: &[f32], scale: &[f32], epsilon: f32,
        g: &mut [f32], d_shift: &mut [f32], d_scale: &mut [f32],
    ) {
        let width = scale.len();
        let (d_shift, d_scale) = (&mut d_shift[..width], &mut d_scale[..width]);
        for (x, g) in x.chunks_exact(width).zip(g.chunks_exact_mut(width)) {
            let (mean, rate) = moments(x, epsilon);
            let n = width as f32;
            let [along, across] = sums(width, |i| {
                let g = g[i] * (1.0 + scale[i]);
                [g, g * ((x[i] - mean) * rate)]
            });
            let (along, across) = (along / n, across / n);
            for i in 0..width {
                let unit = (x[i] - mean) * rate;
                d_shift[i] += g[i];
                d_scale[i] += g[i] * unit;
                g[i] = rate * (g[i] * (1.0 + scale[i]) - along - unit * across);
            }
        }
    }

    /// `out = norm(x) weight + bias` for each row.
    fn layer_norm(
        x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, out: &mut [MaybeUninit<f32>],
    ) {
        let width = weight.len();
        let bias = &bias[..width];
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let (mean, rate) = moments(x, epsilon);
            for i in 0..width {
                out[i].write((x[i] - mean) * rate * weight[i] + bias[i]);
            }
        }
    }

    /// `g` becomes the gradient of `x`; those of weight and bias are added up over the rows.
    fn layer_norm_backward(
        x: &[f32], weight: &[f32], epsilon: f32,
        g: &mut [f32], d_weight: &mut [f32], d_bias: &mut [f32],
    ) {
        let width = weight.len();
        let (d_weight, d_bias) = (&mut d_weight[..width], &mut d_bias[..width]);
        for (x, g) in x.chunks_exact(width).zip(g.chunks_exact_mut(width)) {
            let (mean, rate) = moments(x, epsilon);
            let n = width as f32;
            let [along, across] = sums(width, |i| {
                let g = g[i] * weight[i];
                [g, g * ((x[i] - mean) * rate)]
            });
            let (along, across) = (along / n, across / n);
            for i in 0..width {
                let unit = (x[i] - mean) * rate;
                d_bias[i] += g[i];
                d_weight[i] += g[i] * unit;
                g[i] = rate * (g[i] * weight[i] - along - unit * across);
            }
        }
    }

    /// `out = x + gate y` for the rows of one image.
    fn gated_add(x: &[f32], y: &[f32], gate: &[f32], out: &mut [MaybeUninit<f32>]) {
        let width = gate.len();
        let rows = x.chunks_exact(width).zip(y.chunks_exact(width));
        for ((x, y), out) in rows.zip(out.chunks_exact_mut(width)) {
            for i in 0..width {
                out[i].write(x[i] + gate[i] * y[i]);
            }
        }
    }

    /// `d_y = g gate`, and the gradient of the gate added up over the rows of one image.
    fn gated_add_backward(
        g: &[f32], y: &[f32], gate: &[f32], d_y: &mut [MaybeUninit<f32>], d_gate: &mut [f32],
    ) {
        let width = gate.len();
        let d_gate = &mut d_gate[..width];
        let rows = g.chunks_exact(width).zip(y.chunks_exact(width));
        for ((g, y), d_y) in rows.zip(d_y.chunks_exact_mut(width)) {
            for i in 0..width {
                d_y[i].write(g[i] * gate[i]);
                d_gate[i] += g[i] * y[i];
            }
        }
    }

    /// Adds `value` to each element of `x`.
    fn add(x: &mut [f32], value: f32) {
        for x in x {
            *x += value;
        }
    }

    /// Multiplies each element of `x`.
    fn scale(x: &mut [f32], factor: f32) {
        for x in x {
            *x *= factor;
        }
    }

    /// Adds `row` to each row of `x`.
    fn add_row(x: &mut [f32], row: &[f32]) {
        for x in x.chunks_exact_mut(row.len()) {
            for (x, &value) in x.iter_mut().zip(row) {
                *x += value;
            }
        }
    }

    /// Adds the rows of `x` up into `total`.
    fn sum_rows(x: &[f32], total: &mut [f32]) {
        for x in x.chunks_exact(total.len()) {
            for (total, &value) in total.iter_mut().zip(x) {
                *total += value;
            }
        }
    }

    /// A step of Adam, all four of one length.
    fn adam(parameter: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32], step: AdamStep) {
        let [beta1, beta2] = step.betas.map(|beta| beta as f32);
        let [rest1, rest2] = step.betas.map(|beta| (1.0 - beta) as f32);
        let (keep, rate) = (step.keep as f32, step.rate as f32);
        let (spread, epsilon) = (step.spread as f32, step.epsilon as f32);
        let means = first.iter_mut().zip(second);
        for ((parameter, &gradient), (first, second)) in parameter.iter_mut().zip(gradient).zip(means) {
            *first = *first * beta1 + gradient * rest1;
            *second = *second * beta2 + gradient * gradient * rest2;
            *parameter = *parameter * keep - *first * rate / (second.sqrt() * spread + epsilon);
        }
    }

    /// Whether every element is a finite number: none has all bits of the exponent set.
    fn is_finite(x: &[f32]) -> bool {
        let largest = x.iter().fold(0, |largest: u32, x| largest.max(x.to_bits() & 0x7fff_ffff));
        largest < 0x7f80_0000
    }

    /// The sum of all elements.
    fn total(x: &[f32]) -> f32 {
        sum(x.len(), |i| x[i])
    }

    /// Mean and the reciprocal of the standard deviation of one group of channels.
    fn group_moments(x: &[f32], epsilon: f32) -> Moments {
        let (mean, rate) = moments(x, epsilon);
        Moments { mean, rate }
    }

    /// Normalises one group of channels, `weight.len()` of them, each of equal extent.
    fn group_norm(
        x: &[f32], weight: &[f32], bias: &[f32], moments: Moments, out: &mut [MaybeUninit<f32>],
    ) {
        each_channel(x, (weight, bias), moments, out, |out, normal| {
            out.write(normal);
        });
    }

    /// The same, then `x sigmoid(x)`.
    fn group_norm_silu(
        x: &[f32], weight: &[f32], bias: &[f32], moments: Moments, out: &mut [MaybeUninit<f32>],
    ) {
        each_channel(x, (weight, bias), moments, out, |out, normal| {
            out.write(normal * sigmoid(normal));
        });
    }

    /// `g` becomes the gradient of `x`; those of weight and bias are written.
    fn group_norm_backward(
        x: &[f32], weight: &[f32], moments: Moments,
        g: &mut [f32], d_weight: &mut [f32], d_bias: &mut [f32],
    ) {
        group_norm_gradient(x, weight, moments, g, d_weight, d_bias);
    }

    /// The same for the gradient of what `group_norm_silu` gave.
    fn group_norm_silu_backward(
        x: &[f32], weight: &[f32], bias: &[f32], moments: Moments,
        g: &mut [f32], d_weight: &mut [f32], d_bias: &mut [f32],
    ) {
        each_channel(x, (weight, bias), moments, g, |g, normal| {
            let s = sigmoid(normal);
            *g *= s + normal * (s * (1.0 - s));
        });
        group_norm_gradient(x, weight, moments, g, d_weight, d_bias);
    }
}

/// Of a group of channels.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moments {
    mean: f32,
    /// The reciprocal of the standard deviation.
    rate: f32,
}

/// Gives `work` each element of `out` with the normalised, scaled and shifted one of `x`.
#[inline(always)]
fn each_channel<T>(
    x: &[f32],
    (weight, bias): (&[f32], &[f32]),
    Moments { mean, rate }: Moments,
    out: &mut [T],
    work: impl Fn(&mut T, f32),
) {
    let extent = x.len() / weight.len();
    let channels = x.chunks_exact(extent).zip(out.chunks_exact_mut(extent));
    for ((x, out), (&weight, &bias)) in channels.zip(weight.iter().zip(bias)) {
        let (scale, shift) = (rate * weight, bias - mean * rate * weight);
        for (out, &x) in out.iter_mut().zip(x) {
            work(out, x * scale + shift);
        }
    }
}

#[inline(always)]
fn group_norm_gradient(
    x: &[f32],
    weight: &[f32],
    Moments { mean, rate }: Moments,
    g: &mut [f32],
    d_weight: &mut [f32],
    d_bias: &mut [f32],
) {
    let extent = x.len() / weight.len();
    let (mut along, mut across) = (0.0, 0.0);
    let channels = x.chunks_exact(extent).zip(g.chunks_exact(extent));
    for (channel, (x, g)) in channels.enumerate() {
        let [total, unit] = sums(extent, |i| [g[i], g[i] * ((x[i] - mean) * rate)]);
        d_bias[channel] = total;
        d_weight[channel] = unit;
        along += total * weight[channel];
        across += unit * weight[channel];
    }
    let n = x.len() as f32;
    let (along, across) = (along / n, across / n);
    let channels = x.chunks_exact(extent).zip(g.chunks_exact_mut(extent));
    for ((x, g), &weight) in channels.zip(weight) {
        for (g, &x) in g.iter_mut().zip(x) {
            let unit = (x - mean) * rate;
            *g = rate * (*g * weight - along - unit * across);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut x = -87.3f32;
        while x < 88.7 {
            let exact = f64::from(x).exp();
            let unit = f64::from((exact as f32).next_up()) - f64::from(exact as f32);
            let error = (f64::from(exp(x)) - exact).abs() / unit;
            assert!(error <= 2.0, "exp({x}) is {error} units off");
            x += 0.003_7;
        }
    }

    #[test]
    fn the_normal_distribution_is_exact_to_single_precision() {
        // Φ at some places, from tables of 10 digits.
        for (x, share) in [
            (0.0f32, 0.5f64),
            (0.5, 0.691_462_461_3),
            (1.0, 0.841_344_746_1),
            (2.0, 0.977_249_868_1),
            (3.5, 0.999_767_370_9),
        ] {
            for (x, share) in [(x, share), (-x, 1.0 - share)] {
                let (density, found) = normal(x);
                assert!((f64::from(found) - share).abs() < 2e-7, "{x}: {found}");
                let expected = (-0.5 * f64::from(x).powi(2)).exp();
                assert!(
                    (f64::from(density) - expected).abs() < 2e-7,
                    "{x}: {density}"
                );
            }
        }
    }

    #[test]
    fn exp_has_limits_and_keeps_what_is_no_number() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(200.0), f32::INFINITY);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn a_sum_takes_every_element_once() {
        for n in [0, 1, 15, 16, 17, 100] {
            let expected = (0..n).sum::<usize>() as f32;
            assert_eq!(sum(n, |i| i as f32), expected);
        }
    }
}

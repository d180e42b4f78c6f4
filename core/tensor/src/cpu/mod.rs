//! Fused operations of the embedded CPU backend.
//!
//! Burn's Flex backend computes most elementwise operations on one thread, one pass each, with a
//! scalar `exp`. The handful below are where a denoiser spends that time; each is one pass over its
//! data on all cores, with its own backward step, and gives what the composed operations give up to
//! rounding (held to that by the tests at the end). Other devices never come here: the callers in
//! [`ops`](crate::ops) compose primitives there.

mod attention;
mod convolution;
mod depthwise;
mod kernels;
mod planes;
mod tape;

use burn::backend::flex::FlexTensor;
use burn::backend::ops::{ConvOptions, FloatTensorOps, ModuleOps};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};
use burn::tensor::TensorData;
use rayon::prelude::*;

use crate::optimize::AdamStep;
use attention::Heads;
use convolution::Convolution;
use depthwise::Depthwise;
use planes::Planes;

/// Attention over more tokens than this is left to the general matrix product.
pub(crate) const MAX_TOKENS: usize = 128;

/// Elements that pay for handing work to another thread. Fixed, so that sums over chunks have the
/// same bits for any number of threads.
const GRAIN: usize = 1 << 14;

/// The operations, for floats of 32 bits. Shapes are the caller's to check.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait CpuOps: Backend {
    /// `gelu(x)`, tanh approximation.
    fn cpu_gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `gelu(x)`, exact.
    fn cpu_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `max(x, 0)`.
    fn cpu_relu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `x sigmoid(x)`.
    fn cpu_silu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Softmax over the last axis.
    fn cpu_softmax(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `x Wᵀ + b` for `x` of `[…, in]`, `W` of `[out, in]`, `b` of `[out]`.
    fn cpu_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
    /// `norm(x) (1 + scale) + shift` for `x` of `[B, T, D]`, shift and scale of `[B, 1, D]`.
    fn cpu_modulate(
        x: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self>;
    /// `x + gate y` for `x`, `y` of `[B, T, D]`, gate of `[B, 1, D]`.
    fn cpu_gated_add(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        gate: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
    /// Group normalisation of `[B, C, …]`, weight and bias of `[C]`.
    fn cpu_group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: usize,
        epsilon: f32,
    ) -> FloatTensor<Self>;
    /// Layer normalisation over the last axis, weight and bias of its extent.
    fn cpu_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self>;
    /// Self-attention: `[B, T, 3 D]` to `[B, T, D]`.
    fn cpu_attention(qkv: FloatTensor<Self>, heads: usize) -> FloatTensor<Self>;
    /// Convolution of `[B, C, H, W]` with `[O, C, h, w]`.
    fn cpu_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        stride: [usize; 2],
        padding: [usize; 2],
    ) -> FloatTensor<Self>;
    /// Convolution of `[B, C, H, W]` with one window for each channel, `[C, 1, h, w]`.
    fn cpu_depthwise(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        stride: [usize; 2],
        padding: [usize; 2],
    ) -> FloatTensor<Self>;
    /// `x + b` for `x` of `[B, C, …]`, `b` of `[C]`.
    fn cpu_add_channels(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;
    /// A step of Adam: the parameter and both running means, moved. Leaves the tape.
    fn cpu_adam(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        step: AdamStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    /// `[1]`: 1 if every element is a finite number, 0 if not. Leaves the tape.
    fn cpu_is_finite(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl CpuOps for Flex {
    fn cpu_gelu_tanh(x: FlexTensor) -> FlexTensor {
        map(&x, kernels::gelu_tanh)
    }

    fn cpu_gelu(x: FlexTensor) -> FlexTensor {
        map(&x, kernels::gelu)
    }

    fn cpu_relu(x: FlexTensor) -> FlexTensor {
        map(&x, kernels::relu)
    }

    fn cpu_silu(x: FlexTensor) -> FlexTensor {
        map(&x, kernels::silu)
    }

    fn cpu_softmax(x: FlexTensor) -> FlexTensor {
        let width = last(&x);
        let mut y = owned(x);
        each_row(values_mut(&mut y), width, |_, rows| {
            kernels::softmax(rows, width)
        });
        y
    }

    fn cpu_linear(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let mut shape = extents(&x);
        let outputs = weight.shape()[0];
        let flat = flatten(x);
        let mut y = Flex::float_matmul(flat, weight.transpose(0, 1));
        let bias = bias.to_contiguous();
        let row = values(&bias);
        each_row(values_mut(&mut y), outputs, |_, rows| {
            kernels::add_row(rows, row)
        });
        *shape.last_mut().expect("rank 1 or more") = outputs;
        y.reshape(shape.into())
    }

    fn cpu_modulate(
        x: FlexTensor,
        shift: FlexTensor,
        scale: FlexTensor,
        epsilon: f32,
    ) -> FlexTensor {
        let (x, shift, scale) = (
            x.to_contiguous(),
            shift.to_contiguous(),
            scale.to_contiguous(),
        );
        let ([_, tokens, width], shape) = (three(&x), extents(&x));
        let image = tokens * width;
        let mut out = vec![0.0; x.layout().num_elements()];
        let (from, shift, scale) = (values(&x), values(&shift), values(&scale));
        each_row(&mut out, image, |first, images| {
            for (n, out) in images.chunks_exact_mut(image).enumerate() {
                let n = first + n;
                let part = n * width..(n + 1) * width;
                kernels::modulate(
                    &from[n * image..][..image],
                    &shift[part.clone()],
                    &scale[part],
                    epsilon,
                    out,
                );
            }
        });
        tensor(out, shape)
    }

    fn cpu_gated_add(x: FlexTensor, y: FlexTensor, gate: FlexTensor) -> FlexTensor {
        let (x, y, gate) = (x.to_contiguous(), y.to_contiguous(), gate.to_contiguous());
        let ([_, tokens, width], shape) = (three(&x), extents(&x));
        let image = tokens * width;
        let mut out = vec![0.0; x.layout().num_elements()];
        let (x, y, gate) = (values(&x), values(&y), values(&gate));
        each_row(&mut out, image, |first, images| {
            for (n, out) in images.chunks_exact_mut(image).enumerate() {
                let at = (first + n) * image;
                let gate = &gate[(first + n) * width..][..width];
                kernels::gated_add(&x[at..][..image], &y[at..][..image], gate, out);
            }
        });
        tensor(out, shape)
    }

    fn cpu_group_norm(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        groups: usize,
        epsilon: f32,
    ) -> FlexTensor {
        let (x, weight, bias) = (
            x.to_contiguous(),
            weight.to_contiguous(),
            bias.to_contiguous(),
        );
        let shape = extents(&x);
        let extent = x.layout().num_elements() / (shape[0] * groups);
        let channels = shape[1] / groups;
        let mut out = vec![0.0; x.layout().num_elements()];
        let (from, weight, bias) = (values(&x), values(&weight), values(&bias));
        each_row(&mut out, extent, |first, rows| {
            for (n, out) in rows.chunks_exact_mut(extent).enumerate() {
                let n = first + n;
                let part = n % groups * channels..(n % groups + 1) * channels;
                kernels::group_norm(
                    &from[n * extent..][..extent],
                    &weight[part.clone()],
                    &bias[part],
                    epsilon,
                    out,
                );
            }
        });
        tensor(out, shape)
    }

    fn cpu_layer_norm(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        epsilon: f32,
    ) -> FlexTensor {
        let (x, weight, bias) = (
            x.to_contiguous(),
            weight.to_contiguous(),
            bias.to_contiguous(),
        );
        let (shape, width) = (extents(&x), last(&x));
        let mut out = vec![0.0; x.layout().num_elements()];
        let (from, weight, bias) = (values(&x), values(&weight), values(&bias));
        each_row(&mut out, width, |first, rows| {
            let from = &from[first * width..][..rows.len()];
            kernels::layer_norm(from, weight, bias, epsilon, rows);
        });
        tensor(out, shape)
    }

    fn cpu_attention(qkv: FlexTensor, heads: usize) -> FlexTensor {
        let qkv = qkv.to_contiguous();
        let [batch, tokens, width] = three(&qkv);
        let sizes = Heads {
            tokens,
            heads,
            extent: width / 3 / heads,
        };
        let mut out = vec![0.0; batch * tokens * width / 3];
        let from = values(&qkv);
        let image = tokens * width / 3;
        each_row(&mut out, image, |first, images| {
            let mut scratch = sizes.scratch();
            for (n, out) in images.chunks_exact_mut(image).enumerate() {
                sizes.forward(
                    &from[(first + n) * 3 * image..][..3 * image],
                    out,
                    &mut scratch,
                );
            }
        });
        tensor(out, vec![batch, tokens, width / 3])
    }

    fn cpu_conv2d(
        x: FlexTensor,
        weight: FlexTensor,
        stride: [usize; 2],
        padding: [usize; 2],
    ) -> FlexTensor {
        let sizes = Convolution::new(&x, &weight, stride, padding);
        // A window of one pixel is a plain matrix product.
        let planes = Planes::new(sizes).filter(|_| sizes.kernel != [1, 1]);
        if let Some(planes) = planes {
            let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
            let shape = vec![
                x.shape()[0],
                sizes.outputs,
                sizes.output[0],
                sizes.output[1],
            ];
            return tensor(planes.forward(values(&x), values(&weight)), shape);
        }
        Flex::conv2d(
            x,
            weight,
            None,
            ConvOptions::new(stride, padding, [1, 1], 1),
        )
    }

    fn cpu_depthwise(
        x: FlexTensor,
        weight: FlexTensor,
        stride: [usize; 2],
        padding: [usize; 2],
    ) -> FlexTensor {
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let sizes = depthwise(&extents(&x), &extents(&weight), stride, padding);
        let [height, width] = sizes.output();
        let shape = vec![x.shape()[0], sizes.channels, height, width];
        tensor(sizes.forward(values(&x), values(&weight)), shape)
    }

    fn cpu_add_channels(x: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let bias = bias.to_contiguous();
        let row = values(&bias);
        let extent = x.shape()[2..].iter().product::<usize>();
        let mut y = owned(x);
        each_row(values_mut(&mut y), extent, |first, rows| {
            for (n, row_of_channel) in rows.chunks_exact_mut(extent).enumerate() {
                let value = row[(first + n) % row.len()];
                row_of_channel.iter_mut().for_each(|x| *x += value);
            }
        });
        y
    }

    fn cpu_adam(
        parameter: FlexTensor,
        gradient: FlexTensor,
        first: FlexTensor,
        second: FlexTensor,
        step: AdamStep,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let gradient = gradient.to_contiguous();
        let mut moved = [parameter, first, second].map(owned);
        let [parameter, first, second] = &mut moved;
        let means = values_mut(first)
            .par_chunks_mut(GRAIN)
            .zip(values_mut(second).par_chunks_mut(GRAIN));
        values_mut(parameter)
            .par_chunks_mut(GRAIN)
            .zip(values(&gradient).par_chunks(GRAIN))
            .zip(means)
            .for_each(|((parameter, gradient), (first, second))| {
                kernels::adam(parameter, gradient, first, second, step);
            });
        let [parameter, first, second] = moved;
        (parameter, first, second)
    }

    fn cpu_is_finite(x: FlexTensor) -> FlexTensor {
        let x = x.to_contiguous();
        let finite = values(&x).par_chunks(GRAIN).all(kernels::is_finite);
        tensor(vec![f32::from(u8::from(finite))], vec![1])
    }
}

/// Of `[B, C, H, W]` with `[C, 1, h, w]`.
fn depthwise(x: &[usize], weight: &[usize], stride: [usize; 2], padding: [usize; 2]) -> Depthwise {
    Depthwise {
        channels: x[1],
        input: [x[2], x[3]],
        kernel: [weight[2], weight[3]],
        stride,
        padding,
    }
}

/// `out = kernel(x)`, element by element.
fn map(x: &FlexTensor, kernel: fn(&[f32], &mut [f32])) -> FlexTensor {
    let x = x.to_contiguous();
    let mut out = vec![0.0; x.layout().num_elements()];
    let from = values(&x);
    out.par_chunks_mut(GRAIN)
        .zip(from.par_chunks(GRAIN))
        .for_each(|(out, x)| kernel(x, out));
    tensor(out, extents(&x))
}

/// `g ← kernel(x, g)`, element by element.
fn map_gradient(x: &FlexTensor, g: FlexTensor, kernel: fn(&[f32], &mut [f32])) -> FlexTensor {
    let x = x.to_contiguous();
    let mut g = owned(g);
    let from = values(&x);
    values_mut(&mut g)
        .par_chunks_mut(GRAIN)
        .zip(from.par_chunks(GRAIN))
        .for_each(|(g, x)| kernel(x, g));
    g
}

/// Hands whole rows of `data` to the threads, with the number of the first one.
fn each_row(data: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = (GRAIN / width.max(1)).max(1);
    data.par_chunks_mut(rows * width)
        .enumerate()
        .for_each(|(chunk, part)| work(chunk * rows, part));
}

fn values(x: &FlexTensor) -> &[f32] {
    let (from, to) = x.layout().contiguous_offsets().expect("made contiguous");
    &x.storage::<f32>()[from..to]
}

fn values_mut(x: &mut FlexTensor) -> &mut [f32] {
    let (from, to) = x.layout().contiguous_offsets().expect("made contiguous");
    &mut x.storage_mut::<f32>()[from..to]
}

/// The same elements in storage that nobody else reads, in place where there is no other reader.
fn owned(x: FlexTensor) -> FlexTensor {
    let x = x.to_contiguous();
    if x.is_unique() && x.layout().start_offset() == 0 {
        return x;
    }
    tensor(values(&x).to_vec(), extents(&x))
}

fn tensor(values: Vec<f32>, shape: Vec<usize>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

fn extents(x: &FlexTensor) -> Vec<usize> {
    x.layout().shape().to_vec()
}

fn last(x: &FlexTensor) -> usize {
    *extents(x).last().expect("rank 1 or more")
}

fn three(x: &FlexTensor) -> [usize; 3] {
    extents(x).try_into().expect("rank 3")
}

/// `[…, n]` as `[rows, n]`.
fn flatten(x: FlexTensor) -> FlexTensor {
    let width = last(&x);
    let rows = x.layout().num_elements() / width;
    x.to_contiguous().reshape(vec![rows, width].into())
}

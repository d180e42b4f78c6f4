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
mod few;
mod kernels;
mod nearest;
mod planes;
mod product;
mod tape;

use std::mem::MaybeUninit;

use burn::backend::flex::FlexTensor;
use burn::backend::ops::{ConvOptions, ModuleOps};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};
use burn::tensor::TensorData;
use rayon::prelude::*;

use crate::optimize::AdamStep;
use crate::outside::{Link, Slot};
use attention::{Attention, Shared, Three, Tokens};
use convolution::Convolution;
use depthwise::Depthwise;
use few::Few;
use kernels::Moments;
use nearest::Nearest;
use planes::Planes;
use product::{Strides, product};

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
    /// Group normalisation of `[B, C, …]`, weight and bias of `[C]`, and then `x sigmoid(x)` if `silu`.
    fn cpu_group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: usize,
        epsilon: f32,
        silu: bool,
    ) -> FloatTensor<Self>;
    /// Layer normalisation over the last axis, weight and bias of its extent.
    fn cpu_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self>;
    /// What queries `[B, T, D]` see of values by keys, `[B or 1, L, D]`: `[B, T, D]`.
    fn cpu_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self>;
    /// Self-attention: `[B, T, 3 D]` to `[B, T, D]`.
    fn cpu_self_attention(qkv: FloatTensor<Self>, heads: usize) -> FloatTensor<Self>;
    /// Convolution of `[B, C, H, W]` with `[O, C, h, w]`.
    fn cpu_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        stride: [usize; 2],
        padding: [usize; 2],
    ) -> FloatTensor<Self>;
    /// The same, and a bias of `[O]`.
    fn cpu_biased_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
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
    /// Both side by side along an axis in which alone they differ.
    fn cpu_cat(a: FloatTensor<Self>, b: FloatTensor<Self>, axis: usize) -> FloatTensor<Self>;
    /// `[B, C, H, W]` resized to a height and width: of each pixel the nearest.
    fn cpu_nearest(x: FloatTensor<Self>, extents: [usize; 2]) -> FloatTensor<Self>;
    /// `x + b` for `x` of `[B, C, …]`, `b` of `[C]`.
    fn cpu_add_channels(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `x`, to whose gradient with respect to `leaf` that `gradient` is added.
    fn cpu_with_gradient(
        x: FloatTensor<Self>,
        leaf: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
    /// `y`, which another library computed; `link` knows the gradient of `x`.
    fn cpu_outside(y: FloatTensor<Self>, x: FloatTensor<Self>, link: Link) -> FloatTensor<Self>;
    /// The same, row by row and for `slot` to show. Leaves the tape.
    fn cpu_show(x: FloatTensor<Self>, slot: Slot) -> FloatTensor<Self>;
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
        let (x, weight, bias) = (
            x.to_contiguous(),
            weight.to_contiguous(),
            bias.to_contiguous(),
        );
        let [outputs, inputs] = [0, 1].map(|axis| weight.shape()[axis]);
        let rows = x.layout().num_elements() / inputs;
        let (from, by) = (
            (values(&x), Strides::rows(inputs)),
            (values(&weight), Strides::columns(inputs)),
        );
        let mut y = product(from, by, [rows, inputs, outputs]);
        let row = values(&bias);
        each_row(&mut y, outputs, |_, rows| kernels::add_row(rows, row));
        *shape.last_mut().expect("rank 1 or more") = outputs;
        tensor(y, shape)
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
        let (from, shift, scale) = (values(&x), values(&shift), values(&scale));
        let write = |first: usize, images: &mut [MaybeUninit<f32>]| {
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
        };
        // SAFETY: the kernel writes every element of each image.
        let out = unsafe { written(from.len(), |out| each_row(out, image, write)) };
        tensor(out, shape)
    }

    fn cpu_gated_add(x: FlexTensor, y: FlexTensor, gate: FlexTensor) -> FlexTensor {
        let (x, y, gate) = (x.to_contiguous(), y.to_contiguous(), gate.to_contiguous());
        let ([_, tokens, width], shape) = (three(&x), extents(&x));
        let image = tokens * width;
        let (x, y, gate) = (values(&x), values(&y), values(&gate));
        let write = |first: usize, images: &mut [MaybeUninit<f32>]| {
            for (n, out) in images.chunks_exact_mut(image).enumerate() {
                let at = (first + n) * image;
                let gate = &gate[(first + n) * width..][..width];
                kernels::gated_add(&x[at..][..image], &y[at..][..image], gate, out);
            }
        };
        // SAFETY: the kernel writes every element of each image.
        let out = unsafe { written(x.len(), |out| each_row(out, image, write)) };
        tensor(out, shape)
    }

    fn cpu_group_norm(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        groups: usize,
        epsilon: f32,
        silu: bool,
    ) -> FlexTensor {
        let (x, weight, bias) = (
            x.to_contiguous(),
            weight.to_contiguous(),
            bias.to_contiguous(),
        );
        group_norm(&x, &weight, &bias, groups, epsilon, silu).0
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
        let (from, weight, bias) = (values(&x), values(&weight), values(&bias));
        let write = |first: usize, rows: &mut [MaybeUninit<f32>]| {
            let from = &from[first * width..][..rows.len()];
            kernels::layer_norm(from, weight, bias, epsilon, rows);
        };
        // SAFETY: the kernel writes every element of each row.
        let out = unsafe { written(from.len(), |out| each_row(out, width, write)) };
        tensor(out, shape)
    }

    fn cpu_attention(
        query: FlexTensor,
        key: FlexTensor,
        value: FlexTensor,
        heads: usize,
    ) -> FlexTensor {
        let shape = extents(&query);
        let [query, key, value] = [query, key, value].map(|x| x.to_contiguous());
        let sizes = attention(&query, &key, heads);
        let from = [&query, &key, &value].map(tokens);
        tensor(sizes.forward(from), shape)
    }

    fn cpu_self_attention(qkv: FlexTensor, heads: usize) -> FlexTensor {
        let qkv = qkv.to_contiguous();
        let [batch, tokens, width] = three(&qkv);
        let out = match few(&qkv, heads) {
            Ok(few) => few.forward(values(&qkv)),
            Err(sizes) => sizes.forward(packed(&qkv)),
        };
        tensor(out, vec![batch, tokens, width / 3])
    }

    fn cpu_conv2d(
        x: FlexTensor,
        weight: FlexTensor,
        stride: [usize; 2],
        padding: [usize; 2],
    ) -> FlexTensor {
        convolution(x, weight, None, stride, padding)
    }

    fn cpu_biased_conv2d(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        stride: [usize; 2],
        padding: [usize; 2],
    ) -> FlexTensor {
        convolution(x, weight, Some(bias), stride, padding)
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

    fn cpu_cat(a: FlexTensor, b: FlexTensor, axis: usize) -> FlexTensor {
        let (a, b) = (a.to_contiguous(), b.to_contiguous());
        let mut shape = extents(&a);
        let [left, right] = [&a, &b].map(|part| part.shape()[axis..].iter().product::<usize>());
        shape[axis] += b.shape()[axis];
        let (a, b) = (values(&a), values(&b));
        let write = |out: &mut [MaybeUninit<f32>]| {
            out.par_chunks_exact_mut(left + right)
                .zip(a.par_chunks_exact(left).zip(b.par_chunks_exact(right)))
                .for_each(|(out, (a, b))| {
                    out[..left].write_copy_of_slice(a);
                    out[left..].write_copy_of_slice(b);
                });
        };
        // SAFETY: each row consists of one of either part.
        tensor(unsafe { written(a.len() + b.len(), write) }, shape)
    }

    fn cpu_nearest(x: FlexTensor, output: [usize; 2]) -> FlexTensor {
        let x = x.to_contiguous();
        let mut shape = extents(&x);
        let input = [shape[2], shape[3]];
        shape[2..].copy_from_slice(&output);
        tensor(Nearest { input, output }.forward(values(&x)), shape)
    }

    fn cpu_add_channels(x: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let bias = bias.to_contiguous();
        let row = values(&bias);
        let extent = x.shape()[2..].iter().product::<usize>();
        let mut y = owned(x);
        each_row(values_mut(&mut y), extent, |first, rows| {
            for (n, channel) in rows.chunks_exact_mut(extent).enumerate() {
                kernels::add(channel, row[(first + n) % row.len()]);
            }
        });
        y
    }

    fn cpu_outside(y: FlexTensor, _: FlexTensor, _: Link) -> FlexTensor {
        y
    }

    fn cpu_show(x: FlexTensor, slot: Slot) -> FlexTensor {
        let x = x.to_contiguous();
        slot.put(Shown(x.clone()));
        x
    }

    fn cpu_with_gradient(x: FlexTensor, _: FlexTensor, _: FlexTensor) -> FlexTensor {
        x
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

/// As [`CpuOps::cpu_group_norm`] of what is contiguous, with the moments of each group.
fn group_norm(
    x: &FlexTensor,
    weight: &FlexTensor,
    bias: &FlexTensor,
    groups: usize,
    epsilon: f32,
    silu: bool,
) -> (FlexTensor, Vec<Moments>) {
    let shape = extents(x);
    let extent = x.layout().num_elements() / (shape[0] * groups);
    let channels = shape[1] / groups;
    let mut moments = vec![Moments::default(); shape[0] * groups];
    let (from, weight, bias) = (values(x), values(weight), values(bias));
    /// Takes values, weight, bias and moments.
    type Kernel = fn(&[f32], &[f32], &[f32], Moments, &mut [MaybeUninit<f32>]);
    let kernel: Kernel = match silu {
        true => kernels::group_norm_silu,
        false => kernels::group_norm,
    };
    let write = |out: &mut [MaybeUninit<f32>]| {
        out.par_chunks_exact_mut(extent)
            .zip(from.par_chunks_exact(extent))
            .zip(&mut moments)
            .enumerate()
            .for_each(|(n, ((out, x), moments))| {
                *moments = kernels::group_moments(x, epsilon);
                let part = n % groups * channels..(n % groups + 1) * channels;
                kernel(x, &weight[part.clone()], &bias[part], *moments, out);
            });
    };
    // SAFETY: the extent of a group divides the elements, and the kernel writes all of each group.
    let out = unsafe { written(from.len(), write) };
    (tensor(out, shape), moments)
}

/// Of queries `[B, T, D]` and keys `[B or 1, L, D]`.
fn attention(query: &FlexTensor, key: &FlexTensor, heads: usize) -> Attention {
    let ([images, queries, width], [seen, keys, _]) = (three(query), three(key));
    Attention {
        images,
        queries,
        keys,
        shared: seen < images,
        heads,
        extent: width / heads,
    }
}

/// Of `[B, T, 3 D]`, for few tokens or for any number of them.
fn few(qkv: &FlexTensor, heads: usize) -> Result<Few, Attention> {
    let [images, tokens, width] = three(qkv);
    let extent = width / 3 / heads;
    match tokens <= Few::MOST {
        true => Ok(Few {
            tokens,
            heads,
            extent,
        }),
        false => Err(Attention {
            images,
            queries: tokens,
            keys: tokens,
            shared: false,
            heads,
            extent,
        }),
    }
}

/// Of `[B or 1, T, D]`.
fn tokens(x: &FlexTensor) -> Tokens<&[f32]> {
    let [images, tokens, width] = three(x);
    Tokens {
        first: values(x),
        image: if images > 1 { tokens * width } else { 0 },
        token: width,
    }
}

/// Queries, keys and values of `[B, T, 3 D]`.
fn packed(qkv: &FlexTensor) -> Three<&[f32]> {
    let [_, tokens, width] = three(qkv);
    [0, 1, 2].map(|part| Tokens {
        first: &values(qkv)[part * width / 3..],
        image: tokens * width,
        token: width,
    })
}

fn convolution(
    x: FlexTensor,
    weight: FlexTensor,
    bias: Option<FlexTensor>,
    stride: [usize; 2],
    padding: [usize; 2],
) -> FlexTensor {
    let sizes = Convolution::new(&extents(&x), &extents(&weight), stride, padding);
    let planes = Planes::new(sizes).filter(|_| !sizes.is_product());
    let Some(planes) = planes else {
        let options = ConvOptions::new(stride, padding, [1, 1], 1);
        let y = Flex::conv2d(x, weight, None, options);
        return match bias {
            Some(bias) => Flex::cpu_add_channels(y, bias),
            None => y,
        };
    };
    let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
    let bias = bias.map(|bias| bias.to_contiguous());
    let [height, width] = sizes.output;
    let shape = vec![x.shape()[0], sizes.outputs, height, width];
    let bias = bias.as_ref().map(values);
    tensor(planes.forward(values(&x), values(&weight), bias), shape)
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
fn map(x: &FlexTensor, kernel: fn(&[f32], &mut [MaybeUninit<f32>])) -> FlexTensor {
    let x = x.to_contiguous();
    let from = values(&x);
    let write = |out: &mut [MaybeUninit<f32>]| {
        out.par_chunks_mut(GRAIN)
            .zip(from.par_chunks(GRAIN))
            .for_each(|(out, x)| kernel(x, out));
    };
    // SAFETY: the kernel writes as many elements as it reads.
    let out = unsafe { written(from.len(), write) };
    tensor(out, extents(&x))
}

/// So many elements, without zeros first.
///
/// # Safety
/// `write` writes all of them.
unsafe fn written(elements: usize, write: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut out = Vec::with_capacity(elements);
    write(&mut out.spare_capacity_mut()[..elements]);
    // SAFETY: there is room for so many, and the caller vouches for each.
    unsafe { out.set_len(elements) };
    out
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
fn each_row<T: Send>(data: &mut [T], width: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    let rows = (GRAIN / width.max(1)).max(1);
    data.par_chunks_mut(rows * width)
        .enumerate()
        .for_each(|(chunk, part)| work(chunk * rows, part));
}

/// A tensor, row by row, whose storage has this owner more.
pub(crate) struct Shown(FlexTensor);

impl Shown {
    /// Its elements.
    pub fn values(&self) -> &[f32] {
        values(&self.0)
    }
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
    match x.layout().contiguous_offsets() {
        Some(_) if x.is_unique() => x,
        Some(_) => tensor(values(&x).to_vec(), extents(&x)),
        None => x.to_contiguous(),
    }
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

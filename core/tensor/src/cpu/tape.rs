//! The backward steps of the fused operations.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};

use burn::backend::AutodiffBackend;

use super::*;

/// The inputs that a backward step reads, kept as they were.
type Kept<const N: usize> = [FlexTensor; N];

/// Records `Step` over `inputs`: `state` is asked for only if one of them is tracked.
macro_rules! record {
    ($step:expr, [$($input:ident),+], $state:expr, $forward:expr) => {{
        match $step.prepare::<C>([$($input.node()),+]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let state = $state;
                prep.finish(state, $forward)
            }
            OpsKind::UnTracked(prep) => prep.finish($forward),
        }
    }};
}

/// A step for an elementwise function of one input, which it keeps.
macro_rules! elementwise {
    ($step:ident, $kernel:path) => {
        #[derive(Debug)]
        struct $step;

        impl Backward<Flex, 1> for $step {
            type State = Kept<1>;

            fn backward(self, ops: Ops<Kept<1>, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let g = grads.consume::<Flex>(&ops.node);
                let ([x], [parent]) = (ops.state, ops.parents);
                if let Some(parent) = parent {
                    grads.register::<Flex>(parent.id, map_gradient(&x, g, $kernel));
                }
            }
        }
    };
}

elementwise!(GeluTanh, kernels::gelu_tanh_backward);
elementwise!(Gelu, kernels::gelu_backward);
elementwise!(Relu, kernels::relu_backward);
elementwise!(Silu, kernels::silu_backward);

#[derive(Debug)]
struct Softmax;

impl Backward<Flex, 1> for Softmax {
    /// The output.
    type State = Kept<1>;

    fn backward(self, ops: Ops<Kept<1>, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let mut g = owned(grads.consume::<Flex>(&ops.node));
        let ([y], [parent]) = (ops.state, ops.parents);
        let width = last(&y);
        let y = values(&y);
        each_row(values_mut(&mut g), width, |first, rows| {
            kernels::softmax_backward(&y[first * width..][..rows.len()], rows, width);
        });
        if let Some(parent) = parent {
            grads.register::<Flex>(parent.id, g);
        }
    }
}

#[derive(Debug)]
struct Linear;

impl Backward<Flex, 3> for Linear {
    /// The input's extents, the input if the weight is tracked, the weight if the input is.
    type State = (Vec<usize>, Option<FlexTensor>, Option<FlexTensor>);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = flatten(grads.consume::<Flex>(&ops.node));
        let ((shape, x, weight), [to_x, to_weight, to_bias]) = (ops.state, ops.parents);
        if let Some(parent) = to_bias {
            grads.register::<Flex>(parent.id, column_sums(&g));
        }
        let (rows, outputs) = (g.shape()[0], g.shape()[1]);
        let inputs = *shape.last().expect("rank 1 or more");
        let g = values(&g);
        if let (Some(parent), Some(x)) = (to_weight, x) {
            let (g, x) = ((g, Strides::columns(outputs)), x.to_contiguous());
            let x = (values(&x), Strides::rows(inputs));
            let gradient = product(g, x, [outputs, rows, inputs]);
            grads.register::<Flex>(parent.id, tensor(gradient, vec![outputs, inputs]));
        }
        if let (Some(parent), Some(weight)) = (to_x, weight) {
            let (g, weight) = ((g, Strides::rows(outputs)), weight.to_contiguous());
            let weight = (values(&weight), Strides::rows(inputs));
            let gradient = product(g, weight, [rows, outputs, inputs]);
            grads.register::<Flex>(parent.id, tensor(gradient, shape));
        }
    }
}

/// The sum of the rows of `[rows, n]`, as `[n]`.
fn column_sums(x: &FlexTensor) -> FlexTensor {
    let width = last(x);
    let rows = (GRAIN / width).max(1);
    let partial: Vec<Vec<f32>> = values(x)
        .par_chunks(rows * width)
        .map(|rows| {
            let mut total = vec![0.0; width];
            kernels::sum_rows(rows, &mut total);
            total
        })
        .collect();
    let mut total = vec![0.0; width];
    for part in &partial {
        kernels::sum_rows(part, &mut total);
    }
    tensor(total, vec![width])
}

#[derive(Debug)]
struct Modulate {
    epsilon: f32,
}

impl Backward<Flex, 3> for Modulate {
    /// Input and scale.
    type State = Kept<2>;

    fn backward(self, ops: Ops<Kept<2>, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let mut g = owned(grads.consume::<Flex>(&ops.node));
        let ([x, scale], [to_x, to_shift, to_scale]) = (ops.state, ops.parents);
        let [batch, tokens, width] = three(&x);
        let image = tokens * width;
        let mut d_shift = vec![0.0; batch * width];
        let mut d_scale = vec![0.0; batch * width];
        let (from, factor) = (values(&x), values(&scale));
        let parts = d_shift
            .par_chunks_mut(width)
            .zip(d_scale.par_chunks_mut(width));
        values_mut(&mut g)
            .par_chunks_mut(image)
            .zip(parts)
            .enumerate()
            .for_each(|(n, (g, (d_shift, d_scale)))| {
                let (x, scale) = (&from[n * image..][..image], &factor[n * width..][..width]);
                kernels::modulate_backward(x, scale, self.epsilon, g, d_shift, d_scale);
            });
        let of_image = |values| tensor(values, vec![batch, 1, width]);
        for (parent, gradient) in [
            (to_x, g),
            (to_shift, of_image(d_shift)),
            (to_scale, of_image(d_scale)),
        ] {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct GatedAdd;

impl Backward<Flex, 3> for GatedAdd {
    /// The branch and its gate.
    type State = Kept<2>;

    fn backward(self, ops: Ops<Kept<2>, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = grads.consume::<Flex>(&ops.node).to_contiguous();
        let ([y, gate], [to_x, to_y, to_gate]) = (ops.state, ops.parents);
        let [batch, tokens, width] = three(&y);
        let image = tokens * width;
        let mut d_gate = vec![0.0; batch * width];
        let (from, branch, factor) = (values(&g), values(&y), values(&gate));
        let write = |d_y: &mut [MaybeUninit<f32>]| {
            d_y.par_chunks_mut(image)
                .zip(d_gate.par_chunks_mut(width))
                .enumerate()
                .for_each(|(n, (d_y, d_gate))| {
                    let (g, y) = (&from[n * image..][..image], &branch[n * image..][..image]);
                    kernels::gated_add_backward(g, y, &factor[n * width..][..width], d_y, d_gate);
                });
        };
        // SAFETY: the kernel writes every element of each image.
        let d_y = unsafe { written(batch * image, write) };
        let (d_y, d_gate) = (
            tensor(d_y, vec![batch, tokens, width]),
            tensor(d_gate, vec![batch, 1, width]),
        );
        for (parent, gradient) in [(to_x, g), (to_y, d_y), (to_gate, d_gate)] {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct GroupNorm {
    groups: usize,
    silu: bool,
}

impl Backward<Flex, 3> for GroupNorm {
    /// Input, weight and bias, and the moments of each group.
    type State = (Kept<3>, Vec<Moments>);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let mut g = owned(grads.consume::<Flex>(&ops.node));
        let (([x, weight, bias], moments), [to_x, to_weight, to_bias]) = (ops.state, ops.parents);
        let (batch, all) = (x.layout().shape()[0], x.layout().shape()[1]);
        let channels = all / self.groups;
        let extent = x.layout().num_elements() / (batch * self.groups);
        // Of each image, then added up in order.
        let mut d_weight = vec![0.0; batch * all];
        let mut d_bias = vec![0.0; batch * all];
        let (from, factor, offset) = (values(&x), values(&weight), values(&bias));
        let parts = d_weight
            .par_chunks_mut(channels)
            .zip(d_bias.par_chunks_mut(channels));
        values_mut(&mut g)
            .par_chunks_mut(extent)
            .zip(parts)
            .zip(moments)
            .enumerate()
            .for_each(|(n, ((g, (d_weight, d_bias)), moments))| {
                let part = n % self.groups * channels..(n % self.groups + 1) * channels;
                let (weight, bias) = (&factor[part.clone()], &offset[part]);
                let x = &from[n * extent..][..extent];
                match self.silu {
                    true => kernels::group_norm_silu_backward(
                        x, weight, bias, moments, g, d_weight, d_bias,
                    ),
                    false => kernels::group_norm_backward(x, weight, moments, g, d_weight, d_bias),
                }
            });
        let over_images = |values| column_sums(&tensor(values, vec![batch, all]));
        for (parent, gradient) in [(to_weight, d_weight), (to_bias, d_bias)] {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, over_images(gradient));
            }
        }
        if let Some(parent) = to_x {
            grads.register::<Flex>(parent.id, g);
        }
    }
}

#[derive(Debug)]
struct LayerNorm {
    epsilon: f32,
}

impl Backward<Flex, 3> for LayerNorm {
    /// Input and weight.
    type State = Kept<2>;

    fn backward(self, ops: Ops<Kept<2>, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let mut g = owned(grads.consume::<Flex>(&ops.node));
        let ([x, weight], [to_x, to_weight, to_bias]) = (ops.state, ops.parents);
        let width = last(&x);
        let rows = (GRAIN / width).max(1) * width;
        // Of each share of the rows, then added up in order.
        let shares = values(&x).len().div_ceil(rows);
        let mut d_weight = vec![0.0; shares * width];
        let mut d_bias = vec![0.0; shares * width];
        let parts = d_weight
            .par_chunks_mut(width)
            .zip(d_bias.par_chunks_mut(width));
        values_mut(&mut g)
            .par_chunks_mut(rows)
            .zip(values(&x).par_chunks(rows))
            .zip(parts)
            .for_each(|((g, x), (d_weight, d_bias))| {
                kernels::layer_norm_backward(x, values(&weight), self.epsilon, g, d_weight, d_bias);
            });
        for (parent, gradient) in [(to_weight, d_weight), (to_bias, d_bias)] {
            if let Some(parent) = parent {
                let each = tensor(gradient, vec![shares, width]);
                grads.register::<Flex>(parent.id, column_sums(&each));
            }
        }
        if let Some(parent) = to_x {
            grads.register::<Flex>(parent.id, g);
        }
    }
}

#[derive(Debug)]
struct Attended {
    heads: usize,
}

impl Backward<Flex, 3> for Attended {
    /// Queries, keys and values.
    type State = Kept<3>;

    fn backward(self, ops: Ops<Kept<3>, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = grads.consume::<Flex>(&ops.node).to_contiguous();
        let [query, key, value] = &ops.state;
        let sizes = attention(query, key, self.heads);
        let from = [query, key, value].map(tokens);
        let mut out = from.map(|part| vec![0.0; part.first.len()]);
        let [to_query, to_key, to_value] = &mut out;
        let to = [(to_query, 0), (to_key, 1), (to_value, 2)]
            .map(|(out, part)| from[part].with(Shared::from(out, 0)));
        // SAFETY: each has as many elements as what it is the gradient of.
        unsafe { sizes.backward(from, values(&g), to) };
        let shapes = ops.state.each_ref().map(extents);
        for (parent, (gradient, shape)) in ops.parents.into_iter().zip(out.into_iter().zip(shapes))
        {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, tensor(gradient, shape));
            }
        }
    }
}

#[derive(Debug)]
struct SelfAttended {
    heads: usize,
}

impl Backward<Flex, 1> for SelfAttended {
    type State = Kept<1>;

    fn backward(self, ops: Ops<Kept<1>, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = grads.consume::<Flex>(&ops.node).to_contiguous();
        let ([qkv], [parent]) = (ops.state, ops.parents);
        let out = match few(&qkv, self.heads) {
            Ok(few) => few.backward(values(&qkv), values(&g)),
            Err(sizes) => {
                let from = packed(&qkv);
                let mut out = vec![0.0; values(&qkv).len()];
                let width = last(&qkv) / 3;
                let to =
                    [0, 1, 2].map(|part| from[part].with(Shared::from(&mut out, part * width)));
                // SAFETY: there are as many elements as in what it is the gradient of.
                unsafe { sizes.backward(from, values(&g), to) };
                out
            }
        };
        if let Some(parent) = parent {
            grads.register::<Flex>(parent.id, tensor(out, extents(&qkv)));
        }
    }
}

#[derive(Debug)]
struct Conv2d {
    stride: [usize; 2],
    padding: [usize; 2],
}

/// Images whose weight gradients one thread adds up. Fixed, as [`GRAIN`].
const IMAGES: usize = 8;

/// What the backward step of a convolution reads.
#[derive(Debug, Clone)]
struct Convolved {
    /// The input's extents.
    shape: Vec<usize>,
    /// The input, if the weight is tracked.
    x: Option<FlexTensor>,
    weight: FlexTensor,
}

impl Convolved {
    fn of(x: &FlexTensor, weight: &FlexTensor, weight_is_tracked: bool) -> Self {
        Self {
            shape: extents(x),
            x: weight_is_tracked.then(|| x.clone()),
            weight: weight.clone(),
        }
    }
}

impl Conv2d {
    /// The gradients of input and weight.
    fn gradients(
        &self,
        Convolved { shape, x, weight }: Convolved,
        g: &FlexTensor,
        [to_x, to_weight]: [Option<NodeId>; 2],
        grads: &mut Gradients,
    ) {
        let sizes = Convolution::new(&shape, &extents(&weight), self.stride, self.padding);
        let to_weight = to_weight.zip(x.as_ref());
        if let Some(planes) = Planes::new(sizes) {
            let g = values(g);
            if let Some((parent, x)) = to_weight {
                let gradient = planes.weight_gradient(values(x), g, IMAGES);
                grads.register::<Flex>(parent, tensor(gradient, extents(&weight)));
            }
            if let Some(parent) = to_x {
                let gradient = match sizes.is_product() {
                    true => sizes.product_gradient(g, values(&weight)),
                    false => planes.input_gradient(g, values(&weight)),
                };
                grads.register::<Flex>(parent, tensor(gradient, shape));
            }
            return;
        }
        let batch = shape[0];
        let g = values(g);
        if let Some((parent, x)) = to_weight {
            let size = sizes.input_size() * IMAGES;
            let images = values(x)
                .par_chunks(size)
                .zip(g.par_chunks(sizes.output_size() * IMAGES));
            let partial: Vec<Vec<f32>> = images
                .map(|(x, g)| {
                    let mut windows = vec![0.0; sizes.unfolded()];
                    let mut total = vec![0.0; sizes.weight_size()];
                    let images = x
                        .chunks_exact(sizes.input_size())
                        .zip(g.chunks_exact(sizes.output_size()));
                    for (x, g) in images {
                        sizes.add_weight_gradient(x, g, &mut windows, &mut total);
                    }
                    total
                })
                .collect();
            let mut total = vec![0.0; sizes.weight_size()];
            for part in &partial {
                kernels::sum_rows(part, &mut total);
            }
            grads.register::<Flex>(parent, tensor(total, extents(&weight)));
        }
        if let Some(parent) = to_x {
            let factor = values(&weight);
            let mut out = vec![0.0; batch * sizes.input_size()];
            let images = out
                .par_chunks_mut(sizes.input_size())
                .zip(g.par_chunks(sizes.output_size()));
            images.for_each_init(
                || vec![0.0; sizes.unfolded()],
                |windows, (out, g)| sizes.add_input_gradient(factor, g, windows, out),
            );
            grads.register::<Flex>(parent, tensor(out, shape));
        }
    }
}

impl Backward<Flex, 2> for Conv2d {
    type State = Convolved;

    fn backward(self, ops: Ops<Convolved, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = grads.consume::<Flex>(&ops.node).to_contiguous();
        let parents = ops.parents.map(|parent| parent.map(|parent| parent.id));
        self.gradients(ops.state, &g, parents, grads);
    }
}

#[derive(Debug)]
struct BiasedConv2d(Conv2d);

impl Backward<Flex, 3> for BiasedConv2d {
    type State = Convolved;

    fn backward(self, ops: Ops<Convolved, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = grads.consume::<Flex>(&ops.node).to_contiguous();
        let [to_x, to_weight, to_bias] = ops.parents;
        if let Some(parent) = to_bias {
            grads.register::<Flex>(parent.id, channel_sums(&g));
        }
        let parents = [to_x, to_weight].map(|parent| parent.map(|parent| parent.id));
        self.0.gradients(ops.state, &g, parents, grads);
    }
}

/// The sums over all but the channels of `[B, C, …]`, as `[C]`.
fn channel_sums(x: &FlexTensor) -> FlexTensor {
    let shape = extents(x);
    let extent = shape[2..].iter().product();
    let each = values(x).par_chunks(extent).map(kernels::total).collect();
    column_sums(&tensor(each, vec![shape[0], shape[1]]))
}

#[derive(Debug)]
struct Cat {
    axis: usize,
}

impl Backward<Flex, 2> for Cat {
    /// Extents of both.
    type State = [Vec<usize>; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = grads.consume::<Flex>(&ops.node).to_contiguous();
        let size = |shape: &[usize]| shape[self.axis..].iter().product::<usize>();
        let row: usize = ops.state.iter().map(|shape| size(shape)).sum();
        let mut start = 0;
        for (parent, shape) in ops.parents.into_iter().zip(ops.state) {
            let part = start..start + size(&shape);
            start = part.end;
            let Some(parent) = parent else { continue };
            let write = |out: &mut [MaybeUninit<f32>]| {
                out.par_chunks_exact_mut(part.len())
                    .zip(values(&g).par_chunks_exact(row))
                    .for_each(|(out, g)| {
                        out.write_copy_of_slice(&g[part.clone()]);
                    });
            };
            // SAFETY: there are as many parts as rows, each of this length.
            let gradient = unsafe { written(shape.iter().product(), write) };
            grads.register::<Flex>(parent.id, tensor(gradient, shape));
        }
    }
}

#[derive(Debug)]
struct Resized(Nearest);

impl Backward<Flex, 1> for Resized {
    /// The input's extents.
    type State = Vec<usize>;

    fn backward(self, ops: Ops<Vec<usize>, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = grads.consume::<Flex>(&ops.node).to_contiguous();
        let ([parent], shape) = (ops.parents, ops.state);
        if let Some(parent) = parent {
            let gradient = self.0.backward(values(&g));
            grads.register::<Flex>(parent.id, tensor(gradient, shape));
        }
    }
}

#[derive(Debug)]
struct DepthwiseConv2d {
    stride: [usize; 2],
    padding: [usize; 2],
}

impl Backward<Flex, 2> for DepthwiseConv2d {
    /// Input, if the weight is tracked, and weight.
    type State = (Vec<usize>, Option<FlexTensor>, FlexTensor);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = grads.consume::<Flex>(&ops.node).to_contiguous();
        let ((shape, x, weight), [to_x, to_weight]) = (ops.state, ops.parents);
        let sizes = depthwise(&shape, &extents(&weight), self.stride, self.padding);
        if let (Some(parent), Some(x)) = (to_weight, x) {
            let gradient = sizes.weight_gradient(values(&x), values(&g));
            grads.register::<Flex>(parent.id, tensor(gradient, extents(&weight)));
        }
        if let Some(parent) = to_x {
            let gradient = sizes.input_gradient(values(&g), values(&weight));
            grads.register::<Flex>(parent.id, tensor(gradient, shape));
        }
    }
}

#[derive(Debug)]
struct AddChannels;

impl Backward<Flex, 2> for AddChannels {
    type State = ();

    fn backward(self, ops: Ops<(), 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = grads.consume::<Flex>(&ops.node).to_contiguous();
        let [to_x, to_bias] = ops.parents;
        if let Some(parent) = to_bias {
            grads.register::<Flex>(parent.id, channel_sums(&g));
        }
        if let Some(parent) = to_x {
            grads.register::<Flex>(parent.id, g);
        }
    }
}

#[derive(Debug)]
struct WithGradient;

impl Backward<Flex, 2> for WithGradient {
    /// The gradient of the second input.
    type State = FlexTensor;

    fn backward(self, ops: Ops<FlexTensor, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = grads.consume::<Flex>(&ops.node);
        for (parent, gradient) in ops.parents.into_iter().zip([g, ops.state]) {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

/// The share of one input in what another library computed.
#[derive(Debug)]
struct Outside;

impl Backward<Flex, 2> for Outside {
    /// Who knows the input's gradient, and its extents.
    type State = (Link, Vec<usize>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = grads.consume::<Flex>(&ops.node).to_contiguous();
        let ((link, shape), [to_y, to_x]) = (ops.state, ops.parents);
        if let Some(parent) = to_x {
            let gradient = link.gradient(|| values(&g).to_vec());
            grads.register::<Flex>(parent.id, tensor(gradient, shape));
        }
        if let Some(parent) = to_y {
            grads.register::<Flex>(parent.id, g);
        }
    }
}

impl<C: CheckpointStrategy> CpuOps for Autodiff<Flex, C> {
    fn cpu_gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let from = x.primitive().clone();
        record!(GeluTanh, [x], [from.clone()], Flex::cpu_gelu_tanh(from))
    }

    fn cpu_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let from = x.primitive().clone();
        record!(Gelu, [x], [from.clone()], Flex::cpu_gelu(from))
    }

    fn cpu_relu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let from = x.primitive().clone();
        record!(Relu, [x], [from.clone()], Flex::cpu_relu(from))
    }

    fn cpu_silu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let from = x.primitive().clone();
        record!(Silu, [x], [from.clone()], Flex::cpu_silu(from))
    }

    fn cpu_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (from, node) = x.into_parts();
        let y = Flex::cpu_softmax(from);
        match Softmax.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish([y.clone()], y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn cpu_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let (from, by, plus) = (
            x.primitive().clone(),
            weight.primitive().clone(),
            bias.primitive().clone(),
        );
        let state = (
            extents(&from),
            weight.is_tracked().then(|| from.clone()),
            x.is_tracked().then(|| by.clone()),
        );
        record!(
            Linear,
            [x, weight, bias],
            state,
            Flex::cpu_linear(from, by, plus)
        )
    }

    fn cpu_modulate(
        x: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        let from = x.primitive().to_contiguous();
        let (plus, by) = (shift.primitive().clone(), scale.primitive().to_contiguous());
        let state = [from.clone(), by.clone()];
        record!(
            Modulate { epsilon },
            [x, shift, scale],
            state,
            Flex::cpu_modulate(from, plus, by, epsilon)
        )
    }

    fn cpu_gated_add(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        gate: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let from = x.primitive().clone();
        let (branch, by) = (
            y.primitive().to_contiguous(),
            gate.primitive().to_contiguous(),
        );
        let state = [branch.clone(), by.clone()];
        record!(
            GatedAdd,
            [x, y, gate],
            state,
            Flex::cpu_gated_add(from, branch, by)
        )
    }

    fn cpu_group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: usize,
        epsilon: f32,
        silu: bool,
    ) -> FloatTensor<Self> {
        let kept @ [from, by, plus] =
            &[&x, &weight, &bias].map(|tensor| tensor.primitive().to_contiguous());
        let (y, moments) = group_norm(from, by, plus, groups, epsilon, silu);
        let state = (kept.clone(), moments);
        record!(GroupNorm { groups, silu }, [x, weight, bias], state, y)
    }

    fn cpu_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        let (from, by) = (
            x.primitive().to_contiguous(),
            weight.primitive().to_contiguous(),
        );
        let plus = bias.primitive().clone();
        let state = [from.clone(), by.clone()];
        record!(
            LayerNorm { epsilon },
            [x, weight, bias],
            state,
            Flex::cpu_layer_norm(from, by, plus, epsilon)
        )
    }

    fn cpu_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        let kept = [&query, &key, &value].map(|tensor| tensor.primitive().to_contiguous());
        let [from, by, seen] = kept.clone();
        let y = Flex::cpu_attention(from, by, seen, heads);
        record!(Attended { heads }, [query, key, value], kept, y)
    }

    fn cpu_self_attention(qkv: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
        let from = qkv.primitive().to_contiguous();
        record!(
            SelfAttended { heads },
            [qkv],
            [from.clone()],
            Flex::cpu_self_attention(from, heads)
        )
    }

    fn cpu_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        stride: [usize; 2],
        padding: [usize; 2],
    ) -> FloatTensor<Self> {
        let (from, by) = (
            x.primitive().to_contiguous(),
            weight.primitive().to_contiguous(),
        );
        let state = Convolved::of(&from, &by, weight.is_tracked());
        record!(
            Conv2d { stride, padding },
            [x, weight],
            state,
            Flex::cpu_conv2d(from, by, stride, padding)
        )
    }

    fn cpu_biased_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        stride: [usize; 2],
        padding: [usize; 2],
    ) -> FloatTensor<Self> {
        let (from, by) = (
            x.primitive().to_contiguous(),
            weight.primitive().to_contiguous(),
        );
        let plus = bias.primitive().clone();
        let state = Convolved::of(&from, &by, weight.is_tracked());
        record!(
            BiasedConv2d(Conv2d { stride, padding }),
            [x, weight, bias],
            state,
            Flex::cpu_biased_conv2d(from, by, plus, stride, padding)
        )
    }

    fn cpu_cat(a: FloatTensor<Self>, b: FloatTensor<Self>, axis: usize) -> FloatTensor<Self> {
        let state = [extents(a.primitive()), extents(b.primitive())];
        let (from, beside) = (a.primitive().clone(), b.primitive().clone());
        record!(
            Cat { axis },
            [a, b],
            state,
            Flex::cpu_cat(from, beside, axis)
        )
    }

    fn cpu_nearest(x: FloatTensor<Self>, output: [usize; 2]) -> FloatTensor<Self> {
        let shape = extents(x.primitive());
        let input = [shape[2], shape[3]];
        let (from, node) = x.into_parts();
        let y = Flex::cpu_nearest(from, output);
        let step = Resized(Nearest { input, output });
        match step.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(shape, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn cpu_depthwise(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        stride: [usize; 2],
        padding: [usize; 2],
    ) -> FloatTensor<Self> {
        let (from, by) = (
            x.primitive().to_contiguous(),
            weight.primitive().to_contiguous(),
        );
        let kept = weight.is_tracked().then(|| from.clone());
        let state = (extents(&from), kept, by.clone());
        record!(
            DepthwiseConv2d { stride, padding },
            [x, weight],
            state,
            Flex::cpu_depthwise(from, by, stride, padding)
        )
    }

    fn cpu_add_channels(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((from, x), (plus, bias)) = (x.into_parts(), bias.into_parts());
        let y = Flex::cpu_add_channels(from, plus);
        match AddChannels
            .prepare::<C>([x, bias])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish((), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn cpu_with_gradient(
        x: FloatTensor<Self>,
        leaf: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let y = x.primitive().clone();
        let gradient = gradient.into_primitive();
        record!(WithGradient, [x, leaf], gradient, y)
    }

    fn cpu_outside(y: FloatTensor<Self>, x: FloatTensor<Self>, link: Link) -> FloatTensor<Self> {
        let value = y.primitive().clone();
        let state = (link, extents(x.primitive()));
        record!(Outside, [y, x], state, value)
    }

    fn cpu_show(x: FloatTensor<Self>, slot: Slot) -> FloatTensor<Self> {
        Self::from_inner(Flex::cpu_show(x.into_primitive(), slot))
    }

    fn cpu_adam(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        step: AdamStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [parameter, gradient, first, second] =
            [parameter, gradient, first, second].map(|x: FloatTensor<Self>| x.into_primitive());
        let (parameter, first, second) = Flex::cpu_adam(parameter, gradient, first, second, step);
        (
            Self::from_inner(parameter),
            Self::from_inner(first),
            Self::from_inner(second),
        )
    }

    fn cpu_is_finite(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::from_inner(Flex::cpu_is_finite(x.into_primitive()))
    }
}

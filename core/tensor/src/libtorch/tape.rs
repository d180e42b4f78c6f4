//! The backward steps: LibTorch's own, by name where its bindings have them, and otherwise through its tape, which a node of Burn's
//! tape then keeps.
//!
//! Burn computes in place wherever a tensor's storage has one owner. So whatever a backward step reads is kept together with its storage,
//! the output as well.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn_tch::TchTensor;
use tch::Tensor;

use super::{LibTorch, TorchOps, kernels};

/// A function that LibTorch differentiates.
#[derive(Debug)]
struct Differentiated<const N: usize>;

/// A piece of LibTorch's tape.
#[derive(Debug, Clone)]
struct Recorded<const N: usize> {
    /// The inputs, as leaves of it where they are tracked.
    leaves: [TchTensor; N],
    output: TchTensor,
}

impl<const N: usize> Backward<LibTorch, N> for Differentiated<N> {
    type State = Recorded<N>;

    fn backward(self, ops: Ops<Recorded<N>, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = grads.consume::<LibTorch>(&ops.node).tensor;
        let Recorded { leaves, output } = ops.state;
        let (ids, leaves): (Vec<_>, Vec<_>) = ops
            .parents
            .into_iter()
            .zip(leaves)
            .filter_map(|(parent, leaf)| Some((parent?.id, leaf.tensor)))
            .unzip();
        let gradients = Tensor::run_backward(&[against(&output.tensor, &g)], &leaves, false, false);
        for (id, gradient) in ids.into_iter().zip(gradients) {
            grads.register::<LibTorch>(id, TchTensor::new(gradient));
        }
    }
}

/// A scalar whose gradient with respect to `y` is `g`. Its value, which may be no number, is never read.
fn against(y: &Tensor, g: &Tensor) -> Tensor {
    // What a dot product of LibTorch takes at the most.
    match y.numel() <= i32::MAX as usize {
        true => y.reshape(-1).dot(&g.reshape(-1)),
        false => (y * g).sum(None),
    }
}

/// `function` of the inputs, whose backward step is LibTorch's.
fn differentiated<C: CheckpointStrategy, const N: usize>(
    inputs: [FloatTensor<Autodiff<LibTorch, C>>; N],
    function: impl Fn([&Tensor; N]) -> Tensor,
) -> FloatTensor<Autodiff<LibTorch, C>> {
    let nodes = inputs.each_ref().map(|x| x.node());
    match Differentiated::<N>
        .prepare::<C>(nodes)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => {
            let leaves = inputs.map(|x| {
                let tracked = x.is_tracked();
                let TchTensor { tensor, storage } = x.into_primitive();
                let tensor = tensor.detach().set_requires_grad(tracked);
                TchTensor { tensor, storage }
            });
            let tensor = function(leaves.each_ref().map(|leaf| &leaf.tensor));
            let value = TchTensor::new(tensor.detach());
            let storage = value.storage.clone();
            let output = TchTensor { tensor, storage };
            prep.finish(Recorded { leaves, output }, value)
        }
        OpsKind::UnTracked(prep) => {
            let inputs = inputs.map(|x| x.into_primitive());
            let y = function(inputs.each_ref().map(|x| &x.tensor));
            prep.finish(TchTensor::new(y))
        }
    }
}

/// An elementwise function of one input, which it keeps.
macro_rules! elementwise {
    ($step:ident, |$x:ident, $g:ident| $backward:expr) => {
        #[derive(Debug)]
        struct $step;

        impl Backward<LibTorch, 1> for $step {
            type State = TchTensor;

            fn backward(self, ops: Ops<TchTensor, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let $g = &grads.consume::<LibTorch>(&ops.node).tensor;
                let ($x, [parent]) = (&ops.state.tensor, ops.parents);
                if let Some(parent) = parent {
                    grads.register::<LibTorch>(parent.id, TchTensor::new($backward));
                }
            }
        }
    };
}

elementwise!(GeluTanh, |x, g| x.gelu_backward(g, "tanh"));
elementwise!(Gelu, |x, g| x.gelu_backward(g, "none"));
elementwise!(Relu, |x, g| x.threshold_backward(g, 0.0));
elementwise!(Silu, |x, g| x.silu_backward(g));

/// Records `Step` over one input, which it keeps.
macro_rules! keep_input {
    ($step:expr, $x:ident, $forward:path) => {{
        match $step.prepare::<C>([$x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let x = $x.into_primitive();
                prep.finish(x.clone(), $forward(x))
            }
            OpsKind::UnTracked(prep) => prep.finish($forward($x.into_primitive())),
        }
    }};
}

#[derive(Debug)]
struct Softmax {
    axis: usize,
}

impl Backward<LibTorch, 1> for Softmax {
    /// The output.
    type State = TchTensor;

    fn backward(self, ops: Ops<TchTensor, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = grads.consume::<LibTorch>(&ops.node).tensor;
        let (y, [parent]) = (ops.state.tensor, ops.parents);
        let gradient = Tensor::internal_softmax_backward_data(&g, &y, self.axis as i64, y.kind());
        if let Some(parent) = parent {
            grads.register::<LibTorch>(parent.id, TchTensor::new(gradient));
        }
    }
}

#[derive(Debug)]
struct Linear;

impl Backward<LibTorch, 3> for Linear {
    /// The input if the weight is tracked, the weight if the input is.
    type State = [Option<TchTensor>; 2];

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = grads.consume::<LibTorch>(&ops.node).tensor;
        let ([x, weight], [to_x, to_weight, to_bias]) = (ops.state, ops.parents);
        let rows = |x: &Tensor| x.reshape([-1, *x.size().last().expect("rank 1 or more")]);
        if let Some(parent) = to_bias {
            let gradient = rows(&g).sum_dim_intlist(0, false, None);
            grads.register::<LibTorch>(parent.id, TchTensor::new(gradient));
        }
        if let (Some(parent), Some(x)) = (to_weight, x) {
            let gradient = rows(&g).transpose(0, 1).mm(&rows(&x.tensor));
            grads.register::<LibTorch>(parent.id, TchTensor::new(gradient));
        }
        if let (Some(parent), Some(weight)) = (to_x, weight) {
            let gradient = g.matmul(&weight.tensor);
            grads.register::<LibTorch>(parent.id, TchTensor::new(gradient));
        }
    }
}

#[derive(Debug)]
struct GatedAdd;

impl Backward<LibTorch, 3> for GatedAdd {
    /// The branch if the gate is tracked, the gate if the branch is.
    type State = [Option<TchTensor>; 2];

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = grads.consume::<LibTorch>(&ops.node);
        let ([y, gate], [to_x, to_y, to_gate]) = (ops.state, ops.parents);
        if let (Some(parent), Some(gate)) = (to_y, gate) {
            let gradient = &g.tensor * &gate.tensor;
            grads.register::<LibTorch>(parent.id, TchTensor::new(gradient));
        }
        if let (Some(parent), Some(y)) = (to_gate, y) {
            let gradient = (&g.tensor * &y.tensor).sum_dim_intlist(1, true, None);
            grads.register::<LibTorch>(parent.id, TchTensor::new(gradient));
        }
        if let Some(parent) = to_x {
            grads.register::<LibTorch>(parent.id, g);
        }
    }
}

impl<C: CheckpointStrategy> TorchOps for Autodiff<LibTorch, C> {
    fn torch_gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        keep_input!(GeluTanh, x, LibTorch::torch_gelu_tanh)
    }

    fn torch_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        keep_input!(Gelu, x, LibTorch::torch_gelu)
    }

    fn torch_relu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        keep_input!(Relu, x, LibTorch::torch_relu)
    }

    fn torch_silu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        keep_input!(Silu, x, LibTorch::torch_silu)
    }

    fn torch_softmax(x: FloatTensor<Self>, axis: usize) -> FloatTensor<Self> {
        let node = x.node();
        let y = LibTorch::torch_softmax(x.into_primitive(), axis);
        match (Softmax { axis })
            .prepare::<C>([node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(y.clone(), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn torch_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        let kept = [
            weight.is_tracked().then(|| x.primitive().clone()),
            x.is_tracked().then(|| weight.primitive().clone()),
        ];
        let [x, weight, bias] = [x, weight, bias].map(|x: FloatTensor<Self>| x.into_primitive());
        let y = LibTorch::torch_linear(x, weight, bias);
        match Linear.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(kept, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn torch_modulate(
        x: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        differentiated::<C, 3>([x, shift, scale], |inputs| {
            kernels::modulate(inputs, epsilon)
        })
    }

    fn torch_gated_add(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        gate: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), y.node(), gate.node()];
        let kept = [
            gate.is_tracked().then(|| y.primitive().clone()),
            y.is_tracked().then(|| gate.primitive().clone()),
        ];
        let [x, y, gate] = [x, y, gate].map(|x: FloatTensor<Self>| x.into_primitive());
        let sum = LibTorch::torch_gated_add(x, y, gate);
        match GatedAdd.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(kept, sum),
            OpsKind::UnTracked(prep) => prep.finish(sum),
        }
    }

    fn torch_group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: usize,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        differentiated::<C, 3>([x, weight, bias], |inputs| {
            kernels::group_norm(inputs, groups, epsilon)
        })
    }

    fn torch_norm(x: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        differentiated::<C, 1>([x], |inputs| kernels::norm(inputs, epsilon))
    }

    fn torch_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        differentiated::<C, 3>([x, weight, bias], |inputs| {
            kernels::layer_norm(inputs, epsilon)
        })
    }

    fn torch_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        differentiated::<C, 3>([query, key, value], |parts| {
            kernels::attention(parts, heads)
        })
    }

    fn torch_self_attention(qkv: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
        differentiated::<C, 1>([qkv], |inputs| kernels::self_attention(inputs, heads))
    }
}

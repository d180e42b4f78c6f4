//! What LibTorch computes, on its own tensors: the same function off Burn's tape and, for those that LibTorch differentiates, on it.

use burn_tch::TchTensor;
use tch::Tensor;

use super::{LibTorch, TorchOps};

pub(super) fn modulate([x, shift, scale]: [&Tensor; 3], epsilon: f64) -> Tensor {
    shift.addcmul(&norm([x], epsilon), &(scale + 1.0))
}

pub(super) fn group_norm([x, weight, bias]: [&Tensor; 3], groups: usize, epsilon: f64) -> Tensor {
    x.group_norm(groups as i64, Some(weight), Some(bias), epsilon, true)
}

pub(super) fn norm([x]: [&Tensor; 1], epsilon: f64) -> Tensor {
    x.layer_norm(last(x), None::<Tensor>, None, epsilon, true)
}

pub(super) fn layer_norm([x, weight, bias]: [&Tensor; 3], epsilon: f64) -> Tensor {
    x.layer_norm(last(x), Some(weight), Some(bias), epsilon, true)
}

pub(super) fn self_attention([qkv]: [&Tensor; 1], heads: usize) -> Tensor {
    let (batch, tokens, width) = qkv.size3().expect("rank 3");
    let (heads, width) = (heads as i64, width / 3);
    // [B, T, 3 D] to three of [B, heads, T, D / heads].
    let parts = qkv
        .reshape([batch, tokens, 3, heads, width / heads])
        .permute([2, 0, 3, 1, 4])
        .unbind(0);
    mixed([&parts[0], &parts[1], &parts[2]])
}

pub(super) fn attention(parts: [&Tensor; 3], heads: usize) -> Tensor {
    let (batch, _, width) = parts[0].size3().expect("rank 3");
    let heads = heads as i64;
    // To [B, heads, T, D / heads].
    let [query, key, value] = parts.map(|part| {
        let (_, tokens, _) = part.size3().expect("rank 3");
        part.expand([batch, tokens, width], false)
            .reshape([batch, tokens, heads, width / heads])
            .transpose(1, 2)
    });
    mixed([&query, &key, &value])
}

/// What all heads see, `[B, T, D]`.
fn mixed([query, key, value]: [&Tensor; 3]) -> Tensor {
    let none = None::<Tensor>;
    let y = Tensor::scaled_dot_product_attention(query, key, value, none, 0.0, false, None, false);
    y.transpose(1, 2).flatten(2, 3)
}

fn last(x: &Tensor) -> i64 {
    *x.size().last().expect("rank 1 or more")
}

impl TorchOps for LibTorch {
    fn torch_gelu_tanh(x: TchTensor) -> TchTensor {
        TchTensor::new(x.tensor.gelu("tanh"))
    }

    fn torch_gelu(x: TchTensor) -> TchTensor {
        TchTensor::new(x.tensor.gelu("none"))
    }

    fn torch_relu(x: TchTensor) -> TchTensor {
        TchTensor::new(x.tensor.relu())
    }

    fn torch_silu(x: TchTensor) -> TchTensor {
        TchTensor::new(x.tensor.silu())
    }

    fn torch_softmax(x: TchTensor, axis: usize) -> TchTensor {
        TchTensor::new(x.tensor.softmax(axis as i64, None))
    }

    fn torch_linear(x: TchTensor, weight: TchTensor, bias: TchTensor) -> TchTensor {
        TchTensor::new(x.tensor.linear(&weight.tensor, Some(&bias.tensor)))
    }

    fn torch_modulate(x: TchTensor, shift: TchTensor, scale: TchTensor, epsilon: f64) -> TchTensor {
        let inputs = [&x.tensor, &shift.tensor, &scale.tensor];
        TchTensor::new(modulate(inputs, epsilon))
    }

    fn torch_gated_add(x: TchTensor, y: TchTensor, gate: TchTensor) -> TchTensor {
        TchTensor::new(x.tensor.addcmul(&y.tensor, &gate.tensor))
    }

    fn torch_group_norm(
        x: TchTensor,
        weight: TchTensor,
        bias: TchTensor,
        groups: usize,
        epsilon: f64,
    ) -> TchTensor {
        let inputs = [&x.tensor, &weight.tensor, &bias.tensor];
        TchTensor::new(group_norm(inputs, groups, epsilon))
    }

    fn torch_norm(x: TchTensor, epsilon: f64) -> TchTensor {
        TchTensor::new(norm([&x.tensor], epsilon))
    }

    fn torch_layer_norm(
        x: TchTensor,
        weight: TchTensor,
        bias: TchTensor,
        epsilon: f64,
    ) -> TchTensor {
        let inputs = [&x.tensor, &weight.tensor, &bias.tensor];
        TchTensor::new(layer_norm(inputs, epsilon))
    }

    fn torch_attention(
        query: TchTensor,
        key: TchTensor,
        value: TchTensor,
        heads: usize,
    ) -> TchTensor {
        let parts = [&query.tensor, &key.tensor, &value.tensor];
        TchTensor::new(attention(parts, heads))
    }

    fn torch_self_attention(qkv: TchTensor, heads: usize) -> TchTensor {
        TchTensor::new(self_attention([&qkv.tensor], heads))
    }
}

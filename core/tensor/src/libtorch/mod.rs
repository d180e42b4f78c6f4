//! Fused operations of LibTorch.
//!
//! Burn differentiates what it composes, one elementwise pass after the other: layer normalisation in eight, attention with all its
//! weights in memory. LibTorch has each of these as one kernel with a backward step of its own. The operations below call it, and give
//! what the composed ones give up to rounding (held to that by `tests/fused.rs`). Where a tensor has half precision, they add up in
//! 32 bits. Other devices never come here.
#![cfg_attr(
    not(feature = "libtorch"),
    expect(
        unused_variables,
        reason = "without a backend the generated dispatch has no use for arguments"
    )
)]
#![cfg_attr(
    feature = "libtorch",
    expect(
        deprecated,
        reason = "Burn 0.22.1 is the last release that carries LibTorch; the version is pinned"
    )
)]

#[cfg(feature = "libtorch")]
mod kernels;
#[cfg(feature = "libtorch")]
mod tape;

#[cfg(feature = "libtorch")]
use burn::backend::LibTorch;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};

/// The operations. Shapes are the caller's to check.
#[backend_extension(LibTorch: cfg(feature = "libtorch"), Autodiff: cfg(feature = "libtorch"))]
pub(crate) trait TorchOps: Backend {
    /// `gelu(x)`, tanh approximation.
    fn torch_gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `gelu(x)`, exact.
    fn torch_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `max(x, 0)`.
    fn torch_relu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `x sigmoid(x)`.
    fn torch_silu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Softmax over an axis.
    fn torch_softmax(x: FloatTensor<Self>, axis: usize) -> FloatTensor<Self>;
    /// `x Wᵀ + b` for `x` of `[…, in]`, `W` of `[out, in]`, `b` of `[out]`.
    fn torch_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
    /// `norm(x) (1 + scale) + shift` for `x` of `[B, T, D]`, shift and scale of `[B, 1, D]`.
    fn torch_modulate(
        x: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self>;
    /// `x + gate y` for `x`, `y` of `[B, T, D]`, gate of `[B, 1, D]`.
    fn torch_gated_add(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        gate: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
    /// Group normalisation of `[B, C, …]`, weight and bias of `[C]`.
    fn torch_group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: usize,
        epsilon: f64,
    ) -> FloatTensor<Self>;
    /// Normalisation over the last axis.
    fn torch_norm(x: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self>;
    /// Layer normalisation over the last axis, weight and bias of its extent.
    fn torch_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self>;
    /// What queries `[B, T, D]` see of values by keys, `[B or 1, L, D]`: `[B, T, D]`.
    fn torch_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self>;
    /// Self-attention: `[B, T, 3 D]` to `[B, T, D]`.
    fn torch_self_attention(qkv: FloatTensor<Self>, heads: usize) -> FloatTensor<Self>;
}

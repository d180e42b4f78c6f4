//! The parts of a diffusion transformer's block that are more than one elementwise operation. On
//! the embedded CPU backend and on LibTorch each is one fused operation, elsewhere it is composed.

use burn::backend::Dispatch;

use crate::cpu::CpuOps;
use crate::error::{Result, TensorError};
use crate::libtorch::TorchOps;
use crate::tally;
use crate::tensor::{Kind, Tensor, guard};

impl Tensor {
    /// adaLN's `norm(x) (1 + scale) + shift` over the last axis of `[B, T, D]`, for shift and scale of
    /// `[B, 1, D]` ("Scalable Diffusion Models with Transformers", section 3.2).
    ///
    /// # Errors
    /// [`TensorError::Shape`] or [`TensorError::Kind`] for other shapes or kinds.
    pub fn modulate(&self, shift: &Tensor, scale: &Tensor, epsilon: f64) -> Result<Tensor> {
        let op = "modulate";
        self.expect_sequence(op)?;
        self.expect_per_image(op, "shift", shift)?;
        self.expect_per_image(op, "scale", scale)?;
        if self.has_cpu_ops() {
            return guard(op, || {
                let (x, shift, scale) = (self.raw.clone(), shift.raw.clone(), scale.raw.clone());
                self.like(Dispatch::cpu_modulate(x, shift, scale, epsilon as f32))
            });
        }
        if self.has_torch_ops() {
            return guard(op, || {
                let (x, shift, scale) = (self.raw.clone(), shift.raw.clone(), scale.raw.clone());
                self.like(Dispatch::torch_modulate(x, shift, scale, epsilon))
            });
        }
        self.layer_norm(None, None, epsilon)?
            .mul(&scale.affine(1.0, 1.0)?)?
            .add(shift)
    }

    /// `x + gate y` for `x` and `y` of `[B, T, D]` and a gate of `[B, 1, D]`.
    ///
    /// # Errors
    /// As [`modulate`](Self::modulate).
    pub fn gated_add(&self, y: &Tensor, gate: &Tensor) -> Result<Tensor> {
        let op = "gated_add";
        self.expect_sequence(op)?;
        y.expect_kind(op, "y", Kind::Float)?;
        y.expect_shape(op, "y", &self.shape())?;
        y.expect_precision(op, self)?;
        self.expect_per_image(op, "gate", gate)?;
        if self.has_cpu_ops() {
            return guard(op, || {
                let (x, y, gate) = (self.raw.clone(), y.raw.clone(), gate.raw.clone());
                self.like(Dispatch::cpu_gated_add(x, y, gate))
            });
        }
        if self.has_torch_ops() {
            return guard(op, || {
                let (x, y, gate) = (self.raw.clone(), y.raw.clone(), gate.raw.clone());
                self.like(Dispatch::torch_gated_add(x, y, gate))
            });
        }
        self.add(&gate.mul(y)?)
    }

    /// Multi-head attention: what queries `[B, T, D]` see of values by keys, both `[B, L, D]`, or `[1, L, D]` for all images the same:
    /// `softmax(q kᵀ / √(D / heads)) v` for each head, as `[B, T, D]`.
    ///
    /// # Errors
    /// [`TensorError::Shape`] for other shapes, [`TensorError::Argument`] unless `heads` divides `D`.
    pub fn attention(&self, key: &Tensor, value: &Tensor, heads: usize) -> Result<Tensor> {
        let op = "attention";
        self.expect_sequence(op)?;
        key.expect_kind(op, "key", Kind::Float)?;
        key.expect_rank(op, "key", 3)?;
        let (batch, tokens, width) = (self.shape()[0], self.shape()[1], self.shape()[2]);
        let (seen, length) = (key.shape()[0], key.shape()[1]);
        let rows = if seen == 1 { 1 } else { batch };
        key.expect_shape(op, "key", &[rows, length, width])?;
        value.expect_kind(op, "value", Kind::Float)?;
        value.expect_shape(op, "value", &key.shape())?;
        key.expect_precision(op, self)?;
        value.expect_precision(op, self)?;
        expect_divisor(op, heads, width)?;
        if self.has_cpu_ops() || self.has_torch_ops() {
            tally::products(2 * batch * tokens * length, width);
            return guard(op, || {
                let (query, key, value) = (self.raw.clone(), key.raw.clone(), value.raw.clone());
                self.like(match self.has_torch_ops() {
                    true => Dispatch::torch_attention(query, key, value, heads),
                    false => Dispatch::cpu_attention(query, key, value, heads),
                })
            });
        }
        let [query, key, value] = [self, key, value].map(|x| x.by_heads(heads));
        attend(&query?, &key?, &value?)
    }

    /// Multi-head self-attention of `[B, T, 3 D]`, query, key and value side by side, to `[B, T, D]`:
    /// `softmax(q kᵀ / √(D / heads)) v` for each head.
    ///
    /// # Errors
    /// [`TensorError::Shape`] unless the rank is 3, [`TensorError::Argument`] unless `3 heads` divides the last extent.
    pub fn self_attention(&self, heads: usize) -> Result<Tensor> {
        let op = "self_attention";
        self.expect_sequence(op)?;
        let (batch, tokens, width) = (self.shape()[0], self.shape()[1], self.shape()[2]);
        if !width.is_multiple_of(3) {
            return Err(self.shape_error(op, "x", "a last extent of queries, keys and values"));
        }
        expect_divisor(op, heads, width / 3)?;
        if self.has_cpu_ops() || self.has_torch_ops() {
            tally::products(2 * batch * tokens * tokens, width / 3);
            return guard(op, || {
                self.like(match self.has_torch_ops() {
                    true => Dispatch::torch_self_attention(self.raw.clone(), heads),
                    false => Dispatch::cpu_self_attention(self.raw.clone(), heads),
                })
            });
        }
        let part = |n: usize| self.narrow(2, n * width / 3, width / 3)?.by_heads(heads);
        attend(&part(0)?, &part(1)?, &part(2)?)
    }

    /// `[B, T, D]` to `[B, heads, T, D / heads]`.
    fn by_heads(&self, heads: usize) -> Result<Tensor> {
        let [batch, tokens] = [0, 1].map(|axis| self.shape()[axis] as i64);
        self.reshape(&[batch, tokens, heads as i64, -1])?
            .permute(&[0, 2, 1, 3])
    }

    fn expect_sequence(&self, op: &'static str) -> Result<()> {
        self.expect_kind(op, "x", Kind::Float)?;
        self.expect_rank(op, "x", 3)
    }

    fn expect_per_image(&self, op: &'static str, argument: &'static str, x: &Tensor) -> Result<()> {
        x.expect_kind(op, argument, Kind::Float)?;
        x.expect_precision(op, self)?;
        x.expect_shape(op, argument, &[self.shape()[0], 1, self.shape()[2]])
    }
}

/// Of `[B, heads, T, D / heads]`, composed, to `[B, T, D]`.
fn attend(query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
    let [batch, heads, tokens, extent] = [0, 1, 2, 3].map(|axis| query.shape()[axis]);
    let scores = query
        .affine(1.0 / (extent as f64).sqrt(), 0.0)?
        .matmul(&key.permute(&[0, 1, 3, 2])?)?;
    scores
        .softmax(-1)?
        .matmul(value)?
        .permute(&[0, 2, 1, 3])?
        .reshape(&[batch, tokens, heads * extent].map(|extent| extent as i64))
}

fn expect_divisor(op: &'static str, heads: usize, width: usize) -> Result<()> {
    if heads > 0 && width.is_multiple_of(heads) {
        return Ok(());
    }
    Err(TensorError::Argument {
        op,
        argument: "heads",
        value: heads.to_string(),
        expected: format!("a divisor of {width}"),
    })
}

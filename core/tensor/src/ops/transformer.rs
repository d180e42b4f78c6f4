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

    /// Multi-head self-attention of `[B, T, 3 D]`, query, key and value side by side, to `[B, T, D]`:
    /// `softmax(q kᵀ / √(D / heads)) v` for each head.
    ///
    /// # Errors
    /// [`TensorError::Shape`] unless the rank is 3, [`TensorError::Argument`] unless `3 heads` divides the last extent.
    pub fn self_attention(&self, heads: usize) -> Result<Tensor> {
        let op = "self_attention";
        self.expect_sequence(op)?;
        let (batch, tokens, width) = (self.shape()[0], self.shape()[1], self.shape()[2]);
        if heads == 0 || !width.is_multiple_of(3 * heads) {
            return Err(TensorError::Argument {
                op,
                argument: "heads",
                value: heads.to_string(),
                expected: format!("a divisor of a third of {width}"),
            });
        }
        if self.has_cpu_ops() {
            tally::products(2 * batch * tokens * tokens, width / 3);
            return guard(op, || {
                self.like(Dispatch::cpu_attention(self.raw.clone(), heads))
            });
        }
        if self.has_torch_ops() {
            tally::products(2 * batch * tokens * tokens, width / 3);
            return guard(op, || {
                self.like(Dispatch::torch_attention(self.raw.clone(), heads))
            });
        }
        let extent = width / 3 / heads;
        // [B, T, 3 D] to three of [B, heads, T, D / heads].
        let qkv = self
            .reshape(&[batch, tokens, 3, heads, extent].map(|extent| extent as i64))?
            .permute(&[2, 0, 3, 1, 4])?;
        let part = |n: usize| qkv.narrow(0, n, 1)?.squeeze(0);
        let query = part(0)?.affine(1.0 / (extent as f64).sqrt(), 0.0)?;
        let attention = query
            .matmul(&part(1)?.permute(&[0, 1, 3, 2])?)?
            .softmax(-1)?;
        attention
            .matmul(&part(2)?)?
            .permute(&[0, 2, 1, 3])?
            .reshape(&[batch as i64, tokens as i64, (width / 3) as i64])
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

//! Resizing images. The GPU backends of Burn 0.22.1 have no gradient for bilinear
//! interpolation, so it is written as two matrix products, `W_h X W_wᵀ`: exact,
//! differentiable and deterministic everywhere.

use burn::backend::Dispatch;

use super::network::positive;
use crate::cpu::CpuOps;
use crate::error::Result;
use crate::tensor::{Tensor, guard};

impl Tensor {
    /// Resizes `[B, C, H, W]` by taking the nearest pixel: place `i` of `n` is that of `⌊i m / n⌋` of `m`. This is PyTorch's `nearest`, which
    /// rounds `m / n` to 32 bits and may so be one pixel before where `i m / n` is whole, as of 82 places of 2; never at twice the extent.
    ///
    /// # Errors
    /// [`TensorError::Shape`](crate::TensorError::Shape) unless the rank is 4, [`TensorError::Argument`](crate::TensorError::Argument) for an extent of 0.
    pub fn resize_nearest(&self, height: usize, width: usize) -> Result<Tensor> {
        let op = "resize_nearest";
        self.expect_image(op)?;
        positive(op, "height", &[height, width])?;
        if self.has_cpu_ops() {
            return guard(op, || {
                self.like(Dispatch::cpu_nearest(self.raw.clone(), [height, width]))
            });
        }
        let pick = |from: usize, to: usize| {
            let index: Vec<i64> = (0..to).map(|i| (i * from / to) as i64).collect();
            Tensor::from_ints(&index, &[to], self.device())
        };
        let rows = pick(self.shape()[2], height)?;
        let columns = pick(self.shape()[3], width)?;
        self.index_select(2, &rows)?.index_select(3, &columns)
    }

    /// Resizes `[B, C, H, W]` by bilinear interpolation without antialiasing (PyTorch's `bilinear`).
    ///
    /// # Errors
    /// As [`resize_nearest`](Self::resize_nearest).
    pub fn resize_bilinear(
        &self,
        height: usize,
        width: usize,
        align_corners: bool,
    ) -> Result<Tensor> {
        let op = "resize_bilinear";
        self.expect_image(op)?;
        positive(op, "height", &[height, width])?;
        let shape = self.shape();
        let (b, c, h, w) = (shape[0], shape[1], shape[2], shape[3]);
        let rows = self.interpolation(h, height, align_corners)?;
        let columns = self
            .interpolation(w, width, align_corners)?
            .permute(&[1, 0])?;
        // [B C H, W] · [W, width], then [B C width, H] · [H, height].
        let across = self.reshape(&[-1, w as i64])?.matmul(&columns)?;
        let turned = across
            .reshape(&[(b * c) as i64, h as i64, width as i64])?
            .permute(&[0, 2, 1])?
            .reshape(&[-1, h as i64])?;
        let down = turned.matmul(&rows.permute(&[1, 0])?)?;
        down.reshape(&[(b * c) as i64, width as i64, height as i64])?
            .permute(&[0, 2, 1])?
            .reshape(&[b as i64, c as i64, height as i64, width as i64])
    }

    /// The `[to, from]` matrix of one-dimensional linear interpolation.
    fn interpolation(&self, from: usize, to: usize, align_corners: bool) -> Result<Tensor> {
        let mut weights = vec![0.0f32; to * from];
        for (i, row) in weights.chunks_mut(from).enumerate() {
            let centre = if align_corners {
                if to == 1 {
                    0.0
                } else {
                    i as f64 * (from - 1) as f64 / (to - 1) as f64
                }
            } else {
                ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0)
            };
            let low = (centre.floor() as usize).min(from - 1);
            let high = (low + 1).min(from - 1);
            let fraction = (centre - low as f64) as f32;
            row[low] += 1.0 - fraction;
            row[high] += fraction;
        }
        Tensor::from_floats(&weights, &[to, from], self.device())
    }
}

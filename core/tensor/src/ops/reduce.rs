//! Reductions. Axes count from the end when negative; an empty list means all of them.
//! Without `keep`, reduced axes go; if none is left the result is the scalar `[1]`.

use burn::backend::Dispatch;
use burn::backend::ops::{FloatTensorOps, IntTensorOps};

use crate::error::Result;
use crate::tensor::{Kind, Tensor, guard};

impl Tensor {
    /// The sum over `axes`.
    ///
    /// # Errors
    /// [`TensorError::Axis`](crate::TensorError::Axis), or [`TensorError::Kind`](crate::TensorError::Kind) for truth values.
    pub fn sum(&self, axes: &[i64], keep: bool) -> Result<Tensor> {
        self.expect_numeric("sum")?;
        let axes = self.shape().axes("sum", axes)?;
        let summed = guard("sum", || {
            self.like(match self.kind {
                Kind::Float => Dispatch::float_sum_dims(self.raw.clone(), &axes),
                _ => axes.iter().fold(self.raw.clone(), |raw, &axis| {
                    Dispatch::int_sum_dim(raw, axis)
                }),
            })
        })?;
        summed.drop_axes(&axes, keep)
    }

    /// The mean over `axes`.
    ///
    /// # Errors
    /// As [`sum`](Self::sum); also for ints.
    pub fn mean(&self, axes: &[i64], keep: bool) -> Result<Tensor> {
        self.expect_kind("mean", "x", Kind::Float)?;
        let resolved = self.shape().axes("mean", axes)?;
        let count: usize = resolved.iter().map(|&axis| self.shape()[axis]).product();
        self.sum(axes, keep)?.affine(1.0 / count as f64, 0.0)
    }

    /// The population variance over `axes`: the mean squared distance from the mean, as
    /// normalisation layers use it.
    ///
    /// # Errors
    /// As [`mean`](Self::mean).
    pub fn variance(&self, axes: &[i64], keep: bool) -> Result<Tensor> {
        self.expect_kind("variance", "x", Kind::Float)?;
        self.shape().axes("variance", axes)?;
        let centred = self.sub(&self.mean(axes, true)?)?;
        centred.mul(&centred)?.mean(axes, keep)
    }

    /// The largest element over `axes`; the gradient goes to one place where it is attained.
    ///
    /// # Errors
    /// As [`sum`](Self::sum).
    pub fn amax(&self, axes: &[i64], keep: bool) -> Result<Tensor> {
        self.extreme(
            "amax",
            axes,
            keep,
            Dispatch::float_max_dim,
            Dispatch::int_max_dim,
        )
    }

    /// The smallest element over `axes`; the gradient goes to one place where it is attained.
    ///
    /// # Errors
    /// As [`sum`](Self::sum).
    pub fn amin(&self, axes: &[i64], keep: bool) -> Result<Tensor> {
        self.extreme(
            "amin",
            axes,
            keep,
            Dispatch::float_min_dim,
            Dispatch::int_min_dim,
        )
    }

    /// The index of the largest element along `axis`, which goes. The first one wins a tie.
    ///
    /// # Errors
    /// As [`sum`](Self::sum); also for ints.
    pub fn argmax(&self, axis: i64) -> Result<Tensor> {
        self.expect_kind("argmax", "x", Kind::Float)?;
        let axis = self.shape().axis("argmax", axis)?;
        let found = guard("argmax", || {
            let raw = Dispatch::float_argmax(self.detach().raw, axis, self.device().int());
            Tensor::wrap(raw, Kind::Int, self.device())
        })?;
        found.drop_axes(&[axis], false)
    }

    fn extreme(
        &self,
        op: &'static str,
        axes: &[i64],
        keep: bool,
        float: impl Fn(Raw, usize) -> Raw,
        int: impl Fn(Raw, usize) -> Raw,
    ) -> Result<Tensor> {
        self.expect_numeric(op)?;
        let axes = self.shape().axes(op, axes)?;
        let reduced = guard(op, || {
            self.like(
                axes.iter()
                    .fold(self.raw.clone(), |raw, &axis| match self.kind {
                        Kind::Float => float(raw, axis),
                        _ => int(raw, axis),
                    }),
            )
        })?;
        reduced.drop_axes(&axes, keep)
    }

    /// Removes `axes`, all of extent 1, unless they are to be kept.
    fn drop_axes(&self, axes: &[usize], keep: bool) -> Result<Tensor> {
        if keep {
            return Ok(self.clone());
        }
        let shape = self.shape();
        let mut left: Vec<i64> = (0..shape.rank())
            .filter(|axis| !axes.contains(axis))
            .map(|axis| shape[axis] as i64)
            .collect();
        if left.is_empty() {
            left.push(1);
        }
        self.reshape(&left)
    }
}

type Raw = burn::backend::DispatchTensor;

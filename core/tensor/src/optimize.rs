//! The update of a parameter: many passes over its elements when composed, one on the CPU backend.

use burn::backend::Dispatch;

use crate::cpu::CpuOps;
use crate::error::Result;
use crate::tensor::{Kind, Tensor, guard};

/// The scalars of one step of Adam, with what depends on the number of steps worked out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamStep {
    /// Decay of the running means of the gradient and of its square.
    pub betas: [f64; 2],
    /// The parameter is multiplied by this first: decoupled weight decay; 1 without.
    pub keep: f64,
    /// Step size over the bias correction of the first mean.
    pub rate: f64,
    /// The reciprocal square root of the second mean's bias correction.
    pub spread: f64,
    /// Added to the denominator.
    pub epsilon: f64,
}

impl Tensor {
    /// `(p keep - rate m / (spread √v + ε), m, v)` for the moved running means `m` and `v` of the gradient
    /// and of its square (Kingma and Ba 2015, algorithm 1). Nothing is recorded on the tape.
    ///
    /// # Errors
    /// [`TensorError::Shape`](crate::TensorError::Shape) or [`TensorError::Kind`](crate::TensorError::Kind)
    /// unless all are floats of one shape.
    pub fn adam(
        &self,
        gradient: &Tensor,
        first: Tensor,
        second: Tensor,
        step: AdamStep,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let op = "adam";
        self.expect_kind(op, "parameter", Kind::Float)?;
        for (argument, tensor) in [
            ("gradient", gradient),
            ("first", &first),
            ("second", &second),
        ] {
            tensor.expect_kind(op, argument, Kind::Float)?;
            tensor.expect_shape(op, argument, &self.shape())?;
        }
        let (parameter, gradient) = (self.detach(), gradient.detach());
        if self.has_cpu_ops() {
            let (first, second) = (first.detach().raw, second.detach().raw);
            return guard(op, || {
                let (parameter, first, second) =
                    Dispatch::cpu_adam(parameter.raw, gradient.raw, first, second, step);
                (self.like(parameter), self.like(first), self.like(second))
            });
        }
        let mean = |old: &Tensor, new: &Tensor, beta: f64| {
            old.affine(beta, 0.0)?.add(&new.affine(1.0 - beta, 0.0)?)
        };
        let first = mean(&first.detach(), &gradient, step.betas[0])?;
        let second = mean(&second.detach(), &gradient.mul(&gradient)?, step.betas[1])?;
        let denominator = second.sqrt()?.affine(step.spread, step.epsilon)?;
        let moved = first.affine(step.rate, 0.0)?.div(&denominator)?;
        let parameter = parameter.affine(step.keep, 0.0)?.sub(&moved)?;
        Ok((parameter, first, second))
    }
}

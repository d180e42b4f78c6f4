//! Looking elements up by index. Index operands hold ints and get no gradient. Indices are
//! checked by the backend, not here: that would make every look-up wait for the device.

use burn::backend::Dispatch;
use burn::backend::ops::{BoolTensorOps, FloatTensorOps, IntTensorOps};

use super::layout::by_kind;
use crate::error::{Result, TensorError};
use crate::tensor::{Kind, Tensor, guard};

impl Tensor {
    /// Along `axis`, the element that each entry of `index` names; elsewhere the shapes agree.
    ///
    /// # Errors
    /// [`TensorError::Kind`] unless `index` holds ints, [`TensorError::Shape`] unless its rank and the
    /// extents of the other axes are those of `x`.
    pub fn gather(&self, axis: i64, index: &Tensor) -> Result<Tensor> {
        let op = "gather";
        index.expect_kind(op, "index", Kind::Int)?;
        let axis = self.shape().axis(op, axis)?;
        let mut expected = self.shape().to_vec();
        if index.shape().rank() == expected.len() {
            expected[axis] = index.shape()[axis];
        }
        index.expect_shape(op, "index", &expected)?;
        let at = || index.raw.clone();
        guard(op, || {
            let raw = self.raw.clone();
            self.like(match self.kind {
                Kind::Float => Dispatch::float_gather(axis, raw, at()),
                Kind::Int => Dispatch::int_gather(axis, raw, at()),
                Kind::Bool => Dispatch::bool_gather(axis, raw, at()),
            })
        })
    }

    /// The slices along `axis` that the entries of `index`, of rank 1, name.
    ///
    /// # Errors
    /// [`TensorError::Kind`] unless `index` holds ints, [`TensorError::Shape`] unless its rank is 1.
    pub fn index_select(&self, axis: i64, index: &Tensor) -> Result<Tensor> {
        let op = "index_select";
        index.expect_kind(op, "index", Kind::Int)?;
        index.expect_rank(op, "index", 1)?;
        let axis = self.shape().axis(op, axis)?;
        let at = || index.raw.clone();
        guard(op, || {
            by_kind!(self, float_select, int_select, bool_select, |raw| (
                raw,
                axis,
                at()
            ))
        })
    }

    /// Floats with a new last axis of extent `classes`: 1 where the index is, 0 elsewhere.
    /// An index outside `0..classes` gives zeros.
    ///
    /// # Errors
    /// [`TensorError::Kind`] unless `x` holds ints, [`TensorError::Argument`] for no classes.
    pub fn one_hot(&self, classes: usize) -> Result<Tensor> {
        let op = "one_hot";
        self.expect_kind(op, "x", Kind::Int)?;
        let last = i64::try_from(classes).unwrap_or(0);
        if last == 0 {
            return Err(TensorError::Argument {
                op,
                argument: "classes",
                value: classes.to_string(),
                expected: "1 or more".into(),
            });
        }
        let indices = self.unsqueeze(-1)?;
        let mut extents = vec![1; indices.shape().rank()];
        extents[indices.shape().rank() - 1] = last;
        let classes = Tensor::arange(0, last, self.device())?.reshape(&extents)?;
        indices.equal(&classes)?.cast(Kind::Float)
    }

    /// The `k` largest elements along `axis`, largest first, and their indices.
    ///
    /// # Errors
    /// [`TensorError::Argument`] unless `1 <= k <=` the extent, [`TensorError::Kind`] unless the elements are floats.
    pub fn topk(&self, k: usize, axis: i64) -> Result<(Tensor, Tensor)> {
        let op = "topk";
        self.expect_kind(op, "x", Kind::Float)?;
        let axis = self.shape().axis(op, axis)?;
        let extent = self.shape()[axis];
        if k == 0 || k > extent {
            return Err(TensorError::Argument {
                op,
                argument: "k",
                value: k.to_string(),
                expected: format!("1 to {extent}, the extent of axis {axis}"),
            });
        }
        let indices = guard(op, || {
            let (_, raw) =
                Dispatch::float_topk_with_indices(self.detach().raw, axis, k, self.device().int());
            Tensor::wrap(raw, Kind::Int, self.device())
        })?;
        Ok((self.gather(axis as i64, &indices)?, indices))
    }
}

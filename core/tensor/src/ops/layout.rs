//! Layout: the same elements in another arrangement.

use burn::backend::Dispatch;
use burn::backend::ops::{BoolTensorOps, FloatTensorOps, IntTensorOps};
use burn::tensor::Slice;

use crate::cpu::CpuOps;
use crate::error::{Result, TensorError};
use crate::shape::{MAX_RANK, Shape};
use crate::tensor::{Kind, Tensor, guard};

/// Calls the same-named function of whichever kind the tensor has.
macro_rules! by_kind {
    ($tensor:expr, $float:ident, $int:ident, $bool:ident, |$raw:ident| ($($argument:expr),*)) => {{
        let $raw = $tensor.raw.clone();
        $tensor.like(match $tensor.kind {
            Kind::Float => Dispatch::$float($($argument),*),
            Kind::Int => Dispatch::$int($($argument),*),
            Kind::Bool => Dispatch::$bool($($argument),*),
        })
    }};
}
pub(super) use by_kind;

impl Tensor {
    /// The same elements, row by row, in another shape; one extent may be -1 and is then computed.
    ///
    /// # Errors
    /// [`TensorError::Extents`] unless the number of elements stays.
    pub fn reshape(&self, extents: &[i64]) -> Result<Tensor> {
        let shape = self.resolve(extents)?;
        if shape == self.shape() {
            return Ok(self.clone());
        }
        let to = || shape.to_vec().into();
        guard("reshape", || {
            by_kind!(self, float_reshape, int_reshape, bool_reshape, |raw| (
                raw,
                to()
            ))
        })
    }

    fn resolve(&self, extents: &[i64]) -> Result<Shape> {
        let elements = self.shape().elements();
        let error = || TensorError::Extents {
            op: "reshape",
            extents: extents.to_vec(),
            expected: format!("a shape of {elements} elements, with at most one -1"),
        };
        let known: i64 = extents
            .iter()
            .filter(|&&e| e != -1)
            .try_fold(1i64, |p, &e| p.checked_mul(e))
            .ok_or_else(error)?;
        let open = extents.iter().filter(|&&e| e == -1).count();
        if known <= 0 || open > 1 || extents.iter().any(|&e| e < -1) {
            return Err(error());
        }
        let rest = elements as i64 / known;
        let found: Vec<usize> = extents
            .iter()
            .map(|&e| if e == -1 { rest } else { e } as usize)
            .collect();
        if found.iter().product::<usize>() != elements {
            return Err(error());
        }
        Shape::new("reshape", &found)
    }

    /// The axes in another order: axis `i` of the result is axis `axes[i]` of `x`.
    ///
    /// # Errors
    /// [`TensorError::Axis`] unless every axis is named once.
    pub fn permute(&self, axes: &[i64]) -> Result<Tensor> {
        let shape = self.shape();
        shape.axes("permute", axes)?;
        if axes.len() != shape.rank() {
            return Err(self.shape_error(
                "permute",
                "x",
                format!("rank {}, one axis for each", axes.len()),
            ));
        }
        let axes = axes
            .iter()
            .map(|&axis| shape.axis("permute", axis))
            .collect::<Result<Vec<_>>>()?;
        guard("permute", || {
            by_kind!(self, float_permute, int_permute, bool_permute, |raw| (
                raw, &axes
            ))
        })
    }

    /// The same elements under leading extents of 1, as many as make `rank` axes.
    pub(crate) fn with_rank(&self, rank: usize) -> Result<Tensor> {
        if rank <= self.shape().rank() {
            return Ok(self.clone());
        }
        let extents: Vec<i64> = self
            .shape()
            .leading(rank)
            .map(|extent| extent as i64)
            .collect();
        self.reshape(&extents)
    }

    /// Repeats extents of 1 up to `extents`, without copying where the backend can. Leading axes that are missing count as extents of 1.
    ///
    /// # Errors
    /// [`TensorError::Broadcast`] unless every extent is kept or was 1.
    pub fn expand(&self, extents: &[usize]) -> Result<Tensor> {
        let shape = Shape::new("expand", extents)?;
        if shape == self.shape() {
            return Ok(self.clone());
        }
        if self.shape().broadcast("expand", &shape)? != shape {
            return Err(TensorError::Broadcast {
                op: "expand",
                lhs: self.shape(),
                rhs: shape,
            });
        }
        let to = || shape.to_vec().into();
        let ranked = self.with_rank(shape.rank())?;
        guard("expand", || {
            by_kind!(ranked, float_expand, int_expand, bool_expand, |raw| (
                raw,
                to()
            ))
        })
    }

    /// Removes an axis of extent 1.
    ///
    /// # Errors
    /// [`TensorError::Axis`] if there is no such axis, [`TensorError::Shape`] if its extent is not 1 or it is the only one.
    pub fn squeeze(&self, axis: i64) -> Result<Tensor> {
        let shape = self.shape();
        let axis = shape.axis("squeeze", axis)?;
        if shape[axis] != 1 || shape.rank() == 1 {
            return Err(self.shape_error(
                "squeeze",
                "x",
                format!("extent 1 at axis {axis}, and another axis"),
            ));
        }
        let mut extents: Vec<i64> = shape.iter().map(|&e| e as i64).collect();
        extents.remove(axis);
        self.reshape(&extents)
    }

    /// Inserts an axis of extent 1 before `axis`; -1 puts it last.
    ///
    /// # Errors
    /// [`TensorError::Axis`] if there is no such place, [`TensorError::Shape`] if the rank is 6 already.
    pub fn unsqueeze(&self, axis: i64) -> Result<Tensor> {
        let shape = self.shape();
        let places = shape.rank() as i64 + 1;
        let place = if axis < 0 { axis + places } else { axis };
        if !(0..places).contains(&place) {
            return Err(TensorError::Axis {
                op: "unsqueeze",
                axis,
                shape,
            });
        }
        if shape.rank() == MAX_RANK {
            return Err(self.shape_error("unsqueeze", "x", "rank 5 or less"));
        }
        let mut extents: Vec<i64> = shape.iter().map(|&e| e as i64).collect();
        extents.insert(place as usize, 1);
        self.reshape(&extents)
    }

    /// The elements along `axis` in reverse order.
    ///
    /// # Errors
    /// [`TensorError::Axis`] if there is no such axis.
    pub fn flip(&self, axis: i64) -> Result<Tensor> {
        let axes = [self.shape().axis("flip", axis)?];
        guard("flip", || {
            by_kind!(self, float_flip, int_flip, bool_flip, |raw| (raw, &axes))
        })
    }

    /// The `length` elements along `axis` that begin at `start`.
    ///
    /// # Errors
    /// [`TensorError::Axis`] if there is no such axis, [`TensorError::Argument`] if the range leaves it.
    pub fn narrow(&self, axis: i64, start: usize, length: usize) -> Result<Tensor> {
        let shape = self.shape();
        let axis = shape.axis("narrow", axis)?;
        let end = start
            .checked_add(length)
            .filter(|&end| length > 0 && end <= shape[axis]);
        let Some(end) = end else {
            return Err(TensorError::Argument {
                op: "narrow",
                argument: "length",
                value: format!("{length} from {start}"),
                expected: format!("a range within extent {} of axis {axis}", shape[axis]),
            });
        };
        if length == shape[axis] {
            return Ok(self.clone());
        }
        let slices: Vec<Slice> = (0..shape.rank())
            .map(|a| {
                if a == axis {
                    (start, end)
                } else {
                    (0, shape[a])
                }
            })
            .map(|(start, end)| Slice::new(start as isize, Some(end as isize), 1))
            .collect();
        guard("narrow", || {
            by_kind!(self, float_slice, int_slice, bool_slice, |raw| (
                raw, &slices
            ))
        })
    }

    /// Puts `before` and `after` elements of `value` around `axis`.
    ///
    /// # Errors
    /// [`TensorError::Axis`] if there is no such axis, [`TensorError::Kind`] unless the elements are floats.
    pub fn pad(&self, axis: i64, before: usize, after: usize, value: f64) -> Result<Tensor> {
        self.expect_kind("pad", "x", Kind::Float)?;
        let axis = self.shape().axis("pad", axis)?;
        let border = |length: usize| {
            let mut extents = self.shape().to_vec();
            extents[axis] = length;
            Tensor::full(&extents, value, self.device())
        };
        let mut parts = Vec::with_capacity(3);
        if before > 0 {
            parts.push(border(before)?);
        }
        parts.push(self.clone());
        if after > 0 {
            parts.push(border(after)?);
        }
        Tensor::cat(&parts.iter().collect::<Vec<_>>(), axis as i64)
    }

    /// Joins tensors along an axis they have.
    ///
    /// # Errors
    /// [`TensorError::Argument`] for an empty list, [`TensorError::Shape`] or [`TensorError::Kind`] unless the
    /// parts agree in kind and in every other extent.
    pub fn cat(parts: &[&Tensor], axis: i64) -> Result<Tensor> {
        let op = "cat";
        let [first, rest @ ..] = parts else {
            return Err(TensorError::Argument {
                op,
                argument: "parts",
                value: "empty".into(),
                expected: "at least one tensor".into(),
            });
        };
        let axis = first.shape().axis(op, axis)?;
        if rest.is_empty() {
            return Ok((*first).clone());
        }
        let mut total = first.shape().to_vec();
        for part in rest {
            part.expect_kind(op, "part", first.kind)?;
            part.expect_precision(op, first)?;
            let mut expected = first.shape().to_vec();
            if part.shape().rank() == expected.len() {
                expected[axis] = part.shape()[axis];
                total[axis] += part.shape()[axis];
            }
            part.expect_shape(op, "part", &expected)?;
        }
        Shape::new(op, &total)?;
        if let [second] = rest
            && first.has_cpu_ops()
        {
            let (a, b) = (first.raw.clone(), second.raw.clone());
            return guard(op, || first.like(Dispatch::cpu_cat(a, b, axis)));
        }
        let raws = || parts.iter().map(|part| part.raw.clone()).collect();
        guard(op, || {
            first.like(match first.kind {
                Kind::Float => Dispatch::float_cat(raws(), axis),
                Kind::Int => Dispatch::int_cat(raws(), axis),
                Kind::Bool => Dispatch::bool_cat(raws(), axis),
            })
        })
    }

    /// Joins tensors of one shape along a new axis.
    ///
    /// # Errors
    /// As [`cat`](Self::cat) and [`unsqueeze`](Self::unsqueeze).
    pub fn stack(parts: &[&Tensor], axis: i64) -> Result<Tensor> {
        for part in parts {
            part.expect_kind("stack", "part", parts[0].kind)?;
            part.expect_shape("stack", "part", &parts[0].shape())?;
        }
        let place = match parts.first() {
            Some(first) if axis < 0 => axis + first.shape().rank() as i64 + 1,
            _ => axis,
        };
        let lifted = parts
            .iter()
            .map(|part| part.unsqueeze(place))
            .collect::<Result<Vec<_>>>()?;
        Tensor::cat(&lifted.iter().collect::<Vec<_>>(), place)
    }
}

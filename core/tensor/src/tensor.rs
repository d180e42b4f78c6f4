//! The rank-erased tensor: what it holds, how it is made, read and tied to the tape.
//!
//! It wraps Burn's dispatch tensor, which carries kind, device and autodiff context at run
//! time. Burn panics on a bad shape; every operation here checks first and answers `Err`,
//! and [`guard`] turns a panic that slips through into an error as a second net.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::backend::ops::{BoolTensorOps, FloatTensorOps, IntTensorOps};
use burn::backend::{AutodiffBackend, Dispatch, DispatchTensor, TensorMetadata};
use burn::tensor::{Scalar, TensorData};

use crate::cpu::CpuOps;
use crate::device::{Device, Precision};
use crate::error::{Result, TensorError};
use crate::shape::Shape;
use crate::tally;

/// What a tensor holds. Bit width is the device's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Real numbers; the only kind that the tape records.
    Float,
    /// Whole numbers: class ids, indices.
    Int,
    /// Truth values: masks.
    Bool,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float => "float",
            Self::Int => "int",
            Self::Bool => "boolean",
        })
    }
}

/// A tensor of rank 1 to 6 on some device. Cloning shares the storage.
#[derive(Clone)]
pub struct Tensor {
    pub(crate) raw: DispatchTensor,
    pub(crate) kind: Kind,
    shape: Shape,
    device: Device,
}

/// Gradients of one backward pass, by leaf.
pub struct Gradients(<Dispatch as AutodiffBackend>::Gradients);

impl Tensor {
    pub(crate) fn wrap(raw: DispatchTensor, kind: Kind, device: &Device) -> Self {
        let shape = Shape::unchecked(&raw.shape());
        let bytes = match kind {
            Kind::Float => device.precision().bytes(),
            Kind::Int | Kind::Bool => size_of::<f32>(),
        };
        tally::result(shape.elements() * bytes);
        Self {
            raw,
            kind,
            shape,
            device: device.clone(),
        }
    }

    /// A result of the same kind and device as `self`.
    pub(crate) fn like(&self, raw: DispatchTensor) -> Self {
        Self::wrap(raw, self.kind, &self.device)
    }

    /// A tensor of `shape` filled with `value`, untracked.
    ///
    /// # Errors
    /// [`TensorError::Extents`] if `shape` is none.
    pub fn full(shape: &[usize], value: f64, device: &Device) -> Result<Self> {
        let shape = Shape::new("full", shape)?;
        guard("full", || {
            let raw = Dispatch::float_full(
                shape.to_vec().into(),
                Scalar::Float(value),
                device.raw(),
                device.float(),
            );
            Self::wrap(raw, Kind::Float, device)
        })
    }

    /// Copies `data`, row by row, to `device`. Untracked.
    ///
    /// # Errors
    /// [`TensorError::Extents`] if `shape` is none or holds another number of elements.
    pub fn from_floats(data: &[f32], shape: &[usize], device: &Device) -> Result<Self> {
        Self::from_values(data.to_vec(), shape, device)
    }

    /// As [`from_floats`](Self::from_floats), of numbers that a device in the same memory keeps where they are.
    ///
    /// # Errors
    /// As there.
    pub fn from_values(data: Vec<f32>, shape: &[usize], device: &Device) -> Result<Self> {
        let shape = counted("from-floats", data.len(), shape)?;
        guard("from-floats", || {
            let data = TensorData::new(data, shape.to_vec()).convert_dtype(device.float().into());
            Self::wrap(
                Dispatch::float_from_data(data, device.raw()),
                Kind::Float,
                device,
            )
        })
    }

    /// Copies whole numbers to `device`.
    ///
    /// # Errors
    /// [`TensorError::Extents`] if `shape` is none or holds another number of elements.
    pub fn from_ints(data: &[i64], shape: &[usize], device: &Device) -> Result<Self> {
        let shape = counted("from-ints", data.len(), shape)?;
        guard("from-ints", || {
            let data =
                TensorData::new(data.to_vec(), shape.to_vec()).convert_dtype(device.int().into());
            Self::wrap(
                Dispatch::int_from_data(data, device.raw()),
                Kind::Int,
                device,
            )
        })
    }

    /// The whole numbers `start..end` as a tensor of rank 1.
    ///
    /// # Errors
    /// [`TensorError::Argument`] unless `start < end`.
    pub fn arange(start: i64, end: i64, device: &Device) -> Result<Self> {
        let length = end
            .checked_sub(start)
            .filter(|length| (1..=i64::from(i32::MAX)).contains(length));
        let Some(length) = length else {
            return Err(TensorError::Argument {
                op: "arange",
                argument: "end",
                value: end.to_string(),
                expected: format!("more than the start, {start}"),
            });
        };
        let data: Vec<i64> = (start..end).collect();
        Self::from_ints(&data, &[length as usize], device)
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// What the elements are.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where the tensor lives.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether the tape records what is computed from this tensor.
    pub fn is_tracked(&self) -> bool {
        self.kind == Kind::Float && Dispatch::is_tracked(&self.raw)
    }

    /// Copies the elements out, row by row. Waits for the device and leaves the tape.
    ///
    /// # Errors
    /// [`TensorError::Kind`] unless the elements are floats.
    pub fn to_floats(&self) -> Result<Vec<f32>> {
        self.expect_kind("read-floats", "x", Kind::Float)?;
        guard("read-floats", || {
            let data = burn::tensor::try_read_sync(Dispatch::float_into_data(self.untracked_raw()));
            read("read-floats", data, |data| {
                data.convert::<f32>().try_to_vec::<f32>().ok()
            })
        })?
    }

    /// Copies whole numbers out, or truth values as 0 and 1.
    ///
    /// # Errors
    /// [`TensorError::Kind`] if the elements are floats.
    pub fn to_ints(&self) -> Result<Vec<i64>> {
        let op = "read-ints";
        let raw = self.raw.clone();
        let data = match self.kind {
            Kind::Float => {
                return Err(TensorError::Kind {
                    op,
                    argument: "x",
                    found: self.kind,
                    expected: "int or boolean",
                });
            }
            Kind::Int => guard(op, || {
                burn::tensor::try_read_sync(Dispatch::int_into_data(raw))
            })?,
            Kind::Bool => guard(op, || {
                let raw = Dispatch::bool_into_int(raw, self.device.int());
                burn::tensor::try_read_sync(Dispatch::int_into_data(raw))
            })?,
        };
        read(op, data, |data| {
            data.convert::<i64>().try_to_vec::<i64>().ok()
        })
    }

    /// The only element of a tensor that has one.
    ///
    /// # Errors
    /// [`TensorError::Shape`] if there are more, [`TensorError::Kind`] unless it is a float.
    pub fn item(&self) -> Result<f32> {
        if self.shape.elements() != 1 {
            return Err(self.shape_error("item", "x", "one element"));
        }
        Ok(self.to_floats()?[0])
    }

    /// Whether every element is a finite number. Whole numbers and truth values always are. Waits for the device and leaves the
    /// tape.
    ///
    /// # Errors
    /// [`TensorError::Backend`] if the device fails.
    pub fn is_finite(&self) -> Result<bool> {
        if self.kind != Kind::Float {
            return Ok(true);
        }
        if self.has_cpu_ops() {
            let raw = self.untracked_raw();
            let answer = guard("is-finite", || self.like(Dispatch::cpu_is_finite(raw)))?;
            return Ok(answer.item()? != 0.0);
        }
        self.is_finite_composed()
    }

    fn is_finite_composed(&self) -> Result<bool> {
        let (raw, boolean) = (self.untracked_raw(), self.device.boolean());
        let other = guard("is-finite", || {
            let other = Dispatch::bool_or(
                Dispatch::float_is_nan(raw.clone(), boolean),
                Dispatch::float_is_inf(raw, boolean),
            );
            Self::wrap(Dispatch::bool_any(other), Kind::Bool, &self.device)
        })?;
        Ok(other.to_ints()? == [0])
    }

    /// The same values, cut off from whatever computed them. Never tracked.
    pub fn detach(&self) -> Self {
        match self.kind {
            Kind::Float => self.like(self.untracked_raw()),
            Kind::Int | Kind::Bool => self.clone(),
        }
    }

    /// The same values as a new leaf: the tape records from here, and
    /// [`Gradients::of`] this leaf answers.
    ///
    /// # Errors
    /// [`TensorError::Kind`] unless the elements are floats.
    pub fn to_leaf(&self) -> Result<Self> {
        self.expect_kind("to-leaf", "x", Kind::Float)?;
        guard("to-leaf", || {
            let raw = <Dispatch as AutodiffBackend>::from_inner(self.untracked_raw());
            self.like(Dispatch::float_set_require_grad(raw, true))
        })
    }

    /// Differentiates this scalar (`[1]`) with respect to every leaf it was computed from.
    /// The recorded steps are consumed.
    ///
    /// # Errors
    /// [`TensorError::Shape`] unless the shape is `[1]`, [`TensorError::NotTracked`] if nothing was recorded.
    pub fn backward(&self) -> Result<Gradients> {
        if self.shape.elements() != 1 {
            return Err(self.shape_error("backward", "loss", "one element"));
        }
        if !self.is_tracked() {
            return Err(TensorError::NotTracked);
        }
        guard("backward", || {
            Gradients(<Dispatch as AutodiffBackend>::backward(self.raw.clone()))
        })
    }

    /// The same values, rounded to `precision`. The tape records it: a gradient has the precision of what it is a gradient of.
    ///
    /// # Errors
    /// [`TensorError::Kind`] unless the elements are floats, [`TensorError::Device`] for a precision that the device does not have.
    pub fn to_precision(&self, precision: Precision) -> Result<Self> {
        let op = "to-precision";
        self.expect_kind(op, "x", Kind::Float)?;
        let device = self.device.with_precision(precision)?;
        if device == self.device {
            return Ok(self.clone());
        }
        guard(op, || {
            let raw = Dispatch::float_cast(self.raw.clone(), device.float());
            Self::wrap(raw, Kind::Float, &device)
        })
    }

    /// This scalar (`[1]`), to whose gradient with respect to `leaf` that `gradient` is added: a sum over several passes that grows as its
    /// terms arrive, so that no pass has a set of gradients of its own.
    ///
    /// # Errors
    /// [`TensorError::Shape`] unless the shape is `[1]` and `gradient` has that of `leaf`.
    pub fn with_gradient(&self, leaf: &Tensor, gradient: Tensor) -> Result<Self> {
        let op = "with-gradient";
        if self.shape.elements() != 1 {
            return Err(self.shape_error(op, "loss", "one element"));
        }
        gradient.expect_kind(op, "gradient", Kind::Float)?;
        gradient.expect_shape(op, "gradient", &leaf.shape())?;
        let gradient = gradient.detach();
        if !self.has_cpu_ops() {
            // The product with the gradient has it as its own; what it adds to the value is taken away again.
            let product = leaf.mul(&gradient)?.sum(&[], false)?;
            return self.add(&product.sub(&product.detach())?);
        }
        let (x, leaf) = (self.raw.clone(), leaf.raw.clone());
        guard(op, || {
            self.like(Dispatch::cpu_with_gradient(x, leaf, gradient.raw))
        })
    }

    /// The same values on `device` and in its precision, untracked. Shares the storage if they are there already.
    ///
    /// # Errors
    /// [`TensorError::Backend`] if the transfer fails.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        if self.device == *device {
            return Ok(self.detach());
        }
        if self.device.is_beside(device) {
            return match self.kind {
                Kind::Float => self.detach().to_precision(device.precision()),
                Kind::Int | Kind::Bool => Ok(Self {
                    device: device.clone(),
                    ..self.clone()
                }),
            };
        }
        let shape = self.shape;
        match self.kind {
            Kind::Float => Self::from_floats(&self.to_floats()?, &shape, device),
            Kind::Int => Self::from_ints(&self.to_ints()?, &shape, device),
            Kind::Bool => Self::from_ints(&self.to_ints()?, &shape, device)?.cast(Kind::Bool),
        }
    }

    /// Whether the fused operations of the embedded CPU backend take this tensor.
    pub(crate) fn has_cpu_ops(&self) -> bool {
        self.kind == Kind::Float && self.device.has_cpu_ops()
    }

    /// Whether the fused operations of LibTorch take this tensor.
    pub(crate) fn has_torch_ops(&self) -> bool {
        self.kind == Kind::Float && self.device.has_torch_ops()
    }

    fn untracked_raw(&self) -> DispatchTensor {
        let raw = self.raw.clone();
        if matches!(raw.device(), burn::backend::DispatchDevice::Autodiff(_)) {
            <Dispatch as AutodiffBackend>::inner(raw)
        } else {
            raw
        }
    }

    pub(crate) fn expect_kind(
        &self,
        op: &'static str,
        argument: &'static str,
        kind: Kind,
    ) -> Result<()> {
        if self.kind == kind {
            return Ok(());
        }
        let expected = match kind {
            Kind::Float => "float",
            Kind::Int => "int",
            Kind::Bool => "boolean",
        };
        Err(TensorError::Kind {
            op,
            argument,
            found: self.kind,
            expected,
        })
    }

    /// LibTorch would widen the narrower operand, and say nothing.
    pub(crate) fn expect_precision(&self, op: &'static str, other: &Tensor) -> Result<()> {
        let [found, expected] = [self, other].map(|x| x.device.precision());
        if found == expected || self.kind != Kind::Float {
            return Ok(());
        }
        Err(TensorError::Argument {
            op,
            argument: "precision",
            value: found.to_string(),
            expected: format!("{expected}, as of the other operand"),
        })
    }

    pub(crate) fn expect_rank(
        &self,
        op: &'static str,
        argument: &'static str,
        rank: usize,
    ) -> Result<()> {
        if self.shape.rank() == rank {
            return Ok(());
        }
        Err(self.shape_error(op, argument, format!("rank {rank}")))
    }

    pub(crate) fn expect_shape(
        &self,
        op: &'static str,
        argument: &'static str,
        shape: &[usize],
    ) -> Result<()> {
        if *self.shape == *shape {
            return Ok(());
        }
        Err(self.shape_error(op, argument, format!("{shape:?}")))
    }

    pub(crate) fn shape_error(
        &self,
        op: &'static str,
        argument: &'static str,
        expected: impl Into<String>,
    ) -> TensorError {
        TensorError::Shape {
            op,
            argument,
            shape: self.shape,
            expected: expected.into(),
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({}, {}, {})", self.kind, self.shape, self.device)
    }
}

impl Gradients {
    /// The gradient with respect to `leaf`, untracked; `None` if the loss does not depend on it.
    pub fn of(&self, leaf: &Tensor) -> Option<Tensor> {
        if !leaf.is_tracked() {
            return None;
        }
        let raw = <Dispatch as AutodiffBackend>::grad(&leaf.raw, &self.0)?;
        Some(leaf.like(raw))
    }
}

/// Runs a backend call; a panic becomes [`TensorError::Backend`].
pub(crate) fn guard<T>(op: &'static str, call: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        let message = payload
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| {
                payload
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
            })
            .unwrap_or_else(|| "unknown panic".into());
        TensorError::Backend { op, message }
    })
}

fn counted(op: &'static str, elements: usize, shape: &[usize]) -> Result<Shape> {
    let shape = Shape::new(op, shape)?;
    if shape.elements() == elements {
        return Ok(shape);
    }
    Err(TensorError::Extents {
        op,
        extents: shape.iter().map(|&extent| extent as i64).collect(),
        expected: format!("a product of {elements}, the number of elements given"),
    })
}

fn read<T, E: fmt::Debug>(
    op: &'static str,
    data: Option<Result<TensorData, E>>,
    convert: impl FnOnce(TensorData) -> Option<Vec<T>>,
) -> Result<Vec<T>> {
    let failed = |message: String| TensorError::Backend { op, message };
    let data = data
        .ok_or_else(|| failed("the device cannot be read synchronously".into()))?
        .map_err(|error| failed(format!("{error:?}")))?;
    convert(data).ok_or_else(|| failed("the data has an unexpected type".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_element_that_is_no_number_is_found_anywhere() {
        let device = Device::cpu();
        for n in [1, 7, 100_000] {
            let mut values = vec![f32::MAX; n];
            values[n / 2] = f32::MIN_POSITIVE / 2.0;
            let finite = Tensor::from_floats(&values, &[n], &device).unwrap();
            assert_eq!(finite.is_finite(), Ok(true));
            assert_eq!(finite.is_finite_composed(), Ok(true));
            for (place, value) in [
                (0, f32::NAN),
                (n / 2, f32::INFINITY),
                (n - 1, f32::NEG_INFINITY),
                (n - 1, -f32::NAN),
            ] {
                let mut values = values.clone();
                values[place] = value;
                let other = Tensor::from_floats(&values, &[n], &device).unwrap();
                assert_eq!(other.is_finite(), Ok(false), "{value} at {place} of {n}");
                assert_eq!(other.is_finite_composed(), Ok(false));
            }
        }
    }

    #[test]
    fn only_what_a_view_shows_counts() {
        let device = Device::cpu();
        let values = [1.0, f32::NAN, 3.0, 4.0];
        let all = Tensor::from_floats(&values, &[2, 2], &device).unwrap();
        assert_eq!(all.narrow(0, 1, 1).unwrap().is_finite(), Ok(true));
        let column = |n| all.permute(&[1, 0]).unwrap().narrow(0, n, 1).unwrap();
        assert_eq!(column(0).is_finite(), Ok(true));
        assert_eq!(column(1).is_finite(), Ok(false));
    }

    #[test]
    fn a_tracked_tensor_is_looked_through_and_stays_tracked() {
        let leaf = Tensor::full(&[3], 2.0, &Device::cpu())
            .unwrap()
            .to_leaf()
            .unwrap();
        let root = leaf.affine(-1.0, 0.0).unwrap().sqrt().unwrap();
        assert_eq!((leaf.is_finite(), root.is_finite()), (Ok(true), Ok(false)));
        assert!(root.is_tracked());
    }

    #[test]
    fn whole_numbers_and_truth_values_are_finite() {
        let ints = Tensor::from_ints(&[i64::from(i32::MAX), -1], &[2], &Device::cpu()).unwrap();
        assert_eq!(ints.is_finite(), Ok(true));
        assert_eq!(ints.cast(Kind::Bool).unwrap().is_finite(), Ok(true));
    }

    #[test]
    fn what_is_on_the_device_already_is_shared_and_untracked() {
        let device = Device::cpu();
        let leaf = Tensor::full(&[3], 2.0, &device).unwrap().to_leaf().unwrap();
        let there = leaf.to_device(&device).unwrap();
        assert!(leaf.is_tracked() && !there.is_tracked());
        assert_eq!(there.to_floats(), leaf.to_floats());
    }
}

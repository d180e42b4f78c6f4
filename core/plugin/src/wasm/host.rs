//! The host's side of `wit/types.wit`: every operation decodes its arguments into the order of
//! its row in the op table and asks the [`Session`]. Whatever the session refuses goes back
//! to the plugin as an error. A plugin that takes no notice of a spent budget is ended.

use dtta_tensor::Attribute::{Bool, Float, Int};
use dtta_tensor::{Attribute, Handle, OpCode, SHOWN_CHARACTERS, Session, TensorError};
use wasmtime::ResourceLimiter;
use wasmtime::component::Resource;

use super::bindings::dtta::plugin::{declare, session, tensor, types};
use super::bindings::{TensorResource, ValuesResource};
use crate::logs;
use session::LogLevel;
use tensor::{ConvOptions, PoolOptions};
use types::{Error, Kind, Shape};

type Id = Resource<TensorResource>;
type Values = Resource<ValuesResource>;
type Reply<T = Id> = wasmtime::Result<Result<T, Error>>;

/// What one store holds: the tensors of the current call, and what the call may use.
pub(crate) struct HostState {
    pub(super) plugin: String,
    pub(super) session: Session,
    pub(super) memory: MemoryLimit,
    /// The last line that the plugin logged as an error in this call: its panic message.
    pub(super) last_words: Option<String>,
}

impl HostState {
    fn op(&mut self, code: OpCode, tensors: &[Id], attributes: &[Attribute]) -> Reply {
        let outputs = self.outputs(code, tensors, attributes);
        self.answer(outputs.map(|[first, _]| own(first)))
    }

    /// What the session says, as an answer to the plugin; a trap once it has been told often enough that a budget is spent.
    fn answer<T>(&self, said: Result<T, TensorError>) -> Reply<T> {
        match said {
            Ok(answer) => Ok(Ok(answer)),
            Err(error) if self.session.is_spent() => Err(spent(error)),
            Err(error) => Ok(Err(Error {
                code: error.code().into(),
                message: error.to_string(),
            })),
        }
    }

    fn outputs(
        &mut self,
        code: OpCode,
        tensors: &[Id],
        attributes: &[Attribute],
    ) -> Result<[Handle; 2], TensorError> {
        let mut few = [Handle(0); 8];
        let many: Vec<Handle>;
        let handles = match few.get_mut(..tensors.len()) {
            Some(handles) => {
                for (handle, id) in handles.iter_mut().zip(tensors) {
                    *handle = Handle(id.rep());
                }
                &*handles
            }
            None => {
                many = tensors.iter().map(|id| Handle(id.rep())).collect();
                &many
            }
        };
        self.session.op(code, handles, attributes)
    }
}

impl types::Host for HostState {}
impl tensor::Host for HostState {}
impl declare::Host for HostState {}

impl tensor::HostTensor for HostState {
    fn from_floats(&mut self, data: Vec<f32>, shape: Shape) -> Reply {
        let made = self.session.from_floats(&data, &extents(&shape));
        self.answer(made.map(own))
    }

    fn from_ints(&mut self, data: Vec<i64>, shape: Shape) -> Reply {
        let made = self.session.from_ints(&data, &extents(&shape));
        self.answer(made.map(own))
    }

    fn shape(&mut self, x: Id) -> wasmtime::Result<Shape> {
        let shape = self
            .session
            .get(Handle(x.rep()))
            .map_err(wasmtime::Error::new)?
            .shape();
        Ok(shape.iter().map(|&extent| extent as u32).collect()) // at most 2^31 - 1 elements
    }

    fn kind(&mut self, x: Id) -> wasmtime::Result<Kind> {
        Ok(
            match self
                .session
                .kind(Handle(x.rep()))
                .map_err(wasmtime::Error::new)?
            {
                dtta_tensor::Kind::Float => Kind::Float,
                dtta_tensor::Kind::Int => Kind::Int,
                dtta_tensor::Kind::Bool => Kind::Boolean,
            },
        )
    }

    fn tracked(&mut self, x: Id) -> wasmtime::Result<bool> {
        Ok(self
            .session
            .get(Handle(x.rep()))
            .map_err(wasmtime::Error::new)?
            .is_tracked())
    }

    fn share(&mut self, x: Id) -> Reply {
        let shared = self.session.share(Handle(x.rep()));
        self.answer(shared.map(own))
    }

    fn read_floats(&mut self, x: Id) -> Reply<Vec<f32>> {
        let read = self.session.read_floats(Handle(x.rep()));
        self.answer(read)
    }

    fn read_ints(&mut self, x: Id) -> Reply<Vec<i64>> {
        let read = self.session.read_ints(Handle(x.rep()));
        self.answer(read)
    }

    fn topk(&mut self, x: Id, k: u32, axis: i32) -> Reply<(Id, Id)> {
        let found = self.outputs(OpCode::Topk, &[x], &[Int(k.into()), Int(axis.into())]);
        self.answer(found.map(|[values, indices]| (own(values), own(indices))))
    }

    fn drop(&mut self, x: Id) -> wasmtime::Result<()> {
        self.session.release(Handle(x.rep()));
        Ok(())
    }

    fn full(&mut self, shape: Shape, value: f64) -> Reply {
        self.op(OpCode::Full, &[], &[ints(shape), Float(value)])
    }

    fn arange(&mut self, start: i64, end: i64) -> Reply {
        self.op(OpCode::Arange, &[], &[Int(start), Int(end)])
    }

    fn detach(&mut self, x: Id) -> Reply {
        self.op(OpCode::Detach, &[x], &[])
    }

    fn add(&mut self, x: Id, rhs: Id) -> Reply {
        self.op(OpCode::Add, &[x, rhs], &[])
    }

    fn sub(&mut self, x: Id, rhs: Id) -> Reply {
        self.op(OpCode::Sub, &[x, rhs], &[])
    }

    fn mul(&mut self, x: Id, rhs: Id) -> Reply {
        self.op(OpCode::Mul, &[x, rhs], &[])
    }

    fn div(&mut self, x: Id, rhs: Id) -> Reply {
        self.op(OpCode::Div, &[x, rhs], &[])
    }

    fn maximum(&mut self, x: Id, rhs: Id) -> Reply {
        self.op(OpCode::Maximum, &[x, rhs], &[])
    }

    fn minimum(&mut self, x: Id, rhs: Id) -> Reply {
        self.op(OpCode::Minimum, &[x, rhs], &[])
    }

    fn affine(&mut self, x: Id, scale: f64, offset: f64) -> Reply {
        self.op(OpCode::Affine, &[x], &[Float(scale), Float(offset)])
    }

    fn powf(&mut self, x: Id, exponent: f64) -> Reply {
        self.op(OpCode::Powf, &[x], &[Float(exponent)])
    }

    fn clamp(&mut self, x: Id, low: Option<f64>, high: Option<f64>) -> Reply {
        self.op(
            OpCode::Clamp,
            &[x],
            &[float_or_none(low), float_or_none(high)],
        )
    }

    fn neg(&mut self, x: Id) -> Reply {
        self.op(OpCode::Neg, &[x], &[])
    }

    fn abs(&mut self, x: Id) -> Reply {
        self.op(OpCode::Abs, &[x], &[])
    }

    fn exp(&mut self, x: Id) -> Reply {
        self.op(OpCode::Exp, &[x], &[])
    }

    fn log(&mut self, x: Id) -> Reply {
        self.op(OpCode::Log, &[x], &[])
    }

    fn sqrt(&mut self, x: Id) -> Reply {
        self.op(OpCode::Sqrt, &[x], &[])
    }

    fn tanh(&mut self, x: Id) -> Reply {
        self.op(OpCode::Tanh, &[x], &[])
    }

    fn sigmoid(&mut self, x: Id) -> Reply {
        self.op(OpCode::Sigmoid, &[x], &[])
    }

    fn relu(&mut self, x: Id) -> Reply {
        self.op(OpCode::Relu, &[x], &[])
    }

    fn gelu(&mut self, x: Id) -> Reply {
        self.op(OpCode::Gelu, &[x], &[])
    }

    fn silu(&mut self, x: Id) -> Reply {
        self.op(OpCode::Silu, &[x], &[])
    }

    fn cast(&mut self, x: Id, kind: Kind) -> Reply {
        self.op(OpCode::Cast, &[x], &[kind_number(kind)])
    }

    fn equal(&mut self, x: Id, rhs: Id) -> Reply {
        self.op(OpCode::Equal, &[x, rhs], &[])
    }

    fn greater(&mut self, x: Id, rhs: Id) -> Reply {
        self.op(OpCode::Greater, &[x, rhs], &[])
    }

    fn greater_scalar(&mut self, x: Id, rhs: f64) -> Reply {
        self.op(OpCode::GreaterScalar, &[x], &[Float(rhs)])
    }

    fn logical_not(&mut self, x: Id) -> Reply {
        self.op(OpCode::LogicalNot, &[x], &[])
    }

    fn logical_and(&mut self, x: Id, rhs: Id) -> Reply {
        self.op(OpCode::LogicalAnd, &[x, rhs], &[])
    }

    fn choose(&mut self, x: Id, mask: Id, otherwise: Id) -> Reply {
        self.op(OpCode::Choose, &[x, mask, otherwise], &[])
    }

    fn sum(&mut self, x: Id, axes: Vec<i32>, keep: bool) -> Reply {
        self.op(OpCode::Sum, &[x], &[ints(axes), Bool(keep)])
    }

    fn mean(&mut self, x: Id, axes: Vec<i32>, keep: bool) -> Reply {
        self.op(OpCode::Mean, &[x], &[ints(axes), Bool(keep)])
    }

    fn variance(&mut self, x: Id, axes: Vec<i32>, keep: bool) -> Reply {
        self.op(OpCode::Variance, &[x], &[ints(axes), Bool(keep)])
    }

    fn amax(&mut self, x: Id, axes: Vec<i32>, keep: bool) -> Reply {
        self.op(OpCode::Amax, &[x], &[ints(axes), Bool(keep)])
    }

    fn amin(&mut self, x: Id, axes: Vec<i32>, keep: bool) -> Reply {
        self.op(OpCode::Amin, &[x], &[ints(axes), Bool(keep)])
    }

    fn argmax(&mut self, x: Id, axis: i32) -> Reply {
        self.op(OpCode::Argmax, &[x], &[Int(axis.into())])
    }

    fn reshape(&mut self, x: Id, shape: Vec<i64>) -> Reply {
        self.op(OpCode::Reshape, &[x], &[ints(shape)])
    }

    fn permute(&mut self, x: Id, axes: Vec<i32>) -> Reply {
        self.op(OpCode::Permute, &[x], &[ints(axes)])
    }

    fn expand(&mut self, x: Id, shape: Shape) -> Reply {
        self.op(OpCode::Expand, &[x], &[ints(shape)])
    }

    fn squeeze(&mut self, x: Id, axis: i32) -> Reply {
        self.op(OpCode::Squeeze, &[x], &[Int(axis.into())])
    }

    fn unsqueeze(&mut self, x: Id, axis: i32) -> Reply {
        self.op(OpCode::Unsqueeze, &[x], &[Int(axis.into())])
    }

    fn flip(&mut self, x: Id, axis: i32) -> Reply {
        self.op(OpCode::Flip, &[x], &[Int(axis.into())])
    }

    fn narrow(&mut self, x: Id, axis: i32, start: u32, length: u32) -> Reply {
        self.op(
            OpCode::Narrow,
            &[x],
            &[Int(axis.into()), Int(start.into()), Int(length.into())],
        )
    }

    fn pad(&mut self, x: Id, axis: i32, before: u32, after: u32, value: f64) -> Reply {
        self.op(
            OpCode::Pad,
            &[x],
            &[
                Int(axis.into()),
                Int(before.into()),
                Int(after.into()),
                Float(value),
            ],
        )
    }

    fn cat(&mut self, parts: Vec<Id>, axis: i32) -> Reply {
        self.op(OpCode::Cat, &parts, &[Int(axis.into())])
    }

    fn stack(&mut self, parts: Vec<Id>, axis: i32) -> Reply {
        self.op(OpCode::Stack, &parts, &[Int(axis.into())])
    }

    fn gather(&mut self, x: Id, axis: i32, index: Id) -> Reply {
        self.op(OpCode::Gather, &[x, index], &[Int(axis.into())])
    }

    fn index_select(&mut self, x: Id, axis: i32, index: Id) -> Reply {
        self.op(OpCode::IndexSelect, &[x, index], &[Int(axis.into())])
    }

    fn one_hot(&mut self, x: Id, classes: u32) -> Reply {
        self.op(OpCode::OneHot, &[x], &[Int(classes.into())])
    }

    fn matmul(&mut self, x: Id, rhs: Id) -> Reply {
        self.op(OpCode::Matmul, &[x, rhs], &[])
    }

    fn softmax(&mut self, x: Id, axis: i32) -> Reply {
        self.op(OpCode::Softmax, &[x], &[Int(axis.into())])
    }

    fn log_softmax(&mut self, x: Id, axis: i32) -> Reply {
        self.op(OpCode::LogSoftmax, &[x], &[Int(axis.into())])
    }

    fn conv2d(&mut self, x: Id, weight: Id, bias: Option<Id>, options: ConvOptions) -> Reply {
        self.op(
            OpCode::Conv2d,
            &[x, weight, or_none(bias)],
            &[
                pair(options.stride),
                pair(options.padding),
                pair(options.dilation),
                Int(options.groups.into()),
            ],
        )
    }

    fn avg_pool2d(&mut self, x: Id, options: PoolOptions) -> Reply {
        self.op(
            OpCode::AvgPool2d,
            &[x],
            &[
                pair(options.kernel),
                pair(options.stride),
                pair(options.padding),
            ],
        )
    }

    fn max_pool2d(&mut self, x: Id, options: PoolOptions) -> Reply {
        self.op(
            OpCode::MaxPool2d,
            &[x],
            &[
                pair(options.kernel),
                pair(options.stride),
                pair(options.padding),
            ],
        )
    }

    fn adaptive_avg_pool2d(&mut self, x: Id, height: u32, width: u32) -> Reply {
        self.op(
            OpCode::AdaptiveAvgPool2d,
            &[x],
            &[Int(height.into()), Int(width.into())],
        )
    }

    fn layer_norm(&mut self, x: Id, weight: Option<Id>, bias: Option<Id>, epsilon: f64) -> Reply {
        self.op(
            OpCode::LayerNorm,
            &[x, or_none(weight), or_none(bias)],
            &[Float(epsilon)],
        )
    }

    fn group_norm(
        &mut self,
        x: Id,
        groups: u32,
        weight: Option<Id>,
        bias: Option<Id>,
        epsilon: f64,
    ) -> Reply {
        self.op(
            OpCode::GroupNorm,
            &[x, or_none(weight), or_none(bias)],
            &[Int(groups.into()), Float(epsilon)],
        )
    }

    fn batch_norm(
        &mut self,
        x: Id,
        mean: Id,
        variance: Id,
        weight: Option<Id>,
        bias: Option<Id>,
        epsilon: f64,
    ) -> Reply {
        self.op(
            OpCode::BatchNorm,
            &[x, mean, variance, or_none(weight), or_none(bias)],
            &[Float(epsilon)],
        )
    }

    fn resize_nearest(&mut self, x: Id, height: u32, width: u32) -> Reply {
        self.op(
            OpCode::ResizeNearest,
            &[x],
            &[Int(height.into()), Int(width.into())],
        )
    }

    fn resize_bilinear(&mut self, x: Id, height: u32, width: u32, align_corners: bool) -> Reply {
        self.op(
            OpCode::ResizeBilinear,
            &[x],
            &[Int(height.into()), Int(width.into()), Bool(align_corners)],
        )
    }
}

impl session::Host for HostState {
    fn constant(&mut self, name: String) -> Reply {
        let found = self.session.constant(&name);
        self.answer(found.map(own))
    }

    fn log(&mut self, level: LogLevel, message: String) -> wasmtime::Result<()> {
        let level = match level {
            LogLevel::Trace => log::Level::Trace,
            LogLevel::Debug => log::Level::Debug,
            LogLevel::Info => log::Level::Info,
            LogLevel::Warn => log::Level::Warn,
            LogLevel::Error => log::Level::Error,
        };
        let logged = self.session.log(message.len()).map_err(spent)?;
        let message: String = message.chars().take(SHOWN_CHARACTERS).collect();
        logs::write(&self.plugin, level, &message, logged, &self.session);
        if level == log::Level::Error {
            self.last_words = Some(message);
        }
        Ok(())
    }
}

impl session::HostValues for HostState {
    fn parameter(&mut self, _values: Values, index: u32) -> Reply {
        let lent = self.session.parameter(index);
        self.answer(lent.map(own))
    }

    fn buffer(&mut self, _values: Values, index: u32) -> Reply {
        let lent = self.session.buffer(index);
        self.answer(lent.map(own))
    }

    fn update_buffer(&mut self, _values: Values, index: u32, value: Id) -> Reply<()> {
        let updated = self.session.update_buffer(index, Handle(value.rep()));
        self.answer(updated)
    }

    fn drop(&mut self, _values: Values) -> wasmtime::Result<()> {
        Ok(())
    }
}

/// Why a guest was stopped: it took no notice of a spent budget.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct Spent(pub(super) TensorError);

fn spent(error: TensorError) -> wasmtime::Error {
    wasmtime::Error::new(Spent(error))
}

pub(super) fn own(handle: Handle) -> Id {
    Resource::new_own(handle.0)
}

/// Handle 0 is an optional tensor that was left out.
fn or_none(id: Option<Id>) -> Id {
    id.unwrap_or_else(|| Resource::new_borrow(0))
}

fn float_or_none(value: Option<f64>) -> Attribute {
    value.map_or(Attribute::None, Float)
}

fn ints<T: Into<i64>>(values: Vec<T>) -> Attribute {
    Attribute::Ints(values.into_iter().map(Into::into).collect())
}

fn pair((vertical, horizontal): (u32, u32)) -> Attribute {
    Attribute::Ints(vec![vertical.into(), horizontal.into()])
}

fn kind_number(kind: Kind) -> Attribute {
    Int(match kind {
        Kind::Float => 0,
        Kind::Int => 1,
        Kind::Boolean => 2,
    })
}

fn extents(shape: &[u32]) -> Vec<usize> {
    shape.iter().map(|&extent| extent as usize).collect()
}

/// The linear memories of one instance may grow to so many bytes together, its tables to so many elements.
pub(super) struct MemoryLimit {
    bytes: usize,
    used: usize,
    elements: usize,
}

/// Largest number of elements in a guest's tables of functions.
const TABLE_ELEMENTS: usize = 100_000;

/// Why a guest was stopped: it wanted more memory than it may have.
#[derive(Debug, thiserror::Error)]
#[error("memory is limited to {bytes} bytes")]
pub(super) struct MemorySpent {
    pub(super) bytes: usize,
}

impl MemoryLimit {
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            bytes,
            used: 0,
            elements: 0,
        }
    }
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let used = self.used.saturating_add(desired.saturating_sub(current));
        if used > self.bytes {
            return Err(wasmtime::Error::new(MemorySpent { bytes: self.bytes }));
        }
        self.used = used;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let elements = self
            .elements
            .saturating_add(desired.saturating_sub(current));
        if elements > TABLE_ELEMENTS {
            return Ok(false);
        }
        self.elements = elements;
        Ok(true)
    }

    fn instances(&self) -> usize {
        100
    }

    fn tables(&self) -> usize {
        100
    }

    fn memories(&self) -> usize {
        100
    }
}

//! The WebAssembly side: requests are imports of the component, generated from `wit/`, and the
//! roles are its exports.

use crate::error::{Error, Result};
use crate::session::LogLevel;
use crate::tensor::{ConvOptions, Kind, PoolOptions, Tensor};

mod bindings;
mod export;

pub use bindings::{descriptor, head, mapper, metric, objective};
pub use export::{HeadComponent, MapperComponent, MetricComponent, ObjectiveComponent};

pub(crate) use bindings::shared::dtta::plugin::tensor as wit;
use bindings::shared::dtta::plugin::{session, types};

/// A tensor that the host holds.
pub(crate) struct Handle(pub(crate) wit::Tensor);

impl Handle {
    pub(crate) fn info(&self) -> Result<(Kind, Vec<u32>)> {
        let kind = match self.0.kind() {
            types::Kind::Float => Kind::Float,
            types::Kind::Int => Kind::Int,
            types::Kind::Boolean => Kind::Boolean,
        };
        Ok((kind, self.0.shape()))
    }

    pub(crate) fn tracked(&self) -> Result<bool> {
        Ok(self.0.tracked())
    }

    pub(crate) fn share(&self) -> Result<Tensor> {
        made(self.0.share())
    }

    pub(crate) fn read_floats(&self) -> Result<Vec<f32>> {
        Ok(self.0.read_floats()?)
    }

    pub(crate) fn read_ints(&self) -> Result<Vec<i64>> {
        Ok(self.0.read_ints()?)
    }
}

/// Wraps what the host made.
pub(crate) fn made(answer: Result<wit::Tensor, types::Error>) -> Result<Tensor> {
    Ok(Tensor(Handle(answer?)))
}

pub(crate) fn made_two(
    answer: Result<(wit::Tensor, wit::Tensor), types::Error>,
) -> Result<(Tensor, Tensor)> {
    let (first, second) = answer?;
    Ok((Tensor(Handle(first)), Tensor(Handle(second))))
}

pub(crate) fn from_floats(elements: &[f32], shape: &[u32]) -> Result<Tensor> {
    made(wit::Tensor::from_floats(elements, shape))
}

pub(crate) fn from_ints(elements: &[i64], shape: &[u32]) -> Result<Tensor> {
    made(wit::Tensor::from_ints(elements, shape))
}

pub(crate) fn constant(name: &str) -> Result<Tensor> {
    made(session::constant(name))
}

pub(crate) fn log(level: LogLevel, message: &str) {
    let level = match level {
        LogLevel::Trace => types::LogLevel::Trace,
        LogLevel::Debug => types::LogLevel::Debug,
        LogLevel::Info => types::LogLevel::Info,
        LogLevel::Warn => types::LogLevel::Warn,
        LogLevel::Error => types::LogLevel::Error,
    };
    session::log(level, message);
}

/// The values that the host keeps; none but for `forward` and `condition`.
pub(crate) struct Values(Option<*const session::Values>);

impl Values {
    const NONE: Self = Self(None);

    /// # Safety
    /// The values must outlive the result.
    unsafe fn new(values: &session::Values) -> Self {
        Self(Some(values))
    }

    fn get(&self) -> Result<&session::Values> {
        let values = self.0.ok_or_else(|| {
            Error::new(
                "not-permitted",
                "only `forward` and `condition` have values",
            )
        })?;
        // SAFETY: `new` holds the values to outlive `self`.
        Ok(unsafe { &*values })
    }

    pub(crate) fn parameter(&self, index: u32) -> Result<Tensor> {
        made(self.get()?.parameter(index))
    }

    pub(crate) fn buffer(&self, index: u32) -> Result<Tensor> {
        made(self.get()?.buffer(index))
    }

    pub(crate) fn update_buffer(&self, index: u32, value: Tensor) -> Result<()> {
        Ok(self.get()?.update_buffer(index, value.0.0)?)
    }
}

impl From<types::Error> for Error {
    fn from(error: types::Error) -> Self {
        Self::new(error.code, error.message)
    }
}

impl From<Error> for types::Error {
    fn from(error: Error) -> Self {
        Self {
            code: error.code.into_owned(),
            message: error.message,
        }
    }
}

impl From<Kind> for types::Kind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Float => Self::Float,
            Kind::Int => Self::Int,
            Kind::Boolean => Self::Boolean,
        }
    }
}

impl From<ConvOptions> for wit::ConvOptions {
    fn from(
        ConvOptions {
            stride,
            padding,
            dilation,
            groups,
        }: ConvOptions,
    ) -> Self {
        Self {
            stride,
            padding,
            dilation,
            groups,
        }
    }
}

impl From<PoolOptions> for wit::PoolOptions {
    fn from(
        PoolOptions {
            kernel,
            stride,
            padding,
        }: PoolOptions,
    ) -> Self {
        Self {
            kernel,
            stride,
            padding,
        }
    }
}

macro_rules! operation {
    (method $this:ident $code:ident $name:ident($($parameter:ident: $takes:ident),*) -> $gives:ident) => {
        $crate::wasm::operation!(@made $gives)(
            $this.0.0.$name($($crate::wasm::operation!(@pass $takes $parameter)),*)
        )
    };
    (static $code:ident $name:ident($($parameter:ident: $takes:ident),*)) => {
        $crate::wasm::made($crate::wasm::wit::Tensor::$name($($crate::wasm::operation!(@pass $takes $parameter)),*))
    };
    (@made One) => { $crate::wasm::made };
    (@made Two) => { $crate::wasm::made_two };
    (@pass Tensor $x:ident) => { &$x.0.0 };
    (@pass OptionalTensor $x:ident) => { $x.map(|tensor| &tensor.0.0) };
    (@pass Tensors $x:ident) => { &$x.iter().map(|tensor| &tensor.0.0).collect::<Vec<_>>() };
    (@pass Kind $x:ident) => { $x.into() };
    (@pass Conv $x:ident) => { $x.into() };
    (@pass Pool $x:ident) => { $x.into() };
    (@pass $takes:ident $x:ident) => { $x };
}
pub(crate) use operation;

//! Operations by name, for conformance tests: they iterate the host's table, so that an operation
//! that was added there and forgotten here cannot stay so.

use crate::error::{Error, Result};
use crate::tensor::{ConvOptions, Kind, PoolOptions, Tensor};

/// An argument that is no tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// An optional one that was left out.
    None,
    /// A whole number; a choice is 0 or 1, a kind 0 float, 1 int, 2 boolean.
    Int(i64),
    /// A real number.
    Float(f64),
    /// Axes, extents, or a pair.
    Ints(Vec<i64>),
}

/// Computes the operation of that name from tensors and attributes, each in the table's order.
///
/// # Errors
/// `unknown-name` for no operation, `invalid-argument` for arguments that do not fit it, and what the host refuses.
pub fn apply(
    name: &str,
    tensors: &[Option<&Tensor>],
    attributes: &[Attribute],
) -> Result<Vec<Tensor>> {
    let mut arguments = Arguments {
        tensors,
        attributes,
    };
    Tensor::function(name, &mut arguments)
        .or_else(|| Tensor::method(name, &mut arguments))
        .unwrap_or_else(|| Err(Error::new("unknown-name", format!("no operation `{name}`"))))
}

/// What is left of the arguments.
pub(crate) struct Arguments<'a> {
    tensors: &'a [Option<&'a Tensor>],
    attributes: &'a [Attribute],
}

impl<'a> Arguments<'a> {
    pub(crate) fn optional_tensor(&mut self) -> Result<Option<&'a Tensor>> {
        let (&first, rest) = self.tensors.split_first().ok_or_else(misfit)?;
        self.tensors = rest;
        Ok(first)
    }

    pub(crate) fn tensor(&mut self) -> Result<&'a Tensor> {
        self.optional_tensor()?.ok_or_else(misfit)
    }

    pub(crate) fn tensors(&mut self) -> Result<Vec<&'a Tensor>> {
        let all = std::mem::take(&mut self.tensors);
        all.iter().map(|tensor| tensor.ok_or_else(misfit)).collect()
    }

    fn attribute(&mut self) -> Result<&'a Attribute> {
        let (first, rest) = self.attributes.split_first().ok_or_else(misfit)?;
        self.attributes = rest;
        Ok(first)
    }

    pub(crate) fn int(&mut self) -> Result<i64> {
        match self.attribute()? {
            Attribute::Int(value) => Ok(*value),
            _ => Err(misfit()),
        }
    }

    pub(crate) fn number<T: TryFrom<i64>>(&mut self) -> Result<T> {
        T::try_from(self.int()?).map_err(|_| misfit())
    }

    pub(crate) fn float(&mut self) -> Result<f64> {
        self.optional_float()?.ok_or_else(misfit)
    }

    pub(crate) fn optional_float(&mut self) -> Result<Option<f64>> {
        match self.attribute()? {
            Attribute::Float(value) => Ok(Some(*value)),
            Attribute::None => Ok(None),
            _ => Err(misfit()),
        }
    }

    pub(crate) fn ints<T: TryFrom<i64>>(&mut self) -> Result<Vec<T>> {
        match self.attribute()? {
            Attribute::Ints(values) => values
                .iter()
                .map(|&value| T::try_from(value).map_err(|_| misfit()))
                .collect(),
            _ => Err(misfit()),
        }
    }

    fn pair(&mut self) -> Result<(u32, u32)> {
        match *self.ints()? {
            [vertical, horizontal] => Ok((vertical, horizontal)),
            _ => Err(misfit()),
        }
    }

    pub(crate) fn kind(&mut self) -> Result<Kind> {
        match self.int()? {
            0 => Ok(Kind::Float),
            1 => Ok(Kind::Int),
            2 => Ok(Kind::Boolean),
            _ => Err(misfit()),
        }
    }

    pub(crate) fn conv(&mut self) -> Result<ConvOptions> {
        Ok(ConvOptions {
            stride: self.pair()?,
            padding: self.pair()?,
            dilation: self.pair()?,
            groups: self.number()?,
        })
    }

    pub(crate) fn pool(&mut self) -> Result<PoolOptions> {
        Ok(PoolOptions {
            kernel: self.pair()?,
            stride: self.pair()?,
            padding: self.pair()?,
        })
    }
}

fn misfit() -> Error {
    Error::new("invalid-argument", "the arguments do not fit the operation")
}

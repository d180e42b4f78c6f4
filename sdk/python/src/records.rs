//! Columns as a stream of Arrow's C interface in one of Python's capsules: whatever reads such streams takes them, and nothing has to be there
//! that makes them.

use std::sync::Arc;

use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::types::Float64Type;
use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, ListArray, NullArray, RecordBatch,
    RecordBatchIterator, StringArray, StructArray,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyCapsule, PyDict, PyFloat, PyInt, PyList, PyString};

/// What the values of a column are, but for those that are absent.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Nothing,
    Truth,
    Integer,
    Number,
    Text,
    Numbers,
}

impl Kind {
    fn of(value: &Bound<'_, PyAny>) -> Option<Self> {
        // In Python, a truth value is an integer.
        Some(match () {
            () if value.is_none() => Self::Nothing,
            () if value.is_instance_of::<PyBool>() => Self::Truth,
            () if value.is_instance_of::<PyInt>() => Self::Integer,
            () if value.is_instance_of::<PyFloat>() => Self::Number,
            () if value.is_instance_of::<PyString>() => Self::Text,
            () if value.is_instance_of::<PyList>() => Self::Numbers,
            () => return None,
        })
    }

    /// That of a column with values of both.
    fn with(self, other: Self) -> Option<Self> {
        match (self, other) {
            (own, other) if own == other => Some(own),
            (Self::Nothing, kind) | (kind, Self::Nothing) => Some(kind),
            (Self::Integer, Self::Number) | (Self::Number, Self::Integer) => Some(Self::Number),
            _ => None,
        }
    }

    fn array(self, values: &Bound<'_, PyList>) -> PyResult<ArrayRef> {
        let each = values.iter();
        Ok(match self {
            Self::Nothing => Arc::new(NullArray::new(values.len())),
            Self::Truth => {
                let each = each.map(|value| value.extract::<Option<bool>>());
                Arc::new(each.collect::<PyResult<BooleanArray>>()?)
            }
            Self::Integer => {
                let each = each.map(|value| value.extract::<Option<i64>>());
                Arc::new(each.collect::<PyResult<Int64Array>>()?)
            }
            Self::Number => {
                let each = each.map(|value| value.extract::<Option<f64>>());
                Arc::new(each.collect::<PyResult<Float64Array>>()?)
            }
            Self::Text => {
                let each = each.map(|value| value.extract::<Option<String>>());
                Arc::new(each.collect::<PyResult<StringArray>>()?)
            }
            Self::Numbers => {
                let each = each.map(|value| value.extract::<Option<Vec<Option<f64>>>>());
                let lists = each.collect::<PyResult<Vec<_>>>()?;
                Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(lists))
            }
        })
    }
}

/// The values of a column, which are of one kind.
fn column(values: &Bound<'_, PyAny>) -> PyResult<ArrayRef> {
    let values = values.cast::<PyList>()?;
    let mut kind = Kind::Nothing;
    for (row, value) in values.iter().enumerate() {
        let joined = Kind::of(&value).and_then(|own| kind.with(own));
        kind = joined.ok_or_else(|| {
            PyTypeError::new_err(format!(
                "row {row} is {}, expected truth values, integers, numbers, texts, lists of numbers, or None, and the same in each row",
                value.get_type()
            ))
        })?;
    }
    kind.array(values)
}

/// A capsule with a stream of one batch: columns by name, each a list with as many values.
#[pyfunction]
pub fn arrow_stream<'py>(columns: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyCapsule>> {
    let named = columns.iter().map(|(name, values)| {
        let name: String = name.extract()?;
        let array = column(&values).map_err(|error| {
            let message = format!("column `{name}`: {}", error.value(columns.py()));
            PyTypeError::new_err(message)
        })?;
        Ok((name, array, true))
    });
    let named = named.collect::<PyResult<Vec<_>>>()?;
    let batch = match named.is_empty() {
        true => Ok(RecordBatch::from(StructArray::new_empty_fields(0, None))),
        false => RecordBatch::try_from_iter_with_nullable(named),
    };
    let batch = batch.map_err(|error| PyValueError::new_err(error.to_string()))?;
    let schema = batch.schema();
    let batches = RecordBatchIterator::new([Ok(batch)], schema);
    let stream = FFI_ArrowArrayStream::new(Box::new(batches));
    PyCapsule::new_with_value(columns.py(), stream, c"arrow_array_stream")
}

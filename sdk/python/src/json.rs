//! Values of Python as JSON, by Python's own `json`.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A dict, a list, a number or a text as JSON.
pub fn value(object: &Bound<'_, PyAny>) -> PyResult<Value> {
    let text = object
        .py()
        .import("json")?
        .call_method1("dumps", (object,))?;
    let text: String = text.extract()?;
    serde_json::from_str(&text).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// The same with a type; `what` is named where it does not fit.
pub fn typed<T: DeserializeOwned>(what: &str, object: &Bound<'_, PyAny>) -> PyResult<T> {
    serde_json::from_value(value(object)?)
        .map_err(|error| PyValueError::new_err(format!("{what}: {error}")))
}

//! Errors as Python's exceptions: what a user can mend names its file and place, and what Python itself raised stays what it was.

use std::sync::{Arc, Mutex, PoisonError};

use dtta_models::{Issue, ModelError};
use dtta_tensor::TensorError;
use pyo3::exceptions::{PyException, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

/// The last exception that Python raised where Rust called it, and there, kept whole while the error of it passes through Rust.
#[derive(Clone, Default)]
pub struct Raised(Arc<Mutex<Option<(&'static str, PyErr)>>>);

impl Raised {
    /// Keeps an exception; the error that stands for it.
    pub fn keep(&self, py: Python<'_>, op: &'static str, error: PyErr) -> TensorError {
        let message = error.value(py).to_string();
        let message = format!("Python raised {}: {message}", error.get_type(py));
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = Some((op, error));
        TensorError::Backend { op, message }
    }

    /// The exception that was kept, if it is of this place.
    pub fn of(&self, place: &str) -> Option<PyErr> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, error) = kept.take_if(|(op, _)| *op == place)?;
        Some(error)
    }

    /// Whether the exception that was kept ends a program, as Ctrl-C's does.
    pub fn is_a_stop(&self, py: Python<'_>) -> bool {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.as_ref();
        kept.is_some_and(|(_, error)| !error.is_instance_of::<PyException>(py))
    }

    /// The exception that was kept, or one of this error.
    pub fn or(&self, py: Python<'_>, error: &dtta::Error) -> PyErr {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.take()
            .map_or_else(|| of(py, error), |(_, error)| error)
    }
}

/// What is wrong with a file or an experiment.
struct Fault<'a> {
    file: Option<String>,
    issues: &'a [Issue],
}

/// `dtta.ExperimentError` for what a user can mend, `ValueError` for arguments of feedback, `dtta.RunError` for the rest.
pub fn of(py: Python<'_>, error: &dtta::Error) -> PyErr {
    if let dtta::Error::Learn(error) = error
        && error.is_of_the_caller()
    {
        return PyValueError::new_err(error.to_string());
    }
    let fault = match error {
        dtta::Error::Base(error) => of_base(error),
        dtta::Error::Model(error) => of_model(error),
        dtta::Error::OutputExists { path }
        | dtta::Error::Resume { path, .. }
        | dtta::Error::Merge { path, .. } => Some(in_file(path)),
        dtta::Error::Shard { .. } => Some(Fault {
            file: None,
            issues: &[],
        }),
        _ => None,
    };
    raise(py, fault, dtta::told(error))
}

/// The same for a model's error.
pub fn of_a_model(py: Python<'_>, error: &ModelError) -> PyErr {
    raise(py, of_model(error), dtta::told(error))
}

fn in_file(path: &std::path::Path) -> Fault<'static> {
    Fault {
        file: Some(path.display().to_string()),
        issues: &[],
    }
}

fn of_model(error: &ModelError) -> Option<Fault<'_>> {
    match error {
        ModelError::File(error) => of_base(error),
        ModelError::Config { issues } => Some(Fault { file: None, issues }),
        _ => None,
    }
}

fn of_base(error: &dtta_base::Error) -> Option<Fault<'_>> {
    match error {
        dtta_base::Error::Invalid { path, issues, .. } => Some(Fault {
            issues,
            ..in_file(path)
        }),
        dtta_base::Error::Read { path, .. }
        | dtta_base::Error::Encoding { path, .. }
        | dtta_base::Error::Json { path, .. }
        | dtta_base::Error::Locked { path } => Some(in_file(path)),
        dtta_base::Error::Override { .. } => Some(Fault {
            file: None,
            issues: &[],
        }),
        _ => None,
    }
}

fn raise(py: Python<'_>, fault: Option<Fault<'_>>, message: String) -> PyErr {
    let make = || -> PyResult<Bound<'_, PyAny>> {
        let module = py.import("dtta._errors")?;
        let Some(fault) = fault else {
            return module.call_method1("RunError", (&message,));
        };
        let issues: Vec<(&str, &str)> = fault
            .issues
            .iter()
            .map(|issue| (issue.pointer.as_str(), issue.message.as_str()))
            .collect();
        module.call_method1("ExperimentError", (&message, fault.file, issues))
    };
    match make() {
        Ok(exception) => PyErr::from_value(exception),
        Err(_) => PyRuntimeError::new_err(message),
    }
}

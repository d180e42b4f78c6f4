//! Errors as Python's exceptions: what a user can mend names its file and place, and what Python itself raised stays what it was.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use dtta::Remedy;
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

    /// Whether an exception was kept.
    pub fn is_there(&self) -> bool {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.is_some()
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

/// What a user can do about an error, by the name of the exception.
enum Kind {
    /// Mend a file, a setting or a folder.
    Experiment,
    /// Try again: another process works in the folder.
    Locked,
    /// Nothing that is known.
    Run,
}

/// The exception of an error: `dtta.ExperimentError` for what a user can mend, `dtta.LockedError` for a folder that is in use, `ValueError` for
/// arguments of feedback, `dtta.RunError` for the rest.
pub fn of(py: Python<'_>, error: &dtta::Error) -> PyErr {
    if let dtta::Error::Learn(error) = error
        && error.is_of_the_caller()
    {
        return PyValueError::new_err(error.to_string());
    }
    let kind = match (error.remedy(), error) {
        (Remedy::Mend, _) => Kind::Experiment,
        (_, dtta::Error::Base(dtta_base::Error::Locked { .. })) => Kind::Locked,
        _ => Kind::Run,
    };
    raise(py, kind, error.path(), error.issues(), dtta::told(error))
}

/// The exception of a model that cannot be opened.
pub fn of_opening(py: Python<'_>, error: &ModelError) -> PyErr {
    let (path, issues) = (error.path(), error.issues());
    raise(py, Kind::Experiment, path, issues, dtta::told(error))
}

/// The exception of what a model refuses, or fails at.
pub fn of_a_model(py: Python<'_>, error: &ModelError) -> PyErr {
    raise(py, Kind::Run, error.path(), &[], dtta::told(error))
}

fn raise(
    py: Python<'_>,
    kind: Kind,
    path: Option<&Path>,
    issues: &[Issue],
    message: String,
) -> PyErr {
    let make = || -> PyResult<Bound<'_, PyAny>> {
        let module = py.import("dtta._errors")?;
        let path = path.map(|path| path.display().to_string());
        match kind {
            Kind::Experiment => {
                let issues: Vec<(&str, &str)> = issues
                    .iter()
                    .map(|issue| (issue.pointer.as_str(), issue.message.as_str()))
                    .collect();
                module.call_method1("ExperimentError", (&message, path, issues))
            }
            Kind::Locked => module.call_method1("LockedError", (&message, path)),
            Kind::Run => module.call_method1("RunError", (&message, path)),
        }
    };
    match make() {
        Ok(exception) => PyErr::from_value(exception),
        Err(_) => PyRuntimeError::new_err(message),
    }
}

//! Tensors by DLPack (version 1, and what came before it) in Python's capsules: numbers of other libraries are read where they lie, and ours
//! are lent. A capsule that is read here is not consumed: whoever made it frees what it holds when the capsule goes.

use std::ffi::CStr;
use std::sync::Arc;

use dtta_dlpack::{
    CPU, DLManagedTensor, DLManagedTensorVersioned, DlpackError, Floats, MAJOR, Values, expect_cpu,
};
use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use pyo3::{IntoPyObjectExt as _, ffi};

const LEGACY: &CStr = c"dltensor";
const VERSIONED: &CStr = c"dltensor_versioned";

/// Reads a tensor of 32-bit floats in the memory of the CPU from anything with `__dlpack__`. `what` is named where it is something else.
pub fn floats(what: &str, object: &Bound<'_, PyAny>) -> PyResult<Floats> {
    let py = object.py();
    if let Ok(own) = object.cast::<Tensor>() {
        let own = own.get();
        return Ok(Floats {
            values: own.values.to_vec(),
            shape: own.shape.clone(),
        });
    }
    let device = object.call_method0("__dlpack_device__").map_err(|_| {
        let found = object.get_type();
        PyTypeError::new_err(format!(
            "{what} is a {found}, expected a tensor with `__dlpack__`, such as an array of NumPy or a tensor of PyTorch"
        ))
    })?;
    let (kind, _): (i32, i32) = device.extract()?;
    expect_cpu(kind).map_err(|error| refusal(what, &error))?;
    let version = PyDict::new(py);
    version.set_item("max_version", (1, 0))?;
    let capsule = match object.call_method("__dlpack__", (), Some(&version)) {
        // It is of the time before versions.
        Err(error) if error.is_instance_of::<PyTypeError>(py) => {
            object.call_method0("__dlpack__")?
        }
        other => other?,
    };
    // SAFETY: the names say what the pointers lead to, and the capsule, which owns it, lives until the end.
    let found = unsafe {
        let is = |name: &CStr| ffi::PyCapsule_IsValid(capsule.as_ptr(), name.as_ptr()) == 1;
        let get = |name: &CStr| ffi::PyCapsule_GetPointer(capsule.as_ptr(), name.as_ptr());
        if is(VERSIONED) {
            (*get(VERSIONED).cast::<DLManagedTensorVersioned>()).read()
        } else if is(LEGACY) {
            (*get(LEGACY).cast::<DLManagedTensor>()).dl_tensor.read()
        } else {
            let message = format!("`__dlpack__` of {what} answered no capsule with a tensor");
            return Err(PyBufferError::new_err(message));
        }
    };
    found.map_err(|error| refusal(what, &error))
}

fn refusal(what: &str, error: &DlpackError) -> PyErr {
    let message = format!("{what} {error}");
    match error {
        DlpackError::Version { .. } => PyBufferError::new_err(message),
        DlpackError::Type { .. } => PyTypeError::new_err(message),
        _ => PyValueError::new_err(message),
    }
}

/// A tensor of 32-bit floats that dtta computed: `torch.from_dlpack` and `numpy.from_dlpack` take it without a copy.
#[pyclass(frozen, module = "dtta", name = "Tensor")]
pub struct Tensor {
    values: Values,
    shape: Vec<usize>,
}

impl Tensor {
    /// Of numbers, row by row.
    pub fn new(values: Vec<f32>, shape: &[usize]) -> Self {
        Self {
            values: Arc::new(values),
            shape: shape.to_vec(),
        }
    }

    /// A tensor's own values, for those who only read them.
    ///
    /// # Errors
    /// Whatever the device refuses.
    pub fn lent(tensor: &dtta_tensor::Tensor) -> Result<Self, dtta_tensor::TensorError> {
        Ok(Self {
            values: Arc::new(tensor.lend()?),
            shape: tensor.shape().to_vec(),
        })
    }

    /// A copy of a tensor's values.
    ///
    /// # Errors
    /// Whatever the device refuses.
    pub fn of(tensor: &dtta_tensor::Tensor) -> Result<Self, dtta_tensor::TensorError> {
        Ok(Self::new(tensor.to_floats()?, &tensor.shape()))
    }
}

#[pymethods]
impl Tensor {
    /// Extents, outermost first.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.shape)
    }

    /// The numbers as nested lists.
    fn tolist<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        nested(py, &self.values, &self.shape)
    }

    fn __len__(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }

    fn __repr__(&self) -> String {
        format!("dtta.Tensor(shape={:?})", self.shape)
    }

    fn __dlpack_device__(&self) -> (i32, i32) {
        (CPU, 0)
    }

    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _ = stream;
        if dl_device.is_some_and(|(kind, _)| kind != CPU) {
            return Err(PyBufferError::new_err("the tensor is on the CPU"));
        }
        let values: Values = match copy {
            Some(true) => Arc::new(self.values.to_vec()),
            _ => self.values.clone(),
        };
        match max_version {
            Some((major, _)) if major >= MAJOR => {
                let managed = dtta_dlpack::lend(values, &self.shape);
                capsule(py, managed, (VERSIONED, drop_versioned))
            }
            _ => {
                let managed = dtta_dlpack::lend_unversioned(values, &self.shape);
                capsule(py, managed, (LEGACY, drop_legacy))
            }
        }
    }
}

fn nested<'py>(py: Python<'py>, values: &[f32], shape: &[usize]) -> PyResult<Bound<'py, PyAny>> {
    match shape {
        [] | [_] => values.into_bound_py_any(py),
        [rows, rest @ ..] => {
            let size = values.len() / rows;
            let rows = values.chunks(size).map(|row| nested(py, row, rest));
            rows.collect::<PyResult<Vec<_>>>()?.into_bound_py_any(py)
        }
    }
}

type Destructor = unsafe extern "C" fn(*mut ffi::PyObject);

fn capsule<'py, M>(
    py: Python<'py>,
    managed: *mut M,
    (name, destructor): (&'static CStr, Destructor),
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the pointer is no null, and the name lives for ever. Where no capsule is made, what was to be lent leaks: memory is spent.
    unsafe {
        let capsule = ffi::PyCapsule_New(managed.cast(), name.as_ptr(), Some(destructor));
        Bound::from_owned_ptr_or_err(py, capsule)
    }
}

/// Frees a tensor that nobody took over.
macro_rules! delete {
    ($managed:expr) => {{
        let managed = $managed;
        if let Some(deleter) = (*managed).deleter {
            deleter(managed);
        }
    }};
}

/// Whoever takes the tensor over renames the capsule; then it is theirs to delete.
unsafe extern "C" fn drop_legacy(capsule: *mut ffi::PyObject) {
    // SAFETY: Python calls this with a capsule of ours.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, LEGACY.as_ptr()) == 1 {
            let managed = ffi::PyCapsule_GetPointer(capsule, LEGACY.as_ptr());
            delete!(managed.cast::<DLManagedTensor>());
        }
    }
}

unsafe extern "C" fn drop_versioned(capsule: *mut ffi::PyObject) {
    // SAFETY: as above.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, VERSIONED.as_ptr()) == 1 {
            let managed = ffi::PyCapsule_GetPointer(capsule, VERSIONED.as_ptr());
            delete!(managed.cast::<DLManagedTensorVersioned>());
        }
    }
}

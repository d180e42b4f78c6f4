//! Tensors by DLPack (version 1, and what came before it): numbers of other libraries are read where they lie, and ours are lent.
//!
//! The structures are those of `dlpack.h`, which never change within a major version. A capsule that is read here is not consumed: whoever
//! made it frees what it holds when the capsule goes.

use std::ffi::{CStr, c_void};
use std::ops::Deref;
use std::sync::Arc;

use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use pyo3::{IntoPyObjectExt as _, ffi};

const LEGACY: &CStr = c"dltensor";
const VERSIONED: &CStr = c"dltensor_versioned";

/// `kDLCPU`, and `kDLCUDAHost`, which the CPU reads as well.
const CPU: [i32; 2] = [1, 3];
/// `kDLFloat`.
const FLOAT: u8 = 2;

#[repr(C)]
#[derive(Clone, Copy)]
struct DlDevice {
    kind: i32,
    id: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct DlType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device: DlDevice,
    ndim: i32,
    dtype: DlType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct Managed {
    tensor: DlTensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
}

#[repr(C)]
struct ManagedVersioned {
    version: [u32; 2],
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut ManagedVersioned)>,
    flags: u64,
    tensor: DlTensor,
}

/// Numbers with their extents, row by row.
#[derive(Clone)]
pub struct Floats {
    /// As many as the product of the extents.
    pub values: Vec<f32>,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
}

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
    if !CPU.contains(&kind) {
        return Err(PyValueError::new_err(format!(
            "{what} is on another device than the CPU (DLPack's device type {kind}); move it there first"
        )));
    }
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
    unsafe {
        let is = |name: &CStr| ffi::PyCapsule_IsValid(capsule.as_ptr(), name.as_ptr()) == 1;
        let get = |name: &CStr| ffi::PyCapsule_GetPointer(capsule.as_ptr(), name.as_ptr());
        if is(VERSIONED) {
            let managed = get(VERSIONED).cast::<ManagedVersioned>();
            if (*managed).version[0] != 1 {
                let found = (*managed).version[0];
                let message = format!("{what} comes by version {found} of DLPack, expected 1");
                return Err(PyBufferError::new_err(message));
            }
            read(what, &(*managed).tensor)
        } else if is(LEGACY) {
            read(what, &(*get(LEGACY).cast::<Managed>()).tensor)
        } else {
            let message = format!("`__dlpack__` of {what} answered no capsule with a tensor");
            Err(PyBufferError::new_err(message))
        }
    }
}

/// Copies a tensor's numbers out, row by row.
///
/// # Safety
/// The tensor is one, in memory of this process.
unsafe fn read(what: &str, tensor: &DlTensor) -> PyResult<Floats> {
    let DlType { code, bits, lanes } = tensor.dtype;
    if (code, bits, lanes) != (FLOAT, 32, 1) {
        let name = match code {
            0 => "int",
            1 => "uint",
            FLOAT => "float",
            4 => "bfloat",
            5 => "complex",
            6 => "bool",
            _ => "an unknown type of ",
        };
        return Err(PyTypeError::new_err(format!(
            "{what} holds {name}{bits}, expected float32"
        )));
    }
    let rank = usize::try_from(tensor.ndim).unwrap_or(0);
    if rank == 0 {
        let message = format!("{what} is a scalar, expected a tensor with axes");
        return Err(PyValueError::new_err(message));
    }
    // SAFETY: DLPack's promise about shape and strides; the latter are null where rows lie one after the other.
    let (shape, strides) = unsafe {
        let list = |pointer: *mut i64| std::slice::from_raw_parts(pointer, rank);
        let strides = (!tensor.strides.is_null()).then(|| list(tensor.strides));
        (list(tensor.shape), strides)
    };
    let shape: Vec<usize> = shape
        .iter()
        .map(|&n| usize::try_from(n).unwrap_or(0))
        .collect();
    let elements = shape.iter().product::<usize>();
    if elements == 0 {
        let message = format!("{what} has shape {shape:?}, so it is empty");
        return Err(PyValueError::new_err(message));
    }
    let offset = usize::try_from(tensor.byte_offset).unwrap_or(0);
    let start = tensor.data.cast::<u8>().wrapping_add(offset).cast::<f32>();
    let mut row_by_row = vec![1i64; rank];
    for axis in (1..rank).rev() {
        row_by_row[axis - 1] = row_by_row[axis] * shape[axis] as i64;
    }
    let strides = strides.map_or_else(|| row_by_row.clone(), <[i64]>::to_vec);
    let in_order = (0..rank).all(|axis| shape[axis] == 1 || strides[axis] == row_by_row[axis]);
    if in_order && start.is_aligned() {
        // SAFETY: as many numbers lie there, aligned, and nobody changes them while Python's lock is held.
        let values = unsafe { std::slice::from_raw_parts(start, elements) }.to_vec();
        return Ok(Floats { values, shape });
    }
    let mut values = Vec::with_capacity(elements);
    let mut place = vec![0usize; rank];
    for _ in 0..elements {
        let steps = place.iter().zip(&strides);
        let at: i64 = steps.map(|(&n, &stride)| n as i64 * stride).sum();
        // SAFETY: a place within the extents, by the tensor's own strides.
        values.push(unsafe { start.wrapping_offset(at as isize).read_unaligned() });
        for axis in (0..rank).rev() {
            place[axis] += 1;
            if place[axis] < shape[axis] {
                break;
            }
            place[axis] = 0;
        }
    }
    Ok(Floats { values, shape })
}

/// A tensor of 32-bit floats that dtta computed: `torch.from_dlpack` and `numpy.from_dlpack` take it without a copy.
#[pyclass(frozen, module = "dtta", name = "Tensor")]
pub struct Tensor {
    values: Values,
    shape: Vec<usize>,
}

/// Numbers of ours, or those of a tensor that lends them.
type Values = Arc<dyn Deref<Target = [f32]> + Send + Sync>;

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
        (CPU[0], 0)
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
        if dl_device.is_some_and(|(kind, _)| kind != CPU[0]) {
            return Err(PyBufferError::new_err("the tensor is on the CPU"));
        }
        let values: Values = match copy {
            Some(true) => Arc::new(self.values.to_vec()),
            _ => self.values.clone(),
        };
        let lent = Lent::new(values, &self.shape);
        match max_version {
            Some((major, _)) if major >= 1 => capsule(
                py,
                ManagedVersioned {
                    version: [1, 0],
                    context: std::ptr::null_mut(),
                    deleter: Some(delete_versioned),
                    flags: 0,
                    tensor: lent.tensor(),
                },
                |managed| &mut managed.context,
                (VERSIONED, drop_versioned),
                lent,
            ),
            _ => capsule(
                py,
                Managed {
                    tensor: lent.tensor(),
                    context: std::ptr::null_mut(),
                    deleter: Some(delete_legacy),
                },
                |managed| &mut managed.context,
                (LEGACY, drop_legacy),
                lent,
            ),
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

/// What a capsule of ours owns.
struct Lent {
    values: Values,
    shape: Box<[i64]>,
    strides: Box<[i64]>,
}

impl Lent {
    fn new(values: Values, shape: &[usize]) -> Self {
        let mut strides = vec![1i64; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis] as i64;
        }
        Self {
            values,
            shape: shape.iter().map(|&n| n as i64).collect(),
            strides: strides.into(),
        }
    }

    fn tensor(&self) -> DlTensor {
        DlTensor {
            data: self.values.as_ptr().cast_mut().cast(),
            device: DlDevice {
                kind: CPU[0],
                id: 0,
            },
            ndim: self.shape.len() as i32,
            dtype: DlType {
                code: FLOAT,
                bits: 32,
                lanes: 1,
            },
            shape: self.shape.as_ptr().cast_mut(),
            strides: self.strides.as_ptr().cast_mut(),
            byte_offset: 0,
        }
    }
}

type Destructor = unsafe extern "C" fn(*mut ffi::PyObject);

fn capsule<'py, M>(
    py: Python<'py>,
    mut managed: M,
    context: impl FnOnce(&mut M) -> &mut *mut c_void,
    (name, destructor): (&'static CStr, Destructor),
    lent: Lent,
) -> PyResult<Bound<'py, PyAny>> {
    *context(&mut managed) = Box::into_raw(Box::new(lent)).cast();
    let managed = Box::into_raw(Box::new(managed));
    // SAFETY: the pointer is no null, and the name lives for ever. Where no capsule is made, what was to be lent leaks: memory is spent.
    unsafe {
        let capsule = ffi::PyCapsule_New(managed.cast(), name.as_ptr(), Some(destructor));
        Bound::from_owned_ptr_or_err(py, capsule)
    }
}

unsafe extern "C" fn delete_legacy(managed: *mut Managed) {
    // SAFETY: made by `capsule`, and deleted once, as DLPack has it.
    unsafe {
        let managed = Box::from_raw(managed);
        drop(Box::from_raw(managed.context.cast::<Lent>()));
    }
}

unsafe extern "C" fn delete_versioned(managed: *mut ManagedVersioned) {
    // SAFETY: as above.
    unsafe {
        let managed = Box::from_raw(managed);
        drop(Box::from_raw(managed.context.cast::<Lent>()));
    }
}

/// Whoever takes the tensor over renames the capsule; then it is theirs to delete.
unsafe extern "C" fn drop_legacy(capsule: *mut ffi::PyObject) {
    // SAFETY: Python calls this with a capsule of ours.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, LEGACY.as_ptr()) == 1 {
            delete_legacy(ffi::PyCapsule_GetPointer(capsule, LEGACY.as_ptr()).cast());
        }
    }
}

unsafe extern "C" fn drop_versioned(capsule: *mut ffi::PyObject) {
    // SAFETY: as above.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, VERSIONED.as_ptr()) == 1 {
            delete_versioned(ffi::PyCapsule_GetPointer(capsule, VERSIONED.as_ptr()).cast());
        }
    }
}

//! Tensors of 32-bit floats by DLPack: read where another library put them, and lent to it.
//!
//! The structures are those of `dlpack.h`, which never change within a major version.

use std::ffi::c_void;
use std::ops::Deref;
use std::sync::Arc;

/// The major version of `dlpack.h` that is spoken here.
pub const MAJOR: u32 = 1;
/// `kDLCPU`.
pub const CPU: i32 = 1;
/// `kDLCUDAHost`: memory that the CPU reads as well.
const CUDA_HOST: i32 = 3;
/// `kDLFloat`.
const FLOAT: u8 = 2;

/// Where a tensor lies.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DLDevice {
    /// The kind of device.
    pub device_type: i32,
    /// Which of its kind.
    pub device_id: i32,
}

/// What its elements are.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DLDataType {
    /// Float, int and so on.
    pub code: u8,
    /// Bits of one element.
    pub bits: u8,
    /// Elements that lie together, 1.
    pub lanes: u16,
}

/// A tensor.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct DLTensor {
    /// Where the memory begins.
    pub data: *mut c_void,
    /// Where it lies.
    pub device: DLDevice,
    /// Axes.
    pub ndim: i32,
    /// What its elements are.
    pub dtype: DLDataType,
    /// Extents, outermost first.
    pub shape: *mut i64,
    /// Elements from one place of each axis to the next; null where rows lie one after the other.
    pub strides: *mut i64,
    /// Bytes from where the memory begins to the first element.
    pub byte_offset: u64,
}

/// A tensor with who frees it, as it was before versions.
#[repr(C)]
#[derive(Debug)]
pub struct DLManagedTensor {
    /// The tensor.
    pub dl_tensor: DLTensor,
    /// The maker's own.
    pub manager_ctx: *mut c_void,
    /// Frees it, once; null where there is nothing to free.
    pub deleter: Option<unsafe extern "C" fn(*mut DLManagedTensor)>,
}

/// The version of `dlpack.h` that a tensor follows.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DLPackVersion {
    /// Structures differ between majors.
    pub major: u32,
    /// Meanings are added by minors.
    pub minor: u32,
}

/// A tensor with who frees it.
#[repr(C)]
#[derive(Debug)]
pub struct DLManagedTensorVersioned {
    /// What it follows.
    pub version: DLPackVersion,
    /// The maker's own.
    pub manager_ctx: *mut c_void,
    /// Frees it, once; null where there is nothing to free.
    pub deleter: Option<unsafe extern "C" fn(*mut DLManagedTensorVersioned)>,
    /// Read-only, copied and so on.
    pub flags: u64,
    /// The tensor.
    pub dl_tensor: DLTensor,
}

/// Why a tensor cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DlpackError {
    /// It follows another major version.
    #[error("comes by version {found} of DLPack, expected {MAJOR}")]
    Version {
        /// Which.
        found: u32,
    },
    /// It is not in the memory of the CPU.
    #[error(
        "is on another device than the CPU (DLPack's device type {device_type}); move it there first"
    )]
    Device {
        /// DLPack's number of the device's kind.
        device_type: i32,
    },
    /// Its elements are no 32-bit floats.
    #[error("holds {found}, expected float32")]
    Type {
        /// What they are.
        found: String,
    },
    /// It has no axes, no elements, or more than there can be.
    #[error("has shape {shape:?}, expected a tensor with axes and elements")]
    Shape {
        /// Its extents.
        shape: Vec<i64>,
    },
    /// It has no memory.
    #[error("has no memory: its `data` or `shape` is null")]
    Null,
}

/// Numbers with their extents, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Floats {
    /// As many as the product of the extents.
    pub values: Vec<f32>,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
}

/// Whether a kind of device is memory that the CPU reads.
///
/// # Errors
/// [`DlpackError::Device`] otherwise.
pub fn expect_cpu(device_type: i32) -> Result<(), DlpackError> {
    match device_type {
        CPU | CUDA_HOST => Ok(()),
        _ => Err(DlpackError::Device { device_type }),
    }
}

impl DLManagedTensorVersioned {
    /// Copies the numbers out, row by row. Nothing is freed.
    ///
    /// # Errors
    /// [`DlpackError`] for what is no tensor of 32-bit floats in the memory of the CPU.
    ///
    /// # Safety
    /// Pointers, extents and strides describe memory that can be read, and that nobody writes to meanwhile.
    pub unsafe fn read(&self) -> Result<Floats, DlpackError> {
        if self.version.major != MAJOR {
            let found = self.version.major;
            return Err(DlpackError::Version { found });
        }
        // SAFETY: the caller's promise.
        unsafe { self.dl_tensor.read() }
    }
}

impl DLTensor {
    /// Copies the numbers out, row by row.
    ///
    /// # Errors
    /// As [`DLManagedTensorVersioned::read`].
    ///
    /// # Safety
    /// As there.
    pub unsafe fn read(&self) -> Result<Floats, DlpackError> {
        expect_cpu(self.device.device_type)?;
        let DLDataType { code, bits, lanes } = self.dtype;
        if (code, bits, lanes) != (FLOAT, 32, 1) {
            let found = name(code, bits, lanes);
            return Err(DlpackError::Type { found });
        }
        let rank = usize::try_from(self.ndim).unwrap_or(0);
        if rank == 0 {
            return Err(DlpackError::Shape { shape: vec![] });
        }
        if self.data.is_null() || self.shape.is_null() {
            return Err(DlpackError::Null);
        }
        // SAFETY: the caller's promise: as many extents as axes, and as many strides, if there are any.
        let (extents, strides) = unsafe {
            let list = |pointer: *mut i64| std::slice::from_raw_parts(pointer, rank);
            (
                list(self.shape),
                (!self.strides.is_null()).then(|| list(self.strides)),
            )
        };
        let error = || DlpackError::Shape {
            shape: extents.to_vec(),
        };
        let shape: Option<Vec<usize>> = extents
            .iter()
            .map(|&extent| usize::try_from(extent).ok().filter(|&extent| extent > 0))
            .collect();
        let shape = shape.ok_or_else(error)?;
        let elements = shape
            .iter()
            .try_fold(1usize, |product, &extent| product.checked_mul(extent))
            .filter(|&elements| elements <= isize::MAX as usize / size_of::<f32>())
            .ok_or_else(error)?;
        let offset = usize::try_from(self.byte_offset).map_err(|_| error())?;
        let first = self.data.cast::<u8>().wrapping_add(offset).cast::<f32>();
        let row_by_row = strides_of(&shape);
        let strides = strides.unwrap_or(&row_by_row);
        let in_order = (0..rank).all(|axis| shape[axis] == 1 || strides[axis] == row_by_row[axis]);
        if in_order && first.is_aligned() {
            // SAFETY: as many numbers lie there, aligned.
            let values = unsafe { std::slice::from_raw_parts(first, elements) }.to_vec();
            return Ok(Floats { values, shape });
        }
        let mut values = Vec::with_capacity(elements);
        let mut place = vec![0usize; rank];
        for _ in 0..elements {
            let steps = place.iter().zip(strides);
            let at: i64 = steps.map(|(&n, &stride)| n as i64 * stride).sum();
            // SAFETY: a place within the extents, by the tensor's own strides.
            values.push(unsafe { first.wrapping_offset(at as isize).read_unaligned() });
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
}

/// Strides of rows that lie one after the other.
fn strides_of(shape: &[usize]) -> Vec<i64> {
    let mut strides = vec![1i64; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis] as i64;
    }
    strides
}

fn name(code: u8, bits: u8, lanes: u16) -> String {
    let kind = match code {
        0 => "int",
        1 => "uint",
        FLOAT => "float",
        4 => "bfloat",
        5 => "complex",
        6 => "bool",
        _ => "an unknown type of ",
    };
    match lanes {
        1 => format!("{kind}{bits}"),
        _ => format!("{kind}{bits} in lanes of {lanes}"),
    }
}

/// Numbers that can be lent, row by row.
pub type Values = Arc<dyn Deref<Target = [f32]> + Send + Sync>;

/// What a tensor that is lent owns.
struct Lent {
    values: Values,
    shape: Box<[i64]>,
    strides: Box<[i64]>,
}

impl Lent {
    /// Its tensor, and itself as its context. Whoever frees the tensor frees it.
    fn of(values: Values, shape: &[usize]) -> (DLTensor, *mut c_void) {
        let lent = Box::new(Self {
            values,
            shape: shape.iter().map(|&extent| extent as i64).collect(),
            strides: strides_of(shape).into(),
        });
        let tensor = DLTensor {
            data: lent.values.as_ptr().cast_mut().cast(),
            device: DLDevice {
                device_type: CPU,
                device_id: 0,
            },
            ndim: lent.shape.len() as i32,
            dtype: DLDataType {
                code: FLOAT,
                bits: 32,
                lanes: 1,
            },
            shape: lent.shape.as_ptr().cast_mut(),
            strides: lent.strides.as_ptr().cast_mut(),
            byte_offset: 0,
        };
        (tensor, Box::into_raw(lent).cast())
    }
}

/// Lends numbers, row by row, to whoever calls the deleter in the end.
pub fn lend(values: Values, shape: &[usize]) -> *mut DLManagedTensorVersioned {
    let (dl_tensor, manager_ctx) = Lent::of(values, shape);
    Box::into_raw(Box::new(DLManagedTensorVersioned {
        version: DLPackVersion {
            major: MAJOR,
            minor: 0,
        },
        manager_ctx,
        deleter: Some(delete_versioned),
        flags: 0,
        dl_tensor,
    }))
}

/// The same for readers from before versions.
pub fn lend_unversioned(values: Values, shape: &[usize]) -> *mut DLManagedTensor {
    let (dl_tensor, manager_ctx) = Lent::of(values, shape);
    Box::into_raw(Box::new(DLManagedTensor {
        dl_tensor,
        manager_ctx,
        deleter: Some(delete),
    }))
}

unsafe extern "C" fn delete(managed: *mut DLManagedTensor) {
    // SAFETY: made by `lend_unversioned`, and deleted once, as DLPack has it.
    unsafe {
        let managed = Box::from_raw(managed);
        drop(Box::from_raw(managed.manager_ctx.cast::<Lent>()));
    }
}

unsafe extern "C" fn delete_versioned(managed: *mut DLManagedTensorVersioned) {
    // SAFETY: made by `lend`, and deleted once.
    unsafe {
        let managed = Box::from_raw(managed);
        drop(Box::from_raw(managed.manager_ctx.cast::<Lent>()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(managed: *mut DLManagedTensorVersioned) -> Result<Floats, DlpackError> {
        // SAFETY: made by `lend`, and not deleted.
        unsafe { (*managed).read() }
    }

    fn delete(managed: *mut DLManagedTensorVersioned) {
        // SAFETY: made by `lend`, and deleted here alone.
        unsafe { (*managed).deleter.unwrap()(managed) }
    }

    #[test]
    fn what_is_lent_is_read_and_freed_once() {
        let values = Arc::new(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let lent = lend(values.clone(), &[2, 3]);
        assert_eq!(Arc::strong_count(&values), 2);
        let found = read(lent).unwrap();
        assert_eq!((&found.values, &*found.shape), (&*values, &[2, 3][..]));
        delete(lent);
        assert_eq!(Arc::strong_count(&values), 1);
        let old = lend_unversioned(values.clone(), &[6]);
        // SAFETY: it was just made.
        unsafe {
            assert_eq!((*old).dl_tensor.read().unwrap().values, *values);
            (*old).deleter.unwrap()(old);
        }
        assert_eq!(Arc::strong_count(&values), 1);
    }

    #[test]
    fn strides_and_offsets_say_where_elements_lie() {
        let values = Arc::new(vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let lent = lend(values, &[2, 3]);
        // The transpose [3, 2] of what lies behind the first number, and its rows from last to first.
        let (mut shape, mut strides) = ([3i64, 2], [1i64, 3]);
        // SAFETY: places within the seven numbers; the arrays outlive the reading.
        unsafe {
            let before = (*lent).dl_tensor;
            let tensor = &mut (*lent).dl_tensor;
            (tensor.shape, tensor.strides) = (shape.as_mut_ptr(), strides.as_mut_ptr());
            tensor.byte_offset = 4;
            let found = read(lent).unwrap();
            assert_eq!(found.values, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
            assert_eq!(found.shape, [3, 2]);
            strides[0] = -1;
            (*lent).dl_tensor.strides = strides.as_mut_ptr();
            (*lent).dl_tensor.byte_offset = 12;
            assert_eq!(read(lent).unwrap().values, [3.0, 6.0, 2.0, 5.0, 1.0, 4.0]);
            (*lent).dl_tensor = before;
        }
        delete(lent);
    }

    #[test]
    fn refuses_what_is_no_tensor_of_floats_on_the_cpu() {
        let lent = lend(Arc::new(vec![1.0]), &[1]);
        let whole = read(lent);
        assert!(whole.is_ok());
        let refused = |change: fn(&mut DLManagedTensorVersioned)| {
            // SAFETY: it is restored before anything else happens.
            unsafe {
                let before = ((*lent).version, (*lent).dl_tensor);
                change(&mut *lent);
                let outcome = read(lent).unwrap_err();
                ((*lent).version, (*lent).dl_tensor) = before;
                outcome.to_string()
            }
        };
        assert!(refused(|it| it.version.major = 2).contains("version 2"));
        assert!(refused(|it| it.dl_tensor.device.device_type = 2).contains("device type 2"));
        assert!(refused(|it| it.dl_tensor.dtype.bits = 64).contains("float64"));
        assert!(refused(|it| it.dl_tensor.dtype.code = 0).contains("int32"));
        assert!(refused(|it| it.dl_tensor.dtype.lanes = 4).contains("lanes of 4"));
        assert!(refused(|it| it.dl_tensor.ndim = 0).contains("shape []"));
        assert!(refused(|it| it.dl_tensor.ndim = -1).contains("shape []"));
        assert!(refused(|it| it.dl_tensor.data = std::ptr::null_mut()).contains("null"));
        static EMPTY: [i64; 1] = [0];
        static NEGATIVE: [i64; 1] = [-1];
        static VAST: [i64; 1] = [i64::MAX];
        assert!(refused(|it| it.dl_tensor.shape = EMPTY.as_ptr().cast_mut()).contains("[0]"));
        assert!(refused(|it| it.dl_tensor.shape = NEGATIVE.as_ptr().cast_mut()).contains("[-1]"));
        assert!(refused(|it| it.dl_tensor.shape = VAST.as_ptr().cast_mut()).contains("expected"));
        delete(lent);
    }
}

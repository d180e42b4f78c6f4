//! How a call ended.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use dtta::Remedy;

/// How a call ended. The numbers are the command's exit codes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It is done.
    Ok = 0,
    /// It failed, and the caller cannot mend it by another argument.
    Failed = 1,
    /// The caller can mend it: a file, a setting, a shape, a null pointer.
    Misuse = 2,
    /// It is done, but samples were skipped.
    Skipped = 3,
    /// The caller asked it to stop, or another process works in the folder: the same call goes on, with `resume`.
    TryAgain = 75,
}

/// What went wrong, in words.
pub struct Fault {
    status: Status,
    message: String,
}

impl Fault {
    /// Something that the caller can mend.
    pub fn misuse(message: impl Into<String>) -> Self {
        Self {
            status: Status::Misuse,
            message: message.into(),
        }
    }
}

impl From<dtta::Error> for Fault {
    fn from(error: dtta::Error) -> Self {
        let status = match error.remedy() {
            Remedy::Mend => Status::Misuse,
            Remedy::TryAgain => Status::TryAgain,
            Remedy::None => Status::Failed,
        };
        Self {
            status,
            message: dtta::told(&error),
        }
    }
}

impl From<dtta_models::ModelError> for Fault {
    fn from(error: dtta_models::ModelError) -> Self {
        Self::misuse(dtta::told(&error))
    }
}

impl From<dtta_tensor::TensorError> for Fault {
    fn from(error: dtta_tensor::TensorError) -> Self {
        dtta::Error::from(error).into()
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// What the last call of this thread that failed said. It stays until the next one fails; "" if none has.
#[unsafe(no_mangle)]
pub extern "C" fn dtta_last_error() -> *const c_char {
    LAST.with_borrow(|last| last.as_ptr())
}

/// Does what a function of the library does. Nothing unwinds into C.
pub fn call(what: impl FnOnce() -> Result<Status, Fault>) -> Status {
    let outcome = catch_unwind(AssertUnwindSafe(what)).unwrap_or_else(|panic| {
        let literal = panic.downcast_ref::<&str>().copied();
        let panic = panic
            .downcast_ref::<String>()
            .map_or(literal, |panic| Some(panic));
        let message = format!(
            "dtta has a fault, please report it: {}",
            panic.unwrap_or("it panicked")
        );
        let status = Status::Failed;
        Err(Fault { status, message })
    });
    match outcome {
        Ok(status) => status,
        Err(fault) => {
            let message = CString::new(fault.message.replace('\0', " ")).unwrap_or_default();
            LAST.set(message);
            fault.status
        }
    }
}

/// A text of the caller's.
///
/// # Errors
/// [`Status::Misuse`] if it is null or not UTF-8.
///
/// # Safety
/// It is null, or ends with 0 and stays as it is for `'a`.
pub unsafe fn text<'a>(what: &str, text: *const c_char) -> Result<&'a str, Fault> {
    if text.is_null() {
        return Err(Fault::misuse(format!("`{what}` is null")));
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str()
        .map_err(|_| Fault::misuse(format!("`{what}` is not UTF-8")))
}

/// A text of the caller's, or nothing for null.
///
/// # Errors
/// [`Status::Misuse`] if it is not UTF-8.
///
/// # Safety
/// As [`text`].
pub unsafe fn optional<'a>(what: &str, given: *const c_char) -> Result<Option<&'a str>, Fault> {
    match given.is_null() {
        true => Ok(None),
        // SAFETY: the caller's promise.
        false => unsafe { text(what, given) }.map(Some),
    }
}

/// A list of the caller's.
///
/// # Errors
/// [`Status::Misuse`] if it is null and not empty.
///
/// # Safety
/// It is null, or `count` elements lie there and stay as they are for `'a`.
pub unsafe fn list<'a, T>(what: &str, first: *const T, count: usize) -> Result<&'a [T], Fault> {
    match (first.is_null(), count) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Fault::misuse(format!("`{what}` is null"))),
        // SAFETY: the caller's promise.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(first, count) }),
    }
}

/// What the caller's pointer leads to.
///
/// # Errors
/// [`Status::Misuse`] if it is null.
///
/// # Safety
/// It is null, or leads to what it says, which stays for `'a`.
pub unsafe fn object<'a, T>(what: &str, pointer: *const T) -> Result<&'a T, Fault> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_ref() }.ok_or_else(|| Fault::misuse(format!("`{what}` is null")))
}

/// Writes an answer to where the caller wants it.
///
/// # Errors
/// [`Status::Misuse`] if that is null.
///
/// # Safety
/// It is null, or may be written to.
pub unsafe fn answer<T>(what: &str, place: *mut T, value: T) -> Result<(), Fault> {
    if place.is_null() {
        return Err(Fault::misuse(format!("`{what}` is null")));
    }
    // SAFETY: the caller's promise.
    unsafe { place.write(value) };
    Ok(())
}

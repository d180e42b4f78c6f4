//! The small values that cross: bytes, sinks, ids, statuses and attributes. Every one is plain
//! old data of fixed layout, and everything that stands for a choice is an integer with a
//! decoder.

use core::ffi::c_void;
use core::ptr;
use core::slice;

/// The most axes that a tensor has; the fewest is 1.
pub const MAX_RANK: usize = 6;

/// What every table starts with.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the whole table, header included.
    pub size: usize,
    /// [`ABI_MAJOR`](crate::ABI_MAJOR) of the side that filled the table.
    pub abi_major: u32,
    /// [`ABI_MINOR`](crate::ABI_MINOR) of the side that filled the table.
    pub abi_minor: u32,
}

impl Header {
    /// The header of a table of type `T`, filled by this version.
    pub const fn of<T>() -> Self {
        Self {
            size: size_of::<T>(),
            abi_major: crate::ABI_MAJOR,
            abi_minor: crate::ABI_MINOR,
        }
    }

    /// Whether the two sides speak the same version.
    pub const fn is_compatible(&self) -> bool {
        self.abi_major == crate::ABI_MAJOR && self.abi_minor == crate::ABI_MINOR
    }
}

/// Borrowed bytes. Text is UTF-8, without an end mark; the reader checks it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Bytes {
    /// The first byte; may be null or dangling if `len` is 0.
    pub ptr: *const u8,
    /// How many.
    pub len: usize,
}

impl Bytes {
    /// Borrows a slice. The result must not outlive it.
    pub const fn new(bytes: &[u8]) -> Self {
        Self {
            ptr: bytes.as_ptr(),
            len: bytes.len(),
        }
    }

    /// The bytes behind it.
    ///
    /// # Safety
    /// `ptr` must point at `len` bytes that stay valid and unchanged for `'a`, unless `len` is 0.
    pub const unsafe fn as_slice<'a>(self) -> &'a [u8] {
        if self.len == 0 || self.ptr.is_null() {
            return &[];
        }
        // SAFETY: the caller holds `ptr` and `len` to what a slice needs, and neither is empty.
        unsafe { slice::from_raw_parts(self.ptr, self.len) }
    }
}

/// Where the callee writes a document. It belongs to the caller and is valid until the call
/// returns.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Sink {
    /// The caller's own; passed back to `write` untouched.
    pub context: *mut c_void,
    /// Appends bytes, which it copies. May be called any number of times.
    pub write: unsafe extern "C" fn(context: *mut c_void, bytes: Bytes),
}

impl Sink {
    /// Appends bytes to what was written so far.
    ///
    /// # Safety
    /// The call that this sink was passed to must not have returned.
    pub unsafe fn write(&self, bytes: &[u8]) {
        // SAFETY: the caller of the plugin function keeps `context` valid for the whole call.
        unsafe { (self.write)(self.context, Bytes::new(bytes)) }
    }

    /// Writes an error: code, zero byte, message.
    ///
    /// # Safety
    /// As [`write`](Self::write).
    pub unsafe fn write_error(&self, code: &str, message: &str) {
        // SAFETY: passed on to the caller.
        unsafe {
            self.write(code.as_bytes());
            self.write(&[0]);
            self.write(message.as_bytes());
        }
    }

    /// Splits what an error sink received into code and message. Bytes that are no such pair
    /// become a message without a code.
    pub fn split_error(written: &[u8]) -> (&[u8], &[u8]) {
        match written.iter().position(|&byte| byte == 0) {
            Some(end) => (&written[..end], &written[end + 1..]),
            None => (&[], written),
        }
    }
}

/// What the host knows a tensor by. Its handle is in the low 32 bits; the high ones are 0.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorId(pub u64);

impl TensorId {
    /// No tensor: an optional operand that was left out.
    pub const NONE: Self = Self(0);
}

/// How a call ended. Any number may arrive; one that is not listed here counts as
/// [`ERROR`](Self::ERROR).
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(pub i32);

impl Status {
    /// Done; results are written.
    pub const OK: Self = Self(0);
    /// Refused or failed; the error sink says why. The instance is as good as before.
    pub const ERROR: Self = Self(1);
    /// The plugin panicked; the error sink holds what it said. The instance is poisoned.
    pub const PANIC: Self = Self(2);
    /// This side does not have what was asked for: a version, a role, an operation.
    pub const UNSUPPORTED: Self = Self(3);
    /// The instance panicked in an earlier call and takes no more.
    pub const POISONED: Self = Self(4);

    /// Whether the call did what it should.
    pub const fn is_ok(self) -> bool {
        self.0 == Self::OK.0
    }
}

/// What elements are, as a number.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind(pub u32);

impl Kind {
    /// Real numbers.
    pub const FLOAT: Self = Self(0);
    /// Whole numbers.
    pub const INT: Self = Self(1);
    /// Truth values.
    pub const BOOLEAN: Self = Self(2);
}

/// How strongly a log line matters, as a number.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogLevel(pub u32);

impl LogLevel {
    /// Every detail.
    pub const TRACE: Self = Self(0);
    /// For plugin authors.
    pub const DEBUG: Self = Self(1);
    /// For users.
    pub const INFO: Self = Self(2);
    /// Worth a look.
    pub const WARN: Self = Self(3);
    /// Went wrong.
    pub const ERROR: Self = Self(4);
}

/// An argument that is not a tensor, on the wire: a tag and what it carries. Read it with
/// [`decode`](Self::decode).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Attr {
    /// One of the `TAG_` constants.
    pub tag: u32,
    /// 0.
    pub reserved: u32,
    /// The number's 64 bits: two's complement, IEEE 754, 0 or 1; the length of a list.
    pub bits: u64,
    /// The list's first element; null for everything else.
    pub list: *const i64,
}

/// What an [`Attr`] says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// Left out.
    None,
    /// A whole number; a kind is 0 float, 1 int, 2 boolean.
    Int(i64),
    /// A real number.
    Float(f64),
    /// A choice.
    Bool(bool),
    /// Extents, axes or pairs.
    Ints(&'a [i64]),
}

impl Attr {
    /// [`Value::None`].
    pub const TAG_NONE: u32 = 0;
    /// [`Value::Int`].
    pub const TAG_INT: u32 = 1;
    /// [`Value::Float`].
    pub const TAG_FLOAT: u32 = 2;
    /// [`Value::Bool`].
    pub const TAG_BOOL: u32 = 3;
    /// [`Value::Ints`].
    pub const TAG_INTS: u32 = 4;

    /// Puts a value on the wire. The result must not outlive the list it borrows.
    pub const fn encode(value: Value<'_>) -> Self {
        let (tag, bits, list) = match value {
            Value::None => (Self::TAG_NONE, 0, ptr::null()),
            Value::Int(value) => (Self::TAG_INT, value.cast_unsigned(), ptr::null()),
            Value::Float(value) => (Self::TAG_FLOAT, value.to_bits(), ptr::null()),
            Value::Bool(value) => (Self::TAG_BOOL, value as u64, ptr::null()),
            Value::Ints(values) => (Self::TAG_INTS, values.len() as u64, values.as_ptr()),
        };
        Self {
            tag,
            reserved: 0,
            bits,
            list,
        }
    }

    /// Reads a value; `None` if the tag is unknown, a choice is neither 0 nor 1, or a list
    /// cannot be one.
    ///
    /// # Safety
    /// If the tag is [`TAG_INTS`](Self::TAG_INTS) and `bits` is not 0, `list` must be null or
    /// point at `bits` numbers that stay valid and unchanged for `'a`.
    pub unsafe fn decode<'a>(&self) -> Option<Value<'a>> {
        Some(match self.tag {
            Self::TAG_NONE => Value::None,
            Self::TAG_INT => Value::Int(self.bits.cast_signed()),
            Self::TAG_FLOAT => Value::Float(f64::from_bits(self.bits)),
            Self::TAG_BOOL => match self.bits {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                _ => return None,
            },
            Self::TAG_INTS if self.bits == 0 => Value::Ints(&[]),
            Self::TAG_INTS => {
                let len = usize::try_from(self.bits).ok()?;
                if self.list.is_null()
                    || !self.list.is_aligned()
                    || len > isize::MAX as usize / size_of::<i64>()
                {
                    return None;
                }
                // SAFETY: not null, aligned, not larger than an object can be; the caller holds
                // it to be that many numbers.
                Value::Ints(unsafe { slice::from_raw_parts(self.list, len) })
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn keeps_the_layout_of_version_0_1() {
        use core::mem::offset_of;
        assert_eq!((size_of::<Header>(), align_of::<Header>()), (16, 8));
        assert_eq!((size_of::<Bytes>(), offset_of!(Bytes, len)), (16, 8));
        assert_eq!((size_of::<Sink>(), offset_of!(Sink, write)), (16, 8));
        assert_eq!((size_of::<TensorId>(), size_of::<Status>()), (8, 4));
        assert_eq!(
            (
                size_of::<Attr>(),
                offset_of!(Attr, bits),
                offset_of!(Attr, list)
            ),
            (24, 8, 16)
        );
    }

    #[test]
    fn reads_back_what_it_encoded() {
        let list = [3, -1, i64::MIN];
        let values = [
            Value::None,
            Value::Int(-7),
            Value::Float(-0.5),
            Value::Bool(true),
            Value::Bool(false),
            Value::Ints(&list),
            Value::Ints(&[]),
        ];
        for value in values {
            // SAFETY: `list` outlives the loop.
            assert_eq!(unsafe { Attr::encode(value).decode() }, Some(value));
        }
    }

    #[test]
    fn refuses_attributes_that_say_nothing() {
        let number = [1i64];
        let base = Attr {
            tag: Attr::TAG_INTS,
            reserved: 0,
            bits: 1,
            list: number.as_ptr(),
        };
        let wrong = [
            Attr { tag: 5, ..base },
            Attr {
                tag: u32::MAX,
                ..base
            },
            Attr {
                tag: Attr::TAG_BOOL,
                bits: 2,
                ..base
            },
            Attr {
                list: ptr::null(),
                ..base
            },
            Attr {
                bits: u64::MAX,
                ..base
            },
            Attr {
                list: ptr::without_provenance(1),
                ..base
            },
        ];
        for attribute in wrong {
            // SAFETY: each is refused before its list is read.
            let decoded = unsafe { attribute.decode() };
            assert_eq!(decoded, None, "{attribute:?}");
        }
    }

    #[test]
    fn takes_any_number_for_a_status() {
        assert!(Status(0).is_ok());
        for number in [1, 2, 3, 4, 5, -1, i32::MAX, i32::MIN] {
            assert!(!Status(number).is_ok());
        }
    }

    #[test]
    fn splits_an_error_at_its_first_zero() {
        unsafe extern "C" fn append(context: *mut c_void, bytes: Bytes) {
            // SAFETY: `context` is the vector below, `bytes` a slice of this call.
            unsafe { (*context.cast::<Vec<u8>>()).extend_from_slice(bytes.as_slice()) }
        }
        let mut written = Vec::new();
        let sink = Sink {
            context: (&raw mut written).cast(),
            write: append,
        };
        // SAFETY: `written` is alive.
        unsafe { sink.write_error("shape-mismatch", "a\0b") };
        assert_eq!(
            Sink::split_error(&written),
            (&b"shape-mismatch"[..], &b"a\0b"[..])
        );
        assert_eq!(Sink::split_error(b"no code"), (&b""[..], &b"no code"[..]));
    }

    #[test]
    fn takes_a_null_for_no_bytes() {
        let nothing = Bytes {
            ptr: ptr::null(),
            len: 0,
        };
        // SAFETY: there is nothing to read.
        let bytes = unsafe { nothing.as_slice() };
        assert_eq!(bytes, b"");
    }
}

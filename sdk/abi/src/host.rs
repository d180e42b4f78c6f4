//! What the host lends: the table of its functions, and the call context that carries it.

use crate::value::{Attr, Bytes, Header, Kind, LogLevel, MAX_RANK, Sink, Status, TensorId};

/// The context of one call into a plugin. A plugin reads `host` and passes the pointer back;
/// whatever the host keeps behind this first word is its own. Valid until the call returns.
#[repr(C)]
#[derive(Debug)]
pub struct Call {
    /// The table to use during this call. Never null, and never moves.
    pub host: *const HostTable,
}

/// What there is to know of a tensor without reading it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorInfo {
    /// What its elements are.
    pub kind: Kind,
    /// 1 if the tape records what is computed from it, else 0.
    pub tracked: u32,
    /// How many axes, 1 to [`MAX_RANK`].
    pub rank: u32,
    /// 0.
    pub reserved: u32,
    /// Extents, outermost first; 0 beyond the rank.
    pub extents: [u64; MAX_RANK],
}

/// The host's functions. All of them take the context of the current call first.
///
/// # Safety
/// For every function: `call` is the context of the call that is running on this thread;
/// pointers with a count point at that many items, or are ignored where the count is 0; `out`
/// pointers can be written; `error` is null or a sink of the caller.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct HostTable {
    /// Version and size.
    pub header: Header,

    /// Computes operation `opcode` (see [`op`](crate::op)) from its tensors ([`TensorId::NONE`]
    /// for an optional one that was left out) and its attributes, both in the order of
    /// [`OPS`](crate::OPS), and writes the ids of its results, 1 or 2, to `outputs`.
    /// [`Status::UNSUPPORTED`] if this host lacks the operation. An `output_capacity` smaller
    /// than the number of results is an error.
    pub op: unsafe extern "C" fn(
        call: *mut Call,
        opcode: u32,
        inputs: *const TensorId,
        input_count: usize,
        attributes: *const Attr,
        attribute_count: usize,
        outputs: *mut TensorId,
        output_capacity: usize,
        error: *const Sink,
    ) -> Status,

    /// 1 if this host has operation `opcode`, else 0.
    pub op_supported: unsafe extern "C" fn(call: *mut Call, opcode: u32) -> u32,

    /// Writes shape, kind and whether the tape records `tensor`. Does not wait for the device.
    pub info: unsafe extern "C" fn(
        call: *mut Call,
        tensor: TensorId,
        out: *mut TensorInfo,
        error: *const Sink,
    ) -> Status,

    /// Writes a second id of the same tensor.
    pub share: unsafe extern "C" fn(
        call: *mut Call,
        tensor: TensorId,
        out: *mut TensorId,
        error: *const Sink,
    ) -> Status,

    /// Releases an id. Releasing one twice, or one of another call, does nothing.
    pub release: unsafe extern "C" fn(call: *mut Call, tensor: TensorId),

    /// Makes a float tensor from `count` elements, row by row, in a shape of `rank` extents.
    pub from_floats: unsafe extern "C" fn(
        call: *mut Call,
        elements: *const f32,
        count: usize,
        extents: *const u64,
        rank: usize,
        out: *mut TensorId,
        error: *const Sink,
    ) -> Status,

    /// Makes an int tensor from `count` elements, row by row, in a shape of `rank` extents.
    pub from_ints: unsafe extern "C" fn(
        call: *mut Call,
        elements: *const i64,
        count: usize,
        extents: *const u64,
        rank: usize,
        out: *mut TensorId,
        error: *const Sink,
    ) -> Status,

    /// Copies the elements of a float tensor out, row by row. `capacity` must be their exact
    /// number (see [`info`](Self::info)). Waits for the device; refused with `not-permitted`
    /// in `forward`, `condition` and `loss`.
    pub read_floats: unsafe extern "C" fn(
        call: *mut Call,
        tensor: TensorId,
        elements: *mut f32,
        capacity: usize,
        error: *const Sink,
    ) -> Status,

    /// As [`read_floats`](Self::read_floats) for an int tensor; truth values come as 0 and 1.
    pub read_ints: unsafe extern "C" fn(
        call: *mut Call,
        tensor: TensorId,
        elements: *mut i64,
        capacity: usize,
        error: *const Sink,
    ) -> Status,

    /// Writes the id of a constant that the experiment bound by name (UTF-8).
    pub constant: unsafe extern "C" fn(
        call: *mut Call,
        name: Bytes,
        out: *mut TensorId,
        error: *const Sink,
    ) -> Status,

    /// Writes the id of a declared parameter, by its position in the declaration.
    pub parameter: unsafe extern "C" fn(
        call: *mut Call,
        index: u32,
        out: *mut TensorId,
        error: *const Sink,
    ) -> Status,

    /// Writes the id of a declared buffer, by its position in the declaration.
    pub buffer: unsafe extern "C" fn(
        call: *mut Call,
        index: u32,
        out: *mut TensorId,
        error: *const Sink,
    ) -> Status,

    /// Replaces a declared buffer at the end of the call, unless the call fails. Takes `value`.
    pub update_buffer: unsafe extern "C" fn(
        call: *mut Call,
        index: u32,
        value: TensorId,
        error: *const Sink,
    ) -> Status,

    /// Writes a line (UTF-8) to the host's log. An unknown level counts as [`LogLevel::INFO`].
    pub log: unsafe extern "C" fn(call: *mut Call, level: LogLevel, message: Bytes),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn keeps_the_layout_of_version_0_1() {
        use core::mem::offset_of;
        assert_eq!((size_of::<Call>(), size_of::<TensorInfo>()), (8, 64));
        assert_eq!(
            (
                offset_of!(TensorInfo, rank),
                offset_of!(TensorInfo, extents)
            ),
            (8, 16)
        );
        let offsets = [
            offset_of!(HostTable, op),
            offset_of!(HostTable, op_supported),
            offset_of!(HostTable, info),
            offset_of!(HostTable, share),
            offset_of!(HostTable, release),
            offset_of!(HostTable, from_floats),
            offset_of!(HostTable, from_ints),
            offset_of!(HostTable, read_floats),
            offset_of!(HostTable, read_ints),
            offset_of!(HostTable, constant),
            offset_of!(HostTable, parameter),
            offset_of!(HostTable, buffer),
            offset_of!(HostTable, update_buffer),
            offset_of!(HostTable, log),
        ];
        for (position, offset) in offsets.into_iter().enumerate() {
            assert_eq!(offset, 16 + 8 * position, "entry {position}");
        }
        assert_eq!(size_of::<HostTable>(), 16 + 8 * 14);
    }
}

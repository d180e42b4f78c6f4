//! What a plugin offers: its table, one table for each role, and the entry that hands them over.

use core::ffi::c_void;

use crate::host::{Call, HostTable};
use crate::value::{Bytes, Header, Sink, Status, TensorId};

/// The type of [`ENTRY_SYMBOL`](crate::ENTRY_SYMBOL). It must be quick and do nothing but this:
///
/// 1. Where `(*host).header` is of another version, answer [`Status::UNSUPPORTED`] with code
///    `interface-version` and a message that names both versions.
/// 2. Fill as much of `*out` as both know: the caller put the bytes it has room for in
///    `(*out).header.size`; the plugin sets `header` to its own version and the bytes it wrote.
///
/// It may be called more than once.
///
/// # Safety
/// `host` points at a table that lives forever, `out` at a table whose `header` is set, and
/// `error` is null or a sink of the caller.
pub type Entry = unsafe extern "C" fn(
    host: *const HostTable,
    out: *mut PluginTable,
    error: *const Sink,
) -> Status;

/// A plugin's own state for one configured role. The host only passes the pointer back.
#[repr(C)]
#[derive(Debug)]
pub struct Instance {
    _opaque: [u8; 0],
}

/// A tensor with its name (UTF-8).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct NamedTensor {
    /// The name that producer and consumer agree on.
    pub name: Bytes,
    /// The tensor.
    pub tensor: TensorId,
}

/// Where a plugin writes its named results. It belongs to the caller and is valid until the
/// call returns.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct NamedSink {
    /// The caller's own; passed back to `write` untouched.
    pub context: *mut c_void,
    /// Adds one result, and takes the tensor. The name is copied.
    pub write: unsafe extern "C" fn(context: *mut c_void, result: NamedTensor),
}

/// What a plugin offers. Fields beyond `header.size` do not exist; a null role is not offered.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct PluginTable {
    /// Version and size.
    pub header: Header,
    /// Writes the descriptor, the same JSON document as WIT's `describe`. Needs no call context.
    pub describe: Option<unsafe extern "C" fn(document: *const Sink, error: *const Sink) -> Status>,
    /// The task head, or null.
    pub head: *const HeadTable,
    /// The mapper, or null.
    pub mapper: *const MapperTable,
    /// The objective, or null.
    pub objective: *const ObjectiveTable,
    /// The metric, or null.
    pub metric: *const MetricTable,
}

impl PluginTable {
    /// What a host passes to an [`Entry`]: a table with room for everything and nothing in it.
    pub const fn empty() -> Self {
        Self {
            header: Header::of::<Self>(),
            describe: None,
            head: core::ptr::null(),
            mapper: core::ptr::null(),
            objective: core::ptr::null(),
            metric: core::ptr::null(),
        }
    }

    /// The same without what lies beyond `header.size`: for hosts, on what an [`Entry`] filled.
    #[must_use]
    pub const fn within_header(mut self) -> Self {
        use core::mem::offset_of;
        const POINTER: usize = size_of::<*const u8>();
        let size = self.header.size;
        if size < offset_of!(Self, describe) + POINTER {
            self.describe = None;
        }
        if size < offset_of!(Self, head) + POINTER {
            self.head = core::ptr::null();
        }
        if size < offset_of!(Self, mapper) + POINTER {
            self.mapper = core::ptr::null();
        }
        if size < offset_of!(Self, objective) + POINTER {
            self.objective = core::ptr::null();
        }
        if size < offset_of!(Self, metric) + POINTER {
            self.metric = core::ptr::null();
        }
        self
    }
}

// SAFETY: the pointers lead to tables of function pointers that live forever and never change.
unsafe impl Send for PluginTable {}
// SAFETY: as above; nothing in it can be written through a shared reference.
unsafe impl Sync for PluginTable {}

/// The task head.
///
/// # Safety
/// For every function of every role table: `call` is valid until the function returns;
/// `instance` comes from the same table's `create` and was not destroyed; pointers with a count
/// point at that many items, or are ignored where the count is 0; sinks are valid, and error
/// sinks may be null.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct HeadTable {
    /// Bytes of this table.
    pub size: usize,
    /// Makes an instance from its configuration (JSON, UTF-8).
    pub create: unsafe extern "C" fn(
        call: *mut Call,
        config: Bytes,
        instance: *mut *mut Instance,
        error: *const Sink,
    ) -> Status,
    /// Frees an instance, also a poisoned one. Does not fail.
    pub destroy: unsafe extern "C" fn(instance: *mut Instance),
    /// Writes the values it wants kept: a JSON array of `{"name", "storage": "parameter" |
    /// "buffer", "shape": […], "attributes": {…}}`.
    pub declare: unsafe extern "C" fn(
        instance: *mut Instance,
        document: *const Sink,
        error: *const Sink,
    ) -> Status,
    /// Task outputs from what the backbone produced.
    pub forward: unsafe extern "C" fn(
        instance: *mut Instance,
        call: *mut Call,
        inputs: *const NamedTensor,
        input_count: usize,
        outputs: *const NamedSink,
        error: *const Sink,
    ) -> Status,
    /// A prediction from task outputs.
    pub predict: unsafe extern "C" fn(
        instance: *mut Instance,
        call: *mut Call,
        outputs: *const NamedTensor,
        output_count: usize,
        prediction: *const NamedSink,
        error: *const Sink,
    ) -> Status,
}

/// The mapper. Safety as for [`HeadTable`].
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct MapperTable {
    /// Bytes of this table.
    pub size: usize,
    /// Makes an instance from its configuration and the denoiser's slots (both JSON, UTF-8; the
    /// slots as in WIT's `mapper.create`).
    pub create: unsafe extern "C" fn(
        call: *mut Call,
        config: Bytes,
        slots: Bytes,
        instance: *mut *mut Instance,
        error: *const Sink,
    ) -> Status,
    /// Frees an instance, also a poisoned one. Does not fail.
    pub destroy: unsafe extern "C" fn(instance: *mut Instance),
    /// Writes the values it wants kept, as [`HeadTable::declare`].
    pub declare: unsafe extern "C" fn(
        instance: *mut Instance,
        document: *const Sink,
        error: *const Sink,
    ) -> Status,
    /// One tensor for each slot it fills, from task outputs.
    pub condition: unsafe extern "C" fn(
        instance: *mut Instance,
        call: *mut Call,
        outputs: *const NamedTensor,
        output_count: usize,
        slots: *const NamedSink,
        error: *const Sink,
    ) -> Status,
}

/// A further or alternative scalar to minimise. Safety as for [`HeadTable`].
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ObjectiveTable {
    /// Bytes of this table.
    pub size: usize,
    /// Makes an instance from its configuration (JSON, UTF-8).
    pub create: unsafe extern "C" fn(
        call: *mut Call,
        config: Bytes,
        instance: *mut *mut Instance,
        error: *const Sink,
    ) -> Status,
    /// Frees an instance, also a poisoned one. Does not fail.
    pub destroy: unsafe extern "C" fn(instance: *mut Instance),
    /// Writes the id of a loss `[1]` or `[B]`, and gives it away.
    pub loss: unsafe extern "C" fn(
        instance: *mut Instance,
        call: *mut Call,
        outputs: *const NamedTensor,
        output_count: usize,
        loss: *mut TensorId,
        error: *const Sink,
    ) -> Status,
}

/// A score that can be accumulated, saved and merged. Safety as for [`HeadTable`].
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct MetricTable {
    /// Bytes of this table.
    pub size: usize,
    /// Makes an empty accumulator from its configuration (JSON, UTF-8).
    pub create: unsafe extern "C" fn(
        call: *mut Call,
        config: Bytes,
        instance: *mut *mut Instance,
        error: *const Sink,
    ) -> Status,
    /// Frees an instance, also a poisoned one. Does not fail.
    pub destroy: unsafe extern "C" fn(instance: *mut Instance),
    /// Adds samples.
    pub update: unsafe extern "C" fn(
        instance: *mut Instance,
        call: *mut Call,
        predictions: *const NamedTensor,
        prediction_count: usize,
        targets: *const NamedTensor,
        target_count: usize,
        error: *const Sink,
    ) -> Status,
    /// Writes the accumulator as bytes.
    pub save: unsafe extern "C" fn(
        instance: *mut Instance,
        bytes: *const Sink,
        error: *const Sink,
    ) -> Status,
    /// Adds a saved accumulator.
    pub merge:
        unsafe extern "C" fn(instance: *mut Instance, saved: Bytes, error: *const Sink) -> Status,
    /// Writes a JSON object from metric name to number.
    pub report: unsafe extern "C" fn(
        instance: *mut Instance,
        document: *const Sink,
        error: *const Sink,
    ) -> Status,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn keeps_the_layout_of_version_0_1() {
        use core::mem::offset_of;
        assert_eq!(
            (size_of::<NamedTensor>(), offset_of!(NamedTensor, tensor)),
            (24, 16)
        );
        assert_eq!(size_of::<NamedSink>(), 16);
        let plugin = [
            offset_of!(PluginTable, describe),
            offset_of!(PluginTable, head),
            offset_of!(PluginTable, mapper),
            offset_of!(PluginTable, objective),
            offset_of!(PluginTable, metric),
            size_of::<PluginTable>(),
        ];
        assert_eq!(plugin, [16, 24, 32, 40, 48, 56]);
        let head = [
            offset_of!(HeadTable, create),
            offset_of!(HeadTable, destroy),
            offset_of!(HeadTable, declare),
            offset_of!(HeadTable, forward),
            offset_of!(HeadTable, predict),
            size_of::<HeadTable>(),
        ];
        assert_eq!(head, [8, 16, 24, 32, 40, 48]);
        let mapper = [
            offset_of!(MapperTable, create),
            offset_of!(MapperTable, destroy),
            offset_of!(MapperTable, declare),
            offset_of!(MapperTable, condition),
            size_of::<MapperTable>(),
        ];
        assert_eq!(mapper, [8, 16, 24, 32, 40]);
        assert_eq!(
            (size_of::<ObjectiveTable>(), size_of::<MetricTable>()),
            (32, 56)
        );
    }

    #[test]
    fn what_lies_beyond_the_header_does_not_exist() {
        let dangling = core::ptr::NonNull::dangling().as_ptr();
        let full = PluginTable {
            head: dangling,
            mapper: core::ptr::NonNull::dangling().as_ptr(),
            metric: core::ptr::NonNull::dangling().as_ptr(),
            ..PluginTable::empty()
        };
        let mut short = full;
        short.header.size = core::mem::offset_of!(PluginTable, mapper);
        let short = short.within_header();
        assert_eq!(short.head, full.head);
        assert!(short.mapper.is_null() && short.metric.is_null());
        let same = full.within_header();
        assert_eq!((same.mapper, same.metric), (full.mapper, full.metric));
    }

    #[test]
    fn starts_as_a_table_that_offers_nothing() {
        let table = PluginTable::empty();
        assert!(table.header.is_compatible());
        assert_eq!(table.header.size, size_of::<PluginTable>());
        assert!(table.describe.is_none() && table.head.is_null() && table.metric.is_null());
    }
}

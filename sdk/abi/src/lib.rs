//! The native plugin interface: plain C tables that host and plugin exchange.
//!
//! One symbol, [`ENTRY_SYMBOL`], leads to a [`PluginTable`]; whatever a plugin asks of the host
//! goes through the [`HostTable`] that every [`Call`] points at. Both sides use this crate;
//! `include/dtta.h` is the same in C, and a test holds it to this crate. It means the same as `wit/` and
//! carries the same version ([`ABI_MAJOR`], [`ABI_MINOR`]), which is not the crate's.
//!
//! # Rules
//!
//! - **Memory never changes hands.** [`Bytes`], arrays and tables that are passed in are borrowed
//!   until the function returns. Results of unknown length go through a [`Sink`] or a
//!   [`NamedSink`], which belong to the caller. The only things a plugin makes for the host to
//!   keep are instances, which the host gives back through `destroy`.
//! - **Tensors are ids** in the host's arena. Ids passed to a role function, and ids that the
//!   host writes, belong to the plugin until it releases them or the call returns; then the host
//!   releases them all. Ids that the plugin writes to its caller are given away: it must not
//!   release them. An id means nothing after its call, and nothing in another call.
//! - **Errors** are a [`Status`] other than [`Status::OK`] and, in the error sink, the code, one
//!   zero byte, and the message, both UTF-8 (`shape-mismatch\0…`). Where a call fails, its
//!   results are not written. An error sink may be null: nobody listens.
//! - **Numbers that stand for a choice are decoded, never trusted:** they cross as integers, and
//!   an unknown one is an error, not undefined behaviour.
//! - **Nothing unwinds** over the boundary. A plugin that panics catches it, answers
//!   [`Status::PANIC`], and [`Status::POISONED`] from then on for that instance.
//! - **One thread at a time.** A host may move an instance between threads, but never calls it
//!   from two at once. Functions of the [`HostTable`] are called on the thread of the call, and
//!   only until the call returns.
//! - **Tables live forever:** a table is a static of its side, and libraries are never unloaded.
//! - **Growth.** Tables and their numbers are append-only. A side reads of the other's table only
//!   the prefix that its `size` covers. While the major version is 0, a different minor version
//!   is refused.

#![no_std]

mod host;
mod ops;
mod plugin;
mod value;

pub use host::{Call, HostTable, TensorInfo};
pub use ops::{OPS, op, op_name};
pub use plugin::{
    Entry, HeadTable, Instance, MapperTable, MetricTable, NamedSink, NamedTensor, ObjectiveTable,
    PluginTable,
};
pub use value::{Attr, Bytes, Header, Kind, LogLevel, MAX_RANK, Sink, Status, TensorId, Value};

/// First number of the interface version. Another one is another interface.
pub const ABI_MAJOR: u32 = 0;

/// Second number of the interface version. While the first is 0, it must match too.
pub const ABI_MINOR: u32 = 1;

/// The interface version as it is written in manifests: the track that both numbers name.
pub const INTERFACE: &str = "0.1";

/// The one symbol that a native plugin exports: a function of type [`Entry`].
pub const ENTRY_SYMBOL: &str = "dtta_plugin_entry";

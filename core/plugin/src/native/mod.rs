//! Plugins that speak the native interface: linked into this program, or in a shared library.
//! Both are used through the tables that their entry function hands over, and both have the
//! rights of this program. A plugin that panics says so with its status; its instance is
//! destroyed, and the next call creates anew from the same config, as after a WebAssembly trap.

mod host_table;
mod library;
mod role;

use std::ffi::c_void;
use std::path::Path;

use dtta_abi::{Bytes, Entry, PluginTable, Sink, Status};

use crate::error::{PluginError, Result};
use crate::manifest::{INTERFACE_VERSION, Manifest, Role, join};
use crate::under_way::{Entered, Errand};
use host_table::HOST;
use role::RoleTable;

pub(crate) use library::open;
pub(crate) use role::{NativeHead, NativeMapper, NativeMetric, NativeObjective};

/// A plugin's tables.
pub(crate) struct NativePlugin {
    /// The plugin's name, for messages.
    name: String,
    table: PluginTable,
}

impl NativePlugin {
    /// Asks a plugin for its tables and its description. `origin` is named in errors.
    ///
    /// # Errors
    /// [`PluginError::Interface`] for another version, [`PluginError::Manifest`] for a
    /// description that is not one.
    pub(crate) fn load(origin: &Path, entry: Entry) -> Result<(Self, Manifest)> {
        let mut table = PluginTable::empty();
        let opening = || Errand::Opening(origin.into());
        let (status, error) = listen(opening(), |error| {
            // SAFETY: the host table is static, `table` has its header set, and both it and
            // the sink outlive the call.
            unsafe { entry(&raw const HOST, &raw mut table, error) }
        });
        let other_version = |needs: String| PluginError::Interface {
            plugin: origin.display().to_string(),
            needs,
            offered: INTERFACE_VERSION,
        };
        if !status.is_ok() {
            return Err(other_version(format!(
                "another native interface: {}",
                error.message
            )));
        }
        let header = table.header;
        if !header.is_compatible() {
            return Err(other_version(format!(
                "native interface {}.{}",
                header.abi_major, header.abi_minor
            )));
        }
        // What lies beyond the bytes that the plugin wrote does not exist, whatever stands there.
        let table = table.within_header();
        let refuse = |message: String| PluginError::Manifest {
            path: origin.into(),
            message,
        };
        let describe = table
            .describe
            .ok_or_else(|| refuse("it has no `describe`".into()))?;
        let mut text = Vec::new();
        let (status, error) = listen(opening(), |error| {
            let sink = sink(&mut text);
            // SAFETY: both sinks outlive the call.
            unsafe { describe(&raw const sink, error) }
        });
        if !status.is_ok() {
            return Err(refuse(format!("`describe` failed: {}", error.message)));
        }
        let text = String::from_utf8(text).map_err(|error| refuse(error.to_string()))?;
        let manifest = Manifest::parse(&text, origin)?;
        Ok((
            Self {
                name: manifest.name.clone(),
                table,
            },
            manifest,
        ))
    }

    /// The roles that it has tables for.
    pub(crate) fn roles(&self) -> Vec<Role> {
        let offered = |role: &Role| match role {
            Role::Head => !self.table.head.is_null(),
            Role::Mapper => !self.table.mapper.is_null(),
            Role::Objective => !self.table.objective.is_null(),
            Role::Metric => !self.table.metric.is_null(),
        };
        Role::ALL.into_iter().filter(offered).collect()
    }

    /// The table of a role.
    fn role<T: RoleTable>(&self) -> Result<&'static T> {
        let table = T::of(&self.table);
        if table.is_null() {
            return Err(PluginError::MissingRole {
                plugin: self.name.clone(),
                role: T::ROLE,
                offered: join(&self.roles()),
            });
        }
        // SAFETY: a table of the plugin, which lives forever and starts with its size.
        let size = unsafe { table.cast::<usize>().read_unaligned() };
        if size < size_of::<T>() || !table.is_aligned() {
            return Err(PluginError::Interface {
                plugin: self.name.clone(),
                needs: format!(
                    "a `{}` table of {size} bytes, not {}",
                    T::ROLE,
                    size_of::<T>()
                ),
                offered: INTERFACE_VERSION,
            });
        }
        // SAFETY: as above; it is as long as the table that this host knows, and aligned.
        Ok(unsafe { &*table })
    }
}

/// What a plugin wrote about its failure.
struct Written {
    code: String,
    message: String,
}

/// Calls a plugin with an error sink.
fn listen(errand: Errand, call: impl FnOnce(*const Sink) -> Status) -> (Status, Written) {
    let mut written = Vec::new();
    let status = {
        let _entered = Entered::new(errand);
        let sink = sink(&mut written);
        call(&raw const sink)
    };
    let (code, message) = Sink::split_error(&written);
    let text = |bytes: &[u8], absent: &str| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        if text.is_empty() {
            absent.to_owned()
        } else {
            text
        }
    };
    (
        status,
        Written {
            code: text(code, "plugin"),
            message: text(message, "it gave no reason"),
        },
    )
}

/// A sink that appends to `bytes`, for as long as nobody else touches them.
fn sink(bytes: &mut Vec<u8>) -> Sink {
    Sink {
        context: std::ptr::from_mut(bytes).cast(),
        write: append,
    }
}

/// Appends to the vector behind a sink of this module.
unsafe extern "C" fn append(context: *mut c_void, bytes: Bytes) {
    // SAFETY: sinks of this module carry a `Vec<u8>` that outlives the call and that nobody
    // else uses during it; the plugin lends `bytes`.
    unsafe { (*context.cast::<Vec<u8>>()).extend_from_slice(bytes.as_slice()) }
}

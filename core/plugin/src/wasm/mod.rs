//! Plugins as WebAssembly components. One engine serves the process; a component is compiled
//! once (and kept in the user's cache), instantiated for every configured role, and
//! instantiated again after a trap. It gets tensors and nothing else: no files, no clock, no
//! network. Fuel bounds its instructions, a limiter its memory, the session its tensors.

mod bindings;
mod host;
mod instance;
mod interface;
mod role;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::OnceLock;

use wasmtime::component::{Component, HasSelf, InstancePre, Linker};
use wasmtime::{Cache, CacheConfig, Config, Engine};

use crate::error::{PluginError, Result};
use crate::manifest::{INTERFACE_VERSION, Role};
use bindings::EveryRole;
use host::HostState;

pub(crate) use role::{WasmHead, WasmMapper, WasmMetric, WasmObjective, describe};

/// A compiled and checked component.
pub(crate) struct WasmPlugin {
    /// The plugin's name, for messages.
    pub(crate) name: String,
    pre: InstancePre<HostState>,
    /// The roles whose interface it exports.
    pub(crate) roles: Vec<Role>,
    /// Whether it can describe itself.
    pub(crate) describes: bool,
    /// The tensor operations that it uses, in snake case.
    pub(crate) ops: Vec<String>,
}

/// Stops every plugin call that is running in WebAssembly, in any thread: each answers
/// [`PluginError::Interrupted`]. For Ctrl-C.
pub fn interrupt() {
    if let Some(Ok(host)) = HOST.get() {
        host.engine.increment_epoch();
    }
}

/// Compiles a component and checks what it asks for; runs nothing of it.
///
/// # Errors
/// [`PluginError::NotAComponent`], [`PluginError::ForbiddenImport`], [`PluginError::Interface`],
/// [`PluginError::Host`].
pub(crate) fn load(plugin: &str, path: &Path, bytes: &[u8]) -> Result<WasmPlugin> {
    let refuse = |reason: String| PluginError::NotAComponent {
        path: path.into(),
        reason,
    };
    expect_component(bytes).map_err(&refuse)?;
    let host = host()?;
    let compiled = catch_unwind(AssertUnwindSafe(|| {
        Component::from_binary(&host.engine, bytes)
    }))
    .map_err(|_| refuse("the compiler failed on it".into()))?;
    let component = compiled.map_err(|error| {
        refuse(format!(
            "it is truncated or damaged: {}",
            error.root_cause()
        ))
    })?;
    let interfaces = interface::inspect(plugin, &component.component_type(), &host.engine)?;
    let pre = host
        .linker
        .instantiate_pre(&component)
        .map_err(|error| PluginError::Interface {
            plugin: plugin.into(),
            needs: format!("other types than this host has: {}", error.root_cause()),
            offered: INTERFACE_VERSION,
        })?;
    let interface::Interfaces {
        roles,
        describes,
        ops,
    } = interfaces;
    Ok(WasmPlugin {
        name: plugin.into(),
        pre,
        roles,
        describes,
        ops,
    })
}

/// Looks at the first 8 bytes, which tell components from modules and from other files.
fn expect_component(bytes: &[u8]) -> Result<(), String> {
    const MAGIC: &[u8] = b"\0asm";
    match bytes.get(..8) {
        Some(start) if start.starts_with(MAGIC) => match &start[4..] {
            [13, 0, 1, 0] => Ok(()),
            [1, 0, 0, 0] => Err("it is a core module; build it with `dtta plugins build`".into()),
            version => Err(format!("it has the unknown version {version:?}")),
        },
        _ => Err(format!(
            "it does not start as WebAssembly does ({} bytes)",
            bytes.len()
        )),
    }
}

struct Host {
    engine: Engine,
    linker: Linker<HostState>,
}

static HOST: OnceLock<Result<Host, String>> = OnceLock::new();

fn host() -> Result<&'static Host> {
    HOST.get_or_init(|| start().map_err(|error| format!("{error:#}")))
        .as_ref()
        .map_err(|message| PluginError::Host {
            message: message.clone(),
        })
}

fn start() -> wasmtime::Result<Host> {
    let mut config = Config::new();
    config
        .concurrency_support(false) // halves the price of a call, and no plugin is asynchronous
        .consume_fuel(true)
        .epoch_interruption(true)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .cache(cache());
    let engine = Engine::new(&config)?;
    let mut linker = Linker::new(&engine);
    EveryRole::add_to_linker::<HostState, HasSelf<HostState>>(&mut linker, |state| state)?;
    Ok(Host { engine, linker })
}

/// Compiled components in the user's cache folder, where there can be one.
fn cache() -> Option<Cache> {
    Cache::new(CacheConfig::new())
        .inspect_err(|error| log::debug!("plugins are compiled without a cache: {error:#}"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_components_from_other_files() {
        assert!(expect_component(b"\0asm\x0d\0\x01\0...").is_ok());
        for (bytes, reason) in [
            (&b"\0asm\x01\0\0\0"[..], "core module"),
            (b"\0asm\x02\0\0\0", "unknown version"),
            (b"\x7fELF\x02\x01\x01\0", "does not start"),
            (b"\0asm", "4 bytes"),
            (b"", "0 bytes"),
        ] {
            let error = expect_component(bytes).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}

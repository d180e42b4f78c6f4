//! Plugins as WebAssembly components. One engine serves the process; a component is compiled
//! once (and kept in the user's cache), instantiated for every configured role, and
//! instantiated again after a trap. It gets tensors and nothing else: no files, no clock, no
//! network. Fuel bounds its instructions, a limiter its memory, the session its tensors.

mod bindings;
mod bounds;
mod host;
mod instance;
mod interface;
mod role;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use wasmtime::component::{Component, HasSelf, InstancePre, Linker};
use wasmtime::{Cache, CacheConfig, Config, Engine, Memory, MemoryType, Store};

use crate::environment::Compiling;
use crate::error::{PluginError, Result};
use crate::manifest::{INTERFACE_VERSION, Role};
use bindings::EveryRole;
use bounds::Refusal;
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
/// [`PluginError::NotAComponent`], [`PluginError::Compiling`], [`PluginError::ForbiddenImport`], [`PluginError::Interface`],
/// [`PluginError::Host`].
pub(crate) fn load(
    plugin: &str,
    path: &Path,
    bytes: &[u8],
    limits: &Compiling,
) -> Result<WasmPlugin> {
    let refuse = |reason: String| PluginError::NotAComponent {
        path: path.into(),
        reason,
    };
    expect_component(bytes).map_err(&refuse)?;
    let host = host()?;
    bounds::check(bytes, limits).map_err(|refusal| match refusal {
        Refusal::Damaged(reason) => refuse(reason),
        Refusal::TooMuch(reason) => PluginError::Compiling {
            path: path.into(),
            reason,
        },
    })?;
    let component = compile(path, bytes, limits)?;
    let interfaces = interface::inspect(plugin, &component.component_type(), &host.engine)?;
    let pre = host
        .linker
        .instantiate_pre(&component)
        .map_err(|error| PluginError::Interface {
            plugin: plugin.into(),
            needs: format!("types that differ from this host's: {}", error.root_cause()),
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

/// Compiles in a thread of its own, which is left alone when it takes too long.
fn compile(path: &Path, bytes: &[u8], limits: &Compiling) -> Result<Component> {
    let host = host()?;
    let (sender, receiver) = mpsc::channel();
    let bytes = bytes.to_vec();
    let work = move || {
        let engine = &host.engine;
        let compiled = catch_unwind(AssertUnwindSafe(|| Component::from_binary(engine, &bytes)));
        sender.send(compiled).ok(); // nobody listens to one that is late
    };
    let thread = thread::Builder::new().name("compiler".into()).spawn(work);
    thread.map_err(|error| PluginError::Host {
        message: format!("the system gives no thread to compile in: {error}"),
    })?;
    let seconds = limits.compile_seconds;
    let refuse = |reason: String| PluginError::NotAComponent {
        path: path.into(),
        reason,
    };
    match receiver.recv_timeout(Duration::from_secs(seconds)) {
        Ok(Ok(Ok(component))) => Ok(component),
        Ok(Ok(Err(error))) if error.downcast_ref::<std::io::Error>().is_some() => {
            Err(PluginError::Host {
                message: format!("`{}` is not compiled: {error:#}", path.display()),
            })
        }
        Ok(Ok(Err(error))) => {
            let cause = error.root_cause();
            Err(refuse(format!("it is truncated or damaged: {cause}")))
        }
        Ok(Err(_)) | Err(mpsc::RecvTimeoutError::Disconnected) => {
            Err(refuse("the compiler failed on it".into()))
        }
        Err(mpsc::RecvTimeoutError::Timeout) => Err(PluginError::Compiling {
            path: path.into(),
            reason: format!(
                "the compiler takes longer than {seconds} s, which `plugins.limits.compile_seconds` allows; it is left to itself, and holds its memory until this process ends or it is done"
            ),
        }),
    }
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
        .memory_init_cow(false) // would keep initial memory in a file, which a limit on files forbids
        .cache(cache());
    let mut engine = Engine::new(&config)?;
    if !reserves(&engine) {
        // Address space is limited: take what is used instead of 4 GiB for each memory, and check bounds in code.
        config
            .memory_reservation(0)
            .memory_guard_size(0)
            .memory_reservation_for_growth(1 << 20);
        engine = Engine::new(&config)?;
    }
    let mut linker = Linker::new(&engine);
    EveryRole::add_to_linker::<HostState, HasSelf<HostState>>(&mut linker, |state| state)?;
    Ok(Host { engine, linker })
}

/// Whether the system gives the address space that memories reserve, for a few of them.
fn reserves(engine: &Engine) -> bool {
    let mut store = Store::new(engine, ());
    (0..4).all(|_| Memory::new(&mut store, MemoryType::new(1, None)).is_ok())
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

//! One instance of a component, and calls of what it exports.

use dtta_tensor::{Handle, Named, Phase, Session, Tensor, TensorError, Usage, Value};
use wasmtime::component::{Instance, Resource};
use wasmtime::{Store, Trap};

use super::WasmPlugin;
use super::bindings::TensorResource;
use super::bindings::dtta::plugin::types::Error;
use super::host::{HostState, MemoryLimit, MemorySpent, Spent, own};
use crate::environment::Environment;
use crate::error::{Place, PluginError, Result};

/// Bytes that a guest may send in one call to the host.
const HOSTCALL_BYTES: usize = 4 << 20;

/// Handles that calls may leave with an instance, all together. The host has released what they stood for, but the instance keeps
/// their numbers, and WebAssembly's runtime ends one that keeps 100,000.
const LEFT_HANDLES: u64 = 50_000;

/// Tensors of a call, by name.
pub(super) type NamedIds = Vec<(String, Resource<TensorResource>)>;

/// A trap, an error, or an answer.
pub(super) type Answer<T> = wasmtime::Result<Result<T, Error>>;

/// One instance in its own store.
pub(super) struct Guest {
    store: Store<HostState>,
    pub(super) instance: Instance,
    instructions: u64,
    /// Of the last call.
    pub(super) usage: Usage,
    left_handles: u64,
    /// A call trapped, so the instance may not be entered again.
    is_broken: bool,
}

impl Guest {
    /// Instantiates a component; `place` is named in errors.
    pub(super) fn new(
        plugin: &WasmPlugin,
        environment: &Environment,
        place: &Place,
    ) -> Result<Self> {
        let mut session = Session::new(environment.device.clone(), environment.limits);
        for (name, constant) in environment.constants.iter() {
            session.bind(name, constant.clone());
        }
        let state = HostState {
            plugin: place.plugin.clone(),
            session,
            memory: MemoryLimit::new(environment.memory_bytes),
            last_words: None,
        };
        let mut store = Store::new(plugin.pre.engine(), state);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(HOSTCALL_BYTES);
        let instructions = environment.instructions;
        refill(&mut store, instructions)
            .map_err(|error| crash(&error, place, &store, instructions))?;
        let instance = plugin.pre.instantiate(&mut store);
        let instance = instance.map_err(|error| crash(&error, place, &store, instructions))?;
        Ok(Self {
            store,
            instance,
            instructions,
            usage: Usage::default(),
            left_handles: 0,
            is_broken: false,
        })
    }

    /// Whether the last call trapped.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Whether the instance keeps so many handles of earlier calls that another should take its place.
    pub(super) fn is_worn(&self) -> bool {
        self.left_handles > LEFT_HANDLES
    }

    /// Runs one exported function within a frame: `lend` puts tensors in, `run` calls, `keep`
    /// takes results out. Everything else that the call made is released.
    pub(super) fn call<A, T, U>(
        &mut self,
        place: &Place,
        phase: Phase,
        lend: impl FnOnce(&mut Session) -> Result<A, TensorError>,
        run: impl FnOnce(&mut Store<HostState>, A) -> Answer<T>,
        keep: impl FnOnce(&mut Session, T) -> Result<U, TensorError>,
    ) -> Result<U> {
        self.store.data_mut().last_words = None;
        self.store.data_mut().session.enter(phase);
        let lent =
            lend(&mut self.store.data_mut().session).map_err(|error| failed(&error, place))?;
        let answer =
            refill(&mut self.store, self.instructions).and_then(|()| run(&mut self.store, lent));
        let result = match answer {
            Ok(Ok(answer)) => {
                let session = &mut self.store.data_mut().session;
                let kept = session
                    .kept_to_budgets()
                    .and_then(|()| keep(session, answer));
                kept.map_err(|error| failed(&error, place))
            }
            Ok(Err(Error { code, message })) => Err(PluginError::Failed {
                place: place.clone(),
                code,
                message,
            }),
            Err(error) => {
                self.is_broken = true;
                Err(crash(&error, place, &self.store, self.instructions))
            }
        };
        self.usage = self.store.data_mut().session.leave();
        self.left_handles += self.usage.unreleased;
        result
    }
}

/// Lends named tensors and values to the call that has just been entered.
pub(super) fn lend(
    session: &mut Session,
    tensors: &Named,
    values: Vec<Value>,
) -> Result<NamedIds, TensorError> {
    session.lend_values(values);
    let lend = |(name, tensor): (&str, &Tensor)| {
        Ok((name.to_owned(), own(session.insert(tensor.clone())?)))
    };
    tensors.iter().map(lend).collect()
}

/// Takes named results out of the call.
pub(super) fn keep(session: &mut Session, outputs: NamedIds) -> Result<Named, TensorError> {
    let keep = |(name, id): (String, Resource<TensorResource>)| {
        Ok((name, session.take(Handle(id.rep()))?))
    };
    outputs.into_iter().map(keep).collect()
}

/// What one call may use, afresh.
fn refill(store: &mut Store<HostState>, instructions: u64) -> wasmtime::Result<()> {
    store.set_epoch_deadline(1);
    store.set_fuel(instructions)
}

fn failed(error: &TensorError, place: &Place) -> PluginError {
    PluginError::Failed {
        place: place.clone(),
        code: error.code().into(),
        message: error.to_string(),
    }
}

/// A call that did not return, in words.
fn crash(
    error: &wasmtime::Error,
    place: &Place,
    store: &Store<HostState>,
    instructions: u64,
) -> PluginError {
    let place = place.clone();
    if let Some(spent) = error.downcast_ref::<MemorySpent>() {
        return PluginError::Budget {
            place,
            resource: "memory_bytes",
            limit: spent.bytes as u64,
        };
    }
    if let Some(Spent(error)) = error.downcast_ref::<Spent>() {
        return failed(error, &place);
    }
    // What the system refuses is not the plugin's doing.
    if let Some(system) = error.downcast_ref::<std::io::Error>() {
        return PluginError::Host {
            message: format!("{place}: the system gives no memory for an instance: {system}"),
        };
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => PluginError::Budget {
            place,
            resource: "instructions",
            limit: instructions,
        },
        Some(Trap::Interrupt) => PluginError::Interrupted { place },
        trap => {
            let cause = trap.map_or_else(|| error.root_cause().to_string(), Trap::to_string);
            let message = match &store.data().last_words {
                Some(words) => format!("{words} ({cause})"),
                None => cause,
            };
            PluginError::Trap { place, message }
        }
    }
}

//! A configured role of a component, and its calls. An instance that trapped may not be
//! entered again, so it is dropped, and the next call instantiates and creates anew from the
//! same config: roles are pure, so nothing is lost.

use std::sync::Arc;

use dtta_tensor::{Handle, Phase, Session, TensorError};
use wasmtime::component::{Instance, Resource, ResourceAny};
use wasmtime::{Store, Trap};

use super::WasmPlugin;
use super::bindings::TensorResource;
use super::bindings::dtta::plugin::types::Error;
use super::bindings::exports::dtta::plugin::{descriptor, head, mapper};
use super::host::{HostState, MemoryLimit, MemorySpent, own};
use crate::environment::Environment;
use crate::error::{Place, PluginError, Result};
use crate::manifest::Role;
use crate::roles::{Head, Mapper, Named};

/// Bytes that a guest may send in one call to the host.
const HOSTCALL_BYTES: usize = 4 << 20;

type NamedIds = Vec<(String, Resource<TensorResource>)>;

/// One instance in its own store.
struct Guest {
    store: Store<HostState>,
    instance: Instance,
    instructions: u64,
}

impl Guest {
    fn new(plugin: &WasmPlugin, environment: &Environment, place: &Place) -> Result<Self> {
        let mut session = Session::new(environment.device.clone(), environment.limits);
        for (name, constant) in &environment.constants {
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
        })
    }

    /// Runs one exported function within a frame: `lend` puts tensors in, `run` calls, `keep`
    /// takes results out. Everything else that the call made is released.
    fn call<A, T, U>(
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
            Ok(Ok(answer)) => keep(&mut self.store.data_mut().session, answer)
                .map_err(|error| failed(&error, place)),
            Ok(Err(Error { code, message })) => Err(PluginError::Failed {
                place: place.clone(),
                code,
                message,
            }),
            Err(error) => Err(crash(&error, place, &self.store, self.instructions)),
        };
        self.store.data_mut().session.leave();
        result
    }

    /// A call from named tensors to named tensors.
    fn map(
        &mut self,
        place: &Place,
        phase: Phase,
        inputs: &Named,
        run: impl FnOnce(&mut Store<HostState>, &NamedIds) -> Answer<NamedIds>,
    ) -> Result<Named> {
        self.call(
            place,
            phase,
            |session| {
                let lend = |(name, tensor): &(String, _)| {
                    Ok((name.clone(), own(session.insert(Clone::clone(tensor))?)))
                };
                inputs.iter().map(lend).collect()
            },
            |store, lent: NamedIds| run(store, &lent),
            |session, outputs| {
                let keep =
                    |(name, id): (String, Resource<_>)| Ok((name, session.take(Handle(id.rep()))?));
                outputs.into_iter().map(keep).collect()
            },
        )
    }
}

/// What a component says of itself, as JSON.
///
/// # Errors
/// [`PluginError::Trap`] and the other errors of a call.
pub(crate) fn describe(plugin: &WasmPlugin, role: Role) -> Result<String> {
    let place = Place::new(&plugin.name, role, "describe");
    let mut guest = Guest::new(plugin, &Environment::default(), &place)?;
    let instance = guest.instance;
    guest.call(
        &place,
        Phase::Setup,
        |_| Ok(()),
        |store, ()| {
            let exports =
                descriptor::GuestIndices::new(&plugin.pre)?.load(&mut *store, &instance)?;
            Ok(Ok(exports.call_describe(store)?))
        },
        |_, text| Ok(text),
    )
}

/// The functions that the exports of every role have.
pub(crate) trait RoleExports: Sized + Send {
    /// Which role.
    const ROLE: Role;
    /// Finds the exports of an instance.
    fn load(
        plugin: &WasmPlugin,
        store: &mut Store<HostState>,
        instance: &Instance,
    ) -> wasmtime::Result<Self>;
    /// Creates the configured object.
    fn create(
        &self,
        store: &mut Store<HostState>,
        config: &str,
        slots: &str,
    ) -> Answer<ResourceAny>;
    /// The names of the values it wants kept.
    fn declare(
        &self,
        store: &mut Store<HostState>,
        object: ResourceAny,
    ) -> wasmtime::Result<Vec<String>>;
}

/// A trap, an error, or an answer.
type Answer<T> = wasmtime::Result<Result<T, Error>>;

impl RoleExports for head::Guest {
    const ROLE: Role = Role::Head;

    fn load(
        plugin: &WasmPlugin,
        store: &mut Store<HostState>,
        instance: &Instance,
    ) -> wasmtime::Result<Self> {
        head::GuestIndices::new(&plugin.pre)?.load(store, instance)
    }

    fn create(
        &self,
        store: &mut Store<HostState>,
        config: &str,
        _slots: &str,
    ) -> Answer<ResourceAny> {
        self.head().call_create(store, config)
    }

    fn declare(
        &self,
        store: &mut Store<HostState>,
        object: ResourceAny,
    ) -> wasmtime::Result<Vec<String>> {
        let values = self.head().call_declare(store, object)?;
        Ok(values.into_iter().map(|value| value.name).collect())
    }
}

impl RoleExports for mapper::Guest {
    const ROLE: Role = Role::Mapper;

    fn load(
        plugin: &WasmPlugin,
        store: &mut Store<HostState>,
        instance: &Instance,
    ) -> wasmtime::Result<Self> {
        mapper::GuestIndices::new(&plugin.pre)?.load(store, instance)
    }

    fn create(
        &self,
        store: &mut Store<HostState>,
        config: &str,
        slots: &str,
    ) -> Answer<ResourceAny> {
        self.mapper().call_create(store, config, slots)
    }

    fn declare(
        &self,
        store: &mut Store<HostState>,
        object: ResourceAny,
    ) -> wasmtime::Result<Vec<String>> {
        let values = self.mapper().call_declare(store, object)?;
        Ok(values.into_iter().map(|value| value.name).collect())
    }
}

/// A configured role of a component.
pub(crate) struct WasmRole<E> {
    plugin: Arc<WasmPlugin>,
    environment: Environment,
    config: String,
    slots: String,
    live: Option<Live<E>>,
}

/// What a trap ends: an instance, its exports, and the object that it created.
struct Live<E> {
    guest: Guest,
    exports: E,
    object: ResourceAny,
}

/// A head in a component.
pub(crate) type WasmHead = WasmRole<head::Guest>;
/// A mapper in a component.
pub(crate) type WasmMapper = WasmRole<mapper::Guest>;

impl<E: RoleExports> WasmRole<E> {
    /// Creates the role from its validated config; `slots` is for mappers.
    ///
    /// # Errors
    /// Whatever the plugin answers with, and the errors of a call.
    pub(crate) fn new(
        plugin: Arc<WasmPlugin>,
        config: String,
        slots: String,
        environment: Environment,
    ) -> Result<Self> {
        let mut role = Self {
            plugin,
            environment,
            config,
            slots,
            live: None,
        };
        role.live = Some(role.create()?);
        Ok(role)
    }

    fn create(&self) -> Result<Live<E>> {
        let place = self.place("create");
        let mut guest = Guest::new(&self.plugin, &self.environment, &place)?;
        let instance = guest.instance;
        let (exports, object, values) = guest.call(
            &place,
            Phase::Setup,
            |_| Ok(()),
            |store, ()| {
                let exports = E::load(&self.plugin, store, &instance)?;
                let object = match exports.create(store, &self.config, &self.slots)? {
                    Ok(object) => object,
                    Err(error) => return Ok(Err(error)),
                };
                let values = exports.declare(store, object)?;
                Ok(Ok((exports, object, values)))
            },
            |_, created| Ok(created),
        )?;
        expect_no_values(&values, &place)?;
        Ok(Live {
            guest,
            exports,
            object,
        })
    }

    /// A call from named tensors to named tensors, on a live instance.
    fn map(
        &mut self,
        function: &'static str,
        phase: Phase,
        inputs: &Named,
        run: impl FnOnce(&E, &mut Store<HostState>, ResourceAny, &NamedIds) -> Answer<NamedIds>,
    ) -> Result<Named> {
        let mut live = match self.live.take() {
            Some(live) => live,
            None => self.create()?,
        };
        let (exports, object) = (&live.exports, live.object);
        let result = live
            .guest
            .map(&self.place(function), phase, inputs, |store, inputs| {
                run(exports, store, object, inputs)
            });
        let crashed = matches!(
            result,
            Err(PluginError::Trap { .. }
                | PluginError::Budget { .. }
                | PluginError::Interrupted { .. })
        );
        if !crashed {
            self.live = Some(live);
        }
        result
    }

    fn place(&self, function: &'static str) -> Place {
        Place::new(&self.plugin.name, E::ROLE, function)
    }
}

impl Head for WasmHead {
    fn forward(&mut self, inputs: &Named) -> Result<Named> {
        self.map(
            "forward",
            Phase::Forward,
            inputs,
            |exports, store, object, inputs| {
                exports
                    .head()
                    .call_forward(store, object, inputs, Resource::new_borrow(0))
            },
        )
    }

    fn predict(&mut self, outputs: &Named) -> Result<Named> {
        self.map(
            "predict",
            Phase::Predict,
            outputs,
            |exports, store, object, outputs| exports.head().call_predict(store, object, outputs),
        )
    }
}

impl Mapper for WasmMapper {
    fn condition(&mut self, outputs: &Named) -> Result<Named> {
        self.map(
            "condition",
            Phase::Forward,
            outputs,
            |exports, store, object, outputs| {
                exports
                    .mapper()
                    .call_condition(store, object, outputs, Resource::new_borrow(0))
            },
        )
    }
}

/// Refuses a plugin whose values nobody would keep.
fn expect_no_values(names: &[String], place: &Place) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let message = format!(
        "it declares the values {}, and this host keeps none for plugins",
        names.join(", ")
    );
    Err(PluginError::Failed {
        place: place.clone(),
        code: "not-supported".into(),
        message,
    })
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
            resource: "memory in bytes",
            limit: spent.bytes as u64,
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

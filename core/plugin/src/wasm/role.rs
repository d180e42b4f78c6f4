//! Configured roles of a component. An instance that trapped may not be entered again, so it is
//! dropped, and the next call instantiates and creates anew from the same config: roles are pure,
//! so nothing is lost; what a metric has accumulated is kept as it saved it (`saved`).

use std::collections::BTreeMap;
use std::sync::Arc;

use dtta_tensor::{Handle, Named, Phase, Session, Storage, Tensor, TensorError, Usage};
use wasmtime::Store;
use wasmtime::component::{Instance, Resource, ResourceAny};

use super::WasmPlugin;
use super::bindings::dtta::plugin::declare;
use super::bindings::exports::dtta::plugin::{descriptor, head, mapper, metric, objective};
use super::host::HostState;
use super::instance::{Answer, Guest, NamedIds, keep, lend};
use crate::environment::Environment;
use crate::error::{Place, PluginError, Result};
use crate::manifest::Role;
use crate::roles::{Head, Mapper, Objective, scores};
use crate::saved::Accumulator;
use crate::values::{self, ValueSpec, Values};

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

/// What the exports of all roles have in common.
pub(crate) trait RoleExports: Sized + Send {
    /// Which role.
    const ROLE: Role;
    /// Finds the exports of an instance.
    fn load(
        plugin: &WasmPlugin,
        store: &mut Store<HostState>,
        instance: &Instance,
    ) -> wasmtime::Result<Self>;
    /// Creates the configured object; `slots` is for mappers.
    fn create(
        &self,
        store: &mut Store<HostState>,
        config: &str,
        slots: &str,
    ) -> Answer<ResourceAny>;
    /// The values it wants kept; roles without values have none.
    fn declare(
        &self,
        _store: &mut Store<HostState>,
        _object: ResourceAny,
    ) -> wasmtime::Result<Vec<declare::ValueSpec>> {
        Ok(Vec::new())
    }
}

macro_rules! role_exports {
    ($module:ident, $role:ident $(, slots: $slots:ident)? $(, declare: $declare:ident)?) => {
        impl RoleExports for $module::Guest {
            const ROLE: Role = Role::$role;

            fn load(
                plugin: &WasmPlugin,
                store: &mut Store<HostState>,
                instance: &Instance,
            ) -> wasmtime::Result<Self> {
                $module::GuestIndices::new(&plugin.pre)?.load(store, instance)
            }

            fn create(
                &self,
                store: &mut Store<HostState>,
                config: &str,
                _slots: &str,
            ) -> Answer<ResourceAny> {
                $(let $slots = _slots;)?
                self.$module().call_create(store, config $(, $slots)?)
            }

            $(fn declare(
                &self,
                store: &mut Store<HostState>,
                object: ResourceAny,
            ) -> wasmtime::Result<Vec<declare::ValueSpec>> {
                self.$module().$declare(store, object)
            })?
        }
    };
}

role_exports!(head, Head, declare: call_declare);
role_exports!(mapper, Mapper, slots: slots, declare: call_declare);
role_exports!(objective, Objective);
role_exports!(metric, Metric);

/// A configured role of a component.
pub(crate) struct WasmRole<E> {
    plugin: Arc<WasmPlugin>,
    environment: Environment,
    config: String,
    slots: String,
    declared: Vec<ValueSpec>,
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
/// An objective in a component.
pub(crate) type WasmObjective = WasmRole<objective::Guest>;
/// A metric's accumulator in a component.
pub(crate) type WasmMetric = WasmRole<metric::Guest>;

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
            declared: Vec::new(),
            live: None,
        };
        role.create()?;
        Ok(role)
    }

    fn create(&mut self) -> Result<()> {
        let place = self.place("create");
        let mut guest = Guest::new(&self.plugin, &self.environment, &place)?;
        let instance = guest.instance;
        let (exports, object, declared) = guest.call(
            &place,
            Phase::Setup,
            |_| Ok(()),
            |store, ()| {
                let exports = E::load(&self.plugin, store, &instance)?;
                let object = match exports.create(store, &self.config, &self.slots)? {
                    Ok(object) => object,
                    Err(error) => return Ok(Err(error)),
                };
                let declared = exports.declare(store, object)?;
                Ok(Ok((exports, object, declared)))
            },
            |_, created| Ok(created),
        )?;
        let declared = declared.into_iter().map(spec).collect();
        self.declared = values::check(declared, &self.environment.limits, &place)?;
        self.live = Some(Live {
            guest,
            exports,
            object,
        });
        Ok(())
    }

    /// A call of the role within a frame, on a live instance. See [`Guest::call`].
    fn call<A, T, U>(
        &mut self,
        function: &'static str,
        phase: Phase,
        lend: impl FnOnce(&mut Session) -> Result<A, TensorError>,
        run: impl FnOnce(&E, &mut Store<HostState>, ResourceAny, A) -> Answer<T>,
        keep: impl FnOnce(&mut Session, T) -> Result<U, TensorError>,
    ) -> Result<U> {
        if self.live.is_none() {
            self.create()?;
        }
        let place = self.place(function);
        let Some(live) = &mut self.live else {
            return Err(PluginError::Host {
                message: format!("{place}: there is no instance"),
            });
        };
        let (exports, object) = (&live.exports, live.object);
        let run = |store: &mut Store<HostState>, lent: A| run(exports, store, object, lent);
        let result = live.guest.call(&place, phase, lend, run, keep);
        if live.guest.is_broken() {
            self.live = None;
        }
        result
    }

    /// Drops an instance that keeps too many handles of earlier calls; the next call makes another. For roles that keep nothing.
    fn renew(&mut self) {
        if self.is_worn() {
            self.live = None;
        }
    }

    fn is_worn(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.guest.is_worn())
    }

    /// A call from named tensors to named tensors.
    fn map(
        &mut self,
        function: &'static str,
        phase: Phase,
        inputs: &Named,
        values: &mut Values,
        run: impl FnOnce(&E, &mut Store<HostState>, ResourceAny, &NamedIds) -> Answer<NamedIds>,
    ) -> Result<Named> {
        values.updates.clear();
        self.renew();
        let kept = match phase {
            Phase::Forward => values.lent(&self.declared, &self.place(function))?,
            _ => Vec::new(),
        };
        let (outputs, updates) = self.call(
            function,
            phase,
            |session| lend(session, inputs, kept),
            |exports, store, object, inputs| run(exports, store, object, &inputs),
            |session, outputs| Ok((keep(session, outputs)?, session.take_updates())),
        )?;
        values.updates = updates;
        Ok(outputs)
    }

    fn used(&self) -> Usage {
        let live = self.live.as_ref();
        live.map_or_else(Usage::default, |live| live.guest.usage)
    }

    fn place(&self, function: &'static str) -> Place {
        Place::new(&self.plugin.name, E::ROLE, function)
    }
}

impl Head for WasmHead {
    fn usage(&self) -> Usage {
        self.used()
    }

    fn values(&self) -> &[ValueSpec] {
        &self.declared
    }

    fn forward(&mut self, inputs: &Named, values: &mut Values) -> Result<Named> {
        self.map(
            "forward",
            Phase::Forward,
            inputs,
            values,
            |exports, store, object, inputs| {
                // The session knows the values; the resource only says that there are some.
                let values = Resource::new_borrow(0);
                exports.head().call_forward(store, object, inputs, values)
            },
        )
    }

    fn predict(&mut self, outputs: &Named) -> Result<Named> {
        self.map(
            "predict",
            Phase::Predict,
            outputs,
            &mut Values::none(),
            |exports, store, object, outputs| exports.head().call_predict(store, object, outputs),
        )
    }
}

impl Mapper for WasmMapper {
    fn usage(&self) -> Usage {
        self.used()
    }

    fn values(&self) -> &[ValueSpec] {
        &self.declared
    }

    fn condition(&mut self, outputs: &Named, values: &mut Values) -> Result<Named> {
        self.map(
            "condition",
            Phase::Forward,
            outputs,
            values,
            |exports, store, object, outputs| {
                let values = Resource::new_borrow(0);
                exports
                    .mapper()
                    .call_condition(store, object, outputs, values)
            },
        )
    }
}

impl Objective for WasmObjective {
    fn usage(&self) -> Usage {
        self.used()
    }

    fn loss(&mut self, outputs: &Named) -> Result<Tensor> {
        self.renew();
        self.call(
            "loss",
            Phase::Forward,
            |session| lend(session, outputs, Vec::new()),
            |exports, store, object, outputs| {
                exports.objective().call_loss(store, object, &outputs)
            },
            |session, loss| session.take(Handle(loss.rep())),
        )
    }
}

impl Accumulator for WasmMetric {
    fn is_alive(&self) -> bool {
        // One that keeps too many handles counts as gone: what it has accumulated is restored from what it saved last.
        self.live.is_some() && !self.is_worn()
    }

    fn start(&mut self) -> Result<()> {
        self.create()
    }

    fn stop(&mut self) {
        self.live = None;
    }

    fn add(&mut self, predictions: &Named, targets: &Named) -> Result<()> {
        self.call(
            "update",
            Phase::Metric,
            |session| {
                let predictions = lend(session, predictions, Vec::new())?;
                Ok((predictions, lend(session, targets, Vec::new())?))
            },
            |exports, store, object, (predictions, targets)| {
                let metric = exports.metric();
                metric.call_update(store, object, &predictions, &targets)
            },
            |_, ()| Ok(()),
        )
    }

    fn restore(&mut self, saved: &[u8]) -> Result<()> {
        self.call(
            "merge",
            Phase::Metric,
            |_| Ok(()),
            |exports, store, object, ()| exports.metric().call_merge(store, object, saved),
            |_, ()| Ok(()),
        )
    }

    fn fetch(&mut self) -> Result<Vec<u8>> {
        self.call(
            "save",
            Phase::Metric,
            |_| Ok(()),
            |exports, store, object, ()| Ok(Ok(exports.metric().call_save(store, object)?)),
            |_, saved| Ok(saved),
        )
    }

    fn scores(&mut self) -> Result<BTreeMap<String, f64>> {
        let document = self.call(
            "report",
            Phase::Metric,
            |_| Ok(()),
            |exports, store, object, ()| exports.metric().call_report(store, object),
            |_, report| Ok(report),
        )?;
        scores(document.as_bytes(), &self.place("report"))
    }
}

fn spec(value: declare::ValueSpec) -> ValueSpec {
    ValueSpec {
        name: value.name,
        storage: match value.storage {
            declare::Storage::Parameter => Storage::Parameter,
            declare::Storage::Buffer => Storage::Buffer,
        },
        shape: value
            .shape
            .into_iter()
            .map(|extent| extent as usize)
            .collect(),
        attributes: value.attributes.into_iter().collect(),
    }
}

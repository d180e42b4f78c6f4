//! Configured roles of plugins that speak the native interface.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use dtta_abi::{
    Bytes, Call, HeadTable, Instance, MapperTable, MetricTable, NamedSink, NamedTensor,
    ObjectiveTable, PluginTable, Sink, Status, TensorId,
};
use dtta_tensor::{Handle, Named, Phase, Session, Tensor, TensorError, Usage, Value};

use super::host_table::Context;
use super::{NativePlugin, Written, listen, sink};
use crate::environment::Environment;
use crate::error::{Place, PluginError, Result};
use crate::manifest::Role;
use crate::roles::{Head, Mapper, Objective, scores};
use crate::saved::Accumulator;
use crate::under_way::{Entered, Errand};
use crate::values::{self, ValueSpec, Values};

/// What the tables of all roles have in common.
pub(crate) trait RoleTable: 'static {
    /// Which role.
    const ROLE: Role;
    /// The role's table, or null.
    fn of(plugin: &PluginTable) -> *const Self;
    /// # Safety
    /// `call`, `instance` and `error` are valid until the function returns.
    unsafe fn create(
        &self,
        call: *mut Call,
        config: Bytes,
        slots: Bytes,
        instance: *mut *mut Instance,
        error: *const Sink,
    ) -> Status;
    /// # Safety
    /// `instance` comes from `create` and is not used again.
    unsafe fn destroy(&self, instance: *mut Instance);
    /// Roles without values write nothing.
    ///
    /// # Safety
    /// `instance` comes from `create`; the sinks are valid until the function returns.
    unsafe fn declare(
        &self,
        instance: *mut Instance,
        document: *const Sink,
        error: *const Sink,
    ) -> Status;
}

macro_rules! role_table {
    ($table:ident, $role:ident, $field:ident $(, slots: $slots:ident)? $(, declare: $declare:ident)?) => {
        impl RoleTable for $table {
            const ROLE: Role = Role::$role;

            fn of(plugin: &PluginTable) -> *const Self {
                plugin.$field
            }

            unsafe fn create(
                &self,
                call: *mut Call,
                config: Bytes,
                slots: Bytes,
                instance: *mut *mut Instance,
                error: *const Sink,
            ) -> Status {
                let _all = slots;
                $(let $slots = slots;)?
                // SAFETY: held by the caller.
                unsafe { (self.create)(call, config, $($slots,)? instance, error) }
            }

            unsafe fn destroy(&self, instance: *mut Instance) {
                // SAFETY: held by the caller.
                unsafe { (self.destroy)(instance) }
            }

            unsafe fn declare(
                &self,
                instance: *mut Instance,
                document: *const Sink,
                error: *const Sink,
            ) -> Status {
                let _all = (instance, document, error);
                // SAFETY: held by the caller.
                $(return unsafe { (self.$declare)(instance, document, error) };)?
                #[allow(unreachable_code, reason = "where the role declares values")]
                Status::OK
            }
        }
    };
}

role_table!(HeadTable, Head, head, declare: declare);
role_table!(MapperTable, Mapper, mapper, slots: slots, declare: declare);
role_table!(ObjectiveTable, Objective, objective);
role_table!(MetricTable, Metric, metric);

/// A configured role.
pub(crate) struct NativeRole<T: RoleTable> {
    table: &'static T,
    context: Box<Context>,
    config: String,
    slots: String,
    declared: Vec<ValueSpec>,
    /// None after a panic, until the next call.
    instance: Option<NonNull<Instance>>,
    usage: Usage,
}

// SAFETY: the native interface lets a host move an instance between threads, as long as it
// calls it from one at a time; `&mut self` sees to that. Everything else is `Send`.
unsafe impl<T: RoleTable> Send for NativeRole<T> {}

/// A head.
pub(crate) type NativeHead = NativeRole<HeadTable>;
/// A mapper.
pub(crate) type NativeMapper = NativeRole<MapperTable>;
/// An objective.
pub(crate) type NativeObjective = NativeRole<ObjectiveTable>;
/// A metric's accumulator.
pub(crate) type NativeMetric = NativeRole<MetricTable>;

impl<T: RoleTable> NativeRole<T> {
    /// Creates the role from its validated config; `slots` is for mappers.
    ///
    /// # Errors
    /// Whatever the plugin answers with, and [`PluginError::MissingRole`].
    pub(crate) fn new(
        plugin: &Arc<NativePlugin>,
        config: String,
        slots: String,
        environment: Environment,
    ) -> Result<Self> {
        let mut session = Session::new(environment.device, environment.limits);
        for (name, constant) in environment.constants {
            session.bind(name, constant);
        }
        let mut role = Self {
            table: plugin.role()?,
            context: Box::new(Context::new(&plugin.name, session)),
            config,
            slots,
            declared: Vec::new(),
            instance: None,
            usage: Usage::default(),
        };
        role.live()?;
        Ok(role)
    }

    /// The instance, created if there is none.
    fn live(&mut self) -> Result<NonNull<Instance>> {
        if let Some(instance) = self.instance {
            return Ok(instance);
        }
        let place = self.place("create");
        let (table, config, slots) = (self.table, self.config.clone(), self.slots.clone());
        let mut instance = ptr::null_mut();
        self.call(
            &place,
            Phase::Setup,
            |_| Ok(()),
            |call, (), error| {
                let (config, slots) = (Bytes::new(config.as_bytes()), Bytes::new(slots.as_bytes()));
                // SAFETY: everything outlives the call.
                unsafe { table.create(call, config, slots, &raw mut instance, error) }
            },
        )?;
        let instance = NonNull::new(instance).ok_or_else(|| PluginError::Trap {
            place: place.clone(),
            message: "it made no instance and gave no error".into(),
        })?;
        self.instance = Some(instance);
        let declared = self
            .written(&place, |table, instance, document, error| {
                // SAFETY: the instance was created by this table; the sinks outlive the call.
                unsafe { table.declare(instance, document, error) }
            })
            .and_then(|document| values::parse(&document, &self.context.session.limits(), &place));
        self.declared = declared.inspect_err(|_| self.destroy())?;
        Ok(instance)
    }

    /// Runs a function of the plugin within a frame, and leaves the frame open for results.
    fn call<A>(
        &mut self,
        place: &Place,
        phase: Phase,
        lend: impl FnOnce(&mut Session) -> Result<A, TensorError>,
        run: impl FnOnce(*mut Call, A, *const Sink) -> Status,
    ) -> Result<()> {
        self.context.session.enter(phase);
        let lent = lend(&mut self.context.session).map_err(|error| failed(&error, place))?;
        let call = (&raw mut *self.context).cast::<Call>();
        let (status, error) = listen(Errand::Calling(place.clone()), |error| {
            run(call, lent, error)
        });
        self.answer(place, status, error)?;
        let kept = self.context.session.kept_to_budgets();
        kept.map_err(|error| failed(&error, place))
    }

    /// A function that needs no call context and writes bytes.
    fn written(
        &mut self,
        place: &Place,
        run: impl FnOnce(&T, *mut Instance, *const Sink, *const Sink) -> Status,
    ) -> Result<Vec<u8>> {
        let (instance, table) = (self.live()?, self.table);
        let mut bytes = Vec::new();
        let (status, error) = listen(Errand::Calling(place.clone()), |error| {
            let document = sink(&mut bytes);
            run(table, instance.as_ptr(), &raw const document, error)
        });
        self.answer(place, status, error)?;
        Ok(bytes)
    }

    /// A call from named tensors to named tensors.
    fn map(
        &mut self,
        function: &'static str,
        phase: Phase,
        inputs: &Named,
        values: &mut Values,
        run: impl FnOnce(
            &T,
            *mut Instance,
            *mut Call,
            &[NamedTensor],
            *const NamedSink,
            *const Sink,
        ) -> Status,
    ) -> Result<Named> {
        let place = self.place(function);
        let (instance, table) = (self.live()?, self.table);
        values.updates.clear();
        let kept = match phase {
            Phase::Forward => values.lent(&self.declared, &place)?,
            _ => Vec::new(),
        };
        let mut outputs: Vec<(String, TensorId)> = Vec::new();
        let result = self
            .call(
                &place,
                phase,
                |session| lend(session, inputs, kept),
                |call, inputs, error| {
                    let sink = NamedSink {
                        context: (&raw mut outputs).cast(),
                        write: append_named,
                    };
                    run(
                        table,
                        instance.as_ptr(),
                        call,
                        &inputs,
                        &raw const sink,
                        error,
                    )
                },
            )
            .and_then(|()| {
                let session = &mut self.context.session;
                let keep = |(name, id): (String, TensorId)| Ok((name, take(session, id)?));
                let kept: Result<Named, TensorError> = outputs.into_iter().map(keep).collect();
                kept.map_err(|error| failed(&error, &place))
            });
        if result.is_ok() {
            values.updates = self.context.session.take_updates();
        }
        self.usage = self.context.session.leave();
        result
    }

    /// What a status means. An instance that panicked is destroyed.
    fn answer(&mut self, place: &Place, status: Status, error: Written) -> Result<()> {
        match status {
            Status::OK => Ok(()),
            Status::PANIC | Status::POISONED => {
                self.destroy();
                Err(PluginError::Trap {
                    place: place.clone(),
                    message: error.message,
                })
            }
            _ => Err(PluginError::Failed {
                place: place.clone(),
                code: error.code,
                message: error.message,
            }),
        }
    }

    fn destroy(&mut self) {
        if let Some(instance) = self.instance.take() {
            let _entered = Entered::new(Errand::Calling(self.place("destroy")));
            // SAFETY: created by this table, and taken, so not used again.
            unsafe { self.table.destroy(instance.as_ptr()) };
        }
    }

    fn place(&self, function: &'static str) -> Place {
        Place::new(&self.context.plugin, T::ROLE, function)
    }
}

impl<T: RoleTable> Drop for NativeRole<T> {
    fn drop(&mut self) {
        self.destroy();
    }
}

impl Head for NativeHead {
    fn usage(&self) -> Usage {
        self.usage
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
            |table, instance, call, inputs, outputs, error| {
                let (tensors, count) = (inputs.as_ptr(), inputs.len());
                // SAFETY: `map` holds everything for the time of the call.
                unsafe { (table.forward)(instance, call, tensors, count, outputs, error) }
            },
        )
    }

    fn predict(&mut self, outputs: &Named) -> Result<Named> {
        self.map(
            "predict",
            Phase::Predict,
            outputs,
            &mut Values::none(),
            |table, instance, call, outputs, prediction, error| {
                let (tensors, count) = (outputs.as_ptr(), outputs.len());
                // SAFETY: `map` holds everything for the time of the call.
                unsafe { (table.predict)(instance, call, tensors, count, prediction, error) }
            },
        )
    }
}

impl Mapper for NativeMapper {
    fn usage(&self) -> Usage {
        self.usage
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
            |table, instance, call, outputs, slots, error| {
                let (tensors, count) = (outputs.as_ptr(), outputs.len());
                // SAFETY: `map` holds everything for the time of the call.
                unsafe { (table.condition)(instance, call, tensors, count, slots, error) }
            },
        )
    }
}

impl Objective for NativeObjective {
    fn usage(&self) -> Usage {
        self.usage
    }

    fn loss(&mut self, outputs: &Named) -> Result<Tensor> {
        let place = self.place("loss");
        let (instance, table) = (self.live()?, self.table);
        let mut loss = TensorId::NONE;
        let result = self
            .call(
                &place,
                Phase::Forward,
                |session| lend(session, outputs, Vec::new()),
                |call, outputs, error| {
                    let (tensors, count) = (outputs.as_ptr(), outputs.len());
                    let loss = &raw mut loss;
                    // SAFETY: everything outlives the call.
                    unsafe { (table.loss)(instance.as_ptr(), call, tensors, count, loss, error) }
                },
            )
            .and_then(|()| {
                take(&mut self.context.session, loss).map_err(|error| failed(&error, &place))
            });
        self.usage = self.context.session.leave();
        result
    }
}

impl Accumulator for NativeMetric {
    fn is_alive(&self) -> bool {
        self.instance.is_some()
    }

    fn start(&mut self) -> Result<()> {
        self.live().map(drop)
    }

    fn stop(&mut self) {
        self.destroy();
    }

    fn add(&mut self, predictions: &Named, targets: &Named) -> Result<()> {
        let place = self.place("update");
        let (instance, table) = (self.live()?, self.table);
        let result = self.call(
            &place,
            Phase::Metric,
            |session| {
                let predictions = lend(session, predictions, Vec::new())?;
                Ok((predictions, lend(session, targets, Vec::new())?))
            },
            |call, (predictions, targets), error| {
                let (a, n) = (predictions.as_ptr(), predictions.len());
                let (b, m) = (targets.as_ptr(), targets.len());
                // SAFETY: everything outlives the call.
                unsafe { (table.update)(instance.as_ptr(), call, a, n, b, m, error) }
            },
        );
        self.context.session.leave();
        result
    }

    fn restore(&mut self, saved: &[u8]) -> Result<()> {
        let place = self.place("merge");
        let (instance, table) = (self.live()?, self.table);
        let (status, error) = listen(Errand::Calling(place.clone()), |error| {
            // SAFETY: the instance was created by this table; bytes and sink outlive the call.
            unsafe { (table.merge)(instance.as_ptr(), Bytes::new(saved), error) }
        });
        self.answer(&place, status, error)
    }

    fn fetch(&mut self) -> Result<Vec<u8>> {
        let place = self.place("save");
        self.written(&place, |table, instance, bytes, error| {
            // SAFETY: `written` holds everything for the time of the call.
            unsafe { (table.save)(instance, bytes, error) }
        })
    }

    fn scores(&mut self) -> Result<BTreeMap<String, f64>> {
        let place = self.place("report");
        let document = self.written(&place, |table, instance, bytes, error| {
            // SAFETY: `written` holds everything for the time of the call.
            unsafe { (table.report)(instance, bytes, error) }
        })?;
        scores(&document, &place)
    }
}

/// Lends named tensors and values to the call that has just been entered.
fn lend(
    session: &mut Session,
    tensors: &Named,
    values: Vec<Value>,
) -> Result<Vec<NamedTensor>, TensorError> {
    session.lend_values(values);
    let lend = |(name, tensor): (&str, &Tensor)| {
        let Handle(handle) = session.insert(tensor.clone())?;
        Ok(NamedTensor {
            name: Bytes::new(name.as_bytes()),
            tensor: TensorId(handle.into()),
        })
    };
    tensors.iter().map(lend).collect()
}

/// Takes a result out of the call.
fn take(session: &mut Session, id: TensorId) -> Result<Tensor, TensorError> {
    session.take(Handle(u32::try_from(id.0).unwrap_or(0))) // 0 is no handle: refused as stale
}

fn failed(error: &TensorError, place: &Place) -> PluginError {
    PluginError::Failed {
        place: place.clone(),
        code: error.code().into(),
        message: error.to_string(),
    }
}

/// Appends to the results behind a named sink of this module.
unsafe extern "C" fn append_named(context: *mut c_void, result: NamedTensor) {
    // SAFETY: named sinks of this module carry such a vector, which outlives the call and which
    // nobody else uses during it; the plugin lends the name.
    unsafe {
        let name = String::from_utf8_lossy(result.name.as_slice()).into_owned();
        (*context.cast::<Vec<(String, TensorId)>>()).push((name, result.tensor));
    }
}

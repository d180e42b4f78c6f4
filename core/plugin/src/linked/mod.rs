//! Plugins that are linked into the program and speak the native interface. Nothing is opened
//! or unloaded: the entry function is called directly, and its tables are used as they are. A
//! plugin that panics says so with its status; its instance is destroyed, and the next call
//! creates anew from the same config, as after a WebAssembly trap.

mod host_table;

use std::ffi::c_void;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use dtta_abi::{
    Bytes, Call, Entry, HeadTable, Instance, MapperTable, NamedSink, NamedTensor, PluginTable,
    Sink, Status, TensorId,
};
use dtta_tensor::{Handle, Phase, Session, Tensor, TensorError};

use crate::environment::Environment;
use crate::error::{Place, PluginError, Result};
use crate::manifest::{INTERFACE_VERSION, Manifest, Role};
use crate::roles::{Head, Mapper, Named};
use host_table::{Context, HOST};

/// A plugin's tables.
pub(crate) struct LinkedPlugin {
    /// The plugin's name, for messages.
    name: String,
    table: PluginTable,
}

impl LinkedPlugin {
    /// Asks a plugin for its tables and its description.
    ///
    /// # Errors
    /// [`PluginError::Interface`] for another version, [`PluginError::Manifest`] for a
    /// description that is none.
    pub(crate) fn load(name: &str, entry: Entry) -> Result<(Self, Manifest)> {
        let mut table = PluginTable::empty();
        let (status, error) = listen(|error| {
            // SAFETY: the host table is static, `table` has its header set, and both it and
            // the sink outlive the call.
            unsafe { entry(&raw const HOST, &raw mut table, error) }
        });
        let other_version = |needs: String| PluginError::Interface {
            plugin: name.into(),
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
        let origin = format!("linked:{name}");
        let refuse = |message: String| PluginError::Manifest {
            path: origin.clone().into(),
            message,
        };
        let describe = table
            .describe
            .ok_or_else(|| refuse("it has no `describe`".into()))?;
        let mut text = Vec::new();
        let sink = Sink {
            context: (&raw mut text).cast(),
            write: append,
        };
        let (status, error) = listen(|error| {
            // SAFETY: both sinks outlive the call.
            unsafe { describe(&raw const sink, error) }
        });
        if !status.is_ok() {
            return Err(refuse(format!("`describe` failed: {}", error.message)));
        }
        let text = String::from_utf8(text).map_err(|error| refuse(error.to_string()))?;
        let manifest = Manifest::parse(&text, Path::new(&origin))?;
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
        // SAFETY: null, or a table of the plugin, which lives forever.
        let table = unsafe { T::of(&self.table).as_ref() };
        table
            .filter(|table| table.size() >= size_of::<T>())
            .ok_or_else(|| PluginError::MissingRole {
                plugin: self.name.clone(),
                role: T::ROLE,
                offered: crate::manifest::join(&self.roles()),
            })
    }
}

/// What the tables of head and mapper have in common.
pub(crate) trait RoleTable: 'static {
    /// Which role.
    const ROLE: Role;
    /// The role's table, or null.
    fn of(plugin: &PluginTable) -> *const Self;
    /// Bytes of the table.
    fn size(&self) -> usize;
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
    /// # Safety
    /// `instance` comes from `create`; the sinks are valid until the function returns.
    unsafe fn declare(
        &self,
        instance: *mut Instance,
        document: *const Sink,
        error: *const Sink,
    ) -> Status;
}

impl RoleTable for HeadTable {
    const ROLE: Role = Role::Head;

    fn of(plugin: &PluginTable) -> *const Self {
        plugin.head
    }

    fn size(&self) -> usize {
        self.size
    }

    unsafe fn create(
        &self,
        call: *mut Call,
        config: Bytes,
        _slots: Bytes,
        instance: *mut *mut Instance,
        error: *const Sink,
    ) -> Status {
        // SAFETY: held by the caller.
        unsafe { (self.create)(call, config, instance, error) }
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
        // SAFETY: held by the caller.
        unsafe { (self.declare)(instance, document, error) }
    }
}

impl RoleTable for MapperTable {
    const ROLE: Role = Role::Mapper;

    fn of(plugin: &PluginTable) -> *const Self {
        plugin.mapper
    }

    fn size(&self) -> usize {
        self.size
    }

    unsafe fn create(
        &self,
        call: *mut Call,
        config: Bytes,
        slots: Bytes,
        instance: *mut *mut Instance,
        error: *const Sink,
    ) -> Status {
        // SAFETY: held by the caller.
        unsafe { (self.create)(call, config, slots, instance, error) }
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
        // SAFETY: held by the caller.
        unsafe { (self.declare)(instance, document, error) }
    }
}

/// A configured role of a linked plugin.
pub(crate) struct LinkedRole<T: RoleTable> {
    table: &'static T,
    context: Box<Context>,
    config: String,
    slots: String,
    /// None after a panic, until the next call.
    instance: Option<NonNull<Instance>>,
}

// SAFETY: the native interface lets a host move an instance between threads, as long as it
// calls it from one at a time; `&mut self` sees to that. Everything else is `Send`.
unsafe impl<T: RoleTable> Send for LinkedRole<T> {}

/// A head of a linked plugin.
pub(crate) type LinkedHead = LinkedRole<HeadTable>;
/// A mapper of a linked plugin.
pub(crate) type LinkedMapper = LinkedRole<MapperTable>;

impl<T: RoleTable> LinkedRole<T> {
    /// Creates the role from its validated config; `slots` is for mappers.
    ///
    /// # Errors
    /// Whatever the plugin answers with, and [`PluginError::MissingRole`].
    pub(crate) fn new(
        plugin: &Arc<LinkedPlugin>,
        config: String,
        slots: String,
        environment: Environment,
    ) -> Result<Self> {
        let mut session = Session::new(environment.device, environment.limits);
        for (name, constant) in environment.constants {
            session.bind(name, constant);
        }
        let context = Box::new(Context::new(&plugin.name, session));
        let mut role = Self {
            table: plugin.role()?,
            context,
            config,
            slots,
            instance: None,
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
        let mut declared = Vec::new();
        let sink = Sink {
            context: (&raw mut declared).cast(),
            write: append,
        };
        let (status, error) = listen(|error| {
            // SAFETY: the instance was created by this table; the sinks outlive the call.
            unsafe { table.declare(instance.as_ptr(), &raw const sink, error) }
        });
        self.answer(&place, status, error)?;
        expect_no_values(&declared, &place)?;
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
        let (status, error) = listen(|error| run(call, lent, error));
        self.answer(place, status, error)
    }

    /// A call from named tensors to named tensors.
    fn map(
        &mut self,
        function: &'static str,
        phase: Phase,
        inputs: &Named,
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
        let mut outputs: Vec<(String, TensorId)> = Vec::new();
        let sink = NamedSink {
            context: (&raw mut outputs).cast(),
            write: append_named,
        };
        let lend = |session: &mut Session| {
            let lend = |(name, tensor): &(String, Tensor)| {
                let Handle(handle) = session.insert(tensor.clone())?;
                Ok(NamedTensor {
                    name: Bytes::new(name.as_bytes()),
                    tensor: TensorId(handle.into()),
                })
            };
            inputs
                .iter()
                .map(lend)
                .collect::<Result<Vec<_>, TensorError>>()
        };
        let result = self
            .call(&place, phase, lend, |call, inputs, error| {
                run(
                    table,
                    instance.as_ptr(),
                    call,
                    &inputs,
                    &raw const sink,
                    error,
                )
            })
            .and_then(|()| {
                let session = &mut self.context.session;
                let keep = |(name, id): (String, TensorId)| {
                    let handle = Handle(u32::try_from(id.0).unwrap_or(0)); // 0 is no handle: refused as stale
                    Ok((name, session.take(handle)?))
                };
                let kept: Result<Named, TensorError> =
                    std::mem::take(&mut outputs).into_iter().map(keep).collect();
                kept.map_err(|error| failed(&error, &place))
            });
        self.context.session.leave();
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
            // SAFETY: created by this table, and taken, so not used again.
            unsafe { self.table.destroy(instance.as_ptr()) };
        }
    }

    fn place(&self, function: &'static str) -> Place {
        Place::new(&self.context.plugin, T::ROLE, function)
    }
}

impl<T: RoleTable> Drop for LinkedRole<T> {
    fn drop(&mut self) {
        self.destroy();
    }
}

impl Head for LinkedHead {
    fn forward(&mut self, inputs: &Named) -> Result<Named> {
        self.map(
            "forward",
            Phase::Forward,
            inputs,
            |table, instance, call, inputs, outputs, error| {
                // SAFETY: `map` holds everything for the time of the call.
                unsafe {
                    (table.forward)(
                        instance,
                        call,
                        inputs.as_ptr(),
                        inputs.len(),
                        outputs,
                        error,
                    )
                }
            },
        )
    }

    fn predict(&mut self, outputs: &Named) -> Result<Named> {
        self.map(
            "predict",
            Phase::Predict,
            outputs,
            |table, instance, call, outputs, prediction, error| {
                // SAFETY: `map` holds everything for the time of the call.
                unsafe {
                    (table.predict)(
                        instance,
                        call,
                        outputs.as_ptr(),
                        outputs.len(),
                        prediction,
                        error,
                    )
                }
            },
        )
    }
}

impl Mapper for LinkedMapper {
    fn condition(&mut self, outputs: &Named) -> Result<Named> {
        self.map(
            "condition",
            Phase::Forward,
            outputs,
            |table, instance, call, outputs, slots, error| {
                // SAFETY: `map` holds everything for the time of the call.
                unsafe {
                    (table.condition)(
                        instance,
                        call,
                        outputs.as_ptr(),
                        outputs.len(),
                        slots,
                        error,
                    )
                }
            },
        )
    }
}

/// Refuses a plugin whose values nobody would keep.
fn expect_no_values(declared: &[u8], place: &Place) -> Result<()> {
    let refuse = |message: String| PluginError::Failed {
        place: place.clone(),
        code: "not-supported".into(),
        message,
    };
    if declared.is_empty() {
        return Ok(());
    }
    let values: Vec<serde_json::Value> = serde_json::from_slice(declared)
        .map_err(|error| refuse(format!("its declaration of values: {error}")))?;
    if values.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = values
        .iter()
        .filter_map(|value| value.get("name")?.as_str())
        .collect();
    Err(refuse(format!(
        "it declares the values {}, and this host keeps none for plugins",
        names.join(", ")
    )))
}

fn failed(error: &TensorError, place: &Place) -> PluginError {
    PluginError::Failed {
        place: place.clone(),
        code: error.code().into(),
        message: error.to_string(),
    }
}

/// What a plugin wrote about its failure.
struct Written {
    code: String,
    message: String,
}

/// Calls a plugin with an error sink.
fn listen(call: impl FnOnce(*const Sink) -> Status) -> (Status, Written) {
    let mut written = Vec::new();
    let sink = Sink {
        context: (&raw mut written).cast(),
        write: append,
    };
    let status = call(&raw const sink);
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

/// Appends to the vector behind a sink of this module.
unsafe extern "C" fn append(context: *mut c_void, bytes: Bytes) {
    // SAFETY: sinks of this module carry a `Vec<u8>` that outlives the call and that nobody
    // else uses during it; the plugin lends `bytes`.
    unsafe { (*context.cast::<Vec<u8>>()).extend_from_slice(bytes.as_slice()) }
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

//! What the host calls: the entry and the role tables, generated from the role traits. Every
//! function catches panics, and none trusts what it is handed to be text.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;

use dtta_abi::{
    Bytes, Call, HeadTable, Header, HostTable, Instance, MapperTable, MetricTable, NamedSink,
    NamedTensor, ObjectiveTable, PluginTable, Sink, Status, TensorId,
};

use super::{Entered, Handle, Values, expect_running};
use crate::descriptor::Plugin;
use crate::error::{Error, Result};
use crate::named::{Named, Slots};
use crate::roles::{Accumulator, Head, Mapper, Metric, Objective, ValueSpec, parse_config};
use crate::session::Session;
use crate::tensor::Tensor;

#[cfg(panic = "abort")]
compile_error!(
    "a native plugin must be built with `panic = \"unwind\"`, so that a panic is an error of one call"
);

/// The tables of a plugin's roles.
#[derive(Clone, Copy)]
pub(crate) struct RoleTables {
    pub(crate) head: Option<&'static HeadTable>,
    pub(crate) mapper: Option<&'static MapperTable>,
    pub(crate) objective: Option<&'static ObjectiveTable>,
    pub(crate) metric: Option<&'static MetricTable>,
}

impl RoleTables {
    pub(crate) const NONE: Self = Self {
        head: None,
        mapper: None,
        objective: None,
        metric: None,
    };
}

pub(crate) const fn head_table<H: Head>() -> &'static HeadTable {
    &HeadTable {
        size: size_of::<HeadTable>(),
        create: create_head::<H>,
        destroy: destroy::<H>,
        declare: declare_head::<H>,
        forward: forward::<H>,
        predict: predict::<H>,
    }
}

pub(crate) const fn mapper_table<M: Mapper>() -> &'static MapperTable {
    &MapperTable {
        size: size_of::<MapperTable>(),
        create: create_mapper::<M>,
        destroy: destroy::<M>,
        declare: declare_mapper::<M>,
        condition: condition::<M>,
    }
}

pub(crate) const fn objective_table<O: Objective>() -> &'static ObjectiveTable {
    &ObjectiveTable {
        size: size_of::<ObjectiveTable>(),
        create: create_objective::<O>,
        destroy: destroy::<O>,
        loss: loss::<O>,
    }
}

pub(crate) const fn metric_table<M: Metric>() -> &'static MetricTable {
    &MetricTable {
        size: size_of::<MetricTable>(),
        create: create_metric::<M>,
        destroy: destroy::<Accumulator<M>>,
        update: update::<M>,
        save: save::<M>,
        merge: merge::<M>,
        report: report::<M>,
    }
}

/// The body of a plugin's entry; [`export_plugin!`](crate::export_plugin) writes the function
/// around it.
///
/// # Safety
/// As [`dtta_abi::Entry`]; `describe` must be the plugin's own.
pub unsafe fn entry(
    plugin: &Plugin,
    describe: unsafe extern "C" fn(*const Sink, *const Sink) -> Status,
    host: *const HostTable,
    out: *mut PluginTable,
    error: *const Sink,
) -> Status {
    // SAFETY: the caller holds both to be what `Entry` says; a header is the first field of
    // every version of a table.
    let (host, room) = unsafe { (*host.cast::<Header>(), (*out.cast::<Header>()).size) };
    let mine = Header::of::<PluginTable>();
    if !host.is_compatible() || host.size < size_of::<HostTable>() || room < mine.size {
        let refusal = Error::new(
            "interface-version",
            format!(
                "the plugin was built for interface {}.{}, the host offers {}.{}; rebuild the plugin with the host's SDK",
                mine.abi_major, mine.abi_minor, host.abi_major, host.abi_minor
            ),
        );
        // SAFETY: `error` is null or valid for this call.
        unsafe { write_error(error, &refusal) };
        return Status::UNSUPPORTED;
    }

    const fn pointer<T>(table: Option<&'static T>) -> *const T {
        match table {
            Some(table) => table,
            None => std::ptr::null(),
        }
    }
    let RoleTables {
        head,
        mapper,
        objective,
        metric,
    } = plugin.tables;
    let table = PluginTable {
        header: mine,
        describe: Some(describe),
        head: pointer(head),
        mapper: pointer(mapper),
        objective: pointer(objective),
        metric: pointer(metric),
    };
    // SAFETY: the caller said that `out` has room for this version's table.
    unsafe { out.write(table) };
    Status::OK
}

/// The body of a plugin's `describe`.
///
/// # Safety
/// `document` is a sink of the caller, `error` is null or one.
pub unsafe fn describe(plugin: &Plugin, document: *const Sink, error: *const Sink) -> Status {
    // SAFETY: passed on; both are valid for this call.
    unsafe { answer(error, || write(document, plugin.describe().as_bytes())) }
}

/// A role's state, and whether it panicked.
struct Guarded<T> {
    state: T,
    is_poisoned: Cell<bool>,
}

unsafe extern "C" fn create_head<H: Head>(
    call: *mut Call,
    config: Bytes,
    instance: *mut *mut Instance,
    error: *const Sink,
) -> Status {
    // SAFETY: the host holds to the table's contract.
    unsafe {
        create(call, instance, error, || {
            H::create(parse_config(config.as_slice())?)
        })
    }
}

unsafe extern "C" fn create_mapper<M: Mapper>(
    call: *mut Call,
    config: Bytes,
    slots: Bytes,
    instance: *mut *mut Instance,
    error: *const Sink,
) -> Status {
    let make = || {
        // SAFETY: the host holds to the table's contract: both are valid for this call.
        let (config, slots) = unsafe { (config.as_slice(), slots.as_slice()) };
        M::create(parse_config(config)?, &Slots::parse(slots)?)
    };
    // SAFETY: as above.
    unsafe { create(call, instance, error, make) }
}

unsafe extern "C" fn create_objective<O: Objective>(
    call: *mut Call,
    config: Bytes,
    instance: *mut *mut Instance,
    error: *const Sink,
) -> Status {
    // SAFETY: the host holds to the table's contract.
    unsafe {
        create(call, instance, error, || {
            O::create(parse_config(config.as_slice())?)
        })
    }
}

unsafe extern "C" fn create_metric<M: Metric>(
    call: *mut Call,
    config: Bytes,
    instance: *mut *mut Instance,
    error: *const Sink,
) -> Status {
    // SAFETY: the host holds to the table's contract.
    unsafe {
        create(call, instance, error, || {
            Accumulator::<M>::create(config.as_slice())
        })
    }
}

/// # Safety
/// `call` is valid until this returns, `instance` can be written, `error` is null or valid.
unsafe fn create<T>(
    call: *mut Call,
    instance: *mut *mut Instance,
    error: *const Sink,
    make: impl FnOnce() -> Result<T>,
) -> Status {
    // SAFETY: passed on.
    unsafe {
        answer(error, || {
            let _entered = Entered::new(call);
            let guarded = Guarded {
                state: make()?,
                is_poisoned: Cell::new(false),
            };
            instance.write(Box::into_raw(Box::new(guarded)).cast());
            Ok(())
        })
    }
}

unsafe extern "C" fn destroy<T>(instance: *mut Instance) {
    if !instance.is_null() {
        // SAFETY: the host passes what this table's `create` made, once.
        let guarded = unsafe { Box::from_raw(instance.cast::<Guarded<T>>()) };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(guarded))) {
            std::mem::forget(payload); // dropping it might panic again
        }
    }
}

unsafe extern "C" fn declare_head<H: Head>(
    instance: *mut Instance,
    document: *const Sink,
    error: *const Sink,
) -> Status {
    // SAFETY: the host holds to the table's contract.
    unsafe {
        with(instance, error, |head: &H| {
            write_specs(document, &head.declare())
        })
    }
}

unsafe extern "C" fn declare_mapper<M: Mapper>(
    instance: *mut Instance,
    document: *const Sink,
    error: *const Sink,
) -> Status {
    // SAFETY: the host holds to the table's contract.
    unsafe {
        with(instance, error, |mapper: &M| {
            write_specs(document, &mapper.declare())
        })
    }
}

unsafe extern "C" fn forward<H: Head>(
    instance: *mut Instance,
    call: *mut Call,
    inputs: *const NamedTensor,
    input_count: usize,
    outputs: *const NamedSink,
    error: *const Sink,
) -> Status {
    let body = |head: &H, inputs: &Named, session: &Session| head.forward(inputs, session);
    // SAFETY: the host holds to the table's contract.
    unsafe { run(instance, call, inputs, input_count, outputs, error, body) }
}

unsafe extern "C" fn predict<H: Head>(
    instance: *mut Instance,
    call: *mut Call,
    outputs: *const NamedTensor,
    output_count: usize,
    prediction: *const NamedSink,
    error: *const Sink,
) -> Status {
    let body = |head: &H, outputs: &Named, session: &Session| head.predict(outputs, session);
    // SAFETY: the host holds to the table's contract.
    unsafe {
        run(
            instance,
            call,
            outputs,
            output_count,
            prediction,
            error,
            body,
        )
    }
}

unsafe extern "C" fn condition<M: Mapper>(
    instance: *mut Instance,
    call: *mut Call,
    outputs: *const NamedTensor,
    output_count: usize,
    slots: *const NamedSink,
    error: *const Sink,
) -> Status {
    let body = |mapper: &M, outputs: &Named, session: &Session| mapper.condition(outputs, session);
    // SAFETY: the host holds to the table's contract.
    unsafe { run(instance, call, outputs, output_count, slots, error, body) }
}

unsafe extern "C" fn loss<O: Objective>(
    instance: *mut Instance,
    call: *mut Call,
    outputs: *const NamedTensor,
    output_count: usize,
    loss: *mut TensorId,
    error: *const Sink,
) -> Status {
    // SAFETY: the host holds to the table's contract.
    unsafe {
        with(instance, error, |objective: &O| {
            let _entered = Entered::new(call);
            let outputs = receive(outputs, output_count)?;
            let made = objective.loss(&outputs, &Session::new(Values))?;
            loss.write(made.0.into_id()?);
            Ok(())
        })
    }
}

unsafe extern "C" fn update<M: Metric>(
    instance: *mut Instance,
    call: *mut Call,
    predictions: *const NamedTensor,
    prediction_count: usize,
    targets: *const NamedTensor,
    target_count: usize,
    error: *const Sink,
) -> Status {
    // SAFETY: the host holds to the table's contract.
    unsafe {
        with(instance, error, |metric: &Accumulator<M>| {
            let _entered = Entered::new(call);
            let predictions = receive(predictions, prediction_count)?;
            let targets = receive(targets, target_count)?;
            metric.update(&predictions, &targets, &Session::new(Values))
        })
    }
}

unsafe extern "C" fn save<M: Metric>(
    instance: *mut Instance,
    bytes: *const Sink,
    error: *const Sink,
) -> Status {
    // SAFETY: the host holds to the table's contract.
    unsafe {
        with(instance, error, |metric: &Accumulator<M>| {
            write(bytes, &metric.save()?)
        })
    }
}

unsafe extern "C" fn merge<M: Metric>(
    instance: *mut Instance,
    saved: Bytes,
    error: *const Sink,
) -> Status {
    // SAFETY: the host holds to the table's contract.
    unsafe {
        with(instance, error, |metric: &Accumulator<M>| {
            metric.merge(saved.as_slice())
        })
    }
}

unsafe extern "C" fn report<M: Metric>(
    instance: *mut Instance,
    document: *const Sink,
    error: *const Sink,
) -> Status {
    // SAFETY: the host holds to the table's contract.
    unsafe {
        with(instance, error, |metric: &Accumulator<M>| {
            write(document, metric.report()?.as_bytes())
        })
    }
}

/// Named tensors in, named tensors out.
///
/// # Safety
/// As the contract of the role tables.
unsafe fn run<T>(
    instance: *mut Instance,
    call: *mut Call,
    inputs: *const NamedTensor,
    input_count: usize,
    results: *const NamedSink,
    error: *const Sink,
    body: impl FnOnce(&T, &Named, &Session) -> Result<Named>,
) -> Status {
    // SAFETY: passed on; every pointer is valid until this returns.
    unsafe {
        with(instance, error, |state: &T| {
            let _entered = Entered::new(call);
            let inputs = receive(inputs, input_count)?;
            let outputs = body(state, &inputs, &Session::new(Values))?;
            give(outputs, &*results)
        })
    }
}

/// # Safety
/// `inputs` points at `count` items, all valid until this returns.
unsafe fn receive(inputs: *const NamedTensor, count: usize) -> Result<Named> {
    let number = expect_running()?.number;
    if count == 0 {
        return Ok(Named::new());
    }
    // SAFETY: passed on.
    let inputs = unsafe { slice::from_raw_parts(inputs, count) };
    let name = |input: &NamedTensor| {
        // SAFETY: the host's names are valid for this call.
        let bytes = unsafe { input.name.as_slice() };
        String::from_utf8(bytes.to_vec())
            .map_err(|_| Error::new("invalid-argument", "the name of a tensor is not UTF-8"))
    };
    inputs
        .iter()
        .map(|input| Ok((name(input)?, Tensor(Handle::new(input.tensor, number)))))
        .collect()
}

/// # Safety
/// `sink` is valid until this returns.
unsafe fn give(outputs: Named, sink: &NamedSink) -> Result<()> {
    let outputs: Vec<_> = outputs
        .into_iter()
        .map(|(name, tensor)| Ok((name, tensor.0.into_id()?)))
        .collect::<Result<_>>()?;
    for (name, tensor) in outputs {
        // SAFETY: passed on; the name is alive until `write` has copied it.
        unsafe {
            (sink.write)(
                sink.context,
                NamedTensor {
                    name: Bytes::new(name.as_bytes()),
                    tensor,
                },
            )
        }
    }
    Ok(())
}

/// Runs `body` on an instance, unless it panicked before.
///
/// # Safety
/// `instance` was made by `create::<T>` and not destroyed; `error` is null or valid.
unsafe fn with<T>(
    instance: *mut Instance,
    error: *const Sink,
    body: impl FnOnce(&T) -> Result<()>,
) -> Status {
    // SAFETY: the caller says so.
    let guarded = unsafe { &*instance.cast::<Guarded<T>>() };
    if guarded.is_poisoned.get() {
        let refusal = Error::new(
            "poisoned",
            "the plugin panicked in an earlier call; create it anew",
        );
        // SAFETY: `error` is null or valid.
        unsafe { write_error(error, &refusal) };
        return Status::POISONED;
    }
    // SAFETY: `error` is null or valid.
    let status = unsafe { answer(error, || body(&guarded.state)) };
    guarded.is_poisoned.set(status == Status::PANIC);
    status
}

/// Turns a result or a panic into a status and what the error sink should hold.
///
/// # Safety
/// `error` is null or a valid sink.
unsafe fn answer(error: *const Sink, body: impl FnOnce() -> Result<()>) -> Status {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Status::OK,
        Ok(Err(refusal)) => {
            // SAFETY: passed on.
            unsafe { write_error(error, &refusal) };
            Status::ERROR
        }
        Err(payload) => {
            let refusal = Error::new(
                "panic",
                format!("the plugin panicked: {}", panic_message(&*payload)),
            );
            // SAFETY: passed on.
            unsafe { write_error(error, &refusal) };
            std::mem::forget(payload); // dropping it might panic again
            Status::PANIC
        }
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// # Safety
/// `error` is null or a valid sink.
unsafe fn write_error(error: *const Sink, refusal: &Error) {
    // SAFETY: the caller says so.
    if let Some(sink) = unsafe { error.as_ref() } {
        // SAFETY: as above.
        unsafe { sink.write_error(&refusal.code, &refusal.message) }
    }
}

/// Never dereferences a null sink, so that a careless host gets an error.
fn write(document: *const Sink, bytes: &[u8]) -> Result<()> {
    // SAFETY: role and plugin tables pass either null or a sink that is valid for the call.
    let sink = unsafe { document.as_ref() }
        .ok_or_else(|| Error::new("invalid-argument", "the sink is null"))?;
    // SAFETY: as above.
    unsafe { sink.write(bytes) };
    Ok(())
}

fn write_specs(document: *const Sink, specs: &[ValueSpec]) -> Result<()> {
    let text = serde_json::to_vec(specs).map_err(|error| Error::plugin(error.to_string()))?;
    write(document, &text)
}

//! The host's functions on the native interface: the same [`Session`] as WebAssembly plugins
//! get, behind C signatures. Nothing unwinds out of them, and every number that stands for a
//! choice is decoded before it is believed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;

use dtta_abi::{
    Attr, Bytes, Call, Header, HostTable, Kind, LogLevel, MAX_RANK, Sink, Status, TensorId,
    TensorInfo, Value,
};
use dtta_tensor::{Attribute, Handle, OpCode, SHOWN_CHARACTERS, Session, Shape, TensorError};

use crate::logs;

/// The table that every plugin of the native interface gets.
pub(super) static HOST: HostTable = HostTable {
    header: Header::of::<HostTable>(),
    op,
    op_supported,
    info,
    share,
    release,
    from_floats,
    from_ints,
    read_floats,
    read_ints,
    constant,
    parameter,
    buffer,
    update_buffer,
    log,
};

/// What stands behind a [`Call`]: its first field is the call itself.
#[repr(C)]
pub(super) struct Context {
    call: Call,
    pub(super) session: Session,
    pub(super) plugin: String,
}

impl Context {
    pub(super) fn new(plugin: &str, session: Session) -> Self {
        Self {
            call: Call {
                host: &raw const HOST,
            },
            session,
            plugin: plugin.into(),
        }
    }
}

/// A refusal on its way to the plugin's error sink.
struct Refusal {
    status: Status,
    code: &'static str,
    message: String,
}

impl From<TensorError> for Refusal {
    fn from(error: TensorError) -> Self {
        Self {
            status: Status::ERROR,
            code: error.code(),
            message: error.to_string(),
        }
    }
}

fn refuse(code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal {
        status: Status::ERROR,
        code,
        message: message.into(),
    }
}

/// Runs the body of a host function: no panic leaves it, and a refusal is written down.
///
/// # Safety
/// `call` is null or the context of the call that runs on this thread; `error` is null or a
/// sink of the caller.
unsafe fn serve(
    call: *mut Call,
    error: *const Sink,
    body: impl FnOnce(&mut Context) -> Result<(), Refusal>,
) -> Status {
    let run = || {
        if call.is_null() {
            return Err(refuse("invalid-argument", "the call context is null"));
        }
        // SAFETY: a plugin only has calls that the host made, each the first field of a
        // `Context` that nobody else uses until the plugin returns.
        body(unsafe { &mut *call.cast::<Context>() })
    };
    let refusal = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => return Status::OK,
        Ok(Err(refusal)) => refusal,
        Err(_) => refuse("backend", "the host panicked"),
    };
    // SAFETY: null or a sink of the caller, who waits for this function.
    if let Some(sink) = unsafe { error.as_ref() } {
        // SAFETY: the caller waits.
        unsafe { sink.write_error(refusal.code, &refusal.message) };
    }
    refusal.status
}

/// The items behind a pointer with a count.
///
/// # Safety
/// `items` points at `count` items that stay as they are for `'a`, or `count` is 0.
unsafe fn array<'a, T>(items: *const T, count: usize) -> Result<&'a [T], Refusal> {
    if count == 0 {
        return Ok(&[]);
    }
    if items.is_null() || !items.is_aligned() || count > isize::MAX as usize / size_of::<T>().max(1)
    {
        return Err(refuse("invalid-argument", "an array that cannot be one"));
    }
    // SAFETY: not null, aligned, of a possible size; the caller holds the rest.
    Ok(unsafe { slice::from_raw_parts(items, count) })
}

/// As [`array`], for results.
///
/// # Safety
/// `items` points at `count` items that may be written for `'a`, or `count` is 0.
unsafe fn array_mut<'a, T>(items: *mut T, count: usize) -> Result<&'a mut [T], Refusal> {
    if count == 0 {
        return Ok(&mut []);
    }
    if items.is_null() || !items.is_aligned() || count > isize::MAX as usize / size_of::<T>().max(1)
    {
        return Err(refuse("invalid-argument", "an array that cannot be one"));
    }
    // SAFETY: not null, aligned, of a possible size; the caller holds the rest.
    Ok(unsafe { slice::from_raw_parts_mut(items, count) })
}

/// Writes a result.
///
/// # Safety
/// `out` is null or can be written.
unsafe fn put<T>(out: *mut T, result: T) -> Result<(), Refusal> {
    if out.is_null() || !out.is_aligned() {
        return Err(refuse(
            "invalid-argument",
            "there is no room for the result",
        ));
    }
    // SAFETY: not null, aligned; the caller holds it to be writable.
    unsafe { out.write(result) };
    Ok(())
}

/// A handle from its id. Ids with high bits set were never given.
fn handle(id: TensorId) -> Result<Handle, TensorError> {
    u32::try_from(id.0)
        .map(Handle)
        .map_err(|_| TensorError::StaleHandle { handle: u32::MAX })
}

fn id(handle: Handle) -> TensorId {
    TensorId(handle.0.into())
}

fn attribute(wire: &Attr) -> Result<Attribute, Refusal> {
    // SAFETY: lists are borrowed for the call, and copied here.
    match unsafe { wire.decode() } {
        Some(Value::None) => Ok(Attribute::None),
        Some(Value::Int(value)) => Ok(Attribute::Int(value)),
        Some(Value::Float(value)) => Ok(Attribute::Float(value)),
        Some(Value::Bool(value)) => Ok(Attribute::Bool(value)),
        Some(Value::Ints(values)) => Ok(Attribute::Ints(values.to_vec())),
        None => Err(refuse(
            "invalid-argument",
            format!("an attribute with tag {} that says nothing", wire.tag),
        )),
    }
}

unsafe extern "C" fn op(
    call: *mut Call,
    opcode: u32,
    inputs: *const TensorId,
    input_count: usize,
    attributes: *const Attr,
    attribute_count: usize,
    outputs: *mut TensorId,
    output_capacity: usize,
    error: *const Sink,
) -> Status {
    let body = |context: &mut Context| {
        let code = OpCode::from_number(opcode).ok_or_else(|| Refusal {
            status: Status::UNSUPPORTED,
            code: "unsupported",
            message: format!("this host has no operation {opcode}"),
        })?;
        // SAFETY: the plugin lends them until this function returns.
        let inputs = unsafe { array(inputs, input_count) }?;
        // SAFETY: as above.
        let attributes = unsafe { array(attributes, attribute_count) }?;
        // SAFETY: as above.
        let outputs = unsafe { array_mut(outputs, output_capacity) }?;
        let wanted = code.spec().outputs;
        if outputs.len() < wanted {
            return Err(refuse(
                "invalid-argument",
                format!("`{}` has {wanted} results", code.spec().name),
            ));
        }
        let inputs = inputs
            .iter()
            .map(|&id| handle(id))
            .collect::<Result<Vec<_>, _>>()?;
        let attributes = attributes
            .iter()
            .map(attribute)
            .collect::<Result<Vec<_>, _>>()?;
        let results = context.session.op(code, &inputs, &attributes)?;
        for (output, result) in outputs.iter_mut().zip(results).take(wanted) {
            *output = id(result);
        }
        Ok(())
    };
    // SAFETY: the plugin passes its call and its sink.
    unsafe { serve(call, error, body) }
}

unsafe extern "C" fn op_supported(_call: *mut Call, opcode: u32) -> u32 {
    OpCode::from_number(opcode).is_some().into()
}

unsafe extern "C" fn info(
    call: *mut Call,
    tensor: TensorId,
    out: *mut TensorInfo,
    error: *const Sink,
) -> Status {
    let body = |context: &mut Context| {
        let tensor = context.session.get(handle(tensor)?)?;
        let shape = tensor.shape();
        let mut extents = [0; MAX_RANK];
        for (written, &extent) in extents.iter_mut().zip(shape.iter()) {
            *written = extent as u64;
        }
        let info = TensorInfo {
            kind: match tensor.kind() {
                dtta_tensor::Kind::Float => Kind::FLOAT,
                dtta_tensor::Kind::Int => Kind::INT,
                dtta_tensor::Kind::Bool => Kind::BOOLEAN,
            },
            tracked: tensor.is_tracked().into(),
            rank: shape.rank() as u32,
            reserved: 0,
            extents,
        };
        // SAFETY: the plugin lends it until this function returns.
        unsafe { put(out, info) }
    };
    // SAFETY: the plugin passes its call and its sink.
    unsafe { serve(call, error, body) }
}

unsafe extern "C" fn share(
    call: *mut Call,
    tensor: TensorId,
    out: *mut TensorId,
    error: *const Sink,
) -> Status {
    let body = |context: &mut Context| {
        let second = context.session.share(handle(tensor)?)?;
        // SAFETY: the plugin lends it until this function returns.
        unsafe { put(out, id(second)) }
    };
    // SAFETY: the plugin passes its call and its sink.
    unsafe { serve(call, error, body) }
}

unsafe extern "C" fn release(call: *mut Call, tensor: TensorId) {
    let body = |context: &mut Context| {
        context.session.release(handle(tensor)?);
        Ok(())
    };
    // SAFETY: the plugin passes its call.
    unsafe { serve(call, std::ptr::null(), body) };
}

/// The shape that a plugin wrote as `rank` extents.
///
/// # Safety
/// `extents` points at `rank` numbers, or `rank` is 0.
unsafe fn shape(op: &'static str, extents: *const u64, rank: usize) -> Result<Shape, Refusal> {
    // SAFETY: held by the caller.
    let extents = unsafe { array(extents, rank) }?;
    let extents: Vec<usize> = extents
        .iter()
        .map(|&extent| usize::try_from(extent).unwrap_or(usize::MAX))
        .collect();
    Ok(Shape::new(op, &extents)?)
}

unsafe extern "C" fn from_floats(
    call: *mut Call,
    elements: *const f32,
    count: usize,
    extents: *const u64,
    rank: usize,
    out: *mut TensorId,
    error: *const Sink,
) -> Status {
    let body = |context: &mut Context| {
        // SAFETY: the plugin lends them until this function returns.
        let (elements, shape) = unsafe {
            (
                array(elements, count)?,
                shape("from-floats", extents, rank)?,
            )
        };
        let made = context.session.from_floats(elements, &shape)?;
        // SAFETY: as above.
        unsafe { put(out, id(made)) }
    };
    // SAFETY: the plugin passes its call and its sink.
    unsafe { serve(call, error, body) }
}

unsafe extern "C" fn from_ints(
    call: *mut Call,
    elements: *const i64,
    count: usize,
    extents: *const u64,
    rank: usize,
    out: *mut TensorId,
    error: *const Sink,
) -> Status {
    let body = |context: &mut Context| {
        // SAFETY: the plugin lends them until this function returns.
        let (elements, shape) =
            unsafe { (array(elements, count)?, shape("from-ints", extents, rank)?) };
        let made = context.session.from_ints(elements, &shape)?;
        // SAFETY: as above.
        unsafe { put(out, id(made)) }
    };
    // SAFETY: the plugin passes its call and its sink.
    unsafe { serve(call, error, body) }
}

/// Copies elements to where the plugin has room for exactly as many.
///
/// # Safety
/// `room` points at `capacity` elements that can be written, or `capacity` is 0.
unsafe fn copy_out<T: Copy>(elements: &[T], room: *mut T, capacity: usize) -> Result<(), Refusal> {
    if elements.len() != capacity {
        let message = format!(
            "room for {capacity} elements of a tensor that has {}",
            elements.len()
        );
        return Err(refuse("invalid-argument", message));
    }
    // SAFETY: held by the caller.
    unsafe { array_mut(room, capacity) }?.copy_from_slice(elements);
    Ok(())
}

unsafe extern "C" fn read_floats(
    call: *mut Call,
    tensor: TensorId,
    elements: *mut f32,
    capacity: usize,
    error: *const Sink,
) -> Status {
    let body = |context: &mut Context| {
        let read = context.session.read_floats(handle(tensor)?)?;
        // SAFETY: the plugin lends the room until this function returns.
        unsafe { copy_out(&read, elements, capacity) }
    };
    // SAFETY: the plugin passes its call and its sink.
    unsafe { serve(call, error, body) }
}

unsafe extern "C" fn read_ints(
    call: *mut Call,
    tensor: TensorId,
    elements: *mut i64,
    capacity: usize,
    error: *const Sink,
) -> Status {
    let body = |context: &mut Context| {
        let read = context.session.read_ints(handle(tensor)?)?;
        // SAFETY: the plugin lends the room until this function returns.
        unsafe { copy_out(&read, elements, capacity) }
    };
    // SAFETY: the plugin passes its call and its sink.
    unsafe { serve(call, error, body) }
}

unsafe extern "C" fn constant(
    call: *mut Call,
    name: Bytes,
    out: *mut TensorId,
    error: *const Sink,
) -> Status {
    let body = |context: &mut Context| {
        // SAFETY: the plugin lends it until this function returns.
        let name = String::from_utf8_lossy(unsafe { name.as_slice() });
        let made = context.session.constant(&name)?;
        // SAFETY: as above.
        unsafe { put(out, id(made)) }
    };
    // SAFETY: the plugin passes its call and its sink.
    unsafe { serve(call, error, body) }
}

unsafe extern "C" fn parameter(
    call: *mut Call,
    index: u32,
    out: *mut TensorId,
    error: *const Sink,
) -> Status {
    let body = |context: &mut Context| {
        let lent = context.session.parameter(index)?;
        // SAFETY: the plugin lends it until this function returns.
        unsafe { put(out, id(lent)) }
    };
    // SAFETY: the plugin passes its call and its sink.
    unsafe { serve(call, error, body) }
}

unsafe extern "C" fn buffer(
    call: *mut Call,
    index: u32,
    out: *mut TensorId,
    error: *const Sink,
) -> Status {
    let body = |context: &mut Context| {
        let lent = context.session.buffer(index)?;
        // SAFETY: the plugin lends it until this function returns.
        unsafe { put(out, id(lent)) }
    };
    // SAFETY: the plugin passes its call and its sink.
    unsafe { serve(call, error, body) }
}

unsafe extern "C" fn update_buffer(
    call: *mut Call,
    index: u32,
    value: TensorId,
    error: *const Sink,
) -> Status {
    let body = |context: &mut Context| {
        let value = handle(value)?;
        Ok(context.session.update_buffer(index, value)?)
    };
    // SAFETY: the plugin passes its call and its sink.
    unsafe { serve(call, error, body) }
}

unsafe extern "C" fn log(call: *mut Call, level: LogLevel, message: Bytes) {
    let body = |context: &mut Context| {
        let level = match level {
            LogLevel::TRACE => log::Level::Trace,
            LogLevel::DEBUG => log::Level::Debug,
            LogLevel::WARN => log::Level::Warn,
            LogLevel::ERROR => log::Level::Error,
            _ => log::Level::Info,
        };
        // SAFETY: the plugin lends it until this function returns.
        let message = unsafe { message.as_slice() };
        let logged = context.session.log(message.len())?;
        let message: String = String::from_utf8_lossy(message)
            .chars()
            .take(SHOWN_CHARACTERS)
            .collect();
        logs::write(&context.plugin, level, &message, logged, &context.session);
        Ok(())
    };
    // SAFETY: the plugin passes its call.
    unsafe { serve(call, std::ptr::null(), body) };
}

//! The native side: requests go through the host's C table. Also what the linked loader runs, so
//! that a plugin's tests need no WebAssembly.
//!
//! A `Handle` is an id and the number of the call it belongs to. The context of the running
//! call is kept for each thread, so a handle that outlives its call finds another number, or
//! none, and is refused; nothing here ever follows a pointer of a call that returned.

use std::cell::Cell;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr;

use dtta_abi::{Attr, Bytes, Call, HostTable, MAX_RANK, Sink, Status, TensorId, TensorInfo, Value};

use crate::error::{Error, Result};
use crate::session::LogLevel;
use crate::tensor::{Kind, Tensor};

mod export;

pub(crate) use export::{RoleTables, head_table, mapper_table, metric_table, objective_table};
pub use export::{describe, entry};

/// The call that runs on this thread. `number` tells it from every other call on this thread.
#[derive(Clone, Copy)]
struct Current {
    call: *mut Call,
    number: u64,
}

thread_local! {
    static CURRENT: Cell<Current> = const { Cell::new(Current { call: ptr::null_mut(), number: 0 }) };
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

/// Makes a call the current one until it is dropped.
struct Entered {
    before: Current,
}

impl Entered {
    /// # Safety
    /// `call` must stay valid until the result is dropped.
    unsafe fn new(call: *mut Call) -> Self {
        let number = CALLS.get() + 1;
        CALLS.set(number);
        Self {
            before: CURRENT.replace(Current { call, number }),
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

/// The running call with the host's table.
struct Running {
    call: *mut Call,
    host: &'static HostTable,
    number: u64,
}

fn running() -> Option<Running> {
    let Current { call, number } = CURRENT.get();
    if call.is_null() {
        return None;
    }
    // SAFETY: `CURRENT` holds a context only while its call runs, and a context's table lives
    // forever.
    let host = unsafe { (*call).host.as_ref() }?;
    Some(Running { call, host, number })
}

fn expect_running() -> Result<Running> {
    running().ok_or_else(|| {
        Error::new(
            "stale-handle",
            "no call of the host is running on this thread",
        )
    })
}

fn stale() -> Error {
    Error::new(
        "stale-handle",
        "the tensor belongs to a call that has returned; tensors cannot be kept between calls",
    )
}

/// A tensor of one call.
pub(crate) struct Handle {
    id: TensorId,
    number: u64,
    _one_thread: PhantomData<*mut ()>,
}

impl Handle {
    fn new(id: TensorId, number: u64) -> Self {
        Self {
            id,
            number,
            _one_thread: PhantomData,
        }
    }

    fn running(&self) -> Result<Running> {
        running()
            .filter(|running| running.number == self.number)
            .ok_or_else(stale)
    }

    /// Gives the id away: it is not released.
    fn into_id(self) -> Result<TensorId> {
        self.running()?;
        let id = self.id;
        std::mem::forget(self);
        Ok(id)
    }

    pub(crate) fn info(&self) -> Result<(Kind, Vec<u32>)> {
        let info = self.table_info()?;
        let kind = match info.kind {
            dtta_abi::Kind::FLOAT => Kind::Float,
            dtta_abi::Kind::INT => Kind::Int,
            dtta_abi::Kind::BOOLEAN => Kind::Boolean,
            other => {
                return Err(Error::new(
                    "unsupported",
                    format!("the host has an unknown kind, {}", other.0),
                ));
            }
        };
        let rank = (info.rank as usize).min(MAX_RANK);
        // The host holds extents to `u32`, as WIT does.
        let shape = info.extents[..rank]
            .iter()
            .map(|&extent| u32::try_from(extent).unwrap_or(u32::MAX));
        Ok((kind, shape.collect()))
    }

    fn table_info(&self) -> Result<TensorInfo> {
        let Running { call, host, .. } = self.running()?;
        let mut info = TensorInfo {
            kind: dtta_abi::Kind::FLOAT,
            tracked: 0,
            rank: 0,
            reserved: 0,
            extents: [0; MAX_RANK],
        };
        // SAFETY: the call is running; `info` and the sink are alive.
        request(|error| unsafe { (host.info)(call, self.id, &raw mut info, error) })?;
        Ok(info)
    }

    pub(crate) fn tracked(&self) -> Result<bool> {
        Ok(self.table_info()?.tracked != 0)
    }

    pub(crate) fn share(&self) -> Result<Tensor> {
        let Running { call, host, .. } = self.running()?;
        // SAFETY: the call is running; `out` and the sink are alive.
        made(|out, error| unsafe { (host.share)(call, self.id, out, error) })
    }

    pub(crate) fn read_floats(&self) -> Result<Vec<f32>> {
        let Running { call, host, .. } = self.running()?;
        let mut elements = vec![0.0; self.elements()?];
        // SAFETY: the call is running; `elements` has room for as many as it says.
        request(|error| unsafe {
            (host.read_floats)(call, self.id, elements.as_mut_ptr(), elements.len(), error)
        })?;
        Ok(elements)
    }

    pub(crate) fn read_ints(&self) -> Result<Vec<i64>> {
        let Running { call, host, .. } = self.running()?;
        let mut elements = vec![0; self.elements()?];
        // SAFETY: the call is running; `elements` has room for as many as it says.
        request(|error| unsafe {
            (host.read_ints)(call, self.id, elements.as_mut_ptr(), elements.len(), error)
        })?;
        Ok(elements)
    }

    fn elements(&self) -> Result<usize> {
        Ok(self
            .info()?
            .1
            .iter()
            .map(|&extent| extent as usize)
            .product())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Ok(Running { call, host, .. }) = self.running() {
            // SAFETY: the call is running, and the id is one of its own.
            unsafe { (host.release)(call, self.id) }
        }
    }
}

/// Asks the host and reads what it refuses.
fn request(ask: impl FnOnce(*const Sink) -> Status) -> Result<()> {
    let mut written = Vec::new();
    let sink = Sink {
        context: (&raw mut written).cast(),
        write: append,
    };
    match ask(&raw const sink) {
        Status::OK => Ok(()),
        status => Err(decode_error(status, &written)),
    }
}

/// Asks the host for one tensor.
fn made(ask: impl FnOnce(*mut TensorId, *const Sink) -> Status) -> Result<Tensor> {
    let number = expect_running()?.number;
    let mut id = TensorId::NONE;
    request(|error| ask(&raw mut id, error))?;
    Ok(Tensor(Handle::new(id, number)))
}

unsafe extern "C" fn append(context: *mut c_void, bytes: Bytes) {
    // SAFETY: only `request` makes sinks of this function, each with a vector as its context;
    // the host's bytes are valid for this call.
    unsafe { (*context.cast::<Vec<u8>>()).extend_from_slice(bytes.as_slice()) }
}

fn decode_error(status: Status, written: &[u8]) -> Error {
    let (code, message) = Sink::split_error(written);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = match (code.is_empty(), status) {
        (false, _) => text(code),
        (true, Status::UNSUPPORTED) => "unsupported".into(),
        (true, _) => "host".into(),
    };
    let message = if message.is_empty() {
        format!("the host answered with status {}", status.0)
    } else {
        text(message)
    };
    Error::new(code, message)
}

pub(crate) fn from_floats(elements: &[f32], shape: &[u32]) -> Result<Tensor> {
    let Running { call, host, .. } = expect_running()?;
    let extents = widen(shape);
    // SAFETY: the call is running; slices and sink are alive.
    made(|out, error| unsafe {
        (host.from_floats)(
            call,
            elements.as_ptr(),
            elements.len(),
            extents.as_ptr(),
            extents.len(),
            out,
            error,
        )
    })
}

pub(crate) fn from_ints(elements: &[i64], shape: &[u32]) -> Result<Tensor> {
    let Running { call, host, .. } = expect_running()?;
    let extents = widen(shape);
    // SAFETY: the call is running; slices and sink are alive.
    made(|out, error| unsafe {
        (host.from_ints)(
            call,
            elements.as_ptr(),
            elements.len(),
            extents.as_ptr(),
            extents.len(),
            out,
            error,
        )
    })
}

fn widen(shape: &[u32]) -> Vec<u64> {
    shape.iter().copied().map(u64::from).collect()
}

pub(crate) fn constant(name: &str) -> Result<Tensor> {
    let Running { call, host, .. } = expect_running()?;
    // SAFETY: the call is running; the name and the sink are alive.
    made(|out, error| unsafe { (host.constant)(call, Bytes::new(name.as_bytes()), out, error) })
}

pub(crate) fn log(level: LogLevel, message: &str) {
    let level = match level {
        LogLevel::Trace => dtta_abi::LogLevel::TRACE,
        LogLevel::Debug => dtta_abi::LogLevel::DEBUG,
        LogLevel::Info => dtta_abi::LogLevel::INFO,
        LogLevel::Warn => dtta_abi::LogLevel::WARN,
        LogLevel::Error => dtta_abi::LogLevel::ERROR,
    };
    if let Some(Running { call, host, .. }) = running() {
        // SAFETY: the call is running; the message is alive.
        unsafe { (host.log)(call, level, Bytes::new(message.as_bytes())) }
    }
}

/// The values that the host keeps for the running call's instance.
pub(crate) struct Values;

impl Values {
    pub(crate) fn parameter(&self, index: u32) -> Result<Tensor> {
        let Running { call, host, .. } = expect_running()?;
        // SAFETY: the call is running; `out` and the sink are alive.
        made(|out, error| unsafe { (host.parameter)(call, index, out, error) })
    }

    pub(crate) fn buffer(&self, index: u32) -> Result<Tensor> {
        let Running { call, host, .. } = expect_running()?;
        // SAFETY: the call is running; `out` and the sink are alive.
        made(|out, error| unsafe { (host.buffer)(call, index, out, error) })
    }

    pub(crate) fn update_buffer(&self, index: u32, value: Tensor) -> Result<()> {
        let Running { call, host, .. } = value.0.running()?;
        let id = value.0.into_id()?;
        // SAFETY: the call is running; the id is one of its own and given away here.
        request(|error| unsafe { (host.update_buffer)(call, index, id, error) })
    }
}

/// One operation with its arguments, in the order of the table's row: tensors on one list,
/// everything else on another.
#[derive(Default)]
pub(crate) struct Request {
    tensors: Vec<TensorId>,
    attributes: Vec<Attribute>,
    is_stale: bool,
}

enum Attribute {
    None,
    Int(i64),
    Float(f64),
    Bool(bool),
    Ints(Vec<i64>),
}

impl Request {
    pub(crate) fn tensor(&mut self, tensor: &Tensor) {
        self.is_stale |= tensor.0.running().is_err();
        self.tensors.push(tensor.0.id);
    }

    pub(crate) fn optional_tensor(&mut self, tensor: Option<&Tensor>) {
        match tensor {
            Some(tensor) => self.tensor(tensor),
            None => self.tensors.push(TensorId::NONE),
        }
    }

    pub(crate) fn int(&mut self, value: i64) {
        self.attributes.push(Attribute::Int(value));
    }

    pub(crate) fn float(&mut self, value: f64) {
        self.attributes.push(Attribute::Float(value));
    }

    pub(crate) fn optional_float(&mut self, value: Option<f64>) {
        self.attributes
            .push(value.map_or(Attribute::None, Attribute::Float));
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.attributes.push(Attribute::Bool(value));
    }

    pub(crate) fn kind(&mut self, kind: Kind) {
        let kind = match kind {
            Kind::Float => dtta_abi::Kind::FLOAT,
            Kind::Int => dtta_abi::Kind::INT,
            Kind::Boolean => dtta_abi::Kind::BOOLEAN,
        };
        self.int(i64::from(kind.0));
    }

    pub(crate) fn ints<T: Copy + Into<i64>>(&mut self, values: &[T]) {
        self.attributes.push(Attribute::Ints(
            values.iter().map(|&value| value.into()).collect(),
        ));
    }

    pub(crate) fn pair(&mut self, (vertical, horizontal): (u32, u32)) {
        self.ints(&[vertical, horizontal]);
    }

    pub(crate) fn one(&self, code: u32) -> Result<Tensor> {
        let number = expect_running()?.number;
        let [first] = self.send(code)?;
        Ok(Tensor(Handle::new(first, number)))
    }

    pub(crate) fn two(&self, code: u32) -> Result<(Tensor, Tensor)> {
        let number = expect_running()?.number;
        let [first, second] = self.send(code)?;
        Ok((
            Tensor(Handle::new(first, number)),
            Tensor(Handle::new(second, number)),
        ))
    }

    fn send<const N: usize>(&self, code: u32) -> Result<[TensorId; N]> {
        if self.is_stale {
            return Err(stale());
        }
        let Running { call, host, .. } = expect_running()?;
        let encode = |attribute: &Attribute| {
            Attr::encode(match attribute {
                Attribute::None => Value::None,
                Attribute::Int(value) => Value::Int(*value),
                Attribute::Float(value) => Value::Float(*value),
                Attribute::Bool(value) => Value::Bool(*value),
                Attribute::Ints(values) => Value::Ints(values),
            })
        };
        let attributes: Vec<Attr> = self.attributes.iter().map(encode).collect();
        let mut outputs = [TensorId::NONE; N];
        // SAFETY: the call is running; every pointer leads to as many items as its count says,
        // and lists behind attributes are borrowed from `self`.
        request(|error| unsafe {
            (host.op)(
                call,
                code,
                self.tensors.as_ptr(),
                self.tensors.len(),
                attributes.as_ptr(),
                attributes.len(),
                outputs.as_mut_ptr(),
                N,
                error,
            )
        })?;
        Ok(outputs)
    }
}

macro_rules! operation {
    (method $this:ident $code:ident $name:ident($($parameter:ident: $takes:ident),*) -> $gives:ident) => {{
        let mut request = $crate::native::Request::default();
        request.tensor($this);
        $($crate::native::operation!(@push request $takes $parameter);)*
        $crate::native::operation!(@send request $gives $code)
    }};
    (static $code:ident $name:ident($($parameter:ident: $takes:ident),*)) => {{
        let mut request = $crate::native::Request::default();
        $($crate::native::operation!(@push request $takes $parameter);)*
        $crate::native::operation!(@send request One $code)
    }};
    (@send $request:ident One $code:ident) => { $request.one(dtta_abi::op::$code) };
    (@send $request:ident Two $code:ident) => { $request.two(dtta_abi::op::$code) };
    (@push $request:ident Tensor $x:ident) => { $request.tensor($x) };
    (@push $request:ident OptionalTensor $x:ident) => { $request.optional_tensor($x) };
    (@push $request:ident Tensors $x:ident) => { $x.iter().for_each(|part| $request.tensor(part)) };
    (@push $request:ident Float $x:ident) => { $request.float($x) };
    (@push $request:ident OptionalFloat $x:ident) => { $request.optional_float($x) };
    (@push $request:ident Long $x:ident) => { $request.int($x) };
    (@push $request:ident Axis $x:ident) => { $request.int($x.into()) };
    (@push $request:ident Count $x:ident) => { $request.int($x.into()) };
    (@push $request:ident Bool $x:ident) => { $request.bool($x) };
    (@push $request:ident Kind $x:ident) => { $request.kind($x) };
    (@push $request:ident Axes $x:ident) => { $request.ints($x) };
    (@push $request:ident Extents $x:ident) => { $request.ints($x) };
    (@push $request:ident Shape $x:ident) => { $request.ints($x) };
    (@push $request:ident Conv $x:ident) => {{
        $request.pair($x.stride);
        $request.pair($x.padding);
        $request.pair($x.dilation);
        $request.int($x.groups.into());
    }};
    (@push $request:ident Pool $x:ident) => {{
        $request.pair($x.kernel);
        $request.pair($x.stride);
        $request.pair($x.padding);
    }};
}
pub(crate) use operation;

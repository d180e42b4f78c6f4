//! The native side of the SDK against a host that only keeps books: what is refused, what is
//! released, and what happens after a panic.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::ptr;

use dtta_sdk::abi::{
    Attr, Bytes, Call, Header, HostTable, Instance, LogLevel, NamedSink, NamedTensor, PluginTable,
    Sink, Status, TensorId, TensorInfo, Value,
};
use dtta_sdk::prelude::*;

mod plugin {
    use super::*;

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Config {
        /// What to do in `forward`.
        pub act: String,
    }

    pub struct Actor(String);

    thread_local! {
        static KEPT: RefCell<Option<Tensor>> = const { RefCell::new(None) };
    }

    impl Head for Actor {
        type Config = Config;
        const CONSTANTS: &'static [&'static str] = &["b", "a"];

        fn create(config: Config) -> Result<Self> {
            if config.act == "refuse" {
                Err(Error::config("`act` is `refuse`"))
            } else {
                Ok(Self(config.act))
            }
        }

        fn declare(&self) -> Vec<ValueSpec> {
            let attributes = vec![("group".into(), "norm-affine".into())];
            vec![ValueSpec {
                name: "scale".into(),
                storage: Storage::Parameter,
                shape: vec![3],
                attributes,
            }]
        }

        fn forward(&self, inputs: &Named, session: &Session) -> Result<Named> {
            let x = inputs.get("x")?;
            match self.0.as_str() {
                "panic" => panic!("on purpose"),
                "keep" => KEPT.with_borrow_mut(|kept| *kept = Some(x.share().unwrap())),
                "use-kept" => {
                    let kept = KEPT.with_borrow_mut(Option::take).unwrap();
                    return Ok(Named::one("y", kept.neg()?));
                }
                "constant" => return Ok(Named::one("y", session.constant("nothing")?)),
                _ => {}
            }
            let y = (&(x + x)? * 3.0)?;
            Ok(Named::one("y", y.clamp(None, Some(1.0))?).with("z", y.sum(&[-1], true)?))
        }

        fn predict(&self, outputs: &Named, _session: &Session) -> Result<Named> {
            Err(Error::plugin(format!(
                "{:?}",
                outputs.get("y")?.read_floats()?
            )))
        }
    }

    export_plugin! { head: Actor }
}

/// A host that makes an id for each result and remembers requests. The context comes first, as
/// a host's must.
#[repr(C)]
struct Host {
    call: Call,
    next: u64,
    live: BTreeSet<u64>,
    requests: Vec<String>,
}

static TABLE: HostTable = HostTable {
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
    parameter: value,
    buffer: value,
    update_buffer,
    log,
};

impl Host {
    fn new() -> Self {
        Self {
            call: Call {
                host: &raw const TABLE,
            },
            next: 100,
            live: BTreeSet::new(),
            requests: Vec::new(),
        }
    }

    fn make(&mut self) -> TensorId {
        self.next += 1;
        self.live.insert(self.next);
        TensorId(self.next)
    }

    fn context(&mut self) -> *mut Call {
        ptr::from_mut(self).cast()
    }

    /// # Safety
    /// `call` comes from `context` of a host that is alive.
    unsafe fn of<'a>(call: *mut Call) -> &'a mut Self {
        // SAFETY: passed on; `call` is the first field of a `repr(C)` struct.
        unsafe { &mut *call.cast::<Self>() }
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
    // SAFETY: the SDK holds to the contract of the table.
    let (host, inputs, outputs) = unsafe {
        (
            Host::of(call),
            list(inputs, input_count),
            std::slice::from_raw_parts_mut(outputs, output_capacity),
        )
    };
    // SAFETY: as above.
    let attributes: Vec<_> = unsafe {
        list(attributes, attribute_count)
            .iter()
            .map(|a| a.decode().unwrap())
            .collect()
    };
    if let Some(stale) = inputs
        .iter()
        .find(|id| **id != TensorId::NONE && !host.live.contains(&id.0))
    {
        // SAFETY: as above.
        unsafe { (*error).write_error("stale-handle", &stale.0.to_string()) };
        return Status::ERROR;
    }
    let name = dtta_sdk::abi::op_name(opcode).unwrap();
    let ids: Vec<_> = inputs.iter().map(|id| id.0).collect();
    host.requests.push(format!("{name} {ids:?} {attributes:?}"));
    outputs.fill_with(|| host.make());
    Status::OK
}

unsafe fn list<'a, T>(items: *const T, count: usize) -> &'a [T] {
    if count == 0 {
        return &[];
    }
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts(items, count) }
}

unsafe extern "C" fn op_supported(_call: *mut Call, _opcode: u32) -> u32 {
    1
}

unsafe extern "C" fn info(
    _call: *mut Call,
    _tensor: TensorId,
    out: *mut TensorInfo,
    _error: *const Sink,
) -> Status {
    let extents = [2, 0, 0, 0, 0, 0];
    // SAFETY: the SDK's.
    unsafe {
        out.write(TensorInfo {
            kind: dtta_sdk::abi::Kind::FLOAT,
            tracked: 1,
            rank: 1,
            reserved: 0,
            extents,
        });
    }
    Status::OK
}

unsafe extern "C" fn share(
    call: *mut Call,
    _tensor: TensorId,
    out: *mut TensorId,
    _error: *const Sink,
) -> Status {
    // SAFETY: the SDK's.
    unsafe { out.write(Host::of(call).make()) };
    Status::OK
}

unsafe extern "C" fn release(call: *mut Call, tensor: TensorId) {
    // SAFETY: the SDK's.
    let was_live = unsafe { Host::of(call) }.live.remove(&tensor.0);
    assert!(was_live, "{} was released twice", tensor.0);
}

unsafe extern "C" fn from_floats(
    _: *mut Call,
    _: *const f32,
    _: usize,
    _: *const u64,
    _: usize,
    _: *mut TensorId,
    _: *const Sink,
) -> Status {
    Status::UNSUPPORTED
}

unsafe extern "C" fn from_ints(
    _: *mut Call,
    _: *const i64,
    _: usize,
    _: *const u64,
    _: usize,
    _: *mut TensorId,
    _: *const Sink,
) -> Status {
    Status::UNSUPPORTED
}

unsafe extern "C" fn read_floats(
    _call: *mut Call,
    _tensor: TensorId,
    elements: *mut f32,
    capacity: usize,
    _error: *const Sink,
) -> Status {
    // SAFETY: the SDK's.
    unsafe { std::slice::from_raw_parts_mut(elements, capacity) }.fill(0.5);
    Status::OK
}

unsafe extern "C" fn read_ints(
    _: *mut Call,
    _: TensorId,
    _: *mut i64,
    _: usize,
    _: *const Sink,
) -> Status {
    Status::UNSUPPORTED
}

unsafe extern "C" fn constant(
    _call: *mut Call,
    name: Bytes,
    _out: *mut TensorId,
    error: *const Sink,
) -> Status {
    // SAFETY: the SDK's.
    unsafe {
        (*error).write_error(
            "unknown-name",
            std::str::from_utf8(name.as_slice()).unwrap(),
        )
    };
    Status::ERROR
}

unsafe extern "C" fn value(_: *mut Call, _: u32, _: *mut TensorId, _: *const Sink) -> Status {
    Status::UNSUPPORTED
}

unsafe extern "C" fn update_buffer(_: *mut Call, _: u32, _: TensorId, _: *const Sink) -> Status {
    Status::UNSUPPORTED
}

unsafe extern "C" fn log(_call: *mut Call, _level: LogLevel, _message: Bytes) {}

unsafe extern "C" fn append(context: *mut c_void, bytes: Bytes) {
    // SAFETY: `context` is a vector of `capture`.
    unsafe { (*context.cast::<Vec<u8>>()).extend_from_slice(bytes.as_slice()) }
}

unsafe extern "C" fn append_named(context: *mut c_void, result: NamedTensor) {
    // SAFETY: `context` is a vector of `forward`.
    unsafe {
        let name = String::from_utf8(result.name.as_slice().to_vec()).unwrap();
        (*context.cast::<Vec<(String, u64)>>()).push((name, result.tensor.0));
    }
}

/// Runs a call with an error sink and gives what it wrote, code and message apart by a space.
fn capture(run: impl FnOnce(*const Sink) -> Status) -> (Status, String) {
    let mut written = Vec::new();
    let sink = Sink {
        context: (&raw mut written).cast(),
        write: append,
    };
    let status = run(&raw const sink);
    (
        status,
        String::from_utf8(written).unwrap().replacen('\0', " ", 1),
    )
}

fn table() -> PluginTable {
    let mut table = PluginTable::empty();
    // SAFETY: both tables are what the entry expects.
    let (status, error) =
        capture(|error| unsafe { plugin::plugin_entry(&raw const TABLE, &raw mut table, error) });
    assert_eq!((status, error.as_str()), (Status::OK, ""));
    table
}

fn create(config: &str) -> (*mut Instance, Status, String) {
    let mut host = Host::new();
    let mut instance = ptr::null_mut();
    // SAFETY: the table is the plugin's; everything passed is alive.
    let (status, error) = capture(|error| unsafe {
        ((*table().head).create)(
            host.context(),
            Bytes::new(config.as_bytes()),
            &raw mut instance,
            error,
        )
    });
    (instance, status, error)
}

fn forward(host: &mut Host, instance: *mut Instance) -> (Status, String, Vec<(String, u64)>) {
    let mut outputs: Vec<(String, u64)> = Vec::new();
    let input = NamedTensor {
        name: Bytes::new(b"x"),
        tensor: host.make(),
    };
    let sink = NamedSink {
        context: (&raw mut outputs).cast(),
        write: append_named,
    };
    // SAFETY: as in `create`.
    let (status, error) = capture(|error| unsafe {
        ((*table().head).forward)(
            instance,
            host.context(),
            &raw const input,
            1,
            &raw const sink,
            error,
        )
    });
    (status, error, outputs)
}

fn destroy(instance: *mut Instance) {
    // SAFETY: it comes from `create` and is not used again.
    unsafe { ((*table().head).destroy)(instance) }
}

#[test]
fn asks_for_operations_and_releases_all_but_its_results() {
    let (instance, ..) = create(r#"{"act": "compute"}"#);
    let mut host = Host::new();
    let (status, error, outputs) = forward(&mut host, instance);
    assert_eq!((status, error.as_str()), (Status::OK, ""));
    let scale = format!("{:?}", [Value::Float(3.0), Value::Float(0.0)]);
    let clamp = format!("{:?}", [Value::None, Value::Float(1.0)]);
    let sum = format!("{:?}", [Value::Ints(&[-1]), Value::Bool(true)]);
    let expected = [
        "add [101, 101] []".to_owned(),
        format!("affine [102] {scale}"),
        format!("clamp [103] {clamp}"),
        format!("sum [103] {sum}"),
    ];
    assert_eq!(host.requests, expected);
    assert_eq!(outputs, [("y".to_owned(), 104), ("z".to_owned(), 105)]);
    assert_eq!(host.live, BTreeSet::from([104, 105]));
    destroy(instance);
}

#[test]
fn refuses_a_tensor_that_outlived_its_call() {
    let (keeper, ..) = create(r#"{"act": "keep"}"#);
    let (user, ..) = create(r#"{"act": "use-kept"}"#);
    let mut host = Host::new();
    assert_eq!(forward(&mut host, keeper).0, Status::OK);
    let (status, error, _) = forward(&mut host, user);
    assert_eq!(status, Status::ERROR);
    assert!(error.starts_with("stale-handle "), "{error}");
    destroy(keeper);
    destroy(user);
}

#[test]
fn passes_on_what_the_host_refuses() {
    let (instance, ..) = create(r#"{"act": "constant"}"#);
    let (status, error, outputs) = forward(&mut Host::new(), instance);
    assert_eq!(
        (status, error.as_str(), outputs.len()),
        (Status::ERROR, "unknown-name nothing", 0)
    );
    destroy(instance);
}

#[test]
fn answers_a_panic_and_takes_no_more_calls() {
    let (instance, ..) = create(r#"{"act": "panic"}"#);
    let mut host = Host::new();
    let (status, error, _) = forward(&mut host, instance);
    assert_eq!(
        (status, error.as_str()),
        (Status::PANIC, "panic the plugin panicked: on purpose")
    );
    assert!(host.live.is_empty(), "unwinding releases");
    assert_eq!(forward(&mut host, instance).0, Status::POISONED);
    assert_eq!(forward(&mut host, instance).0, Status::POISONED);
    destroy(instance);
}

#[test]
fn refuses_configurations_by_name_of_the_field() {
    let (_, status, error) = create(r#"{"act": "compute", "atc": 1}"#);
    assert_eq!(status, Status::ERROR);
    assert!(
        error.starts_with("invalid-config unknown field `atc`"),
        "{error}"
    );
    assert_eq!(create("").2, "invalid-config missing field `act`");
    assert_eq!(
        create(r#"{"act": "refuse"}"#).2,
        "invalid-config `act` is `refuse`"
    );
}

#[test]
fn refuses_a_host_of_another_version() {
    let mut older = TABLE;
    older.header.abi_minor = 0;
    let mut short = TABLE;
    short.header.size -= 8;
    for host in [older, short] {
        let mut table = PluginTable::empty();
        // SAFETY: both tables have headers, and nothing more is read.
        let (status, error) = capture(|error| unsafe {
            plugin::plugin_entry(&raw const host, &raw mut table, error)
        });
        assert_eq!(status, Status::UNSUPPORTED);
        assert!(error.starts_with("interface-version "), "{error}");
        assert!(table.head.is_null());
    }
}

#[test]
fn describes_and_declares_as_documents() {
    let written = |write: &dyn Fn(*const Sink) -> Status| {
        let mut document = Vec::new();
        let sink = Sink {
            context: (&raw mut document).cast(),
            write: append,
        };
        assert_eq!(write(&raw const sink), Status::OK);
        String::from_utf8(document).unwrap()
    };
    // SAFETY: the sink is alive; a null error sink is allowed.
    let text = written(&|sink| unsafe { (table().describe.unwrap())(sink, ptr::null()) });
    for part in [
        r#""roles":["head"]"#,
        r#""constants":["a","b"]"#,
        r#""description":"What to do in `forward`.""#,
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let (instance, ..) = create(r#"{"act": "compute"}"#);
    // SAFETY: as above.
    let declared =
        written(&|sink| unsafe { ((*table().head).declare)(instance, sink, ptr::null()) });
    let expected = r#"[{"name":"scale","storage":"parameter","shape":[3],"attributes":{"group":"norm-affine"}}]"#;
    assert_eq!(declared, expected);
    destroy(instance);
}

#[test]
fn reads_values_when_it_predicts() {
    let (instance, ..) = create(r#"{"act": "compute"}"#);
    let mut host = Host::new();
    let output = NamedTensor {
        name: Bytes::new(b"y"),
        tensor: host.make(),
    };
    let sink = NamedSink {
        context: ptr::null_mut(),
        write: append_named,
    };
    // SAFETY: everything passed is alive; nothing is written to the sink.
    let (status, error) = capture(|error| unsafe {
        ((*table().head).predict)(
            instance,
            host.context(),
            &raw const output,
            1,
            &raw const sink,
            error,
        )
    });
    assert_eq!(
        (status, error.as_str()),
        (Status::ERROR, "plugin [0.5, 0.5]")
    );
    destroy(instance);
}

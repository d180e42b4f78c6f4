//! Whatever bytes a plugin consists of or answers with, they are read or refused: descriptors, declarations of values,
//! reports, saved accumulators, errors, attributes, components, libraries. Each property starts from bytes that are in
//! order and damages them a little, so that most of a decoder is reached. `tests/fuzz.sh` runs them for long.

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

use std::cell::RefCell;
use std::ptr;

use dtta_abi::{
    Attr, Bytes, Call, HeadTable, HostTable, Instance, MetricTable, NamedSink, NamedTensor,
    PluginTable, Sink, Status, Value,
};
use dtta_plugin::{Accuracy, Environment, Manifest, Metric, Plugin};
use dtta_tensor::{Device, Named, Tensor};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::json;

#[path = "../../../core/engine/tests/common/damage.rs"]
#[allow(dead_code, reason = "bytes are damaged here, not documents")]
mod damage;
mod support;

use damage::{damage, damaged};
use support::{library, root};

/// What the plugin of [`entry`] says; each property runs on a thread of its own.
#[derive(Default)]
struct Says {
    description: Vec<u8>,
    declaration: Vec<u8>,
    saved: Vec<u8>,
    report: Vec<u8>,
    error: Option<Vec<u8>>,
}

thread_local! {
    static SAYS: RefCell<Says> = RefCell::default();
}

const DESCRIPTION: &[u8] = br#"{"schema_version": 1, "name": "says", "version": "1.0.0", "description": "a \u00e4", "interface": "0.1",
    "roles": ["head", "metric"], "needs": {"constants": ["a"], "ops": ["neg"]}, "sha256": "00", "artifact": "a.wasm",
    "predicts": {"name": "a", "target": {"kind": "number_map", "channels": 3}, "picture": {"kind": "rgb", "low": 0, "high": 1}},
    "scores": [{"name": "a*", "higher_is_better": true, "unit": "share"}, {"name": "b", "leads": true}], "additive": true,
    "config_schema": {"head": {"type": "object", "properties": {"a": {"type": "number", "minimum": 0}}}}}"#;

const DECLARATION: &[u8] = br#"[{"name": "weight", "storage": "parameter", "shape": [4, 8], "attributes": {"init": "zeros"}},
    {"name": "mean", "storage": "buffer", "shape": [8]}]"#;

const REPORT: &[u8] = br#"{"accuracy": 0.5, "count": 12, "error": -1e-3}"#;

fn say(sink: *const Sink, which: impl FnOnce(&Says) -> &Vec<u8>) -> Status {
    // SAFETY: the host passes a sink of its own and waits.
    SAYS.with_borrow(|says| unsafe { (*sink).write(which(says)) });
    Status::OK
}

unsafe extern "C" fn describe(document: *const Sink, _: *const Sink) -> Status {
    say(document, |says| &says.description)
}

unsafe extern "C" fn create(
    _: *mut Call,
    _: Bytes,
    instance: *mut *mut Instance,
    error: *const Sink,
) -> Status {
    let failure = SAYS.with_borrow(|says| says.error.clone());
    if let Some(failure) = failure {
        // SAFETY: the host passes a sink of its own and waits.
        unsafe { (*error).write(&failure) };
        return Status::ERROR;
    }
    // SAFETY: the host passes a place to write to; nobody follows the pointer.
    unsafe { instance.write(ptr::dangling_mut()) };
    Status::OK
}

unsafe extern "C" fn destroy(_: *mut Instance) {}

unsafe extern "C" fn declare(_: *mut Instance, document: *const Sink, _: *const Sink) -> Status {
    say(document, |says| &says.declaration)
}

unsafe extern "C" fn forward(
    _: *mut Instance,
    _: *mut Call,
    _: *const NamedTensor,
    _: usize,
    _: *const NamedSink,
    _: *const Sink,
) -> Status {
    Status::OK
}

unsafe extern "C" fn update(
    _: *mut Instance,
    _: *mut Call,
    _: *const NamedTensor,
    _: usize,
    _: *const NamedTensor,
    _: usize,
    _: *const Sink,
) -> Status {
    Status::OK
}

unsafe extern "C" fn save(_: *mut Instance, bytes: *const Sink, _: *const Sink) -> Status {
    say(bytes, |says| &says.saved)
}

unsafe extern "C" fn merge(_: *mut Instance, _: Bytes, _: *const Sink) -> Status {
    Status::OK
}

unsafe extern "C" fn report(_: *mut Instance, document: *const Sink, _: *const Sink) -> Status {
    say(document, |says| &says.report)
}

static HEAD: HeadTable = HeadTable {
    size: size_of::<HeadTable>(),
    create,
    destroy,
    declare,
    forward,
    predict: forward,
};

static METRIC: MetricTable = MetricTable {
    size: size_of::<MetricTable>(),
    create,
    destroy,
    update,
    save,
    merge,
    report,
};

unsafe extern "C" fn entry(_: *const HostTable, out: *mut PluginTable, _: *const Sink) -> Status {
    // SAFETY: the host passes a table to fill.
    unsafe {
        (*out).describe = Some(describe);
        (*out).head = &raw const HEAD;
        (*out).metric = &raw const METRIC;
    }
    Status::OK
}

/// The plugin that says this, and else what is in order.
fn plugin(says: Says) -> Plugin {
    SAYS.set(Says {
        description: DESCRIPTION.to_vec(),
        ..says
    });
    Plugin::linked("says", entry).unwrap()
}

fn environment() -> Environment {
    Environment {
        instructions: 1_000_000,
        ..Environment::default()
    }
}

fn logits() -> Named {
    let values: Vec<f32> = (0..6).map(|i| i as f32).collect();
    let tensor = Tensor::from_floats(&values, &[2, 3], &Device::cpu()).unwrap();
    Named::one("logits", tensor)
}

#[test]
fn what_is_in_order_is_read() {
    let plugin = plugin(Says {
        declaration: DECLARATION.to_vec(),
        report: REPORT.to_vec(),
        ..Says::default()
    });
    assert_eq!(plugin.name(), "says");
    let head = plugin.head(&json!({}), &environment()).unwrap();
    assert_eq!(head.values().len(), 2);
    let mut metric = plugin.metric(&json!({}), &environment()).unwrap();
    assert_eq!(metric.report().unwrap()["count"], 12.0);
}

proptest! {
    #[test]
    fn descriptors(damages in damage()) {
        let bytes = damaged(DESCRIPTION, &damages, usize::MAX);
        let _ = Manifest::parse(&String::from_utf8_lossy(&bytes), root());
        SAYS.set(Says { description: bytes, ..Says::default() });
        if let Ok(plugin) = Plugin::linked("says", entry) {
            let _ = plugin.validate_config(plugin.roles()[0], &json!({"a": -1}));
        }
    }

    #[test]
    fn declarations_of_values(damages in damage()) {
        let declaration = damaged(DECLARATION, &damages, usize::MAX);
        let plugin = plugin(Says { declaration, ..Says::default() });
        if let Ok(head) = plugin.head(&json!({}), &environment()) {
            for value in head.values() {
                prop_assert!(!value.name.is_empty() && (1..=6).contains(&value.shape.len()));
            }
        }
    }

    #[test]
    fn reports(damages in damage()) {
        let report = damaged(REPORT, &damages, usize::MAX);
        let plugin = plugin(Says { report, ..Says::default() });
        let _ = plugin.metric(&json!({}), &environment()).unwrap().report();
    }

    #[test]
    fn errors(written in prop::collection::vec(any::<u8>(), 0..100)) {
        let plugin = plugin(Says { error: Some(written.clone()), ..Says::default() });
        let error = plugin.head(&json!({}), &environment()).err().unwrap();
        prop_assert!(!error.code().is_empty() && !error.to_string().is_empty());
        let (code, message) = Sink::split_error(&written);
        prop_assert!(!code.contains(&0) && code.len() + message.len() <= written.len());
    }

    #[test]
    fn attributes(tag in prop_oneof![0u32..6, any::<u32>()], reserved: u32, bits in prop_oneof![0u64..3, any::<u64>()]) {
        // A list of zero numbers or at no address; one with an address is the plugin's word.
        let attribute = Attr { tag, reserved, bits, list: ptr::null() };
        // SAFETY: there is no list to read.
        match unsafe { attribute.decode() } {
            Some(Value::Ints(list)) => prop_assert!(list.is_empty() && bits == 0),
            Some(_) => prop_assert!(tag < Attr::TAG_INTS),
            None => prop_assert!(tag >= Attr::TAG_BOOL),
        }
    }

    #[test]
    fn saved_accumulators(damages in damage()) {
        let plugin = Plugin::linked("accuracy", dtta_plugin_accuracy::plugin_entry).unwrap();
        let own = plugin.metric(&json!({}), &environment()).unwrap();
        let core: Box<dyn Metric> = Box::new(Accuracy::new());
        for mut metric in [own, core] {
            let saved = metric.save();
            let before = metric.report().unwrap();
            match metric.merge(&damaged(&saved, &damages, usize::MAX)) {
                Ok(()) => prop_assert!(metric.report().is_ok()),
                Err(_) => prop_assert_eq!(metric.report().unwrap(), before),
            }
        }
    }

    #[test]
    fn components(damages in damage()) {
        let whole = std::fs::read(root().join("plugins/margin/dist/margin.wasm")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("damaged.wasm");
        std::fs::write(&file, damaged(&whole, &damages, usize::MAX)).unwrap();
        if let Ok(plugin) = Plugin::from_file(&file)
            && let Ok(mut objective) = plugin.objective(&json!({}), &environment())
        {
            let _ = objective.loss(&logits());
        }
    }

    /// The header of a library is read before the system gets it. Damage beyond it is not tried: it is code that would run.
    #[test]
    fn libraries_that_end_too_early(at in any::<Index>()) {
        let whole = std::fs::read(library("entropy")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(format!("damaged.{}", std::env::consts::DLL_EXTENSION));
        // Sections lie behind the segments that are mapped; half a file has lost some of the latter.
        std::fs::write(&file, &whole[..at.index(whole.len() / 2)]).unwrap();
        let refused = Plugin::from_file(&file).unwrap_err();
        prop_assert_eq!(refused.code(), "not-a-library");
    }
}

//! What a linked plugin may do wrong, and that the next call is unharmed.

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

use std::path::Path;
use std::ptr;

use dtta_plugin::{
    Environment, LoaderKind, Mapper, Plugin, PluginError, Registry, SlotSpec, Values,
};
use dtta_sdk::abi::{Entry, Header, HostTable, MapperTable, PluginTable, Sink, Status};
use dtta_tensor::{Device, Limits, Named, Tensor};
use serde_json::{Value, json};

/// A mapper that does what its config says.
mod fixture {
    use dtta_sdk::prelude::*;

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Config {
        does: String,
    }

    pub struct Fixture(String);

    impl Mapper for Fixture {
        type Config = Config;
        const CONSTANTS: &'static [&'static str] = &[];

        fn create(config: Config, _slots: &Slots) -> Result<Self> {
            match &*config.does {
                "refuse" => Err(Error::config("it will not do")),
                "panic at once" => panic!("no day for it"),
                _ => Ok(Self(config.does)),
            }
        }

        fn condition(&self, outputs: &Named, _session: &Session) -> Result<Named> {
            let logits = outputs.get("logits")?;
            let first = logits.shape()?[0];
            match &*self.0 {
                "panic on two rows" if first == 2 => panic!("two rows are too many"),
                "misshape" => logits
                    .matmul(&logits.reshape(&[1, -1, 1, 1])?)
                    .map(|x| Named::one("tokens", x)),
                "read" => logits.read_floats().map(|_| Named::new()),
                "flood" => loop {
                    std::mem::forget(logits.share()?);
                },
                _ => Ok(Named::one("class-embedding", logits.share()?)),
            }
        }
    }

    export_plugin! { mapper: Fixture }
}

/// A metric that counts samples, and panics where it is told to.
mod counter {
    use std::sync::atomic::{AtomicBool, Ordering};

    use dtta_sdk::prelude::*;

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Config {}

    pub struct Counter;

    /// Whether `merge` panics.
    pub static REFUSES: AtomicBool = AtomicBool::new(false);

    impl Metric for Counter {
        type Config = Config;
        type State = u32;

        fn create(_config: Config) -> Result<Self> {
            Ok(Self)
        }

        fn score(&self, predictions: &Named, _: &Named, _: &Session) -> Result<u32> {
            match predictions.get("logits")?.shape()?[0] {
                2 => panic!("two rows are too many"),
                rows => Ok(rows),
            }
        }

        fn merge(&self, state: &mut u32, other: u32) {
            assert!(!REFUSES.load(Ordering::Relaxed), "no sum today");
            *state += other;
        }

        fn report(&self, state: &u32) -> Scores {
            [("count".to_owned(), f64::from(*state))].into()
        }
    }

    export_plugin! { metric: Counter }
}

fn slots() -> [SlotSpec; 1] {
    [SlotSpec {
        name: "class-embedding".into(),
        meaning: "class-embedding".into(),
        shape: vec![None, Some(3)],
    }]
}

fn make(does: &str) -> Result<Box<dyn Mapper>, PluginError> {
    let environment = Environment {
        limits: Limits {
            handles: 50,
            ..Limits::default()
        },
        ..Environment::default()
    };
    Plugin::linked("fixture", fixture::plugin_entry)?.mapper(
        &json!({"does": does}),
        &slots(),
        &environment,
    )
}

fn logits(rows: usize) -> Named {
    Named::one(
        "logits",
        Tensor::full(&[rows, 3], 0.5, &Device::cpu()).unwrap(),
    )
}

#[test]
fn answers_as_its_source_says() {
    let mut registry = Registry::default();
    registry.register_linked("fixture", fixture::plugin_entry);
    let plugin = registry.find("linked:fixture", Path::new(".")).unwrap();
    assert_eq!(
        (plugin.loader(), plugin.roles().len()),
        (LoaderKind::Linked, 1)
    );
    assert_eq!(plugin.digest().len(), 64);
    assert_eq!(registry.list(Path::new("."))[0].reference, "linked:fixture");
    let answer = make("share")
        .unwrap()
        .condition(&logits(2), &mut Values::none())
        .unwrap();
    assert_eq!(
        answer.get("class-embedding").unwrap().to_floats().unwrap(),
        [0.5; 6]
    );
    let error = registry.find("linked:other", Path::new(".")).unwrap_err();
    assert!(error.to_string().contains("`linked:fixture`"), "{error}");
}

#[test]
fn outlives_a_panic() {
    let mut mapper = make("panic on two rows").unwrap();
    for _ in 0..2 {
        assert!(mapper.condition(&logits(1), &mut Values::none()).is_ok());
        let error = mapper
            .condition(&logits(2), &mut Values::none())
            .unwrap_err();
        let PluginError::Trap { place, message } = &error else {
            panic!("{error}")
        };
        assert_eq!(place.function, "condition");
        assert!(message.contains("two rows are too many"), "{message}");
    }
    assert!(mapper.condition(&logits(3), &mut Values::none()).is_ok());
    let error = make("panic at once").err().unwrap();
    assert!(matches!(error, PluginError::Trap { .. }), "{error}");
}

#[test]
fn a_metric_that_cannot_be_restored_is_not_taken_for_an_empty_one() {
    use std::sync::atomic::Ordering;
    let plugin = Plugin::linked("counter", counter::plugin_entry).unwrap();
    let mut metric = plugin.metric(&json!({}), &Environment::default()).unwrap();
    metric.update(&logits(3), &Named::new()).unwrap();
    let saved = metric.save();
    let error = metric.update(&logits(2), &Named::new()).unwrap_err();
    assert!(
        error.to_string().contains("two rows are too many"),
        "{error}"
    );

    counter::REFUSES.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        let error = metric.report().unwrap_err();
        assert!(error.to_string().contains("no sum today"), "{error}");
        assert!(metric.update(&logits(1), &Named::new()).is_err());
        assert_eq!(metric.save(), saved);
    }
    counter::REFUSES.store(false, Ordering::Relaxed);
    assert_eq!(metric.report().unwrap()["count"], 3.0);
    metric.update(&logits(1), &Named::new()).unwrap();
    assert_eq!(metric.report().unwrap()["count"], 4.0);
}

#[test]
fn passes_on_what_is_refused() {
    let error = make("refuse").err().unwrap();
    assert!(
        error
            .to_string()
            .contains("mapper.create: it will not do (invalid-config)"),
        "{error}"
    );
    for (does, code) in [
        ("misshape", "shape-mismatch"),
        ("read", "not-permitted"),
        ("flood", "budget-exceeded"),
    ] {
        let mut mapper = make(does).unwrap();
        for _ in 0..2 {
            let error = mapper
                .condition(&logits(2), &mut Values::none())
                .unwrap_err();
            assert_eq!(error.code(), code, "{error}");
        }
    }
    let error = make("share")
        .unwrap()
        .condition(&Named::new(), &mut Values::none())
        .unwrap_err();
    assert_eq!(error.code(), "unknown-name", "{error}");
}

#[test]
fn holds_the_config_to_the_schema() {
    let plugin = Plugin::linked("fixture", fixture::plugin_entry).unwrap();
    let error = plugin
        .mapper(
            &json!({"does": 3, "top": 1}),
            &slots(),
            &Environment::default(),
        )
        .err()
        .unwrap();
    let PluginError::Config { issues, .. } = &error else {
        panic!("{error}")
    };
    let pointers: Vec<&str> = issues.iter().map(|issue| issue.pointer.as_str()).collect();
    assert!(
        pointers.contains(&"/does") && pointers.contains(&"/top"),
        "{error}"
    );
    assert!(
        plugin
            .mapper(&Value::Null, &slots(), &Environment::default())
            .is_err()
    );
}

unsafe extern "C" fn unsupported(
    _: *const HostTable,
    _: *mut PluginTable,
    error: *const Sink,
) -> Status {
    // SAFETY: the host passes a sink of its own.
    unsafe { (*error).write_error("interface-version", "made for 0.2") };
    Status::UNSUPPORTED
}

unsafe extern "C" fn of_tomorrow(
    _: *const HostTable,
    out: *mut PluginTable,
    _: *const Sink,
) -> Status {
    let header = Header {
        abi_minor: 2,
        ..Header::of::<PluginTable>()
    };
    // SAFETY: the host passes a table to fill.
    unsafe { (*out).header = header };
    Status::OK
}

unsafe extern "C" fn mute(_: *const HostTable, _: *mut PluginTable, _: *const Sink) -> Status {
    Status::OK
}

unsafe extern "C" fn babble(document: *const Sink, _: *const Sink) -> Status {
    // SAFETY: the host passes a sink of its own.
    unsafe { (*document).write(b"who, me?") };
    Status::OK
}

unsafe extern "C" fn babbling(
    _: *const HostTable,
    out: *mut PluginTable,
    _: *const Sink,
) -> Status {
    // SAFETY: the host passes a table to fill.
    unsafe { (*out).describe = Some(babble) };
    Status::OK
}

unsafe extern "C" fn claim(document: *const Sink, _: *const Sink) -> Status {
    let text = br#"{"name": "short", "version": "1", "interface": "0.1", "roles": ["mapper"]}"#;
    // SAFETY: the host passes a sink of its own.
    unsafe { (*document).write(text) };
    Status::OK
}

unsafe extern "C" fn claiming(
    _: *const HostTable,
    out: *mut PluginTable,
    _: *const Sink,
) -> Status {
    // SAFETY: the host passes a table to fill.
    unsafe { (*out).describe = Some(claim) };
    Status::OK
}

/// The fixture with a mapper table that ends too early.
unsafe extern "C" fn short(
    host: *const HostTable,
    out: *mut PluginTable,
    error: *const Sink,
) -> Status {
    // SAFETY: what the host passed.
    unsafe {
        fixture::plugin_entry(host, out, error);
        (*out).mapper = Box::leak(Box::new(MapperTable {
            size: 8,
            ..*(*out).mapper
        }));
        (*out).head = ptr::null();
    }
    Status::OK
}

#[test]
fn refuses_tables_that_it_cannot_use() {
    let entries: [(Entry, &str, &str); 5] = [
        (unsupported, "interface", "made for 0.2"),
        (of_tomorrow, "interface", "0.2"),
        (mute, "manifest", "`describe`"),
        (babbling, "manifest", "linked:plugin"),
        (claiming, "missing-role", "`mapper`"),
    ];
    for (entry, code, word) in entries {
        let error = Plugin::linked("plugin", entry).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
    let plugin = Plugin::linked("plugin", short).unwrap();
    let error = plugin
        .mapper(&json!({"does": "share"}), &slots(), &Environment::default())
        .err()
        .unwrap();
    assert_eq!(error.code(), "interface", "{error}");
    assert!(error.to_string().contains("`mapper` table of"), "{error}");
}

//! What a WebAssembly plugin may not do, and that the next sample is unharmed.

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

mod support;

use std::time::{Duration, Instant};

use dtta_plugin::{Compiling, Environment, Loading, Plugin, PluginError, Values};
use dtta_tensor::{Device, Limits, Named};
use serde_json::json;
use support::{ask, component, inputs, mapper, mapper_wat, slot, wit};

/// What the fixture filled its slot with.
fn answer(slots: &Named) -> Vec<f32> {
    slots.get("class-embedding").unwrap().to_floats().unwrap()
}

/// Runs one call that must fail, and one after it that must not.
fn fails(ask: usize) -> PluginError {
    let mut mapper = mapper(&Environment::default());
    let before = mapper
        .condition(&inputs(ask::ECHO), &mut Values::none())
        .unwrap();
    let error = mapper
        .condition(&inputs(ask), &mut Values::none())
        .unwrap_err();
    let after = mapper
        .condition(&inputs(ask::ECHO), &mut Values::none())
        .unwrap();
    assert_eq!(answer(&before), answer(&after));
    error
}

/// Loads bytes that must be refused.
fn refused(bytes: &[u8]) -> PluginError {
    let folder = tempfile::tempdir().unwrap();
    Plugin::from_file(&support::write(folder.path(), "refused.wasm", bytes)).unwrap_err()
}

#[test]
fn describes_itself_and_answers() {
    let plugin = support::plugin();
    assert_eq!(
        (plugin.name(), plugin.version(), plugin.interface()),
        ("fixture", "1.0.0", "0.1")
    );
    assert_eq!(
        plugin.operations(),
        ["neg", "read_floats", "share"].map(String::from)
    );
    assert_eq!(plugin.digest().len(), 64);
    let mut mapper = mapper(&Environment::default());
    let slots = mapper
        .condition(&inputs(ask::NEGATE_1000), &mut Values::none())
        .unwrap();
    assert_eq!(slots.len(), 1);
    assert_eq!(answer(&slots), [0.0]);
}

#[test]
fn outlives_a_trap_and_passes_the_last_words_on() {
    let error = fails(ask::TRAP);
    let PluginError::Trap { place, message } = &error else {
        panic!("{error}")
    };
    assert_eq!(
        (place.plugin.as_str(), place.role.name(), place.function),
        ("fixture", "mapper", "condition")
    );
    assert!(
        message.contains("out of cheese") && message.contains("unreachable"),
        "{message}"
    );
}

#[test]
fn stops_a_loop_without_end() {
    let error = fails(ask::SPIN);
    assert!(
        matches!(
            error,
            PluginError::Budget {
                resource: "instructions",
                limit: 50_000_000,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn stops_growing_memory() {
    let error = fails(ask::GROW);
    assert!(
        matches!(
            error,
            PluginError::Budget {
                resource: "memory_bytes",
                limit: 67_108_864,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn stops_a_call_that_calls_itself_without_end() {
    let error = fails(ask::RECURSE);
    assert_eq!(error.code(), "trap", "{error}");
    assert!(error.to_string().contains("stack"), "{error}");
}

#[test]
fn refuses_a_list_that_its_memory_cannot_hold() {
    let error = fails(ask::HUGE_LIST);
    assert_eq!(error.code(), "trap", "{error}");
}

#[test]
fn refuses_a_name_that_is_not_utf_8() {
    let error = fails(ask::GARBLE);
    assert_eq!(error.code(), "trap", "{error}");
    assert!(error.to_string().contains("utf-8"), "{error}");
}

#[test]
fn refuses_a_config_schema_that_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = support::mapper_component();
    support::write(folder.path(), "fixture.wasm", &bytes);
    let manifest = json!({
        "name": "fixture", "version": "1.0.0", "interface": "0.1", "roles": ["mapper"],
        "artifact": "fixture.wasm", "sha256": dtta_base::sha256(&bytes),
        "config_schema": {"mapper": {"type": "thing"}},
    });
    let path = support::write(
        folder.path(),
        "plugin.json",
        manifest.to_string().as_bytes(),
    );
    let error = Plugin::from_manifest(&path).unwrap_err();
    assert_eq!(error.code(), "manifest");
    assert!(
        error.to_string().contains("`mapper` is not a JSON Schema"),
        "{error}"
    );
}

#[test]
fn refuses_to_read_on_the_way_forward() {
    let error = fails(ask::READ);
    assert_eq!(error.code(), "not-permitted");
    assert!(
        error
            .to_string()
            .contains("plugin `fixture`, mapper.condition"),
        "{error}"
    );
}

#[test]
fn stops_a_flood_of_handles() {
    let error = fails(ask::FLOOD);
    assert_eq!(error.code(), "budget-exceeded");
    assert!(
        error.to_string().contains("`plugins.limits.handles`"),
        "{error}"
    );
}

/// Compiles the fixture, so that the time of what follows is that of its calls.
fn warm() {
    mapper(&Environment::default());
}

#[test]
fn whatever_is_repeated_without_end_is_stopped_in_time() {
    warm();
    for (ask, limit) in [
        (ask::SPIN, "instructions"),
        (ask::FILL, "instructions"),
        (ask::FLOOD, "handles"),
        (ask::LOG, "operations"),
        (ask::LOG_LONG, "bytes"),
        (ask::ASK, "handles"),
    ] {
        let start = Instant::now();
        let error = fails(ask);
        let took = start.elapsed();
        assert_eq!(error.code(), "budget-exceeded", "{error}");
        let setting = format!("`plugins.limits.{limit}`");
        assert!(error.to_string().contains(&setting), "{error}");
        assert!(took < Duration::from_secs(2), "{limit}: {took:?}");
    }
}

#[test]
fn a_plugin_that_takes_no_notice_of_a_spent_budget_is_ended() {
    let environment = Environment {
        limits: Limits {
            operations: 10,
            ..Limits::default()
        },
        instructions: 1_000_000,
        ..Environment::default()
    };
    let error = mapper(&environment)
        .condition(&inputs(ask::ASK), &mut Values::none())
        .unwrap_err();
    assert!(
        error.to_string().contains("`plugins.limits.operations`"),
        "{error}"
    );
}

#[test]
fn handles_that_calls_leave_do_not_add_up_to_a_crash() {
    let mut mapper = mapper(&Environment::default());
    for call in 0..25 {
        let answered = mapper.condition(&inputs(ask::LEAVE_9900), &mut Values::none());
        let answered = answered.unwrap_or_else(|error| panic!("call {call}: {error}"));
        assert_eq!(answer(&answered), [0.0]);
        assert_eq!(mapper.usage().unreleased, 9_900 + 15, "call {call}");
    }
}

#[test]
fn a_component_that_takes_a_compiler_minutes_is_refused_at_once() {
    let with = |function: &str| {
        let wat = mapper_wat().replacen("(memory ", &format!("{function}\n(memory "), 1);
        component(&wat, &wit(), "mapper-plugin", None)
    };
    let nested = "(loop (br_if 0 (local.get 0)) ".repeat(4000) + &")".repeat(4000);
    let locals = "i32 ".repeat(4000);
    let deep = format!("(func (param i32) (local {locals}) {nested})");
    let many =
        "(func (param i32) (result i32) (i32.add (local.get 0) (i32.const 7))) ".repeat(20_000);
    for (function, reason) in [
        (deep, "`plugins.limits.component_complexity`"),
        (many, "`plugins.limits.component_functions`"),
    ] {
        let bytes = with(&function);
        let start = Instant::now();
        let error = refused(&bytes);
        let took = start.elapsed();
        assert_eq!(error.code(), "compiling", "{error}");
        assert!(error.to_string().contains(reason), "{error}");
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}

/// As much of what takes a compiler long as the limits let through. Of 40 shapes of functions at the limit each took 1.7 s of work or less, on
/// two cores 1.2 s, and 275 MiB; the test leaves room for a machine that has other work.
#[test]
fn the_worst_that_may_be_compiled_is_compiled_in_seconds() {
    let change = |n: usize| format!("(local.set {n} (i32.add (local.get {n}) (i32.const 1))) ");
    let locals = |count: usize| format!("(param i32) (local {})", "i32 ".repeat(count));
    let all: String = (1..=500).map(change).collect();
    let loops = format!(
        "(func {} {} {all} {})",
        locals(500),
        "(loop ".repeat(16),
        "(br_if 0 (local.get 0))) ".repeat(16)
    );
    let targets: String = (0..500).map(|target| format!("{target} ")).collect();
    let cases: String = (0..500)
        .map(|case| format!(") {}", change(1 + case % 5)))
        .collect();
    let table = format!(
        "(func {} {} (br_table {targets} (local.get 0)) {cases})",
        locals(5),
        "(block ".repeat(500)
    );
    let floats = format!(
        "(func (param i32) (f64.convert_i32_s (local.get 0)) {} drop)",
        "f64.sqrt ".repeat(17_000)
    );
    let calls = format!(
        "(func (param i32) {})",
        "(memory.copy (local.get 0) (local.get 0) (local.get 0)) ".repeat(1500)
    );
    for (function, times) in [(loops, 20), (table, 33), (floats, 16), (calls, 16)] {
        let made = |times: usize| {
            let functions = format!("{} (global $heap", function.repeat(times));
            let wat = mapper_wat().replacen("(global $heap", &functions, 1);
            component(&wat, &wit(), "mapper-plugin", None)
        };
        let folder = tempfile::tempdir().unwrap();
        let path = support::write(folder.path(), "worst.wasm", &made(times));
        let start = Instant::now();
        Plugin::from_file(&path).unwrap();
        let took = start.elapsed();
        assert!(took < Duration::from_secs(15), "{took:?}");
        let error = refused(&made(times * 5 / 4));
        assert!(
            error
                .to_string()
                .contains("`plugins.limits.component_complexity`"),
            "{error}"
        );
    }
}

#[test]
fn a_call_that_makes_do_without_what_a_budget_refused_has_failed() {
    let environment = |handles| Environment {
        limits: Limits {
            handles,
            ..Limits::default()
        },
        ..Environment::default()
    };
    let leave = |handles| {
        let mut mapper = mapper(&environment(handles));
        mapper.condition(&inputs(ask::LEAVE_9900), &mut Values::none())
    };
    leave(9_900 + 16).unwrap();
    let error = leave(9_900 + 10).unwrap_err();
    assert_eq!(error.code(), "budget-exceeded");
    assert!(
        error.to_string().contains("`plugins.limits.handles`"),
        "{error}"
    );
}

#[test]
fn the_largest_component_is_compiled_or_left_alone_in_time() {
    let body =
        "(local.set 1 (i32.add (i32.mul (local.get 0) (local.get 1)) (i32.load (local.get 1)))) "
            .repeat(16)
            + "(if (local.get 0) (then (i32.store (local.get 0) (local.get 1))) (else (drop (call $neg_again (local.get 1)))))";
    let function = format!("(func (param i32) (result i32) (local i32) {body} (local.get 1))");
    let first = "(func $neg_again (param i32) (result i32) (local.get 0))";
    let wat = mapper_wat().replacen(
        "(global $heap",
        &format!("{first} {} (global $heap", function.repeat(4_000)),
        1,
    );
    let bytes = component(&wat, &wit(), "mapper-plugin", None);
    let folder = tempfile::tempdir().unwrap();
    let path = support::write(folder.path(), "large.wasm", &bytes);
    let load = |seconds| {
        let loading = Loading {
            compiling: Compiling {
                compile_seconds: seconds,
                ..Compiling::default()
            },
            ..Loading::default()
        };
        let start = Instant::now();
        (Plugin::open(&path, &loading).map(drop), start.elapsed())
    };
    let (outcome, took) = load(0);
    let error = outcome.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`plugins.limits.compile_seconds`"),
        "{error}"
    );
    assert!(took < Duration::from_secs(2), "{took:?}");
    let (outcome, took) = load(60);
    outcome.unwrap_or_else(|error| panic!("{error} after {took:?}"));
}

#[test]
fn refuses_a_handle_from_an_earlier_call() {
    let mut mapper = mapper(&Environment::default());
    let second = mapper
        .condition(&inputs(ask::KEEP), &mut Values::none())
        .unwrap();
    assert_eq!(answer(&second), [1.0]);
    let error = mapper
        .condition(&inputs(ask::USE_KEPT), &mut Values::none())
        .unwrap_err();
    assert_eq!(error.code(), "stale-handle");
    mapper
        .condition(&inputs(ask::ECHO), &mut Values::none())
        .unwrap();
}

#[test]
fn passes_on_what_create_refuses() {
    let slots = [slot("class-embedding")];
    let created = support::plugin().mapper(&json!({"top_k": 3}), &slots, &Environment::default());
    let error = created.err().unwrap();
    assert_eq!(
        error.to_string(),
        "plugin `fixture`, mapper.create: only the empty config will do (invalid-config)"
    );
    assert!(!error.is_at_run_time());
}

#[test]
fn refuses_an_answer_for_a_slot_that_is_not_there() {
    let slots = [slot("tokens")];
    let mut mapper = support::plugin()
        .mapper(&json!({}), &slots, &Environment::default())
        .unwrap();
    let error = mapper
        .condition(&inputs(ask::ECHO), &mut Values::none())
        .unwrap_err();
    assert_eq!(error.code(), "output");
    assert!(
        error
            .to_string()
            .contains("`class-embedding`, which is not a slot; the denoiser has `tokens`"),
        "{error}"
    );
}

#[test]
fn has_no_role_that_it_does_not_export() {
    let error = support::plugin()
        .head(&json!({}), &Environment::new(Device::cpu()))
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "plugin `fixture` has no role `head`; it offers mapper"
    );
}

#[test]
fn refuses_another_interface_version() {
    let newer = |text: String| text.replace("0.1.0", "0.9.0");
    let error = refused(&component(
        &newer(mapper_wat()),
        &newer(wit()),
        "mapper-plugin",
        None,
    ));
    assert_eq!(
        error.to_string(),
        "plugin `refused` needs interface 0.9.0; this host offers interface 0.1.0: upgrade the host or rebuild the plugin"
    );
}

#[test]
fn names_the_operation_that_a_newer_plugin_needs() {
    let newer = |text: String| text.replace("0.1.0", "0.1.3");
    let wit = newer(wit()).replacen(
        "neg: func()",
        "fft: func() -> result<tensor, error>;\n neg: func()",
        1,
    );
    let wat = newer(mapper_wat()).replace("[method]tensor.neg", "[method]tensor.fft");
    let error = refused(&component(&wat, &wit, "mapper-plugin", None));
    assert_eq!(
        error.to_string(),
        "plugin `refused` needs interface 0.1.3, op `fft`; this host offers interface 0.1.0: upgrade the host or rebuild the plugin"
    );
}

#[test]
fn runs_a_newer_plugin_of_the_same_track_that_needs_nothing_new() {
    let newer = |text: String| text.replace("0.1.0", "0.1.3");
    let folder = tempfile::tempdir().unwrap();
    let bytes = component(&newer(mapper_wat()), &newer(wit()), "mapper-plugin", None);
    let plugin = Plugin::from_file(&support::write(folder.path(), "newer.wasm", &bytes)).unwrap();
    let slots = [slot("class-embedding")];
    let mut mapper = plugin
        .mapper(&json!({}), &slots, &Environment::default())
        .unwrap();
    mapper
        .condition(&inputs(ask::ECHO), &mut Values::none())
        .unwrap();
}

#[test]
fn refuses_an_operation_whose_type_changed() {
    let wit = wit().replacen(
        "neg: func() -> result<tensor, error>;",
        "neg: func() -> result<tensor, shape>;",
        1,
    );
    let error = refused(&component(&mapper_wat(), &wit, "mapper-plugin", None));
    assert_eq!(error.code(), "interface");
}

#[test]
fn refuses_wasi() {
    let wasi = "package wasi:cli@0.2.0; interface environment { arguments: func() -> u32; }";
    let wit = wit().replacen(
        "export mapper;",
        "export mapper; import wasi:cli/environment@0.2.0;",
        1,
    );
    let wat = mapper_wat().replacen(
        "(memory ",
        "(import \"wasi:cli/environment@0.2.0\" \"arguments\" (func (result i32)))\n(memory ",
        1,
    );
    let error = refused(&component(&wat, &wit, "mapper-plugin", Some(wasi)));
    assert_eq!(error.code(), "forbidden-import");
    assert!(
        error
            .to_string()
            .contains("imports `wasi:cli/environment@0.2.0`"),
        "{error}"
    );
}

#[test]
fn refuses_a_component_without_a_role() {
    let wit = wit() + "world mute { include host; export descriptor; }";
    let start = mapper_wat()
        .find("(func (export \"dtta:plugin/mapper")
        .unwrap();
    let mute = mapper_wat()[..start].replace("(import \"[export]dtta:plugin/mapper@0.1.0\" \"[resource-new]mapper\" (func $new (param i32) (result i32)))", "") + ")";
    let error = refused(&component(&mute, &wit, "mute", None));
    assert_eq!(
        error.to_string(),
        "plugin `fixture` has no role `mapper`; it offers none"
    );
}

#[test]
fn refuses_files_that_are_no_component() {
    let whole = support::mapper_component();
    for (bytes, reason) in [
        (&whole[..whole.len() / 2], "truncated or damaged"),
        (&whole[..8], "`export_plugin! { … }`"),
        (&whole[..6], "does not start as WebAssembly"),
        (&[0x55; 4096], "does not start as WebAssembly"),
        (&wat::parse_str("(module)").unwrap(), "core module"),
    ] {
        let error = refused(bytes);
        assert!(error.to_string().contains(reason), "{error}");
        assert!(error.to_string().contains("refused.wasm"), "{error}");
    }
    let mut damaged = whole;
    let middle = damaged.len() / 2;
    damaged[middle..middle + 64].fill(0xff);
    assert_eq!(refused(&damaged).code(), "not-a-component");
}

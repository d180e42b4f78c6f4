//! What a WebAssembly plugin may not do, and that the next sample is unharmed.

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

mod support;

use dtta_plugin::{Environment, Plugin, PluginError, Values};
use dtta_tensor::{Device, Named};
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
    Plugin::from_component_file(&support::write(folder.path(), "refused.wasm", bytes)).unwrap_err()
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
                resource: "memory in bytes",
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
        error.to_string().contains("`mapper` is no JSON Schema"),
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
    assert_eq!(fails(ask::FLOOD).code(), "budget-exceeded");
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
            .contains("`class-embedding`, which is no slot; the denoiser has `tokens`"),
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
    let plugin =
        Plugin::from_component_file(&support::write(folder.path(), "newer.wasm", &bytes)).unwrap();
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
        (&whole[..8], "neither"),
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

//! Components made of a hand-written core module and the interface in `wit/`, for what no
//! well-behaved toolchain would build.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::path::{Path, PathBuf};

use dtta_plugin::{Environment, Mapper, Plugin, SlotSpec};
use dtta_tensor::{Device, Named, Tensor};
use serde_json::json;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// What the number of tensors passed to the fixture's `condition` makes it do.
pub mod ask {
    /// Answer with the input.
    pub const ECHO: usize = 1;
    /// Log `out of cheese` as an error and trap.
    pub const TRAP: usize = 2;
    /// Never return.
    pub const SPIN: usize = 3;
    /// Ask for 128 MB of memory.
    pub const GROW: usize = 4;
    /// Keep the handle of the first tensor; answer with the second.
    pub const KEEP: usize = 5;
    /// Use the handle that was kept.
    pub const USE_KEPT: usize = 6;
    /// Read the values of the first tensor.
    pub const READ: usize = 7;
    /// Share and drop the first tensor 1000 times.
    pub const SHARE_1000: usize = 8;
    /// Negate the first tensor and drop the result 1000 times.
    pub const NEGATE_1000: usize = 9;
    /// Share the first tensor without end and never drop.
    pub const FLOOD: usize = 10;
    /// Call itself without end.
    pub const RECURSE: usize = 11;
    /// Answer with a list of 2^31 - 1 tensors.
    pub const HUGE_LIST: usize = 12;
    /// Answer with a name that is not UTF-8.
    pub const GARBLE: usize = 13;
    /// Log a short line without end.
    pub const LOG: usize = 14;
    /// Log a line of 60 KiB without end.
    pub const LOG_LONG: usize = 15;
    /// Share the first tensor 9,900 times, drop none, and answer with the input.
    pub const LEAVE_9900: usize = 16;
    /// Negate the first tensor without end, whatever the host answers.
    pub const ASK: usize = 17;
    /// Fill memory without end.
    pub const FILL: usize = 18;
}

/// The text of `wit/` as one document.
pub fn wit() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    let types = std::fs::read_to_string(folder.join("types.wit")).unwrap();
    let roles = std::fs::read_to_string(folder.join("roles.wit")).unwrap();
    types + &roles.replace("package dtta:plugin@0.1.0;", "")
}

/// A core module as a component of a world of `wit`; `beside` is another package that it uses.
pub fn component(wat: &str, wit: &str, world: &str, beside: Option<&str>) -> Vec<u8> {
    let mut resolve = Resolve::default();
    if let Some(beside) = beside {
        resolve.push_str("beside.wit", beside).unwrap();
    }
    let package = resolve.push_str("plugin.wit", wit).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let mut module = wat::parse_str(wat).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default()
        .module(&module)
        .unwrap()
        .encode()
        .unwrap()
}

/// The fixture: a mapper that does what [`ask`] says.
pub fn mapper_wat() -> String {
    let description =
        r#"{"name": "fixture", "version": "1.0.0", "interface": "0.1", "roles": ["mapper"]}"#;
    include_str!("mapper.wat")
        .replace("DESCRIPTION_LENGTH", &description.len().to_string())
        .replace("DESCRIPTION", &description.replace('"', "\\\""))
}

/// The fixture as a component.
pub fn mapper_component() -> Vec<u8> {
    component(&mapper_wat(), &wit(), "mapper-plugin", None)
}

/// Writes a component to a folder.
pub fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The fixture, loaded.
pub fn plugin() -> Plugin {
    let folder = tempfile::tempdir().unwrap();
    Plugin::from_file(&write(folder.path(), "fixture.wasm", &mapper_component())).unwrap()
}

/// The fixture's mapper.
pub fn mapper(environment: &Environment) -> Box<dyn Mapper> {
    plugin()
        .mapper(&json!({}), &[slot("class-embedding")], environment)
        .unwrap()
}

/// A slot that takes what the fixture answers with.
pub fn slot(name: &str) -> SlotSpec {
    SlotSpec {
        name: name.into(),
        meaning: "class-embedding".into(),
        shape: vec![None],
    }
}

/// So many inputs as make the fixture do what is asked.
pub fn inputs(ask: usize) -> Named {
    let tensor = |value: usize| Tensor::full(&[1], value as f64, &Device::cpu()).unwrap();
    (0..ask)
        .map(|position| ("class-embedding".to_owned(), tensor(position)))
        .collect()
}

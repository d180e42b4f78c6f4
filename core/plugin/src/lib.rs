//! Plugins, as the engine sees them: a trait for each role, and loaders that the engine never
//! names. A plugin gets tensors by handle and asks the host for every operation, so gradients
//! flow through it and it needs no rights.
//!
//! - [`Registry`] finds a plugin by reference; [`Plugin`] is one, loaded, with its digest.
//! - [`Plugin::head`] and [`Plugin::mapper`] make configured roles, behind [`Head`] and
//!   [`Mapper`]. [`Accuracy`] is a [`Metric`] that comes with the core.
//! - [`Plugin::predicts`] and [`Plugin::scores`] say what the task is, as data: the host needs to know no task by name.
//! - WebAssembly components run in a sandbox with budgets, for what they do themselves and for what they ask
//!   of the host; plugins that are linked into the
//!   program speak the C tables of `dtta-abi`. Both ask the same tensor session, so the same
//!   plugin gives the same bits either way.
//! - Whatever a plugin does wrong is a [`PluginError`] that names plugin, role and function; the
//!   next call is unharmed.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use dtta_plugin::{Environment, PluginError, Registry, SlotSpec, Values};
//! use dtta_tensor::{Device, Named, Tensor};
//! use serde_json::json;
//!
//! fn condition(logits: Tensor, embeddings: Tensor) -> Result<Named, PluginError> {
//!     let folder_of_the_experiment = Path::new("examples/fashion");
//!     let plugin = Registry::from_environment().find("../../plugins/classification", folder_of_the_experiment)?;
//!     let slots = [SlotSpec {
//!         name: "class-embedding".into(),
//!         meaning: "class-embedding".into(),
//!         shape: vec![None, Some(1152)],
//!     }];
//!     let environment = Environment::new(Device::cpu()).with_constant("class-embeddings", embeddings);
//!     let mut mapper = plugin.mapper(&json!({"top_k": 3}), &slots, &environment)?;
//!     mapper.condition(&Named::one("logits", logits), &mut Values::none())
//! }
//! ```

mod accuracy;
mod artifact;
mod checked;
mod counts;
mod environment;
mod error;
mod logs;
mod manifest;
mod native;
mod own;
mod plugin;
mod registry;
mod roles;
mod saved;
mod task;
mod under_way;
mod values;
mod wasm;

pub use accuracy::Accuracy;
pub use checked::SlotSpec;
pub use counts::Layout;
pub use environment::{
    Compiling, DEFAULT_INSTRUCTIONS, DEFAULT_MEMORY_BYTES, Environment, Loading,
};
pub use error::{Place, PluginError, Result};
pub use manifest::{INTERFACE_VERSION, MANIFEST_SCHEMA_VERSION, Manifest, Needs, Role};
pub use plugin::{LoaderKind, Plugin};
pub use registry::{Listing, PLUGIN_PATH, Registry};
pub use roles::{Head, Mapper, Metric, Objective};
pub use task::{ColourScale, Picture, PixelError, Predicts, ScoreSpec};
pub use under_way::under_way;
pub use values::{ValueSpec, Values};
pub use wasm::interrupt;

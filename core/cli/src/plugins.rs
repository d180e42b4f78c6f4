//! `dtta plugins`: making plugins, holding them to their contract, and what they say of themselves.

mod alone;
mod build;
mod c;
mod check;
mod new;
mod setting;
mod source;
mod toolchain;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use dtta_plugin::{Listing, Registry};
use serde_json::{Value, json};

use crate::{Failure, print_json};

/// Which question.
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Writes a crate for a new plugin.
    New(new::Arguments),
    /// Builds a plugin, a crate or C: a WebAssembly component and a shared library.
    Build(build::Arguments),
    /// Checks that a plugin keeps the plugin contract. A shared library runs in a separate process.
    Check(check::Arguments),
    /// Prints the plugins that experiments can name, as JSON. Reads manifests, runs nothing.
    List {
        /// Also searches `plugins/` in this folder, such as an experiment's folder.
        #[arg(default_value = ".")]
        folder: PathBuf,
    },
    /// Prints one plugin's roles, operations, configuration schemas and digest, as JSON. A shared library is opened for it, in a separate process.
    Inspect {
        /// A folder, a manifest, a component, a name, or `linked:NAME`.
        plugin: String,
        /// Stay in this process.
        #[arg(long, hide = true)]
        here: bool,
    },
}

/// The plugins that this binary has linked in, and the folders where others are looked for.
pub fn registry() -> Registry {
    let mut registry = Registry::from_environment();
    registry.register_linked("accuracy", dtta_plugin_accuracy::plugin_entry);
    registry.register_linked("classification", dtta_plugin_classification::plugin_entry);
    registry.register_linked("depth", dtta_plugin_depth::plugin_entry);
    registry.register_linked("entropy", dtta_plugin_entropy::plugin_entry);
    registry.register_linked("linear", dtta_plugin_linear::plugin_entry);
    registry.register_linked("palette-mix", dtta_plugin_palette_mix::plugin_entry);
    registry.register_linked("segmentation", dtta_plugin_segmentation::plugin_entry);
    registry.register_linked("text-mix", dtta_plugin_text_mix::plugin_entry);
    registry.register_linked("zero-shot", dtta_plugin_zero_shot::plugin_entry);
    registry
}

/// Answers the question.
pub fn plugins(arguments: &Arguments) -> Result<(), Failure> {
    let registry = registry();
    match &arguments.verb {
        Verb::New(arguments) => new::new(arguments).map_err(Failure::Misuse),
        Verb::Build(arguments) => build::build(arguments).map_err(Failure::failed),
        Verb::Check(arguments) => check::check(arguments),
        Verb::List { folder } => {
            let listed: Vec<_> = registry.list(folder).iter().map(listing).collect();
            print_json(&listed)
        }
        Verb::Inspect { plugin, here } => {
            alone::in_a_process_of_its_own(plugin, *here, || inspect(&registry, plugin))
        }
    }
}

fn inspect(registry: &Registry, plugin: &str) -> Result<(), Failure> {
    let plugin = registry
        .find(plugin, Path::new("."))
        .map_err(Failure::misuse)?;
    print_json(&json!({
        "origin": plugin.origin(),
        "loader": plugin.loader().to_string(),
        "digest": plugin.digest(),
        "operations": plugin.operations(),
        "descriptor": plugin.descriptor(),
    }))
}

fn listing(listing: &Listing) -> Value {
    let trust = match listing.loader {
        dtta_plugin::LoaderKind::Wasm => "sandboxed",
        _ => "trusted: it has the rights of this program",
    };
    let mut line = json!({"reference": listing.reference, "loader": listing.loader.to_string(), "trust": trust});
    match &listing.manifest {
        Ok(manifest) => {
            line["name"] = json!(manifest.name);
            line["version"] = json!(manifest.version);
            line["interface"] = json!(manifest.interface);
            line["roles"] = json!(manifest.roles);
        }
        Err(error) => line["error"] = json!(dtta_base::told(error)),
    }
    line
}

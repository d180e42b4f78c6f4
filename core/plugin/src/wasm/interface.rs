//! What a component asks for and offers, read from its type before anything of it runs. A
//! component that asks for more than this host lends is refused in words that a user can act
//! on, not by the linker.

use std::collections::BTreeSet;

use dtta_tensor::OPS;
use wasmtime::Engine;
use wasmtime::component::types::{Component, ComponentItem};

use crate::error::{PluginError, Result};
use crate::manifest::{INTERFACE_VERSION, Interface, Role};

const PACKAGE: &str = "dtta:plugin/";

/// What a component asks for and offers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Interfaces {
    /// The roles whose interface it exports.
    pub(super) roles: Vec<Role>,
    /// Whether it can describe itself.
    pub(super) describes: bool,
    /// The tensor operations that it imports, in snake case.
    pub(super) ops: Vec<String>,
}

/// Reads the type of a component.
///
/// # Errors
/// [`PluginError::ForbiddenImport`] for anything outside `dtta:plugin`,
/// [`PluginError::Interface`] for another version, or a function that this host lacks.
pub(super) fn inspect(plugin: &str, component: &Component, engine: &Engine) -> Result<Interfaces> {
    let mut found = Interfaces::default();
    let mut missing = BTreeSet::new();
    let mut newest = None;
    for (import, item) in component.imports(engine) {
        let Some((interface, version)) = split(import) else {
            return Err(PluginError::ForbiddenImport {
                plugin: plugin.into(),
                import: import.into(),
            });
        };
        newest = newest.max(Some(version));
        if !version.is_served() {
            return Err(other_version(plugin, &version.to_string()));
        }
        let ComponentItem::ComponentInstance(instance) = item.ty else {
            return Err(PluginError::ForbiddenImport {
                plugin: plugin.into(),
                import: import.into(),
            });
        };
        for (name, item) in instance.exports(engine) {
            if !matches!(item.ty, ComponentItem::ComponentFunc(_)) {
                continue; // types; the linker compares them
            }
            let function = name.rsplit(']').next().unwrap_or(name);
            match function.strip_prefix("tensor.") {
                Some(op) if offers(interface, function) => found.ops.push(op.replace('-', "_")),
                _ if offers(interface, function) => {}
                Some(op) => drop(missing.insert(format!("op `{op}`"))),
                None => drop(missing.insert(format!("`{interface}.{function}`"))),
            }
        }
    }
    found.ops.sort_unstable();
    for (export, _) in component.exports(engine) {
        let Some((interface, version)) = split(export) else {
            continue;
        };
        if !version.is_served() {
            return Err(other_version(plugin, &version.to_string()));
        }
        found.describes |= interface == "descriptor";
        found
            .roles
            .extend(Role::ALL.iter().find(|role| role.name() == interface));
    }
    if !missing.is_empty() {
        let version =
            newest.map_or_else(|| INTERFACE_VERSION.into(), |version| version.to_string());
        let names: Vec<String> = missing.into_iter().collect();
        return Err(other_version(
            plugin,
            &format!("{version}, {}", names.join(", ")),
        ));
    }
    Ok(found)
}

fn other_version(plugin: &str, needs: &str) -> PluginError {
    PluginError::Interface {
        plugin: plugin.into(),
        needs: format!("interface {needs}"),
        offered: INTERFACE_VERSION,
    }
}

/// `dtta:plugin/tensor@0.1.0` as interface and version.
fn split(name: &str) -> Option<(&str, Interface)> {
    let (interface, version) = name.strip_prefix(PACKAGE)?.split_once('@')?;
    Some((interface, version.parse().ok()?))
}

/// Whether the host lends this function of an interface.
fn offers(interface: &str, function: &str) -> bool {
    match interface {
        "tensor" => match function.strip_prefix("tensor.") {
            None => false,
            Some(
                "from-floats" | "from-ints" | "shape" | "kind" | "tracked" | "share"
                | "read-floats" | "read-ints",
            ) => true,
            Some(op) => {
                let name = op.replace('-', "_");
                OPS.iter().any(|code| code.spec().name == name)
            }
        },
        "session" => matches!(
            function,
            "constant" | "log" | "values.parameter" | "values.buffer" | "values.update-buffer"
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The functions of the interfaces that `wit/` makes a host lend.
    fn of_the_wit() -> Vec<(String, String)> {
        let mut resolve = wit_parser::Resolve::default();
        let (package, _) = resolve
            .push_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit"))
            .unwrap();
        let interfaces = &resolve.packages[package].interfaces;
        ["types", "tensor", "session"]
            .iter()
            .flat_map(|name| {
                let functions = &resolve.interfaces[interfaces[*name]].functions;
                functions.keys().map(move |function| {
                    (
                        (*name).to_owned(),
                        function.rsplit(']').next().unwrap_or(function).to_owned(),
                    )
                })
            })
            .collect()
    }

    #[test]
    fn offers_what_the_wit_says_and_no_more() {
        let wit = of_the_wit();
        assert!(wit.len() > 70, "{wit:?}");
        for (interface, function) in &wit {
            assert!(offers(interface, function), "{interface} {function}");
        }
        for code in OPS {
            let function = format!("tensor.{}", code.spec().name.replace('_', "-"));
            assert!(
                wit.contains(&("tensor".into(), function.clone())),
                "{function}"
            );
        }
        assert!(
            !offers("tensor", "tensor.fft")
                && !offers("session", "random")
                && !offers("values", "tensor")
        );
    }

    #[test]
    fn splits_names_of_its_own_package_only() {
        assert_eq!(
            split("dtta:plugin/tensor@0.1.0").map(|(name, _)| name),
            Some("tensor")
        );
        for name in [
            "wasi:cli/environment@0.2.0",
            "dtta:plugin/tensor",
            "dtta:plugin/tensor@x",
            "run",
        ] {
            assert_eq!(split(name), None, "{name}");
        }
    }
}

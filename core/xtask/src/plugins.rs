//! The plugins that ship: each crate under `plugins/` builds to a component in its `dist/`, with
//! the manifest that hosts read instead of running it. Both are committed, so that nobody needs
//! a WebAssembly toolchain to run an experiment; `check` holds them to the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use wit_component::{ComponentEncoder, DecodedWasm};
use wit_parser::{Function, Resolve, WorldItem, WorldKey};

use crate::toolchain::{PROFILE, TARGET, Toolchain};
use crate::{process, read, write};

/// The package that a component may import from, and no other.
const INTERFACE_PACKAGE: (&str, &str) = ("dtta", "plugin");

/// What to do with the plugins.
#[derive(clap::Subcommand)]
pub enum Task {
    /// Builds plugins and writes their `dist/`.
    Build(Selection),
    /// Fails if a `dist/` is not what its sources build to.
    Check(Selection),
}

/// Which plugins.
#[derive(clap::Args)]
pub struct Selection {
    /// Every plugin under `plugins/`; the default.
    #[arg(long, conflicts_with = "name")]
    all: bool,
    /// One plugin, by folder or package name.
    name: Option<String>,
}

/// Runs a task.
pub fn run(root: &Path, task: &Task) -> Result<()> {
    match task {
        Task::Build(selection) => {
            let toolchain = Toolchain::find()?;
            for plugin in select(root, selection)? {
                build(root, &plugin, &toolchain)?;
            }
            Ok(())
        }
        Task::Check(selection) => check_selected(root, selection),
    }
}

/// Checks every plugin.
pub fn check_all(root: &Path) -> Result<()> {
    check_selected(
        root,
        &Selection {
            all: true,
            name: None,
        },
    )
}

fn check_selected(root: &Path, selection: &Selection) -> Result<()> {
    for plugin in select(root, selection)? {
        check(root, &plugin).with_context(|| {
            format!(
                "`{}` is not what its sources build to; run `cargo xtask plugins build`",
                plugin.folder
            )
        })?;
    }
    Ok(())
}

/// A crate under `plugins/`.
struct Source {
    package: String,
    description: String,
    /// Relative to the root.
    folder: String,
    digest: String,
}

impl Source {
    fn dist(&self, root: &Path) -> PathBuf {
        root.join(&self.folder).join("dist")
    }

    fn artifact(&self) -> String {
        format!("{}.wasm", self.package)
    }
}

fn build(root: &Path, plugin: &Source, toolchain: &Toolchain) -> Result<()> {
    let (component, manifest) = make(root, plugin, toolchain)?;
    let dist = plugin.dist(root);
    write(&dist.join(plugin.artifact()), &component)?;
    write(&dist.join("plugin.json"), &text(&manifest)?)?;
    eprintln!(
        "{}: {} KiB",
        dist.join(plugin.artifact()).display(),
        component.len().div_ceil(1024)
    );
    Ok(())
}

/// Cheapest first: the artifact against its manifest, the sources against their digest, and, where
/// the same compiler is at hand, every byte.
fn check(root: &Path, plugin: &Source) -> Result<()> {
    let dist = plugin.dist(root);
    let path = dist.join("plugin.json");
    let committed: Value = serde_json::from_slice(&read(&path)?)
        .with_context(|| format!("`{}` is no JSON", path.display()))?;
    let component = read(&dist.join(plugin.artifact()))?;
    let field = |name: &str| {
        committed
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    ensure!(
        field("sha256") == sha256(&component),
        "`{}` has not the sha256 that `plugin.json` says",
        plugin.artifact()
    );
    ensure!(
        field("source_digest") == plugin.digest,
        "its sources have digest {}, `plugin.json` says {}",
        plugin.digest,
        field("source_digest")
    );
    let toolchain = match Toolchain::find() {
        Ok(toolchain) if toolchain.built_with() == field("built_with") => toolchain,
        other => {
            let found = other.map_or_else(
                |error| format!("{error:#}"),
                |toolchain| toolchain.built_with(),
            );
            eprintln!(
                "{}: sources unchanged; bytes not compared, as it was built with `{}` and here is: {found}",
                plugin.package,
                field("built_with")
            );
            return Ok(());
        }
    };
    let (rebuilt, manifest) = make(root, plugin, &toolchain)?;
    ensure!(
        rebuilt == component,
        "the same compiler gives {} instead",
        sha256(&rebuilt)
    );
    ensure!(
        manifest == committed,
        "`plugin.json` should be:\n{}",
        String::from_utf8_lossy(&text(&manifest)?)
    );
    eprintln!(
        "{}: the same bytes, rebuilt with {}",
        plugin.package,
        toolchain.built_with()
    );
    Ok(())
}

/// Compiles a plugin and asks it who it is.
fn make(root: &Path, plugin: &Source, toolchain: &Toolchain) -> Result<(Vec<u8>, Value)> {
    let module = read(&toolchain.build(root, &plugin.package)?)?;
    let component =
        encode(&module).with_context(|| format!("`{}` makes no component", plugin.package))?;
    let operations = inspect(&component)?;

    // In a folder without a manifest, the loader asks the component itself.
    let file = root
        .join("target")
        .join("wasm")
        .join("components")
        .join(plugin.artifact());
    write(&file, &component)?;
    let loaded = dtta_plugin::Plugin::from_component_file(&file).map_err(|error| {
        anyhow!(error).context(format!("`{}` cannot be loaded", plugin.package))
    })?;
    let descriptor = loaded.descriptor();

    let manifest = json!({
        "schema_version": dtta_plugin::MANIFEST_SCHEMA_VERSION,
        "name": descriptor.name,
        "version": descriptor.version,
        "description": plugin.description,
        "interface": descriptor.interface,
        "roles": descriptor.roles,
        "artifact": plugin.artifact(),
        "sha256": sha256(&component),
        "needs": { "constants": descriptor.needs.constants, "ops": operations },
        "built_with": toolchain.built_with(),
        "source_digest": plugin.digest,
        "config_schema": descriptor.config_schema,
    });
    Ok((component, manifest))
}

fn encode(module: &[u8]) -> Result<Vec<u8>> {
    ComponentEncoder::default()
        .module(module)?
        .validate(true)
        .encode()
}

/// Refuses a component that imports anything but the interface, and lists the operations that it
/// asks for, by their names in the table.
fn inspect(component: &[u8]) -> Result<BTreeSet<String>> {
    let DecodedWasm::Component(resolve, world) = wit_component::decode(component)? else {
        bail!("it is a WIT package, not a component");
    };
    let mut operations = BTreeSet::new();
    for (key, item) in &resolve.worlds[world].imports {
        let WorldItem::Interface { id, .. } = item else {
            bail!(
                "it imports `{}`, which is no interface",
                resolve.name_world_key(key)
            );
        };
        let package = resolve.interfaces[*id]
            .package
            .map(|package| &resolve.packages[package].name);
        let is_ours =
            package.is_some_and(|name| (&*name.namespace, &*name.name) == INTERFACE_PACKAGE);
        ensure!(
            is_ours,
            "it imports `{}`; a plugin may import `dtta:plugin` only",
            resolve.name_world_key(key)
        );
        if is_tensor(&resolve, key) {
            operations.extend(
                resolve.interfaces[*id]
                    .functions
                    .values()
                    .filter_map(operation),
            );
        }
    }
    Ok(operations)
}

fn is_tensor(resolve: &Resolve, key: &WorldKey) -> bool {
    matches!(key, WorldKey::Interface(id) if resolve.interfaces[*id].name.as_deref() == Some("tensor"))
}

/// The name in the table of operations, for a function that is one.
fn operation(function: &Function) -> Option<String> {
    let name = function.item_name().replace('-', "_");
    dtta_abi::OPS
        .iter()
        .any(|&(_, known)| known == name)
        .then_some(name)
}

fn select(root: &Path, selection: &Selection) -> Result<Vec<Source>> {
    let Metadata { packages, resolve } = metadata(root)?;
    let mut found = Vec::new();
    for package in &packages {
        let Ok(manifest) = package.manifest_path.strip_prefix(root) else {
            continue;
        };
        let Some(folder) = manifest
            .parent()
            .filter(|folder| folder.starts_with("plugins"))
        else {
            continue;
        };
        let folder = folder.to_string_lossy().replace('\\', "/");
        let is_wanted = match &selection.name {
            Some(name) => *name == package.name || folder.strip_prefix("plugins/") == Some(name),
            None => true,
        };
        if is_wanted {
            found.push(Source {
                package: package.name.clone(),
                description: package.description.clone().unwrap_or_default(),
                digest: source_digest(root, package, &packages, &resolve)?,
                folder,
            });
        }
    }
    match &selection.name {
        Some(name) if found.is_empty() => bail!("there is no plugin `{name}` under `plugins/`"),
        _ => Ok(found),
    }
}

/// sha256 over whatever decides what a plugin does: how it is compiled, the sources of every
/// crate of this workspace that it is built from, the interface, and the locked versions of all
/// other crates.
fn source_digest(
    root: &Path,
    plugin: &Package,
    packages: &[Package],
    graph: &Graph,
) -> Result<String> {
    let nodes: BTreeMap<&str, &Node> = graph
        .nodes
        .iter()
        .map(|node| (node.id.as_str(), node))
        .collect();
    let mut reached = BTreeSet::from([plugin.id.as_str()]);
    let mut open = vec![plugin.id.as_str()];
    while let Some(id) = open.pop() {
        for dependency in nodes.get(id).into_iter().flat_map(|node| &node.deps) {
            let is_for_tests = dependency
                .dep_kinds
                .iter()
                .all(|kind| kind.kind.as_deref() == Some("dev"));
            if !is_for_tests && reached.insert(&dependency.pkg) {
                open.push(&dependency.pkg);
            }
        }
    }
    let mut files = BTreeSet::new();
    let mut digest = Sha256::new();
    digest.update(PROFILE.join("\n"));
    for package in packages
        .iter()
        .filter(|package| reached.contains(package.id.as_str()))
    {
        digest.update(format!(
            "\n{} {} {}\n",
            package.name, package.version, package.edition
        ));
        if package.source.is_none() {
            let folder = package.manifest_path.parent().unwrap_or(root);
            files.insert(package.manifest_path.clone());
            collect(&folder.join("src"), &mut files)?;
        }
    }
    for name in ["types.wit", "roles.wit"] {
        files.insert(root.join("wit").join(name));
    }
    for file in files {
        let name = file
            .strip_prefix(root)
            .unwrap_or(&file)
            .to_string_lossy()
            .replace('\\', "/");
        let bytes = read(&file)?;
        digest.update(format!("\n{name} {}\n", bytes.len()));
        digest.update(bytes);
    }
    Ok(hex(&digest.finalize()))
}

fn collect(folder: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot list `{}`", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.insert(path);
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Graph,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    edition: String,
    description: Option<String>,
    source: Option<String>,
    manifest_path: PathBuf,
}

#[derive(Deserialize)]
struct Graph {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

fn metadata(root: &Path) -> Result<Metadata> {
    let mut command = Command::new("cargo");
    command
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
            TARGET,
        ])
        .current_dir(root);
    let mut metadata: Metadata = serde_json::from_slice(&process::output(&mut command)?)?;
    metadata
        .packages
        .sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(metadata)
}

fn text(manifest: &Value) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(manifest)?;
    text.push(b'\n');
    Ok(text)
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The committed component: its test needs no compiler.
    fn shipped() -> Vec<u8> {
        read(&crate::root().join("plugins/classification/dist/dtta-plugin-classification.wasm"))
            .unwrap()
    }

    #[test]
    fn lists_the_operations_that_a_component_asks_for() {
        let operations = inspect(&shipped()).unwrap();
        assert!(
            operations.contains("softmax") && operations.contains("index_select"),
            "{operations:?}"
        );
        assert!(
            !operations.contains("conv2d") && !operations.contains("share"),
            "{operations:?}"
        );
    }

    #[test]
    fn refuses_a_component_that_imports_from_elsewhere() {
        let mut resolve = Resolve::default();
        let text =
            "package a:b@0.1.0; interface clock { now: func() -> u64; } world w { import clock; }";
        let package = resolve.push_str("a.wit", text).unwrap();
        let world = resolve.select_world(&[package], Some("w")).unwrap();
        let import = r#"(module (import "a:b/clock@0.1.0" "now" (func (result i64))) (memory (export "memory") 1))"#;
        let mut module = wat::parse_str(import).unwrap();
        wit_component::embed_component_metadata(
            &mut module,
            &resolve,
            world,
            wit_component::StringEncoding::UTF8,
        )
        .unwrap();
        let error = inspect(&encode(&module).unwrap()).unwrap_err().to_string();
        assert_eq!(
            error,
            "it imports `a:b/clock@0.1.0`; a plugin may import `dtta:plugin` only"
        );
    }

    #[test]
    fn finds_every_plugin_and_digests_its_sources() {
        let found = select(
            &crate::root(),
            &Selection {
                all: true,
                name: None,
            },
        )
        .unwrap();
        let plugin = found
            .iter()
            .find(|plugin| plugin.folder == "plugins/classification")
            .unwrap();
        assert_eq!(plugin.package, "dtta-plugin-classification");
        assert_eq!(plugin.digest.len(), 64);
    }
}

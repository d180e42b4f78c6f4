//! `dtta plugins build`: a plugin's crate to a component and a shared library in its `dist/`, each
//! with the manifest that hosts read instead of running it. `--check` holds a committed `dist/` to
//! its sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use dtta_plugin::{MANIFEST_SCHEMA_VERSION, Plugin, sha256};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use wit_component::{ComponentEncoder, DecodedWasm};
use wit_parser::{Function, Resolve, WorldItem, WorldKey};

use super::toolchain::{PROFILE, TARGET, Toolchain, build_native};

/// The package that a component may import from, and no other.
const INTERFACE_PACKAGE: (&str, &str) = ("dtta", "plugin");

/// What to build.
#[derive(clap::Args)]
pub struct Arguments {
    /// The plugin's crate.
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// For which loader.
    #[arg(long, value_enum, default_value_t)]
    target: Target,
    /// Build nothing anew; fail unless the component in `dist/` is what the sources build to.
    #[arg(long, conflicts_with = "target")]
    check: bool,
}

/// For which loader.
#[derive(Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Target {
    /// A component in `dist/` and a shared library in `dist/native/`.
    #[default]
    All,
    /// The component alone.
    Wasm,
    /// The shared library alone.
    Native,
}

/// Builds, or checks.
pub fn build(arguments: &Arguments) -> Result<()> {
    let (project, plugin) = Project::of(&arguments.folder)?;
    if arguments.check {
        return check(&project, &plugin).with_context(|| {
            format!(
                "`{}` is not what its sources build to; run `dtta plugins build --target wasm {}`",
                plugin.dist().display(),
                arguments.folder.display()
            )
        });
    }
    if arguments.target != Target::Native {
        let toolchain = Toolchain::find()?;
        let (component, manifest) = make(&project, &plugin, &toolchain)?;
        put(&plugin.dist(), &plugin.component(), &component, &manifest)?;
    }
    if arguments.target != Target::Wasm {
        let library = build_native(&project, &plugin.package)?;
        let bytes = read(&library)?;
        // The library describes itself: it is the author's own, and runs here.
        let loaded = Plugin::from_library_file(&library)?;
        let name = library.file_name().unwrap_or_default().to_string_lossy();
        let operations = json!(loaded.operations());
        let manifest = manifest(&plugin, &loaded, &name, &bytes, &operations, "cargo");
        put(&plugin.dist().join("native"), &name, &bytes, &manifest)?;
    }
    Ok(())
}

fn put(folder: &Path, name: &str, artifact: &[u8], manifest: &Value) -> Result<()> {
    write(&folder.join(name), artifact)?;
    write(&folder.join("plugin.json"), &text(manifest)?)?;
    let size = artifact.len().div_ceil(1024);
    eprintln!("{}: {size} KiB", folder.join(name).display());
    Ok(())
}

/// The workspace that a plugin belongs to.
pub(super) struct Project {
    pub(super) root: PathBuf,
    /// The checkout with the SDK, where the plugin uses one.
    pub(super) sdk: Option<PathBuf>,
}

/// A plugin's crate.
struct Source {
    package: String,
    description: String,
    folder: PathBuf,
    digest: String,
}

impl Source {
    fn dist(&self) -> PathBuf {
        self.folder.join("dist")
    }

    fn component(&self) -> String {
        format!("{}.wasm", self.package)
    }
}

impl Project {
    /// The crate in `folder`, and its workspace.
    fn of(folder: &Path) -> Result<(Self, Source)> {
        let manifest = folder.join("Cargo.toml");
        let manifest = fs::canonicalize(&manifest)
            .with_context(|| format!("there is no crate at `{}`", folder.display()))?;
        let Metadata {
            packages,
            resolve,
            workspace_root: root,
        } = metadata(&manifest)?;
        let package = packages
            .iter()
            .find(|package| package.manifest_path == manifest)
            .with_context(|| format!("`{}` is no package", manifest.display()))?;
        let sdk = packages
            .iter()
            .find(|package| package.name == "dtta-sdk" && package.source.is_none())
            .and_then(|package| package.manifest_path.ancestors().nth(3));
        let source = Source {
            package: package.name.clone(),
            description: package.description.clone().unwrap_or_default(),
            digest: source_digest(package, &packages, &resolve)?,
            folder: folder.to_owned(),
        };
        let sdk = sdk.map(Path::to_owned);
        Ok((Self { root, sdk }, source))
    }

    /// Versions are those of the lock file, where there is one.
    pub(super) fn locked(&self) -> Option<&'static str> {
        self.root.join("Cargo.lock").is_file().then_some("--locked")
    }
}

/// Cheapest first: the artifact against its manifest, the sources against their digest, and, where
/// the same compiler is at hand, every byte.
fn check(project: &Project, plugin: &Source) -> Result<()> {
    let dist = plugin.dist();
    let path = dist.join("plugin.json");
    let committed: Value = serde_json::from_slice(&read(&path)?)
        .with_context(|| format!("`{}` is no JSON", path.display()))?;
    let component = read(&dist.join(plugin.component()))?;
    let field = |name: &str| {
        committed
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    ensure!(
        field("sha256") == sha256(&component),
        "`{}` has not the sha256 that `plugin.json` says",
        plugin.component()
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
    let (rebuilt, manifest) = make(project, plugin, &toolchain)?;
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

/// Compiles a component and asks it who it is.
fn make(project: &Project, plugin: &Source, toolchain: &Toolchain) -> Result<(Vec<u8>, Value)> {
    let module = read(&toolchain.build(project, &plugin.package)?)?;
    let component =
        encode(&module).with_context(|| format!("`{}` makes no component", plugin.package))?;
    let operations = inspect(&component)?;

    // In a folder without a manifest, the loader asks the component itself.
    let folder = project.root.join("target/wasm/components");
    let file = folder.join(plugin.component());
    write(&file, &component)?;
    let loaded = Plugin::from_component_file(&file).map_err(|error| {
        anyhow!(error).context(format!("`{}` cannot be loaded", plugin.package))
    })?;
    let (name, operations) = (plugin.component(), json!(operations));
    let built_with = toolchain.built_with();
    let manifest = manifest(plugin, &loaded, &name, &component, &operations, &built_with);
    Ok((component, manifest))
}

fn manifest(
    source: &Source,
    plugin: &Plugin,
    artifact: &str,
    bytes: &[u8],
    operations: &Value,
    built_with: &str,
) -> Value {
    let descriptor = plugin.descriptor();
    json!({
        "schema_version": MANIFEST_SCHEMA_VERSION,
        "name": descriptor.name,
        "version": descriptor.version,
        "description": source.description,
        "interface": descriptor.interface,
        "roles": descriptor.roles,
        "artifact": artifact,
        "sha256": sha256(bytes),
        "needs": { "constants": descriptor.needs.constants, "ops": operations },
        "built_with": built_with,
        "source_digest": source.digest,
        "config_schema": descriptor.config_schema,
    })
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

/// sha256 over whatever decides what a plugin does: how it is compiled, the sources of every
/// local crate that it is built from, the interface, and the locked versions of all other crates.
fn source_digest(plugin: &Package, packages: &[Package], graph: &Graph) -> Result<String> {
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
        let Some(folder) = package.manifest_path.parent() else {
            continue;
        };
        if package.source.is_some() {
            continue;
        }
        let mut files = BTreeSet::from([package.manifest_path.clone()]);
        collect(&folder.join("src"), &mut files)?;
        if package.name == "dtta-sdk" {
            let interface = folder.join("../../wit");
            files.extend(["types.wit", "roles.wit"].map(|name| interface.join(name)));
        }
        for file in files {
            let name = file.strip_prefix(folder).unwrap_or(&file);
            let name = name.to_string_lossy().replace('\\', "/");
            let bytes = read(&file)?;
            digest.update(format!("\n{name} {}\n", bytes.len()));
            digest.update(bytes);
        }
    }
    Ok(hex(&digest.finalize()))
}

fn collect(folder: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list `{}`", folder.display()))?;
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
    workspace_root: PathBuf,
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

fn metadata(manifest: &Path) -> Result<Metadata> {
    let mut command = Command::new("cargo");
    command
        .args([
            "metadata",
            "--format-version",
            "1",
            "--filter-platform",
            TARGET,
        ])
        .arg("--manifest-path")
        .arg(manifest);
    let mut metadata: Metadata = serde_json::from_slice(&output(&mut command)?)?;
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a file; the error names it.
fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))
}

/// Writes a file and the folders above it; the error names it.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    fs::write(path, bytes).with_context(|| format!("cannot write `{}`", path.display()))
}

/// Runs a program to its end, its output going where ours does for people.
pub(super) fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command
        .stdout(std::process::Stdio::from(std::io::stderr()))
        .status()
        .with_context(|| format!("cannot start `{name}`"))?;
    ensure!(status.success(), "`{command:?}` failed: {status}");
    Ok(())
}

/// Runs a program and gives what it wrote to stdout.
pub(super) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("cannot start `{name}`"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "`{command:?}` failed: {}\n{said}",
        output.status
    );
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The committed component: its test needs no compiler.
    fn shipped() -> Vec<u8> {
        read(&shipped_folder().join("dist/dtta-plugin-classification.wasm")).unwrap()
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

    fn shipped_folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/classification")
    }

    #[test]
    fn finds_the_crate_and_digests_its_sources() {
        let (project, source) = Project::of(&shipped_folder()).unwrap();
        assert_eq!(source.package, "dtta-plugin-classification");
        assert_eq!(source.digest.len(), 64);
        assert_eq!(project.sdk.as_deref(), Some(&*project.root));
        assert_eq!(project.locked(), Some("--locked"));
        assert!(Project::of(Path::new("/nowhere")).is_err());
    }
}

//! `dtta plugins build`: a plugin's crate, or its C, to a component and a shared library in its `dist/`, each
//! with the manifest that hosts read instead of running it. `--check` holds a committed `dist/` to
//! its sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use dtta_base::sha256;
use dtta_plugin::{MANIFEST_SCHEMA_VERSION, Manifest, Needs, Plugin};
use serde_json::Value;
use wit_component::{ComponentEncoder, DecodedWasm};
use wit_parser::{Function, Resolve, WorldItem, WorldKey};

use super::c::{self, Clang};
use super::source::{Code, Project, Source};
use super::toolchain::{Toolchain, build_native};
use crate::say::say;

/// The package that a component may import from, and no other.
const INTERFACE_PACKAGE: (&str, &str) = ("dtta", "plugin");

/// What to build.
#[derive(clap::Args)]
pub struct Arguments {
    /// The plugin's folder: a crate, or C files in `src`.
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// For which loader.
    #[arg(long, value_enum, default_value_t)]
    target: Target,
    /// Do not build; fail unless the component in `dist/` matches its sources.
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

/// What compiles a plugin's component.
enum Compiler<'a> {
    Rust(Toolchain, &'a Project),
    C(Clang),
}

impl<'a> Compiler<'a> {
    fn of(plugin: &'a Source) -> Result<Self> {
        Ok(match &plugin.code {
            Code::Rust(project) => Self::Rust(Toolchain::find()?, project),
            Code::C => Self::C(Clang::find()?),
        })
    }

    fn built_with(&self) -> String {
        match self {
            Self::Rust(toolchain, _) => toolchain.built_with(),
            Self::C(clang) => clang.built_with(),
        }
    }

    fn module(&self, plugin: &Source) -> Result<Vec<u8>> {
        match self {
            Self::Rust(toolchain, project) => read(&toolchain.build(project, &plugin.package)?),
            Self::C(clang) => clang.build(plugin),
        }
    }
}

/// Builds, or checks.
pub fn build(arguments: &Arguments) -> Result<()> {
    let plugin = Source::of(&arguments.folder)?;
    if arguments.check {
        return check(&plugin).with_context(|| {
            format!(
                "`{}` is out of date with its sources; run `dtta plugins build --target wasm {}`",
                plugin.dist().display(),
                arguments.folder.display()
            )
        });
    }
    if arguments.target != Target::Native {
        let (component, manifest) = make(&plugin, &Compiler::of(&plugin)?)?;
        put(&plugin.dist(), &plugin.component(), &component, &manifest)?;
    }
    if arguments.target != Target::Wasm {
        let (library, built_with) = match &plugin.code {
            Code::Rust(project) => (build_native(project, &plugin.package)?, "cargo"),
            Code::C => (c::build_native(&plugin)?, "cc"),
        };
        let bytes = read(&library)?;
        // The library describes itself: it is the author's own, and runs here.
        let loaded = Plugin::from_file(&library)?;
        let name = library.file_name().unwrap_or_default().to_string_lossy();
        let operations = loaded.operations().to_vec();
        let manifest = manifest(&plugin, &loaded, &name, &bytes, operations, built_with);
        put(&plugin.dist().join("native"), &name, &bytes, &manifest)?;
    }
    Ok(())
}

fn put(folder: &Path, name: &str, artifact: &[u8], manifest: &Manifest) -> Result<()> {
    write(&folder.join(name), artifact)?;
    write(&folder.join("plugin.json"), &text(manifest)?)?;
    let size = artifact.len().div_ceil(1024);
    say!("{}: {size} KiB", folder.join(name).display());
    Ok(())
}

/// Cheapest first: the artifact against its manifest, the sources against their digest, and, where
/// the same compiler is at hand, every byte.
fn check(plugin: &Source) -> Result<()> {
    let dist = plugin.dist();
    let path = dist.join("plugin.json");
    let committed = Manifest::read(&path)?;
    let component = read(&dist.join(plugin.component()))?;
    ensure!(
        committed.sha256.as_ref() == Some(&sha256(&component)),
        "the SHA-256 of `{}` does not match `plugin.json`",
        plugin.component()
    );
    let known = committed.source_digest.as_deref().unwrap_or("none");
    ensure!(
        known == plugin.digest,
        "its sources have digest {}, `plugin.json` says {known}",
        plugin.digest
    );
    let built_with = committed.built_with.as_ref();
    let built_with = built_with
        .and_then(Value::as_str)
        .unwrap_or("no known compiler");
    let compiler = match Compiler::of(plugin) {
        Ok(compiler) if compiler.built_with() == built_with => compiler,
        other => {
            let found = other.map_or_else(
                |error| format!("{error:#}"),
                |compiler| compiler.built_with(),
            );
            say!(
                "{}: sources unchanged; bytes not compared, because it was built with `{built_with}` and this machine has: {found}",
                plugin.package
            );
            return Ok(());
        }
    };
    let (rebuilt, manifest) = make(plugin, &compiler)?;
    ensure!(
        rebuilt == component,
        "the same compiler gives {} instead",
        sha256(&rebuilt)
    );
    let manifest = text(&manifest)?;
    ensure!(
        manifest == read(&path)?,
        "`plugin.json` should be:\n{}",
        String::from_utf8_lossy(&manifest)
    );
    say!(
        "{}: identical bytes after a rebuild with {}",
        plugin.package,
        compiler.built_with()
    );
    Ok(())
}

/// Compiles a component and asks it who it is.
fn make(plugin: &Source, compiler: &Compiler<'_>) -> Result<(Vec<u8>, Manifest)> {
    let module = compiler.module(plugin)?;
    let component = encode(&module)
        .with_context(|| format!("`{}` cannot be turned into a component", plugin.package))?;
    let operations = inspect(&component)?;

    // In a folder without a manifest, the loader asks the component itself.
    let folder = plugin.target().join("wasm/components");
    let file = folder.join(plugin.component());
    write(&file, &component)?;
    let loaded = Plugin::from_file(&file).map_err(|error| {
        anyhow!(error).context(format!("`{}` cannot be loaded", plugin.package))
    })?;
    let name = plugin.component();
    let built_with = compiler.built_with();
    let manifest = manifest(plugin, &loaded, &name, &component, operations, &built_with);
    Ok((component, manifest))
}

/// What the plugin says of itself, and what only its builder knows.
fn manifest(
    source: &Source,
    plugin: &Plugin,
    artifact: &str,
    bytes: &[u8],
    operations: Vec<String>,
    built_with: &str,
) -> Manifest {
    let descriptor = plugin.descriptor().clone();
    Manifest {
        schema_version: MANIFEST_SCHEMA_VERSION,
        description: match &*source.description {
            "" => descriptor.description,
            own => own.into(),
        },
        artifact: Some(artifact.into()),
        sha256: Some(sha256(bytes)),
        needs: Needs {
            ops: operations,
            ..descriptor.needs
        },
        built_with: Some(built_with.into()),
        source_digest: Some(source.digest.clone()),
        ..descriptor
    }
}

fn encode(module: &[u8]) -> Result<Vec<u8>> {
    ComponentEncoder::default()
        .module(module)?
        .validate(true)
        .encode()
}

/// Refuses a component that imports anything but the interface, and lists the operations that it
/// asks for, by their names in the table.
fn inspect(component: &[u8]) -> Result<Vec<String>> {
    let DecodedWasm::Component(resolve, world) = wit_component::decode(component)? else {
        bail!("it is a WIT package, not a component");
    };
    let mut operations = BTreeSet::new();
    for (key, item) in &resolve.worlds[world].imports {
        let WorldItem::Interface { id, .. } = item else {
            bail!(
                "it imports `{}`, which is not an interface",
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
    Ok(operations.into_iter().collect())
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

fn text(manifest: &Manifest) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(manifest)?;
    text.push(b'\n');
    Ok(text)
}

/// Reads a file; the error names it.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))
}

/// Writes a file and the folders above it; the error names it.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    Ok(dtta_base::write_whole(path, bytes)?)
}

/// Runs a program to its end, its output going where ours does for people.
pub(super) fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command
        .stdout(std::process::Stdio::from(std::io::stderr()))
        .status()
        .with_context(|| format!("cannot start `{name}`"))?;
    ensure!(
        status.success(),
        "`{name}` failed ({status}) for the reasons above"
    );
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
        "`{name}` failed ({}):\n{said}",
        output.status
    );
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The committed component: its test needs no compiler.
    fn shipped() -> Vec<u8> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/classification");
        read(&folder.join("dist/dtta-plugin-classification.wasm")).unwrap()
    }

    #[test]
    fn lists_the_operations_that_a_component_asks_for() {
        let operations = inspect(&shipped()).unwrap();
        let has = |name: &str| operations.iter().any(|known| known == name);
        assert!(has("softmax") && has("index_select"), "{operations:?}");
        assert!(!has("conv2d") && !has("share"), "{operations:?}");
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
}

//! Plugins in C: how they are compiled, natively with the system's compiler and for WebAssembly with clang. The header
//! is part of this program, and so is the interface, which makes a component of a bare module.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use dtta_base::Digest;
use dtta_plugin::Role;
use wit_component::StringEncoding;
use wit_parser::{Resolve, SourceMap};

use super::build::{output, run, write};
use super::source::{Source, add};

const HEADER: &str = include_str!("../../../../sdk/abi/include/dtta.h");

const INTERFACE: [(&str, &str); 2] = [
    ("types.wit", include_str!("../../../../wit/types.wit")),
    ("roles.wit", include_str!("../../../../wit/roles.wit")),
];

/// For both targets. `-std=c11` also keeps compilers from fusing a product and a sum.
const FLAGS: [&str; 4] = ["-std=c11", "-O2", "-Wall", "-Wextra"];

/// For components: no C library, the stack where its overflow is a trap.
const WASM_FLAGS: [&str; 6] = [
    "--target=wasm32-unknown-unknown",
    "-ffreestanding",
    "-nostdlib",
    "-mbulk-memory",
    "-Wl,--no-entry,--strip-all,--stack-first",
    "-Wl,-z,stack-size=65536",
];

/// For libraries: nothing is exported but the entry.
const NATIVE_FLAGS: [&str; 3] = ["-shared", "-fPIC", "-fvisibility=hidden"];

/// A clang that builds for WebAssembly.
pub(super) struct Clang {
    program: String,
    version: String,
}

impl Clang {
    /// Finds it: what `CLANG` names, `clang`, or the newest of Debian's.
    ///
    /// # Errors
    /// Says what to install.
    pub(super) fn find() -> Result<Self> {
        let named = env::var("CLANG").ok();
        let debian = (14..=30).rev().map(|version| format!("clang-{version}"));
        let found = named
            .into_iter()
            .chain(["clang".to_owned()])
            .chain(debian)
            .find_map(|program| {
                let version = output(Command::new(&program).arg("--version")).ok()?;
                let version = String::from_utf8_lossy(&version).lines().next()?.to_owned();
                Some(Self { program, version })
            });
        found.context(
            "no clang was found, which builds C for WebAssembly; install clang and lld (on Debian `apt-get install clang lld`), \
             or build the library alone with `--target native`",
        )
    }

    /// What decides the bytes of a component, besides its source.
    pub(super) fn built_with(&self) -> String {
        self.version.clone()
    }

    /// The module that a plugin's C builds to.
    ///
    /// # Errors
    /// Whatever the build fails with, and a module with no role.
    pub(super) fn build(&self, source: &Source) -> Result<Vec<u8>> {
        let module = source.target().join("wasm").join("module.wasm");
        let mut command = compile(&self.program, source, "src/wasm", &module)?;
        run(command.args(WASM_FLAGS))?;
        let mut module = super::build::read(&module)?;
        describe_interface(&mut module)?;
        Ok(module)
    }
}

/// The shared library that a plugin's C builds to, with `cc` or what `CC` names.
///
/// # Errors
/// Whatever the build fails with.
pub(super) fn build_native(source: &Source) -> Result<PathBuf> {
    let name = format!(
        "{}{}{}",
        env::consts::DLL_PREFIX,
        source.package.replace('-', "_"),
        env::consts::DLL_SUFFIX
    );
    let library = source.target().join("native").join(name);
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut command = compile(&compiler, source, "src/native", &library)?;
    run(command.args(NATIVE_FLAGS))?;
    Ok(library)
}

fn compile(program: &str, source: &Source, target: &str, to: &Path) -> Result<Command> {
    let include = source.target().join("include");
    write(&include.join("dtta.h"), HEADER.as_bytes())?;
    let folder = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    let files = files(&source.folder, &["src", target])?;
    let is_unit = |path: &&PathBuf| path.extension() == Some(OsStr::new("c"));
    let mut command = Command::new(program);
    command
        .args(FLAGS)
        .arg("-I")
        .arg(include)
        .args(files.iter().filter(is_unit))
        .arg("-o")
        .arg(to);
    Ok(command)
}

/// The C files in some folders of a plugin; a folder may be missing, but not the first.
pub(super) fn files(root: &Path, folders: &[&str]) -> Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for (place, folder) in folders.iter().enumerate() {
        let folder = root.join(folder);
        if place > 0 && !folder.is_dir() {
            continue;
        }
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot list `{}`", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            let extension = path.extension().and_then(OsStr::to_str);
            if matches!(extension, Some("c" | "h")) {
                files.insert(path);
            }
        }
    }
    Ok(files)
}

/// sha256 over the flags, the header, the interface and the sources.
pub(super) fn digest(folder: &Path, files: BTreeSet<PathBuf>) -> Result<String> {
    let mut digest = Digest::new();
    let flags = FLAGS.iter().chain(&WASM_FLAGS);
    digest.field(flags.copied().collect::<Vec<_>>().join("\n"));
    for (name, text) in [("dtta.h", HEADER)].iter().chain(&INTERFACE) {
        add(&mut digest, folder, Path::new(name), text.as_bytes());
    }
    for file in files {
        add(&mut digest, folder, &file, &super::build::read(&file)?);
    }
    Ok(digest.finish())
}

/// Writes into a module which interface its imports and exports are of, as bindings generated by `wit-bindgen` do
/// themselves. Its roles are those whose functions it exports.
fn describe_interface(module: &mut Vec<u8>) -> Result<()> {
    let has = |text: &str| {
        module
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    };
    if has("component-type") {
        return Ok(());
    }
    let mut sources = SourceMap::default();
    for (name, text) in INTERFACE {
        sources.push_str(name, text);
    }
    let group = sources
        .parse()
        .map_err(|(_, error)| anyhow::anyhow!("the interface cannot be read: {error}"))?;
    let mut resolve = Resolve::default();
    let package = resolve.push_group(group)?;
    let package = resolve.packages[package].name.clone();
    let interface = |name: &str| package.interface_id(name);
    let roles = Role::ALL.map(Role::name);
    let roles = roles.map(interface).into_iter();
    let exported: Vec<String> = roles.filter(|role| has(&format!("{role}#"))).collect();
    if exported.is_empty() {
        bail!(
            "the module exports no role; a function is exported as `{}#[method]head.forward` is",
            interface("head")
        );
    }
    let mut world = format!(
        "package dtta:built; world plugin {{ include {}; export {};",
        interface("host"),
        interface("descriptor")
    );
    for role in exported {
        world += &format!(" export {role};");
    }
    world += " }";
    let built = resolve.push_str("built.wit", &world)?;
    let world = resolve.select_world(&[built], Some("plugin"))?;
    wit_component::embed_component_metadata(module, &resolve, world, StringEncoding::UTF8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_without_a_role_is_no_plugin() {
        let mut module = wat::parse_str("(module)").unwrap();
        let error = describe_interface(&mut module).unwrap_err().to_string();
        assert!(
            error.contains("`dtta:plugin/head@0.1.0#[method]head.forward`"),
            "{error}"
        );
    }

    #[test]
    fn a_module_with_its_own_description_keeps_it() {
        let text = r#"(module (@custom "component-type:x" "y"))"#;
        let mut module = wat::parse_str(text).unwrap();
        let before = module.clone();
        describe_interface(&mut module).unwrap();
        assert_eq!(module, before);
    }
}

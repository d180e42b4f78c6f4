//! Everything that is done to the repository rather than with it: building the plugins that ship,
//! holding generated files and the plugin interface to their sources, and the one check script.
//! It is small, so that the first checks run before anything large is compiled.
//! Run as `cargo xtask`.

mod check;
mod dependencies;
mod libtorch;
mod llvm;
mod options;
mod process;
mod python;
mod schema;
mod wit;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

/// Tasks of the repository.
#[derive(Parser)]
#[command(name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs every check, cheapest first: format, interface, dependencies, lints, docs, plugins, tests, and the Python wheel where there is Python.
    Check,
    /// Builds the plugins that ship, or checks that what is committed is what they build to.
    Plugins {
        /// Build nothing anew.
        #[arg(long)]
        check: bool,
    },
    /// Holds wit/ to its last frozen version.
    WitCheck,
    /// Checks what the workspace depends on: that it is used, may be shipped, and is not known to be unsafe.
    Dependencies,
    /// Writes the committed JSON schemas and the page of options that is made from them, or checks them.
    Schema(schema::Arguments),
    /// Builds the Python wheel, installs it into an environment of its own, and runs its tests.
    Python(python::Arguments),
    /// Installs LibTorch from its Python package, for builds with `--features libtorch`.
    Libtorch(libtorch::Arguments),
    /// Prepares builds with `--features cuda` that link to an installed LLVM instead of downloading one.
    Llvm(llvm::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let root = root();
    let done = match arguments.task {
        Task::Check => check::run(&root),
        Task::Plugins { check } => plugins(&root, check),
        Task::WitCheck => wit::check(&root),
        Task::Dependencies => dependencies::check(&root),
        Task::Schema(arguments) => schema::run(&root, &arguments),
        Task::Python(arguments) => python::run(&root, &arguments),
        Task::Libtorch(arguments) => libtorch::run(&arguments),
        Task::Llvm(arguments) => llvm::run(&root, &arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The plugins whose components are committed: those that ship, an example's, and one for tests.
const PLUGINS: [&str; 12] = [
    "examples/normals/plugin",
    "plugins/accuracy",
    "plugins/classification",
    "plugins/depth",
    "plugins/entropy",
    "plugins/linear",
    "plugins/margin",
    "plugins/palette-mix",
    "plugins/segmentation",
    "plugins/text-mix",
    "plugins/zero-shot",
    "tests/plugins/probe",
];

/// Builds the components with `dtta plugins build`, or checks them.
fn plugins(root: &Path, check: bool) -> anyhow::Result<()> {
    for folder in PLUGINS {
        let mut command = process::dtta(root)?;
        command
            .args(["plugins", "build"])
            .args(if check {
                &["--check"][..]
            } else {
                &["--target", "wasm"]
            })
            .arg(folder);
        process::run(&mut command)?;
    }
    Ok(())
}

/// The root of the checkout: cargo says where this crate is. A checkout that was moved with what it built is not where it was built.
fn root() -> PathBuf {
    let crate_folder = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let crate_folder = crate_folder.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = crate_folder.ancestors().nth(2).map(Path::to_path_buf);
    root.unwrap_or(crate_folder)
}

/// Reads a file; the error names it.
fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))
}

/// Writes a file and the folders above it; the error names it.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make `{}`", folder.display()))?;
    std::fs::write(path, bytes).with_context(|| format!("cannot write `{}`", path.display()))
}

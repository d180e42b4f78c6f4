//! The one check script, cheapest first, so that what fails often fails soon.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::{dependencies, process, python, wit};

/// Runs every check and stops at the first that fails.
pub fn run(root: &Path) -> Result<()> {
    let steps: [(&str, &dyn Fn() -> Result<()>); 8] = [
        ("format", &|| cargo(root, &["fmt", "--all", "--check"])),
        ("interface", &|| wit::check(root)),
        ("dependencies", &|| dependencies::check(root)),
        ("lints", &|| lints(root)),
        ("docs", &|| docs(root)),
        ("plugins", &|| crate::plugins(root, true)),
        ("tests", &|| {
            cargo(root, &["test", "--release", "--workspace", "--locked"])
        }),
        ("python", &|| python::check(root)),
    ];
    let start = Instant::now();
    for (position, (name, step)) in steps.iter().enumerate() {
        eprintln!("[{}/{}] {name}", position + 1, steps.len());
        let begun = Instant::now();
        step().with_context(|| format!("check `{name}`"))?;
        eprintln!(
            "      {name}: done in {:.0} s",
            begun.elapsed().as_secs_f64()
        );
    }
    eprintln!(
        "all checks passed in {:.0} s",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Lints and docs stand next to each other: both only check what the others build.
fn lints(root: &Path) -> Result<()> {
    let what = ["clippy", "--release", "--workspace", "--all-targets"];
    cargo(
        root,
        &[&what[..], &["--locked", "--", "-D", "warnings"]].concat(),
    )
}

fn docs(root: &Path) -> Result<()> {
    let what = ["doc", "--release", "--workspace", "--no-deps", "--locked"];
    let mut command = Command::new("cargo");
    let command = command.args(what).env("RUSTDOCFLAGS", "-D warnings");
    process::run(command.current_dir(root))
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<()> {
    process::run(Command::new("cargo").args(arguments).current_dir(root))
}

//! The one check script, cheapest first, so that what fails often fails soon.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::{process, wit};

/// Runs every check and stops at the first that fails.
pub fn run(root: &Path) -> Result<()> {
    let steps: [(&str, &dyn Fn() -> Result<()>); 5] = [
        ("format", &|| cargo(root, &["fmt", "--all", "--check"])),
        ("interface", &|| wit::check(root)),
        ("lints", &|| {
            cargo(
                root,
                &[
                    "clippy",
                    "--release",
                    "--workspace",
                    "--all-targets",
                    "--locked",
                    "--",
                    "-D",
                    "warnings",
                ],
            )
        }),
        ("plugins", &|| crate::plugins(root, true)),
        ("tests", &|| {
            cargo(root, &["test", "--release", "--workspace", "--locked"])
        }),
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

fn cargo(root: &Path, arguments: &[&str]) -> Result<()> {
    process::run(Command::new("cargo").args(arguments).current_dir(root))
}

//! Running other programs.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use cargo_metadata::MetadataCommand;

/// `dtta` of this checkout, built with the features that the tests have, so that one build serves both.
pub fn dtta(root: &Path) -> Result<Command> {
    let build = [
        "build",
        "--release",
        "--quiet",
        "--locked",
        "--workspace",
        "--bin",
        "dtta",
    ];
    run(Command::new("cargo").args(build).current_dir(root))?;
    let metadata = MetadataCommand::new().current_dir(root).no_deps().exec()?;
    let program = format!("dtta{}", std::env::consts::EXE_SUFFIX);
    let mut command = Command::new(metadata.target_directory.join("release").join(program));
    command.current_dir(root);
    Ok(command)
}

/// Runs a program to its end, its output going where ours does.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start `{}`", name(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// The command as one would type it.
pub fn line(command: &Command) -> String {
    let arguments = command
        .get_args()
        .map(|argument| argument.to_string_lossy());
    std::iter::once(name(command).into())
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

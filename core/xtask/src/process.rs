//! Running other programs.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

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

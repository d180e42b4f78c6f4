//! What opens a plugin only to say something of it does so in a process of its own where that is a shared library, which may take the
//! process down: however it ends, only the last word of this program itself counts as an end.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, anyhow};
use dtta_plugin::{LoaderKind, Manifest};

use super::registry;
use crate::Failure;

/// What such a process says last, on stdout, whatever came of it.
const LAST_WORD: &str = "that is all";

/// Does the work, in a process of its own if the reference leads to a shared library and this is not that process (`here`).
pub fn in_a_process_of_its_own(
    reference: &str,
    here: bool,
    work: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    if here {
        let outcome = work();
        print(LAST_WORD)?;
        return outcome;
    }
    match is_native(reference) {
        true => in_a_child(),
        false => work(),
    }
}

fn print(line: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    written.map_err(Failure::failed)
}

/// Whether the reference leads to a shared library, as its name or its manifest says. Opens nothing.
fn is_native(reference: &str) -> bool {
    let Ok(path) = registry().locate(reference, Path::new(".")) else {
        return false; // linked, or nowhere: that is told when it is loaded
    };
    let artifact = Manifest::read(&path)
        .ok()
        .and_then(|manifest| manifest.artifact);
    LoaderKind::of_file(artifact.as_deref().map_or(&path, Path::new)) == LoaderKind::Native
}

/// The same command in a process of its own, which tells its own errors.
fn in_a_child() -> Result<(), Failure> {
    let program = std::env::current_exe()
        .context("cannot find the path of the running program")
        .map_err(Failure::failed)?;
    let output = Command::new(program)
        .args(std::env::args_os().skip(1))
        .arg("--here")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start a process for the plugin")
        .map_err(Failure::failed)?;
    // What a library prints of its own accord may come later than the last word.
    let said = String::from_utf8_lossy(&output.stdout);
    let is_whole = said.lines().any(|line| line == LAST_WORD);
    let answer: Vec<&str> = said.lines().filter(|line| *line != LAST_WORD).collect();
    if !answer.is_empty() {
        print(&answer.join("\n"))?;
    }
    match output.status.code() {
        Some(0) if is_whole => Ok(()),
        Some(2) if is_whole => Err(Failure::Misuse(anyhow!("the plugin cannot be used"))),
        Some(_) if is_whole => Err(Failure::failed(anyhow!("the plugin fails a check"))),
        _ => Err(Failure::failed(anyhow!(
            "the plugin took its process down before everything was done: {}",
            output.status
        ))),
    }
}

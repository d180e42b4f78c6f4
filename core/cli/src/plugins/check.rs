//! `dtta plugins check`: what the testkit holds every plugin to. A shared library is tried in a
//! process of its own, which it may take down: however that ends, only the last word of the check
//! itself counts as having been checked.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, anyhow, bail};
use dtta_plugin::{LoaderKind, Manifest, Role};
use dtta_testkit::{Inputs, Kit, Refusal};
use serde_json::Value;

use super::{registry, setting};
use crate::say::say;
use crate::{Failure, print_json};

/// What to try, and on what.
#[derive(clap::Args)]
pub struct Arguments {
    /// A folder, a manifest, a component, a library, a name, or `linked:NAME`.
    plugin: String,
    /// A role's configuration, such as `mapper={"top_k": 3}`; `{}` if absent.
    #[arg(long, value_name = "ROLE=JSON")]
    config: Vec<String>,
    /// A JSON file that says what the plugin takes: tensors by name for `features`, `outputs`, `predictions`, `targets` and
    /// `constants`, as `{"logits": {"shape": [3, 10]}}`, and the denoiser's `slots`. Examples of classification,
    /// segmentation and depth are tried if absent.
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
    /// An experiment, whose models and head say what the plugin takes.
    #[arg(long, value_name = "FILE", conflicts_with = "inputs")]
    experiment: Option<PathBuf>,
    /// Stay in this process.
    #[arg(long, hide = true)]
    here: bool,
}

/// Checks a plugin; a report for people goes to stderr, one for scripts to stdout.
pub fn check(arguments: &Arguments) -> Result<(), Failure> {
    if !arguments.here && is_native(&arguments.plugin) {
        return in_a_child();
    }
    let outcome = check_here(arguments);
    if arguments.here {
        print(LAST_WORD)?;
    }
    outcome
}

/// What a check in a process of its own says last, on stdout, whatever came of it.
const LAST_WORD: &str = "everything was checked";

fn print(line: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    written.map_err(Failure::failed)
}

fn check_here(arguments: &Arguments) -> Result<(), Failure> {
    let plugin = registry()
        .find(&arguments.plugin, Path::new("."))
        .map_err(Failure::misuse)?;
    let mut kit = Kit::new(plugin);
    for text in &arguments.config {
        let (role, config) = parse(text).map_err(Failure::Misuse)?;
        kit = kit.config(role, config);
    }
    if let Some(path) = &arguments.inputs {
        kit = kit.inputs(read(path).map_err(Failure::Misuse)?);
    }
    if let Some(path) = &arguments.experiment {
        kit = kit.inputs(setting::of_experiment(path).map_err(Failure::Misuse)?);
    }
    let report = kit.check();
    say!("{}", report.to_string().trim_end());
    for check in report.checks.iter().filter(|check| check.failure.is_some()) {
        for Refusal { on, why, .. } in &check.refused {
            log::info!("{}: on {on}: {why}", check.of);
        }
    }
    print_json(&report)?;
    if report.passed() {
        Ok(())
    } else {
        Err(Failure::failed(anyhow!("the plugin fails a check")))
    }
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

/// The same command in a process of its own.
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
    let is_checked = said.lines().any(|line| line == LAST_WORD);
    let report: Vec<&str> = said.lines().filter(|line| *line != LAST_WORD).collect();
    if !report.is_empty() {
        print(&report.join("\n"))?;
    }
    match output.status.code() {
        Some(0) if is_checked => Ok(()),
        Some(2) if is_checked => Err(Failure::Misuse(anyhow!("the plugin was not checked"))),
        Some(_) if is_checked => Err(Failure::failed(anyhow!("the plugin fails a check"))),
        _ => Err(Failure::failed(anyhow!(
            "the plugin took its process down before everything was checked: {}",
            output.status
        ))),
    }
}

fn parse(text: &str) -> anyhow::Result<(Role, Value)> {
    let Some((role, config)) = text.split_once('=') else {
        bail!("`--config {text}`: expected ROLE=JSON, such as `mapper={{}}`");
    };
    let Some(role) = Role::ALL.into_iter().find(|known| known.name() == role) else {
        bail!(
            "`--config {text}`: `{role}` is not a role; expected head, mapper, objective or metric"
        );
    };
    let config = serde_json::from_str(config).with_context(|| format!("`--config {text}`"))?;
    Ok((role, config))
}

fn read(path: &Path) -> anyhow::Result<Inputs> {
    let text = std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("`{}`", path.display()))
}

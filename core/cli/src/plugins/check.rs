//! `dtta plugins check`: what the testkit holds every plugin to.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use dtta_plugin::Role;
use dtta_testkit::{Inputs, Kit, Refusal};
use serde_json::Value;

use super::{alone, registry, setting};
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
    alone::in_a_process_of_its_own(&arguments.plugin, arguments.here, || check_here(arguments))
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

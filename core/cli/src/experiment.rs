//! What every command that opens an experiment takes.

use std::path::PathBuf;

use clap::Args;
use dtta::{Document, Prepared};

use crate::Failure;
use crate::plugins::registry;

/// An experiment, its overrides and its device.
#[derive(Args)]
pub struct Opening {
    /// The experiment, a JSON file.
    experiment: PathBuf,
    /// Stands for the experiment's seed.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Overrides a value, such as `adaptation.steps=3`.
    #[arg(long, value_name = "POINTER=VALUE")]
    set: Vec<String>,
    /// auto, cpu, cuda:N, wgpu, libtorch:cpu or libtorch:cuda:N.
    #[arg(long, default_value = "auto", value_name = "NAME")]
    device: String,
}

impl Opening {
    /// Opens everything that the experiment names.
    pub fn prepare(&self) -> Result<Prepared, Failure> {
        let mut overrides = self.set.clone();
        overrides.extend(self.seed.map(|seed| format!("seed={seed}")));
        let document = Document::load(&self.experiment, &overrides).map_err(Failure::misuse)?;
        let device = dtta::device(&self.device).map_err(Failure::misuse)?;
        Prepared::new(document, &registry(), device).map_err(Failure::misuse)
    }
}

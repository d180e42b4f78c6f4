//! `dtta merge`: the shards of a run, put together.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::Failure;
use crate::experiment::{Place, extensions};
use crate::run::{refused, report};

/// What to merge, and where to.
#[derive(Args)]
pub struct Arguments {
    /// Folders of finished shards, in any order.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Folder for the whole run.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    place: Place,
}

/// Merges, and prints the summary of the whole run.
pub fn merge(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let Arguments { runs, out, place } = arguments;
    let device = place.device()?;
    let merged = dtta::merge(runs, out, &extensions(), &device);
    Ok(report(&merged.map_err(refused)?, out))
}

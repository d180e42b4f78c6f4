//! `dtta merge`: the shards of a run, put together.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use dtta_base::file_name;

use crate::Failure;
use crate::experiment::{Place, extensions};
use crate::run::{commit, refused, report, stops};
use crate::store::Store;

/// What to merge, and where to.
#[derive(Args)]
pub struct Arguments {
    /// Folders of finished shards, or their places in an object store, in any order.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Folder for the whole run, or a place in an object store.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    place: Place,
}

/// Merges, and prints the summary of the whole run.
pub fn merge(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let Arguments { runs, out, place } = arguments;
    let device = place.device()?;
    let store = Store::at(out)?;
    // What comes from an object store, and goes to one, is for this time only.
    let scratch = tempfile::tempdir().map_err(Failure::failed)?;
    let folder = match &store {
        Some(store) => scratch.path().join(file_name(&store.to_string())),
        None => out.clone(),
    };
    let mut pieces = Vec::new();
    for run in runs {
        pieces.push(match Store::at(run)? {
            Some(store) => {
                // Messages name the folder.
                let piece = scratch.path().join(file_name(&store.to_string()));
                store.download(&piece)?;
                piece
            }
            None => run.clone(),
        });
    }
    let merged = dtta::merge(&pieces, &folder, &extensions(), &device);
    let merged = merged.map_err(refused)?;
    Ok(match store {
        Some(store) => {
            commit(&store, &folder, stops(false)?)?;
            report(&merged, store)
        }
        None => report(&merged, out.display()),
    })
}

//! `dtta data`: small files that examples ship, made from whole data sets.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use dtta_base::parse_json;
use dtta_data::{DataError, Dataset, DatasetConfig, LeftOut, Provenance, Selection, pack};

use crate::Failure;
use crate::say::say;

/// What to do.
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Packs a selection of samples into one file, with their masks and depth maps; as many of each class as of any other, to within one,
    /// where images have classes.
    ///
    /// Example: dtta data pack '{"kind": "idx", "split": "test"}' sample.safetensors --samples 200
    Pack {
        /// The data set, as in an experiment, in JSON.
        dataset: String,
        /// The file to write.
        file: PathBuf,
        /// How many samples.
        #[arg(long)]
        samples: usize,
        /// Takes samples whatever their class.
        #[arg(long)]
        any_class: bool,
        /// Fixes the selection.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Where the data comes from, kept in the file.
        #[arg(long, default_value = "")]
        source: String,
        /// Its licence, kept in the file.
        #[arg(long, default_value = "")]
        licence: String,
    },
}

/// Packs.
pub fn data(arguments: &Arguments) -> Result<(), Failure> {
    let Verb::Pack {
        dataset,
        file,
        samples,
        any_class,
        seed,
        source,
        licence,
    } = &arguments.verb;
    let place = Path::new("DATASET");
    let config = parse_json(place, dataset).map_err(Failure::misuse)?;
    let config: DatasetConfig = dtta_base::parse(config)
        .map_err(|issues| Failure::misuse(dtta_base::invalid(place, "dataset", issues)))?;
    let dataset = Dataset::open(&config, Path::new(".")).map_err(Failure::misuse)?;
    tell_left_out(dataset.location(), dataset.left_out());
    let selection = Selection {
        samples: Some(*samples),
        offset: 0,
        stratified: dataset.labels().is_some() && !any_class,
    };
    let indices = dataset
        .select(&selection, *seed)
        .map_err(|error| match error {
            DataError::Unbalanced { .. } => {
                Failure::Misuse(anyhow::anyhow!("{error}; or give `--any-class`"))
            }
            error => Failure::misuse(error),
        })?;
    let provenance = Provenance {
        source: source.clone(),
        licence: licence.clone(),
    };
    pack(&dataset, &indices, &provenance, file).map_err(Failure::misuse)?;
    say!("{} samples in `{}`", indices.len(), file.display());
    Ok(())
}

/// Says in one line what a dataset's folders hold besides.
pub fn tell_left_out(place: &Path, left_out: &LeftOut) {
    if !left_out.is_empty() {
        say!("`{}`: left out {left_out}", place.display());
    }
}

//! Finished runs, wherever they come from, held against each other.

use std::path::PathBuf;

use dtta_tensor::Device;

use super::comparison::Comparison;
use super::plan::refuse;
use super::samples::RunSamples;
use super::table::{FolderRun, MethodRuns, Runs, configurations};
use crate::error::Result;
use crate::prepare::Extensions;

/// Holds finished runs against each other, sample by sample, and says what their experiments differ in. The first is the reference. Methods
/// are called by their folders.
///
/// # Errors
/// [`Error::Compare`](crate::Error::Compare) for a folder without a finished run, and for runs on other samples or with other metrics, with
/// the first that differs; files that cannot be read; whatever the metric refuses.
pub fn compare_runs(
    folders: &[PathBuf],
    extensions: &Extensions,
    device: &Device,
) -> Result<Comparison> {
    let mut methods: Vec<MethodRuns> = Vec::new();
    let mut seed = None;
    for path in folders {
        let name = path.display().to_string();
        let samples = RunSamples::read(path)?;
        let samples =
            samples.ok_or_else(|| refuse(format!("`{name}`"), "it is no finished run"))?;
        if methods.iter().any(|method| method.name == name) {
            return Err(refuse(format!("`{name}`"), "it is given twice"));
        }
        seed.get_or_insert(samples.run.seed);
        methods.push(MethodRuns {
            name: name.clone(),
            sweep: None,
            runs: vec![Some(FolderRun {
                folder: name,
                samples,
            })],
        });
    }
    let all = methods.iter().filter_map(MethodRuns::one);
    let differences = configurations(&all.collect::<Vec<_>>());
    let names = methods.iter().map(|method| &*method.name);
    let runs = Runs {
        name: names.collect::<Vec<_>>().join(", "),
        seeds: seed.into_iter().collect(),
        reference: methods.first().map(|method| method.name.clone()),
        methods,
        tuned_on: None,
        failed: Vec::new(),
    };
    let mut comparison = runs.table(extensions, device)?;
    comparison.differences = differences;
    Ok(comparison)
}

//! Reports: what runs came to as one HTML page that needs no network, and its charts as files. It reads what runs leave in their folders
//! and computes nothing again.
//!
//! - `run.rs` reads a folder; `found.rs` counts records in a bounded amount of memory.
//! - `charts.rs` says which charts there are, `chart/` draws them.
//! - `words.rs` says in a sentence what came of a run; `page.rs` is the page.

mod calibration;
mod chart;
mod charts;
mod comparison;
mod confusion;
mod diagnosis;
mod error;
mod found;
mod gallery;
mod numbers;
mod page;
mod run;
mod several;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

use self::comparison::Comparison;
pub use self::error::{Error, Result};
use self::run::Run;
use self::several::Several;

/// What to show.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A file with what `dtta diagnose --json` printed.
    pub diagnosis: Option<PathBuf>,
    /// Samples of each run in its gallery.
    pub gallery: usize,
    /// A folder for the charts, one SVG each.
    pub plots: Option<PathBuf>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What each comparison and each run came to, in words.
    pub sentences: Vec<String>,
    /// Bytes of the page.
    pub bytes: usize,
    /// Charts that were written as files.
    pub plots: usize,
}

/// Writes the report of some runs to a file. A folder may also be that of a comparison, which is told as a whole.
///
/// # Errors
/// [`Error::NoRun`]; files that cannot be read, or hold what no run writes; what cannot be written.
pub fn write(runs: &[PathBuf], options: &Options, out: &Path) -> Result<Report> {
    let (mut folders, mut comparisons) = (Vec::new(), Vec::new());
    for folder in runs {
        match Comparison::read(folder)? {
            Some(comparison) => comparisons.push(comparison),
            None => folders.push(folder.clone()),
        }
    }
    let several = Several::read(&folders, options.gallery)?;
    let diagnosis = options
        .diagnosis
        .as_deref()
        .map(diagnosis::read)
        .transpose()?;
    let page = page::page(&several, &comparisons, diagnosis.as_ref())?;
    dtta_base::write_whole(out, page.as_bytes())?;
    let mut plots = 0;
    if let Some(folder) = &options.plots {
        make(folder)?;
        for (place, run) in several.runs.iter().enumerate() {
            let prefix = match several.runs.len() {
                1 => String::new(),
                _ => format!(
                    "{:02}-{}-",
                    place + 1,
                    dtta_base::file_name(&several.names[place])
                ),
            };
            let others = run.charts().into_iter().flat_map(|(_, charts)| charts);
            for chart in run.gains().into_iter().chain(others) {
                plots += plot(folder, &prefix, &chart)?;
            }
        }
        for (place, comparison) in comparisons.iter().enumerate() {
            let prefix = match comparisons.len() {
                1 => String::new(),
                _ => format!("comparison-{}-", place + 1),
            };
            for chart in comparison.gains().into_iter().chain(comparison.charts()) {
                plots += plot(folder, &prefix, &chart)?;
            }
        }
        let shared = several.chart().into_iter();
        for chart in shared.chain(diagnosis.iter().flat_map(diagnosis::charts)) {
            plots += plot(folder, "", &chart)?;
        }
    }
    Ok(Report {
        sentences: comparisons
            .iter()
            .map(Comparison::in_a_sentence)
            .chain(several.runs.iter().map(Run::in_a_sentence))
            .collect(),
        bytes: page.len(),
        plots,
    })
}

fn plot(folder: &Path, prefix: &str, chart: &chart::Chart) -> Result<usize> {
    let path = folder.join(format!("{prefix}{}.svg", chart.name));
    dtta_base::write_whole(&path, chart.file()?.as_bytes())?;
    Ok(1)
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|source| {
        let path = folder.into();
        dtta_base::Error::Write { path, source }.into()
    })
}

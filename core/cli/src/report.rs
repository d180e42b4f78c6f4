//! `dtta report`: what runs came to, as a page.

use std::path::PathBuf;

use clap::Args;

use crate::Failure;
use crate::say::say;

/// Which runs to show, and where.
#[derive(Args)]
pub struct Arguments {
    /// Folders of runs, finished or not; several are compared.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page: one HTML file that needs nothing else.
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
    /// Pictures of each run, from what `output.pictures` made.
    #[arg(long, value_name = "N", default_value_t = 12)]
    samples: usize,
    /// What `dtta diagnose --json` printed, to show the effect of the timestep.
    #[arg(long, value_name = "FILE")]
    diagnosis: Option<PathBuf>,
    /// A folder for the charts, each as an SVG file with a white background.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
}

/// Writes the page.
pub fn report(arguments: &Arguments) -> Result<(), Failure> {
    let options = dtta_report::Options {
        diagnosis: arguments.diagnosis.clone(),
        gallery: arguments.samples,
        plots: arguments.plots.clone(),
    };
    let written = dtta_report::write(&arguments.runs, &options, &arguments.out);
    let report = written.map_err(|error| match error.is_misuse() {
        true => Failure::misuse(error),
        false => Failure::failed(error),
    })?;
    for sentence in &report.sentences {
        say!("{sentence}");
    }
    if let Some(folder) = &arguments.plots {
        say!("{} charts: {}", report.plots, folder.display());
    }
    let size = dtta_base::in_bytes(report.bytes as u64);
    say!("report: {} ({size})", arguments.out.display());
    Ok(())
}

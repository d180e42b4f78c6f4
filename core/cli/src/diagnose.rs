//! `dtta diagnose`: what a denoiser knows of an experiment's samples, before a run is spent on it.

use std::path::PathBuf;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use dtta::{DiagnoseOptions, Diagnosis, Document, Prepared};
use indicatif::ProgressBar;

use crate::Failure;
use crate::plugins::registry;

/// What to look at.
#[derive(Args)]
pub struct Arguments {
    /// The experiment, a JSON file.
    experiment: PathBuf,
    /// Samples of each domain.
    #[arg(long, default_value_t = 32, value_name = "N")]
    samples: usize,
    /// Draws for each sample and range.
    #[arg(long, default_value_t = 4, value_name = "N")]
    draws: usize,
    /// Where ranges of timesteps begin and end.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 100, 300, 500, 700, 1000], value_name = "T,T,…")]
    timesteps: Vec<usize>,
    /// Stands for the experiment's seed.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Overrides a value, such as `data.stream.samples=100`.
    #[arg(long, value_name = "POINTER=VALUE")]
    set: Vec<String>,
    /// auto, cpu, cuda:N, wgpu, libtorch:cpu or libtorch:cuda:N.
    #[arg(long, default_value = "auto", value_name = "NAME")]
    device: String,
}

/// Prints a table for people and the same as JSON.
pub fn diagnose(arguments: &Arguments) -> Result<(), Failure> {
    let mut overrides = arguments.set.clone();
    overrides.extend(arguments.seed.map(|seed| format!("seed={seed}")));
    let document = Document::load(&arguments.experiment, &overrides).map_err(Failure::misuse)?;
    let device = dtta::device(&arguments.device).map_err(Failure::misuse)?;
    let mut prepared = Prepared::new(document, &registry(), device).map_err(Failure::misuse)?;
    eprintln!("this reads labels, and adapts nothing");
    let options = DiagnoseOptions {
        samples: arguments.samples,
        draws: arguments.draws,
        ranges: arguments
            .timesteps
            .windows(2)
            .map(|pair| [pair[0], pair[1]])
            .collect(),
    };
    let bar = ProgressBar::new(prepared.stream().domains().len() as u64);
    let diagnosis = prepared.diagnose(&options, &mut |done, _| bar.set_position(done as u64));
    bar.finish_and_clear();
    let diagnosis = diagnosis.map_err(|error| match error {
        dtta::Error::Invalid { .. } => Failure::misuse(error),
        error => Failure::failed(error),
    })?;
    eprintln!("{}", table(&diagnosis));
    crate::print_json(&diagnosis)
}

fn table(diagnosis: &Diagnosis) -> Table {
    let classified = diagnosis
        .domains
        .iter()
        .flat_map(|domain| &domain.ranges)
        .any(|range| range.classifier_accuracy.is_some());
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    let mut header = vec![
        "domain",
        "t",
        "loss, source",
        "truth",
        "shuffled",
        "truth wins",
        "toward truth",
    ];
    header.extend(classified.then_some("own class lowest"));
    table.set_header(header);
    for domain in &diagnosis.domains {
        for (n, range) in domain.ranges.iter().enumerate() {
            let percent = |share: f64| format!("{:.0} %", 100.0 * share);
            let against_source =
                |loss: f64| format!("{:+.1} %", 100.0 * (loss / range.source_loss - 1.0));
            let mut cells = vec![
                if n == 0 {
                    domain.name.clone()
                } else {
                    String::new()
                },
                format!("{}-{}", range.range[0], range.range[1]),
                format!("{:.4}", range.source_loss),
                against_source(range.true_loss),
                against_source(range.shuffled_loss),
                percent(range.truth_wins),
                percent(range.toward_truth),
            ];
            cells.extend(range.classifier_accuracy.map(percent));
            table.add_row(cells);
        }
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

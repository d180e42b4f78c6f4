//! `dtta diagnose`: what a denoiser knows of an experiment's samples, before a run is spent on it.

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use dtta::{DiagnoseOptions, Diagnosis};
use indicatif::ProgressBar;

use crate::Failure;
use crate::experiment::Opening;

/// What to look at.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    opening: Opening,
    /// Samples of each domain.
    #[arg(long, default_value_t = 32, value_name = "N")]
    samples: usize,
    /// Draws for each sample and range.
    #[arg(long, default_value_t = 4, value_name = "N")]
    draws: usize,
    /// Where ranges of timesteps begin and end.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 100, 300, 500, 700, 1000], value_name = "T,T,…")]
    timesteps: Vec<usize>,
}

/// Prints a table for people and the same as JSON.
pub fn diagnose(arguments: &Arguments) -> Result<(), Failure> {
    let mut prepared = arguments.opening.prepare()?;
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
    let diagnosis = diagnosis.map_err(crate::run::refused)?;
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

//! `dtta diagnose`: what a denoiser knows of an experiment's samples, before a run is spent on it.

use clap::Args;
use clap::builder::RangedU64ValueParser;
use comfy_table::{CellAlignment, Table, presets};
use dtta::{Conclusion, DiagnoseOptions, Diagnosis, MAX_DRAWS, RangeConclusion};
use dtta_tensor::Precision;
use indicatif::ProgressBar;

use crate::Failure;
use crate::experiment::Opening;
use crate::say::say;

/// Below so many images, a share must be far from one half to say anything.
const ENOUGH: usize = 32;

/// What to look at.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    opening: Opening,
    /// Samples of each domain.
    #[arg(long, default_value_t = 32, value_name = "N")]
    samples: usize,
    /// Draws for each sample and range.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=MAX_DRAWS as u64))]
    draws: usize,
    /// Boundaries of the ranges of timesteps; by default five ranges of the denoiser's times, such as 0,100,300,500,700,1000.
    #[arg(long, value_delimiter = ',', value_name = "T,T,…")]
    timesteps: Vec<f64>,
    /// Prints the diagnosis as JSON, too.
    #[arg(long)]
    json: bool,
}

/// What the table's columns, which have the names of the JSON's fields, mean.
const LEGEND: &str = "\
t                    first timestep, and one after the last
source_loss          the denoiser's mean loss given the source model's prediction
true_loss            its loss given the true target; in brackets relative to source_loss: below 0, it prefers the truth
shuffled_loss        its loss given another sample's target: close to true_loss, it ignores the condition
truth_wins           share of samples whose loss is lower given the true target than given the prediction
toward_truth         share of samples whose first gradient points from the prediction toward the true target; chance is 50 %";
const LEGEND_OF_CLASSES: &str =
    "classifier_accuracy  share of samples whose loss is lowest given their own class";

const LEGEND_OF_ROUNDING: &str = "\
cosine               between the first gradient and that of the denoiser in f32
relative_error       length of the difference of both gradients, relative to that in f32";

/// The override by which a denoiser computes in `f32`.
const EXACT: &str = "models.denoiser_precision=f32";

/// Prints a table for people with what follows from it, and the same as JSON if that is asked for.
pub fn diagnose(arguments: &Arguments) -> Result<(), Failure> {
    let mut prepared = arguments.opening.prepare(None)?;
    say!("note: `diagnose` reads labels and adapts nothing");
    let rounded = prepared.experiment().models.denoiser_precision != Precision::F32;
    let exact = match rounded {
        true => {
            let mut exact = arguments.opening.prepare_with(&[EXACT], None)?;
            let weights = exact.denoiser_weights().map_err(crate::run::refused)?;
            Some(weights.clone())
        }
        false => None,
    };
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
    let mut progress = |done, _| bar.set_position(done as u64);
    let diagnosis = prepared.diagnose(&options, exact.as_ref(), &mut progress);
    bar.finish_and_clear();
    let diagnosis = diagnosis.map_err(crate::run::refused)?;
    let classified = classified(&diagnosis);
    say!("{}\n\n{LEGEND}", table(&diagnosis, classified, rounded));
    if classified {
        say!("{LEGEND_OF_CLASSES}");
    }
    if rounded {
        say!("{LEGEND_OF_ROUNDING}");
    }
    say!("\n{}", in_words(&diagnosis.conclusion));
    match arguments.json {
        true => crate::print_json(&diagnosis),
        false => Ok(()),
    }
}

/// Whether samples have one class each.
fn classified(diagnosis: &Diagnosis) -> bool {
    let mut ranges = diagnosis.domains.iter().flat_map(|domain| &domain.ranges);
    ranges.any(|range| range.classifier_accuracy.is_some())
}

fn table(diagnosis: &Diagnosis, classified: bool, rounded: bool) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    let mut header = vec![
        "domain",
        "t",
        "source_loss",
        "true_loss",
        "shuffled_loss",
        "truth_wins",
        "toward_truth",
    ];
    header.extend(classified.then_some("classifier_accuracy"));
    if rounded {
        header.extend(["cosine", "relative_error"]);
    }
    table.set_header(header);
    for domain in &diagnosis.domains {
        for (n, range) in domain.ranges.iter().enumerate() {
            let percent = |share: f64| format!("{:.0} %", 100.0 * share);
            let against_source = |loss: f64| {
                let change = 100.0 * (loss / range.source_loss - 1.0);
                format!("{loss:.4} ({change:+.1} %)")
            };
            let mut cells = vec![
                if n == 0 {
                    domain.name.clone()
                } else {
                    String::new()
                },
                format!("{}-{}", range.t[0], range.t[1]),
                format!("{:.4}", range.source_loss),
                against_source(range.true_loss),
                against_source(range.shuffled_loss),
                percent(range.truth_wins),
                percent(range.toward_truth),
            ];
            cells.extend(range.classifier_accuracy.map(percent));
            if let Some(rounding) = range.rounding {
                cells.push(format!("{:.5}", rounding.cosine));
                cells.push(format!("{:.1e}", rounding.relative_error));
            }
            table.add_row(cells);
        }
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// What follows, in sentences.
fn in_words(conclusion: &Conclusion) -> String {
    let Conclusion { images, .. } = conclusion;
    let over = match &*conclusion.domains {
        [one] => format!("over {images} images of {one}"),
        several => format!("over {images} images in {} domains", several.len()),
    };
    let [low, high] = conclusion.configured_t;
    let Some([from, to]) = conclusion.suggested_t else {
        let listens = |range: &RangeConclusion| range.true_loss < range.shuffled_loss;
        let why = match conclusion.ranges.iter().any(listens) {
            true => {
                "in no range of t do more of its gradients point toward the truth than chance explains"
            }
            false => "it denoises no better given the true target than given another sample's",
        };
        let more = match *images < ENOUGH {
            true => format!("; {images} images are few, `--samples` takes more"),
            false => String::new(),
        };
        return format!("this denoiser says nothing here: {why} ({over}){more}");
    };
    let mut words = format!(
        "suggested range of t: {from} to {to}, where gradients point toward the truth more often than chance explains ({over}); "
    );
    words += &match [low, high] == [from, to] {
        true => "the experiment uses it".to_owned(),
        false => format!(
            "the experiment uses {low} to {high}, `--set method.timesteps.range=[{from},{to}]` changes it"
        ),
    };
    if !conclusion.points_away.is_empty() {
        let away = conclusion.points_away.join(", ");
        words += &format!("\nmost gradients point away from the truth there in: {away}");
    }
    words
}

//! `dtta run`: an experiment from file to table.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::anyhow;
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use dtta::{Intervals, Observer, Pair, Progress, RunOptions, Summary, TaskKind};
use indicatif::{ProgressBar, ProgressStyle};

use crate::Failure;
use crate::experiment::Opening;

/// What to run, and how.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    opening: Opening,
    /// Folder for records and report; `runs/NAME` if absent.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Validates everything, adapts nothing.
    #[arg(long)]
    dry_run: bool,
    /// Continues an interrupted run in its folder.
    #[arg(long)]
    resume: bool,
    /// Overwrites the records of an earlier run.
    #[arg(long, conflicts_with = "resume")]
    force: bool,
}

static STOP: AtomicBool = AtomicBool::new(false);

/// Runs an experiment.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut prepared = arguments.opening.prepare()?;
    let samples = prepared.stream().len();
    let domains = prepared.stream().domains().len();
    eprintln!(
        "{}: {samples} samples in {domains} domains on {}",
        prepared.experiment().name,
        prepared.device()
    );
    if arguments.dry_run {
        eprintln!("everything fits; nothing was adapted");
        return Ok(());
    }
    let out = arguments
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from("runs").join(&prepared.experiment().name));
    if arguments.force {
        match std::fs::remove_file(out.join("records.jsonl")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::misuse(anyhow!(error).context(format!(
                    "cannot remove the records in `{}`",
                    out.display()
                ))));
            }
            _ => {}
        }
    }
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            dtta_plugin::interrupt();
        }
        eprintln!("stopping after this batch; press again to interrupt a plugin");
    })
    .map_err(Failure::failed)?;
    let options = RunOptions {
        out: out.clone(),
        resume: arguments.resume,
        stop: &STOP,
    };
    let mut bar = Bar::new(samples);
    let outcome = prepared.run(&options, &mut bar);
    bar.0.finish_and_clear();
    let summary = outcome.map_err(|error| match error {
        dtta::Error::OutputExists { .. } | dtta::Error::Resume { .. } => Failure::misuse(error),
        error => Failure::failed(error),
    })?;
    eprintln!("{}", table(&summary));
    if summary.task != TaskKind::Classification.name() {
        eprintln!("{}", scores(&summary));
    }
    let protocol = &summary.protocol;
    let mut mode = format!("reset: {}", protocol.reset);
    if let Some(slow) = protocol.slow_weights {
        mode += &format!(", slow weights at {}", slow.rate);
    }
    if let Some(gate) = protocol.gate {
        let soft = if gate.soft { "soft " } else { "" };
        mode += &format!(", {soft}gate at {} explained", gate.explained);
    }
    eprintln!(
        "{:.1} draws/s, peak memory {}, {mode}, {} draws x {} steps, batch {}, seed {}",
        summary.draws_per_second,
        summary
            .peak_memory_bytes
            .map_or("unknown".into(), |bytes| format!(
                "{:.0} MiB",
                bytes as f64 / 1_048_576.0
            )),
        protocol.draws,
        protocol.steps,
        protocol.batch,
        protocol.seed,
    );
    if summary.skipped > 0 {
        eprintln!(
            "{} samples were skipped because a plugin failed",
            summary.skipped
        );
    }
    eprintln!("records and report data: {}", out.display());
    Ok(())
}

/// A progress bar with the current domain's accuracy before and after.
struct Bar(ProgressBar);

impl Bar {
    fn new(samples: usize) -> Self {
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg} eta {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        Self(ProgressBar::new(samples as u64).with_style(style))
    }
}

impl Observer for Bar {
    fn batch(&mut self, progress: &Progress<'_>) {
        self.0.set_position(progress.done as u64);
        let percent =
            |share: Option<f64>| share.map_or("-".into(), |share| format!("{:.1}%", 100.0 * share));
        self.0.set_message(format!(
            "{} {} -> {}",
            progress.domain,
            percent(progress.source),
            percent(progress.adapted)
        ));
    }
}

/// Scores that are better when they are lower, and those that are no shares.
const LOWER_IS_BETTER: [&str; 4] = ["abs_rel", "rmse", "log10", "calibration_error"];
const NO_SHARES: [&str; 2] = ["rmse", "log10"];

/// One row for each domain, and their mean, in the score that the summary names.
fn table(summary: &Summary) -> Table {
    let name = &summary.metric;
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    let mut header = vec![
        "domain",
        "source",
        "adapted",
        "gain",
        "95 % interval",
        "s/image",
    ];
    let title = format!("domain ({name})");
    header[0] = &title;
    table.set_header(header);
    let row = |domain: &str, scores: [&dtta::Scores; 2], intervals: &Intervals, seconds: f64| {
        let mut cells = vec![domain.to_owned()];
        cells.extend(gain(name, scores, intervals));
        cells.push(format!("{seconds:.3}"));
        cells
    };
    for domain in &summary.domains {
        let scores = [&domain.source, &domain.adapted];
        table.add_row(row(
            &domain.name,
            scores,
            &domain.intervals,
            domain.seconds_per_sample,
        ));
    }
    let Pair {
        source,
        adapted,
        intervals,
    } = &summary.mean;
    table.add_row(row(
        "mean",
        [source, adapted],
        intervals,
        summary.seconds_per_sample,
    ));
    align(table)
}

/// One row for each score, on the mean over domains.
fn scores(summary: &Summary) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "mean over corruptions",
        "source",
        "adapted",
        "gain",
        "95 % interval",
    ]);
    let Pair {
        source,
        adapted,
        intervals,
    } = &summary.mean;
    for name in source.keys() {
        let note = if LOWER_IS_BETTER.contains(&name.as_str()) {
            " (lower is better)"
        } else {
            ""
        };
        let mut cells = vec![format!("{name}{note}")];
        cells.extend(gain(name, [source, adapted], intervals));
        table.add_row(cells);
    }
    align(table)
}

/// Source, adapted, gain and its interval, in percent where the score is a share.
fn gain(name: &str, [source, adapted]: [&dtta::Scores; 2], intervals: &Intervals) -> [String; 4] {
    let (factor, digits) = if NO_SHARES.contains(&name) {
        (1.0, 3)
    } else {
        (100.0, 1)
    };
    let scaled = |score: f64| factor * score;
    let cell = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.digits$}"));
    let (source, adapted) = (
        source.get(name).copied().map(scaled),
        adapted.get(name).copied().map(scaled),
    );
    let gain = source.zip(adapted).map_or("-".into(), |(source, adapted)| {
        format!("{:+.digits$}", adapted - source)
    });
    let interval = intervals.get(name).map_or("-".into(), |interval| {
        format!(
            "{:+.digits$} to {:+.digits$}",
            scaled(interval.low),
            scaled(interval.high)
        )
    });
    [cell(source), cell(adapted), gain, interval]
}

fn align(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

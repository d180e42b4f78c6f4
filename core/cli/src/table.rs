//! Summaries as tables for people.

use comfy_table::{CellAlignment, Table, presets};
use dtta::{Intervals, Pair, Scores, Summary};
use dtta_plugin::ScoreSpec;

/// Everything that is printed when a run is over.
pub fn print(summary: &Summary) {
    eprintln!("{}", domains(summary));
    if summary.mean.source.len() > 1 {
        eprintln!("{}", scores(summary));
    }
    let protocol = &summary.protocol;
    let memory = summary.peak_memory_bytes.map_or("unknown".into(), |bytes| {
        format!("{:.0} MiB", bytes as f64 / 1_048_576.0)
    });
    eprintln!(
        "{:.1} draws/s, peak memory {memory}, {}, {}, batch {}, seed {}",
        summary.draws_per_second,
        protocol.adaptation.mode,
        protocol.in_words,
        protocol.adaptation.batch,
        protocol.seed,
    );
    if summary.skipped > 0 {
        eprintln!(
            "{} samples were skipped: a plugin failed, or a number came out that is none; their records say why",
            summary.skipped
        );
    }
}

/// A score as it is written: its number and its digits.
pub fn shown(spec: Option<&ScoreSpec>) -> (f64, usize) {
    match spec {
        Some(spec) if spec.is_share() => (100.0, 1),
        _ => (1.0, 3),
    }
}

/// One row for each domain, and their mean, in the score that the summary names.
fn domains(summary: &Summary) -> Table {
    let name = &summary.metric;
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    let title = format!("domain ({})", titled(summary, name));
    table.set_header([
        title.as_str(),
        "source",
        "adapted",
        "gain",
        "95 % interval",
        "s/image",
    ]);
    let row = |domain: &str, scores: [&Scores; 2], intervals: &Intervals, seconds: f64| {
        let mut cells = vec![domain.to_owned()];
        cells.extend(gain(summary, name, scores, intervals));
        cells.push(format!("{seconds:.3}"));
        cells
    };
    for domain in &summary.domains {
        let scores = [&domain.source, &domain.adapted];
        let mut title = domain.name.clone();
        if domain.skipped > 0 {
            title += &format!(" ({} skipped)", domain.skipped);
        }
        table.add_row(row(
            &title,
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
        &mean_of(summary),
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
        mean_of(summary).as_str(),
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
        let mut cells = vec![titled(summary, name)];
        cells.extend(gain(summary, name, [source, adapted], intervals));
        table.add_row(cells);
    }
    align(table)
}

/// Over which domains the mean is.
fn mean_of(summary: &Summary) -> String {
    let averaged = summary
        .domains
        .iter()
        .filter(|domain| domain.averaged)
        .count();
    match averaged == summary.domains.len() {
        true => "mean".into(),
        false if averaged == 1 => "mean of 1 shifted domain".into(),
        false => format!("mean of {averaged} shifted domains"),
    }
}

/// A score's name with its unit and, where less is better, that.
fn titled(summary: &Summary, name: &str) -> String {
    let spec = ScoreSpec::of(&summary.scores, name);
    let mut notes = Vec::new();
    if let Some(spec) = spec {
        match spec.unit.as_deref() {
            Some(ScoreSpec::SHARE) => notes.push("%".to_owned()),
            Some(unit) => notes.push(unit.to_owned()),
            None => {}
        }
        if spec.higher_is_better == Some(false) {
            notes.push("lower is better".into());
        }
    }
    match notes.is_empty() {
        true => name.into(),
        false => format!("{name}, {}", notes.join(", ")),
    }
}

/// Source, adapted, gain and its interval, in percent where the score is a share.
fn gain(
    summary: &Summary,
    name: &str,
    [source, adapted]: [&Scores; 2],
    intervals: &Intervals,
) -> [String; 4] {
    let (factor, digits) = shown(ScoreSpec::of(&summary.scores, name));
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

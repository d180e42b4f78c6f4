//! Summaries as tables for people.

use crate::say::say;
use comfy_table::{CellAlignment, Table, presets};
use dtta::{Interval, Intervals, Pair, Scores, Summary};
use dtta_plugin::ScoreSpec;
use dtta_tensor::Precision;

/// Everything that is printed when a run is over.
pub fn print(summary: &Summary) {
    say!("{}", domains(summary, &summary.metric));
    if summary.mean.source.len() > 1 {
        say!("{}", scores(summary));
    }
    if log::log_enabled!(log::Level::Info) {
        let others = summary.mean.source.keys();
        for name in others.filter(|name| **name != summary.metric) {
            say!("{}", domains(summary, name));
        }
    }
    let protocol = &summary.protocol;
    let memory = summary.peak_memory_bytes.map_or("unknown".into(), |bytes| {
        format!("{:.0} MiB", bytes as f64 / 1_048_576.0)
    });
    let precision = match protocol.denoiser_precision {
        Precision::F32 => String::new(),
        precision => format!(", denoiser in {precision}"),
    };
    say!(
        "{:.1} draws/s, peak memory {memory}, {}, {}, batch {}, seed {}{precision}",
        summary.draws_per_second,
        protocol.adaptation.mode,
        protocol.in_words,
        protocol.adaptation.batch,
        protocol.seed,
    );
    for (model, seen) in &protocol.seen {
        say!("{model} sees {seen}");
    }
    if summary.skipped > 0 {
        say!(
            "{} samples were skipped because a plugin failed or a value was NaN or infinite; their records give the reason",
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

/// One row for each domain, and their mean, in one score.
fn domains(summary: &Summary, name: &str) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    let title = format!("domain ({})", titled(&summary.scores, name));
    table.set_header([
        title.as_str(),
        "source",
        "adapted",
        "change",
        "95 % interval",
        "s/image",
    ]);
    let row = |domain: &str, scores: [&Scores; 2], intervals: &Intervals, seconds: f64| {
        let mut cells = vec![domain.to_owned()];
        cells.extend(change(summary, name, scores, intervals));
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
        "change",
        "95 % interval",
    ]);
    let Pair {
        source,
        adapted,
        intervals,
    } = &summary.mean;
    for name in source.keys() {
        let mut cells = vec![titled(&summary.scores, name)];
        cells.extend(change(summary, name, [source, adapted], intervals));
        table.add_row(cells);
    }
    align(table)
}

/// Over which domains the mean is.
fn mean_of(summary: &Summary) -> String {
    let left_out = summary.domains.iter().filter(|domain| !domain.averaged);
    let left_out: Vec<_> = left_out.map(|domain| &*domain.name).collect();
    match left_out.is_empty() {
        true => "mean".into(),
        false => format!("mean (without {})", left_out.join(", ")),
    }
}

/// A score's name with its unit and, where less is better, that.
pub fn titled(scores: &[ScoreSpec], name: &str) -> String {
    let spec = ScoreSpec::of(scores, name);
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

/// Source, adapted, the change, marked by the score's direction, and its interval; in percent where the score is a share.
fn change(
    summary: &Summary,
    name: &str,
    [source, adapted]: [&Scores; 2],
    intervals: &Intervals,
) -> [String; 4] {
    let spec = ScoreSpec::of(&summary.scores, name);
    let (factor, digits) = shown(spec);
    let scaled = |score: f64| factor * score;
    let cell = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.digits$}"));
    let (source, adapted) = (
        source.get(name).copied().map(scaled),
        adapted.get(name).copied().map(scaled),
    );
    let interval = intervals.get(name);
    let change = source.zip(adapted).map_or("-".into(), |(source, adapted)| {
        let change = format!("{:+.digits$}", adapted - source);
        let direction = spec.and_then(|spec| spec.higher_is_better);
        match marked(&change, interval, direction) {
            Some(mark) => format!("{change} {mark}"),
            None => change,
        }
    });
    let interval = interval.map_or("-".into(), |interval| {
        format!(
            "{:+.digits$} to {:+.digits$}",
            scaled(interval.low),
            scaled(interval.high)
        )
    });
    [cell(source), cell(adapted), change, interval]
}

/// Whether a change, as it is printed, is for the better; not said of one that is printed as none, of one whose interval does not exclude
/// none, or of a score without direction.
fn marked(
    change: &str,
    interval: Option<&Interval>,
    higher_is_better: Option<bool>,
) -> Option<&'static str> {
    let is_none = change.chars().all(|c| !c.is_ascii_digit() || c == '0');
    let is_sure = interval.is_some_and(|interval| interval.low > 0.0 || interval.high < 0.0);
    match higher_is_better {
        _ if is_none || !is_sure => None,
        Some(higher) if change.starts_with('+') == higher => Some("better"),
        Some(_) => Some("worse"),
        None => None,
    }
}

fn align(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_marked_by_the_scores_direction_where_its_interval_excludes_none() {
        let [above, below, both] =
            [[0.1, 2.0], [-2.0, -0.1], [-0.1, 2.0]].map(|[low, high]| Some(Interval { low, high }));
        let mark =
            |change, interval: &Option<Interval>, higher| marked(change, interval.as_ref(), higher);
        assert_eq!(mark("+1.2", &above, Some(true)), Some("better"));
        assert_eq!(mark("-1.2", &below, Some(true)), Some("worse"));
        assert_eq!(mark("-0.012", &below, Some(false)), Some("better"));
        assert_eq!(mark("+0.012", &above, Some(false)), Some("worse"));
        assert_eq!(mark("-0.0", &below, Some(true)), None);
        assert_eq!(mark("+1.2", &above, None), None);
        assert_eq!(mark("+1.2", &both, Some(true)), None);
        assert_eq!(mark("+1.2", &None, Some(true)), None);
    }
}

//! A plan in words: what is missing, what the models compute, how long that takes here.

use std::time::Duration;

use dtta::{Footprint, Plan, Work};
use dtta_base::in_bytes;
use indicatif::HumanDuration;

/// The plan, for people.
pub fn in_words(plan: &Plan) -> String {
    let mut lines = Vec::new();
    for missing in &plan.missing {
        let origin = missing
            .origin
            .as_ref()
            .map_or(String::new(), |origin| format!(" (from {origin})"));
        lines.push(format!(
            "missing: {}: `{}`{origin}",
            missing.pointer,
            missing.path.display()
        ));
    }
    match &plan.work {
        Some(work) => lines.extend(of(work, !plan.missing.is_empty())),
        None => lines.push(
            "the plan needs the models' configurations and the files of label space and class names"
                .into(),
        ),
    }
    lines.join("\n")
}

fn of(work: &Work, random: bool) -> Vec<String> {
    let mut lines = vec![format!(
        "task model: {} parameters, {} for each image",
        count(work.task_parameters as f64),
        measured(&work.task)
    )];
    let mut sample = format!("each sample: {} steps", work.steps);
    if let Some(draw) = &work.draw {
        lines.push(format!(
            "denoiser: {} parameters in {}, {} for each draw, backward included",
            count(work.denoiser_parameters as f64),
            work.denoiser_precision,
            measured(draw)
        ));
        sample += &format!(
            " x {} draws, in calls of {}",
            work.draws,
            work.micro_batch.min(work.draws)
        );
    }
    sample += &format!(
        ": about {} and up to {} of memory",
        time(work.seconds()),
        in_bytes(work.memory_bytes())
    );
    for (model, seen) in &work.seen {
        lines.push(format!("{model} sees {seen}"));
    }
    if random {
        sample += ", measured with random weights where files are missing";
    }
    lines.push(sample);
    lines
}

/// Products of a forward pass, and measured seconds.
fn measured(footprint: &Footprint) -> String {
    format!(
        "{} multiply-adds forward and {}",
        count(footprint.multiply_adds as f64),
        time(footprint.seconds)
    )
}

/// A number with the unit that leaves it between 1 and 1000.
pub fn count(number: f64) -> String {
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match units.iter().find(|(unit, _)| number >= *unit) {
        Some((unit, name)) => format!("{:.3} {name}", number / unit),
        None => format!("{number}"),
    }
}

/// A time in words, to about one per cent.
pub fn time(seconds: f64) -> String {
    match seconds {
        ..1.0 => format!("{:.1} ms", 1e3 * seconds),
        ..60.0 => format!("{seconds:.1} s"),
        _ => HumanDuration(Duration::from_secs_f64(seconds.min(1e9))).to_string(),
    }
}

//! The effect of the timestep, from what `dtta diagnose --json` prints.

use std::path::Path;

use dtta::Diagnosis;

use crate::chart::{Chart, Lines, Plot, Reference, Role, Series, Shape, Table};
use crate::error::{Error, Result};
use crate::numbers::loss;
use crate::run::document;

/// Reads a diagnosis.
///
/// # Errors
/// A file that cannot be read, or is no diagnosis.
pub fn read(path: &Path) -> Result<Diagnosis> {
    let found = document(path)?.ok_or_else(|| dtta_base::Error::Read {
        path: path.into(),
        source: std::io::ErrorKind::NotFound.into(),
    })?;
    let diagnosis: Diagnosis = found;
    let ranges = diagnosis.conclusion.ranges.len();
    let is_even = diagnosis
        .domains
        .iter()
        .all(|domain| domain.ranges.len() == ranges);
    match is_even && ranges > 0 {
        true => Ok(diagnosis),
        false => Err(Error::Contents {
            path: path.into(),
            reason: "does not have the same ranges of timesteps for each domain".into(),
        }),
    }
}

/// What changes along t.
pub fn charts(diagnosis: &Diagnosis) -> Vec<Chart> {
    let ranges = &diagnosis.conclusion.ranges;
    let concerned = || {
        diagnosis
            .domains
            .iter()
            .filter(|domain| diagnosis.conclusion.domains.contains(&domain.name))
    };
    let count = concerned().count().max(1) as f64;
    let mean_source = |place: usize| {
        concerned()
            .map(|domain| domain.ranges[place].source_loss)
            .sum::<f64>()
            / count
    };
    let middle = |t: [f64; 2]| 0.5 * (t[0] + t[1]);
    let named = |t: [f64; 2]| format!("{} to {}", t[0], t[1]);
    let relative = |value: f64, base: f64| 100.0 * (value / base - 1.0);
    let (mut of_truth, mut of_others, mut toward, mut low) = (vec![], vec![], vec![], vec![]);
    let (mut losses, mut shares) = (vec![], vec![]);
    for (place, range) in ranges.iter().enumerate() {
        let (source, x) = (mean_source(place), middle(range.t));
        of_truth.push((x, relative(range.true_loss, source)));
        of_others.push((x, relative(range.shuffled_loss, source)));
        toward.push((x, 100.0 * range.toward_truth));
        low.push((x, 100.0 * range.toward_truth_low));
        let [truth, others] =
            [of_truth[place].1, of_others[place].1].map(|change| crate::numbers::signed(change, 2));
        losses.push(vec![
            named(range.t),
            loss(source),
            format!("{} ({truth} %)", loss(range.true_loss)),
            format!("{} ({others} %)", loss(range.shuffled_loss)),
        ]);
        shares.push(vec![
            named(range.t),
            format!("{:.1} %", 100.0 * range.toward_truth),
            format!("{:.1} %", 100.0 * range.toward_truth_low),
            if range.useful { "yes" } else { "no" }.to_owned(),
        ]);
    }
    let span = ranges
        .first()
        .zip(ranges.last())
        .map(|(first, last)| [first.t[0], last.t[1]]);
    let series = |name: &str, role, shape, points: Vec<(f64, f64)>| Series {
        name: name.into(),
        role,
        shape,
        pieces: vec![
            points
                .into_iter()
                .filter(|point| point.1.is_finite())
                .collect(),
        ],
        marks: 100,
    };
    let over = format!(
        "{} images in {} domains, {} draws for each image and range",
        diagnosis.conclusion.images,
        diagnosis.conclusion.domains.len(),
        diagnosis.draws
    );
    let suggested = match diagnosis.conclusion.suggested_t {
        Some([from, to]) => format!("the diagnosis suggests t from {from} to {to}"),
        None => "in no range does the diagnosis find more than chance".into(),
    };
    let [from, to] = diagnosis.conclusion.configured_t;
    let lines = |y: &str, series, at| {
        Plot::Lines(Lines {
            x: "timestep t (middle of its range)".into(),
            y: y.into(),
            is_whole: false,
            is_log: false,
            x_range: span,
            y_range: None,
            series,
            sections: Vec::new(),
            reference: Some(Reference::At(at)),
        })
    };
    vec![
        Chart {
            name: "t-loss",
            title: "Diffusion loss by timestep, relative to the source model's prediction".into(),
            description: format!("How much lower or higher the denoiser's loss is given the true target, and given another image's target, than given what the source model predicts, over {over}."),
            note: Some("Below 0, the denoiser explains an image better than with the prediction of the source model. Where both curves meet, it ignores its condition.".into()),
            plot: lines("change of the loss (%)", vec![
                series("true target", Role::After, Shape::Square, of_truth),
                series("another image's target", Role::Worse, Shape::Down, of_others),
            ], 0.0),
            table: Table::new(["t", "loss given the prediction", "given the true target", "given another's"], losses),
        },
        Chart {
            name: "t-direction",
            title: "Does the first gradient point toward the truth?".into(),
            description: format!("Share of images whose first gradient at the condition points toward the true target, by timestep, over {over}; {suggested}."),
            note: Some(format!("Chance is 50 %. The experiment uses t from {from} to {to}; {suggested}. Over {over}.")),
            plot: lines("share of images (%)", vec![
                series("share", Role::After, Shape::Square, toward),
                series("lower end of its 99.5 % interval", Role::Neutral, Shape::Ring, low),
            ], 50.0),
            table: Table::new(["t", "toward the truth", "lower end", "useful"], shares),
        },
    ]
}

//! The charts of a run.

use dtta::{DomainSummary, Interval};

use crate::chart::{
    Bars, Chart, Gains, Lines, Matrix, Plot, Reference, Role, Row, Series, Shape, Table,
};
use crate::found::Part;
use crate::numbers::{Scale, Verdict, count, loss};
use crate::run::Run;

/// Domains of the first chart at most: with more, those that changed the most either way.
const FIRST: usize = 16;
/// Domains of a chart at most.
const MOST_ROWS: usize = 120;
/// Classes of a matrix at most.
const CLASSES: usize = 50;
/// Marks of a curve, about.
const MARKS: usize = 24;
/// Confusions that are told in words.
const CONFUSIONS: usize = 12;

/// Scores before and after of one domain, and where the change may lie.
struct Domain {
    name: String,
    is_mean: bool,
    samples: usize,
    pair: Option<[f64; 2]>,
    interval: Option<Interval>,
}

impl Run {
    /// By domain, the mean first: the leading score of the summary, or where there is none yet, the mean of the samples' own.
    fn domains(&self) -> Vec<Domain> {
        let Some(summary) = &self.summary else {
            let domains = self.description.domains.iter();
            let found =
                domains.filter_map(|domain| Some((domain, self.found.domains.get(&domain.name)?)));
            return found
                .map(|(domain, found)| Domain {
                    name: domain.name.clone(),
                    is_mean: false,
                    samples: found.samples - found.skipped,
                    pair: found.means(),
                    interval: None,
                })
                .collect();
        };
        let name = &summary.metric;
        let pair = |source: &dtta::Scores, adapted: &dtta::Scores| {
            Some([*source.get(name)?, *adapted.get(name)?])
        };
        let of_domain = |domain: &DomainSummary| Domain {
            name: domain.name.clone(),
            is_mean: false,
            samples: domain.samples,
            pair: pair(&domain.source, &domain.adapted),
            interval: domain.intervals.get(name).copied(),
        };
        let averaged = summary.domains.iter().filter(|domain| domain.averaged);
        let mean = Domain {
            name: if averaged.clone().count() == summary.domains.len() {
                "mean".into()
            } else {
                "mean of shifted".into()
            },
            is_mean: true,
            samples: averaged.map(|domain| domain.samples).sum(),
            pair: pair(&summary.mean.source, &summary.mean.adapted),
            interval: summary.mean.intervals.get(name).copied(),
        };
        let several = summary.domains.len() > 1;
        let mean = several.then_some(mean);
        mean.into_iter()
            .chain(summary.domains.iter().map(of_domain))
            .collect()
    }

    /// The chart of the first screen: how much each domain changed.
    pub fn gains(&self) -> Option<Chart> {
        let scale = self.scale();
        let mut domains = self.domains();
        domains.retain(|domain| domain.pair.is_some());
        let all = domains.iter().filter(|domain| !domain.is_mean).count();
        let mut note = None;
        if all > FIRST {
            let change =
                |domain: &Domain| domain.pair.map_or(0.0, |[before, after]| after - before);
            let mut by_change: Vec<usize> = (0..domains.len())
                .filter(|&n| !domains[n].is_mean)
                .collect();
            by_change.sort_by(|&a, &b| change(&domains[a]).total_cmp(&change(&domains[b])));
            let ends = FIRST / 2;
            let kept: Vec<usize> = by_change[..ends]
                .iter()
                .chain(&by_change[by_change.len() - ends..])
                .copied()
                .collect();
            let mut place = 0;
            domains.retain(|domain| {
                place += 1;
                domain.is_mean || kept.contains(&(place - 1))
            });
            note = Some(format!(
                "Of {all} domains, the {ends} that changed the most in each direction; all of them are below."
            ));
        }
        if domains.is_empty() {
            return None;
        }
        let (rows, table) = rows(&domains, &scale);
        Some(Chart {
            name: "gains",
            title: format!("Change of {} by domain", scale.name()),
            description: told(&domains, &scale),
            note,
            plot: Plot::Gains(Gains {
                x: scale.change_axis(),
                rows,
            }),
            table,
        })
    }

    /// Scores of each domain, before and after.
    fn by_domain(&self) -> Option<Chart> {
        let scale = self.scale();
        let mut domains = self.domains();
        domains.retain(|domain| domain.pair.is_some());
        if domains.is_empty() {
            return None;
        }
        let all = domains.len();
        let (mut rows, table) = rows(&domains, &scale);
        rows.truncate(MOST_ROWS);
        let mut note = String::new();
        if all > MOST_ROWS {
            note += &format!("The first {MOST_ROWS} of {all} rows; the table has more. ");
        }
        note += match &self.summary {
            Some(_) => {
                "Intervals are those of the change (paired bootstrap over samples), drawn from the score before."
            }
            None => {
                "The run has no summary yet: these are means over the samples so far, each scored by itself, without intervals."
            }
        };
        Some(Chart {
            name: "domains",
            title: format!("{} by domain, before and after", capitalised(scale.name())),
            description: told(&domains, &scale),
            note: Some(note),
            plot: Plot::Bars(Bars {
                x: scale.axis(),
                names: before_and_after(),
                rows,
            }),
            table,
        })
    }

    /// The score along the stream.
    fn along(&self) -> Option<Chart> {
        let scale = self.sample_scale();
        let parts = &self.found.parts;
        let score = |side: usize| {
            move |point: &crate::found::Point| point.scores.map(|scores| scores[side])
        };
        let pieces = [0, 1].map(|side| pieces(parts, score(side), &scale));
        if pieces[0].iter().all(Vec::is_empty) {
            return None;
        }
        let rows = points_table(parts, |point| {
            point
                .scores
                .map(|scores| scores.map(|score| scale.bare(score)).to_vec())
        });
        let [before, after] = before_and_after();
        let mut note = format!("Each point is the mean over {}.", windows(parts));
        if !self.found.is_classification {
            note += " It is the mean of the images' own scores, which is not the score of all of them together.";
        }
        Some(Chart {
            name: "stream",
            title: format!("{} along the stream", capitalised(scale.name())),
            description: format!(
                "Moving mean of {} over {} images in stream order, before and after adaptation. {}",
                scale.name(),
                count(self.found.samples),
                part_ends(parts, &scale)
            ),
            note: Some(note),
            plot: Plot::Lines(Lines {
                x: "images of the stream".into(),
                y: scale.axis(),
                is_whole: false,
                is_log: false,
                x_range: Some([0.0, self.found.samples.max(1) as f64]),
                y_range: None,
                series: two_series(before, after, pieces),
                sections: sections(parts),
                reference: None,
            }),
            table: Table::new(
                [
                    "domain",
                    "images up to",
                    before_and_after()[0].as_str(),
                    before_and_after()[1].as_str(),
                ],
                rows,
            ),
        })
    }

    /// The loss by step, and along the stream.
    fn losses(&self) -> Vec<Chart> {
        let mut charts = Vec::new();
        let steps = &self.found.steps;
        let means: Vec<(f64, f64)> = steps
            .iter()
            .enumerate()
            .map(|(n, step)| ((n + 1) as f64, step.sum / step.samples as f64))
            .collect();
        if let ([(_, first), ..], [.., (_, last)]) = (&*means, &*means) {
            let rows = steps
                .iter()
                .zip(&means)
                .map(|(step, (n, mean))| vec![format!("{n}"), loss(*mean), count(step.samples)]);
            let relative = 100.0 * (last / first - 1.0);
            let change = match means.len() {
                1 => String::new(),
                _ => format!(
                    " to {} in step {}, {}",
                    loss(*last),
                    means.len(),
                    percent_change(relative)
                ),
            };
            let mut note =
                "The method's loss before each step's update, over the images that made the step."
                    .to_owned();
            if self.found.without_loss > 0 {
                note += &format!(
                    " {} images were left as they were.",
                    count(self.found.without_loss)
                );
            }
            charts.push(Chart {
                name: "loss-by-step",
                title: "Mean loss of each step".into(),
                description: format!(
                    "The mean loss goes from {} in step 1{change}.",
                    loss(*first)
                ),
                note: Some(note),
                table: Table::new(["step", "mean loss", "images"], rows.collect()),
                plot: Plot::Lines(Lines {
                    x: "step".into(),
                    y: "loss".into(),
                    is_whole: true,
                    is_log: false,
                    x_range: Some([0.5, means.len() as f64 + 0.5]),
                    y_range: None,
                    series: vec![Series {
                        name: "mean loss".into(),
                        role: Role::After,
                        shape: Shape::Square,
                        pieces: vec![means],
                        marks: 20,
                    }],
                    sections: Vec::new(),
                    reference: None,
                }),
            });
        }
        let parts = &self.found.parts;
        let plain = Scale::of(&[], "loss");
        let side = |side: usize| {
            move |point: &crate::found::Point| point.losses.map(|losses| losses[side])
        };
        let pieces = [0, 1].map(|n| pieces(parts, side(n), &plain));
        if pieces[0].iter().all(Vec::is_empty) {
            return charts;
        }
        let mut series = two_series("first step".into(), "last step".into(), pieces);
        if steps.len() == 1 {
            series.truncate(1);
            series[0].name = "loss".into();
        }
        let rows = points_table(parts, |point| {
            point.losses.map(|losses| losses.map(loss).to_vec())
        });
        charts.push(Chart {
            name: "loss-along",
            title: "Loss along the stream".into(),
            description: format!("Moving mean of the loss over {} images in stream order, in the first step and the last.", count(self.found.samples)),
            note: Some(format!("Each point is the mean over {}.", windows(parts))),
            plot: Plot::Lines(Lines {
                x: "images of the stream".into(),
                y: "loss".into(),
                is_whole: false,
                is_log: false,
                x_range: Some([0.0, self.found.samples.max(1) as f64]),
                y_range: None,
                series,
                sections: sections(parts),
                reference: None,
            }),
            table: Table::new(["domain", "images up to", "first step", "last step"], rows),
        });
        charts
    }

    /// Confidence against correctness.
    fn reliability(&self) -> Option<Chart> {
        let [before, after] = &self.found.calibration;
        let errors = [before.error()?, after.error()?];
        let pieces = [before, after].map(|of| {
            let bins = of.bins().iter().filter(|bin| bin.samples > 0);
            let points = bins.map(|bin| {
                let share = |sum: f64| 100.0 * sum / bin.samples as f64;
                (share(bin.confidence), share(bin.correct))
            });
            vec![points.collect::<Vec<_>>()]
        });
        let width = 100.0 / before.bins().len() as f64;
        let rows = before
            .bins()
            .iter()
            .zip(after.bins())
            .enumerate()
            .filter(|(_, (a, b))| a.samples + b.samples > 0);
        let rows = rows.map(|(n, (before, after))| {
            let mut row = vec![format!(
                "{:.0} to {:.0} %",
                width * n as f64,
                width * (n + 1) as f64
            )];
            for bin in [before, after] {
                let share = |sum: f64| match bin.samples {
                    0 => "-".to_owned(),
                    samples => format!("{:.1} %", 100.0 * sum / samples as f64),
                };
                row.extend([
                    count(bin.samples),
                    share(bin.confidence),
                    share(bin.correct),
                ]);
            }
            row
        });
        let shown = errors.map(|error| format!("{:.1} %", 100.0 * error));
        let [name_before, name_after] = before_and_after();
        let names = [
            format!("{name_before}, ECE {}", shown[0]),
            format!("{name_after}, ECE {}", shown[1]),
        ];
        let [name_before, name_after] = names;
        Some(Chart {
            name: "reliability",
            title: "Reliability: are confident predictions right?".into(),
            description: format!(
                "Share of right predictions by confidence. The expected calibration error is {} before and {} after adaptation; on the diagonal it would be 0.",
                shown[0], shown[1]
            ),
            note: Some(format!(
                "Over {} images of {} together, in {} bins of confidence. On the diagonal, a prediction is right as often as it is confident; below it is overconfident. The error of all of them together is not the mean of the domains' errors.",
                count(before.samples()),
                if self.description.domains.iter().any(|domain| domain.shifted) {
                    "the shifted domains"
                } else {
                    "all domains"
                },
                before.bins().len()
            )),
            plot: Plot::Lines(Lines {
                x: "mean confidence (%)".into(),
                y: "right predictions (%)".into(),
                is_whole: false,
                is_log: false,
                x_range: Some([0.0, 100.0]),
                y_range: Some([0.0, 100.0]),
                series: two_series(name_before, name_after, pieces)
                    .into_iter()
                    .map(|series| Series {
                        marks: 1000,
                        ..series
                    })
                    .collect(),
                sections: Vec::new(),
                reference: Some(Reference::Diagonal),
            }),
            table: Table::new(
                [
                    "confidence",
                    "images before",
                    "mean confidence",
                    "right",
                    "images after",
                    "mean confidence",
                    "right",
                ],
                rows.collect(),
            ),
        })
    }

    /// What became of images by how confident the source model was.
    fn by_confidence(&self) -> Option<Chart> {
        let scale = self.sample_scale();
        let bins = &self.found.by_confidence;
        let width = 100.0 / bins.len() as f64;
        let named = bins.iter().enumerate().filter_map(|(n, bin)| {
            let (gain, half) = bin.gain()?;
            Some((
                format!("{:.0} to {:.0} %", width * n as f64, width * (n + 1) as f64),
                bin.samples,
                gain,
                half,
            ))
        });
        let named: Vec<_> = named.collect();
        if named.is_empty() {
            return None;
        }
        let rows = named.iter().map(|(name, samples, gain, half)| {
            let interval = half.map(|half| Interval {
                low: gain - half,
                high: gain + half,
            });
            Row {
                name: name.clone(),
                is_mean: false,
                pair: [0.0, scale.shown(*gain)],
                interval: interval
                    .map(|Interval { low, high }| [scale.shown(low), scale.shown(high)]),
                verdict: scale.verdict(interval),
                label: format!("{}, n = {}", scale.change(*gain), count(*samples)),
            }
        });
        let table = named.iter().map(|(name, samples, gain, half)| {
            let interval = half.map_or("-".into(), |half| {
                scale.interval(Interval {
                    low: gain - half,
                    high: gain + half,
                })
            });
            vec![name.clone(), count(*samples), scale.change(*gain), interval]
        });
        let ends = [named.first(), named.last()].map(|end| {
            end.map_or(String::new(), |(name, samples, gain, _)| {
                format!(
                    "{} over {} images of confidence {name}",
                    scale.change_with_unit(*gain),
                    count(*samples)
                )
            })
        });
        Some(Chart {
            name: "gain-by-confidence",
            title: "Change by the source model's confidence".into(),
            description: format!("Mean change of {}: {}; {}.", scale.name(), ends[0], ends[1]),
            note: Some("At the right, the change and the number of images. Normal 95 % intervals of the mean change, as if images were independent; an image counts once for each domain that it is in.".into()),
            plot: Plot::Gains(Gains { x: scale.change_axis(), rows: rows.collect() }),
            table: Table::new(["source confidence", "images", "change", "95 % interval"], table.collect()),
        })
    }

    /// Which confusions became more and fewer.
    fn confusions(&self) -> Option<Chart> {
        let confusion = &self.found.confusion;
        let changes = confusion.changes();
        if changes.is_empty() {
            return None;
        }
        let name = |class: i64| confusion.name(class);
        let rows = changes.iter().map(|change| {
            let [before, after] = change.counts.map(|n| count(n as usize));
            vec![
                name(change.truth),
                name(change.predicted),
                before,
                after,
                format!("{:+}", change.difference()).replace('-', "\u{2212}"),
            ]
        });
        let table = Table::new(
            ["true class", "predicted", "before", "after", "change"],
            rows.collect(),
        );
        let wrong = changes
            .iter()
            .filter(|change| change.truth != change.predicted);
        let most = wrong.clone().take(3).map(|change| {
            format!(
                "{} taken for {}: {} to {} images",
                name(change.truth),
                name(change.predicted),
                change.counts[0],
                change.counts[1]
            )
        });
        let most: Vec<_> = most.collect();
        let description = match most.is_empty() {
            true => "No confusion of two classes changed.".to_owned(),
            false => format!("The confusions that changed the most: {}.", most.join("; ")),
        };
        let classes = confusion.classes();
        if classes.len() > CLASSES {
            let rows = wrong.take(CONFUSIONS).map(|change| Row {
                name: format!("{} → {}", name(change.truth), name(change.predicted)),
                is_mean: false,
                pair: change.counts.map(f64::from),
                interval: None,
                verdict: if change.difference() < 0 {
                    Verdict::Better
                } else {
                    Verdict::Worse
                },
                label: format!("{} → {}", change.counts[0], change.counts[1]),
            });
            let rows: Vec<_> = rows.collect();
            if rows.is_empty() {
                return None;
            }
            return Some(Chart {
                name: "confusions",
                title: "Confusions that changed the most".into(),
                description,
                note: Some(format!(
                    "True class → prediction, images before → after; {} classes.",
                    classes.len()
                )),
                plot: Plot::Gains(Gains {
                    x: "change of the number of images (left is better)".into(),
                    rows,
                }),
                table,
            });
        }
        let place = |class: i64| classes.binary_search(&class).ok();
        let cells = changes.iter().filter_map(|change| {
            Some((
                place(change.truth)?,
                place(change.predicted)?,
                change.difference(),
            ))
        });
        Some(Chart {
            name: "confusions",
            title: "Changes of the confusion matrix".into(),
            description,
            note: Some("Images after less images before. Blue is better: more on the diagonal, fewer elsewhere; purple is worse.".into()),
            plot: Plot::Matrix(Matrix {
                axes: ["true class".into(), "prediction".into()],
                names: classes.iter().map(|&class| name(class)).collect(),
                cells: cells.collect(),
            }),
            table,
        })
    }

    /// All charts but the first screen's, with the headings that they stand under.
    pub fn charts(&self) -> Vec<(&'static str, Vec<Chart>)> {
        let sections = [
            ("Domains", Vec::from_iter(self.by_domain())),
            ("Along the stream", Vec::from_iter(self.along())),
            ("Loss", self.losses()),
            ("Classes", Vec::from_iter(self.confusions())),
            (
                "Confidence",
                self.reliability()
                    .into_iter()
                    .chain(self.by_confidence())
                    .collect(),
            ),
        ];
        sections
            .into_iter()
            .filter(|(_, charts)| !charts.is_empty())
            .collect()
    }
}

/// Rows of a chart, and the same as a table.
fn rows(domains: &[Domain], scale: &Scale) -> (Vec<Row>, Table) {
    let rows = domains.iter().filter_map(|domain| {
        let [before, after] = domain.pair?;
        Some(Row {
            name: domain.name.clone(),
            is_mean: domain.is_mean,
            pair: [before, after].map(|score| scale.shown(score)),
            interval: domain
                .interval
                .map(|Interval { low, high }| [scale.shown(low), scale.shown(high)]),
            verdict: scale.verdict(domain.interval),
            label: scale.change(after - before),
        })
    });
    let table = domains.iter().filter_map(|domain| {
        let [before, after] = domain.pair?;
        Some(vec![
            domain.name.clone(),
            scale.bare(before),
            scale.bare(after),
            scale.change(after - before),
            domain
                .interval
                .map_or("-".into(), |interval| scale.interval(interval)),
            count(domain.samples),
        ])
    });
    let axis = scale.axis();
    let head = [
        &*format!("domain, {axis}"),
        "before",
        "after",
        "change",
        "95 % interval",
        "images",
    ];
    (rows.collect(), Table::new(head, table.collect()))
}

/// The domains in words: the mean, the best and the worst.
fn told(domains: &[Domain], scale: &Scale) -> String {
    let change = |domain: &&Domain| domain.pair.map_or(0.0, |[before, after]| after - before);
    let say = |domain: &Domain| {
        let interval = domain.interval.map_or(String::new(), |interval| {
            format!(" (95 % interval {})", scale.interval(interval))
        });
        let [before, after] = domain.pair.unwrap_or_default();
        format!(
            "{}: from {} to {}, {}{interval}",
            domain.name,
            scale.value(before),
            scale.value(after),
            scale.change_with_unit(after - before)
        )
    };
    let mut told: Vec<String> = domains
        .iter()
        .filter(|domain| domain.is_mean)
        .map(say)
        .collect();
    let others = || domains.iter().filter(|domain| !domain.is_mean);
    if others().count() <= 3 {
        told.extend(others().map(say));
    } else {
        let ends = [
            (
                "largest increase",
                others().max_by(|a, b| change(a).total_cmp(&change(b))),
            ),
            (
                "largest decrease, or least increase",
                others().min_by(|a, b| change(a).total_cmp(&change(b))),
            ),
        ];
        told.extend(
            ends.into_iter()
                .filter_map(|(what, domain)| Some(format!("{what}, {}", say(domain?)))),
        );
    }
    format!("{}.", told.join("; "))
}

fn before_and_after() -> [String; 2] {
    ["before (source)".into(), "after (adapted)".into()]
}

fn two_series(
    before: String,
    after: String,
    [first, second]: [Vec<Vec<(f64, f64)>>; 2],
) -> Vec<Series> {
    // Of many pieces each has a few marks.
    let marks = (MARKS / first.len().max(1)).max(1);
    let one = |name, role, shape, pieces| Series {
        name,
        role,
        shape,
        pieces,
        marks,
    };
    vec![
        one(before, Role::Before, Shape::Ring, first),
        one(after, Role::After, Shape::Square, second),
    ]
}

/// Curves of the parts of a stream.
fn pieces(
    parts: &[Part],
    value: impl Fn(&crate::found::Point) -> Option<f64>,
    scale: &Scale,
) -> Vec<Vec<(f64, f64)>> {
    let of_part = |part: &Part| {
        let points = part.points.iter();
        let points =
            points.filter_map(|point| Some((point.sample as f64, scale.shown(value(point)?))));
        points.filter(|(_, value)| value.is_finite()).collect()
    };
    parts.iter().map(of_part).collect()
}

fn sections(parts: &[Part]) -> Vec<(f64, String)> {
    let named = parts.iter().map(|part| {
        (
            part.start as f64,
            part.domain
                .clone()
                .unwrap_or_else(|| "domains mixed".into()),
        )
    });
    named.collect()
}

fn points_table(
    parts: &[Part],
    cells: impl Fn(&crate::found::Point) -> Option<Vec<String>>,
) -> Vec<Vec<String>> {
    let rows = parts
        .iter()
        .flat_map(|part| part.points.iter().map(move |point| (part, point)));
    let rows = rows.filter_map(|(part, point)| {
        let domain = part.domain.clone().unwrap_or_else(|| "mixed".into());
        let mut row = vec![domain, count(point.sample)];
        row.extend(cells(point)?);
        Some(row)
    });
    rows.collect()
}

/// How many images a point is over, in words.
fn windows(parts: &[Part]) -> String {
    let sizes = || {
        parts
            .iter()
            .flat_map(|part| &part.points)
            .map(|point| point.window)
    };
    let (least, most) = (sizes().min().unwrap_or(0), sizes().max().unwrap_or(0));
    let number = match least == most {
        true => most.to_string(),
        false => format!("{least} to {most}"),
    };
    match parts.iter().any(|part| part.domain.is_some()) {
        true => format!("the last {number} images up to it, in its domain"),
        false => format!("the last {number} images up to it, of all domains"),
    }
}

/// Where the curve ends, in words.
fn part_ends(parts: &[Part], scale: &Scale) -> String {
    let last = parts.iter().rev().find_map(|part| part.points.last());
    last.and_then(|point| point.scores)
        .map_or(String::new(), |[before, after]| {
            format!(
                "At its end it is {} before and {} after.",
                scale.value(before),
                scale.value(after)
            )
        })
}

fn percent_change(relative: f64) -> String {
    match relative.is_finite() {
        true => format!("{} %", crate::numbers::signed(relative, 1)),
        false => "from nothing".into(),
    }
}

/// With a capital letter.
pub(crate) fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

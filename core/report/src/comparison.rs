//! Methods side by side, from the `comparison.json` of `dtta compare`.

use std::collections::BTreeMap;
use std::path::Path;

use dtta::{Change, ComparedMethod, Interval, Scores};

use crate::chart::{Chart, Gains, Lines, Plot, Reference, Role, Row, Series, Shape, Table};
use crate::error::{Error, Result};
use crate::numbers::{Scale, Verdict, count, counted, seconds};
use crate::run::document;

/// A comparison to show.
#[derive(Debug, Clone)]
pub struct Comparison(dtta::Comparison);

/// A change of one score, and where it may lie.
type ChangeBy = (f64, Option<Interval>);

fn of(change: &Change, metric: &str) -> Option<ChangeBy> {
    let interval = change.intervals.get(metric).copied();
    Some((*change.by.get(metric)?, interval))
}

impl Comparison {
    /// Reads the comparison of a folder, if it holds one.
    ///
    /// # Errors
    /// A file that cannot be read, is no comparison, or contradicts itself.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(dtta::Comparison::FILE);
        let Some(found) = document::<dtta::Comparison>(&path)? else {
            return Ok(None);
        };
        let domains = found.domains.len();
        let of_methods = found.methods.iter().map(|method| method.domains.len());
        let is_even = of_methods
            .chain([found.source.domains.len()])
            .all(|count| count == domains);
        match is_even {
            true => Ok(Some(Self(found))),
            false => Err(Error::Contents {
                path,
                reason: "does not have scores of each domain for each method".into(),
            }),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    fn scale(&self) -> Scale {
        Scale::of(&self.0.scores, &self.0.metric)
    }

    /// What it came to, in one sentence or two.
    pub fn in_a_sentence(&self) -> String {
        let scale = self.scale();
        let found = self.0.methods.iter().filter_map(|method| {
            let (by, interval) = of(&method.mean.against_source, &self.0.metric)?;
            Some((method, by, interval, scale.verdict(interval)))
        });
        let mut found: Vec<_> = found.collect();
        found.sort_by(|a, b| match scale.less_is_better() {
            true => a.1.total_cmp(&b.1),
            false => b.1.total_cmp(&a.1),
        });
        let Some((best, by, interval, verdict)) = found.first() else {
            return "No method of this comparison has a scored run.".into();
        };
        let having = |verdict: Verdict| found.iter().filter(|row| row.3 == verdict).count();
        let domains = self
            .0
            .domains
            .iter()
            .filter(|domain| domain.averaged)
            .count();
        let what = scale.name();
        let pair = best
            .mean
            .source
            .get(&self.0.metric)
            .zip(best.mean.adapted.get(&self.0.metric));
        let numbers = pair.map_or(String::new(), |(before, after)| {
            format!("from {} to {} ", scale.value(*before), scale.value(*after))
        });
        let numbers = format!(
            "{numbers}({}{})",
            scale.change_with_unit(*by),
            interval.map_or(String::new(), |interval| format!(
                ", 95 % interval {}",
                scale.interval(interval)
            ))
        );
        let begins = match verdict {
            Verdict::Better => format!("{} improved {what} the most, {numbers}", best.name),
            _ => format!(
                "No method clearly improved {what}; the best is {}, {numbers}",
                best.name
            ),
        };
        format!(
            "{begins}: of {} on the same images, the mean of {} with {}, {} each. Against the source model, {} are better, {} worse, and of {} the interval contains 0.",
            counted(found.len(), "method"),
            counted(domains, "domain"),
            counted(self.0.seeds.len(), "seed"),
            seconds(best.cost.seconds_per_sample),
            having(Verdict::Better),
            having(Verdict::Worse),
            having(Verdict::Unclear),
        )
    }

    /// The change of each method against the source model: the chart of the first screen.
    pub fn gains(&self) -> Option<Chart> {
        let change = |method: &ComparedMethod| of(&method.mean.against_source, &self.0.metric);
        let note = "On the same images, all seeds together; paired bootstrap over the images.";
        self.changes("methods", "against the source model", note, &change)
    }

    /// The other charts.
    pub fn charts(&self) -> Vec<Chart> {
        let mut charts = Vec::new();
        if let Some(reference) = &self.0.reference {
            let change = |method: &ComparedMethod| {
                of(method.mean.against_reference.as_ref()?, &self.0.metric)
            };
            let against = format!("against {reference}");
            let note = "On the images that both adapted to, all seeds together; paired bootstrap over the images.";
            charts.extend(self.changes("methods-reference", &against, note, &change));
        }
        charts.extend(self.against_time());
        charts
    }

    fn changes(
        &self,
        name: &'static str,
        against: &str,
        note: &str,
        change: &dyn Fn(&ComparedMethod) -> Option<ChangeBy>,
    ) -> Option<Chart> {
        let scale = self.scale();
        let found = || {
            self.0
                .methods
                .iter()
                .filter_map(|method| Some((method, change(method)?)))
        };
        let rows = found().map(|(method, (by, interval))| Row {
            name: method.name.clone(),
            is_mean: false,
            pair: [0.0, scale.shown(by)],
            interval: interval.map(|Interval { low, high }| [scale.shown(low), scale.shown(high)]),
            verdict: scale.verdict(interval),
            label: scale.change(by),
        });
        let rows: Vec<Row> = rows.collect();
        let table = found().map(|(method, (by, interval))| {
            let interval = interval.map_or("-".into(), |interval| scale.interval(interval));
            vec![method.name.clone(), scale.change(by), interval]
        });
        if rows.is_empty() {
            return None;
        }
        let told = rows
            .iter()
            .map(|row| format!("{}: {}", row.name, row.label));
        let description = format!("{}.", told.collect::<Vec<_>>().join("; "));
        Some(Chart {
            name,
            title: format!("Change of {} by method, {against}", scale.name()),
            description,
            note: Some(note.to_owned()),
            table: Table::new(["method", "change", "95 % interval"], table.collect()),
            plot: Plot::Gains(Gains {
                x: scale.change_axis(),
                rows,
            }),
        })
    }

    /// What the change takes in time. Settings of one swept method are joined.
    fn against_time(&self) -> Option<Chart> {
        let scale = self.scale();
        let mut swept: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
        let mut others = Vec::new();
        let mut rows = Vec::new();
        for method in &self.0.methods {
            let time = method.cost.seconds_per_sample;
            let Some((by, _)) =
                of(&method.mean.against_source, &self.0.metric).filter(|_| time > 0.0)
            else {
                continue;
            };
            let point = (time.log10(), scale.shown(by));
            rows.push(vec![method.name.clone(), seconds(time), scale.change(by)]);
            match &method.sweep {
                Some(sweep) => swept.entry(&sweep.of).or_default().push(point),
                None => others.push(vec![point]),
            }
        }
        if rows.len() < 2 {
            return None;
        }
        let looks = [
            (Role::After, Shape::Square),
            (Role::Worse, Shape::Down),
            (Role::Ink, Shape::Up),
        ];
        let mut series: Vec<Series> = swept
            .into_iter()
            .zip(looks.into_iter().cycle())
            .map(|((name, mut points), (role, shape))| {
                points.sort_by(|a, b| a.0.total_cmp(&b.0));
                Series {
                    name: name.to_owned(),
                    role,
                    shape,
                    pieces: vec![points],
                    marks: 1000,
                }
            })
            .collect();
        if !others.is_empty() {
            series.push(Series {
                name: "one setting each".into(),
                role: Role::Before,
                shape: Shape::Ring,
                pieces: others,
                marks: 1,
            });
        }
        let told = rows
            .iter()
            .map(|row| format!("{}: {} in {}", row[0], row[2], row[1]));
        Some(Chart {
            name: "methods-time",
            title: format!("Change of {} and its time", scale.name()),
            description: format!("{}.", told.collect::<Vec<_>>().join("; ")),
            note: Some("Higher up changes more; further to the right takes longer, on a logarithmic scale. The table names the points.".into()),
            plot: Plot::Lines(Lines {
                x: "time per image (s)".into(),
                y: format!("change ({})", if scale.axis().ends_with("(%)") { "points" } else { scale.name() }),
                is_whole: false,
                is_log: true,
                x_range: None,
                y_range: None,
                series,
                sections: Vec::new(),
                reference: Some(Reference::At(0.0)),
            }),
            table: Table::new(["method", "time per image", "change"], rows),
        })
    }

    /// The tables, with their names: the means, the domains, equal time, and runs that failed.
    pub fn tables(&self) -> Vec<(String, Table)> {
        let scale = self.scale();
        let shown = |scores: &Scores| {
            scores
                .get(&self.0.metric)
                .map_or("-".into(), |score| scale.bare(*score))
        };
        let changed =
            |change: Option<&Change>| match change.and_then(|change| of(change, &self.0.metric)) {
                None => "-".to_owned(),
                Some((by, None)) => scale.change(by),
                Some((by, Some(interval))) => {
                    format!("{} ({})", scale.change(by), scale.interval(interval))
                }
            };
        let axis = scale.axis();
        let mut tables = Vec::new();
        let rows = self.0.methods.iter().map(|method| {
            let mean = &method.mean;
            let mut samples = count(mean.samples);
            if mean.skipped > 0 {
                samples += &format!(" ({} skipped)", count(mean.skipped));
            }
            vec![
                match method.own_source {
                    Some(_) => format!("{} (own source)", method.name),
                    None => method.name.clone(),
                },
                shown(&mean.source),
                shown(&mean.adapted),
                changed(Some(&mean.against_source)),
                changed(mean.against_reference.as_ref()),
                samples,
                seconds(method.cost.seconds_per_sample),
                method
                    .cost
                    .peak_memory_bytes
                    .map_or("-".into(), dtta_base::in_bytes),
                method
                    .settings_tried
                    .map_or("not tuned".into(), |tried| tried.to_string()),
            ]
        });
        let against = self
            .0
            .reference
            .as_ref()
            .map_or("against reference".to_owned(), |name| {
                format!("against {name}")
            });
        let head = [
            &*format!("method, mean {axis}"),
            "source",
            "adapted",
            "against source",
            &against,
            "images",
            "time per image",
            "peak memory",
            "settings tried",
        ];
        tables.push(("Methods".to_owned(), Table::new(head, rows.collect())));
        let mut head = vec![format!("domain, {axis}"), "source".into()];
        head.extend(self.0.methods.iter().map(|method| method.name.clone()));
        let row = |name: String, source: &Scores, of: &dyn Fn(&ComparedMethod) -> String| {
            let mut row = vec![name, shown(source)];
            row.extend(self.0.methods.iter().map(of));
            row
        };
        let rows = self
            .0
            .domains
            .iter()
            .zip(&self.0.source.domains)
            .enumerate()
            .map(|(place, (domain, source))| {
                let name = if domain.averaged {
                    domain.name.clone()
                } else {
                    format!("{} (not in the mean)", domain.name)
                };
                row(name, source, &|method| {
                    shown(&method.domains[place].adapted)
                })
            });
        let mean = row("mean".into(), &self.0.source.mean, &|method| {
            shown(&method.mean.adapted)
        });
        let rows = rows.chain([mean]).collect();
        tables.push((
            "Domains".into(),
            Table::new(head.iter().map(String::as_str), rows),
        ));
        if !self.0.equal_time.is_empty() {
            let rows = self.0.equal_time.iter().map(|row| {
                let mut cells = vec![
                    row.method.clone(),
                    row.within.clone(),
                    seconds(row.seconds_per_sample),
                ];
                cells.extend(match &row.setting {
                    None => ["none fits", "-", "-", "-"].map(str::to_owned),
                    Some(setting) => [
                        setting.name.clone(),
                        seconds(setting.seconds_per_sample),
                        changed(Some(&setting.against_source)),
                        changed(Some(&setting.against_other)),
                    ],
                });
                cells
            });
            let head = [
                "method",
                "in the time of",
                "which takes",
                "setting",
                "takes",
                "against source",
                "against the other",
            ];
            tables.push(("Equal time".into(), Table::new(head, rows.collect())));
        }
        if !self.0.failed.is_empty() {
            let rows = self.0.failed.iter().map(|failed| {
                vec![
                    failed.method.clone(),
                    failed.seed.to_string(),
                    failed.reason.clone(),
                ]
            });
            tables.push((
                "Runs that are not in the tables".into(),
                Table::new(["method", "seed", "why"], rows.collect()),
            ));
        }
        tables
    }
}

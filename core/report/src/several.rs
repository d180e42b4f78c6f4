//! Several runs side by side, and in what their experiments differ.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use dtta::Interval;
use serde_json::Value;

use crate::chart::{Chart, Gains, Plot, Row, Table};
use crate::error::Result;
use crate::numbers::{Scale, count, seconds};
use crate::run::Run;
use crate::words;

/// Differences that are told.
const DIFFERENCES: usize = 40;
/// Letters of a value that are told.
const LETTERS: usize = 60;

/// Some runs, with names that tell them apart.
pub struct Several {
    /// The runs.
    pub runs: Vec<Run>,
    /// Their names, in the same order.
    pub names: Vec<String>,
}

/// A place in which experiments differ, and what each has there.
pub struct Difference {
    /// Its JSON pointer.
    pub pointer: String,
    /// The values, run after run.
    pub values: Vec<String>,
}

impl Several {
    /// Reads runs' folders.
    ///
    /// # Errors
    /// As [`Run::read`].
    pub fn read(folders: &[PathBuf], gallery: usize) -> Result<Self> {
        let runs = folders
            .iter()
            .map(|folder| Run::read(folder, gallery))
            .collect::<Result<Vec<_>>>()?;
        let names = named(&runs);
        Ok(Self { runs, names })
    }

    /// One row a run.
    pub fn table(&self) -> Table {
        let rows = self.runs.iter().zip(&self.names).map(|(run, name)| {
            let scale = run.scale();
            let mut row = vec![name.clone(), scale.axis()];
            let found = run.summary.as_ref().and_then(|summary| {
                let of = &summary.metric;
                let pair = (
                    *summary.mean.source.get(of)?,
                    *summary.mean.adapted.get(of)?,
                );
                Some((summary, pair, summary.mean.intervals.get(of).copied()))
            });
            row.extend(match found {
                Some((_, (before, after), interval)) => [
                    scale.bare(before),
                    scale.bare(after),
                    scale.change(after - before),
                    interval.map_or("-".into(), |interval| scale.interval(interval)),
                ],
                None => ["-", "-", "-", "not finished"].map(str::to_owned),
            });
            let each = run
                .summary
                .as_ref()
                .map(|summary| seconds(summary.seconds_per_sample));
            row.extend([
                count(run.found.samples),
                each.unwrap_or_else(|| "-".into()),
                run.description.seed.to_string(),
                words::method(run),
            ]);
            row
        });
        let head = [
            "run",
            "score",
            "before",
            "after",
            "change",
            "95 % interval",
            "images",
            "time per image",
            "seed",
            "method",
        ];
        Table::new(head, rows.collect())
    }

    /// The change of each run with its interval; none unless at least two have the same score.
    pub fn chart(&self) -> Option<Chart> {
        let first = self.runs.iter().find_map(|run| run.summary.as_ref())?;
        let metric = &first.metric;
        let scale = Scale::of(&first.scores, metric);
        let rows = self.runs.iter().zip(&self.names).filter_map(|(run, name)| {
            let summary = run
                .summary
                .as_ref()
                .filter(|summary| summary.metric == *metric)?;
            let pair = [
                *summary.mean.source.get(metric)?,
                *summary.mean.adapted.get(metric)?,
            ];
            let interval = summary.mean.intervals.get(metric).copied();
            Some(Row {
                name: name.clone(),
                is_mean: false,
                pair: pair.map(|score| scale.shown(score)),
                interval: interval
                    .map(|Interval { low, high }| [scale.shown(low), scale.shown(high)]),
                verdict: scale.verdict(interval),
                label: scale.change(pair[1] - pair[0]),
            })
        });
        let rows: Vec<Row> = rows.collect();
        if rows.len() < 2 {
            return None;
        }
        let told = rows
            .iter()
            .map(|row| format!("{}: {}", row.name, row.label));
        Some(Chart {
            name: "runs",
            title: format!("Change of {} by run", scale.name()),
            description: format!("{}.", told.collect::<Vec<_>>().join("; ")),
            note: Some("Means over each run's domains, with 95 % intervals of its change against its own source model. Intervals of two runs that overlap do not say that the runs are equal.".into()),
            plot: Plot::Gains(Gains { x: scale.change_axis(), rows }),
            table: self.table(),
        })
    }

    /// In what the experiments differ, and how many places more there are.
    pub fn differences(&self) -> (Vec<Difference>, usize) {
        let documents = self
            .runs
            .iter()
            .map(|run| serde_json::to_value(&run.description.experiment).unwrap_or_default());
        let documents: Vec<Value> = documents.collect();
        let mut pointers = BTreeSet::new();
        for document in &documents[1..] {
            differing(&documents[0], document, String::new(), &mut pointers);
        }
        let left_out = pointers.len().saturating_sub(DIFFERENCES);
        let told = pointers
            .into_iter()
            .take(DIFFERENCES)
            .map(|pointer| Difference {
                values: documents
                    .iter()
                    .map(|document| shortened(document.pointer(&pointer)))
                    .collect(),
                pointer,
            });
        (told.collect(), left_out)
    }
}

fn shortened(value: Option<&Value>) -> String {
    let text = value.map_or_else(|| "-".to_owned(), Value::to_string);
    match text.chars().count() > LETTERS {
        true => text.chars().take(LETTERS).chain(['…']).collect(),
        false => text,
    }
}

/// All places in which two documents differ.
fn differing(one: &Value, other: &Value, pointer: String, found: &mut BTreeSet<String>) {
    match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            for name in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
                let within = format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"));
                match (a.get(name), b.get(name)) {
                    (Some(a), Some(b)) => differing(a, b, within, found),
                    _ => drop(found.insert(within)),
                }
            }
        }
        _ if one == other => {}
        _ => drop(found.insert(pointer)),
    }
}

/// Names that tell runs apart: the experiments', or the folders', or as they were given.
fn named(runs: &[Run]) -> Vec<String> {
    let last = |path: &Path| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
    };
    let candidates: [Vec<String>; 3] = [
        runs.iter().map(|run| run.name().to_owned()).collect(),
        runs.iter()
            .map(|run| last(&run.folder).unwrap_or_else(|| run.name().to_owned()))
            .collect(),
        runs.iter()
            .map(|run| run.folder.display().to_string())
            .collect(),
    ];
    let is_distinct =
        |names: &Vec<String>| names.iter().collect::<BTreeSet<_>>().len() == names.len();
    let [_, _, paths] = &candidates;
    candidates
        .iter()
        .find(|names| is_distinct(names))
        .unwrap_or(paths)
        .clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn finds_every_place_in_which_experiments_differ() {
        let one = json!({"a": {"b": 1, "c": [1, 2]}, "same": true, "only~/": 0});
        let other = json!({"a": {"b": 2, "c": [1, 3]}, "same": true});
        let mut found = BTreeSet::new();
        differing(&one, &other, String::new(), &mut found);
        assert_eq!(Vec::from_iter(found), ["/a/b", "/a/c", "/only~0~1"]);
        assert_eq!(shortened(None), "-");
        assert_eq!(
            shortened(Some(&json!("é".repeat(100)))).chars().count(),
            LETTERS + 1
        );
    }
}

//! What a finished run left of each sample.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;

use super::plan::refuse;
use crate::error::Result;
use crate::record::{RunDescription, Status, Summary};
use crate::report::StatesFile;
use crate::run::{RunFolder, described};
use crate::sinks::Records;

/// A finished run with its samples.
pub(super) struct RunSamples {
    pub run: RunDescription,
    pub summary: Summary,
    /// By domain and id, so that two runs on the same samples have them in the same order.
    pub samples: Vec<Sample>,
    /// What the metric accumulated stays in the file: a confusion matrix of many classes is large, and a comparison has many runs.
    states: StatesFile,
}

/// What is left of a sample.
pub(super) struct Sample {
    /// Its domain's place in the stream.
    pub domain: usize,
    pub id: String,
    /// Whether it was scored: it has targets, and was not left out.
    pub scored: bool,
    pub skipped: bool,
    /// Where it stands in the file of accumulators.
    place: u64,
}

/// As much of a record as is asked for here.
#[derive(Deserialize)]
struct Line {
    position: usize,
    id: String,
    domain: String,
}

impl RunSamples {
    /// Reads the run in a folder; nothing if none is finished there.
    ///
    /// # Errors
    /// Files that cannot be read, or that do not belong together.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let (Some(run), Some(summary)) = (described(folder)?, RunFolder::summary_in(folder)?)
        else {
            return Ok(None);
        };
        if run.status != Status::Finished {
            return Ok(None);
        }
        let names = run.domains.iter().enumerate();
        let domains: BTreeMap<&str, usize> = names
            .map(|(place, domain)| (&*domain.name, place))
            .collect();
        let path = folder.join(Records::FILE);
        let read = |source| dtta_base::Error::Read {
            path: path.clone(),
            source,
        };
        let shown = format!("`{}`", folder.display());
        let mut states = StatesFile::open(folder)?;
        let mut samples = Vec::new();
        let mut place = StatesFile::FIRST;
        for line in BufReader::new(File::open(&path).map_err(read)?).lines() {
            let line: Line = serde_json::from_str(&line.map_err(read)?).map_err(|source| {
                dtta_base::Error::Json {
                    path: path.clone(),
                    source,
                }
            })?;
            let state = states.next()?;
            let Some(state) = state.filter(|state| state.position == line.position) else {
                let reason = format!("its sample `{}` has a record and no scores", line.id);
                return Err(refuse(shown, reason));
            };
            let Some(&domain) = domains.get(&*line.domain) else {
                let reason = format!("`run.json` has no domain `{}` of its records", line.domain);
                return Err(refuse(shown, reason));
            };
            samples.push(Sample {
                domain,
                id: line.id,
                scored: state.states.is_some(),
                skipped: state.skipped,
                place,
            });
            place += state.bytes();
        }
        if samples.len() != run.done.samples || states.next()?.is_some() {
            let (found, done) = (samples.len(), run.done.samples);
            let reason = format!("it has {found} whole records of {done} samples");
            return Err(refuse(shown, reason));
        }
        samples.sort_by(|a, b| (a.domain, &a.id).cmp(&(b.domain, &b.id)));
        Ok(Some(Self {
            run,
            summary,
            samples,
            states,
        }))
    }

    /// What the metric accumulated of a sample, from the source model and from the method; none if it was not scored.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub fn states(&self, sample: &Sample) -> Result<Option<[Vec<u8>; 2]>> {
        Ok(self.states.at(sample.place)?.states)
    }

    /// Why the samples of another run are not those of this one.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let names = |run: &Self| -> Vec<String> {
            let domains = run.run.domains.iter();
            domains.map(|domain| domain.name.clone()).collect()
        };
        let (own, others) = (names(self), names(other));
        if own != others {
            let of_own = own.iter().find(|name| !others.contains(name));
            let of_other = others.iter().find(|name| !own.contains(name));
            return Some(match (of_own, of_other) {
                (Some(name), _) => format!("the domain `{name}` is in the first alone"),
                (_, Some(name)) => format!("the domain `{name}` is in the second alone"),
                _ => "their domains come in different orders".into(),
            });
        }
        let keys = |run: &Self| -> Vec<(usize, String)> {
            let samples = run.samples.iter();
            samples
                .map(|sample| (sample.domain, sample.id.clone()))
                .collect()
        };
        let (of_own, of_other) = (keys(self), keys(other));
        let place = (0..of_own.len().max(of_other.len()))
            .find(|&place| of_own.get(place) != of_other.get(place))?;
        let (whose, (domain, id)) = match (of_own.get(place), of_other.get(place)) {
            (Some(own), Some(others)) if own < others => ("first", own),
            (_, Some(others)) => ("second", others),
            (Some(own), None) => ("first", own),
            (None, None) => return None,
        };
        let name = own.get(*domain).map_or("?", String::as_str);
        Some(format!(
            "the sample `{id}` of `{name}` is in the {whose} alone"
        ))
    }
}

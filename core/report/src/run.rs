//! A run as its folder tells: what it is, its summary, and what is counted of its records. Records are read one line at a time, twice:
//! to know the stream's length and parts, then to count. So memory does not grow with the samples.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use dtta::{Record, RunDescription, Status, Summary};
use dtta_plugin::ScoreSpec;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::found::{Found, Parts};
use crate::numbers::Scale;

/// A run, read.
pub struct Run {
    /// Its folder.
    pub folder: PathBuf,
    /// What it is.
    pub description: RunDescription,
    /// What came of it, where it is finished.
    pub summary: Option<Summary>,
    /// What is counted of its records.
    pub found: Found,
}

impl Run {
    /// Reads a run's folder.
    ///
    /// # Errors
    /// [`Error::NoRun`]; files that cannot be read or are not what a run writes.
    pub fn read(folder: &Path, gallery: usize) -> Result<Self> {
        let description: RunDescription =
            document(&folder.join("run.json"))?.ok_or_else(|| Error::NoRun {
                path: folder.into(),
            })?;
        let mut summary: Option<Summary> = document(&folder.join("summary.json"))?;
        // What an earlier run left, where a later one is on its way.
        summary = summary.filter(|_| description.status == Status::Finished);
        let path = folder.join("records.jsonl");
        let mut parts = Parts::default();
        each_record(&path, &mut |record| {
            parts.add(&record);
            Ok(())
        })?;
        let leading = leading(&description, summary.as_ref());
        let mut found = Found::new(folder, &description, leading, parts, gallery);
        let is_cut = each_record(&path, &mut |record| {
            found.add(&record).map_err(|reason| contents(&path, reason))
        })?;
        found.finish();
        found.is_cut = is_cut;
        Ok(Self {
            folder: folder.into(),
            description,
            summary,
            found,
        })
    }

    /// The experiment's name.
    pub fn name(&self) -> &str {
        &self.description.experiment.name
    }

    /// How its leading score is written.
    pub fn scale(&self) -> Scale {
        match &self.summary {
            Some(summary) => Scale::of(&summary.scores, &summary.metric),
            None => self.sample_scale(),
        }
    }

    /// How scores of samples by themselves are written.
    pub fn sample_scale(&self) -> Scale {
        match self.found.is_classification {
            true => Scale::accuracy(),
            false => Scale::of(&self.description.scores, &self.found.leading),
        }
    }

    /// Samples of the whole stream, or of its shard as far as is known.
    pub fn expected(&self) -> usize {
        let domains = self.description.domains.iter();
        domains.map(|domain| domain.samples).sum()
    }
}

/// The score that stands for all, by name; empty where nothing says.
fn leading(description: &RunDescription, summary: Option<&Summary>) -> String {
    if let Some(summary) = summary {
        return summary.metric.clone();
    }
    let leads = |spec: &&ScoreSpec| spec.leads && !spec.name.contains('*');
    let lead = description.scores.iter().find(leads);
    let lead = lead.or_else(|| {
        description
            .scores
            .iter()
            .find(|spec| !spec.name.contains('*'))
    });
    lead.map_or_else(String::new, |spec| spec.name.to_string())
}

/// A document of a run, if it is there.
pub(crate) fn document<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(read(path, source)),
    };
    let parsed = serde_json::from_slice(&bytes).map_err(|source| dtta_base::Error::Json {
        path: path.into(),
        source,
    })?;
    Ok(Some(parsed))
}

fn read(path: &Path, source: std::io::Error) -> Error {
    let path = path.into();
    dtta_base::Error::Read { path, source }.into()
}

fn contents(path: &Path, reason: String) -> Error {
    Error::Contents {
        path: path.into(),
        reason,
    }
}

/// Calls for each record of a file, of which there may be none; says whether its last line was cut, as a kill may leave it.
fn each_record(path: &Path, found: &mut dyn FnMut(Record) -> Result<()>) -> Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(read(path, source)),
    };
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let bytes = reader.read_until(b'\n', &mut line);
        if bytes.map_err(|source| read(path, source))? == 0 {
            return Ok(false);
        }
        if !line.ends_with(b"\n") {
            return Ok(true);
        }
        let record = serde_json::from_slice(&line)
            .map_err(|error| contents(path, format!("has no record in line {number}: {error}")))?;
        found(record)?;
    }
    Ok(false)
}

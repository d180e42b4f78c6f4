//! What a run leaves behind: one record a sample, a summary, and a description of the run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::experiment::Experiment;

/// One line of `records.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Place in the stream, from 0.
    pub position: usize,
    /// The sample.
    pub id: String,
    /// Its domain's name.
    pub domain: String,
    /// Its label, where it has one. Read by metrics alone.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<u32>,
    /// What the source model said.
    pub source: Guess,
    /// What the adapted model said.
    pub adapted: Guess,
    /// The diffusion loss in each step, before its update.
    pub loss: Vec<f32>,
    /// Wall time of its batch, divided by the batch's samples. The only field that differs between equal runs.
    pub milliseconds: f64,
}

/// A prediction in a record.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Guess {
    /// Index of the class.
    pub prediction: i64,
    /// The model's confidence in it.
    pub confidence: f32,
}

/// Scores by name.
pub type Scores = BTreeMap<String, f64>;

/// `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The experiment's name.
    pub experiment: String,
    /// What kind of prediction is scored.
    pub task: String,
    /// The score that tables show.
    pub metric: String,
    /// Scores by domain, in stream order.
    pub domains: Vec<DomainSummary>,
    /// Scores averaged over corrupted domains; over all where none is corrupted.
    pub mean: Pair,
    /// Samples left out because a plugin failed.
    pub skipped: usize,
    /// Wall time per sample.
    pub seconds_per_sample: f64,
    /// Draws through the denoiser, forward and backward, per second of wall time.
    pub draws_per_second: f64,
    /// The largest resident set of the process, where the system tells.
    pub peak_memory_bytes: Option<u64>,
    /// What the numbers depend on.
    pub protocol: Protocol,
}

/// One domain's scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DomainSummary {
    /// The domain.
    pub name: String,
    /// Samples scored.
    pub samples: usize,
    /// The source model's scores.
    pub source: Scores,
    /// The adapted model's scores, on the same samples.
    pub adapted: Scores,
    /// Wall time per sample.
    pub seconds_per_sample: f64,
}

/// Scores of the source model and of the adapted one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// The source model's.
    pub source: Scores,
    /// The adapted model's.
    pub adapted: Scores,
}

/// What has to be said with a number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Protocol {
    /// When weights are reset: `sample`, `domain` or `never`.
    pub reset: String,
    /// Draws for each sample and step.
    pub draws: usize,
    /// Steps for each batch.
    pub steps: usize,
    /// Samples in a batch.
    pub batch: usize,
    /// The run's seed.
    pub seed: u64,
    /// Samples in each domain.
    pub samples_per_domain: BTreeMap<String, usize>,
    /// SHA-256 of weights and plugins, by what they are.
    pub digests: BTreeMap<String, String>,
}

/// `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunDescription {
    /// The experiment as it was run, overrides applied.
    pub experiment: Experiment,
    /// The experiment's file.
    pub file: String,
    /// SHA-256 of weights and plugins, by what they are.
    pub digests: BTreeMap<String, String>,
    /// Versions of what computed.
    pub versions: BTreeMap<String, String>,
    /// The device.
    pub device: String,
    /// The run's seed.
    pub seed: u64,
    /// Plugins by role: name, version, loader.
    pub plugins: BTreeMap<String, Value>,
    /// `running`, `finished`, `interrupted` or `failed`.
    pub status: String,
    /// Records written.
    pub records: usize,
    /// Wall time of adaptation, all sessions of a resumed run together.
    pub seconds: f64,
}

//! What a run leaves behind: one record a sample, a summary, and a description of the run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::experiment::{Control, Experiment, Gate, SlowWeights};

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
    /// The diffusion loss in each step, before its update; empty for a sample that a gate left as it is.
    pub loss: Vec<f32>,
    /// Where a gate asks: the share of its diffusion loss that the source model's prediction explains.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub explained: Option<f32>,
    /// Wall time of its batch, divided by the batch's samples. The only field that differs between equal runs.
    pub milliseconds: f64,
}

/// A prediction in a record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Guess {
    /// Index of the class, of a whole image.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub prediction: Option<i64>,
    /// The model's confidence in it, on average over pixels, where the head says so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub confidence: Option<f32>,
    /// Of a prediction for each pixel: the metric's scores of this sample alone.
    #[serde(skip_serializing_if = "Scores::is_empty", default)]
    pub scores: Scores,
}

/// Scores by name.
pub type Scores = BTreeMap<String, f64>;

/// Where a gain may lie.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Intervals by the name of the score.
pub type Intervals = BTreeMap<String, Interval>;

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
    /// 95 % intervals of the gain in each score, adapted less source: a paired bootstrap over samples.
    #[serde(default)]
    pub intervals: Intervals,
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
    /// 95 % intervals of the gain in each score, adapted less source: a paired bootstrap over samples.
    #[serde(default)]
    pub intervals: Intervals,
}

/// What has to be said with a number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Protocol {
    /// When weights are reset: `sample`, `domain`, `every N samples` or `never`.
    pub reset: String,
    /// The slow weights of online mode, if it has them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub slow_weights: Option<SlowWeights>,
    /// What decided which samples are adapted, if anything did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gate: Option<Gate>,
    /// Draws for each sample and step.
    pub draws: usize,
    /// Steps for each batch.
    pub steps: usize,
    /// Samples in a batch.
    pub batch: usize,
    /// The run's seed.
    pub seed: u64,
    /// What the feedback was about, if not the sample itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub control: Option<Control>,
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

//! What a run leaves behind of each sample, and of the whole.

use std::collections::BTreeMap;

use dtta_plugin::{Predicts, ScoreSpec};
use dtta_tensor::Precision;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::experiment::{AdaptationConfig, Experiment, is_f32};
use crate::methods::MethodSource;
use crate::run::{Identity, Shard};
use crate::seen::Seen;

/// One line of `records.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Place in the stream, from 0.
    pub position: usize,
    /// The sample.
    pub id: String,
    /// Its domain's name.
    pub domain: String,
    /// Its class, where it has one. Read by metrics alone.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<u32>,
    /// That class by its name, where the dataset has names.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target_name: Option<String>,
    /// What the source model said.
    pub source: Prediction,
    /// What the adapted model said.
    pub adapted: Prediction,
    /// The method's loss in each step, before its update; empty for a sample that was left as it is.
    pub loss: Vec<f32>,
    /// Why the sample was left out, where it was: then it has no predictions and no scores.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub skipped: Option<String>,
    /// Wall time of its batch, divided by the batch's samples. The only field that differs between equal runs.
    pub milliseconds: f64,
    /// What else the method measured, by name, such as `explained`.
    #[serde(flatten)]
    pub measures: BTreeMap<String, f32>,
}

/// What was said of one image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Index of the class, of a whole image.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub prediction: Option<i64>,
    /// That class by its name, where the dataset has names.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub prediction_name: Option<String>,
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
    /// What is predicted: the name of the head's prediction.
    pub predicts: String,
    /// The score that tables show first.
    pub metric: String,
    /// How the scores are to be read.
    pub scores: Vec<ScoreSpec>,
    /// Scores by domain, in stream order.
    pub domains: Vec<DomainSummary>,
    /// Scores averaged over shifted domains; over all where none is shifted.
    pub mean: Pair,
    /// Samples left out because a plugin failed or a number was NaN or infinite. Records say why.
    pub skipped: usize,
    /// Wall time per sample.
    pub seconds_per_sample: f64,
    /// Draws through the denoiser, forward and backward, per second of wall time.
    pub draws_per_second: f64,
    /// The largest resident set of a process, where the system tells.
    pub peak_memory_bytes: Option<u64>,
    /// What the numbers depend on.
    pub protocol: Protocol,
}

/// One domain's scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DomainSummary {
    /// The domain.
    pub name: String,
    /// Whether it counts in the mean.
    pub averaged: bool,
    /// Samples adapted to.
    pub samples: usize,
    /// Samples left out.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub skipped: usize,
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

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde asks for"
)]
fn is_zero(count: &usize) -> bool {
    *count == 0
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

/// What has to be said with a number: the method's and the adaptation's own configuration, whole, so that nothing can be left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Protocol {
    /// How θ followed a batch.
    pub method: MethodSource,
    /// How long weights lived, and what was adapted together.
    pub adaptation: AdaptationConfig,
    /// The method in a few words.
    pub in_words: String,
    /// The run's seed.
    pub seed: u64,
    /// Samples in each domain.
    pub samples_per_domain: BTreeMap<String, usize>,
    /// What was computed in each domain: corruption, severity, and by how much its lengths were scaled for images of another size than
    /// ImageNet-C's. Domains whose images are taken as they are stored have no entry.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub corruptions: BTreeMap<String, String>,
    /// SHA-256 of weights, model configurations, data and plugins, by what they are.
    pub digests: BTreeMap<String, String>,
    /// The device.
    pub device: String,
    /// What the denoiser computed in.
    #[serde(default, skip_serializing_if = "is_f32")]
    pub denoiser_precision: Precision,
    /// How backbone and denoiser saw an image.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub seen: BTreeMap<String, Seen>,
}

/// `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunDescription {
    /// The experiment as it was run, overrides applied.
    pub experiment: Experiment,
    /// The experiment's file.
    pub file: String,
    /// What must be the same for two runs to be one.
    pub identity: Identity,
    /// The run's seed.
    pub seed: u64,
    /// Plugins by role: name, version, loader.
    pub plugins: BTreeMap<String, Value>,
    /// What the head predicts.
    pub predicts: Predicts,
    /// How scores are to be read.
    pub scores: Vec<ScoreSpec>,
    /// The method in a few words.
    pub in_words: String,
    /// How backbone and denoiser see an image.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub seen: BTreeMap<String, Seen>,
    /// The domains of the whole stream, in its order.
    pub domains: Vec<DomainDescription>,
    /// Which part of the stream it is, if not all.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub shard: Option<Shard>,
    /// `running`, `finished`, `interrupted` or `failed`.
    pub status: Status,
    /// What was done so far.
    pub done: Done,
}

/// A domain of a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DomainDescription {
    /// Its name.
    pub name: String,
    /// Samples in it.
    pub samples: usize,
    /// Whether it is another than the clean one.
    pub shifted: bool,
    /// What was computed: corruption, severity and scale, as for its first image.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub corruption: Option<String>,
}

/// How a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It goes on, or it was killed.
    Running,
    /// It is over.
    Finished,
    /// It was asked to stop.
    Interrupted,
    /// It ended with an error.
    Failed,
}

/// How far a run is, all sessions of a resumed run together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Samples recorded, skipped ones too.
    pub samples: usize,
    /// Draws through the denoiser.
    pub draws: usize,
    /// Wall time of adaptation and scoring, by domain.
    pub seconds: Vec<f64>,
}

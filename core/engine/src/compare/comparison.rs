//! `comparison.json`: what a comparison found, whole. Tables and reports are made from it.

use dtta_plugin::ScoreSpec;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::file::TunedOn;
use crate::record::{Intervals, Protocol, Scores};

/// `comparison.json`: methods side by side, on the same samples. Scores are in the metric's own units, a share from 0 to 1; `scores` says
/// how each is to be read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The comparison's name.
    pub name: String,
    /// What is predicted: the name of the head's prediction.
    pub predicts: String,
    /// The score that tables show first.
    pub metric: String,
    /// How the scores are to be read.
    pub scores: Vec<ScoreSpec>,
    /// Seeds of the runs, whose samples are pooled.
    pub seeds: Vec<u64>,
    /// The domains, in stream order.
    pub domains: Vec<ComparedDomain>,
    /// The source model.
    pub source: ComparedSource,
    /// The method that the others are held against, beside the source model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The methods with a finished run, in the order of the file.
    pub methods: Vec<ComparedMethod>,
    /// What swept methods reach in the time of others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub equal_time: Vec<EqualTime>,
    /// Runs that are not in the table, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<FailedRun>,
    /// What settings were tuned on, where they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned_on: Option<TunedOn>,
    /// Of finished runs that were compared: what their experiments differ in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Difference>,
}

impl Comparison {
    /// Its file in a comparison's folder.
    pub const FILE: &'static str = "comparison.json";
}

/// A domain of the stream that all runs met.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComparedDomain {
    /// Its name.
    pub name: String,
    /// Whether it counts in means: it is shifted, or none is.
    pub averaged: bool,
    /// Samples of each seed.
    pub samples: usize,
}

/// The source model, as it was before any method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComparedSource {
    /// Where its predictions are taken from.
    #[serde(flatten)]
    pub model: SourceOf,
    /// Its scores in each domain, in the order of the comparison's.
    pub domains: Vec<Scores>,
    /// Their mean over averaged domains.
    pub mean: Scores,
}

/// Where a source model's predictions are taken from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceOf {
    /// The method in whose runs they are: the first of that task model whose BatchNorm layers use the statistics of training, or else the
    /// first.
    pub of: String,
    /// What its BatchNorm layers, if any, normalise with, as in an experiment.
    pub batch_norm: Value,
}

/// What came of a method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComparedMethod {
    /// Its name.
    pub name: String,
    /// Where it is one of several settings of a method: which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweep: Option<Swept>,
    /// The source model that it is held against, where its task model is another than that of [`Comparison::source`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_source: Option<SourceOf>,
    /// What it came to in each domain, in the order of the comparison's.
    pub domains: Vec<ComparedScores>,
    /// The mean of scores over averaged domains; samples of all domains.
    pub mean: ComparedScores,
    /// What it took.
    pub cost: Cost,
    /// Its finished runs.
    pub runs: Vec<ComparedRun>,
    /// Settings that were tried to choose these; none if they were not tuned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings_tried: Option<usize>,
    /// What the numbers depend on; seed and samples are those of the first run.
    pub protocol: Protocol,
}

/// One of the settings of a swept method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Swept {
    /// The method.
    pub of: String,
    /// What was set, by JSON pointer into the experiment.
    pub values: Map<String, Value>,
}

/// Scores of a method on some samples, and of those that it is held against.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComparedScores {
    /// Samples that were adapted to, of all seeds.
    pub samples: usize,
    /// Samples that were left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: usize,
    /// The source model's scores on the samples that were adapted to.
    pub source: Scores,
    /// The method's scores on them.
    pub adapted: Scores,
    /// What the method changes.
    pub against_source: Change,
    /// The same against the reference, on the samples that both adapted to; none for the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against_reference: Option<Change>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde asks for"
)]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// How much higher scores are than others on the same samples.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// By score: this less the other.
    pub by: Scores,
    /// 95 % intervals of it: a paired bootstrap over the samples' ids, all seeds together, within each domain.
    pub intervals: Intervals,
}

/// What adaptation took, all runs of a method together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Wall time per sample.
    pub seconds_per_sample: f64,
    /// Draws through the denoiser, forward and backward, per sample.
    pub draws_per_sample: f64,
    /// The same per second of wall time.
    pub draws_per_second: f64,
    /// The largest resident set of a run, where the system tells it of each run by itself.
    pub peak_memory_bytes: Option<u64>,
}

/// A finished run of a method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComparedRun {
    /// Its seed.
    pub seed: u64,
    /// Its folder, from that of the comparison; as it was named, where there is none.
    pub folder: String,
    /// The mean of the source model's scores over averaged domains.
    pub source: Scores,
    /// The mean of the method's.
    pub adapted: Scores,
    /// Samples that were left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: usize,
    /// What it took.
    pub cost: Cost,
}

/// What a swept method reaches in the time of another: by its setting that takes the most time within that of the other, whatever it
/// scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EqualTime {
    /// The swept method.
    pub method: String,
    /// The other.
    pub within: String,
    /// The other's wall time per sample.
    pub seconds_per_sample: f64,
    /// The setting, as the method of that name; none if each takes longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setting: Option<EqualTimeSetting>,
}

/// A setting that fits into the time of another method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EqualTimeSetting {
    /// Its name among the methods.
    pub name: String,
    /// Its wall time per sample.
    pub seconds_per_sample: f64,
    /// What it changes against the source model, in the mean.
    pub against_source: Change,
    /// What it changes against the other method, in the mean.
    pub against_other: Change,
}

/// A run that is not in the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRun {
    /// Its method.
    pub method: String,
    /// Its seed.
    pub seed: u64,
    /// Why.
    pub reason: String,
}

/// A place where experiments differ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Where, as a JSON pointer.
    pub pointer: String,
    /// What each has there, in the order of the methods; null where it has nothing.
    pub values: Vec<Value>,
}

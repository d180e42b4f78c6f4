//! The experiment: one JSON document that says everything a run depends on. The doc comments
//! here are the schema's descriptions and the reference; `deny_unknown_fields` holds throughout,
//! so a misspelt option is an error and never a silent default.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use dtta_data::{DatasetConfig, StreamConfig, Transform};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::optimizer::OptimizerConfig;
use crate::selection::SelectionConfig;
use crate::standardize::Standardize;

/// An experiment: data, models, plugins and how to adapt. Relative paths start at the folder of
/// the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Where editors find this schema. Not read by dtta.
    #[serde(rename = "$schema", default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// Names the run and its output folder.
    pub name: String,
    /// What the experiment is about, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Fixes the selection of samples, their corruption, and all noise.
    #[serde(default)]
    pub seed: u64,
    /// Where samples come from and in which order.
    pub data: DataConfig,
    /// The task model's backbone and the denoiser.
    pub models: ModelsConfig,
    /// Head, mapper, objectives and metric.
    pub plugins: PluginsConfig,
    /// How the task model is adapted.
    pub adaptation: AdaptationConfig,
    /// What is written beside records and scores.
    #[serde(default)]
    pub output: OutputConfig,
}

/// What a run writes beside records and scores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OutputConfig {
    /// For so many samples of each domain, PNG pictures of input, target, both predictions and error in `images/`. For predictions of
    /// each pixel.
    pub pictures: usize,
}

/// Samples and their order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// The dataset.
    pub dataset: DatasetConfig,
    /// Which samples, under which conditions.
    pub stream: StreamConfig,
}

/// The two models that meet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelsConfig {
    /// The discriminative model's features.
    pub backbone: ModelSource,
    /// The diffusion model that gives feedback.
    pub denoiser: ModelSource,
}

/// A model on disk and what it sees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelSource {
    /// The model's JSON configuration.
    pub config: PathBuf,
    /// Its weights; the configuration's path with the extension `.safetensors` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// Steps from an image in [0, 1] to the model's input.
    #[serde(default)]
    pub preprocess: Vec<Transform>,
    /// After preprocessing, changes the contrast of each image by itself. Undoes shifts of brightness and contrast that a
    /// denoiser has never seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standardize: Option<Standardize>,
}

/// Which plugins serve which role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PluginsConfig {
    /// Features or logits to task outputs, and outputs to predictions.
    pub head: PluginSource,
    /// Task outputs to conditioning.
    pub mapper: PluginSource,
    /// Further scalars to minimise, beside the diffusion loss.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objectives: Vec<ObjectiveSource>,
    /// How predictions are scored; top-1 accuracy, confidence and calibration error if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<PluginSource>,
    /// What to do when a plugin fails on a sample.
    #[serde(default)]
    pub on_failure: FailurePolicy,
}

/// A plugin and its configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PluginSource {
    /// A path to a plugin's folder, manifest or component; a name to look for; or `linked:NAME`.
    #[serde(rename = "use")]
    pub plugin: String,
    /// The role's configuration, checked against the plugin's own schema.
    #[serde(default = "empty_object")]
    pub config: Value,
    /// Refuses a plugin whose artifact has another SHA-256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// A safetensors file with the values that the role declares, under `PLUGIN.NAME`; if absent, they start as the plugin
    /// says. For head and mapper.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
}

/// An objective with its weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ObjectiveSource {
    /// A path to a plugin's folder, manifest or component; a name to look for; or `linked:NAME`.
    #[serde(rename = "use")]
    pub plugin: String,
    /// The role's configuration, checked against the plugin's own schema.
    #[serde(default = "empty_object")]
    pub config: Value,
    /// Refuses a plugin whose artifact has another SHA-256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// What its loss, averaged over the batch, is multiplied with.
    #[serde(default = "unit")]
    pub weight: f64,
}

impl ObjectiveSource {
    /// The plugin alone.
    pub fn plugin_source(&self) -> PluginSource {
        PluginSource {
            plugin: self.plugin.clone(),
            config: self.config.clone(),
            sha256: self.sha256.clone(),
            weights: None,
        }
    }
}

fn unit() -> f64 {
    1.0
}

fn empty_object() -> Value {
    Value::Object(serde_json::Map::new())
}

/// What happens to a run when a plugin fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailurePolicy {
    /// The run stops; finished records stay.
    #[default]
    Fail,
    /// The batch is left out, its samples are counted as skipped, and the run goes on.
    Skip,
}

/// How the task model is adapted (Diffusion-TTA, algorithm 1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdaptationConfig {
    /// Whether weights are carried from sample to sample.
    pub mode: Mode,
    /// Samples that are adapted together. In `online` mode they share one update, or one move of the slow weights; in `single_sample`
    /// mode each has weights of its own and only the denoiser's calls are shared, so results do not depend on it.
    #[serde(default = "one")]
    pub batch: usize,
    /// Optimizer updates for each batch; 0 measures the source model alone.
    #[serde(default = "one")]
    pub steps: usize,
    /// Draws of (t, ε) for each sample and step. 0 leaves the denoiser out: objectives alone move the weights.
    pub draws: usize,
    /// Draws in one call of the denoiser at most. Changes speed and memory, not results: the CPU works on as many calls at once as
    /// it has threads, so there smaller ones are faster; other devices take one after the other.
    #[serde(default = "default_micro_batch")]
    pub micro_batch: usize,
    /// Which timesteps are drawn.
    #[serde(default)]
    pub timesteps: TimestepsConfig,
    /// Which noise is drawn.
    #[serde(default)]
    pub noise: NoiseSharing,
    /// What is compared with the drawn noise, and how.
    #[serde(default)]
    pub loss: LossKind,
    /// Subtracts from each sample's feedback what the stream's feedback has in common. A corruption that makes every image
    /// look like one class to the denoiser pulls all samples there; this takes the pull away. Not in the paper. Only in
    /// `online` mode: a sample by itself has nothing in common with others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub centre: Option<Centre>,
    /// Leaves samples as they are whose prediction is good already, as the denoiser sees it. Not in the paper.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
    /// How the task model's parameters move.
    pub optimizer: OptimizerConfig,
    /// Which of the task model's parameters move.
    #[serde(default)]
    pub parameters: SelectionConfig,
    /// Adapts the denoiser too. Only in `online` mode or with a batch of 1: samples with weights of their own cannot share it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denoiser: Option<DenoiserAdaptation>,
    /// The statistics of BatchNorm layers in the backbone.
    #[serde(default)]
    pub batch_norm: BatchNormStatistics,
    /// Breaks the feedback in one known way, to see what it is worth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<Control>,
}

/// What feedback is about in a control run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// The denoiser sees the domain's next sample in the place of the sample itself, the last one its first.
    OtherImage,
}

fn one() -> usize {
    1
}

fn default_micro_batch() -> usize {
    64
}

/// How long weights live.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Mode {
    /// Weights and optimizer are reset after every sample.
    SingleSample {},
    /// Weights and optimizer are carried over the stream.
    Online {
        /// When they are reset.
        #[serde(default)]
        reset: Reset,
        /// Carries weights that follow the samples' slowly, in the place of those that the last batch ended with. Not in the paper.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slow_weights: Option<SlowWeights>,
    },
}

impl Mode {
    /// Whether carried weights are reset before the sample that comes after so many of its domain.
    pub(crate) fn resets_after(self, samples: usize) -> bool {
        match self {
            Self::SingleSample {} => false,
            Self::Online { reset, .. } => match reset {
                Reset::Domain => samples == 0,
                Reset::Every(every) => samples.is_multiple_of(every.get()),
                Reset::Never => false,
            },
        }
    }
}

/// Slow weights (Lookahead, Zhang et al. 2019; over samples, as in Reptile, Nichol et al. 2018): each sample has fast weights of its
/// own, which start at the slow ones with the optimizer at rest and give the sample's prediction. So a sample gains what single-sample mode
/// gives, and the stream what samples have in common, without one sample's noise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SlowWeights {
    /// The share of the way to the mean of a batch's fast weights that slow weights go after it, in (0, 1].
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1))]
    pub rate: f64,
}

/// When online adaptation starts afresh.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reset {
    /// At the beginning of each domain.
    #[default]
    Domain,
    /// At the beginning of each domain, and in it after every so many samples, a multiple of the batch (RDumb, Press et al. 2023).
    Every(NonZeroUsize),
    /// Never.
    Never,
}

/// How timesteps are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimestepsConfig {
    /// How they are spread over the range.
    #[serde(default)]
    pub sampler: TimestepSampler,
    /// First timestep and one after the last; the schedule's whole range if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[usize; 2]>,
}

impl Default for TimestepsConfig {
    fn default() -> Self {
        Self {
            sampler: TimestepSampler::Uniform,
            range: None,
        }
    }
}

/// How timesteps are spread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSampler {
    /// Each by itself, uniformly (the paper's choice).
    #[default]
    Uniform,
    /// One in each of as many equal parts of the range as there are draws: unbiased and less noisy.
    Stratified,
}

/// Which draws share their noise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoiseSharing {
    /// Fresh noise for every draw.
    #[default]
    Fresh,
    /// One noise for all draws of a sample in a step.
    Step,
    /// One noise for all draws of a sample in all steps.
    Sample,
}

/// The distance between drawn and predicted noise, averaged over elements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    /// Squared error (equation 2 of the paper).
    #[default]
    Mse,
    /// Absolute error.
    L1,
}

/// A running mean of ∂L/∂c over the stream.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Centre {
    /// How much the newest batch counts, in (0, 1]: after `n` steps it is the larger of this and 1 / (n + 1).
    #[schemars(range(min = 0, max = 1))]
    pub rate: f64,
}

/// Which samples are left as they are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// Those of which the source model's prediction explains this share of the diffusion loss or more: 1 - L(c) / L(no condition), with
    /// the draws of the first step. They keep that prediction, and no weights move by them. Needs a denoiser whose training left the
    /// condition out now and then.
    #[schemars(range(min = 0, max = 1))]
    pub explained: f64,
    /// Adapts the less the more is explained: the learning rate falls in a line, from all of it where nothing is explained to none
    /// where `explained` is. Images that move weights together do so at their mean rate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub soft: bool,
}

impl Gate {
    /// The share of the learning rate for a sample of whose diffusion loss so much is explained. 0 leaves it as it is.
    pub(crate) fn pace(self, explained: f64) -> f64 {
        match (explained < self.explained, self.soft) {
            (false, _) => 0.0,
            (true, false) => 1.0,
            (true, true) => 1.0 - (explained / self.explained).max(0.0),
        }
    }
}

/// How the denoiser moves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DenoiserAdaptation {
    /// How its parameters move.
    pub optimizer: OptimizerConfig,
    /// Which of them move.
    #[serde(default)]
    pub parameters: SelectionConfig,
}

/// Which statistics BatchNorm layers normalise with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchNormStatistics {
    /// Those of the training data.
    #[default]
    Running,
    /// Those of the batch at hand.
    Batch,
}

#[cfg(test)]
mod tests {
    use super::Gate;

    #[test]
    fn a_gate_slows_in_a_line_if_it_is_soft_and_lets_nothing_through_at_its_share() {
        let pace = |gate: f64, soft, explained| {
            Gate {
                explained: gate,
                soft,
            }
            .pace(explained)
        };
        for (explained, hard, soft) in [
            (-0.5, 1.0, 1.0),
            (0.0, 1.0, 1.0),
            (0.25, 1.0, 0.75),
            (0.75, 1.0, 0.25),
            (1.0, 0.0, 0.0),
            (f64::NAN, 0.0, 0.0),
        ] {
            assert_eq!(pace(1.0, false, explained), hard, "{explained}");
            assert_eq!(pace(1.0, true, explained), soft, "{explained}");
        }
        // What a prediction makes worse is adapted, even by a gate of 0.
        for soft in [false, true] {
            assert_eq!(pace(0.0, soft, -0.1), 1.0);
            assert_eq!(pace(0.0, soft, 0.0), 0.0);
        }
    }
}

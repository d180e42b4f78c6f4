//! The training configuration: one JSON document. The doc comments here are the descriptions in its schema; a misspelt option is an
//! error and never a silent default.

use std::path::{Path, PathBuf};

use dtta_base::{Issue, invalid, read_document};
use dtta_data::{Augmentation, DatasetConfig, DepthRange, Standardize, Transform};
use dtta_learn::{
    MAX_BATCH, MAX_DRAWS, OptimizerConfig, TimestepsConfig, range_problem, serialize_range,
};
use dtta_models::Precision;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

/// The most updates of a run. Optimizers count them in 32 bits.
const MAX_STEPS: usize = i32::MAX as usize;

/// A training run. Relative paths start at the folder of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainingConfig {
    /// Where editors find this schema. Not read by dtta.
    #[serde(rename = "$schema", default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// What the run is about, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The model's JSON configuration.
    pub model: PathBuf,
    /// Fixes the initial weights, the order of the samples, their augmentation and all noise.
    #[serde(default)]
    pub seed: u64,
    /// What it is trained and measured on.
    pub data: DataConfig,
    /// What the model learns.
    pub task: TaskConfig,
    /// How the weights move.
    pub optimization: OptimizationConfig,
    /// Measures the averaged weights on held-out images now and then, and at the end; never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluate: Option<EvaluateConfig>,
    /// What is kept.
    pub output: OutputConfig,
}

/// What a model learns, and from which target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TaskConfig {
    /// A denoiser predicts the noise in an image: mean squared error on ε (Ho et al. 2020, eq. 14). What it is told, the
    /// model says: the image's class, the mixture of classes of each cell, or the numbers of a map. Its `class_dropout_prob`, or that
    /// of its `spatial` map, says how often the condition is left out.
    Denoiser(DenoiserTask),
    /// A classifier of images, or of pixels where the model answers for each: cross-entropy.
    Classifier(ClassifierTask),
    /// A predictor of numbers for each pixel, such as distances or normals: absolute error of the numbers and of their differences
    /// between neighbours.
    Numbers(NumbersTask),
}

/// What a denoiser learns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DenoiserTask {
    /// How timesteps are drawn. `stratified` takes one from each of as many equal parts of the range as there are images in a batch.
    #[serde(default)]
    pub timesteps: TimestepsConfig,
    /// The name of the dataset's target that it is told; the only one of the type that the model takes, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// How distances become the map y in [0, 1] of which the denoiser is told 2 y - 1; absent for numbers that it is told as they are.
    /// Unknown pixels are 0 in the map. The experiment's mapper has to be told the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<DepthRange>,
    /// How a measurement draws timesteps and noise.
    #[serde(default)]
    pub evaluation: EvaluationDraws,
}

/// What a classifier learns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassifierTask {
    /// The name of the dataset's target that it learns; the only one of the type that the model answers with, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// How much of each target is spread evenly over all classes (Szegedy et al. 2016).
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    pub label_smoothing: f64,
    /// What each class counts in the mean over pixels or images, one number for each; all the same if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("items" = { "type": "number", "format": "double", "exclusiveMinimum": 0 }))]
    pub class_weights: Option<Vec<f64>>,
    /// Learns to reconstruct masked patches beside it, jointly (Sun et al. 2020; Gandelsman et al. 2022): for a model with a `decoder`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconstruction: Option<ReconstructionTask>,
}

/// Masked reconstruction (He et al. 2022) beside a classifier's own task: encoder and decoder are told some patches of each training image
/// and learn what the others are. Masks are a function of the seed, the sample and the step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReconstructionTask {
    /// The share of an image's patches that is masked.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub mask_ratio: f64,
    /// How much the mean squared error of masked patches counts beside the cross-entropy.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub weight: f64,
}

impl Default for ReconstructionTask {
    fn default() -> Self {
        Self {
            mask_ratio: 0.75,
            weight: 1.0,
        }
    }
}

/// What a predictor of numbers learns. With a `range`, the model's only map of logits goes through a sigmoid to y, which is compared with
/// the normalised distance; without, its maps are compared with the numbers as they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NumbersTask {
    /// The name of the dataset's target that it learns; the only one with as many channels as the model has outputs, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// How distances become numbers in [0, 1]; absent for numbers that are learned as they are. The experiment's head has to be told the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<DepthRange>,
    /// How much the error of differences between neighbouring pixels counts beside the error of pixels.
    #[serde(default = "half")]
    #[schemars(range(min = 0))]
    pub gradient_weight: f64,
}

fn half() -> f64 {
    0.5
}

/// Images to train and to measure on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Images to train on, with the target that the model learns.
    pub training: DatasetConfig,
    /// Such images to measure on; needed where `evaluate` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<DatasetConfig>,
    /// Random changes of training images, in order, before `preprocess`.
    #[serde(default)]
    pub augmentation: Vec<Augmentation>,
    /// Steps from an image in [0, 1] to the model's input, as in an experiment.
    #[serde(default)]
    pub preprocess: Vec<Transform>,
    /// After preprocessing, changes the contrast of each image by itself, as in an experiment. A denoiser that is trained so knows
    /// what an experiment's `standardize` makes of any image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standardize: Option<Standardize>,
}

/// How the weights move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OptimizationConfig {
    /// How many updates.
    #[schemars(range(min = 1, max = MAX_STEPS))]
    pub steps: usize,
    /// Images in each.
    #[schemars(range(min = 1, max = MAX_BATCH))]
    pub batch: usize,
    /// The optimizer. Its weight decay applies to parameters of two axes or more: not to biases, nor to scales and shifts of
    /// normalisation layers.
    pub optimizer: OptimizerConfig,
    /// How the optimizer's learning rate changes.
    #[serde(default)]
    pub schedule: LearningRate,
    /// Gradients are scaled down so that the norm of all of them together is at most this; any norm if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub gradient_clip: Option<f64>,
    /// Decay of the moving average of the weights, which is what is measured and saved: after step `n` it is the lesser of this and
    /// (1 + n) / (10 + n). 0 keeps no average.
    #[serde(default = "default_ema")]
    #[schemars(range(min = 0, max = 1))]
    pub ema: f64,
}

fn default_ema() -> f64 {
    0.999
}

/// The learning rate rises linearly, then falls along half a cosine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LearningRate {
    /// Steps in which it rises from near 0.
    pub warmup: usize,
    /// The learning rate at the last step, as a fraction of `learning_rate`; 1 keeps it constant after the warm-up.
    #[schemars(range(min = 0, max = 1))]
    pub final_factor: f64,
}

impl Default for LearningRate {
    fn default() -> Self {
        Self {
            warmup: 100,
            final_factor: 0.0,
        }
    }
}

/// When the averaged weights are measured, and on how much. A classifier by its accuracy, a predictor of numbers by their error, a
/// denoiser as [`EvaluationDraws`] says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvaluateConfig {
    /// Steps between two measurements; only at the end if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub every: Option<usize>,
    /// How many held-out images, as many of each class as of any other, where a class with too few is refused; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub samples: Option<usize>,
}

/// How a denoiser is measured. One that is told a class, as a Diffusion Classifier (Li et al. 2023), which answers the class under
/// which it predicts the noise best, on average over draws that all classes share. One that is told a map, by the share of images
/// whose noise it predicts better under their own map than under another image's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationDraws {
    /// Draws of timestep and noise for each image.
    #[schemars(range(min = 1, max = MAX_DRAWS))]
    pub draws: usize,
    /// First timestep of the draws and one after the last; that of `timesteps` if absent.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serialize_range"
    )]
    pub range: Option<[f64; 2]>,
}

impl Default for EvaluationDraws {
    fn default() -> Self {
        Self {
            draws: 8,
            range: None,
        }
    }
}

/// What is kept of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputConfig {
    /// The safetensors file for the averaged weights.
    pub weights: PathBuf,
    /// How wide its numbers are.
    #[serde(default)]
    pub precision: Precision,
    /// Steps between two checkpoints, from which `--resume` continues.
    #[serde(default = "default_checkpoint_every")]
    #[schemars(range(min = 1))]
    pub checkpoint_every: usize,
    /// Steps between two lines of the log. The loss is read from the device only then.
    #[serde(default = "default_log_every")]
    #[schemars(range(min = 1))]
    pub log_every: usize,
}

fn default_checkpoint_every() -> usize {
    500
}

fn default_log_every() -> usize {
    20
}

impl TrainingConfig {
    /// Reads a configuration file. Each override is `POINTER=VALUE`, as in [`dtta_base::read_document`].
    ///
    /// # Errors
    /// [`Error::Base`] for a file that cannot be read or is no such document, with every fault.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let (value, overrides) = read_document(path, overrides)?;
        Self::parse(value).map_err(|issues| {
            Error::Base(invalid(
                path,
                "training configuration",
                overrides.name(issues),
            ))
        })
    }

    /// Reads a configuration that is JSON already.
    ///
    /// # Errors
    /// Every fault that was found.
    pub fn parse(value: Value) -> Result<Self, Vec<Issue>> {
        dtta_base::parse_and_check(value, Self::contradictions)
    }

    /// The same without what does not change the weights, to tell whether a run can be continued.
    pub(crate) fn essence(&self) -> Self {
        let mut essence = Self {
            schema: None,
            description: None,
            evaluate: None,
            output: OutputConfig {
                weights: PathBuf::new(),
                precision: Precision::F32,
                checkpoint_every: 1,
                log_every: 1,
            },
            ..self.clone()
        };
        essence.data.held_out = None;
        if let TaskConfig::Denoiser(task) = &mut essence.task {
            task.evaluation = EvaluationDraws::default();
        }
        essence
    }

    /// What a schema cannot say.
    fn contradictions(&self) -> Vec<Issue> {
        let mut issues = Vec::new();
        let mut issue = |pointer: &str, message: &str| {
            issues.push(Issue::new(pointer, message));
        };
        let distances = match &self.task {
            TaskConfig::Denoiser(task) => task.range,
            TaskConfig::Classifier(_) => None,
            TaskConfig::Numbers(task) => task.range,
        };
        if let Some(problem) = distances.and_then(|range| range.problem()) {
            issue("/task/range", &problem);
        }
        if let TaskConfig::Denoiser(task) = &self.task {
            for (pointer, range) in [
                ("/task/timesteps/range", task.timesteps.range),
                ("/task/evaluation/range", task.evaluation.range),
            ] {
                if let Some(problem) = range_problem(range) {
                    issue(pointer, &problem);
                }
            }
        }
        if self.evaluate.is_some() && self.data.held_out.is_none() {
            issue("/evaluate", "needs held-out images; give `/data/held_out`");
        }
        issues
    }
}

impl TaskConfig {
    /// Its name in a configuration.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Denoiser(_) => "denoiser",
            Self::Classifier(_) => "classifier",
            Self::Numbers(_) => "numbers",
        }
    }
}

/// The JSON Schema (draft 2020-12) of a training configuration.
pub fn schema() -> Value {
    dtta_base::schema_of::<TrainingConfig>("training")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn document() -> Value {
        json!({
            "task": { "kind": "denoiser" },
            "model": "denoiser.json",
            "data": { "training": { "kind": "idx", "split": "train" } },
            "optimization": { "steps": 10, "batch": 4, "optimizer": { "kind": "adamw", "learning_rate": 1e-3 } },
            "output": { "weights": "denoiser.safetensors" },
        })
    }

    fn load(overrides: &[&str]) -> Result<TrainingConfig> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("denoiser.json");
        fs::write(&path, document().to_string()).unwrap();
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        TrainingConfig::load(&path, &overrides)
    }

    /// Where the only fault is.
    fn pointer(error: &Error) -> &str {
        match error {
            Error::Base(dtta_base::Error::Invalid { issues, .. }) if issues.len() == 1 => {
                &issues[0].pointer
            }
            other => panic!("not one fault of a document: {other}"),
        }
    }

    #[test]
    fn reads_what_it_writes() {
        let config = TrainingConfig::parse(document()).unwrap();
        let written = serde_json::to_value(&config).unwrap();
        assert_eq!(TrainingConfig::parse(written).unwrap(), config);
    }

    #[test]
    fn names_the_place_of_a_fault() {
        let faults = [
            ("optimization.stepz=3", "/optimization/stepz"),
            ("optimization.steps=many", "/optimization/steps"),
            ("optimization.steps=0", "/optimization/steps"),
            (
                "optimization.gradient_clip=0",
                "/optimization/gradient_clip",
            ),
            ("optimization.ema=1.5", "/optimization/ema"),
            ("task.label_smoothing=0.1", "/task/label_smoothing"),
            (
                r#"task.timesteps={"range": [5, 5]}"#,
                "/task/timesteps/range",
            ),
            (r#"evaluate={"samples": 5}"#, "/evaluate"),
            (
                r#"task={"kind": "classifier", "reconstruction": {"mask_ratio": 1}}"#,
                "/task/reconstruction/mask_ratio",
            ),
            ("task.kind=gan", "/task/kind"),
            ("optimization.batch=1099511627776", "/optimization/batch"),
            (
                "optimization.optimizer.weight_decay=-1",
                "/optimization/optimizer/weight_decay",
            ),
        ];
        for (change, expected) in faults {
            let error = load(&[change]).unwrap_err();
            assert_eq!(pointer(&error), expected, "{error}");
            assert!(error.to_string().contains("denoiser.json"), "{error}");
        }
    }

    #[test]
    fn takes_overrides() {
        let config = load(&["optimization.steps=3", "/model=other.json"]).unwrap();
        assert_eq!(config.optimization.steps, 3);
        assert_eq!(config.model, Path::new("other.json"));
        let error = load(&["steps"]).unwrap_err();
        let refused = matches!(error, Error::Base(dtta_base::Error::Override { .. }));
        assert!(refused, "{error}");
    }

    #[test]
    fn the_schema_describes_every_kind() {
        let text = schema().to_string();
        for part in [
            "denoiser",
            "classifier",
            "label_smoothing",
            "numbers",
            "gradient_weight",
            "class_dropout_prob",
        ] {
            assert!(text.contains(part), "{part}");
        }
    }
}

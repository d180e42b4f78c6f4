//! The training configuration: one JSON document. The doc comments here are the descriptions in its schema; a misspelt option is an
//! error and never a silent default.

use std::fs;
use std::path::{Path, PathBuf};

use dtta::{OptimizerConfig, TimestepsConfig};
use dtta_data::{Augmentation, DatasetConfig, Transform};
use dtta_models::Precision;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

/// A training run. Relative paths start at the folder of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TrainingConfig {
    /// Trains a class-conditional denoiser to predict the noise in an image: mean squared error on ε (Ho et al. 2020, eq. 14).
    Denoiser(DenoiserTraining),
    /// Trains a classifier: cross-entropy.
    Classifier(ClassifierTraining),
}

/// How a denoiser is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DenoiserTraining {
    /// Where editors find this schema. Not read by dtta.
    #[serde(rename = "$schema", default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// What the run is about, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The model's JSON configuration. Its `class_dropout_prob` says how often the class is left out.
    pub model: PathBuf,
    /// Fixes the initial weights, the order of the samples, their augmentation and all noise.
    #[serde(default)]
    pub seed: u64,
    /// What it is trained and measured on.
    pub data: DataConfig,
    /// How the weights move.
    pub optimization: OptimizationConfig,
    /// How timesteps are drawn. `stratified` takes one from each of as many equal parts of the range as there are images in a batch.
    #[serde(default)]
    pub timesteps: TimestepsConfig,
    /// Measures the averaged weights on held-out images now and then, and at the end; never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluate: Option<DenoiserEvaluation>,
    /// What is kept.
    pub output: OutputConfig,
}

/// How a classifier is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassifierTraining {
    /// Where editors find this schema. Not read by dtta.
    #[serde(rename = "$schema", default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// What the run is about, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The model's JSON configuration.
    pub model: PathBuf,
    /// Fixes the initial weights, the order of the samples and their augmentation.
    #[serde(default)]
    pub seed: u64,
    /// What it is trained and measured on.
    pub data: DataConfig,
    /// How the weights move.
    pub optimization: OptimizationConfig,
    /// How much of each target is spread evenly over all classes (Szegedy et al. 2016).
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    pub label_smoothing: f64,
    /// Measures the averaged weights on held-out images now and then, and at the end; never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluate: Option<ClassifierEvaluation>,
    /// What is kept.
    pub output: OutputConfig,
}

/// Images to train and to measure on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Labelled images to train on.
    pub training: DatasetConfig,
    /// Labelled images to measure on; needed where `evaluate` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<DatasetConfig>,
    /// Random changes of training images, in order, before `preprocess`.
    #[serde(default)]
    pub augmentation: Vec<Augmentation>,
    /// Steps from an image in [0, 1] to the model's input, as in an experiment.
    #[serde(default)]
    pub preprocess: Vec<Transform>,
}

/// How the weights move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OptimizationConfig {
    /// How many updates.
    #[schemars(range(min = 1))]
    pub steps: usize,
    /// Images in each.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// The optimizer. Its weight decay applies to parameters of two axes or more: not to biases, nor to scales and shifts of
    /// normalisation layers.
    pub optimizer: OptimizerConfig,
    /// How the optimizer's learning rate changes.
    #[serde(default)]
    pub schedule: LearningRate,
    /// Gradients are scaled down so that the norm of all of them together is at most this; any norm if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
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
    /// What is left of it at the last step: a factor; 1 keeps it constant.
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

/// How a denoiser is measured: as a Diffusion Classifier (Li et al. 2023), which answers the class under which it predicts the noise
/// best, on average over draws that all classes share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DenoiserEvaluation {
    /// Steps between two measurements; only at the end if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub every: Option<usize>,
    /// How many held-out images, as many of each class as of any other.
    #[schemars(range(min = 1))]
    pub samples: usize,
    /// Draws of timestep and noise for each image.
    #[schemars(range(min = 1))]
    pub draws: usize,
    /// First timestep of the draws and one after the last; that of `timesteps` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[usize; 2]>,
}

/// How a classifier is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassifierEvaluation {
    /// Steps between two measurements; only at the end if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub every: Option<usize>,
    /// How many held-out images, as many of each class as of any other; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub samples: Option<usize>,
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

/// What both kinds of training have.
pub(crate) struct Common<'a> {
    pub kind: &'static str,
    pub model: &'a Path,
    pub seed: u64,
    pub data: &'a DataConfig,
    pub optimization: &'a OptimizationConfig,
    pub output: &'a OutputConfig,
    pub evaluate_every: Option<usize>,
}

impl TrainingConfig {
    /// Reads a configuration file. Each override is `POINTER=VALUE`: the pointer in JSON's notation (`/optimization/steps`) or with
    /// dots (`optimization.steps`), the value as JSON, or else as text.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Json`], [`Error::Override`], or [`Error::Invalid`] naming the place.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.into(),
            source,
        })?;
        let mut document: Value = serde_json::from_str(&text).map_err(|source| Error::Json {
            path: path.into(),
            source,
        })?;
        for text in overrides {
            set(&mut document, text)?;
        }
        Self::parse(document).map_err(|error| error.in_file(path))
    }

    /// Reads a configuration that is JSON already.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the place.
    pub fn parse(document: Value) -> Result<Self> {
        let Value::Object(mut fields) = document else {
            return Err(Error::invalid("", "expected an object"));
        };
        // `kind` is taken out first, so that the rest is parsed by one type whose errors know their place.
        let kind = fields.remove("kind");
        let rest = Value::Object(fields);
        let config = match kind.as_ref().and_then(Value::as_str) {
            Some("denoiser") => Self::Denoiser(typed(rest)?),
            Some("classifier") => Self::Classifier(typed(rest)?),
            _ => {
                let found = kind.map_or("missing".into(), |kind| kind.to_string());
                return Err(Error::invalid(
                    "/kind",
                    format!("is {found}, expected `denoiser` or `classifier`"),
                ));
            }
        };
        config.check()?;
        Ok(config)
    }

    pub(crate) fn common(&self) -> Common<'_> {
        match self {
            Self::Denoiser(config) => Common {
                kind: "denoiser",
                model: &config.model,
                seed: config.seed,
                data: &config.data,
                optimization: &config.optimization,
                output: &config.output,
                evaluate_every: config.evaluate.as_ref().and_then(|evaluate| evaluate.every),
            },
            Self::Classifier(config) => Common {
                kind: "classifier",
                model: &config.model,
                seed: config.seed,
                data: &config.data,
                optimization: &config.optimization,
                output: &config.output,
                evaluate_every: config.evaluate.as_ref().and_then(|evaluate| evaluate.every),
            },
        }
    }

    /// The same without what does not change the weights, to tell whether a run can be continued.
    pub(crate) fn essence(&self) -> Self {
        let mut essence = self.clone();
        let (schema, description, output) = match &mut essence {
            Self::Denoiser(config) => {
                config.evaluate = None;
                config.data.held_out = None;
                (
                    &mut config.schema,
                    &mut config.description,
                    &mut config.output,
                )
            }
            Self::Classifier(config) => {
                config.evaluate = None;
                config.data.held_out = None;
                (
                    &mut config.schema,
                    &mut config.description,
                    &mut config.output,
                )
            }
        };
        (*schema, *description) = (None, None);
        *output = OutputConfig {
            weights: PathBuf::new(),
            precision: Precision::F32,
            checkpoint_every: 1,
            log_every: 1,
        };
        essence
    }

    /// What types cannot say.
    fn check(&self) -> Result<()> {
        let Common {
            optimization,
            output,
            evaluate_every,
            data,
            ..
        } = self.common();
        let counts = [
            ("/optimization/steps", optimization.steps),
            ("/optimization/batch", optimization.batch),
            ("/output/checkpoint_every", output.checkpoint_every),
            ("/output/log_every", output.log_every),
            ("/evaluate/every", evaluate_every.unwrap_or(1)),
        ];
        let mut shares = vec![
            ("/optimization/ema", optimization.ema),
            (
                "/optimization/schedule/final_factor",
                optimization.schedule.final_factor,
            ),
        ];
        let mut ranges = Vec::new();
        let measured = match self {
            Self::Denoiser(config) => {
                ranges.push(("/timesteps/range", config.timesteps.range));
                if let Some(evaluate) = &config.evaluate {
                    ranges.push(("/evaluate/range", evaluate.range));
                    at_least_one("/evaluate/samples", evaluate.samples)?;
                    at_least_one("/evaluate/draws", evaluate.draws)?;
                }
                config.evaluate.is_some()
            }
            Self::Classifier(config) => {
                shares.push(("/label_smoothing", config.label_smoothing));
                if let Some(samples) = config.evaluate.as_ref().and_then(|e| e.samples) {
                    at_least_one("/evaluate/samples", samples)?;
                }
                config.evaluate.is_some()
            }
        };
        for (pointer, count) in counts {
            at_least_one(pointer, count)?;
        }
        for (pointer, share) in shares {
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::invalid(
                    pointer,
                    format!("is {share}, expected 0 to 1"),
                ));
            }
        }
        for (pointer, range) in ranges {
            if range.is_some_and(|[low, high]| low >= high) {
                let message = "the first timestep must be below the one after the last";
                return Err(Error::invalid(pointer, message));
            }
        }
        if let Some(clip) = optimization.gradient_clip
            && !(clip > 0.0 && clip.is_finite())
        {
            let message = format!("is {clip}, expected a number above 0");
            return Err(Error::invalid("/optimization/gradient_clip", message));
        }
        if measured && data.held_out.is_none() {
            return Err(Error::invalid(
                "/evaluate",
                "needs held-out images; give `/data/held_out`",
            ));
        }
        Ok(())
    }
}

/// The JSON Schema (draft 2020-12) of a training configuration.
pub fn schema() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<TrainingConfig>();
    schema.insert("title".into(), "dtta training".into());
    schema.to_value()
}

fn at_least_one(pointer: &str, count: usize) -> Result<()> {
    if count == 0 {
        return Err(Error::invalid(pointer, "is 0, expected 1 or more"));
    }
    Ok(())
}

fn typed<T: DeserializeOwned>(document: Value) -> Result<T> {
    serde_path_to_error::deserialize(document).map_err(|error| {
        let mut pointer = String::new();
        for segment in error.path() {
            use serde_path_to_error::Segment;
            let segment = match segment {
                Segment::Seq { index } => index.to_string(),
                Segment::Map { key } => key.replace('~', "~0").replace('/', "~1"),
                Segment::Enum { variant } => variant.clone(),
                Segment::Unknown => continue,
            };
            pointer.push('/');
            pointer.push_str(&segment);
        }
        Error::invalid(&pointer, error.inner().to_string())
    })
}

/// Puts the value of `POINTER=VALUE` into a document, making objects on the way.
fn set(document: &mut Value, text: &str) -> Result<()> {
    let refuse = |reason: String| Error::Override {
        text: text.into(),
        reason,
    };
    let (pointer, value) = text
        .split_once('=')
        .ok_or_else(|| refuse("expected POINTER=VALUE, such as `optimization.steps=100`".into()))?;
    let parts: Vec<String> = match pointer.strip_prefix('/') {
        Some(pointer) => pointer
            .split('/')
            .map(|part| part.replace("~1", "/").replace("~0", "~"))
            .collect(),
        None => pointer.split('.').map(str::to_owned).collect(),
    };
    if parts.iter().any(String::is_empty) {
        return Err(refuse("the pointer has an empty part".into()));
    }
    let mut place = document;
    for part in &parts {
        place = match place {
            Value::Object(fields) => fields
                .entry(part.clone())
                .or_insert_with(|| Value::Object(serde_json::Map::new())),
            Value::Array(items) => {
                let length = items.len();
                let item = part
                    .parse()
                    .ok()
                    .and_then(|index: usize| items.get_mut(index));
                item.ok_or_else(|| {
                    refuse(format!("`{part}` is not an index of a list of {length}"))
                })?
            }
            _ => {
                return Err(refuse(format!(
                    "`{part}` lies within a value that has no parts"
                )));
            }
        };
    }
    *place = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.into()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document() -> Value {
        json!({
            "kind": "denoiser",
            "model": "denoiser.json",
            "data": { "training": { "kind": "idx", "split": "train" } },
            "optimization": { "steps": 10, "batch": 4, "optimizer": { "kind": "adamw", "learning_rate": 1e-3 } },
            "output": { "weights": "denoiser.safetensors" },
        })
    }

    fn pointer(error: &Error) -> &str {
        match error {
            Error::Invalid { pointer, .. } => pointer,
            other => panic!("not about the configuration: {other}"),
        }
    }

    fn with(pointer: &str, value: Value) -> Result<TrainingConfig> {
        let mut changed = document();
        set(&mut changed, &format!("{pointer}={value}"))?;
        TrainingConfig::parse(changed)
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
            ("/optimization/stepz", json!(3), "/optimization/stepz"),
            ("/optimization/steps", json!("many"), "/optimization/steps"),
            ("/optimization/steps", json!(0), "/optimization/steps"),
            (
                "/optimization/gradient_clip",
                json!(0),
                "/optimization/gradient_clip",
            ),
            ("/optimization/ema", json!(1.5), "/optimization/ema"),
            ("/label_smoothing", json!(0.1), "/label_smoothing"),
            ("/timesteps", json!({ "range": [5, 5] }), "/timesteps/range"),
            (
                "/evaluate",
                json!({ "samples": 5, "draws": 2 }),
                "/evaluate",
            ),
            ("/kind", json!("gan"), "/kind"),
        ];
        for (place, value, expected) in faults {
            let error = with(place, value).unwrap_err();
            assert_eq!(pointer(&error), expected, "{error}");
        }
    }

    #[test]
    fn overrides_by_either_kind_of_pointer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("denoiser.json");
        fs::write(&path, document().to_string()).unwrap();
        let overrides = [
            "optimization.steps=3".to_owned(),
            "/model=other.json".to_owned(),
        ];
        let config = TrainingConfig::load(&path, &overrides).unwrap();
        assert_eq!(config.common().optimization.steps, 3);
        assert_eq!(config.common().model, Path::new("other.json"));
        let error = TrainingConfig::load(&path, &["steps".into()]).unwrap_err();
        assert!(matches!(error, Error::Override { .. }), "{error}");
        let error = TrainingConfig::load(&path, &["seed=x".into()]).unwrap_err();
        assert!(error.to_string().contains("denoiser.json"), "{error}");
    }

    #[test]
    fn the_schema_describes_both_kinds() {
        let text = schema().to_string();
        for part in [
            "denoiser",
            "classifier",
            "label_smoothing",
            "class_dropout_prob",
        ] {
            assert!(text.contains(part), "{part}");
        }
    }
}

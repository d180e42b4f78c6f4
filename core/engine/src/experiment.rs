//! The experiment: one JSON document that says everything a run depends on. The doc comments
//! here are the schema's descriptions and the reference; `deny_unknown_fields` holds throughout,
//! so a misspelt option is an error and never a silent default.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use dtta_data::{
    DatasetConfig, OBJECTNET_MAPPINGS, Standardize, StreamConfig, Transform, imagenet_a,
    imagenet_r, imagenet_synsets, objectnet,
};
use dtta_learn::MAX_BATCH;
use dtta_models::{BatchNormStatistics, ModelError, locate};
use dtta_plugin::{Compiling, DEFAULT_INSTRUCTIONS, DEFAULT_MEMORY_BYTES, Environment};
use dtta_tensor::{Device, Limits, Precision};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::methods::{MethodSource, SafeguardsConfig};
use crate::prompts::PromptsConfig;

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
    /// How a batch changes the task model: the `kind` of the method and its settings.
    pub method: MethodSource,
    /// When weights are reset, and which samples are adapted together.
    pub adaptation: AdaptationConfig,
    /// What is written beside records and scores.
    #[serde(default)]
    pub output: OutputConfig,
}

/// What a run writes beside records and scores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OutputConfig {
    /// For so many samples of each domain, PNG pictures in `images/`. Of predictions for each pixel: input, target, both predictions and
    /// error. Of classes: input, the true class's colour, and bars for the most probable classes before and after (the head's `top_k` of
    /// them, five at most); `images/classes.svg` says which colour is which class.
    pub pictures: usize,
    /// Writes the factors of low rank that the method moves, as they are after the last sample, in peft's files: those of the backbone into
    /// `adapter/`, of the denoiser into `denoiser_adapter/`. Of a method with a teacher, which predicts, those of its pupil. Only online, and not
    /// for shards: nothing else is carried to the end.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub adapters: bool,
}

/// Samples and their order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// The dataset of the domains that name none of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DatasetConfig>,
    /// Which samples, under which conditions.
    pub stream: StreamConfig,
    /// Where the data is to be had, for people; told where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

/// The task model's backbone and the denoiser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelsConfig {
    /// The discriminative model's features.
    pub backbone: ModelSource,
    /// The diffusion model that gives feedback, for methods that ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denoiser: Option<ModelSource>,
    /// What the denoiser computes in: `f32`, as if absent, or on LibTorch's devices `bf16` or `f16`. Its weights are rounded once, and what it
    /// is given with every call; θ, the gradient of the slots, the loss and its sums stay in `f32`, and so do scores of attention, which go
    /// beyond what `f16` holds where a configuration says `upcast_attention`. `dtta diagnose` says how far the gradient
    /// then is from that of `f32`. A denoiser that adapts needs `f32`.
    #[serde(default, skip_serializing_if = "is_f32")]
    pub denoiser_precision: Precision,
    /// What makes the latents that the denoiser was trained on from the images that its `preprocess` gives, which are in [-1, 1]. It has
    /// no steps of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<ModelSource>,
    /// Which of the models' classes the samples may have; all if absent. Logits and class embeddings of the others are left out before
    /// any softmax.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_space: Option<LabelSpace>,
    /// What models that read are told of the classes: a backbone such as CLIP, and a denoiser that attends to the tokens of a text encoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<PromptsConfig>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde asks for"
)]
pub(crate) fn is_f32(precision: &Precision) -> bool {
    *precision == Precision::F32
}

/// Some of the classes of models, in the order of the dataset's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LabelSpace {
    /// All 1000 of ImageNet-1k. The dataset's class folders must be its WordNet ids, or 0 to 999 as those of ImageNet-V2.
    #[serde(rename = "imagenet_1k")]
    Imagenet1k {},
    /// The 200 of ImageNet-A, for models of ImageNet-1k; the dataset's class folders must be their WordNet ids.
    ImagenetA {},
    /// The 200 of ImageNet-R, likewise.
    ImagenetR {},
    /// The 113 kinds of objects of ObjectNet that are classes of ImageNet-1k, for models of ImageNet-1k; the dataset's class folders must be
    /// theirs alone, and their images without the red border of one pixel that the dataset has them in. An object that is several classes
    /// has the largest of their logits, so that it is predicted where one of them is, and the mean of their embeddings.
    #[serde(rename = "objectnet")]
    ObjectNet {
        /// The folder `mappings` of the dataset.
        mappings: PathBuf,
    },
    /// Those of these labels, for datasets that number them so from 0.
    Subset {
        /// Labels of the models; of the backbone alone where `denoiser_classes` says those of the denoiser.
        #[schemars(length(min = 1))]
        classes: Vec<usize>,
        /// Labels of the denoiser for the same classes in the same order, where it numbers them in another way, as one of ImageNet-1k
        /// does beside a backbone of ImageNet-21k. Needed where the models differ in their number of classes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        denoiser_classes: Option<Vec<usize>>,
    },
}

impl LabelSpace {
    /// For each class of the dataset, the labels of the models' classes that it is, for an experiment in the folder `base`.
    ///
    /// # Errors
    /// [`dtta_base::Error`] for files that cannot be read, or do not fit each other.
    pub fn classes(&self, base: &Path) -> dtta_base::Result<Vec<Vec<usize>>> {
        let single = |classes: Vec<usize>| classes.into_iter().map(|class| vec![class]).collect();
        Ok(match self {
            Self::Imagenet1k {} => single((0..imagenet_synsets().len()).collect()),
            Self::ImagenetA {} => single(imagenet_a()),
            Self::ImagenetR {} => single(imagenet_r()),
            Self::ObjectNet { mappings } => {
                let objects = objectnet(&base.join(mappings))?;
                objects.into_iter().map(|(_, classes)| classes).collect()
            }
            Self::Subset { classes, .. } => single(classes.clone()),
        })
    }

    /// Likewise the labels of the denoiser's classes, where they are others.
    pub(crate) fn denoiser_classes(&self) -> Option<Vec<Vec<usize>>> {
        match self {
            Self::Subset {
                denoiser_classes, ..
            } => {
                let classes = denoiser_classes.as_ref()?.iter();
                Some(classes.map(|&class| vec![class]).collect())
            }
            _ => None,
        }
    }

    /// How many classes the models must have, whose labels these are.
    pub(crate) fn of_models_with(&self) -> Option<usize> {
        match self {
            Self::Subset { .. } => None,
            _ => Some(imagenet_synsets().len()),
        }
    }

    /// The files that it depends on.
    pub(crate) fn files(&self, base: &Path) -> Vec<PathBuf> {
        match self {
            Self::ObjectNet { mappings } => {
                let folder = base.join(mappings);
                OBJECTNET_MAPPINGS.map(|name| folder.join(name)).into()
            }
            _ => Vec::new(),
        }
    }

    /// What is wrong with a dataset's class names; nothing if they may be those of this space.
    pub(crate) fn problem(
        &self,
        names: &[String],
        base: &Path,
    ) -> dtta_base::Result<Option<String>> {
        let own: Vec<String> = match self {
            Self::ObjectNet { mappings } => {
                let objects = objectnet(&base.join(mappings))?;
                objects.into_iter().map(|(folder, _)| folder).collect()
            }
            _ => {
                let synsets = imagenet_synsets();
                let classes = self.classes(base)?.into_iter().flatten();
                let name = |class: usize| {
                    synsets
                        .get(class)
                        .map_or_else(String::new, |&name| name.into())
                };
                classes.map(name).collect()
            }
        };
        if names.len() != own.len() {
            let message = format!("it has {} classes, the dataset {}", own.len(), names.len());
            return Ok(Some(message));
        }
        let numbered = |(n, name): (usize, &String)| *name == n.to_string();
        let free = match self {
            Self::Subset { .. } => true,
            Self::Imagenet1k {} => names.iter().enumerate().all(numbered),
            _ => false,
        };
        let wrong = names.iter().zip(&own).position(|(name, own)| name != own);
        Ok(wrong.filter(|_| !free).map(|n| {
            format!(
                "its class {n} is `{}`, the dataset's `{}`",
                own[n], names[n]
            )
        }))
    }
}

/// A model on disk and what it sees; or a text, which stands for the `config` alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = or_a_text)]
pub struct ModelSource {
    /// The model's JSON configuration, a folder that diffusers or timm wrote, or a model of the Hugging Face Hub that `dtta models fetch`
    /// brought: `hf:OWNER/REPOSITORY`, `timm:NAME`.
    pub config: PathBuf,
    /// Its weights: a safetensors file, a checkpoint of PyTorch, or the index of several. If absent, those in the folder, or the
    /// configuration's path with the extension `.safetensors`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// A folder with factors of low rank for it, as peft saves them, or diffusers for a pipeline (LoRA), or `hf:OWNER/REPOSITORY` that
    /// `dtta models fetch` brought. They are added to its matrices, unless the method moves them: `{"lora": {}}` as the `group` of its
    /// `parameters`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
    /// Where its files are to be had, for people; told where they are missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Height and width of the images of a published backbone whose configuration keeps the shape of each image (`keep_aspect_ratio`, as
    /// that of Depth Anything) or says no size (GLPN): a model here takes all images alike. Every image is resized to them, whatever its shape
    /// was. Refused for other models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(inner(range(min = 1)))]
    pub extents: Option<[usize; 2]>,
    /// Steps from an image in [0, 1] to the model's input; where there are none, those of the library that published the backbone.
    #[serde(default)]
    pub preprocess: Vec<Transform>,
    /// After preprocessing, changes the contrast of each image by itself. Undoes shifts of brightness and contrast that a
    /// denoiser has never seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standardize: Option<Standardize>,
}

/// Lets a schema of an object take a text in its place.
fn or_a_text(schema: &mut schemars::Schema) {
    let fields = schema.ensure_object();
    let description = fields.remove("description");
    let whole = std::mem::take(fields);
    fields.extend(description.map(|text| ("description".to_owned(), text)));
    let text = json!({ "type": "string", "minLength": 1 });
    fields.insert("if".into(), json!({ "type": "string" }));
    fields.insert("then".into(), text);
    fields.insert("else".into(), Value::Object(whole));
}

impl ModelSource {
    /// The configuration or folder that it names, for an experiment in the folder `base`.
    ///
    /// # Errors
    /// [`ModelError::NotCached`] and the like for a model of the Hub that is not there.
    pub fn config_from(&self, base: &Path) -> Result<PathBuf, ModelError> {
        locate(&self.config, base)
    }

    /// The weights that it names, for an experiment in the folder `base`.
    pub fn weights_from(&self, base: &Path) -> Option<PathBuf> {
        self.weights.as_ref().map(|path| base.join(path))
    }

    /// The folder of its adapter, if it has one, for an experiment in the folder `base`.
    ///
    /// # Errors
    /// As [`config_from`](Self::config_from).
    pub fn adapter_from(&self, base: &Path) -> Result<Option<PathBuf>, ModelError> {
        let folder = self.adapter.as_ref();
        folder.map(|folder| locate(folder, base)).transpose()
    }
}

/// Which plugins serve which role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PluginsConfig {
    /// Features or logits to task outputs, and outputs to predictions.
    pub head: PluginSource,
    /// Task outputs to conditioning, for methods that ask a denoiser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapper: Option<PluginSource>,
    /// Further scalars to minimise, beside the diffusion loss.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objectives: Vec<ObjectiveSource>,
    /// How predictions are scored; top-1 accuracy, confidence and calibration error if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<PluginSource>,
    /// What to do when a plugin fails on a sample, or a loss, weight or prediction is NaN or infinite.
    #[serde(default)]
    pub on_failure: FailurePolicy,
    /// What one call of a plugin may use, and what a component may be made of. Messages name the limit that was reached.
    #[serde(default, skip_serializing_if = "LimitsConfig::is_default")]
    pub limits: LimitsConfig,
}

/// Budgets of plugins. A plugin that reaches one has failed, and `on_failure` says what follows. `operations`, `handles`, `bytes`,
/// `work` and `log_lines` hold for every plugin; the others for WebAssembly components, since native and linked plugins have the
/// rights of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Requests to the host in one call: tensor operations, tensors sent, copied out or shared, values and constants asked for, lines
    /// logged.
    #[schemars(range(min = 1))]
    pub operations: u64,
    /// Tensors that a call may hold at once.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub handles: u64,
    /// Bytes that the requests of one call hold, all together: results and what is needed on the way to them. A float counts as 4, a
    /// whole number as 8, a truth value as 1, a view as a copy.
    #[schemars(range(min = 1))]
    pub bytes: u64,
    /// Floating-point operations of one call. Those slower than a matrix product's count for as many as that makes in the time; an
    /// element that is read or written counts as 20.
    #[schemars(range(min = 1))]
    pub work: u64,
    /// Lines that one call may log; the rest is dropped.
    pub log_lines: u64,
    /// WebAssembly instructions of one call.
    #[schemars(range(min = 1))]
    pub instructions: u64,
    /// Bytes of memory of one instance of a component.
    #[schemars(range(min = 1, max = 4_294_967_296_u64))]
    pub memory_bytes: u64,
    /// Bytes of a component's file.
    #[schemars(range(min = 1))]
    pub component_bytes: u64,
    /// Bytes of code in a component.
    #[schemars(range(min = 1))]
    pub component_code_bytes: u64,
    /// Functions in a component.
    #[schemars(range(min = 1))]
    pub component_functions: u64,
    /// Microseconds that compiling a component may take on one core, as estimated before it is compiled from what each function is made of:
    /// parameters and locals, places where control flow parts or meets, loops, instructions. One function may have 1/16 of it.
    #[schemars(range(min = 1))]
    pub component_complexity: u64,
    /// Seconds that compiling a component may take; the result is kept for later runs.
    #[schemars(range(min = 1, max = 86_400))]
    pub compile_seconds: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let (call, compiling) = (Limits::default(), Compiling::default());
        Self {
            operations: call.operations,
            handles: call.handles,
            bytes: call.bytes,
            work: call.work,
            log_lines: call.log_lines,
            instructions: DEFAULT_INSTRUCTIONS,
            memory_bytes: DEFAULT_MEMORY_BYTES as u64,
            component_bytes: compiling.component_bytes,
            component_code_bytes: compiling.component_code_bytes,
            component_functions: compiling.component_functions,
            component_complexity: compiling.component_complexity,
            compile_seconds: compiling.compile_seconds,
        }
    }
}

impl LimitsConfig {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What the host lends on a device, within these limits.
    pub fn environment(&self, device: Device) -> Environment {
        Environment {
            limits: Limits {
                operations: self.operations,
                handles: self.handles,
                bytes: self.bytes,
                work: self.work,
                log_lines: self.log_lines,
            },
            instructions: self.instructions,
            memory_bytes: usize::try_from(self.memory_bytes).unwrap_or(usize::MAX),
            ..Environment::new(device)
        }
    }

    /// What compiling a component may take.
    pub fn compiling(&self) -> Compiling {
        Compiling {
            component_bytes: self.component_bytes,
            component_code_bytes: self.component_code_bytes,
            component_functions: self.component_functions,
            component_complexity: self.component_complexity,
            compile_seconds: self.compile_seconds,
        }
    }
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
    /// Refuses a plugin whose artifact has another SHA-256, before anything of it is opened.
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
    /// Refuses a plugin whose artifact has another SHA-256, before anything of it is opened.
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

/// What happens to a run when a plugin fails or a loss, weight or prediction is NaN or infinite.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailurePolicy {
    /// The run stops; finished records stay.
    #[default]
    Fail,
    /// The run goes on without: weights are as before the batch, its samples are recorded as skipped, with the reason, and counted. In
    /// single-sample mode only the sample itself is left out.
    Skip,
}

/// How long weights live, and what is adapted together, whatever the method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdaptationConfig {
    /// Whether weights are carried from sample to sample.
    pub mode: Mode,
    /// Samples that are adapted together. In `online` mode they share one update, or one move of the slow weights; in `single_sample`
    /// mode each has weights of its own and only the denoiser's calls are shared, so results do not depend on it.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = MAX_BATCH))]
    pub batch: usize,
    /// The statistics that BatchNorm layers of the backbone normalise with. `batch`: those of the images that share weights, which in
    /// single-sample mode is each image by itself. `{"mixed": α}`: that share of the batch's, and 1 - α of the training data's.
    #[serde(default)]
    pub batch_norm: BatchNormStatistics,
    /// What is meant to keep adaptation from ending below the source model; nothing if absent, the usual with `{}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safeguards: Option<SafeguardsConfig>,
}

fn one() -> usize {
    1
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
    },
}

impl Mode {
    /// Whether carried weights are reset before the sample that comes after so many of its segment.
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

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SingleSample {} => f.write_str("reset: sample"),
            Self::Online { reset } => match reset {
                Reset::Domain => f.write_str("reset: domain"),
                Reset::Every(every) => write!(f, "reset: every {every} samples"),
                Reset::Never => f.write_str("reset: never"),
            },
        }
    }
}

/// When online adaptation starts afresh.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reset {
    /// At the beginning of each domain; where domains are mixed, of each round of them.
    #[default]
    Domain,
    /// The same, and in between after every so many samples, a multiple of the batch (RDumb, Press et al. 2023).
    Every(NonZeroUsize),
    /// Never.
    Never,
}

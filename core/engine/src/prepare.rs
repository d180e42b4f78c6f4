//! From a document to something that runs: opens data, models and plugins, and checks that
//! they fit each other. `--dry-run` ends here.

use std::collections::BTreeMap;
use std::path::Path;

use dtta_data::{Dataset, Image, Stream, Transform, transform};
use dtta_models::{Statistics, Weights, load_backbone, load_denoiser, weights_beside};
use dtta_plugin::{Environment, Plugin, Registry, Role, ValueSpec, find, sha256};
use dtta_tensor::{Device, Tensor};
use serde_json::{Value, json};

use crate::adapt::{Adapter, Batch, Carry, Movement, Settings};
use crate::document::Document;
use crate::draws::Draws;
use crate::error::{Error, Issue, Result};
use crate::experiment::{BatchNormStatistics, Experiment, Mode, ModelSource, PluginSource};
use crate::feedback::Feedback;
use crate::score::Scorer;
use crate::standardize::Standardize;
use crate::task::{TaskKind, TaskModel};
use crate::values;

/// An experiment that is ready to run.
pub struct Prepared {
    pub(crate) document: Document,
    pub(crate) device: Device,
    pub(crate) stream: Stream,
    pub(crate) adapter: Adapter,
    pub(crate) views: [View; 2],
    pub(crate) digests: BTreeMap<String, String>,
    pub(crate) plugins: BTreeMap<String, Value>,
    pub(crate) scorer: Scorer,
    pub(crate) kind: TaskKind,
}

/// How one of the two models sees an image.
pub(crate) struct View {
    steps: Vec<Transform>,
    standardize: Option<Standardize>,
    shape: [usize; 3],
    pointer: &'static str,
}

impl Prepared {
    /// Opens everything that `document` names. Plugins are looked for in `registry`.
    ///
    /// # Errors
    /// Whatever a file, a model or a plugin refuses; [`Error::Invalid`] for parts that do not fit each other.
    pub fn new(document: Document, registry: &Registry, device: Device) -> Result<Self> {
        let experiment = &document.experiment;
        let base = document.base();
        let invalid = |pointer: &str, message: String| document.refusal(pointer, message);
        let dataset = Dataset::open(&experiment.data.dataset, base)?;
        let stream = Stream::new(&experiment.data.stream, dataset, experiment.seed)?;

        let source = |source: &ModelSource| {
            let config = base.join(&source.config);
            let weights = source.weights.as_ref().map(|path| base.join(path));
            let weights = weights_beside(&config, weights.as_deref());
            (config, weights)
        };
        let mut digests = BTreeMap::new();
        let (config, path) = source(&experiment.models.backbone);
        let (backbone, mut theta) = load_backbone(&config, Some(&path), &device)?;
        digests.insert("backbone".into(), digest(&path)?);
        let (config, path) = source(&experiment.models.denoiser);
        let (denoiser, phi) = load_denoiser(&config, Some(&path), &device)?;
        digests.insert("denoiser".into(), digest(&path)?);

        let range = experiment
            .adaptation
            .timesteps
            .range
            .unwrap_or([0, denoiser.schedule().timesteps()]);
        if range[1] > denoiser.schedule().timesteps() {
            let last = denoiser.schedule().timesteps();
            return Err(invalid(
                "/adaptation/timesteps/range",
                format!("the denoiser's timesteps end at {last}"),
            ));
        }
        if experiment.adaptation.gate.is_some() && denoiser.unconditional(&phi)?.is_none() {
            let message = "the denoiser was never trained without a condition, so it cannot tell what a prediction explains";
            return Err(invalid("/adaptation/gate", message.into()));
        }
        let constants = denoiser.constants(&phi)?;
        let classes = backbone.outputs();
        for (name, constant) in &constants {
            if name == "class-embeddings" && constant.shape()[0] != classes {
                let found = constant.shape()[0];
                return Err(invalid(
                    "/models",
                    format!("the backbone has {classes} classes, the denoiser {found}"),
                ));
            }
        }
        let environment = Environment {
            constants,
            ..Environment::new(device.clone())
        };
        let mut opener = Opener {
            document: &document,
            registry,
            digests: &mut digests,
            plugins: BTreeMap::new(),
        };
        let slots = json!(denoiser.slots()
            .iter()
            .map(|slot| json!({"name": slot.name, "meaning": slot.meaning, "shape": slot_shape(&slot.shape)}))
            .collect::<Vec<_>>());
        let sources = &experiment.plugins;
        let plugin = opener.open(Role::Head, "/plugins/head", &sources.head)?;
        let head = plugin.head(&sources.head.config, &environment)?;
        let mut keep = |plugin: &Plugin, source: &PluginSource, declared: &[ValueSpec]| {
            let file = source.weights.as_ref().map(|path| base.join(path));
            let seed = experiment.seed;
            values::join(
                &mut theta,
                plugin.name(),
                declared,
                file.as_deref(),
                seed,
                &device,
            )
        };
        let head_places = keep(&plugin, &sources.head, head.values())?;
        let plugin = opener.open(Role::Mapper, "/plugins/mapper", &sources.mapper)?;
        let mapper = plugin.mapper(&sources.mapper.config, &slots, &environment)?;
        let mapper_places = keep(&plugin, &sources.mapper, mapper.values())?;
        let mut objectives = Vec::new();
        for (index, source) in sources.objectives.iter().enumerate() {
            let pointer = format!("/plugins/objectives/{index}");
            let plugin = opener.open(Role::Objective, &pointer, &source.plugin_source())?;
            let objective = plugin.objective(&source.config, &environment)?;
            objectives.push((objective, source.weight));
        }
        let scorer = match &sources.metric {
            None => Scorer::Core,
            Some(source) => {
                let plugin = opener.open(Role::Metric, "/plugins/metric", source)?;
                Scorer::Plugin(plugin, source.config.clone(), environment.clone())
            }
        };
        scorer.fresh()?;
        let plugins = opener.plugins;

        let settings = settings(experiment, range, &theta, &phi)?;
        let statistics = match experiment.adaptation.batch_norm {
            BatchNormStatistics::Running => Statistics::Running,
            BatchNormStatistics::Batch => Statistics::Batch,
        };
        let views = [
            View::new(
                &experiment.models.backbone,
                backbone.image_shape(),
                "/models/backbone/preprocess",
            ),
            View::new(
                &experiment.models.denoiser,
                denoiser.image_shape(),
                "/models/denoiser/preprocess",
            ),
        ];
        let task = TaskModel::new(
            backbone,
            head,
            mapper,
            denoiser.slots().to_vec(),
            statistics,
        )
        .with_values(head_places, mapper_places);
        let task = objectives
            .into_iter()
            .fold(task, |task, (objective, weight)| {
                task.with_objective(objective, weight)
            });
        let adapter = Adapter::new(settings, task, theta, denoiser, phi);
        let mut prepared = Self {
            device,
            stream,
            adapter,
            views,
            digests,
            plugins,
            scorer,
            kind: TaskKind::Classification,
            document,
        };
        prepared.kind = prepared.probe(classes)?;
        Ok(prepared)
    }

    /// Predicts the first sample, to learn what kind of task it is and that its parts fit one another.
    fn probe(&mut self, classes: usize) -> Result<TaskKind> {
        let invalid = |pointer: &str, message: String| self.document.refusal(pointer, message);
        let item = self.stream.item(0)?;
        let [image, _] = self.images(std::slice::from_ref(&item.image))?;
        let (predictions, _) = self.adapter.predict_source(&image)?;
        let kind = TaskKind::of(&predictions, 1).unwrap_or(TaskKind::Classification);
        let dataset = self.stream.dataset();
        let names = dataset.class_names().len();
        if kind != TaskKind::Depth && names != 0 && names != classes {
            let message = format!("it has {classes} classes, the dataset {names}");
            return Err(invalid("/models/backbone", message));
        }
        let experiment = &self.document.experiment;
        if kind == TaskKind::Classification {
            if experiment.output.pictures > 0 {
                let message =
                    "there is nothing to picture: the head predicts one class for each image";
                return Err(invalid("/output/pictures", message.into()));
            }
            return Ok(kind);
        }
        let target = match kind {
            TaskKind::Segmentation => item.maps.mask.as_ref().map(|mask| mask.shape()),
            _ => item.maps.depth.as_ref().map(|depth| depth.shape()),
        };
        let predicted = find(&predictions, kind.prediction()).map(|map| map.shape());
        if let (Some(target), Some(predicted)) = (target, predicted)
            && predicted[1..] != target
        {
            let message = format!(
                "predictions are {:?} (height, width), the dataset's {} maps {target:?}; give the dataset `transforms` that bring them there",
                &predicted[1..],
                kind.name()
            );
            return Err(invalid("/models/backbone", message));
        }
        let sources = [
            ("backbone", &experiment.models.backbone),
            ("denoiser", &experiment.models.denoiser),
        ];
        for (name, source) in sources {
            let moving = source
                .preprocess
                .iter()
                .position(|step| !step.keeps_borders());
            if let Some(n) = moving {
                let message =
                    "moves the image away from its map; put it into the dataset's `transforms`";
                let pointer = format!("/models/{name}/preprocess/{n}");
                return Err(invalid(&pointer, message.into()));
            }
        }
        let unscored = matches!(self.scorer, Scorer::Core) && target.is_some();
        if unscored {
            let message = format!("is missing: the core has no metric for {}", kind.name());
            return Err(invalid("/plugins/metric", message));
        }
        Ok(kind)
    }

    /// Where it will run.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The samples it will meet.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The experiment it came from.
    pub fn experiment(&self) -> &Experiment {
        &self.document.experiment
    }

    /// What task model and denoiser see of some images, each `[B, C, H, W]`.
    pub(crate) fn images(&self, images: &[Image]) -> Result<[Tensor; 2]> {
        let see = |view: &View| -> Result<Tensor> {
            let [channels, height, width] = view.shape;
            let mut pixels = Vec::with_capacity(images.len() * channels * height * width);
            for image in images {
                pixels.extend(view.see(image, &self.document.path)?);
            }
            Ok(Tensor::from_floats(
                &pixels,
                &[images.len(), channels, height, width],
                &self.device,
            )?)
        };
        Ok([see(&self.views[0])?, see(&self.views[1])?])
    }

    /// A batch of images for the adapter.
    pub(crate) fn batch<'a>(&self, ids: Vec<&'a str>, images: &[Image]) -> Result<Batch<'a>> {
        let [task, denoiser] = self.images(images)?;
        Ok(Batch {
            ids,
            task,
            denoiser,
        })
    }
}

/// Opens plugins, and writes down which.
struct Opener<'a> {
    document: &'a Document,
    registry: &'a Registry,
    digests: &'a mut BTreeMap<String, String>,
    plugins: BTreeMap<String, Value>,
}

impl Opener<'_> {
    /// The plugin that `source`, at `pointer` of the experiment, names for a role; its configuration fits its schema.
    fn open(&mut self, role: Role, pointer: &str, source: &PluginSource) -> Result<Plugin> {
        let plugin = self.registry.find(&source.plugin, self.document.base())?;
        let invalid = |issues: Vec<Issue>| Error::Invalid {
            path: self.document.path.clone(),
            what: "experiment",
            issues,
        };
        if let Some(pinned) = &source.sha256
            && plugin.digest() != pinned
        {
            return Err(invalid(vec![Issue {
                pointer: format!("{pointer}/sha256"),
                message: format!("the plugin's digest is {}", plugin.digest()),
            }]));
        }
        if let Err(issues) = plugin.validate_config(role, &source.config) {
            let issues = issues.into_iter().map(|issue| Issue {
                pointer: format!("{pointer}/config{}", issue.pointer),
                message: issue.message,
            });
            return Err(invalid(issues.collect()));
        }
        let key = pointer.trim_start_matches("/plugins/").to_owned();
        self.digests.insert(key.clone(), plugin.digest().into());
        self.plugins.insert(
            key,
            json!({"name": plugin.name(), "version": plugin.version(), "loader": plugin.loader().to_string()}),
        );
        Ok(plugin)
    }
}

impl View {
    fn new(source: &ModelSource, shape: [usize; 3], pointer: &'static str) -> Self {
        Self {
            steps: source.preprocess.clone(),
            standardize: source.standardize,
            shape,
            pointer,
        }
    }

    fn see(&self, image: &Image, path: &Path) -> Result<Vec<f32>> {
        let seen = transform(&self.steps, image.clone())?;
        if seen.shape() != self.shape {
            return Err(Error::Invalid {
                path: path.into(),
                what: "experiment",
                issues: vec![Issue {
                    pointer: self.pointer.into(),
                    message: format!(
                        "gives images of {:?}, the model takes {:?}",
                        seen.shape(),
                        self.shape
                    ),
                }],
            });
        }
        let mut pixels = seen.into_data();
        if let Some(target) = self.standardize {
            target.apply(&mut pixels);
        }
        Ok(pixels)
    }
}

fn settings(
    experiment: &Experiment,
    range: [usize; 2],
    task: &Weights,
    denoiser: &Weights,
) -> Result<Settings> {
    let adaptation = &experiment.adaptation;
    let draws = Draws {
        seed: experiment.seed,
        count: adaptation.draws,
        sampler: adaptation.timesteps.sampler,
        range,
        noise: adaptation.noise,
    };
    let movement = adaptation
        .denoiser
        .as_ref()
        .map(|moving| -> Result<Movement> {
            Ok(Movement {
                optimizer: moving.optimizer,
                parameters: moving.parameters.select("denoiser", denoiser)?,
            })
        });
    let carry = match adaptation.mode {
        Mode::SingleSample {} => Carry::Nothing,
        Mode::Online { slow_weights, .. } => {
            slow_weights.map_or(Carry::All, |slow| Carry::SlowWeights(slow.rate))
        }
    };
    Ok(Settings {
        carry,
        steps: adaptation.steps,
        feedback: Feedback {
            draws,
            micro_batch: adaptation.micro_batch,
            loss: adaptation.loss,
        },
        task: Movement {
            optimizer: adaptation.optimizer,
            parameters: adaptation.parameters.select("backbone", task)?,
        },
        denoiser: movement.transpose()?,
        centre: adaptation.centre.map(|centre| centre.rate),
        gate: adaptation.gate,
    })
}

/// A slot's shape as mappers hear of it: the batch is open.
fn slot_shape(shape: &[usize]) -> Vec<Option<usize>> {
    std::iter::once(None)
        .chain(shape.iter().copied().map(Some))
        .collect()
}

fn digest(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|source| Error::Read {
        path: path.into(),
        source,
    })?;
    Ok(sha256(&bytes))
}

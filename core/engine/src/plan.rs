//! What a run takes, told without its data and its weights: which files are missing, what the models compute, and how long that takes
//! here. Where weights are missing, models are measured with random ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dtta_learn::Footprint;
use dtta_models::{ModelError, ModelFiles, Models};
use dtta_tensor::{Precision, Tensor};

use crate::adapter::Adapter;
use crate::document::Document;
use crate::error::{Error, Result};
use crate::experiment::ModelSource;
use crate::prepare::{Devices, Extensions, Opened, Values, open, prompts_need};
use crate::seen::Seen;

/// What a run takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Files and folders that are not there.
    pub missing: Vec<Missing>,
    /// What the models compute; none where a model's configuration or the files of the label space or of the classes' names are missing.
    pub work: Option<Work>,
}

/// Something that an experiment names and that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// What names it, as a JSON pointer into the experiment.
    pub pointer: String,
    /// Where it should be.
    pub path: PathBuf,
    /// Where it is to be had, if the experiment says so.
    pub origin: Option<String>,
}

/// What the models compute for a sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// Numbers in the task model's weights.
    pub task_parameters: usize,
    /// One image through the task model, forward.
    pub task: Footprint,
    /// Numbers in the denoiser's weights; 0 without one.
    pub denoiser_parameters: usize,
    /// What it computes in.
    pub denoiser_precision: Precision,
    /// One draw, forward and backward, where the method asks a denoiser.
    pub draw: Option<Footprint>,
    /// Updates for each batch.
    pub steps: usize,
    /// Draws for each sample and step.
    pub draws: usize,
    /// Draws in one call of the denoiser at most.
    pub micro_batch: usize,
    /// Calls of the denoiser at once.
    pub lanes: usize,
    /// How backbone and denoiser see an image.
    pub seen: BTreeMap<String, Seen>,
}

impl Work {
    /// Measures one image and one draw through an adapter's models.
    pub(crate) fn of(adapter: &mut Adapter, devices: &Devices) -> Result<Self> {
        let method = adapter.method();
        let (steps, feedback) = (method.steps(), method.feedback());
        let seen = adapter.views().map(Seen::by_model).unwrap_or_default();
        let tools = adapter.tools();
        let image = tools.task().backbone().spec().image;
        let zeros = Tensor::full(&[&[1], &image[..]].concat(), 0.0, &devices.task)?;
        let task = Footprint::of(|| tools.source_outputs(&zeros, false).map(drop))?;
        let task_parameters = tools.source().elements();
        let Some(feedback) = feedback else {
            return Ok(Work {
                task_parameters,
                task,
                denoiser_parameters: 0,
                denoiser_precision: Precision::F32,
                draw: None,
                steps,
                draws: 0,
                micro_batch: 1,
                lanes: 1,
                seen,
            });
        };
        let (denoiser, weights) = (tools.denoiser()?, tools.denoiser_weights()?);
        let draw = feedback.footprint(denoiser, weights, &devices.denoiser);
        Ok(Work {
            task_parameters,
            task,
            denoiser_parameters: weights.elements(),
            denoiser_precision: weights.precision(),
            draw: Some(draw.map_err(Error::from)?),
            steps,
            draws: feedback.draws.count,
            micro_batch: feedback.micro_batch,
            lanes: devices.denoiser.lanes(),
            seen,
        })
    }

    /// Seconds that a sample takes, about: its draws, and for each step the task model forward and backward, which takes
    /// three times as long as forward alone; before and after, its predictions.
    pub fn seconds(&self) -> f64 {
        let draws = (self.steps * self.draws) as f64;
        let draw = self.draw.map_or(0.0, |draw| draw.seconds);
        draws * draw + (3.0 * self.steps as f64 + 2.0) * self.task.seconds
    }

    /// Bytes that are held at the most: weights, of the task model their gradients and the optimizer's two moments as well, and what
    /// the draws that are worked on at once leave on their tapes.
    pub fn memory_bytes(&self) -> u64 {
        let numbers = self.denoiser_precision.bytes() * self.denoiser_parameters;
        let weights = (16 * self.task_parameters + numbers) as u64;
        let rows = (self.micro_batch.min(self.draws) * self.lanes) as u64;
        weights + self.task.bytes + self.draw.map_or(0, |draw| rows * draw.bytes)
    }
}

impl Plan {
    /// Looks for what `document` names, and measures its models.
    ///
    /// # Errors
    /// Whatever is wrong with the experiment, its plugins, and those of its models' files that are there, as [`Prepared::new`] says it.
    ///
    /// [`Prepared::new`]: crate::Prepared::new
    pub fn of(
        document: &Document,
        extensions: &Extensions,
        devices: impl Into<Devices>,
    ) -> Result<Self> {
        Self::measured(document, extensions, &devices.into()).map_err(Error::of_opening)
    }

    fn measured(document: &Document, extensions: &Extensions, devices: &Devices) -> Result<Self> {
        let missing = Missing::of(document, &extensions.models);
        let configurations = missing.iter().any(|missing| {
            let pointer = missing.pointer.as_str();
            pointer.ends_with("/config") || [LABEL_SPACE, CLASS_NAMES].contains(&pointer)
        });
        let work = match configurations {
            true => None,
            false => Some(measure(document, extensions, devices)?),
        };
        Ok(Self { missing, work })
    }
}

/// What names the files of a label space.
const LABEL_SPACE: &str = "/models/label_space";
/// What names that of the classes' names.
const CLASS_NAMES: &str = "/models/prompts/classes_file";

impl Missing {
    /// Files and folders that `document` names and that are not there.
    pub fn of(document: &Document, models: &Models) -> Vec<Self> {
        let (base, experiment) = (document.base(), &document.experiment);
        let mut missing = Vec::new();
        let mut look = |pointer: &str, path: PathBuf, origin: &Option<String>| {
            if !path.exists() {
                missing.push(Self {
                    pointer: pointer.into(),
                    path,
                    origin: origin.clone(),
                });
            }
        };
        let data = &experiment.data;
        let datasets = data.dataset.iter().cloned().chain(data.stream.datasets());
        for dataset in datasets {
            look("/data", base.join(dataset.path()), &data.origin);
        }
        for path in experiment
            .models
            .label_space
            .iter()
            .flat_map(|space| space.files(base))
        {
            look(LABEL_SPACE, path, &None);
        }
        let model = |look: &mut dyn FnMut(&str, PathBuf, &Option<String>),
                     name: &str,
                     source: &ModelSource| {
            let config = match source.config_from(base) {
                Ok(config) if config.exists() => config,
                // What is not in the Hub's cache has the name of its repository.
                config => {
                    let path = config.unwrap_or_else(|_| source.config.clone());
                    look(&format!("/models/{name}/config"), path, &source.origin);
                    return;
                }
            };
            if let Some(folder) = &source.adapter {
                let found = source.adapter_from(base).ok().flatten();
                let pointer = format!("/models/{name}/adapter");
                look(&pointer, found.unwrap_or(folder.clone()), &source.origin);
            }
            let named = source.weights_from(base);
            let found = ModelFiles::find(&config, named.as_deref());
            let (weights, more, absent) = match found {
                Ok(files) => (files.weights, files.shards, files.absent),
                Err(ModelError::NoWeights {
                    path, looked_for, ..
                }) => (expected_in(&path, looked_for), Vec::new(), Vec::new()),
                Err(_) => (named.unwrap_or(config), Vec::new(), Vec::new()),
            };
            // Models that a model is made of.
            for path in absent {
                look(&format!("/models/{name}/config"), path, &source.origin);
            }
            for path in std::iter::once(weights).chain(more) {
                look(&format!("/models/{name}/weights"), path, &source.origin);
            }
        };
        model(&mut look, "backbone", &experiment.models.backbone);
        if let Some(denoiser) = &experiment.models.denoiser {
            model(&mut look, "denoiser", denoiser);
        }
        if let Some(encoder) = &experiment.models.encoder {
            model(&mut look, "encoder", encoder);
        }
        for needed in prompts_need(&experiment.models, base, models) {
            let origin = needed.origin.map(str::to_owned);
            look(&needed.pointer, needed.path, &origin);
        }
        missing
    }
}

/// The weights that a folder would have by these names: of diffusers, whose configurations name a class, or else of transformers and timm.
fn expected_in(folder: &Path, names: &[&str]) -> PathBuf {
    let config = dtta_base::read_json(&folder.join("config.json"), &[]);
    let of_diffusers = config.is_ok_and(|config| config.get("_class_name").is_some());
    let is_it = |name: &&&str| name.starts_with("diffusion_") == of_diffusers;
    let name = names.iter().find(is_it).or(names.first());
    folder.join(name.unwrap_or(&""))
}

fn measure(document: &Document, extensions: &Extensions, devices: &Devices) -> Result<Work> {
    let drawn = Values::DrawnIfMissing;
    let opened = open(document, extensions, devices, &[1], None, (drawn, None))?;
    let Opened { mut adapter, .. } = opened;
    Work::of(&mut adapter, devices)
}

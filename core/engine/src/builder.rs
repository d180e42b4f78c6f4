//! Making an [`Adapter`] from paths, or from one's own models.

use std::path::{Path, PathBuf};

use dtta_base::{Issue, invalid};
use dtta_data::{Image, View};
use dtta_models::{Backbone, BatchNormStatistics, Denoiser, Lora, Weights, locate};
use dtta_plugin::Loading;
use dtta_tensor::{Named, Tensor};
use serde_json::Value;

use crate::adapter::Adapter;
use crate::error::{Error, Result};
use crate::experiment::{AdaptationConfig, LimitsConfig, Mode};
use crate::methods::{Adapted, Batch, MethodConfig, MethodSource, SafeguardsConfig};
use crate::prepare::{Devices, Extensions, Part, Parts, assemble};

/// What an [`Adapter`] is made of. Everything but backbone, head and method has a default.
#[derive(Default)]
pub struct AdapterBuilder {
    extensions: Extensions,
    devices: Option<Devices>,
    backbone: Option<Model<dyn Backbone>>,
    backbone_extents: Option<[usize; 2]>,
    denoiser: Option<Model<dyn Denoiser>>,
    /// Folders with factors of low rank for backbone and denoiser.
    adapters: [Option<PathBuf>; 2],
    encoder: Option<PathBuf>,
    constants: Named,
    head: Option<(String, Value)>,
    mapper: Option<(String, Value)>,
    objectives: Vec<(String, Value, f64)>,
    method: Option<MethodSource>,
    mode: Option<Mode>,
    batch_norm: BatchNormStatistics,
    safeguards: Option<SafeguardsConfig>,
    seed: u64,
    limits: LimitsConfig,
    views: [View; 2],
}

/// A model from a file, or one's own.
enum Model<M: ?Sized> {
    File(PathBuf),
    Own(Box<M>, Weights),
}

impl AdapterBuilder {
    /// Plugins, architectures and methods of one's own, beside those that come with dtta.
    #[must_use]
    pub fn extensions(mut self, extensions: Extensions) -> Self {
        self.extensions = extensions;
        self
    }

    /// Where the models compute; on the CPU unless said otherwise.
    #[must_use]
    pub fn devices(mut self, devices: impl Into<Devices>) -> Self {
        self.devices = Some(devices.into());
        self
    }

    /// The backbone from a model's JSON configuration or folder, its weights beside it, or `hf:OWNER/REPOSITORY`.
    #[must_use]
    pub fn backbone(mut self, config: impl Into<PathBuf>) -> Self {
        self.backbone = Some(Model::File(config.into()));
        self
    }

    /// Height and width of the images of a published backbone whose configuration leaves them open, as an experiment's
    /// `models.backbone.extents`.
    #[must_use]
    pub fn backbone_extents(mut self, extents: [usize; 2]) -> Self {
        self.backbone_extents = Some(extents);
        self
    }

    /// A backbone of one's own with its weights, on the task model's device.
    #[must_use]
    pub fn own_backbone(mut self, backbone: Box<dyn Backbone>, weights: Weights) -> Self {
        self.backbone = Some(Model::Own(backbone, weights));
        self
    }

    /// The denoiser, likewise.
    #[must_use]
    pub fn denoiser(mut self, config: impl Into<PathBuf>) -> Self {
        self.denoiser = Some(Model::File(config.into()));
        self
    }

    /// A denoiser of one's own with its weights, on the denoiser's device.
    #[must_use]
    pub fn own_denoiser(mut self, denoiser: Box<dyn Denoiser>, weights: Weights) -> Self {
        self.denoiser = Some(Model::Own(denoiser, weights));
        self
    }

    /// Factors of low rank for the backbone: a folder that peft wrote, or diffusers for a pipeline, or `hf:OWNER/REPOSITORY`. They are added to
    /// its matrices, unless the method moves them (`{"group": {"lora": {}}}` as its `parameters`); [`Adapter::factors`] has them as they are
    /// then.
    #[must_use]
    pub fn backbone_adapter(mut self, folder: impl Into<PathBuf>) -> Self {
        self.adapters[0] = Some(folder.into());
        self
    }

    /// Factors of low rank for the denoiser, likewise.
    #[must_use]
    pub fn denoiser_adapter(mut self, folder: impl Into<PathBuf>) -> Self {
        self.adapters[1] = Some(folder.into());
        self
    }

    /// What makes latents for the denoiser, named as the other models are. The denoiser's view gives it images in [-1, 1].
    #[must_use]
    pub fn encoder(mut self, config: impl Into<PathBuf>) -> Self {
        self.encoder = Some(config.into());
        self
    }

    /// A tensor that head and mapper may ask for by name, on the task model's device, beside what the models have.
    #[must_use]
    pub fn constant(mut self, name: impl Into<String>, constant: Tensor) -> Self {
        self.constants.push(name, constant);
        self
    }

    /// The head: a plugin as experiments name it, from the working folder, and its configuration.
    #[must_use]
    pub fn head(mut self, plugin: impl Into<String>, config: Value) -> Self {
        self.head = Some((plugin.into(), config));
        self
    }

    /// The mapper, likewise. Methods that ask a denoiser need one.
    #[must_use]
    pub fn mapper(mut self, plugin: impl Into<String>, config: Value) -> Self {
        self.mapper = Some((plugin.into(), config));
        self
    }

    /// A further scalar to minimise, with its weight.
    #[must_use]
    pub fn objective(mut self, plugin: impl Into<String>, config: Value, weight: f64) -> Self {
        self.objectives.push((plugin.into(), config, weight));
        self
    }

    /// The method.
    #[must_use]
    pub fn method<C: MethodConfig>(mut self, config: &C) -> Self {
        self.method = Some(MethodSource::of(config));
        self.extensions.methods.add::<C>();
        self
    }

    /// How long weights live; single-sample unless said otherwise. When to reset online weights is the caller's business: see
    /// [`Adapter::reset`].
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = Some(mode);
        self
    }

    /// What BatchNorm layers of the backbone normalise with; the statistics of training unless said otherwise.
    #[must_use]
    pub fn batch_norm(mut self, statistics: BatchNormStatistics) -> Self {
        self.batch_norm = statistics;
        self
    }

    /// What is meant to keep adaptation from ending below the source model; nothing unless said otherwise.
    #[must_use]
    pub fn safeguards(mut self, safeguards: SafeguardsConfig) -> Self {
        self.safeguards = Some(safeguards);
        self
    }

    /// Fixes all noise; 0 unless said otherwise.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// What one call of a plugin may use, and what a component may be made of.
    #[must_use]
    pub fn limits(mut self, limits: LimitsConfig) -> Self {
        self.limits = limits;
        self
    }

    /// How the task model and the denoiser see an image in [0, 1], for [`Adapter::adapt_images`]; as it is unless said otherwise.
    #[must_use]
    pub fn views(mut self, task: View, denoiser: View) -> Self {
        self.views = [task, denoiser];
        self
    }

    /// Opens everything.
    ///
    /// # Errors
    /// [`Error::Base`] by pointer for what is missing or does not fit, as an experiment's faults are; whatever a file, a model or a plugin
    /// refuses.
    pub fn build(self) -> Result<Adapter> {
        let refuse =
            |issues: Vec<Issue>| Error::Base(invalid(Path::new("the program"), "adapter", issues));
        let missing = |pointer: &str| Issue::new(pointer, "is missing");
        let there = [
            ("/models/backbone", self.backbone.is_some()),
            ("/plugins/head", self.head.is_some()),
            ("/method", self.method.is_some()),
        ];
        let issues = there
            .iter()
            .filter(|(_, there)| !there)
            .map(|(pointer, _)| missing(pointer));
        let issues: Vec<Issue> = issues.collect();
        let (Some(backbone), Some(head), Some(method)) = (self.backbone, self.head, self.method)
        else {
            return Err(refuse(issues));
        };
        let here = Path::new(".");
        let devices = self
            .devices
            .unwrap_or_else(|| dtta_tensor::Device::cpu().into());
        let models = &self.extensions.models;
        let backbone = match backbone {
            Model::Own(backbone, weights) => (backbone, weights),
            Model::File(path) => {
                let chosen = self
                    .backbone_extents
                    .map(|extents| models.with_extents(extents));
                let models = chosen.as_ref().unwrap_or(models);
                models.load_backbone(&locate(path, here)?, None, &devices.task)?
            }
        };
        let denoiser = match self.denoiser {
            None => None,
            Some(Model::Own(denoiser, weights)) => Some((denoiser, weights)),
            Some(Model::File(path)) => {
                Some(models.load_denoiser(&locate(path, here)?, None, &devices.denoiser)?)
            }
        };
        let encoder = match self.encoder {
            None => None,
            Some(path) => {
                Some(models.load_encoder(&locate(path, here)?, None, &devices.denoiser)?)
            }
        };
        let given = |folder: Option<PathBuf>, weights: &Weights| {
            let load = |folder| Lora::load(&locate(folder, here)?, weights);
            folder.map(load).transpose()
        };
        let [of_backbone, of_denoiser] = self.adapters;
        let adapters = [
            given(of_backbone, &backbone.1)?,
            match &denoiser {
                Some((_, weights)) => given(of_denoiser, weights)?,
                None if of_denoiser.is_some() => {
                    let message = "is of a denoiser, and there is none";
                    return Err(refuse(vec![Issue::new(
                        "/models/denoiser/adapter",
                        message,
                    )]));
                }
                None => None,
            },
        ];
        let config = self.extensions.methods.config(&method);
        let config = config.map_err(|issues| refuse(crate::document::within("/method", issues)))?;
        let adaptation = AdaptationConfig {
            mode: self.mode.unwrap_or(Mode::SingleSample {}),
            batch: 1,
            batch_norm: self.batch_norm,
            safeguards: self.safeguards,
        };
        let issues = crate::document::within("/method", config.contradictions(&adaptation));
        if !issues.is_empty() {
            return Err(refuse(issues));
        }

        let plugins = &self.extensions.plugins;
        let loading = Loading {
            compiling: self.limits.compiling(),
            ..Loading::default()
        };
        let part = |(name, config): (String, Value)| -> Result<Part> {
            Ok(Part {
                plugin: plugins.load(&name, here, &loading)?,
                config,
                weights: None,
            })
        };
        let mapper = self.mapper.map(part).transpose()?;
        if config.needs_denoiser() && (denoiser.is_none() || mapper.is_none()) {
            let message = format!("the method `{}` asks for both", method.kind);
            return Err(refuse(vec![
                Issue::new("/models/denoiser", message.clone()),
                Issue::new("/plugins/mapper", message),
            ]));
        }
        let mut objectives = Vec::new();
        for (name, config, weight) in self.objectives {
            objectives.push((part((name, config))?, weight));
        }
        let parts = Parts {
            devices: &devices,
            backbone,
            denoiser,
            adapters,
            constants: self.constants,
            encoder,
            head: part(head)?,
            mapper,
            objectives,
            limits: &self.limits,
            method: &*config,
            adaptation: &adaptation,
            seed: self.seed,
            segments: &[],
            views: self.views,
            published: None,
        };
        assemble(parts, &refuse)
    }
}

impl Adapter {
    /// Adapts to images in [0, 1], each with its id, seen as [`AdapterBuilder::views`] says.
    ///
    /// # Errors
    /// As [`Adapter::adapt`]; [`Error::Batch`] for an image that the views do not bring to the model's extents.
    pub fn adapt_images(&mut self, images: &[(&str, &Image)]) -> Result<Adapted> {
        let seen: Vec<&Image> = images.iter().map(|(_, image)| *image).collect();
        let Some(views) = self.views() else {
            return Err(Error::Batch {
                found: "images, and no way to see them".into(),
                expected: "an adapter that was built with views, or a batch of tensors".into(),
            });
        };
        let denoiser = views.denoiser.as_ref().map(|view| view.see(&seen));
        let batch = Batch {
            ids: images.iter().map(|(id, _)| *id).collect(),
            task: views.task.see(&seen).map_err(|error| error.of_batch())?,
            denoiser: denoiser.transpose().map_err(|error| error.of_batch())?,
        };
        self.adapt(&batch)
    }
}

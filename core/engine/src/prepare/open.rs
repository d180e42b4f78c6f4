//! Opens the models and plugins that an experiment names, and writes down what they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dtta_base::{Issue, sha256, sha256_file};
use dtta_data::View;
use dtta_models::{
    Backbone, Denoiser, Lora, ModelError, ModelFiles, Preprocessing, Prompted, SomeClasses,
    SomeEmbeddings, TextClasses, Weights,
};
use dtta_plugin::{LoaderKind, Loading, Plugin, PluginError, Role};
use dtta_tensor::{Device, Named};
use serde_json::{Value, json};

use super::assemble::{Part, Parts, assemble};
use super::class_names::Known;
use super::kept::Kept;
use super::prompts::{Prompts, TEXT_EMBEDDINGS, TEXT_FEATURES, Texts};
use super::{Devices, Extensions, Own, published};
use crate::adapter::Adapter;
use crate::document::{Document, within};
use crate::error::Result;
use crate::experiment::{ModelSource, PluginSource};
use crate::report::Scorer;
use crate::seen::Seen;

/// What was opened.
pub(crate) struct Opened {
    pub adapter: Adapter,
    /// The method in a few words.
    pub in_words: String,
    /// Plugins by role: name, version, loader.
    pub plugins: BTreeMap<String, Value>,
    pub digests: BTreeMap<String, String>,
    /// The experiment's metric, if it names one.
    pub scorer: Option<Scorer>,
}

/// Where weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Values {
    /// From their files.
    Loaded,
    /// Drawn at random, where a file is missing: to learn what models take, not what they say.
    DrawnIfMissing,
}

/// Opens models, plugins and method, for segments of so many samples of classes with these names; without them, for an experiment whose
/// data may be missing. What text encoders make is taken from where it is kept.
pub(crate) fn open(
    document: &Document,
    extensions: &Extensions,
    devices: &Devices,
    segments: &[usize],
    class_names: Option<&[String]>,
    (values, kept): (Values, Option<&Kept>),
) -> Result<Opened> {
    let experiment = &document.experiment;
    let sources = &experiment.plugins;
    let method = document.method(&extensions.methods)?;
    let mut opener = Opener::new(document, extensions);
    let models = &extensions.models;
    let source = &experiment.models.backbone;
    let chosen = source.extents.map(|extents| models.with_extents(extents));
    let of_backbone = chosen.as_ref().unwrap_or(models);
    let misfit = |error: ModelError| match error {
        ModelError::Extents { .. } => {
            document.refusal("/models/backbone/extents", dtta_base::told(&error))
        }
        other => other.into(),
    };
    // Where the backbone's file is, unless it is the program's own.
    let mut backbone_file: Option<PathBuf> = None;
    let mut own_weights = None;
    let mut backbone = match &extensions.own.backbone {
        Some(own) => {
            opener.own("backbone", own);
            own.make(&devices.task)?
        }
        None => {
            let (config, weights) = opener.model("backbone", source, values)?;
            let loaded = match &weights {
                Some(weights) => of_backbone.load_backbone(&config, Some(weights), &devices.task),
                None => of_backbone.draw_backbone(&config, &devices.task),
            };
            let loaded = loaded.map_err(misfit)?;
            own_weights = source.weights_from(document.base());
            backbone_file = Some(config);
            loaded
        }
    };
    let mut adapters = [
        opener.adapter("backbone", source, &backbone.1, values)?,
        None,
    ];
    let published = match &backbone_file {
        Some(config) => of_backbone.preprocessing(config)?,
        None => None,
    };
    if let Some(published) = &published {
        // They may come from a file that is neither configuration nor weights.
        let digest = sha256(json!(published).to_string().as_bytes());
        opener
            .digests
            .insert("backbone/preprocessing".into(), digest);
    }
    let mut views = [view(source, published.as_ref()), View::default()];
    let refuse = |issues: Vec<Issue>| document.refuse(issues);
    let text_space = backbone.0.text_space();
    let known = Known {
        dataset: class_names,
        space: experiment.models.label_space.as_ref(),
        backbone: text_space.is_none().then_some(backbone.0.spec().outputs),
    };
    let mut prompts = match &experiment.models.prompts {
        Some(config) => Some(Prompts::new(
            config,
            document.base(),
            (&known, text_space.is_some() || config.prompt().is_none()),
            &refuse,
            kept,
        )?),
        None if text_space.is_some() => {
            let message = "is missing: the backbone answers with features alone, and texts say what its classes are";
            return Err(document.refusal("/models/prompts", message));
        }
        None => None,
    };
    let mut constants = Named::new();
    match (&mut prompts, text_space) {
        (Some(prompts), Some(width)) => {
            let config = backbone_file.as_deref().unwrap_or(&source.config);
            let own = (config, own_weights.as_deref());
            let texts = prompts.features(width, own, models, &devices.task, values)?;
            constants.push(TEXT_FEATURES, texts);
            backbone.0 = TextClasses::of(backbone.0, prompts.classes())?;
        }
        (Some(prompts), None) => prompts.without_backbone()?,
        (None, _) => {}
    }
    // A method that asks no denoiser runs without, whatever the experiment names.
    let mut denoiser: Option<(Box<dyn Denoiser>, Weights)> = None;
    let (mut encoder, mut mapper) = (None, None);
    // Whether the denoiser's images, or its encoder's, are known to have been in [-1, 1] when it was trained.
    let mut centred = false;
    if method.needs_denoiser() {
        let precision = experiment.models.denoiser_precision;
        let far = devices.denoiser.with_precision(precision);
        let far =
            far.map_err(|error| document.refusal("/models/denoiser_precision", error.to_string()))?;
        if let Some(source) = &experiment.models.denoiser {
            let mut file = None;
            denoiser = Some(match &extensions.own.denoiser {
                Some(own) => {
                    opener.own("denoiser", own);
                    own.make(&far)?
                }
                None => {
                    let (config, weights) = opener.model("denoiser", source, values)?;
                    let loaded = match weights {
                        Some(weights) => models.load_denoiser(&config, Some(&weights), &far)?,
                        None => models.draw_denoiser(&config, &far)?,
                    };
                    file = Some(config);
                    loaded
                }
            });
            if let Some((_, weights)) = &denoiser {
                adapters[1] = opener.adapter("denoiser", source, weights, values)?;
            }
            if let Some(prompts) = &mut prompts
                && let Some((model, weights)) = denoiser.take()
            {
                let texts = prompts.embeddings(
                    &*model,
                    file.as_deref(),
                    models,
                    &devices.denoiser,
                    values,
                )?;
                let model = match texts {
                    Some(Texts::OfAll(tokens)) => {
                        let prompted = Prompted::of(model, tokens);
                        prompted.map_err(|error| {
                            document
                                .refusal("/models/prompts/denoiser/prompt", dtta_base::told(&error))
                        })?
                    }
                    Some(Texts::OfClasses(texts)) => {
                        constants.push(TEXT_EMBEDDINGS, texts.to_device(&devices.task)?);
                        model
                    }
                    None => model,
                };
                denoiser = Some((model, weights));
            }
            views[1] = view(source, None);
            let library = match &file {
                Some(config) => models.library(config)?,
                None => None,
            };
            centred = library.is_some() || experiment.models.encoder.is_some();
        }
        // A schedule may come from a file that is neither configuration nor weights.
        if let Some((denoiser, _)) = &denoiser {
            let schedule = json!(denoiser.schedule().config()).to_string();
            let digest = sha256(schedule.as_bytes());
            opener.digests.insert("denoiser/schedule".into(), digest);
        }
        if let Some(source) = &experiment.models.encoder {
            let (config, weights) = opener.model("encoder", source, values)?;
            encoder = Some(match weights {
                Some(weights) => models.load_encoder(&config, Some(&weights), &devices.denoiser)?,
                None => {
                    let encoder = models.encoder(&config)?;
                    let weights = Weights::initialise(encoder.parameters(), 0, &devices.denoiser)?;
                    (encoder, weights)
                }
            });
        }
        if let Some(source) = &sources.mapper {
            mapper = Some(opener.part(Role::Mapper, "/plugins/mapper", source)?);
        }
    }
    if let Some(space) = &experiment.models.label_space {
        let base = document.base();
        let classes = space.classes(base)?;
        for path in space.files(base) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let digest = sha256_file(&path)?;
            opener.digests.insert(format!("label_space/{name}"), digest);
        }
        // One that reads has as many as there are texts.
        let own = text_space.is_none().then_some(backbone.0.spec().outputs);
        let found = [
            ("backbone", own),
            (
                "denoiser",
                denoiser
                    .as_ref()
                    .and_then(|(denoiser, _)| denoiser.class_condition())
                    .map(|condition| condition.classes),
            ),
        ];
        // Models of ImageNet-21k number its classes in another way.
        for (model, found) in found {
            if let (Some(found), Some(all)) = (found, space.of_models_with())
                && found != all
            {
                let message = format!("is of models of {all} classes, the {model} has {found}");
                return Err(document.refusal("/models/label_space", message));
            }
        }
        let other = space.denoiser_classes();
        if let [(_, Some(backbone)), (_, Some(denoiser))] = found
            && backbone != denoiser
            && other.is_none()
        {
            let message = format!(
                "the backbone has {backbone} classes, the denoiser {denoiser}, so a label is not the same class of both: \
                 `denoiser_classes` says which are the denoiser's"
            );
            return Err(document.refusal("/models/label_space", message));
        }
        if let Some(other) = other.as_ref().filter(|other| other.len() != classes.len()) {
            let message = format!("has {} labels, `classes` {}", other.len(), classes.len());
            return Err(document.refusal("/models/label_space/denoiser_classes", message));
        }
        let refuse =
            |error: ModelError| document.refusal("/models/label_space", dtta_base::told(&error));
        if text_space.is_none() {
            let (model, weights): (Box<dyn Backbone>, Weights) = backbone;
            let model = SomeClasses::of(model, &classes).map_err(refuse)?;
            backbone = (model, weights);
        }
        if let Some((model, weights)) = denoiser {
            let model = SomeEmbeddings::of(model, other.as_ref().unwrap_or(&classes));
            let model = model.map_err(refuse)?;
            denoiser = Some((model, weights));
        }
    }
    let head = opener.part(Role::Head, "/plugins/head", &sources.head)?;
    let mut objectives = Vec::new();
    for (index, source) in sources.objectives.iter().enumerate() {
        let pointer = format!("/plugins/objectives/{index}");
        let part = opener.part(Role::Objective, &pointer, &source.plugin_source())?;
        objectives.push((part, source.weight));
    }
    let metric = sources.metric.as_ref();
    let scorer = metric
        .map(|source| opener.scorer(source, &devices.task))
        .transpose()?;
    opener
        .digests
        .extend(prompts.map(Prompts::digests).into_iter().flatten());
    let library = match &backbone_file {
        Some(config) => of_backbone.library(config)?,
        None => None,
    };
    let parts = Parts {
        devices,
        backbone,
        denoiser,
        adapters,
        constants,
        encoder,
        head,
        mapper,
        objectives,
        limits: &sources.limits,
        method: &*method,
        adaptation: &experiment.adaptation,
        seed: experiment.seed,
        segments,
        views,
        published: published
            .filter(|_| source.preprocess.is_empty())
            .and(library),
    };
    let adapter = assemble(parts, &|issues| document.refuse(issues))?;
    let denoiser = adapter.views().and_then(|views| views.denoiser.as_ref());
    if centred && let Some(warning) = denoiser.and_then(|view| Seen::of(view).not_centred()) {
        log::warn!("/models/denoiser/preprocess {warning}");
    }
    Ok(Opened {
        adapter,
        in_words: method.in_words(),
        plugins: opener.plugins,
        digests: opener.digests,
        scorer,
    })
}

/// The experiment's steps, or where it has none those of the library that published the model.
fn view(source: &ModelSource, published: Option<&Preprocessing>) -> View {
    let steps = match (published, &source.preprocess[..]) {
        (Some(published), []) => published::steps(published),
        (_, steps) => steps.to_vec(),
    };
    View {
        steps,
        standardize: source.standardize,
    }
}

/// The metric that an experiment names, or the core's, for runs that are put together.
pub(crate) fn open_scorer(
    document: &Document,
    extensions: &Extensions,
    device: &Device,
) -> Result<Scorer> {
    match &document.experiment.plugins.metric {
        Some(source) => Opener::new(document, extensions).scorer(source, device),
        None => Ok(Scorer::core()),
    }
}

/// Whether a role would accept a configuration with a field that nobody knows. Where nothing is configured, nothing is misspelt.
fn ignores_misspelt_fields(plugin: &Plugin, role: Role, config: &Value) -> bool {
    let mut misspelt = config.clone();
    match misspelt.as_object_mut() {
        Some(fields) if !fields.is_empty() => {
            fields.insert("a_field_that_nobody_knows".into(), json!(1));
            plugin.validate_config(role, &misspelt).is_ok()
        }
        _ => false,
    }
}

/// Opens models' files and plugins, and writes down which.
pub(crate) struct Opener<'a> {
    document: &'a Document,
    extensions: &'a Extensions,
    digests: BTreeMap<String, String>,
    plugins: BTreeMap<String, Value>,
}

impl<'a> Opener<'a> {
    pub fn new(document: &'a Document, extensions: &'a Extensions) -> Self {
        Self {
            document,
            extensions,
            digests: BTreeMap::new(),
            plugins: BTreeMap::new(),
        }
    }

    /// What is known of a model of the program's own.
    fn own<M: ?Sized>(&mut self, name: &str, own: &Own<M>) {
        let digest = own.digest().to_owned();
        self.digests.insert(format!("{name}/program"), digest);
    }

    /// Configuration and weights of a model; no weights where they are to be drawn.
    fn model(
        &mut self,
        name: &str,
        source: &ModelSource,
        values: Values,
    ) -> Result<(PathBuf, Option<PathBuf>)> {
        let base = self.document.base();
        let config = source.config_from(base)?;
        let found = ModelFiles::find(&config, source.weights_from(base).as_deref());
        let is_there = |files: &ModelFiles| files.all().all(Path::exists);
        if values == Values::DrawnIfMissing && !found.as_ref().is_ok_and(is_there) {
            return Ok((config, None));
        }
        let files = found?;
        let shards = files.shards.iter().enumerate();
        let shards = shards.map(|(n, path)| (format!("weights/{n}"), path));
        let both = [
            ("configuration".to_owned(), &files.config),
            ("weights".to_owned(), &files.weights),
        ];
        for (what, path) in both.into_iter().chain(shards) {
            let digest = sha256_file(path)?;
            self.digests.insert(format!("{name}/{what}"), digest);
        }
        Ok((config, Some(files.weights)))
    }

    /// The factors of low rank that a model is given, if any; none where they are missing and its weights may be.
    fn adapter(
        &mut self,
        name: &str,
        source: &ModelSource,
        weights: &Weights,
        values: Values,
    ) -> Result<Option<Lora>> {
        let may_be_missing = values == Values::DrawnIfMissing;
        let folder = match source.adapter_from(self.document.base()) {
            Err(ModelError::NotCached { .. }) if may_be_missing => None,
            found => found?.filter(|folder| !may_be_missing || folder.exists()),
        };
        let Some(folder) = folder else {
            return Ok(None);
        };
        for (n, path) in Lora::files(&folder)?.iter().enumerate() {
            let digest = sha256_file(path)?;
            self.digests.insert(format!("{name}/adapter/{n}"), digest);
        }
        Ok(Some(Lora::load(&folder, weights)?))
    }

    /// The plugin that `source`, at `pointer` of the experiment, names for a role; its configuration fits its schema.
    fn plugin(&mut self, role: Role, pointer: &str, source: &PluginSource) -> Result<Plugin> {
        let base = self.document.base();
        let loading = Loading {
            sha256: source.sha256.clone(),
            compiling: self.document.experiment.plugins.limits.compiling(),
        };
        let loaded = match self.extensions.own.plugin(role) {
            Some(own) => Ok(own.clone()),
            None => self.extensions.plugins.load(&source.plugin, base, &loading),
        };
        let plugin = loaded.map_err(|error| match error {
            PluginError::Pin { found, .. } => {
                let message = format!("the plugin's digest is {found}");
                self.document.refusal(&format!("{pointer}/sha256"), message)
            }
            PluginError::NotFound { .. } | PluginError::Unbuilt { .. } => {
                let pointer = format!("{pointer}/use");
                self.document.refusal(&pointer, error.to_string())
            }
            error => error.into(),
        })?;
        if !plugin.roles().contains(&role) {
            let offered = plugin.roles().iter().map(|role| format!("`{role}`"));
            let message = format!(
                "plugin `{}` has no role `{role}`; it offers {}",
                plugin.name(),
                offered.collect::<Vec<_>>().join(", ")
            );
            return Err(self.document.refusal(pointer, message));
        }
        if let Err(issues) = plugin.validate_config(role, &source.config) {
            let issues: Vec<Issue> = within(&format!("{pointer}/config"), issues);
            return Err(self.document.refuse(issues));
        }
        if ignores_misspelt_fields(&plugin, role, &source.config) {
            let message = format!(
                "the schema of the {role} accepts fields that it does not name, so a misspelt one would be ignored; its author can close it with `#[serde(deny_unknown_fields)]` (`additionalProperties: false`)"
            );
            return Err(self.document.refusal(&format!("{pointer}/config"), message));
        }
        let key = pointer.trim_start_matches("/plugins/").to_owned();
        if let Some(path) = &source.weights {
            let digest = sha256_file(&base.join(path))?;
            self.digests.insert(format!("{key}/weights"), digest);
        }
        let what = match plugin.loader() {
            LoaderKind::Program => format!("{key}/program"),
            _ => key.clone(),
        };
        self.digests.insert(what, plugin.digest().into());
        // A component's descriptor stands beside it, not in it.
        let (predicts, scores) = (plugin.predicts(), plugin.scores());
        let said = json!({"predicts": predicts, "scores": scores, "additive": plugin.additive()});
        let said = sha256(said.to_string().as_bytes());
        self.digests.insert(format!("{key}/descriptor"), said);
        self.plugins.insert(
            key,
            json!({"name": plugin.name(), "version": plugin.version(), "loader": plugin.loader().to_string()}),
        );
        Ok(plugin)
    }

    /// A plugin in a role, with the file of its values.
    fn part(&mut self, role: Role, pointer: &str, source: &PluginSource) -> Result<Part> {
        let weights = source.weights.as_ref();
        Ok(Part {
            plugin: self.plugin(role, pointer, source)?,
            config: source.config.clone(),
            weights: weights.map(|path| self.document.base().join(path)),
        })
    }

    /// A plugin's metric. It is told nothing of the models.
    fn scorer(&mut self, source: &PluginSource, device: &Device) -> Result<Scorer> {
        let plugin = self.plugin(Role::Metric, "/plugins/metric", source)?;
        let limits = self.document.experiment.plugins.limits;
        let environment = limits.environment(device.clone());
        let scorer = Scorer::plugin(plugin, source.config.clone(), environment);
        scorer.fresh()?;
        Ok(scorer)
    }
}

//! What text encoders make of the classes' sentences, computed once. Heads and mappers ask for it by name: [`TEXT_FEATURES`]
//! `[classes, D]` in the space of the backbone's features, each of length 1, and [`TEXT_EMBEDDINGS`] `[classes, L, D]`, what the denoiser
//! attends to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dtta_base::{Issue, expect_memory, sha256, sha256_file};
use dtta_models::{
    Denoiser, ModelError, ModelFiles, Models, TOKENS, TextEncoder, Tokenizer, locate, unet_of,
};
use dtta_tensor::{Device, Tensor};
use serde_json::json;

use super::Values;
use super::class_names::{Known, class_names};
use super::kept::{Kept, digest_of};
use crate::error::{Error, Result};
use crate::experiment::ModelsConfig;
use crate::prompts::{PromptsConfig, Template, TextSource};

/// The constant with a vector for each class in the space of the backbone's features.
pub(crate) const TEXT_FEATURES: &str = "text-features";
/// The constant with the tokens of each class that the denoiser attends to.
pub(crate) const TEXT_EMBEDDINGS: &str = "text-embeddings";

/// Sentences that a text encoder reads at once.
const BATCH: usize = 16;
/// Where experiments say it.
const POINTER: &str = "/models/prompts";

/// How faults of the experiment become an error.
pub(crate) type Refuse<'a> = &'a dyn Fn(Vec<Issue>) -> Error;

/// The sentences of an experiment.
pub(crate) struct Prompts<'a> {
    config: &'a PromptsConfig,
    /// The folder at which paths start.
    base: &'a Path,
    refuse: Refuse<'a>,
    /// For each class of the samples, what it is called; several where it is several classes of the models.
    names: Vec<Vec<String>>,
    digests: BTreeMap<String, String>,
    kept: Option<&'a Kept>,
}

/// What a denoiser attends to.
pub(crate) enum Texts {
    /// Tokens of each class, `[classes, L, D]`: [`TEXT_EMBEDDINGS`].
    OfClasses(Tensor),
    /// Those of one text for all images, `[1, L, D]`.
    OfAll(Tensor),
}

/// A text encoder with what it needs.
struct Reader {
    /// The model that it reads for.
    model: &'static str,
    encoder: Box<dyn TextEncoder>,
    /// Its configuration, and its weights where they do not lie beside it.
    files: (PathBuf, Option<PathBuf>),
    values: Values,
    device: Device,
    tokenizer: Tokenizer,
    templates: Vec<Template>,
}

impl<'a> Prompts<'a> {
    /// Finds what the classes are called, where a model `reads` of them.
    ///
    /// # Errors
    /// By pointer: too few names or too many, none, or such that say nothing; a file that cannot be read.
    pub fn new(
        config: &'a PromptsConfig,
        base: &'a Path,
        (known, reads): (&Known<'_>, bool),
        refuse: Refuse<'a>,
        kept: Option<&'a Kept>,
    ) -> Result<Self> {
        let mut prompts = Self {
            config,
            base,
            refuse,
            names: match reads {
                true => class_names(config, base, known, refuse)?,
                false => Vec::new(),
            },
            digests: BTreeMap::new(),
            kept,
        };
        let names = json!([prompts.names, prompts.config.templates]).to_string();
        let digest = sha256(names.as_bytes());
        prompts.digests.insert("prompts/names".into(), digest);
        Ok(prompts)
    }

    /// How many classes there are.
    pub fn classes(&self) -> usize {
        self.names.len()
    }

    /// What results depend on, by name.
    pub fn digests(self) -> BTreeMap<String, String> {
        self.digests
    }

    fn refusal(&self, pointer: &str, message: impl Into<String>) -> Error {
        (self.refuse)(vec![Issue::new(format!("{POINTER}{pointer}"), message)])
    }

    /// [`TEXT_FEATURES`] on `device`, for a backbone whose features have that width. `own` is its folder or configuration, and its weights.
    ///
    /// # Errors
    /// By pointer for a text encoder that does not fit; whatever its files refuse.
    pub fn features(
        &mut self,
        width: usize,
        own: (&Path, Option<&Path>),
        models: &Models,
        device: &Device,
        values: Values,
    ) -> Result<Tensor> {
        let source = self.config.backbone.as_ref();
        let encoder = match source.and_then(|source| source.text_encoder.as_ref()) {
            Some(path) => (self.located(path, values)?, None),
            None => (own.0.to_owned(), own.1),
        };
        let shape = [self.classes(), width];
        let unknown = || Ok(Tensor::full(&shape, 0.1, device)?);
        if self.may_wait(source, &encoder.0, values)? {
            return unknown();
        }
        let reader = self.open("backbone", source, encoder, models, device, values)?;
        let spec = reader.encoder.spec();
        if !spec.projected || spec.pooled != width {
            let message = format!(
                "makes a vector of {} of a text{}; the backbone's features are {width}",
                spec.pooled,
                if spec.projected {
                    ""
                } else {
                    " and does not project it"
                }
            );
            return Err(self.refusal("/backbone", message));
        }
        let names = self.names.clone();
        let sums = self.means(&reader, &names, models, (spec.length, width), |encoded| {
            let mut rows = encoded.1.to_floats()?;
            rows.chunks_mut(width).for_each(normalise);
            Ok(rows)
        })?;
        let Some(mut means) = sums else {
            return unknown();
        };
        means.chunks_mut(width).for_each(normalise);
        Ok(Tensor::from_values(means, &shape, device)?)
    }

    /// For a backbone with classes of its own.
    ///
    /// # Errors
    /// By pointer if the experiment says what it reads.
    pub fn without_backbone(&self) -> Result<()> {
        match self.config.backbone {
            None => Ok(()),
            Some(_) => {
                let message = "the backbone has classes of its own and reads no texts";
                Err(self.refusal("/backbone", message))
            }
        }
    }

    /// What a denoiser from that folder or configuration attends to, on `device`, if it attends to tokens.
    ///
    /// # Errors
    /// By pointer for a text encoder that does not fit; whatever its files refuse.
    pub fn embeddings(
        &mut self,
        denoiser: &dyn Denoiser,
        own: Option<&Path>,
        models: &Models,
        device: &Device,
        values: Values,
    ) -> Result<Option<Texts>> {
        let source = self.config.denoiser.as_ref();
        let slot = denoiser.slots().iter().find(|slot| slot.name == TOKENS);
        let Some(&[length, width]) = slot.map(|slot| slot.shape.as_slice()) else {
            return match source {
                None => Ok(None),
                Some(_) => Err(self.refusal("/denoiser", "the denoiser attends to no tokens")),
            };
        };
        let encoder = match (source.and_then(|source| source.text_encoder.as_ref()), own) {
            (Some(path), _) => self.located(path, values)?,
            (None, Some(own)) => beside(&read_beside(own), "text_encoder"),
            (None, None) => {
                return Err(self.refusal("/denoiser", "is missing: it names the text encoder"));
            }
        };
        let prompt = self.config.prompt();
        let names = match prompt {
            Some(text) => vec![vec![text.to_owned()]],
            None => self.names.clone(),
        };
        let texts = |tokens: Tensor| match prompt {
            Some(_) => Texts::OfAll(tokens),
            None => Texts::OfClasses(tokens),
        };
        let shape = [names.len(), length, width];
        let unknown = || Ok(Some(texts(Tensor::full(&shape, 0.1, device)?)));
        expect_memory(
            "the texts that the denoiser attends to",
            shape.into_iter().chain([size_of::<f32>()]),
        )?;
        if self.may_wait(source, &encoder, values)? {
            return unknown();
        }
        if !encoder.exists() {
            let message = format!(
                "`{}` is not there; name the text encoder that the denoiser was trained with",
                encoder.display()
            );
            return Err(self.refusal("/denoiser/text_encoder", message));
        }
        let mut reader = self.open("denoiser", source, (encoder, None), models, device, values)?;
        let spec = reader.encoder.spec();
        if spec.width != width || spec.length < length {
            let message = format!(
                "makes {} vectors of {} at most, the denoiser attends to {length} of {width}",
                spec.length, spec.width
            );
            return Err(self.refusal("/denoiser/text_encoder", message));
        }
        if prompt.is_some() {
            reader.templates = vec![Template::bare()];
        }
        let means = self.means(
            &reader,
            &names,
            models,
            (length, length * width),
            |encoded| Ok(encoded.0.to_floats()?),
        )?;
        match means {
            Some(means) => Ok(Some(texts(Tensor::from_values(means, &shape, device)?))),
            None => unknown(),
        }
    }

    /// Whether a text encoder or its tokenizer is missing and may be: then nothing is read.
    fn may_wait(
        &self,
        source: Option<&TextSource>,
        encoder: &Path,
        values: Values,
    ) -> Result<bool> {
        if values != Values::DrawnIfMissing {
            return Ok(false);
        }
        let tokenizer = match source.and_then(|source| source.tokenizer.as_ref()) {
            Some(folder) => self.located(folder, values)?,
            None => tokenizer_of(encoder),
        };
        Ok(!encoder.exists() || !has_tokenizer(&tokenizer))
    }

    fn located(&self, path: &Path, values: Values) -> Result<PathBuf> {
        match locate(path, self.base) {
            Err(ModelError::NotCached { .. }) if values == Values::DrawnIfMissing => {
                Ok(self.base.join(path))
            }
            found => Ok(found?),
        }
    }

    fn open(
        &mut self,
        model: &'static str,
        source: Option<&TextSource>,
        (config, weights): (PathBuf, Option<&Path>),
        models: &Models,
        device: &Device,
        values: Values,
    ) -> Result<Reader> {
        let folder = match source.and_then(|source| source.tokenizer.as_ref()) {
            Some(folder) => self.located(folder, values)?,
            None => tokenizer_of(&config),
        };
        let tokenizer = Tokenizer::open(&folder).map_err(|error| match error {
            ModelError::NoTokenizer { .. } => {
                self.refusal(&format!("/{model}/tokenizer"), error.to_string())
            }
            error => error.into(),
        })?;
        for path in tokenizer.files() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = format!("prompts/{model}/tokenizer/{name}");
            self.digests.insert(name, sha256_file(path)?);
        }
        let own = source.and_then(|source| source.weights.as_ref());
        let own = own.map(|path| self.base.join(path));
        let weights = own.as_deref().or(weights);
        let encoder = models.text_encoder(&config)?;
        if values == Values::Loaded {
            let files = ModelFiles::find(&config, weights)?;
            for (n, path) in files.all().enumerate() {
                let name = match n {
                    0 => format!("prompts/{model}/configuration"),
                    1 => format!("prompts/{model}/weights"),
                    n => format!("prompts/{model}/weights/{}", n - 2),
                };
                self.digests.insert(name, sha256_file(path)?);
            }
        }
        let (words, known) = (tokenizer.vocabulary(), encoder.spec().vocabulary);
        if words > known {
            let message = format!("has {words} tokens, the text encoder knows {known}");
            return Err(self.refusal(&format!("/{model}/tokenizer"), message));
        }
        if let Some(padding) = encoder.spec().padding.filter(|&p| p != tokenizer.padding()) {
            let message = format!(
                "fills texts up with token {}, the text encoder leaves out token {padding}",
                tokenizer.padding()
            );
            return Err(self.refusal(&format!("/{model}/tokenizer"), message));
        }
        // An encoder may take fewer, as sentence-transformers says.
        let length = encoder.spec().length;
        if let Some(most) = tokenizer.most().filter(|&most| most < length) {
            log::warn!(
                "{POINTER}/{model}/tokenizer: it is for texts of {most} tokens, the text encoder takes {length}; is it another model's?"
            );
        }
        if words < known {
            log::warn!(
                "{POINTER}/{model}/tokenizer: it has {words} tokens, the text encoder knows {known}; is it another model's?"
            );
        }
        Ok(Reader {
            model,
            encoder,
            files: (config, weights.map(Path::to_owned)),
            values,
            device: device.clone(),
            tokenizer,
            templates: self.config.templates(source),
        })
    }

    /// The mean over its sentences for each class with these names, of `numbers` that `of` takes from what the text encoder makes of some of them (tokens and
    /// vectors); nothing where the text encoder has no values. Its weights are read only where no run has kept the means.
    fn means(
        &mut self,
        reader: &Reader,
        names: &[Vec<String>],
        models: &Models,
        (length, numbers): (usize, usize),
        of: impl Fn((&Tensor, &Tensor)) -> Result<Vec<f32>>,
    ) -> Result<Option<Vec<f32>>> {
        let mut sentences = Vec::new();
        for (class, names) in names.iter().enumerate() {
            for name in names {
                for template in &reader.templates {
                    sentences.push((class, template.of(name)));
                }
            }
        }
        let mut tokens = Vec::with_capacity(sentences.len());
        let mut longer: Vec<(usize, &str)> = Vec::new();
        for (_, sentence) in &sentences {
            let filled = reader.tokenizer.filled(sentence, length)?;
            if filled.cut > 0 {
                longer.push((filled.cut, sentence));
            }
            tokens.push(filled.ids);
        }
        if let Some((cut, sentence)) = longer.iter().max_by_key(|(cut, _)| *cut) {
            let begins: String = sentence.chars().take(60).collect();
            let message = format!(
                "{} of {} sentences have more than {length} tokens, the most of which, which begins with {begins:?}, has {} more",
                longer.len(),
                sentences.len(),
                cut
            );
            let model = reader.model;
            if !self.config.truncate {
                let advice = "shorten them, or have the last tokens left out with `truncate`";
                return Err(self.refusal(&format!("/{model}"), format!("{message}; {advice}")));
            }
            log::warn!("{POINTER}/{model}: {message}; the last are left out");
        }
        let written = json!(tokens).to_string();
        let prefix = format!("prompts/{}/", reader.model);
        let digest = sha256(written.as_bytes());
        self.digests.insert(format!("{prefix}tokens"), digest);
        if reader.values != Values::Loaded {
            return Ok(None);
        }
        let compute = || {
            let (config, weights) = &reader.files;
            let (_, weights) =
                models.load_text_encoder(config, weights.as_deref(), &reader.device)?;
            let mut means = vec![0.0f32; names.len() * numbers];
            let each = sentences.chunks(BATCH).zip(tokens.chunks(BATCH));
            for (sentences, tokens) in each {
                let encoded = reader.encoder.encode(&weights, tokens)?;
                let rows = of((&encoded.tokens, &encoded.pooled))?;
                for ((class, _), row) in sentences.iter().zip(rows.chunks(numbers)) {
                    let share = 1.0 / (names[*class].len() * reader.templates.len()) as f32;
                    let mean = &mut means[class * numbers..(class + 1) * numbers];
                    mean.iter_mut()
                        .zip(row)
                        .for_each(|(mean, x)| *mean += share * x);
                }
            }
            Ok(means)
        };
        let Some(kept) = self.kept else {
            return compute().map(Some);
        };
        let mut key = digest_of(&prefix, &self.digests, &reader.device);
        for (class, sentence) in &sentences {
            key.field((*class as u64).to_le_bytes());
            key.field(sentence);
        }
        key.field((numbers as u64).to_le_bytes());
        let all = names.len() * numbers;
        kept.get(&key.finish(), all, compute).map(Some)
    }
}

/// A file or folder that prompts need.
pub(crate) struct Needed<'a> {
    /// Where the experiment names it, or could.
    pub pointer: String,
    pub path: PathBuf,
    pub origin: Option<&'a str>,
}

/// What the prompts of an experiment's models need, where it is or should be.
pub(crate) fn needed<'a>(
    models: &'a ModelsConfig,
    base: &Path,
    architectures: &Models,
) -> Vec<Needed<'a>> {
    let Some(config) = &models.prompts else {
        return Vec::new();
    };
    let mut needed = Vec::new();
    let mut add = |part: &str, path: PathBuf, origin: Option<&'a str>| {
        needed.push(Needed {
            pointer: format!("{POINTER}/{part}"),
            path,
            origin,
        });
    };
    if let Some(file) = &config.classes_file {
        add("classes_file", base.join(file), None);
    }
    let located = |path: &Path| locate(path, base).unwrap_or_else(|_| base.join(path));
    let read_by = [
        ("backbone", Some(&models.backbone), &config.backbone),
        ("denoiser", models.denoiser.as_ref(), &config.denoiser),
    ];
    for (part, model, source) in read_by {
        let Some(model) = model else { continue };
        let own = located(&model.config);
        // Only a model's configuration says whether it reads; one that is not there is taken to.
        let reads = match part {
            "backbone" => architectures
                .backbone(&own)
                .map(|backbone| backbone.text_space().is_some()),
            _ => architectures
                .denoiser(&own)
                .map(|denoiser| denoiser.slots().iter().any(|slot| slot.name == TOKENS)),
        };
        if !reads.unwrap_or(!own.exists() || source.is_some()) {
            continue;
        }
        let said = source.as_ref();
        let origin = said.and_then(|source| source.origin.as_deref());
        let origin = origin.or(model.origin.as_deref());
        let named = said.and_then(|source| source.text_encoder.as_ref());
        let encoder = match (named, part) {
            (Some(path), _) => located(path),
            (None, "backbone") => own.clone(),
            (None, _) => beside(&read_beside(&own), "text_encoder"),
        };
        // The backbone's own folder is asked for with the backbone.
        if encoder != own {
            add(&format!("{part}/text_encoder"), encoder.clone(), origin);
        }
        if encoder != own && encoder.exists() {
            let weights = said.and_then(|source| source.weights.as_ref());
            let weights = weights.map(|path| base.join(path));
            let found = ModelFiles::find(&encoder, weights.as_deref());
            let found = match found {
                Ok(files) => files.weights,
                Err(_) => weights.unwrap_or_else(|| folder_of(&encoder).join("model.safetensors")),
            };
            add(&format!("{part}/weights"), found, origin);
        }
        let named = said.and_then(|source| source.tokenizer.as_ref());
        let tokenizer = match named {
            Some(folder) => located(folder),
            None if encoder.exists() || encoder != own => tokenizer_of(&encoder),
            None => continue,
        };
        let tokenizer = match tokenizer.exists() && !has_tokenizer(&tokenizer) {
            true => tokenizer.join("tokenizer.json"),
            false => tokenizer,
        };
        add(&format!("{part}/tokenizer"), tokenizer, origin);
    }
    needed
}

/// Brings a vector to length 1, if it has one.
fn normalise(row: &mut [f32]) {
    let length = row
        .iter()
        .map(|&x| f64::from(x).powi(2))
        .sum::<f64>()
        .sqrt();
    if length > 0.0 {
        row.iter_mut()
            .for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}

/// The folder of a model that is named by it or by a configuration in it.
fn folder_of(model: &Path) -> &Path {
    match model
        .extension()
        .is_some_and(|extension| extension == "json")
    {
        true => model.parent().unwrap_or(Path::new("")),
        false => model,
    }
}

/// The model beside which a denoiser's text encoder is: the U-Net of a ControlNet, or the denoiser itself.
fn read_beside(denoiser: &Path) -> PathBuf {
    unet_of(denoiser).unwrap_or_else(|| denoiser.to_owned())
}

/// A folder beside a model's.
fn beside(model: &Path, name: &str) -> PathBuf {
    let folder = folder_of(model);
    match (folder.file_name(), folder.parent()) {
        (Some(_), Some(parent)) => parent.join(name),
        _ => folder.join("..").join(name),
    }
}

/// The folder of the tokenizer of a text encoder: its own, or that beside it.
fn tokenizer_of(encoder: &Path) -> PathBuf {
    let folder = folder_of(encoder);
    let other = beside(encoder, "tokenizer");
    // That of a whole model lies in its folder, that of a pipeline's part beside it.
    let part = folder
        .file_name()
        .is_some_and(|name| name == "text_encoder");
    match has_tokenizer(folder) || !(part || other.exists()) {
        true => folder.to_owned(),
        false => other,
    }
}

fn has_tokenizer(folder: &Path) -> bool {
    let names = ["tokenizer.json", "vocab.json", "spiece.model"];
    names.iter().any(|name| folder.join(name).is_file())
}

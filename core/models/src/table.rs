//! The table of architectures: what a configuration file's `kind` may be, and what each makes. A row is made from a configuration's
//! type, so that an architecture is one file and one row here, or one call of an embedder; nothing else asks for a `kind`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dtta_base::Issue;
use dtta_tensor::Device;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::autoencoder::AutoencoderKlConfig;
use crate::backbone::Backbone;
use crate::bert::BertConfig;
use crate::checkpoint::{self, Checkpoint, Fit, Format, ModelFiles, Wanted, config_of};
use crate::clip::ClipVisionConfig;
use crate::clip_text::ClipTextConfig;
use crate::composed;
use crate::convnext::ConvNextConfig;
use crate::denoiser::Denoiser;
use crate::dense_depth::DenseDepthConfig;
use crate::dit::DitConfig;
use crate::dpt::DptConfig;
use crate::efficientnet::EfficientNetConfig;
use crate::encoder::Encoder;
use crate::encoder_decoder::EncoderDecoderConfig;
use crate::error::{ModelError, Result};
use crate::glpn::GlpnConfig;
use crate::published::{self, EXTENTS, Extents, Names, Preprocessing};
use crate::resnet::ResNetConfig;
use crate::segformer::SegformerConfig;
use crate::siglip::{SiglipTextConfig, SiglipVisionConfig};
use crate::text::TextEncoder;
use crate::unet::{ControlNetConfig, UNetConfig};
use crate::uvit::UVitConfig;
use crate::vit::VitConfig;
use crate::weights::{ParameterSpec, Weights};

/// The configuration of one architecture. Its doc comment is the description in the schema of model files.
pub trait Architecture: DeserializeOwned + JsonSchema {
    /// What it describes: `dyn Denoiser`, `dyn Backbone`, `dyn Encoder` or `dyn TextEncoder`.
    type Model: ?Sized;

    /// The `kind` that files say.
    const KIND: &'static str;

    /// What the schema cannot say, by JSON pointer, so that all faults of a file are told at once. Numbers may be out of the schema's
    /// bounds here.
    fn contradictions(&self) -> Vec<Issue> {
        Vec::new()
    }

    /// The structure that it describes. Called with what fits the schema.
    ///
    /// # Errors
    /// [`ModelError::Config`] with every contradiction, by JSON pointer.
    fn build(self) -> Result<Box<Self::Model>>;
}

/// The architectures that model files may ask for, by `kind`.
#[derive(Clone)]
pub struct Models {
    rows: Vec<Row>,
    /// Height and width of images, for models whose configurations leave them open.
    extents: Extents,
}

/// One architecture.
#[derive(Clone, Copy)]
struct Row {
    kind: &'static str,
    make: Make,
    schema: fn(&mut SchemaGenerator) -> Schema,
}

/// How a structure is made from the document without its `kind`.
#[derive(Clone, Copy)]
enum Make {
    Denoiser(fn(Value) -> Result<Box<dyn Denoiser>>),
    Backbone(fn(Value) -> Result<Box<dyn Backbone>>),
    Encoder(fn(Value) -> Result<Box<dyn Encoder>>),
    Text(fn(Value) -> Result<Box<dyn TextEncoder>>),
}

/// What a configuration file describes.
struct Described<'a> {
    row: &'a Row,
    /// The library that wrote it, if it is no file of this crate.
    library: Option<&'static str>,
    /// The configuration, without its `kind`.
    document: Value,
    names: Names,
    preprocessing: Option<Preprocessing>,
}

/// A structure, whatever it is for.
pub enum Model {
    /// One that predicts noise.
    Denoiser(Box<dyn Denoiser>),
    /// One that is to be adapted.
    Backbone(Box<dyn Backbone>),
    /// One that makes latents.
    Encoder(Box<dyn Encoder>),
    /// One that reads texts.
    Text(Box<dyn TextEncoder>),
}

impl Model {
    /// What it declares.
    pub fn parameters(&self) -> &Arc<[ParameterSpec]> {
        match self {
            Self::Denoiser(denoiser) => denoiser.parameters(),
            Self::Backbone(backbone) => backbone.parameters(),
            Self::Encoder(encoder) => encoder.parameters(),
            Self::Text(encoder) => encoder.parameters(),
        }
    }

    /// Channels, height and width of what it takes; none for an encoder, which takes images of any, or one of texts.
    pub fn image(&self) -> Option<[usize; 3]> {
        match self {
            Self::Denoiser(denoiser) => Some(denoiser.image_shape()),
            Self::Backbone(backbone) => Some(backbone.spec().image),
            Self::Encoder(_) | Self::Text(_) => None,
        }
    }
}

/// What [`Models::describe`] tells of a model.
pub struct Description {
    /// The configuration file.
    pub config: PathBuf,
    /// The library that wrote it; none for a file of this crate's own kind.
    pub library: Option<&'static str>,
    /// The model file that says the same.
    pub document: Value,
    /// The structure.
    pub model: Model,
    /// How the library prepares images for it.
    pub preprocessing: Option<Preprocessing>,
    /// Its weights, or why there are none.
    pub weights: Result<FoundWeights>,
}

/// The weights of a described model.
#[derive(Debug)]
pub struct FoundWeights {
    /// The files with tensors.
    pub files: Vec<PathBuf>,
    /// How they are stored.
    pub format: Format,
    /// Bytes of all files.
    pub bytes: u64,
    /// The number of tensors.
    pub tensors: usize,
    /// Types of these, each once.
    pub types: Vec<&'static str>,
    /// How they fit the model.
    pub fit: Fit,
}

/// An architecture that [`Models`] has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The `kind` that files say.
    pub kind: &'static str,
    /// What it is for: `denoiser`, `backbone`, `encoder` or `text encoder`.
    pub role: &'static str,
    /// What it is, in a sentence.
    pub description: String,
}

/// What a document is called in messages.
const DOCUMENT: &str = "model configuration";

impl Row {
    fn denoiser<C: Architecture<Model = dyn Denoiser>>() -> Self {
        Self::new::<C>(Make::Denoiser(make::<C>))
    }

    fn backbone<C: Architecture<Model = dyn Backbone>>() -> Self {
        Self::new::<C>(Make::Backbone(make::<C>))
    }

    fn encoder<C: Architecture<Model = dyn Encoder>>() -> Self {
        Self::new::<C>(Make::Encoder(make::<C>))
    }

    fn text<C: Architecture<Model = dyn TextEncoder>>() -> Self {
        Self::new::<C>(Make::Text(make::<C>))
    }

    fn new<C: Architecture>(make: Make) -> Self {
        Self {
            kind: C::KIND,
            make,
            schema: C::json_schema,
        }
    }

    /// The schema of a file of this kind.
    fn schema(&self, generator: &mut SchemaGenerator) -> Value {
        let mut schema = (self.schema)(generator).to_value();
        if let Some(schema) = schema.as_object_mut() {
            let mut properties = Map::new();
            let place = "Where editors find this schema. Not read by dtta.";
            properties.insert(
                "$schema".into(),
                json!({ "type": "string", "description": place }),
            );
            let kind = json!({ "type": "string", "const": self.kind });
            properties.insert("kind".into(), kind);
            if let Some(Value::Object(own)) = schema.remove("properties") {
                properties.extend(own);
            }
            let mut required = vec!["kind".into()];
            if let Some(Value::Array(own)) = schema.remove("required") {
                required.extend(own);
            }
            schema.insert("properties".into(), properties.into());
            schema.insert("required".into(), required.into());
        }
        schema
    }
}

fn make<C: Architecture>(document: Value) -> Result<Box<C::Model>> {
    dtta_base::parse_and_check(document, C::contradictions)
        .map_err(|issues| ModelError::Config { issues })?
        .build()
}

impl Models {
    /// Those of this crate.
    pub fn standard() -> Self {
        Self {
            rows: vec![
                Row::denoiser::<DitConfig>(),
                Row::denoiser::<UNetConfig>(),
                Row::denoiser::<UVitConfig>(),
                Row::denoiser::<ControlNetConfig>(),
                Row::backbone::<ResNetConfig>(),
                Row::backbone::<ConvNextConfig>(),
                Row::backbone::<VitConfig>(),
                Row::backbone::<EfficientNetConfig>(),
                Row::backbone::<EncoderDecoderConfig>(),
                Row::backbone::<SegformerConfig>(),
                Row::backbone::<DptConfig>(),
                Row::backbone::<GlpnConfig>(),
                Row::backbone::<DenseDepthConfig>(),
                Row::backbone::<ClipVisionConfig>(),
                Row::backbone::<SiglipVisionConfig>(),
                Row::encoder::<AutoencoderKlConfig>(),
                Row::text::<ClipTextConfig>(),
                Row::text::<BertConfig>(),
                Row::text::<SiglipTextConfig>(),
            ],
            extents: None,
        }
    }

    /// The same, for a model whose published configuration keeps the shape of each image, or says no extents: its images are resized to this
    /// height and width, whatever their shape was. Any other model is refused ([`ModelError::Extents`]).
    #[must_use]
    pub fn with_extents(&self, extents: [usize; 2]) -> Self {
        Self {
            rows: self.rows.clone(),
            extents: Some(extents),
        }
    }

    /// Adds an architecture of denoisers.
    ///
    /// # Errors
    /// [`ModelError::Registered`] if there is one of its `kind`.
    pub fn register_denoiser<C: Architecture<Model = dyn Denoiser>>(&mut self) -> Result<()> {
        self.register(Row::denoiser::<C>())
    }

    /// Adds an architecture of backbones.
    ///
    /// # Errors
    /// [`ModelError::Registered`] if there is one of its `kind`.
    pub fn register_backbone<C: Architecture<Model = dyn Backbone>>(&mut self) -> Result<()> {
        self.register(Row::backbone::<C>())
    }

    fn register(&mut self, row: Row) -> Result<()> {
        if self.rows.iter().any(|known| known.kind == row.kind) {
            return Err(ModelError::Registered { kind: row.kind });
        }
        self.rows.push(row);
        Ok(())
    }

    /// The architectures, in the order in which they were registered.
    pub fn list(&self) -> Vec<Listed> {
        let listed = self.rows.iter().map(|row| {
            let schema = (row.schema)(&mut SchemaSettings::draft2020_12().into_generator());
            let description = schema
                .get("description")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let sentence = description.split_inclusive(". ").next().unwrap_or_default();
            Listed {
                kind: row.kind,
                role: match row.make {
                    Make::Denoiser(_) => "denoiser",
                    Make::Backbone(_) => "backbone",
                    Make::Encoder(_) => "encoder",
                    Make::Text(_) => "text encoder",
                },
                description: sentence.replace('\n', " ").trim().into(),
            }
        });
        listed.collect()
    }

    /// The libraries whose configurations are read as they are, with the classes of models of each.
    pub fn published() -> Vec<(&'static str, &'static [&'static str])> {
        published::publishers().collect()
    }

    /// What there is to know of a model and its weights without loading it. The paths are those of [`ModelFiles::find`].
    ///
    /// # Errors
    /// As [`denoiser`](Self::denoiser). Faults of the weights are told in the description.
    pub fn describe(&self, config: &Path, weights: Option<&Path>) -> Result<Description> {
        let file = config_of(config)?;
        let described = self.read(&file)?;
        let model = match described.row.make {
            Make::Denoiser(make) => make(described.document.clone()).map(Model::Denoiser),
            Make::Backbone(make) => make(described.document.clone()).map(Model::Backbone),
            Make::Encoder(make) => make(described.document.clone()).map(Model::Encoder),
            Make::Text(make) => make(described.document.clone()).map(Model::Text),
        };
        let model = model.map_err(|error| in_file(&file, error))?;
        let files = ModelFiles::find(config, weights);
        let weights = files
            .and_then(|files| Checkpoint::open(&files.weights))
            .map(|checkpoint| {
                let types = checkpoint
                    .tensors()
                    .values()
                    .map(|stored| stored.dtype.name());
                let mut types: Vec<_> = types.collect();
                types.sort_unstable();
                types.dedup();
                FoundWeights {
                    files: checkpoint.files().map(Path::to_owned).collect(),
                    format: checkpoint.format,
                    bytes: checkpoint.bytes(),
                    tensors: checkpoint.tensors().len(),
                    types,
                    fit: Wanted::new(model.parameters(), &described.names, &checkpoint)
                        .fit(&checkpoint),
                }
            });
        let mut document = Map::new();
        document.insert("kind".into(), described.row.kind.into());
        if let Value::Object(fields) = described.document {
            document.extend(fields);
        }
        Ok(Description {
            config: file,
            library: described.library,
            document: document.into(),
            model,
            preprocessing: described.preprocessing,
            weights,
        })
    }

    /// The denoiser that a configuration file, or the one in a folder, describes, without weights.
    ///
    /// # Errors
    /// [`ModelError::NoConfig`] or [`ModelError::Pipeline`] for a folder that is no model's, [`ModelError::NoDescription`] for a file with
    /// weights, [`ModelError::File`] if the file cannot be read, is not JSON, does not fit its schema or contradicts itself, with every fault;
    /// [`ModelError::Kind`] if it describes a backbone.
    pub fn denoiser(&self, config: &Path) -> Result<Box<dyn Denoiser>> {
        Ok(self.read_denoiser(config)?.0)
    }

    fn read_denoiser(&self, config: &Path) -> Result<(Box<dyn Denoiser>, Described<'_>)> {
        let config = config_of(config)?;
        let described = self.read(&config)?;
        match described.row.make {
            Make::Denoiser(make) => {
                let made = make(described.document.clone());
                Ok((made.map_err(|error| in_file(&config, error))?, described))
            }
            _ => Err(self.wrong_role(&config, described.row, "a denoiser", Row::is_denoiser)),
        }
    }

    /// The backbone that a configuration file, or the one in a folder, describes, without weights.
    ///
    /// # Errors
    /// As [`denoiser`](Self::denoiser).
    pub fn backbone(&self, config: &Path) -> Result<Box<dyn Backbone>> {
        Ok(self.read_backbone(config)?.0)
    }

    fn read_backbone(&self, config: &Path) -> Result<(Box<dyn Backbone>, Described<'_>)> {
        let config = config_of(config)?;
        let described = self.read(&config)?;
        match described.row.make {
            Make::Backbone(make) => {
                let made = make(described.document.clone());
                Ok((made.map_err(|error| in_file(&config, error))?, described))
            }
            _ => Err(self.wrong_role(&config, described.row, "a backbone", Row::is_backbone)),
        }
    }

    /// The encoder that a configuration file describes, without weights.
    ///
    /// # Errors
    /// As [`denoiser`](Self::denoiser).
    pub fn encoder(&self, config: &Path) -> Result<Box<dyn Encoder>> {
        Ok(self.read_encoder(config)?.0)
    }

    fn read_encoder(&self, config: &Path) -> Result<(Box<dyn Encoder>, Described<'_>)> {
        let config = config_of(config)?;
        let described = self.read(&config)?;
        match described.row.make {
            Make::Encoder(make) => {
                let made = make(described.document.clone());
                Ok((made.map_err(|error| in_file(&config, error))?, described))
            }
            _ => Err(self.wrong_role(&config, described.row, "an encoder", Row::is_encoder)),
        }
    }

    /// The text encoder that a configuration file describes, without weights; of a configuration of several models, such as that of a
    /// `CLIPModel`, the one in it.
    ///
    /// # Errors
    /// As [`denoiser`](Self::denoiser).
    pub fn text_encoder(&self, config: &Path) -> Result<Box<dyn TextEncoder>> {
        Ok(self.read_text_encoder(config)?.0)
    }

    fn read_text_encoder(&self, config: &Path) -> Result<(Box<dyn TextEncoder>, Described<'_>)> {
        let config = config_of(config)?;
        let described = self.read_by(&config, published::translate_texts)?;
        match described.row.make {
            Make::Text(make) => {
                let made = make(described.document.clone());
                Ok((made.map_err(|error| in_file(&config, error))?, described))
            }
            _ => Err(self.wrong_role(&config, described.row, "a text encoder", Row::is_text)),
        }
    }

    /// A denoiser with its weights, from the files that [`ModelFiles::find`] finds.
    ///
    /// # Errors
    /// As [`denoiser`](Self::denoiser), [`ModelFiles::find`] and [`Weights::load`].
    pub fn load_denoiser(
        &self,
        config: &Path,
        weights: Option<&Path>,
        device: &Device,
    ) -> Result<(Box<dyn Denoiser>, Weights)> {
        let (denoiser, described) = self.read_denoiser(config)?;
        let path = ModelFiles::find(config, weights)?.weights;
        let weights = Weights::load_named(&path, denoiser.parameters(), &described.names, device)?;
        Ok((denoiser, weights))
    }

    /// A backbone with its weights, as [`load_denoiser`](Self::load_denoiser) finds them.
    ///
    /// # Errors
    /// As [`backbone`](Self::backbone) and [`Weights::load`].
    pub fn load_backbone(
        &self,
        config: &Path,
        weights: Option<&Path>,
        device: &Device,
    ) -> Result<(Box<dyn Backbone>, Weights)> {
        let (backbone, described) = self.read_backbone(config)?;
        let path = ModelFiles::find(config, weights)?.weights;
        let weights = Weights::load_named(&path, backbone.parameters(), &described.names, device)?;
        Ok((backbone, weights))
    }

    /// A denoiser with values drawn at random, where its checkpoint is not there.
    ///
    /// # Errors
    /// As [`denoiser`](Self::denoiser) and [`Weights::initialise`].
    pub fn draw_denoiser(
        &self,
        config: &Path,
        device: &Device,
    ) -> Result<(Box<dyn Denoiser>, Weights)> {
        let (denoiser, described) = self.read_denoiser(config)?;
        let weights = Weights::drawn_named(denoiser.parameters(), &described.names, device)?;
        Ok((denoiser, weights))
    }

    /// A backbone, likewise.
    ///
    /// # Errors
    /// As [`backbone`](Self::backbone) and [`Weights::initialise`].
    pub fn draw_backbone(
        &self,
        config: &Path,
        device: &Device,
    ) -> Result<(Box<dyn Backbone>, Weights)> {
        let (backbone, described) = self.read_backbone(config)?;
        let weights = Weights::drawn_named(backbone.parameters(), &described.names, device)?;
        Ok((backbone, weights))
    }

    /// An encoder with its weights, as [`load_denoiser`](Self::load_denoiser) finds them.
    ///
    /// # Errors
    /// As [`encoder`](Self::encoder) and [`Weights::load`].
    pub fn load_encoder(
        &self,
        config: &Path,
        weights: Option<&Path>,
        device: &Device,
    ) -> Result<(Box<dyn Encoder>, Weights)> {
        let (encoder, described) = self.read_encoder(config)?;
        let path = ModelFiles::find(config, weights)?.weights;
        let weights = Weights::load_named(&path, encoder.parameters(), &described.names, device)?;
        Ok((encoder, weights))
    }

    /// A text encoder with its weights, as [`load_denoiser`](Self::load_denoiser) finds them.
    ///
    /// # Errors
    /// As [`text_encoder`](Self::text_encoder) and [`Weights::load`].
    pub fn load_text_encoder(
        &self,
        config: &Path,
        weights: Option<&Path>,
        device: &Device,
    ) -> Result<(Box<dyn TextEncoder>, Weights)> {
        let (encoder, described) = self.read_text_encoder(config)?;
        let path = ModelFiles::find(config, weights)?.weights;
        let weights = Weights::load_named(&path, encoder.parameters(), &described.names, device)?;
        Ok((encoder, weights))
    }

    /// The library that published a model's configuration; `None` for this crate's own files.
    ///
    /// # Errors
    /// As [`backbone`](Self::backbone).
    pub fn library(&self, config: &Path) -> Result<Option<&'static str>> {
        Ok(self.read(&config_of(config)?)?.library)
    }

    /// How the library that published a model prepares images for it; `None` for this crate's own files, whose experiments say so.
    ///
    /// # Errors
    /// As [`backbone`](Self::backbone).
    pub fn preprocessing(&self, config: &Path) -> Result<Option<Preprocessing>> {
        Ok(self.read(&config_of(config)?)?.preprocessing)
    }

    /// The JSON Schema (draft 2020-12) of model files, one condition for each architecture.
    pub fn schema(&self) -> Value {
        let mut generator = SchemaSettings::draft2020_12().into_generator();
        let alternatives: Vec<Value> = self
            .rows
            .iter()
            .map(|row| row.schema(&mut generator))
            .collect();
        let schema = json!({
            "oneOf": alternatives,
            "description": "A model, as its configuration file describes it.",
            "$defs": generator.take_definitions(true),
        });
        dtta_base::published(schema, "model")
    }

    /// What a file describes: one of this crate's, or one that a library of the field published.
    fn read(&self, path: &Path) -> Result<Described<'_>> {
        self.read_by(path, published::translate)
    }

    fn read_by(&self, path: &Path, translate: published::Translator) -> Result<Described<'_>> {
        if let Some(found) = checkpoint::weights_in_words(path) {
            return Err(ModelError::NoDescription {
                path: path.into(),
                found,
            });
        }
        let mut document = dtta_base::read_json(path, &[])?;
        let (mut names, mut preprocessing) = (Names::same(), None);
        if let Value::Object(fields) = &mut document {
            published::with_scheduler(path, fields)?;
            published::with_class(fields);
            published::with_preprocessor(path, fields)?;
            published::with_sentences(path, fields)?;
            let found = composed::resolve(path, fields, |part| {
                let mut described = self.read(part)?;
                described.document["kind"] = described.row.kind.into();
                Ok((described.document, described.names))
            })?;
            names = found.unwrap_or(names);
        }
        let published = document
            .as_object()
            .filter(|fields| !fields.contains_key("kind"));
        let library = published.and_then(published::library);
        if let (Some(fields), None) = (published, library)
            && let Some(issue) = of_transformers(fields)
        {
            return Err(dtta_base::invalid(path, DOCUMENT, vec![issue]).into());
        }
        let translation = published.and_then(|fields| translate(fields, self.extents));
        match (translation, self.extents) {
            (Some(translation), _) => {
                let translation = translation.map_err(|issues| self.refused(path, issues))?;
                document = translation.document;
                (names, preprocessing) = (translation.names, translation.preprocessing);
            }
            (None, Some(extents)) => {
                let reason = "is no configuration of a library that leaves them open".into();
                return Err(ModelError::Extents {
                    path: path.into(),
                    extents,
                    reason,
                });
            }
            (None, None) => {}
        }
        let kind = document.get("kind").and_then(Value::as_str);
        let row = self.rows.iter().find(|row| kind == Some(row.kind));
        match (row, document) {
            (Some(row), Value::Object(mut fields)) => {
                fields.shift_remove("$schema");
                fields.shift_remove("kind");
                Ok(Described {
                    row,
                    library,
                    document: fields.into(),
                    names,
                    preprocessing,
                })
            }
            (_, document) => {
                let issues = dtta_base::check(&document, &self.schema());
                Err(dtta_base::invalid(path, DOCUMENT, issues).into())
            }
        }
    }

    /// The faults of a published configuration, or that of the extents that were chosen for its images.
    fn refused(&self, path: &Path, mut issues: Vec<Issue>) -> ModelError {
        let of_extents = issues.iter().position(|issue| issue.pointer == EXTENTS);
        match (of_extents, self.extents) {
            (Some(n), Some(extents)) => ModelError::Extents {
                path: path.into(),
                extents,
                reason: issues.swap_remove(n).message,
            },
            _ => dtta_base::invalid(path, DOCUMENT, issues).into(),
        }
    }

    fn wrong_role(
        &self,
        path: &Path,
        found: &Row,
        role: &'static str,
        fits: fn(&Row) -> bool,
    ) -> ModelError {
        let others = self.rows.iter().filter(|row| fits(row));
        ModelError::Kind {
            path: path.into(),
            found: found.kind.into(),
            role,
            expected: alternatives(others),
        }
    }
}

impl Row {
    fn is_denoiser(&self) -> bool {
        matches!(self.make, Make::Denoiser(_))
    }

    fn is_backbone(&self) -> bool {
        matches!(self.make, Make::Backbone(_))
    }

    fn is_encoder(&self) -> bool {
        matches!(self.make, Make::Encoder(_))
    }

    fn is_text(&self) -> bool {
        matches!(self.make, Make::Text(_))
    }
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.rows.iter().map(|row| row.kind))
            .finish()
    }
}

/// Where the weights of a model are: as [`ModelFiles::find`] says, or where there are none, what was looked at.
pub fn weights_beside(config: &Path, weights: Option<&Path>) -> PathBuf {
    match (ModelFiles::find(config, weights), weights) {
        (Ok(files), _) => files.weights,
        (Err(_), Some(weights)) => weights.into(),
        (Err(_), None) if config.is_dir() => config.into(),
        (Err(_), None) => config.with_extension("safetensors"),
    }
}

/// That a configuration is one of transformers which does not say of what class.
fn of_transformers(fields: &Map<String, Value>) -> Option<Issue> {
    let kind = fields.get("model_type")?.as_str().unwrap_or_default();
    let message = format!(
        "this is a transformers configuration of a `{kind}` that does not name its class under `architectures`"
    );
    Some(Issue::new("/model_type", message))
}

/// Names the file that faults came from.
fn in_file(path: &Path, error: ModelError) -> ModelError {
    match error {
        ModelError::Config { issues } => dtta_base::invalid(path, DOCUMENT, issues).into(),
        other => other,
    }
}

/// `` `a`, `b` or `c` ``.
fn alternatives<'a>(rows: impl Iterator<Item = &'a Row>) -> String {
    let mut kinds: Vec<String> = rows.map(|row| format!("`{}`", row.kind)).collect();
    match (kinds.pop(), kinds.is_empty()) {
        (None, _) => "no kind that is known".into(),
        (Some(last), true) => last,
        (Some(last), false) => format!("{} or {last}", kinds.join(", ")),
    }
}

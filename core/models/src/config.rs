//! Model configuration files: JSON beside the weights, told apart by `kind`. Errors name the file and the JSON pointer.

use std::fs;
use std::path::{Path, PathBuf};

use dtta_tensor::Device;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::backbone::Backbone;
use crate::denoiser::Denoiser;
use crate::dit::{Dit, DitConfig};
use crate::encoder_decoder::{EncoderDecoder, EncoderDecoderConfig};
use crate::error::{ModelError, Result};
use crate::resnet::{ResNet, ResNetConfig};
use crate::unet::{UNet, UNetConfig};
use crate::weights::Weights;

/// A model, as its configuration file describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ModelConfig {
    /// A diffusion transformer: a denoiser.
    Dit(DitConfig),
    /// A U-Net: a denoiser.
    Unet(UNetConfig),
    /// A residual network: a backbone that answers for whole images.
    Resnet(ResNetConfig),
    /// A residual U-Net: a backbone that answers for each pixel.
    EncoderDecoder(EncoderDecoderConfig),
}

const KINDS: &str = "`dit`, `unet`, `resnet` or `encoder_decoder`";
const DENOISERS: &str = "`dit` or `unet`";
const BACKBONES: &str = "`resnet` or `encoder_decoder`";

impl ModelConfig {
    /// Its `kind`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Dit(_) => "dit",
            Self::Unet(_) => "unet",
            Self::Resnet(_) => "resnet",
            Self::EncoderDecoder(_) => "encoder_decoder",
        }
    }

    /// Reads a configuration file. A `$schema` is accepted and ignored.
    ///
    /// # Errors
    /// [`ModelError::Read`], [`ModelError::Json`], or [`ModelError::Config`] naming the place of an unknown field, a missing
    /// one, or a value of the wrong type.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|source| ModelError::Read {
            path: path.to_owned(),
            source,
        })?;
        let document: Value = serde_json::from_str(&text).map_err(|source| ModelError::Json {
            path: path.to_owned(),
            source,
        })?;
        let refuse = |pointer: &str, message: String| ModelError::Config {
            path: path.to_owned(),
            pointer: pointer.into(),
            message,
        };
        let Value::Object(mut fields) = document else {
            return Err(refuse("/", "expected an object".into()));
        };
        fields.remove("$schema");
        // `kind` is taken out first, so that the rest is parsed by one type whose errors know their place.
        let kind = fields.remove("kind");
        let rest = Value::Object(fields);
        match kind.as_ref().map(|kind| kind.as_str()) {
            Some(Some("dit")) => Ok(Self::Dit(parse(path, rest)?)),
            Some(Some("unet")) => Ok(Self::Unet(parse(path, rest)?)),
            Some(Some("resnet")) => Ok(Self::Resnet(parse(path, rest)?)),
            Some(Some("encoder_decoder")) => Ok(Self::EncoderDecoder(parse(path, rest)?)),
            Some(_) => Err(refuse(
                "/kind",
                format!("is {}, expected {KINDS}", kind.unwrap_or_default()),
            )),
            None => Err(refuse("/kind", format!("is missing, expected {KINDS}"))),
        }
    }

    /// The denoiser that it describes; `file` is for the message.
    ///
    /// # Errors
    /// [`ModelError::Kind`] if it describes something else, [`ModelError::Value`] for values that contradict one another.
    pub fn into_denoiser(self, file: &Path) -> Result<Box<dyn Denoiser>> {
        let made: Result<Box<dyn Denoiser>> = match self {
            Self::Dit(config) => Dit::new(config).map(|model| Box::new(model) as _),
            Self::Unet(config) => UNet::new(config).map(|model| Box::new(model) as _),
            other => return Err(wrong_kind(file, &other, "a denoiser", DENOISERS)),
        };
        made.map_err(|error| error.in_file(file))
    }

    /// The backbone that it describes; `file` is for the message.
    ///
    /// # Errors
    /// As [`into_denoiser`](Self::into_denoiser).
    pub fn into_backbone(self, file: &Path) -> Result<Box<dyn Backbone>> {
        let made: Result<Box<dyn Backbone>> = match self {
            Self::Resnet(config) => ResNet::new(config).map(|model| Box::new(model) as _),
            Self::EncoderDecoder(config) => {
                EncoderDecoder::new(config).map(|model| Box::new(model) as _)
            }
            other => return Err(wrong_kind(file, &other, "a backbone", BACKBONES)),
        };
        made.map_err(|error| error.in_file(file))
    }
}

/// Reads a denoiser's configuration and its weights: `weights_path`, or else the file beside the configuration with the
/// extension `.safetensors`.
///
/// # Errors
/// As [`ModelConfig::load`] and [`Weights::load`]; [`ModelError::Kind`] for another kind of model, [`ModelError::Value`] for values
/// that contradict one another.
pub fn load_denoiser(
    config_path: &Path,
    weights_path: Option<&Path>,
    device: &Device,
) -> Result<(Box<dyn Denoiser>, Weights)> {
    let denoiser = ModelConfig::load(config_path)?.into_denoiser(config_path)?;
    let weights = Weights::load(
        &weights_beside(config_path, weights_path),
        denoiser.parameters(),
        device,
    )?;
    Ok((denoiser, weights))
}

/// Reads a backbone's configuration and its weights, as [`load_denoiser`] does.
///
/// # Errors
/// As [`load_denoiser`].
pub fn load_backbone(
    config_path: &Path,
    weights_path: Option<&Path>,
    device: &Device,
) -> Result<(Box<dyn Backbone>, Weights)> {
    let backbone = ModelConfig::load(config_path)?.into_backbone(config_path)?;
    let weights = Weights::load(
        &weights_beside(config_path, weights_path),
        backbone.parameters(),
        device,
    )?;
    Ok((backbone, weights))
}

/// Where the weights of a configuration file are, unless told otherwise.
pub fn weights_beside(config_path: &Path, weights_path: Option<&Path>) -> PathBuf {
    weights_path.map_or_else(|| config_path.with_extension("safetensors"), Path::to_owned)
}

/// The JSON Schema (draft 2020-12) of a model's configuration file.
pub fn schema() -> Value {
    let generator = schemars::generate::SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<ModelConfig>();
    schema.insert("title".into(), "dtta model".into());
    schema.to_value()
}

fn parse<T: DeserializeOwned>(path: &Path, document: Value) -> Result<T> {
    serde_path_to_error::deserialize(document).map_err(|error| ModelError::Config {
        path: path.to_owned(),
        pointer: pointer(error.path()),
        message: error.inner().to_string(),
    })
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        let segment = match segment {
            Segment::Seq { index } => index.to_string(),
            Segment::Map { key } => key.replace('~', "~0").replace('/', "~1"),
            Segment::Enum { variant } => variant.clone(),
            Segment::Unknown => continue,
        };
        pointer.push('/');
        pointer.push_str(&segment);
    }
    if pointer.is_empty() {
        "/".into()
    } else {
        pointer
    }
}

fn wrong_kind(
    file: &Path,
    config: &ModelConfig,
    role: &'static str,
    expected: &'static str,
) -> ModelError {
    ModelError::Kind {
        path: file.to_owned(),
        found: config.kind(),
        role,
        expected,
    }
}

//! The one error type of this crate. Variants carry the facts (file, JSON pointer, tensor names, shapes), so that a message never
//! has to be taken apart.

use std::fmt;
use std::path::{Path, PathBuf};

use dtta_base::{Issue, listed};
use dtta_tensor::TensorError;

use crate::checkpoint::Format;

/// What can go wrong while a model is described, its weights are read or written, or it computes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A tensor operation refused or failed.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A file cannot be read or written, or is no valid model configuration.
    #[error(transparent)]
    File(#[from] dtta_base::Error),
    /// A configuration whose values do not fit its schema or contradict one another, without the file that it came from.
    #[error("not a valid model configuration: {}", Listed(issues))]
    Config {
        /// Every fault, by JSON pointer.
        issues: Vec<Issue>,
    },
    /// Two architectures of one `kind`.
    #[error("an architecture of kind `{kind}` is registered already; give yours another name")]
    Registered {
        /// The `kind`.
        kind: &'static str,
    },
    /// A model of another kind than the place asks for.
    #[error("`{path}` describes a `{found}`, but {role} is needed here: {expected}", path = path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// Its `kind`.
        found: String,
        /// What the place is for, such as `a denoiser`.
        role: &'static str,
        /// The kinds that would do.
        expected: String,
    },
    /// A weight file is no safetensors file, or is cut short.
    #[error("`{path}` ({bytes} bytes) is not a whole safetensors file: {reason}", path = path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// What the parser said.
        reason: String,
    },
    /// A weight file is something else that has its use.
    #[error("`{path}` is {format}, not a safetensors file; {advice}", path = path.display())]
    OtherFormat {
        /// The file.
        path: PathBuf,
        /// What it is, such as `a Git LFS pointer`.
        format: &'static str,
        /// What to do with it.
        advice: &'static str,
    },
    /// A file that `torch.save` may have written cannot be read.
    #[error("`{path}` ({format}) cannot be read: {reason}", path = path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        format: Format,
        /// Why.
        reason: String,
    },
    /// The index of weights that are split over several files does not fit these.
    #[error("`{path}` does not fit the files that it names: {faults}", path = path.display(), faults = faults.join("; "))]
    Index {
        /// The index.
        path: PathBuf,
        /// Every fault.
        faults: Vec<String>,
    },
    /// A folder that should be a model has no configuration.
    #[error("`{path}` has no `config.json`, so it is no model's folder", path = path.display())]
    NoConfig {
        /// The folder.
        path: PathBuf,
    },
    /// A folder that should be a tokenizer's has none.
    #[error("`{path}` has no tokenizer: looked for `tokenizer.json`, and for `vocab.json` with `merges.txt`", path = path.display())]
    NoTokenizer {
        /// The folder.
        path: PathBuf,
    },
    /// A tokenizer's file that cannot be understood, or a text that it refuses.
    #[error("`{path}` {reason}", path = path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A folder has no weights under the names that are looked for.
    #[error("`{path}` has no weights: looked for {looked_for}{others}", path = path.display(), looked_for = names(looked_for), others = others_in_words(others))]
    NoWeights {
        /// The folder.
        path: PathBuf,
        /// The names.
        looked_for: &'static [&'static str],
        /// Files there that may hold weights.
        others: Vec<String>,
    },
    /// A folder that should be an adapter's has none.
    #[error("`{path}` has no adapter: looked for `adapter_config.json` with `adapter_model.safetensors` of peft, and for `pytorch_lora_weights.safetensors` of diffusers", path = path.display())]
    NoAdapter {
        /// The folder.
        path: PathBuf,
    },
    /// A pipeline of diffusers in the place of a model.
    #[error("`{path}` is a pipeline of diffusers; give the folder of one of its models: {parts}", path = path.display(), parts = match parts.is_empty() {
        true => "none is there".into(),
        false => names(parts),
    })]
    Pipeline {
        /// The folder, or its index.
        path: PathBuf,
        /// The folders in it with a configuration.
        parts: Vec<String>,
    },
    /// A file with weights in the place of a configuration.
    #[error("`{path}` is {found}, which does not say what model it is of; give the model's configuration, and this file as its weights", path = path.display())]
    NoDescription {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// A reference to a model that names no repository.
    #[error(
        "`{reference}` names no model; expected `hf:OWNER/REPOSITORY`, with `@REVISION` and `/FOLDER` if need be, or `timm:NAME`"
    )]
    Reference {
        /// The reference.
        reference: String,
    },
    /// A model of the Hugging Face Hub that is not on this machine.
    #[error("`{model}` is not in the cache of the Hugging Face Hub, `{cache}`; fetch it with `dtta models fetch {model}`", cache = cache.display())]
    NotCached {
        /// The model.
        model: String,
        /// The cache.
        cache: PathBuf,
    },
    /// Extents were chosen for the images of a model that does not leave them open.
    #[error("`{path}` cannot take images of {height} × {width}: {reason}", path = path.display(), height = extents[0], width = extents[1])]
    Extents {
        /// The configuration.
        path: PathBuf,
        /// Height and width.
        extents: [usize; 2],
        /// Why.
        reason: String,
    },
    /// A weight file does not hold the tensors that the model declares. Lists every difference.
    #[error("`{path}` does not fit the model: {mismatches}", path = path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Every difference.
        mismatches: Box<Mismatches>,
    },
    /// A tensor that is to be weights holds NaN or an infinity.
    #[error("`{name}` of `{path}` contains NaN or infinite values", path = path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// Tensors of which the model has one differ.
    #[error("`{}` and `{}` of `{path}` differ, but the model has one for both", names[0], names[1], path = path.display())]
    Copies {
        /// The file.
        path: PathBuf,
        /// Two of the tensors.
        names: [String; 2],
    },
    /// A value that the chosen precision cannot hold.
    #[error("`{name}` holds {value}, which {precision} cannot represent; save it as f32")]
    Precision {
        /// The tensor.
        name: String,
        /// The value.
        value: f32,
        /// `f16` or `bf16`.
        precision: &'static str,
    },
    /// A replacement for a parameter has another shape.
    #[error("parameter `{name}` has shape {expected:?}, but its new value {found:?}")]
    ParameterShape {
        /// The parameter.
        name: String,
        /// Its shape.
        expected: Vec<usize>,
        /// The shape given.
        found: Vec<usize>,
    },
    /// A conditioning input that the denoiser does not publish, or one that it lacks.
    #[error("{problem} slot `{name}`; the denoiser publishes {known}")]
    Slot {
        /// The slot.
        name: String,
        /// `unknown`, `missing` or `repeated`.
        problem: &'static str,
        /// The names there are.
        known: String,
    },
    /// An input of a model has the wrong shape or range.
    #[error("{argument} {found}, expected {expected}")]
    Input {
        /// Which input.
        argument: String,
        /// What it was, with its verb: `has shape [2, 3]`, `is 1000`.
        found: String,
        /// What would do.
        expected: String,
    },
}

/// Shorthand used throughout.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;

/// A tensor that should make a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    /// What the file calls it.
    pub tensor: String,
    /// What the model calls the parameter, where that is another name.
    pub parameter: Option<String>,
}

impl fmt::Display for Called {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.tensor)?;
        match &self.parameter {
            Some(parameter) => write!(f, " (for `{parameter}`)"),
            None => Ok(()),
        }
    }
}

/// The differences between a weight file and what a model declares.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Mismatches {
    /// Declared, but not in the file.
    pub missing: Vec<Called>,
    /// In the file, but not declared.
    pub extra: Vec<String>,
    /// In both, with another shape: the declared shape, the shape in the file.
    pub misshapen: Vec<(Called, Vec<usize>, Vec<usize>)>,
    /// In both, but no floats: type in the file.
    pub mistyped: Vec<(Called, String)>,
    /// Tensors that would make several parameters, which would then be adapted apart: the parameters.
    pub shared: Vec<(String, Vec<String>)>,
}

impl Mismatches {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty()
            && self.extra.is_empty()
            && self.misshapen.is_empty()
            && self.mistyped.is_empty()
            && self.shared.is_empty()
    }
}

/// The most of a kind that a message lists.
const LISTED: usize = 8;

/// Names in backquotes, the first of many.
fn names(names: &[impl AsRef<str>]) -> String {
    let quoted = names.iter().map(|name| format!("`{}`", name.as_ref()));
    listed(quoted, LISTED)
}

/// What else there is where weights were looked for.
fn others_in_words(others: &[String]) -> String {
    match others.is_empty() {
        true => String::new(),
        false => format!(
            "; there is {}, which is used where it is given as the weights",
            names(others)
        ),
    }
}

impl fmt::Display for Mismatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let mut part = |f: &mut fmt::Formatter<'_>, title: &str, items: Vec<String>| {
            if items.is_empty() {
                return Ok(());
            }
            write!(f, "{separator}{title} {}", listed(items, LISTED))?;
            separator = "; ";
            Ok(())
        };
        let missing = self.missing.iter().map(Called::to_string);
        part(f, "missing", missing.collect())?;
        let extra = self.extra.iter().map(|name| format!("`{name}`"));
        part(f, "not declared", extra.collect())?;
        let misshapen = self
            .misshapen
            .iter()
            .map(|(name, expected, found)| format!("{name} is {found:?}, expected {expected:?}"));
        part(f, "misshapen", misshapen.collect())?;
        let mistyped = self
            .mistyped
            .iter()
            .map(|(name, found)| format!("{name} is {found}, expected F32, F16, BF16 or F64"));
        part(f, "of another type", mistyped.collect())?;
        let shared = self
            .shared
            .iter()
            .map(|(tensor, users)| format!("`{tensor}` for {}", names(users)));
        part(f, "meant for several parameters", shared.collect())
    }
}

impl ModelError {
    /// The file or folder that it is about, if it is about one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(error) => error.path(),
            Self::Kind { path, .. }
            | Self::Safetensors { path, .. }
            | Self::OtherFormat { path, .. }
            | Self::Checkpoint { path, .. }
            | Self::Index { path, .. }
            | Self::NoConfig { path, .. }
            | Self::NoTokenizer { path, .. }
            | Self::Tokenizer { path, .. }
            | Self::NoWeights { path, .. }
            | Self::NoAdapter { path, .. }
            | Self::Pipeline { path, .. }
            | Self::NoDescription { path, .. }
            | Self::Mismatch { path, .. }
            | Self::NotFinite { path, .. }
            | Self::Copies { path, .. } => Some(path),
            _ => None,
        }
    }

    /// The faults of a document.
    pub fn issues(&self) -> &[Issue] {
        match self {
            Self::File(error) => error.issues(),
            Self::Config { issues } => issues,
            _ => &[],
        }
    }

    pub(crate) fn input(
        argument: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self::Input {
            argument: argument.into(),
            found: found.into(),
            expected: expected.into(),
        }
    }
}

/// Faults in one line.
struct Listed<'a>(&'a [Issue]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, issue) in self.0.iter().take(LISTED).enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            let pointer = match issue.pointer.as_str() {
                "" => "/",
                pointer => pointer,
            };
            write!(f, "{separator}`{pointer}` {}", issue.message)?;
        }
        match self.0.len().saturating_sub(LISTED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

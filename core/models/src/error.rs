//! The one error type of this crate. Variants carry the facts (file, JSON pointer, tensor names, shapes), so that a message never
//! has to be taken apart.

use std::fmt;
use std::path::PathBuf;

use dtta_tensor::TensorError;

/// What can go wrong while a model is described, its weights are read or written, or it computes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A tensor operation refused or failed.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A file could not be read.
    #[error("cannot read `{path}`", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write `{path}`", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A model configuration is no JSON.
    #[error("`{path}` is not valid JSON: {source}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said, with line and column.
        source: serde_json::Error,
    },
    /// A model configuration has an unknown or a missing field, or a value of the wrong type.
    #[error("`{path}` at `{pointer}`: {message}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// JSON pointer to the place; `/` for the document.
        pointer: String,
        /// What is wrong.
        message: String,
    },
    /// A model configuration whose values contradict one another.
    #[error("{}`{pointer}` is {value}, expected {expected}", At(path))]
    Value {
        /// The file, where there is one.
        path: Option<PathBuf>,
        /// JSON pointer to the value.
        pointer: &'static str,
        /// The value.
        value: String,
        /// What would do.
        expected: String,
    },
    /// A model of another kind than the place asks for.
    #[error("`{path}` describes a `{found}`, but {role} is needed here: {expected}", path = path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// Its `kind`.
        found: &'static str,
        /// What the place is for.
        role: &'static str,
        /// The kinds that would do.
        expected: &'static str,
    },
    /// A weight file is no safetensors file, or is cut short.
    #[error("`{path}` ({bytes} bytes) is not a whole safetensors file: {source}", path = path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// What the parser said.
        source: safetensors::SafeTensorError,
    },
    /// A weight file does not hold the tensors that the model declares. Lists every difference.
    #[error("`{path}` does not fit the model: {mismatches}", path = path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Every difference.
        mismatches: Box<Mismatches>,
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

/// The differences between a weight file and what a model declares.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Mismatches {
    /// Declared, but not in the file.
    pub missing: Vec<String>,
    /// In the file, but not declared.
    pub extra: Vec<String>,
    /// In both, with another shape: name, declared shape, shape in the file.
    pub misshapen: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// In both, but neither f32, f16 nor bf16: name, type in the file.
    pub mistyped: Vec<(String, String)>,
}

impl Mismatches {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty()
            && self.extra.is_empty()
            && self.misshapen.is_empty()
            && self.mistyped.is_empty()
    }
}

impl fmt::Display for Mismatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let mut part = |f: &mut fmt::Formatter<'_>, title: &str, items: Vec<String>| {
            if items.is_empty() {
                return Ok(());
            }
            write!(f, "{separator}{title} {}", items.join(", "))?;
            separator = "; ";
            Ok(())
        };
        let quoted = |names: &[String]| {
            names
                .iter()
                .map(|name| format!("`{name}`"))
                .collect::<Vec<_>>()
        };
        part(f, "missing", quoted(&self.missing))?;
        part(f, "not declared", quoted(&self.extra))?;
        let misshapen = self
            .misshapen
            .iter()
            .map(|(name, expected, found)| format!("`{name}` is {found:?}, expected {expected:?}"));
        part(f, "misshapen", misshapen.collect())?;
        let mistyped = self
            .mistyped
            .iter()
            .map(|(name, found)| format!("`{name}` is {found}, expected F32, F16 or BF16"));
        part(f, "of another type", mistyped.collect())
    }
}

impl ModelError {
    /// Names the configuration file that a contradiction came from.
    pub(crate) fn in_file(self, file: &std::path::Path) -> Self {
        match self {
            Self::Value {
                path: None,
                pointer,
                value,
                expected,
            } => Self::Value {
                path: Some(file.to_owned()),
                pointer,
                value,
                expected,
            },
            other => other,
        }
    }

    pub(crate) fn value(
        pointer: &'static str,
        value: impl fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        Self::Value {
            path: None,
            pointer,
            value: value.to_string(),
            expected: expected.into(),
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

/// `` `path` at `` or nothing.
struct At<'a>(&'a Option<PathBuf>);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(path) => write!(f, "`{}` at ", path.display()),
            None => Ok(()),
        }
    }
}

//! The one error type of this crate. Variants carry the facts (file, JSON pointer, tensor names, shapes), so that a message never
//! has to be taken apart.

use std::fmt;
use std::path::PathBuf;

use dtta_base::{Issue, listed};
use dtta_tensor::TensorError;

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

/// The most of a kind that a message lists.
const LISTED: usize = 8;

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

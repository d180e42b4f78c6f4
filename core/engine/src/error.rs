//! The engine's error type.

use std::path::PathBuf;

use dtta_data::DataError;
use dtta_models::ModelError;
use dtta_plugin::PluginError;
use dtta_tensor::TensorError;

/// Shorthand used throughout.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with an experiment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read `{path}`: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write `{path}`: {source}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file is not JSON.
    #[error("`{path}` is not JSON: {source}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A document does not fit its schema.
    #[error("`{path}` is not a valid {what}:\n{}", Issues(issues), path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What it should be, such as `experiment`.
        what: &'static str,
        /// Every fault that was found.
        issues: Vec<Issue>,
    },
    /// An override that names no place or holds no value.
    #[error("`--set {text}`: {reason}")]
    Override {
        /// The override as given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A pattern in a parameter selection matches no parameter.
    #[error("the selection of the {model}'s parameters: `{pattern}` matches none of them")]
    UnmatchedPattern {
        /// `backbone` or `denoiser`.
        model: &'static str,
        /// The pattern.
        pattern: String,
    },
    /// A parameter selection is empty.
    #[error(
        "the selection of the {model}'s parameters is empty, so nothing would adapt; set `steps` to 0 to measure the source model alone"
    )]
    NothingSelected {
        /// `backbone` or `denoiser`.
        model: &'static str,
    },
    /// A value that a plugin declared cannot be kept.
    #[error("the plugin's value `{name}` {reason}")]
    Value {
        /// Its name, after the plugin's.
        name: String,
        /// Why not.
        reason: String,
    },
    /// A plugin did not return what the next stage needs.
    #[error("the {role} returned {found}, but {expected}")]
    Outputs {
        /// The role.
        role: &'static str,
        /// What came.
        found: String,
        /// What was needed.
        expected: String,
    },
    /// A gate asks what the denoiser makes of an image without a condition, and it never was without one.
    #[error(
        "the denoiser was never trained without a condition, so what a prediction explains is unknown"
    )]
    Unconditional,
    /// An output folder holds another run.
    #[error("`{path}` holds the records of a run; choose another folder with `--out`, remove it, or continue it with `--resume`", path = path.display())]
    OutputExists {
        /// The folder.
        path: PathBuf,
    },
    /// A run cannot be continued from what its folder holds.
    #[error("cannot continue the run in `{path}`: {reason}", path = path.display())]
    Resume {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The run was asked to stop.
    #[error("interrupted after {records} records; continue with `--resume`")]
    Interrupted {
        /// How many are finished.
        records: usize,
    },
    /// Something about data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Something about a model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Something about a plugin.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// Something about a tensor.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// One fault in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// Where, as a JSON pointer.
    pub pointer: String,
    /// What.
    pub message: String,
}

/// Writes one issue a line.
struct Issues<'a>(&'a [Issue]);

impl std::fmt::Display for Issues<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, issue) in self.0.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            let pointer = if issue.pointer.is_empty() {
                "/"
            } else {
                &issue.pointer
            };
            write!(f, "{newline}  {pointer}: {}", issue.message)?;
        }
        Ok(())
    }
}

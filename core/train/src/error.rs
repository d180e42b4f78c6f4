//! What can go wrong while a training run is prepared, carried out or continued.

use std::path::PathBuf;

use dtta_data::DataError;
use dtta_models::ModelError;
use dtta_tensor::TensorError;

/// Shorthand used throughout.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A refused or failed training run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read or written, is no valid training configuration, or lies in a folder that another run works in.
    #[error(transparent)]
    Base(#[from] dtta_base::Error),
    /// A part of a training configuration does not fit the data or the model.
    #[error("{}: {message}", place(file, pointer))]
    Invalid {
        /// The file, where there is one.
        file: Option<PathBuf>,
        /// JSON pointer to the place.
        pointer: String,
        /// What is wrong.
        message: String,
    },
    /// An output folder holds another run.
    #[error("`{path}` holds a training run; continue it with `--resume`, replace it with `--force`, or choose another folder with `--out`", path = path.display())]
    OutputExists {
        /// The folder.
        path: PathBuf,
    },
    /// A run cannot be continued from what its folder holds.
    #[error("cannot continue the training run in `{path}`: {reason}", path = path.display())]
    Resume {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The run was asked to stop; its state is saved.
    #[error("interrupted after {step} steps; continue with `--resume`")]
    Interrupted {
        /// How many are finished.
        step: usize,
    },
    /// The loss became infinite or undefined.
    #[error(
        "the loss is {loss} at step {step}; lower the learning rate or set `/optimization/gradient_clip`"
    )]
    Diverged {
        /// Steps done.
        step: usize,
        /// Mean loss of the last steps.
        loss: f64,
    },
    /// Something about data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Something about a model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Something about a tensor.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// Something about draws, the optimizer or its state.
    #[error(transparent)]
    Learn(#[from] dtta_learn::Error),
}

impl Error {
    pub(crate) fn invalid(pointer: &str, message: impl Into<String>) -> Self {
        Self::Invalid {
            file: None,
            pointer: pointer.into(),
            message: message.into(),
        }
    }

    /// The same, naming the configuration file where it is about a configuration.
    #[must_use]
    pub fn in_file(self, path: &std::path::Path) -> Self {
        match self {
            Self::Invalid {
                file: None,
                pointer,
                message,
            } => Self::Invalid {
                file: Some(path.into()),
                pointer,
                message,
            },
            other => other,
        }
    }
}

fn place(file: &Option<PathBuf>, pointer: &str) -> String {
    let pointer = if pointer.is_empty() { "/" } else { pointer };
    match file {
        Some(file) => format!("`{}` at `{pointer}`", file.display()),
        None => format!("training configuration at `{pointer}`"),
    }
}

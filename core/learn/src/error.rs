//! What can go wrong while something learns.

use dtta_models::ModelError;
use dtta_tensor::TensorError;

/// Shorthand used throughout.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong while something learns.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A pattern in a parameter selection matches no parameter.
    #[error("`{pattern}` matches no parameter of the {model}")]
    UnmatchedPattern {
        /// `task model` or `denoiser`.
        model: &'static str,
        /// The pattern.
        pattern: String,
    },
    /// A parameter selection is empty.
    #[error("the selection holds no parameter of the {model}, so nothing would adapt")]
    NothingSelected {
        /// `task model` or `denoiser`.
        model: &'static str,
    },
    /// A saved state lacks something.
    #[error("the saved state has no `{name}`")]
    Missing {
        /// What it lacks.
        name: String,
    },
    /// A saved state holds something that nothing asked for.
    #[error("the saved state has `{name}`, which belongs to nothing here")]
    Unknown {
        /// What it holds.
        name: String,
    },
    /// More memory than there is.
    #[error(transparent)]
    Base(#[from] dtta_base::Error),
    /// Something about a model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Something about a tensor.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

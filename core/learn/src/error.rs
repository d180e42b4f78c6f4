//! What can go wrong while something learns.

use std::ops::Range;

use dtta_models::ModelError;
use dtta_tensor::{Shape, TensorError};

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
    /// A setting of feedback that cannot be.
    #[error("`{name}` {problem}")]
    Setting {
        /// Which.
        name: &'static str,
        /// What it is, and what it may be.
        problem: String,
    },
    /// Images that are none of the denoiser's, or not as many as there are ids.
    #[error(
        "images have shape {found}, expected {expected:?}: one or more ids, and an image for each"
    )]
    Images {
        /// Their shape.
        found: Shape,
        /// That of as many of the denoiser's as there are ids.
        expected: [usize; 4],
    },
    /// A condition with more rows than images, or fewer.
    #[error(
        "the condition for slot `{slot}` has shape {found}, expected {images} rows, one for each image"
    )]
    Rows {
        /// The slot.
        slot: String,
        /// The condition's shape.
        found: Shape,
        /// How many images there are.
        images: usize,
    },
    /// Draws that are no part of the feedback.
    #[error(
        "draws {found:?} are no part of the feedback: expected some of 0..{draws}, from and to a multiple of {block}, or to the end"
    )]
    Draws {
        /// Which were asked for.
        found: Range<usize>,
        /// How many there are.
        draws: usize,
        /// How many of them are computed together, whoever computes them.
        block: usize,
    },
    /// Parts of feedback that are none of one whole.
    #[error("the parts do not add up: {reason}")]
    Parts {
        /// Why not.
        reason: String,
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

impl Error {
    /// Whether a caller asked for feedback that there cannot be: another argument helps.
    pub fn is_of_the_caller(&self) -> bool {
        matches!(
            self,
            Self::Setting { .. }
                | Self::Images { .. }
                | Self::Rows { .. }
                | Self::Draws { .. }
                | Self::Parts { .. }
        )
    }
}

//! The engine's error type.

use std::path::{Path, PathBuf};

use dtta_base::Issue;
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
    /// Something about a file or a document.
    #[error(transparent)]
    Base(#[from] dtta_base::Error),
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
    /// A result is NaN or infinite.
    #[error(
        "{what} is NaN or infinite; lower the learning rate, or check the sample and the model"
    )]
    NotFinite {
        /// Which one.
        what: String,
    },
    /// A batch that an adapter cannot take.
    #[error("the batch has {found}, expected {expected}")]
    Batch {
        /// What it has.
        found: String,
        /// What would do.
        expected: String,
    },
    /// A method asks for feedback, and there is no denoiser.
    #[error("the method needs a denoiser for its feedback, but there is none")]
    NoDenoiser,
    /// A method asks for the reconstruction of masked patches, and the backbone has no decoder.
    #[error("the method needs a backbone that reconstructs masked patches, and this one does not")]
    NoDecoder,
    /// A safeguard asks how sure models are of the classes of images, and the head does not say.
    #[error(
        "`/adaptation/safeguards/surer` compares how sure models are of the class of an image, and the head gives no `confidence` in one; set it to null"
    )]
    NoConfidence,
    /// A gate asks what the denoiser makes of an image without a condition, and it never was without one.
    #[error(
        "the denoiser was never trained without conditioning, so the share of the loss that a prediction explains cannot be computed"
    )]
    Unconditional,
    /// An output folder holds another run.
    #[error("`{path}` holds a run; choose another folder with `--out`, continue it with `--resume`, or replace it with `--force`", path = path.display())]
    OutputExists {
        /// The folder.
        path: PathBuf,
    },
    /// A run cannot be continued from what its folder holds.
    #[error("cannot continue the run in `{path}`: {reason}; run into another folder, or replace it with `--force`", path = path.display())]
    Resume {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A run cannot be cut into shards as asked.
    #[error("the run cannot be split into {count} shards: {reason}")]
    Shard {
        /// Shards asked for.
        count: usize,
        /// Why not.
        reason: String,
    },
    /// Runs cannot be put together.
    #[error("cannot merge `{path}`: {reason}", path = path.display())]
    Merge {
        /// The run that does not fit.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Experiments or runs that cannot be held against each other as asked.
    #[error("cannot compare {what}: {reason}")]
    Compare {
        /// Which.
        what: String,
        /// Why not.
        reason: String,
    },
    /// The run was asked to stop.
    #[error("interrupted after {samples} samples; continue with `--resume`")]
    Interrupted {
        /// How many are finished.
        samples: usize,
    },
    /// What came up while an experiment was opened, before anything was run, and would be a failure of its own later on.
    #[error(transparent)]
    Opening(Box<Error>),
    /// Something about learning.
    #[error(transparent)]
    Learn(#[from] dtta_learn::Error),
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

/// What helps against an [`Error`]; the command's exit codes follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Another file, setting or folder: exit code 2.
    Mend,
    /// The same once more: exit code 75.
    TryAgain,
    /// Nothing that is known: exit code 1.
    None,
}

impl Error {
    /// What helps.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Opening(_) => Remedy::Mend,
            Self::Interrupted { .. } | Self::Base(dtta_base::Error::Locked { .. }) => {
                Remedy::TryAgain
            }
            Self::Plugin(error) if error.is_interrupt() => Remedy::TryAgain,
            // A full disk is nobody's misuse.
            Self::Base(dtta_base::Error::Write { .. }) => Remedy::None,
            Self::Learn(error) if error.is_of_the_caller() => Remedy::Mend,
            Self::OutputExists { .. }
            | Self::Resume { .. }
            | Self::Shard { .. }
            | Self::Merge { .. }
            | Self::Compare { .. }
            | Self::NoConfidence
            | Self::Base(_) => Remedy::Mend,
            _ => Remedy::None,
        }
    }

    /// Of what came up while an experiment was opened: its files and settings are wrong, whatever it would be of a run. But a full disk is
    /// what it is, and so is a device that fails.
    pub(crate) fn of_opening(self) -> Self {
        let is_of_the_machine = matches!(
            self,
            Self::Base(_)
                | Self::Tensor(TensorError::Backend { .. })
                | Self::Model(ModelError::Tensor(TensorError::Backend { .. }))
                | Self::Learn(dtta_learn::Error::Tensor(TensorError::Backend { .. }))
        );
        match self.remedy() {
            Remedy::None if !is_of_the_machine => Self::Opening(Box::new(self)),
            _ => self,
        }
    }

    /// The file or folder that it is about, if it is about one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::OutputExists { path } | Self::Resume { path, .. } | Self::Merge { path, .. } => {
                Some(path)
            }
            Self::Opening(error) => error.path(),
            Self::Base(error) | Self::Learn(dtta_learn::Error::Base(error)) => error.path(),
            Self::Model(error) | Self::Learn(dtta_learn::Error::Model(error)) => error.path(),
            Self::Data(error) => error.path(),
            Self::Plugin(error) => error.path(),
            _ => None,
        }
    }

    /// The faults of a document, where they are of one.
    pub fn issues(&self) -> &[Issue] {
        match self {
            Self::Opening(error) => error.issues(),
            Self::Base(error) => error.issues(),
            Self::Model(error) => error.issues(),
            Self::Plugin(error) => error.issues(),
            _ => &[],
        }
    }

    /// Whether a policy may leave the batch out: a plugin failed, or a result is NaN or infinite. An interrupted plugin has not failed.
    pub(crate) fn is_of_the_batch(&self) -> bool {
        match self {
            Self::Plugin(error) => !error.is_interrupt(),
            Self::NotFinite { .. } | Self::Outputs { .. } => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_up_while_an_experiment_is_opened_can_be_mended_unless_the_machine_failed() {
        let backend = || TensorError::Backend {
            op: "to_device",
            message: "out of memory".into(),
        };
        for failed in [
            Error::Tensor(backend()),
            Error::Model(ModelError::Tensor(backend())),
            Error::Learn(dtta_learn::Error::Tensor(backend())),
        ] {
            assert_eq!(failed.of_opening().remedy(), Remedy::None);
        }
        let axis = TensorError::Kind {
            op: "matmul",
            argument: "the left",
            found: dtta_tensor::Kind::Int,
            expected: "floats",
        };
        assert_eq!(Error::Tensor(axis).of_opening().remedy(), Remedy::Mend);
    }
}

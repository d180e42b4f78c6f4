//! What can go wrong with a report.

use std::path::PathBuf;

/// Shorthand used throughout.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with a report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something about a file or a document.
    #[error(transparent)]
    Base(#[from] dtta_base::Error),
    /// A folder that no run is in.
    #[error("`{path}` holds neither a run (`run.json`) nor a comparison (`comparison.json`)", path = path.display())]
    NoRun {
        /// The folder.
        path: PathBuf,
    },
    /// A file of a run that says what it cannot.
    #[error("`{path}` {reason}", path = path.display())]
    Contents {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A chart could not be drawn.
    #[error("cannot draw `{chart}`: {reason}")]
    Drawing {
        /// Its name.
        chart: String,
        /// What the library says.
        reason: String,
    },
}

impl Error {
    /// Whether the user can mend it: everything but a file that cannot be written and a chart that cannot be drawn.
    pub fn is_misuse(&self) -> bool {
        !matches!(
            self,
            Self::Base(dtta_base::Error::Write { .. }) | Self::Drawing { .. }
        )
    }
}

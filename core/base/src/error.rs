//! Faults of files and documents.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::memory::in_bytes;

/// Shorthand used throughout.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with a file or a document. As everywhere in these crates, a cause is told by `source` alone: [`told`] has both.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
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
    /// Another process works in a folder.
    #[error("another run works in `{path}`; wait for it, or choose another folder", path = path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// An address in an object store, or what looks like one, in the place of a folder.
    #[error("`{address}` {reason}")]
    Address {
        /// What was given.
        address: String,
        /// What it is, and what to give.
        reason: String,
    },
    /// Something that would take more memory than there is.
    #[error("{what} would take at least {}, but only {} are free", in_bytes(*needed), in_bytes(*free))]
    Memory {
        /// What asks for it.
        what: String,
        /// Bytes.
        needed: u64,
        /// Bytes that are free, swap included, or that the process may still take.
        free: u64,
    },
    /// A file that should be text is in another encoding.
    #[error("`{path}` is {found}, expected text in UTF-8; save it so", path = path.display())]
    Encoding {
        /// The file.
        path: PathBuf,
        /// What it is: `UTF-16` or `not UTF-8`.
        found: &'static str,
    },
    /// A file is not JSON.
    #[error("`{path}` is not JSON", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A document does not fit its schema, or contradicts itself.
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
}

impl Error {
    /// The file or folder that it is about.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Read { path, .. }
            | Self::Write { path, .. }
            | Self::Locked { path }
            | Self::Encoding { path, .. }
            | Self::Json { path, .. }
            | Self::Invalid { path, .. } => Some(path),
            Self::Address { .. } | Self::Memory { .. } | Self::Override { .. } => None,
        }
    }

    /// The faults of a document.
    pub fn issues(&self) -> &[Issue] {
        match self {
            Self::Invalid { issues, .. } => issues,
            _ => &[],
        }
    }
}

/// An error and its causes in one line, each told once: some errors of other crates repeat their cause.
pub fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}

/// One fault in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// Where, as a JSON pointer.
    pub pointer: String,
    /// What.
    pub message: String,
}

impl Issue {
    /// A fault at a place.
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            message: message.into(),
        }
    }

    /// The same fault in a document that holds this one at `pointer`.
    #[must_use]
    pub fn within(mut self, pointer: &str) -> Self {
        self.pointer.insert_str(0, pointer);
        self
    }
}

/// The most faults that one message tells.
const FAULTS: usize = 24;

/// Writes one issue a line.
struct Issues<'a>(&'a [Issue]);

impl fmt::Display for Issues<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, issue) in self.0.iter().take(FAULTS).enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            let pointer = if issue.pointer.is_empty() {
                "/"
            } else {
                &issue.pointer
            };
            write!(f, "{newline}  {pointer}: {}", issue.message)?;
        }
        match self.0.len().saturating_sub(FAULTS) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

/// The first so many of some items, with commas between them, and how many more there are.
pub fn listed<T: fmt::Display>(items: impl IntoIterator<Item = T>, most: usize) -> String {
    let mut items = items.into_iter();
    let first: Vec<String> = items
        .by_ref()
        .take(most)
        .map(|item| item.to_string())
        .collect();
    match items.count() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_tell_how_much_they_leave_out() {
        assert_eq!(listed([1, 2, 3], 3), "1, 2, 3");
        assert_eq!(listed(1..=10, 3), "1, 2, 3 and 7 more");
        assert_eq!(listed([0; 0], 3), "");
        let issues = (0..100)
            .map(|n| Issue::new(format!("/{n}"), "is wrong"))
            .collect();
        let error = Error::Invalid {
            path: "x.json".into(),
            what: "experiment",
            issues,
        };
        let text = error.to_string();
        assert_eq!(text.lines().count(), 1 + FAULTS + 1);
        assert!(text.ends_with("\n  and 76 more"), "{text}");
    }
}

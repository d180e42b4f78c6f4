//! The one error type: a code that programs can compare and a message for people, exactly what
//! crosses the boundary.

use std::borrow::Cow;
use std::fmt;

/// A refused or failed request, by the host or by the plugin itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// A kebab-case word: one of `error.code` in `wit/types.wit`, or the plugin's own.
    pub code: Cow<'static, str>,
    /// What failed, on what, what was expected, what to do.
    pub message: String,
}

/// Shorthand used throughout.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with a code of the plugin's choice.
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
        }
    }

    /// `plugin`: something that only this plugin can get wrong.
    pub fn plugin(message: impl Into<String>) -> Self {
        Self::new("plugin", message)
    }

    /// `invalid-config`: a configuration that its schema allows and the plugin cannot follow.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new("invalid-config", message)
    }

    /// `shape-mismatch`: what is named has `shape`, and `expected` says in words, such as `[B, C, H, W]`, what it should have.
    pub fn shape(name: &str, shape: &[u32], expected: &str) -> Self {
        let message = format!("`{name}` has shape {shape:?}, expected {expected}");
        Self::new("shape-mismatch", message)
    }

    /// `unknown-name`: something was asked for by a name that nobody gave.
    pub(crate) fn unknown<'a>(
        what: &str,
        name: &str,
        known: impl Iterator<Item = &'a str>,
    ) -> Self {
        let known: Vec<&str> = known.collect();
        Self::new(
            "unknown-name",
            format!(
                "no {what} is named `{name}`; there are: {}",
                known.join(", ")
            ),
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl std::error::Error for Error {}

//! The roles that a plugin can play, as traits. A role's methods are pure in their arguments:
//! the host calls them more than once for a step, and resets between episodes by itself, so
//! whatever should change over time is a declared value that the host keeps.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::named::{Named, Slots};
use crate::session::Session;

/// A task head: what the backbone produced in, task outputs and predictions out.
pub trait Head: Send + Sized + 'static {
    /// Its part of the experiment. Mark it `#[serde(deny_unknown_fields)]`: a misspelt field
    /// must be an error. Its doc comments become the schema's descriptions.
    type Config: DeserializeOwned + JsonSchema;

    /// Constants that it asks the session for.
    const CONSTANTS: &'static [&'static str] = &[];

    /// A head with a configuration.
    ///
    /// # Errors
    /// `invalid-config` where the schema allows more than the head can do.
    fn create(config: Self::Config) -> Result<Self>;

    /// The values that the host should keep, in the order by which [`Session`] gives them.
    fn declare(&self) -> Vec<ValueSpec> {
        Vec::new()
    }

    /// Task outputs from what the backbone produced (`features`, or `logits` of a whole
    /// classifier). On the tape; values cannot be read.
    ///
    /// # Errors
    /// Whatever the host refuses, or the head's own.
    fn forward(&self, inputs: &Named, session: &Session) -> Result<Named>;

    /// A prediction from task outputs. Off the tape; values can be read.
    ///
    /// # Errors
    /// Whatever the host refuses, or the head's own.
    fn predict(&self, outputs: &Named, session: &Session) -> Result<Named>;
}

/// The output-to-conditioning mapper: task outputs in, what the denoiser is conditioned on out.
pub trait Mapper: Send + Sized + 'static {
    /// As [`Head::Config`].
    type Config: DeserializeOwned + JsonSchema;

    /// Constants that it asks the session for.
    const CONSTANTS: &'static [&'static str] = &[];

    /// A mapper with a configuration, for a denoiser with these slots.
    ///
    /// # Errors
    /// `invalid-config` where the slots lack what the mapper fills, or the schema allows more
    /// than it can do.
    fn create(config: Self::Config, slots: &Slots) -> Result<Self>;

    /// As [`Head::declare`].
    fn declare(&self) -> Vec<ValueSpec> {
        Vec::new()
    }

    /// One tensor for each slot it fills, by slot name. On the tape; values cannot be read.
    ///
    /// # Errors
    /// Whatever the host refuses, or the mapper's own.
    fn condition(&self, outputs: &Named, session: &Session) -> Result<Named>;
}

/// How the host keeps a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Storage {
    /// A leaf that adaptation may change.
    Parameter,
    /// A value that only the plugin changes.
    Buffer,
}

/// A value that a plugin asks the host to keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ValueSpec {
    /// Its name in checkpoints, after the plugin's.
    pub name: String,
    /// How it is kept.
    pub storage: Storage,
    /// Its extents.
    pub shape: Vec<u32>,
    /// Open hints, such as `init` = `kaiming-uniform`, `group` = `norm-affine`, `trainable` = `false`.
    #[serde(serialize_with = "as_object")]
    pub attributes: Vec<(String, String)>,
}

fn as_object<S: serde::Serializer>(
    attributes: &[(String, String)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(attributes.iter().map(|(name, value)| (name, value)))
}

/// Reads a configuration; nothing at all counts as an empty object.
pub(crate) fn parse_config<C: DeserializeOwned>(document: &[u8]) -> Result<C> {
    let document = if document.is_empty() { b"{}" } else { document };
    serde_json::from_slice(document).map_err(|error| Error::config(error.to_string()))
}

//! The roles that a plugin can play, as traits. A role's methods are pure in their arguments:
//! the host calls them more than once for a step, and resets between episodes by itself, so
//! whatever should change over time is a declared value that the host keeps.

use std::cell::RefCell;
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::named::{Named, Slots};
use crate::session::Session;
use crate::task::{Predicts, Score};
use crate::tensor::Tensor;

/// A task head: what the backbone produced in, task outputs and predictions out.
pub trait Head: Send + Sized + 'static {
    /// Its part of the experiment. Mark it `#[serde(deny_unknown_fields)]`: a misspelt field
    /// must be an error. Its doc comments become the schema's descriptions.
    type Config: DeserializeOwned + JsonSchema;

    /// Constants that it asks the session for.
    const CONSTANTS: &'static [&'static str] = &[];

    /// What it predicts: without it, the host cannot find the dataset's targets. What [`predict`](Self::predict) gives is held
    /// to it.
    const PREDICTS: Option<Predicts> = None;

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

/// A further scalar to minimise, such as the entropy of the prediction.
pub trait Objective: Send + Sized + 'static {
    /// As [`Head::Config`].
    type Config: DeserializeOwned + JsonSchema;

    /// Constants that it asks the session for.
    const CONSTANTS: &'static [&'static str] = &[];

    /// An objective with a configuration.
    ///
    /// # Errors
    /// `invalid-config` where the schema allows more than it can do.
    fn create(config: Self::Config) -> Result<Self>;

    /// A loss `[1]`, or `[B]` with one entry for each sample, from task outputs. On the tape; values cannot be read.
    ///
    /// # Errors
    /// Whatever the host refuses, or the objective's own.
    fn loss(&self, outputs: &Named, session: &Session) -> Result<Tensor>;
}

/// Scores by name.
pub type Scores = BTreeMap<String, f64>;

/// A score that is accumulated over samples. The only role that sees targets.
///
/// Accumulators are values of [`State`](Self::State): the SDK saves and merges them, and adds the samples of a failed
/// update not at all. Counts in whole numbers merge exactly in any order; sums of floats do not.
pub trait Metric: Send + Sized + 'static {
    /// As [`Head::Config`].
    type Config: DeserializeOwned + JsonSchema;

    /// What is accumulated; its default has seen no sample. Saved as JSON.
    type State: Default + Serialize + DeserializeOwned + Send;

    /// Constants that it asks the session for.
    const CONSTANTS: &'static [&'static str] = &[];

    /// How each of its scores is to be read. One of them may lead.
    const SCORES: &'static [Score] = &[];

    /// Whether saved accumulators of samples are alike but for whole numbers, and [`merge`](Self::merge) does nothing but add
    /// those. The host then sums accumulators by itself where it needs thousands of sums, as for confidence intervals.
    const ADDITIVE: bool = false;

    /// A metric with a configuration.
    ///
    /// # Errors
    /// `invalid-config` where the schema allows more than it can do.
    fn create(config: Self::Config) -> Result<Self>;

    /// What some samples come to. Values can be read.
    ///
    /// # Errors
    /// Whatever the host refuses, or the metric's own, such as predictions that do not fit the targets.
    fn score(&self, predictions: &Named, targets: &Named, session: &Session)
    -> Result<Self::State>;

    /// Adds one accumulator to another: associative and commutative, with the default as identity.
    fn merge(&self, state: &mut Self::State, other: Self::State);

    /// The scores by name, plain numbers; empty before the first sample.
    fn report(&self, state: &Self::State) -> Scores;
}

/// A metric with what it has accumulated: what the exports of both loaders hold.
pub(crate) struct Accumulator<M: Metric> {
    metric: M,
    state: RefCell<M::State>,
}

impl<M: Metric> Accumulator<M> {
    pub(crate) fn create(config: &[u8]) -> Result<Self> {
        Ok(Self {
            metric: M::create(parse_config(config)?)?,
            state: RefCell::default(),
        })
    }

    pub(crate) fn update(
        &self,
        predictions: &Named,
        targets: &Named,
        session: &Session,
    ) -> Result<()> {
        let scored = self.metric.score(predictions, targets, session)?;
        self.metric.merge(&mut self.state.borrow_mut(), scored);
        Ok(())
    }

    pub(crate) fn save(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(&*self.state.borrow()).map_err(|error| Error::plugin(error.to_string()))
    }

    pub(crate) fn merge(&self, saved: &[u8]) -> Result<()> {
        let other = serde_json::from_slice(saved).map_err(|error| {
            Error::new(
                "invalid-argument",
                format!("these are not the bytes of a saved accumulator of this version: {error}"),
            )
        })?;
        self.metric.merge(&mut self.state.borrow_mut(), other);
        Ok(())
    }

    pub(crate) fn report(&self) -> Result<String> {
        let scores = self.metric.report(&self.state.borrow());
        if let Some((name, value)) = scores.iter().find(|(_, value)| !value.is_finite()) {
            return Err(Error::plugin(format!("the score `{name}` is {value}")));
        }
        serde_json::to_string(&scores).map_err(|error| Error::plugin(error.to_string()))
    }
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
    parse(document).map_err(refused)
}

fn refused(error: serde_json::Error) -> Error {
    Error::config(error.to_string())
}

/// Reads JSON by way of a [`serde_json::Value`]: a parser of text for each field of each type would be most of what the compiler of a
/// component has to do.
pub(crate) fn parse<T: DeserializeOwned>(document: &[u8]) -> serde_json::Result<T> {
    serde_json::from_value(serde_json::from_slice(document)?)
}

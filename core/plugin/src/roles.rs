//! What the engine knows of a plugin: one trait for each role. A loader implements them;
//! the core may too, as [`Accuracy`](crate::Accuracy) does.

use std::collections::BTreeMap;

use dtta_tensor::{Named, Tensor, Usage};

use crate::error::{Place, PluginError, Result};
use crate::values::{ValueSpec, Values};

/// Features or pixels in, task outputs and predictions out.
pub trait Head: Send {
    /// The values that it wants kept; empty for most.
    fn values(&self) -> &[ValueSpec];

    /// Task outputs from what the backbone produced, on the tape. Pure in `inputs` and `values`; replaced
    /// buffers are left in `values.updates`.
    ///
    /// # Errors
    /// Whatever the plugin answers with, a crash, or a spent budget. The next call is unharmed.
    fn forward(&mut self, inputs: &Named, values: &mut Values) -> Result<Named>;

    /// A prediction from task outputs, off the tape.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn predict(&mut self, outputs: &Named) -> Result<Named>;

    /// What its last call used.
    fn usage(&self) -> Usage;
}

/// Task outputs to what the denoiser is conditioned on.
pub trait Mapper: Send {
    /// As [`Head::values`].
    fn values(&self) -> &[ValueSpec];

    /// One tensor for each slot it fills, by slot name, on the tape. Pure in `outputs` and `values`, as
    /// [`Head::forward`].
    ///
    /// # Errors
    /// As [`Head::forward`], or [`PluginError::Output`](crate::PluginError::Output) for a
    /// name that is not a slot.
    fn condition(&mut self, outputs: &Named, values: &mut Values) -> Result<Named>;

    /// What its last call used.
    fn usage(&self) -> Usage;
}

/// A further scalar to minimise.
pub trait Objective: Send {
    /// A loss `[1]`, or `[B]` with one entry for each sample, on the tape.
    ///
    /// # Errors
    /// As [`Head::forward`].
    fn loss(&mut self, outputs: &Named) -> Result<Tensor>;

    /// What its last call used.
    fn usage(&self) -> Usage;
}

/// A score that can be accumulated, saved and merged. A new accumulator is the identity of
/// [`merge`](Self::merge), which is associative and commutative.
pub trait Metric: Send {
    /// Adds samples. The only function of any role that sees targets.
    ///
    /// # Errors
    /// [`PluginError::Failed`](crate::PluginError::Failed) for a missing or misshapen tensor.
    fn update(&mut self, predictions: &Named, targets: &Named) -> Result<()>;

    /// The accumulator as bytes that [`merge`](Self::merge) takes.
    fn save(&self) -> Vec<u8>;

    /// Adds a saved accumulator to this one.
    ///
    /// # Errors
    /// [`PluginError::Failed`](crate::PluginError::Failed) for bytes of another metric or version.
    fn merge(&mut self, saved: &[u8]) -> Result<()>;

    /// The scores by name; empty before the first sample.
    ///
    /// # Errors
    /// Whatever a plugin answers with.
    fn report(&mut self) -> Result<BTreeMap<String, f64>>;
}

/// What a plugin reports: a JSON object from name to number.
pub(crate) fn scores(document: &[u8], place: &Place) -> Result<BTreeMap<String, f64>> {
    let refuse = |problem: String| PluginError::Output {
        place: place.clone(),
        problem,
    };
    serde_json::from_slice(document)
        .map_err(|error| refuse(format!("its report is not an object of numbers: {error}")))
}

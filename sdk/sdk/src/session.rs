//! What the host lends besides operations: constants, the log, and the values it keeps.

use std::marker::PhantomData;

use crate::error::Result;
use crate::imp;
use crate::tensor::Tensor;

/// How strongly a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Every detail.
    Trace,
    /// What a plugin author wants to see.
    Debug,
    /// What a user may want to know.
    Info,
    /// What a user should look at.
    Warn,
    /// What went wrong.
    Error,
}

/// The host, for the time of one call.
pub struct Session {
    values: imp::Values,
    _one_thread: PhantomData<*mut ()>,
}

impl Session {
    pub(crate) fn new(values: imp::Values) -> Self {
        Self {
            values,
            _one_thread: PhantomData,
        }
    }

    /// A constant that the experiment bound by name, such as `class-embeddings`. List it in
    /// `CONSTANTS` of the role, so that an experiment without it is refused before it runs.
    ///
    /// # Errors
    /// `unknown-name` if nobody bound it.
    pub fn constant(&self, name: &str) -> Result<Tensor> {
        imp::constant(name)
    }

    /// Writes a line to the host's log, with the plugin's name.
    pub fn log(&self, level: LogLevel, message: &str) {
        imp::log(level, message);
    }

    /// The value at `index` of what `declare` listed, if it is a parameter: a leaf, tracked
    /// while the host is adapting it.
    ///
    /// # Errors
    /// `invalid-argument` if it is none; `not-permitted` in `predict`.
    pub fn parameter(&self, index: u32) -> Result<Tensor> {
        self.values.parameter(index)
    }

    /// The value at `index` of what `declare` listed, if it is a buffer.
    ///
    /// # Errors
    /// `invalid-argument` if it is none; `not-permitted` in `predict`.
    pub fn buffer(&self, index: u32) -> Result<Tensor> {
        self.values.buffer(index)
    }

    /// Replaces a buffer at the end of the call, unless the call fails.
    ///
    /// # Errors
    /// `invalid-argument` if it is none; `not-permitted` in `predict`.
    pub fn update_buffer(&self, index: u32, value: Tensor) -> Result<()> {
        self.values.update_buffer(index, value)
    }
}

//! dtta adapts vision models at test time with feedback from a diffusion model
//! (Diffusion-TTA, Prabhudesai et al., NeurIPS 2023): for each unlabelled test image, the task
//! model's output becomes the conditioning of a denoiser, the diffusion loss of that image is
//! computed, and its gradient flows back through the conditioning into the task model's weights.
//!
//! Two ways in:
//! - [`Document`] → [`Prepared`] → [`Prepared::run`] runs an experiment file, as the command line does.
//! - [`Adapter`] adapts batches of one's own images, for programs that bring their own stream.

mod adapt;
mod checkpoint;
mod diagnose;
mod document;
mod draws;
mod error;
mod experiment;
mod feedback;
mod optimizer;
mod picture;
mod prepare;
mod record;
mod run;
mod score;
mod selection;
mod standardize;
mod task;
mod values;

pub use adapt::{Adapted, Adapter, Batch, Carry, Common, Learner, Movement, Settings};
pub use diagnose::{DiagnoseOptions, Diagnosis, DomainDiagnosis, RangeDiagnosis};
pub use document::{Document, parse, read_json, schema, schema_of};
pub use draws::Draws;
pub use error::{Error, Issue, Result};
pub use experiment::*;
pub use feedback::{Evaluation, Feedback, Request};
pub use optimizer::{AdamConfig, Optimizer, OptimizerConfig};
pub use prepare::Prepared;
pub use record::{
    DomainSummary, Guess, Interval, Intervals, Pair, Protocol, Record, RunDescription, Scores,
    Summary,
};
pub use run::{Observer, Progress, RunOptions, device};
pub use selection::{ParameterGroup, SelectionConfig};
pub use standardize::Standardize;
pub use task::{Prediction, TaskKind, TaskModel};

/// The README's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

//! dtta adapts vision models at test time with feedback from a diffusion model
//! (Diffusion-TTA, Prabhudesai et al., NeurIPS 2023): for each unlabelled test image, the task
//! model's output becomes the conditioning of a denoiser, the diffusion loss of that image is
//! computed, and its gradient flows back through the conditioning into the task model's weights.
//!
//! Two ways in:
//! - [`Document`] → [`Prepared`] → [`Prepared::run`] runs an experiment file, as the command line does.
//! - [`Adapter`] adapts batches of one's own images, for programs that bring their own stream.
//!
//! What can be added from outside: a [`Method`] by its [`MethodConfig`], a [`Sink`], architectures and plugins; see [`Extensions`].

mod adapter;
mod builder;
mod compare;
mod diagnose;
mod document;
mod error;
mod experiment;
mod merge;
mod methods;
mod parts;
mod plan;
mod prepare;
mod prompts;
mod record;
mod report;
mod run;
mod seen;
mod sinks;
mod task;
mod values;

pub use adapter::Adapter;
pub use builder::AdapterBuilder;
pub use compare::*;
pub use diagnose::{
    Conclusion, DiagnoseOptions, Diagnosis, DomainDiagnosis, RangeConclusion, RangeDiagnosis,
    Rounding,
};
pub use document::{Document, schema};
pub use dtta_base::told;
pub use dtta_data::{ColourMode, Image, View};
pub use dtta_learn::{
    AdamConfig, Draws, Evaluation, Feedback, FeedbackConfig, FeedbackPart, Footprint, Learner,
    LossKind, MAX_DRAWS, Movement, NoiseSharing, OptimizerConfig, Request, SelectionConfig, State,
    TimestepSampler, TimestepsConfig,
};
pub use error::{Error, Remedy, Result};
pub use experiment::*;
pub use merge::{MERGED, merge};
pub use methods::{
    Adapted, Batch, Collapse, CottaConfig, DeyoConfig, Diffusion, DiffusionClassifierConfig,
    DiffusionConfig, DusaConfig, EataConfig, EntropyConfig, FisherConfig, Group, MemoConfig,
    Method, MethodConfig, MethodSource, Methods, ObjectivesConfig, Pass, RoidConfig, RottaConfig,
    SafeguardsConfig, SarConfig, Setting, SourceConfig, Stage, Toolbox, TttMaeConfig,
};
pub use parts::{Carry, Centre, Common, Control, Gate, SlowWeights, ViewsConfig};
pub use plan::{Missing, Plan, Work};
pub use prepare::{Devices, Extensions, Keep, Own, OwnParts, Prepared};
pub use prompts::{PromptsConfig, TextSource};
pub use record::{
    DomainDescription, DomainSummary, Done, Interval, Intervals, Pair, Prediction, Protocol,
    Record, RunDescription, Scores, Status, Summary,
};
pub use report::Scored;
pub use run::{Closed, Existing, Identity, PlannedShard, Rehearsal, RunOptions, Shard, ShardId};
pub use seen::Seen;
pub use sinks::{EventFile, Finished, Sink, Start};
pub use task::{Predictions, TaskModel};

/// The README's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

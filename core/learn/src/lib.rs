//! What adaptation and training share: draws of timestep and noise, the diffusion feedback with its cut, the choice of parameters,
//! and the optimizers that move them. It knows no data, no plugin and no experiment.

mod config;
mod cut;
mod draws;
mod error;
mod feedback;
mod follow;
mod footprint;
mod learner;
mod masks;
mod mixture;
mod optimizer;
mod selection;
mod state;
mod tree;

pub use config::FeedbackConfig;
pub use cut::surrogate;
pub use draws::{
    Draws, MAX_BATCH, MAX_DRAWS, NoiseSharing, TimestepSampler, TimestepsConfig, range_problem,
    serialize_range,
};
pub use error::{Error, Result};
pub use feedback::{Evaluation, Feedback, LossKind, Request};
pub use follow::approach;
pub use footprint::Footprint;
pub use learner::{Learner, Movement};
pub use masks::Masks;
pub use mixture::MixtureEvaluation;
pub use optimizer::{AdamConfig, Optimizer, OptimizerConfig};
pub use selection::{Selected, SelectionConfig};
pub use state::State;
pub use tree::FeedbackPart;

//! Training loops for the models that feedback needs: a denoiser that is told a class or a map, a classifier of images or pixels, and
//! a predictor of numbers for each pixel. What a model learns from is a target of the dataset, found by its name.
//!
//! [`TrainingConfig`] is one JSON document; [`Trainer`] carries it out. Everything random is a function of the seed and the step,
//! so a run that was stopped and continued ends with the same weights, bit for bit, as one that was not.
//! [`diffusion_classifier`] and [`classifier_accuracy`] measure any weights.

mod averaged;
mod checkpoint;
mod config;
mod data;
mod error;
mod evaluate;
mod evaluate_maps;
mod lesson;
mod log;
mod schedule;
mod trainer;

pub use config::{
    ClassifierTask, DataConfig, DenoiserTask, EvaluateConfig, EvaluationDraws, LearningRate,
    NumbersTask, OptimizationConfig, OutputConfig, ReconstructionTask, TaskConfig, TrainingConfig,
    schema,
};
pub use error::{Error, Result};
pub use evaluate::{
    DiffusionClassifierOptions, Evaluation, classifier_accuracy, diffusion_classifier,
};
pub use trainer::{Observer, Outcome, Progress, RunOptions, Trainer};

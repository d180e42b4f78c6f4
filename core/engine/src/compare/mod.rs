//! Comparisons: methods side by side, on the same samples and seeds, under one protocol.
//!
//! - `file.rs` is the comparison file; `plan.rs` makes the experiments of it, method by method and seed by seed; `sweep.rs` lets some of them
//!   try several values.
//! - `run.rs` runs them as ordinary runs in folders of their own, which are continued, skipped, sharded and merged as all runs are.
//! - `table.rs` makes the [`Comparison`] of what the runs left on disk, `samples.rs` reads that, and `pair.rs` holds two sides against each
//!   other, sample by sample.
//! - `tune.rs` chooses settings on other domains than those that are reported.

mod comparison;
mod file;

pub use self::comparison::{
    ComparedDomain, ComparedMethod, ComparedRun, ComparedScores, ComparedSource, Comparison,
    Change, Cost, Difference, EqualTime, EqualTimeSetting, FailedRun, Swept,
};
pub use self::file::{ComparisonFile, Settings, Tuned, TunedOn, TuningConfig};

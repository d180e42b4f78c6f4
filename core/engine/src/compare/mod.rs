//! Comparisons: methods side by side, on the same samples and seeds, under one protocol.
//!
//! - `file.rs` is the comparison file; `plan.rs` makes the experiments of it, method by method and seed by seed; `sweep.rs` lets some of them
//!   try several values.
//! - `run.rs` runs them as ordinary runs in folders of their own, which are continued, skipped, sharded and merged as all runs are.
//! - `table.rs` makes the [`Comparison`] of what the runs left on disk, `samples.rs` reads that, and `pair.rs` holds two sides against each
//!   other, sample by sample. `finished.rs` does so with finished runs from anywhere.
//! - `tune.rs` chooses settings on other conditions than those that are reported.

mod comparison;
mod file;
mod finished;
mod pair;
mod plan;
mod run;
mod samples;
mod sweep;
mod table;
mod tune;

pub use self::comparison::{
    Change, ComparedDomain, ComparedMethod, ComparedRun, ComparedScores, ComparedSource,
    Comparison, Cost, Difference, EqualTime, EqualTimeSetting, FailedRun, SourceOf, Swept,
};
pub use self::file::{ComparisonFile, Settings, Tuned, TunedOn, TuningConfig};
pub use self::finished::compare_runs;
pub use self::plan::{ComparisonPlan, PlanOptions, RunName};
pub use self::run::{CompareOptions, Watch};
pub use self::tune::{Tuning, TuningPlan};

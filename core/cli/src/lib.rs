//! The `dtta` command, as a function of its arguments, so that other programs can have it too. Words for people go to stderr, machine output to files or to stdout as
//! JSON. A message that cannot be written is not a failure; machine output that cannot be is.
//! Exit codes: 0 done, 1 a run failed, 2 misuse or bad input, 3 done, but samples were skipped, 75 interrupted or locked: try again.

#![deny(clippy::print_stderr, clippy::print_stdout)]

mod cluster;
mod compare;
mod corrupt;
mod data;
mod diagnose;
mod experiment;
mod init;
mod merge;
mod models;
mod plan;
mod plugins;
mod report;
mod run;
mod say;
mod shards;
mod stop;
mod store;
mod table;
mod train;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use crate::say::say;
use clap::{Parser, Subcommand};

pub use cluster::{NoShard, Share};
pub use experiment::extensions;

/// Adapts vision models at test time with feedback from a diffusion model.
///
/// Example: dtta run examples/fashion/online.json --set method.steps=3
#[derive(Parser)]
#[command(
    name = "dtta",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Command {
    /// Prints more on stderr; give it twice for debug output.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Writes an experiment that runs, from two models and a dataset, with its schema beside it.
    Init(init::Arguments),
    /// Runs an experiment.
    Run(run::Arguments),
    /// Runs methods with several seeds and holds them against each other, or finished runs.
    Compare(compare::Arguments),
    /// Lists the shards that a run can be cut into, with what each takes. Adapts nothing.
    Plan(shards::Arguments),
    /// Merges the shards of a run.
    Merge(merge::Arguments),
    /// Shows runs as one HTML page: what adapted and by how much, curves, classes, calibration, pictures and settings.
    Report(report::Arguments),
    /// Compares the denoiser's loss given the true target, the prediction and another sample's target, by timestep. Reads labels; adapts nothing.
    Diagnose(diagnose::Arguments),
    /// Trains a denoiser, a classifier of images or pixels, or a predictor of depth.
    Train(train::Arguments),
    /// Creates, builds, checks and lists plugins.
    Plugins(plugins::Arguments),
    /// Lists architectures; inspects, fetches and converts published models.
    Models(models::Arguments),
    /// Writes a folder of images under the corruptions of ImageNet-C, laid out as ImageNet-C is.
    ///
    /// Example: dtta corrupt photos photos-c --corruptions fog,snow --severities 5
    Corrupt(corrupt::Arguments),
    /// Packs samples of a data set into one file.
    Data(data::Arguments),
    /// Prints the JSON Schema of a document.
    Schema {
        /// Which document.
        #[arg(value_enum, default_value = "experiment")]
        document: Document,
    },
}

/// Documents with a schema.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Document {
    /// What `dtta run` takes.
    Experiment,
    /// What `dtta compare` takes.
    Comparison,
    /// What `dtta train` takes.
    Training,
    /// A model's configuration, beside its weights.
    Model,
}

/// The exit code of a run that is done, but left samples out.
const SKIPPED: u8 = 3;
/// The exit code of what was stopped or found another process at it: the same command goes on from there. `EX_TEMPFAIL` of sysexits.h.
const AGAIN: u8 = 75;

/// How a command ends when it does not succeed.
enum Failure {
    /// The user can mend it: exit code 2.
    Misuse(anyhow::Error),
    /// A run failed: exit code 1.
    Failed(anyhow::Error),
    /// It was stopped from outside: exit code 75.
    Again(anyhow::Error),
}

impl Failure {
    fn misuse(error: impl Into<anyhow::Error>) -> Self {
        Self::Misuse(error.into())
    }

    fn failed(error: impl Into<anyhow::Error>) -> Self {
        Self::Failed(error.into())
    }

    fn again(error: impl Into<anyhow::Error>) -> Self {
        Self::Again(error.into())
    }
}

/// Runs the command with these arguments, the first of which is its name, and answers its exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = match Command::try_parse_from(arguments) {
        Ok(command) => command,
        Err(error) => {
            // Help and the version are no errors, and go to stdout.
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let _at_work = stop::AtWork::begin();
    let level = match command.verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    };
    env_logger::Builder::new()
        .filter_level(level)
        .format_timestamp(None)
        .try_init()
        // A program that has a logger keeps it.
        .ok();
    let done = |outcome: Result<(), Failure>| outcome.map(|()| ExitCode::SUCCESS);
    let outcome = match command.verb {
        Verb::Init(arguments) => done(init::init(&arguments)),
        Verb::Run(arguments) => run::run(&arguments),
        Verb::Compare(arguments) => compare::compare(&arguments),
        Verb::Plan(arguments) => done(shards::plan(&arguments)),
        Verb::Merge(arguments) => merge::merge(&arguments),
        Verb::Report(arguments) => done(report::report(&arguments)),
        Verb::Diagnose(arguments) => done(diagnose::diagnose(&arguments)),
        Verb::Train(arguments) => done(train::train(&arguments)),
        Verb::Plugins(arguments) => done(plugins::plugins(&arguments)),
        Verb::Models(arguments) => done(models::models(&arguments)),
        Verb::Corrupt(arguments) => done(corrupt::corrupt(&arguments)),
        Verb::Data(arguments) => done(data::data(&arguments)),
        Verb::Schema { document } => done(print_json(&match document {
            Document::Experiment => dtta::schema(&dtta::Methods::standard()),
            Document::Comparison => dtta::ComparisonFile::schema(),
            Document::Training => dtta_train::schema(),
            Document::Model => dtta_models::Models::standard().schema(),
        })),
    };
    let (error, code) = match outcome {
        Ok(code) => return code,
        Err(Failure::Misuse(error)) => (error, 2),
        Err(Failure::Failed(error)) => (error, 1),
        Err(Failure::Again(error)) => (error, AGAIN),
    };
    say!("error: {}", dtta_base::told(error.as_ref()));
    ExitCode::from(code)
}

/// Writes a document to stdout.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::failed)?;
    print(&format!("{text}\n"))
}

/// Writes a text to stdout. A reader that went away is not a failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let error = anyhow::Error::from(error).context("cannot write to stdout");
            Err(Failure::Failed(error))
        }
        _ => Ok(()),
    }
}

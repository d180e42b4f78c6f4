//! `dtta train`: from a training configuration to weights.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use dtta_train::{Error, Evaluation, Observer, Progress, RunOptions, Trainer, TrainingConfig};
use indicatif::{ProgressBar, ProgressStyle};

use crate::data::tell_left_out;
use crate::experiment::Place;
use crate::say::say;
use crate::store::expect_folder;
use crate::{AGAIN, Failure, print_json, stop};

/// What to train, and how.
#[derive(Args)]
pub struct Arguments {
    /// The training configuration, a JSON file.
    config: PathBuf,
    #[command(flatten)]
    place: Place,
    /// Overrides a value, such as `optimization.steps=100`.
    #[arg(long, value_name = "POINTER=VALUE")]
    set: Vec<String>,
    /// Continues an interrupted run in its folder; begins if there is none.
    #[arg(long)]
    resume: bool,
    /// Replaces an earlier run in the folder.
    #[arg(long, conflicts_with = "resume")]
    force: bool,
    /// Folder for log, checkpoint and weights. If absent, the weights go where the configuration says, the rest to
    /// `runs/train-NAME`.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Trains nothing; measures the saved weights and prints the result as JSON.
    #[arg(long)]
    evaluate_only: bool,
}

static STOP: AtomicBool = AtomicBool::new(false);

/// Trains, or measures.
pub fn train(arguments: &Arguments) -> Result<(), Failure> {
    if let Some(out) = &arguments.out {
        expect_folder(out)?;
    }
    let path = &arguments.config;
    let base = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let config = TrainingConfig::load(path, &arguments.set).map_err(Failure::misuse)?;
    let device = arguments.place.device()?;
    let mut trainer = Trainer::prepare(config, base, device)
        .map_err(|error| Failure::misuse(error.in_file(path)))?;
    let configured = trainer.weights_path();
    let weights = arguments
        .out
        .as_ref()
        .map(|out| out.join(configured.file_name().unwrap_or_default()));
    for (place, left_out) in trainer.left_out() {
        tell_left_out(place, left_out);
    }
    if arguments.evaluate_only {
        return evaluate(&trainer, &weights.unwrap_or(configured));
    }
    say!(
        "{}: {} parameters, {} images, on {}",
        path.display(),
        trainer.weights().elements(),
        trainer.samples(),
        trainer.device()
    );
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let out = arguments
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from("runs").join(format!("train-{name}")));
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            say!("stopped at once; what is checkpointed can be continued with `--resume`");
            stop::now(AGAIN);
        }
        say!("stopping after this step; press Ctrl-C again to stop at once");
    })
    .map_err(Failure::failed)?;
    let options = RunOptions {
        out: out.clone(),
        weights,
        resume: arguments.resume,
        force: arguments.force,
        stop: &STOP,
    };
    let mut bar = Bar::new();
    let outcome = trainer.run(&options, &mut bar);
    bar.bar.finish_and_clear();
    let outcome = outcome.map_err(|error| match error {
        Error::OutputExists { .. } | Error::Resume { .. } => Failure::misuse(error),
        Error::Interrupted { .. } | Error::Base(dtta_base::Error::Locked { .. }) => {
            Failure::again(error)
        }
        error => Failure::failed(error),
    })?;
    if let Some(evaluation) = &outcome.evaluation {
        say!("{}", words(evaluation));
    }
    say!("weights: {}", outcome.weights.display());
    say!(
        "log: {} ({:.0} s of training)",
        out.join("training.jsonl").display(),
        outcome.seconds
    );
    Ok(())
}

fn evaluate(trainer: &Trainer, path: &Path) -> Result<(), Failure> {
    let weights = trainer.load_weights(path).map_err(Failure::misuse)?;
    let mut bar = Bar::new();
    let evaluation = trainer.evaluate(&weights, &mut bar);
    bar.bar.finish_and_clear();
    let evaluation = evaluation
        .map_err(Failure::failed)?
        .context("the training configuration does not say how to measure; give `/evaluate`")
        .map_err(Failure::Misuse)?;
    print_json(&evaluation)
}

fn words(evaluation: &Evaluation) -> String {
    let miou = evaluation.miou.map_or_else(String::new, |miou| {
        format!(", mean IoU {:.1}%", 100.0 * miou)
    });
    format!(
        "held-out accuracy {:.1}%{miou} (loss {:.4}, {} images)",
        100.0 * evaluation.accuracy,
        evaluation.loss,
        evaluation.samples
    )
}

/// A progress bar with loss and speed.
struct Bar {
    bar: ProgressBar,
    message: String,
    measured: String,
}

impl Bar {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg} eta {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::no_length().with_style(style);
        bar.enable_steady_tick(Duration::from_secs(1));
        Self {
            bar,
            message: String::new(),
            measured: String::new(),
        }
    }
}

impl Observer for Bar {
    fn begin(&mut self, done: usize, steps: usize) {
        self.bar.set_length(steps as u64);
        self.bar.set_position(done as u64);
        self.bar.reset_eta();
    }

    fn step(&mut self, done: usize) {
        self.bar.set_position(done as u64);
    }

    fn progress(&mut self, progress: &Progress) {
        self.message = format!(
            "loss {:.4} {:.0} images/s",
            progress.loss, progress.samples_per_second
        );
        self.bar
            .set_message(format!("{}{}", self.message, self.measured));
    }

    fn measuring(&mut self, done: usize, total: usize) {
        self.bar
            .set_message(format!("{} measuring {done}/{total}", self.message));
    }

    fn measured(&mut self, step: usize, evaluation: &Evaluation) {
        self.measured = format!(" held-out {:.1}%", 100.0 * evaluation.accuracy);
        let text = format!("step {step}: {}", words(evaluation));
        // A bar that nobody sees, as in a file, prints nothing.
        if self.bar.is_hidden() {
            say!("{text}")
        } else {
            self.bar.println(text)
        }
    }
}

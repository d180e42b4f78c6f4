//! `dtta compare`: methods side by side, on the same samples and seeds.

mod formats;
mod tables;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use dtta::{
    CompareOptions, Comparison, ComparisonPlan, Devices, Error, Extensions, PlanOptions, Prepared,
    RunName, Shard, Sink, Summary, TuningPlan, Watch, compare_runs,
};
use dtta_base::{file_name, told};
use dtta_plugin::ScoreSpec;
use indicatif::{HumanDuration, ProgressBar};

use self::formats::Format;
use crate::cluster::Share;
use crate::data::tell_left_out;
use crate::experiment::{Places, extensions};
use crate::run::{Bar, Pace, refused, stops};
use crate::say::say;
use crate::store::expect_folder;
use crate::{Failure, SKIPPED, print_json, table};

/// What to compare, and how.
#[derive(Args)]
pub struct Arguments {
    /// A comparison file, experiments whose names differ, or folders of finished runs.
    #[arg(required = true, value_name = "FILE|RUN")]
    what: Vec<PathBuf>,
    /// Seeds to run each method with; their samples are pooled. Those of the file, or the experiment's, if absent.
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    seeds: Option<Vec<u64>>,
    /// Overrides a value of every method, such as `data.stream.samples=20`.
    #[arg(long, value_name = "POINTER=VALUE")]
    set: Vec<String>,
    /// Runs every method that has the place with each of the values (the reference as it is, too), such as `/method/draws=8,30`.
    #[arg(long, value_name = "POINTER=V1,V2")]
    sweep: Vec<String>,
    /// The method that the others are held against, beside the source model.
    #[arg(long, value_name = "METHOD")]
    reference: Option<String>,
    /// Tries the settings under `tuning` of a comparison file, and writes one with the best, `tuned.json`.
    #[arg(long, conflicts_with_all = ["sweep", "reference", "shard"])]
    tune: bool,
    /// Folder for runs and `comparison.json`; `runs/compare-NAME` if absent.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Runs shard I of N of every run, counting from 0 (or `auto`), and prints no table. The same call without it puts the shards together.
    #[arg(long, value_name = "I/N")]
    shard: Option<Share>,
    #[command(flatten)]
    pace: Pace,
    /// Adapts to one batch of each method, discards the result, and estimates the time of all runs.
    #[arg(long)]
    dry_run: bool,
    /// Replaces runs of other experiments in the folder.
    #[arg(long)]
    force: bool,
    /// How the table is printed. `json` is all there is, as in `comparison.json`.
    #[arg(long, value_enum, default_value = "md")]
    format: Format,
    /// Shows domains in `csv` and `latex` too, not their mean alone.
    #[arg(long)]
    domains: bool,
    #[command(flatten)]
    places: Places,
}

/// How long a dry run reads samples of each method.
const READING: Duration = Duration::from_secs(1);

/// Runs what is to be compared, and prints the table.
pub fn compare(arguments: &Arguments) -> Result<ExitCode, Failure> {
    if let Some(out) = &arguments.out {
        expect_folder(out)?;
    }
    let extensions = extensions();
    let devices = arguments.places.devices()?;
    let folders = arguments.what.iter().filter(|path| path.is_dir()).count();
    if folders == 0 {
        return match arguments.tune {
            true => tune(arguments, &extensions, &devices),
            false => run(arguments, &extensions, &devices),
        };
    }
    let refuse = |message: &str| Err(Failure::Misuse(anyhow!("{message}")));
    if folders < arguments.what.len() {
        return refuse("runs are compared with runs, and files with files");
    }
    if arguments.runs_something() {
        return refuse(
            "finished runs are compared as they are; of the options, `--format`, `--domains` and `--device` apply",
        );
    }
    if folders < 2 {
        return refuse("one run is compared with another; give two folders");
    }
    let comparison = compare_runs(&arguments.what, &extensions, &devices.task).map_err(refused)?;
    arguments.print(&comparison)
}

fn run(
    arguments: &Arguments,
    extensions: &Extensions,
    devices: &Devices,
) -> Result<ExitCode, Failure> {
    let plan = ComparisonPlan::load(&arguments.what, &arguments.changes(), &extensions.methods);
    let plan = plan.map_err(Failure::misuse)?;
    if arguments.dry_run {
        return rehearse(&plan, extensions, devices);
    }
    let out = arguments.out(plan.name());
    let options = arguments.options(&out)?;
    let mut told = Told::new(&plan, devices);
    if !options.shard.is_whole() {
        let failed = plan.run(&options, extensions, devices, &mut told);
        let failed = failed.map_err(stopped)?.len();
        say!("shard {} of every run: {}", options.shard, out.display());
        return Ok(match failed {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        });
    }
    let comparison = plan.compare(&options, extensions, devices, &mut told);
    let comparison = comparison.map_err(stopped)?;
    say!("runs and comparison.json: {}", out.display());
    arguments.print(&comparison)
}

fn tune(
    arguments: &Arguments,
    extensions: &Extensions,
    devices: &Devices,
) -> Result<ExitCode, Failure> {
    let [path] = &arguments.what[..] else {
        let message = "`--tune` takes one comparison file";
        return Err(Failure::Misuse(anyhow!("{message}")));
    };
    let plan = TuningPlan::load(path, &arguments.changes(), &extensions.methods);
    let plan = plan.map_err(Failure::misuse)?;
    if arguments.dry_run {
        return rehearse(plan.plan(), extensions, devices);
    }
    let out = arguments.out(plan.name());
    let options = arguments.options(&out)?;
    let mut told = Told::new(plan.plan(), devices);
    let found = plan.tune(&options, extensions, devices, &mut told);
    let found = found.map_err(stopped)?;
    for (name, tuned) in &found.tuned_on.methods {
        say!("{name}: setting {} of {}", tuned.chosen, tuned.tried.len());
    }
    say!("compare with: dtta compare {}", found.file.display());
    arguments.print(&found.comparison)
}

/// Says what all runs of a plan would take, if each batch takes as long as the first.
fn rehearse(
    plan: &ComparisonPlan,
    extensions: &Extensions,
    devices: &Devices,
) -> Result<ExitCode, Failure> {
    let seeds = plan.seeds().len();
    say!(
        "{}: {seeds} runs of each method on {}",
        plan.name(),
        devices.name()
    );
    let found = plan
        .rehearse(extensions, devices, READING)
        .map_err(refused)?;
    let mut total = 0.0;
    for (name, found) in &found {
        let all = seeds as f64 * found.seconds;
        total += all;
        say!(
            "{name}: {:.0} ms per sample, about {}",
            1e3 * found.seconds / found.samples as f64,
            HumanDuration(Duration::from_secs(all.ceil() as u64)),
        );
    }
    let total = HumanDuration(Duration::from_secs(f64::ceil(total) as u64));
    say!("all: about {total}; no problems found");
    Ok(ExitCode::SUCCESS)
}

/// A comparison that was stopped goes on by the same call.
fn stopped(error: Error) -> Failure {
    match error {
        Error::Interrupted { .. } => {
            Failure::Again(anyhow!("interrupted; the same command goes on from here"))
        }
        error => refused(error),
    }
}

impl Arguments {
    fn changes(&self) -> PlanOptions {
        PlanOptions {
            seeds: self.seeds.clone(),
            set: self.set.clone(),
            sweep: self.sweep.clone(),
            reference: self.reference.clone(),
        }
    }

    /// Whether it asks for what finished runs cannot give any more.
    fn runs_something(&self) -> bool {
        self.seeds.is_some()
            || self.out.is_some()
            || self.shard.is_some()
            || self.reference.is_some()
            || self.tune
            || self.force
            || self.dry_run
            || self.pace.keeps()
            || !(self.set.is_empty() && self.sweep.is_empty())
    }

    fn out(&self, name: &str) -> PathBuf {
        let standard = || Path::new("runs").join(file_name(&format!("compare-{name}")));
        self.out.clone().unwrap_or_else(standard)
    }

    fn options(&self, out: &Path) -> Result<CompareOptions<'static>, Failure> {
        Ok(CompareOptions {
            shard: self.shard.map_or(Ok(Shard::whole()), Share::shard)?,
            force: self.force,
            checkpoint_every: self.pace.checkpoint_every()?,
            keep: self.pace.keep()?,
            ..CompareOptions::new(out, stops(true)?)
        })
    }

    /// Prints the table. Failed runs and skipped samples show in the exit code.
    fn print(&self, comparison: &Comparison) -> Result<ExitCode, Failure> {
        match self.format {
            Format::Json => print_json(comparison)?,
            format => crate::print(&format.text(comparison, self.domains))?,
        }
        let skipped = comparison
            .methods
            .iter()
            .any(|method| method.mean.skipped > 0);
        Ok(match comparison.failed.is_empty() {
            false => ExitCode::FAILURE,
            true if skipped => ExitCode::from(SKIPPED),
            true => ExitCode::SUCCESS,
        })
    }
}

/// Tells of each run as it ends, under a bar for the one at work.
struct Told {
    runs: Vec<RunName>,
    bar: Option<ProgressBar>,
    /// Datasets of which was told what they leave out.
    datasets: BTreeSet<PathBuf>,
}

impl Told {
    fn new(plan: &ComparisonPlan, devices: &Devices) -> Self {
        let runs: Vec<RunName> = plan.runs().collect();
        say!("{}: {} runs on {}", plan.name(), runs.len(), devices.name());
        Self {
            runs,
            bar: None,
            datasets: BTreeSet::new(),
        }
    }
}

impl Watch for Told {
    fn starts(&mut self, run: &RunName, prepared: &Prepared) -> Vec<Box<dyn Sink>> {
        for dataset in prepared.stream().datasets() {
            if self.datasets.insert(dataset.location().into()) {
                tell_left_out(dataset.location(), dataset.left_out());
            }
        }
        let bar = Bar::of(&run.to_string());
        self.bar = Some(bar.progress());
        vec![Box::new(bar)]
    }

    fn ends(&mut self, run: &RunName, outcome: Result<&Summary, &Error>) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let number = self.runs.iter().position(|other| other == run);
        let place = format!("[{}/{}]", number.map_or(0, |n| n + 1), self.runs.len());
        match outcome {
            Err(error) => say!("{place} {run} failed: {}", told(error)),
            Ok(summary) => {
                let name = &summary.metric;
                let (factor, digits) = table::shown(ScoreSpec::of(&summary.scores, name));
                let score = |scores: &dtta::Scores| {
                    let score = scores.get(name);
                    score.map_or("-".into(), |score| format!("{:.digits$}", factor * score))
                };
                let skipped = match summary.skipped {
                    0 => String::new(),
                    skipped => format!(", {skipped} samples skipped"),
                };
                say!(
                    "{place} {run}: {name} {} -> {}, {:.3} s/image{skipped}",
                    score(&summary.mean.source),
                    score(&summary.mean.adapted),
                    summary.seconds_per_sample
                );
            }
        }
        // What a run leaves free would count as the next one's memory.
        // SAFETY: gives back memory that nobody holds.
        unsafe { libmimalloc_sys::mi_collect(true) };
    }
}

//! `dtta run`: an experiment from file to table.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use dtta::{
    EventFile, Existing, Finished, Keep, Rehearsal, Remedy, RunOptions, Shard, Sink, Start, Summary,
};
use dtta_base::{file_name, in_bytes};
use dtta_plugin::ScoreSpec;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use crate::cluster::Share;
use crate::experiment::Opening;
use crate::say::say;
use crate::store::Store;
use crate::{AGAIN, Failure, SKIPPED, plan, stop, table};

/// What to run, and how.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    opening: Opening,
    /// Folder for records and report; `runs/NAME` if absent, for a shard `runs/NAME-3-of-8`. Or a place in an object store, such as
    /// `s3://bucket/part-3`, where the run is put when it is finished.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Folder on a local disk where a run for an object store is made; that of a run without `--out` if absent.
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Runs shard I of N, counting from 0, or goes on with it; `auto` is what Slurm, Kubernetes, SkyPilot or torchrun say. Combine the shards
    /// with `dtta merge`.
    #[arg(long, value_name = "I/N")]
    shard: Option<Share>,
    #[command(flatten)]
    pace: Pace,
    /// Says which files are missing and what the run takes. If none is, adapts to one batch and discards the result, reads samples for a
    /// while, and estimates the time of the run.
    #[arg(long)]
    dry_run: bool,
    /// Also writes scores so far, losses and times into the run's folder, in the form that a viewer opens: `tensorboard`.
    #[arg(long, value_name = "FORM", hide_possible_values = true)]
    log: Vec<Log>,
    /// Continues an interrupted run in its folder.
    #[arg(long)]
    resume: bool,
    /// Replaces an earlier run in the folder.
    #[arg(long, conflicts_with = "resume")]
    force: bool,
}

/// What a run does beside its experiment.
#[derive(Args)]
pub struct Pace {
    /// Time between two checkpoints.
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
    checkpoint_every: f64,
    /// Keeps what `models.encoder` makes of images and text encoders of prompts in a folder, and takes what is there, so that other runs do not
    /// encode the same again. Results are the same.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// What the files in that folder may take in all, about.
    #[arg(long, value_name = "GB", default_value_t = 20.0, requires = "keep")]
    keep_max: f64,
}

impl Pace {
    /// Time between two checkpoints.
    pub fn checkpoint_every(&self) -> Result<Duration, Failure> {
        Duration::try_from_secs_f64(self.checkpoint_every).map_err(Failure::misuse)
    }

    /// Whether what encoders make is kept.
    pub fn keeps(&self) -> bool {
        self.keep.is_some()
    }

    /// Where it is kept.
    pub fn keep(&self) -> Result<Option<Keep>, Failure> {
        let Some(folder) = &self.keep else {
            return Ok(None);
        };
        let most = self.keep_max * 1e9;
        if most.is_nan() || most < 0.0 {
            let found = self.keep_max;
            return Err(Failure::Misuse(anyhow!(
                "--keep-max is {found}, expected a number of at least 0"
            )));
        }
        Ok(Some(Keep {
            folder: folder.clone(),
            max_bytes: most as u64,
        }))
    }
}

/// What else a run may write.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Log {
    // Not told by the help, which has one line for each option.
    Tensorboard,
}

/// How long a dry run reads samples.
const READING: Duration = Duration::from_secs(10);

static STOP: AtomicBool = AtomicBool::new(false);

/// Whether there is work that ends at a batch. Before, nothing is lost.
static AT_WORK: AtomicBool = AtomicBool::new(false);

/// Time for a run to end by itself, with a checkpoint, once its plugins were interrupted.
const GRACE: Duration = Duration::from_millis(1500);

/// Runs an experiment.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    if arguments.dry_run {
        let plan = arguments.opening.plan()?;
        say!("{}", plan::in_words(&plan));
        if !plan.missing.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let shard = arguments.shard.map_or(Ok(Shard::whole()), Share::shard)?;
    let store = arguments.store()?;
    let stop = stops(false)?;
    let keep = match arguments.dry_run {
        true => None,
        false => arguments.pace.keep()?,
    };
    let mut prepared = arguments.opening.prepare(keep.as_ref())?;
    let samples = prepared.stream().len();
    let domains = prepared.stream().domains().len();
    let name = prepared.experiment().name.clone();
    let part = match shard.is_whole() {
        true => String::new(),
        false => format!(", shard {shard}"),
    };
    say!(
        "{name}: {samples} samples in {domains} domains on {}{part}",
        prepared.devices().name()
    );
    let devices = prepared.devices().name();
    if let Some(words) = arguments.shard.and_then(|share| share.crowded(&devices)) {
        log::warn!("{words}");
    }
    if arguments.dry_run {
        let found = prepared.rehearse(shard, READING);
        say!("{}", rehearsed(&found.map_err(refused)?));
        return Ok(ExitCode::SUCCESS);
    }
    let out = match &store {
        Some(_) => &arguments.scratch,
        None => &arguments.out,
    };
    let out = out.clone().unwrap_or_else(|| default_out(&name, shard));
    if let Some(store) = &store {
        if store.holds(&prepared.description(shard).map_err(refused)?)? {
            say!("finished already in {store}; nothing was computed");
            return Ok(ExitCode::SUCCESS);
        }
        store.expect_writable()?;
    }
    // Who gives a shard, be it the only one, or an object store expects that it goes on.
    let goes_on = arguments.resume || arguments.shard.is_some() || store.is_some();
    let options = RunOptions {
        existing: match (arguments.force, goes_on) {
            (true, _) => Existing::Replace,
            (_, true) => Existing::Resume,
            _ => Existing::Keep,
        },
        shard,
        checkpoint_every: arguments.pace.checkpoint_every()?,
        ..RunOptions::new(&out, stop)
    };
    let bar = Bar::of("");
    let progress = bar.progress();
    let mut sinks: Vec<Box<dyn Sink>> = vec![Box::new(Begins), Box::new(bar)];
    if arguments.log.contains(&Log::Tensorboard) {
        sinks.push(Box::new(EventFile::default()));
    }
    let outcome = prepared.run(&options, sinks);
    progress.finish_and_clear();
    let summary = outcome.map_err(refused)?;
    let computed = AT_WORK.load(Ordering::Relaxed);
    if !computed {
        say!("finished already; nothing was computed");
    }
    let code = match store {
        Some(store) => {
            commit(&store, &out, stop)?;
            report(&summary, store)
        }
        None => report(&summary, out.display()),
    };
    Ok(if computed { code } else { ExitCode::SUCCESS })
}

impl Arguments {
    /// The place of `--out` in an object store, if it is one.
    fn store(&self) -> Result<Option<Store>, Failure> {
        if let Some(scratch) = &self.scratch {
            dtta_base::expect_folder(scratch).map_err(Failure::misuse)?;
        }
        let store = match &self.out {
            Some(out) => Store::at(out)?,
            None => None,
        };
        let refused = match &store {
            None if self.scratch.is_some() => {
                "--scratch is where a run is made for an object store, and --out is none; leave it out"
            }
            Some(_) if self.force => {
                "--force replaces a run in a folder, and --out is in an object store, where a finished run stays; give another place"
            }
            _ => return Ok(store),
        };
        Err(Failure::Misuse(anyhow!(refused)))
    }
}

/// Puts a finished run where it belongs.
pub fn commit(store: &Store, folder: &Path, stop: &AtomicBool) -> Result<(), Failure> {
    if !store.upload(folder, stop)? {
        say!("{store} was finished before, by another process; what is there stays");
    }
    Ok(())
}

/// Notices that samples are about to be computed.
struct Begins;

impl Sink for Begins {
    fn start(&mut self, _start: &Start<'_>) -> dtta::Result<()> {
        AT_WORK.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn sample(&mut self, _finished: &Finished<'_>) -> dtta::Result<()> {
        Ok(())
    }
}

/// What is set once a user, or a scheduler, asks to stop. The second time, plugins are interrupted. Where work has not begun, the process
/// ends at once.
pub fn stops(at_work: bool) -> Result<&'static AtomicBool, Failure> {
    AT_WORK.store(at_work, Ordering::Relaxed);
    ctrlc::set_handler(|| {
        if !AT_WORK.load(Ordering::Relaxed) {
            say!("stopped before the first batch; the same command begins again");
            stop::now(AGAIN);
        }
        if STOP.swap(true, Ordering::Relaxed) {
            dtta_plugin::interrupt();
            stop::at_the_latest(GRACE);
        } else {
            say!("stopping after this batch; press Ctrl-C again to interrupt a running plugin");
        }
    })
    .map_err(Failure::failed)?;
    Ok(&STOP)
}

/// Prints a summary. Skipped samples show in the exit code.
pub fn report(summary: &Summary, out: impl Display) -> ExitCode {
    table::print(summary);
    say!("records and report data: {out}");
    match summary.skipped {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(SKIPPED),
    }
}

/// How a command ends that fails so.
pub fn refused(error: dtta::Error) -> Failure {
    match error.remedy() {
        Remedy::Mend => Failure::misuse(error),
        Remedy::TryAgain => Failure::again(error),
        Remedy::None => Failure::failed(error),
    }
}

/// What a dry run found, for people.
fn rehearsed(found: &Rehearsal) -> String {
    let each = 1e3 * found.seconds / found.samples as f64;
    let memory = found.peak_memory_bytes.map_or(String::new(), |bytes| {
        format!(", {} of memory so far", in_bytes(bytes))
    });
    let left = match found.samples - found.read {
        0 => "all samples were read without errors".to_owned(),
        left => format!(
            "{} samples were read without errors, {left} were not read",
            found.read
        ),
    };
    let round = Duration::from_secs(found.seconds.ceil() as u64);
    format!(
        "adapted to one batch of {} and discarded the result: {each:.0} ms per sample, about {} for {} samples{memory}\n{left}; no problems found",
        found.adapted,
        HumanDuration(round),
        found.samples,
    )
}

fn default_out(name: &str, shard: Shard) -> PathBuf {
    let mut folder = file_name(name);
    if !shard.is_whole() {
        folder += &format!("-{}-of-{}", shard.index(), shard.count());
    }
    PathBuf::from("runs").join(folder)
}

/// A progress bar with the current domain's leading score before and after.
pub struct Bar(ProgressBar, Vec<ScoreSpec>);

impl Bar {
    /// Of a run by its name, or of the only one.
    pub fn of(name: &str) -> Self {
        let template = match name {
            "" => "{wide_bar} {pos}/{len} {msg} eta {eta}",
            _ => "{prefix} {wide_bar} {pos}/{len} {msg} eta {eta}",
        };
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(0).with_style(style);
        Self(bar.with_prefix(name.to_owned()), Vec::new())
    }

    /// What is drawn, to end it.
    pub fn progress(&self) -> ProgressBar {
        self.0.clone()
    }
}

impl Sink for Bar {
    fn start(&mut self, start: &Start<'_>) -> dtta::Result<()> {
        self.0.set_length(start.total as u64);
        self.0.set_position(start.done as u64);
        self.0.reset_eta();
        self.1.clone_from(&start.run.scores);
        Ok(())
    }

    fn sample(&mut self, finished: &Finished<'_>) -> dtta::Result<()> {
        self.0.set_position(finished.done as u64);
        let [source, adapted] = finished.so_far;
        let lead = self.1.iter().find(|spec| spec.leads);
        let name = lead.map(|spec| &*spec.name);
        let name = name.or_else(|| source.keys().next().map(String::as_str));
        let spec = name.and_then(|name| ScoreSpec::of(&self.1, name));
        let (factor, digits) = table::shown(spec);
        let shown = |scores: &dtta::Scores| {
            let score = name.and_then(|name| scores.get(name));
            score.map_or("-".into(), |score| format!("{:.digits$}", factor * score))
        };
        self.0.set_message(format!(
            "{} {} -> {}",
            finished.record.domain,
            shown(source),
            shown(adapted)
        ));
        Ok(())
    }
}

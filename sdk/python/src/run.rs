//! Experiments, as the command runs them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dtta::{
    Devices, Document, Existing, Extensions, Finished, Prepared, RunOptions, Shard, Sink, Start,
};
use dtta_base::{Overrides, file_name};
use dtta_cli::Share;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::fault::{self, Raised};
use crate::{function, json, network};

/// An experiment: a file, or an object of JSON with paths that start in the working folder.
fn document(
    experiment: &Bound<'_, PyAny>,
    overrides: &[String],
    extensions: &Extensions,
) -> PyResult<Document> {
    let py = experiment.py();
    let methods = &extensions.methods;
    let found = match experiment.extract::<PathBuf>() {
        Ok(path) => Document::load(&path, overrides, methods),
        Err(_) => {
            let mut value = json::value(experiment)?;
            let mut set = Overrides::default();
            let put = overrides
                .iter()
                .try_for_each(|text| set.set(&mut value, text));
            put.map_err(dtta::Error::from)
                .and_then(|()| Document::parse(Path::new("experiment"), value, methods))
        }
    };
    found.map_err(|error| fault::of(py, &error))
}

/// Holds an experiment to its schema and to itself, with every fault at once; nothing is loaded.
#[pyfunction]
#[pyo3(signature = (experiment, overrides))]
pub fn validate(experiment: &Bound<'_, PyAny>, overrides: Vec<String>) -> PyResult<()> {
    document(experiment, &overrides, &dtta_cli::extensions()).map(drop)
}

/// Runs an experiment into a folder; answers the folder, and its summary as JSON.
#[pyfunction]
#[pyo3(signature = (experiment, overrides, *, out, existing, shard, checkpoint_every, device, denoiser_device, backbone, denoiser, mapper, metric, progress, stopping))]
#[expect(clippy::too_many_arguments, reason = "the options of a run, by name")]
pub fn run(
    experiment: &Bound<'_, PyAny>,
    overrides: Vec<String>,
    out: Option<PathBuf>,
    existing: &str,
    shard: Option<&str>,
    checkpoint_every: f64,
    device: &str,
    denoiser_device: Option<&str>,
    backbone: Option<&Bound<'_, PyAny>>,
    denoiser: Option<&Bound<'_, PyAny>>,
    mapper: Option<&Bound<'_, PyAny>>,
    metric: Option<&Bound<'_, PyAny>>,
    progress: Option<Py<PyAny>>,
    stopping: Py<PyAny>,
) -> PyResult<(PathBuf, String)> {
    let py = experiment.py();
    let refuse = |message: String| PyValueError::new_err(message);
    let raised = Raised::default();
    let mut extensions = dtta_cli::extensions();
    if let Some(backbone) = backbone {
        let own = network::Backbone::new(backbone, raised.clone())?.own();
        extensions.own.backbone = Some(own);
    }
    if let Some(denoiser) = denoiser {
        let own = network::Denoiser::new(denoiser, raised.clone())?.own();
        extensions.own.denoiser = Some(own);
    }
    if let Some(mapper) = mapper {
        extensions.own.mapper = Some(function::mapper(mapper, &raised)?);
    }
    if let Some(metric) = metric {
        extensions.own.metric = Some(function::metric(metric, &raised)?);
    }
    let document = document(experiment, &overrides, &extensions)?;
    let parse = |name: &str| {
        let parsed = name.parse::<dtta_tensor::Device>();
        parsed.map_err(|error| refuse(error.to_string()))
    };
    let mut devices = Devices::from(parse(device)?);
    if let Some(name) = denoiser_device {
        devices.denoiser = parse(name)?;
    }
    let shard = match shard.map(str::parse::<Share>) {
        Some(share) => {
            let shard = share.map_err(refuse)?.shard();
            shard.map_err(|error| refuse(format!("shard is `auto`: {error}")))?
        }
        None => Shard::whole(),
    };
    let existing = match existing {
        "keep" => Existing::Keep,
        "resume" => Existing::Resume,
        "replace" => Existing::Replace,
        other => {
            let message = format!("existing is `{other}`, expected `keep`, `resume` or `replace`");
            return Err(refuse(message));
        }
    };
    let checkpoint_every = Duration::try_from_secs_f64(checkpoint_every)
        .map_err(|error| refuse(format!("checkpoint_every: {error}")))?;
    let out = out.unwrap_or_else(|| default_out(&document.experiment.name, shard));
    let stop = AtomicBool::new(false);
    let outcome = py.detach(|| {
        let mut prepared = Prepared::new(document, &extensions, devices)?;
        let options = RunOptions {
            existing,
            shard,
            checkpoint_every,
            ..RunOptions::new(&out, &stop)
        };
        let watch = Watch {
            progress,
            stopping: &stopping,
            stop: &stop,
            raised: &raised,
            total: 0,
            told: None,
        };
        prepared.run(&options, vec![Box::new(watch)])
    });
    let summary = match outcome {
        // The caller knows what was asked.
        Err(dtta::Error::Interrupted { .. }) if !raised.is_there() => {
            return Ok((out, String::new()));
        }
        outcome => outcome.map_err(|error| raised.or(py, &error))?,
    };
    // A mapper or a metric may have raised, and its batch have been skipped.
    if let Some(error) = raised.of(PROGRESS) {
        return Err(error);
    }
    Ok((out, serde_json::json!(summary).to_string()))
}

/// Where the command writes to as well.
fn default_out(name: &str, shard: Shard) -> PathBuf {
    let mut folder = file_name(name);
    if !shard.is_whole() {
        folder += &format!("-{}-of-{}", shard.index(), shard.count());
    }
    PathBuf::from("runs").join(folder)
}

/// Where exceptions of progress and of signals are raised.
const PROGRESS: &str = "progress";

/// Time between two words of progress.
const EVERY: Duration = Duration::from_millis(100);

/// Tells Python of progress, and hears it: a signal, or whatever the callable raises, ends the run after the batch.
struct Watch<'a> {
    progress: Option<Py<PyAny>>,
    /// Whether a signal asked to stop, which handlers in Python hear.
    stopping: &'a Py<PyAny>,
    stop: &'a AtomicBool,
    raised: &'a Raised,
    total: usize,
    told: Option<Instant>,
}

impl Watch<'_> {
    fn tell(&mut self, done: usize, domain: &str) {
        let is_due = self.told.is_none_or(|told| told.elapsed() >= EVERY);
        let due = is_due || done == self.total;
        let heard = Python::attach(|py| {
            py.check_signals()?;
            if let (Some(progress), true) = (&self.progress, due) {
                progress.call1(py, (done, self.total, domain))?;
            }
            if self.stopping.call0(py)?.is_truthy(py)? {
                self.stop.store(true, Ordering::Relaxed);
            }
            Ok(())
        });
        if due {
            self.told = Some(Instant::now());
        }
        if let Err(error) = heard {
            Python::attach(|py| self.raised.keep(py, PROGRESS, error));
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

impl Sink for Watch<'_> {
    fn start(&mut self, start: &Start<'_>) -> dtta::Result<()> {
        self.total = start.total;
        self.tell(start.done, "");
        Ok(())
    }

    fn sample(&mut self, finished: &Finished<'_>) -> dtta::Result<()> {
        self.tell(finished.done, &finished.record.domain);
        Ok(())
    }
}

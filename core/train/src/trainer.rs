//! The run: opens what a configuration names, repeats the step, and writes log, checkpoints and weights.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use dtta_base::{FolderLock, remove, sha256, sha256_file};
use dtta_data::{Dataset, LeftOut};
use dtta_learn::{Draws, Masks};
use dtta_models::{Backbone, Denoiser, Models, NoiseSchedule, TimeRange, Weights};
use dtta_tensor::{Device, Tensor};
use serde_json::json;

use crate::averaged::Averaged;
use crate::checkpoint::{Identity, TrainingCheckpoint};
use crate::config::{ClassifierTask, DenoiserTask, EvaluationDraws, TaskConfig, TrainingConfig};
use crate::data::{Examples, TrainingData, held_out};
use crate::error::{Error, Result};
use crate::evaluate::{
    DiffusionClassifierOptions, Evaluation, classifier_accuracy, diffusion_classifier,
};
use crate::evaluate_maps::{distance_accuracy, number_accuracy, own_map_accuracy, pixel_accuracy};
use crate::lesson::{ClassDenoiser, Lesson, MapDenoiser, training_draws};
use crate::log::Log;

/// Images in one forward pass while a classifier is measured.
const EVALUATION_ROWS: usize = 256;

/// Hears of a run as it goes. `()` does not listen.
pub trait Observer {
    /// Training begins, or continues after `done` of so many steps.
    fn begin(&mut self, _done: usize, _steps: usize) {}
    /// A step is finished; its loss is not known yet.
    fn step(&mut self, _done: usize) {}
    /// Some steps were logged.
    fn progress(&mut self, _progress: &Progress) {}
    /// So many held-out images of `total` are measured.
    fn measuring(&mut self, _done: usize, _total: usize) {}
    /// A measurement is finished.
    fn measured(&mut self, _step: usize, _evaluation: &Evaluation) {}
}

impl Observer for () {}

/// The last logged steps of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Mean loss since the last time.
    pub loss: f64,
    /// Mean norm of the gradients before clipping since the last time, where they are clipped.
    pub gradient_norm: Option<f64>,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Training images a second since the last time, without evaluations and checkpoints.
    pub samples_per_second: f64,
}

/// Where and how to run.
pub struct RunOptions<'a> {
    /// The folder for the log and the checkpoint.
    pub out: PathBuf,
    /// The file for the weights; the configuration's if absent.
    pub weights: Option<PathBuf>,
    /// Continue from the folder's checkpoint; from the beginning if it has none.
    pub resume: bool,
    /// Replace an earlier run in the folder.
    pub force: bool,
    /// Set from outside to stop after the current step, with a checkpoint.
    pub stop: &'a AtomicBool,
}

/// A finished run.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Where the weights are.
    pub weights: PathBuf,
    /// The last measurement, where there is one.
    pub evaluation: Option<Evaluation>,
    /// Time in training steps, over all parts of the run.
    pub seconds: f64,
}

/// A training run that is ready.
pub struct Trainer {
    config: TrainingConfig,
    base: PathBuf,
    device: Device,
    lesson: Lesson,
    data: TrainingData,
    held_out: Option<Examples>,
    left_out: Vec<(PathBuf, LeftOut)>,
    averaged: Averaged,
}

fn told(dataset: &Dataset) -> (PathBuf, LeftOut) {
    (dataset.location().to_owned(), dataset.left_out().clone())
}

/// Loss and norms since the last line of the log, kept on the device until then.
#[derive(Default)]
struct Window {
    loss: Option<Tensor>,
    norm: Option<Tensor>,
    steps: usize,
}

impl Trainer {
    /// Opens model, data and optimizer. Relative paths start at `base`.
    ///
    /// # Errors
    /// Whatever a file, the model or the data refuses; [`Error::Invalid`] for parts that do not fit each other.
    pub fn prepare(config: TrainingConfig, base: &Path, device: Device) -> Result<Self> {
        let lesson = lesson(&config, &base.join(&config.model))?;
        let data = TrainingData::open(&config.data, base, lesson.takes(), config.seed)?;
        let mut left_out = vec![told(data.dataset())];
        let held_out = match config.evaluate.as_ref().zip(config.data.held_out.as_ref()) {
            Some((evaluate, dataset)) => {
                let (examples, dataset) = held_out(
                    dataset,
                    base,
                    &config.data,
                    &lesson.takes(),
                    (evaluate.samples, config.seed),
                    &device,
                )?;
                left_out.push(told(&dataset));
                Some(examples)
            }
            None => None,
        };
        let weights = Weights::initialise(lesson.parameters(), config.seed, &device)?;
        let averaged = Averaged::new(weights, config.optimization.clone());
        Ok(Self {
            base: base.to_owned(),
            device,
            lesson,
            data,
            held_out,
            left_out,
            averaged,
            config,
        })
    }

    /// What is carried out.
    pub fn config(&self) -> &TrainingConfig {
        &self.config
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The averaged weights so far.
    #[expect(
        clippy::misnamed_getters,
        reason = "the average is what is measured and saved; the moving weights are nobody's business"
    )]
    pub fn weights(&self) -> &Weights {
        &self.averaged.average
    }

    /// Number of training images.
    pub fn samples(&self) -> usize {
        self.data.len()
    }

    /// What the folders of training and held-out images hold besides, and why it was not taken.
    pub fn left_out(&self) -> &[(PathBuf, LeftOut)] {
        &self.left_out
    }

    /// The configuration's file for the weights.
    pub fn weights_path(&self) -> PathBuf {
        self.base.join(&self.config.output.weights)
    }

    /// Measures weights on the held-out images; `None` if the configuration has no `evaluate`.
    ///
    /// # Errors
    /// Whatever the model refuses.
    pub fn evaluate(
        &self,
        weights: &Weights,
        observer: &mut dyn Observer,
    ) -> Result<Option<Evaluation>> {
        let Some(held_out) = &self.held_out else {
            return Ok(None);
        };
        let Examples { images, labels, .. } = held_out;
        let total = held_out.len();
        let mut progress = |done: usize| observer.measuring(done, total);
        let found = match &self.lesson {
            Lesson::Classifier { backbone, .. } if backbone.spec().per_pixel => {
                pixel_accuracy(&**backbone, weights, held_out, &mut progress)
            }
            Lesson::Classifier { backbone, .. } => {
                let rows = EVALUATION_ROWS;
                classifier_accuracy(&**backbone, weights, images, labels, rows, &mut progress)
            }
            Lesson::Numbers {
                backbone, range, ..
            } => match range {
                Some(range) => {
                    distance_accuracy(&**backbone, weights, *range, held_out, &mut progress)
                }
                None => number_accuracy(&**backbone, weights, held_out, &mut progress),
            },
            Lesson::ClassDenoiser(lesson) => {
                let EvaluationDraws { draws, range } = lesson.evaluation;
                let range = evaluated(&*lesson.denoiser, range, lesson.draws.range)?;
                let options = DiffusionClassifierOptions::new(draws, range);
                let denoiser = &*lesson.denoiser;
                diffusion_classifier(denoiser, weights, images, labels, &options, &mut progress)
            }
            Lesson::MapDenoiser(lesson) => {
                let EvaluationDraws { draws, range } = lesson.evaluation;
                let range = evaluated(&*lesson.denoiser, range, lesson.draws.range)?;
                own_map_accuracy(lesson, weights, held_out, draws, range, &mut progress)
            }
        };
        found.map(Some)
    }

    /// Reads saved weights of the configuration's model.
    ///
    /// # Errors
    /// As [`Weights::load`].
    pub fn load_weights(&self, path: &Path) -> Result<Weights> {
        Ok(Weights::load(path, self.lesson.parameters(), &self.device)?)
    }

    /// Trains to the end and saves the averaged weights.
    ///
    /// # Errors
    /// [`Error::OutputExists`] or [`Error::Resume`] for a folder that does not suit the options, [`Error::Interrupted`] when stopped,
    /// [`Error::Diverged`], and whatever files, data or the device refuse.
    pub fn run(
        &mut self,
        options: &RunOptions<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Outcome> {
        let out = &options.out;
        let _lock = FolderLock::take(out)?;
        let identity = self.identity()?;
        let weights = options
            .weights
            .clone()
            .unwrap_or_else(|| self.weights_path());
        let mut seconds = 0.0;
        let mut evaluation = None;
        let mut kept = None;
        if options.resume {
            let averaged = &mut self.averaged;
            let found = TrainingCheckpoint::restore(out, &identity, averaged, &self.device)?;
            if let Some(found) = found {
                (seconds, evaluation) = (found.seconds, found.evaluation);
                kept = Some(found.step);
            }
        } else if TrainingCheckpoint::exists(out) {
            if !options.force {
                return Err(Error::OutputExists { path: out.clone() });
            }
            TrainingCheckpoint::remove(out)?;
            Log::remove(out)?;
            // Weights elsewhere are nobody's until this run's replace them.
            if weights.parent() == Some(out) {
                remove(&weights)?;
            }
        }
        let mut log = Log::open(out, kept)?;
        if kept.is_none() {
            log.write(&self.heading(&identity))?;
            log.sync()?;
            TrainingCheckpoint::save(out, &identity, &self.averaged, (0.0, None))?;
        }
        let TrainingConfig {
            optimization,
            output,
            evaluate,
            ..
        } = &self.config;
        let evaluate_every = evaluate.as_ref().and_then(|evaluate| evaluate.every);
        let (steps, batch) = (optimization.steps, optimization.batch);
        let (log_every, checkpoint_every) = (output.log_every, output.checkpoint_every);
        let due = |step: usize, every: usize| step == steps || step.is_multiple_of(every);

        observer.begin(self.averaged.step, steps);
        let mut window = Window::default();
        let mut started = Instant::now();
        while self.averaged.step < steps {
            let stop = options.stop.load(Ordering::Relaxed);
            if !stop {
                self.step(batch, &mut window)?;
                observer.step(self.averaged.step);
            }
            let step = self.averaged.step;
            let save = stop || due(step, checkpoint_every);
            let evaluate = !stop && due(step, evaluate_every.unwrap_or(steps));
            // A line before every checkpoint, so that a continued run logs the same losses.
            if window.steps > 0 && (save || evaluate || due(step, log_every)) {
                let images = (window.steps * batch) as f64;
                let (loss, gradient_norm) = window.read()?;
                let elapsed = started.elapsed().as_secs_f64();
                seconds += elapsed;
                if !loss.is_finite() {
                    return Err(Error::Diverged { step, loss });
                }
                let progress = Progress {
                    step,
                    steps,
                    loss,
                    gradient_norm,
                    learning_rate: self.averaged.learning_rate(step - 1),
                    samples_per_second: images / elapsed,
                };
                log.write(&line(&progress, seconds))?;
                observer.progress(&progress);
            }
            if evaluate && let Some(found) = self.evaluate(&self.averaged.average, observer)? {
                log.write(&json!({ "step": step, "evaluation": found }))?;
                observer.measured(step, &found);
                evaluation = Some(found);
            }
            if save {
                log.sync()?;
                let so_far = (seconds, evaluation);
                TrainingCheckpoint::save(out, &identity, &self.averaged, so_far)?;
            }
            if stop {
                return Err(Error::Interrupted { step });
            }
            if window.steps == 0 {
                started = Instant::now();
            }
        }
        self.save(&weights, &identity, evaluation)?;
        Ok(Outcome {
            weights,
            evaluation,
            seconds,
        })
    }

    /// One update.
    fn step(&mut self, size: usize, window: &mut Window) -> Result<()> {
        let batch = self.data.batch(self.averaged.step, size, &self.device)?;
        let leaves = self.averaged.leaves()?;
        let loss = self.lesson.loss(&leaves, &batch, self.averaged.step)?;
        let gradients = loss.value.backward()?;
        let norm = self.averaged.update(&leaves, &gradients, loss.statistics)?;
        window.add(loss.value.detach(), norm)
    }

    /// What determines the weights.
    fn identity(&self) -> Result<Identity> {
        Ok(Identity {
            configuration: sha256(json!(self.config.essence()).to_string().as_bytes()),
            model: sha256_file(&self.base.join(&self.config.model))?,
            data: self.data.digest()?,
            device: self.device.name().to_owned(),
        })
    }

    fn save(&self, path: &Path, identity: &Identity, evaluation: Option<Evaluation>) -> Result<()> {
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            fs::create_dir_all(folder).map_err(|source| dtta_base::Error::Write {
                path: folder.into(),
                source,
            })?;
        }
        let mut metadata = BTreeMap::from([
            ("training_sha256".to_owned(), identity.digest()),
            ("steps".to_owned(), self.averaged.step.to_string()),
        ]);
        if let Some(evaluation) = evaluation {
            metadata.insert("evaluation".into(), json!(evaluation).to_string());
        }
        let precision = self.config.output.precision;
        Ok(self.averaged.average.save(path, precision, &metadata)?)
    }

    fn heading(&self, identity: &Identity) -> serde_json::Value {
        json!({
            "kind": self.config.task.kind(),
            "training_sha256": identity.digest(),
            "identity": identity,
            "device": self.device.name(),
            "parameters": self.averaged.weights.elements(),
            "samples": self.data.len(),
            "version": env!("CARGO_PKG_VERSION"),
            "config": self.config,
        })
    }
}

impl Window {
    fn add(&mut self, loss: Tensor, norm: Option<Tensor>) -> Result<()> {
        let sum = |old: Option<Tensor>, new: Option<Tensor>| match (old, new) {
            (Some(old), Some(new)) => old.add(&new).map(Some),
            (old, new) => Ok(new.or(old)),
        };
        self.loss = sum(self.loss.take(), Some(loss))?;
        self.norm = sum(self.norm.take(), norm)?;
        self.steps += 1;
        Ok(())
    }

    /// The means, which are read from the device; empties the window.
    fn read(&mut self) -> Result<(f64, Option<f64>)> {
        let window = std::mem::take(self);
        let mean =
            |sum: Tensor| -> Result<f64> { Ok(f64::from(sum.item()?) / window.steps as f64) };
        let loss = window.loss.map(mean).transpose()?;
        let norm = window.norm.map(mean).transpose()?;
        Ok((loss.unwrap_or(f64::NAN), norm))
    }
}

fn line(progress: &Progress, seconds: f64) -> serde_json::Value {
    let mut line = json!({
        "step": progress.step,
        "loss": progress.loss,
        "learning_rate": progress.learning_rate,
        "samples_per_second": progress.samples_per_second,
        "seconds": seconds,
    });
    if let Some(norm) = progress.gradient_norm {
        line["gradient_norm"] = json!(norm);
    }
    line
}

/// The model and its loss, as the configuration asks.
fn lesson(config: &TrainingConfig, model: &Path) -> Result<Lesson> {
    let models = Models::standard();
    match &config.task {
        TaskConfig::Denoiser(task) => {
            let denoiser = models.denoiser(model)?;
            let draws = denoiser_draws(config, task, denoiser.schedule())?;
            let target = task.target.clone();
            if let Some(condition) = denoiser.class_condition() {
                if task.range.is_some() {
                    return Err(no_range("the denoiser is told a class"));
                }
                return Ok(Lesson::ClassDenoiser(ClassDenoiser {
                    denoiser,
                    condition,
                    target,
                    draws,
                    evaluation: task.evaluation,
                }));
            }
            let Some(&spatial) = denoiser.spatial() else {
                let message =
                    "the denoiser takes neither a class nor a map; give it a `spatial` map";
                return Err(Error::invalid("/model", message));
            };
            if task.range.is_some() && (spatial.classes.is_some() || spatial.channels != 1) {
                return Err(no_range(
                    "the denoiser's map does not have exactly one channel of numbers",
                ));
            }
            Ok(Lesson::MapDenoiser(MapDenoiser {
                denoiser,
                spatial,
                target,
                range: task.range,
                draws,
                evaluation: task.evaluation,
            }))
        }
        TaskConfig::Classifier(task) => {
            let backbone = models.backbone(model)?;
            if backbone.spec().outputs == 0 {
                let message = "has no classifier that could learn; give it `classes`";
                return Err(Error::invalid("/model", message));
            }
            let class_weights = task.class_weights.clone().unwrap_or_default();
            if !class_weights.is_empty() && class_weights.len() != backbone.spec().outputs {
                let (found, classes) = (class_weights.len(), backbone.spec().outputs);
                let message = format!("has {found} numbers, but the model has {classes} classes");
                return Err(Error::invalid("/task/class_weights", message));
            }
            Ok(Lesson::Classifier {
                target: task.target.clone(),
                smoothing: task.label_smoothing,
                class_weights: class_weights.iter().map(|&weight| weight as f32).collect(),
                reconstruction: reconstruction(config, task, &*backbone)?,
                backbone,
            })
        }
        TaskConfig::Numbers(task) => {
            let backbone = models.backbone(model)?;
            if !backbone.spec().per_pixel {
                let message = "has one output per image; a map of numbers needs a model with outputs per pixel";
                return Err(Error::invalid("/model", message));
            }
            if task.range.is_some() && backbone.spec().outputs != 1 {
                let outputs = backbone.spec().outputs;
                let message = format!("distances need a model with 1 output, this has {outputs}");
                return Err(Error::invalid("/model", message));
            }
            Ok(Lesson::Numbers {
                backbone,
                target: task.target.clone(),
                range: task.range,
                gradient_weight: task.gradient_weight,
            })
        }
    }
}

/// The masks that a classifier with a decoder learns to see through.
fn reconstruction(
    config: &TrainingConfig,
    task: &ClassifierTask,
    backbone: &dyn Backbone,
) -> Result<Option<(Masks, f64)>> {
    match (task.reconstruction, backbone.reconstruction()) {
        (None, None) => Ok(None),
        (Some(task), Some(decoder)) => {
            let masks = Masks::new(config.seed, task.mask_ratio, decoder.patches());
            let refuse = |problem| Error::invalid("/task/reconstruction/mask_ratio", problem);
            Ok(Some((masks.map_err(refuse)?, task.weight)))
        }
        (Some(_), None) => {
            let message = "needs a model with a `decoder`, and this one has none";
            Err(Error::invalid("/task/reconstruction", message))
        }
        (None, Some(_)) => {
            let message = "is missing: the model has a `decoder`, which would stay as it starts";
            Err(Error::invalid("/task/reconstruction", message))
        }
    }
}

fn no_range(reason: &str) -> Error {
    Error::invalid("/task/range", format!("is for distances, but {reason}"))
}

/// The times that evaluation draws from: its own, or else those of training.
fn evaluated(
    denoiser: &dyn Denoiser,
    own: Option<[f64; 2]>,
    trained: TimeRange,
) -> Result<TimeRange> {
    let refuse = |problem| Error::invalid("/task/evaluation/range", problem);
    match own {
        Some(_) => denoiser.schedule().range(own).map_err(refuse),
        None => Ok(trained),
    }
}

/// The draws of a denoiser's training, if its schedule has the timesteps.
fn denoiser_draws(
    config: &TrainingConfig,
    task: &DenoiserTask,
    schedule: &NoiseSchedule,
) -> Result<Draws> {
    let of = |pointer: &'static str, range| {
        let range = schedule.range(range);
        range.map_err(|problem| Error::invalid(pointer, problem))
    };
    of("/task/evaluation/range", task.evaluation.range)?;
    let range = of("/task/timesteps/range", task.timesteps.range)?;
    let batch = config.optimization.batch;
    Ok(training_draws(
        config.seed,
        batch,
        task.timesteps.sampler,
        range,
    ))
}

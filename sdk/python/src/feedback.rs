//! The diffusion loss of images under a condition, and its gradient with respect to the condition.

use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use dtta::{Evaluation, FeedbackConfig, FeedbackPart, Request};
use dtta_models::{ClassCondition, NoiseSchedule, ParameterSpec, Slot, SpatialConfig, Weights};
use dtta_tensor::{Device, Named, TensorError};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use serde::de::DeserializeOwned;

use crate::denoiser::{self, Ready};
use crate::dlpack::Tensor;
use crate::{fault, json, network};

/// Draws of timestep and noise through a denoiser. They are a function of seed, id and step: the same for the same three, whatever else
/// is asked for beside them.
#[pyclass(frozen, module = "dtta")]
pub struct Feedback {
    denoiser: Arc<Ready>,
    settings: dtta::Feedback,
}

#[pymethods]
impl Feedback {
    #[new]
    #[pyo3(signature = (denoiser, *, draws=8, timesteps=None, seed=0, micro_batch=32, loss=None, noise=None))]
    fn new(
        denoiser: &Bound<'_, PyAny>,
        draws: usize,
        timesteps: Option<&Bound<'_, PyAny>>,
        seed: u64,
        micro_batch: usize,
        loss: Option<&Bound<'_, PyAny>>,
        noise: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let py = denoiser.py();
        let denoiser = denoiser::ready(denoiser)?;
        let defaults = FeedbackConfig::default();
        let config = FeedbackConfig {
            draws,
            micro_batch,
            timesteps: or("timesteps", timesteps, defaults.timesteps)?,
            seed,
            loss: or("loss", loss, defaults.loss)?,
            noise: or("noise", noise, defaults.noise)?,
        };
        let settings = config.feedback(denoiser.model.schedule());
        let settings = settings.map_err(|error| {
            let raised = &denoiser.raised;
            raised.or(py, &error.into())
        })?;
        Ok(Self { denoiser, settings })
    }

    /// The draws of each image for so many workers, as ranges that `part` takes: as equal as they can be, and fewer where there are fewer
    /// micro-batches.
    fn split<'py>(&self, py: Python<'py>, workers: usize) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let parts = self.settings.split(workers).into_iter();
        parts.map(|draws| python_range(py, draws)).collect()
    }

    /// What some of the draws of each image come to: a range with the step 1 that begins and ends at multiples of `micro_batch`, or at the
    /// end. `sum_parts` makes of parts with all draws what a call answers with.
    #[pyo3(signature = (images, condition, ids, step=0, *, draws))]
    fn part(
        &self,
        images: &Bound<'_, PyAny>,
        condition: &Bound<'_, PyAny>,
        ids: Vec<String>,
        step: usize,
        draws: &Bound<'_, PyAny>,
    ) -> PyResult<Part> {
        let member = |name: &str| draws.getattr(name)?.extract::<usize>();
        let draws = match (member("start"), member("stop"), member("step")) {
            (Ok(start), Ok(stop), Ok(1)) => start..stop,
            _ => {
                let message = format!("draws is {draws}, expected a range such as `range(0, 8)`");
                return Err(PyValueError::new_err(message));
            }
        };
        let part = self.asked(images, condition, &ids, step, |model, weights, request| {
            self.settings.part(model, weights, request, draws)
        });
        part.map(Part)
    }

    /// The loss of each image `[B]`, averaged over draws and elements, and the gradient of their sum with respect to each slot of the
    /// condition.
    #[pyo3(signature = (images, condition, ids, step=0))]
    fn __call__<'py>(
        &self,
        images: &Bound<'py, PyAny>,
        condition: &Bound<'py, PyAny>,
        ids: Vec<String>,
        step: usize,
    ) -> PyResult<Found<'py>> {
        let py = images.py();
        let found = self.asked(images, condition, &ids, step, |model, weights, request| {
            self.settings.evaluate(model, weights, &[], request)
        });
        answer(py, found?)
    }
}

impl Feedback {
    /// Asks the denoiser, without Python's lock.
    fn asked<T: Send>(
        &self,
        images: &Bound<'_, PyAny>,
        condition: &Bound<'_, PyAny>,
        ids: &[String],
        step: usize,
        ask: impl FnOnce(
            &dyn dtta_models::Denoiser,
            &Weights,
            &Request<'_>,
        ) -> Result<T, dtta_learn::Error>
        + Send,
    ) -> PyResult<T> {
        let py = images.py();
        let Ready {
            model,
            weights,
            raised,
        } = &*self.denoiser;
        let images = network::tensor("images", images, &Device::cpu())?;
        let condition = network::condition(condition, &**model)?;
        let stop = AtomicBool::new(false);
        let model = Stoppable {
            model: &**model,
            stop: &stop,
        };
        let work = || {
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            let request = Request {
                ids: &ids,
                images: &images,
                conditioning: &condition,
                step,
            };
            ask(&model, weights, &request).map_err(dtta::Error::from)
        };
        let found = match ids.len() * self.settings.draws.count > self.settings.micro_batch {
            true => heard(py, &stop, work)?,
            false => py.detach(work),
        };
        found.map_err(|error| raised.or(py, &error))
    }
}

/// Time between two looks for signals.
const EVERY: Duration = Duration::from_millis(50);

/// Does what takes long, without Python's lock, and meanwhile hears signals, whose handlers run in Python's main thread alone: where one
/// raises, as Ctrl-C's does, the work is told to stop, and what was raised is the answer.
fn heard<T: Send>(
    py: Python<'_>,
    stop: &AtomicBool,
    work: impl FnOnce() -> T + Send,
) -> PyResult<T> {
    py.detach(|| {
        thread::scope(|scope| {
            let (done, end) = channel::<()>();
            let worker = scope.spawn(move || {
                let _done = done;
                work()
            });
            let mut raised = Ok(());
            // Nothing is sent: the channel closes when the work is over, however that ends.
            while end.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                if raised.is_ok() {
                    raised = Python::attach(|py| py.check_signals());
                    stop.store(raised.is_err(), Ordering::Relaxed);
                }
            }
            let found = worker.join().unwrap_or_else(|panic| resume_unwind(panic));
            raised.map(|()| found)
        })
    })
}

/// A denoiser that is asked nothing more once it is told to stop.
struct Stoppable<'a> {
    model: &'a dyn dtta_models::Denoiser,
    stop: &'a AtomicBool,
}

impl dtta_models::Denoiser for Stoppable<'_> {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        self.model.parameters()
    }

    fn image_shape(&self) -> [usize; 3] {
        self.model.image_shape()
    }

    fn slots(&self) -> &[Slot] {
        self.model.slots()
    }

    fn schedule(&self) -> &NoiseSchedule {
        self.model.schedule()
    }

    fn spatial(&self) -> Option<&SpatialConfig> {
        self.model.spatial()
    }

    fn class_condition(&self) -> Option<ClassCondition> {
        self.model.class_condition()
    }

    fn embed_classes(
        &self,
        weights: &Weights,
        labels: &dtta_tensor::Tensor,
    ) -> dtta_models::Result<dtta_tensor::Tensor> {
        self.model.embed_classes(weights, labels)
    }

    fn predict(
        &self,
        weights: &Weights,
        noisy: &dtta_tensor::Tensor,
        times: &[f64],
        conditioning: &Named,
    ) -> dtta_models::Result<dtta_tensor::Tensor> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(TensorError::Backend {
                op: "feedback",
                message: "it was told to stop".into(),
            }
            .into());
        }
        self.model.predict(weights, noisy, times, conditioning)
    }

    fn constants(&self, weights: &Weights) -> dtta_models::Result<Named> {
        self.model.constants(weights)
    }

    fn unconditional(&self, weights: &Weights) -> dtta_models::Result<Option<Named>> {
        self.model.unconditional(weights)
    }
}

/// Losses and gradients.
type Found<'py> = (Tensor, Bound<'py, PyDict>);

fn answer(py: Python<'_>, found: Evaluation) -> PyResult<Found<'_>> {
    let gradients = denoiser::tensors(py, &found.gradients)?;
    let images = found.losses.len();
    Ok((Tensor::new(found.losses, &[images]), gradients))
}

fn python_range(py: Python<'_>, draws: Range<usize>) -> PyResult<Bound<'_, PyAny>> {
    let range = py.import("builtins")?.getattr("range")?;
    range.call1((draws.start, draws.end))
}

/// Losses and gradients of some of the draws, to be sent to where they are summed: it can be pickled.
#[pyclass(frozen, module = "dtta")]
pub struct Part(FeedbackPart);

#[pymethods]
impl Part {
    /// From what `to_bytes` answered.
    #[staticmethod]
    fn from_bytes(py: Python<'_>, bytes: &[u8]) -> PyResult<Self> {
        let part = FeedbackPart::from_bytes(bytes).map_err(|error| fault::of(py, &error.into()))?;
        Ok(Self(part))
    }

    /// It as bytes: a line of JSON, and 32-bit floats.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.to_bytes())
    }

    /// The draws of each image that it has.
    #[getter]
    fn draws<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        python_range(py, self.0.draws())
    }

    fn __reduce__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let made = py.get_type::<Self>().getattr("from_bytes")?;
        Ok((made, PyTuple::new(py, [self.to_bytes(py)])?))
    }

    fn __repr__(&self) -> String {
        let draws = self.0.draws();
        format!("dtta.Part(draws=range({}, {}))", draws.start, draws.end)
    }
}

/// The losses and gradients of parts that have all draws, in any order: to the bit the same however the draws were split.
#[pyfunction]
pub fn sum_parts<'py>(py: Python<'py>, parts: Vec<PyRef<'py, Part>>) -> PyResult<Found<'py>> {
    let parts: Vec<FeedbackPart> = parts.iter().map(|part| part.0.clone()).collect();
    let found = FeedbackPart::sum(&parts, &Device::cpu());
    answer(py, found.map_err(|error| fault::of(py, &error.into()))?)
}

/// What is said of a setting, or what it is where nothing is.
fn or<T: DeserializeOwned>(name: &str, said: Option<&Bound<'_, PyAny>>, default: T) -> PyResult<T> {
    said.map_or(Ok(default), |said| json::typed(name, said))
}

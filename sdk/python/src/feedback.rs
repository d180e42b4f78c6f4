//! The diffusion loss of images under a condition, and its gradient with respect to the condition.

use std::sync::Arc;

use dtta::{Evaluation, FeedbackConfig, Request};
use dtta_models::Weights;
use dtta_tensor::Device;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde::de::DeserializeOwned;

use crate::denoiser::{self, Ready};
use crate::dlpack::Tensor;
use crate::{json, network};

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
        let found = py.detach(|| {
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            let request = Request {
                ids: &ids,
                images: &images,
                conditioning: &condition,
                step,
            };
            ask(&**model, weights, &request).map_err(dtta::Error::from)
        });
        found.map_err(|error| raised.or(py, &error))
    }
}

/// Losses and gradients.
type Found<'py> = (Tensor, Bound<'py, PyDict>);

fn answer(py: Python<'_>, found: Evaluation) -> PyResult<Found<'_>> {
    let gradients = denoiser::tensors(py, &found.gradients)?;
    let images = found.losses.len();
    Ok((Tensor::new(found.losses, &[images]), gradients))
}

/// What is said of a setting, or what it is where nothing is.
fn or<T: DeserializeOwned>(name: &str, said: Option<&Bound<'_, PyAny>>, default: T) -> PyResult<T> {
    said.map_or(Ok(default), |said| json::typed(name, said))
}

//! The diffusion loss of images under a condition, and its gradient with respect to the condition.

use std::sync::Arc;

use dtta::{Draws, LossKind, NoiseSharing, Request, TimestepsConfig};
use dtta_tensor::Device;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

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
        let denoiser = denoiser::ready(denoiser)?;
        let refuse = |message: String| Err(PyValueError::new_err(message));
        if !(1..=dtta::MAX_DRAWS).contains(&draws) {
            let most = dtta::MAX_DRAWS;
            return refuse(format!("draws is {draws}, expected 1 to {most}"));
        }
        if micro_batch == 0 {
            return refuse("micro_batch is 0, expected 1 or more".into());
        }
        let timesteps = match timesteps {
            Some(timesteps) => json::typed("timesteps", timesteps)?,
            None => TimestepsConfig::default(),
        };
        let range = denoiser.model.schedule().range(timesteps.range);
        let range =
            range.map_err(|problem| PyValueError::new_err(format!("timesteps: {problem}")))?;
        let loss = match loss {
            Some(loss) => json::typed("loss", loss)?,
            None => LossKind::default(),
        };
        let noise = match noise {
            Some(noise) => json::typed("noise", noise)?,
            None => NoiseSharing::default(),
        };
        Ok(Self {
            denoiser,
            settings: dtta::Feedback {
                draws: Draws {
                    seed,
                    count: draws,
                    sampler: timesteps.sampler,
                    range,
                    noise,
                },
                micro_batch,
                loss,
                space: None,
            },
        })
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
    ) -> PyResult<(Tensor, Bound<'py, PyDict>)> {
        let py = images.py();
        let Ready {
            model,
            weights,
            raised,
        } = &*self.denoiser;
        let images = network::tensor("images", images, &Device::cpu())?;
        let [channels, height, width] = model.image_shape();
        let expected = [ids.len(), channels, height, width];
        if ids.is_empty() || *images.shape() != expected {
            let found = images.shape();
            return Err(PyValueError::new_err(format!(
                "images have shape {found}, expected {expected:?}: one or more ids, and an image for each"
            )));
        }
        let condition = network::condition(condition, &**model)?;
        let rows = network::rows(&condition, ids.len())?;
        let evaluated = py.detach(|| {
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            let request = Request {
                ids: &ids,
                images: &images,
                conditioning: &rows,
                step,
            };
            self.settings.evaluate(&**model, weights, &[], &request)
        });
        let evaluation = evaluated.map_err(|error| raised.or(py, &error.into()))?;
        let losses = Tensor::new(evaluation.losses, &[ids.len()]);
        Ok((losses, denoiser::tensors(py, &evaluation.gradients)?))
    }
}

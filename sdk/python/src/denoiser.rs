//! Denoisers for feedback outside of experiments: from files, or networks of Python.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dtta_models::{NoiseSchedule, Weights};
use dtta_tensor::{Device, Named};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::dlpack::Tensor;
use crate::fault::{self, Raised};
use crate::network;

/// A denoiser with its weights, on the CPU.
pub struct Ready {
    pub model: Box<dyn dtta_models::Denoiser>,
    pub weights: Weights,
    /// What its network raised, if that is one of Python.
    pub raised: Raised,
}

/// Either kind: of a file, or of Python.
pub fn ready(denoiser: &Bound<'_, PyAny>) -> PyResult<Arc<Ready>> {
    if let Ok(own) = denoiser.cast::<Denoiser>() {
        return Ok(own.get().0.clone());
    }
    let raised = Raised::default();
    let source = network::Denoiser::new(denoiser, raised.clone())?;
    let made = source.make(&Device::cpu());
    let (model, weights) = made.map_err(|error| raised.or(denoiser.py(), &error))?;
    Ok(Arc::new(Ready {
        model,
        weights,
        raised,
    }))
}

/// A denoiser from its configuration (one of dtta's, or a folder of diffusers) with its weights.
#[pyclass(frozen, module = "dtta")]
pub struct Denoiser(Arc<Ready>);

#[pymethods]
impl Denoiser {
    #[new]
    #[pyo3(signature = (path, *, weights=None))]
    fn new(py: Python<'_>, path: PathBuf, weights: Option<PathBuf>) -> PyResult<Self> {
        let loaded = py.detach(|| {
            let config = dtta_models::locate(path, Path::new("."))?;
            let models = dtta_cli::extensions().models;
            models.load_denoiser(&config, weights.as_deref(), &Device::cpu())
        });
        let (model, weights) = loaded.map_err(|error| fault::of_opening(py, &error))?;
        Ok(Self(Arc::new(Ready {
            model,
            weights,
            raised: Raised::default(),
        })))
    }

    /// Channels, height and width of what it denoises.
    #[getter]
    fn image_shape(&self) -> (usize, usize, usize) {
        self.0.model.image_shape().into()
    }

    /// What it is conditioned on: the extents of each slot, without the batch axis.
    #[getter]
    fn slots<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let slots = PyDict::new(py);
        for slot in self.0.model.slots() {
            slots.set_item(&slot.name, pyo3::types::PyTuple::new(py, &slot.shape)?)?;
        }
        Ok(slots)
    }

    /// The schedule it was trained with, as model files have it.
    #[getter]
    fn schedule<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let config = self.0.model.schedule().config();
        let text = serde_json::json!(config).to_string();
        py.import("json")?.call_method1("loads", (text,))
    }

    /// Tensors that it has for mappers, such as `class-embeddings`.
    fn constants<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let constants = self.0.model.constants(&self.0.weights);
        let constants = constants.map_err(|error| fault::of_a_model(py, &error))?;
        tensors(py, &constants)
    }

    /// What it answers to noisy images `[B, C, H, W]` at one time of its schedule for each, under a condition.
    fn predict(
        &self,
        noisy: &Bound<'_, PyAny>,
        times: Vec<f64>,
        condition: &Bound<'_, PyAny>,
    ) -> PyResult<Tensor> {
        let py = noisy.py();
        let noisy = network::tensor("noisy", noisy, &Device::cpu())?;
        let condition = network::condition(condition, &*self.0.model)?;
        let Ready { model, weights, .. } = &*self.0;
        let answer = py.detach(|| {
            let answer = model.predict(weights, &noisy, &times, &condition)?;
            Ok(Tensor::of(&answer)?)
        });
        answer.map_err(|error| fault::of_a_model(py, &error))
    }

    fn __repr__(&self) -> String {
        let slots = self.0.model.slots().iter();
        let slots: Vec<&str> = slots.map(|slot| slot.name.as_str()).collect();
        format!(
            "dtta.Denoiser(image_shape={:?}, slots={slots:?})",
            self.0.model.image_shape()
        )
    }
}

/// Named tensors as a dict.
pub fn tensors<'py>(py: Python<'py>, named: &Named) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, tensor) in named.iter() {
        let tensor = Tensor::of(tensor).map_err(|error| fault::of(py, &error.into()))?;
        dict.set_item(name, Bound::new(py, tensor)?)?;
    }
    Ok(dict)
}

/// A schedule from what JSON says of it.
pub fn schedule(object: &Bound<'_, PyAny>) -> PyResult<NoiseSchedule> {
    let config = crate::json::typed("schedule", object)?;
    NoiseSchedule::new(&config).map_err(|error| fault::of_opening(object.py(), &error))
}

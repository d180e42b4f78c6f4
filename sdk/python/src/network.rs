//! Networks of Python in the loop. They are asked through two methods: `_specification` says what a network takes, `_forward` computes, and
//! where the tape records an input, answers a function for the way back as well. Tensors come and go by DLPack.

use std::sync::Arc;

use dtta_dlpack::Floats;
use dtta_models::{
    BackboneSpec, BatchNormStatistics, CLASS_EMBEDDING, CLASS_EMBEDDINGS, ClassCondition,
    Declaration, FEATURES, Group, Init, LOGITS, ModelError, NoiseSchedule, ParameterSpec, Slot,
    Weights, expect_slots,
};
use dtta_tensor::{Device, Named, TensorError};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use serde::Deserialize;

use crate::dlpack::{Tensor, floats};
use crate::fault::Raised;
use crate::{denoiser, json};

/// What a Python network does, as errors name it.
const FORWARD: &str = "python";

/// A tensor of Python on a device.
pub fn tensor(
    what: &str,
    object: &Bound<'_, PyAny>,
    device: &Device,
) -> PyResult<dtta_tensor::Tensor> {
    let Floats { values, shape } = floats(what, object)?;
    let tensor = dtta_tensor::Tensor::from_values(values, &shape, device);
    tensor.map_err(|error| PyValueError::new_err(format!("{what}: {error}")))
}

/// A condition: a tensor for each slot by name, or one for the only slot.
pub fn condition(object: &Bound<'_, PyAny>, model: &dyn dtta_models::Denoiser) -> PyResult<Named> {
    let mut named = Named::new();
    if let Ok(dict) = object.cast::<PyDict>() {
        for (name, value) in dict {
            let name: String = name.extract()?;
            let value = tensor(
                &format!("the condition for slot `{name}`"),
                &value,
                &Device::cpu(),
            )?;
            named.push(name, value);
        }
        return Ok(named);
    }
    let [slot] = model.slots() else {
        let names: Vec<&str> = model.slots().iter().map(|slot| &*slot.name).collect();
        return Err(PyTypeError::new_err(format!(
            "the denoiser has the slots {names:?}; give a dict with a tensor for each"
        )));
    };
    named.push(&*slot.name, tensor("condition", object, &Device::cpu())?);
    Ok(named)
}

/// An object of Python that computes.
pub struct Network {
    pub object: Py<PyAny>,
    pub raised: Raised,
}

impl Network {
    /// What it says of itself.
    pub fn said<T: serde::de::DeserializeOwned>(
        object: &Bound<'_, PyAny>,
        what: &str,
    ) -> PyResult<T> {
        let said = object.call_method0("_specification").map_err(|error| {
            match object.hasattr("_specification") {
                Ok(true) => error,
                _ => PyTypeError::new_err(format!("{} is no {what}", object.get_type())),
            }
        })?;
        json::typed(what, &said)
    }

    /// Asks it for outputs. Where inputs are tracked, the tape asks it for their gradients later. The first `own` inputs are its own to
    /// change; the others it reads where they lie.
    pub fn forward(
        &self,
        inputs: &[&dtta_tensor::Tensor],
        own: usize,
        argument: &serde_json::Value,
        device: &Device,
    ) -> Result<Vec<dtta_tensor::Tensor>, TensorError> {
        let tracked: Vec<bool> = inputs.iter().map(|input| input.is_tracked()).collect();
        let elements: Vec<usize> = inputs.iter().map(|x| x.shape().elements()).collect();
        let lent = inputs
            .iter()
            .enumerate()
            .map(|(place, input)| match place < own {
                true => Tensor::of(input),
                false => Tensor::lent(input),
            });
        let lent = lent.collect::<Result<Vec<_>, _>>()?;
        let (outputs, vjp) = Python::attach(|py| {
            self.ask(py, lent, &tracked, argument)
                .map_err(|error| self.raised.keep(py, FORWARD, error))
        })?;
        let total: usize = outputs.iter().map(|output| output.values.len()).sum();
        let whole = match &outputs[..] {
            [only] => only.shape.clone(),
            _ => vec![total],
        };
        let shapes: Vec<Vec<usize>> = outputs.iter().map(|output| output.shape.clone()).collect();
        let mut outputs = outputs.into_iter();
        let mut values = outputs.next().map_or_else(Vec::new, |first| first.values);
        for output in outputs {
            values.extend(output.values);
        }
        let (raised, of) = (self.raised.clone(), shapes.clone());
        let back = move |gradient: Vec<f32>| {
            Python::attach(|py| {
                let answer = answered(py, vjp.as_ref(), &gradient, &of, &tracked, &elements);
                answer.map_err(|error| raised.keep(py, FORWARD, error).to_string())
            })
        };
        let all = dtta_tensor::Tensor::outside(values, &whole, inputs, device, Box::new(back))?;
        if shapes.len() == 1 {
            return Ok(vec![all]);
        }
        let mut start = 0;
        let parts = shapes.iter().map(|shape| {
            let length = shape.iter().product();
            let part = all.narrow(0, start, length)?;
            start += length;
            let extents: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
            part.reshape(&extents)
        });
        parts.collect()
    }

    fn ask(
        &self,
        py: Python<'_>,
        inputs: Vec<Tensor>,
        tracked: &[bool],
        argument: &serde_json::Value,
    ) -> PyResult<(Vec<Floats>, Option<Py<PyAny>>)> {
        let inputs = inputs.into_iter().map(|input| Bound::new(py, input));
        let inputs = PyList::new(py, inputs.collect::<PyResult<Vec<_>>>()?)?;
        let argument = py
            .import("json")?
            .call_method1("loads", (argument.to_string(),))?;
        let answer = self
            .object
            .bind(py)
            .call_method1("_forward", (inputs, tracked, argument))?;
        let (outputs, vjp): (Vec<Bound<'_, PyAny>>, Option<Py<PyAny>>) = answer.extract()?;
        let outputs = outputs
            .iter()
            .map(|output| floats("the network's answer", output));
        let outputs = outputs.collect::<PyResult<Vec<_>>>()?;
        if vjp.is_none() && tracked.contains(&true) {
            let message = "the network answered no function for the way back";
            return Err(PyValueError::new_err(message));
        }
        Ok((outputs, vjp))
    }
}

/// The gradient of each input; nothing of those that the tape does not record.
fn answered(
    py: Python<'_>,
    vjp: Option<&Py<PyAny>>,
    gradient: &[f32],
    shapes: &[Vec<usize>],
    tracked: &[bool],
    elements: &[usize],
) -> PyResult<Vec<Vec<f32>>> {
    let Some(vjp) = vjp else {
        return Err(PyValueError::new_err(
            "there is no function for the way back",
        ));
    };
    let mut rest = gradient;
    let parts = shapes.iter().map(|shape| {
        let (part, after) = rest.split_at(shape.iter().product());
        rest = after;
        Bound::new(py, Tensor::new(part.to_vec(), shape))
    });
    let parts = PyList::new(py, parts.collect::<PyResult<Vec<_>>>()?)?;
    let answer: Vec<Option<Bound<'_, PyAny>>> = vjp.bind(py).call1((parts,))?.extract()?;
    let answer = tracked
        .iter()
        .zip(elements)
        .enumerate()
        .map(|(place, (&is, &elements))| {
            match answer.get(place) {
                Some(Some(gradient)) if is => {
                    Ok(floats(&format!("the gradient of input {place}"), gradient)?.values)
                }
                // What the answer does not depend on.
                Some(None) if is => Ok(vec![0.0; elements]),
                None if is => Err(PyValueError::new_err(format!(
                    "there is no gradient of input {place}"
                ))),
                _ => Ok(Vec::new()),
            }
        });
    answer.collect()
}

// --- Denoisers ------------------------------------------------------------------------------------------------------------------------

/// What a denoiser of Python says of itself.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct DenoiserSaid {
    name: String,
    digest: String,
    image: [usize; 3],
    slots: Vec<(String, Vec<usize>)>,
    classes: Option<usize>,
    null_label: Option<usize>,
}

/// A denoiser of Python, to be made on a device.
#[derive(Clone)]
pub struct Denoiser {
    object: Arc<Py<PyAny>>,
    raised: Raised,
    said: DenoiserSaid,
    schedule: NoiseSchedule,
    /// A row for each class, and one for none where there is such a label.
    table: Option<Floats>,
    /// What each slot holds without a condition.
    nothing: Option<Vec<(String, Floats)>>,
}

impl Denoiser {
    /// What there is to know of it.
    pub fn new(object: &Bound<'_, PyAny>, raised: Raised) -> PyResult<Self> {
        let said: DenoiserSaid = Network::said(object, "denoiser")?;
        let schedule = denoiser::schedule(&object.getattr("schedule")?)?;
        let table: Option<Bound<'_, PyAny>> = object.call_method0("_table")?.extract()?;
        let table = table
            .map(|table| floats("class_embeddings", &table))
            .transpose()?;
        let nothing: Option<Bound<'_, PyDict>> =
            object.call_method0("_unconditional")?.extract()?;
        let nothing = nothing.map(|dict| {
            let each = dict.iter().map(|(name, value)| {
                let name: String = name.extract()?;
                let value = floats(&format!("unconditional `{name}`"), &value)?;
                Ok((name, value))
            });
            each.collect::<PyResult<Vec<_>>>()
        });
        Ok(Self {
            object: Arc::new(object.clone().unbind()),
            raised,
            said,
            schedule,
            table,
            nothing: nothing.transpose()?,
        })
    }

    /// It, in the place of an experiment's.
    pub fn own(self) -> dtta::Own<dyn dtta_models::Denoiser> {
        let (name, digest) = (self.said.name.clone(), self.said.digest.clone());
        dtta::Own::new(name, digest, move |device| self.make(device))
    }

    /// It on a device; it has no weights of which dtta knows.
    pub fn make(&self, device: &Device) -> dtta::Result<(Box<dyn dtta_models::Denoiser>, Weights)> {
        let object = Python::attach(|py| self.object.clone_ref(py));
        let on_device = |floats: &Floats| {
            dtta_tensor::Tensor::from_floats(&floats.values, &floats.shape, device)
        };
        let mut nothing = None;
        if let Some(values) = &self.nothing {
            let mut named = Named::new();
            for (name, value) in values {
                named.push(name, on_device(value)?);
            }
            nothing = Some(named);
        }
        let parameters = Declaration::new().finish();
        let weights = Weights::initialise(&parameters, 0, device)?;
        let slots = self.said.slots.iter().map(|(name, shape)| Slot {
            name: name.clone(),
            shape: shape.clone(),
            meaning: "what the program's own network takes it for".into(),
        });
        let model = OfPython {
            network: Network {
                object,
                raised: self.raised.clone(),
            },
            said: self.said.clone(),
            slots: slots.collect(),
            schedule: self.schedule.clone(),
            table: self.table.as_ref().map(on_device).transpose()?,
            nothing,
            parameters,
        };
        Ok((Box::new(model), weights))
    }
}

struct OfPython {
    network: Network,
    said: DenoiserSaid,
    slots: Vec<Slot>,
    schedule: NoiseSchedule,
    table: Option<dtta_tensor::Tensor>,
    nothing: Option<Named>,
    parameters: Arc<[ParameterSpec]>,
}

impl dtta_models::Denoiser for OfPython {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.parameters
    }

    fn image_shape(&self) -> [usize; 3] {
        self.said.image
    }

    fn slots(&self) -> &[Slot] {
        &self.slots
    }

    fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    fn class_condition(&self) -> Option<ClassCondition> {
        Some(ClassCondition {
            classes: self.said.classes?,
            dropout_prob: 0.0,
            null_label: self.said.null_label,
        })
    }

    fn embed_classes(
        &self,
        _: &Weights,
        labels: &dtta_tensor::Tensor,
    ) -> dtta_models::Result<dtta_tensor::Tensor> {
        let table = self.table.as_ref().ok_or_else(|| ModelError::Slot {
            name: CLASS_EMBEDDING.into(),
            problem: "unknown",
            known: "no table of classes".into(),
        })?;
        Ok(table.index_select(0, labels)?)
    }

    fn predict(
        &self,
        _: &Weights,
        noisy: &dtta_tensor::Tensor,
        times: &[f64],
        conditioning: &Named,
    ) -> dtta_models::Result<dtta_tensor::Tensor> {
        let shape = noisy.shape();
        if shape.rank() != 4 || shape[1..] != self.said.image || times.len() != shape[0] {
            return Err(TensorError::Shape {
                op: FORWARD,
                argument: "noisy",
                shape,
                expected: format!("[{}, …] with images of {:?}", times.len(), self.said.image),
            }
            .into());
        }
        expect_slots(conditioning, &self.slots, shape[0])?;
        let mut inputs = vec![noisy];
        let conditions = self
            .slots
            .iter()
            .filter_map(|slot| conditioning.get(&slot.name));
        inputs.extend(conditions);
        let times = self.schedule.network_times(times);
        let argument = serde_json::json!(times);
        let answer = self
            .network
            .forward(&inputs, inputs.len(), &argument, noisy.device())?;
        match <[_; 1]>::try_from(answer) {
            Ok([answer]) if answer.shape() == shape => Ok(answer),
            Ok([answer]) => Err(TensorError::Shape {
                op: FORWARD,
                argument: "the denoiser's answer",
                shape: answer.shape(),
                expected: format!("{shape}, as of the noisy images"),
            }
            .into()),
            Err(answers) => Err(TensorError::Backend {
                op: FORWARD,
                message: format!(
                    "the denoiser answered {} tensors, expected one",
                    answers.len()
                ),
            }
            .into()),
        }
    }

    fn constants(&self, _: &Weights) -> dtta_models::Result<Named> {
        match (&self.table, self.said.classes) {
            (Some(table), Some(classes)) => {
                Ok(Named::one(CLASS_EMBEDDINGS, table.narrow(0, 0, classes)?))
            }
            _ => Ok(Named::new()),
        }
    }

    fn unconditional(&self, _: &Weights) -> dtta_models::Result<Option<Named>> {
        Ok(self.nothing.clone())
    }
}

// --- Backbones ------------------------------------------------------------------------------------------------------------------------

/// What a backbone of Python says of itself.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct BackboneSaid {
    name: String,
    digest: String,
    image: [usize; 3],
    outputs: usize,
    per_pixel: bool,
    batch_statistics: bool,
    parameters: Vec<(String, Vec<usize>, Group)>,
}

/// A backbone of Python, to be made on a device. Its parameters are dtta's: it is handed them with every call.
#[derive(Clone)]
pub struct Backbone {
    object: Arc<Py<PyAny>>,
    raised: Raised,
    said: BackboneSaid,
    parameters: Arc<[ParameterSpec]>,
    values: Arc<[Floats]>,
}

impl Backbone {
    /// What there is to know of it, and its source weights.
    pub fn new(object: &Bound<'_, PyAny>, raised: Raised) -> PyResult<Self> {
        let said: BackboneSaid = Network::said(object, "backbone")?;
        let values: Vec<Bound<'_, PyAny>> = object.call_method0("_values")?.extract()?;
        let names = said.parameters.iter().map(|(name, ..)| name);
        let values = names.zip(&values).map(|(name, value)| floats(name, value));
        let values = values.collect::<PyResult<Vec<_>>>()?;
        let mut declaration = Declaration::new();
        for (name, shape, group) in &said.parameters {
            declaration.declare(name, shape, *group, Init::Zeros);
        }
        Ok(Self {
            object: Arc::new(object.clone().unbind()),
            raised,
            said,
            parameters: declaration.finish(),
            values: values.into(),
        })
    }

    /// It, in the place of an experiment's.
    pub fn own(self) -> dtta::Own<dyn dtta_models::Backbone> {
        let (name, digest) = (self.said.name.clone(), self.said.digest.clone());
        dtta::Own::new(name, digest, move |device| self.make(device))
    }

    fn make(&self, device: &Device) -> dtta::Result<(Box<dyn dtta_models::Backbone>, Weights)> {
        let object = Python::attach(|py| self.object.clone_ref(py));
        let mut weights = Weights::initialise(&self.parameters, 0, device)?;
        for (id, floats) in weights.ids().zip(self.values.iter()) {
            let Floats { values, shape } = floats;
            weights.set(id, dtta_tensor::Tensor::from_floats(values, shape, device)?)?;
        }
        let model = Task {
            network: Network {
                object,
                raised: self.raised.clone(),
            },
            spec: BackboneSpec {
                image: self.said.image,
                outputs: self.said.outputs,
                per_pixel: self.said.per_pixel,
                batch_statistics: self.said.batch_statistics,
            },
            parameters: self.parameters.clone(),
        };
        Ok((Box::new(model), weights))
    }
}

struct Task {
    network: Network,
    spec: BackboneSpec,
    parameters: Arc<[ParameterSpec]>,
}

impl dtta_models::Backbone for Task {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.parameters
    }

    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn forward(
        &self,
        weights: &Weights,
        images: &dtta_tensor::Tensor,
        statistics: BatchNormStatistics,
    ) -> dtta_models::Result<Named> {
        let shape = images.shape();
        if shape.rank() != 4 || shape[1..] != self.spec.image {
            return Err(TensorError::Shape {
                op: FORWARD,
                argument: "images",
                shape,
                expected: format!("[B, …] with images of {:?}", self.spec.image),
            }
            .into());
        }
        let mut inputs = vec![images];
        inputs.extend(weights.iter().map(|(.., tensor)| tensor));
        let argument = serde_json::json!(statistics);
        let answer = self
            .network
            .forward(&inputs, 1, &argument, images.device())?;
        match <[_; 2]>::try_from(answer) {
            Ok([features, logits])
                if features.shape()[0] == shape[0]
                    && logits.shape()[0] == shape[0]
                    && logits.shape().get(1) == Some(&self.spec.outputs) =>
            {
                Ok(Named::one(FEATURES, features).with(LOGITS, logits))
            }
            Ok([_, logits]) => Err(TensorError::Shape {
                op: FORWARD,
                argument: "the backbone's logits",
                shape: logits.shape(),
                expected: format!("[{}, {}, …]", shape[0], self.spec.outputs),
            }
            .into()),
            Err(answers) => Err(TensorError::Backend {
                op: FORWARD,
                message: format!(
                    "the backbone answered {} tensors, expected two",
                    answers.len()
                ),
            }
            .into()),
        }
    }
}

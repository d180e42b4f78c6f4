//! Functions of Python in the place of plugins: a mapper inside PyTorch's graph, a metric of one sample.

use std::collections::BTreeMap;
use std::sync::Arc;

use dtta_plugin::{
    Environment, Mapper, Place, Plugin, PluginError, Role, ScoreSpec, SlotSpec, ValueSpec, Values,
};
use dtta_tensor::{Kind, Named, TensorError, Usage};
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde::Deserialize;
use serde_json::json;

use crate::dlpack::Tensor;
use crate::fault::Raised;
use crate::network::Network;

/// Where exceptions of these functions are raised.
const FUNCTION: &str = "function";

/// What a function says of itself.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    name: String,
    digest: String,
    #[serde(default)]
    scores: Vec<ScoreSpec>,
}

/// A mapper of Python.
pub fn mapper(object: &Bound<'_, PyAny>, raised: &Raised) -> PyResult<Plugin> {
    let Said { name, digest, .. } = Network::said(object, "mapper")?;
    let (object, raised) = (Arc::new(object.clone().unbind()), raised.clone());
    let place = Place::new(&name, Role::Mapper, "condition");
    let made = move |slots: &[SlotSpec], environment: &Environment| {
        let mapper = OfPython {
            network: Network {
                object: Python::attach(|py| object.clone_ref(py)),
                raised: raised.clone(),
            },
            slots: slots.iter().map(|slot| slot.name.clone()).collect(),
            environment: environment.clone(),
            place: place.clone(),
        };
        Ok(Box::new(mapper) as Box<dyn Mapper>)
    };
    refused(Plugin::own_mapper(&name, &digest, made))
}

/// A metric of Python.
pub fn metric(object: &Bound<'_, PyAny>, raised: &Raised) -> PyResult<Plugin> {
    let Said {
        name,
        digest,
        scores,
    } = Network::said(object, "metric")?;
    let (object, raised) = (object.clone().unbind(), raised.clone());
    let place = Place::new(&name, Role::Metric, "update");
    let score = move |predictions: &Named, targets: &Named| {
        let told = [rows(predictions), rows(targets)];
        let [predictions, targets] = told.map(|rows| rows.map_err(|error| failed(&place, &error)));
        let (predictions, targets) = (predictions?, targets?);
        Python::attach(|py| {
            let found = || -> PyResult<BTreeMap<String, f64>> {
                let given = (dict(py, predictions)?, dict(py, targets)?);
                object.call_method1(py, "_score", given)?.extract(py)
            };
            found().map_err(|error| keep(py, &raised, &place, error))
        })
    };
    refused(Plugin::own_metric(&name, &digest, scores, score))
}

fn refused(made: Result<Plugin, PluginError>) -> PyResult<Plugin> {
    made.map_err(|error| PyValueError::new_err(error.to_string()))
}

struct OfPython {
    network: Network,
    slots: Vec<String>,
    environment: Environment,
    place: Place,
}

impl Mapper for OfPython {
    fn values(&self) -> &[ValueSpec] {
        &[]
    }

    fn condition(&mut self, outputs: &Named, _: &mut Values) -> Result<Named, PluginError> {
        let names: Vec<&str> = outputs.names().collect();
        let inputs: Vec<_> = outputs.tensors().collect();
        let argument = json!({"outputs": names, "slots": self.slots});
        let answer =
            self.network
                .forward(&inputs, inputs.len(), &argument, &self.environment.device);
        let answer = answer.map_err(|error| {
            // What is no `Exception`, such as Ctrl-C, is a reason to stop.
            let stops = Python::attach(|py| self.network.raised.is_a_stop(py));
            match stops {
                true => PluginError::Interrupted {
                    place: self.place.clone(),
                },
                false => failed(&self.place, &error),
            }
        })?;
        Ok(self.slots.iter().cloned().zip(answer).collect())
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }
}

fn failed(place: &Place, error: &TensorError) -> PluginError {
    PluginError::Failed {
        place: place.clone(),
        code: error.code().into(),
        message: error.to_string(),
    }
}

/// Keeps what a metric raised.
fn keep(py: Python<'_>, raised: &Raised, place: &Place, error: PyErr) -> PluginError {
    let stops = !error.is_instance_of::<PyException>(py);
    let error = raised.keep(py, FUNCTION, error);
    match stops {
        true => PluginError::Interrupted {
            place: place.clone(),
        },
        false => failed(place, &error),
    }
}

/// Tensors as floats, with whether they are whole numbers.
type Rows = Vec<(String, Tensor, bool)>;

fn rows(named: &Named) -> Result<Rows, TensorError> {
    let each = named.iter().map(|(name, tensor)| {
        let whole = tensor.kind() != Kind::Float;
        let values = match whole {
            false => tensor.to_floats()?,
            // Classes and labels, which floats hold.
            true => tensor.to_ints()?.into_iter().map(|n| n as f32).collect(),
        };
        Ok((name.to_owned(), Tensor::new(values, &tensor.shape()), whole))
    });
    each.collect()
}

fn dict(py: Python<'_>, rows: Rows) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    for (name, tensor, whole) in rows {
        dict.set_item(name, (Bound::new(py, tensor)?, whole))?;
    }
    Ok(dict)
}

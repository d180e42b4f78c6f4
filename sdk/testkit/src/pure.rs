//! Heads, mappers and objectives: functions of their inputs and their values.

use dtta_plugin::{Environment, Plugin, ValueSpec, Values};
use dtta_tensor::{Named, Storage, Tensor, Usage};
use serde_json::Value;

use crate::inputs::{Inputs, TensorSpec};

/// One call on the tape: what went in, as leaves, and what came out.
pub(crate) struct Called {
    leaves: Named,
    values: Vec<(ValueSpec, Tensor)>,
    outputs: Named,
    usage: Usage,
}

impl Called {
    pub(crate) fn head(
        plugin: &Plugin,
        config: &Value,
        environment: &Environment,
        inputs: &Inputs,
    ) -> Result<Self, String> {
        let mut head = plugin.head(config, environment).map_err(text)?;
        let leaves = leaves(inputs.named(&inputs.features)?)?;
        let (mut values, declared) = kept(head.values())?;
        let outputs = head.forward(&leaves, &mut values).map_err(text)?;
        Ok(Self {
            leaves,
            values: declared,
            outputs,
            usage: head.usage(),
        })
    }

    pub(crate) fn mapper(
        plugin: &Plugin,
        config: &Value,
        environment: &Environment,
        inputs: &Inputs,
    ) -> Result<Self, String> {
        let mut mapper = plugin
            .mapper(config, &inputs.slots, environment)
            .map_err(text)?;
        let leaves = leaves(inputs.named(&inputs.outputs)?)?;
        let (mut values, declared) = kept(mapper.values())?;
        let outputs = mapper.condition(&leaves, &mut values).map_err(text)?;
        Ok(Self {
            leaves,
            values: declared,
            outputs,
            usage: mapper.usage(),
        })
    }

    pub(crate) fn objective(
        plugin: &Plugin,
        config: &Value,
        environment: &Environment,
        inputs: &Inputs,
    ) -> Result<Self, String> {
        let mut objective = plugin.objective(config, environment).map_err(text)?;
        let leaves = leaves(inputs.named(&inputs.outputs)?)?;
        let loss = objective.loss(&leaves).map_err(text)?;
        let outputs = Named::one("loss", loss);
        Ok(Self {
            leaves,
            values: Vec::new(),
            outputs,
            usage: objective.usage(),
        })
    }

    fn bits(&self) -> Result<Vec<(String, Vec<u32>)>, String> {
        let bits = |(name, tensor): (&str, &Tensor)| {
            let values = match tensor.kind() {
                dtta_tensor::Kind::Float => tensor
                    .to_floats()
                    .map(|x| x.iter().map(|x| x.to_bits()).collect()),
                _ => tensor
                    .to_ints()
                    .map(|x| x.iter().map(|&x| x as u32).collect()),
            };
            Ok((name.to_owned(), values.map_err(|error| error.to_string())?))
        };
        self.outputs.iter().map(bits).collect()
    }
}

/// What holds for every call.
pub(crate) fn laws(
    call: &dyn Fn() -> Result<Called, String>,
) -> Vec<(&'static str, Result<(), String>)> {
    vec![
        ("two calls give the same bits", twice(call)),
        ("its outputs are finite", finite(call)),
        (
            "gradients reach inputs and parameters, and are finite",
            gradients(call),
        ),
        ("no handle is left when a call returns", released(call)),
    ]
}

fn twice(call: &dyn Fn() -> Result<Called, String>) -> Result<(), String> {
    let (first, second) = (call()?.bits()?, call()?.bits()?);
    if first == second {
        return Ok(());
    }
    Err(
        "the same inputs gave different outputs; state that changes belongs in a declared value"
            .into(),
    )
}

fn finite(call: &dyn Fn() -> Result<Called, String>) -> Result<(), String> {
    for (name, tensor) in call()?.outputs.iter() {
        if tensor.kind() != dtta_tensor::Kind::Float {
            continue;
        }
        let values = tensor.to_floats().map_err(|error| error.to_string())?;
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(format!("`{name}` holds {value}"));
        }
    }
    Ok(())
}

fn gradients(call: &dyn Fn() -> Result<Called, String>) -> Result<(), String> {
    let called = call()?;
    let mut sum: Option<Tensor> = None;
    for (place, output) in called.outputs.tensors().enumerate() {
        if !output.is_tracked() {
            continue;
        }
        // Uneven weights: the plain sum of a softmax has no gradient.
        let count = output.shape().elements();
        let weights: Vec<f32> = (0..count)
            .map(|i| ((i * 7 + place * 3) as f32).sin() + 0.1)
            .collect();
        let term = Tensor::from_floats(&weights, &output.shape(), output.device())
            .and_then(|weights| output.mul(&weights)?.sum(&[], false))
            .map_err(|error| error.to_string())?;
        sum = Some(match sum {
            Some(sum) => sum.add(&term).map_err(|error| error.to_string())?,
            None => term,
        });
    }
    let Some(sum) = sum else {
        return Err("no output depends on an input through the tape".into());
    };
    let gradients = sum.backward().map_err(|error| error.to_string())?;
    let mut reached = 0;
    let inputs = called
        .leaves
        .iter()
        .map(|(name, leaf)| (format!("input `{name}`"), leaf, false));
    let values = called.values.iter().filter(|(spec, _)| is_trained(spec));
    let values = values.map(|(spec, leaf)| (format!("parameter `{}`", spec.name), leaf, true));
    for (name, leaf, is_needed) in inputs.chain(values) {
        let gradient = gradients.of(leaf).map(|gradient| gradient.to_floats());
        let gradient = gradient.transpose().map_err(|error| error.to_string())?;
        let gradient = gradient.unwrap_or_default();
        if let Some(value) = gradient.iter().find(|value| !value.is_finite()) {
            return Err(format!("the gradient of {name} holds {value}"));
        }
        let is_reached = gradient.iter().any(|&value| value != 0.0);
        reached += usize::from(is_reached);
        if is_needed && !is_reached {
            return Err(format!(
                "no gradient reaches {name}; mark it `trainable` = `false` if that is meant"
            ));
        }
    }
    if reached == 0 {
        return Err("no gradient reaches any input".into());
    }
    Ok(())
}

fn released(call: &dyn Fn() -> Result<Called, String>) -> Result<(), String> {
    match call()?.usage.unreleased {
        0 => Ok(()),
        left => Err(format!(
            "{left} handles were left to the host; drop tensors that are not results"
        )),
    }
}

/// A head's predictions from its own outputs, which its host holds to what its description says.
pub(crate) fn predicts(
    plugin: &Plugin,
    config: &Value,
    environment: &Environment,
    inputs: &Inputs,
) -> Result<(), String> {
    let mut head = plugin.head(config, environment).map_err(text)?;
    let (mut values, _) = kept(head.values())?;
    let features = inputs.named(&inputs.features)?;
    let outputs = head.forward(&features, &mut values).map_err(text)?;
    let first = head.predict(&outputs).map_err(text)?;
    if first.is_empty() {
        return Err("it predicts nothing".into());
    }
    Ok(())
}

/// Values as leaves, drawn as inputs are; buffers start as 1, which may be divided by.
fn kept(declared: &[ValueSpec]) -> Result<(Values, Vec<(ValueSpec, Tensor)>), String> {
    let mut tensors = Vec::new();
    for (place, spec) in declared.iter().enumerate() {
        let drawn = Inputs::default().made(
            &[(spec.name.clone(), TensorSpec::floats(&spec.shape))].into(),
            place as u64 + 100,
        )?;
        let tensor = match (spec.storage, drawn.into_iter().next()) {
            (Storage::Parameter, Some((_, tensor))) => tensor.to_leaf(),
            _ => Tensor::full(&spec.shape, 1.0, &dtta_tensor::Device::cpu()),
        };
        tensors.push(tensor.map_err(|error| error.to_string())?);
    }
    let with_specs = declared
        .iter()
        .cloned()
        .zip(tensors.iter().cloned())
        .collect();
    Ok((Values::new(tensors), with_specs))
}

fn is_trained(spec: &ValueSpec) -> bool {
    spec.storage == Storage::Parameter
        && spec
            .attributes
            .get("trainable")
            .is_none_or(|value| value != "false")
}

fn leaves(named: Named) -> Result<Named, String> {
    let leaf = |(name, tensor): (String, Tensor)| match tensor.kind() {
        dtta_tensor::Kind::Float => {
            Ok((name, tensor.to_leaf().map_err(|error| error.to_string())?))
        }
        _ => Ok((name, tensor)),
    };
    named.into_iter().map(leaf).collect()
}

fn text(error: dtta_plugin::PluginError) -> String {
    error.to_string()
}

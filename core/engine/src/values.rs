//! Values that plugins declare, as parameters and buffers of the task model: they are loaded,
//! selected, adapted, reset and checkpointed with the backbone's.

use std::path::Path;
use std::sync::Arc;

use dtta_models::{Declaration, Group, Init, ParameterId, ParameterSpec, Weights};
use dtta_plugin::{ValueSpec, Values};
use dtta_tensor::{Device, Storage};

use crate::error::{Error, Result};
use crate::task::Updates;

/// Joins what `plugin` declared to the task model's weights, under `PLUGIN.NAME`; from a safetensors file, or as the
/// declaration says that they start.
///
/// # Errors
/// [`Error::Value`] for a hint that means nothing or a name that is taken; whatever the file refuses.
pub(crate) fn join(
    weights: &mut Weights,
    plugin: &str,
    declared: &[ValueSpec],
    file: Option<&Path>,
    seed: u64,
    device: &Device,
) -> Result<Vec<ParameterId>> {
    let specs = specs(plugin, declared)?;
    if let Some(spec) = specs.iter().find(|spec| weights.find(&spec.name).is_some()) {
        return Err(Error::Value {
            name: spec.name.clone(),
            reason: "is declared twice; head and mapper of one plugin share their names".into(),
        });
    }
    let values = match file {
        Some(path) => Weights::load(path, &specs, device)?,
        None => Weights::initialise(&specs, seed, device)?,
    };
    Ok(weights.append(values))
}

fn specs(plugin: &str, declared: &[ValueSpec]) -> Result<Arc<[ParameterSpec]>> {
    let mut declaration = Declaration::new();
    for value in declared {
        let name = format!("{plugin}.{}", value.name);
        let hint = |key: &str| value.attributes.get(key).map(String::as_str);
        let init = init(hint("init"), &value.shape).ok_or_else(|| Error::Value {
            name: name.clone(),
            reason: format!(
                "has the hint `init` = `{}`; known are zeros, ones, normal, xavier-uniform, kaiming-uniform, kaiming-normal",
                hint("init").unwrap_or_default()
            ),
        })?;
        let fixed = value.storage == Storage::Buffer || hint("trainable") == Some("false");
        let group = match hint("group") {
            _ if fixed => Group::Buffer,
            Some("norm-affine") => Group::Norm,
            Some("head") => Group::Head,
            Some("bias") => Group::Bias,
            Some("embedding") => Group::Embedding,
            _ => Group::Weight,
        };
        declaration.declare(&name, &value.shape, group, init);
    }
    Ok(declaration.finish())
}

fn init(hint: Option<&str>, shape: &[usize]) -> Option<Init> {
    Some(match hint {
        None | Some("zeros") => Init::Zeros,
        Some("ones") => Init::Ones,
        Some("normal") => Init::Normal(0.02),
        Some("xavier-uniform") => Init::XavierUniform,
        // PyTorch's default for linear layers and convolutions.
        Some("kaiming-uniform") => Init::UniformFanIn(shape[1..].iter().product()),
        Some("kaiming-normal") => Init::KaimingNormalFanOut,
        Some(_) => return None,
    })
}

/// The state of some values.
pub(crate) fn of(weights: &Weights, places: &[ParameterId]) -> Values {
    Values::new(places.iter().map(|&id| weights.get(id).clone()).collect())
}

/// Buffers that a call replaced, by their place in the weights.
pub(crate) fn updates(values: Values, places: &[ParameterId]) -> Updates {
    let updates = values.updates.into_iter();
    updates
        .filter_map(|(index, tensor)| Some((*places.get(index)?, tensor)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str, storage: Storage, attributes: &[(&str, &str)]) -> ValueSpec {
        ValueSpec {
            name: name.into(),
            storage,
            shape: vec![2, 8],
            attributes: attributes
                .iter()
                .map(|&(key, value)| (key.into(), value.into()))
                .collect(),
        }
    }

    fn joined(declared: &[ValueSpec]) -> Result<(Weights, Vec<ParameterId>)> {
        let mut weights = Weights::initialise(&Declaration::new().finish(), 0, &Device::cpu())?;
        let places = join(&mut weights, "probe", declared, None, 3, &Device::cpu())?;
        Ok((weights, places))
    }

    #[test]
    fn hints_say_how_values_start_and_what_they_are_for() {
        let declared = [
            value(
                "scale",
                Storage::Parameter,
                &[("init", "ones"), ("group", "norm-affine")],
            ),
            value("weight", Storage::Parameter, &[("init", "kaiming-uniform")]),
            value("fixed", Storage::Parameter, &[("trainable", "false")]),
            value(
                "mean",
                Storage::Buffer,
                &[("group", "norm-affine"), ("colour", "blue")],
            ),
        ];
        let (weights, places) = joined(&declared).unwrap();
        let groups: Vec<Group> = places.iter().map(|&id| weights.spec(id).group).collect();
        assert_eq!(
            groups,
            [Group::Norm, Group::Weight, Group::Buffer, Group::Buffer]
        );
        assert_eq!(weights.spec(places[1]).name, "probe.weight");
        assert_eq!(weights.get(places[0]).to_floats().unwrap(), [1.0; 16]);
        let drawn = weights.get(places[1]).to_floats().unwrap();
        let bound = 1.0 / 8f32.sqrt();
        assert!(drawn.iter().all(|x| x.abs() <= bound) && drawn.iter().any(|x| *x != drawn[0]));
    }

    #[test]
    fn refuses_hints_and_names_that_cannot_be() {
        let error = joined(&[value("w", Storage::Parameter, &[("init", "random")])]).unwrap_err();
        assert!(error.to_string().contains("probe.w") && error.to_string().contains("random"));
        let (mut weights, _) = joined(&[value("w", Storage::Parameter, &[])]).unwrap();
        let again = [value("w", Storage::Buffer, &[])];
        let error = join(&mut weights, "probe", &again, None, 0, &Device::cpu()).unwrap_err();
        assert!(error.to_string().contains("twice"), "{error}");
    }
}

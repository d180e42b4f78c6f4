//! Holds what a mapper answers with to the slots that the denoiser published, so that a wrong
//! name or shape is the plugin's error and not a puzzle inside the denoiser.

use serde::Deserialize;
use serde_json::Value;

use dtta_tensor::Usage;

use crate::error::{Place, PluginError, Result};
use crate::manifest::Role;
use crate::roles::{Mapper, Named};
use crate::values::{ValueSpec, Values};

/// The conditioning inputs of a denoiser.
pub(crate) struct Slots(Vec<Slot>);

#[derive(Deserialize)]
struct Slot {
    name: String,
    /// Extents; null where only a call decides. Absent means any.
    #[serde(default)]
    shape: Option<Vec<Option<usize>>>,
}

impl Slots {
    pub(crate) fn parse(json: &Value) -> Result<Self> {
        let slots = Vec::<Slot>::deserialize(json).map_err(|error| PluginError::Host {
            message: format!("the denoiser's slots are not a list of names and shapes: {error}"),
        })?;
        Ok(Self(slots))
    }

    /// What is wrong with an answer, if anything is.
    fn problem(&self, answer: &Named) -> Option<String> {
        if answer.is_empty() {
            return Some(format!(
                "it filled no slot; the denoiser has {}",
                self.names()
            ));
        }
        for (position, (name, tensor)) in answer.iter().enumerate() {
            if answer[..position]
                .iter()
                .any(|(earlier, _)| earlier == name)
            {
                return Some(format!("it filled `{name}` twice"));
            }
            let Some(slot) = self.0.iter().find(|slot| slot.name == *name) else {
                return Some(format!(
                    "it filled `{name}`, which is no slot; the denoiser has {}",
                    self.names()
                ));
            };
            let Some(expected) = &slot.shape else {
                continue;
            };
            let found = tensor.shape();
            let fits = found.rank() == expected.len()
                && found
                    .iter()
                    .zip(expected)
                    .all(|(found, expected)| expected.is_none_or(|extent| extent == *found));
            if !fits {
                let extents: Vec<String> = expected
                    .iter()
                    .map(|extent| extent.map_or_else(|| "any".into(), |extent| extent.to_string()))
                    .collect();
                return Some(format!(
                    "it filled `{name}` with shape {found}, expected [{}]",
                    extents.join(", ")
                ));
            }
        }
        None
    }

    fn names(&self) -> String {
        let names: Vec<String> = self
            .0
            .iter()
            .map(|slot| format!("`{}`", slot.name))
            .collect();
        if names.is_empty() {
            "none".into()
        } else {
            names.join(", ")
        }
    }
}

/// A mapper whose answers fit the slots.
pub(crate) struct CheckedMapper {
    mapper: Box<dyn Mapper>,
    slots: Slots,
    place: Place,
}

impl CheckedMapper {
    pub(crate) fn new(mapper: Box<dyn Mapper>, slots: Slots, plugin: &str) -> Self {
        Self {
            mapper,
            slots,
            place: Place::new(plugin, Role::Mapper, "condition"),
        }
    }
}

impl Mapper for CheckedMapper {
    fn values(&self) -> &[ValueSpec] {
        self.mapper.values()
    }

    fn usage(&self) -> Usage {
        self.mapper.usage()
    }

    fn condition(&mut self, outputs: &Named, values: &mut Values) -> Result<Named> {
        let answer = self.mapper.condition(outputs, values)?;
        match self.slots.problem(&answer) {
            None => Ok(answer),
            Some(problem) => Err(PluginError::Output {
                place: self.place.clone(),
                problem,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dtta_tensor::{Device, Tensor};

    fn named(name: &str, shape: &[usize]) -> (String, Tensor) {
        (
            name.into(),
            Tensor::full(shape, 0.0, &Device::cpu()).unwrap(),
        )
    }

    #[test]
    fn holds_answers_to_names_and_shapes() {
        let slots = Slots::parse(&serde_json::json!([
            {"name": "class-embedding", "meaning": "class-embedding", "shape": [null, 4]},
            {"name": "tokens"},
        ]))
        .unwrap();
        let fits = vec![
            named("class-embedding", &[7, 4]),
            named("tokens", &[1, 2, 3]),
        ];
        assert_eq!(slots.problem(&fits), None);
        for (answer, word) in [
            (vec![], "no slot"),
            (
                vec![named("embedding", &[7, 4])],
                "`class-embedding`, `tokens`",
            ),
            (vec![named("class-embedding", &[7, 5])], "[any, 4]"),
            (vec![named("class-embedding", &[4])], "[any, 4]"),
            (vec![named("tokens", &[1]), named("tokens", &[1])], "twice"),
        ] {
            let problem = slots.problem(&answer).unwrap();
            assert!(problem.contains(word), "{problem}");
        }
    }

    #[test]
    fn refuses_slots_that_are_none() {
        assert_eq!(
            Slots::parse(&serde_json::json!({"name": 3}))
                .err()
                .unwrap()
                .code(),
            "host"
        );
    }
}

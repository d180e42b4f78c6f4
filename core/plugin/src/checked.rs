//! Roles whose answers are held to what was promised: a mapper's to the slots that the denoiser published, a head's predictions to
//! what its descriptor says. A wrong name or shape is then the plugin's error, told once and here, and not a puzzle further on.

use dtta_tensor::{Named, Tensor, Usage};
use serde::{Deserialize, Serialize};

use crate::error::{Place, PluginError, Result};
use crate::manifest::Role;
use crate::roles::{Head, Mapper};
use crate::task::{Predicts, batch};
use crate::values::{ValueSpec, Values};

/// A conditioning input of a denoiser, as mappers hear of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotSpec {
    /// What mappers call it.
    pub name: String,
    /// What the denoiser takes it for: `class-embedding` `[B, D]`, `tokens` `[B, L, D]`, `spatial` `[B, C, H, W]`, …
    pub meaning: String,
    /// Extents, the batch first; none where only a call decides, as of the batch.
    pub shape: Vec<Option<usize>>,
}

/// What is wrong with an answer to so many images, if anything is.
fn misfit(slots: &[SlotSpec], answer: &Named, images: Option<usize>) -> Option<String> {
    let known = || {
        let names: Vec<String> = slots
            .iter()
            .map(|slot| format!("`{}`", slot.name))
            .collect();
        if names.is_empty() {
            "none".into()
        } else {
            names.join(", ")
        }
    };
    for (position, (name, tensor)) in answer.iter().enumerate() {
        if answer.names().take(position).any(|earlier| earlier == name) {
            return Some(format!("it filled `{name}` twice"));
        }
        let Some(slot) = slots.iter().find(|slot| slot.name == name) else {
            return Some(format!(
                "it filled `{name}`, which is not a slot; the denoiser has {}",
                known()
            ));
        };
        if let Some(expected) = misshapen(slot, tensor, images) {
            return Some(format!(
                "it filled `{name}` with shape {}, expected [{expected}]",
                tensor.shape()
            ));
        }
    }
    let missing = slots.iter().find(|slot| answer.get(&slot.name).is_none())?;
    Some(format!(
        "it did not fill `{}`; the denoiser has {}",
        missing.name,
        known()
    ))
}

/// The extents that a slot takes, if a tensor has others.
fn misshapen(slot: &SlotSpec, tensor: &Tensor, images: Option<usize>) -> Option<String> {
    let found = tensor.shape();
    let batch = images.filter(|_| slot.shape.first() == Some(&None));
    let fits =
        |(axis, (found, expected)): (usize, (&usize, &Option<usize>))| match (expected, batch) {
            (Some(expected), _) => found == expected,
            (None, Some(batch)) if axis == 0 => *found == batch || *found == 1,
            (None, _) => true,
        };
    if found.rank() == slot.shape.len() && found.iter().zip(&slot.shape).enumerate().all(fits) {
        return None;
    }
    let extents = slot
        .shape
        .iter()
        .enumerate()
        .map(|(axis, extent)| match (extent, batch) {
            (Some(extent), _) => extent.to_string(),
            (None, Some(1)) if axis == 0 => "1".into(),
            (None, Some(batch)) if axis == 0 => format!("{batch} or 1"),
            (None, _) => "any".into(),
        });
    Some(extents.collect::<Vec<_>>().join(", "))
}

/// A mapper whose answers fit the slots.
pub(crate) struct CheckedMapper {
    mapper: Box<dyn Mapper>,
    slots: Vec<SlotSpec>,
    place: Place,
}

impl CheckedMapper {
    pub(crate) fn new(mapper: Box<dyn Mapper>, slots: &[SlotSpec], plugin: &str) -> Self {
        Self {
            mapper,
            slots: slots.to_vec(),
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
        let problem = misfit(&self.slots, &answer, batch(outputs));
        fitting(answer, problem, &self.place).inspect_err(|_| values.updates.clear())
    }
}

/// A head that predicts what its descriptor says.
pub(crate) struct CheckedHead {
    head: Box<dyn Head>,
    predicts: Predicts,
    place: Place,
}

impl CheckedHead {
    pub(crate) fn new(head: Box<dyn Head>, predicts: Predicts, plugin: &str) -> Self {
        Self {
            head,
            predicts,
            place: Place::new(plugin, Role::Head, "predict"),
        }
    }
}

impl Head for CheckedHead {
    fn values(&self) -> &[ValueSpec] {
        self.head.values()
    }

    fn usage(&self) -> Usage {
        self.head.usage()
    }

    fn forward(&mut self, inputs: &Named, values: &mut Values) -> Result<Named> {
        self.head.forward(inputs, values)
    }

    fn predict(&mut self, outputs: &Named) -> Result<Named> {
        let answer = self.head.predict(outputs)?;
        let problem = self.predicts.misfit(&answer, batch(outputs));
        fitting(answer, problem, &self.place)
    }
}

/// The answer, unless it has a problem.
fn fitting(answer: Named, problem: Option<String>, place: &Place) -> Result<Named> {
    match problem {
        None => Ok(answer),
        Some(problem) => Err(PluginError::Output {
            place: place.clone(),
            problem,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dtta_tensor::Device;

    fn slot(name: &str, shape: &[Option<usize>]) -> SlotSpec {
        SlotSpec {
            name: name.into(),
            meaning: "spatial".into(),
            shape: shape.into(),
        }
    }

    fn named(tensors: &[(&str, &[usize])]) -> Named {
        let tensor = |shape: &[usize]| Tensor::full(shape, 0.0, &Device::cpu()).unwrap();
        tensors
            .iter()
            .map(|(name, shape)| ((*name).to_owned(), tensor(shape)))
            .collect()
    }

    #[test]
    fn holds_answers_to_names_and_shapes() {
        let slots = [
            slot("class", &[None, Some(4)]),
            slot("tokens", &[None, None, Some(3)]),
        ];
        let tokens: (&str, &[usize]) = ("tokens", &[7, 2, 3]);
        for class in [[7, 4], [1, 4]] {
            let fits = named(&[("class", &class), tokens]);
            assert_eq!(misfit(&slots, &fits, Some(7)), None);
        }
        let of_another_batch = named(&[("class", &[7, 4]), ("tokens", &[6, 2, 3])]);
        assert_eq!(misfit(&slots, &of_another_batch, None), None);
        for (answer, word) in [
            (of_another_batch, "[7 or 1, any, 3]"),
            (named(&[]), "did not fill `class`"),
            (named(&[tokens]), "did not fill `class`"),
            (named(&[("embedding", &[7, 4])]), "`class`, `tokens`"),
            (named(&[("class", &[7, 5])]), "[7 or 1, 4]"),
            (named(&[("class", &[4])]), "[7 or 1, 4]"),
            (named(&[tokens, tokens]), "twice"),
        ] {
            let problem = misfit(&slots, &answer, Some(7)).unwrap();
            assert!(problem.contains(word), "{problem}");
        }
        assert!(
            misfit(&[], &named(&[tokens]), None)
                .unwrap()
                .contains("none")
        );
        assert_eq!(misfit(&[], &named(&[]), None), None);
    }

    #[test]
    fn a_first_extent_that_is_fixed_is_no_batch() {
        let slots = [slot("shared", &[Some(2), None])];
        assert_eq!(
            misfit(&slots, &named(&[("shared", &[2, 9])]), Some(7)),
            None
        );
        let problem = misfit(&slots, &named(&[("shared", &[7, 9])]), Some(7)).unwrap();
        assert!(problem.contains("[2, any]"), "{problem}");
    }

    /// Answers with what it is given, and changes a buffer.
    struct Echo;

    impl Mapper for Echo {
        fn values(&self) -> &[ValueSpec] {
            &[]
        }

        fn condition(&mut self, outputs: &Named, values: &mut Values) -> Result<Named> {
            values.updates = outputs.tensors().cloned().enumerate().collect();
            Ok(outputs.clone())
        }

        fn usage(&self) -> Usage {
            Usage::default()
        }
    }

    #[test]
    fn an_answer_that_does_not_fit_changes_no_buffer() {
        let slots = [slot("class", &[None, Some(4)])];
        let mut mapper = CheckedMapper::new(Box::new(Echo), &slots, "echo");
        let mut values = Values::none();
        mapper
            .condition(&named(&[("class", &[2, 4])]), &mut values)
            .unwrap();
        assert_eq!(values.updates.len(), 1);
        let error = mapper
            .condition(&named(&[("class", &[2, 5])]), &mut values)
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("plugin `echo`, mapper.condition: it filled"),
            "{error}"
        );
        assert!(values.updates.is_empty());
    }
}

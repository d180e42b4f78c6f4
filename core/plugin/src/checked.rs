//! Roles whose answers are held to what was promised: a mapper's to the slots that the denoiser published, a head's predictions to
//! what its descriptor says, an objective's to a loss for each image. A wrong name or shape is then the plugin's error, told once and
//! here, and not a puzzle further on; and so is an answer that no gradient passes through, which would change nothing without a word.

use dtta_tensor::{Named, Tensor, TensorError, Usage};
use serde::{Deserialize, Serialize};

use crate::error::{Place, PluginError, Result};
use crate::manifest::Role;
use crate::roles::{Head, Mapper, Objective};
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
        let problem = misfit(&self.slots, &answer, batch(outputs))
            .or_else(|| cut_off(outputs, answer.tensors()));
        fitting(answer, problem, &self.place).inspect_err(|_| values.updates.clear())
    }
}

/// A head that predicts what its descriptor says, if it says that.
pub(crate) struct CheckedHead {
    head: Box<dyn Head>,
    predicts: Option<Predicts>,
    plugin: String,
}

impl CheckedHead {
    pub(crate) fn new(head: Box<dyn Head>, predicts: Option<Predicts>, plugin: &str) -> Self {
        Self {
            head,
            predicts,
            plugin: plugin.into(),
        }
    }

    fn place(&self, function: &'static str) -> Place {
        Place::new(&self.plugin, Role::Head, function)
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
        let answer = self.head.forward(inputs, values)?;
        let problem = cut_off(inputs, answer.tensors());
        fitting(answer, problem, &self.place("forward")).inspect_err(|_| values.updates.clear())
    }

    fn predict(&mut self, outputs: &Named) -> Result<Named> {
        let answer = self.head.predict(outputs)?;
        let predicts = self.predicts.as_ref();
        let problem = predicts.and_then(|predicts| predicts.misfit(&answer, batch(outputs)));
        fitting(answer, problem, &self.place("predict"))
    }
}

/// An objective whose loss can be minimised: a number for the batch or one for each image, none of them NaN or infinite, that depends on
/// the task outputs.
pub(crate) struct CheckedObjective {
    objective: Box<dyn Objective>,
    place: Place,
}

impl CheckedObjective {
    pub(crate) fn new(objective: Box<dyn Objective>, plugin: &str) -> Self {
        Self {
            objective,
            place: Place::new(plugin, Role::Objective, "loss"),
        }
    }

    fn problem(outputs: &Named, loss: &Tensor) -> Result<Option<String>, TensorError> {
        let shape = loss.shape();
        let images = batch(outputs);
        if shape.rank() != 1 || images.is_some_and(|images| shape[0] != 1 && shape[0] != images) {
            let expected = match images {
                Some(images) if images != 1 => format!("[1] or [{images}]"),
                _ => "[1]".into(),
            };
            return Ok(Some(format!(
                "its loss has shape {shape}, expected {expected}"
            )));
        }
        if !loss.is_finite()? {
            return Ok(Some("its loss is NaN or infinite".into()));
        }
        Ok(cut_off(outputs, [loss]))
    }
}

impl Objective for CheckedObjective {
    fn usage(&self) -> Usage {
        self.objective.usage()
    }

    fn loss(&mut self, outputs: &Named) -> Result<Tensor> {
        let loss = self.objective.loss(outputs)?;
        let problem = Self::problem(outputs, &loss).map_err(|error| PluginError::Failed {
            place: self.place.clone(),
            code: error.code().into(),
            message: error.to_string(),
        })?;
        fitting(loss, problem, &self.place)
    }
}

/// What is wrong with an answer that no gradient passes through, where some arrives.
fn cut_off<'a>(inputs: &Named, answer: impl IntoIterator<Item = &'a Tensor>) -> Option<String> {
    let is_cut =
        inputs.tensors().any(Tensor::is_tracked) && !answer.into_iter().any(Tensor::is_tracked);
    is_cut.then(|| {
        "nothing that it returned depends on its inputs through the tape, so that nothing would be adapted; is a tensor detached, or \
         made of `argmax` or of numbers that were read?"
            .into()
    })
}

/// The answer, unless it has a problem.
fn fitting<T>(answer: T, problem: Option<String>, place: &Place) -> Result<T> {
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

    /// A loss as it is given.
    struct Given(Tensor);

    impl Objective for Given {
        fn loss(&mut self, _outputs: &Named) -> Result<Tensor> {
            Ok(self.0.clone())
        }

        fn usage(&self) -> Usage {
            Usage::default()
        }
    }

    #[test]
    fn a_loss_that_cannot_be_minimised_is_the_objectives_error() {
        let made = |numbers: &[f32], shape: &[usize]| {
            Tensor::from_floats(numbers, shape, &Device::cpu()).unwrap()
        };
        let leaf = made(&[1.0, 2.0, 3.0], &[3]).to_leaf().unwrap();
        let outputs = Named::one("logits", leaf.clone());
        let loss = |loss: Tensor, outputs: &Named| {
            let loss = CheckedObjective::new(Box::new(Given(loss)), "given").loss(outputs);
            loss.map(drop).map_err(|error| error.to_string())
        };
        loss(leaf.clone(), &outputs).unwrap();
        loss(leaf.mean(&[], false).unwrap(), &outputs).unwrap();
        let zero = leaf.affine(0.0, 0.0).unwrap();
        let untracked = || made(&[1.0, 2.0, 3.0], &[3]);
        for (wrong, word) in [
            (
                leaf.reshape(&[3, 1]).unwrap(),
                "[3, 1], expected [1] or [3]",
            ),
            (zero.div(&zero).unwrap(), "NaN or infinite"),
            (untracked(), "depends on its inputs through the tape"),
        ] {
            let error = loss(wrong, &outputs).unwrap_err();
            assert!(
                error.starts_with("plugin `given`, objective.loss: ") && error.contains(word),
                "{error}"
            );
        }
        // Where nothing is adapted, nothing has to be tracked.
        loss(untracked(), &Named::one("logits", untracked())).unwrap();
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

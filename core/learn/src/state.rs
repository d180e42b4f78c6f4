//! What is kept between two steps, under names, for checkpoints and for taking a failed step back. Restoring takes each piece out
//! by name; a piece that is missing, and one that is left over, is an error: a checkpoint is whole or refused.

use std::collections::BTreeMap;

use dtta_models::Weights;
use dtta_tensor::Tensor;

use crate::error::{Error, Result};

/// Named tensors and whole numbers. A copy shares the tensors.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Tensors, by path.
    pub tensors: BTreeMap<String, Tensor>,
    /// Whole numbers, by path.
    pub counts: BTreeMap<String, i64>,
}

impl State {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds another state under `prefix/`.
    pub fn put(&mut self, prefix: &str, other: Self) {
        let path = |name: String| format!("{prefix}/{name}");
        let tensors = other.tensors.into_iter();
        self.tensors
            .extend(tensors.map(|(name, tensor)| (path(name), tensor)));
        let counts = other.counts.into_iter();
        self.counts
            .extend(counts.map(|(name, count)| (path(name), count)));
    }

    /// Takes out everything under `prefix/`.
    pub fn take(&mut self, prefix: &str) -> Self {
        fn under<T>(all: &mut BTreeMap<String, T>, prefix: &str) -> BTreeMap<String, T> {
            let prefix = format!("{prefix}/");
            let taken = all.extract_if(.., |name, _| name.starts_with(&prefix));
            taken
                .map(|(name, value)| (name[prefix.len()..].to_owned(), value))
                .collect()
        }
        Self {
            tensors: under(&mut self.tensors, prefix),
            counts: under(&mut self.counts, prefix),
        }
    }

    /// Takes out a number.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn take_count(&mut self, name: &str) -> Result<i64> {
        self.counts
            .remove(name)
            .ok_or_else(|| Error::Missing { name: name.into() })
    }

    /// That nothing is left.
    ///
    /// # Errors
    /// [`Error::Unknown`], naming the first piece.
    pub fn finish(self) -> Result<()> {
        let left = self.tensors.into_keys().chain(self.counts.into_keys());
        match left.into_iter().next() {
            Some(name) => Err(Error::Unknown { name }),
            None => Ok(()),
        }
    }

    /// The state of weights.
    pub fn of_weights(weights: &Weights) -> Self {
        let tensors = weights
            .iter()
            .map(|(_, spec, tensor)| (spec.name.clone(), tensor.detach()));
        Self {
            tensors: tensors.collect(),
            counts: BTreeMap::new(),
        }
    }

    /// Puts every weight back.
    ///
    /// # Errors
    /// [`Error::Missing`] and [`Error::Unknown`]; a tensor of another shape.
    pub fn into_weights(mut self, weights: &mut Weights) -> Result<()> {
        for id in weights.ids() {
            let name = weights.spec(id).name.clone();
            let Some(tensor) = self.tensors.remove(&name) else {
                return Err(Error::Missing { name });
            };
            weights.set(id, tensor)?;
        }
        self.finish()
    }
}

#[cfg(test)]
mod tests {
    use dtta_tensor::Device;

    use super::*;

    #[test]
    fn what_was_put_comes_out_and_nothing_is_left_behind_in_silence() {
        let tensor = Tensor::full(&[1], 2.0, &Device::cpu()).unwrap();
        let mut inner = State::new();
        inner.tensors.insert("first".into(), tensor);
        inner.counts.insert("steps".into(), 3);
        let mut outer = State::new();
        outer.put("optimizer", inner);
        let mut copy = outer.clone();
        let mut inner = copy.take("optimizer");
        copy.finish().unwrap();
        assert_eq!(inner.take_count("steps").unwrap(), 3);
        assert!(matches!(
            inner.take_count("steps"),
            Err(Error::Missing { name }) if name == "steps"
        ));
        assert!(matches!(inner.finish(), Err(Error::Unknown { name }) if name == "first"));
    }
}

//! Tensors with the names that their producer and consumer agree on: features, task outputs, conditions, predictions, targets.

use crate::tensor::Tensor;

/// Named tensors, in the order in which they were given. There are few, so names are found by looking.
#[derive(Debug, Clone, Default)]
pub struct Named(Vec<(String, Tensor)>);

impl Named {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// The only one.
    pub fn one(name: impl Into<String>, tensor: Tensor) -> Self {
        Self(vec![(name.into(), tensor)])
    }

    /// Adds one behind the others.
    pub fn push(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.0.push((name.into(), tensor));
    }

    /// The same with one more.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, tensor: Tensor) -> Self {
        self.push(name, tensor);
        self
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.iter()
            .find_map(|(known, tensor)| (known == name).then_some(tensor))
    }

    /// Every tensor with its name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> + Clone {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Every tensor.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &Tensor> + Clone {
        self.0.iter().map(|(_, tensor)| tensor)
    }

    /// Every name.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same names with what `change` makes of each tensor.
    ///
    /// # Errors
    /// The first that `change` answers with.
    pub fn try_map<E>(
        &self,
        mut change: impl FnMut(&Tensor) -> Result<Tensor, E>,
    ) -> Result<Self, E> {
        self.iter()
            .map(|(name, tensor)| Ok((name.to_owned(), change(tensor)?)))
            .collect()
    }
}

impl From<Vec<(String, Tensor)>> for Named {
    fn from(tensors: Vec<(String, Tensor)>) -> Self {
        Self(tensors)
    }
}

impl FromIterator<(String, Tensor)> for Named {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(tensors: I) -> Self {
        Self(tensors.into_iter().collect())
    }
}

impl Extend<(String, Tensor)> for Named {
    fn extend<I: IntoIterator<Item = (String, Tensor)>>(&mut self, tensors: I) {
        self.0.extend(tensors);
    }
}

impl IntoIterator for Named {
    type Item = (String, Tensor);
    type IntoIter = std::vec::IntoIter<(String, Tensor)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

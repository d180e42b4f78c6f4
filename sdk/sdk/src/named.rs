//! Tensors with names, and the denoiser's slots: what roles take and give.

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::roles::parse;
use crate::tensor::Tensor;

/// Tensors with the names that producer and consumer agree on, in order.
#[derive(Debug, Default)]
pub struct Named(Vec<(String, Tensor)>);

impl Named {
    /// No tensors yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One tensor.
    pub fn one(name: impl Into<String>, tensor: Tensor) -> Self {
        Self::new().with(name, tensor)
    }

    /// These and one more. A name that is there already is taken over by the new tensor.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, tensor: Tensor) -> Self {
        let name = name.into();
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = tensor,
            None => self.0.push((name, tensor)),
        }
        self
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// `unknown-name` if there is none.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.find(name)
            .ok_or_else(|| Error::unknown("tensor", name, self.names()))
    }

    /// The tensor of that name, if there is one.
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, tensor)| tensor)
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(String, Tensor)> for Named {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(tensors: I) -> Self {
        Self(tensors.into_iter().collect())
    }
}

impl IntoIterator for Named {
    type Item = (String, Tensor);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// A conditioning input that the denoiser publishes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// What goes in: `class-embedding` `[B, D]`, `tokens` `[B, L, D]`, `spatial` `[B, C, H, W]`, …
    pub meaning: String,
    /// Extents, outermost first; `None` for one that is known only at a call, such as the batch.
    pub shape: Vec<Option<u32>>,
}

/// All conditioning inputs of the denoiser.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Slots(Vec<Slot>);

impl Slots {
    /// The slots of a denoiser; hosts and tests make them.
    pub fn new(slots: Vec<Slot>) -> Self {
        Self(slots)
    }

    /// The slot of that name.
    ///
    /// # Errors
    /// `invalid-config` if the denoiser has none: a mapper's configuration names its slots.
    pub fn get(&self, name: &str) -> Result<&Slot> {
        self.0.iter().find(|slot| slot.name == name).ok_or_else(|| {
            let error = Error::unknown(
                "slot of the denoiser",
                name,
                self.iter().map(|slot| slot.name.as_str()),
            );
            Error::config(error.message)
        })
    }

    /// Channels, height and width of the slot of that name, which takes maps `[B, C, H, W]`.
    ///
    /// # Errors
    /// `invalid-config` if the denoiser has none of that name, or one of another rank or without fixed extents.
    pub fn spatial(&self, name: &str) -> Result<[u32; 3]> {
        let slot = self.get(name)?;
        let rank = slot.shape.len();
        match slot.shape[..] {
            [_, Some(channels), Some(height), Some(width)] => Ok([channels, height, width]),
            [_, _, _, _] => Err(Error::config(format!(
                "`slot` names `{name}`, whose channels, height or width are not fixed"
            ))),
            _ => Err(Error::config(format!(
                "`slot` names `{name}` of rank {rank}, expected a map [B, C, H, W]"
            ))),
        }
    }

    /// The slots, in the denoiser's order.
    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.0.iter()
    }

    pub(crate) fn parse(document: &[u8]) -> Result<Self> {
        parse(document).map_err(|error| {
            Error::new("invalid-argument", format!("the denoiser's slots: {error}"))
        })
    }
}

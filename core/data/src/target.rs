//! What is known about a sample: named targets of the three types that [`TargetType`] speaks of. They exist only for metrics and
//! training. A dataset gives them names; heads and metrics ask for theirs by name, so that a new kind of task needs no line here.

use std::collections::BTreeMap;

use dtta_base::TargetType;

use crate::{IGNORE, LabelMap, NumberMap};

/// The name under which datasets of classes give the class of an image.
pub const CLASS: &str = "class";

/// One thing that is known about a sample.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// The index of the image's class in the dataset's class names.
    Class(u32),
    /// A class for each pixel.
    Labels(LabelMap),
    /// Numbers for each pixel.
    Numbers(NumberMap),
}

impl Target {
    /// Its type.
    pub fn target_type(&self) -> TargetType {
        match self {
            Self::Class(_) => TargetType::ClassIndex {},
            Self::Labels(_) => label_map(),
            Self::Numbers(map) => number_map(map.shape()[0]),
        }
    }

    /// The class, if it is one.
    pub fn class(&self) -> Option<u32> {
        match self {
            Self::Class(class) => Some(*class),
            _ => None,
        }
    }

    /// The label map, if it is one.
    pub fn labels(&self) -> Option<&LabelMap> {
        match self {
            Self::Labels(map) => Some(map),
            _ => None,
        }
    }

    /// The number map, if it is one.
    pub fn numbers(&self) -> Option<&NumberMap> {
        match self {
            Self::Numbers(map) => Some(map),
            _ => None,
        }
    }

    /// Rows and columns of a map; `None` for a class.
    pub fn extents(&self) -> Option<[usize; 2]> {
        match self {
            Self::Class(_) => None,
            Self::Labels(map) => Some(map.extents()),
            Self::Numbers(map) => Some(map.extents()),
        }
    }
}

impl From<LabelMap> for Target {
    fn from(map: LabelMap) -> Self {
        Self::Labels(map)
    }
}

impl From<NumberMap> for Target {
    fn from(map: NumberMap) -> Self {
        Self::Numbers(map)
    }
}

/// The type of every label map of this crate.
pub(crate) fn label_map() -> TargetType {
    TargetType::LabelMap {
        ignore: IGNORE.into(),
    }
}

/// The type of a number map with so many channels.
pub(crate) fn number_map(channels: usize) -> TargetType {
    TargetType::NumberMap {
        channels,
        invalid: 0.0,
    }
}

/// Everything that is known about a sample, ordered by name.
///
/// ```
/// use dtta_data::{NumberMap, Target, Targets};
/// # fn main() -> Result<(), dtta_data::DataError> {
/// let targets = Targets::new()
///     .with("class", Target::Class(3))
///     .with("depth", NumberMap::new(1, 1, 2, vec![0.5, 0.0])?);
/// assert_eq!(targets.class(), Some(3));
/// let depth = targets.get("depth").and_then(Target::numbers);
/// assert!(depth.is_some_and(|map| map.is_known(0) && !map.is_known(1)));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Targets(BTreeMap<String, Target>);

impl Targets {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a target, in place of one of that name.
    pub fn insert(&mut self, name: impl Into<String>, target: impl Into<Target>) {
        self.0.insert(name.into(), target.into());
    }

    /// The same with one more.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, target: impl Into<Target>) -> Self {
        self.insert(name, target);
        self
    }

    /// The target of that name.
    pub fn get(&self, name: &str) -> Option<&Target> {
        self.0.get(name)
    }

    /// The class index under the name [`CLASS`].
    pub fn class(&self) -> Option<u32> {
        self.get(CLASS).and_then(Target::class)
    }

    /// Every target with its name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Target)> {
        self.0.iter().map(|(name, target)| (name.as_str(), target))
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps those whose name `keep` wants.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| keep(name));
    }

    /// Every map with other extents, its value at (row, column) the old one's at `source(row, column)`; unknown where that does not exist or
    /// lies outside.
    pub(crate) fn rearranged(
        mut self,
        extents: [usize; 2],
        source: impl Fn(usize, usize) -> Option<(usize, usize)>,
    ) -> Self {
        for target in self.0.values_mut() {
            match target {
                Target::Class(_) => {}
                Target::Labels(map) => *map = map.rearranged(extents, &source),
                Target::Numbers(map) => *map = map.rearranged(extents, &source),
            }
        }
        self
    }

    /// Every map mirrored left and right, with the numbers whose sign that changes.
    pub(crate) fn mirrored(self, [height, width]: [usize; 2]) -> Self {
        let mut mirrored = self.rearranged([height, width], |row, column| {
            Some((row, width.checked_sub(column + 1)?))
        });
        for target in mirrored.0.values_mut() {
            if let Target::Numbers(map) = target {
                map.negate();
            }
        }
        mirrored
    }
}

impl FromIterator<(String, Target)> for Targets {
    fn from_iter<I: IntoIterator<Item = (String, Target)>>(targets: I) -> Self {
        Self(targets.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirrored_normal_points_the_other_way() {
        // Pixels (0.6, 0.8) and unknown; x changes its sign, y does not, and what is unknown stays so.
        let map = NumberMap::new(2, 1, 2, vec![0.6, 0.0, 0.8, 0.0]).unwrap();
        let targets = Targets::new()
            .with("normals", map.with_negated_by_flip(vec![0]))
            .with("class", Target::Class(1));
        let mirrored = targets.clone().mirrored([1, 2]);
        let normals = mirrored.get("normals").and_then(Target::numbers).unwrap();
        let bits: Vec<u32> = normals.data().iter().map(|n| n.to_bits()).collect();
        assert_eq!(bits, [0.0, -0.6, 0.0, 0.8f32].map(f32::to_bits));
        assert_eq!(mirrored.class(), Some(1));
        assert_eq!(mirrored.mirrored([1, 2]), targets);
    }

    #[test]
    fn targets_are_ordered_by_name() {
        let targets = Targets::new()
            .with("normals", NumberMap::new(3, 1, 1, vec![1.0; 3]).unwrap())
            .with("labels", LabelMap::new(1, 1, vec![4]).unwrap())
            .with("class", Target::Class(2));
        let types: Vec<String> = targets
            .iter()
            .map(|(name, target)| format!("{name}: {}", target.target_type()))
            .collect();
        assert_eq!(
            types,
            [
                "class: class index",
                "labels: label map",
                "normals: number map of 3 channels"
            ]
        );
        assert!(targets.get("depth").is_none());
    }
}

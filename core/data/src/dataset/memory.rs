//! Samples that a program brings along.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Dataset, LeftOut, Sample, Source};
use crate::{DataError, IGNORE, Image, Target, Targets};

#[derive(Debug)]
struct Memory(Vec<(Image, Targets)>);

impl Source for Memory {
    fn sample(&self, index: usize) -> Result<(Image, Targets), DataError> {
        Ok(self.0[index].clone())
    }

    fn files(&self, _index: usize) -> Vec<(&str, &Path)> {
        Vec::new()
    }
}

pub(super) fn open(
    name: &str,
    class_names: Vec<String>,
    mut samples: Vec<Sample>,
) -> Result<Dataset, DataError> {
    let location = PathBuf::from(name);
    let mut target_types = BTreeMap::new();
    if let Some((first, others)) = samples.split_first() {
        for (name, target) in first.targets.iter() {
            let expected = target.target_type();
            let held = |sample: &Sample| sample.targets.get(name).map(Target::target_type);
            let other = others.iter().find_map(|sample| {
                let actual = held(sample).filter(|actual| !actual.fits(expected))?;
                Some((sample.id.clone(), actual))
            });
            if let Some((id, actual)) = other {
                return Err(DataError::TargetType {
                    target: name.into(),
                    id,
                    expected,
                    actual,
                });
            }
            if others.iter().all(|sample| held(sample).is_some()) {
                target_types.insert(name.to_owned(), expected);
            }
        }
    }
    for sample in &mut samples {
        sample
            .targets
            .retain(|name| target_types.contains_key(name));
        check_labels(sample, class_names.len(), &location)?;
    }
    let labels = samples.iter().map(Sample::class).collect();
    let (ids, samples) = samples
        .into_iter()
        .map(|sample| (sample.id, (sample.image, sample.targets)))
        .unzip();
    Ok(Dataset {
        location,
        ids,
        class_names,
        labels,
        target_types,
        source: Arc::new(Memory(samples)),
        transforms: Vec::new(),
        left_out: LeftOut::default(),
        provenance: None,
    })
}

fn check_labels(sample: &Sample, classes: usize, location: &Path) -> Result<(), DataError> {
    for (name, target) in sample.targets.iter() {
        let labels = target.labels().into_iter().flat_map(|map| map.data());
        let unknown = |label: &&u8| **label != IGNORE && usize::from(**label) >= classes;
        if let Some(&label) = labels.into_iter().find(unknown) {
            return Err(DataError::MapLabel {
                target: name.to_owned(),
                path: location.to_owned(),
                id: Some(sample.id.clone()),
                label,
                classes,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use dtta_base::TargetType;

    use super::*;
    use crate::{CLASS, LabelMap, NumberMap, Selection};

    fn sample(id: &str, targets: Targets) -> Sample {
        Sample {
            id: id.into(),
            image: Image::new(1, 1, 1, vec![0.0]).unwrap(),
            targets,
        }
    }

    fn of_class(class: u32) -> Targets {
        Targets::new().with(CLASS, Target::Class(class))
    }

    fn open(samples: Vec<Sample>) -> Result<Dataset, DataError> {
        Dataset::from_samples("memory", vec!["only".into()], samples)
    }

    #[test]
    fn refuses_samples_that_would_mislead() {
        assert!(matches!(open(vec![]), Err(DataError::Empty { .. })));
        assert!(matches!(
            open(vec![sample("x", of_class(1))]),
            Err(DataError::LabelOutOfRange {
                label: 1,
                classes: 1,
                ..
            })
        ));
        let twice = open(vec![
            sample("x", Targets::new()),
            sample("x", Targets::new()),
        ]);
        assert!(matches!(twice, Err(DataError::DuplicateId { .. })));
        let unlabelled = open(vec![sample("x", Targets::new())]).unwrap();
        let stratified = Selection {
            stratified: true,
            ..Selection::default()
        };
        assert!(matches!(
            unlabelled.select(&stratified, 0),
            Err(DataError::Unlabelled { .. })
        ));
        let map = LabelMap::new(1, 1, vec![1]).unwrap();
        assert!(matches!(
            open(vec![sample("x", Targets::new().with("labels", map))]),
            Err(DataError::MapLabel { label: 1, .. })
        ));
        let large = LabelMap::new(1, 2, vec![0, 0]).unwrap();
        let dataset = open(vec![sample("x", Targets::new().with("labels", large))]).unwrap();
        assert!(matches!(
            dataset.sample(0),
            Err(DataError::MapExtents { target, .. }) if target == "labels"
        ));
    }

    #[test]
    fn a_target_that_some_samples_lack_is_left_out() {
        let depth = NumberMap::new(1, 1, 1, vec![2.0]).unwrap();
        let dataset = open(vec![
            sample("a", of_class(0).with("depth", depth.clone())),
            sample("b", Targets::new().with("depth", depth)),
        ])
        .unwrap();
        let expected = TargetType::NumberMap {
            channels: 1,
            invalid: 0.0,
        };
        let types: Vec<_> = dataset.target_types().iter().collect();
        assert_eq!(types, [(&"depth".to_owned(), &expected)]);
        assert_eq!(dataset.labels(), None);
        assert_eq!(dataset.sample(0).unwrap().class(), None);
    }

    #[test]
    fn refuses_targets_of_one_name_and_two_types() {
        let depth = NumberMap::new(1, 1, 1, vec![2.0]).unwrap();
        let normals = NumberMap::new(3, 1, 1, vec![2.0; 3]).unwrap();
        let refused = open(vec![
            sample("a", Targets::new().with("map", depth)),
            sample("b", Targets::new().with("map", normals)),
        ]);
        assert!(matches!(refused, Err(DataError::TargetType { id, .. }) if id == "b"));
    }
}

//! Which samples of a dataset are used, and in which order, as a function of their ids and a seed.

use std::collections::{BTreeMap, VecDeque};

use dtta_base::keyed_rng;
use rand_chacha::rand_core::Rng;

use super::Dataset;
use crate::DataError;

/// Which of a dataset's samples to use, and in which order; see [`Dataset::select`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Selection {
    /// How many; all that are left after `offset` if `None`.
    pub samples: Option<usize>,
    /// How many of the shuffled samples to leave out before the first.
    pub offset: usize,
    /// Take as many of each class as of any other, to within one.
    pub stratified: bool,
}

impl Dataset {
    /// Numbers of the selected samples, shuffled by `seed`.
    ///
    /// A sample's place in the shuffle is keyed by its id, so it does not depend on how the dataset is stored, and a larger
    /// selection holds a smaller one with the same offset, in the same relative order.
    ///
    /// # Errors
    /// [`DataError::OutOfRange`] if there are not enough samples; [`DataError::Unlabelled`] if `stratified` without labels.
    pub fn select(&self, selection: &Selection, seed: u64) -> Result<Vec<usize>, DataError> {
        let rank = |index: usize| {
            keyed_rng(
                "dataset order",
                &[&seed.to_le_bytes(), self.ids[index].as_bytes()],
            )
            .next_u64()
        };
        let mut order: Vec<(u64, usize)> =
            (0..self.len()).map(|index| (rank(index), index)).collect();
        // Ids differ, so equal ranks still have one order.
        let by_rank = |left: &(u64, usize), right: &(u64, usize)| {
            (left.0, &self.ids[left.1]).cmp(&(right.0, &self.ids[right.1]))
        };
        order.sort_unstable_by(by_rank);
        if selection.stratified {
            let labels = self.labels().ok_or_else(|| DataError::Unlabelled {
                path: self.location.clone(),
            })?;
            order = deal_by_class(&order, labels);
        }
        let start = selection.offset;
        let end = selection.samples.map_or(self.len().max(start), |samples| {
            start.saturating_add(samples)
        });
        let Some(chosen) = order
            .get_mut(start..end)
            .filter(|chosen| !chosen.is_empty())
        else {
            return Err(DataError::OutOfRange {
                start,
                end,
                available: self.len(),
            });
        };
        // Dealing fixes which samples are chosen; a stream must not present the classes in turn.
        chosen.sort_unstable_by(by_rank);
        Ok(chosen.iter().map(|(_, index)| *index).collect())
    }
}

/// Reorders shuffled samples so that classes take turns, each in its shuffled order, until it runs out.
fn deal_by_class(order: &[(u64, usize)], labels: &[u32]) -> Vec<(u64, usize)> {
    let mut piles: BTreeMap<u32, VecDeque<(u64, usize)>> = BTreeMap::new();
    for entry in order {
        piles.entry(labels[entry.1]).or_default().push_back(*entry);
    }
    let mut dealt = Vec::with_capacity(order.len());
    while dealt.len() < order.len() {
        dealt.extend(piles.values_mut().filter_map(VecDeque::pop_front));
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CLASS, Image, Sample, Target, Targets};

    fn dataset(labels: &[u32]) -> Dataset {
        let samples = labels.iter().enumerate().map(|(index, label)| Sample {
            id: format!("test/{index:05}"),
            image: Image::new(1, 1, 1, vec![0.5]).unwrap(),
            targets: Targets::new().with(CLASS, Target::Class(*label)),
        });
        Dataset::from_samples(
            "memory",
            vec!["a".into(), "b".into(), "c".into()],
            samples.collect(),
        )
        .unwrap()
    }

    fn ids(dataset: &Dataset, chosen: &[usize]) -> Vec<String> {
        chosen
            .iter()
            .map(|index| dataset.ids()[*index].clone())
            .collect()
    }

    #[test]
    fn selection_is_keyed_by_id_and_seed() {
        let dataset = dataset(&[0; 50]);
        let all = dataset.select(&Selection::default(), 1).unwrap();
        let mut sorted = all.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
        assert_ne!(all, dataset.select(&Selection::default(), 2).unwrap());
        let some = dataset
            .select(
                &Selection {
                    samples: Some(7),
                    offset: 5,
                    ..Selection::default()
                },
                1,
            )
            .unwrap();
        assert_eq!(some, all[5..12]);

        // The same samples, stored in the opposite order, are selected alike.
        let reversed: Vec<Sample> = (0..50)
            .rev()
            .map(|index| dataset.sample(index).unwrap())
            .collect();
        let reversed =
            Dataset::from_samples("reversed", dataset.class_names().to_vec(), reversed).unwrap();
        let again = reversed.select(&Selection::default(), 1).unwrap();
        assert_eq!(ids(&dataset, &all), ids(&reversed, &again));
    }

    #[test]
    fn stratified_selection_balances_classes() {
        let labels: Vec<u32> = (0..60)
            .map(|index| if index < 40 { 0 } else { 1 + index % 2 })
            .collect();
        let dataset = dataset(&labels);
        let selection = Selection {
            samples: Some(12),
            offset: 3,
            stratified: true,
        };
        let chosen = dataset.select(&selection, 0).unwrap();
        let count = |class| {
            chosen
                .iter()
                .filter(|index| labels[**index] == class)
                .count()
        };
        assert_eq!([count(0), count(1), count(2)], [4, 4, 4]);
        let all = dataset
            .select(
                &Selection {
                    stratified: true,
                    ..Selection::default()
                },
                0,
            )
            .unwrap();
        assert_eq!(all, dataset.select(&Selection::default(), 0).unwrap());
    }

    #[test]
    fn refuses_more_samples_than_there_are() {
        let dataset = dataset(&[0, 1, 2]);
        for (samples, offset) in [
            (Some(4), 0),
            (Some(1), 3),
            (None, 3),
            (Some(0), 0),
            (Some(usize::MAX), usize::MAX),
        ] {
            let selection = Selection {
                samples,
                offset,
                stratified: false,
            };
            let refused = dataset.select(&selection, 0);
            assert!(
                matches!(refused, Err(DataError::OutOfRange { available: 3, .. })),
                "{selection:?}: {refused:?}"
            );
        }
        assert!(matches!(
            dataset.sample(3),
            Err(DataError::OutOfRange { .. })
        ));
    }
}

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
    /// Take as many of each class that occurs as of any other, to within one.
    pub stratified: bool,
}

impl Dataset {
    /// Numbers of the selected samples, shuffled by `seed`.
    ///
    /// A sample's place in the shuffle is keyed by its id, so it does not depend on how the dataset is stored, and a larger
    /// selection holds a smaller one with the same offset, in the same relative order.
    ///
    /// # Errors
    /// [`DataError::OutOfRange`] if there are not enough samples; if `stratified`, [`DataError::Unlabelled`] without labels and
    /// [`DataError::Unbalanced`] if a class has too few.
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
            order = deal_by_class(&order, self.expect_labels()?);
        }
        let start = selection.offset;
        let end = selection.samples.map_or(self.len().max(start), |samples| {
            start.saturating_add(samples)
        });
        if selection.stratified && end <= self.len() {
            self.expect_balance(start, end)?;
        }
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

impl Dataset {
    /// The label of each sample.
    ///
    /// # Errors
    /// [`DataError::Unlabelled`].
    pub(crate) fn expect_labels(&self) -> Result<&[u32], DataError> {
        self.labels().ok_or_else(|| DataError::Unlabelled {
            path: self.location.clone(),
        })
    }

    /// Refuses to deal so many samples that a class runs out before its turn.
    fn expect_balance(&self, start: usize, end: usize) -> Result<(), DataError> {
        let mut held: BTreeMap<u32, usize> = BTreeMap::new();
        for label in self.labels().unwrap_or_default() {
            *held.entry(*label).or_default() += 1;
        }
        // The first class to run out, with its place in a round. It has had all its turns, and its next one is a sample of another class.
        let scarce = held
            .iter()
            .enumerate()
            .min_by_key(|(place, (_, count))| (**count, *place));
        let Some((place, (class, count))) = scarce else {
            return Ok(());
        };
        let balanced = count * held.len() + place;
        if end <= balanced {
            return Ok(());
        }
        Err(DataError::Unbalanced {
            path: self.location.clone(),
            class: self.class_names[*class as usize].clone(),
            held: *count,
            needed: (end - place).div_ceil(held.len()),
            most: balanced.saturating_sub(start),
        })
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
    }

    #[test]
    fn classes_are_balanced_to_within_one_or_the_one_with_too_few_is_named() {
        // 4 of class a, 2 of b, 5 of c: the deal is a b c a b c a, and b is missing next.
        let dataset = dataset(&[0, 2, 0, 2, 1, 2, 0, 2, 1, 2, 0]);
        let labels = dataset.labels().unwrap();
        for offset in 0..12 {
            for samples in (1..12).map(Some).chain([None]) {
                let selection = Selection {
                    samples,
                    offset,
                    stratified: true,
                };
                let end = samples.map_or(11.max(offset), |samples| offset + samples);
                match dataset.select(&selection, 3) {
                    Ok(chosen) => {
                        assert!(end <= 7, "{selection:?}");
                        let count = |class: u32| {
                            let own = |index: &&usize| labels[**index] == class;
                            chosen.iter().filter(own).count()
                        };
                        let counts = [0, 1, 2].map(count);
                        let least = counts.iter().min().unwrap();
                        assert!(counts.iter().all(|n| n - least <= 1), "{counts:?}");
                    }
                    Err(DataError::Unbalanced {
                        class, held, most, ..
                    }) => {
                        assert!((8..=11).contains(&end), "{selection:?}");
                        assert_eq!((class.as_str(), held), ("b", 2));
                        assert_eq!(most, 7usize.saturating_sub(offset));
                    }
                    Err(DataError::OutOfRange { .. }) => assert!(end > 11 || offset >= 11),
                    Err(other) => panic!("{other}"),
                }
            }
        }
        let eight = Selection {
            samples: Some(8),
            stratified: true,
            ..Selection::default()
        };
        let refused = dataset.select(&eight, 0).unwrap_err().to_string();
        assert!(
            refused.contains("2 samples of class `b`, but 3 are needed"),
            "{refused}"
        );
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

//! Datasets: samples with ids that outlive order and subset.
//!
//! A dataset is one of three stored forms (idx files, a folder of images, a packed file) or a list in memory. Byte images stay
//! bytes and image files stay on disk until a sample is asked for; labels and ids are read, and checked, when it is opened.

mod folder;
mod idx;
mod packed;
mod paired;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};

use rand_chacha::rand_core::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::folder::{ColourMode, FolderConfig};
pub use self::idx::{FASHION_MNIST_CLASSES, FASHION_MNIST_FOLDER, IdxConfig, Split};
pub use self::packed::{PackedConfig, Provenance, pack};
pub use self::paired::PairedConfig;
use crate::map::{IGNORE, Maps};
use crate::transform::transform_with_maps;
use crate::{DataError, Image, Transform, keyed_rng};

/// Where samples come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DatasetConfig {
    /// Idx files, as MNIST and Fashion-MNIST are distributed.
    Idx(IdxConfig),
    /// A folder of images: one folder per class, or images alone if there are no labels.
    Folder(FolderConfig),
    /// Images with masks or depth maps, in folders side by side.
    Paired(PairedConfig),
    /// One safetensors file, written by `dtta data pack`.
    Packed(PackedConfig),
}

/// One image with its id, and its label if it has one.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Names the sample in records and keys its noise, such as `test/00042`. It does not depend on order or subset.
    pub id: String,
    /// The image, in [0, 1].
    pub image: Image,
    /// The index of its class in the dataset's class names; it exists only for metrics and training.
    pub label: Option<u32>,
    /// What is known about its pixels, of the image's extents; likewise.
    pub maps: Maps,
}

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

/// An opened dataset. Samples are numbered from 0; numbers depend on the subset that was opened, ids do not.
#[derive(Debug, Clone)]
pub struct Dataset {
    location: PathBuf,
    ids: Vec<String>,
    labels: Option<Vec<u32>>,
    class_names: Vec<String>,
    pixels: Pixels,
    maps: StoredMaps,
    transforms: Vec<Transform>,
    provenance: Option<Provenance>,
}

/// Where a dataset's pixels are until they are asked for.
#[derive(Debug, Clone)]
enum Pixels {
    /// Images of one shape, back to back.
    Bytes { shape: [usize; 3], bytes: Vec<u8> },
    /// One file per image.
    Files {
        paths: Vec<PathBuf>,
        channels: ColourMode,
    },
    /// Images in memory.
    Images(Vec<Image>),
}

/// Where a dataset's maps are.
#[derive(Debug, Clone)]
enum StoredMaps {
    /// It has none.
    None,
    /// Maps of one shape, back to back.
    Bytes(packed::MapBytes),
    /// One file per map.
    Files(paired::MapFiles),
    /// Maps in memory, one entry per sample.
    Memory(Vec<Maps>),
}

impl Dataset {
    /// Opens a dataset. Relative paths start at `base`, the folder of the file that holds `config`.
    ///
    /// # Errors
    /// Any [`DataError`] about missing, unreadable or malformed files; [`DataError::LabelOutOfRange`] and
    /// [`DataError::DuplicateId`] about their contents; [`DataError::DatasetRange`] if a transform leaves [0, 1]. Images of a
    /// folder are decoded only when asked for.
    pub fn open(config: &DatasetConfig, base: &Path) -> Result<Self, DataError> {
        let dataset = match config {
            DatasetConfig::Idx(config) => idx::open(config, base)?,
            DatasetConfig::Folder(config) => folder::open(config, base)?,
            DatasetConfig::Paired(config) => paired::open(config, base)?,
            DatasetConfig::Packed(config) => packed::open(config, base)?,
        };
        dataset.checked()
    }

    /// A dataset of samples in memory, for programs that bring their own. Errors call it `name`. Labels are used only if
    /// every sample has one.
    ///
    /// # Errors
    /// [`DataError::Empty`], [`DataError::LabelOutOfRange`] or [`DataError::DuplicateId`].
    pub fn from_samples(
        name: &str,
        class_names: Vec<String>,
        samples: Vec<Sample>,
    ) -> Result<Self, DataError> {
        let labels = samples.iter().map(|sample| sample.label).collect();
        let (mut ids, mut images, mut maps) = (Vec::new(), Vec::new(), Vec::new());
        for sample in samples {
            ids.push(sample.id);
            images.push(sample.image);
            maps.push(sample.maps);
        }
        let dataset = Self {
            location: PathBuf::from(name),
            ids,
            labels,
            class_names,
            pixels: Pixels::Images(images),
            maps: StoredMaps::Memory(maps),
            transforms: Vec::new(),
            provenance: None,
        };
        dataset.checked()
    }

    /// Number of samples; at least 1.
    #[expect(
        clippy::len_without_is_empty,
        reason = "an empty dataset is refused when it is opened"
    )]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// The file or folder it was opened from, or the name of a dataset in memory.
    pub fn location(&self) -> &Path {
        &self.location
    }

    /// Names of the classes, in label order; empty if the dataset has none.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The samples' ids.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// The samples' labels, if they have them.
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }

    /// Whether its samples have masks, and depth maps.
    pub fn has_maps(&self) -> [bool; 2] {
        match &self.maps {
            StoredMaps::None => [false; 2],
            StoredMaps::Bytes(bytes) => [bytes.has_masks(), bytes.has_depths()],
            StoredMaps::Files(files) => [files.has_masks(), files.has_depths()],
            StoredMaps::Memory(maps) => [
                maps.iter().all(|maps| maps.mask.is_some()),
                maps.iter().all(|maps| maps.depth.is_some()),
            ],
        }
    }

    /// Where a packed sample's images come from and under which licence; `None` for other kinds.
    pub fn provenance(&self) -> Option<&Provenance> {
        self.provenance.as_ref()
    }

    /// Reads one sample and applies the dataset's transforms.
    ///
    /// # Errors
    /// [`DataError::OutOfRange`]; [`DataError::Read`], [`DataError::Decode`], [`DataError::MaskLabel`] and the like for files;
    /// [`DataError::MapExtents`] for a map that does not cover its image; whatever a transform refuses.
    pub fn sample(&self, index: usize) -> Result<Sample, DataError> {
        let Some(id) = self.ids.get(index) else {
            return Err(DataError::OutOfRange {
                start: index,
                end: index.saturating_add(1),
                available: self.len(),
            });
        };
        let image = match &self.pixels {
            Pixels::Bytes { shape, bytes } => {
                let size = shape.iter().product::<usize>();
                Image::from_bytes(*shape, &bytes[index * size..(index + 1) * size])?
            }
            Pixels::Files { paths, channels } => folder::read_image(&paths[index], *channels)?,
            Pixels::Images(images) => images[index].clone(),
        };
        let maps = match &self.maps {
            StoredMaps::None => Maps::default(),
            StoredMaps::Bytes(bytes) => bytes.maps(index)?,
            StoredMaps::Files(files) => Maps {
                mask: files.mask(index)?,
                depth: files.depth(index)?,
            },
            StoredMaps::Memory(maps) => maps[index].clone(),
        };
        let extents = [image.height(), image.width()];
        if let Some((what, found)) = maps.other_than(extents) {
            return Err(DataError::MapExtents {
                id: id.clone(),
                path: self.location.clone(),
                what,
                found,
                image: extents,
            });
        }
        let (image, maps) = transform_with_maps(&self.transforms, image, maps)?;
        Ok(Sample {
            id: id.clone(),
            image,
            label: self.labels.as_ref().map(|labels| labels[index]),
            maps,
        })
    }

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

    /// Refuses what no reader may let through, whatever the stored form.
    fn checked(self) -> Result<Self, DataError> {
        if self.ids.is_empty() {
            return Err(DataError::Empty {
                path: self.location,
                expected: "at least one image",
            });
        }
        if let Some(index) = self
            .transforms
            .iter()
            .position(|step| !step.keeps_unit_range())
        {
            return Err(DataError::DatasetRange { index });
        }
        let classes = self.class_names.len();
        for (id, label) in self.ids.iter().zip(self.labels.iter().flatten()) {
            if *label as usize >= classes {
                let (id, label) = (id.clone(), i64::from(*label));
                return Err(DataError::LabelOutOfRange {
                    path: self.location,
                    id,
                    label,
                    classes,
                });
            }
        }
        if let StoredMaps::Memory(maps) = &self.maps {
            let masks = maps.iter().map(|maps| maps.mask.as_ref());
            for (id, mask) in self.ids.iter().zip(masks) {
                let labels = mask.into_iter().flat_map(|mask| mask.data());
                let unknown = |label: &&u8| **label != IGNORE && usize::from(**label) >= classes;
                if let Some(&label) = labels.into_iter().find(unknown) {
                    let id = Some(id.clone());
                    return Err(DataError::MaskLabel {
                        path: self.location,
                        id,
                        label,
                        classes,
                    });
                }
            }
        }
        let mut seen = HashSet::with_capacity(self.ids.len());
        if let Some(id) = self.ids.iter().find(|id| !seen.insert(id.as_str())) {
            return Err(DataError::DuplicateId {
                id: id.clone(),
                path: self.location,
            });
        }
        Ok(self)
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

    fn dataset(labels: &[u32]) -> Dataset {
        let samples = labels.iter().enumerate().map(|(index, label)| Sample {
            id: format!("test/{index:05}"),
            image: Image::new(1, 1, 1, vec![0.5]).unwrap(),
            label: Some(*label),
            maps: Maps::default(),
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

    #[test]
    fn refuses_samples_that_would_mislead() {
        let sample = |id: &str, label| Sample {
            id: id.into(),
            image: Image::new(1, 1, 1, vec![0.0]).unwrap(),
            label,
            maps: Maps::default(),
        };
        let open = |samples| Dataset::from_samples("memory", vec!["only".into()], samples);
        assert!(matches!(open(vec![]), Err(DataError::Empty { .. })));
        assert!(matches!(
            open(vec![sample("x", Some(1))]),
            Err(DataError::LabelOutOfRange {
                label: 1,
                classes: 1,
                ..
            })
        ));
        let twice = open(vec![sample("x", None), sample("x", None)]);
        assert!(matches!(twice, Err(DataError::DuplicateId { .. })));
        let unlabelled = open(vec![sample("x", None)]).unwrap();
        let stratified = Selection {
            stratified: true,
            ..Selection::default()
        };
        assert!(matches!(
            unlabelled.select(&stratified, 0),
            Err(DataError::Unlabelled { .. })
        ));
    }
}

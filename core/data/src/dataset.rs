//! Datasets: samples with ids that outlive order and subset.
//!
//! A layout is one file under `dataset/` with its configuration and a row in [`DatasetConfig`]; what it opens answers as one
//! [`Source`], so nothing else knows how samples are stored. Byte images stay bytes and image files stay on disk until a sample is
//! asked for; classes and ids are read, and checked, when a dataset is opened.

mod cifar;
mod decode;
mod digest;
mod folder;
mod idx;
mod left_out;
mod memory;
mod npy;
mod packed;
mod paired;
mod partners;
mod png;
mod quantised;
mod select;
mod walk;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dtta_base::TargetType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::cifar::{CifarClasses, CifarConfig, StoredCorruption};
pub(crate) use self::digest::digest;
pub use self::folder::{ClassOrder, ColourMode, FolderConfig};
pub use self::idx::{FASHION_MNIST_CLASSES, FASHION_MNIST_FOLDER, IdxConfig, Split};
pub use self::left_out::LeftOut;
pub use self::packed::{PackedConfig, Provenance, pack};
pub use self::paired::{NumberFolder, PairedConfig, TargetFolder};
use self::quantised::Quantised;
pub use self::select::Selection;
use crate::transform::transform_with_targets;
use crate::{CLASS, DataError, Image, Target, Targets, Transform};

/// Where samples come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DatasetConfig {
    /// Idx files, as MNIST and Fashion-MNIST are distributed.
    Idx(IdxConfig),
    /// A folder of images: one folder per class, or images alone if there are no labels.
    Folder(FolderConfig),
    /// CIFAR-10 or CIFAR-100, clean or from CIFAR-10-C or CIFAR-100-C.
    Cifar(CifarConfig),
    /// Images with label maps or number maps, in folders side by side.
    Paired(PairedConfig),
    /// One safetensors file, written by `dtta data pack`.
    Packed(PackedConfig),
}

impl DatasetConfig {
    /// The file or folder that it names.
    pub fn path(&self) -> &Path {
        match self {
            Self::Idx(config) => &config.path,
            Self::Folder(config) => &config.path,
            Self::Cifar(config) => &config.path,
            Self::Paired(config) => &config.images,
            Self::Packed(config) => &config.path,
        }
    }

    fn open(&self, base: &Path) -> Result<Dataset, DataError> {
        match self {
            Self::Idx(config) => idx::open(config, base),
            Self::Folder(config) => folder::open(config, base),
            Self::Cifar(config) => cifar::open(config, base),
            Self::Paired(config) => paired::open(config, base),
            Self::Packed(config) => packed::open(config, base),
        }
    }
}

/// One image with its id and what is known about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Names the sample in records and keys its noise, such as `test/00042`. It does not depend on order or subset.
    pub id: String,
    /// The image, in [0, 1].
    pub image: Image,
    /// What is known about it, for metrics and training only. Maps have the image's extents.
    pub targets: Targets,
}

impl Sample {
    /// The index of its class in the dataset's class names, if it is known.
    pub fn class(&self) -> Option<u32> {
        self.targets.class()
    }
}

/// How a dataset is stored. Samples are numbered as the dataset's ids are; it is asked for none beyond them.
trait Source: fmt::Debug + Send + Sync {
    /// Image and targets of a sample, before any transform. The class under the name [`CLASS`] may be left to the dataset.
    fn sample(&self, index: usize) -> Result<(Image, Targets), DataError>;

    /// The files that a sample is read from, each with what it gives; none where it is made in memory.
    fn files(&self, index: usize) -> Vec<(&str, &Path)>;

    /// How the numbers of a target are stored, where files hold whole numbers.
    fn quantised(&self, _target: &str) -> Option<&Quantised> {
        None
    }
}

/// An opened dataset. Samples are numbered from 0; numbers depend on the subset that was opened, ids do not.
#[derive(Debug, Clone)]
pub struct Dataset {
    location: PathBuf,
    ids: Vec<String>,
    class_names: Vec<String>,
    labels: Option<Vec<u32>>,
    target_types: BTreeMap<String, TargetType>,
    left_out: LeftOut,
    source: Arc<dyn Source>,
    transforms: Vec<Transform>,
    provenance: Option<Provenance>,
}

impl Dataset {
    /// Opens a dataset. Relative paths start at `base`, the folder of the file that holds `config`.
    ///
    /// # Errors
    /// Any [`DataError`] about missing, unreadable or malformed files, [`DataError::NoImages`] about a class without images; [`DataError::LabelOutOfRange`] and
    /// [`DataError::DuplicateId`] about their contents; [`DataError::DatasetRange`] if a transform leaves [0, 1]. Images of a
    /// folder are decoded only when asked for.
    pub fn open(config: &DatasetConfig, base: &Path) -> Result<Self, DataError> {
        config.open(base)?.checked()
    }

    /// A dataset of samples in memory, for programs that bring their own. Errors call it `name`. A target is used only if every
    /// sample has it.
    ///
    /// # Errors
    /// [`DataError::Empty`], [`DataError::LabelOutOfRange`], [`DataError::MapLabel`], [`DataError::TargetType`] or
    /// [`DataError::DuplicateId`].
    pub fn from_samples(
        name: &str,
        class_names: Vec<String>,
        samples: Vec<Sample>,
    ) -> Result<Self, DataError> {
        memory::open(name, class_names, samples)?.checked()
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

    /// The class of each sample (the target [`CLASS`]), if they have one.
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }

    /// The targets that every sample has.
    pub fn target_types(&self) -> &BTreeMap<String, TargetType> {
        &self.target_types
    }

    /// What its folders hold besides, and why it was not taken; nothing for datasets that are not folders.
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// Where a packed sample's images come from and under which licence; `None` for other kinds.
    pub fn provenance(&self) -> Option<&Provenance> {
        self.provenance.as_ref()
    }

    /// Reads one sample and applies the dataset's transforms.
    ///
    /// # Errors
    /// [`DataError::OutOfRange`]; [`DataError::File`], [`DataError::Decode`], [`DataError::MapLabel`] and the like for files;
    /// [`DataError::MapExtents`] for a map that does not cover its image; whatever a transform refuses.
    pub fn sample(&self, index: usize) -> Result<Sample, DataError> {
        let Some(id) = self.ids.get(index) else {
            return Err(DataError::OutOfRange {
                start: index,
                end: index.saturating_add(1),
                available: self.len(),
            });
        };
        let (image, mut targets) = self.source.sample(index)?;
        if let Some(labels) = &self.labels {
            targets.insert(CLASS, Target::Class(labels[index]));
        }
        let extents = [image.height(), image.width()];
        for (name, target) in targets.iter() {
            if let Some(found) = target.extents().filter(|found| *found != extents) {
                return Err(DataError::MapExtents {
                    id: id.clone(),
                    path: self.location.clone(),
                    target: name.to_owned(),
                    found,
                    image: extents,
                });
            }
        }
        let (image, targets) = transform_with_targets(&self.transforms, image, targets)?;
        Ok(Sample {
            id: id.clone(),
            image,
            targets,
        })
    }

    /// The SHA-256 of what all samples are made of, in lower-case hexadecimal: ids, class names and the files that they come from,
    /// or, in memory, pixels and targets. Where the files lie does not matter, nor does what the transforms make of them.
    ///
    /// # Errors
    /// [`DataError::File`].
    pub fn digest(&self) -> Result<String, DataError> {
        digest(&[(self, (0..self.len()).collect())], &[])
    }

    /// Refuses what no layout may let through.
    fn checked(self) -> Result<Self, DataError> {
        if self.ids.is_empty() {
            return Err(DataError::Empty {
                path: self.location,
                expected: "at least one image",
            });
        }
        let leaves = |step: &Transform| !step.keeps_unit_range();
        if let Some(index) = self.transforms.iter().position(leaves) {
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

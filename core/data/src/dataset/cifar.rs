//! CIFAR-10 and CIFAR-100 in their binary version, and CIFAR-10-C and CIFAR-100-C, which are NumPy arrays of the test images under one
//! corruption, five severities one after the other (Hendrycks and Dietterich 2019).
//! Format: <https://www.cs.toronto.edu/~kriz/cifar.html>.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dtta_base::TargetType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::npy::Npy;
use super::{Dataset, LeftOut, Source, Split};
use crate::error::unreadable;
use crate::{CLASS, DataError, Image, Severity, Targets, Transform};

/// Height and width of the images.
const EXTENT: usize = 32;
/// Bytes of an image.
const PIXELS: usize = 3 * EXTENT * EXTENT;
/// Severities in an array of a corruption.
const SEVERITIES: usize = 5;

/// CIFAR images, clean or with a stored corruption.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CifarConfig {
    /// The folder: that of the binary version (`cifar-10-batches-bin`, `cifar-100-binary`), or of the corrupted one (`CIFAR-10-C`).
    pub path: PathBuf,
    /// Which classes.
    pub classes: CifarClasses,
    /// Which samples; of corrupted ones there are only those for testing.
    pub split: Split,
    /// The corruption under which the test images were stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corruption: Option<StoredCorruption>,
    /// Applied to each image, in order, before any corruption.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transforms: Vec<Transform>,
}

/// A corruption that was applied before the images were stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StoredCorruption {
    /// The name of its file, such as `gaussian_noise`.
    pub name: String,
    /// How strong it is.
    pub severity: Severity,
}

/// The classes of CIFAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CifarClasses {
    /// The ten of CIFAR-10.
    Cifar10,
    /// The hundred of CIFAR-100.
    Cifar100,
}

impl CifarClasses {
    fn names(self) -> Vec<String> {
        let names: &[&str] = match self {
            Self::Cifar10 => &CIFAR10,
            Self::Cifar100 => &CIFAR100,
        };
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// The files of a split, and how many label bytes come before each image; the last is the class.
    fn files(self, split: Split) -> (&'static [&'static str], usize) {
        match (self, split) {
            (Self::Cifar10, Split::Test) => (&["test_batch.bin"], 1),
            (Self::Cifar10, Split::Train) => (
                &[
                    "data_batch_1.bin",
                    "data_batch_2.bin",
                    "data_batch_3.bin",
                    "data_batch_4.bin",
                    "data_batch_5.bin",
                ],
                1,
            ),
            (Self::Cifar100, Split::Test) => (&["test.bin"], 2),
            (Self::Cifar100, Split::Train) => (&["train.bin"], 2),
        }
    }
}

const CIFAR10: [&str; 10] = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
];

const CIFAR100: [&str; 100] = [
    "apple",
    "aquarium_fish",
    "baby",
    "bear",
    "beaver",
    "bed",
    "bee",
    "beetle",
    "bicycle",
    "bottle",
    "bowl",
    "boy",
    "bridge",
    "bus",
    "butterfly",
    "camel",
    "can",
    "castle",
    "caterpillar",
    "cattle",
    "chair",
    "chimpanzee",
    "clock",
    "cloud",
    "cockroach",
    "couch",
    "crab",
    "crocodile",
    "cup",
    "dinosaur",
    "dolphin",
    "elephant",
    "flatfish",
    "forest",
    "fox",
    "girl",
    "hamster",
    "house",
    "kangaroo",
    "keyboard",
    "lamp",
    "lawn_mower",
    "leopard",
    "lion",
    "lizard",
    "lobster",
    "man",
    "maple_tree",
    "motorcycle",
    "mountain",
    "mouse",
    "mushroom",
    "oak_tree",
    "orange",
    "orchid",
    "otter",
    "palm_tree",
    "pear",
    "pickup_truck",
    "pine_tree",
    "plain",
    "plate",
    "poppy",
    "porcupine",
    "possum",
    "rabbit",
    "raccoon",
    "ray",
    "road",
    "rocket",
    "rose",
    "sea",
    "seal",
    "shark",
    "shrew",
    "skunk",
    "skyscraper",
    "snail",
    "snake",
    "spider",
    "squirrel",
    "streetcar",
    "sunflower",
    "sweet_pepper",
    "table",
    "tank",
    "telephone",
    "television",
    "tiger",
    "tractor",
    "train",
    "trout",
    "tulip",
    "turtle",
    "wardrobe",
    "whale",
    "willow_tree",
    "wolf",
    "woman",
    "worm",
];

pub(super) fn open(config: &CifarConfig, base: &Path) -> Result<Dataset, DataError> {
    let folder = base.join(&config.path);
    let (source, labels): (Arc<dyn Source>, Vec<u32>) = match &config.corruption {
        None => {
            let (images, labels) = binary(&folder, config)?;
            (Arc::new(images), labels)
        }
        Some(corruption) => {
            let (images, labels) = corrupted(&folder, config, corruption)?;
            (Arc::new(images), labels)
        }
    };
    let prefix = match config.split {
        Split::Train => "train",
        Split::Test => "test",
    };
    Ok(Dataset {
        ids: (0..labels.len())
            .map(|n| format!("{prefix}/{n:05}"))
            .collect(),
        labels: Some(labels),
        class_names: config.classes.names(),
        target_types: [(CLASS.to_owned(), TargetType::ClassIndex {})].into(),
        left_out: LeftOut::default(),
        source,
        transforms: config.transforms.clone(),
        provenance: None,
        location: folder,
    })
}

/// Images plane by plane, and the file of each.
#[derive(Debug)]
struct Binary {
    pixels: Vec<u8>,
    /// Each with the number of images up to its end.
    files: Vec<(PathBuf, usize)>,
}

impl Source for Binary {
    fn sample(&self, index: usize) -> Result<(Image, Targets), DataError> {
        let pixels = &self.pixels[index * PIXELS..(index + 1) * PIXELS];
        Ok((
            Image::from_bytes([3, EXTENT, EXTENT], pixels)?,
            Targets::new(),
        ))
    }

    fn files(&self, index: usize) -> Vec<(&str, &Path)> {
        let file = self.files.iter().find(|(_, end)| index < *end);
        file.iter()
            .map(|(path, _)| ("images", path.as_path()))
            .collect()
    }
}

fn binary(folder: &Path, config: &CifarConfig) -> Result<(Binary, Vec<u32>), DataError> {
    let (names, label_bytes) = config.classes.files(config.split);
    let mut images = Binary {
        pixels: Vec::new(),
        files: Vec::new(),
    };
    let mut labels = Vec::new();
    for name in names {
        let path = folder.join(name);
        let bytes = fs::read(&path).map_err(unreadable(&path))?;
        let each = label_bytes + PIXELS;
        if bytes.is_empty() || !bytes.len().is_multiple_of(each) {
            return Err(DataError::Records {
                path,
                bytes: bytes.len(),
                each,
            });
        }
        for record in bytes.chunks_exact(each) {
            let (label, pixels) = record.split_at(label_bytes);
            labels.push(u32::from(label[label_bytes - 1]));
            images.pixels.extend(pixels);
        }
        images.files.push((path, labels.len()));
    }
    Ok((images, labels))
}

/// The rows of an array that hold one severity; pixel by pixel, as NumPy has images.
#[derive(Debug)]
struct Corrupted {
    array: Npy,
    labels: PathBuf,
    first: usize,
}

impl Source for Corrupted {
    fn sample(&self, index: usize) -> Result<(Image, Targets), DataError> {
        let path = &self.array.path;
        let mut file = fs::File::open(path).map_err(unreadable(path))?;
        let start = self.array.start + ((self.first + index) * PIXELS) as u64;
        let mut pixels = [0; PIXELS];
        file.seek(SeekFrom::Start(start))
            .map_err(unreadable(path))?;
        file.read_exact(&mut pixels).map_err(unreadable(path))?;
        let planes: Vec<u8> = (0..3)
            .flat_map(|channel| pixels.iter().skip(channel).step_by(3).copied())
            .collect();
        Ok((
            Image::from_bytes([3, EXTENT, EXTENT], &planes)?,
            Targets::new(),
        ))
    }

    fn files(&self, _index: usize) -> Vec<(&str, &Path)> {
        vec![("images", &self.array.path), (CLASS, &self.labels)]
    }
}

fn corrupted(
    folder: &Path,
    config: &CifarConfig,
    corruption: &StoredCorruption,
) -> Result<(Corrupted, Vec<u32>), DataError> {
    let path = folder.join(format!("{}.npy", corruption.name));
    if config.split == Split::Train {
        return Err(DataError::NoTraining { path });
    }
    let array = Npy::open(&path)?;
    let labels = Npy::open(&folder.join("labels.npy"))?;
    let rows = match *array.shape {
        [rows, EXTENT, EXTENT, 3] if array.is_bytes() && rows.is_multiple_of(SEVERITIES) => rows,
        _ => {
            return Err(array.refuse(format!(
                "expected unsigned bytes of [{SEVERITIES} N, {EXTENT}, {EXTENT}, 3]"
            )));
        }
    };
    if *labels.shape != [rows] {
        return Err(labels.refuse(format!("expected [{rows}], one for each image")));
    }
    let each = rows / SEVERITIES;
    let first = each * (usize::from(corruption.severity.get()) - 1);
    let numbers = labels.whole_numbers()?;
    let severity = &numbers[first..first + each];
    if let Some(&label) = severity
        .iter()
        .find(|label| u32::try_from(**label).is_err())
    {
        return Err(labels.refuse(format!("expected labels from 0, found {label}")));
    }
    let classes = severity.iter().map(|&label| label as u32).collect();
    let images = Corrupted {
        array,
        labels: labels.path,
        first,
    };
    Ok((images, classes))
}

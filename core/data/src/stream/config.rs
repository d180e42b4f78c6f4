//! What a stream is configured as, and the domains that its entries stand for.

use std::num::NonZeroU8;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Condition;
use super::order::LabelOrder;
use crate::{
    CifarClasses, CifarConfig, ColourMode, Corrupter, Corruption, DataError, DatasetConfig,
    FolderConfig, Severity, Split, StoredCorruption, Transform,
};

/// Which samples are met, under which conditions, in which order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// Domains in the order in which they are met.
    #[schemars(length(min = 1))]
    pub domains: Vec<DomainConfig>,
    /// Samples in each domain, taken from the dataset after shuffling it by the run's seed; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub samples: Option<usize>,
    /// How many of the shuffled samples to leave out before the first.
    #[serde(default)]
    pub offset: usize,
    /// Take as many samples of each class that occurs as of any other, to within one. A class with too few is refused.
    #[serde(default)]
    pub stratified: bool,
    /// In which order a domain's samples come.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: LabelOrder,
    /// Shuffle the samples of all domains among each other, so that batches hold samples of several domains. Scores are still of each domain.
    /// `/adaptation/mode/reset: domain` then resets when all of them were met.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mixed: bool,
    /// How often all domains are met, one round after the other, with the same samples and noise: a long stream. The domains of the second
    /// round are called as in `fog/5 #2`.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub rounds: NonZeroU8,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn once() -> NonZeroU8 {
    NonZeroU8::MIN
}

fn is_once(rounds: &NonZeroU8) -> bool {
    *rounds == once()
}

/// One part of a stream. `dataset`, `samples` and `offset` stand for the stream's own where they are given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum DomainConfig {
    /// A dataset's images as they are.
    Clean {
        /// Name in records and reports; `clean` if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Where its samples come from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dataset: Option<DatasetConfig>,
        /// Samples in this domain.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1))]
        samples: Option<usize>,
        /// How many of the shuffled samples to leave out before the first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<usize>,
    },
    /// Each image corrupted, with noise of its own.
    Corrupted {
        /// What is done to the images.
        corruption: Corruption,
        /// How strongly.
        severity: Severity,
        /// For `frost` alone: the folder of ImageNet-C's pictures `frost1.png` to `frost5.jpg`, which are not shipped. The Python package
        /// `imagecorruptions` has them in `imagecorruptions/frost`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        frost: Option<PathBuf>,
        /// Name in records and reports; corruption and severity, as in `fog/3`, if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Where its samples come from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dataset: Option<DatasetConfig>,
        /// Samples in this domain.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1))]
        samples: Option<usize>,
        /// How many of the shuffled samples to leave out before the first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<usize>,
    },
    /// A `corrupted` domain for each of some severities, called as in `fog/3`; where one comes again, as in `fog/3 (2)`.
    Gradual {
        /// What is done to the images.
        corruption: Corruption,
        /// How strongly, one domain after the other; if absent up to 5 and down again (CoTTA, Wang et al. 2022).
        #[serde(default = "up_and_down")]
        #[schemars(length(min = 1))]
        severities: Vec<Severity>,
        /// For `frost` alone: the folder of ImageNet-C's pictures, as of `corrupted`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        frost: Option<PathBuf>,
        /// Where its samples come from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dataset: Option<DatasetConfig>,
        /// Samples in each of these domains.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1))]
        samples: Option<usize>,
        /// How many of the shuffled samples to leave out before the first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<usize>,
    },
    /// Images that are corrupted in their files, such as a folder of ImageNet-C.
    Stored {
        /// Name in records and reports, such as `fog/5`.
        name: String,
        /// Where its samples come from.
        dataset: DatasetConfig,
        /// Samples in this domain.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1))]
        samples: Option<usize>,
        /// How many of the shuffled samples to leave out before the first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<usize>,
    },
    /// A `stored` domain for each corruption of a benchmark at each severity, called as in `fog/5`; corruption by corruption.
    Benchmark {
        /// Which.
        benchmark: Benchmark,
        /// Its folder.
        path: PathBuf,
        /// Corruptions, as their folders or files are called.
        #[schemars(length(min = 1))]
        corruptions: Vec<String>,
        /// Severities.
        #[schemars(length(min = 1))]
        severities: Vec<Severity>,
        /// Applied to each image, in order; none brings ImageNet-C's images as they are stored.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        transforms: Vec<Transform>,
        /// Samples in each of these domains.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1))]
        samples: Option<usize>,
        /// How many of the shuffled samples to leave out before the first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<usize>,
    },
}

/// From 1 to 5 and back to 1.
fn up_and_down() -> Vec<Severity> {
    let down = Severity::ALL.into_iter().rev().skip(1);
    Severity::ALL.into_iter().chain(down).collect()
}

impl StreamConfig {
    /// The datasets that its domains name, each once.
    pub fn datasets(&self) -> Vec<DatasetConfig> {
        let mut datasets = Vec::new();
        for parts in self.domains.iter().flat_map(DomainConfig::parts) {
            datasets.extend(parts.dataset.filter(|dataset| !datasets.contains(dataset)));
        }
        datasets
    }
}

/// A benchmark of images that are distributed corrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Benchmark {
    /// ImageNet-C: `corruption/severity/wnid/image.JPEG`, of 224 × 224 pixels.
    ImagenetC,
    /// CIFAR-10-C: `corruption.npy` and `labels.npy`.
    Cifar10C,
    /// CIFAR-100-C, likewise.
    Cifar100C,
}

impl Benchmark {
    /// The images of one corruption.
    fn dataset(
        self,
        path: &Path,
        name: &str,
        severity: Severity,
        transforms: &[Transform],
    ) -> DatasetConfig {
        let classes = match self {
            Self::ImagenetC => {
                return DatasetConfig::Folder(FolderConfig {
                    path: path.join(name).join(severity.to_string()),
                    channels: ColourMode::Rgb,
                    class_order: None,
                    transforms: transforms.to_vec(),
                });
            }
            Self::Cifar10C => CifarClasses::Cifar10,
            Self::Cifar100C => CifarClasses::Cifar100,
        };
        DatasetConfig::Cifar(CifarConfig {
            path: path.to_owned(),
            classes,
            split: Split::Test,
            corruption: Some(StoredCorruption {
                name: name.to_owned(),
                severity,
            }),
            transforms: transforms.to_vec(),
        })
    }
}

/// A condition as it is configured.
pub(super) enum ConditionConfig {
    Clean,
    Corrupted(Corruption, Severity, Option<PathBuf>),
    Stored,
}

impl ConditionConfig {
    pub fn open(self, base: &Path) -> Result<Condition, DataError> {
        Ok(match self {
            Self::Clean => Condition::Clean,
            Self::Corrupted(corruption, severity, frost) => {
                let frost = frost.map(|folder| base.join(folder));
                Condition::Corrupted(Corrupter::new(corruption, severity, frost.as_deref())?)
            }
            Self::Stored => Condition::Stored,
        })
    }
}

/// A domain, of whatever kind it was.
pub(super) struct Parts {
    pub name: String,
    pub condition: ConditionConfig,
    pub dataset: Option<DatasetConfig>,
    pub samples: Option<usize>,
    pub offset: Option<usize>,
}

impl DomainConfig {
    /// The domains that it stands for.
    pub(super) fn parts(&self) -> Vec<Parts> {
        let one = match self.clone() {
            Self::Clean {
                name,
                dataset,
                samples,
                offset,
            } => Parts {
                name: name.unwrap_or_else(|| "clean".into()),
                condition: ConditionConfig::Clean,
                dataset,
                samples,
                offset,
            },
            Self::Corrupted {
                corruption,
                severity,
                frost,
                name,
                dataset,
                samples,
                offset,
            } => Parts {
                name: name.unwrap_or_else(|| format!("{corruption}/{severity}")),
                condition: ConditionConfig::Corrupted(corruption, severity, frost),
                dataset,
                samples,
                offset,
            },
            Self::Gradual {
                corruption,
                severities,
                frost,
                dataset,
                samples,
                offset,
            } => {
                let at = |(place, &severity): (usize, &Severity)| {
                    let before = severities[..place].iter().filter(|&&s| s == severity);
                    let again = match before.count() {
                        0 => String::new(),
                        times => format!(" ({})", times + 1),
                    };
                    Parts {
                        name: format!("{corruption}/{severity}{again}"),
                        condition: ConditionConfig::Corrupted(corruption, severity, frost.clone()),
                        dataset: dataset.clone(),
                        samples,
                        offset,
                    }
                };
                return severities.iter().enumerate().map(at).collect();
            }
            Self::Stored {
                name,
                dataset,
                samples,
                offset,
            } => Parts {
                name,
                condition: ConditionConfig::Stored,
                dataset: Some(dataset),
                samples,
                offset,
            },
            Self::Benchmark {
                benchmark,
                path,
                corruptions,
                severities,
                transforms,
                samples,
                offset,
            } => {
                let at = |name: &str, severity| Parts {
                    name: format!("{name}/{severity}"),
                    condition: ConditionConfig::Stored,
                    dataset: Some(benchmark.dataset(&path, name, severity, &transforms)),
                    samples,
                    offset,
                };
                let each = corruptions
                    .iter()
                    .map(|name| severities.iter().map(|&severity| at(name, severity)));
                return each.flatten().collect();
            }
        };
        vec![one]
    }
}

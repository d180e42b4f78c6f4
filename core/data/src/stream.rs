//! The stream of test samples: domains one after the other, each the same selected samples under another condition. A condition is a
//! corruption that is computed, or a dataset of images that were corrupted before they were stored.
//!
//! A stream is indexed, not consumed: item `k` is computed from the configuration, the datasets and the seed alone, so a run can
//! stop and continue at any position, and shards can share one stream. A sample is known by its id: one of the same id is the same
//! sample in every dataset.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use dtta_base::TargetType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dataset::digest;
use crate::{
    CifarClasses, CifarConfig, ColourMode, Corrupter, Corruption, DataError, Dataset,
    DatasetConfig, FolderConfig, Image, Selection, Severity, Split, StoredCorruption, Targets,
    Transform,
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
enum ConditionConfig {
    Clean,
    Corrupted(Corruption, Severity, Option<PathBuf>),
    Stored,
}

impl ConditionConfig {
    fn open(self, base: &Path) -> Result<Condition, DataError> {
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
struct Parts {
    name: String,
    condition: ConditionConfig,
    dataset: Option<DatasetConfig>,
    samples: Option<usize>,
    offset: Option<usize>,
}

impl DomainConfig {
    /// The domains that it stands for.
    fn parts(&self) -> Vec<Parts> {
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

/// What was done to a domain's images.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// Nothing.
    Clean,
    /// A corruption at one severity, computed when a sample is read.
    Corrupted(Corrupter),
    /// Something before they were stored.
    Stored,
}

/// A part of a stream, resolved against its dataset.
#[derive(Debug, Clone, PartialEq)]
pub struct Domain {
    /// Name in records and reports, unique in the stream.
    pub name: String,
    /// What was done to its images.
    pub condition: Condition,
    /// Which of the stream's datasets it takes its samples from.
    dataset: usize,
    /// Numbers of its samples in the dataset, in stream order.
    indices: Vec<usize>,
}

impl Domain {
    /// Number of samples; at least 1.
    #[expect(
        clippy::len_without_is_empty,
        reason = "an empty domain is refused when the stream is made"
    )]
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// The files that are laid over its images.
    fn pictures(&self) -> impl Iterator<Item = &Path> {
        let files = match &self.condition {
            Condition::Corrupted(corrupter) => corrupter.files(),
            Condition::Clean | Condition::Stored => &[],
        };
        files.iter().map(PathBuf::as_path)
    }

    /// Whether something was done to its images, so that models meet what they were not trained on.
    pub fn is_shifted(&self) -> bool {
        self.condition != Condition::Clean
    }
}

/// One sample of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamItem {
    /// Place in the stream, from 0.
    pub position: usize,
    /// The index of its domain in [`Stream::domains`].
    pub domain: usize,
    /// The dataset's id of the sample; the same in each domain.
    pub id: String,
    /// The image under the domain's condition, in [0, 1].
    pub image: Image,
    /// What is known about it, for metrics only.
    pub targets: Targets,
}

impl StreamItem {
    /// The index of its class, if it is known.
    pub fn class(&self) -> Option<u32> {
        self.targets.class()
    }
}

/// An ordered list of samples, cut into domains.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Those that domains take samples from, in the order in which they are met; at least one.
    datasets: Vec<Dataset>,
    domains: Vec<Domain>,
    seed: u64,
}

impl Stream {
    /// Resolves a configuration against the stream's dataset, which domains that name their own do not need. Their relative paths start
    /// at `base`, the folder of the file that holds `config`. `seed` (the run's) fixes selection, order and noise.
    ///
    /// # Errors
    /// [`DataError::NoDomains`], [`DataError::DuplicateDomain`], [`DataError::NoDataset`]; [`DataError::OutOfRange`] if a domain asks
    /// for more samples than there are; [`DataError::Unlabelled`] if `stratified` without labels; [`DataError::Disagreement`] if two
    /// datasets differ in class names or targets; whatever [`Dataset::open`] refuses.
    pub fn new(
        config: &StreamConfig,
        dataset: impl Into<Option<Dataset>>,
        base: &Path,
        seed: u64,
    ) -> Result<Self, DataError> {
        let mut own = dataset.into();
        let mut names = HashSet::new();
        let mut opened: Vec<(Option<DatasetConfig>, Dataset)> = Vec::new();
        let mut domains: Vec<Domain> = Vec::new();
        for parts in config.domains.iter().flat_map(DomainConfig::parts) {
            if !names.insert(parts.name.clone()) {
                return Err(DataError::DuplicateDomain { name: parts.name });
            }
            let known = opened
                .iter()
                .position(|(config, _)| *config == parts.dataset);
            let place = match known {
                Some(place) => place,
                None => {
                    let dataset = match &parts.dataset {
                        Some(config) => Dataset::open(config, base)?,
                        None => own.take().ok_or_else(|| DataError::NoDataset {
                            domain: parts.name.clone(),
                        })?,
                    };
                    if let (Some((_, first)), Some(domain)) = (opened.first(), domains.first()) {
                        agree(&domain.name, first, &parts.name, &dataset)?;
                    }
                    opened.push((parts.dataset, dataset));
                    opened.len() - 1
                }
            };
            let selection = Selection {
                samples: parts.samples.or(config.samples),
                offset: parts.offset.unwrap_or(config.offset),
                stratified: config.stratified,
            };
            domains.push(Domain {
                name: parts.name,
                condition: parts.condition.open(base)?,
                dataset: place,
                indices: opened[place].1.select(&selection, seed)?,
            });
        }
        if domains.is_empty() {
            return Err(DataError::NoDomains);
        }
        Ok(Self {
            datasets: opened.into_iter().map(|(_, dataset)| dataset).collect(),
            domains,
            seed,
        })
    }

    /// Number of samples in all domains together; at least 1.
    #[expect(
        clippy::len_without_is_empty,
        reason = "an empty stream is refused when it is made"
    )]
    pub fn len(&self) -> usize {
        self.domains.iter().map(Domain::len).sum()
    }

    /// The domains in order.
    pub fn domains(&self) -> &[Domain] {
        &self.domains
    }

    /// The datasets that the domains take samples from, in the order in which they are met.
    pub fn datasets(&self) -> &[Dataset] {
        &self.datasets
    }

    /// Names of the classes, in label order; empty if the datasets have none.
    pub fn class_names(&self) -> &[String] {
        self.datasets[0].class_names()
    }

    /// The targets that every sample has.
    pub fn target_types(&self) -> &BTreeMap<String, TargetType> {
        self.datasets[0].target_types()
    }

    /// What is computed in each domain, for protocols: corruption, severity and scale, as for its first image; `None` where images are taken
    /// as they are stored.
    ///
    /// # Errors
    /// Whatever [`Dataset::sample`] refuses.
    pub fn corruptions(&self) -> Result<Vec<Option<String>>, DataError> {
        let in_words = |domain: &Domain| match &domain.condition {
            Condition::Clean | Condition::Stored => Ok(None),
            Condition::Corrupted(corrupter) => {
                let first = self.datasets[domain.dataset].sample(domain.indices[0])?;
                let (height, width) = (first.image.height(), first.image.width());
                Ok(Some(corrupter.in_words(height, width)))
            }
        };
        self.domains.iter().map(in_words).collect()
    }

    /// The sample at a position, read and corrupted now.
    ///
    /// # Errors
    /// [`DataError::OutOfRange`]; whatever [`Dataset::sample`] refuses.
    pub fn item(&self, position: usize) -> Result<StreamItem, DataError> {
        let mut within = position;
        for (number, domain) in self.domains.iter().enumerate() {
            if let Some(index) = domain.indices.get(within) {
                let sample = self.datasets[domain.dataset].sample(*index)?;
                let image = match &domain.condition {
                    Condition::Clean | Condition::Stored => sample.image,
                    Condition::Corrupted(corrupter) => {
                        corrupter.corrupt(&sample.image, self.seed, &sample.id)
                    }
                };
                return Ok(StreamItem {
                    position,
                    domain: number,
                    id: sample.id,
                    image,
                    targets: sample.targets,
                });
            }
            within -= domain.len();
        }
        Err(DataError::OutOfRange {
            start: position,
            end: position.saturating_add(1),
            available: self.len(),
        })
    }

    /// All samples in order, each read when the iterator reaches it; `skip` is cheap, so it continues a stopped run.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Result<StreamItem, DataError>> + '_ {
        (0..self.len()).map(|position| self.item(position))
    }

    /// The SHA-256 of what the samples are made of, in lower-case hexadecimal: their ids, the class names, and the files that they come
    /// from, or, in memory, pixels and targets. Where the files lie does not matter. What the configuration makes of them (transforms,
    /// corruptions, order) is not in it.
    ///
    /// # Errors
    /// [`DataError::File`].
    pub fn digest(&self) -> Result<String, DataError> {
        let mut used = vec![BTreeSet::new(); self.datasets.len()];
        for domain in &self.domains {
            used[domain.dataset].extend(&domain.indices);
        }
        let parts = self.datasets.iter().zip(used).map(|(dataset, indices)| {
            let mut indices: Vec<usize> = indices.into_iter().collect();
            indices.sort_unstable_by_key(|index| &dataset.ids()[*index]);
            (dataset, indices)
        });
        let pictures = self.domains.iter().flat_map(Domain::pictures);
        digest(&parts.collect::<Vec<_>>(), &pictures.collect::<Vec<_>>())
    }
}

/// Refuses a dataset that one model cannot be scored on together with the first one.
fn agree(
    first_domain: &str,
    first: &Dataset,
    domain: &str,
    dataset: &Dataset,
) -> Result<(), DataError> {
    let refuse = |what, expected: String, actual: String| {
        Err(DataError::Disagreement {
            domain: domain.into(),
            first: first_domain.into(),
            what,
            expected,
            actual,
        })
    };
    let (expected, actual) = (first.class_names(), dataset.class_names());
    if expected != actual {
        return refuse("class names", list(expected), list(actual));
    }
    let (expected, actual) = (first.target_types(), dataset.target_types());
    let alike = expected.len() == actual.len()
        && expected
            .iter()
            .zip(actual)
            .all(|((expected_name, expected), (name, actual))| {
                expected_name == name && expected.fits(*actual)
            });
    if !alike {
        let texts = |types: &BTreeMap<String, TargetType>| {
            let texts = types
                .iter()
                .map(|(name, found)| format!("{name} ({found})"));
            list(&texts.collect::<Vec<_>>())
        };
        return refuse("targets", texts(expected), texts(actual));
    }
    Ok(())
}

/// The first few of some texts.
fn list(texts: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = texts[..texts.len().min(SHOWN)].join(", ");
    match texts.len() {
        0 => "none".into(),
        count if count > SHOWN => format!("{shown}, … ({count})"),
        _ => shown,
    }
}

#[cfg(test)]
mod tests;

//! The stream of test samples: domains one after the other or mixed, each the same selected samples under another condition. A condition is
//! a corruption that is computed, or a dataset of images that were corrupted before they were stored.
//!
//! A stream is indexed, not consumed: item `k` is computed from the configuration, the datasets and the seed alone, so a run can
//! stop and continue at any position, and shards can share one stream. A sample is known by its id: one of the same id is the same
//! sample in every dataset.

mod config;
mod order;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dtta_base::TargetType;

pub use self::config::{Benchmark, DomainConfig, StreamConfig};
pub use self::order::{Concentration, LabelOrder, Order};
use crate::dataset::digest;
use crate::{Corrupter, DataError, Dataset, DatasetConfig, Image, Selection, Targets};

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
    indices: Arc<[usize]>,
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
    /// Its place in the domain, from 0.
    pub place: usize,
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
    /// All rounds of them.
    domains: Vec<Domain>,
    order: Order,
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
            let dataset = &opened[place].1;
            let mut indices = dataset.select(&selection, seed)?;
            if let LabelOrder::Dirichlet { concentration } = config.labels {
                let labels = dataset.expect_labels()?;
                indices = order::dealt(&indices, labels, concentration, seed);
            }
            domains.push(Domain {
                name: parts.name,
                condition: parts.condition.open(base)?,
                dataset: place,
                indices: indices.into(),
            });
        }
        if domains.is_empty() {
            return Err(DataError::NoDomains);
        }
        let first_round = domains.clone();
        for round in 2..=config.rounds.get() {
            for domain in &first_round {
                let name = format!("{} #{round}", domain.name);
                if !names.insert(name.clone()) {
                    return Err(DataError::DuplicateDomain { name });
                }
                domains.push(Domain {
                    name,
                    ..domain.clone()
                });
            }
        }
        let lengths: Vec<usize> = domains.iter().map(Domain::len).collect();
        Ok(Self {
            order: Order::new(config, &lengths, seed),
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
        let Some((number, place)) = self.order.place(position) else {
            return Err(DataError::OutOfRange {
                start: position,
                end: position.saturating_add(1),
                available: self.len(),
            });
        };
        let domain = &self.domains[number];
        let sample = self.datasets[domain.dataset].sample(domain.indices[place])?;
        let image = match &domain.condition {
            Condition::Clean | Condition::Stored => sample.image,
            Condition::Corrupted(corrupter) => {
                corrupter.corrupt(&sample.image, self.seed, &sample.id)
            }
        };
        Ok(StreamItem {
            position,
            domain: number,
            place,
            id: sample.id,
            image,
            targets: sample.targets,
        })
    }

    /// Which sample of which domain each position is.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// The same domains, one after the other.
    #[must_use]
    pub fn in_turn(&self) -> Self {
        let lengths: Vec<usize> = self.domains.iter().map(Domain::len).collect();
        Self {
            order: Order::in_turn(&lengths),
            ..self.clone()
        }
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
            used[domain.dataset].extend(domain.indices.iter());
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

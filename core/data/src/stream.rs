//! The stream of test samples: domains one after the other, each the same selected samples under another condition.
//!
//! A stream is indexed, not consumed: item `k` is computed from the configuration, the dataset and the seed alone, so a run can
//! stop and continue at any position, and shards can share one stream.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Corruption, DataError, Dataset, Image, Maps, Selection, Severity, corrupt};

/// Which samples are met, under which conditions, in which order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// Domains in the order in which they are met.
    pub domains: Vec<DomainConfig>,
    /// Samples in each domain, taken from the dataset after shuffling it by the run's seed; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// How many of the shuffled samples to leave out before the first.
    #[serde(default)]
    pub offset: usize,
    /// Take as many samples of each class as of any other, to within one.
    #[serde(default)]
    pub stratified: bool,
}

/// One part of a stream. `samples` and `offset` stand for the stream's own where they are given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum DomainConfig {
    /// The dataset's images as they are.
    Clean {
        /// Name in records and reports; `clean` if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Samples in this domain.
        #[serde(default, skip_serializing_if = "Option::is_none")]
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
        /// Name in records and reports; corruption and severity, as in `fog/3`, if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Samples in this domain.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        samples: Option<usize>,
        /// How many of the shuffled samples to leave out before the first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<usize>,
    },
}

/// What a domain does to its images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Condition {
    /// Nothing.
    Clean,
    /// A corruption at one severity.
    Corrupted {
        /// What is done.
        corruption: Corruption,
        /// How strongly.
        severity: Severity,
    },
}

/// A part of a stream, resolved against the dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Name in records and reports, unique in the stream.
    pub name: String,
    /// What is done to its images.
    pub condition: Condition,
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
    /// The index of its class, for metrics only.
    pub label: Option<u32>,
    /// What is known about its pixels, for metrics only.
    pub maps: Maps,
}

/// An ordered list of samples, cut into domains.
#[derive(Debug, Clone)]
pub struct Stream {
    dataset: Dataset,
    domains: Vec<Domain>,
    seed: u64,
}

impl Stream {
    /// Resolves a configuration against a dataset. `seed` (the run's) fixes selection, order and noise.
    ///
    /// # Errors
    /// [`DataError::NoDomains`], [`DataError::DuplicateDomain`]; [`DataError::OutOfRange`] if a domain asks for more samples than
    /// there are; [`DataError::Unlabelled`] if `stratified` without labels.
    pub fn new(config: &StreamConfig, dataset: Dataset, seed: u64) -> Result<Self, DataError> {
        if config.domains.is_empty() {
            return Err(DataError::NoDomains);
        }
        let mut names = HashSet::new();
        let mut domains = Vec::with_capacity(config.domains.len());
        for domain in &config.domains {
            let (name, condition, samples, offset) = match domain {
                DomainConfig::Clean {
                    name,
                    samples,
                    offset,
                } => (
                    name.clone().unwrap_or_else(|| "clean".into()),
                    Condition::Clean,
                    samples,
                    offset,
                ),
                DomainConfig::Corrupted {
                    corruption,
                    severity,
                    name,
                    samples,
                    offset,
                } => (
                    name.clone()
                        .unwrap_or_else(|| format!("{corruption}/{severity}")),
                    Condition::Corrupted {
                        corruption: *corruption,
                        severity: *severity,
                    },
                    samples,
                    offset,
                ),
            };
            if !names.insert(name.clone()) {
                return Err(DataError::DuplicateDomain { name });
            }
            let selection = Selection {
                samples: samples.or(config.samples),
                offset: offset.unwrap_or(config.offset),
                stratified: config.stratified,
            };
            domains.push(Domain {
                name,
                condition,
                indices: dataset.select(&selection, seed)?,
            });
        }
        Ok(Self {
            dataset,
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

    /// The dataset that the samples come from.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// The sample at a position, read and corrupted now.
    ///
    /// # Errors
    /// [`DataError::OutOfRange`]; whatever [`Dataset::sample`] refuses.
    pub fn item(&self, position: usize) -> Result<StreamItem, DataError> {
        let mut within = position;
        for (
            domain,
            Domain {
                condition, indices, ..
            },
        ) in self.domains.iter().enumerate()
        {
            if let Some(index) = indices.get(within) {
                let sample = self.dataset.sample(*index)?;
                let image = match *condition {
                    Condition::Clean => sample.image,
                    Condition::Corrupted {
                        corruption,
                        severity,
                    } => corrupt(&sample.image, corruption, severity, self.seed, &sample.id),
                };
                return Ok(StreamItem {
                    position,
                    domain,
                    id: sample.id,
                    image,
                    label: sample.label,
                    maps: sample.maps,
                });
            }
            within -= indices.len();
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sample;

    fn dataset(count: usize) -> Dataset {
        let samples = (0..count).map(|index| Sample {
            id: format!("test/{index:05}"),
            image: Image::from_fn([1, 8, 8], |_, row, column| {
                ((row + column + index) % 8) as f32 / 7.0
            })
            .unwrap(),
            label: Some((index % 2) as u32),
            maps: Maps::default(),
        });
        Dataset::from_samples(
            "memory",
            vec!["even".into(), "odd".into()],
            samples.collect(),
        )
        .unwrap()
    }

    fn stream(json: &str, dataset: Dataset, seed: u64) -> Result<Stream, DataError> {
        Stream::new(&serde_json::from_str(json).unwrap(), dataset, seed)
    }

    const NOISE: &str = r#"{ "samples": 6, "domains": [
        { "kind": "clean" },
        { "kind": "corrupted", "corruption": "gaussian_noise", "severity": 3 },
        { "kind": "corrupted", "corruption": "fog", "severity": 1, "name": "mist", "samples": 2, "offset": 1 } ] }"#;

    #[test]
    fn domains_follow_each_other_over_the_same_samples() {
        let stream = stream(NOISE, dataset(20), 5).unwrap();
        let names: Vec<_> = stream
            .domains()
            .iter()
            .map(|domain| (domain.name.as_str(), domain.len()))
            .collect();
        assert_eq!(names, [("clean", 6), ("gaussian_noise/3", 6), ("mist", 2)]);
        let items: Vec<StreamItem> = stream.iter().map(Result::unwrap).collect();
        assert_eq!(items.len(), 14);
        assert_eq!(
            items.iter().map(|item| item.domain).collect::<Vec<_>>(),
            [vec![0; 6], vec![1; 6], vec![2; 2]].concat()
        );
        for place in 0..6 {
            assert_eq!(items[place].id, items[place + 6].id);
            assert_eq!(items[place].label, items[place + 6].label);
            assert_ne!(items[place].image, items[place + 6].image);
        }
        assert_eq!(items[12].id, items[1].id);
        assert_eq!(stream.item(9).unwrap(), items[9]);
        assert!(matches!(
            stream.item(14),
            Err(DataError::OutOfRange { available: 14, .. })
        ));
    }

    #[test]
    fn a_sample_meets_the_same_noise_in_any_subset() {
        let corrupted = |json: &str, dataset: Dataset| {
            let stream = stream(json, dataset, 3).unwrap();
            let items = stream
                .iter()
                .map(Result::unwrap)
                .filter(|item| stream.domains()[item.domain].name == "noise");
            items
                .map(|item| (item.id, item.image))
                .collect::<std::collections::HashMap<_, _>>()
        };
        let noise = r#"{ "kind": "corrupted", "corruption": "shot_noise", "severity": 2, "name": "noise" }"#;
        let all = corrupted(&format!(r#"{{ "domains": [{noise}] }}"#), dataset(20));
        let few = corrupted(
            &format!(r#"{{ "domains": [{{ "kind": "clean" }}, {noise}], "samples": 5 }}"#),
            dataset(12),
        );
        assert_eq!(few.len(), 5);
        for (id, image) in few {
            assert_eq!(all[&id], image);
        }
    }

    #[test]
    fn the_seed_changes_order_and_noise() {
        let images = |seed| {
            stream(NOISE, dataset(20), seed)
                .unwrap()
                .iter()
                .map(Result::unwrap)
                .collect::<Vec<_>>()
        };
        assert_eq!(images(1), images(1));
        assert_ne!(images(1), images(2));
    }

    #[test]
    fn refuses_streams_that_cannot_be_met() {
        let refusal = |json: &str| stream(json, dataset(4), 0).unwrap_err();
        assert!(matches!(
            refusal(r#"{ "domains": [] }"#),
            DataError::NoDomains
        ));
        let twice =
            refusal(r#"{ "domains": [{ "kind": "clean" }, { "kind": "clean", "offset": 1 }] }"#);
        assert!(matches!(twice, DataError::DuplicateDomain { name } if name == "clean"));
        assert!(matches!(
            refusal(r#"{ "domains": [{ "kind": "clean", "samples": 5 }] }"#),
            DataError::OutOfRange { available: 4, .. }
        ));
        assert!(matches!(
            refusal(r#"{ "domains": [{ "kind": "clean" }], "samples": 0 }"#),
            DataError::OutOfRange { .. }
        ));
    }

    #[test]
    fn refuses_unknown_fields_and_severities() {
        for json in [
            r#"{ "domains": [{ "kind": "clean", "severity": 1 }] }"#,
            r#"{ "domains": [{ "kind": "corrupted", "corruption": "fog", "severity": 6 }] }"#,
            r#"{ "domains": [{ "kind": "corrupted", "corruption": "rain", "severity": 1 }] }"#,
            r#"{ "domains": [{ "kind": "clean" }], "shuffle": true }"#,
        ] {
            assert!(
                serde_json::from_str::<StreamConfig>(json).is_err(),
                "{json}"
            );
        }
    }
}

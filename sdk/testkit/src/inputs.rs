//! What a plugin is tried on.

use std::collections::BTreeMap;

use dtta_base::TargetType;
use dtta_plugin::SlotSpec;
use dtta_tensor::{Device, Named, Tensor};
use serde::{Deserialize, Serialize};

/// Tensors by name for each role's arguments, and the denoiser's slots. Elements are drawn from a fixed sequence.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Inputs {
    /// What the backbone gives to a head.
    pub features: BTreeMap<String, TensorSpec>,
    /// Task outputs, which a mapper and an objective take.
    pub outputs: BTreeMap<String, TensorSpec>,
    /// Predictions, which a metric takes.
    pub predictions: BTreeMap<String, TensorSpec>,
    /// Targets, which a metric takes.
    pub targets: BTreeMap<String, TensorSpec>,
    /// Constants that an experiment would bind.
    pub constants: BTreeMap<String, TensorSpec>,
    /// The denoiser's slots, as a mapper hears of them.
    pub slots: Vec<SlotSpec>,
}

/// A tensor to make up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    /// Extents.
    pub shape: Vec<usize>,
    /// Whole numbers below this instead of numbers around 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<i64>,
    /// Numbers from 0 to 1 instead of numbers around 0.
    #[serde(default)]
    pub share: bool,
}

impl TensorSpec {
    /// Numbers around 0.
    pub fn floats(shape: &[usize]) -> Self {
        Self {
            shape: shape.to_vec(),
            below: None,
            share: false,
        }
    }

    /// Whole numbers from 0, below a limit.
    pub fn ints(shape: &[usize], below: i64) -> Self {
        Self {
            below: Some(below),
            ..Self::floats(shape)
        }
    }

    /// Numbers from 0 to 1.
    pub fn shares(shape: &[usize]) -> Self {
        Self {
            share: true,
            ..Self::floats(shape)
        }
    }

    fn make(&self, seed: u64) -> Result<Tensor, String> {
        let count = self.shape.iter().product();
        let device = Device::cpu();
        let unit = |index: usize| {
            // SplitMix64 (Steele et al. 2014): the same numbers everywhere.
            let mut z = (seed << 32)
                .wrapping_add(index as u64 + 1)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
        };
        let made = match self.below {
            Some(limit) => {
                let values: Vec<i64> = (0..count)
                    .map(|index| (unit(index) * limit as f32) as i64)
                    .collect();
                Tensor::from_ints(&values, &self.shape, &device)
            }
            None => {
                let scaled = |index: usize| {
                    if self.share {
                        unit(index)
                    } else {
                        4.0 * unit(index) - 2.0
                    }
                };
                let values: Vec<f32> = (0..count).map(scaled).collect();
                Tensor::from_floats(&values, &self.shape, &device)
            }
        };
        made.map_err(|error| error.to_string())
    }
}

/// A slot for conditions of a shape, named by what it means.
fn slot(meaning: &str, shape: &[usize]) -> SlotSpec {
    let extents = shape.iter().map(|&extent| Some(extent));
    SlotSpec {
        name: meaning.into(),
        meaning: meaning.into(),
        shape: std::iter::once(None).chain(extents).collect(),
    }
}

impl Inputs {
    /// What is tried in turn where an author gives nothing: a classifier of 5 classes, a segmenter of 5 classes, a
    /// depth predictor, a classifier that reads what its classes are; each with what it is called in reports.
    pub fn examples() -> Vec<(&'static str, Self)> {
        let named = |entries: &[(&str, TensorSpec)]| {
            entries
                .iter()
                .map(|(name, spec)| ((*name).to_owned(), spec.clone()))
                .collect()
        };
        let floats = TensorSpec::floats;
        let classifier = Self {
            features: named(&[("logits", floats(&[3, 5])), ("features", floats(&[3, 8]))]),
            outputs: named(&[
                ("logits", floats(&[3, 5])),
                ("probabilities", TensorSpec::shares(&[3, 5])),
            ]),
            predictions: named(&[
                ("class", TensorSpec::ints(&[4], 5)),
                ("confidence", TensorSpec::shares(&[4])),
                ("top-classes", TensorSpec::ints(&[4, 5], 5)),
            ]),
            targets: named(&[("class", TensorSpec::ints(&[4], 5))]),
            constants: named(&[("class-embeddings", floats(&[5, 6]))]),
            slots: vec![slot("class-embedding", &[6])],
        };
        let segmenter = Self {
            features: named(&[
                ("logits", floats(&[2, 5, 8, 8])),
                ("features", floats(&[2, 5, 8, 8])),
            ]),
            outputs: named(&[
                ("logits", floats(&[2, 5, 8, 8])),
                ("probabilities", TensorSpec::shares(&[2, 5, 8, 8])),
            ]),
            predictions: named(&[("labels", TensorSpec::ints(&[2, 8, 8], 5))]),
            targets: named(&[("labels", TensorSpec::ints(&[2, 8, 8], 5))]),
            constants: named(&[("class-embeddings", floats(&[5, 3]))]),
            slots: vec![slot("spatial", &[3, 4, 4])],
        };
        let depth = || named(&[("depth", TensorSpec::shares(&[2, 12, 12]))]);
        let depth_predictor = Self {
            features: named(&[("logits", floats(&[2, 1, 12, 12]))]),
            outputs: depth(),
            predictions: depth(),
            targets: depth(),
            constants: BTreeMap::new(),
            slots: vec![slot("spatial", &[1, 6, 6])],
        };
        // Features that are held against those of texts, and a denoiser that attends to tokens.
        let reader = Self {
            features: named(&[("features", floats(&[3, 8]))]),
            constants: named(&[
                ("text-features", floats(&[5, 8])),
                ("logit-scale", TensorSpec::shares(&[1])),
                ("text-embeddings", floats(&[5, 4, 6])),
            ]),
            slots: vec![slot("tokens", &[4, 6])],
            ..classifier.clone()
        };
        vec![
            ("a classifier of 5 classes", classifier),
            ("a segmenter of 5 classes", segmenter),
            ("a depth predictor", depth_predictor),
            ("a zero-shot classifier of 5 classes", reader),
        ]
    }

    /// Whether a target has the type: class indices, label maps or number maps of so many channels.
    pub(crate) fn has_target(&self, target: &TargetType) -> bool {
        self.targets.values().any(|spec| {
            let (rank, is_whole) = (spec.shape.len(), spec.below.is_some());
            match target {
                TargetType::ClassIndex {} => is_whole && rank == 1,
                TargetType::LabelMap { .. } => is_whole && rank == 3,
                TargetType::NumberMap { channels, .. } => !is_whole && rank == 3 && *channels == 1,
            }
        })
    }

    /// The tensors of one argument. `seed` tells several of one kind apart.
    pub(crate) fn made(
        &self,
        specs: &BTreeMap<String, TensorSpec>,
        seed: u64,
    ) -> Result<Named, String> {
        let make = |(place, (name, spec)): (usize, (&String, &TensorSpec))| {
            Ok((
                name.clone(),
                spec.make(seed.wrapping_mul(31).wrapping_add(place as u64))?,
            ))
        };
        specs.iter().enumerate().map(make).collect()
    }

    pub(crate) fn named(&self, specs: &BTreeMap<String, TensorSpec>) -> Result<Named, String> {
        self.made(specs, 0)
    }
}

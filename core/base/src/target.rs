//! What a target looks like, in the one vocabulary of datasets, heads and metrics: a head says what it predicts, a dataset what it
//! holds, and they are matched by name and type.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The type of a target, and of the prediction that is held to it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TargetType {
    /// One class for each image: an index, int `[B]`.
    ClassIndex {},
    /// One class for each pixel: indices, int `[B, H, W]`.
    LabelMap {
        /// The label of pixels that nothing is known about.
        #[serde(default = "ignored")]
        ignore: i64,
    },
    /// Numbers for each pixel: float `[B, H, W]`, or `[B, C, H, W]` with more channels than one.
    NumberMap {
        /// Numbers of each pixel.
        #[serde(default = "one")]
        #[schemars(range(min = 1))]
        channels: usize,
        /// What every channel holds where nothing is known. Infinities and NaN are nothing either.
        #[serde(default)]
        invalid: f64,
    },
}

fn ignored() -> i64 {
    255
}

fn one() -> usize {
    1
}

impl TargetType {
    /// Whether there is something for each pixel.
    pub fn is_map(self) -> bool {
        !matches!(self, Self::ClassIndex {})
    }

    /// Whether one can be held to the other: of one kind, and with as many channels. Marks of what is unknown may differ, since
    /// datasets translate theirs.
    pub fn fits(self, other: Self) -> bool {
        match (self, other) {
            (Self::ClassIndex {}, Self::ClassIndex {})
            | (Self::LabelMap { .. }, Self::LabelMap { .. }) => true,
            (
                Self::NumberMap { channels, .. },
                Self::NumberMap {
                    channels: others, ..
                },
            ) => channels == others,
            _ => false,
        }
    }
}

impl fmt::Display for TargetType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClassIndex {} => f.write_str("class index"),
            Self::LabelMap { .. } => f.write_str("label map"),
            Self::NumberMap { channels, .. } => write!(f, "number map of {channels} channels"),
        }
    }
}

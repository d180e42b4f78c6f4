//! Test samples for diffusion feedback: datasets, transforms, ImageNet-C's corruptions and streams.
//!
//! Everything here runs on the CPU and knows no tensor library: an [`Image`] is a flat `Vec<f32>` in channel, row, column
//! order. Randomness is a function, not a state: every random choice is keyed by what it is for (see [`dtta_base::keyed_rng`]), so a
//! sample is corrupted in the same way whatever its neighbours, the order or the subset.
//!
//! ```no_run
//! use std::path::Path;
//! use dtta_data::{Dataset, DatasetConfig, Stream, StreamConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dataset: DatasetConfig = serde_json::from_str(r#"{ "kind": "idx", "split": "test" }"#)?;
//! let stream: StreamConfig = serde_json::from_str(
//!     r#"{ "samples": 100, "domains": [{ "kind": "clean" }, { "kind": "corrupted", "corruption": "fog", "severity": 3 }] }"#,
//! )?;
//! let base = Path::new(".");
//! let stream = Stream::new(&stream, Dataset::open(&dataset, base)?, base, 0)?;
//! for item in stream.iter() {
//!     let item = item?;
//!     assert_eq!(item.image.shape(), [1, 28, 28]);
//! }
//! # Ok(())
//! # }
//! ```

mod corruption;
mod dataset;
mod error;
mod image;
mod imagenet;
mod map;
mod objectnet;
mod random;
mod range;
mod stream;
mod target;
mod transform;

pub use crate::corruption::{
    Corrupter, Corruption, Draws, Severity, StoredFormat, write_corrupted,
};
pub use crate::dataset::{
    CifarClasses, CifarConfig, ClassOrder, ColourMode, Dataset, DatasetConfig,
    FASHION_MNIST_CLASSES, FASHION_MNIST_FOLDER, FolderConfig, IdxConfig, LeftOut, NumberFolder,
    PackedConfig, PairedConfig, Provenance, Sample, Selection, Split, StoredCorruption,
    TargetFolder, pack,
};
pub use crate::error::DataError;
pub use crate::image::Image;
pub use crate::imagenet::{imagenet_a, imagenet_r, imagenet_synsets};
pub use crate::map::{IGNORE, LabelMap, NumberMap};
pub use crate::objectnet::{OBJECTNET_MAPPINGS, objectnet};
pub use crate::range::{DepthRange, DepthScale};
pub use crate::stream::{
    Benchmark, Concentration, Condition, Domain, DomainConfig, LabelOrder, Order, Stream,
    StreamConfig, StreamItem,
};
pub use crate::target::{CLASS, Target, Targets};
pub use crate::transform::{
    Augmentation, Filter, Standardize, Transform, View, augment, transform,
};

//! A packed sample: one safetensors file with the byte tensor `images` `[N, C, H, W]`, a tensor for each target, and ids, class names,
//! provenance and a table of the targets as JSON under one metadata key. One key, because safetensors writes its metadata in hash
//! order and a packed file should come out the same, byte for byte, each time.
//!
//! The first format had no table: its tensors `labels`, `masks` and `depths` are the targets `class`, `labels` and `depth`.

mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dtta_base::TargetType;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::write::pack;
use super::quantised::Quantised;
use super::{Dataset, LeftOut, Source};
use crate::error::{bounded, fetched, unreadable};
use crate::image::VALUES_LIMIT;
use crate::target::{label_map, number_map};
use crate::{CLASS, DataError, IGNORE, Image, LabelMap, Target, Targets, Transform};

const METADATA_KEY: &str = "dtta";
const FORMAT: &str = "dtta-packed-sample/2";
const FIRST_FORMAT: &str = "dtta-packed-sample/1";

/// A packed sample, written by `dtta data pack`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PackedConfig {
    /// The `.safetensors` file.
    pub path: PathBuf,
    /// Applied to each image, in order, before any corruption.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transforms: Vec<Transform>,
}

/// Where images come from and what may be done with them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Name and address of the dataset.
    pub source: String,
    /// Its licence, as an SPDX identifier where there is one.
    pub licence: String,
}

/// The JSON under [`METADATA_KEY`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    format: String,
    provenance: Provenance,
    class_names: Vec<String>,
    ids: Vec<String>,
    #[serde(default)]
    targets: BTreeMap<String, Entry>,
    /// Of the first format: what 1 in `depths` stands for.
    #[serde(default, skip_serializing)]
    depth_scale: Option<f32>,
}

/// The tensor that holds a target, and what its values mean.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    tensor: String,
    values: Meaning,
}

/// What the values of a target's tensor mean.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Meaning {
    /// Classes of images, u8 or i64 `[N]`.
    ClassIndex {},
    /// Classes of pixels, u8 `[N, H, W]`, 255 for none.
    LabelMap {},
    /// Numbers of pixels, u16 `[N, H, W]` or `[N, C, H, W]`, 0 in all channels for none.
    NumberMap(Quantised),
}

/// Images of one shape, back to back, with what is known about them.
#[derive(Debug)]
struct Packed {
    path: PathBuf,
    shape: [usize; 3],
    bytes: Vec<u8>,
    targets: BTreeMap<String, Stored>,
}

/// One target of all samples.
enum Stored {
    Classes(Vec<u32>),
    Labels(Vec<u8>),
    Numbers {
        channels: usize,
        raw: Vec<u16>,
        stored: Quantised,
    },
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.target_type())
    }
}

impl Stored {
    fn target_type(&self) -> TargetType {
        match self {
            Self::Classes(_) => TargetType::ClassIndex {},
            Self::Labels(_) => label_map(),
            Self::Numbers { channels, .. } => number_map(*channels),
        }
    }

    /// The target of sample `index`.
    fn target(&self, index: usize, [height, width]: [usize; 2]) -> Result<Target, DataError> {
        let pixels = height * width;
        Ok(match self {
            Self::Classes(classes) => Target::Class(classes[index]),
            Self::Labels(labels) => {
                let labels = &labels[index * pixels..(index + 1) * pixels];
                LabelMap::new(height, width, labels.to_vec())?.into()
            }
            Self::Numbers {
                channels,
                raw,
                stored,
            } => {
                let size = channels * pixels;
                let raw = &raw[index * size..(index + 1) * size];
                stored.read([height, width], raw)?.into()
            }
        })
    }
}

impl Source for Packed {
    fn sample(&self, index: usize) -> Result<(Image, Targets), DataError> {
        let size = self.shape.iter().product::<usize>();
        let image = Image::from_bytes(self.shape, &self.bytes[index * size..(index + 1) * size])?;
        let extents = [self.shape[1], self.shape[2]];
        let targets = self.targets.iter();
        let targets =
            targets.map(|(name, stored)| Ok((name.clone(), stored.target(index, extents)?)));
        Ok((image, targets.collect::<Result<_, DataError>>()?))
    }

    fn files(&self, _index: usize) -> Vec<(&str, &Path)> {
        vec![("packed", &self.path)]
    }

    fn quantised(&self, target: &str) -> Option<&Quantised> {
        match self.targets.get(target)? {
            Stored::Numbers { stored, .. } => Some(stored),
            Stored::Classes(_) | Stored::Labels(_) => None,
        }
    }
}

pub(super) fn open(config: &PackedConfig, base: &Path) -> Result<Dataset, DataError> {
    let path = base.join(&config.path);
    let file = std::fs::read(&path).map_err(unreadable(&path))?;
    fetched(&path, &file)?;
    let mut dataset = decode(&file, &path)?;
    dataset.transforms = config.transforms.clone();
    Ok(dataset)
}

fn decode(file: &[u8], path: &Path) -> Result<Dataset, DataError> {
    let container = |source| DataError::Container {
        path: path.to_owned(),
        source,
    };
    let (_, header) = SafeTensors::read_metadata(file).map_err(container)?;
    let tensors = SafeTensors::deserialize(file).map_err(container)?;
    let metadata = header
        .metadata()
        .as_ref()
        .and_then(|entries| entries.get(METADATA_KEY));
    let metadata = metadata.ok_or_else(|| DataError::MetadataMissing {
        path: path.to_owned(),
        key: METADATA_KEY,
    })?;
    let mut metadata: Metadata =
        serde_json::from_str(metadata).map_err(|source| DataError::Metadata {
            path: path.to_owned(),
            source,
        })?;
    match metadata.format.as_str() {
        FORMAT => {}
        FIRST_FORMAT => metadata.targets = implied(&tensors, metadata.depth_scale),
        _ => {
            return Err(DataError::Format {
                path: path.to_owned(),
                expected: "`dtta-packed-sample/1` and `/2`",
                actual: metadata.format,
            });
        }
    }
    let reader = Reader {
        path,
        tensors: &tensors,
        metadata: &metadata,
    };
    let (shape, bytes) = reader.images()?;
    let targets = metadata
        .targets
        .iter()
        .map(|(name, entry)| Ok((name.clone(), reader.target(name, entry, shape)?)))
        .collect::<Result<BTreeMap<String, Stored>, DataError>>()?;
    let labels = match targets.get(CLASS) {
        Some(Stored::Classes(classes)) => Some(classes.clone()),
        _ => None,
    };
    Ok(Dataset {
        location: path.to_owned(),
        labels,
        target_types: targets
            .iter()
            .map(|(name, stored)| (name.clone(), stored.target_type()))
            .collect(),
        source: Arc::new(Packed {
            path: path.to_owned(),
            shape,
            bytes,
            targets,
        }),
        ids: metadata.ids,
        class_names: metadata.class_names,
        transforms: Vec::new(),
        left_out: LeftOut::default(),
        provenance: Some(metadata.provenance),
    })
}

/// The table that the first format leaves out.
fn implied(tensors: &SafeTensors<'_>, depth_scale: Option<f32>) -> BTreeMap<String, Entry> {
    let depth = Quantised {
        scale: depth_scale.unwrap_or(1.0),
        offset: 0.0,
        negated_by_flip: Vec::new(),
    };
    [
        (CLASS, "labels", Meaning::ClassIndex {}),
        ("labels", "masks", Meaning::LabelMap {}),
        ("depth", "depths", Meaning::NumberMap(depth)),
    ]
    .into_iter()
    .filter(|(_, tensor, _)| tensors.tensor(tensor).is_ok())
    .map(|(name, tensor, values)| {
        let tensor = tensor.to_owned();
        (name.to_owned(), Entry { tensor, values })
    })
    .collect()
}

/// The tensors of a file, held to its metadata.
struct Reader<'a> {
    path: &'a Path,
    tensors: &'a SafeTensors<'a>,
    metadata: &'a Metadata,
}

impl<'a> Reader<'a> {
    fn images(&self) -> Result<([usize; 3], Vec<u8>), DataError> {
        let count = self.metadata.ids.len();
        let view = self.tensors.tensor("images").ok();
        match view.as_ref().map(|view| (view, view.dtype(), view.shape())) {
            Some((view, Dtype::U8, &[images, channels, height, width]))
                if images == count && images > 0 && channels > 0 && height > 0 && width > 0 =>
            {
                let values = (view.data().len() / images) as u64;
                let limit = VALUES_LIMIT as u64;
                bounded(self.path, "values of each image", values, limit)?;
                Ok(([channels, height, width], view.data().to_vec()))
            }
            _ => {
                let expected = format!(
                    "U8 [{count}, channels, height, width], one image for each id and no axis of 0"
                );
                Err(self.mismatch("images", expected, view.as_ref()))
            }
        }
    }

    fn target(
        &self,
        name: &str,
        entry: &Entry,
        [_, height, width]: [usize; 3],
    ) -> Result<Stored, DataError> {
        let count = self.metadata.ids.len();
        let view = self.tensors.tensor(&entry.tensor).ok();
        let refuse = |expected: String| Err(self.mismatch(&entry.tensor, expected, view.as_ref()));
        let map = [count, height, width];
        let found = view.as_ref().map(|view| (view, view.dtype(), view.shape()));
        match (&entry.values, found) {
            (Meaning::ClassIndex {}, Some((view, dtype @ (Dtype::U8 | Dtype::I64), [samples])))
                if *samples == count =>
            {
                Ok(Stored::Classes(self.classes(view.data(), dtype)?))
            }
            (Meaning::ClassIndex {}, _) => refuse(format!("U8 or I64 [{count}]")),
            (Meaning::LabelMap {}, Some((view, Dtype::U8, shape))) if shape == map => {
                self.check_labels(name, view.data(), height * width)?;
                Ok(Stored::Labels(view.data().to_vec()))
            }
            (Meaning::LabelMap {}, _) => refuse(format!("U8 {map:?}, as the images")),
            (Meaning::NumberMap(stored), Some((view, Dtype::U16, shape))) => {
                let channels = match *shape {
                    [_, _, _] if shape == map => 1,
                    [samples, channels, rows, columns]
                        if [samples, rows, columns] == map && channels > 0 =>
                    {
                        channels
                    }
                    _ => return refuse(numbers_expected(map)),
                };
                stored.check(name, channels)?;
                let values = (channels * height * width) as u64;
                let limit = VALUES_LIMIT as u64;
                bounded(self.path, "numbers of each map", values, limit)?;
                let pairs = view.data().as_chunks::<2>().0.iter();
                Ok(Stored::Numbers {
                    channels,
                    raw: pairs.map(|pair| u16::from_le_bytes(*pair)).collect(),
                    stored: stored.clone(),
                })
            }
            (Meaning::NumberMap(_), _) => refuse(numbers_expected(map)),
        }
    }

    fn classes(&self, data: &[u8], dtype: Dtype) -> Result<Vec<u32>, DataError> {
        let classes: Vec<i64> = match dtype {
            Dtype::U8 => data.iter().map(|byte| i64::from(*byte)).collect(),
            _ => {
                let numbers = data.as_chunks::<8>().0.iter();
                numbers.map(|bytes| i64::from_le_bytes(*bytes)).collect()
            }
        };
        let classes = classes.iter().zip(&self.metadata.ids).map(|(label, id)| {
            u32::try_from(*label).map_err(|_| DataError::LabelOutOfRange {
                path: self.path.to_owned(),
                id: id.clone(),
                label: *label,
                classes: self.metadata.class_names.len(),
            })
        });
        classes.collect()
    }

    fn check_labels(&self, name: &str, labels: &[u8], pixels: usize) -> Result<(), DataError> {
        let classes = self.metadata.class_names.len();
        let unknown = |label: u8| label != IGNORE && usize::from(label) >= classes;
        let mut labels = labels.iter().enumerate();
        match labels.find(|(_, label)| unknown(**label)) {
            None => Ok(()),
            Some((pixel, &label)) => Err(DataError::MapLabel {
                target: name.into(),
                path: self.path.to_owned(),
                id: self.metadata.ids.get(pixel / pixels).cloned(),
                label,
                classes,
            }),
        }
    }

    fn mismatch(&self, name: &str, expected: String, found: Option<&TensorView<'_>>) -> DataError {
        DataError::Tensor {
            path: self.path.to_owned(),
            name: name.to_owned(),
            expected,
            actual: found.map_or("none".into(), |view| {
                format!("{:?} {:?}", view.dtype(), view.shape())
            }),
        }
    }
}

fn numbers_expected([count, height, width]: [usize; 3]) -> String {
    format!(
        "U16 [{count}, {height}, {width}] or [{count}, channels, {height}, {width}], as the images"
    )
}

#[cfg(test)]
mod tests;

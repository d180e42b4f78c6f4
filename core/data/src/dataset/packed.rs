//! A packed sample: one safetensors file with the byte tensor `images` `[N, C, H, W]`, optionally `labels` `[N]` (u8 or i64),
//! and ids, class names and provenance as JSON under one metadata key. One key, because safetensors writes its metadata in hash
//! order and a packed file should come out the same, byte for byte, each time.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Dataset, Pixels};
use crate::{DataError, Transform};

const METADATA_KEY: &str = "dtta";
const FORMAT: &str = "dtta-packed-sample/1";

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
}

pub(super) fn open(config: &PackedConfig, base: &Path) -> Result<Dataset, DataError> {
    let path = base.join(&config.path);
    let file = std::fs::read(&path).map_err(|source| DataError::Read {
        path: path.clone(),
        source,
    })?;
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
    let metadata: Metadata =
        serde_json::from_str(metadata).map_err(|source| DataError::Metadata {
            path: path.to_owned(),
            source,
        })?;
    if metadata.format != FORMAT {
        return Err(DataError::Format {
            path: path.to_owned(),
            expected: FORMAT,
            actual: metadata.format,
        });
    }
    let count = metadata.ids.len();
    let mismatch =
        |name: &'static str, expected: String, found: Option<&TensorView<'_>>| DataError::Tensor {
            path: path.to_owned(),
            name,
            expected,
            actual: found.map_or("none".into(), |view| {
                format!("{:?} {:?}", view.dtype(), view.shape())
            }),
        };

    let images = tensors.tensor("images").ok();
    let expected =
        || format!("U8 [{count}, channels, height, width], one image for each id and no axis of 0");
    let (shape, bytes) = match &images {
        Some(view) if view.dtype() == Dtype::U8 => match *view.shape() {
            [images, channels, height, width]
                if images == count && images > 0 && channels > 0 && height > 0 && width > 0 =>
            {
                ([channels, height, width], view.data().to_vec())
            }
            _ => return Err(mismatch("images", expected(), images.as_ref())),
        },
        _ => return Err(mismatch("images", expected(), images.as_ref())),
    };

    let labels = match tensors.tensor("labels") {
        Err(_) => None,
        Ok(view) => {
            let values: Vec<i64> = match view.dtype() {
                Dtype::U8 => view.data().iter().map(|byte| i64::from(*byte)).collect(),
                Dtype::I64 => view
                    .data()
                    .as_chunks::<8>()
                    .0
                    .iter()
                    .map(|bytes| i64::from_le_bytes(*bytes))
                    .collect(),
                _ => {
                    return Err(mismatch(
                        "labels",
                        format!("U8 or I64 [{count}]"),
                        Some(&view),
                    ));
                }
            };
            if view.shape() != [count] {
                return Err(mismatch(
                    "labels",
                    format!("U8 or I64 [{count}]"),
                    Some(&view),
                ));
            }
            let labels = values.iter().zip(&metadata.ids).map(|(label, id)| {
                u32::try_from(*label).map_err(|_| DataError::LabelOutOfRange {
                    path: path.to_owned(),
                    id: id.clone(),
                    label: *label,
                    classes: metadata.class_names.len(),
                })
            });
            Some(labels.collect::<Result<Vec<u32>, DataError>>()?)
        }
    };

    Ok(Dataset {
        location: path.to_owned(),
        ids: metadata.ids,
        labels,
        class_names: metadata.class_names,
        pixels: Pixels::Bytes { shape, bytes },
        transforms: Vec::new(),
        provenance: Some(metadata.provenance),
    })
}

/// Writes some of a dataset's samples, after its transforms, into one file. Pixels are rounded to 256 steps; ids stay, so a
/// packed sample meets the same noise as the whole dataset. The file appears whole or not at all.
///
/// # Errors
/// [`DataError::MixedShapes`] if images differ in shape; [`DataError::OutOfRange`] if `indices` is empty or holds no sample of
/// the dataset; [`DataError::Write`]; whatever reading the samples refuses.
pub fn pack(
    dataset: &Dataset,
    indices: &[usize],
    provenance: &Provenance,
    path: &Path,
) -> Result<(), DataError> {
    let mut ids = Vec::with_capacity(indices.len());
    let mut labels = Vec::new();
    let mut bytes = Vec::new();
    let mut shape = None;
    for index in indices {
        let sample = dataset.sample(*index)?;
        let (expected, actual) = (
            *shape.get_or_insert(sample.image.shape()),
            sample.image.shape(),
        );
        if expected != actual {
            return Err(DataError::MixedShapes {
                id: sample.id,
                expected,
                actual,
            });
        }
        bytes.extend(
            sample
                .image
                .data()
                .iter()
                .map(|value| (value.clamp(0.0, 1.0) * 255.0).round() as u8),
        );
        labels.extend(sample.label.map(i64::from));
        ids.push(sample.id);
    }
    let Some([channels, height, width]) = shape else {
        return Err(DataError::OutOfRange {
            start: 0,
            end: 0,
            available: dataset.len(),
        });
    };

    let metadata = Metadata {
        format: FORMAT.into(),
        provenance: provenance.clone(),
        class_names: dataset.class_names().to_vec(),
        ids,
    };
    let metadata = serde_json::to_string(&metadata).map_err(|source| DataError::Metadata {
        path: path.to_owned(),
        source,
    })?;
    let (label_type, label_bytes) = match labels.iter().map(|label| u8::try_from(*label)).collect()
    {
        Ok(bytes) => (Dtype::U8, bytes),
        Err(_) => (
            Dtype::I64,
            labels
                .iter()
                .flat_map(|label| label.to_le_bytes())
                .collect::<Vec<u8>>(),
        ),
    };
    let container = |source| DataError::Container {
        path: path.to_owned(),
        source,
    };
    let count = indices.len();
    let images = TensorView::new(Dtype::U8, vec![count, channels, height, width], &bytes)
        .map_err(container)?;
    let mut tensors = vec![("images", images)];
    if !labels.is_empty() {
        tensors.push((
            "labels",
            TensorView::new(label_type, vec![count], &label_bytes).map_err(container)?,
        ));
    }
    let entries = HashMap::from([(METADATA_KEY.to_owned(), metadata)]);
    let file = safetensors::serialize(tensors, Some(entries)).map_err(container)?;

    let write_error = |source| DataError::Write {
        path: path.to_owned(),
        source,
    };
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    std::fs::write(&unfinished, file)
        .and_then(|()| std::fs::rename(&unfinished, path))
        .map_err(write_error)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{DatasetConfig, Image, Sample};

    fn provenance() -> Provenance {
        Provenance {
            source: "a test".into(),
            licence: "MIT".into(),
        }
    }

    fn source(labels: [Option<u32>; 3]) -> Dataset {
        let samples = labels.into_iter().enumerate().map(|(index, label)| Sample {
            id: format!("test/{:05}", index * 7),
            image: Image::from_fn([2, 1, 3], |channel, _, column| {
                (index * 6 + channel * 3 + column) as f32 / 255.0
            })
            .unwrap(),
            label,
        });
        let classes = (0..300).map(|class| format!("class {class}")).collect();
        Dataset::from_samples("memory", classes, samples.collect()).unwrap()
    }

    fn packed(labels: [Option<u32>; 3], indices: &[usize]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sample.safetensors");
        pack(&source(labels), indices, &provenance(), &path).unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    fn reads_what_it_wrote() {
        for labels in [
            [Some(0), Some(2), Some(255)],
            [Some(0), Some(2), Some(256)],
            [None; 3],
        ] {
            let original = source(labels);
            let folder = tempfile::tempdir().unwrap();
            let path = PathBuf::from("sample.safetensors");
            pack(
                &original,
                &[2, 0],
                &provenance(),
                &folder.path().join(&path),
            )
            .unwrap();
            let config = DatasetConfig::Packed(PackedConfig {
                path,
                transforms: vec![],
            });
            let read = Dataset::open(&config, folder.path()).unwrap();
            assert_eq!(read.len(), 2);
            assert_eq!(read.class_names(), original.class_names());
            assert_eq!(read.provenance(), Some(&provenance()));
            assert_eq!(read.sample(0).unwrap(), original.sample(2).unwrap());
            assert_eq!(read.sample(1).unwrap(), original.sample(0).unwrap());
        }
    }

    #[test]
    fn the_same_samples_make_the_same_bytes() {
        let once = packed([Some(1), Some(2), Some(3)], &[0, 1, 2]);
        assert_eq!(once, packed([Some(1), Some(2), Some(3)], &[0, 1, 2]));
    }

    #[test]
    fn refuses_to_pack_what_does_not_fit() {
        let path = Path::new("/nowhere/sample.safetensors");
        let dataset = source([None; 3]);
        assert!(matches!(
            pack(&dataset, &[], &provenance(), path),
            Err(DataError::OutOfRange { .. })
        ));
        assert!(matches!(
            pack(&dataset, &[3], &provenance(), path),
            Err(DataError::OutOfRange { .. })
        ));
        assert!(matches!(
            pack(&dataset, &[0], &provenance(), path),
            Err(DataError::Write { .. })
        ));
        let sample = |id: &str, width| Sample {
            id: id.into(),
            image: Image::from_fn([1, 1, width], |_, _, _| 0.0).unwrap(),
            label: None,
        };
        let mixed =
            Dataset::from_samples("mixed", vec![], vec![sample("a", 1), sample("b", 2)]).unwrap();
        assert!(matches!(
            pack(&mixed, &[0, 1], &provenance(), path),
            Err(DataError::MixedShapes { .. })
        ));
    }

    /// A file with the given tensors and metadata, whatever sense they make together.
    fn file(
        tensors: &[(&'static str, Dtype, Vec<usize>, &[u8])],
        metadata: Option<&str>,
    ) -> Vec<u8> {
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            (
                *name,
                TensorView::new(*dtype, shape.clone(), bytes).unwrap(),
            )
        });
        let metadata =
            metadata.map(|text| HashMap::from([(METADATA_KEY.to_owned(), text.to_owned())]));
        safetensors::serialize(views, metadata).unwrap()
    }

    const METADATA: &str = r#"{ "format": "dtta-packed-sample/1", "provenance": { "source": "s", "licence": "l" },
        "class_names": ["a", "b"], "ids": ["x", "y"] }"#;

    #[test]
    fn refuses_misshapen_tensors_and_metadata() {
        let refusal = |file: Vec<u8>| {
            decode(&file, Path::new("p"))
                .and_then(Dataset::checked)
                .unwrap_err()
        };
        let images: (_, _, _, &[u8]) = ("images", Dtype::U8, vec![2, 1, 1, 1], &[0, 1]);
        let with_labels = |labels| refusal(file(&[images.clone(), labels], Some(METADATA)));

        assert!(matches!(
            refusal(file(&[], None)),
            DataError::MetadataMissing { .. }
        ));
        assert!(matches!(
            refusal(file(&[], Some("{"))),
            DataError::Metadata { .. }
        ));
        let newer = METADATA.replace("sample/1", "sample/2");
        assert!(matches!(
            refusal(file(&[], Some(&newer))),
            DataError::Format { .. }
        ));
        assert!(matches!(
            refusal(file(&[], Some(METADATA))),
            DataError::Tensor { name: "images", .. }
        ));
        let flat = file(
            &[("images", Dtype::U8, vec![2, 1], &[0, 1])],
            Some(METADATA),
        );
        assert!(matches!(
            refusal(flat),
            DataError::Tensor { name: "images", .. }
        ));
        let fewer = file(
            &[("images", Dtype::U8, vec![1, 1, 1, 1], &[0])],
            Some(METADATA),
        );
        assert!(matches!(
            refusal(fewer),
            DataError::Tensor { name: "images", .. }
        ));
        let empty = file(
            &[("images", Dtype::U8, vec![2, 0, 1, 1], &[])],
            Some(METADATA),
        );
        assert!(matches!(
            refusal(empty),
            DataError::Tensor { name: "images", .. }
        ));
        assert!(matches!(
            with_labels(("labels", Dtype::U8, vec![1], &[0])),
            DataError::Tensor { name: "labels", .. }
        ));
        assert!(matches!(
            with_labels(("labels", Dtype::F32, vec![2], &[0; 8])),
            DataError::Tensor { name: "labels", .. }
        ));
        assert!(matches!(
            with_labels(("labels", Dtype::I64, vec![2], &[255; 16])),
            DataError::LabelOutOfRange { label: -1, .. }
        ));
        assert!(matches!(
            with_labels(("labels", Dtype::U8, vec![2], &[0, 2])),
            DataError::LabelOutOfRange {
                label: 2,
                classes: 2,
                ..
            }
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(&bytes, Path::new("p")).is_err());
        }

        #[test]
        fn any_truncation_is_refused(keep in 0.0..1.0f64) {
            let whole = packed([Some(1); 3], &[0, 1, 2]);
            let cut = &whole[..(whole.len() as f64 * keep) as usize];
            prop_assert!(decode(cut, Path::new("p")).is_err());
        }

        #[test]
        fn any_changed_byte_is_read_or_refused(place in 0.0..1.0f64, byte in any::<u8>()) {
            let mut file = packed([Some(1); 3], &[0, 1, 2]);
            let place = (file.len() as f64 * place) as usize;
            file[place] = byte;
            if let Ok(dataset) = decode(&file, Path::new("p")).and_then(Dataset::checked) {
                for index in 0..dataset.len() {
                    prop_assert!(dataset.sample(index).is_ok());
                }
            }
        }
    }
}

//! A packed sample: one safetensors file with the byte tensor `images` `[N, C, H, W]`, optionally `labels` `[N]` (u8 or i64),
//! `masks` `[N, H, W]` (u8, 255 for no class), `depths` `[N, H, W]` (u16, 0 for no distance), and ids, class names and provenance as JSON under one metadata key. One key, because safetensors writes its metadata in hash
//! order and a packed file should come out the same, byte for byte, each time.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Dataset, Pixels, StoredMaps};
use crate::map::{Depth, IGNORE, Maps, Mask, is_distance};
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
    /// The distance that 1 in `depths` stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    depth_scale: Option<f32>,
}

/// The maps of a packed sample.
#[derive(Debug, Clone)]
pub(super) struct MapBytes {
    extents: [usize; 2],
    masks: Option<Vec<u8>>,
    depths: Option<Vec<u16>>,
    depth_scale: f32,
}

impl MapBytes {
    pub fn maps(&self, index: usize) -> Result<Maps, DataError> {
        let [height, width] = self.extents;
        let range = index * height * width..(index + 1) * height * width;
        let mask = self
            .masks
            .as_ref()
            .map(|labels| labels[range.clone()].to_vec());
        let depth = self.depths.as_ref().map(|depths| {
            let distances = depths[range]
                .iter()
                .map(|&depth| f32::from(depth) * self.depth_scale);
            distances.collect()
        });
        Ok(Maps {
            mask: mask
                .map(|mask| Mask::new(height, width, mask))
                .transpose()?,
            depth: depth
                .map(|depth| Depth::new(height, width, depth))
                .transpose()?,
        })
    }

    pub fn has_masks(&self) -> bool {
        self.masks.is_some()
    }

    pub fn has_depths(&self) -> bool {
        self.depths.is_some()
    }
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

    let [_, height, width] = shape;
    let map = |name: &'static str, dtype: Dtype| match tensors.tensor(name) {
        Err(_) => Ok(None),
        Ok(view) if view.dtype() == dtype && view.shape() == [count, height, width] => {
            Ok(Some(view.data().to_vec()))
        }
        Ok(view) => {
            let expected = format!("{dtype:?} [{count}, {height}, {width}], as the images");
            Err(mismatch(name, expected, Some(&view)))
        }
    };
    let masks = map("masks", Dtype::U8)?;
    let classes = metadata.class_names.len();
    let unknown = |label: &u8| *label != IGNORE && usize::from(*label) >= classes;
    if let Some(pixel) = masks.iter().flatten().position(unknown) {
        return Err(DataError::MaskLabel {
            path: path.to_owned(),
            id: metadata.ids.get(pixel / (height * width)).cloned(),
            label: masks
                .iter()
                .flatten()
                .copied()
                .nth(pixel)
                .unwrap_or_default(),
            classes,
        });
    }
    let depths = map("depths", Dtype::U16)?.map(|bytes| {
        let pairs = bytes.as_chunks::<2>().0.iter();
        pairs.map(|pair| u16::from_le_bytes(*pair)).collect()
    });
    let depth_scale = metadata.depth_scale.unwrap_or(1.0);
    if !(depth_scale > 0.0 && depth_scale.is_finite()) {
        return Err(DataError::DepthScale { scale: depth_scale });
    }

    Ok(Dataset {
        location: path.to_owned(),
        maps: StoredMaps::Bytes(MapBytes {
            extents: [height, width],
            masks,
            depths,
            depth_scale,
        }),
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
    let (mut masks, mut distances) = (Vec::new(), Vec::new());
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
        masks.extend(sample.maps.mask.iter().flat_map(Mask::data));
        distances.extend(sample.maps.depth.iter().flat_map(Depth::data));
        ids.push(sample.id);
    }
    let Some([channels, height, width]) = shape else {
        return Err(DataError::OutOfRange {
            start: 0,
            end: 0,
            available: dataset.len(),
        });
    };

    let (depth_scale, depths) = quantised(&distances);
    let metadata = Metadata {
        format: FORMAT.into(),
        provenance: provenance.clone(),
        class_names: dataset.class_names().to_vec(),
        ids,
        depth_scale,
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
    for (name, dtype, bytes) in [
        ("masks", Dtype::U8, &masks),
        ("depths", Dtype::U16, &depths),
    ] {
        if !bytes.is_empty() {
            let view = TensorView::new(dtype, vec![count, height, width], bytes);
            tensors.push((name, view.map_err(container)?));
        }
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

/// Distances as 16-bit numbers, and what 1 stands for: 1 itself where they are whole numbers that fit, or else so that the largest is
/// the largest number. What is a distance does not become 0, which means none.
fn quantised(distances: &[f32]) -> (Option<f32>, Vec<u8>) {
    let known = || distances.iter().copied().filter(|&d| is_distance(d));
    let largest = known().fold(0.0, f32::max);
    let whole = largest <= f32::from(u16::MAX) && known().all(|d| d.fract() == 0.0);
    let scale = if whole {
        1.0
    } else {
        largest / f32::from(u16::MAX)
    };
    let number = |&distance: &f32| match is_distance(distance) {
        true => (distance / scale).round().max(1.0) as u16,
        false => 0,
    };
    let bytes = distances
        .iter()
        .flat_map(|d| number(d).to_le_bytes())
        .collect();
    ((!distances.is_empty()).then_some(scale), bytes)
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
            maps: Maps {
                mask: Some(Mask::new(1, 3, vec![index as u8, IGNORE, 7]).unwrap()),
                depth: Some(Depth::new(1, 3, vec![0.0, index as f32, 300.0]).unwrap()),
            },
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
    fn distances_that_are_not_whole_keep_four_digits() {
        let (scale, bytes) = quantised(&[0.0, 1e-9, 0.5, 2.0, f32::NAN]);
        let numbers = bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|pair| u16::from_le_bytes(*pair));
        let scale = scale.unwrap();
        let read: Vec<f32> = numbers.map(|n| f32::from(n) * scale).collect();
        assert_eq!((read[0], read[4]), (0.0, 0.0));
        assert!(read[1] > 0.0);
        assert!((read[2] - 0.5).abs() < 1e-4 && (read[3] - 2.0).abs() < 1e-4);
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
            maps: Maps::default(),
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

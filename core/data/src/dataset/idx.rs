//! Idx files: a big-endian header and raw bytes, as MNIST and Fashion-MNIST are distributed, plain or gzipped.
//! Format: <http://yann.lecun.com/exdb/mnist/>. Only unsigned bytes are read; nothing else is in use for images.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dtta_base::TargetType;
use flate2::read::MultiGzDecoder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Dataset, LeftOut, Source};
use crate::error::{bounded, unreadable};
use crate::image::VALUES_LIMIT;
use crate::{CLASS, DataError, Image, Targets, Transform};

/// The most bytes that a gzipped file may become: a gibibyte. The largest set that is distributed so, EMNIST, takes 0.6. Deflate packs
/// zeros a thousandfold, so a file's size says nothing; a plain file is its own warrant.
const UNPACKED_LIMIT: u64 = 1 << 30;

/// Where Debian's package `dataset-fashion-mnist` puts its files.
pub const FASHION_MNIST_FOLDER: &str = "/usr/share/datasets/fashion-mnist";

/// The classes of Fashion-MNIST, in label order.
pub const FASHION_MNIST_CLASSES: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

/// Idx files in one folder, plain or with `.gz`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdxConfig {
    /// Folder that holds `{train,t10k}-{images-idx3,labels-idx1}-ubyte`, each plain or with `.gz`.
    #[serde(default = "fashion_mnist_folder")]
    pub path: PathBuf,
    /// Which of the two pairs of files to read.
    pub split: Split,
    /// First sample and one after the last, in file order; all if absent. `[55000, 60000]` holds out the end of a training split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[usize; 2]>,
    /// Names of the classes, in label order.
    #[serde(default = "fashion_mnist_classes")]
    pub class_names: Vec<String>,
    /// Applied to each image, in order, before any corruption.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transforms: Vec<Transform>,
}

/// The part of a dataset that was set aside for training or for testing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Training samples (files that start with `train`, ids with `train/`).
    Train,
    /// Test samples (files that start with `t10k`, ids with `test/`).
    Test,
}

impl Split {
    fn file_prefix(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "t10k",
        }
    }

    fn id_prefix(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

fn fashion_mnist_folder() -> PathBuf {
    FASHION_MNIST_FOLDER.into()
}

fn fashion_mnist_classes() -> Vec<String> {
    FASHION_MNIST_CLASSES.map(String::from).to_vec()
}

/// Grey images of one shape, back to back, and the two files that they were read from.
#[derive(Debug)]
struct Idx {
    extents: [usize; 2],
    bytes: Vec<u8>,
    files: [PathBuf; 2],
}

impl Source for Idx {
    fn sample(&self, index: usize) -> Result<(Image, Targets), DataError> {
        let [height, width] = self.extents;
        let range = index * height * width..(index + 1) * height * width;
        let image = Image::from_bytes([1, height, width], &self.bytes[range])?;
        Ok((image, Targets::new()))
    }

    fn files(&self, _index: usize) -> Vec<(&str, &Path)> {
        let [images, labels] = &self.files;
        vec![("images", images), (CLASS, labels)]
    }
}

pub(super) fn open(config: &IdxConfig, base: &Path) -> Result<Dataset, DataError> {
    let folder = base.join(&config.path);
    let prefix = config.split.file_prefix();
    let image_path = find(&folder, &format!("{prefix}-images-idx3-ubyte"))?;
    let ([count, height, width], mut bytes) = read::<3>(&image_path)?;
    let label_path = find(&folder, &format!("{prefix}-labels-idx1-ubyte"))?;
    let ([label_count], labels) = read::<1>(&label_path)?;
    if label_count != count {
        return Err(DataError::LabelCount {
            path: label_path,
            images: count,
            labels: label_count,
        });
    }
    let [start, end] = config.range.unwrap_or([0, count]);
    let Some(labels) = labels.get(start..end).filter(|labels| !labels.is_empty()) else {
        return Err(DataError::OutOfRange {
            start,
            end,
            available: count,
        });
    };
    let size = height * width;
    bytes.truncate(end * size);
    bytes.drain(..start * size);
    Ok(Dataset {
        ids: (start..end)
            .map(|index| format!("{}/{index:05}", config.split.id_prefix()))
            .collect(),
        labels: Some(labels.iter().map(|label| u32::from(*label)).collect()),
        target_types: [(CLASS.to_owned(), TargetType::ClassIndex {})].into(),
        class_names: config.class_names.clone(),
        source: Arc::new(Idx {
            extents: [height, width],
            bytes,
            files: [image_path, label_path],
        }),
        transforms: config.transforms.clone(),
        left_out: LeftOut::default(),
        provenance: None,
        location: folder,
    })
}

/// The file called `name` or `name.gz`.
fn find(folder: &Path, name: &str) -> Result<PathBuf, DataError> {
    [name.to_owned(), format!("{name}.gz")]
        .into_iter()
        .map(|name| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| DataError::MissingIdx {
            folder: folder.to_owned(),
            name: name.to_owned(),
        })
}

fn read<const AXES: usize>(path: &Path) -> Result<([usize; AXES], Vec<u8>), DataError> {
    let file = File::open(path).map_err(unreadable(path))?;
    if path.extension().is_some_and(|extension| extension == "gz") {
        decode(MultiGzDecoder::new(file), path, UNPACKED_LIMIT)
    } else {
        decode(file, path, u64::MAX)
    }
}

/// Sizes of the axes, none of them 0, and as many bytes as they announce. Reads no more than one byte past those, and nothing if they are
/// more than `limit`.
fn decode<const AXES: usize>(
    mut reader: impl Read,
    path: &Path,
    limit: u64,
) -> Result<([usize; AXES], Vec<u8>), DataError> {
    let mut header = Vec::new();
    let header_len = 4 + 4 * AXES;
    reader
        .by_ref()
        .take(header_len as u64)
        .read_to_end(&mut header)
        .map_err(unreadable(path))?;
    let magic = [0, 0, 0x08, AXES as u8];
    if header.len() < header_len || header[..4] != magic {
        header.truncate(4);
        return Err(DataError::IdxHeader {
            path: path.to_owned(),
            expected_axes: AXES as u8,
            actual: header,
        });
    }
    let mut sizes = [0; AXES];
    for (size, bytes) in sizes.iter_mut().zip(header[4..].chunks_exact(4)) {
        *size = bytes
            .iter()
            .fold(0, |value, byte| (value << 8) | usize::from(*byte));
    }
    let product = |sizes: &[usize]| {
        let volume = |volume: u64, size: &usize| volume.saturating_mul(*size as u64);
        sizes.iter().fold(1, volume)
    };
    let (each, limit_of_each) = (product(&sizes[1..]), VALUES_LIMIT as u64);
    bounded(path, "pixels of each image", each, limit_of_each)?;
    let expected = product(&sizes);
    if expected == 0 {
        return Err(DataError::Empty {
            path: path.to_owned(),
            expected: "at least one image of at least one pixel",
        });
    }
    bounded(path, "bytes", expected, limit)?;
    let mut bytes = Vec::new();
    reader
        .take(expected.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(unreadable(path))?;
    if bytes.len() as u64 != expected {
        return Err(DataError::IdxLength {
            path: path.to_owned(),
            expected,
            actual: bytes.len() as u64,
        });
    }
    Ok((sizes, bytes))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;
    use crate::DatasetConfig;

    fn idx(sizes: &[u32], bytes: &[u8]) -> Vec<u8> {
        let mut file = vec![0, 0, 8, sizes.len() as u8];
        file.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
        file.extend(bytes);
        file
    }

    fn config(path: &Path) -> IdxConfig {
        let json =
            serde_json::json!({ "path": path, "split": "test", "class_names": ["a", "b", "c"] });
        serde_json::from_value(json).unwrap()
    }

    fn folder(images: &[u8], labels: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("t10k-images-idx3-ubyte"), images).unwrap();
        std::fs::write(folder.path().join("t10k-labels-idx1-ubyte"), labels).unwrap();
        folder
    }

    fn open(config: IdxConfig) -> Result<Dataset, DataError> {
        Dataset::open(&DatasetConfig::Idx(config), Path::new("/"))
    }

    #[test]
    fn reads_plain_and_gzipped_files() {
        let folder = folder(&idx(&[2, 1, 2], &[0, 255, 51, 102]), &idx(&[2], &[2, 0]));
        let plain = folder.path().join("t10k-images-idx3-ubyte");
        let gzipped = File::create(folder.path().join("t10k-images-idx3-ubyte.gz")).unwrap();
        let mut encoder = flate2::write::GzEncoder::new(gzipped, flate2::Compression::fast());
        encoder.write_all(&std::fs::read(&plain).unwrap()).unwrap();
        encoder.finish().unwrap();
        for _ in 0..2 {
            let dataset = open(config(folder.path())).unwrap();
            let sample = dataset.sample(1).unwrap();
            assert_eq!(sample.id, "test/00001");
            assert_eq!(sample.class(), Some(0));
            assert_eq!(sample.image, Image::new(1, 1, 2, vec![0.2, 0.4]).unwrap());
            let _ = std::fs::remove_file(&plain);
        }
    }

    #[test]
    fn a_range_keeps_ids() {
        let folder = folder(&idx(&[3, 1, 1], &[0, 51, 255]), &idx(&[3], &[0, 1, 2]));
        let dataset = open(IdxConfig {
            range: Some([1, 3]),
            ..config(folder.path())
        })
        .unwrap();
        assert_eq!(dataset.ids(), ["test/00001", "test/00002"]);
        assert_eq!(dataset.labels(), Some([1, 2].as_slice()));
        assert_eq!(dataset.sample(0).unwrap().image.data(), [0.2]);
        for range in [[2, 2], [2, 1], [0, 4], [9, 10]] {
            let refused = open(IdxConfig {
                range: Some(range),
                ..config(folder.path())
            });
            assert!(
                matches!(refused, Err(DataError::OutOfRange { available: 3, .. })),
                "{range:?}"
            );
        }
    }

    #[test]
    fn refuses_files_that_do_not_fit() {
        let images = idx(&[2, 1, 1], &[0, 1]);
        let labels = idx(&[2], &[0, 1]);
        let refusal =
            |images: &[u8], labels: &[u8]| open(config(folder(images, labels).path())).unwrap_err();
        assert!(matches!(
            refusal(&images, &idx(&[1], &[0])),
            DataError::LabelCount {
                images: 2,
                labels: 1,
                ..
            }
        ));
        assert!(matches!(
            refusal(&images, &labels[..9]),
            DataError::IdxLength {
                expected: 2,
                actual: 1,
                ..
            }
        ));
        assert!(matches!(
            refusal(&[&images[..], &[7]].concat(), &labels),
            DataError::IdxLength { actual: 3, .. }
        ));
        assert!(matches!(
            refusal(&labels, &labels),
            DataError::IdxHeader {
                expected_axes: 3,
                ..
            }
        ));
        assert!(matches!(
            refusal(&images[..3], &labels),
            DataError::IdxHeader { .. }
        ));
        assert!(matches!(
            refusal(&idx(&[0, 1, 1], &[]), &idx(&[0], &[])),
            DataError::Empty { .. }
        ));
        let huge = refusal(&idx(&[u32::MAX; 3], &[1]), &labels);
        assert!(matches!(huge, DataError::DecodedSize { .. }));
        let many = refusal(&idx(&[u32::MAX, 1, 1], &[1]), &labels);
        assert!(matches!(many, DataError::IdxLength { actual: 1, .. }));
        let label = refusal(&images, &idx(&[2], &[0, 3]));
        assert!(
            matches!(&label, DataError::LabelOutOfRange { id, label: 3, classes: 3, .. } if id == "test/00001")
        );
        let missing = open(config(Path::new("/nowhere"))).unwrap_err().to_string();
        assert!(
            missing.contains("/nowhere") && missing.contains("t10k-images-idx3-ubyte"),
            "{missing}"
        );
    }

    #[test]
    fn a_small_gzip_of_many_bytes_is_refused_before_it_is_unpacked() {
        // 2^31 images of a pixel; what follows the header does not matter.
        let folder = folder(&idx(&[1, 1, 1], &[0]), &idx(&[1], &[0]));
        std::fs::remove_file(folder.path().join("t10k-images-idx3-ubyte")).unwrap();
        let gzipped = File::create(folder.path().join("t10k-images-idx3-ubyte.gz")).unwrap();
        let mut encoder = flate2::write::GzEncoder::new(gzipped, flate2::Compression::fast());
        encoder
            .write_all(&idx(&[1 << 31, 1, 1], &[0; 1000]))
            .unwrap();
        encoder.finish().unwrap();
        let refused = open(config(folder.path())).unwrap_err();
        assert!(
            matches!(
                &refused,
                DataError::DecodedSize {
                    what: "bytes",
                    found: 0x8000_0000,
                    ..
                }
            ),
            "{refused}"
        );
    }

    #[test]
    fn refuses_gzip_that_is_cut_off() {
        let folder = folder(&idx(&[1, 1, 1], &[0]), &idx(&[1], &[0]));
        std::fs::remove_file(folder.path().join("t10k-images-idx3-ubyte")).unwrap();
        std::fs::write(
            folder.path().join("t10k-images-idx3-ubyte.gz"),
            [0x1f, 0x8b, 8, 0],
        )
        .unwrap();
        assert!(matches!(
            open(config(folder.path())),
            Err(DataError::File(dtta_base::Error::Read { .. }))
        ));
    }

    #[test]
    fn reads_fashion_mnist_where_it_is_installed() {
        if !Path::new(FASHION_MNIST_FOLDER).is_dir() {
            eprintln!("skipped: {FASHION_MNIST_FOLDER} is not installed");
            return;
        }
        let dataset: DatasetConfig =
            serde_json::from_str(r#"{ "kind": "idx", "split": "test" }"#).unwrap();
        let dataset = Dataset::open(&dataset, Path::new("/")).unwrap();
        assert_eq!(dataset.len(), 10_000);
        let sample = dataset.sample(0).unwrap();
        assert_eq!(sample.image.shape(), [1, 28, 28]);
        // The first test image is known to be an ankle boot.
        assert_eq!(
            dataset.class_names()[sample.class().unwrap() as usize],
            "Ankle boot"
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode::<3>(bytes.as_slice(), Path::new("x"), u64::MAX);
            let _ = decode::<1>(MultiGzDecoder::new(bytes.as_slice()), Path::new("x"), UNPACKED_LIMIT);
        }

        #[test]
        fn any_truncation_is_refused(sizes in [1u32..4, 1..4, 1..4], keep in 0.0..1.0f64) {
            let volume = sizes.iter().product::<u32>() as usize;
            let file = idx(&sizes, &vec![9; volume]);
            prop_assert!(decode::<3>(file.as_slice(), Path::new("x"), u64::MAX).is_ok());
            let cut = &file[..(file.len() as f64 * keep) as usize];
            prop_assert!(decode::<3>(cut, Path::new("x"), u64::MAX).is_err());
        }
    }
}

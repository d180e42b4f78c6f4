//! A folder of images in torchvision's `ImageFolder` layout: `root/class/…/image.png`. Classes are the folders' names, sorted.
//! A root without folders is read as images without labels.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dtta_base::TargetType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Dataset, Source};
use crate::error::unreadable;
use crate::{CLASS, DataError, Image, Targets, Transform};

/// A folder of PNG and JPEG images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FolderConfig {
    /// The folder. Each folder in it is a class and holds its images at any depth; if there is none, its images have no labels.
    pub path: PathBuf,
    /// How many channels to read.
    pub channels: ColourMode,
    /// Applied to each image, in order, before any corruption; usually a `resize_short` and a `centre_crop`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transforms: Vec<Transform>,
}

/// The channels that images are read with, whatever their files hold. Transparency is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ColourMode {
    /// One channel; colour is weighted as in ITU-R BT.601.
    Grayscale,
    /// Three channels.
    Rgb,
}

/// One file per image.
#[derive(Debug)]
struct Images {
    paths: Vec<PathBuf>,
    channels: ColourMode,
}

impl Source for Images {
    fn sample(&self, index: usize) -> Result<(Image, Targets), DataError> {
        let image = read_image(&self.paths[index], self.channels)?;
        Ok((image, Targets::new()))
    }

    fn files(&self, index: usize) -> Vec<(&str, &Path)> {
        vec![("image", &self.paths[index])]
    }
}

pub(super) fn open(config: &FolderConfig, base: &Path) -> Result<Dataset, DataError> {
    let root = base.join(&config.path);
    let (class_folders, images) = list(&root)?;
    let mut paths = Vec::new();
    let mut labels = None;
    let mut target_types = BTreeMap::new();
    let mut class_names = Vec::new();
    if class_folders.is_empty() {
        if images.is_empty() {
            return Err(DataError::Empty {
                path: root,
                expected: "a folder per class with PNG or JPEG images",
            });
        }
        paths = images;
    } else {
        let mut numbers = Vec::new();
        for (label, folder) in class_folders.iter().enumerate() {
            let before = paths.len();
            collect(folder, &mut paths)?;
            if paths.len() == before {
                return Err(DataError::Empty {
                    path: folder.clone(),
                    expected: "PNG or JPEG images of this class",
                });
            }
            numbers.resize(paths.len(), label as u32);
            class_names.push(
                folder
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
            );
        }
        labels = Some(numbers);
        target_types.insert(CLASS.to_owned(), TargetType::ClassIndex {});
    }
    Ok(Dataset {
        ids: paths.iter().map(|path| id(&root, path)).collect(),
        labels,
        class_names,
        target_types,
        source: Arc::new(Images {
            paths,
            channels: config.channels,
        }),
        transforms: config.transforms.clone(),
        provenance: None,
        location: root,
    })
}

impl Image {
    /// Decodes an image file to [0, 1], as datasets do.
    ///
    /// # Errors
    /// [`DataError::File`] or [`DataError::Decode`], naming the file.
    pub fn read(path: impl AsRef<Path>, channels: ColourMode) -> Result<Self, DataError> {
        read_image(path.as_ref(), channels)
    }
}

/// Decodes one image to [0, 1].
pub(super) fn read_image(path: &Path, channels: ColourMode) -> Result<Image, DataError> {
    // Extensions lie often enough; the first bytes do not.
    let reader = image::ImageReader::open(path)
        .map_err(unreadable(path))?
        .with_guessed_format()
        .map_err(unreadable(path))?;
    let decoded = reader.decode().map_err(|source| DataError::Decode {
        path: path.to_owned(),
        source,
    })?;
    // Grey files are read as grey: weighing three equal channels would round.
    let image = if decoded.color().has_color() {
        let pixels = decoded.into_rgb32f();
        let (width, height) = (pixels.width() as usize, pixels.height() as usize);
        let values = pixels.into_raw();
        Image::from_fn([3, height, width], |channel, row, column| {
            values[(row * width + column) * 3 + channel]
        })?
    } else {
        let pixels = decoded.to_luma32f();
        let (width, height) = (pixels.width() as usize, pixels.height() as usize);
        Image::new(1, height, width, pixels.into_raw())?
    };
    match channels {
        ColourMode::Grayscale => Transform::Grayscale {}.apply(image),
        ColourMode::Rgb => Transform::Rgb {}.apply(image),
    }
}

/// Folders and images directly in a folder, each sorted by name.
fn list(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), DataError> {
    let read_error = unreadable(folder);
    let (mut folders, mut images) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder).map_err(&read_error)? {
        let entry = entry.map_err(&read_error)?;
        let path = entry.path();
        // Linked folders are left out: a link to a parent would never end.
        if entry.file_type().map_err(&read_error)?.is_dir() {
            folders.push(path);
        } else if is_image(&path) {
            images.push(path);
        }
    }
    folders.sort_unstable();
    images.sort_unstable();
    Ok((folders, images))
}

/// Images at any depth: a folder's own first, then its folders'.
pub(super) fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<(), DataError> {
    let (folders, images) = list(folder)?;
    paths.extend(images);
    folders.iter().try_for_each(|folder| collect(folder, paths))
}

fn is_image(path: &Path) -> bool {
    let extension = path
        .extension()
        .and_then(OsStr::to_str)
        .map(str::to_ascii_lowercase);
    matches!(extension.as_deref(), Some("png" | "jpg" | "jpeg"))
}

/// The path below the root with `/` between its parts, so that an id is the same on every system.
pub(super) fn id(root: &Path, path: &Path) -> String {
    let below = path.strip_prefix(root).unwrap_or(path);
    below
        .iter()
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DatasetConfig;

    fn write(path: &Path, image: image::DynamicImage) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image.save(path).unwrap();
    }

    fn open(path: &Path, channels: ColourMode) -> Result<Dataset, DataError> {
        let config = FolderConfig {
            path: path.to_owned(),
            channels,
            transforms: vec![],
        };
        Dataset::open(&DatasetConfig::Folder(config), Path::new("/"))
    }

    #[test]
    fn classes_are_sorted_folders() {
        let root = tempfile::tempdir().unwrap();
        let red = image::RgbImage::from_pixel(2, 3, image::Rgb([255, 0, 51]));
        let grey = image::GrayImage::from_pixel(2, 3, image::Luma([51]));
        write(&root.path().join("zebra/a.png"), red.into());
        write(&root.path().join("ant/deep/b.PNG"), grey.clone().into());
        write(&root.path().join("ant/c.png"), grey.into());
        std::fs::write(root.path().join("ant/notes.txt"), "not an image").unwrap();

        let dataset = open(root.path(), ColourMode::Rgb).unwrap();
        assert_eq!(dataset.class_names(), ["ant", "zebra"]);
        assert_eq!(
            dataset.ids(),
            ["ant/c.png", "ant/deep/b.PNG", "zebra/a.png"]
        );
        assert_eq!(dataset.labels(), Some([0, 0, 1].as_slice()));
        let sample = dataset.sample(2).unwrap();
        assert_eq!(sample.image.shape(), [3, 3, 2]);
        assert_eq!(
            [0, 1, 2].map(|channel| sample.image.get(channel, 2, 1).unwrap()),
            [1.0, 0.0, 0.2]
        );

        let dataset = open(root.path(), ColourMode::Grayscale).unwrap();
        assert_eq!(dataset.sample(0).unwrap().image.data(), [0.2; 6]);
        // 0.299 * 1 + 0.587 * 0 + 0.114 * 0.2
        assert!((dataset.sample(2).unwrap().image.data()[0] - 0.3218).abs() < 1e-6);
    }

    #[test]
    fn images_without_folders_have_no_labels() {
        let root = tempfile::tempdir().unwrap();
        write(
            &root.path().join("one.jpg"),
            image::GrayImage::from_pixel(8, 8, image::Luma([128])).into(),
        );
        let dataset = open(root.path(), ColourMode::Grayscale).unwrap();
        assert_eq!(dataset.labels(), None);
        assert_eq!(dataset.sample(0).unwrap().class(), None);
    }

    #[test]
    fn names_what_it_cannot_read() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(
            open(root.path(), ColourMode::Rgb),
            Err(DataError::Empty { .. })
        ));
        assert!(matches!(
            open(&root.path().join("nowhere"), ColourMode::Rgb),
            Err(DataError::File(dtta_base::Error::Read { .. }))
        ));
        std::fs::create_dir(root.path().join("empty_class")).unwrap();
        let empty = open(root.path(), ColourMode::Rgb).unwrap_err();
        assert!(matches!(&empty, DataError::Empty { path, .. } if path.ends_with("empty_class")));
        let broken = root.path().join("empty_class/broken.png");
        std::fs::write(&broken, b"\x89PNG\r\n\x1a\nnothing").unwrap();
        let dataset = open(root.path(), ColourMode::Rgb).unwrap();
        let refused = dataset.sample(0).unwrap_err();
        assert!(
            matches!(&refused, DataError::Decode { path, .. } if *path == broken),
            "{refused:?}"
        );
    }
}

//! A folder of images in torchvision's `ImageFolder` layout: `root/class/…/image.png`. Classes are the folders' names, sorted as text; a
//! class's samples are ordered by folder, then by name. A root without folders is read as images without labels.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dtta_base::TargetType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::decode::read_image;
use super::left_out::Reason;
use super::walk::{Listing, Walk, extension, id, is_image};
use super::{Dataset, Source};
use crate::{CLASS, DataError, Image, Targets, Transform};

/// A folder of images: PNG, JPEG, WebP, BMP, TIFF, GIF (the first frame), PGM and PPM, by their extensions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FolderConfig {
    /// The folder. Each folder in it is a class and holds its images at any depth; if there is none, its images have no labels. Classes are
    /// numbered from 0 in the order of their names, as torchvision's `ImageFolder` does; links are followed. Hidden names, images beside
    /// class folders and files of other types are left out, and counted in a message.
    pub path: PathBuf,
    /// How many channels to read.
    pub channels: ColourMode,
    /// How classes are numbered: by the order of their folders' names as text unless it says `numeric`. Needed where the names are numbers
    /// of several lengths, as those of ImageNet-V2 are, since both are in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_order: Option<ClassOrder>,
    /// Applied to each image, in order, before any corruption; usually a `resize_short` and a `centre_crop`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transforms: Vec<Transform>,
}

/// The channels that images are read with, whatever their files hold. Transparency is dropped, CMYK becomes RGB, and pixels stay where they
/// are stored, whatever orientation EXIF data gives: as torchvision's loader does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(transform = crate::transform::grey_spellings)]
pub enum ColourMode {
    /// One channel; colour is weighted as in ITU-R BT.601.
    #[serde(alias = "greyscale", alias = "gray", alias = "grey")]
    Grayscale,
    /// Three channels.
    Rgb,
}

/// How the folders of classes are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClassOrder {
    /// By their names as text, as torchvision's `ImageFolder` does: 1, 10, 2.
    Alphabetical,
    /// By their names as numbers: 1, 2, 10.
    Numeric,
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
    let mut walk = Walk::new(&root);
    let Listing { mut folders, files } = walk.list(&root)?;
    order(&root, config.class_order, &mut folders)?;
    let mut paths = Vec::new();
    let mut labels = None;
    let mut target_types = BTreeMap::new();
    let mut class_names = Vec::new();
    let mut left_out;
    if folders.is_empty() {
        let mut walk = Walk::new(&root);
        paths = images(&mut walk, &root)?;
        left_out = walk.left_out;
    } else {
        for path in &files {
            walk.leave(
                match is_image(path) {
                    true => Reason::BesideClasses,
                    false => Reason::Extension(extension(path)),
                },
                path,
            );
        }
        left_out = walk.left_out;
        let mut numbers = Vec::new();
        for (label, folder) in folders.iter().enumerate() {
            let mut walk = Walk::new(&root);
            paths.extend(images(&mut walk, folder)?);
            left_out.merge(walk.left_out);
            numbers.resize(paths.len(), label as u32);
            class_names.push(id(&root, folder));
        }
        labels = Some(numbers);
        target_types.insert(CLASS.to_owned(), TargetType::ClassIndex {});
    }
    Ok(Dataset {
        ids: paths.iter().map(|path| id(&root, path)).collect(),
        labels,
        class_names,
        target_types,
        left_out,
        source: Arc::new(Images {
            paths,
            channels: config.channels,
        }),
        transforms: config.transforms.clone(),
        provenance: None,
        location: root,
    })
}

/// Puts class folders, which come in the order of their names, into the order that is asked for.
fn order(
    root: &Path,
    wanted: Option<ClassOrder>,
    folders: &mut [PathBuf],
) -> Result<(), DataError> {
    let number = |path: &PathBuf| {
        let name = id(root, path);
        let digits = name.bytes().all(|byte| byte.is_ascii_digit());
        name.parse::<u64>().ok().filter(|_| digits)
    };
    match wanted {
        Some(ClassOrder::Alphabetical) => {}
        Some(ClassOrder::Numeric) => {
            if let Some(other) = folders.iter().find(|path| number(path).is_none()) {
                return Err(DataError::ClassNumber {
                    path: root.to_owned(),
                    name: id(root, other),
                });
            }
            folders.sort_by_key(number);
        }
        None if folders.iter().all(|path| number(path).is_some()) => {
            let falls = |pair: &&[PathBuf]| number(&pair[0]) > number(&pair[1]);
            if let Some(pair) = folders.windows(2).find(falls) {
                return Err(DataError::ClassOrder {
                    path: root.to_owned(),
                    first: id(root, &pair[0]),
                    second: id(root, &pair[1]),
                });
            }
        }
        None => {}
    }
    Ok(())
}

/// The images of a folder; at least one.
pub(super) fn images(walk: &mut Walk<'_>, folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let images = walk.images(folder)?;
    if images.is_empty() {
        return Err(DataError::NoImages {
            path: folder.to_owned(),
            left_out: std::mem::take(&mut walk.left_out),
        });
    }
    Ok(images)
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
            class_order: None,
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
    fn classes_that_are_numbers_need_an_order_where_text_and_numbers_differ() {
        let root = tempfile::tempdir().unwrap();
        let classes = |order| {
            let config = FolderConfig {
                path: root.path().to_owned(),
                channels: ColourMode::Rgb,
                class_order: order,
                transforms: vec![],
            };
            let opened = Dataset::open(&DatasetConfig::Folder(config), Path::new("/"));
            opened.map(|dataset| dataset.class_names().to_vec())
        };
        let add = |class: &str| {
            let picture = image::RgbImage::from_pixel(2, 2, image::Rgb([9; 3]));
            write(&root.path().join(class).join("a.png"), picture.into());
        };
        ["0", "1", "9"].iter().copied().for_each(add);
        assert_eq!(classes(None).unwrap(), ["0", "1", "9"]);
        add("10");
        let refused = classes(None).unwrap_err().to_string();
        assert!(
            refused.contains("`10` comes before `9`") && refused.contains("class_order"),
            "{refused}"
        );
        assert_eq!(
            classes(Some(ClassOrder::Numeric)).unwrap(),
            ["0", "1", "9", "10"]
        );
        assert_eq!(
            classes(Some(ClassOrder::Alphabetical)).unwrap(),
            ["0", "1", "10", "9"]
        );
        add("cat");
        assert!(classes(None).is_ok());
        let refused = classes(Some(ClassOrder::Numeric)).unwrap_err().to_string();
        assert!(refused.contains("`cat`"), "{refused}");
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
            Err(DataError::NoImages { .. })
        ));
        assert!(matches!(
            open(&root.path().join("nowhere"), ColourMode::Rgb),
            Err(DataError::File(dtta_base::Error::Read { .. }))
        ));
        let empty = root.path().join("empty_class");
        std::fs::create_dir(&empty).unwrap();
        std::fs::write(empty.join("a.heic"), "").unwrap();
        let message = open(root.path(), ColourMode::Rgb).unwrap_err().to_string();
        assert!(
            message.contains("empty_class`") && message.ends_with("it holds 1 `.heic` file"),
            "{message}"
        );
        let broken = empty.join("broken.png");
        std::fs::write(&broken, b"\x89PNG\r\n\x1a\nnothing").unwrap();
        let dataset = open(root.path(), ColourMode::Rgb).unwrap();
        let refused = dataset.sample(0).unwrap_err();
        assert!(
            matches!(&refused, DataError::Decode { path, .. } if *path == broken),
            "{refused:?}"
        );
    }

    #[test]
    fn says_what_it_left_out_and_keeps_labels_in_place() {
        let root = tempfile::tempdir().unwrap();
        let picture = || image::RgbImage::from_pixel(2, 2, image::Rgb([9; 3])).into();
        for path in [
            ".ipynb_checkpoints/a-checkpoint.png",
            "__MACOSX/ant/._a.png",
            "ant/._a.png",
            "ant/a.png",
            "ant/b.gif",
            "bee/@eaDir/a.png",
            "bee/a.png",
            "beside.png",
        ] {
            write(&root.path().join(path), picture());
        }
        std::fs::write(root.path().join("ant/a.txt"), "").unwrap();
        std::fs::write(root.path().join("LICENSE"), "").unwrap();
        let dataset = open(root.path(), ColourMode::Rgb).unwrap();
        assert_eq!(dataset.class_names(), ["ant", "bee"]);
        assert_eq!(dataset.ids(), ["ant/a.png", "ant/b.gif", "bee/a.png"]);
        assert_eq!(
            dataset.left_out().to_string(),
            "1 image beside class folders (`beside.png`), all but the first frame of 1 GIF file, \
             4 hidden (`.ipynb_checkpoints`, …), 1 file without an extension, 1 `.txt` file"
        );
        assert_eq!(dataset.left_out().count(), 7);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_end_where_they_began() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        let store = tempfile::tempdir().unwrap();
        let grey = || image::GrayImage::from_pixel(2, 2, image::Luma([9])).into();
        write(&store.path().join("x.png"), grey());
        write(&root.path().join("ant/a.png"), grey());
        write(&root.path().join("cat/c.png"), grey());
        let link = |to: &Path, name: &str| symlink(to, root.path().join(name)).unwrap();
        link(store.path(), "bee");
        link(&store.path().join("x.png"), "cat/linked.png");
        link(Path::new(".."), "cat/up");
        link(Path::new("../.."), "cat/further_up");
        link(&root.path().join("cat"), "ant/friends");
        link(&root.path().join("ant"), "cat/friends");
        let dataset = open(root.path(), ColourMode::Rgb).unwrap();
        assert_eq!(dataset.class_names(), ["ant", "bee", "cat"]);
        assert_eq!(
            dataset.ids(),
            [
                "ant/a.png",
                "ant/friends/c.png",
                "ant/friends/linked.png",
                "bee/x.png",
                "cat/c.png",
                "cat/linked.png",
                "cat/friends/a.png",
            ]
        );
        assert_eq!(dataset.labels(), Some([0, 0, 0, 1, 2, 2, 2].as_slice()));
        assert!(dataset.sample(5).is_ok());
        // Up and further up from both sides, and back through the friend's folder.
        assert_eq!(
            dataset.left_out().to_string(),
            "6 links to a folder above (`ant/friends/friends`, …)"
        );

        link(&root.path().join("unmounted"), "dog");
        let refused = open(root.path(), ColourMode::Rgb).unwrap_err().to_string();
        assert!(refused.contains("dog`"), "{refused}");
    }
}

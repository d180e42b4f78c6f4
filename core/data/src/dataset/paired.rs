//! Folders side by side: images, and for each of them a PNG with labels or numbers in a folder for each target. Partners have the same
//! path below their folder, but for the extension and for what patterns of names say; two images that differ in nothing else are refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::png::BitDepth;
use dtta_base::TargetType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::decode::read_image;
use super::folder::{ColourMode, images};
use super::partners::{Names, partners};
use super::quantised::Quantised;
use super::walk::{Walk, id};
use super::{Dataset, Source, png};
use crate::target::{label_map, number_map};
use crate::{DataError, IGNORE, Image, LabelMap, Target, Targets, Transform};

/// Images with maps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PairedConfig {
    /// The folder of images, at any depth, of the types that a `folder` dataset reads.
    pub images: PathBuf,
    /// What images are called, without the extension, with `*` for what they have in common with their maps: `rgb_*`, `*_colors`. Others are
    /// left out.
    #[serde(default = "anything", skip_serializing_if = "is_anything")]
    pub names: String,
    /// How many channels to read.
    pub channels: ColourMode,
    /// What is known about each image, by name: conventionally `labels` for classes and `depth` for distances.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub targets: BTreeMap<String, TargetFolder>,
    /// A JSON file with the list of class names, in the order of the label maps' values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<PathBuf>,
    /// Applied to each image, in order, before any corruption; maps are resized, cropped and padded alike.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transforms: Vec<Transform>,
}

/// A folder with a map for each image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TargetFolder {
    /// PNG of 8 bits or fewer, grey or with a palette; the value or palette index is the class.
    LabelMap {
        /// The folder.
        path: PathBuf,
        /// What maps are called, without the extension, with `*` for what they have in common with their images.
        #[serde(default = "anything", skip_serializing_if = "is_anything")]
        names: String,
        /// The value of pixels without a class.
        #[serde(default = "ignore")]
        ignore_index: u8,
        /// The value of the first class: 1 for ADE20K's annotations, where 0 stands for what is no class.
        #[serde(default, skip_serializing_if = "is_zero")]
        first_class: u8,
    },
    /// PNG of 8 or 16 bits, grey (one channel) or RGB (three).
    NumberMap(NumberFolder),
}

/// A folder of number maps: a number is `raw * scale + offset`; a pixel whose raw numbers are all 0 has none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NumberFolder {
    /// The folder.
    pub path: PathBuf,
    /// What maps are called, without the extension, with `*` for what they have in common with their images: `sync_depth_*`, `*_depth`.
    #[serde(default = "anything", skip_serializing_if = "is_anything")]
    pub names: String,
    /// Numbers of each pixel: 1 (grey) or 3 (RGB).
    #[serde(default = "one")]
    #[schemars(extend("enum" = [1, 3]))]
    pub channels: usize,
    /// What 1 in the file stands for: 0.001 where files hold millimetres and metres are wanted.
    #[serde(default = "unit")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub scale: f32,
    /// What is added then.
    #[serde(default)]
    pub offset: f32,
    /// Channels, from 0, whose sign changes where the image is mirrored left and right: `[0]` for normals, whose x points right.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub negated_by_flip: Vec<usize>,
}

fn anything() -> String {
    "*".into()
}

fn is_anything(names: &str) -> bool {
    names == "*"
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde asks for"
)]
fn is_zero(value: &u8) -> bool {
    *value == 0
}

fn ignore() -> u8 {
    IGNORE
}

fn one() -> usize {
    1
}

fn unit() -> f32 {
    1.0
}

/// Images with the folders' maps.
#[derive(Debug)]
struct Paired {
    root: PathBuf,
    images: Vec<PathBuf>,
    channels: ColourMode,
    maps: BTreeMap<String, Maps>,
    classes: usize,
}

/// One file per image, and what its values mean.
#[derive(Debug)]
struct Maps {
    paths: Vec<PathBuf>,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Labels { ignore_index: u8, first: u8 },
    Numbers { channels: usize, stored: Quantised },
}

impl TargetFolder {
    fn path(&self) -> &Path {
        match self {
            Self::LabelMap { path, .. } => path,
            Self::NumberMap(NumberFolder { path, .. }) => path,
        }
    }

    fn names(&self) -> &str {
        match self {
            Self::LabelMap { names, .. } => names,
            Self::NumberMap(NumberFolder { names, .. }) => names,
        }
    }

    fn target_type(&self) -> TargetType {
        match self {
            Self::LabelMap { .. } => label_map(),
            Self::NumberMap(folder) => number_map(folder.channels),
        }
    }

    /// What the files of the target called `name` hold.
    fn values(&self, name: &str) -> Result<Values, DataError> {
        let folder = match self {
            Self::LabelMap {
                ignore_index,
                first_class,
                ..
            } => {
                return Ok(Values::Labels {
                    ignore_index: *ignore_index,
                    first: *first_class,
                });
            }
            Self::NumberMap(folder) => folder,
        };
        let channels = folder.channels;
        if !matches!(channels, 1 | 3) {
            return Err(DataError::MapChannels {
                target: name.into(),
                channels,
                expected: "1 (grey PNG) or 3 (RGB)",
            });
        }
        let stored = Quantised {
            scale: folder.scale,
            offset: folder.offset,
            negated_by_flip: folder.negated_by_flip.clone(),
        };
        stored.check(name, channels)?;
        Ok(Values::Numbers { channels, stored })
    }
}

pub(super) fn open(config: &PairedConfig, base: &Path) -> Result<Dataset, DataError> {
    let root = base.join(&config.images);
    let mut walk = Walk::new(&root);
    let named = Names::new(&config.names)?;
    let images = named.keep(images(&mut walk, &root)?, &mut walk);
    if images.is_empty() {
        return Err(DataError::NoImages {
            path: root.clone(),
            left_out: walk.left_out,
        });
    }
    let mut left_out = walk.left_out;
    let class_names = match &config.classes {
        Some(file) => read_classes(&base.join(file))?,
        None => Vec::new(),
    };
    let mut maps = BTreeMap::new();
    for (name, folder) in &config.targets {
        let values = folder.values(name)?;
        if matches!(values, Values::Labels { .. }) {
            expect_classes(config, class_names.len(), name)?;
        }
        let path = base.join(folder.path());
        let mut walk = Walk::new(&path);
        let maps_named = Names::new(folder.names())?;
        let of_images = (root.as_path(), &images[..], &named);
        let paths = partners(of_images, &mut walk, (path.as_path(), &maps_named), name)?;
        // In one folder with the images, what is no map may be an image.
        if path != root {
            left_out.merge(walk.left_out);
        }
        maps.insert(name.clone(), Maps { paths, values });
    }
    let types = config.targets.iter();
    Ok(Dataset {
        ids: images.iter().map(|path| id(&root, path)).collect(),
        labels: None,
        target_types: types
            .map(|(name, folder)| (name.clone(), folder.target_type()))
            .collect(),
        left_out,
        source: Arc::new(Paired {
            root: root.clone(),
            images,
            channels: config.channels,
            maps,
            classes: class_names.len(),
        }),
        class_names,
        transforms: config.transforms.clone(),
        provenance: None,
        location: root,
    })
}

impl Source for Paired {
    fn sample(&self, index: usize) -> Result<(Image, Targets), DataError> {
        let image = read_image(&self.images[index], self.channels)?;
        let extents = [image.height(), image.width()];
        let targets = self
            .maps
            .iter()
            .map(|(name, maps)| Ok((name.clone(), self.map(name, maps, index, extents)?)));
        Ok((image, targets.collect::<Result<_, DataError>>()?))
    }

    fn files(&self, index: usize) -> Vec<(&str, &Path)> {
        let image = ("image", self.images[index].as_path());
        let maps = self.maps.iter();
        let maps = maps.map(|(name, maps)| (name.as_str(), maps.paths[index].as_path()));
        std::iter::once(image).chain(maps).collect()
    }

    fn quantised(&self, target: &str) -> Option<&Quantised> {
        match &self.maps.get(target)?.values {
            Values::Numbers { stored, .. } => Some(stored),
            Values::Labels { .. } => None,
        }
    }
}

impl Paired {
    /// A map, decoded only if it has its image's extents.
    fn map(
        &self,
        name: &str,
        maps: &Maps,
        index: usize,
        extents: [usize; 2],
    ) -> Result<Target, DataError> {
        let path = &maps.paths[index];
        let (channels, widest) = match &maps.values {
            Values::Labels { .. } => (1, BitDepth::Eight),
            Values::Numbers { channels, .. } => (*channels, BitDepth::Sixteen),
        };
        let file = png::open(path, channels, widest)?;
        if file.extents() != extents {
            return Err(DataError::MapExtents {
                id: id(&self.root, &self.images[index]),
                path: path.clone(),
                target: name.to_owned(),
                found: file.extents(),
                image: extents,
            });
        }
        let raw = file.values()?;
        let (ignore_index, first) = match &maps.values {
            Values::Labels {
                ignore_index,
                first,
            } => (*ignore_index, *first),
            Values::Numbers { stored, .. } => return Ok(stored.read(extents, &raw)?.into()),
        };
        let mut labels = Vec::with_capacity(raw.len());
        for value in raw {
            // At most 8 bits were asked for.
            let value = value as u8;
            let class = value.checked_sub(first);
            if value == ignore_index {
                labels.push(IGNORE);
            } else if let Some(class) = class.filter(|class| usize::from(*class) < self.classes) {
                labels.push(class);
            } else {
                return Err(DataError::MapLabel {
                    target: name.into(),
                    path: path.clone(),
                    id: None,
                    label: value,
                    classes: self.classes,
                });
            }
        }
        let [height, width] = extents;
        Ok(LabelMap::new(height, width, labels)?.into())
    }
}

fn read_classes(path: &Path) -> Result<Vec<String>, DataError> {
    let list = dtta_base::read_json(path, &[])?;
    let names = dtta_base::parse(list);
    Ok(names.map_err(|issues| dtta_base::invalid(path, "list of class names", issues))?)
}

/// Refuses label maps without class names, and more names than labels can tell apart: one of them would mean no class.
fn expect_classes(config: &PairedConfig, classes: usize, name: &str) -> Result<(), DataError> {
    let target = name.to_owned();
    match &config.classes {
        None => Err(DataError::NoClasses { target }),
        Some(_) if classes > usize::from(IGNORE) => Err(DataError::MapClasses { target, classes }),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ::png::ColorType;
    use serde_json::{Value, json};

    use super::super::png::tests::write;
    use super::*;
    use crate::{DatasetConfig, NumberMap};

    /// Two images of 3 by 2 pixels with masks, depth maps and normals.
    fn folders(root: &Path) {
        let depths = [0u16, 1, 500, 1000, 2000, 65535];
        let depths: Vec<u8> = depths.iter().flat_map(|d| d.to_be_bytes()).collect();
        let mut normals = vec![128u8; 18];
        // Nothing is known of the first pixel; the second points right.
        normals[..6].copy_from_slice(&[0, 0, 0, 255, 128, 128]);
        for (name, first) in [("a/one", 0u8), ("two", 1)] {
            let file = |folder: &str| root.join(folder).join(name).with_extension("png");
            let bytes = |folder: &str, colour, data: &[u8]| {
                write(&file(folder), colour, BitDepth::Eight, [3, 2], data);
            };
            bytes("images", ColorType::Rgb, &[first * 51; 18]);
            bytes("masks", ColorType::Indexed, &[first, 1, 0, 9, 1, 1]);
            bytes("normals", ColorType::Rgb, &normals);
            let grey = ColorType::Grayscale;
            write(&file("depths"), grey, BitDepth::Sixteen, [3, 2], &depths);
        }
        // With the byte-order mark that some editors write.
        let classes = "\u{feff}[\"floor\", \"wall\"]";
        fs::write(root.join("classes.json"), classes).unwrap();
    }

    /// Opens the dataset with changes, each a JSON pointer and a value.
    fn open(root: &Path, changes: &[(&str, Value)]) -> Result<Dataset, DataError> {
        let mut config = json!({
            "kind": "paired", "images": "images", "channels": "rgb", "classes": "classes.json", "transforms": [],
            "targets": {
                "labels": { "kind": "label_map", "path": "masks", "ignore_index": 9 },
                "depth": { "kind": "number_map", "path": "depths", "scale": 0.001 },
                "normals": {
                    "kind": "number_map", "path": "normals", "channels": 3, "scale": 0.0078125, "offset": -1.0, "negated_by_flip": [0]
                }
            }
        });
        for (pointer, value) in changes {
            *config.pointer_mut(pointer).unwrap() = value.clone();
        }
        let config: DatasetConfig = serde_json::from_value(config).unwrap();
        Dataset::open(&config, root)
    }

    /// The test folder of NYU Depth v2 as DenseDepth distributes it, and that of BTS: image and depth side by side, told apart by their names.
    #[test]
    fn pairs_files_in_one_folder_by_what_their_names_have_in_common() {
        for (images, depths) in [("*_colors", "*_depth"), ("rgb_*", "sync_depth_*")] {
            let root = tempfile::tempdir().unwrap();
            let file = |pattern: &str, common: &str| {
                let name = pattern.replace('*', common);
                root.path()
                    .join("bathroom")
                    .join(name)
                    .with_extension("png")
            };
            for (n, common) in ["00000", "00010"].into_iter().enumerate() {
                let first = 51 * n as u8;
                let colour = ColorType::Rgb;
                write(
                    &file(images, common),
                    colour,
                    BitDepth::Eight,
                    [2, 1],
                    &[first; 6],
                );
                let millimetres: Vec<u8> = [0u16, 2500 + n as u16]
                    .iter()
                    .flat_map(|d| d.to_be_bytes())
                    .collect();
                let grey = ColorType::Grayscale;
                write(
                    &file(depths, common),
                    grey,
                    BitDepth::Sixteen,
                    [2, 1],
                    &millimetres,
                );
            }
            fs::write(root.path().join("notes.txt"), "").unwrap();
            let config = |images: &str, depths: &str| {
                let config = json!({
                    "kind": "paired", "images": ".", "names": images, "channels": "rgb",
                    "targets": { "depth": { "kind": "number_map", "path": ".", "names": depths, "scale": 0.001 } }
                });
                let config: DatasetConfig = serde_json::from_value(config).unwrap();
                Dataset::open(&config, root.path())
            };
            let dataset = config(images, depths).unwrap();
            assert_eq!(dataset.len(), 2);
            for n in 0..2 {
                let sample = dataset.sample(n).unwrap();
                assert!(sample.id.starts_with("bathroom/") && sample.id.contains("000"));
                assert_eq!(sample.image.get(0, 0, 0), Some(n as f32 * 0.2));
                let depth = numbers(&sample.targets, "depth").clone();
                assert_eq!(depth.data(), [0.0, 0.001 * (2500 + n) as f32]);
            }
            let left = dataset.left_out().to_string();
            assert!(
                left.contains(&format!("2 files not called `{images}`")),
                "{left}"
            );
            // A partner that is not there is asked for by its whole name.
            fs::remove_file(file(depths, "00010")).unwrap();
            let missing = config(images, depths).map(|_| ()).unwrap_err().to_string();
            assert!(missing.contains(&depths.replace('*', "00010")), "{missing}");
            for wrong in ["rgb", "*a*", "a/*"] {
                let refused = config(wrong, depths).map(|_| ()).unwrap_err();
                assert!(matches!(refused, DataError::Names { .. }), "{refused}");
            }
            let none = config("photo_*", depths).map(|_| ()).unwrap_err();
            assert!(matches!(none, DataError::NoImages { .. }), "{none}");
        }
    }

    /// As in ADE20K's annotations: 0 is what is no class, and the first class is 1.
    #[test]
    fn labels_may_count_from_one() {
        let root = tempfile::tempdir().unwrap();
        folders(root.path());
        let labels = |ignore: u8, first: u8| {
            let map = json!({"kind": "label_map", "path": "masks", "ignore_index": ignore, "first_class": first});
            let dataset = open(root.path(), &[("/targets/labels", map)]).unwrap();
            // Folders come after files.
            let sample = dataset.sample(1).map(|sample| {
                assert_eq!(sample.id, "a/one.png");
                let found = sample
                    .targets
                    .get("labels")
                    .and_then(Target::labels)
                    .cloned();
                found.unwrap().data().to_vec()
            });
            sample.map_err(|error| error.to_string())
        };
        // The file holds 0, 1, 0, 9, 1, 1 of two classes.
        assert_eq!(labels(9, 0), Ok(vec![0, 1, 0, IGNORE, 1, 1]));
        let nine = labels(0, 1).unwrap_err();
        assert!(nine.contains('9'), "{nine}");
        let zero = labels(9, 1).unwrap_err();
        assert!(zero.contains('0'), "{zero}");
        let map = root.path().join("masks/a/one.png");
        write(
            &map,
            ColorType::Grayscale,
            BitDepth::Eight,
            [3, 2],
            &[0, 1, 2, 0, 2, 1],
        );
        assert_eq!(labels(0, 1), Ok(vec![IGNORE, 0, 1, IGNORE, 1, 0]));
    }

    fn numbers<'a>(targets: &'a Targets, name: &str) -> &'a NumberMap {
        targets.get(name).and_then(Target::numbers).unwrap()
    }

    #[test]
    fn reads_images_with_their_maps() {
        let root = tempfile::tempdir().unwrap();
        folders(root.path());
        let dataset = open(root.path(), &[]).unwrap();
        assert_eq!(dataset.class_names(), ["floor", "wall"]);
        let types: Vec<String> = dataset
            .target_types()
            .iter()
            .map(|(name, target)| format!("{name}: {target}"))
            .collect();
        assert_eq!(
            types,
            [
                "depth: number map of 1 channels",
                "labels: label map",
                "normals: number map of 3 channels"
            ]
        );
        let sample = dataset.sample(0).unwrap();
        assert_eq!(sample.id, "two.png");
        let labels = sample.targets.get("labels").and_then(Target::labels);
        assert_eq!(labels.unwrap().data(), [1, 1, 0, IGNORE, 1, 1]);
        let depth = numbers(&sample.targets, "depth");
        assert_eq!(depth.shape(), [1, 2, 3]);
        assert_eq!(depth.data(), [0.0, 0.001, 0.5, 1.0, 2.0, 65.535]);
        let normals = numbers(&sample.targets, "normals");
        assert_eq!(normals.shape(), [3, 2, 3]);
        assert_eq!(normals.negated_by_flip(), [0]);
        let pixel = |n| normals.pixel(n).collect::<Vec<_>>();
        assert_eq!(
            (pixel(0), pixel(1)),
            (vec![0.0; 3], vec![0.992_187_5, 0.0, 0.0])
        );
        assert!(!normals.is_known(0) && normals.is_known(1) && normals.is_known(2));
        assert_eq!(dataset.sample(1).unwrap().id, "a/one.png");

        let cropped = json!([{ "kind": "centre_crop", "height": 2, "width": 1 }]);
        let dataset = open(root.path(), &[("/transforms", cropped)]).unwrap();
        let targets = dataset.sample(0).unwrap().targets;
        let labels = targets.get("labels").and_then(Target::labels);
        assert_eq!(labels.unwrap().data(), [1, 1]);
        assert_eq!(
            numbers(&targets, "normals").pixel(0).next(),
            Some(0.992_187_5)
        );
    }

    #[test]
    fn partners_are_found_by_their_names_alone() {
        let root = tempfile::tempdir().unwrap();
        folders(root.path());
        let file = |name: &str| root.path().join(name);
        fs::rename(file("masks/two.png"), file("masks/two.PNG")).unwrap();
        fs::copy(file("masks/two.PNG"), file("masks/three.png")).unwrap();
        fs::copy(file("masks/two.PNG"), file("masks/._two.png")).unwrap();
        fs::write(file("masks/two.txt"), "").unwrap();
        let dataset = open(root.path(), &[]).unwrap();
        assert!(dataset.sample(0).unwrap().targets.get("labels").is_some());
        assert_eq!(
            dataset.left_out().to_string(),
            "1 map of `labels` without an image (`three.png`), 1 hidden (`._two.png`), 1 `.txt` file"
        );
        // An image and a mask more of the same name: which is whose?
        for (from, to) in [
            ("images/two.png", "images/two.jpg"),
            ("masks/two.PNG", "masks/two.png"),
        ] {
            fs::copy(file(from), file(to)).unwrap();
            let refused = open(root.path(), &[]).unwrap_err();
            assert!(
                matches!(&refused, DataError::SharedPartner { .. }),
                "{refused}"
            );
            fs::remove_file(file(to)).unwrap();
        }
    }

    #[test]
    fn refuses_more_classes_than_a_byte_tells_apart_from_none() {
        let root = tempfile::tempdir().unwrap();
        folders(root.path());
        let names = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
        let write = |count| {
            let names = serde_json::to_string(&names(count)).unwrap();
            fs::write(root.path().join("classes.json"), names).unwrap();
        };
        write(255);
        assert!(open(root.path(), &[]).is_ok());
        write(256);
        let refused = open(root.path(), &[]).unwrap_err();
        assert!(
            matches!(&refused, DataError::MapClasses { classes: 256, .. }),
            "{refused}"
        );
    }

    #[test]
    fn refuses_what_does_not_belong_together() {
        let root = tempfile::tempdir().unwrap();
        folders(root.path());
        let path = root.path();
        let refused = |pointer: &str, value: Value, word: &str| {
            let found = open(path, &[(pointer, value)]).and_then(|dataset| dataset.sample(0));
            let message = found.unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        };
        refused("/targets/labels/ignore_index", json!(255), "label 9");
        refused("/targets/labels/path", json!("images"), "Rgb");
        refused("/targets/labels/path", json!("depths"), "16 bits");
        refused("/targets/depth/path", json!("."), "two.png");
        refused("/targets/depth/path", json!("normals"), "Rgb");
        refused("/targets/depth/scale", json!(0.0), "`depth`");
        refused("/targets/normals/channels", json!(2), "2 channels");
        refused("/targets/normals/path", json!("depths"), "RGB");
        refused("/targets/normals/negated_by_flip", json!([3]), "channel 3");
        refused("/classes", json!(null), "`labels` needs `classes`");
        fs::write(path.join("numbers.json"), "[1, 2]").unwrap();
        refused("/classes", json!("numbers.json"), "/0");
        let mask = path.join("masks/two.png");
        write(
            &mask,
            ColorType::Grayscale,
            BitDepth::Eight,
            [2, 3],
            &[0; 6],
        );
        refused("/channels", json!("rgb"), "[3, 2]");
    }
}

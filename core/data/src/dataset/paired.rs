//! Folders side by side: images, and for each a PNG mask, a PNG depth map, or both. Partners have the same path below their folder,
//! but for the extension.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::folder::{ColourMode, collect, id};
use super::{Dataset, Pixels, StoredMaps};
use crate::map::{Depth, IGNORE, Mask};
use crate::{DataError, Transform};

/// Images with masks or depth maps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PairedConfig {
    /// The folder of PNG and JPEG images, at any depth.
    pub images: PathBuf,
    /// How many channels to read.
    pub channels: ColourMode,
    /// The folder of masks: PNG of 8 bits or fewer, grey or with a palette; the value or palette index is the class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masks: Option<PathBuf>,
    /// A JSON file with the list of class names, in the order of the masks' values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<PathBuf>,
    /// The mask value of pixels without a class.
    #[serde(default = "ignore")]
    pub ignore_index: u8,
    /// The folder of depth maps: grey PNG of 8 or 16 bits; 0 is no distance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depths: Option<PathBuf>,
    /// The distance that a depth map's 1 stands for: 0.001 where they hold millimetres and metres are wanted.
    #[serde(default = "unit")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub depth_scale: f32,
    /// Applied to each image, in order, before any corruption; maps are resized, cropped and padded alike.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transforms: Vec<Transform>,
}

fn ignore() -> u8 {
    IGNORE
}

fn unit() -> f32 {
    1.0
}

/// Where the maps of a dataset in folders are, and what their values mean.
#[derive(Debug, Clone)]
pub(super) struct MapFiles {
    masks: Option<Vec<PathBuf>>,
    depths: Option<Vec<PathBuf>>,
    ignore_index: u8,
    depth_scale: f32,
    classes: usize,
}

pub(super) fn open(config: &PairedConfig, base: &Path) -> Result<Dataset, DataError> {
    let root = base.join(&config.images);
    let mut paths = Vec::new();
    collect(&root, &mut paths)?;
    if paths.is_empty() {
        return Err(DataError::Empty {
            path: root,
            expected: "PNG or JPEG images",
        });
    }
    if !(config.depth_scale > 0.0 && config.depth_scale.is_finite()) {
        return Err(DataError::DepthScale {
            scale: config.depth_scale,
        });
    }
    let class_names = match &config.classes {
        Some(file) => read_classes(&base.join(file))?,
        None if config.masks.is_some() => return Err(DataError::NoClasses),
        None => Vec::new(),
    };
    let partners = |folder: &Option<PathBuf>| {
        let folder = folder.as_ref().map(|folder| base.join(folder));
        let of_all = folder.map(|folder| {
            paths
                .iter()
                .map(|path| partner(&root, path, &folder))
                .collect()
        });
        of_all.transpose()
    };
    let files = MapFiles {
        masks: partners(&config.masks)?,
        depths: partners(&config.depths)?,
        ignore_index: config.ignore_index,
        depth_scale: config.depth_scale,
        classes: class_names.len(),
    };
    Ok(Dataset {
        ids: paths.iter().map(|path| id(&root, path)).collect(),
        labels: None,
        class_names,
        pixels: Pixels::Files {
            paths,
            channels: config.channels,
        },
        maps: StoredMaps::Files(files),
        transforms: config.transforms.clone(),
        provenance: None,
        location: root,
    })
}

impl MapFiles {
    pub fn mask(&self, index: usize) -> Result<Option<Mask>, DataError> {
        let Some(path) = self.masks.as_ref().map(|paths| &paths[index]) else {
            return Ok(None);
        };
        let (extents, values) = read_png(path, png::BitDepth::Eight)?;
        let mut labels = Vec::with_capacity(values.len());
        for value in values {
            // `read_png` gives at most 8 bits here.
            let value = value as u8;
            if value == self.ignore_index {
                labels.push(IGNORE);
            } else if usize::from(value) < self.classes {
                labels.push(value);
            } else {
                return Err(DataError::MaskLabel {
                    path: path.clone(),
                    id: None,
                    label: value,
                    classes: self.classes,
                });
            }
        }
        Mask::new(extents[0], extents[1], labels).map(Some)
    }

    pub fn depth(&self, index: usize) -> Result<Option<Depth>, DataError> {
        let Some(path) = self.depths.as_ref().map(|paths| &paths[index]) else {
            return Ok(None);
        };
        let (extents, values) = read_png(path, png::BitDepth::Sixteen)?;
        let distances = values
            .iter()
            .map(|&value| f32::from(value) * self.depth_scale);
        Depth::new(extents[0], extents[1], distances.collect()).map(Some)
    }

    pub fn has_masks(&self) -> bool {
        self.masks.is_some()
    }

    pub fn has_depths(&self) -> bool {
        self.depths.is_some()
    }
}

fn read_classes(path: &Path) -> Result<Vec<String>, DataError> {
    let text = std::fs::read(path).map_err(|source| DataError::Read {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|source| DataError::Classes {
        path: path.to_owned(),
        source,
    })
}

/// The PNG in `folder` that belongs to an image.
fn partner(root: &Path, image: &Path, folder: &Path) -> Result<PathBuf, DataError> {
    let below = image.strip_prefix(root).unwrap_or(image);
    let path = folder.join(below).with_extension("png");
    if path.is_file() {
        return Ok(path);
    }
    Err(DataError::NoPartner {
        image: image.to_owned(),
        path,
    })
}

/// The raw values of a PNG with one channel of at most `widest` bits: palette indices stay indices.
fn read_png(path: &Path, widest: png::BitDepth) -> Result<([usize; 2], Vec<u16>), DataError> {
    let file = File::open(path).map_err(|source| DataError::Read {
        path: path.to_owned(),
        source,
    })?;
    let refuse = |source| DataError::Png {
        path: path.to_owned(),
        source,
    };
    let mut decoder = png::Decoder::new(BufReader::new(file));
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(refuse)?;
    let (colour, depth) = reader.output_color_type();
    let one_channel = matches!(colour, png::ColorType::Grayscale | png::ColorType::Indexed);
    if !one_channel || depth as u8 > widest as u8 {
        return Err(DataError::MapFormat {
            path: path.to_owned(),
            found: format!("{colour:?} of {} bits", depth as u8),
            bits: widest as u8,
        });
    }
    let (height, width) = (reader.info().height as usize, reader.info().width as usize);
    let size = reader.output_buffer_size().unwrap_or_default();
    let mut bytes = vec![0; size];
    let frame = reader.next_frame(&mut bytes).map_err(refuse)?;
    let mut values = Vec::with_capacity(height * width);
    for row in bytes.chunks_exact(frame.line_size).take(height) {
        values.extend((0..width).map(|column| match depth {
            png::BitDepth::Sixteen => u16::from_be_bytes([row[2 * column], row[2 * column + 1]]),
            _ => {
                let bits = depth as usize;
                let first = column * bits;
                let shift = 8 - bits - first % 8;
                u16::from(row[first / 8] >> shift) & ((1 << bits) - 1)
            }
        }));
    }
    Ok(([height, width], values))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::DatasetConfig;

    fn write(
        path: &Path,
        colour: png::ColorType,
        depth: png::BitDepth,
        [width, height]: [u32; 2],
        data: &[u8],
    ) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut encoder = png::Encoder::new(File::create(path).unwrap(), width, height);
        encoder.set_color(colour);
        encoder.set_depth(depth);
        if colour == png::ColorType::Indexed {
            encoder.set_palette(vec![7; 12]);
        }
        encoder
            .write_header()
            .unwrap()
            .write_image_data(data)
            .unwrap();
    }

    /// Two images of 3 by 2 pixels with masks and depth maps.
    fn folders(root: &Path) {
        use png::{BitDepth, ColorType};
        for (name, first) in [("a/one", 0u8), ("two", 1)] {
            let file = |folder: &str| root.join(folder).join(name).with_extension("png");
            write(
                &file("images"),
                ColorType::Rgb,
                BitDepth::Eight,
                [3, 2],
                &[first * 51; 18],
            );
            write(
                &file("masks"),
                ColorType::Indexed,
                BitDepth::Eight,
                [3, 2],
                &[first, 1, 0, 9, 1, 1],
            );
            let depths: Vec<u8> = [0u16, 1, 500, 1000, 2000, 65535]
                .iter()
                .flat_map(|d| d.to_be_bytes())
                .collect();
            write(
                &file("depths"),
                ColorType::Grayscale,
                BitDepth::Sixteen,
                [3, 2],
                &depths,
            );
        }
        fs::write(root.join("classes.json"), r#"["floor", "wall"]"#).unwrap();
    }

    fn open(root: &Path, changes: serde_json::Value) -> Result<Dataset, DataError> {
        let mut config = json!({
            "kind": "paired", "images": "images", "channels": "rgb", "masks": "masks", "classes": "classes.json",
            "ignore_index": 9, "depths": "depths", "depth_scale": 0.001
        });
        for (name, value) in changes.as_object().unwrap() {
            config[name] = value.clone();
        }
        let config: DatasetConfig = serde_json::from_value(config).unwrap();
        Dataset::open(&config, root)
    }

    #[test]
    fn reads_images_with_their_maps() {
        let root = tempfile::tempdir().unwrap();
        folders(root.path());
        let dataset = open(root.path(), json!({})).unwrap();
        assert_eq!(dataset.class_names(), ["floor", "wall"]);
        let sample = dataset.sample(0).unwrap();
        assert_eq!(sample.id, "two.png");
        assert_eq!(sample.maps.mask.unwrap().data(), [1, 1, 0, IGNORE, 1, 1]);
        let depth = sample.maps.depth.unwrap();
        assert_eq!(depth.shape(), [2, 3]);
        assert_eq!(depth.data(), [0.0, 0.001, 0.5, 1.0, 2.0, 65.535]);
        assert_eq!(dataset.sample(1).unwrap().id, "a/one.png");
        let cropped = json!([{ "kind": "centre_crop", "height": 2, "width": 1 }]);
        let dataset = open(root.path(), json!({ "transforms": cropped })).unwrap();
        assert_eq!(dataset.sample(0).unwrap().maps.mask.unwrap().data(), [1, 1]);
    }

    #[test]
    fn reads_values_of_a_few_bits() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("mask.png");
        // 2 bits: 3 1 0 2, then 1.
        write(
            &path,
            png::ColorType::Grayscale,
            png::BitDepth::Two,
            [5, 1],
            &[0b1101_0010, 0b0100_0000],
        );
        let (_, values) = read_png(&path, png::BitDepth::Eight).unwrap();
        assert_eq!(values, [3, 1, 0, 2, 1]);
    }

    #[test]
    fn refuses_what_does_not_belong_together() {
        let root = tempfile::tempdir().unwrap();
        folders(root.path());
        let path = root.path();
        let refused = |changes, word: &str| {
            let found = open(path, changes).and_then(|dataset| dataset.sample(0));
            let message = found.unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        };
        refused(json!({ "ignore_index": 255 }), "label 9");
        refused(json!({ "masks": "images" }), "Rgb");
        refused(json!({ "masks": "depths" }), "16 bits");
        refused(json!({ "depths": "." }), "two.png");
        refused(json!({ "depth_scale": 0.0 }), "depth_scale");
        refused(json!({ "classes": null }), "classes");
        write(
            &path.join("masks/two.png"),
            png::ColorType::Grayscale,
            png::BitDepth::Eight,
            [2, 3],
            &[0; 6],
        );
        refused(json!({}), "[3, 2]");
    }
}

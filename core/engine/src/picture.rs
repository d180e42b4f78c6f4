//! Pictures of predictions for each pixel: what came in, what is true, what was predicted before and after, and where that is wrong.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use dtta_data::{IGNORE, Image, Maps, is_distance};
use dtta_plugin::{Named, find};
use dtta_tensor::Tensor;

use crate::error::{Error, Result};
use crate::task::TaskKind;

type Colour = [u8; 3];

/// Between two panels, and around none.
const GAP: usize = 2;
const WHITE: Colour = [255; 3];
/// Pixels that are right, or of which nothing is known.
const RIGHT: Colour = [32; 3];
/// A relative error of depth that gets the brightest colour.
const WORST: f32 = 1.0;

/// Colours of classes (Kelly's colours of maximum contrast, 1965), repeated where there are more.
const CLASSES: [Colour; 20] = [
    [128, 128, 128],
    [0, 103, 165],
    [243, 195, 0],
    [190, 0, 50],
    [0, 136, 86],
    [135, 86, 146],
    [243, 132, 0],
    [161, 202, 241],
    [194, 178, 128],
    [230, 143, 172],
    [249, 147, 121],
    [96, 78, 151],
    [246, 166, 0],
    [179, 68, 108],
    [220, 211, 0],
    [136, 45, 23],
    [141, 182, 0],
    [101, 69, 34],
    [226, 88, 34],
    [43, 61, 38],
];

/// Rows of colours.
struct Panel {
    width: usize,
    pixels: Vec<Colour>,
}

/// What a picture is made of.
pub(crate) struct Shown<'a> {
    pub image: &'a Image,
    pub maps: &'a Maps,
    /// Predictions of the batch, before and after, and the row of this image.
    pub predictions: [&'a Named; 2],
    pub row: usize,
}

/// Writes `STEM.png` with the panels input, target, source, adapted and error of the adapted (no target and no error where nothing is
/// known), and each prediction alone as `STEM-source.png` and `STEM-adapted.png`: class labels with a palette, or depth by colour.
pub(crate) fn write(folder: &Path, stem: &str, kind: TaskKind, shown: &Shown<'_>) -> Result<()> {
    let base = folder.join(stem.replace(['/', '\\'], "_"));
    fs::create_dir_all(folder).map_err(|source| Error::Write {
        path: folder.into(),
        source,
    })?;
    let [_, height, width] = shown.image.shape();
    let mut panels = vec![input(shown.image)];
    let row = |named: &Named| -> Result<Tensor> {
        let map = find(named, kind.prediction());
        Ok(map
            .expect("predictions were checked")
            .narrow(0, shown.row, 1)?)
    };
    let predictions = [row(shown.predictions[0])?, row(shown.predictions[1])?];
    let indexed: [Vec<u8>; 2];
    let palette: Vec<Colour>;
    match kind {
        TaskKind::Classification => return Ok(()),
        TaskKind::Segmentation => {
            let labels = |map: &Tensor| -> Result<Vec<u8>> {
                Ok(map
                    .to_ints()?
                    .into_iter()
                    .map(|label| label.clamp(0, 255) as u8)
                    .collect())
            };
            indexed = [labels(&predictions[0])?, labels(&predictions[1])?];
            palette = class_palette();
            let coloured =
                |labels: &[u8]| labels.iter().map(|&l| palette[usize::from(l)]).collect();
            let target = shown.maps.mask.as_ref().map(|mask| mask.data());
            panels.extend(target.map(|target| Panel::new(width, coloured(target))));
            panels.extend(
                indexed
                    .iter()
                    .map(|labels| Panel::new(width, coloured(labels))),
            );
            panels.extend(target.map(|target| {
                let pairs = target.iter().zip(&indexed[1]);
                let colour =
                    |(target, found): (&u8, &u8)| match *target == IGNORE || target == found {
                        true => RIGHT,
                        false => palette[usize::from(*found)],
                    };
                Panel::new(width, pairs.map(colour).collect())
            }));
        }
        TaskKind::Depth => {
            let found = [predictions[0].to_floats()?, predictions[1].to_floats()?];
            let target = shown.maps.depth.as_ref().map(|depth| depth.data());
            // One scale for all: what is known, or else what the source said.
            let known = target
                .unwrap_or(&found[0])
                .iter()
                .copied()
                .filter(|&d| is_distance(d));
            let (near, far) = known.fold((f32::INFINITY, f32::MIN_POSITIVE), |(near, far), d| {
                (near.min(d), far.max(d))
            });
            let place = |&d: &f32| {
                let share = (d.max(near) / near).ln() / (far / near).ln().max(f32::MIN_POSITIVE);
                (share.clamp(0.0, 1.0) * 255.0).round() as u8
            };
            palette = (0..=255u8)
                .map(|n| depth_colour(f64::from(n) / 255.0))
                .collect();
            indexed = [
                found[0].iter().map(place).collect(),
                found[1].iter().map(place).collect(),
            ];
            panels.extend(target.map(|target| {
                let colour = |d: &f32| match is_distance(*d) {
                    true => palette[usize::from(place(d))],
                    false => [0; 3],
                };
                Panel::new(width, target.iter().map(colour).collect())
            }));
            panels.extend(indexed.iter().map(|map| {
                Panel::new(
                    width,
                    map.iter().map(|&n| palette[usize::from(n)]).collect(),
                )
            }));
            panels.extend(target.map(|target| {
                let pairs = target.iter().zip(&found[1]);
                let colour = |(target, found): (&f32, &f32)| match is_distance(*target) {
                    true => {
                        let share = (found - target).abs() / target / WORST;
                        error_colour(f64::from(share.min(1.0)))
                    }
                    false => RIGHT,
                };
                Panel::new(width, pairs.map(colour).collect())
            }));
        }
    }
    let (wide, pixels) = beside(&panels, height);
    save(&suffixed(&base, ".png"), [height, wide], &pixels, None)?;
    for (map, name) in indexed.iter().zip(["-source.png", "-adapted.png"]) {
        save(&suffixed(&base, name), [height, width], map, Some(&palette))?;
    }
    Ok(())
}

fn suffixed(base: &Path, suffix: &str) -> PathBuf {
    let mut name = base.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

impl Panel {
    fn new(width: usize, pixels: Vec<Colour>) -> Self {
        Self { width, pixels }
    }
}

fn input(image: &Image) -> Panel {
    let [channels, height, width] = image.shape();
    let value = |channel: usize, row, column| {
        let value = image
            .get(channel.min(channels - 1), row, column)
            .unwrap_or_default();
        (value.clamp(0.0, 1.0) * 255.0).round() as u8
    };
    let places = (0..height).flat_map(|row| (0..width).map(move |column| (row, column)));
    let pixels = places.map(|(row, column)| [0, 1, 2].map(|channel| value(channel, row, column)));
    Panel::new(width, pixels.collect())
}

/// The panels from left to right: the width of all, and their bytes.
fn beside(panels: &[Panel], height: usize) -> (usize, Vec<u8>) {
    let wide = panels.iter().map(|panel| panel.width + GAP).sum::<usize>() - GAP;
    let mut bytes = Vec::with_capacity(3 * wide * height);
    for row in 0..height {
        for (n, panel) in panels.iter().enumerate() {
            if n > 0 {
                bytes.extend([WHITE; GAP].as_flattened());
            }
            let start = row * panel.width;
            bytes.extend(panel.pixels[start..start + panel.width].as_flattened());
        }
    }
    (wide, bytes)
}

/// The colour of each label; black for no label.
fn class_palette() -> Vec<Colour> {
    let mut palette: Vec<Colour> = CLASSES.iter().copied().cycle().take(256).collect();
    palette[usize::from(IGNORE)] = [0; 3];
    palette
}

/// Near is yellow, far is dark (viridis).
fn depth_colour(far: f64) -> Colour {
    colorous::VIRIDIS.eval_continuous(1.0 - far).as_array()
}

fn error_colour(share: f64) -> Colour {
    colorous::INFERNO.eval_continuous(share).as_array()
}

/// Writes a PNG of three bytes a pixel, or of one with a palette.
fn save(
    path: &Path,
    [height, width]: [usize; 2],
    bytes: &[u8],
    palette: Option<&[Colour]>,
) -> Result<()> {
    let written = |source| Error::Write {
        path: path.into(),
        source,
    };
    let file = File::create(path).map_err(written)?;
    let mut encoder = png::Encoder::new(BufWriter::new(file), width as u32, height as u32);
    match palette {
        Some(palette) => {
            encoder.set_color(png::ColorType::Indexed);
            encoder.set_palette(palette.as_flattened().to_vec());
        }
        None => encoder.set_color(png::ColorType::Rgb),
    }
    let encoded = encoder.write_header().and_then(|mut writer| {
        writer
            .write_image_data(bytes)
            .and_then(|()| writer.finish())
    });
    encoded.map_err(|error| written(error.into()))
}

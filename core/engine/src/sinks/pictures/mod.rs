//! Pictures of predictions for each pixel: what came in, what is true, what was predicted before and after, and where that is wrong. How a
//! prediction is pictured, the head's descriptor says.

mod panels;

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use dtta_base::{TargetType, file_name};
use dtta_data::Image;
use dtta_plugin::{ColourScale, Picture, PixelError, Predicts};
use dtta_tensor::Tensor;

use self::panels::{Colour, Panel, Shown, colours, labels, numbers};
use super::{Finished, Sink, Start};
use crate::error::{Error, Result};

/// Between two panels, and around none.
const GAP: usize = 2;
const WHITE: Colour = [255; 3];

/// For so many samples of each domain, writes `DOMAIN/ID.png` with the panels input, target, source, adapted and error of the adapted (no
/// target and no error where nothing is known), and each prediction alone as `ID-source.png` and `ID-adapted.png`.
pub(crate) struct Pictures {
    of_each_domain: usize,
    folder: PathBuf,
    predicts: Option<Predicts>,
}

impl Pictures {
    /// Its folder in the run's folder.
    pub const FOLDER: &'static str = "images";

    /// For so many samples of each domain.
    pub fn new(of_each_domain: usize) -> Self {
        Self {
            of_each_domain,
            folder: PathBuf::new(),
            predicts: None,
        }
    }
}

impl Sink for Pictures {
    fn start(&mut self, start: &Start<'_>) -> Result<()> {
        self.folder = start.folder.join(Self::FOLDER);
        self.predicts = Some(start.run.predicts.clone());
        Ok(())
    }

    fn sample(&mut self, finished: &Finished<'_>) -> Result<()> {
        let (Some(predicts), Some(predictions)) = (&self.predicts, finished.predictions) else {
            return Ok(());
        };
        let Some(picture) = pictured(predicts) else {
            return Ok(());
        };
        if finished.place >= self.of_each_domain {
            return Ok(());
        }
        let row = |n: usize| -> Result<Tensor> {
            let map = predictions[n].get(&predicts.name);
            let map = map.ok_or_else(|| Error::Outputs {
                role: "head",
                found: format!("{:?}", predictions[n].names().collect::<Vec<_>>()),
                expected: format!("it predicts `{}`", predicts.name),
            })?;
            Ok(map.narrow(0, finished.row, 1)?)
        };
        let shown = Shown {
            image: &finished.item.image,
            target: finished.item.targets.get(&predicts.name),
            predictions: [row(0)?, row(1)?],
        };
        let panels = match &picture {
            Picture::Palette { colours } => labels(colours, &shown)?,
            Picture::ColourMap {
                scale,
                reverse,
                error,
                worst,
            } => numbers((*scale, *reverse), (*error, *worst), &shown)?,
            Picture::Rgb { low, high, worst } => colours([*low, *high], *worst, &shown)?,
        };
        let folder = self.folder.join(file_name(&finished.record.domain));
        fs::create_dir_all(&folder).map_err(|source| written(&folder, source))?;
        let base = folder.join(file_name(&finished.item.id));
        let [_, height, _] = finished.item.image.shape();
        let mut rows = vec![input(&finished.item.image)];
        rows.extend(panels.target);
        rows.extend(panels.predictions.iter().cloned());
        rows.extend(panels.error);
        let (wide, pixels) = beside(&rows, height);
        save(&suffixed(&base, ".png"), [height, wide], &pixels, None)?;
        for (panel, name) in panels
            .predictions
            .iter()
            .zip(["-source.png", "-adapted.png"])
        {
            let (path, extents) = (suffixed(&base, name), [height, panel.width]);
            match &panel.indices {
                Some((indices, palette)) => save(&path, extents, indices, Some(palette))?,
                None => save(&path, extents, panel.pixels.as_flattened(), None)?,
            }
        }
        Ok(())
    }
}

/// How a prediction is pictured: as its descriptor says, or as any of its type can be.
fn pictured(predicts: &Predicts) -> Option<Picture> {
    let otherwise = match predicts.target {
        TargetType::ClassIndex {} => return None,
        TargetType::LabelMap { .. } => Some(Picture::Palette { colours: vec![] }),
        TargetType::NumberMap { channels: 1, .. } => Some(Picture::ColourMap {
            scale: ColourScale::Linear,
            reverse: false,
            error: PixelError::Absolute,
            worst: 1.0,
        }),
        TargetType::NumberMap { .. } => None,
    };
    predicts.picture.clone().or(otherwise)
}

/// Whether there is anything to picture.
pub(crate) fn can_picture(predicts: &Predicts) -> bool {
    pictured(predicts).is_some()
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
    Panel::new(width, pixels)
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

fn suffixed(base: &Path, suffix: &str) -> PathBuf {
    let mut name = base.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Writes a PNG of three bytes a pixel, or of one with a palette.
fn save(
    path: &Path,
    [height, width]: [usize; 2],
    bytes: &[u8],
    palette: Option<&[Colour]>,
) -> Result<()> {
    let failed = |source| written(path, source);
    let file = File::create(path).map_err(failed)?;
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
    encoded.map_err(|error| failed(error.into()))
}

fn written(path: &Path, source: std::io::Error) -> Error {
    let path = path.into();
    dtta_base::Error::Write { path, source }.into()
}

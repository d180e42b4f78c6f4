//! Pictures of predictions: what came in, what is true, what was predicted before and after, and, for each pixel, where that is wrong. How a
//! prediction for each pixel is pictured, the head's descriptor says.

mod bars;
mod panels;

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use dtta_base::{TargetType, file_name, write_whole};
use dtta_data::{Image, Target};
use dtta_plugin::{ColourScale, Picture, PixelError, Predicts};
use dtta_tensor::{Named, Tensor};

use self::bars::{Predicted, bars, legend};
use self::panels::{Colour, Panel, Shown, colours, labels, numbers};
use super::{Finished, Sink, Start};
use crate::error::{Error, Result};

/// Between two panels, and around none.
const GAP: usize = 2;
const WHITE: Colour = [255; 3];

/// For so many samples of each domain, writes `DOMAIN/ID.png` with the panels input, target, source, adapted and error of the adapted (no
/// target and no error where nothing is known), and each prediction alone as `ID-source.png` and `ID-adapted.png`. Of classes of whole images,
/// `DOMAIN/ID.png` alone, with bars, and `classes.svg` with their colours.
pub(crate) struct Pictures {
    of_each_domain: usize,
    class_names: Vec<String>,
    folder: PathBuf,
    predicts: Option<Predicts>,
}

impl Pictures {
    /// Its folder in the run's folder.
    pub const FOLDER: &'static str = "images";
    /// The colours of classes, beside the domains' folders.
    const LEGEND: &'static str = "classes.svg";

    /// For so many samples of each domain. Classes without names have no legend.
    pub fn new(of_each_domain: usize, class_names: Vec<String>) -> Self {
        Self {
            of_each_domain,
            class_names,
            folder: PathBuf::new(),
            predicts: None,
        }
    }
}

impl Sink for Pictures {
    fn start(&mut self, start: &Start<'_>) -> Result<()> {
        self.folder = start.folder.join(Self::FOLDER);
        self.predicts = Some(start.run.predicts.clone());
        let of_classes = start.run.predicts.target == TargetType::ClassIndex {};
        if of_classes && !self.class_names.is_empty() {
            make(&self.folder)?;
            let path = self.folder.join(Self::LEGEND);
            write_whole(&path, legend(&self.class_names).as_bytes())?;
        }
        Ok(())
    }

    fn sample(&mut self, finished: &Finished<'_>) -> Result<()> {
        let (Some(predicts), Some(predictions)) = (&self.predicts, finished.predictions) else {
            return Ok(());
        };
        let Some(style) = style(predicts) else {
            return Ok(());
        };
        if finished.item.place >= self.of_each_domain {
            return Ok(());
        }
        let folder = self.folder.join(file_name(&finished.record.domain));
        make(&folder)?;
        let base = folder.join(file_name(&finished.item.id));
        match style {
            Style::Bars => {
                let target = finished.item.targets.get(&predicts.name);
                let predicted = Predicted {
                    named: predictions,
                    name: &predicts.name,
                    row: finished.row,
                };
                let target = target.and_then(Target::class).map(i64::from);
                let (panels, height) = bars(&finished.item.image, target, &predicted)?;
                let (wide, pixels) = beside(&panels, height);
                save(&suffixed(&base, ".png"), [height, wide], &pixels, None)
            }
            Style::Pixels(picture) => maps(&picture, predicts, predictions, finished, &base),
        }
    }
}

/// Writes the pictures of a prediction for each pixel.
fn maps(
    picture: &Picture,
    predicts: &Predicts,
    predictions: [&Named; 2],
    finished: &Finished<'_>,
    base: &Path,
) -> Result<()> {
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
    let panels = match picture {
        Picture::Palette { colours } => labels(colours, &shown)?,
        Picture::ColourMap {
            scale,
            reverse,
            error,
            worst,
        } => numbers((*scale, *reverse), (*error, *worst), &shown)?,
        Picture::Rgb { low, high, worst } => colours([*low, *high], *worst, &shown)?,
    };
    let [_, height, _] = finished.item.image.shape();
    let mut rows = vec![input(&finished.item.image)];
    rows.extend(panels.target);
    rows.extend(panels.predictions.iter().cloned());
    rows.extend(panels.error);
    let (wide, pixels) = beside(&rows, height);
    save(&suffixed(base, ".png"), [height, wide], &pixels, None)?;
    let names = ["-source.png", "-adapted.png"];
    for (panel, name) in panels.predictions.iter().zip(names) {
        let (path, extents) = (suffixed(base, name), [height, panel.width]);
        match &panel.indices {
            Some((indices, palette)) => save(&path, extents, indices, Some(palette))?,
            None => save(&path, extents, panel.pixels.as_flattened(), None)?,
        }
    }
    Ok(())
}

/// What a picture shows of a prediction.
enum Style {
    /// The most probable classes of the image.
    Bars,
    /// A colour for each pixel.
    Pixels(Picture),
}

/// How a prediction is pictured: as its descriptor says, or as any of its type can be.
fn style(predicts: &Predicts) -> Option<Style> {
    let otherwise = match predicts.target {
        TargetType::ClassIndex {} => return Some(Style::Bars),
        TargetType::LabelMap { .. } => Some(Picture::Palette { colours: vec![] }),
        TargetType::NumberMap { channels: 1, .. } => Some(Picture::ColourMap {
            scale: ColourScale::Linear,
            reverse: false,
            error: PixelError::Absolute,
            worst: 1.0,
        }),
        TargetType::NumberMap { .. } => None,
    };
    predicts.picture.clone().or(otherwise).map(Style::Pixels)
}

/// Whether there is anything to picture.
pub(crate) fn can_picture(predicts: &Predicts) -> bool {
    style(predicts).is_some()
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

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|source| written(folder, source))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_pictured_is_a_class_a_label_map_or_numbers_that_say_how() {
        let can = |target, picture| {
            can_picture(&Predicts {
                name: "it".into(),
                target,
                picture,
            })
        };
        let numbers = |channels| TargetType::NumberMap {
            channels,
            invalid: 0.0,
        };
        assert!(can(TargetType::ClassIndex {}, None));
        assert!(can(TargetType::LabelMap { ignore: 255 }, None));
        assert!(can(numbers(1), None));
        assert!(!can(numbers(3), None));
        let (low, high, worst) = (-1.0, 1.0, 1.0);
        assert!(can(numbers(3), Some(Picture::Rgb { low, high, worst })));
    }
}

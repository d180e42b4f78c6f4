//! ImageNet-C's pictures of frost. Their licence is not known, so whoever wants them brings them.

use std::path::{Path, PathBuf};

use super::draws::Draws;
use super::plane::{Border, Plane};
use crate::{ColourMode, DataError, Image};

/// The pictures that ImageNet-C draws from. It has a sixth, `frost6.jpg`, which it never draws.
const NAMES: [&str; 5] = [
    "frost1.png",
    "frost2.png",
    "frost3.png",
    "frost4.jpg",
    "frost5.jpg",
];

/// Opened pictures of frost.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Frost {
    files: Vec<PathBuf>,
    pictures: Vec<Image>,
}

impl Frost {
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        let files: Vec<PathBuf> = NAMES.iter().map(|name| folder.join(name)).collect();
        if let Some(missing) = files.iter().find(|file| !file.exists()) {
            return Err(DataError::FrostPicture {
                path: missing.clone(),
            });
        }
        let pictures = files.iter().map(|file| Image::read(file, ColourMode::Rgb));
        Ok(Self {
            pictures: pictures.collect::<Result<_, _>>()?,
            files,
        })
    }

    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// A random piece of a random picture for each channel: the picture enlarged by a tenth, or so that the piece fits into it.
    pub fn piece(
        &self,
        channels: usize,
        [height, width]: [usize; 2],
        draws: &mut dyn Draws,
    ) -> Vec<Plane> {
        let picture = &self.pictures[draws.below(self.pictures.len())];
        let [_, rows, columns] = picture.shape();
        let needed = [(height, rows), (width, columns)]
            .map(|(piece, whole)| (piece as f64 / whole as f64).max(1.0));
        let zoom = 1.1 * needed[0].max(needed[1]);
        let new = [rows, columns].map(|side| (side as f64 * zoom).ceil() as usize);
        let top = draws.below((new[0] - height).max(1));
        let left = draws.below((new[1] - width).max(1));
        let down = taps(rows, new[0], top, height);
        let right = taps(columns, new[1], left, width);
        let pieces = picture.planes().map(|values| {
            let wide = Plane::from_fn(rows, width, |row, column| {
                right[column].sum(|place| f64::from(values[row * columns + place]))
            });
            // `cv2.resize` rounds to bytes.
            Plane::from_fn(height, width, |row, column| {
                let value = down[row].sum(|place| wide.at(place, column));
                (value.clamp(0.0, 1.0) * 255.0).round() / 255.0
            })
        });
        let pieces: Vec<Plane> = pieces.collect();
        match channels {
            3 => pieces,
            _ => vec![reference_grey(&pieces); channels],
        }
    }
}

/// The reference's `rgb2gray`, whose weights sum to 0.9999. It is given the channels in the order of OpenCV: blue first.
fn reference_grey(rgb: &[Plane]) -> Plane {
    rgb[2]
        .zip(&rgb[1], |blue, green| 0.2989 * blue + 0.5870 * green)
        .zip(&rgb[0], |sum, red| sum + 0.1140 * red)
}

/// The pixels that one pixel of an enlarged axis is made of.
struct Taps {
    places: [usize; 4],
    weights: [f64; 4],
}

impl Taps {
    fn sum(&self, value: impl Fn(usize) -> f64) -> f64 {
        let pairs = self.places.iter().zip(self.weights);
        pairs.map(|(place, weight)| weight * value(*place)).sum()
    }
}

/// Cubic interpolation with a = -0.75 (OpenCV's `INTER_CUBIC`) of the pixels from `first` on of an axis that grows from `old` to `new`.
fn taps(old: usize, new: usize, first: usize, count: usize) -> Vec<Taps> {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let scale = old as f64 / new as f64;
    let taps = |pixel: usize| {
        let place = (pixel as f64 + 0.5) * scale - 0.5;
        let (whole, rest) = (place.floor(), place - place.floor());
        let [before, own, after] = [far(rest + 1.0), near(rest), near(1.0 - rest)];
        Taps {
            places: [-1, 0, 1, 2].map(|offset| Border::Nearest.index(whole as isize + offset, old)),
            weights: [before, own, after, 1.0 - before - own - after],
        }
    };
    (first..first + count).map(taps).collect()
}

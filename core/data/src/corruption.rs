//! The corruptions of ImageNet-C (Hendrycks and Dietterich 2019, arXiv:1903.12261), as the Python package `imagecorruptions` 1.1.2
//! computes them, to within 1 of 255 on the same random draws (`tests/imagenet_c.rs`).
//!
//! Images are taken at 8 bits and come out at 8 bits, cut off and not rounded, as ImageNet-C's were made. Between, numbers are `f64`.
//!
//! # Other sizes
//!
//! Images of 224 × 224 pixels or more are corrupted as the reference corrupts them. In a smaller one, lengths are multiplied by
//! √(height · width) / 224, so that it looks as ImageNet-C's image would from farther away:
//!
//! - Layers and fields of displacement (snow, frost, spatter, elastic) are made at the size divided by that factor, and averaged down.
//! - Kernels of blurs (defocus, glass, motion, Gaussian) are those of ImageNet-C with their offsets multiplied. A neighbour between
//!   pixels is shared by the pixels around it, in bilinear proportion. So a blur over less than a pixel is one over adjacent pixels, as weak as it is
//!   short, and never nothing. Glass moves pixels by whole pixels; a part of one is one with that probability.
//! - Values and ratios stay: noise, brightness, contrast, saturation, fog, whose coarsest structure is as large as the image, the factors of zoom, the part of
//!   the rows and columns that pixelate keeps, and the quality of JPEG, whose blocks have 8 × 8 pixels in any image.
//!
//! # Grey
//!
//! Images of one channel are corrupted as the reference's functions do with arrays of two axes; its `corrupt` makes three channels of them. Three
//! of those functions fail or blur along one axis only (motion blur; Gaussian and glass blur with a current scikit-image); these do what they do with each
//! channel of a colour image.

mod blur;
mod digital;
mod draws;
mod edges;
mod folder;
mod frost;
mod jpeg;
mod noise;
mod plane;
mod scale;
mod spatter;
mod weather;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dtta_base::keyed_rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::draws::Draws;
use self::draws::{Keyed, between};
pub use self::folder::{StoredFormat, write_corrupted};
use self::frost::Frost;
use self::plane::{Plane, byte};
use self::scale::Scale;
use self::spatter::{Liquid, Spatter};
use self::weather::Snow;
use crate::{DataError, Image};

/// What is done to an image. The names are those of ImageNet-C's folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Corruption {
    /// Adds normal noise to each value.
    GaussianNoise,
    /// Draws each value from a Poisson distribution, as few photons would.
    ShotNoise,
    /// Makes some values black or white.
    ImpulseNoise,
    /// Blurs with a disk, as a lens out of focus does.
    DefocusBlur,
    /// Blurs and displaces pixels a little, as frosted glass does.
    GlassBlur,
    /// Blurs along a line within 45° of the horizontal.
    MotionBlur,
    /// Blurs towards the edges, as when the camera moves forward.
    ZoomBlur,
    /// Whitens and adds falling flakes.
    Snow,
    /// Lays a picture of ice over the image. The pictures have to be brought along: `frost` names their folder.
    Frost,
    /// Lays uneven fog (a plasma fractal) over the image.
    Fog,
    /// Adds to the brightest channel of each pixel, keeping its hue.
    Brightness,
    /// Draws each value towards its channel's mean.
    Contrast,
    /// Moves pixels by a smooth random field.
    ElasticTransform,
    /// Shrinks the image and enlarges it again without smoothing.
    Pixelate,
    /// Compresses as JPEG does.
    JpegCompression,
    /// For tuning: adds normal noise in proportion to each value.
    SpeckleNoise,
    /// For tuning: blurs with a Gaussian.
    GaussianBlur,
    /// For tuning: covers parts with drops of water or mud.
    Spatter,
    /// For tuning: makes colours paler or stronger. An image of one channel stays as it is.
    Saturate,
}

impl Corruption {
    /// The corruptions for reporting, in the order of tables: ImageNet-C's fifteen.
    pub const REPORTED: [Self; 15] = [
        Self::GaussianNoise,
        Self::ShotNoise,
        Self::ImpulseNoise,
        Self::DefocusBlur,
        Self::GlassBlur,
        Self::MotionBlur,
        Self::ZoomBlur,
        Self::Snow,
        Self::Frost,
        Self::Fog,
        Self::Brightness,
        Self::Contrast,
        Self::ElasticTransform,
        Self::Pixelate,
        Self::JpegCompression,
    ];

    /// The corruptions that settings may be tuned on: the four that ImageNet-C keeps for validation.
    pub const TUNING: [Self; 4] = [
        Self::SpeckleNoise,
        Self::GaussianBlur,
        Self::Spatter,
        Self::Saturate,
    ];

    /// All nineteen, those for reporting first.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::REPORTED.into_iter().chain(Self::TUNING)
    }

    /// The name in configurations and records, such as `gaussian_noise`.
    pub fn name(self) -> &'static str {
        match self {
            Self::GaussianNoise => "gaussian_noise",
            Self::ShotNoise => "shot_noise",
            Self::ImpulseNoise => "impulse_noise",
            Self::DefocusBlur => "defocus_blur",
            Self::GlassBlur => "glass_blur",
            Self::MotionBlur => "motion_blur",
            Self::ZoomBlur => "zoom_blur",
            Self::Snow => "snow",
            Self::Frost => "frost",
            Self::Fog => "fog",
            Self::Brightness => "brightness",
            Self::Contrast => "contrast",
            Self::ElasticTransform => "elastic_transform",
            Self::Pixelate => "pixelate",
            Self::JpegCompression => "jpeg_compression",
            Self::SpeckleNoise => "speckle_noise",
            Self::GaussianBlur => "gaussian_blur",
            Self::Spatter => "spatter",
            Self::Saturate => "saturate",
        }
    }

    /// Whether it has lengths, which are shorter in images of less than 224 × 224 pixels.
    fn has_lengths(self) -> bool {
        matches!(
            self,
            Self::DefocusBlur
                | Self::GlassBlur
                | Self::MotionBlur
                | Self::Snow
                | Self::Frost
                | Self::ElasticTransform
                | Self::GaussianBlur
                | Self::Spatter
        )
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// How strong a corruption is: 1 (weakest) to 5.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "u8", into = "u8")]
#[schemars(extend("minimum" = 1, "maximum" = 5))]
pub struct Severity(u8);

impl Severity {
    /// All five, weakest first.
    pub const ALL: [Self; 5] = [Self(1), Self(2), Self(3), Self(4), Self(5)];

    /// The number, 1 to 5.
    pub fn get(self) -> u8 {
        self.0
    }

    /// The entry of a table of five strengths.
    fn of<T: Copy>(self, strengths: [T; 5]) -> T {
        strengths[usize::from(self.0) - 1]
    }
}

impl TryFrom<u8> for Severity {
    type Error = DataError;

    fn try_from(number: u8) -> Result<Self, DataError> {
        if (1..=5).contains(&number) {
            Ok(Self(number))
        } else {
            Err(DataError::Severity { actual: number })
        }
    }
}

impl From<Severity> for u8 {
    fn from(severity: Severity) -> Self {
        severity.0
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A corruption at one severity, with what it needs.
///
/// ```
/// use dtta_data::{Corrupter, Corruption, Image, Severity};
/// # fn main() -> Result<(), dtta_data::DataError> {
/// let brighter = Corrupter::new(Corruption::Brightness, Severity::try_from(3)?, None)?;
/// let image = Image::new(1, 1, 2, vec![0.2, 0.9])?;
/// assert_eq!(brighter.corrupt(&image, 0, "test/00042").data(), [127.0 / 255.0, 1.0]); // + 0.3, cut off to bytes
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Corrupter {
    corruption: Corruption,
    severity: Severity,
    frost: Option<Arc<Frost>>,
}

impl Corrupter {
    /// A corruption at a severity. [`Corruption::Frost`], and no other, needs the folder of ImageNet-C's pictures of frost.
    ///
    /// # Errors
    /// [`DataError::FrostFolder`] for frost without a folder and [`DataError::NoFrost`] for others with one; [`DataError::FrostPicture`] if a
    /// picture is missing; whatever [`Image::read`] refuses.
    pub fn new(
        corruption: Corruption,
        severity: Severity,
        frost: Option<&Path>,
    ) -> Result<Self, DataError> {
        let frost = match (corruption, frost) {
            (Corruption::Frost, None) => return Err(DataError::FrostFolder),
            (Corruption::Frost, Some(folder)) => Some(Arc::new(Frost::open(folder)?)),
            (_, None) => None,
            (_, Some(_)) => return Err(DataError::NoFrost { corruption }),
        };
        Ok(Self {
            corruption,
            severity,
            frost,
        })
    }

    /// What is done.
    pub fn corruption(&self) -> Corruption {
        self.corruption
    }

    /// How strongly.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// The files that it lays over images.
    pub(crate) fn files(&self) -> &[PathBuf] {
        self.frost.as_ref().map_or(&[], |frost| frost.files())
    }

    /// What it does to images of so many rows and columns, for protocols: the corruption and, where lengths are shorter than ImageNet-C's,
    /// by how much.
    pub fn in_words(&self, height: usize, width: usize) -> String {
        let name = format!("{}/{}", self.corruption, self.severity);
        match self.scale(height, width) {
            1.0 => format!("{name} of ImageNet-C on {height}x{width} pixels"),
            factor => format!(
                "{name} of ImageNet-C with lengths scaled by {factor:.3} (sqrt(height * width) / 224) for {height}x{width} pixels"
            ),
        }
    }

    /// What ImageNet-C's lengths are multiplied by in images of so many rows and columns; 1 where it has none.
    pub fn scale(&self, height: usize, width: usize) -> f64 {
        match self.corruption.has_lengths() {
            true => scale::factor(height, width),
            false => 1.0,
        }
    }

    /// The image under the corruption. Random draws depend on `(seed, sample_id, corruption, severity)` and on nothing else.
    pub fn corrupt(&self, image: &Image, seed: u64, sample_id: &str) -> Image {
        let key: [&[u8]; 4] = [
            &seed.to_le_bytes(),
            sample_id.as_bytes(),
            self.corruption.name().as_bytes(),
            &[self.severity.get()],
        ];
        self.corrupt_by(image, &mut Keyed(keyed_rng("corruption", &key)))
    }

    /// The image under the corruption with random draws from elsewhere, for comparison with other implementations.
    pub fn corrupt_by(&self, image: &Image, draws: &mut dyn Draws) -> Image {
        let (height, width) = (image.height(), image.width());
        let planes: Vec<Plane> = image
            .planes()
            .map(|values| {
                let value =
                    |value: &f32| f64::from((value.clamp(0.0, 1.0) * 255.0).round()) / 255.0;
                Plane {
                    height,
                    width,
                    values: values.iter().map(value).collect(),
                }
            })
            .collect();
        let changed = self.changed(&planes, draws);
        let mut values = changed.iter().flat_map(|plane| &plane.values);
        image.map(|_| {
            values
                .next()
                .map_or(0.0, |value| f32::from(byte(*value)) / 255.0)
        })
    }

    fn changed(&self, planes: &[Plane], draws: &mut dyn Draws) -> Vec<Plane> {
        let each = |change: &dyn Fn(&Plane) -> Plane| planes.iter().map(change).collect::<Vec<_>>();
        let scale = &Scale::of(planes[0].height, planes[0].width);
        let severity = self.severity;
        // The strengths of `imagecorruptions`: standard deviations, photons at white, shares of values, pixels at 224, degrees, or
        // factors, as each function says.
        match self.corruption {
            Corruption::GaussianNoise => {
                let deviation = severity.of([0.08, 0.12, 0.18, 0.26, 0.38]);
                noise::gaussian(planes, deviation, draws)
            }
            Corruption::ShotNoise => {
                let photons = severity.of([60.0, 25.0, 12.0, 5.0, 3.0]);
                noise::shot(planes, photons, draws)
            }
            Corruption::ImpulseNoise => {
                let share = severity.of([0.03, 0.06, 0.09, 0.17, 0.27]);
                noise::impulse(planes, share, draws)
            }
            Corruption::SpeckleNoise => {
                let deviation = severity.of([0.15, 0.2, 0.35, 0.45, 0.6]);
                noise::speckle(planes, deviation, draws)
            }
            Corruption::GaussianBlur => {
                let deviation = severity.of([1.0, 2.0, 3.0, 4.0, 6.0]);
                each(&|plane| blur::gaussian(plane, deviation, scale.factor))
            }
            Corruption::DefocusBlur => {
                let (radius, smooth) =
                    severity.of([(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)]);
                blur::defocus(planes, radius, smooth, scale.factor)
            }
            Corruption::GlassBlur => {
                let (deviation, reach, rounds) = severity.of([
                    (0.7, 1, 2),
                    (0.9, 2, 1),
                    (1.0, 2, 3),
                    (1.1, 3, 2),
                    (1.5, 4, 2),
                ]);
                blur::glass(planes, deviation, reach, rounds, scale.factor, draws)
            }
            Corruption::MotionBlur => {
                let (radius, deviation) =
                    severity.of([(10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0)]);
                let angle = between(draws, -45.0, 45.0);
                blur::motion(planes, radius, deviation, angle, scale.factor)
            }
            Corruption::ZoomBlur => {
                let (count, step) =
                    severity.of([(12, 0.01), (16, 0.01), (11, 0.02), (13, 0.02), (11, 0.03)]);
                blur::zoom(planes, count, step)
            }
            Corruption::Snow => {
                let [mean, deviation, zoom, threshold, radius, fading, kept] = severity.of([
                    [0.1, 0.3, 3.0, 0.5, 10.0, 4.0, 0.8],
                    [0.2, 0.3, 2.0, 0.5, 12.0, 4.0, 0.7],
                    [0.55, 0.3, 4.0, 0.9, 12.0, 8.0, 0.7],
                    [0.55, 0.3, 4.5, 0.85, 12.0, 8.0, 0.65],
                    [0.55, 0.3, 2.5, 0.85, 12.0, 12.0, 0.55],
                ]);
                let strength = Snow {
                    mean,
                    deviation,
                    zoom,
                    threshold,
                    radius: radius as u32,
                    fading,
                    kept,
                };
                weather::snow(planes, strength, scale, draws)
            }
            Corruption::Frost => {
                let parts =
                    severity.of([[1.0, 0.4], [0.8, 0.6], [0.7, 0.7], [0.65, 0.7], [0.6, 0.75]]);
                match &self.frost {
                    Some(pictures) => weather::frost(planes, parts, pictures, scale, draws),
                    None => unreachable!("`Corrupter::new` refuses frost without pictures"),
                }
            }
            Corruption::Fog => {
                let (density, decay) =
                    severity.of([(1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)]);
                weather::fog(planes, density, decay, draws)
            }
            Corruption::Brightness => {
                digital::brightness(planes, severity.of([0.1, 0.2, 0.3, 0.4, 0.5]))
            }
            Corruption::Contrast => {
                let factor = severity.of([0.4, 0.3, 0.2, 0.1, 0.05]);
                each(&|plane| digital::contrast(plane, factor))
            }
            Corruption::Saturate => {
                let (factor, added) =
                    severity.of([(0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2)]);
                digital::saturate(planes, factor, added)
            }
            Corruption::ElasticTransform => {
                let strength = 250.0 * severity.of([0.05, 0.065, 0.085, 0.1, 0.12]);
                digital::elastic(planes, strength, scale, draws)
            }
            Corruption::Pixelate => {
                let part = severity.of([0.6, 0.5, 0.4, 0.3, 0.25]);
                each(&|plane| digital::pixelate(plane, part))
            }
            Corruption::JpegCompression => digital::jpeg(planes, severity.of([25, 18, 15, 10, 7])),
            Corruption::Spatter => {
                let (mean, deviation, blur, threshold, liquid) = severity.of([
                    (0.65, 0.3, 4.0, 0.69, Liquid::Water(0.6)),
                    (0.65, 0.3, 3.0, 0.68, Liquid::Water(0.6)),
                    (0.65, 0.3, 2.0, 0.68, Liquid::Water(0.5)),
                    (0.65, 0.3, 1.0, 0.65, Liquid::Mud(1.5)),
                    (0.67, 0.4, 1.0, 0.65, Liquid::Mud(1.5)),
                ]);
                let strength = Spatter {
                    mean,
                    deviation,
                    blur,
                    threshold,
                    liquid,
                };
                spatter::spatter(planes, strength, scale, draws)
            }
        }
    }
}

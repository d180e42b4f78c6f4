//! Corruptions after ImageNet-C (Hendrycks & Dietterich, 2019, arXiv:1903.12261), with strengths chosen for small images.
//!
//! The names and ideas are ImageNet-C's; the published tables are for photographs of 224×224 and would erase an image of 28×28,
//! so lengths (blur radii, pixel sizes) are given for small images and results are not comparable with published ImageNet-C
//! numbers. Pixels are in [0, 1] before and after, and computed in `f64` between, so that rounding differs in no platform's
//! favour. Ten corruptions are for reporting; the other four exist so that settings can be tuned on something that is not reported.

mod blur;
mod digital;
mod noise;
mod plane;
mod weather;

use std::fmt;

use dtta_base::keyed_rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::plane::Plane;
use crate::random::between;
use crate::{DataError, Image};

/// What is done to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Corruption {
    /// Adds normal noise to each value.
    GaussianNoise,
    /// Draws each value from a Poisson distribution, as few photons would.
    ShotNoise,
    /// Makes some values black or white.
    ImpulseNoise,
    /// Blurs with a normal kernel.
    GaussianBlur,
    /// Blurs with a disk, as a lens out of focus does.
    DefocusBlur,
    /// Adds to the brightest channel of each pixel, keeping its hue.
    Brightness,
    /// Draws each value towards its channel's mean.
    Contrast,
    /// Lays uneven fog (a plasma fractal) over the image.
    Fog,
    /// Shrinks the image and enlarges it again without smoothing.
    Pixelate,
    /// Quantises 8×8 blocks of frequencies as JPEG does.
    Jpeg,
    /// For tuning: adds normal noise in proportion to each value.
    SpeckleNoise,
    /// For tuning: blurs along a line within 45° of the horizontal.
    MotionBlur,
    /// For tuning: darkens by a power law.
    Darkness,
    /// For tuning: whitens and adds falling flakes.
    Snow,
}

impl Corruption {
    /// The corruptions for reporting, in the order of tables.
    pub const REPORTED: [Self; 10] = [
        Self::GaussianNoise,
        Self::ShotNoise,
        Self::ImpulseNoise,
        Self::GaussianBlur,
        Self::DefocusBlur,
        Self::Brightness,
        Self::Contrast,
        Self::Fog,
        Self::Pixelate,
        Self::Jpeg,
    ];

    /// The corruptions that settings may be tuned on.
    pub const TUNING: [Self; 4] = [
        Self::SpeckleNoise,
        Self::MotionBlur,
        Self::Darkness,
        Self::Snow,
    ];

    /// The name in configurations and records, such as `gaussian_noise`.
    pub fn name(self) -> &'static str {
        match self {
            Self::GaussianNoise => "gaussian_noise",
            Self::ShotNoise => "shot_noise",
            Self::ImpulseNoise => "impulse_noise",
            Self::GaussianBlur => "gaussian_blur",
            Self::DefocusBlur => "defocus_blur",
            Self::Brightness => "brightness",
            Self::Contrast => "contrast",
            Self::Fog => "fog",
            Self::Pixelate => "pixelate",
            Self::Jpeg => "jpeg",
            Self::SpeckleNoise => "speckle_noise",
            Self::MotionBlur => "motion_blur",
            Self::Darkness => "darkness",
            Self::Snow => "snow",
        }
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

/// The image under a corruption. Random ones depend on `(seed, sample_id, corruption, severity)` and on nothing else.
///
/// ```
/// use dtta_data::{Corruption, Image, Severity, corrupt};
/// # fn main() -> Result<(), dtta_data::DataError> {
/// let image = Image::new(1, 1, 2, vec![0.2, 0.9])?;
/// let brighter = corrupt(&image, Corruption::Brightness, Severity::try_from(3)?, 0, "test/00042");
/// assert_eq!(brighter.data(), [0.5, 1.0]); // + 0.3, cut off at 1
/// # Ok(())
/// # }
/// ```
pub fn corrupt(
    image: &Image,
    corruption: Corruption,
    severity: Severity,
    seed: u64,
    sample_id: &str,
) -> Image {
    let key: [&[u8]; 4] = [
        &seed.to_le_bytes(),
        sample_id.as_bytes(),
        corruption.name().as_bytes(),
        &[severity.get()],
    ];
    let rng = &mut keyed_rng("corruption", &key);
    let planes = Plane::split(image);
    let each =
        |change: &mut dyn FnMut(&Plane) -> Plane| planes.iter().map(change).collect::<Vec<_>>();
    // The strengths: standard deviations, photons at white, shares of values, pixels, or factors, as each function says.
    let changed = match corruption {
        Corruption::GaussianNoise => {
            let deviation = severity.of([0.08, 0.12, 0.18, 0.26, 0.38]);
            each(&mut |plane| noise::gaussian(plane, deviation, rng))
        }
        Corruption::ShotNoise => {
            let photons = severity.of([40.0, 20.0, 10.0, 5.0, 3.0]);
            each(&mut |plane| noise::shot(plane, photons, rng))
        }
        Corruption::ImpulseNoise => {
            let share = severity.of([0.03, 0.06, 0.10, 0.17, 0.27]);
            each(&mut |plane| noise::impulse(plane, share, rng))
        }
        Corruption::SpeckleNoise => {
            let deviation = severity.of([0.15, 0.25, 0.40, 0.60, 0.90]);
            each(&mut |plane| noise::speckle(plane, deviation, rng))
        }
        Corruption::GaussianBlur => {
            let deviation = severity.of([0.6, 0.9, 1.2, 1.6, 2.0]);
            each(&mut |plane| blur::gaussian(plane, deviation))
        }
        Corruption::DefocusBlur => {
            let radius = severity.of([1.0, 1.5, 2.0, 2.5, 3.0]);
            each(&mut |plane| blur::defocus(plane, radius))
        }
        Corruption::MotionBlur => {
            let length = severity.of([3, 5, 7, 9, 11]);
            let angle = between(
                rng,
                -std::f64::consts::FRAC_PI_4,
                std::f64::consts::FRAC_PI_4,
            );
            each(&mut |plane| blur::motion(plane, length, angle))
        }
        Corruption::Brightness => {
            let added = severity.of([0.10, 0.20, 0.30, 0.40, 0.50]);
            digital::brightness(&planes, added)
        }
        Corruption::Contrast => {
            let factor = severity.of([0.60, 0.45, 0.30, 0.20, 0.12]);
            each(&mut |plane| digital::contrast(plane, factor))
        }
        Corruption::Darkness => {
            let power = severity.of([1.4, 1.8, 2.4, 3.2, 4.5]);
            each(&mut |plane| plane.map(|value| value.powf(power)))
        }
        Corruption::Pixelate => {
            let side_of_28 = severity.of([18, 14, 11, 9, 7]);
            each(&mut |plane| digital::pixelate(plane, side_of_28))
        }
        Corruption::Jpeg => {
            let quality = severity.of([25, 15, 10, 7, 4]);
            digital::jpeg(&planes, quality)
        }
        Corruption::Fog => {
            let (density, decay) =
                severity.of([(0.4, 2.0), (0.6, 2.0), (0.8, 1.9), (1.0, 1.8), (1.3, 1.7)]);
            weather::fog(&planes, density, decay, rng)
        }
        Corruption::Snow => {
            let (share, whiteness, length) = severity.of([
                (0.02, 0.10, 3),
                (0.04, 0.15, 3),
                (0.06, 0.20, 5),
                (0.10, 0.25, 5),
                (0.15, 0.30, 5),
            ]);
            weather::snow(&planes, share, whiteness, length, rng)
        }
    };
    Plane::join(&changed, image)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk on black, darker to one side, so that there are edges, flat parts and a slope.
    fn picture(channels: usize) -> Image {
        Image::from_fn([channels, 28, 28], |channel, row, column| {
            let inside = (row as f32 - 13.0).hypot(column as f32 - 14.0) < 9.0;
            if inside {
                0.9 - 0.02 * column as f32 - 0.1 * channel as f32
            } else {
                0.0
            }
        })
        .unwrap()
    }

    fn all() -> impl Iterator<Item = Corruption> {
        Corruption::REPORTED.into_iter().chain(Corruption::TUNING)
    }

    fn mean_change(left: &Image, right: &Image) -> f64 {
        let change = left
            .data()
            .iter()
            .zip(right.data())
            .map(|(left, right)| f64::from((left - right).abs()));
        change.sum::<f64>() / left.data().len() as f64
    }

    #[test]
    fn each_is_a_function_of_its_key() {
        for corruption in all() {
            let severity = Severity::ALL[2];
            let image = picture(1);
            let draw = |seed, id| corrupt(&image, corruption, severity, seed, id);
            assert_eq!(draw(1, "a"), draw(1, "a"), "{corruption}");
            let random = ["noise", "fog", "motion", "snow"]
                .iter()
                .any(|word| corruption.name().contains(word));
            assert_eq!(draw(1, "a") != draw(2, "a"), random, "{corruption}");
            assert_eq!(draw(1, "a") != draw(1, "b"), random, "{corruption}");
        }
    }

    #[test]
    fn values_stay_in_the_unit_range_for_any_shape() {
        for shape in [[1, 1, 1], [3, 1, 9], [3, 32, 17], [2, 5, 2]] {
            let image = Image::from_fn(shape, |_, row, column| {
                ((row * 3 + column) % 4) as f32 / 3.0
            })
            .unwrap();
            let black = Image::from_fn(shape, |_, _, _| 0.0).unwrap();
            for (corruption, severity) in
                all().flat_map(|corruption| Severity::ALL.map(|level| (corruption, level)))
            {
                for image in [&image, &black] {
                    let output = corrupt(image, corruption, severity, 0, "x");
                    assert_eq!(output.shape(), shape);
                    let fine = output
                        .data()
                        .iter()
                        .all(|value| (0.0..=1.0).contains(value));
                    assert!(fine, "{corruption}/{severity} of {shape:?}");
                }
            }
        }
    }

    #[test]
    fn a_higher_severity_changes_more() {
        for corruption in all() {
            // The mean over a few samples, since one draw of a random corruption may be mild.
            let changes = Severity::ALL.map(|severity| {
                let change = |sample: u32| {
                    let image = picture(1);
                    mean_change(
                        &image,
                        &corrupt(&image, corruption, severity, 0, &sample.to_string()),
                    )
                };
                (0..24).map(change).sum::<f64>() / 24.0
            });
            assert!(
                changes[0] > 0.0 && changes.is_sorted(),
                "{corruption}: {changes:?}"
            );
        }
    }

    #[test]
    fn colour_changes_alike_where_channels_are_alike() {
        let grey = Image::from_fn([3, 16, 16], |_, row, column| {
            ((row * 5 + column) % 16) as f32 / 15.0
        })
        .unwrap();
        for corruption in all().filter(|corruption| !corruption.name().contains("noise")) {
            let output = corrupt(&grey, corruption, Severity::ALL[3], 0, "x");
            let [red, green, blue] =
                [0, 1, 2].map(|channel| &output.data()[channel * 256..(channel + 1) * 256]);
            let near = |left: &[f32], right: &[f32]| {
                left.iter()
                    .zip(right)
                    .all(|(left, right)| (left - right).abs() < 1e-5)
            };
            assert!(near(red, green) && near(green, blue), "{corruption}");
        }
    }

    #[test]
    fn the_noise_of_this_version_is_pinned() {
        // Changing the key's encoding or a generator changes every published record: let it be on purpose.
        let image = Image::new(1, 1, 3, vec![0.5; 3]).unwrap();
        let noisy = corrupt(
            &image,
            Corruption::GaussianNoise,
            Severity::ALL[1],
            7,
            "test/00042",
        );
        assert_eq!(noisy.data(), [0.56403935, 0.5143709, 0.26728454]);
    }

    #[test]
    fn severities_and_names_survive_json() {
        for corruption in all() {
            let json = serde_json::to_string(&corruption).unwrap();
            assert_eq!(json, format!("\"{corruption}\""));
        }
        assert_eq!(serde_json::from_str::<Severity>("5").unwrap().get(), 5);
        for refused in ["0", "6", "-1", "1.5", "\"3\""] {
            assert!(
                serde_json::from_str::<Severity>(refused).is_err(),
                "{refused}"
            );
        }
        let schema = serde_json::to_value(schemars::schema_for!(Severity)).unwrap();
        assert_eq!(
            (&schema["minimum"], &schema["maximum"]),
            (&1.into(), &5.into()),
            "{schema}"
        );
    }
}

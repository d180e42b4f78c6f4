//! How one model sees an image: preprocessing, then its contrast brought to what the model knows.

use super::{Standardize, Transform, transform};
use crate::{DataError, Image};

/// The steps from an image in [0, 1] to a model's input.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct View {
    /// Applied in order.
    pub steps: Vec<Transform>,
    /// What is done to the contrast after them, if anything.
    pub standardize: Option<Standardize>,
}

impl View {
    /// What the model sees. Results do not depend on the unit of the steps' output: a view whose pixels are larger by a factor sees
    /// the same picture, since what counts as flat is told by the distance between a black and a white pixel.
    ///
    /// # Errors
    /// Whatever a step refuses; see [`Transform::apply`].
    pub fn see(&self, image: Image) -> Result<Image, DataError> {
        let channels = image.channels();
        let mut seen = transform(&self.steps, image)?;
        if let Some(target) = self.standardize {
            target.apply(seen.data_mut(), self.unit(channels)?);
        }
        Ok(seen)
    }

    /// The distance between what the steps make of a black and of a white pixel: the largest of all channels.
    fn unit(&self, channels: usize) -> Result<f32, DataError> {
        let seen = |value: f32| {
            let pixel = Image::new(channels, 1, 1, vec![value; channels])?;
            let mut steps = self.steps.iter().filter(|step| step.keeps_places());
            steps.try_fold(pixel, |pixel, step| step.apply(pixel))
        };
        let (black, white) = (seen(0.0)?, seen(1.0)?);
        let distances = black.data().iter().zip(white.data());
        Ok(distances
            .map(|(black, white)| (white - black).abs())
            .fold(f32::MIN_POSITIVE, f32::max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalise(std: f32) -> Transform {
        Transform::Normalise {
            mean: vec![0.5],
            std: vec![std],
        }
    }

    fn picture(contrast: f32) -> Image {
        Image::from_fn([3, 6, 8], |channel, row, column| {
            0.4 + contrast * ((row * 8 + column * 5 + channel) % 11) as f32 / 11.0
        })
        .unwrap()
    }

    #[test]
    fn the_unit_is_what_lies_between_black_and_white() {
        let view = |steps| View {
            steps,
            standardize: None,
        };
        assert_eq!(view(vec![]).unit(1).unwrap(), 1.0);
        assert_eq!(view(vec![normalise(0.5)]).unit(3).unwrap(), 2.0);
        let steps = vec![
            Transform::CentreCrop {
                height: 4,
                width: 4,
            },
            Transform::Grayscale {},
            Transform::Pad {
                border: 2,
                value: 0.5,
            },
            Transform::Rgb {},
            Transform::Normalise {
                mean: vec![0.4, 0.5, 0.6],
                std: vec![0.5, 0.25, 1.0],
            },
        ];
        assert!((view(steps).unit(3).unwrap() - 4.0).abs() < 1e-5);
    }

    #[test]
    fn the_same_picture_in_other_units_is_the_same() {
        // One picture of full contrast, and two that are nearly flat.
        for contrast in [0.5, 0.03, 0.002] {
            for (low, high) in [(-1.4, 1.4), (0.0, 1.0)] {
                for target in [
                    |factor: f32, low: f32, high: f32| Standardize::Stretch {
                        outliers: 0.02,
                        low: low * factor,
                        high: high * factor,
                    },
                    |factor: f32, low: f32, high: f32| Standardize::Moments {
                        mean: low * factor,
                        deviation: high * factor,
                    },
                ] {
                    let see = |unit: f32, output: f32| {
                        let view = View {
                            steps: vec![normalise(0.5 / unit)],
                            standardize: Some(target(output, low, high)),
                        };
                        view.see(picture(contrast)).unwrap()
                    };
                    let plain = see(1.0, 1.0);
                    // Neither the input's unit nor that of the output matters.
                    for (unit, output) in [(127.5, 127.5), (127.5, 1.0), (1.0, 127.5)] {
                        let scaled = see(unit, output);
                        for (scaled, plain) in scaled.data().iter().zip(plain.data()) {
                            let difference = (scaled / output - plain).abs();
                            assert!(difference < 2e-3, "{difference} at {contrast}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_flat_picture_stays_flat() {
        let flat = Image::new(1, 1, 4, vec![0.3; 4]).unwrap();
        let view = View {
            steps: vec![normalise(0.5)],
            standardize: Some(Standardize::Stretch {
                outliers: 7.0,
                low: 1.0,
                high: -1.0,
            }),
        };
        assert_eq!(view.see(flat).unwrap().data(), [1.0; 4]);
    }
}

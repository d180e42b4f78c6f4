//! Preprocessing as a list of named steps, and random augmentation for training.
//!
//! Resizing follows Pillow (and torchvision with antialiasing), not the common "sample four neighbours": published classifiers
//! were evaluated with it and lose accuracy otherwise.

mod augment;
mod colour;
mod crop;
mod normalise;
mod resize;
mod standardize;
mod view;

use dtta_base::also_spelled;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::augment::{Augmentation, augment};
use self::crop::{centre_crop, crop_start};
use self::normalise::normalise;
pub use self::resize::Filter;
pub use self::standardize::Standardize;
pub use self::view::View;
use crate::{DataError, Image, Targets};

/// One step of preprocessing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[schemars(transform = grey_spellings)]
pub enum Transform {
    /// Resizes to exactly this size, antialiased when shrinking.
    Resize {
        /// Rows.
        #[schemars(range(min = 1))]
        height: usize,
        /// Columns.
        #[schemars(range(min = 1))]
        width: usize,
        /// How much each pixel counts.
        #[serde(default)]
        filter: Filter,
        /// Whether to compute in bytes as Pillow does with a file's image, to the same bits: values are rounded to 8 bits before it and
        /// after each of the two passes. Published classifiers were evaluated so.
        #[serde(default)]
        as_bytes: bool,
    },
    /// Resizes so that the shorter side has this length and the shape is kept, antialiased when shrinking.
    ResizeShort {
        /// Length of the shorter side, in pixels.
        #[schemars(range(min = 1))]
        side: usize,
        /// How much each pixel counts.
        #[serde(default)]
        filter: Filter,
        /// Whether to compute in bytes as Pillow does with a file's image, as in `resize`.
        #[serde(default)]
        as_bytes: bool,
    },
    /// Cuts out the middle.
    CentreCrop {
        /// Rows.
        #[schemars(range(min = 1))]
        height: usize,
        /// Columns.
        #[schemars(range(min = 1))]
        width: usize,
    },
    /// Adds a border of one value.
    Pad {
        /// Width of the border on each of the four sides, in pixels.
        border: usize,
        /// The border's value.
        #[serde(default)]
        value: f32,
    },
    /// Colour to one channel, weighted as in ITU-R BT.601; an image of one channel stays as it is.
    #[serde(alias = "greyscale", alias = "gray", alias = "grey")]
    Grayscale {},
    /// One channel to three equal ones; an image of three channels stays as it is.
    Rgb {},
    /// Subtracts a mean and divides by a standard deviation, for each channel. Takes pixels out of [0, 1], so it cannot stand in
    /// a dataset's transforms.
    Normalise {
        /// What to subtract: one number for each channel, or one for all.
        mean: Vec<f32>,
        /// What to divide by, above 0: one number for each channel, or one for all.
        std: Vec<f32>,
    },
}

/// Lets a schema take the other spellings of `grayscale` that are read.
pub(crate) fn grey_spellings(schema: &mut schemars::Schema) {
    also_spelled(schema, "grayscale", &["greyscale", "gray", "grey"]);
}

impl Transform {
    /// Applies this step.
    ///
    /// # Errors
    /// [`DataError::ImageSize`] for a size of 0 or beyond 2^28 values; [`DataError::CropTooLarge`]; [`DataError::Channels`] and
    /// [`DataError::NormaliseStd`] for images or numbers that the step cannot take.
    pub fn apply(&self, image: Image) -> Result<Image, DataError> {
        match self {
            Self::Resize {
                height,
                width,
                filter,
                as_bytes,
            } => resize::resize(&image, [*height, *width], *filter, *as_bytes),
            Self::ResizeShort {
                side,
                filter,
                as_bytes,
            } => {
                let extents = short_extents(*side, [image.height(), image.width()]);
                resize::resize(&image, extents, *filter, *as_bytes)
            }
            Self::CentreCrop { height, width } => centre_crop(&image, *height, *width),
            Self::Pad { border, value } => {
                let grown = |side: usize| side.saturating_add(border.saturating_mul(2));
                let shape = [
                    image.channels(),
                    grown(image.height()),
                    grown(image.width()),
                ];
                Image::from_fn(shape, |channel, row, column| {
                    let inside = row.checked_sub(*border).zip(column.checked_sub(*border));
                    inside
                        .and_then(|(row, column)| image.get(channel, row, column))
                        .unwrap_or(*value)
                })
            }
            Self::Grayscale {} => match image.channels() {
                1 => Ok(image),
                3 => {
                    let at =
                        |channel, row, column| image.get(channel, row, column).unwrap_or_default();
                    Image::from_fn([1, image.height(), image.width()], |_, row, column| {
                        luma([0, 1, 2].map(|channel| at(channel, row, column)))
                    })
                }
                actual => Err(DataError::Channels {
                    transform: "grayscale",
                    expected: "1 or 3".into(),
                    actual,
                }),
            },
            Self::Rgb {} => match image.channels() {
                1 => Image::new(3, image.height(), image.width(), image.data().repeat(3)),
                3 => Ok(image),
                actual => Err(DataError::Channels {
                    transform: "rgb",
                    expected: "1 or 3".into(),
                    actual,
                }),
            },
            Self::Normalise { mean, std } => normalise(image, mean, std),
        }
    }

    /// What the step does to maps over an image of these extents: resized to the nearest pixel, cropped and padded as the image is.
    pub(crate) fn apply_to_targets(
        &self,
        targets: Targets,
        [height, width]: [usize; 2],
    ) -> Targets {
        let nearest = |targets: Targets, [new_height, new_width]: [usize; 2]| {
            targets.rearranged([new_height, new_width], |row, column| {
                let middle = |at: usize, old: usize, new: usize| (2 * at + 1) * old / (2 * new);
                Some((
                    middle(row, height, new_height),
                    middle(column, width, new_width),
                ))
            })
        };
        match self {
            Self::Resize { height, width, .. } => nearest(targets, [*height, *width]),
            Self::ResizeShort { side, .. } => {
                nearest(targets, short_extents(*side, [height, width]))
            }
            Self::CentreCrop {
                height: rows,
                width: columns,
            } => {
                let (top, left) = (crop_start(height, *rows), crop_start(width, *columns));
                targets.rearranged([*rows, *columns], |row, column| {
                    Some((row + top, column + left))
                })
            }
            Self::Pad { border, .. } => {
                let grown = [height + 2 * border, width + 2 * border];
                targets.rearranged(grown, |row, column| {
                    row.checked_sub(*border).zip(column.checked_sub(*border))
                })
            }
            Self::Grayscale {} | Self::Rgb {} | Self::Normalise { .. } => targets,
        }
    }

    /// Whether the image's borders stay where they are: a map over the whole image before this step is one after it.
    pub fn keeps_borders(&self) -> bool {
        !matches!(self, Self::CentreCrop { .. } | Self::Pad { .. })
    }

    /// Whether each pixel is made of the pixel that was at its place alone.
    pub(crate) fn keeps_places(&self) -> bool {
        matches!(
            self,
            Self::Grayscale {} | Self::Rgb {} | Self::Normalise { .. }
        )
    }

    /// Whether an image in [0, 1] is still in [0, 1] after this step.
    pub(crate) fn keeps_unit_range(&self) -> bool {
        match self {
            Self::Normalise { .. } => false,
            // A cubic swings over.
            Self::Resize {
                filter, as_bytes, ..
            }
            | Self::ResizeShort {
                filter, as_bytes, ..
            } => *as_bytes || *filter == Filter::Bilinear,
            Self::Pad { value, .. } => (0.0..=1.0).contains(value),
            _ => true,
        }
    }
}

/// Applies steps in order.
///
/// # Errors
/// What the first step that fails returns; see [`Transform::apply`].
pub fn transform(steps: &[Transform], image: Image) -> Result<Image, DataError> {
    steps
        .iter()
        .try_fold(image, |image, step| step.apply(image))
}

/// As [`transform`], with the maps that lie over the image.
pub(crate) fn transform_with_targets(
    steps: &[Transform],
    image: Image,
    targets: Targets,
) -> Result<(Image, Targets), DataError> {
    let both = (image, targets);
    steps.iter().try_fold(both, |(image, targets), step| {
        let [_, height, width] = image.shape();
        let image = step.apply(image)?;
        Ok((image, step.apply_to_targets(targets, [height, width])))
    })
}

/// Extents whose shorter side has this length. As torchvision: the longer side is rounded down.
fn short_extents(side: usize, [height, width]: [usize; 2]) -> [usize; 2] {
    let shorter = height.min(width);
    let longer = (side as u128 * height.max(width) as u128 / shorter as u128) as usize;
    if height <= width {
        [side, longer]
    } else {
        [longer, side]
    }
}

/// The luma of ITU-R BT.601, as Pillow converts to grey.
fn luma([red, green, blue]: [f32; 3]) -> f32 {
    0.299 * red + 0.587 * green + 0.114 * blue
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{LabelMap, NumberMap, Target};

    /// An image whose values count up from 0.
    pub fn numbered(shape: [usize; 3]) -> Image {
        let [_, height, width] = shape;
        Image::from_fn(shape, |channel, row, column| {
            ((channel * height + row) * width + column) as f32
        })
        .unwrap()
    }

    fn labels(targets: &Targets) -> &LabelMap {
        targets.get("labels").and_then(Target::labels).unwrap()
    }

    #[test]
    fn maps_follow_their_image() {
        // Maps of the same numbers as the image go where the image goes, for steps that do not mix pixels.
        let numbers = numbered([2, 4, 5]);
        let targets = Targets::new()
            .with("labels", LabelMap::new(4, 5, (0..20).collect()).unwrap())
            .with(
                "numbers",
                NumberMap::new(2, 4, 5, numbers.data().to_vec()).unwrap(),
            );
        let steps = |value| {
            let crop = Transform::CentreCrop {
                height: 3,
                width: 4,
            };
            [crop, Transform::Pad { border: 1, value }]
        };
        let (image, moved) =
            transform_with_targets(&steps(255.0), numbered([1, 4, 5]), targets.clone()).unwrap();
        let found: Vec<f32> = labels(&moved).data().iter().map(|&l| l.into()).collect();
        assert_eq!(found, image.data());
        assert_eq!(labels(&moved).extents(), [5, 6]);
        let (image, moved) = transform_with_targets(&steps(0.0), numbers, targets).unwrap();
        let found = moved.get("numbers").and_then(Target::numbers).unwrap();
        assert_eq!((found.shape(), found.data()), (image.shape(), image.data()));
    }

    #[test]
    fn maps_are_resized_to_the_nearest_pixel() {
        let map = LabelMap::new(2, 4, vec![0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
        let targets = Targets::new().with("labels", map);
        let halved = Transform::ResizeShort {
            side: 1,
            filter: Filter::Bilinear,
            as_bytes: false,
        };
        let halved = halved.apply_to_targets(targets.clone(), [2, 4]);
        assert_eq!(labels(&halved).data(), [5, 7]);
        let doubled = Transform::Resize {
            height: 2,
            width: 8,
            filter: Filter::Bicubic,
            as_bytes: true,
        };
        let doubled = doubled.apply_to_targets(targets, [2, 4]);
        assert_eq!(labels(&doubled).data()[..8], [0, 0, 1, 1, 2, 2, 3, 3]);
    }

    fn parse(json: &str) -> serde_json::Result<Transform> {
        serde_json::from_str(json)
    }

    #[test]
    fn reads_its_configuration_and_nothing_else() {
        assert_eq!(
            parse(r#"{ "kind": "pad", "border": 2 }"#).unwrap(),
            Transform::Pad {
                border: 2,
                value: 0.0
            }
        );
        assert_eq!(
            parse(r#"{ "kind": "grayscale" }"#).unwrap(),
            Transform::Grayscale {}
        );
        for refused in [
            r#"{ "kind": "grayscale", "colour": true }"#,
            r#"{ "kind": "resize", "height": 3, "width": 3, "filter": "cubic" }"#,
            r#"{ "kind": "resize", "height": 3 }"#,
            r#"{ "kind": "centre_crop", "height": -1, "width": 3 }"#,
            r#"{ "kind": "blur" }"#,
        ] {
            assert!(parse(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn pads_on_four_sides() {
        let padded = Transform::Pad {
            border: 1,
            value: 9.0,
        }
        .apply(numbered([1, 1, 2]))
        .unwrap();
        assert_eq!(padded.shape(), [1, 3, 4]);
        assert_eq!(
            padded.data(),
            [9.0, 9.0, 9.0, 9.0, 9.0, 0.0, 1.0, 9.0, 9.0, 9.0, 9.0, 9.0]
        );
        let huge = Transform::Pad {
            border: usize::MAX,
            value: 0.0,
        }
        .apply(numbered([1, 1, 2]));
        assert!(matches!(huge, Err(DataError::ImageSize { .. })));
    }

    #[test]
    fn converts_between_grey_and_colour() {
        let grey = numbered([1, 2, 2]);
        let rgb = Transform::Rgb {}.apply(grey.clone()).unwrap();
        assert_eq!(rgb.shape(), [3, 2, 2]);
        assert_eq!(rgb.get(2, 1, 1), Some(3.0));
        let back = Transform::Grayscale {}.apply(rgb).unwrap();
        for (left, right) in back.data().iter().zip(grey.data()) {
            assert!((left - right).abs() < 1e-6);
        }
        assert!(matches!(
            Transform::Rgb {}.apply(numbered([2, 1, 1])),
            Err(DataError::Channels { actual: 2, .. })
        ));
    }

    #[test]
    fn the_shorter_side_leads() {
        let steps = [Transform::ResizeShort {
            side: 4,
            filter: Filter::Bilinear,
            as_bytes: false,
        }];
        assert_eq!(
            transform(&steps, numbered([1, 8, 11])).unwrap().shape(),
            [1, 4, 5]
        );
        assert_eq!(
            transform(&steps, numbered([1, 11, 8])).unwrap().shape(),
            [1, 5, 4]
        );
    }
}

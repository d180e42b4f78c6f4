//! Random changes for training. They draw from a generator that the caller keys, so a training run can be repeated and resumed.

use rand_chacha::rand_core::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::colour::Jitter;
use crate::random::{between, unit, up_to};
use crate::{Image, Targets};

/// One random change of a training image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Augmentation {
    /// Mirrors left and right in half of the cases.
    HorizontalFlip {},
    /// Shifts by up to `border` pixels in each direction; what comes into view is 0. The same as cropping at random after padding.
    RandomCrop {
        /// The largest shift, in pixels.
        border: usize,
    },
    /// Changes brightness, contrast, saturation and hue, in this order, each by an amount drawn uniformly (torchvision's `ColorJitter`,
    /// which draws the order too). Saturation and hue need three channels.
    ColorJitter {
        /// The factor is drawn from 1 - this to 1 + this.
        #[serde(default)]
        #[schemars(range(min = 0, max = 1))]
        brightness: f64,
        /// The factor of the distance from the image's mean grey, drawn likewise.
        #[serde(default)]
        #[schemars(range(min = 0, max = 1))]
        contrast: f64,
        /// The factor of the distance from each pixel's grey, drawn likewise.
        #[serde(default)]
        #[schemars(range(min = 0, max = 1))]
        saturation: f64,
        /// The turn is drawn from -this to this; 0.5 is half of the circle.
        #[serde(default)]
        #[schemars(range(min = 0, max = 0.5))]
        hue: f64,
    },
}

/// Applies random changes in order, the same to an image and the maps over it. Each draws the same number of values whatever the image.
pub fn augment(
    steps: &[Augmentation],
    mut image: Image,
    mut targets: Targets,
    rng: &mut impl Rng,
) -> (Image, Targets) {
    for step in steps {
        let [_, height, width] = image.shape();
        match step {
            Augmentation::HorizontalFlip {} => {
                if unit(rng) < 0.5 {
                    image
                        .data_mut()
                        .chunks_exact_mut(width)
                        .for_each(<[f32]>::reverse);
                    targets = targets.mirrored([height, width]);
                }
            }
            Augmentation::RandomCrop { border } => {
                let range = border.saturating_mul(2);
                let (down, right) = (up_to(rng, range), up_to(rng, range));
                image = shifted(&image, *border, down, right);
                targets = targets.rearranged([height, width], |row, column| {
                    let row = row.saturating_add(down).checked_sub(*border)?;
                    Some((row, column.saturating_add(right).checked_sub(*border)?))
                });
            }
            Augmentation::ColorJitter {
                brightness,
                contrast,
                saturation,
                hue,
            } => {
                let mut around =
                    |middle: f64, most: f64| between(rng, middle - most, middle + most) as f32;
                let jitter = Jitter {
                    brightness: around(1.0, *brightness),
                    contrast: around(1.0, *contrast),
                    saturation: around(1.0, *saturation),
                    hue: around(0.0, *hue),
                };
                jitter.apply(&mut image);
            }
        }
    }
    (image, targets)
}

/// The crop at `(down, right)` of the image with a border of zeros.
fn shifted(image: &Image, border: usize, down: usize, right: usize) -> Image {
    let (height, width) = (image.height(), image.width());
    let source = |position: usize, offset: usize, side: usize| {
        position
            .saturating_add(offset)
            .checked_sub(border)
            .filter(|position| *position < side)
    };
    image.map_planes(|plane| {
        let mut output = Vec::with_capacity(plane.len());
        for row in 0..height {
            for column in 0..width {
                let from = source(row, down, height).zip(source(column, right, width));
                output.push(from.map_or(0.0, |(row, column)| plane[row * width + column]));
            }
        }
        output
    })
}

#[cfg(test)]
mod tests {
    use dtta_base::keyed_rng;

    use super::*;
    use crate::{IGNORE, LabelMap, NumberMap, Target};

    fn image() -> Image {
        Image::new(1, 2, 3, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap()
    }

    fn labelled(height: usize, width: usize, labels: Vec<u8>) -> Targets {
        Targets::new().with("labels", LabelMap::new(height, width, labels).unwrap())
    }

    fn labels(targets: &Targets) -> &[u8] {
        targets
            .get("labels")
            .and_then(Target::labels)
            .unwrap()
            .data()
    }

    #[test]
    fn shifts_by_hand() {
        assert_eq!(shifted(&image(), 1, 1, 1), image());
        assert_eq!(
            shifted(&image(), 1, 0, 1).data(),
            [0.0, 0.0, 0.0, 1.0, 2.0, 3.0]
        );
        assert_eq!(
            shifted(&image(), 1, 1, 2).data(),
            [2.0, 3.0, 0.0, 5.0, 6.0, 0.0]
        );
        assert_eq!(shifted(&image(), 9, 0, 0).data(), [0.0; 6]);
    }

    #[test]
    fn flips_half_and_repeats() {
        let steps = [Augmentation::HorizontalFlip {}];
        let flipped = |key: u64| {
            let mut rng = keyed_rng("flip", &[&key.to_le_bytes()]);
            let targets = labelled(2, 3, vec![1, 2, 3, 4, 5, 6]);
            let (output, targets) = augment(&steps, image(), targets, &mut rng);
            let followed = labels(&targets).iter().zip(output.data());
            assert!(
                followed
                    .into_iter()
                    .all(|(label, value)| f32::from(*label) == *value)
            );
            assert!(
                [
                    [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
                    [3.0, 2.0, 1.0, 6.0, 5.0, 4.0]
                ]
                .iter()
                .any(|data| output.data() == data)
            );
            output != image()
        };
        let count = (0..1000).filter(|key| flipped(*key)).count();
        // Binomial(1000, 1/2): mean 500, standard deviation 15.8; five of them to each side.
        assert!((421..=579).contains(&count), "{count}");
        assert_eq!(count, (0..1000).filter(|key| flipped(*key)).count());
    }

    #[test]
    fn a_flip_turns_the_numbers_that_point_sideways() {
        let steps = [Augmentation::HorizontalFlip {}];
        let numbers = vec![0.6, -0.1, 0.0, 0.8, 0.2, 0.0];
        let normals = NumberMap::new(2, 1, 3, numbers.clone()).unwrap();
        let targets = Targets::new().with("normals", normals.with_negated_by_flip(vec![0]));
        let image = Image::new(1, 1, 3, vec![1.0, 2.0, 3.0]).unwrap();
        let mut flips = 0;
        for key in 0..20u8 {
            let mut rng = keyed_rng("normals", &[&[key]]);
            let (image, targets) = augment(&steps, image.clone(), targets.clone(), &mut rng);
            let found = targets.get("normals").and_then(Target::numbers).unwrap();
            if image.data()[0] == 3.0 {
                flips += 1;
                assert_eq!(found.data(), [0.0, 0.1, -0.6, 0.0, 0.2, 0.8]);
            } else {
                assert_eq!(found.data(), numbers);
            }
        }
        assert!((1..20).contains(&flips));
    }

    #[test]
    fn colours_change_by_the_key_within_bounds_and_leave_maps_alone() {
        let steps =
            r#"[{ "kind": "color_jitter", "brightness": 0.5, "saturation": 0.5, "hue": 0.5 }]"#;
        let steps: Vec<Augmentation> = serde_json::from_str(steps).unwrap();
        let colour = Image::new(3, 1, 2, vec![0.9, 0.2, 0.3, 0.8, 0.1, 0.4]).unwrap();
        let changed = |key: u64| {
            let mut rng = keyed_rng("colour", &[&key.to_le_bytes()]);
            let targets = labelled(1, 2, vec![1, 2]);
            let (image, unchanged) = augment(&steps, colour.clone(), targets.clone(), &mut rng);
            assert_eq!(unchanged, targets);
            image
        };
        assert_eq!(changed(0), changed(0));
        for key in 0..100 {
            let image = changed(key);
            assert!(image.data().iter().all(|value| (0.0..=1.0).contains(value)));
            assert_ne!(image, colour);
            assert_ne!(image, changed(key + 1));
        }
    }

    #[test]
    fn crops_reach_every_offset() {
        let steps = [Augmentation::RandomCrop { border: 1 }];
        let mut seen = std::collections::HashSet::new();
        let mut rng = keyed_rng("crop", &[]);
        for _ in 0..300 {
            let targets = labelled(2, 3, vec![1, 2, 3, 4, 5, 6]);
            let (output, targets) = augment(&steps, image(), targets, &mut rng);
            for (label, value) in labels(&targets).iter().zip(output.data()) {
                let expected = if *label == IGNORE {
                    0.0
                } else {
                    f32::from(*label)
                };
                assert_eq!(*value, expected);
            }
            seen.insert(
                output
                    .data()
                    .iter()
                    .map(|value| value.to_bits())
                    .collect::<Vec<_>>(),
            );
        }
        assert_eq!(seen.len(), 9);
    }
}

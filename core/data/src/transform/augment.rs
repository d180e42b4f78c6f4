//! Random changes for training. They draw from a generator that the caller keys, so a training run can be repeated and resumed.

use rand_chacha::rand_core::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Image;
use crate::random::{unit, up_to};

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
}

/// Applies random changes in order. Each draws the same number of values whatever the image.
pub fn augment(steps: &[Augmentation], mut image: Image, rng: &mut impl Rng) -> Image {
    for step in steps {
        match step {
            Augmentation::HorizontalFlip {} => {
                if unit(rng) < 0.5 {
                    let width = image.width();
                    image
                        .data_mut()
                        .chunks_exact_mut(width)
                        .for_each(<[f32]>::reverse);
                }
            }
            Augmentation::RandomCrop { border } => {
                let range = border.saturating_mul(2);
                let (down, right) = (up_to(rng, range), up_to(rng, range));
                image = shifted(&image, *border, down, right);
            }
        }
    }
    image
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
    use super::*;
    use crate::keyed_rng;

    fn image() -> Image {
        Image::new(1, 2, 3, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap()
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
            let output = augment(
                &steps,
                image(),
                &mut keyed_rng("flip", &[&key.to_le_bytes()]),
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
    fn crops_reach_every_offset() {
        let steps = [Augmentation::RandomCrop { border: 1 }];
        let mut seen = std::collections::HashSet::new();
        let mut rng = keyed_rng("crop", &[]);
        for _ in 0..300 {
            let output = augment(&steps, image(), &mut rng);
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

//! One channel in `f64`, the form in which corruptions are computed, and what filters need of it.

use std::collections::BTreeMap;

/// `height × width` values in row order; both at least 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plane {
    pub height: usize,
    pub width: usize,
    pub values: Vec<f64>,
}

impl Plane {
    pub fn from_fn(
        height: usize,
        width: usize,
        mut value: impl FnMut(usize, usize) -> f64,
    ) -> Self {
        let mut values = Vec::with_capacity(height * width);
        for row in 0..height {
            values.extend((0..width).map(|column| value(row, column)));
        }
        Self {
            height,
            width,
            values,
        }
    }

    pub fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.width + column]
    }

    pub fn map(&self, change: impl FnMut(f64) -> f64) -> Self {
        Self {
            values: self.values.iter().copied().map(change).collect(),
            ..*self
        }
    }

    /// Each value with that of another plane of the same extents.
    pub fn zip(&self, other: &Self, mut change: impl FnMut(f64, f64) -> f64) -> Self {
        let pairs = self.values.iter().zip(&other.values);
        Self {
            values: pairs.map(|(one, other)| change(*one, *other)).collect(),
            ..*self
        }
    }

    pub fn max(&self) -> f64 {
        self.values.iter().copied().fold(f64::MIN, f64::max)
    }

    pub fn mean(&self) -> f64 {
        self.values.iter().sum::<f64>() / self.values.len() as f64
    }

    /// Values in [0, 1] as the bytes at or below them.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.values.iter().copied().map(byte).collect()
    }

    pub fn from_bytes(height: usize, width: usize, bytes: &[u8]) -> Self {
        Self {
            height,
            width,
            values: bytes.iter().map(|byte| f64::from(*byte) / 255.0).collect(),
        }
    }

    /// The weighted sums of each value's neighbourhood (a correlation).
    pub fn filter(&self, kernel: &Kernel, border: Border) -> Self {
        let [above, left] = kernel.reach();
        let padded = Self::from_fn(
            self.height + 2 * above,
            self.width + 2 * left,
            |row, column| {
                self.at(
                    border.index(row as isize - above as isize, self.height),
                    border.index(column as isize - left as isize, self.width),
                )
            },
        );
        let mut values = vec![0.0; self.values.len()];
        for (row, sums) in values.chunks_exact_mut(self.width).enumerate() {
            for &(down, right, weight) in &kernel.taps {
                let first = (row + above).wrapping_add_signed(down) * padded.width
                    + left.wrapping_add_signed(right);
                let neighbours = &padded.values[first..first + self.width];
                for (sum, neighbour) in sums.iter_mut().zip(neighbours) {
                    *sum += weight * neighbour;
                }
            }
        }
        Self { values, ..*self }
    }

    /// The value between pixels by bilinear interpolation.
    pub fn between(&self, row: f64, column: f64, border: Border) -> f64 {
        let (top, left) = (row.floor(), column.floor());
        let (down, along) = (row - top, column - left);
        let index = |place: f64, side| border.index(place as isize, side);
        let rows = [top, top + 1.0].map(|place| index(place, self.height));
        let columns = [left, left + 1.0].map(|place| index(place, self.width));
        let mix = |row| self.at(row, columns[0]) * (1.0 - along) + self.at(row, columns[1]) * along;
        mix(rows[0]) * (1.0 - down) + mix(rows[1]) * down
    }

    /// The plane at the extents of a smaller one: means over the area that each pixel covers.
    pub fn shrink(&self, &Self { height, width, .. }: &Self) -> Self {
        if [height, width] == [self.height, self.width] {
            return self.clone();
        }
        let (rows, columns) = (shares(self.height, height), shares(self.width, width));
        let narrow = Self::from_fn(self.height, width, |row, column| {
            let share = &columns[column];
            share
                .weights
                .iter()
                .zip(&self.values[row * self.width + share.first..])
                .map(|(weight, value)| weight * value)
                .sum()
        });
        Self::from_fn(height, width, |row, column| {
            let share = &rows[row];
            let weights = share.weights.iter().enumerate();
            weights
                .map(|(place, weight)| weight * narrow.at(share.first + place, column))
                .sum()
        })
    }
}

/// A value of [0, 1] as the byte at or below it, as a cast from a number cuts off. What is a byte stays the same in spite of rounding.
pub(super) fn byte(value: f64) -> u8 {
    (value.clamp(0.0, 1.0) * 255.0 + 1e-6) as u8
}

/// The part of an axis that one pixel of a shorter one covers.
struct Share {
    first: usize,
    weights: Vec<f64>,
}

fn shares(long: usize, short: usize) -> Vec<Share> {
    let each = long as f64 / short as f64;
    let share = |pixel: usize| {
        let (begin, end) = (pixel as f64 * each, (pixel + 1) as f64 * each);
        let (first, last) = (begin as usize, (end.ceil() as usize).min(long));
        let covered = |place: usize| (end.min((place + 1) as f64) - begin.max(place as f64)) / each;
        Share {
            first,
            weights: (first..last).map(covered).collect(),
        }
    };
    (0..short).map(share).collect()
}

/// What lies beyond the image.
#[derive(Debug, Clone, Copy)]
pub(super) enum Border {
    /// `a a a | a b c d | d d d`
    Nearest,
    /// `c b a | a b c d | d c b`
    Reflect,
    /// `d c b | a b c d | c b a`
    Mirror,
}

impl Border {
    /// The pixel inside that stands at a place, which may be outside.
    pub fn index(self, place: isize, side: usize) -> usize {
        let side = side as isize;
        let index = match self {
            Self::Nearest => place.clamp(0, side - 1),
            Self::Reflect => {
                let place = place.rem_euclid(2 * side);
                place.min(2 * side - 1 - place)
            }
            Self::Mirror if side == 1 => 0,
            Self::Mirror => {
                let place = place.rem_euclid(2 * side - 2);
                place.min(2 * side - 2 - place)
            }
        };
        index as usize
    }
}

/// Weights of neighbours, by rows down and columns right.
#[derive(Debug)]
pub(super) struct Kernel {
    taps: Vec<(isize, isize, f64)>,
}

impl Kernel {
    /// A kernel whose neighbours may lie between pixels: those around it then share the weight, in bilinear proportion.
    pub fn new(taps: impl IntoIterator<Item = (f64, f64, f64)>) -> Self {
        let mut pixels: BTreeMap<(isize, isize), f64> = BTreeMap::new();
        for (down, right, weight) in taps {
            for (down, vertical) in neighbours(down) {
                for (right, horizontal) in neighbours(right) {
                    let share = weight * vertical * horizontal;
                    if share != 0.0 {
                        *pixels.entry((down, right)).or_default() += share;
                    }
                }
            }
        }
        let tap = |((down, right), weight)| (down, right, weight);
        Self {
            taps: pixels.into_iter().map(tap).collect(),
        }
    }

    /// How many rows and columns away its farthest neighbours lie.
    fn reach(&self) -> [usize; 2] {
        let most = |reach: [usize; 2], &(down, right, _): &(isize, isize, f64)| {
            [
                reach[0].max(down.unsigned_abs()),
                reach[1].max(right.unsigned_abs()),
            ]
        };
        self.taps.iter().fold([0, 0], most)
    }
}

/// The pixels around a place on one axis, and their shares in it.
fn neighbours(place: f64) -> [(isize, f64); 2] {
    let (first, fraction) = (place.floor(), place - place.floor());
    [
        (first as isize, 1.0 - fraction),
        (first as isize + 1, fraction),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_continue_an_axis_as_drawn() {
        let axis = |border: Border, side| -> Vec<usize> {
            (-4..6).map(|place| border.index(place, side)).collect()
        };
        assert_eq!(axis(Border::Nearest, 3), [0, 0, 0, 0, 0, 1, 2, 2, 2, 2]);
        assert_eq!(axis(Border::Reflect, 3), [2, 2, 1, 0, 0, 1, 2, 2, 1, 0]);
        assert_eq!(axis(Border::Mirror, 3), [0, 1, 2, 1, 0, 1, 2, 1, 0, 1]);
        for border in [Border::Nearest, Border::Reflect, Border::Mirror] {
            assert_eq!(axis(border, 1), [0; 10], "{border:?}");
        }
    }

    #[test]
    fn a_neighbour_between_pixels_is_shared_by_them() {
        let kernel = Kernel::new([(0.25, -0.5, 8.0)]);
        let expected = [(0, -1, 3.0), (0, 0, 3.0), (1, -1, 1.0), (1, 0, 1.0)];
        assert_eq!(kernel.taps, expected);
        assert_eq!(Kernel::new([(2.0, -3.0, 0.5)]).taps, [(2, -3, 0.5)]);
    }

    #[test]
    fn a_filter_takes_what_lies_where_the_kernel_says() {
        let plane = Plane::from_fn(2, 3, |row, column| (3 * row + column) as f64);
        let moved = plane.filter(&Kernel::new([(1.0, -2.0, 1.0)]), Border::Nearest);
        assert_eq!(moved.values, [3.0, 3.0, 3.0, 3.0, 3.0, 3.0]);
        let mixed = plane.filter(&Kernel::new([(0.0, 0.5, 1.0)]), Border::Nearest);
        assert_eq!(mixed.values, [0.5, 1.5, 2.0, 3.5, 4.5, 5.0]);
    }

    #[test]
    fn shrinking_takes_means_over_areas() {
        let plane = Plane::from_fn(1, 3, |_, column| [0.0, 0.3, 0.9][column]);
        // 1.5 pixels each: (0 + 0.15) / 1.5 and (0.15 + 0.9) / 1.5.
        let expected = [0.1, 0.7];
        let found = plane.shrink(&Plane::from_fn(1, 2, |_, _| 0.0)).values;
        assert!(
            found
                .iter()
                .zip(expected)
                .all(|(f, e)| (f - e).abs() < 1e-12),
            "{found:?}"
        );
        assert_eq!(plane.shrink(&plane), plane);
    }
}

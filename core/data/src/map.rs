//! Maps that lie over an image, one value for each pixel: what segmentation and depth are trained on and measured by. As labels,
//! they exist only for metrics and training.

use crate::DataError;

/// The label of pixels that nothing is known about.
pub const IGNORE: u8 = 255;

/// One value for each pixel, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Map<T> {
    height: usize,
    width: usize,
    data: Vec<T>,
}

/// Class labels; [`IGNORE`] where there is none.
pub type Mask = Map<u8>;

/// Distances, in the dataset's unit; 0 where there is none.
pub type Depth = Map<f32>;

/// What is known about the pixels of a sample.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Maps {
    /// Class labels.
    pub mask: Option<Mask>,
    /// Distances.
    pub depth: Option<Depth>,
}

impl<T: Copy> Map<T> {
    /// A map from its values.
    ///
    /// # Errors
    /// [`DataError::ImageShape`] if an axis is 0 or `data.len() != height * width`.
    pub fn new(height: usize, width: usize, data: Vec<T>) -> Result<Self, DataError> {
        if height == 0 || width == 0 || height.checked_mul(width) != Some(data.len()) {
            return Err(DataError::ImageShape {
                channels: 1,
                height,
                width,
                values: data.len(),
            });
        }
        Ok(Self {
            height,
            width,
            data,
        })
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// The values, row by row.
    pub fn data(&self) -> &[T] {
        &self.data
    }

    /// A map of other extents whose value at (row, column) is this one's at `source(row, column)`; `outside` where that is none.
    pub(crate) fn rearranged(
        &self,
        [height, width]: [usize; 2],
        outside: T,
        source: impl Fn(usize, usize) -> Option<(usize, usize)>,
    ) -> Self {
        let mut data = Vec::with_capacity(height * width);
        for row in 0..height {
            for column in 0..width {
                let from = source(row, column)
                    .filter(|&(row, column)| row < self.height && column < self.width);
                data.push(from.map_or(outside, |(row, column)| {
                    self.data[row * self.width + column]
                }));
            }
        }
        Self {
            height,
            width,
            data,
        }
    }
}

impl Maps {
    /// Both maps, rearranged alike; see [`Map::rearranged`].
    pub(crate) fn rearranged(
        &self,
        extents: [usize; 2],
        source: impl Fn(usize, usize) -> Option<(usize, usize)>,
    ) -> Self {
        let (mask, depth) = (self.mask.as_ref(), self.depth.as_ref());
        Self {
            mask: mask.map(|mask| mask.rearranged(extents, IGNORE, &source)),
            depth: depth.map(|depth| depth.rearranged(extents, 0.0, &source)),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.mask.is_none() && self.depth.is_none()
    }

    /// The extents of the first map that is not of these, with its name.
    pub(crate) fn other_than(&self, extents: [usize; 2]) -> Option<(&'static str, [usize; 2])> {
        let mask = self.mask.as_ref().map(|mask| ("mask", mask.shape()));
        let depth = self
            .depth
            .as_ref()
            .map(|depth| ("depth map", depth.shape()));
        [mask, depth]
            .into_iter()
            .flatten()
            .find(|(_, found)| *found != extents)
    }
}

impl Mask {
    /// The share of each class in the cells of a coarser grid, `[classes, height, width]` row by row. Pixels without a label do not
    /// count; a cell of nothing else is 0 for every class. Pixel `i` of `n` falls into cell `i * cells / n`.
    pub fn shares(&self, classes: usize, [height, width]: [usize; 2]) -> Vec<f32> {
        let mut shares = vec![0.0; classes * height * width];
        let mut counts = vec![0u32; height * width];
        for (pixel, &label) in self.data.iter().enumerate() {
            if usize::from(label) < classes {
                let cell = self.cell(pixel, [height, width]);
                shares[usize::from(label) * height * width + cell] += 1.0;
                counts[cell] += 1;
            }
        }
        for (n, share) in shares.iter_mut().enumerate() {
            *share /= counts[n % (height * width)].max(1) as f32;
        }
        shares
    }
}

impl Depth {
    /// The mean of `value` over the cells of a coarser grid. Pixels without a distance do not count; a cell of nothing else is
    /// `otherwise`.
    pub fn cell_means(
        &self,
        extents: [usize; 2],
        otherwise: f32,
        value: impl Fn(f32) -> f32,
    ) -> Vec<f32> {
        let mut sums = vec![(0.0f64, 0u32); extents[0] * extents[1]];
        for (pixel, &distance) in self.data.iter().enumerate() {
            if is_distance(distance) {
                let (sum, count) = &mut sums[self.cell(pixel, extents)];
                *sum += f64::from(value(distance));
                *count += 1;
            }
        }
        let mean = |&(sum, count): &(f64, u32)| match count {
            0 => otherwise,
            _ => (sum / f64::from(count)) as f32,
        };
        sums.iter().map(mean).collect()
    }
}

impl<T: Copy> Map<T> {
    /// The cell of a coarser grid that a pixel falls into.
    fn cell(&self, pixel: usize, [height, width]: [usize; 2]) -> usize {
        let (row, column) = (pixel / self.width, pixel % self.width);
        row * height / self.height * width + column * width / self.width
    }
}

/// Whether a depth map says something here.
pub fn is_distance(value: f32) -> bool {
    value > 0.0 && value.is_finite()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_count_labelled_pixels_of_each_cell() {
        // Two cells of two by two pixels: 0 1 | 2 I  and  0 0 | 2 1.
        let mask = Mask::new(2, 4, vec![0, 1, 2, IGNORE, 0, 0, 2, 1]).unwrap();
        let shares = mask.shares(3, [1, 2]);
        let third = 1.0 / 3.0;
        assert_eq!(shares, [0.75, 0.0, 0.25, third, 0.0, 2.0 * third]);
        assert_eq!(
            Mask::new(1, 1, vec![IGNORE]).unwrap().shares(2, [1, 1]),
            [0.0, 0.0]
        );
    }

    #[test]
    fn means_leave_out_what_is_no_distance() {
        let depth = Depth::new(
            2,
            4,
            vec![1.0, 3.0, 0.0, f32::NAN, 0.0, 2.0, -1.0, f32::INFINITY],
        )
        .unwrap();
        assert_eq!(depth.cell_means([1, 2], -9.0, |d| 10.0 * d), [20.0, -9.0]);
    }

    #[test]
    fn refuses_values_that_do_not_fit() {
        assert!(Mask::new(2, 2, vec![0; 3]).is_err());
        assert!(Mask::new(0, 2, vec![]).is_err());
    }
}

//! Maps that lie over an image: labels or numbers for each pixel, with a mark where nothing is known. What they mean (a mask, depth,
//! normals) is the task's business; here they are read, moved along with their image, and counted over coarser cells.

use crate::DataError;

/// The label of pixels that nothing is known about.
pub const IGNORE: u8 = 255;

/// A class label for each pixel, row by row; [`IGNORE`] where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMap {
    height: usize,
    width: usize,
    data: Vec<u8>,
}

/// Numbers for each pixel, such as a distance or the three of a normal.
///
/// A pixel is known where all its numbers are finite and at least one of them is not 0; see [`is_known`](Self::is_known).
#[derive(Debug, Clone, PartialEq)]
pub struct NumberMap {
    channels: usize,
    height: usize,
    width: usize,
    data: Vec<f32>,
    negated_by_flip: Vec<usize>,
}

impl LabelMap {
    /// A map from its labels.
    ///
    /// # Errors
    /// [`DataError::ImageShape`] if an axis is 0 or `data.len() != height * width`.
    pub fn new(height: usize, width: usize, data: Vec<u8>) -> Result<Self, DataError> {
        check(1, height, width, data.len())?;
        Ok(Self {
            height,
            width,
            data,
        })
    }

    /// Rows and columns.
    pub fn extents(&self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// The labels, row by row.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The share of each class in the cells of a coarser grid, `[classes, height, width]` row by row. Pixels without a label do not
    /// count; a cell of nothing else is 0 for every class. Pixel `i` of `n` falls into cell `i * cells / n`.
    pub fn shares(&self, classes: usize, [height, width]: [usize; 2]) -> Vec<f32> {
        let mut shares = vec![0.0; classes * height * width];
        let mut counts = vec![0u32; height * width];
        for (pixel, &label) in self.data.iter().enumerate() {
            if label != IGNORE && usize::from(label) < classes {
                let cell = cell(pixel, self.extents(), [height, width]);
                shares[usize::from(label) * height * width + cell] += 1.0;
                counts[cell] += 1;
            }
        }
        for (n, share) in shares.iter_mut().enumerate() {
            *share /= counts[n % (height * width)].max(1) as f32;
        }
        shares
    }

    /// A map of other extents; see [`rearranged`].
    pub(crate) fn rearranged(
        &self,
        extents: [usize; 2],
        source: impl Fn(usize, usize) -> Option<(usize, usize)>,
    ) -> Self {
        let [height, width] = extents;
        Self {
            height,
            width,
            data: rearranged(&self.data, self.extents(), extents, IGNORE, source),
        }
    }
}

impl NumberMap {
    /// A map from its numbers in channel, row, column order.
    ///
    /// # Errors
    /// [`DataError::ImageShape`] if an axis is 0 or `data.len() != channels * height * width`.
    pub fn new(
        channels: usize,
        height: usize,
        width: usize,
        data: Vec<f32>,
    ) -> Result<Self, DataError> {
        check(channels, height, width, data.len())?;
        Ok(Self {
            channels,
            height,
            width,
            data,
            negated_by_flip: Vec::new(),
        })
    }

    /// The same map with channels whose sign changes where the image is mirrored left and right, as a normal's x does.
    #[must_use]
    pub fn with_negated_by_flip(mut self, channels: Vec<usize>) -> Self {
        self.negated_by_flip = channels;
        self
    }

    /// Channels whose sign changes where the image is mirrored left and right.
    pub fn negated_by_flip(&self) -> &[usize] {
        &self.negated_by_flip
    }

    /// `[channels, height, width]`.
    pub fn shape(&self) -> [usize; 3] {
        [self.channels, self.height, self.width]
    }

    /// Rows and columns.
    pub fn extents(&self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// The numbers in channel, row, column order.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The numbers of a pixel (`row * width + column`), one for each channel; none outside of the map.
    pub fn pixel(&self, pixel: usize) -> impl Iterator<Item = f32> + Clone {
        let pixels = self.height * self.width;
        let inside = pixel < pixels;
        let places = (inside.then_some(pixel).into_iter())
            .flat_map(move |pixel| (pixel..self.data.len()).step_by(pixels));
        places.map(|place| self.data[place])
    }

    /// Whether something is known about a pixel (`row * width + column`): all its numbers are finite, and one at least is not 0.
    pub fn is_known(&self, pixel: usize) -> bool {
        let numbers = self.pixel(pixel);
        numbers.clone().all(f32::is_finite) && numbers.into_iter().any(|number| number != 0.0)
    }

    /// The mean of `value` over the cells of a coarser grid, `[channels, height, width]` row by row. Pixels that nothing is known about
    /// do not count; a cell of nothing else is `otherwise`. Pixel `i` of `n` falls into cell `i * cells / n`.
    pub fn cell_means(
        &self,
        extents: [usize; 2],
        otherwise: f32,
        value: impl Fn(f32) -> f32,
    ) -> Vec<f32> {
        let cells = extents[0] * extents[1];
        let mut sums = vec![0.0f64; self.channels * cells];
        let mut counts = vec![0u32; cells];
        for pixel in (0..self.height * self.width).filter(|&pixel| self.is_known(pixel)) {
            let cell = cell(pixel, self.extents(), extents);
            counts[cell] += 1;
            for (channel, number) in self.pixel(pixel).enumerate() {
                sums[channel * cells + cell] += f64::from(value(number));
            }
        }
        let mean = |(place, sum): (usize, &f64)| match counts[place % cells] {
            0 => otherwise,
            count => (sum / f64::from(count)) as f32,
        };
        sums.iter().enumerate().map(mean).collect()
    }

    /// A map of other extents; see [`rearranged`].
    pub(crate) fn rearranged(
        &self,
        extents: [usize; 2],
        source: impl Fn(usize, usize) -> Option<(usize, usize)>,
    ) -> Self {
        let [height, width] = extents;
        let planes = self.data.chunks_exact(self.height * self.width);
        let moved = |plane| rearranged(plane, self.extents(), extents, 0.0, &source);
        Self {
            channels: self.channels,
            height,
            width,
            data: planes.flat_map(moved).collect(),
            negated_by_flip: self.negated_by_flip.clone(),
        }
    }

    /// Negates the channels whose sign changes where the image is mirrored.
    pub(crate) fn negate(&mut self) {
        let planes = self.data.chunks_exact_mut(self.height * self.width);
        for (channel, plane) in planes.enumerate() {
            if self.negated_by_flip.contains(&channel) {
                // Not `-number`: 0 stays the mark of what is unknown, bit for bit.
                plane.iter_mut().for_each(|number| *number = 0.0 - *number);
            }
        }
    }
}

fn check(channels: usize, height: usize, width: usize, values: usize) -> Result<(), DataError> {
    let volume = channels
        .checked_mul(height)
        .and_then(|volume| volume.checked_mul(width));
    if values > 0 && volume == Some(values) {
        return Ok(());
    }
    Err(DataError::ImageShape {
        channels,
        height,
        width,
        values,
    })
}

/// A plane of other extents whose value at (row, column) is the old one's at `source(row, column)`; `outside` where that does not exist.
fn rearranged<T: Copy>(
    plane: &[T],
    [height, width]: [usize; 2],
    [new_height, new_width]: [usize; 2],
    outside: T,
    source: impl Fn(usize, usize) -> Option<(usize, usize)>,
) -> Vec<T> {
    let mut data = Vec::with_capacity(new_height * new_width);
    for row in 0..new_height {
        for column in 0..new_width {
            let from = source(row, column).filter(|&(row, column)| row < height && column < width);
            data.push(from.map_or(outside, |(row, column)| plane[row * width + column]));
        }
    }
    data
}

/// The cell of a coarser grid that a pixel falls into.
fn cell(pixel: usize, [height, width]: [usize; 2], [rows, columns]: [usize; 2]) -> usize {
    pixel / width * rows / height * columns + pixel % width * columns / width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_count_labelled_pixels_of_each_cell() {
        // Two cells of two by two pixels: 0 1 | 2 I  and  0 0 | 2 1.
        let mask = LabelMap::new(2, 4, vec![0, 1, 2, IGNORE, 0, 0, 2, 1]).unwrap();
        let shares = mask.shares(3, [1, 2]);
        let third = 1.0 / 3.0;
        assert_eq!(shares, [0.75, 0.0, 0.25, third, 0.0, 2.0 * third]);
        let nothing = LabelMap::new(1, 1, vec![IGNORE]).unwrap();
        assert_eq!(nothing.shares(2, [1, 1]), [0.0, 0.0]);
        assert_eq!(nothing.shares(256, [1, 1]), [0.0; 256]);
    }

    #[test]
    fn means_leave_out_what_is_not_known() {
        let numbers = vec![1.0, 3.0, 0.0, f32::NAN, 0.0, 2.0, 0.0, f32::INFINITY];
        let depth = NumberMap::new(1, 2, 4, numbers).unwrap();
        assert_eq!(depth.cell_means([1, 2], -9.0, |d| 10.0 * d), [20.0, -9.0]);
    }

    #[test]
    fn a_pixel_is_known_by_all_its_channels_together() {
        // Pixels (1, 0), (0, -2), (0, 0), (3, NaN).
        let numbers = vec![1.0, 0.0, 0.0, 3.0, 0.0, -2.0, 0.0, f32::NAN];
        let map = NumberMap::new(2, 1, 4, numbers).unwrap();
        let known: Vec<bool> = (0..5).map(|pixel| map.is_known(pixel)).collect();
        assert_eq!(known, [true, true, false, false, false]);
        assert_eq!(map.pixel(1).collect::<Vec<_>>(), [0.0, -2.0]);
        // One cell: means over the first two pixels, channel by channel.
        assert_eq!(map.cell_means([1, 1], 9.0, |v| v), [0.5, -1.0]);
    }

    #[test]
    fn refuses_values_that_do_not_fit() {
        assert!(LabelMap::new(2, 2, vec![0; 3]).is_err());
        assert!(LabelMap::new(0, 2, vec![]).is_err());
        assert!(NumberMap::new(3, 2, 2, vec![0.0; 4]).is_err());
        assert!(NumberMap::new(0, 2, 2, vec![]).is_err());
        assert!(NumberMap::new(usize::MAX, 2, 2, vec![0.0]).is_err());
    }
}

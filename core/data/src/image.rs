//! The image that every other part of this crate passes around: channels first, `f32`, no colour space, no file format.

use crate::DataError;

/// The largest number of values in one image: 2^28, a gibibyte. It keeps a configuration with one zero too many an error
/// instead of an exhausted machine.
pub(crate) const VALUES_LIMIT: usize = 1 << 28;

/// The largest number of pixels that a file may hold: those of an image of three channels. It is where Pillow warns of a decompression bomb.
pub(crate) const PIXELS_LIMIT: usize = VALUES_LIMIT / 3;

/// An image as `channels × height × width` values. Datasets and corruptions keep them in [0, 1]; only
/// [`Transform::Normalise`](crate::Transform::Normalise) leaves that range.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    channels: usize,
    height: usize,
    width: usize,
    data: Vec<f32>,
}

impl Image {
    /// An image from its values in channel, row, column order.
    ///
    /// # Errors
    /// [`DataError::ImageShape`] if an axis is 0 or `data.len() != channels * height * width`.
    pub fn new(
        channels: usize,
        height: usize,
        width: usize,
        data: Vec<f32>,
    ) -> Result<Self, DataError> {
        match checked_volume(channels, height, width) {
            Some(values) if values == data.len() => Ok(Self {
                channels,
                height,
                width,
                data,
            }),
            _ => Err(DataError::ImageShape {
                channels,
                height,
                width,
                values: data.len(),
            }),
        }
    }

    /// An image whose value at `(channel, row, column)` is `value(channel, row, column)`.
    ///
    /// # Errors
    /// [`DataError::ImageSize`] if an axis is 0 or there would be more than 2^28 values.
    pub fn from_fn(
        [channels, height, width]: [usize; 3],
        mut value: impl FnMut(usize, usize, usize) -> f32,
    ) -> Result<Self, DataError> {
        let values =
            checked_volume(channels, height, width).filter(|values| *values <= VALUES_LIMIT);
        let Some(values) = values else {
            return Err(DataError::ImageSize {
                channels,
                height,
                width,
                limit: VALUES_LIMIT,
            });
        };
        let mut data = Vec::with_capacity(values);
        for channel in 0..channels {
            for row in 0..height {
                for column in 0..width {
                    data.push(value(channel, row, column));
                }
            }
        }
        Ok(Self {
            channels,
            height,
            width,
            data,
        })
    }

    /// An image from bytes: 0 becomes 0.0 and 255 becomes 1.0.
    pub(crate) fn from_bytes(
        [channels, height, width]: [usize; 3],
        bytes: &[u8],
    ) -> Result<Self, DataError> {
        let mut bytes = bytes.iter();
        Self::from_fn([channels, height, width], |_, _, _| {
            bytes.next().map_or(0.0, |byte| f32::from(*byte) / 255.0)
        })
    }

    /// Number of channels: 1 for grey, 3 for colour.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// `[channels, height, width]`.
    pub fn shape(&self) -> [usize; 3] {
        [self.channels, self.height, self.width]
    }

    /// The values in channel, row, column order.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The values in channel, row, column order, to change in place.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// Gives the values away, in channel, row, column order.
    pub fn into_data(self) -> Vec<f32> {
        self.data
    }

    /// The values at one row and column, one per channel; `None` outside of the image.
    pub fn get(&self, channel: usize, row: usize, column: usize) -> Option<f32> {
        let inside = channel < self.channels && row < self.height && column < self.width;
        inside.then(|| self.data[(channel * self.height + row) * self.width + column])
    }

    /// The channels, each as `height * width` values.
    pub(crate) fn planes(&self) -> std::slice::ChunksExact<'_, f32> {
        self.data.chunks_exact(self.height * self.width)
    }

    /// An image of this shape, each channel made from this image's by `change`, which must keep the length.
    pub(crate) fn map_planes(&self, mut change: impl FnMut(&[f32]) -> Vec<f32>) -> Self {
        let mut data = Vec::with_capacity(self.data.len());
        for plane in self.planes() {
            data.extend(change(plane));
        }
        assert_eq!(
            data.len(),
            self.data.len(),
            "a plane's change keeps its length"
        );
        Self { data, ..*self }
    }

    /// An image of this shape with each value changed by itself.
    pub(crate) fn map(&self, change: impl FnMut(f32) -> f32) -> Self {
        Self {
            data: self.data.iter().copied().map(change).collect(),
            ..*self
        }
    }
}

/// The number of values, if no axis is 0 and the product does not overflow.
fn checked_volume(channels: usize, height: usize, width: usize) -> Option<usize> {
    channels
        .checked_mul(height)?
        .checked_mul(width)
        .filter(|values| *values > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_shapes_that_do_not_fit() {
        assert!(matches!(
            Image::new(1, 2, 2, vec![0.0; 3]),
            Err(DataError::ImageShape { values: 3, .. })
        ));
        assert!(matches!(
            Image::new(0, 2, 2, vec![]),
            Err(DataError::ImageShape { .. })
        ));
        assert!(matches!(
            Image::new(usize::MAX, 2, 2, vec![]),
            Err(DataError::ImageShape { .. })
        ));
        assert!(matches!(
            Image::from_fn([1, 1 << 20, 1 << 20], |_, _, _| 0.0),
            Err(DataError::ImageSize { .. })
        ));
    }

    #[test]
    fn reads_in_channel_row_column_order() {
        let image = Image::from_fn([2, 2, 3], |channel, row, column| {
            (channel * 100 + row * 10 + column) as f32
        })
        .unwrap();
        assert_eq!(image.get(1, 0, 2), Some(102.0));
        assert_eq!(image.get(1, 2, 0), None);
        assert_eq!(image.data()[3], 10.0);
    }
}

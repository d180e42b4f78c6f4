//! One channel in `f64`, the form in which corruptions are computed.

use crate::Image;

/// `height × width` values in row order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plane {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) values: Vec<f64>,
}

impl Plane {
    pub(super) fn split(image: &Image) -> Vec<Self> {
        let plane = |values: &[f32]| Self {
            height: image.height(),
            width: image.width(),
            values: values.iter().map(|value| f64::from(*value)).collect(),
        };
        image.planes().map(plane).collect()
    }

    /// The planes as an image of `like`'s shape, cut off at 0 and 1.
    pub(super) fn join(planes: &[Self], like: &Image) -> Image {
        let mut values = planes.iter().flat_map(|plane| &plane.values);
        like.map(|_| {
            values
                .next()
                .map_or(0.0, |value| value.clamp(0.0, 1.0) as f32)
        })
    }

    pub(super) fn from_fn(
        height: usize,
        width: usize,
        mut value: impl FnMut(usize, usize) -> f64,
    ) -> Self {
        let mut values = Vec::with_capacity(height * width);
        for row in 0..height {
            for column in 0..width {
                values.push(value(row, column));
            }
        }
        Self {
            height,
            width,
            values,
        }
    }

    pub(super) fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.width + column]
    }

    /// The value at a place that may lie outside, where the edge repeats.
    pub(super) fn near(&self, row: isize, column: isize) -> f64 {
        let clamp = |place: isize, side: usize| place.clamp(0, side as isize - 1) as usize;
        self.at(clamp(row, self.height), clamp(column, self.width))
    }

    /// The value between pixels by bilinear interpolation; outside, the edge repeats.
    pub(super) fn between(&self, row: f64, column: f64) -> f64 {
        let split = |place: f64, side: usize| {
            let place = place.clamp(0.0, (side - 1) as f64);
            let first = (place as usize).min(side.saturating_sub(2));
            (first, (first + 1).min(side - 1), place - first as f64)
        };
        let (top, bottom, down) = split(row, self.height);
        let (left, right, along) = split(column, self.width);
        let mix = |row| self.at(row, left) * (1.0 - along) + self.at(row, right) * along;
        mix(top) * (1.0 - down) + mix(bottom) * down
    }

    pub(super) fn map(&self, change: impl FnMut(f64) -> f64) -> Self {
        Self {
            values: self.values.iter().copied().map(change).collect(),
            ..*self
        }
    }

    pub(super) fn max(&self) -> f64 {
        self.values
            .iter()
            .copied()
            .fold(f64::NEG_INFINITY, f64::max)
    }

    pub(super) fn mean(&self) -> f64 {
        self.values.iter().sum::<f64>() / self.values.len() as f64
    }
}

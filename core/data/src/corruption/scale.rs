//! How lengths become those of a smaller image.

/// The side of ImageNet-C's images.
const SIDE: f64 = 224.0;

/// What lengths are multiplied by, and the extents at which whole layers are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    /// At most 1, which is ImageNet-C.
    pub factor: f64,
    /// The image's rows, divided by the factor.
    pub height: usize,
    /// The image's columns, divided by the factor.
    pub width: usize,
}

impl Scale {
    pub fn of(height: usize, width: usize) -> Self {
        let factor = factor(height, width);
        let full = |side: usize| ((side as f64 / factor).round() as usize).max(side);
        Self {
            factor,
            height: full(height),
            width: full(width),
        }
    }
}

/// What lengths of ImageNet-C are multiplied by in an image of these extents: √(height · width) / 224, at most 1.
pub(super) fn factor(height: usize, width: usize) -> f64 {
    ((height as f64 * width as f64).sqrt() / SIDE).min(1.0)
}

//! The middle of an image.

use crate::{DataError, Image};

/// Where the middle part of a side begins. As torchvision, which rounds a half to the even neighbour.
pub(super) fn crop_start(whole: usize, part: usize) -> usize {
    ((whole - part) as f64 / 2.0).round_ties_even() as usize
}

/// The middle part of an image.
pub(super) fn centre_crop(image: &Image, height: usize, width: usize) -> Result<Image, DataError> {
    if height > image.height() || width > image.width() {
        return Err(DataError::CropTooLarge {
            crop_height: height,
            crop_width: width,
            height: image.height(),
            width: image.width(),
        });
    }
    let (top, left) = (
        crop_start(image.height(), height),
        crop_start(image.width(), width),
    );
    Image::from_fn([image.channels(), height, width], |channel, row, column| {
        image
            .get(channel, top + row, left + column)
            .unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Transform;
    use crate::transform::tests::numbered;

    #[test]
    fn crops_the_middle() {
        let crop = Transform::CentreCrop {
            height: 1,
            width: 2,
        };
        // Rows: (3 - 1) / 2 = 1. Columns: (5 - 2) / 2 = 1.5, rounded to the even 2.
        assert_eq!(crop.apply(numbered([1, 3, 5])).unwrap().data(), [7.0, 8.0]);
        assert!(matches!(
            crop.apply(numbered([1, 3, 1])),
            Err(DataError::CropTooLarge { .. })
        ));
        assert!(matches!(
            Transform::CentreCrop {
                height: 0,
                width: 1
            }
            .apply(numbered([1, 3, 5])),
            Err(DataError::ImageSize { .. })
        ));
    }
}

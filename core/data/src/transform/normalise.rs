//! Pixels in the units of a model.

use crate::{DataError, Image};

/// Less a mean and divided by a deviation, one number for each channel or one for all.
pub(super) fn normalise(mut image: Image, mean: &[f32], std: &[f32]) -> Result<Image, DataError> {
    let [channels, height, width] = image.shape();
    for numbers in [mean, std] {
        if numbers.len() != 1 && numbers.len() != channels {
            let expected = numbers.len().to_string();
            return Err(DataError::Channels {
                transform: "normalise",
                expected,
                actual: channels,
            });
        }
    }
    if let Some((channel, std)) = std
        .iter()
        .enumerate()
        .find(|(_, std)| !(std.is_finite() && **std > 0.0))
    {
        return Err(DataError::NormaliseStd { channel, std: *std });
    }
    let of = |numbers: &[f32], channel: usize| {
        if numbers.len() == 1 {
            numbers[0]
        } else {
            numbers[channel]
        }
    };
    for (channel, plane) in image
        .data_mut()
        .chunks_exact_mut(height * width)
        .enumerate()
    {
        let (mean, std) = (of(mean, channel), of(std, channel));
        plane
            .iter_mut()
            .for_each(|value| *value = (*value - mean) / std);
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Transform;
    use crate::transform::tests::numbered;

    #[test]
    fn normalises_each_channel() {
        let step = Transform::Normalise {
            mean: vec![1.0, 2.0],
            std: vec![0.5, 2.0],
        };
        assert_eq!(
            step.apply(numbered([2, 1, 2])).unwrap().data(),
            [-2.0, 0.0, 0.0, 0.5]
        );
        assert!(matches!(
            step.apply(numbered([3, 1, 1])),
            Err(DataError::Channels { actual: 3, .. })
        ));
        let one = Transform::Normalise {
            mean: vec![1.0],
            std: vec![2.0],
        };
        assert_eq!(
            one.apply(numbered([3, 1, 1])).unwrap().data(),
            [-0.5, 0.0, 0.5]
        );
        let zero = Transform::Normalise {
            mean: vec![1.0],
            std: vec![0.0],
        };
        assert!(matches!(
            zero.apply(numbered([1, 1, 1])),
            Err(DataError::NormaliseStd { channel: 0, .. })
        ));
    }
}

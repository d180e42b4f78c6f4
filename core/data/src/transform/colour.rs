//! Random changes of colour, as torchvision's `ColorJitter` makes them.

use crate::Image;

/// What one image is changed by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Jitter {
    /// Factor of all values.
    pub brightness: f32,
    /// Factor of the distance from the image's mean grey.
    pub contrast: f32,
    /// Factor of the distance from each pixel's grey.
    pub saturation: f32,
    /// Turn of the hue: 1 is the whole circle.
    pub hue: f32,
}

impl Jitter {
    /// The image after brightness, contrast, saturation and hue, each held within [0, 1]. The last two need three channels.
    pub fn apply(self, image: &mut Image) {
        let [channels, height, width] = image.shape();
        let pixels = height * width;
        let values = image.data_mut();
        let hold = |value: f32| value.clamp(0.0, 1.0);
        values
            .iter_mut()
            .for_each(|value| *value = hold(*value * self.brightness));
        let mean = match channels {
            3 => (0..pixels).map(|n| grey(values, pixels, n)).sum::<f32>() / pixels as f32,
            _ => values.iter().sum::<f32>() / values.len() as f32,
        };
        values
            .iter_mut()
            .for_each(|value| *value = hold(mean + (*value - mean) * self.contrast));
        if channels != 3 {
            return;
        }
        for n in 0..pixels {
            let grey = grey(values, pixels, n);
            let colour =
                [0, 1, 2].map(|c| hold(grey + (values[c * pixels + n] - grey) * self.saturation));
            for (c, value) in turned(colour, self.hue).into_iter().enumerate() {
                values[c * pixels + n] = value;
            }
        }
    }
}

/// The luma of pixel `n` (ITU-R BT.601).
fn grey(values: &[f32], pixels: usize, n: usize) -> f32 {
    0.299 * values[n] + 0.587 * values[pixels + n] + 0.114 * values[2 * pixels + n]
}

/// A colour whose hue (of the HSV model) is turned.
fn turned([r, g, b]: [f32; 3], turn: f32) -> [f32; 3] {
    let (value, lowest) = (r.max(g).max(b), r.min(g).min(b));
    let chroma = value - lowest;
    if chroma == 0.0 {
        return [r, g, b];
    }
    // Sixths of the circle, from red by green to blue.
    let sixths = if value == r {
        (g - b) / chroma
    } else if value == g {
        2.0 + (b - r) / chroma
    } else {
        4.0 + (r - g) / chroma
    };
    let sixths = sixths + 6.0 * turn;
    // Smith 1978: each channel is the value less a share of the chroma that depends on its distance around the circle.
    [5.0, 3.0, 1.0].map(|offset: f32| {
        let k = (offset + sixths).rem_euclid(6.0);
        value - chroma * k.min(4.0 - k).clamp(0.0, 1.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Jitter = Jitter {
        brightness: 1.0,
        contrast: 1.0,
        saturation: 1.0,
        hue: 0.0,
    };

    fn assert_near(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() < 1e-5, "{found:?}, not {expected:?}");
        }
    }

    fn jittered(jitter: Jitter, values: &[f32]) -> Vec<f32> {
        let mut image = Image::new(3, 1, values.len() / 3, values.to_vec()).unwrap();
        jitter.apply(&mut image);
        image.into_data()
    }

    #[test]
    fn hues_turn_by_hand() {
        let turned = |colour, turn| super::turned(colour, turn);
        // A third of the circle: red to green to blue to red.
        assert_near(&turned([0.8, 0.2, 0.2], 1.0 / 3.0), &[0.2, 0.8, 0.2]);
        assert_near(&turned([0.2, 0.8, 0.2], 1.0 / 3.0), &[0.2, 0.2, 0.8]);
        assert_near(&turned([0.2, 0.2, 0.8], 1.0 / 3.0), &[0.8, 0.2, 0.2]);
        // A sixth: red to yellow. Half: orange (1, 0.5, 0) to azure (0, 0.5, 1).
        assert_near(&turned([0.8, 0.2, 0.2], 1.0 / 6.0), &[0.8, 0.8, 0.2]);
        assert_near(&turned([1.0, 0.5, 0.0], 0.5), &[0.0, 0.5, 1.0]);
        assert_near(&turned([1.0, 0.5, 0.0], -0.5), &[0.0, 0.5, 1.0]);
        assert_near(&turned([0.3, 0.7, 0.4], 1.0), &[0.3, 0.7, 0.4]);
        assert_near(&turned([0.4; 3], 0.3), &[0.4; 3]);
    }

    #[test]
    fn brightness_contrast_and_saturation_by_hand() {
        let values = [0.2, 0.6, 0.2, 0.6, 0.2, 0.6];
        assert_near(&jittered(NONE, &values), &values);
        let brighter = Jitter {
            brightness: 2.0,
            ..NONE
        };
        assert_near(
            &jittered(brighter, &values),
            &[0.4, 1.0, 0.4, 1.0, 0.4, 1.0],
        );
        // The mean grey is 0.4.
        let even = Jitter {
            contrast: 0.5,
            ..NONE
        };
        assert_near(&jittered(even, &values), &[0.3, 0.5, 0.3, 0.5, 0.3, 0.5]);
        // Grey is 0.299 · 1 = 0.299.
        let pale = Jitter {
            saturation: 0.0,
            ..NONE
        };
        assert_near(&jittered(pale, &[1.0, 0.0, 0.0]), &[0.299; 3]);
    }

    #[test]
    fn an_image_of_one_channel_has_no_hue() {
        let mut image = Image::new(1, 1, 2, vec![0.2, 0.6]).unwrap();
        let jitter = Jitter {
            saturation: 0.0,
            hue: 0.5,
            ..NONE
        };
        jitter.apply(&mut image);
        assert_near(image.data(), &[0.2, 0.6]);
    }
}

//! Parity with the fixtures of `tests/reference/corruptions.py`: scipy's filters, Pillow's resize and JPEG.

use dtta_data::{Corruption, Image, Severity, Transform, corrupt};
use safetensors::SafeTensors;

const FIXTURES: &[u8] = include_bytes!("fixtures/corruptions.safetensors");

/// A fixture as an image; a tensor of two axes is a grey one.
fn fixture(name: &str) -> Image {
    let tensors = SafeTensors::deserialize(FIXTURES).expect("the fixtures are whole");
    let view = tensors.tensor(name).expect("the script wrote it");
    let values = view
        .data()
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    let image = match *view.shape() {
        [height, width] => Image::new(1, height, width, values),
        [channels, height, width] => Image::new(channels, height, width, values),
        _ => panic!("`{name}` has neither 2 nor 3 axes"),
    };
    image.expect("a tensor fits its shape")
}

fn distances(left: &Image, right: &Image) -> Vec<f32> {
    assert_eq!(left.shape(), right.shape());
    left.data()
        .iter()
        .zip(right.data())
        .map(|(left, right)| (left - right).abs())
        .collect()
}

fn largest(distances: &[f32]) -> f32 {
    distances.iter().copied().fold(0.0, f32::max)
}

fn mean(distances: &[f32]) -> f32 {
    distances.iter().sum::<f32>() / distances.len() as f32
}

fn severities() -> [Severity; 3] {
    [0, 2, 4].map(|index| Severity::ALL[index])
}

#[test]
fn deterministic_corruptions_match_their_reference() {
    use Corruption::{Brightness, Contrast, Darkness, DefocusBlur, GaussianBlur, Jpeg, Pixelate};
    for corruption in [
        GaussianBlur,
        DefocusBlur,
        Brightness,
        Contrast,
        Darkness,
        Pixelate,
        Jpeg,
    ] {
        for severity in severities() {
            let output = corrupt(&fixture("grey"), corruption, severity, 0, "x");
            let distance = largest(&distances(
                &output,
                &fixture(&format!("{corruption}/{severity}")),
            ));
            assert!(distance < 1e-6, "{corruption}/{severity}: {distance}");
        }
    }
}

#[test]
fn jpeg_is_close_to_a_real_codec() {
    for severity in severities() {
        for (input, codec) in [("grey", "pillow_jpeg"), ("colour", "pillow_jpeg_colour")] {
            let input = fixture(input);
            let output = corrupt(&input, Corruption::Jpeg, severity, 0, "x");
            let expected = fixture(&format!("{codec}/{severity}"));
            // libjpeg computes in integers, so that values differ by about a level, while the loss itself is far larger.
            let distance = mean(&distances(&output, &expected));
            let loss = mean(&distances(&input, &expected));
            assert!(
                distance < 1.0 / 255.0 && distance < loss / 20.0,
                "{codec}/{severity}: {distance}, loss {loss}"
            );
        }
    }
}

#[test]
fn resize_matches_pillow() {
    for (height, width) in [(13, 17), (40, 31), (28, 9)] {
        let output = Transform::Resize { height, width }
            .apply(fixture("grey"))
            .unwrap();
        let distance = largest(&distances(
            &output,
            &fixture(&format!("resize/{height}x{width}")),
        ));
        assert!(distance < 1e-6, "{height}x{width}: {distance}");
    }
}

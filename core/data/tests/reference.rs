//! Parity with the fixtures of `tests/reference/corruptions.py` and `backbones.py`: scipy's filters, Pillow's resize and JPEG.

use dtta_data::{Corruption, Filter, Image, Severity, Transform, corrupt};
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
        let step = Transform::Resize {
            height,
            width,
            filter: Filter::Bilinear,
            as_bytes: false,
        };
        let output = step.apply(fixture("grey")).unwrap();
        let distance = largest(&distances(
            &output,
            &fixture(&format!("resize/{height}x{width}")),
        ));
        assert!(distance < 1e-6, "{height}x{width}: {distance}");
    }
}

/// Pillow's images are bytes; ours are the same bytes over 255, so nothing is lost in comparing them.
#[test]
fn images_of_bytes_are_resized_to_the_bytes_that_pillow_gives() {
    let file = SafeTensors::deserialize(include_bytes!("fixtures/resize.safetensors")).unwrap();
    let image = |name: &str| {
        let view = file.tensor(name).unwrap();
        let [channels, height, width] = view.shape().try_into().unwrap();
        let values = view.data().iter().map(|byte| f32::from(*byte) / 255.0);
        Image::new(channels, height, width, values.collect()).unwrap()
    };
    let mut cases = 0;
    for (name, view) in file.iter().filter(|(name, _)| *name != "image") {
        let filter = match name.split('.').next() {
            Some("bilinear") => Filter::Bilinear,
            _ => Filter::Bicubic,
        };
        let step = Transform::Resize {
            height: view.shape()[1],
            width: view.shape()[2],
            filter,
            as_bytes: true,
        };
        let output = step.apply(image("image")).unwrap();
        assert_eq!(output, image(name), "{name}");
        cases += 1;
    }
    assert_eq!(cases, 10);
}

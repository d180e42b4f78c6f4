//! Parity with Pillow's resize, on the fixtures of `tests/reference/corruptions.py` and `backbones.py`.

use dtta_data::{Filter, Image, Transform};
use safetensors::SafeTensors;

const FIXTURES: &[u8] = include_bytes!("fixtures/resize_floats.safetensors");

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

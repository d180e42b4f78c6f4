//! How a published model's images are prepared, in this library's steps.

use dtta_data::{Filter, Transform};
use dtta_models::{Interpolation, Preprocessing, Resized};

/// The steps from an image in [0, 1] to the input of a model, as the library that published it takes them: resized in bytes as Pillow does,
/// the centre, mean and deviation.
pub(super) fn steps(preprocessing: &Preprocessing) -> Vec<Transform> {
    let [channels, height, width] = preprocessing.image;
    let filter = match preprocessing.interpolation {
        Interpolation::Bilinear => Filter::Bilinear,
        Interpolation::Bicubic => Filter::Bicubic,
    };
    let resize = match preprocessing.resized {
        Resized::Short(side) => Transform::ResizeShort {
            side,
            filter,
            as_bytes: true,
        },
        Resized::To([height, width]) | Resized::Chosen([height, width]) => Transform::Resize {
            height,
            width,
            filter,
            as_bytes: true,
        },
    };
    let colours = match channels {
        1 => Transform::Grayscale {},
        _ => Transform::Rgb {},
    };
    let single = |numbers: [f64; 3]| {
        numbers[..channels.min(3)]
            .iter()
            .map(|&n| n as f32)
            .collect()
    };
    vec![
        colours,
        resize,
        Transform::CentreCrop { height, width },
        Transform::Normalise {
            mean: single(preprocessing.mean),
            std: single(preprocessing.std),
        },
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};

    use dtta_data::{Image, transform};
    use dtta_models::{Models, read_tensors};
    use dtta_tensor::{Device, Tensor};
    use serde_json::{Value, json};

    use super::*;

    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/backbones")
    }

    type Tensors = BTreeMap<String, Tensor>;

    fn image(tensors: &Tensors, name: &str) -> Image {
        let [channels, height, width] = tensors[name].shape()[..] else {
            panic!("{name}");
        };
        Image::new(channels, height, width, tensors[name].to_floats().unwrap()).unwrap()
    }

    /// What the model of a configuration file sees of an image.
    fn seen(document: &Value, input: &Image) -> Image {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.json");
        std::fs::write(&config, document.to_string()).unwrap();
        let preprocessing = Models::standard().preprocessing(&config).unwrap();
        transform(&steps(&preprocessing.unwrap()), input.clone()).unwrap()
    }

    /// The largest distance, in units of what is between a black and a white pixel: 1 / 0.224 at most.
    fn distance(a: &Image, b: &Image) -> f32 {
        assert_eq!(a.shape(), b.shape());
        let pairs = a.data().iter().zip(b.data());
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    /// Bytes are resized to the same bytes, so what remains is rounding of the normalisation: 1e-6.
    #[test]
    fn images_are_seen_as_timm_and_torchvision_show_them() {
        let file = fixtures().join("preprocessing.safetensors");
        let file = read_tensors(&file, &Device::cpu()).unwrap();
        let input = image(&file, "image");
        let cases = std::fs::read_to_string(fixtures().join("preprocessing.json")).unwrap();
        let cases: Value = serde_json::from_str(&cases).unwrap();
        let cases = cases["timm"].as_array().unwrap();
        assert_eq!(cases.len(), 4);
        for (n, case) in cases.iter().enumerate() {
            let document = json!({"architecture": "resnet18", "pretrained_cfg": case});
            let found = seen(&document, &input);
            let distance = distance(&found, &image(&file, &format!("timm.{n}")));
            assert!(distance < 1e-6, "{case}: {distance}");
        }
        for (name, weights) in [
            ("resnet50", "IMAGENET1K_V2"),
            ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1"),
        ] {
            let found = seen(&json!({"torchvision": name, "weights": weights}), &input);
            // The fixture has every ninth row and every seventh column.
            let [channels, height, width] = found.shape();
            let some = [channels, height.div_ceil(9), width.div_ceil(7)];
            let some = Image::from_fn(some, |channel, row, column| {
                found.get(channel, 9 * row, 7 * column).unwrap()
            });
            let expected = image(&file, &format!("torchvision.{name}.{weights}"));
            let distance = distance(&some.unwrap(), &expected);
            assert!(distance < 1e-6, "{name} {weights}: {distance}");
        }
    }

    #[test]
    fn a_grey_image_is_shown_to_a_model_of_colours() {
        let grey = Image::from_fn([1, 40, 60], |_, row, column| {
            ((row + column) % 7) as f32 / 7.0
        });
        let document = json!({"torchvision": "resnet18", "weights": "IMAGENET1K_V1"});
        assert_eq!(seen(&document, &grey.unwrap()).shape(), [3, 224, 224]);
    }
}

//! torchvision's classifiers. Their checkpoints have no configuration: a model file names the builder and the weights,
//! `{"torchvision": "resnet50", "weights": "IMAGENET1K_V2"}`, and the table of how images are prepared for each is torchvision's own
//! (`tests/reference/backbones.py` writes it).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Fields, Interpolation, Names, Preprocessing, Publisher, Resized, Source, Translate, Translation,
};

pub(super) const PUBLISHER: Publisher = Publisher {
    library: "torchvision",
    field: "torchvision",
    translate: |name| structure(name).map(|_| translate as Translate),
    classes: &[
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet152",
        "convnext_tiny",
        "convnext_small",
        "convnext_base",
        "convnext_large",
        "vit_b_16",
        "vit_b_32",
        "vit_l_16",
        "vit_l_32",
        "vit_h_14",
    ],
};

/// The weights that torchvision offers, by the name of the builder.
const WEIGHTS: &str = include_str!("torchvision.json");

/// How images are prepared for one of them.
#[derive(Deserialize)]
struct Weights {
    weights: String,
    crop: usize,
    resize: usize,
    interpolation: Interpolation,
    mean: [f64; 3],
    std: [f64; 3],
    classes: usize,
}

/// What makes the parameter of a name of ours.
type Called = fn(&str) -> Source;

/// The model file of this crate, without image and classes, and what torchvision calls a parameter.
fn structure(name: &str) -> Option<(Value, Called)> {
    let resnet = |block: &str, blocks: [usize; 4]| {
        let document = json!({"kind": "resnet", "block": block, "blocks": blocks});
        Some((document, resnet_name as Called))
    };
    let convnext = |blocks: [usize; 4], width: usize| {
        let widths = [width, 2 * width, 4 * width, 8 * width];
        let document =
            json!({"kind": "convnext", "blocks": blocks, "widths": widths, "scale_as_map": true});
        Some((document, convnext_name as Called))
    };
    let vit = |patch: usize, width: usize, depth: usize, heads: usize| {
        let document = json!({"kind": "vit", "patch_size": patch, "width": width, "depth": depth, "heads": heads});
        Some((document, vit_name as Called))
    };
    match name {
        "resnet18" => resnet("basic", [2, 2, 2, 2]),
        "resnet34" => resnet("basic", [3, 4, 6, 3]),
        "resnet50" => resnet("bottleneck", [3, 4, 6, 3]),
        "resnet101" => resnet("bottleneck", [3, 4, 23, 3]),
        "resnet152" => resnet("bottleneck", [3, 8, 36, 3]),
        "convnext_tiny" => convnext([3, 3, 9, 3], 96),
        "convnext_small" => convnext([3, 3, 27, 3], 96),
        "convnext_base" => convnext([3, 3, 27, 3], 128),
        "convnext_large" => convnext([3, 3, 27, 3], 192),
        "vit_b_16" => vit(16, 768, 12, 12),
        "vit_b_32" => vit(32, 768, 12, 12),
        "vit_l_16" => vit(16, 1024, 24, 16),
        "vit_l_32" => vit(32, 1024, 24, 16),
        "vit_h_14" => vit(14, 1280, 32, 16),
        _ => None,
    }
}

fn translate(fields: &mut Fields) -> Option<Translation> {
    let name: String = fields.take("torchvision", String::new());
    let (mut document, called) = structure(&name)?;
    let chosen: String = fields.find("weights").unwrap_or_default();
    let table: BTreeMap<String, Vec<Weights>> = serde_json::from_str(WEIGHTS).unwrap_or_default();
    let offered = table.get(&name)?;
    let Some(weights) = offered.iter().find(|weights| weights.weights == chosen) else {
        let known = offered
            .iter()
            .map(|weights| format!("`{}`", weights.weights));
        let reason = format!(
            "it says how images are prepared; supported is {}",
            dtta_base::listed(known, 8)
        );
        fields.refuse("weights", &json!(chosen), reason);
        return None;
    };
    let image = [3, weights.crop, weights.crop];
    document["image"] = json!(image);
    document["classes"] = json!(fields.take("num_classes", weights.classes));
    Some(Translation {
        document,
        names: Names {
            source: Box::new(called),
            unused: Box::new(|_| false),
        },
        preprocessing: Some(Preprocessing {
            image,
            interpolation: weights.interpolation,
            resized: Resized::Short(weights.resize),
            mean: weights.mean,
            std: weights.std,
        }),
    })
}

fn resnet_name(name: &str) -> Source {
    Source::Named(name.into())
}

/// A ConvNeXt is a list of stem, stage, halving, stage, … there, each of them a list.
fn convnext_name(name: &str) -> Source {
    let parts: Vec<&str> = name.split('.').collect();
    let place = |stage: &str| 2 * stage.parse::<usize>().unwrap_or_default();
    Source::Named(match parts[..] {
        ["stem", part, value] => format!("features.0.{part}.{value}"),
        ["stages", stage, "downsample", part, value] => {
            format!("features.{}.{part}.{value}", place(stage))
        }
        ["stages", stage, "blocks", block, "gamma"] => {
            format!("features.{}.{block}.layer_scale", place(stage) + 1)
        }
        ["stages", stage, "blocks", block, ref part @ .., value] => {
            let part = match part {
                ["conv_dw"] => "0",
                ["norm"] => "2",
                ["mlp", "fc1"] => "3",
                _ => "5",
            };
            format!("features.{}.{block}.block.{part}.{value}", place(stage) + 1)
        }
        ["head", "norm", value] => format!("classifier.0.{value}"),
        ["head", "fc", value] => format!("classifier.2.{value}"),
        _ => name.to_owned(),
    })
}

fn vit_name(name: &str) -> Source {
    let parts: Vec<&str> = name.split('.').collect();
    Source::Named(match parts[..] {
        ["cls_token"] => "class_token".to_owned(),
        ["pos_embed"] => "encoder.pos_embedding".to_owned(),
        ["patch_embed", "proj", value] => format!("conv_proj.{value}"),
        ["norm", value] => format!("encoder.ln.{value}"),
        ["head", value] => format!("heads.head.{value}"),
        ["blocks", block, ref part @ .., value] => {
            let layer = format!("encoder.layers.encoder_layer_{block}");
            let part = match part {
                // The published files say as the class did before it was made of a list.
                ["mlp", "fc1"] => return either(&layer, ["mlp.0", "mlp.linear_1"], value),
                ["mlp", "fc2"] => return either(&layer, ["mlp.3", "mlp.linear_2"], value),
                ["norm1"] => "ln_1.",
                ["norm2"] => "ln_2.",
                // One parameter each, not a layer.
                ["attn", "qkv"] => "self_attention.in_proj_",
                _ => "self_attention.out_proj.",
            };
            format!("{layer}.{part}{value}")
        }
        _ => name.to_owned(),
    })
}

fn either(layer: &str, parts: [&str; 2], value: &str) -> Source {
    Source::AnyOf(parts.map(|part| format!("{layer}.{part}.{value}")).into())
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use dtta_tensor::{Device, Tensor};

    use super::*;
    use crate::{BatchNormStatistics, Models, read_tensors};

    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/backbones")
    }

    fn assert_close(what: &str, found: &Tensor, expected: &Tensor) {
        assert_eq!(*found.shape(), *expected.shape(), "{what}");
        let (found, expected) = (found.to_floats().unwrap(), expected.to_floats().unwrap());
        let errors = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        let error = errors.fold(0.0f32, f32::max);
        eprintln!("{what}: largest absolute error {error:.1e}");
        assert!(error <= 2e-4, "{what}: largest absolute error {error}");
    }

    /// A small network that torchvision built, under its own names. Tolerance: 2e-4, for gradients too (their largest is 1.9 to 2.4).
    fn check(name: &str, called: fn(&str) -> Source) {
        let config = fixtures().join("ours").join(format!("{name}.json"));
        let device = Device::cpu();
        let backbone = Models::standard().backbone(&config).unwrap();
        let names = Names {
            source: Box::new(called),
            unused: Box::new(|_| false),
        };
        let file = config.with_extension("safetensors");
        let weights = crate::Weights::load_named(&file, backbone.parameters(), &names, &device);
        let weights = weights.unwrap();
        let expected = config.with_extension("expected.safetensors");
        let expected = read_tensors(&expected, &device).unwrap();
        let theirs = |spec: &crate::ParameterSpec| match called(&spec.name) {
            Source::Named(name) => name,
            Source::AnyOf(names) => names[0].clone(),
            other => panic!("{other:?}"),
        };
        let differentiated = |spec: &crate::ParameterSpec| {
            expected.contains_key(&format!("gradient.{}", theirs(spec)))
        };
        let ids = weights.select(differentiated);
        assert_eq!(ids.len(), 4);
        let weights = weights.to_leaves(&ids).unwrap();
        let images = expected["input.images"].to_leaf().unwrap();
        let outputs = backbone
            .forward(&weights, &images, BatchNormStatistics::Running)
            .unwrap();
        let logits = outputs.get("logits").unwrap();
        assert_close(
            "features",
            outputs.get("features").unwrap(),
            &expected["output.features"],
        );
        assert_close("logits", logits, &expected["output.logits"]);
        let loss = logits.mul(&expected["input.cotangent"]).unwrap();
        let gradients = loss.sum(&[], false).unwrap().backward().unwrap();
        let image = gradients.of(&images).unwrap();
        assert_close("images", &image, &expected["gradient.images"]);
        for id in ids {
            let name = theirs(weights.spec(id));
            let found = gradients.of(weights.get(id)).unwrap();
            assert_close(&name, &found, &expected[&format!("gradient.{name}")]);
        }
    }

    #[test]
    fn a_vision_transformer_gives_the_logits_and_gradients_of_torchvision() {
        check("torchvision_vit", vit_name);
    }

    #[test]
    fn a_convnext_gives_the_logits_and_gradients_of_torchvision() {
        check("torchvision_convnext", convnext_name);
    }

    #[test]
    fn the_files_of_vision_transformers_may_say_as_the_class_did_before() {
        assert_eq!(
            vit_name("blocks.3.mlp.fc2.bias"),
            Source::AnyOf(vec![
                "encoder.layers.encoder_layer_3.mlp.3.bias".into(),
                "encoder.layers.encoder_layer_3.mlp.linear_2.bias".into(),
            ])
        );
    }

    #[test]
    fn every_builder_has_the_tensors_that_torchvision_gives_it_and_a_row_for_its_weights() {
        let table = std::fs::read_to_string(fixtures().join("structures.json")).unwrap();
        let table: Value = serde_json::from_str(&table).unwrap();
        let weights: BTreeMap<String, Vec<Weights>> = serde_json::from_str(WEIGHTS).unwrap();
        let expected = table["torchvision"].as_object().unwrap();
        assert_eq!(expected.len(), PUBLISHER.classes.len());
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("model.json");
        for (name, digest) in expected {
            for weights in &weights[name] {
                let document = json!({"torchvision": name, "weights": weights.weights});
                std::fs::write(&config, document.to_string()).unwrap();
                let backbone = Models::standard().backbone(&config).unwrap();
                assert_eq!(backbone.spec().image, [3, weights.crop, weights.crop]);
                let first = &weights.weights;
                // The digest is that of the builder without weights, whose images are of 224.
                if weights.crop != 224 {
                    continue;
                }
                let (_, called) = structure(name).unwrap();
                let lines = backbone.parameters().iter().map(|spec| {
                    let name = match called(&spec.name) {
                        Source::Named(name) => name,
                        Source::AnyOf(names) => names[0].clone(),
                        other => panic!("{other:?}"),
                    };
                    (name.clone(), format!("{name} {:?}\n", spec.shape))
                });
                let lines: BTreeMap<String, String> = lines.collect();
                let lines: String = lines.into_values().collect();
                assert_eq!(
                    dtta_base::sha256(lines.as_bytes()),
                    *digest,
                    "{name} {first}"
                );
            }
        }
    }
}

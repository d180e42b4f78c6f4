//! transformers' `SiglipModel`, whose folder holds a backbone of images and a text encoder. How images are prepared,
//! `preprocessor_config.json` beside the configuration says.

use serde_json::{Value, json};

use super::preprocessor::{Defaults, PREPROCESSOR, preprocessing};
use super::{activation_or, common, side};
use crate::published::{Fields, Interpolation, Names, Translation};

const PROCESSOR: Defaults = Defaults {
    classes: &[
        "SiglipImageProcessor",
        "SiglipImageProcessorFast",
        "SiglipImageProcessorPil",
    ],
    size: Some([224, 224]),
    interpolation: Interpolation::Bicubic,
    normalised: true,
    mean: [0.5; 3],
    std: [0.5; 3],
    keeps_extents: false,
};

/// The backbone in a `SiglipModel`.
pub(super) fn images(fields: &mut Fields) -> Option<Translation> {
    let mut vision = whole(fields, "vision_config");
    let size = side(&mut vision, "image_size", 224);
    let patch = side(&mut vision, "patch_size", 16);
    let mut document = tower(&mut vision, "siglip_vision_model", "siglip_vision");
    let channels = vision.take("num_channels", 3usize);
    vision.fixed("vision_use_head", true);
    fields.join(vision);
    let preprocessing = preprocessing(fields, &PROCESSOR);
    let size = size?;
    document["image"] = json!([channels, size, size]);
    document["patch_size"] = json!(patch?);
    let names = Names {
        // What is added to each logit is the same for all classes, which no softmax sees.
        unused: Box::new(|name| {
            name.starts_with("text_model.") || name == "logit_bias" || is_counter(name)
        }),
        ..Names::same()
    };
    Some(Translation {
        document,
        names,
        preprocessing,
    })
}

/// The text encoder in a `SiglipModel`.
pub(super) fn texts(fields: &mut Fields) -> Option<Translation> {
    let mut text = whole(fields, "text_config");
    let mut document = tower(&mut text, "siglip_text_model", "siglip_text");
    document["vocabulary"] = json!(text.take("vocab_size", 32000usize));
    document["length"] = json!(text.take("max_position_embeddings", 64usize));
    let projection: Option<usize> = text.find("projection_size");
    document["projection"] = projection.map_or(document["width"].clone(), Value::from);
    fields.join(text);
    fields.skip(PREPROCESSOR);
    let names = Names {
        unused: Box::new(|name| {
            name.starts_with("vision_model.") || name.starts_with("logit_") || is_counter(name)
        }),
        ..Names::same()
    };
    Some(Translation {
        document,
        names,
        preprocessing: None,
    })
}

/// The fields of one of the two towers.
fn whole(fields: &mut Fields, tower: &str) -> Fields {
    common(fields, "siglip");
    no_classes(fields);
    for other in ["text_config", "vision_config"] {
        if other != tower {
            fields.skip(other);
        }
    }
    fields.object(tower)
}

/// What both towers say.
fn tower(fields: &mut Fields, model_type: &str, kind: &str) -> Value {
    let document = json!({
        "kind": kind,
        "width": fields.take("hidden_size", 768usize),
        "hidden_width": fields.take("intermediate_size", 3072usize),
        "depth": fields.take("num_hidden_layers", 12usize),
        "heads": fields.take("num_attention_heads", 12usize),
        "activation": activation_or(fields, "gelu_pytorch_tanh"),
        "norm_eps": fields.take("layer_norm_eps", 1e-6),
    });
    common(fields, model_type);
    no_classes(fields);
    // The whole model's says what is built.
    fields.skip("architectures");
    document
}

/// What every configuration may say, of classes that these models do not have.
fn no_classes(fields: &mut Fields) {
    for name in ["id2label", "label2id", "num_labels"] {
        fields.skip(name);
    }
}

/// Older versions kept the numbers of positions, which are no weights.
fn is_counter(name: &str) -> bool {
    name.ends_with("embeddings.position_ids")
}

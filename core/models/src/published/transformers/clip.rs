//! transformers' `CLIPModel`, whose folder holds a backbone of images and a text encoder, and `CLIPTextModel`, the text encoder of Stable
//! Diffusion's pipelines. How images are prepared, `preprocessor_config.json` beside the configuration says.

use serde_json::{Map, Value, json};

use super::common;
use super::preprocessor::PREPROCESSOR;
use crate::layers::Activation;
use crate::published::{Fields, Interpolation, Names, Preprocessing, Resized, Source, Translation};

// --- CLIPModel ------------------------------------------------------------------------------------------------------------------------

/// The backbone in a `CLIPModel`.
pub(super) fn images(fields: &mut Fields) -> Option<Translation> {
    let (mut vision, projection) = whole(fields, "vision_config");
    let document = vision_document(&mut vision, projection);
    fields.join(vision);
    let preprocessing = match fields.find(PREPROCESSOR) {
        Some(Value::Object(processor)) => {
            let mut processor = fields.within(PREPROCESSOR, processor);
            let preprocessing = preprocessing(&mut processor);
            fields.join(processor);
            preprocessing
        }
        other => {
            let reason = "nothing says how images are prepared; put its `preprocessor_config.json` beside it, or write its fields there";
            fields.refuse(PREPROCESSOR, &other.unwrap_or_default(), reason);
            None
        }
    };
    let names = Names {
        unused: Box::new(|name| {
            ["text_model.", "text_projection."]
                .iter()
                .any(|of_text| name.starts_with(of_text))
                || is_counter(name)
        }),
        ..Names::same()
    };
    Some(Translation {
        document,
        names,
        preprocessing,
    })
}

/// The text encoder in a `CLIPModel`.
pub(super) fn texts(fields: &mut Fields) -> Option<Translation> {
    let (mut text, projection) = whole(fields, "text_config");
    let document = text_document(&mut text, Some(projection));
    fields.join(text);
    fields.skip(PREPROCESSOR);
    let names = Names {
        unused: Box::new(|name| {
            ["vision_model.", "visual_projection."]
                .iter()
                .any(|of_images| name.starts_with(of_images))
                || name == "logit_scale"
                || is_counter(name)
        }),
        ..Names::same()
    };
    Some(Translation {
        document,
        names,
        preprocessing: None,
    })
}

/// The fields of one of the two towers, and the width of the space that both project into.
fn whole(fields: &mut Fields, tower: &str) -> (Fields, usize) {
    common(fields, "clip");
    no_classes(fields);
    let projection = fields.take("projection_dim", 512usize);
    // Where training began; the checkpoint has the value.
    fields.skip("logit_scale_init_value");
    fields.skip("eos_token_id");
    for name in ["text_config", "vision_config"] {
        // What the library's first versions wrote beside, whose values hold where there are both.
        let older = format!("{name}_dict");
        if name != tower {
            fields.skip(name);
            fields.skip(&older);
        }
    }
    let older = fields.find::<Map<String, Value>>(&format!("{tower}_dict"));
    let tower = match older {
        Some(older) => {
            fields.skip(tower);
            fields.within(&format!("{tower}_dict"), older)
        }
        None => fields.object(tower),
    };
    (tower, projection)
}

/// Older versions kept the numbers of positions, which are no weights.
fn is_counter(name: &str) -> bool {
    name.ends_with("embeddings.position_ids")
}

// --- CLIPTextModel --------------------------------------------------------------------------------------------------------------------

/// A text encoder by itself.
pub(super) fn text_model(fields: &mut Fields) -> Option<Translation> {
    let classes: Vec<String> = fields.find("architectures").unwrap_or_default();
    let projection = match classes.first().map(String::as_str) {
        Some("CLIPTextModel") | None => None,
        Some("CLIPTextModelWithProjection") => Some(fields.take("projection_dim", 512usize)),
        Some(_) => {
            let reason = "supported are CLIPTextModel and CLIPTextModelWithProjection";
            fields.refuse("architectures", &json!(classes), reason);
            None
        }
    };
    let document = text_document(fields, projection);
    let names = Names {
        // Since its version 5, the library leaves out the first part of the names of `CLIPTextModel`.
        source: Box::new(|name| match name.strip_prefix("text_model.") {
            Some(bare) => Source::AnyOf(vec![name.into(), bare.into()]),
            None => Source::Named(name.into()),
        }),
        unused: Box::new(is_counter),
    };
    Some(Translation {
        document,
        names,
        preprocessing: None,
    })
}

// --- Towers ---------------------------------------------------------------------------------------------------------------------------

fn text_document(fields: &mut Fields, projection: Option<usize>) -> Value {
    // 2 stands for what was wrong in the first configurations: the largest token ends a text, whatever its number.
    let end = fields.take("eos_token_id", 49407usize);
    let mut document = json!({
        "kind": "clip_text",
        "vocabulary": fields.take("vocab_size", 49408usize),
        "length": fields.take("max_position_embeddings", 77usize),
        "width": fields.take("hidden_size", 512usize),
        "hidden_width": fields.take("intermediate_size", 2048usize),
        "depth": fields.take("num_hidden_layers", 12usize),
        "heads": fields.take("num_attention_heads", 8usize),
        "activation": activation(fields),
        "norm_eps": fields.take("layer_norm_eps", 1e-5),
    });
    if end != 2 {
        document["end_token"] = json!(end);
    }
    if let Some(projection) = projection {
        document["projection"] = json!(projection);
    }
    tower_rest(fields, "clip_text_model");
    document
}

fn vision_document(fields: &mut Fields, projection: usize) -> Value {
    let size = fields.take("image_size", 224usize);
    let document = json!({
        "kind": "clip_vision",
        "image": [fields.take("num_channels", 3usize), size, size],
        "patch_size": fields.take("patch_size", 32usize),
        "width": fields.take("hidden_size", 768usize),
        "hidden_width": fields.take("intermediate_size", 3072usize),
        "depth": fields.take("num_hidden_layers", 12usize),
        "heads": fields.take("num_attention_heads", 12usize),
        "projection": projection,
        "activation": activation(fields),
        "norm_eps": fields.take("layer_norm_eps", 1e-5),
    });
    // Of texts, but every configuration may have it.
    fields.skip("eos_token_id");
    tower_rest(fields, "clip_vision_model");
    document
}

fn tower_rest(fields: &mut Fields, model_type: &str) {
    common(fields, model_type);
    no_classes(fields);
    // The whole model's says what is built.
    fields.skip("projection_dim");
    fields.skip("architectures");
}

/// What every configuration may say, of classes that these models do not have.
fn no_classes(fields: &mut Fields) {
    for name in ["id2label", "label2id", "num_labels"] {
        fields.skip(name);
    }
}

fn activation(fields: &mut Fields) -> Activation {
    let name = fields.take("hidden_act", "quick_gelu".to_owned());
    match name.as_str() {
        "quick_gelu" => Activation::QuickGelu,
        "gelu" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        _ => {
            let reason = "supported are quick_gelu, gelu, gelu_new and gelu_pytorch_tanh";
            fields.refuse("hidden_act", &json!(name), reason);
            Activation::QuickGelu
        }
    }
}

// --- CLIPImageProcessor ---------------------------------------------------------------------------------------------------------------

/// How `CLIPImageProcessor` prepares images. Its crop of an odd difference begins a pixel above or left of torchvision's, which OpenAI's own
/// code takes, and which is taken here.
fn preprocessing(fields: &mut Fields) -> Option<Preprocessing> {
    for name in [
        "image_processor_type",
        "feature_extractor_type",
        "processor_class",
        "do_convert_rgb",
        "input_data_format",
        "data_format",
        "return_tensors",
        "device",
        "disable_grouping",
    ] {
        fields.skip(name);
    }
    for name in ["do_resize", "do_center_crop", "do_rescale", "do_normalize"] {
        fields.fixed(name, true);
    }
    fields.fixed("do_pad", Value::Null);
    fields.fixed("pad_size", Value::Null);
    fields.fixed("use_square_size", false);
    let factor = fields.take("rescale_factor", 1.0 / 255.0);
    if (factor * 255.0 - 1.0_f64).abs() > 1e-9 {
        fields.refuse("rescale_factor", &json!(factor), "supported is 1 / 255");
    }
    let interpolation = match fields.take("resample", 3usize) {
        2 => Interpolation::Bilinear,
        3 => Interpolation::Bicubic,
        other => {
            let reason = "supported are 2, bilinear, and 3, bicubic";
            fields.refuse("resample", &json!(other), reason);
            return None;
        }
    };
    let size = fields.find("size").unwrap_or(json!({"shortest_edge": 224}));
    let extent = |value: &Value, name: &str| value.get(name).and_then(Value::as_u64);
    let count = |number: u64| usize::try_from(number).ok().filter(|&extent| extent > 0);
    let resized = match (&size, extent(&size, "shortest_edge")) {
        (Value::Number(number), _) => number.as_u64().and_then(count).map(Resized::Short),
        (Value::Object(sides), Some(side)) if sides.len() == 1 => count(side).map(Resized::Short),
        (Value::Object(sides), None) if sides.len() == 2 => {
            match [extent(&size, "height"), extent(&size, "width")] {
                [Some(height), Some(width)] => match [count(height), count(width)] {
                    [Some(height), Some(width)] => Some(Resized::To([height, width])),
                    _ => None,
                },
                _ => None,
            }
        }
        _ => None,
    };
    let crop = fields.find("crop_size").unwrap_or(json!(224));
    let cropped = match &crop {
        Value::Number(number) => number.as_u64().and_then(count).map(|side| [side; 2]),
        _ => match [extent(&crop, "height"), extent(&crop, "width")] {
            [Some(height), Some(width)] => match [count(height), count(width)] {
                [Some(height), Some(width)] => Some([height, width]),
                _ => None,
            },
            _ => None,
        },
    };
    let mean = fields
        .find("image_mean")
        .unwrap_or([0.481_454_66, 0.457_827_5, 0.408_210_73]);
    let std = fields
        .find("image_std")
        .unwrap_or([0.268_629_54, 0.261_302_58, 0.275_777_11]);
    if std.iter().any(|&std| std <= 0.0) {
        fields.refuse("image_std", &json!(std), "supported are numbers above 0");
    }
    let (Some(resized), Some([height, width])) = (resized, cropped) else {
        let reason = "supported are a number of pixels, `shortest_edge`, or `height` and `width`";
        for (name, value, known) in [
            ("size", &size, resized.is_some()),
            ("crop_size", &crop, cropped.is_some()),
        ] {
            if !known {
                fields.refuse(name, value, reason);
            }
        }
        return None;
    };
    let [tall, wide] = match resized {
        Resized::Short(side) => [side; 2],
        Resized::To(sides) | Resized::Chosen(sides) => sides,
    };
    if height > tall || width > wide {
        let reason = format!("supported is at most what images are resized to, {tall} by {wide}");
        fields.refuse("crop_size", &crop, reason);
    }
    Some(Preprocessing {
        image: [3, height, width],
        interpolation,
        resized,
        mean,
        std,
    })
}

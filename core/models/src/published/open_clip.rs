//! CLIP as OpenCLIP saves it: `open_clip_config.json` and weights under OpenAI's names, with queries, keys and values in one matrix and
//! projections that multiply from the right. Defaults are those of the library's classes.

use serde_json::{Map, Value, json};

use super::{
    Fields, Interpolation, Names, Preprocessing, Publisher, Resized, Source, Translate,
    Translation, View,
};

pub(super) const PUBLISHER: Publisher = Publisher {
    library: "OpenCLIP",
    field: CLASS,
    translate: |class| (class == CLIP).then_some(images as Translate),
    classes: &[CLIP],
};

/// The field that says what is built, which the library reads off the others.
const CLASS: &str = "open_clip";
const CLIP: &str = "CLIP";
/// The field of the model, by which a configuration is known.
const MODEL: &str = "model_cfg";
const PREPROCESSING: &str = "preprocess_cfg";

/// Says what the library builds of a configuration, if it is one of OpenCLIP's.
pub(crate) fn with_class(fields: &mut Map<String, Value>) {
    if fields.contains_key(MODEL) && !fields.contains_key("kind") {
        fields.entry(CLASS).or_insert(json!(CLIP));
    }
}

/// The translation of the text encoder.
pub(super) fn text_translation(class: &str) -> Option<Translate> {
    (class == CLIP).then_some(texts as Translate)
}

/// The backbone.
fn images(fields: &mut Fields) -> Option<Translation> {
    let mut model = fields.object(MODEL);
    let whole = whole(&mut model);
    let mut vision = model.object("vision_cfg");
    model.skip("text_cfg");
    let tower = tower(&mut vision, 768);
    let size = extents(&mut vision, "image_size", [224; 2]);
    let head = vision.take("head_width", 64usize);
    if head == 0 || !tower.width.is_multiple_of(head) {
        let reason = format!("supported is a divisor of the width {}", tower.width);
        vision.refuse("head_width", &json!(head), reason);
    }
    let document = json!({
        "kind": "clip_vision",
        "image": [3, size[0], size[1]],
        "patch_size": vision.take("patch_size", 16usize),
        "width": tower.width,
        "hidden_width": tower.hidden_width,
        "depth": tower.depth,
        "heads": tower.width / head.max(1),
        "projection": whole.projection,
        "activation": whole.activation,
    });
    for (name, supported) in [
        ("attentional_pool", json!(false)),
        ("no_ln_pre", json!(false)),
        ("pos_embed_type", json!("learnable")),
        ("final_ln_after_pool", json!(false)),
        ("pool_type", json!("tok")),
        ("timm_model_name", Value::Null),
    ] {
        vision.fixed(name, supported);
    }
    for name in [
        // Of training.
        "patch_dropout",
        "timm_drop",
        "timm_drop_path",
        // Of what is refused.
        "attn_pooler_queries",
        "attn_pooler_heads",
        "timm_model_pretrained",
        "timm_pool",
        "timm_proj",
        "timm_proj_bias",
        // Of what is answered besides.
        "output_tokens",
    ] {
        vision.skip(name);
    }
    model.join(vision);
    fields.join(model);
    let mut preprocessing = fields.object(PREPROCESSING);
    let prepared = prepared(&mut preprocessing, size);
    fields.join(preprocessing);
    Some(Translation {
        document,
        names: Names {
            source: Box::new(of_images),
            unused: Box::new(|name| !name.starts_with("visual.") && of_texts_alone(name)),
        },
        preprocessing: prepared,
    })
}

/// The text encoder.
fn texts(fields: &mut Fields) -> Option<Translation> {
    let mut model = fields.object(MODEL);
    let whole = whole(&mut model);
    let mut text = model.object("text_cfg");
    model.skip("vision_cfg");
    let tower = tower(&mut text, 512);
    let document = json!({
        "kind": "clip_text",
        "vocabulary": text.take("vocab_size", 49408usize),
        "length": text.take("context_length", 77usize),
        "width": tower.width,
        "hidden_width": tower.hidden_width,
        "depth": tower.depth,
        "heads": text.take("heads", 8usize),
        "projection": whole.projection,
        "activation": whole.activation,
    });
    for (name, supported) in [
        ("embed_cls", json!(false)),
        ("no_causal_mask", json!(false)),
        ("final_ln_after_pool", json!(false)),
        // The largest token ends a text.
        ("pool_type", json!("argmax")),
        ("proj_bias", json!(false)),
        ("proj_type", json!("linear")),
        ("hf_model_name", Value::Null),
        // Texts are tokenised as the files beside say.
        ("hf_tokenizer_name", Value::Null),
        ("tokenizer_kwargs", Value::Null),
        ("tokenizer_mode", Value::Null),
    ] {
        text.fixed(name, supported);
    }
    for name in [
        // What fills texts up, which nobody before it sees.
        "pad_id",
        // Of what is refused.
        "eos_id",
        "hf_model_pretrained",
        "hf_proj_type",
        "hf_pooler_type",
        // Of what is answered besides.
        "output_tokens",
    ] {
        text.skip(name);
    }
    model.join(text);
    fields.join(model);
    fields.skip(PREPROCESSING);
    Some(Translation {
        document,
        names: Names {
            source: Box::new(of_texts),
            unused: Box::new(|name| {
                name.starts_with("visual.") || ["logit_scale", "attn_mask"].contains(&name)
            }),
        },
        preprocessing: None,
    })
}

// --- What both have -------------------------------------------------------------------------------------------------------------------

struct Whole {
    projection: Option<usize>,
    activation: &'static str,
}

fn whole(model: &mut Fields) -> Whole {
    let projection = model.find("embed_dim");
    if projection.is_none() {
        let reason = "supported is the width of the space that images and texts share";
        model.refuse("embed_dim", &Value::Null, reason);
    }
    let quick = model.take("quick_gelu", false);
    for (name, supported) in [
        ("custom_text", json!(false)),
        ("init_logit_bias", Value::Null),
        ("nonscalar_logit_scale", json!(false)),
    ] {
        model.fixed(name, supported);
    }
    // Where training began, and precision.
    model.skip("init_logit_scale");
    model.skip("cast_dtype");
    model.skip("output_dict");
    Whole {
        projection,
        activation: if quick { "quick_gelu" } else { "gelu" },
    }
}

struct Tower {
    width: usize,
    hidden_width: usize,
    depth: usize,
}

fn tower(fields: &mut Fields, width: usize) -> Tower {
    let width = fields.take("width", width);
    let ratio: f64 = fields.take("mlp_ratio", 4.0);
    for name in ["ls_init_value", "act_kwargs", "norm_kwargs"] {
        fields.fixed(name, Value::Null);
    }
    let block: Option<String> = fields.find("block_type");
    if let Some(block) = block.filter(|block| block != "default") {
        fields.refuse("block_type", &json!(block), "supported is default");
    }
    for name in [
        "qk_norm",
        "scaled_cosine_attn",
        "scale_heads",
        "scale_attn_inner",
        "scale_attn",
        "scale_fc",
    ] {
        fields.fixed(name, false);
    }
    Tower {
        width,
        // As `int` does.
        hidden_width: (width as f64 * ratio) as usize,
        depth: fields.take("layers", 12usize),
    }
}

/// Height and width, or a number for both.
fn extents(fields: &mut Fields, name: &str, default: [usize; 2]) -> [usize; 2] {
    let value: Value = fields.find(name).unwrap_or(json!(default));
    let both = match &value {
        Value::Array(sides) => sides.iter().map(Value::as_u64).collect::<Option<Vec<_>>>(),
        side => side.as_u64().map(|side| vec![side; 2]),
    };
    match both.as_deref() {
        Some(&[height, width]) if height > 0 && width > 0 => [height as usize, width as usize],
        _ => {
            let reason = "supported is a number above 0, or one for height and one for width";
            fields.refuse(name, &value, reason);
            default
        }
    }
}

/// How the library prepares images for evaluation (`image_transform`).
fn prepared(fields: &mut Fields, size: [usize; 2]) -> Option<Preprocessing> {
    fields.fixed("mode", "RGB");
    // Of pixels around an image, which the modes that are supported do not make.
    fields.skip("fill_color");
    let own = extents(fields, "size", size);
    if own != size {
        let reason = format!("the model takes images of {size:?}");
        fields.refuse("size", &json!(own), reason);
    }
    let interpolation = match fields.take("interpolation", "bicubic".to_owned()).as_str() {
        "bicubic" => Interpolation::Bicubic,
        "bilinear" => Interpolation::Bilinear,
        other => {
            let reason = "supported are bicubic and bilinear";
            fields.refuse("interpolation", &json!(other), reason);
            return None;
        }
    };
    let mode: String = fields.take("resize_mode", "shortest".to_owned());
    let resized = match mode.as_str() {
        "shortest" if size[0] == size[1] => Resized::Short(size[0]),
        "squash" => Resized::To(size),
        _ => {
            let reason = "supported are squash, and shortest for square images";
            fields.refuse("resize_mode", &json!(mode), reason);
            return None;
        }
    };
    let mean = fields.take("mean", [0.481_454_66, 0.457_827_5, 0.408_210_73]);
    let std = fields.take("std", [0.268_629_54, 0.261_302_58, 0.275_777_11]);
    if std.iter().any(|&std| std <= 0.0) {
        fields.refuse("std", &json!(std), "supported are numbers above 0");
    }
    Some(Preprocessing {
        image: [3, size[0], size[1]],
        interpolation,
        resized,
        mean,
        std,
    })
}

// --- Names ----------------------------------------------------------------------------------------------------------------------------

/// Whether a tensor is of the text encoder.
fn of_texts_alone(name: &str) -> bool {
    ["transformer.", "token_embedding.", "ln_final."]
        .iter()
        .any(|part| name.starts_with(part))
        || ["positional_embedding", "text_projection", "attn_mask"].contains(&name)
}

fn of_images(name: &str) -> Source {
    let Some(rest) = name.strip_prefix("vision_model.") else {
        return match name {
            "visual_projection.weight" => Source::Viewed("visual.proj".into(), View::Transposed),
            _ => Source::Named(name.into()),
        };
    };
    if let Some(layer) = rest.strip_prefix("encoder.layers.") {
        return of_layer("visual.transformer", layer);
    }
    let (layer, value) = rest.rsplit_once('.').unwrap_or((rest, ""));
    Source::Named(match (layer, value) {
        ("embeddings", _) => "visual.class_embedding".into(),
        ("embeddings.patch_embedding", _) => "visual.conv1.weight".into(),
        ("embeddings.position_embedding", _) => "visual.positional_embedding".into(),
        ("pre_layrnorm", value) => format!("visual.ln_pre.{value}"),
        (_, value) => format!("visual.ln_post.{value}"),
    })
}

fn of_texts(name: &str) -> Source {
    let Some(rest) = name.strip_prefix("text_model.") else {
        return Source::Viewed("text_projection".into(), View::Transposed);
    };
    if let Some(layer) = rest.strip_prefix("encoder.layers.") {
        return of_layer("transformer", layer);
    }
    Source::Named(match rest {
        "embeddings.token_embedding.weight" => "token_embedding.weight".into(),
        "embeddings.position_embedding.weight" => "positional_embedding".into(),
        _ => rest.replace("final_layer_norm.", "ln_final."),
    })
}

/// What a parameter of a layer is called, such as `0.self_attn.q_proj.weight`.
fn of_layer(tower: &str, name: &str) -> Source {
    let (number, part) = name.split_once('.').unwrap_or((name, ""));
    let (layer, value) = part.rsplit_once('.').unwrap_or((part, ""));
    let block = format!("{tower}.resblocks.{number}");
    let parts = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
    if let Some(number) = parts.iter().position(|part| *part == layer) {
        let all = format!("{block}.attn.in_proj_{value}");
        return Source::Viewed(all, View::Rows { number, of: 3 });
    }
    let theirs = match layer {
        "layer_norm1" => "ln_1",
        "layer_norm2" => "ln_2",
        "self_attn.out_proj" => "attn.out_proj",
        "mlp.fc1" => "mlp.c_fc",
        _ => "mlp.c_proj",
    };
    Source::Named(format!("{block}.{theirs}.{value}"))
}

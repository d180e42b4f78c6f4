//! timm's `config.json`, as `save_for_hf` writes it and the Hugging Face hub has it: the architecture's name, the arguments that its class
//! was made with, and in `pretrained_cfg` how images are prepared.

use serde_json::{Value, json};

use super::{
    Fields, Interpolation, Names, Preprocessing, Publisher, Resized, Translate, Translation,
};

pub(super) const PUBLISHER: Publisher = Publisher {
    library: "timm",
    field: "architecture",
    translate: find,
    classes: &NAMES,
};

/// What timm calls architectures, and what they are made of (its functions of these names).
const ARCHITECTURES: &[(&str, Structure)] = &[
    ("resnet18", resnet("basic", [2, 2, 2, 2])),
    ("resnet26", resnet("bottleneck", [2, 2, 2, 2])),
    ("resnet34", resnet("basic", [3, 4, 6, 3])),
    ("resnet50", resnet("bottleneck", [3, 4, 6, 3])),
    ("resnet50_gn", GROUPED),
    ("resnet101", resnet("bottleneck", [3, 4, 23, 3])),
    ("resnet152", resnet("bottleneck", [3, 8, 36, 3])),
    ("convnext_atto", windowed([2, 2, 6, 2], 40)),
    ("convnext_femto", windowed([2, 2, 6, 2], 48)),
    ("convnext_pico", windowed([2, 2, 6, 2], 64)),
    ("convnext_nano", windowed([2, 2, 8, 2], 80)),
    ("convnext_tiny", convnext([3, 3, 9, 3], 96)),
    ("convnext_tiny_hnf", NORM_FIRST),
    ("convnext_small", convnext([3, 3, 27, 3], 96)),
    ("convnext_base", convnext([3, 3, 27, 3], 128)),
    ("convnext_large", convnext([3, 3, 27, 3], 192)),
    ("convnext_large_mlp", HIDDEN),
    ("convnext_xlarge", convnext([3, 3, 27, 3], 256)),
    ("convnext_xxlarge", XXLARGE),
    (
        "test_convnext",
        test([1, 2, 4, 2], [24, 32, 48, 64], "gelu_tanh", [7; 4]),
    ),
    (
        "test_convnext2",
        test([1; 4], [32, 64, 96, 128], "gelu_tanh", [7; 4]),
    ),
    (
        "test_convnext3",
        test([1; 4], [32, 64, 96, 128], "silu", [7, 5, 5, 3]),
    ),
    ("vit_tiny_patch16_224", vit(16, 192, 12, 3)),
    ("vit_tiny_patch16_384", vit(16, 192, 12, 3)),
    ("vit_small_patch8_224", vit(8, 384, 12, 6)),
    ("vit_small_patch16_224", vit(16, 384, 12, 6)),
    ("vit_small_patch16_384", vit(16, 384, 12, 6)),
    ("vit_small_patch32_224", vit(32, 384, 12, 6)),
    ("vit_small_patch32_384", vit(32, 384, 12, 6)),
    ("vit_base_patch8_224", vit(8, 768, 12, 12)),
    ("vit_base_patch16_224", vit(16, 768, 12, 12)),
    ("vit_base_patch16_384", vit(16, 768, 12, 12)),
    ("vit_base_patch32_224", vit(32, 768, 12, 12)),
    ("vit_base_patch32_384", vit(32, 768, 12, 12)),
    ("vit_large_patch14_224", vit(14, 1024, 24, 16)),
    ("vit_large_patch16_224", vit(16, 1024, 24, 16)),
    ("vit_large_patch16_384", vit(16, 1024, 24, 16)),
    ("vit_large_patch32_224", vit(32, 1024, 24, 16)),
    ("vit_large_patch32_384", vit(32, 1024, 24, 16)),
    ("vit_huge_patch14_224", vit(14, 1280, 32, 16)),
    ("deit_tiny_patch16_224", vit(16, 192, 12, 3)),
    ("deit_small_patch16_224", vit(16, 384, 12, 6)),
    ("deit_base_patch16_224", vit(16, 768, 12, 12)),
    ("deit_base_patch16_384", vit(16, 768, 12, 12)),
    ("deit3_small_patch16_224", deit3(16, 384, 12, 6)),
    ("deit3_small_patch16_384", deit3(16, 384, 12, 6)),
    ("deit3_medium_patch16_224", deit3(16, 512, 12, 8)),
    ("deit3_base_patch16_224", deit3(16, 768, 12, 12)),
    ("deit3_base_patch16_384", deit3(16, 768, 12, 12)),
    ("deit3_large_patch16_224", deit3(16, 1024, 24, 16)),
    ("deit3_large_patch16_384", deit3(16, 1024, 24, 16)),
    ("deit3_huge_patch14_224", deit3(14, 1280, 32, 16)),
    ("efficientnet_lite0", lite(1.0, 1.0, false)),
    ("efficientnet_lite1", lite(1.0, 1.1, false)),
    ("efficientnet_lite2", lite(1.1, 1.2, false)),
    ("efficientnet_lite3", lite(1.2, 1.4, false)),
    ("efficientnet_lite4", lite(1.4, 1.8, false)),
    ("tf_efficientnet_lite0", lite(1.0, 1.0, true)),
    ("tf_efficientnet_lite1", lite(1.0, 1.1, true)),
    ("tf_efficientnet_lite2", lite(1.1, 1.2, true)),
    ("tf_efficientnet_lite3", lite(1.2, 1.4, true)),
    ("tf_efficientnet_lite4", lite(1.4, 1.8, true)),
];

/// Their names alone.
const NAMES: [&str; ARCHITECTURES.len()] = {
    let mut names = [""; ARCHITECTURES.len()];
    let mut n = 0;
    while n < names.len() {
        names[n] = ARCHITECTURES[n].0;
        n += 1;
    }
    names
};

/// What an architecture's arguments are by default.
#[derive(Clone, Copy)]
enum Structure {
    ResNet {
        block: &'static str,
        blocks: [usize; 4],
        grouped: bool,
    },
    ConvNext(ConvNext),
    Vit {
        patch: usize,
        width: usize,
        depth: usize,
        heads: usize,
        /// The third DeiT: no position of the class token, and LayerScale.
        third: bool,
    },
    Lite {
        width: f64,
        depth: f64,
        /// Of TensorFlow: its padding, its epsilon.
        tensorflow: bool,
    },
}

#[derive(Clone, Copy)]
struct ConvNext {
    blocks: [usize; 4],
    widths: [usize; 4],
    windows: [usize; 4],
    conv_mlp: bool,
    head_norm_first: bool,
    hidden: Option<usize>,
    epsilon: f64,
    activation: &'static str,
}

const fn resnet(block: &'static str, blocks: [usize; 4]) -> Structure {
    Structure::ResNet {
        block,
        blocks,
        grouped: false,
    }
}

const GROUPED: Structure = Structure::ResNet {
    block: "bottleneck",
    blocks: [3, 4, 6, 3],
    grouped: true,
};

/// Widths double from stage to stage.
const fn plain(blocks: [usize; 4], width: usize) -> ConvNext {
    ConvNext {
        blocks,
        widths: [width, 2 * width, 4 * width, 8 * width],
        windows: [7; 4],
        conv_mlp: false,
        head_norm_first: false,
        hidden: None,
        epsilon: 1e-6,
        activation: "gelu",
    }
}

const fn convnext(blocks: [usize; 4], width: usize) -> Structure {
    Structure::ConvNext(plain(blocks, width))
}

const fn windowed(blocks: [usize; 4], width: usize) -> Structure {
    Structure::ConvNext(ConvNext {
        conv_mlp: true,
        ..plain(blocks, width)
    })
}

const NORM_FIRST: Structure = Structure::ConvNext(ConvNext {
    conv_mlp: true,
    head_norm_first: true,
    ..plain([3, 3, 9, 3], 96)
});

const HIDDEN: Structure = Structure::ConvNext(ConvNext {
    hidden: Some(1536),
    ..plain([3, 3, 27, 3], 192)
});

const XXLARGE: Structure = Structure::ConvNext(ConvNext {
    epsilon: 1e-5,
    ..plain([3, 4, 30, 3], 384)
});

const fn test(
    blocks: [usize; 4],
    widths: [usize; 4],
    activation: &'static str,
    windows: [usize; 4],
) -> Structure {
    Structure::ConvNext(ConvNext {
        widths,
        windows,
        activation,
        epsilon: 1e-5,
        ..plain(blocks, 0)
    })
}

const fn vit(patch: usize, width: usize, depth: usize, heads: usize) -> Structure {
    Structure::Vit {
        patch,
        width,
        depth,
        heads,
        third: false,
    }
}

const fn deit3(patch: usize, width: usize, depth: usize, heads: usize) -> Structure {
    Structure::Vit {
        patch,
        width,
        depth,
        heads,
        third: true,
    }
}

const fn lite(width: f64, depth: f64, tensorflow: bool) -> Structure {
    Structure::Lite {
        width,
        depth,
        tensorflow,
    }
}

/// The structure of a name, which a tag may follow as in `resnet50.a1_in1k`.
fn structure(name: &str) -> Option<Structure> {
    let name = name.split('.').next().unwrap_or_default();
    let row = ARCHITECTURES.iter().find(|(known, _)| *known == name)?;
    Some(row.1)
}

fn find(name: &str) -> Option<Translate> {
    if name.starts_with("deit") && name.contains("distilled") {
        return Some(refuse_distilled);
    }
    structure(name).map(|_| translate as Translate)
}

fn refuse_distilled(fields: &mut Fields) -> Option<Translation> {
    let name: Value = fields.take("architecture", Value::Null);
    fields.refuse(
        "architecture",
        &name,
        "it has a second head, `head_dist`, trained by distillation, and answers with the mean of both; there is one without, such as \
         deit_base_patch16_224",
    );
    None
}

fn translate(fields: &mut Fields) -> Option<Translation> {
    let structure = structure(&fields.take("architecture", String::new()))?;
    // What the library calls informational: it follows from the architecture.
    fields.skip("num_features");
    // What the classes are called.
    for name in ["label_names", "label_descriptions"] {
        fields.skip(name);
    }
    let mut pretrained = match fields.find("pretrained_cfg") {
        Some(Value::Object(cfg)) => fields.within("pretrained_cfg", cfg),
        other => {
            let reason = "it says how images are prepared; supported is an object";
            fields.refuse("pretrained_cfg", &other.unwrap_or_default(), reason);
            return None;
        }
    };
    let mut arguments = fields.object("model_args");
    arguments.only("in_chans", json!(3), json!(3));
    let stated = [
        fields.find::<usize>("num_classes"),
        arguments.find("num_classes"),
    ];
    // Of the weights that training began with, where the file says something else: the library puts the file's own in its place.
    let begun_with = pretrained.find("num_classes");
    let pooled = arguments.find::<String>("global_pool");
    // What makes no difference once a model is trained: dropped features and blocks, and where memory is.
    for name in [
        "drop_rate",
        "drop_path_rate",
        "drop_block_rate",
        "pos_drop_rate",
        "patch_drop_rate",
        "proj_drop_rate",
        "attn_drop_rate",
        "device",
    ] {
        arguments.skip(name);
    }
    arguments.fixed("dtype", Value::Null);
    let preprocessing = preprocessing(&mut pretrained);
    fields.join(pretrained);

    let stated: Vec<usize> = stated.into_iter().flatten().collect();
    let count = stated.first().copied().or(begun_with).unwrap_or(1000);
    if count == 0 {
        fields.refuse(
            "num_classes",
            &json!(0),
            "it has no classifier; supported is 1 or more",
        );
    }
    if let Some(other) = stated.iter().find(|&&other| other != count) {
        let reason = format!("another place of the file says {other}");
        fields.refuse("num_classes", &json!(count), reason);
    }
    let document = structure.document(
        &mut arguments,
        preprocessing.as_ref()?.image,
        count,
        &pooled,
    );
    fields.join(arguments);
    // The library's note on what was built.
    let pool = pooled.unwrap_or_else(|| structure.pool().into());
    fields.only("global_pool", json!(pool), json!(pool));
    Some(Translation {
        document,
        names: Names::same(),
        preprocessing,
    })
}

/// What `pretrained_cfg` says of images. The library's evaluation takes `input_size` and `crop_pct` unless it is told to take those of
/// `test_…`.
fn preprocessing(fields: &mut Fields) -> Option<Preprocessing> {
    // Where the weights came from, who made them, and what the layers are called that another number of classes or channels changes; the
    // extents of the last map, which follow from the image's; and whether the weights came in another format than these.
    for name in [
        "url",
        "file",
        "hf_hub_id",
        "hf_hub_filename",
        "source",
        "architecture",
        "tag",
        "custom_load",
        "test_input_size",
        "min_input_size",
        "fixed_input_size",
        "test_crop_pct",
        "label_names",
        "label_descriptions",
        "pool_size",
        "test_pool_size",
        "first_conv",
        "classifier",
        "license",
        "description",
        "origin_url",
        "paper_name",
        "paper_ids",
        "notes",
    ] {
        fields.skip(name);
    }
    fields.fixed("state_dict", Value::Null);
    // Classes that the library leaves out when it loads the weights.
    fields.fixed("label_offset", Value::Null);
    let image: [usize; 3] = fields.find("input_size").unwrap_or([3, 224, 224]);
    if image[0] != 3 || image[1..].contains(&0) {
        fields.refuse(
            "input_size",
            &json!(image),
            "supported are images of three channels",
        );
        return None;
    }
    let interpolation = match fields.find::<String>("interpolation").as_deref() {
        None | Some("bicubic") => Interpolation::Bicubic,
        Some("bilinear") => Interpolation::Bilinear,
        Some(other) => {
            fields.refuse(
                "interpolation",
                &json!(other),
                "supported are bicubic and bilinear",
            );
            return None;
        }
    };
    let fraction = fields
        .find("crop_pct")
        .filter(|&fraction: &f64| fraction != 0.0)
        .unwrap_or(0.875);
    if !(fraction > 0.0 && fraction <= 1.0) {
        fields.refuse(
            "crop_pct",
            &json!(fraction),
            "supported is a part of the image, above 0 and at most 1",
        );
        return None;
    }
    let [_, height, width] = image;
    // As the library: in double precision, rounded down.
    let [tall, wide] = [height, width].map(|extent| (extent as f64 / fraction).floor() as usize);
    let mode = fields
        .find::<String>("crop_mode")
        .unwrap_or_else(|| "center".into());
    let resized = match mode.as_str() {
        "squash" => Resized::To([tall, wide]),
        "center" if height == width => Resized::Short(tall),
        "center" => {
            let reason =
                format!("supported is squash where the input is not square, {height} by {width}");
            fields.refuse("crop_mode", &json!(mode), reason);
            return None;
        }
        _ => {
            fields.refuse("crop_mode", &json!(mode), "supported are center and squash");
            return None;
        }
    };
    let mean = fields.find("mean").unwrap_or([0.485, 0.456, 0.406]);
    let std = fields.find("std").unwrap_or([0.229, 0.224, 0.225]);
    if std.iter().any(|&std| std <= 0.0) {
        fields.refuse("std", &json!(std), "supported are numbers above 0");
    }
    Some(Preprocessing {
        image,
        interpolation,
        resized,
        mean,
        std,
    })
}

impl Structure {
    /// What the library takes of the last map or the tokens, unless it is told otherwise.
    fn pool(self) -> &'static str {
        match self {
            Self::Vit { .. } => "token",
            _ => "avg",
        }
    }

    /// The model file of this crate.
    fn document(
        self,
        arguments: &mut Fields,
        image: [usize; 3],
        classes: usize,
        pooled: &Option<String>,
    ) -> Value {
        let mut document = match self {
            Self::ResNet {
                block,
                blocks,
                grouped,
            } => residual(arguments, block, blocks, grouped),
            Self::ConvNext(defaults) => defaults.document(arguments),
            Self::Vit {
                patch,
                width,
                depth,
                heads,
                third,
            } => {
                let pool = pooled.as_deref().unwrap_or("token");
                transformer(arguments, image, pool, [patch, width, depth, heads], third)
            }
            Self::Lite {
                width,
                depth,
                tensorflow,
            } => efficient(arguments, [width, depth], tensorflow),
        };
        if let (false, Some(pool)) = (matches!(self, Self::Vit { .. }), pooled)
            && pool != "avg"
        {
            arguments.refuse("global_pool", &json!(pool), "supported is \"avg\"");
        }
        document["image"] = json!(image);
        document["classes"] = json!(classes);
        document
    }
}

/// A field that may have one of some values, each with what it means here; null and absence mean `default`.
fn one_of<T: Copy>(fields: &mut Fields, name: &str, values: &[(&str, T)], default: T) -> T {
    let Some(value) = fields.find::<Value>(name) else {
        return default;
    };
    let found = values.iter().find(|(known, _)| value == *known);
    if let Some((_, meaning)) = found {
        return *meaning;
    }
    let known = values.iter().map(|(known, _)| format!("`{known}`"));
    let reason = format!("supported is {}", dtta_base::listed(known, 16));
    fields.refuse(name, &value, reason);
    default
}

fn residual(arguments: &mut Fields, block: &str, blocks: [usize; 4], grouped: bool) -> Value {
    let blocks: Vec<usize> = arguments.find("layers").unwrap_or_else(|| blocks.into());
    let widths: Vec<usize> = arguments
        .find("channels")
        .unwrap_or_else(|| vec![64, 128, 256, 512]);
    let norms = [
        ("batchnorm", false),
        ("batchnorm2d", false),
        ("groupnorm", true),
    ];
    let grouped = one_of(arguments, "norm_layer", &norms, grouped);
    one_of(arguments, "act_layer", &[("relu", ())], ());
    // The class of the blocks, which the architecture's name says.
    arguments.fixed("block", Value::Null);
    for (name, value) in [
        ("output_stride", json!(32)),
        ("cardinality", json!(1)),
        ("base_width", json!(64)),
        ("stem_type", json!("")),
        ("replace_stem_pool", json!(false)),
        ("block_reduce_first", json!(1)),
        ("down_kernel_size", json!(1)),
        ("avg_down", json!(false)),
        ("aa_layer", Value::Null),
        ("block_args", Value::Null),
    ] {
        arguments.fixed(name, value);
    }
    // The width of deep stems alone.
    arguments.skip("stem_width");
    // How training starts.
    arguments.skip("zero_init_last");
    let norm = match grouped {
        true => json!({"kind": "group", "groups": 32}),
        false => json!({"kind": "batch"}),
    };
    json!({"kind": "resnet", "block": block, "blocks": blocks, "widths": widths, "stem_width": 64, "norm": norm})
}

impl ConvNext {
    fn document(self, arguments: &mut Fields) -> Value {
        let blocks: Vec<usize> = arguments
            .find("depths")
            .unwrap_or_else(|| self.blocks.into());
        let widths: Vec<usize> = arguments.find("dims").unwrap_or_else(|| self.widths.into());
        for (name, list) in [("depths", &blocks), ("dims", &widths)] {
            if list.len() != 4 {
                arguments.refuse(name, &json!(list), "supported are four stages");
            }
        }
        let windows = match arguments.find::<Value>("kernel_sizes") {
            None => json!(self.windows),
            Some(window) if window.is_number() => json!([window, window, window, window]),
            Some(windows) => windows,
        };
        let activations = [
            ("gelu", "gelu"),
            ("gelu_tanh", "gelu_tanh"),
            ("silu", "silu"),
            ("swish", "silu"),
            ("relu", "relu"),
        ];
        let activation = one_of(arguments, "act_layer", &activations, self.activation);
        one_of(
            arguments,
            "norm_layer",
            &[("layernorm", ()), ("layernorm2d", ())],
            (),
        );
        let layer_scale = arguments.nullable("ls_init_value", Some(1e-6f64)).is_some();
        for (name, value) in [
            ("output_stride", json!(32)),
            ("stem_type", json!("patch")),
            ("patch_size", json!(4)),
            ("conv_bias", json!(true)),
            ("use_grn", json!(false)),
        ] {
            arguments.fixed(name, value);
        }
        // How training starts.
        arguments.skip("head_init_scale");
        json!({
            "kind": "convnext",
            "blocks": blocks,
            "widths": widths,
            "windows": windows,
            "activation": activation,
            "layer_scale": layer_scale,
            "linear_as_windows": arguments.find("conv_mlp").unwrap_or(self.conv_mlp),
            "norm_before_pool": arguments.find("head_norm_first").unwrap_or(self.head_norm_first),
            "hidden_head": arguments.nullable("head_hidden_size", self.hidden),
            "epsilon": arguments.find("norm_eps").unwrap_or(self.epsilon),
        })
    }
}

/// A number, or as many equal ones as there are axes.
fn square(fields: &mut Fields, name: &str, default: usize) -> usize {
    match fields.find::<Value>(name) {
        None => default,
        Some(value) => {
            let sides: Option<Vec<u64>> = match &value {
                Value::Array(sides) => sides.iter().map(Value::as_u64).collect(),
                side => side.as_u64().map(|side| vec![side]),
            };
            match sides.as_deref() {
                Some([side]) => *side as usize,
                Some([height, width]) if height == width => *height as usize,
                _ => {
                    fields.refuse(name, &value, "supported is one number for both axes");
                    default
                }
            }
        }
    }
}

fn transformer(
    arguments: &mut Fields,
    [_, height, width]: [usize; 3],
    pool: &str,
    [patch, wide, depth, heads]: [usize; 4],
    third: bool,
) -> Value {
    let stated = arguments.find::<Value>("img_size");
    if let Some(stated) = stated
        && stated != json!([height, width])
        && (height != width || stated != json!(height))
    {
        let reason = format!("pretrained_cfg's input_size is {height} by {width}");
        arguments.refuse("img_size", &stated, reason);
    }
    let patch = square(arguments, "patch_size", patch);
    let wide = arguments.find("embed_dim").unwrap_or(wide);
    let depth = arguments.find("depth").unwrap_or(depth);
    let heads = arguments.find("num_heads").unwrap_or(heads);
    let ratio = arguments.find("mlp_ratio").unwrap_or(4.0f64);
    let start = if third { Some(1e-6f64) } else { None };
    // The library takes 0 for none.
    let layer_scale = arguments
        .nullable("init_values", start)
        .is_some_and(|start| start != 0.0);
    let class_token = arguments.find("class_token").unwrap_or(true);
    let unplaced = arguments.find("no_embed_class").unwrap_or(third);
    let average = pool == "avg";
    let norm_after_pool = arguments.find("fc_norm").unwrap_or(average);
    if !average && pool != "token" {
        arguments.refuse(
            "global_pool",
            &json!(pool),
            "supported are \"token\" and \"avg\"",
        );
    } else if !average && !class_token {
        arguments.refuse(
            "class_token",
            &json!(false),
            "supported where global_pool is \"avg\"",
        );
    }
    one_of(arguments, "act_layer", &[("gelu", ())], ());
    one_of(arguments, "norm_layer", &[("layernorm", ())], ());
    for (name, value) in [
        ("qkv_bias", json!(true)),
        ("qk_norm", json!(false)),
        ("scale_attn_norm", json!(false)),
        ("scale_mlp_norm", json!(false)),
        ("proj_bias", json!(true)),
        ("pos_embed", json!("learn")),
        ("reg_tokens", json!(0)),
        ("pre_norm", json!(false)),
        ("final_norm", json!(true)),
        ("pool_include_prefix", json!(false)),
        ("dynamic_img_size", json!(false)),
        ("dynamic_img_pad", json!(false)),
        ("embed_layer", Value::Null),
        ("embed_norm_layer", Value::Null),
        ("block_fn", Value::Null),
        ("mlp_layer", Value::Null),
        ("attn_layer", Value::Null),
    ] {
        arguments.fixed(name, value);
    }
    // How training starts.
    for name in ["weight_init", "fix_init"] {
        arguments.skip(name);
    }
    json!({
        "kind": "vit",
        "patch_size": patch,
        "width": wide,
        "depth": depth,
        "heads": heads,
        "hidden_width": (wide as f64 * ratio) as usize,
        "class_token": class_token,
        "class_position": !unplaced,
        "layer_scale": layer_scale,
        "pool": if average { "average" } else { "class_token" },
        "norm_after_pool": norm_after_pool,
    })
}

fn efficient(arguments: &mut Fields, scale: [f64; 2], tensorflow: bool) -> Value {
    let epsilon = if tensorflow { 1e-3 } else { 1e-5 };
    let epsilon = arguments.find("bn_eps").unwrap_or(epsilon);
    let paddings = [("", "symmetric"), ("same", "same")];
    let padding = if tensorflow { "same" } else { "symmetric" };
    let padding = one_of(arguments, "pad_type", &paddings, padding);
    one_of(arguments, "act_layer", &[("relu6", ())], ());
    for (name, value) in [
        ("block_args", Value::Null),
        ("num_features", json!(1280)),
        ("stem_size", json!(32)),
        ("stem_kernel_size", json!(3)),
        ("fix_stem", json!(true)),
        ("output_stride", json!(32)),
        ("norm_layer", Value::Null),
        ("aa_layer", Value::Null),
        ("se_layer", Value::Null),
        ("round_chs_fn", Value::Null),
    ] {
        arguments.fixed(name, value);
    }
    // How running statistics are kept in training.
    arguments.skip("bn_momentum");
    let [width, depth] = scale;
    super::lite::document(width, depth, padding, epsilon)
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    /// Fields that say nothing of what is computed at test time, as `PretrainedCfg` and the classes document them.
    const WITHOUT_INFLUENCE: &[&str] = &[
        // Where weights came from and who made them.
        "url",
        "file",
        "hf_hub_id",
        "hf_hub_filename",
        "source",
        "architecture",
        "tag",
        "custom_load",
        "label_names",
        "label_descriptions",
        "license",
        "description",
        "origin_url",
        "paper_name",
        "paper_ids",
        "notes",
        // What follows from the extents of the input, or is taken only where the library is told to.
        "test_input_size",
        "min_input_size",
        "fixed_input_size",
        "test_crop_pct",
        "pool_size",
        "test_pool_size",
        "first_conv",
        "classifier",
        // What only training sees.
        "drop_rate",
        "drop_path_rate",
        "drop_block_rate",
        "pos_drop_rate",
        "patch_drop_rate",
        "proj_drop_rate",
        "attn_drop_rate",
        "zero_init_last",
        "head_init_scale",
        "weight_init",
        "fix_init",
        "bn_momentum",
        // Of another stem than the one supported, and where memory is.
        "stem_width",
        "device",
    ];

    /// What a file translates to, or its refusals.
    fn translated(document: &Value) -> Result<(Value, Option<Preprocessing>), Vec<String>> {
        let fields = document.as_object().unwrap();
        let translation = crate::published::translate(fields).unwrap();
        translation
            .map(|translation| (translation.document, translation.preprocessing))
            .map_err(|issues| issues.into_iter().map(|issue| issue.message).collect())
    }

    /// Values that differ from the default.
    fn others(value: &Value) -> Vec<Value> {
        match value {
            Value::Bool(value) => vec![json!(!value)],
            Value::Number(number) if number.is_f64() => vec![json!(0.25)],
            Value::Number(number) => vec![json!(number.as_u64().unwrap() * 2 + 2)],
            Value::String(_) => vec![json!("another"), json!("avg")],
            Value::Array(list) => {
                let twice = |n: &Value| match n.as_u64() {
                    Some(n) => json!(2 * n),
                    None => json!(0.75),
                };
                let mut other: Vec<Value> = list.iter().map(twice).collect();
                // Images keep their three channels.
                if list[0] == 3 && list.len() == 3 {
                    other[0] = json!(3);
                }
                vec![other.into()]
            }
            _ => vec![json!("another"), json!(1), json!([1, 2, 3, 4]), json!(true)],
        }
    }

    #[test]
    fn no_field_of_timms_classes_is_ignored_silently() {
        let table = include_str!("../../tests/fixtures/backbones/fields.json");
        let table: Map<String, Value> = serde_json::from_str(table).unwrap();
        let mut seen = 0;
        for (class, fields) in &table {
            let (architecture, place) = match class.as_str() {
                "pretrained_cfg" => ("resnet50", "pretrained_cfg"),
                class => (class, "model_args"),
            };
            let plain =
                json!({"architecture": architecture, "pretrained_cfg": {}, "model_args": {}});
            let unchanged = translated(&plain).unwrap();
            for (field, default) in fields.as_object().unwrap() {
                let with = |value: &Value| {
                    let mut document = plain.clone();
                    document[place][field] = value.clone();
                    translated(&document)
                };
                assert_eq!(
                    with(default),
                    Ok(unchanged.clone()),
                    "{class}: {field} by default"
                );
                let skipped = WITHOUT_INFLUENCE.contains(&field.as_str());
                // Any number says that there is LayerScale, and with which value training began.
                let values = match field.as_str() {
                    "ls_init_value" => vec![Value::Null],
                    _ => others(default),
                };
                for other in values.into_iter().filter(|other| other != default) {
                    match with(&other) {
                        Ok(translation) => assert!(
                            skipped || translation != unchanged,
                            "{class}: {field} = {other} is ignored"
                        ),
                        Err(refusals) => {
                            assert!(!skipped, "{class}: {field}: {refusals:?}");
                            let named = refusals.iter().any(|refusal| {
                                refusal.contains(&format!("timm configuration; field {field} = "))
                            });
                            assert!(named, "{class}: {field}: {refusals:?}");
                        }
                    }
                }
                seen += 1;
            }
        }
        assert!(seen > 130, "{seen}");
    }

    #[test]
    fn the_fields_beside_them_are_honoured_too() {
        let plain = json!({"architecture": "resnet50", "pretrained_cfg": {}});
        let unchanged = translated(&plain);
        for (field, value, same) in [
            ("num_features", json!(2048), true),
            ("label_names", json!(["a"]), true),
            ("label_descriptions", json!({}), true),
            ("num_classes", json!(7), false),
            ("global_pool", json!("avg"), true),
        ] {
            let mut document = plain.clone();
            document[field] = value;
            let found = translated(&document);
            assert!(found.is_ok(), "{field}: {found:?}");
            assert_eq!(found == unchanged, same, "{field}");
        }
        for (field, value) in [("global_pool", json!("max")), ("format", json!(1))] {
            let mut document = plain.clone();
            document[field] = value;
            let refusals = translated(&document).unwrap_err();
            assert!(
                refusals[0].contains(&format!("field {field} = ")),
                "{refusals:?}"
            );
        }
    }
}

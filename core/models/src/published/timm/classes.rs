//! The arguments of timm's classes of models, `model_args`, in the terms of this crate's model files.

use serde_json::{Value, json};

use super::Fields;
use super::architectures::{ConvNext, Structure};

impl Structure {
    /// What the library takes of the last map or the tokens, unless it is told otherwise.
    pub fn pool(self) -> &'static str {
        match self {
            Self::Vit { .. } => "token",
            _ => "avg",
        }
    }

    /// The model file of this crate.
    pub fn document(
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
    crate::published::lite::document(width, depth, padding, epsilon)
}

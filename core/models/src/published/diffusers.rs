//! Models as diffusers saves them (`save_pretrained`): `UNet2DModel`, `UNet2DConditionModel`, `DiTTransformer2DModel` and the encoder of
//! `AutoencoderKL`; `ControlNetModel` is in `controlnet.rs`. Defaults are those of the classes.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::controlnet::CONTROL;
use super::scheduler::{SCHEDULER, schedule};
use super::{Fields, Names, Publisher, Source, Translate, Translation};
use crate::autoencoder::EncoderBlock;
use crate::layers::Activation;
use crate::unet::{PerLevel, UNetBlock, UNetMidBlock, UNetResample, UNetTimeShift, UNetUpBlock};

pub(super) const PUBLISHER: Publisher = Publisher {
    library: "diffusers",
    field: CLASS,
    translate: translation,
    classes: &[
        "UNet2DModel",
        "UNet2DConditionModel",
        "DiTTransformer2DModel",
        "AutoencoderKL",
        CONTROL,
    ],
};

/// The field that names a class.
pub(super) const CLASS: &str = "_class_name";

fn translation(class: &str) -> Option<Translate> {
    match class {
        "UNet2DModel" => Some(unet),
        "UNet2DConditionModel" => Some(condition_unet),
        "DiTTransformer2DModel" => Some(dit),
        "AutoencoderKL" => Some(autoencoder),
        CONTROL => Some(super::controlnet::refuse),
        _ => None,
    }
}

/// The fields of a model file of ours.
type Fragment = Map<String, Value>;

// --- U-Nets ---------------------------------------------------------------------------------------------------------------------------

fn unet(fields: &mut Fields) -> Option<Translation> {
    let down: Vec<UNetBlock> = blocks(
        fields,
        "down_block_types",
        &[
            "DownBlock2D",
            "AttnDownBlock2D",
            "AttnDownBlock2D",
            "AttnDownBlock2D",
        ],
    );
    let up: Vec<UNetUpBlock> = blocks(
        fields,
        "up_block_types",
        &[
            "AttnUpBlock2D",
            "AttnUpBlock2D",
            "AttnUpBlock2D",
            "UpBlock2D",
        ],
    );
    let without = "`UNet2DModel` has no tokens to attend to";
    if down.contains(&UNetBlock::CrossAttnDownBlock2D) {
        fields.refuse("down_block_types", &json!(down), without);
    }
    if up.contains(&UNetUpBlock::CrossAttnUpBlock2D) {
        fields.refuse("up_block_types", &json!(up), without);
    }
    let middle = match nullable_name(fields, "mid_block_type", "UNetMidBlock2D").as_deref() {
        None => UNetMidBlock::None,
        Some("UNetMidBlock2D") => UNetMidBlock::UNetMidBlock2D,
        Some(other) => refuse_middle(fields, other),
    };
    let mut document = residual_net(fields, 3);
    document.extend(fragment(json!({
        "down_block_types": down,
        "up_block_types": up,
        "mid_block_type": middle,
        "block_out_channels": fields.take("block_out_channels", vec![224usize, 448, 672, 896]),
        "layers_per_block": fields.take("layers_per_block", 2usize),
        "downsample_type": fields.find("downsample_type").unwrap_or(UNetResample::Conv),
        "upsample_type": fields.find("upsample_type").unwrap_or(UNetResample::Conv),
        "act_fn": activation(fields, "act_fn", Some("silu")).unwrap_or_default(),
        "attention_head_dim": fields.nullable("attention_head_dim", Some(8usize)),
        "attn_norm_num_groups": fields.find::<usize>("attn_norm_num_groups"),
        "add_attention": fields.take("add_attention", true),
    })));
    // Of a learned table of times, which is refused.
    fields.skip("num_train_timesteps");
    Some(denoiser(document, "unet", attention_names()))
}

fn condition_unet(fields: &mut Fields) -> Option<Translation> {
    let cross = "CrossAttnDownBlock2D";
    let down: Vec<UNetBlock> = blocks(
        fields,
        "down_block_types",
        &[cross, cross, cross, "DownBlock2D"],
    );
    let cross = "CrossAttnUpBlock2D";
    let up: Vec<UNetUpBlock> = blocks(
        fields,
        "up_block_types",
        &["UpBlock2D", cross, cross, cross],
    );
    let middle = match nullable_name(fields, "mid_block_type", "UNetMidBlock2DCrossAttn").as_deref()
    {
        None => UNetMidBlock::None,
        Some("UNetMidBlock2D") => UNetMidBlock::ResnetBlock2D,
        Some("UNetMidBlock2DCrossAttn") => UNetMidBlock::UNetMidBlock2DCrossAttn,
        Some(other) => refuse_middle(fields, other),
    };
    // What is called channels of a head there is the number of heads where tokens are attended to, but not of self-attention.
    let heads: PerLevel<usize> = fields.take("attention_head_dim", PerLevel::All(8));
    fields.fixed("num_attention_heads", Value::Null);
    if let PerLevel::Each(each) = &heads
        && up.contains(&UNetUpBlock::AttnUpBlock2D)
        && !each.iter().eq(each.iter().rev())
    {
        let reason = "diffusers gives `AttnUpBlock2D` the number of another level";
        fields.refuse("attention_head_dim", &json!(each), reason);
    }
    let width: PerLevel<usize> = fields.take("cross_attention_dim", PerLevel::All(1280));
    if width.values().iter().any(|other| *other != width.at(0)) {
        let reason = "the tokens of all levels are the same, so of one width";
        fields.refuse("cross_attention_dim", &json!(width), reason);
    }
    let tokens = json!({
        "length": TOKENS,
        "width": width.values().first(),
        "heads": heads,
        "layers": fields.take("transformer_layers_per_block", PerLevel::All(1usize)),
        "use_linear_projection": fields.take("use_linear_projection", false),
        "only_cross_attention": fields.take("only_cross_attention", PerLevel::All(false)),
    });
    let act = activation(fields, "act_fn", Some("silu")).unwrap_or_default();
    let mut document = residual_net(fields, 4);
    document.extend(fragment(json!({
        "down_block_types": down,
        "up_block_types": up,
        "mid_block_type": middle,
        "block_out_channels": fields.take("block_out_channels", vec![320usize, 640, 1280, 1280]),
        "layers_per_block": fields.take("layers_per_block", PerLevel::All(2usize)),
        "act_fn": act,
        "embedding_act_fn": act,
        "attention_head_dim": heads,
        "time_embedding_act_fn": activation(fields, "time_embedding_act_fn", None),
        "timestep_post_act": activation(fields, "timestep_post_act", None),
        "conv_in_kernel": fields.take("conv_in_kernel", 3usize),
        "conv_out_kernel": fields.take("conv_out_kernel", 3usize),
    })));
    if down.contains(&UNetBlock::ResnetDownsampleBlock2D)
        || up.contains(&UNetUpBlock::ResnetUpsampleBlock2D)
    {
        fields.fixed("resnet_skip_time_act", false);
        fields.fixed("resnet_out_scale_factor", 1.0);
    }
    // Nothing else reads them.
    fields.skip("resnet_skip_time_act");
    fields.skip("resnet_out_scale_factor");
    if down.contains(&UNetBlock::CrossAttnDownBlock2D)
        || up.contains(&UNetUpBlock::CrossAttnUpBlock2D)
        || middle == UNetMidBlock::UNetMidBlock2DCrossAttn
    {
        document.insert("tokens".into(), tokens);
    }
    for (name, supported) in [
        ("reverse_transformer_layers_per_block", Value::Null),
        ("encoder_hid_dim", Value::Null),
        ("encoder_hid_dim_type", Value::Null),
        ("dual_cross_attention", json!(false)),
        ("addition_embed_type", Value::Null),
        ("time_cond_proj_dim", Value::Null),
        ("attention_type", json!("default")),
        ("class_embeddings_concat", json!(false)),
    ] {
        fields.fixed(name, supported);
    }
    for name in [
        // Scores of attention in single precision: they are that here in any precision.
        "upcast_attention",
        // Of `addition_embed_type` and of a `class_embed_type` that are refused.
        "addition_time_embed_dim",
        "addition_embed_type_num_heads",
        "projection_class_embeddings_input_dim",
        // Of block types that are refused: `SimpleCrossAttnDownBlock2D` and the like.
        "mid_block_only_cross_attention",
        "cross_attention_norm",
    ] {
        fields.skip(name);
    }
    Some(denoiser(document, "unet", attention_names()))
}

/// Tokens of the text encoder that a `UNet2DConditionModel` is mostly used with, CLIP's. Its configuration does not say.
const TOKENS: usize = 77;

/// What both classes of U-Nets have.
fn residual_net(fields: &mut Fields, channels: usize) -> Fragment {
    let inputs = fields.take("in_channels", channels);
    let [height, width] = extents(fields);
    let learn_sigma = learns_sigma(fields, inputs, Some(channels));
    fields.fixed("time_embedding_type", "positional");
    fields.skip("dropout");
    let table: Option<usize> = fields.find("num_class_embeds");
    let kind: Option<String> = fields.find("class_embed_type");
    let (classes, embedding) = match kind.as_deref() {
        None => (table, None),
        Some("identity") => (None, Some("identity")),
        Some(other) => {
            let reason = "supported are null and \"identity\"";
            fields.refuse("class_embed_type", &json!(other), reason);
            (None, None)
        }
    };
    let norm = UNetTimeShift::Default;
    fragment(json!({
        "image": [inputs, height, width],
        "learn_sigma": learn_sigma,
        "center_input_sample": fields.take("center_input_sample", false),
        "flip_sin_to_cos": fields.take("flip_sin_to_cos", true),
        "freq_shift": fields.take("freq_shift", 0.0),
        "time_embedding_dim": fields.find::<usize>("time_embedding_dim"),
        "num_class_embeds": classes,
        "class_embed_type": embedding,
        "mid_block_scale_factor": fields.take("mid_block_scale_factor", 1.0),
        "downsample_padding": fields.take("downsample_padding", 1usize),
        "norm_num_groups": fields.take("norm_num_groups", 32usize),
        "norm_eps": fields.take("norm_eps", 1e-5),
        "resnet_time_scale_shift": fields.take("resnet_time_scale_shift", norm),
        "schedule": schedule(fields),
    }))
}

/// Types of blocks; the prefix `UNetRes` is of an older version and says nothing.
pub(super) fn blocks<T: DeserializeOwned>(
    fields: &mut Fields,
    name: &str,
    default: &[&str],
) -> Vec<T> {
    let default = default.iter().map(|kind| (*kind).to_owned()).collect();
    let found: Vec<String> = fields.take(name, default);
    let kinds: Vec<&str> = found
        .iter()
        .map(|kind| kind.strip_prefix("UNetRes").unwrap_or(kind))
        .collect();
    serde_json::from_value(json!(kinds)).unwrap_or_else(|error| {
        fields.refuse(name, &json!(found), error);
        Vec::new()
    })
}

pub(super) fn refuse_middle(fields: &mut Fields, found: &str) -> UNetMidBlock {
    fields.refuse("mid_block_type", &json!(found), "dtta does not have it");
    UNetMidBlock::None
}

/// Where the weights of self-attention are: an older version of diffusers had other names for them.
pub(super) fn attention_names() -> Names {
    Names {
        source: Box::new(|name| {
            let renamed = [
                (".to_q.", ".query."),
                (".to_k.", ".key."),
                (".to_v.", ".value."),
                (".to_out.0.", ".proj_attn."),
            ]
            .into_iter()
            .find(|(now, _)| name.contains(now) && !name.contains(".transformer_blocks."));
            match renamed {
                Some((now, once)) => Source::AnyOf(vec![name.into(), name.replace(now, once)]),
                None => Source::Named(name.into()),
            }
        }),
        unused: Box::new(|_| false),
    }
}

// --- Transformer ----------------------------------------------------------------------------------------------------------------------

fn dit(fields: &mut Fields) -> Option<Translation> {
    let inputs = fields.take("in_channels", 4usize);
    let learn_sigma = learns_sigma(fields, inputs, None);
    let size = fields.take("sample_size", 32usize);
    let heads = fields.take("num_attention_heads", 16usize);
    let depth = fields.take("num_layers", 28usize);
    if depth == 0 {
        let reason = "the embeddings are in the blocks, so there is at least one";
        fields.refuse("num_layers", &json!(depth), reason);
    }
    let activation = fields.take("activation_fn", "gelu-approximate".to_owned());
    let function = match activation.as_str() {
        "gelu" => "gelu",
        _ => "gelu_tanh",
    };
    if !["gelu", "gelu-approximate"].contains(&activation.as_str()) {
        let reason = "supported are \"gelu\" and \"gelu-approximate\"";
        fields.refuse("activation_fn", &json!(activation), reason);
    }
    let document = json!({
        "image": [inputs, size, size],
        "patch_size": fields.take("patch_size", 2usize),
        "hidden_size": heads.saturating_mul(fields.take("attention_head_dim", 72usize)),
        "depth": depth,
        "num_heads": heads,
        "num_classes": fields.take("num_embeds_ada_norm", 1000usize),
        // The class's own, which its configuration does not say.
        "class_dropout_prob": 0.1,
        "freq_shift": 1.0,
        "learn_sigma": learn_sigma,
        "norm_eps": fields.take("norm_eps", 1e-5),
        "activation_fn": function,
        "schedule": schedule(fields),
    });
    fields.fixed("attention_bias", true);
    fields.fixed("norm_type", "ada_norm_zero");
    fields.fixed("norm_elementwise_affine", false);
    for name in ["dropout", "norm_num_groups", "upcast_attention"] {
        fields.skip(name);
    }
    let names = Names {
        source: Box::new(move |name| dit_source(name, depth)),
        unused: Box::new(|_| false),
    };
    Some(denoiser(fragment(document), "dit", names))
}

/// Where diffusers keeps a parameter of a DiT of so many blocks, each of which has the embeddings of time and class again.
fn dit_source(name: &str, depth: usize) -> Source {
    let each = |part: &str| {
        let copy = |n| format!("transformer_blocks.{n}.norm1.emb.{part}");
        Source::Copies((0..depth).map(copy).collect())
    };
    let renamed = |prefix: &str| Some(name.strip_prefix(prefix)?.to_owned());
    if name == "pos_embed" {
        return Source::Computed;
    }
    if let Some(rest) = renamed("x_embedder.proj.") {
        return Source::Named(format!("pos_embed.proj.{rest}"));
    }
    if let Some(rest) = renamed("t_embedder.mlp.0.") {
        return each(&format!("timestep_embedder.linear_1.{rest}"));
    }
    if let Some(rest) = renamed("t_embedder.mlp.2.") {
        return each(&format!("timestep_embedder.linear_2.{rest}"));
    }
    if let Some(rest) = renamed("y_embedder.") {
        return each(&format!("class_embedder.{rest}"));
    }
    if let Some(rest) = renamed("final_layer.linear.") {
        return Source::Named(format!("proj_out_2.{rest}"));
    }
    if let Some(rest) = renamed("final_layer.adaLN_modulation.1.") {
        return Source::Named(format!("proj_out_1.{rest}"));
    }
    let Some((block, part)) = name
        .strip_prefix("blocks.")
        .and_then(|rest| rest.split_once('.'))
    else {
        return Source::Named(name.into());
    };
    let block = format!("transformer_blocks.{block}");
    if let Some(rest) = part.strip_prefix("attn.qkv.") {
        let each = ["to_q", "to_k", "to_v"].map(|to| format!("{block}.attn1.{to}.{rest}"));
        return Source::Stacked(each.into());
    }
    for (ours, theirs) in [
        ("attn.proj.", "attn1.to_out.0."),
        ("mlp.fc1.", "ff.net.0.proj."),
        ("mlp.fc2.", "ff.net.2."),
        ("adaLN_modulation.1.", "norm1.linear."),
    ] {
        if let Some(rest) = part.strip_prefix(ours) {
            return Source::Named(format!("{block}.{theirs}{rest}"));
        }
    }
    Source::Named(name.into())
}

// --- Autoencoder ----------------------------------------------------------------------------------------------------------------------

fn autoencoder(fields: &mut Fields) -> Option<Translation> {
    let document = json!({
        "in_channels": fields.take("in_channels", 3usize),
        "latent_channels": fields.take("latent_channels", 4usize),
        "down_block_types": fields.take("down_block_types", vec![EncoderBlock::DownEncoderBlock2D]),
        "block_out_channels": fields.take("block_out_channels", vec![64usize]),
        "layers_per_block": fields.take("layers_per_block", 1usize),
        "act_fn": activation(fields, "act_fn", Some("silu")).unwrap_or_default(),
        "norm_num_groups": fields.take("norm_num_groups", 32usize),
        "mid_block_add_attention": fields.take("mid_block_add_attention", true),
        "use_quant_conv": fields.take("use_quant_conv", true),
        "scaling_factor": fields.take("scaling_factor", 0.18215),
        "shift_factor": fields.find::<f64>("shift_factor").unwrap_or(0.0),
        "latents_mean": fields.find::<Vec<f64>>("latents_mean"),
        "latents_std": fields.find::<Vec<f64>>("latents_std"),
    });
    for name in [
        // Of the decoder, which nothing here needs.
        "out_channels",
        "up_block_types",
        "use_post_quant_conv",
        // Extents from which large images would be encoded in tiles, and the precision of half-precision pipelines.
        "sample_size",
        "force_upcast",
        // A pipeline's folder has it beside all its parts.
        SCHEDULER,
    ] {
        fields.skip(name);
    }
    let names = Names {
        unused: Box::new(|name| {
            name.starts_with("decoder.") || name.starts_with("post_quant_conv.")
        }),
        ..attention_names()
    };
    Some(denoiser(fragment(document), "autoencoder_kl", names))
}

// --- What they have in common ---------------------------------------------------------------------------------------------------------

fn denoiser(mut document: Fragment, kind: &str, names: Names) -> Translation {
    document.retain(|name, value| !value.is_null() || name == "attention_head_dim");
    document.insert("kind".into(), kind.into());
    Translation {
        document: document.into(),
        names,
        preprocessing: None,
    }
}

fn fragment(value: Value) -> Fragment {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// Height and width of what a U-Net denoises.
fn extents(fields: &mut Fields) -> [usize; 2] {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Square(usize),
        Sides([usize; 2]),
    }
    match fields.nullable("sample_size", None) {
        Some(Size::Square(side)) => [side, side],
        Some(Size::Sides(sides)) => sides,
        None => {
            let reason = "it does not say the height and width of images; write them there, as [height, width]";
            fields.refuse("sample_size", &Value::Null, reason);
            [1, 1]
        }
    }
}

/// Whether the output has a second half for the variance.
fn learns_sigma(fields: &mut Fields, inputs: usize, default: Option<usize>) -> bool {
    let outputs = fields.nullable("out_channels", default).unwrap_or(inputs);
    if outputs != inputs && outputs != inputs.saturating_mul(2) {
        let reason = format!(
            "for {inputs} channels in, supported are as many, or twice as many with a half for the variance"
        );
        fields.refuse("out_channels", &json!(outputs), reason);
    }
    outputs != inputs
}

/// The name in a field that may be null.
pub(super) fn nullable_name(fields: &mut Fields, name: &str, default: &str) -> Option<String> {
    fields.nullable(name, Some(default.to_owned()))
}

pub(super) fn activation(
    fields: &mut Fields,
    name: &str,
    default: Option<&str>,
) -> Option<Activation> {
    let found: String = match default {
        Some(default) => fields.take(name, default.to_owned()),
        None => fields.find(name)?,
    };
    let lower = found.to_lowercase();
    let ours = if lower == "swish" { "silu" } else { &lower };
    match serde_json::from_value(json!(ours)) {
        Ok(activation) => Some(activation),
        Err(error) => {
            fields.refuse(name, &json!(found), error);
            None
        }
    }
}

//! diffusers' `ControlNetModel`, which is no denoiser by itself: a configuration of kind `controlnet` names it beside a U-Net. Defaults are
//! those of the class.

use dtta_base::Issue;
use serde_json::{Map, Value, json};

use super::diffusers::{CLASS, activation, attention_names, blocks, nullable_name, refuse_middle};
use super::{Fields, Names, Translation};
use crate::unet::{PerLevel, UNetBlock, UNetMidBlock, UNetTimeShift};

/// The class's name.
pub(super) const CONTROL: &str = "ControlNetModel";

/// Tells what to do with a ControlNet that is named as if it were a denoiser.
pub(super) fn refuse(fields: &mut Fields) -> Option<Translation> {
    let reason = "a ControlNet steers a U-Net: name both in a file `{ \"kind\": \"controlnet\", \"unet\": \"FOLDER\", \"controlnet\": \
                  \"FOLDER\" }`";
    fields.refuse(CLASS, &json!(CONTROL), reason);
    fields.skip_others();
    None
}

/// Where the weights of a ControlNet are.
pub(crate) fn control_names() -> Names {
    attention_names()
}

/// The ControlNet that a configuration of diffusers describes, as `controlnet` of a file of that kind, without the extents of what it
/// sees; `None` if it describes something else.
///
/// # Errors
/// Every field that cannot be honoured, by JSON pointer.
pub(crate) fn control(document: Map<String, Value>) -> Option<Result<Value, Vec<Issue>>> {
    if document.get(CLASS) != Some(&json!(CONTROL)) {
        return None;
    }
    let mut fields = Fields::new("diffusers", document);
    fields.skip(CLASS);
    let control = translate(&mut fields);
    Some(fields.finish().map(|()| control))
}

fn translate(fields: &mut Fields) -> Value {
    let cross = "CrossAttnDownBlock2D";
    let down: Vec<UNetBlock> = blocks(
        fields,
        "down_block_types",
        &[cross, cross, cross, "DownBlock2D"],
    );
    let cross = "UNetMidBlock2DCrossAttn";
    let middle = match nullable_name(fields, "mid_block_type", cross).as_deref() {
        Some("UNetMidBlock2D") => UNetMidBlock::ResnetBlock2D,
        Some("UNetMidBlock2DCrossAttn") => UNetMidBlock::UNetMidBlock2DCrossAttn,
        other => {
            let found = other.unwrap_or("null");
            refuse_middle(fields, found)
        }
    };
    // As in `UNet2DConditionModel`, this is the number of heads where tokens are attended to.
    let heads: PerLevel<usize> = fields.take("attention_head_dim", PerLevel::All(8));
    fields.fixed("num_attention_heads", Value::Null);
    let act = activation(fields, "act_fn", Some("silu")).unwrap_or_default();
    let norm = UNetTimeShift::Default;
    let mut encoder = json!({
        // Its height and width are the U-Net's.
        "image": [fields.take("in_channels", 4usize), 1, 1],
        "flip_sin_to_cos": fields.take("flip_sin_to_cos", true),
        "freq_shift": fields.take("freq_shift", 0.0),
        "block_out_channels": fields.take("block_out_channels", vec![320usize, 640, 1280, 1280]),
        "down_block_types": down,
        "mid_block_type": middle,
        "layers_per_block": fields.take("layers_per_block", 2usize),
        "mid_block_scale_factor": fields.take("mid_block_scale_factor", 1.0),
        "downsample_padding": fields.take("downsample_padding", 1usize),
        "act_fn": act,
        "embedding_act_fn": act,
        "attention_head_dim": heads,
        "norm_num_groups": fields.take("norm_num_groups", 32usize),
        "norm_eps": fields.take("norm_eps", 1e-5),
        "resnet_time_scale_shift": fields.take("resnet_time_scale_shift", norm),
    });
    let tokens = json!({
        // As many as the U-Net's.
        "length": 1,
        "width": fields.take("cross_attention_dim", 1280usize),
        "heads": heads,
        "layers": fields.take("transformer_layers_per_block", PerLevel::All(1usize)),
        "use_linear_projection": fields.take("use_linear_projection", false),
        "only_cross_attention": fields.take("only_cross_attention", PerLevel::All(false)),
    });
    if down.contains(&UNetBlock::CrossAttnDownBlock2D)
        || middle == UNetMidBlock::UNetMidBlock2DCrossAttn
    {
        encoder["tokens"] = tokens;
    }
    let order = fields.take("controlnet_conditioning_channel_order", "rgb".to_owned());
    if !["rgb", "bgr"].contains(&order.as_str()) {
        let name = "controlnet_conditioning_channel_order";
        fields.refuse(name, &json!(order), "supported are rgb and bgr");
    }
    let widths: Vec<usize> = fields
        .nullable(
            "conditioning_embedding_out_channels",
            Some(vec![16, 32, 96, 256]),
        )
        .unwrap_or_default();
    let control = json!({
        "encoder": encoder,
        "channels": fields.take("conditioning_channels", 3usize),
        "widths": widths,
        "channel_order": order,
        "global_pool": fields.take("global_pool_conditions", false),
    });
    for name in [
        "encoder_hid_dim",
        "encoder_hid_dim_type",
        "class_embed_type",
        "num_class_embeds",
        "addition_embed_type",
    ] {
        fields.fixed(name, Value::Null);
    }
    for name in [
        // Scores of attention in single precision: they are that here in any precision.
        "upcast_attention",
        // Of what is refused above.
        "addition_time_embed_dim",
        "addition_embed_type_num_heads",
        "projection_class_embeddings_input_dim",
    ] {
        fields.skip(name);
    }
    control
}

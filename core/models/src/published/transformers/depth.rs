//! `DPTForDepthEstimation`, whose encoder is its own or DINOv2, and `DepthAnythingForDepthEstimation`, whose is DINOv2.

use std::ops::Range;

use serde_json::{Map, Value, json};

use super::preprocessor::{Defaults, IMAGENET, preprocessing};
use super::segformer::last_head;
use super::{activation, common, renamed, side};
use crate::published::{Fields, Interpolation, Names, Source, Translation};

/// The processor of both classes.
const PROCESSOR: Defaults = Defaults {
    classes: &[
        "DPTImageProcessor",
        "DPTImageProcessorFast",
        "DPTImageProcessorPil",
        "DPTFeatureExtractor",
    ],
    size: Some([384, 384]),
    interpolation: Interpolation::Bicubic,
    normalised: true,
    mean: [0.5; 3],
    std: [0.5; 3],
    keeps_extents: false,
};

pub(super) fn dpt(fields: &mut Fields) -> Option<Translation> {
    common(fields, "dpt");
    for name in [
        // Of other heads, of training, and of the class token's own layer, which depth does not use.
        "id2label",
        "label2id",
        "num_labels",
        "use_auxiliary_head",
        "auxiliary_loss_weight",
        "semantic_loss_ignore_index",
        "semantic_classifier_dropout",
        "pooler_output_size",
        "pooler_act",
        // Of a hybrid, which is refused.
        "backbone_featmap_shape",
        "neck_ignore_stages",
        // Of an older version; nothing reads it.
        "readout_project",
    ] {
        fields.skip(name);
    }
    fields.fixed("is_hybrid", false);
    // Of an older version.
    fields.fixed("expand_channels", false);
    no_named_backbone(fields);
    let backbone: Option<Map<String, Value>> = fields.find("backbone_config");
    let act = activation(fields);
    let (encoder, grown) = match backbone {
        Some(document) => {
            let mut within = fields.within("backbone_config", document);
            let found = dinov2(&mut within);
            fields.join(within);
            // Of the encoder that a backbone stands in the place of.
            for name in [
                "hidden_size",
                "num_hidden_layers",
                "num_attention_heads",
                "intermediate_size",
                "layer_norm_eps",
                "image_size",
                "patch_size",
                "num_channels",
                "qkv_bias",
                "backbone_out_indices",
            ] {
                fields.skip(name);
            }
            (found, true)
        }
        None => (own_encoder(fields), false),
    };
    let maps = fields.take("neck_hidden_sizes", vec![96usize, 192, 384, 768]);
    let factors = fields.take("reassemble_factors", vec![4.0, 2.0, 1.0, 0.5]);
    let readout = fields.take("readout_type", "project".to_owned());
    if !["ignore", "add", "project"].contains(&readout.as_str()) {
        let reason = "supported are ignore, add and project";
        fields.refuse("readout_type", &json!(readout), reason);
    }
    let batch_norm = fields
        .find("use_batch_norm_in_fusion_residual")
        .unwrap_or(false);
    let bias: Option<bool> = fields.nullable("use_bias_in_fusion_residual", None);
    let width = fields.take("fusion_hidden_size", 256usize);
    let projection = fields.take("add_projection", false);
    if projection && width != 256 {
        let reason = "its layer has 256 channels, whatever `fusion_hidden_size` says";
        fields.refuse("add_projection", &json!(true), reason);
    }
    last_head(fields, maps.len());
    let preprocessing = preprocessing(fields, &PROCESSOR)?;
    let Encoder {
        mut document,
        behind,
    } = encoder?;
    if !grown {
        document["activation"] = json!(act);
    }
    let reads_class = document["activation"] == json!(act);
    if readout == "project" && !reads_class {
        let reason = "supported is the activation of `backbone_config`";
        fields.refuse("hidden_act", &json!(act), reason);
    }
    Some(Translation {
        document: json!({
            "kind": "dpt",
            "image": preprocessing.image,
            "encoder": document,
            "readout": readout,
            "factors": factors,
            "neck_widths": maps,
            "fusion_width": width,
            "enlarged": "doubled",
            "batch_norm": batch_norm,
            "fusion_bias": bias.unwrap_or(!batch_norm),
            "head": {
                "width": 32,
                "extents": "doubled",
                "projection": projection,
                "activation": "relu",
            },
        }),
        names: names(grown, behind),
        preprocessing: Some(preprocessing),
    })
}

pub(super) fn depth_anything(fields: &mut Fields) -> Option<Translation> {
    common(fields, "depth_anything");
    for name in ["id2label", "label2id", "num_labels"] {
        fields.skip(name);
    }
    no_named_backbone(fields);
    let document: Map<String, Value> = fields.find("backbone_config").unwrap_or_else(|| {
        let default = json!({
            "model_type": "dinov2", "image_size": 518, "hidden_size": 384, "num_attention_heads": 6,
            "out_indices": [9, 10, 11, 12], "reshape_hidden_states": false,
        });
        default.as_object().cloned().unwrap_or_default()
    });
    let mut within = fields.within("backbone_config", document);
    let encoder = dinov2(&mut within);
    fields.join(within);
    let patch = fields.take("patch_size", 14usize);
    let tokens = fields.take("reassemble_hidden_size", 384usize);
    let maps = fields.take("neck_hidden_sizes", vec![48usize, 96, 192, 384]);
    let factors = fields.take("reassemble_factors", vec![4.0, 2.0, 1.0, 0.5]);
    let width = fields.take("fusion_hidden_size", 64usize);
    let head = fields.take("head_hidden_size", 32usize);
    last_head(fields, maps.len());
    let kind = fields.take("depth_estimation_type", "relative".to_owned());
    let scale = fields.nullable("max_depth", Some(1.0)).unwrap_or(1.0);
    let act = match kind.as_str() {
        "relative" => "relu",
        "metric" => "sigmoid",
        _ => {
            let reason = "supported are relative and metric";
            fields.refuse("depth_estimation_type", &json!(kind), reason);
            "relu"
        }
    };
    let defaults = Defaults {
        size: Some([518, 518]),
        mean: IMAGENET.0,
        std: IMAGENET.1,
        ..PROCESSOR
    };
    let preprocessing = preprocessing(fields, &defaults)?;
    let Encoder { document, behind } = encoder?;
    for (name, found, own) in [
        ("patch_size", patch, &document["patch_size"]),
        ("reassemble_hidden_size", tokens, &document["width"]),
    ] {
        if *own != json!(found) {
            let reason = format!("supported is that of `backbone_config`, {own}");
            fields.refuse(name, &json!(found), reason);
        }
    }
    Some(Translation {
        document: json!({
            "kind": "dpt",
            "image": preprocessing.image,
            "encoder": document,
            "readout": "ignore",
            "factors": factors,
            "neck_widths": maps,
            "fusion_width": width,
            "enlarged": "to_next",
            "head": { "width": head, "extents": "image", "activation": act, "scale": scale },
        }),
        names: names(true, behind),
        preprocessing: Some(preprocessing),
    })
}

/// The encoder, and the blocks of its checkpoint behind the last that is asked for.
struct Encoder {
    document: Value,
    behind: Range<usize>,
}

/// Refuses a backbone that is named and not described.
fn no_named_backbone(fields: &mut Fields) {
    for name in ["backbone", "backbone_kwargs"] {
        fields.fixed(name, Value::Null);
    }
    for name in ["use_pretrained_backbone", "use_timm_backbone"] {
        fields.fixed(name, false);
    }
}

/// DPT's own vision transformer.
fn own_encoder(fields: &mut Fields) -> Option<Encoder> {
    let layers = fields.take("num_hidden_layers", 12usize);
    let indices = fields.take("backbone_out_indices", vec![2usize, 5, 8, 11]);
    let mut taps: Vec<usize> = indices
        .iter()
        .map(|index| index.saturating_add(1))
        .collect();
    // The class takes what is in the list, in the order of the blocks.
    taps.sort_unstable();
    taps.dedup();
    if taps.last().is_none_or(|last| *last > layers) {
        let reason = format!(
            "supported are blocks from 0 to {}",
            layers.saturating_sub(1)
        );
        fields.refuse("backbone_out_indices", &json!(indices), reason);
        return None;
    }
    let last = taps.last().copied().unwrap_or_default();
    let (patch, grid) = (
        side(fields, "patch_size", 16),
        side(fields, "image_size", 384),
    );
    three_channels(fields);
    let document = json!({
        "width": fields.take("hidden_size", 768usize),
        "heads": fields.take("num_attention_heads", 12usize),
        "hidden_width": fields.take("intermediate_size", 3072usize),
        "epsilon": fields.take("layer_norm_eps", 1e-12),
        "qkv_bias": fields.take("qkv_bias", true),
        "patch_size": patch?,
        "grid": [grid? / patch?, grid? / patch?],
        "position_interpolation": "bilinear",
        "taps": taps,
    });
    Some(Encoder {
        document,
        behind: last..layers,
    })
}

/// `Dinov2Backbone`.
fn dinov2(fields: &mut Fields) -> Option<Encoder> {
    common(fields, "dinov2");
    for name in [
        // Classes of another head, and where the configuration came from.
        "architectures",
        "id2label",
        "label2id",
        "num_labels",
        // How training starts.
        "layerscale_value",
        // A token that stands for masked patches, of which there are none.
        "use_mask_token",
        // Of its two forms, the neck takes the one that it is given.
        "reshape_hidden_states",
    ] {
        fields.skip(name);
    }
    let layers = fields.take("num_hidden_layers", 12usize);
    let names: Vec<String> = std::iter::once("stem".to_owned())
        .chain((1..=layers).map(|n| format!("stage{n}")))
        .collect();
    if let Some(stated) = fields.find::<Vec<String>>("stage_names")
        && stated != names
    {
        let reason = "supported are stem, stage1 and so on, one for each block";
        fields.refuse("stage_names", &json!(stated), reason);
    }
    let indices: Option<Vec<i64>> = fields.find("out_indices");
    let stages: Option<Vec<String>> = fields.find("out_features");
    let place = |index: i64| match index {
        ..0 => (names.len() as i64 + index).try_into().ok(),
        _ => usize::try_from(index).ok(),
    };
    let of_indices = indices.as_ref().map(|indices| {
        let places = indices.iter().map(|&index| place(index));
        places.collect::<Option<Vec<usize>>>()
    });
    let of_stages = stages.as_ref().map(|stages| {
        let places = stages.iter();
        places
            .map(|stage| names.iter().position(|name| name == stage))
            .collect::<Option<Vec<usize>>>()
    });
    let taps = match (of_indices, of_stages) {
        (Some(Some(places)), None) | (None, Some(Some(places))) => Some(places),
        (Some(Some(places)), Some(Some(others))) if places == others => Some(places),
        // The last block alone is the library's default.
        (None, None) => Some(vec![layers]),
        _ => None,
    };
    let within = |taps: &Vec<usize>| {
        let ascending = taps.windows(2).all(|pair| pair[0] < pair[1]);
        ascending && taps.iter().all(|tap| (1..=layers).contains(tap))
    };
    let Some(taps) = taps.filter(within) else {
        let reason = format!(
            "supported are ascending stages from 1 to {layers}, the same in `out_features` if that is there"
        );
        fields.refuse("out_indices", &json!(indices), reason);
        return None;
    };
    let last = taps.last().copied().unwrap_or_default();
    let width = fields.take("hidden_size", 768usize);
    let ratio = fields.take("mlp_ratio", 4.0);
    let hidden = (width as f64 * ratio) as usize;
    let gated = fields.take("use_swiglu_ffn", false);
    // As the class rounds: two thirds, to the next multiple of 8.
    let hidden_width = match gated {
        true => ((hidden as f64 * 2.0 / 3.0) as usize).div_ceil(8) * 8,
        false => hidden,
    };
    let (patch, image) = (
        side(fields, "patch_size", 14),
        side(fields, "image_size", 224),
    );
    three_channels(fields);
    let document = json!({
        "width": width,
        "heads": fields.take("num_attention_heads", 12usize),
        "hidden_width": hidden_width,
        "feed": if gated { "swi_glu" } else { "mlp" },
        "activation": activation(fields),
        "epsilon": fields.take("layer_norm_eps", 1e-6),
        "qkv_bias": fields.take("qkv_bias", true),
        "layer_scale": true,
        "patch_size": patch?,
        "grid": [image? / patch?, image? / patch?],
        "position_interpolation": "bicubic",
        "norm_taps": fields.take("apply_layernorm", true),
        "taps": taps,
    });
    Some(Encoder {
        document,
        behind: last..layers,
    })
}

fn three_channels(fields: &mut Fields) {
    let channels = fields.take("num_channels", 3usize);
    if channels != 3 {
        fields.refuse(
            "num_channels",
            &json!(channels),
            "supported are images of 3",
        );
    }
}

/// Where the parameters are; a checkpoint also has what depth does not use, and blocks behind the last that is asked for.
fn names(dinov2: bool, behind: Range<usize>) -> Names {
    let prefix = if dinov2 { "backbone." } else { "dpt." };
    Names {
        source: Box::new(move |name| source(name, dinov2)),
        unused: Box::new(move |name| {
            let Some(rest) = name.strip_prefix(prefix) else {
                // The first fusion has nothing to join.
                return name.starts_with("neck.fusion_stage.layers.0.residual_layer1.");
            };
            let block = rest.strip_prefix("encoder.layer.");
            let block = block.and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
            rest == "embeddings.mask_token"
                || rest.starts_with("layernorm.")
                || rest.starts_with("pooler.")
                || block.is_some_and(|block| behind.contains(&block))
        }),
    }
}

fn source(name: &str, dinov2: bool) -> Source {
    let prefix = if dinov2 { "backbone." } else { "dpt." };
    let Some(rest) = name.strip_prefix("encoder.") else {
        let head = [
            ("head.conv1.", "0"),
            ("head.conv2.", "2"),
            ("head.conv3.", "4"),
        ];
        let head = head
            .into_iter()
            .find_map(|(ours, number)| renamed(name, ours, &format!("head.head.{number}.")));
        return match head {
            // DPT numbers the layers of its head; Depth Anything does not.
            Some(head) => Source::AnyOf(vec![name.into(), head]),
            None => Source::Named(name.into()),
        };
    };
    let tables = [
        ("cls_token", "embeddings.cls_token"),
        ("pos_embed", "embeddings.position_embeddings"),
        (
            "patch_embed.proj.",
            "embeddings.patch_embeddings.projection.",
        ),
        ("norm.", "layernorm."),
    ];
    let table = tables
        .into_iter()
        .find_map(|(ours, theirs)| renamed(rest, ours, &format!("{prefix}{theirs}")));
    if let Some(table) = table {
        return Source::Named(table);
    }
    let block = rest
        .strip_prefix("blocks.")
        .and_then(|rest| rest.split_once('.'));
    let Some((block, part)) = block else {
        return Source::Named(name.into());
    };
    let block = format!("{prefix}encoder.layer.{block}.");
    if let Some(end) = part.strip_prefix("attn.qkv.") {
        let each = ["query", "key", "value"];
        let each = each.map(|one| format!("{block}attention.attention.{one}.{end}"));
        return Source::Stacked(each.into());
    }
    let own: &[(&str, &str)] = match dinov2 {
        true => &[
            ("attn.proj.", "attention.output.dense."),
            ("ls1.gamma", "layer_scale1.lambda1"),
            ("ls2.gamma", "layer_scale2.lambda1"),
            ("mlp.w12.", "mlp.weights_in."),
            ("mlp.w3.", "mlp.weights_out."),
        ],
        false => &[
            ("norm1.", "layernorm_before."),
            ("attn.proj.", "attention.output.dense."),
            ("norm2.", "layernorm_after."),
            ("mlp.fc1.", "intermediate.dense."),
            ("mlp.fc2.", "output.dense."),
        ],
    };
    let found = own
        .iter()
        .find_map(|(ours, theirs)| renamed(part, ours, &format!("{block}{theirs}")));
    Source::Named(found.unwrap_or_else(|| format!("{block}{part}")))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use dtta_tensor::Device;

    use super::*;
    use crate::{Backbone, BatchNormStatistics, Dpt, DptConfig, Weights, read_tensors};

    /// The library's layer has 256 channels; the fixture's has those of its fused maps, so that it is small.
    #[test]
    fn a_head_may_have_a_projection_before_its_convolutions() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dense");
        let folder = folder.join("dpt_projection");
        let mut config = dtta_base::read_json(&folder.join("config.json"), &[]).unwrap();
        let processor = dtta_base::read_json(&folder.join("preprocessor_config.json"), &[]);
        config["preprocessor"] = processor.unwrap();
        let translated =
            |config: &Value| crate::published::translate(config.as_object().unwrap(), None);
        let refused = translated(&config).unwrap().err().unwrap();
        assert_eq!(refused[0].pointer, "/add_projection");
        config["fusion_hidden_size"] = json!(256);
        let Translation {
            mut document,
            names,
            ..
        } = translated(&config).unwrap().unwrap();
        document["fusion_width"] = json!(6);
        document.as_object_mut().unwrap().remove("kind");
        let config: DptConfig = serde_json::from_value(document).unwrap();
        let (dpt, device) = (Dpt::new(config).unwrap(), Device::cpu());
        let parameters = Backbone::parameters(&dpt);
        let file = folder.join("model.safetensors");
        let weights = Weights::load_named(&file, parameters, &names, &device).unwrap();
        let expected = read_tensors(&folder.join("expected.safetensors"), &device).unwrap();
        let id = weights.find("head.projection.weight").unwrap();
        let weights = weights.to_leaves(&[id]).unwrap();
        let images = expected["input.images"].to_leaf().unwrap();
        let statistics = BatchNormStatistics::Running;
        let outputs = dpt.forward(&weights, &images, statistics).unwrap();
        let logits = outputs.get("logits").unwrap();
        let loss = logits.mul(&expected["input.cotangent"]).unwrap();
        let gradients = loss.sum(&[], false).unwrap().backward().unwrap();
        for (what, found, tolerance) in [
            ("output.logits", logits, 2e-4),
            (
                "gradient.images",
                &gradients.of(&images).unwrap(),
                1e-3 * 4.7,
            ),
            (
                "gradient.head.projection.weight",
                &gradients.of(weights.get(id)).unwrap(),
                1e-3 * 32.0,
            ),
        ] {
            let (found, expected) = (
                found.to_floats().unwrap(),
                expected[what].to_floats().unwrap(),
            );
            assert_eq!(found.len(), expected.len(), "{what}");
            let pairs = found.iter().zip(&expected);
            let error = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            eprintln!("{what}: largest absolute error {error:.1e}");
            assert!(error <= tolerance, "{what}: {error}");
        }
    }
}

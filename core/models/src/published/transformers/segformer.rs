//! `SegformerForSemanticSegmentation` and `GLPNForDepthEstimation`, whose encoders are the same.

use serde_json::{Value, json};

use super::preprocessor::{Defaults, IMAGENET, preprocessing};
use super::{activation, common, labels, renamed};
use crate::published::{Fields, Interpolation, Names, Source, Translation};

pub(super) fn segformer(fields: &mut Fields) -> Option<Translation> {
    common(fields, "segformer");
    let defaults = Defaults {
        classes: &[
            "SegformerImageProcessor",
            "SegformerImageProcessorFast",
            "SegformerImageProcessorPil",
            "SegformerFeatureExtractor",
        ],
        size: Some([512, 512]),
        interpolation: Interpolation::Bilinear,
        normalised: true,
        mean: IMAGENET.0,
        std: IMAGENET.1,
        keeps_extents: false,
    };
    let classes = labels(fields);
    let levels = levels(fields);
    let width = fields.take("decoder_hidden_size", 256usize);
    let act = activation(fields);
    // Where the last level is no map, the decoder takes it for a square one.
    fields.fixed("reshape_last_stage", true);
    for name in ["classifier_dropout_prob", "semantic_loss_ignore_index"] {
        fields.skip(name);
    }
    let preprocessing = preprocessing(fields, &defaults)?;
    Some(Translation {
        document: json!({
            "kind": "segformer",
            "image": preprocessing.image,
            "classes": classes,
            "levels": levels?,
            "decoder_width": width,
            "activation": act,
        }),
        names: names("segformer."),
        preprocessing: Some(preprocessing),
    })
}

pub(super) fn glpn(fields: &mut Fields) -> Option<Translation> {
    common(fields, "glpn");
    let defaults = Defaults {
        classes: &[
            "GLPNImageProcessor",
            "GLPNImageProcessorFast",
            "GLPNImageProcessorPil",
            "GLPNFeatureExtractor",
        ],
        size: None,
        interpolation: Interpolation::Bilinear,
        normalised: false,
        mean: [0.0; 3],
        std: [1.0; 3],
        keeps_extents: true,
    };
    let levels = levels(fields);
    let width = fields.take("decoder_hidden_size", 64usize);
    let max_depth = fields.take("max_depth", 10.0);
    let act = activation(fields);
    last_head(fields, levels.as_ref().map_or(0, Vec::len));
    // Of other heads.
    for name in ["id2label", "label2id", "num_labels"] {
        fields.skip(name);
    }
    let preprocessing = preprocessing(fields, &defaults)?;
    Some(Translation {
        document: json!({
            "kind": "glpn",
            "image": preprocessing.image,
            "levels": levels?,
            "decoder_width": width,
            "max_depth": max_depth,
            "activation": act,
        }),
        names: names("glpn."),
        preprocessing: Some(preprocessing),
    })
}

/// Refuses a head on another map than the last of so many.
pub(super) fn last_head(fields: &mut Fields, maps: usize) {
    let index = fields.take("head_in_index", -1i64);
    if index != -1 && usize::try_from(index).ok() != maps.checked_sub(1) {
        let reason = "supported is -1, the last";
        fields.refuse("head_in_index", &json!(index), reason);
    }
}

/// The levels of a mix transformer; `None` where a list does not have one for each.
fn levels(fields: &mut Fields) -> Option<Vec<Value>> {
    let count = fields.take("num_encoder_blocks", 4usize);
    let mut lists: Vec<Vec<f64>> = Vec::new();
    let mut fit = true;
    for (name, default) in [
        ("hidden_sizes", [32.0, 64.0, 160.0, 256.0]),
        ("depths", [2.0; 4]),
        ("num_attention_heads", [1.0, 2.0, 5.0, 8.0]),
        ("mlp_ratios", [4.0; 4]),
        ("patch_sizes", [7.0, 3.0, 3.0, 3.0]),
        ("strides", [4.0, 2.0, 2.0, 2.0]),
        ("sr_ratios", [8.0, 4.0, 2.0, 1.0]),
    ] {
        let list: Vec<f64> = fields.take(name, default.to_vec());
        if list.len() != count {
            let reason = format!("supported are {count} numbers, as `num_encoder_blocks` says");
            fields.refuse(name, &json!(list), reason);
            fit = false;
        }
        let whole = |x: &f64| x.fract() == 0.0 && *x >= 0.0 && *x < 1e9;
        if name != "mlp_ratios" && !list.iter().all(whole) {
            fields.refuse(name, &json!(list), "supported are whole numbers");
            fit = false;
        }
        lists.push(list);
    }
    for name in [
        // PyTorch's own stands in its place in both classes.
        "layer_norm_eps",
        // Of older versions; nothing reads them.
        "downsampling_rates",
        "image_size",
    ] {
        fields.skip(name);
    }
    let channels = fields.take("num_channels", 3usize);
    if channels != 3 {
        fields.refuse(
            "num_channels",
            &json!(channels),
            "supported are images of 3",
        );
    }
    let [widths, depths, heads, ratios, patches, strides, reductions] = &lists[..] else {
        return None;
    };
    fit.then(|| {
        let level = |n: usize| {
            json!({
                "width": widths[n] as u64,
                "depth": depths[n] as u64,
                "heads": heads[n] as u64,
                // As `int` does.
                "hidden_width": (widths[n] * ratios[n]) as u64,
                "patch_size": patches[n] as u64,
                "stride": strides[n] as u64,
                "reduction": reductions[n] as u64,
            })
        };
        (0..count).map(level).collect()
    })
}

/// The encoder is behind the model's prefix.
fn names(prefix: &'static str) -> Names {
    Names {
        source: Box::new(move |name| {
            let encoder = renamed(name, "encoder.", &format!("{prefix}encoder."));
            Source::Named(encoder.unwrap_or_else(|| name.into()))
        }),
        unused: Box::new(|_| false),
    }
}

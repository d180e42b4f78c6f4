//! `ViTMAEForPreTraining`: a masked autoencoder, which is a ViT without a classifier and the decoder that reconstructs patches.

use serde_json::json;

use super::preprocessor::{Defaults, stated};
use super::{common, side};
use crate::published::{Fields, Interpolation, Names, Source, Translation};

/// Masked autoencoders. There is no classifier in them. How images are prepared, the image processor's file says if it is there.
pub(super) fn vit_mae(fields: &mut Fields) -> Option<Translation> {
    common(fields, "vit_mae");
    // What classes that it does not have are called.
    fields.skip("id2label");
    fields.skip("label2id");
    // How much is masked is for those to say who ask for a reconstruction.
    fields.skip("mask_ratio");
    fields.fixed("qkv_bias", true);
    fields.fixed("hidden_act", "gelu");
    let image = side(fields, "image_size", 224)?;
    let defaults = Defaults {
        classes: &[
            "ViTImageProcessor",
            "ViTImageProcessorFast",
            "ViTImageProcessorPil",
            "ViTFeatureExtractor",
        ],
        size: Some([224; 2]),
        interpolation: Interpolation::Bilinear,
        normalised: true,
        mean: [0.5; 3],
        std: [0.5; 3],
        keeps_extents: false,
    };
    let preprocessing = stated(fields, &defaults).flatten();
    if let Some(prepared) = preprocessing.as_ref()
        && prepared.image[1..] != [image; 2]
    {
        let reason = format!(
            "its image processor makes images of {:?}",
            &prepared.image[1..]
        );
        fields.refuse("image_size", &json!(image), reason);
    }
    let document = json!({
        "kind": "vit",
        "image": [fields.take("num_channels", 3usize), image, image],
        "classes": 0,
        "patch_size": side(fields, "patch_size", 16)?,
        "width": fields.take("hidden_size", 768usize),
        "depth": fields.take("num_hidden_layers", 12usize),
        "heads": fields.take("num_attention_heads", 12usize),
        "hidden_width": fields.take("intermediate_size", 3072usize),
        "fixed_positions": true,
        "epsilon": fields.take("layer_norm_eps", 1e-12),
        "decoder": {
            "width": fields.take("decoder_hidden_size", 512usize),
            "depth": fields.take("decoder_num_hidden_layers", 8usize),
            "heads": fields.take("decoder_num_attention_heads", 16usize),
            "hidden_width": fields.take("decoder_intermediate_size", 2048usize),
            "norm_pix_loss": fields.take("norm_pix_loss", false),
        },
    });
    Some(Translation {
        document,
        names: Names {
            source: Box::new(of_vit_mae),
            unused: Box::new(|_| false),
        },
        preprocessing,
    })
}

/// What `ViTMAEForPreTraining` calls a parameter. Version 5 writes the decoder's blocks under another name than those before, and reads
/// both.
fn of_vit_mae(name: &str) -> Source {
    let embeddings = [
        ("cls_token", "cls_token"),
        ("pos_embed", "position_embeddings"),
        (
            "patch_embed.proj.weight",
            "patch_embeddings.projection.weight",
        ),
        ("patch_embed.proj.bias", "patch_embeddings.projection.bias"),
    ];
    if let Some((_, theirs)) = embeddings.iter().find(|(ours, _)| *ours == name) {
        return Source::Named(format!("vit.embeddings.{theirs}"));
    }
    if let Some(block) = name.strip_prefix("blocks.") {
        return of_block("vit.encoder.layer", block);
    }
    if let Some(block) = name.strip_prefix("decoder_blocks.") {
        return Source::Either(
            Box::new(of_block("decoder.decoder_layers", block)),
            Box::new(of_block("decoder.decoder_encoder.layer", block)),
        );
    }
    match name.strip_prefix("norm.") {
        Some(value) => Source::Named(format!("vit.layernorm.{value}")),
        None => Source::Named(format!("decoder.{name}")),
    }
}

/// What transformers' ViT calls a parameter of a block, such as `0.attn.qkv.weight`.
fn of_block(blocks: &str, name: &str) -> Source {
    let (number, part) = name.split_once('.').unwrap_or((name, ""));
    let (layer, value) = part.rsplit_once('.').unwrap_or((part, ""));
    let place = format!("{blocks}.{number}");
    if layer == "attn.qkv" {
        let parts = ["query", "key", "value"];
        return Source::Stacked(
            parts
                .map(|part| format!("{place}.attention.attention.{part}.{value}"))
                .into(),
        );
    }
    let theirs = match layer {
        "norm1" => "layernorm_before",
        "norm2" => "layernorm_after",
        "attn.proj" => "attention.output.dense",
        "mlp.fc1" => "intermediate.dense",
        "mlp.fc2" => "output.dense",
        other => other,
    };
    Source::Named(format!("{place}.{theirs}.{value}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value};

    use super::*;

    fn translated(changes: Value) -> Result<Value, Vec<String>> {
        let mut document =
            json!({"architectures": ["ViTMAEForPreTraining"], "model_type": "vit_mae"});
        let fields: &mut Map<String, Value> = document.as_object_mut().unwrap();
        fields.extend(changes.as_object().unwrap().clone());
        match crate::published::translate(fields, None).unwrap() {
            Ok(translation) => Ok(translation.document),
            Err(issues) => Err(issues.into_iter().map(|issue| issue.pointer).collect()),
        }
    }

    #[test]
    fn a_configuration_that_says_nothing_is_vit_mae_base() {
        let found = translated(json!({})).unwrap();
        let decoder = json!({"width": 512, "depth": 8, "heads": 16, "hidden_width": 2048, "norm_pix_loss": false});
        let expected = json!({
            "kind": "vit", "image": [3, 224, 224], "classes": 0, "patch_size": 16, "width": 768, "depth": 12, "heads": 12,
            "hidden_width": 3072, "fixed_positions": true, "epsilon": 1e-12, "decoder": decoder,
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn what_changes_what_is_computed_is_honoured_or_refused_by_name() {
        let sizes = json!({"image_size": [32, 32], "patch_size": [8, 8], "mask_ratio": 0.5, "hidden_dropout_prob": 0.1});
        let found = translated(sizes).unwrap();
        assert_eq!(
            (&found["image"], &found["patch_size"]),
            (&json!([3, 32, 32]), &json!(8))
        );
        for (changes, pointer) in [
            (json!({"image_size": [32, 48]}), "/image_size"),
            (json!({"patch_size": "large"}), "/patch_size"),
            (json!({"qkv_bias": false}), "/qkv_bias"),
            (json!({"hidden_act": "gelu_new"}), "/hidden_act"),
            (json!({"model_type": "vit"}), "/model_type"),
            (json!({"use_mask_token": true}), "/use_mask_token"),
            (json!({"layer_norm_eps": null}), "/layer_norm_eps"),
        ] {
            assert_eq!(translated(changes), Err(vec![pointer.to_owned()]));
        }
    }

    #[test]
    fn images_are_prepared_as_the_processor_says() {
        let processor = json!({"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "do_normalize": false});
        let document = |size: usize| {
            let document = json!({
                "architectures": ["ViTMAEForPreTraining"], "model_type": "vit_mae", "image_size": size, "preprocessor": processor
            });
            crate::published::translate(document.as_object().unwrap(), None).unwrap()
        };
        let found = document(32).unwrap().preprocessing.unwrap();
        assert_eq!((found.image, found.mean), ([3, 32, 32], [0.0; 3]));
        let issues = document(64).err().unwrap();
        assert_eq!(issues[0].pointer, "/image_size");
    }

    #[test]
    fn classes_that_are_not_there_are_told_with_those_that_are() {
        let document = json!({"architectures": ["ViTMAEModel"], "model_type": "vit_mae"});
        let issues = crate::published::translate(document.as_object().unwrap(), None)
            .unwrap()
            .err()
            .unwrap();
        assert_eq!(issues[0].pointer, "/architectures");
        let told = &issues[0].message;
        assert!(
            told.contains("`ViTMAEModel`") && told.contains("`ViTMAEForPreTraining`"),
            "{told}"
        );
    }
}

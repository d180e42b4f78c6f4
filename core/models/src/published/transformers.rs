//! Models as transformers saves them (`save_pretrained`): `config.json`, which lists in `architectures` the class that was saved, and
//! beside it `preprocessor_config.json`, which says how images are prepared. Defaults are those of the classes.

mod bert;
mod clip;
mod depth;
mod preprocessor;
mod segformer;
mod siglip;
mod vit_mae;

use serde_json::{Value, json};

pub(crate) use self::bert::with_sentences;
pub(crate) use self::preprocessor::with_preprocessor;

use super::{Fields, Publisher, Translate};
use crate::layers::Activation;

pub(super) const PUBLISHER: Publisher = Publisher {
    library: "transformers",
    field: CLASSES,
    translate: translation,
    classes: &[
        "SegformerForSemanticSegmentation",
        "DPTForDepthEstimation",
        "DepthAnythingForDepthEstimation",
        "GLPNForDepthEstimation",
        "ViTMAEForPreTraining",
        "CLIPModel",
        "CLIPTextModel",
        "CLIPTextModelWithProjection",
        "BertModel",
        "SiglipModel",
    ],
};

/// The field that lists the classes.
const CLASSES: &str = "architectures";

fn translation(class: &str) -> Option<Translate> {
    match class {
        "SegformerForSemanticSegmentation" => Some(segformer::segformer),
        "DPTForDepthEstimation" => Some(depth::dpt),
        "DepthAnythingForDepthEstimation" => Some(depth::depth_anything),
        "GLPNForDepthEstimation" => Some(segformer::glpn),
        "ViTMAEForPreTraining" => Some(vit_mae::vit_mae),
        "CLIPModel" => Some(clip::images),
        "CLIPTextModel" | "CLIPTextModelWithProjection" => Some(clip::text_model),
        "BertModel" => Some(bert::bert),
        "SiglipModel" => Some(siglip::images),
        _ => None,
    }
}

/// The translation of the text encoder in a configuration, where it is another than [`translation`] gives.
pub(super) fn text_translation(class: &str) -> Option<Translate> {
    match class {
        "CLIPModel" => Some(clip::texts),
        "SiglipModel" => Some(siglip::texts),
        _ => translation(class),
    }
}

/// Fields that every configuration may have and that say nothing about what a model computes: what it is called, how it was trained,
/// what it answers with besides, and how text is generated.
const COMMON: &[&str] = &[
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "drop_path_rate",
    "dropout",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout_prob",
    "initializer_factor",
    "initializer_range",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_word_embeddings",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
];

/// Leaves out [`COMMON`], and refuses a configuration of another model, of a decoder, or with heads taken out.
fn common(fields: &mut Fields, model_type: &str) {
    for name in COMMON {
        fields.skip(name);
    }
    fields.fixed("model_type", model_type);
    for name in [
        "add_cross_attention",
        "is_decoder",
        "is_encoder_decoder",
        "tie_encoder_decoder",
    ] {
        fields.fixed(name, false);
    }
    fields.fixed("cross_attention_hidden_size", Value::Null);
    fields.fixed("chunk_size_feed_forward", 0);
    fields.fixed("pruned_heads", json!({}));
}

/// The number of classes, by their names: two where none is said.
fn labels(fields: &mut Fields) -> usize {
    let names: Option<serde_json::Map<String, Value>> = fields.find("id2label");
    let stated: Option<usize> = fields.find("num_labels");
    fields.skip("label2id");
    let named = names.map(|names| names.len());
    if let (Some(named), Some(stated)) = (named, stated)
        && named != stated
    {
        let reason = format!("`id2label` has {named}");
        fields.refuse("num_labels", &json!(stated), reason);
    }
    named.or(stated).unwrap_or(2)
}

/// What `hidden_act` calls an activation.
fn activation(fields: &mut Fields) -> Activation {
    activation_or(fields, "gelu")
}

/// The same of classes that have this one where none is said.
fn activation_or(fields: &mut Fields, default: &str) -> Activation {
    let name = fields.take("hidden_act", default.to_owned());
    match name.as_str() {
        "gelu" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        "relu" => Activation::Relu,
        "silu" | "swish" => Activation::Silu,
        "mish" => Activation::Mish,
        _ => {
            let reason =
                "supported are gelu, gelu_new, gelu_pytorch_tanh, relu, silu, swish and mish";
            fields.refuse("hidden_act", &json!(name), reason);
            Activation::Gelu
        }
    }
}

/// A number for both axes, or two equal ones.
fn side(fields: &mut Fields, name: &str, default: usize) -> Option<usize> {
    let value = fields.find::<Value>(name).unwrap_or(json!(default));
    let sides: Option<Vec<u64>> = match &value {
        Value::Array(sides) => sides.iter().map(Value::as_u64).collect(),
        side => side.as_u64().map(|side| vec![side]),
    };
    match sides.as_deref() {
        Some([side]) if *side > 0 => Some(*side as usize),
        Some([height, width]) if height == width && *height > 0 => Some(*height as usize),
        _ => {
            let reason = "supported is a number above 0 for both axes";
            fields.refuse(name, &value, reason);
            None
        }
    }
}

/// The parameter's name with a prefix of ours in the place of a prefix of theirs.
fn renamed(name: &str, ours: &str, theirs: &str) -> Option<String> {
    Some(format!("{theirs}{}", name.strip_prefix(ours)?))
}

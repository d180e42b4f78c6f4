//! transformers' `BertModel`, by itself or as sentence-transformers saves it: `modules.json` beside the configuration names what makes a
//! vector of a text, and files of their own say how.

use std::path::{Component, Path};

use serde_json::{Map, Value, json};

use super::{CLASSES, activation, common};
use crate::error::Result;
use crate::published::{Fields, Names, Source, Translation};

/// The field that the files of sentence-transformers are put under.
const SENTENCES: &str = "sentence_transformers";
/// What they are called, and what their objects are within that field.
const FILES: [(&str, &str); 2] = [
    ("sentence_bert_config.json", TRANSFORMER),
    ("config_sentence_transformers.json", MODEL),
];
const MODULES: &str = "modules";
const TRANSFORMER: &str = "transformer";
const MODEL: &str = "model";
const POOLING: &str = "pooling";

/// Puts the files of sentence-transformers, where `modules.json` is beside a `BertModel`, under its fields.
///
/// # Errors
/// [`ModelError::File`](crate::ModelError::File) for a file that is named or there and cannot be read.
pub(crate) fn with_sentences(config: &Path, fields: &mut Map<String, Value>) -> Result<()> {
    let class = fields.get(CLASSES).and_then(|classes| classes.get(0));
    let modules = config.with_file_name("modules.json");
    if class != Some(&json!("BertModel")) || fields.contains_key(SENTENCES) || !modules.is_file() {
        return Ok(());
    }
    let mut found = Map::new();
    let modules = dtta_base::read_json(&modules, &[])?;
    let pooling = modules.as_array().into_iter().flatten();
    let pooling = pooling.filter(|module| kind(module) == Some("Pooling"));
    for module in pooling {
        let folder = Path::new(module["path"].as_str().unwrap_or_default());
        // A folder within the model's.
        let inner = folder
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if inner && !found.contains_key(POOLING) {
            let file = config.with_file_name("").join(folder).join("config.json");
            found.insert(POOLING.into(), dtta_base::read_json(&file, &[])?);
        }
    }
    for (file, name) in FILES {
        let file = config.with_file_name(file);
        if file.is_file() {
            found.insert(name.into(), dtta_base::read_json(&file, &[])?);
        }
    }
    found.insert(MODULES.into(), modules);
    fields.insert(SENTENCES.into(), found.into());
    Ok(())
}

/// What a module is: the last part of its class's name.
fn kind(module: &Value) -> Option<&str> {
    module.get("type")?.as_str()?.rsplit('.').next()
}

/// A text encoder.
pub(super) fn bert(fields: &mut Fields) -> Option<Translation> {
    let padding = fields.take("pad_token_id", 0usize);
    common(fields, "bert");
    for name in ["id2label", "label2id", "num_labels", "classifier_dropout"] {
        fields.skip(name);
    }
    fields.fixed("position_embedding_type", "absolute");
    let width = fields.take("hidden_size", 768usize);
    let positions = fields.take("max_position_embeddings", 512usize);
    let mut document = json!({
        "kind": "bert",
        "vocabulary": fields.take("vocab_size", 30522usize),
        "length": positions,
        "positions": positions,
        "segments": fields.take("type_vocab_size", 2usize),
        "width": width,
        "hidden_width": fields.take("intermediate_size", 3072usize),
        "depth": fields.take("num_hidden_layers", 12usize),
        "heads": fields.take("num_attention_heads", 12usize),
        "padding": padding,
        "pooling": "pooler",
        "normalised": false,
        "activation": activation(fields),
        "norm_eps": fields.take("layer_norm_eps", 1e-12),
    });
    if let Some(files) = fields.find(SENTENCES) {
        let mut files = fields.within(SENTENCES, files);
        let length = sentences(&mut files, &mut document, width);
        document["length"] = json!(length.unwrap_or(positions).min(positions));
        fields.join(files);
    }
    let pooler = document["pooling"] == "pooler";
    Some(Translation {
        document,
        names: Names {
            // The first checkpoints have the names that TensorFlow's had.
            source: Box::new(|name| {
                let older = [(".weight", ".gamma"), (".bias", ".beta")];
                let older = older.iter().find_map(|(new, old)| {
                    let layer = name.strip_suffix(new)?;
                    layer
                        .ends_with("LayerNorm")
                        .then(|| format!("{layer}{old}"))
                });
                match older {
                    Some(older) => Source::AnyOf(vec![name.into(), older]),
                    None => Source::Named(name.into()),
                }
            }),
            unused: Box::new(move |name| {
                // Older versions kept the numbers of positions, which are no weights.
                name == "embeddings.position_ids" || !pooler && name.starts_with("pooler.dense.")
            }),
        },
        preprocessing: None,
    })
}

/// What the files of sentence-transformers say of the vector of a text, in `document`; the most tokens of a text.
fn sentences(files: &mut Fields, document: &mut Value, width: usize) -> Option<usize> {
    let modules: Vec<Value> = files.find(MODULES).unwrap_or_default();
    let kinds: Vec<&str> = modules.iter().filter_map(kind).collect();
    let place = |module: Option<&Value>| module?.get("path")?.as_str().map(str::to_owned);
    document["normalised"] = json!(kinds.len() == 3);
    if kinds.len() != modules.len()
        || !matches!(
            kinds[..],
            ["Transformer", "Pooling"] | ["Transformer", "Pooling", "Normalize"]
        )
    {
        let reason = "supported are Transformer and Pooling, and Normalize after them";
        files.refuse(MODULES, &json!(modules), reason);
    } else if place(modules.first()).as_deref() != Some("") {
        let reason = "supported is a Transformer whose files are beside `modules.json`";
        files.refuse(MODULES, &modules[0], reason);
    }
    match files.find::<Map<String, Value>>(POOLING) {
        Some(pooling) => {
            let mut pooling = files.within(POOLING, pooling);
            document["pooling"] = json!(of_tokens(&mut pooling, width));
            files.join(pooling);
        }
        None => {
            let reason = "the Pooling among the modules needs its `config.json` in a folder within the model's";
            files.refuse(POOLING, &Value::Null, reason);
        }
    }
    let mut model = files.object(MODEL);
    // Of versions, and of what is said only where it is asked for.
    for name in ["__version__", "model_type", "prompts", "similarity_fn_name"] {
        model.skip(name);
    }
    // A text that would be put before each.
    model.fixed("default_prompt_name", Value::Null);
    files.join(model);
    let mut transformer = files.object(TRANSFORMER);
    transformer.fixed("do_lower_case", false);
    let length = transformer.find("max_seq_length");
    files.join(transformer);
    length
}

/// How the vector of a text comes from those of its tokens, in our words.
fn of_tokens(pooling: &mut Fields, width: usize) -> &'static str {
    for name in ["word_embedding_dimension", "embedding_dimension"] {
        if let Some(dimension) = pooling.find::<usize>(name).filter(|&found| found != width) {
            let reason = format!("the model's width is {width}");
            pooling.refuse(name, &json!(dimension), reason);
        }
    }
    // Prompts are not told apart from texts.
    pooling.fixed("include_prompt", true);
    for name in [
        "pooling_mode_max_tokens",
        "pooling_mode_mean_sqrt_len_tokens",
        "pooling_mode_weightedmean_tokens",
        "pooling_mode_lasttoken",
    ] {
        pooling.fixed(name, false);
    }
    // Newer versions name one; older ones have a switch for each.
    let named: Option<String> = pooling.find("pooling_mode");
    let first = pooling.take("pooling_mode_cls_token", false);
    let mean = pooling.take("pooling_mode_mean_tokens", named.is_none());
    match (named.as_deref(), first, mean) {
        (Some("cls"), false, false) | (None, true, false) => "first",
        (Some("mean"), false, false) | (None, false, true) => "mean",
        (named, first, mean) => {
            let found = json!({"pooling_mode": named, "pooling_mode_cls_token": first, "pooling_mode_mean_tokens": mean});
            let reason = "supported is one of the first token's vector and the mean";
            pooling.refuse("pooling_mode", &found, reason);
            "mean"
        }
    }
}

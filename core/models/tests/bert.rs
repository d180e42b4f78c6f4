//! BERT's tokenizer and text encoder, held to transformers by the fixtures that `tests/reference/bert.py` writes. Tolerance: largest absolute
//! error 2e-4. Real weights by hand: `tests/real_text.sh`.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{assert_close, unpacked};
use dtta_models::{EncodedTexts, ModelError, Models, Tokenizer, read_tensors};
use dtta_tensor::{Device, Tensor};
use serde_json::{Map, Value, json};

/// What `tests/reference/bert.py` calls so.
const PROMPTS: [&str; 4] = [
    "a photo of a cat.",
    "A photo of a very long-haired dog!",
    "été à Łódź 42",
    "one two three four five six seven eight nine ten",
];

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bert")
}

fn numbers(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Those of the strings whose tokens are others than those expected.
fn wrong(tokenizer: &Tokenizer, strings: &Value, ids: &Value) -> Vec<String> {
    let pairs = strings
        .as_array()
        .unwrap()
        .iter()
        .zip(ids.as_array().unwrap());
    let different = pairs.filter_map(|(text, ids)| {
        let text = text.as_str().unwrap();
        let (found, expected) = (tokenizer.tokens(text).unwrap(), numbers(ids));
        (found != expected).then(|| format!("{text:?}: {found:?}, {expected:?}"))
    });
    different.collect()
}

fn encode(folder: &Path, texts: &[Vec<u32>]) -> Result<EncodedTexts, ModelError> {
    let models = Models::standard();
    let (encoder, weights) = models.load_text_encoder(folder, None, &Device::cpu())?;
    encoder.encode(&weights, texts)
}

/// A copy of a fixture in a folder that a test may change.
fn copied(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("1_Pooling")).unwrap();
    for file in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "modules.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "1_Pooling/config.json",
    ] {
        let from = fixtures().join(name).join(file);
        if from.is_file() {
            fs::copy(from, folder.path().join(file)).unwrap();
        }
    }
    folder
}

#[test]
fn tokens_of_a_thousand_strings_in_many_scripts_are_those_of_transformers() {
    let tokenizer = Tokenizer::open(&fixtures().join("pooler")).unwrap();
    let read =
        |name: &str| -> Value { serde_json::from_str(&unpacked(&fixtures().join(name))).unwrap() };
    let strings = read("../text/strings.json.gz");
    let strings = &strings["strings"];
    let expected = read("strings.json.gz");
    assert_eq!(expected["ids"].as_array().unwrap().len(), 1000);
    let wrong = wrong(&tokenizer, strings, &expected["ids"]);
    assert!(wrong.is_empty(), "{}: {}", wrong.len(), wrong.join("\n"));
    let mut cut = 0;
    for (n, ids) in expected["filled_to_12"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        let text = strings[n].as_str().unwrap();
        let found = tokenizer.filled(text, 12).unwrap();
        assert_eq!(found.ids, numbers(ids), "{text:?}");
        cut += usize::from(found.cut > 0);
    }
    assert!(cut > 10, "{cut}");
}

#[test]
fn a_bert_answers_as_that_of_transformers_by_itself_or_as_sentence_transformers_saves_it() {
    for (name, pooling) in [("pooler", "pooler"), ("sentences", "mean")] {
        let folder = fixtures().join(name);
        let expected = read_tensors(&folder.join("expected.safetensors"), &Device::cpu()).unwrap();
        let tokenizer = Tokenizer::open(&folder).unwrap();
        let texts = PROMPTS.map(|prompt| tokenizer.filled(prompt, 20).unwrap().ids);
        let ids: Vec<f32> = texts.iter().flatten().map(|&id| id as f32).collect();
        assert_eq!(ids, expected["input.ids"].to_floats().unwrap(), "{name}");
        let found = encode(&folder, &texts).unwrap();
        assert_close(
            &format!("{name}: tokens"),
            &found.tokens,
            &expected["output.tokens"],
        );
        assert_close(
            &format!("{name}: pooled"),
            &found.pooled,
            &expected["output.pooled"],
        );
        // Nobody sees padding.
        let shorter: Vec<u32> = texts[0][..12].into();
        assert_eq!((texts[0][11], texts[0][12]), (0, 0), "both are padding");
        let shorter = encode(&folder, &[shorter]).unwrap();
        let first = found.pooled.narrow(0, 0, 1).unwrap();
        assert_close("without padding", &shorter.pooled, &first);

        let models = Models::standard();
        let description = models.describe(&folder, None).unwrap();
        assert_eq!(description.document["pooling"], pooling);
        assert_eq!(
            description.document["normalised"],
            json!(name == "sentences")
        );
        let most = if name == "sentences" { 20 } else { 80 };
        assert_eq!(models.text_encoder(&folder).unwrap().spec().length, most);
    }
}

#[test]
fn a_bert_refuses_tokens_that_it_cannot_take() {
    for texts in [
        vec![],
        vec![vec![]],
        vec![vec![2, 3], vec![2]],
        vec![vec![3; 81]],
        vec![vec![597]],
        // Whose mean is of nothing.
        vec![vec![2, 3], vec![0, 0]],
    ] {
        let refused = encode(&fixtures().join("pooler"), &texts).map(|_| ());
        assert!(
            matches!(refused, Err(ModelError::Input { .. })),
            "{texts:?}"
        );
    }
}

#[test]
fn refuses_files_of_sentence_transformers_that_would_make_another_vector() {
    let folder = copied("sentences");
    let path = |name: &str| folder.path().join(name);
    let module = |kind: &str, path: &str| json!({"type": format!("sentence_transformers.models.{kind}"), "path": path});
    let (transformer, pooling) = (module("Transformer", ""), module("Pooling", "1_Pooling"));
    let models = Models::standard();
    for (file, content, word) in [
        (
            "modules.json",
            json!([transformer, pooling, module("Dense", "2_Dense")]),
            "/sentence_transformers/modules",
        ),
        (
            "modules.json",
            json!([module("Transformer", "0"), pooling]),
            "beside `modules.json`",
        ),
        (
            "modules.json",
            json!([transformer, module("Pooling", "../1")]),
            "/sentence_transformers/pooling",
        ),
        (
            "modules.json",
            json!([transformer, module("Pooling", "elsewhere")]),
            "elsewhere",
        ),
        ("modules.json", json!({}), "/sentence_transformers/modules"),
        (
            "1_Pooling/config.json",
            json!({"pooling_mode_max_tokens": true}),
            "pooling_mode_max_tokens = true",
        ),
        (
            "1_Pooling/config.json",
            json!({"pooling_mode_cls_token": true}),
            "one of the first",
        ),
        (
            "1_Pooling/config.json",
            json!({"pooling_mode": "max"}),
            "one of the first",
        ),
        (
            "1_Pooling/config.json",
            json!({"word_embedding_dimension": 8}),
            "the model's width is 16",
        ),
        (
            "1_Pooling/config.json",
            json!({"include_prompt": false}),
            "include_prompt",
        ),
        (
            "1_Pooling/config.json",
            json!({"new": 1}),
            "/sentence_transformers/pooling/new",
        ),
        (
            "sentence_bert_config.json",
            json!({"do_lower_case": true}),
            "do_lower_case",
        ),
        (
            "sentence_bert_config.json",
            json!([]),
            "sentence_transformers/transformer",
        ),
        (
            "config_sentence_transformers.json",
            json!({"default_prompt_name": "query"}),
            "default_prompt_name",
        ),
    ] {
        let before = fs::read(path(file)).unwrap();
        fs::write(path(file), content.to_string()).unwrap();
        let refused = models
            .text_encoder(folder.path())
            .err()
            .unwrap()
            .to_string();
        assert!(refused.contains(word), "{file}: {content}: {refused}");
        fs::write(path(file), before).unwrap();
    }
    for (pooling, expected) in [
        (
            json!({"pooling_mode": "cls", "embedding_dimension": 16}),
            "first",
        ),
        (
            json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}),
            "first",
        ),
        (json!({"pooling_mode": "mean"}), "mean"),
        (json!({}), "mean"),
    ] {
        fs::write(path("1_Pooling/config.json"), pooling.to_string()).unwrap();
        let found = models.describe(folder.path(), None).unwrap().document;
        assert_eq!(found["pooling"], expected, "{pooling}");
    }
}

#[test]
fn refuses_a_word_piece_tokenizer_that_would_make_other_tokens() {
    let folder = copied("pooler");
    let config = folder.path().join("tokenizer_config.json");
    let refused = || Tokenizer::open(folder.path()).unwrap_err().to_string();
    for (fields, word) in [
        (
            json!({"tokenizer_class": "BertTokenizer", "do_lower_case": false}),
            "do_lower_case",
        ),
        (
            json!({"tokenizer_class": "BertTokenizerFast", "strip_accents": false}),
            "strip_accents",
        ),
        (
            json!({"tokenizer_class": "BertTokenizer", "tokenize_chinese_chars": false}),
            "tokenize_chinese_chars",
        ),
        (
            json!({"tokenizer_class": "BertTokenizer", "do_basic_tokenize": false}),
            "do_basic_tokenize",
        ),
        (
            json!({"sep_token": "<end>"}),
            "no token `<end>`, its `sep_token`",
        ),
        (
            json!({"pad_token": "<pad>"}),
            "no token `<pad>`, its `pad_token`",
        ),
        (json!({"sep_token": 3}), "sep_token = 3"),
    ] {
        fs::write(&config, fields.to_string()).unwrap();
        assert!(refused().contains(word), "{fields}: {}", refused());
    }
    // What the file of the tokenizer itself says is enough.
    fs::remove_file(&config).unwrap();
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    let ids = tokenizer.filled("a", 4).unwrap().ids;
    assert_eq!((ids[0], ids[2], ids[3], tokenizer.padding()), (2, 3, 0, 0));
}

#[test]
fn no_field_of_bert_is_ignored_silently() {
    let without_influence = [
        "architectures",
        "attention_probs_dropout_prob",
        "bos_token_id",
        "classifier_dropout",
        "dtype",
        "eos_token_id",
        "hidden_dropout_prob",
        "id2label",
        "initializer_range",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "problem_type",
        "return_dict",
        "tie_word_embeddings",
        "use_cache",
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let described = |field: &str, value: &Value| {
        let mut document = json!({"model_type": "bert"});
        document[field] = value.clone();
        document["architectures"] = json!(["BertModel"]);
        fs::write(&path, document.to_string()).unwrap();
        let description = Models::standard().describe(&path, None);
        description
            .map(|found| found.document)
            .map_err(|e| e.to_string())
    };
    let table = fs::read_to_string(fixtures().join("fields.json")).unwrap();
    let table: Map<String, Value> = serde_json::from_str(&table).unwrap();
    let unchanged = described("return_dict", &json!(true)).unwrap();
    for (field, default) in &table {
        assert_eq!(
            described(field, default).as_ref(),
            Ok(&unchanged),
            "{field} by default"
        );
        let other = match default {
            Value::Bool(value) => json!(!value),
            Value::Number(number) if number.is_f64() => json!(0.25),
            Value::Number(number) => json!(number.as_u64().unwrap() * 2 + 12),
            Value::String(_) => json!("relu"),
            _ => json!(["another"]),
        };
        match described(field, &other) {
            Ok(found) => assert!(
                found != unchanged || without_influence.contains(&field.as_str()),
                "{field} = {other} is ignored"
            ),
            Err(message) => assert!(
                message.contains(&format!("field {field} = ")) || message.contains("/heads"),
                "{field}: {message}"
            ),
        }
    }
    for (field, value) in [
        ("position_embedding_type", json!("relative_key")),
        ("is_decoder", json!(true)),
        ("model_type", json!("roberta")),
        ("new_option", json!(1)),
    ] {
        let refused = described(field, &value).unwrap_err();
        assert!(refused.contains(field), "{refused}");
    }
}

#[test]
#[ignore = "needs all-MiniLM-L6-v2 and what transformers makes of texts with it: tests/real_text.sh"]
fn all_minilm_makes_the_tokens_and_vectors_of_transformers() {
    let folder = |name: &str| PathBuf::from(std::env::var(name).unwrap());
    let (model, work) = (folder("DTTA_MINILM"), folder("DTTA_MINILM_EXPECTED"));
    let tokenizer = Tokenizer::open(&model).unwrap();
    let cases = fs::read_to_string(work.join("strings.json")).unwrap();
    let cases: Value = serde_json::from_str(&cases).unwrap();
    let wrong = wrong(&tokenizer, &cases["strings"], &cases["ids"]);
    assert!(wrong.is_empty(), "{}: {}", wrong.len(), wrong.join("\n"));
    let expected = read_tensors(&work.join("expected.safetensors"), &Device::cpu()).unwrap();
    let strings = cases["strings"].as_array().unwrap();
    let texts = strings
        .iter()
        .map(|text| tokenizer.filled(text.as_str().unwrap(), 64).unwrap().ids);
    let texts: Vec<Vec<u32>> = texts.collect();
    let ids: Vec<f32> = texts.iter().flatten().map(|&id| id as f32).collect();
    assert_eq!(ids, expected["input.ids"].to_floats().unwrap());
    eprintln!("{} strings: the same tokens", texts.len());
    let models = Models::standard();
    let (encoder, weights) = models
        .load_text_encoder(&model, None, &Device::cpu())
        .unwrap();
    assert_eq!((encoder.spec().width, encoder.spec().length), (384, 256));
    let (mut tokens, mut pooled) = (Vec::new(), Vec::new());
    for texts in texts.chunks(50) {
        let found = encoder.encode(&weights, texts).unwrap();
        tokens.push(found.tokens);
        pooled.push(found.pooled);
    }
    let tokens = Tensor::cat(&tokens[..4].iter().collect::<Vec<_>>(), 0).unwrap();
    let pooled = Tensor::cat(&pooled.iter().collect::<Vec<_>>(), 0).unwrap();
    assert_close("tokens of 200 texts", &tokens, &expected["output.tokens"]);
    assert_close(
        "vectors of 1,000 texts",
        &pooled,
        &expected["output.pooled"],
    );
}

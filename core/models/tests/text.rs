//! Tokenizers, text encoders, CLIP and the parts of Stable Diffusion's pipelines, held to transformers and diffusers by the fixtures that
//! `tests/reference/text.py` writes. Tolerances: largest absolute error 2e-4 for what models answer (up to 7 in size); 1e-3 of the largest
//! element for gradients.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{assert_close, assert_gradient, difference, unpacked};
use dtta_models::{
    BatchNormStatistics, LOGIT_SCALE, ModelError, Models, TOKENS, Tokenizer, read_tensors,
};
use dtta_tensor::{Device, Named, Tensor};
use serde_json::{Map, Value, json};

/// What `tests/reference/text.py` calls so.
const PROMPTS: [&str; 3] = [
    "a photo of a cat.",
    "a photo of a very long-haired dog!",
    "été à Łódź 42",
];

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text")
}

fn expected(name: &str) -> BTreeMap<String, Tensor> {
    let path = fixtures().join(name).join("expected.safetensors");
    read_tensors(&path, &Device::cpu()).unwrap()
}

// --- Tokens ---------------------------------------------------------------------------------------------------------------------------

/// Writes the files of CLIP's own tokenizer. Its vocabulary is: the letters that stand for bytes, the same at the end of a word, what
/// merges make, and the two special tokens.
fn whole_tokenizer(folder: &Path) {
    let merges = unpacked(&fixtures().join("merges.txt.gz"));
    let printable = (b'!'..=b'~').chain(0xa1..=0xac).chain(0xae..=0xff);
    let mut letters: Vec<char> = printable.clone().map(char::from).collect();
    letters.extend(
        (256..)
            .map(|n| char::from_u32(n).unwrap())
            .take(256 - letters.len()),
    );
    let mut words: Vec<String> = letters.iter().map(char::to_string).collect();
    words.extend(letters.iter().map(|letter| format!("{letter}</w>")));
    words.extend(merges.lines().map(|line| line.replace(' ', "")));
    words.extend(["<|startoftext|>", "<|endoftext|>"].map(str::to_owned));
    assert_eq!(words.len(), 49408);
    let vocabulary: Map<String, Value> = words
        .into_iter()
        .enumerate()
        .map(|(id, word)| (word, json!(id)))
        .collect();
    let vocabulary = Value::from(vocabulary).to_string();
    fs::write(folder.join("vocab.json"), vocabulary).unwrap();
    let merges = format!("#version: 0.2\n{merges}");
    fs::write(folder.join("merges.txt"), merges).unwrap();
}

#[test]
fn tokens_of_a_thousand_strings_in_many_scripts_are_those_of_transformers() {
    let folder = tempfile::tempdir().unwrap();
    whole_tokenizer(folder.path());
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    let cases: Value =
        serde_json::from_str(&unpacked(&fixtures().join("strings.json.gz"))).unwrap();
    let numbers = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let strings = cases["strings"].as_array().unwrap();
    assert_eq!(strings.len(), 1000);
    let text = |n: usize| strings[n].as_str().unwrap();
    let wrong: Vec<String> = cases["ids"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
        .filter_map(|(n, ids)| {
            let (found, expected) = (tokenizer.tokens(text(n)).unwrap(), numbers(ids));
            (found != expected).then(|| format!("{:?}: {found:?}, {expected:?}", text(n)))
        })
        .collect();
    assert!(wrong.is_empty(), "{}: {}", wrong.len(), wrong.join("\n"));
    let mut cut = 0;
    for (n, ids) in cases["filled_to_20"].as_array().unwrap().iter().enumerate() {
        let found = tokenizer.filled(text(n), 20).unwrap();
        assert_eq!(found.ids, numbers(ids), "{:?}", text(n));
        let all = tokenizer.tokens(text(n)).unwrap().len();
        assert_eq!(found.cut, all.saturating_sub(20));
        cut += usize::from(found.cut > 0);
    }
    assert!(cut > 10, "{cut}");
}

#[test]
fn texts_are_filled_up_with_the_token_that_the_folder_names() {
    let filled = |folder: &str| {
        let tokenizer = Tokenizer::open(&fixtures().join(folder)).unwrap();
        let found = tokenizer.filled(PROMPTS[0], 77).unwrap();
        assert_eq!((found.ids.len(), found.cut), (77, 0));
        assert_eq!(tokenizer.most().unwrap_or(77), 77);
        *found.ids.last().unwrap()
    };
    // The exclamation mark is the first of the letters.
    assert_eq!(filled("sd_v/tokenizer"), 0);
    assert_eq!(filled("sd_epsilon/tokenizer"), 512 + 180 + 1);
    assert_eq!(filled("clip"), 512 + 180 + 1);
}

#[test]
fn refuses_a_tokenizer_that_would_make_other_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let refused = || Tokenizer::open(folder.path()).unwrap_err().to_string();
    assert!(refused().contains("has no tokenizer"), "{}", refused());
    for name in ["vocab.json", "merges.txt"] {
        fs::copy(fixtures().join("clip_gelu").join(name), path(name)).unwrap();
    }
    Tokenizer::open(folder.path()).unwrap();
    for (config, word) in [
        (json!({"do_lower_case": false}), "do_lower_case = false"),
        (json!({"padding_side": "left"}), "padding_side"),
        (json!({"lower": 1}), "field lower = 1"),
        (json!({"tokenizer_class": "T5Tokenizer"}), "`T5Tokenizer`"),
        (json!({"pad_token": "<pad>"}), "no token `<pad>`"),
        (json!({"pad_token": 3}), "pad_token = 3"),
        (
            json!({"added_tokens_decoder": {"x": {"content": "y"}}}),
            "added_tokens_decoder",
        ),
        (json!([1]), "is no object"),
    ] {
        fs::write(path("tokenizer_config.json"), config.to_string()).unwrap();
        assert!(refused().contains(word), "{config}: {}", refused());
    }
    fs::remove_file(path("tokenizer_config.json")).unwrap();
    fs::write(path("merges.txt"), "a b\nab\n").unwrap();
    assert!(refused().contains("line 2"), "{}", refused());
    fs::write(path("merges.txt"), "a 猫\n").unwrap();
    assert!(refused().contains("vocab.json"), "{}", refused());
    fs::write(path("tokenizer.json"), "{}").unwrap();
    assert!(refused().contains("tokenizer.json"), "{}", refused());
}

// --- Text encoders --------------------------------------------------------------------------------------------------------------------

#[test]
fn text_encoders_answer_as_those_of_transformers() {
    for name in ["text_gelu", "text_projected"] {
        let folder = fixtures().join(name);
        let expected = expected(name);
        let tokenizer = Tokenizer::open(&folder).unwrap();
        let texts = PROMPTS.map(|prompt| tokenizer.filled(prompt, 77).unwrap().ids);
        let ids: Vec<f32> = texts.iter().flatten().map(|&id| id as f32).collect();
        assert_eq!(ids, expected["input.ids"].to_floats().unwrap(), "{name}");
        let (encoder, weights) = Models::standard()
            .load_text_encoder(&folder, None, &Device::cpu())
            .unwrap();
        assert_eq!(encoder.spec().projected, name == "text_projected");
        let found = encoder.encode(&weights, &texts).unwrap();
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
        // What a text comes to does not depend on those beside it.
        let alone = encoder.encode(&weights, &texts[1..2]).unwrap();
        let row = found.tokens.narrow(0, 1, 1).unwrap();
        assert!(difference(&alone.tokens, &row).0 < 1e-5);
    }
}

#[test]
fn a_text_encoder_refuses_tokens_that_it_cannot_take() {
    let (encoder, weights) = Models::standard()
        .load_text_encoder(&fixtures().join("text_projected"), None, &Device::cpu())
        .unwrap();
    let end = 512 + 180 + 1;
    for texts in [
        vec![],
        vec![vec![]],
        vec![vec![1, end], vec![end]],
        vec![vec![end; 78]],
        vec![vec![end + 1, end]],
        // The vector of a text is that of its end.
        vec![vec![1, 2]],
    ] {
        let refused = encoder.encode(&weights, &texts).map(|_| ());
        assert!(
            matches!(refused, Err(ModelError::Input { .. })),
            "{texts:?}"
        );
    }
}

// --- CLIP -----------------------------------------------------------------------------------------------------------------------------

#[test]
fn clip_answers_as_that_of_transformers_with_its_gradients() {
    for name in ["clip", "clip_gelu"] {
        let folder = fixtures().join(name);
        let expected = expected(name);
        let (models, device) = (Models::standard(), Device::cpu());
        let (text, weights) = models.load_text_encoder(&folder, None, &device).unwrap();
        let tokenizer = Tokenizer::open(&folder).unwrap();
        let texts = PROMPTS.map(|prompt| tokenizer.filled(prompt, 77).unwrap().ids);
        let texts = text.encode(&weights, &texts).unwrap().pooled;
        assert_close(
            &format!("{name}: texts"),
            &texts,
            &expected["output.text_features"],
        );

        let (backbone, weights) = models.load_backbone(&folder, None, &device).unwrap();
        assert_eq!(backbone.text_space(), Some(8));
        let query = "vision_model.encoder.layers.0.self_attn.q_proj.weight";
        let class = "vision_model.embeddings.class_embedding";
        let ids = [query, class].map(|name| weights.find(name).unwrap());
        let weights = weights.to_leaves(&ids).unwrap();
        let images = expected["input.images"].to_leaf().unwrap();
        let outputs = backbone
            .forward(&weights, &images, BatchNormStatistics::Running)
            .unwrap();
        let features = outputs.get("features").unwrap();
        assert_close(
            &format!("{name}: features"),
            features,
            &expected["output.features"],
        );
        let constants = backbone.constants(&weights).unwrap();
        let scale = constants.get(LOGIT_SCALE).unwrap();
        assert_close(name, scale, &expected["output.logit_scale"]);
        // Cosines by the scale.
        let normal = |x: &Tensor| {
            let norm = x.mul(x).unwrap().sum(&[-1], true).unwrap().sqrt().unwrap();
            x.div(&norm).unwrap()
        };
        let scale: f64 = scale.item().unwrap().into();
        let texts = normal(&texts).permute(&[1, 0]).unwrap();
        let logits = normal(features).matmul(&texts).unwrap();
        let logits = logits.affine(scale, 0.0).unwrap();
        assert_close(
            &format!("{name}: logits"),
            &logits,
            &expected["output.logits"],
        );
        let loss = logits.mul(&expected["input.cotangent"]).unwrap();
        let gradients = loss.sum(&[], false).unwrap().backward().unwrap();
        for (what, leaf) in [
            ("images", &images),
            (query, weights.get(ids[0])),
            (class, weights.get(ids[1])),
        ] {
            let found = gradients.of(leaf).unwrap();
            assert_gradient(what, &found, &expected[&format!("gradient.{what}")]);
        }
    }
}

#[test]
fn a_clip_without_its_image_processor_is_refused_as_a_backbone() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    fs::copy(fixtures().join("clip/config.json"), &config).unwrap();
    let models = Models::standard();
    models.text_encoder(&config).unwrap();
    let message = models
        .backbone(&config)
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(message.contains("preprocessor_config"), "{message}");
    // Newer versions write the configurations of all processors in one file.
    let text = fs::read_to_string(fixtures().join("clip/preprocessor_config.json")).unwrap();
    let processor: Value = serde_json::from_str(&text).unwrap();
    let all = json!({"image_processor": processor, "processor_class": "CLIPProcessor"});
    fs::write(folder.path().join("processor_config.json"), all.to_string()).unwrap();
    let found = models.preprocessing(&config).unwrap().unwrap();
    let own = models.preprocessing(&fixtures().join("clip")).unwrap();
    assert_eq!(Some(found), own);
}

/// Reads a configuration of each class, with a field set to another value.
fn with_field(class: &str, field: &str, value: &Value) -> Result<Value, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let mut document = json!({
        "model_type": "clip", "architectures": ["CLIPModel"], "text_config": {}, "vision_config": {}, "preprocessor": {},
    });
    match class {
        // By itself, where it is described as a whole.
        "text" => {
            document = json!({"model_type": "clip_text_model", "architectures": ["CLIPTextModel"]});
            if field != "architectures" {
                document[field] = value.clone();
            }
        }
        "vision" => document["vision_config"][field] = value.clone(),
        _ => document["preprocessor"][field] = value.clone(),
    }
    fs::write(&path, document.to_string()).unwrap();
    let models = Models::standard();
    let description = models.describe(&path, None).map_err(|e| e.to_string())?;
    Ok(json!([description.document, description.preprocessing]))
}

#[test]
fn no_field_of_clips_classes_is_ignored_silently() {
    let without_influence = [
        "attention_dropout",
        "initializer_range",
        "initializer_factor",
        "bos_token_id",
        "pad_token_id",
        "projection_dim",
        "architectures",
        "dtype",
        "return_dict",
        "output_hidden_states",
        "output_attentions",
        "problem_type",
        "id2label",
        "label2id",
        "do_convert_rgb",
        "data_format",
        "input_data_format",
        "return_tensors",
        "device",
        "disable_grouping",
        "processor_class",
    ];
    let table = fs::read_to_string(fixtures().join("fields.json")).unwrap();
    let table: Map<String, Value> = serde_json::from_str(&table).unwrap();
    let mut seen = 0;
    for (class, fields) in &table {
        let unchanged = with_field(class, "return_dict", &json!(true));
        let unchanged = match class.as_str() {
            "processor" => with_field(class, "do_resize", &json!(true)),
            _ => unchanged,
        };
        let unchanged = unchanged.unwrap();
        for (field, default) in fields.as_object().unwrap() {
            assert_eq!(
                with_field(class, field, default).as_ref(),
                Ok(&unchanged),
                "{class}: {field} by default"
            );
            let other = match default {
                Value::Number(_) if field == "eos_token_id" => json!(7),
                Value::Number(_) if field == "patch_size" => json!(16),
                Value::Bool(value) => json!(!value),
                Value::Number(number) if number.is_f64() => json!(0.25),
                Value::Number(number) => json!(match number.as_u64().unwrap() {
                    0 => 1,
                    number => 2 * number,
                }),
                Value::String(_) => json!("gelu"),
                Value::Array(numbers) if numbers.len() == 3 => json!([0.1, 0.2, 0.3]),
                Value::Object(_) if field == "crop_size" => json!({"height": 96, "width": 64}),
                Value::Object(_) if field == "size" => json!({"shortest_edge": 256}),
                _ => json!(["another"]),
            };
            match with_field(class, field, &other) {
                Ok(found) => assert!(
                    found != unchanged || without_influence.contains(&field.as_str()),
                    "{class}: {field} = {other} is ignored"
                ),
                Err(message) => assert!(
                    message.contains(&format!("field {field} = ")),
                    "{class}: {field}: {message}"
                ),
            }
            seen += 1;
        }
        let unknown = with_field(class, "new_option", &json!(1)).unwrap_err();
        assert!(unknown.contains("new_option"), "{unknown}");
    }
    assert!(seen > 40, "{seen}");
}

#[test]
fn the_values_that_the_first_configurations_had_twice_are_those_of_the_second_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let document = json!({
        "model_type": "clip", "architectures": ["CLIPModel"], "text_config": {"hidden_size": 4, "eos_token_id": 2},
        "text_config_dict": {"hidden_size": 32}, "vision_config": {}, "vision_config_dict": null,
        "preprocessor": {},
    });
    fs::write(&path, document.to_string()).unwrap();
    let encoder = Models::standard().text_encoder(&path).unwrap();
    assert_eq!(encoder.spec().width, 32);
    let described = Models::standard().describe(&path, None).unwrap();
    assert_eq!(described.document["width"], json!(768));
}

// --- Stable Diffusion -----------------------------------------------------------------------------------------------------------------

/// Prompts, their mixture, the network's answer and the gradients of the diffusion loss, all from a pipeline's folder.
fn check_pipeline(name: &str, predicts: &str) {
    let folder = fixtures().join(name);
    let expected = expected(name);
    let (models, device) = (Models::standard(), Device::cpu());
    let tokenizer = Tokenizer::open(&folder.join("tokenizer")).unwrap();
    let texts = PROMPTS.map(|prompt| tokenizer.filled(prompt, 77).unwrap().ids);
    let ids: Vec<f32> = texts.iter().flatten().map(|&id| id as f32).collect();
    assert_eq!(ids, expected["input.ids"].to_floats().unwrap(), "{name}");
    let (text, weights) = models
        .load_text_encoder(&folder.join("text_encoder"), None, &device)
        .unwrap();
    let embeddings = text.encode(&weights, &texts).unwrap().tokens;
    assert_close("embeddings", &embeddings, &expected["output.embeddings"]);
    let (vae, weights) = models
        .load_encoder(&folder.join("vae"), None, &device)
        .unwrap();
    let latents = vae.encode(&weights, &expected["input.images"]).unwrap();
    assert_close("latents", &latents, &expected["output.latents"]);

    let (unet, weights) = models
        .load_denoiser(&folder.join("unet"), None, &device)
        .unwrap();
    let schedule = unet.schedule();
    let config = serde_json::to_value(schedule.config()).unwrap();
    assert_eq!(config["prediction"], json!(predicts), "{name}");
    let times = expected["input.times"].to_floats().unwrap();
    let times: Vec<f64> = times.into_iter().map(f64::from).collect();
    let mixed = schedule
        .mix(&latents, &expected["input.noise"], &times)
        .unwrap();
    assert_close("noisy", &mixed.noisy, &expected["output.noisy"]);
    assert_close("target", &mixed.target, &expected["output.target"]);

    // c = Σ p_j ℓ_j as one product, `[B, K] × [K, L D]`.
    let logits = expected["input.logits"].to_leaf().unwrap();
    let [classes, length, width] = embeddings.shape()[..] else {
        panic!("{}", embeddings.shape())
    };
    let flat = embeddings.reshape(&[classes as i64, -1]).unwrap();
    let mixture = logits.softmax(-1).unwrap().matmul(&flat).unwrap();
    let mixture = mixture.reshape(&[-1, length as i64, width as i64]).unwrap();
    assert_close("mixture", &mixture, &expected["output.mixture"]);
    let loss = |tokens: &Tensor| {
        let answer = unet
            .predict(
                &weights,
                &mixed.noisy,
                &times,
                &Named::one(TOKENS, tokens.clone()),
            )
            .unwrap();
        let distance = answer.sub(&mixed.target).unwrap();
        let loss = distance.mul(&distance).unwrap().mean(&[], false).unwrap();
        (answer, loss)
    };
    let (answer, whole) = loss(&mixture);
    assert_close("answer", &answer, &expected["output.answer"]);
    assert_close("loss", &whole, &expected["output.loss"]);
    let found = whole.backward().unwrap().of(&logits).unwrap();
    assert_gradient("of logits", &found, &expected["gradient.logits"]);
    let cut = mixture.detach().to_leaf().unwrap();
    let found = loss(&cut).1.backward().unwrap().of(&cut).unwrap();
    assert_gradient("of mixture", &found, &expected["gradient.mixture"]);
}

#[test]
fn a_pipeline_of_stable_diffusion_1_gives_the_loss_and_gradients_of_diffusers() {
    check_pipeline("sd_epsilon", "epsilon");
}

#[test]
fn a_pipeline_of_stable_diffusion_2_that_predicts_velocity_does_too() {
    check_pipeline("sd_v", "v");
}

// --- What is published ----------------------------------------------------------------------------------------------------------------

/// Fields that the first versions wrote into every configuration.
fn early(own: Value) -> Value {
    let fields = r#"{
        "_name_or_path": "", "add_cross_attention": false, "architectures": null, "attention_dropout": 0.0, "bad_words_ids": null,
        "bos_token_id": 0, "chunk_size_feed_forward": 0, "cross_attention_hidden_size": null, "decoder_start_token_id": null,
        "diversity_penalty": 0.0, "do_sample": false, "dropout": 0.0, "early_stopping": false, "encoder_no_repeat_ngram_size": 0,
        "eos_token_id": 2, "exponential_decay_length_penalty": null, "finetuning_task": null, "forced_bos_token_id": null,
        "forced_eos_token_id": null, "hidden_act": "quick_gelu", "id2label": {"0": "LABEL_0"}, "initializer_factor": 1.0,
        "initializer_range": 0.02, "is_decoder": false, "is_encoder_decoder": false, "label2id": {"LABEL_0": 0},
        "layer_norm_eps": 1e-5, "length_penalty": 1.0, "max_length": 20, "min_length": 0, "no_repeat_ngram_size": 0,
        "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1, "output_attentions": false, "output_hidden_states": false,
        "output_scores": false, "pad_token_id": 1, "prefix": null, "problem_type": null, "pruned_heads": {},
        "remove_invalid_values": false, "repetition_penalty": 1.0, "return_dict": true, "return_dict_in_generate": false,
        "sep_token_id": null, "task_specific_params": null, "temperature": 1.0, "tie_encoder_decoder": false,
        "tie_word_embeddings": true, "tokenizer_class": null, "top_k": 50, "top_p": 1.0, "torch_dtype": null, "torchscript": false,
        "transformers_version": "4.16.0.dev0", "typical_p": 1.0, "use_bfloat16": false
    }"#;
    let mut fields: Value = serde_json::from_str(fields).unwrap();
    let all = fields.as_object_mut().unwrap();
    all.extend(own.as_object().unwrap().clone());
    fields
}

/// Numbers in the weights that a configuration describes: of the model, and of the text encoder where it is another.
fn parameters(document: &Value, scheduler: Option<&Value>) -> (usize, usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    fs::write(&path, document.to_string()).unwrap();
    if let Some(scheduler) = scheduler {
        let path = folder.path().join("scheduler_config.json");
        fs::write(path, scheduler.to_string()).unwrap();
    }
    let models = Models::standard();
    let count = |specs: &[dtta_models::ParameterSpec]| specs.iter().map(|s| s.elements()).sum();
    let described = models.describe(&path, None).unwrap();
    let text = models
        .text_encoder(&path)
        .map_or(0, |text| count(text.parameters()));
    (count(described.model.parameters()), text)
}

/// The counts are those of the libraries' own classes with these configurations.
#[test]
fn configurations_are_read_as_openai_and_stability_publish_them() {
    let clip = json!({
        "architectures": ["CLIPModel"], "initializer_factor": 1.0, "logit_scale_init_value": 2.6592, "model_type": "clip",
        "projection_dim": 512, "torch_dtype": "float32", "transformers_version": null, "text_config_dict": null,
        "vision_config_dict": null,
        "text_config": early(json!({
            "hidden_size": 512, "intermediate_size": 2048, "max_position_embeddings": 77, "model_type": "clip_text_model",
            "num_attention_heads": 8, "num_hidden_layers": 12, "projection_dim": 512, "vocab_size": 49408,
        })),
        "vision_config": early(json!({
            "hidden_size": 768, "image_size": 224, "intermediate_size": 3072, "model_type": "clip_vision_model",
            "num_attention_heads": 12, "num_hidden_layers": 12, "patch_size": 32, "projection_dim": 512, "bos_token_id": null,
            "eos_token_id": null, "pad_token_id": null,
        })),
        "preprocessor": {
            "crop_size": 224, "do_center_crop": true, "do_normalize": true, "do_resize": true,
            "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.481_454_66, 0.457_827_5, 0.408_210_73],
            "image_std": [0.268_629_54, 0.261_302_58, 0.275_777_11], "resample": 3, "size": 224,
        },
    });
    assert_eq!(parameters(&clip, None), (87_849_216 + 1, 63_428_096));

    let text = |own: Value| {
        let mut document = json!({
            "_name_or_path": "x", "architectures": ["CLIPTextModel"], "attention_dropout": 0.0, "bos_token_id": 0, "dropout": 0.0,
            "eos_token_id": 2, "initializer_factor": 1.0, "initializer_range": 0.02, "layer_norm_eps": 1e-5,
            "max_position_embeddings": 77, "model_type": "clip_text_model", "pad_token_id": 1, "torch_dtype": "float32",
            "transformers_version": "4.25.0.dev0", "vocab_size": 49408,
        });
        let fields = document.as_object_mut().unwrap();
        fields.extend(own.as_object().unwrap().clone());
        parameters(&document, None).1
    };
    let of_1 = json!({
        "hidden_act": "quick_gelu", "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
        "projection_dim": 768,
    });
    assert_eq!(text(of_1), 123_060_480);
    let of_2 = json!({
        "hidden_act": "gelu", "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23,
        "projection_dim": 512,
    });
    assert_eq!(text(of_2), 340_387_840);

    let cross = "CrossAttnDownBlock2D";
    let up = "CrossAttnUpBlock2D";
    let unet = |own: Value, scheduler: &Value| {
        let mut document = json!({
            "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.8.0", "act_fn": "silu",
            "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": false,
            "down_block_types": [cross, cross, cross, "DownBlock2D"], "downsample_padding": 1, "flip_sin_to_cos": true,
            "freq_shift": 0, "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-5,
            "norm_num_groups": 32, "out_channels": 4, "up_block_types": ["UpBlock2D", up, up, up],
        });
        let fields = document.as_object_mut().unwrap();
        fields.extend(own.as_object().unwrap().clone());
        parameters(&document, Some(scheduler)).0
    };
    let pndm = json!({
        "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
        "trained_betas": null, "clip_sample": false,
    });
    let of_1 = json!({"attention_head_dim": 8, "cross_attention_dim": 768, "sample_size": 64});
    assert_eq!(unet(of_1, &pndm), 859_520_964);
    let mut ddim = pndm.clone();
    ddim["_class_name"] = json!("DDIMScheduler");
    ddim["prediction_type"] = json!("v_prediction");
    let of_2 = json!({
        "attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "sample_size": 96, "dual_cross_attention": false,
        "num_class_embeds": null, "only_cross_attention": false, "upcast_attention": true, "use_linear_projection": true,
    });
    assert_eq!(unet(of_2, &ddim), 865_910_724);
}

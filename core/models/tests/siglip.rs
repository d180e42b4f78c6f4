//! SigLIP's tokenizer and both its towers, held to transformers by the fixtures that `tests/reference/siglip.py` writes. Tolerances: largest
//! absolute error 2e-4 for what models answer (up to 7 in size); 1e-3 of the largest element for gradients.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::fs;
use std::path::PathBuf;

use common::{assert_close, assert_gradient, unpacked};
use dtta_models::{
    BatchNormStatistics, LOGIT_SCALE, ModelError, Models, ParameterSpec, Tokenizer, read_tensors,
};
use dtta_tensor::{Device, Tensor};
use serde_json::{Map, Value, json};

/// What `tests/reference/siglip.py` calls so.
const PROMPTS: [&str; 3] = [
    "a photo of a cat.",
    "A photo of a very long-haired dog!",
    "été à Łódź 42",
];

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/siglip")
}

fn model() -> PathBuf {
    fixtures().join("model")
}

fn numbers(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn tokens_of_a_thousand_strings_in_many_scripts_are_those_of_transformers() {
    let tokenizer = Tokenizer::open(&model()).unwrap();
    assert_eq!(tokenizer.most(), Some(64));
    let read =
        |name: &str| -> Value { serde_json::from_str(&unpacked(&fixtures().join(name))).unwrap() };
    let strings = read("../text/strings.json.gz");
    let strings = strings["strings"].as_array().unwrap();
    let expected = read("strings.json.gz");
    let ids = expected["ids"].as_array().unwrap();
    assert_eq!((strings.len(), ids.len()), (1000, 1000));
    let text = |n: usize| strings[n].as_str().unwrap();
    let wrong = (0..1000).filter(|&n| tokenizer.tokens(text(n)).unwrap() != numbers(&ids[n]));
    let wrong: Vec<u32> = wrong.map(|n| n as u32).collect();
    // Python has another small sigma at the end of a word, `tokenizer.json` one for all places.
    let others = numbers(&expected["others"]);
    assert_eq!(wrong, others);
    assert!(others.iter().all(|&n| text(n as usize).contains('Σ')));
    assert!(others.len() < 4, "{others:?}");
    let mut cut = 0;
    for (n, ids) in expected["filled_to_12"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
        .filter(|(n, _)| !others.contains(&(*n as u32)))
    {
        let found = tokenizer.filled(text(n), 12).unwrap();
        assert_eq!(found.ids, numbers(ids), "{:?}", text(n));
        cut += usize::from(found.cut > 0);
    }
    assert!(cut > 10, "{cut}");
}

#[test]
fn siglip_answers_as_that_of_transformers_with_its_gradients() {
    let (models, device) = (Models::standard(), Device::cpu());
    let expected = read_tensors(&model().join("expected.safetensors"), &device).unwrap();
    let (text, weights) = models.load_text_encoder(&model(), None, &device).unwrap();
    assert!(text.spec().projected);
    let tokenizer = Tokenizer::open(&model()).unwrap();
    let length = text.spec().length;
    let texts = PROMPTS.map(|prompt| tokenizer.filled(prompt, length).unwrap().ids);
    let ids: Vec<f32> = texts.iter().flatten().map(|&id| id as f32).collect();
    assert_eq!(ids, expected["input.ids"].to_floats().unwrap());
    let texts = text.encode(&weights, &texts).unwrap();
    assert_close("tokens", &texts.tokens, &expected["output.text_tokens"]);
    assert_close("texts", &texts.pooled, &expected["output.text_features"]);

    let (backbone, weights) = models.load_backbone(&model(), None, &device).unwrap();
    assert_eq!(backbone.text_space(), Some(24));
    let named = [
        "vision_model.encoder.layers.0.self_attn.q_proj.weight",
        "vision_model.embeddings.position_embedding.weight",
        "vision_model.head.probe",
        "vision_model.head.attention.in_proj_weight",
    ];
    let ids = named.map(|name| weights.find(name).unwrap());
    let weights = weights.to_leaves(&ids).unwrap();
    let images = expected["input.images"].to_leaf().unwrap();
    let outputs = backbone
        .forward(&weights, &images, BatchNormStatistics::Running)
        .unwrap();
    let features = outputs.get("features").unwrap();
    assert_close("features", features, &expected["output.features"]);
    let constants = backbone.constants(&weights).unwrap();
    let scale = constants.get(LOGIT_SCALE).unwrap();
    assert_close("scale", scale, &expected["output.logit_scale"]);
    // Cosines by the scale, and the bias, which is the same for all classes.
    let normal = |x: &Tensor| {
        let norm = x.mul(x).unwrap().sum(&[-1], true).unwrap().sqrt().unwrap();
        x.div(&norm).unwrap()
    };
    let scale: f64 = scale.item().unwrap().into();
    let bias: f64 = expected["output.logit_bias"].item().unwrap().into();
    let texts = normal(&texts.pooled).permute(&[1, 0]).unwrap();
    let logits = normal(features).matmul(&texts).unwrap();
    let logits = logits.affine(scale, bias).unwrap();
    assert_close("logits", &logits, &expected["output.logits"]);
    let loss = logits.mul(&expected["input.cotangent"]).unwrap();
    let gradients = loss.sum(&[], false).unwrap().backward().unwrap();
    let leaves = ids.iter().map(|&id| weights.get(id));
    let wanted = named.iter().zip(leaves).chain([(&"images", &images)]);
    for (what, leaf) in wanted {
        let found = gradients.of(leaf).unwrap();
        assert_gradient(what, &found, &expected[&format!("gradient.{what}")]);
    }
}

#[test]
fn a_folder_with_sentencepieces_own_file_alone_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let copy = |name: &str| fs::copy(model().join(name), folder.path().join(name)).unwrap();
    copy("tokenizer_config.json");
    let refused = || Tokenizer::open(folder.path()).unwrap_err();
    assert!(matches!(refused(), ModelError::NoTokenizer { .. }));
    fs::write(folder.path().join("spiece.model"), "x").unwrap();
    let message = refused().to_string();
    assert!(
        message.contains("spiece.model") && message.contains("tokenizer.json"),
        "{message}"
    );
    copy("tokenizer.json");
    Tokenizer::open(folder.path()).unwrap();
    // Without a word on special tokens, those of the class.
    fs::write(folder.path().join("tokenizer_config.json"), "{}").unwrap();
    let found = Tokenizer::open(folder.path()).unwrap();
    let own = Tokenizer::open(&model()).unwrap();
    let filled = |tokenizer: &Tokenizer| tokenizer.filled(PROMPTS[1], 9).unwrap();
    assert_eq!(filled(&found), filled(&own));
    let sampling = json!({"sp_model_kwargs": {"enable_sampling": true}}).to_string();
    fs::write(folder.path().join("tokenizer_config.json"), sampling).unwrap();
    let message = refused().to_string();
    assert!(message.contains("sp_model_kwargs"), "{message}");
}

#[test]
fn a_file_that_prepares_texts_otherwise_than_siglips_class_is_refused_by_what_it_does() {
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str| fs::read_to_string(model().join(name)).unwrap();
    let own: Value = serde_json::from_str(&read("tokenizer.json")).unwrap();
    fs::write(
        folder.path().join("tokenizer_config.json"),
        read("tokenizer_config.json"),
    )
    .unwrap();
    let opened = |change: &dyn Fn(&mut Value)| {
        let mut document = own.clone();
        change(&mut document);
        fs::write(folder.path().join("tokenizer.json"), document.to_string()).unwrap();
        Tokenizer::open(folder.path()).map(drop)
    };
    opened(&|_| {}).unwrap();
    let without = |step: usize| {
        move |document: &mut Value| {
            let steps = document.pointer_mut("/normalizer/normalizers").unwrap();
            steps.as_array_mut().unwrap().remove(step);
        }
    };
    let with = |added: Value| {
        move |document: &mut Value| {
            let steps = document.pointer_mut("/normalizer/normalizers").unwrap();
            steps.as_array_mut().unwrap().insert(0, added.clone());
        }
    };
    let sign = |document: &mut Value| {
        document["normalizer"]["normalizers"][1]["pattern"] = json!({"Regex": "[!-/:-@_{-~]"});
    };
    type Change<'a> = &'a dyn Fn(&mut Value);
    let changes: [(&str, Change<'_>); 8] = [
        ("makes letters small", &without(0)),
        ("takes signs out", &without(1)),
        ("makes one space", &without(2)),
        ("takes spaces off", &without(3)),
        ("NFKC", &without(4)),
        ("takes signs out", &sign),
        ("takes signs out", &|document| {
            document["normalizer"] = Value::Null;
        }),
        (
            "leaves accents",
            &with(
                json!({"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]}),
            ),
        ),
    ];
    for (step, change) in changes {
        let error = opened(change).unwrap_err();
        assert!(matches!(error, ModelError::Tokenizer { .. }), "{step}");
        let message = error.to_string();
        assert!(message.contains(step), "{step}: {message}");
    }
    let other = json!({"tokenizer_class": "T5Tokenizer"}).to_string();
    fs::write(folder.path().join("tokenizer_config.json"), other).unwrap();
    let message = opened(&|_| {}).unwrap_err().to_string();
    assert!(message.contains("T5Tokenizer"), "{message}");
}

#[test]
fn refuses_patches_larger_than_images() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.json");
    let mut config = json!({"kind": "siglip_vision", "image": [3, 20, 30], "patch_size": 21, "width": 8, "hidden_width": 8, "depth": 1,
                            "heads": 2});
    fs::write(&path, config.to_string()).unwrap();
    let message = Models::standard().backbone(&path).err().unwrap();
    assert!(message.to_string().contains("/patch_size"), "{message}");
    config["patch_size"] = json!(7);
    fs::write(&path, config.to_string()).unwrap();
    let backbone = Models::standard().backbone(&path).unwrap();
    let positions = "vision_model.embeddings.position_embedding.weight";
    let table = backbone.parameters().iter().find(|p| p.name == positions);
    assert_eq!(table.unwrap().shape, [8, 8]);
}

/// Reads a configuration with a field of a class set to another value: the backbone and the text encoder that it describes.
fn with_field(class: &str, field: &str, value: &Value) -> Result<Value, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let mut document = json!({
        "model_type": "siglip", "architectures": ["SiglipModel"], "text_config": {}, "vision_config": {}, "preprocessor": {},
    });
    let place = match class {
        "text" => "text_config",
        "vision" => "vision_config",
        _ => "preprocessor",
    };
    document[place][field] = value.clone();
    fs::write(&path, document.to_string()).unwrap();
    let models = Models::standard();
    let shapes = |specs: &[ParameterSpec]| {
        let shapes = specs.iter().map(|spec| json!([spec.name, spec.shape]));
        Value::from_iter(shapes)
    };
    if class == "text" {
        let encoder = models.text_encoder(&path).map_err(|e| e.to_string())?;
        return Ok(json!([shapes(encoder.parameters()), encoder.spec().length]));
    }
    let description = models.describe(&path, None).map_err(|e| e.to_string())?;
    Ok(json!([description.document, description.preprocessing]))
}

#[test]
fn no_field_of_siglips_classes_is_ignored_silently() {
    let without_influence = [
        "architectures",
        "attention_dropout",
        "bos_token_id",
        "do_convert_rgb",
        "dtype",
        "eos_token_id",
        "id2label",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "problem_type",
        "return_dict",
        // Of texts, whose document nothing tells; parity holds them.
        "hidden_act",
        "layer_norm_eps",
        "num_attention_heads",
    ];
    let table = fs::read_to_string(fixtures().join("fields.json")).unwrap();
    let table: Map<String, Value> = serde_json::from_str(&table).unwrap();
    let mut seen = 0;
    for (class, fields) in &table {
        let harmless = if class == "processor" {
            ("do_resize", json!(true))
        } else {
            ("return_dict", json!(true))
        };
        let unchanged = with_field(class, harmless.0, &harmless.1).unwrap();
        for (field, default) in fields.as_object().unwrap() {
            let found = with_field(class, field, default);
            assert_eq!(found.as_ref(), Ok(&unchanged), "{class}: {field}");
            let other = match default {
                Value::Bool(value) => json!(!value),
                Value::Number(number) if number.is_f64() => json!(0.25),
                Value::Number(number) => json!(2 * number.as_u64().unwrap().max(1)),
                Value::String(_) => json!("gelu"),
                Value::Array(numbers) if numbers.len() == 3 => json!([0.1, 0.2, 0.3]),
                Value::Object(_) if field == "size" => json!({"height": 96, "width": 64}),
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

/// The counts are those of the library's class with these configurations.
#[test]
fn configurations_of_published_sizes_have_as_many_parameters_as_in_transformers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let processor = |side: usize| {
        json!({
            "do_normalize": true, "do_rescale": true, "do_resize": true, "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "SiglipImageProcessor", "image_std": [0.5, 0.5, 0.5], "processor_class": "SiglipProcessor",
            "resample": 3, "rescale_factor": 0.003_921_568_627_450_98, "size": {"height": side, "width": side},
        })
    };
    let count = |text: Value, vision: Value, side: usize| {
        let document = json!({
            "architectures": ["SiglipModel"], "initializer_factor": 1.0, "model_type": "siglip", "text_config": text,
            "torch_dtype": "float32", "transformers_version": "4.37.0.dev0", "vision_config": vision, "preprocessor": processor(side),
        });
        fs::write(&path, document.to_string()).unwrap();
        let models = Models::standard();
        let backbone = models.backbone(&path).unwrap();
        let text = models.text_encoder(&path).unwrap();
        let count = |specs: &[ParameterSpec]| specs.iter().map(|s| s.elements()).sum::<usize>();
        (count(backbone.parameters()), count(text.parameters()))
    };
    let small = count(
        json!({"model_type": "siglip_text_model"}),
        json!({"model_type": "siglip_vision_model"}),
        224,
    );
    assert_eq!(small, (92_884_224 + 1, 110_271_744));
    let large = json!({
        "hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": 27,
    });
    let mut text = large.clone();
    text["model_type"] = json!("siglip_text_model");
    let mut vision = large;
    vision["model_type"] = json!("siglip_vision_model");
    vision["image_size"] = json!(384);
    vision["patch_size"] = json!(14);
    assert_eq!(count(text, vision, 384), (428_225_600 + 1, 449_734_896));
}

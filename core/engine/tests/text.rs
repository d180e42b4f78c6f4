//! Models that read what the classes are called: a backbone like CLIP and a denoiser like Stable Diffusion, at toy size, from the folders that
//! transformers and diffusers saved (`tests/reference/text.py`).

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use common::{Fixture, write_samples};
use dtta::{
    Adapter, Batch, DiffusionConfig, Document, Keep, Mode, Plan, Reset, RunOptions, compare_runs,
};
use dtta_data::{CLASS, Image, Sample, Target, Targets};
use dtta_models::{Models, Tokenizer, Weights, read_tensors};
use dtta_tensor::{Device, Tensor};
use serde_json::{Value, json};

/// What `tests/reference/text.py` calls so.
const PROMPTS: [&str; 3] = [
    "a photo of a cat.",
    "a photo of a very long-haired dog!",
    "été à Łódź 42",
];
const NAMES: [&str; 3] = ["cat", "long-haired_dog", "bird"];

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/text")
}

fn plugin(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins");
    folder.join(name).to_str().unwrap().to_owned()
}

fn wave(index: u32, shape: [usize; 3]) -> Image {
    let image = Image::from_fn(shape, |channel, row, column| {
        let phase = index as f32 * 0.37 + row as f32 * 0.4 + column as f32 * 0.7 + channel as f32;
        0.5 + 0.5 * phase.sin()
    });
    image.unwrap()
}

/// Six images of three classes with names.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    named(&fixture, &NAMES);
    fixture
}

fn named(fixture: &Fixture, names: &[&str]) {
    let samples = (0..6u32).map(|index| Sample {
        id: format!("test/{index:05}"),
        image: wave(index, [3, 30, 40]),
        targets: Targets::new().with(CLASS, Target::Class(index % names.len() as u32)),
    });
    write_samples(names, samples.collect(), fixture.path());
}

/// CLIP and Stable Diffusion, by themselves or as components.
fn experiment(clip: &str, pipeline: &str) -> Value {
    let folder = |name: &str| models().join(name).to_str().unwrap().to_owned();
    json!({
        "name": "read",
        "seed": 3,
        "data": {
            "dataset": {"kind": "packed", "path": "sample.safetensors"},
            "stream": {"domains": [{"kind": "clean"}]},
        },
        "models": {
            "backbone": folder(clip),
            "denoiser": {
                "config": folder(&format!("{pipeline}/unet")),
                "preprocess": [
                    {"kind": "resize", "height": 8, "width": 8}, {"kind": "normalise", "mean": [0.5], "std": [0.5]},
                ],
            },
            "encoder": folder(&format!("{pipeline}/vae")),
            "prompts": {},
        },
        "plugins": {"head": {"use": plugin("zero-shot")}, "mapper": {"use": plugin("text-mix")}},
        "method": {
            "kind": "diffusion", "steps": 2, "draws": 4, "micro_batch": 5,
            "timesteps": {"sampler": "stratified", "range": [100, 700]},
            "optimizer": {"kind": "adam", "learning_rate": 1e-2},
        },
        "adaptation": {"mode": {"kind": "single_sample"}, "batch": 3},
    })
}

// --- What plugins are given -----------------------------------------------------------------------------------------------------------

#[test]
fn zero_shot_probabilities_of_an_image_are_those_of_transformers() {
    // SigLIP reads the second without its capital letter.
    for clip in ["clip", "clip_gelu", "../siglip/model"] {
        let fixture = Fixture::new();
        let path = models().join(clip).join("expected.safetensors");
        let expected = read_tensors(&path, &Device::cpu()).unwrap();
        let picture = &expected["input.picture"];
        let [channels, height, width] = picture.shape()[..] else {
            panic!("{}", picture.shape())
        };
        let image = Image::new(channels, height, width, picture.to_floats().unwrap()).unwrap();
        let sample = Sample {
            id: "picture".into(),
            image,
            targets: Targets::new().with(CLASS, Target::Class(0)),
        };
        write_samples(&PROMPTS, vec![sample], fixture.path());
        let mut experiment = experiment(clip, "sd_v");
        experiment["method"] = json!({"kind": "source"});
        experiment["models"]["prompts"] = json!({"templates": ["{}"]});
        fixture.run(&experiment, "run").unwrap();
        let records = fixture.records("run");
        let logits = expected["output.logits"].narrow(0, 0, 1).unwrap();
        let probabilities = logits.softmax(-1).unwrap().to_floats().unwrap();
        let (class, confidence) = probabilities
            .iter()
            .copied()
            .enumerate()
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .unwrap();
        assert_eq!(records[0].source.prediction, Some(class as i64));
        let found = records[0].source.confidence.unwrap();
        assert!((found - confidence).abs() < 1e-4, "{found}, {confidence}");
    }
}

/// What a text encoder makes of texts, by hand: the vectors of tokens and of texts, each of length 1.
fn read(encoder: &str, tokenizer: &str, texts: &[String]) -> (Tensor, Vec<Vec<f32>>) {
    let (encoder, weights) = Models::standard()
        .load_text_encoder(&models().join(encoder), None, &Device::cpu())
        .unwrap();
    let tokenizer = Tokenizer::open(&models().join(tokenizer)).unwrap();
    let tokens: Vec<Vec<u32>> = texts
        .iter()
        .map(|text| tokenizer.filled(text, 77).unwrap().ids)
        .collect();
    let encoded = encoder.encode(&weights, &tokens).unwrap();
    let width = encoder.spec().pooled;
    let rows = encoded.pooled.to_floats().unwrap();
    let rows = rows.chunks(width).map(|row| normal(row.to_vec()));
    (encoded.tokens, rows.collect())
}

fn normal(row: Vec<f32>) -> Vec<f32> {
    let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
    row.into_iter().map(|x| x / length).collect()
}

fn sentences(template: &str) -> Vec<String> {
    let names = NAMES.map(|name| name.replace('_', " "));
    names.map(|name| template.replace("{}", &name)).into()
}

/// The text encoder and the tokenizer of the pipeline.
const OWN: [&str; 2] = ["sd_v/text_encoder", "sd_v/tokenizer"];

/// An adapter that is given the constants which an experiment would compute.
fn adapter(templates: &[&str], top_k: Option<u32>, learning_rate: f64) -> Adapter {
    adapter_that_reads(OWN, templates, top_k, learning_rate)
}

/// The same with another text encoder and tokenizer of the denoiser.
fn adapter_that_reads(
    [encoder, tokenizer]: [&str; 2],
    templates: &[&str],
    top_k: Option<u32>,
    learning_rate: f64,
) -> Adapter {
    let device = Device::cpu();
    let (mut tokens, mut features) = (None::<Tensor>, vec![vec![0.0f32; 8]; 3]);
    let share = 1.0 / templates.len() as f64;
    for template in templates {
        let (found, _) = read(encoder, tokenizer, &sentences(template));
        let found = found.affine(share, 0.0).unwrap();
        tokens = Some(match tokens {
            Some(sum) => sum.add(&found).unwrap(),
            None => found,
        });
        let (_, rows) = read("clip_gelu", "clip_gelu", &sentences(template));
        for (sum, row) in features.iter_mut().zip(rows) {
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
    }
    let features: Vec<f32> = features.into_iter().flat_map(normal).collect();
    let method: DiffusionConfig = serde_json::from_value(json!({
        "draws": 4, "micro_batch": 5, "timesteps": {"sampler": "stratified", "range": [100, 700]},
        "optimizer": {"kind": "sgd", "learning_rate": learning_rate},
    }))
    .unwrap();
    let top = top_k.map_or(json!({}), |k| json!({"top_k": k}));
    let (backbone, weights) = Models::standard()
        .load_backbone(&models().join("clip_gelu"), None, &device)
        .unwrap();
    let backbone = dtta_models::TextClasses::of(backbone, 3).unwrap();
    Adapter::builder()
        .own_backbone(backbone, weights)
        .denoiser(models().join("sd_v/unet"))
        .constant("text-embeddings", tokens.unwrap())
        .constant(
            "text-features",
            Tensor::from_floats(&features, &[3, 8], &device).unwrap(),
        )
        .head(plugin("zero-shot"), json!({}))
        .mapper(plugin("text-mix"), top)
        .method(&method)
        .mode(Mode::Online {
            reset: Reset::Never,
        })
        .seed(3)
        .build()
        .unwrap()
}

#[test]
fn an_experiments_prompts_are_what_text_encoders_make_of_its_sentences() {
    expect_as_by_hand(OWN, json!({}));
}

#[test]
fn a_denoiser_attends_to_what_a_bert_makes_of_sentences() {
    let bert = models().join("../bert/pooler");
    let source = json!({"text_encoder": bert.to_str().unwrap()});
    expect_as_by_hand(["../bert/pooler"; 2], source);
}

/// Expects the losses of an experiment whose denoiser reads with `source` to be those with the same text encoder by hand.
fn expect_as_by_hand(encoder: [&str; 2], source: Value) {
    let templates = ["a photo of a {}.", "itap of the {}", "{}"];
    let fixture = fixture();
    let mut experiment = experiment("clip_gelu", "sd_v");
    // The denoiser is shown the images themselves as latents.
    experiment["models"]["prompts"] = json!({"templates": templates, "denoiser": source});
    experiment["method"]["steps"] = json!(1);
    experiment["adaptation"]["batch"] = json!(1);
    let summary = fixture.run(&experiment, "run").unwrap();
    assert_eq!(summary.predicts, "class");
    let records = fixture.records("run");
    // The same by hand: both views as the experiment has them.
    let mut adapter = adapter_that_reads(encoder, &templates, None, 1e-2);
    let device = Device::cpu();
    let (vae, phi) = Models::standard()
        .load_encoder(&models().join("sd_v/vae"), None, &device)
        .unwrap();
    let document = {
        let path = fixture.write(&experiment);
        let methods = dtta::Methods::standard();
        Document::load(&path, &[], &methods).unwrap()
    };
    let steps = &document
        .experiment
        .models
        .denoiser
        .as_ref()
        .unwrap()
        .preprocess;
    for record in &records {
        let index = record.id.rsplit('/').next().unwrap();
        let image = wave(index.parse().unwrap(), [3, 30, 40]);
        // Packed samples are bytes.
        let image = Image::from_fn([3, 30, 40], |channel, row, column| {
            (255.0 * image.get(channel, row, column).unwrap()).round() / 255.0
        });
        let image = image.unwrap();
        let small = dtta_data::transform(steps, image.clone()).unwrap();
        let small = Tensor::from_floats(small.data(), &[1, 3, 8, 8], &device).unwrap();
        let latents = vae.encode(&phi, &small).unwrap();
        let seen = clip_view(&image);
        adapter.reset();
        let batch = Batch {
            ids: vec![&record.id],
            task: seen,
            denoiser: Some(latents),
        };
        let found = adapter.adapt(&batch).unwrap();
        let close = |a: f32, b: f32| assert!((a - b).abs() < 2e-4 * b.abs().max(1.0), "{a}, {b}");
        close(
            found.source.each[0].confidence.unwrap(),
            record.source.confidence.unwrap(),
        );
        close(found.losses[0][0], record.loss[0]);
    }
}

/// As `preprocessor_config.json` of the fixtures says.
fn clip_view(image: &Image) -> Tensor {
    let steps: Vec<dtta_data::Transform> = serde_json::from_value(json!([
        {"kind": "resize_short", "side": 28, "filter": "bicubic", "as_bytes": true},
        {"kind": "centre_crop", "height": 24, "width": 24},
        {"kind": "normalise", "mean": [0.481_454_66, 0.457_827_5, 0.408_210_73], "std": [0.268_629_54, 0.261_302_58, 0.275_777_11]},
    ]))
    .unwrap();
    let seen = dtta_data::transform(&steps, image.clone()).unwrap();
    Tensor::from_floats(seen.data(), &[1, 3, 24, 24], &Device::cpu()).unwrap()
}

// --- The whole chain ------------------------------------------------------------------------------------------------------------------

/// The loss at `theta`, and the weights one step of descent away.
fn step(adapter: &mut Adapter, theta: &Weights) -> (f64, Weights) {
    adapter.reset();
    let mut state = adapter.state();
    for (_, spec, tensor) in theta.iter() {
        let name = format!("task/weights/{}", spec.name);
        state.tensors.insert(name, tensor.clone());
    }
    adapter.restore(state).unwrap();
    let waves = |shape: [usize; 4]| {
        let numbers: Vec<f32> = (0..shape.iter().product())
            .map(|n: usize| (n as f32 * 0.61).sin())
            .collect();
        Tensor::from_floats(&numbers, &shape, &Device::cpu()).unwrap()
    };
    let batch = Batch {
        ids: vec!["a", "b"],
        task: waves([2, 3, 24, 24]),
        denoiser: Some(waves([2, 4, 8, 8])),
    };
    let adapted = adapter.adapt(&batch).unwrap();
    let losses = adapted.losses.iter().map(|loss| f64::from(loss[0]));
    let mut moved = theta.clone();
    let state = adapter.state();
    for id in theta.ids() {
        let name = format!("task/weights/{}", theta.spec(id).name);
        moved.set(id, state.tensors[&name].clone()).unwrap();
    }
    (losses.sum::<f64>() / 2.0, moved)
}

/// From the loss of the denoiser through the mixture of sentences, the head and CLIP, all through components.
#[test]
fn the_gradient_of_the_whole_chain_agrees_with_finite_differences() {
    for top_k in [None, Some(2)] {
        let rate = 1e3;
        let mut adapter = adapter(&["a photo of a {}."], top_k, rate);
        let theta = adapter.tools().source().clone();
        let (_, moved) = step(&mut adapter, &theta);
        let ids: Vec<_> = theta.ids().collect();
        let gradient: Vec<Vec<f64>> = ids
            .iter()
            .map(|&id| {
                let difference = theta.get(id).sub(moved.get(id)).unwrap();
                let values = difference.to_floats().unwrap();
                values.into_iter().map(|x| f64::from(x) / rate).collect()
            })
            .collect();
        let square = |part: &Vec<f64>| part.iter().map(|x| x * x).sum::<f64>();
        // Along everything, and along the first layer of the first block alone.
        let query = "vision_model.encoder.layers.0.self_attn.q_proj.weight";
        let only = |n: usize| theta.spec(ids[n]).name == query;
        for alone in [false, true] {
            let direction: Vec<Vec<f64>> = gradient
                .iter()
                .enumerate()
                .map(|(n, part)| match alone && !only(n) {
                    true => vec![0.0; part.len()],
                    false => part.clone(),
                })
                .collect();
            let length = direction.iter().map(square).sum::<f64>().sqrt();
            assert!(length > 1e-6, "a gradient of {length} tests nothing");
            let mut at = |distance: f64| {
                let mut weights = theta.clone();
                for (&id, part) in ids.iter().zip(&direction) {
                    let values = theta.get(id).to_floats().unwrap();
                    let values: Vec<f32> = values
                        .iter()
                        .zip(part)
                        .map(|(x, d)| (f64::from(*x) + distance * d / length) as f32)
                        .collect();
                    let shape = theta.get(id).shape();
                    let value = Tensor::from_floats(&values, &shape, &Device::cpu()).unwrap();
                    weights.set(id, value).unwrap();
                }
                step(&mut adapter, &weights).0
            };
            // The loss is known to about 1e-7, so a shorter gradient asks for a longer way. Two differences leave no error of order h².
            let h = if alone { 4e-2 } else { 1e-2 };
            let mut difference = |h: f64| (at(h) - at(-h)) / (2.0 * h);
            let slope = (4.0 * difference(h / 2.0) - difference(h)) / 3.0;
            assert!(
                (slope / length - 1.0).abs() < 0.03,
                "{top_k:?}, alone {alone}: {slope} for {length}"
            );
        }
    }
}

#[test]
fn components_and_linked_plugins_adapt_clip_by_stable_diffusion_to_the_same_records() {
    let fixture = fixture();
    let experiment = experiment("clip", "sd_epsilon");
    fixture.run(&experiment, "components").unwrap();
    let mut linked = experiment.clone();
    linked["plugins"]["head"]["use"] = json!("linked:zero-shot");
    linked["plugins"]["mapper"]["use"] = json!("linked:text-mix");
    fixture.run(&linked, "linked").unwrap();
    let (components, linked) = (fixture.records("components"), fixture.records("linked"));
    assert_eq!(components.len(), 6);
    for (a, b) in components.iter().zip(&linked) {
        assert_eq!(
            (&a.source, &a.adapted, &a.loss),
            (&b.source, &b.adapted, &b.loss)
        );
        assert_ne!(a.source.confidence, a.adapted.confidence);
    }
}

#[test]
fn features_that_are_not_normalised_give_the_same_classes_more_surely() {
    let fixture = fixture();
    let mut experiment = experiment("clip", "sd_v");
    experiment["method"] = json!({"kind": "source"});
    fixture.run(&experiment, "normal").unwrap();
    experiment["plugins"]["head"]["config"] = json!({"normalise": false});
    fixture.run(&experiment, "official").unwrap();
    let (normal, official) = (fixture.records("normal"), fixture.records("official"));
    let mut surer = 0;
    for (normal, official) in normal.iter().zip(&official) {
        assert_eq!(normal.source.prediction, official.source.prediction);
        surer += usize::from(official.source.confidence > normal.source.confidence);
    }
    assert_eq!(surer, normal.len());
}

// --- Names of classes -----------------------------------------------------------------------------------------------------------------

#[test]
fn names_are_those_of_the_dataset_or_of_the_experiment_or_of_a_file() {
    let fixture = fixture();
    let mut experiment = experiment("clip", "sd_v");
    experiment["method"]["steps"] = json!(1);
    let run = |experiment: &Value, out: &str| {
        fixture.run(experiment, out).unwrap();
        let records = fixture.records(out);
        let each = records
            .into_iter()
            .map(|record| (record.source, record.loss));
        each.collect::<Vec<_>>()
    };
    let of_dataset = run(&experiment, "dataset");
    let names = ["cat", "long-haired dog", "bird"];
    experiment["models"]["prompts"] = json!({"classes": names});
    assert_eq!(run(&experiment, "list"), of_dataset);
    fs::write(fixture.path().join("names.txt"), names.join("\n")).unwrap();
    experiment["models"]["prompts"] = json!({"classes_file": "names.txt"});
    assert_eq!(run(&experiment, "file"), of_dataset);
    experiment["models"]["prompts"] = json!({"classes": ["cat", "long-haired dog", "fish"]});
    assert_ne!(run(&experiment, "other"), of_dataset);
    // Some of more classes, and one that is two of them.
    experiment["models"]["label_space"] = json!({"kind": "subset", "classes": [3, 1, 0]});
    experiment["models"]["prompts"] =
        json!({"classes": ["bird", "long-haired dog", "horse", "cat"]});
    assert_eq!(run(&experiment, "some"), of_dataset);
}

#[test]
fn each_model_may_have_sentences_of_its_own() {
    let fixture = fixture();
    let mut experiment = experiment("clip", "sd_v");
    experiment["method"]["steps"] = json!(1);
    let mut run = |prompts: Value, out: &str| {
        experiment["models"]["prompts"] = prompts;
        fixture.run(&experiment, out).unwrap();
        let records = fixture.records(out);
        let source: Vec<_> = records.iter().map(|record| record.source.clone()).collect();
        let loss: Vec<_> = records.iter().map(|record| record.loss.clone()).collect();
        (source, loss)
    };
    let both = run(json!({"templates": ["the {}"]}), "both");
    let denoiser = run(
        json!({"templates": ["the {}"], "denoiser": {"templates": ["{}", "a {}"]}}),
        "denoiser",
    );
    assert_eq!(denoiser.0, both.0);
    assert_ne!(denoiser.1, both.1);
    let backbone = run(
        json!({"templates": ["the {}"], "backbone": {"templates": ["{class}!"]}}),
        "backbone",
    );
    assert_ne!(backbone.0, both.0);
}

// --- What is wrong --------------------------------------------------------------------------------------------------------------------

fn refusal(fixture: &Fixture, experiment: &Value) -> String {
    let refused = fixture.prepare(experiment).map(|_| ()).unwrap_err();
    dtta::told(&refused)
}

#[test]
fn refuses_prompts_that_do_not_fit_by_pointer() {
    let fixture = fixture();
    let path = |name: &str| models().join(name).to_str().unwrap().to_owned();
    let long = format!("a {}photo of {{}}", "very ".repeat(80));
    fs::write(fixture.path().join("gap.txt"), "a\n\nb\n").unwrap();
    let other_padding = fixture.path().join("bert");
    copy(&models().join("../bert/pooler"), &other_padding);
    let config = other_padding.join("config.json");
    let other = fs::read_to_string(&config).unwrap();
    let other = other.replace("\"pad_token_id\": 0", "\"pad_token_id\": 1");
    fs::write(&config, other).unwrap();
    for (prompts, pointer, word) in [
        (Value::Null, "/models/prompts", "is missing"),
        (json!({"templates": []}), "/models/prompts/templates", ""),
        (
            json!({"templates": ["a {colour} {}"]}),
            "/models/prompts/templates/0",
            "`colour`",
        ),
        (
            json!({"templates": ["a photo"]}),
            "/models/prompts/templates/0",
            "no place",
        ),
        (
            json!({"templates": [long.as_str()]}),
            "/models/prompts/backbone",
            "3 of 3 sentences have more than 77 tokens",
        ),
        (
            json!({"denoiser": {"templates": [long.as_str()]}}),
            "/models/prompts/denoiser",
            "truncate",
        ),
        (
            json!({"classes": ["a", "b"]}),
            "/models/prompts",
            "it has 2 classes, the dataset 3",
        ),
        (
            json!({"classes": ["a", "", "c"]}),
            "/models/prompts/classes/1",
            "is empty",
        ),
        (
            json!({"classes_file": "gap.txt"}),
            "/models/prompts/classes_file",
            "line 2",
        ),
        (
            json!({"classes": ["a"], "classes_file": "gap.txt"}),
            "/models/prompts/classes_file",
            "give one of them",
        ),
        (
            json!({"denoiser": {"text_encoder": path("nowhere")}}),
            "/models/prompts/denoiser/text_encoder",
            "is not there",
        ),
        (
            json!({"denoiser": {"tokenizer": path("sd_v/vae")}}),
            "/models/prompts/denoiser/tokenizer",
            "has no tokenizer",
        ),
        (
            json!({"backbone": {"text_encoder": path("sd_v/text_encoder")}}),
            "/models/prompts/backbone",
            "does not project",
        ),
        (
            json!({"denoiser": {"text_encoder": path("../bert/sentences")}}),
            "/models/prompts/denoiser/text_encoder",
            "20 vectors of 16",
        ),
        (
            // Whose padding the text encoder does not know for such.
            json!({"denoiser": {"text_encoder": other_padding.to_str().unwrap(), "tokenizer": path("../bert/pooler")}}),
            "/models/prompts/denoiser/tokenizer",
            "fills texts up with token 0, the text encoder leaves out token 1",
        ),
        (
            json!({"template": ["{}"]}),
            "/models/prompts/template",
            "did you mean `templates`?",
        ),
    ] {
        let mut experiment = experiment("clip", "sd_v");
        experiment["models"]["prompts"] = prompts.clone();
        if prompts.is_null() {
            experiment["models"]
                .as_object_mut()
                .unwrap()
                .remove("prompts");
        }
        let message = refusal(&fixture, &experiment);
        assert!(
            message.contains(&format!("{pointer}: ")) && message.contains(word),
            "{prompts}: {message}"
        );
    }
    // Told to, the end is left out.
    let mut experiment = experiment("clip", "sd_v");
    experiment["models"]["prompts"] = json!({"templates": [long], "truncate": true});
    fixture.prepare(&experiment).unwrap();
}

#[test]
fn refuses_names_that_no_text_encoder_understands() {
    let fixture = fixture();
    for names in [["n01440764", "n01443537", "n01484850"], ["0", "1", "2"]] {
        named(&fixture, &names);
        let message = refusal(&fixture, &experiment("clip", "sd_v"));
        assert!(
            message.contains("/models/prompts: ") && message.contains(names[0]),
            "{message}"
        );
    }
}

#[test]
fn a_classifier_with_classes_of_its_own_asks_for_as_many_names() {
    let fixture = fixture();
    let resnet = json!({"kind": "resnet", "image": [3, 8, 8], "classes": 3, "block": "basic", "blocks": [1],
                        "widths": [8], "stem": "small", "norm": {"kind": "group", "groups": 4}});
    let path = fixture.path().join("three.json");
    fs::write(&path, resnet.to_string()).unwrap();
    common::save(&path, 5);
    let mut experiment = experiment("clip", "sd_epsilon");
    experiment["models"]["backbone"] = json!({
        "config": "three.json", "preprocess": [{"kind": "resize", "height": 8, "width": 8}],
    });
    experiment["plugins"]["head"]["use"] = json!("linked:classification");
    fixture.run(&experiment, "run").unwrap();
    let records = fixture.records("run");
    assert!(records.iter().any(|record| record.source != record.adapted));
    experiment["models"]["prompts"] = json!({"classes": ["a", "b"]});
    let message = refusal(&fixture, &experiment);
    assert!(
        message.contains("/models/prompts/classes: are 2 names, the backbone has 3 classes"),
        "{message}"
    );
    experiment["models"]["prompts"] = json!({"backbone": {}});
    let message = refusal(&fixture, &experiment);
    assert!(
        message.contains("/models/prompts/backbone: ") && message.contains("classes of its own"),
        "{message}"
    );
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

#[test]
fn a_run_does_not_go_on_with_another_text_encoder_or_tokenizer() {
    let fixture = fixture();
    copy(&models().join("sd_v"), &fixture.path().join("sd"));
    let mut experiment = experiment("clip", "sd_v");
    experiment["models"]["denoiser"]["config"] = json!("sd/unet");
    experiment["models"]["encoder"] = json!("sd/vae");
    experiment["adaptation"]["batch"] = json!(1);
    let stopped = fixture.run_until(&experiment, "run", false, 2);
    assert!(matches!(stopped, Err(dtta::Error::Interrupted { .. })));
    let again = || {
        let refused = fixture.run_until(&experiment, "run", true, usize::MAX);
        dtta::told(&refused.map(|_| ()).unwrap_err())
    };
    let tokens = fixture.path().join("sd/tokenizer/special_tokens_map.json");
    let text = fs::read_to_string(&tokens).unwrap();
    fs::write(&tokens, text.replace("\"!\"", "\"<|endoftext|>\"")).unwrap();
    let message = again();
    assert!(message.contains("prompts/denoiser/token"), "{message}");
    fs::write(&tokens, text).unwrap();
    let config = fixture.path().join("sd/text_encoder/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"gelu\"", "\"quick_gelu\"")).unwrap();
    let message = again();
    assert!(
        message.contains("prompts/denoiser/configuration"),
        "{message}"
    );
    fs::write(&config, text).unwrap();
    fixture
        .run_until(&experiment, "run", true, usize::MAX)
        .unwrap();
    assert_eq!(fixture.records("run").len(), 6);
}

#[test]
fn what_texts_come_to_is_kept_for_other_runs() {
    let fixture = fixture();
    let experiment = experiment("clip", "sd_v");
    let keep = Keep {
        folder: fixture.path().join("kept"),
        max_bytes: 1 << 20,
    };
    let run = |out: &str, experiment: &Value| {
        let mut prepared = fixture.prepare_keeping(experiment, Some(&keep)).unwrap();
        let stop = AtomicBool::new(false);
        let options = RunOptions::new(fixture.path().join(out), &stop);
        prepared.run(&options, Vec::new()).unwrap();
        let records = fixture.records(out).into_iter();
        let numbers = records.map(|record| (record.id, record.loss, record.adapted));
        numbers.collect::<Vec<_>>()
    };
    let files = || -> BTreeMap<PathBuf, SystemTime> {
        let entries = fs::read_dir(&keep.folder).unwrap();
        let about = entries.map(|entry| entry.unwrap());
        about
            .map(|entry| (entry.path(), entry.metadata().unwrap().modified().unwrap()))
            .collect()
    };
    let first = run("first", &experiment);
    // Six latents, what the backbone reads and what the denoiser does.
    let kept = files();
    assert_eq!(kept.len(), 8);
    assert_eq!(run("second", &experiment), first);
    assert_eq!(files(), kept);
    fixture.run(&experiment, "plain").unwrap();
    let plain = fixture.records("plain").into_iter();
    let plain = plain.map(|record| (record.id, record.loss, record.adapted));
    assert_eq!(plain.collect::<Vec<_>>(), first);
    // Other sentences for one of them.
    let mut other = experiment.clone();
    other["models"]["prompts"] = json!({"denoiser": {"templates": ["a drawing of a {}"]}});
    assert_ne!(run("other", &other), first);
    assert_eq!(files().len(), 9);
}

#[test]
fn runs_whose_classifier_read_other_sentences_have_source_models_of_their_own() {
    let fixture = fixture();
    let mut experiment = experiment("clip", "sd_v");
    let drawing = json!(["a drawing of a {}"]);
    for (name, prompts) in [
        ("one", json!({})),
        ("two", json!({ "templates": drawing })),
        ("three", json!({ "denoiser": { "templates": drawing } })),
    ] {
        experiment["name"] = json!(name);
        experiment["models"]["prompts"] = prompts;
        fixture.run(&experiment, name).unwrap();
    }
    let folders = ["one", "two", "three"].map(|name| fixture.path().join(name));
    let found = compare_runs(&folders, &common::extensions(), &Device::cpu()).unwrap();
    let own = found
        .methods
        .iter()
        .map(|method| Some(&method.own_source.as_ref()?.of));
    let two = &found.methods[1].name;
    assert_eq!(own.collect::<Vec<_>>(), [None, Some(two), None]);
}

#[test]
fn a_plan_names_what_prompts_lack() {
    let fixture = fixture();
    copy(&models().join("sd_v"), &fixture.path().join("sd"));
    let mut experiment = experiment("clip", "sd_v");
    experiment["models"]["denoiser"]["config"] = json!("sd/unet");
    experiment["models"]["denoiser"]["origin"] = json!("somewhere");
    experiment["models"]["encoder"] = json!("sd/vae");
    experiment["models"]["prompts"] = json!({"classes": ["a", "b", "c"]});
    let extensions = common::extensions();
    let plan = |experiment: &Value| {
        let path = fixture.write(experiment);
        let document = Document::load(&path, &[], &extensions.methods).unwrap();
        Plan::of(&document, &extensions, Device::cpu()).unwrap()
    };
    assert_eq!(plan(&experiment).missing, []);
    let weights = "sd/text_encoder/model.safetensors";
    fs::remove_file(fixture.path().join(weights)).unwrap();
    let found = plan(&experiment);
    let pointers: Vec<&str> = found.missing.iter().map(|m| m.pointer.as_str()).collect();
    assert_eq!(pointers, ["/models/prompts/denoiser/weights"]);
    assert_eq!(found.missing[0].origin.as_deref(), Some("somewhere"));
    let size = |plan: &Plan| {
        let work = plan.work.as_ref().unwrap();
        assert!(work.draw.is_some());
        (work.task_parameters, work.denoiser_parameters)
    };
    let whole = size(&found);
    // The models' configurations are enough: what the texts are changes no shape.
    let mut bare = experiment.clone();
    copy(&models().join("clip"), &fixture.path().join("bare"));
    for file in ["model.safetensors", "tokenizer.json"] {
        fs::remove_file(fixture.path().join("bare").join(file)).unwrap();
    }
    bare["models"]["backbone"] = json!("bare");
    bare["models"]["prompts"]["denoiser"] =
        json!({"text_encoder": "hf:nobody/has-it/text_encoder", "origin": "the Hub"});
    let found = plan(&bare);
    let named: Vec<(&str, &str)> = found
        .missing
        .iter()
        .map(|m| (m.pointer.as_str(), m.path.to_str().unwrap()))
        .collect();
    let [weights, tokenizer, ..] = named[..] else {
        panic!("{named:?}")
    };
    assert_eq!(weights.0, "/models/backbone/weights");
    assert!(weights.1.ends_with("bare/model.safetensors"), "{named:?}");
    assert_eq!(tokenizer.0, "/models/prompts/backbone/tokenizer");
    assert!(tokenizer.1.ends_with("bare/tokenizer.json"), "{named:?}");
    let pointers: Vec<&str> = named[2..].iter().map(|(pointer, _)| *pointer).collect();
    assert_eq!(
        pointers,
        [
            "/models/prompts/denoiser/text_encoder",
            "/models/prompts/denoiser/tokenizer"
        ]
    );
    assert_eq!(size(&found), whole);
    fs::remove_dir_all(fixture.path().join("sd/tokenizer")).unwrap();
    assert_eq!(size(&plan(&experiment)), whole);
    experiment["models"]["prompts"] = json!({"classes_file": "names.txt"});
    let found = plan(&experiment);
    let pointers: Vec<&str> = found.missing.iter().map(|m| m.pointer.as_str()).collect();
    assert_eq!(
        pointers,
        [
            "/models/prompts/classes_file",
            "/models/prompts/denoiser/weights",
            "/models/prompts/denoiser/tokenizer"
        ]
    );
    assert!(found.work.is_none());
}

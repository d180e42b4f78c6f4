//! Segmenters and depth predictors of published structure with the feedback of a U-Net that a ControlNet steers, through the plugins'
//! WebAssembly components.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{Fixture, extensions, registry};
use dtta::{Adapter, Batch, DiffusionConfig, Document, Missing, Mode, Plan, Reset};
use dtta_models::{Group, Models, Precision, Tokenizer, Weights, read_tensors, write_tensors};
use dtta_plugin::{Loading, Role};
use dtta_tensor::{Device, Tensor};
use serde_json::{Value, json};

const TASKS: [&str; 2] = ["segmentation", "depth"];

/// A segmenter of 3 classes like SegFormer and a depth predictor like Depth Anything, both of 12 × 16, and a U-Net of 6 × 8 with a ControlNet
/// that takes images of 12 × 16.
fn models(folder: &Path) {
    let level = |width: usize, patch: usize, stride: usize, reduction: usize| {
        json!({
            "width": width, "depth": 1, "heads": 2, "hidden_width": 2 * width, "patch_size": patch, "stride": stride,
            "reduction": reduction,
        })
    };
    let segmenter = json!({
        "kind": "segformer", "image": [3, 12, 16], "classes": 3, "decoder_width": 6,
        "levels": [level(4, 3, 2, 2), level(8, 3, 2, 1)],
    });
    let depth = json!({
        "kind": "dpt", "image": [3, 12, 16],
        "encoder": {
            "patch_size": 4, "grid": [2, 2], "position_interpolation": "bicubic", "width": 8, "heads": 2, "hidden_width": 16,
            "layer_scale": true, "epsilon": 1e-6, "taps": [1, 2], "norm_taps": true,
        },
        "readout": "ignore", "factors": [2.0, 1.0], "neck_widths": [4, 6], "fusion_width": 4, "enlarged": "to_next",
        "head": {"width": 4, "extents": "image", "activation": "sigmoid", "scale": 10.0},
    });
    let half = json!({
        "image": [3, 6, 8], "block_out_channels": [8, 8], "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "layers_per_block": 1, "norm_num_groups": 2, "tokens": {"length": 3, "width": 4, "heads": 2},
    });
    let steered = json!({
        "kind": "controlnet", "unet": half, "controlnet": {"encoder": half, "widths": [4, 6]}, "prompt": "within",
        // So that differences of the loss stand above its last bits.
        "conditioning_scale": 8.0,
    });
    for (name, config, seed) in [
        ("segmentation", segmenter, 1),
        ("depth", depth, 2),
        ("steered", steered, 3),
    ] {
        let path = folder.join(name).with_extension("json");
        fs::write(&path, config.to_string()).unwrap();
        fill(&path, seed);
    }
}

/// Weights under which every path matters, beside a configuration.
fn fill(config: &Path, seed: u64) {
    let device = Device::cpu();
    let models = Models::standard();
    let specs = match models.denoiser(config) {
        Ok(denoiser) => denoiser.parameters().clone(),
        Err(_) => models.backbone(config).unwrap().parameters().clone(),
    };
    let mut weights = Weights::initialise(&specs, seed, &device).unwrap();
    for id in weights.ids().collect::<Vec<_>>() {
        let spec = weights.spec(id).clone();
        let mut values = vec![0.0; spec.elements()];
        let draws = dtta::Draws {
            seed,
            count: 1,
            sampler: dtta::TimestepSampler::Uniform,
            range: dtta_models::TimeRange {
                low: 0.0,
                high: 1.0,
                whole: true,
            },
            noise: dtta::NoiseSharing::Fresh,
        };
        draws.noise(&spec.name, 0, 0, &mut values);
        let inputs: usize = spec.shape.iter().skip(1).product();
        let (scale, offset) = match (spec.group, spec.shape.len()) {
            _ if spec.name.ends_with("running_var") => (0.0, 1.0),
            (Group::Norm, _) if spec.name.ends_with("weight") => (0.2, 1.0),
            // A scale of each channel.
            (Group::Weight, 1) => (0.1, 0.5),
            (Group::Weight | Group::Head, 2..) => (1.0 / (inputs as f32).sqrt(), 0.0),
            (Group::Embedding, _) => (0.5, 0.0),
            _ if spec.name == "prompt" => (1.0, 0.0),
            _ => (0.2, 0.0),
        };
        values
            .iter_mut()
            .for_each(|value| *value = *value * scale + offset);
        let values = Tensor::from_floats(&values, &spec.shape, &device).unwrap();
        weights.set(id, values).unwrap();
    }
    let path = config.with_extension("safetensors");
    weights
        .save(&path, Precision::F32, &BTreeMap::new())
        .unwrap();
}

/// Plugin and configuration of head and mapper.
fn plugins(task: &str) -> [(&'static str, Value); 2] {
    let range = json!({"scale": "inverse", "minimum": 0.5, "maximum": 40.0});
    match task {
        "segmentation" => [
            ("segmentation", json!({})),
            (
                "palette-mix",
                json!({"palette": [[120, 120, 120], [6, 230, 230], [255, 0, 51]]}),
            ),
        ],
        _ => [
            ("depth", json!({"range": range, "output": "depth"})),
            ("depth", json!({"range": range, "values": "stretched"})),
        ],
    }
}

/// An adapter, online with plain gradient descent at rate 1, through the plugins' WebAssembly components; and its source weights.
fn adapter(folder: &Path, task: &str) -> (Adapter, Weights) {
    let method: DiffusionConfig = serde_json::from_value(json!({
        "draws": 4, "micro_batch": 5, "timesteps": {"sampler": "stratified", "range": [100, 700]},
        "optimizer": {"kind": "sgd", "learning_rate": 1.0},
    }))
    .unwrap();
    let component = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../plugins/{name}"));
        path.to_str().unwrap().to_owned()
    };
    let [(head, of_head), (mapper, of_mapper)] = plugins(task);
    let mut adapter = Adapter::builder()
        .backbone(folder.join(task).with_extension("json"))
        .denoiser(folder.join("steered.json"))
        .head(component(head), of_head)
        .mapper(component(mapper), of_mapper)
        .method(&method)
        .mode(Mode::Online {
            reset: Reset::Never,
        })
        .seed(5)
        .build()
        .unwrap();
    let theta = adapter.tools().source().clone();
    (adapter, theta)
}

fn images(extents: [usize; 2]) -> Tensor {
    let shape = [2, 3, extents[0], extents[1]];
    let pixels: Vec<f32> = (0..shape.iter().product())
        .map(|n: usize| (n as f32 * 0.61).sin())
        .collect();
    Tensor::from_floats(&pixels, &shape, &Device::cpu()).unwrap()
}

/// The loss at `theta`, and the weights one step of descent away.
fn step(adapter: &mut Adapter, theta: &Weights) -> (f64, Weights) {
    adapter.reset();
    let mut state = adapter.state();
    for (_, spec, tensor) in theta.iter() {
        let name = format!("task/weights/{}", spec.name);
        state.tensors.insert(name, tensor.clone());
    }
    adapter.restore(state).unwrap();
    let batch = Batch {
        ids: vec!["a", "b"],
        task: images([12, 16]),
        denoiser: Some(images([6, 8])),
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

#[test]
fn the_gradient_of_the_whole_chain_agrees_with_finite_differences() {
    let folder = tempfile::tempdir().unwrap();
    models(folder.path());
    for task in TASKS {
        let (mut adapter, theta) = adapter(folder.path(), task);
        let (_, moved) = step(&mut adapter, &theta);
        let ids: Vec<_> = theta.ids().collect();
        let gradient: Vec<Vec<f32>> = ids
            .iter()
            .map(|&id| {
                theta
                    .get(id)
                    .sub(moved.get(id))
                    .unwrap()
                    .to_floats()
                    .unwrap()
            })
            .collect();
        let norm = |values: &[Vec<f32>]| {
            let squares = values.iter().flatten().map(|&x| f64::from(x).powi(2));
            squares.sum::<f64>().sqrt()
        };
        let whole = norm(&gradient);
        assert!(whole > 1e-3, "{task}: a gradient of {whole} tests nothing");
        // Along the gradient of everything, and along that of the first layer alone: the far end of the chain.
        let first = ids
            .iter()
            .position(|&id| theta.spec(id).name.ends_with("proj.weight"))
            .unwrap();
        let alone: Vec<Vec<f32>> = gradient
            .iter()
            .enumerate()
            .map(|(n, part)| match n == first {
                true => part.clone(),
                false => vec![0.0; part.len()],
            })
            .collect();
        for (name, direction) in [("everything", &gradient), ("the first layer", &alone)] {
            let length = norm(direction);
            let mut at = |distance: f64| {
                let mut weights = theta.clone();
                for (&id, part) in ids.iter().zip(direction) {
                    let shape = theta.get(id).shape();
                    let part = Tensor::from_floats(part, &shape, &Device::cpu()).unwrap();
                    let moved = theta
                        .get(id)
                        .add(&part.affine(distance / length, 0.0).unwrap());
                    weights.set(id, moved.unwrap()).unwrap();
                }
                step(&mut adapter, &weights).0
            };
            // Where the loss is smooth: beyond 5e-3 the stretch of the depth map has kinks.
            let h = if task == "depth" { 2e-3 } else { 1e-2 };
            let slope = (at(h) - at(-h)) / (2.0 * h);
            eprintln!("{task}, {name}: slope {slope:.4e} for a gradient of {length:.4e}");
            // Along a gradient's own direction the slope is its length. Single precision leaves 2 %.
            assert!(
                (slope / length - 1.0).abs() < 0.02,
                "{task}, {name}: {slope} for {length}"
            );
        }
    }
}

/// An experiment on [`Fixture::dense`] with these models.
fn experiment(task: &str) -> Value {
    let mut experiment = Fixture::dense_experiment(task);
    experiment["models"]["backbone"]["config"] = json!(format!("{task}.json"));
    experiment["models"]["denoiser"]["config"] = json!("steered.json");
    let [(head, of_head), (mapper, of_mapper)] = plugins(task);
    experiment["plugins"]["head"] = json!({"use": format!("linked:{head}"), "config": of_head});
    experiment["plugins"]["mapper"] =
        json!({"use": format!("linked:{mapper}"), "config": of_mapper});
    experiment
}

#[test]
fn a_stopped_run_under_a_controlnet_ends_with_the_scores_of_an_unbroken_one() {
    for task in TASKS {
        let fixture = Fixture::dense();
        models(fixture.path());
        let experiment = experiment(task);
        let whole = fixture.run(&experiment, "whole").unwrap();
        fixture
            .run_until(&experiment, "parts", false, 4)
            .unwrap_err();
        let parts = fixture
            .run_until(&experiment, "parts", true, usize::MAX)
            .unwrap();
        assert_eq!(fixture.records("whole"), fixture.records("parts"), "{task}");
        assert_eq!(whole.mean, parts.mean, "{task}");
        let moved = fixture.records("whole");
        assert!(
            moved
                .iter()
                .any(|record| record.source.scores != record.adapted.scores),
            "{task}"
        );
    }
}

#[test]
fn a_prompt_that_the_experiment_says_is_told_as_one_that_a_file_holds() {
    let fixture = Fixture::dense();
    models(fixture.path());
    let reader =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/text/sd_epsilon");
    let half = json!({
        "image": [3, 6, 8], "block_out_channels": [8, 8], "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "layers_per_block": 1, "norm_num_groups": 2, "tokens": {"length": 77, "width": 16, "heads": 2},
    });
    let mut config = json!({"kind": "controlnet", "unet": half, "controlnet": {"encoder": half, "widths": [4, 6]}});
    let [bare, whole] = ["bare", "whole"].map(|name| fixture.path().join(name));
    fs::write(bare.with_extension("json"), config.to_string()).unwrap();
    config["prompt"] = json!("within");
    fs::write(whole.with_extension("json"), config.to_string()).unwrap();
    fill(&whole.with_extension("json"), 3);
    // What the text encoder makes of the empty text, in the one file and not in the other.
    let (architectures, device) = (Models::standard(), Device::cpu());
    let (encoder, weights) = architectures
        .load_text_encoder(&reader.join("text_encoder"), None, &device)
        .unwrap();
    let tokenizer = Tokenizer::open(&reader.join("tokenizer")).unwrap();
    let ids = tokenizer.filled("", 77).unwrap().ids;
    let prompt = encoder.encode(&weights, &[ids]).unwrap().tokens;
    let file = whole.with_extension("safetensors");
    let mut tensors = read_tensors(&file, &device).unwrap();
    tensors.insert("prompt".into(), prompt);
    write_tensors(&file, &tensors).unwrap();
    tensors.remove("prompt");
    write_tensors(&bare.with_extension("safetensors"), &tensors).unwrap();

    let mut experiment = experiment("depth");
    experiment["data"]["stream"]["samples"] = json!(2);
    experiment["models"]["denoiser"]["config"] = json!("whole.json");
    fixture.run(&experiment, "stored").unwrap();
    experiment["models"]["denoiser"]["config"] = json!("bare.json");
    let source =
        |prompt: &str| json!({"text_encoder": reader.join("text_encoder"), "prompt": prompt});
    experiment["models"]["prompts"] = json!({"denoiser": source("")});
    fixture.run(&experiment, "said").unwrap();
    assert_eq!(fixture.records("stored"), fixture.records("said"));
    experiment["models"]["prompts"] = json!({"denoiser": source("a photo of a cat")});
    fixture.run(&experiment, "another").unwrap();
    assert_ne!(fixture.records("said"), fixture.records("another"));
    // By default the text encoder is beside the U-Net that a ControlNet's configuration names.
    let apart =
        json!({"kind": "controlnet", "unet": reader.join("unet"), "controlnet": "elsewhere"});
    fs::write(fixture.path().join("apart.json"), apart.to_string()).unwrap();
    let mut missing = experiment.clone();
    missing["models"]["denoiser"]["config"] = json!("apart.json");
    missing["models"]["prompts"] = json!({"denoiser": {"prompt": ""}});
    let extensions = extensions();
    let document = Document::load(&fixture.write(&missing), &[], &extensions.methods).unwrap();
    let plan = Plan::of(&document, &extensions, Device::cpu()).unwrap();
    let found: Vec<_> = plan.missing.iter().map(|missing| &*missing.path).collect();
    assert_eq!(found, [fixture.path().join("elsewhere")]);

    experiment["models"]["denoiser"]["config"] = json!("whole.json");
    let refused = |experiment: &Value| {
        let error = fixture.prepare(experiment).map(drop).unwrap_err();
        dtta_base::told(&error)
    };
    let words = refused(&experiment);
    assert!(words.contains("attends to no tokens"), "{words}");
    experiment["models"]["prompts"]["denoiser"]["templates"] = json!(["a {}"]);
    experiment["models"]["prompts"]["backbone"] = json!({"prompt": "a"});
    let words = refused(&experiment);
    for pointer in [
        "/models/prompts/denoiser/templates",
        "/models/prompts/backbone/prompt",
    ] {
        assert!(words.contains(pointer), "{pointer}: {words}");
    }
}

#[test]
fn a_depth_predictor_that_keeps_the_shape_of_images_takes_extents_of_the_experiment() {
    let fixture = Fixture::dense();
    models(fixture.path());
    let from = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../models/tests/fixtures/dense/anything_metric");
    let read = |name: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(from.join(name)).unwrap()).unwrap()
    };
    let processor = read("preprocessor_config.json");
    let mut keeping = processor.clone();
    keeping["keep_aspect_ratio"] = json!(true);
    for (name, processor) in [("stated", processor), ("keeping", keeping)] {
        let folder = fixture.path().join(name);
        fs::create_dir(&folder).unwrap();
        for file in ["config.json", "model.safetensors"] {
            fs::copy(from.join(file), folder.join(file)).unwrap();
        }
        let file = folder.join("preprocessor_config.json");
        fs::write(file, processor.to_string()).unwrap();
    }
    let mut experiment = experiment("depth");
    experiment["data"]["dataset"]["transforms"] =
        json!([{"kind": "resize", "height": 28, "width": 42}]);
    experiment["method"] = json!({"kind": "source"});
    experiment["models"]["backbone"] = json!("stated");
    let stated = fixture.run(&experiment, "stated-run").unwrap();
    experiment["models"]["backbone"] = json!({"config": "keeping", "extents": [28, 42]});
    let chosen = fixture.run(&experiment, "chosen-run").unwrap();
    let seen = [&stated, &chosen].map(|run| &run.protocol.seen["backbone"]);
    assert_eq!(seen[0], seen[1]);
    let steps = seen[1].to_string();
    assert!(steps.contains("resized to 28 × 42"), "{steps}");
    assert_eq!(
        fixture.records("stated-run"),
        fixture.records("chosen-run"),
        "the same images"
    );
    // Each refusal names the place to mend.
    for (backbone, told) in [
        (json!("keeping"), "/models/backbone/extents"),
        (
            json!({"config": "keeping", "extents": [28, 41]}),
            "/models/backbone/extents: ",
        ),
        (
            json!({"config": "stated", "extents": [28, 42]}),
            "/models/backbone/extents: ",
        ),
    ] {
        experiment["models"]["backbone"] = backbone.clone();
        let error = fixture.prepare(&experiment).map(drop).unwrap_err();
        let words = dtta_base::told(&error);
        assert!(words.contains(told), "{backbone}: {words}");
    }
}

#[test]
fn a_plan_names_the_parts_of_a_controlnet_that_are_missing() {
    let fixture = Fixture::dense();
    models(fixture.path());
    let mut experiment = experiment("segmentation");
    let steered = json!({"kind": "controlnet", "unet": "sd/unet", "controlnet": "hf:nobody/nothing", "prompt": "prompt.safetensors"});
    fs::write(fixture.path().join("parts.json"), steered.to_string()).unwrap();
    experiment["models"]["denoiser"]["config"] = json!("parts.json");
    experiment["models"]["denoiser"]["origin"] = json!("the shelf");
    let extensions = extensions();
    let document = Document::load(&fixture.write(&experiment), &[], &extensions.methods).unwrap();
    let plan = Plan::of(&document, &extensions, Device::cpu()).unwrap();
    let missing: Vec<(&str, &Path, Option<&str>)> = plan
        .missing
        .iter()
        .map(|missing| (&*missing.pointer, &*missing.path, missing.origin.as_deref()))
        .collect();
    let at = |name: &str| fixture.path().join(name);
    let (unet, prompt) = (at("sd/unet"), at("prompt.safetensors"));
    let shelf = Some("the shelf");
    let expected = [
        ("/models/denoiser/config", &*unet, shelf),
        (
            "/models/denoiser/config",
            Path::new("hf:nobody/nothing"),
            shelf,
        ),
        ("/models/denoiser/weights", &*prompt, shelf),
    ];
    assert_eq!(missing, expected);
    assert!(plan.work.is_none());
}

/// Every text of a document under `description`.
fn descriptions(document: &Value, found: &mut Vec<String>) {
    match document {
        Value::Object(fields) => {
            found.extend(
                fields
                    .get("description")
                    .and_then(Value::as_str)
                    .map(Into::into),
            );
            fields.values().for_each(|value| descriptions(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| descriptions(value, found)),
        _ => {}
    }
}

#[test]
fn what_depth_predictors_say_of_the_heads_output_is_what_the_head_takes() {
    let depth = registry()
        .load("linked:depth", Path::new(""), &Loading::default())
        .unwrap();
    let mut texts = Vec::new();
    descriptions(&Models::standard().schema(), &mut texts);
    let mut checked = 0;
    for text in &texts {
        for said in text.split("`\"output\": ").skip(1) {
            let (said, _) = said.split_once('`').unwrap();
            let output: Value = serde_json::from_str(said).unwrap();
            let range = json!({"scale": "log", "maximum": 10});
            let config = json!({"range": range, "output": output});
            depth.validate_config(Role::Head, &config).unwrap();
            checked += 1;
        }
    }
    // GLPN and DenseDepth.
    assert_eq!(checked, 2);
}

#[test]
fn the_experiments_of_the_papers_dense_table_name_every_file_that_is_missing() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/dense");
    for (name, expected) in [
        (
            "table-4-segmentation",
            &["ADEChallengeData2016", "segformer-b0", "sd-controlnet-seg"][..],
        ),
        (
            "table-4-depth",
            &["nyu2_test", "glpn-nyu", "sd-controlnet-depth"],
        ),
        (
            "table-4-densedepth",
            &["nyu2_test", "densedepth-nyu.pt", "sd-controlnet-depth"],
        ),
    ] {
        let extensions = extensions();
        let path = folder.join(name).with_extension("json");
        let document = Document::load(&path, &[], &extensions.methods).unwrap();
        let missing: Vec<String> = Missing::of(&document, &extensions.models)
            .iter()
            .map(|missing| {
                assert!(missing.origin.is_some(), "{missing:?}");
                format!("{} {}", missing.pointer, missing.path.display())
            })
            .collect();
        for part in expected.iter().chain(&[
            "stable-diffusion-v1-5/unet",
            "stable-diffusion-v1-5/vae",
            "stable-diffusion-v1-5/text_encoder",
        ]) {
            assert!(
                missing.iter().any(|line| line.contains(part)),
                "{part}: {missing:?}"
            );
        }
    }
    let classes = fs::read_to_string(folder.join("ade20k-classes.json")).unwrap();
    let classes: Vec<String> = serde_json::from_str(&classes).unwrap();
    assert_eq!(
        (classes.len(), &*classes[0], &*classes[149]),
        (150, "wall", "flag")
    );
}

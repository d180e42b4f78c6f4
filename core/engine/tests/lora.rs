//! Factors of low rank as what a method moves: through backbone and denoiser, over a stream, and into peft's files.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::Fixture;
use dtta::{Adapter, AdapterBuilder, Batch, DiffusionConfig, Error, Mode, Record, Reset};
use dtta_models::{Group, Lora, LoraConfig, Models, Precision, Weights};
use dtta_tensor::{Device, Tensor};
use serde_json::{Value, json};

/// Factors beside the matrices of attention in this program's own models.
fn lora() -> Value {
    json!({"group": {"lora": {"rank": 2, "alpha": 3, "targets": ["qkv", "attn.proj"]}}})
}

/// The transformer as the backbone, and factors beside the matrices of both models.
fn experiment() -> Value {
    let mut experiment = Fixture::experiment();
    experiment["models"]["backbone"]["config"] = json!("masked.json");
    experiment["method"]["parameters"] = lora();
    let optimizer = json!({"kind": "sgd", "learning_rate": 1e-2, "momentum": 0.9});
    experiment["method"]["denoiser"] = json!({"optimizer": optimizer, "parameters": lora()});
    experiment
}

/// Random factors, neither of which is 0, as peft would save them.
fn write_adapter(fixture: &Fixture, config: &str, folder: &str) -> PathBuf {
    let models = Models::standard();
    let model = fixture.path().join(config);
    let (path, scale) = (fixture.path().join(folder), 0.3);
    let config = json!({"rank": 2, "alpha": 3, "targets": ["qkv", "attn.proj"]});
    let config: LoraConfig = serde_json::from_value(config).unwrap();
    let new = |weights: &Weights| Lora::new(&config, weights, 9).unwrap();
    let (lora, mut joined) = match models.load_backbone(&model, None, &Device::cpu()) {
        Ok(loaded) => {
            let lora = new(&loaded.1);
            (lora.clone(), lora.on_backbone(loaded).unwrap().1)
        }
        Err(_) => {
            let loaded = models.load_denoiser(&model, None, &Device::cpu()).unwrap();
            let lora = new(&loaded.1);
            (lora.clone(), lora.on_denoiser(loaded).unwrap().1)
        }
    };
    for id in joined.select(|spec| spec.group == Group::Lora) {
        joined.set(id, wave(&joined, id, scale)).unwrap();
    }
    lora.at(&joined).unwrap().save(&path).unwrap();
    path
}

fn wave(weights: &Weights, id: dtta_models::ParameterId, scale: f32) -> Tensor {
    let spec = weights.spec(id);
    let values: Vec<f32> = (0..spec.elements())
        .map(|n| scale * ((n * 7 + id.index() * 3) as f32 * 0.37).sin())
        .collect();
    Tensor::from_floats(&values, &spec.shape, &Device::cpu()).unwrap()
}

/// An adapter of both models, online with plain gradient descent at rate 1.
fn adapter(fixture: &Fixture) -> Adapter {
    builder(fixture, &lora()).build().unwrap()
}

/// The same before it is built, of a method that moves these parameters of both models.
fn builder(fixture: &Fixture, parameters: &Value) -> AdapterBuilder {
    let sgd = json!({"kind": "sgd", "learning_rate": 1.0});
    let method: DiffusionConfig = serde_json::from_value(json!({
        "draws": 4, "micro_batch": 5, "timesteps": {"sampler": "stratified", "range": [100, 700]},
        "optimizer": sgd, "parameters": parameters, "denoiser": {"optimizer": sgd, "parameters": parameters},
    }))
    .unwrap();
    let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/classification");
    let plugin = plugin.to_str().unwrap();
    Adapter::builder()
        .backbone(fixture.path().join("masked.json"))
        .denoiser(fixture.path().join("denoiser.json"))
        .head(plugin, json!({}))
        .mapper(plugin, json!({}))
        .method(&method)
        .mode(Mode::Online {
            reset: Reset::Never,
        })
        .seed(5)
}

/// Values of weights by their place in the state.
type Values = BTreeMap<String, Vec<f32>>;

/// The loss at some values, and all values one step of descent away.
fn step(adapter: &mut Adapter, at: &Values) -> (f64, Values) {
    adapter.reset();
    let mut state = adapter.state();
    for (name, values) in at {
        let shape = state.tensors[name].shape();
        let tensor = Tensor::from_floats(values, &shape, &Device::cpu()).unwrap();
        state.tensors.insert(name.clone(), tensor);
    }
    adapter.restore(state).unwrap();
    let shape = [2, 1, 8, 8];
    let pixels: Vec<f32> = (0..128u16).map(|n| (f32::from(n) * 0.61).sin()).collect();
    let images = Tensor::from_floats(&pixels, &shape, &Device::cpu()).unwrap();
    let batch = Batch {
        ids: vec!["a", "b"],
        task: images.clone(),
        denoiser: Some(images),
    };
    let adapted = adapter.adapt(&batch).unwrap();
    let losses = adapted.losses.iter().map(|loss| f64::from(loss[0]));
    (losses.sum::<f64>() / 2.0, weights(adapter))
}

fn weights(adapter: &Adapter) -> Values {
    let state = adapter.state();
    let weights = state
        .tensors
        .iter()
        .filter(|(name, _)| name.contains("/weights/"));
    weights
        .map(|(name, tensor)| (name.clone(), tensor.to_floats().unwrap()))
        .collect()
}

#[test]
fn gradients_of_factors_of_both_models_agree_with_finite_differences() {
    let fixture = Fixture::new();
    let mut adapter = adapter(&fixture);
    // Where B is not 0, so that A has a gradient.
    let mut start = weights(&adapter);
    for (name, values) in &mut start {
        if name.contains(".lora_B.") {
            let scale = if name.starts_with("task/") { 0.5 } else { 0.2 };
            let wave = |n: usize| scale * (n as f32 * 0.77 + name.len() as f32).sin();
            *values = (0..values.len()).map(wave).collect();
        }
    }
    let (_, moved) = step(&mut adapter, &start);
    let gradient: Values = start
        .iter()
        .map(|(name, values)| {
            let pairs = values.iter().zip(&moved[name]);
            (name.clone(), pairs.map(|(a, b)| a - b).collect())
        })
        .collect();
    for (name, gradient) in &gradient {
        let still = gradient.iter().all(|&x| x == 0.0);
        // A decoder has no part in what the classifier says.
        let moves = name.contains(".lora_") && !name.contains("decoder_");
        assert_eq!(still, !moves, "{name}");
    }
    let norm = |values: &Values| {
        let squares = values.values().flatten().map(|&x| f64::from(x).powi(2));
        squares.sum::<f64>().sqrt()
    };
    // Along the gradient of all factors of a model, and of one A and one B of each alone.
    for only in [
        &["task/"][..],
        &["denoiser/"],
        &["task/", "blocks.0.attn.qkv.lora_A"],
        &["task/", "blocks.0.attn.proj.lora_B"],
        &["denoiser/", "blocks.0.attn.qkv.lora_A"],
        &["denoiser/", "blocks.1.attn.qkv.lora_B"],
    ] {
        let chosen = |name: &String| only.iter().all(|part| name.contains(part));
        let mut direction = gradient.clone();
        direction.retain(|name, _| name.contains(".lora_") && chosen(name));
        assert!(!direction.is_empty());
        let length = norm(&direction);
        assert!(
            length > 1e-4,
            "{only:?}: a gradient of {length} tests nothing"
        );
        let mut at = |distance: f64| {
            let mut values = start.clone();
            for (name, direction) in &direction {
                for (value, x) in values.get_mut(name).unwrap().iter_mut().zip(direction) {
                    *value += (f64::from(*x) * distance / length) as f32;
                }
            }
            step(&mut adapter, &values).0
        };
        let h = 1e-2;
        let slope = (at(h) - at(-h)) / (2.0 * h);
        // Single precision and the curvature over 2 h leave 3 %.
        assert!(
            (slope / length - 1.0).abs() < 0.03,
            "{only:?}: {slope} for {length}"
        );
    }
}

#[test]
fn a_stopped_run_of_factors_continues_to_the_records_of_an_unbroken_one() {
    let fixture = Fixture::new();
    let never = json!({"kind": "online", "reset": "never"});
    let mut online = experiment();
    online["adaptation"]["mode"] = never.clone();
    online["output"] = json!({"adapters": true});
    // What a gate asks is a denoiser that moves too.
    let mut gated = online.clone();
    gated["method"]["gate"] = json!({"explained": 1.0, "soft": true});
    let mut slow = experiment();
    slow["adaptation"]["mode"] = never;
    slow["method"]["slow_weights"] = json!({"rate": 0.5});
    slow["method"].as_object_mut().unwrap().remove("denoiser");
    let mut teacher = experiment();
    teacher["method"] = json!({"kind": "cotta", "parameters": lora()});
    for (name, experiment) in [
        ("online", online),
        ("gated", gated),
        ("slow", slow),
        ("teacher", teacher),
    ] {
        let (whole, broken) = (format!("{name}-whole"), format!("{name}-broken"));
        fixture.run(&experiment, &whole).unwrap();
        fixture
            .run_until(&experiment, &broken, false, 6)
            .unwrap_err();
        fixture
            .run_until(&experiment, &broken, true, usize::MAX)
            .unwrap();
        let records = fixture.records(&whole);
        assert_eq!(records, fixture.records(&broken), "{name}");
        let moved = records
            .iter()
            .filter(|record| record.source.confidence != record.adapted.confidence);
        assert!(moved.count() > 0, "{name}: nothing adapted");
    }
    for file in [
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
        "denoiser_adapter/adapter_model.safetensors",
    ] {
        let read = |out: &str| fs::read(fixture.path().join(out).join(file)).unwrap();
        assert_eq!(read("online-whole"), read("online-broken"), "{file}");
    }
}

#[test]
fn single_samples_with_factors_of_their_own_do_not_depend_on_the_batch() {
    let fixture = Fixture::new();
    let mut experiment = experiment();
    experiment["method"]
        .as_object_mut()
        .unwrap()
        .remove("denoiser");
    experiment["adaptation"] = json!({"mode": {"kind": "single_sample"}, "batch": 1});
    fixture.run(&experiment, "one").unwrap();
    experiment["adaptation"]["batch"] = json!(4);
    fixture.run(&experiment, "four").unwrap();
    let close = |a: Option<f32>, b: Option<f32>| (a.unwrap() - b.unwrap()).abs() < 1e-5;
    for (one, four) in fixture.records("one").iter().zip(fixture.records("four")) {
        assert!(close(one.adapted.confidence, four.adapted.confidence));
    }
    let whole = fixture.records("four");
    for index in 0..2 {
        let shard = format!("{index}/2");
        fixture
            .run_shard(&experiment, &format!("part-{index}"), &shard)
            .unwrap();
    }
    let parts = [fixture.records("part-0"), fixture.records("part-1")].concat();
    assert_eq!(whole, parts);
}

#[test]
fn a_gate_keeps_factors_from_samples_whose_prediction_explains_enough() {
    let fixture = Fixture::new();
    let run = |out: &str, explained: Option<f64>| {
        let mut experiment = experiment();
        experiment["adaptation"]["mode"] = json!({"kind": "single_sample"});
        // Samples with weights of their own cannot share a denoiser that adapts.
        let method = experiment["method"].as_object_mut().unwrap();
        method.remove("denoiser");
        method.extend(explained.map(|share| ("gate".into(), json!({ "explained": share }))));
        fixture.run(&experiment, out).unwrap();
        fixture.records(out)
    };
    let explained = |record: &Record| f64::from(record.measures["explained"]);
    let free = run("free", None);
    let open = run("open", Some(1.0));
    let mut shares: Vec<f64> = open.iter().map(explained).collect();
    shares.sort_by(f64::total_cmp);
    let middle = shares[shares.len() / 2];
    assert!(middle > 0.0, "nothing is explained: {shares:?}");
    let some = run("some", Some(middle));
    let mut left = 0;
    for ((free, open), some) in free.iter().zip(&open).zip(&some) {
        assert_eq!((&free.adapted, &free.loss), (&open.adapted, &open.loss));
        assert_eq!(some.measures, open.measures);
        if explained(some) < middle {
            let confidence = |record: &Record| record.adapted.confidence.unwrap();
            assert!((confidence(some) - confidence(free)).abs() < 1e-5);
            assert_ne!(some.adapted, some.source);
        } else {
            assert_eq!(some.adapted, some.source);
            assert!(some.loss.is_empty());
            left += 1;
        }
    }
    assert!(0 < left && left < some.len(), "{left} of {}", some.len());
}

#[test]
fn what_a_stream_left_in_factors_is_read_back_and_merges_into_the_same_model() {
    let fixture = Fixture::new();
    let mut online = experiment();
    online["method"].as_object_mut().unwrap().remove("denoiser");
    online["adaptation"]["mode"] = json!({"kind": "online", "reset": "never"});
    online["output"] = json!({"adapters": true});
    fixture.run(&online, "stream").unwrap();
    assert!(!fixture.path().join("stream/denoiser_adapter").exists());
    // The source model with what it left, measured without a step.
    let mut given = online.clone();
    given["models"]["backbone"]["adapter"] = json!("stream/adapter");
    given["output"] = json!({});
    given["method"]["steps"] = json!(0);
    // Added when it is opened, kept beside, and added for good in files of its own.
    given["method"]["parameters"] = json!({});
    fixture.run(&given, "merged").unwrap();
    given["method"]["parameters"] = json!({"group": {"lora": {}}});
    fixture.run(&given, "beside").unwrap();
    let models = Models::standard();
    let config = fixture.path().join("masked.json");
    let (_, mut weights) = models.load_backbone(&config, None, &Device::cpu()).unwrap();
    let lora = Lora::load(&fixture.path().join("stream/adapter"), &weights).unwrap();
    lora.merge(&mut weights).unwrap();
    let written = fixture.path().join("written");
    fs::copy(&config, written.with_extension("json")).unwrap();
    weights
        .save(
            &written.with_extension("safetensors"),
            Precision::F32,
            &BTreeMap::new(),
        )
        .unwrap();
    let mut plain = given.clone();
    plain["method"]["parameters"] = json!({});
    plain["models"]["backbone"]["config"] = json!("written.json");
    plain["models"]["backbone"]
        .as_object_mut()
        .unwrap()
        .remove("adapter");
    fixture.run(&plain, "written-run").unwrap();
    let confidences = |out: &str| -> Vec<f32> {
        let records = fixture.records(out).into_iter();
        records
            .map(|record| record.source.confidence.unwrap())
            .collect()
    };
    let source = confidences("stream");
    let merged = confidences("merged");
    assert_eq!(merged, confidences("written-run"));
    let pairs = merged.iter().zip(confidences("beside"));
    assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-6));
    assert_ne!(source, merged, "the stream left nothing");
}

#[test]
fn a_program_gives_factors_as_an_experiment_does() {
    let fixture = Fixture::new();
    let [of_backbone, of_denoiser] = [("masked.json", "a"), ("denoiser.json", "b")]
        .map(|(model, folder)| write_adapter(&fixture, model, folder));
    let given = |parameters: &Value| {
        builder(&fixture, parameters)
            .backbone_adapter(&of_backbone)
            .denoiser_adapter(&of_denoiser)
    };
    // To move on, and added for good.
    let mut beside = given(&json!({"group": {"lora": {}}})).build().unwrap();
    let factors = beside.factors().unwrap().map(Option::unwrap);
    for (factors, folder) in factors.iter().zip([&of_backbone, &of_denoiser]) {
        let again = fixture.path().join("again");
        factors.save(&again).unwrap();
        let read = |folder: &Path| fs::read(folder.join("adapter_model.safetensors")).unwrap();
        assert_eq!(read(&again), read(folder));
    }
    let mut merged = given(&json!({})).build().unwrap();
    assert!(merged.factors().unwrap().iter().all(Option::is_none));
    let (loss, _) = step(&mut adapter(&fixture), &Values::new());
    let [of_beside, of_merged] =
        [&mut beside, &mut merged].map(|adapter| step(adapter, &Values::new()).0);
    assert!(
        (of_beside - of_merged).abs() < 1e-5,
        "{of_beside}, {of_merged}"
    );
    assert!(
        (of_beside - loss).abs() > 1e-3,
        "the factors change nothing"
    );
    let refused = builder(&fixture, &json!({}))
        .backbone_adapter(fixture.path().join("nowhere"))
        .build();
    let refused = dtta::told(&refused.err().unwrap());
    assert!(refused.contains("has no adapter"), "{refused}");
}

#[test]
fn an_adapter_is_part_of_what_a_run_is() {
    let fixture = Fixture::new();
    let path = write_adapter(&fixture, "masked.json", "given");
    let mut online = experiment();
    online["models"]["backbone"]["adapter"] = json!("given");
    online["method"]["parameters"] = json!({"group": {"lora": {}}});
    fixture.run_until(&online, "run", false, 6).unwrap_err();
    let text = fs::read_to_string(fixture.path().join("run/run.json")).unwrap();
    let run: Value = serde_json::from_str(&text).unwrap();
    assert!(run["identity"]["digests"]["backbone/adapter/1"].is_string());
    let config = path.join("adapter_config.json");
    let mut document: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    document["lora_alpha"] = json!(4);
    fs::write(&config, document.to_string()).unwrap();
    let error = fixture
        .run_until(&online, "run", true, usize::MAX)
        .unwrap_err();
    assert!(matches!(error, Error::Resume { .. }), "{error}");
    assert!(error.to_string().contains("backbone/adapter/0"), "{error}");
}

#[test]
fn refuses_factors_that_do_not_fit_by_pointer() {
    let fixture = Fixture::new();
    let told = |change: &dyn Fn(&mut Value)| {
        let mut experiment = experiment();
        change(&mut experiment);
        match fixture.run(&experiment, "refused") {
            Err(error) => dtta::told(&error),
            Ok(_) => panic!("it ran"),
        }
    };
    let group = "/method/parameters/group/lora";
    for (change, expected) in [
        (json!({"lora": {}}), format!("{group} says neither")),
        (
            json!({"lora": {"rank": 2, "targets": ["qkv"]}}),
            format!("{group}/alpha is missing"),
        ),
        (
            json!({"lora": {"rank": 2, "alpha": 2, "targets": ["qkv", "to_q"]}}),
            format!("{group}/targets/1 `to_q` matches no module"),
        ),
        (
            json!({"lora": {"rank": 2, "alpha": 2, "targets": ["qkv"], "dropout": 0.1}}),
            group.into(),
        ),
        (
            json!({"lora": {"rank": 0, "alpha": 2, "targets": ["qkv"]}}),
            group.into(),
        ),
    ] {
        let found =
            told(&|experiment| experiment["method"]["parameters"]["group"] = change.clone());
        let found: String = found.replace(": ", " ");
        assert!(found.contains(&expected), "{expected}: {found}");
    }
    let found = told(&|experiment| {
        let group = json!({"lora": {"rank": 2, "alpha": 2, "targets": ["nothing"]}});
        experiment["method"]["denoiser"]["parameters"]["group"] = group;
    });
    assert!(
        found.contains("/method/denoiser/parameters/group/lora/targets/0"),
        "{found}"
    );
    let found = told(&|experiment| {
        experiment["output"] = json!({"adapters": true});
        experiment["adaptation"] = json!({"mode": {"kind": "single_sample"}, "batch": 1});
    });
    assert!(found.contains("/output/adapters"), "{found}");
    let found = told(&|experiment| {
        experiment["output"] = json!({"adapters": true});
        experiment["method"]["parameters"] = json!({});
        experiment["method"]
            .as_object_mut()
            .unwrap()
            .remove("denoiser");
    });
    assert!(found.contains("moves no factors"), "{found}");
    let found = told(&|experiment| {
        experiment["models"]["backbone"]["adapter"] = json!("nowhere");
    });
    assert!(found.contains("has no adapter"), "{found}");
}

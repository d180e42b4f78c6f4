//! Factors of low rank, held to peft and diffusers by the fixtures that `tests/reference/lora.py` writes beside models of other fixtures.
//! Tolerances: largest absolute error 2e-4 for answers (up to 6 in size), 1e-3 of the largest element for gradients of A and B, and 1e-6 of
//! the largest element for merged matrices.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use common::difference;
use dtta_models::{
    Backbone, BatchNormStatistics, Denoiser, FEATURES, Group, LOGITS, Lora, LoraConfig, ModelError,
    Models, ParameterId, Weights, read_tensors, write_tensors,
};
use dtta_tensor::{Device, Named, Tensor};
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn adapter(name: &str) -> PathBuf {
    fixtures().join("lora").join(name)
}

/// Inputs, answer, gradients and merged matrices; labels are read as floats.
fn expected(name: &str) -> BTreeMap<String, Tensor> {
    let bytes = fs::read(adapter(name).join("expected.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |view: &safetensors::tensor::TensorView| match view.dtype() {
        safetensors::Dtype::I64 => {
            let values = view.data().chunks_exact(8);
            let values: Vec<i64> = values
                .map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()))
                .collect();
            Tensor::from_ints(&values, view.shape(), &Device::cpu()).unwrap()
        }
        _ => {
            let values = view.data().chunks_exact(4);
            let values: Vec<f32> = values
                .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
                .collect();
            Tensor::from_floats(&values, view.shape(), &Device::cpu()).unwrap()
        }
    };
    file.iter()
        .map(|(name, view)| (name.to_owned(), tensor(&view)))
        .collect()
}

fn backbone(name: &str) -> (Box<dyn Backbone>, Weights) {
    Models::standard()
        .load_backbone(&fixtures().join(name), None, &Device::cpu())
        .unwrap()
}

fn denoiser(name: &str) -> (Box<dyn Denoiser>, Weights) {
    Models::standard()
        .load_denoiser(&fixtures().join(name), None, &Device::cpu())
        .unwrap()
}

fn factors(weights: &Weights) -> Vec<ParameterId> {
    weights.select(|spec| spec.group == Group::Lora)
}

/// Answer and gradients are those of the library, the gradients of all factors and of nothing else.
fn check(name: &str, weights: &Weights, answer: impl Fn(&Weights) -> Tensor) {
    let expected = expected(name);
    let ids = factors(weights);
    let leaves = weights.to_leaves(&ids).unwrap();
    let found = answer(&leaves);
    let (error, size) = difference(&found, &expected["output"]);
    eprintln!("{name}: largest absolute error {error:.1e} of {size:.1}");
    assert!(error <= 2e-4, "{name}: {error}");
    let loss = found.mul(&expected["input.cotangent"]).unwrap();
    let gradients = loss.sum(&[], false).unwrap().backward().unwrap();
    let named: BTreeSet<&str> = ids
        .iter()
        .map(|&id| weights.spec(id).name.as_str())
        .collect();
    let theirs: BTreeSet<&str> = expected
        .keys()
        .filter_map(|key| key.strip_prefix("gradient."))
        .collect();
    assert_eq!(named, theirs, "{name}");
    for &id in &ids {
        let factor = &weights.spec(id).name;
        let gradient = gradients.of(leaves.get(id)).unwrap();
        let (error, size) = difference(&gradient, &expected[&format!("gradient.{factor}")]);
        assert!(
            size > 0.0 && error / size <= 1e-3,
            "{factor}: {error} of {size}"
        );
    }
}

/// Merged matrices are those of the library, and the model without factors answers as the one with them.
fn check_merged(name: &str, weights: &Weights, answer: impl Fn(&Weights) -> Tensor) {
    let expected = expected(name);
    let mut merged = weights.clone();
    let lora = Lora::load(&adapter(name), weights).unwrap();
    lora.merge(&mut merged).unwrap();
    assert_eq!(merged.len(), weights.len());
    // By the names that the checkpoint has, a matrix of several of its tensors cut into them.
    let mut found = BTreeMap::new();
    for (_, spec, tensor) in merged.iter() {
        let mut next = 0;
        for part in &spec.parts {
            let rows = tensor.narrow(0, next.min(spec.shape[0] - part.rows), part.rows);
            found.insert(part.name.as_str(), rows.unwrap());
            next += part.rows;
        }
    }
    let mut modules = 0;
    for (key, theirs) in &expected {
        let Some(module) = key.strip_prefix("merged.") else {
            continue;
        };
        let (error, size) = difference(&found[format!("{module}.weight").as_str()], theirs);
        assert!(error / size <= 1e-6, "{module}: {error} of {size}");
        modules += 1;
    }
    assert!(modules >= 2);
    let (error, _) = difference(&answer(&merged), &expected["output"]);
    assert!(error <= 2e-4, "{name}: {error}");
    // Nothing else moved.
    let changed = merged.iter().filter(|(id, _, tensor)| {
        tensor.to_floats().unwrap() != weights.get(*id).to_floats().unwrap()
    });
    let bases: BTreeSet<String> = changed.map(|(_, spec, _)| spec.name.clone()).collect();
    assert!(bases.len() <= modules && !bases.is_empty());
}

fn images(backbone: &dyn Backbone, weights: &Weights, images: &Tensor, output: &str) -> Tensor {
    let outputs = backbone.forward(weights, images, BatchNormStatistics::Running);
    outputs.unwrap().get(output).unwrap().clone()
}

fn noise(denoiser: &dyn Denoiser, weights: &Weights, inputs: &BTreeMap<String, Tensor>) -> Tensor {
    let times = inputs["input.times"].to_floats().unwrap();
    let times: Vec<f64> = times.iter().map(|&time| time.into()).collect();
    let classes = denoiser.embed_classes(weights, &inputs["input.labels"]);
    let mut conditioning = Named::new();
    for slot in denoiser.slots() {
        let condition = match slot.name.as_str() {
            "class-embedding" => classes.as_ref().unwrap().clone(),
            name => inputs[&format!("input.{name}")].clone(),
        };
        conditioning.push(slot.name.clone(), condition);
    }
    denoiser
        .predict(weights, &inputs["input.noisy"], &times, &conditioning)
        .unwrap()
}

#[test]
fn factors_beside_the_fused_matrix_of_a_vit_answer_as_those_of_peft() {
    let (model, weights) = backbone("backbones/vit");
    let input = expected("timm")["input.images"].clone();
    check_merged("timm", &weights, |weights| {
        images(&*model, weights, &input, LOGITS)
    });
    let lora = Lora::load(&adapter("timm"), &weights).unwrap();
    let (model, weights) = lora.on_backbone((model, weights)).unwrap();
    check("timm", &weights, |weights| {
        images(&*model, weights, &input, LOGITS)
    });
}

#[test]
fn factors_of_one_tower_of_a_clip_are_those_of_peft_by_pattern_and_with_the_scale_of_rslora() {
    let (model, weights) = backbone("text/clip");
    let input = expected("clip")["input.images"].clone();
    check_merged("clip", &weights, |weights| {
        images(&*model, weights, &input, FEATURES)
    });
    let lora = Lora::load(&adapter("clip"), &weights).unwrap();
    let (model, weights) = lora.on_backbone((model, weights)).unwrap();
    check("clip", &weights, |weights| {
        images(&*model, weights, &input, FEATURES)
    });
}

#[test]
fn factors_beside_rows_of_a_matrix_that_the_checkpoint_has_in_three_are_those_of_peft() {
    let (model, weights) = denoiser("diffusers/dit_one/transformer");
    let inputs = expected("dit");
    check_merged("dit", &weights, |weights| noise(&*model, weights, &inputs));
    let lora = Lora::load(&adapter("dit"), &weights).unwrap();
    let (model, weights) = lora.on_denoiser((model, weights)).unwrap();
    check("dit", &weights, |weights| noise(&*model, weights, &inputs));
}

#[test]
fn factors_of_a_unet_are_those_of_diffusers_with_and_without_its_metadata() {
    for name in ["unet", "unet_older"] {
        let (model, weights) = denoiser("diffusers/heads/unet");
        let inputs = expected(name);
        check_merged(name, &weights, |weights| noise(&*model, weights, &inputs));
        let lora = Lora::load(&adapter(name), &weights).unwrap();
        let alpha = if name == "unet" { 6.0 } else { 2.0 };
        assert_eq!(lora.config().alpha, Some(alpha));
        let (model, weights) = lora.on_denoiser((model, weights)).unwrap();
        check(name, &weights, |weights| noise(&*model, weights, &inputs));
    }
}

/// What peft and diffusers write for a U-Net alone moves the U-Net beside a ControlNet in the same way, and nothing else.
#[test]
fn factors_of_a_unet_are_those_of_the_unet_that_a_controlnet_steers() {
    let (unet, alone) = denoiser("dense/controlnet/unet");
    let (_, controlled) = denoiser("dense/controlnet/model.json");
    let settings = config(json!({"rank": 2, "alpha": 2, "targets": ["to_q", "to_out.0"]}));
    let lora = Lora::new(&settings, &alone, 5).unwrap();
    let (_, mut weights) = lora.clone().on_denoiser((unet, alone.clone())).unwrap();
    for id in factors(&weights) {
        let count = weights.spec(id).elements();
        let values: Vec<f32> = (0..count).map(|n| (n as f32 * 0.37).sin()).collect();
        let values = Tensor::from_floats(&values, &weights.spec(id).shape, &Device::cpu());
        weights.set(id, values.unwrap()).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let [peft, diffusers, saved] = ["peft", "diffusers", "saved"].map(|n| folder.path().join(n));
    lora.at(&weights).unwrap().save(&peft).unwrap();
    let tensors = read_tensors(&peft.join("adapter_model.safetensors"), &Device::cpu()).unwrap();
    let renamed = tensors.iter().map(|(name, tensor)| {
        let own = name.strip_prefix("base_model.model.").unwrap();
        (format!("unet.{own}"), tensor.clone())
    });
    fs::create_dir(&diffusers).unwrap();
    write_tensors(
        &diffusers.join("pytorch_lora_weights.safetensors"),
        &renamed.collect(),
    )
    .unwrap();
    let merged = |folder: &Path, weights: &Weights| {
        let lora = Lora::load(folder, weights).unwrap();
        let mut merged = weights.clone();
        lora.merge(&mut merged).unwrap();
        (lora, merged)
    };
    let (_, expected) = merged(&peft, &alone);
    let mut moved = 0;
    for adapter in [&peft, &diffusers, &saved] {
        let (lora, found) = merged(adapter, &controlled);
        for (id, spec, tensor) in found.iter() {
            let name = &spec.name;
            let wanted = match name.strip_prefix("unet.") {
                Some(own) => {
                    let id = expected.find(own).unwrap();
                    let (change, _) = difference(expected.get(id), alone.get(id));
                    moved += usize::from(change > 1e-3);
                    expected.get(id)
                }
                None => controlled.get(id),
            };
            let (error, _) = difference(tensor, wanted);
            assert!(error <= 1e-6, "{}: {name}: {error}", adapter.display());
        }
        // What is written of it is read as what it is.
        lora.save(&saved).unwrap();
    }
    assert!(moved >= 12, "{moved}");
    // A module that only the other part has is none of the U-Net's.
    let mut wrong = tensors.clone();
    let any = tensors.values().next().unwrap();
    wrong.insert(
        "base_model.model.controlnet_mid_block.lora_A.weight".into(),
        any.clone(),
    );
    write_tensors(&peft.join("adapter_model.safetensors"), &wrong).unwrap();
    let refused = Lora::load(&peft, &controlled).unwrap_err().to_string();
    assert!(refused.contains("controlnet_mid_block"), "{refused}");
}

#[test]
fn what_is_saved_is_what_was_read_and_what_became_of_it() {
    for (name, model) in [("timm", "backbones/vit"), ("clip", "text/clip")] {
        let (model, weights) = backbone(model);
        let lora = Lora::load(&adapter(name), &weights).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let saved = folder.path().join("adapter");
        lora.save(&saved).unwrap();
        let (file, device) = ("adapter_model.safetensors", Device::cpu());
        let read = |folder: &Path| {
            let tensors = read_tensors(&folder.join(file), &device).unwrap();
            let values = tensors.into_iter();
            let values = values.map(|(name, tensor)| (name, tensor.to_floats().unwrap()));
            values.collect::<BTreeMap<_, _>>()
        };
        assert_eq!(read(&saved), read(&adapter(name)));
        let config = |folder: &Path| {
            let text = fs::read_to_string(folder.join("adapter_config.json")).unwrap();
            serde_json::from_str::<Value>(&text).unwrap()
        };
        for field in ["r", "target_modules", "use_rslora", "bias", "peft_type"] {
            assert_eq!(
                config(&saved)[field],
                config(&adapter(name))[field],
                "{field}"
            );
        }
        assert_eq!(
            config(&saved)["lora_alpha"].as_f64(),
            config(&adapter(name))["lora_alpha"].as_f64()
        );
        let kept = lora.clone();
        let (_, mut weights) = lora.on_backbone((model, weights)).unwrap();
        let moved = factors(&weights)[0];
        let twice = weights.get(moved).affine(2.0, 0.0).unwrap();
        weights.set(moved, twice).unwrap();
        kept.at(&weights).unwrap().save(&saved).unwrap();
        let (found, before) = (read(&saved), read(&adapter(name)));
        let key = format!("base_model.model.{}", weights.spec(moved).name);
        for (name, values) in found {
            let factor = if name == key { 2.0 } else { 1.0 };
            let expected: Vec<f32> = before[&name].iter().map(|x| x * factor).collect();
            assert_eq!(values, expected, "{name}");
        }
    }
}

fn config(value: Value) -> LoraConfig {
    serde_json::from_value(value).unwrap()
}

#[test]
fn new_factors_change_nothing_and_depend_on_seed_and_module_alone() {
    let (_, weights) = backbone("backbones/vit");
    let make = |targets: &[&str], seed| {
        let config = config(json!({"rank": 3, "alpha": 6, "targets": targets}));
        let lora = Lora::new(&config, &weights, seed).unwrap();
        let (model, _) = backbone("backbones/vit");
        lora.on_backbone((model, weights.clone())).unwrap()
    };
    let values = |weights: &Weights, name: &str| {
        let id = weights.find(name).unwrap();
        weights.get(id).to_floats().unwrap()
    };
    let (model, joined) = make(&["qkv", "attn.proj"], 7);
    let input = expected("timm")["input.images"].clone();
    let (plain, _) = backbone("backbones/vit");
    assert_eq!(
        images(&*model, &joined, &input, LOGITS)
            .to_floats()
            .unwrap(),
        images(&*plain, &weights, &input, LOGITS)
            .to_floats()
            .unwrap()
    );
    let (a, b) = (
        "blocks.0.attn.qkv.lora_A.weight",
        "blocks.0.attn.qkv.lora_B.weight",
    );
    assert_eq!(factors(&joined).len(), 4);
    assert_eq!(values(&joined, b), vec![0.0; 72 * 3]);
    // Uniform in ± 1/√24, so that the mean square is 1/72 up to what 72 draws scatter.
    let first = values(&joined, a);
    let bound = 1.0 / 24f32.sqrt();
    assert!(first.iter().all(|x| x.abs() <= bound));
    let square = first.iter().map(|x| x * x).sum::<f32>() / first.len() as f32;
    assert!((square * 72.0 - 1.0).abs() < 0.4, "{square}");
    assert_eq!(values(&make(&["qkv"], 7).1, a), first);
    assert_ne!(values(&make(&["qkv"], 8).1, a), first);
}

#[test]
fn refuses_targets_that_are_no_linear_layer_of_the_model_by_name() {
    let (_, vit) = backbone("backbones/vit");
    let (_, dit) = denoiser("diffusers/dit_two/transformer");
    let told = |weights: &Weights, targets: Value| {
        let config = config(json!({"rank": 2, "alpha": 2, "targets": targets}));
        match Lora::new(&config, weights, 0).unwrap_err() {
            ModelError::Config { issues } => issues
                .iter()
                .map(|issue| format!("{} {}", issue.pointer, issue.message))
                .collect::<Vec<_>>()
                .join("; "),
            other => panic!("{other}"),
        }
    };
    let found = told(&vit, json!(["qkv", "q_proj"]));
    assert!(
        found.starts_with("/targets/1 `q_proj` matches no module"),
        "{found}"
    );
    assert!(
        found.contains("`qkv`") && !found.contains("`norm1`"),
        "{found}"
    );
    let found = told(&vit, json!(["proj"]));
    assert!(
        found.contains("`patch_embed.proj` is a convolution"),
        "{found}"
    );
    let found = told(&vit, json!(["norm1"]));
    assert!(
        found.contains("`blocks.0.norm1` is a normalisation layer"),
        "{found}"
    );
    let found = told(&vit, json!(".*[qkv"));
    assert!(
        found.starts_with("/targets `.*[qkv` cannot be used"),
        "{found}"
    );
    // What would close the parenthesis that is put around it.
    assert!(told(&vit, json!("a)(b")).contains("cannot be used"));
    // A pattern is held against whole names.
    assert!(told(&vit, json!("qkv")).contains("matches no module"));
    assert!(told(&vit, json!([])).contains("/targets is empty"));
    let found = told(&dit, json!(["timestep_embedder.linear_1"]));
    let name = "`transformer_blocks.1.norm1.emb.timestep_embedder.linear_1`";
    assert!(
        found.contains(&format!("{name} is kept several times by its checkpoint")),
        "{found}"
    );
    // The program's own name of what the checkpoint calls otherwise.
    assert!(told(&dit, json!(["qkv"])).contains("`to_q`"));
    let missing = Lora::new(&config(json!({"rank": 2})), &vit, 0).unwrap_err();
    let text = missing.to_string();
    assert!(
        text.contains("`/alpha` is missing") && text.contains("`/targets`"),
        "{text}"
    );
}

#[test]
fn refuses_what_an_adapter_says_and_is_not_offered_by_name() {
    let (_, weights) = backbone("backbones/vit");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let text = fs::read_to_string(adapter("timm").join("adapter_config.json")).unwrap();
    let original: Value = serde_json::from_str(&text).unwrap();
    fs::copy(
        adapter("timm").join("adapter_model.safetensors"),
        path.join("adapter_model.safetensors"),
    )
    .unwrap();
    let load = |field: &str, value: Value| {
        let mut config = original.clone();
        config[field] = value;
        fs::write(path.join("adapter_config.json"), config.to_string()).unwrap();
        Lora::load(path, &weights).map(|_| ())
    };
    load("lora_dropout", json!(0.3)).unwrap();
    for (field, value) in [
        ("use_dora", json!(true)),
        ("bias", json!("all")),
        ("lora_bias", json!(true)),
        ("modules_to_save", json!(["head"])),
        ("rank_pattern", json!({"qkv": 2})),
        ("alpha_pattern", json!({"qkv": 2})),
        ("layers_to_transform", json!([0])),
        ("exclude_modules", json!(["proj"])),
        ("init_lora_weights", json!("pissa")),
        ("peft_type", json!("IA3")),
        ("fan_in_fan_out", json!(true)),
        ("lora_alpha", json!(0)),
        ("r", json!(0)),
        ("r", json!("many")),
        ("target_modules", Value::Null),
        ("an_option_of_tomorrow", json!(1)),
    ] {
        let error = load(field, value).unwrap_err().to_string();
        assert!(error.contains(&format!("/{field}")), "{field}: {error}");
    }
    let error = load("target_modules", json!(["q_proj"])).unwrap_err();
    assert!(error.to_string().contains("/target_modules/0"), "{error}");
    let error = load("target_modules", json!(["qkv"]))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("not declared `base_model.model.blocks.0.attn.proj.lora_A.weight`"),
        "{error}"
    );
    let error = load("target_modules", json!(["qkv", "attn.proj", "fc1"])).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("missing `base_model.model.blocks.0.mlp.fc1.lora_A.weight`"),
        "{error}"
    );
    let error = load("r", json!(5)).unwrap_err().to_string();
    assert!(error.contains("is [4, 24], expected [5, 24]"), "{error}");
    let none = Lora::load(tempfile::tempdir().unwrap().path(), &weights).unwrap_err();
    assert!(matches!(none, ModelError::NoAdapter { .. }), "{none}");
    // Of another model.
    let error = Lora::load(&adapter("unet"), &weights)
        .unwrap_err()
        .to_string();
    assert!(error.contains("not declared `unet.down_blocks"), "{error}");
    let (model, weights) = backbone("backbones/vit");
    let lora = Lora::load(&adapter("timm"), &weights).unwrap();
    let (model, weights) = lora.clone().on_backbone((model, weights)).unwrap();
    assert!(
        lora.on_backbone((model, weights)).is_err(),
        "factors beside factors"
    );
}

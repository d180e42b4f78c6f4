//! Models as diffusers saves them, held to diffusers by the fixtures that `tests/reference/denoisers.py` writes: each is a folder of
//! `save_pretrained` with random values. Tolerances: largest absolute error 2e-4 for what denoisers and encoders answer (up to 8 in size);
//! 1e-3 of the largest element for gradients with respect to conditions.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use common::{assert_close, assert_gradient, difference};
use dtta_models::{
    Denoiser, Encoder, ModelError, Models, NoiseSchedule, Weights, read_tensors, write_tensors,
};
use dtta_tensor::{Device, Named, Tensor};
use serde_json::{Map, Value, json};

/// Each fixture, the class that saved it, and the folder of its pipeline that the class has.
const FIXTURES: &[(&str, &str, &str)] = &[
    ("ddpm", "UNet2DModel", "unet"),
    ("resampled", "UNet2DModel", "unet"),
    ("one_level", "UNet2DModel", "unet"),
    ("no_attention", "UNet2DModel", "unet"),
    ("no_bottom", "UNet2DModel", "unet"),
    ("guided", "UNet2DModel", "unet"),
    ("heads", "UNet2DConditionModel", "unet"),
    ("mixed", "UNet2DConditionModel", "unet"),
    ("bottom_only", "UNet2DConditionModel", "unet"),
    ("no_tokens", "UNet2DConditionModel", "unet"),
    ("dit_one", "DiTTransformer2DModel", "transformer"),
    ("dit_two", "DiTTransformer2DModel", "transformer"),
    ("kl", "AutoencoderKL", "vae"),
    ("kl_shift", "AutoencoderKL", "vae"),
];

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/diffusers")
}

fn part(name: &str) -> PathBuf {
    let (_, _, part) = FIXTURES.iter().find(|row| row.0 == name).unwrap();
    fixtures().join(name).join(part)
}

fn config(name: &str) -> PathBuf {
    part(name).join("config.json")
}

fn weights(name: &str) -> PathBuf {
    part(name).join("diffusion_pytorch_model.safetensors")
}

fn expected(name: &str) -> BTreeMap<String, Tensor> {
    let path = fixtures().join(name).join("expected.safetensors");
    let mut found = BTreeMap::new();
    // Labels are whole numbers, which `read_tensors` refuses.
    let bytes = fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (name, view) in file.iter() {
        let device = Device::cpu();
        let tensor = match view.dtype() {
            safetensors::Dtype::I64 => {
                let chunks = view.data().chunks_exact(8);
                let values: Vec<i64> = chunks
                    .map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()))
                    .collect();
                Tensor::from_ints(&values, view.shape(), &device)
            }
            _ => {
                let chunks = view.data().chunks_exact(4);
                let values: Vec<f32> = chunks
                    .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
                    .collect();
                Tensor::from_floats(&values, view.shape(), &device)
            }
        };
        found.insert(name.to_owned(), tensor.unwrap());
    }
    found
}

fn denoiser(name: &str) -> (Box<dyn Denoiser>, Weights) {
    let (config, weights) = (config(name), weights(name));
    Models::standard()
        .load_denoiser(&config, Some(&weights), &Device::cpu())
        .unwrap()
}

/// What it answers and the gradients with respect to its conditions are those of diffusers.
fn check(name: &str) {
    let (denoiser, weights) = denoiser(name);
    let expected = expected(name);
    let times = expected["input.times"].to_floats().unwrap();
    let times: Vec<f64> = times.iter().map(|&time| time.into()).collect();
    let noisy = &expected["input.noisy"];
    let mut conditioning = Named::new();
    for slot in denoiser.slots() {
        let condition = &expected[&format!("input.slot.{}", slot.name)];
        conditioning.push(slot.name.clone(), condition.to_leaf().unwrap());
    }
    let answer = denoiser
        .predict(&weights, noisy, &times, &conditioning)
        .unwrap();
    assert_close(
        &format!("{name}: answer"),
        &answer,
        &expected["output.answer"],
    );
    let conditions: BTreeSet<&str> = expected
        .keys()
        .filter_map(|key| key.strip_prefix("input.slot."))
        .collect();
    assert_eq!(conditions, conditioning.names().collect(), "{name}");
    if !conditions.is_empty() {
        let loss = answer.mul(&expected["input.cotangent"]).unwrap();
        let gradients = loss.sum(&[], false).unwrap().backward().unwrap();
        for (slot, leaf) in conditioning.iter() {
            let found = gradients.of(leaf).unwrap();
            let expected = &expected[&format!("gradient.{slot}")];
            assert_gradient(&format!("{name}: {slot}"), &found, expected);
        }
    }
    if let Some(labelled) = expected.get("output.labelled") {
        let classes = denoiser
            .embed_classes(&weights, &expected["input.labels"])
            .unwrap();
        let conditioning: Named = conditioning
            .iter()
            .map(|(slot, condition)| {
                let class = slot == "class-embedding";
                let condition = if class { &classes } else { condition };
                (slot.to_owned(), condition.clone())
            })
            .collect();
        let answer = denoiser
            .predict(&weights, noisy, &times, &conditioning)
            .unwrap();
        assert_close(&format!("{name}: answer for labels"), &answer, labelled);
        let table = denoiser.constants(&weights).unwrap();
        let table = table.get("class-embeddings").unwrap();
        let classes = denoiser.class_condition().unwrap().classes;
        assert_eq!(table.shape()[0], classes, "{name}");
    }
}

#[test]
fn unets_answer_as_diffusers_unet2dmodel_does() {
    for (name, class, _) in FIXTURES {
        if *class == "UNet2DModel" {
            check(name);
        }
    }
}

#[test]
fn unets_answer_as_diffusers_unet2dconditionmodel_does() {
    for (name, class, _) in FIXTURES {
        if *class == "UNet2DConditionModel" {
            check(name);
        }
    }
}

#[test]
fn transformers_answer_as_diffusers_dit_does() {
    for (name, class, _) in FIXTURES {
        if *class == "DiTTransformer2DModel" {
            check(name);
        }
    }
}

fn encoder(name: &str, weights: &Path) -> (Box<dyn Encoder>, Weights) {
    Models::standard()
        .load_encoder(&config(name), Some(weights), &Device::cpu())
        .unwrap()
}

#[test]
fn autoencoders_give_the_latents_that_pipelines_of_diffusers_train_on() {
    for (name, class, _) in FIXTURES {
        if *class != "AutoencoderKL" {
            continue;
        }
        let (encoder, weights) = encoder(name, &weights(name));
        let expected = expected(name);
        let images = &expected["input.images"];
        let latents = encoder.encode(&weights, images).unwrap();
        assert_close(
            &format!("{name}: latents"),
            &latents,
            &expected["output.latents"],
        );
        let shape = |tensor: &Tensor| {
            let shape = tensor.shape();
            [shape[1], shape[2], shape[3]]
        };
        let latent = encoder.latent_shape(shape(images)).unwrap();
        assert_eq!(latent, shape(&latents), "{name}");
        // The smallest image of that latent.
        let image = encoder.image_shape(latent).unwrap();
        assert_eq!(encoder.latent_shape(image).unwrap(), latent, "{name}");
        assert!(image[1] <= shape(images)[1] && image[2] <= shape(images)[2]);
    }
}

#[test]
fn an_autoencoder_refuses_images_that_it_cannot_take() {
    let (encoder, weights) = encoder("kl", &weights("kl"));
    let images = |shape: &[usize]| Tensor::full(shape, 0.5, &Device::cpu()).unwrap();
    for shape in [&[1, 3, 8, 8][..], &[1, 1, 3, 8], &[1, 8, 8]] {
        let refused = encoder.encode(&weights, &images(shape)).map(|_| ());
        assert!(
            matches!(refused, Err(ModelError::Input { .. })),
            "{shape:?}"
        );
    }
    assert!(encoder.image_shape([3, 4, 4]).is_err());
}

#[test]
fn an_autoencoder_with_the_names_of_an_older_version_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.safetensors");
    let renamed: BTreeMap<String, Tensor> = read_tensors(&weights("kl"), &Device::cpu())
        .unwrap()
        .into_iter()
        .map(|(name, tensor)| {
            let old = name
                .replace(".to_q.", ".query.")
                .replace(".to_k.", ".key.")
                .replace(".to_v.", ".value.")
                .replace(".to_out.0.", ".proj_attn.");
            (old, tensor)
        })
        .collect();
    assert!(renamed.keys().any(|name| name.contains(".proj_attn.")));
    write_tensors(&path, &renamed).unwrap();
    let ((_, old), (_, new)) = (encoder("kl", &path), encoder("kl", &weights("kl")));
    for ((_, spec, old), (_, _, new)) in old.iter().zip(new.iter()) {
        assert_eq!(old.to_floats(), new.to_floats(), "{}", spec.name);
    }
}

#[test]
fn a_transformer_whose_blocks_have_different_embeddings_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let mut tensors = read_tensors(&weights("dit_two"), &Device::cpu()).unwrap();
    let name = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight";
    let table = tensors[name].affine(1.0, 0.5).unwrap();
    tensors.insert(name.into(), table);
    write_tensors(&path, &tensors).unwrap();
    let refused = Models::standard().load_denoiser(&config("dit_two"), Some(&path), &Device::cpu());
    let message = refused.map(|_| ()).unwrap_err().to_string();
    assert!(
        message.contains(name) && message.contains("differ"),
        "{message}"
    );
}

#[test]
fn what_a_published_checkpoint_lacks_or_has_too_much_is_told_in_its_own_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let mut tensors = read_tensors(&weights("dit_two"), &Device::cpu()).unwrap();
    tensors
        .remove("transformer_blocks.0.attn1.to_k.weight")
        .unwrap();
    let other = Tensor::full(&[1], 0.0, &Device::cpu()).unwrap();
    tensors.insert("transformer_blocks.0.attn1.to_more".into(), other);
    write_tensors(&path, &tensors).unwrap();
    let refused = Models::standard().load_denoiser(&config("dit_two"), Some(&path), &Device::cpu());
    let Err(ModelError::Mismatch { mismatches, .. }) = refused else {
        panic!("not refused")
    };
    let missing = mismatches
        .missing
        .iter()
        .map(|called| called.tensor.as_str());
    assert_eq!(
        missing.collect::<Vec<_>>(),
        ["transformer_blocks.0.attn1.to_k.weight"]
    );
    assert_eq!(mismatches.extra, ["transformer_blocks.0.attn1.to_more"]);
}

// --- Every field of every class -------------------------------------------------------------------------------------------------------

fn read(path: &Path) -> Map<String, Value> {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// What the reference says about the fields of a class: defaults, and for each another value with what else must be said.
fn fields() -> BTreeMap<String, Value> {
    read(&fixtures().join("fields.json")).into_iter().collect()
}

/// Reads a configuration of a denoiser or an encoder, or tells the faults.
fn translate(document: &Map<String, Value>) -> Result<Option<Box<dyn Denoiser>>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    fs::write(&path, Value::from(document.clone()).to_string()).unwrap();
    let models = Models::standard();
    let read = match document["_class_name"] == "AutoencoderKL" {
        true => models.encoder(&path).map(|_| None),
        false => models.denoiser(&path).map(Some),
    };
    read.map_err(|error| error.to_string())
}

fn scheduler() -> Value {
    json!({ "_class_name": "DDPMScheduler" })
}

/// The class's own configuration, with extents.
fn base(class: &str, defaults: &Value) -> Map<String, Value> {
    let mut document = defaults.as_object().unwrap().clone();
    document.insert("_class_name".into(), class.into());
    if document.get("sample_size") == Some(&Value::Null) {
        document.insert("sample_size".into(), json!(32));
    }
    if class != "AutoencoderKL" {
        document.insert("scheduler".into(), scheduler());
    }
    document
}

#[test]
fn every_field_of_a_class_is_refused_by_name_or_has_another_value_in_a_fixture() {
    let (mut honoured, mut refused) = (0, 0);
    for (class, table) in fields() {
        let Some(defaults) = table
            .get("defaults")
            .filter(|_| !class.ends_with("Scheduler"))
        else {
            continue;
        };
        let base = base(&class, defaults);
        translate(&base).unwrap_or_else(|error| panic!("{class}: {error}"));
        let saved: Vec<Map<String, Value>> = FIXTURES
            .iter()
            .filter(|row| row.1 == class)
            .map(|row| read(&config(row.0)))
            .collect();
        assert!(saved.len() >= 2, "{class}");
        for (field, default) in defaults.as_object().unwrap() {
            let other = table["others"][field].as_object().unwrap();
            let mut document = base.clone();
            document.extend(other.clone());
            let covered = saved.iter().any(|config| config[field] != *default);
            match translate(&document) {
                Ok(_) => {
                    assert!(
                        covered,
                        "{class}: {field} is accepted, but not held to diffusers"
                    );
                    honoured += 1;
                }
                Err(message) => {
                    let value = &other[field];
                    let named = message.contains("this is a diffusers configuration; field ")
                        && other.iter().any(|(name, value)| {
                            message.contains(&format!("; field {name} = {value} is not supported"))
                        });
                    assert!(named, "{class}: {field} = {value}: {message}");
                    assert!(!covered, "{class}: {field} is refused, but in a fixture");
                    refused += 1;
                }
            }
        }
    }
    eprintln!("{honoured} honoured, {refused} refused");
    assert!(honoured > 60 && refused > 10, "{honoured} {refused}");
}

#[test]
fn a_field_that_no_class_has_is_refused_by_name() {
    for (class, table) in fields() {
        let Some(defaults) = table
            .get("defaults")
            .filter(|_| !class.ends_with("Scheduler"))
        else {
            continue;
        };
        let mut document = base(&class, defaults);
        document.insert("sampling_temperature".into(), json!(0.5));
        let message = translate(&document).map(|_| ()).unwrap_err();
        let expected =
            "this is a diffusers configuration; field sampling_temperature = 0.5 is not supported";
        assert!(message.contains(expected), "{class}: {message}");
    }
}

#[test]
fn a_null_that_the_class_does_not_have_is_refused_by_name() {
    for (class, table) in fields() {
        let Some(defaults) = table
            .get("defaults")
            .filter(|_| !class.ends_with("Scheduler"))
        else {
            continue;
        };
        for (field, default) in defaults.as_object().unwrap() {
            let mut document = base(&class, defaults);
            document.insert(field.clone(), Value::Null);
            let other = format!("field {field} = null is not supported");
            match translate(&document) {
                // Where null is no default, but means something that a fixture has, or which has no influence.
                Ok(_) => assert!(
                    default.is_null() || NULLABLE.contains(&field.as_str()),
                    "{class}: {field}"
                ),
                Err(message) => assert!(message.contains(&other), "{class}: {message}"),
            }
        }
    }
}

/// Fields that may be null although the class has another default.
const NULLABLE: &[&str] = &[
    // No block at the bottom, and one head.
    "mid_block_type",
    "attention_head_dim",
    // As the class's default.
    "downsample_type",
    "upsample_type",
    // Without influence on what is computed.
    "dropout",
    "norm_num_groups",
    "upcast_attention",
    "addition_embed_type_num_heads",
    "resnet_skip_time_act",
    "resnet_out_scale_factor",
    "out_channels",
    "up_block_types",
    "use_post_quant_conv",
    "sample_size",
    "force_upcast",
];

/// Fields of schedulers that say how images are drawn, not with which noise the network was trained.
const DRAWING: &[&str] = &[
    "variance_type",
    "clip_sample",
    "clip_sample_range",
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "timestep_spacing",
    "steps_offset",
    "set_alpha_to_one",
    "skip_prk_steps",
    "interpolation_type",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
    "sigma_min",
    "sigma_max",
    "final_sigmas_type",
    "solver_order",
    "algorithm_type",
    "solver_type",
    "lower_order_final",
    "euler_at_final",
    "flow_shift",
    "lambda_min_clipped",
    "use_dynamic_shifting",
    "time_shift_type",
];

/// As [`DRAWING`], of the class whose network is told the times of a straight line.
const DRAWING_ALONG_A_LINE: &[&str] = &[
    "shift",
    "use_dynamic_shifting",
    "base_shift",
    "max_shift",
    "base_image_seq_len",
    "max_image_seq_len",
    "shift_terminal",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "time_shift_type",
    "stochastic_sampling",
];

/// As [`DRAWING`], of the class whose network is told ln(σ) / 4.
const DRAWING_FROM_EDM: &[&str] = &[
    "sigma_schedule",
    "num_train_timesteps",
    "rho",
    "final_sigmas_type",
];

#[test]
fn every_field_of_a_scheduler_changes_the_schedule_or_is_about_drawing_or_refused_by_name() {
    let schedule = |scheduler: Map<String, Value>| -> Result<NoiseSchedule, String> {
        let mut document = read(&config("one_level"));
        document.insert("scheduler".into(), scheduler.into());
        Ok(translate(&document)?.unwrap().schedule().clone())
    };
    let mut schedulers = 0;
    for (class, table) in fields() {
        if !class.ends_with("Scheduler") {
            continue;
        }
        schedulers += 1;
        let mut base = table["defaults"].as_object().unwrap().clone();
        base.insert("_class_name".into(), class.clone().into());
        let usual = schedule(base.clone()).unwrap();
        let drawing = match class.as_str() {
            "FlowMatchEulerDiscreteScheduler" => DRAWING_ALONG_A_LINE,
            "EDMEulerScheduler" => DRAWING_FROM_EDM,
            _ => DRAWING,
        };
        for (field, other) in table["others"].as_object().unwrap() {
            let mut scheduler = base.clone();
            scheduler.extend(other.as_object().unwrap().clone());
            match schedule(scheduler) {
                Ok(found) => {
                    let drawing = drawing.contains(&field.as_str());
                    assert_eq!(found == usual, drawing, "{class}: {field}");
                }
                Err(message) => {
                    let named = format!("field {field} = {} is not supported", other[field]);
                    assert!(message.contains(&named), "{class}: {field}: {message}");
                }
            }
        }
    }
    assert!(schedulers >= 7, "{schedulers}");
}

#[test]
fn the_schedule_comes_from_the_pipelines_folder_or_is_asked_for() {
    let (denoiser, _) = denoiser("ddpm");
    let schedule = denoiser.schedule();
    assert_eq!(schedule.alphas_cumprod().len(), 1200);
    let first = 1.0 - schedule.alphas_cumprod()[0];
    assert!((first - 8.5e-4).abs() < 1e-9, "{first}");
    let message = translate(&read(&config("ddpm"))).map(|_| ()).unwrap_err();
    assert!(
        message.contains("field scheduler = null is not supported")
            && message.contains("scheduler_config.json"),
        "{message}"
    );
}

#[test]
fn a_scheduler_may_have_the_odd_numbers_that_python_writes_where_they_say_nothing() {
    let pipeline = tempfile::tempdir().unwrap();
    for name in ["unet", "scheduler"] {
        fs::create_dir(pipeline.path().join(name)).unwrap();
    }
    let part = pipeline.path().join("unet/config.json");
    fs::copy(config("ddpm"), &part).unwrap();
    let with = |fields: &str| {
        let text = format!(
            r#"{{"_class_name": "DPMSolverMultistepScheduler", "solver_type": "a \\", "_note": "-Infinity \" NaN", {fields}}}"#
        );
        let path = pipeline.path().join("scheduler/scheduler_config.json");
        fs::write(path, text).unwrap();
        let denoiser = Models::standard().denoiser(&part);
        denoiser.map(|denoiser| denoiser.schedule().alphas_cumprod().len())
    };
    // As diffusers writes what the class has by default.
    let usual = with(r#""num_train_timesteps": 70, "lambda_min_clipped": -Infinity"#);
    assert_eq!(usual.unwrap(), 70);
    for odd in ["NaN", "Infinity", "-Infinity"] {
        let message = with(&format!(r#""beta_start": {odd}"#))
            .unwrap_err()
            .to_string();
        assert!(
            message.contains(&format!("field beta_start = \"{odd}\" is not supported")),
            "{message}"
        );
    }
}

#[test]
fn what_a_network_is_shown_under_a_scheduler_is_what_the_scheduler_says() {
    let table = read(&fixtures().join("../schedules.json"));
    let rows = |rows: &Value| -> Tensor {
        let rows: Vec<Vec<f32>> = serde_json::from_value(rows.clone()).unwrap();
        Tensor::from_floats(&rows.concat(), &[3, 2], &Device::cpu()).unwrap()
    };
    let (x0, noise) = (rows(&table["x0"]), rows(&table["noise"]));
    // A shift changes nothing, and what follows from the defaults need not be said.
    for (name, scheduler) in [
        (
            "flow-sd3",
            json!({ "_class_name": "FlowMatchEulerDiscreteScheduler", "_diffusers_version": "0.35.1", "shift": 3.0 }),
        ),
        ("edm", json!({ "_class_name": "EDMEulerScheduler" })),
    ] {
        let mut document = read(&config("one_level"));
        document.insert("scheduler".into(), scheduler);
        let denoiser = translate(&document).unwrap().unwrap();
        let case = &table["mixtures"][name];
        let times: Vec<f64> = serde_json::from_value(case["times"].clone()).unwrap();
        let mixed = denoiser.schedule().mix(&x0, &noise, &times).unwrap();
        for (found, expected) in [(mixed.noisy, "noisy"), (mixed.target, "target")] {
            let (error, size) = difference(&found, &rows(&case[expected]));
            assert!(error <= 1e-6 + 1e-6 * size, "{name}: {expected}: {error}");
        }
    }
}

#[test]
fn a_scheduler_that_there_is_not_is_refused_with_those_that_there_are() {
    let mut document = read(&config("one_level"));
    document.insert("scheduler".into(), json!({ "_class_name": "LCMScheduler" }));
    let message = translate(&document).map(|_| ()).unwrap_err();
    assert!(
        message.contains("field _class_name = \"LCMScheduler\" is not supported")
            && message.contains("EDMEulerScheduler"),
        "{message}"
    );
}

#[test]
fn a_class_that_there_is_not_is_refused_with_those_that_there_are() {
    let document = json!({ "_class_name": "FluxTransformer2DModel" });
    let message = translate(document.as_object().unwrap())
        .map(|_| ())
        .unwrap_err();
    assert!(
        message.contains("FluxTransformer2DModel") && message.contains("`UNet2DConditionModel`"),
        "{message}"
    );
}

// --- DiT, SiT and REPA ---------------------------------------------------------------------------------------------------------------

#[test]
fn checkpoints_of_the_dit_paper_are_described_by_what_its_scripts_are_told() {
    let table = read(&fixtures().join("../structures.json"));
    let structure: BTreeMap<String, Vec<usize>> =
        serde_json::from_value(table["dit_xl_2"].clone()).unwrap();
    let document = json!({ "model": "DiT-XL/2", "image_size": 256, "num_classes": 1000 });
    let mut document = document.as_object().unwrap().clone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("DiT-XL-2-256x256.json");
    let write = |document: &Map<String, Value>| {
        fs::write(&path, Value::from(document.clone()).to_string()).unwrap();
    };
    write(&document);
    let dit = Models::standard().denoiser(&path).unwrap();
    let declared: BTreeMap<String, Vec<usize>> = dit
        .parameters()
        .iter()
        .map(|spec| (spec.name.clone(), spec.shape.clone()))
        .collect();
    assert_eq!(declared, structure);
    assert_eq!(dit.image_shape(), [4, 32, 32]);
    document.insert("image_size".into(), json!(512));
    write(&document);
    let dit = Models::standard().denoiser(&path).unwrap();
    assert_eq!(dit.image_shape(), [4, 64, 64]);
    // Table 1 of the paper, in millions of parameters that are trained.
    for (model, millions) in [
        ("DiT-S/2", 33.0),
        ("DiT-B/4", 130.0),
        ("DiT-L/8", 459.0),
        ("DiT-XL/2", 675.0),
    ] {
        document.insert("model".into(), json!(model));
        document.insert("image_size".into(), json!(256));
        write(&document);
        let dit = Models::standard().denoiser(&path).unwrap();
        let trained = dit
            .parameters()
            .iter()
            .filter(|spec| spec.name != "pos_embed");
        let found = trained.map(|spec| spec.elements()).sum::<usize>() as f64 / 1e6;
        assert!(
            (found - millions).abs() < 0.6 + millions * 1e-3,
            "{model}: {found}"
        );
    }
    for (field, value) in [("image_size", json!(250)), ("path_type", json!("linear"))] {
        let mut other = document.clone();
        other.insert(field.into(), value.clone());
        write(&other);
        let message = Models::standard()
            .denoiser(&path)
            .map(|_| ())
            .unwrap_err()
            .to_string();
        let expected = format!("field {field} = {value} is not supported");
        assert!(message.contains(&expected), "{message}");
    }
}

fn of_scripts(name: &str) -> PathBuf {
    fixtures().join("../sit").join(name)
}

fn load_of_scripts(
    description: &Path,
    weights: &Path,
) -> Result<(Box<dyn Denoiser>, Weights), String> {
    let loaded = Models::standard().load_denoiser(description, Some(weights), &Device::cpu());
    loaded.map_err(|error| error.to_string())
}

/// The fixtures come from `tests/reference/sit.py`: inputs as the path of each repository mixes them, what its network answers, what
/// training compares that with, and the gradient with respect to the class embedding.
#[test]
fn checkpoints_of_sit_and_repa_answer_with_their_own_velocities_in_their_own_directions_of_time() {
    for name in ["sit", "repa", "repa_legacy"] {
        let (description, weights) = (
            of_scripts(&format!("{name}.json")),
            of_scripts(&format!("{name}.pt")),
        );
        let (denoiser, weights) = load_of_scripts(&description, &weights).unwrap();
        let path = of_scripts(&format!("{name}.expected.safetensors"));
        let expected = read_tensors(&path, &Device::cpu()).unwrap();
        let times = expected["input.times"].to_floats().unwrap();
        let times: Vec<f64> = times.iter().map(|&time| time.into()).collect();
        let (image, noise) = (&expected["input.image"], &expected["input.noise"]);
        let mixed = denoiser.schedule().mix(image, noise, &times).unwrap();
        for (found, part) in [
            (&mixed.noisy, "output.noisy"),
            (&mixed.target, "output.target"),
        ] {
            let (error, _) = difference(found, &expected[part]);
            assert!(error <= 1e-6, "{name}: {part}: {error}");
        }
        let condition = expected["input.condition"].to_leaf().unwrap();
        let conditioning: Named = [("class-embedding".to_owned(), condition.clone())]
            .into_iter()
            .collect();
        let answer = denoiser
            .predict(&weights, &mixed.noisy, &times, &conditioning)
            .unwrap();
        assert_close(
            &format!("{name}: answer"),
            &answer,
            &expected["output.answer"],
        );
        let loss = answer.mul(&expected["input.cotangent"]).unwrap();
        let gradients = loss.sum(&[], false).unwrap().backward().unwrap();
        let found = gradients.of(&condition).unwrap();
        assert_gradient(name, &found, &expected["gradient.condition"]);
    }
}

#[test]
fn a_sit_is_refused_unless_it_says_who_trained_it_and_by_what_its_tensors_say() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("description.json");
    let changed = |name: &str, changes: &Value, weights: &str| {
        let mut document = read(&of_scripts(name));
        for (field, value) in changes.as_object().unwrap() {
            match value.is_null() {
                true => document.remove(field),
                false => document.insert(field.clone(), value.clone()),
            };
        }
        fs::write(&path, Value::from(document).to_string()).unwrap();
        load_of_scripts(&path, &of_scripts(weights))
            .map(|_| ())
            .unwrap_err()
    };
    let unsaid = changed("sit.json", &json!({ "trained_with": null }), "sit.pt");
    assert!(
        unsaid.contains("field trained_with = null is not supported")
            && unsaid.contains("opposite")
            && !unsaid.contains("hidden_size"),
        "{unsaid}"
    );
    // The description of one with the weights of the other.
    let of_repa = changed("sit.json", &json!({}), "repa.pt");
    assert!(
        of_repa.contains("projectors.0.0.bias") && of_repa.contains("final_layer.linear.weight"),
        "{of_repa}"
    );
    let of_sit = changed("repa.json", &json!({}), "sit.pt");
    assert!(of_sit.contains("final_layer.linear.weight"), "{of_sit}");
    for (name, field, value) in [
        ("sit.json", "path_type", json!("GVP")),
        ("sit.json", "prediction", json!("score")),
        ("sit.json", "qk_norm", json!(true)),
        ("sit.json", "image_size", json!(256)),
        ("repa.json", "path_type", json!("cosine")),
        ("repa.json", "prediction", json!("x")),
        ("repa.json", "qk_norm", json!(true)),
        ("repa.json", "learn_sigma", json!(true)),
    ] {
        let message = changed(name, &json!({ field: value }), "sit.pt");
        let expected =
            format!("this is a DiT or SiT configuration; field {field} = {value} is not supported");
        assert!(message.contains(&expected), "{name}: {message}");
    }
}

#[test]
fn sizes_of_sit_are_those_of_dit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("description.json");
    let declared = |description: Value| {
        fs::write(&path, description.to_string()).unwrap();
        let made = Models::standard().denoiser(&path).unwrap();
        let shapes: Vec<(String, Vec<usize>)> = made
            .parameters()
            .iter()
            .map(|spec| (spec.name.clone(), spec.shape.clone()))
            .collect();
        (made.image_shape(), shapes)
    };
    let dit = declared(json!({ "model": "DiT-XL/2", "image_size": 512 }));
    assert_eq!(
        declared(json!({ "model": "SiT-XL/2", "trained_with": "SiT", "image_size": 512 })),
        dit
    );
    let repa = declared(json!({ "model": "SiT-XL/2", "trained_with": "REPA", "resolution": 512 }));
    assert_eq!(repa.0, dit.0);
    let half = |shapes: &[(String, Vec<usize>)]| {
        let last = shapes
            .iter()
            .find(|(name, _)| name == "final_layer.linear.weight");
        last.unwrap().1[0]
    };
    assert_eq!(half(&dit.1), 2 * half(&repa.1));
    for wrong in ["SiT-XL/3", "SiT-M/2", "SiTXL/2", "DiT-XL"] {
        fs::write(&path, json!({ "model": wrong }).to_string()).unwrap();
        let message = Models::standard()
            .denoiser(&path)
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(
            message.contains(wrong) && message.contains("`DiT-S/2`"),
            "{message}"
        );
    }
}

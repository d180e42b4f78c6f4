//! Weight and configuration files: what is written comes back, and what does not fit is told at once, by name.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dtta_models::{
    ClassCondition, Declaration, Denoiser, Dit, DitConfig, Group, Init, ModelError, Models,
    NoiseSchedule, ParameterSpec, Precision, ScheduleConfig, UNet, Weights, read_tensors,
    write_tensors,
};
use dtta_tensor::{Device, Named, Tensor};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn specs(parameters: &[(&str, &[usize])]) -> Arc<[ParameterSpec]> {
    let mut declaration = Declaration::new();
    for (name, shape) in parameters {
        declaration.declare(name, shape, Group::Weight, Init::Normal(1.0));
    }
    declaration.finish()
}

fn save(
    folder: &Path,
    parameters: &[(&str, &[usize])],
    precision: Precision,
) -> (PathBuf, Weights) {
    let weights = Weights::initialise(&specs(parameters), 7, &Device::cpu()).unwrap();
    let path = folder.join("weights.safetensors");
    weights.save(&path, precision, &BTreeMap::new()).unwrap();
    (path, weights)
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn f32_comes_back_exactly_and_halves_within_their_precision(values in prop::collection::vec(-1e4f32..1e4, 1..40)) {
        let specs = specs(&[("a", &[values.len()])]);
        let mut weights = Weights::initialise(&specs, 0, &Device::cpu()).unwrap();
        let id = weights.find("a").unwrap();
        weights.set(id, Tensor::from_floats(&values, &[values.len()], &Device::cpu()).unwrap()).unwrap();
        let folder = folder();
        let path = folder.path().join("w.safetensors");
        for (precision, relative) in [(Precision::F32, 0.0), (Precision::F16, 2f32.powi(-11)), (Precision::Bf16, 2f32.powi(-8))] {
            weights.save(&path, precision, &BTreeMap::new()).unwrap();
            let loaded = Weights::load(&path, &specs, &Device::cpu()).unwrap().get(id).to_floats().unwrap();
            for (a, b) in values.iter().zip(&loaded) {
                // Below 2^-14, f16 has a fixed step of 2^-24.
                prop_assert!((a - b).abs() <= relative * a.abs() + if relative > 0.0 { 2f32.powi(-25) } else { 0.0 }, "{a} {b}");
            }
        }
    }
}

#[test]
fn the_same_weights_give_the_same_bytes_and_the_crate_reads_them() {
    let folder = folder();
    let weights =
        Weights::initialise(&specs(&[("b", &[3]), ("a", &[2, 5])]), 0, &Device::cpu()).unwrap();
    let metadata: BTreeMap<_, _> = ["format", "seed", "steps", "config"]
        .map(|key| (key.to_owned(), "x\"y".to_owned()))
        .into();
    let bytes = |name: &str| {
        let path = folder.path().join(name);
        weights.save(&path, Precision::F32, &metadata).unwrap();
        fs::read(path).unwrap()
    };
    let first = bytes("one.safetensors");
    assert_eq!(first, bytes("two.safetensors"));
    let (_, header) = safetensors::SafeTensors::read_metadata(&first).unwrap();
    assert_eq!(
        header
            .metadata()
            .clone()
            .unwrap()
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
        metadata
    );
    let left: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "no partial file stays: {left:?}");
}

#[test]
fn a_file_that_does_not_fit_is_one_error_that_lists_everything() {
    let folder = folder();
    let (path, _) = save(
        folder.path(),
        &[("a", &[2]), ("b", &[3, 4]), ("c", &[5]), ("d", &[1])],
        Precision::F16,
    );
    let wanted = specs(&[("a", &[2]), ("b", &[4, 3]), ("e", &[1]), ("f.weight", &[1])]);
    let error = Weights::load(&path, &wanted, &Device::cpu()).unwrap_err();
    let message = error.to_string();
    let expected = "does not fit the model: missing `e`, `f.weight`; not declared `c`, `d`; misshapen `b` is [3, 4], expected [4, 3]";
    assert!(
        message.ends_with(expected) && message.contains("weights.safetensors"),
        "{message}"
    );
    let ModelError::Mismatch { mismatches, .. } = error else {
        panic!("{error:?}")
    };
    let missing = mismatches.missing.iter().map(|called| &*called.tensor);
    assert!(missing.eq(["e", "f.weight"]));
}

#[test]
fn a_file_cut_short_anywhere_is_refused_by_name() {
    let folder = folder();
    let (path, weights) = save(
        folder.path(),
        &[("a", &[20]), ("b", &[3, 4])],
        Precision::F32,
    );
    let whole = fs::read(&path).unwrap();
    for length in [0, 4, 8, 20, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = Weights::load(&path, weights.specs(), &Device::cpu()).unwrap_err();
        assert!(
            matches!(error, ModelError::Safetensors { .. }),
            "{length}: {error}"
        );
        assert!(error.to_string().contains("weights.safetensors"), "{error}");
    }
}

#[test]
fn weights_of_another_format_are_named_for_what_they_are_with_what_to_do() {
    let folder = folder();
    let path = folder.path().join("weights.safetensors");
    let refused = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let error = Weights::load(&path, &specs(&[("a", &[1])]), &Device::cpu()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("weights.safetensors"), "{message}");
        (matches!(error, ModelError::OtherFormat { .. }), message)
    };
    for (bytes, format, advice) in [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n".as_slice(),
            "a Git LFS pointer",
            "git lfs pull",
        ),
        (
            b"\x80\x02}q\0X\x01\0\0\0aq\x01K\x01s.",
            "a pickle that `torch.save` did not write",
            "as safetensors",
        ),
        (
            b"\xef\xbb\xbf { \"kind\": \"dit\" }",
            "a JSON file",
            "the file with the weights",
        ),
        (
            b"<!DOCTYPE html><html>Not found</html>",
            "a web page",
            "fetch it again",
        ),
        (
            b"\x89HDF\r\n\x1a\n\0\0\0\0",
            "an HDF5 file",
            "as safetensors",
        ),
        (b"GGUF\x03\0\0\0", "a GGUF file", "safetensors file"),
    ] {
        let (other, message) = refused(bytes);
        assert!(other, "{message}");
        assert!(message.contains(&format!("is {format}")), "{message}");
        assert!(message.contains(advice), "{message}");
    }
    // What can be read, but is cut short.
    for (bytes, said) in [
        (b"PK\x03\x04\0\0\x08\x08archive/data.pkl".as_slice(), "the archive has no end"),
        (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", "its pickle is cut short"),
        (
            b"{\"metadata\": {\"total_size\": 8}, \"weight_map\": {\"a\": \"model-00001-of-00002.safetensors\"}}",
            "missing files `model-00001-of-00002.safetensors`",
        ),
    ] {
        let (_, message) = refused(bytes);
        assert!(message.contains(said), "{message}");
    }
    // A header of 640 bytes that is cut short begins as a pickle of protocol 2 does.
    for bytes in [
        b"\x80\x02\0\0\0\0\0\0".as_slice(),
        b"\x80\x02\0\0\0\0\0\0{\"a\":",
        b"",
        b"no format",
    ] {
        let (other, message) = refused(bytes);
        assert!(
            !other && message.contains("not a whole safetensors file"),
            "{message}"
        );
    }
    let load = |path: &Path| Weights::load(path, &specs(&[]), &Device::cpu()).unwrap_err();
    let error = load(&folder.path().join("absent"));
    assert!(error.to_string().contains("absent"), "{error}");
    let message = dtta_base::told(&load(folder.path()));
    assert!(message.contains("it is not a file"), "{message}");
}

#[test]
fn a_long_list_of_differences_is_cut_short() {
    let folder = folder();
    let (path, _) = save(folder.path(), &[("a", &[2])], Precision::F32);
    let names: Vec<String> = (0..1000).map(|n| format!("layer{n}.weight")).collect();
    let wanted: Vec<(&str, &[usize])> =
        names.iter().map(|name| (name.as_str(), &[1][..])).collect();
    let error = Weights::load(&path, &specs(&wanted), &Device::cpu()).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("`layer7.weight` and 992 more; not declared `a`"),
        "{message}"
    );
    let ModelError::Mismatch { mismatches, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(mismatches.missing.len(), 1000);
}

#[test]
fn a_value_that_half_precision_cannot_hold_is_refused_and_leaves_the_old_file() {
    let folder = folder();
    let (path, mut weights) = save(folder.path(), &[("a", &[1])], Precision::F32);
    let before = fs::read(&path).unwrap();
    let id = weights.find("a").unwrap();
    weights
        .set(id, Tensor::full(&[1], 1e6, &Device::cpu()).unwrap())
        .unwrap();
    let error = weights
        .save(&path, Precision::F16, &BTreeMap::new())
        .unwrap_err();
    assert!(
        error.to_string().contains("`a` holds 1000000, which F16"),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn counters_of_batch_norm_are_dropped_only_beside_running_statistics() {
    // The fixture was written by PyTorch, with counters.
    let bytes = fs::read(fixture("resnet_batch.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert!(file.names().contains(&"bn1.num_batches_tracked"));
    Models::standard()
        .load_backbone(&fixture("resnet_batch.json"), None, &Device::cpu())
        .unwrap();
    let folder = folder();
    let (path, _) = save(
        folder.path(),
        &[("a", &[1]), ("bn.num_batches_tracked", &[1])],
        Precision::F32,
    );
    let error = Weights::load(&path, &specs(&[("a", &[1])]), &Device::cpu()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("not declared `bn.num_batches_tracked`"),
        "{error}"
    );
}

#[test]
fn a_model_is_the_same_from_a_checkpoint_of_pytorch_and_from_a_folder() {
    let (models, device) = (Models::standard(), Device::cpu());
    let config = fixture("resnet_batch.json");
    let (_, own) = models.load_backbone(&config, None, &device).unwrap();
    let same = |weights: &Weights| {
        for ((_, spec, a), (_, _, b)) in own.iter().zip(weights.iter()) {
            assert_eq!(a.to_floats(), b.to_floats(), "{}", spec.name);
        }
    };
    let checkpoint = fixture("checkpoints/resnet_batch.pt");
    let loaded = models.load_backbone(&config, Some(&checkpoint), &device);
    same(&loaded.unwrap().1);
    let folder = folder();
    fs::copy(&config, folder.path().join("config.json")).unwrap();
    fs::copy(&checkpoint, folder.path().join("pytorch_model.bin")).unwrap();
    same(
        &models
            .load_backbone(folder.path(), None, &device)
            .unwrap()
            .1,
    );
    let found = dtta_models::weights_beside(folder.path(), None);
    assert_eq!(found, folder.path().join("pytorch_model.bin"));
    // A checkpoint in the place of a configuration.
    let error = models.backbone(&checkpoint).err().unwrap().to_string();
    assert!(
        error.contains("a checkpoint of PyTorch, which does not say what model it is of"),
        "{error}"
    );
    let error = models.denoiser(folder.path()).err().unwrap().to_string();
    assert!(
        error.contains("config.json` describes a `resnet`"),
        "{error}"
    );
}

fn dit() -> Value {
    json!({ "kind": "dit", "image": [1, 8, 8], "patch_size": 2, "hidden_size": 16, "depth": 1, "num_heads": 2, "num_classes": 10 })
}

fn resnet() -> Value {
    json!({ "kind": "resnet", "image": [1, 8, 8], "classes": 10, "blocks": [1], "widths": [8] })
}

/// The error that loading a configuration with one change gives.
fn refusal(mut config: Value, pointer: &str, value: Value) -> String {
    let folder = folder();
    let path = folder.path().join("model.json");
    match (config.pointer_mut(pointer), pointer.rsplit_once('/')) {
        (Some(place), _) => *place = value,
        (None, Some((parent, name))) => config.pointer_mut(parent).unwrap()[name] = value,
        (None, None) => panic!("no place {pointer}"),
    }
    fs::write(&path, config.to_string()).unwrap();
    let message = match Models::standard().denoiser(&path) {
        Ok(_) => panic!("accepted"),
        Err(error) => error.to_string(),
    };
    assert!(message.contains("model.json"), "{message}");
    message
}

#[test]
fn configuration_errors_name_file_and_place() {
    let with_schedule = || {
        let mut config = dit();
        config["schedule"] = json!({ "kind": "discrete", "timesteps": 10 });
        config
    };
    for (config, pointer, value, expected) in [
        (
            dit(),
            "/depht",
            json!(1),
            "/depht: is not a field here; did you mean `depth`?",
        ),
        (
            dit(),
            "/image/1",
            json!("8"),
            "/image/1: is `8`, expected an integer from 1 to 65536",
        ),
        (
            with_schedule(),
            "/schedule/betas",
            json!("quadratic"),
            "/schedule/betas: ",
        ),
        (
            with_schedule(),
            "/schedule/steps",
            json!(1),
            "/schedule/steps: `discrete` has no `steps`; known: `kind`, `betas`, `timesteps`, `beta_start`, `beta_end`",
        ),
        (
            dit(),
            "/kind",
            json!("gan"),
            "/kind: is `gan`; known: `dit`, `unet`, `uvit`, `controlnet`, `resnet`, `convnext`, `vit`, `efficientnet`, `encoder_decoder`, `segformer`, `dpt`, `glpn`, `dense_depth`, `clip_vision`, `siglip_vision`, `autoencoder_kl` and 3 more",
        ),
        (
            dit(),
            "/image",
            json!([1, 9, 8]),
            "/image: is [1, 9, 8], expected channels and two positive multiples of 2",
        ),
        (dit(), "/hidden_size", json!(18), "/hidden_size: is 18"),
        (
            dit(),
            "/num_heads",
            json!(0),
            "/num_heads: is 0, expected an integer from 1 to 65536",
        ),
        (
            dit(),
            "/class_dropout_prob",
            json!(1.5),
            "/class_dropout_prob: is 1.5, expected a number from 0 to 1",
        ),
        (
            with_schedule(),
            "/schedule/beta_end",
            json!(0.00001),
            "/schedule/beta_end: is 0.00001, expected a number from 0.0001",
        ),
        (dit(), "", json!([1]), "/: is [1], expected an object"),
        (
            resnet(),
            "/classes",
            json!(5),
            "describes a `resnet`, but a denoiser is needed here: `dit`, `unet`, `uvit` or `controlnet`",
        ),
    ] {
        let message = refusal(config, pointer, value);
        assert!(
            message.contains(expected),
            "{message}\nexpected: {expected}"
        );
    }
}

#[test]
fn every_fault_of_a_configuration_is_told_at_once() {
    let mut config = dit();
    config["image"] = json!([1, 9, 8]);
    config["hidden_size"] = json!(18);
    config["schedule"] = json!({ "kind": "discrete", "beta_start": 2.0 });
    let message = refusal(config.clone(), "/num_classes", json!(0));
    for pointer in [
        "/image",
        "/hidden_size",
        "/num_classes",
        "/schedule/beta_start",
        "/schedule/beta_end",
    ] {
        assert!(
            message.contains(&format!("\n  {pointer}: is ")),
            "{pointer}: {message}"
        );
    }
    // Those of the schema beside those that it cannot say.
    config["num_heads"] = json!(0);
    let message = refusal(config.clone(), "/depht", json!(1));
    for pointer in [
        "/num_heads",
        "/depht",
        "/image",
        "/hidden_size",
        "/schedule/beta_end",
    ] {
        assert!(
            message.contains(&format!("\n  {pointer}: is ")),
            "{pointer}: {message}"
        );
    }
    config["num_heads"] = json!("two");
    let message = refusal(config, "/depht", json!(1));
    assert!(
        message.contains("/num_heads") && message.contains("depht"),
        "{message}"
    );
    // From Rust there is no file to name.
    let mut config = dit_config();
    (config.patch_size, config.num_heads) = (3, 3);
    let message = Dit::new(config).err().unwrap().to_string();
    assert!(
        message.contains("`/image` is [1, 8, 8]") && message.contains("; `/hidden_size` is 16"),
        "{message}"
    );
}

#[test]
fn sizes_that_no_machine_could_hold_are_refused_before_memory_is_asked_for() {
    let huge = u64::MAX >> 1;
    for pointer in [
        "/image/0",
        "/image/2",
        "/patch_size",
        "/hidden_size",
        "/depth",
        "/num_heads",
        "/num_classes",
        "/mlp_ratio",
    ] {
        let message = refusal(dit(), pointer, json!(huge));
        let place = pointer.trim_end_matches(|c: char| c == '/' || c.is_ascii_digit());
        assert!(message.contains(place), "{pointer}: {message}");
    }
    let mut config = dit();
    config["hidden_size"] = json!(65_536);
    let message = refusal(config, "/image", json!([1, 65_536, 65_536]));
    assert!(message.contains("/patch_size: is 2, of"), "{message}");
    // A table of positions of 4 GiB, and 4 million transformer blocks, from a file of a hundred bytes.
    let mut config = dit();
    (config["patch_size"], config["hidden_size"]) = (json!(1), json!(64));
    let message = refusal(config, "/image", json!([1, 4096, 4096]));
    assert!(
        message.contains("/patch_size: is 1, of 16777216 patches"),
        "{message}"
    );
    let deep = json!({
        "kind": "unet", "image": [1, 64, 64], "block_out_channels": vec![32; 4],
        "down_block_types": vec!["CrossAttnDownBlock2D"; 4], "layers_per_block": 1024,
        "tokens": { "length": 4, "width": 8, "heads": 1, "layers": 1024 },
    });
    let message = refusal(deep, "/add_attention", json!(true));
    assert!(
        message.contains("/layers_per_block: is 1024, 4194304 blocks"),
        "{message}"
    );
    let mut config = dit();
    config["schedule"] = json!({ "kind": "discrete", "timesteps": huge });
    let message = refusal(config, "/depth", json!(1));
    assert!(message.contains("/schedule/timesteps"), "{message}");
    // One layer of 2^32 elements.
    let mut config = dit_config();
    (config.hidden_size, config.num_heads) = (65_536, 1);
    let dit = Dit::new(config).unwrap();
    assert!(Weights::initialise(dit.parameters(), 0, &Device::cpu()).is_err());
}

#[test]
fn a_configuration_that_is_no_json_names_line_and_column() {
    let folder = folder();
    let path = folder.path().join("model.json");
    fs::write(&path, "{\n  \"kind\": \"dit\",,\n}").unwrap();
    let error = Models::standard().denoiser(&path).err().unwrap();
    let message = dtta_base::told(&error);
    assert!(
        message.contains("model.json") && message.contains("line 2 column"),
        "{message}"
    );
}

#[test]
fn resnet_configurations_are_held_to_their_own_rules() {
    let folder = folder();
    let path = folder.path().join("model.json");
    for (name, value, expected) in [
        (
            "widths",
            json!([8, 16]),
            "/blocks: is [1], expected 2 numbers from 1",
        ),
        (
            "norm",
            json!({ "kind": "group", "groups": 3 }),
            "/norm/groups: is 3, expected a divisor of the widths [8]",
        ),
        (
            "norm",
            json!({ "kind": "group", "groups": 4, "eps": 1 }),
            "/norm/eps: `group` has no `eps`; known: `kind`, `groups`",
        ),
        (
            "blocks",
            json!([0]),
            "/blocks/0: is 0, expected an integer from 1 to 1024",
        ),
        ("stem", json!("tiny"), "/stem: "),
    ] {
        let mut config = resnet();
        config[name] = value;
        fs::write(&path, config.to_string()).unwrap();
        let error = Models::standard().backbone(&path).err().unwrap();
        let message = error.to_string();
        assert!(
            message.contains(expected) && message.contains("model.json"),
            "{message}\nexpected: {expected}"
        );
    }
}

#[test]
fn a_schema_reference_is_accepted() {
    let folder = folder();
    let path = folder.path().join("model.json");
    let mut config = dit();
    config["$schema"] = json!("../schema/model.json");
    fs::write(&path, config.to_string()).unwrap();
    Models::standard().denoiser(&path).unwrap();
    assert_eq!(dtta_base::check(&config, &Models::standard().schema()), []);
}

#[test]
fn the_schema_describes_every_field_and_refuses_others() {
    fn objects<'a>(schema: &'a Value, found: &mut Vec<&'a Value>) {
        match schema {
            Value::Object(entries) => {
                if entries.contains_key("properties") {
                    found.push(schema);
                }
                let schemas = entries.iter().filter(|(keyword, _)| *keyword != "if");
                schemas.for_each(|(_, value)| objects(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| objects(value, found)),
            _ => {}
        }
    }
    let schema = Models::standard().schema();
    let mut found = Vec::new();
    objects(&schema, &mut found);
    assert!(found.len() >= 4, "{schema:#}");
    for object in found {
        let strict = object["additionalProperties"] == false
            || object["unevaluatedProperties"] == false
            || object.get("$ref").is_some()
            || object.get("allOf").is_some();
        assert!(strict, "{object:#}");
        for (name, property) in object["properties"].as_object().unwrap() {
            assert!(
                name == "kind" || property.get("description").is_some(),
                "`{name}` of {object:#}"
            );
        }
    }
}

#[test]
fn weights_that_are_no_numbers_are_refused_by_name() {
    let folder = folder();
    let (path, mut weights) = save(folder.path(), &[("a", &[3]), ("b", &[2])], Precision::F32);
    let id = weights.find("b").unwrap();
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let tensor = Tensor::full(&[2], value, &Device::cpu()).unwrap();
        weights.set(id, tensor).unwrap();
        let before = fs::read(&path).unwrap();
        for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
            let error = weights
                .save(&path, precision, &BTreeMap::new())
                .unwrap_err();
            assert!(matches!(error, ModelError::NotFinite { .. }), "{error}");
        }
        assert_eq!(fs::read(&path).unwrap(), before);
        // Checkpoints keep what there is; as weights it does not load.
        let named: BTreeMap<String, Tensor> = weights
            .iter()
            .map(|(_, spec, tensor)| (spec.name.clone(), tensor.clone()))
            .collect();
        write_tensors(&path, &named).unwrap();
        let read = read_tensors(&path, &Device::cpu()).unwrap();
        assert_eq!(read["a"].to_floats(), named["a"].to_floats());
        assert_eq!(read["b"].is_finite(), Ok(false));
        let error = Weights::load(&path, weights.specs(), &Device::cpu()).unwrap_err();
        let ModelError::NotFinite { name, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(name, "b");
        assert!(error.to_string().contains("weights.safetensors"), "{error}");
    }
}

#[test]
fn weights_are_read_while_their_file_is_replaced() {
    let folder = folder();
    let (path, weights) = save(folder.path(), &[("a", &[100_000])], Precision::F32);
    let expected = weights.get(weights.find("a").unwrap()).to_floats();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..50 {
                weights
                    .save(&path, Precision::F32, &BTreeMap::new())
                    .unwrap();
            }
        });
        for _ in 0..50 {
            let read = Weights::load(&path, weights.specs(), &Device::cpu()).unwrap();
            assert_eq!(read.get(read.find("a").unwrap()).to_floats(), expected);
        }
    });
}

fn dit_config() -> DitConfig {
    let mut config = dit();
    config.as_object_mut().unwrap().remove("kind");
    serde_json::from_value(config).unwrap()
}

fn small_dit() -> (Dit, Weights) {
    let dit = Dit::new(dit_config()).unwrap();
    let weights = Weights::initialise(dit.parameters(), 0, &Device::cpu()).unwrap();
    (dit, weights)
}

#[test]
fn inputs_that_do_not_fit_are_refused_by_name() {
    let (dit, weights) = small_dit();
    let full = |shape: &[usize]| Tensor::full(shape, 0.1, &Device::cpu()).unwrap();
    let condition = || Named::one("class-embedding", full(&[2, 16]));
    let noisy = full(&[2, 1, 8, 8]);
    let refused = |noisy: &Tensor, times: &[f64], conditioning: Named| {
        dit.predict(&weights, noisy, times, &conditioning)
            .unwrap_err()
            .to_string()
    };
    assert!(
        dit.predict(&weights, &noisy, &[0.0, 999.0], &condition())
            .is_ok()
    );
    for (message, expected) in [
        (
            refused(&full(&[2, 1, 8, 4]), &[0.0, 0.0], condition()),
            "the noisy batch has shape [2, 1, 8, 4], expected [B, 1, 8, 8]",
        ),
        (
            refused(&noisy, &[0.0], condition()),
            "times are 1, expected 2, one for each row",
        ),
        (
            refused(&noisy, &[0.0, 1000.0], condition()),
            "time is 1000, expected a whole number from 0 to 999",
        ),
        (
            refused(&noisy, &[0.0, 1.0], Named::new()),
            "missing slot `class-embedding`",
        ),
        (
            refused(&noisy, &[0.0, 1.0], Named::one("tokens", full(&[2, 16]))),
            "unknown slot `tokens`",
        ),
        (
            refused(
                &noisy,
                &[0.0, 1.0],
                Named::one("class-embedding", full(&[3, 16])),
            ),
            "the condition for slot `class-embedding` has shape [3, 16], expected [2 or 1, 16]",
        ),
    ] {
        assert!(
            message.contains(expected),
            "{message}\nexpected: {expected}"
        );
    }
    let schedule = NoiseSchedule::new(&ScheduleConfig::default()).unwrap();
    let message = schedule
        .add_noise(&noisy, &noisy, &[1.0])
        .unwrap_err()
        .to_string();
    assert!(message.contains("times are 1, expected 2"), "{message}");
}

#[test]
fn labels_and_constants_come_from_the_same_table() {
    let (dit, weights) = small_dit();
    let constants = dit.constants(&weights).unwrap();
    let table = constants.get("class-embeddings").unwrap();
    assert_eq!((constants.len(), &*table.shape()), (1, &[10, 16][..]));
    let labels = Tensor::from_ints(&[3, 9], &[2], &Device::cpu()).unwrap();
    let embedded = dit.embed_classes(&weights, &labels).unwrap();
    assert_eq!(
        embedded.to_floats().unwrap()[16..],
        table.to_floats().unwrap()[9 * 16..]
    );
    let told = ClassCondition {
        classes: 10,
        dropout_prob: 0.1,
        null_label: Some(10),
    };
    assert_eq!(dit.class_condition(), Some(told));
    let null = Tensor::from_ints(&[10], &[1], &Device::cpu()).unwrap();
    // Without a class, the denoiser is told the last row.
    let nothing = dit.unconditional(&weights).unwrap().unwrap();
    assert_eq!(
        nothing.get("class-embedding").unwrap().to_floats().unwrap(),
        dit.embed_classes(&weights, &null)
            .unwrap()
            .to_floats()
            .unwrap()
    );
}

#[test]
fn a_map_that_training_left_out_is_zeros_and_one_that_it_never_did_is_unknown() {
    let device = Device::cpu();
    for (dropout, known) in [(0.1, true), (0.0, false)] {
        let config = json!({
            "image": [1, 4, 6], "block_out_channels": [4], "down_block_types": ["DownBlock2D"],
            "layers_per_block": 1, "attention_head_dim": 4, "norm_num_groups": 2, "spatial": { "channels": 2, "dropout_prob": dropout }
        });
        let denoiser = UNet::new(serde_json::from_value(config).unwrap()).unwrap();
        let labels = Tensor::from_ints(&[0], &[1], &device).unwrap();
        let weights = Weights::initialise(denoiser.parameters(), 0, &device).unwrap();
        assert_eq!(denoiser.class_condition(), None);
        let error = denoiser.embed_classes(&weights, &labels).unwrap_err();
        assert!(error.to_string().contains("publishes `spatial`"), "{error}");
        let nothing = denoiser.unconditional(&weights).unwrap();
        assert_eq!(nothing.is_some(), known);
        for (_, map) in nothing.iter().flat_map(|nothing| nothing.iter()) {
            assert_eq!(*map.shape(), [1, 2, 4, 6]);
            assert!(map.to_floats().unwrap().iter().all(|&value| value == 0.0));
        }
    }
}

#[test]
fn a_fresh_dit_predicts_nothing_as_adaln_zero_starts() {
    let (dit, weights) = small_dit();
    let full = |shape: &[usize]| Tensor::full(shape, 0.1, &Device::cpu()).unwrap();
    let conditioning = Named::one("class-embedding", full(&[1, 16]));
    let noise = dit
        .predict(&weights, &full(&[2, 1, 8, 8]), &[1.0, 2.0], &conditioning)
        .unwrap();
    assert!(noise.to_floats().unwrap().iter().all(|&value| value == 0.0));
}

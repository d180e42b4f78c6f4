//! Segmenters and depth predictors as transformers saves them, and U-Nets with a ControlNet as diffusers does, held to both by the fixtures
//! that `tests/reference/dense.py` writes. Tolerances: largest absolute error 2e-4 for answers, 1e-3 of the largest element for gradients.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{assert_close, assert_gradient, difference};
use dtta_models::{
    BatchNormStatistics, Denoiser, Interpolation, ModelError, ModelFiles, Models, Preprocessing,
    Resized, Weights, read_tensors, write_tensors,
};
use dtta_tensor::{Device, Named, Tensor};
use serde_json::{Map, Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dense")
}

fn expected(name: &str) -> BTreeMap<String, Tensor> {
    let path = fixtures().join(name).join("expected.safetensors");
    read_tensors(&path, &Device::cpu()).unwrap()
}

fn read(path: &Path) -> Map<String, Value> {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

// --- Segmenters and depth predictors --------------------------------------------------------------------------------------------------

/// What a model answers for each pixel, and the gradients with respect to images and parameters, are those of transformers.
fn check(name: &str) {
    let device = Device::cpu();
    let folder = fixtures().join(name);
    let models = Models::standard();
    let (backbone, weights) = models.load_backbone(&folder, None, &device).unwrap();
    assert!(backbone.spec().per_pixel, "{name}");
    let expected = expected(name);
    let images = expected["input.images"].to_leaf().unwrap();
    let parameters: Vec<(&str, _)> = expected
        .keys()
        .filter_map(|key| key.strip_prefix("gradient."))
        .filter(|of| *of != "images")
        .map(|of| (of, weights.find(of).unwrap()))
        .collect();
    assert!(parameters.len() >= 2, "{name}");
    let ids: Vec<_> = parameters.iter().map(|(_, id)| *id).collect();
    let weights = weights.to_leaves(&ids).unwrap();
    let outputs = backbone
        .forward(&weights, &images, BatchNormStatistics::Running)
        .unwrap();
    let logits = outputs.get("logits").unwrap();
    assert_eq!(logits.shape()[1], backbone.spec().outputs, "{name}");
    assert_eq!(outputs.get("features").unwrap().shape().rank(), 4, "{name}");
    assert_close(name, logits, &expected["output.logits"]);
    let loss = logits.mul(&expected["input.cotangent"]).unwrap();
    let gradients = loss.sum(&[], false).unwrap().backward().unwrap();
    let leaves = parameters.iter().map(|(of, id)| (*of, weights.get(*id)));
    for (of, leaf) in leaves.chain([("images", &images)]) {
        let found = gradients.of(leaf).unwrap();
        assert_gradient(
            &format!("{name}: {of}"),
            &found,
            &expected[&format!("gradient.{of}")],
        );
    }
}

#[test]
fn segmenters_answer_as_transformers_segformer_does() {
    check("segformer");
    check("segformer_relu");
}

#[test]
fn depth_predictors_answer_as_transformers_glpn_does() {
    check("glpn");
}

#[test]
fn depth_predictors_answer_as_transformers_dpt_does() {
    for name in ["dpt", "dpt_add", "dpt_dinov2"] {
        check(name);
    }
}

#[test]
fn depth_predictors_answer_as_transformers_depth_anything_does() {
    check("anything");
    check("anything_metric");
}

#[test]
fn images_are_prepared_as_the_image_processor_says() {
    let models = Models::standard();
    let of = |name: &str| {
        let found = models.preprocessing(&fixtures().join(name)).unwrap();
        found.unwrap()
    };
    let imagenet = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    for (name, size, interpolation, (mean, std)) in [
        ("segformer", [36, 52], Interpolation::Bilinear, imagenet),
        (
            "dpt",
            [32, 32],
            Interpolation::Bicubic,
            ([0.5; 3], [0.5; 3]),
        ),
        ("anything", [28, 42], Interpolation::Bicubic, imagenet),
        (
            "glpn",
            [32, 48],
            Interpolation::Bilinear,
            ([0.0; 3], [1.0; 3]),
        ),
    ] {
        let expected = Preprocessing {
            image: [3, size[0], size[1]],
            interpolation,
            resized: Resized::To(size),
            mean,
            std,
        };
        assert_eq!(of(name), expected, "{name}");
    }
}

/// A copy of a fixture's configurations, changed by `change` in `config.json` and in `preprocessor_config.json`.
fn changed(
    name: &str,
    change: impl FnOnce(&mut Map<String, Value>, &mut Map<String, Value>),
) -> String {
    let folder = tempfile::tempdir().unwrap();
    let files = ["config.json", "preprocessor_config.json"];
    let [mut config, mut processor] = files.map(|file| read(&fixtures().join(name).join(file)));
    change(&mut config, &mut processor);
    for (file, document) in files.into_iter().zip([config, processor]) {
        fs::write(folder.path().join(file), Value::from(document).to_string()).unwrap();
    }
    let refused = Models::standard().backbone(folder.path());
    refused.map(|_| ()).unwrap_err().to_string()
}

#[test]
fn images_whose_extents_depend_on_them_are_asked_for_by_name() {
    let anything = changed("anything", |_, processor| {
        processor.insert("keep_aspect_ratio".into(), json!(true));
    });
    assert!(
        anything.contains("/preprocessor/keep_aspect_ratio")
            && anything.contains("field keep_aspect_ratio = true is not supported")
            && anything.contains("multiples of 7")
            && anything.contains("/models/backbone/extents"),
        "{anything}"
    );
    let glpn = changed("glpn", |_, processor| {
        processor.remove("size");
    });
    assert!(
        glpn.contains("field size = null is not supported")
            && glpn.contains("/models/backbone/extents"),
        "{glpn}"
    );
    let odd = changed("glpn", |_, processor| {
        processor.insert("size".into(), json!({"height": 40, "width": 48}));
    });
    assert!(odd.contains("multiples of 16"), "{odd}");
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    fs::copy(fixtures().join("segformer/config.json"), &config).unwrap();
    let refused = Models::standard().backbone(&config).map(|_| ());
    let message = refused.unwrap_err().to_string();
    assert!(
        message.contains("field preprocessor = null is not supported")
            && message.contains("preprocessor_config.json"),
        "{message}"
    );
}

#[test]
fn every_field_of_an_image_processor_is_honoured_or_refused_by_name() {
    for (field, value) in [
        ("image_processor_type", json!("ViTImageProcessor")),
        ("feature_extractor_type", json!("BeitFeatureExtractor")),
        ("do_resize", json!(false)),
        ("do_rescale", json!(false)),
        ("rescale_factor", json!(1.0)),
        ("do_center_crop", json!(true)),
        ("do_pad", json!(true)),
        ("resample", json!(1)),
        ("image_std", json!([0.0, 1.0, 1.0])),
        ("size", json!({"shortest_edge": 512})),
        ("size", json!({"height": 512, "width": 512, "depth": 3})),
        ("size", json!([0, 4])),
        ("crop_fraction", json!(0.9)),
    ] {
        let message = changed("segformer", |_, processor| {
            processor.insert(field.into(), value.clone());
        });
        let found = message.contains(&format!("/preprocessor/{field}"))
            && message.contains(&format!("field {field} = "));
        assert!(found, "{field}: {message}");
    }
}

/// Fields that say nothing about what is computed here: how it was trained, what it is called, what other heads do, and how text is generated.
const WITHOUT_INFLUENCE: &[&str] = &[
    "_name_or_path",
    "attention_probs_dropout_prob",
    "auxiliary_loss_weight",
    "backbone_featmap_shape",
    "classifier_dropout_prob",
    "drop_path_rate",
    "dtype",
    "hidden_dropout_prob",
    "initializer_range",
    "label2id",
    "layerscale_value",
    "neck_ignore_stages",
    // Blocks behind the last that is asked for, which a checkpoint may have; `what_depth_does_not_use_may_be_in_a_checkpoint_and_nothing_else`.
    "num_hidden_layers",
    "output_attentions",
    "output_hidden_states",
    "pooler_act",
    "pooler_output_size",
    "problem_type",
    "reshape_hidden_states",
    "return_dict",
    "semantic_classifier_dropout",
    "semantic_loss_ignore_index",
    "transformers_version",
    "upcast_attention",
    "use_auxiliary_head",
    "use_mask_token",
    // Of additional embeddings that are refused.
    "addition_time_embed_dim",
    "addition_embed_type_num_heads",
    "projection_class_embeddings_input_dim",
];

/// Values that differ from the default.
fn others(field: &str, value: &Value) -> Vec<Value> {
    match value {
        Value::Bool(value) => vec![json!(!value)],
        Value::Number(number) if number.is_f64() => vec![json!(0.25)],
        Value::Number(number) if number.is_i64() && !number.is_u64() => vec![json!(1)],
        Value::Number(number) => vec![json!(number.as_u64().unwrap() * 2 + 2)],
        Value::String(_) => match field {
            "hidden_act" | "act_fn" => vec![json!("relu"), json!("another")],
            "readout_type" => vec![json!("add"), json!("another")],
            "depth_estimation_type" => vec![json!("metric"), json!("another")],
            "controlnet_conditioning_channel_order" => vec![json!("bgr"), json!("another")],
            "resnet_time_scale_shift" => vec![json!("scale_shift"), json!("another")],
            "mid_block_type" => vec![json!("UNetMidBlock2D"), json!("another")],
            _ => vec![json!("another")],
        },
        Value::Array(list) if field == "out_features" => {
            vec![json!(list[..1].to_vec()), json!(["another"])]
        }
        Value::Array(list) => {
            let twice = |n: &Value| match n.as_u64() {
                Some(n) => json!(2 * n),
                None => json!(0.125),
            };
            vec![list.iter().map(twice).collect::<Vec<_>>().into()]
        }
        Value::Object(_) if field == "id2label" => vec![json!({"0": "a", "1": "b", "2": "c"})],
        // Its absence means true where there is no BatchNorm.
        Value::Null if field == "use_bias_in_fusion_residual" => vec![json!(false)],
        _ => vec![json!("another"), json!(1), json!({"a": 1}), json!(true)],
    }
}

/// What a configuration translates to, or its refusal.
fn described(class: &str, document: &Map<String, Value>) -> Result<Value, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let mut document = document.clone();
    if class == "ControlNetModel" {
        document.insert("_class_name".into(), class.into());
        fs::create_dir(folder.path().join("control")).unwrap();
        let control = folder.path().join("control/config.json");
        fs::write(control, Value::from(document.clone()).to_string()).unwrap();
        let unet = unet_of(&document);
        fs::write(folder.path().join("unet.json"), unet.to_string()).unwrap();
        let both = json!({"kind": "controlnet", "unet": "unet.json", "controlnet": "control"});
        fs::write(&path, both.to_string()).unwrap();
    } else {
        let size = json!({"height": 224, "width": 224});
        let processor = json!({"size": size, "size_divisor": 1, "do_resize": true});
        document.insert("preprocessor".into(), processor);
        fs::write(&path, Value::from(document).to_string()).unwrap();
    }
    let described = Models::standard().describe(&path, None);
    described
        .map(|found| found.document)
        .map_err(|error| error.to_string())
}

/// A U-Net that fits the class's own ControlNet.
fn unet_of(control: &Map<String, Value>) -> Value {
    let tokens = json!({"length": 7, "width": control["cross_attention_dim"], "heads": 8});
    json!({
        "kind": "unet", "image": [control["in_channels"], 8, 8], "block_out_channels": control["block_out_channels"],
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "layers_per_block": control["layers_per_block"], "downsample_padding": control["downsample_padding"], "tokens": tokens,
    })
}

/// Fields within are told by the names of their objects too.
fn leaves(fields: &Map<String, Value>) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (name, value) in fields {
        match value {
            Value::Object(within) if name == "backbone_config" => {
                let within = leaves(within).into_iter();
                found.extend(within.map(|rest| [vec![name.clone()], rest].concat()));
            }
            _ => found.push(vec![name.clone()]),
        }
    }
    found
}

#[test]
fn every_field_of_a_class_changes_the_model_or_is_refused_by_name() {
    let (mut honoured, mut refused, mut faults) = (0, 0, Vec::new());
    for (class, defaults) in read(&fixtures().join("fields.json")) {
        let mut defaults = defaults.as_object().unwrap().clone();
        if class == "DPTForDepthEstimation" {
            // The class says by null what its own version says by a list.
            defaults.insert("backbone_featmap_shape".into(), json!([1, 1024, 24, 24]));
        }
        let usual = described(&class, &defaults).unwrap_or_else(|error| panic!("{class}: {error}"));
        for path in leaves(&defaults) {
            let pointer = format!("/{}", path.join("/"));
            let field = path.last().unwrap().as_str();
            if ["architectures", "stage_names"].contains(&field) {
                continue;
            }
            let whole = Value::from(defaults.clone());
            let default = whole.pointer(&pointer).unwrap();
            let skipped = WITHOUT_INFLUENCE.contains(&field)
                // Where PyTorch's own stands in its place, and classes where there are none.
                || (field == "layer_norm_eps" && ["SegformerForSemanticSegmentation", "GLPNForDepthEstimation"].contains(&class.as_str()))
                || (field == "id2label" && class != "SegformerForSemanticSegmentation");
            for other in others(field, default) {
                let mut document = whole.clone();
                *document.pointer_mut(&pointer).unwrap() = other.clone();
                if field == "out_features" {
                    document["backbone_config"]
                        .as_object_mut()
                        .unwrap()
                        .remove("out_indices");
                    document["neck_hidden_sizes"] = json!([48]);
                    document["reassemble_factors"] = json!([1.0]);
                }
                if field == "num_hidden_layers"
                    && let Some(backbone) = document
                        .get_mut("backbone_config")
                        .and_then(Value::as_object_mut)
                {
                    backbone.remove("stage_names");
                }
                if field == "out_indices" {
                    document["backbone_config"]
                        .as_object_mut()
                        .unwrap()
                        .remove("out_features");
                }
                match described(&class, document.as_object().unwrap()) {
                    Ok(found) => {
                        honoured += 1;
                        if !skipped && found == usual {
                            faults.push(format!("{class}: {pointer} = {other} is ignored"));
                        }
                    }
                    Err(message) => {
                        refused += 1;
                        let named = message.contains(&format!("field {field} = "))
                            // What is honoured, but makes no model.
                            || message.contains(", expected ")
                            // Told where the other of two that must agree is, or within.
                            || message.contains(&format!("`{field}`"))
                            || message.contains(&format!("/{field}/"))
                            || message.contains("supported is that of `backbone_config`");
                        if !named || skipped {
                            faults.push(format!("{class}: {pointer} = {other}: {message}"));
                        }
                    }
                }
            }
        }
        let mut document = defaults.clone();
        document.insert("sampling_temperature".into(), json!(0.5));
        let message = described(&class, &document).unwrap_err();
        let expected = "field sampling_temperature = 0.5 is not supported (dtta does not know it)";
        assert!(message.contains(expected), "{class}: {message}");
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    eprintln!("{honoured} honoured, {refused} refused");
    assert!(honoured > 60 && refused > 40, "{honoured} {refused}");
}

#[test]
fn what_depth_does_not_use_may_be_in_a_checkpoint_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let config = fixtures().join("anything_metric");
    let tensors = read_tensors(&config.join("model.safetensors"), &Device::cpu()).unwrap();
    let load = |tensors: &BTreeMap<String, Tensor>| {
        write_tensors(&path, tensors).unwrap();
        Models::standard().load_backbone(&config, Some(&path), &Device::cpu())
    };
    // The last of four blocks, of which three are asked for.
    assert!(tensors.contains_key("backbone.encoder.layer.3.norm1.weight"));
    assert!(tensors.contains_key("backbone.embeddings.mask_token"));
    load(&tensors).map(|_| ()).unwrap();
    for name in [
        "backbone.encoder.layer.2.norm3.weight",
        "backbone.encoder.layer.4.norm1.weight",
        "neck.fusion_stage.layers.1.residual_layer3.convolution1.bias",
    ] {
        let mut more = tensors.clone();
        more.insert(
            name.into(),
            Tensor::full(&[8], 0.0, &Device::cpu()).unwrap(),
        );
        let message = load(&more).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(name), "{message}");
    }
    let mut fewer = tensors.clone();
    fewer
        .remove("backbone.encoder.layer.2.attention.attention.key.bias")
        .unwrap();
    let message = load(&fewer).map(|_| ()).unwrap_err().to_string();
    assert!(
        message.contains("backbone.encoder.layer.2.attention.attention.key.bias"),
        "{message}"
    );
}

#[test]
fn segformers_of_all_sizes_have_the_parameters_that_the_paper_counts() {
    // Table 1a of the paper, in millions, encoder and decoder, for ADE20K's 150 classes.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    for (depths, width, decoder, encoder, head) in [
        ([2, 2, 2, 2], 32, 256, 3.4, 0.4),
        ([2, 2, 2, 2], 64, 256, 13.1, 0.6),
        ([3, 4, 6, 3], 64, 768, 24.2, 3.3),
        ([3, 4, 18, 3], 64, 768, 44.0, 3.3),
        ([3, 8, 27, 3], 64, 768, 60.8, 3.3),
        ([3, 6, 40, 3], 64, 768, 81.4, 3.3),
    ] {
        let widths = match width {
            32 => [32, 64, 160, 256],
            _ => [64, 128, 320, 512],
        };
        let labels: Map<String, Value> = (0..150).map(|n| (n.to_string(), json!("a"))).collect();
        let document = json!({
            "architectures": ["SegformerForSemanticSegmentation"], "model_type": "segformer", "depths": depths, "hidden_sizes": widths,
            "decoder_hidden_size": decoder, "id2label": labels, "preprocessor": {},
        });
        fs::write(&path, document.to_string()).unwrap();
        let backbone = Models::standard().backbone(&path).unwrap();
        assert_eq!(backbone.spec().image, [3, 512, 512]);
        assert_eq!(backbone.spec().outputs, 150);
        for (prefix, millions) in [("encoder.", encoder), ("decode_head.", head)] {
            let of = backbone.parameters().iter();
            let of = of.filter(|spec| spec.name.starts_with(prefix));
            let found = of.map(|spec| spec.elements()).sum::<usize>() as f64 / 1e6;
            assert!(
                (found - millions).abs() < 0.1 + 0.01 * millions,
                "{depths:?}: {prefix} {found}"
            );
        }
    }
}

// --- ControlNet -----------------------------------------------------------------------------------------------------------------------

fn load(config: &Path) -> (Box<dyn Denoiser>, Weights) {
    Models::standard()
        .load_denoiser(config, None, &Device::cpu())
        .unwrap()
}

fn conditioning(denoiser: &dyn Denoiser, expected: &BTreeMap<String, Tensor>) -> Named {
    let mut conditioning = Named::new();
    for slot in denoiser.slots() {
        let condition = &expected[&format!("input.slot.{}", slot.name)];
        conditioning.push(slot.name.clone(), condition.to_leaf().unwrap());
    }
    conditioning
}

fn times(expected: &BTreeMap<String, Tensor>) -> Vec<f64> {
    let times = expected["input.times"].to_floats().unwrap();
    times.iter().map(|&time| time.into()).collect()
}

#[test]
fn unets_with_a_controlnet_answer_as_diffusers_does() {
    for (name, slots) in [
        ("controlnet", &["spatial"][..]),
        ("controlnet_pooled", &["spatial", "tokens"]),
    ] {
        let (denoiser, weights) = load(&fixtures().join(name).join("model.json"));
        let expected = expected(name);
        let found: Vec<&str> = denoiser.slots().iter().map(|slot| &*slot.name).collect();
        assert_eq!(found, slots, "{name}");
        let conditioning = conditioning(&*denoiser, &expected);
        let answer = denoiser
            .predict(
                &weights,
                &expected["input.noisy"],
                &times(&expected),
                &conditioning,
            )
            .unwrap();
        assert_close(name, &answer, &expected["output.answer"]);
        let loss = answer.mul(&expected["input.cotangent"]).unwrap();
        let gradients = loss.sum(&[], false).unwrap().backward().unwrap();
        for (slot, leaf) in conditioning.iter() {
            let found = gradients.of(leaf).unwrap();
            assert_gradient(
                &format!("{name}: {slot}"),
                &found,
                &expected[&format!("gradient.{slot}")],
            );
        }
        assert_eq!(denoiser.schedule().alphas_cumprod().len(), 1000);
        let first = 1.0 - denoiser.schedule().alphas_cumprod()[0];
        assert!((first - 8.5e-4).abs() < 1e-9, "{name}: {first}");
    }
}

#[test]
fn one_image_for_all_rows_is_the_image_of_each() {
    let (denoiser, weights) = load(&fixtures().join("controlnet/model.json"));
    let expected = expected("controlnet");
    let image = expected["input.slot.spatial"].narrow(0, 0, 1).unwrap();
    let shape = image.shape();
    let every = image.expand(&[3, shape[1], shape[2], shape[3]]).unwrap();
    let [one, each] = [image, every].map(|image| {
        denoiser
            .predict(
                &weights,
                &expected["input.noisy"],
                &times(&expected),
                &Named::one("spatial", image),
            )
            .unwrap()
    });
    let (error, _) = difference(&one, &each);
    assert!(error < 1e-6, "{error}");
}

#[test]
fn a_controlnet_that_counts_for_nothing_leaves_the_unet_alone() {
    let folder = tempfile::tempdir().unwrap();
    let from = fixtures().join("controlnet");
    let path = folder.path().join("model.json");
    let paths = |scale: f64| {
        let at = |part: &str| from.join(part).display().to_string();
        json!({"kind": "controlnet", "unet": at("unet"), "controlnet": at("controlnet"), "conditioning_scale": scale})
    };
    let expected = expected("controlnet");
    let (unet, unet_weights) = load(&from.join("unet"));
    let tokens = read_tensors(&from.join("prompt.safetensors"), &Device::cpu()).unwrap();
    let tokens = tokens["tokens"].unsqueeze(0).unwrap();
    let (noisy, times) = (&expected["input.noisy"], times(&expected));
    let alone = unet
        .predict(
            &unet_weights,
            noisy,
            &times,
            &Named::one("tokens", tokens.clone()),
        )
        .unwrap();
    let mut moved = Vec::new();
    for scale in [0.0, 0.7] {
        fs::write(&path, paths(scale).to_string()).unwrap();
        let (denoiser, weights) = load(&path);
        let conditions = Named::one("spatial", expected["input.slot.spatial"].clone());
        let conditions = conditions.with("tokens", tokens.clone());
        let answer = denoiser
            .predict(&weights, noisy, &times, &conditions)
            .unwrap();
        moved.push(difference(&answer, &alone).0);
        if scale > 0.0 {
            // The tokens as a slot are those of the prompt's file.
            assert_close("tokens", &answer, &expected["output.answer"]);
        }
    }
    assert!(moved[0] == 0.0 && moved[1] > 0.1, "{moved:?}");
}

#[test]
fn both_parts_from_one_file_are_the_same_model() {
    let from = fixtures().join("controlnet/model.json");
    let described = Models::standard().describe(&from, None).unwrap();
    let found = described.weights.unwrap();
    assert!(found.fit.mismatches.is_empty(), "{:?}", found.fit);
    let (denoiser, weights) = load(&from);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("whole.json");
    fs::write(&config, described.document.to_string()).unwrap();
    let precision = dtta_models::Precision::F32;
    weights
        .save(
            &folder.path().join("whole.safetensors"),
            precision,
            &BTreeMap::new(),
        )
        .unwrap();
    let (other, others) = load(&config);
    assert_eq!(other.slots(), denoiser.slots());
    for ((_, spec, one), (_, _, other)) in weights.iter().zip(others.iter()) {
        assert_eq!(one.to_floats(), other.to_floats(), "{}", spec.name);
    }
}

#[test]
fn every_file_of_the_parts_belongs_to_the_model_and_what_is_missing_is_told() {
    let from = fixtures().join("controlnet");
    let files = ModelFiles::find(&from.join("model.json"), None).unwrap();
    let all: Vec<String> = files
        .all()
        .map(|path| {
            let path = fs::canonicalize(path).unwrap();
            let path = path.strip_prefix(fs::canonicalize(&from).unwrap()).unwrap();
            path.display().to_string()
        })
        .collect();
    let expected = [
        "model.json",
        "model.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "controlnet/config.json",
        "controlnet/diffusion_pytorch_model.safetensors",
        "prompt.safetensors",
    ];
    assert_eq!(all, expected);
    assert!(files.absent.is_empty());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.json");
    let unet = from.join("unet").display().to_string();
    let document = json!({"kind": "controlnet", "unet": unet, "controlnet": "not-there", "prompt": "nor-this.safetensors"});
    fs::write(&path, document.to_string()).unwrap();
    let files = ModelFiles::find(&path, None).unwrap();
    assert_eq!(files.absent, [folder.path().join("not-there")]);
    assert!(
        files
            .shards
            .contains(&folder.path().join("nor-this.safetensors"))
    );
    let message = Models::standard()
        .denoiser(&path)
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("/controlnet") && message.contains("not-there"),
        "{message}"
    );
}

#[test]
fn parts_that_do_not_fit_each_other_are_refused_by_pointer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.json");
    let from = fixtures();
    let at = |name: &str| from.join(name).display().to_string();
    let refused = |document: &Value| {
        fs::write(&path, document.to_string()).unwrap();
        let refused = Models::standard().denoiser(&path).map(|_| ());
        refused.unwrap_err().to_string()
    };
    let pair = |unet: &str, control: &str| json!({"kind": "controlnet", "unet": at(unet), "controlnet": at(control)});
    let others = refused(&pair("controlnet/unet", "controlnet_pooled/controlnet"));
    for pointer in [
        "/controlnet/encoder/image",
        "/controlnet/encoder/block_out_channels",
        "/controlnet/encoder/downsample_padding",
        "/controlnet/encoder/tokens",
    ] {
        assert!(others.contains(pointer), "{pointer}: {others}");
    }
    let swapped = refused(&pair("controlnet/controlnet", "controlnet/unet"));
    assert!(swapped.contains("a ControlNet steers a U-Net"), "{swapped}");
    let no_control = refused(&pair("controlnet/unet", "controlnet/unet"));
    assert!(
        no_control.contains("/controlnet") && no_control.contains("describes no ControlNet"),
        "{no_control}"
    );
    let segmenter = refused(&pair("segformer", "controlnet/controlnet"));
    assert!(
        segmenter.contains("/unet") && segmenter.contains("describes no U-Net"),
        "{segmenter}"
    );
    let itself = refused(
        &json!({"kind": "controlnet", "unet": "model.json", "controlnet": at("controlnet/controlnet")}),
    );
    assert!(
        itself.contains("/unet") && itself.contains("is a ControlNet and no U-Net"),
        "{itself}"
    );
    let half = refused(
        &json!({"kind": "controlnet", "unet": at("controlnet/unet"), "controlnet": {"encoder": {}, "widths": [4]}}),
    );
    assert!(
        half.contains("/controlnet") && half.contains("give a path of both"),
        "{half}"
    );
    let misspelt = refused(
        &json!({"kind": "controlnet", "unet": at("controlnet/unet"), "controlnet": at("controlnet/controlnet"), "scale": 1}),
    );
    assert!(misspelt.contains("scale"), "{misspelt}");
    let alone = Models::standard()
        .denoiser(&from.join("controlnet/controlnet"))
        .map(|_| ());
    let alone = alone.unwrap_err().to_string();
    assert!(alone.contains("a ControlNet steers a U-Net"), "{alone}");
    // Two tensors are no prompt.
    let mut two = pair("controlnet/unet", "controlnet/controlnet");
    two["prompt"] = json!(at("controlnet/expected.safetensors"));
    fs::write(&path, two.to_string()).unwrap();
    let refused = Models::standard().load_denoiser(&path, None, &Device::cpu());
    let refused = refused.map(|_| ()).unwrap_err();
    assert!(
        matches!(refused, ModelError::Checkpoint { .. }),
        "{refused}"
    );
}

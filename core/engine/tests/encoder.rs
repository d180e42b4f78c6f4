//! Denoisers of latents: what they see is what the encoder makes of the denoiser's view.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use common::{Fixture, extensions, save, write_samples};
use dtta::{Adapter, AdapterBuilder, Batch, DiffusionConfig, Image, Keep, RunOptions, View};
use dtta_data::{CLASS, Sample, Target, Targets};
use dtta_models::Models;
use dtta_tensor::{Device, Tensor};
use serde_json::{Value, json};

/// An autoencoder that diffusers saved: images of 8×10 to latents of 4×5, three channels each.
fn autoencoder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/diffusers/kl_shift/vae")
}

fn image(n: usize) -> Image {
    Image::from_fn([3, 8, 10], |channel, row, column| {
        0.5 + 0.5 * ((n + channel * 5 + row * 3 + column) as f32 * 0.7).sin()
    })
    .unwrap()
}

/// A classifier of images, and a denoiser of their latents.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    let dit = json!({"kind": "dit", "image": [3, 4, 5], "patch_size": 1, "hidden_size": 16, "depth": 1, "num_heads": 2, "num_classes": 4});
    let resnet = json!({"kind": "resnet", "image": [3, 8, 10], "classes": 4, "block": "basic", "blocks": [1],
                        "widths": [8], "stem": "small", "norm": {"kind": "group", "groups": 4}});
    for (name, config) in [("denoiser.json", dit), ("classifier.json", resnet)] {
        let path = fixture.path().join(name);
        fs::write(&path, config.to_string()).unwrap();
        save(&path, 1);
    }
    let samples = (0..8).map(|n| Sample {
        id: format!("test/{n:05}"),
        image: image(n),
        targets: Targets::new().with(CLASS, Target::Class((n % 4) as u32)),
    });
    write_samples(&["a", "b", "c", "d"], samples.collect(), fixture.path());
    fixture
}

fn experiment() -> Value {
    let mut experiment = Fixture::experiment();
    experiment["models"]["encoder"] = json!({"config": autoencoder()});
    experiment["data"]["stream"]["samples"] = json!(4);
    experiment
}

/// Maps [0, 1] to [-1, 1].
fn centred() -> View {
    let steps = json!([{"kind": "normalise", "mean": [0.5], "std": [0.5]}]);
    View {
        steps: serde_json::from_value(steps).unwrap(),
        standardize: None,
    }
}

fn builder(fixture: &Fixture) -> AdapterBuilder {
    let config: DiffusionConfig = serde_json::from_value(json!({
        "steps": 2, "draws": 3, "optimizer": {"kind": "adam", "learning_rate": 1e-2}
    }))
    .unwrap();
    Adapter::builder()
        .extensions(extensions())
        .backbone(fixture.path().join("classifier.json"))
        .denoiser(fixture.path().join("denoiser.json"))
        .head("linked:classification", json!({}))
        .mapper("linked:classification", json!({}))
        .method(&config)
        .views(centred(), centred())
}

#[test]
fn a_denoiser_of_latents_sees_those_of_each_image() {
    let fixture = fixture();
    let images = [image(0), image(1), image(2)];
    let ids = ["a", "b", "c"];
    let pairs: Vec<(&str, &Image)> = ids.into_iter().zip(&images).collect();
    let mut through = builder(&fixture).encoder(autoencoder()).build().unwrap();
    let found = through.adapt_images(&pairs).unwrap();

    let (encoder, weights) = Models::standard()
        .load_encoder(&autoencoder(), None, &Device::cpu())
        .unwrap();
    let pixels: Vec<f32> = images
        .iter()
        .flat_map(|image| image.data().iter().map(|value| (value - 0.5) / 0.5))
        .collect();
    let pixels = Tensor::from_floats(&pixels, &[3, 3, 8, 10], &Device::cpu()).unwrap();
    let latents = encoder.encode(&weights, &pixels).unwrap();
    assert_eq!(*latents.shape(), [3, 3, 4, 5]);
    let mut direct = builder(&fixture).build().unwrap();
    let batch = Batch {
        ids: ids.to_vec(),
        task: pixels,
        denoiser: Some(latents),
    };
    let expected = direct.adapt(&batch).unwrap();
    assert_eq!(found.losses.len(), 3);
    for (found, expected) in found.losses.iter().zip(&expected.losses) {
        assert_eq!(found.len(), 2);
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (found - expected).abs() <= 1e-5 * expected,
                "{found}, {expected}"
            );
        }
    }
}

#[test]
fn an_experiment_with_an_encoder_runs_and_does_not_depend_on_the_batch() {
    let fixture = fixture();
    let mut experiment = experiment();
    experiment["adaptation"] = json!({"mode": {"kind": "single_sample"}, "batch": 4});
    let summary = fixture.run(&experiment, "together").unwrap();
    let seen = &summary.protocol.seen;
    assert_eq!(seen["denoiser"].image, [3, 8, 10]);
    assert_eq!(seen["denoiser"].latent, Some([3, 4, 5]));
    assert_eq!(seen["denoiser"].range(), Some([-1.0, 1.0]));
    assert_eq!(
        (seen["backbone"].latent, &seen["backbone"].published),
        (None, &None)
    );
    experiment["adaptation"]["batch"] = json!(1);
    fixture.run(&experiment, "alone").unwrap();
    let (together, alone) = (fixture.records("together"), fixture.records("alone"));
    assert_eq!(together.len(), 8);
    for (together, alone) in together.iter().zip(&alone) {
        assert_eq!(together.loss.len(), 2);
        for (a, b) in together.loss.iter().zip(&alone.loss) {
            assert!((a - b).abs() <= 1e-5 * b, "{a}, {b}");
        }
    }
    // Other weights of the encoder are another run.
    let text = fs::read_to_string(fixture.path().join("alone/run.json")).unwrap();
    assert!(
        text.contains("encoder/weights") && text.contains("denoiser/schedule"),
        "{text}"
    );
}

#[test]
fn refuses_encoders_that_do_not_fit() {
    let fixture = fixture();
    let refused = |experiment: &Value| fixture.prepare(experiment).err().unwrap().to_string();
    let mut steps = experiment();
    steps["models"]["encoder"]["preprocess"] = json!([{"kind": "grayscale"}]);
    assert!(refused(&steps).contains("/models/encoder/preprocess"));
    let mut other = experiment();
    // Of two channels, which the denoiser does not take.
    other["models"]["encoder"]["config"] = json!(autoencoder().join("../../kl/vae"));
    let message = refused(&other);
    assert!(
        message.contains("/models/encoder") && message.contains("denoiser"),
        "{message}"
    );
    let mut view = experiment();
    view["models"]["denoiser"]["preprocess"] = json!([{"kind": "resize", "height": 4, "width": 5}]);
    let message = refused(&view);
    assert!(message.contains("/models/denoiser/preprocess"), "{message}");
}

#[test]
fn latents_that_are_kept_give_the_same_records_and_are_not_computed_again() {
    let fixture = fixture();
    let experiment = experiment();
    let folder = fixture.path().join("kept");
    let keep = Keep {
        folder: folder.clone(),
        max_bytes: 1 << 20,
    };
    let run = |out: &str, experiment: &Value| {
        let mut prepared = fixture.prepare_keeping(experiment, Some(&keep)).unwrap();
        let stop = AtomicBool::new(false);
        let options = RunOptions::new(fixture.path().join(out), &stop);
        prepared.run(&options, Vec::new()).unwrap();
    };
    let numbers = |out: &str| -> Vec<_> {
        let records = fixture.records(out).into_iter();
        records
            .map(|record| (record.id, record.loss, record.adapted))
            .collect()
    };
    let files = || -> BTreeMap<PathBuf, SystemTime> {
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap());
        entries
            .map(|entry| (entry.path(), entry.metadata().unwrap().modified().unwrap()))
            .collect()
    };
    fixture.run(&experiment, "plain").unwrap();
    run("first", &experiment);
    let kept = files();
    // One for each image of both domains.
    assert_eq!(kept.len(), 8);
    run("second", &experiment);
    assert_eq!(files(), kept);
    assert_eq!(numbers("first"), numbers("plain"));
    assert_eq!(numbers("second"), numbers("plain"));
    // Another way to see them makes others.
    let mut other = experiment.clone();
    other["models"]["denoiser"]["preprocess"] =
        json!([{"kind": "normalise", "mean": [0.4], "std": [0.5]}]);
    run("other", &other);
    assert_eq!(files().len(), 16);
    // What is damaged is not used.
    for path in kept.keys() {
        let mut bytes = fs::read(path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 0x40;
        fs::write(path, bytes).unwrap();
    }
    run("damaged", &experiment);
    assert_eq!(numbers("damaged"), numbers("plain"));
}

#[test]
fn the_protocol_says_how_a_published_backbone_saw_images() {
    let fixture = Fixture::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../models/tests/fixtures/backbones/resnet_basic");
    let mut experiment = Fixture::experiment();
    experiment["models"]["backbone"] = json!(folder);
    experiment["models"]["label_space"] =
        json!({"kind": "subset", "classes": [0, 1, 2, 3], "denoiser_classes": [0, 1, 2, 3]});
    let summary = fixture.run(&experiment, "published").unwrap();
    let seen = &summary.protocol.seen["backbone"];
    assert_eq!(seen.published.as_deref(), Some("timm"));
    assert_eq!(seen.image, [3, 33, 40]);
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    let last = json!(seen.preprocess.last().unwrap());
    for (found, said) in [("mean", "mean"), ("std", "std")] {
        let numbers =
            |value: &Value| -> Vec<f32> { serde_json::from_value(value.clone()).unwrap() };
        assert_eq!(
            numbers(&last[found]),
            numbers(&config["pretrained_cfg"][said])
        );
    }
    // The same steps, said by the experiment.
    experiment["models"]["backbone"] = json!({"config": folder, "preprocess": seen.preprocess});
    let again = fixture.run(&experiment, "said").unwrap();
    assert_eq!(again.protocol.seen["backbone"].published, None);
    assert_eq!(again.protocol.seen["backbone"].preprocess, seen.preprocess);
    assert_eq!(again.mean, summary.mean);
}

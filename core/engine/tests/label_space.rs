//! Models of many classes on datasets that have some of them.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{Fixture, save, write_samples};
use dtta_data::{CLASS, Dataset, Sample, Target, Targets};
use dtta_models::{Models, Precision, Weights};
use dtta_tensor::{Device, Tensor};
use serde_json::json;

/// The labels, in the models, of the dataset's two classes.
const CLASSES: [i64; 2] = [2, 0];

/// Gives the fixture samples of two classes.
fn two_classes(fixture: &Fixture, names: &[&str]) {
    let config = json!({"kind": "packed", "path": "sample.safetensors"});
    let config = serde_json::from_value(config).unwrap();
    let dataset = Dataset::open(&config, fixture.path()).unwrap();
    let samples = (0..dataset.len()).map(|index| {
        let sample = dataset.sample(index).unwrap();
        let class = Target::Class((index % 2) as u32);
        Sample {
            targets: Targets::new().with(CLASS, class),
            ..sample
        }
    });
    write_samples(names, samples.collect(), fixture.path());
}

/// Writes models that have two classes from the start: some rows of the last layer and of the label table.
fn cut_down(fixture: &Fixture) {
    let device = Device::cpu();
    for (name, field, layers) in [
        ("classifier", "classes", &["fc.weight", "fc.bias"][..]),
        (
            "denoiser",
            "num_classes",
            &["y_embedder.embedding_table.weight"],
        ),
    ] {
        let path = |name: &str| fixture.path().join(name).with_extension("json");
        let text = std::fs::read_to_string(path(name)).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        let load = |name: &str| -> Weights {
            let models = Models::standard();
            match models.load_backbone(&path(name), None, &device) {
                Ok((_, weights)) => weights,
                Err(_) => models.load_denoiser(&path(name), None, &device).unwrap().1,
            }
        };
        let whole = load(name);
        config[field] = json!(2);
        let small = format!("small-{name}");
        std::fs::write(path(&small), config.to_string()).unwrap();
        let models = Models::standard();
        let specs = match models.backbone(&path(&small)) {
            Ok(backbone) => backbone.parameters().clone(),
            Err(_) => models.denoiser(&path(&small)).unwrap().parameters().clone(),
        };
        let mut cut = Weights::initialise(&specs, 0, &device).unwrap();
        for id in cut.ids() {
            let parameter = cut.spec(id).name.clone();
            let value = whole.get(whole.find(&parameter).unwrap());
            let value = match layers.contains(&parameter.as_str()) {
                false => value.clone(),
                true => {
                    // A label table has a last row for "no class".
                    let null = (value.shape()[0] > 4).then_some(4);
                    let rows: Vec<i64> = CLASSES.into_iter().chain(null).collect();
                    let rows = Tensor::from_ints(&rows, &[rows.len()], &device).unwrap();
                    value.index_select(0, &rows).unwrap()
                }
            };
            cut.set(id, value).unwrap();
        }
        let file = path(&small).with_extension("safetensors");
        cut.save(&file, Precision::F32, &Default::default())
            .unwrap();
    }
}

#[test]
fn logits_and_embeddings_are_restricted_before_any_softmax() {
    let fixture = Fixture::new();
    two_classes(&fixture, &["c", "a"]);
    cut_down(&fixture);
    let mut experiment = Fixture::experiment();
    experiment["models"]["label_space"] = json!({"kind": "subset", "classes": CLASSES});
    fixture.run(&experiment, "restricted").unwrap();
    let mut experiment = Fixture::experiment();
    experiment["models"]["backbone"]["config"] = json!("small-classifier.json");
    experiment["models"]["denoiser"]["config"] = json!("small-denoiser.json");
    fixture.run(&experiment, "small").unwrap();
    let (restricted, small) = (fixture.records("restricted"), fixture.records("small"));
    assert_eq!(restricted.len(), 16);
    for (restricted, small) in restricted.iter().zip(&small) {
        // Products of other shapes may round in another way.
        let close = |a: f32, b: f32| assert!((a - b).abs() <= 1e-4 * b.abs(), "{a}, {b}");
        for (a, b) in [
            (&restricted.source, &small.source),
            (&restricted.adapted, &small.adapted),
        ] {
            assert_eq!(a.prediction, b.prediction);
            close(a.confidence.unwrap(), b.confidence.unwrap());
        }
        assert_eq!(restricted.loss.len(), 2);
        restricted
            .loss
            .iter()
            .zip(&small.loss)
            .for_each(|(&a, &b)| close(a, b));
    }
}

#[test]
fn a_label_is_not_taken_for_the_same_class_of_models_that_number_theirs_in_different_ways() {
    let fixture = Fixture::new();
    two_classes(&fixture, &["c", "a"]);
    cut_down(&fixture);
    let run = |space: serde_json::Value, out: &str| {
        let mut experiment = Fixture::experiment();
        // Of classes 2 and 0 of the denoiser's four.
        experiment["models"]["backbone"]["config"] = json!("small-classifier.json");
        experiment["models"]["label_space"] = space;
        fixture.run(&experiment, out)
    };
    let refusal = |space, out: &str| run(space, out).err().unwrap().to_string();
    let message = refusal(json!({"kind": "subset", "classes": [0, 1]}), "alike");
    assert!(
        message.contains("/models/label_space: the backbone has 2 classes, the denoiser 4"),
        "{message}"
    );
    let space =
        |classes: &[i64]| json!({"kind": "subset", "classes": [0, 1], "denoiser_classes": classes});
    let message = refusal(space(&[0]), "short");
    assert!(
        message.contains("/models/label_space/denoiser_classes: has 1 labels, `classes` 2"),
        "{message}"
    );
    run(space(&CLASSES), "own").unwrap();
    let mut experiment = Fixture::experiment();
    experiment["models"]["backbone"]["config"] = json!("small-classifier.json");
    experiment["models"]["denoiser"]["config"] = json!("small-denoiser.json");
    fixture.run(&experiment, "small").unwrap();
    let losses = |out: &str| -> Vec<f32> {
        let records = fixture.records(out).into_iter();
        records.flat_map(|record| record.loss).collect()
    };
    let (own, small) = (losses("own"), losses("small"));
    assert_eq!(own.len(), 32);
    for (a, b) in own.iter().zip(&small) {
        assert!((a - b).abs() <= 1e-4 * b.abs(), "{a}, {b}");
    }
}

#[test]
fn refuses_label_spaces_that_models_or_datasets_do_not_have() {
    let fixture = Fixture::new();
    two_classes(&fixture, &["c", "a"]);
    let refusal = |space: serde_json::Value| {
        let mut experiment = Fixture::experiment();
        experiment["models"]["label_space"] = space;
        let message = fixture.prepare(&experiment).err().unwrap().to_string();
        assert!(message.contains("/models/label_space"), "{message}");
        message
    };
    let subset = |classes: &[usize]| refusal(json!({"kind": "subset", "classes": classes}));
    assert!(subset(&[0, 4]).contains("has class 4, expected different classes from 0 to 3"));
    assert!(subset(&[1, 1]).contains("has class 1 twice"));
    assert!(subset(&[0, 1, 2]).contains("it has 3 classes, the dataset 2"));
    // The labels are those of models with 1000 classes; what another model has there is another class.
    for space in ["imagenet_1k", "imagenet_a", "imagenet_r"] {
        let message = refusal(json!({ "kind": space }));
        assert!(
            message.contains("is of models of 1000 classes, the backbone has 4"),
            "{message}"
        );
    }
}

/// Mappings as ObjectNet has them: a kind of object of one class, and one of two.
fn mappings(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).unwrap();
    let folders = json!({"alarm_clock": "Alarm clock", "zebra": "Zebra", "other": "Other"});
    write("folder_to_objectnet_label.json", folders.to_string());
    let objects = json!({"Zebra": "name 340", "Alarm clock": "name 409; name 530"});
    write("objectnet_to_imagenet_1k.json", objects.to_string());
    let ids: BTreeMap<String, usize> = (0..1000).map(|n| (n.to_string(), n)).collect();
    write("pytorch_to_imagenet_2012_id.json", json!(ids).to_string());
    let labels = (0..1000).map(|n| format!("name {n}\n")).collect();
    write("imagenet_to_label_2012_v2", labels);
}

#[test]
fn objects_of_objectnet_are_told_by_the_classes_that_its_mappings_name() {
    let fixture = Fixture::new();
    two_classes(&fixture, &["alarm_clock", "zebra"]);
    mappings(&fixture.path().join("mappings"));
    for (name, field) in [("classifier", "classes"), ("denoiser", "num_classes")] {
        let path = fixture.path().join(name).with_extension("json");
        let text = std::fs::read_to_string(&path).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config[field] = json!(1000);
        std::fs::write(&path, config.to_string()).unwrap();
        save(&path, 1);
    }
    let mut experiment = Fixture::experiment();
    experiment["models"]["label_space"] = json!({"kind": "objectnet", "mappings": "mappings"});
    let summary = fixture.run(&experiment, "objects").unwrap();
    let digests = &summary.protocol.digests;
    assert!(
        digests.contains_key("label_space/objectnet_to_imagenet_1k.json"),
        "{digests:?}"
    );
    let records = fixture.records("objects");
    assert_eq!(records.len(), 16);
    assert!(
        records
            .iter()
            .all(|record| record.source.prediction.is_some())
    );
    // The dataset's other folders are no classes of ImageNet.
    two_classes(&fixture, &["alarm_clock", "other"]);
    let message = fixture.prepare(&experiment).err().unwrap().to_string();
    assert!(
        message.contains("its class 1 is `zebra`, the dataset's `other`"),
        "{message}"
    );
}

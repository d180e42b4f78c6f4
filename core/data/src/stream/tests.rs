//! Streams of samples in memory and in folders.

use std::fs;

use serde_json::json;

use super::*;
use crate::{CLASS, NumberMap, Sample, Target};

fn dataset(count: usize) -> Dataset {
    let samples = (0..count).map(|index| Sample {
        id: format!("test/{index:05}"),
        image: Image::from_fn([1, 8, 8], |_, row, column| {
            ((row + column + index) % 8) as f32 / 7.0
        })
        .unwrap(),
        targets: Targets::new().with(CLASS, Target::Class((index % 2) as u32)),
    });
    Dataset::from_samples(
        "memory",
        vec!["even".into(), "odd".into()],
        samples.collect(),
    )
    .unwrap()
}

fn stream(json: &str, dataset: Dataset, seed: u64) -> Result<Stream, DataError> {
    let config = serde_json::from_str(json).unwrap();
    Stream::new(&config, dataset, Path::new("."), seed)
}

const NOISE: &str = r#"{ "samples": 6, "domains": [
    { "kind": "clean" },
    { "kind": "corrupted", "corruption": "gaussian_noise", "severity": 3 },
    { "kind": "corrupted", "corruption": "fog", "severity": 1, "name": "mist", "samples": 2, "offset": 1 } ] }"#;

#[test]
fn domains_follow_each_other_over_the_same_samples() {
    let stream = stream(NOISE, dataset(20), 5).unwrap();
    let names: Vec<_> = stream
        .domains()
        .iter()
        .map(|domain| (domain.name.as_str(), domain.len()))
        .collect();
    assert_eq!(names, [("clean", 6), ("gaussian_noise/3", 6), ("mist", 2)]);
    let shifted: Vec<bool> = stream.domains().iter().map(Domain::is_shifted).collect();
    assert_eq!(shifted, [false, true, true]);
    let items: Vec<StreamItem> = stream.iter().map(Result::unwrap).collect();
    assert_eq!(items.len(), 14);
    assert_eq!(
        items.iter().map(|item| item.domain).collect::<Vec<_>>(),
        [vec![0; 6], vec![1; 6], vec![2; 2]].concat()
    );
    for place in 0..6 {
        assert_eq!(items[place].id, items[place + 6].id);
        assert_eq!(items[place].class(), items[place + 6].class());
        assert_ne!(items[place].image, items[place + 6].image);
    }
    assert_eq!(items[12].id, items[1].id);
    assert_eq!(stream.item(9).unwrap(), items[9]);
    assert!(matches!(
        stream.item(14),
        Err(DataError::OutOfRange { available: 14, .. })
    ));
}

#[test]
fn a_sample_meets_the_same_noise_in_any_subset() {
    let corrupted = |json: &str, dataset: Dataset| {
        let stream = stream(json, dataset, 3).unwrap();
        let items = stream
            .iter()
            .map(Result::unwrap)
            .filter(|item| stream.domains()[item.domain].name == "noise");
        items
            .map(|item| (item.id, item.image))
            .collect::<std::collections::HashMap<_, _>>()
    };
    let noise =
        r#"{ "kind": "corrupted", "corruption": "shot_noise", "severity": 2, "name": "noise" }"#;
    let all = corrupted(&format!(r#"{{ "domains": [{noise}] }}"#), dataset(20));
    let few = corrupted(
        &format!(r#"{{ "domains": [{{ "kind": "clean" }}, {noise}], "samples": 5 }}"#),
        dataset(12),
    );
    assert_eq!(few.len(), 5);
    for (id, image) in few {
        assert_eq!(all[&id], image);
    }
}

#[test]
fn the_seed_changes_order_and_noise() {
    let images = |seed| {
        stream(NOISE, dataset(20), seed)
            .unwrap()
            .iter()
            .map(Result::unwrap)
            .collect::<Vec<_>>()
    };
    assert_eq!(images(1), images(1));
    assert_ne!(images(1), images(2));
}

#[test]
fn refuses_streams_that_cannot_be_met() {
    let refusal = |json: &str| stream(json, dataset(4), 0).unwrap_err();
    assert!(matches!(
        refusal(r#"{ "domains": [] }"#),
        DataError::NoDomains
    ));
    let twice =
        refusal(r#"{ "domains": [{ "kind": "clean" }, { "kind": "clean", "offset": 1 }] }"#);
    assert!(matches!(twice, DataError::DuplicateDomain { name } if name == "clean"));
    assert!(matches!(
        refusal(r#"{ "domains": [{ "kind": "clean", "samples": 5 }] }"#),
        DataError::OutOfRange { available: 4, .. }
    ));
    assert!(matches!(
        refusal(r#"{ "domains": [{ "kind": "clean" }], "samples": 0 }"#),
        DataError::OutOfRange { .. }
    ));
}

#[test]
fn refuses_unknown_fields_and_severities() {
    for json in [
        r#"{ "domains": [{ "kind": "clean", "severity": 1 }] }"#,
        r#"{ "domains": [{ "kind": "corrupted", "corruption": "fog", "severity": 6 }] }"#,
        r#"{ "domains": [{ "kind": "corrupted", "corruption": "rain", "severity": 1 }] }"#,
        r#"{ "domains": [{ "kind": "clean" }], "shuffle": true }"#,
        r#"{ "domains": [{ "kind": "stored", "name": "fog" }] }"#,
        r#"{ "domains": [{ "kind": "stored", "dataset": { "kind": "packed", "path": "x" } }] }"#,
    ] {
        assert!(
            serde_json::from_str::<StreamConfig>(json).is_err(),
            "{json}"
        );
    }
}

/// Writes images as ImageNet-C lays them out, `corruption/severity/class/image`, beside the clean ones. All pixels of an image have one
/// value, which tells domain, class and image.
fn imagenet_c(root: &Path) {
    for (first, folder) in [
        (0, "clean"),
        (80, "imagenet-c/fog/5"),
        (160, "imagenet-c/snow/1"),
    ] {
        for (class, name) in ["n01440764", "n01443537"].into_iter().enumerate() {
            let folder = root.join(folder).join(name);
            fs::create_dir_all(&folder).unwrap();
            for n in 0..4 {
                let value = first + class as u8 * 10 + n;
                let image = image::RgbImage::from_pixel(2, 2, image::Rgb([value; 3]));
                // Names end as ImageNet's do; the first bytes say what a file is.
                let path = folder.join(format!("ILSVRC2012_val_{n:08}.JPEG"));
                image
                    .save_with_format(path, image::ImageFormat::Png)
                    .unwrap();
            }
        }
    }
}

fn folder(path: &str) -> serde_json::Value {
    json!({ "kind": "folder", "path": path, "channels": "grayscale" })
}

fn stored(name: &str) -> serde_json::Value {
    let path = format!("imagenet-c/{name}");
    json!({ "kind": "stored", "name": name, "dataset": folder(&path) })
}

fn open(root: &Path, domains: serde_json::Value) -> Result<Stream, DataError> {
    let config = json!({ "samples": 3, "domains": domains });
    Stream::new(&serde_json::from_value(config).unwrap(), None, root, 7)
}

#[test]
fn the_folders_of_imagenet_c_are_domains_of_the_same_samples() {
    let root = tempfile::tempdir().unwrap();
    imagenet_c(root.path());
    let domains = json!([
        { "kind": "clean", "dataset": folder("clean") },
        stored("fog/5"),
        stored("snow/1"),
        { "kind": "corrupted", "corruption": "brightness", "severity": 1, "dataset": folder("clean") },
    ]);
    let stream = open(root.path(), domains).unwrap();
    assert_eq!(stream.class_names(), ["n01440764", "n01443537"]);
    let types: Vec<_> = stream.target_types().keys().collect();
    assert_eq!(types, ["class"]);
    let about: Vec<_> = stream
        .domains()
        .iter()
        .map(|domain| (domain.name.as_str(), domain.len(), domain.is_shifted()))
        .collect();
    assert_eq!(
        about,
        [
            ("clean", 3, false),
            ("fog/5", 3, true),
            ("snow/1", 3, true),
            ("brightness/1", 3, true)
        ]
    );
    // Two of the domains share a dataset.
    assert_eq!(stream.datasets.len(), 3);
    let items: Vec<StreamItem> = stream.iter().map(Result::unwrap).collect();
    let value = |item: &StreamItem| (item.image.data()[0] * 255.0).round() as u32;
    for place in 0..3 {
        let [clean, fog, snow, bright] = [0, 3, 6, 9].map(|first| &items[first + place]);
        for other in [fog, snow, bright] {
            assert_eq!((&other.id, other.class()), (&clean.id, clean.class()));
        }
        assert_eq!(value(clean) / 10, clean.class().unwrap());
        assert_eq!(value(fog), value(clean) + 80);
        assert_eq!(value(snow), value(clean) + 160);
        assert!(bright.image.data()[0] > clean.image.data()[0]);
    }
    // As from one dataset: what is selected depends on ids and seed alone.
    let alone = open(root.path(), json!([stored("snow/1")])).unwrap();
    let ids =
        |stream: &Stream| -> Vec<String> { (0..3).map(|n| stream.item(n).unwrap().id).collect() };
    assert_eq!(ids(&alone), ids(&stream));
}

#[test]
fn refuses_datasets_that_do_not_agree() {
    let root = tempfile::tempdir().unwrap();
    imagenet_c(root.path());
    let snow = root.path().join("imagenet-c/snow/1");
    fs::rename(snow.join("n01440764"), snow.join("goldfish")).unwrap();
    let message = open(root.path(), json!([stored("fog/5"), stored("snow/1")]))
        .unwrap_err()
        .to_string();
    for word in ["`snow/1`", "`fog/5`", "goldfish", "class names"] {
        assert!(message.contains(word), "{message}");
    }
    let missing = open(root.path(), json!([{ "kind": "clean" }])).unwrap_err();
    assert!(matches!(missing, DataError::NoDataset { domain } if domain == "clean"));

    let normals = NumberMap::new(3, 1, 1, vec![1.0; 3]).unwrap();
    let sample = Sample {
        id: "x".into(),
        image: Image::new(1, 1, 1, vec![0.0]).unwrap(),
        targets: Targets::new().with("normals", normals),
    };
    let classes = ["n01440764", "n01443537"].map(String::from).to_vec();
    let own = Dataset::from_samples("memory", classes, vec![sample]).unwrap();
    let config = json!({ "domains": [stored("fog/5"), { "kind": "clean" }] });
    let config = serde_json::from_value(config).unwrap();
    let message = Stream::new(&config, own, root.path(), 0)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("targets normals (number map of 3 channels)"),
        "{message}"
    );
    assert!(message.contains("class (class index)"), "{message}");
}

#[test]
fn the_digest_tells_what_samples_are_made_of_and_not_where_they_lie() {
    let root = tempfile::tempdir().unwrap();
    let place = |name: &str| {
        let path = root.path().join(name);
        imagenet_c(&path);
        path
    };
    let digest = |root: &Path| {
        let domains = json!([{ "kind": "clean", "dataset": folder("clean") }, stored("fog/5")]);
        open(root, domains).unwrap()
    };
    let (here, there) = (place("here"), place("there/deeper"));
    let before = digest(&here).digest().unwrap();
    assert_eq!(before.len(), 64);
    assert_eq!(digest(&there).digest().unwrap(), before);
    // What the stream does not meet does not count.
    fs::write(
        there.join("imagenet-c/snow/1/n01440764/more.png"),
        "no image",
    )
    .unwrap();
    assert_eq!(digest(&there).digest().unwrap(), before);
    // What it meets does.
    let stream = digest(&there);
    let id = stream.item(4).unwrap().id;
    let other = image::RgbImage::from_pixel(2, 2, image::Rgb([9; 3]));
    let path = there.join("imagenet-c/fog/5").join(&id);
    other
        .save_with_format(&path, image::ImageFormat::Png)
        .unwrap();
    assert_ne!(stream.digest().unwrap(), before);
    fs::remove_file(&path).unwrap();
    assert!(matches!(stream.digest(), Err(DataError::File(_))));
}

#[test]
fn the_digest_of_samples_in_memory_tells_pixels_and_targets() {
    let of = |value: f32, class: u32, depth: f32| {
        let depth = NumberMap::new(1, 1, 1, vec![depth]).unwrap();
        let sample = Sample {
            id: "x".into(),
            image: Image::new(1, 1, 1, vec![value]).unwrap(),
            targets: Targets::new()
                .with(CLASS, Target::Class(class))
                .with("depth", depth),
        };
        let classes = vec!["a".into(), "b".into()];
        let dataset = Dataset::from_samples("memory", classes, vec![sample]).unwrap();
        stream(r#"{ "domains": [{ "kind": "clean" }] }"#, dataset, 0)
            .unwrap()
            .digest()
            .unwrap()
    };
    let first = of(0.5, 0, 1.0);
    assert_eq!(first, of(0.5, 0, 1.0));
    for other in [of(0.6, 0, 1.0), of(0.5, 1, 1.0), of(0.5, 0, 2.0)] {
        assert_ne!(other, first);
    }
}

#[test]
fn a_benchmark_is_a_domain_for_each_corruption_at_each_severity() {
    let root = tempfile::tempdir().unwrap();
    for (number, corruption) in ["fog", "snow"].into_iter().enumerate() {
        for severity in [1, 5] {
            for (class, wnid) in ["n01440764", "n01443537"].into_iter().enumerate() {
                let folder = root.path().join(format!("{corruption}/{severity}/{wnid}"));
                fs::create_dir_all(&folder).unwrap();
                let value = (100 * number + 10 * severity + class) as u8;
                let picture = image::RgbImage::from_pixel(4, 4, image::Rgb([value; 3]));
                picture
                    .save(folder.join("ILSVRC2012_val_00000293.png"))
                    .unwrap();
            }
        }
    }
    let config = json!({ "domains": [{
        "kind": "benchmark", "benchmark": "imagenet_c", "path": root.path(), "corruptions": ["snow", "fog"], "severities": [5, 1],
    }] });
    let config = serde_json::from_value(config).unwrap();
    let stream = Stream::new(&config, None, Path::new("."), 0).unwrap();
    let names: Vec<_> = stream.domains().iter().map(|domain| &domain.name).collect();
    assert_eq!(names, ["snow/5", "snow/1", "fog/5", "fog/1"]);
    assert_eq!(stream.class_names(), ["n01440764", "n01443537"]);
    assert!(stream.domains().iter().all(Domain::is_shifted));
    let value = |item: &StreamItem| (item.image.data()[0] * 255.0).round() as usize;
    for item in stream.iter().map(Result::unwrap) {
        let expected = [150, 110, 50, 10][item.domain] + item.class().unwrap() as usize;
        assert_eq!(value(&item), expected, "{}", item.id);
    }
    // The same image has the same id everywhere, so its draws are the same.
    let ids: BTreeSet<String> = stream.iter().map(|item| item.unwrap().id).collect();
    assert_eq!(ids.len(), 2);
}

#[test]
fn a_domain_of_frost_needs_the_folder_of_its_pictures_and_its_digest_tells_them_apart() {
    let root = tempfile::tempdir().unwrap();
    imagenet_c(root.path());
    let frosted = |frost: Option<&str>| {
        let mut domain = json!({
            "kind": "corrupted", "corruption": "frost", "severity": 2, "dataset": folder("clean"),
        });
        if let Some(frost) = frost {
            domain["frost"] = frost.into();
        }
        open(root.path(), json!([domain]))
    };
    assert!(matches!(frosted(None), Err(DataError::FrostFolder)));
    let pictures = |name: &str, blue: u8| {
        let folder = root.path().join(name);
        fs::create_dir(&folder).unwrap();
        for file in [
            "frost1.png",
            "frost2.png",
            "frost3.png",
            "frost4.jpg",
            "frost5.jpg",
        ] {
            image::RgbImage::from_pixel(240, 230, image::Rgb([90, 100, blue]))
                .save_with_format(folder.join(file), image::ImageFormat::Png)
                .unwrap();
        }
    };
    pictures("frost", 120);
    pictures("other", 121);
    let stream = frosted(Some("frost")).unwrap();
    // Clean 0 to 13, 0.8 of it and 0.6 of 0.2989 · 120 + 0.587 · 100 + 0.114 · 90 = 104.8.
    let item = stream.item(0).unwrap();
    let level = item.image.data()[0] * 255.0;
    assert!((62.0..=74.0).contains(&level), "{level}");
    let digest = stream.digest().unwrap();
    assert_eq!(frosted(Some("frost")).unwrap().digest().unwrap(), digest);
    assert_ne!(frosted(Some("other")).unwrap().digest().unwrap(), digest);
    let words = stream.corruptions().unwrap();
    assert_eq!(
        words,
        [Some(
            "frost/2 of ImageNet-C with lengths scaled by 0.009 (sqrt(height * width) / 224) for 2x2 pixels"
                .to_owned()
        )]
    );
}

/// A stream of the six samples of two domains, with more options.
fn ordered(options: &str) -> Stream {
    let json = format!(
        r#"{{ "samples": 6, {options}, "domains": [
            {{ "kind": "clean" }}, {{ "kind": "corrupted", "corruption": "brightness", "severity": 3 }} ] }}"#
    );
    stream(&json, dataset(20), 5).unwrap()
}

/// What tells a sample of a stream from the others.
fn met(stream: &Stream) -> Vec<(usize, usize, String)> {
    let items = stream.iter().map(Result::unwrap);
    items
        .map(|item| (item.domain, item.place, item.id))
        .collect()
}

#[test]
fn rounds_meet_the_same_samples_again() {
    let stream = ordered(r#""rounds": 3"#);
    let names: Vec<&str> = stream.domains().iter().map(|d| d.name.as_str()).collect();
    let round = ["clean", "brightness/3"].map(String::from);
    let more = [2, 3].map(|n| round.clone().map(|name| format!("{name} #{n}")));
    assert_eq!(names, [round.to_vec(), more.concat()].concat());
    assert_eq!(stream.order().segments(), [6; 6]);
    let items: Vec<StreamItem> = stream.iter().map(Result::unwrap).collect();
    for (item, again) in items.iter().zip(&items[24..]) {
        assert_eq!((&item.id, &item.image), (&again.id, &again.image));
        assert_eq!(item.domain + 4, again.domain);
    }
}

#[test]
fn mixed_domains_hold_the_samples_that_they_hold_in_turn() {
    let in_turn = ordered(r#""rounds": 2"#);
    let mixed = ordered(r#""rounds": 2, "mixed": true"#);
    assert_eq!(mixed.order().segments(), [12, 12]);
    assert_eq!(mixed.order().segment(11), (0, 12));
    assert_eq!(mixed.order().segment(12), (12, 12));
    let (met_mixed, met_in_turn) = (met(&mixed), met(&in_turn));
    assert_ne!(met_mixed, met_in_turn);
    let domains: Vec<usize> = met_mixed.iter().map(|(domain, ..)| *domain).collect();
    assert!(domains[..12].iter().all(|&domain| domain < 2));
    assert_ne!(
        domains[..12],
        domains[12..].iter().map(|d| d - 2).collect::<Vec<_>>()
    );
    let mut sorted = met_mixed;
    sorted.sort();
    assert_eq!(sorted, met_in_turn);
    assert_eq!(met(&mixed.in_turn()), met_in_turn);
    assert!(mixed.item(24).is_err());
}

#[test]
fn a_small_concentration_brings_samples_of_a_class_together() {
    let changes = |options: &str| {
        let stream = stream(
            &format!(r#"{{ {options} "domains": [{{ "kind": "clean" }}] }}"#),
            dataset(400),
            1,
        )
        .unwrap();
        let mut ids: Vec<String> = stream.iter().map(|item| item.unwrap().id).collect();
        let classes = stream.iter().map(|item| item.unwrap().class());
        let classes: Vec<_> = classes.collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 400);
        classes.windows(2).filter(|pair| pair[0] != pair[1]).count()
    };
    let of = |concentration: f64| {
        changes(&format!(
            r#""labels": {{ "kind": "dirichlet", "concentration": {concentration} }},"#
        ))
    };
    // Two classes in two slots: at most three changes, where a shuffle has about 200.
    assert!(changes("") > 150);
    assert!(of(0.1) <= 3);
    assert!(of(1e-300) <= 3);
    assert!(of(1e300) <= 3);
}

#[test]
fn refuses_a_concentration_that_is_none() {
    for concentration in ["0", "-1", "1e999"] {
        let json = format!(
            r#"{{ "labels": {{ "kind": "dirichlet", "concentration": {concentration} }}, "domains": [] }}"#
        );
        assert!(serde_json::from_str::<StreamConfig>(&json).is_err());
    }
}

#[test]
fn gradual_domains_go_up_and_down() {
    let json = r#"{ "samples": 2, "domains": [{ "kind": "gradual", "corruption": "fog" }] }"#;
    let stream = stream(json, dataset(20), 5).unwrap();
    let names: Vec<&str> = stream.domains().iter().map(|d| d.name.as_str()).collect();
    let expected = "fog/1 fog/2 fog/3 fog/4 fog/5 fog/4 (2) fog/3 (2) fog/2 (2) fog/1 (2)";
    assert_eq!(names.join(" "), expected);
    let items: Vec<StreamItem> = stream.iter().map(Result::unwrap).collect();
    assert_eq!(items[0].image, items[16].image);
    assert_ne!(items[0].image, items[8].image);
}

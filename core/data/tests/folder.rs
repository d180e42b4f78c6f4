//! Folders of images against what torchvision's `ImageFolder` made of the same tree, and its loader of the same images
//! (`tests/reference/image_folder.py`).

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dtta_data::{ColourMode, Dataset, DatasetConfig, Image};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Fixture {
    files: Vec<PathBuf>,
    #[cfg_attr(not(unix), expect(dead_code, reason = "links are made on Unix"))]
    links: BTreeMap<PathBuf, PathBuf>,
    #[cfg_attr(not(unix), expect(dead_code, reason = "links are made on Unix"))]
    whole: Answer,
    #[cfg_attr(not(unix), expect(dead_code, reason = "links are made on Unix"))]
    without_hidden: Answer,
    images: Vec<Loaded>,
}

/// Classes and samples in torchvision's order, each with its class index.
#[derive(Deserialize, PartialEq, Debug)]
struct Answer {
    classes: Vec<String>,
    samples: Vec<(String, u32)>,
}

/// Pixels row by row.
#[derive(Deserialize)]
struct Loaded {
    file: String,
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("fixtures/image_folder.json")).unwrap()
}

fn make(base: &Path, files: &[PathBuf]) {
    for file in files {
        let path = base.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let extension = path.extension().unwrap().to_ascii_lowercase();
        match extension.to_str().unwrap() {
            "txt" | "md" => fs::write(&path, "text").unwrap(),
            "pgm" => image::GrayImage::new(4, 4).save(&path).unwrap(),
            _ => image::RgbImage::new(4, 4).save(&path).unwrap(),
        }
    }
}

#[cfg(unix)]
#[test]
fn classes_samples_and_their_order_are_torchvisions_but_for_what_is_hidden() {
    let fixture = fixture();
    let base = tempfile::tempdir().unwrap();
    make(base.path(), &fixture.files);
    for (link, target) in &fixture.links {
        std::os::unix::fs::symlink(target, base.path().join(link)).unwrap();
    }
    let config: DatasetConfig =
        serde_json::from_value(json!({ "kind": "folder", "path": "root", "channels": "rgb" }))
            .unwrap();
    let dataset = Dataset::open(&config, base.path()).unwrap();
    let labels = dataset.labels().unwrap();
    let found = Answer {
        classes: dataset.class_names().to_vec(),
        samples: (dataset.ids().iter().cloned())
            .zip(labels.iter().copied())
            .collect(),
    };
    assert_eq!(found, fixture.without_hidden);
    for index in 0..dataset.len() {
        dataset.sample(index).unwrap();
    }
    // The hidden class would have moved every label.
    assert_eq!(fixture.whole.classes[0], ".ipynb_checkpoints");
    assert_eq!(found.classes, fixture.whole.classes[1..]);
    assert_eq!(
        dataset.left_out().to_string(),
        "1 image beside class folders (`beside.png`), 4 hidden (`.ipynb_checkpoints`, …), 1 `.md` file, 1 `.txt` file"
    );
}

#[test]
fn images_are_torchvisions_whatever_their_orientation_or_inks() {
    for loaded in fixture().images {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures")
            .join(&loaded.file);
        let image = Image::read(path, ColourMode::Rgb).unwrap();
        let Loaded {
            file,
            width,
            height,
            rgb,
        } = loaded;
        assert_eq!(image.shape(), [3, height, width], "{file}");
        let expected = Image::from_fn([3, height, width], |channel, row, column| {
            f32::from(rgb[(row * width + column) * 3 + channel]) / 255.0
        })
        .unwrap();
        let distances = image.data().iter().zip(expected.data());
        let worst = distances.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // Decoders of JPEG may differ in the last bits of the cosine transform.
        assert!(worst < 4.0 / 255.0, "{file}: {worst}");
    }
}

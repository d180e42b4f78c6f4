//! CIFAR's files, those of NumPy written by NumPy itself (tests/reference/cifar.py).

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::{Path, PathBuf};

use dtta_data::{Dataset, DatasetConfig};
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cifar")
}

fn open(folder: &Path, classes: &str, split: &str, corruption: Value) -> Result<Dataset, String> {
    let mut config = json!({"kind": "cifar", "path": folder, "classes": classes, "split": split});
    if !corruption.is_null() {
        config["corruption"] = corruption;
    }
    let config: DatasetConfig = serde_json::from_value(config).unwrap();
    Dataset::open(&config, Path::new(".")).map_err(|error| error.to_string())
}

/// Pixels as the script made them.
fn assert_pixels(dataset: &Dataset, severity: usize) {
    assert_eq!(dataset.ids(), ["test/00000", "test/00001"]);
    assert_eq!(dataset.labels(), Some([3, 8].as_slice()));
    for i in 0..2 {
        let image = dataset.sample(i).unwrap().image;
        assert_eq!(image.shape(), [3, 32, 32]);
        for (c, y, x) in [(0, 0, 0), (1, 5, 17), (2, 31, 30)] {
            let expected = (7 * y + 3 * x + 85 * c + 40 * i + 20 * severity) % 256;
            let found = image.get(c, y, x).unwrap() * 255.0;
            assert!(
                (found - expected as f32).abs() < 1e-3,
                "{i} {c} {y} {x}: {found}, {expected}"
            );
        }
    }
}

#[test]
fn binary_files_have_their_pixels_and_classes() {
    let ten = open(&fixtures(), "cifar10", "test", Value::Null).unwrap();
    assert_pixels(&ten, 0);
    assert_eq!(ten.class_names()[3], "cat");
    let hundred = open(&fixtures(), "cifar100", "test", Value::Null).unwrap();
    assert_pixels(&hundred, 0);
    assert_eq!(
        (
            hundred.class_names().len(),
            hundred.class_names()[8].as_str()
        ),
        (100, "bicycle")
    );
}

#[test]
fn each_severity_is_its_part_of_an_array() {
    for severity in 1..=5 {
        let corruption = json!({"name": "fog", "severity": severity});
        let dataset = open(&fixtures(), "cifar10", "test", corruption).unwrap();
        assert_pixels(&dataset, severity);
    }
}

#[test]
fn refuses_arrays_and_records_that_are_something_else() {
    let folder = tempfile::tempdir().unwrap();
    let corruption = |name: &str| json!({"name": name, "severity": 1});
    for file in ["fog.npy", "labels.npy", "fortran.npy", "floats.npy"] {
        fs::copy(fixtures().join(file), folder.path().join(file)).unwrap();
    }
    let path = folder.path();
    let refused =
        |name: &str, split: &str| open(path, "cifar10", split, corruption(name)).unwrap_err();
    assert!(refused("snow", "test").contains("snow.npy"));
    assert!(refused("fog", "train").contains("test images"));
    assert!(refused("fortran", "test").contains("Fortran"));
    assert!(refused("floats", "test").contains("holds <f4"));
    assert!(refused("labels", "test").contains("holds <i8 of [10], expected unsigned bytes"));
    let whole = fs::read(path.join("fog.npy")).unwrap();
    for (length, expected) in [
        (whole.len() - 1, "bytes follow its header"),
        (20, "shorter than its header"),
        (3, "shorter than a header"),
    ] {
        fs::write(path.join("fog.npy"), &whole[..length]).unwrap();
        let message = refused("fog", "test");
        assert!(message.contains(expected), "{message}");
    }
    // As a pickle or a text file would.
    fs::write(path.join("fog.npy"), b"\x80\x04 something else").unwrap();
    assert!(refused("fog", "test").contains("does not begin as one"));
    // A header that promises more than any file holds.
    let header =
        "{'descr': '|u1', 'fortran_order': False, 'shape': (9223372036854775807, 32, 32, 3), }";
    let mut huge = b"\x93NUMPY\x01\x00".to_vec();
    huge.extend((header.len() as u16).to_le_bytes());
    huge.extend(header.as_bytes());
    fs::write(path.join("fog.npy"), huge).unwrap();
    assert!(refused("fog", "test").contains("0 bytes follow"));
    fs::write(path.join("test_batch.bin"), vec![0; 3074]).unwrap();
    let message = open(path, "cifar10", "test", Value::Null).unwrap_err();
    assert!(
        message.contains("3074 bytes") && message.contains("3073"),
        "{message}"
    );
    fs::write(path.join("test_batch.bin"), vec![10; 3073]).unwrap();
    assert!(
        open(path, "cifar10", "test", Value::Null)
            .unwrap_err()
            .contains("label 10")
    );
}

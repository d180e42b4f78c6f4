//! Packed samples there and back, and files that are not what they should be.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::{DatasetConfig, NumberMap, Sample};

fn provenance() -> Provenance {
    Provenance {
        source: "a test".into(),
        licence: "MIT".into(),
    }
}

fn targets(index: usize, label: Option<u32>) -> Targets {
    let first = index as f32;
    let depth = NumberMap::new(1, 1, 3, vec![0.0, first, 300.0]).unwrap();
    // The first pixel is known but in sample 0, the last one never.
    let numbers = vec![0.0, 1.0, 0.0, first, -2.0, 0.0];
    let arrows = NumberMap::new(2, 1, 3, numbers).unwrap();
    let targets = Targets::new()
        .with(
            "labels",
            LabelMap::new(1, 3, vec![index as u8, IGNORE, 7]).unwrap(),
        )
        .with("depth", depth)
        .with("arrows", arrows.with_negated_by_flip(vec![0]));
    match label {
        Some(class) => targets.with(CLASS, Target::Class(class)),
        None => targets,
    }
}

fn source(labels: [Option<u32>; 3]) -> Dataset {
    let samples = labels.into_iter().enumerate().map(|(index, label)| Sample {
        id: format!("test/{:05}", index * 7),
        image: Image::from_fn([2, 1, 3], |channel, _, column| {
            (index * 6 + channel * 3 + column) as f32 / 255.0
        })
        .unwrap(),
        targets: targets(index, label),
    });
    let classes = (0..300).map(|class| format!("class {class}")).collect();
    Dataset::from_samples("memory", classes, samples.collect()).unwrap()
}

fn packed(labels: [Option<u32>; 3], indices: &[usize]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sample.safetensors");
    pack(&source(labels), indices, &provenance(), &path).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn reads_what_it_wrote() {
    for labels in [
        [Some(0), Some(2), Some(255)],
        [Some(0), Some(2), Some(256)],
        [None; 3],
    ] {
        let original = source(labels);
        let folder = tempfile::tempdir().unwrap();
        let path = PathBuf::from("sample.safetensors");
        pack(
            &original,
            &[2, 0],
            &provenance(),
            &folder.path().join(&path),
        )
        .unwrap();
        let config = DatasetConfig::Packed(PackedConfig {
            path,
            transforms: vec![],
        });
        let read = Dataset::open(&config, folder.path()).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(read.class_names(), original.class_names());
        assert_eq!(read.provenance(), Some(&provenance()));
        assert_eq!(read.target_types(), original.target_types());
        assert_eq!(read.labels().is_some(), original.labels().is_some());
        assert_eq!(read.sample(0).unwrap(), original.sample(2).unwrap());
        assert_eq!(read.sample(1).unwrap(), original.sample(0).unwrap());
    }
}

#[test]
fn the_same_samples_make_the_same_bytes() {
    let once = packed([Some(1), Some(2), Some(3)], &[0, 1, 2]);
    assert_eq!(once, packed([Some(1), Some(2), Some(3)], &[0, 1, 2]));
}

#[test]
fn refuses_to_pack_what_does_not_fit() {
    let path = Path::new("/nowhere/sample.safetensors");
    let dataset = source([None; 3]);
    assert!(matches!(
        pack(&dataset, &[], &provenance(), path),
        Err(DataError::OutOfRange { .. })
    ));
    assert!(matches!(
        pack(&dataset, &[3], &provenance(), path),
        Err(DataError::OutOfRange { .. })
    ));
    assert!(matches!(
        pack(&dataset, &[0], &provenance(), path),
        Err(DataError::File(dtta_base::Error::Write { .. }))
    ));
    let sample = |id: &str, width| Sample {
        id: id.into(),
        image: Image::from_fn([1, 1, width], |_, _, _| 0.0).unwrap(),
        targets: Targets::new(),
    };
    let mixed =
        Dataset::from_samples("mixed", vec![], vec![sample("a", 1), sample("b", 2)]).unwrap();
    assert!(matches!(
        pack(&mixed, &[0, 1], &provenance(), path),
        Err(DataError::MixedShapes { .. })
    ));
}

/// A file with the given tensors and metadata, whatever sense they make together.
fn file(tensors: &[(&'static str, Dtype, Vec<usize>, &[u8])], metadata: Option<&str>) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (
            *name,
            TensorView::new(*dtype, shape.clone(), bytes).unwrap(),
        )
    });
    let metadata = metadata.map(|text| HashMap::from([(METADATA_KEY.to_owned(), text.to_owned())]));
    safetensors::serialize(views, metadata).unwrap()
}

const METADATA: &str = r#"{ "format": "dtta-packed-sample/1", "provenance": { "source": "s", "licence": "l" },
    "class_names": ["a", "b"], "ids": ["x", "y"] }"#;

#[test]
fn refuses_misshapen_tensors_and_metadata() {
    let refusal = |file: Vec<u8>| {
        decode(&file, Path::new("p"))
            .and_then(Dataset::checked)
            .unwrap_err()
    };
    let images: (_, _, _, &[u8]) = ("images", Dtype::U8, vec![2, 1, 1, 1], &[0, 1]);
    let with_labels = |labels| refusal(file(&[images.clone(), labels], Some(METADATA)));

    assert!(matches!(
        refusal(file(&[], None)),
        DataError::MetadataMissing { .. }
    ));
    assert!(matches!(
        refusal(file(&[], Some("{"))),
        DataError::Metadata { .. }
    ));
    let newer = METADATA.replace("sample/1", "sample/3");
    assert!(matches!(
        refusal(file(&[], Some(&newer))),
        DataError::Format { .. }
    ));
    assert!(matches!(
        refusal(file(&[], Some(METADATA))),
        DataError::Tensor { name, .. } if name == "images"
    ));
    let flat = file(
        &[("images", Dtype::U8, vec![2, 1], &[0, 1])],
        Some(METADATA),
    );
    assert!(matches!(
        refusal(flat),
        DataError::Tensor { name, .. } if name == "images"
    ));
    let fewer = file(
        &[("images", Dtype::U8, vec![1, 1, 1, 1], &[0])],
        Some(METADATA),
    );
    assert!(matches!(
        refusal(fewer),
        DataError::Tensor { name, .. } if name == "images"
    ));
    let empty = file(
        &[("images", Dtype::U8, vec![2, 0, 1, 1], &[])],
        Some(METADATA),
    );
    assert!(matches!(
        refusal(empty),
        DataError::Tensor { name, .. } if name == "images"
    ));
    assert!(matches!(
        with_labels(("labels", Dtype::U8, vec![1], &[0])),
        DataError::Tensor { name, .. } if name == "labels"
    ));
    assert!(matches!(
        with_labels(("labels", Dtype::F32, vec![2], &[0; 8])),
        DataError::Tensor { name, .. } if name == "labels"
    ));
    assert!(matches!(
        with_labels(("labels", Dtype::I64, vec![2], &[255; 16])),
        DataError::LabelOutOfRange { label: -1, .. }
    ));
    assert!(matches!(
        with_labels(("labels", Dtype::U8, vec![2], &[0, 2])),
        DataError::LabelOutOfRange {
            label: 2,
            classes: 2,
            ..
        }
    ));
}

#[test]
fn distances_of_files_stay_exact_millimetres() {
    let folder = tempfile::tempdir().unwrap();
    let millimetres = [0u16, 1, 499, 500, 1234, 65_535];
    let bytes: Vec<u8> = millimetres.iter().flat_map(|d| d.to_be_bytes()).collect();
    let (grey, sixteen) = (::png::ColorType::Grayscale, ::png::BitDepth::Sixteen);
    for name in ["images/x.png", "depths/x.png"] {
        let path = folder.path().join(name);
        crate::dataset::png::tests::write(&path, grey, sixteen, [3, 2], &bytes);
    }
    let paired = r#"{ "kind": "paired", "images": "images", "channels": "grayscale",
        "targets": { "depth": { "kind": "number_map", "path": "depths", "scale": 0.001 } } }"#;
    let mut config: DatasetConfig = serde_json::from_str(paired).unwrap();
    // From the files, and from what was packed once.
    for path in ["once.safetensors", "twice.safetensors"] {
        let dataset = Dataset::open(&config, folder.path()).unwrap();
        pack(&dataset, &[0], &provenance(), &folder.path().join(path)).unwrap();
        config = DatasetConfig::Packed(PackedConfig {
            path: path.into(),
            transforms: vec![],
        });
        let packed = Dataset::open(&config, folder.path()).unwrap();
        let sample = packed.sample(0).unwrap();
        let depth = sample.targets.get("depth").and_then(Target::numbers);
        let expected = millimetres.map(|d| f32::from(d) * 0.001);
        assert_eq!(depth.unwrap().data(), expected);
    }
}

#[test]
fn the_first_format_is_the_second_with_a_table_implied() {
    let metadata = METADATA.replace(r#""class_names""#, r#""depth_scale": 0.5, "class_names""#);
    let first = file(
        &[
            ("images", Dtype::U8, vec![2, 1, 1, 2], &[0, 51, 102, 255]),
            ("labels", Dtype::U8, vec![2], &[1, 0]),
            ("masks", Dtype::U8, vec![2, 1, 2], &[0, 255, 1, 1]),
            (
                "depths",
                Dtype::U16,
                vec![2, 1, 2],
                &[0, 0, 3, 0, 0, 1, 1, 0],
            ),
        ],
        Some(&metadata),
    );
    let dataset = decode(&first, Path::new("p")).unwrap();
    let expected = Targets::new()
        .with(CLASS, Target::Class(0))
        .with("labels", LabelMap::new(1, 2, vec![1, 1]).unwrap())
        .with("depth", NumberMap::new(1, 1, 2, vec![128.0, 0.5]).unwrap());
    let sample = dataset.sample(1).unwrap();
    assert_eq!(sample.targets, expected);
    assert_eq!(sample.image.data(), [0.4, 1.0]);
    assert_eq!(dataset.labels(), Some([1, 0].as_slice()));
}

#[test]
fn refuses_tables_that_do_not_fit_their_tensors() {
    let refusal = |entry: &str| {
        let targets = format!(r#""targets": {{ "x": {entry} }}, "class_names""#);
        let metadata = METADATA
            .replace("sample/1", "sample/2")
            .replace(r#""class_names""#, &targets);
        let tensors: [(_, _, _, &[u8]); 3] = [
            ("images", Dtype::U8, vec![2, 1, 1, 1], &[0, 1]),
            ("bytes", Dtype::U8, vec![2, 1, 1], &[0, 2]),
            ("numbers", Dtype::U16, vec![2, 3, 1, 1], &[1; 12]),
        ];
        decode(&file(&tensors, Some(&metadata)), Path::new("p")).unwrap_err()
    };
    for entry in [
        r#"{ "tensor": "none", "values": { "kind": "class_index" } }"#,
        r#"{ "tensor": "bytes", "values": { "kind": "class_index" } }"#,
        r#"{ "tensor": "numbers", "values": { "kind": "label_map" } }"#,
        r#"{ "tensor": "bytes", "values": { "kind": "number_map", "scale": 1.0 } }"#,
    ] {
        assert!(
            matches!(refusal(entry), DataError::Tensor { .. }),
            "{entry}"
        );
    }
    assert!(matches!(
        refusal(r#"{ "tensor": "bytes", "values": { "kind": "label_map" } }"#),
        DataError::MapLabel { label: 2, classes: 2, id: Some(id), .. } if id == "y"
    ));
    let scale = r#"{ "tensor": "numbers", "values": { "kind": "number_map", "scale": 0.0 } }"#;
    assert!(matches!(refusal(scale), DataError::Scale { .. }));
    let flip = r#"{ "tensor": "numbers", "values": { "kind": "number_map", "scale": 1.0, "negated_by_flip": [3] } }"#;
    assert!(matches!(refusal(flip), DataError::FlippedChannel { .. }));
    let unknown = r#"{ "tensor": "bytes", "values": { "kind": "boxes" } }"#;
    assert!(matches!(refusal(unknown), DataError::Metadata { .. }));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&bytes, Path::new("p")).is_err());
    }

    #[test]
    fn any_truncation_is_refused(keep in 0.0..1.0f64) {
        let whole = packed([Some(1); 3], &[0, 1, 2]);
        let cut = &whole[..(whole.len() as f64 * keep) as usize];
        prop_assert!(decode(cut, Path::new("p")).is_err());
    }

    #[test]
    fn any_changed_byte_is_read_or_refused(place in 0.0..1.0f64, byte in any::<u8>()) {
        let mut file = packed([Some(1); 3], &[0, 1, 2]);
        let place = (file.len() as f64 * place) as usize;
        file[place] = byte;
        if let Ok(dataset) = decode(&file, Path::new("p")).and_then(Dataset::checked) {
            for index in 0..dataset.len() {
                prop_assert!(dataset.sample(index).is_ok());
            }
        }
    }
}

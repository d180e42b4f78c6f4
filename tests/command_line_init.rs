//! `dtta init`: what it writes runs, and what does not fit is refused before anything is written. And folders that are taken.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use serde_json::{Value, json};

fn example(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples")
        .join(file);
    path.display().to_string()
}

fn dtta(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dtta"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("DTTA_PLUGIN_PATH")
        .output()
        .unwrap()
}

/// `dtta init mine` with the shipped classifier, this denoiser and this data, and what it says.
fn init(folder: &Path, denoiser: &str, data: &str, more: &[&str]) -> (Option<i32>, String) {
    let backbone = example("fashion/models/classifier.json");
    init_with(folder, [&backbone, denoiser, data], more)
}

fn init_with(
    folder: &Path,
    [backbone, denoiser, data]: [&str; 3],
    more: &[&str],
) -> (Option<i32>, String) {
    let mut arguments = vec![
        "init",
        "mine",
        "--backbone",
        backbone,
        "--denoiser",
        denoiser,
        "--data",
        data,
    ];
    arguments.extend(more);
    let output = dtta(&arguments, folder);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("panicked"), "{said}");
    (output.status.code(), said)
}

fn fashion() -> [String; 2] {
    ["models/denoiser.json", "data/test-sample.safetensors"]
        .map(|file| example(&format!("fashion/{file}")))
}

fn read(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn an_experiment_of_two_models_and_their_data_runs_and_has_its_schema_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let [denoiser, data] = fashion();
    let (code, said) = init(folder.path(), &denoiser, &data, &[]);
    assert_eq!(code, Some(0), "{said}");
    let mine = folder.path().join("mine");
    let experiment = read(mine.join("experiment.json"));
    assert_eq!(experiment["$schema"], "experiment.schema.json");
    assert_eq!(experiment["name"], "mine");
    let schema = read(mine.join("experiment.schema.json"));
    assert_eq!(schema["title"], "dtta experiment");
    assert_eq!(experiment["plugins"].get("metric"), None);
    let said = rehearse(folder.path());
    assert!(said.contains("500 samples in 5 domains"), "{said}");
}

/// A dry run of what was written, which succeeds.
fn rehearse(folder: &Path) -> String {
    let arguments = [
        "run",
        "mine/experiment.json",
        "--device",
        "cpu",
        "--dry-run",
    ];
    let output = dtta(&arguments, folder);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    said
}

#[test]
fn an_experiment_of_a_classifier_of_pixels_runs() {
    let [segmenter, denoiser, data] = [
        "models/segmenter.json",
        "models/mask-denoiser.json",
        "data/test-sample.safetensors",
    ]
    .map(|file| example(&format!("doom/{file}")));
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = init_with(folder.path(), [&segmenter, &denoiser, &data], &[]);
    assert_eq!(code, Some(0), "{said}");
    let experiment = read(folder.path().join("mine/experiment.json"));
    assert_eq!(experiment["plugins"]["metric"]["config"]["classes"], 6);
    rehearse(folder.path());

    // From folders, whose images and maps are brought to the extents of the model.
    let folder = tempfile::tempdir().unwrap();
    let refused = init_with(folder.path(), [&segmenter, &denoiser, "."], &[]);
    assert_eq!(refused.0, Some(2), "{}", refused.1);
    assert!(refused.1.contains("has no `images`"), "{}", refused.1);
    for (part, colour, channels) in [
        ("images", png::ColorType::Rgb, 3),
        ("labels", png::ColorType::Grayscale, 1),
    ] {
        fs::create_dir_all(folder.path().join("data").join(part)).unwrap();
        for image in 0..4_u8 {
            let name = folder.path().join(format!("data/{part}/{image}.png"));
            let mut encoder = png::Encoder::new(fs::File::create(name).unwrap(), 100, 60);
            encoder.set_color(colour);
            let mut writer = encoder.write_header().unwrap();
            writer
                .write_image_data(&vec![image; 100 * 60 * channels])
                .unwrap();
        }
    }
    let (code, said) = init_with(folder.path(), [&segmenter, &denoiser, "data"], &[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("`classes.json`"), "{said}");
    let classes = json!(["wall", "floor", "ceiling", "sky", "character", "thing"]);
    let file = folder.path().join("data/classes.json");
    fs::write(file, classes.to_string()).unwrap();
    let (code, said) = init_with(folder.path(), [&segmenter, &denoiser, "data"], &[]);
    assert_eq!(code, Some(0), "{said}");
    let said = rehearse(folder.path());
    assert!(said.contains("20 samples in 5 domains"), "{said}");
}

#[test]
fn an_experiment_of_a_predictor_of_depth_runs_once_its_range_is_given() {
    let [depth, denoiser, data] = [
        "models/depth.json",
        "models/depth-denoiser.json",
        "data/test-sample.safetensors",
    ]
    .map(|file| example(&format!("doom/{file}")));
    let folder = tempfile::tempdir().unwrap();
    let range = r#"depth={"range": {"scale": "log", "maximum": 127}}"#;
    for (data, more, word) in [
        (&*data, [].as_slice(), "--head 'depth={\"range\""),
        (
            ".",
            &["--head", range],
            "which distance a number stands for",
        ),
    ] {
        let (code, said) = init_with(folder.path(), [&depth, &denoiser, data], more);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(word), "{said}");
        assert!(!folder.path().join("mine").exists(), "{said}");
    }
    let models = [&*depth, &denoiser, &data];
    let (code, said) = init_with(folder.path(), models, &["--head", range]);
    assert_eq!(code, Some(0), "{said}");
    let experiment = read(folder.path().join("mine/experiment.json"));
    for role in ["head", "mapper", "metric"] {
        let given = &experiment["plugins"][role]["config"]["range"]["maximum"];
        assert_eq!(*given, 127, "{role}");
    }
    rehearse(folder.path());
}

#[test]
fn an_experiment_that_is_there_stays() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine/experiment.json");
    fs::create_dir(folder.path().join("mine")).unwrap();
    fs::write(&file, "mine").unwrap();
    let [denoiser, data] = fashion();
    let (code, said) = init(folder.path(), &denoiser, &data, &[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("experiment.json` is there already"), "{said}");
    assert_eq!(fs::read_to_string(file).unwrap(), "mine");
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let [denoiser, data] = fashion();
    let spatial = example("doom/models/depth-denoiser.json");
    for (denoiser, data, more, word) in [
        (&spatial, &data, [].as_slice(), "--mapper"),
        (&denoiser, &"nowhere".into(), &[], "nowhere"),
        (&denoiser, &data, &["--head", "nobody"], "nobody"),
        (
            &denoiser,
            &data,
            &["--head", "classification={\"top\": 1}"],
            "/plugins/head/config",
        ),
        (
            &denoiser,
            &data,
            &["--mapper", "linear={\"in\": 1}"],
            "/plugins/mapper: plugin `linear` has no role",
        ),
        (&"nothing.json".into(), &data, &[], "nothing.json"),
    ] {
        let (code, said) = init(folder.path(), denoiser, data, more);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(word), "`{word}` is not in {said}");
        assert!(!folder.path().join("mine").exists(), "{said}");
    }
}

/// A folder `images` of so many classes, with two images of 40×30 each.
fn images_of(classes: usize, folder: &Path) {
    for class in 0..classes {
        let class = folder.join(format!("images/{class}"));
        fs::create_dir_all(&class).unwrap();
        for image in 0..2 {
            let file = fs::File::create(class.join(format!("{image}.png"))).unwrap();
            let mut encoder = png::Encoder::new(file, 40, 30);
            encoder.set_color(png::ColorType::Rgb);
            let mut writer = encoder.write_header().unwrap();
            writer.write_image_data(&[128; 40 * 30 * 3]).unwrap();
        }
    }
}

#[test]
fn a_published_backbone_is_shown_images_as_its_configuration_says() {
    let folder = tempfile::tempdir().unwrap();
    images_of(7, folder.path());
    let fixture = |name: &str| example(&format!("../core/models/tests/fixtures/{name}"));
    // Of timm, with an input of 33×40 and a crop of 0.95, squashed; and a denoiser that is told its classes.
    let backbone = fixture("backbones/resnet_basic");
    let denoiser = folder.path().join("denoiser");
    let config = fs::read_to_string(example("fashion/models/denoiser.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["num_classes"] = json!(7);
    fs::write(denoiser.with_extension("json"), config.to_string()).unwrap();
    let models = dtta_models::Models::standard();
    let model = models.denoiser(&denoiser.with_extension("json")).unwrap();
    let device = dtta_tensor::Device::cpu();
    let weights = dtta_models::Weights::initialise(model.parameters(), 0, &device).unwrap();
    let path = denoiser.with_extension("safetensors");
    let precision = dtta_models::Precision::F32;
    weights.save(&path, precision, &Default::default()).unwrap();
    let (code, said) = init_with(folder.path(), [&backbone, "denoiser.json", "images"], &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("what its configuration says"), "{said}");
    let experiment = read(folder.path().join("mine/experiment.json"));
    assert_eq!(
        experiment["data"]["dataset"]["transforms"],
        json!([
            {"kind": "resize", "height": 34, "width": 42, "filter": "bicubic", "as_bytes": true},
            {"kind": "centre_crop", "height": 33, "width": 40},
        ])
    );
    let preprocess = &experiment["models"]["backbone"]["preprocess"];
    let steps: Vec<dtta_data::Transform> = serde_json::from_value(preprocess.clone()).unwrap();
    let expected =
        json!([{"kind": "normalise", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}]);
    let expected: Vec<dtta_data::Transform> = serde_json::from_value(expected).unwrap();
    assert_eq!(steps, expected);
}

#[test]
fn a_folder_of_images_in_colour_is_brought_to_what_the_models_see() {
    let folder = tempfile::tempdir().unwrap();
    images_of(10, folder.path());
    let [denoiser, _] = fashion();
    let (code, said) = init(folder.path(), &denoiser, "images", &[]);
    assert_eq!(code, Some(0), "{said}");
    let experiment = read(folder.path().join("mine/experiment.json"));
    assert_eq!(experiment["data"]["dataset"]["path"], "../images");
    assert_eq!(experiment["data"]["stream"]["samples"], 20);
    // Nine classes are not those of the models.
    fs::remove_dir_all(folder.path().join("mine")).unwrap();
    fs::remove_dir_all(folder.path().join("images/9")).unwrap();
    let (code, said) = init(folder.path(), &denoiser, "images", &[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("10 classes, the dataset 9"), "{said}");
}

#[test]
fn training_in_a_folder_that_another_process_works_in_is_to_be_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({
        "model": example("fashion/models/classifier.json"),
        "data": {"training": {"kind": "packed", "path": example("fashion/data/test-sample.safetensors")}},
        "task": {"kind": "classifier"},
        "optimization": {"steps": 1, "batch": 2, "optimizer": {"kind": "sgd", "learning_rate": 0.1}},
        "output": {"weights": "weights.safetensors"},
    });
    fs::write(folder.path().join("train.json"), config.to_string()).unwrap();
    let out = folder.path().join("out");
    let lock = dtta_base::FolderLock::take(&out).unwrap();
    let arguments = ["train", "train.json", "--out", "out", "--device", "cpu"];
    let output = dtta(&arguments, folder.path());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(75), "{said}");
    drop(lock);
    let output = dtta(&arguments, folder.path());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
}

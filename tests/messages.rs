//! Every message about a document that a user may write wrong, as `dtta` prints it, in one list: a message is judged beside the others.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

#[path = "../core/engine/tests/common/mod.rs"]
mod common;

use std::fmt::Write as _;
use std::fs;

use assert_cmd::Command;
use common::Fixture;
use serde_json::{Value, json};

/// What is done to a document that is fine.
enum Change {
    /// The value at a pointer is another one, or a new one.
    Put(&'static str, Value),
    /// A field is left out.
    Drop(&'static str),
    /// An override on the command line.
    Set(&'static str),
    /// The whole text of the file is another one.
    Text(&'static [u8]),
}

use Change::{Drop, Put, Set, Text};

/// What `dtta` says of the document `file`, which is `fine` but for the changes. Expects it to be refused in good order.
fn said(fixture: &Fixture, command: &str, file: &str, fine: &Value, changes: &[Change]) -> String {
    let path = fixture.path().join(file);
    let kept = fs::read(&path).ok();
    let mut document = fine.clone();
    let mut arguments = vec![
        command,
        if command == "run" {
            "experiment.json"
        } else {
            "training.json"
        },
    ];
    if command == "run" {
        arguments.push("--dry-run");
    }
    arguments.extend(["--device", "cpu"]);
    let mut bytes = None;
    for change in changes {
        match change {
            Put(pointer, value) => {
                let (parent, name) = pointer.rsplit_once('/').unwrap();
                match document.pointer_mut(parent).unwrap() {
                    Value::Array(items) => items[name.parse::<usize>().unwrap()] = value.clone(),
                    parent => parent[name] = value.clone(),
                }
            }
            Drop(pointer) => {
                let (parent, name) = pointer.rsplit_once('/').unwrap();
                let parent = document.pointer_mut(parent).unwrap();
                parent.as_object_mut().unwrap().shift_remove(name).unwrap();
            }
            Set(text) => arguments.extend(["--set", text]),
            Text(text) => bytes = Some(text.to_vec()),
        }
    }
    fs::write(
        &path,
        bytes.unwrap_or_else(|| document.to_string().into_bytes()),
    )
    .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_dtta"))
        .args(&arguments)
        .current_dir(fixture.path())
        .env_remove("DTTA_PLUGIN_PATH")
        .output()
        .unwrap();
    match kept {
        Some(kept) => fs::write(&path, kept).unwrap(),
        None => fs::remove_file(&path).unwrap(),
    }
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(output.stdout.is_empty());
    assert_eq!(said.matches("error: ").count(), 1, "one message: {said}");
    said
}

/// The changes of a case, as its title, cut short.
fn title(changes: &[Change]) -> String {
    let told = changes.iter().map(|change| match change {
        Put(pointer, value) => format!("{pointer} = {value}"),
        Drop(pointer) => format!("without {pointer}"),
        Set(text) => format!("--set {text}"),
        Text(text) => format!("the text {}", text.escape_ascii()),
    });
    let title: String = told.collect::<Vec<_>>().join(", ");
    title.chars().take(160).collect()
}

fn list(command: &str, file: &str, fine: &Value, cases: Vec<Vec<Change>>) -> String {
    let fixture = Fixture::new();
    fixture.write(&Fixture::experiment());
    let mut text = String::new();
    for changes in cases {
        let said = said(&fixture, command, file, fine, &changes);
        writeln!(text, "# {}\n{said}", title(&changes)).unwrap();
    }
    text
}

#[test]
fn messages_about_experiments() {
    let sgd = |field: &str, value: f64| {
        let mut sgd = json!({"kind": "sgd", "learning_rate": 0.1});
        sgd[field] = json!(value);
        vec![Put("/method/optimizer", sgd)]
    };
    let one = |pointer, value| vec![Put(pointer, value)];
    let cases = vec![
        // Names that are not known.
        one("/metod", json!({})),
        one("/method/stepz", json!(3)),
        one("/method/colour", json!("blue")),
        one("/data/stream/domains/1/corruption", json!("motion-blur")),
        one("/data/stream/domains/1/corruption", json!("rain")),
        one("/data/stream/domains/1/kind", json!("corupted")),
        one("/data/dataset/kind", json!("imagefolder")),
        one("/data/dataset", json!({"kind": "folder", "path": "images", "channels": "RGB"})),
        one("/data/dataset", json!({"kind": "folder", "path": "images", "channels": "rgba"})),
        one("/models/backbone/preprocess/0/kind", json!("normalize")),
        one("/models/backbone/preprocess/0", json!({"kind": "center_crop", "height": 8, "width": 8})),
        one("/method/kind", json!("tent")),
        one("/method/kind", json!("entropy")),
        one("/method/optimizer/kind", json!("adagrad")),
        one("/method/optimizer/lr", json!(0.1)),
        one("/adaptation/mode/kind", json!("single-sample")),
        one("/adaptation/mode", json!({"kind": "single_sample", "reset": "never"})),
        one("/adaptation/mode/reset", json!("each")),
        sgd("epsilon", 1e-8),
        one("/plugins/mapper/config", json!({"topk": 3})),
        // Numbers out of their bounds.
        one("/data/stream/samples", json!(0)),
        one("/data/stream/domains", json!([])),
        one("/data/stream/domains/1/severity", json!(6)),
        one("/method/timesteps/range", json!([700, 300])),
        one("/method/timesteps/range", json!([0, 1_099_511_627_776_u64])),
        one("/method/timesteps/range", json!([0, 1001])),
        one("/method/timesteps/range", json!([0])),
        one("/method/draws", json!(0)),
        one("/method/draws", json!(1_099_511_627_776_u64)),
        vec![Put("/method/draws", json!(65536)), Put("/adaptation/batch", json!(65536))],
        one("/method/micro_batch", json!(0)),
        one("/method/steps", json!(-1)),
        one("/method/steps", json!(1_099_511_627_776_u64)),
        one("/adaptation/batch", json!(0)),
        one("/adaptation/mode", json!({"kind": "online", "reset": {"every": 0}})),
        one("/adaptation/mode", json!({"kind": "online", "reset": {"every": 5}})),
        sgd("momentum", 2.0),
        sgd("momentum", 1.0),
        sgd("weight_decay", -0.1),
        one("/method/optimizer/learning_rate", json!(-1)),
        one("/method/optimizer/epsilon", json!(0)),
        one("/method/optimizer/betas", json!([0.9, 1.0])),
        one("/method/gate", json!({"explained": 1.5})),
        one("/method/slow_weights", json!({"rate": 0})),
        one("/models/backbone/preprocess/0", json!({"kind": "resize", "height": 0, "width": 8})),
        // Values of another type.
        one("/seed", json!("seven")),
        one("/name", json!(2024)),
        one("/method/draws", json!(2.5)),
        one("/models/backbone/preprocess", json!("none")),
        one("/method", json!("diffusion")),
        one("/output", json!({"pictures": true})),
        // What is missing.
        vec![Drop("/method/draws")],
        vec![Drop("/method/kind")],
        vec![Drop("/models/denoiser")],
        vec![Drop("/method"), Drop("/name")],
        // From the command line.
        vec![Set("seed=1e3")],
        vec![Set("seed=18446744073709551616")],
        vec![Set("methd.steps=3")],
        vec![Set("method.optimizer.learning_rate=fast")],
        vec![Set("method.steps")],
        vec![Set("data.stream.domains.7.name=x")],
        vec![Put("/seed", json!(-1)), Set("method.draws=0")],
        // Text that is no document.
        vec![Text(b"{\"name\": \"tiny\", \"seed\": 1, \"seed\": 2, \"data\": {\"stream\": {}, \"stream\": {}}}")],
        vec![Text(b"{\n  \"name\": \"tiny\",\n}")],
        vec![Text(b"{} {}")],
        vec![Text(b"")],
        vec![Text(b"\xff\xfe{\0}\0")],
        vec![Text(b"[]")],
    ];
    let listed = list("run", "experiment.json", &Fixture::experiment(), cases);
    insta::assert_snapshot!(listed);
}

#[test]
fn messages_about_models() {
    let fixture = Fixture::new();
    let fine = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(fixture.path().join(name)).unwrap()).unwrap()
    };
    let one = |pointer, value| vec![Put(pointer, value)];
    let denoiser = list(
        "run",
        "denoiser.json",
        &fine("denoiser.json"),
        vec![
            one("/kind", json!("DiT")),
            one("/kind", json!("resnet")),
            vec![Drop("/kind")],
            one("/depht", json!(3)),
            one("/depth", json!(1_000_000_000)),
            one("/hidden_size", json!(1_u64 << 40)),
            one("/image", json!([1, 9, 8])),
            one("/image", json!([1, 0, 8])),
            one("/patch_size", json!(1e0)),
            one(
                "/schedule",
                json!({"kind": "discrete", "timesteps": 0, "beta_start": 0.5, "beta_end": 0.1, "betas": "quadratic"}),
            ),
            vec![
                Put("/depth", json!(-1)),
                Put("/num_heads", json!(3)),
                Put("/num_classes", json!(0)),
                Put("/width", json!(1)),
            ],
            vec![Text(b"{\"kind\": \"dit\", \"depth\": 1, \"depth\": 2}")],
        ],
    );
    let backbone = list(
        "run",
        "classifier.json",
        &fine("classifier.json"),
        vec![
            one("/widths", json!([])),
            one("/widths", json!(vec![8; 1000])),
            one("/blocks", json!([1, 1, 1])),
            one("/norm", json!({"kind": "batch", "groups": 4})),
            one("/norm", json!({"kind": "layer"})),
        ],
    );
    insta::assert_snapshot!(format!("{denoiser}{backbone}"));
}

#[test]
fn messages_about_training() {
    let fine = json!({
        "task": { "kind": "denoiser" },
        "model": "denoiser.json",
        "data": { "training": { "kind": "idx", "split": "train" } },
        "optimization": { "steps": 10, "batch": 4, "optimizer": { "kind": "adamw", "learning_rate": 1e-3 } },
        "output": { "weights": "denoiser.safetensors" },
    });
    let one = |pointer, value| vec![Put(pointer, value)];
    let cases = vec![
        one("/task/kind", json!("classifer")),
        one("/task/label_smoothing", json!(0.1)),
        one("/data/training/split", json!("val")),
        one("/data/augmentation", json!([{"kind": "horizontal-flip"}])),
        one("/optimization/ema", json!(1.5)),
        one("/optimization/steps", json!(0)),
        one("/optimization/batch", json!(1_099_511_627_776_u64)),
        one("/optimization/gradient_clip", json!(0)),
        one("/optimization/schedule", json!({"warm_up": 10})),
        one("/output/precision", json!("fp16")),
        one("/task/timesteps", json!({"range": [700, 300]})),
        one("/task/range", json!({"minimum": 5, "maximum": 2})),
        one("/task/evaluation", json!({"draws": 0})),
        one("/evaluate", json!({"samples": 0})),
        one("/evaluate", json!({"samples": 5})),
        vec![Set("optimization.optimizer.beta=0.9")],
    ];
    insta::assert_snapshot!(list("train", "training.json", &fine, cases));
}

#[test]
fn what_editors_and_shells_put_into_documents_is_read() {
    let fixture = Fixture::new();
    let marked = |name: &str, document: &Value| {
        fs::write(fixture.path().join(name), format!("\u{feff}{document}\r\n")).unwrap();
    };
    let mut experiment = Fixture::experiment();
    experiment["$schema"] = json!("../schema/experiment.schema.json");
    experiment["method"]["gate"] = Value::Null;
    for view in ["backbone", "denoiser"] {
        let steps = experiment["models"][view]["preprocess"]
            .as_array_mut()
            .unwrap();
        steps.insert(0, json!({"kind": "grey"}));
        steps.insert(0, json!({"kind": "grayscale"}));
    }
    marked("experiment.json", &experiment);
    for name in ["denoiser.json", "classifier.json"] {
        let path = fixture.path().join(name);
        let model = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        marked(name, &model);
    }
    let output = Command::new(env!("CARGO_BIN_EXE_dtta"))
        .args(["run", "experiment.json", "--dry-run", "--device", "cpu"])
        .current_dir(fixture.path())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
}

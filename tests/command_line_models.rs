//! `dtta models` as a script sees it: what is told of a model, its files in other formats, and the cache of the Hugging Face Hub.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

#[path = "../core/engine/tests/common/mod.rs"]
mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use common::Fixture;
use dtta_models::read_tensors;
use dtta_tensor::Device;
use serde_json::{Value, json};

fn dtta(arguments: &[&str], folder: &Path, environment: &[(&str, &Path)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dtta"))
        .arg("models")
        .args(arguments)
        .current_dir(folder)
        .env_remove("HF_HOME")
        .env_remove("HF_HUB_CACHE")
        .env_remove("HF_TOKEN")
        .envs(environment.iter().copied())
        .output()
        .expect("the command starts")
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn done(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", said(output));
    match output.stdout.is_empty() {
        true => Value::Null,
        false => serde_json::from_slice(&output.stdout).unwrap(),
    }
}

fn refused(output: &Output) -> String {
    let said = said(output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.matches("error: ").count(), 1, "one message: {said}");
    said
}

/// A fixture's model in a folder as libraries lay it out.
fn folder_of(fixture: &Fixture, name: &str, folder: &Path, weights: &str) {
    fs::create_dir_all(folder).unwrap();
    let config = fixture.path().join(name).with_extension("json");
    fs::copy(&config, folder.join("config.json")).unwrap();
    fs::copy(config.with_extension("safetensors"), folder.join(weights)).unwrap();
}

#[test]
fn architectures_are_listed_for_people_and_for_programs() {
    let here = Path::new(".");
    let listed = done(&dtta(&["list", "--json"], here, &[]));
    let kinds = listed["kinds"].as_array().unwrap();
    let of = |kind: &str| kinds.iter().find(|row| row["kind"] == kind).unwrap();
    assert_eq!(of("dit")["role"], "denoiser");
    assert_eq!(of("resnet")["role"], "backbone");
    assert!(
        kinds
            .iter()
            .all(|row| !row["description"].as_str().unwrap().is_empty())
    );
    assert!(listed["published"].is_object());
    let output = dtta(&["list"], here, &[]);
    done(&output);
    assert!(
        said(&output).contains("dit") && said(&output).contains("denoiser"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_model_is_told_by_its_file_and_by_its_folder() {
    let fixture = Fixture::new();
    let folder = fixture.path().join("folder");
    folder_of(
        &fixture,
        "denoiser",
        &folder,
        "diffusion_pytorch_model.safetensors",
    );
    for model in ["denoiser.json", "folder"] {
        let told = done(&dtta(&["inspect", model, "--json"], fixture.path(), &[]));
        assert_eq!(
            (&told["role"], &told["image"]),
            (&json!("denoiser"), &json!([1, 8, 8])),
            "{told}"
        );
        assert_eq!(told["model"]["kind"], "dit");
        assert_eq!(told["slots"][0]["name"], "class-embedding");
        assert_eq!(told["weights"]["types"], json!(["F32"]));
        assert_eq!(
            (&told["weights"]["missing"], &told["weights"]["unused"]),
            (&json!([]), &json!([]))
        );
        assert_eq!(told["weights"]["tensors"], told["parameters"]["tensors"]);
        let output = dtta(&["inspect", model], fixture.path(), &[]);
        done(&output);
        for words in [
            "denoiser",
            "1 × 8 × 8",
            "class-embedding [16]",
            "tensors of F32",
        ] {
            assert!(said(&output).contains(words), "{words}: {}", said(&output));
        }
    }
    // Without weights it is a model to train; with another's, it is told what does not fit.
    fs::remove_file(folder.join("diffusion_pytorch_model.safetensors")).unwrap();
    let told = done(&dtta(&["inspect", "folder", "--json"], fixture.path(), &[]));
    assert!(
        told["weights"]["error"]
            .as_str()
            .unwrap()
            .contains("looked for"),
        "{told}"
    );
    let output = dtta(
        &["inspect", "folder", "--weights", "classifier.safetensors"],
        fixture.path(),
        &[],
    );
    let words = refused(&output);
    assert!(
        words.contains("do not fit the model: missing `") && words.contains("not declared"),
        "{words}"
    );
    assert!(words.contains(" more"), "long lists are cut: {words}");
    let output = dtta(&["inspect", "classifier.safetensors"], fixture.path(), &[]);
    let words = refused(&output);
    assert!(
        words.contains("is a safetensors file, which does not say what model it is of"),
        "{words}"
    );
}

#[test]
fn a_configuration_of_transformers_is_told_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"architectures": ["ViTForImageClassification"], "model_type": "vit"});
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let words = refused(&dtta(&["inspect", "."], folder.path(), &[]));
    assert!(
        words.contains("this is a transformers configuration of a `ViTForImageClassification`"),
        "{words}"
    );
}

#[test]
fn what_is_converted_is_the_same_model() {
    let fixture = Fixture::new();
    let folder = fixture.path().join("folder");
    folder_of(&fixture, "classifier", &folder, "model.safetensors");
    for (precision, relative) in [
        ("f32", 0.0),
        ("f16", 2f32.powi(-11)),
        ("bf16", 2f32.powi(-8)),
    ] {
        let (out, weights) = (
            format!("{precision}.json"),
            format!("{precision}.safetensors"),
        );
        done(&dtta(
            &["convert", "folder", &out, "--precision", precision],
            fixture.path(),
            &[],
        ));
        let told = done(&dtta(&["inspect", &out, "--json"], fixture.path(), &[]));
        let own = done(&dtta(
            &["inspect", "classifier.json", "--json"],
            fixture.path(),
            &[],
        ));
        assert_eq!(told["model"], own["model"]);
        assert_eq!(told["weights"]["types"], json!([precision.to_uppercase()]));
        let read = |name: &str| read_tensors(&fixture.path().join(name), &Device::cpu()).unwrap();
        let (before, after) = (read("classifier.safetensors"), read(&weights));
        assert!(before.keys().eq(after.keys()));
        for (name, tensor) in before {
            let pairs = tensor
                .to_floats()
                .unwrap()
                .into_iter()
                .zip(after[&name].to_floats().unwrap());
            // Below 2^-14, f16 has a fixed step of 2^-24.
            let least = if relative > 0.0 { 2f32.powi(-25) } else { 0.0 };
            pairs.for_each(|(a, b)| {
                assert!(
                    (a - b).abs() <= relative * a.abs() + least,
                    "{name}: {a} {b}"
                )
            });
        }
        let words = refused(&dtta(&["convert", "folder", &out], fixture.path(), &[]));
        assert!(words.contains("is there already"), "{words}");
    }
    let words = refused(&dtta(
        &["convert", "folder", "model.bin"],
        fixture.path(),
        &[],
    ));
    assert!(
        words.contains("expected the name of a configuration"),
        "{words}"
    );
    let output = dtta(
        &["convert", "folder", "x.json", "--precision", "f8"],
        fixture.path(),
        &[],
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(
        said(&output).contains("expected `f32`, `f16` or `bf16`"),
        "{}",
        said(&output)
    );
}

/// A cache as the Hub's own library lays it out, with one model.
fn cache(fixture: &Fixture) -> PathBuf {
    let cache = fixture.path().join("hub");
    let repository = cache.join("models--timm--tiny.fb_in1k");
    folder_of(
        fixture,
        "classifier",
        &repository.join("snapshots/0123456789"),
        "model.safetensors",
    );
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), "0123456789").unwrap();
    cache
}

#[test]
fn models_are_found_in_the_cache_of_the_hub_without_a_network() {
    let fixture = Fixture::new();
    let cache = cache(&fixture);
    let home = fixture.path();
    let nowhere = Path::new("http://127.0.0.1:1");
    for model in [
        "timm:tiny.fb_in1k",
        "hf:timm/tiny.fb_in1k",
        "hf:timm/tiny.fb_in1k@0123456789",
    ] {
        for environment in [("HF_HUB_CACHE", cache.as_path()), ("HF_HOME", home)] {
            let told = done(&dtta(&["inspect", model, "--json"], home, &[environment]));
            assert_eq!(told["model"]["kind"], "resnet", "{told}");
        }
    }
    let offline = [
        ("HF_HUB_CACHE", cache.as_path()),
        ("HF_HUB_OFFLINE", Path::new("1")),
        ("HF_ENDPOINT", nowhere),
    ];
    let output = dtta(&["fetch", "timm/tiny.fb_in1k"], home, &offline);
    done(&output);
    assert!(
        said(&output).contains("snapshots/0123456789"),
        "{}",
        said(&output)
    );
    done(&dtta(
        &["fetch", "timm:tiny.fb_in1k", "--file", "config.json"],
        home,
        &offline,
    ));
    let words = refused(&dtta(
        &["fetch", "timm/tiny.fb_in1k", "--file", "other.bin"],
        home,
        &offline,
    ));
    assert!(
        words.contains("`other.bin` of `timm/tiny.fb_in1k` is not in the cache"),
        "{words}"
    );
    for arguments in [["inspect", "timm:other"], ["fetch", "timm/other"]] {
        let words = refused(&dtta(&arguments, home, &offline));
        assert!(words.contains("dtta models fetch timm/other"), "{words}");
    }
    let words = refused(&dtta(&["fetch", "tiny"], home, &offline));
    assert!(
        words.contains("`tiny` names no model; expected `hf:OWNER/REPOSITORY`"),
        "{words}"
    );
}

#[cfg(not(feature = "fetch"))]
#[test]
fn a_build_without_downloads_says_so() {
    let fixture = Fixture::new();
    let cache = cache(&fixture);
    let environment = [("HF_HUB_CACHE", cache.as_path())];
    done(&dtta(
        &["fetch", "timm/tiny.fb_in1k"],
        fixture.path(),
        &environment,
    ));
    let words = refused(&dtta(
        &["fetch", "timm/other"],
        fixture.path(),
        &environment,
    ));
    assert!(
        words.contains("--features fetch") && words.contains("hf download timm/other"),
        "{words}"
    );
}

#[cfg(feature = "fetch")]
mod downloads {
    use std::collections::BTreeMap;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    use dtta_base::sha256;

    use super::*;

    const COMMIT: &str = "00112233445566778899aabbccddeeff00112233";

    /// A Hub of one repository, which logs what it is asked for.
    struct Hub {
        address: String,
        asked: Arc<Mutex<Vec<String>>>,
    }

    impl Hub {
        /// Serves these files, each with the digest that it is to tell.
        fn new(files: BTreeMap<String, (Vec<u8>, String)>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = format!("http://{}", listener.local_addr().unwrap());
            let asked = Arc::new(Mutex::new(Vec::new()));
            let hub = Self {
                address: address.clone(),
                asked: asked.clone(),
            };
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    serve(stream.unwrap(), &files, &address, &asked);
                }
            });
            hub
        }

        fn fetch(&self, arguments: &[&str], cache: &Path) -> Output {
            let arguments = [&["fetch"], arguments].concat();
            dtta(
                &arguments,
                Path::new("."),
                &[
                    ("HF_HUB_CACHE", cache),
                    ("HF_ENDPOINT", Path::new(&self.address)),
                ],
            )
        }

        fn asked(&self) -> Vec<String> {
            std::mem::take(&mut *self.asked.lock().unwrap())
        }
    }

    fn serve(
        stream: TcpStream,
        files: &BTreeMap<String, (Vec<u8>, String)>,
        address: &str,
        asked: &Mutex<Vec<String>>,
    ) {
        let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
        let first = lines.next().unwrap_or_default();
        let headers: Vec<String> = lines
            .take_while(|line| !line.is_empty())
            .map(|line| line.to_lowercase())
            .collect();
        let mut words = first.split(' ');
        let (method, path) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let start = headers.iter().find_map(|line| {
            line.strip_prefix("range: bytes=")?
                .strip_suffix('-')?
                .parse::<usize>()
                .ok()
        });
        asked
            .lock()
            .unwrap()
            .push(format!("{method} {path} {start:?}"));
        let listing = json!({"sha": COMMIT, "siblings": files.keys().map(|name| json!({"rfilename": name})).collect::<Vec<_>>()});
        let (mut status, mut more, mut body) = ("404 Not Found", String::new(), Vec::new());
        if path == "/api/models/owner/name/revision/main" {
            (status, body) = ("200 OK", listing.to_string().into_bytes());
        } else if let Some(name) = path.strip_prefix(&format!("/owner/name/resolve/{COMMIT}/"))
            && let Some((bytes, digest)) = files.get(name)
        {
            // Large files are elsewhere, as on the Hub.
            more = format!(
                "X-Linked-ETag: \"{digest}\"\r\nX-Linked-Size: {}\r\nLocation: {address}/elsewhere/{name}\r\n",
                bytes.len()
            );
            status = "302 Found";
        } else if let Some((bytes, _)) = path
            .strip_prefix("/elsewhere/")
            .and_then(|name| files.get(name))
        {
            assert!(
                headers
                    .iter()
                    .all(|line| !line.starts_with("authorization"))
            );
            body = bytes[start.unwrap_or(0)..].to_vec();
            status = if start.is_some() {
                "206 Partial Content"
            } else {
                "200 OK"
            };
        }
        let head = format!(
            "HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let body = if method == "HEAD" { &[][..] } else { &body };
        (&stream).write_all(&[head.as_bytes(), body].concat()).ok();
    }

    /// A model's files with their digests: git's own of the configuration (`git hash-object`), SHA-256 of the weights.
    fn files(fixture: &Fixture) -> BTreeMap<String, (Vec<u8>, String)> {
        let weights = fs::read(fixture.path().join("classifier.safetensors")).unwrap();
        let digest = sha256(&weights);
        let config = fs::read(fixture.path().join("classifier.json")).unwrap();
        let config_digest = sha256(&config);
        [
            ("vae/config.json", config, config_digest),
            ("vae/diffusion_pytorch_model.safetensors", weights, digest),
            // `printf hello | git hash-object --stdin`
            (
                "README.md",
                b"hello".to_vec(),
                "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0".to_owned(),
            ),
        ]
        .map(|(name, bytes, digest)| (name.to_owned(), (bytes, digest)))
        .into()
    }

    #[test]
    fn a_model_is_fetched_once_checked_and_laid_out_as_the_hub_does() {
        let fixture = Fixture::new();
        let files = files(&fixture);
        let hub = Hub::new(files.clone());
        let cache = fixture.path().join("hub");
        let output = hub.fetch(&["owner/name/vae"], &cache);
        done(&output);
        let repository = cache.join("models--owner--name");
        assert_eq!(
            fs::read_to_string(repository.join("refs/main")).unwrap(),
            COMMIT
        );
        let (weights, digest) = &files["vae/diffusion_pytorch_model.safetensors"];
        assert_eq!(
            fs::read(repository.join("blobs").join(digest)).unwrap(),
            *weights
        );
        let place = repository
            .join("snapshots")
            .join(COMMIT)
            .join("vae/diffusion_pytorch_model.safetensors");
        assert_eq!(fs::read(&place).unwrap(), *weights);
        assert!(cfg!(windows) || fs::symlink_metadata(&place).unwrap().is_symlink());
        let told = done(&dtta(
            &["inspect", "hf:owner/name/vae", "--json"],
            Path::new("."),
            &[("HF_HUB_CACHE", &cache)],
        ));
        assert_eq!(told["model"]["kind"], "resnet");
        hub.asked();
        done(&hub.fetch(&["owner/name/vae"], &cache));
        assert_eq!(
            hub.asked(),
            ["GET /api/models/owner/name/revision/main None"],
            "what is there is not fetched again"
        );
        done(&hub.fetch(&["owner/name", "--file", "README.md"], &cache));
        let words = refused(&hub.fetch(&["owner/name"], &cache));
        assert!(
            words.contains("`owner/name` is a pipeline; name one of its models: `owner/name/vae`"),
            "{words}"
        );
        let words = refused(&hub.fetch(&["owner/other"], &cache));
        assert!(words.contains("404"), "{words}");
    }

    /// Files of these names, each with its own name in it but for the models' own.
    fn pipeline(fixture: &Fixture) -> BTreeMap<String, (Vec<u8>, String)> {
        let own = |name: &str| fs::read(fixture.path().join(name)).unwrap();
        let model = [own("classifier.json"), own("classifier.safetensors")];
        let mut files = BTreeMap::new();
        let mut put = |name: String, bytes: Vec<u8>| {
            let digest = sha256(&bytes);
            files.insert(name, (bytes, digest));
        };
        for (folder, weights) in [
            ("unet", "diffusion_pytorch_model.safetensors"),
            ("vae", "diffusion_pytorch_model.safetensors"),
            ("text_encoder", "model.safetensors"),
        ] {
            put(format!("{folder}/config.json"), model[0].clone());
            put(format!("{folder}/{weights}"), model[1].clone());
        }
        for name in [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "tokenizer/merges.txt",
            "tokenizer/special_tokens_map.json",
            "tokenizer/tokenizer_config.json",
            "tokenizer/vocab.json",
            "tokenizer_2/vocab.json",
        ] {
            put(name.into(), name.as_bytes().to_vec());
        }
        files
    }

    #[test]
    fn a_part_of_a_pipeline_brings_what_it_is_loaded_with_and_says_so_first() {
        let fixture = Fixture::new();
        let files = pipeline(&fixture);
        let hub = Hub::new(files.clone());
        let tokenizer = [
            "tokenizer/merges.txt",
            "tokenizer/special_tokens_map.json",
            "tokenizer/tokenizer_config.json",
            "tokenizer/vocab.json",
        ];
        for (part, along) in [
            ("unet", &["scheduler/scheduler_config.json"][..]),
            ("vae", &[]),
            ("text_encoder", &tokenizer),
        ] {
            let cache = fixture.path().join("hubs").join(part);
            let model = format!("owner/name/{part}");
            let output = hub.fetch(&[&model], &cache);
            done(&output);
            let words = said(&output);
            for name in along {
                assert!(words.contains(&format!("`{name}`")), "{name}: {words}");
            }
            let snapshot = cache.join("models--owner--name/snapshots").join(COMMIT);
            for name in files.keys() {
                let own = name.starts_with(&format!("{part}/"));
                let expected = own || along.contains(&name.as_str());
                assert_eq!(snapshot.join(name).is_file(), expected, "{part}: {name}");
            }
            // Weights come last, so that what is told is told before them.
            let asked = hub.asked();
            let last = asked.last().unwrap();
            assert!(last.contains(".safetensors"), "{asked:?}");
            hub.fetch(&[&model], &cache);
            assert_eq!(hub.asked().len(), 1, "what is there is not fetched again");
        }
    }

    #[test]
    fn an_adapter_is_fetched_by_its_own_files() {
        let fixture = Fixture::new();
        let own = ["adapter_config.json", "adapter_model.safetensors"];
        let files = ["README.md"].into_iter().chain(own).map(|name| {
            let bytes = name.as_bytes().to_vec();
            let digest = sha256(&bytes);
            (name.to_owned(), (bytes, digest))
        });
        let hub = Hub::new(files.collect());
        let cache = fixture.path().join("hub");
        done(&hub.fetch(&["owner/name"], &cache));
        let snapshot = cache.join("models--owner--name/snapshots").join(COMMIT);
        let there = |name: &str| snapshot.join(name).is_file();
        assert!(own.into_iter().all(there) && !there("README.md"));
    }

    #[test]
    fn what_was_damaged_on_its_way_is_not_kept_and_what_broke_off_goes_on() {
        let fixture = Fixture::new();
        let cache = fixture.path().join("hub");
        let mut wrong = files(&fixture);
        let name = "vae/diffusion_pytorch_model.safetensors";
        wrong.get_mut(name).unwrap().0[100] ^= 1;
        let words = refused(&Hub::new(wrong).fetch(&["owner/name/vae"], &cache));
        assert!(
            words.contains("but the Hub says") && words.contains(name),
            "{words}"
        );
        let blobs = cache.join("models--owner--name/blobs");
        assert_eq!(
            fs::read_dir(&blobs).unwrap().count(),
            1,
            "the configuration alone"
        );
        let files = files(&fixture);
        let (weights, digest) = &files[name];
        fs::write(blobs.join(format!("{digest}.incomplete")), &weights[..1000]).unwrap();
        let hub = Hub::new(files.clone());
        done(&hub.fetch(&["owner/name/vae"], &cache));
        assert!(
            hub.asked()
                .contains(&format!("GET /elsewhere/{name} Some(1000)"))
        );
        assert_eq!(fs::read(blobs.join(digest)).unwrap(), *weights);
    }
}

/// Puts an adapter of peft into a cache of the Hub, as `owner/lora`.
fn adapter_in_cache(adapter: &Path, cache: &Path) {
    let repository = cache.join("models--owner--lora");
    let snapshot = repository.join("snapshots/0123456789");
    fs::create_dir_all(&snapshot).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(adapter.join(name), snapshot.join(name)).unwrap();
    }
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), "0123456789").unwrap();
}

#[test]
fn an_experiment_takes_an_adapter_from_the_cache_of_the_hub() {
    let fixture = Fixture::new();
    let home = fixture.path();
    let cache = home.join("hub");
    let run = |experiment: &Value, out: &str| {
        let path = fixture.write(experiment);
        Command::new(env!("CARGO_BIN_EXE_dtta"))
            .args(["run", path.to_str().unwrap(), "--device", "cpu", "--out"])
            .arg(home.join(out))
            .env("HF_HUB_CACHE", &cache)
            .output()
            .unwrap()
    };
    let mut experiment = Fixture::experiment();
    experiment["models"]["backbone"]["config"] = json!("masked.json");
    let lora = json!({"rank": 2, "alpha": 3, "targets": ["qkv"]});
    experiment["method"]["parameters"] = json!({"group": {"lora": lora}});
    experiment["adaptation"]["mode"] = json!({"kind": "online", "reset": "never"});
    experiment["output"] = json!({"adapters": true});
    let output = run(&experiment, "first");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));

    experiment["method"]["parameters"] = json!({});
    experiment["output"] = json!({});
    experiment["models"]["backbone"]["adapter"] = json!("hf:owner/lora");
    let words = refused(&run(&experiment, "refused"));
    assert!(words.contains("dtta models fetch owner/lora"), "{words}");
    adapter_in_cache(&home.join("first/adapter"), &cache);
    for (adapter, out) in [("hf:owner/lora", "hub"), ("first/adapter", "folder")] {
        experiment["models"]["backbone"]["adapter"] = json!(adapter);
        let output = run(&experiment, out);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    }
    let digest = |out: &str| {
        let text = fs::read_to_string(home.join(out).join("run.json")).unwrap();
        let run: Value = serde_json::from_str(&text).unwrap();
        run["identity"]["digests"]["backbone/adapter/1"].clone()
    };
    assert!(digest("hub").is_string());
    assert_eq!(digest("hub"), digest("folder"));
    let confidences = |out: &str| -> Vec<Option<f32>> {
        let records = fixture.records(out).into_iter();
        records.map(|record| record.source.confidence).collect()
    };
    assert_eq!(confidences("hub"), confidences("folder"));
    assert_ne!(confidences("hub"), confidences("first"));
}

#[test]
fn an_adapter_of_peft_is_merged_into_what_is_converted() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures");
    let (model, adapter) = (fixtures.join("backbones/vit"), fixtures.join("lora/timm"));
    let (model, adapter) = (model.to_str().unwrap(), adapter.to_str().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let convert = |out: &str, adapter: &str| {
        let arguments = ["convert", model, out, "--adapter", adapter];
        dtta(&arguments, folder.path(), &[])
    };
    done(&convert("merged.json", adapter));
    let read = |path: &Path| read_tensors(path, &Device::cpu()).unwrap();
    let found = read(&folder.path().join("merged.safetensors"));
    let before = read(&Path::new(model).join("model.safetensors"));
    let expected = read(&Path::new(adapter).join("expected.safetensors"));
    for (name, tensor) in found {
        let module = name.strip_suffix(".weight").unwrap_or(&name);
        let theirs = expected.get(&format!("merged.{module}"));
        let pairs = tensor.to_floats().unwrap().into_iter();
        let other = theirs.unwrap_or(&before[&name]).to_floats().unwrap();
        let largest = other.iter().fold(0f32, |most, x| most.max(x.abs()));
        let tolerance = if theirs.is_some() {
            1e-6 * largest
        } else {
            0.0
        };
        for (a, b) in pairs.zip(other) {
            assert!((a - b).abs() <= tolerance, "{name}: {a} {b}");
        }
    }
    // From the cache of the Hub, too.
    adapter_in_cache(Path::new(adapter), folder.path());
    let offline = [
        ("HF_HUB_CACHE", folder.path()),
        ("HF_HUB_OFFLINE", Path::new("1")),
    ];
    done(&dtta(&["fetch", "owner/lora"], folder.path(), &offline));
    let arguments = |adapter| ["convert", model, "hub.json", "--adapter", adapter];
    let words = refused(&dtta(&arguments("hf:owner/other"), folder.path(), &offline));
    assert!(words.contains("dtta models fetch owner/other"), "{words}");
    done(&dtta(&arguments("hf:owner/lora"), folder.path(), &offline));
    let bytes = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert_eq!(bytes("hub.safetensors"), bytes("merged.safetensors"));
    let other = fixtures.join("lora/clip");
    let words = refused(&convert("other.json", other.to_str().unwrap()));
    assert!(words.contains("/target_modules"), "{words}");
    assert!(!folder.path().join("other.safetensors").exists());
}

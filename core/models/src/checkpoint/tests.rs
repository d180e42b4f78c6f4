//! Checkpoints that PyTorch, safetensors and huggingface_hub wrote themselves (`tests/reference/checkpoints.py`), and what does not fit.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dtta_tensor::{Device, Tensor};
use serde_json::{Value, json};

use super::*;
use crate::error::Called;
use crate::published::{Names, Source as From};
use crate::weights::{Declaration, Group, Init, ParameterSpec, Weights};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/checkpoints")
        .join(name)
}

/// Shape and values of a tensor by name.
type Expected = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The float tensors that the reference says a state dict holds.
fn expected(name: &str) -> Expected {
    let told: Value = serde_json::from_slice(&fs::read(fixture("expected.json")).unwrap()).unwrap();
    let tensors = told[name].as_object().unwrap().iter().map(|(name, told)| {
        let shape = serde_json::from_value(told["shape"].clone()).unwrap();
        let values = serde_json::from_value(told["values"].clone()).unwrap();
        (name.clone(), (shape, values))
    });
    tensors.collect()
}

/// The float tensors that are read.
fn read(path: &Path) -> Expected {
    let checkpoint = Checkpoint::open(path).unwrap_or_else(|error| panic!("{error}"));
    let floats = checkpoint
        .tensors()
        .iter()
        .filter(|(_, stored)| stored.dtype.is_float());
    let tensors = floats.map(|(name, stored)| {
        let mut values = vec![f32::NAN; stored.shape.iter().product()];
        assert!(checkpoint.floats(name, &mut values).unwrap(), "{name}");
        (name.clone(), (stored.shape.clone(), values))
    });
    tensors.collect()
}

fn refusal(path: &Path) -> String {
    let error = Checkpoint::open(path)
        .err()
        .unwrap_or_else(|| panic!("{} was read", path.display()));
    let message = dtta_base::told(&error);
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(message.contains(name), "{message}");
    message
}

#[test]
fn every_format_gives_the_values_that_were_saved_views_and_halves_included() {
    let plain = expected("plain");
    assert!(plain.len() > 14);
    for name in [
        "plain.pt",
        "protocol3.pt",
        "protocol4.pt",
        "protocol5.pt",
        "unchecked.pt",
        "legacy.pt",
        "plain.safetensors",
        "sharded/model.safetensors.index.json",
        "sharded_bin/pytorch_model.bin.index.json",
    ] {
        let found = read(&fixture(name));
        assert_eq!(found, plain, "{name}");
    }
    assert_eq!(read(&fixture("module.bin")), expected("module"));
    let checkpoint = Checkpoint::open(&fixture("plain.pt")).unwrap();
    let counter = &checkpoint.tensors()["bn.num_batches_tracked"];
    assert_eq!(
        (counter.dtype.name(), counter.shape.len()),
        ("torch.int64", 0)
    );
}

#[test]
fn of_what_a_training_program_keeps_the_average_of_the_weights_is_read() {
    for name in ["training.pt", "training_legacy.pt"] {
        assert_eq!(read(&fixture(name)), expected("plain"), "{name}");
        assert_ne!(read(&fixture(name)), expected("other"), "{name}");
    }
}

#[test]
fn a_wrapper_before_every_name_is_no_part_of_the_names() {
    assert_eq!(read(&fixture("wrapped.pth")), expected("plain"));
    let stored = Checkpoint::open(&fixture("plain.pt")).unwrap().tensors()["plain"].clone();
    let named = |names: &[&str]| {
        let tensors = names.iter().map(|&name| (name.to_owned(), stored.clone()));
        without_wrappers(tensors.collect())
            .into_keys()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        named(&["module._orig_mod.a", "module._orig_mod.b"]),
        ["a", "b"]
    );
    assert_eq!(named(&["_orig_mod.module.a"]), ["a"]);
    // Where only some have it, it is a part.
    assert_eq!(named(&["module.a", "b"]), ["b", "module.a"]);
}

#[test]
fn what_holds_no_dictionary_of_tensors_is_refused_by_what_it_holds() {
    for (name, said) in [
        (
            "object.pt",
            "an object of `torch.nn.modules.container.Sequential`",
        ),
        ("object.pt", "`state_dict()`"),
        (
            "several.pt",
            "several dictionaries of tensors, `discriminator`, `generator`",
        ),
        (
            "tensor.pt",
            "it holds a tensor, not a dictionary of tensors",
        ),
        ("quantized.pt", "`torch.QInt8Storage`, which is not read"),
        ("program.pt", "a program in TorchScript"),
    ] {
        let message = refusal(&fixture(name));
        assert!(message.contains(said), "{name}: {message}");
    }
}

#[test]
fn a_pickle_that_would_run_something_runs_nothing_and_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("evil.pt");
    // {"weight": os.system("touch …")}, in an archive.
    let pickle = b"\x80\x02}X\x06\0\0\0weightcposix\nsystem\nX\x05\0\0\0touch\x85Rs.";
    fs::write(&path, archive(&[("evil/data.pkl", pickle)])).unwrap();
    let message = refusal(&path);
    assert!(
        message.contains("it holds no dictionary of tensors; what it holds is `weight`"),
        "{message}"
    );
    // Beside a tensor.
    let tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0\x30X\x03\0\0\0cpuK\x01tQK\0K\x01\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR";
    let both = [
        b"\x80\x02}(X\x01\0\0\0a".as_slice(),
        tensor,
        b"X\x06\0\0\0weightcposix\nsystem\nX\x05\0\0\0touch\x85Ru.",
    ];
    let file = archive(&[("evil/data.pkl", &both.concat()), ("evil/data/0", &[0; 4])]);
    fs::write(&path, file).unwrap();
    let message = refusal(&path);
    assert!(
        message.contains("`weight` is an object of `posix.system`, not a tensor"),
        "{message}"
    );
    let unknown = b"\x80\x02}(X\x01\0\0\0a\x82\x01u.";
    fs::write(&path, archive(&[("evil/data.pkl", unknown)])).unwrap();
    assert!(refusal(&path).contains("the opcode 0x82"));
}

/// A zip archive of entries that are stored as they are.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let sizes = [crc32fast::hash(data), data.len() as u32, data.len() as u32]
            .map(u32::to_le_bytes)
            .concat();
        let lengths = [&(name.len() as u16).to_le_bytes()[..], &[0, 0]].concat();
        let place = (file.len() as u32).to_le_bytes();
        let fields = [&[0u8; 10][..], &sizes, &lengths].concat();
        file.extend([b"PK\x03\x04".as_slice(), &fields, name.as_bytes(), data].concat());
        directory.extend(
            [
                b"PK\x01\x02\0\0".as_slice(),
                &fields,
                &[0; 10],
                &place,
                name.as_bytes(),
            ]
            .concat(),
        );
    }
    let (start, size, count) = (
        file.len() as u32,
        directory.len() as u32,
        entries.len() as u16,
    );
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([count, count].map(u16::to_le_bytes).concat());
    file.extend([size, start].map(u32::to_le_bytes).concat());
    file.extend([0, 0]);
    file
}

#[test]
fn a_damaged_or_shortened_archive_is_refused_wherever_the_damage_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pt");
    let whole = fs::read(fixture("plain.pt")).unwrap();
    for length in [4, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(refusal(&path).contains("PyTorch"));
    }
    // A bit of a tensor's own numbers, which the checksum tells.
    let plain = expected("plain")["plain"].1.clone();
    let bytes: Vec<u8> = plain.iter().flat_map(|value| value.to_le_bytes()).collect();
    let place = whole
        .windows(bytes.len())
        .position(|window| window == bytes)
        .unwrap();
    let mut damaged = whole.clone();
    damaged[place + 1] ^= 1;
    fs::write(&path, damaged).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let mut values = vec![0.0; plain.len()];
    let message = dtta_base::told(&checkpoint.floats("plain", &mut values).unwrap_err());
    assert!(
        message.contains("weights.pt") && message.contains("the file is damaged"),
        "{message}"
    );
    let legacy = fs::read(fixture("legacy.pt")).unwrap();
    for length in [20, 100, legacy.len() / 2, legacy.len() - 1] {
        fs::write(&path, &legacy[..length]).unwrap();
        refusal(&path);
    }
    fs::write(&path, [&legacy[..], &[0]].concat()).unwrap();
    assert!(refusal(&path).contains("its storages end at"));
}

/// The fixture of several files, copied, with a change to its index.
fn changed_index(change: impl FnOnce(&mut Value, &Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("sharded")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let index = folder.path().join("model.safetensors.index.json");
    let mut document: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    change(&mut document, folder.path());
    fs::write(&index, document.to_string()).unwrap();
    refusal(&index)
}

#[test]
fn an_index_names_its_files_whatever_it_is_called() {
    let folder = fixture("sharded");
    let index = folder.join("model.safetensors.index.json");
    let copy = tempfile::tempdir().unwrap();
    let config = copy.path().join("model.json");
    fs::write(&config, "{}").unwrap();
    for name in ["weights.idx", "model.safetensors", "weights"] {
        let renamed = copy.path().join(name);
        fs::copy(&index, &renamed).unwrap();
        let files = ModelFiles::find(&config, Some(&renamed)).unwrap();
        // A digest that leaves them out is one of no weights at all.
        assert_eq!(files.shards.len(), 3, "{name}");
    }
    let single = folder.join("model-00001-of-00003.safetensors");
    let files = ModelFiles::find(&config, Some(&single)).unwrap();
    assert!(files.shards.is_empty(), "{:?}", files.shards);
}

#[test]
fn an_index_is_held_to_what_its_files_hold() {
    let [first, second, third] = [1, 2, 3].map(|n| format!("model-{n:05}-of-00003.safetensors"));
    let said = changed_index(|_, folder| fs::remove_file(folder.join(&second)).unwrap());
    assert!(
        said.contains(&format!("missing files `{second}`")),
        "{said}"
    );
    let said = changed_index(|index, _| index["weight_map"]["plain"] = json!(third));
    assert!(
        said.contains(&format!(
            "elsewhere: `plain` is in `{first}` and not in `{third}`"
        )),
        "{said}"
    );
    let said = changed_index(|index, _| index["weight_map"]["new"] = json!(third));
    assert!(
        said.contains(&format!("`new` is not in `{third}`")),
        "{said}"
    );
    let said = changed_index(|index, _| {
        drop(index["weight_map"].as_object_mut().unwrap().remove("plain"))
    });
    assert!(said.contains("not in the index: `plain`"), "{said}");
    let said = changed_index(|_, folder| {
        fs::copy(folder.join(&first), folder.join(&third)).unwrap();
    });
    assert!(
        said.contains(&format!("twice: `block` in `{first}` and `{third}`")),
        "{said}"
    );
    for wrong in [
        "../outside.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        ".",
        "",
    ] {
        let said = changed_index(|index, _| index["weight_map"]["plain"] = json!(wrong));
        assert!(
            said.contains(&format!(
                "`plain` is in \"{wrong}\", which is no file beside the index"
            )),
            "{said}"
        );
    }
}

fn specs(parameters: &[(&str, &[usize], Init)]) -> Arc<[ParameterSpec]> {
    let mut declaration = Declaration::new();
    for (name, shape, init) in parameters {
        declaration.declare(name, shape, Group::Weight, init.clone());
    }
    declaration.finish()
}

/// A file with these tensors, each of as many numbers as it has elements, from the given one on.
fn saved(folder: &Path, tensors: &[(&str, &[usize], f32)]) -> PathBuf {
    let path = folder.join("theirs.safetensors");
    let made = tensors.iter().map(|(name, shape, first)| {
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|n: usize| first + n as f32)
            .collect();
        (
            (*name).to_owned(),
            Tensor::from_floats(&values, shape, &Device::cpu()).unwrap(),
        )
    });
    crate::write_tensors(&path, &made.collect()).unwrap();
    path
}

/// The names of an attention layer whose library keeps queries, keys and values apart, and no positions.
fn apart() -> Names {
    Names {
        source: Box::new(|name| match name {
            "qkv" => From::Stacked(["q", "k", "v"].map(str::to_owned).into()),
            "positions" => From::Computed,
            "twin" => From::Named("their.out".into()),
            name => From::Named(format!("their.{name}")),
        }),
        unused: Box::new(|name| name.ends_with(".counter")),
    }
}

#[test]
fn parameters_are_made_of_the_tensors_that_their_library_keeps() {
    let folder = tempfile::tempdir().unwrap();
    let path = saved(
        folder.path(),
        &[
            ("q", &[1, 2], 1.0),
            ("k", &[2, 2], 3.0),
            ("v", &[1, 2], 7.0),
            ("their.out", &[2], 9.0),
            ("their.counter", &[1], 0.0),
        ],
    );
    let fixed = Init::Fixed(Arc::from([0.5, 0.25]));
    let specs = specs(&[
        ("qkv", &[4, 2], Init::Normal(1.0)),
        ("positions", &[2], fixed),
        ("out", &[2], Init::Zeros),
    ]);
    let weights = Weights::load_named(&path, &specs, &apart(), &Device::cpu()).unwrap();
    let values = |name: &str| {
        weights
            .get(weights.find(name).unwrap())
            .to_floats()
            .unwrap()
    };
    assert_eq!(values("qkv"), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    assert_eq!(values("positions"), [0.5, 0.25]);
    assert_eq!(values("out"), [9.0, 10.0]);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let names = apart();
    let fit = Wanted::new(&specs, &names, &checkpoint).fit(&checkpoint);
    assert_eq!(
        (fit.unused, fit.mismatches.is_empty()),
        (vec!["their.counter".to_owned()], true)
    );
}

#[test]
fn what_does_not_fit_is_told_by_the_names_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let zeros = Init::Zeros;
    let told = |tensors: &[(&str, &[usize], f32)], parameters: &[(&str, &[usize], Init)]| {
        let path = saved(folder.path(), tensors);
        match Weights::load_named(&path, &specs(parameters), &apart(), &Device::cpu()) {
            Err(ModelError::Mismatch { mismatches, .. }) => *mismatches,
            other => panic!("{other:?}"),
        }
    };
    // One of three parts alone.
    let found = told(&[("k", &[1, 2], 0.0)], &[("qkv", &[3, 2], zeros.clone())]);
    let missing = ["q", "v"].map(|tensor| Called {
        tensor: tensor.into(),
        parameter: Some("qkv".into()),
    });
    assert_eq!(found.missing, missing);
    assert_eq!(
        found.to_string(),
        "missing `q` (for `qkv`), `v` (for `qkv`)"
    );
    // Parts that are too few rows together, and one of another width.
    let parts: [(&str, &[usize], f32); 3] = [
        ("q", &[1, 2], 0.0),
        ("k", &[1, 2], 0.0),
        ("v", &[1, 2], 0.0),
    ];
    let found = told(&parts, &[("qkv", &[6, 2], zeros.clone())]);
    assert_eq!(
        found.to_string(),
        "misshapen `q` + `k` + `v` (for `qkv`) is [3, 2], expected [6, 2]"
    );
    let parts: [(&str, &[usize], f32); 3] =
        [("q", &[1, 2], 0.0), ("k", &[1, 3], 0.0), ("v", &[1], 0.0)];
    let found = told(&parts, &[("qkv", &[3, 2], zeros.clone())]);
    assert_eq!(
        found.to_string(),
        "misshapen `k` (for `qkv`) is [1, 3], expected [3, 2], `v` (for `qkv`) is [1], expected [3, 2]"
    );
    // One tensor for two parameters, which would be adapted apart.
    let found = told(
        &[("their.out", &[1], 0.0)],
        &[("out", &[1], zeros.clone()), ("twin", &[1], zeros.clone())],
    );
    assert_eq!(
        found.to_string(),
        "meant for several parameters `their.out` for `out`, `twin`"
    );
    // What is drawn at random is not what a library computes.
    let found = told(&[], &[("positions", &[1], Init::Normal(1.0))]);
    assert_eq!(found.to_string(), "missing `positions`");
    // What is left over, by its own name.
    let found = told(
        &[("their.out", &[2], 0.0), ("their.more", &[1], 0.0)],
        &[("out", &[1], zeros)],
    );
    assert_eq!(
        found.to_string(),
        "not declared `their.more`; misshapen `their.out` (for `out`) is [2], expected [1]"
    );
}

#[test]
fn a_folder_is_known_by_the_names_that_its_library_gives_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let make = |name: &str| fs::write(path.join(name), "{}").unwrap();
    let find =
        |weights: Option<&Path>| ModelFiles::find(path, weights).map_err(|error| error.to_string());
    let error = find(None).unwrap_err();
    assert!(error.contains("has no `config.json`"), "{error}");
    make("config.json");
    make("diffusion_pytorch_model.fp16.safetensors");
    let error = find(None).unwrap_err();
    assert!(
        error.contains("looked for `diffusion_pytorch_model.safetensors`")
            && error.contains("there is `diffusion_pytorch_model.fp16.safetensors`, which is used where it is given"),
        "{error}"
    );
    let variant = path.join("diffusion_pytorch_model.fp16.safetensors");
    assert_eq!(find(Some(&variant)).unwrap().weights, variant);
    for name in [
        "pytorch_model.bin",
        "diffusion_pytorch_model.bin",
        "model.safetensors",
        "diffusion_pytorch_model.safetensors",
    ] {
        make(name);
        let found = find(None).unwrap();
        assert_eq!(
            (found.config, found.weights),
            (path.join("config.json"), path.join(name))
        );
        // The same for the configuration itself, and for the folder as that of the weights.
        let config = path.join("config.json");
        assert_eq!(
            ModelFiles::find(&config, None).unwrap().weights,
            path.join(name)
        );
        assert_eq!(
            ModelFiles::find(&config, Some(path)).unwrap().weights,
            path.join(name)
        );
    }
    // A file of this crate has its own weights beside it.
    make("denoiser.json");
    assert_eq!(
        ModelFiles::find(&path.join("denoiser.json"), None)
            .unwrap()
            .weights,
        path.join("denoiser.safetensors")
    );
    let sharded = ModelFiles::find(&path.join("config.json"), Some(&fixture("sharded"))).unwrap();
    assert_eq!(sharded.shards.len(), 3);
    assert_eq!(sharded.all().count(), 5);
}

#[test]
fn a_pipeline_is_told_apart_from_its_models() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let index = json!({"_class_name": "DiTPipeline", "transformer": ["diffusers", "DiTTransformer2DModel"], "vae": ["diffusers", "AutoencoderKL"], "scheduler": ["diffusers", "DDIMScheduler"]});
    fs::write(path.join("model_index.json"), index.to_string()).unwrap();
    for part in ["transformer", "vae"] {
        fs::create_dir(path.join(part)).unwrap();
        fs::write(path.join(part).join("config.json"), "{}").unwrap();
    }
    for place in [path.to_owned(), path.join("model_index.json")] {
        let error = ModelFiles::find(&place, None).unwrap_err().to_string();
        assert!(
            error.contains("a pipeline of diffusers") && error.contains("`transformer`, `vae`"),
            "{error}"
        );
        assert!(!error.contains("scheduler"), "{error}");
    }
}

#[path = "../../../engine/tests/common/damage.rs"]
#[allow(dead_code, reason = "documents are damaged elsewhere")]
mod damage;

mod fuzz {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::damage::{damage, damaged};
    use super::*;

    proptest! {
        #[test]
        fn damaged_checkpoints_get_an_answer(
            damages in damage(),
            name in prop::sample::select(vec!["unchecked.pt", "plain.pt", "legacy.pt", "training.pt", "protocol5.pt", "plain.safetensors"]),
        ) {
            let clock = Instant::now();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("damaged");
            fs::write(&path, damaged(&fs::read(fixture(name)).unwrap(), &damages, usize::MAX)).unwrap();
            if let Ok(checkpoint) = Checkpoint::open(&path) {
                for (name, stored) in checkpoint.tensors() {
                    let elements = stored.shape.iter().try_fold(1usize, |n, extent| n.checked_mul(*extent));
                    let small = stored.dtype.is_float().then_some(elements).flatten().filter(|&elements| elements < 1 << 20);
                    let _ = small.map(|elements| checkpoint.floats(name, &mut vec![0.0; elements]));
                }
            }
            prop_assert!(clock.elapsed() < Duration::from_secs(20));
        }

        #[test]
        fn damaged_pickles_get_an_answer(damages in damage(), name in prop::sample::select(vec!["training.pt", "protocol5.pt"])) {
            let source = Source::open(&fixture(name)).unwrap();
            let entries = zip::entries(&source).unwrap();
            let (_, entry) = entries.iter().find(|(name, _)| name.ends_with("data.pkl")).unwrap();
            let mut bytes = vec![0; entry.length as usize];
            source.bytes(entry.start(&source).unwrap(), &mut bytes).unwrap();
            let bytes = damaged(&bytes, &damages, usize::MAX);
            let _ = pickle::read(&mut bytes.as_slice());
        }

        #[test]
        fn damaged_indexes_get_an_answer(damages in damage()) {
            let folder = tempfile::tempdir().unwrap();
            for entry in fs::read_dir(fixture("sharded")).unwrap() {
                let path = entry.unwrap().path();
                fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
            }
            let index = folder.path().join("model.safetensors.index.json");
            fs::write(&index, damaged(&fs::read(&index).unwrap(), &damages, usize::MAX)).unwrap();
            let _ = Checkpoint::open(&index);
        }
    }

    /// A pickle of few bytes that repeats what it has: it must take neither memory nor time beyond what its length explains.
    #[test]
    fn pickles_that_repeat_themselves_stay_small() {
        let wide = [
            b"\x80\x02".as_slice(),
            &b"(".repeat(1 << 20),
            &b"N".repeat(1 << 20),
            b"t.",
        ]
        .concat();
        let nested = [b"\x80\x02N".as_slice(), &b"\x85".repeat(1 << 20), b"."].concat();
        let doubled = [
            b"\x80\x02Nq\0".as_slice(),
            &b"h\0h\0\x86q\0".repeat(1 << 19),
            b".",
        ]
        .concat();
        let recalled = [b"\x80\x02]q\0(".as_slice(), &b"h\0".repeat(1 << 21), b"e."].concat();
        let named = [
            b"\x80\x02".as_slice(),
            b"X\0\0\x10\0",
            &b"x".repeat(1 << 20),
            b"q\0",
            &b"h\0h\0\x93".repeat(1 << 16),
            b".",
        ]
        .concat();
        let kept = b"\x80\x02Nr\xff\xff\xff\xff.".to_vec();
        let endless = b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\x7f".to_vec();
        let clock = Instant::now();
        for pickle in [wide, nested, doubled, recalled, named, kept, endless] {
            let _ = pickle::read(&mut pickle.as_slice());
        }
        // A dictionary of dictionaries that are all the same one, under a long name.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("repeated.pt");
        let name = [&b"X\0\x04\0\0"[..], &b"k".repeat(1024), b"q\0"].concat();
        let inner = [&b"}q\x01("[..], &b"h\0h\0".repeat(1 << 18), b"u"].concat();
        let outer = [&b"}("[..], &b"h\0h\x01".repeat(1 << 18), b"u."].concat();
        let pickle = [&b"\x80\x02"[..], &name, b"0", &inner, b"0", &outer].concat();
        fs::write(&path, archive(&[("a/data.pkl", &pickle)])).unwrap();
        let message = refusal(&path);
        assert!(message.len() < 10_000, "{}", message.len());
        assert!(
            message.contains("it holds no dictionary of tensors"),
            "{message}"
        );
        assert!(
            clock.elapsed() < Duration::from_secs(10),
            "{:?}",
            clock.elapsed()
        );
    }
}

#![allow(dead_code, reason = "each test binary uses a part of this module")]

//! Tiny experiments on disk: random models, a packed data set, the linked plugins.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use dtta::{
    Document, Existing, Extensions, Finished, Keep, Prepared, Record, RunOptions, Shard, Sink,
    Summary,
};
use dtta_data::{
    CLASS, Dataset, Image, LabelMap, NumberMap, Provenance, Sample, Target, Targets, pack,
};
use dtta_models::{Models, Precision, Weights};
use dtta_plugin::Registry;
use dtta_tensor::Device;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with an experiment, removed when dropped.
pub struct Fixture {
    folder: TempDir,
}

impl Fixture {
    /// 20 samples of 8×8 in 4 classes, a DiT, a ResNet with GroupNorm and a masked autoencoder, all random.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dit = json!({"kind": "dit", "image": [1, 8, 8], "patch_size": 2, "hidden_size": 16, "depth": 2,
                         "num_heads": 2, "num_classes": 4});
        let resnet = json!({"kind": "resnet", "image": [1, 8, 8], "classes": 4, "block": "basic", "blocks": [1, 1],
                            "widths": [8, 16], "stem": "small", "norm": {"kind": "group", "groups": 4}});
        let masked = json!({"kind": "vit", "image": [1, 8, 8], "classes": 4, "patch_size": 2, "width": 8, "depth": 1, "heads": 2,
                            "fixed_positions": true,
                            "decoder": {"width": 8, "depth": 1, "heads": 2, "norm_pix_loss": true}});
        for (name, config, seed) in [
            ("denoiser", dit, 1),
            ("classifier", resnet, 2),
            ("masked", masked, 3),
        ] {
            let path = folder.path().join(name).with_extension("json");
            fs::write(&path, config.to_string()).unwrap();
            save(&path, seed);
        }
        let samples = (0..20u32).map(|index| {
            let image = Image::from_fn([1, 8, 8], |_, row, column| {
                0.5 + 0.5 * ((index as f32 * 0.37 + row as f32 * 0.9 + column as f32 * 1.7).sin())
            });
            Sample {
                id: format!("test/{index:05}"),
                image: image.unwrap(),
                targets: Targets::new().with(CLASS, Target::Class(index % 4)),
            }
        });
        let classes = &["a", "b", "c", "d"];
        write_samples(classes, samples.collect(), folder.path());
        Self { folder }
    }

    /// 12 samples of 16×12 with masks of 3 classes and depth maps, two residual U-Nets and two U-Nets of half that size, all random.
    pub fn dense() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let predictor = |outputs: usize| {
            json!({"kind": "encoder_decoder", "image": [3, 12, 16], "outputs": outputs, "widths": [4, 8], "blocks": [1, 1],
                   "norm": {"kind": "group", "groups": 2}})
        };
        let denoiser = |spatial: Value| {
            json!({"kind": "unet", "image": [3, 6, 8], "block_out_channels": [8, 8], "down_block_types": ["DownBlock2D", "DownBlock2D"],
                   "layers_per_block": 1, "attention_head_dim": 4, "norm_num_groups": 2, "spatial": spatial})
        };
        let models = [
            ("segmenter", predictor(3), 1),
            ("depth", predictor(1), 2),
            (
                "mask-denoiser",
                denoiser(json!({"channels": 2, "classes": 3})),
                3,
            ),
            ("depth-denoiser", denoiser(json!({"channels": 1})), 4),
        ];
        for (name, config, seed) in models {
            let path = folder.path().join(name).with_extension("json");
            fs::write(&path, config.to_string()).unwrap();
            save(&path, seed);
        }
        let samples = (0..12u32).map(|index| {
            let wave = |row: usize, column: usize, channel: usize| {
                0.5 + 0.5
                    * ((index as f32 * 0.37
                        + row as f32 * 0.4
                        + column as f32 * 0.7
                        + channel as f32)
                        .sin())
            };
            let places = || (0..12 * 16).map(|n| (n / 16, n % 16));
            let labels = places().map(|(row, column)| match wave(row, column, 0) {
                // A corner without labels, another without distances.
                _ if row + column < 3 => 255,
                wave => (wave * 2.99) as u8,
            });
            let distances = places().map(|(row, column)| match row + column {
                ..3 => 0.0,
                _ => 1.0 + (20.0 * wave(row, column, 1)).round(),
            });
            Sample {
                id: format!("test/{index:05}"),
                image: Image::from_fn([3, 12, 16], |channel, row, column| {
                    wave(row, column, channel)
                })
                .unwrap(),
                targets: Targets::new()
                    .with("labels", LabelMap::new(12, 16, labels.collect()).unwrap())
                    .with(
                        "depth",
                        NumberMap::new(1, 12, 16, distances.collect()).unwrap(),
                    ),
            }
        });
        write_samples(&["a", "b", "c"], samples.collect(), folder.path());
        Self { folder }
    }

    /// An experiment on [`dense`](Self::dense): `segmentation` or `depth`.
    pub fn dense_experiment(task: &str) -> Value {
        let mut experiment = Self::experiment();
        let normalise = json!({"kind": "normalise", "mean": [0.5], "std": [0.5]});
        let (predictor, denoiser, config, metric) = match task {
            "segmentation" => (
                "segmenter",
                "mask-denoiser",
                json!({}),
                json!({"classes": 3}),
            ),
            _ => {
                let range = json!({"range": {"scale": "log", "maximum": 40}});
                ("depth", "depth-denoiser", range.clone(), range)
            }
        };
        let plugin = format!("linked:{task}");
        experiment["data"]["stream"]["samples"] = json!(6);
        experiment["models"] = json!({
            "backbone": {"config": format!("{predictor}.json"), "preprocess": [normalise]},
            "denoiser": {
                "config": format!("{denoiser}.json"), "preprocess": [{"kind": "resize", "height": 6, "width": 8}, normalise]
            },
        });
        experiment["plugins"] = json!({
            "head": {"use": plugin, "config": config}, "mapper": {"use": plugin, "config": config},
            "metric": {"use": plugin, "config": metric},
        });
        experiment
    }

    /// Gives every sample of [`new`](Self::new) another class.
    pub fn relabel(&self, change: impl Fn(u32) -> u32) {
        let config = json!({"kind": "packed", "path": "sample.safetensors"});
        let config = serde_json::from_value(config).unwrap();
        let dataset = Dataset::open(&config, self.path()).unwrap();
        let samples = (0..dataset.len()).map(|index| {
            let sample = dataset.sample(index).unwrap();
            let class = Target::Class(change(sample.class().unwrap()));
            Sample {
                targets: Targets::new().with(CLASS, class),
                ..sample
            }
        });
        write_samples(&["a", "b", "c", "d"], samples.collect(), self.path());
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn experiment() -> Value {
        let normalise = json!([{"kind": "normalise", "mean": [0.5], "std": [0.5]}]);
        json!({
            "name": "tiny",
            "seed": 3,
            "data": {
                "dataset": {"kind": "packed", "path": "sample.safetensors"},
                "stream": {"samples": 8, "domains": [
                    {"kind": "clean"},
                    {"kind": "corrupted", "corruption": "gaussian_noise", "severity": 3},
                ]},
            },
            "models": {
                "backbone": {"config": "classifier.json", "preprocess": normalise},
                "denoiser": {"config": "denoiser.json", "preprocess": normalise},
            },
            "plugins": {"head": {"use": "linked:classification"}, "mapper": {"use": "linked:classification"}},
            "method": {
                "kind": "diffusion", "steps": 2, "draws": 6, "micro_batch": 10,
                "timesteps": {"sampler": "stratified", "range": [100, 700]},
                "optimizer": {"kind": "adam", "learning_rate": 1e-2},
            },
            "adaptation": {"mode": {"kind": "online"}, "batch": 4},
        })
    }

    pub fn write(&self, experiment: &Value) -> PathBuf {
        let path = self.path().join("experiment.json");
        fs::write(&path, experiment.to_string()).unwrap();
        path
    }

    pub fn prepare(&self, experiment: &Value) -> dtta::Result<Prepared> {
        self.prepare_keeping(experiment, None)
    }

    /// The same, with what encoders make kept.
    pub fn prepare_keeping(
        &self,
        experiment: &Value,
        keep: Option<&Keep>,
    ) -> dtta::Result<Prepared> {
        let extensions = extensions();
        let document = Document::load(&self.write(experiment), &[], &extensions.methods)?;
        Prepared::keeping(document, &extensions, Device::cpu(), keep)
    }

    /// Runs into a folder of that name.
    pub fn run(&self, experiment: &Value, out: &str) -> dtta::Result<Summary> {
        self.run_until(experiment, out, false, usize::MAX)
    }

    /// As [`run`](Self::run), stopped once `samples` are done.
    pub fn run_until(
        &self,
        experiment: &Value,
        out: &str,
        resume: bool,
        samples: usize,
    ) -> dtta::Result<Summary> {
        let existing = match resume {
            true => Existing::Resume,
            false => Existing::Keep,
        };
        self.run_as(experiment, out, existing, Shard::whole(), samples)
    }

    /// As [`run`](Self::run), a shard.
    pub fn run_shard(&self, experiment: &Value, out: &str, shard: &str) -> dtta::Result<Summary> {
        let shard = shard.parse().unwrap();
        self.run_as(experiment, out, Existing::Keep, shard, usize::MAX)
    }

    /// Runs as asked, stopped once `samples` are done.
    pub fn run_as(
        &self,
        experiment: &Value,
        out: &str,
        existing: Existing,
        shard: Shard,
        samples: usize,
    ) -> dtta::Result<Summary> {
        let stop = AtomicBool::new(false);
        let options = RunOptions {
            existing,
            shard,
            ..RunOptions::new(self.path().join(out), &stop)
        };
        let sink = StopAfter {
            samples,
            stop: &stop,
        };
        self.prepare(experiment)?
            .run(&options, vec![Box::new(sink)])
    }

    /// The records of a run, without their wall times.
    pub fn records(&self, out: &str) -> Vec<Record> {
        let text = fs::read_to_string(self.path().join(out).join("records.jsonl")).unwrap();
        let records = text
            .lines()
            .map(|line| serde_json::from_str::<Record>(line).unwrap());
        records
            .map(|record| Record {
                milliseconds: 0.0,
                ..record
            })
            .collect()
    }
}

/// Stops a run after some samples.
struct StopAfter<'a> {
    samples: usize,
    stop: &'a AtomicBool,
}

impl Sink for StopAfter<'_> {
    fn sample(&mut self, finished: &Finished<'_>) -> dtta::Result<()> {
        if finished.done >= self.samples {
            self.stop.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The linked plugins with everything that comes with dtta.
pub fn extensions() -> Extensions {
    Extensions {
        plugins: registry(),
        ..Extensions::default()
    }
}

pub fn registry() -> Registry {
    let mut registry = Registry::from_environment();
    registry.register_linked("accuracy", dtta_plugin_accuracy::plugin_entry);
    registry.register_linked("classification", dtta_plugin_classification::plugin_entry);
    registry.register_linked("depth", dtta_plugin_depth::plugin_entry);
    registry.register_linked("entropy", dtta_plugin_entropy::plugin_entry);
    registry.register_linked("linear", dtta_plugin_linear::plugin_entry);
    registry.register_linked("palette-mix", dtta_plugin_palette_mix::plugin_entry);
    registry.register_linked("segmentation", dtta_plugin_segmentation::plugin_entry);
    registry.register_linked("text-mix", dtta_plugin_text_mix::plugin_entry);
    registry.register_linked("zero-shot", dtta_plugin_zero_shot::plugin_entry);
    registry
}

pub fn write_samples(classes: &[&str], samples: Vec<Sample>, folder: &Path) {
    let indices: Vec<usize> = (0..samples.len()).collect();
    let classes = classes.iter().map(|&name| name.to_owned()).collect();
    let dataset = Dataset::from_samples("tiny", classes, samples).unwrap();
    let provenance = Provenance {
        source: "made up".into(),
        licence: "CC0-1.0".into(),
    };
    let path = folder.join("sample.safetensors");
    pack(&dataset, &indices, &provenance, &path).unwrap();
}

/// Random weights beside a model's configuration. Zero-initialised layers are filled too: a DiT at rest gives no feedback.
pub fn save(config: &Path, seed: u64) {
    let device = Device::cpu();
    let models = Models::standard();
    let specs = match models.denoiser(config) {
        Ok(denoiser) => denoiser.parameters().clone(),
        Err(_) => models.backbone(config).unwrap().parameters().clone(),
    };
    let mut weights = Weights::initialise(&specs, seed, &device).unwrap();
    for id in weights.ids().collect::<Vec<_>>() {
        let spec = weights.spec(id).clone();
        let values = weights.get(id).to_floats().unwrap();
        if values.iter().all(|&value| value == 0.0) {
            let mut noise = vec![0.0; values.len()];
            let draws = dtta::Draws {
                seed,
                count: 1,
                sampler: dtta::TimestepSampler::Uniform,
                range: dtta_models::TimeRange {
                    low: 0.0,
                    high: 1.0,
                    whole: true,
                },
                noise: dtta::NoiseSharing::Fresh,
            };
            draws.noise(&spec.name, 0, 0, &mut noise);
            noise.iter_mut().for_each(|value| *value *= 0.2);
            weights
                .set(
                    id,
                    dtta_tensor::Tensor::from_floats(&noise, &spec.shape, &device).unwrap(),
                )
                .unwrap();
        }
    }
    weights
        .save(
            &config.with_extension("safetensors"),
            Precision::F32,
            &BTreeMap::new(),
        )
        .unwrap();
}

/// Settings under which the tiny experiment's random classifier is learned from.
pub fn methods() -> Vec<Value> {
    let sgd = json!({"kind": "sgd", "learning_rate": 0.05, "momentum": 0.9});
    vec![
        json!({"kind": "source"}),
        json!({"kind": "entropy", "optimizer": sgd, "steps": 2}),
        json!({"kind": "eata", "optimizer": sgd, "margin": 1, "redundant": 1, "fisher": {"weight": 1, "samples": 6}}),
        json!({"kind": "sar", "optimizer": sgd, "margin": 1, "steps": 2}),
        json!({"kind": "cotta", "views": 2, "restore": 0.3, "momentum": 0.5}),
        json!({"kind": "memo", "views": 2, "optimizer": sgd}),
        json!({"kind": "roid", "optimizer": sgd}),
        json!({"kind": "deyo", "optimizer": sgd, "margin": 1, "falls": -1, "patches": 2}),
        json!({"kind": "rotta", "memory": 6, "every": 3, "rate": 0.5}),
        json!({"kind": "ttt_mae", "steps": 2, "masks": 3, "micro_batch": 2, "optimizer": sgd}),
    ]
}

/// The tiny experiment by a method, without a denoiser, never reset.
pub fn experiment(method: &Value) -> Value {
    let mut experiment = Fixture::experiment();
    experiment["method"] = method.clone();
    if method["kind"] == "ttt_mae" {
        experiment["models"]["backbone"]["config"] = json!("masked.json");
    }
    experiment["adaptation"]["mode"] = json!({"kind": "online", "reset": "never"});
    without_denoiser(&mut experiment);
    experiment
}

/// Takes out of an experiment what methods without a denoiser do not need.
pub fn without_denoiser(experiment: &mut Value) {
    for (part, role) in [("models", "denoiser"), ("plugins", "mapper")] {
        experiment[part].as_object_mut().unwrap().remove(role);
    }
}

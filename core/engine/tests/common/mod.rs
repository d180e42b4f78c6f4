#![allow(dead_code, reason = "each test binary uses a part of this module")]

//! A tiny experiment on disk: random models, a packed data set, the linked plugins.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use dtta::{Document, Observer, Prepared, Progress, Record, RunOptions, Summary};
use dtta_data::{Dataset, Image, Provenance, Sample, pack};
use dtta_models::{ModelConfig, Precision, Weights};
use dtta_plugin::Registry;
use dtta_tensor::Device;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with an experiment, removed when dropped.
pub struct Fixture {
    folder: TempDir,
}

impl Fixture {
    /// 20 samples of 8×8 in 4 classes, a DiT and a ResNet with GroupNorm, both random.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dit = json!({"kind": "dit", "image": [1, 8, 8], "patch_size": 2, "hidden_size": 16, "depth": 2,
                         "num_heads": 2, "num_classes": 4});
        let resnet = json!({"kind": "resnet", "image": [1, 8, 8], "classes": 4, "block": "basic", "blocks": [1, 1],
                            "widths": [8, 16], "stem": "small", "norm": {"kind": "group", "groups": 4}});
        for (name, config, seed) in [("denoiser", dit, 1), ("classifier", resnet, 2)] {
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
                label: Some(index % 4),
                maps: dtta_data::Maps::default(),
            }
        });
        let classes = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        let dataset = Dataset::from_samples("tiny", classes, samples.collect()).unwrap();
        let provenance = Provenance {
            source: "made up".into(),
            licence: "CC0-1.0".into(),
        };
        let indices: Vec<usize> = (0..20).collect();
        pack(
            &dataset,
            &indices,
            &provenance,
            &folder.path().join("sample.safetensors"),
        )
        .unwrap();
        Self { folder }
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
            "adaptation": {
                "mode": {"kind": "online"}, "batch": 4, "steps": 2, "draws": 6, "micro_batch": 10,
                "timesteps": {"sampler": "stratified", "range": [100, 700]},
                "optimizer": {"kind": "adam", "learning_rate": 1e-2},
            },
        })
    }

    pub fn write(&self, experiment: &Value) -> PathBuf {
        let path = self.path().join("experiment.json");
        fs::write(&path, experiment.to_string()).unwrap();
        path
    }

    pub fn prepare(&self, experiment: &Value) -> dtta::Result<Prepared> {
        let document = Document::load(&self.write(experiment), &[])?;
        Prepared::new(document, &registry(), Device::cpu())
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
        let stop = AtomicBool::new(false);
        let options = RunOptions {
            out: self.path().join(out),
            resume,
            stop: &stop,
        };
        self.prepare(experiment)?.run(
            &options,
            &mut StopAfter {
                samples,
                stop: &stop,
            },
        )
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

impl Observer for StopAfter<'_> {
    fn batch(&mut self, progress: &Progress<'_>) {
        if progress.done >= self.samples {
            self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

pub fn registry() -> Registry {
    let mut registry = Registry::from_environment();
    registry.register_linked("accuracy", dtta_plugin_accuracy::plugin_entry);
    registry.register_linked("classification", dtta_plugin_classification::plugin_entry);
    registry.register_linked("entropy", dtta_plugin_entropy::plugin_entry);
    registry.register_linked("linear", dtta_plugin_linear::plugin_entry);
    registry
}

/// Random weights beside a model's configuration. Zero-initialised layers are filled too: a DiT at rest gives no feedback.
fn save(config: &Path, seed: u64) {
    let device = Device::cpu();
    let specs = match ModelConfig::load(config).unwrap() {
        ModelConfig::Dit(config) => {
            dtta_models::Denoiser::parameters(&dtta_models::Dit::new(config).unwrap()).clone()
        }
        ModelConfig::Resnet(config) => {
            dtta_models::Backbone::parameters(&dtta_models::ResNet::new(config).unwrap()).clone()
        }
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
                range: [0, 1],
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

//! Factors in files: those of peft (`adapter_config.json` with `adapter_model.safetensors`, read and written), and those that diffusers
//! writes of a pipeline's model (`pytorch_lora_weights.safetensors`, read).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dtta_base::Issue;
use dtta_tensor::{Precision, Tensor};
use serde_json::{Map, Value, json};

use super::config::Settings;
use super::targets::{self, Module};
use super::{A, B, Lora, LoraTargets, declare};
use crate::checkpoint::{Checkpoint, safetensors_metadata};
use crate::error::{Called, Mismatches, ModelError, Result};
use crate::file;
use crate::published::{Fields, Names, Source};
use crate::weights::{Declaration, Weights};

const CONFIG: &str = "adapter_config.json";
/// What peft calls the tensors' file, the first one first.
const TENSORS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];
/// What diffusers calls it.
const DIFFUSERS: &str = "pytorch_lora_weights.safetensors";
/// What peft puts before the names of a model's modules.
const PREFIX: &str = "base_model.model.";
/// What diffusers puts before those of a pipeline's denoiser.
const PARTS: [&str; 2] = ["unet", "transformer"];
/// Where diffusers keeps what peft has in a file of its own.
const METADATA: &str = "lora_adapter_metadata";
/// What messages call the configuration.
const DOCUMENT: &str = "adapter configuration";

impl Lora {
    /// The factors that a folder has for the model of these weights. Of a U-Net with a ControlNet, those of the U-Net, if their names are its
    /// own, as peft and diffusers write them: neither knows of the two as one model.
    ///
    /// # Errors
    /// [`ModelError::NoAdapter`] for a folder without any; [`ModelError::File`] for a configuration that cannot be read, or says what is not
    /// offered, by JSON pointer; [`ModelError::Mismatch`] listing every tensor that is missing, left over or misshapen; and those of
    /// [`Weights::load`].
    pub fn load(folder: &Path, weights: &Weights) -> Result<Self> {
        let files = Self::files(folder)?;
        let [config, tensors] = &files[..] else {
            return Self::of_diffusers(&files[0], weights);
        };
        let document = dtta_base::read_json(config, &[])?;
        let refuse = |issues| ModelError::from(dtta_base::invalid(config, DOCUMENT, issues));
        let settings = settings(document, None).map_err(refuse)?;
        let part = match targets::part(weights) {
            "" => "",
            part => {
                // What this crate wrote of the whole has the names of the whole.
                let checkpoint = Checkpoint::open(tensors)?;
                let is_of_whole = |name: &String| {
                    let own = name.strip_prefix(PREFIX).unwrap_or(name);
                    let mut parts = targets::CONTROLLED.iter();
                    parts.any(|part| own.starts_with(part))
                };
                match checkpoint.tensors().keys().any(is_of_whole) {
                    true => "",
                    false => part,
                }
            }
        };
        let chosen = targets::chosen_within(part, &settings.targets, weights);
        let chosen = chosen.map_err(|issues| refuse(in_their_words(issues)))?;
        Self::read(tensors, PREFIX, part, settings, chosen, weights)
    }

    /// The files of the adapter in a folder: what a digest of it is of.
    ///
    /// # Errors
    /// [`ModelError::NoAdapter`] for a folder without any.
    pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
        let names = Self::files_among(|name| folder.join(name).is_file());
        if names.is_empty() {
            return Err(ModelError::NoAdapter {
                path: folder.into(),
            });
        }
        Ok(names.into_iter().map(|name| folder.join(name)).collect())
    }

    /// The names of the files of an adapter, among those that there are: peft's two, or diffusers' one. None if they are no adapter's.
    pub fn files_among(is_there: impl Fn(&str) -> bool) -> Vec<&'static str> {
        match (
            is_there(CONFIG),
            TENSORS.into_iter().find(|name| is_there(name)),
        ) {
            (true, Some(tensors)) => vec![CONFIG, tensors],
            (false, _) if is_there(DIFFUSERS) => vec![DIFFUSERS],
            _ => Vec::new(),
        }
    }

    /// Writes the factors as peft does, into a folder that is made if need be.
    ///
    /// # Errors
    /// [`ModelError::File`] if the system refuses.
    pub fn save(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|source| dtta_base::Error::Write {
            path: folder.into(),
            source,
        })?;
        let named: Vec<(String, &Tensor)> = self
            .values
            .iter()
            .map(|(_, spec, tensor)| (format!("{PREFIX}{}", spec.name), tensor))
            .collect();
        let named: BTreeMap<&str, &Tensor> = named
            .iter()
            .map(|(name, tensor)| (name.as_str(), *tensor))
            .collect();
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let path = folder.join(TENSORS[0]);
        file::write(&path, &named, Precision::F32, &metadata)?;
        let settings = &self.settings;
        let document = json!({
            "peft_type": "LORA",
            "task_type": null,
            "base_model_name_or_path": null,
            "inference_mode": true,
            "r": settings.rank,
            "lora_alpha": settings.alpha,
            "target_modules": settings.targets,
            "use_rslora": settings.use_rslora,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "modules_to_save": null,
        });
        Ok(dtta_base::write_json(&folder.join(CONFIG), &document)?)
    }

    /// The same factors with the values that weights have of them.
    ///
    /// # Errors
    /// [`ModelError::Input`] for weights without them.
    pub fn at(&self, weights: &Weights) -> Result<Self> {
        let mut taken = self.clone();
        for id in taken.values.ids() {
            let name = &self.values.spec(id).name;
            let found = weights.find(name).ok_or_else(|| {
                let found = format!("have no `{name}`");
                ModelError::input("the weights", found, "those that the factors joined")
            })?;
            taken.values.set(id, weights.get(found).detach())?;
        }
        Ok(taken)
    }

    /// Those of one file, whose tensors say which modules there are; α is r unless the file says it.
    fn of_diffusers(path: &Path, weights: &Weights) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let names: Vec<&String> = checkpoint.tensors().keys().collect();
        let part = PARTS.iter().find(|part| {
            let before = |name: &&String| {
                let rest = name.strip_prefix(**part);
                rest.is_some_and(|rest| rest.starts_with('.'))
            };
            !names.is_empty() && names.iter().all(before)
        });
        let prefix = part.map_or(String::new(), |part| format!("{part}."));
        let module = |name: &str, end: &str| -> Option<String> {
            let name = name.strip_prefix(&prefix)?.strip_suffix(end)?;
            Some(name.strip_suffix('.')?.to_owned())
        };
        let within = targets::part(weights);
        let modules: Vec<String> = names.iter().filter_map(|name| module(name, A)).collect();
        // What is no factor, or one of a module that the model does not have.
        let known: Vec<Module> = modules
            .iter()
            .filter_map(|name| {
                let one = LoraTargets::Names(vec![name.clone()]);
                targets::chosen_within(within, &one, weights).ok()
            })
            .flatten()
            .filter(|found| {
                modules
                    .iter()
                    .any(|name| found.name[within.len()..] == **name)
            })
            .collect();
        let extra = names.iter().filter(|name| {
            let of = module(name, A).or_else(|| module(name, B));
            !of.is_some_and(|of| known.iter().any(|known| known.name[within.len()..] == of))
        });
        let extra: Vec<String> = extra.map(|name| (*name).clone()).collect();
        if !extra.is_empty() || known.is_empty() {
            let mut mismatches = Mismatches {
                extra,
                ..Mismatches::default()
            };
            if mismatches.extra.is_empty() {
                mismatches.missing.push(Called {
                    tensor: A.into(),
                    parameter: None,
                });
            }
            return Err(ModelError::Mismatch {
                path: path.into(),
                mismatches: Box::new(mismatches),
            });
        }
        let first = format!("{prefix}{}.{A}", &known[0].name[within.len()..]);
        let rank = checkpoint.tensors()[&first].shape.first().copied();
        let refuse = |issues| ModelError::from(dtta_base::invalid(path, DOCUMENT, issues));
        let stated = safetensors_metadata(path)?.remove(METADATA);
        let mut settings = match stated {
            None => Settings {
                rank: rank.unwrap_or(0),
                alpha: rank.unwrap_or(0) as f64,
                targets: LoraTargets::Names(modules.clone()),
                use_rslora: false,
            },
            Some(text) => {
                let document = serde_json::from_str(&text).map_err(|error| {
                    let message = format!("`{METADATA}` is no JSON: {error}");
                    refuse(vec![Issue::new("", message)])
                })?;
                settings_within(document, &prefix).map_err(refuse)?
            }
        };
        settings.targets = LoraTargets::Names(modules);
        drop(checkpoint);
        Self::read(path, &prefix, within, settings, known, weights)
    }

    /// Factors from a file where their names begin with `prefix` in the place of `part`.
    fn read(
        path: &Path,
        prefix: &str,
        part: &'static str,
        mut settings: Settings,
        chosen: Vec<Module>,
        weights: &Weights,
    ) -> Result<Self> {
        let mut declaration = Declaration::new();
        for module in &chosen {
            declare(&mut declaration, module, settings.rank);
        }
        if !part.is_empty() {
            // The same names may be those of the other part's modules.
            let names = chosen.iter().map(|module| module.name.clone());
            settings.targets = LoraTargets::Names(names.collect());
        }
        let prefix = prefix.to_owned();
        let names = Names {
            source: Box::new(move |name| {
                let own = name.strip_prefix(part).unwrap_or(name);
                Source::Named(format!("{prefix}{own}"))
            }),
            unused: Box::new(|_| false),
        };
        let device = weights.get(chosen[0].base).device();
        let device = device.with_precision(Precision::F32)?;
        Ok(Self {
            values: Weights::load_named(path, &declaration.finish(), &names, &device)?,
            layers: chosen.into_iter().map(Module::layer).collect(),
            settings,
        })
    }
}

/// Faults of targets where peft has these.
fn in_their_words(issues: Vec<Issue>) -> Vec<Issue> {
    let moved = |issue: Issue| match issue.pointer.strip_prefix("/targets") {
        Some(rest) => Issue::new(format!("/target_modules{rest}"), issue.message),
        None => issue,
    };
    issues.into_iter().map(moved).collect()
}

/// What diffusers keeps of peft's configuration, each field behind the name of the part.
fn settings_within(document: Value, prefix: &str) -> Result<Settings, Vec<Issue>> {
    let bare = |(name, value): (String, Value)| match name.strip_prefix(prefix) {
        Some(bare) => (bare.to_owned(), value),
        None => (name, value),
    };
    match document {
        Value::Object(fields) => {
            let fields: Map<String, Value> = fields.into_iter().map(bare).collect();
            settings(fields.into(), Some("diffusers"))
        }
        other => settings(other, Some("diffusers")),
    }
}

/// What a configuration of peft says. Every field is honoured, or has no influence on what is computed, or is refused by name.
fn settings(document: Value, library: Option<&'static str>) -> Result<Settings, Vec<Issue>> {
    let Value::Object(fields) = document else {
        return Err(vec![Issue::new("", "is no object")]);
    };
    let mut fields = Fields::new(library.unwrap_or("peft"), fields);
    let kind = if library.is_some() {
        json!("LORA")
    } else {
        Value::Null
    };
    fields.only("peft_type", json!("LORA"), kind);
    let rank = fields.take("r", 8usize);
    if rank == 0 {
        fields.refuse("r", &json!(0), "supported is 1 or more");
    }
    let alpha = fields.take("lora_alpha", 8.0f64);
    if alpha <= 0.0 {
        fields.refuse("lora_alpha", &json!(alpha), "supported is a number above 0");
    }
    let use_rslora = fields.take("use_rslora", false);
    let targets: Option<LoraTargets> = fields.find("target_modules");
    for name in ["alpha_pattern", "rank_pattern", "loftq_config"] {
        let none = fields.find::<Value>(name).unwrap_or(json!({}));
        if none != json!({}) {
            fields.refuse(name, &none, "supported is none");
        }
    }
    for name in [
        "alora_invocation_tokens",
        "arrow_config",
        "corda_config",
        "exclude_modules",
        "kasa_config",
        "layer_replication",
        "layers_pattern",
        "layers_to_transform",
        "lora_ga_config",
        "megatron_config",
        "modules_to_save",
        "monteclora_config",
        "target_parameters",
        "trainable_token_indices",
        "use_bdlora",
        "velora_config",
    ] {
        fields.fixed(name, Value::Null);
    }
    for name in ["fan_in_fan_out", "lora_bias", "use_dora", "use_qalora"] {
        fields.fixed(name, false);
    }
    fields.fixed("bias", "none");
    // How A and B began; some ways change the matrices beside them too.
    let init = fields
        .find::<Value>("init_lora_weights")
        .unwrap_or(json!(true));
    let harmless = [
        json!(true),
        json!(false),
        json!("gaussian"),
        json!("orthogonal"),
        json!("eva"),
    ];
    if !harmless.contains(&init) {
        let reason = "supported are true, false, \"gaussian\", \"orthogonal\" and \"eva\", which leave the model's matrices as they are";
        fields.refuse("init_lora_weights", &init, reason);
    }
    // What is of use to training and to the library alone.
    for name in [
        "auto_mapping",
        "base_model_name_or_path",
        "ensure_weight_tying",
        "eva_config",
        "inference_mode",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
    ] {
        fields.skip(name);
    }
    if targets.is_none() {
        fields.refuse(
            "target_modules",
            &Value::Null,
            "supported are names, or a pattern",
        );
    }
    fields.finish()?;
    Ok(Settings {
        rank,
        alpha,
        targets: targets.unwrap_or(LoraTargets::Names(Vec::new())),
        use_rslora,
    })
}

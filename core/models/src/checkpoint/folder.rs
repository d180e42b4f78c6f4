//! Where a model's configuration and weights are: files, or the folders that libraries of the field write.

use std::fs;
use std::path::{Path, PathBuf};

use super::{index, quoted};
use crate::composed;
use crate::error::{ModelError, Result};

/// What configurations are called in folders.
const CONFIG: &str = "config.json";
/// What OpenCLIP calls its own, where there is none of the other libraries, and the weights that go with it.
const OPEN_CLIP: &str = "open_clip_config.json";
const OPEN_CLIP_WEIGHTS: [&str; 3] = [
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
];
/// What says which parts a pipeline of diffusers has.
const PIPELINE: &str = "model_index.json";
/// What weights are called in folders, the first one first: safetensors, which hold nothing else, before pickles, and whole before split.
const WEIGHTS: [&str; 8] = [
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];
/// The most names that a message lists.
const LISTED: usize = 8;

/// The files of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    /// The configuration.
    pub config: PathBuf,
    /// The weights, or the index of several files with them.
    pub weights: PathBuf,
    /// The files that an index names, or those of the models that a configuration names; none where it names none.
    pub shards: Vec<PathBuf>,
    /// The models that a configuration names and that are not there.
    pub absent: Vec<PathBuf>,
}

impl ModelFiles {
    /// The files of the model that `config` describes: a configuration file with its weights [beside](crate::weights_beside) it, or a
    /// folder that diffusers, timm or transformers wrote. `weights` may name another file or folder for these.
    ///
    /// In a folder, the configuration is `config.json`, and the weights are the first there are of `diffusion_pytorch_model` and `model`
    /// with the extensions `.safetensors` and `.safetensors.index.json`, `diffusion_pytorch_model.bin` and `pytorch_model.bin`, and each
    /// of these with `.index.json`. A variant such as `model.fp16.safetensors` is used where `weights` names it. Without a `config.json`, or
    /// where it is named, the configuration is `open_clip_config.json`, with `open_clip_model.safetensors`,
    /// `open_clip_pytorch_model.safetensors` or `open_clip_pytorch_model.bin`.
    ///
    /// # Errors
    /// [`ModelError::NoConfig`], [`ModelError::Pipeline`] or [`ModelError::NoWeights`] for a folder that lacks what is looked for, and those
    /// of an index.
    pub fn find(config: &Path, weights: Option<&Path>) -> Result<Self> {
        // One that names other models stands for their weights.
        let file = config_of(config).ok();
        let parts = file.as_deref().map(composed::parts).unwrap_or_default();
        match file {
            Some(file) if !parts.is_empty() && weights.is_none_or(|weights| weights == file) => {
                let (shards, absent) = composed::files(&parts);
                Ok(Self {
                    config: file.clone(),
                    weights: file,
                    shards,
                    absent,
                })
            }
            _ => Self::of_one(config, weights),
        }
    }

    /// As [`find`](Self::find), of a model that names no others.
    pub(crate) fn single(config: &Path) -> Result<Self> {
        Self::of_one(config, None)
    }

    fn of_one(config: &Path, weights: Option<&Path>) -> Result<Self> {
        let weights = match weights {
            Some(folder) if folder.is_dir() => weights_in(folder)?,
            Some(file) => file.to_owned(),
            None => beside(config)?,
        };
        let config = config_of(config)?;
        let shards = match weights.is_file() {
            true => index::shards(&weights)?,
            false => Vec::new(),
        };
        Ok(Self {
            config,
            weights,
            shards,
            absent: Vec::new(),
        })
    }

    /// The weights among the files that a folder has, by the names that [`find`](Self::find) looks for.
    pub fn weights_among(has: impl Fn(&str) -> bool) -> Option<&'static str> {
        WEIGHTS.into_iter().find(|name| has(name))
    }

    /// All of them: what a digest of the model is of.
    pub fn all(&self) -> impl Iterator<Item = &Path> {
        let shards = self.shards.iter().map(PathBuf::as_path);
        [self.config.as_path(), self.weights.as_path()]
            .into_iter()
            .chain(shards)
    }
}

/// The configuration file that a path stands for: itself, or the one in it.
pub(crate) fn config_of(path: &Path) -> Result<PathBuf> {
    let pipeline = |file: PathBuf| match parts(&file) {
        Some(parts) => Err(ModelError::Pipeline {
            path: path.into(),
            parts,
        }),
        None => Ok(file),
    };
    if !path.is_dir() {
        return match path.file_name().is_some_and(|name| name == PIPELINE) {
            true => pipeline(path.into()),
            false => Ok(path.into()),
        };
    }
    let configs = [CONFIG, OPEN_CLIP].map(|name| path.join(name));
    if let Some(config) = configs.iter().find(|config| config.is_file()) {
        return Ok(config.clone());
    }
    let index = path.join(PIPELINE);
    if index.is_file() {
        pipeline(index)?;
    }
    Err(ModelError::NoConfig { path: path.into() })
}

/// The weights that go with a configuration, as [`ModelFiles::find`] says.
fn beside(config: &Path) -> Result<PathBuf> {
    if config.is_dir() {
        // What lacks a configuration as well is told so.
        let own = config_of(config)?;
        return weights_for(&own, config);
    }
    let own = config.with_extension("safetensors");
    let named = |name: &str| config.file_name().is_some_and(|own| own == name);
    let in_folder = [CONFIG, OPEN_CLIP].into_iter().any(named) && !own.exists();
    match config.parent().filter(|_| in_folder) {
        Some(folder) if config.is_file() => weights_for(config, folder),
        _ => Ok(own),
    }
}

/// The weights in a folder that go with a configuration in it.
fn weights_for(config: &Path, folder: &Path) -> Result<PathBuf> {
    match config.file_name().is_some_and(|name| name == OPEN_CLIP) {
        true => first_of(&OPEN_CLIP_WEIGHTS, folder),
        false => first_of(&WEIGHTS, folder),
    }
}

/// The weights in a folder.
fn weights_in(folder: &Path) -> Result<PathBuf> {
    match config_of(folder) {
        Ok(config) => weights_for(&config, folder),
        Err(_) => first_of(&WEIGHTS, folder),
    }
}

fn first_of(names: &'static [&'static str], folder: &Path) -> Result<PathBuf> {
    let there: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| folder.join(name).is_file())
        .collect();
    let Some(first) = there.first() else {
        return Err(ModelError::NoWeights {
            path: folder.into(),
            looked_for: names,
            others: variants(folder),
        });
    };
    if there.len() > 1 {
        let others = dtta_base::listed(quoted(there[1..].iter().copied()), LISTED);
        log::info!(
            "`{}`: the weights are those of `{first}`, not of {others}",
            folder.display()
        );
    }
    Ok(folder.join(first))
}

/// Files of a folder that may hold weights, but not under a name that is looked for.
fn variants(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let ends = [
        ".safetensors",
        ".bin",
        ".pt",
        ".pth",
        ".ckpt",
        ".index.json",
    ];
    let mut names: Vec<String> = names
        .filter(|name| ends.iter().any(|end| name.ends_with(end)))
        .collect();
    names.sort();
    names
}

/// The parts of a pipeline that are models, by its index: folders with a configuration of their own.
fn parts(index: &Path) -> Option<Vec<String>> {
    let document = dtta_base::read_json(index, &[]).ok()?;
    let folder = index.parent()?;
    let names = document.as_object()?.keys();
    let parts = names.filter(|name| folder.join(name).join(CONFIG).is_file());
    Some(parts.cloned().collect())
}

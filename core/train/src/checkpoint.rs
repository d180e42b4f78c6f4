//! Checkpoints of a training run: everything that the next step depends on.
//!
//! The tensors are written first, under a name that holds their step; then the document that names the step is replaced by a
//! rename. So a checkpoint counts once it is whole, and the one before it counts until then.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dtta_models::{Precision, Weights, read_tensors, write_tensors};
use dtta_tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::evaluate::Evaluation;
use crate::learner::Learner;

const DOCUMENT: &str = "checkpoint.json";

/// Where a run is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// What determines the weights, to refuse another run's checkpoint.
    pub digest: String,
    pub step: usize,
    /// Of training, without evaluations.
    pub seconds: f64,
    pub evaluation: Option<Evaluation>,
    optimizer_steps: Vec<i32>,
}

impl Checkpoint {
    /// Whether `folder` holds one.
    pub fn exists(folder: &Path) -> bool {
        folder.join(DOCUMENT).exists()
    }

    /// Writes one.
    pub fn save(
        folder: &Path,
        digest: &str,
        learner: &Learner,
        seconds: f64,
        evaluation: Option<Evaluation>,
    ) -> Result<()> {
        let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
        for (name, weights) in [("weights", &learner.weights), ("average", &learner.average)] {
            for (_, spec, tensor) in weights.iter() {
                tensors.insert(format!("{name}/{}", spec.name), tensor.clone());
            }
        }
        let mut optimizer_steps = Vec::new();
        for (n, group) in learner.groups.iter().enumerate() {
            let (steps, state) = group.optimizer.save();
            optimizer_steps.push(steps);
            for (name, tensor) in state {
                tensors.insert(format!("optimizer/{n}/{name}"), tensor);
            }
        }
        let named = tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
        let path = tensor_path(folder, learner.step);
        write_tensors(&path, &named, Precision::F32, &BTreeMap::new())?;
        let checkpoint = Self {
            digest: digest.into(),
            step: learner.step,
            seconds,
            evaluation,
            optimizer_steps,
        };
        let text = serde_json::to_vec_pretty(&checkpoint)
            .expect("names and numbers that are finite are JSON");
        replace(&folder.join(DOCUMENT), &text)?;
        remove_tensors(folder, Some(&path));
        Ok(())
    }

    /// Puts the state of the checkpoint in `folder` into `learner`; `None` if there is no checkpoint.
    pub fn restore(
        folder: &Path,
        digest: &str,
        learner: &mut Learner,
        device: &Device,
    ) -> Result<Option<Self>> {
        let path = folder.join(DOCUMENT);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Read { path, source }),
        };
        let checkpoint: Self =
            serde_json::from_slice(&bytes).map_err(|source| Error::Json { path, source })?;
        let refuse = |reason: &str| Error::Resume {
            path: folder.into(),
            reason: reason.into(),
        };
        if checkpoint.digest != digest {
            return Err(refuse(
                "it was started with another training configuration or model",
            ));
        }
        let mut tensors = read_tensors(&tensor_path(folder, checkpoint.step), device)?;
        for (name, weights) in [
            ("weights", &mut learner.weights),
            ("average", &mut learner.average),
        ] {
            take(&mut tensors, name, weights).map_err(|missing| {
                refuse(&format!("`{name}/{missing}` is missing in its checkpoint"))
            })??;
        }
        if checkpoint.optimizer_steps.len() != learner.groups.len() {
            return Err(refuse("its checkpoint has another number of optimizers"));
        }
        let groups = learner.groups.iter_mut().zip(&checkpoint.optimizer_steps);
        for (n, (group, &steps)) in groups.enumerate() {
            let prefix = format!("optimizer/{n}/");
            let state = tensors.iter().filter_map(|(name, tensor)| {
                Some((name.strip_prefix(&prefix)?.to_owned(), tensor.clone()))
            });
            group.optimizer.restore(steps, state);
        }
        learner.step = checkpoint.step;
        Ok(Some(checkpoint))
    }

    /// Removes the checkpoint of an earlier run.
    pub fn remove(folder: &Path) -> Result<()> {
        let path = folder.join(DOCUMENT);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::Write { path, source })
            }
            _ => {
                remove_tensors(folder, None);
                Ok(())
            }
        }
    }
}

/// Moves the tensors under `prefix` into `weights`; the outer error is the name of one that is missing.
fn take(
    tensors: &mut BTreeMap<String, Tensor>,
    prefix: &str,
    weights: &mut Weights,
) -> std::result::Result<Result<()>, String> {
    for id in weights.ids() {
        let name = weights.spec(id).name.clone();
        let Some(tensor) = tensors.remove(&format!("{prefix}/{name}")) else {
            return Err(name);
        };
        if let Err(error) = weights.set(id, tensor) {
            return Ok(Err(error.into()));
        }
    }
    Ok(Ok(()))
}

fn tensor_path(folder: &Path, step: usize) -> PathBuf {
    folder.join(format!("checkpoint-{step}.safetensors"))
}

/// Removes tensors of checkpoints except `keep`; one that cannot be removed does no harm.
fn remove_tensors(folder: &Path, keep: Option<&Path>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let of_checkpoint = name.to_str().is_some_and(|name| {
            let step = name
                .strip_prefix("checkpoint-")
                .and_then(|name| name.strip_suffix(".safetensors"));
            step.is_some_and(|step| step.parse::<usize>().is_ok())
        });
        if of_checkpoint && Some(entry.path().as_path()) != keep {
            fs::remove_file(entry.path()).ok();
        }
    }
}

/// Replaces a file, whole or not at all.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    let written = fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, path));
    written.map_err(|source| {
        fs::remove_file(&partial).ok();
        Error::Write {
            path: path.into(),
            source,
        }
    })
}

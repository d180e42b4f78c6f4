//! Checkpoints of a training run: everything that the next step depends on.
//!
//! The tensors are written first, under a name that holds their step; then the document that names them with their digest is replaced.
//! So a checkpoint counts once it is whole, the one before it counts until then, and one that lost or changed anything is refused. A run
//! has one from its start, so that no other run can take its folder for empty.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use dtta_base::{Digest, remove, sha256_file, write_json};
use dtta_learn::State;
use dtta_models::{read_tensors, write_tensors};
use dtta_tensor::Device;
use serde::{Deserialize, Serialize};

use crate::averaged::Averaged;
use crate::error::{Error, Result};
use crate::evaluate::Evaluation;

const DOCUMENT: &str = "checkpoint.json";
const PREFIX: &str = "checkpoint-";
const SUFFIX: &str = ".safetensors";

/// What determines the weights of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Digest of the configuration without what does not change the weights.
    pub configuration: String,
    /// Digest of the model's configuration file.
    pub model: String,
    /// Digest of the training images with their targets.
    pub data: String,
    /// The name of the device.
    pub device: String,
}

/// Where a run is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TrainingCheckpoint {
    identity: Identity,
    pub step: usize,
    /// Of training, without evaluations.
    pub seconds: f64,
    pub evaluation: Option<Evaluation>,
    counts: BTreeMap<String, i64>,
    /// The file of the tensors, and its digest.
    file: String,
    sha256: String,
}

impl Identity {
    /// All of it as one digest.
    pub fn digest(&self) -> String {
        let mut digest = Digest::new();
        for field in [&self.configuration, &self.model, &self.data, &self.device] {
            digest.field(field);
        }
        digest.finish()
    }

    /// What the run that was `started` has otherwise.
    fn differences(&self, started: &Self) -> Vec<&'static str> {
        let fields = [
            ("configuration", &self.configuration, &started.configuration),
            ("model", &self.model, &started.model),
            ("training images", &self.data, &started.data),
            ("device", &self.device, &started.device),
        ];
        let differing = fields
            .into_iter()
            .filter(|(_, ours, theirs)| ours != theirs);
        differing.map(|(name, _, _)| name).collect()
    }
}

impl TrainingCheckpoint {
    /// Whether `folder` holds one.
    pub fn exists(folder: &Path) -> bool {
        folder.join(DOCUMENT).exists()
    }

    /// Writes one, and removes the tensors of those before it.
    pub fn save(
        folder: &Path,
        identity: &Identity,
        averaged: &Averaged,
        (seconds, evaluation): (f64, Option<Evaluation>),
    ) -> Result<()> {
        let file = format!("{PREFIX}{}{SUFFIX}", averaged.step);
        let path = folder.join(&file);
        let State { tensors, counts } = averaged.state();
        write_tensors(&path, &tensors)?;
        let checkpoint = Self {
            identity: identity.clone(),
            step: averaged.step,
            seconds,
            evaluation,
            counts,
            sha256: sha256_file(&path)?,
            file,
        };
        write_json(&folder.join(DOCUMENT), &checkpoint)?;
        remove_tensors(folder, Some(&checkpoint.file));
        Ok(())
    }

    /// Puts the state of the checkpoint in `folder` into `averaged`; `None` if there is no checkpoint.
    pub fn restore(
        folder: &Path,
        identity: &Identity,
        averaged: &mut Averaged,
        device: &Device,
    ) -> Result<Option<Self>> {
        let path = folder.join(DOCUMENT);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(dtta_base::Error::Read { path, source }.into()),
        };
        let refuse = |reason: String| Error::Resume {
            path: folder.into(),
            reason,
        };
        let mut checkpoint: Self = serde_json::from_slice(&bytes).map_err(|error| {
            refuse(format!(
                "its `{DOCUMENT}` was not written by this version: {error}"
            ))
        })?;
        let differences = identity.differences(&checkpoint.identity);
        if !differences.is_empty() {
            let differences = differences.join(", ");
            return Err(refuse(format!("it was started with another {differences}")));
        }
        if Path::new(&checkpoint.file).components().count() != 1 {
            return Err(refuse(format!(
                "`{}` is not a file of its folder",
                checkpoint.file
            )));
        }
        let tensors = folder.join(&checkpoint.file);
        if sha256_file(&tensors)? != checkpoint.sha256 {
            let reason = format!("`{}` was changed since it was written", checkpoint.file);
            return Err(refuse(reason));
        }
        let state = State {
            tensors: read_tensors(&tensors, device)?,
            counts: std::mem::take(&mut checkpoint.counts),
        };
        averaged
            .restore(checkpoint.step, state)
            .map_err(|error| refuse(error.to_string()))?;
        Ok(Some(checkpoint))
    }

    /// Removes the checkpoint of an earlier run.
    pub fn remove(folder: &Path) -> Result<()> {
        remove(&folder.join(DOCUMENT))?;
        remove_tensors(folder, None);
        Ok(())
    }
}

/// Removes tensors of checkpoints except `keep`; one that cannot be removed does no harm.
fn remove_tensors(folder: &Path, keep: Option<&str>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let of_checkpoint = name.to_str().is_some_and(|name| {
            let step = name
                .strip_prefix(PREFIX)
                .and_then(|name| name.strip_suffix(SUFFIX));
            step.is_some_and(|step| step.parse::<usize>().is_ok()) && Some(name) != keep
        });
        if of_checkpoint {
            fs::remove_file(entry.path()).ok();
        }
    }
}

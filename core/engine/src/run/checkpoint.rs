//! Checkpoints of a run: everything that the next batch depends on. The tensors are written first, under a name that holds their position;
//! then the document, which names them one by one with their digest. So a checkpoint counts once it is whole, and one that lost or changed
//! anything is refused.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use dtta_base::{remove, sha256_file, write_json};
use dtta_learn::State;
use dtta_models::{read_tensors, write_tensors};
use dtta_tensor::Device;
use serde::{Deserialize, Serialize};

use super::identity::Identity;
use super::refuse_resume;
use crate::error::Result;
use crate::record::Done;

/// The state of a run between two batches.
#[derive(Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// Digest of what the run is.
    identity: String,
    /// What was done so far.
    pub done: Done,
    counts: BTreeMap<String, i64>,
    /// The file of the tensors, and its digest.
    file: String,
    sha256: String,
    #[serde(skip)]
    tensors: BTreeMap<String, dtta_tensor::Tensor>,
}

impl Checkpoint {
    pub const DOCUMENT: &'static str = "checkpoint.json";
    const PREFIX: &'static str = "checkpoint-";
    const SUFFIX: &'static str = ".safetensors";

    /// Writes one, and removes the tensors of those before it.
    pub fn save(folder: &Path, identity: &Identity, done: &Done, state: State) -> Result<()> {
        let file = format!("{}{}{}", Self::PREFIX, done.samples, Self::SUFFIX);
        let path = folder.join(&file);
        write_tensors(&path, &state.tensors)?;
        let checkpoint = Self {
            identity: identity.digest(),
            done: done.clone(),
            counts: state.counts,
            sha256: sha256_file(&path)?,
            file,
            tensors: BTreeMap::new(),
        };
        write_json(&folder.join(Self::DOCUMENT), &checkpoint)?;
        Self::remove_tensors(folder, Some(&checkpoint.file));
        Ok(())
    }

    /// The one that a folder holds, if any.
    pub fn load(folder: &Path, identity: &Identity, device: &Device) -> Result<Option<Self>> {
        let path = folder.join(Self::DOCUMENT);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(dtta_base::Error::Read { path, source }.into()),
        };
        let mut checkpoint: Self = serde_json::from_slice(&bytes)
            .map_err(|source| dtta_base::Error::Json { path, source })?;
        if checkpoint.identity != identity.digest() {
            return Err(refuse_resume(folder, "its checkpoint is of another run"));
        }
        let tensors = folder.join(&checkpoint.file);
        if sha256_file(&tensors)? != checkpoint.sha256 {
            let reason = format!("`{}` was changed since it was written", checkpoint.file);
            return Err(refuse_resume(folder, reason));
        }
        checkpoint.tensors = read_tensors(&tensors, device)?;
        Ok(Some(checkpoint))
    }

    /// The method's state.
    pub fn into_state(self) -> State {
        State {
            tensors: self.tensors,
            counts: self.counts,
        }
    }

    /// Removes the one that a folder holds.
    pub fn remove(folder: &Path) -> Result<()> {
        remove(&folder.join(Self::DOCUMENT))?;
        Self::remove_tensors(folder, None);
        Ok(())
    }

    /// Removes tensors of checkpoints except `keep`; one that cannot be removed does no harm.
    fn remove_tensors(folder: &Path, keep: Option<&str>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let of_checkpoint = name.to_str().is_some_and(|name| {
                let position = name
                    .strip_prefix(Self::PREFIX)
                    .and_then(|name| name.strip_suffix(Self::SUFFIX));
                position.is_some_and(|position| position.parse::<usize>().is_ok())
                    && Some(name) != keep
            });
            if of_checkpoint {
                fs::remove_file(entry.path()).ok();
            }
        }
    }
}

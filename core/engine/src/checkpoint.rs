//! Checkpoints of a run: everything that the next batch depends on, written atomically beside
//! the records.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use dtta_models::{Conditioning, Precision, read_tensors, write_tensors};
use dtta_tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::adapt::{Common, Learner};
use crate::error::{Error, Result};
use crate::experiment::Experiment;
use crate::score::Kept;

/// The state of a run between two batches.
#[derive(Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) experiment: Experiment,
    pub(crate) position: usize,
    pub(crate) skipped: usize,
    pub(crate) seconds: f64,
    /// What is known of each domain's samples.
    pub(crate) scores: Vec<Kept>,
    optimizer_steps: Vec<i32>,
    common_steps: usize,
    #[serde(skip)]
    tensors: BTreeMap<String, Tensor>,
}

const DOCUMENT: &str = "checkpoint.json";
const TENSORS: &str = "checkpoint.safetensors";
const COMMON: &str = "common/";
const LEARNERS: [&str; 2] = ["task", "denoiser"];

impl Checkpoint {
    pub(crate) fn take(
        experiment: Experiment,
        position: usize,
        skipped: usize,
        seconds: f64,
        scores: Vec<Kept>,
        (task, denoiser, common): (&mut Learner, Option<&mut Learner>, &mut Common),
    ) -> Self {
        let mut tensors = BTreeMap::new();
        let mut optimizer_steps = Vec::new();
        for (learner, name) in std::iter::once(task).chain(denoiser).zip(LEARNERS) {
            for (_, spec, tensor) in learner.weights.iter() {
                tensors.insert(format!("{name}/weights/{}", spec.name), tensor.detach());
            }
            let (steps, state) = learner.optimizer.save();
            optimizer_steps.push(steps);
            tensors.extend(
                state
                    .into_iter()
                    .map(|(part, tensor)| (format!("{name}/optimizer/{part}"), tensor)),
            );
        }
        for (slot, mean) in common.mean.iter() {
            tensors.insert(format!("{COMMON}{slot}"), mean.clone());
        }
        Self {
            experiment,
            position,
            skipped,
            seconds,
            scores,
            optimizer_steps,
            common_steps: common.steps,
            tensors,
        }
    }

    /// Writes the tensors first and the document last: the document names the position, so a checkpoint counts once it is there.
    pub(crate) fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join(format!("{}-{TENSORS}", self.position));
        let tensors = self
            .tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
            .collect();
        write_tensors(&path, &tensors, Precision::F32, &BTreeMap::new())?;
        crate::run::write_json(&folder.join(DOCUMENT), self)?;
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let stale = name
                .strip_suffix(&format!("-{TENSORS}"))
                .is_some_and(|position| position != self.position.to_string());
            if stale {
                fs::remove_file(entry.path()).ok();
            }
        }
        Ok(())
    }

    /// The checkpoint that a folder holds, if any.
    pub(crate) fn load(folder: &Path, device: &Device) -> Result<Option<Self>> {
        let path = folder.join(DOCUMENT);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Read { path, source }),
        };
        let mut checkpoint: Self =
            serde_json::from_slice(&bytes).map_err(|source| Error::Json { path, source })?;
        checkpoint.tensors = read_tensors(
            &folder.join(format!("{}-{TENSORS}", checkpoint.position)),
            device,
        )?;
        Ok(Some(checkpoint))
    }

    /// Puts the weights and optimizer states back.
    pub(crate) fn restore(
        self,
        (task, denoiser, common): (&mut Learner, Option<&mut Learner>, &mut Common),
    ) -> Result<()> {
        for ((learner, name), steps) in std::iter::once(task)
            .chain(denoiser)
            .zip(LEARNERS)
            .zip(&self.optimizer_steps)
        {
            let part = |kind: &str| {
                let prefix = format!("{name}/{kind}/");
                let of_kind = self.tensors.iter().filter_map(move |(name, tensor)| {
                    name.strip_prefix(&prefix)
                        .map(|name| (name.to_owned(), tensor.clone()))
                });
                of_kind.collect::<Vec<_>>()
            };
            let ids: Vec<_> = learner
                .weights
                .iter()
                .map(|(id, spec, _)| (id, spec.name.clone()))
                .collect();
            for (name, tensor) in part("weights") {
                if let Some((id, _)) = ids.iter().find(|(_, known)| *known == name) {
                    learner.weights.set(*id, tensor)?;
                }
            }
            learner.optimizer.restore(*steps, part("optimizer"));
        }
        let means = self.tensors.iter().filter_map(|(name, tensor)| {
            Some((name.strip_prefix(COMMON)?.to_owned(), tensor.clone()))
        });
        *common = Common {
            mean: Conditioning::new(means.collect()),
            steps: self.common_steps,
        };
        Ok(())
    }
}

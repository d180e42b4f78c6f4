//! The folder of a run, which one process works in at a time: what it owns there, how it is described, and when it is whole.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use dtta_base::{FolderLock, remove, write_json};
use dtta_tensor::Device;
use serde::de::DeserializeOwned;

use super::ADAPTERS;
use super::Existing;
use super::checkpoint::Checkpoint;
use super::closed::{Closed, ShardId};
use super::identity::Identity;
use super::refuse_resume;
use super::unit::Shard;
use crate::error::{Error, Result};
use crate::record::{RunDescription, Status, Summary};
use crate::sinks::{EventFile, Pictures, Records, States};

/// A run's folder, locked.
pub(crate) struct RunFolder {
    path: PathBuf,
    _lock: FolderLock,
}

impl RunFolder {
    /// What the run is.
    pub const DESCRIPTION: &'static str = RunDescription::FILE;
    /// What came of it.
    pub const SUMMARY: &'static str = "summary.json";

    /// Takes a folder, which is made if it is not there.
    ///
    /// # Errors
    /// A lock that another process has; [`Error::OutputExists`] for a run that is to be kept; [`Error::Resume`] for pieces of a run that
    /// nothing describes.
    pub fn open(path: &Path, existing: Existing) -> Result<Self> {
        let lock = FolderLock::take(path)?;
        let folder = Self {
            path: path.into(),
            _lock: lock,
        };
        let described = path.join(Self::DESCRIPTION).exists();
        match existing {
            // Of what has no sample yet, nothing is lost.
            Existing::Keep if described && folder.has_no_sample()? => folder.clear()?,
            Existing::Keep if folder.holds_anything() => {
                return Err(Error::OutputExists { path: path.into() });
            }
            Existing::Resume if !described && folder.holds_anything() => {
                let reason = "it contains files of a run but no `run.json`";
                return Err(refuse_resume(path, reason));
            }
            Existing::Replace => folder.clear()?,
            Existing::Keep | Existing::Resume => {}
        }
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that a run owns, but for checkpoints' tensors and pictures.
    fn files(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let names = [
            Records::FILE,
            States::FILE,
            Self::SUMMARY,
            Checkpoint::DOCUMENT,
            Closed::FILE,
            Self::DESCRIPTION,
        ];
        names.into_iter().map(|name| self.path.join(name))
    }

    fn holds_anything(&self) -> bool {
        self.files().any(|path| path.exists())
    }

    /// Whether the run that is described here left no record: it failed or was stopped before its first sample.
    fn has_no_sample(&self) -> Result<bool> {
        let records = fs::metadata(self.path.join(Records::FILE));
        let is_empty = records.map_or_else(
            |error| error.kind() == ErrorKind::NotFound,
            |file| file.len() == 0,
        );
        Ok(is_empty && self.summary()?.is_none())
    }

    /// Removes everything that the run owns; its description last, so that a half cleared folder is still known as a run's.
    pub fn clear(&self) -> Result<()> {
        if !self.holds_anything() {
            return Ok(());
        }
        // From here on it is not whole.
        remove(&self.path.join(Closed::FILE))?;
        for name in std::iter::once(Pictures::FOLDER).chain(ADAPTERS) {
            let owned = self.path.join(name);
            match fs::remove_dir_all(&owned) {
                Err(source) if source.kind() != ErrorKind::NotFound => {
                    return Err(dtta_base::Error::Write {
                        path: owned,
                        source,
                    }
                    .into());
                }
                _ => {}
            }
        }
        EventFile::remove(&self.path)?;
        Checkpoint::remove(&self.path)?;
        for path in self.files() {
            remove(&path)?;
        }
        Ok(())
    }

    /// Removes the folder, which has been cleared, if nothing else is in it.
    pub fn disappear(self) -> Result<()> {
        remove(&self.path.join(FolderLock::FILE))?;
        fs::remove_dir(&self.path).ok();
        Ok(())
    }

    /// Takes another name, once the run is whole.
    ///
    /// # Errors
    /// [`dtta_base::Error::Write`].
    pub fn rename(self, to: &Path) -> Result<()> {
        // A folder with nothing but a lock makes way, unless another process works there.
        let _taken = to.exists().then(|| FolderLock::take(to)).transpose()?;
        for folder in [&*self.path, to] {
            remove(&folder.join(FolderLock::FILE))?;
        }
        fs::rename(&self.path, to).map_err(|source| dtta_base::Error::Write {
            path: to.into(),
            source,
        })?;
        Ok(())
    }

    /// The description of the run that is there.
    pub fn earlier(&self) -> Result<Option<RunDescription>> {
        read(&self.path.join(Self::DESCRIPTION))
    }

    /// Its summary.
    pub fn summary(&self) -> Result<Option<Summary>> {
        Self::summary_in(&self.path)
    }

    /// The summary of a run in a folder.
    pub fn summary_in(path: &Path) -> Result<Option<Summary>> {
        read(&path.join(Self::SUMMARY))
    }

    /// Its last checkpoint.
    pub fn checkpoint(&self, identity: &Identity, device: &Device) -> Result<Option<Checkpoint>> {
        Checkpoint::load(&self.path, identity, device)
    }

    /// Says what the run is and how it is.
    pub fn describe(&self, description: &RunDescription, status: Status) -> Result<()> {
        let mut description = description.clone();
        description.status = status;
        Ok(write_json(
            &self.path.join(Self::DESCRIPTION),
            &description,
        )?)
    }

    /// Writes the summary, then that the run is finished, then removes the checkpoint, which nobody needs any more.
    pub fn finish(&self, description: &mut RunDescription, summary: &Summary) -> Result<()> {
        write_json(&self.path.join(Self::SUMMARY), summary)?;
        description.status = Status::Finished;
        self.describe(description, Status::Finished)?;
        Checkpoint::remove(&self.path)
    }

    /// Says that the folder is whole, unless that is said already. The last that is written here.
    pub fn close(&self, shard: ShardId) -> Result<()> {
        match Closed::read(&self.path)? {
            Some(closed) if closed.shard == shard => Ok(()),
            _ => Closed::write(&self.path, shard),
        }
    }
}

/// The summary of a finished shard in a folder, if it is this one.
///
/// # Errors
/// [`Error::OutputExists`] for another run.
pub(super) fn finished(
    path: &Path,
    identity: &Identity,
    shard: Option<Shard>,
) -> Result<Option<Summary>> {
    let Some(description) = read::<RunDescription>(&path.join(RunFolder::DESCRIPTION))? else {
        // A folder of something else could not be replaced by the shard's in the end.
        let is_lock = |entry: fs::DirEntry| entry.file_name() == FolderLock::FILE;
        let empty = fs::read_dir(path).map_or(true, |mut entries| {
            entries.all(|entry| entry.is_ok_and(is_lock))
        });
        return match empty {
            true => Ok(None),
            false => Err(Error::OutputExists { path: path.into() }),
        };
    };
    let same = description.identity == *identity && description.shard == shard;
    match read(&path.join(RunFolder::SUMMARY))? {
        Some(summary)
            if same && description.status == Status::Finished && Closed::read(path)?.is_some() =>
        {
            Ok(Some(summary))
        }
        _ => Err(Error::OutputExists { path: path.into() }),
    }
}

/// The description of a run in a folder, if there is one.
///
/// # Errors
/// One that cannot be read.
pub(crate) fn described(path: &Path) -> Result<Option<RunDescription>> {
    read(&path.join(RunFolder::DESCRIPTION))
}

/// The description of a run in a folder.
///
/// # Errors
/// [`Error::Merge`] if there is none.
pub(crate) fn read_description(path: &Path) -> Result<RunDescription> {
    described(path)?.ok_or_else(|| Error::Merge {
        path: path.into(),
        reason: format!("it has no `{}`", RunFolder::DESCRIPTION),
    })
}

/// A document, if it is there.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(dtta_base::Error::Read {
                path: path.into(),
                source,
            }
            .into());
        }
    };
    let parsed = serde_json::from_slice(&bytes).map_err(|source| dtta_base::Error::Json {
        path: path.into(),
        source,
    })?;
    Ok(Some(parsed))
}

impl RunDescription {
    /// The file that has it, in a run's folder.
    pub const FILE: &'static str = "run.json";

    /// Why this is not the same shard of the same run as another, in words: what this one has, and what the other. Nothing if it is.
    pub fn unlike(&self, other: &Self) -> Option<String> {
        let named =
            |shard: Option<Shard>| shard.map_or("no shard".into(), |s| format!("shard {s}"));
        let of_shard = (self.shard != other.shard).then(|| {
            let (own, others) = (named(self.shard), named(other.shard));
            format!("it is {own}, this is {others}")
        });
        self.difference(other).or(of_shard)
    }

    /// Refuses to take up another run.
    pub(super) fn expect_same(&self, other: &Self, path: &Path) -> Result<()> {
        match self.unlike(other) {
            Some(reason) => Err(refuse_resume(path, reason)),
            None => Ok(()),
        }
    }
}

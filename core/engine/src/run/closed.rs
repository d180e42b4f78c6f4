//! `unit.json`: which shard a folder holds, and its files with their digests. It is written last, so a folder that has it is whole, and so is
//! a copy of one to which it came last.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use dtta_base::{Digest, sha256_file, write_json};
use serde::{Deserialize, Serialize};

use super::folder::read;
use super::identity::Identity;
use super::unit::Shard;
use crate::error::Result;

/// A shard by what determines its records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardId {
    /// SHA-256 of the experiment, the digests of models, plugins and data, the seed and the positions: the same on whatever device.
    pub id: String,
    /// Which share of the run it is; `0/1` is all of it.
    pub shard: Shard,
    /// Its first position in the stream.
    pub first: usize,
    /// The position after its last.
    pub end: usize,
}

impl ShardId {
    pub(crate) fn new(
        identity: &Identity,
        seed: u64,
        shard: Shard,
        positions: &Range<usize>,
    ) -> Self {
        let mut digest = Digest::new();
        digest.field(&identity.experiment);
        for (name, value) in &identity.digests {
            digest.field(name);
            digest.field(value);
        }
        for number in [seed, positions.start as u64, positions.end as u64] {
            digest.field(number.to_le_bytes());
        }
        Self {
            id: digest.finish(),
            shard,
            first: positions.start,
            end: positions.end,
        }
    }
}

/// `unit.json`: what says that a folder is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// What the folder holds.
    #[serde(flatten)]
    pub shard: ShardId,
    /// Its files, by their path in the folder with `/`.
    files: BTreeMap<String, ClosedFile>,
}

/// A file that is not written to any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClosedFile {
    bytes: u64,
    sha256: String,
}

impl Closed {
    /// The file.
    pub const FILE: &'static str = "unit.json";

    /// The files of the folder, by their path in it with `/`.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Says that a folder is whole.
    pub(crate) fn write(folder: &Path, shard: ShardId) -> Result<()> {
        let mut files = BTreeMap::new();
        add_files(folder, "", &mut files)?;
        Ok(write_json(
            &folder.join(Self::FILE),
            &Self { shard, files },
        )?)
    }

    /// The one of a folder; nothing for a folder that is not whole.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>> {
        read(&folder.join(Self::FILE))
    }

    /// The first of these files that is not as it was when the folder was closed, in words.
    pub(crate) fn changed(&self, folder: &Path, names: &[&str]) -> Result<Option<String>> {
        for &name in names {
            let Some(file) = self.files.get(name) else {
                return Ok(Some(format!("its `{}` names no `{name}`", Self::FILE)));
            };
            let path = folder.join(name);
            let Ok(bytes) = fs::metadata(&path).map(|found| found.len()) else {
                return Ok(Some(format!("`{name}` is not there")));
            };
            if bytes != file.bytes {
                let expected = file.bytes;
                return Ok(Some(format!(
                    "`{name}` has {bytes} bytes, and had {expected} when the run was finished"
                )));
            }
            if sha256_file(&path)? != file.sha256 {
                return Ok(Some(format!(
                    "`{name}` was changed since the run was finished"
                )));
            }
        }
        Ok(None)
    }
}

/// Adds the files of a folder and of those in it; not those whose names begin with a dot: the lock, and what a kill left half written.
fn add_files(folder: &Path, within: &str, files: &mut BTreeMap<String, ClosedFile>) -> Result<()> {
    let failed = |source| dtta_base::Error::Read {
        path: folder.into(),
        source,
    };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path: PathBuf = entry.path();
        if name.starts_with('.') || name == Closed::FILE {
            continue;
        }
        if entry.file_type().map_err(failed)?.is_dir() {
            add_files(&path, &format!("{within}{name}/"), files)?;
            continue;
        }
        let file = ClosedFile {
            bytes: entry.metadata().map_err(failed)?.len(),
            sha256: sha256_file(&path)?,
        };
        files.insert(format!("{within}{name}"), file);
    }
    Ok(())
}

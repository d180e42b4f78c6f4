//! The log: one JSON object a line, in the order of the steps. Continuing a run drops the lines after its checkpoint.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use dtta_base::{Error, remove, write_whole};
use serde_json::Value;

use crate::error::Result;

/// Its name in the output folder.
const NAME: &str = "training.jsonl";

/// A log that is being written.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens the log in `folder`: a new one, or the lines up to step `kept` of the one that is there.
    pub fn open(folder: &Path, kept: Option<usize>) -> Result<Self> {
        let path = folder.join(NAME);
        let text = match kept {
            Some(step) => match fs::read_to_string(&path) {
                Ok(text) => until(&text, step),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
                Err(source) => return Err(Error::Read { path, source }.into()),
            },
            None => String::new(),
        };
        write_whole(&path, text.as_bytes())?;
        let opened = OpenOptions::new().append(true).open(&path);
        match opened {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(Error::Write { path, source }.into()),
        }
    }

    /// Appends a line.
    pub fn write(&mut self, line: &Value) -> Result<()> {
        let written = self.file.write_all(format!("{line}\n").as_bytes());
        Ok(written.map_err(|source| self.failed(source))?)
    }

    /// Waits until every line is on disk, as it has to be before a checkpoint counts on it.
    pub fn sync(&self) -> Result<()> {
        let synced = self.file.sync_data();
        Ok(synced.map_err(|source| self.failed(source))?)
    }

    /// Removes the log of an earlier run.
    pub fn remove(folder: &Path) -> Result<()> {
        Ok(remove(&folder.join(NAME))?)
    }

    fn failed(&self, source: std::io::Error) -> Error {
        Error::Write {
            path: self.path.clone(),
            source,
        }
    }
}

/// The whole lines of steps up to `step`; a line without a step is a heading and stays.
fn until(text: &str, step: usize) -> String {
    let mut kept = String::new();
    for line in text.split_inclusive('\n') {
        let Ok(value) = serde_json::from_str::<Value>(line) else {
            break;
        };
        if value["step"].as_u64().is_none_or(|at| at <= step as u64) {
            kept.push_str(line);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_whole_lines_up_to_the_checkpoint() {
        let text = "{\"kind\":\"denoiser\"}\n{\"step\":20}\n{\"step\":40}\n{\"step\":60}\n{\"st";
        let kept = "{\"kind\":\"denoiser\"}\n{\"step\":20}\n{\"step\":40}\n";
        assert_eq!(until(text, 40), kept);
        assert_eq!(until(text, 59), kept);
    }
}

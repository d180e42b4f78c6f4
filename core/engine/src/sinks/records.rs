//! `records.jsonl`: one line a sample.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use super::{Finished, Sink, Start};
use crate::error::{Error, Result};
use crate::run::refuse_resume;

/// Writes records as they come.
#[derive(Default)]
pub(crate) struct Records(Option<(PathBuf, File)>);

impl Records {
    /// Its file in the run's folder.
    pub const FILE: &'static str = "records.jsonl";

    fn written(path: &Path, source: std::io::Error) -> Error {
        let path = path.into();
        dtta_base::Error::Write { path, source }.into()
    }
}

impl Sink for Records {
    fn start(&mut self, start: &Start<'_>) -> Result<()> {
        let path = start.folder.join(Self::FILE);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .append(true)
            .open(&path)
            .map_err(|source| Self::written(&path, source))?;
        keep_lines(&file, &path, start.done)?;
        self.0 = Some((path, file));
        Ok(())
    }

    fn sample(&mut self, finished: &Finished<'_>) -> Result<()> {
        let Some((path, file)) = &mut self.0 else {
            return Ok(());
        };
        // One write a line, so that a killed run leaves whole ones.
        let line = serde_json::to_vec(finished.record).map_err(std::io::Error::from);
        line.and_then(|mut line| {
            line.push(b'\n');
            file.write_all(&line)
        })
        .map_err(|source| Self::written(path, source))
    }

    fn sync(&mut self) -> Result<()> {
        match &self.0 {
            Some((path, file)) => file
                .sync_data()
                .map_err(|source| Self::written(path, source)),
            None => Ok(()),
        }
    }
}

/// Cuts a file after its first `lines` lines.
fn keep_lines(file: &File, path: &Path, lines: usize) -> Result<()> {
    let read = |source| dtta_base::Error::Read {
        path: path.into(),
        source,
    };
    let mut reader = BufReader::new(file);
    let (mut length, mut line) = (0u64, Vec::new());
    for found in 0..lines {
        line.clear();
        let bytes = reader.read_until(b'\n', &mut line).map_err(read)?;
        if !line.ends_with(b"\n") {
            let reason = format!("it has {found} records, its checkpoint {lines}");
            return Err(refuse_resume(path, reason));
        }
        length += bytes as u64;
    }
    file.set_len(length)
        .map_err(|source| Records::written(path, source))
}

//! `samples.bin`: what the metric accumulated of each sample, before and after, in the order of the records. Scores, intervals and merged
//! summaries are made from it, so it stays with a finished run. Appended and read piece by piece: memory does not grow with the samples.
//!
//! Layout: [`MAGIC`], then for each sample its position (u64), the lengths of two saved accumulators (u32 each; [`UNSCORED`] twice where the
//! sample has no targets, [`SKIPPED`] twice where it was left out), and their bytes. All numbers are little-endian.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{Finished, Sink, Start};
use crate::error::{Error, Result};
use crate::run::refuse_resume;

const MAGIC: &[u8] = b"dtta-samples 1\n";
/// The lengths of what is not there.
const UNSCORED: u32 = u32::MAX;
const SKIPPED: u32 = u32::MAX - 1;
/// The most that an accumulator of one sample may take: a confusion matrix of 4,000 classes does.
const MOST: u32 = 1 << 28;

/// Writes the accumulators of samples as they come.
#[derive(Default)]
pub(crate) struct States(Option<StatesWriter>);

impl States {
    /// Its file in the run's folder.
    pub const FILE: &'static str = "samples.bin";
}

impl Sink for States {
    fn start(&mut self, start: &Start<'_>) -> Result<()> {
        self.0 = Some(StatesWriter::open(start.folder, start.done)?);
        Ok(())
    }

    fn sample(&mut self, finished: &Finished<'_>) -> Result<()> {
        let states = finished
            .scored
            .map(|scored| [scored.states[0].as_slice(), scored.states[1].as_slice()]);
        match &mut self.0 {
            Some(writer) => {
                let skipped = finished.record.skipped.is_some();
                writer.add(finished.record.position, states, skipped)
            }
            None => Ok(()),
        }
    }

    fn sync(&mut self) -> Result<()> {
        self.0.as_mut().map_or(Ok(()), StatesWriter::sync)
    }
}

/// The file on its way.
pub(crate) struct StatesWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl StatesWriter {
    /// Opens the file of a folder to append after its first `keep` samples.
    pub fn open(folder: &Path, keep: usize) -> Result<Self> {
        let path = folder.join(States::FILE);
        let failed = |source| written(&path, source);
        let mut length = MAGIC.len() as u64;
        if keep > 0 {
            let mut reader = StatesFile::open(folder)?;
            for found in 0..keep {
                let Some(state) = reader.next()? else {
                    let reason = format!("it has {found} samples, its checkpoint {keep}");
                    return Err(refuse_resume(&path, reason));
                };
                length += state.bytes();
            }
        }
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        file.write_all(MAGIC).map_err(failed)?;
        file.set_len(length).map_err(failed)?;
        file.seek(SeekFrom::Start(length)).map_err(failed)?;
        Ok(Self {
            file: BufWriter::new(file),
            path,
        })
    }

    /// Appends a sample.
    pub fn add(
        &mut self,
        position: usize,
        states: Option<[&[u8]; 2]>,
        skipped: bool,
    ) -> Result<()> {
        let lengths = match states {
            Some(states) => states.map(|state| state.len() as u32),
            None if skipped => [SKIPPED; 2],
            None => [UNSCORED; 2],
        };
        let mut write = || {
            self.file.write_all(&(position as u64).to_le_bytes())?;
            for length in lengths {
                self.file.write_all(&length.to_le_bytes())?;
            }
            states
                .into_iter()
                .flatten()
                .try_for_each(|state| self.file.write_all(state))
        };
        write().map_err(|source| written(&self.path, source))
    }

    /// Puts it on disk.
    pub fn sync(&mut self) -> Result<()> {
        self.file
            .flush()
            .and_then(|()| self.file.get_ref().sync_data())
            .map_err(|source| written(&self.path, source))
    }
}

/// What is kept of a sample.
pub(crate) struct SampleState {
    pub position: usize,
    /// The accumulators of the source model and of the adapted one, where it was scored.
    pub states: Option<[Vec<u8>; 2]>,
    /// Whether it was left out.
    pub skipped: bool,
}

impl SampleState {
    /// What it takes in the file.
    pub fn bytes(&self) -> u64 {
        let states = self.states.iter().flatten();
        16 + states.map(|state| state.len() as u64).sum::<u64>()
    }
}

/// The file, from its beginning.
pub(crate) struct StatesFile {
    path: PathBuf,
    file: BufReader<File>,
}

impl StatesFile {
    /// Where the first sample stands.
    pub const FIRST: u64 = MAGIC.len() as u64;

    /// Opens the file of a folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(States::FILE);
        let file = File::open(&path).map_err(|source| read(&path, source))?;
        let mut file = BufReader::with_capacity(1 << 18, file);
        let mut magic = [0; MAGIC.len()];
        let begun = file.read_exact(&mut magic);
        if begun.is_err() || magic != MAGIC {
            return Err(refuse_resume(
                &path,
                "it is not a file of samples of this version",
            ));
        }
        Ok(Self { path, file })
    }

    /// The next sample; nothing at the end, or where the file was cut within one.
    pub fn next(&mut self) -> Result<Option<SampleState>> {
        sample(&self.path, &mut self.file)
    }

    /// The sample that stands at a place of the file: [`Self::FIRST`] and then the [`bytes`](SampleState::bytes) of those before it.
    pub fn at(&self, place: u64) -> Result<SampleState> {
        let mut file = self.file.get_ref();
        file.seek(SeekFrom::Start(place))
            .map_err(|source| read(&self.path, source))?;
        let found = sample(&self.path, &mut file)?;
        found.ok_or_else(|| refuse_resume(&self.path, "it was cut while it was read"))
    }
}

/// The sample that comes next; nothing at the end, or where there is less than a whole one.
fn sample(path: &Path, file: &mut impl Read) -> Result<Option<SampleState>> {
    let mut fill = |buffer: &mut [u8]| match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(source) => Err(read(path, source)),
    };
    let mut head = [0; 16];
    if !fill(&mut head)? {
        return Ok(None);
    }
    let (position, lengths) = head.split_at(8);
    let position = u64::from_le_bytes(position.try_into().unwrap_or_default()) as usize;
    let (lengths, _) = lengths.as_chunks::<4>();
    let lengths = [lengths[0], lengths[1]].map(u32::from_le_bytes);
    if lengths == [UNSCORED; 2] || lengths == [SKIPPED; 2] {
        return Ok(Some(SampleState {
            position,
            states: None,
            skipped: lengths == [SKIPPED; 2],
        }));
    }
    if lengths.iter().any(|&length| length > MOST) {
        return Err(refuse_resume(path, "it contains an invalid sample"));
    }
    let mut states = lengths.map(|length| vec![0; length as usize]);
    for state in &mut states {
        if !fill(state)? {
            return Ok(None);
        }
    }
    Ok(Some(SampleState {
        position,
        states: Some(states),
        skipped: false,
    }))
}

fn written(path: &Path, source: io::Error) -> Error {
    let path = path.into();
    dtta_base::Error::Write { path, source }.into()
}

fn read(path: &Path, source: io::Error) -> Error {
    let path = path.into();
    dtta_base::Error::Read { path, source }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(folder: &Path) -> Vec<(usize, Option<[Vec<u8>; 2]>)> {
        let mut file = StatesFile::open(folder).unwrap();
        let next = || {
            file.next()
                .unwrap()
                .map(|state| (state.position, state.states))
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn continues_after_the_samples_that_count_and_forgets_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let mut writer = StatesWriter::open(folder, 0).unwrap();
        writer.add(4, Some([b"one", b""]), false).unwrap();
        writer.add(5, None, true).unwrap();
        writer.add(6, Some([b"three", b"four"]), false).unwrap();
        writer.sync().unwrap();
        // Cut within the last sample, as a kill may leave it.
        let path = folder.join(States::FILE);
        let length = std::fs::metadata(&path).unwrap().len();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(length - 1).unwrap();
        assert_eq!(all(folder).len(), 2);
        let mut writer = StatesWriter::open(folder, 2).unwrap();
        writer.add(6, Some([b"x", b"y"]), false).unwrap();
        writer.sync().unwrap();
        let states = |a: &[u8], b: &[u8]| Some([a.to_vec(), b.to_vec()]);
        assert_eq!(
            all(folder),
            [(4, states(b"one", b"")), (5, None), (6, states(b"x", b"y"))]
        );
        // Any of them by its place.
        let file = StatesFile::open(folder).unwrap();
        let second = StatesFile::FIRST + file.at(StatesFile::FIRST).unwrap().bytes();
        let third = second + file.at(second).unwrap().bytes();
        assert_eq!(file.at(third).unwrap().states, states(b"x", b"y"));
        assert_eq!(file.at(StatesFile::FIRST).unwrap().position, 4);
        assert!(file.at(third + 1).is_err());
        assert!(StatesWriter::open(folder, 4).is_err());
        std::fs::write(&path, b"something else").unwrap();
        assert!(StatesFile::open(folder).is_err());
    }
}

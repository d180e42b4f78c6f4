//! Event files for TensorBoard, in the run's folder: the leading score of each domain so far, losses, and time per sample. A file is a
//! sequence of TFRecords (length and bytes, each with a masked CRC-32C), whose bytes are `tensorflow.Event` messages of Protocol Buffers
//! (tensorflow/core/util/event.proto). The few fields that a scalar needs are written by hand.
//!
//! A file is named by the samples that were finished when it began. A continued run cuts what lies beyond its checkpoint from earlier files
//! and begins one of its own, so that no step is there twice.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use dtta_plugin::ScoreSpec;

use super::{Finished, Sink, Start};
use crate::error::Result;
use crate::record::{Scores, Summary};

/// Points of a curve at most; of more samples, each point stands for several.
const POINTS: usize = 10_000;
/// A record of more bytes is none of ours.
const LONGEST: u64 = 1 << 20;

/// Writes event files that TensorBoard opens (`tensorboard --logdir runs`).
///
/// Steps are finished samples. Scalars: `SCORE/DOMAIN/source` and `SCORE/DOMAIN/adapted`, the leading score of the domain so far; `loss/first`
/// and `loss/last`, the mean loss of the first step and the last over the samples since the last point; `time/milliseconds`, their mean time;
/// at the end `SCORE/mean/source` and `SCORE/mean/adapted`.
#[derive(Default)]
pub struct EventFile {
    file: Option<(PathBuf, BufWriter<File>)>,
    specs: Vec<ScoreSpec>,
    /// Samples of a point.
    every: usize,
    done: usize,
    since: Since,
}

/// What came since the last point.
#[derive(Default)]
struct Since {
    samples: usize,
    milliseconds: f64,
    with_loss: usize,
    losses: [f64; 2],
}

impl EventFile {
    const BEGIN: &'static str = "events.out.tfevents.";
    const END: &'static str = ".dtta";

    /// The event files of a folder with the samples that were finished when they began, first to last.
    fn all(folder: &Path) -> Result<Vec<(usize, PathBuf)>> {
        let failed = |source| dtta_base::Error::Read {
            path: folder.into(),
            source,
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let start = name.to_str().and_then(|name| {
                let start = name.strip_prefix(Self::BEGIN)?;
                start.strip_suffix(Self::END)?.parse().ok()
            });
            found.extend(start.map(|start| (start, entry.path())));
        }
        found.sort();
        Ok(found)
    }

    /// Removes the event files of a folder.
    pub(crate) fn remove(folder: &Path) -> Result<()> {
        for (_, path) in Self::all(folder)? {
            dtta_base::remove(&path)?;
        }
        Ok(())
    }

    fn write(&mut self, step: usize, scalars: &[(String, f64)]) -> Result<()> {
        let Some((path, file)) = &mut self.file else {
            return Ok(());
        };
        if scalars.is_empty() {
            return Ok(());
        }
        let event = event(now(), step as u64, &What::Scalars(scalars));
        put(file, &event).map_err(|source| written(path, source))
    }

    fn flush(&mut self) -> Result<()> {
        let Some((path, file)) = &mut self.file else {
            return Ok(());
        };
        let flushed = file.flush().and_then(|()| file.get_ref().sync_data());
        flushed.map_err(|source| written(path, source))
    }

    /// The leading score before and after, under a name.
    fn scores(&self, name: &str, [source, adapted]: [&Scores; 2]) -> Vec<(String, f64)> {
        let leads =
            |score: &&String| ScoreSpec::of(&self.specs, score).is_some_and(|spec| spec.leads);
        let lead = source.keys().find(leads).or_else(|| source.keys().next());
        let Some(lead) = lead else {
            return Vec::new();
        };
        let sides = [("source", source), ("adapted", adapted)];
        let scalars = sides.into_iter().filter_map(|(side, scores)| {
            Some((format!("{lead}/{name}/{side}"), *scores.get(lead)?))
        });
        scalars.collect()
    }
}

impl Sink for EventFile {
    fn start(&mut self, start: &Start<'_>) -> Result<()> {
        for (began, path) in Self::all(start.folder)? {
            match began >= start.done {
                true => dtta_base::remove(&path)?,
                false => cut(&path, start.done as u64)?,
            }
        }
        let name = format!("{}{:012}{}", Self::BEGIN, start.done, Self::END);
        let path = start.folder.join(name);
        let file = File::create(&path).map_err(|source| written(&path, source))?;
        let mut file = BufWriter::new(file);
        // A viewer that is open forgets what it saw beyond this step.
        let head = [
            event(now(), 0, &What::Version),
            event(now(), start.done as u64 + 1, &What::Begin),
        ];
        for event in head {
            put(&mut file, &event).map_err(|source| written(&path, source))?;
        }
        *self = Self {
            file: Some((path, file)),
            specs: start.run.scores.clone(),
            every: start.total.div_ceil(POINTS).max(1),
            done: start.done,
            since: Since::default(),
        };
        self.flush()
    }

    fn sample(&mut self, finished: &Finished<'_>) -> Result<()> {
        let record = finished.record;
        self.done = finished.done;
        self.since.samples += 1;
        self.since.milliseconds += record.milliseconds;
        if let (Some(first), Some(last)) = (record.loss.first(), record.loss.last()) {
            self.since.with_loss += 1;
            self.since.losses[0] += f64::from(*first);
            self.since.losses[1] += f64::from(*last);
        }
        let is_due = finished.done.is_multiple_of(self.every) || finished.done == finished.total;
        if !is_due {
            return Ok(());
        }
        let since = std::mem::take(&mut self.since);
        let [source, adapted] = finished.so_far;
        let mut scalars = self.scores(&record.domain, [source, adapted]);
        if since.with_loss > 0 {
            let [first, last] = since.losses.map(|sum| sum / since.with_loss as f64);
            scalars.push(("loss/first".into(), first));
            scalars.push(("loss/last".into(), last));
        }
        let milliseconds = since.milliseconds / since.samples as f64;
        scalars.push(("time/milliseconds".into(), milliseconds));
        self.write(finished.done, &scalars)
    }

    fn sync(&mut self) -> Result<()> {
        self.flush()
    }

    fn finish(&mut self, summary: &Summary) -> Result<()> {
        let scalars = self.scores("mean", [&summary.mean.source, &summary.mean.adapted]);
        self.write(self.done, &scalars)?;
        self.flush()
    }
}

/// What an event says.
enum What<'a> {
    /// The version of the format, first in a file.
    Version,
    /// Work begins, or continues, at this step.
    Begin,
    /// Numbers by name.
    Scalars(&'a [(String, f64)]),
}

/// A `tensorflow.Event` as bytes.
fn event(wall_time: f64, step: u64, what: &What<'_>) -> Vec<u8> {
    let mut event = Vec::new();
    // wall_time, double, 1
    event.push(1 << 3 | 1);
    event.extend(wall_time.to_le_bytes());
    // step, int64, 2
    event.push(2 << 3);
    varint(&mut event, step);
    match what {
        // file_version, string, 3
        What::Version => bytes(&mut event, 3, b"brain.Event:2"),
        // session_log, SessionLog, 7; in it status, 1: START is 1
        What::Begin => bytes(&mut event, 7, &[1 << 3, 1]),
        // summary, Summary, 5; in it value, Value, 1; in it tag, string, 1, and simple_value, float, 2
        What::Scalars(scalars) => {
            let mut summary = Vec::new();
            for (tag, number) in *scalars {
                let mut value = Vec::new();
                bytes(&mut value, 1, tag.as_bytes());
                value.push(2 << 3 | 5);
                value.extend((*number as f32).to_le_bytes());
                bytes(&mut summary, 1, &value);
            }
            bytes(&mut event, 5, &summary);
        }
    }
    event
}

/// A field that has a length.
fn bytes(message: &mut Vec<u8>, field: u8, value: &[u8]) {
    message.push(field << 3 | 2);
    varint(message, value.len() as u64);
    message.extend(value);
}

fn varint(message: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        message.push(number as u8 | 0x80);
        number >>= 7;
    }
    message.push(number as u8);
}

/// The step of an event that [`event`] wrote: after the field of the time, which has 9 bytes.
fn step_of(event: &[u8]) -> Option<u64> {
    let step = event.get(9..)?.strip_prefix(&[2 << 3])?;
    let mut number = 0;
    for (place, byte) in step.iter().take(10).enumerate() {
        number |= u64::from(byte & 0x7F).checked_shl(7 * place as u32)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// The checksum of a TFRecord.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xA282_EAD8)
}

/// Writes a TFRecord, in one piece.
fn put(file: &mut impl Write, record: &[u8]) -> io::Result<()> {
    let length = (record.len() as u64).to_le_bytes();
    let mut all = Vec::with_capacity(record.len() + 16);
    all.extend(length);
    all.extend(masked(&length).to_le_bytes());
    all.extend(record);
    all.extend(masked(record).to_le_bytes());
    file.write_all(&all)
}

/// The next TFRecord; none at the end, or where a file is cut or damaged.
fn take(file: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; 12];
    let mut fill = |buffer: &mut [u8]| match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    };
    if !fill(&mut head)? {
        return Ok(None);
    }
    let (length, sum) = head.split_at(8);
    let number = u64::from_le_bytes(length.try_into().unwrap_or_default());
    if sum != masked(length).to_le_bytes() || number > LONGEST {
        return Ok(None);
    }
    let (mut record, mut sum) = (vec![0; number as usize], [0; 4]);
    let is_whole = fill(&mut record)? && fill(&mut sum)?;
    Ok((is_whole && sum == masked(&record).to_le_bytes()).then_some(record))
}

/// Cuts a file before its first event beyond a step.
fn cut(path: &Path, step: u64) -> Result<()> {
    let read = |source| dtta_base::Error::Read {
        path: path.into(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(read)?;
    let mut reader = BufReader::new(&file);
    let mut length = 0;
    while let Some(record) = take(&mut reader).map_err(read)? {
        // What begins at the next step is no event of it.
        let is_beyond = step_of(&record).is_none_or(|found| found > step);
        if is_beyond {
            break;
        }
        length += record.len() as u64 + 16;
    }
    let cut = file.set_len(length).and_then(|()| file.sync_data());
    cut.map_err(|source| written(path, source))
}

/// Seconds since 1970.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

fn written(path: &Path, source: io::Error) -> crate::Error {
    let path = path.into();
    dtta_base::Error::Write { path, source }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_the_checksums_of_the_format() {
        // CRC-32C of 32 zero bytes is 0x8A9136AA (RFC 3720, B.4); rotated right by 15 bits, 0x6D551522; plus the constant, 0x0FD7FFFA.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(masked(&[0; 32]), 0x0FD7_FFFA);
        let mut file = Vec::new();
        put(&mut file, b"one").unwrap();
        put(&mut file, b"three").unwrap();
        assert_eq!(file.len(), 16 + 3 + 16 + 5);
        let mut reader = &*file;
        assert_eq!(take(&mut reader).unwrap().unwrap(), b"one");
        assert_eq!(take(&mut reader).unwrap().unwrap(), b"three");
        assert_eq!(take(&mut reader).unwrap(), None);
        for place in [0, 9, 13, 17] {
            let mut damaged = file.clone();
            damaged[place] ^= 1;
            assert_eq!(take(&mut &*damaged).unwrap(), None, "byte {place}");
        }
        assert_eq!(take(&mut &file[..18]).unwrap(), None);
    }

    #[test]
    fn an_event_is_a_message_of_protocol_buffers() {
        let scalars = [("a/b".to_owned(), 1.0)];
        let found = event(2.0, 300, &What::Scalars(&scalars));
        let expected = [
            &[0x09, 0, 0, 0, 0, 0, 0, 0, 0x40][..],
            &[0x10, 0xAC, 0x02],
            &[
                0x2A, 12, 0x0A, 10, 0x0A, 3, b'a', b'/', b'b', 0x15, 0, 0, 0x80, 0x3F,
            ],
        ];
        assert_eq!(found, expected.concat());
        assert_eq!(step_of(&found), Some(300));
        assert_eq!(step_of(&event(2.0, u64::MAX, &What::Begin)), Some(u64::MAX));
        assert_eq!(step_of(b"short"), None);
    }

    #[test]
    fn a_file_is_cut_before_the_first_event_beyond_a_step() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.out.tfevents.000000000000.dtta");
        let mut file = File::create(&path).unwrap();
        for step in 0..5 {
            put(
                &mut file,
                &event(1.0, step, &What::Scalars(&[("x".into(), 0.5)])),
            )
            .unwrap();
        }
        file.write_all(&[7; 9]).unwrap();
        cut(&path, 3).unwrap();
        let mut reader = File::open(&path).unwrap();
        let mut steps = Vec::new();
        while let Some(record) = take(&mut reader).unwrap() {
            steps.push(step_of(&record).unwrap());
        }
        assert_eq!(steps, [0, 1, 2, 3]);
        assert_eq!(EventFile::all(folder.path()).unwrap().len(), 1);
        EventFile::remove(folder.path()).unwrap();
        assert!(!path.exists());
    }
}

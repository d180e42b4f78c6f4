#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

//! Event files for TensorBoard, read back record by record. `tests/reference/event_files.py` reads them with TensorBoard itself.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::Fixture;
use dtta::{EventFile, Existing, Finished, RunOptions, Sink, Summary};

/// Stops a run after some samples.
struct StopAfter<'a>(usize, &'a AtomicBool);

impl Sink for StopAfter<'_> {
    fn sample(&mut self, finished: &Finished<'_>) -> dtta::Result<()> {
        if finished.done >= self.0 {
            self.1.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn run(fixture: &Fixture, out: &str, existing: Existing, samples: usize) -> dtta::Result<Summary> {
    let stop = AtomicBool::new(false);
    let options = RunOptions {
        existing,
        ..RunOptions::new(fixture.path().join(out), &stop)
    };
    let sinks: Vec<Box<dyn Sink>> = vec![
        Box::new(EventFile::default()),
        Box::new(StopAfter(samples, &stop)),
    ];
    let mut prepared = fixture.prepare(&Fixture::experiment())?;
    prepared.run(&options, sinks)
}

/// A field of a message of Protocol Buffers.
enum Field<'a> {
    Number(u64),
    Double(f64),
    Float(f32),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut number, mut shift) = (0, 0);
    loop {
        let (&byte, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        number |= u64::from(byte & 0x7F) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return number;
        }
    }
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let mut take = |count: usize| {
            let (taken, rest) = bytes.split_at(count);
            bytes = rest;
            taken
        };
        let field = match key & 7 {
            0 => Field::Number(varint(&mut bytes)),
            1 => Field::Double(f64::from_le_bytes(take(8).try_into().unwrap())),
            5 => Field::Float(f32::from_le_bytes(take(4).try_into().unwrap())),
            2 => {
                let length = varint(&mut bytes) as usize;
                let (taken, rest) = bytes.split_at(length);
                bytes = rest;
                Field::Bytes(taken)
            }
            kind => panic!("a field of kind {kind}"),
        };
        fields.push((key >> 3, field));
    }
    fields
}

/// The records of a file, whose checksums are those of the format.
fn records(path: &Path) -> Vec<Vec<u8>> {
    let masked = |bytes: &[u8]| {
        let sum = crc32c::crc32c(bytes);
        (sum.rotate_right(15))
            .wrapping_add(0xA282_EAD8)
            .to_le_bytes()
    };
    let bytes = fs::read(path).unwrap();
    let (mut rest, mut records) = (&*bytes, Vec::new());
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        assert_eq!(rest[8..12], masked(&rest[..8]));
        let record = &rest[12..12 + length];
        assert_eq!(rest[12 + length..16 + length], masked(record));
        records.push(record.to_vec());
        rest = &rest[16 + length..];
    }
    records
}

/// Scalars of a run by name: step and number, in the order of the files.
fn scalars(folder: &Path) -> BTreeMap<String, Vec<(u64, f32)>> {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.retain(|path| path.to_str().unwrap().contains("tfevents"));
    paths.sort();
    let mut found: BTreeMap<String, Vec<(u64, f32)>> = BTreeMap::new();
    for path in paths {
        for (n, record) in records(&path).iter().enumerate() {
            let mut step = 0;
            for (field, value) in fields(record) {
                match (field, value) {
                    (1, Field::Double(time)) => assert!(time > 1e9, "{time}"),
                    (2, Field::Number(number)) => step = number,
                    (3, Field::Bytes(version)) => {
                        assert_eq!((n, version), (0, &b"brain.Event:2"[..]))
                    }
                    (7, Field::Bytes(log)) => assert_eq!(log, [8, 1]),
                    (5, Field::Bytes(summary)) => {
                        for (_, value) in fields(summary) {
                            let Field::Bytes(value) = value else {
                                panic!("a value")
                            };
                            let [(1, Field::Bytes(tag)), (2, Field::Float(number))] =
                                fields(value)[..]
                            else {
                                panic!("a tag and a number")
                            };
                            let tag = String::from_utf8(tag.to_vec()).unwrap();
                            found.entry(tag).or_default().push((step, number));
                        }
                    }
                    (field, _) => panic!("field {field}"),
                }
            }
        }
    }
    found
}

#[test]
fn event_files_hold_the_scores_so_far_and_those_of_the_summary() {
    let fixture = Fixture::new();
    let summary = run(&fixture, "run", Existing::Keep, usize::MAX).unwrap();
    let found = scalars(&fixture.path().join("run"));
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    let expected = [
        "accuracy/clean/adapted",
        "accuracy/clean/source",
        "accuracy/gaussian_noise/3/adapted",
        "accuracy/gaussian_noise/3/source",
        "accuracy/mean/adapted",
        "accuracy/mean/source",
        "loss/first",
        "loss/last",
        "time/milliseconds",
    ];
    assert_eq!(names, expected);
    let steps = |name: &str| found[name].iter().map(|point| point.0).collect::<Vec<_>>();
    assert_eq!(steps("accuracy/clean/source"), Vec::from_iter(1..=8));
    assert_eq!(
        steps("accuracy/gaussian_noise/3/source"),
        Vec::from_iter(9..=16)
    );
    assert_eq!(steps("loss/last"), Vec::from_iter(1..=16));
    for (n, domain) in summary.domains.iter().enumerate() {
        for (side, scores) in [("source", &domain.source), ("adapted", &domain.adapted)] {
            let name = format!("accuracy/{}/{side}", domain.name);
            let last = (8 * (n as u64 + 1), scores["accuracy"] as f32);
            assert_eq!(found[&name].last(), Some(&last), "{name}");
        }
    }
    let mean = summary.mean.adapted["accuracy"] as f32;
    assert_eq!(found["accuracy/mean/adapted"], [(16, mean)]);
    let records = fixture.records("run");
    let losses: Vec<_> = records
        .iter()
        .zip(1..)
        .map(|(record, step)| (step, record.loss[0]))
        .collect();
    assert_eq!(found["loss/first"], losses);
}

#[test]
fn a_continued_run_has_no_step_twice() {
    let fixture = Fixture::new();
    run(&fixture, "whole", Existing::Keep, usize::MAX).unwrap();
    let parted = fixture.path().join("parted");
    // Stopped after 4 samples, killed after 8 (their checkpoint is taken back), and continued.
    run(&fixture, "parted", Existing::Keep, 4).unwrap_err();
    let kept: Vec<_> = ["checkpoint.json", "checkpoint-4.safetensors", "run.json"]
        .map(|name| (parted.join(name), fs::read(parted.join(name)).unwrap()))
        .into();
    run(&fixture, "parted", Existing::Resume, 8).unwrap_err();
    assert_eq!(scalars(&parted)["loss/first"].len(), 8);
    fs::remove_file(parted.join("checkpoint-8.safetensors")).unwrap();
    for (path, bytes) in kept {
        fs::write(path, bytes).unwrap();
    }
    run(&fixture, "parted", Existing::Resume, usize::MAX).unwrap();
    let without_times = |folder: &Path| {
        let mut found = scalars(folder);
        let times = found.remove("time/milliseconds").unwrap();
        (found, times.len())
    };
    let whole = fixture.path().join("whole");
    assert_eq!(without_times(&parted), without_times(&whole));
    // A run that replaces it leaves nothing of its events.
    fixture
        .run_as(
            &Fixture::experiment(),
            "parted",
            Existing::Replace,
            dtta::Shard::whole(),
            usize::MAX,
        )
        .unwrap();
    assert!(scalars(&parted).is_empty());
}

//! Putting shards together: the run that they are parts of, as if it had not been cut.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use dtta_plugin::Plugin;
use dtta_tensor::Device;

use crate::document::Document;
use crate::error::{Error, Result};
use crate::prepare::{Extensions, open_scorer};
use crate::record::{Record, RunDescription, Status, Summary};
use crate::report::{self, StatesFile};
use crate::run::{Closed, Existing, RunFolder, Shard, ShardId, described, read_description};
use crate::sinks::{Records, States, StatesWriter};

/// The files of a shard that a merge reads, beside [`Closed::FILE`].
pub const MERGED: [&str; 4] = [
    RunFolder::DESCRIPTION,
    RunFolder::SUMMARY,
    Records::FILE,
    States::FILE,
];

/// A finished run, or a shard of one.
struct Piece {
    path: PathBuf,
    run: RunDescription,
    summary: Option<Summary>,
    /// Its first position.
    start: usize,
}

/// Merges finished shards into a run of its own in `out`: records, what metrics accumulated, description and summary, those of an unbroken
/// run bit for bit but for times. Opens nothing but the experiment's metric. Where `out` holds the same run, it is left alone if it is finished, and
/// makes way if it is not.
///
/// # Errors
/// [`Error::Merge`] for runs that are not finished, are of other experiments, digests, devices or versions, or together hold a sample twice or
/// not at all; [`Error::OutputExists`] for another run in `out`; whatever the metric refuses.
pub fn merge(
    runs: &[PathBuf],
    out: &Path,
    extensions: &Extensions,
    device: &Device,
) -> Result<Summary> {
    merge_into(runs, out, extensions, device, Existing::Keep)
}

/// As [`merge`], with what is to become of a run that `out` holds.
pub(crate) fn merge_into(
    runs: &[PathBuf],
    out: &Path,
    extensions: &Extensions,
    device: &Device,
    existing: Existing,
) -> Result<Summary> {
    let mut pieces = runs
        .iter()
        .map(|path| Piece::open(path))
        .collect::<Result<Vec<_>>>()?;
    pieces.sort_by_key(|piece| piece.start);
    let Some(first) = pieces.first() else {
        return Err(refuse(out, "there is no run to merge"));
    };
    for piece in &pieces {
        if let Some(difference) = piece.run.difference(&first.run) {
            let reason = format!("{difference} (`{}`)", first.path.display());
            return Err(refuse(&piece.path, reason));
        }
    }
    // Another function of the program's would score what this one did.
    let metric = extensions.own.metric.as_ref();
    let needed = first.run.identity.digests.get("metric/program");
    if needed.map(String::as_str) != metric.map(Plugin::digest)
        && let Some(name) = first.run.experiment.plugins.metric.as_ref()
    {
        let reason = match needed {
            Some(_) => format!(
                "its metric, `{}`, is a function of the program that ran it, and no plugin; what is to be merged elsewhere has a plugin",
                name.plugin
            ),
            None => "its metric is a plugin, and the program has one of its own".into(),
        };
        return Err(refuse(&first.path, reason));
    }
    let existing = match (existing, described(out)?) {
        // What is merged there holds all that this run, or an interrupted merge, had there.
        (Existing::Keep, Some(earlier))
            if earlier.shard.is_none() && earlier.difference(&first.run).is_none() =>
        {
            if earlier.status == Status::Finished
                && Closed::read(out)?.is_some()
                && let Some(summary) = RunFolder::summary_in(out)?
            {
                return Ok(summary);
            }
            Existing::Replace
        }
        (existing, _) => existing,
    };
    let mut run = first.run.clone();
    run.shard = None;
    run.status = Status::Running;
    run.done = Default::default();
    run.done.seconds = vec![0.0; run.domains.len()];
    for piece in &pieces {
        run.done.samples += piece.run.done.samples;
        run.done.draws += piece.run.done.draws;
        for (sum, seconds) in run.done.seconds.iter_mut().zip(&piece.run.done.seconds) {
            *sum += seconds;
        }
    }
    let folder = RunFolder::open(out, existing)?;
    folder.describe(&run, Status::Running)?;
    let written = write(&pieces, &run, folder.path());
    if let Err(error) = written {
        folder.clear()?;
        return Err(error);
    }
    let document = Document {
        path: run.file.clone().into(),
        experiment: run.experiment.clone(),
        overrides: Default::default(),
    };
    let scorer = open_scorer(&document, extensions, device)?;
    let peaks = pieces
        .iter()
        .map(|piece| piece.summary.as_ref()?.peak_memory_bytes);
    let peak = peaks.flatten().max();
    let summary = report::summary(&run, &scorer, StatesFile::open(folder.path())?, peak)?;
    folder.finish(&mut run, &summary)?;
    let samples = run.domains.iter().map(|domain| domain.samples).sum();
    folder.close(ShardId::new(
        &run.identity,
        run.seed,
        Shard::whole(),
        &(0..samples),
    ))?;
    Ok(summary)
}

impl Piece {
    fn open(path: &Path) -> Result<Self> {
        let run = read_description(path)?;
        if run.status != Status::Finished {
            let reason = "it is not finished; continue it with `--resume`, or run the shard again";
            return Err(refuse(path, reason));
        }
        let Some(closed) = Closed::read(path)? else {
            let reason = "it has no `unit.json`, which is written and has to be copied last; copy it whole, or run the shard again";
            return Err(refuse(path, reason));
        };
        if let Some(reason) = closed.changed(path, &MERGED)? {
            return Err(refuse(path, reason));
        }
        let mut states = StatesFile::open(path)?;
        let start = states.next()?.map_or(0, |state| state.position);
        let summary = RunFolder::summary_in(path)?;
        Ok(Self {
            path: path.into(),
            run,
            summary,
            start,
        })
    }
}

/// Records and accumulators of all pieces, in the order of the stream.
fn write(pieces: &[Piece], run: &RunDescription, folder: &Path) -> Result<()> {
    let total: usize = run.domains.iter().map(|domain| domain.samples).sum();
    let path = folder.join(Records::FILE);
    let failed = |source| dtta_base::Error::Write {
        path: path.clone(),
        source,
    };
    let mut records = std::io::BufWriter::new(File::create(&path).map_err(failed)?);
    let mut writer = StatesWriter::open(folder, 0)?;
    let mut next = 0;
    for piece in pieces {
        let mut states = StatesFile::open(&piece.path)?;
        let own = piece.path.join(Records::FILE);
        let read = |source| dtta_base::Error::Read {
            path: own.clone(),
            source,
        };
        for line in BufReader::new(File::open(&own).map_err(read)?).lines() {
            let line = line.map_err(read)?;
            let record: Record =
                serde_json::from_str(&line).map_err(|source| dtta_base::Error::Json {
                    path: own.clone(),
                    source,
                })?;
            let state = states.next()?;
            let state = state.filter(|state| state.position == record.position);
            let Some(state) = state else {
                let reason = format!("sample `{}` has a record and no scores", record.id);
                return Err(refuse(&piece.path, reason));
            };
            if record.position != next {
                let reason = match record.position < next {
                    true => format!(
                        "sample `{}` (position {}) is in another run too",
                        record.id, record.position
                    ),
                    false => format!("positions {next} to {} are in no run", record.position - 1),
                };
                return Err(refuse(&piece.path, reason));
            }
            writeln!(records, "{line}").map_err(failed)?;
            let states = state.states.as_ref();
            let states = states.map(|states| [states[0].as_slice(), states[1].as_slice()]);
            writer.add(record.position, states, state.skipped)?;
            next += 1;
        }
    }
    if next != total {
        let reason = format!("positions {next} to {} are in no run", total - 1);
        return Err(refuse(folder, reason));
    }
    let records = records
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    records.sync_data().map_err(failed)?;
    writer.sync()
}

fn refuse(path: &Path, reason: impl Into<String>) -> Error {
    Error::Merge {
        path: path.into(),
        reason: reason.into(),
    }
}

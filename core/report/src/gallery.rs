//! Pictures of samples: the first of each domain that the run made one of, not chosen for their result.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dtta::Record;

use crate::error::Result;
use crate::found::picture;

/// A picture of more bytes is left out.
const LARGEST: u64 = 400_000;
/// All pictures of a run together.
const MOST_BYTES: usize = 2_000_000;

/// Which samples are shown.
#[derive(Default)]
pub struct Gallery {
    folder: PathBuf,
    /// Samples of each domain that the run made pictures of.
    made: usize,
    /// Samples of each domain to show, and domains of which none is shown between two that are.
    of_each: usize,
    every: usize,
    most: usize,
    /// By domain, its place in the stream and the samples that were seen of it.
    seen: BTreeMap<String, (usize, usize)>,
    pictures: Vec<Picture>,
}

/// A sample with its picture.
#[derive(Debug, Clone)]
pub struct Picture {
    /// The file.
    pub path: PathBuf,
    /// The sample.
    pub id: String,
    /// Its domain.
    pub domain: String,
    /// Its class by name or number.
    pub truth: Option<String>,
    /// What was said of it, before and after.
    pub said: [Option<String>; 2],
    /// Whether that was right.
    pub right: Option<[bool; 2]>,
    /// Scores of this sample alone, before and after.
    pub scores: [dtta::Scores; 2],
}

impl Gallery {
    /// For a run of so many domains that made pictures of `made` samples of each, at most `most` pictures.
    pub fn new(folder: &Path, made: usize, domains: usize, most: usize) -> Self {
        let domains = domains.max(1);
        Self {
            folder: folder.into(),
            made,
            of_each: (most / domains).max(1).min(made),
            every: domains.div_ceil(most.max(1)),
            most,
            ..Self::default()
        }
    }

    /// Takes a record's picture, if it is one that is shown.
    pub fn consider(&mut self, record: &Record) {
        if self.of_each == 0 || self.pictures.len() >= self.most {
            return;
        }
        let next = self.seen.len();
        let (domain, seen) = match self.seen.get_mut(&record.domain) {
            Some(seen) => seen,
            None => self.seen.entry(record.domain.clone()).or_insert((next, 0)),
        };
        if !domain.is_multiple_of(self.every) || *seen >= self.of_each.min(self.made) {
            return;
        }
        *seen += 1;
        let path = picture(&self.folder, record);
        if !path.is_file() {
            return;
        }
        let class = |class: Option<i64>, name: &Option<String>| {
            name.clone()
                .or_else(|| class.map(|class| class.to_string()))
        };
        let said = [&record.source, &record.adapted];
        let target = record.target.map(i64::from);
        let right = said.map(|said| Some(said.prediction? == target?));
        self.pictures.push(Picture {
            path,
            id: record.id.clone(),
            domain: record.domain.clone(),
            truth: class(target, &record.target_name),
            said: said.map(|said| class(said.prediction, &said.prediction_name)),
            right: right[0]
                .zip(right[1])
                .map(|(before, after)| [before, after]),
            scores: said.map(|said| said.scores.clone()),
        });
    }

    /// What is shown.
    pub fn into_pictures(self) -> Vec<Picture> {
        self.pictures
    }
}

/// Files as data URIs until they take too much room: what is left out is counted.
#[derive(Default)]
pub struct Inline {
    bytes: usize,
    /// Pictures that were left out.
    pub left_out: usize,
}

impl Inline {
    /// A file's data URI, unless it is too large or no picture.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn uri(&mut self, path: &Path) -> Result<Option<String>> {
        let failed = |source| dtta_base::Error::Read {
            path: path.into(),
            source,
        };
        let length = fs::metadata(path).map_err(failed)?.len();
        let is_too_large = length > LARGEST || self.bytes + length as usize > MOST_BYTES;
        if is_too_large {
            self.left_out += 1;
            return Ok(None);
        }
        let bytes = fs::read(path).map_err(failed)?;
        let kind = match &*bytes {
            [0x89, b'P', b'N', b'G', ..] => "png",
            [b'<', ..] => "svg+xml",
            _ => {
                self.left_out += 1;
                return Ok(None);
            }
        };
        self.bytes += bytes.len();
        Ok(Some(format!(
            "data:image/{kind};base64,{}",
            STANDARD.encode(bytes)
        )))
    }
}

//! Tensors by their names, whatever files hold them: safetensors, PyTorch's archives and older files, and several of either with an index.
//!
//! Opening a checkpoint reads what its tensors are called and where they are, never a number of them; [`Source`] reads those, once, into
//! the place where they stay.

mod folder;
mod index;
mod load;
mod locate;
mod pickle;
mod pytorch;
mod safetensors;
mod source;
mod zip;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub use self::folder::ModelFiles;
pub(crate) use self::folder::config_of;
pub use self::load::Fit;
pub(crate) use self::load::Wanted;
pub use self::locate::{HubCache, HubModel, locate};
pub(crate) use self::safetensors::metadata as safetensors_metadata;
use self::source::{Checked, Source};
use crate::composed::{self, Part};
use crate::error::{ModelError, Result};
use crate::published::View;

/// What the numbers of a tensor are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dtype {
    F32,
    F16,
    Bf16,
    F64,
    /// One that weights do not have, such as that of counters.
    Other {
        name: &'static str,
        bytes: usize,
    },
}

/// The types that PyTorch has besides floats: as a storage calls them, as a tensor does, and the bytes of one.
const OTHERS: [(&str, &str, usize); 11] = [
    ("torch.LongStorage", "torch.int64", 8),
    ("torch.IntStorage", "torch.int32", 4),
    ("torch.ShortStorage", "torch.int16", 2),
    ("torch.CharStorage", "torch.int8", 1),
    ("torch.ByteStorage", "torch.uint8", 1),
    ("torch.BoolStorage", "torch.bool", 1),
    ("torch.ComplexFloatStorage", "torch.complex64", 8),
    ("torch.ComplexDoubleStorage", "torch.complex128", 16),
    ("torch.storage.UntypedStorage", "bytes", 1),
    ("torch.UntypedStorage", "bytes", 1),
    ("", "torch.uint16", 2),
];

impl Dtype {
    /// What a storage of PyTorch's class holds.
    fn of_storage(class: &str) -> Option<Self> {
        Some(match class {
            "torch.FloatStorage" => Self::F32,
            "torch.HalfStorage" => Self::F16,
            "torch.BFloat16Storage" => Self::Bf16,
            "torch.DoubleStorage" => Self::F64,
            _ => {
                let &(_, name, bytes) = OTHERS.iter().find(|(storage, ..)| *storage == class)?;
                Self::Other { name, bytes }
            }
        })
    }

    /// What a tensor of PyTorch's type holds.
    fn of_torch(dtype: &str) -> Option<Self> {
        Some(match dtype {
            "torch.float32" => Self::F32,
            "torch.float16" => Self::F16,
            "torch.bfloat16" => Self::Bf16,
            "torch.float64" => Self::F64,
            "torch.uint32" => Self::Other {
                name: "torch.uint32",
                bytes: 4,
            },
            "torch.uint64" => Self::Other {
                name: "torch.uint64",
                bytes: 8,
            },
            "torch.float8_e4m3fn" => Self::Other {
                name: "torch.float8_e4m3fn",
                bytes: 1,
            },
            "torch.float8_e5m2" => Self::Other {
                name: "torch.float8_e5m2",
                bytes: 1,
            },
            _ => {
                let &(_, name, bytes) = OTHERS.iter().find(|(_, name, _)| *name == dtype)?;
                Self::Other { name, bytes }
            }
        })
    }

    fn bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Other { bytes, .. } => bytes,
        }
    }

    /// As messages call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::F64 => "F64",
            Self::Other { name, .. } => name,
        }
    }

    /// Whether weights may have it.
    pub fn is_float(self) -> bool {
        !matches!(self, Self::Other { .. })
    }
}

/// Where a tensor is, and what it is.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// Which of the checkpoint's files.
    file: usize,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Steps along each axis, in elements; None where elements follow one another.
    strides: Option<Vec<usize>>,
    /// The place of its first element in the file.
    start: u64,
    /// The stretch of the file around it that has a checksum.
    checked: Option<Checked>,
}

impl Stored {
    /// Some of its numbers; itself where it has no such.
    fn viewed(&self, view: Option<View>) -> Self {
        let mut viewed = self.clone();
        let strides = self.strides.clone().unwrap_or_else(|| {
            let after = |axis: usize| self.shape[axis + 1..].iter().product();
            (0..self.shape.len()).map(after).collect()
        });
        match view {
            Some(View::Rows { number, of })
                if self
                    .shape
                    .first()
                    .is_some_and(|rows| rows.is_multiple_of(of)) =>
            {
                viewed.shape[0] /= of;
                let elements = number * viewed.shape[0] * strides[0];
                viewed.start += (elements * self.dtype.bytes()) as u64;
            }
            Some(View::Transposed) if self.shape.len() == 2 => {
                viewed.shape.reverse();
                viewed.strides = Some(strides.into_iter().rev().collect());
            }
            _ => return viewed,
        }
        viewed
    }

    /// A matrix as a batch of one.
    fn as_one_row(&mut self) {
        if self.shape.len() == 2 {
            self.shape.insert(0, 1);
            if let Some(strides) = &mut self.strides {
                strides.insert(0, 0);
            }
        }
    }
}

/// Whether a view's elements follow one another. Steps along an axis of one element are never made.
fn contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1usize;
    shape.iter().zip(strides).rev().all(|(&extent, &stride)| {
        let follows = extent == 1 || stride == expected;
        expected = expected.saturating_mul(extent);
        follows
    })
}

/// How a checkpoint is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// safetensors.
    Safetensors,
    /// An archive that `torch.save` wrote, since PyTorch 1.6.
    Archive,
    /// What `torch.save` wrote before.
    Legacy,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::Archive => "PyTorch",
            Self::Legacy => "PyTorch before 1.6",
        })
    }
}

/// The tensors of one file or of several.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// The file that was asked for: that of the tensors, or the index of several.
    pub path: PathBuf,
    pub format: Format,
    files: Vec<Source>,
    tensors: BTreeMap<String, Stored>,
}

impl Checkpoint {
    /// Opens a file with tensors, the index of several, or a configuration that names the models that a model is made of. What it is, its
    /// first bytes tell; its name does not matter.
    pub fn open(path: &Path) -> Result<Self> {
        let parts = composed::parts(path);
        match parts.is_empty() {
            true => Self::of_one(path),
            false => Self::joined(path, parts),
        }
    }

    /// The tensors of the parts that a configuration names, each behind the name of its part and a dot.
    fn joined(path: &Path, parts: Vec<Part>) -> Result<Self> {
        let mut joined = Self {
            path: path.into(),
            format: Format::Safetensors,
            files: Vec::new(),
            tensors: BTreeMap::new(),
        };
        for part in parts {
            let (name, tensor) = (part.name, part.is_tensor());
            let part = part.path?;
            let opened = match tensor {
                true => Self::of_one(&part)?,
                false => Self::of_one(&ModelFiles::single(&part)?.weights)?,
            };
            if joined.files.is_empty() {
                joined.format = opened.format;
            }
            let before = joined.files.len();
            let found = opened.tensors.len();
            for (of, mut stored) in opened.tensors {
                stored.file += before;
                let called = match tensor {
                    false => format!("{name}.{of}"),
                    true if found == 1 => {
                        stored.as_one_row();
                        name.into()
                    }
                    true => {
                        let reason = format!("it has {found} tensors, expected one");
                        return Err(damaged(&part, opened.format, reason));
                    }
                };
                joined.tensors.insert(called, stored);
            }
            joined.files.extend(opened.files);
        }
        Ok(joined)
    }

    /// Opens a file with tensors, or the index of several.
    fn of_one(path: &Path) -> Result<Self> {
        let source = Source::open(path)?;
        let start = source.beginning()?;
        let mut checkpoint = match index::is_index(&start) {
            true => index::open(path)?,
            false => Self::single(source, &start)?,
        };
        checkpoint.tensors = without_wrappers(checkpoint.tensors);
        Ok(checkpoint)
    }

    /// The tensors of one file, under the names that it has for them.
    fn single(source: Source, start: &[u8]) -> Result<Self> {
        let (format, tensors) = match pytorch::format(start) {
            Some(Format::Archive) => (Format::Archive, pytorch::archive(&source)?),
            Some(Format::Legacy) => (Format::Legacy, pytorch::legacy(&source)?),
            _ => (Format::Safetensors, safetensors::tensors(&source, start)?),
        };
        Ok(Self {
            path: source.path.clone(),
            format,
            files: vec![source],
            tensors,
        })
    }

    /// Its tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, Stored> {
        &self.tensors
    }

    /// The files that hold them.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(Source::length).sum()
    }

    /// Reads a tensor that there is, of floats, into as many numbers; answers whether all of them are finite.
    pub fn floats(&self, name: &str, into: &mut [f32]) -> Result<bool> {
        self.stored_floats(&self.tensors[name], into)
    }

    /// The same of some of its numbers.
    fn stored_floats(&self, stored: &Stored, into: &mut [f32]) -> Result<bool> {
        self.files[stored.file].floats(stored, into)
    }
}

/// What a training program wraps a model in puts its name before every tensor's: `module.` by `DistributedDataParallel`, `_orig_mod.` by
/// `torch.compile`. Where it stands before all of them, it is no part of the names.
fn without_wrappers(mut tensors: BTreeMap<String, Stored>) -> BTreeMap<String, Stored> {
    for _ in 0..2 {
        for wrapper in ["module.", "_orig_mod."] {
            if !tensors.is_empty() && tensors.keys().all(|name| name.starts_with(wrapper)) {
                let bare =
                    |(name, stored): (String, Stored)| (name[wrapper.len()..].to_owned(), stored);
                tensors = tensors.into_iter().map(bare).collect();
            }
        }
    }
    tensors
}

/// What a file is, in words, if it holds weights.
pub(crate) fn weights_in_words(path: &Path) -> Option<&'static str> {
    let source = Source::open(path).ok()?;
    let mut start = vec![0; source.length().min(64) as usize];
    source.bytes(0, &mut start).ok()?;
    match pytorch::format(&start) {
        Some(_) => Some("a checkpoint of PyTorch"),
        // Text has no byte that is 0.
        None if start.get(8) == Some(&b'{') && start[..8].contains(&0) => {
            Some("a safetensors file")
        }
        None => None,
    }
}

/// That a file cannot be read as what it is.
fn damaged(path: &Path, format: Format, reason: impl Into<String>) -> ModelError {
    ModelError::Checkpoint {
        path: path.into(),
        format,
        reason: reason.into(),
    }
}

/// Names of tensors or files, in backquotes.
fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    names.into_iter().map(|name| format!("`{name}`")).collect()
}

/// All of these names, once.
fn distinct<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    names.into_iter().collect()
}

#[cfg(test)]
mod tests;

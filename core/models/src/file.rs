//! Tensors in safetensors files. A weight file must hold exactly what the model declares, all of it finite; every difference is told
//! at once. Files are mapped into memory, so that reading one takes no second copy of it, and appear whole or not at all; their bytes
//! depend on nothing but what they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use dtta_tensor::{Device, Tensor};
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::{Mismatches, ModelError, Result};
use crate::published::{Names, Source};
use crate::weights::{ParameterSpec, Weights, expect_room};

/// How wide the numbers in a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits: what the models compute with.
    #[default]
    F32,
    /// 16 bits, 11 of them significant, up to 65504.
    F16,
    /// 16 bits, 8 of them significant, with the range of f32.
    Bf16,
}

impl Precision {
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// PyTorch's BatchNorm counts the batches it saw. Nothing here reads the count, so a file may have it.
const COUNTER: &str = ".num_batches_tracked";

impl Weights {
    /// Reads a safetensors file that holds exactly the parameters of `specs`, as f32, f16 or bf16. The counters of PyTorch's
    /// BatchNorm (`….num_batches_tracked`) may be there beside `….running_mean` and are dropped.
    ///
    /// The file is mapped into memory. One that another program cuts short is an error, but for the moment in which a tensor is being
    /// copied out of it: then the system ends the process. Files that this crate writes are replaced, never cut.
    ///
    /// # Errors
    /// [`ModelError::File`] for one that cannot be read, [`ModelError::OtherFormat`] for a checkpoint of PyTorch and the like,
    /// [`ModelError::Safetensors`] for any other that is no safetensors file, or one cut short,
    /// [`ModelError::Mismatch`] listing every tensor that is missing, not declared, of another shape or of another type,
    /// [`ModelError::NotFinite`] for one that holds NaN or an infinity.
    pub fn load(path: &Path, specs: &Arc<[ParameterSpec]>, device: &Device) -> Result<Self> {
        Self::load_named(path, specs, &Names::same(), device)
    }

    /// As [`load`](Self::load), from a file whose tensors have the names that another library gives them.
    pub(crate) fn load_named(
        path: &Path,
        specs: &Arc<[ParameterSpec]>,
        names: &Names,
        device: &Device,
    ) -> Result<Self> {
        let mapped = Mapped::open(path)?;
        let file = mapped.parse()?;
        let found: BTreeMap<&str, TensorView<'_>> = file.iter().collect();
        let sources: Vec<Source> = specs
            .iter()
            .map(|spec| (names.source)(&spec.name).among(&found))
            .collect();
        let mismatches = compare(specs, &sources, names, &found);
        if !mismatches.is_empty() {
            return Err(mapped.mismatch(mismatches));
        }
        expect_room(specs)?;
        let initial = Self::initialise_only(specs, |n| sources[n] == Source::Computed, device)?;
        let tensors = specs
            .iter()
            .zip(&sources)
            .zip(initial)
            .map(|((spec, source), initial)| {
                if let Some(initial) = initial {
                    return Ok(initial);
                }
                let mut values: Vec<f32> = Vec::with_capacity(spec.elements());
                for (n, part) in source.parts().iter().enumerate() {
                    let read = mapped.values(&found[part.as_str()])?;
                    if !read.iter().all(|value| value.is_finite()) {
                        return Err(not_finite(path, part));
                    }
                    match source {
                        Source::Copies(_) if n > 0 => {
                            if read != values {
                                return Err(ModelError::Copies {
                                    path: path.into(),
                                    names: [source.parts()[0].clone(), part.clone()],
                                });
                            }
                        }
                        _ => values.extend(read),
                    }
                }
                Ok(Tensor::from_floats(&values, &spec.shape, device)?)
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            specs: specs.clone(),
            tensors,
        })
    }

    /// Writes a safetensors file, whole or not at all. The same values, precision and metadata give the same bytes.
    ///
    /// # Errors
    /// [`ModelError::File`], [`ModelError::NotFinite`] for NaN or an infinity, which [`load`](Self::load) would refuse, or
    /// [`ModelError::Precision`] for a value that f16 or bf16 would turn into infinity.
    pub fn save(
        &self,
        path: &Path,
        precision: Precision,
        metadata: &BTreeMap<String, String>,
    ) -> Result<()> {
        for (_, spec, tensor) in self.iter() {
            if !tensor.is_finite()? {
                return Err(not_finite(path, &spec.name));
            }
        }
        let named = self
            .iter()
            .map(|(_, spec, tensor)| (spec.name.as_str(), tensor));
        write(path, &named.collect(), precision, metadata)
    }
}

/// Writes named float tensors to a safetensors file as f32, whatever they hold, whole or not at all: what checkpoints keep.
///
/// # Errors
/// [`ModelError::File`], or [`ModelError::Tensor`] for a tensor that holds no floats.
pub fn write_tensors(path: &Path, named: &BTreeMap<String, Tensor>) -> Result<()> {
    let named = named
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    write(path, &named, Precision::F32, &BTreeMap::new())
}

/// Reads every float tensor of a safetensors file, whatever their names and whatever they hold. The file is mapped, as by
/// [`Weights::load`].
///
/// # Errors
/// [`ModelError::File`], [`ModelError::OtherFormat`], [`ModelError::Safetensors`], or [`ModelError::Mismatch`] listing tensors that are no floats.
pub fn read_tensors(path: &Path, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    let mapped = Mapped::open(path)?;
    let file = mapped.parse()?;
    let mistyped: Vec<_> = file
        .iter()
        .filter(|(_, view)| !is_float(view))
        .map(|(name, view)| (name.to_owned(), format!("{:?}", view.dtype())))
        .collect();
    if !mistyped.is_empty() {
        return Err(mapped.mismatch(Mismatches {
            mistyped,
            ..Mismatches::default()
        }));
    }
    file.iter()
        .map(|(name, view)| {
            let tensor = Tensor::from_floats(&mapped.values(&view)?, view.shape(), device)?;
            Ok((name.to_owned(), tensor))
        })
        .collect()
}

/// A file in memory, as the system pages it in.
struct Mapped<'a> {
    path: &'a Path,
    file: File,
    /// None for an empty file, of which there is nothing to map.
    bytes: Option<Mmap>,
}

impl<'a> Mapped<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let failed = |source| dtta_base::Error::Read {
            path: path.into(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        if !about.is_file() {
            return Err(failed(std::io::Error::other("it is not a file")).into());
        }
        let length = about.len();
        // SAFETY: the bytes must not change while the map is borrowed. Nothing here writes to a file in place: `dtta_base::replace`
        // makes another one, and this map keeps the old. That no other program does is the caller's to uphold, as `Weights::load`
        // says; `values` looks at the length again before each read, so that a file which was cut is refused and not read.
        let map = || unsafe { Mmap::map(&file) };
        let bytes = (length > 0).then(map).transpose().map_err(failed)?;
        Ok(Self { path, file, bytes })
    }

    fn parse(&self) -> Result<SafeTensors<'_>> {
        let bytes = self.bytes.as_deref().unwrap_or_default();
        SafeTensors::deserialize(bytes).map_err(|source| match crate::format::of(bytes) {
            Some((format, advice)) => ModelError::OtherFormat {
                path: self.path.into(),
                format,
                advice,
            },
            None => ModelError::Safetensors {
                path: self.path.into(),
                bytes: bytes.len() as u64,
                reason: source.to_string(),
            },
        })
    }

    /// The numbers of a tensor, copied, if the file is still as long as it was.
    fn values(&self, view: &TensorView<'_>) -> Result<Vec<f32>> {
        let failed = |source| dtta_base::Error::Read {
            path: self.path.into(),
            source,
        };
        let length = self.file.metadata().map_err(failed)?.len();
        if length < self.bytes.as_deref().unwrap_or_default().len() as u64 {
            let cut = format!("it was cut to {length} bytes while it was read");
            return Err(failed(std::io::Error::other(cut)).into());
        }
        Ok(widen(view))
    }

    fn mismatch(&self, mismatches: Mismatches) -> ModelError {
        ModelError::Mismatch {
            path: self.path.into(),
            mismatches: Box::new(mismatches),
        }
    }
}

fn not_finite(path: &Path, name: &str) -> ModelError {
    ModelError::NotFinite {
        path: path.into(),
        name: name.into(),
    }
}

fn write(
    path: &Path,
    named: &BTreeMap<&str, &Tensor>,
    precision: Precision,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let header = header(named, precision, metadata);
    dtta_base::replace(path, |file| {
        let mut put = |bytes: &[u8]| {
            file.write_all(bytes)
                .map_err(|source| dtta_base::Error::Write {
                    path: path.into(),
                    source,
                })
        };
        put(&(header.len() as u64).to_le_bytes())?;
        put(header.as_bytes())?;
        for (name, tensor) in named {
            put(&narrow(name, &tensor.to_floats()?, precision)?)?;
        }
        Ok(())
    })
}

fn is_float(view: &TensorView<'_>) -> bool {
    matches!(view.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

fn compare(
    specs: &[ParameterSpec],
    sources: &[Source],
    names: &Names,
    found: &BTreeMap<&str, TensorView<'_>>,
) -> Mismatches {
    let mut mismatches = Mismatches::default();
    let declared: BTreeSet<&str> = sources
        .iter()
        .flat_map(|source| source.parts().iter().map(String::as_str))
        .collect();
    for (spec, source) in specs.iter().zip(sources) {
        let mut shape = spec.shape.clone();
        if let (Source::Stacked(parts), Some(rows)) = (source, shape.first_mut()) {
            *rows /= parts.len().max(1);
        }
        for part in source.parts() {
            let Some(view) = found.get(part.as_str()) else {
                mismatches.missing.push(part.clone());
                continue;
            };
            if view.shape() != shape {
                let there = view.shape().to_vec();
                mismatches
                    .misshapen
                    .push((part.clone(), shape.clone(), there));
            }
            if !is_float(view) {
                let dtype = format!("{:?}", view.dtype());
                mismatches.mistyped.push((part.clone(), dtype));
            }
        }
    }
    let counts_batches = |name: &str| {
        name.strip_suffix(COUNTER)
            .is_some_and(|layer| declared.contains(format!("{layer}.running_mean").as_str()))
    };
    let extra = found
        .keys()
        .filter(|name| !declared.contains(*name) && !counts_batches(name) && !(names.unused)(name));
    mismatches
        .extra
        .extend(extra.map(|name| (*name).to_owned()));
    mismatches
}

impl Source {
    /// What it means in a file that holds these tensors.
    fn among(self, found: &BTreeMap<&str, TensorView<'_>>) -> Self {
        match self {
            Self::AnyOf(names) => {
                let there = names.iter().find(|name| found.contains_key(name.as_str()));
                Self::Stacked(there.or(names.first()).into_iter().cloned().collect())
            }
            Self::Named(name) => Self::Stacked(vec![name]),
            other => other,
        }
    }

    /// The tensors that it is made of.
    fn parts(&self) -> &[String] {
        match self {
            Self::Stacked(parts) | Self::Copies(parts) | Self::AnyOf(parts) => parts,
            Self::Named(name) => std::slice::from_ref(name),
            Self::Computed => &[],
        }
    }
}

fn widen(view: &TensorView<'_>) -> Vec<f32> {
    let pairs = || view.data().chunks_exact(2).map(|b| [b[0], b[1]]);
    match view.dtype() {
        Dtype::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        _ => view
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
    }
}

fn narrow(name: &str, values: &[f32], precision: Precision) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(values.len() * precision.bytes());
    for &value in values {
        let finite = match precision {
            Precision::F32 => {
                bytes.extend(value.to_le_bytes());
                true
            }
            Precision::F16 => {
                let half = f16::from_f32(value);
                bytes.extend(half.to_le_bytes());
                half.is_finite()
            }
            Precision::Bf16 => {
                let half = bf16::from_f32(value);
                bytes.extend(half.to_le_bytes());
                half.is_finite()
            }
        };
        if !finite && value.is_finite() {
            return Err(ModelError::Precision {
                name: name.into(),
                value,
                precision: precision.name(),
            });
        }
    }
    Ok(bytes)
}

/// The JSON header, in the order of the names and padded to 8 bytes. (The `safetensors` crate writes metadata in the order of a
/// hash map, so the bytes of its files differ from run to run.)
fn header(
    named: &BTreeMap<&str, &Tensor>,
    precision: Precision,
    metadata: &BTreeMap<String, String>,
) -> String {
    let mut entries = Map::new();
    if !metadata.is_empty() {
        entries.insert("__metadata__".into(), json!(metadata));
    }
    let mut start = 0;
    for (name, tensor) in named {
        let end = start + tensor.shape().elements() * precision.bytes();
        let entry = json!({ "dtype": precision.name(), "shape": tensor.shape().to_vec(), "data_offsets": [start, end] });
        entries.insert((*name).into(), entry);
        start = end;
    }
    let mut header = Value::Object(entries).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_cut_while_it_is_read_is_refused_and_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let long = Tensor::full(&[10_000], 1.0, &Device::cpu()).unwrap();
        write_tensors(&path, &[("a".to_owned(), long)].into()).unwrap();
        let mapped = Mapped::open(&path).unwrap();
        let file = mapped.parse().unwrap();
        let view = file.tensor("a").unwrap();
        assert_eq!(mapped.values(&view).unwrap(), [1.0; 10_000]);
        let other = File::options().write(true).open(&path).unwrap();
        other.set_len(100).unwrap();
        let error = mapped.values(&view).unwrap_err().to_string();
        assert!(
            error.contains("weights.safetensors") && error.contains("cut to 100 bytes"),
            "{error}"
        );
    }
}

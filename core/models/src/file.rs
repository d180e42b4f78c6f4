//! Weights in safetensors files. A file must hold exactly what the model declares; every difference is told at once. Files are
//! written by a rename, so a reader never sees half of one, and their bytes depend on nothing but what they hold.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dtta_tensor::{Device, Tensor};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::{Mismatches, ModelError, Result};
use crate::weights::{ParameterSpec, Weights};

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
    /// # Errors
    /// [`ModelError::Read`], [`ModelError::Safetensors`] for a file of another format or one cut short,
    /// [`ModelError::Mismatch`] listing every tensor that is missing, not declared, of another shape or of another type.
    pub fn load(path: &Path, specs: &Arc<[ParameterSpec]>, device: &Device) -> Result<Self> {
        let bytes = fs::read(path).map_err(|source| ModelError::Read {
            path: path.to_owned(),
            source,
        })?;
        let file = SafeTensors::deserialize(&bytes).map_err(|source| ModelError::Safetensors {
            path: path.to_owned(),
            bytes: bytes.len() as u64,
            source,
        })?;
        let found: BTreeMap<&str, TensorView<'_>> = file.iter().collect();
        let mismatches = compare(specs, &found);
        if !mismatches.is_empty() {
            return Err(ModelError::Mismatch {
                path: path.to_owned(),
                mismatches: Box::new(mismatches),
            });
        }
        let tensors = specs
            .iter()
            .map(|spec| {
                Ok(Tensor::from_floats(
                    &widen(&found[spec.name.as_str()]),
                    &spec.shape,
                    device,
                )?)
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
    /// [`ModelError::Write`], or [`ModelError::Precision`] for a value that f16 or bf16 would turn into infinity.
    pub fn save(
        &self,
        path: &Path,
        precision: Precision,
        metadata: &BTreeMap<String, String>,
    ) -> Result<()> {
        let named: BTreeMap<&str, &Tensor> = self
            .iter()
            .map(|(_, spec, tensor)| (spec.name.as_str(), tensor))
            .collect();
        write_tensors(path, &named, precision, metadata)
    }
}

/// Writes named float tensors to a safetensors file, whole or not at all: what checkpoints hold beside weights.
///
/// # Errors
/// As [`Weights::save`].
pub fn write_tensors(
    path: &Path,
    named: &BTreeMap<&str, &Tensor>,
    precision: Precision,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let partial = partial_path(path);
    let written = write(&partial, named, precision, metadata, path);
    if written.is_err() {
        fs::remove_file(&partial).ok();
    }
    written
}

/// Reads every float tensor of a safetensors file, whatever their names.
///
/// # Errors
/// [`ModelError::Read`], [`ModelError::Safetensors`], or [`ModelError::Mismatch`] listing tensors that are no floats.
pub fn read_tensors(path: &Path, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    let bytes = fs::read(path).map_err(|source| ModelError::Read {
        path: path.to_owned(),
        source,
    })?;
    let file = SafeTensors::deserialize(&bytes).map_err(|source| ModelError::Safetensors {
        path: path.to_owned(),
        bytes: bytes.len() as u64,
        source,
    })?;
    let mistyped: Vec<_> = file
        .iter()
        .filter(|(_, view)| !is_float(view))
        .map(|(name, view)| (name.to_owned(), format!("{:?}", view.dtype())))
        .collect();
    if !mistyped.is_empty() {
        let mismatches = Mismatches {
            mistyped,
            ..Mismatches::default()
        };
        return Err(ModelError::Mismatch {
            path: path.to_owned(),
            mismatches: Box::new(mismatches),
        });
    }
    file.iter()
        .map(|(name, view)| {
            let tensor = Tensor::from_floats(&widen(&view), view.shape(), device)?;
            Ok((name.to_owned(), tensor))
        })
        .collect()
}

fn write(
    partial: &Path,
    named: &BTreeMap<&str, &Tensor>,
    precision: Precision,
    metadata: &BTreeMap<String, String>,
    path: &Path,
) -> Result<()> {
    let failed = |source| ModelError::Write {
        path: path.to_owned(),
        source,
    };
    let header = header(named, precision, metadata);
    let mut file = BufWriter::new(fs::File::create(partial).map_err(failed)?);
    file.write_all(&(header.len() as u64).to_le_bytes())
        .map_err(failed)?;
    file.write_all(header.as_bytes()).map_err(failed)?;
    for (name, tensor) in named {
        let values = tensor.to_floats()?;
        file.write_all(&narrow(name, &values, precision)?)
            .map_err(failed)?;
    }
    let file = file
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    fs::rename(partial, path).map_err(failed)
}

fn is_float(view: &TensorView<'_>) -> bool {
    matches!(view.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

fn compare(specs: &[ParameterSpec], found: &BTreeMap<&str, TensorView<'_>>) -> Mismatches {
    let mut mismatches = Mismatches::default();
    let declared: BTreeMap<&str, &ParameterSpec> = specs
        .iter()
        .map(|spec| (spec.name.as_str(), spec))
        .collect();
    for spec in specs {
        let Some(view) = found.get(spec.name.as_str()) else {
            mismatches.missing.push(spec.name.clone());
            continue;
        };
        if view.shape() != spec.shape {
            mismatches.misshapen.push((
                spec.name.clone(),
                spec.shape.clone(),
                view.shape().to_vec(),
            ));
        }
        if !is_float(view) {
            mismatches
                .mistyped
                .push((spec.name.clone(), format!("{:?}", view.dtype())));
        }
    }
    let counts_batches = |name: &str| {
        name.strip_suffix(COUNTER)
            .is_some_and(|layer| declared.contains_key(format!("{layer}.running_mean").as_str()))
    };
    let extra = found
        .keys()
        .filter(|name| !declared.contains_key(*name) && !counts_batches(name));
    mismatches
        .extra
        .extend(extra.map(|name| (*name).to_owned()));
    mismatches
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

/// A name beside `path` that no other process uses.
fn partial_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    path.with_file_name(name)
}

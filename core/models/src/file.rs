//! Tensors in safetensors files. Files appear whole or not at all; their bytes depend on nothing but what they hold.

use std::collections::BTreeMap;
use std::path::Path;

use dtta_base::expect_memory;
use dtta_tensor::{Device, Precision, Tensor};
use half::{bf16, f16};
use serde_json::{Map, Value, json};

use crate::checkpoint::{Checkpoint, Stored};
use crate::error::{Called, Mismatches, ModelError, Result};
use crate::weights::Weights;

impl Weights {
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

/// Reads every float tensor of a checkpoint, whatever their names and whatever they hold.
///
/// # Errors
/// Those of [`Weights::load`], of which [`ModelError::Mismatch`] lists the tensors that are no floats.
pub fn read_tensors(path: &Path, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    let checkpoint = Checkpoint::open(path)?;
    let mistyped = checkpoint
        .tensors()
        .iter()
        .filter(|(_, stored)| !stored.dtype.is_float());
    let mistyped: Vec<_> = mistyped
        .map(|(name, stored)| {
            let called = Called {
                tensor: name.clone(),
                parameter: None,
            };
            (called, stored.dtype.name().to_owned())
        })
        .collect();
    if !mistyped.is_empty() {
        return Err(ModelError::Mismatch {
            path: path.into(),
            mismatches: Box::new(Mismatches {
                mistyped,
                ..Mismatches::default()
            }),
        });
    }
    let elements = |stored: &Stored| stored.shape.iter().product();
    let total = checkpoint.tensors().values().map(elements);
    let total = total.fold(0, usize::saturating_add);
    expect_memory("the tensors", [total, size_of::<f32>()])?;
    let read = |(name, stored): (&String, &Stored)| {
        let mut values = vec![0.0; elements(stored)];
        checkpoint.floats(name, &mut values)?;
        Ok((
            name.clone(),
            Tensor::from_values(values, &stored.shape, device)?,
        ))
    };
    checkpoint.tensors().iter().map(read).collect()
}

fn not_finite(path: &Path, name: &str) -> ModelError {
    ModelError::NotFinite {
        path: path.into(),
        name: name.into(),
    }
}

/// Writes named float tensors, whole or not at all.
pub(crate) fn write(
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

/// Its name in safetensors files.
fn dtype(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "F32",
        Precision::F16 => "F16",
        Precision::Bf16 => "BF16",
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
                precision: dtype(precision),
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
        let entry = json!({ "dtype": dtype(precision), "shape": tensor.shape().to_vec(), "data_offsets": [start, end] });
        entries.insert((*name).into(), entry);
        start = end;
    }
    let mut header = Value::Object(entries).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    header
}

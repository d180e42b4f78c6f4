//! safetensors: a header in JSON, of which the crate of that name is the judge, and the numbers behind it.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype as Theirs, Metadata};

use super::source::Source;
use super::{Dtype, Stored};
use crate::error::{ModelError, Result};

/// Bytes of the header's length, before it.
const LENGTH: u64 = 8;
/// The longest header that the crate reads.
const LONGEST: u64 = 100_000_000;

/// What a file says beside its tensors.
pub(crate) fn metadata(path: &Path) -> Result<BTreeMap<String, String>> {
    let source = Source::open(path)?;
    let (header, _) = header(&source, &source.beginning()?)?;
    let said = header.metadata().clone().unwrap_or_default();
    Ok(said.into_iter().collect())
}

/// The tensors of a file that begins with `start`.
pub(super) fn tensors(source: &Source, start: &[u8]) -> Result<BTreeMap<String, Stored>> {
    let (header, data) = header(source, start)?;
    let tensors = header.tensors().into_iter().map(|(name, info)| {
        let stored = Stored {
            file: 0,
            dtype: dtype(info.dtype),
            shape: info.shape.clone(),
            strides: None,
            start: data + info.data_offsets.0 as u64,
            checked: None,
        };
        (name, stored)
    });
    Ok(tensors.collect())
}

/// The header of a file that begins with `start`, and where the numbers are.
fn header(source: &Source, start: &[u8]) -> Result<(Metadata, u64)> {
    let other = |reason: String| match crate::format::of(start) {
        Some((format, advice)) => ModelError::OtherFormat {
            path: source.path.clone(),
            format,
            advice,
        },
        None => ModelError::Safetensors {
            path: source.path.clone(),
            bytes: source.length(),
            reason,
        },
    };
    let Some(length) = start.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) else {
        return Err(other("it is too short for a header".into()));
    };
    if length > LONGEST || LENGTH + length > source.length() {
        return Err(other(format!("its header would have {length} bytes")));
    }
    let mut header = vec![0; length as usize];
    source.bytes(LENGTH, &mut header)?;
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|error| other(format!("its header is wrong: {error}")))?;
    let data = LENGTH + length;
    let end = data + metadata.data_len() as u64;
    if end != source.length() {
        return Err(other(format!("its tensors end at {end}")));
    }
    Ok((metadata, data))
}

fn dtype(theirs: Theirs) -> Dtype {
    let (name, bytes) = match theirs {
        Theirs::F32 => return Dtype::F32,
        Theirs::F16 => return Dtype::F16,
        Theirs::BF16 => return Dtype::Bf16,
        Theirs::F64 => return Dtype::F64,
        Theirs::I64 => ("I64", 8),
        Theirs::I32 => ("I32", 4),
        Theirs::I16 => ("I16", 2),
        Theirs::I8 => ("I8", 1),
        Theirs::U64 => ("U64", 8),
        Theirs::U32 => ("U32", 4),
        Theirs::U16 => ("U16", 2),
        Theirs::U8 => ("U8", 1),
        Theirs::BOOL => ("BOOL", 1),
        Theirs::F8_E4M3 => ("F8_E4M3", 1),
        Theirs::F8_E5M2 => ("F8_E5M2", 1),
        _ => ("of a type that is no float", 1),
    };
    Dtype::Other { name, bytes }
}

//! A file that tensors are read from. Their bytes go from the file into the tensor's own numbers, in pieces where they are converted, and
//! by their place in the file: nothing else of it is in memory, any number of threads may read, and a file that another program cuts
//! short is an error.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::{HalfBitsSliceExt as _, HalfFloatSliceExt as _};

use super::{Dtype, Stored, contiguous};
use crate::error::Result;

/// Numbers that are converted at a time.
const PIECE: usize = 1 << 16;

/// An open file.
#[derive(Debug)]
pub(super) struct Source {
    pub path: PathBuf,
    file: File,
    length: u64,
}

/// Bytes with a checksum.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checked {
    pub start: u64,
    pub length: u64,
    pub crc32: u32,
}

impl Source {
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |source| dtta_base::Error::Read {
            path: path.into(),
            source,
        };
        // Before it is opened: what is no file may wait for a writer.
        let about = fs::metadata(path).map_err(failed)?;
        if !about.is_file() {
            return Err(failed(io::Error::other("it is not a file")).into());
        }
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        Ok(Self {
            path: path.into(),
            file,
            length,
        })
    }

    /// Its length when it was opened.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Its first bytes, from which its format is told.
    pub fn beginning(&self) -> Result<Vec<u8>> {
        let mut start = vec![0; self.length.min(1 << 16) as usize];
        self.bytes(0, &mut start)?;
        Ok(start)
    }

    /// The bytes from `start` on.
    pub fn bytes(&self, start: u64, into: &mut [u8]) -> Result<()> {
        read_at(&self.file, start, into).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> crate::ModelError {
        let now = self.file.metadata().map(|about| about.len());
        let source = match now {
            Ok(now) if now < self.length => {
                io::Error::other(format!("it was cut to {now} bytes while it was read"))
            }
            _ => source,
        };
        dtta_base::Error::Read {
            path: self.path.clone(),
            source,
        }
        .into()
    }

    /// The numbers of a tensor, which has as many as there is room for; answers whether all of them are finite.
    pub fn floats(&self, stored: &Stored, into: &mut [f32]) -> Result<bool> {
        match &stored.strides {
            None => self.run(stored.dtype, stored.start, stored.checked, into),
            Some(strides) => self.view(stored, stored.start, &stored.shape, strides, into),
        }
    }

    /// A view of what is stored, by its axes: within a stretch that is read whole, if it is not much longer than the view.
    fn view(
        &self,
        stored: &Stored,
        start: u64,
        shape: &[usize],
        strides: &[usize],
        into: &mut [f32],
    ) -> Result<bool> {
        if into.is_empty() {
            return Ok(true);
        }
        if contiguous(shape, strides) {
            return self.run(stored.dtype, start, stored.checked, into);
        }
        let steps = shape
            .iter()
            .zip(strides)
            .map(|(&extent, &stride)| (extent - 1) * stride);
        let stretch = 1 + steps.sum::<usize>();
        if stretch <= 2 * into.len() {
            let mut all = vec![0.0; stretch];
            self.run(stored.dtype, start, stored.checked, &mut all)?;
            gather(&all, shape, strides, into);
            return Ok(all_finite(into));
        }
        let step = strides[0] as u64 * stored.dtype.bytes() as u64;
        let rows = into.chunks_exact_mut(into.len() / shape[0]);
        let mut finite = true;
        for (row, into) in rows.enumerate() {
            let start = start + row as u64 * step;
            finite &= self.view(stored, start, &shape[1..], &strides[1..], into)?;
        }
        Ok(finite)
    }

    /// Numbers that follow one another, each piece looked at while it is at hand.
    fn run(
        &self,
        dtype: Dtype,
        start: u64,
        checked: Option<Checked>,
        into: &mut [f32],
    ) -> Result<bool> {
        let length = (into.len() * dtype.bytes()) as u64;
        let checked = checked.filter(|all| (all.start, all.length) == (start, length));
        let mut hash = crc32fast::Hasher::new();
        let mut piece = Piece::new(dtype);
        let (mut place, mut finite) = (start, true);
        for into in into.chunks_mut(PIECE) {
            let bytes = piece.bytes(into);
            self.bytes(place, bytes)?;
            if checked.is_some() {
                hash.update(bytes);
            }
            place += bytes.len() as u64;
            piece.convert(into);
            finite &= all_finite(into);
        }
        match checked {
            Some(checked) if hash.finalize() != checked.crc32 => {
                let damaged = "its checksum does not fit what it holds: the file is damaged";
                Err(self.failed(io::Error::other(damaged)))
            }
            _ => Ok(finite),
        }
    }
}

/// Room for numbers of another type, where there is one.
enum Piece {
    F32,
    F16(Vec<u16>),
    Bf16(Vec<u16>),
    F64(Vec<f64>),
}

impl Piece {
    fn new(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F16 => Self::F16(vec![0; PIECE]),
            Dtype::Bf16 => Self::Bf16(vec![0; PIECE]),
            Dtype::F64 => Self::F64(vec![0.0; PIECE]),
            // Others are never read.
            Dtype::F32 | Dtype::Other { .. } => Self::F32,
        }
    }

    /// Where the file's bytes of as many numbers go.
    fn bytes<'a>(&'a mut self, into: &'a mut [f32]) -> &'a mut [u8] {
        match self {
            Self::F32 => bytemuck::cast_slice_mut(into),
            Self::F16(room) | Self::Bf16(room) => bytemuck::cast_slice_mut(&mut room[..into.len()]),
            Self::F64(room) => bytemuck::cast_slice_mut(&mut room[..into.len()]),
        }
    }

    /// Makes numbers of them. All formats are little-endian.
    fn convert(&mut self, into: &mut [f32]) {
        match self {
            Self::F32 => {
                if cfg!(target_endian = "big") {
                    let swapped =
                        |value: &mut f32| *value = f32::from_bits(value.to_bits().swap_bytes());
                    into.iter_mut().for_each(swapped);
                }
            }
            Self::F16(room) => {
                let room = &mut room[..into.len()];
                room.iter_mut().for_each(|bits| *bits = u16::from_le(*bits));
                room.reinterpret_cast::<f16>().convert_to_f32_slice(into);
            }
            Self::Bf16(room) => {
                // The upper half of an f32: many at once, which `half` does one by one.
                for (into, bits) in into.iter_mut().zip(room) {
                    *into = f32::from_bits(u32::from(u16::from_le(*bits)) << 16);
                }
            }
            Self::F64(room) => {
                for (into, value) in into.iter_mut().zip(room) {
                    *into = f64::from_bits(u64::from_le(value.to_bits())) as f32;
                }
            }
        }
    }
}

/// Whether none is NaN or infinite: in these the exponent is all ones. Counted, and not looked for, so that many are compared at once.
fn all_finite(values: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    let odd = |count: u32, value: &f32| count + u32::from(value.to_bits() & EXPONENT == EXPONENT);
    values
        .chunks(PIECE)
        .all(|values| values.iter().fold(0, odd) == 0)
}

/// A view's numbers, row by row; those of the last two axes tile by tile, so that a transposed matrix is read along its own rows.
fn gather(all: &[f32], shape: &[usize], strides: &[usize], into: &mut [f32]) {
    const TILE: usize = 64;
    match (shape, strides) {
        ([], _) | (_, []) => into[0] = all[0],
        (&[extent], &[stride]) => {
            for (place, into) in into.iter_mut().enumerate().take(extent) {
                *into = all[place * stride];
            }
        }
        (&[rows, columns], &[down, right]) => {
            let starts = |extent: usize| (0..extent).step_by(TILE);
            for (top, left) in
                starts(rows).flat_map(|top| starts(columns).map(move |left| (top, left)))
            {
                for row in top..rows.min(top + TILE) {
                    for column in left..columns.min(left + TILE) {
                        into[row * columns + column] = all[row * down + column * right];
                    }
                }
            }
        }
        ([extent, shape @ ..], [stride, strides @ ..]) => {
            let rows = into.chunks_exact_mut(into.len() / extent);
            for (row, into) in rows.enumerate() {
                gather(&all[row * stride..], shape, strides, into);
            }
        }
    }
}

#[cfg(unix)]
fn read_at(file: &File, start: u64, into: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, start)
}

#[cfg(windows)]
fn read_at(file: &File, mut start: u64, mut into: &mut [u8]) -> io::Result<()> {
    while !into.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, into, start)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        start += read as u64;
        into = &mut into[read..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_cut_while_it_is_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let long = dtta_tensor::Tensor::full(&[10_000], 1.0, &dtta_tensor::Device::cpu()).unwrap();
        crate::write_tensors(&path, &[("a".to_owned(), long)].into()).unwrap();
        let checkpoint = super::super::Checkpoint::open(&path).unwrap();
        let mut values = vec![0.0; 10_000];
        assert!(checkpoint.floats("a", &mut values).unwrap());
        assert_eq!(values, [1.0; 10_000]);
        let other = File::options().write(true).open(&path).unwrap();
        other.set_len(100).unwrap();
        let error = dtta_base::told(&checkpoint.floats("a", &mut values).unwrap_err());
        assert!(
            error.contains("weights.safetensors") && error.contains("cut to 100 bytes"),
            "{error}"
        );
    }

    #[test]
    fn one_number_that_is_none_is_found_anywhere() {
        for n in [1, 7, PIECE + 3] {
            let mut values = vec![f32::MAX; n];
            assert!(all_finite(&values));
            for (place, value) in [(0, f32::NAN), (n / 2, f32::INFINITY), (n - 1, -f32::NAN)] {
                let before = std::mem::replace(&mut values[place], value);
                assert!(!all_finite(&values), "{value} at {place} of {n}");
                values[place] = before;
            }
        }
    }

    #[test]
    fn views_are_gathered_by_their_strides() {
        let all: Vec<f32> = (0..24u8).map(f32::from).collect();
        // [2, 3, 4] with its axes turned round: element (i, j, k) is 12 k + 4 j + i.
        let mut into = vec![0.0; 24];
        gather(&all, &[4, 3, 2], &[1, 4, 12], &mut into);
        assert_eq!(into[..6], [0.0, 12.0, 4.0, 16.0, 8.0, 20.0]);
        // More than one tile, transposed.
        let all: Vec<f32> = (0..70 * 130u16).map(f32::from).collect();
        let mut into = vec![0.0; all.len()];
        gather(&all, &[130, 70], &[1, 130], &mut into);
        for (place, value) in into.iter().enumerate() {
            assert_eq!(*value, (place / 70 + place % 70 * 130) as f32);
        }
        // One row for all.
        let mut into = vec![0.0; 6];
        gather(&all[5..], &[3, 2], &[0, 1], &mut into);
        assert_eq!(into, [5.0, 6.0, 5.0, 6.0, 5.0, 6.0]);
    }
}

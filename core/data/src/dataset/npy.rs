//! NumPy's array files, as far as datasets come in them: C order, unsigned bytes or whole numbers.
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::DataError;
use crate::error::unreadable;

/// The most bytes of a header that are read; NumPy writes about a hundred.
const HEADER_LIMIT: u32 = 1 << 16;

/// An array in a file: what its header says.
#[derive(Debug)]
pub(super) struct Npy {
    pub path: PathBuf,
    /// NumPy's description of an element, such as `|u1`.
    description: String,
    pub shape: Vec<usize>,
    /// Where its elements begin.
    pub start: u64,
}

impl Npy {
    /// Reads the header, and checks that the file is as long as it says.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let refuse = |reason: &str| DataError::Npy {
            path: path.to_owned(),
            reason: reason.into(),
        };
        let mut file = File::open(path).map_err(unreadable(path))?;
        let mut fixed = [0; 8];
        file.read_exact(&mut fixed)
            .map_err(|_| refuse("it is shorter than a header"))?;
        if fixed[..6] != *b"\x93NUMPY" {
            return Err(refuse("it does not begin as one"));
        }
        // The length of the header has two bytes in version 1, four later.
        let wide = if fixed[6] == 1 { 2 } else { 4 };
        let mut length = [0; 4];
        file.read_exact(&mut length[..wide])
            .map_err(|_| refuse("it is shorter than its header"))?;
        let length = u32::from_le_bytes(length);
        if length > HEADER_LIMIT {
            return Err(refuse("its header is longer than any that NumPy writes"));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header)
            .map_err(|_| refuse("it is shorter than its header"))?;
        let header = String::from_utf8_lossy(&header);
        let field = |name: &str, end: char| {
            let (_, rest) = header.split_once(&format!("'{name}':"))?;
            let rest = rest.trim_start().trim_start_matches(['\'', '(']);
            rest.split_once(end)
                .map(|(value, _)| value.trim().to_owned())
        };
        let known = || {
            let shape = field("shape", ')')?;
            let extents = shape
                .split(',')
                .map(str::trim)
                .filter(|extent| !extent.is_empty());
            let shape = extents
                .map(|extent| extent.parse().ok())
                .collect::<Option<_>>()?;
            Some((field("descr", '\'')?, field("fortran_order", ',')?, shape))
        };
        let (description, fortran, shape): (String, String, Vec<usize>) =
            known().ok_or_else(|| refuse("its header is not understood"))?;
        if fortran != "False" {
            return Err(refuse("it is in Fortran's order; save it in C's"));
        }
        let array = Self {
            path: path.to_owned(),
            description,
            shape,
            start: (8 + wide) as u64 + u64::from(length),
        };
        let width = match array.description.as_str() {
            "|u1" => 1,
            "<i4" => 4,
            "<i8" => 8,
            _ => return Err(array.refuse("expected u1, i4 or i8 (uint8, int32, int64)")),
        };
        let elements = array
            .shape
            .iter()
            .try_fold(width, |all: u64, &extent| all.checked_mul(extent as u64));
        let found = file.metadata().map_err(unreadable(path))?.len() - array.start;
        match elements {
            Some(expected) if expected == found => Ok(array),
            _ => Err(array.refuse(format!("but {found} bytes follow its header"))),
        }
    }

    /// Whether its elements are unsigned bytes.
    pub fn is_bytes(&self) -> bool {
        self.description == "|u1"
    }

    /// All of its elements.
    pub fn whole_numbers(&self) -> Result<Vec<i64>, DataError> {
        let bytes = std::fs::read(&self.path).map_err(unreadable(&self.path))?;
        let data = &bytes[self.start as usize..];
        let quads = data
            .chunks_exact(4)
            .map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let eights = data.chunks_exact(8).map(|b| {
            let mut whole = [0; 8];
            whole.copy_from_slice(b);
            i64::from_le_bytes(whole)
        });
        Ok(match self.description.as_str() {
            "|u1" => data.iter().map(|&byte| byte.into()).collect(),
            "<i4" => quads.map(i64::from).collect(),
            _ => eights.collect(),
        })
    }

    /// That it is not what a dataset needs.
    pub fn refuse(&self, reason: impl Into<String>) -> DataError {
        let (description, shape) = (&self.description, &self.shape);
        DataError::Npy {
            path: self.path.clone(),
            reason: format!("it holds {description} of {shape:?}, {}", reason.into()),
        }
    }
}

//! Shared libraries. A library is opened once, keeps its place in the process for good, since
//! code of it may run or be pointed at from anywhere, and has the rights of this program.

use std::fs;
use std::mem::ManuallyDrop;
use std::path::Path;

use dtta_abi::{ENTRY_SYMBOL, Entry};
use libloading::Library;

use crate::error::{PluginError, Result};
use crate::under_way::{Entered, Errand};

/// Opens a library and finds its entry. Runs the library's initialisers.
///
/// # Errors
/// [`PluginError::NotALibrary`] for a file that the system cannot load, or one without an entry.
pub(crate) fn open(path: &Path) -> Result<Entry> {
    let refuse = |reason: String| PluginError::NotALibrary {
        path: path.into(),
        reason,
    };
    // Canonical, so that two paths to one file are one library, and no search path has a say.
    let canonical = fs::canonicalize(path).map_err(|source| PluginError::Read {
        path: path.into(),
        source,
    })?;
    // The system maps a library without looking whether all of it is there, and would crash this program later.
    let bytes = fs::read(&canonical).map_err(|source| PluginError::Read {
        path: path.into(),
        source,
    })?;
    if is_cut_off(&bytes) {
        return Err(refuse("it is truncated".into()));
    }
    let _entered = Entered::new(Errand::Opening(path.into()));
    // SAFETY: the user named this file as a plugin, which is trusted code: `plugins list` and the
    // documentation say so. It is never unloaded.
    let library = unsafe { load(&canonical) }.map_err(|error| refuse(dtta_base::told(&error)))?;
    let library = ManuallyDrop::new(library);
    // SAFETY: a symbol of this name is an `Entry` by the interface's contract.
    let entry = unsafe { library.get::<Entry>(ENTRY_SYMBOL.as_bytes()) }.map_err(|_| {
        refuse(format!(
            "it exports no `{ENTRY_SYMBOL}`; a Rust plugin gets one from `export_plugin!` and the feature `dtta-sdk/cdylib`"
        ))
    })?;
    Ok(*entry)
}

/// # Safety
/// The library's initialisers are sound.
#[cfg(unix)]
unsafe fn load(path: &Path) -> Result<Library, libloading::Error> {
    use libloading::os::unix;
    // SAFETY: held by the caller.
    unsafe { unix::Library::open(Some(path), unix::RTLD_NOW | unix::RTLD_LOCAL) }.map(Library::from)
}

/// # Safety
/// The library's initialisers are sound.
#[cfg(not(unix))]
unsafe fn load(path: &Path) -> Result<Library, libloading::Error> {
    // SAFETY: held by the caller.
    unsafe { Library::new(path) }
}

/// Whether an ELF file of 64 bits, little-endian, ends before one of its segments does. Other files are the system's to judge.
fn is_cut_off(bytes: &[u8]) -> bool {
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        return false;
    }
    let number = |at: usize, size: usize| -> Option<u64> {
        let field = bytes.get(at..at.checked_add(size)?)?;
        let mut wide = [0; 8];
        wide[..size].copy_from_slice(field);
        Some(u64::from_le_bytes(wide))
    };
    let ends = || -> Option<bool> {
        // e_phoff, e_phentsize, e_phnum; then p_offset and p_filesz of each program header.
        let (start, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        for header in 0..count {
            let at = usize::try_from(start.checked_add(header * size)?).ok()?;
            let end =
                number(at.checked_add(8)?, 8)?.checked_add(number(at.checked_add(32)?, 8)?)?;
            if end > bytes.len() as u64 {
                return None;
            }
        }
        Some(true)
    };
    ends().is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    #[cfg(all(
        target_os = "linux",
        target_pointer_width = "64",
        target_endian = "little"
    ))]
    fn tells_a_whole_file_from_its_beginning() {
        let whole = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!is_cut_off(&whole));
        for share in [2, 3, 100] {
            assert!(is_cut_off(&whole[..whole.len() / share]));
        }
        assert!(is_cut_off(&whole[..40]));
        assert!(!is_cut_off(b"text"));
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = b"\x7fELF\x02\x01".to_vec();
            bytes.extend(tail);
            is_cut_off(&bytes);
        }

        #[test]
        fn damaged_headers_get_an_answer(
            edits in proptest::collection::vec((0usize..400, any::<u8>()), 1..8),
            kept in 0usize..5000,
        ) {
            // A file of 64 bits with 4 program headers from byte 64 on, each of 56 bytes.
            let mut bytes = vec![0; 4096];
            bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
            bytes[32] = 64;
            bytes[54] = 56;
            bytes[56] = 4;
            prop_assert!(!is_cut_off(&bytes));
            for (at, byte) in edits {
                bytes[at] = byte;
            }
            bytes.truncate(kept);
            is_cut_off(&bytes);
        }
    }
}

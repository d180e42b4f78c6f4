//! Files that appear whole or not at all, also after a crash: written beside their place, synced, renamed, and the folder synced.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde::Serialize;
use tempfile::NamedTempFile;

use crate::digest::sha256;
use crate::error::{Error, Result};

/// Tensors are written one by one; gathered, a checkpoint is a few writes instead of a hundred.
const BUFFER: usize = 1 << 20;

/// Replaces a file by what `write` writes. On failure the old file stays, and nothing beside it.
///
/// # Errors
/// [`Error::Write`] if the system refuses, or whatever `write` refuses.
pub fn replace<E: From<Error>>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    let failed = |source| Error::Write {
        path: path.into(),
        source,
    };
    let folder = folder_of(path);
    let mut file = NamedTempFile::with_prefix_in(".dtta-", folder).map_err(failed)?;
    let mut writer = BufWriter::with_capacity(BUFFER, file.as_file_mut());
    write(&mut writer)?;
    writer.flush().map_err(failed)?;
    drop(writer);
    make_readable(file.as_file()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    sync_folder(folder).map_err(failed)?;
    Ok(())
}

/// Replaces a file by these bytes.
///
/// # Errors
/// [`Error::Write`].
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, |file| {
        file.write_all(bytes).map_err(|source| Error::Write {
            path: path.into(),
            source,
        })
    })
}

/// Replaces a file by a document, indented, with a newline at its end.
///
/// # Errors
/// [`Error::Write`].
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| Error::Write {
        path: path.into(),
        source: error.into(),
    })?;
    text.push(b'\n');
    write_whole(path, &text)
}

/// A file name for any text: different texts have different names, and none leaves its folder. Letters, digits, `.`, `_` and `-` stay,
/// but for a dot in front; other bytes are written as `%2F`; what would be too long ends in its digest.
pub fn file_name(text: &str) -> String {
    /// What every file system takes, with room for an extension.
    const LONGEST: usize = 200;
    let mut name = String::with_capacity(text.len());
    for (place, byte) in text.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        if plain || (byte == b'.' && place > 0) {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    if name.is_empty() {
        // `%` is followed by two digits in all others.
        name.push('%');
    }
    if name.len() > LONGEST {
        let digest = sha256(text.as_bytes());
        name.truncate(LONGEST - digest.len() - 1);
        name = format!("{name}%{digest}");
    }
    name
}

/// Removes a file if it is there.
///
/// # Errors
/// [`Error::Write`].
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Write {
            path: path.into(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Object stores, by how their addresses begin.
const STORES: [&str; 4] = ["s3", "gs", "az", "file"];

/// Refuses an address in an object store where a folder is needed, and what looks like one that lost a slash: `s3:/bucket/run` would make a
/// folder `s3:`.
///
/// # Errors
/// [`Error::Address`].
pub fn expect_folder(path: &Path) -> Result<()> {
    let Some(text) = path.to_str() else {
        return Ok(());
    };
    let Some((scheme, rest)) = text.split_once(':') else {
        return Ok(());
    };
    let refuse = |reason: String| {
        Err(Error::Address {
            address: text.into(),
            reason,
        })
    };
    if rest.starts_with("//") {
        let reason = "is an address, and a folder is needed here; the commands `dtta run` and `dtta merge` put runs into object stores";
        return refuse(reason.into());
    }
    // A drive of Windows has one letter.
    let is_scheme = scheme.len() > 1 && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_store = STORES.contains(&&*scheme.to_ascii_lowercase());
    if is_scheme && (is_store || rest.starts_with('/')) {
        let rest = rest.trim_start_matches('/');
        // After the two slashes of `file://` comes that of the path.
        let slash = if scheme == "file" { "/" } else { "" };
        return refuse(format!(
            "looks like an address of an object store, which would be `{scheme}://{slash}{rest}`; a folder of that name is `./{text}`"
        ));
    }
    Ok(())
}

/// The right to work in a folder, which one process has at a time. It ends with the process at the latest, however that ends.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
}

impl FolderLock {
    /// The name of the file that is locked. It stays behind, empty.
    pub const FILE: &str = ".lock";

    /// Takes the lock of a folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process has it, [`Error::Write`] if the folder cannot be used, [`Error::Address`] for what is none.
    pub fn take(folder: &Path) -> Result<Self> {
        expect_folder(folder)?;
        let path = folder.join(Self::FILE);
        let failed = |source| Error::Write {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(folder).map_err(failed)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { file }),
            Err(TryLockError::WouldBlock) => Err(Error::Locked {
                path: folder.into(),
            }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        self.file.unlock().ok();
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Temporary files are for their owner alone; what is kept is for whom the system says.
#[cfg(unix)]
fn make_readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn make_readable(_file: &File) -> io::Result<()> {
    Ok(())
}

/// A rename is on disk once its folder is. Only Unix can open a folder.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("document.json");
        write_json(&path, &[1, 2]).unwrap();
        let failed = replace(&path, |file| {
            file.write_all(b"half").unwrap();
            Err(Error::Locked { path: path.clone() })
        });
        assert!(matches!(failed, Err(Error::Locked { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "[\n  1,\n  2\n]\n");
        assert_eq!(names(folder.path()), ["document.json"]);
    }

    #[test]
    fn names_the_file_that_cannot_be_written() {
        let error = write_whole(Path::new("/nowhere/file"), b"").unwrap_err();
        assert!(error.to_string().contains("/nowhere/file"), "{error}");
    }

    #[test]
    fn names_of_files_are_injective_and_stay_in_their_folder() {
        assert_eq!(file_name("test_00-01.png"), "test_00-01.png");
        assert_eq!(file_name("fog/5"), "fog%2F5");
        assert_eq!(file_name(".."), "%2E.");
        assert_eq!(file_name("/etc"), "%2Fetc");
        let texts = ["a/b", "a_b", "a-b", "a%2Fb", "", "%", "é", "ab"];
        let names: std::collections::BTreeSet<String> = texts.map(file_name).into();
        assert_eq!(names.len(), texts.len());
        let (long, longer) = ("x".repeat(300), "x".repeat(301));
        assert_ne!(file_name(&long), file_name(&longer));
        assert!(file_name(&longer).len() <= 200);
    }

    #[test]
    fn an_address_is_no_folder_and_neither_is_what_looks_like_one() {
        let refused = |text: &str| match expect_folder(Path::new(text)) {
            Err(Error::Address { reason, .. }) => reason,
            other => panic!("{text}: {other:?}"),
        };
        assert!(refused("s3://bucket/run").contains("is an address"));
        for text in ["s3:/bucket/run", "s3:bucket/run"] {
            let reason = refused(text);
            assert!(reason.contains("`s3://bucket/run`"), "{reason}");
        }
        assert!(refused("file:/tmp/run").contains("`file:///tmp/run`"));
        assert!(refused("S3:/bucket").contains("looks like"));
        assert!(refused("ftp:/host/run").contains("looks like"));
        for folder in [
            "run",
            "/tmp/run",
            "./s3:/bucket",
            "runs/s3:/bucket",
            "C:/runs",
            "C:\\runs",
            "2026-11-27 10:30",
            "run:3",
            "",
        ] {
            assert!(expect_folder(Path::new(folder)).is_ok(), "{folder}");
        }
        let folder = tempfile::tempdir().unwrap();
        let made = std::env::current_dir().unwrap().join("s3:");
        assert!(FolderLock::take(Path::new("s3:/bucket/run")).is_err() && !made.exists());
        assert!(FolderLock::take(&folder.path().join("s3:")).is_ok());
    }

    #[test]
    fn one_process_at_a_time_works_in_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let first = FolderLock::take(&path).unwrap();
        assert!(matches!(FolderLock::take(&path), Err(Error::Locked { .. })));
        drop(first);
        FolderLock::take(&path).unwrap();
    }
}

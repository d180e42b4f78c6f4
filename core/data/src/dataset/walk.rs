//! Reads trees of files as torchvision does (`find_classes` and `make_dataset`, which follow links), but for three things that it leaves to
//! chance: hidden names are left out, a link to a folder above ends there, and a link to nothing is an error.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::left_out::{LeftOut, Reason};
use crate::DataError;
use crate::error::unreadable;

/// Extensions of images, in lower case: torchvision's, and `gif` and `jfif`.
const IMAGES: [&str; 11] = [
    "bmp", "gif", "jfif", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp",
];

/// Folders that archives of macOS and disks of Synology keep for themselves, with copies of the names of images.
const KEPT: [&str; 2] = ["__MACOSX", "@eaDir"];

/// A walk through a tree, and what it has left out so far.
pub(super) struct Walk<'a> {
    root: &'a Path,
    pub left_out: LeftOut,
}

/// What lies directly in a folder, each sorted by name.
pub(super) struct Listing {
    pub folders: Vec<PathBuf>,
    pub files: Vec<PathBuf>,
}

impl<'a> Walk<'a> {
    /// A walk through what lies below `root`.
    pub fn new(root: &'a Path) -> Self {
        Self {
            root,
            left_out: LeftOut::default(),
        }
    }

    /// What lies directly in a folder, behind links too, but for what is hidden.
    pub fn list(&mut self, folder: &Path) -> Result<Listing, DataError> {
        let read_error = unreadable(folder);
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder).map_err(&read_error)? {
            let entry = entry.map_err(&read_error)?;
            entries.push((entry.path(), entry.file_type().map_err(&read_error)?));
        }
        entries.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        let (mut folders, mut files) = (Vec::new(), Vec::new());
        for (path, mut kind) in entries {
            if is_hidden(path.file_name().unwrap_or_default()) {
                self.leave(Reason::Hidden, &path);
                continue;
            }
            if kind.is_symlink() {
                kind = fs::metadata(&path).map_err(unreadable(&path))?.file_type();
            }
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                files.push(path);
            } else {
                self.leave(Reason::Special, &path);
            }
        }
        Ok(Listing { folders, files })
    }

    /// The images in a folder at any depth, in torchvision's order: by folder, then by name, each as text.
    pub fn images(&mut self, folder: &Path) -> Result<Vec<PathBuf>, DataError> {
        let images = self.files(folder, &IMAGES)?;
        for path in &images {
            if extension(path) == "gif" {
                self.leave(Reason::LaterFrames, path);
            }
        }
        Ok(images)
    }

    /// The files with one of these extensions in a folder at any depth, in the same order.
    pub fn files(&mut self, folder: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, DataError> {
        let mut above = vec![canonical(self.root)?];
        let mut files = Vec::new();
        self.descend(folder, &mut above, &mut files)?;
        let (taken, left): (Vec<_>, Vec<_>) = files
            .into_iter()
            .partition(|path| extensions.contains(&extension(path).as_str()));
        for path in left {
            self.leave(Reason::Extension(extension(&path)), &path);
        }
        let mut taken = taken;
        taken.sort_by(|left, right| place(left).cmp(&place(right)));
        Ok(taken)
    }

    /// Adds a folder's files and those of its folders. `above` holds the folders on the way here.
    fn descend(
        &mut self,
        folder: &Path,
        above: &mut Vec<PathBuf>,
        files: &mut Vec<PathBuf>,
    ) -> Result<(), DataError> {
        let real = canonical(folder)?;
        // The root itself may be walked.
        let returns = |known: &PathBuf| known.starts_with(&real);
        if folder != self.root && above.iter().any(returns) {
            self.leave(Reason::Loop, folder);
            return Ok(());
        }
        let listing = self.list(folder)?;
        files.extend(listing.files);
        above.push(real);
        for folder in &listing.folders {
            self.descend(folder, above, files)?;
        }
        above.pop();
        Ok(())
    }

    /// Counts something that is left out.
    pub fn leave(&mut self, reason: Reason, path: &Path) {
        self.left_out.add(reason, id(self.root, path));
    }
}

/// Whether a file is an image by its name.
pub(super) fn is_image(path: &Path) -> bool {
    IMAGES.contains(&extension(path).as_str())
}

/// A file's extension in lower case; empty if it has none.
pub(super) fn extension(path: &Path) -> String {
    let extension = path.extension().unwrap_or_default();
    extension.to_string_lossy().to_lowercase()
}

/// The path below the root with `/` between its parts, so that an id is the same on every system.
pub(super) fn id(root: &Path, path: &Path) -> String {
    let below = path.strip_prefix(root).unwrap_or(path);
    below
        .iter()
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join("/")
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || KEPT.iter().any(|kept| name == *kept)
}

fn canonical(path: &Path) -> Result<PathBuf, DataError> {
    fs::canonicalize(path).map_err(unreadable(path))
}

/// A file's folder and name as text. Paths are ordered by their parts, which is another order: `a/b` comes before `a-b` there.
fn place(path: &Path) -> (&[u8], &[u8]) {
    let folder = path.parent().unwrap_or(path).as_os_str();
    let name = path.file_name().unwrap_or_default();
    (folder.as_encoded_bytes(), name.as_encoded_bytes())
}

//! Which files of two folders belong together: those with the same path below their folder, but for the extension and for what patterns of
//! names say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::left_out::Reason;
use super::walk::Walk;
use crate::DataError;

/// What files are called: what comes before and after what partners have in common.
pub(super) struct Names {
    pattern: String,
    before: String,
    after: String,
}

impl Names {
    pub fn new(pattern: &str) -> Result<Self, DataError> {
        let parts: Vec<&str> = pattern.split('*').collect();
        match parts[..] {
            [before, after] if !pattern.contains(['/', '\\']) => Ok(Self {
                pattern: pattern.into(),
                before: before.into(),
                after: after.into(),
            }),
            _ => Err(DataError::Names {
                pattern: pattern.into(),
            }),
        }
    }

    /// A file's path below the root with what it has in common with its partner in the place of its name; none for one that is called
    /// otherwise.
    fn common(&self, root: &Path, file: &Path) -> Option<PathBuf> {
        let below = file.strip_prefix(root).unwrap_or(file).with_extension("");
        if self.before.is_empty() && self.after.is_empty() {
            return Some(below);
        }
        let name = below.file_name()?.to_str()?;
        let common = name
            .strip_prefix(&*self.before)?
            .strip_suffix(&*self.after)?;
        (!common.is_empty()).then(|| below.with_file_name(common))
    }

    /// What a file is called that has this in common with its partner.
    fn of(&self, common: &Path) -> PathBuf {
        if self.before.is_empty() && self.after.is_empty() {
            return common.to_owned();
        }
        let name = common.file_name().unwrap_or_default().to_string_lossy();
        common.with_file_name(format!("{}{name}{}", self.before, self.after))
    }

    /// The files that are called so.
    pub fn keep(&self, files: Vec<PathBuf>, walk: &mut Walk<'_>) -> Vec<PathBuf> {
        let (kept, others): (Vec<_>, Vec<_>) = files
            .into_iter()
            .partition(|file| self.common(Path::new(""), file).is_some());
        for file in others {
            walk.leave(Reason::Named(self.pattern.clone()), &file);
        }
        kept
    }
}

/// The PNG in a folder that belongs to each image. Those that belong to none are left out.
pub(super) fn partners(
    (root, images, named): (&Path, &[PathBuf], &Names),
    walk: &mut Walk<'_>,
    (folder, maps_named): (&Path, &Names),
    target: &str,
) -> Result<Vec<PathBuf>, DataError> {
    let files = maps_named.keep(walk.files(folder, &["png"])?, walk);
    let of_image = by_common(root, named, images, &format!("their maps of `{target}`"))?;
    let mut of_common = by_common(
        folder,
        maps_named,
        &files,
        &format!("the images that maps of `{target}` belong to"),
    )?;
    for (common, file) in &of_common {
        if !of_image.contains_key(common) {
            walk.leave(Reason::WithoutImage(target.to_owned()), file);
        }
    }
    let partner = |image: &PathBuf| {
        let common = named.common(root, image).unwrap_or_default();
        of_common
            .remove(&common)
            .cloned()
            .ok_or_else(|| DataError::NoPartner {
                image: image.clone(),
                path: folder
                    .join(maps_named.of(&common))
                    .with_added_extension("png"),
            })
    };
    images.iter().map(partner).collect()
}

/// Files by what is common to partners.
fn by_common<'a>(
    root: &Path,
    named: &Names,
    files: &'a [PathBuf],
    by: &str,
) -> Result<BTreeMap<PathBuf, &'a PathBuf>, DataError> {
    let mut found = BTreeMap::new();
    for second in files {
        let common = named.common(root, second).unwrap_or_default();
        if let Some(first) = found.insert(common, second) {
            return Err(DataError::SharedPartner {
                first: PathBuf::clone(first),
                second: second.clone(),
                by: by.to_owned(),
            });
        }
    }
    Ok(found)
}

//! The file of a plugin: a plain file in the plugin's folder, of a size that was agreed on. A device or a pipe would be read
//! without end, or wait for someone to write.

use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::environment::Compiling;
use crate::error::{PluginError, Result};

/// The file that a manifest in `folder` names.
///
/// # Errors
/// [`PluginError::Artifact`] unless it is a plain file in that folder, wherever links lead; [`PluginError::Read`] if there is none.
pub(crate) fn within(folder: &Path, file: &str) -> Result<PathBuf> {
    let path = folder.join(file);
    let refuse = |reason: &str| PluginError::Artifact {
        path: path.clone(),
        reason: reason.into(),
    };
    const OUTSIDE: &str = "it is not in the folder of its manifest";
    let is_inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    if !Path::new(file).components().all(is_inside) {
        return Err(refuse(OUTSIDE));
    }
    plain_file(&path)?;
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    if !canonical(&path)?.starts_with(canonical(folder)?) {
        return Err(refuse(OUTSIDE));
    }
    Ok(path)
}

/// # Errors
/// [`PluginError::Artifact`] unless it is a plain file, [`PluginError::Read`] if there is nothing.
pub(crate) fn plain_file(path: &Path) -> Result<u64> {
    let metadata = fs::metadata(path).map_err(|source| read(path, source))?;
    match metadata.is_file() {
        true => Ok(metadata.len()),
        false => Err(PluginError::Artifact {
            path: path.into(),
            reason: "it is not a regular file".into(),
        }),
    }
}

/// The bytes of a component.
///
/// # Errors
/// As [`plain_file`], and [`PluginError::Compiling`] if there are more of them than there may be.
pub(crate) fn component(path: &Path, limits: &Compiling) -> Result<Vec<u8>> {
    let size = plain_file(path)?;
    if size > limits.component_bytes {
        return Err(PluginError::Compiling {
            path: path.into(),
            reason: format!(
                "it has {size} bytes, and `plugins.limits.component_bytes` allows {}",
                limits.component_bytes
            ),
        });
    }
    fs::read(path).map_err(|source| read(path, source))
}

fn canonical(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).map_err(|source| read(path, source))
}

fn read(path: &Path, source: std::io::Error) -> PluginError {
    PluginError::Read {
        path: path.into(),
        source,
    }
}

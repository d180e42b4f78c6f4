//! The index of tensors that are split over several files, `*.safetensors.index.json` or `pytorch_model.bin.index.json`: which file holds
//! which. It is held to what the files hold, name by name.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::source::Source;
use super::{Checkpoint, Format, Stored, distinct, quoted};
use crate::error::{ModelError, Result};

/// The most faults that are listed of a kind.
const LISTED: usize = 8;
/// The most files that one index may name.
const MOST_FILES: usize = 1024;

/// Whether a file with this beginning is an index.
pub(super) fn is_index(start: &[u8]) -> bool {
    let text = String::from_utf8_lossy(start);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    text.starts_with('{') && text.contains("\"weight_map\"")
}

/// The files that an index names; none for a file that is no index, by what it holds and not by its name.
pub(super) fn shards(path: &Path) -> Result<Vec<PathBuf>> {
    if !is_index(&Source::open(path)?.beginning()?) {
        return Ok(Vec::new());
    }
    let map = weight_map(path)?;
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    Ok(distinct(map.values().map(String::as_str))
        .into_iter()
        .map(|file| folder.join(file))
        .collect())
}

/// File by tensor.
fn weight_map(path: &Path) -> Result<BTreeMap<String, String>> {
    let document = dtta_base::read_json(path, &[])?;
    let refuse = |faults: Vec<String>| ModelError::Index {
        path: path.into(),
        faults,
    };
    let Some(Value::Object(map)) = document.get("weight_map") else {
        return Err(refuse(vec!["`weight_map` is no object".into()]));
    };
    let (mut files, mut faults) = (BTreeMap::new(), Vec::new());
    for (name, file) in map {
        match file.as_str().filter(|file| is_name(file)) {
            Some(file) => drop(files.insert(name.clone(), file.to_owned())),
            None => faults.push(format!(
                "`{name}` is in {file}, which is no file beside the index"
            )),
        }
    }
    let count = distinct(files.values().map(String::as_str)).len();
    if count > MOST_FILES {
        faults.push(format!("it names {count} files"));
    }
    match faults.is_empty() {
        true => Ok(files),
        false => Err(refuse(faults)),
    }
}

/// Whether a text is the name of a file, with no way out of the folder.
fn is_name(text: &str) -> bool {
    let mut components = Path::new(text).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(name)), None) if name == OsStr::new(text))
}

/// The tensors of all files that an index names.
pub(super) fn open(path: &Path) -> Result<Checkpoint> {
    let map = weight_map(path)?;
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    let names: Vec<&str> = distinct(map.values().map(String::as_str))
        .into_iter()
        .collect();
    let absent = names
        .iter()
        .copied()
        .filter(|name| !folder.join(name).exists());
    let absent = quoted(absent);
    let mut faults = Vec::new();
    if !absent.is_empty() {
        faults.push(format!(
            "missing files {}",
            dtta_base::listed(absent, LISTED)
        ));
        return Err(ModelError::Index {
            path: path.into(),
            faults,
        });
    }
    let (mut files, mut tensors, mut format) =
        (Vec::new(), BTreeMap::<String, Stored>::new(), None);
    let mut twice = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let source = Source::open(&folder.join(name))?;
        let start = source.beginning()?;
        let shard = Checkpoint::single(source, &start)?;
        format.get_or_insert(shard.format);
        files.extend(shard.files);
        for (tensor, mut stored) in shard.tensors {
            stored.file = number;
            if let Some(before) = tensors.insert(tensor.clone(), stored) {
                twice.push(format!(
                    "`{tensor}` in `{}` and `{name}`",
                    names[before.file]
                ));
            }
        }
    }
    let mut elsewhere = Vec::new();
    for (tensor, file) in &map {
        match tensors.get(tensor) {
            Some(stored) if names[stored.file] == file => {}
            Some(stored) => elsewhere.push(format!(
                "`{tensor}` is in `{}` and not in `{file}`",
                names[stored.file]
            )),
            None => elsewhere.push(format!("`{tensor}` is not in `{file}`")),
        }
    }
    let unknown = tensors
        .keys()
        .filter(|tensor| !map.contains_key(*tensor))
        .map(String::as_str);
    let kinds = [
        ("twice", twice),
        ("elsewhere", elsewhere),
        ("not in the index", quoted(unknown)),
    ];
    for (kind, found) in kinds.into_iter().filter(|(_, found)| !found.is_empty()) {
        faults.push(format!("{kind}: {}", dtta_base::listed(found, LISTED)));
    }
    if !faults.is_empty() {
        return Err(ModelError::Index {
            path: path.into(),
            faults,
        });
    }
    Ok(Checkpoint {
        path: path.into(),
        format: format.unwrap_or(Format::Safetensors),
        files,
        tensors,
    })
}

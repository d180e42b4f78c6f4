//! What `torch.save` writes of dictionaries of tensors: an archive since PyTorch 1.6, several pickles and the numbers behind them before.
//!
//! A training program keeps more than weights. Which of it is read is a fixed rule: of the dictionaries of tensors that a file holds by
//! name, the average of the weights over training if there is one ([`AVERAGED`]), or else the weights ([`WEIGHTS`]), or else the only
//! one; in a file that holds none, the file's own tensors.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

use super::pickle::{self, Id, Pickle, Reason, Storage, Tensor, Value};
use super::source::{Checked, Source};
use super::{Format, Stored, damaged, zip};
use crate::error::Result;

/// What training programs call the average of the weights, the first one first: facebookresearch's DiT and SiT, timm, and others.
const AVERAGED: [&str; 5] = [
    "ema",
    "model_ema",
    "state_dict_ema",
    "params_ema",
    "ema_state_dict",
];
/// What they call the weights.
const WEIGHTS: [&str; 4] = ["state_dict", "model", "model_state_dict", "params"];

/// The number that a file begins with, as a pickle.
const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// The most entries that a message lists.
const LISTED: usize = 8;

/// Which of PyTorch's formats a file with this beginning has.
pub(super) fn format(start: &[u8]) -> Option<Format> {
    // Eight bytes of length, then `{`: a safetensors file may begin with the same bytes as any other.
    if start.get(8) == Some(&b'{') {
        return None;
    }
    match start {
        [b'P', b'K', 3 | 5, 4 | 6, ..] => Some(Format::Archive),
        _ if start.starts_with(MAGIC) => Some(Format::Legacy),
        _ => None,
    }
}

/// The tensors of an archive.
pub(super) fn archive(source: &Source) -> Result<BTreeMap<String, Stored>> {
    let read = || {
        let entries = zip::entries(source)?;
        let described = entries
            .keys()
            .filter_map(|name| name.strip_suffix("data.pkl"));
        let root = described
            .filter(|root| root.is_empty() || root.ends_with('/'))
            .min_by_key(|root| root.len());
        let root = root.ok_or("it is a zip archive without `data.pkl`")?;
        if entries.contains_key(&format!("{root}constants.pkl")) {
            return Err(Reason::from(
                "it is a program in TorchScript; in Python, save the dictionary that `torch.jit.load(FILE).state_dict()` gives",
            ));
        }
        let whole = |name: &str, entry: &zip::Entry, most: u64| {
            let refused = |reason: Reason| format!("`{name}` {reason}");
            let start = entry.start(source).map_err(refused)?;
            if entry.length > most {
                return Err(refused(format!("has {} bytes", entry.length)));
            }
            let mut bytes = vec![0; entry.length as usize];
            source
                .bytes(start, &mut bytes)
                .map_err(|error| error.to_string())?;
            match entry.checksum {
                0 => Ok(bytes),
                checksum if crc32fast::hash(&bytes) == checksum => Ok(bytes),
                _ => Err(refused("is damaged: its checksum does not fit".into())),
            }
        };
        let order = format!("{root}byteorder");
        if let Some(entry) = entries.get(&order)
            && whole(&order, entry, 64)? != b"little"
        {
            return Err("it was written on a big-endian machine".into());
        }
        let name = format!("{root}data.pkl");
        let bytes = whole(&name, &entries[&name], 64 << 20)?;
        let (pickle, top) = pickle::read(&mut bytes.as_slice())?;
        let mut places = BTreeMap::new();
        for storage in &pickle.storages {
            if places.contains_key(&storage.key) {
                continue;
            }
            let name = format!("{root}data/{}", storage.key);
            let entry = entries
                .get(&name)
                .ok_or_else(|| format!("`{name}` is missing"))?;
            let start = entry
                .start(source)
                .map_err(|reason| format!("`{name}` {reason}"))?;
            let length = entry.length;
            let checked = (entry.checksum != 0).then_some(Checked {
                start,
                length,
                crc32: entry.checksum,
            });
            places.insert(
                storage.key.clone(),
                Place {
                    start,
                    length,
                    checked,
                },
            );
        }
        tensors(&source.path, &pickle, top, &places)
    };
    read().map_err(|reason| damaged(&source.path, Format::Archive, reason))
}

/// The tensors of a file from before there were archives: the number that it begins with, the version, what the machine was, what it
/// holds, the keys of the storages, and the storages in that order, each behind its length.
pub(super) fn legacy(source: &Source) -> Result<BTreeMap<String, Stored>> {
    let read = || {
        let mut reader = BufReader::new(At { source, place: 0 });
        pickle::read(&mut reader)?;
        let (version, number) = pickle::read(&mut reader)?;
        if !matches!(version.value(number), Value::Int(1001)) {
            return Err(Reason::from("its version is not 1001"));
        }
        let (machine, about) = pickle::read(&mut reader)?;
        let is_little =
            |(name, value)| name == "little_endian" && matches!(machine.value(value), Value::True);
        if !named(&machine, about).any(is_little) {
            return Err("it was written on a big-endian machine".into());
        }
        let (pickle, top) = pickle::read(&mut reader)?;
        let (keys, list) = pickle::read(&mut reader)?;
        let Value::List(list) = keys.value(list) else {
            return Err("it has no list of storages".into());
        };
        let declared: BTreeMap<&str, &Storage> = pickle
            .storages
            .iter()
            .map(|storage| (&*storage.key, storage))
            .collect();
        let mut start = reader.get_ref().place - reader.buffer().len() as u64;
        let mut places = BTreeMap::new();
        for &key in list {
            let storage = match keys.value(key) {
                Value::Text(key) => declared.get(key.as_str()),
                _ => None,
            };
            let storage = storage.ok_or("it lists a storage that no tensor has")?;
            let mut count = [0; 8];
            source
                .bytes(start, &mut count)
                .map_err(|error| error.to_string())?;
            let length = (storage.elements as u64).saturating_mul(storage.dtype.bytes() as u64);
            let end = start
                .checked_add(8)
                .and_then(|start| start.checked_add(length));
            let end = end.filter(|&end| end <= source.length());
            let (Some(end), true) = (end, u64::from_le_bytes(count) == storage.elements as u64)
            else {
                return Err("its storages are not in the file: it is cut short or damaged".into());
            };
            places.insert(
                storage.key.clone(),
                Place {
                    start: start + 8,
                    length,
                    checked: None,
                },
            );
            start = end;
        }
        if start != source.length() {
            return Err(format!(
                "its storages end at {start}, the file at {}",
                source.length()
            ));
        }
        tensors(&source.path, &pickle, top, &places)
    };
    read().map_err(|reason| damaged(&source.path, Format::Legacy, reason))
}

/// A file from a place on, which goes along.
struct At<'a> {
    source: &'a Source,
    place: u64,
}

impl Read for At<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.source.length() - self.place;
        let count = (into.len() as u64).min(left) as usize;
        self.source
            .bytes(self.place, &mut into[..count])
            .map_err(io::Error::other)?;
        self.place += count as u64;
        Ok(count)
    }
}

/// Where a storage's numbers are.
struct Place {
    start: u64,
    length: u64,
    checked: Option<Checked>,
}

/// The longest name that a tensor, or a dictionary of them, has.
const LONGEST_NAME: usize = 1024;

/// The entries of a dictionary that have a name.
fn named(pickle: &Pickle, dict: Id) -> impl Iterator<Item = (&str, Id)> {
    let pairs = match pickle.value(dict) {
        Value::Dict(pairs) => pairs.as_slice(),
        _ => &[],
    };
    let named = pairs.iter().map(|&(key, value)| (pickle.value(key), value));
    named.filter_map(|(key, value)| match key {
        Value::Text(name) if name.len() <= LONGEST_NAME => Some((name.as_str(), value)),
        _ => None,
    })
}

/// Whether a value is a dictionary in which a name stands for a tensor.
fn holds_tensors(pickle: &Pickle, dict: Id) -> bool {
    named(pickle, dict).any(|(_, value)| matches!(pickle.value(value), Value::Tensor(_)))
}

/// The entries of a dictionary that are dictionaries of tensors. A name that is given twice stands for what it was given last.
fn dicts_of_tensors(pickle: &Pickle, top: Id) -> BTreeMap<&str, Id> {
    // Each dictionary is looked at once, however often it stands there.
    let mut known = BTreeMap::new();
    let entries = named(pickle, top);
    entries
        .filter(|&(_, value)| {
            *known
                .entry(value)
                .or_insert_with(|| holds_tensors(pickle, value))
        })
        .collect()
}

/// Names in backquotes, the first of many.
fn in_words<'a>(names: impl Iterator<Item = &'a str>) -> String {
    dtta_base::listed(names.map(|name| format!("`{name}`")), LISTED)
}

/// The dictionary of tensors of a file whose pickle describes `top`, by the rule that this module states, and its name in the file; the
/// file's own has none.
fn chosen<'a>(path: &Path, pickle: &'a Pickle, top: Id) -> Result<(&'a str, Id), Reason> {
    if !matches!(pickle.value(top), Value::Dict(_)) {
        let found = pickle.value(top).in_words();
        return Err(format!(
            "it holds {found}, not a dictionary of tensors; in Python, save what `state_dict()` of the model gives"
        ));
    }
    let dicts = dicts_of_tensors(pickle, top);
    let names = || in_words(dicts.keys().copied());
    let mut known = AVERAGED.iter().chain(&WEIGHTS);
    let known = known.find_map(|name| dicts.get_key_value(name));
    let (name, dict) = match (known, dicts.first_key_value()) {
        (Some((name, dict)), _) => (*name, *dict),
        (None, Some((name, dict))) if dicts.len() == 1 => (*name, *dict),
        (None, None) if holds_tensors(pickle, top) => ("", top),
        (None, None) => {
            let held = in_words(named(pickle, top).map(|(name, _)| name));
            return Err(format!(
                "it holds no dictionary of tensors; what it holds is {held}"
            ));
        }
        (None, Some(_)) => {
            return Err(format!(
                "it holds several dictionaries of tensors, {}, and none has a name that says that it is the weights",
                names()
            ));
        }
    };
    if dicts.len() > 1 {
        log::warn!(
            "`{}` holds {}; the weights are those of `{name}`",
            path.display(),
            names()
        );
    }
    Ok((name, dict))
}

/// The tensors of a file whose pickle describes `top`.
fn tensors(
    path: &Path,
    pickle: &Pickle,
    top: Id,
    places: &BTreeMap<Rc<str>, Place>,
) -> Result<BTreeMap<String, Stored>, Reason> {
    let (name, dict) = chosen(path, pickle, top)?;
    let Value::Dict(pairs) = pickle.value(dict) else {
        return Err("it holds no dictionary of tensors".into());
    };
    let of = |key: &str| match name {
        "" => format!("`{key}`"),
        name => format!("`{key}` of `{name}`"),
    };
    let mut tensors = BTreeMap::new();
    for &(key, value) in pairs {
        let Value::Text(key) = pickle.value(key) else {
            let found = pickle.value(key).in_words();
            return Err(format!("the dictionary of tensors has {found} as a key"));
        };
        if key.len() > LONGEST_NAME {
            return Err(format!("a tensor has a name of {} bytes", key.len()));
        }
        match pickle.value(value) {
            Value::Tensor(tensor) => {
                let stored =
                    stored(tensor, places).map_err(|reason| format!("{} {reason}", of(key)))?;
                tensors.insert(key.clone(), stored);
            }
            // Such as the number of the epoch.
            Value::None
            | Value::True
            | Value::False
            | Value::Int(_)
            | Value::Text(_)
            | Value::Scalar => {
                tensors.remove(key);
            }
            other => {
                return Err(format!("{} is {}, not a tensor", of(key), other.in_words()));
            }
        }
    }
    Ok(tensors)
}

fn stored(tensor: &Tensor, places: &BTreeMap<Rc<str>, Place>) -> Result<Stored, Reason> {
    let Storage {
        key,
        dtype,
        elements,
    } = &tensor.storage;
    let place = places.get(key).ok_or("has no storage in the file")?;
    let held = elements.checked_mul(dtype.bytes());
    if held.is_none_or(|held| held as u64 > place.length) {
        return Err(format!(
            "is longer than its storage, which has {} bytes",
            place.length
        ));
    }
    Ok(Stored {
        file: 0,
        dtype: tensor.dtype,
        shape: tensor.shape.clone(),
        strides: tensor.strides.clone(),
        start: place.start + (tensor.offset * tensor.dtype.bytes()) as u64,
        checked: place.checked,
    })
}

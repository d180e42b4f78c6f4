//! Values that the host keeps for a plugin: parameters that adaptation may move, and buffers that
//! only the plugin changes. A plugin declares them once; after that it is lent their current
//! state with each call, and keeps none itself.

use std::collections::{BTreeMap, BTreeSet};

use dtta_tensor::{Limits, MAX_RANK, Storage, Tensor, Value};
use serde::Deserialize;

use crate::error::{Place, PluginError, Result};

/// Bytes of a value's element.
const ELEMENT: u64 = 4;

/// A value that a plugin asks the host to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueSpec {
    /// Its name in checkpoints, after the plugin's.
    pub name: String,
    /// How it is kept.
    pub storage: Storage,
    /// Its extents.
    pub shape: Vec<usize>,
    /// Open hints: `init` (`zeros`, `ones`, `normal`, `xavier-uniform`, `kaiming-uniform`), `group` (`norm-affine`,
    /// `head`, `bias`), `trainable` (`false`). Unknown ones are ignored.
    pub attributes: BTreeMap<String, String>,
}

/// The state of a role's values, in the order of its declaration, and what a call did to them.
#[derive(Debug, Clone, Default)]
pub struct Values {
    /// The current state, one for each declared value.
    pub tensors: Vec<Tensor>,
    /// Buffers that the last call replaced, by place. Empty after a call that failed.
    pub updates: Vec<(usize, Tensor)>,
}

impl Values {
    /// For a role that declares none.
    pub fn none() -> Self {
        Self::default()
    }

    /// This state.
    pub fn new(tensors: Vec<Tensor>) -> Self {
        Self {
            tensors,
            updates: Vec::new(),
        }
    }

    /// As a call sees them.
    pub(crate) fn lent(&self, specs: &[ValueSpec], place: &Place) -> Result<Vec<Value>> {
        if self.tensors.len() != specs.len() {
            return Err(PluginError::Host {
                message: format!(
                    "{place} takes {} values, not {}",
                    specs.len(),
                    self.tensors.len()
                ),
            });
        }
        let lent = self.tensors.iter().zip(specs).map(|(tensor, spec)| Value {
            storage: spec.storage,
            tensor: tensor.clone(),
        });
        Ok(lent.collect())
    }
}

/// A declaration as the native interface writes it.
#[derive(Deserialize)]
struct Written {
    name: String,
    storage: WrittenStorage,
    shape: Vec<u64>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WrittenStorage {
    Parameter,
    Buffer,
}

/// Reads the JSON of a declaration; nothing at all declares nothing.
pub(crate) fn parse(document: &[u8], limits: &Limits, place: &Place) -> Result<Vec<ValueSpec>> {
    if document.is_empty() {
        return Ok(Vec::new());
    }
    let written: Vec<Written> = serde_json::from_slice(document)
        .map_err(|error| refuse(place, format!("its declaration of values: {error}")))?;
    let specs = written.into_iter().map(|value| ValueSpec {
        name: value.name,
        storage: match value.storage {
            WrittenStorage::Parameter => Storage::Parameter,
            WrittenStorage::Buffer => Storage::Buffer,
        },
        shape: extents(value.shape),
        attributes: value.attributes,
    });
    check(specs.collect(), limits, place)
}

fn extents(shape: Vec<u64>) -> Vec<usize> {
    shape
        .into_iter()
        .map(|extent| usize::try_from(extent).unwrap_or(usize::MAX))
        .collect()
}

/// Refuses values that nobody could keep, or that are more than one call may hold.
pub(crate) fn check(
    specs: Vec<ValueSpec>,
    limits: &Limits,
    place: &Place,
) -> Result<Vec<ValueSpec>> {
    let mut names = BTreeSet::new();
    let mut bytes = 0u64;
    for ValueSpec { name, shape, .. } in &specs {
        if name.is_empty() || !names.insert(name.as_str()) {
            return Err(refuse(
                place,
                format!("it declares two values of the name `{name}`, or one without a name"),
            ));
        }
        let size = shape
            .iter()
            .fold(ELEMENT, |size, &extent| size.saturating_mul(extent as u64));
        bytes = bytes.saturating_add(size);
        if shape.is_empty() || shape.len() > MAX_RANK || shape.contains(&0) {
            return Err(refuse(
                place,
                format!(
                    "it declares `{name}` with the shape {shape:?}, expected 1 to {MAX_RANK} extents of 1 or more"
                ),
            ));
        }
    }
    if bytes > limits.bytes {
        return Err(PluginError::Failed {
            place: place.clone(),
            code: "budget-exceeded".into(),
            message: format!(
                "it declares values of {bytes} bytes, and `plugins.limits.bytes` allows {}",
                limits.bytes
            ),
        });
    }
    Ok(specs)
}

fn refuse(place: &Place, message: String) -> PluginError {
    PluginError::Failed {
        place: place.clone(),
        code: "invalid-argument".into(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::manifest::Role;

    fn declared(document: &str) -> Result<Vec<ValueSpec>> {
        parse(
            document.as_bytes(),
            &Limits::default(),
            &Place::new("p", Role::Head, "create"),
        )
    }

    #[test]
    fn reads_a_declaration() {
        let specs = declared(
            r#"[{"name": "weight", "storage": "parameter", "shape": [4, 8], "attributes": {"init": "kaiming-uniform"}},
                {"name": "mean", "storage": "buffer", "shape": [8]}]"#,
        )
        .unwrap();
        assert_eq!(specs[0].shape, [4, 8]);
        assert_eq!(specs[0].attributes["init"], "kaiming-uniform");
        assert_eq!(specs[1].storage, Storage::Buffer);
        assert!(declared("").unwrap().is_empty());
    }

    #[test]
    fn refuses_values_that_nobody_could_keep() {
        for (document, reason) in [
            (
                r#"[{"name": "", "storage": "buffer", "shape": [1]}]"#,
                "without a name",
            ),
            (
                r#"[{"name": "a", "storage": "buffer", "shape": [1]}, {"name": "a", "storage": "buffer", "shape": [1]}]"#,
                "two values",
            ),
            (
                r#"[{"name": "a", "storage": "buffer", "shape": []}]"#,
                "extents",
            ),
            (
                r#"[{"name": "a", "storage": "buffer", "shape": [3, 0]}]"#,
                "extents",
            ),
            (
                r#"[{"name": "a", "storage": "buffer", "shape": [1, 1, 1, 1, 1, 1, 1]}]"#,
                "extents",
            ),
            (
                r#"[{"name": "a", "storage": "parameter", "shape": [4294967295, 4294967295, 4294967295]}]"#,
                "`plugins.limits.bytes`",
            ),
            (
                r#"[{"name": "a", "storage": "heap", "shape": [1]}]"#,
                "heap",
            ),
            (r#"{"name": "a"}"#, "declaration"),
            ("nonsense", "declaration"),
        ] {
            let error = declared(document).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(document in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&document, &Limits::default(), &Place::new("p", Role::Head, "create"));
        }
    }
}

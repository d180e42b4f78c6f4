//! Documents: read with their overrides, held to their schema with every fault at once, and typed.

use std::path::Path;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Issue, Result};
use crate::fault::faults;
use crate::json::{escaped, parse_json, read_text, strict, unescaped};
use crate::schema::schema;

/// Which places of a document were set from outside of its file, so that faults there can say so.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides(Vec<Override>);

#[derive(Debug, Clone, PartialEq)]
struct Override {
    /// Where it comes from, as messages name it.
    origin: String,
    /// The place that was set.
    pointer: String,
    /// The first place on the way there that the document did not have.
    made: Option<String>,
}

impl Overrides {
    /// Puts a value into a place of a document, in JSON's notation (`/adaptation/batch`) or with dots (`adaptation.batch`), making objects on
    /// the way. `origin` is what messages name: `--set adaptation.batch=2`.
    ///
    /// # Errors
    /// In words, why there is no such place.
    pub fn put(
        &mut self,
        document: &mut Value,
        pointer: &str,
        value: Value,
        origin: impl Into<String>,
    ) -> Result<(), String> {
        let (pointer, made) = put(document, pointer, value)?;
        self.0.push(Override {
            origin: origin.into(),
            pointer,
            made,
        });
        Ok(())
    }

    /// Puts the value of `POINTER=VALUE` into a document: JSON, or else text.
    ///
    /// # Errors
    /// [`Error::Override`].
    pub fn set(&mut self, document: &mut Value, text: &str) -> Result<()> {
        let refuse = |reason: String| Error::Override {
            text: text.into(),
            reason,
        };
        let (pointer, value) = text
            .split_once('=')
            .ok_or_else(|| refuse("expected POINTER=VALUE, such as `method.steps=3`".into()))?;
        let value = match strict(value) {
            Ok((_, repeated)) if !repeated.is_empty() => {
                return Err(refuse(format!("`{}` is given twice", repeated[0].pointer)));
            }
            Ok((value, _)) => value,
            Err(_) => Value::String(value.into()),
        };
        self.put(document, pointer, value, format!("--set {text}"))
            .map_err(refuse)
    }

    /// Where the value at a place comes from, if an override set it, and what of the pointer lies within what that set.
    pub fn origin<'a>(&self, pointer: &'a str) -> Option<(&str, &'a str)> {
        let set = self.0.iter().rfind(|set| set.holds(pointer))?;
        Some((
            &set.origin,
            pointer.strip_prefix(&set.pointer).unwrap_or(""),
        ))
    }

    /// The same faults; those of what an override set name it.
    #[must_use]
    pub fn name(&self, issues: Vec<Issue>) -> Vec<Issue> {
        let named = issues.into_iter().map(|mut issue| {
            if let Some((origin, _)) = self.origin(&issue.pointer) {
                issue.message += &format!(" (from `{origin}`)");
            }
            issue
        });
        named.collect()
    }
}

impl Override {
    fn holds(&self, pointer: &str) -> bool {
        let below = pointer.strip_prefix(&self.pointer);
        below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            || self.made.as_deref() == Some(pointer)
    }
}

/// Reads a JSON file and puts overrides into it, as [`read_document`].
///
/// # Errors
/// As there.
pub fn read_json(path: &Path, overrides: &[String]) -> Result<Value> {
    Ok(read_document(path, overrides)?.0)
}

/// Reads a JSON file and puts overrides into it, each `POINTER=VALUE`: the pointer in JSON's notation (`/adaptation/batch`) or with dots
/// (`adaptation.batch`), the value as JSON, or else as text. A byte-order mark is skipped.
///
/// # Errors
/// [`Error::Read`], [`Error::Encoding`], [`Error::Json`], [`Error::Invalid`] for fields that are given twice, or [`Error::Override`].
pub fn read_document(path: &Path, overrides: &[String]) -> Result<(Value, Overrides)> {
    let mut value = parse_json(path, &read_text(path)?)?;
    let mut set = Overrides::default();
    for text in overrides {
        set.set(&mut value, text)?;
    }
    Ok((value, set))
}

/// The typed document that `value` holds.
///
/// # Errors
/// Every fault that its schema finds.
pub fn parse<T: JsonSchema + DeserializeOwned>(value: Value) -> Result<T, Vec<Issue>> {
    parse_and_check(value, |_| Vec::new())
}

/// The typed document that `value` holds, if it does not contradict itself either. What `contradictions` looks at has the right types, but
/// its numbers may be out of the schema's bounds.
///
/// # Errors
/// Every fault that its schema finds, and every contradiction in other places.
pub fn parse_and_check<T: JsonSchema + DeserializeOwned>(
    value: Value,
    contradictions: impl FnOnce(&T) -> Vec<Issue>,
) -> Result<T, Vec<Issue>> {
    parse_by(&schema::<T>(), value, contradictions)
}

/// As [`parse_and_check`], by a schema that is not the type's own.
///
/// # Errors
/// As there.
pub fn parse_by<T: DeserializeOwned>(
    schema: &Value,
    mut value: Value,
    contradictions: impl FnOnce(&T) -> Vec<Issue>,
) -> Result<T, Vec<Issue>> {
    let (mut issues, unknown) = faults(&value, schema);
    // What is beside them may contradict itself too.
    for pointer in unknown {
        remove(&mut value, &pointer);
    }
    match serde_json::from_value(value) {
        Ok(document) => {
            add_others(&mut issues, contradictions(&document));
            if issues.is_empty() {
                return Ok(document);
            }
        }
        Err(error) if issues.is_empty() => issues.push(Issue::new("", error.to_string())),
        Err(_) => {}
    }
    Err(issues)
}

/// Takes a field out of a document.
fn remove(document: &mut Value, pointer: &str) {
    if let Some((parent, name)) = pointer.rsplit_once('/')
        && let Some(Value::Object(fields)) = document.pointer_mut(parent)
    {
        fields.shift_remove(&unescaped(name));
    }
}

/// Adds the faults of places that have none yet.
pub fn add_others(issues: &mut Vec<Issue>, others: Vec<Issue>) {
    for other in others {
        if issues.iter().all(|issue| issue.pointer != other.pointer) {
            issues.push(other);
        }
    }
}

/// That a document of a file has these faults.
pub fn invalid(path: &Path, what: &'static str, issues: Vec<Issue>) -> Error {
    Error::Invalid {
        path: path.into(),
        what,
        issues,
    }
}

/// Puts a value into a document, making objects on the way; gives the pointer in JSON's notation, and the first place on the way there that
/// the document did not have.
fn put(
    document: &mut Value,
    pointer: &str,
    value: Value,
) -> Result<(String, Option<String>), String> {
    let parts: Vec<String> = match pointer.strip_prefix('/') {
        Some(pointer) => pointer.split('/').map(unescaped).collect(),
        None => pointer.split('.').map(str::to_owned).collect(),
    };
    if parts.iter().any(String::is_empty) {
        return Err("the pointer has an empty part".into());
    }
    let mut place = document;
    let (mut pointer, mut made) = (String::new(), None);
    for part in &parts {
        pointer += &format!("/{}", escaped(part));
        place = match place {
            Value::Object(fields) => {
                if !fields.contains_key(part) && made.is_none() {
                    made = Some(pointer.clone());
                }
                fields
                    .entry(part.clone())
                    .or_insert_with(|| Value::Object(serde_json::Map::new()))
            }
            Value::Array(items) => {
                let length = items.len();
                let item = part
                    .parse()
                    .ok()
                    .and_then(|index: usize| items.get_mut(index));
                item.ok_or_else(|| format!("`{part}` is not an index of a list of {length}"))?
            }
            _ => return Err(format!("`{part}` lies within a value that has no parts")),
        };
    }
    *place = value;
    Ok((pointer, made))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn overridden(texts: &[&str]) -> Result<(Value, Overrides)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("document.json");
        std::fs::write(&path, r#"{"a": {"b": 1}, "list": [1, 2]}"#).unwrap();
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        read_document(&path, &texts)
    }

    #[test]
    fn a_fault_of_what_an_override_set_names_it_and_no_other_does() {
        let (_, overrides) = overridden(&["a.b=2", "new.deep=1", "/list/0=7"]).unwrap();
        let named = |pointer: &str| {
            let issues = overrides.name(vec![Issue::new(pointer, "is wrong")]);
            issues[0].message.clone()
        };
        assert_eq!(named("/a/b"), "is wrong (from `--set a.b=2`)");
        assert_eq!(named("/a/b/c"), "is wrong (from `--set a.b=2`)");
        assert_eq!(named("/new"), "is wrong (from `--set new.deep=1`)");
        assert_eq!(named("/list/0"), "is wrong (from `--set /list/0=7`)");
        for other in ["", "/a", "/a/bc", "/list", "/list/1"] {
            assert_eq!(named(other), "is wrong");
        }
    }

    #[test]
    fn an_override_is_json_or_text_and_names_no_field_twice() {
        let (value, _) = overridden(&["a.b={\"c\": [1]}", "list=some text"]).unwrap();
        assert_eq!(value, json!({"a": {"b": {"c": [1]}}, "list": "some text"}));
        let error = overridden(&[r#"a={"b": 1, "b": 2}"#]).unwrap_err();
        assert!(error.to_string().contains("`/b` is given twice"), "{error}");
    }
}

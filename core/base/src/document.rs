//! JSON documents: read, overridden, held to their schema with every fault at once, and typed.

use std::fs;
use std::path::Path;

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Issue, Result};

/// The JSON Schema (draft 2020-12) of a document type.
pub fn schema_of<T: JsonSchema>(title: &str) -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<T>();
    schema.insert("title".into(), title.into());
    schema.to_value()
}

/// Reads a JSON file and puts overrides into it, each `POINTER=VALUE`: the pointer in JSON's notation (`/adaptation/batch`) or with dots
/// (`adaptation.batch`), the value as JSON, or else as text.
///
/// # Errors
/// [`Error::Read`], [`Error::Json`] or [`Error::Override`].
pub fn read_json(path: &Path, overrides: &[String]) -> Result<Value> {
    let text = fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.into(),
        source,
    })?;
    let mut value: Value = serde_json::from_str(&text).map_err(|source| Error::Json {
        path: path.into(),
        source,
    })?;
    for text in overrides {
        set(&mut value, text)?;
    }
    Ok(value)
}

/// The typed document that `value` holds.
///
/// # Errors
/// Every fault that its schema finds.
pub fn parse<T: JsonSchema + DeserializeOwned>(value: Value) -> Result<T, Vec<Issue>> {
    let issues = check(&value, &schema_of::<T>(""));
    if !issues.is_empty() {
        return Err(issues);
    }
    serde_json::from_value(value).map_err(|error| vec![Issue::new("", error.to_string())])
}

/// Every fault that a JSON Schema finds in a document.
pub fn check(value: &Value, schema: &Value) -> Vec<Issue> {
    let validator = match jsonschema::validator_for(schema) {
        Ok(validator) => validator,
        Err(error) => return vec![Issue::new("", error.to_string())],
    };
    let mut issues = Vec::new();
    for error in validator.iter_errors(value) {
        explain(&error, &mut issues);
    }
    issues
}

/// That a document of a file has these faults.
pub fn invalid(path: &Path, what: &'static str, issues: Vec<Issue>) -> Error {
    Error::Invalid {
        path: path.into(),
        what,
        issues,
    }
}

/// An alternative that fails says little; the faults of the alternative that came closest say what to change.
fn explain(error: &ValidationError<'_>, issues: &mut Vec<Issue>) {
    let context = match error.kind() {
        ValidationErrorKind::OneOfNotValid { context } | ValidationErrorKind::AnyOf { context } => {
            context
        }
        _ => {
            issues.push(Issue {
                pointer: error.instance_path().to_string(),
                message: error.to_string(),
            });
            return;
        }
    };
    let wrong_kind = |errors: &&Vec<ValidationError<'_>>| {
        errors
            .iter()
            .filter(|error| matches!(error.kind(), ValidationErrorKind::Constant { .. }))
            .count()
    };
    match context
        .iter()
        .min_by_key(|errors| (wrong_kind(errors), errors.len()))
    {
        Some(closest) if wrong_kind(&closest) == 0 && !closest.is_empty() => {
            closest.iter().for_each(|error| explain(error, issues));
        }
        _ => {
            let kinds: Vec<String> = context
                .iter()
                .flatten()
                .filter_map(|error| match error.kind() {
                    ValidationErrorKind::Constant { expected_value } => {
                        Some(expected_value.to_string())
                    }
                    _ => None,
                })
                .collect();
            let message = if kinds.is_empty() {
                error.to_string()
            } else {
                format!("`kind` is none of {}", kinds.join(", "))
            };
            issues.push(Issue {
                pointer: error.instance_path().to_string(),
                message,
            });
        }
    }
}

/// Puts the value of `POINTER=VALUE` into a document, making objects on the way.
fn set(document: &mut Value, text: &str) -> Result<()> {
    let refuse = |reason: String| Error::Override {
        text: text.into(),
        reason,
    };
    let (pointer, value) = text
        .split_once('=')
        .ok_or_else(|| refuse("expected POINTER=VALUE, such as `method.steps=3`".into()))?;
    let parts: Vec<String> = match pointer.strip_prefix('/') {
        Some(pointer) => pointer
            .split('/')
            .map(|part| part.replace("~1", "/").replace("~0", "~"))
            .collect(),
        None => pointer.split('.').map(str::to_owned).collect(),
    };
    if parts.iter().any(String::is_empty) {
        return Err(refuse("the pointer has an empty part".into()));
    }
    let mut place = document;
    for part in &parts {
        place = match place {
            Value::Object(fields) => fields
                .entry(part.clone())
                .or_insert_with(|| Value::Object(serde_json::Map::new())),
            Value::Array(items) => {
                let length = items.len();
                let item = part
                    .parse()
                    .ok()
                    .and_then(|index: usize| items.get_mut(index));
                item.ok_or_else(|| {
                    refuse(format!("`{part}` is not an index of a list of {length}"))
                })?
            }
            _ => {
                return Err(refuse(format!(
                    "`{part}` lies within a value that has no parts"
                )));
            }
        };
    }
    *place = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.into()));
    Ok(())
}

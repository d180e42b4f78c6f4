//! The fields of a published configuration, each asked for by name, so that one which nobody asked for is seen.

use dtta_base::Issue;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Where chosen extents are, which are in no file.
pub(crate) const EXTENTS: &str = "/extents";

/// The fields of a configuration that were not asked for yet, and the faults of those that were.
pub(crate) struct Fields {
    library: &'static str,
    rest: Map<String, Value>,
    issues: Vec<Issue>,
    /// Where they are in the file, for those of an object within.
    within: String,
    /// Height and width that whoever uses the model chose for its images, if its configuration leaves them open.
    extents: Option<[usize; 2]>,
}

impl Fields {
    /// All fields of a configuration that `library` wrote.
    pub fn new(library: &'static str, fields: Map<String, Value>) -> Self {
        Self {
            library,
            rest: fields,
            issues: Vec::new(),
            within: String::new(),
            extents: None,
        }
    }

    /// The same, of a model whose images get these extents if its configuration leaves them open.
    pub fn for_extents(self, extents: Option<[usize; 2]>) -> Self {
        Self { extents, ..self }
    }

    /// The extents that were chosen.
    pub fn extents(&self) -> Option<[usize; 2]> {
        self.extents
    }

    /// A field that is honoured: its value, or where it is absent the value that the library's class has by default. Null is no value of it.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str, default: T) -> T {
        if self.rest.get(name).is_some_and(Value::is_null) {
            self.refuse(name, &Value::Null, "supported is a value");
        }
        self.find(name).unwrap_or(default)
    }

    /// A field that is honoured and has no default; `None` if it is absent or null.
    pub fn find<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let value = self.rest.shift_remove(name)?;
        if value.is_null() {
            return None;
        }
        match serde_json::from_value(value.clone()) {
            Ok(value) => Some(value),
            Err(error) => {
                self.refuse(name, &value, format_args!("cannot be read: {error}"));
                None
            }
        }
    }

    /// A field that is honoured, where null says something else than its absence.
    pub fn nullable<T: DeserializeOwned>(&mut self, name: &str, default: Option<T>) -> Option<T> {
        match self.rest.get(name) {
            None => default,
            Some(_) => self.find(name),
        }
    }

    /// A field of which one value is supported, the library's default or not; absence means `default`.
    pub fn only(&mut self, name: &str, supported: Value, default: Value) {
        let value = self.rest.shift_remove(name).unwrap_or(default);
        if !same(&value, &supported) {
            self.refuse(name, &value, format_args!("supported is {supported}"));
        }
    }

    /// A field that is supported in one value, which is also the library's default.
    pub fn fixed(&mut self, name: &str, supported: impl Into<Value>) {
        let supported = supported.into();
        self.only(name, supported.clone(), supported);
    }

    /// A field that says nothing about what the model computes, such as how it was trained.
    pub fn skip(&mut self, name: &str) {
        self.rest.shift_remove(name);
    }

    /// Leaves the others alone: without a field that was refused, nobody knows what they mean.
    pub fn skip_others(&mut self) {
        self.rest.clear();
    }

    /// The fields of an object within; empty where it is absent.
    pub fn object(&mut self, name: &str) -> Self {
        let fields = self.find(name).unwrap_or_default();
        self.within(name, fields)
    }

    /// The fields of an object within, which was taken already.
    pub fn within(&self, name: &str, fields: Map<String, Value>) -> Self {
        Self {
            library: self.library,
            rest: fields,
            issues: Vec::new(),
            within: format!("{}/{name}", self.within),
            extents: self.extents,
        }
    }

    /// Takes up the faults of an object within, and the fields that nobody asked for.
    pub fn join(&mut self, object: Self) {
        if let Err(issues) = object.finish() {
            self.issues.extend(issues);
        }
    }

    /// That a field's value is not supported, and why.
    pub fn refuse(&mut self, name: &str, value: &Value, reason: impl std::fmt::Display) {
        let message = format!(
            "this is a {} configuration; field {name} = {value} is not supported ({reason})",
            self.library
        );
        let pointer = format!("{}/{name}", self.within);
        self.issues.push(Issue::new(pointer, message));
    }

    /// That the extents that were chosen are not supported, and why.
    pub fn refuse_extents(&mut self, reason: impl Into<String>) {
        self.issues.push(Issue::new(EXTENTS, reason));
    }

    /// Refuses what nobody asked for. Fields that begin with an underscore are the library's notes on the file itself.
    pub fn finish(mut self) -> Result<(), Vec<Issue>> {
        let unknown: Vec<(String, Value)> = std::mem::take(&mut self.rest)
            .into_iter()
            .filter(|(name, _)| !name.starts_with('_'))
            .collect();
        for (name, value) in unknown {
            self.refuse(&name, &value, "dtta does not know it");
        }
        match self.issues.is_empty() {
            true => Ok(()),
            false => Err(self.issues),
        }
    }
}

/// Whether two values are the same number or the same otherwise: 1 is 1.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Fields {
        let Value::Object(fields) = value else {
            panic!("not an object")
        };
        Fields::new("diffusers", fields)
    }

    fn refusals(fields: Fields) -> Vec<String> {
        let issues = fields.finish().unwrap_err();
        issues
            .into_iter()
            .map(|issue| format!("{}: {}", issue.pointer, issue.message))
            .collect()
    }

    #[test]
    fn a_field_that_nobody_asked_for_is_refused_by_name() {
        let mut fields = fields(json!({"width": 4, "new_option": true, "_version": "1"}));
        assert_eq!(fields.take("width", 1), 4);
        assert_eq!(
            refusals(fields),
            [
                "/new_option: this is a diffusers configuration; field new_option = true is not supported (dtta does not know it)"
            ]
        );
    }

    #[test]
    fn an_absent_field_has_the_librarys_default_even_where_another_value_is_supported() {
        let mut all = fields(json!({"scale": 1.0}));
        all.fixed("scale", 1);
        all.fixed("shift", "default");
        all.only("act", json!("silu"), json!("relu"));
        assert_eq!(
            refusals(all),
            [
                "/act: this is a diffusers configuration; field act = \"relu\" is not supported (supported is \"silu\")"
            ]
        );
    }

    #[test]
    fn objects_within_tell_their_faults_with_their_place() {
        let mut all = fields(json!({"inner": {"mean": "x", "other": 1}}));
        let mut inner = all.object("inner");
        assert_eq!(inner.take("mean", 0.5), 0.5);
        all.join(inner);
        let found = refusals(all);
        assert!(
            found[0].starts_with("/inner/mean: ") && found[1].starts_with("/inner/other: "),
            "{found:?}"
        );
    }
}

//! Sweeps: the methods that have a place, with each of several values there.

use dtta_base::{invalid, parse_json};
use serde_json::{Map, Value};
use std::path::Path;

use super::comparison::Swept;
use super::plan::{Draft, refuse};
use crate::document::validated;
use crate::error::{Error, Result};
use crate::methods::Methods;

/// Several values for a place.
pub(super) struct Sweep {
    pub pointer: String,
    pub values: Vec<Value>,
    /// Where they come from, as messages name it.
    pub origin: String,
}

impl Sweep {
    /// Reads `POINTER=VALUE,VALUE`: values are JSON, or all of them texts without commas.
    pub fn parse(text: &str) -> Result<Self> {
        let origin = format!("--sweep {text}");
        let refuse = |reason: &str| refuse(format!("as `{origin}` asks"), reason);
        let (pointer, values) = text
            .split_once('=')
            .ok_or_else(|| refuse("expected POINTER=VALUE,VALUE, such as `method.draws=8,30`"))?;
        let values = match parse_json(Path::new(&origin), &format!("[{values}]")) {
            Ok(Value::Array(values)) => values,
            _ => values.split(',').map(Value::from).collect(),
        };
        if values.is_empty() {
            return Err(refuse("it has no values"));
        }
        Ok(Self {
            pointer: pointer.into(),
            values,
            origin,
        })
    }

    /// Each method that has the place becomes one for each value; the others stay, and so does the reference, beside its variants.
    ///
    /// # Errors
    /// [`Error::Compare`] if no method has the place, or a value is given twice; [`Error::Base`] for a method that takes some of the values
    /// and not others.
    pub fn apply(
        &self,
        drafts: Vec<Draft>,
        reference: Option<&str>,
        methods: &Methods,
    ) -> Result<Vec<Draft>> {
        let mut swept = Vec::new();
        let mut others = Vec::new();
        let mut applies = false;
        for draft in drafts {
            let (mut of_draft, mut faults): (Vec<Draft>, Vec<Error>) = (Vec::new(), Vec::new());
            for value in &self.values {
                match self.with(&draft, value, methods) {
                    Ok(with) if of_draft.iter().any(|other| other.name == with.name) => {
                        let reason = format!("{value} is given twice");
                        return Err(refuse(format!("as `{}` asks", self.origin), reason));
                    }
                    Ok(with) => of_draft.push(with),
                    Err(error) => faults.push(error),
                }
            }
            if of_draft.is_empty() {
                let reason = faults.first().map(|error| dtta_base::told(error));
                others.push(format!("{}: {}", draft.name, reason.unwrap_or_default()));
                swept.push(draft);
                continue;
            }
            if let Some(fault) = faults.pop() {
                return Err(fault);
            }
            applies = true;
            if reference == Some(&draft.name) {
                swept.push(draft);
            }
            swept.extend(of_draft);
        }
        if applies {
            return Ok(swept);
        }
        let reason = format!("no method has that place\n{}", others.join("\n"));
        Err(refuse(format!("as `{}` asks", self.origin), reason))
    }

    /// The place in JSON's notation.
    pub fn place(&self) -> String {
        match self.pointer.starts_with('/') {
            true => self.pointer.clone(),
            false => format!("/{}", self.pointer.replace('.', "/")),
        }
    }

    /// A method with one of the values.
    fn with(&self, draft: &Draft, value: &Value, methods: &Methods) -> Result<Draft> {
        let mut with = draft.clone();
        let Self {
            pointer, origin, ..
        } = self;
        let put = with
            .overrides
            .put(&mut with.value, pointer, value.clone(), origin);
        put.map_err(|reason| refuse(format!("as `{origin}` asks"), reason))?;
        if let Err(issues) = validated(with.value.clone(), methods) {
            let issues = with.overrides.name(issues);
            return Err(Error::Base(invalid(&draft.path, "experiment", issues)));
        }
        let label = pointer.rsplit(['/', '.']).next().unwrap_or(pointer);
        let shown = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        with.name = format!("{}-{label}-{shown}", draft.name);
        let mut values = match &draft.sweep {
            Some(swept) => swept.values.clone(),
            None => Map::new(),
        };
        values.insert(self.place(), value.clone());
        with.sweep = Some(Swept {
            of: draft
                .sweep
                .as_ref()
                .map_or(&draft.name, |swept| &swept.of)
                .clone(),
            values,
        });
        Ok(with)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_json_or_texts() {
        let values = |text: &str| Sweep::parse(text).unwrap().values;
        assert_eq!(values("/a=8,30"), [json!(8), json!(30)]);
        assert_eq!(values("a.b=[1,2],[3,4]"), [json!([1, 2]), json!([3, 4])]);
        assert_eq!(
            values("a=uniform,stratified"),
            [json!("uniform"), json!("stratified")]
        );
        assert_eq!(values("a={\"kind\": \"sgd\"}"), [json!({"kind": "sgd"})]);
        for text in ["a", "a="] {
            assert!(Sweep::parse(text).is_err(), "{text}");
        }
    }
}

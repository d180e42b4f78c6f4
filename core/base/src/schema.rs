//! JSON Schemas in a form that tells what is wrong. A choice that is written as `oneOf` makes plain validators and editors say "not valid
//! under any of the given schemas"; written as a list of names, and as one condition for each `kind`, they name the field.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

/// The JSON Schema (draft 2020-12) of a document type, such as `training`, as it is [published].
pub fn schema_of<T: JsonSchema>(document: &str) -> Value {
    published(schema::<T>(), document)
}

/// A schema with its name, and with choices that tell what is wrong: strings as one `enum`, objects that a field such as `kind` tells
/// apart as one `if` and `then` each, what may be left out as an `if` of null.
pub fn published(mut schema: Value, document: &str) -> Value {
    tell_apart(&mut schema);
    let mut named = Map::from_iter([
        ("$schema".to_owned(), json!(DRAFT)),
        (
            "$id".to_owned(),
            json!(format!("urn:dtta:schema:{document}")),
        ),
        ("title".to_owned(), json!(format!("dtta {document}"))),
    ]);
    if let Value::Object(fields) = schema {
        let named_already = |name: &String| ["$schema", "$id", "title"].contains(&name.as_str());
        named.extend(fields.into_iter().filter(|(name, _)| !named_already(name)));
    }
    Value::Object(named)
}

/// Lets a schema take other spellings of one of its names, as serde's `alias` does. For schemars' `transform`.
pub fn also_spelled(schema: &mut Schema, name: &str, others: &[&str]) {
    let mut names = vec![name];
    names.extend(others);
    let choices = schema.ensure_object().get_mut("oneOf");
    for choice in choices.and_then(Value::as_array_mut).into_iter().flatten() {
        let place = match choice.get("const") {
            Some(_) => Some(&mut *choice),
            None => choice.pointer_mut("/properties/kind"),
        };
        if let Some(Value::Object(place)) = place
            && place.get("const").and_then(Value::as_str) == Some(name)
        {
            place.remove("const");
            place.insert("enum".into(), json!(names));
        }
    }
}

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

pub(crate) fn schema<T: JsonSchema>() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    generator.into_root_schema_for::<T>().to_value()
}

/// Rewrites every choice in a schema that can be told apart, wherever it stands.
pub(crate) fn tell_apart(schema: &mut Value) {
    match schema {
        Value::Array(schemas) => schemas.iter_mut().for_each(tell_apart),
        Value::Object(fields) => {
            for (keyword, value) in fields.iter_mut() {
                match (keyword.as_str(), value) {
                    // Values, not schemas.
                    ("const" | "enum" | "default" | "examples" | "enumDescriptions", _) => {}
                    // Any of these may be the name of a field.
                    ("properties" | "$defs" | "patternProperties", Value::Object(named)) => {
                        named.values_mut().for_each(tell_apart);
                    }
                    (_, value) => tell_apart(value),
                }
            }
            if let Some(Value::Array(choices)) = fields.get("oneOf") {
                let written = one_name(choices)
                    .or_else(|| one_kind(choices))
                    .or_else(|| name_or_object(choices));
                let free = |written: &Map<String, Value>| {
                    written
                        .keys()
                        .all(|keyword| keyword == "type" || !fields.contains_key(keyword))
                };
                if let Some(written) = written.filter(free) {
                    fields.shift_remove("oneOf");
                    fields.extend(written);
                }
            }
            if let Some(there) = fields.get("anyOf").and_then(or_null)
                && !fields.contains_key("if")
            {
                fields.shift_remove("anyOf");
                fields.insert("if".into(), json!({ "type": "null" }));
                fields.insert("else".into(), there);
            }
        }
        _ => {}
    }
}

/// The names that a schema of strings takes.
fn names(schema: &Value) -> Option<Vec<&str>> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(Value::String(name)), _) => Some(vec![name]),
        (None, Some(Value::Array(names))) => names.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

fn description(schema: &Value) -> Value {
    schema.get("description").cloned().unwrap_or_default()
}

/// Names as one `enum`, each with its description.
fn listed<'a>(choices: impl Iterator<Item = (Vec<&'a str>, Value)>) -> Map<String, Value> {
    let (mut listed, mut descriptions) = (Vec::new(), Vec::new());
    for (names, description) in choices {
        for name in names {
            listed.push(json!(name));
            descriptions.push(json!(description.as_str().unwrap_or_default()));
        }
    }
    let mut schema = Map::from_iter([
        ("type".to_owned(), json!("string")),
        ("enum".to_owned(), Value::Array(listed)),
    ]);
    if descriptions.iter().any(|text| text != "") {
        schema.insert("enumDescriptions".into(), Value::Array(descriptions));
    }
    schema
}

/// Strings only.
fn one_name(choices: &[Value]) -> Option<Map<String, Value>> {
    let named = choices.iter().map(|c| Some((names(c)?, description(c))));
    Some(listed(named.collect::<Option<Vec<_>>>()?.into_iter()))
}

/// Objects only, told apart by a field that each needs.
fn one_kind(choices: &[Value]) -> Option<Map<String, Value>> {
    let first = choices.first()?.get("properties")?.as_object()?;
    let needed = |choice: &Value, field: &str| {
        let required = choice.get("required").and_then(Value::as_array);
        required.is_some_and(|required| required.iter().any(|name| name == field))
    };
    let tells_apart = |field: &str| {
        choices.iter().all(|choice| {
            needed(choice, field)
                && choice["properties"]
                    .get(field)
                    .is_some_and(|f| names(f).is_some())
        })
    };
    let field = first.keys().find(|field| tells_apart(field))?;
    let named = choices
        .iter()
        .map(|choice| Some((names(&choice["properties"][field])?, description(choice))));
    let named = listed(named.collect::<Option<Vec<_>>>()?.into_iter());
    let conditions: Vec<Value> = choices
        .iter()
        .map(|choice| {
            let kind = &choice["properties"][field];
            let kind = match kind.get("const") {
                Some(name) => json!({ "const": name }),
                None => json!({ "enum": kind["enum"] }),
            };
            let named = Map::from_iter([(field.clone(), kind)]);
            json!({ "if": { "properties": named, "required": [field] }, "then": choice })
        })
        .collect();
    Some(Map::from_iter([
        ("type".to_owned(), json!("object")),
        (
            "properties".to_owned(),
            Value::Object(Map::from_iter([(field.clone(), Value::Object(named))])),
        ),
        ("required".to_owned(), json!([field])),
        ("allOf".to_owned(), Value::Array(conditions)),
    ]))
}

/// Strings, and one kind of object.
fn name_or_object(choices: &[Value]) -> Option<Map<String, Value>> {
    let (strings, objects): (Vec<&Value>, Vec<&Value>) =
        choices.iter().partition(|choice| names(choice).is_some());
    let [object] = objects[..] else {
        return None;
    };
    let strings = strings
        .into_iter()
        .map(|c| Some((names(c)?, description(c))));
    let strings = listed(strings.collect::<Option<Vec<_>>>()?.into_iter());
    (object.get("type")? == "object").then(|| {
        Map::from_iter([
            ("type".to_owned(), json!(["string", "object"])),
            ("if".to_owned(), json!({ "type": "string" })),
            ("then".to_owned(), Value::Object(strings)),
            ("else".to_owned(), object.clone()),
        ])
    })
}

/// What `anyOf` asks for beside null.
fn or_null(choices: &Value) -> Option<Value> {
    let is_null = |choice: &Value| *choice == json!({ "type": "null" });
    match choices.as_array()?.as_slice() {
        [there, null] | [null, there] if is_null(null) && !is_null(there) => Some(there.clone()),
        _ => None,
    }
}

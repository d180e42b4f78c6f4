//! The text of a JSON document, read strictly: a byte-order mark is skipped, a field that is given twice is a fault. Of two values a parser
//! would take the last, and nobody would hear of the first.

use std::cell::RefCell;
use std::fmt;
use std::fs;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::document::invalid;
use crate::error::{Error, Issue, Result};

/// The JSON that a text holds; `origin` is named in errors. A byte-order mark in front is skipped.
///
/// # Errors
/// [`Error::Json`]; [`Error::Invalid`] with every field that is given twice.
pub fn parse_json(origin: &Path, text: &str) -> Result<Value> {
    let (value, repeated) = strict(text).map_err(|source| Error::Json {
        path: origin.into(),
        source,
    })?;
    if repeated.is_empty() {
        Ok(value)
    } else {
        Err(invalid(origin, "JSON document", repeated))
    }
}

/// The text of a file, which has to be UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let failed = |source| Error::Read {
        path: path.into(),
        source,
    };
    let bytes = fs::read(path).map_err(failed)?;
    String::from_utf8(bytes).map_err(|error| Error::Encoding {
        path: path.into(),
        // The byte-order marks of UTF-16, which Windows PowerShell writes.
        found: match error.as_bytes() {
            [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => "UTF-16",
            _ => "not UTF-8",
        },
    })
}

/// The value, and the fields that are given more than once.
pub(crate) fn strict(text: &str) -> serde_json::Result<(Value, Vec<Issue>)> {
    let repeated = RefCell::new(Vec::new());
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parser = serde_json::Deserializer::from_str(text);
    let root = Node {
        pointer: String::new(),
        repeated: &repeated,
    };
    let value = root.deserialize(&mut parser)?;
    parser.end()?;
    Ok((value, repeated.into_inner()))
}

/// A name as a part of a JSON pointer.
pub fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// The name that a part of a JSON pointer stands for.
pub(crate) fn unescaped(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}

/// The value at a place.
struct Node<'a> {
    pointer: String,
    repeated: &'a RefCell<Vec<Issue>>,
}

impl Node<'_> {
    fn below(&self, part: &str) -> Self {
        Self {
            pointer: format!("{}/{part}", self.pointer),
            repeated: self.repeated,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value);
        number
            .map(Value::Number)
            .ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.below(&list.len().to_string()))? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let node = self.below(&escaped(&name));
            let pointer = node.pointer.clone();
            let value = fields.next_value_seed(node)?;
            if object.insert(name, value).is_some() {
                let issue = Issue::new(pointer, "is given twice; keep one of the two");
                let mut repeated = self.repeated.borrow_mut();
                if !repeated.contains(&issue) {
                    repeated.push(issue);
                }
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(text: &str) -> Result<Value> {
        parse_json(Path::new("document.json"), text)
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_document() {
        assert_eq!(parse("\u{feff}{\"a\": [1]}").unwrap(), json!({"a": [1]}));
        assert!(parse("{\"a\": \u{feff}1}").is_err());
    }

    #[test]
    fn reads_what_any_parser_reads() {
        for text in [
            r#"{"a": [null, true, -3, 18446744073709551615, 1e3, 0.1, "\u00e9\n"], "b": {"c": {}}}"#,
            "7",
            "[]",
            r#""text""#,
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(parse(text).unwrap(), value);
        }
        for text in ["", "{", "{} {}", "{\"a\": 1,}", "nul", "1e400"] {
            assert!(matches!(parse(text), Err(Error::Json { .. })), "{text}");
        }
    }

    #[test]
    fn every_field_that_is_given_twice_is_named_by_its_place() {
        let text =
            r#"{"a": {"x/y": 1, "x/y": 1, "x/y": 2}, "list": [0, {"b": 1, "b": {}}], "c": 1}"#;
        match parse(text) {
            Err(Error::Invalid { issues, .. }) => {
                let pointers: Vec<&str> =
                    issues.iter().map(|issue| issue.pointer.as_str()).collect();
                assert_eq!(pointers, ["/a/x~1y", "/list/1/b"]);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_document_of_another_encoding_is_refused_as_such() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("document.json");
        for (bytes, word) in [
            (b"\xff\xfe{\0}\0".as_slice(), "UTF-16"),
            (b"{\"a\": \"\xe9\"}", "not UTF-8"),
        ] {
            fs::write(&path, bytes).unwrap();
            let error = read_text(&path).unwrap_err().to_string();
            assert!(
                error.contains(word) && error.contains("document.json"),
                "{error}"
            );
        }
    }
}

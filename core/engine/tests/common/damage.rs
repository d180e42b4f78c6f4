//! Ways to damage bytes and documents.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

/// One way to damage bytes.
#[derive(Debug, Clone)]
pub enum Damage {
    /// Another byte in place of one.
    Replace(Index, u8),
    /// Nothing from here on.
    Truncate(Index),
    /// Some bytes left out.
    Remove(Index, u8),
    /// Some bytes twice.
    Repeat(Index, u8),
    /// Bytes from nowhere.
    Insert(Index, Vec<u8>),
}

/// A few of them.
pub fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let place = any::<Index>;
    let one = prop_oneof![
        6 => (place(), any::<u8>()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        1 => place().prop_map(Damage::Truncate),
        2 => (place(), any::<u8>()).prop_map(|(at, count)| Damage::Remove(at, count)),
        2 => (place(), any::<u8>()).prop_map(|(at, count)| Damage::Repeat(at, count)),
        2 => (place(), prop::collection::vec(any::<u8>(), 1..20)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
    ];
    prop::collection::vec(one, 1..6)
}

/// Bytes with these damages, within the first `reach` of them: headers are where decoders are.
pub fn damaged(bytes: &[u8], damages: &[Damage], reach: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for damage in damages {
        let length = bytes.len().min(reach);
        if length == 0 {
            break;
        }
        let range = |at: &Index, count: u8| {
            let start = at.index(length);
            start..(start + usize::from(count)).min(length)
        };
        match damage {
            Damage::Replace(at, byte) => bytes[at.index(length)] = *byte,
            Damage::Truncate(at) => bytes.truncate(at.index(length)),
            Damage::Remove(at, count) => drop(bytes.drain(range(at, *count))),
            Damage::Repeat(at, count) => {
                let range = range(at, *count);
                let (start, part) = (range.start, bytes[range].to_vec());
                bytes.splice(start..start, part);
            }
            Damage::Insert(at, part) => {
                let start = at.index(length);
                bytes.splice(start..start, part.iter().copied());
            }
        }
    }
    bytes
}

/// One value of a document replaced, or left out.
#[derive(Debug, Clone)]
pub struct Change {
    place: Index,
    value: Option<Value>,
}

/// A few of them, with values that documents should not hold, or hold seldom.
pub fn changes() -> impl Strategy<Value = Vec<Change>> {
    let odd = prop::sample::select(vec![
        json!(0),
        json!(1),
        json!(3),
        json!(-1),
        json!(0.5),
        json!(1_u64 << 40),
        json!(u64::MAX),
        json!(1e300),
        json!(-1e-300),
        json!(true),
        json!(null),
        json!(""),
        json!("x"),
        json!("../../x"),
        json!("é\u{0}"),
        json!([]),
        json!([0, 0, 0]),
        json!([1_000_000_000, 1, 1]),
        json!([700, 300]),
        json!({}),
        json!({"kind": "x"}),
    ]);
    let value = prop_oneof![8 => odd.prop_map(Some), 1 => Just(None)];
    let change = (any::<Index>(), value).prop_map(|(place, value)| Change { place, value });
    prop::collection::vec(change, 1..3)
}

/// A document with these changes.
pub fn changed(document: &Value, changes: &[Change]) -> Value {
    let mut document = document.clone();
    for change in changes {
        let mut places = Vec::new();
        pointers(&document, "", &mut places);
        let pointer = &places[change.place.index(places.len())];
        match (&change.value, pointer.rsplit_once('/')) {
            (Some(value), _) => *document.pointer_mut(pointer).unwrap() = value.clone(),
            (None, Some((parent, name))) => {
                if let Some(Value::Object(fields)) = document.pointer_mut(parent) {
                    fields.remove(name);
                }
            }
            (None, None) => {}
        }
    }
    document
}

/// Pointers of all values.
fn pointers(value: &Value, prefix: &str, found: &mut Vec<String>) {
    found.push(prefix.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                pointers(value, &format!("{prefix}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                pointers(value, &format!("{prefix}/{index}"), found);
            }
        }
        _ => {}
    }
}

//! The faults that a schema finds in a document, in words: the place, the value, what was expected, and what was probably meant.

use jsonschema::error::ValidationErrorKind;
use jsonschema::{Keyword, ValidationError};
use serde_json::{Map, Value};

use crate::document::add_others;
use crate::error::{Issue, listed};
use crate::json::escaped;
use crate::meant::meant;
use crate::schema::tell_apart;

/// The most names that a message lists.
const NAMES: usize = 16;

/// Every fault that a JSON Schema finds in a document.
pub fn check(value: &Value, schema: &Value) -> Vec<Issue> {
    faults(value, schema).0
}

/// Every fault that a JSON Schema finds in a document, and the places of the fields that it does not know.
pub(crate) fn faults(value: &Value, schema: &Value) -> (Vec<Issue>, Vec<String>) {
    let mut schema = schema.clone();
    tell_apart(&mut schema);
    let validator = jsonschema::options()
        .with_keyword("format", |schema, format, _| {
            let bound = |keyword| schema.get(keyword).and_then(Value::as_f64);
            Ok(Box::new(NumberFormat {
                name: format.as_str().unwrap_or_default().into(),
                least: bound("minimum"),
                most: bound("maximum"),
            }))
        })
        .build(&schema);
    let validator = match validator {
        Ok(validator) => validator,
        Err(error) => {
            let issue = Issue::new("", format!("the schema itself is wrong: {error}"));
            return (vec![issue], Vec::new());
        }
    };
    let mut faults = Faults {
        document: value,
        schema: &schema,
        issues: Vec::new(),
        unknown: Vec::new(),
    };
    for error in validator.iter_errors(value) {
        faults.explain(&error);
    }
    (faults.issues, faults.unknown)
}

/// The range of a type of Rust, which schemas give as a `format`.
struct NumberFormat {
    name: String,
    /// The bounds that the schema gives besides, and that are told by those.
    least: Option<f64>,
    most: Option<f64>,
}

impl NumberFormat {
    /// The least and the greatest integer; none for other formats.
    fn range(&self) -> Option<[i128; 2]> {
        Some(match self.name.as_str() {
            "uint8" => [0, u8::MAX.into()],
            "uint16" => [0, u16::MAX.into()],
            "uint32" => [0, u32::MAX.into()],
            "uint" | "uint64" => [0, u64::MAX.into()],
            "int8" => [i8::MIN.into(), i8::MAX.into()],
            "int16" => [i16::MIN.into(), i16::MAX.into()],
            "int32" => [i32::MIN.into(), i32::MAX.into()],
            "int" | "int64" => [i64::MIN.into(), i64::MAX.into()],
            _ => return None,
        })
    }

    /// What it expects of a number that it refuses.
    fn refuses(&self, value: &Value) -> Option<String> {
        let Value::Number(number) = value else {
            return None;
        };
        let wide = number.as_f64()?;
        let beyond = self.least.is_some_and(|least| wide < least)
            || self.most.is_some_and(|most| wide > most);
        if beyond {
            return None;
        }
        if self.name == "float" {
            let too_wide = (wide as f32).is_infinite();
            return too_wide.then(|| format!("a number of at most {:e}", f32::MAX));
        }
        let [least, most] = self.range()?;
        let expected = format!("an integer from {least} to {most}");
        match number.as_i128() {
            Some(number) => (!(least..=most).contains(&number)).then_some(expected),
            None => {
                // A fraction or an exponent. `type` tells that a number is not an integer.
                let whole = wide as i128;
                if wide.fract() != 0.0 {
                    None
                } else if (least..=most).contains(&whole) && wide.abs() < 2f64.powi(53) {
                    Some(format!(
                        "an integer without point or exponent: write {whole}"
                    ))
                } else {
                    Some(expected)
                }
            }
        }
    }
}

impl<'i> Keyword<'i> for NumberFormat {
    fn validate(&self, instance: &'i Value) -> Result<(), ValidationError<'i>> {
        match self.refuses(instance) {
            Some(expected) => Err(ValidationError::custom(expected)),
            None => Ok(()),
        }
    }

    fn is_valid(&self, instance: &'i Value) -> bool {
        self.refuses(instance).is_none()
    }
}

struct Faults<'a> {
    document: &'a Value,
    schema: &'a Value,
    issues: Vec<Issue>,
    unknown: Vec<String>,
}

impl Faults<'_> {
    /// Adds a fault, if its place has none yet.
    fn add(&mut self, pointer: String, message: String) {
        add_others(&mut self.issues, vec![Issue { pointer, message }]);
    }

    fn explain(&mut self, error: &ValidationError<'_>) {
        use ValidationErrorKind as Kind;
        let at = error.instance_path().to_string();
        let path = error.schema_path().to_string();
        // The schema whose keyword is at fault.
        let holder = path.rsplit_once('/').map_or("", |(holder, _)| holder);
        let asked = self.schema.pointer(holder).unwrap_or(&Value::Null);
        let found = error.instance();
        match error.kind() {
            Kind::AdditionalProperties { unexpected }
            | Kind::UnevaluatedProperties { unexpected } => {
                for name in unexpected {
                    let message = self.unknown(asked, holder, name);
                    let pointer = format!("{at}/{}", escaped(name));
                    self.unknown.push(pointer.clone());
                    self.add(pointer, message);
                }
            }
            // Where an object has no fields at all: each that is there is told.
            Kind::FalseSchema => match self.document.pointer(&at) {
                Some(Value::Object(fields)) => {
                    let known = asked.get("properties").and_then(Value::as_object);
                    let is_unknown =
                        |name: &&String| known.is_none_or(|known| !known.contains_key(*name));
                    for name in fields.keys().filter(is_unknown) {
                        let message = self.unknown(asked, holder, name);
                        let pointer = format!("{at}/{}", escaped(name));
                        self.unknown.push(pointer.clone());
                        self.add(pointer, message);
                    }
                }
                _ => self.add(
                    at,
                    format!("is {}, and nothing is allowed here", shown(found)),
                ),
            },
            Kind::Required { property } => {
                let name = property.as_str().unwrap_or_default();
                let field = &asked["properties"][name];
                let expected = self
                    .expected(field)
                    .map_or_else(String::new, |e| format!(", expected {e}"));
                self.add(
                    format!("{at}/{}", escaped(name)),
                    format!("is missing{expected}"),
                );
            }
            Kind::Enum { options } => {
                let options: Vec<&Value> = options.as_array().into_iter().flatten().collect();
                let mut message = is_none_of(found, &options);
                if let Some(object) = self.object_beside(holder) {
                    message += &format!(", or an object with `{}`", fields(object).join("`, `"));
                }
                self.add(at, message);
            }
            Kind::Constant { expected_value } => {
                self.add(at, is_none_of(found, &[&**expected_value]));
            }
            Kind::Custom { message, .. } => {
                self.add(at, format!("is {}, expected {message}", shown(found)));
            }
            Kind::OneOfNotValid { context } | Kind::AnyOf { context } => {
                // Alternatives that cannot be told apart: the one that comes closest says what to change.
                let closest = context.iter().min_by_key(|errors| errors.len());
                match closest {
                    Some(errors) if !errors.is_empty() => {
                        errors.iter().for_each(|error| self.explain(error));
                    }
                    _ => self.add(at, format!("is {}, and fits no alternative", shown(found))),
                }
            }
            Kind::Type { .. }
            | Kind::Minimum { .. }
            | Kind::Maximum { .. }
            | Kind::ExclusiveMinimum { .. }
            | Kind::ExclusiveMaximum { .. }
            | Kind::MinItems { .. }
            | Kind::MaxItems { .. }
            | Kind::MinLength { .. }
            | Kind::MaxLength { .. } => {
                let expected = self
                    .expected(asked)
                    .unwrap_or_else(|| "something else".into());
                self.add(at, format!("is {}, expected {expected}", shown(found)));
            }
            _ => self.add(at, error.to_string()),
        }
    }

    /// That an object has no field of this name. `asked` is its schema, which lies at `holder`.
    fn unknown(&self, asked: &Value, holder: &str, name: &str) -> String {
        let fields = fields(asked);
        let kind = kind(asked);
        let none = match kind {
            Some(kind) => format!("`{kind}` has no `{name}`"),
            None => "is not a field here".into(),
        };
        if let Some(meant) = meant(name, &fields) {
            return format!("{none}; did you mean `{meant}`?");
        }
        let others = match holder.strip_suffix("/then") {
            Some(branch) if kind.is_some() => self.others_with(branch, name),
            _ => Vec::new(),
        };
        let quoted = |names: &[&str]| listed(names.iter().map(|name| format!("`{name}`")), NAMES);
        match (others.as_slice(), fields.as_slice()) {
            ([], []) => format!("{none}; there are none"),
            ([], known) => format!("{none}; known: {}", quoted(known)),
            ([one], _) => format!("{none}; `{one}` does"),
            (several, _) => format!("{none}; {} do", quoted(several)),
        }
    }

    /// The other kinds of object in the choice that the branch at `branch` belongs to that do have the field.
    fn others_with(&self, branch: &str, name: &str) -> Vec<&str> {
        let choice = branch.rsplit_once('/').map_or("", |(choice, _)| choice);
        let branches = self.schema.pointer(choice).and_then(Value::as_array);
        let branches = branches.into_iter().flatten();
        branches
            .map(|branch| &branch["then"])
            .filter(|then| fields(then).contains(&name))
            .filter_map(kind)
            .collect()
    }

    /// The object that may stand in the place of the names at `holder`.
    fn object_beside(&self, holder: &str) -> Option<&Value> {
        let choice = self.schema.pointer(holder.strip_suffix("/then")?)?;
        choice
            .get("else")
            .filter(|object| object.get("properties").is_some())
    }

    /// What a schema expects, as `an integer from 1 to 64`; nothing for one that takes everything.
    fn expected(&self, schema: &Value) -> Option<String> {
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            return self.expected(self.schema.pointer(reference.strip_prefix('#')?)?);
        }
        if let (Some(_), Some(there)) = (schema.get("if"), schema.get("else")) {
            let name = schema.get("then").and_then(|then| self.expected(then));
            let there = self.expected(there)?;
            return Some(name.map_or_else(|| there.clone(), |name| format!("{name}, or {there}")));
        }
        expectation(schema)
    }
}

/// What a schema without references expects, as `an integer from 1 to 64`.
fn expectation(schema: &Value) -> Option<String> {
    if let Some(options) = schema.get("enum").and_then(Value::as_array) {
        let options = options.iter().map(shown);
        return Some(format!("one of {}", listed(options, NAMES)));
    }
    if let Some(only) = schema.get("const") {
        return Some(shown(only));
    }
    let kind = match schema.get("type")? {
        Value::Array(kinds) => kinds.iter().find(|kind| *kind != "null")?.as_str()?,
        kind => kind.as_str()?,
    };
    Some(match kind {
        "integer" => format!("an integer{}", bounds(schema)),
        "number" => format!("a number{}", bounds(schema)),
        "boolean" => "true or false".into(),
        "string" if schema.get("minLength").is_some() => "text that is not empty".into(),
        "string" => "text".into(),
        "array" => {
            let items = schema.get("items").and_then(expectation);
            let each = items.map_or_else(String::new, |each| format!(", each {each}"));
            let count = |keyword: &str| schema.get(keyword).and_then(Value::as_u64);
            match (count("minItems"), count("maxItems")) {
                (Some(least), Some(most)) if least == most => format!("a list of {least}{each}"),
                (Some(least), Some(most)) => format!("a list of {least} to {most}{each}"),
                (Some(least), None) => format!("a list of {least} or more{each}"),
                (None, Some(most)) => format!("a list of at most {most}{each}"),
                (None, None) => format!("a list{each}"),
            }
        }
        "object" => "an object".into(),
        other => other.into(),
    })
}

/// The bounds of a number, as ` from 1 to 64`.
fn bounds(schema: &Value) -> String {
    let bound = |keyword: &str| schema.get(keyword).filter(|bound| bound.is_number());
    let least = (bound("minimum"), bound("exclusiveMinimum"));
    let most = (bound("maximum"), bound("exclusiveMaximum"));
    match (least, most) {
        ((Some(least), None), (Some(most), None)) => format!(" from {least} to {most}"),
        (least, most) => {
            let least = match least {
                (_, Some(least)) => Some(format!("above {least}")),
                (Some(least), None) => Some(format!("of at least {least}")),
                (None, None) => None,
            };
            let most = match most {
                (_, Some(most)) => Some(format!("below {most}")),
                (Some(most), None) => Some(format!("of at most {most}")),
                (None, None) => None,
            };
            match (least, most) {
                (Some(least), Some(most)) => {
                    format!(" {least} and {}", most.trim_start_matches("of "))
                }
                (Some(one), None) | (None, Some(one)) => format!(" {one}"),
                (None, None) => String::new(),
            }
        }
    }
}

/// The fields of the objects that a schema describes, but for the one that editors read.
fn fields(schema: &Value) -> Vec<&str> {
    let fields = schema.get("properties").and_then(Value::as_object);
    let fields = fields.into_iter().flat_map(Map::keys);
    fields
        .map(String::as_str)
        .filter(|field| *field != "$schema")
        .collect()
}

/// The `kind` of the objects that a schema describes, where they have one.
fn kind(schema: &Value) -> Option<&str> {
    let kind = schema.get("properties")?.get("kind")?;
    kind.get("const")
        .or_else(|| kind.get("enum")?.get(0))?
        .as_str()
}

fn is_none_of(found: &Value, options: &[&Value]) -> String {
    let names: Vec<&str> = options
        .iter()
        .filter_map(|option| option.as_str())
        .collect();
    let meant = found.as_str().and_then(|found| meant(found, &names));
    let known = listed(options.iter().map(|option| shown(option)), NAMES);
    match meant {
        Some(meant) => format!(
            "is {}; did you mean `{meant}`? Known: {known}",
            shown(found)
        ),
        None => format!("is {}; known: {known}", shown(found)),
    }
}

/// A value in a message: text in backticks, what is long cut short.
fn shown(value: &Value) -> String {
    /// In characters.
    const LONGEST: usize = 60;
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut short: String = text.chars().take(LONGEST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    match value {
        Value::String(_) => format!("`{short}`"),
        _ => short,
    }
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use super::*;
    use crate::{parse, schema_of};

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Document {
        #[serde(default)]
        seed: u64,
        #[schemars(range(min = 1, max = 64))]
        draws: usize,
        #[serde(default)]
        small: u8,
        #[serde(default)]
        narrow: f32,
        #[serde(default)]
        range: Option<[usize; 2]>,
        #[serde(default)]
        momentum: Option<Momentum>,
        optimizer: Optimizer,
        #[serde(default)]
        blur: Option<Blur>,
        #[serde(default)]
        reset: Reset,
        #[serde(default)]
        next: Vec<Optimizer>,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(transparent)]
    struct Momentum(#[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))] f64);

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
    enum Optimizer {
        /// Plain.
        Sgd { learning_rate: f64 },
        Adam {
            learning_rate: f64,
            #[serde(default)]
            epsilon: f64,
        },
        Adamw {
            learning_rate: f64,
            #[serde(default)]
            epsilon: f64,
        },
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    enum Blur {
        /// Along a line.
        MotionBlur,
        /// To all sides.
        GaussianBlur,
    }

    #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    enum Reset {
        #[default]
        Never,
        Domain,
        Every(std::num::NonZeroUsize),
    }

    fn fine() -> Value {
        json!({ "draws": 8, "optimizer": { "kind": "sgd", "learning_rate": 0.1 } })
    }

    /// The only fault of the document with one value changed.
    fn fault(field: &str, value: Value) -> String {
        let mut document = fine();
        document[field] = value;
        let issues = parse::<Document>(document).unwrap_err();
        assert_eq!(issues.len(), 1, "{issues:?}");
        format!("{}: {}", issues[0].pointer, issues[0].message)
    }

    #[test]
    fn what_has_no_fields_names_each_that_it_is_given() {
        #[derive(Debug, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct Nothing {}
        let schema = schema_of::<Nothing>("nothing");
        let told = |value: Value| {
            let issues = check(&json!(value), &schema);
            let told = issues
                .iter()
                .map(|issue| format!("{}: {}", issue.pointer, issue.message));
            told.collect::<Vec<_>>()
        };
        assert!(told(json!({})).is_empty());
        assert_eq!(
            told(json!({"a": 1, "b/c": {}})),
            [
                "/a: is not a field here; there are none",
                "/b~1c: is not a field here; there are none",
            ]
        );
    }

    #[test]
    fn every_fault_says_where_what_and_what_was_expected() {
        for (field, value, expected) in [
            (
                "draws",
                json!(0),
                "/draws: is 0, expected an integer from 1 to 64",
            ),
            (
                "draws",
                json!("many"),
                "/draws: is `many`, expected an integer from 1 to 64",
            ),
            (
                "draws",
                json!(1.5),
                "/draws: is 1.5, expected an integer from 1 to 64",
            ),
            (
                "draws",
                json!(1e1),
                "/draws: is 10.0, expected an integer without point or exponent: write 10",
            ),
            (
                "seed",
                json!(18446744073709551616.0),
                "/seed: is 1.8446744073709552e+19, expected an integer from 0 to 18446744073709551615",
            ),
            (
                "seed",
                json!(-1),
                "/seed: is -1, expected an integer of at least 0",
            ),
            (
                "small",
                json!(256),
                "/small: is 256, expected an integer from 0 to 255",
            ),
            (
                "narrow",
                json!(1e39),
                "/narrow: is 1e+39, expected a number of at most 3.4028235e38",
            ),
            (
                "range",
                json!([1, 2.0]),
                "/range/1: is 2.0, expected an integer without point or exponent: write 2",
            ),
            (
                "range",
                json!([1]),
                "/range: is [1], expected a list of 2, each an integer of at least 0",
            ),
            (
                "momentum",
                json!(2),
                "/momentum: is 2, expected a number of at least 0 and below 1",
            ),
            (
                "blur",
                json!("motion-blur"),
                "/blur: is `motion-blur`; did you mean `motion_blur`? Known: `motion_blur`, `gaussian_blur`",
            ),
            (
                "blur",
                json!("fog"),
                "/blur: is `fog`; known: `motion_blur`, `gaussian_blur`",
            ),
            (
                "reset",
                json!("nevr"),
                "/reset: is `nevr`; did you mean `never`? Known: `never`, `domain`, or an object with `every`",
            ),
            (
                "reset",
                json!({"every": 0}),
                "/reset/every: is 0, expected an integer of at least 1",
            ),
            (
                "optimizer",
                json!({"learning_rate": 1}),
                "/optimizer/kind: is missing, expected one of `sgd`, `adam`, `adamw`",
            ),
            (
                "optimizer",
                json!({"kind": "sdg", "learning_rate": 1}),
                "/optimizer/kind: is `sdg`; did you mean `sgd`? Known: `sgd`, `adam`, `adamw`",
            ),
            (
                "optimizer",
                json!({"kind": "sgd"}),
                "/optimizer/learning_rate: is missing, expected a number",
            ),
            (
                "optimizer",
                json!({"kind": "sgd", "learning_rate": 1, "epsilon": 1}),
                "/optimizer/epsilon: `sgd` has no `epsilon`; `adam`, `adamw` do",
            ),
            (
                "optimizer",
                json!({"kind": "adam", "lr": 1, "learning_rate": 1}),
                "/optimizer/lr: `adam` has no `lr`; did you mean `learning_rate`?",
            ),
            (
                "optimizer",
                json!(3),
                "/optimizer: is 3, expected an object",
            ),
            (
                "next",
                json!([{"kind": "sgd", "learning_rate": "fast"}]),
                "/next/0/learning_rate: is `fast`, expected a number",
            ),
            (
                "drawz",
                json!(3),
                "/drawz: is not a field here; did you mean `draws`?",
            ),
            (
                "a/b",
                json!(3),
                "/a~1b: is not a field here; known: `seed`, `draws`, `small`, `narrow`, `range`, `momentum`, `optimizer`, `blur`, `reset`, `next`",
            ),
        ] {
            assert_eq!(fault(field, value), expected);
        }
    }

    #[test]
    fn what_is_right_passes_and_null_stands_for_what_is_left_out() {
        let mut document = fine();
        for (field, value) in [
            ("seed", json!(u64::MAX)),
            ("range", Value::Null),
            ("blur", Value::Null),
            ("momentum", json!(0.9)),
            ("reset", json!({"every": 4})),
            ("narrow", json!(-3)),
            (
                "next",
                json!([{"kind": "adamw", "learning_rate": 1, "epsilon": 0}]),
            ),
        ] {
            document[field] = value;
        }
        parse::<Document>(document).unwrap();
    }

    #[test]
    fn a_schema_tells_plain_validators_which_field_is_wrong() {
        let schema = schema_of::<Document>("example");
        assert_eq!(schema["$id"], "urn:dtta:schema:example");
        assert_eq!(schema["title"], "dtta example");
        let text = schema.to_string();
        assert!(!text.contains("oneOf") && !text.contains("anyOf"), "{text}");
        let mut document = fine();
        document["optimizer"]["learning_rate"] = json!("fast");
        let plain = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<_> = plain.iter_errors(&document).collect();
        assert_eq!(errors.len(), 1);
        assert_eq!(
            errors[0].instance_path().to_string(),
            "/optimizer/learning_rate"
        );
        // Twice is as once.
        let mut again = schema.clone();
        tell_apart(&mut again);
        assert_eq!(again, schema);
    }

    #[test]
    fn alternatives_that_nothing_tells_apart_answer_with_the_closest() {
        let schema = json!({ "oneOf": [{ "type": "integer", "minimum": 1 }, { "type": "array", "minItems": 1, "uniqueItems": true }] });
        let issues = check(&json!(0), &schema);
        assert_eq!(issues[0].message, "is 0, expected an integer of at least 1");
    }

    #[test]
    fn long_values_and_lists_are_cut_short() {
        let schema = json!({ "type": "object", "additionalProperties": false, "properties": {} });
        let long = json!("x".repeat(1000));
        let issues = check(&long, &schema);
        assert!(issues[0].message.len() < 120, "{issues:?}");
        let many: Vec<String> = (0..100).map(|n| format!("name{n}")).collect();
        let issues = check(&json!("other"), &json!({ "enum": many }));
        assert!(issues[0].message.ends_with("and 84 more"), "{issues:?}");
    }
}

//! The page that lists every option of every document, made from the committed schemas.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// A document, and what takes it.
const DOCUMENTS: [(&str, &str); 4] = [
    ("experiment", "What `dtta run` and `dtta diagnose` take."),
    ("comparison", "What `dtta compare` takes."),
    ("training", "What `dtta train` takes."),
    (
        "model",
        "The configuration of a denoiser or a backbone, beside its weights.",
    ),
];

const HEAD: &str = "\
# Every option

Made from the schemas in this folder by `cargo xtask schema`, whose descriptions are the doc comments of the code.

A place is a JSON pointer, as messages name it and `--set` takes it (`--set method.steps=3`). `[]` stands for the index of a list, `{}` for
a name. An option without a default that is not marked **needed** may be left out. Options of plugins, under `config`, are their own:
`dtta plugins inspect PLUGIN` shows them.
";

/// Writes the page, or compares it.
pub fn run(root: &Path, check: bool) -> Result<()> {
    let path = root.join("core/schema/OPTIONS.md");
    let page = page(&root.join("core/schema"))?;
    if !check {
        return crate::write(&path, page.as_bytes());
    }
    if crate::read(&path)? != page.as_bytes() {
        bail!(
            "`{}` is not what the schemas say; run `cargo xtask schema`",
            path.display()
        );
    }
    Ok(())
}

fn page(folder: &Path) -> Result<String> {
    let mut page = HEAD.to_owned();
    for (document, about) in DOCUMENTS {
        let path = folder.join(format!("{document}.schema.json"));
        let schema = serde_json::from_slice(&crate::read(&path)?)
            .with_context(|| format!("`{}`", path.display()))?;
        let mut title = document.to_owned();
        title[..1].make_ascii_uppercase();
        write!(
            page,
            "\n## {title}\n\n{about} [Schema]({document}.schema.json).\n"
        )?;
        Document {
            name: document,
            schema: &schema,
        }
        .write(&mut page)?;
    }
    Ok(page)
}

struct Document<'a> {
    name: &'a str,
    schema: &'a Value,
}

/// An object to describe: where it stands, and its schema.
struct Section<'a> {
    /// The name of its definition; none for the document itself.
    name: Option<&'a str>,
    schema: &'a Value,
}

impl<'a> Document<'a> {
    fn write(&self, page: &mut String) -> Result<()> {
        let mut queue = VecDeque::from([Section {
            name: None,
            schema: self.schema,
        }]);
        let mut met = BTreeSet::new();
        while let Some(section) = queue.pop_front() {
            if let Some(name) = section.name {
                let places: Vec<String> = self
                    .places(name)
                    .iter()
                    .map(|place| format!("`{place}`"))
                    .collect();
                write!(page, "\n### {}\n\n", self.heading(name))?;
                match places.len() {
                    0 => {}
                    1..=4 => writeln!(page, "At {}.\n", places.join(", "))?,
                    more => writeln!(
                        page,
                        "At {} and {} more places.\n",
                        places[..3].join(", "),
                        more - 3
                    )?,
                }
            } else {
                page.push('\n');
            }
            self.describe(section.schema, page)?;
            for name in references(section.schema) {
                if met.insert(name) {
                    let schema = &self.schema["$defs"][name];
                    // Lists of names are told where they are used.
                    if is_section(schema) {
                        queue.push_back(Section {
                            name: Some(name),
                            schema,
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// The heading of a definition, unique on the page.
    fn heading(&self, name: &str) -> String {
        format!("{name} ({})", self.name)
    }

    /// Text and tables of one object.
    fn describe(&self, schema: &'a Value, page: &mut String) -> Result<()> {
        if let Some(about) = text(schema) {
            writeln!(page, "{about}\n")?;
        }
        if let Some(branches) = branches(schema) {
            let kinds: Vec<String> = branches
                .iter()
                .map(|then| format!("`{}`", kind(then).unwrap_or_default()))
                .collect();
            writeln!(page, "Its `kind` is one of {}.", kinds.join(", "))?;
            for then in branches {
                write!(page, "\n**`kind`: `{}`.** ", kind(then).unwrap_or_default())?;
                writeln!(page, "{}\n", text(then).unwrap_or_default())?;
                self.table(then, page)?;
            }
            return Ok(());
        }
        if let (Some(names), Some(object)) = (schema.get("then"), schema.get("else")) {
            let text = match names.get("enum") {
                Some(_) => names_of(names),
                None => "A text".into(),
            };
            writeln!(page, "{text}, or an object:\n")?;
            return self.table(object, page);
        }
        self.table(schema, page)
    }

    fn table(&self, schema: &'a Value, page: &mut String) -> Result<()> {
        let fields = schema.get("properties").and_then(Value::as_object);
        let needed = |name: &str| {
            let required = schema.get("required").and_then(Value::as_array);
            required.is_some_and(|required| required.iter().any(|each| each == name))
        };
        let shown: Vec<(&String, &Value)> = fields
            .into_iter()
            .flatten()
            .filter(|(name, _)| !["kind", "$schema"].contains(&name.as_str()))
            .collect();
        if shown.is_empty() {
            writeln!(page, "No further options.")?;
            return Ok(());
        }
        writeln!(
            page,
            "| option | value | default | meaning |\n| --- | --- | --- | --- |"
        )?;
        for (name, field) in shown {
            let default = match field.get("default") {
                Some(default) => format!("`{default}`"),
                None if needed(name) => "**needed**".into(),
                None => String::new(),
            };
            let about = text(field).unwrap_or_default();
            writeln!(
                page,
                "| `{name}` | {} | {default} | {} |",
                self.value(field),
                cell(&about)
            )?;
        }
        Ok(())
    }

    /// What a field takes, in words.
    fn value(&self, field: &'a Value) -> String {
        if let Some(name) = reference(field) {
            let target = &self.schema["$defs"][name];
            if is_section(target) {
                let heading = self.heading(name);
                let anchor: String = heading
                    .to_lowercase()
                    .replace(' ', "-")
                    .chars()
                    .filter(|c| c.is_alphanumeric() || *c == '-')
                    .collect();
                return format!("[{name}](#{anchor})");
            }
            return self.value(target);
        }
        if let (Some(_), Some(there), None) =
            (field.get("if"), field.get("else"), field.get("then"))
        {
            return self.value(there);
        }
        if field.get("enum").is_some() {
            return names_of(field);
        }
        if let Some(Value::Array(kinds)) = field.get("anyOf") {
            let kinds = kinds.iter().filter(|kind| kind["type"] != "null");
            let words: Vec<String> = kinds.map(|kind| self.value(kind)).collect();
            return words.join(", or ");
        }
        let kind = match field.get("type") {
            Some(Value::Array(kinds)) => kinds
                .iter()
                .find(|kind| *kind != "null")
                .and_then(Value::as_str),
            Some(kind) => kind.as_str(),
            None => None,
        };
        match kind {
            Some("integer") => format!("integer{}", bounds(field)),
            Some("number") => format!("number{}", bounds(field)),
            Some("boolean") => "true or false".into(),
            Some("string") => "text".into(),
            Some("array") => {
                let each = field
                    .get("items")
                    .map_or_else(|| "anything".into(), |items| self.value(items));
                let count = |keyword: &str| field.get(keyword).and_then(Value::as_u64);
                match (count("minItems"), count("maxItems")) {
                    (Some(least), Some(most)) if least == most => {
                        format!("list of {least}: {each}")
                    }
                    (Some(least), Some(most)) => format!("list of {least} to {most}: {each}"),
                    (Some(least), None) => format!("list of {least} or more: {each}"),
                    _ => format!("list: {each}"),
                }
            }
            Some("object") => match field.get("additionalProperties") {
                Some(each @ Value::Object(_)) => format!("by name: {}", self.value(each)),
                _ => "object".into(),
            },
            _ => "any JSON".into(),
        }
    }

    /// Where a definition is used, by JSON pointer.
    fn places(&self, wanted: &str) -> Vec<String> {
        let mut found = Vec::new();
        self.walk(self.schema, String::new(), 0, wanted, &mut found);
        found.dedup();
        found
    }

    fn walk(
        &self,
        schema: &Value,
        place: String,
        depth: usize,
        wanted: &str,
        found: &mut Vec<String>,
    ) {
        /// More than any document nests.
        const DEEPEST: usize = 16;
        if depth > DEEPEST {
            return;
        }
        if let Some(name) = reference(schema) {
            if name == wanted && !found.contains(&place) {
                found.push(place.clone());
            }
            self.walk(
                &self.schema["$defs"][name],
                place.clone(),
                depth + 1,
                wanted,
                found,
            );
        }
        let fields = schema.get("properties").and_then(Value::as_object);
        for (name, field) in fields.into_iter().flatten() {
            self.walk(field, format!("{place}/{name}"), depth + 1, wanted, found);
        }
        for then in branches(schema).unwrap_or_default() {
            self.walk(then, place.clone(), depth + 1, wanted, found);
        }
        if let Some(items) = schema.get("items") {
            self.walk(items, format!("{place}/[]"), depth + 1, wanted, found);
        }
        if let Some(each) = schema
            .get("additionalProperties")
            .filter(|each| each.is_object())
        {
            self.walk(each, format!("{place}/{{}}"), depth + 1, wanted, found);
        }
        if let Some(there) = schema.get("else") {
            self.walk(there, place, depth + 1, wanted, found);
        }
    }
}

/// The name of the definition that a schema stands for.
fn reference(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix("#/$defs/")
}

/// The definitions that a schema mentions, in order.
fn references(schema: &Value) -> Vec<&str> {
    let mut found: Vec<&str> = reference(schema).into_iter().collect();
    match schema {
        Value::Object(fields) => {
            let own = fields.iter().filter(|(name, _)| *name != "$defs");
            found.extend(own.flat_map(|(_, value)| references(value)));
        }
        Value::Array(values) => found.extend(values.iter().flat_map(references)),
        _ => {}
    }
    found
}

/// The kinds of object that a schema tells apart.
fn branches(schema: &Value) -> Option<Vec<&Value>> {
    let branches = schema.get("allOf")?.as_array()?;
    branches.iter().map(|branch| branch.get("then")).collect()
}

fn kind(then: &Value) -> Option<&str> {
    let kind = then.get("properties")?.get("kind")?;
    kind.get("const")
        .or_else(|| kind.get("enum")?.get(0))?
        .as_str()
}

/// Whether a definition is described by itself, and not where it is used.
fn is_section(schema: &Value) -> bool {
    ["properties", "allOf"]
        .iter()
        .any(|keyword| schema.get(keyword).is_some())
        || (schema.get("then").is_some() && schema.get("else").is_some())
}

/// Names with what they mean. Other spellings of a name, which share its description, are left out.
fn names_of(schema: &Value) -> String {
    let list = |keyword: &str| {
        schema
            .get(keyword)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    let mut told = BTreeSet::new();
    let mut about = list("enumDescriptions").map(|text| text.as_str().unwrap_or_default());
    let names: Vec<String> = list("enum")
        .filter_map(|name| {
            let about = about.next().unwrap_or_default();
            let name = name
                .as_str()
                .map_or_else(|| name.to_string(), str::to_owned);
            match about.is_empty() {
                true => Some(format!("`{name}`")),
                false => told
                    .insert(about)
                    .then(|| format!("`{name}`: {}", lower(about))),
            }
        })
        .collect();
    cell(&names.join("<br>"))
}

/// A description as the rest of a sentence.
fn lower(about: &str) -> String {
    one_line(about).trim_end_matches('.').to_owned()
}

fn bounds(field: &Value) -> String {
    let bound = |keyword: &str| field.get(keyword).filter(|bound| bound.is_number());
    let least = bound("minimum")
        .map(|b| format!("{b} ≤"))
        .or_else(|| bound("exclusiveMinimum").map(|b| format!("{b} <")));
    let most = bound("maximum")
        .map(|b| format!("≤ {b}"))
        .or_else(|| bound("exclusiveMaximum").map(|b| format!("< {b}")));
    match (least, most) {
        (None, None) => String::new(),
        (Some(least), None) if least == "0 ≤" && field["type"] == "integer" => String::new(),
        (Some(least), Some(most)) => format!(", {least} x {most}"),
        (Some(least), None) => format!(", {least} x"),
        (None, Some(most)) => format!(", x {most}"),
    }
}

fn text(schema: &Value) -> Option<String> {
    Some(one_line(schema.get("description")?.as_str()?))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Text in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_page_is_what_the_schemas_say() {
        run(&crate::root(), true).unwrap();
    }

    /// Every field of every object in a schema, but for those that only tell kinds apart.
    fn fields<'a>(schema: &'a Value, found: &mut BTreeSet<&'a str>) {
        if let Some(own) = schema.get("properties").and_then(Value::as_object) {
            let named = own.keys().map(String::as_str);
            found.extend(named.filter(|name| !["kind", "$schema"].contains(name)));
        }
        match schema {
            Value::Object(values) => values.values().for_each(|value| fields(value, found)),
            Value::Array(values) => values.iter().for_each(|value| fields(value, found)),
            _ => {}
        }
    }

    #[test]
    fn no_option_is_left_out_and_every_link_has_its_heading() {
        let folder = crate::root().join("core/schema");
        let page = page(&folder).unwrap();
        for (document, _) in DOCUMENTS {
            let path = folder.join(format!("{document}.schema.json"));
            let schema: Value = serde_json::from_slice(&crate::read(&path).unwrap()).unwrap();
            let mut found = BTreeSet::new();
            fields(&schema, &mut found);
            assert!(found.len() > 20, "{document}");
            for name in found {
                assert!(
                    page.contains(&format!("| `{name}` |")),
                    "{document}: {name}"
                );
            }
        }
        let headings: BTreeSet<String> = page
            .lines()
            .filter_map(|line| line.strip_prefix("### "))
            .map(|heading| {
                heading
                    .to_lowercase()
                    .replace(' ', "-")
                    .replace(['(', ')'], "")
            })
            .collect();
        let links: Vec<&str> = page
            .split("](#")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
            .collect();
        assert!(links.len() > 20);
        for link in links {
            assert!(headings.contains(link), "{link}");
        }
    }

    #[test]
    fn tells_names_ranges_and_defaults() {
        let schema = serde_json::json!({
            "properties": {
                "draws": { "type": "integer", "minimum": 1, "maximum": 64, "description": "How\nmany." },
                "rate": { "type": ["number", "null"], "exclusiveMinimum": 0, "default": 0.5 },
                "blur": { "enum": ["grayscale", "grey", "rgb"], "enumDescriptions": ["One | channel.", "One | channel.", "Three."] },
            },
            "required": ["draws"],
        });
        let mut page = String::new();
        Document {
            name: "x",
            schema: &schema,
        }
        .describe(&schema, &mut page)
        .unwrap();
        let rows: Vec<&str> = page.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| `draws` | integer, 1 ≤ x ≤ 64 | **needed** | How many. |",
                "| `rate` | number, 0 < x | `0.5` |  |",
                "| `blur` | `grayscale`: One \\| channel<br>`rgb`: Three |  |  |",
            ]
        );
    }
}

//! The comparison file: one JSON document that says which methods are held against each other, on which experiment. The doc comments here
//! are the schema's descriptions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use dtta_base::{Issue, escaped, schema_of};
use dtta_data::DomainConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What it is called in messages.
pub(super) const WHAT: &str = "comparison";

/// Values by place: a JSON pointer into the experiment (`/method/steps`, or `method.steps`), set in this order.
pub type Settings = Map<String, Value>;

/// Methods to compare on one experiment. Relative paths in it start at the folder of that experiment, but for the experiment's own, which
/// starts at the folder of this file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ComparisonFile {
    /// Where editors find this schema. Not read by dtta.
    #[serde(rename = "$schema", default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// Names the comparison and its output folder.
    pub name: String,
    /// What the comparison is about, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The experiment that all methods start from.
    pub experiment: PathBuf,
    /// Seeds to run each method with, whose samples are pooled; the experiment's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub seeds: Option<Vec<u64>>,
    /// What all methods set in the experiment, before what they set themselves: values by place.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(with = "BTreeMap<String, Value>")]
    pub settings: Settings,
    /// What each method, by the name that it has in tables, sets in the experiment: values by place, such as `"/method"` or
    /// `"/adaptation/batch"`, in this order.
    #[schemars(with = "BTreeMap<String, BTreeMap<String, Value>>", extend("minProperties" = 1))]
    pub methods: Map<String, Value>,
    /// The method that the others are held against, beside the source model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Several values for a place, such as `"/method/draws": [8, 30, 90]`. Each method that has the place is run with each of them, called
    /// as in `diffusion-draws-8`; the reference as it is, too.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(with = "BTreeMap<String, Vec<Value>>")]
    pub sweep: Map<String, Value>,
    /// What `dtta compare --tune` tries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning: Option<TuningConfig>,
    /// How these settings were chosen, written by `dtta compare --tune`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned_on: Option<TunedOn>,
}

/// Settings to try, as many for each method, and what to try them on: never on what is reported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TuningConfig {
    /// Domains in the place of the stream's. None may be a condition that the experiment reports, at whatever severity.
    #[schemars(length(min = 1))]
    pub domains: Vec<DomainConfig>,
    /// Samples in each of them; as many as the stream has if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub samples: Option<usize>,
    /// Seeds to run each setting with; the comparison's first if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub seeds: Option<Vec<u64>>,
    /// For each method that is tuned, the settings to try: values by place, on top of the method's own. Methods that are not named keep what
    /// they have.
    #[schemars(
        with = "BTreeMap<String, Vec<BTreeMap<String, Value>>>",
        extend("minProperties" = 1)
    )]
    pub settings: BTreeMap<String, Vec<Settings>>,
}

/// How settings were chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TunedOn {
    /// The names of the domains that were tuned on.
    pub domains: Vec<String>,
    /// Samples of all domains and seeds together.
    pub samples: usize,
    /// Seeds.
    pub seeds: Vec<u64>,
    /// The score that settings were chosen by: its mean over the averaged domains.
    pub metric: String,
    /// What was tried for each method.
    pub methods: BTreeMap<String, Tuned>,
}

/// What was tried for a method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// The mean score of each setting, in the order in which they were given; null where it failed.
    #[schemars(length(min = 1))]
    pub tried: Vec<Option<f64>>,
    /// Which of them was chosen, from 0.
    pub chosen: usize,
}

impl ComparisonFile {
    /// The JSON Schema (draft 2020-12) of the document.
    pub fn schema() -> Value {
        schema_of::<Self>(WHAT)
    }

    /// The methods, and what each sets.
    pub fn methods(&self) -> impl Iterator<Item = (&str, &Settings)> {
        let methods = self.methods.iter();
        methods.filter_map(|(name, settings)| Some((&**name, settings.as_object()?)))
    }

    /// What a schema cannot say.
    pub(super) fn contradictions(&self) -> Vec<Issue> {
        let mut issues = Vec::new();
        let mut issue =
            |pointer: String, message: String| issues.push(Issue::new(pointer, message));
        let mut seeds = |at: &str, seeds: &[u64]| {
            let mut met = BTreeSet::new();
            for (place, seed) in seeds.iter().enumerate() {
                if !met.insert(seed) {
                    issue(format!("{at}/{place}"), format!("{seed} is given twice"));
                }
            }
        };
        if let Some(own) = &self.seeds {
            seeds("/seeds", own);
        }
        let tuning = self.tuning.as_ref();
        if let Some(own) = tuning.and_then(|tuning| tuning.seeds.as_ref()) {
            seeds("/tuning/seeds", own);
        }
        if self.methods.contains_key("") {
            issue("/methods/".into(), "a method has a name".into());
        }
        for (pointer, values) in &self.sweep {
            if values.as_array().is_none_or(Vec::is_empty) {
                let at = format!("/sweep/{}", escaped(pointer));
                issue(at, "is empty, expected one value or more".into());
            }
        }
        if let Some(tuning) = &self.tuning {
            for name in tuning.settings.keys() {
                if !self.methods.contains_key(name) {
                    let at = format!("/tuning/settings/{}", escaped(name));
                    issue(at, format!("there is no method `{name}`"));
                }
            }
            let counts = tuning.settings.values().map(Vec::len);
            if counts.clone().min() != counts.max() || tuning.settings.values().any(Vec::is_empty) {
                let settings = tuning.settings.iter();
                let counts =
                    settings.map(|(name, settings)| format!("`{name}` {}", settings.len()));
                let counts = counts.collect::<Vec<_>>().join(", ");
                let message =
                    format!("each method gets the same number of settings, here {counts}");
                issue("/tuning/settings".into(), message);
            }
        }
        if let Some(tuned) = &self.tuned_on {
            for (name, tuned) in &tuned.methods {
                let at = format!("/tuned_on/methods/{}", escaped(name));
                if !self.methods.contains_key(name) {
                    issue(at, format!("there is no method `{name}`"));
                } else if tuned.chosen >= tuned.tried.len() {
                    let message = format!("is {} of {}", tuned.chosen, tuned.tried.len());
                    issue(format!("{at}/chosen"), message);
                }
            }
        }
        issues
    }
}

/// The conditions of some domains, whatever their severity: corruptions by name, `clean`. Whatever kind of domain names a corruption counts.
pub(super) fn conditions(domains: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    match domains {
        Value::Array(domains) => domains
            .iter()
            .for_each(|domain| found.extend(conditions(domain))),
        Value::Object(fields) => {
            let text = |name: &str| fields.get(name).and_then(Value::as_str);
            match text("kind") {
                Some("clean") => drop(found.insert("clean".into())),
                Some("stored") => {
                    let name = text("name").and_then(|name| name.split('/').next());
                    found.extend(name.map(str::to_owned));
                }
                _ => {}
            }
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("corruption", Value::String(name)) => drop(found.insert(name.clone())),
                    ("corruptions", Value::Array(names)) => {
                        found.extend(names.iter().filter_map(Value::as_str).map(str::to_owned));
                    }
                    // Where images come from is no condition of theirs.
                    ("dataset", _) => {}
                    (_, value) => found.extend(conditions(value)),
                }
            }
        }
        _ => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_are_told_by_name_whatever_the_severity() {
        let domains = json!([
            {"kind": "clean", "dataset": {"kind": "cifar", "corruption": {"name": "frost"}}},
            {"kind": "corrupted", "corruption": "fog", "severity": 3},
            {"kind": "stored", "name": "snow/5", "dataset": {"kind": "folder"}},
            {"kind": "benchmark", "corruptions": ["jpeg", "frost"], "severities": [1]},
            {"kind": "mixed", "of": [{"kind": "corrupted", "corruption": "contrast"}]},
        ]);
        let found: Vec<String> = conditions(&domains).into_iter().collect();
        assert_eq!(found, ["clean", "contrast", "fog", "frost", "jpeg", "snow"]);
    }
}

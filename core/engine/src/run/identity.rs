//! What a run is: the experiment, everything that it was made of, and where and by what it was computed. Two runs are one if all of it is
//! the same; only then may one continue the other, or be merged with it.

use std::collections::BTreeMap;

use dtta_base::{escaped, sha256};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::experiment::{Experiment, FailurePolicy, LimitsConfig};
use crate::record::RunDescription;

/// What must be the same for two runs to be one, beside the experiment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// SHA-256 of the experiment as it was run, but for budgets that no result depends on.
    pub experiment: String,
    /// SHA-256 of weights, model configurations, data and plugins, by what they are.
    pub digests: BTreeMap<String, String>,
    /// The device, or both where task model and denoiser live apart.
    pub device: String,
    /// Versions of what computed.
    pub versions: BTreeMap<String, String>,
}

impl Identity {
    pub(crate) fn new(
        experiment: &Experiment,
        digests: BTreeMap<String, String>,
        device: String,
    ) -> Self {
        let versions = [
            ("dtta", env!("CARGO_PKG_VERSION")),
            ("plugin_interface", dtta_plugin::INTERFACE_VERSION),
            ("burn", dtta_tensor::BURN_VERSION),
        ];
        Self {
            experiment: sha256(&serde_json::to_vec(&computed(experiment)).unwrap_or_default()),
            digests,
            device,
            versions: versions
                .map(|(name, version)| (name.to_owned(), version.to_owned()))
                .into(),
        }
    }

    /// One digest of all of it.
    pub(crate) fn digest(&self) -> String {
        sha256(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// The first thing in which two differ, in words: what this one has, and what the other.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        if self.device != other.device {
            let (own, others) = (&self.device, &other.device);
            return Some(format!("it ran on `{own}`, this is `{others}`"));
        }
        let kinds = [
            ("digest", &self.digests, &other.digests),
            ("version", &self.versions, &other.versions),
        ];
        for (kind, own, others) in kinds {
            for name in own.keys().chain(others.keys()) {
                let (own, others) = (own.get(name), others.get(name));
                if own != others {
                    let shown = |value: Option<&String>| {
                        value.map_or("none".to_owned(), |value| value.chars().take(12).collect())
                    };
                    return Some(format!(
                        "its {kind} of `{name}` is {}, this one's is {}",
                        shown(own),
                        shown(others)
                    ));
                }
            }
        }
        (self.experiment != other.experiment)
            .then(|| "its experiment differs from this one".to_owned())
    }
}

/// The experiment as far as results depend on it. A plugin that reaches a budget has failed, whatever it makes of the refusal. Under the
/// policy `fail` that ends the run and leaves no trace in its records, so a run may go on with other budgets, and shards may have their own.
/// Under `skip` the batch is recorded as skipped: there the budgets of calls decide what is. Those of compiling and logging never do.
fn computed(experiment: &Experiment) -> Experiment {
    let ordinary = LimitsConfig::default();
    let mut computed = experiment.clone();
    let limits = &mut computed.plugins.limits;
    *limits = match experiment.plugins.on_failure {
        FailurePolicy::Fail => ordinary,
        FailurePolicy::Skip => LimitsConfig {
            log_lines: ordinary.log_lines,
            component_bytes: ordinary.component_bytes,
            component_code_bytes: ordinary.component_code_bytes,
            component_functions: ordinary.component_functions,
            component_complexity: ordinary.component_complexity,
            compile_seconds: ordinary.compile_seconds,
            ..*limits
        },
    };
    computed
}

impl RunDescription {
    /// The first thing in which two runs differ, in words: what this one has, and what the other.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        let of_experiment = experiments_differ(&self.experiment, &other.experiment);
        of_experiment.or_else(|| self.identity.difference(&other.identity))
    }
}

/// The first place at which results of two experiments may differ, in words.
pub(crate) fn experiments_differ(own: &Experiment, others: &Experiment) -> Option<String> {
    let documents = [own, others]
        .map(|experiment| serde_json::to_value(computed(experiment)).unwrap_or_default());
    let [own, others] = &documents;
    let pointer = differences(own, others).into_iter().next()?;
    let shown = |value: &Value| {
        let found = value.pointer(&pointer);
        found.map_or("nothing".to_owned(), Value::to_string)
    };
    let (own, others) = (shown(own), shown(others));
    Some(format!(
        "its experiment has {own} at `{pointer}`, this one {others}"
    ))
}

/// The pointers of the places at which two documents differ; lists of other lengths differ as wholes.
pub(crate) fn differences(own: &Value, others: &Value) -> Vec<String> {
    fn find(own: &Value, others: &Value, at: &str, found: &mut Vec<String>) {
        match (own, others) {
            (Value::Object(own), Value::Object(others)) => {
                let more = others.keys().filter(|name| !own.contains_key(*name));
                for name in own.keys().chain(more) {
                    let at = format!("{at}/{}", escaped(name));
                    match (own.get(name), others.get(name)) {
                        (Some(own), Some(others)) => find(own, others, &at, found),
                        _ => found.push(at),
                    }
                }
            }
            (Value::Array(own), Value::Array(others)) if own.len() == others.len() => {
                for (place, (own, others)) in own.iter().zip(others).enumerate() {
                    find(own, others, &format!("{at}/{place}"), found);
                }
            }
            _ if own == others => {}
            _ => found.push(at.to_owned()),
        }
    }
    let mut found = Vec::new();
    find(own, others, "", &mut found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_places_where_two_documents_differ() {
        let own = serde_json::json!({"a": [1, {"b/c": 2}], "d": 3, "list": [1]});
        let mut others = own.clone();
        assert_eq!(differences(&own, &others), [""; 0]);
        others["a"][1]["b/c"] = 4.into();
        assert_eq!(differences(&own, &others), ["/a/1/b~1c"]);
        others["e"] = 4.into();
        others["list"] = serde_json::json!([1, 2]);
        assert_eq!(differences(&own, &others), ["/a/1/b~1c", "/list", "/e"]);
        assert_eq!(differences(&others, &own), ["/a/1/b~1c", "/list", "/e"]);
        assert_eq!(differences(&1.into(), &2.into()), [""]);
    }

    #[test]
    fn names_the_first_difference() {
        let identity = Identity {
            experiment: "e".into(),
            digests: [("backbone".to_owned(), "0123456789abcdef".to_owned())].into(),
            device: "cpu".into(),
            versions: BTreeMap::new(),
        };
        assert_eq!(identity.difference(&identity), None);
        let mut other = identity.clone();
        other.digests.insert("backbone".into(), "f".into());
        let difference = identity.difference(&other).unwrap();
        assert!(
            difference.contains("`backbone` is 0123456789ab, this one's is f"),
            "{difference}"
        );
        let mut other = identity.clone();
        other.digests.insert("data".into(), "f".into());
        assert!(
            identity
                .difference(&other)
                .unwrap()
                .contains("`data` is none")
        );
        let mut other = identity.clone();
        other.device = "cuda:0".into();
        assert!(identity.difference(&other).unwrap().contains("cuda:0"));
        let mut other = identity.clone();
        other.experiment = "f".into();
        let difference = identity.difference(&other).unwrap();
        assert!(difference.contains("experiment"), "{difference}");
    }
}

//! `plugin.json`: what a plugin says of itself without being run, and the digest that ties
//! it to its artifact. The same document, without the artifact, is what a plugin's
//! `describe` answers with.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use crate::artifact;
use crate::error::{PluginError, Result};
use crate::task::{Predicts, ScoreSpec, is_false};
use serde::{Deserialize, Serialize};

/// The version of the manifest's layout that this host reads.
pub const MANIFEST_SCHEMA_VERSION: u32 = 1;

/// What a plugin can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Features or pixels to task outputs and predictions.
    Head,
    /// Task outputs to conditioning.
    Mapper,
    /// A further scalar to minimise.
    Objective,
    /// A score.
    Metric,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Head, Self::Mapper, Self::Objective, Self::Metric];

    /// Its name in WIT, JSON and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Mapper => "mapper",
            Self::Objective => "objective",
            Self::Metric => "metric",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Role names joined for a message.
pub(crate) fn join(roles: &[Role]) -> String {
    let names: Vec<&str> = roles.iter().map(|role| role.name()).collect();
    if names.is_empty() {
        "none".into()
    } else {
        names.join(", ")
    }
}

/// What a plugin asks of its host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Needs {
    /// Constants that the experiment must bind, such as `class-embeddings`.
    pub constants: Vec<String>,
    /// Operations that it uses.
    pub ops: Vec<String>,
}

/// What a plugin says of itself. Unknown fields are ignored: the document grows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this document's layout.
    #[serde(default = "first_schema_version")]
    pub schema_version: u32,
    /// The name that experiments and messages use.
    pub name: String,
    /// The plugin's own version.
    pub version: String,
    /// What it is for, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The interface it was built for, such as `0.1`.
    pub interface: String,
    /// What it offers.
    pub roles: Vec<Role>,
    /// The component beside the manifest; absent when a plugin describes itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<String>,
    /// Digest of the artifact, in lower-case hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// JSON Schema (draft 2020-12) of each role's config, by role.
    #[serde(default)]
    pub config_schema: BTreeMap<Role, serde_json::Value>,
    /// What it asks of its host.
    #[serde(default)]
    pub needs: Needs,
    /// What its head predicts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicts: Option<Predicts>,
    /// How the scores of its metric are to be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<ScoreSpec>,
    /// Whether what its metric saves is JSON whose numbers are whole and merge by addition, so that a host may sum saved
    /// accumulators by itself, with [`Layout`](crate::Layout).
    #[serde(default, skip_serializing_if = "is_false")]
    pub additive: bool,
    /// The toolchain that built the artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_with: Option<serde_json::Value>,
    /// Digest of the source that the artifact was built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_digest: Option<String>,
}

fn first_schema_version() -> u32 {
    MANIFEST_SCHEMA_VERSION
}

impl Manifest {
    /// Reads a manifest; executes nothing.
    ///
    /// # Errors
    /// [`PluginError::Read`], [`PluginError::Manifest`], [`PluginError::Interface`].
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&read_text(path)?, path)
    }

    /// Parses a manifest or a descriptor; `origin` is named in errors.
    ///
    /// # Errors
    /// [`PluginError::Manifest`], or [`PluginError::Interface`] if it is for another host.
    pub fn parse(text: &str, origin: &Path) -> Result<Self> {
        let refuse = |message: String| PluginError::Manifest {
            path: origin.into(),
            message,
        };
        let document = dtta_base::parse_json(origin, text).map_err(|error| match error {
            dtta_base::Error::Json { source, .. } => refuse(source.to_string()),
            other => refuse(other.to_string()),
        })?;
        let layout = document
            .get("schema_version")
            .and_then(serde_json::Value::as_u64);
        if let Some(layout) = layout.filter(|&layout| layout != u64::from(MANIFEST_SCHEMA_VERSION))
        {
            return Err(refuse(format!(
                "it has schema_version {layout}, and this host reads {MANIFEST_SCHEMA_VERSION}; upgrade the host or rebuild the plugin"
            )));
        }
        let manifest: Self =
            serde_json::from_value(document).map_err(|error| refuse(error.to_string()))?;
        let interface: Interface = manifest.interface.parse().map_err(refuse)?;
        if !interface.is_served() {
            return Err(PluginError::Interface {
                plugin: manifest.name,
                needs: format!("interface {interface}"),
                offered: INTERFACE_VERSION,
            });
        }
        match manifest.problem() {
            Some(problem) => Err(refuse(problem)),
            None => Ok(manifest),
        }
    }

    /// What contradicts itself in what it says of a task, if anything does.
    pub(crate) fn problem(&self) -> Option<String> {
        let is_without = |role| !self.roles.contains(&role);
        if self.predicts.is_some() && is_without(Role::Head) {
            return Some("it says what it predicts, and is not a head".into());
        }
        if (self.additive || !self.scores.is_empty()) && is_without(Role::Metric) {
            return Some("it says what its scores are, and is not a metric".into());
        }
        let predicts = self.predicts.as_ref().and_then(Predicts::problem);
        predicts.or_else(|| ScoreSpec::problem(&self.scores))
    }
}

/// The version of the interface (WIT package and native ABI) that this host offers.
pub const INTERFACE_VERSION: &str = "0.1.0";

/// A version of the interface: two or three numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Interface {
    major: u64,
    minor: u64,
    patch: u64,
}

impl Interface {
    /// Whether this host is on the same track: every 0.1.x.
    pub(crate) fn is_served(self) -> bool {
        (self.major, self.minor) == (0, 1)
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Interface {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Option<Vec<u64>> = text.split('.').map(|part| part.parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[major, minor]) => Ok(Self {
                major,
                minor,
                patch: 0,
            }),
            Some(&[major, minor, patch]) => Ok(Self {
                major,
                minor,
                patch,
            }),
            _ => Err(format!(
                "`{text}` is not an interface version such as `{INTERFACE_VERSION}`"
            )),
        }
    }
}

/// The digest of a file, read piece by piece.
pub(crate) fn digest_of(path: &Path) -> Result<String> {
    dtta_base::sha256_file(path).map_err(|error| match error {
        dtta_base::Error::Read { path, source } => PluginError::Read { path, source },
        other => PluginError::Host {
            message: other.to_string(),
        },
    })
}

/// Bytes that a manifest may have.
const MANIFEST_BYTES: u64 = 4 << 20;

fn read_text(path: &Path) -> Result<String> {
    let bytes = artifact::plain_file(path)?;
    if bytes > MANIFEST_BYTES {
        return Err(PluginError::Manifest {
            path: path.into(),
            message: format!("it has {bytes} bytes, more than {MANIFEST_BYTES}"),
        });
    }
    fs::read_to_string(path).map_err(|source| PluginError::Read {
        path: path.into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Manifest> {
        Manifest::parse(text, Path::new("plugin.json"))
    }

    #[test]
    fn reads_what_a_plugin_says_of_itself() {
        let manifest = parse(
            r#"{"name": "classification", "version": "0.1.0", "interface": "0.1", "roles": ["head", "mapper"],
                "config_schema": {"mapper": {"type": "object"}}, "needs": {"constants": ["class-embeddings"]},
                "a_field_of_tomorrow": 1}"#,
        )
        .unwrap();
        assert_eq!(manifest.roles, [Role::Head, Role::Mapper]);
        assert_eq!(manifest.needs.constants, ["class-embeddings"]);
        assert!(manifest.config_schema.contains_key(&Role::Mapper));
    }

    #[test]
    fn refuses_another_interface_and_another_layout() {
        let text = |interface: &str, layout: u32| {
            format!(
                r#"{{"schema_version": {layout}, "name": "p", "version": "1", "interface": "{interface}", "roles": []}}"#
            )
        };
        assert!(parse(&text("0.1.7", 1)).is_ok());
        let error = parse(&text("0.2", 1)).unwrap_err();
        assert_eq!(error.code(), "interface");
        assert!(
            error
                .to_string()
                .contains("`p` needs interface 0.2.0; this host offers interface 0.1.0"),
            "{error}"
        );
        assert_eq!(parse(&text("one", 1)).unwrap_err().code(), "manifest");
        assert_eq!(parse(&text("0.1", 2)).unwrap_err().code(), "manifest");
    }

    #[test]
    fn a_byte_order_mark_is_skipped_and_a_field_that_is_given_twice_refused() {
        let text = r#"{"name": "p", "version": "1", "interface": "0.1", "roles": []}"#;
        assert_eq!(
            parse(&format!("\u{feff}{text}")).unwrap(),
            parse(text).unwrap()
        );
        let error =
            parse(r#"{"name": "p", "needs": {"constants": [], "constants": []}}"#).unwrap_err();
        assert_eq!(error.code(), "manifest");
        assert!(
            error
                .to_string()
                .contains("/needs/constants: is given twice"),
            "{error}"
        );
    }

    #[test]
    fn names_the_missing_field() {
        let error = parse(r#"{"name": "p", "version": "1", "roles": []}"#).unwrap_err();
        assert!(error.to_string().contains("interface"), "{error}");
    }

    #[test]
    fn reads_a_task() {
        let manifest = parse(
            r#"{"name": "p", "version": "1", "interface": "0.1", "roles": ["head", "metric"],
                "predicts": {"name": "labels", "target": {"kind": "label_map"}, "picture": {"kind": "palette"}},
                "scores": [{"name": "miou", "higher_is_better": true, "unit": "share", "leads": true}, {"name": "class_*"}],
                "additive": true}"#,
        )
        .unwrap();
        assert_eq!(manifest.predicts.as_ref().unwrap().name, "labels");
        assert!(manifest.scores[0].is_share() && manifest.scores[0].leads);
        assert_eq!(manifest.scores[1].higher_is_better, None);
        assert!(manifest.additive);
        let text = serde_json::to_string(&manifest).unwrap();
        assert_eq!(parse(&text).unwrap(), manifest);
    }

    #[test]
    fn refuses_a_task_that_is_none() {
        for (role, task, word) in [
            ("head", r#""predicts": {"name": "x"}"#, "target"),
            (
                "head",
                r#""predicts": {"name": "x", "target": {"kind": "class_index"}, "picture": {"kind": "rgb", "low": 0, "high": 1}}"#,
                "class index",
            ),
            (
                "metric",
                r#""predicts": {"name": "x", "target": {"kind": "class_index"}}"#,
                "not a head",
            ),
            (
                "metric",
                r#""scores": [{"name": "x", "better": true}]"#,
                "better",
            ),
            (
                "metric",
                r#""scores": [{"name": "x", "leads": true}, {"name": "y", "leads": true}]"#,
                "lead",
            ),
            ("head", r#""scores": [{"name": "x"}]"#, "not a metric"),
            ("head", r#""additive": true"#, "not a metric"),
            ("metric", r#""additive": 1"#, "boolean"),
        ] {
            let text = format!(
                r#"{{"name": "p", "version": "1", "interface": "0.1", "roles": ["{role}"], {task}}}"#
            );
            let error = parse(&text).unwrap_err();
            assert_eq!(error.code(), "manifest");
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}

//! Reading documents: JSON, overrides, schema, types. Every fault of a document is found at
//! once and named by file and JSON pointer, before anything loads.

use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Issue, Result};
use crate::experiment::{Experiment, Mode, Reset};

/// An experiment with the file it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The file, for messages.
    pub path: PathBuf,
    /// The experiment, overrides applied.
    pub experiment: Experiment,
}

impl Document {
    /// That one place of the experiment does not fit the rest.
    pub(crate) fn refusal(&self, pointer: &str, message: String) -> Error {
        Error::Invalid {
            path: self.path.clone(),
            what: "experiment",
            issues: vec![Issue {
                pointer: pointer.into(),
                message,
            }],
        }
    }

    /// Reads and validates an experiment. Each override is `POINTER=VALUE`: the pointer in JSON's notation
    /// (`/adaptation/steps`) or with dots (`adaptation.steps`), the value as JSON, or else as text.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Json`], [`Error::Override`], or [`Error::Invalid`] with every fault.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let value = read_json(path, overrides)?;
        let invalid = |issues| Error::Invalid {
            path: path.into(),
            what: "experiment",
            issues,
        };
        let experiment: Experiment = parse(value).map_err(invalid)?;
        let issues = contradictions(&experiment);
        if !issues.is_empty() {
            return Err(invalid(issues));
        }
        Ok(Self {
            path: path.into(),
            experiment,
        })
    }

    /// The folder at which relative paths start.
    pub fn base(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }
}

/// The JSON Schema (draft 2020-12) of an experiment.
pub fn schema() -> Value {
    schema_of::<Experiment>("dtta experiment")
}

/// The JSON Schema (draft 2020-12) of a document type.
pub fn schema_of<T: JsonSchema>(title: &str) -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<T>();
    schema.insert("title".into(), title.into());
    schema.to_value()
}

/// Reads a JSON file and puts overrides into it, as [`Document::load`] describes them.
///
/// # Errors
/// [`Error::Read`], [`Error::Json`] or [`Error::Override`].
pub fn read_json(path: &Path, overrides: &[String]) -> Result<Value> {
    let text = fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.into(),
        source,
    })?;
    let mut value: Value = serde_json::from_str(&text).map_err(|source| Error::Json {
        path: path.into(),
        source,
    })?;
    for text in overrides {
        set(&mut value, text)?;
    }
    Ok(value)
}

/// The typed document that `value` holds.
///
/// # Errors
/// Every fault that its schema finds.
pub fn parse<T: JsonSchema + DeserializeOwned>(value: Value) -> Result<T, Vec<Issue>> {
    let fault = |message: String| Issue {
        pointer: String::new(),
        message,
    };
    let validator = jsonschema::validator_for(&schema_of::<T>(""))
        .map_err(|error| vec![fault(error.to_string())])?;
    let mut issues = Vec::new();
    for error in validator.iter_errors(&value) {
        explain(&error, &mut issues);
    }
    if !issues.is_empty() {
        return Err(issues);
    }
    serde_json::from_value(value).map_err(|error| vec![fault(error.to_string())])
}

/// An alternative that fails says little; the faults of the alternative that came closest say what to change.
fn explain(error: &ValidationError<'_>, issues: &mut Vec<Issue>) {
    let context = match error.kind() {
        ValidationErrorKind::OneOfNotValid { context } | ValidationErrorKind::AnyOf { context } => {
            context
        }
        _ => {
            issues.push(Issue {
                pointer: error.instance_path().to_string(),
                message: error.to_string(),
            });
            return;
        }
    };
    let wrong_kind = |errors: &&Vec<ValidationError<'_>>| {
        errors
            .iter()
            .filter(|error| matches!(error.kind(), ValidationErrorKind::Constant { .. }))
            .count()
    };
    match context
        .iter()
        .min_by_key(|errors| (wrong_kind(errors), errors.len()))
    {
        Some(closest) if wrong_kind(&closest) == 0 && !closest.is_empty() => {
            closest.iter().for_each(|error| explain(error, issues));
        }
        _ => {
            let kinds: Vec<String> = context
                .iter()
                .flatten()
                .filter_map(|error| match error.kind() {
                    ValidationErrorKind::Constant { expected_value } => {
                        Some(expected_value.to_string())
                    }
                    _ => None,
                })
                .collect();
            let message = if kinds.is_empty() {
                error.to_string()
            } else {
                format!("`kind` is none of {}", kinds.join(", "))
            };
            issues.push(Issue {
                pointer: error.instance_path().to_string(),
                message,
            });
        }
    }
}

/// What a schema cannot say.
fn contradictions(experiment: &Experiment) -> Vec<Issue> {
    let adaptation = &experiment.adaptation;
    let mut issues = Vec::new();
    let mut issue = |pointer: &str, message: &str| {
        issues.push(Issue {
            pointer: pointer.into(),
            message: message.into(),
        });
    };
    if let Some([low, high]) = adaptation.timesteps.range
        && low >= high
    {
        issue(
            "/adaptation/timesteps/range",
            "the first timestep must be below the last",
        );
    }
    if adaptation.denoiser.is_some()
        && adaptation.mode == (Mode::SingleSample {})
        && adaptation.batch > 1
    {
        issue(
            "/adaptation/denoiser",
            "samples with weights of their own cannot share an adapting denoiser; set `/adaptation/batch` to 1",
        );
    }
    if adaptation.centre.is_some() && adaptation.mode == (Mode::SingleSample {}) {
        issue(
            "/adaptation/centre",
            "a sample by itself has nothing in common with others; leave `centre` out",
        );
    }
    if adaptation.gate.is_some() && adaptation.draws == 0 {
        issue(
            "/adaptation/gate",
            "what a prediction explains is found by draws; set `/adaptation/draws` or leave `gate` out",
        );
    }
    if let Mode::Online {
        reset: Reset::Every(every),
        ..
    } = adaptation.mode
        && !every.get().is_multiple_of(adaptation.batch.max(1))
    {
        issue(
            "/adaptation/mode/reset/every",
            "a batch shares its weights; make it a multiple of `/adaptation/batch`",
        );
    }
    if adaptation.draws == 0 && adaptation.steps > 0 && experiment.plugins.objectives.is_empty() {
        issue(
            "/adaptation/draws",
            "without draws and without `/plugins/objectives` nothing moves the weights; set `/adaptation/steps` to 0 to measure the source model alone",
        );
    }
    issues
}

/// Puts the value of `POINTER=VALUE` into a document, making objects on the way.
fn set(document: &mut Value, text: &str) -> Result<()> {
    let refuse = |reason: String| Error::Override {
        text: text.into(),
        reason,
    };
    let (pointer, value) = text
        .split_once('=')
        .ok_or_else(|| refuse("expected POINTER=VALUE, such as `adaptation.steps=3`".into()))?;
    let parts: Vec<String> = match pointer.strip_prefix('/') {
        Some(pointer) => pointer
            .split('/')
            .map(|part| part.replace("~1", "/").replace("~0", "~"))
            .collect(),
        None => pointer.split('.').map(str::to_owned).collect(),
    };
    if parts.iter().any(String::is_empty) {
        return Err(refuse("the pointer has an empty part".into()));
    }
    let mut place = document;
    for part in &parts {
        place = match place {
            Value::Object(fields) => fields
                .entry(part.clone())
                .or_insert_with(|| Value::Object(serde_json::Map::new())),
            Value::Array(items) => {
                let length = items.len();
                let item = part
                    .parse()
                    .ok()
                    .and_then(|index: usize| items.get_mut(index));
                item.ok_or_else(|| {
                    refuse(format!("`{part}` is not an index of a list of {length}"))
                })?
            }
            _ => {
                return Err(refuse(format!(
                    "`{part}` lies within a value that has no parts"
                )));
            }
        };
    }
    *place = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.into()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn example() -> Value {
        let model = |name: &str| json!({"config": format!("models/{name}.json")});
        json!({
            "name": "example",
            "data": {
                "dataset": {"kind": "packed", "path": "sample.safetensors"},
                "stream": {"domains": [{"kind": "clean"}]},
            },
            "models": {"backbone": model("classifier"), "denoiser": model("denoiser")},
            "plugins": {"head": {"use": "classification"}, "mapper": {"use": "classification"}},
            "adaptation": {
                "mode": {"kind": "online"},
                "draws": 8,
                "optimizer": {"kind": "adam", "learning_rate": 1e-3},
            },
        })
    }

    fn load(value: &Value, overrides: &[&str]) -> Result<Experiment> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("example.json");
        fs::write(&path, value.to_string()).unwrap();
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        Document::load(&path, &overrides).map(|document| document.experiment)
    }

    fn pointers(error: &Error) -> Vec<&str> {
        match error {
            Error::Invalid { issues, .. } => {
                let mut pointers: Vec<&str> =
                    issues.iter().map(|issue| issue.pointer.as_str()).collect();
                pointers.sort_unstable();
                pointers
            }
            other => panic!("not a validation error: {other}"),
        }
    }

    #[test]
    fn reads_what_it_writes() {
        let experiment = load(&example(), &[]).unwrap();
        assert_eq!(
            load(&serde_json::to_value(&experiment).unwrap(), &[]).unwrap(),
            experiment
        );
    }

    #[test]
    fn names_an_unknown_field_by_pointer() {
        let mut value = example();
        value["adaptation"]["stepz"] = json!(3);
        let error = load(&value, &[]).unwrap_err();
        assert_eq!(pointers(&error), ["/adaptation"]);
        assert!(error.to_string().contains("stepz"), "{error}");
    }

    #[test]
    fn finds_every_fault_at_once() {
        let mut value = example();
        value["seed"] = json!("seven");
        value["adaptation"]["draws"] = json!(-1);
        let error = load(&value, &[]).unwrap_err();
        assert_eq!(pointers(&error), ["/adaptation/draws", "/seed"]);
    }

    #[test]
    fn looks_into_the_alternative_that_was_meant() {
        let mut value = example();
        value["adaptation"]["optimizer"] = json!({"kind": "adam", "learning_rate": "fast"});
        let error = load(&value, &[]).unwrap_err();
        assert_eq!(
            pointers(&error),
            ["/adaptation/optimizer/learning_rate"],
            "{error}"
        );
        value["adaptation"]["optimizer"] = json!({"kind": "adagrad", "learning_rate": 1});
        let error = load(&value, &[]).unwrap_err();
        assert_eq!(pointers(&error), ["/adaptation/optimizer"]);
        assert!(
            error.to_string().contains("\"sgd\", \"adam\", \"adamw\""),
            "{error}"
        );
    }

    #[test]
    fn overrides_by_either_kind_of_pointer() {
        let experiment =
            load(&example(), &["adaptation.steps=3", "/seed=9", "name=other"]).unwrap();
        assert_eq!(
            (
                experiment.adaptation.steps,
                experiment.seed,
                experiment.name.as_str()
            ),
            (3, 9, "other")
        );
        let experiment = load(&example(), &["data.stream.domains.0.name=first"]).unwrap();
        assert!(
            serde_json::to_string(&experiment)
                .unwrap()
                .contains("first")
        );
    }

    #[test]
    fn refuses_overrides_that_name_no_place() {
        for text in [
            "adaptation.steps",
            "a..b=1",
            "data.stream.domains.7.name=x",
            "name.first=x",
        ] {
            assert!(
                matches!(load(&example(), &[text]), Err(Error::Override { .. })),
                "{text}"
            );
        }
        assert_eq!(
            pointers(&load(&example(), &["adaptation.stepz=1"]).unwrap_err()),
            ["/adaptation"]
        );
    }

    #[test]
    fn refuses_what_contradicts_itself() {
        let error = load(
            &example(),
            &["adaptation.timesteps={\"range\": [600, 150]}"],
        )
        .unwrap_err();
        assert_eq!(pointers(&error), ["/adaptation/timesteps/range"]);
        let adam = r#"{"optimizer": {"kind": "adam", "learning_rate": 1e-4}}"#;
        let both = [
            r#"adaptation.mode={"kind": "single_sample"}"#,
            "adaptation.batch=2",
            &format!("adaptation.denoiser={adam}"),
        ];
        assert_eq!(
            pointers(&load(&example(), &both).unwrap_err()),
            ["/adaptation/denoiser"]
        );
    }

    #[test]
    fn refuses_steps_that_nothing_moves() {
        let error = load(&example(), &["adaptation.draws=0"]).unwrap_err();
        assert_eq!(pointers(&error), ["/adaptation/draws"]);
        let objective = r#"plugins.objectives=[{"use": "entropy"}]"#;
        load(&example(), &["adaptation.draws=0", objective]).unwrap();
        load(&example(), &["adaptation.draws=0", "adaptation.steps=0"]).unwrap();
    }

    #[test]
    fn tells_where_text_is_not_json() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broken.json");
        fs::write(&path, "{\n  \"name\": }").unwrap();
        let error = Document::load(&path, &[]).unwrap_err().to_string();
        assert!(
            error.contains("broken.json") && error.contains("line 2"),
            "{error}"
        );
    }
}

//! Reading experiments: JSON, overrides, schema, types. Every fault of a document is found at once and named by file and JSON pointer,
//! before anything loads.

use std::path::{Path, PathBuf};

use dtta_base::{Issue, Overrides, invalid, parse_by, published, read_document};
use dtta_learn::SelectionConfig;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::experiment::{Experiment, Mode, Reset};
use crate::methods::{AnyConfig, Methods};

/// What a document of this type is called in messages.
const WHAT: &str = "experiment";

/// An experiment with the file it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The file, for messages.
    pub path: PathBuf,
    /// The experiment, overrides applied.
    pub experiment: Experiment,
    /// What the overrides set, for messages.
    pub(crate) overrides: Overrides,
}

impl Document {
    /// Reads and validates an experiment. Each override is `POINTER=VALUE`: the pointer in JSON's notation (`/adaptation/batch`) or with
    /// dots (`adaptation.batch`), the value as JSON, or else as text.
    ///
    /// # Errors
    /// [`Error::Base`] for a file that cannot be read, an override that names no place, or with every fault of the document.
    pub fn load(path: &Path, overrides: &[String], methods: &Methods) -> Result<Self> {
        let (value, overrides) = read_document(path, overrides)?;
        Self::new(path, value, overrides, methods)
    }

    /// Validates an experiment that is JSON already. `path` is for messages, and where relative paths start.
    ///
    /// # Errors
    /// [`Error::Base`] with every fault.
    pub fn parse(path: &Path, value: Value, methods: &Methods) -> Result<Self> {
        Self::new(path, value, Overrides::default(), methods)
    }

    /// Validates an experiment that overrides were put into.
    pub(crate) fn new(
        path: &Path,
        value: Value,
        overrides: Overrides,
        methods: &Methods,
    ) -> Result<Self> {
        let refuse = |issues| Error::Base(invalid(path, WHAT, overrides.name(issues)));
        let experiment = validated(value, methods).map_err(refuse)?;
        Ok(Self {
            path: path.into(),
            experiment,
            overrides,
        })
    }

    /// The configuration of its method.
    pub(crate) fn method(&self, methods: &Methods) -> Result<Box<dyn AnyConfig>> {
        let config = methods.config(&self.experiment.method);
        config.map_err(|issues| self.refuse(within("/method", issues)))
    }

    /// That the experiment has these faults.
    pub(crate) fn refuse(&self, issues: Vec<Issue>) -> Error {
        Error::Base(invalid(&self.path, WHAT, self.overrides.name(issues)))
    }

    /// That one place of the experiment does not fit the rest.
    pub(crate) fn refusal(&self, pointer: &str, message: impl Into<String>) -> Error {
        self.refuse(vec![Issue::new(pointer, message)])
    }

    /// The folder at which relative paths start.
    pub fn base(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }
}

/// The experiment that `value` holds, or every fault of it.
pub(crate) fn validated(mut value: Value, methods: &Methods) -> Result<Experiment, Vec<Issue>> {
    spell_out_models(&mut value);
    parse_by(
        &schema(methods),
        value,
        |experiment: &Experiment| match methods.config(&experiment.method) {
            Ok(method) => contradictions(experiment, &*method),
            Err(issues) => within("/method", issues),
        },
    )
}

/// Models that are named by a text alone become what that stands for, so that the rest of the library knows one form.
fn spell_out_models(experiment: &mut Value) {
    for name in ["backbone", "denoiser", "encoder"] {
        if let Some(source) = experiment.pointer_mut(&format!("/models/{name}"))
            && source.is_string()
        {
            *source = json!({ "config": source.take() });
        }
    }
}

/// The same faults in a document that holds this one at `pointer`.
pub(crate) fn within(pointer: &str, issues: Vec<Issue>) -> Vec<Issue> {
    let issues = issues.into_iter().map(|issue| issue.within(pointer));
    issues.collect()
}

/// The JSON Schema (draft 2020-12) of an experiment that knows these methods.
pub fn schema(methods: &Methods) -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let method = methods.schema(&mut generator);
    let mut schema = generator.into_root_schema_for::<Experiment>().to_value();
    if let Some(place) = schema.pointer_mut("/$defs/Method") {
        *place = method;
    }
    published(schema, WHAT)
}

/// What a schema cannot say.
fn contradictions(experiment: &Experiment, method: &dyn AnyConfig) -> Vec<Issue> {
    let adaptation = &experiment.adaptation;
    let mut issues = within("/method", method.contradictions(adaptation));
    if let Some(prompts) = &experiment.models.prompts {
        issues.extend(within("/models/prompts", prompts.contradictions()));
    }
    let mut issue = |pointer: &str, message: String| issues.push(Issue::new(pointer, message));
    if let Mode::Online {
        reset: Reset::Every(every),
    } = adaptation.mode
        && !every.get().is_multiple_of(adaptation.batch.max(1))
    {
        let message = "a batch shares its weights; make it a multiple of `/adaptation/batch`";
        issue("/adaptation/mode/reset/every", message.into());
    }
    let (denoiser, mapper) = (
        experiment.models.denoiser.is_some(),
        experiment.plugins.mapper.is_some(),
    );
    if experiment.output.adapters {
        let moved = [method.parameters(), method.denoiser_parameters()];
        let asked = |moved: &Option<&SelectionConfig>| moved.is_some_and(|m| m.lora().is_some());
        if adaptation.mode == (Mode::SingleSample {}) {
            let message = "single-sample mode carries no factors to the end; remove it";
            issue("/output/adapters", message.into());
        }
        if !moved.iter().any(asked) {
            let message = "the method moves no factors of low rank; remove it";
            issue("/output/adapters", message.into());
        }
    }
    for (name, source) in [
        ("denoiser", &experiment.models.denoiser),
        ("encoder", &experiment.models.encoder),
    ] {
        if source
            .as_ref()
            .is_some_and(|source| source.extents.is_some())
        {
            let message = "is offered for the backbone; remove it";
            issue(&format!("/models/{name}/extents"), message.into());
        }
    }
    if let Some(encoder) = &experiment.models.encoder {
        if encoder.adapter.is_some() {
            let message = "is offered for backbone and denoiser; remove it";
            issue("/models/encoder/adapter", message.into());
        }
        let message = "an encoder sees what the denoiser's `preprocess` gives; put the steps there";
        if !encoder.preprocess.is_empty() {
            issue("/models/encoder/preprocess", message.into());
        }
        if encoder.standardize.is_some() {
            issue("/models/encoder/standardize", message.into());
        }
        if !denoiser {
            let message = "makes latents for a denoiser, but there is none";
            issue("/models/encoder", message.into());
        }
    }
    if method.needs_denoiser() {
        for (there, pointer) in [(denoiser, "/models/denoiser"), (mapper, "/plugins/mapper")] {
            if !there {
                let message = format!(
                    "is missing: the method `{}` asks for it",
                    experiment.method.kind
                );
                issue(pointer, message);
            }
        }
    }
    issues
}

#[cfg(test)]
mod tests {
    use std::fs;

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
            "method": {"kind": "diffusion", "draws": 8, "optimizer": {"kind": "adam", "learning_rate": 1e-3}},
            "adaptation": {"mode": {"kind": "online"}},
        })
    }

    fn load(value: &Value, overrides: &[&str]) -> Result<Experiment> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("example.json");
        fs::write(&path, value.to_string()).unwrap();
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        Document::load(&path, &overrides, &Methods::standard()).map(|document| document.experiment)
    }

    fn pointers(error: &Error) -> Vec<&str> {
        match error {
            Error::Base(dtta_base::Error::Invalid { issues, .. }) => {
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
    fn a_model_may_be_named_by_a_text_alone() {
        let mut value = example();
        value["models"] = json!({"backbone": "timm:convnext_tiny.fb_in1k", "denoiser": "models/denoiser.json", "encoder": "vae"});
        let short = load(&value, &[]).unwrap();
        value["models"] = json!({
            "backbone": {"config": "timm:convnext_tiny.fb_in1k"}, "denoiser": {"config": "models/denoiser.json"},
            "encoder": {"config": "vae"},
        });
        assert_eq!(load(&value, &[]).unwrap(), short);
        for model in ["denoiser", "encoder"] {
            let override_ = format!("models.{model}.extents=[8,8]");
            let error = load(&value, &[&override_]).unwrap_err();
            let expected = format!("/models/{model}/extents");
            assert_eq!(pointers(&error), [expected.as_str()], "{error}");
        }
        let other = load(&value, &["models.backbone=hf:a/b"]).unwrap();
        assert_eq!(other.models.backbone.config, Path::new("hf:a/b"));
        // The schema says so to editors, which do not spell it out.
        let plain = serde_json::to_value(schema(&Methods::standard())).unwrap();
        value["models"]["backbone"] = json!("timm:resnet50.a1_in1k");
        assert!(dtta_base::check(&value, &plain).is_empty());
        for (wrong, pointer) in [
            (
                json!({"config": "a.json", "weigths": "b"}),
                "/models/backbone/weigths",
            ),
            (json!({"weights": "b"}), "/models/backbone/config"),
            (json!({"config": 3}), "/models/backbone/config"),
            (json!(3), "/models/backbone"),
            (json!(["a.json"]), "/models/backbone"),
        ] {
            value["models"]["backbone"] = wrong.clone();
            let error = load(&value, &[]).unwrap_err();
            assert_eq!(pointers(&error), [pointer], "{wrong}: {error}");
        }
        value["models"]["backbone"] = json!(3);
        let error = load(&value, &[]).unwrap_err().to_string();
        assert!(error.contains("is 3, expected an object"), "{error}");
        value["models"].as_object_mut().unwrap().remove("backbone");
        let error = load(&value, &[]).unwrap_err().to_string();
        assert!(
            error.contains("is missing, expected text that is not empty, or an object"),
            "{error}"
        );
    }

    #[test]
    fn names_an_unknown_field_by_pointer() {
        let mut value = example();
        value["method"]["stepz"] = json!(3);
        let error = load(&value, &[]).unwrap_err();
        assert_eq!(pointers(&error), ["/method/stepz"]);
        assert!(
            error.to_string().contains("did you mean `steps`?"),
            "{error}"
        );
    }

    #[test]
    fn finds_every_fault_at_once() {
        let mut value = example();
        value["seed"] = json!("seven");
        value["method"]["draws"] = json!(-1);
        let error = load(&value, &[]).unwrap_err();
        assert_eq!(pointers(&error), ["/method/draws", "/seed"]);
    }

    #[test]
    fn tells_faults_of_the_schema_beside_contradictions() {
        let mut value = example();
        value["method"]["draws"] = json!(0);
        value["models"].as_object_mut().unwrap().remove("denoiser");
        value["adaptation"]["mode"] = json!({"kind": "online", "reset": {"every": 3}});
        value["adaptation"]["batch"] = json!(2);
        value["data"]["stream"]["samples"] = json!(0);
        let error = load(&value, &[]).unwrap_err();
        assert_eq!(pointers(&error), ["/data/stream/samples", "/method/draws",]);
        value["method"]["draws"] = json!(1);
        let error = load(&value, &[]).unwrap_err();
        assert_eq!(
            pointers(&error),
            [
                "/adaptation/mode/reset/every",
                "/data/stream/samples",
                "/models/denoiser",
            ]
        );
    }

    #[test]
    fn refuses_numbers_that_would_take_all_memory_or_are_none() {
        for (override_, pointer) in [
            ("method.draws=1099511627776", "/method/draws"),
            ("method.micro_batch=0", "/method/micro_batch"),
            ("method.steps=1099511627776", "/method/steps"),
            ("adaptation.batch=0", "/adaptation/batch"),
            ("adaptation.batch=1e9", "/adaptation/batch"),
            (
                "method.optimizer.learning_rate=-1",
                "/method/optimizer/learning_rate",
            ),
            ("method.optimizer.epsilon=0", "/method/optimizer/epsilon"),
            (
                "method.optimizer.betas=[0.9,1]",
                "/method/optimizer/betas/1",
            ),
            ("seed=18446744073709551616", "/seed"),
            ("seed=1e3", "/seed"),
        ] {
            let error = load(&example(), &[override_]).unwrap_err();
            assert_eq!(pointers(&error), [pointer], "{error}");
            let from = format!("(from `--set {override_}`)");
            assert!(error.to_string().contains(&from), "{error}");
        }
        let sgd = r#"method.optimizer={"kind": "sgd", "learning_rate": 1, "momentum": 2}"#;
        let error = load(&example(), &[sgd]).unwrap_err();
        assert_eq!(pointers(&error), ["/method/optimizer/momentum"]);
        // Each is allowed; all together are not.
        let many = ["method.draws=65536", "adaptation.batch=65536"];
        assert_eq!(
            pointers(&load(&example(), &many).unwrap_err()),
            ["/method/draws"]
        );
    }

    #[test]
    fn looks_into_the_alternative_that_was_meant() {
        let mut value = example();
        value["method"]["optimizer"] = json!({"kind": "adam", "learning_rate": "fast"});
        let error = load(&value, &[]).unwrap_err();
        assert_eq!(
            pointers(&error),
            ["/method/optimizer/learning_rate"],
            "{error}"
        );
        value["method"]["optimizer"] = json!({"kind": "adagrad", "learning_rate": 1});
        let error = load(&value, &[]).unwrap_err();
        assert_eq!(pointers(&error), ["/method/optimizer/kind"]);
        assert!(
            error.to_string().contains("`sgd`, `adam`, `adamw`"),
            "{error}"
        );
    }

    #[test]
    fn overrides_by_either_kind_of_pointer() {
        let experiment = load(&example(), &["method.steps=3", "/seed=9", "name=other"]).unwrap();
        assert_eq!(
            (
                experiment.method.config["steps"].clone(),
                experiment.seed,
                experiment.name.as_str()
            ),
            (json!(3), 9, "other")
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
            "method.steps",
            "a..b=1",
            "data.stream.domains.7.name=x",
            "name.first=x",
        ] {
            assert!(
                matches!(
                    load(&example(), &[text]),
                    Err(Error::Base(dtta_base::Error::Override { .. }))
                ),
                "{text}"
            );
        }
        assert_eq!(
            pointers(&load(&example(), &["method.stepz=1"]).unwrap_err()),
            ["/method/stepz"]
        );
    }

    #[test]
    fn refuses_what_contradicts_itself() {
        let error = load(&example(), &["method.timesteps={\"range\": [600, 150]}"]).unwrap_err();
        assert_eq!(pointers(&error), ["/method/timesteps/range"]);
        let adam = r#"{"optimizer": {"kind": "adam", "learning_rate": 1e-4}}"#;
        let both = [
            r#"adaptation.mode={"kind": "single_sample"}"#,
            "adaptation.batch=2",
            &format!("method.denoiser={adam}"),
        ];
        assert_eq!(
            pointers(&load(&example(), &both).unwrap_err()),
            ["/method/denoiser"]
        );
    }

    #[test]
    fn refuses_methods_that_lack_what_they_ask_for() {
        let mut value = example();
        value["models"].as_object_mut().unwrap().remove("denoiser");
        value["plugins"].as_object_mut().unwrap().remove("mapper");
        let error = load(&value, &[]).unwrap_err();
        assert_eq!(pointers(&error), ["/models/denoiser", "/plugins/mapper"]);
        let tent = json!({"kind": "entropy", "optimizer": {"kind": "sgd", "learning_rate": 1e-3}});
        value["method"] = tent;
        load(&value, &[]).unwrap();
        let error = load(&value, &["method.kind=tentt"]).unwrap_err();
        assert_eq!(pointers(&error), ["/method/kind"]);
        assert!(error.to_string().contains("`entropy`"), "{error}");
        assert_eq!(
            pointers(&load(&value, &["method.draws=3"]).unwrap_err()),
            ["/method/draws"]
        );
    }

    #[test]
    fn tells_where_text_is_not_json() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broken.json");
        fs::write(&path, "{\n  \"name\": }").unwrap();
        let error = Document::load(&path, &[], &Methods::standard()).unwrap_err();
        let error = dtta_base::told(&error);
        assert!(
            error.contains("broken.json") && error.contains("line 2"),
            "{error}"
        );
    }
}

//! The table of methods: from the `kind` of an experiment to what makes the method, and to the schema of its configuration. Embedders add
//! rows; see the example `register_a_method`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use dtta_base::{Issue, parse};
use dtta_learn::SelectionConfig;
use schemars::generate::SchemaGenerator;
use schemars::{JsonSchema, Schema, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    CottaConfig, DeyoConfig, DiffusionClassifierConfig, DiffusionConfig, DusaConfig, EataConfig,
    EntropyConfig, MemoConfig, Method, MethodConfig, ObjectivesConfig, RoidConfig, RottaConfig,
    SarConfig, Setting, SourceConfig, TttMaeConfig,
};
use crate::experiment::AdaptationConfig;

/// A method as an experiment names it: its `kind` and that method's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MethodSource {
    /// Which method.
    pub kind: String,
    /// Its configuration.
    #[serde(flatten)]
    pub config: Map<String, Value>,
}

impl MethodSource {
    /// A method with this configuration, as an experiment would name it.
    pub fn of<C: MethodConfig>(config: &C) -> Self {
        let config = match serde_json::to_value(config) {
            Ok(Value::Object(config)) => config,
            _ => Map::new(),
        };
        Self {
            kind: C::KIND.into(),
            config,
        }
    }
}

/// Which object it is depends on the methods that a program knows: [`Methods`] puts them in.
impl JsonSchema for MethodSource {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Method".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object" })
    }
}

/// The methods that a program knows.
#[derive(Clone)]
pub struct Methods(BTreeMap<&'static str, Arc<dyn Row>>);

impl Methods {
    /// Those that come with dtta.
    pub fn standard() -> Self {
        let mut methods = Self(BTreeMap::new());
        methods.add::<CottaConfig>();
        methods.add::<DeyoConfig>();
        methods.add::<DiffusionClassifierConfig>();
        methods.add::<DiffusionConfig>();
        methods.add::<DusaConfig>();
        methods.add::<EataConfig>();
        methods.add::<EntropyConfig>();
        methods.add::<MemoConfig>();
        methods.add::<ObjectivesConfig>();
        methods.add::<RoidConfig>();
        methods.add::<RottaConfig>();
        methods.add::<SarConfig>();
        methods.add::<SourceConfig>();
        methods.add::<TttMaeConfig>();
        methods
    }

    /// Adds a method, in the place of one of the same kind.
    pub fn add<C: MethodConfig>(&mut self) {
        self.0.insert(C::KIND, Arc::new(Of::<C>::default()));
    }

    /// The kinds there are.
    pub fn kinds(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }

    /// The schema of `/method`: one of the methods, told apart by `kind`.
    pub(crate) fn schema(&self, generator: &mut SchemaGenerator) -> Value {
        let each = self.0.values().map(|row| row.schema(generator).to_value());
        json!({ "oneOf": each.collect::<Vec<Value>>() })
    }

    /// The configuration that a source holds.
    ///
    /// # Errors
    /// Every fault, by pointer within `/method`.
    pub(crate) fn config(&self, source: &MethodSource) -> Result<Box<dyn AnyConfig>, Vec<Issue>> {
        match self.0.get(source.kind.as_str()) {
            Some(row) => row.parse(Value::Object(source.config.clone())),
            None => {
                let kinds: Vec<&str> = self.kinds().collect();
                let message = format!("`{}` is none of {}", source.kind, kinds.join(", "));
                Err(vec![Issue::new("/kind", message)])
            }
        }
    }
}

impl Default for Methods {
    fn default() -> Self {
        Self::standard()
    }
}

impl fmt::Debug for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

/// A method's configuration, whichever it is.
pub(crate) trait AnyConfig: Send {
    fn needs_denoiser(&self) -> bool;
    fn parameters(&self) -> Option<&SelectionConfig>;
    fn denoiser_parameters(&self) -> Option<&SelectionConfig>;
    fn contradictions(&self, adaptation: &AdaptationConfig) -> Vec<Issue>;
    fn build(&self, setting: &Setting<'_>) -> Result<Box<dyn Method>, Vec<Issue>>;
    fn in_words(&self) -> String;
}

impl<C: MethodConfig> AnyConfig for C {
    fn needs_denoiser(&self) -> bool {
        C::NEEDS_DENOISER
    }

    fn parameters(&self) -> Option<&SelectionConfig> {
        MethodConfig::parameters(self)
    }

    fn denoiser_parameters(&self) -> Option<&SelectionConfig> {
        MethodConfig::denoiser_parameters(self)
    }

    fn contradictions(&self, adaptation: &AdaptationConfig) -> Vec<Issue> {
        MethodConfig::contradictions(self, adaptation)
    }

    fn build(&self, setting: &Setting<'_>) -> Result<Box<dyn Method>, Vec<Issue>> {
        MethodConfig::build(self, setting)
    }

    fn in_words(&self) -> String {
        MethodConfig::in_words(self)
    }
}

/// A row of the table.
trait Row: Send + Sync {
    fn schema(&self, generator: &mut SchemaGenerator) -> Schema;
    fn parse(&self, config: Value) -> Result<Box<dyn AnyConfig>, Vec<Issue>>;
}

/// The row of a configuration's type.
struct Of<C>(std::marker::PhantomData<fn() -> C>);

impl<C> Default for Of<C> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<C: MethodConfig> Row for Of<C> {
    fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        let mut schema = C::json_schema(generator);
        let kind = json!({ "type": "string", "const": C::KIND });
        let object = schema.ensure_object();
        let mut properties = Map::from_iter([("kind".to_owned(), kind)]);
        if let Some(Value::Object(own)) = object.remove("properties") {
            properties.extend(own);
        }
        object.insert("properties".into(), Value::Object(properties));
        let mut required = vec![json!("kind")];
        if let Some(Value::Array(own)) = object.remove("required") {
            required.extend(own);
        }
        object.insert("required".into(), Value::Array(required));
        schema
    }

    fn parse(&self, config: Value) -> Result<Box<dyn AnyConfig>, Vec<Issue>> {
        Ok(Box::new(parse::<C>(config)?))
    }
}

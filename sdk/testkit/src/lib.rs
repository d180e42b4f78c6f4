//! What every plugin is held to, whatever its loader: that it says who it is, refuses what it does
//! not know, answers the same twice, lets gradients through and keeps nothing, and that a metric can
//! be merged in any order. Run in a plugin's own tests, and by `dtta plugins check`.
//!
//! ```no_run
//! # fn plugin_entry() {}
//! # #[cfg(any())]
//! #[test]
//! fn conforms() {
//!     dtta_testkit::Kit::linked("mine", plugin_entry).check().expect_passed();
//! }
//! ```

mod inputs;
mod metric;
mod pure;

use std::fmt;

use dtta_plugin::{Environment, Plugin, PluginError};
use dtta_tensor::Device;
use serde::Serialize;
use serde_json::{Map, Value, json};

pub use dtta_plugin::Role;
pub use inputs::{Inputs, TensorSpec};

/// A plugin with what it is tried on.
pub struct Kit {
    plugin: Plugin,
    configs: Map<String, Value>,
    inputs: Option<Inputs>,
}

/// What came of the checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The plugin's name.
    pub plugin: String,
    /// How it was loaded.
    pub loader: String,
    /// Every check that was made.
    pub checks: Vec<Check>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The role, or `plugin`.
    pub of: String,
    /// What should hold.
    pub name: String,
    /// Why it does not; absent if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// What it was tried on and refused, where it is tried on several things.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refusal>,
}

/// Something that a role was tried on, and did not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// What it was tried on.
    pub on: String,
    /// How far it got.
    pub at: Stage,
    /// Why it got no further.
    pub why: String,
}

/// The way of a role that is tried, from its first step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Its inputs are made.
    Inputs,
    /// It is created.
    Creation,
    /// It is called.
    Call,
}

impl Kit {
    /// For a plugin that is loaded already.
    pub fn new(plugin: Plugin) -> Self {
        Self {
            plugin,
            configs: Map::new(),
            inputs: None,
        }
    }

    /// For a plugin's own tests: its entry, without any loading.
    ///
    /// # Panics
    /// If the plugin cannot be loaded.
    pub fn linked(name: &str, entry: dtta_abi::Entry) -> Self {
        match Plugin::linked(name, entry) {
            Ok(plugin) => Self::new(plugin),
            Err(error) => panic!("{error}"),
        }
    }

    /// The configuration to try a role with, instead of `{}`.
    #[must_use]
    pub fn config(mut self, role: Role, config: Value) -> Self {
        self.configs.insert(role.name().into(), config);
        self
    }

    /// What to try it on, instead of the examples of [`Inputs`].
    #[must_use]
    pub fn inputs(mut self, inputs: Inputs) -> Self {
        self.inputs = Some(inputs);
        self
    }

    /// Makes every check.
    pub fn check(&self) -> Report {
        let mut report = Report {
            plugin: self.plugin.name().into(),
            loader: self.plugin.loader().to_string(),
            checks: Vec::new(),
        };
        report.add("plugin", "its description is in order", self.description());
        for &role in self.plugin.roles() {
            let of = role.name();
            report.add(
                of,
                "its schema takes its config and no unknown field",
                self.schema(role),
            );
            let candidates = match &self.inputs {
                Some(inputs) => vec![("what was given", inputs.clone())],
                None => self.examples(role),
            };
            // The first example that the role takes.
            let mut refused = Vec::new();
            let mut taken = false;
            for (on, inputs) in &candidates {
                match self.attempt(role, inputs) {
                    Ok(()) => {
                        self.behaviour(role, inputs, &mut report);
                        taken = true;
                        break;
                    }
                    Err((at, why)) => refused.push(Refusal {
                        on: (*on).into(),
                        at,
                        why,
                    }),
                }
            }
            report.checks.push(Check {
                of: of.into(),
                name: "it can be created and called".into(),
                failure: (!taken).then(|| furthest(&refused)),
                refused,
            });
        }
        report
    }

    /// The examples that a role may be made for, those first whose target has the type that the plugin says it predicts. A head is tried on no
    /// others: there its mistakes would be told as what does not fit there.
    fn examples(&self, role: Role) -> Vec<(&'static str, Inputs)> {
        let Some(predicts) = self.plugin.predicts() else {
            return Inputs::examples();
        };
        let (mut fitting, others): (Vec<_>, Vec<_>) = Inputs::examples()
            .into_iter()
            .partition(|(_, inputs)| inputs.has_target(&predicts.target));
        if fitting.is_empty() || role != Role::Head {
            fitting.extend(others);
        }
        fitting
    }

    fn description(&self) -> Result<(), String> {
        let descriptor = self.plugin.descriptor();
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if descriptor.name.is_empty() || !descriptor.name.chars().all(is_word) {
            return Err(format!("the name `{}` is not a word", descriptor.name));
        }
        if descriptor.version.split('.').count() != 3 {
            return Err(format!(
                "`{}` is not a version of three numbers",
                descriptor.version
            ));
        }
        for role in &descriptor.roles {
            if !descriptor.config_schema.contains_key(role) {
                return Err(format!("there is no config schema for `{role}`"));
            }
        }
        Ok(())
    }

    fn schema(&self, role: Role) -> Result<(), String> {
        let mut config = self.config_of(role);
        if let Err(issues) = self.plugin.validate_config(role, &config) {
            let plugin = self.plugin.name().into();
            let refused = PluginError::Config {
                plugin,
                role,
                issues,
            };
            return Err(format!("{refused}; give another config than {config}"));
        }
        let Some(fields) = config.as_object_mut() else {
            return Err(format!("it takes {config}, which is not an object"));
        };
        fields.insert("a_field_that_nobody_knows".into(), json!(1));
        match self.plugin.validate_config(role, &config) {
            Err(_) => Ok(()),
            Ok(()) => Err(
                "it takes a field that nobody knows; mark the config `#[serde(deny_unknown_fields)]`".into(),
            ),
        }
    }

    fn config_of(&self, role: Role) -> Value {
        let config = self.configs.get(role.name());
        config.cloned().unwrap_or_else(|| Value::Object(Map::new()))
    }

    fn environment(&self, inputs: &Inputs) -> Result<Environment, String> {
        let mut environment = Environment::new(Device::cpu());
        for (name, constant) in inputs.named(&inputs.constants)? {
            environment = environment.with_constant(name, constant);
        }
        Ok(environment)
    }

    /// Creates a role and calls it once; or how far it got, and why no further.
    fn attempt(&self, role: Role, inputs: &Inputs) -> Result<(), (Stage, String)> {
        let at = |stage| move |why| (stage, why);
        let environment = self.environment(inputs).map_err(at(Stage::Inputs))?;
        let (plugin, config) = (&self.plugin, self.config_of(role));
        let created = match role {
            Role::Head => plugin.head(&config, &environment).map(drop),
            Role::Mapper => plugin
                .mapper(&config, &inputs.slots, &environment)
                .map(drop),
            Role::Objective => plugin.objective(&config, &environment).map(drop),
            Role::Metric => plugin.metric(&config, &environment).map(drop),
        };
        created.map_err(|error| (Stage::Creation, error.to_string()))?;
        let called = match role {
            Role::Head => pure::Called::head(plugin, &config, &environment, inputs).map(drop),
            Role::Mapper => pure::Called::mapper(plugin, &config, &environment, inputs).map(drop),
            Role::Objective => {
                pure::Called::objective(plugin, &config, &environment, inputs).map(drop)
            }
            Role::Metric => metric::call(plugin, &config, &environment, inputs),
        };
        called.map_err(at(Stage::Call))
    }

    fn behaviour(&self, role: Role, inputs: &Inputs, report: &mut Report) {
        let of = role.name();
        let (config, environment) = (self.config_of(role), self.environment(inputs));
        let environment = match environment {
            Ok(environment) => environment,
            Err(failure) => return report.add(of, "its inputs can be made", Err(failure)),
        };
        let plugin = &self.plugin;
        if role == Role::Metric {
            for (name, outcome) in metric::laws(plugin, &config, &environment, inputs) {
                report.add(of, name, outcome);
            }
            return;
        }
        let call = || match role {
            Role::Head => pure::Called::head(plugin, &config, &environment, inputs),
            Role::Mapper => pure::Called::mapper(plugin, &config, &environment, inputs),
            _ => pure::Called::objective(plugin, &config, &environment, inputs),
        };
        for (name, outcome) in pure::laws(&call) {
            report.add(of, name, outcome);
        }
        if role == Role::Head {
            let outcome = pure::predicts(plugin, &config, &environment, inputs);
            report.add(of, "it predicts from its own outputs", outcome);
        }
    }
}

/// The refusals that matter: those of the examples that got furthest. One that is told of all of them is told once.
fn furthest(refused: &[Refusal]) -> String {
    let Some(at) = refused.iter().map(|refusal| refusal.at).max() else {
        return "there is nothing to try it on".into();
    };
    let last = refused.iter().filter(|refusal| refusal.at == at);
    let last: Vec<&Refusal> = last.collect();
    if last.iter().all(|refusal| refusal.why == last[0].why) {
        return last[0].why.clone();
    }
    let told = last
        .iter()
        .map(|refusal| format!("on {}: {}", refusal.on, refusal.why));
    told.collect::<Vec<_>>().join("; ")
}

impl Report {
    fn add(&mut self, of: &str, name: &str, outcome: Result<(), String>) {
        self.checks.push(Check {
            of: of.into(),
            name: name.into(),
            failure: outcome.err(),
            refused: Vec::new(),
        });
    }

    /// Whether all of them hold.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.failure.is_none())
    }

    /// For tests.
    ///
    /// # Panics
    /// With every failure, if there is one.
    pub fn expect_passed(&self) {
        assert!(self.passed(), "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({})", self.plugin, self.loader)?;
        for check in &self.checks {
            let Check {
                of, name, failure, ..
            } = check;
            match failure {
                None => writeln!(f, "  ok      {of}: {name}")?,
                Some(failure) => writeln!(f, "  FAILED  {of}: {name}: {failure}")?,
            }
        }
        Ok(())
    }
}

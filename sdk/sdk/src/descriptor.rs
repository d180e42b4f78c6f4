//! Who the plugin is: the document that `describe` returns and `plugin.json` repeats.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::roles::{Head, Mapper, Metric, Objective};
use crate::task::{Predicts, Score};

/// What [`export_plugin!`](crate::export_plugin) collects about a plugin.
#[derive(Clone, Copy)]
pub struct Plugin {
    package: &'static str,
    version: &'static str,
    description: &'static str,
    head: Option<Role>,
    mapper: Option<Role>,
    objective: Option<Role>,
    metric: Option<Role>,
    predicts: Option<Predicts>,
    scores: &'static [Score],
    additive: bool,
    #[cfg(not(target_family = "wasm"))]
    pub(crate) tables: crate::native::RoleTables,
}

#[derive(Clone, Copy)]
struct Role {
    schema: fn() -> Value,
    constants: &'static [&'static str],
}

impl Plugin {
    /// A plugin that plays no role yet, named after its package without `dtta-plugin-`.
    pub const fn new(
        package: &'static str,
        version: &'static str,
        description: &'static str,
    ) -> Self {
        Self {
            package,
            version,
            description,
            head: None,
            mapper: None,
            objective: None,
            metric: None,
            predicts: None,
            scores: &[],
            additive: false,
            #[cfg(not(target_family = "wasm"))]
            tables: crate::native::RoleTables::NONE,
        }
    }

    /// Adds the task head.
    #[must_use]
    pub const fn head<H: Head>(mut self) -> Self {
        self.head = Some(Role {
            schema: schema::<H::Config>,
            constants: H::CONSTANTS,
        });
        self.predicts = H::PREDICTS;
        #[cfg(not(target_family = "wasm"))]
        {
            self.tables.head = Some(crate::native::head_table::<H>());
        }
        self
    }

    /// Adds the mapper.
    #[must_use]
    pub const fn mapper<M: Mapper>(mut self) -> Self {
        self.mapper = Some(Role {
            schema: schema::<M::Config>,
            constants: M::CONSTANTS,
        });
        #[cfg(not(target_family = "wasm"))]
        {
            self.tables.mapper = Some(crate::native::mapper_table::<M>());
        }
        self
    }

    /// Adds the objective.
    #[must_use]
    pub const fn objective<O: Objective>(mut self) -> Self {
        self.objective = Some(Role {
            schema: schema::<O::Config>,
            constants: O::CONSTANTS,
        });
        #[cfg(not(target_family = "wasm"))]
        {
            self.tables.objective = Some(crate::native::objective_table::<O>());
        }
        self
    }

    /// Adds the metric.
    #[must_use]
    pub const fn metric<M: Metric>(mut self) -> Self {
        self.metric = Some(Role {
            schema: schema::<M::Config>,
            constants: M::CONSTANTS,
        });
        self.scores = M::SCORES;
        self.additive = M::ADDITIVE;
        #[cfg(not(target_family = "wasm"))]
        {
            self.tables.metric = Some(crate::native::metric_table::<M>());
        }
        self
    }

    /// The descriptor, a JSON object.
    pub fn describe(&self) -> String {
        let roles = [
            ("head", self.head),
            ("mapper", self.mapper),
            ("objective", self.objective),
            ("metric", self.metric),
        ];
        let mut names = Vec::new();
        let mut schemas = serde_json::Map::new();
        let mut constants: Vec<&str> = Vec::new();
        for (name, role) in roles {
            let Some(role) = role else { continue };
            names.push(name);
            schemas.insert(name.into(), (role.schema)());
            constants.extend(role.constants);
        }
        constants.sort_unstable();
        constants.dedup();
        let mut document = json!({
            "name": self.package.strip_prefix("dtta-plugin-").unwrap_or(self.package),
            "version": self.version,
            "description": self.description,
            "interface": dtta_abi::INTERFACE,
            "roles": names,
            "config_schema": schemas,
            "needs": { "constants": constants },
        });
        if let Some(predicts) = self.predicts {
            document["predicts"] = json!(predicts);
        }
        if !self.scores.is_empty() {
            document["scores"] = json!(self.scores);
        }
        if self.additive {
            document["additive"] = true.into();
        }
        document.to_string()
    }
}

fn schema<C: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<C>()
        .to_value()
}

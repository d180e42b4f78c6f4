//! For conformance tests: a head that answers with the operation that its configuration names.

use dtta_sdk::by_name::{self, Attribute};
use dtta_sdk::prelude::*;

/// Which operation.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Its name in the table; or `panic`, which gives operand `0` back, and panics where that has one row.
    operation: String,
    /// For each tensor operand, whether it is given: under its place, from `0`.
    operands: Vec<bool>,
    /// Its attributes.
    attributes: Vec<WrittenAttribute>,
}

/// An attribute as JSON.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WrittenAttribute {
    /// An optional one that was left out.
    None,
    /// A whole number.
    Int(i64),
    /// A real number.
    Float(f64),
    /// Axes, extents, or a pair.
    Ints(Vec<i64>),
}

/// `forward` gives the operation's outputs as `0` and `1`.
pub struct Probe {
    config: Config,
    attributes: Vec<Attribute>,
}

impl Head for Probe {
    type Config = Config;

    fn create(config: Config) -> Result<Self> {
        let attributes = config.attributes.iter().map(|attribute| match attribute {
            WrittenAttribute::None => Attribute::None,
            WrittenAttribute::Int(value) => Attribute::Int(*value),
            WrittenAttribute::Float(value) => Attribute::Float(*value),
            WrittenAttribute::Ints(values) => Attribute::Ints(values.clone()),
        });
        Ok(Self {
            attributes: attributes.collect(),
            config,
        })
    }

    fn forward(&self, inputs: &Named, _session: &Session) -> Result<Named> {
        if self.config.operation == "panic" {
            let operand = inputs.get("0")?;
            assert!(operand.shape()?[0] != 1, "told to panic on one row");
            return Ok(Named::one("0", operand.share()?));
        }
        let operands = self.config.operands.iter().enumerate();
        let operands = operands
            .map(|(place, given)| given.then(|| inputs.get(&place.to_string())).transpose())
            .collect::<Result<Vec<_>>>()?;
        let outputs = by_name::apply(&self.config.operation, &operands, &self.attributes)?;
        let named = outputs.into_iter().enumerate();
        Ok(named
            .map(|(place, tensor)| (place.to_string(), tensor))
            .collect())
    }

    fn predict(&self, _outputs: &Named, _session: &Session) -> Result<Named> {
        Ok(Named::new())
    }
}

export_plugin! { head: Probe }

//! A method of one's own, registered without touching the engine: it makes the source model surer of what it says, by a factor. It is small,
//! not good.
//!
//!     cargo run --release -p dtta --example register_a_method

use dtta::{Adapted, Batch, Method, MethodConfig, Methods, Setting, State, Toolbox, schema};
use dtta_base::Issue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Task outputs times a factor.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NormConfig {
    /// The factor, less 1.
    #[schemars(range(min = 0, max = 1))]
    rate: f64,
}

impl MethodConfig for NormConfig {
    const KIND: &'static str = "feature_norm";
    const NEEDS_DENOISER: bool = false;

    fn build(&self, _: &Setting<'_>) -> Result<Box<dyn Method>, Vec<Issue>> {
        Ok(Box::new(Norm {
            config: self.clone(),
        }))
    }

    fn in_words(&self) -> String {
        format!("feature norm at {}", self.rate)
    }
}

/// The method itself: it carries nothing from batch to batch.
struct Norm {
    config: NormConfig,
}

impl Method for Norm {
    fn adapt(&mut self, tools: &mut Toolbox, batch: &Batch<'_>) -> dtta::Result<Adapted> {
        let images = batch.ids.len();
        let outputs = tools.source_outputs(&batch.task, false)?;
        let source = tools.predict(&outputs, images)?;
        let scaled = outputs.try_map(|output| output.affine(1.0 + self.config.rate, 0.0))?;
        let mut found = Adapted::unchanged(source);
        found.adapted = tools.predict(&scaled, images)?;
        Ok(found)
    }

    fn steps(&self) -> usize {
        0
    }

    fn reset(&mut self, _: &Toolbox) {}

    fn state(&self) -> State {
        State::new()
    }

    fn restore(&mut self, state: State) -> dtta::Result<()> {
        Ok(state.finish()?)
    }
}

fn main() {
    let mut methods = Methods::standard();
    methods.add::<NormConfig>();
    let kinds: Vec<&str> = methods.kinds().collect();
    eprintln!("methods: {}", kinds.join(", "));
    // Experiments with `"method": {"kind": "feature_norm", "rate": 0.1}` now load by `Document::load(path, &[], &methods)`.
    assert!(schema(&methods).to_string().contains("feature_norm"));
}

//! The source model as it is: the row every other method is compared with. With `/adaptation/batch_norm` as `batch` or `{"mixed": α}` it
//! is the adaptation of statistics alone (Schneider et al., NeurIPS 2020, arXiv:2006.16971; Nado et al. 2020, arXiv:2006.10963).

use dtta_base::Issue;
use dtta_learn::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Adapted, Batch, Method, MethodConfig, Setting, Toolbox};
use crate::error::Result;
use crate::experiment::Mode;

/// The source model without any step: what others are compared with. `/adaptation/batch_norm` still says which statistics BatchNorm layers
/// take, so with `batch` or `mixed` this is the adaptation of statistics alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {}

impl MethodConfig for SourceConfig {
    const KIND: &'static str = "source";
    const NEEDS_DENOISER: bool = false;

    fn build(&self, setting: &Setting<'_>) -> Result<Box<dyn Method>, Vec<Issue>> {
        Ok(Box::new(Source {
            alone: setting.adaptation.mode == (Mode::SingleSample {}),
        }))
    }

    fn in_words(&self) -> String {
        "source".into()
    }
}

struct Source {
    alone: bool,
}

impl Method for Source {
    fn steps(&self) -> usize {
        0
    }

    fn adapt(&mut self, tools: &mut Toolbox, batch: &Batch<'_>) -> Result<Adapted> {
        let outputs = tools.source_outputs(&batch.task, self.alone)?;
        let source = tools.predict(&outputs, batch.ids.len())?;
        Ok(Adapted::unchanged(source))
    }

    fn reset(&mut self, _: &Toolbox) {}

    fn state(&self) -> State {
        State::new()
    }

    fn restore(&mut self, state: State) -> Result<()> {
        Ok(state.finish()?)
    }
}

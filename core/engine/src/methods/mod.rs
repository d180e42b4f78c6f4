//! Methods: how θ follows a batch. One file each; this one holds what they have in common and the table of those there are.
//!
//! A method is made from its configuration, the object under `/method` of an experiment. From that one type come its part of the
//! schema, its place in the protocol and its parts of checkpoints, so that nothing of a method is written down twice.

mod classifier;
mod cotta;
mod descent;
mod deyo;
mod diffusion;
mod diffusion_classifier;
mod dusa;
mod eata;
mod entropy;
mod guarded;
mod losses;
mod memo;
mod objectives;
mod roid;
mod rotta;
mod sar;
mod source;
mod table;
mod toolbox;
mod ttt_mae;
mod under_way;

use std::collections::BTreeMap;

use dtta_base::Issue;
use dtta_learn::{Feedback, Learner, Movement, OptimizerConfig, SelectionConfig, State};
use dtta_models::{BackboneSpec, Denoiser, Weights};
use dtta_tensor::Tensor;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::cotta::CottaConfig;
pub use self::deyo::DeyoConfig;
pub use self::diffusion::{Diffusion, DiffusionConfig};
pub use self::diffusion_classifier::{DiffusionClassifierConfig, Stage};
pub use self::dusa::DusaConfig;
pub use self::eata::{EataConfig, FisherConfig};
pub use self::entropy::EntropyConfig;
pub(crate) use self::guarded::Guarded;
pub use self::guarded::{Collapse, SafeguardsConfig};
pub use self::memo::MemoConfig;
pub use self::objectives::ObjectivesConfig;
pub use self::roid::RoidConfig;
pub use self::rotta::RottaConfig;
pub use self::sar::SarConfig;
pub use self::source::SourceConfig;
pub(crate) use self::table::AnyConfig;
pub use self::table::{MethodSource, Methods};
pub use self::toolbox::{Group, Pass, Toolbox};
pub use self::ttt_mae::TttMaeConfig;
use crate::error::Result;
use crate::experiment::AdaptationConfig;
use crate::task::{Predictions, replaced};

/// The most optimizer updates for each batch that a configuration may ask for.
const MAX_STEPS: usize = 1 << 16;

/// The default of numbers that count from 1.
fn one() -> usize {
    1
}

/// A way to adapt. It holds what it carries from batch to batch, and is lent everything else.
pub trait Method: Send {
    /// Adapts to a batch and predicts, before and after. A method whose weights a failure left half way need not mend them: the caller
    /// puts the state before the batch back.
    ///
    /// # Errors
    /// Whatever a plugin, a model or a tensor operation refuses; [`Error::NotFinite`](crate::Error::NotFinite).
    fn adapt(&mut self, tools: &mut Toolbox, batch: &Batch<'_>) -> Result<Adapted>;

    /// Back to the source weights, optimizers at rest: where an episode begins.
    fn reset(&mut self, tools: &Toolbox);

    /// Everything that the next batch depends on, by name.
    fn state(&self) -> State;

    /// Takes up a state.
    ///
    /// # Errors
    /// [`dtta_learn::Error::Missing`] and [`dtta_learn::Error::Unknown`] for the state of another method or model.
    fn restore(&mut self, state: State) -> Result<()>;

    /// Updates that it makes for each batch.
    fn steps(&self) -> usize;

    /// Whether it leaves the further steps of settled predictions out where [`SafeguardsConfig::stop_when_stable`] asks for it.
    fn stops_when_stable(&self) -> bool {
        false
    }

    /// What it carries of θ over the stream, for safeguards that move it; nothing where each sample starts afresh.
    fn learner(&mut self) -> Option<&mut Learner> {
        None
    }

    /// φ on its way, where the denoiser adapts.
    fn denoiser_learner(&mut self) -> Option<&mut Learner> {
        None
    }

    /// How it asks the denoiser, where it does.
    fn feedback(&self) -> Option<Feedback> {
        None
    }

    /// Which sample of a domain of so many the denoiser sees in the place of another; itself, unless a control asks otherwise.
    fn shown(&self, place: usize, _samples: usize) -> usize {
        place
    }
}

/// A method's configuration: the object under `/method`, without its `kind`.
pub trait MethodConfig:
    Serialize + DeserializeOwned + JsonSchema + Clone + Send + Sync + 'static
{
    /// Its `kind`.
    const KIND: &'static str;

    /// Whether it asks a denoiser for feedback. One that does not can run without `/models/denoiser` and `/plugins/mapper`.
    const NEEDS_DENOISER: bool;

    /// The choice of what moves of the task model, at `/parameters`, where there is one: factors of low rank that it asks for are among the
    /// weights when the method is built.
    fn parameters(&self) -> Option<&SelectionConfig> {
        None
    }

    /// The choice of what moves of the denoiser, at `/denoiser/parameters`, likewise.
    fn denoiser_parameters(&self) -> Option<&SelectionConfig> {
        None
    }

    /// What a schema cannot say, by pointer within this object. Nothing is loaded yet.
    fn contradictions(&self, _adaptation: &AdaptationConfig) -> Vec<Issue> {
        Vec::new()
    }

    /// The method.
    ///
    /// # Errors
    /// What does not fit the models, by pointer within this object.
    fn build(&self, setting: &Setting<'_>) -> std::result::Result<Box<dyn Method>, Vec<Issue>>;

    /// In a few words, for the last line of a run.
    fn in_words(&self) -> String;
}

/// What a method is made for.
pub struct Setting<'a> {
    /// The run's seed.
    pub seed: u64,
    /// How long weights live, and how many samples are adapted together.
    pub adaptation: &'a AdaptationConfig,
    /// What the backbone takes and answers with.
    pub backbone: BackboneSpec,
    /// Patches of an image that the backbone can reconstruct from some of them; none if it has no decoder for it.
    pub patches: Option<usize>,
    /// θ: the weights of the task model, and of what its plugins declare.
    pub task: &'a Weights,
    /// The denoiser and its weights φ, for methods that need it.
    pub denoiser: Option<(&'a dyn Denoiser, &'a Weights)>,
    /// How many objectives there are.
    pub objectives: usize,
    /// Samples of each segment of the stream, which no batch crosses: of each domain, or where they are mixed, of all; empty where there is
    /// no stream.
    pub segments: &'a [usize],
}

impl Setting<'_> {
    /// The chosen parameters of θ with the optimizer that moves them, at rest.
    ///
    /// # Errors
    /// A selection that names nothing, by pointer within the method's configuration.
    pub fn learner(
        &self,
        optimizer: OptimizerConfig,
        parameters: &SelectionConfig,
    ) -> std::result::Result<Learner, Vec<Issue>> {
        let chosen = parameters.select("task model", self.task);
        let movement = Movement {
            optimizer,
            parameters: chosen
                .map_err(|error| vec![Issue::new("/parameters", error.to_string())])?,
        };
        Ok(Learner::new(self.task, &movement))
    }

    /// After how many updates that change no prediction a sample's further steps are left out; none are if absent.
    pub fn stop_when_stable(&self) -> Option<usize> {
        self.adaptation.safeguards?.stop_when_stable
    }
}

/// Images to adapt to.
#[derive(Clone)]
pub struct Batch<'a> {
    /// Their ids, which key the draws.
    pub ids: Vec<&'a str>,
    /// `[B, C, H, W]`, as the task model sees them.
    pub task: Tensor,
    /// `[B, C, H, W]`, as the denoiser sees them, where there is one.
    pub denoiser: Option<Tensor>,
}

impl<'a> Batch<'a> {
    /// Some of its images, in the order of `places`.
    ///
    /// # Errors
    /// Whatever a tensor operation refuses.
    pub fn select(&self, places: &[usize]) -> Result<Batch<'a>> {
        let rows: Vec<i64> = places.iter().map(|&place| place as i64).collect();
        let select = |images: &Tensor| {
            let rows = Tensor::from_ints(&rows, &[rows.len()], images.device())?;
            images.index_select(0, &rows)
        };
        Ok(Batch {
            ids: places.iter().map(|&place| self.ids[place]).collect(),
            task: select(&self.task)?,
            denoiser: self.denoiser.as_ref().map(select).transpose()?,
        })
    }
}

/// What adaptation to a batch gave.
#[derive(Debug, Clone)]
pub struct Adapted {
    /// Predictions of the source model.
    pub source: Predictions,
    /// Predictions after the last step.
    pub adapted: Predictions,
    /// The method's loss of each image in each step, before its update; empty for one that was left as it is.
    pub losses: Vec<Vec<f32>>,
    /// What else the method measured of each image, by name, such as `explained`.
    pub measures: BTreeMap<String, Vec<f32>>,
    /// Draws that went through the denoiser, forward and backward.
    pub draws: usize,
}

impl Adapted {
    /// Nothing was done.
    pub fn unchanged(source: Predictions) -> Self {
        Self {
            adapted: source.clone(),
            losses: vec![Vec::new(); source.each.len()],
            source,
            measures: BTreeMap::new(),
            draws: 0,
        }
    }

    /// Something was done to the images at `places` alone.
    ///
    /// # Errors
    /// Whatever a tensor operation refuses.
    pub fn at(
        source: Predictions,
        places: &[usize],
        adapted: Predictions,
        losses: Vec<Vec<f32>>,
    ) -> Result<Self> {
        let mut all = Self::unchanged(source);
        all.adapted = replaced(&all.source, adapted, places)?;
        for (&place, losses) in places.iter().zip(losses) {
            all.losses[place] = losses;
        }
        Ok(all)
    }
}

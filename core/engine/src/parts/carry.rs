//! What a batch leaves to the next, and so which images share θ: none in single-sample mode, all in online mode, and with slow weights
//! none again, but from where the slow ones stand.

use dtta_base::Issue;
use dtta_learn::{Learner, OptimizerConfig, SelectionConfig, State, approach};
use dtta_models::Weights;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::experiment::{AdaptationConfig, Mode};
use crate::methods::{Group, Setting};

/// Slow weights (Lookahead, Zhang et al. 2019; over samples, as in Reptile, Nichol et al. 2018): each sample has fast weights of its
/// own, which start at the slow ones with the optimizer at rest and give the sample's prediction. So a sample gains what single-sample mode
/// gives, and the stream what samples have in common, without one sample's noise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SlowWeights {
    /// How far the slow weights move towards the mean of a batch's fast weights after each batch, in (0, 1].
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1))]
    pub rate: f64,
}

impl SlowWeights {
    /// That single-sample mode carries nothing, by pointer within the method's configuration.
    pub fn contradictions(slow: Option<Self>, adaptation: &AdaptationConfig) -> Vec<Issue> {
        let mut issues = Vec::new();
        if slow.is_some() && adaptation.mode == (Mode::SingleSample {}) {
            let message = "single-sample mode carries no weights; leave `slow_weights` out";
            issues.push(Issue::new("/slow_weights", message));
        }
        issues
    }
}

/// What a batch leaves to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Left {
    /// Nothing: every image has weights of its own, which start at the source's.
    Nothing,
    /// The weights and the optimizer that all its images moved together.
    All,
    /// Slow weights, which go this share of the way.
    Slow(f64),
}

/// Weights that are carried over a stream.
pub struct Carry {
    left: Left,
    learner: Learner,
}

impl Carry {
    /// As an experiment says it.
    ///
    /// # Errors
    /// A selection that names nothing, by pointer within the method's configuration.
    pub fn new(
        setting: &Setting<'_>,
        optimizer: OptimizerConfig,
        parameters: &SelectionConfig,
        slow: Option<SlowWeights>,
    ) -> std::result::Result<Self, Vec<Issue>> {
        let left = match (setting.adaptation.mode, slow) {
            (Mode::SingleSample {}, _) => Left::Nothing,
            (Mode::Online { .. }, None) => Left::All,
            (Mode::Online { .. }, Some(slow)) => Left::Slow(slow.rate),
        };
        Ok(Self {
            left,
            learner: setting.learner(optimizer, parameters)?,
        })
    }

    /// Whether each image of a batch has weights of its own.
    pub fn apart(&self) -> bool {
        self.left != Left::All
    }

    /// What is carried over the stream; nothing where nothing outlives a batch.
    pub fn learner(&mut self) -> Option<&mut Learner> {
        (!self.forgets()).then_some(&mut self.learner)
    }

    /// Whether nothing outlives a batch.
    pub fn forgets(&self) -> bool {
        self.left == Left::Nothing
    }

    /// Back to these weights.
    pub fn reset(&mut self, source: &Weights) {
        self.learner.reset(source);
    }

    /// Where a batch begins: at the source where nothing is carried.
    pub fn begin(&mut self, source: &Weights) {
        if self.forgets() {
            self.reset(source);
        }
    }

    /// The groups of a batch's images that share weights. `paces` says how much of the step size each image is worth; images that move
    /// together do so at their mean.
    pub fn groups(&self, paces: &[f64]) -> Vec<Group> {
        let group = |range: std::ops::Range<usize>| {
            let mut learner = self.learner.clone();
            learner.set_pace(&paces[range.clone()]);
            Group { range, learner }
        };
        if self.apart() {
            (0..paces.len()).map(|n| group(n..n + 1)).collect()
        } else {
            vec![group(0..paces.len())]
        }
    }

    /// Takes up what a batch leaves.
    ///
    /// # Errors
    /// Whatever a tensor operation refuses.
    pub fn end(&mut self, mut groups: Vec<Group>) -> Result<()> {
        match self.left {
            Left::Nothing => {}
            Left::All => {
                if let Some(group) = groups.pop() {
                    self.learner = group.learner;
                }
            }
            Left::Slow(rate) => {
                let ends: Vec<&Weights> =
                    groups.iter().map(|group| group.learner.weights()).collect();
                approach(self.learner.weights_mut(), &ends, rate)?;
            }
        }
        Ok(())
    }

    /// Weights and optimizer.
    pub fn state(&self) -> State {
        self.learner.state()
    }

    /// Takes up a state.
    ///
    /// # Errors
    /// As [`Learner::restore`].
    pub fn restore(&mut self, state: State) -> Result<()> {
        Ok(self.learner.restore(state)?)
    }
}

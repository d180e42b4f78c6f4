//! EATA: Efficient Test-Time Model Adaptation without Forgetting (Niu et al., ICML 2022, arXiv:2204.02610). Entropy minimisation on samples
//! that are reliable (equation 3) and not redundant (equation 5), weighed by their certainty (equation 4), with a pull to the source
//! where its predictions depend on a parameter (equations 7 to 9).
//!
//! Where the authors' code differs from the paper, the code is followed: the Fisher information is made of squared gradients of the mean
//! loss of a batch, not of each sample's. The code estimates it from images of the training distribution; an experiment has none, so it is
//! estimated at the source weights from the first images of the stream, without labels, as both do.

use dtta_base::Issue;
use dtta_learn::{Learner, OptimizerConfig, SelectionConfig, State};
use dtta_models::Weights;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::classifier::{Classifier, Notes, Rule};
use super::losses::{entropy, logits, of_own_label, probabilities, weighed};
use super::{Batch, Method, MethodConfig, Setting, Toolbox};
use crate::error::Result;
use crate::parts::{ClassMean, Fisher};

/// EATA (Niu et al. 2022): entropy of reliable and non-redundant samples, with a Fisher term against forgetting. For classifiers; needs no
/// denoiser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EataConfig {
    /// Optimizer updates for each batch; 0 measures the source model alone.
    #[serde(default = "super::one")]
    #[schemars(range(max = super::MAX_STEPS))]
    pub steps: usize,
    /// How the task model's parameters move.
    #[serde(default = "super::classifier::sgd")]
    pub optimizer: OptimizerConfig,
    /// Which of the task model's parameters move.
    #[serde(default = "super::classifier::normalization")]
    pub parameters: SelectionConfig,
    /// Samples are reliable whose entropy is below this share of ln K, for K classes (E_0).
    #[serde(default = "margin")]
    #[schemars(range(min = 0, max = 1))]
    pub margin: f64,
    /// Samples are redundant whose class probabilities have at least this cosine with the stream's moving mean (ε): 0.05 for ImageNet, 0.4
    /// for CIFAR-10 in the paper.
    #[serde(default = "redundant")]
    #[schemars(range(min = 0, max = 1))]
    pub redundant: f64,
    /// The pull to the source.
    #[serde(default)]
    pub fisher: FisherConfig,
}

/// The pull to the source.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FisherConfig {
    /// Its weight (β): 2000 for ImageNet, 1 for CIFAR-10 in the paper; 0 is ETA.
    #[schemars(range(min = 0))]
    pub weight: f64,
    /// It is estimated from so many images, the first since the last reset.
    pub samples: usize,
}

impl Default for FisherConfig {
    fn default() -> Self {
        Self {
            weight: 2000.0,
            samples: 2000,
        }
    }
}

fn margin() -> f64 {
    0.4
}

fn redundant() -> f64 {
    0.05
}

impl MethodConfig for EataConfig {
    const KIND: &'static str = "eata";
    const NEEDS_DENOISER: bool = false;

    fn parameters(&self) -> Option<&SelectionConfig> {
        Some(&self.parameters)
    }

    fn build(&self, setting: &Setting<'_>) -> Result<Box<dyn Method>, Vec<Issue>> {
        let rule = Eata {
            config: self.clone(),
            learner: setting.learner(self.optimizer, &self.parameters)?,
            mean: ClassMean::default(),
            fisher: Fisher::default(),
        };
        Classifier::boxed(setting, Self::KIND, self.steps, rule)
    }

    fn in_words(&self) -> String {
        format!("EATA, {} steps", self.steps)
    }
}

struct Eata {
    config: EataConfig,
    learner: Learner,
    mean: ClassMean,
    fisher: Fisher,
}

impl Eata {
    /// Adds what the source makes of a batch to the Fisher information, until it has seen enough.
    fn observe(&mut self, tools: &mut Toolbox, batch: &Batch<'_>) -> Result<()> {
        let FisherConfig { weight, samples } = self.config.fisher;
        if weight == 0.0 || self.fisher.images() >= samples {
            return Ok(());
        }
        let source = self.learner.at(tools.source());
        let pass = tools.pass(&source, &batch.task)?;
        let loss = of_own_label(logits(&pass.outputs)?)?.mean(&[], false)?;
        let gradients = pass.gradients(&source, &loss)?;
        self.fisher.observe(&gradients, batch.ids.len())
    }
}

impl Rule for Eata {
    fn begin(&mut self, tools: &mut Toolbox, batch: &Batch<'_>) -> Result<()> {
        self.observe(tools, batch)
    }

    fn step(
        &mut self,
        tools: &mut Toolbox,
        batch: &Batch<'_>,
        _step: usize,
        notes: &mut Notes,
    ) -> Result<()> {
        let pass = tools.pass(&self.learner, &batch.task)?;
        let logits = logits(&pass.outputs)?;
        let margin = (self.config.margin * (logits.shape()[1] as f64).ln()) as f32;
        let entropy = entropy(logits)?;
        let entropies = entropy.detach().to_floats()?;
        let probabilities = probabilities(logits)?;
        let mut used: Vec<bool> = entropies.iter().map(|&e| e < margin).collect();
        if let Some(cosines) = self.mean.cosines(&probabilities)? {
            for (used, cosine) in used.iter_mut().zip(cosines) {
                *used &= f64::from(cosine.abs()) < self.config.redundant;
            }
        }
        let chosen = probabilities.iter().zip(&used);
        let chosen = chosen.filter_map(|(row, &used)| used.then_some(row));
        self.mean.follow(chosen, 0.9, None)?;
        notes.step(batch, &entropies, &used)?;
        let count = used.iter().filter(|&&used| used).count();
        if count == 0 {
            return Ok(());
        }
        let weights: Vec<f32> = entropies
            .iter()
            .zip(&used)
            .map(|(&e, &used)| if used { (margin - e).exp() } else { 0.0 })
            .collect();
        let mut loss = weighed(&entropy, &weights, count as f64)?;
        let parameters = self.learner.parameters();
        let weight = self.config.fisher.weight;
        let penalty = self
            .fisher
            .penalty(&pass.leaves, parameters, tools.source(), weight)?;
        if let Some(penalty) = penalty {
            loss = loss.add(&penalty)?;
        }
        pass.follow(&mut self.learner, &loss)
    }

    fn learner(&mut self) -> &mut Learner {
        &mut self.learner
    }

    fn reset(&mut self, source: &Weights) {
        self.learner.reset(source);
        self.mean = ClassMean::default();
        self.fisher = Fisher::default();
    }

    fn state(&self) -> State {
        let mut state = State::new();
        state.put("task", self.learner.state());
        state.put("classes", self.mean.state());
        state.put("fisher", self.fisher.state());
        state
    }

    fn restore(&mut self, mut state: State) -> Result<()> {
        self.learner.restore(state.take("task"))?;
        self.mean.restore(state.take("classes"))?;
        let parameters = self.learner.parameters().len();
        self.fisher.restore(state.take("fisher"), parameters)?;
        Ok(state.finish()?)
    }
}

//! DeYO: Entropy is not Enough for Test-Time Adaptation (Lee et al., ICLR 2024, arXiv:2403.07366). Entropy minimisation on samples whose
//! prediction depends on the shape of what they show: its probability falls when the image's patches are shuffled (equation 4, PLPD), weighed
//! by both (equations 6 and 7).
//!
//! Where the authors' code differs from the paper: images whose extents are no multiple of the grid are resized to one and back there; here
//! the rows and columns left over stay in place.

use dtta_base::Issue;
use dtta_learn::{Learner, OptimizerConfig, SelectionConfig, State};
use dtta_models::Weights;
use dtta_tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::classifier::{Classifier, Notes, Rule};
use super::losses::{entropy, logits, probabilities, weighed};
use super::{Batch, Method, MethodConfig, Setting, Toolbox};
use crate::error::Result;
use crate::parts::uniform;

/// DeYO (Lee et al. 2024): entropy of samples whose prediction falls when patches are shuffled. For classifiers; needs no denoiser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeyoConfig {
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
    /// Samples are considered whose entropy is below this share of ln K, for K classes (τ_Ent).
    #[serde(default = "margin")]
    #[schemars(range(min = 0, max = 1))]
    pub margin: f64,
    /// Samples are used whose probability of their class falls by more than this when patches are shuffled (τ_PLPD).
    #[serde(default = "falls")]
    #[schemars(range(min = -1, max = 1))]
    pub falls: f64,
    /// Patches along each side.
    #[serde(default = "patches")]
    #[schemars(range(min = 1, max = 256))]
    pub patches: usize,
    /// The share of ln K that entropies are weighed by (Ent_0).
    #[serde(default = "certain")]
    #[schemars(range(min = 0, max = 1))]
    pub certain: f64,
}

fn margin() -> f64 {
    0.5
}

fn falls() -> f64 {
    0.3
}

fn patches() -> usize {
    4
}

fn certain() -> f64 {
    0.4
}

impl MethodConfig for DeyoConfig {
    const KIND: &'static str = "deyo";
    const NEEDS_DENOISER: bool = false;

    fn parameters(&self) -> Option<&SelectionConfig> {
        Some(&self.parameters)
    }

    fn build(&self, setting: &Setting<'_>) -> Result<Box<dyn Method>, Vec<Issue>> {
        let [_, height, width] = setting.backbone.image;
        if self.patches > height.min(width) {
            let message = format!("is {}, more than the image's pixels", self.patches);
            return Err(vec![Issue::new("/patches", message)]);
        }
        let rule = Deyo {
            config: self.clone(),
            seed: setting.seed,
            learner: setting.learner(self.optimizer, &self.parameters)?,
        };
        Classifier::boxed(setting, Self::KIND, self.steps, rule)
    }

    fn in_words(&self) -> String {
        format!("DeYO, {} steps", self.steps)
    }
}

struct Deyo {
    config: DeyoConfig,
    seed: u64,
    learner: Learner,
}

impl Rule for Deyo {
    fn step(
        &mut self,
        tools: &mut Toolbox,
        batch: &Batch<'_>,
        step: usize,
        notes: &mut Notes,
    ) -> Result<()> {
        let pass = tools.pass(&self.learner, &batch.task)?;
        let logits_here = logits(&pass.outputs)?;
        let classes = (logits_here.shape()[1] as f64).ln();
        let margin = (self.config.margin * classes) as f32;
        let certain = (self.config.certain * classes) as f32;
        let entropy = entropy(logits_here)?;
        let entropies = entropy.detach().to_floats()?;
        let mut used: Vec<bool> = entropies.iter().map(|&e| e < margin).collect();
        let places: Vec<usize> = (0..used.len()).filter(|&row| used[row]).collect();
        let mut falls = vec![0.0; used.len()];
        if !places.is_empty() {
            // Only the considered, since layers may normalise by the batch.
            let chosen = batch.select(&places)?;
            let shuffled = shuffled(&chosen, self.config.patches, self.seed, step)?;
            let outputs = tools.outputs(self.learner.weights(), &shuffled)?;
            let after = probabilities(logits(&outputs)?)?;
            let before = probabilities(logits_here)?;
            for (after, &row) in after.iter().zip(&places) {
                let class = most_probable(&before[row]);
                falls[row] = before[row][class] - after[class];
                used[row] = f64::from(falls[row]) > self.config.falls;
            }
        }
        notes.step(batch, &entropies, &used)?;
        let count = used.iter().filter(|&&used| used).count();
        if count == 0 {
            return Ok(());
        }
        let weights: Vec<f32> = (0..used.len())
            .map(|row| match used[row] {
                true => (certain - entropies[row]).exp() + falls[row].exp(),
                false => 0.0,
            })
            .collect();
        let loss = weighed(&entropy, &weights, count as f64)?;
        pass.follow(&mut self.learner, &loss)
    }

    fn learner(&mut self) -> &mut Learner {
        &mut self.learner
    }

    fn reset(&mut self, source: &Weights) {
        self.learner.reset(source);
    }

    fn state(&self) -> State {
        self.learner.state()
    }

    fn restore(&mut self, state: State) -> Result<()> {
        Ok(self.learner.restore(state)?)
    }
}

fn most_probable(row: &[f32]) -> usize {
    (0..row.len()).fold(
        0,
        |best, class| {
            if row[class] > row[best] { class } else { best }
        },
    )
}

/// The images with their patches in another order, a function of seed, sample id and step.
fn shuffled(batch: &Batch<'_>, patches: usize, seed: u64, step: usize) -> Result<Tensor> {
    let shape = batch.task.shape();
    let [c, h, w] = [shape[1], shape[2], shape[3]];
    let (high, wide) = (h / patches, w / patches);
    let mut values = batch.task.detach().to_floats()?;
    for (id, image) in batch.ids.iter().zip(values.chunks_mut(c * h * w)) {
        let mut draw = uniform("shuffle", seed, id, [step as u64, 0]);
        let keys: Vec<f64> = (0..patches * patches).map(|_| draw()).collect();
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_by(|&a, &b| keys[a].total_cmp(&keys[b]));
        let before = image.to_vec();
        for (to, from) in order.into_iter().enumerate() {
            let corner = |patch: usize| (patch / patches * high, patch % patches * wide);
            let ((to_row, to_column), (row, column)) = (corner(to), corner(from));
            for k in 0..c {
                for y in 0..high {
                    let at = |row: usize, column: usize| (k * h + row + y) * w + column;
                    let (to, from) = (at(to_row, to_column), at(row, column));
                    image[to..to + wide].copy_from_slice(&before[from..from + wide]);
                }
            }
        }
    }
    Ok(Tensor::from_values(values, &shape, batch.task.device())?)
}

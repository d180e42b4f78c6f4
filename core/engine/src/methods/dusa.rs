//! DUSA (Li et al., NeurIPS 2024, <https://openreview.net/forum?id=c7m1HahBNf>), in its form with a frozen denoiser: the answers of the
//! denoiser under the likeliest classes are mixed in the shares that the classifier gives them, and the mixture is compared with the noise.
//! Nothing goes backward through the denoiser ([`Feedback::mixtures`]).
//!
//! As in the authors' code (BIT-DA/DUSA), shares are the softmax of logits that were brought to length 1, over the likeliest classes and a
//! few that are drawn by probability from the others. Theirs adapts the denoiser too, which this does not.

use dtta_base::{Issue, keyed_rng};
use dtta_learn::{
    AdamConfig, Draws, Feedback, Learner, LossKind, MAX_DRAWS, NoiseSharing, OptimizerConfig,
    Request, SelectionConfig, State, TimestepSampler, TimestepsConfig, range_problem,
};
use dtta_models::{Space, Weights};
use dtta_tensor::{Named, Tensor};
use rand_distr::{Distribution, Uniform};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::classifier::{Classifier, Notes, Rule};
use super::losses::{certain, logits, probabilities};
use super::{Batch, Method, MethodConfig, Setting, Toolbox};
use crate::error::{Error, Result};
use crate::experiment::AdaptationConfig;

/// DUSA with a frozen denoiser (Li et al. 2024): a mixture of the denoiser's answers under the likeliest classes. No gradient goes through the
/// denoiser, so a step costs as many forward passes for each draw as there are candidates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DusaConfig {
    /// Optimizer updates for each batch.
    #[schemars(range(max = super::MAX_STEPS))]
    pub steps: usize,
    /// Draws of (t, ε) for each sample and step.
    #[schemars(range(min = 1, max = MAX_DRAWS))]
    pub draws: usize,
    /// Candidates: so many of the likeliest classes.
    #[schemars(range(min = 1))]
    pub likely: usize,
    /// And so many of the others, drawn by their probability.
    pub random: usize,
    /// Answers that are held at once at most. Changes speed and memory, not results.
    #[schemars(range(min = 1, max = MAX_DRAWS))]
    pub micro_batch: usize,
    /// Which timesteps are drawn. As published t = 100 of 1000, which is where a classifier of latents learns most.
    pub timesteps: TimestepsConfig,
    /// Which noise is drawn.
    pub noise: NoiseSharing,
    /// What answers are compared in; what the denoiser predicts if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_space: Option<Space>,
    /// How the task model's parameters move.
    pub optimizer: OptimizerConfig,
    /// Which of the task model's parameters move.
    pub parameters: SelectionConfig,
}

impl Default for DusaConfig {
    fn default() -> Self {
        Self {
            steps: 1,
            draws: 1,
            likely: 4,
            random: 2,
            micro_batch: 64,
            timesteps: TimestepsConfig {
                sampler: TimestepSampler::Uniform,
                range: Some([100.0, 101.0]),
            },
            noise: NoiseSharing::Fresh,
            loss_space: None,
            optimizer: OptimizerConfig::Adam(AdamConfig {
                learning_rate: 1e-5,
                betas: [0.9, 0.999],
                epsilon: 1e-8,
                weight_decay: 0.0,
            }),
            parameters: SelectionConfig::default(),
        }
    }
}

impl MethodConfig for DusaConfig {
    const KIND: &'static str = "dusa";
    const NEEDS_DENOISER: bool = true;

    fn parameters(&self) -> Option<&SelectionConfig> {
        Some(&self.parameters)
    }

    fn contradictions(&self, _: &AdaptationConfig) -> Vec<Issue> {
        let problem = range_problem(self.timesteps.range);
        let issue = problem.map(|problem| Issue::new("/timesteps/range", problem));
        issue.into_iter().collect()
    }

    fn build(&self, setting: &Setting<'_>) -> Result<Box<dyn Method>, Vec<Issue>> {
        let refuse = |pointer: &str, message: &str| vec![Issue::new(pointer, message)];
        let Some((denoiser, _)) = setting.denoiser else {
            let message = "it asks a denoiser; give `/models/denoiser` and `/plugins/mapper`";
            return Err(refuse("", message));
        };
        let range = denoiser.schedule().range(self.timesteps.range);
        let range = range.map_err(|problem| refuse("/timesteps/range", &problem))?;
        let classes = setting.backbone.outputs;
        if !setting.backbone.per_pixel && self.likely > classes {
            let message = format!("is {}, the classifier has {classes} classes", self.likely);
            return Err(refuse("/likely", &message));
        }
        let feedback = Feedback {
            draws: Draws {
                seed: setting.seed,
                count: self.draws,
                sampler: self.timesteps.sampler,
                range,
                noise: self.noise,
            },
            micro_batch: self.micro_batch,
            loss: LossKind::Mse,
            space: self.loss_space,
        };
        let rule = Dusa {
            learner: setting.learner(self.optimizer, &self.parameters)?,
            feedback,
            config: self.clone(),
        };
        Classifier::boxed(setting, Self::KIND, self.steps, rule)
    }

    fn in_words(&self) -> String {
        format!(
            "DUSA, {} draws x {} steps, {} + {} classes",
            self.draws, self.steps, self.likely, self.random
        )
    }
}

struct Dusa {
    learner: Learner,
    feedback: Feedback,
    config: DusaConfig,
}

impl Dusa {
    /// The candidates of each image, all equally many: the likeliest classes, and others by their probability.
    fn candidates(
        &self,
        logits: &Tensor,
        batch: &Batch<'_>,
        step: usize,
    ) -> Result<Vec<Vec<usize>>> {
        let unit = Uniform::new(0.0, 1.0).expect("0 < 1");
        let rows = probabilities(logits)?;
        let each = rows.iter().zip(&batch.ids).map(|(row, id)| {
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            let mut others = order.split_off(self.config.likely.min(row.len()));
            let seed = self.feedback.draws.seed.to_le_bytes();
            let key: [&[u8]; 3] = [&seed, id.as_bytes(), &(step as u64).to_le_bytes()];
            let mut rng = keyed_rng("candidates", &key);
            // Exponential variables divided by their rates: the first ones are a draw without replacement by the rates.
            let mut times = vec![0.0; row.len()];
            for &class in &others {
                let u: f64 = unit.sample(&mut rng);
                times[class] = -(1.0 - u).ln() / f64::from(row[class]).max(f64::MIN_POSITIVE);
            }
            others.sort_by(|&a, &b| times[a].total_cmp(&times[b]));
            others.truncate(self.config.random);
            order.extend(others);
            order
        });
        Ok(each.collect())
    }

    /// ∂L/∂p for every class, `[B, K]`, 0 for those that are no candidates, and the loss of each image.
    fn feedback(
        &self,
        tools: &mut Toolbox,
        batch: &Batch<'_>,
        (outputs, shares): (&Named, &Tensor),
        candidates: &[Vec<usize>],
        step: usize,
    ) -> Result<(Tensor, Vec<f32>)> {
        let classes = shares.shape()[1];
        let all = shares.detach().to_floats()?;
        let pairs: Vec<(usize, usize)> = candidates
            .iter()
            .enumerate()
            .flat_map(|(image, chosen)| chosen.iter().map(move |&class| (image, class)))
            .collect();
        let chosen: Vec<f32> = pairs
            .iter()
            .map(|&(image, class)| all[image * classes + class])
            .collect();
        let conditioning = tools.source_condition(&certain(&pairs, classes, outputs)?)?;
        let request = Request {
            ids: &batch.ids,
            images: batch.denoiser.as_ref().ok_or(Error::NoDenoiser)?,
            conditioning: &conditioning,
            step,
        };
        let (denoiser, weights) = (tools.denoiser()?, tools.denoiser_weights()?);
        let found = self
            .feedback
            .mixtures(denoiser, weights, &request, &chosen)?;
        let mut gradients = vec![0.0; all.len()];
        for (&(image, class), gradient) in pairs.iter().zip(&found.gradients) {
            gradients[image * classes + class] = *gradient;
        }
        let gradients = Tensor::from_floats(&gradients, &shares.shape(), shares.device())?;
        Ok((gradients, found.losses))
    }
}

/// The softmax of logits of length 1, `[B, K]`, over each image's candidates; 0 elsewhere.
fn shares(logits: &Tensor, candidates: &[Vec<usize>]) -> Result<Tensor> {
    // Far below any logit of length 1, so that the softmax is 0.
    const NEVER: f32 = -1e4;
    let classes = logits.shape()[1];
    let mut mask = vec![NEVER; candidates.len() * classes];
    for (image, chosen) in candidates.iter().enumerate() {
        for &class in chosen {
            mask[image * classes + class] = 0.0;
        }
    }
    let mask = Tensor::from_floats(&mask, &logits.shape(), logits.device())?;
    let length = logits.mul(logits)?.sum(&[1], true)?;
    let inverse = length.clamp(Some(1e-24), None)?.powf(-0.5)?;
    Ok(logits.mul(&inverse)?.add(&mask)?.softmax(1)?)
}

impl Rule for Dusa {
    fn step(
        &mut self,
        tools: &mut Toolbox,
        batch: &Batch<'_>,
        step: usize,
        notes: &mut Notes,
    ) -> Result<()> {
        let images = batch.ids.len();
        let pass = tools.pass(&self.learner, &batch.task)?;
        let here = logits(&pass.outputs)?;
        let candidates = self.candidates(here, batch, step)?;
        let shares = shares(here, &candidates)?;
        let told = (&pass.outputs, &shares);
        let (gradients, losses) = self.feedback(tools, batch, told, &candidates, step)?;
        notes.step(batch, &losses, &vec![true; images])?;
        let scalar = shares.mul(&gradients)?.sum(&[], false)?;
        let scalar = scalar.affine(1.0 / images as f64, 0.0)?;
        pass.follow(&mut self.learner, &scalar)
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

    fn draws(&self) -> usize {
        self.config.draws * (self.config.likely + self.config.random)
    }

    fn feedback(&self) -> Option<Feedback> {
        Some(self.feedback)
    }
}

#[cfg(test)]
mod tests {
    use dtta_tensor::Device;

    use super::*;

    #[test]
    fn shares_are_of_candidates_alone_by_the_direction_of_the_logits() {
        let logits = Tensor::from_floats(&[3.0, 4.0, 0.0], &[1, 3], &Device::cpu()).unwrap();
        let found = shares(&logits, &[vec![1, 2]]).unwrap().to_floats().unwrap();
        // Of length 5, so the candidates' logits are 0.8 and 0.
        let first = 1.0 / (1.0 + (-0.8f32).exp());
        for (found, expected) in found.iter().zip([0.0, first, 1.0 - first]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }
}

//! Diffusion Classifier (Li et al., ICCV 2023, arXiv:2303.16203, algorithm 2): the denoiser alone classifies. Every class is tried as the
//! condition of the same draws of (t, ε), and the class of the lowest diffusion loss is the prediction. Nothing adapts: a point of reference
//! for what the denoiser knows by itself.

use dtta_base::Issue;
use dtta_learn::{
    Draws, Feedback, LossKind, MAX_DRAWS, NoiseSharing, Request, State, TimestepsConfig,
    range_problem,
};
use dtta_models::Space;
use dtta_tensor::{Named, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::losses::{certain, logits, with_logits};
use super::{Adapted, Batch, Method, MethodConfig, Setting, Toolbox};
use crate::error::{Error, Result};
use crate::experiment::{AdaptationConfig, Mode};

/// Diffusion Classifier (Li et al. 2023): the class under which the denoiser's loss is lowest. Nothing adapts. Confidences are the softmax of
/// minus the loss, summed over elements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiffusionClassifierConfig {
    /// Rounds in which classes fall out: after each, those of the lowest mean loss so far remain. As published, 50 draws leave 5 classes of
    /// CIFAR-10's and 500 decide; of ImageNet's, 50, 100, 500 and 1000 draws leave 500, 50, 10 and 1.
    #[schemars(length(min = 1))]
    pub stages: Vec<Stage>,
    /// Draws in one call of the denoiser at most. Changes speed and memory, not results.
    #[serde(default = "default_micro_batch")]
    #[schemars(range(min = 1, max = MAX_DRAWS))]
    pub micro_batch: usize,
    /// Which timesteps are drawn.
    #[serde(default)]
    pub timesteps: TimestepsConfig,
    /// Which noise is drawn; the same for every class.
    #[serde(default)]
    pub noise: NoiseSharing,
    /// How the denoiser's answers are compared with what they should be.
    #[serde(default)]
    pub loss: LossKind,
    /// What they are compared in; what the denoiser predicts if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_space: Option<Space>,
}

/// One round of the race.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Draws that each class that is left has had after this round, those of earlier rounds too.
    #[schemars(range(min = 1, max = MAX_DRAWS))]
    pub draws: usize,
    /// Classes that remain after it; 1 after the last.
    #[schemars(range(min = 1))]
    pub keep: usize,
}

fn default_micro_batch() -> usize {
    64
}

impl MethodConfig for DiffusionClassifierConfig {
    const KIND: &'static str = "diffusion_classifier";
    const NEEDS_DENOISER: bool = true;

    fn contradictions(&self, _: &AdaptationConfig) -> Vec<Issue> {
        let mut issues = Vec::new();
        if let Some(problem) = range_problem(self.timesteps.range) {
            issues.push(Issue::new("/timesteps/range", problem));
        }
        for (place, pair) in self.stages.windows(2).enumerate() {
            let at = |field: &str| format!("/stages/{}/{field}", place + 1);
            let [before, after] = [pair[0], pair[1]];
            if after.draws <= before.draws {
                let message = format!(
                    "is {}, expected more than the {} draws of the round before",
                    after.draws, before.draws
                );
                issues.push(Issue::new(at("draws"), message));
            }
            if after.keep >= before.keep {
                let message = format!(
                    "is {}, expected fewer than the {} classes of the round before",
                    after.keep, before.keep
                );
                issues.push(Issue::new(at("keep"), message));
            }
        }
        match self.stages.last() {
            None => issues.push(Issue::new("/stages", "is empty, expected a round")),
            Some(Stage { keep: 1, .. }) => {}
            Some(stage) => {
                let pointer = format!("/stages/{}/keep", self.stages.len() - 1);
                let message = format!("is {}, expected 1 after the last round", stage.keep);
                issues.push(Issue::new(pointer, message));
            }
        }
        issues
    }

    fn build(&self, setting: &Setting<'_>) -> Result<Box<dyn Method>, Vec<Issue>> {
        let refuse = |pointer: &str, message: &str| vec![Issue::new(pointer, message)];
        let Some((denoiser, _)) = setting.denoiser else {
            let message = "it asks a denoiser; give `/models/denoiser` and `/plugins/mapper`";
            return Err(refuse("", message));
        };
        if setting.backbone.per_pixel {
            let message = "`diffusion_classifier` tries every class of a whole image, and the backbone answers for each pixel";
            return Err(refuse("/kind", message));
        }
        if setting.objectives > 0 {
            let message = "`diffusion_classifier` adapts nothing; leave `/plugins/objectives` out";
            return Err(refuse("/kind", message));
        }
        let range = denoiser.schedule().range(self.timesteps.range);
        let range = range.map_err(|problem| refuse("/timesteps/range", &problem))?;
        let draws = self.stages.last().map_or(0, |stage| stage.draws);
        Ok(Box::new(DiffusionClassifier {
            stages: self.stages.clone(),
            feedback: Feedback {
                draws: Draws {
                    seed: setting.seed,
                    count: draws,
                    sampler: self.timesteps.sampler,
                    range,
                    noise: self.noise,
                },
                micro_batch: self.micro_batch,
                loss: self.loss,
                space: self.loss_space,
            },
            alone: setting.adaptation.mode == (Mode::SingleSample {}),
        }))
    }

    fn in_words(&self) -> String {
        let each = self.stages.iter();
        let stages = each.map(|stage| format!("{} draws leave {}", stage.draws, stage.keep));
        format!(
            "Diffusion Classifier, {}",
            stages.collect::<Vec<_>>().join(", ")
        )
    }
}

struct DiffusionClassifier {
    stages: Vec<Stage>,
    feedback: Feedback,
    alone: bool,
}

/// The classes of an image.
struct Race {
    /// Of each class, the sum of the losses of its draws.
    sums: Vec<f64>,
    /// Classes that are left.
    left: Vec<usize>,
    /// Of each class, how much its mean loss is above that of the best one over the same draws.
    behind: Vec<f64>,
}

impl Race {
    fn of(classes: usize) -> Self {
        Self {
            sums: vec![0.0; classes],
            left: (0..classes).collect(),
            behind: vec![0.0; classes],
        }
    }

    /// Ranks those that are left after so many draws, of which some remain. The mean loss of the best.
    fn rank(&mut self, draws: usize, keep: usize) -> f64 {
        let sums = &self.sums;
        self.left.sort_by(|&a, &b| sums[a].total_cmp(&sums[b]));
        let best = self.left.first().map_or(0.0, |&class| sums[class]);
        for &class in &self.left {
            self.behind[class] = (sums[class] - best) / draws as f64;
        }
        self.left.truncate(keep);
        best / draws as f64
    }
}

impl DiffusionClassifier {
    /// The mean loss of some draws for each pair of an image and a class.
    fn losses(
        &self,
        tools: &mut Toolbox,
        batch: &Batch<'_>,
        outputs: &Named,
        pairs: &[(usize, usize)],
        (stage, count): (usize, usize),
    ) -> Result<Vec<f32>> {
        let all = batch.denoiser.as_ref().ok_or(Error::NoDenoiser)?;
        let classes = logits(outputs)?.shape()[1];
        let mut feedback = self.feedback;
        feedback.draws.count = count;
        let mut losses = Vec::with_capacity(pairs.len());
        for pairs in pairs.chunks(self.feedback.micro_batch) {
            let conditioning = tools.source_condition(&certain(pairs, classes, outputs)?)?;
            let rows: Vec<i64> = pairs.iter().map(|&(image, _)| image as i64).collect();
            let rows = Tensor::from_ints(&rows, &[rows.len()], all.device())?;
            let ids: Vec<&str> = pairs.iter().map(|&(image, _)| batch.ids[image]).collect();
            let request = Request {
                ids: &ids,
                images: &all.index_select(0, &rows)?,
                conditioning: &conditioning,
                step: stage,
            };
            let (denoiser, weights) = (tools.denoiser()?, tools.denoiser_weights()?);
            losses.extend(feedback.losses(denoiser, weights, &request)?);
        }
        match losses.iter().position(|loss| !loss.is_finite()) {
            None => Ok(losses),
            Some(place) => Err(Error::NotFinite {
                what: format!("the diffusion loss of `{}`", batch.ids[pairs[place].0]),
            }),
        }
    }
}

impl Method for DiffusionClassifier {
    fn steps(&self) -> usize {
        0
    }

    fn adapt(&mut self, tools: &mut Toolbox, batch: &Batch<'_>) -> Result<Adapted> {
        let images = batch.ids.len();
        let outputs = tools.source_outputs(&batch.task, self.alone)?;
        let source = tools.predict(&outputs, images)?;
        let classes = logits(&outputs)?.shape()[1];
        let mut races: Vec<Race> = (0..images).map(|_| Race::of(classes)).collect();
        let mut found = Adapted::unchanged(source);
        let mut before = 0;
        for (number, stage) in self.stages.iter().enumerate() {
            let count = stage.draws - before;
            let pairs: Vec<(usize, usize)> = races
                .iter()
                .enumerate()
                .flat_map(|(image, race)| race.left.iter().map(move |&class| (image, class)))
                .collect();
            let losses = self.losses(tools, batch, &outputs, &pairs, (number, count))?;
            for (&(image, class), loss) in pairs.iter().zip(losses) {
                races[image].sums[class] += f64::from(loss) * count as f64;
            }
            for (race, losses) in races.iter_mut().zip(&mut found.losses) {
                losses.push(race.rank(stage.draws, stage.keep) as f32);
            }
            found.draws += pairs.len() * count;
            before = stage.draws;
        }
        let shape = batch.denoiser.as_ref().ok_or(Error::NoDenoiser)?.shape();
        let elements: usize = shape[1..].iter().product();
        let scores: Vec<f32> = races
            .iter()
            .flat_map(|race| race.behind.iter().map(|behind| -behind * elements as f64))
            .map(|score| score as f32)
            .collect();
        let scores = Tensor::from_floats(&scores, &[images, classes], batch.task.device())?;
        found.adapted = tools.predict(&with_logits(&outputs, &scores)?, images)?;
        Ok(found)
    }

    fn reset(&mut self, _: &Toolbox) {}

    fn state(&self) -> State {
        State::new()
    }

    fn restore(&mut self, state: State) -> Result<()> {
        Ok(state.finish()?)
    }

    fn feedback(&self) -> Option<Feedback> {
        Some(self.feedback)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_fall_out_by_their_mean_loss_and_stay_behind() {
        let mut race = Race::of(3);
        race.sums = vec![4.0, 2.0, 3.0];
        assert_eq!(race.rank(2, 2), 1.0);
        assert_eq!(race.left, [1, 2]);
        assert_eq!(race.behind, [1.0, 0.0, 0.5]);
        race.sums[1] += 8.0;
        race.sums[2] += 2.0;
        assert_eq!(race.rank(5, 1), 1.0);
        assert_eq!(race.left, [2]);
        assert_eq!(race.behind, [1.0, 1.0, 0.0]);
    }
}

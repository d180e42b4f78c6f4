//! RoTTA: Robust Test-Time Adaptation in Dynamic Scenarios (Yuan et al., CVPR 2023, arXiv:2303.13899). A student learns from a teacher on a
//! memory of the stream that stays balanced over classes (section 3.3); BatchNorm layers follow the statistics of the memory slowly
//! (equations 3 and 4), and newer images count more (equation 8).
//!
//! As in the authors' code, both student and teacher keep statistics of their own, and only those move of the teacher that the student
//! trains. The views are those that all methods share.

use dtta_base::Issue;
use dtta_learn::{Learner, OptimizerConfig, SelectionConfig, State};
use dtta_models::{BatchNormStatistics, Weights};
use dtta_tensor::{Device, Named};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::classifier::{Classifier, Notes, Rule};
use super::losses::{cross_entropy, entropy, logits, probabilities, weighed};
use super::{Batch, Method, MethodConfig, Setting, Toolbox};
use crate::error::Result;
use crate::experiment::{AdaptationConfig, Mode};
use crate::parts::{Memory, Teacher, ViewsConfig};

/// RoTTA (Yuan et al. 2023): a student of an averaged teacher on a balanced memory of the stream. For classifiers; online, and with
/// `/adaptation/batch_norm` as `running`, since it moves those statistics itself. Needs no denoiser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RottaConfig {
    /// How the task model's parameters move.
    #[serde(default = "super::classifier::adam")]
    pub optimizer: OptimizerConfig,
    /// Which of the task model's parameters move.
    #[serde(default = "super::classifier::normalization")]
    pub parameters: SelectionConfig,
    /// Images in the memory (N).
    #[serde(default = "sixty_four")]
    #[schemars(range(min = 1, max = 65_536))]
    pub memory: usize,
    /// An update follows every so many images of the stream.
    #[serde(default = "sixty_four")]
    #[schemars(range(min = 1))]
    pub every: usize,
    /// How much of a batch's statistics BatchNorm layers take up in each update (α).
    #[serde(default = "share")]
    #[schemars(range(min = 0, max = 1))]
    pub statistics: f64,
    /// How far the teacher goes to the student in each update (ν).
    #[serde(default = "nu")]
    #[schemars(range(min = 0, max = 1))]
    pub rate: f64,
    /// How the student's views differ from the images.
    #[serde(default)]
    pub view: ViewsConfig,
}

fn sixty_four() -> usize {
    64
}

fn share() -> f64 {
    0.05
}

fn nu() -> f64 {
    0.001
}

impl MethodConfig for RottaConfig {
    const KIND: &'static str = "rotta";
    const NEEDS_DENOISER: bool = false;

    fn parameters(&self) -> Option<&SelectionConfig> {
        Some(&self.parameters)
    }

    fn contradictions(&self, adaptation: &AdaptationConfig) -> Vec<Issue> {
        let mut issues = Vec::new();
        if adaptation.mode == (Mode::SingleSample {}) {
            let message =
                "`rotta` keeps a memory of the stream, which single-sample mode does not have";
            issues.push(Issue::new("/kind", message));
        }
        if adaptation.batch_norm != BatchNormStatistics::Running {
            let message =
                "`rotta` moves the running statistics; set `/adaptation/batch_norm` to `running`";
            issues.push(Issue::new("/statistics", message));
        }
        issues
    }

    fn build(&self, setting: &Setting<'_>) -> Result<Box<dyn Method>, Vec<Issue>> {
        let device = setting.task.iter().next();
        let device = device.map_or_else(Device::cpu, |(.., tensor)| tensor.device().clone());
        let rule = Rotta {
            config: self.clone(),
            seed: setting.seed,
            learner: setting.learner(self.optimizer, &self.parameters)?,
            teacher: Teacher::new(setting.task),
            memory: Memory::new(self.memory),
            seen: 0,
            device,
        };
        Classifier::boxed(setting, Self::KIND, 1, rule)
    }

    fn in_words(&self) -> String {
        format!("RoTTA, a memory of {}", self.memory)
    }
}

struct Rotta {
    config: RottaConfig,
    seed: u64,
    learner: Learner,
    teacher: Teacher,
    memory: Memory,
    /// Images of the stream so far.
    seen: usize,
    device: Device,
}

impl Rotta {
    /// Learns from the memory; `id` is of the image that made it due.
    fn update(&mut self, tools: &mut Toolbox, id: &str) -> Result<()> {
        let Some((images, ages)) = self.memory.all()? else {
            return Ok(());
        };
        let keys: Vec<String> = (0..ages.len()).map(|n| format!("{id}/{n}")).collect();
        let kept = Batch {
            ids: keys.iter().map(String::as_str).collect(),
            task: images,
            denoiser: None,
        };
        let share = self.config.statistics;
        let (taught, moved) = tools.outputs_mixing(self.teacher.weights(), &kept.task, share)?;
        for (id, statistics) in moved {
            self.teacher.weights_mut().set(id, statistics)?;
        }
        let seen = self.config.view.view(&kept, self.seed, 0, 0)?;
        let leaves = self.learner.leaves()?;
        let (outputs, moved) = tools.outputs_mixing(&leaves, &seen, share)?;
        let each = cross_entropy(logits(&taught)?, logits(&outputs)?)?;
        let weights: Vec<f32> = ages
            .iter()
            .map(|age| (-age).exp() / (1.0 + (-age).exp()))
            .collect();
        let loss = weighed(&each, &weights, weights.len() as f64)?;
        let gradients = loss.backward()?;
        self.learner.follow(&leaves, Some(&gradients))?;
        for (id, statistics) in moved {
            self.learner.weights_mut().set(id, statistics)?;
        }
        self.teacher.follow(&self.learner, 1.0 - self.config.rate)
    }
}

impl Rule for Rotta {
    fn step(
        &mut self,
        tools: &mut Toolbox,
        batch: &Batch<'_>,
        _step: usize,
        notes: &mut Notes,
    ) -> Result<()> {
        let outputs = tools.outputs(self.teacher.weights(), &batch.task)?;
        let logits = logits(&outputs)?;
        let entropies = entropy(logits)?.to_floats()?;
        let rows = probabilities(logits)?;
        let classes = logits.shape()[1];
        for (n, row) in rows.iter().enumerate() {
            let class = (0..classes).fold(0, |best, k| if row[k] > row[best] { k } else { best });
            let uncertainty = entropies[n] / (classes as f32).ln();
            let image = batch.task.narrow(0, n, 1)?;
            self.memory.add(image, class, classes, uncertainty);
            self.seen += 1;
            if self.seen.is_multiple_of(self.config.every) {
                self.update(tools, batch.ids[n])?;
            }
        }
        notes.step(batch, &entropies, &vec![true; batch.ids.len()])
    }

    fn outputs(&mut self, tools: &mut Toolbox, batch: &Batch<'_>) -> Result<Named> {
        tools.outputs(self.teacher.weights(), &batch.task)
    }

    fn learner(&mut self) -> &mut Learner {
        &mut self.learner
    }

    fn reset(&mut self, source: &Weights) {
        self.learner.reset(source);
        self.teacher = Teacher::new(source);
        self.memory = Memory::new(self.config.memory);
        self.seen = 0;
    }

    fn state(&self) -> State {
        let mut state = State::new();
        state.put("task", self.learner.state());
        state.put("teacher", self.teacher.state());
        state.put("memory", self.memory.state());
        state.counts.insert("seen".into(), self.seen as i64);
        state
    }

    fn restore(&mut self, mut state: State) -> Result<()> {
        self.learner.restore(state.take("task"))?;
        self.teacher.restore(state.take("teacher"))?;
        self.memory.restore(state.take("memory"), &self.device)?;
        let seen = state.take_count("seen")?;
        self.seen = usize::try_from(seen).map_err(|_| dtta_learn::Error::Unknown {
            name: format!("seen = {seen}"),
        })?;
        Ok(state.finish()?)
    }
}

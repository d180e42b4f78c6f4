//! What methods of classifiers have in common around the rule by which images that share θ move it: one call for a batch of a stream, or one
//! for each image from the source weights.

use dtta_base::Issue;
use dtta_learn::{Feedback, Learner, OptimizerConfig, Selected, SelectionConfig, State};
use dtta_models::Weights;
use dtta_tensor::{Named, Tensor};

use super::toolbox::below_one_another;
use super::under_way::STEPS;
use super::{Adapted, Batch, Method, Setting, Toolbox};
use crate::error::{Error, Result};
use crate::experiment::Mode;
use crate::parts::Stability;

/// How images that share θ move it, and what is said of them then.
pub(super) trait Rule: Send {
    /// Before the first step of a batch.
    ///
    /// # Errors
    /// Whatever a model refuses.
    fn begin(&mut self, _tools: &mut Toolbox, _batch: &Batch<'_>) -> Result<()> {
        Ok(())
    }

    /// Moves the weights by one step, which it notes.
    ///
    /// # Errors
    /// Whatever a model refuses.
    fn step(
        &mut self,
        tools: &mut Toolbox,
        batch: &Batch<'_>,
        step: usize,
        notes: &mut Notes,
    ) -> Result<()>;

    /// Task outputs that predictions are made from, after the steps so far.
    ///
    /// # Errors
    /// Whatever a model refuses.
    fn outputs(&mut self, tools: &mut Toolbox, batch: &Batch<'_>) -> Result<Named> {
        tools.outputs(self.learner().weights(), &batch.task)
    }

    /// What is trained.
    fn learner(&mut self) -> &mut Learner;

    /// Back to the source weights, all memory gone.
    fn reset(&mut self, source: &Weights);

    /// Everything that the next batch depends on.
    fn state(&self) -> State;

    /// Takes up a state.
    fn restore(&mut self, state: State) -> Result<()>;

    /// How it asks the denoiser, where it does.
    fn feedback(&self) -> Option<Feedback> {
        None
    }

    /// Draws of each image and step that go through the denoiser.
    fn draws(&self) -> usize {
        0
    }
}

/// What a rule came to.
struct Moved {
    /// Task outputs that predictions are made from.
    outputs: Named,
    /// Of each image, its loss in each step.
    losses: Vec<Vec<f32>>,
    /// Of each image, the share of the steps that learned from it.
    used: Vec<f32>,
    /// Of each image, the steps.
    steps: Vec<f32>,
}

/// Notes of the steps of a batch.
pub(super) struct Notes {
    losses: Vec<Vec<f32>>,
    /// Steps that learned from each image.
    used: Vec<f32>,
}

impl Notes {
    fn new(images: usize) -> Self {
        Self {
            losses: vec![Vec::new(); images],
            used: vec![0.0; images],
        }
    }

    /// The losses of a step, and which images it learned from.
    ///
    /// # Errors
    /// [`Error::NotFinite`].
    pub fn step(&mut self, batch: &Batch<'_>, losses: &[f32], used: &[bool]) -> Result<()> {
        for (row, (&loss, &used)) in losses.iter().zip(used).enumerate() {
            if !loss.is_finite() {
                return Err(Error::NotFinite {
                    what: format!("the loss of `{}`", batch.ids[row]),
                });
            }
            self.losses[row].push(loss);
            self.used[row] += f32::from(u8::from(used));
        }
        Ok(())
    }

    /// After so many steps, with what predictions are made from.
    fn with(self, outputs: Named, steps: usize) -> Moved {
        let count = steps as f32;
        let share = |used: f32| if steps > 0 { used / count } else { 0.0 };
        Moved {
            outputs,
            steps: vec![count; self.losses.len()],
            losses: self.losses,
            used: self.used.into_iter().map(share).collect(),
        }
    }
}

/// A method of classifiers by its rule.
pub(super) struct Classifier<R> {
    rule: R,
    steps: usize,
    /// After how many updates without a change of prediction no more are made.
    stable: Option<usize>,
    alone: bool,
}

impl<R: Rule + 'static> Classifier<R> {
    /// By a rule of so many steps; `kind` is the method's, for what it refuses.
    ///
    /// # Errors
    /// Models that are not classifiers of whole images, and objectives, which the rule has no place for.
    pub fn boxed(
        setting: &Setting<'_>,
        kind: &str,
        steps: usize,
        rule: R,
    ) -> std::result::Result<Box<dyn Method>, Vec<Issue>> {
        let mut issues = Vec::new();
        if setting.backbone.per_pixel {
            let message = format!(
                "`{kind}` is a method for classifiers of whole images, and the backbone answers for each pixel; `entropy` and `diffusion` adapt those"
            );
            issues.push(Issue::new("/kind", message));
        }
        if setting.objectives > 0 {
            let message =
                format!("`{kind}` has a loss of its own; leave `/plugins/objectives` out");
            issues.push(Issue::new("/kind", message));
        }
        if !issues.is_empty() {
            return Err(issues);
        }
        Ok(Box::new(Self {
            rule,
            steps,
            stable: setting.stop_when_stable(),
            alone: setting.adaptation.mode == (Mode::SingleSample {}),
        }))
    }

    fn moved(&mut self, tools: &mut Toolbox, batch: &Batch<'_>) -> Result<Moved> {
        let images = batch.ids.len();
        let (mut notes, mut watch) = (Notes::new(images), Stability::new(self.stable));
        self.rule.begin(tools, batch)?;
        let (mut steps, mut settled) = (0, None);
        while steps < self.steps {
            if watch.watches() {
                let outputs = self.rule.outputs(tools, batch)?;
                if watch.settled(&tools.predict(&outputs, images)?.each) {
                    settled = Some(outputs);
                    break;
                }
            }
            self.rule.step(tools, batch, steps, &mut notes)?;
            steps += 1;
        }
        let outputs = match settled {
            Some(outputs) => outputs,
            None => self.rule.outputs(tools, batch)?,
        };
        if let Some(name) = self.rule.learner().not_finite()? {
            return Err(Error::NotFinite {
                what: format!("the parameter `{name}` after the last step"),
            });
        }
        Ok(notes.with(outputs, steps))
    }
}

impl<R: Rule + 'static> Method for Classifier<R> {
    fn steps(&self) -> usize {
        self.steps
    }

    fn adapt(&mut self, tools: &mut Toolbox, batch: &Batch<'_>) -> Result<Adapted> {
        let images = batch.ids.len();
        let outputs = tools.source_outputs(&batch.task, self.alone)?;
        let source = tools.predict(&outputs, images)?;
        if self.steps == 0 {
            return Ok(Adapted::unchanged(source));
        }
        let all = if self.alone {
            let mut each = Vec::with_capacity(images);
            for row in 0..images {
                self.reset(tools);
                each.push(self.moved(tools, &batch.select(&[row])?)?);
            }
            self.reset(tools);
            let outputs: Vec<Named> = each.iter().map(|moved| moved.outputs.clone()).collect();
            Moved {
                outputs: below_one_another(&outputs)?,
                losses: each.iter().flat_map(|moved| moved.losses.clone()).collect(),
                used: each.iter().flat_map(|moved| moved.used.clone()).collect(),
                steps: each.iter().flat_map(|moved| moved.steps.clone()).collect(),
            }
        } else {
            self.moved(tools, batch)?
        };
        let mut found = Adapted::unchanged(source);
        found.adapted = tools.predict(&all.outputs, images)?;
        found.losses = all.losses;
        found.measures.insert("used".into(), all.used);
        let steps: usize = found.losses.iter().map(Vec::len).sum();
        found.draws = steps * self.rule.draws();
        if self.stable.is_some() {
            found.measures.insert(STEPS.into(), all.steps);
        }
        Ok(found)
    }

    fn stops_when_stable(&self) -> bool {
        true
    }

    fn feedback(&self) -> Option<Feedback> {
        self.rule.feedback()
    }

    fn learner(&mut self) -> Option<&mut Learner> {
        (!self.alone).then(|| self.rule.learner())
    }

    fn reset(&mut self, tools: &Toolbox) {
        self.rule.reset(tools.source());
    }

    fn state(&self) -> State {
        self.rule.state()
    }

    fn restore(&mut self, state: State) -> Result<()> {
        self.rule.restore(state)
    }
}

/// Gradients of what is trained, in its order; none where nothing depends on a parameter.
pub(super) type Gradients = Vec<Option<Tensor>>;

/// Sums of gradients; a missing one adds nothing.
pub(super) fn added(sums: Gradients, more: Gradients) -> Result<Gradients> {
    if sums.is_empty() {
        return Ok(more);
    }
    let each = sums.into_iter().zip(more);
    each.map(|pair| match pair {
        (Some(sum), Some(more)) => Ok(Some(sum.add(&more)?)),
        (sum, more) => Ok(sum.or(more)),
    })
    .collect()
}

/// Scales and shifts of normalisation layers: what most of these methods move.
pub(super) fn normalization() -> SelectionConfig {
    SelectionConfig {
        group: Selected::Normalization,
        ..SelectionConfig::default()
    }
}

/// SGD at 2.5e-4 with a momentum of 0.9: what TENT, EATA, SAR, DeYO and ROID give for ResNet-50 and batches of 64.
pub(super) fn sgd() -> OptimizerConfig {
    OptimizerConfig::Sgd {
        learning_rate: 2.5e-4,
        momentum: 0.9,
        weight_decay: 0.0,
    }
}

/// Adam at 1e-3: what CoTTA and RoTTA give for CIFAR-10-C.
pub(super) fn adam() -> OptimizerConfig {
    OptimizerConfig::Adam(dtta_learn::AdamConfig {
        learning_rate: 1e-3,
        betas: [0.9, 0.999],
        epsilon: 1e-8,
        weight_decay: 0.0,
    })
}

//! Diffusion-TTA (Prabhudesai et al., NeurIPS 2023, arXiv:2311.16102, algorithm 1): for each step, the task outputs become the
//! conditioning, the diffusion loss of the batch is taken over fresh draws of (t, ε), and its gradient flows back through the
//! conditioning into θ, and into φ where the denoiser adapts.

use std::collections::BTreeMap;

use dtta_base::{Issue, in_bytes};
use dtta_learn::{
    Draws, Feedback, Learner, LossKind, MAX_DRAWS, Movement, NoiseSharing, OptimizerConfig,
    SelectionConfig, State, TimestepsConfig, range_problem, surrogate,
};
use dtta_models::{Denoiser, ParameterId, Space, Weights};
use dtta_tensor::{Device, Named, Precision, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::toolbox::rows;
use super::under_way::{STEPS, UnderWay};
use super::{Adapted, Batch, Method, MethodConfig, Setting, Toolbox};
use crate::error::{Error, Result};
use crate::experiment::{AdaptationConfig, Mode};
use crate::parts::{Carry, Centre, Common, Control, Gate, SlowWeights};

/// Diffusion-TTA (Prabhudesai et al. 2023): feedback of the denoiser through the conditioning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiffusionConfig {
    /// Optimizer updates for each batch; 0 measures the source model alone.
    #[serde(default = "super::one")]
    #[schemars(range(max = super::MAX_STEPS))]
    pub steps: usize,
    /// Draws of (t, ε) for each sample and step.
    #[schemars(range(min = 1, max = MAX_DRAWS))]
    pub draws: usize,
    /// Draws in one call of the denoiser at most. Changes speed and memory, not results: the CPU works on as many calls at once as
    /// it has threads, so there smaller ones are faster; other devices take one after the other.
    #[serde(default = "default_micro_batch")]
    #[schemars(range(min = 1, max = MAX_ROWS))]
    pub micro_batch: usize,
    /// Bytes that the draws that are worked on at once may take, by the measure of one: `micro_batch` is then the most, and as many as fit
    /// are taken. Changes speed and memory, not results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_memory: Option<u64>,
    /// Which timesteps are drawn.
    #[serde(default)]
    pub timesteps: TimestepsConfig,
    /// Which noise is drawn.
    #[serde(default)]
    pub noise: NoiseSharing,
    /// How the denoiser's answers are compared with what they should be.
    #[serde(default)]
    pub loss: LossKind,
    /// What they are compared in; what the denoiser predicts if absent. Another space gives each time another weight in the loss and its
    /// gradient: with x = α x0 + σ ε, ε-loss = (α/σ)² x0-loss, and on the straight line of a flow velocity-loss = x0-loss / σ² (for
    /// `l1` without the square).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_space: Option<Space>,
    /// Subtracts from each sample's feedback what the stream's feedback has in common. A corruption that makes every image
    /// look like one class to the denoiser pulls all samples there; this takes the pull away. Not in the paper. Only in
    /// `online` mode: a sample by itself has nothing in common with others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub centre: Option<Centre>,
    /// Leaves samples as they are whose prediction is good already, as the denoiser sees it. Not in the paper.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
    /// Carries slow weights, which follow each sample's fast weights, from batch to batch instead of the last batch's weights. Online
    /// only. Not in the paper.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_weights: Option<SlowWeights>,
    /// How the task model's parameters move.
    pub optimizer: OptimizerConfig,
    /// Which of the task model's parameters move.
    #[serde(default)]
    pub parameters: SelectionConfig,
    /// Adapts the denoiser too. Only in `online` mode or with a batch of 1: samples with weights of their own cannot share it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denoiser: Option<DenoiserAdaptation>,
    /// Breaks the feedback on purpose, as a control experiment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<Control>,
}

/// How the denoiser moves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DenoiserAdaptation {
    /// How its parameters move.
    pub optimizer: OptimizerConfig,
    /// Which of them move.
    #[serde(default)]
    pub parameters: SelectionConfig,
}

/// The most draws of one step, of all images of a batch together.
const MAX_ROWS: usize = 1 << 24;

fn default_micro_batch() -> usize {
    64
}

impl MethodConfig for DiffusionConfig {
    const KIND: &'static str = "diffusion";
    const NEEDS_DENOISER: bool = true;

    fn parameters(&self) -> Option<&SelectionConfig> {
        Some(&self.parameters)
    }

    fn denoiser_parameters(&self) -> Option<&SelectionConfig> {
        Some(&self.denoiser.as_ref()?.parameters)
    }

    fn contradictions(&self, adaptation: &AdaptationConfig) -> Vec<Issue> {
        let mut issues = SlowWeights::contradictions(self.slow_weights, adaptation);
        let mut issue = |pointer: &str, message: &str| issues.push(Issue::new(pointer, message));
        let single = adaptation.mode == (Mode::SingleSample {});
        if let Some(problem) = range_problem(self.timesteps.range) {
            issue("/timesteps/range", &problem);
        }
        let rows = self.draws.checked_mul(adaptation.batch);
        if rows.is_none_or(|rows| rows > MAX_ROWS) {
            let message = format!(
                "is {}, for each of {} images in a batch; expected at most {MAX_ROWS} in all",
                self.draws, adaptation.batch
            );
            issue("/draws", &message);
        }
        if self.denoiser.is_some() && single && adaptation.batch > 1 {
            let message = "samples with weights of their own cannot share an adapting denoiser; set `/adaptation/batch` to 1";
            issue("/denoiser", message);
        }
        if self.centre.is_some() && single {
            let message = "`centre` averages over the stream, which single-sample mode does not have; remove it";
            issue("/centre", message);
        }
        issues
    }

    fn build(&self, setting: &Setting<'_>) -> Result<Box<dyn Method>, Vec<Issue>> {
        Ok(Box::new(Diffusion::new(self.clone(), setting)?))
    }

    fn in_words(&self) -> String {
        let mut words = format!("{} draws x {} steps", self.draws, self.steps);
        if let Some(slow) = self.slow_weights {
            words += &format!(", slow weights at {}", slow.rate);
        }
        if let Some(gate) = self.gate {
            let soft = if gate.soft { "soft " } else { "" };
            words += &format!(", {soft}gate at {} explained", gate.explained);
        }
        if self.control.is_some() {
            words += ", control: another image";
        }
        words
    }
}

/// Diffusion-TTA with what it carries.
pub struct Diffusion {
    config: DiffusionConfig,
    feedback: Feedback,
    /// After how many updates without a change of prediction no more are made.
    stable: Option<usize>,
    carry: Carry,
    common: Common,
    /// φ on its way, where the denoiser adapts.
    denoiser: Option<Learner>,
}

impl Diffusion {
    /// Diffusion-TTA for these models.
    ///
    /// # Errors
    /// What does not fit them, by pointer within the configuration.
    pub fn new(
        config: DiffusionConfig,
        setting: &Setting<'_>,
    ) -> std::result::Result<Self, Vec<Issue>> {
        let refuse = |pointer: &str, message: String| vec![Issue::new(pointer, message)];
        let Some((denoiser, weights)) = setting.denoiser else {
            let message =
                "feedback needs a denoiser; give `/models/denoiser` and `/plugins/mapper`";
            return Err(refuse("", message.into()));
        };
        let schedule = denoiser.schedule();
        let range = schedule.range(config.timesteps.range);
        let range = range.map_err(|problem| refuse("/timesteps/range", problem))?;
        let unconditional = denoiser.unconditional(weights);
        let unconditional =
            unconditional.map_err(|error| refuse("/gate", dtta_base::told(&error)))?;
        if config.gate.is_some() && unconditional.is_none() {
            let message = "the denoiser was never trained without a condition, so it cannot tell what a prediction explains";
            return Err(refuse("/gate", message.into()));
        }
        let issues = Control::contradictions(config.control, setting.segments);
        if !issues.is_empty() {
            return Err(issues);
        }
        let mut feedback = Feedback {
            draws: Draws {
                seed: setting.seed,
                count: config.draws,
                sampler: config.timesteps.sampler,
                range,
                noise: config.noise,
            },
            micro_batch: config.micro_batch,
            loss: config.loss,
            space: config.loss_space,
        };
        if let Some(limit) = config.max_memory {
            feedback.micro_batch = fitting(limit, &feedback, denoiser, weights)
                .map_err(|problem| refuse("/max_memory", problem))?;
        }
        let carry = Carry::new(
            setting,
            config.optimizer,
            &config.parameters,
            config.slow_weights,
        )?;
        let shares_statistics = setting.adaptation.batch_norm
            != dtta_models::BatchNormStatistics::Running
            && !carry.apart();
        if config.gate.is_some() && shares_statistics {
            let message = "a gate takes images out of a batch that shares its statistics; set `/adaptation/batch_norm` to `running`, or leave it out";
            return Err(refuse("/gate", message.into()));
        }
        if config.denoiser.is_some() && weights.precision() != Precision::F32 {
            let message = format!(
                "a denoiser that adapts is moved by less than {} tells apart; set `/models/denoiser_precision` to `f32`",
                weights.precision()
            );
            return Err(refuse("/denoiser", message));
        }
        let learner = config.denoiser.as_ref().map(|moving| {
            let chosen = moving.parameters.select("denoiser", weights);
            let parameters =
                chosen.map_err(|error| refuse("/denoiser/parameters", error.to_string()))?;
            let movement = Movement {
                optimizer: moving.optimizer,
                parameters,
            };
            Ok::<_, Vec<Issue>>(Learner::new(weights, &movement))
        });
        Ok(Self {
            denoiser: learner.transpose()?,
            config,
            feedback,
            stable: setting.stop_when_stable(),
            carry,
            common: Common::default(),
        })
    }

    /// φ, and what of it moves.
    fn denoiser_weights<'a>(
        &'a self,
        tools: &'a Toolbox,
    ) -> Result<(&'a Weights, &'a [ParameterId])> {
        match &self.denoiser {
            Some(learner) => Ok((learner.weights(), learner.parameters())),
            None => Ok((tools.denoiser_weights()?, &[])),
        }
    }

    /// Moves each group's weights by the configured number of steps; gives the losses of each image of the batch they began with.
    fn learn(&mut self, tools: &mut Toolbox, way: &mut UnderWay<'_>) -> Result<Vec<Vec<f32>>> {
        let mut losses = vec![Vec::new(); way.places.len()];
        for step in 0..self.config.steps {
            let passes = way.passes(tools, true)?;
            if passes.is_empty() {
                break;
            }
            let denoiser = self.denoiser_weights(tools)?;
            let answer = tools.feedback(&self.feedback, denoiser, &way.batch, &passes, step)?;
            for (&place, &loss) in way.places.iter().zip(&answer.losses) {
                losses[place].push(loss);
            }
            let gradients: Named = match self.config.centre {
                Some(centre) => self.common.centre(&answer.gradients, centre.rate)?,
                None => answer.gradients,
            };
            // The loss of a group is the mean over its images.
            tools.descend(&mut way.groups, &passes, |group, pass| {
                let share = 1.0 / group.range.len() as f64;
                let own = gradients.try_map(|gradient| {
                    Ok::<_, Error>(rows(gradient, &group.range)?.affine(share, 0.0)?)
                })?;
                Ok(surrogate(pass.objective.clone(), &pass.conditioning, &own)?)
            })?;
            if let Some(learner) = &mut self.denoiser {
                let mean = 1.0 / way.batch.ids.len() as f64;
                let gradients = answer
                    .denoiser_gradients
                    .into_iter()
                    .map(|gradient| gradient.map(|sum| sum.affine(mean, 0.0)).transpose())
                    .collect::<Result<Vec<Option<Tensor>>, _>>()?;
                learner.step(gradients)?;
                if let Some(name) = learner.not_finite()? {
                    return Err(Error::NotFinite {
                        what: format!("the denoiser's parameter `{name}` after step {step}"),
                    });
                }
            }
        }
        Ok(losses)
    }
}

/// The largest micro-batch that stays within a limit of memory, on all lanes of the device at once.
fn fitting(
    limit: u64,
    feedback: &Feedback,
    denoiser: &dyn Denoiser,
    weights: &Weights,
) -> std::result::Result<usize, String> {
    let device = match weights.iter().next() {
        Some((_, _, weight)) => weight.device().clone(),
        None => Device::cpu(),
    };
    let one = feedback.footprint(denoiser, weights, &device);
    let one = one.map_err(|error| dtta_base::told(&error))?;
    let rows = limit / one.bytes.max(1);
    // Several small calls at once rather than one large one, where a device works on several.
    let each = rows / device.lanes() as u64;
    match (rows, each) {
        (0, _) => Err(format!(
            "is {}, but one draw takes about {}",
            in_bytes(limit),
            in_bytes(one.bytes)
        )),
        (_, 0) => Err(format!(
            "is {}, but {} draws at once, one on each thread, take about {}",
            in_bytes(limit),
            device.lanes(),
            in_bytes(one.bytes * device.lanes() as u64)
        )),
        (_, each) => Ok(usize::try_from(each)
            .map_or(feedback.micro_batch, |each| each.min(feedback.micro_batch))),
    }
}

impl Method for Diffusion {
    fn adapt(&mut self, tools: &mut Toolbox, batch: &Batch<'_>) -> Result<Adapted> {
        let images = batch.ids.len();
        if self.denoiser.is_some() && self.carry.forgets() && images > 1 {
            return Err(Error::Batch {
                found: format!("{images} images with weights of their own"),
                expected: "one, since they cannot share an adapting denoiser".into(),
            });
        }
        let outputs = tools.source_outputs(&batch.task, self.carry.apart())?;
        let source = tools.predict(&outputs, images)?;
        if self.config.steps == 0 {
            return Ok(Adapted::unchanged(source));
        }
        if self.carry.forgets() {
            self.reset(tools);
        }
        let mut paces = vec![1.0; images];
        let mut measures = BTreeMap::new();
        if let Some(gate) = self.config.gate {
            let told = tools.source_condition(&outputs)?;
            let (weights, _) = self.denoiser_weights(tools)?;
            let explained = Gate::explained(tools, &self.feedback, weights, batch, &told)?;
            paces = explained.iter().map(|&e| gate.pace(e.into())).collect();
            measures.insert("explained".to_owned(), explained);
        }
        let open: Vec<usize> = (0..images).filter(|&n| paces[n] > 0.0).collect();
        let (mut steps, mut made) = (vec![0.0; images], 0);
        let mut found = if open.is_empty() {
            Adapted::unchanged(source)
        } else {
            let chosen = batch.select(&open)?;
            let paces: Vec<f64> = open.iter().map(|&place| paces[place]).collect();
            let mut way = UnderWay::new(&chosen, self.carry.groups(&paces), self.stable);
            let losses = self.learn(tools, &mut way)?;
            let (groups, each) = way.finish();
            for (&place, count) in open.iter().zip(each) {
                steps[place] = count;
            }
            made = losses.iter().map(Vec::len).sum();
            let adapted = tools.predict_groups(&groups, &chosen.task)?;
            self.carry.end(groups)?;
            Adapted::at(source, &open, adapted, losses)?
        };
        if self.stable.is_some() {
            measures.insert(STEPS.to_owned(), steps);
        }
        found.measures = measures;
        found.draws = made * self.config.draws;
        Ok(found)
    }

    fn learner(&mut self) -> Option<&mut Learner> {
        self.carry.learner()
    }

    fn denoiser_learner(&mut self) -> Option<&mut Learner> {
        self.denoiser.as_mut()
    }

    fn reset(&mut self, tools: &Toolbox) {
        self.carry.reset(tools.source());
        self.common = Common::default();
        if let (Some(learner), Ok(weights)) = (&mut self.denoiser, tools.denoiser_weights()) {
            learner.reset(weights);
        }
    }

    fn state(&self) -> State {
        let mut state = State::new();
        state.put("task", self.carry.state());
        state.put("common", self.common.state());
        if let Some(learner) = &self.denoiser {
            state.put("denoiser", learner.state());
        }
        state
    }

    fn restore(&mut self, mut state: State) -> Result<()> {
        self.carry.restore(state.take("task"))?;
        self.common.restore(state.take("common"))?;
        if let Some(learner) = &mut self.denoiser {
            learner.restore(state.take("denoiser"))?;
        }
        Ok(state.finish()?)
    }

    fn steps(&self) -> usize {
        self.config.steps
    }

    fn stops_when_stable(&self) -> bool {
        true
    }

    fn feedback(&self) -> Option<Feedback> {
        Some(self.feedback)
    }

    fn shown(&self, place: usize, samples: usize) -> usize {
        match self.config.control {
            Some(control) => control.shown(place, samples),
            None => place,
        }
    }
}

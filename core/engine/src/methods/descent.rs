//! Gradient descent on a loss of the task outputs alone: what methods without a denoiser share.

use dtta_base::Issue;
use dtta_learn::{Learner, OptimizerConfig, SelectionConfig, State};
use dtta_tensor::Tensor;

use super::under_way::{STEPS, UnderWay};
use super::{Adapted, Batch, Method, Pass, Setting, Toolbox};
use crate::error::{Error, Result};
use crate::parts::{Carry, SlowWeights};

/// A loss of task outputs, `[images]`; nothing where the plugins' objectives are all there is.
pub(super) type Loss = fn(&Pass) -> Result<Option<Tensor>>;

/// Steps of descent on the mean of a loss plus the plugins' objectives.
pub(super) struct Descent {
    steps: usize,
    /// After how many updates without a change of prediction no more are made.
    stable: Option<usize>,
    carry: Carry,
    loss: Loss,
}

impl Descent {
    /// So many steps.
    ///
    /// # Errors
    /// A selection that names nothing, by pointer within the method's configuration.
    pub fn boxed(
        setting: &Setting<'_>,
        steps: usize,
        (optimizer, parameters): (OptimizerConfig, &SelectionConfig),
        slow: Option<SlowWeights>,
        loss: Loss,
    ) -> std::result::Result<Box<dyn Method>, Vec<Issue>> {
        Ok(Box::new(Self {
            steps,
            stable: setting.stop_when_stable(),
            carry: Carry::new(setting, optimizer, parameters, slow)?,
            loss,
        }))
    }
}

impl Method for Descent {
    fn steps(&self) -> usize {
        self.steps
    }

    fn adapt(&mut self, tools: &mut Toolbox, batch: &Batch<'_>) -> Result<Adapted> {
        let (images, loss) = (batch.ids.len(), self.loss);
        let outputs = tools.source_outputs(&batch.task, self.carry.apart())?;
        let source = tools.predict(&outputs, images)?;
        if self.steps == 0 {
            return Ok(Adapted::unchanged(source));
        }
        self.carry.begin(tools.source());
        let groups = self.carry.groups(&vec![1.0; images]);
        let mut way = UnderWay::new(batch, groups, self.stable);
        let mut losses = vec![Vec::new(); images];
        for _ in 0..self.steps {
            let passes = way.passes(tools, false)?;
            if passes.is_empty() {
                break;
            }
            for (group, pass) in way.groups.iter().zip(&passes) {
                let Some(each) = loss(pass)? else { continue };
                for (row, loss) in group.range.clone().zip(each.detach().to_floats()?) {
                    let place = way.places[row];
                    if !loss.is_finite() {
                        return Err(Error::NotFinite {
                            what: format!("the loss of `{}`", batch.ids[place]),
                        });
                    }
                    losses[place].push(loss);
                }
            }
            tools.descend(&mut way.groups, &passes, |_, pass| {
                let mean = loss(pass)?.map(|each| each.mean(&[], false)).transpose()?;
                let sum = match (mean, pass.objective.clone()) {
                    (Some(mean), Some(objective)) => Some(mean.add(&objective)?),
                    (mean, objective) => mean.or(objective),
                };
                Ok(sum.filter(Tensor::is_tracked))
            })?;
        }
        let (groups, steps) = way.finish();
        let adapted = tools.predict_groups(&groups, &batch.task)?;
        self.carry.end(groups)?;
        let places: Vec<usize> = (0..images).collect();
        let mut found = Adapted::at(source, &places, adapted, losses)?;
        if self.stable.is_some() {
            found.measures.insert(STEPS.into(), steps);
        }
        Ok(found)
    }

    fn stops_when_stable(&self) -> bool {
        true
    }

    fn learner(&mut self) -> Option<&mut Learner> {
        self.carry.learner()
    }

    fn reset(&mut self, tools: &Toolbox) {
        self.carry.reset(tools.source());
    }

    fn state(&self) -> State {
        self.carry.state()
    }

    fn restore(&mut self, state: State) -> Result<()> {
        self.carry.restore(state)
    }
}

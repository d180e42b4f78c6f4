//! The groups of a batch while they move. Those whose predictions have settled take no further step, where a safeguard asks for that.

use super::{Batch, Group, Pass, Toolbox};
use crate::error::Result;
use crate::parts::Stability;

/// The measure that says how many updates an image made, where a safeguard may leave some out.
pub(super) const STEPS: &str = "steps";

/// Groups on their way, and which images they are of.
pub(super) struct UnderWay<'a> {
    /// The images that still move.
    pub batch: Batch<'a>,
    /// Their groups; ranges are rows of `batch`.
    pub groups: Vec<Group>,
    /// The place of each of these rows in the whole batch.
    pub places: Vec<usize>,
    watches: Vec<Stability>,
    /// Groups that have settled, with ranges of the whole batch.
    settled: Vec<Group>,
    /// Updates of each image of the whole batch.
    steps: Vec<f32>,
}

impl<'a> UnderWay<'a> {
    /// `after` so many updates without a change a group has settled; never if absent.
    pub fn new(batch: &Batch<'a>, groups: Vec<Group>, after: Option<usize>) -> Self {
        let images = batch.ids.len();
        Self {
            batch: batch.clone(),
            watches: vec![Stability::new(after); groups.len()],
            groups,
            places: (0..images).collect(),
            settled: Vec::new(),
            steps: vec![0.0; images],
        }
    }

    /// The ways of the groups that are to make an update now; none when all have settled.
    ///
    /// # Errors
    /// Whatever a model or plugin refuses.
    pub fn passes(&mut self, tools: &mut Toolbox, condition: bool) -> Result<Vec<Pass>> {
        if self.groups.is_empty() {
            return Ok(Vec::new());
        }
        let mut passes = tools.passes(&self.groups, &self.batch.task, condition)?;
        if self.watches.iter().any(Stability::watches) {
            passes = self.leave_settled(tools, passes)?;
        }
        for &place in &self.places {
            self.steps[place] += 1.0;
        }
        Ok(passes)
    }

    /// All groups with their ranges of the whole batch, in its order, and the updates of each image.
    pub fn finish(self) -> (Vec<Group>, Vec<f32>) {
        let places = self.places;
        let moving = self.groups.into_iter().map(|group| within(&places, group));
        let mut groups: Vec<Group> = self.settled.into_iter().chain(moving).collect();
        groups.sort_by_key(|group| group.range.start);
        (groups, self.steps)
    }

    fn leave_settled(&mut self, tools: &mut Toolbox, passes: Vec<Pass>) -> Result<Vec<Pass>> {
        let groups = std::mem::take(&mut self.groups);
        let watches = std::mem::take(&mut self.watches);
        let (mut rows, mut left) = (Vec::new(), Vec::new());
        for ((group, mut watch), pass) in groups.into_iter().zip(watches).zip(passes) {
            let predictions = tools.predict(&pass.outputs, group.range.len())?;
            if watch.settled(&predictions.each) {
                self.settled.push(within(&self.places, group));
                continue;
            }
            let first = rows.len();
            rows.extend(group.range);
            self.groups.push(Group {
                range: first..rows.len(),
                learner: group.learner,
            });
            self.watches.push(watch);
            left.push(pass);
        }
        if rows.len() < self.places.len() {
            self.places = rows.iter().map(|&row| self.places[row]).collect();
            if !rows.is_empty() {
                self.batch = self.batch.select(&rows)?;
            }
        }
        Ok(left)
    }
}

/// A group with its range of the whole batch. Its images are beside each other there too.
fn within(places: &[usize], group: Group) -> Group {
    let first = places[group.range.start];
    Group {
        range: first..first + group.range.len(),
        learner: group.learner,
    }
}

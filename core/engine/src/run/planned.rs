//! How a run can be cut, and what each shard takes: what a program needs to place shards on workers.

use serde::Serialize;

use super::closed::ShardId;
use super::unit::{self, Shard};
use crate::error::Result;
use crate::plan::Work;
use crate::prepare::Prepared;

/// A shard before it is run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlannedShard {
    /// Which one.
    #[serde(flatten)]
    pub shard: ShardId,
    /// Its samples.
    pub samples: usize,
    /// The domains that they are from, in stream order.
    pub domains: Vec<String>,
    /// Draws through the denoiser, forward and backward, if no sample is left as it is.
    pub draws: usize,
    /// Seconds of adaptation on this process's devices, about: from the times of one draw and one image. Opening the models comes on top.
    pub seconds: f64,
}

impl Prepared {
    /// The shards of a run that is cut into `count`, or into as many as it has units. Reads all of the stream's files, and measures one draw
    /// and one image.
    ///
    /// # Errors
    /// [`Error::Shard`](crate::Error::Shard) for more shards than units; files that cannot be read; whatever the models refuse.
    pub fn plan(&mut self, count: Option<usize>) -> Result<Vec<PlannedShard>> {
        let units = self.units();
        let count = count.unwrap_or(units.len());
        let identity = self.identity()?;
        let seed = self.experiment().seed;
        let work = Work::of(&mut self.adapter, &self.devices)?;
        let shards = (0..count).filter_map(|index| Shard::new(index, count));
        shards
            .map(|shard| {
                let range = unit::range(&units, self.experiment().adaptation.mode, shard)?;
                let places = range.clone().filter_map(|at| self.stream.order().place(at));
                let mut domains: Vec<String> = Vec::new();
                for (domain, _) in places {
                    let name = &self.stream.domains()[domain].name;
                    if !domains.contains(name) {
                        domains.push(name.clone());
                    }
                }
                Ok(PlannedShard {
                    shard: ShardId::new(&identity, seed, shard, &range),
                    samples: range.len(),
                    domains,
                    draws: work.steps * work.draws * range.len(),
                    seconds: work.seconds() * range.len() as f64,
                })
            })
            .collect()
    }
}

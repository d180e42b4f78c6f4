//! Scores: what a metric accumulates over samples, for the source model and the adapted one.

use dtta_base::TargetType;
use dtta_data::{IGNORE, StreamItem, Target};
use dtta_plugin::{Accuracy, Environment, Metric, Plugin, Predicts, ScoreSpec};
use dtta_tensor::{Device, Named, Tensor};
use serde_json::Value;

use crate::error::Result;
use crate::record::Scores;

/// Where accumulators come from, and how their scores are to be read.
pub(crate) struct Scorer {
    origin: Origin,
    specs: Vec<ScoreSpec>,
    additive: bool,
}

enum Origin {
    /// The core's accuracy.
    Core,
    /// A plugin's metric with its configuration.
    Plugin(Box<(Plugin, Value, Environment)>),
}

/// What the metric says of one sample by itself, of the source model and of the adapted one.
#[derive(Debug, Clone)]
pub struct Scored {
    /// Saved accumulators.
    pub states: [Vec<u8>; 2],
    /// Their scores.
    pub scores: [Scores; 2],
}

impl Scorer {
    /// The core's accuracy.
    pub fn core() -> Self {
        Self {
            origin: Origin::Core,
            specs: Accuracy::SCORES.to_vec(),
            additive: true,
        }
    }

    /// A plugin's metric.
    pub fn plugin(plugin: Plugin, config: Value, environment: Environment) -> Self {
        Self {
            specs: plugin.scores().to_vec(),
            additive: plugin.additive(),
            origin: Origin::Plugin(Box::new((plugin, config, environment))),
        }
    }

    /// How scores are to be read.
    pub fn specs(&self) -> &[ScoreSpec] {
        &self.specs
    }

    /// Whether saved accumulators add up, number by number.
    pub fn additive(&self) -> bool {
        self.additive
    }

    /// The score that stands for all: the one that leads, or else the first by name.
    pub fn leading(&self, scores: &Scores) -> String {
        let leads =
            |name: &&String| ScoreSpec::of(&self.specs, name).is_some_and(|spec| spec.leads);
        let name = scores.keys().find(leads).or_else(|| scores.keys().next());
        name.cloned().unwrap_or_default()
    }

    /// An empty accumulator.
    pub fn fresh(&self) -> Result<Box<dyn Metric>> {
        Ok(match &self.origin {
            Origin::Core => Box::new(Accuracy::new()),
            Origin::Plugin(of) => {
                let (plugin, config, environment) = &**of;
                plugin.metric(config, environment)?
            }
        })
    }

    /// What each sample comes to by itself.
    ///
    /// # Errors
    /// Whatever the metric refuses.
    pub fn each(
        &self,
        [source, adapted]: [&Named; 2],
        targets: &Named,
        samples: usize,
    ) -> Result<Vec<Scored>> {
        let one = |predictions: &Named, sample: usize| -> Result<(Vec<u8>, Scores)> {
            let row = |named: &Named| named.try_map(|tensor| tensor.narrow(0, sample, 1));
            let mut metric = self.fresh()?;
            metric.update(&row(predictions)?, &row(targets)?)?;
            Ok((metric.save(), metric.report()?))
        };
        let each = (0..samples).map(|sample| {
            let (source, adapted) = (one(source, sample)?, one(adapted, sample)?);
            Ok(Scored {
                states: [source.0, adapted.0],
                scores: [source.1, adapted.1],
            })
        });
        each.collect()
    }
}

/// The scores of one domain so far, to show while a run goes on.
pub(crate) struct Running([Box<dyn Metric>; 2]);

impl Running {
    /// Of no samples.
    pub fn new(scorer: &Scorer) -> Result<Self> {
        Ok(Self([scorer.fresh()?, scorer.fresh()?]))
    }

    /// Of what was saved.
    pub fn of(scorer: &Scorer, saved: &[Vec<u8>; 2]) -> Result<Self> {
        let mut running = Self::new(scorer)?;
        running.add(saved)?;
        Ok(running)
    }

    /// Adds what was accumulated of a sample, or of several.
    pub fn add(&mut self, saved: &[Vec<u8>; 2]) -> Result<()> {
        for (metric, saved) in self.0.iter_mut().zip(saved) {
            metric.merge(saved)?;
        }
        Ok(())
    }

    /// What there is, to go back to.
    pub fn save(&self) -> [Vec<u8>; 2] {
        [self.0[0].save(), self.0[1].save()]
    }

    /// The scores of the source model and of the adapted one.
    pub fn report(&mut self) -> Result<[Scores; 2]> {
        Ok([self.0[0].report()?, self.0[1].report()?])
    }
}

/// What is known of some samples under the name of what the head predicts, for metrics only; `None` unless it is known of all of them.
/// Pixels of which nothing is known carry the head's own mark.
///
/// # Errors
/// Whatever the device refuses.
pub(crate) fn targets(
    predicts: &Predicts,
    items: &[StreamItem],
    device: &Device,
) -> Result<Option<Named>> {
    let found: Option<Vec<&Target>> = items
        .iter()
        .map(|item| item.targets.get(&predicts.name))
        .collect();
    let Some(found) = found.filter(|found| !found.is_empty()) else {
        return Ok(None);
    };
    let count = found.len();
    let tensor = match predicts.target {
        TargetType::ClassIndex {} => {
            let classes: Option<Vec<i64>> = found
                .iter()
                .map(|target| target.class().map(i64::from))
                .collect();
            classes
                .map(|classes| Tensor::from_ints(&classes, &[count], device))
                .transpose()?
        }
        TargetType::LabelMap { ignore } => {
            let maps: Option<Vec<_>> = found.iter().map(|target| target.labels()).collect();
            let maps = maps.unwrap_or_default();
            let label = |&label: &u8| match label {
                IGNORE => ignore,
                label => label.into(),
            };
            let labels: Vec<i64> = maps
                .iter()
                .flat_map(|map| map.data().iter().map(label))
                .collect();
            let first = maps.first().map(|map| map.extents());
            first
                .map(|[height, width]| Tensor::from_ints(&labels, &[count, height, width], device))
                .transpose()?
        }
        TargetType::NumberMap { invalid, .. } => {
            let maps: Option<Vec<_>> = found.iter().map(|target| target.numbers()).collect();
            let maps = maps.unwrap_or_default();
            let mut numbers = Vec::new();
            for map in &maps {
                let [channels, height, width] = map.shape();
                let pixels = height * width;
                let known: Vec<bool> = (0..pixels).map(|pixel| map.is_known(pixel)).collect();
                for channel in 0..channels {
                    let of_channel = &map.data()[channel * pixels..(channel + 1) * pixels];
                    numbers.extend(of_channel.iter().zip(&known).map(|(&number, &known)| {
                        if known { number } else { invalid as f32 }
                    }));
                }
            }
            let first = maps.first().map(|map| map.shape());
            let shaped = first.map(|[channels, height, width]| match channels {
                1 => Tensor::from_floats(&numbers, &[count, height, width], device),
                _ => Tensor::from_floats(&numbers, &[count, channels, height, width], device),
            });
            shaped.transpose()?
        }
    };
    Ok(tensor.map(|tensor| Named::one(predicts.name.clone(), tensor)))
}

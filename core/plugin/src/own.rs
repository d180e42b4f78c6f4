//! Roles that the program itself computes, in the place of a plugin's: to try out what will be a plugin. They are held to what plugins are
//! held to, and descriptions of runs name them as the program's.

use std::collections::BTreeMap;
use std::sync::Arc;

use dtta_tensor::{Named, Tensor};

use crate::checked::SlotSpec;
use crate::environment::Environment;
use crate::error::{Place, PluginError, Result};
use crate::manifest::Role;
use crate::roles::{Mapper, Metric};

/// What makes a program's role.
#[derive(Clone)]
pub(crate) enum Own {
    Mapper(Arc<MakesMapper>),
    Metric(Arc<Score>),
}

/// A mapper for a denoiser with these slots.
pub(crate) type MakesMapper =
    dyn Fn(&[SlotSpec], &Environment) -> Result<Box<dyn Mapper>> + Send + Sync;

/// The scores of one sample by name, from predictions and targets of one row.
pub(crate) type Score = dyn Fn(&Named, &Named) -> Result<BTreeMap<String, f64>> + Send + Sync;

impl Own {
    pub fn role(&self) -> Role {
        match self {
            Self::Mapper(_) => Role::Mapper,
            Self::Metric(_) => Role::Metric,
        }
    }
}

/// Scores are summed as whole numbers and as fractions in units of 2^-62, so that sums do not depend on their order.
const UNITS: f64 = (1u64 << 62) as f64;

/// What a score of one sample may be at most, either way.
const MOST: f64 = (1u64 << 40) as f64;

/// Means over samples of the scores that a function gives to each. What it saves is JSON of whole numbers that merge by addition.
pub(crate) struct Means {
    score: Arc<Score>,
    plugin: String,
    sums: Sums,
}

/// By name, the sums of whole numbers and of fractions in [`UNITS`], and the samples.
type Sums = BTreeMap<String, (i128, i128, u64)>;

impl Means {
    pub fn new(plugin: &str, score: Arc<Score>) -> Self {
        Self {
            score,
            plugin: plugin.into(),
            sums: BTreeMap::new(),
        }
    }

    fn refuse(&self, function: &'static str, message: String) -> PluginError {
        PluginError::Failed {
            place: Place::new(&self.plugin, Role::Metric, function),
            code: "invalid-scores".into(),
            message,
        }
    }

    /// Both together: the same scores, of the samples of both.
    fn plus(&self, function: &'static str, other: Sums) -> Result<Sums> {
        if self.sums.is_empty() || other.is_empty() {
            return Ok(match other.is_empty() {
                true => self.sums.clone(),
                false => other,
            });
        }
        if !self.sums.keys().eq(other.keys()) {
            let [before, now] = [&self.sums, &other].map(|sums| {
                let names: Vec<String> = sums.keys().map(|name| format!("`{name}`")).collect();
                names.join(", ")
            });
            let message = format!("the scores of a sample are {now}, those before {before}");
            return Err(self.refuse(function, message));
        }
        let both = self.sums.iter().zip(other.values());
        let sums: Option<_> = both
            .map(|((name, own), other)| {
                let (whole, part) = (own.0.checked_add(other.0)?, own.1.checked_add(other.1)?);
                Some((name.clone(), (whole, part, own.2.checked_add(other.2)?)))
            })
            .collect();
        sums.ok_or_else(|| self.refuse(function, "the scores add up to too much".into()))
    }
}

impl Metric for Means {
    fn update(&mut self, predictions: &Named, targets: &Named) -> Result<()> {
        let first = predictions.tensors().next();
        let samples = first.map_or(0, |tensor| tensor.shape()[0]);
        for sample in 0..samples {
            let row = |tensor: &Tensor| {
                tensor
                    .narrow(0, sample, 1)
                    .map_err(|error| self.refuse("update", error.to_string()))
            };
            let (predictions, targets) = (predictions.try_map(row)?, targets.try_map(row)?);
            let scores = (self.score)(&predictions, &targets)?;
            if scores.is_empty() {
                return Err(self.refuse("update", "a sample has no scores".into()));
            }
            let mut found = BTreeMap::new();
            for (name, score) in scores {
                // NaN is not within either.
                if !(-MOST..=MOST).contains(&score) {
                    let message = format!(
                        "the score `{name}` of a sample is {score}, expected a number from -2^40 to 2^40"
                    );
                    return Err(self.refuse("update", message));
                }
                let whole = score.floor();
                let part = ((score - whole) * UNITS) as i128;
                found.insert(name, (whole as i128, part, 1));
            }
            self.sums = self.plus("update", found)?;
        }
        Ok(())
    }

    fn save(&self) -> Vec<u8> {
        // Whole numbers under names, which JSON has.
        serde_json::to_vec(&self.sums).unwrap_or_default()
    }

    fn merge(&mut self, saved: &[u8]) -> Result<()> {
        let other = serde_json::from_slice(saved)
            .map_err(|error| self.refuse("merge", format!("these are no saved means: {error}")))?;
        self.sums = self.plus("merge", other)?;
        Ok(())
    }

    fn report(&mut self) -> Result<BTreeMap<String, f64>> {
        let means = self.sums.iter();
        Ok(means
            .map(|(name, &(whole, part, samples))| {
                let sum = whole as f64 + part as f64 / UNITS;
                (name.clone(), sum / samples as f64)
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use dtta_tensor::Device;

    use super::*;
    use crate::plugin::{LoaderKind, Plugin};
    use crate::task::ScoreSpec;
    use crate::values::{ValueSpec, Values};

    fn named(name: &str, values: &[f32]) -> Named {
        let tensor = Tensor::from_floats(values, &[values.len()], &Device::cpu()).unwrap();
        Named::one(name, tensor)
    }

    fn difference() -> Plugin {
        let scores = vec![ScoreSpec {
            name: "difference".into(),
            higher_is_better: Some(false),
            unit: Some("m".into()),
            leads: true,
        }];
        let score = |predictions: &Named, targets: &Named| {
            let item = |named: &Named| f64::from(named.tensors().next().unwrap().item().unwrap());
            Ok([("difference".to_owned(), item(predictions) - item(targets))].into())
        };
        Plugin::own_metric("mine", "d1", scores, score).unwrap()
    }

    fn metric(plugin: &Plugin) -> Box<dyn Metric> {
        plugin
            .metric(&serde_json::json!({}), &Environment::default())
            .unwrap()
    }

    #[test]
    fn means_are_the_same_in_any_order_and_however_they_are_merged() {
        let plugin = difference();
        assert_eq!(
            (plugin.loader(), plugin.digest(), plugin.additive()),
            (LoaderKind::Program, "d1", true)
        );
        let (found, expected) = ([1e9f32, 0.1, -3.0, 1e-7], [0.25f32, 0.2, 1e9, 0.0]);
        let mut together = metric(&plugin);
        assert!(together.report().unwrap().is_empty());
        together
            .update(&named("x", &found), &named("x", &expected))
            .unwrap();
        let mut merged = metric(&plugin);
        for sample in [2, 0, 3, 1] {
            let mut one = metric(&plugin);
            one.update(
                &named("x", &found[sample..=sample]),
                &named("x", &expected[sample..=sample]),
            )
            .unwrap();
            merged.merge(&one.save()).unwrap();
        }
        merged.merge(&metric(&plugin).save()).unwrap();
        assert_eq!(merged.save(), together.save());
        assert_eq!(merged.report().unwrap(), together.report().unwrap());
        let pairs = found.iter().zip(&expected);
        let sum: f64 = pairs.map(|(&a, &b)| f64::from(a) - f64::from(b)).sum();
        let mean = together.report().unwrap()["difference"];
        assert!((mean - sum / 4.0).abs() < 1e-6, "{mean} {sum}");
        let (_, numbers) = crate::Layout::split(&together.save()).unwrap();
        assert_eq!(numbers[2], 4);
    }

    #[test]
    fn scores_that_cannot_be_averaged_are_refused_and_change_nothing() {
        let mut mine = metric(&difference());
        mine.update(&named("x", &[2.0]), &named("x", &[1.0]))
            .unwrap();
        for (wrong, words) in [
            (f32::NAN, "is NaN"),
            (f32::INFINITY, "is inf"),
            (1e20, "from -2^40"),
        ] {
            let error = mine.update(&named("x", &[wrong]), &named("x", &[0.0]));
            let message = error.unwrap_err().to_string();
            assert!(
                message.starts_with("plugin `mine`, metric.update") && message.contains(words),
                "{message}"
            );
        }
        let error = mine.merge(br#"{"other":[1,0,1]}"#).unwrap_err().to_string();
        assert!(
            error.contains("`other`, those before `difference`"),
            "{error}"
        );
        assert!(mine.merge(b"[]").is_err());
        assert_eq!(mine.report().unwrap(), [("difference".into(), 1.0)].into());
    }

    /// Answers with what it is given, under another name.
    struct Renamed(&'static str);

    impl Mapper for Renamed {
        fn values(&self) -> &[ValueSpec] {
            &[]
        }

        fn condition(&mut self, outputs: &Named, _: &mut Values) -> Result<Named> {
            let first = outputs.tensors().next().cloned();
            Ok(first.map_or_else(Named::new, |first| Named::one(self.0, first)))
        }

        fn usage(&self) -> dtta_tensor::Usage {
            dtta_tensor::Usage::default()
        }
    }

    #[test]
    fn a_mapper_of_the_programs_is_held_to_the_slots() {
        let slots = [SlotSpec {
            name: "slot".into(),
            meaning: "spatial".into(),
            shape: vec![None],
        }];
        for (name, fits) in [("slot", true), ("slt", false)] {
            let plugin = Plugin::own_mapper("mine", "d2", move |slots, _| {
                assert_eq!(slots[0].name, "slot");
                Ok(Box::new(Renamed(name)) as Box<dyn Mapper>)
            });
            let plugin = plugin.unwrap();
            let none = serde_json::json!({});
            let mut mapper = plugin
                .mapper(&none, &slots, &Environment::default())
                .unwrap();
            let answer = mapper.condition(&named("x", &[1.0, 2.0]), &mut Values::none());
            assert_eq!(answer.is_ok(), fits);
            let refused = plugin.metric(&none, &Environment::default());
            assert!(refused.is_err_and(|error| error.to_string().contains("no role `metric`")));
        }
    }
}

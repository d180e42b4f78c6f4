//! Metrics of plugins. What a metric has accumulated is kept here as it saved it, so a plugin that panics or traps takes
//! no score with it, and what failed counts for nothing: after any failure the accumulator is dropped, and the next
//! call gets a new one that is given the saved bytes.

use std::collections::BTreeMap;

use dtta_tensor::Named;

use crate::error::Result;
use crate::roles::Metric;

/// An accumulator in a plugin, through some loader.
pub(crate) trait Accumulator: Send {
    /// Whether there is one.
    fn is_alive(&self) -> bool;
    /// Makes an empty one.
    fn start(&mut self) -> Result<()>;
    /// Drops it.
    fn stop(&mut self);
    /// Adds samples.
    fn add(&mut self, predictions: &Named, targets: &Named) -> Result<()>;
    /// Adds what another has saved.
    fn restore(&mut self, saved: &[u8]) -> Result<()>;
    /// Saves it.
    fn fetch(&mut self) -> Result<Vec<u8>>;
    /// Its scores.
    fn scores(&mut self) -> Result<BTreeMap<String, f64>>;
}

/// A metric that outlives its plugin's failures.
pub(crate) struct Saved<A> {
    accumulator: A,
    bytes: Vec<u8>,
}

impl<A: Accumulator> Saved<A> {
    /// Takes an empty accumulator.
    ///
    /// # Errors
    /// Whatever saving it fails with.
    pub(crate) fn new(mut accumulator: A) -> Result<Self> {
        let bytes = accumulator.fetch()?;
        Ok(Self { accumulator, bytes })
    }

    /// Runs on an accumulator that holds all that was saved, or not at all.
    fn run<T>(&mut self, run: impl FnOnce(&mut A) -> Result<T>) -> Result<T> {
        let Self { accumulator, bytes } = self;
        let prepared = if accumulator.is_alive() {
            Ok(())
        } else {
            accumulator
                .start()
                .and_then(|()| accumulator.restore(bytes))
        };
        // One that lacks what was saved, or holds a part of what failed, must not pass for the metric.
        prepared
            .and_then(|()| run(accumulator))
            .inspect_err(|_| accumulator.stop())
    }
}

impl<A: Accumulator> Metric for Saved<A> {
    fn update(&mut self, predictions: &Named, targets: &Named) -> Result<()> {
        self.bytes = self.run(|accumulator| {
            accumulator.add(predictions, targets)?;
            accumulator.fetch()
        })?;
        Ok(())
    }

    fn save(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    fn merge(&mut self, saved: &[u8]) -> Result<()> {
        self.bytes = self.run(|accumulator| {
            accumulator.restore(saved)?;
            accumulator.fetch()
        })?;
        Ok(())
    }

    fn report(&mut self) -> Result<BTreeMap<String, f64>> {
        self.run(A::scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Place, PluginError};
    use crate::manifest::Role;

    /// Counts calls of `add` in one byte.
    #[derive(Default)]
    struct Counter {
        count: Option<u8>,
        /// The next call of this name fails, after it has done its part.
        fails: &'static str,
    }

    impl Counter {
        fn failing(&mut self, function: &'static str) -> Result<()> {
            if self.fails != function {
                return Ok(());
            }
            self.fails = "";
            Err(PluginError::Failed {
                place: Place::new("counter", Role::Metric, function),
                code: "plugin".into(),
                message: "not now".into(),
            })
        }

        fn raise(&mut self, by: u8) {
            self.count = Some(self.count.unwrap() + by);
        }
    }

    impl Accumulator for Counter {
        fn is_alive(&self) -> bool {
            self.count.is_some()
        }

        fn start(&mut self) -> Result<()> {
            self.count = Some(0);
            self.failing("create")
        }

        fn stop(&mut self) {
            self.count = None;
        }

        fn add(&mut self, _: &Named, _: &Named) -> Result<()> {
            self.raise(1);
            self.failing("update")
        }

        fn restore(&mut self, saved: &[u8]) -> Result<()> {
            self.raise(saved[0]);
            self.failing("merge")
        }

        fn fetch(&mut self) -> Result<Vec<u8>> {
            self.failing("save")?;
            Ok(vec![self.count.unwrap()])
        }

        fn scores(&mut self) -> Result<BTreeMap<String, f64>> {
            self.failing("report")?;
            Ok([("count".into(), self.count.unwrap().into())].into())
        }
    }

    fn two() -> Saved<Counter> {
        let counter = Counter {
            count: Some(0),
            fails: "",
        };
        let mut metric = Saved::new(counter).unwrap();
        for _ in 0..2 {
            metric.update(&Named::new(), &Named::new()).unwrap();
        }
        metric
    }

    fn function(error: &PluginError) -> &'static str {
        let PluginError::Failed { place, .. } = error else {
            panic!("{error}")
        };
        place.function
    }

    #[test]
    fn what_failed_counts_for_nothing() {
        for fails in ["update", "save"] {
            let mut metric = two();
            metric.accumulator.fails = fails;
            let error = metric.update(&Named::new(), &Named::new()).unwrap_err();
            assert_eq!(function(&error), fails);
            assert_eq!(
                (metric.save(), metric.report().unwrap()["count"]),
                (vec![2], 2.0)
            );
        }
        let mut metric = two();
        metric.accumulator.fails = "merge";
        assert_eq!(function(&metric.merge(&[5]).unwrap_err()), "merge");
        assert_eq!(metric.report().unwrap()["count"], 2.0);
        metric.merge(&[5]).unwrap();
        assert_eq!(
            (metric.save(), metric.report().unwrap()["count"]),
            (vec![7], 7.0)
        );
    }

    #[test]
    fn an_accumulator_that_cannot_be_restored_is_not_taken_for_an_empty_one() {
        for fails in ["create", "merge"] {
            let mut metric = two();
            metric.accumulator.stop();
            metric.accumulator.fails = fails;
            assert_eq!(function(&metric.report().unwrap_err()), fails);
            assert!(!metric.accumulator.is_alive());
            assert_eq!(metric.save(), [2]);
            metric.accumulator.fails = fails;
            let error = metric.update(&Named::new(), &Named::new()).unwrap_err();
            assert_eq!(function(&error), fails);
            assert_eq!(metric.save(), [2]);
            metric.update(&Named::new(), &Named::new()).unwrap();
            assert_eq!(metric.report().unwrap()["count"], 3.0);
        }
    }
}

//! Which classes were taken for which, before and after.

use std::collections::BTreeMap;

use dtta::Record;

/// Counts by true and predicted class.
#[derive(Debug, Clone, Default)]
pub struct Confusion {
    counts: BTreeMap<(u32, i64), [u32; 2]>,
    names: BTreeMap<i64, String>,
}

/// How the count of one confusion changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The true class.
    pub truth: i64,
    /// The predicted one.
    pub predicted: i64,
    /// Samples before and after.
    pub counts: [u32; 2],
}

impl Change {
    /// Samples more.
    pub fn difference(&self) -> i64 {
        i64::from(self.counts[1]) - i64::from(self.counts[0])
    }
}

impl Confusion {
    /// Adds a sample whose class is known.
    ///
    /// # Errors
    /// In words, a class that none can be.
    pub fn add(&mut self, record: &Record) -> Result<(), String> {
        let Some(target) = record.target else {
            return Ok(());
        };
        let pairs = [
            (Some(i64::from(target)), &record.target_name),
            (record.source.prediction, &record.source.prediction_name),
            (record.adapted.prediction, &record.adapted.prediction_name),
        ];
        for (class, name) in pairs {
            if let (Some(class), Some(name)) = (class, name)
                && !self.names.contains_key(&class)
            {
                self.names.insert(class, name.clone());
            }
        }
        for (n, said) in [&record.source, &record.adapted].into_iter().enumerate() {
            if let Some(predicted) = said.prediction {
                if predicted < 0 {
                    return Err(format!(
                        "has a prediction of {predicted} for `{}`",
                        record.id
                    ));
                }
                self.counts.entry((target, predicted)).or_default()[n] += 1;
            }
        }
        Ok(())
    }

    /// The class by its name, or its number.
    pub fn name(&self, class: i64) -> String {
        self.names
            .get(&class)
            .cloned()
            .unwrap_or_else(|| class.to_string())
    }

    /// All classes that are true or predicted somewhere.
    pub fn classes(&self) -> Vec<i64> {
        let mut classes: Vec<i64> = self
            .counts
            .keys()
            .flat_map(|&(truth, predicted)| [truth.into(), predicted])
            .collect();
        classes.sort_unstable();
        classes.dedup();
        classes
    }

    /// All counts that changed, most changed first, then by class.
    pub fn changes(&self) -> Vec<Change> {
        let mut changes: Vec<Change> = self
            .counts
            .iter()
            .map(|(&(truth, predicted), &counts)| Change {
                truth: truth.into(),
                predicted,
                counts,
            })
            .filter(|change| change.difference() != 0)
            .collect();
        changes.sort_by_key(|change| std::cmp::Reverse(change.difference().abs()));
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(target: u32, source: i64, adapted: i64) -> Record {
        let text = format!(
            r#"{{"position":0,"id":"a","domain":"d","target":{target},"target_name":"n{target}",
                "source":{{"prediction":{source}}},"adapted":{{"prediction":{adapted}}},"loss":[],"milliseconds":1}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn changes_are_those_of_the_counts_and_the_largest_come_first() {
        let mut confusion = Confusion::default();
        for (target, source, adapted) in [(0, 1, 0), (0, 1, 0), (0, 0, 0), (1, 1, 2)] {
            confusion.add(&record(target, source, adapted)).unwrap();
        }
        let seen: Vec<_> = confusion
            .changes()
            .iter()
            .map(|c| (c.truth, c.predicted, c.difference()))
            .collect();
        assert_eq!(seen, [(0, 0, 2), (0, 1, -2), (1, 1, -1), (1, 2, 1)]);
        assert_eq!(confusion.classes(), [0, 1, 2]);
        assert_eq!([confusion.name(1), confusion.name(2)], ["n1", "2"]);
        assert!(confusion.add(&record(0, -1, 0)).is_err());
    }
}

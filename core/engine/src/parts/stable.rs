//! Predictions that have settled: what further steps no longer change.

use crate::record::Prediction;

/// What images that share θ were said to be, step after step.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stability {
    /// So many updates in a row that change no prediction are enough; no number is if absent.
    after: Option<usize>,
    last: Vec<Prediction>,
    unchanged: usize,
}

impl Stability {
    pub fn new(after: Option<usize>) -> Self {
        Self {
            after,
            ..Self::default()
        }
    }

    /// Whether predictions are of any interest.
    pub fn watches(&self) -> bool {
        self.after.is_some()
    }

    /// Takes the predictions before the next update; says whether that is not worth making. Predictions that are no classes never settle.
    pub fn settled(&mut self, predictions: &[Prediction]) -> bool {
        let same = |(a, b): (&Prediction, &Prediction)| {
            a.prediction.is_some() && a.prediction == b.prediction
        };
        let both = self.last.iter().zip(predictions);
        let unchanged = self.last.len() == predictions.len() && both.into_iter().all(same);
        self.unchanged = if unchanged { self.unchanged + 1 } else { 0 };
        self.last = predictions.to_vec();
        self.after.is_some_and(|after| self.unchanged >= after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many updates are made of an image that is said to be these classes before the first and after each.
    fn updates(after: Option<usize>, classes: &[Option<i64>]) -> usize {
        let mut watch = Stability::new(after);
        let of = |&class: &Option<i64>| Prediction {
            prediction: class,
            prediction_name: None,
            confidence: None,
            scores: Default::default(),
        };
        let settled = classes.iter().position(|class| watch.settled(&[of(class)]));
        settled.unwrap_or(classes.len() - 1)
    }

    #[test]
    fn the_updates_end_after_as_many_as_changed_nothing_in_a_row() {
        // 2 to 2 is one without a change, then 2 to 5 begins anew; 5, 5, 5 are two.
        let classes = [2, 2, 5, 5, 5, 1, 1].map(Some);
        assert_eq!(updates(Some(1), &classes), 1);
        assert_eq!(updates(Some(2), &classes), 4);
        assert_eq!(updates(Some(3), &classes), 6);
        assert_eq!(updates(None, &classes), 6);
    }

    #[test]
    fn one_image_that_changes_keeps_all_moving_that_share_weights() {
        let of = |classes: [i64; 2]| {
            classes.map(|class| Prediction {
                prediction: Some(class),
                prediction_name: None,
                confidence: None,
                scores: Default::default(),
            })
        };
        let mut watch = Stability::new(Some(1));
        assert!(!watch.settled(&of([1, 2])));
        assert!(!watch.settled(&of([1, 3])));
        assert!(watch.settled(&of([1, 3])));
    }

    #[test]
    fn what_is_no_class_never_settles() {
        assert_eq!(updates(Some(1), &[None, None, None]), 2);
    }
}

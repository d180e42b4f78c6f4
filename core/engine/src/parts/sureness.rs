//! Which of two models is surer of an image. Each is measured against itself: how sure it was of the images before, and how many classes it
//! tells apart. A model that has become sure of everything is surer of nothing, and one that always says the same says little.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use dtta_learn::State;
use dtta_tensor::{Device, Tensor};

use crate::error::{Error, Result};
use crate::record::Prediction;

/// What the source model and the adapted one said of the last images of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Sureness {
    /// How many images are looked back on; a batch that is larger is looked back on whole.
    window: usize,
    source: Said,
    adapted: Said,
}

impl Sureness {
    pub fn new(window: usize) -> Self {
        Self {
            window,
            source: Said::default(),
            adapted: Said::default(),
        }
    }

    /// The images of a batch on whose class the models disagree and of which the source model is surer.
    ///
    /// # Errors
    /// [`Error::NoConfidence`] for predictions that are no classes of whole images, or do not say how sure they are.
    pub fn source_is_surer(
        &mut self,
        source: &[Prediction],
        adapted: &[Prediction],
    ) -> Result<Vec<usize>> {
        let of_source = self.source.sureness(source, self.window)?;
        let of_adapted = self.adapted.sureness(adapted, self.window)?;
        let images = (0..source.len()).filter(|&image| {
            let disagree = source[image].prediction != adapted[image].prediction;
            disagree && of_source[image] > of_adapted[image]
        });
        Ok(images.collect())
    }

    pub fn state(&self) -> State {
        let mut state = State::new();
        state.put("source", self.source.state());
        state.put("adapted", self.adapted.state());
        state
    }

    /// Takes up a state.
    ///
    /// # Errors
    /// [`dtta_learn::Error::Unknown`].
    pub fn restore(&mut self, mut state: State) -> Result<()> {
        self.source.restore(state.take("source"))?;
        self.adapted.restore(state.take("adapted"))?;
        Ok(state.finish()?)
    }
}

/// What a model said of some images: `[2, images]`, confidences and classes, the last image at the end; nothing before there was one.
#[derive(Debug, Clone, Default)]
struct Said(Option<Tensor>);

impl Said {
    /// Takes in a batch, and says how sure the model is of each of its images: the share of the images looked back on of which it was less
    /// sure, those of which it was as sure counting half, times the number of classes that it tells apart there, which is the perplexity
    /// of how often it said each.
    fn sureness(&mut self, batch: &[Prediction], window: usize) -> Result<Vec<f64>> {
        let newest = batch.iter();
        let newest = newest.map(|said| Some((said.confidence?, said.prediction? as f32)));
        let newest: Option<Vec<(f32, f32)>> = newest.collect();
        let newest = newest.ok_or(Error::NoConfidence)?;
        let mut seen = self.seen()?;
        seen.extend(&newest);
        seen.drain(..seen.len().saturating_sub(window.max(newest.len())));
        let rows: (Vec<f32>, Vec<f32>) = seen.iter().copied().unzip();
        let values = [rows.0, rows.1].concat();
        self.0 = Some(Tensor::from_floats(
            &values,
            &[2, seen.len()],
            &Device::cpu(),
        )?);
        let classes = perplexity(seen.iter().map(|&(_, class)| class as i64));
        let sureness = |(confidence, _)| {
            let count = |order| {
                let seen = seen.iter().map(|(other, _)| other.total_cmp(&confidence));
                seen.filter(|&found| found == order).count() as f64
            };
            let less_sure = count(Ordering::Less) + 0.5 * count(Ordering::Equal);
            less_sure / seen.len() as f64 * classes
        };
        Ok(newest.into_iter().map(sureness).collect())
    }

    fn seen(&self) -> Result<Vec<(f32, f32)>> {
        let values = self.0.as_ref().map(Tensor::to_floats).transpose()?;
        let values = values.unwrap_or_default();
        let (confidences, classes) = values.split_at(values.len() / 2);
        let both = confidences.iter().copied().zip(classes.iter().copied());
        Ok(both.collect())
    }

    fn state(&self) -> State {
        let mut state = State::new();
        if let Some(seen) = &self.0 {
            state.tensors.insert("seen".into(), seen.clone());
        }
        state
    }

    fn restore(&mut self, mut state: State) -> Result<()> {
        self.0 = state.tensors.remove("seen");
        Ok(state.finish()?)
    }
}

/// The number of classes that would have the entropy of these if each came as often as the others.
fn perplexity(classes: impl Iterator<Item = i64>) -> f64 {
    let mut counts = BTreeMap::new();
    for class in classes {
        *counts.entry(class).or_insert(0.0) += 1.0;
    }
    let all: f64 = counts.values().sum();
    let terms = counts.values().map(|count| count / all);
    terms.map(|share| -share * share.ln()).sum::<f64>().exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(all: &[(i64, f32)]) -> Vec<Prediction> {
        let of = |&(class, confidence): &(i64, f32)| Prediction {
            prediction: Some(class),
            confidence: Some(confidence),
            ..Prediction::default()
        };
        all.iter().map(of).collect()
    }

    #[test]
    fn each_model_is_measured_against_itself() {
        let mut sureness = Sureness::new(4);
        // In each batch both tell as many classes apart.
        // The adapted model is surer of all by far; of the second image it is less sure than of the others, the source model surer.
        let source = said(&[(1, 0.3), (2, 0.6), (3, 0.4)]);
        let adapted = said(&[(1, 0.97), (5, 0.96), (6, 0.99)]);
        assert_eq!(sureness.source_is_surer(&source, &adapted).unwrap(), [1]);
        // Of (0.6, 0.4, 0.5, 0.7) the last is above all four, of (0.96, 0.99, 0.98, 0.97) above two; 0.5 is above two, 0.98 above three.
        let source = said(&[(1, 0.5), (2, 0.7)]);
        let adapted = said(&[(4, 0.98), (5, 0.97)]);
        assert_eq!(sureness.source_is_surer(&source, &adapted).unwrap(), [1]);
    }

    #[test]
    fn a_model_that_says_the_same_of_all_is_no_authority() {
        // Their confidences have the same places, but the source tells four classes apart and the adapted model one. They agree on the first.
        let confidences = [0.2, 0.4, 0.6, 0.8];
        let source: Vec<_> = (1..5).zip(confidences).collect();
        let adapted = confidences.map(|confidence| (1, confidence));
        let mut sureness = Sureness::new(4);
        let surer = sureness.source_is_surer(&said(&source), &said(&adapted));
        assert_eq!(surer.unwrap(), [1, 2, 3]);
        // The other way round it is the source that says little.
        let mut sureness = Sureness::new(4);
        let surer = sureness.source_is_surer(&said(&adapted), &said(&source));
        assert!(surer.unwrap().is_empty());
        assert!((perplexity([0, 1, 2, 3].into_iter()) - 4.0).abs() < 1e-12);
        assert_eq!(perplexity([7, 7].into_iter()), 1.0);
    }

    #[test]
    fn nothing_is_asked_where_both_say_the_same_class_or_are_as_sure() {
        let mut sureness = Sureness::new(8);
        let source = said(&[(1, 0.3), (2, 0.6)]);
        let adapted = said(&[(1, 0.9), (2, 0.5)]);
        let surer = sureness.source_is_surer(&source, &adapted).unwrap();
        assert!(surer.is_empty());
        let mut sureness = Sureness::new(8);
        let adapted = said(&[(3, 0.8), (4, 0.9)]);
        let surer = sureness.source_is_surer(&source, &adapted).unwrap();
        assert!(surer.is_empty());
    }

    #[test]
    fn a_batch_beyond_the_window_is_looked_back_on_whole() {
        let mut sureness = Sureness::new(1);
        // Of the second the source is surest and the adapted model least sure. Beside the last image alone all would be level.
        let source = said(&[(1, 0.5), (2, 0.9), (3, 0.1)]);
        let adapted = said(&[(4, 0.9), (5, 0.1), (6, 0.5)]);
        assert_eq!(sureness.source_is_surer(&source, &adapted).unwrap(), [1]);
    }

    #[test]
    fn a_model_that_is_sure_of_everything_is_surer_of_nothing() {
        // All of the adapted model's confidences are level, so each has half of the images below it; the source is above that in its upper half.
        let source = said(&[(1, 0.2), (2, 0.4), (3, 0.6), (4, 0.8)]);
        let adapted = said(&[(2, 1.0), (3, 1.0), (4, 1.0), (1, 1.0)]);
        let mut sureness = Sureness::new(4);
        assert_eq!(sureness.source_is_surer(&source, &adapted).unwrap(), [2, 3]);
    }

    #[test]
    fn a_head_that_does_not_say_how_sure_it_is_is_refused() {
        let mut sureness = Sureness::new(4);
        let silent = [Prediction {
            prediction: Some(1),
            ..Prediction::default()
        }];
        let error = sureness.source_is_surer(&silent, &silent).unwrap_err();
        assert!(matches!(error, Error::NoConfidence), "{error}");
        assert!(!error.is_of_the_batch());
    }
}

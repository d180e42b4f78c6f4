//! The metric of classification that comes with the core: top-1 accuracy, mean confidence and
//! expected calibration error. Counts are whole numbers and sums are fixed-point, so that
//! merging is exact in any order.

use std::borrow::Cow;
use std::collections::BTreeMap;

use dtta_tensor::{Kind, Named, TensorError};
use serde::{Deserialize, Serialize};

use crate::error::{Place, PluginError, Result};
use crate::manifest::Role;
use crate::roles::Metric;
use crate::task::ScoreSpec;

/// Bins of equal width for the calibration error: the number of Guo et al. 2017 (arXiv:1706.04599).
const BINS: usize = 15;

/// Confidences are summed in units of 2^-32, so that sums do not depend on their order.
const CONFIDENCE_UNITS: f64 = (1u64 << 32) as f64;

/// Confidences may lie this far outside 0 to 1, as what was rounded does.
const ROUNDING: f32 = 1e-3;

/// Top-1 accuracy; where the head says how sure it is, also `confidence` and
/// `calibration_error`.
///
/// Predictions: `class`, int `[B]`; optionally `confidence`, float `[B]`, the probability of
/// that class, or `probabilities`, float `[B, N]`, whose largest is taken. Targets: `class`, int
/// `[B]`. Scores are fractions in 0 to 1.
///
/// It is additive: what it saves is JSON of whole numbers that merge by addition (see [`Layout`](crate::Layout)).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accuracy {
    bins: [Bin; BINS],
    /// Samples that came without probabilities.
    unsure: Bin,
}

/// Samples of similar confidence: how many, how many correct ones, and the sum of their confidences in fixed point.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Bin(u64, u64, u64);

impl Bin {
    /// Both together, unless they are more than can be counted.
    fn plus(self, other: Self) -> Option<Self> {
        let Self(samples, correct, confidence) = other;
        Some(Self(
            self.0.checked_add(samples)?,
            self.1.checked_add(correct)?,
            self.2.checked_add(confidence)?,
        ))
    }
}

impl Accuracy {
    /// How its scores are to be read.
    pub const SCORES: &'static [ScoreSpec] = &[
        share("accuracy", Some(true), true),
        share("confidence", None, false),
        share("calibration_error", Some(false), false),
    ];

    /// What it holds against each other, by name: predictions and targets.
    pub const PREDICTION: &'static str = "class";

    /// An accumulator without samples.
    pub fn new() -> Self {
        Self::default()
    }

    /// Samples so far.
    pub fn samples(&self) -> u64 {
        self.all().map(|&Bin(samples, ..)| samples).sum()
    }

    fn all(&self) -> impl Iterator<Item = &Bin> {
        self.bins.iter().chain([&self.unsure])
    }

    /// Both together, unless they are more than can be counted.
    fn plus(&self, other: &Self) -> Option<Self> {
        let mut sum = self.clone();
        for (bin, more) in sum.bins.iter_mut().zip(other.bins) {
            *bin = bin.plus(more)?;
        }
        sum.unsure = sum.unsure.plus(other.unsure)?;
        // Then none of the sums that a report takes is too large.
        let total = sum
            .all()
            .try_fold(Bin::default(), |total, bin| total.plus(*bin));
        total.map(|_| sum)
    }
}

const fn share(name: &'static str, higher_is_better: Option<bool>, leads: bool) -> ScoreSpec {
    ScoreSpec {
        name: Cow::Borrowed(name),
        higher_is_better,
        unit: Some(Cow::Borrowed(ScoreSpec::SHARE)),
        leads,
    }
}

impl Metric for Accuracy {
    fn update(&mut self, predictions: &Named, targets: &Named) -> Result<()> {
        let predicted = classes(predictions, "predictions")?;
        let expected = classes(targets, "targets")?;
        if predicted.len() != expected.len() {
            return Err(refuse(
                "update",
                format!(
                    "{} predictions for {} targets",
                    predicted.len(),
                    expected.len()
                ),
            ));
        }
        let confidences = confidences(predictions, predicted.len())?;
        let mut added = Self::new();
        for (sample, (predicted, expected)) in predicted.iter().zip(&expected).enumerate() {
            let correct = u64::from(predicted == expected);
            let (bin, confidence) = match &confidences {
                Some(confidences) => {
                    let confidence = f64::from(confidences[sample]);
                    // Bin m holds ((m - 1) / M, m / M], as in the paper.
                    let bin = ((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1;
                    (&mut added.bins[bin], confidence)
                }
                None => (&mut added.unsure, 0.0),
            };
            bin.0 += 1;
            bin.1 += correct;
            bin.2 += (confidence * CONFIDENCE_UNITS) as u64;
        }
        *self = self.plus(&added).ok_or_else(|| too_many("update"))?;
        Ok(())
    }

    fn save(&self) -> Vec<u8> {
        // Lists of numbers under two names, which JSON has.
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn merge(&mut self, saved: &[u8]) -> Result<()> {
        let other = serde_json::from_slice(saved).map_err(|error| {
            refuse(
                "merge",
                format!("these are not the bytes of a saved accuracy of this version: {error}"),
            )
        })?;
        *self = self.plus(&other).ok_or_else(|| too_many("merge"))?;
        Ok(())
    }

    fn report(&mut self) -> Result<BTreeMap<String, f64>> {
        let mut report = BTreeMap::new();
        let samples = self.samples();
        if samples == 0 {
            return Ok(report);
        }
        let correct: u64 = self.all().map(|&Bin(_, correct, _)| correct).sum();
        report.insert("accuracy".into(), correct as f64 / samples as f64);
        let sure: u64 = self.bins.iter().map(|&Bin(samples, ..)| samples).sum();
        if sure > 0 {
            let sums = self
                .bins
                .iter()
                .map(|&Bin(_, _, sum)| sum as f64 / CONFIDENCE_UNITS);
            let gaps: f64 = self
                .bins
                .iter()
                .zip(sums)
                .map(|(&Bin(_, correct, _), sum)| (correct as f64 - sum).abs())
                .sum();
            let confidence: f64 = self.bins.iter().map(|&Bin(_, _, sum)| sum as f64).sum();
            report.insert(
                "confidence".into(),
                confidence / CONFIDENCE_UNITS / sure as f64,
            );
            report.insert("calibration_error".into(), gaps / sure as f64);
        }
        Ok(report)
    }
}

/// The class ids under the name `class`.
fn classes(named: &Named, side: &str) -> Result<Vec<i64>> {
    let class = named.get(Accuracy::PREDICTION).ok_or_else(|| {
        let known: Vec<&str> = named.names().collect();
        refuse(
            "update",
            format!("the {side} have no `class`, only {}", known.join(", ")),
        )
    })?;
    if class.kind() != Kind::Int || class.shape().rank() != 1 {
        return Err(refuse(
            "update",
            format!(
                "`class` of the {side} is {} {}, expected int [B]",
                class.kind(),
                class.shape()
            ),
        ));
    }
    class.to_ints().map_err(|error| failed(&error))
}

/// How sure the head is of each sample, if it says so.
fn confidences(predictions: &Named, samples: usize) -> Result<Option<Vec<f32>>> {
    let (name, tensor) = match (
        predictions.get("confidence"),
        predictions.get("probabilities"),
    ) {
        (Some(tensor), _) => ("confidence", tensor),
        (None, Some(tensor)) => ("probabilities", tensor),
        (None, None) => return Ok(None),
    };
    let (kind, shape) = (tensor.kind(), tensor.shape());
    let rank = if name == "confidence" { 1 } else { 2 };
    let width = shape.get(1).copied().unwrap_or(1);
    if kind != Kind::Float || shape.rank() != rank || shape[0] != samples {
        let expected = if rank == 1 {
            format!("[{samples}]")
        } else {
            format!("[{samples}, N]")
        };
        return Err(refuse(
            "update",
            format!("`{name}` is {kind} {shape}, expected float {expected}"),
        ));
    }
    let values = tensor.to_floats().map_err(|error| failed(&error))?;
    let allowed = -ROUNDING..=1.0 + ROUNDING;
    // NaN is in no range, so it is found here, and cannot hide from the largest.
    if let Some(place) = values.iter().position(|value| !allowed.contains(value)) {
        let (row, value) = (place / width, values[place]);
        return Err(refuse(
            "update",
            format!("`{name}` of row {row} is {value}, expected a number from 0 to 1"),
        ));
    }
    let largest = |row: &[f32]| row.iter().copied().fold(0.0, f32::max).min(1.0);
    Ok(Some(values.chunks(width).map(largest).collect()))
}

fn too_many(function: &'static str) -> PluginError {
    refuse(function, "these are more samples than can be counted")
}

fn refuse(function: &'static str, message: impl Into<String>) -> PluginError {
    PluginError::Failed {
        place: Place::new("accuracy", Role::Metric, function),
        code: "invalid-argument".into(),
        message: message.into(),
    }
}

fn failed(error: &TensorError) -> PluginError {
    PluginError::Failed {
        place: Place::new("accuracy", Role::Metric, "update"),
        code: error.code().into(),
        message: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::Layout;
    use dtta_tensor::{Device, Tensor};

    fn class(ids: &[i64]) -> Named {
        let class = Tensor::from_ints(ids, &[ids.len()], &Device::cpu());
        Named::one("class", class.unwrap())
    }

    fn with_probabilities(ids: &[i64], rows: &[f32], classes: usize) -> Named {
        let rows = Tensor::from_floats(rows, &[ids.len(), classes], &Device::cpu());
        class(ids).with("probabilities", rows.unwrap())
    }

    fn with_confidence(ids: &[i64], confidence: &[f32]) -> Named {
        let confidence = Tensor::from_floats(confidence, &[ids.len()], &Device::cpu());
        class(ids).with("confidence", confidence.unwrap())
    }

    #[test]
    fn scores_the_share_of_right_classes() {
        let mut metric = Accuracy::new();
        assert!(metric.report().unwrap().is_empty());
        metric
            .update(&class(&[1, 2, 3, 4]), &class(&[1, 2, 0, 4]))
            .unwrap();
        assert_eq!(
            metric.report().unwrap(),
            BTreeMap::from([("accuracy".into(), 0.75)])
        );
    }

    #[test]
    fn scores_confidence_and_calibration() {
        let mut metric = Accuracy::new();
        // Confidences 0.75 and 0.75 in one bin, one of two right: gap |1 - 1.5| / 2 = 0.25.
        // Confidence 1 in the last bin, right: gap 0. Together 0.5 / 3.
        let predictions = with_probabilities(&[0, 0, 1], &[0.75, 0.25, 0.75, 0.25, 0.0, 1.0], 2);
        metric.update(&predictions, &class(&[0, 1, 1])).unwrap();
        let report = metric.report().unwrap();
        assert!((report["confidence"] - 2.5 / 3.0).abs() < 1e-9);
        assert!((report["calibration_error"] - 0.5 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn takes_the_confidence_that_the_head_gives() {
        let mut from_rows = Accuracy::new();
        from_rows
            .update(
                &with_probabilities(&[0, 1], &[0.6, 0.4, 0.1, 0.9], 2),
                &class(&[0, 0]),
            )
            .unwrap();
        let mut given = Accuracy::new();
        given
            .update(&with_confidence(&[0, 1], &[0.6, 0.9]), &class(&[0, 0]))
            .unwrap();
        assert_eq!(given, from_rows);
    }

    #[test]
    fn merges_in_any_order_to_the_same() {
        let parts: Vec<Accuracy> = [0.1f32, 0.4, 0.7, 1.0]
            .iter()
            .map(|&p| {
                let mut part = Accuracy::new();
                part.update(&with_probabilities(&[0], &[p, 1.0 - p], 2), &class(&[0]))
                    .unwrap();
                part
            })
            .collect();
        let mut forward = Accuracy::new();
        let mut backward = Accuracy::new();
        for part in &parts {
            forward.merge(&part.save()).unwrap();
        }
        for part in parts.iter().rev() {
            backward.merge(&part.save()).unwrap();
        }
        assert_eq!(forward, backward);
        assert_eq!(forward.save(), backward.save());
        assert_eq!(forward.samples(), 4);
        let mut alone = Accuracy::new();
        alone.merge(&forward.save()).unwrap();
        assert_eq!(alone, forward);
    }

    #[test]
    fn refuses_what_it_cannot_score() {
        let mut metric = Accuracy::new();
        let floats = Named::one("class", Tensor::full(&[2], 0.0, &Device::cpu()).unwrap());
        assert!(metric.update(&Named::new(), &class(&[1])).is_err());
        assert!(metric.update(&class(&[1, 2]), &class(&[1])).is_err());
        assert!(metric.update(&floats, &class(&[1, 2])).is_err());
        assert!(
            metric
                .update(&with_probabilities(&[0], &[1.0], 1), &class(&[0, 1]))
                .is_err()
        );
        assert!(metric.merge(b"dtta-accuracy 1\n").is_err());
        assert!(
            metric
                .merge(br#"{"bins": [], "unsure": [0, 0, 0]}"#)
                .is_err()
        );
        assert_eq!(metric, Accuracy::new(), "a refused update adds nothing");
    }

    #[test]
    fn refuses_confidences_that_are_none() {
        let mut metric = Accuracy::new();
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.01, 1.01] {
            for predictions in [
                with_confidence(&[0, 0], &[0.5, wrong]),
                with_probabilities(&[0, 0], &[0.5, 0.5, 0.9, wrong], 2),
            ] {
                let error = metric.update(&predictions, &class(&[0, 0])).unwrap_err();
                assert!(error.to_string().contains("of row 1 is"), "{error}");
            }
        }
        assert_eq!(metric, Accuracy::new(), "a refused update adds nothing");
        let rounded = with_confidence(&[0, 0], &[-0.0005, 1.0005]);
        metric.update(&rounded, &class(&[1, 0])).unwrap();
        assert_eq!(metric.report().unwrap()["calibration_error"], 0.0);
    }

    #[test]
    fn counts_that_overflow_are_refused() {
        let mut metric = Accuracy::new();
        metric.update(&class(&[1]), &class(&[1])).unwrap();
        let mut full = Accuracy::new();
        full.unsure = Bin(u64::MAX, 0, 0);
        let before = metric.clone();
        assert!(metric.merge(&full.save()).is_err());
        assert_eq!(metric, before);
    }

    #[test]
    fn what_it_saves_adds_up() {
        let mut parts = [Accuracy::new(), Accuracy::new()];
        parts[0]
            .update(&with_confidence(&[0, 1], &[0.6, 0.9]), &class(&[0, 0]))
            .unwrap();
        parts[1].update(&class(&[1]), &class(&[1])).unwrap();
        let [first, second] = parts
            .each_ref()
            .map(|part| Layout::split(&part.save()).unwrap());
        assert_eq!(first.0, second.0);
        let sum: Vec<i128> = first.1.iter().zip(&second.1).map(|(a, b)| a + b).collect();
        let mut added = Accuracy::new();
        added.merge(&first.0.join(&sum).unwrap()).unwrap();
        assert_eq!(Some(added), parts[0].plus(&parts[1]));
    }

    #[test]
    fn says_how_each_score_is_to_be_read() {
        assert_eq!(ScoreSpec::problem(Accuracy::SCORES), None);
        let mut metric = Accuracy::new();
        metric
            .update(&with_confidence(&[0], &[0.5]), &class(&[0]))
            .unwrap();
        let report = metric.report().unwrap();
        let names: Vec<&str> = report.keys().map(String::as_str).collect();
        let mut said: Vec<&str> = Accuracy::SCORES.iter().map(|score| &*score.name).collect();
        said.sort_unstable();
        assert_eq!(names, said);
    }
}

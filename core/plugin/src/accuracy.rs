//! The metric of classification that comes with the core: top-1 accuracy, mean confidence and
//! expected calibration error. Counts are whole numbers and sums are fixed-point, so that
//! merging is exact in any order.

use std::collections::BTreeMap;

use dtta_tensor::{Kind, TensorError};

use crate::error::{Place, PluginError, Result};
use crate::manifest::Role;
use crate::roles::{Metric, Named, find};

/// Bins of equal width for the calibration error: the number of Guo et al. 2017 (arXiv:1706.04599).
const BINS: usize = 15;

/// What a saved accumulator starts with.
const SAVED: &[u8] = b"dtta-accuracy 1\n";

/// Confidences are summed in units of 2^-32, so that sums do not depend on their order.
const CONFIDENCE_UNITS: f64 = (1u64 << 32) as f64;

/// Top-1 accuracy; where the head says how sure it is, also `confidence` and
/// `calibration_error`.
///
/// Predictions: `class`, int `[B]`; optionally `confidence`, float `[B]`, the probability of
/// that class, or `probabilities`, float `[B, N]`, whose largest is taken. Targets: `class`, int
/// `[B]`. Scores are fractions in 0 to 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accuracy {
    bins: [Bin; BINS],
    /// Samples that came without probabilities.
    unsure: Bin,
}

/// Samples of similar confidence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Bin {
    samples: u64,
    correct: u64,
    confidence: u64,
}

impl Bin {
    fn add(&mut self, other: Self) {
        self.samples += other.samples;
        self.correct += other.correct;
        self.confidence += other.confidence;
    }
}

impl Accuracy {
    /// An accumulator without samples.
    pub fn new() -> Self {
        Self::default()
    }

    /// Samples so far.
    pub fn samples(&self) -> u64 {
        self.all().map(|bin| bin.samples).sum()
    }

    fn all(&self) -> impl Iterator<Item = &Bin> {
        self.bins.iter().chain([&self.unsure])
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
        for (sample, (predicted, expected)) in predicted.iter().zip(&expected).enumerate() {
            let correct = u64::from(predicted == expected);
            match confidences
                .as_ref()
                .map(|confidences| confidences[sample].clamp(0.0, 1.0))
            {
                Some(confidence) => {
                    // Bin m holds ((m - 1) / M, m / M], as in the paper; NaN falls into the first.
                    let bin =
                        ((f64::from(confidence) * BINS as f64).ceil() as usize).clamp(1, BINS) - 1;
                    let confidence = (f64::from(confidence) * CONFIDENCE_UNITS) as u64;
                    self.bins[bin].add(Bin {
                        samples: 1,
                        correct,
                        confidence,
                    });
                }
                None => self.unsure.add(Bin {
                    samples: 1,
                    correct,
                    confidence: 0,
                }),
            }
        }
        Ok(())
    }

    fn save(&self) -> Vec<u8> {
        let numbers = self
            .all()
            .flat_map(|bin| [bin.samples, bin.correct, bin.confidence]);
        SAVED
            .iter()
            .copied()
            .chain(numbers.flat_map(u64::to_le_bytes))
            .collect()
    }

    fn merge(&mut self, saved: &[u8]) -> Result<()> {
        let numbers = saved
            .strip_prefix(SAVED)
            .filter(|rest| rest.len() == (BINS + 1) * 24)
            .ok_or_else(|| {
                refuse(
                    "merge",
                    "these are not the bytes of a saved accuracy of this version",
                )
            })?;
        let (numbers, _) = numbers.as_chunks::<8>();
        let (triples, _) = numbers.as_chunks::<3>();
        for (bin, triple) in self.bins.iter_mut().chain([&mut self.unsure]).zip(triples) {
            let [samples, correct, confidence] = triple.map(u64::from_le_bytes);
            bin.add(Bin {
                samples,
                correct,
                confidence,
            });
        }
        Ok(())
    }

    fn report(&mut self) -> Result<BTreeMap<String, f64>> {
        let mut report = BTreeMap::new();
        let samples = self.samples();
        if samples == 0 {
            return Ok(report);
        }
        let correct: u64 = self.all().map(|bin| bin.correct).sum();
        report.insert("accuracy".into(), correct as f64 / samples as f64);
        let sure: u64 = self.bins.iter().map(|bin| bin.samples).sum();
        if sure > 0 {
            let confidence: f64 = self.bins.iter().map(|bin| bin.confidence as f64).sum();
            let gaps: f64 = self
                .bins
                .iter()
                .map(|bin| (bin.correct as f64 - bin.confidence as f64 / CONFIDENCE_UNITS).abs())
                .sum();
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
    let class = find(named, "class").ok_or_else(|| {
        let known: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
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
        find(predictions, "confidence"),
        find(predictions, "probabilities"),
    ) {
        (Some(tensor), _) => ("confidence", tensor),
        (None, Some(tensor)) => ("probabilities", tensor),
        (None, None) => return Ok(None),
    };
    let (kind, shape) = (tensor.kind(), tensor.shape());
    let rank = if name == "confidence" { 1 } else { 2 };
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
    let largest = |row: &[f32]| row.iter().copied().fold(0.0, f32::max);
    Ok(Some(
        values.chunks(values.len() / samples).map(largest).collect(),
    ))
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
    use dtta_tensor::{Device, Tensor};

    fn class(ids: &[i64]) -> Named {
        vec![(
            "class".into(),
            Tensor::from_ints(ids, &[ids.len()], &Device::cpu()).unwrap(),
        )]
    }

    fn with_probabilities(ids: &[i64], rows: &[f32], classes: usize) -> Named {
        let mut named = class(ids);
        named.push((
            "probabilities".into(),
            Tensor::from_floats(rows, &[ids.len(), classes], &Device::cpu()).unwrap(),
        ));
        named
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
        let mut predictions = class(&[0, 1]);
        predictions.push((
            "confidence".into(),
            Tensor::from_floats(&[0.6, 0.9], &[2], &Device::cpu()).unwrap(),
        ));
        let mut given = Accuracy::new();
        given.update(&predictions, &class(&[0, 0])).unwrap();
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
        let floats = vec![(
            "class".into(),
            Tensor::full(&[2], 0.0, &Device::cpu()).unwrap(),
        )];
        assert!(metric.update(&Named::new(), &class(&[1])).is_err());
        assert!(metric.update(&class(&[1, 2]), &class(&[1])).is_err());
        assert!(metric.update(&floats, &class(&[1, 2])).is_err());
        assert!(
            metric
                .update(&with_probabilities(&[0], &[1.0], 1), &class(&[0, 1]))
                .is_err()
        );
        assert!(metric.merge(b"dtta-accuracy 2\n").is_err());
        assert_eq!(metric, Accuracy::new(), "a refused update adds nothing");
    }
}

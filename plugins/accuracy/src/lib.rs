//! How good a classifier's predictions are: accuracy, top-k accuracy, mean confidence and expected
//! calibration error (Guo et al. 2017, arXiv:1706.04599). Counts are whole numbers and confidences
//! are summed in fixed point, so merging is exact in any order.

use dtta_sdk::prelude::*;

/// Configuration of the metric.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccuracyConfig {
    /// Also the share of samples whose class is among the k most likely, as `topK_accuracy`. The head must predict
    /// `top-classes` of at least k.
    #[serde(default)]
    #[schemars(range(min = 2))]
    pub top_k: Option<u32>,
    /// Bins of equal width for the calibration error.
    #[serde(default = "fifteen")]
    #[schemars(range(min = 1, max = 1000))]
    pub bins: u32,
}

fn fifteen() -> u32 {
    15
}

/// What has been counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    samples: u64,
    correct: u64,
    among: u64,
    /// For each bin: samples, correct ones, and the sum of confidences in units of 2^-32.
    bins: Vec<[u64; 3]>,
}

/// Confidences are summed in these units.
const UNIT: f64 = (1u64 << 32) as f64;

/// Confidences may lie this far outside 0 to 1, as what was rounded does.
const ROUNDING: f32 = 1e-3;

/// Predictions: `class`, int `[B]`, `confidence`, float `[B]`, and for top-k `top-classes`, int `[B, k]`. Targets: `class`,
/// int `[B]`. Scores are fractions: `accuracy`, `topK_accuracy`, `confidence`, `calibration_error`.
pub struct Accuracy {
    config: AccuracyConfig,
}

impl Metric for Accuracy {
    type Config = AccuracyConfig;
    type State = Counts;
    const SCORES: &'static [Score] = &[
        Score::higher("accuracy").share().leading(),
        Score::higher("top*_accuracy").share(),
        Score::neutral("confidence").share(),
        Score::lower("calibration_error").share(),
    ];
    const ADDITIVE: bool = true;

    fn create(config: AccuracyConfig) -> Result<Self> {
        if config.bins == 0 {
            return Err(Error::config("`bins` is 0, expected 1 or more"));
        }
        Ok(Self { config })
    }

    fn score(&self, predictions: &Named, targets: &Named, _session: &Session) -> Result<Counts> {
        let classes = predictions.get("class")?.read_ints()?;
        let targets = targets.get("class")?.read_ints()?;
        let confidences = predictions.get("confidence")?.read_floats()?;
        let samples = targets.len();
        let counts = [("class", classes.len()), ("confidence", confidences.len())];
        for (name, found) in counts {
            if found != samples {
                let message = format!("`{name}` has {found} elements for {samples} targets");
                return Err(Error::new("shape-mismatch", message));
            }
        }
        let allowed = -ROUNDING..=1.0 + ROUNDING;
        // NaN is in no range.
        if let Some(row) = confidences
            .iter()
            .position(|value| !allowed.contains(value))
        {
            let message = format!(
                "`confidence` of row {row} is {}, expected a number from 0 to 1",
                confidences[row]
            );
            return Err(Error::new("invalid-argument", message));
        }
        let mut state = Counts {
            samples: samples as u64,
            bins: vec![[0; 3]; self.config.bins as usize],
            ..Counts::default()
        };
        for ((class, target), confidence) in classes.iter().zip(&targets).zip(confidences) {
            let correct = u64::from(class == target);
            state.correct += correct;
            // Bin m holds ((m - 1) / M, m / M], as in the paper.
            let confidence = f64::from(confidence.clamp(0.0, 1.0));
            let bins = state.bins.len();
            let bin = ((confidence * bins as f64).ceil() as usize).clamp(1, bins) - 1;
            let [all, right, sum] = &mut state.bins[bin];
            *all += 1;
            *right += correct;
            *sum += (confidence * UNIT) as u64;
        }
        if let Some(k) = self.config.top_k {
            let top = predictions.get("top-classes")?;
            let wide = *top.shape()?.last().unwrap_or(&0) as usize;
            if wide < k as usize {
                let message =
                    format!("`top-classes` holds {wide}, `top_k` is {k}; set the head's `top_k`");
                return Err(Error::new("shape-mismatch", message));
            }
            let rows = top.read_ints()?;
            let hits = rows.chunks_exact(wide).zip(&targets);
            state.among = hits
                .filter(|(row, target)| row[..k as usize].contains(target))
                .count() as u64;
        }
        Ok(state)
    }

    fn merge(&self, state: &mut Counts, other: Counts) {
        state.samples += other.samples;
        state.correct += other.correct;
        state.among += other.among;
        if state.bins.len() < other.bins.len() {
            state.bins.resize(other.bins.len(), [0; 3]);
        }
        for (bin, more) in state.bins.iter_mut().zip(other.bins) {
            for (count, more) in bin.iter_mut().zip(more) {
                *count += more;
            }
        }
    }

    fn report(&self, state: &Counts) -> Scores {
        let mut scores = Scores::new();
        if state.samples == 0 {
            return scores;
        }
        let samples = state.samples as f64;
        scores.insert("accuracy".into(), state.correct as f64 / samples);
        if let Some(k) = self.config.top_k {
            scores.insert(format!("top{k}_accuracy"), state.among as f64 / samples);
        }
        let sums = state.bins.iter().map(|bin| bin[2] as f64 / UNIT);
        scores.insert("confidence".into(), sums.clone().sum::<f64>() / samples);
        let gaps = state
            .bins
            .iter()
            .zip(sums)
            .map(|(bin, sum)| (bin[1] as f64 - sum).abs());
        scores.insert("calibration_error".into(), gaps.sum::<f64>() / samples);
        scores
    }
}

export_plugin! { metric: Accuracy }

#[cfg(test)]
mod tests {
    use dtta_testkit::{Kit, Role};
    use serde_json::json;

    use super::*;

    #[test]
    fn conforms() {
        for config in [json!({}), json!({"top_k": 3, "bins": 4})] {
            let kit = Kit::linked("accuracy", super::plugin_entry);
            kit.config(Role::Metric, config).check().expect_passed();
        }
    }

    #[test]
    fn reports_what_was_counted() {
        let metric = Accuracy::create(AccuracyConfig {
            top_k: Some(2),
            bins: 2,
        })
        .unwrap();
        // Two samples at 0.9, one right; one at 0.25, right.
        let unit = |share: f64| (share * UNIT) as u64;
        let counts = Counts {
            samples: 3,
            correct: 2,
            among: 3,
            bins: vec![[1, 1, unit(0.25)], [2, 1, unit(1.75)]],
        };
        let scores = metric.report(&counts);
        let near =
            |name: &str, value: f64| assert!((scores[name] - value).abs() < 1e-9, "{scores:?}");
        near("accuracy", 2.0 / 3.0);
        near("top2_accuracy", 1.0);
        near("confidence", 2.0 / 3.0);
        near("calibration_error", (0.75 + 0.75) / 3.0);
        assert!(metric.report(&Counts::default()).is_empty());
    }
}

//! Reliability: how often predictions of one confidence are right (Guo et al. 2017, arXiv:1706.04599).

/// Confidences in bins of equal width. Bin m of M holds ((m - 1) / M, m / M], as in the paper and in the bundled metric.
#[derive(Debug, Clone)]
pub struct Calibration {
    bins: Vec<Bin>,
}

/// One bin.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bin {
    /// Samples.
    pub samples: usize,
    /// Correct ones.
    pub correct: f64,
    /// The sum of their confidences.
    pub confidence: f64,
}

impl Calibration {
    /// Empty bins.
    pub fn new(bins: usize) -> Self {
        Self {
            bins: vec![Bin::default(); bins.max(1)],
        }
    }

    /// Adds a sample.
    pub fn add(&mut self, confidence: f64, correct: f64) {
        let confidence = confidence.clamp(0.0, 1.0);
        let count = self.bins.len();
        let place = ((confidence * count as f64).ceil() as usize).clamp(1, count) - 1;
        let bin = &mut self.bins[place];
        bin.samples += 1;
        bin.correct += correct;
        bin.confidence += confidence;
    }

    /// The bins.
    pub fn bins(&self) -> &[Bin] {
        &self.bins
    }

    /// Samples in all.
    pub fn samples(&self) -> usize {
        self.bins.iter().map(|bin| bin.samples).sum()
    }

    /// The expected calibration error: the mean over samples of |share correct - mean confidence| of their bin.
    pub fn error(&self) -> Option<f64> {
        let samples = self.samples();
        let gaps = self
            .bins
            .iter()
            .map(|bin| (bin.correct - bin.confidence).abs());
        (samples > 0).then(|| gaps.sum::<f64>() / samples as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_the_mean_gap_between_confidence_and_correctness() {
        let mut calibration = Calibration::new(2);
        assert_eq!(calibration.error(), None);
        // (0, 0.5]: one of two right at 0.5 and 0.3, a gap of 1 - 0.8; (0.5, 1]: none of one right at 0.9, a gap of 0.9.
        for (confidence, correct) in [(0.5, 1.0), (0.3, 0.0), (0.9, 0.0)] {
            calibration.add(confidence, correct);
        }
        assert_eq!(calibration.bins()[0].samples, 2);
        let error = calibration.error().unwrap();
        assert!((error - (0.2 + 0.9) / 3.0).abs() < 1e-12, "{error}");
    }
}

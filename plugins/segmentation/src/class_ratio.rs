//! How common classes are, as an objective: what feedback alone leaves out.

use dtta_sdk::prelude::*;

/// Keeps the logarithm of a class that is nowhere finite.
const FLOOR: f64 = 1e-6;

/// Configuration of the class ratio.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassRatioConfig {
    /// The share π of pixels that each class has in training, above 0. They need not sum to 1.
    #[schemars(length(min = 2))]
    pub shares: Vec<f32>,
}

/// `KL(p̄ ‖ π) = Σ_j p̄_j ln(p̄_j / π_j)` for each sample, where p̄ is the mean over pixels of the segmenter's
/// `probabilities` `[B, K, H, W]` (Bateson et al., Source-Relaxed Domain Adaptation for Image Segmentation, 2020).
///
/// The diffusion loss is a bound on `-ln p(x | c)`, whose minimum over maps c knows nothing of how common a class is, so
/// rare classes come out too large. Beside it, this costs little while an image has about what images have of each
/// class, and ever more as a class takes over.
pub struct ClassRatio {
    surprises: Vec<f32>,
}

impl Objective for ClassRatio {
    type Config = ClassRatioConfig;

    fn create(config: ClassRatioConfig) -> Result<Self> {
        let sum: f32 = config.shares.iter().sum();
        let is_share = |share: &f32| share.is_finite() && *share > 0.0;
        if config.shares.len() < 2 || !config.shares.iter().all(is_share) || !sum.is_finite() {
            let message = format!(
                "`shares` is {:?}, expected two or more numbers above 0",
                config.shares
            );
            return Err(Error::config(message));
        }
        Ok(Self {
            surprises: config
                .shares
                .iter()
                .map(|share| -(share / sum).ln())
                .collect(),
        })
    }

    fn loss(&self, outputs: &Named, _session: &Session) -> Result<Tensor> {
        let probabilities = outputs.get("probabilities")?;
        let shape = probabilities.shape()?;
        let classes = self.surprises.len() as u32;
        if shape.len() != 4 || shape[1] != classes {
            let message = format!(
                "`probabilities` has shape {shape:?}, expected [B, {classes}, H, W] for {classes} `shares`"
            );
            return Err(Error::new("shape-mismatch", message));
        }
        let surprises = Tensor::from_floats(&self.surprises, &[1, classes])?;
        let mean = probabilities.mean(&[2, 3], false)?;
        let logarithm = mean.affine(1.0, FLOOR)?.log()?;
        mean.mul(&logarithm.add(&surprises)?)?.sum(&[1], false)
    }
}

//! How common classes are, as an objective: what feedback alone leaves out.

use dtta_sdk::prelude::*;

/// Configuration of the class prior.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassPriorConfig {
    /// The share π of pixels that each class has in training, above 0. They need not sum to 1.
    #[schemars(length(min = 2))]
    pub shares: Vec<f32>,
}

/// `-Σ_j p_j(u) ln π_j` for each sample, as the mean over pixels u, with p the segmenter's `probabilities` `[B, K, H, W]`.
///
/// The diffusion loss is a bound on `-ln p(x | c)`, whose minimum over maps c knows nothing of how common a class is, so
/// rare classes come out too large. Beside it, this is `-ln p(c)` for independent pixels, and their sum that of the
/// posterior `p(c | x)`.
pub struct ClassPrior {
    surprises: Vec<f32>,
}

impl Objective for ClassPrior {
    type Config = ClassPriorConfig;

    fn create(config: ClassPriorConfig) -> Result<Self> {
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
        let surprises = Tensor::from_floats(&self.surprises, &[1, classes, 1, 1])?;
        probabilities
            .mul(&surprises)?
            .sum(&[1], false)?
            .mean(&[1, 2], false)
    }
}

//! The head of zero-shot classification: the features of an image are held against those of texts, one for each class (Radford et al.
//! 2021).

use dtta_sdk::prelude::*;

/// Configuration of the zero-shot head.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ZeroShotConfig {
    /// Whether features of images are brought to length 1, so that logits are cosines. Without, as in the official code of
    /// Diffusion-TTA, each image's logits are larger by the length of its features, about 10 for ViT-B/32: the same class is the most
    /// likely one, but probabilities are nearer to 0 and 1, and gradients smaller.
    #[serde(default = "yes")]
    pub normalise: bool,
    /// What cosines are multiplied with, instead of what the backbone says.
    #[serde(default)]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub logit_scale: Option<f64>,
    /// Also predict the k most likely classes with their probabilities.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub top_k: Option<u32>,
}

fn yes() -> bool {
    true
}

/// The least length that features are divided by.
const LEAST: f64 = 1e-12;

/// `s f·t / |f|` of the `features` `[B, D]` of images and the constant `text-features` `[N, D]`, whose rows have length 1; s is the
/// constant `logit-scale` `[1]`.
///
/// - `forward` gives `logits` and `probabilities` `[B, N]`.
/// - `predict` gives `class` (int, `[B]`) and `confidence` (float, `[B]`); with `top_k` also
///   `top-classes` and `top-confidences` `[B, k]`, most likely first.
pub struct ZeroShot {
    config: ZeroShotConfig,
}

impl Head for ZeroShot {
    type Config = ZeroShotConfig;
    const PREDICTS: Option<Predicts> = Some(Predicts::class_index("class"));
    const CONSTANTS: &'static [&'static str] = &["text-features", "logit-scale"];

    fn create(config: ZeroShotConfig) -> Result<Self> {
        if let Some(scale) = config
            .logit_scale
            .filter(|scale| !(scale.is_finite() && *scale > 0.0))
        {
            let message = format!("`logit_scale` is {scale}, expected a number above 0");
            return Err(Error::config(message));
        }
        if config.top_k == Some(0) {
            return Err(Error::config("`top_k` is 0, expected 1 or more"));
        }
        Ok(Self { config })
    }

    fn forward(&self, inputs: &Named, session: &Session) -> Result<Named> {
        let mut features = inputs.get("features")?.share()?;
        let texts = session.constant("text-features")?;
        if self.config.normalise {
            let squares = features.mul(&features)?.sum(&[-1], true)?;
            let length = squares.sqrt()?.clamp(Some(LEAST), None)?;
            features = features.div(&length)?;
        }
        let products = features.matmul(&texts.permute(&[1, 0])?)?;
        let logits = match self.config.logit_scale {
            Some(scale) => products.affine(scale, 0.0)?,
            None => products.mul(&session.constant("logit-scale")?.unsqueeze(0)?)?,
        };
        let probabilities = logits.softmax(-1)?;
        Ok(Named::one("logits", logits).with("probabilities", probabilities))
    }

    fn predict(&self, outputs: &Named, _session: &Session) -> Result<Named> {
        let probabilities = outputs.get("probabilities")?;
        let prediction = Named::one("class", probabilities.argmax(-1)?)
            .with("confidence", probabilities.amax(&[-1], false)?);
        let Some(k) = self.config.top_k else {
            return Ok(prediction);
        };
        let classes = probabilities.shape()?.last().copied().unwrap_or(1);
        let (confidences, classes) = probabilities.topk(k.min(classes), -1)?;
        Ok(prediction
            .with("top-classes", classes)
            .with("top-confidences", confidences))
    }
}

export_plugin! { head: ZeroShot }

#[cfg(test)]
mod tests {
    use dtta_testkit::{Inputs, Kit, Role, TensorSpec};
    use serde_json::json;

    use super::*;

    #[test]
    fn conforms() {
        let inputs = Inputs {
            features: [("features".into(), TensorSpec::floats(&[4, 6]))].into(),
            constants: [
                ("text-features".into(), TensorSpec::floats(&[3, 6])),
                ("logit-scale".into(), TensorSpec::shares(&[1])),
            ]
            .into(),
            ..Inputs::default()
        };
        for config in [
            json!({}),
            json!({"normalise": false, "top_k": 2}),
            json!({"logit_scale": 100.0}),
        ] {
            Kit::linked("zero-shot", plugin_entry)
                .config(Role::Head, config)
                .inputs(inputs.clone())
                .check()
                .expect_passed();
        }
    }

    #[test]
    fn says_what_it_offers_and_needs() {
        let description = PLUGIN.describe();
        let parts = [
            r#""name":"zero-shot""#,
            r#""roles":["head"]"#,
            r#""needs":{"constants":["logit-scale","text-features"]}"#,
            r#""additionalProperties":false"#,
        ];
        for part in parts {
            assert!(description.contains(part), "no {part} in {description}");
        }
    }
}

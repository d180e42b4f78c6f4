//! The mapper of denoisers that attend to the tokens of a text encoder, such as Stable Diffusion: a mixture of what the classes' sentences
//! come to (Diffusion-TTA, section 3.2 (b)).

use dtta_sdk::prelude::*;

/// Configuration of the text mixture.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TextMixConfig {
    /// Mix only the k most likely classes, their probabilities scaled to sum to 1. All classes
    /// if left out.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub top_k: Option<u32>,
    /// The denoiser's slot to fill.
    #[serde(default = "slot")]
    pub slot: String,
}

fn slot() -> String {
    "tokens".into()
}

/// c = Σ_j p_j ℓ_j, with p the softmax of the classifier's `logits` `[B, N]` and ℓ_j the tokens `[L, D]` of a class in the constant
/// `text-embeddings` `[N, L, D]`. One matrix product, `[B, N] × [N, L D]`, so that no tensor of all classes for each image is made.
///
/// With `top_k`, the k largest logits are kept and the softmax is taken over them; the gradient flows to these alone.
pub struct TextMix {
    config: TextMixConfig,
}

impl Mapper for TextMix {
    type Config = TextMixConfig;
    const CONSTANTS: &'static [&'static str] = &["text-embeddings"];

    fn create(config: TextMixConfig, slots: &Slots) -> Result<Self> {
        let slot = slots.get(&config.slot)?;
        if slot.shape.len() != 3 {
            return Err(Error::config(format!(
                "`slot` names `{}` of rank {}, expected tokens [B, L, D]",
                slot.name,
                slot.shape.len()
            )));
        }
        if config.top_k == Some(0) {
            return Err(Error::config("`top_k` is 0, expected 1 or more"));
        }
        Ok(Self { config })
    }

    fn condition(&self, outputs: &Named, session: &Session) -> Result<Named> {
        let logits = outputs.get("logits")?;
        let texts = session.constant("text-embeddings")?;
        let found = logits.shape()?;
        let (classes, length, width) = match (found.as_slice(), texts.shape()?.as_slice()) {
            (&[_, classes], &[rows, length, width]) if rows == classes => (classes, length, width),
            (logits, texts) => {
                let message = format!(
                    "`logits` has shape {logits:?} and `text-embeddings` {texts:?}, expected [B, N] and [N, L, D]"
                );
                return Err(Error::new("shape-mismatch", message));
            }
        };
        let numbers = i64::from(length) * i64::from(width);
        let mixture = match self.config.top_k {
            Some(k) if k < classes => mix_top(logits, &texts, k, numbers)?,
            _ => {
                let rows = texts.reshape(&[classes.into(), numbers])?;
                logits.softmax(-1)?.matmul(&rows)?
            }
        };
        let tokens = mixture.reshape(&[-1, length.into(), width.into()])?;
        Ok(Named::one(&*self.config.slot, tokens))
    }
}

/// The mixture of the `k` classes with the largest logits, `[B, 1, L D]`.
fn mix_top(logits: &Tensor, texts: &Tensor, k: u32, numbers: i64) -> Result<Tensor> {
    let (kept, classes) = logits.topk(k, -1)?; // both [B, k]
    let weights = kept.softmax(-1)?.unsqueeze(1)?; // [B, 1, k]
    let rows = texts.index_select(0, &classes.reshape(&[-1])?)?; // [B * k, L, D]
    weights.matmul(&rows.reshape(&[-1, k.into(), numbers])?)
}

export_plugin! { mapper: TextMix }

#[cfg(test)]
mod tests {
    use dtta_testkit::{Inputs, Kit, Role, TensorSpec};
    use serde_json::json;

    use super::*;

    fn inputs() -> Inputs {
        let slots = json!([{"name": "tokens", "meaning": "tokens", "shape": [null, 4, 6]}]);
        Inputs {
            outputs: [("logits".into(), TensorSpec::floats(&[3, 5]))].into(),
            constants: [("text-embeddings".into(), TensorSpec::floats(&[5, 4, 6]))].into(),
            slots: serde_json::from_value(slots).unwrap(),
            ..Inputs::default()
        }
    }

    #[test]
    fn conforms() {
        for config in [json!({}), json!({"top_k": 2}), json!({"top_k": 9})] {
            Kit::linked("text-mix", plugin_entry)
                .config(Role::Mapper, config)
                .inputs(inputs())
                .check()
                .expect_passed();
        }
    }

    #[test]
    fn says_what_it_offers_and_needs() {
        let description = PLUGIN.describe();
        let parts = [
            r#""name":"text-mix""#,
            r#""roles":["mapper"]"#,
            r#""needs":{"constants":["text-embeddings"]}"#,
            r#""additionalProperties":false"#,
            r#""default":"tokens""#,
        ];
        for part in parts {
            assert!(description.contains(part), "no {part} in {description}");
        }
    }
}

//! The mapper of class-conditional denoisers: a mixture of class embeddings.

use dtta_sdk::prelude::*;

/// Configuration of the class mixture.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassMixConfig {
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
    "class-embedding".into()
}

/// c = Σ_j p_j ℓ_j, with p the softmax of the classifier's `logits` `[B, N]` and ℓ the rows of the
/// constant `class-embeddings` `[N, D]` (Diffusion-TTA, section 3.2 (a)).
///
/// With `top_k`, the k largest logits are kept and the softmax is taken over them, as the
/// official code's `adapt_topk` does.
pub struct ClassMix {
    config: ClassMixConfig,
}

impl Mapper for ClassMix {
    type Config = ClassMixConfig;
    const CONSTANTS: &'static [&'static str] = &["class-embeddings"];

    fn create(config: ClassMixConfig, slots: &Slots) -> Result<Self> {
        let slot = slots.get(&config.slot)?;
        if slot.shape.len() != 2 {
            return Err(Error::config(format!(
                "`slot` names `{}` of rank {}, expected a class embedding [B, D]",
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
        let embeddings = session.constant("class-embeddings")?;
        let classes = logits.shape()?.last().copied().unwrap_or(1);
        let mixture = match self.config.top_k {
            Some(k) if k < classes => mix_top(logits, &embeddings, k)?,
            _ => logits.softmax(-1)?.matmul(&embeddings)?,
        };
        Ok(Named::one(&*self.config.slot, mixture))
    }
}

/// The mixture of the `k` classes with the largest logits.
fn mix_top(logits: &Tensor, embeddings: &Tensor, k: u32) -> Result<Tensor> {
    let (kept, classes) = logits.topk(k, -1)?; // both [B, k]
    let weights = kept.softmax(-1)?.unsqueeze(1)?; // [B, 1, k]
    let rows = embeddings.index_select(0, &classes.reshape(&[-1])?)?; // [B * k, D]
    let rows = rows.reshape(&[-1, k.into(), extent(embeddings, 1)?])?; // [B, k, D]
    weights.matmul(&rows)?.squeeze(1)
}

fn extent(tensor: &Tensor, axis: usize) -> Result<i64> {
    let shape = tensor.shape()?;
    shape
        .get(axis)
        .map(|&extent| extent.into())
        .ok_or_else(|| Error::shape("class-embeddings", &shape, "[N, D]"))
}

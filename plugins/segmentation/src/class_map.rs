//! The mapper of denoisers that are conditioned on a map of class embeddings.

use dtta_sdk::functional::area_resize;
use dtta_sdk::prelude::*;

/// Configuration of the class map.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassMapConfig {
    /// The denoiser's slot to fill, `[B, E, h, w]`.
    #[serde(default = "slot")]
    pub slot: String,
}

fn slot() -> String {
    "spatial".into()
}

/// c_u = Σ_j p_j(u) ℓ_j for each pixel u, with p the segmenter's `probabilities` `[B, K, H, W]` and ℓ the rows of the
/// constant `class-embeddings` `[K, E]` (Diffusion-TTA, section 3.2).
///
/// Probabilities are averaged over the area of each cell of the slot before they are mixed: the mixture is linear, so
/// that is the average of the mixtures, for less.
pub struct ClassMap {
    slot: String,
    channels: u32,
    height: u32,
    width: u32,
}

impl Mapper for ClassMap {
    type Config = ClassMapConfig;
    const CONSTANTS: &'static [&'static str] = &["class-embeddings"];

    fn create(config: ClassMapConfig, slots: &Slots) -> Result<Self> {
        let [channels, height, width] = slots.spatial(&config.slot)?;
        Ok(Self {
            slot: config.slot,
            channels,
            height,
            width,
        })
    }

    fn condition(&self, outputs: &Named, session: &Session) -> Result<Named> {
        let probabilities = outputs.get("probabilities")?;
        let embeddings = session.constant("class-embeddings")?;
        let (classes, width) = self.fit(&probabilities.shape()?, &embeddings.shape()?)?;
        let cells = area_resize(probabilities, self.height, self.width)?;
        let table = embeddings.permute(&[1, 0])?.unsqueeze(0)?; // [1, E, K]
        let mixed = table.matmul(&cells.reshape(&[-1, classes, self.cells()])?)?;
        let map = mixed.reshape(&[-1, width, self.height.into(), self.width.into()])?;
        Ok(Named::one(&*self.slot, map))
    }
}

impl ClassMap {
    fn cells(&self) -> i64 {
        i64::from(self.height) * i64::from(self.width)
    }

    /// K and E, if the segmenter, the embeddings and the slot agree on them.
    fn fit(&self, probabilities: &[u32], embeddings: &[u32]) -> Result<(i64, i64)> {
        let refuse = |message| Err(Error::new("shape-mismatch", message));
        let &[_, classes, _, _] = probabilities else {
            return Err(Error::shape("probabilities", probabilities, "[B, K, H, W]"));
        };
        let &[rows, width] = embeddings else {
            return Err(Error::shape("class-embeddings", embeddings, "[K, E]"));
        };
        if classes != rows {
            return refuse(format!(
                "`probabilities` has {classes} classes and `class-embeddings` has {rows} rows; the segmenter and the \
                 denoiser must share one list of classes"
            ));
        }
        if width != self.channels {
            return refuse(format!(
                "`class-embeddings` is {width} wide and the slot `{}` has {} channels",
                self.slot, self.channels
            ));
        }
        Ok((classes.into(), width.into()))
    }
}

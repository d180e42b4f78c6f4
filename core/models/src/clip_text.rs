//! CLIP's transformer of texts, transformers' `CLIPTextModel` with parameter names included: the text encoder of Stable Diffusion 1 and 2,
//! and with a projection that of zero-shot classification.

use std::sync::Arc;

use dtta_base::Issue;
use dtta_tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clip::{Tower, TowerShape, epsilon, quick_gelu};
use crate::error::{ModelError, Result};
use crate::fault::{Faults, MAX_EXTENT, MAX_LAYERS};
use crate::layers::{Activation, LayerNorm, LinearProjection};
use crate::table::Architecture;
use crate::text::{EncodedTexts, MAX_VOCABULARY, TextEncoder, TextSpec, expect_texts, look_up};
use crate::transformer::INIT;
use crate::weights::{Declaration, Group, ParameterId, ParameterSpec, Weights};

/// CLIP's transformer of texts: a text encoder. The vector of a text is that of its end token. That of Stable Diffusion 1 is
/// `vocabulary: 49408, length: 77, width: 768, hidden_width: 3072, depth: 12, heads: 12`; that of Stable Diffusion 2, with
/// `width: 1024, hidden_width: 4096, depth: 23, heads: 16, activation: gelu`, lacks OpenCLIP's last block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClipTextConfig {
    /// Number of tokens that it knows.
    #[schemars(range(min = 1, max = MAX_VOCABULARY))]
    pub vocabulary: usize,
    /// The most tokens of a text.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub length: usize,
    /// Width of a token.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub width: usize,
    /// Width between the two linear layers of a block.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub hidden_width: usize,
    /// Number of blocks.
    #[schemars(range(min = 1, max = MAX_LAYERS))]
    pub depth: usize,
    /// Number of attention heads; divides the width.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub heads: usize,
    /// Width of the space that images and texts share, of a model that projects into it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub projection: Option<usize>,
    /// The token whose first place ends a text; if absent, the place of the largest token does, which is the end token in CLIP's vocabulary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_token: Option<usize>,
    /// Between the two linear layers of a block: `quick_gelu` of OpenAI's models, `gelu` of most of OpenCLIP's.
    #[serde(default = "quick_gelu")]
    pub activation: Activation,
    /// Epsilon of the normalisation layers.
    #[serde(default = "epsilon")]
    #[schemars(range(min = 0))]
    pub norm_eps: f64,
}

impl ClipTextConfig {
    fn shape(&self) -> TowerShape {
        TowerShape {
            width: self.width,
            hidden_width: self.hidden_width,
            depth: self.depth,
            heads: self.heads,
            activation: self.activation,
            epsilon: self.norm_eps,
        }
    }

    fn check(&self) -> Faults {
        let mut faults = Faults::default();
        let known = faults.count("/vocabulary", self.vocabulary, MAX_VOCABULARY);
        faults.count("/length", self.length, MAX_EXTENT);
        self.shape().check(&mut faults);
        if let Some(width) = self.projection {
            faults.count("/projection", width, MAX_EXTENT);
        }
        if let Some(token) = self
            .end_token
            .filter(|&token| known && token >= self.vocabulary)
        {
            let expected = format!("one of the {} tokens", self.vocabulary);
            faults.add("/end_token", token, expected);
        }
        faults
    }
}

impl Architecture for ClipTextConfig {
    type Model = dyn TextEncoder;
    const KIND: &'static str = "clip_text";

    fn contradictions(&self) -> Vec<Issue> {
        self.check().issues()
    }

    fn build(self) -> Result<Box<dyn TextEncoder>> {
        Ok(Box::new(ClipText::new(self)?))
    }
}

/// The structure of CLIP's transformer of texts.
pub struct ClipText {
    config: ClipTextConfig,
    specs: Arc<[ParameterSpec]>,
    embed: ParameterId,
    positions: ParameterId,
    tower: Tower,
    norm: LayerNorm,
    projection: Option<LinearProjection>,
}

impl ClipText {
    /// The structure that `config` describes. Allocates no parameter.
    ///
    /// # Errors
    /// [`ModelError::Config`] with every contradiction.
    pub fn new(config: ClipTextConfig) -> Result<Self> {
        config.check().finish()?;
        let mut d = Declaration::new();
        let width = config.width;
        let (embed, positions, tower, norm) = d.within("text_model", |d| {
            let table = |d: &mut Declaration, name: &str, rows: usize| {
                d.declare(name, &[rows, width], Group::Embedding, INIT)
            };
            (
                table(d, "embeddings.token_embedding.weight", config.vocabulary),
                table(d, "embeddings.position_embedding.weight", config.length),
                Tower::declare(d, config.shape()),
                LayerNorm::declare(d, "final_layer_norm", width, config.norm_eps),
            )
        });
        let projection = config
            .projection
            .map(|outputs| LinearProjection::declare(&mut d, "text_projection", width, outputs));
        Ok(Self {
            specs: d.finish(),
            config,
            embed,
            positions,
            tower,
            norm,
            projection,
        })
    }

    /// What the structure was made from.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// Which token of a text has its vector.
    fn end(&self, text: &[u32]) -> Result<usize> {
        match self.config.end_token {
            Some(end) => {
                let place = text.iter().position(|&token| token as usize == end);
                let expected = format!("texts with the end token {end}");
                place.ok_or_else(|| ModelError::input("a text", "does not end", expected))
            }
            None => {
                // The first of several.
                let largest = text.iter().copied().max().unwrap_or(0);
                Ok(text.iter().position(|&token| token == largest).unwrap_or(0))
            }
        }
    }
}

impl TextEncoder for ClipText {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.specs
    }

    fn spec(&self) -> TextSpec {
        let ClipTextConfig {
            vocabulary,
            length,
            width,
            projection,
            ..
        } = self.config;
        TextSpec {
            vocabulary,
            length,
            width,
            pooled: projection.unwrap_or(width),
            projected: projection.is_some(),
            padding: None,
        }
    }

    fn encode(&self, weights: &Weights, texts: &[Vec<u32>]) -> Result<EncodedTexts> {
        let length = expect_texts(texts, &self.spec())?;
        let x = look_up(weights.get(self.embed), texts)?;
        let positions = weights.get(self.positions).narrow(0, 0, length)?;
        let x = x.add(&positions.unsqueeze(0)?)?;
        let x = self.tower.forward(weights, &x, true)?;
        let tokens = self.norm.forward(weights, &x)?;
        let mut ends = Vec::with_capacity(texts.len());
        for (row, text) in texts.iter().enumerate() {
            ends.push((row * length + self.end(text)?) as i64);
        }
        let ends = Tensor::from_ints(&ends, &[texts.len()], x.device())?;
        let width = self.config.width as i64;
        let mut pooled = tokens.reshape(&[-1, width])?.index_select(0, &ends)?;
        if let Some(projection) = &self.projection {
            pooled = projection.forward(weights, &pooled)?;
        }
        Ok(EncodedTexts { tokens, pooled })
    }
}

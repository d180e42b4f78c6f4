//! BERT (Devlin et al., 2019) as a text encoder, transformers' `BertModel` with parameter names included: what most models of
//! sentence-transformers are, all-MiniLM-L6-v2 among them.

use std::sync::Arc;

use dtta_base::Issue;
use dtta_tensor::{Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clip::Attention;
use crate::error::{ModelError, Result};
use crate::fault::{Faults, MAX_EXTENT, MAX_LAYERS};
use crate::layers::{Activation, LayerNorm, Linear};
use crate::table::Architecture;
use crate::text::{EncodedTexts, MAX_VOCABULARY, TextEncoder, TextSpec, expect_texts, look_up};
use crate::transformer::INIT;
use crate::weights::{Declaration, Group, ParameterId, ParameterSpec, Weights};

/// The most kinds of segments.
const MAX_SEGMENTS: usize = 16;

/// How the vector of a text comes from those of its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BertPooling {
    /// A linear layer and tanh on the first token's: `pooler_output` of `BertModel`.
    Pooler,
    /// The first token's.
    First,
    /// The mean of those that are no padding (Reimers and Gurevych, Sentence-BERT, 2019).
    Mean,
}

/// BERT: a text encoder whose tokens see those after them as well as those before. Padding is not seen. all-MiniLM-L6-v2 is
/// `vocabulary: 30522, length: 256, positions: 512, width: 384, hidden_width: 1536, depth: 6, heads: 12, pooling: mean, normalised: true`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BertConfig {
    /// Number of tokens that it knows.
    #[schemars(range(min = 1, max = MAX_VOCABULARY))]
    pub vocabulary: usize,
    /// The most tokens of a text.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub length: usize,
    /// Number of positions that it has vectors for; at least `length`, which it is if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub positions: Option<usize>,
    /// Number of kinds of segments that it has vectors for. All tokens of a text are of the first.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = MAX_SEGMENTS))]
    pub segments: usize,
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
    /// The token that fills up texts; no other token sees it.
    #[serde(default)]
    pub padding: usize,
    /// How the vector of a text comes from those of its tokens.
    pub pooling: BertPooling,
    /// Whether the vector of a text is brought to length 1.
    #[serde(default)]
    pub normalised: bool,
    /// Between the two linear layers of a block.
    #[serde(default = "gelu")]
    pub activation: Activation,
    /// Epsilon of the normalisation layers.
    #[serde(default = "epsilon")]
    #[schemars(range(min = 0))]
    pub norm_eps: f64,
}

fn two() -> usize {
    2
}

fn gelu() -> Activation {
    Activation::Gelu
}

fn epsilon() -> f64 {
    1e-12
}

impl BertConfig {
    fn check(&self) -> Faults {
        let mut faults = Faults::default();
        let known = faults.count("/vocabulary", self.vocabulary, MAX_VOCABULARY);
        if known && self.padding >= self.vocabulary {
            let expected = format!("one of the {} tokens", self.vocabulary);
            faults.add("/padding", self.padding, expected);
        }
        let counted = faults.count("/length", self.length, MAX_EXTENT);
        if let Some(positions) = self.positions
            && faults.count("/positions", positions, MAX_EXTENT)
            && counted
            && positions < self.length
        {
            let expected = format!("at least the length {}", self.length);
            faults.add("/positions", positions, expected);
        }
        faults.count("/segments", self.segments, MAX_SEGMENTS);
        let known = faults.count("/width", self.width, MAX_EXTENT)
            && faults.count("/heads", self.heads, MAX_EXTENT);
        if known && !self.width.is_multiple_of(self.heads) {
            let expected = format!("a divisor of the width {}", self.width);
            faults.add("/heads", self.heads, expected);
        }
        faults.count("/hidden_width", self.hidden_width, MAX_EXTENT);
        faults.count("/depth", self.depth, MAX_LAYERS);
        if !(self.norm_eps > 0.0 && self.norm_eps.is_finite()) {
            faults.add("/norm_eps", self.norm_eps, "a number above 0");
        }
        faults
    }
}

impl Architecture for BertConfig {
    type Model = dyn TextEncoder;
    const KIND: &'static str = "bert";

    fn contradictions(&self) -> Vec<Issue> {
        self.check().issues()
    }

    fn build(self) -> Result<Box<dyn TextEncoder>> {
        Ok(Box::new(Bert::new(self)?))
    }
}

/// BERT's structure.
pub struct Bert {
    config: BertConfig,
    specs: Arc<[ParameterSpec]>,
    words: ParameterId,
    positions: ParameterId,
    segments: ParameterId,
    norm: LayerNorm,
    blocks: Vec<Block>,
    pooler: Option<Linear>,
}

/// Attention and two linear layers, each added to what it was given and normalised after.
struct Block {
    attention: Attention,
    mlp: [Linear; 2],
    norms: [LayerNorm; 2],
}

impl Bert {
    /// The structure that `config` describes. Allocates no parameter.
    ///
    /// # Errors
    /// [`ModelError::Config`] with every contradiction.
    pub fn new(config: BertConfig) -> Result<Self> {
        config.check().finish()?;
        let mut d = Declaration::new();
        let (width, epsilon) = (config.width, config.norm_eps);
        let norm = |d: &mut Declaration, name: &str| LayerNorm::declare(d, name, width, epsilon);
        let (words, positions, segments, first) = d.within("embeddings", |d| {
            let table = |d: &mut Declaration, name: &str, rows: usize| {
                let name = format!("{name}_embeddings.weight");
                d.declare(&name, &[rows, width], Group::Embedding, INIT)
            };
            let positions = config.positions.unwrap_or(config.length);
            (
                table(d, "word", config.vocabulary),
                table(d, "position", positions),
                table(d, "token_type", config.segments),
                norm(d, "LayerNorm"),
            )
        });
        let block = |d: &mut Declaration| {
            let (attention, seen) = d.within("attention", |d| {
                let names = ["self.query", "self.key", "self.value", "output.dense"];
                let attention = Attention::declare(d, width, config.heads, names);
                (attention, norm(d, "output.LayerNorm"))
            });
            let hidden = config.hidden_width;
            let widen = Linear::declare(d, "intermediate.dense", width, hidden, INIT);
            let narrow = Linear::declare(d, "output.dense", hidden, width, INIT);
            Block {
                attention,
                mlp: [widen, narrow],
                norms: [seen, norm(d, "output.LayerNorm")],
            }
        };
        let blocks = (0..config.depth)
            .map(|n| d.within(format_args!("encoder.layer.{n}"), block))
            .collect();
        let pooler = (config.pooling == BertPooling::Pooler)
            .then(|| Linear::declare(&mut d, "pooler.dense", width, width, INIT));
        Ok(Self {
            specs: d.finish(),
            config,
            words,
            positions,
            segments,
            norm: first,
            blocks,
            pooler,
        })
    }

    /// What the structure was made from.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// For each token of each text 1, or 0 for padding, `[B, L]`.
    fn shown(&self, texts: &[Vec<u32>], device: &Device) -> Result<Tensor> {
        let padding = |token: &u32| *token as usize == self.config.padding;
        if texts.iter().any(|text| text.iter().all(padding)) {
            let expected = "a token that is no padding";
            return Err(ModelError::input(
                "a text",
                "is nothing but padding",
                expected,
            ));
        }
        let shown = texts
            .iter()
            .flatten()
            .map(|token| f32::from(!padding(token)));
        let shape = [texts.len(), texts[0].len()];
        Ok(Tensor::from_values(shown.collect(), &shape, device)?)
    }

    fn pooled(&self, weights: &Weights, tokens: &Tensor, shown: &Tensor) -> Result<Tensor> {
        let first = || tokens.narrow(1, 0, 1)?.squeeze(1);
        let pooled = match (self.config.pooling, &self.pooler) {
            (BertPooling::Pooler, Some(layer)) => layer.forward(weights, &first()?)?.tanh()?,
            (BertPooling::Mean, _) => {
                let sums = tokens.mul(&shown.unsqueeze(2)?)?.sum(&[1], false)?;
                sums.div(&shown.sum(&[1], true)?)?
            }
            _ => first()?,
        };
        if !self.config.normalised {
            return Ok(pooled);
        }
        // As `torch.nn.functional.normalize`, whose lengths are at least 1e-12; far below what a mean of normalised tokens has.
        let lengths = pooled.mul(&pooled)?.sum(&[1], true)?.affine(1.0, 1e-24)?;
        Ok(pooled.div(&lengths.sqrt()?)?)
    }
}

impl TextEncoder for Bert {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.specs
    }

    fn spec(&self) -> TextSpec {
        TextSpec {
            vocabulary: self.config.vocabulary,
            length: self.config.length,
            width: self.config.width,
            pooled: self.config.width,
            projected: false,
            // Below the vocabulary, which has at most 2^20 tokens.
            padding: Some(self.config.padding as u32),
        }
    }

    fn encode(&self, weights: &Weights, texts: &[Vec<u32>]) -> Result<EncodedTexts> {
        let length = expect_texts(texts, &self.spec())?;
        let words = look_up(weights.get(self.words), texts)?;
        let shown = self.shown(texts, words.device())?;
        // What is added to scores `[B, heads, L, L]`: 0, or for padding what leaves nothing after a softmax.
        let hidden = shown.affine(1e30, -1e30)?.unsqueeze(1)?.unsqueeze(1)?;
        let segment = weights.get(self.segments).narrow(0, 0, 1)?;
        let positions = weights.get(self.positions).narrow(0, 0, length)?;
        let x = words.add(&positions.add(&segment)?.unsqueeze(0)?)?;
        let mut x = self.norm.forward(weights, &x)?;
        for block in &self.blocks {
            let [first, second] = &block.norms;
            let seen = block.attention.forward(weights, &x, Some(&hidden))?;
            x = first.forward(weights, &x.add(&seen)?)?;
            let [widen, narrow] = &block.mlp;
            let wide = self.config.activation.of(&widen.forward(weights, &x)?)?;
            x = second.forward(weights, &x.add(&narrow.forward(weights, &wide)?)?)?;
        }
        let pooled = self.pooled(weights, &x, &shown)?;
        Ok(EncodedTexts { tokens: x, pooled })
    }
}

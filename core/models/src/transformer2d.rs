//! Cross-attention in a U-Net: diffusers' `Transformer2DModel` with `BasicTransformerBlock`s, parameter names included, as Stable
//! Diffusion uses them (Rombach et al. 2022). Pixels attend to one another, then to the tokens of a slot.

use dtta_tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::denoiser::Slot;
use crate::error::Result;
use crate::fault::{Faults, MAX_EXTENT, MAX_LAYERS, list};
use crate::layers::{BiasedConv, GroupNorm, LayerNorm, Linear, LinearProjection};
use crate::unet::PerLevel;
use crate::weights::{Declaration, Weights};

/// The slot's name.
pub const TOKENS: &str = "tokens";

/// Epsilons of the normalisation before and within the transformer; diffusers fixes them.
const NORM_EPSILON: f64 = 1e-6;
const LAYER_NORM_EPSILON: f64 = 1e-5;

/// The tokens that pixels attend to, such as those of a text encoder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokensConfig {
    /// How many; 77 for Stable Diffusion.
    #[serde(default = "seventy_seven")]
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub length: usize,
    /// Width of each: diffusers' `cross_attention_dim`.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub width: usize,
    /// Heads of each attention, of all levels or of each: what configurations of `UNet2DConditionModel` call `attention_head_dim`.
    pub heads: PerLevel<usize>,
    /// Blocks after each residual block, of all levels or of each: `transformer_layers_per_block` there.
    #[serde(default = "one")]
    pub layers: PerLevel<usize>,
    /// Whether pixels enter and leave the transformer by a linear layer and not a convolution of 1×1.
    #[serde(default)]
    pub use_linear_projection: bool,
    /// Whether pixels attend to the tokens where they would attend to one another, in all levels or in each, but never at the bottom.
    #[serde(default = "no")]
    pub only_cross_attention: PerLevel<bool>,
}

fn seventy_seven() -> usize {
    77
}

fn one() -> PerLevel<usize> {
    PerLevel::All(1)
}

fn no() -> PerLevel<bool> {
    PerLevel::All(false)
}

impl TokensConfig {
    /// `crossed` are places and channels of what attends to tokens.
    pub(crate) fn check(&self, levels: usize, crossed: &[(usize, usize)]) -> Faults {
        let mut faults = Faults::default();
        faults.count("/length", self.length, MAX_EXTENT);
        faults.count("/width", self.width, MAX_EXTENT);
        self.layers
            .count(&mut faults, "/layers", levels, MAX_LAYERS);
        self.only_cross_attention
            .check(&mut faults, "/only_cross_attention", levels);
        let fits = |&(level, channels): &(usize, usize)| {
            let heads: usize = self.heads.at(level);
            heads > 0 && channels.is_multiple_of(heads)
        };
        if self.heads.check(&mut faults, "/heads", levels) && !crossed.iter().all(fits) {
            let channels: Vec<usize> = crossed.iter().map(|(_, channels)| *channels).collect();
            let expected = format!(
                "a divisor of the channels with cross-attention, {}",
                list(&channels)
            );
            faults.add("/heads", &self.heads, expected);
        }
        faults
    }

    /// How the slot is published.
    pub(crate) fn publish(&self) -> Slot {
        Slot {
            name: TOKENS.into(),
            shape: vec![self.length, self.width],
            meaning: "tokens that pixels attend to".into(),
        }
    }
}

/// What the transformers of one level have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TransformerShape {
    pub channels: usize,
    /// Groups of the normalisation.
    pub groups: usize,
    pub heads: usize,
    pub layers: usize,
    /// Whether pixels attend to the tokens where they would attend to one another.
    pub only_cross: bool,
}

/// A transformer over the pixels of one level.
pub(crate) struct Transformer2d {
    norm: GroupNorm,
    inward: Projection,
    blocks: Vec<Block>,
    outward: Projection,
}

enum Projection {
    Convolution(BiasedConv),
    Linear(Linear),
}

struct Block {
    norms: [LayerNorm; 3],
    only_cross: bool,
    own: Attention,
    cross: Attention,
    feed: [Linear; 2],
}

struct Attention {
    query: LinearProjection,
    key: LinearProjection,
    value: LinearProjection,
    out: Linear,
    heads: usize,
}

impl Transformer2d {
    pub fn declare(d: &mut Declaration, config: &TokensConfig, shape: TransformerShape) -> Self {
        let TransformerShape {
            channels, groups, ..
        } = shape;
        let project = |d: &mut Declaration, name: &str| match config.use_linear_projection {
            true => Projection::Linear(Linear::declare_default(d, name, channels, channels)),
            false => {
                Projection::Convolution(BiasedConv::declare(d, name, channels, channels, 1, 1))
            }
        };
        Self {
            norm: GroupNorm::declare(d, "norm", channels, (groups, NORM_EPSILON)),
            inward: project(d, "proj_in"),
            blocks: (0..shape.layers)
                .map(|n| {
                    d.within(format_args!("transformer_blocks.{n}"), |d| {
                        Block::declare(d, config.width, shape)
                    })
                })
                .collect(),
            outward: project(d, "proj_out"),
        }
    }

    /// `x` is `[B, C, H, W]`, `tokens` `[B, L, D]`.
    pub fn forward(&self, weights: &Weights, x: &Tensor, tokens: &Tensor) -> Result<Tensor> {
        let shape = x.shape();
        let extents: Vec<i64> = shape.iter().map(|&extent| extent as i64).collect();
        let to_pixels = |x: &Tensor| {
            x.reshape(&[extents[0], extents[1], -1])?
                .permute(&[0, 2, 1])
        };
        let to_image = |x: &Tensor| x.permute(&[0, 2, 1])?.reshape(&extents);
        let normal = self.norm.forward(weights, x)?;
        let mut pixels = match &self.inward {
            Projection::Convolution(conv) => to_pixels(&conv.forward(weights, &normal)?)?,
            Projection::Linear(linear) => linear.forward(weights, &to_pixels(&normal)?)?,
        };
        for block in &self.blocks {
            pixels = block.forward(weights, &pixels, tokens)?;
        }
        let image = match &self.outward {
            Projection::Convolution(conv) => conv.forward(weights, &to_image(&pixels)?)?,
            Projection::Linear(linear) => to_image(&linear.forward(weights, &pixels)?)?,
        };
        Ok(image.add(x)?)
    }
}

impl Block {
    fn declare(d: &mut Declaration, width: usize, shape: TransformerShape) -> Self {
        let TransformerShape {
            channels,
            only_cross,
            ..
        } = shape;
        let attention = |d: &mut Declaration, name: &str, source: usize| {
            d.within(name, |d| Attention {
                query: LinearProjection::declare(d, "to_q", channels, channels),
                key: LinearProjection::declare(d, "to_k", source, channels),
                value: LinearProjection::declare(d, "to_v", source, channels),
                out: Linear::declare_default(d, "to_out.0", channels, channels),
                heads: shape.heads,
            })
        };
        Self {
            norms: ["norm1", "norm2", "norm3"]
                .map(|name| LayerNorm::declare(d, name, channels, LAYER_NORM_EPSILON)),
            only_cross,
            own: attention(d, "attn1", if only_cross { width } else { channels }),
            cross: attention(d, "attn2", width),
            feed: [
                Linear::declare_default(d, "ff.net.0.proj", channels, 8 * channels),
                Linear::declare_default(d, "ff.net.2", 4 * channels, channels),
            ],
        }
    }

    fn forward(&self, weights: &Weights, x: &Tensor, tokens: &Tensor) -> Result<Tensor> {
        let [first, second, third] = &self.norms;
        let normal = first.forward(weights, x)?;
        let seen = if self.only_cross { tokens } else { &normal };
        let x = self.own.forward(weights, &normal, seen)?.add(x)?;
        let normal = second.forward(weights, &x)?;
        let x = self.cross.forward(weights, &normal, tokens)?.add(&x)?;
        // GEGLU (Shazeer 2020): one half gates the other.
        let [widen, narrow] = &self.feed;
        let wide = widen.forward(weights, &third.forward(weights, &x)?)?;
        let half = wide.shape()[2] / 2;
        let gated = wide
            .narrow(2, 0, half)?
            .mul(&wide.narrow(2, half, half)?.gelu()?)?;
        Ok(narrow.forward(weights, &gated)?.add(&x)?)
    }
}

impl Attention {
    /// `x` `[B, T, C]` attends to `source` `[B or 1, L, D]`.
    fn forward(&self, weights: &Weights, x: &Tensor, source: &Tensor) -> Result<Tensor> {
        let query = self.query.forward(weights, x)?;
        let key = self.key.forward(weights, source)?;
        let value = self.value.forward(weights, source)?;
        let mixed = query.attention(&key, &value, self.heads)?;
        self.out.forward(weights, &mixed)
    }
}

//! The vision transformer beneath a dense prediction transformer: that of DPT itself, and DINOv2 (Oquab et al. 2023), which scales each
//! branch and may gate its hidden layer. Its tokens are taken after several blocks.

use dtta_tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::convolution::{Convolution, Form};
use crate::error::Result;
use crate::fault::{Faults, MAX_EXTENT, MAX_LAYERS, list};
use crate::layers::{Activation, LayerNorm, Linear, LinearProjection};
use crate::mix_transformer::to_tokens;
use crate::segformer::gelu;
use crate::transformer::{INIT, LayerScale, Mlp};
use crate::weights::{Declaration, Group, ParameterId, Weights};

/// How learned positions are brought to another grid of patches: PyTorch's `interpolate` with corners not aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PositionInterpolation {
    /// Between two patches on each axis (DPT).
    Bilinear,
    /// Among four patches on each axis, a = -0.75 (DINOv2).
    Bicubic,
}

/// What a block computes for each token by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VisionFeed {
    /// Two linear layers with an activation between them.
    #[default]
    Mlp,
    /// One half of the hidden layer gates the other (Shazeer 2020).
    SwiGlu,
}

/// The vision transformer of a DPT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DptEncoderConfig {
    /// Pixels of a patch on each axis; divides height and width of the images.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub patch_size: usize,
    /// Rows and columns of patches that positions were learned for.
    #[schemars(inner(range(min = 1, max = MAX_EXTENT)))]
    pub grid: [usize; 2],
    /// How positions are brought to the image's patches, where these are others.
    pub position_interpolation: PositionInterpolation,
    /// Width of a token.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub width: usize,
    /// Number of attention heads; divides the width.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub heads: usize,
    /// Width of the hidden layer of a block; of each half where one gates the other.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub hidden_width: usize,
    /// What a block computes for each token by itself.
    #[serde(default)]
    pub feed: VisionFeed,
    /// The activation between the two linear layers of a block.
    #[serde(default = "gelu")]
    pub activation: Activation,
    /// Whether queries, keys and values have a bias.
    #[serde(default = "yes")]
    pub qkv_bias: bool,
    /// Whether each branch of a block has a learned scale for each channel.
    #[serde(default)]
    pub layer_scale: bool,
    /// Epsilon of the normalisation layers.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub epsilon: f64,
    /// After how many blocks tokens are taken, ascending. There are as many blocks as the last says.
    #[schemars(length(min = 1, max = 16), inner(range(min = 1, max = MAX_LAYERS)))]
    pub taps: Vec<usize>,
    /// Whether what is taken is normalised.
    #[serde(default)]
    pub norm_taps: bool,
}

fn yes() -> bool {
    true
}

impl DptEncoderConfig {
    pub(crate) fn check(&self) -> Faults {
        let mut faults = Faults::default();
        faults.count("/patch_size", self.patch_size, MAX_EXTENT);
        for extent in self.grid {
            faults.count("/grid", extent, MAX_EXTENT);
        }
        let known = faults.count("/width", self.width, MAX_EXTENT)
            && faults.count("/heads", self.heads, MAX_EXTENT);
        if known && !self.width.is_multiple_of(self.heads) {
            let expected = format!("a divisor of the width {}", self.width);
            faults.add("/heads", self.heads, expected);
        }
        faults.count("/hidden_width", self.hidden_width, MAX_EXTENT);
        if !(self.epsilon > 0.0 && self.epsilon.is_finite()) {
            faults.add("/epsilon", self.epsilon, "above 0");
        }
        let ascending = self.taps.windows(2).all(|pair| pair[0] < pair[1]);
        let within = self.taps.iter().all(|tap| (1..=MAX_LAYERS).contains(tap));
        if self.taps.is_empty() || !ascending || !within {
            let expected = format!("ascending numbers of blocks from 1 to {MAX_LAYERS}");
            faults.add("/taps", list(&self.taps), expected);
        }
        faults
    }

    /// Rows and columns of an image's patches.
    pub(crate) fn patches(&self, [_, height, width]: [usize; 3]) -> [usize; 2] {
        [height, width].map(|extent| extent / self.patch_size)
    }
}

/// The structure.
pub(super) struct Encoder {
    config: DptEncoderConfig,
    class_token: ParameterId,
    positions: ParameterId,
    embed: Convolution,
    blocks: Vec<Block>,
    norm: Option<LayerNorm>,
}

struct Block {
    norms: [LayerNorm; 2],
    qkv: Qkv,
    out: Linear,
    feed: Feed,
    scales: Option<[LayerScale; 2]>,
    heads: usize,
}

enum Qkv {
    Biased(Linear),
    Plain(LinearProjection),
}

enum Feed {
    Mlp(Mlp),
    Gated { both: Linear, out: Linear },
}

impl Encoder {
    pub fn declare(d: &mut Declaration, config: &DptEncoderConfig, channels: usize) -> Self {
        let width = config.width;
        let class_token = d.declare("cls_token", &[1, 1, width], Group::Embedding, INIT);
        let tokens = 1 + config.grid[0] * config.grid[1];
        let positions = d.declare("pos_embed", &[1, tokens, width], Group::Embedding, INIT);
        let form = Form {
            window: config.patch_size,
            stride: config.patch_size,
            padding: None,
            depthwise: false,
            bias: true,
            init: INIT,
        };
        let embed = Convolution::declare(d, "patch_embed.proj", [channels, width], form);
        let depth = config.taps.last().copied().unwrap_or_default();
        let blocks = (0..depth)
            .map(|n| d.within(format_args!("blocks.{n}"), |d| Block::declare(d, config)))
            .collect();
        let norm = config
            .norm_taps
            .then(|| LayerNorm::declare(d, "norm", width, config.epsilon));
        Self {
            config: config.clone(),
            class_token,
            positions,
            embed,
            blocks,
            norm,
        }
    }

    /// The tokens `[B, 1 + T, width]` after each of the numbers of blocks that were asked for; the class token comes first.
    pub fn forward(&self, weights: &Weights, images: &Tensor) -> Result<Vec<Tensor>> {
        let (batch, width) = (images.shape()[0], self.config.width);
        let patches = self.embed.forward(weights, images)?;
        let grid = [patches.shape()[2], patches.shape()[3]];
        let token = weights.get(self.class_token).expand(&[batch, 1, width])?;
        let tokens = Tensor::cat(&[&token, &to_tokens(&patches)?], 1)?;
        let mut x = tokens.add(&self.positions(weights, grid)?)?;
        let mut taken = Vec::with_capacity(self.config.taps.len());
        for (n, block) in self.blocks.iter().enumerate() {
            x = block.forward(weights, &x)?;
            if self.config.taps.contains(&(n + 1)) {
                taken.push(match &self.norm {
                    Some(norm) => norm.forward(weights, &x)?,
                    None => x.clone(),
                });
            }
        }
        Ok(taken)
    }

    /// The positions of the class token and of a grid of patches, `[1, 1 + T, width]`.
    fn positions(&self, weights: &Weights, grid: [usize; 2]) -> Result<Tensor> {
        let learned = weights.get(self.positions);
        if grid == self.config.grid {
            return Ok(learned.clone());
        }
        let ([rows, columns], width) = (self.config.grid, self.config.width as i64);
        let of_class = learned.narrow(1, 0, 1)?;
        let of_patches = learned.narrow(1, 1, rows * columns)?;
        let matrix = |from: usize, to: usize| {
            let values = interpolation(self.config.position_interpolation, from, to);
            Tensor::from_floats(&values, &[to, from], learned.device())
        };
        let down = matrix(rows, grid[0])?;
        let down = down.matmul(&of_patches.reshape(&[rows as i64, -1])?)?;
        let down = down.reshape(&[grid[0] as i64, columns as i64, width])?;
        let across = matrix(columns, grid[1])?.unsqueeze(0)?.matmul(&down)?;
        let of_patches = across.reshape(&[1, -1, width])?;
        Ok(Tensor::cat(&[&of_class, &of_patches], 1)?)
    }
}

/// The `[to, from]` matrix of one-dimensional interpolation, row by row: place `i` of the result lies at `(i + 1/2) from / to - 1/2`.
fn interpolation(kind: PositionInterpolation, from: usize, to: usize) -> Vec<f32> {
    let mut matrix = vec![0.0; to * from];
    let last = from as i64 - 1;
    for (i, row) in matrix.chunks_exact_mut(from).enumerate() {
        let place = (i as f64 + 0.5) * from as f64 / to as f64 - 0.5;
        let mut add = |index: i64, share: f64| row[index.clamp(0, last) as usize] += share as f32;
        match kind {
            PositionInterpolation::Bilinear => {
                let place = place.max(0.0);
                let below = place.floor();
                add(below as i64, 1.0 - (place - below));
                add(below as i64 + 1, place - below);
            }
            PositionInterpolation::Bicubic => {
                let below = place.floor();
                let t = place - below;
                for offset in -1..=2i64 {
                    add(below as i64 + offset, cubic(t - offset as f64));
                }
            }
        }
    }
    matrix
}

/// Keys's cubic convolution kernel with a = -0.75, as PyTorch has it.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.75;
    let x = x.abs();
    if x <= 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        A * (((x - 5.0) * x + 8.0) * x - 4.0)
    } else {
        0.0
    }
}

impl Block {
    fn declare(d: &mut Declaration, config: &DptEncoderConfig) -> Self {
        let (width, hidden) = (config.width, config.hidden_width);
        let first = LayerNorm::declare(d, "norm1", width, config.epsilon);
        let (qkv, out) = d.within("attn", |d| {
            let qkv = match config.qkv_bias {
                true => Qkv::Biased(Linear::declare(d, "qkv", width, 3 * width, INIT)),
                false => Qkv::Plain(LinearProjection::declare(d, "qkv", width, 3 * width)),
            };
            (qkv, Linear::declare(d, "proj", width, width, INIT))
        });
        let second = LayerNorm::declare(d, "norm2", width, config.epsilon);
        let feed = match config.feed {
            VisionFeed::Mlp => {
                Feed::Mlp(Mlp::declare(d, [width, hidden], config.activation, false))
            }
            VisionFeed::SwiGlu => d.within("mlp", |d| Feed::Gated {
                both: Linear::declare(d, "w12", width, 2 * hidden, INIT),
                out: Linear::declare(d, "w3", hidden, width, INIT),
            }),
        };
        let scales = config.layer_scale.then(|| {
            ["ls1.gamma", "ls2.gamma"].map(|name| LayerScale::declare(d, name, width, false))
        });
        Self {
            norms: [first, second],
            qkv,
            out,
            feed,
            scales,
            heads: config.heads,
        }
    }

    fn forward(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        let [first, second] = &self.norms;
        let scaled = |n: usize, y: Tensor| match &self.scales {
            Some(scales) => scales[n].forward(weights, &y),
            None => Ok(y),
        };
        let normal = first.forward(weights, x)?;
        let qkv = match &self.qkv {
            Qkv::Biased(linear) => linear.forward(weights, &normal)?,
            Qkv::Plain(linear) => linear.forward(weights, &normal)?,
        };
        let seen = self
            .out
            .forward(weights, &qkv.self_attention(self.heads)?)?;
        let x = x.add(&scaled(0, seen)?)?;
        let normal = second.forward(weights, &x)?;
        let fed = match &self.feed {
            Feed::Mlp(mlp) => mlp.forward(weights, &normal)?,
            Feed::Gated { both, out } => {
                let both = both.forward(weights, &normal)?;
                let half = both.shape()[2] / 2;
                let gate = both.narrow(2, 0, half)?.silu()?;
                out.forward(weights, &gate.mul(&both.narrow(2, half, half)?)?)?
            }
        };
        Ok(x.add(&scaled(1, fed)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_between_patches_are_those_of_the_formula() {
        // From 2 to 4: places -1/4, 1/4, 3/4, 5/4, of which the first is held to 0 and the last has only the last patch beyond.
        let matrix = interpolation(PositionInterpolation::Bilinear, 2, 4);
        assert_eq!(matrix, [1.0, 0.0, 0.75, 0.25, 0.25, 0.75, 0.0, 1.0]);
        // At a patch the cubic is that patch, and half-way it is -3/32, 19/32, 19/32, -3/32 for a = -3/4, beyond the ends the ends'.
        let matrix = interpolation(PositionInterpolation::Bicubic, 3, 3);
        assert_eq!(matrix, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
        let matrix = interpolation(PositionInterpolation::Bicubic, 4, 1);
        assert_eq!(matrix, [-0.09375, 0.59375, 0.59375, -0.09375]);
        let matrix = interpolation(PositionInterpolation::Bicubic, 2, 1);
        assert_eq!(matrix, [0.5, 0.5]);
    }

    #[test]
    fn shares_sum_to_one_for_any_extents() {
        for kind in [
            PositionInterpolation::Bilinear,
            PositionInterpolation::Bicubic,
        ] {
            for (from, to) in [(1, 5), (7, 3), (16, 37), (37, 16)] {
                for row in interpolation(kind, from, to).chunks_exact(from) {
                    let sum: f32 = row.iter().sum();
                    assert!((sum - 1.0).abs() < 1e-6, "{kind:?} {from} {to}: {sum}");
                }
            }
        }
    }
}

//! The mix transformer (Xie et al., SegFormer, NeurIPS 2021, section 3.1): levels of overlapping patches whose pixels attend to a reduced
//! copy of the level, with a depthwise convolution in the place of positions. Segmenters and depth predictors are built on it.

use dtta_tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::convolution::{Convolution, Form, Padding};
use crate::error::Result;
use crate::fault::{Faults, MAX_EXTENT, MAX_LAYERS, MAX_LEVELS};
use crate::layers::{Activation, LayerNorm, Linear};
use crate::transformer::INIT;
use crate::weights::{Declaration, Weights};

/// Epsilon of every layer normalisation: PyTorch's default, which transformers' classes use whatever their configuration says.
const EPSILON: f64 = 1e-5;

/// The largest window or reduction.
const MAX_WINDOW: usize = 64;

/// One level of a mix transformer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MixLevel {
    /// Channels; a multiple of `heads`.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub width: usize,
    /// Number of blocks.
    #[schemars(range(min = 1, max = MAX_LAYERS))]
    pub depth: usize,
    /// Number of attention heads.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub heads: usize,
    /// Width between the two linear layers of a block.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub hidden_width: usize,
    /// Window of a patch, an odd number.
    #[schemars(range(min = 1, max = MAX_WINDOW))]
    pub patch_size: usize,
    /// Step from one patch to the next, no longer than a patch.
    #[schemars(range(min = 1, max = MAX_WINDOW))]
    pub stride: usize,
    /// How many pixels on each axis become one of what pixels attend to.
    #[schemars(range(min = 1, max = MAX_WINDOW))]
    pub reduction: usize,
}

/// The faults of levels for an image, and what is left of its extents after each.
pub(crate) fn check(levels: &[MixLevel], [_, height, width]: [usize; 3]) -> Faults {
    let mut faults = Faults::default();
    if !(1..=MAX_LEVELS).contains(&levels.len()) {
        let expected = format!("1 to {MAX_LEVELS} levels");
        faults.add("", format_args!("{} levels", levels.len()), expected);
    }
    let mut extents = [height, width];
    for (n, level) in levels.iter().enumerate() {
        let at = |field: &str| format!("/{n}/{field}");
        let counts = [
            ("width", level.width, MAX_EXTENT),
            ("depth", level.depth, MAX_LAYERS),
            ("heads", level.heads, MAX_EXTENT),
            ("hidden_width", level.hidden_width, MAX_EXTENT),
            ("patch_size", level.patch_size, MAX_WINDOW),
            ("stride", level.stride, MAX_WINDOW),
            ("reduction", level.reduction, MAX_WINDOW),
        ];
        let unknown = counts
            .into_iter()
            .filter(|&(field, value, most)| !faults.count(&at(field), value, most));
        if unknown.count() > 0 {
            continue;
        }
        if !level.width.is_multiple_of(level.heads) {
            let expected = format!("a divisor of the width {}", level.width);
            faults.add(&at("heads"), level.heads, expected);
        }
        if level.patch_size % 2 == 0 {
            faults.add(&at("patch_size"), level.patch_size, "an odd number");
        }
        if level.stride > level.patch_size {
            let expected = format!("at most the patch size {}", level.patch_size);
            faults.add(&at("stride"), level.stride, expected);
        }
        extents = extents.map(|extent| extent.div_ceil(level.stride));
        if extents.iter().any(|&extent| extent < level.reduction) {
            let expected = format!(
                "at most {} and {}, the level's height and width",
                extents[0], extents[1]
            );
            faults.add(&at("reduction"), level.reduction, expected);
        }
    }
    faults
}

/// Height and width of the first level.
pub(crate) fn first_extents(levels: &[MixLevel], [_, height, width]: [usize; 3]) -> [usize; 2] {
    let stride = levels.first().map_or(1, |level| level.stride);
    [height, width].map(|extent| extent.div_ceil(stride))
}

/// A mix transformer's structure.
pub(crate) struct MixTransformer {
    levels: Vec<Level>,
}

struct Level {
    embed: Convolution,
    embed_norm: LayerNorm,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

struct Block {
    attention_norm: LayerNorm,
    attention: Attention,
    feed_norm: LayerNorm,
    feed: MixFeed,
}

struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    reduced: Option<(Convolution, LayerNorm)>,
    heads: usize,
}

/// A linear layer, a depthwise convolution, an activation and a linear layer.
struct MixFeed {
    widen: Linear,
    depthwise: Convolution,
    act: Activation,
    narrow: Linear,
}

impl MixTransformer {
    /// With transformers' names. `channels` are the image's.
    pub fn declare(
        d: &mut Declaration,
        levels: &[MixLevel],
        channels: usize,
        act: Activation,
    ) -> Self {
        let mut inputs = channels;
        let declared = levels.iter().enumerate().map(|(n, level)| {
            let form = Form {
                window: level.patch_size,
                stride: level.stride,
                padding: Some(Padding::Symmetric),
                depthwise: false,
                bias: true,
                init: INIT,
            };
            let width = level.width;
            let (embed, embed_norm) = d.within(format_args!("patch_embeddings.{n}"), |d| {
                (
                    Convolution::declare(d, "proj", [inputs, width], form),
                    LayerNorm::declare(d, "layer_norm", width, EPSILON),
                )
            });
            inputs = width;
            let blocks = (0..level.depth)
                .map(|m| {
                    d.within(format_args!("block.{n}.{m}"), |d| {
                        Block::declare(d, level, act)
                    })
                })
                .collect();
            let norm = LayerNorm::declare(d, &format!("layer_norm.{n}"), width, EPSILON);
            Level {
                embed,
                embed_norm,
                blocks,
                norm,
            }
        });
        Self {
            levels: declared.collect(),
        }
    }

    /// The maps `[B, width, h, w]` of each level, from the largest to the smallest.
    pub fn forward(&self, weights: &Weights, images: &Tensor) -> Result<Vec<Tensor>> {
        let mut maps: Vec<Tensor> = Vec::with_capacity(self.levels.len());
        for level in &self.levels {
            let map = level
                .embed
                .forward(weights, maps.last().unwrap_or(images))?;
            let extents = [map.shape()[2], map.shape()[3]];
            let mut x = level.embed_norm.forward(weights, &to_tokens(&map)?)?;
            for block in &level.blocks {
                x = block.forward(weights, &x, extents)?;
            }
            maps.push(to_map(&level.norm.forward(weights, &x)?, extents)?);
        }
        Ok(maps)
    }
}

impl Block {
    fn declare(d: &mut Declaration, level: &MixLevel, act: Activation) -> Self {
        let (width, hidden) = (level.width, level.hidden_width);
        let attention_norm = LayerNorm::declare(d, "layer_norm_1", width, EPSILON);
        let linear = |d: &mut Declaration, name: &str| Linear::declare(d, name, width, width, INIT);
        let attention = d.within("attention", |d| Attention {
            query: linear(d, "self.query"),
            key: linear(d, "self.key"),
            value: linear(d, "self.value"),
            reduced: (level.reduction > 1).then(|| {
                let form = Form {
                    window: level.reduction,
                    stride: level.reduction,
                    padding: None,
                    depthwise: false,
                    bias: true,
                    init: INIT,
                };
                (
                    Convolution::declare(d, "self.sr", [width; 2], form),
                    LayerNorm::declare(d, "self.layer_norm", width, EPSILON),
                )
            }),
            out: linear(d, "output.dense"),
            heads: level.heads,
        });
        let feed_norm = LayerNorm::declare(d, "layer_norm_2", width, EPSILON);
        let feed = d.within("mlp", |d| MixFeed {
            widen: Linear::declare(d, "dense1", width, hidden, INIT),
            depthwise: Convolution::declare(
                d,
                "dwconv.dwconv",
                [hidden; 2],
                Form {
                    window: 3,
                    stride: 1,
                    padding: Some(Padding::Symmetric),
                    depthwise: true,
                    bias: true,
                    init: INIT,
                },
            ),
            act,
            narrow: Linear::declare(d, "dense2", hidden, width, INIT),
        });
        Self {
            attention_norm,
            attention,
            feed_norm,
            feed,
        }
    }

    /// `x` is `[B, T, width]`, the pixels of a map of those extents.
    fn forward(&self, weights: &Weights, x: &Tensor, extents: [usize; 2]) -> Result<Tensor> {
        let normal = self.attention_norm.forward(weights, x)?;
        let x = self.attention.forward(weights, &normal, extents)?.add(x)?;
        let normal = self.feed_norm.forward(weights, &x)?;
        Ok(self.feed.forward(weights, &normal, extents)?.add(&x)?)
    }
}

impl Attention {
    fn forward(&self, weights: &Weights, x: &Tensor, extents: [usize; 2]) -> Result<Tensor> {
        let seen = match &self.reduced {
            None => x.clone(),
            Some((conv, norm)) => {
                let smaller = conv.forward(weights, &to_map(x, extents)?)?;
                norm.forward(weights, &to_tokens(&smaller)?)?
            }
        };
        let [query, key, value] = [
            self.query.forward(weights, x)?,
            self.key.forward(weights, &seen)?,
            self.value.forward(weights, &seen)?,
        ];
        let mixed = match self.reduced {
            None => Tensor::cat(&[&query, &key, &value], 2)?.self_attention(self.heads)?,
            Some(_) => query.attention(&key, &value, self.heads)?,
        };
        self.out.forward(weights, &mixed)
    }
}

impl MixFeed {
    fn forward(&self, weights: &Weights, x: &Tensor, extents: [usize; 2]) -> Result<Tensor> {
        let wide = to_map(&self.widen.forward(weights, x)?, extents)?;
        let wide = self.depthwise.forward(weights, &wide)?;
        self.narrow
            .forward(weights, &to_tokens(&self.act.of(&wide)?)?)
    }
}

/// `[B, C, H, W]` as `[B, H W, C]`.
pub(crate) fn to_tokens(map: &Tensor) -> Result<Tensor> {
    let shape = map.shape();
    let tokens = map.reshape(&[shape[0] as i64, shape[1] as i64, -1])?;
    Ok(tokens.permute(&[0, 2, 1])?)
}

/// `[B, H W, C]` as `[B, C, H, W]`.
pub(crate) fn to_map(tokens: &Tensor, [height, width]: [usize; 2]) -> Result<Tensor> {
    let shape = tokens.shape();
    let extents = [shape[0], shape[2], height, width].map(|extent| extent as i64);
    Ok(tokens.permute(&[0, 2, 1])?.reshape(&extents)?)
}

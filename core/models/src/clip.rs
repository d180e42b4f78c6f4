//! CLIP (Radford et al. 2021) as transformers' `CLIPModel` has it, parameter names included: the transformer of both its towers, and the
//! one of images as a backbone that answers with features which texts share. The one of texts is in `clip_text.rs`.

use std::sync::Arc;

use dtta_base::Issue;
use dtta_tensor::{Device, Named, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backbone::{Backbone, BackboneSpec, BatchNormStatistics, FEATURES, LOGIT_SCALE};
use crate::convolution::{Convolution, Form};
use crate::denoiser::expect_images;
use crate::error::Result;
use crate::fault::{Faults, MAX_EXTENT, MAX_LAYERS};
use crate::layers::{Activation, LayerNorm, Linear, LinearProjection};
use crate::table::Architecture;
use crate::transformer::INIT;
use crate::weights::{Declaration, Group, Init, ParameterId, ParameterSpec, Weights};

// --- The transformer of both towers ---------------------------------------------------------------------------------------------------

/// What the blocks of a tower look like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TowerShape {
    pub width: usize,
    pub hidden_width: usize,
    pub depth: usize,
    pub heads: usize,
    pub activation: Activation,
    pub epsilon: f64,
}

impl TowerShape {
    /// Faults of the fields that describe it.
    pub fn check(&self, faults: &mut Faults) {
        let known = faults.count("/width", self.width, MAX_EXTENT)
            && faults.count("/heads", self.heads, MAX_EXTENT);
        if known && !self.width.is_multiple_of(self.heads) {
            let expected = format!("a divisor of the width {}", self.width);
            faults.add("/heads", self.heads, expected);
        }
        faults.count("/hidden_width", self.hidden_width, MAX_EXTENT);
        faults.count("/depth", self.depth, MAX_LAYERS);
        if !(self.epsilon > 0.0 && self.epsilon.is_finite()) {
            faults.add("/norm_eps", self.epsilon, "a number above 0");
        }
    }
}

/// Blocks of attention and two linear layers, each normalised before and added to what it was given.
pub(crate) struct Tower {
    blocks: Vec<Block>,
    activation: Activation,
}

struct Block {
    norms: [LayerNorm; 2],
    attention: Attention,
    mlp: [Linear; 2],
}

/// Attention of queries, keys and values that are linear layers of the same tokens.
pub(crate) struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    heads: usize,
}

impl Tower {
    pub fn declare(d: &mut Declaration, shape: TowerShape) -> Self {
        let TowerShape { width, .. } = shape;
        let names = ["q_proj", "k_proj", "v_proj", "out_proj"];
        let linear = |d: &mut Declaration, name: &str, [inputs, outputs]: [usize; 2]| {
            Linear::declare(d, name, inputs, outputs, INIT)
        };
        let block = |d: &mut Declaration| Block {
            norms: ["layer_norm1", "layer_norm2"]
                .map(|name| LayerNorm::declare(d, name, width, shape.epsilon)),
            attention: d.within("self_attn", |d| {
                Attention::declare(d, width, shape.heads, names)
            }),
            mlp: d.within("mlp", |d| {
                [
                    linear(d, "fc1", [width, shape.hidden_width]),
                    linear(d, "fc2", [shape.hidden_width, width]),
                ]
            }),
        };
        Self {
            blocks: (0..shape.depth)
                .map(|n| d.within(format_args!("encoder.layers.{n}"), block))
                .collect(),
            activation: shape.activation,
        }
    }

    /// `[B, T, width]` to the same; of a causal tower, each token sees itself and those before it.
    pub fn forward(&self, weights: &Weights, x: &Tensor, causal: bool) -> Result<Tensor> {
        let hidden = match causal {
            true => Some(later_tokens(x.shape()[1], x.device())?),
            false => None,
        };
        let mut x = x.clone();
        for block in &self.blocks {
            let [first, second] = &block.norms;
            let normal = first.forward(weights, &x)?;
            let seen = block.attention.forward(weights, &normal, hidden.as_ref())?;
            x = x.add(&seen)?;
            let [widen, narrow] = &block.mlp;
            let wide = widen.forward(weights, &second.forward(weights, &x)?)?;
            x = x.add(&narrow.forward(weights, &self.activation.of(&wide)?)?)?;
        }
        Ok(x)
    }
}

/// What is added to the scores of `[tokens, tokens]`, so that no token sees a later one: 0, or what leaves nothing after a softmax.
fn later_tokens(tokens: usize, device: &Device) -> Result<Tensor> {
    let mut mask = vec![0.0; tokens * tokens];
    for row in 0..tokens {
        mask[row * tokens + row + 1..(row + 1) * tokens].fill(-1e30);
    }
    Ok(Tensor::from_values(mask, &[1, 1, tokens, tokens], device)?)
}

impl Attention {
    /// The layers of queries, keys, values and of what comes out have these names.
    pub fn declare(d: &mut Declaration, width: usize, heads: usize, names: [&str; 4]) -> Self {
        let [query, key, value, out] =
            names.map(|name| Linear::declare(d, name, width, width, INIT));
        Self {
            query,
            key,
            value,
            out,
            heads,
        }
    }

    /// `[B, T, width]` to the same. `hidden` is added to the scores `[B, heads, T, T]`.
    pub fn forward(
        &self,
        weights: &Weights,
        x: &Tensor,
        hidden: Option<&Tensor>,
    ) -> Result<Tensor> {
        let parts = [&self.query, &self.key, &self.value];
        let [query, key, value] = parts.map(|part| part.forward(weights, x));
        let (query, key, value) = (query?, key?, value?);
        let Some(hidden) = hidden else {
            let together = Tensor::cat(&[&query, &key, &value], 2)?;
            return self
                .out
                .forward(weights, &together.self_attention(self.heads)?);
        };
        let [batch, tokens, width] = [0, 1, 2].map(|axis| x.shape()[axis]);
        let extent = width / self.heads;
        let heads = |x: &Tensor| {
            x.reshape(&[batch, tokens, self.heads, extent].map(|extent| extent as i64))?
                .permute(&[0, 2, 1, 3])
        };
        let query = heads(&query)?.affine(1.0 / (extent as f64).sqrt(), 0.0)?;
        let scores = query.matmul(&heads(&key)?.permute(&[0, 1, 3, 2])?)?;
        let seen = scores
            .add(hidden)?
            .softmax(-1)?
            .matmul(&heads(&value)?)?
            .permute(&[0, 2, 1, 3])?
            .reshape(&[batch, tokens, width].map(|extent| extent as i64))?;
        self.out.forward(weights, &seen)
    }
}

// --- Images ---------------------------------------------------------------------------------------------------------------------------

/// CLIP's transformer of images with its projection: a backbone for zero-shot classification. Its features `[B, projection]` are those
/// of `CLIPModel.get_image_features`, not normalised. It has no classes of its own: a head holds the features against those of texts.
/// ViT-B/32 is `image: [3, 224, 224], patch_size: 32, width: 768, hidden_width: 3072, depth: 12, heads: 12, projection: 512`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClipVisionConfig {
    /// Channels, height and width of the images.
    #[schemars(inner(range(min = 1, max = MAX_EXTENT)))]
    pub image: [usize; 3],
    /// Pixels of a patch on each axis; divides height and width.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub patch_size: usize,
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
    /// Width of the space that images and texts share.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub projection: usize,
    /// Between the two linear layers of a block: `quick_gelu` of OpenAI's models, `gelu` of most of OpenCLIP's.
    #[serde(default = "quick_gelu")]
    pub activation: Activation,
    /// Epsilon of the normalisation layers.
    #[serde(default = "epsilon")]
    #[schemars(range(min = 0))]
    pub norm_eps: f64,
}

pub(crate) fn quick_gelu() -> Activation {
    Activation::QuickGelu
}

pub(crate) fn epsilon() -> f64 {
    1e-5
}

impl ClipVisionConfig {
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
        if faults.count("/patch_size", self.patch_size, MAX_EXTENT) {
            faults.image(self.image, self.patch_size);
        }
        self.shape().check(&mut faults);
        faults.count("/projection", self.projection, MAX_EXTENT);
        faults
    }
}

impl Architecture for ClipVisionConfig {
    type Model = dyn Backbone;
    const KIND: &'static str = "clip_vision";

    fn contradictions(&self) -> Vec<Issue> {
        self.check().issues()
    }

    fn build(self) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(ClipVision::new(self)?))
    }
}

/// The structure of CLIP's transformer of images.
pub struct ClipVision {
    config: ClipVisionConfig,
    specs: Arc<[ParameterSpec]>,
    spec: BackboneSpec,
    class_token: ParameterId,
    embed: Convolution,
    positions: ParameterId,
    first_norm: LayerNorm,
    tower: Tower,
    last_norm: LayerNorm,
    projection: LinearProjection,
    scale: ParameterId,
}

impl ClipVision {
    /// The structure that `config` describes. Allocates no parameter.
    ///
    /// # Errors
    /// [`ModelError::Config`](crate::ModelError::Config) with every contradiction.
    pub fn new(config: ClipVisionConfig) -> Result<Self> {
        config.check().finish()?;
        let mut d = Declaration::new();
        let width = config.width;
        let [channels, height, across] = config.image;
        let patches = (height / config.patch_size) * (across / config.patch_size);
        let form = Form {
            window: config.patch_size,
            stride: config.patch_size,
            padding: None,
            depthwise: false,
            bias: false,
            init: INIT,
        };
        let (class_token, embed, positions) = d.within("vision_model.embeddings", |d| {
            (
                d.declare("class_embedding", &[width], Group::Embedding, INIT),
                Convolution::declare(d, "patch_embedding", [channels, width], form),
                d.declare(
                    "position_embedding.weight",
                    &[patches + 1, width],
                    Group::Embedding,
                    INIT,
                ),
            )
        });
        let norm =
            |d: &mut Declaration, name: &str| LayerNorm::declare(d, name, width, config.norm_eps);
        let (first_norm, tower, last_norm) = d.within("vision_model", |d| {
            (
                // The library's own spelling.
                norm(d, "pre_layrnorm"),
                Tower::declare(d, config.shape()),
                norm(d, "post_layernorm"),
            )
        });
        let projection =
            LinearProjection::declare(&mut d, "visual_projection", width, config.projection);
        // ln(1 / 0.07), where CLIP's training began; no feature depends on it.
        let init = Init::Fixed(Arc::from([2.659_26_f32]));
        let scale = d.declare("logit_scale", &[1], Group::Buffer, init);
        Ok(Self {
            specs: d.finish(),
            spec: BackboneSpec {
                image: config.image,
                outputs: config.projection,
                per_pixel: false,
                batch_statistics: false,
            },
            config,
            class_token,
            embed,
            positions,
            first_norm,
            tower,
            last_norm,
            projection,
            scale,
        })
    }

    /// What the structure was made from.
    pub fn config(&self) -> &ClipVisionConfig {
        &self.config
    }
}

impl Backbone for ClipVision {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.specs
    }

    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn forward(
        &self,
        weights: &Weights,
        images: &Tensor,
        _statistics: BatchNormStatistics,
    ) -> Result<Named> {
        let batch = expect_images("the batch of images", images, self.config.image)?;
        let width = self.config.width;
        let patches = self.embed.forward(weights, images)?;
        let patches = patches.reshape(&[batch as i64, width as i64, -1])?;
        let patches = patches.permute(&[0, 2, 1])?;
        let token = weights
            .get(self.class_token)
            .reshape(&[1, 1, width as i64])?;
        let token = token.expand(&[batch, 1, width])?;
        let positions = weights.get(self.positions).unsqueeze(0)?;
        let x = Tensor::cat(&[&token, &patches], 1)?.add(&positions)?;
        let x = self.first_norm.forward(weights, &x)?;
        let x = self.tower.forward(weights, &x, false)?;
        let class = x.narrow(1, 0, 1)?.squeeze(1)?;
        let class = self.last_norm.forward(weights, &class)?;
        let features = self.projection.forward(weights, &class)?;
        Ok(Named::one(FEATURES, features))
    }

    fn text_space(&self) -> Option<usize> {
        Some(self.config.projection)
    }

    fn constants(&self, weights: &Weights) -> Result<Named> {
        Ok(Named::one(LOGIT_SCALE, weights.get(self.scale).exp()?))
    }
}

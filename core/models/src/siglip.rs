//! SigLIP (Zhai et al., Sigmoid Loss for Language Image Pre-Training, ICCV 2023) as transformers' `SiglipModel` has it, parameter names
//! included: CLIP's blocks in both towers, of which the one of images ends in a token that looks at all others, and the one of texts sees
//! padding and answers with its last token.

use std::sync::Arc;

use dtta_base::Issue;
use dtta_tensor::{Named, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backbone::{Backbone, BackboneSpec, BatchNormStatistics, FEATURES, LOGIT_SCALE};
use crate::clip::{Tower, TowerShape};
use crate::convolution::{Convolution, Form};
use crate::denoiser::expect_images;
use crate::error::Result;
use crate::fault::{Faults, MAX_EXTENT, MAX_LAYERS};
use crate::layers::{Activation, LayerNorm, Linear};
use crate::table::Architecture;
use crate::text::{EncodedTexts, MAX_VOCABULARY, TextEncoder, TextSpec, expect_texts, look_up};
use crate::transformer::{INIT, Mlp};
use crate::weights::{Declaration, Group, Init, ParameterId, ParameterSpec, Weights};

fn gelu_tanh() -> Activation {
    Activation::GeluTanh
}

fn epsilon() -> f64 {
    1e-6
}

// --- Images ---------------------------------------------------------------------------------------------------------------------------

/// SigLIP's transformer of images: a backbone for zero-shot classification. Its features `[B, width]` are those of
/// `SiglipModel.get_image_features`, not normalised. Each logit of SigLIP was trained by itself, with a sigmoid and a bias; a head that
/// takes a softmax over classes compares them, to which the bias, the same for all, adds nothing. ViT-B/16 is `image: [3, 224, 224],
/// patch_size: 16, width: 768, hidden_width: 3072, depth: 12, heads: 12`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SiglipVisionConfig {
    /// Channels, height and width of the images. What is left over at the right and below of a last whole patch is not seen.
    #[schemars(inner(range(min = 1, max = MAX_EXTENT)))]
    pub image: [usize; 3],
    /// Pixels of a patch on each axis.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub patch_size: usize,
    /// Width of a token, and of the space that images and texts share.
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
    /// Between the two linear layers of a block.
    #[serde(default = "gelu_tanh")]
    pub activation: Activation,
    /// Epsilon of the normalisation layers.
    #[serde(default = "epsilon")]
    #[schemars(range(min = 0))]
    pub norm_eps: f64,
}

impl SiglipVisionConfig {
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
        let [_, height, across] = self.image;
        if faults.image(self.image, 1) && faults.count("/patch_size", self.patch_size, MAX_EXTENT) {
            let shorter = height.min(across);
            if self.patch_size > shorter {
                let expected = format!("{shorter} or less, the shorter side of the images");
                faults.add("/patch_size", self.patch_size, expected);
            }
        }
        self.shape().check(&mut faults);
        faults
    }
}

impl Architecture for SiglipVisionConfig {
    type Model = dyn Backbone;
    const KIND: &'static str = "siglip_vision";

    fn contradictions(&self) -> Vec<Issue> {
        self.check().issues()
    }

    fn build(self) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(SiglipVision::new(self)?))
    }
}

/// The structure of SigLIP's transformer of images.
pub struct SiglipVision {
    config: SiglipVisionConfig,
    specs: Arc<[ParameterSpec]>,
    spec: BackboneSpec,
    embed: Convolution,
    positions: ParameterId,
    tower: Tower,
    norm: LayerNorm,
    pooling: Pooling,
    scale: ParameterId,
}

/// A learned query that attends to all tokens (PyTorch's `MultiheadAttention`, which keeps queries, keys and values in one matrix), and two
/// linear layers whose answer is added.
struct Pooling {
    probe: ParameterId,
    weight: ParameterId,
    bias: ParameterId,
    out: Linear,
    norm: LayerNorm,
    mlp: Mlp,
    heads: usize,
}

impl SiglipVision {
    /// The structure that `config` describes. Allocates no parameter.
    ///
    /// # Errors
    /// [`ModelError::Config`](crate::ModelError::Config) with every contradiction.
    pub fn new(config: SiglipVisionConfig) -> Result<Self> {
        config.check().finish()?;
        let mut d = Declaration::new();
        let (width, patch) = (config.width, config.patch_size);
        let [channels, height, across] = config.image;
        let form = Form {
            window: patch,
            stride: patch,
            padding: None,
            depthwise: false,
            bias: true,
            init: INIT,
        };
        let (embed, positions, tower, norm, pooling) = d.within("vision_model", |d| {
            let table = [(height / patch) * (across / patch), width];
            (
                Convolution::declare(d, "embeddings.patch_embedding", [channels, width], form),
                d.declare(
                    "embeddings.position_embedding.weight",
                    &table,
                    Group::Embedding,
                    INIT,
                ),
                Tower::declare(d, config.shape()),
                LayerNorm::declare(d, "post_layernorm", width, config.norm_eps),
                d.within("head", |d| Pooling::declare(d, config.shape())),
            )
        });
        // ln(10), where SigLIP's training began; no feature depends on it.
        let init = Init::Fixed(Arc::from([10f32.ln()]));
        let scale = d.declare("logit_scale", &[1], Group::Buffer, init);
        Ok(Self {
            specs: d.finish(),
            spec: BackboneSpec {
                image: config.image,
                outputs: width,
                per_pixel: false,
                batch_statistics: false,
            },
            config,
            embed,
            positions,
            tower,
            norm,
            pooling,
            scale,
        })
    }

    /// What the structure was made from.
    pub fn config(&self) -> &SiglipVisionConfig {
        &self.config
    }
}

impl Backbone for SiglipVision {
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
        let patches = self.embed.forward(weights, images)?;
        let patches = patches.reshape(&[batch as i64, self.config.width as i64, -1])?;
        let positions = weights.get(self.positions).unsqueeze(0)?;
        let x = patches.permute(&[0, 2, 1])?.add(&positions)?;
        let x = self.tower.forward(weights, &x, false)?;
        let x = self.norm.forward(weights, &x)?;
        Ok(Named::one(FEATURES, self.pooling.forward(weights, &x)?))
    }

    fn text_space(&self) -> Option<usize> {
        Some(self.config.width)
    }

    fn constants(&self, weights: &Weights) -> Result<Named> {
        Ok(Named::one(LOGIT_SCALE, weights.get(self.scale).exp()?))
    }
}

impl Pooling {
    fn declare(d: &mut Declaration, shape: TowerShape) -> Self {
        let TowerShape { width, .. } = shape;
        let probe = d.declare("probe", &[1, 1, width], Group::Embedding, INIT);
        let (weight, bias, out) = d.within("attention", |d| {
            let rows = 3 * width;
            (
                d.declare("in_proj_weight", &[rows, width], Group::Weight, INIT),
                d.declare("in_proj_bias", &[rows], Group::Bias, Init::Zeros),
                Linear::declare(d, "out_proj", width, width, INIT),
            )
        });
        Self {
            probe,
            weight,
            bias,
            out,
            norm: LayerNorm::declare(d, "layernorm", width, shape.epsilon),
            mlp: Mlp::declare(d, [width, shape.hidden_width], shape.activation, false),
            heads: shape.heads,
        }
    }

    /// `[B, T, width]` to `[B, width]`.
    fn forward(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        let [batch, width] = [0, 2].map(|axis| x.shape()[axis]);
        let (weight, bias) = (weights.get(self.weight), weights.get(self.bias));
        let rows = |start: usize, count: usize, x: &Tensor| -> Result<Tensor> {
            let weight = weight.narrow(0, start * width, count * width)?;
            let bias = bias.narrow(0, start * width, count * width)?;
            Ok(x.linear(&weight, Some(&bias))?)
        };
        let query = rows(0, 1, weights.get(self.probe))?.expand(&[batch, 1, width])?;
        let seen = rows(1, 2, x)?;
        let [key, value] = [0, width].map(|start| seen.narrow(2, start, width));
        let seen = query.attention(&key?, &value?, self.heads)?;
        let seen = self.out.forward(weights, &seen)?;
        let more = self
            .mlp
            .forward(weights, &self.norm.forward(weights, &seen)?)?;
        Ok(seen.add(&more)?.squeeze(1)?)
    }
}

// --- Texts ----------------------------------------------------------------------------------------------------------------------------

/// SigLIP's transformer of texts: a text encoder, which sees padding as it was trained to. The vector of a text is that of its last token, so
/// texts are filled up to `length`. That of ViT-B/16 is `vocabulary: 32000, length: 64, width: 768, hidden_width: 3072, depth: 12,
/// heads: 12, projection: 768`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SiglipTextConfig {
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
    /// Width of the space that images and texts share.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub projection: usize,
    /// Between the two linear layers of a block.
    #[serde(default = "gelu_tanh")]
    pub activation: Activation,
    /// Epsilon of the normalisation layers.
    #[serde(default = "epsilon")]
    #[schemars(range(min = 0))]
    pub norm_eps: f64,
}

impl SiglipTextConfig {
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
        faults.count("/vocabulary", self.vocabulary, MAX_VOCABULARY);
        faults.count("/length", self.length, MAX_EXTENT);
        self.shape().check(&mut faults);
        faults.count("/projection", self.projection, MAX_EXTENT);
        faults
    }
}

impl Architecture for SiglipTextConfig {
    type Model = dyn TextEncoder;
    const KIND: &'static str = "siglip_text";

    fn contradictions(&self) -> Vec<Issue> {
        self.check().issues()
    }

    fn build(self) -> Result<Box<dyn TextEncoder>> {
        Ok(Box::new(SiglipText::new(self)?))
    }
}

/// The structure of SigLIP's transformer of texts.
pub struct SiglipText {
    config: SiglipTextConfig,
    specs: Arc<[ParameterSpec]>,
    embed: ParameterId,
    positions: ParameterId,
    tower: Tower,
    norm: LayerNorm,
    head: Linear,
}

impl SiglipText {
    /// The structure that `config` describes. Allocates no parameter.
    ///
    /// # Errors
    /// [`ModelError::Config`](crate::ModelError::Config) with every contradiction.
    pub fn new(config: SiglipTextConfig) -> Result<Self> {
        config.check().finish()?;
        let mut d = Declaration::new();
        let width = config.width;
        let (embed, positions, tower, norm, head) = d.within("text_model", |d| {
            let table = |d: &mut Declaration, name: &str, rows: usize| {
                d.declare(name, &[rows, width], Group::Embedding, INIT)
            };
            (
                table(d, "embeddings.token_embedding.weight", config.vocabulary),
                table(d, "embeddings.position_embedding.weight", config.length),
                Tower::declare(d, config.shape()),
                LayerNorm::declare(d, "final_layer_norm", width, config.norm_eps),
                Linear::declare(d, "head", width, config.projection, INIT),
            )
        });
        Ok(Self {
            specs: d.finish(),
            config,
            embed,
            positions,
            tower,
            norm,
            head,
        })
    }

    /// What the structure was made from.
    pub fn config(&self) -> &SiglipTextConfig {
        &self.config
    }
}

impl TextEncoder for SiglipText {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.specs
    }

    fn spec(&self) -> TextSpec {
        let SiglipTextConfig {
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
            pooled: projection,
            projected: true,
            padding: None,
        }
    }

    fn encode(&self, weights: &Weights, texts: &[Vec<u32>]) -> Result<EncodedTexts> {
        let length = expect_texts(texts, &self.spec())?;
        let x = look_up(weights.get(self.embed), texts)?;
        let positions = weights.get(self.positions).narrow(0, 0, length)?;
        let x = x.add(&positions.unsqueeze(0)?)?;
        let x = self.tower.forward(weights, &x, false)?;
        let tokens = self.norm.forward(weights, &x)?;
        let last = tokens.narrow(1, length - 1, 1)?.squeeze(1)?;
        let pooled = self.head.forward(weights, &last)?;
        Ok(EncodedTexts { tokens, pooled })
    }
}

//! Vision transformers (Dosovitskiy et al. 2021), with timm's structure and parameter names.

use std::sync::Arc;

use dtta_base::Issue;
use dtta_tensor::{Named, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backbone::{Backbone, BackboneSpec, BatchNormStatistics, FEATURES, LOGITS};
use crate::convolution::{Convolution, Form};
use crate::denoiser::expect_images;
use crate::error::Result;
use crate::fault::{Faults, MAX_EXTENT, MAX_LAYERS};
use crate::layers::{Activation, LayerNorm, Linear};
use crate::table::Architecture;
use crate::transformer::{INIT, LayerScale, Mlp};
use crate::weights::{Declaration, Group, Init, ParameterId, ParameterSpec, Weights};

/// Epsilon of the normalisation layers.
const EPSILON: f64 = 1e-6;

/// What the classifier is told of the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// The class token.
    #[default]
    ClassToken,
    /// The mean of the patches, without the class token.
    Average,
}

/// A vision transformer: a backbone that answers for whole images. ViT-B/16 is
/// `image: [3, 224, 224], classes: 1000, patch_size: 16, width: 768, depth: 12, heads: 12`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// Channels, height and width of the images.
    #[schemars(inner(range(min = 1, max = MAX_EXTENT)))]
    pub image: [usize; 3],
    /// Number of classes.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub classes: usize,
    /// Pixels of a patch on each axis; divides height and width.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub patch_size: usize,
    /// Width of a token.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub width: usize,
    /// Number of blocks.
    #[schemars(range(min = 1, max = MAX_LAYERS))]
    pub depth: usize,
    /// Number of attention heads; divides the width.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub heads: usize,
    /// Width between the two linear layers of a block; four times `width` where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub hidden_width: Option<usize>,
    /// Whether a class token stands before the patches.
    #[serde(default = "yes")]
    pub class_token: bool,
    /// Whether the class token has a learned position as the patches have.
    #[serde(default = "yes")]
    pub class_position: bool,
    /// Whether each branch of a block has a learned scale for each channel.
    #[serde(default)]
    pub layer_scale: bool,
    /// What the classifier is told of the tokens.
    #[serde(default)]
    pub pool: Pool,
    /// Whether the last normalisation comes after that, as `fc_norm`, not before it, as `norm`.
    #[serde(default)]
    pub norm_after_pool: bool,
}

fn yes() -> bool {
    true
}

impl VitConfig {
    fn check(&self) -> Faults {
        let mut faults = Faults::default();
        faults.count("/classes", self.classes, MAX_EXTENT);
        if faults.count("/patch_size", self.patch_size, MAX_EXTENT) {
            faults.image(self.image, self.patch_size);
        }
        faults.count("/depth", self.depth, MAX_LAYERS);
        let known = faults.count("/width", self.width, MAX_EXTENT)
            && faults.count("/heads", self.heads, MAX_EXTENT);
        if known && !self.width.is_multiple_of(self.heads) {
            let expected = format!("a divisor of the width {}", self.width);
            faults.add("/heads", self.heads, expected);
        }
        if let Some(width) = self.hidden_width {
            faults.count("/hidden_width", width, MAX_EXTENT);
        }
        if !self.class_token && self.pool == Pool::ClassToken {
            faults.add("/pool", "class_token", "average where there is none");
        }
        faults
    }

    /// Number of patches.
    fn patches(&self) -> usize {
        let [_, height, width] = self.image;
        (height / self.patch_size) * (width / self.patch_size)
    }
}

impl Architecture for VitConfig {
    type Model = dyn Backbone;
    const KIND: &'static str = "vit";

    fn contradictions(&self) -> Vec<Issue> {
        self.check().issues()
    }

    fn build(self) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(Vit::new(self)?))
    }
}

/// A vision transformer's structure.
pub struct Vit {
    config: VitConfig,
    specs: Arc<[ParameterSpec]>,
    spec: BackboneSpec,
    class_token: Option<ParameterId>,
    positions: ParameterId,
    embed: Convolution,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
}

struct Block {
    attend: Branch<Attention>,
    feed: Branch<Mlp>,
}

/// A function of normalised tokens, which is added to the tokens.
struct Branch<F> {
    norm: LayerNorm,
    function: F,
    scale: Option<LayerScale>,
}

struct Attention {
    qkv: Linear,
    out: Linear,
    heads: usize,
}

impl Attention {
    fn forward(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        let seen = self.qkv.forward(weights, x)?.self_attention(self.heads)?;
        self.out.forward(weights, &seen)
    }
}

impl<F> Branch<F> {
    /// The `n`th of a block.
    fn declare(
        d: &mut Declaration,
        config: &VitConfig,
        n: usize,
        function: impl FnOnce(&mut Declaration) -> F,
    ) -> Self {
        let width = config.width;
        let scale = |d: &mut Declaration| {
            d.within(format_args!("ls{n}"), |d| {
                LayerScale::declare(d, "gamma", width, false)
            })
        };
        Self {
            norm: LayerNorm::declare(d, &format!("norm{n}"), width, EPSILON),
            function: function(d),
            scale: config.layer_scale.then(|| scale(d)),
        }
    }

    fn add_to(
        &self,
        weights: &Weights,
        x: &Tensor,
        function: impl FnOnce(&F, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut y = function(&self.function, &self.norm.forward(weights, x)?)?;
        if let Some(scale) = &self.scale {
            y = scale.forward(weights, &y)?;
        }
        Ok(x.add(&y)?)
    }
}

impl Block {
    fn declare(d: &mut Declaration, config: &VitConfig) -> Self {
        let width = config.width;
        let hidden = config.hidden_width.unwrap_or(4 * width);
        let attention = |d: &mut Declaration| {
            d.within("attn", |d| Attention {
                qkv: Linear::declare(d, "qkv", width, 3 * width, INIT),
                out: Linear::declare(d, "proj", width, width, INIT),
                heads: config.heads,
            })
        };
        let mlp = |d: &mut Declaration| Mlp::declare(d, [width, hidden], Activation::Gelu, false);
        Self {
            attend: Branch::declare(d, config, 1, attention),
            feed: Branch::declare(d, config, 2, mlp),
        }
    }

    fn forward(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        let x = self
            .attend
            .add_to(weights, x, |attention, x| attention.forward(weights, x))?;
        self.feed
            .add_to(weights, &x, |mlp, x| mlp.forward(weights, x))
    }
}

impl Vit {
    /// The structure that `config` describes. Allocates no parameter.
    ///
    /// # Errors
    /// [`ModelError::Config`](crate::ModelError::Config) with every contradiction.
    pub fn new(config: VitConfig) -> Result<Self> {
        config.check().finish()?;
        let mut d = Declaration::new();
        let width = config.width;
        let class_token = config.class_token.then(|| {
            let init = Init::Normal(1e-6);
            d.declare("cls_token", &[1, 1, width], Group::Embedding, init)
        });
        let placed = config.class_token && config.class_position;
        let positions = [1, config.patches() + usize::from(placed), width];
        let positions = d.declare("pos_embed", &positions, Group::Embedding, INIT);
        let form = Form {
            window: config.patch_size,
            stride: config.patch_size,
            padding: None,
            depthwise: false,
            bias: true,
            init: INIT,
        };
        let embed =
            Convolution::declare(&mut d, "patch_embed.proj", [config.image[0], width], form);
        let blocks = (0..config.depth)
            .map(|n| d.within(format_args!("blocks.{n}"), |d| Block::declare(d, &config)))
            .collect();
        let norm = if config.norm_after_pool {
            "fc_norm"
        } else {
            "norm"
        };
        let norm = LayerNorm::declare(&mut d, norm, width, EPSILON);
        let head = Linear::declare_head(&mut d, "head", width, config.classes);
        Ok(Self {
            specs: d.finish(),
            spec: BackboneSpec {
                image: config.image,
                outputs: config.classes,
                per_pixel: false,
                batch_statistics: false,
            },
            config,
            class_token,
            positions,
            embed,
            blocks,
            norm,
            head,
        })
    }

    /// What the structure was made from.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Images as tokens with their positions, `[B, T, width]`.
    fn tokens(&self, weights: &Weights, images: &Tensor) -> Result<Tensor> {
        let batch = images.shape()[0];
        let width = self.config.width;
        let patches = self.embed.forward(weights, images)?;
        let patches = patches.reshape(&[batch as i64, width as i64, -1])?;
        let patches = patches.permute(&[0, 2, 1])?;
        let positions = weights.get(self.positions);
        let Some(token) = self.class_token else {
            return Ok(patches.add(positions)?);
        };
        let token = weights.get(token).expand(&[batch, 1, width])?;
        Ok(if self.config.class_position {
            Tensor::cat(&[&token, &patches], 1)?.add(positions)?
        } else {
            Tensor::cat(&[&token, &patches.add(positions)?], 1)?
        })
    }

    /// What the classifier is told of `[B, T, width]`.
    fn pool(&self, x: &Tensor) -> Result<Tensor> {
        match self.config.pool {
            Pool::ClassToken => Ok(x.narrow(1, 0, 1)?.squeeze(1)?),
            Pool::Average => {
                let before = usize::from(self.config.class_token);
                let patches = x.narrow(1, before, x.shape()[1] - before)?;
                Ok(patches.mean(&[1], false)?)
            }
        }
    }
}

impl Backbone for Vit {
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
        expect_images("the batch of images", images, self.config.image)?;
        let mut x = self.tokens(weights, images)?;
        for block in &self.blocks {
            x = block.forward(weights, &x)?;
        }
        let features = if self.config.norm_after_pool {
            self.norm.forward(weights, &self.pool(&x)?)?
        } else {
            self.pool(&self.norm.forward(weights, &x)?)?
        };
        let logits = self.head.forward(weights, &features)?;
        Ok(Named::one(FEATURES, features).with(LOGITS, logits))
    }
}

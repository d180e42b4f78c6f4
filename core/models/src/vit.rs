//! Vision transformers (Dosovitskiy et al. 2021), with timm's structure and parameter names. With a decoder they are masked autoencoders (He
//! et al. 2022), whose encoder is the same network on some of the patches.

mod block;
mod decoder;
mod positions;
mod visible;

use std::sync::Arc;

use dtta_base::Issue;
use dtta_tensor::{Named, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::block::{Block, BlockForm};
use self::decoder::Decoder;
pub use self::decoder::DecoderConfig;
use self::positions::FixedPositions;
use self::visible::Visible;
use crate::backbone::{
    Backbone, BackboneSpec, BatchNormStatistics, FEATURES, LOGITS, Reconstruction,
};
use crate::convolution::{Convolution, Form};
use crate::denoiser::expect_images;
use crate::error::{ModelError, Result};
use crate::fault::{Faults, MAX_EXTENT, MAX_LAYERS};
use crate::layers::{LayerNorm, Linear};
use crate::patches::{Grid, MAX_TABLE};
use crate::table::Architecture;
use crate::transformer::INIT;
use crate::weights::{Declaration, Group, Init, ParameterId, ParameterSpec, Weights};

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
/// `image: [3, 224, 224], classes: 1000, patch_size: 16, width: 768, depth: 12, heads: 12`. With a `decoder` it is a masked autoencoder too:
/// `ViTMAEForPreTraining` of transformers is read directly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// Channels, height and width of the images.
    #[schemars(inner(range(min = 1, max = MAX_EXTENT)))]
    pub image: [usize; 3],
    /// Number of classes; 0 for a network without a classifier, which gives features for a head of its own, such as `linear`.
    #[schemars(range(max = MAX_EXTENT))]
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
    /// Whether positions are sines and cosines of column and row, which never move, as in masked autoencoders; learned otherwise. The width
    /// is a multiple of 4 then.
    #[serde(default)]
    pub fixed_positions: bool,
    /// Whether each branch of a block has a learned scale for each channel.
    #[serde(default)]
    pub layer_scale: bool,
    /// What the classifier is told of the tokens.
    #[serde(default)]
    pub pool: Pool,
    /// Whether the last normalisation comes after that, as `fc_norm`, not before it, as `norm`.
    #[serde(default)]
    pub norm_after_pool: bool,
    /// Epsilon of the normalisation layers.
    #[serde(default = "epsilon")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub epsilon: f64,
    /// Reconstructs images from some of their patches, for methods and trainings that ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder: Option<DecoderConfig>,
}

fn yes() -> bool {
    true
}

fn epsilon() -> f64 {
    1e-6
}

impl VitConfig {
    fn check(&self) -> Faults {
        let mut faults = Faults::default();
        if self.classes > 0 {
            faults.count("/classes", self.classes, MAX_EXTENT);
        }
        let patched = faults.count("/patch_size", self.patch_size, MAX_EXTENT)
            && faults.image(self.image, self.patch_size);
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
        if !(self.epsilon > 0.0 && self.epsilon.is_finite()) {
            faults.add("/epsilon", self.epsilon, "above 0");
        }
        if self.fixed_positions && !self.width.is_multiple_of(4) {
            faults.add(
                "/width",
                self.width,
                "a multiple of 4 for `fixed_positions`",
            );
        }
        if let Some(decoder) = &self.decoder {
            faults.part("/decoder", decoder.check(self.pixels()));
            if self.norm_after_pool {
                let expected = "false with a `decoder`, which takes tokens that are normalised";
                faults.add("/norm_after_pool", true, expected);
            }
            if patched && self.grid().tokens() < 2 {
                let expected =
                    "a size that gives two patches or more: one is visible, another masked";
                faults.add("/patch_size", self.patch_size, expected);
            }
        }
        let decoder = self.decoder.map(|decoder| decoder.width);
        let widest = decoder.max(self.fixed_positions.then_some(self.width));
        if let Some(width) = widest.filter(|&width| patched && (1..=MAX_EXTENT).contains(&width))
            && self.grid().tokens() * width > MAX_TABLE
        {
            let (tokens, most) = (self.grid().tokens(), MAX_TABLE / width);
            let found = format!("{}, of {tokens} patches", self.patch_size);
            let expected = format!("a size that gives at most {most} of this width");
            faults.add("/patch_size", found, expected);
        }
        faults
    }

    fn grid(&self) -> Grid {
        Grid::of(self.image, self.patch_size)
    }

    /// Numbers of a patch.
    fn pixels(&self) -> usize {
        let [channels, ..] = self.image;
        let side = self.patch_size;
        side.saturating_mul(side).saturating_mul(channels)
    }

    /// Tokens before the patches that have a position.
    fn placed(&self) -> usize {
        usize::from(self.class_token && self.class_position)
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
    head: Option<Linear>,
    decoder: Option<Decoder>,
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
        let (grid, before) = (config.grid(), usize::from(config.class_token));
        let positions = if config.fixed_positions {
            let fixed = FixedPositions {
                grid,
                before: config.placed(),
                own: width,
            };
            fixed.declare(&mut d, "pos_embed")
        } else {
            let shape = [1, config.placed() + grid.tokens(), width];
            d.declare("pos_embed", &shape, Group::Embedding, INIT)
        };
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
        let block = BlockForm {
            width,
            heads: config.heads,
            hidden: config.hidden_width.unwrap_or(4 * width),
            layer_scale: config.layer_scale,
            epsilon: config.epsilon,
        };
        let blocks = (0..config.depth)
            .map(|n| d.within(format_args!("blocks.{n}"), |d| Block::declare(d, block)))
            .collect();
        let norm = if config.norm_after_pool {
            "fc_norm"
        } else {
            "norm"
        };
        let norm = LayerNorm::declare(&mut d, norm, width, config.epsilon);
        let head = (config.classes > 0)
            .then(|| Linear::declare_head(&mut d, "head", width, config.classes));
        let decoder = config.decoder.as_ref().map(|decoder| {
            let (patches, tokens) = ((grid, config.image[0]), (width, before));
            Decoder::declare(&mut d, decoder, patches, tokens, config.epsilon)
        });
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
            decoder,
        })
    }

    /// What the structure was made from.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Images as tokens with their positions, `[B, T, width]`: all patches, or the visible ones.
    fn tokens(
        &self,
        weights: &Weights,
        images: &Tensor,
        visible: Option<&Visible<'_>>,
    ) -> Result<Tensor> {
        let (batch, width) = (images.shape()[0], self.config.width);
        let positions = weights.get(self.positions);
        let placed = self.config.placed();
        let patches = self.embed.forward(weights, images)?;
        let patches = patches.reshape(&[batch as i64, width as i64, -1])?;
        let patches = patches.permute(&[0, 2, 1])?;
        let count = patches.shape()[1];
        let mut patches = patches.add(&positions.narrow(1, placed, count)?)?;
        if let Some(visible) = visible {
            patches = visible.of(&patches)?;
        }
        let Some(token) = self.class_token else {
            return Ok(patches);
        };
        let mut token = weights.get(token).clone();
        if placed > 0 {
            token = token.add(&positions.narrow(1, 0, placed)?)?;
        }
        Ok(Tensor::cat(
            &[&token.expand(&[batch, 1, width])?, &patches],
            1,
        )?)
    }

    /// What the blocks make of tokens, not yet normalised.
    fn encode(&self, weights: &Weights, mut x: Tensor) -> Result<Tensor> {
        for block in &self.blocks {
            x = block.forward(weights, &x)?;
        }
        Ok(x)
    }

    fn decoder(&self) -> Result<&Decoder> {
        self.decoder.as_ref().ok_or_else(|| {
            let argument = "the vision transformer";
            ModelError::input(
                argument,
                "has no `decoder`",
                "one that reconstructs patches",
            )
        })
    }

    /// What the decoder says of every patch.
    fn reconstructed<'a>(
        &self,
        weights: &Weights,
        images: &Tensor,
        visible: &'a [Vec<usize>],
    ) -> Result<(Tensor, Visible<'a>)> {
        let batch = expect_images("the batch of images", images, self.config.image)?;
        let visible = Visible::new(visible, batch, self.config.grid().tokens())?;
        let x = self.encode(weights, self.tokens(weights, images, Some(&visible))?)?;
        let latent = self.norm.forward(weights, &x)?;
        let predicted = self.decoder()?.forward(weights, &latent, &visible)?;
        Ok((predicted, visible))
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
        let x = self.encode(weights, self.tokens(weights, images, None)?)?;
        let features = if self.config.norm_after_pool {
            self.norm.forward(weights, &self.pool(&x)?)?
        } else {
            self.pool(&self.norm.forward(weights, &x)?)?
        };
        let Some(head) = &self.head else {
            return Ok(Named::one(FEATURES, features));
        };
        let logits = head.forward(weights, &features)?;
        Ok(Named::one(FEATURES, features).with(LOGITS, logits))
    }

    fn reconstruction(&self) -> Option<&dyn Reconstruction> {
        self.decoder.as_ref().map(|_| self as &dyn Reconstruction)
    }
}

impl Reconstruction for Vit {
    fn patches(&self) -> usize {
        self.config.grid().tokens()
    }

    fn reconstruct(
        &self,
        weights: &Weights,
        images: &Tensor,
        visible: &[Vec<usize>],
    ) -> Result<Tensor> {
        let (predicted, _) = self.reconstructed(weights, images, visible)?;
        Ok(predicted)
    }

    fn loss(&self, weights: &Weights, images: &Tensor, visible: &[Vec<usize>]) -> Result<Tensor> {
        let (predicted, visible) = self.reconstructed(weights, images, visible)?;
        self.decoder()?.error(&predicted, images, &visible)
    }
}

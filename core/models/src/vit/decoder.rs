//! The decoder of a masked autoencoder (He et al. 2022), with the parameter names of the authors' code: from the encoder's tokens of the
//! visible patches to the pixels of all.

use dtta_tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::block::{Block, BlockForm};
use super::positions::FixedPositions;
use super::visible::Visible;
use crate::error::Result;
use crate::fault::{Faults, MAX_EXTENT, MAX_LAYERS};
use crate::layers::{LayerNorm, Linear};
use crate::patches::Grid;
use crate::transformer::INIT;
use crate::weights::{Declaration, Group, ParameterId, Weights};

/// What is added to the variance of a patch.
const PATCH_EPSILON: f64 = 1e-6;

/// The decoder of a masked autoencoder. That of ViT-MAE is `width: 512, depth: 8, heads: 16`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Width of a token; a multiple of 4 and of `heads`.
    #[schemars(range(min = 4, max = MAX_EXTENT))]
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
    /// Whether it predicts pixels less their patch's mean, divided by its standard deviation.
    #[serde(default)]
    pub norm_pix_loss: bool,
}

impl DecoderConfig {
    /// `pixels`: how many numbers a patch has.
    pub(super) fn check(&self, pixels: usize) -> Faults {
        let mut faults = Faults::default();
        faults.count("/depth", self.depth, MAX_LAYERS);
        let known = faults.count("/width", self.width, MAX_EXTENT)
            && faults.count("/heads", self.heads, MAX_EXTENT);
        if known && !(self.width.is_multiple_of(4) && self.width.is_multiple_of(self.heads)) {
            let expected = format!("a multiple of 4 and of the {} heads", self.heads);
            faults.add("/width", self.width, expected);
        }
        if let Some(width) = self.hidden_width {
            faults.count("/hidden_width", width, MAX_EXTENT);
        }
        if self.norm_pix_loss && pixels < 2 {
            let expected = "false where a patch is one number, which has no deviation";
            faults.add("/norm_pix_loss", true, expected);
        }
        faults
    }
}

pub(super) struct Decoder {
    grid: Grid,
    /// Tokens before the patches: the class token, where there is one.
    before: usize,
    width: usize,
    norm_pix_loss: bool,
    embed: Linear,
    mask: ParameterId,
    positions: ParameterId,
    blocks: Vec<Block>,
    norm: LayerNorm,
    pixels: Linear,
}

impl Decoder {
    /// Of tokens of `width`, `before` of them before the patches, to images of so many `channels`.
    pub fn declare(
        d: &mut Declaration,
        config: &DecoderConfig,
        (grid, channels): (Grid, usize),
        (width, before): (usize, usize),
        epsilon: f64,
    ) -> Self {
        let own = config.width;
        let form = BlockForm {
            width: own,
            heads: config.heads,
            hidden: config.hidden_width.unwrap_or(4 * own),
            layer_scale: false,
            epsilon,
        };
        let mask = d.declare("mask_token", &[1, 1, own], Group::Embedding, INIT);
        let embed = Linear::declare(d, "decoder_embed", width, own, INIT);
        let positions = FixedPositions { grid, before, own };
        let blocks = |d: &mut Declaration, n| {
            d.within(format_args!("decoder_blocks.{n}"), |d| {
                Block::declare(d, form)
            })
        };
        Self {
            grid,
            before,
            width: own,
            norm_pix_loss: config.norm_pix_loss,
            embed,
            mask,
            positions: positions.declare(d, "decoder_pos_embed"),
            blocks: (0..config.depth).map(|n| blocks(d, n)).collect(),
            norm: LayerNorm::declare(d, "decoder_norm", own, epsilon),
            pixels: Linear::declare(
                d,
                "decoder_pred",
                own,
                grid.patch * grid.patch * channels,
                INIT,
            ),
        }
    }

    /// From the encoder's `[B, before + visible, width]` to `[B, patches, p p C]`.
    pub fn forward(
        &self,
        weights: &Weights,
        latent: &Tensor,
        visible: &Visible<'_>,
    ) -> Result<Tensor> {
        let (batch, tokens) = (latent.shape()[0], latent.shape()[1]);
        let width = self.width as i64;
        let seen = self.embed.forward(weights, latent)?.reshape(&[-1, width])?;
        let mask = weights.get(self.mask).reshape(&[1, width])?;
        // Every token's row in those of the encoder, behind which is the mask token's.
        let mut rows = Vec::with_capacity(batch * (self.before + visible.patches));
        for (image, row) in visible.rows.iter().enumerate() {
            let first = image * tokens;
            rows.extend((0..self.before).map(|n| (first + n) as i64));
            rows.extend(
                (0..visible.patches).map(|patch| match row.binary_search(&patch) {
                    Ok(place) => (first + self.before + place) as i64,
                    Err(_) => (batch * tokens) as i64,
                }),
            );
        }
        let rows = Tensor::from_ints(&rows, &[rows.len()], latent.device())?;
        let all = Tensor::cat(&[&seen, &mask], 0)?.index_select(0, &rows)?;
        let mut x = all
            .reshape(&[batch as i64, -1, width])?
            .add(weights.get(self.positions))?;
        for block in &self.blocks {
            x = block.forward(weights, &x)?;
        }
        let patches = self.norm.forward(weights, &x)?;
        let patches = patches.narrow(1, self.before, visible.patches)?;
        self.pixels.forward(weights, &patches)
    }

    /// The mean squared error of what [`forward`](Self::forward) says of masked patches, `[B]`.
    pub fn error(
        &self,
        predicted: &Tensor,
        images: &Tensor,
        visible: &Visible<'_>,
    ) -> Result<Tensor> {
        let mut pixels = visible.masked_of(&self.grid.take_apart(images)?)?;
        if self.norm_pix_loss {
            let count = pixels.shape()[2] as f64;
            let unbiased = pixels
                .variance(&[2], true)?
                .affine(count / (count - 1.0), PATCH_EPSILON)?;
            let centred = pixels.sub(&pixels.mean(&[2], true)?)?;
            pixels = centred.div(&unbiased.sqrt()?)?;
        }
        let error = visible.masked_of(predicted)?.sub(&pixels)?;
        Ok(error.mul(&error)?.mean(&[1, 2], false)?)
    }
}

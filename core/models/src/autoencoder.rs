//! The encoder of diffusers' `AutoencoderKL` (Rombach et al. 2022; `autoencoder_kl.py`, `vae.py`), parameter names included, so that its
//! checkpoints fit; what they hold of the decoder is left over.

use std::sync::Arc;

use dtta_base::Issue;
use dtta_tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::encoder::Encoder;
use crate::error::{ModelError, Result};
use crate::fault::{Faults, MAX_EXTENT, MAX_LAYERS, MAX_LEVELS, list};
use crate::layers::{Activation, BiasedConv, GroupNorm};
use crate::table::Architecture;
use crate::unet::blocks::{Extents, Halving, Residual, ResidualStyle, SelfAttention};
use crate::weights::{Declaration, ParameterSpec, Weights};

/// Epsilon of the normalisation layers; diffusers fixes it.
const EPSILON: f64 = 1e-6;

/// What a level is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum EncoderBlock {
    /// Residual blocks.
    DownEncoderBlock2D,
    /// Residual blocks, each followed by self-attention.
    AttnDownEncoderBlock2D,
}

/// An autoencoder's encoder. Field names and defaults are those of diffusers' `AutoencoderKL`, whose `config.json` is read directly. That of
/// Stable Diffusion is `block_out_channels: [128, 256, 512, 512]`, `down_block_types` of four, `layers_per_block: 2`.
///
/// A latent is `(z - shift_factor) scaling_factor` for the mean z that the network gives, or with statistics of each channel
/// `(z - latents_mean) scaling_factor / latents_std`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AutoencoderKlConfig {
    /// Channels of images.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub in_channels: usize,
    /// Channels of latents.
    #[serde(default = "four")]
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub latent_channels: usize,
    /// What each level is made of.
    #[schemars(length(min = 1, max = MAX_LEVELS))]
    pub down_block_types: Vec<EncoderBlock>,
    /// Channels of each level; every level but the last halves the extents. Multiples of `norm_num_groups`.
    #[schemars(length(min = 1, max = MAX_LEVELS), inner(range(min = 1, max = MAX_EXTENT)))]
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a level.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = MAX_LAYERS))]
    pub layers_per_block: usize,
    /// The activation of residual blocks; that of the output is always `silu`.
    #[serde(default)]
    pub act_fn: Activation,
    /// Groups of each normalisation.
    #[serde(default = "thirty_two")]
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub norm_num_groups: usize,
    /// Self-attention between the two residual blocks after the last level.
    #[serde(default = "yes")]
    pub mid_block_add_attention: bool,
    /// Whether there is a convolution of 1×1 after the output.
    #[serde(default = "yes")]
    pub use_quant_conv: bool,
    /// What the mean is multiplied by.
    #[serde(default = "scale")]
    pub scaling_factor: f64,
    /// What is subtracted from the mean before.
    #[serde(default)]
    pub shift_factor: f64,
    /// What is subtracted from each channel of the mean before, in the place of `shift_factor`; given with `latents_std`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latents_mean: Option<Vec<f64>>,
    /// What each channel of the mean is divided by; given with `latents_mean`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latents_std: Option<Vec<f64>>,
}

fn three() -> usize {
    3
}

fn four() -> usize {
    4
}

fn one() -> usize {
    1
}

fn thirty_two() -> usize {
    32
}

fn yes() -> bool {
    true
}

fn scale() -> f64 {
    0.18215
}

impl AutoencoderKlConfig {
    fn check(&self) -> Faults {
        let mut faults = Faults::default();
        let (levels, groups) = (self.block_out_channels.len(), self.norm_num_groups);
        faults.count("/in_channels", self.in_channels, MAX_EXTENT);
        let latent = faults.count("/latent_channels", self.latent_channels, MAX_EXTENT);
        faults.count("/layers_per_block", self.layers_per_block, MAX_LAYERS);
        let grouped = faults.count("/norm_num_groups", groups, MAX_EXTENT);
        let fits =
            |&c: &usize| (1..=MAX_EXTENT).contains(&c) && (!grouped || c.is_multiple_of(groups));
        if !(1..=MAX_LEVELS).contains(&levels) || !self.block_out_channels.iter().all(fits) {
            let found = list(&self.block_out_channels);
            let expected = format!(
                "1 to {MAX_LEVELS} multiples of the number of groups, {groups}, up to {MAX_EXTENT}"
            );
            faults.add("/block_out_channels", found, expected);
        }
        let types = self.down_block_types.len();
        if types != levels {
            let expected = format!("{levels}, one for each of `block_out_channels`");
            faults.add("/down_block_types", format_args!("{types} types"), expected);
        }
        if !(self.scaling_factor.is_finite() && self.scaling_factor != 0.0) {
            faults.add("/scaling_factor", self.scaling_factor, "a number, not 0");
        }
        if !self.shift_factor.is_finite() {
            faults.add("/shift_factor", self.shift_factor, "a number");
        }
        let statistics = [
            ("/latents_mean", &self.latents_mean, &self.latents_std),
            ("/latents_std", &self.latents_std, &self.latents_mean),
        ];
        for (pointer, values, other) in statistics {
            let Some(values) = values else { continue };
            if latent && values.len() != self.latent_channels {
                let expected = format!("{}, one for each channel", self.latent_channels);
                faults.add(pointer, format_args!("{} numbers", values.len()), expected);
            }
            if other.is_none() {
                faults.add(pointer, "alone", "mean and standard deviation, or neither");
            }
        }
        let positive = |value: &f64| *value > 0.0 && value.is_finite();
        if !self.latents_std.iter().flatten().all(positive) {
            faults.add("/latents_std", "not all of it positive", "above 0");
        }
        if !self
            .latents_mean
            .iter()
            .flatten()
            .all(|mean| mean.is_finite())
        {
            faults.add("/latents_mean", "not all of it numbers", "numbers");
        }
        if self.latents_mean.is_some() && self.shift_factor != 0.0 {
            let expected = "0, since there is `latents_mean`";
            faults.add("/shift_factor", self.shift_factor, expected);
        }
        faults
    }
}

impl Architecture for AutoencoderKlConfig {
    type Model = dyn Encoder;
    const KIND: &'static str = "autoencoder_kl";

    fn contradictions(&self) -> Vec<Issue> {
        self.check().issues()
    }

    fn build(self) -> Result<Box<dyn Encoder>> {
        Ok(Box::new(AutoencoderKl::new(self)?))
    }
}

/// An autoencoder's encoder's structure.
pub struct AutoencoderKl {
    config: AutoencoderKlConfig,
    specs: Arc<[ParameterSpec]>,
    first: BiasedConv,
    down: Vec<Level>,
    middle: [Residual; 2],
    attention: Option<SelfAttention>,
    last_norm: GroupNorm,
    last: BiasedConv,
    quant: Option<BiasedConv>,
}

struct Level {
    residuals: Vec<Residual>,
    attentions: Vec<SelfAttention>,
    halving: Option<Halving>,
}

impl AutoencoderKl {
    /// The structure that `config` describes. Allocates no parameter.
    ///
    /// # Errors
    /// [`ModelError::Config`] with every contradiction.
    pub fn new(config: AutoencoderKlConfig) -> Result<Self> {
        config.check().finish()?;
        let channels = &config.block_out_channels;
        let (levels, widest) = (channels.len(), channels[channels.len() - 1]);
        let norm = (config.norm_num_groups, EPSILON);
        let style = ResidualStyle {
            norm,
            act: config.act_fn,
            time: None,
            scale_shift: false,
            divisor: 1.0,
        };
        let residual = |d: &mut Declaration, n: usize, channels: [usize; 2]| {
            d.within(format_args!("resnets.{n}"), |d| {
                Residual::declare(d, style, channels, Extents::Kept)
            })
        };
        let attention = |d: &mut Declaration, n: usize, channels: usize| {
            d.within(format_args!("attentions.{n}"), |d| {
                SelfAttention::declare(d, Some(norm), channels, channels, 1.0)
            })
        };
        let mut d = Declaration::new();
        let moments = 2 * config.latent_channels;
        let (first, down, middle, between, last_norm, last) = d.within("encoder", |d| {
            let first = BiasedConv::declare(d, "conv_in", config.in_channels, channels[0], 3, 1);
            let mut inputs = channels[0];
            let mut down = Vec::with_capacity(levels);
            for (level, &outputs) in channels.iter().enumerate() {
                let attends =
                    config.down_block_types[level] == EncoderBlock::AttnDownEncoderBlock2D;
                down.push(d.within(format_args!("down_blocks.{level}"), |d| {
                    Level {
                        residuals: (0..config.layers_per_block)
                            .map(|n| {
                                residual(d, n, [if n == 0 { inputs } else { outputs }, outputs])
                            })
                            .collect(),
                        attentions: (0..if attends { config.layers_per_block } else { 0 })
                            .map(|n| attention(d, n, outputs))
                            .collect(),
                        halving: (level + 1 < levels)
                            .then(|| Halving::declare(d, "downsamplers.0.conv", outputs, true)),
                    }
                }));
                inputs = outputs;
            }
            let (middle, between) = d.within("mid_block", |d| {
                let middle = [0, 1].map(|n| residual(d, n, [widest; 2]));
                let attends = config.mid_block_add_attention;
                (middle, attends.then(|| attention(d, 0, widest)))
            });
            let last_norm = GroupNorm::declare(d, "conv_norm_out", widest, norm);
            let last = BiasedConv::declare(d, "conv_out", widest, moments, 3, 1);
            (first, down, middle, between, last_norm, last)
        });
        let quant = config
            .use_quant_conv
            .then(|| BiasedConv::declare(&mut d, "quant_conv", moments, moments, 1, 1));
        Ok(Self {
            specs: d.finish(),
            config,
            first,
            down,
            middle,
            attention: between,
            last_norm,
            last,
            quant,
        })
    }

    /// What the structure was made from.
    pub fn config(&self) -> &AutoencoderKlConfig {
        &self.config
    }

    /// How many times the extents are halved.
    fn halvings(&self) -> u32 {
        self.config.block_out_channels.len() as u32 - 1
    }

    /// The mean in the units in which denoisers are trained.
    fn scaled(&self, mean: &Tensor) -> Result<Tensor> {
        let AutoencoderKlConfig {
            scaling_factor: scale,
            shift_factor: shift,
            ..
        } = self.config;
        let (Some(means), Some(deviations)) = (&self.config.latents_mean, &self.config.latents_std)
        else {
            return Ok(mean.affine(scale, -shift * scale)?);
        };
        let column = |values: Vec<f32>| {
            Tensor::from_floats(&values, &[1, values.len(), 1, 1], mean.device())
        };
        let means = column(means.iter().map(|mean| *mean as f32).collect())?;
        let factors = column(deviations.iter().map(|d| (scale / d) as f32).collect())?;
        Ok(mean.sub(&means)?.mul(&factors)?)
    }
}

impl Encoder for AutoencoderKl {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.specs
    }

    fn latent_shape(&self, image: [usize; 3]) -> Result<[usize; 3]> {
        let [channels, height, width] = image;
        let least = 1 << self.halvings();
        if channels != self.config.in_channels || height < least || width < least {
            return Err(ModelError::input(
                "the image",
                format!("has shape {image:?}"),
                format!(
                    "{} channels, and {least} pixels or more each way",
                    self.config.in_channels
                ),
            ));
        }
        Ok([self.config.latent_channels, height / least, width / least])
    }

    fn image_shape(&self, latent: [usize; 3]) -> Result<[usize; 3]> {
        let [channels, height, width] = latent;
        if channels != self.config.latent_channels || height == 0 || width == 0 {
            return Err(ModelError::input(
                "the latent",
                format!("has shape {latent:?}"),
                format!("{} channels and extents", self.config.latent_channels),
            ));
        }
        let factor = 1usize << self.halvings();
        let extent = |extent: usize| extent.saturating_mul(factor);
        Ok([self.config.in_channels, extent(height), extent(width)])
    }

    fn encode(&self, weights: &Weights, images: &Tensor) -> Result<Tensor> {
        let shape = images.shape();
        if shape.rank() != 4 {
            return Err(ModelError::input(
                "the images",
                format!("have shape {shape}"),
                format!("[B, {}, H, W]", self.config.in_channels),
            ));
        }
        self.latent_shape([shape[1], shape[2], shape[3]])?;
        let residual = |block: &Residual, x: &Tensor| block.forward(weights, x, None, [0, 0]);
        let mut x = self.first.forward(weights, images)?;
        for level in &self.down {
            for (n, block) in level.residuals.iter().enumerate() {
                x = residual(block, &x)?;
                if let Some(attention) = level.attentions.get(n) {
                    x = attention.forward(weights, &x)?;
                }
            }
            if let Some(halving) = &level.halving {
                x = halving.forward(weights, &x)?;
            }
        }
        let [before, after] = &self.middle;
        x = residual(before, &x)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(weights, &x)?;
        }
        x = residual(after, &x)?;
        let x = self.last_norm.activated(weights, &x, Activation::Silu)?;
        let mut moments = self.last.forward(weights, &x)?;
        if let Some(conv) = &self.quant {
            moments = conv.forward(weights, &moments)?;
        }
        // The other half is the logarithm of the variance.
        self.scaled(&moments.narrow(1, 0, self.config.latent_channels)?)
    }
}

//! U-Net denoiser with the structure and parameter names of diffusers' `UNet2DModel` (Ho et al. 2020; `unet_2d.py`,
//! `unet_2d_blocks.py`) and, where levels have cross-attention, of its `UNet2DConditionModel` (Rombach et al. 2022), so that their
//! checkpoints fit. It takes a map beside the noisy image through a spatial slot, and tokens to attend to through another.

use std::sync::Arc;

use dtta_base::Issue;
use dtta_tensor::{Device, Named, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::denoiser::{Denoiser, Slot, expect_images, expect_slots, network_times};
use crate::error::Result;
use crate::fault::{Faults, MAX_EXTENT, MAX_LAYERS, MAX_LEVELS, list};
use crate::layers::{BiasedConv, GroupNorm, Linear, timestep_codes};
use crate::schedule::{NoiseSchedule, ScheduleConfig};
use crate::spatial::{SpatialConfig, SpatialSlot};
use crate::table::Architecture;
use crate::transformer2d::{TOKENS, TokensConfig, Transformer2d};
use crate::weights::{Declaration, ParameterSpec, Weights};

/// What a level is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum UNetBlock {
    /// Residual blocks.
    DownBlock2D,
    /// Residual blocks, each followed by self-attention.
    AttnDownBlock2D,
    /// Residual blocks, each followed by a transformer that attends to tokens.
    CrossAttnDownBlock2D,
}

/// A U-Net: a denoiser. Field names and defaults are those of diffusers' `UNet2DModel`; the way up mirrors the way down, and the
/// bottom has cross-attention where any level has. Stable Diffusion 1.5 is `image: [4, 64, 64], block_out_channels: [320, 640, 1280,
/// 1280], down_block_types` of three with cross-attention and one `DownBlock2D`, `tokens: { length: 77, width: 768, heads: 8 }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UNetConfig {
    /// Channels, height and width of what it denoises: pixels or latents. Height and width are multiples of 2 to the number of levels
    /// less 1.
    #[schemars(inner(range(min = 1, max = MAX_EXTENT)))]
    pub image: [usize; 3],
    /// Channels of each level; every level but the last halves the extents. Multiples of `norm_num_groups`.
    #[serde(default = "default_channels")]
    #[schemars(length(min = 1, max = MAX_LEVELS), inner(range(min = 1, max = MAX_EXTENT)))]
    pub block_out_channels: Vec<usize>,
    /// What each level is made of.
    #[schemars(length(min = 1, max = MAX_LEVELS))]
    pub down_block_types: Vec<UNetBlock>,
    /// Residual blocks of a level on the way down; one more on the way up.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = MAX_LAYERS))]
    pub layers_per_block: usize,
    /// Attention between the two residual blocks at the bottom.
    #[serde(default = "yes")]
    pub add_attention: bool,
    /// Channels of one head of self-attention; divides the channels of levels that have it.
    #[serde(default = "eight")]
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub attention_head_dim: usize,
    /// Groups of each normalisation.
    #[serde(default = "thirty_two")]
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub norm_num_groups: usize,
    /// Epsilon of each normalisation.
    #[serde(default = "epsilon")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub norm_eps: f64,
    /// The map that comes beside the image; unconditional if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spatial: Option<SpatialConfig>,
    /// The tokens that levels with cross-attention attend to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokensConfig>,
    /// The noise schedule that it is trained with.
    #[serde(default)]
    pub schedule: ScheduleConfig,
}

fn default_channels() -> Vec<usize> {
    vec![224, 448, 672, 896]
}

fn two() -> usize {
    2
}

fn yes() -> bool {
    true
}

fn eight() -> usize {
    8
}

fn thirty_two() -> usize {
    32
}

fn epsilon() -> f64 {
    1e-5
}

/// The most blocks of one way: levels times residual blocks times transformer blocks.
const MAX_BLOCKS: usize = 1 << 12;

impl UNetConfig {
    fn check(&self) -> Faults {
        let mut faults = Faults::default();
        let (levels, groups) = (self.block_out_channels.len(), self.norm_num_groups);
        let grouped = faults.count("/norm_num_groups", groups, MAX_EXTENT);
        let fits = |&c: &usize| {
            let whole = !grouped || c.is_multiple_of(groups);
            (1..=MAX_EXTENT).contains(&c) && c.is_multiple_of(2) && whole
        };
        if !(1..=MAX_LEVELS).contains(&levels) || !self.block_out_channels.iter().all(fits) {
            let found = list(&self.block_out_channels);
            let expected = format!(
                "1 to {MAX_LEVELS} even multiples of the number of groups, {groups}, up to {MAX_EXTENT}"
            );
            faults.add("/block_out_channels", found, expected);
        }
        if self.down_block_types.len() != levels {
            let found = format!("{} types", self.down_block_types.len());
            let expected = format!("{levels}, one for each of `block_out_channels`");
            faults.add("/down_block_types", found, expected);
        }
        if faults.count("/layers_per_block", self.layers_per_block, MAX_LAYERS) {
            // Each level has as many transformers as residual blocks, of so many blocks themselves.
            let each = self.tokens.as_ref().map_or(1, |tokens| tokens.layers);
            let all = levels
                .saturating_mul(self.layers_per_block)
                .saturating_mul(each);
            if all > MAX_BLOCKS {
                let found = format!("{}, {all} blocks in all levels", self.layers_per_block);
                faults.add(
                    "/layers_per_block",
                    found,
                    format_args!("at most {MAX_BLOCKS} in all"),
                );
            }
        }
        match &self.tokens {
            Some(_) if !self.crosses() => {
                let expected = "at least one `CrossAttnDownBlock2D`, since there are `tokens`";
                faults.add("/down_block_types", "none with cross-attention", expected);
            }
            Some(tokens) => {
                let crossed = self.attended(UNetBlock::CrossAttnDownBlock2D);
                faults.part("/tokens", tokens.check(&crossed));
            }
            None if self.crosses() => {
                let expected = "what levels with cross-attention attend to";
                faults.add("/tokens", "nothing", expected);
            }
            None => {}
        }
        let attended = self.attended(UNetBlock::AttnDownBlock2D);
        let head = self.attention_head_dim;
        if attended
            .iter()
            .any(|c| head == 0 || !c.is_multiple_of(head))
        {
            let expected = format!(
                "a divisor of the channels with attention, {}",
                list(&attended)
            );
            faults.add("/attention_head_dim", head, expected);
        }
        if !(self.norm_eps > 0.0 && self.norm_eps.is_finite()) {
            faults.add("/norm_eps", self.norm_eps, "above 0");
        }
        faults.image(self.image, 1 << levels.saturating_sub(1).min(31));
        if let Some(spatial) = &self.spatial {
            faults.part("/spatial", spatial.check());
        }
        faults.part("/schedule", self.schedule.check());
        faults
    }

    /// Whether any level has cross-attention.
    fn crosses(&self) -> bool {
        self.down_block_types
            .contains(&UNetBlock::CrossAttnDownBlock2D)
    }

    /// What the bottom is like.
    fn bottom(&self) -> UNetBlock {
        match (self.add_attention, self.crosses()) {
            (false, _) => UNetBlock::DownBlock2D,
            (true, false) => UNetBlock::AttnDownBlock2D,
            (true, true) => UNetBlock::CrossAttnDownBlock2D,
        }
    }

    /// Channels of the levels of that kind, the bottom included.
    fn attended(&self, kind: UNetBlock) -> Vec<usize> {
        let levels = self.block_out_channels.iter().zip(&self.down_block_types);
        let bottom = self
            .block_out_channels
            .last()
            .map(|channels| (*channels, self.bottom()));
        levels
            .map(|(&channels, &kind)| (channels, kind))
            .chain(bottom)
            .filter(|(_, found)| *found == kind)
            .map(|(channels, _)| channels)
            .collect()
    }

    fn norm(&self) -> (usize, f64) {
        (self.norm_num_groups, self.norm_eps)
    }
}

impl Architecture for UNetConfig {
    type Model = dyn Denoiser;
    const KIND: &'static str = "unet";

    fn contradictions(&self) -> Vec<Issue> {
        self.check().issues()
    }

    fn build(self) -> Result<Box<dyn Denoiser>> {
        Ok(Box::new(UNet::new(self)?))
    }
}

/// A U-Net's structure.
pub struct UNet {
    config: UNetConfig,
    schedule: NoiseSchedule,
    slots: Vec<Slot>,
    specs: Arc<[ParameterSpec]>,
    spatial: Option<SpatialSlot>,
    first: BiasedConv,
    time: [Linear; 2],
    down: Vec<Level>,
    middle: Middle,
    up: Vec<Level>,
    last_norm: GroupNorm,
    last: BiasedConv,
}

/// One level of either way: residual blocks, attention after each or none, and the change of extents after the last.
struct Level {
    residuals: Vec<Residual>,
    attentions: Vec<Attention>,
    resample: Option<BiasedConv>,
}

struct Middle {
    residuals: [Residual; 2],
    attention: Attention,
}

/// What follows a residual block.
enum Attention {
    None,
    Own(SelfAttention),
    Cross(Transformer2d),
}

/// What blocks take beside their input: the activated timestep embedding, and the tokens.
#[derive(Clone, Copy)]
struct Context<'a> {
    time: &'a Tensor,
    tokens: Option<&'a Tensor>,
}

/// diffusers' `ResnetBlock2D`.
struct Residual {
    norms: [GroupNorm; 2],
    convs: [BiasedConv; 2],
    time: Linear,
    shortcut: Option<BiasedConv>,
}

/// diffusers' `Attention` as its 2-D blocks use it: normalised self-attention over pixels, added to its input.
struct SelfAttention {
    norm: GroupNorm,
    query_key_value: [Linear; 3],
    out: Linear,
    heads: usize,
}

impl UNet {
    /// The structure that `config` describes. Allocates no parameter.
    ///
    /// # Errors
    /// [`ModelError::Config`](crate::ModelError::Config) with every contradiction.
    pub fn new(config: UNetConfig) -> Result<Self> {
        config.check().finish()?;
        let schedule = NoiseSchedule::new(&config.schedule)?;
        let mut d = Declaration::new();
        let channels = &config.block_out_channels;
        let levels = channels.len();
        let (widest, time_width) = (channels[levels - 1], 4 * channels[0]);
        let maps = config.spatial.map_or(0, |spatial| spatial.channels);
        let spatial = config
            .spatial
            .map(|spatial| SpatialSlot::declare(&mut d, &spatial));
        let first =
            BiasedConv::declare(&mut d, "conv_in", config.image[0] + maps, channels[0], 3, 1);
        let time = d.within("time_embedding", |d| {
            [
                Linear::declare_default(d, "linear_1", channels[0], time_width),
                Linear::declare_default(d, "linear_2", time_width, time_width),
            ]
        });
        // The way up takes the outputs of the way down from the last to the first.
        let mut kept = vec![channels[0]];
        let mut down = Vec::new();
        let mut inputs = channels[0];
        for (level, &outputs) in channels.iter().enumerate() {
            let (count, last) = (config.layers_per_block, level + 1 == levels);
            let sources: Vec<usize> = (0..count)
                .map(|n| if n == 0 { inputs } else { outputs })
                .collect();
            let resample = (!last).then_some(("downsamplers.0.conv", 2));
            let attends = config.down_block_types[level];
            down.push(d.within(format_args!("down_blocks.{level}"), |d| {
                Level::declare(d, &config, &sources, outputs, attends, resample)
            }));
            kept.extend(vec![outputs; count + usize::from(!last)]);
            inputs = outputs;
        }
        let middle = d.within("mid_block", |d| Middle {
            residuals: [0, 1].map(|n| {
                d.within(format_args!("resnets.{n}"), |d| {
                    Residual::declare(d, &config, widest, widest)
                })
            }),
            attention: d.within("attentions.0", |d| {
                Attention::declare(d, &config, config.bottom(), widest)
            }),
        });
        let mut up = Vec::new();
        for level in 0..levels {
            let outputs = channels[levels - 1 - level];
            let mut sources = Vec::new();
            for n in 0..=config.layers_per_block {
                let below = if n == 0 { inputs } else { outputs };
                sources.push(
                    below
                        + kept
                            .pop()
                            .expect("each block below kept one for each above"),
                );
            }
            let resample = (level + 1 < levels).then_some(("upsamplers.0.conv", 1));
            let attends = config.down_block_types[levels - 1 - level];
            up.push(d.within(format_args!("up_blocks.{level}"), |d| {
                Level::declare(d, &config, &sources, outputs, attends, resample)
            }));
            inputs = outputs;
        }
        let last_norm = GroupNorm::declare(&mut d, "conv_norm_out", channels[0], config.norm());
        let last = BiasedConv::declare(&mut d, "conv_out", channels[0], config.image[0], 3, 1);
        let spatial_slot = config.spatial.iter();
        let slots = spatial_slot
            .map(|spatial| SpatialSlot::publish(spatial, config.image))
            .chain(config.tokens.iter().map(TokensConfig::publish))
            .collect();
        Ok(Self {
            specs: d.finish(),
            config,
            schedule,
            slots,
            spatial,
            first,
            time,
            down,
            middle,
            up,
            last_norm,
            last,
        })
    }

    /// What the structure was made from.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// The activated timestep embedding, `[B, 4 C]`, which every residual block takes.
    fn embed_times(&self, weights: &Weights, times: &[f32], device: &Device) -> Result<Tensor> {
        let codes = timestep_codes(times, self.config.block_out_channels[0], device)?;
        let [first, second] = &self.time;
        let inner = first.forward(weights, &codes)?.silu()?;
        Ok(second.forward(weights, &inner)?.silu()?)
    }
}

impl Denoiser for UNet {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.specs
    }

    fn image_shape(&self) -> [usize; 3] {
        self.config.image
    }

    fn slots(&self) -> &[Slot] {
        &self.slots
    }

    fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    fn spatial(&self) -> Option<&SpatialConfig> {
        self.config.spatial.as_ref()
    }

    fn predict(
        &self,
        weights: &Weights,
        noisy: &Tensor,
        times: &[f64],
        conditioning: &Named,
    ) -> Result<Tensor> {
        let batch = expect_images("the noisy batch", noisy, self.config.image)?;
        expect_slots(conditioning, &self.slots, batch)?;
        let times = network_times(times, batch, &self.schedule)?;
        let time = self.embed_times(weights, &times, noisy.device())?;
        let input = match &self.spatial {
            Some(spatial) => spatial.join(noisy, conditioning)?,
            None => noisy.clone(),
        };
        let context = Context {
            time: &time,
            tokens: conditioning.get(TOKENS),
        };
        let mut x = self.first.forward(weights, &input)?;
        let mut kept = vec![x.clone()];
        for level in &self.down {
            for n in 0..level.residuals.len() {
                x = level.step(weights, n, &x, context)?;
                kept.push(x.clone());
            }
            if let Some(conv) = &level.resample {
                x = conv.forward(weights, &x)?;
                kept.push(x.clone());
            }
        }
        let [first, second] = &self.middle.residuals;
        x = first.forward(weights, &x, &time)?;
        x = self.middle.attention.forward(weights, x, context)?;
        x = second.forward(weights, &x, &time)?;
        for level in &self.up {
            for n in 0..level.residuals.len() {
                let skipped = kept.pop().expect("declared with as many above as below");
                x = level.step(weights, n, &Tensor::cat(&[&x, &skipped], 1)?, context)?;
            }
            if let Some(conv) = &level.resample {
                let (height, width) = (2 * x.shape()[2], 2 * x.shape()[3]);
                x = conv.forward(weights, &x.resize_nearest(height, width)?)?;
            }
        }
        let x = self.last_norm.forward(weights, &x)?.silu()?;
        self.last.forward(weights, &x)
    }

    fn constants(&self, weights: &Weights) -> Result<Named> {
        let spatial = self.spatial.as_ref();
        Ok(spatial.map_or_else(Named::new, |spatial| spatial.constants(weights)))
    }

    fn unconditional(&self, weights: &Weights) -> Result<Option<Named>> {
        match (&self.config.spatial, &self.config.tokens) {
            (Some(spatial), None) => SpatialSlot::nothing(spatial, self.config.image, weights),
            _ => Ok(None),
        }
    }
}

impl Level {
    /// `sources` are the channels into each residual block, `resample` is the name and stride of the convolution at the end.
    fn declare(
        d: &mut Declaration,
        config: &UNetConfig,
        sources: &[usize],
        outputs: usize,
        attends: UNetBlock,
        resample: Option<(&str, usize)>,
    ) -> Self {
        let attentions = (0..sources.len())
            .map(|n| {
                d.within(format_args!("attentions.{n}"), |d| {
                    Attention::declare(d, config, attends, outputs)
                })
            })
            .collect();
        let residuals = sources
            .iter()
            .enumerate()
            .map(|(n, &inputs)| {
                d.within(format_args!("resnets.{n}"), |d| {
                    Residual::declare(d, config, inputs, outputs)
                })
            })
            .collect();
        let resample = resample
            .map(|(name, stride)| BiasedConv::declare(d, name, outputs, outputs, 3, stride));
        Self {
            residuals,
            attentions,
            resample,
        }
    }

    /// Residual block `n` and the attention after it.
    fn step(
        &self,
        weights: &Weights,
        n: usize,
        x: &Tensor,
        context: Context<'_>,
    ) -> Result<Tensor> {
        let x = self.residuals[n].forward(weights, x, context.time)?;
        self.attentions[n].forward(weights, x, context)
    }
}

impl Attention {
    fn declare(d: &mut Declaration, config: &UNetConfig, kind: UNetBlock, channels: usize) -> Self {
        match (kind, &config.tokens) {
            (UNetBlock::AttnDownBlock2D, _) => {
                Self::Own(SelfAttention::declare(d, config, channels))
            }
            (UNetBlock::CrossAttnDownBlock2D, Some(tokens)) => {
                let groups = config.norm_num_groups;
                Self::Cross(Transformer2d::declare(d, tokens, channels, groups))
            }
            _ => Self::None,
        }
    }

    fn forward(&self, weights: &Weights, x: Tensor, context: Context<'_>) -> Result<Tensor> {
        match (self, context.tokens) {
            (Self::Own(attention), _) => attention.forward(weights, &x),
            (Self::Cross(transformer), Some(tokens)) => transformer.forward(weights, &x, tokens),
            _ => Ok(x),
        }
    }
}

impl Residual {
    fn declare(d: &mut Declaration, config: &UNetConfig, inputs: usize, outputs: usize) -> Self {
        let time_width = 4 * config.block_out_channels[0];
        Self {
            norms: [
                GroupNorm::declare(d, "norm1", inputs, config.norm()),
                GroupNorm::declare(d, "norm2", outputs, config.norm()),
            ],
            convs: [
                BiasedConv::declare(d, "conv1", inputs, outputs, 3, 1),
                BiasedConv::declare(d, "conv2", outputs, outputs, 3, 1),
            ],
            time: Linear::declare_default(d, "time_emb_proj", time_width, outputs),
            shortcut: (inputs != outputs)
                .then(|| BiasedConv::declare(d, "conv_shortcut", inputs, outputs, 1, 1)),
        }
    }

    /// `x` is `[B, C, H, W]`, `time` the activated timestep embedding.
    fn forward(&self, weights: &Weights, x: &Tensor, time: &Tensor) -> Result<Tensor> {
        let [first, second] = &self.norms;
        let inner = first.forward(weights, x)?.silu()?;
        let inner = self.convs[0].forward(weights, &inner)?;
        let shift = self.time.forward(weights, time)?;
        let inner = inner.add(&shift.unsqueeze(2)?.unsqueeze(3)?)?;
        let inner = second.forward(weights, &inner)?.silu()?;
        let inner = self.convs[1].forward(weights, &inner)?;
        match &self.shortcut {
            Some(conv) => Ok(conv.forward(weights, x)?.add(&inner)?),
            None => Ok(x.add(&inner)?),
        }
    }
}

impl SelfAttention {
    fn declare(d: &mut Declaration, config: &UNetConfig, channels: usize) -> Self {
        Self {
            norm: GroupNorm::declare(d, "group_norm", channels, config.norm()),
            query_key_value: ["to_q", "to_k", "to_v"]
                .map(|name| Linear::declare_default(d, name, channels, channels)),
            out: Linear::declare_default(d, "to_out.0", channels, channels),
            heads: channels / config.attention_head_dim,
        }
    }

    fn forward(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        let shape = x.shape();
        let (batch, channels) = (shape[0], shape[1]);
        let pixels = self
            .norm
            .forward(weights, x)?
            .reshape(&[batch as i64, channels as i64, -1])?
            .permute(&[0, 2, 1])?;
        let [query, key, value] = &self.query_key_value;
        let parts = [
            query.forward(weights, &pixels)?,
            key.forward(weights, &pixels)?,
            value.forward(weights, &pixels)?,
        ];
        let mixed =
            Tensor::cat(&[&parts[0], &parts[1], &parts[2]], 2)?.self_attention(self.heads)?;
        let mixed = self.out.forward(weights, &mixed)?.permute(&[0, 2, 1])?;
        Ok(mixed
            .reshape(&shape.iter().map(|&e| e as i64).collect::<Vec<_>>())?
            .add(x)?)
    }
}

//! U-Net denoiser with the structure and parameter names of diffusers' `UNet2DModel` (Ho et al. 2020; `unet_2d.py`,
//! `unet_2d_blocks.py`) and `UNet2DConditionModel` (Rombach et al. 2022), so that their checkpoints fit. It takes a map beside the noisy
//! image through a spatial slot, a class through a vector, and tokens to attend to, each through a slot of its own.

pub(crate) mod blocks;
mod config;
mod controlnet;

use std::sync::Arc;

use dtta_base::Issue;
use dtta_tensor::{Device, Named, Tensor};

pub use self::config::{
    PerLevel, UNetBlock, UNetClassEmbedding, UNetConfig, UNetMidBlock, UNetResample, UNetTimeShift,
    UNetUpBlock,
};

pub use self::controlnet::{ChannelOrder, ControlConfig, ControlNet, ControlNetConfig};

use self::blocks::{Extents, Halving, Residual, ResidualStyle, SelfAttention};
use self::config::Attends;
use crate::denoiser::{
    CLASS_EMBEDDING, ClassCondition, Denoiser, Slot, expect_images, expect_slots, network_times,
    no_classes,
};
use crate::error::Result;
use crate::label_table::LabelTable;
use crate::layers::{BiasedConv, GroupNorm, Linear, TimeCode};
use crate::schedule::NoiseSchedule;
use crate::spatial::{SpatialConfig, SpatialSlot};
use crate::table::Architecture;
use crate::transformer2d::{TOKENS, TokensConfig, Transformer2d, TransformerShape};
use crate::weights::{Declaration, Init, ParameterSpec, Weights};

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
    net: Net,
    schedule: NoiseSchedule,
    slots: Vec<Slot>,
    specs: Arc<[ParameterSpec]>,
}

/// What a U-Net declares, which may be a part of a larger structure.
struct Net {
    half: Half,
    up: Vec<Level>,
    last_norm: GroupNorm,
    last: BiasedConv,
}

/// The way down and the bottom.
struct Half {
    config: UNetConfig,
    spatial: Option<SpatialSlot>,
    first: BiasedConv,
    time: [Linear; 2],
    classes: Option<LabelTable>,
    down: Vec<Level>,
    middle: Vec<Step>,
}

/// What the way down leaves to the way up: the first map and that of every step, and the bottom.
struct Maps {
    kept: Vec<Tensor>,
    bottom: Tensor,
    /// The activated time embedding.
    time: Tensor,
}

/// One level of either way, and the change of extents after it.
struct Level {
    steps: Vec<Step>,
    resample: Option<Resample>,
}

/// A residual block and what follows it.
struct Step {
    residual: Residual,
    attention: Attention,
}

enum Attention {
    None,
    Own(SelfAttention),
    Cross(Transformer2d),
}

/// How extents change.
enum Resample {
    Halving(Halving),
    /// Of what was enlarged.
    Doubling(BiasedConv),
    Residual(Box<Residual>),
}

/// What blocks take beside their input: the activated time embedding, and the tokens.
#[derive(Clone, Copy)]
struct Context<'a> {
    time: &'a Tensor,
    tokens: Option<&'a Tensor>,
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
        let slots = slots(&config);
        let net = Net::declare(&mut d, config);
        Ok(Self {
            specs: d.finish(),
            slots,
            schedule,
            net,
        })
    }

    /// What the structure was made from.
    pub fn config(&self) -> &UNetConfig {
        &self.net.half.config
    }
}

impl Half {
    fn declare(d: &mut Declaration, config: UNetConfig) -> Self {
        let channels = &config.block_out_channels;
        let (levels, time_width) = (channels.len(), config.time_width());
        let maps = config.spatial.map_or(0, |spatial| spatial.channels);
        let spatial = config
            .spatial
            .map(|spatial| SpatialSlot::declare(d, &spatial));
        let (inputs, window) = (config.image[0] + maps, config.conv_in_kernel);
        let first = BiasedConv::declare(d, "conv_in", inputs, channels[0], window, 1);
        let time = d.within("time_embedding", |d| {
            [
                Linear::declare_default(d, "linear_1", channels[0], time_width),
                Linear::declare_default(d, "linear_2", time_width, time_width),
            ]
        });
        let classes = config.num_class_embeds.map(|classes| {
            let name = "class_embedding.weight";
            LabelTable::declare(d, name, (classes, time_width), 0.0, Init::Normal(1.0))
        });
        let mut down = Vec::new();
        let mut inputs = channels[0];
        for (level, &outputs) in channels.iter().enumerate() {
            let (count, last) = (config.layers_per_block.at(level), level + 1 == levels);
            let sources: Vec<usize> = (0..count)
                .map(|n| if n == 0 { inputs } else { outputs })
                .collect();
            let resample = (!last).then_some(Extents::Halved);
            let attends = config.down(level);
            down.push(d.within(format_args!("down_blocks.{level}"), |d| {
                Level::declare(d, &config, level, &sources, attends, resample)
            }));
            inputs = outputs;
        }
        let middle = d.within("mid_block", |d| declare_middle(d, &config));
        Self {
            spatial,
            first,
            time,
            classes,
            down,
            middle,
            config,
        }
    }

    /// Channels of the maps that the way down leaves, in its order.
    fn kept(config: &UNetConfig) -> Vec<usize> {
        let channels = &config.block_out_channels;
        let mut kept = vec![channels[0]];
        for (level, &outputs) in channels.iter().enumerate() {
            let resampled = usize::from(level + 1 < channels.len());
            kept.extend(vec![outputs; config.layers_per_block.at(level) + resampled]);
        }
        kept
    }

    /// What becomes of `noisy`; `beside` is added to its first map.
    fn forward(
        &self,
        weights: &Weights,
        noisy: &Tensor,
        times: &[f64],
        conditioning: &Named,
        beside: Option<&Tensor>,
    ) -> Result<Maps> {
        let class = conditioning.get(CLASS_EMBEDDING);
        let time = self.embed_times(weights, times, class, noisy.device())?;
        let noisy = match self.config.center_input_sample {
            true => &noisy.affine(2.0, -1.0)?,
            false => noisy,
        };
        let input = match &self.spatial {
            Some(spatial) => spatial.join(noisy, conditioning)?,
            None => noisy.clone(),
        };
        let context = Context {
            time: &time,
            tokens: conditioning.get(TOKENS),
        };
        let mut x = self.first.forward(weights, &input)?;
        if let Some(beside) = beside {
            x = x.add(beside)?;
        }
        let mut kept = vec![x.clone()];
        for level in &self.down {
            for step in &level.steps {
                x = step.forward(weights, &x, context)?;
                kept.push(x.clone());
            }
            if let Some(resample) = &level.resample {
                x = resample.forward(weights, &x, context, [0, 0])?;
                kept.push(x.clone());
            }
        }
        for step in &self.middle {
            x = step.forward(weights, &x, context)?;
        }
        Ok(Maps {
            kept,
            bottom: x,
            time,
        })
    }

    /// The activated time embedding, `[B, time_embedding_dim]`, which every residual block takes.
    fn embed_times(
        &self,
        weights: &Weights,
        times: &[f64],
        class: Option<&Tensor>,
        device: &Device,
    ) -> Result<Tensor> {
        let config = &self.config;
        let code = TimeCode {
            width: config.block_out_channels[0],
            shift: config.freq_shift,
            cosines_first: config.flip_sin_to_cos,
        };
        let [first, second] = &self.time;
        let inner = first.forward(weights, &code.of(times, device)?)?;
        let inner = config.embedding_act_fn.of(&inner)?;
        let mut embedding = second.forward(weights, &inner)?;
        if let Some(act) = config.timestep_post_act {
            embedding = act.of(&embedding)?;
        }
        if let Some(class) = class {
            embedding = embedding.add(class)?;
        }
        if let Some(act) = config.time_embedding_act_fn {
            embedding = act.of(&embedding)?;
        }
        config.act_fn.of(&embedding)
    }
}

impl Net {
    fn declare(d: &mut Declaration, config: UNetConfig) -> Self {
        let half = Half::declare(d, config);
        let config = &half.config;
        let (channels, levels) = (&config.block_out_channels, config.levels());
        // The way up takes the outputs of the way down from the last to the first.
        let mut kept = Half::kept(config);
        let mut inputs = channels[levels - 1];
        let mut up = Vec::new();
        for level in (0..levels).rev() {
            let outputs = channels[level];
            let mut sources = Vec::new();
            for n in 0..=config.layers_per_block.at(level) {
                let below = if n == 0 { inputs } else { outputs };
                sources.push(
                    below
                        + kept
                            .pop()
                            .expect("each block below kept one for each above"),
                );
            }
            let resample = (level > 0).then_some(Extents::Grown);
            let attends = config.up(level);
            up.push(
                d.within(format_args!("up_blocks.{}", levels - 1 - level), |d| {
                    Level::declare(d, config, level, &sources, attends, resample)
                }),
            );
            inputs = outputs;
        }
        let last_norm = GroupNorm::declare(d, "conv_norm_out", channels[0], config.norm());
        let (outputs, window) = (config.output_channels(), config.conv_out_kernel);
        let last = BiasedConv::declare(d, "conv_out", channels[0], outputs, window, 1);
        Self {
            half,
            up,
            last_norm,
            last,
        }
    }

    /// The answer to what the way down left.
    fn answer(&self, weights: &Weights, maps: Maps, tokens: Option<&Tensor>) -> Result<Tensor> {
        let Maps {
            mut kept,
            bottom: mut x,
            time,
        } = maps;
        let context = Context {
            time: &time,
            tokens,
        };
        for level in &self.up {
            for step in &level.steps {
                let skipped = kept.pop().expect("declared with as many above as below");
                x = step.forward(weights, &Tensor::cat(&[&x, &skipped], 1)?, context)?;
            }
            if let Some(resample) = &level.resample {
                let above = kept.last().expect("declared with as many above as below");
                let extents = [above.shape()[2], above.shape()[3]];
                x = resample.forward(weights, &x, context, extents)?;
            }
        }
        let config = &self.half.config;
        let x = self
            .last_norm
            .activated(weights, &x, config.embedding_act_fn)?;
        let x = self.last.forward(weights, &x)?;
        match config.learn_sigma {
            true => Ok(x.narrow(1, 0, config.image[0])?),
            false => Ok(x),
        }
    }
}

/// What it is conditioned on.
fn slots(config: &UNetConfig) -> Vec<Slot> {
    let spatial = config.spatial.iter();
    let class = match (config.num_class_embeds, config.class_embed_type) {
        (Some(_), _) => Some("a row of the label table, or a mixture of rows"),
        (None, Some(UNetClassEmbedding::Identity)) => Some("a vector, as it was in training"),
        (None, None) => None,
    };
    spatial
        .map(|spatial| SpatialSlot::publish(spatial, config.image))
        .chain(class.map(|meaning| Slot {
            name: CLASS_EMBEDDING.into(),
            shape: vec![config.time_width()],
            meaning: format!("{meaning}; added to the time embedding"),
        }))
        .chain(config.tokens.iter().map(TokensConfig::publish))
        .collect()
}

/// One or two residual blocks, or none.
fn declare_middle(d: &mut Declaration, config: &UNetConfig) -> Vec<Step> {
    let level = config.levels() - 1;
    let channels = config.block_out_channels[level];
    let count = match config.mid_block() {
        UNetMidBlock::None => 0,
        UNetMidBlock::ResnetBlock2D => 1,
        UNetMidBlock::UNetMidBlock2D | UNetMidBlock::UNetMidBlock2DCrossAttn => 2,
    };
    let divisor = config.mid_block_scale_factor;
    let style = ResidualStyle {
        divisor,
        ..residual_style(config)
    };
    let residual = |d: &mut Declaration, n: usize| {
        d.within(format_args!("resnets.{n}"), |d| {
            Residual::declare(d, style, [channels; 2], Extents::Kept)
        })
    };
    let attention = |d: &mut Declaration| {
        d.within("attentions.0", |d| match config.middle() {
            Attends::Pixels => {
                let (norm, head) = (config.middle_norm(), config.head(level));
                Attention::Own(SelfAttention::declare(d, norm, channels, head, divisor))
            }
            attends => Attention::declare(d, config, attends, level, true),
        })
    };
    // Parameters are declared in the order in which they always were, since their place decides how they start.
    let residuals: Vec<Residual> = (0..count).map(|n| residual(d, n)).collect();
    let mut between = (count == 2).then(|| attention(d));
    residuals
        .into_iter()
        .map(|residual| Step {
            residual,
            attention: between.take().unwrap_or(Attention::None),
        })
        .collect()
}

fn residual_style(config: &UNetConfig) -> ResidualStyle {
    ResidualStyle {
        norm: config.norm(),
        act: config.act_fn,
        time: Some(config.time_width()),
        scale_shift: config.resnet_time_scale_shift == UNetTimeShift::ScaleShift,
        divisor: 1.0,
    }
}

impl Denoiser for UNet {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.specs
    }

    fn image_shape(&self) -> [usize; 3] {
        self.config().image
    }

    fn slots(&self) -> &[Slot] {
        &self.slots
    }

    fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    fn spatial(&self) -> Option<&SpatialConfig> {
        self.config().spatial.as_ref()
    }

    fn predict(
        &self,
        weights: &Weights,
        noisy: &Tensor,
        times: &[f64],
        conditioning: &Named,
    ) -> Result<Tensor> {
        let batch = expect_images("the noisy batch", noisy, self.config().image)?;
        expect_slots(conditioning, &self.slots, batch)?;
        let times = network_times(times, batch, &self.schedule)?;
        let half = &self.net.half;
        let maps = half.forward(weights, noisy, &times, conditioning, None)?;
        self.net.answer(weights, maps, conditioning.get(TOKENS))
    }

    fn class_condition(&self) -> Option<ClassCondition> {
        let classes = self.net.half.classes.as_ref();
        classes.map(LabelTable::condition)
    }

    fn embed_classes(&self, weights: &Weights, labels: &Tensor) -> Result<Tensor> {
        let table = self.net.half.classes.as_ref();
        table
            .ok_or_else(|| no_classes(&self.slots))?
            .embed(weights, labels)
    }

    fn constants(&self, weights: &Weights) -> Result<Named> {
        let Half {
            spatial, classes, ..
        } = &self.net.half;
        let spatial = spatial.as_ref();
        let mut constants = spatial.map_or_else(Named::new, |spatial| spatial.constants(weights));
        if let Some(table) = classes {
            constants.extend(table.constants(weights)?);
        }
        Ok(constants)
    }

    fn unconditional(&self, weights: &Weights) -> Result<Option<Named>> {
        let config = self.config();
        match &config.spatial {
            Some(spatial) if self.slots.len() == 1 => {
                SpatialSlot::nothing(spatial, config.image, weights)
            }
            _ => Ok(None),
        }
    }
}

impl Level {
    /// `sources` are the channels into each residual block.
    fn declare(
        d: &mut Declaration,
        config: &UNetConfig,
        level: usize,
        sources: &[usize],
        attends: Attends,
        resample: Option<Extents>,
    ) -> Self {
        let (style, outputs) = (residual_style(config), config.block_out_channels[level]);
        let attentions: Vec<Attention> = (0..sources.len())
            .map(|n| {
                d.within(format_args!("attentions.{n}"), |d| {
                    Attention::declare(d, config, attends, level, false)
                })
            })
            .collect();
        let residuals = sources.iter().enumerate().map(|(n, &inputs)| {
            d.within(format_args!("resnets.{n}"), |d| {
                Residual::declare(d, style, [inputs, outputs], Extents::Kept)
            })
        });
        let steps = residuals
            .zip(attentions)
            .map(|(residual, attention)| Step {
                residual,
                attention,
            })
            .collect();
        let resample = resample.map(|extents| {
            let residual = match extents {
                Extents::Halved => config.down_residual(level),
                _ => config.up_residual(level),
            };
            Resample::declare(d, config, residual, outputs, extents)
        });
        Self { steps, resample }
    }
}

impl Step {
    fn forward(&self, weights: &Weights, x: &Tensor, context: Context<'_>) -> Result<Tensor> {
        let x = self
            .residual
            .forward(weights, x, Some(context.time), [0, 0])?;
        match (&self.attention, context.tokens) {
            (Attention::Own(attention), _) => attention.forward(weights, &x),
            (Attention::Cross(transformer), Some(tokens)) => {
                transformer.forward(weights, &x, tokens)
            }
            _ => Ok(x),
        }
    }
}

impl Attention {
    fn declare(
        d: &mut Declaration,
        config: &UNetConfig,
        attends: Attends,
        level: usize,
        bottom: bool,
    ) -> Self {
        let channels = config.block_out_channels[level];
        match (attends, &config.tokens) {
            (Attends::Pixels, _) => {
                let (norm, head) = (Some(config.norm()), config.head(level));
                Self::Own(SelfAttention::declare(d, norm, channels, head, 1.0))
            }
            (Attends::Tokens, Some(tokens)) => {
                let shape = TransformerShape {
                    channels,
                    groups: config.norm_num_groups,
                    heads: tokens.heads.at(level),
                    layers: tokens.layers.at(level),
                    only_cross: !bottom && tokens.only_cross_attention.at(level),
                };
                Self::Cross(Transformer2d::declare(d, tokens, shape))
            }
            _ => Self::None,
        }
    }
}

impl Resample {
    fn declare(
        d: &mut Declaration,
        config: &UNetConfig,
        residual: bool,
        channels: usize,
        extents: Extents,
    ) -> Self {
        let name = match extents {
            Extents::Halved => "downsamplers.0",
            _ => "upsamplers.0",
        };
        d.within(name, |d| match (residual, extents) {
            (true, _) => {
                let style = residual_style(config);
                Self::Residual(Box::new(Residual::declare(
                    d,
                    style,
                    [channels; 2],
                    extents,
                )))
            }
            (false, Extents::Halved) => {
                let one_sided = config.downsample_padding == 0;
                Self::Halving(Halving::declare(d, "conv", channels, one_sided))
            }
            _ => Self::Doubling(BiasedConv::declare(d, "conv", channels, channels, 3, 1)),
        })
    }

    /// `grown` are height and width of the result where the extents grow.
    fn forward(
        &self,
        weights: &Weights,
        x: &Tensor,
        context: Context<'_>,
        grown: [usize; 2],
    ) -> Result<Tensor> {
        match self {
            Self::Halving(halving) => halving.forward(weights, x),
            Self::Doubling(conv) => conv.forward(weights, &x.resize_nearest(grown[0], grown[1])?),
            Self::Residual(residual) => residual.forward(weights, x, Some(context.time), grown),
        }
    }
}

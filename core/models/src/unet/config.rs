//! A U-Net's configuration, in the words of diffusers' `UNet2DModel` and `UNet2DConditionModel`.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fault::{Faults, MAX_EXTENT, MAX_LAYERS, MAX_LEVELS, list};
use crate::layers::Activation;
use crate::schedule::ScheduleConfig;
use crate::spatial::SpatialConfig;
use crate::transformer2d::TokensConfig;
use crate::unet::blocks::Halving;

/// What a level is made of on the way down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum UNetBlock {
    /// Residual blocks.
    DownBlock2D,
    /// Residual blocks; another one halves the extents, whatever `downsample_type` is.
    ResnetDownsampleBlock2D,
    /// Residual blocks, each followed by self-attention.
    AttnDownBlock2D,
    /// Residual blocks, each followed by a transformer that attends to tokens.
    CrossAttnDownBlock2D,
}

/// What a level is made of on the way up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum UNetUpBlock {
    /// Residual blocks.
    UpBlock2D,
    /// Residual blocks; another one doubles the extents, whatever `upsample_type` is.
    ResnetUpsampleBlock2D,
    /// Residual blocks, each followed by self-attention.
    AttnUpBlock2D,
    /// Residual blocks, each followed by a transformer that attends to tokens.
    CrossAttnUpBlock2D,
}

/// What is at the bottom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum UNetMidBlock {
    /// Two residual blocks, with self-attention between them where `add_attention` is set.
    UNetMidBlock2D,
    /// Two residual blocks, and between them a transformer that attends to tokens.
    UNetMidBlock2DCrossAttn,
    /// One residual block: what diffusers' `UNet2DConditionModel` makes of `UNetMidBlock2D`.
    ResnetBlock2D,
    /// Nothing.
    None,
}

/// How extents change between levels that have self-attention; others have a convolution, if their type names nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UNetResample {
    /// By a convolution.
    #[default]
    Conv,
    /// By a residual block.
    Resnet,
}

/// How the time enters a residual block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UNetTimeShift {
    /// It is added.
    #[default]
    Default,
    /// It scales and shifts what was normalised.
    ScaleShift,
}

/// How the class enters, other than by a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UNetClassEmbedding {
    /// As a vector, which is added to the time embedding.
    Identity,
}

/// One value for all levels, or one for each, from the largest extents to the smallest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PerLevel<T> {
    /// The value of all levels.
    All(T),
    /// The value of each level.
    Each(Vec<T>),
}

impl<T: Copy> PerLevel<T> {
    /// The value of a level, of those that [`check`](Self::check) found.
    pub(crate) fn at(&self, level: usize) -> T {
        match self {
            Self::All(value) => *value,
            Self::Each(values) => values[level],
        }
    }

    /// All values that there are.
    pub(crate) fn values(&self) -> &[T] {
        match self {
            Self::All(value) => std::slice::from_ref(value),
            Self::Each(values) => values,
        }
    }

    /// Expects a value for each of `levels`, if not one for all.
    pub(crate) fn check(&self, faults: &mut Faults, pointer: &str, levels: usize) -> bool {
        match self {
            Self::Each(values) if values.len() != levels => {
                let found = format!("{} values", values.len());
                faults.add(pointer, found, format_args!("{levels}, one for each level"));
                false
            }
            _ => true,
        }
    }
}

impl PerLevel<usize> {
    /// Expects numbers from 1 to `most`, and as many as there are levels if not one for all.
    pub(crate) fn count(
        &self,
        faults: &mut Faults,
        pointer: &str,
        levels: usize,
        most: usize,
    ) -> bool {
        self.check(faults, pointer, levels)
            && self
                .values()
                .iter()
                .all(|&value| faults.count(pointer, value, most))
    }
}

impl fmt::Display for PerLevel<usize> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(value) => value.fmt(f),
            Self::Each(values) => f.write_str(&list(values)),
        }
    }
}

/// A U-Net: a denoiser. Field names and defaults are those of diffusers' `UNet2DModel`, whose `config.json` is read directly, as that of
/// `UNet2DConditionModel` is; a field that says `null` there for its default may be left out here. Stable Diffusion 1.5 is
/// `image: [4, 64, 64], block_out_channels: [320, 640, 1280, 1280], down_block_types` of three with cross-attention and one
/// `DownBlock2D`, `tokens: { length: 77, width: 768, heads: 8 }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UNetConfig {
    /// Channels, height and width of what it denoises: pixels or latents. Every level has at least one pixel.
    #[schemars(inner(range(min = 1, max = MAX_EXTENT)))]
    pub image: [usize; 3],
    /// Whether the output has a second half for the variance. It is not used here, but checkpoints may have it.
    #[serde(default)]
    pub learn_sigma: bool,
    /// Whether the noisy image `x` enters as `2 x - 1`.
    #[serde(default)]
    pub center_input_sample: bool,
    /// Whether the cosines of the time code come before its sines.
    #[serde(default = "yes")]
    pub flip_sin_to_cos: bool,
    /// How many of the time code's frequencies fewer than there are it takes to fall to 1/10000.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub freq_shift: f64,
    /// Width of the time embedding; four times the first of `block_out_channels` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub time_embedding_dim: Option<usize>,
    /// What is applied to the time embedding before the class is added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestep_post_act: Option<Activation>,
    /// What is applied to the time embedding once, after the class was added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_embedding_act_fn: Option<Activation>,
    /// Number of classes of whole images, each with a learned vector that is added to the time embedding; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub num_class_embeds: Option<usize>,
    /// How the class enters, other than by a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_embed_type: Option<UNetClassEmbedding>,
    /// Channels of each level; every level but the last halves the extents. Multiples of `norm_num_groups`.
    #[serde(default = "default_channels")]
    #[schemars(length(min = 1, max = MAX_LEVELS), inner(range(min = 1, max = MAX_EXTENT)))]
    pub block_out_channels: Vec<usize>,
    /// What each level is made of on the way down.
    #[schemars(length(min = 1, max = MAX_LEVELS))]
    pub down_block_types: Vec<UNetBlock>,
    /// What is at the bottom: attention of the kind that the levels have, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mid_block_type: Option<UNetMidBlock>,
    /// What each level is made of on the way up, from the last to the first; as on the way down if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_LEVELS))]
    pub up_block_types: Option<Vec<UNetUpBlock>>,
    /// Residual blocks of a level on the way down; one more on the way up.
    #[serde(default = "two")]
    pub layers_per_block: PerLevel<usize>,
    /// What the sums of residual blocks and of self-attention at the bottom are divided by.
    #[serde(default = "one")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub mid_block_scale_factor: f64,
    /// Zeros around what is halved by a convolution: on all sides, or for 0 at the right and at the bottom.
    #[serde(default = "padded")]
    #[schemars(range(min = 0, max = 1))]
    pub downsample_padding: usize,
    /// How extents are halved after levels with self-attention. Others have a convolution, but for `ResnetDownsampleBlock2D`.
    #[serde(default)]
    pub downsample_type: UNetResample,
    /// How extents are doubled after levels with self-attention. Others have a convolution, but for `ResnetUpsampleBlock2D`.
    #[serde(default)]
    pub upsample_type: UNetResample,
    /// The activation of residual blocks.
    #[serde(default)]
    pub act_fn: Activation,
    /// The activation of the time embedding and of the output; `UNet2DModel` always has `silu` there.
    #[serde(default)]
    pub embedding_act_fn: Activation,
    /// Attention between the two residual blocks at the bottom.
    #[serde(default = "yes")]
    pub add_attention: bool,
    /// Channels of one head of self-attention, of all levels or of each; divides the channels of levels that have it. `null`: one head.
    #[serde(default = "eight")]
    pub attention_head_dim: Option<PerLevel<usize>>,
    /// Groups of each normalisation.
    #[serde(default = "thirty_two")]
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub norm_num_groups: usize,
    /// Groups of the normalisation before self-attention at the bottom. If absent, `norm_num_groups`, or with
    /// `resnet_time_scale_shift: "scale_shift"` no normalisation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub attn_norm_num_groups: Option<usize>,
    /// Epsilon of each normalisation.
    #[serde(default = "epsilon")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub norm_eps: f64,
    /// How the time enters a residual block.
    #[serde(default)]
    pub resnet_time_scale_shift: UNetTimeShift,
    /// Window of the first convolution, an odd number.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = MAX_WINDOW))]
    pub conv_in_kernel: usize,
    /// Window of the last convolution, an odd number.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = MAX_WINDOW))]
    pub conv_out_kernel: usize,
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

fn one() -> f64 {
    1.0
}

fn padded() -> usize {
    1
}

fn two() -> PerLevel<usize> {
    PerLevel::All(2)
}

fn three() -> usize {
    3
}

fn yes() -> bool {
    true
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the default of a field of that type"
)]
fn eight() -> Option<PerLevel<usize>> {
    Some(PerLevel::All(8))
}

fn thirty_two() -> usize {
    32
}

fn epsilon() -> f64 {
    1e-5
}

/// The most blocks of one way: levels times residual blocks times transformer blocks.
const MAX_BLOCKS: usize = 1 << 12;

/// The largest window of the first and of the last convolution.
const MAX_WINDOW: usize = 63;

/// What follows the residual blocks of a level, or stands between those at the bottom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attends {
    Nothing,
    Pixels,
    Tokens,
}

impl UNetConfig {
    pub(crate) fn check(&self) -> Faults {
        let mut faults = Faults::default();
        let (levels, groups) = (self.levels(), self.norm_num_groups);
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
        let ways = [
            ("/down_block_types", Some(self.down_block_types.len())),
            (
                "/up_block_types",
                self.up_block_types.as_ref().map(Vec::len),
            ),
        ];
        for (pointer, types) in ways {
            if let Some(types) = types.filter(|types| *types != levels) {
                let expected = format!("{levels}, one for each of `block_out_channels`");
                faults.add(pointer, format_args!("{types} types"), expected);
            }
        }
        self.check_depth(&mut faults);
        self.check_time(&mut faults);
        for (pointer, factor) in [
            ("/mid_block_scale_factor", self.mid_block_scale_factor),
            ("/norm_eps", self.norm_eps),
        ] {
            if !(factor > 0.0 && factor.is_finite()) {
                faults.add(pointer, factor, "above 0");
            }
        }
        for (pointer, window) in [
            ("/conv_in_kernel", self.conv_in_kernel),
            ("/conv_out_kernel", self.conv_out_kernel),
        ] {
            if faults.count(pointer, window, MAX_WINDOW) && window % 2 == 0 {
                faults.add(pointer, window, "an odd number");
            }
        }
        if self.downsample_padding > 1 {
            faults.add("/downsample_padding", self.downsample_padding, "0 or 1");
        }
        if faults.image(self.image, 1) && self.extents().iter().flatten().any(|e| *e == 0) {
            let expected = format!("extents of which {levels} levels have at least one pixel");
            faults.add("/image", format_args!("{:?}", self.image), expected);
        }
        // What follows looks at each level's channels, types and numbers.
        let lists = self.down_block_types.len() == levels
            && self
                .up_block_types
                .iter()
                .all(|types| types.len() == levels);
        if lists && levels > 0 {
            self.check_attention(&mut faults);
        }
        if let Some(spatial) = &self.spatial {
            faults.part("/spatial", spatial.check());
        }
        faults.part("/schedule", self.schedule.check());
        faults
    }

    fn check_depth(&self, faults: &mut Faults) {
        let levels = self.levels();
        if !self
            .layers_per_block
            .count(faults, "/layers_per_block", levels, MAX_LAYERS)
        {
            return;
        }
        let transformers = self.tokens.as_ref().map(|tokens| &tokens.layers);
        let transformers =
            transformers.filter(|layers| layers.check(&mut Faults::default(), "", levels));
        // Each level has as many transformers as residual blocks, of so many blocks themselves.
        let all = (0..levels)
            .map(|level| {
                let each = transformers.map_or(1, |layers| layers.at(level));
                self.layers_per_block.at(level).saturating_mul(each)
            })
            .fold(0, usize::saturating_add);
        if all > MAX_BLOCKS {
            let found = format!("{}, {all} blocks in all levels", self.layers_per_block);
            faults.add(
                "/layers_per_block",
                found,
                format_args!("at most {MAX_BLOCKS} in all"),
            );
        }
    }

    fn check_time(&self, faults: &mut Faults) {
        let half = self.block_out_channels.first().map_or(0, |first| first / 2);
        let shift = self.freq_shift;
        if !(shift >= 0.0 && (half == 0 || shift < half as f64)) {
            let expected = format!("0 or more, and less than {half}, the number of frequencies");
            faults.add("/freq_shift", shift, expected);
        }
        if let Some(width) = self.time_embedding_dim {
            faults.count("/time_embedding_dim", width, MAX_EXTENT);
        }
        if let Some(classes) = self.num_class_embeds {
            faults.count("/num_class_embeds", classes, MAX_EXTENT);
            if self.class_embed_type.is_some() {
                let expected = "absent, since `class_embed_type` says that there is no table";
                faults.add("/num_class_embeds", classes, expected);
            }
        }
    }

    fn check_attention(&self, faults: &mut Faults) {
        let levels = self.levels();
        match &self.tokens {
            Some(_) if !self.crosses() => {
                let expected = "at least one `CrossAttnDownBlock2D`, since there are `tokens`";
                faults.add("/down_block_types", "none with cross-attention", expected);
            }
            Some(tokens) => {
                let crossed = self.attended(Attends::Tokens);
                faults.part("/tokens", tokens.check(levels, &crossed));
            }
            None if self.crosses() => {
                let expected = "what levels with cross-attention attend to";
                faults.add("/tokens", "nothing", expected);
            }
            None => {}
        }
        let own = self.attended(Attends::Pixels);
        if let Some(heads) = &self.attention_head_dim
            && heads.check(faults, "/attention_head_dim", levels)
        {
            let fits = |&(level, channels): &(usize, usize)| {
                let head: usize = heads.at(level);
                head > 0 && channels.is_multiple_of(head)
            };
            if !own.iter().all(fits) {
                let channels: Vec<usize> = own.iter().map(|(_, channels)| *channels).collect();
                let expected = format!(
                    "a divisor of the channels with attention, {}",
                    list(&channels)
                );
                faults.add("/attention_head_dim", heads, expected);
            }
        }
        if let Some(groups) = self.attn_norm_num_groups
            && faults.count("/attn_norm_num_groups", groups, MAX_EXTENT)
            && self.middle() == Attends::Pixels
        {
            let channels = self.block_out_channels[levels - 1];
            if !channels.is_multiple_of(groups) {
                let expected = format!("a divisor of {channels}, the channels at the bottom");
                faults.add("/attn_norm_num_groups", groups, expected);
            }
        }
    }

    /// Whether there is a number of residual blocks for each level.
    pub(crate) fn layers_known(&self) -> bool {
        let levels = self.levels();
        self.layers_per_block
            .check(&mut Faults::default(), "", levels)
    }

    pub(crate) fn levels(&self) -> usize {
        self.block_out_channels.len()
    }

    /// Height and width of each level.
    fn extents(&self) -> Vec<[usize; 2]> {
        let mut extents = vec![[self.image[1], self.image[2]]];
        for level in 1..self.levels() {
            // The average of 2×2 pixels leaves out what is over.
            let averaged = level <= self.down_block_types.len() && self.down_residual(level - 1);
            let one_sided = averaged || self.downsample_padding == 0;
            extents.push(extents[level - 1].map(|extent| Halving::left(extent, one_sided)));
        }
        extents
    }

    /// Whether a residual block halves the extents after a level.
    pub(crate) fn down_residual(&self, level: usize) -> bool {
        match self.down_block_types[level] {
            UNetBlock::ResnetDownsampleBlock2D => true,
            UNetBlock::AttnDownBlock2D => self.downsample_type == UNetResample::Resnet,
            UNetBlock::DownBlock2D | UNetBlock::CrossAttnDownBlock2D => false,
        }
    }

    /// Whether a residual block doubles the extents after a level.
    pub(crate) fn up_residual(&self, level: usize) -> bool {
        let by_attention = self.upsample_type == UNetResample::Resnet;
        match &self.up_block_types {
            None => match self.down_block_types[level] {
                UNetBlock::ResnetDownsampleBlock2D => true,
                UNetBlock::AttnDownBlock2D => by_attention,
                UNetBlock::DownBlock2D | UNetBlock::CrossAttnDownBlock2D => false,
            },
            Some(types) => match types[types.len() - 1 - level] {
                UNetUpBlock::ResnetUpsampleBlock2D => true,
                UNetUpBlock::AttnUpBlock2D => by_attention,
                UNetUpBlock::UpBlock2D | UNetUpBlock::CrossAttnUpBlock2D => false,
            },
        }
    }

    /// What follows the residual blocks of a level on the way down.
    pub(crate) fn down(&self, level: usize) -> Attends {
        match self.down_block_types[level] {
            UNetBlock::DownBlock2D | UNetBlock::ResnetDownsampleBlock2D => Attends::Nothing,
            UNetBlock::AttnDownBlock2D => Attends::Pixels,
            UNetBlock::CrossAttnDownBlock2D => Attends::Tokens,
        }
    }

    /// What follows the residual blocks of a level on the way up.
    pub(crate) fn up(&self, level: usize) -> Attends {
        match &self.up_block_types {
            None => self.down(level),
            Some(types) => match types[types.len() - 1 - level] {
                UNetUpBlock::UpBlock2D | UNetUpBlock::ResnetUpsampleBlock2D => Attends::Nothing,
                UNetUpBlock::AttnUpBlock2D => Attends::Pixels,
                UNetUpBlock::CrossAttnUpBlock2D => Attends::Tokens,
            },
        }
    }

    /// What is at the bottom.
    pub(crate) fn mid_block(&self) -> UNetMidBlock {
        let attends = self.levels_cross() && self.add_attention;
        self.mid_block_type.unwrap_or(match attends {
            true => UNetMidBlock::UNetMidBlock2DCrossAttn,
            false => UNetMidBlock::UNetMidBlock2D,
        })
    }

    /// What stands between the residual blocks at the bottom.
    pub(crate) fn middle(&self) -> Attends {
        match self.mid_block() {
            UNetMidBlock::UNetMidBlock2DCrossAttn => Attends::Tokens,
            UNetMidBlock::UNetMidBlock2D if self.add_attention => Attends::Pixels,
            _ => Attends::Nothing,
        }
    }

    fn levels_cross(&self) -> bool {
        (0..self.levels())
            .any(|level| self.down(level) == Attends::Tokens || self.up(level) == Attends::Tokens)
    }

    /// Whether anything attends to tokens.
    fn crosses(&self) -> bool {
        self.levels_cross() || self.middle() == Attends::Tokens
    }

    /// Places and channels of the levels that attend so, the bottom included.
    fn attended(&self, kind: Attends) -> Vec<(usize, usize)> {
        let last = self.levels() - 1;
        (0..=last)
            .filter(|&level| {
                let bottom = level == last && self.middle() == kind;
                bottom || self.down(level) == kind || self.up(level) == kind
            })
            .map(|level| (level, self.block_out_channels[level]))
            .collect()
    }

    /// Width of the time embedding.
    pub(crate) fn time_width(&self) -> usize {
        self.time_embedding_dim
            .unwrap_or(4 * self.block_out_channels[0])
    }

    pub(crate) fn output_channels(&self) -> usize {
        match self.learn_sigma {
            true => 2 * self.image[0],
            false => self.image[0],
        }
    }

    pub(crate) fn norm(&self) -> (usize, f64) {
        (self.norm_num_groups, self.norm_eps)
    }

    /// Groups and epsilon of the normalisation before self-attention at the bottom.
    pub(crate) fn middle_norm(&self) -> Option<(usize, f64)> {
        let shared = match self.resnet_time_scale_shift {
            UNetTimeShift::Default => Some(self.norm_num_groups),
            UNetTimeShift::ScaleShift => None,
        };
        let groups = self.attn_norm_num_groups.or(shared)?;
        Some((groups, self.norm_eps))
    }

    /// Channels of a head of self-attention at a level.
    pub(crate) fn head(&self, level: usize) -> usize {
        let heads = self.attention_head_dim.as_ref();
        heads.map_or(self.block_out_channels[level], |heads| heads.at(level))
    }
}

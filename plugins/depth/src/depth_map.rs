//! The mapper of denoisers that are conditioned on a depth map.

use dtta_sdk::functional::area_resize;
use dtta_sdk::prelude::*;

use crate::range::Range;

/// Configuration of the depth map.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DepthMapConfig {
    /// The range of depth that the denoiser was trained with.
    pub range: Range,
    /// The denoiser's slot to fill, `[B, 1, h, w]`, or `[B, 3, h, w]` for one whose condition is an image: then all three channels are the same.
    #[serde(default = "slot")]
    pub slot: String,
    /// What numbers the denoiser was trained with.
    #[serde(default)]
    pub values: MapValues,
}

/// What numbers a denoiser takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MapValues {
    /// 2y - 1, from -1 to 1.
    #[default]
    Signed,
    /// y, from 0 to 1, as a ControlNet's image.
    Unit,
    /// Each image's y spread over 0 to 1 by itself, (y - least) / (most - least) over its valid pixels, as ControlNets for depth were trained.
    /// An image whose pixels are all the same is 0 everywhere.
    Stretched,
}

fn slot() -> String {
    "spatial".into()
}

/// 2y - 1, or y, or y stretched, with y in 0 to 1 the normalised `depth` `[B, H, W]`, averaged over the area of each cell of the slot
/// (Diffusion-TTA, section 3.2).
///
/// Pixels whose depth is 0 or less or not finite take no part in the average and get no gradient; a cell without any
/// other is 0.
pub struct DepthMap {
    config: DepthMapConfig,
    channels: u32,
    height: u32,
    width: u32,
}

impl Mapper for DepthMap {
    type Config = DepthMapConfig;

    fn create(config: DepthMapConfig, slots: &Slots) -> Result<Self> {
        config.range.check()?;
        let [channels, height, width] = slots.spatial(&config.slot)?;
        if ![1, 3].contains(&channels) {
            return Err(Error::config(format!(
                "`slot` names `{}` of {channels} channels, expected a depth map [B, 1, h, w] or an image [B, 3, h, w]",
                config.slot
            )));
        }
        Ok(Self {
            config,
            channels,
            height,
            width,
        })
    }

    fn condition(&self, outputs: &Named, _session: &Session) -> Result<Named> {
        let depth = outputs.get("depth")?;
        let shape = depth.shape()?;
        if shape.len() != 3 {
            return Err(Error::shape("depth", &shape, "[B, H, W]"));
        }
        let valid = is_valid(depth)?;
        // Chosen before any logarithm and after the last, so that nothing of an invalid pixel reaches value or gradient.
        let range = &self.config.range;
        let held = filled(depth, &valid, range.maximum)?;
        let mut map = range.normalize(&held)?;
        match self.config.values {
            MapValues::Signed => map = map.affine(2.0, -1.0)?,
            MapValues::Unit => {}
            MapValues::Stretched => map = stretched(&map, &valid)?,
        }
        let map = filled(&map, &valid, 0.0)?;
        let mean = |x: &Tensor| area_resize(&x.unsqueeze(1)?, self.height, self.width);
        // Where no pixel counts, 0 is divided by something that is not.
        let share = mean(&valid.cast(Kind::Float)?)?.clamp(Some(1e-9), None)?;
        let map = mean(&map)?.div(&share)?;
        let map = map.expand(&[shape[0], self.channels, self.height, self.width])?;
        Ok(Named::one(&*self.config.slot, map))
    }
}

/// Numbers from 0 to 1 `[B, H, W]`, with the least and the most of an image's valid pixels brought to 0 and 1.
fn stretched(map: &Tensor, valid: &Tensor) -> Result<Tensor> {
    // What is invalid is neither the least nor the most.
    let least = filled(map, valid, 1.0)?.amin(&[1, 2], true)?;
    let most = filled(map, valid, 0.0)?.amax(&[1, 2], true)?;
    let span = most.sub(&least)?.clamp(Some(1e-6), None)?;
    map.sub(&least)?.div(&span)
}

/// Where depth is above 0 and finite.
pub(crate) fn is_valid(depth: &Tensor) -> Result<Tensor> {
    let is_infinite = depth.greater_scalar(f32::MAX.into())?;
    depth
        .greater_scalar(0.0)?
        .logical_and(&is_infinite.logical_not()?)
}

/// `x` where it is valid, `value` elsewhere.
pub(crate) fn filled(x: &Tensor, valid: &Tensor, value: f64) -> Result<Tensor> {
    x.choose(valid, &Tensor::full(&[1], value)?)
}

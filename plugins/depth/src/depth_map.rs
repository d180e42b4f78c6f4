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
    /// The denoiser's slot to fill, `[B, 1, h, w]`.
    #[serde(default = "slot")]
    pub slot: String,
}

fn slot() -> String {
    "spatial".into()
}

/// 2y - 1, with y in 0 to 1 the normalised `depth` `[B, H, W]`, averaged over the area of each cell of the slot
/// (Diffusion-TTA, section 3.2).
///
/// Pixels whose depth is 0 or less or not finite take no part in the average and get no gradient; a cell without any
/// other is 0.
pub struct DepthMap {
    config: DepthMapConfig,
    height: u32,
    width: u32,
}

impl Mapper for DepthMap {
    type Config = DepthMapConfig;

    fn create(config: DepthMapConfig, slots: &Slots) -> Result<Self> {
        config.range.check()?;
        let [channels, height, width] = slots.spatial(&config.slot)?;
        if channels != 1 {
            return Err(Error::config(format!(
                "`slot` names `{}` of {channels} channels, expected a depth map [B, 1, h, w]",
                config.slot
            )));
        }
        Ok(Self {
            config,
            height,
            width,
        })
    }

    fn condition(&self, outputs: &Named, _session: &Session) -> Result<Named> {
        let depth = outputs.get("depth")?;
        let shape = depth.shape()?;
        if shape.len() != 3 {
            let message = format!("`depth` has shape {shape:?}, expected [B, H, W]");
            return Err(Error::new("shape-mismatch", message));
        }
        let valid = is_valid(depth)?;
        // Chosen before any logarithm and after the last, so that nothing of an invalid pixel reaches value or gradient.
        let range = &self.config.range;
        let held = depth.choose(&valid, &Tensor::full(&[1, 1, 1], range.maximum)?)?;
        let map = range.normalize(&held)?.affine(2.0, -1.0)?;
        let map = map.choose(&valid, &Tensor::full(&[1, 1, 1], 0.0)?)?;
        let mean = |x: &Tensor| area_resize(&x.unsqueeze(1)?, self.height, self.width);
        // Where no pixel counts, 0 is divided by something that is not.
        let share = mean(&valid.cast(Kind::Float)?)?.clamp(Some(1e-9), None)?;
        let map = mean(&map)?.div(&share)?;
        Ok(Named::one(&*self.config.slot, map))
    }
}

/// Where depth is above 0 and finite.
pub(crate) fn is_valid(depth: &Tensor) -> Result<Tensor> {
    let is_infinite = depth.greater_scalar(f32::MAX.into())?;
    depth
        .greater_scalar(0.0)?
        .logical_and(&is_infinite.logical_not()?)
}

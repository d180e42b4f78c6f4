//! The mapper of denoisers that are told a normal for each pixel.

use dtta_sdk::functional::area_resize;
use dtta_sdk::prelude::*;

use crate::vectors::expect_vectors;

/// Configuration of the map.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NormalsMapConfig {
    /// The denoiser's slot to fill, `[B, 3, h, w]`.
    #[serde(default = "slot")]
    pub slot: String,
}

fn slot() -> String {
    "spatial".into()
}

/// `normals` `[B, 3, H, W]`, averaged over the area of each cell of the slot, as training averages them.
pub struct NormalsMap {
    slot: String,
    height: u32,
    width: u32,
}

impl Mapper for NormalsMap {
    type Config = NormalsMapConfig;

    fn create(config: NormalsMapConfig, slots: &Slots) -> Result<Self> {
        let [channels, height, width] = slots.spatial(&config.slot)?;
        if channels != 3 {
            return Err(Error::config(format!(
                "`slot` names `{}` of {channels} channels, expected a map of normals [B, 3, h, w]",
                config.slot
            )));
        }
        Ok(Self {
            slot: config.slot,
            height,
            width,
        })
    }

    fn condition(&self, outputs: &Named, _session: &Session) -> Result<Named> {
        let normals = outputs.get("normals")?;
        expect_vectors("normals", normals)?;
        let map = area_resize(normals, self.height, self.width)?;
        Ok(Named::one(&*self.slot, map))
    }
}

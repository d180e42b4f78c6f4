//! The colours of classes mixed by their probabilities, pixel by pixel, for denoisers whose condition is an image of a segmentation, such as
//! a ControlNet's.

mod ade20k;

use dtta_sdk::functional::area_resize;
use dtta_sdk::prelude::*;

dtta_sdk::export_plugin! { mapper: PaletteMix }

/// The colours of classes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Palette {
    /// A palette by its name.
    Named(NamedPalette),
    /// Red, green and blue of each class, from 0 to 255.
    Colours(#[schemars(length(min = 1))] Vec<[u8; 3]>),
}

/// A palette that has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NamedPalette {
    /// The 150 classes of ADE20K, in the colours of the MIT Scene Parsing Benchmark.
    Ade20k,
}

/// Configuration of the mixture.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PaletteMixConfig {
    /// The colours of the classes: those in which the denoiser's conditions were drawn.
    pub palette: Palette,
    /// The denoiser's slot to fill, `[B, 3, h, w]` of numbers from 0 to 1.
    #[serde(default = "slot")]
    pub slot: String,
}

fn slot() -> String {
    "spatial".into()
}

/// c_u = Σ_k p_k(u) colour_k / 255 for each pixel u, with p the segmenter's `probabilities` `[B, K, H, W]` (Diffusion-TTA, section 3.2,
/// with the colours of a palette in the place of learned embeddings).
///
/// Probabilities are averaged over the area of each cell of the slot before they are mixed: the mixture is linear, so that is the average
/// of the mixtures, for less. A slot that is larger than the probabilities repeats them.
pub struct PaletteMix {
    slot: String,
    /// `[3, K]`, row by row, from 0 to 1.
    colours: Vec<f32>,
    classes: u32,
    height: u32,
    width: u32,
}

impl Mapper for PaletteMix {
    type Config = PaletteMixConfig;

    fn create(config: PaletteMixConfig, slots: &Slots) -> Result<Self> {
        let [channels, height, width] = slots.spatial(&config.slot)?;
        if channels != 3 {
            return Err(Error::config(format!(
                "`slot` names `{}` of {channels} channels, expected an image [B, 3, h, w]",
                config.slot
            )));
        }
        let palette: &[[u8; 3]] = match &config.palette {
            Palette::Named(NamedPalette::Ade20k) => &ade20k::ADE20K,
            Palette::Colours(colours) => colours,
        };
        if palette.is_empty() {
            return Err(Error::config("`palette` has no colour"));
        }
        let of_channel =
            |channel: usize| palette.iter().map(move |c| f32::from(c[channel]) / 255.0);
        Ok(Self {
            slot: config.slot,
            colours: (0..3).flat_map(of_channel).collect(),
            classes: palette.len() as u32,
            height,
            width,
        })
    }

    fn condition(&self, outputs: &Named, _session: &Session) -> Result<Named> {
        let probabilities = outputs.get("probabilities")?;
        let shape = probabilities.shape()?;
        let classes = self.classes;
        if shape.len() != 4 || shape[1] != classes {
            let message = format!(
                "`probabilities` has shape {shape:?}, expected [B, {classes}, H, W] for the {classes} colours of `palette`"
            );
            return Err(Error::new("shape-mismatch", message));
        }
        let cells = area_resize(probabilities, self.height, self.width)?;
        let colours = Tensor::from_floats(&self.colours, &[1, 3, classes])?;
        let pixels = i64::from(self.height) * i64::from(self.width);
        let mixed = colours.matmul(&cells.reshape(&[-1, classes.into(), pixels])?)?;
        let image = mixed.reshape(&[-1, 3, self.height.into(), self.width.into()])?;
        Ok(Named::one(&*self.slot, image))
    }
}

#[cfg(test)]
mod tests {
    use dtta_testkit::{Kit, Role};
    use serde_json::json;

    #[test]
    fn conforms() {
        let palette = json!([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]]);
        Kit::linked("palette-mix", super::plugin_entry)
            .config(Role::Mapper, json!({ "palette": palette }))
            .check()
            .expect_passed();
    }
}

//! Diffusion transformer (Peebles and Xie 2023) with the structure and parameter names of the reference implementation
//! (facebookresearch/DiT, `models.py`), so that its checkpoints fit once they are safetensors. The class enters through a slot, as a
//! vector, instead of a label: that is where feedback flows back to the task model.

use std::sync::Arc;

use dtta_base::Issue;
use dtta_tensor::{Device, Named, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::denoiser::{
    CLASS_EMBEDDING, ClassCondition, Denoiser, Slot, expect_images, expect_slots, network_times,
    no_classes,
};
use crate::error::Result;
use crate::fault::{Faults, MAX_EXTENT, MAX_LAYERS};
use crate::label_table::LabelTable;
use crate::layers::{Activation, Linear, TimeCode};
use crate::patches::{Grid, MAX_TABLE, PatchEmbedding};
use crate::schedule::{NoiseSchedule, ScheduleConfig};
use crate::spatial::{SpatialConfig, SpatialSlot};
use crate::table::Architecture;
use crate::weights::{Declaration, Group, Init, ParameterId, ParameterSpec, Weights};

/// Extent of the sinusoidal timestep code.
const FREQUENCIES: usize = 256;
/// The most elements of the table of positions, which is computed while the structure is made. Attention over as many patches is beyond
/// Epsilon of the normalisation layers.
const EPSILON: f64 = 1e-6;

/// The positional embedding of the patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// A fixed sine and cosine table, as in the reference.
    #[default]
    Sincos,
    /// A table that starts so and is trained.
    Learned,
}

/// A diffusion transformer: a denoiser. The `config.json` of diffusers' `DiTTransformer2DModel` is read directly. DiT-XL/2 is `image: [4, 32, 32], patch_size: 2, hidden_size: 1152, depth: 28, num_heads: 16,
/// num_classes: 1000, learn_sigma: true`, the rest as by default; SiT and REPA differ in `schedule`, which is a `flow`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DitConfig {
    /// Channels, height and width of what it denoises: pixels or latents.
    #[schemars(inner(range(min = 1, max = MAX_EXTENT)))]
    pub image: [usize; 3],
    /// Height and width of a patch; divides those of the image.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub patch_size: usize,
    /// Width of the token vectors; a multiple of 4 and of `num_heads`.
    #[schemars(range(min = 4, max = MAX_EXTENT))]
    pub hidden_size: usize,
    /// Number of blocks.
    #[schemars(range(max = MAX_LAYERS))]
    pub depth: usize,
    /// Attention heads of each block.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub num_heads: usize,
    /// Width of the feed-forward layers, in token widths.
    #[serde(default = "four")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub mlp_ratio: f64,
    /// Number of classes of whole images; 0, with `spatial`, for a transformer that is told about pixels instead.
    #[serde(default)]
    #[schemars(range(max = MAX_EXTENT))]
    pub num_classes: usize,
    /// How often training leaves the class out; above 0 the label table has a last row for "no class".
    #[serde(default = "tenth")]
    #[schemars(range(min = 0, max = 1))]
    pub class_dropout_prob: f64,
    /// Whether the output has a second half for the variance. It is not used here, but checkpoints may have it.
    #[serde(default)]
    pub learn_sigma: bool,
    /// The positional embedding of the patches.
    #[serde(default)]
    pub positions: Positions,
    /// How many of the 128 frequencies of the time code fewer than there are it takes to fall to 1/10000: 0 in the reference, 1 in
    /// diffusers.
    #[serde(default)]
    #[schemars(range(min = 0, max = 127))]
    pub freq_shift: f64,
    /// Epsilon of the normalisation before the feed-forward layers; that of the others is 1e-6.
    #[serde(default = "epsilon")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub norm_eps: f64,
    /// The activation of the feed-forward layers.
    #[serde(default = "gelu_tanh")]
    pub activation_fn: Activation,
    /// The map that comes beside the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spatial: Option<SpatialConfig>,
    /// The noise schedule that it is trained with.
    #[serde(default)]
    pub schedule: ScheduleConfig,
}

fn gelu_tanh() -> Activation {
    Activation::GeluTanh
}

fn four() -> f64 {
    4.0
}

fn tenth() -> f64 {
    0.1
}

fn epsilon() -> f64 {
    EPSILON
}

impl DitConfig {
    fn grid(&self) -> Grid {
        Grid::of(self.image, self.patch_size)
    }

    /// Channels of what it is shown: the image and the map beside it.
    fn input_channels(&self) -> usize {
        self.image[0] + self.spatial.map_or(0, |spatial| spatial.channels)
    }

    fn patch_elements(&self) -> usize {
        self.input_channels() * self.patch_size * self.patch_size
    }

    fn output_channels(&self) -> usize {
        if self.learn_sigma {
            2 * self.image[0]
        } else {
            self.image[0]
        }
    }

    fn check(&self) -> Faults {
        let mut faults = Faults::default();
        let (hidden, heads) = (self.hidden_size, self.num_heads);
        let patched = faults.count("/patch_size", self.patch_size, MAX_EXTENT)
            && faults.image(self.image, self.patch_size);
        faults.count("/num_heads", heads, MAX_EXTENT);
        let whole = hidden.is_multiple_of(4) && (heads == 0 || hidden.is_multiple_of(heads));
        if hidden == 0 || hidden > MAX_EXTENT || !whole {
            let expected = format!(
                "a multiple of 4 and of the number of heads, {heads}, from 4 to {MAX_EXTENT}"
            );
            faults.add("/hidden_size", hidden, expected);
        } else {
            let (width, ratio) = (hidden as f64, self.mlp_ratio);
            let [least, most] = [1.0 / width, (16 * MAX_EXTENT) as f64 / width];
            if !(ratio * width >= 1.0 && ratio <= most) {
                faults.add("/mlp_ratio", ratio, format_args!("{least} to {most}"));
            }
            if patched && self.grid().tokens() * hidden > MAX_TABLE {
                let (tokens, most) = (self.grid().tokens(), MAX_TABLE / hidden);
                let found = format!("{}, of {tokens} patches", self.patch_size);
                let expected = format!("a size that gives at most {most} of this width");
                faults.add("/patch_size", found, expected);
            }
        }
        if self.depth > MAX_LAYERS {
            faults.add("/depth", self.depth, format_args!("0 to {MAX_LAYERS}"));
        }
        if (self.num_classes == 0) != self.spatial.is_some() {
            let expected = match self.spatial {
                Some(_) => "0, since `spatial` is given: one condition, of images or of pixels",
                None => "1 or more, or a `spatial` map",
            };
            faults.add("/num_classes", self.num_classes, expected);
        } else if self.num_classes > 0 {
            faults.count("/num_classes", self.num_classes, MAX_EXTENT);
        }
        faults.probability("/class_dropout_prob", self.class_dropout_prob);
        if !(0.0..=127.0).contains(&self.freq_shift) {
            faults.add("/freq_shift", self.freq_shift, "a number from 0 to 127");
        }
        if !(self.norm_eps > 0.0 && self.norm_eps.is_finite()) {
            faults.add("/norm_eps", self.norm_eps, "above 0");
        }
        if let Some(spatial) = &self.spatial {
            faults.part("/spatial", spatial.check());
        }
        faults.part("/schedule", self.schedule.check());
        faults
    }
}

impl Architecture for DitConfig {
    type Model = dyn Denoiser;
    const KIND: &'static str = "dit";

    fn contradictions(&self) -> Vec<Issue> {
        self.check().issues()
    }

    fn build(self) -> Result<Box<dyn Denoiser>> {
        Ok(Box::new(Dit::new(self)?))
    }
}

/// A diffusion transformer's structure.
pub struct Dit {
    config: DitConfig,
    schedule: NoiseSchedule,
    slots: Vec<Slot>,
    specs: Arc<[ParameterSpec]>,
    patches: PatchEmbedding,
    positions: ParameterId,
    timestep: [Linear; 2],
    labels: Option<LabelTable>,
    spatial: Option<SpatialSlot>,
    blocks: Vec<Block>,
    last: FinalLayer,
}

struct Block {
    qkv: Linear,
    out: Linear,
    feed: [Linear; 2],
    activation: Activation,
    feed_epsilon: f64,
    modulation: Linear,
}

struct FinalLayer {
    linear: Linear,
    modulation: Linear,
}

impl Dit {
    /// The structure that `config` describes. Allocates no parameter.
    ///
    /// # Errors
    /// [`ModelError::Config`](crate::ModelError::Config) with every contradiction.
    pub fn new(config: DitConfig) -> Result<Self> {
        config.check().finish()?;
        let schedule = NoiseSchedule::new(&config.schedule)?;
        let hidden = config.hidden_size;
        let (grid, patch) = (config.grid(), config.patch_size);
        let mut d = Declaration::new();
        let table: Arc<[f32]> = grid.positions(hidden).into();
        let (group, init) = match config.positions {
            Positions::Sincos => (Group::Buffer, Init::Fixed(table)),
            Positions::Learned => (Group::Embedding, Init::Fixed(table)),
        };
        let positions = d.declare("pos_embed", &[1, grid.tokens(), hidden], group, init);
        // The reference draws the window as a matrix of [hidden, patch elements].
        let fans = config.patch_elements() + hidden;
        let init = Init::Uniform((6.0 / fans as f64).sqrt());
        let widths = [config.input_channels(), hidden];
        let patches = PatchEmbedding::declare(&mut d, "x_embedder.proj", grid, widths, init);
        let timestep = d.within("t_embedder", |d| {
            let init = || Init::Normal(0.02);
            [
                Linear::declare(d, "mlp.0", FREQUENCIES, hidden, init()),
                Linear::declare(d, "mlp.2", hidden, hidden, init()),
            ]
        });
        let labels = (config.num_classes > 0).then(|| {
            LabelTable::declare(
                &mut d,
                "y_embedder.embedding_table.weight",
                (config.num_classes, hidden),
                config.class_dropout_prob,
                Init::Normal(0.02),
            )
        });
        let spatial = config
            .spatial
            .map(|spatial| SpatialSlot::declare(&mut d, &spatial));
        let blocks = (0..config.depth)
            .map(|n| d.within(format_args!("blocks.{n}"), |d| Block::declare(d, &config)))
            .collect();
        let last = d.within("final_layer", |d| FinalLayer {
            linear: Linear::declare(
                d,
                "linear",
                hidden,
                patch * patch * config.output_channels(),
                Init::Zeros,
            ),
            modulation: Linear::declare(d, "adaLN_modulation.1", hidden, 2 * hidden, Init::Zeros),
        });
        let slot = match &config.spatial {
            Some(spatial) => SpatialSlot::publish(spatial, config.image),
            None => Slot {
                name: CLASS_EMBEDDING.into(),
                shape: vec![hidden],
                meaning:
                    "a row of the label table, or a mixture of rows; added to the timestep embedding"
                        .into(),
            },
        };
        Ok(Self {
            config,
            schedule,
            slots: vec![slot],
            specs: d.finish(),
            patches,
            positions,
            timestep,
            labels,
            spatial,
            blocks,
            last,
        })
    }

    /// What the structure was made from.
    pub fn config(&self) -> &DitConfig {
        &self.config
    }

    /// `[B, D]`.
    fn embed_times(&self, weights: &Weights, times: &[f64], device: &Device) -> Result<Tensor> {
        let code = TimeCode {
            width: FREQUENCIES,
            shift: self.config.freq_shift,
            cosines_first: true,
        };
        let [first, second] = &self.timestep;
        let inner = first.forward(weights, &code.of(times, device)?)?;
        second.forward(weights, &inner.silu()?)
    }

    /// `[B, C, H, W]` to `[B, T, D]`, with positions.
    fn embed_patches(&self, weights: &Weights, images: &Tensor) -> Result<Tensor> {
        let embedded = self.patches.forward(weights, images)?;
        Ok(embedded.add(weights.get(self.positions))?)
    }
}

impl Denoiser for Dit {
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
        let mut condition = self.embed_times(weights, &times, noisy.device())?;
        if let Some(class) = conditioning.get(CLASS_EMBEDDING) {
            condition = condition.add(class)?;
        }
        let condition = condition.silu()?;
        let mut x = match &self.spatial {
            Some(spatial) => self.embed_patches(weights, &spatial.join(noisy, conditioning)?)?,
            None => self.embed_patches(weights, noisy)?,
        };
        for block in &self.blocks {
            x = block.forward(weights, &x, &condition, self.config.num_heads)?;
        }
        let tokens = self.last.forward(weights, &x, &condition)?;
        self.config.grid().assemble(&tokens, self.config.image[0])
    }

    fn spatial(&self) -> Option<&SpatialConfig> {
        self.config.spatial.as_ref()
    }

    fn class_condition(&self) -> Option<ClassCondition> {
        self.labels.as_ref().map(LabelTable::condition)
    }

    fn embed_classes(&self, weights: &Weights, labels: &Tensor) -> Result<Tensor> {
        let table = self.labels.as_ref();
        table
            .ok_or_else(|| no_classes(&self.slots))?
            .embed(weights, labels)
    }

    fn constants(&self, weights: &Weights) -> Result<Named> {
        match (&self.labels, &self.spatial) {
            (Some(labels), _) => labels.constants(weights),
            (None, Some(spatial)) => Ok(spatial.constants(weights)),
            (None, None) => Ok(Named::new()),
        }
    }

    fn unconditional(&self, weights: &Weights) -> Result<Option<Named>> {
        match (&self.labels, &self.config.spatial) {
            (Some(labels), _) => labels.nothing(weights),
            (None, Some(spatial)) => SpatialSlot::nothing(spatial, self.config.image, weights),
            (None, None) => Ok(None),
        }
    }
}

impl Block {
    fn declare(d: &mut Declaration, config: &DitConfig) -> Self {
        let hidden = config.hidden_size;
        let wide = (hidden as f64 * config.mlp_ratio) as usize;
        let init = || Init::XavierUniform;
        Self {
            qkv: Linear::declare(d, "attn.qkv", hidden, 3 * hidden, init()),
            out: Linear::declare(d, "attn.proj", hidden, hidden, init()),
            feed: [
                Linear::declare(d, "mlp.fc1", hidden, wide, init()),
                Linear::declare(d, "mlp.fc2", wide, hidden, init()),
            ],
            activation: config.activation_fn,
            feed_epsilon: config.norm_eps,
            modulation: Linear::declare(d, "adaLN_modulation.1", hidden, 6 * hidden, Init::Zeros),
        }
    }

    /// adaLN-Zero: both branches are normalised, shifted and scaled by the condition, and gated by it on their way back.
    /// `x` is `[B, T, D]`, `condition` `[B, D]`.
    fn forward(
        &self,
        weights: &Weights,
        x: &Tensor,
        condition: &Tensor,
        heads: usize,
    ) -> Result<Tensor> {
        let [shift, scale, gate, shift_feed, scale_feed, gate_feed] =
            modulation(&self.modulation, weights, condition)?;
        let attended = self.attend(weights, &x.modulate(&shift, &scale, EPSILON)?, heads)?;
        let x = x.gated_add(&attended, &gate)?;
        let [first, second] = &self.feed;
        let normal = x.modulate(&shift_feed, &scale_feed, self.feed_epsilon)?;
        let inner = first.forward(weights, &normal)?;
        let inner = self.activation.of(&inner)?;
        let fed = second.forward(weights, &inner)?;
        Ok(x.gated_add(&fed, &gate_feed)?)
    }

    fn attend(&self, weights: &Weights, x: &Tensor, heads: usize) -> Result<Tensor> {
        let mixed = self.qkv.forward(weights, x)?.self_attention(heads)?;
        self.out.forward(weights, &mixed)
    }
}

impl FinalLayer {
    fn forward(&self, weights: &Weights, x: &Tensor, condition: &Tensor) -> Result<Tensor> {
        let [shift, scale] = modulation(&self.modulation, weights, condition)?;
        self.linear
            .forward(weights, &x.modulate(&shift, &scale, EPSILON)?)
    }
}

/// `N` tensors of `[B, 1, D]` from the activated condition.
fn modulation<const N: usize>(
    layer: &Linear,
    weights: &Weights,
    condition: &Tensor,
) -> Result<[Tensor; N]> {
    let hidden = condition.shape()[1];
    let all = layer.forward(weights, condition)?.unsqueeze(1)?;
    let mut parts = Vec::with_capacity(N);
    for n in 0..N {
        parts.push(all.narrow(2, n * hidden, hidden)?);
    }
    Ok(<[Tensor; N]>::try_from(parts).expect("N parts were pushed"))
}

//! U-ViT (Bao et al. 2023) with the structure and parameter names of the reference implementation (baofff/U-ViT, `libs/uvit.py`): a vision
//! transformer to which time and class are tokens like those of the image, and whose later blocks see what the earlier ones made.

use std::sync::Arc;

use dtta_base::Issue;
use dtta_tensor::{Named, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::denoiser::{
    CLASS_EMBEDDING, ClassCondition, Denoiser, Slot, expect_images, expect_slots, network_times,
    no_classes,
};
use crate::error::Result;
use crate::fault::{Faults, MAX_EXTENT, MAX_LAYERS};
use crate::label_table::LabelTable;
use crate::layers::{BiasedConv, LayerNorm, Linear, LinearProjection, TimeCode};
use crate::patches::{Grid, MAX_TABLE, PatchEmbedding};
use crate::schedule::{NoiseSchedule, ScheduleConfig};
use crate::table::Architecture;
use crate::weights::{Declaration, Group, Init, ParameterId, ParameterSpec, Weights};

/// Epsilon of the normalisation layers.
const EPSILON: f64 = 1e-5;

/// A U-ViT: a denoiser. Field names are those of the reference. U-ViT-L/2 for latents of 256×256 images is `image: [4, 32, 32], patch_size: 2,
/// embed_dim: 1024, depth: 20, num_heads: 16, num_classes: 1000, conv: false, time_offset: 1` and Stable Diffusion's schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UVitConfig {
    /// Channels, height and width of what it denoises: pixels or latents.
    #[schemars(inner(range(min = 1, max = MAX_EXTENT)))]
    pub image: [usize; 3],
    /// Height and width of a patch; divides those of the image.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub patch_size: usize,
    /// Width of the token vectors; a multiple of `num_heads`.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub embed_dim: usize,
    /// Number of blocks beside the middle one: half of them, rounded down, before it and as many after it.
    #[schemars(range(max = MAX_LAYERS))]
    pub depth: usize,
    /// Attention heads of each block.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub num_heads: usize,
    /// Width of the feed-forward layers, in token widths.
    #[serde(default = "four")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub mlp_ratio: f64,
    /// Whether queries, keys and values have biases.
    #[serde(default)]
    pub qkv_bias: bool,
    /// Whether the time's token comes out of two layers.
    #[serde(default)]
    pub mlp_time_embed: bool,
    /// Number of classes of whole images; 0 for none. Unlike the reference's, it does not count the row for "no class".
    #[serde(default)]
    #[schemars(range(max = MAX_EXTENT))]
    pub num_classes: usize,
    /// How often training leaves the class out; above 0 the label table has a last row for "no class".
    #[serde(default = "tenth")]
    #[schemars(range(min = 0, max = 1))]
    pub class_dropout_prob: f64,
    /// Whether a convolution follows the assembled image.
    #[serde(default = "yes")]
    pub conv: bool,
    /// What is added to times before the network sees them: 1 for the reference's models of latents, which count timesteps from 1.
    #[serde(default)]
    pub time_offset: f64,
    /// The noise schedule that it is trained with.
    #[serde(default)]
    pub schedule: ScheduleConfig,
}

fn four() -> f64 {
    4.0
}

fn tenth() -> f64 {
    0.1
}

fn yes() -> bool {
    true
}

impl UVitConfig {
    fn check(&self) -> Faults {
        let mut faults = Faults::default();
        let (width, heads) = (self.embed_dim, self.num_heads);
        let patched = faults.count("/patch_size", self.patch_size, MAX_EXTENT)
            && faults.image(self.image, self.patch_size);
        faults.count("/num_heads", heads, MAX_EXTENT);
        if !(1..=MAX_EXTENT).contains(&width) || (heads > 0 && !width.is_multiple_of(heads)) {
            let expected = format!("a multiple of the number of heads, {heads}, to {MAX_EXTENT}");
            faults.add("/embed_dim", width, expected);
        } else {
            let (width, ratio) = (width as f64, self.mlp_ratio);
            let [least, most] = [1.0 / width, (16 * MAX_EXTENT) as f64 / width];
            if !(ratio * width >= 1.0 && ratio <= most) {
                faults.add("/mlp_ratio", ratio, format_args!("{least} to {most}"));
            }
            if patched && self.grid().tokens() * self.embed_dim > MAX_TABLE {
                let (tokens, most) = (self.grid().tokens(), MAX_TABLE / self.embed_dim);
                let found = format!("{}, of {tokens} patches", self.patch_size);
                let expected = format!("a size that gives at most {most} of this width");
                faults.add("/patch_size", found, expected);
            }
        }
        if self.depth > MAX_LAYERS {
            faults.add("/depth", self.depth, format_args!("0 to {MAX_LAYERS}"));
        }
        if self.num_classes > 0 {
            faults.count("/num_classes", self.num_classes, MAX_EXTENT);
        }
        faults.probability("/class_dropout_prob", self.class_dropout_prob);
        if !self.time_offset.is_finite() {
            faults.add("/time_offset", self.time_offset, "a number");
        }
        faults.part("/schedule", self.schedule.check());
        faults
    }

    fn grid(&self) -> Grid {
        Grid::of(self.image, self.patch_size)
    }

    /// Tokens that are no patches.
    fn extras(&self) -> usize {
        1 + usize::from(self.num_classes > 0)
    }
}

impl Architecture for UVitConfig {
    type Model = dyn Denoiser;
    const KIND: &'static str = "uvit";

    fn contradictions(&self) -> Vec<Issue> {
        self.check().issues()
    }

    fn build(self) -> Result<Box<dyn Denoiser>> {
        Ok(Box::new(UVit::new(self)?))
    }
}

/// A U-ViT's structure.
pub struct UVit {
    config: UVitConfig,
    schedule: NoiseSchedule,
    slots: Vec<Slot>,
    specs: Arc<[ParameterSpec]>,
    patches: PatchEmbedding,
    time: Option<[Linear; 2]>,
    labels: Option<LabelTable>,
    positions: ParameterId,
    before: Vec<Block>,
    middle: Block,
    after: Vec<Block>,
    norm: LayerNorm,
    last: Linear,
    conv: Option<BiasedConv>,
}

struct Block {
    norms: [LayerNorm; 2],
    qkv: QueryKeyValue,
    out: Linear,
    feed: [Linear; 2],
    /// From the tokens and those of the block before the middle that it answers to.
    skip: Option<Linear>,
    heads: usize,
}

enum QueryKeyValue {
    Biased(Linear),
    Plain(LinearProjection),
}

impl UVit {
    /// The structure that `config` describes. Allocates no parameter.
    ///
    /// # Errors
    /// [`ModelError::Config`](crate::ModelError::Config) with every contradiction.
    pub fn new(config: UVitConfig) -> Result<Self> {
        config.check().finish()?;
        let schedule = NoiseSchedule::new(&config.schedule)?;
        let (width, grid) = (config.embed_dim, config.grid());
        let mut d = Declaration::new();
        let fan = config.image[0] * grid.patch * grid.patch;
        let (widths, init) = ([config.image[0], width], Init::UniformFanIn(fan));
        let patches = PatchEmbedding::declare(&mut d, "patch_embed.proj", grid, widths, init);
        let time = config.mlp_time_embed.then(|| {
            d.within("time_embed", |d| {
                [
                    Linear::declare(d, "0", width, 4 * width, small()),
                    Linear::declare(d, "2", 4 * width, width, small()),
                ]
            })
        });
        let labels = (config.num_classes > 0).then(|| {
            LabelTable::declare(
                &mut d,
                "label_emb.weight",
                (config.num_classes, width),
                config.class_dropout_prob,
                Init::Normal(1.0),
            )
        });
        let shape = [1, config.extras() + grid.tokens(), width];
        let positions = d.declare("pos_embed", &shape, Group::Embedding, small());
        let half = config.depth / 2;
        let mut blocks = |name: &str, skip: bool| -> Vec<Block> {
            (0..half)
                .map(|n| {
                    d.within(format_args!("{name}.{n}"), |d| {
                        Block::declare(d, &config, skip)
                    })
                })
                .collect()
        };
        let (before, after) = (blocks("in_blocks", false), blocks("out_blocks", true));
        let middle = d.within("mid_block", |d| Block::declare(d, &config, false));
        let norm = LayerNorm::declare(&mut d, "norm", width, EPSILON);
        let last = Linear::declare(&mut d, "decoder_pred", width, fan, small());
        let channels = config.image[0];
        let conv = config
            .conv
            .then(|| BiasedConv::declare(&mut d, "final_layer", channels, channels, 3, 1));
        let slots = (config.num_classes > 0).then(|| Slot {
            name: CLASS_EMBEDDING.into(),
            shape: vec![width],
            meaning: "a row of the label table, or a mixture of rows; a token of its own".into(),
        });
        Ok(Self {
            specs: d.finish(),
            slots: slots.into_iter().collect(),
            config,
            schedule,
            patches,
            time,
            labels,
            positions,
            before,
            middle,
            after,
            norm,
            last,
            conv,
        })
    }

    /// What the structure was made from.
    pub fn config(&self) -> &UVitConfig {
        &self.config
    }

    /// Tokens of class, time and patches, with positions: `[B, extras + T, D]`.
    fn tokens(
        &self,
        weights: &Weights,
        noisy: &Tensor,
        times: &[f64],
        class: Option<&Tensor>,
    ) -> Result<Tensor> {
        let width = self.config.embed_dim;
        let code = TimeCode {
            width,
            shift: 0.0,
            cosines_first: true,
        };
        let times: Vec<f64> = times
            .iter()
            .map(|time| time + self.config.time_offset)
            .collect();
        let mut time = code.of(&times, noisy.device())?;
        if let Some([first, second]) = &self.time {
            time = second.forward(weights, &first.forward(weights, &time)?.silu()?)?;
        }
        let time = time.unsqueeze(1)?;
        let patches = self.patches.forward(weights, noisy)?;
        let class = class
            .map(|class| class.expand(&[times.len(), width])?.unsqueeze(1))
            .transpose()?;
        let parts: Vec<&Tensor> = class.iter().chain([&time, &patches]).collect();
        Ok(Tensor::cat(&parts, 1)?.add(weights.get(self.positions))?)
    }
}

/// The reference cuts the draws off at two units, where they hardly come.
fn small() -> Init {
    Init::Normal(0.02)
}

impl Denoiser for UVit {
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
        let mut x = self.tokens(weights, noisy, &times, conditioning.get(CLASS_EMBEDDING))?;
        let mut kept = Vec::with_capacity(self.before.len());
        for block in &self.before {
            x = block.forward(weights, &x, None)?;
            kept.push(x.clone());
        }
        x = self.middle.forward(weights, &x, None)?;
        for block in &self.after {
            x = block.forward(weights, &x, kept.pop().as_ref())?;
        }
        let x = self
            .last
            .forward(weights, &self.norm.forward(weights, &x)?)?;
        let grid = self.config.grid();
        let patches = x.narrow(1, self.config.extras(), grid.tokens())?;
        let image = grid.assemble(&patches, self.config.image[0])?;
        match &self.conv {
            Some(conv) => conv.forward(weights, &image),
            None => Ok(image),
        }
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
        let table = self.labels.as_ref();
        table.map_or_else(|| Ok(Named::new()), |table| table.constants(weights))
    }

    fn unconditional(&self, weights: &Weights) -> Result<Option<Named>> {
        let table = self.labels.as_ref();
        table.map_or(Ok(None), |table| table.nothing(weights))
    }
}

impl Block {
    fn declare(d: &mut Declaration, config: &UVitConfig, skip: bool) -> Self {
        let width = config.embed_dim;
        let wide = (width as f64 * config.mlp_ratio) as usize;
        let qkv = "attn.qkv";
        Self {
            norms: ["norm1", "norm2"].map(|name| LayerNorm::declare(d, name, width, EPSILON)),
            qkv: match config.qkv_bias {
                true => QueryKeyValue::Biased(Linear::declare(d, qkv, width, 3 * width, small())),
                false => QueryKeyValue::Plain(LinearProjection::declare(d, qkv, width, 3 * width)),
            },
            out: Linear::declare(d, "attn.proj", width, width, small()),
            feed: [
                Linear::declare(d, "mlp.fc1", width, wide, small()),
                Linear::declare(d, "mlp.fc2", wide, width, small()),
            ],
            skip: skip.then(|| Linear::declare(d, "skip_linear", 2 * width, width, small())),
            heads: config.num_heads,
        }
    }

    fn forward(&self, weights: &Weights, x: &Tensor, kept: Option<&Tensor>) -> Result<Tensor> {
        let joined = match (&self.skip, kept) {
            (Some(layer), Some(kept)) => {
                Some(layer.forward(weights, &Tensor::cat(&[x, kept], 2)?)?)
            }
            _ => None,
        };
        let x = joined.as_ref().unwrap_or(x);
        let [first, second] = &self.norms;
        let normal = first.forward(weights, x)?;
        let qkv = match &self.qkv {
            QueryKeyValue::Biased(layer) => layer.forward(weights, &normal)?,
            QueryKeyValue::Plain(layer) => layer.forward(weights, &normal)?,
        };
        let mixed = qkv.self_attention(self.heads)?;
        let x = self.out.forward(weights, &mixed)?.add(x)?;
        let [widen, narrow] = &self.feed;
        let wide = widen
            .forward(weights, &second.forward(weights, &x)?)?
            .gelu()?;
        Ok(narrow.forward(weights, &wide)?.add(&x)?)
    }
}

//! Dense prediction transformers (Ranftl et al., Vision Transformers for Dense Prediction, ICCV 2021) that predict depth: DPT itself and
//! Depth Anything (Yang et al., CVPR and NeurIPS 2024). Tokens taken from several depths of a vision transformer become maps of several
//! extents, which are fused from the smallest to the largest. Parameter names of the neck are those of transformers'
//! `DPTForDepthEstimation` and `DepthAnythingForDepthEstimation`.

mod encoder;

use std::sync::Arc;

use dtta_base::Issue;
use dtta_tensor::{Named, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::encoder::{DptEncoderConfig, PositionInterpolation, VisionFeed};

use self::encoder::Encoder;
use crate::backbone::{Backbone, BackboneSpec, FEATURES, LOGITS};
use crate::denoiser::expect_images;
use crate::error::Result;
use crate::fault::{Faults, MAX_EXTENT};
use crate::layers::{BiasedConv, Conv, Linear};
use crate::mix_transformer::to_map;
use crate::residual::{Norm, NormLayer, Pass, Passes};
use crate::table::Architecture;
use crate::transformer::INIT;
use crate::weights::{Declaration, Group, Init, ParameterId, ParameterSpec, Weights};

/// Epsilon of BatchNorm in residual units.
const EPSILON: f64 = 1e-5;
/// The most maps, and the largest change of extents.
const MAX_MAPS: usize = 16;

/// What becomes of the class token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DptReadout {
    /// Nothing.
    Ignore,
    /// It is added to every patch.
    Add,
    /// It is put behind every patch, and a linear layer with an activation makes one token of both.
    Project,
}

/// Which extents a fused map is enlarged to, corners aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DptEnlarged {
    /// Twice its own; the next map is brought to these where its own are others (DPT).
    Doubled,
    /// Those of the next map; twice its own after the last (Depth Anything).
    ToNext,
}

/// Which extents the head's first map is enlarged to, corners aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DptHeadExtents {
    /// Twice its own (DPT).
    Doubled,
    /// Those of the image (Depth Anything).
    Image,
}

/// What ends the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DptHeadActivation {
    /// `max(x, 0)`: inverse depth up to a scale and a shift that nobody knows, unless the model was trained on something else.
    Relu,
    /// `1 / (1 + e^-x)`, times the head's `scale`: depth.
    Sigmoid,
}

/// The head of a DPT: three convolutions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DptHeadConfig {
    /// Channels between the second and the third.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub width: usize,
    /// Which extents the first one's map is enlarged to.
    pub extents: DptHeadExtents,
    /// Whether another convolution comes before them.
    #[serde(default)]
    pub projection: bool,
    /// What comes after the third.
    pub activation: DptHeadActivation,
    /// What that is multiplied with: the largest depth, after a sigmoid.
    #[serde(default = "one")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub scale: f64,
}

fn one() -> f64 {
    1.0
}

/// A dense prediction transformer: a backbone that answers with a number for each pixel. What the number is, the training decides: models
/// for relative depth (DPT-Large, Depth Anything) answer with inverse depth up to scale and shift, metric ones with distances; the head says
/// which, with `output` of the plugin `depth`. Where the network's own answer is not as large as the image, it is brought to its extents by
/// bilinear interpolation (transformers' `post_process_depth_estimation` has a bicubic one).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DptConfig {
    /// Channels, height and width of the images.
    #[schemars(inner(range(min = 1, max = MAX_EXTENT)))]
    pub image: [usize; 3],
    /// The vision transformer; it takes tokens as often as there are `neck_widths`.
    pub encoder: DptEncoderConfig,
    /// What becomes of the class token.
    pub readout: DptReadout,
    /// How many times as large as the grid of patches each map is: whole numbers, or 1 divided by one.
    pub factors: Vec<f64>,
    /// Channels of each map.
    #[schemars(length(min = 1, max = MAX_MAPS), inner(range(min = 1, max = MAX_EXTENT)))]
    pub neck_widths: Vec<usize>,
    /// Channels of fused maps.
    #[schemars(range(min = 2, max = MAX_EXTENT))]
    pub fusion_width: usize,
    /// Which extents a fused map is enlarged to.
    pub enlarged: DptEnlarged,
    /// Whether BatchNorm follows the convolutions of residual units.
    #[serde(default)]
    pub batch_norm: bool,
    /// Whether these convolutions have a bias.
    #[serde(default = "yes")]
    pub fusion_bias: bool,
    /// The head.
    pub head: DptHeadConfig,
}

fn yes() -> bool {
    true
}

impl DptConfig {
    fn check(&self) -> Faults {
        let mut faults = Faults::default();
        let patch = self.encoder.patch_size.clamp(1, MAX_EXTENT);
        faults.image(self.image, patch);
        faults.part("/encoder", self.encoder.check());
        let maps = self.neck_widths.len();
        if !(1..=MAX_MAPS).contains(&maps) {
            let expected = format!("1 to {MAX_MAPS} widths");
            faults.add("/neck_widths", format_args!("{maps} widths"), expected);
        }
        for &width in &self.neck_widths {
            faults.count("/neck_widths", width, MAX_EXTENT);
        }
        for (pointer, found) in [
            ("/factors", self.factors.len()),
            ("/encoder/taps", self.encoder.taps.len()),
        ] {
            if found != maps {
                let expected = format!("{maps}, one for each of `neck_widths`");
                faults.add(pointer, found, expected);
            }
        }
        for &factor in &self.factors {
            if Reach::of(factor).is_none() {
                let expected = format!("a whole number up to {MAX_MAPS}, or 1 divided by one");
                faults.add("/factors", factor, expected);
            }
        }
        if faults.count("/fusion_width", self.fusion_width, MAX_EXTENT) && self.fusion_width < 2 {
            faults.add("/fusion_width", self.fusion_width, "2 or more");
        }
        faults.count("/head/width", self.head.width, MAX_EXTENT);
        if !(self.head.scale > 0.0 && self.head.scale.is_finite()) {
            faults.add("/head/scale", self.head.scale, "above 0");
        }
        faults
    }
}

impl Architecture for DptConfig {
    type Model = dyn Backbone;
    const KIND: &'static str = "dpt";

    fn contradictions(&self) -> Vec<Issue> {
        self.check().issues()
    }

    fn build(self) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(Dpt::new(self)?))
    }
}

/// How a map's extents come from the grid's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Grown(usize),
    Same,
    Reduced(usize),
}

impl Reach {
    fn of(factor: f64) -> Option<Self> {
        let whole = |x: f64| {
            let whole = x.fract() == 0.0 && x > 1.0 && x <= MAX_MAPS as f64;
            whole.then_some(x as usize)
        };
        match factor {
            1.0 => Some(Self::Same),
            factor if factor > 1.0 => whole(factor).map(Self::Grown),
            factor if factor > 0.0 => whole(1.0 / factor).map(Self::Reduced),
            _ => None,
        }
    }
}

/// A dense prediction transformer's structure.
pub struct Dpt {
    config: DptConfig,
    specs: Arc<[ParameterSpec]>,
    spec: BackboneSpec,
    encoder: Encoder,
    maps: Vec<Map>,
    /// From the smallest map to the largest.
    fusions: Vec<Fusion>,
    head: Head,
}

/// How tokens become a map of the neck.
struct Map {
    readout: Option<Linear>,
    projection: BiasedConv,
    resize: Resize,
    /// To the channels of fused maps.
    convolution: Conv,
}

enum Resize {
    None,
    Grown(Transposed),
    Reduced(BiasedConv),
}

/// A transposed convolution whose windows do not overlap, hence a matrix product for each pixel.
struct Transposed {
    weight: ParameterId,
    bias: ParameterId,
    factor: usize,
}

struct Fusion {
    /// Of the map that comes in; none in the first, which has one alone.
    joined: Option<Unit>,
    unit: Unit,
    projection: BiasedConv,
}

/// A residual unit whose activations come first.
struct Unit {
    convolutions: [UnitConvolution; 2],
    norms: Option<[NormLayer; 2]>,
}

enum UnitConvolution {
    Biased(BiasedConv),
    Plain(Conv),
}

struct Head {
    projection: Option<BiasedConv>,
    convolutions: [BiasedConv; 3],
}

impl Dpt {
    /// The structure that `config` describes. Allocates no parameter.
    ///
    /// # Errors
    /// [`ModelError::Config`](crate::ModelError::Config) with every contradiction.
    pub fn new(config: DptConfig) -> Result<Self> {
        config.check().finish()?;
        let mut d = Declaration::new();
        let encoder = d.within("encoder", |d| {
            Encoder::declare(d, &config.encoder, config.image[0])
        });
        let (maps, fusions) = d.within("neck", |d| {
            let maps = (0..config.neck_widths.len()).map(|n| Map::declare(d, &config, n));
            let maps = maps.collect();
            let fusions = (0..config.neck_widths.len())
                .map(|n| {
                    d.within(format_args!("fusion_stage.layers.{n}"), |d| {
                        Fusion::declare(d, &config, n > 0)
                    })
                })
                .collect();
            (maps, fusions)
        });
        let head = d.within("head", |d| Head::declare(d, &config));
        Ok(Self {
            specs: d.finish(),
            spec: BackboneSpec {
                image: config.image,
                outputs: 1,
                per_pixel: true,
                batch_statistics: config.batch_norm,
            },
            config,
            encoder,
            maps,
            fusions,
            head,
        })
    }

    /// What the structure was made from.
    pub fn config(&self) -> &DptConfig {
        &self.config
    }
}

impl Passes for Dpt {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.specs
    }

    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn run(&self, pass: &mut Pass<'_>, images: &Tensor) -> Result<Named> {
        expect_images("the batch of images", images, self.config.image)?;
        let tokens = self.encoder.forward(pass.weights, images)?;
        let mut maps = Vec::with_capacity(tokens.len());
        for (tokens, map) in tokens.iter().zip(&self.maps) {
            maps.push(map.forward(pass.weights, tokens, &self.config)?);
        }
        let mut fused: Option<Tensor> = None;
        for (n, fusion) in self.fusions.iter().enumerate() {
            let map = &maps[maps.len() - 1 - n];
            let next = maps.len().checked_sub(2 + n).map(|next| &maps[next]);
            let enlarged = match (self.config.enlarged, next) {
                (DptEnlarged::ToNext, Some(next)) => Some([next.shape()[2], next.shape()[3]]),
                _ => None,
            };
            fused = Some(fusion.forward(pass, map, fused.as_ref(), enlarged)?);
        }
        let features = fused.expect("a configuration has at least one map");
        let depth = self.head.forward(pass.weights, &features, &self.config)?;
        Ok(Named::one(FEATURES, features).with(LOGITS, depth))
    }
}

impl Map {
    fn declare(d: &mut Declaration, config: &DptConfig, n: usize) -> Self {
        let (tokens, width) = (config.encoder.width, config.neck_widths[n]);
        let readout = (config.readout == DptReadout::Project).then(|| {
            let name = format!("reassemble_stage.readout_projects.{n}.0");
            Linear::declare(d, &name, 2 * tokens, tokens, INIT)
        });
        let (projection, resize) = d.within(format_args!("reassemble_stage.layers.{n}"), |d| {
            let projection = BiasedConv::declare(d, "projection", tokens, width, 1, 1);
            let resize = match Reach::of(config.factors[n]) {
                Some(Reach::Grown(factor)) => {
                    Resize::Grown(Transposed::declare(d, "resize", width, factor))
                }
                Some(Reach::Reduced(factor)) => {
                    Resize::Reduced(BiasedConv::declare(d, "resize", width, width, 3, factor))
                }
                _ => Resize::None,
            };
            (projection, resize)
        });
        let name = format!("convs.{n}");
        Self {
            readout,
            projection,
            resize,
            convolution: Conv::declare(d, &name, width, config.fusion_width, 3, 1),
        }
    }

    fn forward(&self, weights: &Weights, tokens: &Tensor, config: &DptConfig) -> Result<Tensor> {
        let count = tokens.shape()[1] - 1;
        let class = tokens.narrow(1, 0, 1)?;
        let patches = tokens.narrow(1, 1, count)?;
        let patches = match (config.readout, &self.readout) {
            (DptReadout::Project, Some(layer)) => {
                let shape = patches.shape();
                let class = class.expand(&[shape[0], shape[1], shape[2]])?;
                let both = Tensor::cat(&[&patches, &class], 2)?;
                config
                    .encoder
                    .activation
                    .of(&layer.forward(weights, &both)?)?
            }
            (DptReadout::Add, _) => patches.add(&class)?,
            _ => patches,
        };
        let map = to_map(&patches, config.encoder.patches(config.image))?;
        let map = self.projection.forward(weights, &map)?;
        let map = match &self.resize {
            Resize::None => map,
            Resize::Grown(transposed) => transposed.forward(weights, &map)?,
            Resize::Reduced(conv) => conv.forward(weights, &map)?,
        };
        self.convolution.forward(weights, &map)
    }
}

impl Transposed {
    fn declare(d: &mut Declaration, name: &str, width: usize, factor: usize) -> Self {
        let init = Init::UniformFanIn(width * factor * factor);
        let shape = [width, width, factor, factor];
        d.within(name, |d| Self {
            weight: d.declare("weight", &shape, Group::Weight, init.clone()),
            bias: d.declare("bias", &[width], Group::Bias, init),
            factor,
        })
    }

    /// `[B, C, H, W]` to `[B, C, H factor, W factor]`.
    fn forward(&self, weights: &Weights, map: &Tensor) -> Result<Tensor> {
        let shape = map.shape();
        let [batch, channels, height, width] = [0, 1, 2, 3].map(|axis| shape[axis] as i64);
        let factor = self.factor as i64;
        let pixels = map.permute(&[0, 2, 3, 1])?.reshape(&[-1, channels])?;
        // [in, out factor factor].
        let weight = weights.get(self.weight).reshape(&[channels, -1])?;
        let windows = pixels
            .matmul(&weight)?
            .reshape(&[batch, height, width, channels, factor, factor])?
            .permute(&[0, 3, 1, 4, 2, 5])?;
        let grown = windows.reshape(&[batch, channels, height * factor, width * factor])?;
        let bias = weights.get(self.bias).reshape(&[1, channels, 1, 1])?;
        Ok(grown.add(&bias)?)
    }
}

impl Fusion {
    fn declare(d: &mut Declaration, config: &DptConfig, joins: bool) -> Self {
        let width = config.fusion_width;
        let projection = BiasedConv::declare(d, "projection", width, width, 1, 1);
        let unit = |d: &mut Declaration, name: &str| d.within(name, |d| Unit::declare(d, config));
        Self {
            joined: joins.then(|| unit(d, "residual_layer1")),
            unit: unit(d, "residual_layer2"),
            projection,
        }
    }

    /// `map` joins what was `fused` before it; the result has the extents `enlarged`, or twice its own.
    fn forward(
        &self,
        pass: &mut Pass<'_>,
        map: &Tensor,
        fused: Option<&Tensor>,
        enlarged: Option<[usize; 2]>,
    ) -> Result<Tensor> {
        let joined = match (fused, &self.joined) {
            (Some(fused), Some(unit)) => {
                let (height, width) = (fused.shape()[2], fused.shape()[3]);
                let map = match [map.shape()[2], map.shape()[3]] == [height, width] {
                    true => map.clone(),
                    false => map.resize_bilinear(height, width, false)?,
                };
                fused.add(&unit.forward(pass, &map)?)?
            }
            _ => map.clone(),
        };
        let x = self.unit.forward(pass, &joined)?;
        let [height, width] = enlarged.unwrap_or([2 * x.shape()[2], 2 * x.shape()[3]]);
        let x = x.resize_bilinear(height, width, true)?;
        self.projection.forward(pass.weights, &x)
    }
}

impl Unit {
    fn declare(d: &mut Declaration, config: &DptConfig) -> Self {
        let width = config.fusion_width;
        let convolutions = ["convolution1", "convolution2"].map(|name| match config.fusion_bias {
            true => UnitConvolution::Biased(BiasedConv::declare(d, name, width, width, 3, 1)),
            false => UnitConvolution::Plain(Conv::declare(d, name, width, width, 3, 1)),
        });
        let norms = config.batch_norm.then(|| {
            ["batch_norm1", "batch_norm2"]
                .map(|name| d.within(name, |d| NormLayer::declare(d, width, Norm::Batch, EPSILON)))
        });
        Self {
            convolutions,
            norms,
        }
    }

    fn forward(&self, pass: &mut Pass<'_>, x: &Tensor) -> Result<Tensor> {
        let mut y = x.clone();
        for (n, convolution) in self.convolutions.iter().enumerate() {
            y = y.relu()?;
            y = match convolution {
                UnitConvolution::Biased(conv) => conv.forward(pass.weights, &y)?,
                UnitConvolution::Plain(conv) => conv.forward(pass.weights, &y)?,
            };
            if let Some(norms) = &self.norms {
                y = norms[n].forward(pass, &y)?;
            }
        }
        Ok(y.add(x)?)
    }
}

impl Head {
    fn declare(d: &mut Declaration, config: &DptConfig) -> Self {
        let (width, inner) = (config.fusion_width, config.head.width);
        let projection = config.head.projection;
        Self {
            projection: projection
                .then(|| BiasedConv::declare(d, "projection", width, width, 3, 1)),
            convolutions: [
                BiasedConv::declare(d, "conv1", width, width / 2, 3, 1),
                BiasedConv::declare(d, "conv2", width / 2, inner, 3, 1),
                BiasedConv::declare_head(d, "conv3", inner, 1),
            ],
        }
    }

    fn forward(&self, weights: &Weights, map: &Tensor, config: &DptConfig) -> Result<Tensor> {
        let [_, height, width] = config.image;
        let [first, second, third] = &self.convolutions;
        let map = match &self.projection {
            Some(projection) => projection.forward(weights, map)?.relu()?,
            None => map.clone(),
        };
        let x = first.forward(weights, &map)?;
        let (tall, wide) = match config.head.extents {
            DptHeadExtents::Doubled => (2 * x.shape()[2], 2 * x.shape()[3]),
            DptHeadExtents::Image => (height, width),
        };
        let x = x.resize_bilinear(tall, wide, true)?;
        let x = third.forward(weights, &second.forward(weights, &x)?.relu()?)?;
        let x = match config.head.activation {
            DptHeadActivation::Relu => x.relu()?,
            DptHeadActivation::Sigmoid => x.sigmoid()?,
        };
        let depth = x.affine(config.head.scale, 0.0)?;
        Ok(match [tall, wide] == [height, width] {
            true => depth,
            false => depth.resize_bilinear(height, width, false)?,
        })
    }
}

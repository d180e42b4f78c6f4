//! ConvNeXt (Liu et al. 2022, "A ConvNet for the 2020s"), with timm's structure and parameter names.

use std::sync::Arc;

use dtta_base::Issue;
use dtta_tensor::{Named, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backbone::{Backbone, BackboneSpec, BatchNormStatistics, FEATURES, LOGITS};
use crate::convolution::{Convolution, Form, Padding};
use crate::denoiser::expect_images;
use crate::error::Result;
use crate::fault::{Faults, MAX_EXTENT, MAX_LAYERS, MAX_LEVELS};
use crate::layers::{Activation, LayerNorm, Linear};
use crate::table::Architecture;
use crate::transformer::{INIT, LayerScale, Mlp, channels_first, channels_last};
use crate::weights::{Declaration, ParameterSpec, Weights};

/// Pixels of a patch on each axis.
const PATCH: usize = 4;

/// A ConvNeXt: a backbone that answers for whole images. ConvNeXt-T is all defaults with `image: [3, 224, 224], classes: 1000`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConvNextConfig {
    /// Channels, height and width of the images. Patches of 4×4 pixels, then every stage but the first halves the extents, rounding down.
    #[schemars(inner(range(min = 1, max = MAX_EXTENT)))]
    pub image: [usize; 3],
    /// Number of classes.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub classes: usize,
    /// Number of blocks in each stage.
    #[serde(default = "tiny_blocks")]
    #[schemars(length(min = 1, max = MAX_LEVELS), inner(range(min = 1, max = MAX_LAYERS)))]
    pub blocks: Vec<usize>,
    /// Channels in each stage.
    #[serde(default = "tiny_widths")]
    #[schemars(length(min = 1, max = MAX_LEVELS), inner(range(min = 1, max = MAX_EXTENT)))]
    pub widths: Vec<usize>,
    /// Window of the depthwise convolutions in each stage, odd; 7 in all where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_LEVELS), inner(range(min = 1, max = MAX_EXTENT)))]
    pub windows: Option<Vec<usize>>,
    /// Between the two linear layers of a block.
    #[serde(default = "gelu")]
    pub activation: Activation,
    /// Whether each block's branch has a learned scale for each channel.
    #[serde(default = "yes")]
    pub layer_scale: bool,
    /// Whether those scales are kept as maps of one pixel, `[C, 1, 1]`; the same function.
    #[serde(default)]
    pub scale_as_map: bool,
    /// Whether a block's linear layers are kept as convolutions with windows of one pixel; the same function.
    #[serde(default)]
    pub linear_as_windows: bool,
    /// Whether the last normalisation comes before the average over the image, not after it.
    #[serde(default)]
    pub norm_before_pool: bool,
    /// Width of one more linear layer before the classifier, with an activation (GELU).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub hidden_head: Option<usize>,
    /// Epsilon of the normalisation layers.
    #[serde(default = "millionth")]
    #[schemars(range(min = 0, max = 1))]
    pub epsilon: f64,
}

fn tiny_blocks() -> Vec<usize> {
    vec![3, 3, 9, 3]
}

fn tiny_widths() -> Vec<usize> {
    vec![96, 192, 384, 768]
}

fn gelu() -> Activation {
    Activation::Gelu
}

fn yes() -> bool {
    true
}

fn millionth() -> f64 {
    1e-6
}

impl ConvNextConfig {
    fn check(&self) -> Faults {
        let mut faults = Faults::default();
        faults.count("/classes", self.classes, MAX_EXTENT);
        faults.levels(&self.blocks, &self.widths);
        faults.probability("/epsilon", self.epsilon);
        let least = PATCH << self.widths.len().saturating_sub(1).min(31);
        if faults.image(self.image, 1) && self.image[1..].iter().any(|&extent| extent < least) {
            let expected = format!("extents of {least} or more, of which the last stage has one");
            faults.add("/image", format_args!("{:?}", self.image), expected);
        }
        if let Some(windows) = &self.windows
            && (windows.len() != self.widths.len() || windows.iter().any(|window| window % 2 == 0))
        {
            let expected = format!("{} odd numbers, one for each width", self.widths.len());
            faults.add("/windows", format_args!("{windows:?}"), expected);
        }
        if let Some(width) = self.hidden_head {
            faults.count("/hidden_head", width, MAX_EXTENT);
            if self.norm_before_pool {
                let expected = "none where the norm comes before the pool";
                faults.add("/hidden_head", width, expected);
            }
        }
        faults
    }
}

impl Architecture for ConvNextConfig {
    type Model = dyn Backbone;
    const KIND: &'static str = "convnext";

    fn contradictions(&self) -> Vec<Issue> {
        self.check().issues()
    }

    fn build(self) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(ConvNext::new(self)?))
    }
}

/// A ConvNeXt's structure.
pub struct ConvNext {
    config: ConvNextConfig,
    specs: Arc<[ParameterSpec]>,
    spec: BackboneSpec,
    stem: (Convolution, LayerNorm),
    stages: Vec<Stage>,
    norm: LayerNorm,
    hidden: Option<Linear>,
    head: Linear,
}

struct Stage {
    /// Normalisation, then a convolution of stride 2.
    halve: Option<(LayerNorm, Convolution)>,
    blocks: Vec<Block>,
}

struct Block {
    depthwise: Convolution,
    norm: LayerNorm,
    mlp: Mlp,
    scale: Option<LayerScale>,
}

impl Block {
    fn declare(d: &mut Declaration, config: &ConvNextConfig, width: usize, window: usize) -> Self {
        let form = Form {
            window,
            stride: 1,
            padding: Some(Padding::Symmetric),
            depthwise: true,
            bias: true,
            init: INIT,
        };
        Self {
            scale: config
                .layer_scale
                .then(|| LayerScale::declare(d, "gamma", width, config.scale_as_map)),
            depthwise: Convolution::declare(d, "conv_dw", [width, width], form),
            norm: LayerNorm::declare(d, "norm", width, config.epsilon),
            mlp: Mlp::declare(
                d,
                [width, 4 * width],
                config.activation,
                config.linear_as_windows,
            ),
        }
    }

    fn forward(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        let y = channels_last(&self.depthwise.forward(weights, x)?)?;
        let mut y = self
            .mlp
            .forward(weights, &self.norm.forward(weights, &y)?)?;
        if let Some(scale) = &self.scale {
            y = scale.forward(weights, &y)?;
        }
        Ok(channels_first(&y)?.add(x)?)
    }
}

/// A convolution of windows side by side.
fn patches(size: usize) -> Form {
    Form {
        window: size,
        stride: size,
        padding: None,
        depthwise: false,
        bias: true,
        init: INIT,
    }
}

impl ConvNext {
    /// The structure that `config` describes. Allocates no parameter.
    ///
    /// # Errors
    /// [`ModelError::Config`](crate::ModelError::Config) with every contradiction.
    pub fn new(config: ConvNextConfig) -> Result<Self> {
        config.check().finish()?;
        let mut d = Declaration::new();
        let mut channels = config.widths[0];
        let stem = d.within("stem", |d| {
            let patch = Convolution::declare(d, "0", [config.image[0], channels], patches(PATCH));
            (patch, LayerNorm::declare(d, "1", channels, config.epsilon))
        });
        let mut stages = Vec::new();
        for (level, (&count, &width)) in config.blocks.iter().zip(&config.widths).enumerate() {
            let window = config.windows.as_ref().map_or(7, |windows| windows[level]);
            stages.push(d.within(format_args!("stages.{level}"), |d| {
                Stage {
                    halve: (level > 0).then(|| {
                        d.within("downsample", |d| {
                            let norm = LayerNorm::declare(d, "0", channels, config.epsilon);
                            let halve = Convolution::declare(d, "1", [channels, width], patches(2));
                            (norm, halve)
                        })
                    }),
                    blocks: (0..count)
                        .map(|n| {
                            d.within(format_args!("blocks.{n}"), |d| {
                                Block::declare(d, &config, width, window)
                            })
                        })
                        .collect(),
                }
            }));
            channels = width;
        }
        let place = match config.norm_before_pool {
            true => "norm_pre",
            false => "head.norm",
        };
        let norm = LayerNorm::declare(&mut d, place, channels, config.epsilon);
        let hidden = config
            .hidden_head
            .map(|width| Linear::declare(&mut d, "head.pre_logits.fc", channels, width, INIT));
        let features = config.hidden_head.unwrap_or(channels);
        let head = Linear::declare_head(&mut d, "head.fc", features, config.classes);
        Ok(Self {
            specs: d.finish(),
            spec: BackboneSpec {
                image: config.image,
                outputs: config.classes,
                per_pixel: false,
                batch_statistics: false,
            },
            config,
            stem,
            stages,
            norm,
            hidden,
            head,
        })
    }

    /// What the structure was made from.
    pub fn config(&self) -> &ConvNextConfig {
        &self.config
    }
}

/// Normalises the channels of `[B, C, H, W]`.
fn over_channels(norm: &LayerNorm, weights: &Weights, x: &Tensor) -> Result<Tensor> {
    channels_first(&norm.forward(weights, &channels_last(x)?)?)
}

impl Backbone for ConvNext {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.specs
    }

    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn forward(
        &self,
        weights: &Weights,
        images: &Tensor,
        _statistics: BatchNormStatistics,
    ) -> Result<Named> {
        expect_images("the batch of images", images, self.config.image)?;
        let (patches, norm) = &self.stem;
        let mut x = over_channels(norm, weights, &patches.forward(weights, images)?)?;
        for stage in &self.stages {
            if let Some((norm, halve)) = &stage.halve {
                x = halve.forward(weights, &over_channels(norm, weights, &x)?)?;
            }
            for block in &stage.blocks {
                x = block.forward(weights, &x)?;
            }
        }
        let mut features = if self.config.norm_before_pool {
            let x = self.norm.forward(weights, &channels_last(&x)?)?;
            x.mean(&[1, 2], false)?
        } else {
            self.norm.forward(weights, &x.mean(&[2, 3], false)?)?
        };
        if let Some(hidden) = &self.hidden {
            features = hidden.forward(weights, &features)?.gelu()?;
        }
        let logits = self.head.forward(weights, &features)?;
        Ok(Named::one(FEATURES, features).with(LOGITS, logits))
    }
}

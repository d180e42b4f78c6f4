//! EfficientNet in its Lite form (Tan and Le 2019; Google 2020, `efficientnet/lite`): inverted bottlenecks with ReLU6 and without
//! squeeze-and-excitation. Structure and parameter names are timm's.

use std::sync::Arc;

use dtta_base::Issue;
use dtta_tensor::{Named, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backbone::{Backbone, BackboneSpec, FEATURES, LOGITS};
use crate::convolution::{Convolution, Form, Padding};
use crate::denoiser::expect_images;
use crate::error::Result;
use crate::fault::{Faults, MAX_EXTENT, MAX_LAYERS, MAX_LEVELS};
use crate::layers::Linear;
use crate::residual::{Norm, NormLayer, Pass, Passes};
use crate::table::Architecture;
use crate::weights::{Declaration, Init, ParameterSpec};

/// An EfficientNet-Lite: a backbone that answers for whole images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EfficientNetConfig {
    /// Channels, height and width of the images.
    #[schemars(inner(range(min = 1, max = MAX_EXTENT)))]
    pub image: [usize; 3],
    /// Number of classes.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub classes: usize,
    /// Channels of the first convolution, which has stride 2.
    #[serde(default = "stem_width")]
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub stem_width: usize,
    /// The stages, one after the other.
    #[schemars(length(min = 1, max = MAX_LEVELS))]
    pub stages: Vec<InvertedStage>,
    /// Channels before the average over the image: what the classifier takes.
    #[serde(default = "feature_width")]
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub features: usize,
    /// How images are extended before a window passes over them.
    #[serde(default)]
    pub padding: Padding,
    /// Epsilon of the BatchNorm layers.
    #[serde(default = "epsilon")]
    #[schemars(range(min = 0, max = 1))]
    pub epsilon: f64,
}

/// Inverted bottlenecks of one width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InvertedStage {
    /// Window of the depthwise convolutions, odd.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub kernel: usize,
    /// Stride of the first block.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub stride: usize,
    /// How many times wider a block is inside; blocks of 1 do without the convolution that widens.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub expansion: usize,
    /// Channels that a block gives.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub width: usize,
    /// Number of blocks.
    #[schemars(range(min = 1, max = MAX_LAYERS))]
    pub blocks: usize,
}

fn stem_width() -> usize {
    32
}

fn feature_width() -> usize {
    1280
}

fn epsilon() -> f64 {
    1e-5
}

impl EfficientNetConfig {
    fn check(&self) -> Faults {
        let mut faults = Faults::default();
        faults.image(self.image, 1);
        faults.count("/classes", self.classes, MAX_EXTENT);
        faults.count("/stem_width", self.stem_width, MAX_EXTENT);
        faults.count("/features", self.features, MAX_EXTENT);
        faults.probability("/epsilon", self.epsilon);
        if !(1..=MAX_LEVELS).contains(&self.stages.len()) {
            let expected = format!("1 to {MAX_LEVELS} stages");
            faults.add(
                "/stages",
                format_args!("{} long", self.stages.len()),
                expected,
            );
        }
        for (n, stage) in self.stages.iter().enumerate() {
            let mut at = |field: &str, value, most| {
                faults.count(&format!("/stages/{n}/{field}"), value, most)
            };
            at("stride", stage.stride, MAX_EXTENT);
            at("expansion", stage.expansion, MAX_EXTENT);
            at("width", stage.width, MAX_EXTENT);
            at("blocks", stage.blocks, MAX_LAYERS);
            if at("kernel", stage.kernel, MAX_EXTENT) && stage.kernel % 2 == 0 {
                faults.add(
                    &format!("/stages/{n}/kernel"),
                    stage.kernel,
                    "an odd number",
                );
            }
        }
        faults
    }
}

impl Architecture for EfficientNetConfig {
    type Model = dyn Backbone;
    const KIND: &'static str = "efficientnet";

    fn contradictions(&self) -> Vec<Issue> {
        self.check().issues()
    }

    fn build(self) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(EfficientNet::new(self)?))
    }
}

/// An EfficientNet-Lite's structure.
pub struct EfficientNet {
    config: EfficientNetConfig,
    specs: Arc<[ParameterSpec]>,
    spec: BackboneSpec,
    stem: Layer,
    blocks: Vec<Block>,
    last: Layer,
    head: Linear,
}

/// A convolution without bias and its normalisation.
struct Layer {
    conv: Convolution,
    norm: NormLayer,
}

struct Block {
    widen: Option<Layer>,
    depthwise: Layer,
    narrow: Layer,
    /// Whether the block's input is added to its output.
    residual: bool,
}

/// What all layers of a network share.
#[derive(Clone, Copy)]
struct Common {
    padding: Padding,
    epsilon: f64,
}

impl Layer {
    /// Names of convolution and normalisation, channels in and out, window and stride. One window for each channel if it is depthwise.
    fn declare(
        d: &mut Declaration,
        [conv, norm]: [&str; 2],
        channels: [usize; 2],
        (window, stride, depthwise): (usize, usize, bool),
        common: Common,
    ) -> Self {
        let inputs = if depthwise { 1 } else { channels[0] };
        let form = Form {
            window,
            stride,
            padding: Some(common.padding),
            depthwise,
            bias: false,
            init: Init::UniformFanIn(inputs * window * window),
        };
        Self {
            conv: Convolution::declare(d, conv, channels, form),
            norm: d.within(norm, |d| {
                NormLayer::declare(d, channels[1], Norm::Batch, common.epsilon)
            }),
        }
    }

    fn forward(&self, pass: &mut Pass<'_>, x: &Tensor) -> Result<Tensor> {
        let x = self.conv.forward(pass.weights, x)?;
        self.norm.forward(pass, &x)
    }

    fn activated(&self, pass: &mut Pass<'_>, x: &Tensor) -> Result<Tensor> {
        // ReLU6.
        Ok(self.forward(pass, x)?.clamp(Some(0.0), Some(6.0))?)
    }
}

impl Block {
    fn declare(
        d: &mut Declaration,
        stage: InvertedStage,
        inputs: usize,
        stride: usize,
        common: Common,
    ) -> Self {
        let InvertedStage {
            kernel,
            expansion,
            width,
            ..
        } = stage;
        let inside = inputs * expansion;
        let point = (1, 1, false);
        let names: [[&str; 2]; 2] = match expansion {
            1 => [["conv_dw", "bn1"], ["conv_pw", "bn2"]],
            _ => [["conv_dw", "bn2"], ["conv_pwl", "bn3"]],
        };
        Self {
            widen: (expansion > 1)
                .then(|| Layer::declare(d, ["conv_pw", "bn1"], [inputs, inside], point, common)),
            depthwise: Layer::declare(
                d,
                names[0],
                [inside, inside],
                (kernel, stride, true),
                common,
            ),
            narrow: Layer::declare(d, names[1], [inside, width], point, common),
            residual: stride == 1 && inputs == width,
        }
    }

    fn forward(&self, pass: &mut Pass<'_>, x: &Tensor) -> Result<Tensor> {
        let mut y = x.clone();
        if let Some(widen) = &self.widen {
            y = widen.activated(pass, &y)?;
        }
        y = self.depthwise.activated(pass, &y)?;
        y = self.narrow.forward(pass, &y)?;
        Ok(if self.residual { y.add(x)? } else { y })
    }
}

impl EfficientNet {
    /// The structure that `config` describes. Allocates no parameter.
    ///
    /// # Errors
    /// [`ModelError::Config`](crate::ModelError::Config) with every contradiction.
    pub fn new(config: EfficientNetConfig) -> Result<Self> {
        config.check().finish()?;
        let mut d = Declaration::new();
        let common = Common {
            padding: config.padding,
            epsilon: config.epsilon,
        };
        let mut channels = config.stem_width;
        let first = [config.image[0], channels];
        let stem = Layer::declare(&mut d, ["conv_stem", "bn1"], first, (3, 2, false), common);
        let mut blocks = Vec::new();
        for (n, &stage) in config.stages.iter().enumerate() {
            for m in 0..stage.blocks {
                let stride = if m == 0 { stage.stride } else { 1 };
                blocks.push(d.within(format_args!("blocks.{n}.{m}"), |d| {
                    Block::declare(d, stage, channels, stride, common)
                }));
                channels = stage.width;
            }
        }
        let last = [channels, config.features];
        let last = Layer::declare(&mut d, ["conv_head", "bn2"], last, (1, 1, false), common);
        let head = Linear::declare_head(&mut d, "classifier", config.features, config.classes);
        Ok(Self {
            specs: d.finish(),
            spec: BackboneSpec {
                image: config.image,
                outputs: config.classes,
                per_pixel: false,
                batch_statistics: true,
            },
            config,
            stem,
            blocks,
            last,
            head,
        })
    }

    /// What the structure was made from.
    pub fn config(&self) -> &EfficientNetConfig {
        &self.config
    }
}

impl Passes for EfficientNet {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.specs
    }

    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn run(&self, pass: &mut Pass<'_>, images: &Tensor) -> Result<Named> {
        expect_images("the batch of images", images, self.config.image)?;
        let mut x = self.stem.activated(pass, images)?;
        for block in &self.blocks {
            x = block.forward(pass, &x)?;
        }
        let features = self.last.activated(pass, &x)?.mean(&[2, 3], false)?;
        let logits = self.head.forward(pass.weights, &features)?;
        Ok(Named::one(FEATURES, features).with(LOGITS, logits))
    }
}

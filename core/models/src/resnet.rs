//! Residual networks (He et al. 2016) with torchvision's structure and parameter names, so that its checkpoints fit once they are
//! safetensors. The normalisation, the stem, the widths and the block are configuration: ResNet-50 and a small GroupNorm network for
//! 28×28 pixels are the same code.

use std::sync::Arc;

use dtta_base::Issue;
use dtta_tensor::{Named, PoolOptions, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backbone::{Backbone, BackboneSpec, FEATURES, LOGITS};
use crate::denoiser::expect_images;
use crate::error::Result;
use crate::fault::{Faults, MAX_EXTENT, MAX_LAYERS, MAX_LEVELS};
use crate::layers::Linear;
use crate::residual::{Block, BlockKind, Norm, Normalised, Pass, Passes};
use crate::table::Architecture;
use crate::weights::{Declaration, ParameterSpec};

/// What comes before the first stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stem {
    /// A 7×7 convolution and a maximum pool, each of stride 2.
    #[default]
    Imagenet,
    /// A 3×3 convolution of stride 1, for images of a few dozen pixels.
    Small,
}

/// A residual network: a backbone that answers for whole images. ResNet-18 is all defaults with `image: [3, 224, 224], classes: 1000`; ResNet-50 has
/// `block: "bottleneck", blocks: [3, 4, 6, 3]` besides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// Channels, height and width of the images.
    #[schemars(inner(range(min = 1, max = MAX_EXTENT)))]
    pub image: [usize; 3],
    /// Number of classes.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub classes: usize,
    /// What a stage is made of.
    #[serde(default)]
    pub block: BlockKind,
    /// Number of blocks in each stage. Every stage but the first halves the extents.
    #[serde(default = "two_each")]
    #[schemars(length(min = 1, max = MAX_LEVELS), inner(range(min = 1, max = MAX_LAYERS)))]
    pub blocks: Vec<usize>,
    /// Channels in each stage, before a bottleneck widens them.
    #[serde(default = "doubling")]
    #[schemars(length(min = 1, max = MAX_LEVELS), inner(range(min = 1, max = MAX_EXTENT)))]
    pub widths: Vec<usize>,
    /// What comes before the first stage.
    #[serde(default)]
    pub stem: Stem,
    /// Channels of the stem; those of the first stage where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub stem_width: Option<usize>,
    /// Which normalisation follows each convolution.
    #[serde(default)]
    pub norm: Norm,
}

fn two_each() -> Vec<usize> {
    vec![2; 4]
}

fn doubling() -> Vec<usize> {
    vec![64, 128, 256, 512]
}

impl ResNetConfig {
    fn check(&self) -> Faults {
        let mut faults = Faults::default();
        faults.image(self.image, 1);
        faults.count("/classes", self.classes, MAX_EXTENT);
        faults.levels(&self.blocks, &self.widths);
        let mut widths = self.widths.clone();
        if let Some(width) = self.stem_width {
            faults.count("/stem_width", width, MAX_EXTENT);
            widths.push(width);
        }
        faults.part("/norm", self.norm.check(&widths));
        faults
    }
}

impl Architecture for ResNetConfig {
    type Model = dyn Backbone;
    const KIND: &'static str = "resnet";

    fn contradictions(&self) -> Vec<Issue> {
        self.check().issues()
    }

    fn build(self) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(ResNet::new(self)?))
    }
}

/// A residual network's structure.
pub struct ResNet {
    config: ResNetConfig,
    specs: Arc<[ParameterSpec]>,
    spec: BackboneSpec,
    stem: Normalised,
    blocks: Vec<Block>,
    head: Linear,
}

impl ResNet {
    /// The structure that `config` describes. Allocates no parameter.
    ///
    /// # Errors
    /// [`ModelError::Config`](crate::ModelError::Config) with every contradiction.
    pub fn new(config: ResNetConfig) -> Result<Self> {
        config.check().finish()?;
        let mut d = Declaration::new();
        let window = match config.stem {
            Stem::Imagenet => (7, 2),
            Stem::Small => (3, 1),
        };
        let mut channels = config.stem_width.unwrap_or(config.widths[0]);
        let stem = Normalised::declare(
            &mut d,
            ["conv1", "bn1"],
            [config.image[0], channels],
            window,
            config.norm,
        );
        let mut blocks = Vec::new();
        for (stage, (&count, &width)) in config.blocks.iter().zip(&config.widths).enumerate() {
            for n in 0..count {
                let stride = if n == 0 && stage > 0 { 2 } else { 1 };
                blocks.push(d.within(format_args!("layer{}.{n}", stage + 1), |d| {
                    Block::declare(d, (config.block, config.norm), channels, width, stride)
                }));
                channels = width * config.block.expansion();
            }
        }
        let head = Linear::declare_head(&mut d, "fc", channels, config.classes);
        Ok(Self {
            specs: d.finish(),
            spec: BackboneSpec {
                image: config.image,
                outputs: config.classes,
                per_pixel: false,
                batch_statistics: config.norm == Norm::Batch,
            },
            config,
            stem,
            blocks,
            head,
        })
    }

    /// What the structure was made from.
    pub fn config(&self) -> &ResNetConfig {
        &self.config
    }
}

impl Passes for ResNet {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.specs
    }

    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn run(&self, pass: &mut Pass<'_>, images: &Tensor) -> Result<Named> {
        expect_images("the batch of images", images, self.config.image)?;
        let mut x = self.stem.forward(pass, images)?.relu()?;
        if self.config.stem == Stem::Imagenet {
            x = x.max_pool2d(PoolOptions {
                kernel: [3, 3],
                stride: [2, 2],
                padding: [1, 1],
            })?;
        }
        for block in &self.blocks {
            x = block.forward(pass, &x)?;
        }
        let features = x.mean(&[2, 3], false)?;
        let logits = self.head.forward(pass.weights, &features)?;
        Ok(Named::one(FEATURES, features).with(LOGITS, logits))
    }
}

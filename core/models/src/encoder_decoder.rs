//! A residual U-Net that answers for each pixel: the task model of segmentation and depth. Its way down is a residual network's
//! (`residual.rs`); its way up doubles the extents, joins what the way down had there (Ronneberger et al. 2015) and adds one block.

use std::sync::Arc;

use dtta_base::Issue;
use dtta_tensor::{Named, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backbone::{Backbone, BackboneSpec, FEATURES, LOGITS};
use crate::denoiser::expect_images;
use crate::error::Result;
use crate::fault::{Faults, MAX_EXTENT, MAX_LAYERS, MAX_LEVELS};
use crate::layers::BiasedConv;
use crate::residual::{Block, BlockKind, Norm, Normalised, Pass, Passes};
use crate::table::Architecture;
use crate::weights::{Declaration, ParameterSpec};

/// A residual U-Net: a backbone that answers for each pixel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EncoderDecoderConfig {
    /// Channels, height and width of the images. Height and width are multiples of `stem_stride` times 2 to the number of levels
    /// less 1.
    #[schemars(inner(range(min = 1, max = MAX_EXTENT)))]
    pub image: [usize; 3],
    /// Maps that it answers with: classes in segmentation, 1 in depth.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub outputs: usize,
    /// Channels of each level. Every level but the first halves the extents.
    #[schemars(length(min = 1, max = MAX_LEVELS), inner(range(min = 1, max = MAX_EXTENT)))]
    pub widths: Vec<usize>,
    /// Basic residual blocks of each level on the way down.
    #[schemars(length(min = 1, max = MAX_LEVELS), inner(range(min = 1, max = MAX_LAYERS)))]
    pub blocks: Vec<usize>,
    /// Stride of the first convolution: 2 halves the work of every level by four; the answer is then doubled at the end.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub stem_stride: usize,
    /// Which normalisation follows each convolution.
    #[serde(default)]
    pub norm: Norm,
}

fn one() -> usize {
    1
}

impl EncoderDecoderConfig {
    fn check(&self) -> Faults {
        let mut faults = Faults::default();
        faults.count("/outputs", self.outputs, MAX_EXTENT);
        faults.levels(&self.blocks, &self.widths);
        if faults.count("/stem_stride", self.stem_stride, MAX_EXTENT) {
            let halvings = self.widths.len().saturating_sub(1).min(31);
            faults.image(self.image, self.stem_stride << halvings);
        }
        faults.part("/norm", self.norm.check(&self.widths));
        faults
    }
}

impl Architecture for EncoderDecoderConfig {
    type Model = dyn Backbone;
    const KIND: &'static str = "encoder_decoder";

    fn contradictions(&self) -> Vec<Issue> {
        self.check().issues()
    }

    fn build(self) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(EncoderDecoder::new(self)?))
    }
}

/// A residual U-Net's structure.
pub struct EncoderDecoder {
    config: EncoderDecoderConfig,
    specs: Arc<[ParameterSpec]>,
    spec: BackboneSpec,
    stem: Normalised,
    down: Vec<Vec<Block>>,
    /// From the lowest level to the first.
    up: Vec<Block>,
    head: BiasedConv,
}

impl EncoderDecoder {
    /// The structure that `config` describes. Allocates no parameter.
    ///
    /// # Errors
    /// [`ModelError::Config`](crate::ModelError::Config) with every contradiction.
    pub fn new(config: EncoderDecoderConfig) -> Result<Self> {
        config.check().finish()?;
        let mut d = Declaration::new();
        let kind = (BlockKind::Basic, config.norm);
        let mut channels = config.widths[0];
        let stem = Normalised::declare(
            &mut d,
            ["conv1", "bn1"],
            [config.image[0], channels],
            (3, config.stem_stride),
            config.norm,
        );
        let mut down = Vec::new();
        for (level, (&count, &width)) in config.blocks.iter().zip(&config.widths).enumerate() {
            let mut blocks = Vec::new();
            for n in 0..count {
                let stride = if n == 0 && level > 0 { 2 } else { 1 };
                blocks.push(d.within(format_args!("layer{}.{n}", level + 1), |d| {
                    Block::declare(d, kind, channels, width, stride)
                }));
                channels = width;
            }
            down.push(blocks);
        }
        let mut up = Vec::new();
        for (level, &width) in config.widths.iter().enumerate().rev().skip(1) {
            up.push(d.within(format_args!("up{}", level + 1), |d| {
                Block::declare(d, kind, channels + width, width, 1)
            }));
            channels = width;
        }
        let head = BiasedConv::declare_head(&mut d, "head", channels, config.outputs);
        Ok(Self {
            specs: d.finish(),
            spec: BackboneSpec {
                image: config.image,
                outputs: config.outputs,
                per_pixel: true,
                batch_statistics: config.norm == Norm::Batch,
            },
            config,
            stem,
            down,
            up,
            head,
        })
    }

    /// What the structure was made from.
    pub fn config(&self) -> &EncoderDecoderConfig {
        &self.config
    }
}

impl Passes for EncoderDecoder {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.specs
    }

    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn run(&self, pass: &mut Pass<'_>, images: &Tensor) -> Result<Named> {
        expect_images("the batch of images", images, self.config.image)?;
        let mut x = self.stem.forward(pass, images)?.relu()?;
        let mut kept = Vec::new();
        for blocks in &self.down {
            for block in blocks {
                x = block.forward(pass, &x)?;
            }
            kept.push(x.clone());
        }
        kept.pop();
        for block in &self.up {
            let skipped = kept.pop().expect("one level above for each way up");
            let (height, width) = (skipped.shape()[2], skipped.shape()[3]);
            let larger = x.resize_bilinear(height, width, false)?;
            x = block.forward(pass, &Tensor::cat(&[&larger, &skipped], 1)?)?;
        }
        let mut logits = self.head.forward(pass.weights, &x)?;
        if self.config.stem_stride > 1 {
            let [_, height, width] = self.config.image;
            logits = logits.resize_bilinear(height, width, false)?;
        }
        Ok(Named::one(FEATURES, x).with(LOGITS, logits))
    }
}

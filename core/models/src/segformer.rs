//! SegFormer (Xie et al., NeurIPS 2021): a mix transformer and a decoder of linear layers, which answers at the extents of the first level.
//! Structure and parameter names are those of transformers' `SegformerForSemanticSegmentation`, without its prefix `segformer.`.

use std::sync::Arc;

use dtta_base::Issue;
use dtta_tensor::{Named, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backbone::{Backbone, BackboneSpec, FEATURES, LOGITS};
use crate::denoiser::expect_images;
use crate::error::Result;
use crate::fault::{Faults, MAX_EXTENT, MAX_LEVELS};
use crate::layers::{Activation, BiasedConv, Conv, Linear};
use crate::mix_transformer::{self, MixLevel, MixTransformer, to_map, to_tokens};
use crate::residual::{Norm, NormLayer, Pass, Passes};
use crate::table::Architecture;
use crate::transformer::INIT;
use crate::weights::{Declaration, ParameterSpec};

/// Epsilon of the decoder's BatchNorm.
const EPSILON: f64 = 1e-5;

/// A SegFormer: a backbone that answers for each pixel. It answers at the extents of its first level, a quarter of the image's, which are
/// brought to the image's by bilinear interpolation of the logits, as transformers' `post_process_semantic_segmentation` does. B0 for
/// ADE20K is `image: [3, 512, 512], classes: 150, decoder_width: 256` with levels of widths 32, 64, 160 and 256.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SegformerConfig {
    /// Channels, height and width of the images.
    #[schemars(inner(range(min = 1, max = MAX_EXTENT)))]
    pub image: [usize; 3],
    /// Number of classes.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub classes: usize,
    /// The levels of the encoder, from the largest extents to the smallest.
    #[schemars(length(min = 1, max = MAX_LEVELS))]
    pub levels: Vec<MixLevel>,
    /// Channels of the decoder.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub decoder_width: usize,
    /// The activation within the blocks of the encoder.
    #[serde(default = "gelu")]
    pub activation: Activation,
}

pub(crate) fn gelu() -> Activation {
    Activation::Gelu
}

impl SegformerConfig {
    fn check(&self) -> Faults {
        let mut faults = Faults::default();
        faults.count("/classes", self.classes, MAX_EXTENT);
        faults.count("/decoder_width", self.decoder_width, MAX_EXTENT);
        if faults.image(self.image, 1) {
            faults.part("/levels", mix_transformer::check(&self.levels, self.image));
        }
        faults
    }
}

impl Architecture for SegformerConfig {
    type Model = dyn Backbone;
    const KIND: &'static str = "segformer";

    fn contradictions(&self) -> Vec<Issue> {
        self.check().issues()
    }

    fn build(self) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(Segformer::new(self)?))
    }
}

/// A SegFormer's structure.
pub struct Segformer {
    config: SegformerConfig,
    specs: Arc<[ParameterSpec]>,
    spec: BackboneSpec,
    encoder: MixTransformer,
    projections: Vec<Linear>,
    fuse: Conv,
    norm: NormLayer,
    head: BiasedConv,
}

impl Segformer {
    /// The structure that `config` describes. Allocates no parameter.
    ///
    /// # Errors
    /// [`ModelError::Config`](crate::ModelError::Config) with every contradiction.
    pub fn new(config: SegformerConfig) -> Result<Self> {
        config.check().finish()?;
        let mut d = Declaration::new();
        let (levels, width) = (&config.levels, config.decoder_width);
        let encoder = d.within("encoder", |d| {
            MixTransformer::declare(d, levels, config.image[0], config.activation)
        });
        let (projections, fuse, norm, head) = d.within("decode_head", |d| {
            let projections = levels.iter().enumerate().map(|(n, level)| {
                let name = format!("linear_c.{n}.proj");
                Linear::declare(d, &name, level.width, width, INIT)
            });
            let projections = projections.collect();
            let all = levels.len() * width;
            let fuse = Conv::declare(d, "linear_fuse", all, width, 1, 1);
            let norm = d.within("batch_norm", |d| {
                NormLayer::declare(d, width, Norm::Batch, EPSILON)
            });
            let head = BiasedConv::declare_head(d, "classifier", width, config.classes);
            (projections, fuse, norm, head)
        });
        Ok(Self {
            specs: d.finish(),
            spec: BackboneSpec {
                image: config.image,
                outputs: config.classes,
                per_pixel: true,
                batch_statistics: true,
            },
            config,
            encoder,
            projections,
            fuse,
            norm,
            head,
        })
    }

    /// What the structure was made from.
    pub fn config(&self) -> &SegformerConfig {
        &self.config
    }
}

impl Passes for Segformer {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.specs
    }

    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn run(&self, pass: &mut Pass<'_>, images: &Tensor) -> Result<Named> {
        expect_images("the batch of images", images, self.config.image)?;
        let maps = self.encoder.forward(pass.weights, images)?;
        let [height, width] =
            mix_transformer::first_extents(&self.config.levels, self.config.image);
        let mut all = Vec::with_capacity(maps.len());
        for (map, projection) in maps.iter().zip(&self.projections) {
            let extents = [map.shape()[2], map.shape()[3]];
            let projected = projection.forward(pass.weights, &to_tokens(map)?)?;
            let projected = to_map(&projected, extents)?;
            all.push(match extents == [height, width] {
                true => projected,
                false => projected.resize_bilinear(height, width, false)?,
            });
        }
        // From the smallest to the largest.
        let all: Vec<&Tensor> = all.iter().rev().collect();
        let fused = self.fuse.forward(pass.weights, &Tensor::cat(&all, 1)?)?;
        let features = self.norm.forward(pass, &fused)?.relu()?;
        let logits = self.head.forward(pass.weights, &features)?;
        let [_, height, width] = self.config.image;
        let logits = logits.resize_bilinear(height, width, false)?;
        Ok(Named::one(FEATURES, features).with(LOGITS, logits))
    }
}

//! GLPN (Kim et al., Global-Local Path Networks for Monocular Depth Estimation with Vertical CutDepth, 2022): a mix transformer and a decoder
//! that weighs what comes from above against what the encoder had there. Structure and parameter names are those of transformers'
//! `GLPNForDepthEstimation`, without its prefix `glpn.`.

use std::sync::Arc;

use dtta_base::Issue;
use dtta_tensor::{Named, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backbone::{Backbone, BackboneSpec, FEATURES, LOGITS};
use crate::denoiser::expect_images;
use crate::error::Result;
use crate::fault::{Faults, MAX_EXTENT, MAX_LEVELS};
use crate::layers::{Activation, BiasedConv};
use crate::mix_transformer::{self, MixLevel, MixTransformer};
use crate::residual::{Norm, NormLayer, Pass, Passes};
use crate::segformer::gelu;
use crate::table::Architecture;
use crate::weights::{Declaration, ParameterSpec};

/// Epsilon of the decoder's BatchNorm.
const EPSILON: f64 = 1e-5;

/// A GLPN: a backbone that answers with the distance of each pixel, from 0 to `max_depth`, in the unit of its training data (metres for NYU
/// Depth v2 and KITTI). Heads take it as it is: `"output": "depth"` of the plugin `depth`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GlpnConfig {
    /// Channels, height and width of the images. Height and width are multiples of the product of the levels' strides, each of which but the
    /// first is 2.
    #[schemars(inner(range(min = 1, max = MAX_EXTENT)))]
    pub image: [usize; 3],
    /// The levels of the encoder, from the largest extents to the smallest.
    #[schemars(length(min = 2, max = MAX_LEVELS))]
    pub levels: Vec<MixLevel>,
    /// Channels of the decoder, an even number.
    #[schemars(range(min = 2, max = MAX_EXTENT))]
    pub decoder_width: usize,
    /// The largest distance.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub max_depth: f64,
    /// The activation within the blocks of the encoder.
    #[serde(default = "gelu")]
    pub activation: Activation,
}

impl GlpnConfig {
    fn check(&self) -> Faults {
        let mut faults = Faults::default();
        if faults.count("/decoder_width", self.decoder_width, MAX_EXTENT)
            && self.decoder_width % 2 == 1
        {
            faults.add("/decoder_width", self.decoder_width, "an even number");
        }
        if !(self.max_depth > 0.0 && self.max_depth.is_finite()) {
            faults.add("/max_depth", self.max_depth, "above 0");
        }
        if self.levels.len() < 2 {
            let found = format!("{} levels", self.levels.len());
            faults.add("/levels", found, "at least 2");
        }
        for (n, level) in self.levels.iter().enumerate() {
            let expected = if n == 0 { 4 } else { 2 };
            if level.stride != expected {
                let reason = format!("{expected}, since the decoder doubles the extents again");
                faults.add(&format!("/levels/{n}/stride"), level.stride, reason);
            }
        }
        let step = 4 << self.levels.len().saturating_sub(1).min(MAX_LEVELS);
        if faults.image(self.image, step) {
            faults.part("/levels", mix_transformer::check(&self.levels, self.image));
        }
        faults
    }
}

impl Architecture for GlpnConfig {
    type Model = dyn Backbone;
    const KIND: &'static str = "glpn";

    fn contradictions(&self) -> Vec<Issue> {
        self.check().issues()
    }

    fn build(self) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(Glpn::new(self)?))
    }
}

/// A GLPN's structure.
pub struct Glpn {
    config: GlpnConfig,
    specs: Arc<[ParameterSpec]>,
    spec: BackboneSpec,
    encoder: MixTransformer,
    /// From the smallest level to the largest.
    stages: Vec<Stage>,
    head: [BiasedConv; 2],
}

struct Stage {
    /// To the decoder's channels; none where the level has as many.
    convolution: Option<BiasedConv>,
    /// None in the first, which has nothing from above.
    fusion: Option<Fusion>,
}

/// Two maps, weighed pixel by pixel.
struct Fusion {
    convolutions: [BiasedConv; 3],
    norms: [NormLayer; 2],
}

impl Glpn {
    /// The structure that `config` describes. Allocates no parameter.
    ///
    /// # Errors
    /// [`ModelError::Config`](crate::ModelError::Config) with every contradiction.
    pub fn new(config: GlpnConfig) -> Result<Self> {
        config.check().finish()?;
        let mut d = Declaration::new();
        let (levels, width) = (&config.levels, config.decoder_width);
        let encoder = d.within("encoder", |d| {
            MixTransformer::declare(d, levels, config.image[0], config.activation)
        });
        let stages = levels.iter().rev().enumerate();
        let stages = stages
            .map(|(n, level)| {
                d.within(format_args!("decoder.stages.{n}"), |d| Stage {
                    convolution: (level.width != width)
                        .then(|| BiasedConv::declare(d, "convolution", level.width, width, 1, 1)),
                    fusion: (n > 0).then(|| d.within("fusion", |d| Fusion::declare(d, width))),
                })
            })
            .collect();
        let head = d.within("head.head", |d| {
            [
                BiasedConv::declare(d, "0", width, width, 3, 1),
                BiasedConv::declare_last(d, "2", width, 1, 3),
            ]
        });
        Ok(Self {
            specs: d.finish(),
            spec: BackboneSpec {
                image: config.image,
                outputs: 1,
                per_pixel: true,
                batch_statistics: true,
            },
            config,
            encoder,
            stages,
            head,
        })
    }

    /// What the structure was made from.
    pub fn config(&self) -> &GlpnConfig {
        &self.config
    }
}

impl Passes for Glpn {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.specs
    }

    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn run(&self, pass: &mut Pass<'_>, images: &Tensor) -> Result<Named> {
        expect_images("the batch of images", images, self.config.image)?;
        let maps = self.encoder.forward(pass.weights, images)?;
        let mut fused: Option<Tensor> = None;
        for (map, stage) in maps.iter().rev().zip(&self.stages) {
            let mut local = match &stage.convolution {
                Some(convolution) => convolution.forward(pass.weights, map)?,
                None => map.clone(),
            };
            if let (Some(fusion), Some(above)) = (&stage.fusion, &fused) {
                local = fusion.forward(pass, &local, above)?;
            }
            fused = Some(doubled(&local)?);
        }
        let fused = fused.expect("a configuration has at least two levels");
        let features = doubled(&fused)?;
        let [first, last] = &self.head;
        let inner = first.forward(pass.weights, &features)?.relu()?;
        let depth = last.forward(pass.weights, &inner)?.sigmoid()?;
        let depth = depth.affine(self.config.max_depth, 0.0)?;
        Ok(Named::one(FEATURES, features).with(LOGITS, depth))
    }
}

impl Fusion {
    fn declare(d: &mut Declaration, width: usize) -> Self {
        let norm = |d: &mut Declaration, name: &str, width: usize| {
            d.within(name, |d| NormLayer::declare(d, width, Norm::Batch, EPSILON))
        };
        let first = BiasedConv::declare(d, "convolutional_layer1.0", 2 * width, width, 3, 1);
        let first_norm = norm(d, "convolutional_layer1.1", width);
        let second = BiasedConv::declare(d, "convolutional_layer2.0", width, width / 2, 3, 1);
        let second_norm = norm(d, "convolutional_layer2.1", width / 2);
        let third = BiasedConv::declare(d, "convolutional_layer3", width / 2, 2, 3, 1);
        Self {
            convolutions: [first, second, third],
            norms: [first_norm, second_norm],
        }
    }

    fn forward(&self, pass: &mut Pass<'_>, local: &Tensor, above: &Tensor) -> Result<Tensor> {
        let mut x = Tensor::cat(&[local, above], 1)?;
        for (convolution, norm) in self.convolutions.iter().zip(&self.norms) {
            x = convolution.forward(pass.weights, &x)?;
            x = norm.forward(pass, &x)?.relu()?;
        }
        let shares = self.convolutions[2].forward(pass.weights, &x)?.sigmoid()?;
        let [of_local, of_above] = [shares.narrow(1, 0, 1)?, shares.narrow(1, 1, 1)?];
        Ok(local.mul(&of_local)?.add(&above.mul(&of_above)?)?)
    }
}

fn doubled(map: &Tensor) -> Result<Tensor> {
    let (height, width) = (map.shape()[2], map.shape()[3]);
    Ok(map.resize_bilinear(2 * height, 2 * width, false)?)
}

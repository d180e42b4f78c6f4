//! DenseDepth (Alhashim and Wonka, High Quality Monocular Depth Estimation via Transfer Learning, 2018): a DenseNet, and a decoder that enlarges
//! its last map step by step beside the larger ones. Parameter names are those of the authors' PyTorch code.

use std::sync::Arc;

use dtta_base::Issue;
use dtta_tensor::{Named, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backbone::{Backbone, BackboneSpec, FEATURES, LOGITS};
use crate::denoiser::expect_images;
use crate::densenet::{DenseNet, DenseNetConfig};
use crate::error::Result;
use crate::fault::{Faults, MAX_EXTENT};
use crate::layers::BiasedConv;
use crate::residual::{Pass, Passes};
use crate::table::Architecture;
use crate::weights::{Declaration, ParameterSpec, Weights};

/// DenseDepth: a backbone that answers with y = maximum / depth for each pixel, where the maximum is that of its training data (10 m for NYU
/// Depth v2). So with depth in metres, heads take 1/d = y / 10: `"output": {"inverse_depth": {"scale": 0.1, "shift": 0}}` of the plugin `depth`. The
/// network's own answer has half the extents of the image; it is brought to these by bilinear interpolation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DenseDepthConfig {
    /// Channels, height and width of the images.
    #[schemars(inner(range(min = 1, max = MAX_EXTENT)))]
    pub image: [usize; 3],
    /// The encoder.
    pub encoder: DenseNetConfig,
    /// Channels with which the decoder begins; each step halves them. Those of the encoder's last map if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub decoder_width: Option<usize>,
    /// Whether a leaky ReLU follows the first convolution of a step as it follows the second: as in the paper's Keras code, and not in the
    /// authors' PyTorch code.
    pub both_activated: bool,
}

impl DenseDepthConfig {
    fn check(&self) -> Faults {
        let mut faults = Faults::default();
        let [_, height, width] = self.image;
        if !faults.image(self.image, 1) {
            return faults;
        }
        let encoder = self.encoder.check([height, width]);
        faults.part("/encoder", encoder);
        if let Some(width) = self.decoder_width {
            faults.count("/decoder_width", width, MAX_EXTENT);
        }
        let steps = self.encoder.blocks.len();
        let first = self.first_width();
        if steps < 64 && first >> steps == 0 {
            let expected = format!("at least {}, which {steps} steps halve", 1u64 << steps);
            faults.add("/decoder_width", first, expected);
        }
        faults
    }

    fn first_width(&self) -> usize {
        let last = self.encoder.widths().last().copied().unwrap_or(0);
        self.decoder_width.unwrap_or(last)
    }
}

impl Architecture for DenseDepthConfig {
    type Model = dyn Backbone;
    const KIND: &'static str = "dense_depth";

    fn contradictions(&self) -> Vec<Issue> {
        self.check().issues()
    }

    fn build(self) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(DenseDepth::new(self)?))
    }
}

/// DenseDepth's structure.
pub struct DenseDepth {
    config: DenseDepthConfig,
    specs: Arc<[ParameterSpec]>,
    spec: BackboneSpec,
    encoder: DenseNet,
    first: BiasedConv,
    /// From the smallest map to the largest.
    steps: Vec<[BiasedConv; 2]>,
    last: BiasedConv,
}

impl DenseDepth {
    /// The structure that `config` describes. Allocates no parameter.
    ///
    /// # Errors
    /// [`ModelError::Config`](crate::ModelError::Config) with every contradiction.
    pub fn new(config: DenseDepthConfig) -> Result<Self> {
        config.check().finish()?;
        let mut d = Declaration::new();
        let encoder = d.within("encoder.original_model.features", |d| {
            DenseNet::declare(d, &config.encoder, config.image[0])
        });
        let (widths, width) = (config.encoder.widths(), config.first_width());
        let blocks = config.encoder.blocks.len();
        let (first, steps, last) = d.within("decoder", |d| {
            let first = BiasedConv::declare(d, "conv2", widths[blocks + 1], width, 1, 1);
            // The last transition's map has the extents of the last block's, and is left out.
            let beside = widths[..blocks].iter().rev().enumerate();
            let steps = beside.map(|(n, beside)| {
                let (inputs, outputs) = (width >> n, width >> (n + 1));
                d.within(format_args!("up{}", n + 1), |d| {
                    [
                        BiasedConv::declare(d, "convA", inputs + beside, outputs, 3, 1),
                        BiasedConv::declare(d, "convB", outputs, outputs, 3, 1),
                    ]
                })
            });
            let steps = steps.collect();
            (
                first,
                steps,
                BiasedConv::declare_last(d, "conv3", width >> blocks, 1, 3),
            )
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
            first,
            steps,
            last,
        })
    }

    /// What the structure was made from.
    pub fn config(&self) -> &DenseDepthConfig {
        &self.config
    }

    /// A map enlarged to the extents of one beside it, and both in two convolutions.
    fn step(
        &self,
        weights: &Weights,
        [first, second]: &[BiasedConv; 2],
        x: &Tensor,
        beside: &Tensor,
    ) -> Result<Tensor> {
        let (height, width) = (beside.shape()[2], beside.shape()[3]);
        let x = x.resize_bilinear(height, width, true)?;
        let mut x = first.forward(weights, &Tensor::cat(&[&x, beside], 1)?)?;
        if self.config.both_activated {
            x = leaky(&x)?;
        }
        leaky(&second.forward(weights, &x)?)
    }
}

/// x where it is above 0, 0.2 x below.
fn leaky(x: &Tensor) -> Result<Tensor> {
    Ok(x.affine(0.2, 0.0)?.add(&x.relu()?.affine(0.8, 0.0)?)?)
}

impl Passes for DenseDepth {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.specs
    }

    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn run(&self, pass: &mut Pass<'_>, images: &Tensor) -> Result<Named> {
        expect_images("the batch of images", images, self.config.image)?;
        let maps = self.encoder.forward(pass, images)?;
        let weights = pass.weights;
        let (last, others) = maps
            .split_last()
            .expect("an encoder has at least two blocks");
        let mut x = self.first.forward(weights, &last.relu()?)?;
        let beside = others[..others.len() - 1].iter().rev();
        for (step, beside) in self.steps.iter().zip(beside) {
            x = self.step(weights, step, &x, beside)?;
        }
        let inverse = self.last.forward(weights, &x)?;
        let [_, height, width] = self.config.image;
        let inverse = inverse.resize_bilinear(height, width, false)?;
        Ok(Named::one(FEATURES, x).with(LOGITS, inverse))
    }
}

//! DenseNet's convolutional part (Huang et al., CVPR 2017), with the parameter names of torchvision's `DenseNet.features`: each layer of a block
//! sees what all before it have made.

use dtta_tensor::{PoolOptions, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::fault::{Faults, MAX_EXTENT, MAX_LAYERS, MAX_LEVELS, list};
use crate::layers::Conv;
use crate::residual::{Norm, NormLayer, Pass};
use crate::weights::Declaration;

/// Epsilon of BatchNorm.
const EPSILON: f64 = 1e-5;
/// The most channels, in all layers.
const MAX_CHANNELS: usize = MAX_EXTENT;

/// A DenseNet without its classifier. DenseNet-169 is `growth: 32, blocks: [6, 12, 32, 32], stem_width: 64`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DenseNetConfig {
    /// Channels that each layer adds.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub growth: usize,
    /// Layers of each block; between two, channels and extents are halved.
    #[schemars(length(min = 2, max = MAX_LEVELS), inner(range(min = 1, max = MAX_LAYERS)))]
    pub blocks: Vec<usize>,
    /// Channels before the first block.
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub stem_width: usize,
    /// How many times `growth` a layer's first convolution has channels.
    #[serde(default = "four")]
    #[schemars(range(min = 1, max = MAX_EXTENT))]
    pub bottleneck: usize,
}

fn four() -> usize {
    4
}

impl DenseNetConfig {
    /// Faults of the fields, for images of that height and width.
    pub(crate) fn check(&self, image: [usize; 2]) -> Faults {
        let mut faults = Faults::default();
        let known = faults.count("/growth", self.growth, MAX_EXTENT)
            && faults.count("/stem_width", self.stem_width, MAX_EXTENT)
            && faults.count("/bottleneck", self.bottleneck, MAX_EXTENT);
        let each = self.blocks.iter().all(|n| (1..=MAX_LAYERS).contains(n));
        if !(2..=MAX_LEVELS).contains(&self.blocks.len()) || !each {
            let expected = format!("2 to {MAX_LEVELS} numbers from 1 to {MAX_LAYERS}");
            faults.add("/blocks", list(&self.blocks), expected);
            return faults;
        }
        if known && self.growth.saturating_mul(self.bottleneck) > MAX_CHANNELS {
            let expected = format!("at most {MAX_CHANNELS} / growth");
            faults.add("/bottleneck", self.bottleneck, expected);
        }
        let widths = self.widths();
        if known
            && widths
                .iter()
                .any(|width| !(1..=MAX_CHANNELS).contains(width))
        {
            let found = format!(
                "{}, which makes {} channels",
                list(&self.blocks),
                list(&widths)
            );
            let expected = format!("blocks after which there are 1 to {MAX_CHANNELS}");
            faults.add("/blocks", found, expected);
        }
        let smallest = image.map(|extent| {
            let halves = self.blocks.len() - 1;
            extent.div_ceil(2).div_ceil(2) >> halves
        });
        if smallest.contains(&0) {
            let found = format!("{} blocks", self.blocks.len());
            let expected = format!("as many as leave a pixel of {image:?}");
            faults.add("/blocks", found, expected);
        }
        faults
    }

    /// Channels of the maps that [`DenseNet::forward`] gives.
    pub(crate) fn widths(&self) -> Vec<usize> {
        let mut widths = vec![self.stem_width; 2];
        let mut width = self.stem_width;
        for (n, layers) in self.blocks.iter().enumerate() {
            width = width.saturating_add(layers.saturating_mul(self.growth));
            if n + 1 < self.blocks.len() {
                width /= 2;
            }
            widths.push(width);
        }
        widths
    }
}

/// Its layers.
pub(crate) struct DenseNet {
    stem: (Conv, NormLayer),
    blocks: Vec<Vec<Layer>>,
    /// Between two blocks.
    transitions: Vec<(NormLayer, Conv)>,
    last: NormLayer,
}

/// Two convolutions, each after a normalisation and an activation.
struct Layer {
    norms: [NormLayer; 2],
    convs: [Conv; 2],
}

fn norm(d: &mut Declaration, name: &str, width: usize) -> NormLayer {
    d.within(name, |d| NormLayer::declare(d, width, Norm::Batch, EPSILON))
}

impl DenseNet {
    /// For images of so many channels.
    pub fn declare(d: &mut Declaration, config: &DenseNetConfig, channels: usize) -> Self {
        let stem = (
            Conv::declare(d, "conv0", channels, config.stem_width, 7, 2),
            norm(d, "norm0", config.stem_width),
        );
        let (mut blocks, mut transitions) = (Vec::new(), Vec::new());
        let mut width = config.stem_width;
        for (n, &count) in config.blocks.iter().enumerate() {
            let between = config.bottleneck * config.growth;
            let layers = (0..count).map(|layer| {
                let inputs = width + layer * config.growth;
                let name = format!("denseblock{}.denselayer{}", n + 1, layer + 1);
                d.within(name, |d| Layer {
                    norms: [norm(d, "norm1", inputs), norm(d, "norm2", between)],
                    convs: [
                        Conv::declare(d, "conv1", inputs, between, 1, 1),
                        Conv::declare(d, "conv2", between, config.growth, 3, 1),
                    ],
                })
            });
            blocks.push(layers.collect());
            width += count * config.growth;
            if n + 1 < config.blocks.len() {
                transitions.push(d.within(format_args!("transition{}", n + 1), |d| {
                    (
                        norm(d, "norm", width),
                        Conv::declare(d, "conv", width, width / 2, 1, 1),
                    )
                }));
                width /= 2;
            }
        }
        Self {
            stem,
            blocks,
            transitions,
            // So called whatever the number of blocks.
            last: norm(d, "norm5", width),
        }
    }

    /// The maps from the largest extents to the smallest: the first convolution's, what is left of it after the pooling, that of each
    /// transition, and the last block's, normalised and not activated.
    pub fn forward(&self, pass: &mut Pass<'_>, images: &Tensor) -> Result<Vec<Tensor>> {
        let (conv, norm) = &self.stem;
        let first = conv.forward(pass.weights, images)?;
        let first = norm.forward(pass, &first)?.relu()?;
        let mut x = first.max_pool2d(PoolOptions {
            kernel: [3, 3],
            stride: [2, 2],
            padding: [1, 1],
        })?;
        let mut maps = vec![first, x.clone()];
        for (n, block) in self.blocks.iter().enumerate() {
            for layer in block {
                let mut y = x.clone();
                for (norm, conv) in layer.norms.iter().zip(&layer.convs) {
                    y = norm.forward(pass, &y)?.relu()?;
                    y = conv.forward(pass.weights, &y)?;
                }
                x = Tensor::cat(&[&x, &y], 1)?;
            }
            x = match self.transitions.get(n) {
                Some((norm, conv)) => {
                    let y = norm.forward(pass, &x)?.relu()?;
                    let y = conv.forward(pass.weights, &y)?;
                    y.avg_pool2d(PoolOptions {
                        kernel: [2, 2],
                        stride: [2, 2],
                        padding: [0, 0],
                    })?
                }
                None => self.last.forward(pass, &x)?,
            };
            maps.push(x.clone());
        }
        Ok(maps)
    }
}

//! Residual networks (He et al. 2016) with torchvision's structure and parameter names, so that its checkpoints fit once they are
//! safetensors. The normalisation, the stem, the widths and the block are configuration: ResNet-50 and a small GroupNorm network for
//! 28×28 pixels are the same code.

use std::sync::Arc;

use dtta_tensor::{PoolOptions, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backbone::{Backbone, Outputs, Statistics};
use crate::denoiser::expect_images;
use crate::error::{ModelError, Result};
use crate::layers::{Conv, Linear};
use crate::weights::{Declaration, Group, Init, ParameterId, ParameterSpec, Weights};

/// Epsilon of the normalisation layers.
const EPSILON: f64 = 1e-5;

/// What a stage is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BlockKind {
    /// Two 3×3 convolutions (ResNet-18, -34).
    #[default]
    Basic,
    /// 1×1, 3×3, 1×1, four times as wide at its end (ResNet-50 and deeper).
    Bottleneck,
}

impl BlockKind {
    fn expansion(self) -> usize {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }
}

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

/// Which normalisation follows each convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Norm {
    /// BatchNorm.
    #[default]
    Batch,
    /// GroupNorm: a row's result does not depend on its neighbours, in training either.
    Group {
        /// Number of groups; divides every width.
        #[schemars(range(min = 1))]
        groups: usize,
    },
}

/// A residual network. ResNet-18 is all defaults with `image: [3, 224, 224], classes: 1000`; ResNet-50 has
/// `block: "bottleneck", blocks: [3, 4, 6, 3]` besides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// Channels, height and width of the images.
    pub image: [usize; 3],
    /// Number of classes.
    #[schemars(range(min = 1))]
    pub classes: usize,
    /// What a stage is made of.
    #[serde(default)]
    pub block: BlockKind,
    /// Number of blocks in each stage. Every stage but the first halves the extents.
    #[serde(default = "two_each")]
    pub blocks: Vec<usize>,
    /// Channels in each stage, before a bottleneck widens them. The stem has the first.
    #[serde(default = "doubling")]
    pub widths: Vec<usize>,
    /// What comes before the first stage.
    #[serde(default)]
    pub stem: Stem,
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
    fn check(&self) -> Result<()> {
        if self.image.contains(&0) {
            return Err(ModelError::value(
                "/image",
                format!("{:?}", self.image),
                "three extents of 1 or more",
            ));
        }
        if self.classes == 0 {
            return Err(ModelError::value("/classes", 0, "1 or more"));
        }
        if self.blocks.is_empty() || self.blocks.contains(&0) {
            return Err(ModelError::value(
                "/blocks",
                format!("{:?}", self.blocks),
                "at least one stage of one block or more",
            ));
        }
        if self.widths.len() != self.blocks.len() || self.widths.contains(&0) {
            let expected = format!(
                "{} widths of 1 or more, one for each stage",
                self.blocks.len()
            );
            return Err(ModelError::value(
                "/widths",
                format!("{:?}", self.widths),
                expected,
            ));
        }
        if let Norm::Group { groups } = self.norm {
            let divides = |width: &usize| groups > 0 && width.is_multiple_of(groups);
            if !self.widths.iter().all(divides) {
                return Err(ModelError::value(
                    "/norm/groups",
                    groups,
                    format!("a divisor of the widths {:?}", self.widths),
                ));
            }
        }
        Ok(())
    }
}

/// A residual network's structure.
pub struct ResNet {
    config: ResNetConfig,
    specs: Arc<[ParameterSpec]>,
    stem: Normalised,
    blocks: Vec<Block>,
    head: Linear,
}

/// A convolution and its normalisation.
struct Normalised {
    conv: Conv,
    norm: NormLayer,
}

struct NormLayer {
    scale: ParameterId,
    shift: ParameterId,
    kind: NormKind,
}

enum NormKind {
    Batch {
        mean: ParameterId,
        variance: ParameterId,
    },
    Group {
        groups: usize,
    },
}

struct Block {
    convs: Vec<Normalised>,
    shortcut: Option<Normalised>,
}

/// What one forward pass needs beside its input.
struct Pass<'a> {
    weights: &'a Weights,
    statistics: Statistics,
    /// What the batch's statistics were, where training wants to know.
    observed: Option<Vec<(ParameterId, Tensor)>>,
}

impl ResNet {
    /// The structure that `config` describes. Allocates no parameter.
    ///
    /// # Errors
    /// [`ModelError::Value`] for values that contradict one another.
    pub fn new(config: ResNetConfig) -> Result<Self> {
        config.check()?;
        let mut d = Declaration::new();
        let window = match config.stem {
            Stem::Imagenet => (7, 2),
            Stem::Small => (3, 1),
        };
        let mut channels = config.widths[0];
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
                    Block::declare(d, &config, channels, width, stride)
                }));
                channels = width * config.block.expansion();
            }
        }
        let head = Linear::declare_head(&mut d, "fc", channels, config.classes);
        Ok(Self {
            specs: d.finish(),
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

    fn run(&self, pass: &mut Pass<'_>, images: &Tensor) -> Result<Outputs> {
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
        Ok(vec![
            ("features".into(), features),
            ("logits".into(), logits),
        ])
    }
}

impl Backbone for ResNet {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.specs
    }

    fn image_shape(&self) -> [usize; 3] {
        self.config.image
    }

    fn classes(&self) -> usize {
        self.config.classes
    }

    fn forward(
        &self,
        weights: &Weights,
        images: &Tensor,
        statistics: Statistics,
    ) -> Result<Outputs> {
        self.run(
            &mut Pass {
                weights,
                statistics,
                observed: None,
            },
            images,
        )
    }

    fn forward_training(
        &self,
        weights: &Weights,
        images: &Tensor,
    ) -> Result<(Outputs, Vec<(ParameterId, Tensor)>)> {
        let mut pass = Pass {
            weights,
            statistics: Statistics::Batch,
            observed: Some(Vec::new()),
        };
        let outputs = self.run(&mut pass, images)?;
        Ok((outputs, pass.observed.unwrap_or_default()))
    }
}

impl Normalised {
    /// Names of convolution and normalisation, channels in and out, (window, stride).
    fn declare(
        d: &mut Declaration,
        names: [&str; 2],
        channels: [usize; 2],
        window: (usize, usize),
        norm: Norm,
    ) -> Self {
        let [inputs, outputs] = channels;
        Self {
            conv: Conv::declare(d, names[0], inputs, outputs, window.0, window.1),
            norm: d.within(names[1], |d| NormLayer::declare(d, outputs, norm)),
        }
    }

    fn forward(&self, pass: &mut Pass<'_>, x: &Tensor) -> Result<Tensor> {
        self.norm
            .forward(pass, &self.conv.forward(pass.weights, x)?)
    }
}

impl NormLayer {
    fn declare(d: &mut Declaration, channels: usize, norm: Norm) -> Self {
        Self {
            scale: d.declare("weight", &[channels], Group::Norm, Init::Ones),
            shift: d.declare("bias", &[channels], Group::Norm, Init::Zeros),
            kind: match norm {
                Norm::Batch => NormKind::Batch {
                    mean: d.declare("running_mean", &[channels], Group::Buffer, Init::Zeros),
                    variance: d.declare("running_var", &[channels], Group::Buffer, Init::Ones),
                },
                Norm::Group { groups } => NormKind::Group { groups },
            },
        }
    }

    fn forward(&self, pass: &mut Pass<'_>, x: &Tensor) -> Result<Tensor> {
        let (scale, shift) = (pass.weights.get(self.scale), pass.weights.get(self.shift));
        match self.kind {
            NormKind::Group { groups } => {
                Ok(x.group_norm(groups, Some(scale), Some(shift), EPSILON)?)
            }
            NormKind::Batch { mean, variance } => {
                let (m, v) = match pass.statistics {
                    Statistics::Running => (
                        pass.weights.get(mean).clone(),
                        pass.weights.get(variance).clone(),
                    ),
                    Statistics::Batch => {
                        let m = x.mean(&[0, 2, 3], false)?;
                        let v = x.variance(&[0, 2, 3], false)?;
                        if let Some(observed) = &mut pass.observed {
                            // As in PyTorch, the running variance is the unbiased one.
                            let n = (x.shape().elements() / x.shape()[1]) as f64;
                            observed.push((mean, m.detach()));
                            observed
                                .push((variance, v.detach().affine(n / (n - 1.0).max(1.0), 0.0)?));
                        }
                        (m, v)
                    }
                };
                Ok(x.batch_norm(&m, &v, Some(scale), Some(shift), EPSILON)?)
            }
        }
    }
}

impl Block {
    fn declare(
        d: &mut Declaration,
        config: &ResNetConfig,
        inputs: usize,
        width: usize,
        stride: usize,
    ) -> Self {
        let outputs = width * config.block.expansion();
        // Channels in and out, window and stride of each convolution.
        let plan: &[([usize; 2], (usize, usize))] = match config.block {
            BlockKind::Basic => &[([inputs, width], (3, stride)), ([width, width], (3, 1))],
            BlockKind::Bottleneck => &[
                ([inputs, width], (1, 1)),
                ([width, width], (3, stride)),
                ([width, outputs], (1, 1)),
            ],
        };
        let convs = plan
            .iter()
            .enumerate()
            .map(|(n, &(channels, window))| {
                let names = [format!("conv{}", n + 1), format!("bn{}", n + 1)];
                Normalised::declare(d, [&names[0], &names[1]], channels, window, config.norm)
            })
            .collect();
        let shortcut = (stride != 1 || inputs != outputs).then(|| {
            Normalised::declare(
                d,
                ["downsample.0", "downsample.1"],
                [inputs, outputs],
                (1, stride),
                config.norm,
            )
        });
        Self { convs, shortcut }
    }

    fn forward(&self, pass: &mut Pass<'_>, x: &Tensor) -> Result<Tensor> {
        let mut y = x.clone();
        for (n, conv) in self.convs.iter().enumerate() {
            if n > 0 {
                y = y.relu()?;
            }
            y = conv.forward(pass, &y)?;
        }
        let x = match &self.shortcut {
            Some(shortcut) => shortcut.forward(pass, x)?,
            None => x.clone(),
        };
        Ok(y.add(&x)?.relu()?)
    }
}

//! What residual networks are made of, with torchvision's parameter names: convolutions with their normalisation, and the blocks.

use std::sync::Arc;

use dtta_tensor::{Named, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backbone::{Backbone, BackboneSpec, BatchNormStatistics};
use crate::error::Result;
use crate::fault::{Faults, MAX_EXTENT, list};
use crate::layers::Conv;
use crate::weights::{Declaration, Group, Init, ParameterId, ParameterSpec, Weights};

/// Epsilon of a residual network's normalisation layers.
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
    pub(crate) fn expansion(self) -> usize {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }
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
        #[schemars(range(min = 1, max = MAX_EXTENT))]
        groups: usize,
    },
}

impl Norm {
    pub(crate) fn check(self, widths: &[usize]) -> Faults {
        let mut faults = Faults::default();
        if let Self::Group { groups } = self
            && (groups == 0 || widths.iter().any(|width| !width.is_multiple_of(groups)))
        {
            let expected = format!("a divisor of the widths {}", list(widths));
            faults.add("/groups", groups, expected);
        }
        faults
    }
}

/// A convolution and its normalisation.
pub(crate) struct Normalised {
    conv: Conv,
    norm: NormLayer,
}

/// A normalisation over the channels of `[B, C, H, W]`.
pub(crate) struct NormLayer {
    scale: ParameterId,
    shift: ParameterId,
    kind: NormKind,
    epsilon: f64,
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

pub(crate) struct Block {
    convs: Vec<Normalised>,
    shortcut: Option<Normalised>,
}

/// What one forward pass needs beside its input.
pub(crate) struct Pass<'a> {
    pub weights: &'a Weights,
    statistics: BatchNormStatistics,
    /// What became of the running statistics, where training or a stream wants to know.
    observed: Option<Vec<(ParameterId, Tensor)>>,
}

impl<'a> Pass<'a> {
    pub fn new(weights: &'a Weights, statistics: BatchNormStatistics) -> Self {
        Self {
            weights,
            statistics,
            observed: None,
        }
    }

    /// One that takes the batch's statistics and notes what they were.
    pub fn training(weights: &'a Weights) -> Self {
        Self {
            weights,
            statistics: BatchNormStatistics::Batch,
            observed: Some(Vec::new()),
        }
    }

    /// One that mixes this share of the batch's statistics in, and notes what came of it.
    pub fn mixing(weights: &'a Weights, share: f64) -> Self {
        Self {
            weights,
            statistics: BatchNormStatistics::Mixed(share),
            observed: Some(Vec::new()),
        }
    }

    /// What was noted of every running statistic.
    pub fn observed(self) -> Vec<(ParameterId, Tensor)> {
        self.observed.unwrap_or_default()
    }
}

/// A backbone whose layers may keep running statistics.
pub(crate) trait Passes: Send + Sync {
    fn parameters(&self) -> &Arc<[ParameterSpec]>;

    fn spec(&self) -> &BackboneSpec;

    fn run(&self, pass: &mut Pass<'_>, images: &Tensor) -> Result<Named>;
}

impl<T: Passes> Backbone for T {
    fn parameters(&self) -> &Arc<[ParameterSpec]> {
        Passes::parameters(self)
    }

    fn spec(&self) -> &BackboneSpec {
        Passes::spec(self)
    }

    fn forward(
        &self,
        weights: &Weights,
        images: &Tensor,
        statistics: BatchNormStatistics,
    ) -> Result<Named> {
        self.run(&mut Pass::new(weights, statistics), images)
    }

    fn forward_training(
        &self,
        weights: &Weights,
        images: &Tensor,
    ) -> Result<(Named, Vec<(ParameterId, Tensor)>)> {
        let mut pass = Pass::training(weights);
        let outputs = self.run(&mut pass, images)?;
        Ok((outputs, pass.observed()))
    }

    fn forward_mixing(
        &self,
        weights: &Weights,
        images: &Tensor,
        share: f64,
    ) -> Result<(Named, Vec<(ParameterId, Tensor)>)> {
        let mut pass = Pass::mixing(weights, share);
        let outputs = self.run(&mut pass, images)?;
        Ok((outputs, pass.observed()))
    }
}

impl Normalised {
    /// Names of convolution and normalisation, channels in and out, (window, stride).
    pub fn declare(
        d: &mut Declaration,
        names: [&str; 2],
        channels: [usize; 2],
        window: (usize, usize),
        norm: Norm,
    ) -> Self {
        let [inputs, outputs] = channels;
        Self {
            conv: Conv::declare(d, names[0], inputs, outputs, window.0, window.1),
            norm: d.within(names[1], |d| NormLayer::declare(d, outputs, norm, EPSILON)),
        }
    }

    pub fn forward(&self, pass: &mut Pass<'_>, x: &Tensor) -> Result<Tensor> {
        self.norm
            .forward(pass, &self.conv.forward(pass.weights, x)?)
    }
}

impl NormLayer {
    pub fn declare(d: &mut Declaration, channels: usize, norm: Norm, epsilon: f64) -> Self {
        Self {
            epsilon,
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

    pub fn forward(&self, pass: &mut Pass<'_>, x: &Tensor) -> Result<Tensor> {
        let (scale, shift) = (pass.weights.get(self.scale), pass.weights.get(self.shift));
        match self.kind {
            NormKind::Group { groups } => {
                Ok(x.group_norm(groups, Some(scale), Some(shift), self.epsilon)?)
            }
            NormKind::Batch { mean, variance } => {
                let (m, v) = match pass.statistics {
                    BatchNormStatistics::Running => (
                        pass.weights.get(mean).clone(),
                        pass.weights.get(variance).clone(),
                    ),
                    BatchNormStatistics::Batch => {
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
                    BatchNormStatistics::Mixed(share) => {
                        let weights = pass.weights;
                        let mix = |of_training: ParameterId, of_batch: Tensor| -> Result<Tensor> {
                            let kept = weights.get(of_training).affine(1.0 - share, 0.0)?;
                            Ok(kept.add(&of_batch.affine(share, 0.0)?)?)
                        };
                        let m = mix(mean, x.mean(&[0, 2, 3], false)?)?;
                        let v = mix(variance, x.variance(&[0, 2, 3], false)?)?;
                        if let Some(observed) = &mut pass.observed {
                            observed.push((mean, m.detach()));
                            observed.push((variance, v.detach()));
                        }
                        (m, v)
                    }
                };
                Ok(x.batch_norm(&m, &v, Some(scale), Some(shift), self.epsilon)?)
            }
        }
    }
}

impl Block {
    pub fn declare(
        d: &mut Declaration,
        (kind, norm): (BlockKind, Norm),
        inputs: usize,
        width: usize,
        stride: usize,
    ) -> Self {
        let outputs = width * kind.expansion();
        // Channels in and out, window and stride of each convolution.
        let plan: &[([usize; 2], (usize, usize))] = match kind {
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
                Normalised::declare(d, [&names[0], &names[1]], channels, window, norm)
            })
            .collect();
        let shortcut = (stride != 1 || inputs != outputs).then(|| {
            Normalised::declare(
                d,
                ["downsample.0", "downsample.1"],
                [inputs, outputs],
                (1, stride),
                norm,
            )
        });
        Self { convs, shortcut }
    }

    pub fn forward(&self, pass: &mut Pass<'_>, x: &Tensor) -> Result<Tensor> {
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

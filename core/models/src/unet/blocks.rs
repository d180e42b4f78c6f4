//! What diffusers' 2-D U-Nets and autoencoders are made of, parameter names included: `ResnetBlock2D`, `Attention` over pixels, and the
//! changes of extents between levels (`resnet.py`, `attention_processor.py`, `downsampling.py`, `upsampling.py`).

use dtta_tensor::{PoolOptions, Tensor};

use crate::error::Result;
use crate::layers::{Activation, BiasedConv, GroupNorm, Linear};
use crate::weights::{Declaration, Weights};

/// What the residual blocks of a model have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResidualStyle {
    /// Groups and epsilon of the normalisation.
    pub norm: (usize, f64),
    pub act: Activation,
    /// Width of the time embedding, if they take one.
    pub time: Option<usize>,
    /// Whether the time embedding scales what it shifts (Dhariwal and Nichol 2021, AdaGN).
    pub scale_shift: bool,
    /// What the sum of both branches is divided by.
    pub divisor: f64,
}

/// What happens to the extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extents {
    Kept,
    Halved,
    Grown,
}

/// diffusers' `ResnetBlock2D`.
pub(crate) struct Residual {
    norms: [GroupNorm; 2],
    convs: [BiasedConv; 2],
    time: Option<Linear>,
    shortcut: Option<BiasedConv>,
    style: ResidualStyle,
    extents: Extents,
}

impl Residual {
    pub fn declare(
        d: &mut Declaration,
        style: ResidualStyle,
        [inputs, outputs]: [usize; 2],
        extents: Extents,
    ) -> Self {
        let parts = if style.scale_shift { 2 } else { 1 };
        Self {
            norms: [
                GroupNorm::declare(d, "norm1", inputs, style.norm),
                GroupNorm::declare(d, "norm2", outputs, style.norm),
            ],
            convs: [
                BiasedConv::declare(d, "conv1", inputs, outputs, 3, 1),
                BiasedConv::declare(d, "conv2", outputs, outputs, 3, 1),
            ],
            time: style
                .time
                .map(|width| Linear::declare_default(d, "time_emb_proj", width, parts * outputs)),
            shortcut: (inputs != outputs)
                .then(|| BiasedConv::declare(d, "conv_shortcut", inputs, outputs, 1, 1)),
            style,
            extents,
        }
    }

    /// `x` is `[B, C, H, W]`, `time` the activated time embedding, and `grown` the height and width of the result where the extents grow.
    pub fn forward(
        &self,
        weights: &Weights,
        x: &Tensor,
        time: Option<&Tensor>,
        grown: [usize; 2],
    ) -> Result<Tensor> {
        let [first, second] = &self.norms;
        let act = self.style.act;
        let resampled = |x: Tensor| -> Result<Tensor> {
            Ok(match self.extents {
                Extents::Kept => x,
                Extents::Halved => x.avg_pool2d(PoolOptions {
                    kernel: [2, 2],
                    stride: [2, 2],
                    padding: [0, 0],
                })?,
                Extents::Grown => x.resize_nearest(grown[0], grown[1])?,
            })
        };
        let inner = resampled(first.activated(weights, x, act)?)?;
        let inner = self.convs[0].forward(weights, &inner)?;
        let x = resampled(x.clone())?;
        let time = match (&self.time, time) {
            (Some(layer), Some(time)) => {
                Some(layer.forward(weights, time)?.unsqueeze(2)?.unsqueeze(3)?)
            }
            _ => None,
        };
        let inner = match &time {
            None => second.activated(weights, &inner, act)?,
            Some(time) if self.style.scale_shift => {
                let channels = inner.shape()[1];
                let (scale, shift) = (
                    time.narrow(1, 0, channels)?,
                    time.narrow(1, channels, channels)?,
                );
                let normal = second.forward(weights, &inner)?;
                act.of(&normal.mul(&scale.affine(1.0, 1.0)?)?.add(&shift)?)?
            }
            Some(time) => second.activated(weights, &inner.add(time)?, act)?,
        };
        let inner = self.convs[1].forward(weights, &inner)?;
        let sum = match &self.shortcut {
            Some(conv) => conv.forward(weights, &x)?.add(&inner)?,
            None => x.add(&inner)?,
        };
        Ok(sum.affine(1.0 / self.style.divisor, 0.0)?)
    }
}

/// diffusers' `Attention` as its 2-D blocks use it: normalised self-attention over pixels, added to its input.
pub(crate) struct SelfAttention {
    norm: Option<GroupNorm>,
    query_key_value: [Linear; 3],
    out: Linear,
    heads: usize,
    divisor: f64,
}

impl SelfAttention {
    /// `head` is the number of channels of a head.
    pub fn declare(
        d: &mut Declaration,
        norm: Option<(usize, f64)>,
        channels: usize,
        head: usize,
        divisor: f64,
    ) -> Self {
        Self {
            norm: norm.map(|norm| GroupNorm::declare(d, "group_norm", channels, norm)),
            query_key_value: ["to_q", "to_k", "to_v"]
                .map(|name| Linear::declare_default(d, name, channels, channels)),
            out: Linear::declare_default(d, "to_out.0", channels, channels),
            heads: channels / head,
            divisor,
        }
    }

    pub fn forward(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        let shape = x.shape();
        let (batch, channels) = (shape[0], shape[1]);
        let normal = match &self.norm {
            Some(norm) => norm.forward(weights, x)?,
            None => x.clone(),
        };
        let pixels = normal
            .reshape(&[batch as i64, channels as i64, -1])?
            .permute(&[0, 2, 1])?;
        let [query, key, value] = &self.query_key_value;
        let parts = [
            query.forward(weights, &pixels)?,
            key.forward(weights, &pixels)?,
            value.forward(weights, &pixels)?,
        ];
        let mixed =
            Tensor::cat(&[&parts[0], &parts[1], &parts[2]], 2)?.self_attention(self.heads)?;
        let mixed = self.out.forward(weights, &mixed)?.permute(&[0, 2, 1])?;
        let sum = mixed
            .reshape(&shape.iter().map(|&e| e as i64).collect::<Vec<_>>())?
            .add(x)?;
        Ok(sum.affine(1.0 / self.divisor, 0.0)?)
    }
}

/// diffusers' `Downsample2D`: a convolution with stride 2.
pub(crate) struct Halving {
    conv: BiasedConv,
    /// Whether there are zeros at the right and at the bottom only.
    one_sided: bool,
}

impl Halving {
    pub fn declare(d: &mut Declaration, name: &str, channels: usize, one_sided: bool) -> Self {
        let conv = BiasedConv::declare(d, name, channels, channels, 3, 2);
        Self {
            conv: if one_sided { conv.unpadded() } else { conv },
            one_sided,
        }
    }

    pub fn forward(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        match self.one_sided {
            true => self
                .conv
                .forward(weights, &x.pad(2, 0, 1, 0.0)?.pad(3, 0, 1, 0.0)?),
            false => self.conv.forward(weights, x),
        }
    }

    /// The extent that is left of one.
    pub fn left(extent: usize, one_sided: bool) -> usize {
        match one_sided {
            true => extent / 2,
            false => extent.div_ceil(2),
        }
    }
}

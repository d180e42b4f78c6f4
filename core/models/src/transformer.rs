//! What vision transformers and the networks after their pattern are made of: normalisation over the channels of each place, two linear
//! layers with an activation between them, and a learned scale for each channel of a branch.

use std::sync::Arc;

use dtta_tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::weights::{Declaration, Group, Init, ParameterId, Weights};

/// How linear layers start: timm's truncated normal distribution, without the truncation.
pub(crate) const INIT: Init = Init::Normal(0.02);

/// What stands between the two linear layers of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MlpActivation {
    /// `x Φ(x)`, exact.
    #[default]
    Gelu,
    /// `x Φ(x)` with the tanh approximation of `Φ`.
    GeluTanh,
    /// `x sigmoid(x)`.
    Silu,
    /// `max(x, 0)`.
    Relu,
}

impl MlpActivation {
    pub(crate) fn apply(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Gelu => x.gelu(),
            Self::GeluTanh => x.gelu_tanh(),
            Self::Silu => x.silu(),
            Self::Relu => x.relu(),
        }?)
    }
}

/// Layer normalisation over the last axis, with scale and shift.
pub(crate) struct LayerNorm {
    scale: ParameterId,
    shift: ParameterId,
    epsilon: f64,
}

impl LayerNorm {
    pub fn declare(d: &mut Declaration, name: &str, width: usize, epsilon: f64) -> Self {
        d.within(name, |d| Self {
            scale: d.declare("weight", &[width], Group::Norm, Init::Ones),
            shift: d.declare("bias", &[width], Group::Norm, Init::Zeros),
            epsilon,
        })
    }

    pub fn forward(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        let (scale, shift) = (weights.get(self.scale), weights.get(self.shift));
        Ok(x.layer_norm(Some(scale), Some(shift), self.epsilon)?)
    }

    /// Over the channels of `[B, C, H, W]`.
    pub fn forward_channels(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        channels_first(&self.forward(weights, &channels_last(x)?)?)
    }
}

/// `[B, C, H, W]` as `[B, H, W, C]`.
pub(crate) fn channels_last(x: &Tensor) -> Result<Tensor> {
    Ok(x.permute(&[0, 2, 3, 1])?)
}

/// `[B, H, W, C]` as `[B, C, H, W]`.
pub(crate) fn channels_first(x: &Tensor) -> Result<Tensor> {
    Ok(x.permute(&[0, 3, 1, 2])?)
}

/// A linear layer over the last axis, whose weight is `[out, in]` or that of a convolution with a window of one pixel, `[out, in, 1, 1]`.
struct Pointwise {
    weight: ParameterId,
    bias: ParameterId,
    as_window: bool,
}

impl Pointwise {
    fn declare(
        d: &mut Declaration,
        name: &str,
        [inputs, outputs]: [usize; 2],
        as_window: bool,
    ) -> Self {
        let shape: &[usize] = match as_window {
            true => &[outputs, inputs, 1, 1],
            false => &[outputs, inputs],
        };
        d.within(name, |d| Self {
            weight: d.declare("weight", shape, Group::Weight, INIT),
            bias: d.declare("bias", &[outputs], Group::Bias, Init::Zeros),
            as_window,
        })
    }

    fn forward(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (weights.get(self.weight), weights.get(self.bias));
        if !self.as_window {
            return Ok(x.linear(weight, Some(bias))?);
        }
        let [outputs, inputs] = [0, 1].map(|axis| weight.shape()[axis] as i64);
        Ok(x.linear(&weight.reshape(&[outputs, inputs])?, Some(bias))?)
    }
}

/// Two linear layers over the last axis, `fc1` and `fc2`, with an activation between them.
pub(crate) struct Mlp {
    widen: Pointwise,
    narrow: Pointwise,
    activation: MlpActivation,
}

impl Mlp {
    /// Of `width` in and out and `hidden` between; `as_windows` if the weights are those of convolutions with windows of one pixel.
    pub fn declare(
        d: &mut Declaration,
        [width, hidden]: [usize; 2],
        activation: MlpActivation,
        as_windows: bool,
    ) -> Self {
        d.within("mlp", |d| Self {
            widen: Pointwise::declare(d, "fc1", [width, hidden], as_windows),
            narrow: Pointwise::declare(d, "fc2", [hidden, width], as_windows),
            activation,
        })
    }

    pub fn forward(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        let x = self.activation.apply(&self.widen.forward(weights, x)?)?;
        self.narrow.forward(weights, &x)
    }
}

/// A learned scale for each channel of a branch (Touvron et al. 2021).
pub(crate) struct LayerScale(ParameterId);

impl LayerScale {
    /// Of `[width]`, or of `[width, 1, 1]` as a map.
    pub fn declare(d: &mut Declaration, name: &str, width: usize, as_map: bool) -> Self {
        let init = Init::Fixed(Arc::from(vec![1e-6; width]));
        let shape: &[usize] = if as_map { &[width, 1, 1] } else { &[width] };
        Self(d.declare(name, shape, Group::Weight, init))
    }

    /// Scales the last axis of `x`.
    pub fn forward(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        let scale = weights.get(self.0);
        let mut extents = vec![1; x.shape().rank()];
        extents[x.shape().rank() - 1] = scale.shape()[0] as i64;
        Ok(x.mul(&scale.reshape(&extents)?)?)
    }
}

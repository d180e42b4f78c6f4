//! What vision transformers and the networks after their pattern are made of: two linear layers with an activation between them, and a
//! learned scale for each channel of a branch.

use std::sync::Arc;

use dtta_tensor::Tensor;

use crate::error::Result;
use crate::layers::Activation;
use crate::weights::{Declaration, Group, Init, ParameterId, Weights};

/// How linear layers start: timm's truncated normal distribution, without the truncation.
pub(crate) const INIT: Init = Init::Normal(0.02);

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
    activation: Activation,
}

impl Mlp {
    /// Of `width` in and out and `hidden` between; `as_windows` if the weights are those of convolutions with windows of one pixel.
    pub fn declare(
        d: &mut Declaration,
        [width, hidden]: [usize; 2],
        activation: Activation,
        as_windows: bool,
    ) -> Self {
        d.within("mlp", |d| Self {
            widen: Pointwise::declare(d, "fc1", [width, hidden], as_windows),
            narrow: Pointwise::declare(d, "fc2", [hidden, width], as_windows),
            activation,
        })
    }

    pub fn forward(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        let x = self.activation.of(&self.widen.forward(weights, x)?)?;
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

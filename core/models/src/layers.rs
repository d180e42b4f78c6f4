//! Layers that several models are made of: ids of declared parameters, and what is computed with their values.

use dtta_tensor::{ConvOptions, Tensor};

use crate::error::Result;
use crate::weights::{Declaration, Group, Init, ParameterId, Weights};

/// `x Wᵀ + b` over the last axis.
pub(crate) struct Linear {
    pub weight: ParameterId,
    pub bias: ParameterId,
}

impl Linear {
    /// A layer of `[outputs, inputs]` whose bias starts at 0.
    pub fn declare(
        d: &mut Declaration,
        name: &str,
        inputs: usize,
        outputs: usize,
        init: Init,
    ) -> Self {
        d.within(name, |d| Self {
            weight: d.declare("weight", &[outputs, inputs], Group::Weight, init),
            bias: d.declare("bias", &[outputs], Group::Bias, Init::Zeros),
        })
    }

    /// The final classifier layer, with PyTorch's default values.
    pub fn declare_head(d: &mut Declaration, name: &str, inputs: usize, outputs: usize) -> Self {
        d.within(name, |d| Self {
            weight: d.declare(
                "weight",
                &[outputs, inputs],
                Group::Head,
                Init::UniformFanIn(inputs),
            ),
            bias: d.declare("bias", &[outputs], Group::Head, Init::UniformFanIn(inputs)),
        })
    }

    pub fn forward(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        Ok(x.linear(weights.get(self.weight), Some(weights.get(self.bias)))?)
    }
}

/// A convolution without bias, before a normalisation layer.
pub(crate) struct Conv {
    weight: ParameterId,
    options: ConvOptions,
}

impl Conv {
    /// A square `window` with that `stride`, padded so that stride 1 keeps the extents.
    pub fn declare(
        d: &mut Declaration,
        name: &str,
        inputs: usize,
        outputs: usize,
        window: usize,
        stride: usize,
    ) -> Self {
        let shape = [outputs, inputs, window, window];
        let weight = d.within(name, |d| {
            d.declare("weight", &shape, Group::Weight, Init::KaimingNormalFanOut)
        });
        let options = ConvOptions {
            stride: [stride; 2],
            padding: [window / 2; 2],
            ..ConvOptions::default()
        };
        Self { weight, options }
    }

    pub fn forward(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        Ok(x.conv2d(weights.get(self.weight), None, self.options)?)
    }
}

//! Convolutions in the forms that published backbones have: patches side by side, one window for each channel, TensorFlow's padding.

use dtta_tensor::{ConvOptions, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::weights::{Declaration, Group, Init, ParameterId, Weights};

/// How the image is extended with zeros before a window passes over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// By ⌊window / 2⌋ on each side.
    #[default]
    Symmetric,
    /// As TensorFlow's `SAME`: as little as gives ⌈extent / stride⌉ windows; of an odd number the larger half lies below and to the right.
    Same,
}

/// What a convolution looks like, beside its channels.
#[derive(Debug, Clone)]
pub(crate) struct Form {
    pub window: usize,
    pub stride: usize,
    /// `None` for none.
    pub padding: Option<Padding>,
    /// Whether each channel has a window of its own.
    pub depthwise: bool,
    pub bias: bool,
    pub init: Init,
}

/// A convolution of a square window.
pub(crate) struct Convolution {
    weight: ParameterId,
    bias: Option<ParameterId>,
    window: usize,
    padding: Option<Padding>,
    options: ConvOptions,
}

impl Convolution {
    /// Channels in and out; a bias starts at 0.
    pub fn declare(
        d: &mut Declaration,
        name: &str,
        [inputs, outputs]: [usize; 2],
        form: Form,
    ) -> Self {
        let Form {
            window,
            stride,
            padding,
            depthwise,
            ..
        } = form;
        let groups = if depthwise { inputs } else { 1 };
        let shape = [outputs, inputs / groups, window, window];
        let around = match padding {
            Some(Padding::Symmetric) => window / 2,
            Some(Padding::Same) | None => 0,
        };
        d.within(name, |d| Self {
            weight: d.declare("weight", &shape, Group::Weight, form.init),
            bias: form
                .bias
                .then(|| d.declare("bias", &[outputs], Group::Bias, Init::Zeros)),
            window,
            padding,
            options: ConvOptions {
                stride: [stride; 2],
                padding: [around; 2],
                groups,
                ..ConvOptions::default()
            },
        })
    }

    pub fn forward(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        let (mut x, mut options) = (x.clone(), self.options);
        if self.padding == Some(Padding::Same) {
            for axis in 0..2 {
                let (before, after) = self.same(x.shape()[axis + 2]);
                if before == after {
                    options.padding[axis] = before;
                } else {
                    x = x.pad(axis as i64 + 2, before, after, 0.0)?;
                }
            }
        }
        let bias = self.bias.map(|bias| weights.get(bias));
        Ok(x.conv2d(weights.get(self.weight), bias, options)?)
    }

    /// Zeros before and after an axis of this extent.
    fn same(&self, extent: usize) -> (usize, usize) {
        let stride = self.options.stride[0];
        let covered = (extent.div_ceil(stride) - 1) * stride + self.window;
        let missing = covered.saturating_sub(extent);
        (missing / 2, missing - missing / 2)
    }
}

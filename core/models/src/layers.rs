//! Layers that several models are made of: ids of declared parameters, and what is computed with their values.

use dtta_tensor::{ConvOptions, Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

    /// A layer with PyTorch's default values.
    pub fn declare_default(d: &mut Declaration, name: &str, inputs: usize, outputs: usize) -> Self {
        let init = Init::UniformFanIn(inputs);
        d.within(name, |d| Self {
            weight: d.declare("weight", &[outputs, inputs], Group::Weight, init.clone()),
            bias: d.declare("bias", &[outputs], Group::Bias, init),
        })
    }

    pub fn forward(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        Ok(x.linear(weights.get(self.weight), Some(weights.get(self.bias)))?)
    }
}

/// `x Wᵀ` over the last axis, without bias.
pub(crate) struct LinearProjection(ParameterId);

impl LinearProjection {
    /// A layer of `[outputs, inputs]` with PyTorch's default values.
    pub fn declare(d: &mut Declaration, name: &str, inputs: usize, outputs: usize) -> Self {
        let init = Init::UniformFanIn(inputs);
        Self(d.within(name, |d| {
            d.declare("weight", &[outputs, inputs], Group::Weight, init)
        }))
    }

    pub fn forward(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        Ok(x.linear(weights.get(self.0), None)?)
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

/// A convolution with a bias.
pub(crate) struct BiasedConv {
    weight: ParameterId,
    bias: ParameterId,
    options: ConvOptions,
}

impl BiasedConv {
    /// As [`Conv::declare`], with PyTorch's default values.
    pub fn declare(
        d: &mut Declaration,
        name: &str,
        inputs: usize,
        outputs: usize,
        window: usize,
        stride: usize,
    ) -> Self {
        Self::declare_in(
            d,
            name,
            [inputs, outputs],
            (window, stride),
            [Group::Weight, Group::Bias],
        )
    }

    /// The same without padding.
    pub fn unpadded(mut self) -> Self {
        self.options.padding = [0; 2];
        self
    }

    /// The last convolution of a task model.
    pub fn declare_head(d: &mut Declaration, name: &str, inputs: usize, outputs: usize) -> Self {
        Self::declare_last(d, name, inputs, outputs, 1)
    }

    /// The same with a square `window`.
    pub fn declare_last(
        d: &mut Declaration,
        name: &str,
        inputs: usize,
        outputs: usize,
        window: usize,
    ) -> Self {
        let channels = [inputs, outputs];
        Self::declare_in(d, name, channels, (window, 1), [Group::Head; 2])
    }

    fn declare_in(
        d: &mut Declaration,
        name: &str,
        [inputs, outputs]: [usize; 2],
        (window, stride): (usize, usize),
        groups: [Group; 2],
    ) -> Self {
        let shape = [outputs, inputs, window, window];
        let init = Init::UniformFanIn(inputs * window * window);
        let [weight, bias] = groups;
        d.within(name, |d| Self {
            weight: d.declare("weight", &shape, weight, init.clone()),
            bias: d.declare("bias", &[outputs], bias, init),
            options: ConvOptions {
                stride: [stride; 2],
                padding: [window / 2; 2],
                ..ConvOptions::default()
            },
        })
    }

    pub fn forward(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (weights.get(self.weight), weights.get(self.bias));
        Ok(x.conv2d(weight, Some(bias), self.options)?)
    }
}

/// Group normalisation with scale and shift.
pub(crate) struct GroupNorm {
    scale: ParameterId,
    shift: ParameterId,
    groups: usize,
    epsilon: f64,
}

impl GroupNorm {
    pub fn declare(
        d: &mut Declaration,
        name: &str,
        channels: usize,
        (groups, epsilon): (usize, f64),
    ) -> Self {
        d.within(name, |d| Self {
            scale: d.declare("weight", &[channels], Group::Norm, Init::Ones),
            shift: d.declare("bias", &[channels], Group::Norm, Init::Zeros),
            groups,
            epsilon,
        })
    }

    pub fn forward(&self, weights: &Weights, x: &Tensor) -> Result<Tensor> {
        let (scale, shift) = (weights.get(self.scale), weights.get(self.shift));
        Ok(x.group_norm(self.groups, Some(scale), Some(shift), self.epsilon)?)
    }

    /// The same, and then `act`.
    pub fn activated(&self, weights: &Weights, x: &Tensor, act: Activation) -> Result<Tensor> {
        if act != Activation::Silu {
            return act.of(&self.forward(weights, x)?);
        }
        let (scale, shift) = (weights.get(self.scale), weights.get(self.shift));
        Ok(x.group_norm_silu(self.groups, scale, shift, self.epsilon)?)
    }
}

/// Normalisation over the last axis, with scale and shift.
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
}

/// How times are coded for a network: sines and cosines at geometrically falling frequencies (diffusers' `get_timestep_embedding`).
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeCode {
    /// Numbers of a code; the last of an odd number is 0.
    pub width: usize,
    /// How many frequencies fewer than there are it takes to fall to 1/10000.
    pub shift: f64,
    /// Whether the cosines come first.
    pub cosines_first: bool,
}

impl TimeCode {
    /// `[B, width]`, in single precision as the references compute them.
    pub fn of(&self, times: &[f64], device: &Device) -> Result<Tensor> {
        let half = self.width / 2;
        let step = -(10_000f64.ln() as f32);
        let frequencies: Vec<f32> = (0..half)
            .map(|i| (step * i as f32 / (half as f64 - self.shift) as f32).exp())
            .collect();
        let mut codes = Vec::with_capacity(times.len() * self.width);
        for &time in times {
            let angles = frequencies.iter().map(|frequency| time as f32 * frequency);
            if self.cosines_first {
                codes.extend(angles.clone().map(f32::cos));
                codes.extend(angles.map(f32::sin));
            } else {
                codes.extend(angles.clone().map(f32::sin));
                codes.extend(angles.map(f32::cos));
            }
            codes.extend(std::iter::repeat_n(0.0, self.width % 2));
        }
        Ok(Tensor::from_floats(
            &codes,
            &[times.len(), self.width],
            device,
        )?)
    }
}

/// A function that is applied to each element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x sigmoid(x)`.
    #[default]
    Silu,
    /// `x tanh(ln(1 + e^x))` (Misra 2019).
    Mish,
    /// `x Φ(x)` with the exact error function.
    Gelu,
    /// `x Φ(x)` with the tanh approximation of `Φ` (diffusers' `gelu-approximate`).
    GeluTanh,
    /// `x sigmoid(1.702 x)`, an approximation of `x Φ(x)` (Hendrycks and Gimpel 2016), as OpenAI's CLIP has it.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
}

impl Activation {
    pub(crate) fn of(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Silu => x.silu()?,
            Self::Gelu => x.gelu()?,
            Self::GeluTanh => x.gelu_tanh()?,
            Self::QuickGelu => x.mul(&x.affine(1.702, 0.0)?.sigmoid()?)?,
            Self::Relu => x.relu()?,
            // ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|), which does not overflow.
            Self::Mish => {
                let small = x.abs()?.neg()?.exp()?.affine(1.0, 1.0)?.log()?;
                x.mul(&x.relu()?.add(&small)?.tanh()?)?
            }
        })
    }
}

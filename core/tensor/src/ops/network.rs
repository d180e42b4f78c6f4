//! Products, softmax, convolution, pooling and normalisation.

use burn::backend::Dispatch;
use burn::backend::ops::{
    ActivationOps, ConvOptions as BurnConvOptions, FloatTensorOps, ModuleOps,
};

use crate::cpu::CpuOps;
use crate::error::{Result, TensorError};
use crate::libtorch::TorchOps;
use crate::tally;
use crate::tensor::{Kind, Tensor, guard};

/// How a convolution walks: each pair is (vertical, horizontal).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvOptions {
    /// Steps between outputs.
    pub stride: [usize; 2],
    /// Zeros on each side.
    pub padding: [usize; 2],
    /// Distance between kernel elements.
    pub dilation: [usize; 2],
    /// Into how many independent groups the channels fall.
    pub groups: usize,
}

impl Default for ConvOptions {
    fn default() -> Self {
        Self {
            stride: [1, 1],
            padding: [0, 0],
            dilation: [1, 1],
            groups: 1,
        }
    }
}

/// How a pooling window walks: each pair is (vertical, horizontal).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolOptions {
    /// Window size.
    pub kernel: [usize; 2],
    /// Steps between windows.
    pub stride: [usize; 2],
    /// Padding on each side: zeros for the average, nothing for the maximum.
    pub padding: [usize; 2],
}

impl Tensor {
    /// The matrix product over the last two axes; leading axes broadcast.
    ///
    /// # Errors
    /// [`TensorError::Shape`] unless ranks are equal and at least 2 and the inner extents agree,
    /// [`TensorError::Broadcast`] for leading axes that do not fit.
    pub fn matmul(&self, rhs: &Tensor) -> Result<Tensor> {
        let op = "matmul";
        self.expect_kind(op, "x", Kind::Float)?;
        rhs.expect_kind(op, "rhs", Kind::Float)?;
        let (x, y) = (self.shape(), rhs.shape());
        let rank = x.rank();
        if rank < 2 {
            return Err(self.shape_error(op, "x", "rank 2 or more"));
        }
        rhs.expect_rank(op, "rhs", rank)?;
        if x[rank - 1] != y[rank - 2] {
            return Err(rhs.shape_error(
                op,
                "rhs",
                format!("extent {} at axis {}", x[rank - 1], rank - 2),
            ));
        }
        if x[..rank - 2]
            .iter()
            .zip(&y[..rank - 2])
            .any(|(&a, &b)| a != b && a != 1 && b != 1)
        {
            return Err(TensorError::Broadcast { op, lhs: x, rhs: y });
        }
        let pairs = x[..rank - 2].iter().zip(&y[..rank - 2]);
        let batches: usize = pairs.map(|(&a, &b)| a.max(b)).product();
        tally::products(batches * x[rank - 2] * y[rank - 1], x[rank - 1]);
        guard(op, || {
            self.like(Dispatch::float_matmul(self.raw.clone(), rhs.raw.clone()))
        })
    }

    /// `x Wᵀ + b` over the last axis, for a weight of `[out, in]` as PyTorch stores it.
    ///
    /// # Errors
    /// [`TensorError::Shape`] unless the last extent of `x` is `in` and the bias has `[out]`.
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let op = "linear";
        weight.expect_rank(op, "weight", 2)?;
        let (outputs, inputs) = (weight.shape()[0], weight.shape()[1]);
        let shape = self.shape();
        if shape[shape.rank() - 1] != inputs {
            return Err(self.shape_error(op, "x", format!("last extent {inputs}")));
        }
        if let Some(bias) = bias
            && (self.has_cpu_ops() || self.has_torch_ops())
        {
            self.expect_kind(op, "x", Kind::Float)?;
            weight.expect_kind(op, "weight", Kind::Float)?;
            bias.expect_kind(op, "bias", Kind::Float)?;
            bias.expect_shape(op, "bias", &[outputs])?;
            tally::products(shape.elements() / inputs * outputs, inputs);
            return guard(op, || {
                let (x, weight, bias) = (self.raw.clone(), weight.raw.clone(), bias.raw.clone());
                self.like(match self.has_torch_ops() {
                    true => Dispatch::torch_linear(x, weight, bias),
                    false => Dispatch::cpu_linear(x, weight, bias),
                })
            });
        }
        // One flat product is faster than a batch of small ones.
        let flat = self.reshape(&[-1, inputs as i64])?;
        let mut y = flat.matmul(&weight.permute(&[1, 0])?)?;
        if let Some(bias) = bias {
            bias.expect_shape(op, "bias", &[outputs])?;
            y = y.add(&bias.unsqueeze(0)?)?;
        }
        let mut extents: Vec<i64> = shape.iter().map(|&e| e as i64).collect();
        extents[shape.rank() - 1] = outputs as i64;
        y.reshape(&extents)
    }

    /// `e^x` along `axis`, divided by its sum.
    ///
    /// # Errors
    /// [`TensorError::Axis`] if there is no such axis, [`TensorError::Kind`] unless the elements are floats.
    pub fn softmax(&self, axis: i64) -> Result<Tensor> {
        self.expect_kind("softmax", "x", Kind::Float)?;
        let axis = self.shape().axis("softmax", axis)?;
        let last = axis + 1 == self.shape().rank();
        let x = self.raw.clone();
        guard("softmax", || {
            self.like(if self.has_cpu_ops() && last {
                Dispatch::cpu_softmax(x)
            } else if self.has_torch_ops() {
                Dispatch::torch_softmax(x, axis)
            } else {
                Dispatch::softmax(x, axis)
            })
        })
    }

    /// The logarithm of [`softmax`](Self::softmax), stable for large inputs.
    ///
    /// # Errors
    /// As [`softmax`](Self::softmax).
    pub fn log_softmax(&self, axis: i64) -> Result<Tensor> {
        self.expect_kind("log_softmax", "x", Kind::Float)?;
        let axis = self.shape().axis("log_softmax", axis)?;
        guard("log_softmax", || {
            self.like(Dispatch::log_softmax(self.raw.clone(), axis))
        })
    }

    /// Convolution of `[B, C, H, W]` with a weight of `[out, C / groups, h, w]` and a bias of `[out]`.
    ///
    /// # Errors
    /// [`TensorError::Shape`] or [`TensorError::Argument`] for shapes or options that do not fit.
    pub fn conv2d(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        options: ConvOptions,
    ) -> Result<Tensor> {
        let op = "conv2d";
        self.expect_image(op)?;
        weight.expect_kind(op, "weight", Kind::Float)?;
        weight.expect_rank(op, "weight", 4)?;
        let ConvOptions {
            stride,
            padding,
            dilation,
            groups,
        } = options;
        positive(op, "stride", &stride)?;
        positive(op, "dilation", &dilation)?;
        positive(op, "groups", &[groups])?;
        let (x, w) = (self.shape(), weight.shape());
        if x[1] % groups != 0 || w[0] % groups != 0 || x[1] / groups != w[1] {
            return Err(weight.shape_error(
                op,
                "weight",
                format!("[out, {} / {groups}, h, w]", x[1]),
            ));
        }
        if let Some(bias) = bias {
            bias.expect_kind(op, "bias", Kind::Float)?;
            bias.expect_shape(op, "bias", &[w[0]])?;
        }
        for axis in 0..2 {
            let reach = dilation[axis] * (w[axis + 2] - 1) + 1;
            if x[axis + 2] + 2 * padding[axis] < reach {
                return Err(self.shape_error(
                    op,
                    "x",
                    format!("extent {reach} or more at axis {}", axis + 2),
                ));
            }
        }
        let extents = [0, 1].map(|axis| {
            let reach = dilation[axis] * (w[axis + 2] - 1) + 1;
            (x[axis + 2] + 2 * padding[axis] - reach) / stride[axis] + 1
        });
        tally::products(x[0] * w[0] * extents[0] * extents[1], w[1] * w[2] * w[3]);
        // One window for each channel, and no window that padding covers.
        let depthwise =
            groups > 1 && [x[1], w[0]] == [groups; 2] && padding[0] < w[2] && padding[1] < w[3];
        if self.has_cpu_ops() && dilation == [1, 1] && (groups == 1 || depthwise) {
            return guard(op, || {
                let (x, weight) = (self.raw.clone(), weight.raw.clone());
                let bias = bias.map(|bias| bias.raw.clone());
                self.like(match (depthwise, bias) {
                    (false, None) => Dispatch::cpu_conv2d(x, weight, stride, padding),
                    (false, Some(bias)) => {
                        Dispatch::cpu_biased_conv2d(x, weight, bias, stride, padding)
                    }
                    (true, None) => Dispatch::cpu_depthwise(x, weight, stride, padding),
                    (true, Some(bias)) => {
                        let y = Dispatch::cpu_depthwise(x, weight, stride, padding);
                        Dispatch::cpu_add_channels(y, bias)
                    }
                })
            });
        }
        let options = BurnConvOptions::new(stride, padding, dilation, groups);
        guard(op, || {
            let bias = bias.map(|bias| bias.raw.clone());
            self.like(Dispatch::conv2d(
                self.raw.clone(),
                weight.raw.clone(),
                bias,
                options,
            ))
        })
    }

    /// The average of each window of `[B, C, H, W]`; padding counts as zeros.
    ///
    /// # Errors
    /// [`TensorError::Shape`] or [`TensorError::Argument`] for shapes or options that do not fit.
    pub fn avg_pool2d(&self, options: PoolOptions) -> Result<Tensor> {
        self.expect_pool("avg_pool2d", options)?;
        let PoolOptions {
            kernel,
            stride,
            padding,
        } = options;
        guard("avg_pool2d", || {
            self.like(Dispatch::avg_pool2d(
                self.raw.clone(),
                kernel,
                stride,
                padding,
                true,
                false,
            ))
        })
    }

    /// The largest element of each window of `[B, C, H, W]`.
    ///
    /// # Errors
    /// As [`avg_pool2d`](Self::avg_pool2d).
    pub fn max_pool2d(&self, options: PoolOptions) -> Result<Tensor> {
        self.expect_pool("max_pool2d", options)?;
        let PoolOptions {
            kernel,
            stride,
            padding,
        } = options;
        guard("max_pool2d", || {
            self.like(Dispatch::max_pool2d(
                self.raw.clone(),
                kernel,
                stride,
                padding,
                [1, 1],
                false,
            ))
        })
    }

    /// Averages `[B, C, H, W]` down to `[B, C, height, width]`.
    ///
    /// # Errors
    /// [`TensorError::Shape`] unless the rank is 4, [`TensorError::Argument`] for an extent of 0.
    pub fn adaptive_avg_pool2d(&self, height: usize, width: usize) -> Result<Tensor> {
        let op = "adaptive_avg_pool2d";
        self.expect_image(op)?;
        positive(op, "height", &[height, width])?;
        if (height, width) == (1, 1) {
            return self.mean(&[2, 3], true);
        }
        guard(op, || {
            self.like(Dispatch::adaptive_avg_pool2d(
                self.raw.clone(),
                [height, width],
            ))
        })
    }

    /// Normalises over the last axis to mean 0 and variance 1, then scales and shifts.
    ///
    /// # Errors
    /// [`TensorError::Shape`] unless weight and bias have the last extent.
    pub fn layer_norm(
        &self,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        epsilon: f64,
    ) -> Result<Tensor> {
        let op = "layer_norm";
        self.expect_kind(op, "x", Kind::Float)?;
        let extent = self.shape()[self.shape().rank() - 1];
        if let (Some(weight), Some(bias)) = (weight, bias)
            && (self.has_cpu_ops() || self.has_torch_ops())
        {
            for (argument, tensor) in [("weight", weight), ("bias", bias)] {
                tensor.expect_kind(op, argument, Kind::Float)?;
                tensor.expect_shape(op, argument, &[extent])?;
                tensor.expect_precision(op, self)?;
            }
            return guard(op, || {
                let (x, weight, bias) = (self.raw.clone(), weight.raw.clone(), bias.raw.clone());
                self.like(match self.has_torch_ops() {
                    true => Dispatch::torch_layer_norm(x, weight, bias, epsilon),
                    false => Dispatch::cpu_layer_norm(x, weight, bias, epsilon as f32),
                })
            });
        }
        let normalised = match self.has_torch_ops() {
            true => guard(op, || {
                self.like(Dispatch::torch_norm(self.raw.clone(), epsilon))
            })?,
            false => self.normalise(&[-1], epsilon)?,
        };
        let mut extents = vec![1; self.shape().rank()];
        extents[self.shape().rank() - 1] = extent as i64;
        normalised.scale_and_shift(op, weight, bias, extent, &extents)
    }

    /// Normalises `[B, C, …]` within each of `groups` groups of channels, then scales and shifts each channel.
    ///
    /// # Errors
    /// [`TensorError::Argument`] unless `groups` divides the channels, [`TensorError::Shape`] unless weight and bias have `[C]`.
    pub fn group_norm(
        &self,
        groups: usize,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        epsilon: f64,
    ) -> Result<Tensor> {
        self.expect_groups("group_norm", groups)?;
        if let (Some(weight), Some(bias)) = (weight, bias)
            && self.has_cpu_ops()
        {
            return self.fused_group_norm(groups, weight, bias, epsilon, false);
        }
        let shape = self.shape();
        if let (Some(weight), Some(bias)) = (weight, bias)
            && self.has_torch_ops()
        {
            let op = "group_norm";
            for (argument, tensor) in [("weight", weight), ("bias", bias)] {
                tensor.expect_kind(op, argument, Kind::Float)?;
                tensor.expect_shape(op, argument, &[shape[1]])?;
                tensor.expect_precision(op, self)?;
            }
            return guard(op, || {
                let (x, weight, bias) = (self.raw.clone(), weight.raw.clone(), bias.raw.clone());
                self.like(Dispatch::torch_group_norm(x, weight, bias, groups, epsilon))
            });
        }
        let extents: Vec<i64> = shape.iter().map(|&e| e as i64).collect();
        let grouped = self.reshape(&[shape[0] as i64, groups as i64, -1])?;
        let normalised = grouped.normalise(&[2], epsilon)?.reshape(&extents)?;
        let extents = self.channel_extents();
        normalised.scale_and_shift("group_norm", weight, bias, shape[1], &extents)
    }

    /// The same, and then [`silu`](Self::silu).
    ///
    /// # Errors
    /// As [`group_norm`](Self::group_norm).
    pub fn group_norm_silu(
        &self,
        groups: usize,
        weight: &Tensor,
        bias: &Tensor,
        epsilon: f64,
    ) -> Result<Tensor> {
        self.expect_groups("group_norm", groups)?;
        if self.has_cpu_ops() {
            return self.fused_group_norm(groups, weight, bias, epsilon, true);
        }
        self.group_norm(groups, Some(weight), Some(bias), epsilon)?
            .silu()
    }

    fn expect_groups(&self, op: &'static str, groups: usize) -> Result<()> {
        self.expect_kind(op, "x", Kind::Float)?;
        let shape = self.shape();
        if shape.rank() < 2 {
            return Err(self.shape_error(op, "x", "rank 2 or more"));
        }
        if groups == 0 || !shape[1].is_multiple_of(groups) {
            return Err(TensorError::Argument {
                op,
                argument: "groups",
                value: groups.to_string(),
                expected: format!("a divisor of the {} channels", shape[1]),
            });
        }
        Ok(())
    }

    fn fused_group_norm(
        &self,
        groups: usize,
        weight: &Tensor,
        bias: &Tensor,
        epsilon: f64,
        silu: bool,
    ) -> Result<Tensor> {
        let op = "group_norm";
        for (argument, tensor) in [("weight", weight), ("bias", bias)] {
            tensor.expect_kind(op, argument, Kind::Float)?;
            tensor.expect_shape(op, argument, &[self.shape()[1]])?;
        }
        guard(op, || {
            let (x, weight, bias) = (self.raw.clone(), weight.raw.clone(), bias.raw.clone());
            let epsilon = epsilon as f32;
            self.like(Dispatch::cpu_group_norm(
                x, weight, bias, groups, epsilon, silu,
            ))
        })
    }

    /// Normalises each channel of `[B, C, …]` with the given statistics of `[C]`, then scales and shifts.
    ///
    /// # Errors
    /// [`TensorError::Shape`] unless all of them have `[C]`.
    pub fn batch_norm(
        &self,
        mean: &Tensor,
        variance: &Tensor,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        epsilon: f64,
    ) -> Result<Tensor> {
        let op = "batch_norm";
        self.expect_kind(op, "x", Kind::Float)?;
        if self.shape().rank() < 2 {
            return Err(self.shape_error(op, "x", "rank 2 or more"));
        }
        let channels = self.shape()[1];
        mean.expect_shape(op, "mean", &[channels])?;
        variance.expect_shape(op, "variance", &[channels])?;
        let extents = self.channel_extents();
        let deviation = variance.affine(1.0, epsilon)?.sqrt()?.reshape(&extents)?;
        let normalised = self.sub(&mean.reshape(&extents)?)?.div(&deviation)?;
        normalised.scale_and_shift(op, weight, bias, channels, &extents)
    }

    fn normalise(&self, axes: &[i64], epsilon: f64) -> Result<Tensor> {
        let centred = self.sub(&self.mean(axes, true)?)?;
        let variance = centred.mul(&centred)?.mean(axes, true)?;
        centred.div(&variance.affine(1.0, epsilon)?.sqrt()?)
    }

    fn scale_and_shift(
        self,
        op: &'static str,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        channels: usize,
        extents: &[i64],
    ) -> Result<Tensor> {
        let mut y = self;
        if let Some(weight) = weight {
            weight.expect_shape(op, "weight", &[channels])?;
            y = y.mul(&weight.reshape(extents)?)?;
        }
        if let Some(bias) = bias {
            bias.expect_shape(op, "bias", &[channels])?;
            y = y.add(&bias.reshape(extents)?)?;
        }
        Ok(y)
    }

    /// The extents by which a value per channel broadcasts over `x`.
    fn channel_extents(&self) -> Vec<i64> {
        let mut extents = vec![1; self.shape().rank()];
        extents[1] = self.shape()[1] as i64;
        extents
    }

    pub(super) fn expect_image(&self, op: &'static str) -> Result<()> {
        self.expect_kind(op, "x", Kind::Float)?;
        if self.shape().rank() != 4 {
            return Err(self.shape_error(op, "x", "[B, C, H, W]"));
        }
        Ok(())
    }

    fn expect_pool(&self, op: &'static str, options: PoolOptions) -> Result<()> {
        self.expect_image(op)?;
        positive(op, "kernel", &options.kernel)?;
        positive(op, "stride", &options.stride)?;
        for axis in 0..2 {
            let kernel = options.kernel[axis];
            if 2 * options.padding[axis] > kernel {
                return Err(TensorError::Argument {
                    op,
                    argument: "padding",
                    value: options.padding[axis].to_string(),
                    expected: format!("at most half the kernel, {kernel}"),
                });
            }
            if self.shape()[axis + 2] + 2 * options.padding[axis] < kernel {
                return Err(self.shape_error(
                    op,
                    "x",
                    format!("extent {kernel} or more at axis {}", axis + 2),
                ));
            }
        }
        Ok(())
    }
}

pub(super) fn positive(op: &'static str, argument: &'static str, values: &[usize]) -> Result<()> {
    if values.contains(&0) {
        return Err(TensorError::Argument {
            op,
            argument,
            value: "0".into(),
            expected: "1 or more".into(),
        });
    }
    Ok(())
}

//! Elementwise arithmetic, comparisons and choices, with broadcasting over extents of 1 and over leading axes that an operand lacks.

use burn::backend::Dispatch;
use burn::backend::ops::{ActivationOps, BoolTensorOps, FloatTensorOps, IntTensorOps};
use burn::tensor::Scalar;

use crate::cpu::CpuOps;
use crate::error::{Result, TensorError};
use crate::libtorch::TorchOps;
use crate::tensor::{Kind, Tensor, guard};

/// A method for a function of one float tensor.
macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident => $call:path;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// [`TensorError::Kind`] unless the elements are floats.
        pub fn $name(&self) -> Result<Tensor> {
            self.expect_kind(stringify!($name), "x", Kind::Float)?;
            guard(stringify!($name), || self.like($call(self.raw.clone())))
        }
    )*};
}

/// A method for arithmetic on two tensors of one kind, float or int.
macro_rules! arithmetic {
    ($($(#[$doc:meta])* $name:ident => $float:path, $int:path;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// [`TensorError::Broadcast`] for shapes that do not fit, [`TensorError::Kind`] unless both
        /// operands are float or both are int.
        pub fn $name(&self, rhs: &Tensor) -> Result<Tensor> {
            let op = stringify!($name);
            let [x, y] = self.of_one_rank(op, rhs)?;
            self.expect_numeric(op)?;
            rhs.expect_kind(op, "rhs", self.kind)?;
            rhs.expect_precision(op, self)?;
            guard(op, || self.like(match self.kind {
                Kind::Float => $float(x.raw, y.raw),
                _ => $int(x.raw, y.raw),
            }))
        }
    )*};
}

impl Tensor {
    arithmetic! {
        /// `x + rhs`.
        add => Dispatch::float_add, Dispatch::int_add;
        /// `x - rhs`.
        sub => Dispatch::float_sub, Dispatch::int_sub;
        /// `x * rhs`.
        mul => Dispatch::float_mul, Dispatch::int_mul;
        /// `x / rhs`; whole numbers round toward zero.
        div => Dispatch::float_div, Dispatch::int_div;
    }

    unary! {
        /// `-x`.
        neg => Dispatch::float_neg;
        /// `|x|`; its gradient at 0 is 0.
        abs => Dispatch::float_abs;
        /// `e^x`.
        exp => Dispatch::float_exp;
        /// The natural logarithm.
        log => Dispatch::float_log;
        /// The square root.
        sqrt => Dispatch::float_sqrt;
        /// The hyperbolic tangent.
        tanh => Dispatch::float_tanh;
        /// The sine of an angle in radians.
        sin => Dispatch::float_sin;
        /// The cosine of an angle in radians.
        cos => Dispatch::float_cos;
        /// `1 / (1 + e^-x)`.
        sigmoid => Dispatch::sigmoid;
    }

    /// `x Φ(x)` with the exact error function (PyTorch's default).
    ///
    /// # Errors
    /// [`TensorError::Kind`] unless the elements are floats.
    pub fn gelu(&self) -> Result<Tensor> {
        self.expect_kind("gelu", "x", Kind::Float)?;
        let x = self.raw.clone();
        guard("gelu", || {
            self.like(if self.has_cpu_ops() {
                Dispatch::cpu_gelu(x)
            } else if self.has_torch_ops() {
                Dispatch::torch_gelu(x)
            } else {
                Dispatch::gelu(x)
            })
        })
    }

    /// `max(x, 0)`; its gradient at 0 is 0.
    ///
    /// # Errors
    /// [`TensorError::Kind`] unless the elements are floats.
    pub fn relu(&self) -> Result<Tensor> {
        self.expect_kind("relu", "x", Kind::Float)?;
        let x = self.raw.clone();
        guard("relu", || {
            self.like(if self.has_cpu_ops() {
                Dispatch::cpu_relu(x)
            } else if self.has_torch_ops() {
                Dispatch::torch_relu(x)
            } else {
                Dispatch::relu(x)
            })
        })
    }

    /// `x sigmoid(x)`.
    ///
    /// # Errors
    /// [`TensorError::Kind`] unless the elements are floats.
    pub fn silu(&self) -> Result<Tensor> {
        self.expect_kind("silu", "x", Kind::Float)?;
        if self.has_cpu_ops() {
            return guard("silu", || self.like(Dispatch::cpu_silu(self.raw.clone())));
        }
        if self.has_torch_ops() {
            return guard("silu", || self.like(Dispatch::torch_silu(self.raw.clone())));
        }
        self.mul(&self.sigmoid()?)
    }

    /// `x Φ(x)` with the tanh approximation of `Φ`, as DiT's feed-forward layers use.
    ///
    /// # Errors
    /// [`TensorError::Kind`] unless the elements are floats.
    pub fn gelu_tanh(&self) -> Result<Tensor> {
        self.expect_kind("gelu_tanh", "x", Kind::Float)?;
        if self.has_cpu_ops() {
            return guard("gelu_tanh", || {
                self.like(Dispatch::cpu_gelu_tanh(self.raw.clone()))
            });
        }
        if self.has_torch_ops() {
            return guard("gelu_tanh", || {
                self.like(Dispatch::torch_gelu_tanh(self.raw.clone()))
            });
        }
        // 0.5 x (1 + tanh u) = x sigmoid(2 u),  u = sqrt(2/pi) (x + 0.044715 x^3)
        let twice = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
        let inner = self
            .mul(self)?
            .affine(twice * 0.044_715, twice)?
            .mul(self)?;
        self.mul(&inner.sigmoid()?)
    }

    /// `scale * x + offset`.
    ///
    /// # Errors
    /// [`TensorError::Kind`] unless the elements are floats.
    pub fn affine(&self, scale: f64, offset: f64) -> Result<Tensor> {
        self.expect_kind("affine", "x", Kind::Float)?;
        guard("affine", || {
            let mut raw = self.raw.clone();
            if scale != 1.0 {
                raw = Dispatch::float_mul_scalar(raw, Scalar::Float(scale));
            }
            if offset != 0.0 {
                raw = Dispatch::float_add_scalar(raw, Scalar::Float(offset));
            }
            self.like(raw)
        })
    }

    /// `x^exponent`.
    ///
    /// # Errors
    /// [`TensorError::Kind`] unless the elements are floats.
    pub fn powf(&self, exponent: f64) -> Result<Tensor> {
        self.expect_kind("powf", "x", Kind::Float)?;
        guard("powf", || {
            self.like(Dispatch::float_powf_scalar(
                self.raw.clone(),
                Scalar::Float(exponent),
            ))
        })
    }

    /// `x` held within `low` and `high`; the gradient is 0 outside.
    ///
    /// # Errors
    /// [`TensorError::Kind`] unless the elements are floats, [`TensorError::Argument`] if `low > high`
    /// or a bound is not a number.
    pub fn clamp(&self, low: Option<f64>, high: Option<f64>) -> Result<Tensor> {
        self.expect_kind("clamp", "x", Kind::Float)?;
        let (from, to) = (
            low.unwrap_or(f64::NEG_INFINITY),
            high.unwrap_or(f64::INFINITY),
        );
        if from.is_nan() || to.is_nan() || from > to {
            return Err(TensorError::Argument {
                op: "clamp",
                argument: "low",
                value: from.to_string(),
                expected: format!("at most the high bound, {to}"),
            });
        }
        guard("clamp", || {
            let raw = self.raw.clone();
            self.like(match (low, high) {
                (Some(low), Some(high)) => {
                    Dispatch::float_clamp(raw, Scalar::Float(low), Scalar::Float(high))
                }
                (Some(low), None) => Dispatch::float_clamp_min(raw, Scalar::Float(low)),
                (None, Some(high)) => Dispatch::float_clamp_max(raw, Scalar::Float(high)),
                (None, None) => raw,
            })
        })
    }

    /// The larger of `x` and `rhs`; where they are equal the gradient goes to `x`.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn maximum(&self, rhs: &Tensor) -> Result<Tensor> {
        rhs.compare("maximum", self)?.pick("maximum", rhs, self)
    }

    /// The smaller of `x` and `rhs`; where they are equal the gradient goes to `x`.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn minimum(&self, rhs: &Tensor) -> Result<Tensor> {
        self.compare("minimum", rhs)?.pick("minimum", rhs, self)
    }

    /// The same values as another kind. Floats round toward zero to ints; whatever is not 0 is true.
    ///
    /// # Errors
    /// [`TensorError::Backend`] if the backend lacks the conversion.
    pub fn cast(&self, kind: Kind) -> Result<Tensor> {
        let device = self.device();
        let raw = self.raw.clone();
        let zero = Scalar::Int(0);
        guard("cast", || {
            let raw = match (self.kind, kind) {
                (Kind::Float, Kind::Int) => {
                    Dispatch::float_into_int(self.detach().raw, device.int())
                }
                (Kind::Float, Kind::Bool) => Dispatch::float_not_equal_elem(
                    self.detach().raw,
                    Scalar::Float(0.0),
                    device.boolean(),
                ),
                (Kind::Int, Kind::Float) => Dispatch::int_into_float(raw, device.float()),
                (Kind::Int, Kind::Bool) => {
                    Dispatch::int_not_equal_elem(raw, zero, device.boolean())
                }
                (Kind::Bool, Kind::Float) => Dispatch::bool_into_float(raw, device.float()),
                (Kind::Bool, Kind::Int) => Dispatch::bool_into_int(raw, device.int()),
                _ => raw,
            };
            Tensor::wrap(raw, kind, device)
        })
    }

    /// Where `x = rhs`.
    ///
    /// # Errors
    /// [`TensorError::Broadcast`] for shapes that do not fit, [`TensorError::Kind`] if kinds differ.
    pub fn equal(&self, rhs: &Tensor) -> Result<Tensor> {
        let op = "equal";
        let [x, y] = self.of_one_rank(op, rhs)?;
        rhs.expect_kind(op, "rhs", self.kind)?;
        let (x, y) = (x.detach().raw, y.detach().raw);
        let boolean = self.device().boolean();
        guard(op, || {
            let raw = match self.kind {
                Kind::Float => Dispatch::float_equal(x, y, boolean),
                Kind::Int => Dispatch::int_equal(x, y, boolean),
                Kind::Bool => Dispatch::bool_equal(x, y),
            };
            Tensor::wrap(raw, Kind::Bool, self.device())
        })
    }

    /// Where `x > rhs`.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn greater(&self, rhs: &Tensor) -> Result<Tensor> {
        self.compare("greater", rhs)
    }

    /// Where `x > rhs`.
    ///
    /// # Errors
    /// [`TensorError::Kind`] if the elements are truth values.
    pub fn greater_scalar(&self, rhs: f64) -> Result<Tensor> {
        let op = "greater_scalar";
        self.expect_numeric(op)?;
        let boolean = self.device().boolean();
        let raw = self.detach().raw;
        guard(op, || {
            let raw = match self.kind {
                Kind::Float => Dispatch::float_greater_elem(raw, Scalar::Float(rhs), boolean),
                _ => Dispatch::float_greater_elem(
                    Dispatch::int_into_float(raw, self.device().float()),
                    Scalar::Float(rhs),
                    boolean,
                ),
            };
            Tensor::wrap(raw, Kind::Bool, self.device())
        })
    }

    /// The opposite truth values.
    ///
    /// # Errors
    /// [`TensorError::Kind`] unless the elements are truth values.
    pub fn logical_not(&self) -> Result<Tensor> {
        self.expect_kind("logical_not", "x", Kind::Bool)?;
        guard("logical_not", || {
            self.like(Dispatch::bool_not(self.raw.clone()))
        })
    }

    /// Where both are true.
    ///
    /// # Errors
    /// [`TensorError::Kind`] unless both hold truth values, [`TensorError::Broadcast`] for shapes that do not fit.
    pub fn logical_and(&self, rhs: &Tensor) -> Result<Tensor> {
        let op = "logical_and";
        self.expect_kind(op, "x", Kind::Bool)?;
        rhs.expect_kind(op, "rhs", Kind::Bool)?;
        let shape = self.shape().broadcast(op, &rhs.shape())?;
        let (x, y) = (self.expand(&shape)?, rhs.expand(&shape)?);
        guard(op, || self.like(Dispatch::bool_and(x.raw, y.raw)))
    }

    /// `x` where `mask` is true, `otherwise` elsewhere.
    ///
    /// # Errors
    /// [`TensorError::Kind`] unless `mask` holds truth values and the others are of one kind, float or int;
    /// [`TensorError::Broadcast`] for shapes that do not fit.
    pub fn choose(&self, mask: &Tensor, otherwise: &Tensor) -> Result<Tensor> {
        mask.pick("choose", self, otherwise)
    }

    fn compare(&self, op: &'static str, rhs: &Tensor) -> Result<Tensor> {
        let [x, y] = self.of_one_rank(op, rhs)?;
        self.expect_numeric(op)?;
        rhs.expect_kind(op, "rhs", self.kind)?;
        let (x, y) = (x.detach().raw, y.detach().raw);
        let boolean = self.device().boolean();
        guard(op, || {
            let raw = match self.kind {
                Kind::Float => Dispatch::float_greater(x, y, boolean),
                _ => Dispatch::int_greater(x, y, boolean),
            };
            Tensor::wrap(raw, Kind::Bool, self.device())
        })
    }

    fn pick(&self, op: &'static str, yes: &Tensor, no: &Tensor) -> Result<Tensor> {
        self.expect_kind(op, "mask", Kind::Bool)?;
        yes.expect_numeric(op)?;
        no.expect_kind(op, "otherwise", yes.kind)?;
        let shape = yes
            .shape()
            .broadcast(op, &no.shape())?
            .broadcast(op, &self.shape())?;
        let (mask, yes, no) = (
            self.expand(&shape)?,
            yes.expand(&shape)?,
            no.expand(&shape)?,
        );
        guard(op, || {
            yes.like(match yes.kind {
                Kind::Float => Dispatch::float_mask_where(no.raw, mask.raw, yes.raw.clone()),
                _ => Dispatch::int_mask_where(no.raw, mask.raw, yes.raw.clone()),
            })
        })
    }

    /// Both operands, the one of fewer axes seen with leading extents of 1.
    fn of_one_rank(&self, op: &'static str, rhs: &Tensor) -> Result<[Tensor; 2]> {
        let rank = self.shape().broadcast(op, &rhs.shape())?.rank();
        Ok([self.with_rank(rank)?, rhs.with_rank(rank)?])
    }

    pub(crate) fn expect_numeric(&self, op: &'static str) -> Result<()> {
        if self.kind == Kind::Bool {
            return Err(TensorError::Kind {
                op,
                argument: "x",
                found: self.kind,
                expected: "float or int",
            });
        }
        Ok(())
    }
}

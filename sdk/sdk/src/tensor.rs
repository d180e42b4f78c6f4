//! The tensor as a plugin sees it: a handle to what the host holds. Every operation of the
//! interface is a method under its name; `+ - * /` and unary `-` work on references and give a
//! `Result`, as every request can be refused.

use std::fmt;
use std::ops;

use crate::by_name::Arguments;
use crate::error::Result;
use crate::imp;

/// What elements are. Their width is the host's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Real numbers; the only kind that the tape records.
    Float,
    /// Whole numbers: class ids, indices.
    Int,
    /// Truth values: masks.
    Boolean,
}

/// How a convolution walks its input; pairs are (vertical, horizontal).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvOptions {
    /// Step between windows.
    pub stride: (u32, u32),
    /// Zeros put around the input.
    pub padding: (u32, u32),
    /// Step within a window.
    pub dilation: (u32, u32),
    /// Channels are split into this many independent groups.
    pub groups: u32,
}

impl Default for ConvOptions {
    /// Step 1, no padding, one group.
    fn default() -> Self {
        Self {
            stride: (1, 1),
            padding: (0, 0),
            dilation: (1, 1),
            groups: 1,
        }
    }
}

/// How pooling walks its input; pairs are (vertical, horizontal).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolOptions {
    /// Size of a window.
    pub kernel: (u32, u32),
    /// Step between windows.
    pub stride: (u32, u32),
    /// Cells put around the input that count for nothing.
    pub padding: (u32, u32),
}

impl PoolOptions {
    /// Square windows beside one another.
    pub fn square(kernel: u32) -> Self {
        Self {
            kernel: (kernel, kernel),
            stride: (kernel, kernel),
            padding: (0, 0),
        }
    }
}

/// A handle to a tensor of rank 1 to 6 that the host holds; a scalar is `[1]`.
///
/// It lives until it is dropped or the call in which it was made returns, whichever is first;
/// one that is kept longer is refused with `stale-handle`. Operations are recorded on the
/// host's tape where an operand is tracked, and never write in place.
///
/// Axes count from the end when negative. Operands broadcast over extents of 1, and leading axes that one lacks count as such.
///
/// # Errors
/// Every request can be refused by the host: `shape-mismatch`, `kind-mismatch`, `invalid-axis`,
/// `invalid-argument`, `stale-handle`, `budget-exceeded`, `backend`.
pub struct Tensor(pub(crate) imp::Handle);

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.info() {
            Ok((kind, shape)) => write!(f, "Tensor({kind:?}, {shape:?})"),
            Err(error) => write!(f, "Tensor({error})"),
        }
    }
}

// One line for each operation. The first word picks the number on the native interface, the
// name is the WIT method; `imp::operation!` writes the request for the target at hand.
macro_rules! operations {
    ($($(#[$doc:meta])+ $code:ident $name:ident($($parameter:ident: $takes:ident),*) -> $gives:ident;)+) => {
        impl Tensor {
            $(
                $(#[$doc])+
                ///
                /// # Errors
                /// As for every request: see [`Tensor`].
                pub fn $name(&self, $($parameter: operations!(@type $takes)),*) -> Result<operations!(@type $gives)> {
                    imp::operation!(method self $code $name($($parameter: $takes),*) -> $gives)
                }
            )+

            /// An operation by name.
            pub(crate) fn method(name: &str, arguments: &mut Arguments<'_>) -> Option<Result<Vec<Tensor>>> {
                match name {
                    $(stringify!($name) => Some((|| {
                        let this = arguments.tensor()?;
                        $(operations!(@let $parameter $takes arguments);)*
                        operations!(@list $gives this.$name($(operations!(@pass $takes $parameter)),*)?)
                    })()),)+
                    _ => None,
                }
            }
        }
    };
    (statics: $($(#[$doc:meta])+ $code:ident $name:ident($($parameter:ident: $takes:ident),*);)+) => {
        impl Tensor {
            $(
                $(#[$doc])+
                ///
                /// # Errors
                /// As for every request: see [`Tensor`].
                pub fn $name($($parameter: operations!(@type $takes)),*) -> Result<Tensor> {
                    imp::operation!(static $code $name($($parameter: $takes),*))
                }
            )+

            /// An operation without a receiver by name.
            pub(crate) fn function(name: &str, arguments: &mut Arguments<'_>) -> Option<Result<Vec<Tensor>>> {
                match name {
                    $(stringify!($name) => Some((|| {
                        $(operations!(@let $parameter $takes arguments);)*
                        Ok(vec![Tensor::$name($(operations!(@pass $takes $parameter)),*)?])
                    })()),)+
                    _ => None,
                }
            }
        }
    };
    (@list One $made:expr) => { Ok(vec![$made]) };
    (@list Two $made:expr) => {{
        let (first, second) = $made;
        Ok(vec![first, second])
    }};
    (@let $x:ident Tensor $arguments:ident) => { let $x = $arguments.tensor()?; };
    (@let $x:ident OptionalTensor $arguments:ident) => { let $x = $arguments.optional_tensor()?; };
    (@let $x:ident Tensors $arguments:ident) => { let $x = $arguments.tensors()?; };
    (@let $x:ident Float $arguments:ident) => { let $x = $arguments.float()?; };
    (@let $x:ident OptionalFloat $arguments:ident) => { let $x = $arguments.optional_float()?; };
    (@let $x:ident Bool $arguments:ident) => { let $x = $arguments.int()? != 0; };
    (@let $x:ident Kind $arguments:ident) => { let $x = $arguments.kind()?; };
    (@let $x:ident Conv $arguments:ident) => { let $x = $arguments.conv()?; };
    (@let $x:ident Pool $arguments:ident) => { let $x = $arguments.pool()?; };
    (@let $x:ident Axes $arguments:ident) => { let $x: Vec<i32> = $arguments.ints()?; };
    (@let $x:ident Extents $arguments:ident) => { let $x: Vec<i64> = $arguments.ints()?; };
    (@let $x:ident Shape $arguments:ident) => { let $x: Vec<u32> = $arguments.ints()?; };
    (@let $x:ident Long $arguments:ident) => { let $x = $arguments.int()?; };
    (@let $x:ident $takes:ident $arguments:ident) => { let $x = $arguments.number()?; };
    (@pass Tensors $x:ident) => { &$x };
    (@pass Axes $x:ident) => { &$x };
    (@pass Extents $x:ident) => { &$x };
    (@pass Shape $x:ident) => { &$x };
    (@pass $takes:ident $x:ident) => { $x };
    (@type One) => { Tensor };
    (@type Two) => { (Tensor, Tensor) };
    (@type Tensor) => { &Tensor };
    (@type OptionalTensor) => { Option<&Tensor> };
    (@type Tensors) => { &[&Tensor] };
    (@type Float) => { f64 };
    (@type OptionalFloat) => { Option<f64> };
    (@type Long) => { i64 };
    (@type Axis) => { i32 };
    (@type Count) => { u32 };
    (@type Bool) => { bool };
    (@type Kind) => { Kind };
    (@type Axes) => { &[i32] };
    (@type Extents) => { &[i64] };
    (@type Shape) => { &[u32] };
    (@type Conv) => { ConvOptions };
    (@type Pool) => { PoolOptions };
}

operations! {
    statics:
    /// A float tensor filled with one value. Never tracked.
    FULL full(shape: Shape, value: Float);
    /// The whole numbers from `start` to `end`, the end left out.
    ARANGE arange(start: Long, end: Long);
    /// Tensors joined along an axis they have.
    CAT cat(parts: Tensors, axis: Axis);
    /// Tensors of one shape joined along a new axis.
    STACK stack(parts: Tensors, axis: Axis);
}

operations! {
    /// The same values, cut off from the tape.
    DETACH detach() -> One;

    /// `self + rhs`.
    ADD add(rhs: Tensor) -> One;
    /// `self - rhs`.
    SUB sub(rhs: Tensor) -> One;
    /// `self * rhs`.
    MUL mul(rhs: Tensor) -> One;
    /// `self / rhs`; whole numbers round toward zero.
    DIV div(rhs: Tensor) -> One;
    /// The larger of the two; at a tie the gradient goes to `self`.
    MAXIMUM maximum(rhs: Tensor) -> One;
    /// The smaller of the two; at a tie the gradient goes to `self`.
    MINIMUM minimum(rhs: Tensor) -> One;
    /// `scale * self + offset`.
    AFFINE affine(scale: Float, offset: Float) -> One;
    /// `self` to the power of `exponent`.
    POWF powf(exponent: Float) -> One;
    /// `self` held within `low` and `high`.
    CLAMP clamp(low: OptionalFloat, high: OptionalFloat) -> One;
    /// `-self`.
    NEG neg() -> One;
    /// The absolute value.
    ABS abs() -> One;
    /// The exponential.
    EXP exp() -> One;
    /// The natural logarithm.
    LOG log() -> One;
    /// The square root.
    SQRT sqrt() -> One;
    /// The hyperbolic tangent.
    TANH tanh() -> One;
    /// `1 / (1 + exp(-self))`.
    SIGMOID sigmoid() -> One;
    /// `max(self, 0)`.
    RELU relu() -> One;
    /// The Gaussian error linear unit, with the exact error function.
    GELU gelu() -> One;
    /// `self * sigmoid(self)`.
    SILU silu() -> One;
    /// The same values as another kind. Only float to float stays on the tape; float to int
    /// rounds toward zero; anything but zero is true.
    CAST cast(kind: Kind) -> One;

    /// Where the two are equal.
    EQUAL equal(rhs: Tensor) -> One;
    /// Where `self` is greater.
    GREATER greater(rhs: Tensor) -> One;
    /// Where `self` is greater than a number.
    GREATER_SCALAR greater_scalar(rhs: Float) -> One;
    /// The opposite truth values.
    LOGICAL_NOT logical_not() -> One;
    /// Where both are true.
    LOGICAL_AND logical_and(rhs: Tensor) -> One;
    /// `self` where `mask` is true, `otherwise` elsewhere.
    CHOOSE choose(mask: Tensor, otherwise: Tensor) -> One;

    /// The sum over `axes`, all of them if empty; `keep` leaves them with extent 1.
    SUM sum(axes: Axes, keep: Bool) -> One;
    /// The mean over `axes`, all of them if empty; `keep` leaves them with extent 1.
    MEAN mean(axes: Axes, keep: Bool) -> One;
    /// The population variance over `axes`, all of them if empty; `keep` leaves them with extent 1.
    VARIANCE variance(axes: Axes, keep: Bool) -> One;
    /// The largest element over `axes`, all of them if empty; `keep` leaves them with extent 1.
    AMAX amax(axes: Axes, keep: Bool) -> One;
    /// The smallest element over `axes`, all of them if empty; `keep` leaves them with extent 1.
    AMIN amin(axes: Axes, keep: Bool) -> One;
    /// The index of the largest element along an axis, which goes.
    ARGMAX argmax(axis: Axis) -> One;

    /// The same elements in another shape; one extent may be -1.
    RESHAPE reshape(shape: Extents) -> One;
    /// The axes in another order.
    PERMUTE permute(axes: Axes) -> One;
    /// Extents of 1 repeated up to a shape.
    EXPAND expand(shape: Shape) -> One;
    /// An axis of extent 1 removed.
    SQUEEZE squeeze(axis: Axis) -> One;
    /// An axis of extent 1 inserted.
    UNSQUEEZE unsqueeze(axis: Axis) -> One;
    /// The elements along an axis in reverse.
    FLIP flip(axis: Axis) -> One;
    /// `length` elements of an axis from `start`.
    NARROW narrow(axis: Axis, start: Count, length: Count) -> One;
    /// A value put before and after an axis.
    PAD pad(axis: Axis, before: Count, after: Count, value: Float) -> One;

    /// Along an axis, the elements that an int index of equal rank names.
    GATHER gather(axis: Axis, index: Tensor) -> One;
    /// The slices along an axis that an int index of rank 1 names.
    INDEX_SELECT index_select(axis: Axis, index: Tensor) -> One;
    /// Indices as rows of one 1 among zeros.
    ONE_HOT one_hot(classes: Count) -> One;
    /// The `k` largest elements along an axis, largest first, and their indices.
    TOPK topk(k: Count, axis: Axis) -> Two;

    /// The matrix product over the last two axes; leading axes broadcast.
    MATMUL matmul(rhs: Tensor) -> One;
    /// The softmax along an axis.
    SOFTMAX softmax(axis: Axis) -> One;
    /// The logarithm of the softmax along an axis.
    LOG_SOFTMAX log_softmax(axis: Axis) -> One;
    /// Convolution of images `[B, C, H, W]` with a weight `[O, C / groups, kH, kW]` and a bias `[O]`.
    CONV2D conv2d(weight: Tensor, bias: OptionalTensor, options: Conv) -> One;
    /// The average of each window of an image.
    AVG_POOL2D avg_pool2d(options: Pool) -> One;
    /// The largest element of each window of an image.
    MAX_POOL2D max_pool2d(options: Pool) -> One;
    /// Averages of an image down to a size.
    ADAPTIVE_AVG_POOL2D adaptive_avg_pool2d(height: Count, width: Count) -> One;
    /// Normalisation over the last axis, then weight and bias of its extent.
    LAYER_NORM layer_norm(weight: OptionalTensor, bias: OptionalTensor, epsilon: Float) -> One;
    /// Normalisation within groups of channels, then weight and bias `[C]`.
    GROUP_NORM group_norm(groups: Count, weight: OptionalTensor, bias: OptionalTensor, epsilon: Float) -> One;
    /// Normalisation of each channel with given statistics `[C]`, then weight and bias `[C]`.
    BATCH_NORM batch_norm(
        mean: Tensor, variance: Tensor, weight: OptionalTensor, bias: OptionalTensor, epsilon: Float
    ) -> One;
    /// Images resized by taking the nearest pixel.
    RESIZE_NEAREST resize_nearest(height: Count, width: Count) -> One;
    /// Images resized by bilinear interpolation.
    RESIZE_BILINEAR resize_bilinear(height: Count, width: Count, align_corners: Bool) -> One;
}

impl Tensor {
    /// A float tensor from elements, row by row.
    ///
    /// # Errors
    /// As for every request: see [`Tensor`].
    pub fn from_floats(elements: &[f32], shape: &[u32]) -> Result<Self> {
        imp::from_floats(elements, shape)
    }

    /// An int tensor from elements, row by row.
    ///
    /// # Errors
    /// As for every request: see [`Tensor`].
    pub fn from_ints(elements: &[i64], shape: &[u32]) -> Result<Self> {
        imp::from_ints(elements, shape)
    }

    /// Extents, outermost first. Does not wait for the device.
    ///
    /// # Errors
    /// `stale-handle`.
    pub fn shape(&self) -> Result<Vec<u32>> {
        Ok(self.info()?.1)
    }

    /// What the elements are. Does not wait for the device.
    ///
    /// # Errors
    /// `stale-handle`.
    pub fn kind(&self) -> Result<Kind> {
        Ok(self.info()?.0)
    }

    /// Whether the tape records what is computed from this tensor.
    ///
    /// # Errors
    /// `stale-handle`.
    pub fn tracked(&self) -> Result<bool> {
        self.0.tracked()
    }

    /// A second handle to the same tensor.
    ///
    /// # Errors
    /// `stale-handle`, `budget-exceeded`.
    pub fn share(&self) -> Result<Self> {
        self.0.share()
    }

    /// Copies the elements of a float tensor out, row by row. Waits for the device.
    ///
    /// # Errors
    /// `not-permitted` in `forward` and `condition`, and as for every request.
    pub fn read_floats(&self) -> Result<Vec<f32>> {
        self.0.read_floats()
    }

    /// Copies the elements of an int tensor out, row by row; truth values as 0 and 1. Waits for
    /// the device.
    ///
    /// # Errors
    /// `not-permitted` in `forward` and `condition`, and as for every request.
    pub fn read_ints(&self) -> Result<Vec<i64>> {
        self.0.read_ints()
    }

    fn info(&self) -> Result<(Kind, Vec<u32>)> {
        self.0.info()
    }
}

macro_rules! operators {
    ($($trait:ident $name:ident |$number:ident| $scale:expr, $offset:expr;)+) => {$(
        impl ops::$trait for &Tensor {
            type Output = Result<Tensor>;

            fn $name(self, rhs: &Tensor) -> Self::Output {
                Tensor::$name(self, rhs)
            }
        }

        impl ops::$trait<f64> for &Tensor {
            type Output = Result<Tensor>;

            fn $name(self, $number: f64) -> Self::Output {
                self.affine($scale, $offset)
            }
        }
    )+};
}

operators! {
    Add add |number| 1.0, number;
    Sub sub |number| 1.0, -number;
    Mul mul |number| number, 0.0;
    Div div |number| 1.0 / number, 0.0;
}

impl ops::Neg for &Tensor {
    type Output = Result<Tensor>;

    fn neg(self) -> Self::Output {
        Tensor::neg(self)
    }
}

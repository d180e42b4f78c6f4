//! The table of operations that plugins may ask for. One row declares an operation: its
//! opcode, its name (`_` for WIT's `-`), its parameters, whether the tape differentiates it,
//! what it costs, and the method that computes it. Dispatch, the reference of the plugin interface and the
//! conformance tests all come from the rows, and a test holds `wit/types.wit` to them.

use crate::cost::{self, Cost};
use crate::device::Device;
use crate::error::{Result, TensorError};
use crate::ops::{ConvOptions, PoolOptions};
use crate::tensor::{Kind, Tensor};

/// An argument that is not a tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// An optional argument that was left out.
    None,
    /// A whole number; a kind is 0 float, 1 int, 2 boolean.
    Int(i64),
    /// A real number.
    Float(f64),
    /// A choice.
    Bool(bool),
    /// Extents, axes or pairs.
    Ints(Vec<i64>),
}

/// What a parameter of an operation takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterType {
    /// A tensor.
    Tensor,
    /// A tensor or none.
    OptionalTensor,
    /// Any number of tensors; only as the sole tensor parameter.
    Tensors,
    /// A real number.
    Float,
    /// A real number or none.
    OptionalFloat,
    /// A whole number.
    Int,
    /// A whole number of 0 or more.
    Count,
    /// A choice.
    Bool,
    /// What elements are: 0 float, 1 int, 2 boolean.
    Kind,
    /// A list of whole numbers: axes, or extents of which one may be -1.
    Ints,
    /// A list of whole numbers of 0 or more: a shape.
    Counts,
    /// Two whole numbers of 0 or more: (vertical, horizontal).
    Pair,
}

/// A named parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in WIT and docs.
    pub name: &'static str,
    /// What it takes.
    pub takes: ParameterType,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct OpSpec {
    /// Its number on the native interface, never reused.
    pub code: OpCode,
    /// Its name, in snake case.
    pub name: &'static str,
    /// Its parameters; tensors first.
    pub parameters: &'static [Parameter],
    /// How many tensors it returns.
    pub outputs: usize,
    /// Whether gradients flow through it to its float operands.
    pub differentiable: bool,
    /// What it does, in a sentence.
    pub doc: &'static str,
}

/// What an operation returns.
#[expect(
    clippy::large_enum_variant,
    reason = "it lives on the stack between two calls"
)]
pub enum Outputs {
    /// One tensor.
    One(Tensor),
    /// Two tensors.
    Two(Tensor, Tensor),
}

impl From<Tensor> for Outputs {
    fn from(tensor: Tensor) -> Self {
        Self::One(tensor)
    }
}

impl From<(Tensor, Tensor)> for Outputs {
    fn from((first, second): (Tensor, Tensor)) -> Self {
        Self::Two(first, second)
    }
}

macro_rules! operations {
    ($(
        $(#[doc = $doc:literal])+
        $code:literal $variant:ident $name:ident($($parameter:ident: $takes:ident),*)
            -> $outputs:literal $differentiable:ident, $cost:expr => |$device:pat_param| $call:expr;
    )*) => {
        /// The number of an operation on the native interface. Append-only.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum OpCode {
            $($(#[doc = $doc])+ $variant = $code,)*
        }

        impl OpCode {
            /// The operation of that number, if this host has it.
            pub fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($code => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Its row in the table.
            pub fn spec(self) -> &'static OpSpec {
                match self {
                    $(Self::$variant => {
                        static SPEC: OpSpec = OpSpec {
                            code: OpCode::$variant,
                            name: stringify!($name),
                            parameters: &[$(Parameter { name: stringify!($parameter), takes: ParameterType::$takes }),*],
                            outputs: $outputs,
                            differentiable: operations!(@flag $differentiable),
                            doc: concat!($($doc),+),
                        };
                        &SPEC
                    })*
                }
            }
        }

        /// Every operation, in the order of the interface.
        pub static OPS: &[OpCode] = &[$(OpCode::$variant),*];

        /// Computes an operation from its number, its tensor operands (`None` for an optional
        /// one that was left out) and its attributes, in the order of its row. `charge` hears first
        /// what it takes, and refuses what is too much.
        ///
        /// # Errors
        /// [`TensorError::Call`] for arguments that do not fit the row, whatever `charge` refuses, and whatever the operation
        /// refuses.
        pub fn dispatch(
            code: OpCode,
            tensors: &[Option<&Tensor>],
            attributes: &[Attribute],
            device: &Device,
            charge: &mut dyn FnMut(Cost) -> Result<()>,
        ) -> Result<Outputs> {
            let mut arguments = Arguments { op: code.spec().name, tensors, attributes, tensor: 0, attribute: 0 };
            match code {
                $(OpCode::$variant => {
                    $(let $parameter = operations!(@decode arguments $takes);)*
                    arguments.end()?;
                    charge($cost?)?;
                    let $device = device;
                    Ok(Outputs::from($call?))
                })*
            }
        }
    };
    (@flag differentiable) => { true };
    (@flag constant) => { false };
    (@decode $arguments:ident Tensor) => { $arguments.tensor()? };
    (@decode $arguments:ident OptionalTensor) => { $arguments.optional_tensor()? };
    (@decode $arguments:ident Tensors) => { $arguments.tensors()? };
    (@decode $arguments:ident Float) => { $arguments.float()? };
    (@decode $arguments:ident OptionalFloat) => { $arguments.optional_float()? };
    (@decode $arguments:ident Int) => { $arguments.int()? };
    (@decode $arguments:ident Count) => { $arguments.count()? };
    (@decode $arguments:ident Bool) => { $arguments.bool()? };
    (@decode $arguments:ident Kind) => { $arguments.kind()? };
    (@decode $arguments:ident Ints) => { $arguments.ints()? };
    (@decode $arguments:ident Counts) => { $arguments.counts()? };
    (@decode $arguments:ident Pair) => { $arguments.pair()? };
}

operations! {
    /// A float tensor filled with one value.
    1 Full full(shape: Counts, value: Float) -> 1 constant,
        Cost::full(&shape) => |device| Tensor::full(&shape, value, device);
    /// The whole numbers from start to end, the end left out.
    2 Arange arange(start: Int, end: Int) -> 1 constant,
        Cost::arange(start, end) => |device| Tensor::arange(start, end, device);
    /// The same values, cut off from the tape.
    3 Detach detach(x: Tensor) -> 1 constant,
        Cost::view(x) => |_| Ok::<_, TensorError>(x.detach());

    /// x + rhs.
    10 Add add(x: Tensor, rhs: Tensor) -> 1 differentiable,
        Cost::broadcast("add", &[x, rhs], cost::copies(x, 1)) => |_| x.add(rhs);
    /// x - rhs.
    11 Sub sub(x: Tensor, rhs: Tensor) -> 1 differentiable,
        Cost::broadcast("sub", &[x, rhs], cost::copies(x, 1)) => |_| x.sub(rhs);
    /// x * rhs.
    12 Mul mul(x: Tensor, rhs: Tensor) -> 1 differentiable,
        Cost::broadcast("mul", &[x, rhs], cost::copies(x, 1)) => |_| x.mul(rhs);
    /// x / rhs; whole numbers round toward zero.
    13 Div div(x: Tensor, rhs: Tensor) -> 1 differentiable,
        Cost::broadcast("div", &[x, rhs], cost::copies(x, 1)) => |_| x.div(rhs);
    /// The larger of x and rhs; at a tie the gradient goes to x.
    14 Maximum maximum(x: Tensor, rhs: Tensor) -> 1 differentiable,
        Cost::broadcast("maximum", &[x, rhs, x], cost::masked(x)) => |_| x.maximum(rhs);
    /// The smaller of x and rhs; at a tie the gradient goes to x.
    15 Minimum minimum(x: Tensor, rhs: Tensor) -> 1 differentiable,
        Cost::broadcast("minimum", &[x, rhs, x], cost::masked(x)) => |_| x.minimum(rhs);
    /// scale * x + offset.
    16 Affine affine(x: Tensor, scale: Float, offset: Float) -> 1 differentiable,
        Cost::each(x, cost::copies(x, 2), 0) => |_| x.affine(scale, offset);
    /// x to the power of exponent.
    17 Powf powf(x: Tensor, exponent: Float) -> 1 differentiable,
        Cost::each(x, cost::copies(x, 1), cost::functions(2)) => |_| x.powf(exponent);
    /// x held within low and high.
    18 Clamp clamp(x: Tensor, low: OptionalFloat, high: OptionalFloat) -> 1 differentiable,
        Cost::each(x, cost::copies(x, 2), 0) => |_| x.clamp(low, high);
    /// -x.
    19 Neg neg(x: Tensor) -> 1 differentiable,
        Cost::each(x, cost::copies(x, 1), 0) => |_| x.neg();
    /// The absolute value.
    20 Abs abs(x: Tensor) -> 1 differentiable,
        Cost::each(x, cost::copies(x, 1), 0) => |_| x.abs();
    /// The exponential.
    21 Exp exp(x: Tensor) -> 1 differentiable,
        Cost::each(x, cost::copies(x, 1), cost::functions(1)) => |_| x.exp();
    /// The natural logarithm.
    22 Log log(x: Tensor) -> 1 differentiable,
        Cost::each(x, cost::copies(x, 1), cost::functions(1)) => |_| x.log();
    /// The square root.
    23 Sqrt sqrt(x: Tensor) -> 1 differentiable,
        Cost::each(x, cost::copies(x, 1), 0) => |_| x.sqrt();
    /// The hyperbolic tangent.
    24 Tanh tanh(x: Tensor) -> 1 differentiable,
        Cost::each(x, cost::copies(x, 1), cost::functions(1)) => |_| x.tanh();
    /// 1 / (1 + exp(-x)).
    25 Sigmoid sigmoid(x: Tensor) -> 1 differentiable,
        Cost::each(x, cost::copies(x, 1), cost::functions(1)) => |_| x.sigmoid();
    /// max(x, 0).
    26 Relu relu(x: Tensor) -> 1 differentiable,
        Cost::each(x, cost::copies(x, 1), 0) => |_| x.relu();
    /// The Gaussian error linear unit, with the exact error function.
    27 Gelu gelu(x: Tensor) -> 1 differentiable,
        Cost::each(x, cost::copies(x, 2), cost::functions(2)) => |_| x.gelu();
    /// x * sigmoid(x).
    28 Silu silu(x: Tensor) -> 1 differentiable,
        Cost::each(x, cost::copies(x, 1), cost::functions(1)) => |_| x.silu();
    /// The same values as another kind; only float to float stays on the tape.
    29 Cast cast(x: Tensor, kind: Kind) -> 1 constant,
        Cost::cast(x, kind) => |_| x.cast(kind);

    /// Where x equals rhs.
    40 Equal equal(x: Tensor, rhs: Tensor) -> 1 constant,
        Cost::broadcast("equal", &[x, rhs], cost::TRUTH) => |_| x.equal(rhs);
    /// Where x is greater than rhs.
    41 Greater greater(x: Tensor, rhs: Tensor) -> 1 constant,
        Cost::broadcast("greater", &[x, rhs], cost::TRUTH) => |_| x.greater(rhs);
    /// Where x is greater than a number.
    42 GreaterScalar greater_scalar(x: Tensor, rhs: Float) -> 1 constant,
        Cost::each(x, cost::masked(x), 0) => |_| x.greater_scalar(rhs);
    /// The opposite truth values.
    43 LogicalNot logical_not(x: Tensor) -> 1 constant,
        Cost::each(x, cost::TRUTH, 0) => |_| x.logical_not();
    /// Where both are true.
    44 LogicalAnd logical_and(x: Tensor, rhs: Tensor) -> 1 constant,
        Cost::broadcast("logical_and", &[x, rhs], 3 * cost::TRUTH) => |_| x.logical_and(rhs);
    /// x where mask is true, otherwise elsewhere.
    45 Choose choose(x: Tensor, mask: Tensor, otherwise: Tensor) -> 1 differentiable,
        Cost::broadcast("choose", &[x, mask, otherwise], cost::copies(x, 1)) => |_| x.choose(mask, otherwise);

    /// The sum over axes.
    50 Sum sum(x: Tensor, axes: Ints, keep: Bool) -> 1 differentiable,
        Cost::reduce(x, "sum", &axes, 0, 0) => |_| x.sum(&axes, keep);
    /// The mean over axes.
    51 Mean mean(x: Tensor, axes: Ints, keep: Bool) -> 1 differentiable,
        Cost::reduce(x, "mean", &axes, 0, 0) => |_| x.mean(&axes, keep);
    /// The population variance over axes.
    52 Variance variance(x: Tensor, axes: Ints, keep: Bool) -> 1 differentiable,
        Cost::reduce(x, "variance", &axes, cost::copies(x, 2), cost::functions(1)) => |_| x.variance(&axes, keep);
    /// The largest element over axes.
    53 Amax amax(x: Tensor, axes: Ints, keep: Bool) -> 1 differentiable,
        Cost::reduce(x, "amax", &axes, 0, 0) => |_| x.amax(&axes, keep);
    /// The smallest element over axes.
    54 Amin amin(x: Tensor, axes: Ints, keep: Bool) -> 1 differentiable,
        Cost::reduce(x, "amin", &axes, 0, 0) => |_| x.amin(&axes, keep);
    /// The index of the largest element along an axis, which goes.
    55 Argmax argmax(x: Tensor, axis: Int) -> 1 constant,
        Cost::reduce(x, "argmax", &[axis], 0, 0) => |_| x.argmax(axis);

    /// The same elements in another shape; one extent may be -1.
    60 Reshape reshape(x: Tensor, shape: Ints) -> 1 differentiable,
        Cost::view(x) => |_| x.reshape(&shape);
    /// The axes in another order.
    61 Permute permute(x: Tensor, axes: Ints) -> 1 differentiable,
        Cost::view(x) => |_| x.permute(&axes);
    /// Extents of 1 repeated up to a shape.
    62 Expand expand(x: Tensor, shape: Counts) -> 1 differentiable,
        Cost::expand(x, &shape) => |_| x.expand(&shape);
    /// An axis of extent 1 removed.
    63 Squeeze squeeze(x: Tensor, axis: Int) -> 1 differentiable,
        Cost::view(x) => |_| x.squeeze(axis);
    /// An axis of extent 1 inserted.
    64 Unsqueeze unsqueeze(x: Tensor, axis: Int) -> 1 differentiable,
        Cost::view(x) => |_| x.unsqueeze(axis);
    /// The elements along an axis in reverse.
    65 Flip flip(x: Tensor, axis: Int) -> 1 differentiable,
        Cost::each(x, cost::copies(x, 1), 0) => |_| x.flip(axis);
    /// A range of an axis.
    66 Narrow narrow(x: Tensor, axis: Int, start: Count, length: Count) -> 1 differentiable,
        Cost::narrow(x, axis, length) => |_| x.narrow(axis, start, length);
    /// A value put before and after an axis.
    67 Pad pad(x: Tensor, axis: Int, before: Count, after: Count, value: Float) -> 1 differentiable,
        Cost::pad(x, axis, before, after) => |_| x.pad(axis, before, after, value);
    /// Tensors joined along an axis they have.
    68 Cat cat(parts: Tensors, axis: Int) -> 1 differentiable,
        Cost::joined(&parts) => |_| Tensor::cat(&parts, axis);
    /// Tensors of one shape joined along a new axis.
    69 Stack stack(parts: Tensors, axis: Int) -> 1 differentiable,
        Cost::joined(&parts) => |_| Tensor::stack(&parts, axis);

    /// Along an axis, the elements that an index of equal rank names.
    80 Gather gather(x: Tensor, index: Tensor, axis: Int) -> 1 differentiable,
        Cost::gather(x, index) => |_| x.gather(axis, index);
    /// The slices along an axis that an index of rank 1 names.
    81 IndexSelect index_select(x: Tensor, index: Tensor, axis: Int) -> 1 differentiable,
        Cost::index_select(x, index, axis) => |_| x.index_select(axis, index);
    /// Indices as rows of one 1 among zeros.
    82 OneHot one_hot(x: Tensor, classes: Count) -> 1 constant,
        Cost::one_hot(x, classes) => |_| x.one_hot(classes);
    /// The largest elements along an axis, largest first, and their indices.
    83 Topk topk(x: Tensor, k: Count, axis: Int) -> 2 differentiable,
        Cost::topk(x, k, axis) => |_| x.topk(k, axis);

    /// The matrix product over the last two axes.
    100 Matmul matmul(x: Tensor, rhs: Tensor) -> 1 differentiable,
        Cost::matmul(x, rhs) => |_| x.matmul(rhs);
    /// The softmax along an axis.
    101 Softmax softmax(x: Tensor, axis: Int) -> 1 differentiable,
        Cost::softmax(x) => |_| x.softmax(axis);
    /// The logarithm of the softmax along an axis.
    102 LogSoftmax log_softmax(x: Tensor, axis: Int) -> 1 differentiable,
        Cost::softmax(x) => |_| x.log_softmax(axis);
    /// Convolution of images.
    103 Conv2d conv2d(x: Tensor, weight: Tensor, bias: OptionalTensor, stride: Pair, padding: Pair, dilation: Pair, groups: Count) -> 1 differentiable,
        Cost::conv2d(x, weight, ConvOptions { stride, padding, dilation, groups }) => |_| x.conv2d(weight, bias, ConvOptions { stride, padding, dilation, groups });
    /// The average of each window.
    104 AvgPool2d avg_pool2d(x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> 1 differentiable,
        Cost::pool(x, PoolOptions { kernel, stride, padding }) => |_| x.avg_pool2d(PoolOptions { kernel, stride, padding });
    /// The largest element of each window.
    105 MaxPool2d max_pool2d(x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> 1 differentiable,
        Cost::pool(x, PoolOptions { kernel, stride, padding }) => |_| x.max_pool2d(PoolOptions { kernel, stride, padding });
    /// Averages down to a size.
    106 AdaptiveAvgPool2d adaptive_avg_pool2d(x: Tensor, height: Count, width: Count) -> 1 differentiable,
        Cost::adaptive_pool(x, [height, width]) => |_| x.adaptive_avg_pool2d(height, width);
    /// Normalisation over the last axis.
    107 LayerNorm layer_norm(x: Tensor, weight: OptionalTensor, bias: OptionalTensor, epsilon: Float) -> 1 differentiable,
        Cost::normalise(x) => |_| x.layer_norm(weight, bias, epsilon);
    /// Normalisation within groups of channels.
    108 GroupNorm group_norm(x: Tensor, weight: OptionalTensor, bias: OptionalTensor, groups: Count, epsilon: Float) -> 1 differentiable,
        Cost::normalise(x) => |_| x.group_norm(groups, weight, bias, epsilon);
    /// Normalisation of each channel with given statistics.
    109 BatchNorm batch_norm(x: Tensor, mean: Tensor, variance: Tensor, weight: OptionalTensor, bias: OptionalTensor, epsilon: Float) -> 1 differentiable,
        Cost::normalise(x) => |_| x.batch_norm(mean, variance, weight, bias, epsilon);
    /// Images resized by taking the nearest pixel.
    110 ResizeNearest resize_nearest(x: Tensor, height: Count, width: Count) -> 1 differentiable,
        Cost::resize_nearest(x, [height, width]) => |_| x.resize_nearest(height, width);
    /// Images resized by bilinear interpolation.
    111 ResizeBilinear resize_bilinear(x: Tensor, height: Count, width: Count, align_corners: Bool) -> 1 differentiable,
        Cost::resize_bilinear(x, [height, width]) => |_| x.resize_bilinear(height, width, align_corners);
}

/// Walks the arguments of a request in the order of the operation's row.
struct Arguments<'a> {
    op: &'static str,
    tensors: &'a [Option<&'a Tensor>],
    attributes: &'a [Attribute],
    tensor: usize,
    attribute: usize,
}

impl<'a> Arguments<'a> {
    fn tensor(&mut self) -> Result<&'a Tensor> {
        let position = self.tensor;
        self.optional_tensor()?.ok_or(TensorError::Call {
            op: self.op,
            position,
            expected: "a tensor",
        })
    }

    fn optional_tensor(&mut self) -> Result<Option<&'a Tensor>> {
        let position = self.tensor;
        self.tensor += 1;
        self.tensors
            .get(position)
            .copied()
            .ok_or(TensorError::Call {
                op: self.op,
                position,
                expected: "a tensor or none",
            })
    }

    fn tensors(&mut self) -> Result<Vec<&'a Tensor>> {
        let mut parts = Vec::with_capacity(self.tensors.len());
        while self.tensor < self.tensors.len() {
            parts.push(self.tensor()?);
        }
        Ok(parts)
    }

    fn attribute(&mut self, expected: &'static str) -> Result<(&'a Attribute, TensorError)> {
        let position = self.attribute;
        self.attribute += 1;
        let refusal = TensorError::Call {
            op: self.op,
            position,
            expected,
        };
        match self.attributes.get(position) {
            Some(attribute) => Ok((attribute, refusal)),
            None => Err(refusal),
        }
    }

    fn float(&mut self) -> Result<f64> {
        match self.attribute("a number")? {
            (Attribute::Float(value), _) => Ok(*value),
            (_, refusal) => Err(refusal),
        }
    }

    fn optional_float(&mut self) -> Result<Option<f64>> {
        match self.attribute("a number or none")? {
            (Attribute::Float(value), _) => Ok(Some(*value)),
            (Attribute::None, _) => Ok(None),
            (_, refusal) => Err(refusal),
        }
    }

    fn int(&mut self) -> Result<i64> {
        match self.attribute("a whole number")? {
            (Attribute::Int(value), _) => Ok(*value),
            (_, refusal) => Err(refusal),
        }
    }

    fn count(&mut self) -> Result<usize> {
        match self.attribute("a whole number of 0 or more")? {
            (Attribute::Int(value), refusal) => usize::try_from(*value).map_err(|_| refusal),
            (_, refusal) => Err(refusal),
        }
    }

    fn bool(&mut self) -> Result<bool> {
        match self.attribute("a choice")? {
            (Attribute::Bool(value), _) => Ok(*value),
            (_, refusal) => Err(refusal),
        }
    }

    fn kind(&mut self) -> Result<Kind> {
        match self.attribute("a kind: 0 float, 1 int, 2 boolean")? {
            (Attribute::Int(0), _) => Ok(Kind::Float),
            (Attribute::Int(1), _) => Ok(Kind::Int),
            (Attribute::Int(2), _) => Ok(Kind::Bool),
            (_, refusal) => Err(refusal),
        }
    }

    fn ints(&mut self) -> Result<Vec<i64>> {
        match self.attribute("a list of whole numbers")? {
            (Attribute::Ints(values), _) => Ok(values.clone()),
            (_, refusal) => Err(refusal),
        }
    }

    fn counts(&mut self) -> Result<Vec<usize>> {
        match self.attribute("a list of whole numbers of 0 or more")? {
            (Attribute::Ints(values), refusal) => values
                .iter()
                .map(|&value| usize::try_from(value).map_err(|_| refusal.clone()))
                .collect(),
            (_, refusal) => Err(refusal),
        }
    }

    fn pair(&mut self) -> Result<[usize; 2]> {
        let position = self.attribute;
        <[usize; 2]>::try_from(self.counts()?).map_err(|_| TensorError::Call {
            op: self.op,
            position,
            expected: "two whole numbers of 0 or more",
        })
    }

    fn end(&self) -> Result<()> {
        if self.tensor != self.tensors.len() {
            return Err(TensorError::Call {
                op: self.op,
                position: self.tensor,
                expected: "no further tensor",
            });
        }
        if self.attribute != self.attributes.len() {
            return Err(TensorError::Call {
                op: self.op,
                position: self.attribute,
                expected: "no further attribute",
            });
        }
        Ok(())
    }
}

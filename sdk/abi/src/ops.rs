//! The numbers of the operations and their arguments: what `op` of the host's table takes. The
//! documentation of each is in `wit/types.wit`, under the same name with `-` for `_`;
//! a test of the plugin host holds this list, `wit/` and the table of operations to one another.

/// Numbers of operations. Append-only, never reused.
pub mod op {
    /// `full(shape: Counts, value: Float)`: A float tensor filled with one value.
    pub const FULL: u32 = 1;
    /// `arange(start: Int, end: Int)`: The whole numbers from start to end, the end left out.
    pub const ARANGE: u32 = 2;
    /// `detach(x: Tensor)`: The same values, cut off from the tape.
    pub const DETACH: u32 = 3;
    /// `add(x: Tensor, rhs: Tensor)`: x + rhs.
    pub const ADD: u32 = 10;
    /// `sub(x: Tensor, rhs: Tensor)`: x - rhs.
    pub const SUB: u32 = 11;
    /// `mul(x: Tensor, rhs: Tensor)`: x * rhs.
    pub const MUL: u32 = 12;
    /// `div(x: Tensor, rhs: Tensor)`: x / rhs; whole numbers round toward zero.
    pub const DIV: u32 = 13;
    /// `maximum(x: Tensor, rhs: Tensor)`: The larger of x and rhs; at a tie the gradient goes to x.
    pub const MAXIMUM: u32 = 14;
    /// `minimum(x: Tensor, rhs: Tensor)`: The smaller of x and rhs; at a tie the gradient goes to x.
    pub const MINIMUM: u32 = 15;
    /// `affine(x: Tensor, scale: Float, offset: Float)`: scale * x + offset.
    pub const AFFINE: u32 = 16;
    /// `powf(x: Tensor, exponent: Float)`: x to the power of exponent.
    pub const POWF: u32 = 17;
    /// `clamp(x: Tensor, low: OptionalFloat, high: OptionalFloat)`: x held within low and high.
    pub const CLAMP: u32 = 18;
    /// `neg(x: Tensor)`: -x.
    pub const NEG: u32 = 19;
    /// `abs(x: Tensor)`: The absolute value.
    pub const ABS: u32 = 20;
    /// `exp(x: Tensor)`: The exponential.
    pub const EXP: u32 = 21;
    /// `log(x: Tensor)`: The natural logarithm.
    pub const LOG: u32 = 22;
    /// `sqrt(x: Tensor)`: The square root.
    pub const SQRT: u32 = 23;
    /// `tanh(x: Tensor)`: The hyperbolic tangent.
    pub const TANH: u32 = 24;
    /// `sigmoid(x: Tensor)`: 1 / (1 + exp(-x)).
    pub const SIGMOID: u32 = 25;
    /// `relu(x: Tensor)`: max(x, 0).
    pub const RELU: u32 = 26;
    /// `gelu(x: Tensor)`: The Gaussian error linear unit, with the exact error function.
    pub const GELU: u32 = 27;
    /// `silu(x: Tensor)`: x * sigmoid(x).
    pub const SILU: u32 = 28;
    /// `cast(x: Tensor, kind: Kind)`: The same values as another kind; only float to float stays on the tape.
    pub const CAST: u32 = 29;
    /// `equal(x: Tensor, rhs: Tensor)`: Where x equals rhs.
    pub const EQUAL: u32 = 40;
    /// `greater(x: Tensor, rhs: Tensor)`: Where x is greater than rhs.
    pub const GREATER: u32 = 41;
    /// `greater_scalar(x: Tensor, rhs: Float)`: Where x is greater than a number.
    pub const GREATER_SCALAR: u32 = 42;
    /// `logical_not(x: Tensor)`: The opposite truth values.
    pub const LOGICAL_NOT: u32 = 43;
    /// `logical_and(x: Tensor, rhs: Tensor)`: Where both are true.
    pub const LOGICAL_AND: u32 = 44;
    /// `choose(x: Tensor, mask: Tensor, otherwise: Tensor)`: x where mask is true, otherwise elsewhere.
    pub const CHOOSE: u32 = 45;
    /// `sum(x: Tensor, axes: Ints, keep: Bool)`: The sum over axes.
    pub const SUM: u32 = 50;
    /// `mean(x: Tensor, axes: Ints, keep: Bool)`: The mean over axes.
    pub const MEAN: u32 = 51;
    /// `variance(x: Tensor, axes: Ints, keep: Bool)`: The population variance over axes.
    pub const VARIANCE: u32 = 52;
    /// `amax(x: Tensor, axes: Ints, keep: Bool)`: The largest element over axes.
    pub const AMAX: u32 = 53;
    /// `amin(x: Tensor, axes: Ints, keep: Bool)`: The smallest element over axes.
    pub const AMIN: u32 = 54;
    /// `argmax(x: Tensor, axis: Int)`: The index of the largest element along an axis, which goes.
    pub const ARGMAX: u32 = 55;
    /// `reshape(x: Tensor, shape: Ints)`: The same elements in another shape; one extent may be -1.
    pub const RESHAPE: u32 = 60;
    /// `permute(x: Tensor, axes: Ints)`: The axes in another order.
    pub const PERMUTE: u32 = 61;
    /// `expand(x: Tensor, shape: Counts)`: Extents of 1 repeated up to a shape.
    pub const EXPAND: u32 = 62;
    /// `squeeze(x: Tensor, axis: Int)`: An axis of extent 1 removed.
    pub const SQUEEZE: u32 = 63;
    /// `unsqueeze(x: Tensor, axis: Int)`: An axis of extent 1 inserted.
    pub const UNSQUEEZE: u32 = 64;
    /// `flip(x: Tensor, axis: Int)`: The elements along an axis in reverse.
    pub const FLIP: u32 = 65;
    /// `narrow(x: Tensor, axis: Int, start: Count, length: Count)`: A range of an axis.
    pub const NARROW: u32 = 66;
    /// `pad(x: Tensor, axis: Int, before: Count, after: Count, value: Float)`: A value put before and after an axis.
    pub const PAD: u32 = 67;
    /// `cat(parts: Tensors, axis: Int)`: Tensors joined along an axis they have.
    pub const CAT: u32 = 68;
    /// `stack(parts: Tensors, axis: Int)`: Tensors of one shape joined along a new axis.
    pub const STACK: u32 = 69;
    /// `gather(x: Tensor, index: Tensor, axis: Int)`: Along an axis, the elements that an index of equal rank names.
    pub const GATHER: u32 = 80;
    /// `index_select(x: Tensor, index: Tensor, axis: Int)`: The slices along an axis that an index of rank 1 names.
    pub const INDEX_SELECT: u32 = 81;
    /// `one_hot(x: Tensor, classes: Count)`: Indices as rows of one 1 among zeros.
    pub const ONE_HOT: u32 = 82;
    /// `topk(x: Tensor, k: Count, axis: Int)`: The largest elements along an axis, largest first, and their indices.
    pub const TOPK: u32 = 83;
    /// `matmul(x: Tensor, rhs: Tensor)`: The matrix product over the last two axes.
    pub const MATMUL: u32 = 100;
    /// `softmax(x: Tensor, axis: Int)`: The softmax along an axis.
    pub const SOFTMAX: u32 = 101;
    /// `log_softmax(x: Tensor, axis: Int)`: The logarithm of the softmax along an axis.
    pub const LOG_SOFTMAX: u32 = 102;
    /// `conv2d(x: Tensor, weight: Tensor, bias: OptionalTensor, stride: Pair, padding: Pair, dilation: Pair, groups: Count)`: Convolution of images.
    pub const CONV2D: u32 = 103;
    /// `avg_pool2d(x: Tensor, kernel: Pair, stride: Pair, padding: Pair)`: The average of each window.
    pub const AVG_POOL2D: u32 = 104;
    /// `max_pool2d(x: Tensor, kernel: Pair, stride: Pair, padding: Pair)`: The largest element of each window.
    pub const MAX_POOL2D: u32 = 105;
    /// `adaptive_avg_pool2d(x: Tensor, height: Count, width: Count)`: Averages down to a size.
    pub const ADAPTIVE_AVG_POOL2D: u32 = 106;
    /// `layer_norm(x: Tensor, weight: OptionalTensor, bias: OptionalTensor, epsilon: Float)`: Normalisation over the last axis.
    pub const LAYER_NORM: u32 = 107;
    /// `group_norm(x: Tensor, weight: OptionalTensor, bias: OptionalTensor, groups: Count, epsilon: Float)`: Normalisation within groups of channels.
    pub const GROUP_NORM: u32 = 108;
    /// `batch_norm(x: Tensor, mean: Tensor, variance: Tensor, weight: OptionalTensor, bias: OptionalTensor, epsilon: Float)`: Normalisation of each channel with given statistics.
    pub const BATCH_NORM: u32 = 109;
    /// `resize_nearest(x: Tensor, height: Count, width: Count)`: Images resized by taking the nearest pixel.
    pub const RESIZE_NEAREST: u32 = 110;
    /// `resize_bilinear(x: Tensor, height: Count, width: Count, align_corners: Bool)`: Images resized by bilinear interpolation.
    pub const RESIZE_BILINEAR: u32 = 111;
}

/// Every operation of this version, by number and name, in the order of the numbers.
pub static OPS: &[(u32, &str)] = &[
    (op::FULL, "full"),
    (op::ARANGE, "arange"),
    (op::DETACH, "detach"),
    (op::ADD, "add"),
    (op::SUB, "sub"),
    (op::MUL, "mul"),
    (op::DIV, "div"),
    (op::MAXIMUM, "maximum"),
    (op::MINIMUM, "minimum"),
    (op::AFFINE, "affine"),
    (op::POWF, "powf"),
    (op::CLAMP, "clamp"),
    (op::NEG, "neg"),
    (op::ABS, "abs"),
    (op::EXP, "exp"),
    (op::LOG, "log"),
    (op::SQRT, "sqrt"),
    (op::TANH, "tanh"),
    (op::SIGMOID, "sigmoid"),
    (op::RELU, "relu"),
    (op::GELU, "gelu"),
    (op::SILU, "silu"),
    (op::CAST, "cast"),
    (op::EQUAL, "equal"),
    (op::GREATER, "greater"),
    (op::GREATER_SCALAR, "greater_scalar"),
    (op::LOGICAL_NOT, "logical_not"),
    (op::LOGICAL_AND, "logical_and"),
    (op::CHOOSE, "choose"),
    (op::SUM, "sum"),
    (op::MEAN, "mean"),
    (op::VARIANCE, "variance"),
    (op::AMAX, "amax"),
    (op::AMIN, "amin"),
    (op::ARGMAX, "argmax"),
    (op::RESHAPE, "reshape"),
    (op::PERMUTE, "permute"),
    (op::EXPAND, "expand"),
    (op::SQUEEZE, "squeeze"),
    (op::UNSQUEEZE, "unsqueeze"),
    (op::FLIP, "flip"),
    (op::NARROW, "narrow"),
    (op::PAD, "pad"),
    (op::CAT, "cat"),
    (op::STACK, "stack"),
    (op::GATHER, "gather"),
    (op::INDEX_SELECT, "index_select"),
    (op::ONE_HOT, "one_hot"),
    (op::TOPK, "topk"),
    (op::MATMUL, "matmul"),
    (op::SOFTMAX, "softmax"),
    (op::LOG_SOFTMAX, "log_softmax"),
    (op::CONV2D, "conv2d"),
    (op::AVG_POOL2D, "avg_pool2d"),
    (op::MAX_POOL2D, "max_pool2d"),
    (op::ADAPTIVE_AVG_POOL2D, "adaptive_avg_pool2d"),
    (op::LAYER_NORM, "layer_norm"),
    (op::GROUP_NORM, "group_norm"),
    (op::BATCH_NORM, "batch_norm"),
    (op::RESIZE_NEAREST, "resize_nearest"),
    (op::RESIZE_BILINEAR, "resize_bilinear"),
];

/// The name of an operation, if this version has it.
pub fn op_name(number: u32) -> Option<&'static str> {
    let position = OPS
        .binary_search_by_key(&number, |&(number, _)| number)
        .ok()?;
    Some(OPS[position].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_so_that_none_is_used_twice() {
        assert!(OPS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn knows_the_names_of_its_numbers_only() {
        assert_eq!(op_name(op::MATMUL), Some("matmul"));
        assert_eq!(op_name(0), None);
        assert_eq!(op_name(u32::MAX), None);
    }
}

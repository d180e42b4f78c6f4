//! What an operation takes, told from its arguments before anything is computed. A row of the
//! [table](crate::OPS) cannot be written without it, so a plugin can ask for nothing that is not
//! charged to its call first.
//!
//! Both numbers are upper bounds that depend on extents and kinds alone: a budget that suffices
//! on one device suffices on every other. `tests/budgets.rs` holds them to what the embedded CPU
//! really allocates and to the time that it really takes.

use crate::error::Result;
use crate::ops::{ConvOptions, PoolOptions};
use crate::shape::Shape;
use crate::tensor::{Kind, Tensor};

/// What an operation takes of the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes that it holds at most while it works, its results among them, its operands not. A float counts as 4 bytes, a whole
    /// number as 8, a truth value as 1, on every device, and a view as a copy.
    pub bytes: u64,
    /// Floating-point operations, as many as a matrix product makes in the time. What is slower than a matrix product counts for
    /// more than it computes.
    pub work: u64,
}

/// Bytes of an element.
const FLOAT: u64 = 4;
const INT: u64 = 8;
const BOOL: u64 = 1;

/// Work of each request, whatever it is: checks, allocations, a place on the tape.
const REQUEST: u64 = 100_000;
/// Bytes of each request: what the tape and the session keep of it.
const KEPT: u64 = 1024;
/// Work of reading or writing an element.
const MOVE: u64 = 20;
/// Work of reading or writing an element out of order.
const JUMP: u64 = 100;
/// Work of an exponential or the like.
const FUNCTION: u64 = 200;

impl Cost {
    fn new(bytes: u64, work: u64) -> Self {
        Self {
            bytes: bytes.saturating_add(KEPT),
            work: work.saturating_add(REQUEST),
        }
    }

    /// With what every request costs, so many times more: for operations that are composed of others.
    fn steps(self, more: u64) -> Self {
        Self {
            bytes: self.bytes.saturating_add(more * KEPT),
            work: self.work.saturating_add(more * REQUEST),
        }
    }

    /// Of a request that makes no tensor and looks at none.
    pub(crate) fn request() -> Self {
        Self::new(0, 0)
    }

    /// Of copying so many elements of a kind between plugin and host.
    pub(crate) fn copy(elements: usize, kind: Kind) -> Self {
        let elements = elements as u64;
        // The copy itself, and the one that is converted or handed on.
        Self::new(times(elements, 2 * width(kind)), times(elements, 2 * MOVE))
    }

    /// Of a tensor of one value.
    pub(crate) fn full(extents: &[usize]) -> Result<Self> {
        let elements = Shape::new("full", extents)?.elements() as u64;
        Ok(Self::new(elements * FLOAT, elements * MOVE))
    }

    /// Of counting, and of the list that is counted in.
    pub(crate) fn arange(start: i64, end: i64) -> Result<Self> {
        let elements = end.saturating_sub(start).max(0) as u64;
        Ok(Self::new(
            times(elements, 3 * INT),
            times(elements, 3 * MOVE),
        ))
    }

    /// Of the same elements, otherwise seen.
    pub(crate) fn view(x: &Tensor) -> Result<Self> {
        Ok(Self::new(bytes(x), times(elements(x), MOVE)))
    }

    /// Of elements of `x` repeated up to a shape.
    pub(crate) fn expand(x: &Tensor, extents: &[usize]) -> Result<Self> {
        let elements = Shape::new("expand", extents)?.elements() as u64;
        Ok(Self::new(
            times(elements, width(x.kind())),
            times(elements, MOVE),
        ))
    }

    /// Of a part of an axis. What is left out is a gradient of zeros.
    pub(crate) fn narrow(x: &Tensor, axis: i64, length: usize) -> Result<Self> {
        let part = along(x, "narrow", axis, length as u64)?;
        Ok(Self::new(
            times(part, width(x.kind())),
            times(elements(x), MOVE).saturating_add(times(part, MOVE)),
        ))
    }

    /// Of an axis with more around it.
    pub(crate) fn pad(x: &Tensor, axis: i64, before: usize, after: usize) -> Result<Self> {
        let around = along(x, "pad", axis, (before as u64).saturating_add(after as u64))?;
        let all = around.saturating_add(elements(x));
        Ok(Self::new(
            times(all, FLOAT).saturating_add(times(around, FLOAT)),
            times(all, 2 * MOVE),
        )
        .steps(2))
    }

    /// Of tensors side by side.
    pub(crate) fn joined(parts: &[&Tensor]) -> Result<Self> {
        let sum = |each: fn(&Tensor) -> u64| {
            let each = parts.iter().map(|part| each(part));
            each.fold(0, u64::saturating_add)
        };
        let work = times(sum(elements), 2 * MOVE);
        Ok(Self::new(
            sum(bytes),
            work.saturating_add(times(parts.len() as u64, REQUEST)),
        ))
    }

    /// Of a function of each element: `held` bytes and `work` for one.
    pub(crate) fn each(x: &Tensor, held: u64, work: u64) -> Result<Self> {
        let elements = elements(x);
        Ok(Self::new(
            times(elements, held),
            times(elements, work + 2 * MOVE),
        ))
    }

    /// Of an operation on elements that meet by broadcasting: `held` bytes for one of the result.
    pub(crate) fn broadcast(op: &'static str, operands: &[&Tensor], held: u64) -> Result<Self> {
        let Some((first, rest)) = operands.split_first() else {
            return Ok(Self::request());
        };
        let mut shape = first.shape();
        for operand in rest {
            shape = shape.broadcast(op, &operand.shape())?;
        }
        let elements = shape.elements() as u64;
        let moves = MOVE * (operands.len() as u64 + 1);
        Ok(Self::new(times(elements, held), times(elements, moves)))
    }

    /// Of another kind of element.
    pub(crate) fn cast(x: &Tensor, kind: Kind) -> Result<Self> {
        Self::each(x, width(kind), 0)
    }

    /// Of what is left when axes are summed up: `held` bytes and `work` for each element of `x` beside it.
    pub(crate) fn reduce(
        x: &Tensor,
        op: &'static str,
        axes: &[i64],
        held: u64,
        work: u64,
    ) -> Result<Self> {
        let shape = x.shape();
        // One axis goes after the other, the first one first; the results on the way are no larger than the first of them.
        let first = shape.axes(op, axes)?.first().map_or(1, |&axis| shape[axis]);
        let left = elements(x) / (first as u64).max(1);
        let bytes = times(left, 4 * width(x.kind()) + INT);
        Ok(Self::new(
            bytes.saturating_add(times(elements(x), held)),
            times(elements(x), work + JUMP),
        )
        .steps(5))
    }

    /// Of the elements that an index names.
    pub(crate) fn gather(x: &Tensor, index: &Tensor) -> Result<Self> {
        Self::select(x, index, elements(index))
    }

    fn select(x: &Tensor, index: &Tensor, result: u64) -> Result<Self> {
        let work = times(elements(x), MOVE).saturating_add(times(elements(index), JUMP));
        Ok(Self::new(
            times(result, width(x.kind())),
            work.saturating_add(times(result, JUMP)),
        ))
    }

    /// Of slices along an axis.
    pub(crate) fn index_select(x: &Tensor, index: &Tensor, axis: i64) -> Result<Self> {
        let result = along(x, "index_select", axis, elements(index))?;
        Self::select(x, index, result)
    }

    /// Of a row for each index.
    pub(crate) fn one_hot(x: &Tensor, classes: usize) -> Result<Self> {
        let classes = classes as u64;
        let result = times(elements(x), classes);
        let bytes = times(result, FLOAT + BOOL).saturating_add(times(classes, 3 * INT));
        Ok(Self::new(bytes, times(result, 4 * MOVE)).steps(3))
    }

    /// Of sorting an axis and gathering its largest elements.
    pub(crate) fn topk(x: &Tensor, k: usize, axis: i64) -> Result<Self> {
        let extent = x.shape()[x.shape().axis("topk", axis)?] as u64;
        let result = along(x, "topk", axis, k as u64)?;
        let bytes = times(elements(x), 2 * (FLOAT + INT));
        let depth = u64::from(extent.max(2).ilog2()) + 1;
        Ok(Self::new(
            bytes.saturating_add(times(result, 2 * (FLOAT + INT))),
            times(elements(x), depth * JUMP).saturating_add(times(result, 2 * JUMP)),
        )
        .steps(2))
    }

    /// Of a matrix product.
    pub(crate) fn matmul(x: &Tensor, y: &Tensor) -> Result<Self> {
        let (a, b) = (x.shape(), y.shape());
        if a.rank() < 2 || b.rank() != a.rank() {
            return Ok(Self::request()); // refused by the operation, before it does anything
        }
        let matrices = product(
            a.iter()
                .zip(&*b)
                .take(a.rank() - 2)
                .map(|(&a, &b)| a.max(b)),
        );
        let [m, k] = [a[a.rank() - 2], a[a.rank() - 1]];
        let result = times(matrices, product([m, b[b.rank() - 1]]));
        let operands = elements(x).saturating_add(elements(y));
        let work = times(result, 2 * k as u64)
            .saturating_add(times(matrices, 10_000))
            .saturating_add(times(result.saturating_add(operands), MOVE));
        // An outer product is made beside its result.
        Ok(Self::new(times(result, 2 * FLOAT), work))
    }

    /// Of a softmax, or its logarithm.
    pub(crate) fn softmax(x: &Tensor) -> Result<Self> {
        Ok(Self::each(x, 4 * FLOAT, FUNCTION + 4 * MOVE)?.steps(9))
    }

    /// Of a normalisation that is composed of six steps.
    pub(crate) fn normalise(x: &Tensor) -> Result<Self> {
        Ok(Self::each(x, 6 * FLOAT, 12 * MOVE)?.steps(11))
    }

    /// Of a convolution.
    pub(crate) fn conv2d(x: &Tensor, weight: &Tensor, options: ConvOptions) -> Result<Self> {
        let (image, kernel) = (x.shape(), weight.shape());
        if image.rank() != 4 || kernel.rank() != 4 {
            return Ok(Self::request()); // refused by the operation, before it does anything
        }
        let ConvOptions {
            stride,
            padding,
            dilation,
            groups,
        } = options;
        let size = |axis: usize| {
            let reach = dilation[axis].saturating_mul(kernel[axis + 2] - 1);
            windows(
                image[axis + 2],
                reach.saturating_add(1),
                stride[axis],
                padding[axis],
            )
        };
        let places = times(image[0] as u64, times(size(0), size(1)));
        let terms = product([kernel[1], kernel[2], kernel[3]]);
        let result = times(places, kernel[0] as u64);
        // The image is unfolded, in the worst case as a whole and once for each group, and padded.
        let unfolded = times(times(places, terms), groups as u64);
        let is_direct = dilation == [1, 1] && groups == 1;
        let bytes = times(result, 2 * FLOAT)
            .saturating_add(times(elements(x), 2 * FLOAT))
            .saturating_add(times(unfolded, FLOAT));
        let products = times(result, times(terms, if is_direct { 4 } else { 8 }));
        let moves = unfolded.saturating_add(elements(x)).saturating_add(result);
        Ok(Self::new(
            bytes,
            products.saturating_add(times(moves, MOVE)),
        ))
    }

    /// Of a look at each window.
    pub(crate) fn pool(x: &Tensor, options: PoolOptions) -> Result<Self> {
        let image = x.shape();
        if image.rank() != 4 {
            return Ok(Self::request()); // refused by the operation, before it does anything
        }
        let PoolOptions {
            kernel,
            stride,
            padding,
        } = options;
        let size =
            |axis: usize| windows(image[axis + 2], kernel[axis], stride[axis], padding[axis]);
        let result = times(product([image[0], image[1]]), times(size(0), size(1)));
        let seen = times(result, product(kernel));
        Ok(Self::new(
            times(result, 2 * FLOAT + INT).saturating_add(times(elements(x), FLOAT)),
            times(seen, JUMP).saturating_add(times(elements(x), MOVE)),
        ))
    }

    /// Of an average of windows that share an image out, and overlap.
    pub(crate) fn adaptive_pool(x: &Tensor, size: [usize; 2]) -> Result<Self> {
        let image = x.shape();
        if image.rank() != 4 {
            return Ok(Self::request()); // refused by the operation, before it does anything
        }
        let seen = |axis: usize| {
            let (from, to) = (image[axis + 2] as u64, (size[axis] as u64).max(1));
            times(to, from / to + 2)
        };
        let images = product([image[0], image[1]]);
        let result = times(images, product(size));
        Ok(Self::new(
            times(result, 2 * FLOAT).saturating_add(bytes(x)),
            times(times(images, times(seen(0), seen(1))), JUMP),
        ))
    }

    /// Of picking rows, then columns.
    pub(crate) fn resize_nearest(x: &Tensor, size: [usize; 2]) -> Result<Self> {
        let image = x.shape();
        if image.rank() != 4 {
            return Ok(Self::request()); // refused by the operation, before it does anything
        }
        let images = product([image[0], image[1]]);
        let rows = times(images, product([size[0], image[3]]));
        let result = times(images, product(size));
        let indices = (size[0] as u64).saturating_add(size[1] as u64);
        let moved = rows.saturating_add(result).saturating_add(elements(x));
        Ok(Self::new(
            times(rows.saturating_add(result), FLOAT).saturating_add(times(indices, 3 * INT)),
            times(moved, JUMP).saturating_add(times(indices, 3 * MOVE)),
        )
        .steps(3))
    }

    /// Of two matrix products, whose matrices are made for the purpose.
    pub(crate) fn resize_bilinear(x: &Tensor, size: [usize; 2]) -> Result<Self> {
        let image = x.shape();
        if image.rank() != 4 {
            return Ok(Self::request()); // refused by the operation, before it does anything
        }
        let images = product([image[0], image[1]]);
        let matrices = product([size[0], image[2]]).saturating_add(product([size[1], image[3]]));
        let across = times(images, product([image[2], size[1]]));
        let result = times(images, product(size));
        // `across` and the result are each turned once.
        let bytes = times(matrices, 3 * FLOAT)
            .saturating_add(times(across, 2 * FLOAT))
            .saturating_add(times(result, 2 * FLOAT));
        let products =
            times(across, 2 * image[3] as u64).saturating_add(times(result, 2 * image[2] as u64));
        let moved = matrices.saturating_add(across).saturating_add(result);
        let moved = moved.saturating_add(elements(x));
        Ok(Self::new(bytes, products.saturating_add(times(moved, 2 * MOVE))).steps(12))
    }
}

/// Bytes for one element of `x`, `copies` times.
pub(crate) fn copies(x: &Tensor, copies: u64) -> u64 {
    copies * width(x.kind())
}

/// Bytes for one element of `x` and a truth value beside it.
pub(crate) fn masked(x: &Tensor) -> u64 {
    width(x.kind()) + BOOL
}

/// Work of an exponential or the like.
pub(crate) const fn functions(count: u64) -> u64 {
    count * FUNCTION
}

/// Bytes of a truth value.
pub(crate) const TRUTH: u64 = BOOL;

fn width(kind: Kind) -> u64 {
    match kind {
        Kind::Float => FLOAT,
        Kind::Int => INT,
        Kind::Bool => BOOL,
    }
}

fn elements(x: &Tensor) -> u64 {
    x.shape().elements() as u64
}

fn bytes(x: &Tensor) -> u64 {
    times(elements(x), width(x.kind()))
}

fn times(a: u64, b: u64) -> u64 {
    a.saturating_mul(b)
}

fn product(extents: impl IntoIterator<Item = usize>) -> u64 {
    extents
        .into_iter()
        .fold(1, |product, extent| times(product, extent as u64))
}

/// Elements of `x` with another extent at an axis.
fn along(x: &Tensor, op: &'static str, axis: i64, extent: u64) -> Result<u64> {
    let shape = x.shape();
    let there = shape[shape.axis(op, axis)?] as u64;
    Ok(times(elements(x) / there, extent))
}

/// Windows of `reach` along an extent with so many zeros on both sides.
fn windows(extent: usize, reach: usize, stride: usize, padding: usize) -> u64 {
    let padded = padding.saturating_mul(2).saturating_add(extent);
    (padded.saturating_sub(reach) / stride.max(1)) as u64 + 1
}

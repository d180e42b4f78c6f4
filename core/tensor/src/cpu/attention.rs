//! Self-attention of all heads, whose queries, keys and values are read where they lie: nothing is gathered or written apart. Of few
//! tokens, the products are too small for a general matrix product to pay, and a task takes an image; of many, a task takes a head.

use gemm::Parallelism;
use multiversion::multiversion;
use rayon::prelude::*;

use super::kernels;
use super::product::{Strides, product_into};

/// Tokens up to which products are too small for [`gemm`].
const FEW: usize = 128;

/// Extents of one image's attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) tokens: usize,
    pub(super) heads: usize,
    /// Features of one head.
    pub(super) extent: usize,
}

/// What one head works in.
struct Scratch {
    /// Key or value, `[extent, tokens]`.
    transposed: Vec<f32>,
    /// Attention and its gradient, `[tokens, tokens]` each.
    attention: [Vec<f32>; 2],
}

impl Heads {
    /// `[B, tokens, 3 heads extent]` to `[B, tokens, heads extent]`: `softmax(q kᵀ / √extent) v` for each head.
    pub(super) fn forward(self, qkv: &[f32]) -> Vec<f32> {
        let (image, width) = (self.tokens * self.width(), self.width());
        let mut out = vec![0.0; qkv.len() / 3];
        if self.tokens > FEW {
            let to = Shared(out.as_mut_ptr());
            self.each_head(qkv.len() / 3 / image, |scratch, n, head| {
                let qkv = &qkv[n * 3 * image..][..3 * image];
                self.attend_many(qkv, head, scratch);
                let value = self.part(qkv, 2, head);
                let attention = (&scratch.attention[0][..], Strides::rows(self.tokens));
                // SAFETY: of each image, a head's columns are its own, and each head is visited once.
                unsafe {
                    let to = (to.at(n * image + head * self.extent), Strides::rows(width));
                    self.multiply(to, attention, value, [self.tokens, self.extent]);
                }
            });
            return out;
        }
        out.par_chunks_exact_mut(image)
            .zip(qkv.par_chunks_exact(3 * image))
            .for_each_init(
                || self.scratch(),
                |scratch, (out, qkv)| {
                    for head in 0..self.heads {
                        self.attend_few(qkv, head, scratch);
                        let [attention, _] = &scratch.attention;
                        let value = self.part(qkv, 2, head);
                        let to = (&mut out[head * self.extent..], width);
                        product(to, (attention, (self.tokens, 1)), value, self.mixing());
                    }
                },
            );
        out
    }

    /// The gradient of the result to that of `qkv`.
    pub(super) fn backward(self, qkv: &[f32], gradient: &[f32]) -> Vec<f32> {
        let (image, width) = (self.tokens * self.width(), self.width());
        let mut out = vec![0.0; qkv.len()];
        if self.tokens > FEW {
            let to = Shared(out.as_mut_ptr());
            self.each_head(gradient.len() / image, |scratch, n, head| {
                let qkv = &qkv[n * 3 * image..][..3 * image];
                let g = &gradient[n * image + head * self.extent..(n + 1) * image];
                let part = |part: usize| {
                    let at = n * 3 * image + part * width + head * self.extent;
                    (to.at(at), Strides::rows(3 * width))
                };
                // SAFETY: of each image, a head's columns in each part are its own, and each head is visited once.
                unsafe { self.backward_many(qkv, g, head, part, scratch) };
            });
            return out;
        }
        out.par_chunks_exact_mut(3 * image)
            .zip(qkv.par_chunks_exact(3 * image))
            .zip(gradient.par_chunks_exact(image))
            .for_each_init(
                || self.scratch(),
                |scratch, ((out, qkv), g)| {
                    for head in 0..self.heads {
                        self.backward_few(qkv, &g[head * self.extent..], head, out, scratch);
                    }
                },
            );
        out
    }

    /// Fills the attention of one head.
    fn attend_few(self, qkv: &[f32], head: usize, scratch: &mut Scratch) {
        let Self { tokens, extent, .. } = self;
        let [query, key] = [0, 1].map(|part| self.part(qkv, part, head));
        transpose(key, [tokens, extent], &mut scratch.transposed);
        let [attention, _] = &mut scratch.attention;
        product(
            (attention, tokens),
            (query.0, (query.1.rows, 1)),
            (&scratch.transposed, Strides::rows(tokens)),
            [tokens, extent, tokens],
        );
        self.soften(attention);
    }

    fn backward_few(
        self,
        qkv: &[f32],
        g: &[f32],
        head: usize,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let Self { tokens, extent, .. } = self;
        let width = self.width();
        self.attend_few(qkv, head, scratch);
        let [query, key, value] = [0, 1, 2].map(|part| self.part(qkv, part, head));
        transpose(value, [tokens, extent], &mut scratch.transposed);
        let [attention, d_attention] = &mut scratch.attention;
        product(
            (d_attention, tokens),
            (g, (width, 1)),
            (&scratch.transposed, Strides::rows(tokens)),
            [tokens, extent, tokens],
        );
        let mut part = |part: usize, a: &[f32], strides, b| {
            let to = &mut out[part * width + head * extent..];
            product((to, 3 * width), (a, strides), b, self.mixing());
        };
        part(2, attention, (1, tokens), (g, Strides::rows(width)));
        self.soften_backward(attention, d_attention);
        part(0, d_attention, (tokens, 1), key);
        part(1, d_attention, (1, tokens), query);
    }

    fn attend_many(self, qkv: &[f32], head: usize, scratch: &mut Scratch) {
        let Self { tokens, extent, .. } = self;
        let (query, (key, strides)) = (self.part(qkv, 0, head), self.part(qkv, 1, head));
        let key = (key, Strides::columns(strides.rows));
        let [attention, _] = &mut scratch.attention;
        // SAFETY: it is `[tokens, tokens]`.
        unsafe {
            let to = (attention.as_mut_ptr(), Strides::rows(tokens));
            self.multiply(to, query, key, [extent, tokens]);
        }
        self.soften(attention);
    }

    /// `part` tells where the gradient of query, key and value goes.
    ///
    /// # Safety
    /// Nobody else reads or writes there.
    unsafe fn backward_many(
        self,
        qkv: &[f32],
        g: &[f32],
        head: usize,
        part: impl Fn(usize) -> (*mut f32, Strides),
        scratch: &mut Scratch,
    ) {
        let Self { tokens, extent, .. } = self;
        self.attend_many(qkv, head, scratch);
        let [query, key, (value, strides)] = [0, 1, 2].map(|part| self.part(qkv, part, head));
        let g = (g, Strides::rows(self.width()));
        let [attention, d_attention] = &mut scratch.attention;
        let (turned, straight) = (Strides::columns(tokens), Strides::rows(tokens));
        // SAFETY: the gradient of the attention is `[tokens, tokens]`; the caller vouches for the rest.
        unsafe {
            self.multiply(part(2), (attention, turned), g, [tokens, extent]);
            let to = (d_attention.as_mut_ptr(), straight);
            let value = (value, Strides::columns(strides.rows));
            self.multiply(to, g, value, [extent, tokens]);
            self.soften_backward(attention, d_attention);
            self.multiply(part(0), (d_attention, straight), key, [tokens, extent]);
            self.multiply(part(1), (d_attention, turned), query, [tokens, extent]);
        }
    }

    /// `[tokens, k]` times `[k, n]`.
    ///
    /// # Safety
    /// As [`product_into`].
    unsafe fn multiply(
        self,
        out: (*mut f32, Strides),
        a: (&[f32], Strides),
        b: (&[f32], Strides),
        [k, n]: [usize; 2],
    ) {
        // SAFETY: the caller's.
        unsafe { product_into(out, a, b, [self.tokens, k, n], Parallelism::None) };
    }

    /// Products of queries and keys to attention.
    fn soften(self, attention: &mut [f32]) {
        kernels::scale(attention, self.scale());
        kernels::softmax(attention, self.tokens);
    }

    /// The gradient of the attention to that of the products.
    fn soften_backward(self, attention: &[f32], gradient: &mut [f32]) {
        kernels::softmax_backward(attention, gradient, self.tokens);
        kernels::scale(gradient, self.scale());
    }

    fn scale(self) -> f32 {
        1.0 / (self.extent as f32).sqrt()
    }

    /// Query, key or value of one head, `[tokens, extent]`.
    fn part(self, qkv: &[f32], part: usize, head: usize) -> (&[f32], Strides) {
        let at = part * self.width() + head * self.extent;
        (&qkv[at..], Strides::rows(3 * self.width()))
    }

    /// Extents of attention times values.
    fn mixing(self) -> [usize; 3] {
        [self.tokens, self.tokens, self.extent]
    }

    fn width(self) -> usize {
        self.heads * self.extent
    }

    fn scratch(self) -> Scratch {
        Scratch {
            transposed: vec![0.0; self.tokens * self.extent],
            attention: std::array::from_fn(|_| vec![0.0; self.tokens * self.tokens]),
        }
    }

    fn each_head(self, images: usize, work: impl Fn(&mut Scratch, usize, usize) + Sync) {
        (0..images * self.heads).into_par_iter().for_each_init(
            || self.scratch(),
            |scratch, at| work(scratch, at / self.heads, at % self.heads),
        );
    }
}

/// A place that tasks write to, each its own elements.
struct Shared(*mut f32);

// SAFETY: it is only an address; whoever writes there says why nobody else does.
unsafe impl Sync for Shared {}

impl Shared {
    fn at(&self, element: usize) -> *mut f32 {
        self.0.wrapping_add(element)
    }
}

/// `[rows, columns]` to `[columns, rows]`.
fn transpose((from, strides): (&[f32], Strides), [rows, columns]: [usize; 2], to: &mut [f32]) {
    for row in 0..rows {
        let from = &from[row * strides.rows..][..columns];
        for (column, &value) in from.iter().enumerate() {
            to[column * rows + row] = value;
        }
    }
}

/// Rows that are kept in registers at once.
const ROWS: usize = 4;

/// `out[m, n] = a b`: `out` and `b` are rows of given distances, `a[row, p]` lies at `row * strides.0 + p * strides.1`. Products and sums are
/// written apart, as in [`kernels`].
#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma",
    "x86_64+avx2+fma"
))]
fn product(
    out: (&mut [f32], usize),
    a: (&[f32], (usize, usize)),
    (b, b_strides): (&[f32], Strides),
    [m, k, n]: [usize; 3],
) {
    let (to, distance) = out;
    let mut row = 0;
    while row < m {
        // A row past the end repeats the last one and is not kept.
        let rows: [usize; ROWS] = std::array::from_fn(|r| (row + r).min(m - 1));
        let count = ROWS.min(m - row);
        let to = &mut to[row * distance..];
        let b = (b, b_strides.rows);
        let mut column = 0;
        while column + 16 <= n {
            tile::<16>((&mut *to, distance), (a, rows, count), b, column, k);
            column += 16;
        }
        if column + 8 <= n {
            tile::<8>((&mut *to, distance), (a, rows, count), b, column, k);
            column += 8;
        }
        while column < n {
            tile::<1>((&mut *to, distance), (a, rows, count), b, column, k);
            column += 1;
        }
        row += count;
    }
}

/// A factor by its elements, and the distances between rows and between columns.
type Factor<'a> = (&'a [f32], (usize, usize));

/// `LANES` columns of up to `ROWS` rows.
#[inline(always)]
fn tile<const LANES: usize>(
    (to, distance): (&mut [f32], usize),
    ((a, strides), rows, count): (Factor<'_>, [usize; ROWS], usize),
    (b, b_distance): (&[f32], usize),
    column: usize,
    k: usize,
) {
    let mut sums = [[0.0f32; LANES]; ROWS];
    for p in 0..k {
        let b = &b[p * b_distance + column..][..LANES];
        for (sums, row) in sums.iter_mut().zip(rows) {
            let factor = a[row * strides.0 + p * strides.1];
            for (sum, &b) in sums.iter_mut().zip(b) {
                *sum += factor * b;
            }
        }
    }
    for (r, sums) in sums.iter().enumerate().take(count) {
        to[r * distance + column..][..LANES].copy_from_slice(sums);
    }
}

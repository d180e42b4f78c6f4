//! Self-attention of so few tokens that a general matrix product does not pay: an image takes one task, with small products of its own.

use multiversion::multiversion;
use rayon::prelude::*;

use super::kernels;
use super::product::Strides;

/// Extents of one image's self-attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Few {
    pub(super) tokens: usize,
    pub(super) heads: usize,
    /// Features of one head.
    pub(super) extent: usize,
}

/// What one image works in.
struct Room {
    /// Key or value, `[extent, tokens]`.
    transposed: Vec<f32>,
    /// Attention and its gradient, `[tokens, tokens]` each.
    attention: [Vec<f32>; 2],
}

impl Few {
    /// The most tokens that are few.
    pub(super) const MOST: usize = 128;

    /// `[B, tokens, 3 heads extent]` to `[B, tokens, heads extent]`.
    pub(super) fn forward(self, qkv: &[f32]) -> Vec<f32> {
        let (image, width) = (self.tokens * self.width(), self.width());
        let mut out = vec![0.0; qkv.len() / 3];
        out.par_chunks_exact_mut(image)
            .zip(qkv.par_chunks_exact(3 * image))
            .for_each_init(
                || self.room(),
                |room, (out, qkv)| {
                    for head in 0..self.heads {
                        self.attend(qkv, head, room);
                        let [attention, _] = &room.attention;
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
        let image = self.tokens * self.width();
        let mut out = vec![0.0; qkv.len()];
        out.par_chunks_exact_mut(3 * image)
            .zip(qkv.par_chunks_exact(3 * image))
            .zip(gradient.par_chunks_exact(image))
            .for_each_init(
                || self.room(),
                |room, ((out, qkv), g)| {
                    for head in 0..self.heads {
                        self.head_backward(qkv, &g[head * self.extent..], head, out, room);
                    }
                },
            );
        out
    }

    /// Fills the attention of one head.
    fn attend(self, qkv: &[f32], head: usize, room: &mut Room) {
        let Self { tokens, extent, .. } = self;
        let [query, key] = [0, 1].map(|part| self.part(qkv, part, head));
        transpose(key, [tokens, extent], &mut room.transposed);
        let [attention, _] = &mut room.attention;
        product(
            (attention, tokens),
            (query.0, (query.1.rows, 1)),
            (&room.transposed, Strides::rows(tokens)),
            [tokens, extent, tokens],
        );
        kernels::scale(attention, self.scale());
        kernels::softmax(attention, tokens);
    }

    fn head_backward(self, qkv: &[f32], g: &[f32], head: usize, out: &mut [f32], room: &mut Room) {
        let Self { tokens, extent, .. } = self;
        let width = self.width();
        self.attend(qkv, head, room);
        let [query, key, value] = [0, 1, 2].map(|part| self.part(qkv, part, head));
        transpose(value, [tokens, extent], &mut room.transposed);
        let [attention, d_attention] = &mut room.attention;
        product(
            (d_attention, tokens),
            (g, (width, 1)),
            (&room.transposed, Strides::rows(tokens)),
            [tokens, extent, tokens],
        );
        let mut part = |part: usize, a: &[f32], strides, b| {
            let to = &mut out[part * width + head * extent..];
            product((to, 3 * width), (a, strides), b, self.mixing());
        };
        part(2, attention, (1, tokens), (g, Strides::rows(width)));
        kernels::softmax_backward(attention, d_attention, tokens);
        kernels::scale(d_attention, self.scale());
        part(0, d_attention, (tokens, 1), key);
        part(1, d_attention, (1, tokens), query);
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

    fn room(self) -> Room {
        Room {
            transposed: vec![0.0; self.tokens * self.extent],
            attention: std::array::from_fn(|_| vec![0.0; self.tokens * self.tokens]),
        }
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

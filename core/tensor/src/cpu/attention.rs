//! Self-attention of one image, all heads: the products are too small for a general matrix product
//! to pay, and no transposed copy of the whole batch is made.

use multiversion::multiversion;

use super::kernels;

const LANES: usize = 16;
const ROWS: usize = 4;

/// Extents of one image's attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) tokens: usize,
    pub(super) heads: usize,
    /// Features of one head.
    pub(super) extent: usize,
}

/// What one head works in; made once per image.
pub(super) struct Scratch {
    /// Query, key, value, the gradient of the output, and of the three: `[tokens, extent]` each.
    parts: [Vec<f32>; 7],
    /// Key or value, `[extent, tokens]`.
    transposed: Vec<f32>,
    /// Attention and its gradient, `[tokens, tokens]` each.
    attention: [Vec<f32>; 2],
}

impl Heads {
    pub(super) fn scratch(self) -> Scratch {
        let part = self.tokens * self.extent;
        let square = self.tokens * self.tokens;
        Scratch {
            parts: std::array::from_fn(|_| vec![0.0; part]),
            transposed: vec![0.0; part],
            attention: std::array::from_fn(|_| vec![0.0; square]),
        }
    }

    fn width(self) -> usize {
        self.heads * self.extent
    }

    /// `[tokens, 3 heads extent]` to `[tokens, heads extent]`: `softmax(q kᵀ / √extent) v` for each head.
    pub(super) fn forward(self, qkv: &[f32], out: &mut [f32], scratch: &mut Scratch) {
        for head in 0..self.heads {
            self.attend(qkv, head, scratch);
            let Scratch {
                parts: [_, _, value, mixed, ..],
                attention: [attention, _],
                ..
            } = scratch;
            product(attention, (self.tokens, 1), value, mixed, self.tokens);
            self.scatter(mixed, out, self.width(), head * self.extent);
        }
    }

    /// `gradient` of `[tokens, heads extent]` to that of `qkv`.
    pub(super) fn backward(
        self,
        qkv: &[f32],
        gradient: &[f32],
        out: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let Self { tokens, extent, .. } = self;
        let scale = 1.0 / (extent as f32).sqrt();
        for head in 0..self.heads {
            self.attend(qkv, head, scratch);
            let Scratch {
                parts,
                transposed,
                attention: [attention, d_attention],
            } = scratch;
            let [query, key, value, g, d_query, d_key, d_value] = parts;
            self.gather(gradient, self.width(), head * extent, g);
            product(attention, (1, tokens), g, d_value, tokens);
            self.transpose(value, transposed);
            product(g, (extent, 1), transposed, d_attention, tokens);
            kernels::softmax_backward(attention, d_attention, tokens);
            for value in d_attention.iter_mut() {
                *value *= scale;
            }
            product(d_attention, (tokens, 1), key, d_query, tokens);
            product(d_attention, (1, tokens), query, d_key, tokens);
            for (part, d) in [d_query, d_key, d_value].into_iter().enumerate() {
                self.scatter(
                    d,
                    out,
                    3 * self.width(),
                    part * self.width() + head * extent,
                );
            }
        }
    }

    /// Fills query, key, value and attention of one head.
    fn attend(self, qkv: &[f32], head: usize, scratch: &mut Scratch) {
        let Scratch {
            parts: [query, key, value, ..],
            transposed,
            attention: [attention, _],
        } = scratch;
        for (part, to) in [&mut *query, &mut *key, value].into_iter().enumerate() {
            self.gather(
                qkv,
                3 * self.width(),
                part * self.width() + head * self.extent,
                to,
            );
        }
        self.transpose(key, transposed);
        product(query, (self.extent, 1), transposed, attention, self.tokens);
        let scale = 1.0 / (self.extent as f32).sqrt();
        for value in attention.iter_mut() {
            *value *= scale;
        }
        kernels::softmax(attention, self.tokens);
    }

    fn gather(self, from: &[f32], stride: usize, offset: usize, to: &mut [f32]) {
        for (token, to) in to.chunks_exact_mut(self.extent).enumerate() {
            to.copy_from_slice(&from[token * stride + offset..][..self.extent]);
        }
    }

    fn scatter(self, from: &[f32], to: &mut [f32], stride: usize, offset: usize) {
        for (token, from) in from.chunks_exact(self.extent).enumerate() {
            to[token * stride + offset..][..self.extent].copy_from_slice(from);
        }
    }

    fn transpose(self, from: &[f32], to: &mut [f32]) {
        for (token, from) in from.chunks_exact(self.extent).enumerate() {
            for (feature, &value) in from.iter().enumerate() {
                to[feature * self.tokens + token] = value;
            }
        }
    }
}

/// `out[rows, n] = a b` for `b` of `[k, n]` and `a[row, p]` at `row * strides.0 + p * strides.1`.
#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma",
    "x86_64+avx2+fma"
))]
fn product(a: &[f32], strides: (usize, usize), b: &[f32], out: &mut [f32], rows: usize) {
    let n = out.len() / rows;
    let k = b.len() / n;
    let mut row = 0;
    while row < rows {
        let count = ROWS.min(rows - row);
        let mut column = 0;
        while column + LANES <= n {
            let mut sums = [[0.0f32; LANES]; ROWS];
            for p in 0..k {
                let b = &b[p * n + column..][..LANES];
                for (r, sums) in sums.iter_mut().enumerate() {
                    // A row past the end repeats the last one and is not kept.
                    let factor = a[(row + r.min(count - 1)) * strides.0 + p * strides.1];
                    for (sum, &b) in sums.iter_mut().zip(b) {
                        *sum += factor * b;
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate().take(count) {
                out[(row + r) * n + column..][..LANES].copy_from_slice(sums);
            }
            column += LANES;
        }
        for r in row..row + count {
            for column in column..n {
                let mut sum = 0.0;
                for p in 0..k {
                    sum += a[r * strides.0 + p * strides.1] * b[p * n + column];
                }
                out[r * n + column] = sum;
            }
        }
        row += count;
    }
}

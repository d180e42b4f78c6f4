//! Attention of all heads, whose queries, keys and values are read where they lie: nothing is gathered or written apart, and of the
//! scores only those of some queries are in memory at once, as in FlashAttention (Dao et al. 2022). The backward step computes them again.
//!
//! Self-attention of few tokens has [products of its own](super::few).

use gemm::Parallelism;
use rayon::prelude::*;

use super::kernels;
use super::product::{Strides, add_product, product_into};

/// Queries whose part in the gradient of keys and values one task adds up. Fixed, so that sums have the same bits for any number of threads.
const SHARE: usize = 1024;

/// Scores that a task has in memory at once, about as many as fit into a core's second cache.
const SCORES: usize = 1 << 18;

/// Extents of attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attention {
    pub(super) images: usize,
    /// Tokens that see, of each image.
    pub(super) queries: usize,
    /// Tokens that are seen.
    pub(super) keys: usize,
    /// Whether all images see the same ones.
    pub(super) shared: bool,
    pub(super) heads: usize,
    /// Features of one head.
    pub(super) extent: usize,
}

/// Where the features of tokens lie, those of all heads side by side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tokens<T> {
    /// The first feature of the first token of the first image.
    pub(super) first: T,
    /// Elements from one image to the next; none where all images share the tokens.
    pub(super) image: usize,
    /// Elements from one token to the next.
    pub(super) token: usize,
}

/// Queries, keys and values, or their gradients.
pub(super) type Three<T> = [Tokens<T>; 3];

/// A place that tasks write to, each its own elements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared(*mut f32);

// SAFETY: it is only an address; whoever writes there says why nobody else does.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// The elements of `values` from `first` on.
    pub(super) fn from(values: &mut [f32], first: usize) -> Self {
        Self(values[first..].as_mut_ptr())
    }
}

impl<T> Tokens<T> {
    /// As many tokens, as far apart, elsewhere.
    pub(super) fn with<U>(&self, first: U) -> Tokens<U> {
        Tokens {
            first,
            image: self.image,
            token: self.token,
        }
    }

    fn at(&self, image: usize, token: usize) -> usize {
        image * self.image + token * self.token
    }

    fn strides(&self) -> Strides {
        Strides::rows(self.token)
    }
}

/// Scores of some queries, and their gradient.
type Scratch = [Vec<f32>; 2];

/// Some queries of one head of one image.
#[derive(Clone, Copy)]
struct Block {
    image: usize,
    head: usize,
    first: usize,
    rows: usize,
}

impl Attention {
    /// `softmax(q kᵀ / √extent) v` for each head: `[images, queries, heads extent]`.
    pub(super) fn forward(self, from: Three<&[f32]>) -> Vec<f32> {
        let mut out = vec![0.0; self.images * self.queries * self.width()];
        let to = self.tokens(Shared::from(&mut out, 0));
        let shares = self.queries.div_ceil(SHARE);
        (0..self.images * self.heads * shares)
            .into_par_iter()
            .for_each_init(
                || self.scratch(),
                |[scores, _], at| {
                    let (image, head) = (at / shares / self.heads, at / shares % self.heads);
                    self.each_block(image, head, at % shares, |block| {
                        self.attend(&from, block, scores);
                        let scores = (&scores[..], Strides::rows(self.keys));
                        let value = self.part(&from[2], image, 0, head);
                        // SAFETY: the features of a head of some queries are this block's own.
                        unsafe { self.write(to, block, scores, value) };
                    });
                },
            );
        out
    }

    /// The gradient of the result, `[images, queries, heads extent]`, to those of queries, keys and values; what is at `to` is not read.
    ///
    /// # Safety
    /// `to` has room for as many tokens as `from`, which nobody else reads or writes meanwhile.
    pub(super) unsafe fn backward(self, from: Three<&[f32]>, gradient: &[f32], to: Three<Shared>) {
        let g = self.tokens(gradient);
        let shares = self.queries.div_ceil(SHARE);
        // What is seen together has one gradient.
        let (apart, together) = match self.shared {
            true => (1, self.images),
            false => (self.images, 1),
        };
        let work = |scratch: &mut Scratch, at: usize| {
            let (seen, head) = (at / self.heads, at % self.heads);
            let part = |scratch: &mut Scratch, at: usize| {
                let place = [seen + at / shares, head, at % shares];
                // SAFETY: the gradient of the queries of an image's head is this share's own.
                unsafe { self.share((&from, &g), to[0], place, scratch) }
            };
            let mut parts = match together * shares {
                1 => vec![part(scratch, 0)],
                several => (0..several)
                    .into_par_iter()
                    .map_init(|| self.scratch(), part)
                    .collect(),
            };
            let Some((sums, others)) = parts.split_first_mut() else {
                return;
            };
            for (n, (sum, to)) in sums.iter_mut().zip([to[1], to[2]]).enumerate() {
                for part in &*others {
                    kernels::sum_rows(&part[n], sum);
                }
                for (key, sum) in sum.chunks_exact(self.extent).enumerate() {
                    let place = to.at(seen, key) + head * self.extent;
                    // SAFETY: the features of a head of what one image or all of them see are this task's own.
                    unsafe {
                        let to = to.first.0.add(place);
                        std::ptr::copy_nonoverlapping(sum.as_ptr(), to, self.extent);
                    }
                }
            }
        };
        (0..apart * self.heads)
            .into_par_iter()
            .for_each_init(|| self.scratch(), work);
    }

    /// Writes the gradient of some queries of a head, and returns their part in that of its keys and values, `[keys, extent]` each.
    ///
    /// # Safety
    /// As [`backward`](Self::backward), for those queries.
    unsafe fn share(
        self,
        (from, g): (&Three<&[f32]>, &Tokens<&[f32]>),
        to: Tokens<Shared>,
        [image, head, share]: [usize; 3],
        [scores, d_scores]: &mut Scratch,
    ) -> [Vec<f32>; 2] {
        let [key, value] = [1, 2].map(|part| self.part(&from[part], image, 0, head));
        let mut sums = [0, 1].map(|_| vec![0.0; self.keys * self.extent]);
        self.each_block(image, head, share, |block| {
            let Block { first, rows, .. } = block;
            let [query, g] = [&from[0], g].map(|part| self.part(part, image, first, head));
            self.attend(from, block, scores);
            let (straight, turned) = (Strides::rows(self.keys), Strides::columns(self.keys));
            let [d_key, d_value] = &mut sums;
            let seen = [self.keys, rows, self.extent];
            let apart = Strides::rows(self.extent);
            add_product((d_value, apart), (scores, turned), g, seen);
            // SAFETY: there is room for the scores of a block; the caller vouches for `to`.
            unsafe {
                let to_scores = (d_scores.as_mut_ptr(), straight);
                let value = (value.0, Strides::columns(value.1.rows));
                let sizes = [rows, self.extent, self.keys];
                product_into(to_scores, g, value, sizes, Parallelism::None);
            }
            let (scores, d_scores) = (
                &scores[..rows * self.keys],
                &mut d_scores[..rows * self.keys],
            );
            kernels::softmax_backward(scores, d_scores, self.keys);
            kernels::scale(d_scores, self.scale());
            add_product((d_key, apart), (d_scores, turned), query, seen);
            // SAFETY: the caller's.
            unsafe { self.write(to, block, (d_scores, straight), key) };
        });
        sums
    }

    /// Fills the attention of a block, `[rows, keys]`.
    fn attend(self, from: &Three<&[f32]>, block: Block, scores: &mut [f32]) {
        let Block {
            image,
            head,
            first,
            rows,
        } = block;
        let query = self.part(&from[0], image, first, head);
        let (key, strides) = self.part(&from[1], image, 0, head);
        let key = (key, Strides::columns(strides.rows));
        let scores = &mut scores[..rows * self.keys];
        // SAFETY: there is room for the scores of a block.
        unsafe {
            let to = (scores.as_mut_ptr(), Strides::rows(self.keys));
            let sizes = [rows, self.extent, self.keys];
            product_into(to, query, key, sizes, Parallelism::None);
        }
        kernels::scale(scores, self.scale());
        kernels::softmax(scores, self.keys);
    }

    /// Writes `[rows, keys]` times `[keys, extent]` to a block's queries.
    ///
    /// # Safety
    /// There is room for them at `to`, and nobody else reads or writes there.
    unsafe fn write(
        self,
        to: Tokens<Shared>,
        block: Block,
        scores: (&[f32], Strides),
        seen: (&[f32], Strides),
    ) {
        let place = to.at(block.image, block.first) + block.head * self.extent;
        // SAFETY: the caller's.
        unsafe {
            let out = (to.first.0.add(place), to.strides());
            let sizes = [block.rows, self.keys, self.extent];
            product_into(out, scores, seen, sizes, Parallelism::None);
        }
    }

    fn each_block(self, image: usize, head: usize, share: usize, mut work: impl FnMut(Block)) {
        let end = self.queries.min((share + 1) * SHARE);
        for first in (share * SHARE..end).step_by(self.rows()) {
            work(Block {
                image,
                head,
                first,
                rows: self.rows().min(end - first),
            });
        }
    }

    /// Features of one head from a token on.
    fn part<'a>(
        self,
        from: &Tokens<&'a [f32]>,
        image: usize,
        token: usize,
        head: usize,
    ) -> (&'a [f32], Strides) {
        let at = from.at(image, token) + head * self.extent;
        (&from.first[at..], from.strides())
    }

    /// Of queries that lie by themselves.
    fn tokens<T>(self, first: T) -> Tokens<T> {
        Tokens {
            first,
            image: self.queries * self.width(),
            token: self.width(),
        }
    }

    /// Queries of a block.
    fn rows(self) -> usize {
        (SCORES / self.keys).clamp(16, SHARE)
    }

    fn scratch(self) -> Scratch {
        let rows = self.rows().min(self.queries);
        [0, 1].map(|_| vec![0.0; rows * self.keys])
    }

    fn scale(self) -> f32 {
        1.0 / (self.extent as f32).sqrt()
    }

    fn width(self) -> usize {
        self.heads * self.extent
    }
}

//! Images as tokens: the patch embedding of transformers, and the way back.

use dtta_tensor::Tensor;

use crate::error::Result;
use crate::weights::{Declaration, Group, Init, ParameterId, Weights};

/// The most numbers of a table of positions.
pub(crate) const MAX_TABLE: usize = 1 << 26;

/// A grid of square patches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    pub rows: usize,
    pub columns: usize,
    /// Height and width of a patch.
    pub patch: usize,
}

impl Grid {
    /// Of an image of which the patch divides height and width.
    pub fn of([_, height, width]: [usize; 3], patch: usize) -> Self {
        Self {
            rows: height / patch,
            columns: width / patch,
            patch,
        }
    }

    pub fn tokens(&self) -> usize {
        self.rows * self.columns
    }

    /// `[B, C, H, W]` to `[B, T, p p C]`, channels last.
    pub fn take_apart(&self, images: &Tensor) -> Result<Tensor> {
        let Self {
            rows,
            columns,
            patch: p,
        } = *self;
        let (batch, c) = (images.shape()[0], images.shape()[1]);
        let patches = images
            .reshape(&signed(&[batch, c, rows, p, columns, p]))?
            .permute(&[0, 2, 4, 3, 5, 1])?;
        Ok(patches.reshape(&signed(&[batch, rows * columns, p * p * c]))?)
    }

    /// The fixed position table `[T, width]`, row by row (`get_2d_sincos_pos_embed` of the reference): the first half codes the column,
    /// the second the row.
    pub fn positions(&self, width: usize) -> Vec<f32> {
        let quarter = width / 4;
        let frequencies: Vec<f64> = (0..quarter)
            .map(|i| 10_000f64.powf(-(i as f64) / quarter as f64))
            .collect();
        let mut table = Vec::with_capacity(self.tokens() * width);
        for row in 0..self.rows {
            for column in 0..self.columns {
                for place in [column, row] {
                    let angles = frequencies.iter().map(|frequency| place as f64 * frequency);
                    table.extend(angles.clone().map(|angle| angle.sin() as f32));
                    table.extend(angles.map(|angle| angle.cos() as f32));
                }
            }
        }
        table
    }

    /// `[B, T, p p C']`, channels last, to the first `channels` of `[B, C', H, W]`.
    pub fn assemble(&self, tokens: &Tensor, channels: usize) -> Result<Tensor> {
        let (
            Self {
                rows,
                columns,
                patch: p,
            },
            c,
        ) = (*self, channels);
        let (batch, all) = (tokens.shape()[0], tokens.shape()[2] / (p * p));
        let image = tokens
            .reshape(&signed(&[batch * rows * columns, p * p, all]))?
            .narrow(2, 0, c)?
            .reshape(&signed(&[batch, rows, columns, p, p, c]))?
            .permute(&[0, 5, 1, 3, 2, 4])?;
        Ok(image.reshape(&signed(&[batch, c, rows * p, columns * p]))?)
    }
}

/// The patch embedding: a convolution whose windows do not overlap, hence a matrix product over patches.
pub(crate) struct PatchEmbedding {
    weight: ParameterId,
    bias: ParameterId,
    grid: Grid,
    channels: usize,
}

impl PatchEmbedding {
    /// From patches of so many `channels` to vectors of `width`.
    pub fn declare(
        d: &mut Declaration,
        name: &str,
        grid: Grid,
        [channels, width]: [usize; 2],
        init: Init,
    ) -> Self {
        let shape = [width, channels, grid.patch, grid.patch];
        d.within(name, |d| Self {
            weight: d.declare("weight", &shape, Group::Weight, init),
            bias: d.declare("bias", &[width], Group::Bias, Init::Zeros),
            grid,
            channels,
        })
    }

    /// `[B, C, H, W]` to `[B, T, D]`.
    pub fn forward(&self, weights: &Weights, images: &Tensor) -> Result<Tensor> {
        let Grid {
            rows,
            columns,
            patch: p,
        } = self.grid;
        let (batch, elements) = (images.shape()[0], self.channels * p * p);
        let patches = images
            .reshape(&signed(&[batch, self.channels, rows, p, columns, p]))?
            .permute(&[0, 2, 4, 1, 3, 5])?
            .reshape(&signed(&[batch, rows * columns, elements]))?;
        let weight = weights.get(self.weight).reshape(&[-1, elements as i64])?;
        Ok(patches.linear(&weight, Some(weights.get(self.bias)))?)
    }
}

fn signed<const N: usize>(extents: &[usize; N]) -> [i64; N] {
    extents.map(|extent| extent as i64)
}

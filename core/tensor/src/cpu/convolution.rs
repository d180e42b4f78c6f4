//! The gradients of a convolution of any stride, as matrix products over unfolded windows ("im2col"), one image at a time so that the
//! windows stay in the cache. Those of stride 1 take [`planes`](super::planes) instead.

use std::mem::MaybeUninit;
use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

use super::product::{Strides, add_product, product_into};
use super::written;

/// Extents of one image's convolution, without groups or dilation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Convolution {
    pub(super) channels: usize,
    pub(super) outputs: usize,
    /// Height and width of each.
    pub(super) input: [usize; 2],
    pub(super) output: [usize; 2],
    pub(super) kernel: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) padding: [usize; 2],
}

impl Convolution {
    /// Of `[B, C, H, W]` with `[O, C, h, w]`.
    pub(super) fn new(
        x: &[usize],
        weight: &[usize],
        stride: [usize; 2],
        padding: [usize; 2],
    ) -> Self {
        let (channels, outputs) = (x[1], weight[0]);
        let (input, kernel) = ([x[2], x[3]], [weight[2], weight[3]]);
        let output =
            [0, 1].map(|axis| (input[axis] + 2 * padding[axis] - kernel[axis]) / stride[axis] + 1);
        Self {
            channels,
            outputs,
            input,
            output,
            kernel,
            stride,
            padding,
        }
    }

    pub(super) fn input_size(self) -> usize {
        self.channels * self.input[0] * self.input[1]
    }

    pub(super) fn output_size(self) -> usize {
        self.outputs * self.positions()
    }

    pub(super) fn weight_size(self) -> usize {
        self.outputs * self.window()
    }

    /// Elements of one window.
    fn window(self) -> usize {
        self.channels * self.kernel[0] * self.kernel[1]
    }

    /// Windows of one image.
    pub(super) fn positions(self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Elements of all windows.
    pub(super) fn unfolded(self) -> usize {
        self.window() * self.positions()
    }

    /// Whether it is a matrix product: a window of one pixel, each pixel once.
    pub(super) fn is_product(self) -> bool {
        [self.kernel, self.stride] == [[1, 1]; 2] && self.padding == [0, 0]
    }

    /// Where [it is a product](Self::is_product), the gradient of the input, `[B, C, H, W]`, from that of the output.
    pub(super) fn product_gradient(self, g: &[f32], weight: &[f32]) -> Vec<f32> {
        let images = g.len() / self.output_size();
        // One image is a product that all threads share; of several, each thread takes its own.
        let parallelism = match images {
            1 => Parallelism::Rayon(0),
            _ => Parallelism::None,
        };
        let turned = (weight, Strides::columns(self.channels));
        let (row, sizes) = (
            Strides::rows(self.positions()),
            [self.channels, self.outputs, self.positions()],
        );
        let write = |out: &mut [MaybeUninit<f32>]| {
            out.par_chunks_exact_mut(self.input_size())
                .zip(g.par_chunks_exact(self.output_size()))
                .for_each(|(out, g)| {
                    // SAFETY: an image's input has as many elements as the product.
                    unsafe {
                        let to = (out.as_mut_ptr().cast(), row);
                        product_into(to, turned, (g, row), sizes, parallelism);
                    }
                });
        };
        // SAFETY: the products of all images cover it.
        unsafe { written(images * self.input_size(), write) }
    }

    /// Adds the weight's gradient from one image to `total`, `[outputs, window]`; `windows` is scratch.
    pub(super) fn add_weight_gradient(
        self,
        x: &[f32],
        g: &[f32],
        windows: &mut [f32],
        total: &mut [f32],
    ) {
        let step = self.stride[1];
        self.each_line(|start, covered| {
            let line = &mut windows[start..][..self.output[1]];
            let Some((columns, place)) = covered else {
                line.fill(0.0);
                return;
            };
            line[..columns.start].fill(0.0);
            line[columns.end..].fill(0.0);
            let line = &mut line[columns];
            if step == 1 {
                line.copy_from_slice(&x[place..][..line.len()]);
            } else {
                for (to, &value) in line.iter_mut().zip(x[place..].iter().step_by(step)) {
                    *to = value;
                }
            }
        });
        let (positions, window) = (self.positions(), self.window());
        let (g, windows) = (
            (g, Strides::rows(positions)),
            (&*windows, Strides::columns(positions)),
        );
        let sizes = [self.outputs, positions, window];
        add_product((total, Strides::rows(window)), g, windows, sizes);
    }

    /// Adds one image's gradient to `out`, `[channels, height, width]`; `windows` is scratch.
    pub(super) fn add_input_gradient(
        self,
        weight: &[f32],
        g: &[f32],
        windows: &mut [f32],
        out: &mut [f32],
    ) {
        let (positions, window) = (self.positions(), self.window());
        assert!(windows.len() >= self.unfolded());
        let (weight, row) = ((weight, Strides::columns(window)), Strides::rows(positions));
        let sizes = [window, self.outputs, positions];
        // SAFETY: the assert holds every index of the windows within their slice.
        unsafe {
            let to = (windows.as_mut_ptr(), row);
            product_into(to, weight, (g, row), sizes, Parallelism::None);
        }
        let step = self.stride[1];
        self.each_line(|start, covered| {
            let Some((columns, place)) = covered else {
                return;
            };
            let line = &windows[start + columns.start..start + columns.end];
            if step == 1 {
                for (&value, to) in line.iter().zip(&mut out[place..]) {
                    *to += value;
                }
            } else {
                for (&value, to) in line.iter().zip(out[place..].iter_mut().step_by(step)) {
                    *to += value;
                }
            }
        });
    }

    /// Visits the lines of the unfolded windows: where each starts, and which of its columns lie
    /// within the image, the first of them at which element of the image.
    fn each_line(self, mut work: impl FnMut(usize, Option<(Range<usize>, usize)>)) {
        let [height, width] = self.input;
        let mut start = 0;
        for channel in 0..self.channels {
            for ky in 0..self.kernel[0] {
                for kx in 0..self.kernel[1] {
                    let step = self.stride[1];
                    let first = self.padding[1].saturating_sub(kx).div_ceil(step);
                    // Columns whose pixel, `column step + kx - padding`, lies before the right edge.
                    let end = (width + self.padding[1]).saturating_sub(kx).div_ceil(step);
                    let columns = first..end.min(self.output[1]);
                    for line in 0..self.output[0] {
                        let y = (line * self.stride[0] + ky).checked_sub(self.padding[0]);
                        let covered = y.filter(|&y| y < height && !columns.is_empty()).map(|y| {
                            let x = columns.start * step + kx - self.padding[1];
                            (columns.clone(), (channel * height + y) * width + x)
                        });
                        work(start, covered);
                        start += self.output[1];
                    }
                }
            }
        }
    }
}

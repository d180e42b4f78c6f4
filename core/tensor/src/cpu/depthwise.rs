//! Convolutions of one window for each channel. As in [`planes`](super::planes), a channel is one padded plane whose lines share the
//! padding between them, so that every place of the window reads it from another offset, a whole vector at a time. A stride above 1 keeps
//! some of the outputs of stride 1: few layers have one, and their gradients are then those of outputs with zeros between.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Floats of the widest vector: as many may be read past a plane.
const SLACK: usize = 16;

/// Vectors that are kept in registers at once.
const WIDEST: usize = 8;

/// Extents of a channel's convolution.
#[derive(Debug, Clone, Copy)]
pub(super) struct Depthwise {
    pub(super) channels: usize,
    /// Height and width of each.
    pub(super) input: [usize; 2],
    pub(super) kernel: [usize; 2],
    pub(super) stride: [usize; 2],
    /// Less than the kernel.
    pub(super) padding: [usize; 2],
}

impl Depthwise {
    /// Height and width of the output.
    pub(super) fn output(self) -> [usize; 2] {
        let dense = self.dense();
        [0, 1].map(|axis| (dense[axis] - 1) / self.stride[axis] + 1)
    }

    /// Those of the output of stride 1.
    fn dense(self) -> [usize; 2] {
        [0, 1].map(|axis| self.input[axis] + 2 * self.padding[axis] - self.kernel[axis] + 1)
    }

    fn forwards(self) -> Frame {
        Frame {
            extents: self.input,
            padding: self.padding,
            kernel: self.kernel,
        }
    }

    /// The convolution of the output's gradient that gives the input's.
    fn backwards(self) -> Frame {
        Frame {
            extents: self.dense(),
            padding: [0, 1].map(|axis| self.kernel[axis] - 1 - self.padding[axis]),
            kernel: self.kernel,
        }
    }

    fn places(self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// `[B, C, H, W]` and `[C, 1, h, w]` to `[B, C, H', W']`.
    pub(super) fn forward(self, x: &[f32], weight: &[f32]) -> Vec<f32> {
        let strides = [[1, 1], self.stride];
        self.correlate(
            self.forwards(),
            x,
            self.input,
            self.output(),
            strides,
            weight,
        )
    }

    /// The gradient of the input, `[B, C, H, W]`, from that of the output.
    pub(super) fn input_gradient(self, g: &[f32], weight: &[f32]) -> Vec<f32> {
        let turned: Vec<f32> = weight
            .chunks_exact(self.places())
            .flat_map(|window| window.iter().rev().copied())
            .collect();
        let strides = [self.stride, [1, 1]];
        self.correlate(
            self.backwards(),
            g,
            self.output(),
            self.input,
            strides,
            &turned,
        )
    }

    /// The gradient of the weight, `[C, 1, h, w]`, from that of the output.
    pub(super) fn weight_gradient(self, x: &[f32], g: &[f32]) -> Vec<f32> {
        let frame = self.forwards();
        let offsets = frame.offsets();
        let (from, to) = (area(self.input), area(self.output()));
        let mut total = vec![0.0; self.channels * self.places()];
        let scratch = || (vec![0.0; frame.plane()], vec![0.0; frame.extent()]);
        total
            .par_chunks_exact_mut(self.places())
            .enumerate()
            .for_each_init(scratch, |(plane, lines), (channel, total)| {
                let images = x.chunks_exact(from).zip(g.chunks_exact(to));
                for (x, g) in images.skip(channel).step_by(self.channels) {
                    frame.place(x, self.input[1], [1, 1], plane);
                    spread(g, self.output()[1], self.stride, frame.step(), lines);
                    Arch::new().dispatch(Products {
                        plane,
                        offsets: &offsets,
                        lines,
                        total,
                    });
                }
            });
        total
    }

    /// Every plane of `x`, whose extents are `from` and whose pixels lie `strides[0]` apart, with its channel's window: each
    /// `strides[1]`th of the results.
    fn correlate(
        self,
        frame: Frame,
        x: &[f32],
        from: [usize; 2],
        to: [usize; 2],
        strides: [[usize; 2]; 2],
        weight: &[f32],
    ) -> Vec<f32> {
        let offsets = frame.offsets();
        let planes = x.len() / area(from);
        let mut out = vec![0.0; planes * area(to)];
        let scratch = || (vec![0.0; frame.plane()], vec![0.0; frame.extent()]);
        out.par_chunks_exact_mut(area(to))
            .zip(x.par_chunks_exact(area(from)))
            .enumerate()
            .for_each_init(scratch, |(plane, lines), (n, (out, x))| {
                frame.place(x, from[1], strides[0], plane);
                Arch::new().dispatch(Sums {
                    plane,
                    offsets: &offsets,
                    weights: &weight[n % self.channels * self.places()..][..self.places()],
                    lines,
                });
                gather(lines, frame.step(), strides[1], to[1], out);
            });
        out
    }
}

fn area([height, width]: [usize; 2]) -> usize {
    height * width
}

/// A padded plane over which a window passes with stride 1.
#[derive(Debug, Clone, Copy)]
struct Frame {
    extents: [usize; 2],
    padding: [usize; 2],
    kernel: [usize; 2],
}

impl Frame {
    /// Elements from one line to the next: the padding before a line also ends the line above.
    fn step(self) -> usize {
        self.extents[1] + self.padding[1]
    }

    /// Elements of the plane, and those that may be read past it.
    fn plane(self) -> usize {
        (self.extents[0] + 2 * self.padding[0]) * self.step() + self.padding[1] + SLACK
    }

    /// Elements from the first result to behind the last one, in lines `step` apart, in whole tiles.
    fn extent(self) -> usize {
        let [height, width] =
            [0, 1].map(|axis| self.extents[axis] + 2 * self.padding[axis] - self.kernel[axis] + 1);
        ((height - 1) * self.step() + width).next_multiple_of(16)
    }

    /// Where each element of the first window lies.
    fn offsets(self) -> Vec<usize> {
        let [height, width] = self.kernel;
        let places = 0..height * width;
        places
            .map(|at| at / width * self.step() + at % width)
            .collect()
    }

    /// Puts lines of `width`, whose pixels come to lie `stride` apart, into the plane; what lies between stays as it is.
    fn place(self, x: &[f32], width: usize, stride: [usize; 2], plane: &mut [f32]) {
        let start = self.padding[0] * self.step() + self.padding[1];
        spread(x, width, stride, self.step(), &mut plane[start..]);
    }
}

/// Puts lines of `width` into lines `step` apart, and their pixels `stride` apart.
fn spread(x: &[f32], width: usize, [down, across]: [usize; 2], step: usize, lines: &mut [f32]) {
    for (line, x) in lines.chunks_mut(down * step).zip(x.chunks_exact(width)) {
        if across == 1 {
            line[..width].copy_from_slice(x);
        } else {
            for (to, &value) in line.iter_mut().step_by(across).zip(x) {
                *to = value;
            }
        }
    }
}

/// The opposite of [`spread`].
fn gather(lines: &[f32], step: usize, [down, across]: [usize; 2], width: usize, out: &mut [f32]) {
    for (out, line) in out.chunks_exact_mut(width).zip(lines.chunks(down * step)) {
        if across == 1 {
            out.copy_from_slice(&line[..width]);
        } else {
            for (to, &value) in out.iter_mut().zip(line.iter().step_by(across)) {
                *to = value;
            }
        }
    }
}

/// `lines[i] = Σ weights[n] plane[offsets[n] + i]`.
struct Sums<'a> {
    plane: &'a [f32],
    offsets: &'a [usize],
    weights: &'a [f32],
    lines: &'a mut [f32],
}

impl WithSimd for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut at = 0;
        while at < self.lines.len() {
            let vectors = (self.lines.len() - at) / S::F32_LANES;
            at += match vectors {
                WIDEST.. => self.tile::<S, WIDEST>(simd, at),
                4.. => self.tile::<S, 4>(simd, at),
                2.. => self.tile::<S, 2>(simd, at),
                _ => self.tile::<S, 1>(simd, at),
            };
        }
    }
}

impl Sums<'_> {
    /// How far it went.
    #[expect(
        clippy::manual_memcpy,
        reason = "a copy of an array would keep it in memory instead of registers"
    )]
    #[inline(always)]
    fn tile<S: Simd, const V: usize>(&mut self, simd: S, at: usize) -> usize {
        let span = V * S::F32_LANES;
        let mut sums = [simd.splat_f32s(0.0); V];
        for (&offset, &weight) in self.offsets.iter().zip(self.weights) {
            let (x, _) = S::as_simd_f32s(&self.plane[offset + at..offset + at + span]);
            let x: [S::f32s; V] = std::array::from_fn(|v| x[v]);
            let weight = simd.splat_f32s(weight);
            for (sum, &x) in sums.iter_mut().zip(&x) {
                *sum = simd.mul_add_e_f32s(weight, x, *sum);
            }
        }
        let (lines, _) = S::as_mut_simd_f32s(&mut self.lines[at..at + span]);
        for v in 0..V {
            lines[v] = sums[v];
        }
        span
    }
}

/// `total[n] += Σ lines[i] plane[offsets[n] + i]`.
struct Products<'a> {
    plane: &'a [f32],
    offsets: &'a [usize],
    lines: &'a [f32],
    total: &'a mut [f32],
}

impl WithSimd for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // As many places of the window at once.
        const PLACES: usize = 7;
        let (lines, _) = S::as_simd_f32s(self.lines);
        for (offsets, total) in self
            .offsets
            .chunks(PLACES)
            .zip(self.total.chunks_mut(PLACES))
        {
            // What lies past the end repeats the last one and is not kept.
            let planes: [&[S::f32s]; PLACES] = std::array::from_fn(|n| {
                let offset = offsets[n.min(offsets.len() - 1)];
                S::as_simd_f32s(&self.plane[offset..][..self.lines.len()]).0
            });
            let mut sums = [simd.splat_f32s(0.0); PLACES];
            for (i, &line) in lines.iter().enumerate() {
                for (sum, plane) in sums.iter_mut().zip(&planes) {
                    *sum = simd.mul_add_e_f32s(line, plane[i], *sum);
                }
            }
            for (total, &sum) in total.iter_mut().zip(&sums) {
                *total += simd.reduce_sum_f32s(sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * 0.37).sin()).collect()
    }

    /// Both loops in one set of registers, against plain sums.
    fn agrees_with_plain_sums<S: Simd>(simd: S) {
        let offsets = [0, 1, 2, 7, 8, 9, 40, 41];
        for extent in [16usize, 48, 144, 304] {
            let (plane, weights) = (ramp(41 + extent), ramp(offsets.len()));
            let mut lines = vec![0.0; extent];
            let sums = Sums {
                plane: &plane,
                offsets: &offsets,
                weights: &weights,
                lines: &mut lines,
            };
            sums.with_simd(simd);
            for (i, line) in lines.iter().enumerate() {
                let terms = offsets.iter().zip(&weights);
                let expected: f32 = terms
                    .map(|(offset, weight)| weight * plane[offset + i])
                    .sum();
                assert!((line - expected).abs() < 1e-5, "{line} for {expected}");
            }
            let mut total = vec![1.0; offsets.len()];
            let products = Products {
                plane: &plane,
                offsets: &offsets,
                lines: &ramp(extent),
                total: &mut total,
            };
            products.with_simd(simd);
            for (total, offset) in total.iter().zip(offsets) {
                let terms = ramp(extent).into_iter().zip(&plane[offset..]);
                let expected = 1.0 + terms.map(|(g, x)| g * x).sum::<f32>();
                assert!((total - expected).abs() < 1e-4, "{total} for {expected}");
            }
        }
    }

    #[test]
    fn every_width_of_registers_gives_the_same_sums() {
        agrees_with_plain_sums(pulp::Scalar::new());
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(simd) = pulp::x86::V3::try_new() {
                agrees_with_plain_sums(simd);
            }
            if let Some(simd) = pulp::x86::V4::try_new() {
                agrees_with_plain_sums(simd);
            }
        }
    }
}

//! Convolutions of stride 1 without unfolding ("im2col"): each channel becomes one padded plane, which every position of the kernel
//! reads from another offset. So the products run over whole vectors in registers, and nothing is copied but the planes.

use std::mem::MaybeUninit;
use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::convolution::Convolution;
use super::{kernels, written};

/// Channels whose results are kept in registers at once.
const ROWS: usize = 4;

/// Channels that one task computes.
const TASK: usize = 4 * ROWS;

/// Vectors of a row that are kept in registers at once, where there are 32 registers and where there are 16.
const WIDEST: usize = 4;
const WIDE: usize = 3;

/// Floats of the widest vector: as many may be read past the last plane.
const LANES: usize = 16;

/// A convolution's input as planes: lines are `width + padding` apart, since the padding before one line also ends the line above.
#[derive(Debug, Clone, Copy)]
pub(super) struct Planes {
    sizes: Convolution,
}

impl Planes {
    /// None where the stride is more than 1 or the padding covers a whole window.
    pub(super) fn new(sizes: Convolution) -> Option<Self> {
        let fits = (0..2).all(|axis| sizes.padding[axis] < sizes.kernel[axis]);
        (sizes.stride == [1, 1] && fits).then_some(Self { sizes })
    }

    /// The convolution of the output's gradient that gives the input's.
    fn transposed(self) -> Self {
        let Convolution {
            channels,
            outputs,
            input,
            output,
            kernel,
            padding,
            stride,
        } = self.sizes;
        Self {
            sizes: Convolution {
                channels: outputs,
                outputs: channels,
                input: output,
                output: input,
                kernel,
                stride,
                padding: [0, 1].map(|axis| kernel[axis] - 1 - padding[axis]),
            },
        }
    }

    /// `[B, C, H, W]` and `[O, C, h, w]` to `[B, O, H', W']`; the bias is `[O]`.
    pub(super) fn forward(self, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let [kh, kw] = self.sizes.kernel;
        let window = self.sizes.channels * kh * kw;
        self.correlate(x, bias, |output, channel, at| {
            weight[output * window + channel * kh * kw + at]
        })
    }

    /// The gradient of the input, `[B, C, H, W]`, from that of the output.
    pub(super) fn input_gradient(self, g: &[f32], weight: &[f32]) -> Vec<f32> {
        let [kh, kw] = self.sizes.kernel;
        let window = self.sizes.channels * kh * kw;
        self.transposed().correlate(g, None, |channel, output, at| {
            weight[output * window + channel * kh * kw + (kh * kw - 1 - at)]
        })
    }

    /// The gradient of the weight, `[O, C, h, w]`, from that of the output; `images` are added up by one thread.
    pub(super) fn weight_gradient(self, x: &[f32], g: &[f32], images: usize) -> Vec<f32> {
        let (offsets, extent) = (self.offsets(), self.extent());
        let partial: Vec<Vec<f32>> = g
            .par_chunks(self.sizes.output_size() * images)
            .zip(x.par_chunks(self.sizes.input_size() * images))
            .map(|(g, x)| {
                let mut planes = self.planes();
                let mut lines = vec![0.0; self.sizes.outputs * extent];
                let mut total = vec![0.0; self.sizes.weight_size()];
                let each = g.chunks_exact(self.sizes.output_size());
                for (g, x) in each.zip(x.chunks_exact(self.sizes.input_size())) {
                    self.pad(x, &mut planes);
                    self.spread(g, &mut lines);
                    Arch::new().dispatch(WeightGradient {
                        planes: &planes,
                        offsets: &offsets,
                        lines: &lines,
                        extent,
                        total: &mut total,
                    });
                }
                total
            })
            .collect();
        let mut total = vec![0.0; self.sizes.weight_size()];
        for part in &partial {
            kernels::sum_rows(part, &mut total);
        }
        total
    }

    /// `weight` tells that of an output, a channel and a place in the window.
    fn correlate(
        self,
        x: &[f32],
        bias: Option<&[f32]>,
        weight: impl Fn(usize, usize, usize) -> f32,
    ) -> Vec<f32> {
        let (offsets, weights) = (self.offsets(), self.pack(weight));
        let (image, task) = (self.sizes.output_size(), TASK * self.sizes.positions());
        let write = |out: &mut [MaybeUninit<f32>]| {
            out.par_chunks_exact_mut(image)
                .zip(x.par_chunks_exact(self.sizes.input_size()))
                .for_each_init(
                    || self.planes(),
                    |planes, (out, x)| {
                        self.pad(x, planes);
                        let planes = &*planes;
                        out.par_chunks_mut(task)
                            .zip(weights.par_chunks(TASK * offsets.len()))
                            .enumerate()
                            .for_each(|(n, (out, weights))| {
                                let bias = bias.map(|bias| &bias[n * TASK..]);
                                self.outputs(planes, &offsets, weights, bias, out);
                            });
                    },
                );
        };
        // SAFETY: `image` divides the elements, the tasks of an image cover it, and each task writes every line of its outputs.
        unsafe { written(x.len() / self.sizes.input_size() * image, write) }
    }

    /// Some outputs of one image.
    fn outputs(
        self,
        planes: &[f32],
        offsets: &[usize],
        weights: &[f32],
        bias: Option<&[f32]>,
        out: &mut [MaybeUninit<f32>],
    ) {
        let mut lines = vec![0.0; ROWS * self.extent()];
        let tiles = weights.chunks_exact(ROWS * offsets.len());
        let positions = self.sizes.positions();
        for (n, (out, weights)) in out.chunks_mut(ROWS * positions).zip(tiles).enumerate() {
            Arch::new().dispatch(Correlate {
                planes,
                offsets,
                weights,
                bias: bias.map(|bias| &bias[n * ROWS..]),
                reach: self.reach(),
                lines: &mut lines,
                step: self.step(),
                output: self.sizes.output,
                out,
            });
        }
    }

    /// Weights in the order in which they are read: ROWS outputs' at each place of all windows; zeros for outputs that there are not.
    fn pack(self, weight: impl Fn(usize, usize, usize) -> f32) -> Vec<f32> {
        let places = self.sizes.kernel[0] * self.sizes.kernel[1];
        let window = self.sizes.channels * places;
        let mut packed = vec![0.0; self.sizes.outputs.next_multiple_of(ROWS) * window];
        for output in 0..self.sizes.outputs {
            let tile = &mut packed[output / ROWS * window * ROWS..];
            for at in 0..window {
                tile[at * ROWS + output % ROWS] = weight(output, at / places, at % places);
            }
        }
        packed
    }

    /// Elements from one line of a plane to the next.
    fn step(self) -> usize {
        self.sizes.input[1] + self.sizes.padding[1]
    }

    /// Elements of one image's planes.
    fn image(self) -> usize {
        self.sizes.channels * self.plane()
    }

    fn plane(self) -> usize {
        let [height, _] = self.sizes.input;
        let [above, before] = self.sizes.padding;
        (height + 2 * above) * self.step() + before
    }

    /// Elements from the first output to behind the last one, in lines as far apart as those of a plane.
    fn reach(self) -> usize {
        let [height, width] = self.sizes.output;
        (height - 1) * self.step() + width
    }

    /// The same in whole vectors.
    fn extent(self) -> usize {
        self.reach().next_multiple_of(LANES)
    }

    /// Where in an image's planes each element of the first window lies.
    fn offsets(self) -> Vec<usize> {
        let [kh, kw] = self.sizes.kernel;
        let of_channel = |channel| {
            (0..kh * kw).map(move |at| channel * self.plane() + at / kw * self.step() + at % kw)
        };
        (0..self.sizes.channels).flat_map(of_channel).collect()
    }

    /// Room for an image's planes and what may be read behind them: zeros.
    fn planes(self) -> Vec<f32> {
        vec![0.0; self.image() + LANES]
    }

    /// Puts an image into its planes; the zeros around it stay.
    fn pad(self, x: &[f32], planes: &mut [f32]) {
        let [height, width] = self.sizes.input;
        let [above, before] = self.sizes.padding;
        let each = planes.chunks_exact_mut(self.plane());
        for (plane, x) in each.zip(x.chunks_exact(height * width)) {
            let lines = plane.chunks_mut(self.step()).skip(above);
            for (line, x) in lines.zip(x.chunks_exact(width)) {
                line[before..].copy_from_slice(x);
            }
        }
    }

    /// An image's gradients in lines as far apart as those of a plane; what lies between stays as it is.
    fn spread(self, g: &[f32], lines: &mut [f32]) {
        let [height, width] = self.sizes.output;
        for (line, g) in lines
            .chunks_exact_mut(self.extent())
            .zip(g.chunks_exact(height * width))
        {
            for (line, g) in line.chunks_mut(self.step()).zip(g.chunks_exact(width)) {
                line[..width].copy_from_slice(g);
            }
        }
    }
}

/// ROWS outputs of one image, or as many as `out` has room for.
struct Correlate<'a> {
    planes: &'a [f32],
    offsets: &'a [usize],
    weights: &'a [f32],
    /// What is added to each output.
    bias: Option<&'a [f32]>,
    reach: usize,
    /// Scratch: ROWS outputs, in lines `step` apart.
    lines: &'a mut [f32],
    step: usize,
    /// Height and width.
    output: [usize; 2],
    out: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let lanes = S::F32_LANES;
        let widest = if lanes == LANES { WIDEST } else { WIDE };
        let mut at = 0;
        while at < self.reach {
            let vectors = (self.reach - at).div_ceil(lanes).min(widest);
            let span = at..at + vectors * lanes;
            match vectors {
                1 => self.span::<S, 1>(simd, span.clone()),
                2 => self.span::<S, 2>(simd, span.clone()),
                3 => self.span::<S, 3>(simd, span.clone()),
                _ => self.span::<S, WIDEST>(simd, span.clone()),
            }
            at = span.end;
        }
        self.finish();
    }
}

impl Correlate<'_> {
    /// Writes the outputs without what lies between their lines.
    #[inline(always)]
    fn finish(&mut self) {
        let [height, width] = self.output;
        let extent = self.lines.len() / ROWS;
        let rows = self.out.chunks_exact_mut(height * width);
        for (row, (out, lines)) in rows.zip(self.lines.chunks_exact(extent)).enumerate() {
            let bias = self.bias.map(|bias| bias[row]);
            let lines = lines.chunks(self.step);
            for (out, line) in out.chunks_exact_mut(width).zip(lines) {
                match bias {
                    Some(bias) => {
                        for (out, &value) in out.iter_mut().zip(line) {
                            out.write(value + bias);
                        }
                    }
                    None => {
                        for (out, &value) in out.iter_mut().zip(line) {
                            out.write(value);
                        }
                    }
                }
            }
        }
    }

    #[expect(
        clippy::manual_memcpy,
        clippy::needless_range_loop,
        reason = "a copy of an array would keep it in memory instead of registers"
    )]
    #[inline(always)]
    fn span<S: Simd, const V: usize>(&mut self, simd: S, span: Range<usize>) {
        let mut sums = [[simd.splat_f32s(0.0); V]; ROWS];
        let (weights, _) = self.weights.as_chunks::<ROWS>();
        for (&offset, weights) in self.offsets.iter().zip(weights) {
            let (x, _) = S::as_simd_f32s(&self.planes[offset + span.start..offset + span.end]);
            let x: [S::f32s; V] = std::array::from_fn(|v| x[v]);
            for (sums, &weight) in sums.iter_mut().zip(weights) {
                let weight = simd.splat_f32s(weight);
                for (sum, &x) in sums.iter_mut().zip(&x) {
                    *sum = simd.mul_add_e_f32s(weight, x, *sum);
                }
            }
        }
        let extent = self.lines.len() / ROWS;
        for row in 0..ROWS {
            let line = &mut self.lines[row * extent..][span.clone()];
            let (line, _) = S::as_mut_simd_f32s(line);
            for v in 0..V {
                line[v] = sums[row][v];
            }
        }
    }
}

/// Adds one image's part of a weight's gradient to `total`.
struct WeightGradient<'a> {
    planes: &'a [f32],
    offsets: &'a [usize],
    /// The outputs' gradients, `extent` elements each.
    lines: &'a [f32],
    extent: usize,
    total: &'a mut [f32],
}

impl WithSimd for WeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        if S::F32_LANES == LANES {
            self.all::<S, WIDEST>(simd);
        } else {
            self.all::<S, WIDE>(simd);
        }
    }
}

impl WeightGradient<'_> {
    #[inline(always)]
    fn all<S: Simd, const V: usize>(&mut self, simd: S) {
        let (outputs, window) = (self.lines.len() / self.extent, self.offsets.len());
        for output in (0..outputs).step_by(ROWS) {
            for first in (0..window).step_by(V) {
                // What lies past the end repeats the last one and is not kept.
                let lines: [&[S::f32s]; ROWS] = std::array::from_fn(|row| {
                    let row = (output + row).min(outputs - 1);
                    S::as_simd_f32s(&self.lines[row * self.extent..][..self.extent]).0
                });
                let planes: [&[S::f32s]; V] = std::array::from_fn(|v| {
                    let offset = self.offsets[(first + v).min(window - 1)];
                    S::as_simd_f32s(&self.planes[offset..][..self.extent]).0
                });
                let mut sums = [[simd.splat_f32s(0.0); V]; ROWS];
                for i in 0..lines[0].len() {
                    let x: [S::f32s; V] = std::array::from_fn(|v| planes[v][i]);
                    for (sums, line) in sums.iter_mut().zip(&lines) {
                        for (sum, &x) in sums.iter_mut().zip(&x) {
                            *sum = simd.mul_add_e_f32s(line[i], x, *sum);
                        }
                    }
                }
                let mut whole = [[0.0; V]; ROWS];
                for row in 0..ROWS {
                    for v in 0..V {
                        whole[row][v] = simd.reduce_sum_f32s(sums[row][v]);
                    }
                }
                let rows = self.total.chunks_exact_mut(window).skip(output);
                for (total, sums) in rows.zip(&whole) {
                    for (total, &sum) in total[first..].iter_mut().zip(sums) {
                        *total += sum;
                    }
                }
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

    fn close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-4, "{found} for {expected}");
        }
    }

    /// Both loops in one set of registers, against plain sums.
    fn agrees_with_plain_sums<S: Simd>(simd: S) {
        let offsets = [0, 1, 2, 7, 8, 9, 40];
        for reach in [1usize, 8, 20, 61, 130] {
            let extent = reach.next_multiple_of(LANES);
            let planes = ramp(40 + extent);
            let weights = ramp(offsets.len() * ROWS);
            let mut lines = vec![0.0; ROWS * extent];
            // One line, of one output less than fits a tile.
            let bias = ramp(ROWS - 1);
            let mut out = vec![MaybeUninit::new(f32::NAN); (ROWS - 1) * reach];
            let correlate = Correlate {
                planes: &planes,
                offsets: &offsets,
                weights: &weights,
                bias: Some(&bias),
                reach,
                lines: &mut lines,
                step: reach,
                output: [1, reach],
                out: &mut out,
            };
            correlate.with_simd(simd);
            for (row, line) in out.chunks(reach).enumerate() {
                // SAFETY: none was without a value.
                let line: Vec<f32> = line.iter().map(|x| unsafe { x.assume_init() }).collect();
                let expected: Vec<f32> = (0..reach)
                    .map(|at| {
                        let terms = offsets.iter().enumerate();
                        let terms =
                            terms.map(|(n, offset)| weights[n * ROWS + row] * planes[offset + at]);
                        bias[row] + terms.sum::<f32>()
                    })
                    .collect();
                close(&line, &expected);
            }

            // One output more than fits a tile.
            let gradients = ramp((ROWS + 1) * extent);
            let mut total = vec![0.0; (ROWS + 1) * offsets.len()];
            let gradient = WeightGradient {
                planes: &planes,
                offsets: &offsets,
                lines: &gradients,
                extent,
                total: &mut total,
            };
            gradient.with_simd(simd);
            let expected: Vec<f32> = gradients
                .chunks(extent)
                .flat_map(|line| {
                    offsets.map(|offset| {
                        let terms = line.iter().zip(&planes[offset..]);
                        terms.map(|(g, x)| g * x).sum()
                    })
                })
                .collect();
            close(&total, &expected);
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

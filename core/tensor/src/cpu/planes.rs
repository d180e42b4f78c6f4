//! Convolutions of stride 1 without unfolding ("im2col"): each channel becomes one padded plane, which every position of the kernel
//! reads from another offset. So the products run over whole vectors in registers, and nothing is copied but the planes.

use std::mem::MaybeUninit;
use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::convolution::Convolution;
use super::{GRAIN, kernels, written};

/// Outputs that are kept in registers at once.
const ROWS: usize = 4;

/// Outputs that one task computes, where all lines of an image are computed at once and where only some of them are.
const TASK: [usize; 2] = [4 * ROWS, 8 * ROWS];

/// Elements of the planes whose windows are added up at once: they stay in a core's second cache while each tile of outputs reads them.
const CACHED: usize = 1 << 17;

/// Channels at least whose windows are added up at once: of large images, some lines at a time.
const CHANNELS: usize = 32;

/// Vectors of a row that are kept in registers at once, where there are 32 registers and where there are 16.
const WIDEST: usize = 4;
const WIDE: usize = 3;

/// Floats of the widest vector: as many may be read past the last plane.
const LANES: usize = 16;

/// Where the weights of a convolution lie.
#[derive(Debug, Clone, Copy)]
enum Weights<'a> {
    /// `[outputs, channels, h, w]`.
    Straight(&'a [f32]),
    /// `[channels, outputs, h, w]`, each window turned by 180 degrees: those of the convolution whose gradient this is.
    Turned(&'a [f32]),
}

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
        self.correlate(x, bias, Weights::Straight(weight))
    }

    /// The gradient of the input, `[B, C, H, W]`, from that of the output.
    pub(super) fn input_gradient(self, g: &[f32], weight: &[f32]) -> Vec<f32> {
        let turned = self.transposed();
        if g.len() == self.sizes.output_size() {
            return turned.correlate(g, None, Weights::Turned(weight));
        }
        // Turned once for all images.
        let (window, channels) = (turned.window(), self.sizes.outputs);
        let mut straight = vec![0.0; turned.sizes.weight_size()];
        straight
            .par_chunks_mut(ROWS * window)
            .enumerate()
            .for_each(|(n, rows)| turned.turn(weight, n * ROWS, 0..channels, rows));
        turned.correlate(g, None, Weights::Straight(&straight))
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

    fn correlate(self, x: &[f32], bias: Option<&[f32]>, weights: Weights<'_>) -> Vec<f32> {
        let offsets = self.offsets();
        let (image, task) = (self.sizes.output_size(), self.task());
        let write = |out: &mut [MaybeUninit<f32>]| {
            out.par_chunks_exact_mut(image)
                .zip(x.par_chunks_exact(self.sizes.input_size()))
                .for_each_init(
                    || self.planes(),
                    |planes, (out, x)| {
                        self.pad(x, planes);
                        let planes = &*planes;
                        let each = out.par_chunks_mut(task * self.sizes.positions());
                        each.enumerate().for_each(|(n, out)| {
                            let bias = bias.map(|bias| &bias[n * task..]);
                            self.outputs(planes, &offsets, weights, n * task, bias, out);
                        });
                    },
                );
        };
        // SAFETY: `image` divides the elements, the tasks of an image cover it, and each task writes every line of its outputs.
        unsafe { written(x.len() / self.sizes.input_size() * image, write) }
    }

    /// Some outputs of one image from `first` on.
    fn outputs(
        self,
        planes: &[f32],
        offsets: &[usize],
        weights: Weights<'_>,
        first: usize,
        bias: Option<&[f32]>,
        out: &mut [MaybeUninit<f32>],
    ) {
        let outputs = out.len() / self.sizes.positions();
        let (window, places) = (self.window(), self.places());
        let [height, width] = self.sizes.output;
        let band = height.div_ceil(self.bands());
        let extent = self.reach(band).next_multiple_of(LANES);
        let together = (CACHED / self.reach(band + self.sizes.kernel[0] - 1)).max(1);
        let mut sums = vec![0.0; outputs.next_multiple_of(ROWS) * extent];
        let mut scratch = Vec::new();
        for top in (0..height).step_by(band) {
            let lines = top..(top + band).min(height);
            sums.fill(0.0);
            for start in (0..self.sizes.channels).step_by(together) {
                let channels = start..(start + together).min(self.sizes.channels);
                let offsets = &offsets[channels.start * places..channels.end * places];
                let (weights, distance) = match weights {
                    Weights::Straight(weights) => {
                        (&weights[first * window + start * places..], window)
                    }
                    Weights::Turned(weights) => {
                        scratch.resize(outputs * offsets.len(), 0.0);
                        self.turn(weights, first, channels, &mut scratch);
                        (&scratch[..], offsets.len())
                    }
                };
                Arch::new().dispatch(Correlate {
                    planes: &planes[top * self.step()..],
                    offsets,
                    weights,
                    distance,
                    outputs,
                    reach: self.reach(lines.len()),
                    sums: &mut sums,
                    extent,
                });
            }
            // Without what lies between the lines.
            let each = out.chunks_exact_mut(height * width);
            for (n, (out, sums)) in each.zip(sums.chunks_exact(extent)).enumerate() {
                let out = &mut out[lines.start * width..lines.end * width];
                let sums = sums.chunks(self.step());
                for (out, sums) in out.chunks_exact_mut(width).zip(sums) {
                    match bias {
                        Some(bias) => {
                            for (out, &sum) in out.iter_mut().zip(sums) {
                                out.write(sum + bias[n]);
                            }
                        }
                        None => {
                            out.write_copy_of_slice(&sums[..width]);
                        }
                    }
                }
            }
        }
    }

    /// The weights of some outputs from `first` on for those channels, each output's side by side, from `[channels, outputs, h, w]`, turned
    /// by 180 degrees.
    fn turn(self, weights: &[f32], first: usize, channels: Range<usize>, rows: &mut [f32]) {
        let places = self.places();
        let distance = channels.len() * places;
        for (n, channel) in channels.enumerate() {
            let from = &weights[(channel * self.sizes.outputs + first) * places..];
            for (row, window) in rows
                .chunks_exact_mut(distance)
                .zip(from.chunks_exact(places))
            {
                let to = &mut row[n * places..][..places];
                match (to.as_chunks_mut::<9>(), window.as_chunks::<9>()) {
                    // The usual window: as many moves as fit into registers, without a loop.
                    ((&mut [ref mut to], []), (&[from], [])) => {
                        *to = std::array::from_fn(|at| from[8 - at]);
                    }
                    _ => {
                        for (to, &weight) in to.iter_mut().rev().zip(window) {
                            *to = weight;
                        }
                    }
                }
            }
        }
    }

    /// Of how many groups of lines the outputs are computed one after the other.
    fn bands(self) -> usize {
        let height = self.sizes.output[0];
        (CHANNELS * self.reach(height)).div_ceil(CACHED).min(height)
    }

    /// Outputs of one task.
    fn task(self) -> usize {
        TASK[usize::from(self.bands() > 1)]
    }

    /// Elements of a kernel of one channel.
    fn places(self) -> usize {
        self.sizes.kernel[0] * self.sizes.kernel[1]
    }

    /// Weights of one output.
    fn window(self) -> usize {
        self.sizes.channels * self.places()
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

    /// Elements from the first output of so many lines to behind the last one, in lines as far apart as those of a plane.
    fn reach(self, lines: usize) -> usize {
        (lines - 1) * self.step() + self.sizes.output[1]
    }

    /// The same of all lines, in whole vectors.
    fn extent(self) -> usize {
        self.reach(self.sizes.output[0]).next_multiple_of(LANES)
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
        planes[..self.image()]
            .par_chunks_exact_mut(self.plane())
            .zip(x.par_chunks_exact(height * width))
            .with_min_len(GRAIN.div_ceil(height * width))
            .for_each(|(plane, x)| {
                let lines = plane.chunks_mut(self.step()).skip(above);
                for (line, x) in lines.zip(x.chunks_exact(width)) {
                    line[before..].copy_from_slice(x);
                }
            });
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

/// Adds what some channels contribute to some outputs of one image.
struct Correlate<'a> {
    planes: &'a [f32],
    offsets: &'a [usize],
    /// One for each offset, those of the outputs `distance` apart.
    weights: &'a [f32],
    distance: usize,
    outputs: usize,
    reach: usize,
    /// The outputs, and as many more as fill up ROWS, `extent` elements each.
    sums: &'a mut [f32],
    extent: usize,
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let lanes = S::F32_LANES;
        let widest = if lanes == LANES { WIDEST } else { WIDE };
        for output in (0..self.outputs).step_by(ROWS) {
            let mut at = 0;
            while at < self.reach {
                let vectors = (self.reach - at).div_ceil(lanes).min(widest);
                let span = at..at + vectors * lanes;
                match vectors {
                    1 => self.span::<S, 1>(simd, output, span.clone()),
                    2 => self.span::<S, 2>(simd, output, span.clone()),
                    3 => self.span::<S, 3>(simd, output, span.clone()),
                    _ => self.span::<S, WIDEST>(simd, output, span.clone()),
                }
                at = span.end;
            }
        }
    }
}

impl Correlate<'_> {
    /// ROWS outputs, of which those past the end repeat the last one.
    #[expect(
        clippy::needless_range_loop,
        reason = "an index keeps the sums in registers"
    )]
    #[inline(always)]
    fn span<S: Simd, const V: usize>(&mut self, simd: S, output: usize, span: Range<usize>) {
        let places = self.offsets.len();
        let [first, second, third, fourth]: [&[f32]; ROWS] = std::array::from_fn(|row| {
            let output = (output + row).min(self.outputs - 1);
            &self.weights[output * self.distance..][..places]
        });
        let weights = first.iter().zip(second).zip(third.iter().zip(fourth));
        let mut sums = [[simd.splat_f32s(0.0); V]; ROWS];
        for (&offset, ((a, b), (c, d))) in self.offsets.iter().zip(weights) {
            let (x, _) = S::as_simd_f32s(&self.planes[offset + span.start..offset + span.end]);
            let x: [S::f32s; V] = std::array::from_fn(|v| x[v]);
            for (sums, &weight) in sums.iter_mut().zip([a, b, c, d]) {
                let weight = simd.splat_f32s(weight);
                for (sum, &x) in sums.iter_mut().zip(&x) {
                    *sum = simd.mul_add_e_f32s(weight, x, *sum);
                }
            }
        }
        for row in 0..ROWS {
            let so_far = &mut self.sums[(output + row) * self.extent..][span.clone()];
            let (so_far, _) = S::as_mut_simd_f32s(so_far);
            for v in 0..V {
                so_far[v] = simd.add_f32s(so_far[v], sums[row][v]);
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
            // Of one output less than fits a tile, and one more place between their weights; added to what was there.
            let (outputs, distance) = (ROWS - 1, offsets.len() + 1);
            let weights = ramp(outputs * distance);
            let mut sums = vec![0.5; ROWS * extent];
            let correlate = Correlate {
                planes: &planes,
                offsets: &offsets,
                weights: &weights,
                distance,
                outputs,
                reach,
                sums: &mut sums,
                extent,
            };
            correlate.with_simd(simd);
            for (row, line) in sums.chunks(extent).take(outputs).enumerate() {
                let expected: Vec<f32> = (0..reach)
                    .map(|at| {
                        let terms = offsets.iter().zip(&weights[row * distance..]);
                        0.5 + terms
                            .map(|(offset, w)| w * planes[offset + at])
                            .sum::<f32>()
                    })
                    .collect();
                close(&line[..reach], &expected);
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

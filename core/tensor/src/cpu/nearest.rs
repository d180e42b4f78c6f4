//! Resizing to the nearest pixel: each pixel of the output is a copy of one of the input, whose gradient is the sum over its copies.

use rayon::prelude::*;

/// Heights and widths of both images.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nearest {
    pub(super) input: [usize; 2],
    pub(super) output: [usize; 2],
}

impl Nearest {
    /// Planes of the input to planes of the output.
    pub(super) fn forward(self, x: &[f32]) -> Vec<f32> {
        let (columns, width) = (self.sources(1), self.output[1]);
        let mut out = vec![0.0; x.len() / self.extent(self.input) * self.extent(self.output)];
        out.par_chunks_exact_mut(self.extent(self.output))
            .zip(x.par_chunks_exact(self.extent(self.input)))
            .for_each(|(out, x)| {
                let mut last = None;
                for (place, row) in self.sources(0).into_iter().enumerate() {
                    if last == Some(row) {
                        out.copy_within((place - 1) * width..place * width, place * width);
                        continue;
                    }
                    last = Some(row);
                    let x = &x[row * self.input[1]..][..self.input[1]];
                    for (out, &column) in out[place * width..][..width].iter_mut().zip(&columns) {
                        *out = x[column];
                    }
                }
            });
        out
    }

    /// Planes of the output's gradient to planes of the input's. A line is added up before lines are.
    pub(super) fn backward(self, g: &[f32]) -> Vec<f32> {
        let (rows, columns) = (self.sources(0), self.sources(1));
        let doubled = self.output[1] == 2 * self.input[1];
        let mut out = vec![0.0; g.len() / self.extent(self.output) * self.extent(self.input)];
        out.par_chunks_exact_mut(self.extent(self.input))
            .zip(g.par_chunks_exact(self.extent(self.output)))
            .for_each(|(out, g)| {
                let mut line = vec![0.0; self.input[1]];
                for (g, row) in g.chunks_exact(self.output[1]).zip(&rows) {
                    if doubled {
                        let (pairs, _) = g.as_chunks::<2>();
                        for (to, [left, right]) in line.iter_mut().zip(pairs) {
                            *to = 0.0 + left + right;
                        }
                    } else {
                        line.fill(0.0);
                        for (g, &column) in g.iter().zip(&columns) {
                            line[column] += g;
                        }
                    }
                    let out = &mut out[row * self.input[1]..][..self.input[1]];
                    for (to, &value) in out.iter_mut().zip(&line) {
                        *to += value;
                    }
                }
            });
        out
    }

    /// For each place of an axis of the output, the input's.
    fn sources(self, axis: usize) -> Vec<usize> {
        let (from, to) = (self.input[axis], self.output[axis]);
        (0..to).map(|place| place * from / to).collect()
    }

    fn extent(self, [height, width]: [usize; 2]) -> usize {
        height * width
    }
}

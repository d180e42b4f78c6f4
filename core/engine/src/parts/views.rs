//! Random views of images: what methods average over, or hold against the image itself. They are a function of (seed, sample id, step,
//! view), never of a generator that is carried along.
//!
//! They work on images as the task model sees them, which may be normalised by any mean and deviation: contrast and brightness refer to the
//! image's own mean and deviation, so that they mean the same at every normalisation. CoTTA's own transforms (jitter, blur, affine, flip,
//! noise) are made for images in [0, 1]; the strengths are theirs, without hue, gamma and the blur of 0.5 pixels at most.

use dtta_base::keyed_rng;
use dtta_tensor::Tensor;
use rand_distr::{Distribution, StandardUniform};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::methods::Batch;

/// How views differ from the image. Every amount is drawn uniformly for each view.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ViewsConfig {
    /// Mirrors left and right in half of the cases.
    pub flip: bool,
    /// Turns by up to so many degrees either way.
    #[schemars(range(min = 0, max = 180))]
    pub degrees: f64,
    /// Shifts by up to this share of height and width either way; edges are continued.
    #[schemars(range(min = 0, max = 1))]
    pub translate: f64,
    /// Scales by a factor from 1 - this to 1 + this.
    #[schemars(range(min = 0, max = 0.9))]
    pub scale: f64,
    /// Stretches about the image's mean by a factor from 1 - this to 1 + this.
    #[schemars(range(min = 0, max = 1))]
    pub contrast: f64,
    /// Adds up to so many of the image's standard deviations, either sign.
    #[schemars(range(min = 0, max = 10))]
    pub brightness: f64,
    /// Stretches the channels of a pixel about their mean by a factor from 1 - this to 1 + this; nothing for one channel.
    #[schemars(range(min = 0, max = 1))]
    pub saturation: f64,
    /// Adds normal noise of so many of the image's standard deviations.
    #[schemars(range(min = 0, max = 10))]
    pub noise: f64,
}

impl Default for ViewsConfig {
    fn default() -> Self {
        Self {
            flip: true,
            degrees: 15.0,
            translate: 1.0 / 16.0,
            scale: 0.1,
            contrast: 0.3,
            brightness: 0.4,
            saturation: 0.5,
            noise: 0.02,
        }
    }
}

/// Uniform numbers in [0, 1) for one purpose, sample and step: what every random part of a method draws from.
pub(crate) fn uniform(
    purpose: &str,
    seed: u64,
    id: &str,
    counts: [u64; 2],
) -> impl FnMut() -> f64 + use<> {
    let [first, second] = counts.map(u64::to_le_bytes);
    let mut rng = keyed_rng(
        purpose,
        &[&seed.to_le_bytes(), id.as_bytes(), &first, &second],
    );
    move || StandardUniform.sample(&mut rng)
}

impl ViewsConfig {
    /// One view of each image of a batch, `[B, C, H, W]`, off the tape.
    ///
    /// # Errors
    /// Whatever a tensor operation refuses.
    pub(crate) fn view(
        &self,
        batch: &Batch<'_>,
        seed: u64,
        step: usize,
        view: usize,
    ) -> Result<Tensor> {
        let images = &batch.task;
        let shape = images.shape();
        let extents = [shape[1], shape[2], shape[3]];
        let values = images.detach().to_floats()?;
        let rows = batch
            .ids
            .iter()
            .zip(values.chunks(extents.iter().product()));
        let rows: Vec<(&&str, &[f32])> = rows.collect();
        let seen = images.device().each(rows, |(id, image)| {
            let draw = uniform("view", seed, id, [step as u64, view as u64]);
            self.see(image, extents, draw)
        });
        Ok(Tensor::from_values(seen.concat(), &shape, images.device())?)
    }

    /// A view of `[C, H, W]`. The order of the draws is part of the results.
    fn see(&self, image: &[f32], [c, h, w]: [usize; 3], mut draw: impl FnMut() -> f64) -> Vec<f32> {
        let flip = draw() < 0.5 && self.flip;
        let mut around = |strength: f64| strength * (2.0 * draw() - 1.0);
        let angle = around(self.degrees).to_radians();
        let (down, right) = (around(self.translate), around(self.translate));
        let scale = 1.0 + around(self.scale);
        let contrast = 1.0 + around(self.contrast);
        let brightness = around(self.brightness);
        let saturation = 1.0 + around(self.saturation);

        let count = image.len() as f64;
        let mean = image.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let square = |&x: &f32| (f64::from(x) - mean).powi(2);
        let deviation = (image.iter().map(square).sum::<f64>() / count).sqrt();
        let coloured: Vec<f64> = image
            .iter()
            .map(|&x| mean + contrast * (f64::from(x) - mean) + brightness * deviation)
            .collect();
        let area = h * w;
        let grey: Vec<f64> = (0..area)
            .map(|n| (0..c).map(|k| coloured[k * area + n]).sum::<f64>() / c as f64)
            .collect();
        let at = |k: usize, row: usize, column: usize| {
            let n = row * w + column;
            grey[n] + saturation * (coloured[k * area + n] - grey[n])
        };

        let (middle_row, middle_column) = ((h - 1) as f64 / 2.0, (w - 1) as f64 / 2.0);
        let (sin, cos) = angle.sin_cos();
        let mut seen = Vec::with_capacity(image.len());
        for k in 0..c {
            for n in 0..area {
                let y = (n / w) as f64 - middle_row - down * h as f64;
                let x = (n % w) as f64 - middle_column;
                let x = if flip { -x } else { x } - right * w as f64;
                let from_row = (cos * y - sin * x) / scale + middle_row;
                let from_column = (sin * y + cos * x) / scale + middle_column;
                let (row, below) = between(from_row, h);
                let (column, beside) = between(from_column, w);
                let (next_row, next_column) = ((row + 1).min(h - 1), (column + 1).min(w - 1));
                let over = at(k, row, column) * (1.0 - beside) + at(k, row, next_column) * beside;
                let under = at(k, next_row, column) * (1.0 - beside)
                    + at(k, next_row, next_column) * beside;
                seen.push(over * (1.0 - below) + under * below);
            }
        }
        if self.noise > 0.0 {
            for value in &mut seen {
                // Box and Muller 1958.
                let (first, second) = (draw(), draw());
                let normal = (-2.0 * (1.0 - first).ln()).sqrt()
                    * (2.0 * std::f64::consts::PI * second).cos();
                *value += self.noise * deviation * normal;
            }
        }
        seen.into_iter().map(|value| value as f32).collect()
    }
}

/// The place before a coordinate, kept within the extent, and the share of the next one.
fn between(coordinate: f64, extent: usize) -> (usize, f64) {
    let kept = coordinate.clamp(0.0, (extent - 1) as f64);
    (kept.floor() as usize, kept.fract())
}

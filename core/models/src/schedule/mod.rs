//! Diffusion processes as data: how image and noise mix at a time, what a network answers with, and between which times it was
//! trained. Every process here mixes linearly, x = α x0 + σ ε, and every answer is linear in (x0, ε), so a row of numbers for each time
//! says all: nothing else asks which process it is.
//!
//! Whole timesteps agree with Diffusers' `DDPMScheduler`, straight lines with its `FlowMatchEulerDiscreteScheduler`, EDM with Karras et
//! al. 2022 (table 1). All numbers are computed in double precision.

mod config;

use dtta_tensor::{Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::config::{
    Betas, DiscretePrediction, End, FlowPrediction, MAX_TIMESTEPS, ScheduleConfig,
};
use crate::error::{ModelError, Result};

/// What answers are compared in. With x = α x0 + σ ε given, an error in one space is a multiple of that in another:
/// ε-error = (α/σ) x0-error, v-error = ((α² + σ²)/σ) x0-error, velocity-error = ((α + σ)/σ) x0-error. So a squared loss in another space
/// is the native one with another weight for each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Space {
    /// The noise ε.
    Epsilon,
    /// The image x0.
    Sample,
    /// v = α ε - σ x0.
    V,
    /// ε - x0.
    Velocity,
}

/// Times from which draws are taken: timesteps, or any number in between.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimeRange {
    /// The first.
    pub low: f64,
    /// Where it ends. Of timesteps, one after the last.
    pub high: f64,
    /// Whether they are timesteps.
    pub whole: bool,
}

impl TimeRange {
    /// The time at a position from 0, the first, to 1, exclusive.
    pub fn at(&self, position: f64) -> f64 {
        let way = position * (self.high - self.low);
        match self.whole {
            true => (self.low + way.floor()).min(self.high - 1.0),
            false => (self.low + way).min(self.high),
        }
    }
}

/// A process with what follows from its configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseSchedule {
    config: ScheduleConfig,
    /// Of whole timesteps, ᾱ of each.
    alphas_cumprod: Vec<f64>,
}

/// Images with noise, and what a network should answer.
pub struct Mixed {
    /// What the network is shown, `[B, …]`.
    pub noisy: Tensor,
    /// What it should answer, in the same shape.
    pub target: Tensor,
}

/// A linear combination of image and noise.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Combination {
    image: f64,
    noise: f64,
}

impl Combination {
    const fn of(image: f64, noise: f64) -> Self {
        Self { image, noise }
    }

    /// How an error of it relates to one of the image, up to a factor that is common to all, where x is given: x's own is 0.
    fn weight(self, x: Self) -> f64 {
        self.image * x.noise - self.noise * x.image
    }
}

impl NoiseSchedule {
    /// Computes the schedule.
    ///
    /// # Errors
    /// [`ModelError::Config`] for no timesteps, betas outside 0 to 1 or in the wrong order, or amounts of noise that are none.
    pub fn new(config: &ScheduleConfig) -> Result<Self> {
        config.check().finish()?;
        Ok(Self {
            config: config.clone(),
            alphas_cumprod: alphas_cumprod(config),
        })
    }

    /// What it was computed from.
    pub fn config(&self) -> &ScheduleConfig {
        &self.config
    }

    /// Of whole timesteps, ᾱ of each: the share of the image's variance that is left. Of other processes none.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// The times from which draws are taken: all that the network was trained with, or the part that is asked for.
    ///
    /// # Errors
    /// What is wrong with the part: it is empty, ends outside, or breaks a timestep.
    pub fn range(&self, wanted: Option<[f64; 2]>) -> Result<TimeRange, String> {
        let (all, whole) = match self.config {
            ScheduleConfig::Discrete { timesteps, .. } => ([0.0, timesteps as f64], true),
            ScheduleConfig::Flow { .. } => ([0.0, 1.0], false),
            ScheduleConfig::Edm {
                sigma_min,
                sigma_max,
                ..
            } => ([sigma_min.ln() / 4.0, sigma_max.ln() / 4.0], false),
        };
        let [low, high] = wanted.unwrap_or(all);
        let (times, [first, last]) = (if whole { "timesteps" } else { "times" }, all);
        let holds_any = low < high;
        if !holds_any {
            return Err(format!("from {low} to {high} there are no {times}"));
        }
        if low < first || high > last {
            return Err(format!(
                "the denoiser's {times} go from {first} to {last}, not from {low} to {high}"
            ));
        }
        if whole && (low.fract() != 0.0 || high.fract() != 0.0) {
            return Err(format!(
                "the denoiser has whole timesteps, but the range is {low} to {high}"
            ));
        }
        Ok(TimeRange { low, high, whole })
    }

    /// α and σ at a time: x = α x0 + σ ε.
    ///
    /// # Errors
    /// [`ModelError::Input`] for a time that the schedule does not have.
    pub fn coefficients(&self, time: f64) -> Result<[f64; 2]> {
        let x = self.mixture(time)?;
        Ok([x.image, x.noise])
    }

    fn mixture(&self, time: f64) -> Result<Combination> {
        let outside = |expected: String| ModelError::input("time", format!("is {time}"), expected);
        match self.config {
            ScheduleConfig::Discrete { timesteps, .. } => {
                let index = time as usize;
                let bar = self.alphas_cumprod.get(index);
                match bar.filter(|_| time == index as f64) {
                    Some(bar) => Ok(Combination::of(bar.sqrt(), (1.0 - bar).sqrt())),
                    None => Err(outside(format!(
                        "a whole number from 0 to {}",
                        timesteps - 1
                    ))),
                }
            }
            ScheduleConfig::Flow { noise_at, .. } => match noise_at {
                _ if !(0.0..=1.0).contains(&time) => Err(outside("0 to 1".into())),
                End::Start => Ok(Combination::of(time, 1.0 - time)),
                End::End => Ok(Combination::of(1.0 - time, time)),
            },
            ScheduleConfig::Edm { .. } => match (4.0 * time).exp() {
                sigma if sigma > 0.0 && sigma.is_finite() => Ok(Combination::of(1.0, sigma)),
                _ => Err(outside("ln(σ) / 4 of an amount of noise σ".into())),
            },
        }
    }

    /// What the network should answer where the mixture is `x`.
    fn answer(&self, x: Combination) -> Combination {
        let epsilon = Combination::of(0.0, 1.0);
        let sample = Combination::of(1.0, 0.0);
        match self.config {
            ScheduleConfig::Discrete { prediction, .. } => match prediction {
                DiscretePrediction::Epsilon => epsilon,
                DiscretePrediction::V => Combination::of(-x.noise, x.image),
                DiscretePrediction::Sample => sample,
            },
            ScheduleConfig::Flow { prediction, .. } => match prediction {
                FlowPrediction::Velocity => Combination::of(-1.0, 1.0),
                FlowPrediction::ReverseVelocity => Combination::of(1.0, -1.0),
                FlowPrediction::Epsilon => epsilon,
                FlowPrediction::Sample => sample,
            },
            // (x0 - c_skip x) / c_out, where c_skip = s² / (σ² + s²) and c_out = σ s / √(σ² + s²).
            ScheduleConfig::Edm { sigma_data: s, .. } => {
                let total = x.noise.hypot(s);
                Combination::of(x.noise / (s * total), -s / total)
            }
        }
    }

    /// Factors by which errors of the network's answer become errors in `space`, one for each time.
    ///
    /// # Errors
    /// [`ModelError::Input`] for a time that the schedule does not have, or at which the answer says nothing about `space`.
    pub fn error_scales(&self, space: Space, times: &[f64]) -> Result<Vec<f64>> {
        let scale = |&time: &f64| {
            let x = self.mixture(time)?;
            let wanted = match space {
                Space::Epsilon => Combination::of(0.0, 1.0),
                Space::Sample => Combination::of(1.0, 0.0),
                Space::V => Combination::of(-x.noise, x.image),
                Space::Velocity => Combination::of(-1.0, 1.0),
            };
            let scale = (wanted.weight(x) / self.answer(x).weight(x)).abs();
            match scale.is_finite() {
                true => Ok(scale),
                false => Err(ModelError::input(
                    "time",
                    format!("is {time}, where the network's answer does not determine {space:?}"),
                    "a range of times without it",
                )),
            }
        };
        times.iter().map(scale).collect()
    }

    /// What the network is given for each time.
    pub fn network_times(&self, times: &[f64]) -> Vec<f64> {
        let scale = match self.config {
            ScheduleConfig::Flow { time_scale, .. } | ScheduleConfig::Edm { time_scale, .. } => {
                time_scale
            }
            _ => 1.0,
        };
        times.iter().map(|time| time * scale).collect()
    }

    /// `α x0 + σ ε`, row by row. One image `[1, …]` serves all rows.
    ///
    /// # Errors
    /// [`ModelError::Input`] unless there is one time, within the schedule, for each row of `noise`;
    /// [`ModelError::Tensor`] if the shapes of image and noise do not fit.
    pub fn add_noise(&self, x0: &Tensor, noise: &Tensor, times: &[f64]) -> Result<Tensor> {
        combine(&self.mixtures(noise, times)?, x0, noise)
    }

    /// What a network is shown of images with noise, and what it should answer, row by row. One image `[1, …]` serves all rows.
    ///
    /// # Errors
    /// As [`add_noise`](Self::add_noise).
    pub fn mix(&self, x0: &Tensor, noise: &Tensor, times: &[f64]) -> Result<Mixed> {
        let mixtures = self.mixtures(noise, times)?;
        let answers: Vec<Combination> = mixtures.iter().map(|&x| self.answer(x)).collect();
        let shown: Vec<Combination> = match self.config {
            ScheduleConfig::Edm { sigma_data, .. } => {
                let inward = |x: &Combination| 1.0 / x.noise.hypot(sigma_data);
                let shown =
                    |x: &Combination| Combination::of(x.image * inward(x), x.noise * inward(x));
                mixtures.iter().map(shown).collect()
            }
            _ => mixtures,
        };
        Ok(Mixed {
            noisy: combine(&shown, x0, noise)?,
            target: combine(&answers, x0, noise)?,
        })
    }

    fn mixtures(&self, noise: &Tensor, times: &[f64]) -> Result<Vec<Combination>> {
        let rows = noise.shape()[0];
        if times.len() != rows {
            return Err(ModelError::input(
                "times",
                format!("are {}", times.len()),
                format!("{rows}, one for each row of noise"),
            ));
        }
        times.iter().map(|&time| self.mixture(time)).collect()
    }
}

/// Image and noise, combined row by row.
fn combine(rows: &[Combination], x0: &Tensor, noise: &Tensor) -> Result<Tensor> {
    let all = |of: fn(&Combination) -> f64, value: f64| rows.iter().all(|row| of(row) == value);
    let (image, eps) = (|row: &Combination| row.image, |row: &Combination| row.noise);
    if all(image, 0.0) && all(eps, 1.0) {
        return Ok(noise.clone());
    }
    let shape = noise.shape();
    let scaled = |of: fn(&Combination) -> f64, tensor: &Tensor| {
        tensor.mul(&column(rows.iter().map(of), shape.rank(), noise.device())?)
    };
    Ok(scaled(image, x0)?.add(&scaled(eps, noise)?)?)
}

/// Numbers for each row of tensors of that rank.
pub(crate) fn column(
    values: impl Iterator<Item = f64>,
    rank: usize,
    device: &Device,
) -> dtta_tensor::Result<Tensor> {
    let values: Vec<f32> = values.map(|value| value as f32).collect();
    let mut extents = vec![1; rank];
    extents[0] = values.len();
    Tensor::from_floats(&values, &extents, device)
}

/// ᾱ of every timestep.
fn alphas_cumprod(config: &ScheduleConfig) -> Vec<f64> {
    let ScheduleConfig::Discrete {
        betas,
        timesteps,
        beta_start: start,
        beta_end: end,
        ref trained_betas,
        zero_terminal_snr,
        ..
    } = *config
    else {
        return Vec::new();
    };
    let fraction = |t: usize| t as f64 / (timesteps.max(2) - 1) as f64;
    let between = |from: f64, to: f64, t: usize| from + (to - from) * fraction(t);
    let cosine = |t: usize| {
        (((t as f64 / timesteps as f64) + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2)
            .cos()
            .powi(2)
    };
    let beta = |t: usize| match (trained_betas, betas) {
        (Some(betas), _) => betas[t],
        (None, Betas::Linear) => between(start, end, t),
        (None, Betas::ScaledLinear) => between(start.sqrt(), end.sqrt(), t).powi(2),
        (None, Betas::Cosine) => (1.0 - cosine(t + 1) / cosine(t)).min(0.999),
        (None, Betas::Sigmoid) => {
            let sigmoid = 1.0 / (1.0 + (-between(-6.0, 6.0, t)).exp());
            start + (end - start) * sigmoid
        }
    };
    let bars = (0..timesteps).scan(1.0, |product, t| {
        *product *= 1.0 - beta(t);
        Some(*product)
    });
    let bars: Vec<f64> = bars.collect();
    match (zero_terminal_snr, bars.as_slice()) {
        (true, [first, .., last]) => {
            let (first, last) = (first.sqrt(), last.sqrt());
            let rescaled = |bar: &f64| ((bar.sqrt() - last) * first / (first - last)).powi(2);
            bars.iter().map(rescaled).collect()
        }
        _ => bars,
    }
}

#[cfg(test)]
mod tests;

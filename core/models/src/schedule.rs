//! Noise schedules: how much of the image is left at timestep t. Betas and their cumulative products are held in double precision
//! and agree with Diffusers' `DDPMScheduler` for its schedules `linear`, `scaled_linear` and `squaredcos_cap_v2`.

use dtta_tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{ModelError, Result};
use crate::fault::Faults;

/// The curve along which noise is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Betas {
    /// Betas rise linearly (Ho et al. 2020).
    #[default]
    Linear,
    /// The square roots of the betas rise linearly (latent diffusion).
    ScaledLinear,
    /// ᾱ falls as a squared cosine (Nichol and Dhariwal 2021, eq. 17); `beta_start` and `beta_end` are not used.
    Cosine,
}

/// The noise schedule that a denoiser was trained with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// The curve along which noise is added.
    pub betas: Betas,
    /// Number of timesteps.
    #[schemars(range(min = 1, max = MAX_TIMESTEPS))]
    pub timesteps: usize,
    /// Beta of the first timestep.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub beta_start: f64,
    /// Beta of the last timestep, not below `beta_start`.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub beta_end: f64,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            betas: Betas::Linear,
            timesteps: 1000,
            beta_start: 1e-4,
            beta_end: 0.02,
        }
    }
}

/// The most timesteps of a schedule.
pub const MAX_TIMESTEPS: usize = 1 << 20;

impl ScheduleConfig {
    pub(crate) fn check(&self) -> Faults {
        let mut faults = Faults::default();
        faults.count("/timesteps", self.timesteps, MAX_TIMESTEPS);
        let (start, end) = (self.beta_start, self.beta_end);
        if !(start > 0.0 && start < 1.0) {
            faults.add("/beta_start", start, "a number between 0 and 1");
        }
        if !(end >= start && end < 1.0) {
            let expected = format!("a number from {start}, the first beta, to 1");
            faults.add("/beta_end", end, expected);
        }
        faults
    }
}

/// ᾱ for every timestep, and what follows from it.
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseSchedule {
    config: ScheduleConfig,
    alphas_cumprod: Vec<f64>,
}

impl NoiseSchedule {
    /// Computes the schedule.
    ///
    /// # Errors
    /// [`ModelError::Config`] for no timesteps, or betas outside 0 to 1 or in the wrong order.
    pub fn new(config: &ScheduleConfig) -> Result<Self> {
        config.check().finish()?;
        let ScheduleConfig {
            betas,
            timesteps,
            beta_start: start,
            beta_end: end,
        } = *config;
        let fraction = |t: usize| t as f64 / (timesteps.max(2) - 1) as f64;
        let between = |from: f64, to: f64, t: usize| from + (to - from) * fraction(t);
        let cosine = |t: usize| {
            (((t as f64 / timesteps as f64) + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2)
                .cos()
                .powi(2)
        };
        let beta = |t: usize| match betas {
            Betas::Linear => between(start, end, t),
            Betas::ScaledLinear => between(start.sqrt(), end.sqrt(), t).powi(2),
            Betas::Cosine => (1.0 - cosine(t + 1) / cosine(t)).min(0.999),
        };
        let alphas_cumprod = (0..timesteps)
            .scan(1.0, |product, t| {
                *product *= 1.0 - beta(t);
                Some(*product)
            })
            .collect();
        Ok(Self {
            config: config.clone(),
            alphas_cumprod,
        })
    }

    /// What it was computed from.
    pub fn config(&self) -> &ScheduleConfig {
        &self.config
    }

    /// Number of timesteps; they count from 0.
    pub fn timesteps(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// ᾱ of every timestep: the share of the image's variance that is left.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// ᾱ at `timestep`.
    ///
    /// # Errors
    /// [`ModelError::Input`] for a timestep that the schedule does not have.
    pub fn alpha_bar(&self, timestep: usize) -> Result<f64> {
        self.alphas_cumprod.get(timestep).copied().ok_or_else(|| {
            ModelError::input(
                "timestep",
                format!("is {timestep}"),
                format!("0 to {}", self.timesteps() - 1),
            )
        })
    }

    /// `√ᾱ x0 + √(1 - ᾱ) ε`, row by row (Ho et al. 2020, eq. 4). One image `[1, …]` serves all rows.
    ///
    /// # Errors
    /// [`ModelError::Input`] unless there is one timestep, within the schedule, for each row of `noise`;
    /// [`ModelError::Tensor`] if the shapes of image and noise do not fit.
    pub fn add_noise(&self, x0: &Tensor, noise: &Tensor, timesteps: &[usize]) -> Result<Tensor> {
        let shape = noise.shape();
        if timesteps.len() != shape[0] {
            return Err(ModelError::input(
                "timesteps",
                format!("are {}", timesteps.len()),
                format!("{}, one for each row of noise", shape[0]),
            ));
        }
        let bars = timesteps
            .iter()
            .map(|&t| self.alpha_bar(t))
            .collect::<Result<Vec<_>>>()?;
        let mut extents = vec![1; shape.rank()];
        extents[0] = timesteps.len();
        let column = |of: fn(f64) -> f64| {
            let values: Vec<f32> = bars.iter().map(|&bar| of(bar) as f32).collect();
            Tensor::from_floats(&values, &extents, noise.device())
        };
        let (signal, sigma) = (column(f64::sqrt)?, column(|bar| (1.0 - bar).sqrt())?);
        Ok(x0.mul(&signal)?.add(&noise.mul(&sigma)?)?)
    }
}

//! What a model file says about the diffusion process that its denoiser was trained with.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fault::Faults;

/// The process that a denoiser was trained with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleConfig {
    /// Whole timesteps t with α = √ᾱ and σ = √(1 - ᾱ) (Ho et al. 2020).
    Discrete {
        /// The curve along which noise is added.
        #[serde(default)]
        betas: Betas,
        /// Number of timesteps.
        #[serde(default = "thousand")]
        #[schemars(range(min = 1, max = MAX_TIMESTEPS))]
        timesteps: usize,
        /// Beta of the first timestep.
        #[serde(default = "beta_start")]
        #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
        beta_start: f64,
        /// Beta of the last timestep, not below `beta_start`.
        #[serde(default = "beta_end")]
        #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
        beta_end: f64,
        /// The beta of every timestep, in place of a curve.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(min = 1, max = MAX_TIMESTEPS))]
        trained_betas: Option<Vec<f64>>,
        /// Shifts and scales √ᾱ so that nothing is left of the image at the last timestep (Lin et al. 2023, algorithm 1).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        zero_terminal_snr: bool,
        /// What the network answers with.
        #[serde(default)]
        prediction: DiscretePrediction,
    },
    /// A straight line between image and noise, with t from 0 to 1: rectified flow, SiT, flow matching.
    Flow {
        /// The end at which there is only noise: `end` (t = 1: α = 1 - t, σ = t; Stable Diffusion 3, REPA) or `start` (t = 0: α = t,
        /// σ = 1 - t; SiT).
        noise_at: End,
        /// What the network answers with.
        prediction: FlowPrediction,
        /// What the network is given for t is t times this: 1 for SiT, 1000 for Stable Diffusion 3.
        #[schemars(extend("exclusiveMinimum" = 0))]
        time_scale: f64,
    },
    /// α = 1 and σ from `sigma_min` to `sigma_max`, with the network between c_in, c_skip and c_out (Karras et al. 2022). Times are
    /// c_noise = ln(σ) / 4. A consistency model (Song et al. 2023) differs from that by `sigma_min` / σ in c_skip and c_out.
    Edm {
        /// Standard deviation of the images.
        #[serde(default = "half")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        sigma_data: f64,
        /// The least noise.
        #[serde(default = "sigma_min")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        sigma_min: f64,
        /// The most noise.
        #[serde(default = "sigma_max")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        sigma_max: f64,
        /// What the network is given for a time is the time multiplied by this: 1 for EDM, 1000 for consistency models.
        #[serde(default = "once")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        time_scale: f64,
    },
}

fn thousand() -> usize {
    1000
}

fn beta_start() -> f64 {
    1e-4
}

fn beta_end() -> f64 {
    0.02
}

fn half() -> f64 {
    0.5
}

fn once() -> f64 {
    1.0
}

fn sigma_min() -> f64 {
    0.002
}

fn sigma_max() -> f64 {
    80.0
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self::discrete(Betas::Linear, thousand())
    }
}

/// The curve along which noise is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Betas {
    /// Betas rise linearly (Ho et al. 2020).
    #[default]
    Linear,
    /// The square roots of the betas rise linearly (latent diffusion).
    ScaledLinear,
    /// ᾱ falls as a squared cosine (Nichol and Dhariwal 2021, eq. 17; Diffusers' `squaredcos_cap_v2`); `beta_start` and `beta_end` are
    /// not used.
    Cosine,
    /// Betas rise along a sigmoid from -6 to 6 (GeoDiff; Diffusers' `sigmoid`).
    Sigmoid,
}

/// What a network of whole timesteps answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiscretePrediction {
    /// The noise ε.
    #[default]
    Epsilon,
    /// v = α ε - σ x0 (Salimans and Ho 2022).
    V,
    /// The image x0.
    Sample,
}

/// What a network of a straight line answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FlowPrediction {
    /// ε - x0, from image to noise (Stable Diffusion 3, REPA).
    Velocity,
    /// x0 - ε, from noise to image (SiT).
    ReverseVelocity,
    /// The noise ε.
    Epsilon,
    /// The image x0.
    Sample,
}

/// An end of the times from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// 0.
    Start,
    /// 1.
    End,
}

/// The most timesteps of a schedule.
pub const MAX_TIMESTEPS: usize = 1 << 20;

impl ScheduleConfig {
    /// Whole timesteps along a curve, with the usual first and last beta, of a network that predicts noise.
    pub fn discrete(betas: Betas, timesteps: usize) -> Self {
        Self::Discrete {
            betas,
            timesteps,
            beta_start: beta_start(),
            beta_end: beta_end(),
            trained_betas: None,
            zero_terminal_snr: false,
            prediction: DiscretePrediction::Epsilon,
        }
    }

    pub(crate) fn check(&self) -> Faults {
        let mut faults = Faults::default();
        let mut positive = |pointer: &str, value: f64| {
            if !(value > 0.0 && value.is_finite()) {
                faults.add(pointer, value, "above 0");
            }
        };
        match self {
            Self::Discrete {
                timesteps,
                beta_start: start,
                beta_end: end,
                trained_betas,
                ..
            } => {
                faults.count("/timesteps", *timesteps, MAX_TIMESTEPS);
                let is_beta = |beta: &f64| *beta > 0.0 && *beta < 1.0;
                if !is_beta(start) {
                    faults.add("/beta_start", start, "a number between 0 and 1");
                }
                if !(end >= start && *end < 1.0) {
                    let expected = format!("a number from {start}, the first beta, to 1");
                    faults.add("/beta_end", end, expected);
                }
                if let Some(betas) = trained_betas {
                    if betas.len() != *timesteps {
                        let found = format!("{} numbers", betas.len());
                        let expected = format!("{timesteps}, one for each of `timesteps`");
                        faults.add("/trained_betas", found, expected);
                    } else if let Some(beta) = betas.iter().find(|beta| !is_beta(beta)) {
                        let expected = "numbers between 0 and 1";
                        faults.add(
                            "/trained_betas",
                            format_args!("a list with {beta}"),
                            expected,
                        );
                    }
                }
            }
            Self::Flow { time_scale, .. } => positive("/time_scale", *time_scale),
            Self::Edm {
                sigma_data,
                sigma_min,
                sigma_max,
                time_scale,
            } => {
                positive("/time_scale", *time_scale);
                positive("/sigma_data", *sigma_data);
                positive("/sigma_min", *sigma_min);
                if !(sigma_max > sigma_min && sigma_max.is_finite()) {
                    let expected = format!("above {sigma_min}, the least noise");
                    faults.add("/sigma_max", sigma_max, expected);
                }
            }
        }
        faults
    }
}

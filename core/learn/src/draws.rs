//! Draws of (t, ε) as a function of (seed, sample id, step, draw), never of a generator's
//! state: the same draws appear whatever the micro-batch, device, order or resume point.

use dtta_base::keyed_rng;
use dtta_models::TimeRange;
use rand_distr::{Distribution, StandardNormal, Uniform};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

/// The most draws for each sample and step that a configuration may ask for.
pub const MAX_DRAWS: usize = 1 << 16;

/// The most images that a configuration may take together.
pub const MAX_BATCH: usize = 1 << 16;

/// How times are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimestepsConfig {
    /// How they are spread over the range.
    #[serde(default)]
    pub sampler: TimestepSampler,
    /// First timestep and one after the last, or of a denoiser with continuous time its first and last, in the terms of its schedule;
    /// the schedule's whole range if absent.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "serialize_range"
    )]
    pub range: Option<[f64; 2]>,
}

/// Writes a range of times, with timesteps as the whole numbers that they are.
///
/// # Errors
/// The serializer's.
pub fn serialize_range<T: Copy + Into<Option<[f64; 2]>>, S: Serializer>(
    range: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match (*range).into() {
        Some(range) if range.iter().all(|time| time.fract() == 0.0) => {
            range.map(|time| time as i64).serialize(serializer)
        }
        range => range.serialize(serializer),
    }
}

/// What is wrong with a range whatever the schedule.
pub fn range_problem(range: Option<[f64; 2]>) -> Option<String> {
    range.filter(|[low, high]| low >= high).map(|[low, high]| {
        format!("is [{low}, {high}], expected the first timestep below the one after the last")
    })
}

impl Default for TimestepsConfig {
    fn default() -> Self {
        Self {
            sampler: TimestepSampler::Uniform,
            range: None,
        }
    }
}

/// How timesteps are spread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSampler {
    /// Each by itself, uniformly (the paper's choice).
    #[default]
    Uniform,
    /// One in each of as many equal parts of the range as there are draws: unbiased and less noisy.
    Stratified,
}

/// Which draws share their noise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoiseSharing {
    /// Fresh noise for every draw.
    #[default]
    Fresh,
    /// One noise for all draws of a sample in a step.
    Step,
    /// One noise for all draws of a sample in all steps.
    Sample,
}

/// Which draws a run makes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draws {
    /// The run's seed.
    pub seed: u64,
    /// How many for each sample and step.
    pub count: usize,
    /// How times are spread.
    pub sampler: TimestepSampler,
    /// Where they lie.
    pub range: TimeRange,
    /// Which draws share noise.
    pub noise: NoiseSharing,
}

impl Draws {
    /// The times of a sample in a step, one per draw, within the range.
    pub fn times(&self, id: &str, step: usize) -> Vec<f64> {
        let mut rng = keyed_rng(
            "timesteps",
            &[
                &self.seed.to_le_bytes(),
                id.as_bytes(),
                &(step as u64).to_le_bytes(),
            ],
        );
        let unit = Uniform::new(0.0, 1.0).expect("0 < 1");
        (0..self.count)
            .map(|draw| {
                let u: f64 = unit.sample(&mut rng);
                let position = match self.sampler {
                    TimestepSampler::Uniform => u,
                    TimestepSampler::Stratified => (draw as f64 + u) / self.count as f64,
                };
                self.range.at(position)
            })
            .collect()
    }

    /// Fills `noise` with the standard normal ε of one draw.
    pub fn noise(&self, id: &str, step: usize, draw: usize, noise: &mut [f32]) {
        let (step, draw) = (step as u64, draw as u64);
        // `u64::MAX` stands for "all of them" where draws share their noise.
        let (step, draw) = match self.noise {
            NoiseSharing::Fresh => (step, draw),
            NoiseSharing::Step => (step, u64::MAX),
            NoiseSharing::Sample => (u64::MAX, u64::MAX),
        };
        let key: [&[u8]; 4] = [
            &self.seed.to_le_bytes(),
            id.as_bytes(),
            &step.to_le_bytes(),
            &draw.to_le_bytes(),
        ];
        let mut rng = keyed_rng("noise", &key);
        for value in noise {
            *value = StandardNormal.sample(&mut rng);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(sampler: TimestepSampler, noise: NoiseSharing) -> Draws {
        Draws {
            seed: 7,
            count: 16,
            sampler,
            range: TimeRange {
                low: 150.0,
                high: 600.0,
                whole: true,
            },
            noise,
        }
    }

    fn noise(draws: &Draws, id: &str, step: usize, draw: usize) -> Vec<f32> {
        let mut noise = vec![0.0; 1000];
        draws.noise(id, step, draw, &mut noise);
        noise
    }

    #[test]
    fn timesteps_stay_in_the_range_and_strata_hold_one_each() {
        for sampler in [TimestepSampler::Uniform, TimestepSampler::Stratified] {
            let drawn = draws(sampler, NoiseSharing::Fresh).times("test/00001", 3);
            let fits = |t: &f64| (150.0..600.0).contains(t) && t.fract() == 0.0;
            assert!(drawn.iter().all(fits), "{drawn:?}");
        }
        let drawn = draws(TimestepSampler::Stratified, NoiseSharing::Fresh).times("test/00001", 3);
        for (draw, t) in drawn.iter().enumerate() {
            let stratum = 450.0 / 16.0;
            let low = 150.0 + draw as f64 * stratum;
            assert!(
                (low.floor()..low + stratum + 1.0).contains(t),
                "draw {draw}: {t}"
            );
        }
    }

    #[test]
    fn continuous_times_are_those_between_timesteps() {
        let whole = draws(TimestepSampler::Uniform, NoiseSharing::Fresh);
        let range = TimeRange {
            whole: false,
            ..whole.range
        };
        let continuous = Draws { range, ..whole }.times("a", 0);
        let floors: Vec<f64> = continuous.iter().map(|time| time.floor()).collect();
        assert_ne!(floors, continuous);
        assert_eq!(floors, whole.times("a", 0));
    }

    #[test]
    fn timesteps_are_written_as_whole_numbers() {
        for range in ["[150,600]", "[0.25,1.0]"] {
            let text = format!(r#"{{"sampler":"uniform","range":{range}}}"#);
            let config: TimestepsConfig = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::to_string(&config).unwrap(), text);
        }
    }

    #[test]
    fn noise_depends_on_seed_sample_step_and_draw_alone() {
        let fresh = draws(TimestepSampler::Uniform, NoiseSharing::Fresh);
        let first = noise(&fresh, "a", 0, 0);
        assert_eq!(first, noise(&fresh, "a", 0, 0));
        for other in [
            noise(&fresh, "b", 0, 0),
            noise(&fresh, "a", 1, 0),
            noise(&fresh, "a", 0, 1),
        ] {
            assert_ne!(first, other);
        }
        assert_ne!(first, noise(&Draws { seed: 8, ..fresh }, "a", 0, 0));
    }

    #[test]
    fn shares_noise_as_asked() {
        let step = draws(TimestepSampler::Uniform, NoiseSharing::Step);
        assert_eq!(noise(&step, "a", 0, 0), noise(&step, "a", 0, 5));
        assert_ne!(noise(&step, "a", 0, 0), noise(&step, "a", 1, 0));
        let sample = draws(TimestepSampler::Uniform, NoiseSharing::Sample);
        assert_eq!(noise(&sample, "a", 0, 0), noise(&sample, "a", 4, 5));
        assert_ne!(noise(&sample, "a", 0, 0), noise(&sample, "b", 0, 0));
    }

    #[test]
    fn noise_is_standard_normal() {
        // The mean of 100,000 values has standard error 0.0032, their variance 0.0045: five of each.
        let fresh = draws(TimestepSampler::Uniform, NoiseSharing::Fresh);
        let values: Vec<f64> = (0..100)
            .flat_map(|draw| noise(&fresh, "a", 0, draw))
            .map(f64::from)
            .collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 0.016, "{mean}");
        assert!((variance - 1.0).abs() < 0.023, "{variance}");
    }
}

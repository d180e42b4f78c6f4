//! How good predicted depth is. Each score is taken per image and then averaged over images: sums of scores are kept
//! in fixed point, so merging is exact in any order. What is computed for each pixel is the host's work.

use dtta_sdk::prelude::*;

use crate::depth_map::{filled, is_valid};
use crate::range::{Range, inverted};
use crate::ssim;

/// Configuration of the metric.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DepthScoresConfig {
    /// The range of depth: predictions are held within it, and SSIM is taken of depth that it normalises.
    pub range: Range,
    /// How a prediction is aligned with its target before it is scored.
    #[serde(default)]
    pub alignment: Alignment,
}

/// How a prediction p is aligned with its target t before it is scored, by the valid pixels of each image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Alignment {
    /// It is taken as it is: for depth in a known unit.
    #[default]
    None,
    /// Scaled by median(t) / median(p), as Zhou et al. 2017 do: for depth up to scale.
    Median,
    /// Scaled and shifted to the least squared error in depth: for depth up to scale and shift.
    LeastSquares,
    /// Inverse depth scaled and shifted to the least squared error in inverse depth: for inverse depth up to scale and shift
    /// (Ranftl et al., Towards Robust Monocular Depth Estimation, 2020).
    LeastSquaresInverse,
}

/// The names of the scores, in the order of [`Sums`].
const NAMES: [&str; 7] = [
    "abs_rel", "rmse", "log10", "delta1", "delta2", "delta3", "ssim",
];

/// Where the number of images stands, after the scores.
const IMAGES: usize = NAMES.len();

/// Scores are summed in these units.
const UNIT: f64 = (1u64 << 40) as f64;

/// No prediction counts as nearer than this, in the unit of the range.
const NEAREST: f64 = 1e-3;

/// The sums of the images' scores in units of 2^-40, in the order of the names, and behind them the number of images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sums([i128; 8]);

/// Predictions and targets: `depth`, float `[B, H, W]`. Pixels whose target t is 0 or less or not finite are left out,
/// and images that have no other. A prediction p is held within the range, and not below 0.001, before and after it is
/// aligned.
///
/// - `abs_rel`: mean |p - t| / t, a fraction.
/// - `rmse`: the root of the mean (p - t)², in the unit of the range.
/// - `log10`: mean |log10 p - log10 t|.
/// - `delta1`, `delta2`, `delta3`: the share of pixels with max(p / t, t / p) below 1.25, 1.25², 1.25³.
/// - `ssim`: the mean structural similarity (Wang et al. 2004) of normalised depth, data range 1, over the places of an
///   11 x 11 Gaussian window of deviation 1.5 that lie within the image. Pixels that are left out have the prediction's
///   value in both images.
pub struct DepthScores {
    config: DepthScoresConfig,
    nearest: f64,
}

impl Metric for DepthScores {
    type Config = DepthScoresConfig;
    type State = Sums;
    const SCORES: &'static [Score] = &[
        Score::lower("abs_rel").share().leading(),
        Score::lower("rmse"),
        Score::lower("log10"),
        Score::higher("delta1").share(),
        Score::higher("delta2").share(),
        Score::higher("delta3").share(),
        Score::higher("ssim").share(),
    ];
    const ADDITIVE: bool = true;

    fn create(config: DepthScoresConfig) -> Result<Self> {
        config.range.check()?;
        let nearest = config.range.minimum.max(NEAREST);
        if nearest >= config.range.maximum {
            let message = "`range.maximum` is not above 0.001; use a smaller unit";
            return Err(Error::config(message));
        }
        Ok(Self { config, nearest })
    }

    fn score(&self, predictions: &Named, targets: &Named, _session: &Session) -> Result<Sums> {
        let (predicted, target) = (predictions.get("depth")?, targets.get("depth")?);
        let (found, expected) = (predicted.shape()?, target.shape()?);
        if found != expected || expected.len() != 3 {
            let message = format!(
                "predicted `depth` has shape {found:?} and target `depth` {expected:?}, expected [B, H, W] of both"
            );
            return Err(Error::new("shape-mismatch", message));
        }
        let (height, width) = (expected[1], expected[2]);
        if height.min(width) < ssim::WINDOW {
            let message = "images of 11 x 11 or more, for SSIM";
            return Err(Error::shape("depth", &expected, message));
        }
        all_finite(predicted)?;
        let pixels = [-1, i64::from(height) * i64::from(width)];
        let images = Images::new(&predicted.reshape(&pixels)?, &target.reshape(&pixels)?)?;
        let scores = self.scores(&images, (height, width))?;

        let mut sums = Sums::default();
        for (image, &count) in images.counts.iter().enumerate() {
            if count == 0.0 {
                continue;
            }
            sums.0[IMAGES] += 1;
            for ((sum, scores), name) in sums.0.iter_mut().zip(&scores).zip(NAMES) {
                let score = f64::from(scores[image]);
                if !score.is_finite() {
                    let message = format!("`{name}` of image {image} of the batch is {score}");
                    return Err(Error::plugin(message));
                }
                *sum += (score * UNIT).round() as i128;
            }
        }
        Ok(sums)
    }

    fn merge(&self, state: &mut Sums, other: Sums) {
        for (sum, more) in state.0.iter_mut().zip(other.0) {
            *sum = sum.saturating_add(more);
        }
    }

    fn report(&self, state: &Sums) -> Scores {
        let images = state.0[IMAGES];
        if images == 0 {
            return Scores::new();
        }
        let mean = |sum: i128| sum as f64 / UNIT / images as f64;
        NAMES
            .iter()
            .zip(state.0)
            .map(|(&name, sum)| (name.to_owned(), mean(sum)))
            .collect()
    }
}

/// Refuses predictions `[B, H, W]` that hold something else than finite numbers.
fn all_finite(predicted: &Tensor) -> Result<()> {
    let is_number = predicted.greater_scalar(f32::MIN.into())?;
    let is_infinite = predicted.greater_scalar(f32::MAX.into())?;
    let finite = is_number.logical_and(&is_infinite.logical_not()?)?;
    let least = finite.cast(Kind::Float)?.amin(&[1, 2], false)?;
    match least.read_floats()?.iter().position(|&least| least == 0.0) {
        Some(image) => Err(Error::new(
            "invalid-argument",
            format!("predicted `depth` of image {image} of the batch is not finite everywhere"),
        )),
        None => Ok(()),
    }
}

/// A batch of predictions and targets, a row `[N]` of pixels each.
struct Images {
    predicted: Tensor,
    target: Tensor,
    valid: Tensor,
    /// Valid pixels of each image: read, and as a column `[B, 1]` that is never 0.
    counts: Vec<f32>,
    divisor: Tensor,
}

impl Images {
    fn new(predicted: &Tensor, target: &Tensor) -> Result<Self> {
        let valid = is_valid(target)?;
        let counts = valid.cast(Kind::Float)?.sum(&[1], true)?;
        Ok(Self {
            predicted: predicted.share()?,
            target: filled(target, &valid, 0.0)?,
            valid,
            divisor: counts.clamp(Some(1.0), None)?,
            counts: counts.read_floats()?,
        })
    }

    /// `x` at valid pixels, 0 elsewhere.
    fn masked(&self, x: &Tensor) -> Result<Tensor> {
        filled(x, &self.valid, 0.0)
    }

    /// The mean over the valid pixels of each image, `[B, 1]`.
    fn mean(&self, x: &Tensor) -> Result<Tensor> {
        self.masked(x)?.sum(&[1], true)?.div(&self.divisor)
    }

    /// The median over the valid pixels of each image, `[B, 1]`: the mean of the two in the middle of an even number.
    fn median(&self, x: &Tensor) -> Result<Tensor> {
        // Place of the upper and of the lower middle among the valid, largest first; what is filled in comes last.
        let place = |middle: fn(i64) -> i64| {
            let places: Vec<i64> = self
                .counts
                .iter()
                .map(|&n| middle((n as i64).max(1)))
                .collect();
            Tensor::from_ints(&places, &[places.len() as u32, 1])
        };
        let most = self.counts.iter().fold(0.0, |a: f32, &b| a.max(b)) as u32;
        let (sorted, _) = filled(x, &self.valid, f32::MIN.into())?.topk(most / 2 + 1, 1)?;
        let upper = sorted.gather(1, &place(|n| (n - 1) / 2)?)?;
        let lower = sorted.gather(1, &place(|n| n / 2)?)?;
        upper.add(&lower)?.affine(0.5, 0.0)
    }
}

/// `p` scaled and shifted to the least squared distance from `t` over the valid pixels of each image, both `[B, N]`.
fn fitted(images: &Images, p: &Tensor, t: &Tensor) -> Result<Tensor> {
    let mean = images.mean(t)?;
    let (p, t) = (p.sub(&images.mean(p)?)?, t.sub(&mean)?);
    let variance = images.mean(&p.mul(&p)?)?.clamp(Some(1e-12), None)?;
    let scale = images.mean(&p.mul(&t)?)?.div(&variance)?;
    p.mul(&scale)?.add(&mean)
}

impl DepthScores {
    /// Within the range, and not below [`NEAREST`].
    fn held(&self, depth: &Tensor) -> Result<Tensor> {
        depth.clamp(Some(self.nearest), Some(self.config.range.maximum))
    }

    /// The aligned prediction, `[B, N]`.
    fn aligned(&self, images: &Images) -> Result<Tensor> {
        let p = self.held(&images.predicted)?;
        let aligned = match self.config.alignment {
            Alignment::None => return Ok(p),
            Alignment::Median => {
                let scale = images.median(&images.target)?.div(&images.median(&p)?)?;
                p.mul(&scale)?
            }
            Alignment::LeastSquares => fitted(images, &p, &images.target)?,
            Alignment::LeastSquaresInverse => {
                let fitted = fitted(images, &p.powf(-1.0)?, &images.target.powf(-1.0)?)?;
                inverted(&fitted, self.nearest, self.config.range.maximum)?
            }
        };
        self.held(&aligned)
    }

    /// Each score of each image, in the order of [`NAMES`].
    fn scores(&self, images: &Images, (height, width): (u32, u32)) -> Result<Vec<Vec<f32>>> {
        let p = self.aligned(images)?;
        // With the prediction where there is no target, errors there are 0 and ratios 1.
        let t = images.target.choose(&images.valid, &p)?;
        let error = p.sub(&t)?;
        let ratio = p.div(&t)?.maximum(&t.div(&p)?)?;
        let below = |limit: f64| {
            let is_below = ratio.neg()?.greater_scalar(-limit)?;
            images.mean(&is_below.cast(Kind::Float)?)
        };
        let map = |depth: &Tensor| {
            let normalized = self.config.range.normalize(depth)?;
            normalized.reshape(&[-1, 1, height.into(), width.into()])
        };
        let log10 = ratio.log()?.affine(std::f64::consts::LOG10_E, 0.0)?;
        let scores = [
            images.mean(&error.abs()?.div(&t)?)?,
            images.mean(&error.mul(&error)?)?.sqrt()?,
            images.mean(&log10)?,
            below(1.25)?,
            below(1.25 * 1.25)?,
            below(1.25 * 1.25 * 1.25)?,
            ssim::ssim(&map(&p)?, &map(&t)?)?,
        ];
        scores.iter().map(Tensor::read_floats).collect()
    }
}

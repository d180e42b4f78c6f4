//! How far predicted normals point from the true ones. Counts are whole and the sum of angles is kept in fixed point, so merging is exact
//! in any order.

use dtta_sdk::prelude::*;

use crate::vectors::{expect_vectors, unit};

/// Configuration of the metric: there is nothing to choose.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AngleScoresConfig {}

/// The bounds of the shares, in degrees (Fouhey et al. 2013), and their names.
const WITHIN: [(f64, &str); 3] = [
    (11.25, "within_11_25"),
    (22.5, "within_22_5"),
    (30.0, "within_30"),
];

/// Angles are summed in these units of a degree.
const UNIT: f64 = (1u64 << 30) as f64;

/// Pixels, the sum of their angles in units of 2^-30 degrees, and how many lie within each bound.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    pixels: u64,
    angles: u128,
    within: [u64; 3],
}

/// Predictions and targets: `normals`, float `[B, 3, H, W]`, of any length. Pixels whose target is (0, 0, 0) or not finite are left out.
///
/// - `mean_angle`: the mean angle between the two, in degrees.
/// - `within_11_25`, `within_22_5`, `within_30`: the share of pixels with an angle of at most so many degrees.
pub struct AngleScores;

impl Metric for AngleScores {
    type Config = AngleScoresConfig;
    type State = Counts;
    const SCORES: &'static [Score] = &[
        Score::lower("mean_angle").unit("degrees").leading(),
        Score::higher("within_11_25").share(),
        Score::higher("within_22_5").share(),
        Score::higher("within_30").share(),
    ];
    const ADDITIVE: bool = true;

    fn create(_config: AngleScoresConfig) -> Result<Self> {
        Ok(Self)
    }

    fn score(&self, predictions: &Named, targets: &Named, _session: &Session) -> Result<Counts> {
        let (predicted, target) = (predictions.get("normals")?, targets.get("normals")?);
        expect_vectors("normals", predicted)?;
        let (found, expected) = (predicted.shape()?, target.shape()?);
        if found != expected {
            let message = format!(
                "predicted `normals` has shape {found:?} and target `normals` {expected:?}, expected the same of both"
            );
            return Err(Error::new("shape-mismatch", message));
        }
        let lengths = target.mul(target)?.sum(&[1], false)?.read_floats()?;
        let between = unit(predicted)?.sub(&unit(target)?)?;
        let squares = between.mul(&between)?.sum(&[1], false)?.read_floats()?;
        let mut counts = Counts::default();
        for (&length, &square) in lengths.iter().zip(&squares) {
            if !(length.is_finite() && length > 0.0) {
                continue;
            }
            if !square.is_finite() {
                let message = "predicted `normals` are not finite everywhere";
                return Err(Error::new("invalid-argument", message));
            }
            // The ends of unit vectors at an angle a are 2 sin(a / 2) apart.
            let half = (f64::from(square).sqrt() / 2.0).min(1.0);
            let angle = (2.0 * half.asin()).to_degrees();
            counts.pixels += 1;
            counts.angles += (angle * UNIT).round() as u128;
            for (count, (bound, _)) in counts.within.iter_mut().zip(WITHIN) {
                *count += u64::from(angle <= bound);
            }
        }
        Ok(counts)
    }

    fn merge(&self, state: &mut Counts, other: Counts) {
        state.pixels = state.pixels.saturating_add(other.pixels);
        state.angles = state.angles.saturating_add(other.angles);
        for (count, more) in state.within.iter_mut().zip(other.within) {
            *count = count.saturating_add(more);
        }
    }

    fn report(&self, state: &Counts) -> Scores {
        if state.pixels == 0 {
            return Scores::new();
        }
        let pixels = state.pixels as f64;
        let mean = state.angles as f64 / UNIT / pixels;
        let shares = WITHIN
            .iter()
            .zip(state.within)
            .map(|((_, name), count)| ((*name).to_owned(), count as f64 / pixels));
        std::iter::once(("mean_angle".to_owned(), mean))
            .chain(shares)
            .collect()
    }
}

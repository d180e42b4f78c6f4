//! How good a segmenter's labels are: pixel accuracy, mean class accuracy and mean intersection over union, from one
//! confusion matrix. Counts are whole numbers, so merging is exact in any order.

use dtta_sdk::prelude::*;

/// Configuration of the metric.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SegmentationConfig {
    /// Classes: labels run from 0 to one less.
    #[schemars(range(min = 2, max = 256))]
    pub classes: u32,
    /// Pixels whose target has this label are left out. If a class has it, that class is, from `miou` too.
    #[serde(default = "void")]
    pub ignore_index: i64,
}

fn void() -> i64 {
    255
}

/// Pixels by target (rows) and prediction (columns). Empty before the first sample.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confusion {
    rows: Vec<Vec<u64>>,
}

/// Predictions and targets: `labels`, int `[B, H, W]`. Scores are fractions, over all pixels of all images together:
///
/// - `pixel_accuracy`: the share of pixels whose label is right.
/// - `mean_class_accuracy`: the mean, over the classes that occur in the targets, of the share of a class's pixels
///   whose label is right.
/// - `miou`: the mean, over the classes that occur in targets or predictions, of the pixels that have the class in
///   both by those that have it in either. An ignored class is none of them; predicting it is as wrong as any other.
///
/// There are no scores while every pixel has been left out.
pub struct Segmentation {
    classes: usize,
    ignore_index: i64,
}

impl Metric for Segmentation {
    type Config = SegmentationConfig;
    type State = Confusion;
    const SCORES: &'static [Score] = &[
        Score::higher("pixel_accuracy").share(),
        Score::higher("mean_class_accuracy").share(),
        Score::higher("miou").share().leading(),
    ];
    const ADDITIVE: bool = true;

    fn create(config: SegmentationConfig) -> Result<Self> {
        if !(2..=256).contains(&config.classes) {
            let message = format!("`classes` is {}, expected 2 to 256", config.classes);
            return Err(Error::config(message));
        }
        Ok(Self {
            classes: config.classes as usize,
            ignore_index: config.ignore_index,
        })
    }

    fn score(&self, predictions: &Named, targets: &Named, _session: &Session) -> Result<Confusion> {
        let (predicted, target) = (predictions.get("labels")?, targets.get("labels")?);
        let (found, expected) = (predicted.shape()?, target.shape()?);
        if found != expected || expected.len() != 3 {
            return Err(Error::new(
                "shape-mismatch",
                format!(
                    "predicted `labels` has shape {found:?} and target `labels` {expected:?}, expected [B, H, W] of both"
                ),
            ));
        }
        // The host makes the place in the matrix out of each pair of labels, and one past it of a pair that does not count.
        let number = |value: i64| Tensor::from_ints(&[value], &[1, 1, 1]);
        let classes = self.classes as i64;
        let zero = number(0)?;
        let void = target.equal(&number(self.ignore_index)?)?;
        let counted = |labels: &Tensor| zero.choose(&void, labels);
        let (target, predicted) = (counted(target)?, counted(predicted)?);
        self.expect_classes("target", &target)?;
        self.expect_classes("predicted", &predicted)?;
        let place = target.mul(&number(classes)?)?.add(&predicted)?;
        let place = number(classes * classes)?.choose(&void, &place)?;

        let mut counts = vec![0; self.classes * self.classes];
        // One image at a time: each pixel is read as 8 bytes.
        for image in 0..expected[0] {
            let places = place.narrow(0, image, 1)?.read_ints()?;
            for &place in &places {
                if let Some(count) = counts.get_mut(place as usize) {
                    *count += 1;
                }
            }
        }
        let rows = counts.chunks_exact(self.classes);
        Ok(Confusion {
            rows: rows.map(<[u64]>::to_vec).collect(),
        })
    }

    fn merge(&self, state: &mut Confusion, other: Confusion) {
        let wide = |state: &Confusion| state.rows.iter().map(Vec::len).max().unwrap_or(0);
        let classes = wide(state).max(wide(&other));
        state.rows.resize(classes.max(other.rows.len()), Vec::new());
        for row in &mut state.rows {
            row.resize(classes, 0);
        }
        for (row, more) in state.rows.iter_mut().zip(other.rows) {
            for (count, more) in row.iter_mut().zip(more) {
                *count += more;
            }
        }
    }

    fn report(&self, state: &Confusion) -> Scores {
        let mut scores = Scores::new();
        let rows = &state.rows;
        let targets: Vec<u64> = rows.iter().map(|row| row.iter().sum()).collect();
        let pixels: u64 = targets.iter().sum();
        if pixels == 0 {
            return scores;
        }
        let (mut right, mut shares, mut overlaps) = (0, Vec::new(), Vec::new());
        for (class, &target) in targets.iter().enumerate() {
            let both = rows[class].get(class).copied().unwrap_or(0);
            let predicted: u64 = rows.iter().filter_map(|row| row.get(class)).sum();
            let either = target + predicted - both;
            right += both;
            if target > 0 {
                shares.push(both as f64 / target as f64);
            }
            if either > 0 && i64::try_from(class) != Ok(self.ignore_index) {
                overlaps.push(both as f64 / either as f64);
            }
        }
        // A counted pixel has a class that is not ignored, so neither list is empty.
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        scores.insert("pixel_accuracy".into(), right as f64 / pixels as f64);
        scores.insert("mean_class_accuracy".into(), mean(&shares));
        scores.insert("miou".into(), mean(&overlaps));
        scores
    }
}

impl Segmentation {
    /// Refuses labels `[B, H, W]` that name no class.
    fn expect_classes(&self, whose: &str, labels: &Tensor) -> Result<()> {
        let least = labels.amin(&[1, 2], false)?.read_ints()?;
        let most = labels.amax(&[1, 2], false)?.read_ints()?;
        for (image, ends) in least.into_iter().zip(most).enumerate() {
            for label in [ends.0, ends.1] {
                if !(0..self.classes as i64).contains(&label) {
                    return Err(Error::new(
                        "invalid-argument",
                        format!(
                            "a {whose} label of image {image} of the batch is {label}; there are {} classes, from 0, \
                             and pixels whose target is {} are left out",
                            self.classes, self.ignore_index
                        ),
                    ));
                }
            }
        }
        Ok(())
    }
}

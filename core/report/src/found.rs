//! What is counted of a run's records, in a bounded amount of memory.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use dtta::{Record, RunDescription};
use dtta_base::TargetType;

use crate::calibration::Calibration;
use crate::confusion::Confusion;
use crate::gallery::{Gallery, Picture};

/// Points of a curve along the stream, about.
const POINTS: usize = 400;
/// A stream of more parts than this is drawn as one: its domains are mixed.
const MOST_PARTS: usize = 120;
/// A window is this share of the stream, but no longer than a quarter of its part of it.
const WINDOW: usize = 40;
/// The fewest samples of a window, where its part has them.
const FEWEST: usize = 20;
/// Different reasons of skipped samples that are told.
const REASONS: usize = 20;
/// Steps whose losses are told.
const STEPS: usize = 1000;
/// Bins of the source model's confidence.
const BINS: usize = 10;

/// The stream's length and its parts: what follows each other in one domain.
#[derive(Default)]
pub struct Parts {
    samples: usize,
    /// Domain and samples; the last may hold samples of several domains, once there are too many parts.
    parts: Vec<(String, usize)>,
    changes: usize,
}

impl Parts {
    /// Adds a record.
    pub fn add(&mut self, record: &Record) {
        self.samples += 1;
        match self.parts.last_mut() {
            Some((domain, count)) if *domain == record.domain => *count += 1,
            Some(_) if self.changes > MOST_PARTS => self.changes += 1,
            last => {
                self.changes += usize::from(last.is_some());
                self.parts.push((record.domain.clone(), 1));
            }
        }
    }

    /// Lengths of the parts, with the domain of each; one part without a name where domains are mixed.
    fn cut(self) -> Vec<(Option<String>, usize)> {
        match self.changes >= MOST_PARTS {
            true => vec![(None, self.samples)],
            false => {
                let parts = self.parts.into_iter();
                parts.map(|(domain, count)| (Some(domain), count)).collect()
            }
        }
    }
}

/// Of a domain, what its records say.
#[derive(Debug, Clone, Default)]
pub struct DomainFound {
    /// Records.
    pub samples: usize,
    /// Of them skipped.
    pub skipped: usize,
    /// Samples with a score.
    pub scored: usize,
    /// Sums of the scores of samples by themselves, before and after.
    pub sums: [f64; 2],
}

impl DomainFound {
    /// Means of the samples' own scores.
    pub fn means(&self) -> Option<[f64; 2]> {
        (self.scored > 0).then(|| self.sums.map(|sum| sum / self.scored as f64))
    }
}

/// One point along the stream: means over the last samples before it, in its part.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// Samples up to it.
    pub sample: usize,
    /// Samples that its means are over.
    pub window: usize,
    /// Score before and after.
    pub scores: Option<[f64; 2]>,
    /// Loss of the first step and of the last.
    pub losses: Option<[f64; 2]>,
}

/// A part of the stream with its curve.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its domain, unless several are mixed in it.
    pub domain: Option<String>,
    /// The sample it starts after.
    pub start: usize,
    /// Samples in it.
    pub samples: usize,
    /// Its curve.
    pub points: Vec<Point>,
}

/// Samples whose source confidence lay in one range.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConfidenceBin {
    /// How many.
    pub samples: usize,
    /// The sum of their gains.
    pub gain: f64,
    /// The sum of their squares.
    pub squares: f64,
}

impl ConfidenceBin {
    /// The mean gain, and half the width of its normal 95 % interval where two samples differ.
    pub fn gain(&self) -> Option<(f64, Option<f64>)> {
        let count = self.samples as f64;
        let mean = (self.samples > 0).then(|| self.gain / count)?;
        let variance = (self.squares - count * mean * mean) / (count - 1.0);
        let half = (self.samples > 1).then(|| 1.96 * (variance.max(0.0) / count).sqrt());
        Some((mean, half))
    }
}

/// The mean loss of one step.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepLoss {
    /// Samples that made the step.
    pub samples: usize,
    /// Sum of their losses.
    pub sum: f64,
}

/// What is counted of a run's records.
pub struct Found {
    /// Whether each image has one class.
    pub is_classification: bool,
    /// The name of the score of samples by themselves, where they have several.
    pub leading: String,
    /// Records.
    pub samples: usize,
    /// Whether the last line of the records is cut.
    pub is_cut: bool,
    /// By domain.
    pub domains: BTreeMap<String, DomainFound>,
    /// Along the stream.
    pub parts: Vec<Part>,
    /// By step.
    pub steps: Vec<StepLoss>,
    /// Samples that were adapted to without any loss.
    pub without_loss: usize,
    /// By the source model's confidence, from 0 to 1.
    pub by_confidence: Vec<ConfidenceBin>,
    /// Which classes were taken for which.
    pub confusion: Confusion,
    /// Confidence against correctness, before and after, over the domains that are averaged.
    pub calibration: [Calibration; 2],
    /// Why samples were skipped, and how many.
    pub skipped: BTreeMap<String, usize>,
    /// Samples skipped for reasons beyond the first few.
    pub skipped_otherwise: usize,
    /// Pictures of samples.
    pub pictures: Vec<Picture>,
    /// Sum of the samples' times.
    pub milliseconds: f64,
    averaged: BTreeMap<String, bool>,
    /// Records in all.
    expected: usize,
    gallery: Gallery,
    walk: Walk,
}

/// Where in the stream the curve is.
#[derive(Default)]
struct Walk {
    part: usize,
    within: usize,
    /// Scores and losses of the last samples.
    window: VecDeque<[Option<[f64; 2]>; 2]>,
}

impl Found {
    /// Nothing yet, of a run.
    pub fn new(
        folder: &Path,
        description: &RunDescription,
        leading: String,
        parts: Parts,
        gallery: usize,
    ) -> Self {
        let mut start = 0;
        let parts = parts.cut().into_iter().map(|(domain, samples)| {
            let part = Part {
                domain,
                start,
                samples,
                points: Vec::new(),
            };
            start += samples;
            part
        });
        let parts: Vec<_> = parts.collect();
        let domains = &description.domains;
        let any = domains.iter().any(|domain| domain.shifted);
        let averaged = domains
            .iter()
            .map(|domain| (domain.name.clone(), domain.shifted || !any));
        let bins = bins(description);
        let pictures = description.experiment.output.pictures;
        Self {
            is_classification: description.predicts.target == TargetType::ClassIndex {},
            leading,
            samples: 0,
            is_cut: false,
            domains: BTreeMap::new(),
            parts,
            steps: Vec::new(),
            without_loss: 0,
            by_confidence: vec![ConfidenceBin::default(); BINS],
            confusion: Confusion::default(),
            calibration: [Calibration::new(bins), Calibration::new(bins)],
            skipped: BTreeMap::new(),
            skipped_otherwise: 0,
            pictures: Vec::new(),
            milliseconds: 0.0,
            averaged: averaged.collect(),
            expected: start,
            gallery: Gallery::new(folder, pictures, domains.len(), gallery),
            walk: Walk::default(),
        }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// In words, what no run writes.
    pub fn add(&mut self, record: &Record) -> Result<(), String> {
        let Some(&is_averaged) = self.averaged.get(&record.domain) else {
            return Err(format!(
                "has a record of the domain `{}`, which `run.json` does not name",
                record.domain
            ));
        };
        self.samples += 1;
        self.milliseconds += record.milliseconds;
        let scores = self.scores(record);
        let domain = self.domains.entry(record.domain.clone()).or_default();
        domain.samples += 1;
        if let Some(reason) = &record.skipped {
            domain.skipped += 1;
            if self.skipped.len() < REASONS || self.skipped.contains_key(reason) {
                *self.skipped.entry(reason.clone()).or_default() += 1;
            } else {
                self.skipped_otherwise += 1;
            }
        } else {
            if let Some(scores) = scores {
                domain.scored += 1;
                for (sum, score) in domain.sums.iter_mut().zip(scores) {
                    *sum += score;
                }
            }
            self.gallery.consider(record);
            if self.is_classification {
                self.confusion.add(record)?;
            }
            if let Some(scores) = scores {
                self.count_confidence(record, scores, is_averaged)?;
            }
            self.without_loss += usize::from(record.loss.is_empty());
            for (step, &loss) in record.loss.iter().take(STEPS).enumerate() {
                if self.steps.len() == step {
                    self.steps.push(StepLoss::default());
                }
                self.steps[step].samples += 1;
                self.steps[step].sum += f64::from(loss);
            }
        }
        let ends = record.loss.first().zip(record.loss.last());
        self.step_along(scores, ends.map(|(&a, &b)| [a.into(), b.into()]));
        Ok(())
    }

    /// All records were added.
    pub fn finish(&mut self) {
        self.pictures = std::mem::take(&mut self.gallery).into_pictures();
    }

    /// The scores of a sample by itself, before and after.
    fn scores(&self, record: &Record) -> Option<[f64; 2]> {
        let said = [&record.source, &record.adapted];
        if !self.is_classification {
            let [before, after] = said.map(|said| said.scores.get(&self.leading).copied());
            return Some([before?, after?]);
        }
        let target = i64::from(record.target?);
        let right = said.map(|said| said.prediction.map(|class| f64::from(class == target)));
        Some([right[0]?, right[1]?])
    }

    fn count_confidence(
        &mut self,
        record: &Record,
        scores: [f64; 2],
        is_averaged: bool,
    ) -> Result<(), String> {
        let said = [&record.source, &record.adapted].map(|said| said.confidence);
        for confidence in said.into_iter().flatten() {
            if !(-1e-3..=1.001).contains(&confidence) {
                let id = &record.id;
                return Err(format!(
                    "has a confidence of {confidence} for `{id}`, expected a number from 0 to 1"
                ));
            }
        }
        if self.is_classification && is_averaged {
            for ((of, confidence), score) in self.calibration.iter_mut().zip(said).zip(scores) {
                if let Some(confidence) = confidence {
                    of.add(confidence.into(), score);
                }
            }
        }
        if let Some(confidence) = said[0] {
            let bin = (f64::from(confidence) * BINS as f64) as usize;
            let bin = &mut self.by_confidence[bin.min(BINS - 1)];
            let gain = scores[1] - scores[0];
            bin.samples += 1;
            bin.gain += gain;
            bin.squares += gain * gain;
        }
        Ok(())
    }

    /// Moves the window on, and adds a point where one is due.
    fn step_along(&mut self, scores: Option<[f64; 2]>, losses: Option<[f64; 2]>) {
        let walk = &mut self.walk;
        let Some(part) = self.parts.get_mut(walk.part) else {
            return;
        };
        let longest = (self.expected / WINDOW)
            .max(FEWEST)
            .min(part.samples.div_ceil(4));
        let points = (POINTS * part.samples / self.expected.max(1)).max(2);
        let every = part.samples.div_ceil(points);
        walk.within += 1;
        walk.window.push_back([scores, losses]);
        if walk.window.len() > longest {
            walk.window.pop_front();
        }
        let is_over = walk.within == part.samples;
        // Means of fewer samples than the window has say less than they seem to.
        let is_full = walk.window.len() == longest;
        if is_full && (walk.within == longest || walk.within.is_multiple_of(every) || is_over) {
            part.points.push(Point {
                sample: part.start + walk.within,
                window: walk.window.len(),
                scores: mean(walk.window.iter().filter_map(|[scores, _]| *scores)),
                losses: mean(walk.window.iter().filter_map(|[_, losses]| *losses)),
            });
        }
        if is_over {
            let part = walk.part + 1;
            *walk = Walk {
                part,
                ..Walk::default()
            };
        }
    }
}

fn mean(values: impl Iterator<Item = [f64; 2]>) -> Option<[f64; 2]> {
    let (mut sums, mut count) = ([0.0; 2], 0.0);
    for value in values {
        sums[0] += value[0];
        sums[1] += value[1];
        count += 1.0;
    }
    (count > 0.0).then(|| sums.map(|sum| sum / count))
}

/// Bins of the calibration error: the metric's own, where the experiment says so, or the usual ones.
fn bins(description: &RunDescription) -> usize {
    const USUAL: usize = 15;
    const MOST: u64 = 1000;
    let metric = description.experiment.plugins.metric.as_ref();
    let bins = metric.and_then(|metric| metric.config.get("bins")?.as_u64());
    bins.filter(|bins| (1..=MOST).contains(bins))
        .map_or(USUAL, |bins| bins as usize)
}

/// A picture's path in a run's folder.
pub(crate) fn picture(folder: &Path, record: &Record) -> PathBuf {
    let [domain, id] = [&record.domain, &record.id].map(|name| dtta_base::file_name(name));
    folder.join("images").join(domain).join(id + ".png")
}

//! Measures of trained weights on images with label maps or number maps.

use dtta_data::{DepthRange, IGNORE, NumberMap};
use dtta_learn::{Draws, NoiseSharing, TimestepSampler};
use dtta_models::{Backbone, BatchNormStatistics, SPATIAL, TimeRange, Weights};
use dtta_tensor::{Named, Tensor};

use crate::data::Examples;
use crate::error::Result;
use crate::evaluate::Evaluation;
use crate::lesson::{MapDenoiser, logits, number_error, pixel_cross_entropy};

/// Images in one call of a model.
const ROWS: usize = 64;

/// Compares the noise that a denoiser predicts under each image's own map and under the next image's, over draws that both share.
/// Records no tape.
pub(crate) fn own_map_accuracy(
    lesson: &MapDenoiser,
    weights: &Weights,
    held_out: &Examples,
    draws: usize,
    range: TimeRange,
    progress: &mut dyn FnMut(usize),
) -> Result<Evaluation> {
    let weights = &weights.detach();
    let samples = held_out.len();
    let draws = Draws {
        seed: 0,
        count: draws,
        sampler: TimestepSampler::Stratified,
        range,
        noise: NoiseSharing::Fresh,
    };
    let condition = lesson.condition(weights, held_out)?;
    let (mut right, mut sum) = (0, 0.0);
    for start in (0..samples).step_by(ROWS) {
        let rows: Vec<usize> = (start..samples.min(start + ROWS)).collect();
        let images = held_out.images.narrow(0, start, rows.len())?;
        let (shape, device) = (images.shape(), images.device());
        let select = |rows: Vec<usize>| {
            let rows: Vec<i64> = rows.into_iter().map(|row| row as i64).collect();
            condition.index_select(0, &Tensor::from_ints(&rows, &[rows.len()], device)?)
        };
        let own = select(rows.clone())?;
        let other = select(rows.iter().map(|row| (row + 1) % samples).collect())?;
        let mut losses = [vec![0.0f32; rows.len()], vec![0.0f32; rows.len()]];
        for draw in 0..draws.count {
            let mut noise = vec![0.0; shape.elements()];
            let mut times = Vec::new();
            for (row, noise) in rows
                .iter()
                .zip(noise.chunks_mut(shape.elements() / shape[0]))
            {
                let id = row.to_string();
                draws.noise(&id, 0, draw, noise);
                times.push(draws.times(&id, 0)[draw]);
            }
            let noise = Tensor::from_floats(&noise, &shape, device)?;
            let mixed = lesson.denoiser.schedule().mix(&images, &noise, &times)?;
            for (losses, condition) in losses.iter_mut().zip([&own, &other]) {
                let condition = Named::one(SPATIAL, condition.clone());
                let error = lesson
                    .denoiser
                    .predict(weights, &mixed.noisy, &times, &condition)?
                    .sub(&mixed.target)?;
                let found = error.mul(&error)?.mean(&[1, 2, 3], false)?.to_floats()?;
                losses
                    .iter_mut()
                    .zip(found)
                    .for_each(|(sum, loss)| *sum += loss);
            }
        }
        let [own, other] = losses;
        right += own
            .iter()
            .zip(&other)
            .filter(|(own, other)| own < other)
            .count();
        sum += own.iter().map(|&loss| f64::from(loss)).sum::<f64>() / draws.count as f64;
        progress(start + rows.len());
    }
    Ok(Evaluation {
        accuracy: right as f64 / samples as f64,
        loss: sum / samples as f64,
        samples,
        miou: None,
    })
}

/// Measures a classifier of pixels. Records no tape.
pub(crate) fn pixel_accuracy(
    backbone: &dyn Backbone,
    weights: &Weights,
    held_out: &Examples,
    progress: &mut dyn FnMut(usize),
) -> Result<Evaluation> {
    let classes = backbone.spec().outputs;
    // For each class: pixels that have it, that are taken for it, and both.
    let mut counts = vec![[0u64; 3]; classes];
    let mut sum = 0.0;
    over_batches(backbone, weights, held_out, progress, |logits, batch| {
        let count = batch.len() as f64;
        sum += count * f64::from(pixel_cross_entropy(logits, batch, 0.0, &[])?.item()?);
        let found = logits.argmax(1)?.to_ints()?;
        let labels = batch.label_maps().flat_map(|map| map.data());
        for (found, &label) in found.into_iter().zip(labels) {
            if label != IGNORE {
                let (found, label) = (found as usize, usize::from(label));
                counts[label][0] += 1;
                counts[found][1] += 1;
                counts[label][2] += u64::from(found == label);
            }
        }
        Ok(())
    })?;
    let total = |n: usize| counts.iter().map(|count| count[n]).sum::<u64>() as f64;
    let unions = counts
        .iter()
        .map(|&[own, taken, both]| (both, own + taken - both));
    let shares: Vec<f64> = unions
        .filter(|(_, union)| *union > 0)
        .map(|(both, union)| both as f64 / union as f64)
        .collect();
    Ok(Evaluation {
        accuracy: total(2) / total(0).max(1.0),
        loss: sum / held_out.len() as f64,
        samples: held_out.len(),
        miou: Some(shares.iter().sum::<f64>() / shares.len().max(1) as f64),
    })
}

/// Measures a predictor of distances: the share of pixels within a factor of 1.25, after scaling each image to its median distance, and the
/// error of normalised distances. Records no tape.
pub(crate) fn distance_accuracy(
    backbone: &dyn Backbone,
    weights: &Weights,
    range: DepthRange,
    held_out: &Examples,
    progress: &mut dyn FnMut(usize),
) -> Result<Evaluation> {
    let (mut near, mut known, mut sum) = (0u64, 0u64, 0.0);
    over_batches(backbone, weights, held_out, progress, |logits, batch| {
        let count = batch.len();
        sum += count as f64 * f64::from(number_error(logits, batch, Some(range), 0.0)?.item()?);
        let found = logits.sigmoid()?.to_floats()?;
        for (found, map) in found.chunks(found.len() / count).zip(batch.number_maps()) {
            let pairs: Vec<(f32, f32)> = found
                .iter()
                .zip(map.data())
                .enumerate()
                .filter(|(pixel, _)| map.is_known(*pixel))
                .map(|(_, pair)| pair)
                .map(|(&found, &distance)| (range.distance(found).max(f32::MIN_POSITIVE), distance))
                .collect();
            let median = |mut values: Vec<f32>| {
                values.sort_unstable_by(f32::total_cmp);
                values.get(values.len() / 2).copied().unwrap_or(1.0)
            };
            let scale = median(pairs.iter().map(|pair| pair.1).collect())
                / median(pairs.iter().map(|pair| pair.0).collect());
            let within = |&&(found, distance): &&(f32, f32)| {
                let ratio = scale * found / distance;
                ratio.max(ratio.recip()) < 1.25
            };
            near += pairs.iter().filter(within).count() as u64;
            known += pairs.len() as u64;
        }
        Ok(())
    })?;
    Ok(Evaluation {
        accuracy: near as f64 / known.max(1) as f64,
        loss: sum / held_out.len() as f64,
        samples: held_out.len(),
        miou: None,
    })
}

/// Measures a predictor of numbers: the share of their variance that it explains, over all known pixels and channels, and its absolute
/// error. Records no tape.
pub(crate) fn number_accuracy(
    backbone: &dyn Backbone,
    weights: &Weights,
    held_out: &Examples,
    progress: &mut dyn FnMut(usize),
) -> Result<Evaluation> {
    let means = channel_means(held_out.number_maps(), backbone.spec().outputs);
    let (mut errors, mut spread, mut sum) = (0.0f64, 0.0f64, 0.0);
    over_batches(backbone, weights, held_out, progress, |logits, batch| {
        let count = batch.len();
        sum += count as f64 * f64::from(number_error(logits, batch, None, 0.0)?.item()?);
        let found = logits.to_floats()?;
        for (found, map) in found.chunks(found.len() / count).zip(batch.number_maps()) {
            let [_, height, width] = map.shape();
            for pixel in (0..height * width).filter(|&pixel| map.is_known(pixel)) {
                let predicted = found[pixel..].iter().step_by(height * width);
                for ((number, &predicted), mean) in map.pixel(pixel).zip(predicted).zip(&means) {
                    let number = f64::from(number);
                    errors += (f64::from(predicted) - number).powi(2);
                    spread += (number - mean).powi(2);
                }
            }
        }
        Ok(())
    })?;
    Ok(Evaluation {
        accuracy: 1.0 - errors / spread.max(f64::MIN_POSITIVE),
        loss: sum / held_out.len() as f64,
        samples: held_out.len(),
        miou: None,
    })
}

/// The mean of each channel over all known pixels.
fn channel_means<'a>(maps: impl Iterator<Item = &'a NumberMap>, channels: usize) -> Vec<f64> {
    let (mut sums, mut count) = (vec![0.0; channels], 0u64);
    for map in maps {
        let [_, height, width] = map.shape();
        for pixel in (0..height * width).filter(|&pixel| map.is_known(pixel)) {
            count += 1;
            for (sum, number) in sums.iter_mut().zip(map.pixel(pixel)) {
                *sum += f64::from(number);
            }
        }
    }
    sums.iter().map(|sum| sum / count.max(1) as f64).collect()
}

/// Shows the images to the backbone, with its running statistics, and its logits to `measure`.
fn over_batches(
    backbone: &dyn Backbone,
    weights: &Weights,
    held_out: &Examples,
    progress: &mut dyn FnMut(usize),
    mut measure: impl FnMut(&Tensor, &Examples) -> Result<()>,
) -> Result<()> {
    let weights = &weights.detach();
    let samples = held_out.len();
    for start in (0..samples).step_by(ROWS) {
        let count = ROWS.min(samples - start);
        let batch = Examples {
            ids: held_out.ids[start..start + count].to_vec(),
            images: held_out.images.narrow(0, start, count)?,
            labels: Vec::new(),
            targets: held_out.targets[start..start + count].to_vec(),
            name: held_out.name.clone(),
        };
        let outputs = backbone.forward(weights, &batch.images, BatchNormStatistics::Running)?;
        measure(logits(&outputs)?, &batch)?;
        progress(start + count);
    }
    Ok(())
}

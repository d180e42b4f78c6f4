//! Measures of trained weights on images with masks or depth maps.

use dtta::{Draws, NoiseSharing, TimestepSampler};
use dtta_data::{DepthRange, IGNORE, is_distance};
use dtta_models::{Backbone, Conditioning, SPATIAL, Statistics, Weights};
use dtta_tensor::Tensor;

use crate::data::Batch;
use crate::error::Result;
use crate::evaluate::Evaluation;
use crate::task::{MapDenoiser, depth_error, logits, pixel_cross_entropy};

/// Images in one call of a model.
const ROWS: usize = 64;

/// Compares the noise that a denoiser predicts under each image's own map and under the next image's, over draws that both share.
/// Records no tape.
pub(crate) fn own_map_accuracy(
    task: &MapDenoiser,
    weights: &Weights,
    held_out: &Batch,
    draws: usize,
    range: [usize; 2],
    progress: &mut dyn FnMut(usize),
) -> Result<Evaluation> {
    let weights = &weights.detach();
    let samples = held_out.maps.len();
    let draws = Draws {
        seed: 0,
        count: draws,
        sampler: TimestepSampler::Stratified,
        range,
        noise: NoiseSharing::Fresh,
    };
    let condition = task.condition(weights, &held_out.maps, held_out.images.device())?;
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
            let mut timesteps = Vec::new();
            for (row, noise) in rows
                .iter()
                .zip(noise.chunks_mut(shape.elements() / shape[0]))
            {
                let id = row.to_string();
                draws.noise(&id, 0, draw, noise);
                timesteps.push(draws.timesteps(&id, 0)[draw]);
            }
            let noise = Tensor::from_floats(&noise, &shape, device)?;
            let noisy = task
                .denoiser
                .schedule()
                .add_noise(&images, &noise, &timesteps)?;
            for (losses, condition) in losses.iter_mut().zip([&own, &other]) {
                let condition = Conditioning::one(SPATIAL, condition.clone());
                let error = task
                    .denoiser
                    .predict_noise(weights, &noisy, &timesteps, &condition)?
                    .sub(&noise)?;
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
    held_out: &Batch,
    progress: &mut dyn FnMut(usize),
) -> Result<Evaluation> {
    let classes = backbone.outputs();
    // For each class: pixels that have it, that are taken for it, and both.
    let mut counts = vec![[0u64; 3]; classes];
    let mut sum = 0.0;
    over_batches(backbone, weights, held_out, progress, |logits, batch| {
        let count = batch.maps.len() as f64;
        sum += count * f64::from(pixel_cross_entropy(logits, &batch.maps, 0.0, &[])?.item()?);
        let found = logits.argmax(1)?.to_ints()?;
        let masks = batch.maps.iter().filter_map(|maps| maps.mask.as_ref());
        for (found, &label) in found.into_iter().zip(masks.flat_map(|mask| mask.data())) {
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
        loss: sum / held_out.maps.len() as f64,
        samples: held_out.maps.len(),
        miou: Some(shares.iter().sum::<f64>() / shares.len().max(1) as f64),
    })
}

/// Measures a predictor of depth: the share of pixels within a factor of 1.25, after scaling each image to its median distance, and the
/// error of normalised depth. Records no tape.
pub(crate) fn depth_accuracy(
    backbone: &dyn Backbone,
    weights: &Weights,
    range: DepthRange,
    held_out: &Batch,
    progress: &mut dyn FnMut(usize),
) -> Result<Evaluation> {
    let (mut near, mut known, mut sum) = (0u64, 0u64, 0.0);
    over_batches(backbone, weights, held_out, progress, |logits, batch| {
        let count = batch.maps.len();
        sum += count as f64 * f64::from(depth_error(logits, &batch.maps, range, 0.0)?.item()?);
        let found = logits.sigmoid()?.to_floats()?;
        let depths = batch.maps.iter().filter_map(|maps| maps.depth.as_ref());
        for (found, depth) in found.chunks(found.len() / count).zip(depths) {
            let pairs: Vec<(f32, f32)> = found
                .iter()
                .zip(depth.data())
                .filter(|(_, distance)| is_distance(**distance))
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
        loss: sum / held_out.maps.len() as f64,
        samples: held_out.maps.len(),
        miou: None,
    })
}

/// Shows the images to the backbone, with its running statistics, and its logits to `measure`.
fn over_batches(
    backbone: &dyn Backbone,
    weights: &Weights,
    held_out: &Batch,
    progress: &mut dyn FnMut(usize),
    mut measure: impl FnMut(&Tensor, &Batch) -> Result<()>,
) -> Result<()> {
    let weights = &weights.detach();
    let samples = held_out.maps.len();
    for start in (0..samples).step_by(ROWS) {
        let count = ROWS.min(samples - start);
        let batch = Batch {
            images: held_out.images.narrow(0, start, count)?,
            labels: Vec::new(),
            maps: held_out.maps[start..start + count].to_vec(),
        };
        let outputs = backbone.forward(weights, &batch.images, Statistics::Running)?;
        measure(logits(&outputs), &batch)?;
        progress(start + count);
    }
    Ok(())
}

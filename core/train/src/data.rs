//! Batches of training images in an order that is a function of the seed, and held-out images as one tensor.

use std::path::Path;

use dtta_data::{
    Augmentation, DataError, Dataset, DatasetConfig, Selection, Transform, augment, keyed_rng,
    transform,
};
use dtta_tensor::{Device, Tensor};
use rand_distr::{Distribution, Uniform};

use crate::error::{Error, Result};

/// Some images with their classes.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    /// `[B, C, H, W]`, preprocessed.
    pub images: Tensor,
    /// One for each image.
    pub labels: Vec<usize>,
}

/// Training images. Sample `n` of the run is the same whatever came before: each pass over the dataset has a shuffle of its own.
pub(crate) struct TrainingData {
    dataset: Dataset,
    labels: Vec<usize>,
    augmentation: Vec<Augmentation>,
    preprocess: Vec<Transform>,
    shape: [usize; 3],
    seed: u64,
    /// A pass and its order; the last one used.
    order: (u64, Vec<usize>),
}

/// What a model takes: image shape and classes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Takes {
    pub shape: [usize; 3],
    pub classes: usize,
}

impl TrainingData {
    pub fn open(
        config: &DatasetConfig,
        base: &Path,
        (augmentation, preprocess): (&[Augmentation], &[Transform]),
        takes: Takes,
        seed: u64,
    ) -> Result<Self> {
        let (dataset, labels) = open(config, base, preprocess, takes, "/data/training")?;
        let order = (0, shuffled(dataset.len(), seed, 0));
        Ok(Self {
            dataset,
            labels,
            augmentation: augmentation.to_vec(),
            preprocess: preprocess.to_vec(),
            shape: takes.shape,
            seed,
            order,
        })
    }

    pub fn len(&self) -> usize {
        self.dataset.len()
    }

    /// The images of `step`.
    pub fn batch(&mut self, step: usize, size: usize, device: &Device) -> Result<Batch> {
        let key = [self.seed.to_le_bytes(), (step as u64).to_le_bytes()];
        let mut rng = keyed_rng("training augmentation", &[&key[0], &key[1]]);
        let mut values = Vec::with_capacity(size * self.shape.iter().product::<usize>());
        let mut labels = Vec::with_capacity(size);
        for n in 0..size {
            let index = self.index(step as u64 * size as u64 + n as u64);
            let image = augment(
                &self.augmentation,
                self.dataset.sample(index)?.image,
                &mut rng,
            );
            let image = transform(&self.preprocess, image)?;
            expect_shape(image.shape(), self.shape, "/data/training")?;
            values.extend_from_slice(image.data());
            labels.push(self.labels[index]);
        }
        let [c, h, w] = self.shape;
        Ok(Batch {
            images: Tensor::from_floats(&values, &[size, c, h, w], device)?,
            labels,
        })
    }

    /// Which sample of the dataset is sample `n` of the run.
    fn index(&mut self, n: u64) -> usize {
        let samples = self.dataset.len() as u64;
        let pass = n / samples;
        if self.order.0 != pass {
            self.order = (pass, shuffled(self.dataset.len(), self.seed, pass));
        }
        self.order.1[(n % samples) as usize]
    }
}

/// Held-out images: a selection with as many of each class as of any other, fixed by the seed.
pub(crate) fn held_out(
    config: &DatasetConfig,
    base: &Path,
    preprocess: &[Transform],
    takes: Takes,
    (samples, seed): (Option<usize>, u64),
    device: &Device,
) -> Result<Batch> {
    let pointer = "/data/held_out";
    let (dataset, labels) = open(config, base, preprocess, takes, pointer)?;
    let selection = Selection {
        samples,
        offset: 0,
        stratified: true,
    };
    let chosen = dataset.select(&selection, seed)?;
    let mut values = Vec::with_capacity(chosen.len() * takes.shape.iter().product::<usize>());
    for &index in &chosen {
        let image = transform(preprocess, dataset.sample(index)?.image)?;
        expect_shape(image.shape(), takes.shape, pointer)?;
        values.extend_from_slice(image.data());
    }
    let [c, h, w] = takes.shape;
    Ok(Batch {
        images: Tensor::from_floats(&values, &[chosen.len(), c, h, w], device)?,
        labels: chosen.iter().map(|&index| labels[index]).collect(),
    })
}

fn open(
    config: &DatasetConfig,
    base: &Path,
    preprocess: &[Transform],
    takes: Takes,
    pointer: &str,
) -> Result<(Dataset, Vec<usize>)> {
    let dataset = Dataset::open(config, base)?;
    let Some(labels) = dataset.labels() else {
        return Err(DataError::Unlabelled {
            path: dataset.location().to_owned(),
        }
        .into());
    };
    let labels: Vec<usize> = labels.iter().map(|&label| label as usize).collect();
    let highest = labels.iter().copied().max().unwrap_or_default();
    if highest >= takes.classes {
        let message = format!(
            "has label {highest}, but the model has {} classes",
            takes.classes
        );
        return Err(Error::invalid(pointer, message));
    }
    // One look, so that a wrong shape is told before the run starts.
    let image = transform(preprocess, dataset.sample(0)?.image)?;
    expect_shape(image.shape(), takes.shape, pointer)?;
    Ok((dataset, labels))
}

fn expect_shape(found: [usize; 3], expected: [usize; 3], pointer: &str) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let message = format!(
        "gives images of {found:?} after `/data/preprocess`, but the model takes {expected:?}"
    );
    Err(Error::invalid(pointer, message))
}

/// The numbers below `samples` in the order of one pass (Fisher and Yates).
fn shuffled(samples: usize, seed: u64, pass: u64) -> Vec<usize> {
    let mut rng = keyed_rng(
        "training order",
        &[&seed.to_le_bytes(), &pass.to_le_bytes()],
    );
    let mut order: Vec<usize> = (0..samples).collect();
    for last in (1..samples).rev() {
        let range = Uniform::new_inclusive(0, last as u64).expect("0 is not above `last`");
        order.swap(last, range.sample(&mut rng) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pass_holds_every_sample_in_its_own_order() {
        let passes: Vec<_> = (0..3).map(|pass| shuffled(50, 7, pass)).collect();
        for pass in &passes {
            let mut sorted = pass.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..50).collect::<Vec<_>>());
        }
        assert_ne!(passes[0], passes[1]);
        assert_ne!(passes[0], shuffled(50, 8, 0));
        assert_eq!(passes[2], shuffled(50, 7, 2));
    }
}

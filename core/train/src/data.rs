//! Batches of training images in an order that is a function of the seed, and held-out images as one tensor.

use std::path::Path;

use dtta_data::{
    DataError, Dataset, DatasetConfig, Image, Maps, Selection, Transform, augment, keyed_rng,
    transform,
};
use dtta_tensor::{Device, Tensor};
use rand_distr::{Distribution, Uniform};

use crate::config::DataConfig;
use crate::error::{Error, Result};

/// Some images with what is known about them.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    /// `[B, C, H, W]`, preprocessed.
    pub images: Tensor,
    /// The class of each image; empty where maps are learned.
    pub labels: Vec<usize>,
    /// The maps of each image.
    pub maps: Vec<Maps>,
}

/// Training images. Sample `n` of the run is the same whatever came before: each pass over the dataset has a shuffle of its own.
pub(crate) struct TrainingData {
    config: DataConfig,
    dataset: Dataset,
    labels: Vec<usize>,
    takes: Takes,
    seed: u64,
    /// A pass and its order; the last one used.
    order: (u64, Vec<usize>),
}

/// What a model takes: images of a shape, and what it learns from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Takes {
    pub shape: [usize; 3],
    pub target: Target,
}

/// What a model learns from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// A class for each image, of so many.
    Classes(usize),
    /// A class for each pixel, of so many. A map that has to `cover` has the extents of the model's images.
    Masks { classes: usize, cover: bool },
    /// A distance for each pixel.
    Depths { cover: bool },
}

impl TrainingData {
    pub fn open(config: &DataConfig, base: &Path, takes: Takes, seed: u64) -> Result<Self> {
        let (dataset, labels) = open(&config.training, base, config, takes, "/data/training")?;
        let order = (0, shuffled(dataset.len(), seed, 0));
        Ok(Self {
            config: config.clone(),
            dataset,
            labels,
            takes,
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
        let mut collected = Collected::default();
        for n in 0..size {
            let index = self.index(step as u64 * size as u64 + n as u64);
            let sample = self.dataset.sample(index)?;
            let (image, maps) = augment(
                &self.config.augmentation,
                sample.image,
                sample.maps,
                &mut rng,
            );
            let label = self.labels.get(index).copied();
            collected.add(
                image,
                maps,
                label,
                &self.config,
                self.takes,
                "/data/training",
            )?;
        }
        collected.finish(self.takes.shape, device)
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

/// Held-out images: a selection fixed by the seed, with as many of each class as of any other where images have classes.
pub(crate) fn held_out(
    dataset: &DatasetConfig,
    base: &Path,
    config: &DataConfig,
    takes: Takes,
    (samples, seed): (Option<usize>, u64),
    device: &Device,
) -> Result<Batch> {
    let pointer = "/data/held_out";
    let (dataset, labels) = open(dataset, base, config, takes, pointer)?;
    let selection = Selection {
        samples,
        offset: 0,
        stratified: matches!(takes.target, Target::Classes(_)),
    };
    let chosen = dataset.select(&selection, seed)?;
    let mut collected = Collected::default();
    for &index in &chosen {
        let sample = dataset.sample(index)?;
        let label = labels.get(index).copied();
        collected.add(sample.image, sample.maps, label, config, takes, pointer)?;
    }
    collected.finish(takes.shape, device)
}

/// A batch in the making.
#[derive(Default)]
struct Collected {
    values: Vec<f32>,
    labels: Vec<usize>,
    maps: Vec<Maps>,
}

impl Collected {
    fn add(
        &mut self,
        image: Image,
        maps: Maps,
        label: Option<usize>,
        config: &DataConfig,
        takes: Takes,
        pointer: &str,
    ) -> Result<()> {
        let image = transform(&config.preprocess, image)?;
        takes.expect(image.shape(), &maps, pointer)?;
        let mut pixels = image.into_data();
        if let Some(target) = config.standardize {
            target.apply(&mut pixels);
        }
        self.values.extend(pixels);
        self.labels.extend(label);
        self.maps.push(maps);
        Ok(())
    }

    fn finish(self, [c, h, w]: [usize; 3], device: &Device) -> Result<Batch> {
        Ok(Batch {
            images: Tensor::from_floats(&self.values, &[self.maps.len(), c, h, w], device)?,
            labels: self.labels,
            maps: self.maps,
        })
    }
}

impl Takes {
    /// Refuses an image, or a map over it, of another shape.
    fn expect(&self, found: [usize; 3], maps: &Maps, pointer: &str) -> Result<()> {
        if found != self.shape {
            let message = format!(
                "gives images of {found:?} after `/data/preprocess`, but the model takes {:?}",
                self.shape
            );
            return Err(Error::invalid(pointer, message));
        }
        let (extents, cover) = match self.target {
            Target::Classes(_) => return Ok(()),
            Target::Masks { cover, .. } => (maps.mask.as_ref().map(|mask| mask.shape()), cover),
            Target::Depths { cover } => (maps.depth.as_ref().map(|depth| depth.shape()), cover),
        };
        let [_, height, width] = self.shape;
        match extents {
            None => Err(Error::invalid(pointer, "has a sample without a map")),
            Some(found) if cover && found != [height, width] => {
                let message = format!(
                    "has maps of {found:?} (height, width), but the model answers for {:?}; resize in the dataset's `transforms`",
                    [height, width]
                );
                Err(Error::invalid(pointer, message))
            }
            Some([rows, columns]) if rows < height || columns < width => {
                let message = format!(
                    "has maps of {:?} (height, width), coarser than the denoiser's images of {:?}",
                    [rows, columns],
                    [height, width]
                );
                Err(Error::invalid(pointer, message))
            }
            Some(_) => Ok(()),
        }
    }
}

fn open(
    dataset: &DatasetConfig,
    base: &Path,
    config: &DataConfig,
    takes: Takes,
    pointer: &str,
) -> Result<(Dataset, Vec<usize>)> {
    let dataset = Dataset::open(dataset, base)?;
    let labels = match takes.target {
        Target::Classes(classes) => class_labels(&dataset, classes, pointer)?,
        Target::Masks { .. } | Target::Depths { .. } => {
            expect_maps(&dataset, &config.preprocess, takes.target, pointer)?;
            Vec::new()
        }
    };
    // One look, so that a wrong shape is told before the run starts.
    let sample = dataset.sample(0)?;
    let image = transform(&config.preprocess, sample.image)?;
    takes.expect(image.shape(), &sample.maps, pointer)?;
    Ok((dataset, labels))
}

fn class_labels(dataset: &Dataset, classes: usize, pointer: &str) -> Result<Vec<usize>> {
    let Some(labels) = dataset.labels() else {
        return Err(DataError::Unlabelled {
            path: dataset.location().to_owned(),
        }
        .into());
    };
    let labels: Vec<usize> = labels.iter().map(|&label| label as usize).collect();
    let highest = labels.iter().copied().max().unwrap_or_default();
    if highest >= classes {
        let message = format!("has label {highest}, but the model has {classes} classes");
        return Err(Error::invalid(pointer, message));
    }
    Ok(labels)
}

fn expect_maps(
    dataset: &Dataset,
    preprocess: &[Transform],
    target: Target,
    pointer: &str,
) -> Result<()> {
    let [masks, depths] = dataset.has_maps();
    let (found, name) = match target {
        Target::Depths { .. } => (depths, "depth maps"),
        _ => (masks, "masks"),
    };
    if !found {
        return Err(Error::invalid(
            pointer,
            format!("has no {name}, which the model learns from"),
        ));
    }
    if let Target::Masks { classes, .. } = target
        && dataset.class_names().len() != classes
    {
        let names = dataset.class_names().len();
        let message = format!("has {names} class names, but the model has {classes} classes");
        return Err(Error::invalid(pointer, message));
    }
    if let Some(n) = preprocess.iter().position(|step| !step.keeps_borders()) {
        let message = "moves the image away from its map; put it into the dataset's `transforms`";
        return Err(Error::invalid(&format!("/data/preprocess/{n}"), message));
    }
    Ok(())
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

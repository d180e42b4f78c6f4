//! Batches of training images in an order that is a function of the seed, and held-out images as one tensor.

use std::path::Path;

use dtta_base::{TargetType, expect_memory, keyed_rng};
use dtta_data::{
    CLASS, DataError, Dataset, DatasetConfig, Image, LabelMap, NumberMap, Selection, Target,
    Targets, Transform, View, augment,
};
use dtta_tensor::{Device, Tensor};
use rand_distr::{Distribution, Uniform};

use crate::config::DataConfig;
use crate::error::{Error, Result};

/// Some images with what is known about them.
#[derive(Debug, Clone)]
pub(crate) struct Examples {
    /// What each image is called.
    pub ids: Vec<String>,
    /// `[B, C, H, W]`, preprocessed.
    pub images: Tensor,
    /// The class of each image; empty where maps are learned.
    pub labels: Vec<usize>,
    /// What is known of each image.
    pub targets: Vec<Targets>,
    /// The target that is learned, by name.
    pub name: String,
}

impl Examples {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// The label maps that are learned.
    pub fn label_maps(&self) -> impl Iterator<Item = &LabelMap> {
        let found = self.targets.iter().filter_map(|t| t.get(&self.name));
        found.filter_map(Target::labels)
    }

    /// The number maps that are learned.
    pub fn number_maps(&self) -> impl Iterator<Item = &NumberMap> {
        let found = self.targets.iter().filter_map(|t| t.get(&self.name));
        found.filter_map(Target::numbers)
    }
}

/// Training images. Sample `n` of the run is the same whatever came before: each pass over the dataset has a shuffle of its own.
pub(crate) struct TrainingData {
    config: DataConfig,
    dataset: Dataset,
    takes: Takes,
    /// The target that is learned.
    name: String,
    seed: u64,
    /// A pass and its order; the last one used.
    order: (u64, Vec<usize>),
}

/// What a model takes: images of a shape, and what it learns from.
#[derive(Debug, Clone)]
pub(crate) struct Takes {
    pub shape: [usize; 3],
    pub target: TargetType,
    /// Of classes: how many.
    pub classes: Option<usize>,
    /// Whether a map has the extents of the model's images; it is finer or as fine otherwise.
    pub cover: bool,
    /// The target's name; the only one of its type in the dataset, if absent.
    pub name: Option<String>,
}

impl Takes {
    /// The name of the target in a dataset.
    fn resolve(&self, dataset: &Dataset, pointer: &str) -> Result<String> {
        let held = dataset.target_types();
        let fits = |name: &&String| held[*name].fits(self.target);
        if let Some(name) = &self.name {
            return match held.get(name) {
                Some(_) if fits(&name) => Ok(name.clone()),
                Some(other) => Err(Error::invalid(
                    "/task/target",
                    format!(
                        "`{name}` of `{pointer}` is a {other}, the model learns a {}",
                        self.target
                    ),
                )),
                None => Err(Error::invalid(
                    pointer,
                    format!("has no `{name}`, which the model learns from"),
                )),
            };
        }
        let found: Vec<&String> = held.keys().filter(fits).collect();
        match found[..] {
            [name] => Ok(name.clone()),
            [] if !self.target.is_map() => Err(DataError::Unlabelled {
                path: dataset.location().to_owned(),
            }
            .into()),
            [] => {
                let message = format!("has no {}, which the model learns from", self.target);
                Err(Error::invalid(pointer, message))
            }
            _ => {
                let message = format!(
                    "is missing: several targets of `{pointer}` fit ({found:?}); name one of them"
                );
                Err(Error::invalid("/task/target", message))
            }
        }
    }
}

impl TrainingData {
    pub fn open(config: &DataConfig, base: &Path, takes: Takes, seed: u64) -> Result<Self> {
        let (dataset, name) = open(&config.training, base, config, &takes, "/data/training")?;
        let order = (0, shuffled(dataset.len(), seed, 0));
        Ok(Self {
            config: config.clone(),
            dataset,
            takes,
            name,
            seed,
            order,
        })
    }

    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    pub fn len(&self) -> usize {
        self.dataset.len()
    }

    /// The digest of every image with its targets.
    pub fn digest(&self) -> Result<String> {
        Ok(self.dataset.digest()?)
    }

    /// The images of `step`.
    pub fn batch(&mut self, step: usize, size: usize, device: &Device) -> Result<Examples> {
        let key = [self.seed.to_le_bytes(), (step as u64).to_le_bytes()];
        let mut rng = keyed_rng("training augmentation", &[&key[0], &key[1]]);
        let pixels = self.takes.shape.iter().product();
        let what = format!("a batch of {size} images");
        expect_memory(&what, [size, pixels, size_of::<f32>()])?;
        let mut collected = Collected::default();
        for n in 0..size {
            let index = self.index(step as u64 * size as u64 + n as u64);
            let sample = self.dataset.sample(index)?;
            let (image, targets) = augment(
                &self.config.augmentation,
                sample.image,
                sample.targets,
                &mut rng,
            );
            collected.ids.push(sample.id);
            collected.add(
                (image, targets),
                &self.config,
                (&self.takes, &self.name),
                "/data/training",
            )?;
        }
        collected.finish(self.takes.shape, self.name.clone(), device)
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

/// Held-out images and where they are from: a selection fixed by the seed, with as many of each class as of any other where images have
/// classes, or all.
pub(crate) fn held_out(
    dataset: &DatasetConfig,
    base: &Path,
    config: &DataConfig,
    takes: &Takes,
    (samples, seed): (Option<usize>, u64),
    device: &Device,
) -> Result<(Examples, Dataset)> {
    let pointer = "/data/held_out";
    let (dataset, name) = open(dataset, base, config, takes, pointer)?;
    let selection = Selection {
        samples,
        offset: 0,
        stratified: name == CLASS && samples.is_some(),
    };
    let chosen = dataset.select(&selection, seed)?;
    let mut collected = Collected::default();
    for &index in &chosen {
        let sample = dataset.sample(index)?;
        collected.ids.push(sample.id);
        let sample = (sample.image, sample.targets);
        collected.add(sample, config, (takes, &name), pointer)?;
    }
    Ok((collected.finish(takes.shape, name, device)?, dataset))
}

/// A batch in the making.
#[derive(Default)]
struct Collected {
    ids: Vec<String>,
    values: Vec<f32>,
    labels: Vec<usize>,
    targets: Vec<Targets>,
}

impl Collected {
    fn add(
        &mut self,
        (image, targets): (Image, Targets),
        config: &DataConfig,
        (takes, name): (&Takes, &str),
        pointer: &str,
    ) -> Result<()> {
        let image = config.view().see(image)?;
        takes.expect(image.shape(), &targets, name, pointer)?;
        self.values.extend(image.into_data());
        if let Some(class) = targets.get(name).and_then(Target::class) {
            self.labels.push(takes.expect_class(class, pointer)?);
        }
        self.targets.push(targets);
        Ok(())
    }

    fn finish(self, [c, h, w]: [usize; 3], name: String, device: &Device) -> Result<Examples> {
        Ok(Examples {
            ids: self.ids,
            images: Tensor::from_floats(&self.values, &[self.targets.len(), c, h, w], device)?,
            labels: self.labels,
            targets: self.targets,
            name,
        })
    }
}

impl Takes {
    /// Refuses a class that the model does not know.
    fn expect_class(&self, class: u32, pointer: &str) -> Result<usize> {
        let class = class as usize;
        match self.classes {
            Some(classes) if class >= classes => {
                let message = format!("has label {class}, but the model has {classes} classes");
                Err(Error::invalid(pointer, message))
            }
            _ => Ok(class),
        }
    }

    /// Refuses an image, or a map over it, of another shape.
    fn expect(
        &self,
        found: [usize; 3],
        targets: &Targets,
        name: &str,
        pointer: &str,
    ) -> Result<()> {
        if found != self.shape {
            let message = format!(
                "gives images of {found:?} after `/data/preprocess`, but the model takes {:?}",
                self.shape
            );
            return Err(Error::invalid(pointer, message));
        }
        if !self.target.is_map() {
            return Ok(());
        }
        let cover = self.cover;
        let [_, height, width] = self.shape;
        match targets.get(name).and_then(Target::extents) {
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
    takes: &Takes,
    pointer: &str,
) -> Result<(Dataset, String)> {
    let dataset = Dataset::open(dataset, base)?;
    let name = takes.resolve(&dataset, pointer)?;
    // A folder that lost a class would move the labels of all after it.
    let names = dataset.class_names().len();
    if let Some(classes) = takes.classes.filter(|&classes| classes != names) {
        let message = format!("has {names} class names, but the model has {classes} classes");
        return Err(Error::invalid(pointer, message));
    }
    if takes.target.is_map() {
        expect_still(&config.preprocess)?;
    }
    // One look, so that a wrong shape is told before the run starts.
    let sample = dataset.sample(0)?;
    let image = config.view().see(sample.image)?;
    takes.expect(image.shape(), &sample.targets, &name, pointer)?;
    Ok((dataset, name))
}

impl DataConfig {
    /// How the model sees an image.
    fn view(&self) -> View {
        View {
            steps: self.preprocess.clone(),
            standardize: self.standardize,
        }
    }
}

/// Refuses to move an image away from its map.
fn expect_still(preprocess: &[Transform]) -> Result<()> {
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

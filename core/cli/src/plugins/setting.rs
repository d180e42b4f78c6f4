//! What a plugin is tried on where an experiment says it: the shapes that its models and its head give.

use std::path::Path;

use anyhow::{Context as _, Result};
use dtta::Document;
use dtta_models::{ModelFiles, TOKENS};
use dtta_plugin::{Environment, SlotSpec, Values};
use dtta_tensor::{Device, Kind, Named, Storage, Tensor};
use dtta_testkit::{Inputs, TensorSpec};

use crate::experiment::extensions;

/// Images that the plugin is called with.
const IMAGES: usize = 2;

/// Classes of a backbone that reads what they are, where the experiment names none.
const CLASSES: usize = 5;

/// Inputs of the shapes that roles meet in the experiment in `file`.
pub(super) fn of_experiment(file: &Path) -> Result<Inputs> {
    let extensions = extensions();
    let document = Document::load(file, &[], &extensions.methods)?;
    let (base, experiment) = (document.base(), &document.experiment);
    let device = Device::cpu();
    let files = |source: &dtta::ModelSource| -> Result<_> {
        let config = source.config_from(base)?;
        let files = ModelFiles::find(&config, source.weights_from(base).as_deref())?;
        Ok((config, files.weights))
    };
    let (config, weights) = files(&experiment.models.backbone)?;
    let (backbone, theta) = extensions
        .models
        .load_backbone(&config, Some(&weights), &device)?;
    let prompts = experiment.models.prompts.as_ref();
    let named = prompts.and_then(|prompts| prompts.classes.as_ref());
    // Where texts say what the classes are, as many as the experiment names, or a few.
    let classes = match backbone.text_space() {
        Some(_) => named.map_or(CLASSES, Vec::len),
        None => backbone.spec().outputs,
    };
    let mut environment = Environment::new(device.clone());
    environment.constants = backbone.constants(&theta)?;
    if let (Some(_), Some(width)) = (prompts, backbone.text_space()) {
        let texts = Tensor::full(&[classes, width], 0.1, &device)?;
        environment.constants.push("text-features", texts);
    }
    let mut inputs = Inputs::default();
    if let Some(source) = &experiment.models.denoiser {
        let (config, weights) = files(source)?;
        let (denoiser, phi) = extensions
            .models
            .load_denoiser(&config, Some(&weights), &device)?;
        for (name, constant) in denoiser.constants(&phi)?.iter() {
            environment.constants.push(name, constant.clone());
        }
        let tokens = denoiser.slots().iter().find(|slot| slot.name == TOKENS);
        if let (Some(_), Some(slot)) = (prompts, tokens) {
            let shape = [&[classes], &slot.shape[..]].concat();
            let texts = Tensor::full(&shape, 0.1, &device)?;
            environment.constants.push("text-embeddings", texts);
        }
        let slots = denoiser.slots().iter();
        inputs.slots = slots
            .map(|slot| SlotSpec {
                name: slot.name.clone(),
                meaning: slot.meaning.clone(),
                shape: std::iter::once(None)
                    .chain(slot.shape.iter().copied().map(Some))
                    .collect(),
            })
            .collect();
    }
    let classes = classes as i64;
    inputs.constants = specs(&environment.constants, classes)?;
    let [channels, height, width] = backbone.spec().image;
    let images = Tensor::full(&[IMAGES, channels, height, width], 0.0, &device)?;
    let features = backbone.forward(&theta, &images, experiment.adaptation.batch_norm)?;
    inputs.features = specs(&features, classes)?;

    let source = &experiment.plugins.head;
    let head = extensions.plugins.find(&source.plugin, base);
    let plugin = head.context("the experiment's head")?;
    let mut head = plugin.head(&source.config, &environment)?;
    let kept = head.values().iter().map(|value| match value.storage {
        Storage::Parameter => Tensor::full(&value.shape, 0.0, &device)?.to_leaf(),
        _ => Tensor::full(&value.shape, 1.0, &device),
    });
    let mut values = Values::new(kept.collect::<Result<_, _>>()?);
    let outputs = head.forward(&features, &mut values)?;
    inputs.outputs = specs(&outputs, classes)?;
    let predictions = head.predict(&outputs)?;
    inputs.predictions = specs(&predictions, classes)?;
    let name = plugin.predicts().map(|predicts| predicts.name.clone());
    let known = name.and_then(|name| {
        let spec = inputs.predictions.get(&name)?.clone();
        Some((name, spec))
    });
    inputs.targets.extend(known);
    Ok(inputs)
}

/// Kinds and shapes; what lies in [0, 1] stays there.
fn specs(named: &Named, classes: i64) -> Result<std::collections::BTreeMap<String, TensorSpec>> {
    let spec = |(name, tensor): (&str, &Tensor)| {
        let shape: Vec<usize> = tensor.shape().iter().copied().collect();
        let spec = match tensor.kind() {
            Kind::Float => {
                let is_share = |value: &f32| (0.0..=1.0).contains(value);
                match tensor.to_floats()?.iter().all(is_share) {
                    true => TensorSpec::shares(&shape),
                    false => TensorSpec::floats(&shape),
                }
            }
            _ => TensorSpec::ints(&shape, classes),
        };
        Ok((name.to_owned(), spec))
    };
    named.iter().map(spec).collect()
}

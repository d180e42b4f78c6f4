//! An adapter from its parts, whether an experiment names them or a program brings them.

use std::path::PathBuf;

use dtta_base::Issue;
use dtta_data::View;
use dtta_models::{Backbone, CLASS_EMBEDDINGS, Denoiser, Encoder, Lora, Weights};
use dtta_plugin::{Plugin, SlotSpec};
use dtta_tensor::Named;
use serde_json::Value;

use super::lora::{self, Asked};
use super::{Devices, ModelView, Views};
use crate::adapter::Adapter;
use crate::document::within;
use crate::error::{Error, Result};
use crate::experiment::{AdaptationConfig, LimitsConfig};
use crate::methods::{AnyConfig, Guarded, Setting, Toolbox};
use crate::task::TaskModel;
use crate::values;

/// What an adapter is made of.
pub(crate) struct Parts<'a> {
    pub devices: &'a Devices,
    pub backbone: (Box<dyn Backbone>, Weights),
    pub denoiser: Option<(Box<dyn Denoiser>, Weights)>,
    /// Factors of low rank that backbone and denoiser were given.
    pub adapters: [Option<Lora>; 2],
    /// What plugins may ask for by name beside what the models have, on the task model's device.
    pub constants: Named,
    /// Goes with the denoiser, and is where it is.
    pub encoder: Option<(Box<dyn Encoder>, Weights)>,
    pub head: Part,
    /// Goes with the denoiser.
    pub mapper: Option<Part>,
    /// With their weights.
    pub objectives: Vec<(Part, f64)>,
    /// What one call of a plugin may use.
    pub limits: &'a LimitsConfig,
    pub method: &'a dyn AnyConfig,
    pub adaptation: &'a AdaptationConfig,
    pub seed: u64,
    /// Samples of each domain; empty where there is no stream.
    pub segments: &'a [usize],
    /// How the two models see an image.
    pub views: [View; 2],
    /// The library whose configuration says how the task model does, where nothing else does.
    pub published: Option<&'static str>,
}

/// A plugin in a role.
pub(crate) struct Part {
    pub plugin: Plugin,
    pub config: Value,
    /// A file of the values that it declares.
    pub weights: Option<PathBuf>,
}

/// Puts the parts together. What does not fit is told by pointers of an experiment, which `refuse` makes an error of.
pub(crate) fn assemble(parts: Parts<'_>, refuse: &dyn Fn(Vec<Issue>) -> Error) -> Result<Adapter> {
    let Devices {
        task,
        denoiser: far,
    } = parts.devices.clone();
    let (backbone, mut theta) = parts.backbone;
    let of_task = Asked {
        parameters: parts.method.parameters(),
        pointer: "/method/parameters",
        model: "backbone",
        seed: parts.seed,
    };
    let [beside_theta, beside_phi] = parts.adapters;
    let factors = lora::factors(&of_task, beside_theta, &mut theta, refuse)?;
    let mut moved = [factors.clone(), None];
    let (backbone, mut theta) = match factors {
        Some(factors) => factors.on_backbone((backbone, theta))?,
        None => (backbone, theta),
    };
    let of_denoiser = Asked {
        parameters: parts.method.denoiser_parameters(),
        pointer: "/method/denoiser/parameters",
        model: "denoiser",
        ..of_task
    };
    let denoiser = match parts.denoiser {
        None => None,
        Some((denoiser, mut phi)) => {
            let factors = lora::factors(&of_denoiser, beside_phi, &mut phi, refuse)?;
            moved[1].clone_from(&factors);
            Some(match factors {
                Some(factors) => factors.on_denoiser((denoiser, phi))?,
                None => (denoiser, phi),
            })
        }
    };
    let mut environment = parts.limits.environment(task.clone());
    let of_backbone = backbone.constants(&theta)?;
    if let Some((denoiser, phi)) = &denoiser {
        // Mappers compute where the task model does.
        let constants = denoiser.constants(phi)?;
        environment.constants = constants.try_map(|constant| constant.to_device(&task))?;
        let classes = environment.constants.get(CLASS_EMBEDDINGS);
        let (found, own) = (
            classes.map(|table| table.shape()[0]),
            backbone.spec().outputs,
        );
        if let Some(found) = found.filter(|&found| found != own && own != 0) {
            let message = format!("the backbone has {own} classes, the denoiser {found}");
            return Err(refuse(vec![Issue::new("/models", message)]));
        }
    }
    for constants in [of_backbone, parts.constants] {
        for (name, constant) in constants.iter() {
            environment.constants.push(name, constant.clone());
        }
    }
    let mut keep = |part: &Part, declared: &[dtta_plugin::ValueSpec]| {
        let (name, file) = (part.plugin.name(), part.weights.as_deref());
        values::join(&mut theta, name, declared, file, parts.seed, &task)
    };
    let head = parts.head.plugin.head(&parts.head.config, &environment)?;
    let head_places = keep(&parts.head, head.values())?;
    let predicts = parts.head.plugin.predicts().cloned();
    let (mut mapper, mut mapper_places) = (None, Vec::new());
    if let (Some((denoiser, _)), Some(part)) = (&denoiser, &parts.mapper) {
        let made = part
            .plugin
            .mapper(&part.config, &slots(&**denoiser), &environment)?;
        mapper_places = keep(part, made.values())?;
        mapper = Some(made);
    }
    let spec = *backbone.spec();
    let patches = backbone.reconstruction().map(|decoder| decoder.patches());
    let shape = spec.image;
    let statistics = parts.adaptation.batch_norm;
    let mut model = TaskModel::new(backbone, head, statistics, predicts)
        .with_values(head_places, mapper_places);
    if let Some(mapper) = mapper {
        model = model.with_mapper(mapper);
    }
    for (part, weight) in &parts.objectives {
        let objective = part.plugin.objective(&part.config, &environment)?;
        model = model.with_objective(objective, *weight);
    }
    let setting = Setting {
        seed: parts.seed,
        adaptation: parts.adaptation,
        backbone: spec,
        patches,
        task: &theta,
        denoiser: denoiser.as_ref().map(|(denoiser, phi)| (&**denoiser, phi)),
        objectives: parts.objectives.len(),
        segments: parts.segments,
    };
    let method = parts.method.build(&setting);
    let mut method = method.map_err(|issues| refuse(within("/method", issues)))?;
    if let Some(safeguards) = parts.adaptation.safeguards {
        let guarded = Guarded::boxed(safeguards, method, &setting);
        method = guarded.map_err(|issues| refuse(within("/adaptation/safeguards", issues)))?;
    }
    let [of_task, of_denoiser] = parts.views;
    let latent = denoiser
        .as_ref()
        .map(|(denoiser, _)| denoiser.image_shape());
    let seen = match (latent, &parts.encoder) {
        (Some(latent), Some((encoder, _))) => {
            let image = encoder.image_shape(latent).map_err(|error| {
                let told = dtta_base::told(&error);
                let message = format!("does not make what the denoiser takes: {told}");
                refuse(vec![Issue::new("/models/encoder", message)])
            });
            Some(image?)
        }
        (latent, _) => latent,
    };
    let views = Views {
        task: ModelView {
            encoder: None,
            latents: None,
            steps: of_task,
            shape,
            device: task,
            pointer: "/models/backbone/preprocess",
            published: parts.published,
        },
        denoiser: seen.map(|shape| ModelView {
            encoder: parts.encoder,
            latents: None,
            steps: of_denoiser,
            shape,
            device: far,
            pointer: "/models/denoiser/preprocess",
            published: None,
        }),
    };
    let tools = Toolbox::new(model, theta, denoiser);
    Ok(Adapter::seeing(tools, method, views).moving(moved))
}

/// A denoiser's slots as mappers hear of them: the batch is open.
fn slots(denoiser: &dyn Denoiser) -> Vec<SlotSpec> {
    let slots = denoiser.slots().iter();
    slots
        .map(|slot| SlotSpec {
            name: slot.name.clone(),
            meaning: slot.meaning.clone(),
            shape: std::iter::once(None)
                .chain(slot.shape.iter().copied().map(Some))
                .collect(),
        })
        .collect()
}

//! One look at the first sample, to learn that the parts of an experiment fit one another.

use dtta_base::{TargetType, expect_memory};
use dtta_data::{Stream, Target};
use dtta_models::LOGITS;
use dtta_plugin::Predicts;

use crate::adapter::Adapter;
use crate::document::Document;
use crate::error::Result;
use crate::report::Scorer;
use crate::sinks::can_picture;

/// Predicts the first sample, and says what the head predicts.
pub(super) fn check(
    document: &Document,
    stream: &Stream,
    adapter: &mut Adapter,
) -> Result<Predicts> {
    let item = stream.item(0)?;
    let views = adapter.views();
    let views = views.expect("an experiment's adapter has its views");
    let longest = stream.order().segments().into_iter().max();
    let rows = document
        .experiment
        .adaptation
        .batch
        .min(longest.unwrap_or(1));
    let pixels = |shape: [usize; 3]| shape.iter().product::<usize>();
    let seen = views.denoiser.as_ref().map_or(0, |view| pixels(view.shape));
    let each = pixels(item.image.shape()) + pixels(views.task.shape) + seen;
    let what = format!("a batch of {rows} images");
    expect_memory(&what, [rows, each, size_of::<f32>()])?;
    let image = views.task(&[&item.image], document)?;
    views.denoiser(&[&item.image], document)?;
    let found = adapter.predict_source(&image)?;
    let task = adapter.tools().task();
    let classes = task.backbone().spec().outputs;
    let predicts = task.predicts().map(|predicts| (**predicts).clone());
    let predicts = predicts.expect("a head that has predicted is known");

    if let Some(space) = &document.experiment.models.label_space
        && !stream.class_names().is_empty()
        && let Some(problem) = space.problem(stream.class_names(), document.base())?
    {
        return Err(document.refusal("/models/label_space", problem));
    }
    let names = stream.class_names().len();
    let of_classes = !matches!(predicts.target, TargetType::NumberMap { .. });
    if of_classes && names != 0 && classes != 0 && names != classes {
        let message = format!("it has {classes} classes, the dataset {names}");
        let pointer = match task.backbone().text_space() {
            Some(_) => "/models/prompts",
            None => "/models/backbone",
        };
        return Err(document.refusal(pointer, message));
    }
    if classes == 0 && matches!(predicts.target, TargetType::ClassIndex {}) {
        let outputs = adapter.tools().source_outputs(&image, false)?;
        let answered = outputs.get(LOGITS).map(|logits| logits.shape()[1]);
        if let Some(answered) = answered.filter(|&found| names != 0 && found != names) {
            let message = format!(
                "answers with {answered} logits, the dataset has {names} classes; a backbone without a classifier needs a head that is one, such as `linear`"
            );
            return Err(document.refusal("/plugins/head", message));
        }
    }
    if document.experiment.output.pictures > 0 && !can_picture(&predicts) {
        let message = format!(
            "there is nothing to draw: the head predicts `{}`, a {}, and its descriptor defines no picture for it",
            predicts.name, predicts.target
        );
        return Err(document.refusal("/output/pictures", message));
    }
    if let Some(held) = stream.target_types().get(&predicts.name)
        && !held.fits(predicts.target)
    {
        let message = format!(
            "its `{0}` is a {held}, the head predicts `{0}` as a {1}",
            predicts.name, predicts.target
        );
        return Err(document.refusal("/data/dataset", message));
    }
    if !predicts.target.is_map() {
        return Ok(predicts);
    }
    let target = item.targets.get(&predicts.name).and_then(Target::extents);
    let map = found.named.get(&predicts.name);
    if let (Some(target), Some(map)) = (target, map) {
        let shape = map.shape();
        let predicted = &shape[shape.rank() - 2..];
        if predicted != target {
            let message = format!(
                "predictions are {predicted:?} (height, width), the dataset's `{}` {target:?}; give the dataset `transforms` that bring them there",
                predicts.name
            );
            return Err(document.refusal("/models/backbone", message));
        }
    }
    let models = &document.experiment.models;
    let sources = [
        ("backbone", Some(&models.backbone)),
        ("denoiser", models.denoiser.as_ref()),
    ];
    for (name, source) in sources {
        let steps = source.into_iter().flat_map(|source| &source.preprocess);
        if let Some(n) = steps.into_iter().position(|step| !step.keeps_borders()) {
            let message =
                "moves the image away from its map; put it into the dataset's `transforms`";
            let pointer = format!("/models/{name}/preprocess/{n}");
            return Err(document.refusal(&pointer, message));
        }
    }
    Ok(predicts)
}

/// The core's metric, for an experiment that names none: it counts classes of images.
pub(super) fn core_scorer(
    document: &Document,
    predicts: &Predicts,
    stream: &Stream,
) -> Result<Scorer> {
    let counts =
        matches!(predicts.target, TargetType::ClassIndex {}) && predicts.name == dtta_data::CLASS;
    if !counts && stream.target_types().contains_key(&predicts.name) {
        let message = format!("is missing: the core has no metric for `{}`", predicts.name);
        return Err(document.refusal("/plugins/metric", message));
    }
    Ok(Scorer::core())
}

//! What a head would have given if it were right: the outputs from which a mapper makes the condition of the truth.

use dtta_base::TargetType;
use dtta_plugin::Predicts;
use dtta_tensor::{Device, Named, Tensor};

use crate::error::Result;

/// Logits of what is certain: the softmax of these and zeros is one-hot in single precision.
const CERTAIN: f64 = 100.0;

/// Task outputs that say what is true. What is not known of a pixel stays as the source model has it; an output that no truth is known
/// for is left out.
pub(super) fn true_outputs(predicts: &Predicts, outputs: &Named, target: &Tensor) -> Result<Named> {
    let mut truth = Named::new();
    if let TargetType::NumberMap { .. } = predicts.target {
        if let Some(tensor) = outputs.get(&predicts.name) {
            let known = known_numbers(predicts, target)?;
            truth.push(predicts.name.clone(), target.choose(&known, tensor)?);
        }
        return Ok(truth);
    }
    for (name, certain) in [("logits", CERTAIN), ("probabilities", 1.0)] {
        let Some(tensor) = outputs.get(name) else {
            continue;
        };
        let mut hot = one_hot(target, tensor)?.affine(certain, 0.0)?;
        if predicts.target.is_map() {
            hot = hot.choose(&labelled(target, tensor)?, tensor)?;
        }
        truth.push(name, hot);
    }
    Ok(truth)
}

/// Where numbers are known, in the shape of `target`: not every channel holds the mark of what is not.
fn known_numbers(predicts: &Predicts, target: &Tensor) -> Result<Tensor> {
    let (channels, invalid) = match predicts.target {
        TargetType::NumberMap { channels, invalid } => (channels, invalid as f32),
        _ => (1, 0.0),
    };
    let shape = target.shape();
    let values = target.to_floats()?;
    let pixels: usize = shape.elements() / shape[0] / channels;
    let flags: Vec<f32> = (0..values.len())
        .map(|place| {
            let (image, pixel) = (place / (channels * pixels), place % pixels);
            let at = |channel: usize| values[(image * channels + channel) * pixels + pixel];
            let known = (0..channels).any(|channel| at(channel) != invalid);
            f32::from(u8::from(known))
        })
        .collect();
    Ok(Tensor::from_floats(&flags, &shape, target.device())?.greater_scalar(0.5)?)
}

/// Labels `[B, …]` as ones and zeros in the shape of `like`, `[B, classes, …]`; a label that is not a class is all zeros.
fn one_hot(labels: &Tensor, like: &Tensor) -> Result<Tensor> {
    let (shape, classes) = (like.shape(), like.shape()[1]);
    let inner: usize = shape[2..].iter().product();
    let mut values = vec![0.0; shape.elements()];
    for (place, label) in labels.to_ints()?.into_iter().enumerate() {
        if let Some(label) = usize::try_from(label).ok().filter(|&label| label < classes) {
            values[(place / inner * classes + label) * inner + place % inner] = 1.0;
        }
    }
    Ok(Tensor::from_floats(&values, &shape, like.device())?)
}

/// Where labels `[B, H, W]` are classes, in the shape of `like`, `[B, classes, H, W]`.
fn labelled(labels: &Tensor, like: &Tensor) -> Result<Tensor> {
    let device: &Device = like.device();
    let shape = like.shape();
    let classes = shape[1] as i64;
    let flags: Vec<f32> = labels
        .to_ints()?
        .into_iter()
        .map(|label| f32::from(u8::from((0..classes).contains(&label))))
        .collect();
    let flags = Tensor::from_floats(&flags, &[shape[0], 1, shape[2], shape[3]], device)?;
    Ok(flags.expand(&shape)?.greater_scalar(0.5)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_replaces_what_is_known_and_nothing_else() {
        let device = Device::cpu();
        let predicts = |name: &str, target| Predicts {
            name: name.into(),
            target,
            picture: None,
        };
        let labels_of = predicts("labels", TargetType::LabelMap { ignore: 255 });
        let numbers = TargetType::NumberMap {
            channels: 1,
            invalid: 0.0,
        };
        let depth_of = predicts("depth", numbers);
        let outputs = Named::from(vec![
            (
                "probabilities".into(),
                Tensor::full(&[1, 2, 1, 3], 0.5, &device).unwrap(),
            ),
            (
                "features".into(),
                Tensor::full(&[1, 4], 0.0, &device).unwrap(),
            ),
        ]);
        let labels = Tensor::from_ints(&[1, 255, 0], &[1, 1, 3], &device).unwrap();
        let truth = true_outputs(&labels_of, &outputs, &labels).unwrap();
        assert_eq!(truth.len(), 1);
        assert_eq!(
            truth.get("probabilities").unwrap().to_floats().unwrap(),
            [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]
        );
        let outputs = Named::one("depth", Tensor::full(&[1, 1, 2], 7.0, &device).unwrap());
        let depth = Tensor::from_floats(&[3.0, 0.0], &[1, 1, 2], &device).unwrap();
        let truth = true_outputs(&depth_of, &outputs, &depth).unwrap();
        assert_eq!(truth.get("depth").unwrap().to_floats().unwrap(), [3.0, 7.0]);
    }
}

//! Losses of class logits that methods share, each `[B]`.

use dtta_tensor::{Named, Tensor};

use crate::error::{Error, Result};

/// The head's logits, `[B, K]` or `[B, K, H, W]`.
///
/// # Errors
/// [`Error::Outputs`] if it has none.
pub(super) fn logits(outputs: &Named) -> Result<&Tensor> {
    outputs.get("logits").ok_or_else(|| Error::Outputs {
        role: "head",
        found: format!("{:?}", outputs.names().collect::<Vec<_>>()),
        expected: "the method reads `logits`".into(),
    })
}

/// The entropy of each image's prediction, in nats, averaged over pixels where there are any.
pub(super) fn entropy(logits: &Tensor) -> Result<Tensor> {
    let log = logits.log_softmax(1)?;
    of_images(&log.exp()?.mul(&log)?)
}

/// -Σ_k q_k log p_k, with q from the logits `target` and p from `logits`, averaged over pixels where there are any.
pub(super) fn cross_entropy(target: &Tensor, logits: &Tensor) -> Result<Tensor> {
    of_images(&target.softmax(1)?.mul(&logits.log_softmax(1)?)?)
}

/// Minus the sum over classes, averaged over pixels where there are any.
fn of_images(terms: &Tensor) -> Result<Tensor> {
    let each = terms.sum(&[1], false)?.affine(-1.0, 0.0)?;
    let rows = [each.shape()[0] as i64, -1];
    Ok(each.reshape(&rows)?.mean(&[1], false)?)
}

/// -log p of the most probable class: the cross-entropy with the model's own label.
pub(super) fn of_own_label(logits: &Tensor) -> Result<Tensor> {
    Ok(logits
        .log_softmax(1)?
        .amax(&[1], false)?
        .affine(-1.0, 0.0)?)
}

/// Σ w l / `count`: with weights of 0 and 1 and their number, the mean over the chosen.
pub(super) fn weighed(each: &Tensor, weights: &[f32], count: f64) -> Result<Tensor> {
    let weights = Tensor::from_floats(weights, &[weights.len()], each.device())?;
    Ok(each
        .mul(&weights)?
        .sum(&[], false)?
        .affine(1.0 / count, 0.0)?)
}

/// Class probabilities of each image.
pub(super) fn probabilities(logits: &Tensor) -> Result<Vec<Vec<f32>>> {
    let rows = logits.detach().softmax(1)?;
    let classes = rows.shape()[1];
    let values = rows.to_floats()?;
    Ok(values.chunks(classes).map(<[f32]>::to_vec).collect())
}

/// The same outputs with other logits, and with their softmax where there are `probabilities`.
///
/// # Errors
/// Whatever a tensor operation refuses.
pub(super) fn with_logits(outputs: &Named, logits: &Tensor) -> Result<Named> {
    let each = outputs.iter().map(|(name, tensor)| {
        let tensor = match name {
            "logits" => logits.clone(),
            "probabilities" => logits.softmax(1)?,
            _ => tensor.clone(),
        };
        Ok((name.to_owned(), tensor))
    });
    each.collect()
}

/// The logit of what is certain, for mappers: the softmax of it and zeros is one-hot in single precision.
const CERTAIN: f32 = 100.0;

/// Outputs for mappers that say that the class of each pair (image, class) is certain, of those that the head has.
///
/// # Errors
/// [`Error::Outputs`] for outputs without logits.
pub(super) fn certain(pairs: &[(usize, usize)], classes: usize, outputs: &Named) -> Result<Named> {
    let device = logits(outputs)?.device();
    let mut values = vec![0.0; pairs.len() * classes];
    for (row, &(_, class)) in pairs.iter().enumerate() {
        values[row * classes + class] = CERTAIN;
    }
    let logits = Tensor::from_floats(&values, &[pairs.len(), classes], device)?;
    let known = outputs
        .iter()
        .filter(|(name, _)| ["logits", "probabilities"].contains(name));
    let known: Named = known
        .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
        .collect();
    with_logits(&known, &logits)
}

#[cfg(test)]
mod tests {
    use dtta_tensor::Device;

    use super::*;

    #[test]
    fn other_logits_have_their_own_probabilities() {
        let of = |values: &[f32]| Tensor::from_floats(values, &[1, 2], &Device::cpu()).unwrap();
        let (old, new) = (of(&[1.0, 2.0]), of(&[0.0, 0.0]));
        let outputs: Named = [
            ("logits", &old),
            ("probabilities", &old),
            ("features", &old),
        ]
        .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
        .into_iter()
        .collect();
        let found = with_logits(&outputs, &new).unwrap();
        let floats = |name: &str| found.get(name).unwrap().to_floats().unwrap();
        assert_eq!(floats("logits"), [0.0, 0.0]);
        assert_eq!(floats("probabilities"), [0.5, 0.5]);
        assert_eq!(floats("features"), [1.0, 2.0]);
    }
}

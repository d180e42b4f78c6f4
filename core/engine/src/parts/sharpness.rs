//! The two-pass step of sharpness-aware minimisation (Foret et al. 2021, arXiv:2010.01412, equation 2): the gradient that moves the weights
//! is taken where the loss is near its highest within a radius.

use dtta_learn::Learner;
use dtta_models::Weights;
use dtta_tensor::Tensor;

use crate::error::Result;

/// A learner's weights gone ρ along the gradient's direction, ρ g / (‖g‖ + 1e-12), with ‖g‖ over all parameters together.
///
/// # Errors
/// Whatever a tensor operation refuses.
pub(crate) fn climbed(
    learner: &Learner,
    gradients: &[Option<Tensor>],
    radius: f64,
) -> Result<Learner> {
    let mut square = 0.0;
    for gradient in gradients.iter().flatten() {
        square += f64::from(gradient.mul(gradient)?.sum(&[], false)?.item()?);
    }
    let scale = radius / (square.sqrt() + 1e-12);
    let mut high = learner.clone();
    for (&id, gradient) in learner.parameters().iter().zip(gradients) {
        if let Some(gradient) = gradient {
            let weights: &mut Weights = high.weights_mut();
            let moved = weights.get(id).add(&gradient.affine(scale, 0.0)?)?;
            weights.set(id, moved)?;
        }
    }
    Ok(high)
}

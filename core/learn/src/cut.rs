//! The cut between denoiser and task model. The denoiser's gradient is known at the slots; a surrogate scalar whose gradient there is
//! the same carries it on, through mapper and task model, in one backward pass. It is exact: ∂/∂θ Σ c·∂L/∂c = ∂L/∂c · ∂c/∂θ.

use dtta_tensor::{Named, Tensor};

use crate::error::Result;

/// The scalar Σ c·g over the slots, where c is what mapper and task model made, on the tape, and g = ∂L/∂c for the same rows; added to
/// `to` where there is one. Slots that depend on nothing add nothing; `None` if nothing is left.
///
/// # Errors
/// Whatever a tensor operation refuses.
pub fn surrogate(
    to: Option<Tensor>,
    conditioning: &Named,
    gradients: &Named,
) -> Result<Option<Tensor>> {
    let mut sum = to.filter(Tensor::is_tracked);
    for ((_, slot), (_, gradient)) in conditioning.iter().zip(gradients.iter()) {
        if !slot.is_tracked() {
            continue;
        }
        let term = slot.mul(gradient)?.sum(&[], false)?;
        sum = Some(match sum {
            Some(sum) => sum.add(&term)?,
            None => term,
        });
    }
    Ok(sum)
}

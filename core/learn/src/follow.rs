//! Weights that follow other weights.

use dtta_models::Weights;

use crate::error::Result;

/// Takes weights a share of the way to the mean of others, buffers too. What none of them moved stays bit for bit.
///
/// # Errors
/// Whatever a tensor operation refuses.
pub fn approach(weights: &mut Weights, others: &[&Weights], rate: f64) -> Result<()> {
    let each = rate / others.len() as f64;
    for id in weights.ids().collect::<Vec<_>>() {
        let start = weights.get(id).clone();
        let mut moved = start.clone();
        for other in others {
            moved = moved.add(&other.get(id).sub(&start)?.affine(each, 0.0)?)?;
        }
        weights.set(id, moved)?;
    }
    Ok(())
}

//! What many plugins compose from operations.

use crate::error::Result;
use crate::tensor::Tensor;

/// The entropy of the softmax of `logits` along an axis, in nats, that axis gone: `-Σ p log p`.
///
/// # Errors
/// Whatever the host refuses, such as an axis that is none.
pub fn entropy(logits: &Tensor, axis: i32) -> Result<Tensor> {
    let log = logits.log_softmax(axis)?;
    log.exp()?.mul(&log)?.sum(&[axis], false)?.neg()
}

/// The cross-entropy of `logits` `[B, N]` with classes, int `[B]`, for each sample: `[B]`.
///
/// # Errors
/// Whatever the host refuses, such as shapes that do not fit.
pub fn cross_entropy(logits: &Tensor, classes: &Tensor) -> Result<Tensor> {
    let chosen = logits
        .log_softmax(-1)?
        .gather(-1, &classes.unsqueeze(1)?)?
        .squeeze(-1)?;
    chosen.neg()
}

/// The values of `hard` with the gradient of `soft`: `soft + (hard - soft)`, the difference off the tape.
///
/// # Errors
/// Whatever the host refuses.
pub fn straight_through(soft: &Tensor, hard: &Tensor) -> Result<Tensor> {
    soft.add(&hard.sub(soft)?.detach()?)
}

/// Rows of a table `[N, D]`, mixed by weights `[…, N]`: `Σ_j w_j row_j`, `[…, D]`.
///
/// # Errors
/// Whatever the host refuses.
pub fn mix(weights: &Tensor, table: &Tensor) -> Result<Tensor> {
    let shape = weights.shape()?;
    let (classes, features) = (table.shape()?[0], table.shape()?[1]);
    let flat = weights.reshape(&[-1, classes.into()])?.matmul(table)?;
    let mut extents: Vec<i64> = shape.iter().map(|&extent| extent.into()).collect();
    if let Some(last) = extents.last_mut() {
        *last = features.into();
    }
    flat.reshape(&extents)
}

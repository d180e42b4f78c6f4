//! What many plugins compose from operations.

use crate::error::{Error, Result};
use crate::tensor::{PoolOptions, Tensor};

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

/// Images `[B, C, H, W]` resized to `[B, C, height, width]`: each new cell is the mean of what it covers of the old
/// image, cells that it covers in part counting for that part. Whole-number ratios are average pooling; an enlarged
/// image repeats its cells, so its mean is kept too.
///
/// # Errors
/// `shape-mismatch` for another rank, `invalid-argument` for an extent of 0, and whatever the host refuses.
pub fn area_resize(x: &Tensor, height: u32, width: u32) -> Result<Tensor> {
    let shape = x.shape()?;
    let [_, _, rows, columns] = shape[..] else {
        let message = format!("an image to resize has shape {shape:?}, expected [B, C, H, W]");
        return Err(Error::new("shape-mismatch", message));
    };
    if height == 0 || width == 0 {
        let message = format!("an image cannot be resized to {height} x {width}");
        return Err(Error::new("invalid-argument", message));
    }
    if (rows, columns) == (height, width) {
        return x.share();
    }
    if rows % height == 0 && columns % width == 0 {
        let kernel = (rows / height, columns / width);
        return x.avg_pool2d(PoolOptions {
            kernel,
            stride: kernel,
            padding: (0, 0),
        });
    }
    // One matrix product for each axis: [h, H] from the left, [W, w] from the right.
    let down = Tensor::from_floats(&area_weights(rows, height), &[1, 1, height, rows])?;
    let across = Tensor::from_floats(&area_weights(columns, width), &[1, 1, width, columns])?;
    down.matmul(x)?.matmul(&across.permute(&[0, 1, 3, 2])?)
}

/// How much each of `from` cells counts in each of `to` cells over the same length, row by row; rows sum to 1.
fn area_weights(from: u32, to: u32) -> Vec<f32> {
    let (from, to) = (u64::from(from), u64::from(to));
    let weight = |new: u64, old: u64| {
        // In units of 1 / to, where all borders are whole numbers.
        let start = (new * from).max(old * to);
        let end = ((new + 1) * from).min((old + 1) * to);
        (end.saturating_sub(start) as f64 / from as f64) as f32
    };
    (0..to)
        .flat_map(|new| (0..from).map(move |old| weight(new, old)))
        .collect()
}

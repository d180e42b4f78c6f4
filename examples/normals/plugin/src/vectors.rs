//! Vectors for each pixel, `[B, 3, H, W]`: what head, mapper and metric ask of them.

use dtta_sdk::prelude::*;

/// Refuses a tensor that holds something else than three numbers for each pixel.
pub(crate) fn expect_vectors(name: &str, x: &Tensor) -> Result<()> {
    let shape = x.shape()?;
    if matches!(shape[..], [_, 3, _, _]) {
        return Ok(());
    }
    let message = format!("`{name}` has shape {shape:?}, expected [B, 3, H, W]");
    Err(Error::new("shape-mismatch", message))
}

/// The same directions at length 1; what is shorter than 1e-4 stays shorter than 1.
pub(crate) fn unit(x: &Tensor) -> Result<Tensor> {
    let square = x.mul(x)?.sum(&[1], true)?;
    x.div(&square.clamp(Some(1e-8), None)?.sqrt()?)
}

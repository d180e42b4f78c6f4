//! Structural similarity (Wang et al. 2004, "Image quality assessment: from error visibility to structural
//! similarity").

use dtta_sdk::prelude::*;

/// The extent of the window.
pub(crate) const WINDOW: u32 = 11;

/// The window's standard deviation, in pixels.
const DEVIATION: f64 = 1.5;

/// (0.01 L)² and (0.03 L)², with L = 1 the range of the data.
const C1: f64 = 1e-4;
const C2: f64 = 9e-4;

/// The mean structural similarity of images `[B, 1, H, W]` with values from 0 to 1, `[B]`: over all places of the
/// window within the image, with population variances.
pub(crate) fn ssim(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let (window, weights) = (WINDOW, weights());
    let down = Tensor::from_floats(&weights, &[1, 1, window, 1])?;
    let across = Tensor::from_floats(&weights, &[1, 1, 1, window])?;
    let local_mean = |image: &Tensor| {
        let options = ConvOptions::default();
        image
            .conv2d(&down, None, options)?
            .conv2d(&across, None, options)
    };
    let (mean_x, mean_y) = (local_mean(x)?, local_mean(y)?);
    let (square_x, square_y) = (mean_x.mul(&mean_x)?, mean_y.mul(&mean_y)?);
    let product = mean_x.mul(&mean_y)?;
    let variance_x = local_mean(&x.mul(x)?)?.sub(&square_x)?;
    let variance_y = local_mean(&y.mul(y)?)?.sub(&square_y)?;
    let covariance = local_mean(&x.mul(y)?)?.sub(&product)?;

    let similar = product.affine(2.0, C1)?.mul(&covariance.affine(2.0, C2)?)?;
    let size = square_x.add(&square_y)?.affine(1.0, C1)?;
    let spread = variance_x.add(&variance_y)?.affine(1.0, C2)?;
    similar.div(&size.mul(&spread)?)?.mean(&[1, 2, 3], false)
}

/// One axis of the Gaussian window; the window is the product of two.
fn weights() -> Vec<f32> {
    let middle = f64::from(WINDOW / 2);
    let weight = |place: u32| (-0.5 * ((f64::from(place) - middle) / DEVIATION).powi(2)).exp();
    let sum: f64 = (0..WINDOW).map(weight).sum();
    (0..WINDOW)
        .map(|place| (weight(place) / sum) as f32)
        .collect()
}

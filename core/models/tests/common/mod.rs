#![allow(dead_code, reason = "each test binary uses a part of this module")]

//! How answers and gradients are held to those of a library. Tolerances: largest absolute error 2e-4 for answers (up to 8 in size); 1e-3 of
//! the largest element for gradients.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use dtta_tensor::Tensor;
use flate2::read::GzDecoder;

pub const TOLERANCE: f32 = 2e-4;
pub const RELATIVE: f32 = 1e-3;

/// The largest difference, and the largest element of what was expected.
pub fn difference(found: &Tensor, expected: &Tensor) -> (f32, f32) {
    assert_eq!(*found.shape(), *expected.shape());
    let (found, expected) = (found.to_floats().unwrap(), expected.to_floats().unwrap());
    let pairs = found.iter().zip(&expected);
    let error = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    (error, expected.iter().map(|x| x.abs()).fold(0.0, f32::max))
}

pub fn assert_close(what: &str, found: &Tensor, expected: &Tensor) {
    let (error, size) = difference(found, expected);
    eprintln!("{what}: largest absolute error {error:.1e} of {size:.1}");
    assert!(error <= TOLERANCE, "{what}: {error}");
}

pub fn assert_gradient(what: &str, found: &Tensor, expected: &Tensor) {
    let (error, size) = difference(found, expected);
    let relative = error / size;
    eprintln!("{what}: relative error {relative:.1e}");
    assert!(relative <= RELATIVE, "{what}: {error} of {size}");
}

/// The text of a packed file.
pub fn unpacked(path: &Path) -> String {
    let mut text = String::new();
    let mut file = GzDecoder::new(File::open(path).unwrap());
    file.read_to_string(&mut text).unwrap();
    text
}

//! Plugins as shared libraries, built once for all tests, and what they answer in bits.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use dtta_tensor::{Device, Named, Tensor};

/// The plugins that ship.
pub const SHIPPED: [&str; 9] = [
    "accuracy",
    "classification",
    "depth",
    "entropy",
    "linear",
    "palette-mix",
    "segmentation",
    "text-mix",
    "zero-shot",
];

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// A plugin of this checkout as a library.
pub fn library(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "build",
            "--release",
            "--locked",
            "--features",
            "dtta-sdk/cdylib",
        ]);
        for name in SHIPPED.iter().chain(&["probe"]) {
            cargo.args(["-p", &format!("dtta-plugin-{name}")]);
        }
        let target = root().join("target/native");
        cargo.arg("--target-dir").arg(&target).current_dir(root());
        assert!(
            cargo.status().unwrap().success(),
            "the plugins do not build as libraries"
        );
        target.join("release")
    });
    let name = name.replace('-', "_");
    folder.join(format!(
        "{}dtta_plugin_{name}{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    ))
}

/// Some output, and the gradient of each of its inputs.
pub fn bits(outputs: &Named, leaves: &[&Tensor]) -> Vec<Vec<u32>> {
    let mut sum: Option<Tensor> = None;
    let mut bits = Vec::new();
    for output in outputs.tensors() {
        bits.push(output.to_floats().unwrap());
        let weights: Vec<f32> = (0..output.shape().elements())
            .map(|i| (i as f32).sin())
            .collect();
        let weights = Tensor::from_floats(&weights, &output.shape(), output.device()).unwrap();
        let term = output.mul(&weights).unwrap().sum(&[], false).unwrap();
        sum = Some(sum.map_or(term.clone(), |sum| sum.add(&term).unwrap()));
    }
    let gradients = sum.unwrap().backward().unwrap();
    bits.extend(
        leaves
            .iter()
            .map(|leaf| gradients.of(leaf).unwrap().to_floats().unwrap()),
    );
    bits.iter()
        .map(|values| values.iter().map(|x| x.to_bits()).collect())
        .collect()
}

/// A tracked tensor of some values.
pub fn leaf(shape: &[usize], seed: f32) -> Tensor {
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count)
        .map(|i: usize| (i as f32 * 0.7 + seed).cos())
        .collect();
    Tensor::from_floats(&values, shape, &Device::cpu())
        .unwrap()
        .to_leaf()
        .unwrap()
}

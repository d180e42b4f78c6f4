//! Plugins as shared libraries, built once for all tests.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The plugins that ship.
pub const SHIPPED: [&str; 6] = [
    "accuracy",
    "classification",
    "depth",
    "entropy",
    "linear",
    "segmentation",
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
    folder.join(format!(
        "{}dtta_plugin_{name}{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    ))
}

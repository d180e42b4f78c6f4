//! LibTorch from its Python package, for builds with `--features libtorch`.
//!
//! The package that the index ships for Linux is the CUDA build, and `libtorch.so` in it needs CUDA's
//! libraries, gigabytes of them. A copy without what is CUDA's own serves `libtorch:cpu`: its
//! `libtorch.so` is an empty library in the old one's place, and of CUDA's packages it takes the two
//! small ones that `libtorch_cpu.so` itself is linked to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::process;

/// Of CUDA's packages, what the CPU library is linked to.
const LINKED: [&str; 2] = ["nvidia-cuda-runtime-cu12", "nvidia-cuda-cupti-cu12"];

/// What to install, and where.
#[derive(clap::Args)]
pub struct Arguments {
    /// The folder; about 2 GB, of which the `python` part can be removed afterwards.
    #[arg(default_value = "target/libtorch")]
    pub folder: PathBuf,
    /// The version of the `torch` package. Burn 0.22.1 is made for the default.
    #[arg(long, default_value = "2.9.0")]
    pub version: String,
}

/// Installs LibTorch and prints the environment in which to build and run, as shell commands.
pub fn run(arguments: &Arguments) -> Result<()> {
    if !cfg!(target_os = "linux") {
        bail!(
            "this task knows Linux's packages; elsewhere, set LIBTORCH to the `torch` folder of an installed PyTorch {}",
            arguments.version
        );
    }
    fs::create_dir_all(&arguments.folder)
        .with_context(|| format!("cannot make `{}`", arguments.folder.display()))?;
    let folder = fs::canonicalize(&arguments.folder)?;
    let python = folder.join("python");
    pip(&python, &[format!("torch=={}", arguments.version)])?;
    let torch = python.join("torch");
    let libtorch = if torch.join("lib/libtorch_cuda.so").exists() {
        let metadata = python.join(format!("torch-{}.dist-info/METADATA", arguments.version));
        let metadata = String::from_utf8_lossy(&crate::read(&metadata)?).into_owned();
        pip(&python, &linked(&metadata)?)?;
        without_cuda(&python, &folder.join("cpu"))?
    } else {
        torch
    };
    let mut environment = format!("export LIBTORCH='{}'\n", libtorch.display());
    environment += &format!(
        "export LD_LIBRARY_PATH='{}'\"${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\"\n",
        libtorch.join("lib").display()
    );
    crate::write(&folder.join("environment.sh"), environment.as_bytes())?;
    eprintln!(
        "LibTorch {} is ready. To build with it:\n  . {}\n  cargo build --release --features libtorch",
        arguments.version,
        folder.join("environment.sh").display()
    );
    Ok(())
}

fn pip(target: &Path, packages: &[String]) -> Result<()> {
    process::run(
        Command::new("python3")
            .args(["-m", "pip", "install", "--no-deps", "--upgrade", "--target"])
            .arg(target)
            .args(packages),
    )
    .context("installing with pip; it needs Python 3 with pip, for which PyTorch has a package")
}

/// The packages of [`LINKED`] with the versions that the metadata of `torch` asks for.
fn linked(metadata: &str) -> Result<Vec<String>> {
    LINKED
        .iter()
        .map(|name| {
            metadata
                .lines()
                .filter_map(|line| line.strip_prefix("Requires-Dist: "))
                .filter_map(|line| line.split(';').next())
                .map(str::trim)
                .find(|line| line.split(['=', '<', '>', ' ']).next() == Some(name))
                .map(|line| line.replace(' ', ""))
                .with_context(|| format!("this `torch` package does not ask for `{name}`"))
        })
        .collect()
}

/// A copy of LibTorch at `folder` that runs without CUDA.
fn without_cuda(python: &Path, folder: &Path) -> Result<PathBuf> {
    let torch = python.join("torch");
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove `{}`", folder.display()))?;
    }
    let lib = folder.join("lib");
    fs::create_dir_all(&lib).with_context(|| format!("cannot make `{}`", lib.display()))?;
    for part in ["include", "share"] {
        process::run(
            Command::new("cp")
                .arg("-r")
                .arg(torch.join(part))
                .arg(folder),
        )?;
    }
    for file in files(&torch.join("lib"))? {
        let name = file_name(&file);
        let cuda = ["cuda", "nvrtc", "nvshmem", "python", "windows"];
        if name != "libtorch.so" && !cuda.iter().any(|part| name.contains(part)) {
            fs::copy(&file, lib.join(&name))
                .with_context(|| format!("cannot copy `{}`", file.display()))?;
        }
    }
    for package in ["cuda_runtime", "cuda_cupti"] {
        for file in files(&python.join("nvidia").join(package).join("lib"))? {
            let name = file_name(&file);
            if name.starts_with("libcudart.so") || name.starts_with("libcupti.so") {
                fs::copy(&file, lib.join(&name))
                    .with_context(|| format!("cannot copy `{}`", file.display()))?;
            }
        }
    }
    process::run(
        Command::new("cc")
            .args(["-shared", "-x", "c", "/dev/null", "-o"])
            .arg(lib.join("libtorch.so")),
    )
    .context("making an empty `libtorch.so` with the C compiler")?;
    Ok(folder.into())
}

/// The files of a folder, without its folders.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("cannot list `{}`", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(context)? {
        let path = entry.with_context(context)?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_the_metadata() {
        let metadata = "Name: torch\nRequires-Dist: filelock\n\
            Requires-Dist: nvidia-cuda-runtime-cu12==12.8.90; platform_system == \"Linux\"\n\
            Requires-Dist: nvidia-cuda-cupti-cu12 ==12.8.91 ; extra == \"x\"\n";
        let expected = [
            "nvidia-cuda-runtime-cu12==12.8.90",
            "nvidia-cuda-cupti-cu12==12.8.91",
        ];
        assert_eq!(linked(metadata).unwrap(), expected);
        assert!(linked("Name: torch\n").is_err());
    }
}

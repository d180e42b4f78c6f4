//! The Python wheel: built, installed into an environment of its own, and tested there.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::process;

/// The oldest Python that the wheel is for.
const OLDEST: (u32, u32) = (3, 11);

/// What a wheel may take.
const MOST_BYTES: u64 = 25_000_000;

/// What the tests need.
const PACKAGES: [&str; 6] = [
    "maturin>=1.9,<2",
    "pytest>=8",
    "mypy>=1.15",
    "numpy>=2.1",
    "nanoarrow>=0.6",
    "typing_extensions",
];

/// What those of networks of PyTorch need beside it, and those of frames.
const TORCH: [&str; 9] = [
    "torch>=2.6",
    "torchvision",
    "diffusers",
    "timm",
    "transformers",
    "pandas>=2.2",
    "polars>=1.20",
    "pyarrow>=18",
    "duckdb>=1.1",
];

/// How to test.
#[derive(clap::Args)]
pub struct Arguments {
    /// Also installs PyTorch, torchvision, diffusers, timm, transformers, pandas, Polars, PyArrow and DuckDB, and runs the tests that need them:
    /// gigabytes, unless pip is told of an index with PyTorch for the CPU alone.
    #[arg(long)]
    torch: bool,
    /// The Python to make the environment with; the first of `python3` and `python3.11` to `python3.15` that is new enough if absent.
    #[arg(long, value_name = "PROGRAM")]
    python: Option<PathBuf>,
}

/// Builds the wheel, installs it and runs its tests.
pub fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let found = match &arguments.python {
        Some(program) => is_new_enough(program.as_os_str()).then(|| program.clone()),
        None => find(),
    };
    let program = found.with_context(|| {
        let (major, minor) = OLDEST;
        format!("no Python {major}.{minor} or newer was found; name one with `--python`")
    })?;
    test(root, &program, arguments.torch)
}

/// As a part of the check: with what any machine can install in a minute, and only where there is a Python that the wheel is for.
pub fn check(root: &Path) -> Result<()> {
    let Some(program) = find() else {
        let (major, minor) = OLDEST;
        eprintln!(
            "      left out: no Python {major}.{minor} or newer with `venv` is here, and nothing but the wheel needs one"
        );
        return Ok(());
    };
    test(root, &program, false)
}

fn find() -> Option<PathBuf> {
    let names = ["python3".to_owned()].into_iter();
    let names = names.chain((OLDEST.1..=15).map(|minor| format!("python3.{minor}")));
    names
        .map(PathBuf::from)
        .find(|name| is_new_enough(name.as_os_str()))
}

/// Whether it is a Python that the wheel is for, and can make environments.
fn is_new_enough(program: &OsStr) -> bool {
    let (major, minor) = OLDEST;
    let code =
        format!("import sys, venv, ensurepip; sys.exit(sys.version_info < ({major}, {minor}))");
    let output = Command::new(program).args(["-c", &code]).output();
    output.is_ok_and(|output| output.status.success())
}

fn test(root: &Path, program: &Path, torch: bool) -> Result<()> {
    // The command of the same build, to compare with.
    let command = process::dtta(root)?;
    let project = root.join("sdk/python");
    let place = root.join("target/python");
    let venv = place.join("venv");
    let python = venv.join(match cfg!(windows) {
        true => "Scripts/python.exe",
        false => "bin/python",
    });
    if !python.exists() {
        process::run(Command::new(program).args(["-m", "venv"]).arg(&venv))?;
    }
    let pip = |arguments: &[&str]| {
        let install = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ];
        process::run(Command::new(&python).args(install).args(arguments))
    };
    pip(&PACKAGES)?;
    if torch {
        pip(&TORCH)?;
    }
    let wheels = place.join("wheels");
    if wheels.exists() {
        fs::remove_dir_all(&wheels)?;
    }
    let mut maturin = Command::new(&python);
    maturin
        .args(["-m", "maturin", "build", "--release", "--locked", "--quiet"])
        .arg("--interpreter")
        .arg(&python)
        .arg("--out")
        .arg(&wheels)
        .current_dir(&project);
    process::run(&mut maturin)?;
    let wheel = wheel(&wheels)?;
    let bytes = fs::metadata(&wheel)?.len();
    let megabytes = bytes as f64 / 1e6;
    eprintln!("      {}: {megabytes:.1} MB", wheel.display());
    ensure!(
        bytes <= MOST_BYTES,
        "the wheel has {megabytes:.1} MB, more than {} MB",
        MOST_BYTES / 1_000_000
    );
    let reinstall = ["--force-reinstall", "--no-deps"];
    pip(&[&reinstall[..], &[&*wheel.to_string_lossy()]].concat())?;
    let in_project = |module: &str, arguments: &[&str]| {
        let mut run = Command::new(&python);
        run.args(["-m", module])
            .args(arguments)
            .env("DTTA_COMMAND", command.get_program())
            .current_dir(&project);
        if torch {
            run.env("DTTA_PYTHON_TORCH", "1");
        }
        process::run(&mut run)
    };
    in_project("pytest", &["-q", "-rs", "-p", "no:cacheprovider"])?;
    in_project("mypy.stubtest", &["dtta._dtta"])?;
    if torch {
        in_project("mypy", &["--strict", "tests/typed.py"])?;
    }
    Ok(())
}

/// The only wheel in a folder.
fn wheel(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    let mut wheels = entries.into_iter().map(|entry| entry.path());
    let wheel = wheels.find(|path| path.extension() == Some(OsStr::new("whl")));
    wheel.with_context(|| format!("no wheel in `{}`", folder.display()))
}
